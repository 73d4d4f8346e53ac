//! Checkpoints: a run's whole state in one safetensors file, and the folder that holds these files.
//!
//! No state of a random generator is saved: everything random follows from (seed, stream, step) ([`crate::rng`]).
//! The tensors of a checkpoint are listed in [`crate::train::state`]; the rest of the state is its [`Header`]. This
//! module reads and writes what it is given and does not depend on the code that trains.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::architecture::{Architecture, Network};
use crate::data::SetIdentity;
use crate::device;
use crate::files::{TensorFile, remove};
use crate::finite::ensure_finite;
use crate::record::jsonl::Rollback;
use crate::run::watch::Watch;
use crate::settings::{Size, TrainConfig};
use crate::weights::{Variant, Weights};

const FORMAT: &str = "dcgan-checkpoint";
const VERSION: &str = "1";
/// The extension of a checkpoint's file name.
const EXTENSION: &str = "safetensors";
/// The name of the folder within a run's folder that holds its checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// The ending of the name of a tensor that is a moving average, such as `generator.dense.weight.ema`.
pub(crate) const AVERAGE_ENDING: &str = ".ema";
/// The prefix that a checkpoint's name gets when it could not be read and was set aside.
const DAMAGED: &str = "damaged-";

/// Everything in a run's state that is not a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// How many iterations are done.
    pub iteration: u64,
    /// The settings with which the run was started or last resumed.
    pub config: TrainConfig,
    /// The data set that the run trains on.
    pub set: SetIdentity,
    /// The state of the watch for collapse.
    pub watch: Watch,
    /// The newest iteration whose checkpoint shows no sign of collapse: this iteration or an earlier one.
    pub healthy: u64,
    /// How often the run has switched to other noise, once for each rollback ([`crate::rng::noise`]).
    pub salt: u8,
    /// Every rollback of the run so far.
    pub rollbacks: Vec<Rollback>,
    /// The program and the machine that computed this state.
    pub origin: Origin,
}

/// What the bits of a result depend on besides the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The version of this program.
    pub dcgan: String,
    /// The version of libtorch, or an empty string where it is not known.
    pub libtorch: String,
    /// The name of the processor.
    pub cpu: String,
}

impl Origin {
    /// The origin of what this process computes.
    pub fn here() -> Self {
        Self {
            dcgan: crate::VERSION.to_owned(),
            libtorch: device::libtorch_version().unwrap_or_default(),
            cpu: device::cpu_name(),
        }
    }
}

impl Header {
    fn write(&self) -> Result<BTreeMap<String, String>> {
        let per_epoch = self.set.per_epoch(self.config.batch_size);
        let metadata = [
            ("format", FORMAT.to_owned()),
            ("version", VERSION.to_owned()),
            ("origin", serde_json::to_string(&self.origin)?),
            ("iteration", self.iteration.to_string()),
            // These two are for people who look into the file; both follow from the iteration.
            ("epoch", (self.iteration / per_epoch).to_string()),
            ("position_in_epoch", (self.iteration % per_epoch).to_string()),
            ("seed", self.config.seed.to_string()),
            ("config", toml::to_string(&self.config)?),
            ("set", serde_json::to_string(&self.set)?),
            ("watch", serde_json::to_string(&self.watch)?),
            ("healthy", self.healthy.to_string()),
            ("salt", self.salt.to_string()),
            ("rollbacks", serde_json::to_string(&self.rollbacks)?),
        ];
        Ok(metadata.map(|(key, value)| (key.to_owned(), value)).into())
    }

    fn read(metadata: &BTreeMap<String, String>) -> Result<Self> {
        let get = |key: &str| {
            metadata.get(key).map(String::as_str).with_context(|| format!("lacks `{key}`"))
        };
        let number = |key: &str| {
            let text = get(key)?;
            text.parse::<u64>()
                .ok()
                .filter(|&number| number < 1 << 48)
                .with_context(|| format!("`{key}` is {text:?}"))
        };
        let format = metadata.get("format").map_or("none", String::as_str);
        ensure!(format == FORMAT, "is no checkpoint: expected format {FORMAT}, found {format}");
        let version = get("version")?;
        ensure!(
            version == VERSION,
            "this program, {}, reads checkpoints of version {VERSION}; this one has version {version}",
            crate::VERSION
        );
        let config: TrainConfig = toml::from_str(get("config")?).context("`config`")?;
        // A wrong setting in a file is a damaged file, not wrong usage.
        config.validate().map_err(|error| anyhow!("`config`: {error}"))?;
        let set: SetIdentity = serde_json::from_str(get("set")?).context("`set`")?;
        let is_possible = set.images > 0 && (1..=1024).contains(&set.channels);
        ensure!(is_possible && config.image_size == Size::Of(set.shape().size), "`set` is {set:?}");
        ensure!(
            config.takes(set.classes.as_ref()),
            "`set` is {set:?}, and `conditional` is {}",
            config.conditional.is_on()
        );
        let rollbacks: Vec<Rollback> =
            serde_json::from_str(get("rollbacks")?).context("`rollbacks`")?;
        let salt = u8::try_from(number("salt")?).context("`salt`")?;
        Ok(Self {
            iteration: number("iteration")?,
            config,
            set,
            watch: serde_json::from_str(get("watch")?).context("`watch`")?,
            healthy: number("healthy")?,
            salt,
            rollbacks,
            origin: serde_json::from_str(get("origin")?).context("`origin`")?,
        })
    }
}

