//! From a data set's name to its images.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::cache::{self, Builder, Description, Pixels};
use super::fetch::RetryPolicy;
use super::findings::{Deep, Findings};
use super::fit::{Decoding, Fit};
use super::formats::builtin::{self, DIGITS};
use super::formats::npy::{Range, Reading};
use super::formats::{Format, SourceFile, ensure_of_format};
use super::remarks;
use super::set::ImageSet;
use super::sink::Sink;
use super::spec::Spec;
use crate::error::{Fixable, SettingError};
use crate::files::places;
use crate::shape::ImageSize;

/// How a data set is read, and which part of it is taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Width and height that every image is brought to; `None` for the images' own, which must be the same of all.
    pub size: Option<ImageSize>,
    /// 1 or 3 channels; where it is left open, 3 if any image is in colour.
    pub channels: Option<usize>,
    /// For images of another size; where it is left open, the format decides.
    pub fit: Option<Fit>,
    /// What is behind transparent pixels: red, green, blue.
    pub background: [u8; 3],
    /// What is black and what is white in arrays of numbers other than unsigned bytes.
    pub range: Option<Range>,
    /// The shape of each image in an array of rows.
    pub reshape: Option<Vec<usize>>,
    /// Whether rows and columns of each image of an array change places.
    pub transpose: bool,
    /// The classes whose images are taken; all where the list is empty.
    pub classes: Vec<String>,
    /// At most so many images, chosen by the seed.
    pub limit: Option<usize>,
    /// Whether images that cannot be read are left out.
    pub skip_bad: bool,
    /// How many images may be left out so at most, in percent of all.
    pub max_bad: f64,
    /// Chooses the images of `limit`.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            size: Some(ImageSize::default()),
            channels: None,
            fit: None,
            background: [0; 3],
            range: None,
            reshape: None,
            transpose: false,
            classes: Vec::new(),
            limit: None,
            skip_bad: false,
            max_bad: 5.0,
            seed: 0,
        }
    }
}

