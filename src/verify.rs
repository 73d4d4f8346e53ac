//! This build against a reference file: what the real TensorFlow computed, in its own names,
//! layouts and upright frame.
//!
//! In order: outputs, losses, every gradient by name, then training. The bounds are those of the
//! format's definition and hold for any sizes a file chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tch::{Device, Kind, Tensor};

use crate::architecture::{Architecture, ModelConfig, Network};
use crate::files::TensorFile;
use crate::model::Model;
use crate::shape::{ImageShape, ImageSize};
use crate::tf::frame::rotate_images;
use crate::tf::{AdamConfig, Role, Statistics, Variable};
use crate::train::objective::Objective;
use crate::train::state::{Part, state};
use crate::train::step::{Gan, StepConfig};

/// What a file says of how it was made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Framework and version that computed it.
    pub framework: String,
    /// Kind of every tensor.
    pub kind: Kind,
    /// Rows of `z`, and of the images but for the last iteration's.
    pub batch: i64,
    /// Iterations trained.
    pub iterations: usize,
    /// Sizes and constants of the networks.
    pub model: ModelConfig,
    /// Losses and optimizers.
    pub step: StepConfig,
}

/// The groups of comparisons, in the order in which a mistake shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Generated images and logits at the initial variables.
    Forward,
    /// Losses at the initial variables.
    Losses,
    /// Of d_loss for the discriminator, of g_loss for the generator.
    Gradients,
    /// Gradients of biases whose true gradient is 0.
    CancelledGradients,
    /// Losses of every iteration.
    Trace,
    /// Trained variables after the last iteration.
    Variables,
    /// Adam's moments after the last iteration.
    Moments,
    /// Biases whose true gradient is 0, and their moments.
    CancelledBiases,
    /// The generator's moving means.
    MovingMeans,
    /// The generator's moving variances.
    MovingVariances,
    /// The generator with moving statistics, after training.
    Sample,
}

impl Group {
    /// Whether the error is the largest absolute difference, because the truth is 0.
    pub fn is_absolute(self) -> bool {
        matches!(self, Self::CancelledGradients | Self::CancelledBiases)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Forward => "forward",
            Self::Losses => "losses",
            Self::Gradients => "gradients",
            Self::CancelledGradients => "gradients that are 0 †",
            Self::Trace => "loss trace",
            Self::Variables => "trained variables",
            Self::Moments => "Adam's moments",
            Self::CancelledBiases => "biases of no effect †",
            Self::MovingMeans => "moving means",
            Self::MovingVariances => "moving variances",
            Self::Sample => "final sample",
        })
    }
}

/// One tensor's comparison.
#[derive(Debug, Clone)]
pub struct Check {
    /// Which group it belongs to.
    pub group: Group,
    /// The tensor's name in the file.
    pub name: String,
    /// ‖ours − theirs‖ / ‖theirs‖; for what is truly 0, the largest absolute difference.
    pub error: f64,
    /// What the error may be.
    pub bound: f64,
    /// The first positions that differ most visibly; empty where the check passed.
    pub first_bad: Vec<String>,
}

impl Check {
    /// Whether the error is within its bound; NaN is not.
    pub fn passed(&self) -> bool {
        self.error <= self.bound
    }
}

/// The comparison of one file.
#[derive(Debug, Clone)]
pub struct Report {
    /// How the file was made.
    pub settings: Settings,
    /// Every comparison, in order.
    pub checks: Vec<Check>,
    /// What was not compared, and why.
    pub not_compared: Vec<String>,
}

impl Report {
    /// Whether every comparison passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(Check::passed)
    }

    /// For each group: the number of tensors, and the check closest to (or furthest over) its bound.
    pub fn worst(&self) -> BTreeMap<Group, (usize, &Check)> {
        let mut groups: BTreeMap<Group, (usize, &Check)> = BTreeMap::new();
        for check in &self.checks {
            let (count, worst) = groups.entry(check.group).or_insert((0, check));
            *count += 1;
            let share = |check: &Check| check.error / check.bound;
            if share(check).is_nan() || share(check) > share(worst) {
                *worst = check;
            }
        }
        groups
    }
}

/// What the errors may be. `None`: not compared.
struct Bounds {
    forward: f64,
    gradients: f64,
    cancelled: Option<f64>,
    variables: f64,
    moments: f64,
    moving_means: f64,
    moving_variances: Option<f64>,
    sample: Option<f64>,
}

