//! The settings of a training run, each declared once, in the table below.
//!
//! From a setting's entry come its field in [`TrainConfig`], its default, its key in TOML, the check of its
//! values, what a resumed run may do with it, and its row in [`SETTINGS`]; and from that the flag with its
//! help and its row in `docs/settings.md`. The order of the entries is that of the keys in a run's
//! `config.toml` and in checkpoints.

mod resolve;
mod types;
mod value;

use std::path::Path;
use std::sync::LazyLock;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::architecture::{ModelConfig, halvings};
use crate::data::builtin::DIGITS;
use crate::data::npy::Range;
use crate::data::spec;
use crate::data::{Classes, Fit, Options};
use crate::device::DeviceChoice;
use crate::error::SettingError;
use crate::files::places;
use crate::rng::Latent;
use crate::shape::{ImageShape, ImageSize};
pub use resolve::{ENVIRONMENT_KEY, Resolved, read_file, read_run_config, resolve, resolve_on};
pub use types::{
    Background, Channels, OnCollapse, OptIn, Policies, Policy, Precision, Size, Switch,
};
use value::{Field, Rule, Value, any, any_name, checked, meets, whole};
pub use value::{Form, in_toml, shown, whole_number};

/// The properties of a setting, except its value.
#[derive(Debug)]
pub struct Setting {
    /// Its key in TOML, and its flag.
    pub name: String,
    /// The group in which help and documents list it.
    pub heading: Heading,
    /// What its value is called where the setting is explained.
    pub value_name: &'static str,
    /// What it does, in a sentence or two.
    pub doc: &'static str,
    /// The default, as a flag would state it, or in words; `None` where there is none.
    pub default: Option<String>,
    /// The values that are allowed, in words.
    pub allowed: String,
    /// The form of its values on a command line.
    pub form: Form,
    /// Whether it may be without a value, which is written `none`.
    pub may_have_none: bool,
    /// The value of TOML that a text stands for; the error says what was expected.
    pub parse: fn(&str) -> Result<toml::Value, String>,
    /// Whether it decides how a data set is read, by whatever command.
    pub reads_data: bool,
    /// Whether it may change when a run is resumed.
    pub on_resume: OnResume,
}

/// Whether a setting may change when a run is resumed, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnResume {
    /// It may: it does not change what an iteration computes.
    MayChange(&'static str),
    /// It stays, because a resumed run is the same run; a fork may have another.
    Fixed(&'static str),
    /// It stays, in a fork too, because the saved networks depend on it.
    FixedByNetworks(&'static str),
}

/// Parts of the program, in the order of help and documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heading {
    /// Which images, and how they are read.
    Data,
    /// Where and in which numbers to compute.
    Place,
    /// How long and how to train.
    Training,
    /// What the networks are like.
    Networks,
    /// What is reported.
    Reports,
    /// What is saved, and when.
    Checkpoints,
    /// How images are measured during training.
    Evaluation,
}

impl Heading {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Data,
        Self::Place,
        Self::Training,
        Self::Networks,
        Self::Reports,
        Self::Checkpoints,
        Self::Evaluation,
    ];

    /// The title of this group of settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "Data",
            Self::Place => "Place",
            Self::Training => "Training",
            Self::Networks => "Networks",
            Self::Reports => "Reports",
            Self::Checkpoints => "Checkpoints",
            Self::Evaluation => "Evaluation",
        }
    }
}