/// What loading tells while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Something that the user should know.
    Warning(&'a str),
    /// There is no cache for decoded images, for this reason.
    NoCache(&'a str),
    /// A file is fetched: its name, bytes there, bytes in all.
    Fetched(&'a str, u64, Option<u64>),
    /// The number of image files that will be decoded.
    Files(usize),
    /// How many more of the image files have been decoded.
    Decoded(usize),
}

/// The data set that `spec` names.
///
/// # Errors
/// [`SettingError`], if there is none of that name or no class of one asked for. If a file cannot be read
/// or fetched; if images are damaged, unless they are to be skipped and are few.
pub fn load(spec: &str, options: &Options, tell: &mut dyn FnMut(Event)) -> Result<ImageSet> {
    load_through(places::cache_home().ok().as_deref(), spec, options, tell)
}

/// Says why images that were decoded are not kept in `folder`, the cache folder, if it is known.
fn tell_no_cache(folder: Option<&Path>, tell: &mut dyn FnMut(Event)) {
    let known = folder.map_or_else(places::cache_home, |folder| Ok(folder.to_path_buf()));
    if let Err(error) = known.and_then(|folder| places::ensure_cache(&folder)) {
        tell(Event::NoCache(&format!("{error:#}")));
    }
}

/// As [`load`], with the folder of all caches, where there is one.
fn load_through(
    cache_home: Option<&Path>,
    spec: &str,
    options: &Options,
    tell: &mut dyn FnMut(Event),
) -> Result<ImageSet> {
    let usage = |message: String| anyhow!(SettingError::of_value("dataset", spec, message));
    let parsed: Spec = spec.parse().map_err(usage)?;
    ensure_has_effect(&parsed, options)?;
    let set = if is_plain_digits(&parsed, options) {
        builtin::digits()?
    } else {
        let context = || format!("data set {spec}");
        let (pixels, description) =
            checked(cache_home, parsed, options, tell).with_context(context)?;
        ImageSet::stored(spec, pixels, description)
    };
    let set = set.of_classes(&options.classes).map_err(usage)?;
    Ok(set.limited(options.limit, options.seed))
}

/// Whether the settings that are for arrays only are given for one.
fn ensure_has_effect(spec: &Spec, options: &Options) -> Result<(), SettingError> {
    let format = match spec {
        Spec::Local(format, _) => *format,
        Spec::Public(collection, _) => collection.format,
    };
    // Arrays that may hold any numbers may also hold rows of them.
    let takes_rows = format.holds_arrays() && format.takes_range();
    for (setting, is_idle, expected) in [
        ("reshape", options.reshape.is_some() && !takes_rows, "npy, npz or mat"),
        ("transpose", options.transpose && !format.holds_arrays(), "arrays"),
    ] {
        if is_idle {
            let found = format.name();
            let problem = format!("expected a data set of {expected}, found one of {found}");
            return Err(SettingError::new(setting, problem));
        }
    }
    Ok(())
}

/// Whether the built-in digits are asked for as they are made without the cache: that costs less than
/// looking there.
fn is_plain_digits(spec: &Spec, options: &Options) -> bool {
    matches!(spec, Spec::Local(format, _) if format.name() == DIGITS)
        && options.size == Some(ImageSize::REFERENCE)
        && options.channels != Some(3)
        && !options.transpose
        && options.fit.is_none_or(|fit| fit == Fit::Pad)
}

/// The images of `spec`, if what was found in its files lets them be trained on. Tells what else the user should know.
fn checked(
    cache_home: Option<&Path>,
    spec: Spec,
    options: &Options,
    tell: &mut dyn FnMut(Event),
) -> Result<(Pixels, Description)> {
    let mut source = Source::find(spec, tell)?;
    // Runs that come and go change neither the set nor the name of its file in the cache.
    let runs: Vec<_> = source.files.extract_if(.., |file| file.is_run()).collect();
    let format = source.format;
    let decoding = Decoding {
        size: options.size,
        channels: options.channels,
        fit: options.fit.unwrap_or(format.natural_fit()),
        background: options.background,
    };
    let (pixels, mut description) = decoded(cache_home, source, decoding, options, tell)?;
    let findings = &mut description.findings;
    runs.iter().for_each(|run| findings.own.add(&run.name));
    let total = description.identity.images;
    check_bad(findings, total, options)?;
    check_foreign(findings, total, options)?;
    ensure!(total > 0, "no images{}", remarks::what_else(findings));
    check_depth(findings, options)?;
    for remark in remarks::of(findings, &decoding, description.identity.channels) {
        tell(Event::Warning(&remark));
    }
    if options.range.is_some() && format.holds_image_files() && findings.deep.is_none() {
        tell(Event::Warning("the setting `range` has no effect: no image has 16 bits a value"));
    }
    Ok((pixels, description))
}

/// Whether files of kinds that are not read are few beside the images that are.
fn check_foreign(findings: &Findings, good: usize, options: &Options) -> Result<()> {
    let told = remarks::of_foreign(findings).join("\n  ");
    // Where there is nothing else, leaving them out is no way.
    ensure!(good > 0 || findings.foreign_count() == 0, "no images{}", remarks::what_else(findings));
    ensure!(
        options.skip_bad || findings.foreign_count() <= good,
        Fixable::UnreadableImages(format!(
            "{} files are of kinds that are not read, more than the {good} images that are\n  {told}",
            findings.foreign_count()
        ))
    );
    Ok(())
}

/// Whether images of 16 bits a value use more than an eighth of them. If they don't, they most likely hold fewer bits,
/// and would be nearly black.
fn check_depth(findings: &Findings, options: &Options) -> Result<()> {
    let Some(Deep { images, least, greatest }) = findings.deep else { return Ok(()) };
    if options.range.is_some() || greatest - least > u16::MAX / 8 {
        return Ok(());
    }
    // Most often the values are of 8, 10 or 12 bits.
    let all_bits = (u32::from(greatest) + 1).next_power_of_two().max(256) - 1;
    let (low, high) =
        if all_bits < 1 << 13 { (0, all_bits) } else { (least.into(), greatest.into()) };
    let high = high.max(low + 1);
    let problem = format!(
        "of its images, {images} have 16 bits a value and use only {least} to {greatest} of 65535: nearly one gray; \
         expected the values of black and white, such as {low},{high}, or 0,65535 to take them as they are"
    );
    Err(SettingError::new("range", problem).into())
}

/// Whether images that cannot be read may be left out.
fn check_bad(findings: &Findings, good: usize, options: &Options) -> Result<()> {
    let bad = findings.bad_count();
    if bad == 0 {
        return Ok(());
    }
    let mut told = Vec::new();
    for (reason, examples) in &findings.bad {
        let more = examples.count - examples.names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        told.push(format!("{}{more}: {reason}", examples.names.join(", ")));
    }
    let told = told.join("\n  ");
    let all = good + bad;
    ensure!(
        options.skip_bad,
        Fixable::UnreadableImages(format!("{bad} of {all} images cannot be read\n  {told}"))
    );
    let percent = 100.0 * bad as f64 / all as f64;
    ensure!(
        percent <= options.max_bad,
        Fixable::TooManyUnreadableImages(format!(
            "{bad} of {all} images ({percent:.1} %) cannot be read, more than {} %\n  {told}",
            options.max_bad
        ))
    );
    Ok(())
}

/// What a file of decoded images is made of. It is named for the SHA-256 of this.
#[derive(Serialize)]
struct Key<'a> {
    version: u32,
    format: &'a str,
    decoding: Decoding,
    range: Option<(f64, f64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u32>,
    // What came later has no part in the key where it is not asked for, so that sets keep their files.
    #[serde(skip_serializing_if = "Option::is_none")]
    reshape: Option<&'a [usize]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transpose: Option<bool>,
    root: PathBuf,
    /// Names, lengths and times of change.
    files: Vec<(String, u64, u128)>,
}

/// Of [`Key`], and of the files that are named for it. Version 2 has upright pixels and a size.
const VERSION: u32 = 2;
/// The same of sets of image files. Before version 3, damaged JPEG images were read with gray parts, some TIFF images with
/// wrong values, and it was not noted which files are of kinds that are not read.
const IMAGE_FILES_VERSION: u32 = 3;

/// The images of `source`, from the cache if they are there.
fn decoded(
    cache_home: Option<&Path>,
    source: Source,
    decoding: Decoding,
    options: &Options,
    tell: &mut dyn FnMut(Event),
) -> Result<(Pixels, Description)> {
    let Source { format, root, files } = source;
    let reading = Reading {
        range: options.range.filter(|_| format.takes_range()),
        reshape: options.reshape.clone(),
        transpose: options.transpose,
    };
    let key = Key {
        version: if format.holds_image_files() { IMAGE_FILES_VERSION } else { VERSION },
        format: format.name(),
        decoding,
        range: reading.range.map(|range| (range.low, range.high)),
        revision: format.revision(),
        reshape: reading.reshape.as_deref(),
        transpose: reading.transpose.then_some(true),
        root: root.canonicalize().unwrap_or_default(),
        files: files.iter().map(SourceFile::stamp).collect(),
    };
    let name = hex::encode(Sha256::digest(serde_json::to_vec(&key)?));
    let folder = cache_home.and_then(|home| cache::folder(home).ok());
    let path = folder.as_ref().map(|folder| cache::file(folder, &name[..32]));
    if let Some(path) = &path
        && path.exists()
    {
        match cache::open(path, options.size) {
            Ok(found) => return Ok(found),
            Err(error) => tell(Event::Warning(&format!("{error:#}; it is made again"))),
        }
    }
    if format.place() == Some("FILE") {
        files.iter().try_for_each(|file| ensure_of_format(file.path()?, format.name()))?;
    }
    let mut builder = Builder::new(folder.as_deref());
    if !builder.is_on_disk() {
        tell_no_cache(cache_home, tell);
    }
    let mut sink = Sink::new(decoding, reading, &mut builder, tell);
    format.read(files, &mut sink)?;
    let findings = sink.finish()?;
    if let (Some(error), Some(folder)) = (builder.failure(), &folder) {
        tell(Event::NoCache(&format!(
            "{}: cannot be written ({error}); XDG_CACHE_HOME can name another folder",
            folder.display()
        )));
    }
    // Damaged files are kept in the cache as findings; files that could not be read may be readable later.
    let is_lasting = builder.count() > 0 && builder.is_on_disk() && !findings.may_be_readable_later;
    if let Some(path) = path.filter(|_| is_lasting) {
        match builder.write_file(&path, findings.clone()) {
            Ok(written) => return Ok(written),
            Err(error) => tell(Event::Warning(&format!("{error:#}; continuing without a cache"))),
        }
    }
    builder.into_memory(findings)
}

/// The size of all decoded sets in the cache.
///
/// # Errors
/// If the cache folder is not known.
pub fn decoded_bytes() -> Result<u64> {
    Ok(cache::bytes_in(&places::cache_home()?))
}

/// Where images come from.
struct Source {
    format: &'static dyn Format,
    /// What the user named; of a set that was fetched, its first file.
    root: PathBuf,
    files: Vec<SourceFile>,
}

impl Source {
    /// Fetches what is not there.
    fn find(spec: Spec, tell: &mut dyn FnMut(Event)) -> Result<Self> {
        match spec {
            Spec::Local(format, root) => {
                let files = format.files(&root)?;
                // What is not there under this whole name is a part of a file.
                let first = files.first().and_then(|file| file.path().ok()).map(Path::to_path_buf);
                let root = if root.exists() { root } else { first.unwrap_or(root) };
                Ok(Self { format, root, files })
            }
            Spec::Public(collection, part) => {
                let home = places::data_home()?;
                let retry = RetryPolicy::default();
                let paths = collection.fetch(part, &home, None, retry, tell)?;
                let files = collection.sources(part, &paths)?;
                let root = paths.into_iter().next().unwrap_or_default();
                Ok(Self { format: collection.format, root, files })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};
    use tch::{Device, Kind};

    use super::*;
    use crate::data::Batches;
    use crate::shape::ImageShape;

    #[test]
    fn a_folder_is_decoded_to_any_size_and_cropped_to_its_aspect_ratio() -> Result<()> {
        let folder = tempfile::tempdir()?;
        // Of 160×160, the middle 96 rows are in the ratio of 80×48; what is above and below is white.
        let tall = RgbImage::from_fn(160, 160, |x, y| match y {
            32..128 => Rgb([x as u8, 40, 80]),
            _ => Rgb([255; 3]),
        });
        let same = RgbImage::from_fn(80, 48, |x, y| Rgb([x as u8, y as u8, 7]));
        std::fs::create_dir(folder.path().join("photos"))?;
        tall.save(folder.path().join("photos/a.png"))?;
        same.save(folder.path().join("photos/b.png"))?;
        let spec = format!("folder:{}", folder.path().join("photos").display());
        let size = ImageSize { width: 80, height: 48 };
        let options = Options { size: Some(size), ..Options::default() };
        let load =
            |options: &Options| load_through(Some(folder.path()), &spec, options, &mut |_| {});
        let set = load(&options)?;
        assert_eq!((set.count(), set.shape()), (2, ImageShape { size, channels: 3 }));
        assert!(set.rows(1..2)? == *same.as_raw());
        let cropped = set.rows(0..1)?;
        let green: Vec<_> = cropped.iter().skip(1).step_by(3).copied().collect();
        // The filter sees what is beyond the first and the last row; nothing of it is left inside.
        assert!(green[5 * 80..43 * 80].iter().all(|&value| value == 40));
        assert!(green.iter().all(|&value| value < 100), "{:?}", green.iter().max());
        let identity = set.identity()?;
        assert_eq!((identity.height, identity.width), (48, 80));
        let batch = Batches::new(set, 2, 0).batch(1, Device::Cpu, Kind::Float)?;
        assert_eq!(batch.size(), [2, 3, 48, 80]);
        // Another size is another set, also from the cache.
        let square = load(&Options::default())?;
        assert_eq!(square.shape(), ImageShape::reference(3));
        assert_eq!(load(&options)?.identity()?, identity);
        Ok(())
    }

    #[test]
    fn the_built_in_digits_come_at_any_size() -> Result<()> {
        let digits = |size, fit| {
            let options = Options { size: Some(size), fit, limit: Some(40), ..Options::default() };
            load_through(None, DIGITS, &options, &mut |_| {})
        };
        let at_32 = digits(ImageSize::REFERENCE, None)?;
        let at_48 = digits(ImageSize::square(48), None)?;
        assert_eq!((at_48.count(), at_48.shape().size), (40, ImageSize::square(48)));
        assert_eq!(
            at_48.labels().map(|labels| labels.of_images),
            at_32.labels().map(|l| l.of_images)
        );
        // Padded: the same pixels, 8 more zeros on each side.
        let large = at_48.first(40)?;
        let inner = large.chunks(48).enumerate().filter(|(y, _)| (8..40).contains(&(y % 48)));
        let inner: Vec<u8> = inner.flat_map(|(_, row)| row[8..40].to_vec()).collect();
        assert!(inner == at_32.first(40)?);
        let smaller = digits(ImageSize::square(16), Some(Fit::Stretch))?;
        assert_eq!(smaller.shape().size, ImageSize::square(16));
        Ok(())
    }
}
