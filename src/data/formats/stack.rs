//! The images that parsers of array files return.

/// The most bytes that a file may expand to in memory: enough for more than a million images of 32×32 in colour.
pub(in crate::data) const MAX_EXPANDED: u64 = 8 << 30;

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

/// What an archive or packed file of `length` bytes may expand to: images don't compress much.
pub(super) fn expansion_limit(length: u64) -> u64 {
    length.saturating_mul(200).max(1 << 30)
}