impl Bounds {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Double => Self {
                forward: 1e-12,
                gradients: 1e-12,
                cancelled: Some(1e-8),
                variables: 1e-10,
                moments: 1e-10,
                // TF: in float64 it keeps the decay in float32 and takes the biased variance.
                moving_means: 1e-6,
                moving_variances: None,
                sample: None,
            },
            _ => Self {
                forward: 1e-5,
                gradients: 5e-2,
                cancelled: None,
                variables: 1e-2,
                moments: 1e-1,
                moving_means: 5e-3,
                moving_variances: Some(1e-3),
                sample: Some(5e-2),
            },
        }
    }
}

/// Compares this build, on `device`, with the reference file at `path`.
///
/// # Errors
/// If the file is not one of the format, or holds other tensors than its settings ask for; the
/// message names the file and the tensor. A disagreement is no error: see [`Report::passed`].
pub fn verify(path: &Path, device: Device) -> Result<Report> {
    let file = TensorFile::read(path)?;
    Comparison::new(&file, device)
        .and_then(Comparison::run)
        .with_context(|| path.display().to_string())
}

impl Settings {
    fn read(metadata: &BTreeMap<String, String>) -> Result<Self> {
        fn get<'a>(metadata: &'a BTreeMap<String, String>, key: &str) -> Result<&'a str> {
            metadata.get(key).map(String::as_str).with_context(|| {
                format!("metadata has no `{key}`; expected a file of format `dcgan-reference`")
            })
        }
        fn number<T: FromStr>(metadata: &BTreeMap<String, String>, key: &str) -> Result<T> {
            let text = get(metadata, key)?;
            text.parse().map_err(|_| anyhow!("metadata `{key}`: expected a number, found `{text}`"))
        }
        let size = |key: &str, range: std::ops::RangeInclusive<i64>| -> Result<i64> {
            let value = number(metadata, key)?;
            ensure!(
                range.contains(&value),
                "metadata `{key}`: expected {} to {}, found {value}",
                range.start(),
                range.end()
            );
            Ok(value)
        };
        let real = |key: &str| -> Result<f64> {
            let value: f64 = number(metadata, key)?;
            ensure!(value.is_finite(), "metadata `{key}`: expected a finite number, found {value}");
            Ok(value)
        };
        for (key, expected) in [("format", "dcgan-reference"), ("version", "1")] {
            let found = get(metadata, key)?;
            ensure!(found == expected, "metadata `{key}`: expected `{expected}`, found `{found}`");
        }
        let kind = match get(metadata, "dtype")? {
            "f32" => Kind::Float,
            "f64" => Kind::Double,
            other => bail!("metadata `dtype`: expected `f32` or `f64`, found `{other}`"),
        };
        let image_size: ImageSize = get(metadata, "image_size")?
            .parse()
            .map_err(|problem| anyhow!("metadata `image_size`: {problem}"))?;
        let channels = usize::try_from(size("channels", 1..=1 << 16)?)?;
        Ok(Self {
            framework: get(metadata, "framework")?.to_owned(),
            kind,
            batch: size("batch", 1..=1 << 20)?,
            iterations: size("iterations", 1..=1 << 20)? as usize,
            model: ModelConfig {
                image: ImageShape { size: image_size, channels },
                max_width: None,
                base_width: size("base_width", 1..=1 << 16)?,
                z_dim: size("z_dim", 1..=1 << 20)?,
                alpha: real("alpha")?,
                // TF: its word for the share of the old value.
                bn_momentum: 1.0 - real("bn_momentum")?,
                bn_epsilon: real("bn_epsilon")?,
            },
            step: StepConfig::new(
                Objective::CrossEntropy { label_smoothing: real("smooth")? },
                size("g_steps", 1..=1000)? as u64,
                AdamConfig {
                    learning_rate: real("learning_rate")?,
                    beta1: real("beta1")?,
                    beta2: real("beta2")?,
                    epsilon: real("epsilon")?,
                },
            ),
        })
    }
}

struct Comparison<'a> {
    file: &'a TensorFile,
    settings: Settings,
    bounds: Bounds,
    device: Device,
    /// Names of the biases whose true gradient is 0.
    of_no_effect: Vec<String>,
    checks: Vec<Check>,
    not_compared: Vec<String>,
}