/// A checkpoint in memory. It was read as a whole, its checksum is right, and every value in it is finite.
#[derive(Debug)]
pub struct Checkpoint {
    /// The file it was read from.
    pub path: PathBuf,
    /// Everything in it that is not a tensor.
    pub header: Header,
    tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Writes `header` and `tensors` (finite, on the CPU) to `path`, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written; then no part of it is left.
    pub fn write(path: &Path, header: &Header, tensors: BTreeMap<String, Tensor>) -> Result<()> {
        TensorFile { metadata: header.write()?, tensors }.write_sealed(path)
    }

    /// The tensor called `name`, if the checkpoint holds one.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// How many tensors the checkpoint holds.
    pub fn tensor_count(&self) -> usize {
        self.tensors.len()
    }

    /// The same state as the beginning of another run. It keeps the weights, the moments and the noise, but
    /// forgets the watch's readings and the rollbacks of the run that it comes from.
    pub fn fork(mut self) -> Self {
        self.header.healthy = self.header.iteration;
        self.header.watch = Watch::default();
        self.header.rollbacks.clear();
        self
    }

    /// Reads the checkpoint at `path`.
    ///
    /// # Errors
    /// If the file cannot be read, is not a checkpoint, has another format version or is damaged, or if a value in
    /// it is not finite. The message names the file.
    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::read_sealed(path)?;
        let name = || path.display().to_string();
        let header = Header::read(&file.metadata).with_context(name)?;
        for (tensor, values) in &file.tensors {
            ensure_finite(tensor, values).with_context(name)?;
        }
        Ok(Self { path: path.to_path_buf(), header, tensors: file.tensors })
    }

    /// Whether the file at `path` says in its metadata that it is a checkpoint.
    ///
    /// # Errors
    /// If the file cannot be read or is not a safetensors file.
    pub fn is_one(path: &Path) -> Result<bool> {
        let metadata = TensorFile::read_metadata(path)?;
        Ok(metadata.get("format").is_some_and(|format| format == FORMAT))
    }

    /// Reads only the header of the checkpoint at `path`, not its tensors.
    ///
    /// # Errors
    /// If the file cannot be read, is not a checkpoint, has another format version or is truncated.
    pub fn header(path: &Path) -> Result<Header> {
        let metadata = TensorFile::read_metadata(path)?;
        Header::read(&metadata).with_context(|| path.display().to_string())
    }

    /// The weights and moving statistics of one network: of `variant`, or without one the moving average where there
    /// is one.
    ///
    /// # Errors
    /// If no network can be built for images of the data set's size. As [`Weights::checked`], if there is no such
    /// variant.
    pub fn weights(&self, network: Network, variant: Option<Variant>) -> Result<Weights> {
        // Only the generator has an average.
        let has_average = network == Network::Generator && self.header.config.ema.is_some();
        let found = has_average.then_some(variant.unwrap_or(Variant::Average));
        let ending = if found == Some(Variant::Average) { AVERAGE_ENDING } else { "" };
        let Header { config, set, iteration, .. } = &self.header;
        let architecture = Architecture::new(config.model(set.shape(), set.class_count()))?;
        let tensors = architecture.torch_names(network).filter_map(|name| {
            let tensor = self.tensors.get(&format!("{}.{name}{ending}", network.name()))?;
            Some((name, tensor.shallow_clone()))
        });
        let weights = Weights {
            name: self.path.display().to_string(),
            network,
            config: config.clone(),
            image: set.shape(),
            classes: set.classes.clone(),
            iteration: *iteration,
            variant: found,
            images_sha256: Some(set.sha256.clone()).filter(|sha256| !sha256.is_empty()),
            tensors: tensors.collect(),
        };
        weights.checked(variant)
    }
}

/// The file name for an iteration, such as `iteration-000500.png`.
pub(crate) fn numbered_name(iteration: u64, extension: &str) -> String {
    format!("iteration-{iteration:06}.{extension}")
}

/// The iteration in a file name that [`numbered_name`] made; `None` for every other name.
pub(crate) fn number_of(name: &str, extension: &str) -> Option<u64> {
    let number = name.strip_prefix("iteration-")?.strip_suffix(extension)?.strip_suffix('.')?;
    // Compared with the whole name, because `iteration-5.png` has a number but is not a name of ours.
    number.parse().ok().filter(|&number| numbered_name(number, extension) == name)
}

