//! Compares this build with a reference file, which holds what the real TensorFlow computed, with
//! TensorFlow's names and layouts and in its upright frame.
//!
//! Outputs are compared first, then losses, then every gradient by name, then training. The bounds
//! are part of the file format's definition. They hold for networks of any size.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tch::{Device, Kind, Tensor};

use crate::architecture::{Architecture, ModelConfig, Network, halvings};
use crate::distributed::Ranks;
use crate::files::TensorFile;
use crate::model::Model;
use crate::shape::{ImageShape, ImageSize};
use crate::tf::frame::rotate_images;
use crate::tf::{AdamConfig, Role, Statistics, Variable};
use crate::train::objective::Objective;
use crate::train::state::{Part, state};
use crate::train::step::{BatchClasses, Gan, StepConfig};

/// How a reference file was made, according to its metadata.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The framework that computed it, with its version.
    pub framework: String,
    /// Kind of every tensor.
    pub kind: Kind,
    /// Rows of `z` and of the images of every batch. Only the last iteration may have fewer images.
    pub batch: i64,
    /// Number of iterations that were trained.
    pub iterations: usize,
    /// Sizes and constants of the networks.
    pub model: ModelConfig,
    /// Settings of the losses and the optimizers.
    pub step: StepConfig,
}

/// The groups of comparisons. A mistake in an early group shows in the later ones, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Generated images and logits, computed with the initial variables.
    Forward,
    /// Losses, computed with the initial variables.
    Losses,
    /// Gradients of d_loss for the discriminator's variables, and of g_loss for the generator's.
    Gradients,
    /// Gradients of the biases whose true gradient is 0.
    CancelledGradients,
    /// Losses of every iteration.
    Trace,
    /// Trained variables after the last iteration.
    Variables,
    /// Adam's moments after the last iteration.
    Moments,
    /// The biases whose true gradient is 0, and their moments, after the last iteration.
    CancelledBiases,
    /// The generator's moving means after the last iteration.
    MovingMeans,
    /// The generator's moving variances after the last iteration.
    MovingVariances,
    /// Images from the trained generator with moving statistics.
    Sample,
}

impl Group {
    /// Whether the error of this group is the largest absolute difference. A relative error would mean nothing
    /// for values that are truly 0.
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

/// The comparison of one tensor.
#[derive(Debug, Clone)]
pub struct Check {
    /// Which group it belongs to.
    pub group: Group,
    /// The tensor's name in the file.
    pub name: String,
    /// ‖ours − theirs‖ / ‖theirs‖; for values that are truly 0, the largest absolute difference.
    pub error: f64,
    /// The largest error that passes.
    pub bound: f64,
    /// The first positions that differ by more than the bound allows, with both values. Empty if the check passed.
    pub first_bad: Vec<String>,
}

impl Check {
    /// Whether the error is within its bound. NaN never is.
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

