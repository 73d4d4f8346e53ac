//! What a training run is asked to do: defaults, TOML, validation.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::architecture::ModelConfig;
use crate::data::builtin::DIGITS;
use crate::data::npy::Range;
use crate::data::{Fit, Options};
use crate::device::DeviceChoice;
use crate::error::{SettingError, Usage};
use crate::eval::metric::Metric;
use crate::rng::Latent;
use crate::shape::{ImageShape, ImageSize};
use crate::tf::AdamConfig;
use crate::train::objective::Objective;
use crate::train::step::StepConfig;

/// In what kinds of numbers training computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float32.
    #[default]
    F32,
    /// float64.
    F64,
    /// Convolutions and dense layers in bfloat16; weights, statistics, losses and moments in float32.
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F64, Self::Bf16];

    /// Its name, as the setting `precision` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
        }
    }

    /// The one that a name stands for.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|precision| precision.name() == name)
    }

    /// Of weights, statistics, losses and moments.
    pub fn kind(self) -> Kind {
        match self {
            Self::F32 | Self::Bf16 => Kind::Float,
            Self::F64 => Kind::Double,
        }
    }

    /// Of convolutions and dense layers.
    pub fn compute(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::F64 => Kind::Double,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    #[default]
    Off,
}

/// How many channels images are to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Channels {
    /// 3 if any image is in colour, else 1.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// Gray.
    #[serde(rename = "1")]
    Gray,
    /// Red, green and blue.
    #[serde(rename = "3")]
    Color,
}

/// A colour: red, green, blue. As text `black`, `white` or `#rrggbb`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Background(pub [u8; 3]);

impl FromStr for Background {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected black, white or #rrggbb, found `{text}`");
        match text {
            "black" => Ok(Self([0; 3])),
            "white" => Ok(Self([255; 3])),
            _ => {
                let mut color = [0; 3];
                let digits = text.strip_prefix('#').ok_or_else(wrong)?;
                hex::decode_to_slice(digits, &mut color).map_err(|_| wrong())?;
                Ok(Self(color))
            }
        }
    }
}

impl TryFrom<String> for Background {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Background> for String {
    fn from(Background(color): Background) -> Self {
        match color {
            [0, 0, 0] => "black".to_owned(),
            [255, 255, 255] => "white".to_owned(),
            color => format!("#{}", hex::encode(color)),
        }
    }
}

/// What to do when a run has collapsed or its values are not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCollapse {
    /// Say so and go on; stop where a value is not finite.
    #[default]
    Warn,
    /// Stop.
    Stop,
    /// Go back to the last healthy checkpoint and on with other noise, a few times.
    Rollback,
}

/// Everything that decides a run's result, and how often it reports. One name serves the flag, the
/// key in TOML and the field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainConfig {
    /// Which images.
    pub dataset: String,
    /// Width and height of the images.
    pub image_size: usize,
    /// Channels: as the images have them, gray or in colour.
    pub channels: Channels,
    /// How images of another shape come to the size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// What is behind transparent pixels.
    pub background: Background,
    /// Of arrays of floats: what is black and what is white.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// The classes that are taken; all where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// At most so many images, chosen by the seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Whether images are mirrored left to right, at random.
    pub flip: bool,
    /// Whether images that cannot be read are left out.
    pub skip_bad: bool,
    /// But not more of them than this, in percent.
    pub max_bad: f64,
    /// Where to compute.
    pub device: DeviceChoice,
    /// In which kind.
    pub precision: Precision,
    /// Whether float32 convolutions on CUDA may round their operands to 10 bits of mantissa.
    pub tf32: Switch,
    /// Passes over the data set.
    pub epochs: u64,
    /// Iterations; overrides `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u64>,
    /// Real images an iteration, and rows of z.
    pub batch_size: usize,
    /// Adam's step size, of both optimizers.
    pub learning_rate: f64,
    /// Adam's decay of the first moment.
    pub beta1: f64,
    /// Real images are labelled 1 − this.
    pub label_smoothing: f64,
    /// Generator steps an iteration.
    pub g_steps: u64,
    /// Distribution of z.
    pub latent: Latent,
    /// Length of z.
    pub z_dim: i64,
    /// Scales every layer.
    pub base_width: i64,
    /// Decides initial values, noise and the order of images.
    pub seed: u64,
    /// CPU threads; default: the physical cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Iterations between lines of metrics.
    pub log_every: u64,
    /// Iterations between sample grids; 0: only at the end.
    pub sample_every: u64,
    /// Iterations between checkpoints, besides those at the ends of epochs; 0: only the first and the
    /// last.
    pub checkpoint_every: u64,
    /// How many of the newest checkpoints are kept.
    pub keep: usize,
    /// What to do about a collapse.
    pub on_collapse: OnCollapse,
    /// Iterations between evaluations; 0: none.
    pub eval_every: u64,
    /// Images that an evaluation generates.
    pub eval_count: usize,
    /// What they are compared by: `auto`, `digits`, `pixels` or a TorchScript file.
    pub eval_features: String,
    /// Which metric decides what `checkpoints/best.safetensors` is.
    pub eval_metric: String,
}