/// Makes [`TrainConfig`] and [`SETTINGS`] of a table whose entries look like this:
///
/// ```text
/// /// What the setting does. The struct, help and documents say it in these words.
/// name: Type {
///     default: VALUE, unset: "what holds where VALUE is None", with: "the module that reads and writes it",
///     allowed: RULE,
///     heading: HEADING, value: "N", reads_data: true,
///     on_resume: ON_RESUME,
/// }
/// ```
///
/// `unset`, `with` and `reads_data` may be left out. Without any of the others, an entry does not compile. Types are
/// those that `value.rs` can read, and the rules are made by its functions.
macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $type:ty {
            default: $default:expr, $(unset: $unset:literal,)? $(with: $with:literal,)?
            allowed: $allowed:expr,
            heading: $heading:ident, value: $value:literal, $(reads_data: $reads_data:literal,)?
            on_resume: $on_resume:expr,
        }
    )+) => {
        /// The settings of a run: everything that decides a run's result, and how often it reports.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
        pub struct TrainConfig {
            $(
                $(#[doc = $doc])+
                #[serde(skip_serializing_if = "Field::is_absent" $(, with = $with)?)]
                pub $name: $type,
            )+
        }

        impl Default for TrainConfig {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl TrainConfig {
            /// Checks that every value is allowed.
            ///
            /// # Errors
            /// If one is not, with what was expected and what was found.
            pub fn validate(&self) -> Result<(), SettingError> {
                $(
                    if let Some(value) = self.$name.given() {
                        let rule: Rule<<$type as Field>::Value> = $allowed;
                        (rule.check)(value)
                            .map_err(|problem| SettingError::new(key(stringify!($name)), problem))?;
                    }
                )+
                Ok(())
            }
        }

        /// All settings, in the order of their keys in a run's `config.toml`.
        pub static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
            let defaults = TrainConfig::default();
            vec![$(
                Setting {
                    name: key(stringify!($name)),
                    heading: Heading::$heading,
                    value_name: $value,
                    doc: concat!($($doc),+).trim_start(),
                    default: defaults.$name.given().map(shown).or(settings!(@unset $($unset)?)),
                    allowed: {
                        let rule: Rule<<$type as Field>::Value> = $allowed;
                        rule.text
                    },
                    form: <$type as Field>::Value::form(),
                    may_have_none: <$type as Field>::may_have_none(),
                    parse: <$type as Field>::from_text,
                    reads_data: settings!(@reads_data $($reads_data)?),
                    on_resume: $on_resume,
                },
            )+]
        });
    };
    (@unset) => { None };
    (@unset $unset:literal) => { Some($unset.to_owned()) };
    (@reads_data) => { false };
    (@reads_data $reads_data:literal) => { $reads_data };
}

/// The key of a field: what is `batch_size` in Rust is `batch-size` everywhere else.
fn key(field: &str) -> String {
    field.replace('_', "-")
}

