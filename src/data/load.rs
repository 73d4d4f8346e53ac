//! From a data set's name to its images.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::fetch::Patience;
use super::files::{self, Findings, read_maybe_gzipped, stamp};
use super::image_file::{Decoding, Fit, MAX_SIDE, fit, with_channels};
use super::npy::Range;
use super::spec::Spec;
use super::store::{self, Builder, Description, Pixels};
use super::{ImageSet, MAX_EXPANDED, SIZE, Stack, builtin, idx, mat5, npy};
use crate::error::{Fixable, SettingError};
use crate::files::places;
use crate::rng::{Stream, permutation, rng};

/// How a data set is read, and which part of it is taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// 1 or 3 channels; where it is left open, 3 if any image is in colour.
    pub channels: Option<usize>,
    /// For images that are not 32×32; where it is left open, arrays are padded and files cropped.
    pub fit: Option<Fit>,
    /// What is behind transparent pixels: red, green, blue.
    pub background: [u8; 3],
    /// Of arrays of floats.
    pub range: Option<Range>,
    /// Only these classes; all where there are none.
    pub classes: Vec<String>,
    /// At most so many images, chosen by the seed.
    pub limit: Option<usize>,
    /// Whether images that cannot be read are left out.
    pub skip_bad: bool,
    /// But not more of them than this, in percent.
    pub max_bad: f64,
    /// Chooses the images of `limit`.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            channels: None,
            fit: None,
            background: [0; 3],
            range: None,
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
    /// A file is fetched: its name, bytes there, bytes in all.
    Fetched(&'a str, u64, Option<u64>),
    /// There are so many files to decode.
    Files(usize),
    /// So many more are done.
    Decoded(usize),
}

/// The data set that `spec` names.
///
/// # Errors
/// [`SettingError`], if there is none of that name or no class of one asked for. If a file cannot be read
/// or fetched; if images are damaged, unless they are to be skipped and are few.
pub fn load(spec: &str, options: &Options, tell: &mut dyn FnMut(Event)) -> Result<ImageSet> {
    let usage = |message: &str| anyhow!(SettingError::of_value("dataset", spec, message));
    let parsed: Spec = spec.parse().map_err(|message: String| usage(&message))?;
    let (pixels, description) = match parsed {
        Spec::Digits
            if options.channels != Some(3) && options.fit.is_none_or(|fit| fit == Fit::Pad) =>
        {
            let mut set = builtin::digits()?;
            let chosen = by_class(&set.labels, &set.classes, &options.classes);
            set.chosen = chosen.map_err(|message| usage(&message))?;
            return Ok(set.limited(options.limit, options.seed));
        }
        parsed => decoded(&parsed, options, tell).with_context(|| format!("data set {spec}"))?,
    };
    let total = description.identity.images;
    check_bad(&description.findings, total, options).with_context(|| format!("data set {spec}"))?;
    ensure!(total > 0, "data set {spec}: no images{}", what_else(&description.findings));
    let chosen = by_class(&description.labels, &description.classes, &options.classes);
    let chosen = chosen.map_err(|message| usage(&message))?;
    let set = ImageSet::stored(spec, pixels, description, chosen);
    Ok(set.limited(options.limit, options.seed))
}

fn what_else(findings: &Findings) -> String {
    let others = &findings.others;
    if others.count == 0 {
        return String::new();
    }
    format!("; {} other files, such as {}", others.count, others.names.join(", "))
}

