//! Writes files whole or not at all, and reads and writes files of tensors.

mod atomic;
pub mod own;
pub mod places;
mod tensor_file;

pub(crate) use atomic::UNFINISHED;
pub use atomic::{
    remove, remove_if_there, remove_unfinished, write_atomically, write_bytes, write_streamed,
};
pub use tensor_file::TensorFile;