settings! {
    /// Which images: digits (built in), mnist, fashion-mnist, kmnist, svhn, cifar10, cifar100, emnist-letters
    /// (or -balanced, -byclass, -bymerge, -digits, -mnist), folder:PATH, zip:FILE, tar:FILE, idx:FILE, mat:FILE,
    /// npy:FILE or npz:FILE.
    dataset: String {
        default: DIGITS.to_owned(),
        allowed: any("a name, or a kind and a path"),
        heading: Data, value: "SPEC",
        on_resume: OnResume::MayChange("the images must stay the same, not the place they come from"),
    }

    /// Size of the images: one side such as 64, width x height such as 80x48, or auto (the size that all
    /// images have themselves). The networks grow with it.
    image_size: Size {
        default: Size::Of(ImageSize::REFERENCE),
        allowed: checked(
            "sides of 16 to 256, divisible by 2 several times, the larger at most 4 times the smaller; auto",
            is_possible,
        ),
        heading: Data, value: "SIZE", reads_data: true,
        on_resume: OnResume::FixedByNetworks("the layers are made for it"),
    }

    /// Channels of the images: auto (3 if any image is in colour, else 1), 1 or 3.
    channels: Channels {
        default: Channels::Auto,
        allowed: any_name(),
        heading: Data, value: "CHANNELS", reads_data: true,
        on_resume: OnResume::Fixed("it decides what the images are"),
    }

    /// How images of another shape are fitted: crop (the largest part in its middle that has the
    /// wanted shape), pad (with zeros) or stretch.
    fit: Option<Fit> {
        default: None, unset: "crop; of arrays: pad",
        allowed: any_name(),
        heading: Data, value: "FIT", reads_data: true,
        on_resume: OnResume::Fixed("it decides what the images are"),
    }

    /// The colour behind transparent pixels: black, white or #rrggbb.
    background: Background {
        default: Background::default(),
        allowed: any("black, white or #rrggbb"),
        heading: Data, value: "COLOUR", reads_data: true,
        on_resume: OnResume::Fixed("it decides what the images are"),
    }

    /// The values of black and white in arrays of numbers other than unsigned bytes, such as 0,1 or -1,1, and in images with
    /// 16 bits a value.
    range: Option<[f64; 2]> {
        default: None,
        allowed: meets("two numbers, low and high", |&[low, high]: &[f64; 2]| {
            low.is_finite() && high.is_finite() && low < high
        }),
        heading: Data, value: "LOW,HIGH", reads_data: true,
        on_resume: OnResume::Fixed("it decides what the images are"),
    }

    /// The shape of each image in an array of rows [N, D], as NumPy's reshape takes it: 28,28 or 32,32,3 or, with its
    /// channels first, 3,32,32.
    reshape: Option<Vec<usize>> {
        default: None, unset: "as the array is",
        allowed: meets("two or three numbers above 0, such as 28,28", |shape: &Vec<usize>| {
            (2..=3).contains(&shape.len()) && !shape.contains(&0)
        }),
        heading: Data, value: "H,W[,C]", reads_data: true,
        on_resume: OnResume::Fixed("it decides what the images are"),
    }

    /// Exchange rows and columns of each image of an array, as EMNIST's files need it.
    transpose: OptIn {
        default: OptIn::default(), unset: "false",
        allowed: any_name(),
        heading: Data, value: "BOOL", reads_data: true,
        on_resume: OnResume::Fixed("it decides what the images are"),
    }

    /// Use only images of these classes, such as 3,7 (the classes of files are the names of their folders).
    classes: Vec<String> {
        default: Vec::new(), unset: "all",
        allowed: any("names of classes"),
        heading: Data, value: "CLASS,...", reads_data: true,
        on_resume: OnResume::Fixed("it decides which images there are"),
    }

    /// Use at most N images, chosen by the seed.
    limit: Option<usize> {
        default: None, unset: "all",
        allowed: whole(1..=u32::MAX.into()),
        heading: Data, value: "N", reads_data: true,
        on_resume: OnResume::Fixed("it decides which images there are"),
    }

    /// Let the classes of the images steer both networks: the generator makes images of the class that it is
    /// asked for.
    conditional: OptIn {
        default: OptIn::default(), unset: "false",
        allowed: any_name(),
        heading: Networks, value: "BOOL",
        on_resume: OnResume::FixedByNetworks("the networks are made for the classes"),
    }

    /// Mirror images left to right, each with probability one half.
    flip: bool {
        default: false,
        allowed: any_name(),
        heading: Data, value: "BOOL",
        on_resume: OnResume::Fixed("it decides what the networks see"),
    }

    /// Leave out images that cannot be read, with a warning.
    skip_bad: bool {
        default: false,
        allowed: any_name(),
        heading: Data, value: "BOOL", reads_data: true,
        on_resume: OnResume::MayChange("the images that are read must stay the same"),
    }

    /// With `skip-bad`, the largest share of images that may be left out, in percent.
    max_bad: f64 {
        default: 5.0,
        allowed: meets("a percentage, 0 to 100", |percent| (0.0..=100.0).contains(percent)),
        heading: Data, value: "PERCENT", reads_data: true,
        on_resume: OnResume::MayChange("the images that are read must stay the same"),
    }

    /// Where to compute: auto, cpu, cuda, cuda:N or mps.
    device: DeviceChoice {
        default: DeviceChoice::Auto,
        allowed: any("auto, cpu, cuda, cuda:N or mps"),
        heading: Place, value: "DEVICE",
        on_resume: OnResume::MayChange("the last bits of results may differ then, and a warning says so"),
    }

    /// f32: float32; bf16: convolutions and dense layers in bfloat16, faster and less exact; f64:
    /// float64.
    precision: Precision {
        default: Precision::F32,
        allowed: any_name(),
        heading: Place, value: "PRECISION",
        on_resume: OnResume::Fixed("it decides how every number is rounded"),
    }

    /// On the CPU, compute convolutions without the faster ways of this program, which in float32 round more than
    /// libtorch's own. This is slower.
    plain_convolutions: OptIn {
        default: OptIn::default(), unset: "false",
        allowed: any("true or false"),
        heading: Place, value: "BOOL",
        on_resume: OnResume::Fixed("it decides how every number is rounded"),
    }

    /// On CUDA, let float32 convolutions and matrix products compute in TensorFloat-32: faster and less exact.
    tf32: Switch {
        default: Switch::Off,
        allowed: any_name(),
        heading: Place, value: "ON|OFF",
        on_resume: OnResume::Fixed("it decides how every number is rounded"),
    }

    /// On CUDA, run each iteration as one CUDA graph: one call of the host in place of hundreds.
    graph: Option<Switch> {
        default: None, unset: "on",
        allowed: any_name(),
        heading: Place, value: "ON|OFF",
        on_resume: OnResume::MayChange("it changes no more than rounding"),
    }

    /// On CUDA, compute only in ways that give the same bits every time on the same device. This is slower.
    deterministic: OptIn {
        default: OptIn::default(), unset: "false",
        allowed: any("true or false"),
        heading: Place, value: "BOOL",
        on_resume: OnResume::MayChange("it changes no more than rounding"),
    }

    /// Passes over the data set.
    epochs: u64 {
        default: 10,
        allowed: whole(1..=1_000_000_000),
        heading: Training, value: "N",
        on_resume: OnResume::MayChange("a run can be made longer"),
    }

    /// Iterations (one discriminator step and `g-steps` generator steps each); overrides `epochs`.
    iterations: Option<u64> {
        default: None, unset: "as many as `epochs` takes",
        allowed: whole(1..=1 << 40),
        heading: Training, value: "N",
        on_resume: OnResume::MayChange("a run can be made longer"),
    }

    /// Images in a batch; each iteration takes one batch.
    batch_size: usize {
        default: 128,
        allowed: whole(1..=65_536),
        heading: Training, value: "N",
        on_resume: OnResume::Fixed("it decides what an iteration computes"),
    }

    /// Adam's step size, of both networks.
    learning_rate: f64 {
        default: 2e-4,
        // Adam computes in float32: what rounds to 0 there is no step.
        allowed: meets("a number above 0, up to 1", |&x| x as f32 > 0.0 && x <= 1.0),
        heading: Training, value: "X",
        on_resume: OnResume::Fixed("it decides what an iteration computes"),
    }

    /// Adam's decay of the first moment.
    beta1: f64 {
        default: 0.5,
        // Adam computes in float32: what rounds to 1 there never forgets.
        allowed: meets("a number 0 or more, below 1", |&x| x >= 0.0 && (x as f32) < 1.0),
        heading: Training, value: "X",
        on_resume: OnResume::Fixed("it decides what an iteration computes"),
    }

    /// One-sided label smoothing: real images are labelled 1 - X.
    label_smoothing: f64 {
        default: 0.1,
        allowed: meets("a number 0 or more, below 1", |x| (0.0..1.0).contains(x)),
        heading: Training, value: "X",
        on_resume: OnResume::Fixed("it decides what an iteration computes"),
    }

    /// Generator steps in each iteration.
    g_steps: u64 {
        default: 2,
        allowed: whole(1..=100),
        heading: Training, value: "N",
        on_resume: OnResume::Fixed("it decides what an iteration computes"),
    }

    /// Keep a moving average of the generator, with this decay (such as 0.95), and make images with it. In
    /// iteration t the decay is at most (1 + t) / (10 + t). A fork may turn it off: none.
    ema: Option<f64> {
        default: None, unset: "none",
        allowed: meets("a number above 0, below 1", |&x| x > 0.0 && x < 1.0),
        heading: Training, value: "DECAY",
        on_resume: OnResume::Fixed("it decides what the run's images are"),
    }

    /// Augment what the discriminator sees, real and generated images alike: color, translation, cutout, or
    /// several of them with commas between; without a value all three. For small data sets.
    augment: Policies {
        default: Policies::default(), unset: "none",
        allowed: meets("some of color, translation, cutout, each once", Policies::are_distinct),
        heading: Training, value: "POLICY,...",
        on_resume: OnResume::Fixed("it decides what the discriminator sees"),
    }

    /// Distribution of the noise vector z.
    latent: Latent {
        default: Latent::Uniform,
        allowed: any_name(),
        heading: Networks, value: "LATENT",
        on_resume: OnResume::Fixed("it decides what the generator is given"),
    }

    /// Length of the noise vector z.
    z_dim: i64 {
        default: 100,
        allowed: whole(1..=65_536),
        heading: Networks, value: "N",
        on_resume: OnResume::FixedByNetworks("the generator's first layer is made for it"),
    }

    /// Width of the networks, which scales every layer; the reference's have 64.
    base_width: i64 {
        default: 64,
        allowed: whole(1..=1024),
        heading: Networks, value: "N",
        on_resume: OnResume::FixedByNetworks("the layers are made for it"),
    }

    /// The most channels of a layer: widths double from layer to layer until they reach it.
    max_width: Option<i64> {
        default: None, unset: "16 times the base width",
        allowed: whole(1..=16_384),
        heading: Networks, value: "N",
        on_resume: OnResume::FixedByNetworks("the layers are made for it"),
    }

    /// Decides initial weights, noise and the order of images.
    seed: u64 {
        default: 0, with: "value::seed",
        allowed: any("0 to 18446744073709551615; in files, above 9223372036854775807 as a text in quotes"),
        heading: Training, value: "N",
        on_resume: OnResume::Fixed("it decides the noise of every iteration"),
    }

    /// CPU threads.
    threads: Option<usize> {
        default: None, unset: "OMP_NUM_THREADS of the environment, else the physical cores that the process may use",
        allowed: whole(1..=1024),
        heading: Place, value: "N",
        on_resume: OnResume::MayChange("the last bits of results may differ then, and a warning says so"),
    }

    /// Iterations between lines of metrics.
    log_every: u64 {
        default: 10,
        allowed: whole(1..=1 << 40),
        heading: Reports, value: "N",
        on_resume: OnResume::MayChange("it decides only what is written"),
    }

    /// Iterations between sample grids; 0: only at the end.
    sample_every: u64 {
        default: 100,
        allowed: whole(0..=1 << 40),
        heading: Reports, value: "N",
        on_resume: OnResume::MayChange("it decides only what is written"),
    }

    /// Iterations between histograms of the weights and gradients of both networks in TensorBoard. The gradients are
    /// those of the iteration's discriminator step and of its last generator step.
    histograms: Option<u64> {
        default: None, unset: "none",
        allowed: whole(1..=1 << 40),
        heading: Reports, value: "N",
        on_resume: OnResume::MayChange("it decides only what is written"),
    }

    /// Iterations between checkpoints, besides those at the ends of epochs of 50 iterations or more;
    /// 0: only the first and the last.
    checkpoint_every: u64 {
        default: 500,
        allowed: whole(0..=1 << 40),
        heading: Checkpoints, value: "N",
        on_resume: OnResume::MayChange("it decides only what is written"),
    }

    /// How many of the newest checkpoints are kept, besides the newest that shows no sign of collapse.
    keep: usize {
        default: 3,
        allowed: whole(1..=1_000_000),
        heading: Checkpoints, value: "N",
        on_resume: OnResume::MayChange("it decides only what is kept"),
    }

    /// What happens when the discriminator has won, all samples look the same or the losses have frozen:
    /// warn; stop; or rollback to the last healthy checkpoint, from which the run continues with other
    /// noise, at most 3 times.
    on_collapse: OnCollapse {
        default: OnCollapse::Warn,
        allowed: any_name(),
        heading: Checkpoints, value: "ACTION",
        on_resume: OnResume::MayChange("it matters only after a collapse"),
    }

    /// Iterations between evaluations; 0: none. The best checkpoint so far is kept as
    /// checkpoints/best.safetensors.
    eval_every: u64 {
        default: 0,
        allowed: whole(0..=1 << 40),
        heading: Evaluation, value: "N",
        on_resume: OnResume::MayChange("measuring changes no weight"),
    }

    /// Images that an evaluation generates.
    eval_count: usize {
        default: 5000,
        allowed: whole(6..=1_000_000),
        heading: Evaluation, value: "N",
        on_resume: OnResume::MayChange("measuring changes no weight"),
    }

    /// The features that an evaluation compares images by: digits, pixels or FILE.pt; auto: digits where the
    /// data set has classes, else pixels.
    eval_features: String {
        default: "auto".to_owned(),
        allowed: any("auto, digits, pixels or a TorchScript file"),
        heading: Evaluation, value: "FEATURES",
        on_resume: OnResume::MayChange("measuring changes no weight"),
    }

    /// The metric that decides which checkpoint is the best.
    eval_metric: String {
        default: "frechet_distance".to_owned(),
        // Which metrics there are, the evaluation knows and checks.
        allowed: meets(
            "the name of a metric of features or classes, see docs/metrics.md",
            |name: &String| !name.is_empty(),
        ),
        heading: Evaluation, value: "METRIC",
        on_resume: OnResume::MayChange("measuring changes no weight"),
    }
}