impl<'a> Comparison<'a> {
    fn new(file: &'a TensorFile, device: Device) -> Result<Self> {
        let settings = Settings::read(&file.metadata)?;
        let bounds = Bounds::of(settings.kind);
        ensure!(
            !(settings.kind == Kind::Double && device == Device::Mps),
            "the file is in float64, which Apple's GPUs do not support; use the device cpu"
        );
        let architecture = Architecture::new(settings.model)?;
        let comparison = Self {
            file,
            of_no_effect: architecture.biases_of_no_effect(),
            settings,
            bounds,
            device,
            checks: Vec::new(),
            not_compared: Vec::new(),
        };
        // Before a network of the promised size is made, the file must hold one.
        for network in Network::ALL {
            for layer in architecture.layers(network) {
                let name = format!("init/{}/{}/kernel", network.name(), layer.name);
                comparison.tensor(&name, &layer.tf_kernel_shape())?;
            }
        }
        Ok(comparison)
    }

    fn run(mut self) -> Result<Report> {
        let model = Model::new(&self.settings.model, 0, self.device, self.settings.kind)?;
        self.check_names(&model)?;
        self.load_initial(&model)?;
        self.compare_first_pass(&model)?;
        self.compare_training(model)?;
        let Self { settings, checks, not_compared, .. } = self;
        Ok(Report { settings, checks, not_compared })
    }

    /// A missing or an extra tensor fails.
    fn check_names(&self, model: &Model) -> Result<()> {
        let mut expected: BTreeSet<String> = [
            "forward/generated",
            "forward/real_logits",
            "forward/fake_logits",
            "forward/d_loss",
            "forward/g_loss",
            "trace/d_loss",
            "trace/g_loss",
            "final/sample",
        ]
        .map(str::to_owned)
        .into();
        for network in Network::ALL {
            for variable in model.variables(network) {
                let name = network.full_name(&variable);
                if variable.role.is_trainable() {
                    expected.extend([
                        format!("grad/{name}"),
                        format!("final/{name}/adam_m"),
                        format!("final/{name}/adam_v"),
                    ]);
                }
                expected.extend([format!("init/{name}"), format!("final/{name}")]);
            }
        }
        for i in 0..self.settings.iterations {
            expected.extend([format!("input/images/{i}"), format!("input/z/{i}")]);
        }
        let found: BTreeSet<String> = self.file.tensors.keys().cloned().collect();
        let some = |names: Vec<&String>| {
            let shown: Vec<_> = names.iter().take(3).map(|name| name.as_str()).collect();
            format!("{} ({})", names.len(), shown.join(", "))
        };
        let missing: Vec<_> = expected.difference(&found).collect();
        ensure!(missing.is_empty(), "tensors are missing: {}", some(missing));
        let extra: Vec<_> = found.difference(&expected).collect();
        ensure!(extra.is_empty(), "tensors that the format does not know: {}", some(extra));
        Ok(())
    }