impl Default for TrainConfig {
    fn default() -> Self {
        let (model, step) = (ModelConfig::default(), StepConfig::default());
        Self {
            dataset: DIGITS.to_owned(),
            image_size: ImageSize::REFERENCE.width,
            channels: Channels::Auto,
            fit: None,
            background: Background::default(),
            range: None,
            classes: Vec::new(),
            limit: None,
            flip: false,
            skip_bad: false,
            max_bad: Options::default().max_bad,
            device: DeviceChoice::Auto,
            precision: Precision::F32,
            tf32: Switch::Off,
            epochs: 10,
            iterations: None,
            batch_size: 128,
            learning_rate: step.adam.learning_rate,
            beta1: step.adam.beta1,
            label_smoothing: 0.1,
            g_steps: step.g_steps,
            latent: Latent::Uniform,
            z_dim: model.z_dim,
            base_width: model.base_width,
            seed: 0,
            threads: None,
            log_every: 10,
            sample_every: 100,
            checkpoint_every: 500,
            keep: 3,
            on_collapse: OnCollapse::Warn,
            eval_every: 0,
            eval_count: 5000,
            eval_features: "auto".to_owned(),
            eval_metric: Metric::FrechetDistance.name().to_owned(),
        }
    }
}

/// A key with two values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name, as in the file.
    pub key: String,
    /// The value in the run.
    pub was: String,
    /// The value asked for.
    pub is: String,
}

/// Keys that may change between a run and its continuation: of themselves they don't change what an
/// iteration computes. For the data set the images count, not the name.
const FREE_KEYS: [&str; 16] = [
    "dataset",
    "skip-bad",
    "max-bad",
    "device",
    "epochs",
    "iterations",
    "threads",
    "log-every",
    "sample-every",
    "checkpoint-every",
    "keep",
    "on-collapse",
    "eval-every",
    "eval-count",
    "eval-features",
    "eval-metric",
];

/// Keys that a configuration file may hold besides those of [`TrainConfig`].
const RUN_KEY: &str = "run";
/// The part of a run's `config.toml` that says where it ran and is not read back.
pub const ENVIRONMENT_KEY: &str = "environment";

/// A resolved configuration and where the run goes, if the user said so.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// What to train.
    pub config: TrainConfig,
    /// The run's folder.
    pub run: Option<PathBuf>,
}

/// Defaults, overridden by `file` ([`read_file`]), overridden by `flags`; then validated.
///
/// # Errors
/// [`SettingError`], if a value is out of its range; [`Usage`], if it is of another type.
pub fn resolve(mut file: toml::Table, flags: toml::Table) -> Result<Resolved> {
    override_by(&mut file, flags);
    settle(file)
}

/// The configuration of a run that goes on from one with `base`: its own, overridden by the flags.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_on(base: &TrainConfig, flags: toml::Table) -> Result<Resolved> {
    let mut table = toml::Table::try_from(base)?;
    override_by(&mut table, flags);
    settle(table)
}

/// The configuration that the run's file at `path` holds.
///
/// # Errors
/// As [`resolve`].
pub fn read_run_config(path: &Path) -> Result<TrainConfig> {
    let read = read_file(path).and_then(|table| Ok(settle(table)?.config));
    read.map_err(|error| {
        let remedy = "mend it or remove it: a run's checkpoint has every setting";
        anyhow!(Usage(format!("{error}\n{remedy}")))
    })
}

