//! Loading a data set for a command, with a bar where somebody looks.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use dcgan::data::spec::absolute;
use dcgan::data::{self, Event, ImageSet, Options};
use dcgan::error::Usage;
use dcgan::sample::Sampler;
use dcgan::settings::{SETTINGS, TrainConfig, resolve_on, shown};
use dcgan::shape::ImageSize;

use super::output::shell_quoted;
use super::progress::{TaskProgress, say};
use crate::cli::{DataArgs, Verbosity};

/// What images of so many channels are, in a sentence.
pub(super) fn colours(channels: usize) -> &'static str {
    if channels == 1 { "gray" } else { "in colour" }
}

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
        Event::NoCache(why) => without_cache(why),
        Event::Fetched(name, bytes, total) => work.bytes(name, bytes, total),
        Event::Files(count) => work.files(count),
        Event::Decoded(count) => work.advance(count),
    });
    drop(work);
    let set = set?;
    let bad = set.findings().bad_count();
    if bad > 0 {
        let mut flags = String::new();
        for (flag, value) in [
            ("image-size", options.size.map_or("auto".to_owned(), |size| size.to_string())),
            ("channels", options.channels.map_or(String::new(), |channels| channels.to_string())),
            ("fit", options.fit.as_ref().map_or(String::new(), shown)),
            (
                "range",
                options
                    .range
                    .map_or(String::new(), |range| format!("{},{}", range.low, range.high)),
            ),
        ] {
            if !value.is_empty() && (flag, &*value) != ("image-size", "32") {
                flags += &format!(" --{flag} {value}");
            }
        }
        say(&format!(
            "warning: {bad} images cannot be read and are left out; `dcgan data show {}{flags} --skip-bad --max-bad 100` lists them",
            shell_quoted(spec)
        ));
    }
    Ok(set)
}

/// Says once why nothing is kept in a cache.
pub(super) fn without_cache(why: &str) {
    static IS_SAID: AtomicBool = AtomicBool::new(false);
    if !IS_SAID.swap(true, Ordering::Relaxed) {
        say(&format!("note: nothing is kept for next time: {why}"));
    }
}

/// How the data set `spec` is read beside the images of the model that `sampler` makes images with: as in its training if
/// it was trained on that set, but for what the flags say.
///
/// # Errors
/// [`Usage`], if `--image-size` asks for another size; as [`DataArgs::resolve`].
pub(super) fn options_for_model(
    args: &DataArgs,
    spec: &str,
    sampler: &Sampler,
    verbosity: Verbosity,
) -> Result<Options> {
    let of_model = sampler.shape().size;
    let is_own = |config: &&TrainConfig| match (absolute(&config.dataset), absolute(spec)) {
        (Ok(own), Ok(asked)) => own == asked,
        _ => false,
    };
    let options = match sampler.config().filter(is_own) {
        None => {
            if let Some(config) = sampler.config() {
                let told = unlike_default(config, &args.given())?;
                if !told.is_empty() && verbosity > Verbosity::Quiet {
                    say(&format!(
                        "note: `{spec}` is not where the model was trained; its {told} are not used"
                    ));
                }
            }
            args.resolve(spec, None)?.data()
        }
        Some(config) => {
            let told = unlike_default(config, &args.given())?;
            if !told.is_empty() && verbosity > Verbosity::Quiet {
                say(&format!("reading `{spec}` as in training: {told}"));
            }
            resolve_on(config, args.given())?.data()
        }
    };
    // `auto` is the model's size here.
    if let Some(asked) = options.size.filter(|_| args.given().contains_key("image-size")) {
        ensure_size(asked, of_model)?;
    }
    Ok(Options { size: Some(of_model), ..options })
}

/// The flags by which `config` decides how its data set is read, where they are not the defaults, and were not `given`.
fn unlike_default(config: &TrainConfig, given: &toml::Table) -> Result<String> {
    let (ours, defaults) =
        (toml::Table::try_from(config)?, toml::Table::try_from(TrainConfig::default())?);
    let names = SETTINGS.iter().filter(|setting| setting.reads_data).map(|setting| &setting.name);
    // The size is that of the model anyway.
    let names = names.filter(|name| *name != "image-size" && !given.contains_key(*name));
    let told = names.filter_map(|name| {
        let value = ours.get(name).filter(|value| defaults.get(name) != Some(value))?;
        Some(format!("--{name} {}", shown(value)))
    });
    Ok(told.collect::<Vec<_>>().join(" "))
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