    /// For each group, the number of its tensors and its worst check: the one whose error is largest in
    /// proportion to its bound.
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

/// The largest errors that pass. `None` means that the values are not compared.
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
                // TF: in float64, TensorFlow still keeps the decay as a float32, and updates the moving variance
                // with the biased variance of the batch.
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
/// If the file has another format, or does not hold exactly the tensors that its settings ask for. The message
/// names the file and the tensor. A difference between this build and the file is not an error: see
/// [`Report::passed`].
pub fn verify(path: &Path, device: Device) -> Result<Report> {
    verify_among(path, device, None)
}

/// As [`verify`], with the training done by all `ranks` together. Each of them compares.
///
/// # Errors
/// As [`verify`]; if another rank has ended or does not answer.
pub fn verify_among(path: &Path, device: Device, ranks: Option<Rc<Ranks>>) -> Result<Report> {
    let file = TensorFile::read(path)?;
    Comparison::new(&file, device, ranks)
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
        halvings(image_size).context("metadata `image_size`")?;
        let channels = usize::try_from(size("channels", 1..=1 << 16)?)?;
        // Files in which the usual largest width holds, or whose networks know no classes, do not state these.
        let is_stated = |key: &str| metadata.contains_key(key);
        let max_width =
            is_stated("max_width").then(|| size("max_width", 1..=1 << 20)).transpose()?;
        let classes = if is_stated("classes") { size("classes", 1..=1 << 20)? } else { 0 };
        Ok(Self {
            framework: get(metadata, "framework")?.to_owned(),
            kind,
            batch: size("batch", 1..=1 << 20)?,
            iterations: size("iterations", 1..=1 << 20)? as usize,
            model: ModelConfig {
                image: ImageShape { size: image_size, channels },
                max_width,
                classes,
                base_width: size("base_width", 1..=1 << 16)?,
                z_dim: size("z_dim", 1..=1 << 20)?,
                alpha: real("alpha")?,
                // TF: its momentum is the share of the old value, ours that of the new one.
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

/// A comparison in progress.
struct Comparison<'a> {
    file: &'a TensorFile,
    settings: Settings,
    bounds: Bounds,
    device: Device,
    ranks: Option<Rc<Ranks>>,
    /// Names of the biases whose true gradient is 0.
    of_no_effect: Vec<String>,
    checks: Vec<Check>,
    not_compared: Vec<String>,
}

impl<'a> Comparison<'a> {
    fn new(file: &'a TensorFile, device: Device, ranks: Option<Rc<Ranks>>) -> Result<Self> {
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
            ranks,
            checks: Vec::new(),
            not_compared: Vec::new(),
        };
        // Networks are made only after the file has proved to hold kernels of the stated sizes. Otherwise, a
        // wrong number in the metadata could ask for any amount of memory.
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

    /// Checks that the file holds all tensors of the format and no others.
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
            if self.settings.model.classes > 0 {
                expected.extend([format!("input/labels/{i}"), format!("input/z_labels/{i}")]);
            }
        }
        let found: BTreeSet<String> = self.file.tensors.keys().cloned().collect();
        let count_and_first = |names: Vec<&String>| {
            let shown: Vec<_> = names.iter().take(3).map(|name| name.as_str()).collect();
            format!("{} ({})", names.len(), shown.join(", "))
        };
        let missing: Vec<_> = expected.difference(&found).collect();
        ensure!(missing.is_empty(), "tensors are missing: {}", count_and_first(missing));
        let extra: Vec<_> = found.difference(&expected).collect();
        ensure!(
            extra.is_empty(),
            "tensors that the format does not know: {}",
            count_and_first(extra)
        );
        Ok(())
    }

    /// The tensor `name` of the file, on the CPU. It must have the file's kind and the shape `shape`.
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<&'a Tensor> {
        let tensor =
            self.file.tensors.get(name).with_context(|| format!("tensor {name} is missing"))?;
        let (kind, found) = (self.settings.kind, (tensor.kind(), tensor.size()));
        // A scalar may be stored as a vector of one value.
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

    /// The real images of an iteration, mirrored, on the device.
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

    /// The rows of the generator's input: noise and, of conditional networks, the classes that are asked for.
    fn z(&self, iteration: usize) -> Result<Tensor> {
        let ModelConfig { z_dim, classes, .. } = self.settings.model;
        let name = format!("input/z/{iteration}");
        let z = self.tensor(&name, &[self.settings.batch, z_dim])?.f_to_device(self.device)?;
        match self.classes_of(&format!("input/z_labels/{iteration}"), self.settings.batch)? {
            None => Ok(z),
            Some(asked) => {
                let one_hot = asked.f_one_hot(classes)?.f_to_kind(z.kind())?;
                Ok(Tensor::f_cat(&[z, one_hot], 1)?)
            }
        }
    }

    /// The file's tensor `name` of the classes of `rows` images, on the device; `None` where the networks know no
    /// classes.
    fn classes_of(&self, name: &str, rows: i64) -> Result<Option<Tensor>> {
        let count = self.settings.model.classes;
        if count == 0 {
            return Ok(None);
        }
        let classes =
            self.file.tensors.get(name).with_context(|| format!("tensor {name} is missing"))?;
        ensure!(
            classes.kind() == Kind::Int64 && classes.size() == [rows],
            "tensor {name}: expected Int64 [{rows}], found {:?} {:?}",
            classes.kind(),
            classes.size()
        );
        let (least, most) =
            (classes.f_min()?.f_int64_value(&[])?, classes.f_max()?.f_int64_value(&[])?);
        ensure!(
            (0..count).contains(&least) && (0..count).contains(&most),
            "tensor {name}: expected classes of 0 to {}, found {least} to {most}",
            count - 1
        );
        Ok(Some(classes.f_to_device(self.device)?))
    }

    /// The classes of an iteration's images; `None` where the networks know no classes.
    fn classes(&self, iteration: usize) -> Result<Option<BatchClasses>> {
        let real = self.images(iteration)?.size()[0];
        let real = self.classes_of(&format!("input/labels/{iteration}"), real)?;
        let asked = format!("input/z_labels/{iteration}");
        let generated = self.classes_of(&asked, self.settings.batch)?;
        Ok(real.zip(generated).map(|(real, generated)| BatchClasses { real, generated }))
    }

    fn compare_first_pass(&mut self, model: &Model) -> Result<()> {
        let (real, z) = (self.images(0)?, self.z(0)?);
        let fake = model.generator.forward(&z, Statistics::Batch)?;
        let classes = self.classes(0)?;
        let (of_real, of_fake) =
            (classes.as_ref().map(|c| &c.real), classes.as_ref().map(|c| &c.generated));
        let real_logits = model.discriminator.forward(&real, of_real, Statistics::Batch)?;
        let fake_logits = model.discriminator.forward(&fake, of_fake, Statistics::Batch)?;
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
                "training: rounding errors grow with each float32 iteration, and the file has {} \
                 iterations; use a file of 1 iteration or a file in float64 to compare it",
                self.settings.iterations
            ));
            return Ok(());
        }
        let mut gan = Gan::new(model, self.settings.step)?.among(self.ranks.clone());
        let (mut d_losses, mut g_losses) = (Vec::new(), Vec::new());
        for i in 0..self.settings.iterations {
            let (real, z, classes) = (self.images(i)?, self.z(i)?, self.classes(i)?);
            let stats = gan.observed_iteration(&real, &z, classes, &mut |_| Ok(()))?;
            let values = stats.read()?;
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
            // Adam's powers have no layout. They and the discriminator's moving statistics are not compared.
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
                (Part::Variable(_) | Part::Average(_) | Part::Power, _) => continue,
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
                "moving variances and the final sample: in float64 TensorFlow updates moving \
                 variances with the biased variance; use a float32 file to compare them"
                    .to_owned(),
            ),
        }
        if self.bounds.cancelled.is_none() {
            self.not_compared.push(
                "biases of convolutions that feed a batch norm: their true gradient is 0, and \
                 only float32 rounding errors change them"
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

    /// Compares `ours`, which belongs to the trained variable `variable`, as one of `group` with `bound`. If the
    /// variable's true gradient is 0, the group is `cancelled` and the bound that of such values.
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

    /// Compares `ours` with the file's tensor `name` and adds the result to the checks.
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
            // If both are 0, the error is 0. If only the expected norm is 0, the error is infinite and fails.
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

/// The shape of a variable in TensorFlow's layout.
fn tf_shape(variable: &Variable) -> Result<Vec<i64>> {
    Ok(variable.layout.tf_from_mirrored(&variable.tensor.f_detach()?)?.size())
}

/// Mirrored `[N, C, H, W]` → upright `[N, H, W, C]`.
fn upright(images: &Tensor) -> Result<Tensor> {
    Ok(rotate_images(images)?.f_permute([0, 2, 3, 1])?.f_contiguous()?)
}

/// The first positions, up to three, that differ by more than `limit`.
fn first_bad(
    ours: &Tensor,
    theirs: &Tensor,
    difference: &Tensor,
    limit: f64,
) -> Result<Vec<String>> {
    // "Not at most" instead of "greater", so that NaN counts as different.
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
