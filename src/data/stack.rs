//! What the parsers of array files give.

/// What a file may expand to in memory: more than a million images in colour.
pub(super) const MAX_EXPANDED: u64 = 8 << 30;

/// Images of one size, as an array file holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Number of images.
    pub count: usize,
    /// Rows of each.
    pub height: usize,
    /// Columns of each.
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// `[count, height, width, channels]`, upright.
    pub pixels: Vec<u8>,
}
