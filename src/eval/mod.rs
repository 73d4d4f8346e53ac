//! How good generated images are.

pub mod neighbours;