/// The images of the classes asked for; `None` for all.
fn by_class(
    labels: &[u32],
    classes: &[String],
    asked: &[String],
) -> Result<Option<Vec<u32>>, String> {
    if asked.is_empty() {
        return Ok(None);
    }
    // Files that are in no folder have the class of no name.
    let mut known: Vec<_> = classes.iter().filter(|class| !class.is_empty()).cloned().collect();
    known.sort();
    if known.is_empty() {
        return Err("it has no classes".to_owned());
    }
    let mut wanted = Vec::new();
    for class in asked.iter().map(|class| class.trim()) {
        let index = classes.iter().position(|known| known == class);
        let index = index
            .filter(|_| !class.is_empty())
            .ok_or_else(|| format!("no class `{class}`; it has {}", known.join(", ")))?;
        wanted.push(index as u32);
    }
    let labels = labels.iter().zip(0_u32..);
    Ok(Some(labels.filter(|(label, _)| wanted.contains(label)).map(|(_, i)| i).collect()))
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

/// What a file of decoded images is made of.
#[derive(Serialize)]
struct Key<'a> {
    version: u32,
    kind: &'a str,
    decoding: Decoding,
    range: Option<(f64, f64)>,
    root: PathBuf,
    /// Names, lengths and times of change.
    files: Vec<(String, u64, u128)>,
}

/// The images of `spec`, from the cache if they are there.
fn decoded(
    spec: &Spec,
    options: &Options,
    tell: &mut dyn FnMut(Event),
) -> Result<(Pixels, Description)> {
    let is_of_files = matches!(spec, Spec::Folder(_) | Spec::Zip(_) | Spec::Tar(_));
    let natural = if is_of_files { Fit::Crop } else { Fit::Pad };
    let decoding = Decoding {
        channels: options.channels,
        fit: options.fit.unwrap_or(natural),
        background: options.background,
    };
    let source = Source::find(spec, tell)?;
    let key = Key {
        version: 1,
        kind: source.kind(),
        decoding,
        range: source.takes_range().then_some(options.range).flatten().map(|r| (r.low, r.high)),
        root: source.root(),
        files: source.fingerprint()?,
    };
    let name = hex::encode(Sha256::digest(serde_json::to_vec(&key)?));
    let folder = places::cache_home().and_then(|home| store::folder(&home));
    let path = folder.as_ref().ok().map(|folder| folder.join(format!("{}.images", &name[..32])));
    if let Some(path) = &path
        && path.exists()
    {
        match store::open(path) {
            Ok(found) => return Ok(found),
            Err(error) => tell(Event::Warning(&format!("{error:#}; making it anew"))),
        }
    }
    let mut builder = Builder::new(folder.as_deref().ok());
    let findings = source.read(&decoding, options.range, &mut builder, tell)?;
    // Damage is remembered, too; what a disk or its permissions withheld may come back.
    let is_lasting = builder.count() > 0 && builder.is_on_disk() && !findings.is_passing;
    if let Some(path) = path.filter(|_| is_lasting) {
        match builder.write_file(&path, findings.clone()) {
            Ok(written) => return Ok(written),
            Err(error) => tell(Event::Warning(&format!("{error:#}; going on without a cache"))),
        }
    }
    builder.into_memory(findings)
}

/// The size of all decoded sets in the cache.
///
/// # Errors
/// If the cache folder is not known.
pub fn decoded_bytes() -> Result<u64> {
    let folder = places::cache_home()?.join(store::FOLDER);
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    Ok(files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum())
}

/// Where images come from.
enum Source {
    Digits,
    Public(Vec<PathBuf>),
    Folder(PathBuf, Vec<files::Item>),
    Zip(PathBuf),
    Tar(PathBuf),
    Idx(PathBuf),
    Mat(PathBuf),
    Npy(PathBuf),
    Npz(PathBuf),
}