/// Whether networks can be made for images of this size.
fn is_possible(size: &Size) -> Result<(), String> {
    let halvings = size.known().map(halvings);
    halvings.transpose().map(drop).map_err(|error| error.to_string())
}

/// A setting with two values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name, as in the file and as a flag.
    pub key: String,
    /// The value in the run.
    pub was: String,
    /// The value asked for.
    pub is: String,
}

impl TrainConfig {
    /// The settings that differ in `other` and must not when a run is resumed, each with its value here and
    /// there.
    ///
    /// # Errors
    /// If a value has no form in TOML.
    pub fn changes(&self, other: &Self) -> Result<Vec<Change>> {
        self.differences(other, |on_resume| !matches!(on_resume, OnResume::MayChange(_)))
    }

    /// As [`TrainConfig::changes`], of all settings.
    ///
    /// # Errors
    /// As [`TrainConfig::changes`].
    pub fn all_changes(&self, other: &Self) -> Result<Vec<Change>> {
        self.differences(other, |_| true)
    }

    /// As [`TrainConfig::changes`], of the settings that must not differ in a fork either.
    ///
    /// # Errors
    /// As [`TrainConfig::changes`].
    pub fn network_changes(&self, other: &Self) -> Result<Vec<Change>> {
        self.differences(other, |on_resume| matches!(on_resume, OnResume::FixedByNetworks(_)))
    }

