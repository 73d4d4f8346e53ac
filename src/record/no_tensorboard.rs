//! What stands for TensorBoard's events in a build without the feature `cli`.

use std::path::Path;

use anyhow::Result;

use super::grid::Picture;
use super::histogram::Histogram;

/// Charts that show several scalars each: their titles, and the tags of the scalars.
pub type Charts = Vec<(String, Vec<String>)>;

/// A writer of events, of which there is none in such a build.
#[derive(Debug)]
pub enum TensorBoard {}

impl TensorBoard {
    /// Creates no writer: whoever leaves the feature `cli` out wants no events.
    ///
    /// # Errors
    /// None.
    pub fn create(_folder: &Path) -> Result<Option<Self>> {
        Ok(None)
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
    pub fn histograms(&mut self, _step: u64, _: &[(String, Histogram)]) -> Result<()> {
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
    pub fn layout(&mut self, _step: u64, _categories: &[(&str, Charts)]) -> Result<()> {
        match *self {}
    }

    /// Never called, since there is no such writer.
    ///
    /// # Errors
    /// None.
    pub fn hparams(&mut self, _step: u64, _settings: &toml::Table) -> Result<()> {
        match *self {}
    }

    /// Never called, since there is no such writer.
    ///
    /// # Errors
    /// None.
    pub fn finished(&mut self, _step: u64) -> Result<()> {
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