impl Source {
    /// Fetches what is not there.
    fn find(spec: &Spec, tell: &mut dyn FnMut(Event)) -> Result<Self> {
        Ok(match spec {
            Spec::Digits => Self::Digits,
            Spec::Public(collection, part) => {
                let mut progress =
                    |name: &str, bytes, total| tell(Event::Fetched(name, bytes, total));
                let home = places::data_home()?;
                let patience = Patience::default();
                Self::Public(collection.fetch(*part, &home, None, patience, &mut progress)?)
            }
            Spec::Folder(path) => Self::Folder(path.clone(), files::in_folder(path)?),
            Spec::Zip(path) => Self::Zip(path.clone()),
            Spec::Tar(path) => Self::Tar(path.clone()),
            Spec::Idx(path) => Self::Idx(path.clone()),
            Spec::Mat(path) => Self::Mat(path.clone()),
            Spec::Npy(path) => Self::Npy(path.clone()),
            Spec::Npz(path) => Self::Npz(path.clone()),
        })
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Digits => "digits",
            Self::Public(_) => "public",
            Self::Folder(..) => "folder",
            Self::Zip(_) => "zip",
            Self::Tar(_) => "tar",
            Self::Idx(_) => "idx",
            Self::Mat(_) => "mat",
            Self::Npy(_) => "npy",
            Self::Npz(_) => "npz",
        }
    }

    fn takes_range(&self) -> bool {
        matches!(self, Self::Npy(_) | Self::Npz(_))
    }

    fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Digits => &[],
            Self::Public(paths) => paths,
            Self::Folder(path, _)
            | Self::Zip(path)
            | Self::Tar(path)
            | Self::Idx(path)
            | Self::Mat(path)
            | Self::Npy(path)
            | Self::Npz(path) => std::slice::from_ref(path),
        }
    }

    fn root(&self) -> PathBuf {
        let root = self.paths().first();
        root.and_then(|path| path.canonicalize().ok()).unwrap_or_default()
    }

    fn fingerprint(&self) -> Result<Vec<(String, u64, u128)>> {
        if let Self::Folder(_, items) = self {
            return Ok(files::fingerprint(items));
        }
        let one = |path: &PathBuf| {
            let (length, time) = stamp(path)?;
            Ok((path.to_string_lossy().into_owned(), length, time))
        };
        self.paths().iter().map(one).collect()
    }

    fn read(
        self,
        decoding: &Decoding,
        range: Option<Range>,
        builder: &mut Builder,
        tell: &mut dyn FnMut(Event),
    ) -> Result<Findings> {
        let mut stack = |stack: Stack, labels: Option<Vec<u16>>, path: &Path| {
            add_stack(stack, labels.as_deref(), decoding, builder)
                .with_context(|| path.display().to_string())
        };
        let read = |path: &Path| read_maybe_gzipped(path, MAX_EXPANDED);
        let named = |path: &Path| path.display().to_string();
        match self {
            Self::Digits => {
                let name = Path::new("the built-in digits");
                stack(builtin::stack()?, Some(builtin::labels()?), name)
            }
            Self::Idx(path) => {
                let images = idx::parse_images(&read(&path)?).with_context(|| named(&path))?;
                stack(images, None, &path)
            }
            Self::Mat(path) => {
                let found = mat5::parse_images(&read(&path)?).with_context(|| named(&path))?;
                stack(found.images, found.labels, &path)
            }
            Self::Npy(path) => {
                let file = BufReader::new(files::open_file(&path)?.0);
                let mut all = Findings::default();
                let mut each = |part| stack(part, None, &path).map(|found| all.add_images(found));
                npy::read_images(file, range, &mut each).with_context(|| named(&path))?;
                Ok(all)
            }
            Self::Npz(path) => {
                let file = BufReader::new(files::open_file(&path)?.0);
                let mut all = Findings::default();
                let mut each = |part| stack(part, None, &path).map(|found| all.add_images(found));
                npy::read_npz(file, range, &mut each).with_context(|| named(&path))?;
                Ok(all)
            }
            Self::Public(paths) => {
                let mut all = Findings::default();
                let mut paths = paths.iter();
                while let Some(path) = paths.next() {
                    let bytes = read(path)?;
                    let is_mat = path.extension().is_some_and(|extension| extension == "mat");
                    let found = if is_mat {
                        let found = mat5::parse_images(&bytes).with_context(|| named(path))?;
                        stack(found.images, found.labels, path)?
                    } else {
                        // Labels follow their images.
                        let labels = paths.next().context("a file of labels")?;
                        let images = idx::parse_images(&bytes).with_context(|| named(path))?;
                        let labels =
                            idx::parse_labels(&read(labels)?).with_context(|| named(labels))?;
                        stack(images, Some(labels), path)?
                    };
                    all.add_images(found);
                }
                Ok(all)
            }
            Self::Folder(_, items) => {
                tell(Event::Files(items.len()));
                let mut progress = |done| tell(Event::Decoded(done));
                files::decode_folder(items, decoding, &mut progress, &mut |name, image| {
                    builder.push(image.channels, &image.pixels, Some(class_of(name)))
                })
            }
            Self::Zip(path) => {
                let mut progress = |done| tell(Event::Decoded(done));
                files::decode_zip(&path, decoding, &mut progress, &mut |name, image| {
                    builder.push(image.channels, &image.pixels, Some(class_of(name)))
                })
            }
            Self::Tar(path) => {
                let mut progress = |done| tell(Event::Decoded(done));
                files::decode_tar(&path, decoding, &mut progress, &mut |name, image| {
                    builder.push(image.channels, &image.pixels, Some(class_of(name)))
                })
            }
        }
    }
}