    fn differences(&self, other: &Self, counts: fn(OnResume) -> bool) -> Result<Vec<Change>> {
        let (ours, theirs) = (toml::Table::try_from(self)?, toml::Table::try_from(other)?);
        let counted = SETTINGS.iter().filter(|setting| counts(setting.on_resume));
        Ok(counted
            .map(|setting| (setting, ours.get(&setting.name), theirs.get(&setting.name)))
            .filter(|(_, was, is)| was != is)
            .map(|(Setting { name, default, .. }, was, is)| {
                let default = || default.as_deref().unwrap_or("nothing").to_owned();
                let told =
                    |value: Option<&toml::Value>| value.map_or_else(default, |v| v.to_string());
                Change { key: name.clone(), was: told(was), is: told(is) }
            })
            .collect())
    }

    /// How the data set is read.
    pub fn data(&self) -> Options {
        Options {
            size: self.image_size.known(),
            channels: match self.channels {
                Channels::Auto => None,
                Channels::Gray => Some(1),
                Channels::Color => Some(3),
            },
            fit: self.fit,
            background: self.background.0,
            range: self.range.map(|[low, high]| Range { low, high }),
            reshape: self.reshape.clone(),
            transpose: self.transpose.is_on(),
            classes: self.classes.clone(),
            limit: self.limit,
            skip_bad: self.skip_bad,
            max_bad: self.max_bad,
            seed: self.seed,
        }
    }

