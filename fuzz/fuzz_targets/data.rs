// Includes the program's own parsers by their paths, so that nothing here needs libtorch.
#[path = "../../src/data/formats/format.rs"]
mod format;
#[path = "../../src/data/formats/idx.rs"]
pub mod idx;
#[path = "../../src/data/formats/input.rs"]
mod input;
#[path = "../../src/data/formats/mat5.rs"]
pub mod mat5;
#[path = "../../src/data/formats/npy.rs"]
pub mod npy;
#[path = "../../src/data/formats/npz.rs"]
pub mod npz;
#[path = "../../src/data/formats/numbers.rs"]
mod numbers;
#[path = "../../src/data/formats/pickle.rs"]
pub mod pickle;
#[path = "../../src/data/formats/stack.rs"]
mod stack;

use anyhow::Result;

use format::Format;
use input::SourceFile;
use npy::{Range, Reading};
use stack::{MAX_EXPANDED, Stack, expansion_limit};

/// Stands in for the program's.
pub enum Fit {
    Pad,
}

/// Stands in for the program's: no file is read here, only bytes are parsed.
pub struct Sink(Reading);

impl Sink {
    pub fn reading(&self) -> &Reading {
        &self.0
    }

    pub fn warn(&mut self, _: &str) {}

    pub fn stack(&mut self, _: Stack, _: Option<&[String]>) -> Result<()> {
        Ok(())
    }
}

/// Ways in which arrays are read.
pub fn readings() -> [Reading; 3] {
    let range = Some(Range { low: -1.0, high: 1.0 });
    let reshape = Some(vec![3, 2, 2]);
    [
        Reading::default(),
        Reading { range, ..Reading::default() },
        Reading { range, reshape, ..Reading::default() },
    ]
}

/// Checks what every parser promises about the images it returns.
pub fn check(stack: &Stack) {
    let Stack { count, height, width, channels, pixels } = stack;
    assert!(*count > 0 && *height > 0 && *width > 0 && (*channels == 1 || *channels == 3));
    assert_eq!(count * height * width * channels, pixels.len());
}
