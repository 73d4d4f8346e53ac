//! Writes files whole or not at all, and reads and writes files of tensors.

mod atomic;
pub mod own;
pub mod places;
mod tensor_file;
mod unfinished;

pub use atomic::{
    remove, remove_if_there, remove_unfinished, scratch_beside, write_atomically, write_bytes,
    write_streamed,
};
pub use tensor_file::TensorFile;
pub use unfinished::{
    UNFINISHED, Unfinished, let_the_size_limit_be_an_error, remove_all_unfinished,
};
