//! Loading a data set for a command, with a bar where somebody looks.

use anyhow::Result;
use dcgan::data::{self, Event, ImageSet, Options};

use super::progress::{TaskProgress, say};
use crate::cli::Verbosity;

/// Loads a data set and shows how that goes.
///
/// # Errors
/// As [`data::load`].
pub(super) fn load_with_progress(
    spec: &str,
    options: &Options,
    verbosity: Verbosity,
) -> Result<ImageSet> {
    let mut work = TaskProgress::new(verbosity);
    let set = data::load(spec, options, &mut |event| match event {
        Event::Warning(text) => work.warn(text),
        Event::Fetched(name, bytes, total) => work.bytes(name, bytes, total),
        Event::Files(count) => work.files(count),
        Event::Decoded(count) => work.advance(count),
    });
    drop(work);
    let set = set?;
    let bad = set.findings().bad_count();
    if bad > 0 {
        say(&format!(
            "warning: {bad} images cannot be read and are left out; `dcgan data show {spec} --skip-bad` lists them"
        ));
    }
    Ok(set)
}
