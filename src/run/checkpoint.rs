//! A run's whole state in one safetensors file, and the folder of them.
//!
//! Everything random comes from (seed, stream, step) ([`crate::rng`]), so weights, moments, powers and
//! the number of the iteration are all there is to save. Takes what it is handed and knows no training.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::architecture::{Architecture, Network};
use crate::data::SetIdentity;
use crate::device;
use crate::files::{TensorFile, remove};
use crate::finite::ensure_finite;
use crate::record::jsonl::Rollback;
use crate::run::watch::Watch;
use crate::settings::TrainConfig;
use crate::weights::Weights;

const FORMAT: &str = "dcgan-checkpoint";
const VERSION: &str = "1";
/// Of a checkpoint's file.
const EXTENSION: &str = "safetensors";
/// The folder of checkpoints within a run's.
pub const CHECKPOINTS: &str = "checkpoints";
/// What the names of checkpoints begin with that could not be read.
const DAMAGED: &str = "damaged-";

/// Everything of a run's state that is no tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Iterations done.
    pub iteration: u64,
    /// With what the run was started or resumed.
    pub config: TrainConfig,
    /// On what it trains.
    pub set: SetIdentity,
    /// What the watch for collapse has seen.
    pub watch: Watch,
    /// The newest iteration whose checkpoint shows no sign of collapse: this one or one before.
    pub healthy: u64,
    /// Of training's noise ([`crate::rng::noise`]): how often it was exchanged.
    pub salt: u8,
    /// Every time the run was rolled back.
    pub rollbacks: Vec<Rollback>,
    /// What computed it.
    pub origin: Origin,
}

/// What bits depend on besides the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// This program's version.
    pub dcgan: String,
    /// libtorch's, where it is known.
    pub libtorch: String,
    /// The processor.
    pub cpu: String,
}

impl Origin {
    /// Of this process.
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
            // For people; both follow from the iteration.
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
        config.validate().context("`config`")?;
        let set: SetIdentity = serde_json::from_str(get("set")?).context("`set`")?;
        ensure!(set.images > 0 && (1..=1024).contains(&set.channels), "`set` is {set:?}");
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

/// A checkpoint in memory: read whole, its checksum compared, every value finite.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it was read from.
    pub path: PathBuf,
    /// What is no tensor.
    pub header: Header,
    tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Writes `header` and `tensors` (finite, on the CPU) to `path`, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written; then there is none.
    pub fn write(path: &Path, header: &Header, tensors: BTreeMap<String, Tensor>) -> Result<()> {
        TensorFile { metadata: header.write()?, tensors }.write_sealed(path)
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// How many tensors it holds.
    pub fn tensor_count(&self) -> usize {
        self.tensors.len()
    }

    /// The same state, noise included, as the beginning of another run, which has seen nothing yet.
    pub fn fork(mut self) -> Self {
        self.header.healthy = self.header.iteration;
        self.header.watch = Watch::default();
        self.header.rollbacks.clear();
        self
    }

    /// Reads `path`.
    ///
    /// # Errors
    /// If it cannot be read, is no checkpoint or one of another version, or is damaged; if a value
    /// in it is not finite. The message names the file.
    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::read_sealed(path)?;
        let name = || path.display().to_string();
        let header = Header::read(&file.metadata).with_context(name)?;
        for (tensor, values) in &file.tensors {
            ensure_finite(tensor, values).with_context(name)?;
        }
        Ok(Self { path: path.to_path_buf(), header, tensors: file.tensors })
    }

    /// Whether the file at `path` says that it is a checkpoint.
    ///
    /// # Errors
    /// If it cannot be read or is no safetensors file.
    pub fn is_one(path: &Path) -> Result<bool> {
        let metadata = TensorFile::read_metadata(path)?;
        Ok(metadata.get("format").is_some_and(|format| format == FORMAT))
    }

    /// What the file at `path` says of itself, without reading its tensors.
    ///
    /// # Errors
    /// If it cannot be read, is no checkpoint or one of another version, or is truncated.
    pub fn header(path: &Path) -> Result<Header> {
        let metadata = TensorFile::read_metadata(path)?;
        Header::read(&metadata).with_context(|| path.display().to_string())
    }

    /// The weights and moving statistics of one network.
    ///
    /// # Errors
    /// If there are no networks for images of the set's size.
    pub fn weights(&self, network: Network) -> Result<Weights> {
        let Header { config, set, iteration, .. } = &self.header;
        let architecture = Architecture::new(config.model(set.channels))?;
        let found = architecture.torch_names(network).filter_map(|name| {
            let tensor = self.tensors.get(&format!("{}.{name}", network.name()))?;
            Some((name, tensor.shallow_clone()))
        });
        Ok(Weights {
            name: self.path.display().to_string(),
            network,
            config: config.clone(),
            channels: set.channels,
            iteration: *iteration,
            tensors: found.collect(),
        })
    }
}

/// The name of an iteration's file.
pub(crate) fn numbered_name(iteration: u64, extension: &str) -> String {
    format!("iteration-{iteration:06}.{extension}")
}

/// The iteration that a file's name tells, if [`numbered_name`] gave it.
pub(crate) fn number_of(name: &str, extension: &str) -> Option<u64> {
    let number = name.strip_prefix("iteration-")?.strip_suffix(extension)?.strip_suffix('.')?;
    // Not `iteration-5.png`.
    number.parse().ok().filter(|&number| numbered_name(number, extension) == name)
}

/// The checkpoints of a run: `iteration-000500.safetensors` and so on. Files of other names, such as a
/// copy that a user keeps, are left alone.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The checkpoints of the run in `run`.
    pub fn of_run(run: &Path) -> Self {
        Self(run.join(CHECKPOINTS))
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder, if it is not there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("{}: cannot be made", self.0.display()))
    }

    /// The file of an iteration.
    pub fn file(&self, iteration: u64) -> PathBuf {
        self.0.join(numbered_name(iteration, EXTENSION))
    }

    /// The file of the best state, by whatever metric.
    pub fn best(&self) -> PathBuf {
        self.0.join(format!("best.{EXTENSION}"))
    }

    /// The iterations that there are files of, oldest first; none if there is no folder.
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

    /// The files there are; none if there is no folder.
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

    /// The newest checkpoint of at most `limit` iterations that can be read; `report` is told of each
    /// newer one that cannot. `None` if there is no file at all.
    ///
    /// # Errors
    /// If there are files and none can be read, or the disk fails: that is no damage of a file.
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

    /// All but the `keep` newest checkpoints and that of `also`.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn prunable(&self, keep: usize, also: u64) -> Result<Vec<PathBuf>> {
        let iterations = self.iterations()?;
        let old = &iterations[..iterations.len().saturating_sub(keep)];
        Ok(old.iter().filter(|&&old| old != also).map(|&old| self.file(old)).collect())
    }

    /// What [`Self::set_aside_after`] has set aside.
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

    /// Renames the checkpoints after `iteration`, which cannot be read, so that they stand in nobody's
    /// way; their new names.
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

    /// The iterations after `iteration`, newest first.
    fn after(&self, iteration: u64) -> Result<Vec<u64>> {
        let newer = self.iterations()?.into_iter().rev();
        Ok(newer.take_while(|&newer| newer > iteration).collect())
    }
}

/// Whether a file could not be read for a reason that is none of its own.
fn is_failure_of_disk(error: &anyhow::Error) -> bool {
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    // A file may be shorter than it says, or have been pruned just now.
    kind.is_some_and(|e| !matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::NotFound))
}