    /// A tensor of the file, of the file's kind and of `shape`, on the CPU.
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<&'a Tensor> {
        let tensor =
            self.file.tensors.get(name).with_context(|| format!("tensor {name} is missing"))?;
        let (kind, found) = (self.settings.kind, (tensor.kind(), tensor.size()));
        // A scalar may be stored as one row.
        let shape_fits = found.1 == shape || (shape.is_empty() && found.1 == [1]);
        ensure!(
            found.0 == kind && shape_fits,
            "tensor {name}: expected {kind:?} {shape:?}, found {:?} {:?}",
            found.0,
            found.1
        );
        Ok(tensor)
    }

    fn load_initial(&self, model: &Model) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        for network in Network::ALL {
            for mut variable in model.variables(network) {
                let name = format!("init/{}", network.full_name(&variable));
                let shape = tf_shape(&variable)?;
                let mirrored = variable.layout.mirrored_from_tf(self.tensor(&name, &shape)?)?;
                variable.tensor.f_copy_(&mirrored)?;
            }
        }
        Ok(())
    }

    /// Real images of an iteration, mirrored, on the device.
    fn images(&self, iteration: usize) -> Result<Tensor> {
        let name = format!("input/images/{iteration}");
        // Only the last batch may be smaller.
        let rows = match self.file.tensors.get(&name).map(Tensor::size).as_deref() {
            Some(&[rows, ..])
                if iteration + 1 == self.settings.iterations
                    && (1..self.settings.batch).contains(&rows) =>
            {
                rows
            }
            _ => self.settings.batch,
        };
        let ImageShape { size, channels } = self.settings.model.image;
        let shape = [size.height, size.width, channels].map(|n| n as i64);
        let images = self.tensor(&name, &[rows, shape[0], shape[1], shape[2]])?;
        Ok(rotate_images(&images.f_permute([0, 3, 1, 2])?)?.f_to_device(self.device)?)
    }

    fn z(&self, iteration: usize) -> Result<Tensor> {
        let shape = [self.settings.batch, self.settings.model.z_dim];
        Ok(self.tensor(&format!("input/z/{iteration}"), &shape)?.f_to_device(self.device)?)
    }

    fn compare_first_pass(&mut self, model: &Model) -> Result<()> {
        let (real, z) = (self.images(0)?, self.z(0)?);
        let fake = model.generator.forward(&z, Statistics::Batch)?;
        let real_logits = model.discriminator.forward(&real, Statistics::Batch)?;
        let fake_logits = model.discriminator.forward(&fake, Statistics::Batch)?;
        let objective = self.settings.step.objective;
        let d_loss = objective.discriminator(&real_logits, &fake_logits)?;
        let g_loss = objective.generator(&fake_logits)?;

        let bound = self.bounds.forward;
        let generated = upright(&fake)?;
        for (group, name, ours) in [
            (Group::Forward, "generated", &generated),
            (Group::Forward, "real_logits", &real_logits),
            (Group::Forward, "fake_logits", &fake_logits),
            (Group::Losses, "d_loss", &d_loss),
            (Group::Losses, "g_loss", &g_loss),
        ] {
            self.compare(group, &format!("forward/{name}"), ours, bound)?;
        }

        for (network, loss) in [(Network::Discriminator, &d_loss), (Network::Generator, &g_loss)] {
            let variables = model.trainable(network);
            let inputs: Vec<_> = variables.iter().map(|variable| &variable.tensor).collect();
            let gradients = Tensor::f_run_backward(&[loss], &inputs, true, false)?;
            for (variable, gradient) in variables.iter().zip(&gradients) {
                let name = network.full_name(variable);
                let ours = variable.layout.tf_from_mirrored(gradient)?;
                let groups = (Group::Gradients, Group::CancelledGradients);
                let bound = self.bounds.gradients;
                self.compare_trained(groups, &name, &format!("grad/{name}"), &ours, bound)?;
            }
        }
        Ok(())
    }

    fn compare_training(&mut self, model: Model) -> Result<()> {
        if self.settings.kind == Kind::Float && self.settings.iterations > 1 {
            self.not_compared.push(format!(
                "training: rounding grows in float32, and the file has {} iterations; \
                 one of 1 iteration or in float64 proves it",
                self.settings.iterations
            ));
            return Ok(());
        }
        let mut gan = Gan::new(model, self.settings.step)?;
        let (mut d_losses, mut g_losses) = (Vec::new(), Vec::new());
        for i in 0..self.settings.iterations {
            let values = gan.iteration(&self.images(i)?, &self.z(i)?)?.read()?;
            d_losses.push(values.d_loss);
            g_losses.push(values.g_loss);
        }
        gan.synchronize()?;
        let bound = self.bounds.variables;
        for (name, losses) in [("trace/d_loss", d_losses), ("trace/g_loss", g_losses)] {
            let ours = Tensor::f_from_slice(&losses)?;
            self.compare(Group::Trace, name, &ours, bound)?;
        }
        for entry in state(&gan) {
            // The discriminator's moving statistics and Adam's powers are compared with nothing.
            let Some(layout) = entry.layout else { continue };
            let full = format!("final/{}", entry.tf_name);
            let (group, bound) = match (entry.part, entry.network) {
                (Part::Variable(role), _) if role.is_trainable() => {
                    (Group::Variables, Some(self.bounds.variables))
                }
                (Part::Variable(Role::MovingMean), Network::Generator) => {
                    (Group::MovingMeans, Some(self.bounds.moving_means))
                }
                (Part::Variable(_), Network::Generator) => {
                    (Group::MovingVariances, self.bounds.moving_variances)
                }
                (Part::FirstMoment | Part::SecondMoment, _) => {
                    (Group::Moments, Some(self.bounds.moments))
                }
                (Part::Variable(_) | Part::Power, _) => continue,
            };
            let Some(bound) = bound else { continue };
            let ours = layout.tf_from_mirrored(&entry.tensor)?;
            let variable = entry.tf_name.trim_end_matches("/adam_m").trim_end_matches("/adam_v");
            self.compare_trained((group, Group::CancelledBiases), variable, &full, &ours, bound)?;
        }
        match self.bounds.sample {
            Some(bound) => {
                let sample = gan.model.generator.forward(&self.z(0)?, Statistics::Moving)?;
                self.compare(Group::Sample, "final/sample", &upright(&sample)?, bound)?;
            }
            None => self.not_compared.push(
                "moving variances and the final sample: in float64 TensorFlow takes the biased \
                 variance; a float32 file proves them"
                    .to_owned(),
            ),
        }
        if self.bounds.cancelled.is_none() {
            self.not_compared.push(
                "biases of convolutions that feed a batch norm: their true gradient is 0 and \
                 float32 rounding moves them"
                    .to_owned(),
            );
        }
        self.not_compared.push(
            "the discriminator's moving statistics: TensorFlow updates them in a race and never \
             reads them"
                .to_owned(),
        );
        Ok(())
    }

    /// Compares what belongs to a trained variable, which may be one whose gradient is truly 0.
    fn compare_trained(
        &mut self,
        (group, cancelled): (Group, Group),
        variable: &str,
        name: &str,
        ours: &Tensor,
        bound: f64,
    ) -> Result<()> {
        if !self.of_no_effect.iter().any(|bias| bias == variable) {
            return self.compare(group, name, ours, bound);
        }
        match self.bounds.cancelled {
            Some(bound) => self.compare(cancelled, name, ours, bound),
            None => Ok(()),
        }
    }

    fn compare(&mut self, group: Group, name: &str, ours: &Tensor, bound: f64) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let shape = if group == Group::Losses { vec![] } else { ours.size() };
        let theirs = self.tensor(name, &shape)?.f_reshape(ours.size())?.f_to_kind(Kind::Double)?;
        let ours = ours.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
        let difference = ours.f_sub(&theirs)?.f_abs()?;
        let norm = |x: &Tensor| x.f_norm()?.f_double_value(&[]);
        let error = if group.is_absolute() {
            difference.f_max()?.f_double_value(&[])?
        } else {
            // 0 against 0 is 0; anything against 0 is not within any bound.
            match (norm(&difference)?, norm(&theirs)?) {
                (0., 0.) => 0.,
                (difference, theirs) => difference / theirs,
            }
        };
        let mut check = Check { group, name: name.to_owned(), error, bound, first_bad: Vec::new() };
        if !check.passed() {
            let scale = if group.is_absolute() {
                1.
            } else {
                theirs.f_nan_to_num(0., 0., 0.)?.f_abs()?.f_max()?.f_double_value(&[])?
            };
            check.first_bad = first_bad(&ours, &theirs, &difference, bound * scale)?;
        }
        self.checks.push(check);
        Ok(())
    }
}

fn tf_shape(variable: &Variable) -> Result<Vec<i64>> {
    Ok(variable.layout.tf_from_mirrored(&variable.tensor.f_detach()?)?.size())
}

/// Mirrored `[N, C, H, W]` → upright `[N, H, W, C]`.
fn upright(images: &Tensor) -> Result<Tensor> {
    Ok(rotate_images(images)?.f_permute([0, 2, 3, 1])?.f_contiguous()?)
}

/// Up to three positions, in order, that are off by more than `limit`.
fn first_bad(
    ours: &Tensor,
    theirs: &Tensor,
    difference: &Tensor,
    limit: f64,
) -> Result<Vec<String>> {
    // Not `>`: NaN is bad.
    let bad = difference.f_le(limit)?.f_logical_not()?.f_nonzero()?;
    let positions = Vec::<Vec<i64>>::try_from(bad.f_narrow(0, 0, bad.size()[0].min(3))?)?;
    positions
        .into_iter()
        .map(|at| {
            let (ours, theirs) = (ours.f_double_value(&at)?, theirs.f_double_value(&at)?);
            Ok(format!("{at:?}: expected {theirs:.9e}, found {ours:.9e}"))
        })
        .collect()
}