fn override_by(table: &mut toml::Table, flags: toml::Table) {
    if flags.contains_key("epochs") && !flags.contains_key("iterations") {
        // Iterations would override the flag.
        table.remove("iterations");
    }
    table.extend(flags);
}

/// What a table comes to, validated.
fn settle(mut table: toml::Table) -> Result<Resolved> {
    let run = match table.remove(RUN_KEY) {
        Some(toml::Value::String(run)) if !run.is_empty() => Some(PathBuf::from(run)),
        Some(other) => {
            let problem = format!("expected a path, found {other}");
            return Err(SettingError::new(RUN_KEY, problem).into());
        }
        None => None,
    };
    let config: TrainConfig = table.try_into().map_err(|e| anyhow!(Usage(format!("{e}"))))?;
    config.validate()?;
    Ok(Resolved { config, run })
}

fn in_file(path: &Path, message: &str) -> anyhow::Error {
    anyhow!(Usage(format!("{}: {message}", path.display())))
}

/// The settings that the file at `path` holds, and `run` if it is there.
///
/// # Errors
/// [`Usage`], naming the file and the key, if the file cannot be read or is no TOML, a key is unknown
/// (with the nearest known one), or a value is of another type or out of its range.
pub fn read_file(path: &Path) -> Result<toml::Table> {
    let usage = |message: String| in_file(path, &message);
    let text = std::fs::read_to_string(path).map_err(|e| usage(format!("cannot be read: {e}")))?;
    let raw: toml::Table = text.parse().map_err(|e| usage(format!("not valid TOML\n{e}")))?;
    let mut table = toml::Table::new();
    for (key, value) in raw {
        if key == ENVIRONMENT_KEY {
            continue;
        }
        // `batch_size` is as good as `batch-size`.
        let name = key.replace('_', "-");
        let known = known_keys();
        if !known.contains(&name) {
            let nearest = known
                .iter()
                .map(|candidate| (strsim::jaro_winkler(candidate, &name), candidate))
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .filter(|(similarity, _)| *similarity > 0.7);
            let hint = match nearest {
                Some((_, nearest)) => format!("did you mean `{nearest}`?"),
                None => format!("expected one of {}", known.join(", ")),
            };
            return Err(usage(format!("unknown key `{key}`: {hint}")));
        }
        if name != RUN_KEY {
            // Alone, so that the message can name the key.
            let alone = toml::Table::from_iter([(name.clone(), value.clone())]);
            alone
                .try_into::<TrainConfig>()
                .map_err(|e| usage(format!("`{key}` = {value}: {}", first_line(&e.to_string()))))?;
        }
        if table.insert(name, value).is_some() {
            return Err(usage(format!("`{key}` is given twice")));
        }
    }
    settle(table.clone()).map_err(|e| usage(e.to_string()))?;
    Ok(table)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn known_keys() -> Vec<String> {
    let full = TrainConfig {
        fit: Some(Fit::Crop),
        range: Some([0.0, 1.0]),
        classes: vec![String::new()],
        limit: Some(1),
        iterations: Some(1),
        threads: Some(1),
        ..Default::default()
    };
    let table = toml::Table::try_from(full).unwrap_or_default();
    table.keys().cloned().chain([RUN_KEY.to_owned()]).collect()
}

impl TrainConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`SettingError`], with what was expected and what was found.
    pub fn validate(&self) -> Result<(), SettingError> {
        let whole = [
            ("limit", self.limit.unwrap_or(1) as i128, 1, u32::MAX.into()),
            ("epochs", i128::from(self.epochs), 1, 1_000_000_000),
            ("iterations", self.iterations.unwrap_or(1).into(), 1, 1 << 40),
            ("batch-size", self.batch_size as i128, 1, 65_536),
            ("g-steps", self.g_steps.into(), 1, 100),
            ("z-dim", self.z_dim.into(), 1, 65_536),
            ("base-width", self.base_width.into(), 1, 1024),
            // TOML's integers end there.
            ("seed", self.seed.into(), 0, i64::MAX.into()),
            ("threads", self.threads.unwrap_or(1) as i128, 1, 1024),
            ("log-every", self.log_every.into(), 1, 1 << 40),
            ("sample-every", self.sample_every.into(), 0, 1 << 40),
            ("checkpoint-every", self.checkpoint_every.into(), 0, 1 << 40),
            ("keep", self.keep as i128, 1, 1_000_000),
            ("eval-every", self.eval_every.into(), 0, 1 << 40),
            ("eval-count", self.eval_count as i128, 6, 1_000_000),
        ];
        for (flag, value, low, high) in whole {
            if !(low..=high).contains(&value) {
                let problem = format!("expected {low} to {high}, found {value}");
                return Err(SettingError::new(flag, problem));
            }
        }
        self.best_metric()?;
        if self.image_size != ImageSize::REFERENCE.width {
            let (only, found) = (ImageSize::REFERENCE, self.image_size);
            let problem = format!("this version has {only} only, found {found}");
            return Err(SettingError::new("image-size", problem));
        }
        // Adam's are float32: what rounds to the forbidden end there is forbidden here.
        let real = [
            (
                "learning-rate",
                self.learning_rate,
                self.learning_rate as f32 > 0.0,
                "above 0, up to 1",
            ),
            ("beta1", self.beta1, (self.beta1 as f32) < 1.0, "0 or more, below 1"),
            (
                "label-smoothing",
                self.label_smoothing,
                self.label_smoothing < 1.0,
                "0 or more, below 1",
            ),
        ];
        if let Some([low, high]) = self.range
            && !(low.is_finite() && high.is_finite() && low < high)
        {
            let problem = format!("expected two numbers, low and high, found {low},{high}");
            return Err(SettingError::new("range", problem));
        }
        if !(0.0..=100.0).contains(&self.max_bad) {
            let problem = format!("expected a percentage, 0 to 100, found {}", self.max_bad);
            return Err(SettingError::new("max-bad", problem));
        }
        for (flag, value, end_is_fine, expected) in real {
            if !((0.0..=1.0).contains(&value) && end_is_fine) {
                let problem = format!("expected a number {expected}, found {value}");
                return Err(SettingError::new(flag, problem));
            }
        }
        Ok(())
    }

    /// The metric that decides which checkpoint is the best.
    ///
    /// # Errors
    /// [`SettingError`], if it is none that is measured during training or that has a better side.
    pub fn best_metric(&self) -> Result<Metric, SettingError> {
        let can_decide = |metric: &Metric| !metric.is_of_images();
        let mut known = Metric::ALL.into_iter().filter(can_decide);
        if let Some(metric) = known.clone().find(|metric| metric.name() == self.eval_metric) {
            return Ok(metric);
        }
        let known = known.by_ref().map(Metric::name).collect::<Vec<_>>().join(", ");
        let problem = format!("expected one of {known}, found {}", self.eval_metric);
        Err(SettingError::new("eval-metric", problem))
    }

    /// The keys that differ in `other` and change what is computed, each with its value here and there.
    ///
    /// # Errors
    /// If a value cannot be told.
    pub fn changes(&self, other: &Self) -> Result<Vec<Change>> {
        let (ours, theirs) = (toml::Table::try_from(self)?, toml::Table::try_from(other)?);
        let told =
            |value: Option<&toml::Value>| value.map_or("nothing".to_owned(), |v| v.to_string());
        let keys: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        Ok(keys
            .into_iter()
            .filter(|key| !FREE_KEYS.contains(&key.as_str()) && ours.get(*key) != theirs.get(*key))
            .map(|key| Change {
                key: key.clone(),
                was: told(ours.get(key)),
                is: told(theirs.get(key)),
            })
            .collect())
    }

    /// How the data set is read.
    pub fn data(&self) -> Options {
        Options {
            size: ImageSize::square(self.image_size),
            channels: match self.channels {
                Channels::Auto => None,
                Channels::Gray => Some(1),
                Channels::Color => Some(3),
            },
            fit: self.fit,
            background: self.background.0,
            range: self.range.map(|[low, high]| Range { low, high }),
            classes: self.classes.clone(),
            limit: self.limit,
            skip_bad: self.skip_bad,
            max_bad: self.max_bad,
            seed: self.seed,
        }
    }

    /// The networks for images of `channels` channels.
    pub fn model(&self, channels: usize) -> ModelConfig {
        ModelConfig {
            image: ImageShape { size: ImageSize::square(self.image_size), channels },
            base_width: self.base_width,
            z_dim: self.z_dim,
            ..Default::default()
        }
    }

    /// Losses and optimizers.
    pub fn step(&self) -> StepConfig {
        StepConfig {
            objective: Objective::CrossEntropy { label_smoothing: self.label_smoothing },
            g_steps: self.g_steps,
            adam: AdamConfig {
                learning_rate: self.learning_rate,
                beta1: self.beta1,
                ..Default::default()
            },
        }
    }

    /// How many iterations the run has, at `per_epoch` an epoch.
    pub fn total_iterations(&self, per_epoch: u64) -> u64 {
        self.iterations.unwrap_or_else(|| self.epochs.saturating_mul(per_epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(text: &str, flags: toml::Table) -> Result<Resolved> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("some.toml");
        std::fs::write(&path, text)?;
        resolve(read_file(&path)?, flags)
    }

    fn error_of(text: &str) -> String {
        let error = from_file(text, toml::Table::new()).unwrap_err();
        assert!(error.downcast_ref::<Usage>().is_some(), "{error:?}");
        error.to_string()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() -> Result<()> {
        let flags: toml::Table = "batch-size = 7".parse()?;
        let text =
            "batch-size = 5\nseed = 3\nlearning_rate = 1\nrun = \"x\"\n[environment]\nabc = 1";
        let resolved = from_file(text, flags)?;
        let expected =
            TrainConfig { batch_size: 7, seed: 3, learning_rate: 1.0, ..Default::default() };
        assert_eq!(resolved, Resolved { config: expected, run: Some("x".into()) });
        Ok(())
    }

    #[test]
    fn the_flag_for_epochs_wins_over_the_files_iterations() -> Result<()> {
        let config = from_file("iterations = 4", "epochs = 20".parse()?)?.config;
        assert_eq!((config.epochs, config.iterations), (20, None));
        let config = from_file("iterations = 4", "epochs = 2\niterations = 3".parse()?)?.config;
        assert_eq!(config.iterations, Some(3));
        Ok(())
    }

    #[test]
    fn what_is_written_is_read_back_the_same() -> Result<()> {
        for config in [
            TrainConfig::default(),
            TrainConfig {
                iterations: Some(5),
                threads: Some(3),
                channels: Channels::Color,
                fit: Some(Fit::Pad),
                background: Background([1, 2, 254]),
                range: Some([-1.0, 1.0]),
                classes: vec!["3".to_owned(), "a b".to_owned()],
                limit: Some(9),
                flip: true,
                device: "cuda:1".parse().map_err(|e| anyhow!("{e}"))?,
                precision: Precision::F64,
                tf32: Switch::On,
                latent: Latent::Normal,
                learning_rate: 0.1 + 0.2,
                ..Default::default()
            },
        ] {
            let text = toml::to_string(&config)?;
            assert_eq!(from_file(&text, toml::Table::new())?.config, config);
        }
        Ok(())
    }

    #[test]
    fn wrong_keys_values_and_syntax_are_named_with_what_to_do() {
        assert!(error_of("bach-size = 3").contains("did you mean `batch-size`"));
        assert!(error_of("qqqq = 3").contains("expected one of"));
        assert!(error_of("batch-size = \"many\"").contains("`batch-size`"));
        assert!(error_of("latent = \"gamma\"").contains("`uniform`"));
        assert!(error_of("batch-size = 3\nbatch_size = 4").contains("twice"));
        assert!(error_of("batch-size = ").contains("some.toml"));
        assert!(error_of("seed = -1").contains("seed"));
        assert!(error_of("run = 3").contains("some.toml"));
        assert!(error_of("run = ''").contains("some.toml: run: "));
        assert!(
            error_of("z-dim = -5").contains("some.toml") && error_of("z-dim = -5").contains("-5")
        );
    }

    #[test]
    fn every_range_is_checked() {
        for text in [
            "epochs = 0",
            "iterations = 0",
            "batch-size = 0",
            "g-steps = 0",
            "z-dim = -5",
            "base-width = 0",
            "threads = 0",
            "log-every = 0",
            "keep = 0",
            "image-size = 64",
            "limit = 0",
            "channels = '2'",
            "background = 'pink'",
            "range = [1, 0]",
            "max-bad = 101.0",
            "learning-rate = 0.0",
            "learning-rate = nan",
            "beta1 = 1.0",
            "beta1 = -0.1",
            "label-smoothing = 1.0",
            "label-smoothing = inf",
        ] {
            let key = text.split(' ').next().unwrap_or_default();
            assert!(error_of(text).contains(key), "{text}: {}", error_of(text));
        }
    }
}