    /// The same settings, for images that have turned out to have this size.
    ///
    /// # Errors
    /// If they ask for another size.
    pub fn with_size(&self, found: ImageSize) -> Result<Self, SettingError> {
        match self.image_size.known() {
            Some(asked) if asked != found => {
                let problem = format!("expected images of {asked}, found {found}");
                Err(SettingError::new("image-size", problem))
            }
            _ => Ok(Self { image_size: Size::Of(found), ..self.clone() }),
        }
    }

    /// Whether these are the classes of a run with these settings: possible ones if it is conditional, else none.
    pub fn takes(&self, classes: Option<&Classes>) -> bool {
        classes.is_some() == self.conditional.is_on() && classes.is_none_or(Classes::are_possible)
    }

    /// The networks for images of this shape and so many classes, 0 where none steer them.
    pub fn model(&self, image: ImageShape, classes: usize) -> ModelConfig {
        ModelConfig {
            image,
            classes: classes as i64,
            base_width: self.base_width,
            max_width: self.max_width,
            z_dim: self.z_dim,
            ..Default::default()
        }
    }

    /// The same settings with absolute paths, so that they mean the same wherever they are read.
    ///
    /// # Errors
    /// If the home folder is asked for and not known, or the folder of the process is gone.
    pub fn with_absolute_paths(self) -> Result<Self> {
        let dataset = spec::absolute(&self.dataset)?;
        let eval_features = match self.names_features() {
            true => self.eval_features.clone(),
            false => places::resolved(&self.eval_features)?.display().to_string(),
        };
        Ok(Self { dataset, eval_features, ..self })
    }

