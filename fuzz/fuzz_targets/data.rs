// Includes the program's own parsers by their paths, so that nothing here needs libtorch.
#[path = "../../src/data/idx.rs"]
pub mod idx;
#[path = "../../src/data/mat5.rs"]
pub mod mat5;
#[path = "../../src/data/npy.rs"]
pub mod npy;
#[path = "../../src/data/stack.rs"]
mod stack;

use stack::{MAX_EXPANDED, Stack, expansion_limit};

/// Checks what every parser promises about the images it returns.
pub fn check(stack: &Stack) {
    let Stack { count, height, width, channels, pixels } = stack;
    assert!(*count > 0 && *height > 0 && *width > 0 && (*channels == 1 || *channels == 3));
    assert_eq!(count * height * width * channels, pixels.len());
}