/// The folder of a run's checkpoints: `iteration-000500.safetensors` and so on. Files with other names, such as a
/// copy that a user keeps, are left alone.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder of checkpoints of the run in the folder `run`.
    pub fn of_run(run: &Path) -> Self {
        Self(run.join(CHECKPOINTS))
    }

    /// The path of this folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder, unless it exists.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("{}: cannot be made", self.0.display()))
    }

    /// The path of an iteration's checkpoint, whether it exists or not.
    pub fn file(&self, iteration: u64) -> PathBuf {
        self.0.join(numbered_name(iteration, EXTENSION))
    }

    /// The path of the checkpoint with the best value of the metric that decides, whether it exists or not.
    pub fn best(&self) -> PathBuf {
        self.0.join(format!("best.{EXTENSION}"))
    }

    /// Gives the best checkpoint, which is of `iteration`, a name under which it stays, and returns its path.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn set_best_aside(&self, iteration: u64) -> Result<PathBuf> {
        let (from, to) = (self.best(), self.0.join(format!("best-of-{iteration:06}.{EXTENSION}")));
        fs::rename(&from, &to).with_context(|| format!("{}: cannot be renamed", from.display()))?;
        Ok(to)
    }

    /// The iterations that have a checkpoint here, oldest first. Empty if the folder does not exist.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn iterations(&self) -> Result<Vec<u64>> {
        let names = self.names()?;
        let mut iterations: Vec<_> =
            names.iter().filter_map(|name| number_of(name, EXTENSION)).collect();
        iterations.sort_unstable();
        Ok(iterations)
    }

    /// The names of all files in the folder. Empty if the folder does not exist.
    fn names(&self) -> Result<Vec<String>> {
        let cannot = || format!("{}: cannot be read", self.0.display());
        let entries = match fs::read_dir(&self.0) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(cannot)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.with_context(cannot)?.file_name().into_string());
        }
        Ok(names)
    }

    /// The newest readable checkpoint of at most `limit` iterations; `None` if there is no such file at all. `report`
    /// is called with the error of each newer checkpoint that cannot be read.
    ///
    /// # Errors
    /// If there are files but none can be read. Also at once if the disk fails: then the file may well be whole, and
    /// an older one must not take its place.
    pub fn latest(
        &self,
        limit: u64,
        mut report: impl FnMut(&anyhow::Error),
    ) -> Result<Option<Checkpoint>> {
        let mut iterations = self.iterations()?;
        iterations.retain(|&iteration| iteration <= limit);
        let mut newest_error = None;
        for &iteration in iterations.iter().rev() {
            let path = self.file(iteration);
            let named_rightly = |checkpoint: Checkpoint| {
                let found = checkpoint.header.iteration;
                ensure!(found == iteration, "{}: holds iteration {found}", path.display());
                Ok(checkpoint)
            };
            match Checkpoint::load(&path).and_then(named_rightly) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) if is_failure_of_disk(&error) => return Err(error),
                Err(error) => {
                    report(&error);
                    newest_error.get_or_insert(error);
                }
            }
        }
        let none = || format!("{}: none of {} can be read", self.0.display(), iterations.len());
        newest_error.map_or(Ok(None), |error| Err(error.context(none())))
    }

    /// The checkpoints that may be removed: all but the `keep` newest and the one of iteration `also`.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn prunable(&self, keep: usize, also: u64) -> Result<Vec<PathBuf>> {
        let iterations = self.iterations()?;
        let old = &iterations[..iterations.len().saturating_sub(keep)];
        Ok(old.iter().filter(|&&old| old != also).map(|&old| self.file(old)).collect())
    }

    /// The unreadable checkpoints that [`Self::set_aside_after`] has set aside.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn damaged(&self) -> Result<Vec<PathBuf>> {
        let is_one = |name: &String| {
            name.strip_prefix(DAMAGED).and_then(|name| number_of(name, EXTENSION)).is_some()
        };
        let names = self.names()?.into_iter().filter(is_one);
        Ok(names.map(|name| self.0.join(name)).collect())
    }

    /// Removes the checkpoints after `iteration`, newest first.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn remove_after(&self, iteration: u64) -> Result<()> {
        self.after(iteration)?.into_iter().try_for_each(|newer| remove(&self.file(newer)))
    }

    /// Renames the checkpoints after `iteration`, which cannot be read, so that new ones can take their names.
    /// Returns their new paths.
    ///
    /// # Errors
    /// If a file cannot be renamed.
    pub fn set_aside_after(&self, iteration: u64) -> Result<Vec<PathBuf>> {
        let mut aside = Vec::new();
        for newer in self.after(iteration)? {
            let from = self.file(newer);
            let name = from.file_name().unwrap_or_default().to_string_lossy();
            let to = self.0.join(format!("{DAMAGED}{name}"));
            fs::rename(&from, &to)
                .with_context(|| format!("{}: cannot be renamed", from.display()))?;
            aside.push(to);
        }
        Ok(aside)
    }

    /// The iterations later than `iteration` that have a checkpoint here, newest first.
    fn after(&self, iteration: u64) -> Result<Vec<u64>> {
        let newer = self.iterations()?.into_iter().rev();
        Ok(newer.take_while(|&newer| newer > iteration).collect())
    }
}

/// Whether reading a file failed because of the disk or the system, not because of the file's content.
pub fn is_failure_of_disk(error: &anyhow::Error) -> bool {
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    // These two kinds are no failures of the disk: the file is shorter than its header says, or it was pruned just
    // now.
    kind.is_some_and(|e| !matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::NotFound))
}
