//! Loading a data set for a command, with a bar where somebody looks.

use anyhow::Result;
use dcgan::data::{self, Event, ImageSet, Options};
use dcgan::error::Usage;
use dcgan::shape::ImageSize;

use super::output::shell_quoted;
use super::progress::{TaskProgress, say};
use crate::cli::{DataArgs, Verbosity};

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
            "warning: {bad} images cannot be read and are left out; `dcgan data show {} --skip-bad --max-bad 100` lists them",
            shell_quoted(spec)
        ));
    }
    Ok(set)
}

/// How the data set `spec` is read beside the images of a model, which have the size `of_model`.
///
/// # Errors
/// [`Usage`], if `--image-size` asks for another size; as [`DataArgs::resolve`].
pub(super) fn options_for_model(
    args: &DataArgs,
    spec: &str,
    of_model: ImageSize,
) -> Result<Options> {
    let options = args.resolve(spec, None)?.data();
    // `auto` is the model's size here.
    if let Some(asked) = options.size.filter(|_| args.given().contains_key("image-size")) {
        ensure_size(asked, of_model)?;
    }
    Ok(Options { size: Some(of_model), ..options })
}

fn ensure_size(asked: ImageSize, of_model: ImageSize) -> Result<(), Usage> {
    if asked == of_model {
        return Ok(());
    }
    Err(Usage(format!("--image-size {asked}: the model's images have the size {of_model}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_another_size_than_the_models_are_refused() {
        let (asked, of_model) = (ImageSize { width: 64, height: 48 }, ImageSize::REFERENCE);
        assert_eq!(ensure_size(of_model, of_model), Ok(()));
        let told = ensure_size(asked, of_model).unwrap_err().to_string();
        assert_eq!(told, "--image-size 64x48: the model's images have the size 32");
    }
}
