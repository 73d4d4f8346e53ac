//! What stands for TensorBoard's events in a build without the feature `cli`.

use std::path::Path;

use anyhow::{Result, bail};

use super::grid::Picture;

/// A writer of events, of which there is none in such a build.
#[derive(Debug)]
pub enum TensorBoard {}

impl TensorBoard {
    /// Says that there is none.
    ///
    /// # Errors
    /// Always.
    pub fn create(_folder: &Path) -> Result<Self> {
        bail!("this build writes no TensorBoard events: it lacks the feature `cli`")
    }

    /// Never called, since there is no such writer.
    ///
    /// # Errors
    /// None.
    pub fn restart(&mut self, _step: u64) -> Result<()> {
        match *self {}
    }

    /// Never called, since there is no such writer.
    ///
    /// # Errors
    /// None.
    pub fn scalars(&mut self, _step: u64, _scalars: &[(&str, f64)]) -> Result<()> {
        match *self {}
    }

    /// Never called, since there is no such writer.
    ///
    /// # Errors
    /// None.
    pub fn image(&mut self, _: u64, _tag: &str, _: &Picture, _png: &[u8]) -> Result<()> {
        match *self {}
    }

    /// Never called, since there is no such writer.
    ///
    /// # Errors
    /// None.
    pub fn text(&mut self, _step: u64, _tag: &str, _markdown: &str) -> Result<()> {
        match *self {}
    }

    /// Never called, since there is no such writer.
    ///
    /// # Errors
    /// None.
    pub fn flush(&mut self) -> Result<()> {
        match *self {}
    }
}