/// The class of an image file: the name of the folder it is in; no name where it is in none.
fn class_of(name: &str) -> &str {
    let folder = name.rsplit_once(['/', '\\']).map_or("", |(folder, _)| folder);
    folder.rsplit(['/', '\\']).next().filter(|folder| *folder != ".").unwrap_or_default()
}

/// Adds a stack's images, each brought to 32×32.
fn add_stack(
    stack: Stack,
    labels: Option<&[u16]>,
    decoding: &Decoding,
    builder: &mut Builder,
) -> Result<Findings> {
    let Stack { count, height, width, channels, pixels } = stack;
    if let Some(labels) = labels {
        ensure!(labels.len() == count, "expected {count} labels, found {}", labels.len());
    }
    let size = (u32::try_from(width)?, u32::try_from(height)?);
    ensure!(
        size.0.max(size.1) <= MAX_SIDE,
        "expected images of at most {MAX_SIDE}×{MAX_SIDE}, found {width}×{height}"
    );
    let one = |image: &[u8]| -> Result<(usize, Vec<u8>)> {
        let (to, image) = with_channels(channels, image.to_vec(), decoding.channels);
        Ok((to, fit(image, size, to, decoding.fit)?))
    };
    let classes: Vec<String> = labels.unwrap_or_default().iter().map(u16::to_string).collect();
    let image = height * width * channels;
    const AT_A_TIME: usize = 4096;
    for (part, images) in pixels.chunks(image * AT_A_TIME).enumerate() {
        let fitted: Vec<_> = images.par_chunks(image).map(one).collect::<Result<_>>()?;
        for (i, (channels, pixels)) in fitted.iter().enumerate() {
            let class = classes.get(part * AT_A_TIME + i).map(String::as_str);
            builder.push(*channels, pixels, class)?;
        }
    }
    if builder.count() == 0 {
        bail!("no images");
    }
    Ok(Findings {
        sizes: [(size, count)].into(),
        gray: if channels == 1 { count } else { 0 },
        ..Default::default()
    })
}

/// `limit` of `chosen` (or of all `count`) images, in their order.
pub(super) fn limit(
    chosen: Option<Vec<u32>>,
    count: usize,
    limit: usize,
    seed: u64,
) -> Option<Vec<u32>> {
    let chosen_count = chosen.as_ref().map_or(count, Vec::len);
    if limit >= chosen_count {
        return chosen;
    }
    let mut order = permutation(&mut rng(seed, Stream::Subset, 0), chosen_count as u32);
    order.truncate(limit);
    order.sort_unstable();
    Some(match chosen {
        Some(chosen) => order.into_iter().map(|i| chosen[i as usize]).collect(),
        None => order,
    })
}

const _: () = assert!(SIZE == 32, "the messages say so");