    /// The same settings with only the last part of each path, for those who have no business with the folders of this
    /// machine.
    pub fn portable(&self) -> Self {
        let file = Path::new(&self.eval_features).file_name().unwrap_or_default();
        let eval_features = match self.names_features() {
            true => self.eval_features.clone(),
            false => file.to_string_lossy().into_owned(),
        };
        Self { dataset: spec::portable(&self.dataset), eval_features, ..self.clone() }
    }

    /// Whether the features of evaluations are known by a name, and are no file.
    fn names_features(&self) -> bool {
        ["auto", "digits", "pixels"].contains(&&*self.eval_features)
    }

    /// How many iterations the run has, at `per_epoch` an epoch.
    pub fn total_iterations(&self, per_epoch: u64) -> u64 {
        self.iterations.unwrap_or_else(|| self.epochs.saturating_mul(per_epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_allowed_is_an_error_of_its_setting() {
        for (flags, setting, problem) in [
            ("batch-size = 0", "batch-size", "expected 1 to 65536, found 0"),
            (
                "image-size = 72",
                "image-size",
                "images of 72×72 pixels are not possible (both sides must be divisible by 2 several times); the \
                 nearest that are: 64 and 80",
            ),
            (
                "image-size = '80x12'",
                "image-size",
                "images of 80×12 pixels are not possible (sides are 16 to 256 pixels, the larger one at most 4 times \
                 the smaller); the nearest that are: 80x20",
            ),
            ("learning-rate = 2.0", "learning-rate", "expected a number above 0, up to 1, found 2"),
            ("range = [1.0, 0.0]", "range", "expected two numbers, low and high, found 1,0"),
            (
                "augment = ['cutout', 'color', 'cutout']",
                "augment",
                "expected some of color, translation, cutout, each once, found color,cutout,cutout",
            ),
            ("max-bad = nan", "max-bad", "expected a percentage, 0 to 100, found NaN"),
        ] {
            let error = resolve(toml::Table::new(), flags.parse().unwrap()).unwrap_err();
            let expected = SettingError::new(setting, problem);
            assert_eq!(error.downcast_ref::<SettingError>(), Some(&expected), "{error}");
            assert_eq!(error.to_string(), format!("{setting}: {problem}"));
        }
        let error = resolve(toml::Table::new(), "eval-metric = ''".parse().unwrap());
        assert!(error.unwrap_err().to_string().contains("expected the name of a metric"));
    }

    #[test]
    fn the_text_of_a_configuration_stays_what_checkpoints_hold() -> Result<()> {
        let defaults = r#"dataset = "digits"
image-size = 32
channels = "auto"
background = "black"
flip = false
skip-bad = false
max-bad = 5.0
device = "auto"
precision = "f32"
tf32 = "off"
epochs = 10
batch-size = 128
learning-rate = 0.0002
beta1 = 0.5
label-smoothing = 0.1
g-steps = 2
latent = "uniform"
z-dim = 100
base-width = 64
seed = 0
log-every = 10
sample-every = 100
checkpoint-every = 500
keep = 3
on-collapse = "warn"
eval-every = 0
eval-count = 5000
eval-features = "auto"
eval-metric = "frechet_distance"
"#;
        assert_eq!(toml::to_string(&TrainConfig::default())?, defaults);
        // Settings that are given only sometimes have their places between the others.
        let mut expected = defaults.to_owned();
        for (after, line) in [
            ("channels = \"auto\"\n", "fit = \"crop\"\n"),
            (
                "background = \"black\"\n",
                "range = [-1.0, 1.0]\nreshape = [28, 28]\ntranspose = true\nclasses = [\"3\"]\nlimit = 7\n",
            ),
            ("epochs = 10\n", "iterations = 5\n"),
            ("g-steps = 2\n", "ema = 0.999\naugment = [\"color\", \"cutout\"]\n"),
            ("seed = 0\n", "threads = 2\n"),
            ("sample-every = 100\n", "histograms = 8\n"),
        ] {
            expected = expected.replacen(after, &format!("{after}{line}"), 1);
        }
        let config = TrainConfig {
            fit: Some(Fit::Crop),
            range: Some([-1.0, 1.0]),
            reshape: Some(vec![28, 28]),
            transpose: true.into(),
            classes: vec!["3".to_owned()],
            limit: Some(7),
            iterations: Some(5),
            ema: Some(0.999),
            // Whatever their order was, it becomes that in which they are applied.
            augment: vec![Policy::Cutout, Policy::Color].into(),
            threads: Some(2),
            histograms: Some(8),
            ..Default::default()
        };
        assert_eq!(toml::to_string(&config)?, expected);
        Ok(())
    }

    #[test]
    fn a_resumed_run_may_change_these_settings_and_no_others() -> Result<()> {
        let free = [
            "dataset",
            "skip-bad",
            "max-bad",
            "device",
            "graph",
            "deterministic",
            "epochs",
            "iterations",
            "threads",
            "log-every",
            "sample-every",
            "histograms",
            "checkpoint-every",
            "keep",
            "on-collapse",
            "eval-every",
            "eval-count",
            "eval-features",
            "eval-metric",
        ];
        // Every setting, with another value than its default.
        let other: toml::Table = r#"
            dataset = "mnist"
            image-size = 64
            channels = "1"
            fit = "pad"
            background = "white"
            range = [0.0, 1.0]
            reshape = [28, 28]
            transpose = true
            classes = ["3"]
            limit = 9
            conditional = true
            flip = true
            skip-bad = true
            max-bad = 6.0
            device = "cpu"
            precision = "f64"
            plain-convolutions = true
            tf32 = "on"
            graph = "off"
            deterministic = true
            epochs = 11
            iterations = 9
            batch-size = 9
            learning-rate = 0.1
            beta1 = 0.1
            label-smoothing = 0.2
            g-steps = 1
            ema = 0.9
            augment = ["translation"]
            latent = "normal"
            z-dim = 9
            base-width = 9
            max-width = 9
            seed = 9
            threads = 9
            log-every = 9
            sample-every = 9
            histograms = 9
            checkpoint-every = 9
            keep = 9
            on-collapse = "stop"
            eval-every = 9
            eval-count = 9
            eval-features = "pixels"
            eval-metric = "recall"
        "#
        .parse()?;
        assert_eq!(other.len(), SETTINGS.len());
        let base = TrainConfig::default();
        for (name, value) in other {
            let table = toml::Table::from_iter([(name.clone(), value)]);
            let changed = table.clone().try_into()?;
            assert_ne!(base, changed, "{name}");
            let keys = |changes: Vec<Change>| {
                changes.into_iter().map(|change| change.key).collect::<Vec<_>>()
            };
            let expected = if free.contains(&&*name) { vec![] } else { vec![name.clone()] };
            assert_eq!(keys(base.changes(&changed)?), expected);
            let in_forks =
                ["image-size", "z-dim", "base-width", "max-width", "conditional"].contains(&&*name);
            let expected = if in_forks { vec![name] } else { vec![] };
            assert_eq!(keys(base.network_changes(&changed)?), expected);
        }
        Ok(())
    }

    #[test]
    fn what_the_table_says_of_a_setting_is_what_holds() -> Result<()> {
        for setting in SETTINGS.iter() {
            assert!(setting.doc.ends_with('.') && !setting.doc.contains("  "), "{setting:?}");
            assert!(!setting.allowed.is_empty(), "{setting:?}");
            // A default that is a value is read as that.
            let default = setting.default.as_deref().map(setting.parse);
            let defaults = toml::Table::try_from(TrainConfig::default())?;
            if let Some(value) = defaults.get(&setting.name) {
                assert_eq!(default, Some(Ok(value.clone())), "{setting:?}");
            }
        }
        let read_data: Vec<_> =
            SETTINGS.iter().filter(|s| s.reads_data).map(|s| &*s.name).collect();
        let expected = [
            "image-size",
            "channels",
            "fit",
            "background",
            "range",
            "reshape",
            "transpose",
            "classes",
            "limit",
            "skip-bad",
            "max-bad",
        ];
        assert_eq!(read_data, expected);
        Ok(())
    }
}
