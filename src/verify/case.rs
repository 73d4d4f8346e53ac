//! What this build computes of the case of a reference file.

use std::collections::BTreeSet;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use super::settings::Settings;
use super::{Group, TRUTH};
use crate::architecture::{Architecture, ModelConfig, Network};
use crate::distributed::Ranks;
use crate::files::TensorFile;
use crate::model::Model;
use crate::shape::ImageShape;
use crate::tf::frame::rotate_images;
use crate::tf::{Kinks, Role, Statistics, Variable};
use crate::train::state::{Part, state};
use crate::train::step::{BatchClasses, Gan};

/// What this build computes of the case of a reference file: [`Found`].
pub(super) struct Case<'a> {
    file: &'a TensorFile,
    pub(super) settings: Settings,
    device: Device,
    ranks: Option<Rc<Ranks>>,
    /// Names of the biases whose true gradient is 0.
    of_no_effect: Vec<String>,
}

/// A tensor that this build computed, as the file has it: in TensorFlow's layout and upright frame, on the CPU.
pub(super) struct Found {
    pub(super) group: Group,
    /// The name in the file.
    pub(super) name: String,
    pub(super) ours: Tensor,
}

impl<'a> Case<'a> {
    pub(super) fn new(
        file: &'a TensorFile,
        device: Device,
        ranks: Option<Rc<Ranks>>,
    ) -> Result<Self> {
        let settings = Settings::read(&file.metadata)?;
        ensure!(
            !((settings.kind == Kind::Double || settings.has_truth) && device == Device::Mps),
            "the file is in float64 or has results in it, which Apple's GPUs do not support; use the device cpu"
        );
        let architecture = Architecture::new(settings.model)?;
        let of_no_effect = architecture.biases_of_no_effect();
        let case = Self { file, settings, device, ranks, of_no_effect };
        // Networks are made only after the file has proved to hold kernels of the stated sizes. Otherwise, a
        // wrong number in the metadata could ask for any amount of memory.
        for network in Network::ALL {
            for layer in architecture.layers(network) {
                let name = format!("init/{}/{}/kernel", network.name(), layer.name);
                case.tensor(&name, &layer.tf_kernel_shape())?;
            }
        }
        Ok(case)
    }

    /// What this build computes in `kind`. `kinks` watches its ReLUs.
    pub(super) fn found(&self, kind: Kind, kinks: Option<&Rc<Kinks>>) -> Result<Vec<Found>> {
        let model = Model::new(&self.settings.model, 0, self.device, kind)?.watched_by(kinks);
        self.check_names(&model)?;
        self.load_initial(&model)?;
        let mut found = self.first_pass(&model)?;
        if self.is_trained() {
            found.extend(self.training(model)?);
        }
        Ok(found)
    }

    /// Whether training is compared. In float32 rounding errors grow with each iteration.
    pub(super) fn is_trained(&self) -> bool {
        self.settings.kind == Kind::Double || self.settings.iterations == 1
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
        if self.settings.has_truth {
            let is_result =
                |name: &&String| !name.starts_with("init/") && !name.starts_with("input/");
            let results: Vec<_> = expected.iter().filter(is_result).cloned().collect();
            expected.extend(results.into_iter().map(|name| TRUTH.to_owned() + &name));
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

    /// The tensor `name` of the file, on the CPU. It must have the file's kind, or float64 if it is part of the truth, and
    /// the shape `shape`.
    pub(super) fn tensor(&self, name: &str, shape: &[i64]) -> Result<&'a Tensor> {
        let tensor =
            self.file.tensors.get(name).with_context(|| format!("tensor {name} is missing"))?;
        let kind = if name.starts_with(TRUTH) { Kind::Double } else { self.settings.kind };
        let found = (tensor.kind(), tensor.size());
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
    fn images(&self, iteration: usize, kind: Kind) -> Result<Tensor> {
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
        let images = images.f_permute([0, 3, 1, 2])?.f_to_kind(kind)?;
        Ok(rotate_images(&images)?.f_to_device(self.device)?)
    }

    /// The rows of the generator's input: noise and, of conditional networks, the classes that are asked for.
    fn z(&self, iteration: usize, kind: Kind) -> Result<Tensor> {
        let ModelConfig { z_dim, classes, .. } = self.settings.model;
        let name = format!("input/z/{iteration}");
        let z = self.tensor(&name, &[self.settings.batch, z_dim])?.f_to_kind(kind)?;
        let z = z.f_to_device(self.device)?;
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
        let real = self.images(iteration, self.settings.kind)?.size()[0];
        let real = self.classes_of(&format!("input/labels/{iteration}"), real)?;
        let asked = format!("input/z_labels/{iteration}");
        let generated = self.classes_of(&asked, self.settings.batch)?;
        Ok(real.zip(generated).map(|(real, generated)| BatchClasses { real, generated }))
    }

    /// Outputs, losses and gradients with the initial variables.
    fn first_pass(&self, model: &Model) -> Result<Vec<Found>> {
        let (real, z) = (self.images(0, model.kind)?, self.z(0, model.kind)?);
        let fake = model.generator.forward(&z, Statistics::Batch)?;
        let classes = self.classes(0)?;
        let (of_real, of_fake) =
            (classes.as_ref().map(|c| &c.real), classes.as_ref().map(|c| &c.generated));
        let real_logits = model.discriminator.forward(&real, of_real, Statistics::Batch)?;
        let fake_logits = model.discriminator.forward(&fake, of_fake, Statistics::Batch)?;
        let objective = self.settings.step.objective;
        let d_loss = objective.discriminator(&real_logits, &fake_logits)?;
        let g_loss = objective.generator(&fake_logits)?;

        let generated = upright(&fake)?;
        let mut all = Vec::new();
        for (group, name, ours) in [
            (Group::Forward, "generated", &generated),
            (Group::Forward, "real_logits", &real_logits),
            (Group::Forward, "fake_logits", &fake_logits),
            (Group::Losses, "d_loss", &d_loss),
            (Group::Losses, "g_loss", &g_loss),
        ] {
            all.push(Found::new(group, format!("forward/{name}"), ours)?);
        }
        for (network, loss) in [(Network::Discriminator, &d_loss), (Network::Generator, &g_loss)] {
            let variables = model.trainable(network);
            let inputs: Vec<_> = variables.iter().map(|variable| &variable.tensor).collect();
            let gradients = Tensor::f_run_backward(&[loss], &inputs, true, false)?;
            for (variable, gradient) in variables.iter().zip(&gradients) {
                let name = network.full_name(variable);
                let ours = variable.layout.tf_from_mirrored(gradient)?;
                let group = match self.is_of_no_effect(&name) {
                    true => Group::CancelledGradients,
                    false => Group::Gradients,
                };
                all.push(Found::new(group, format!("grad/{name}"), &ours)?);
            }
        }
        Ok(all)
    }

    /// Losses, and what training leaves.
    fn training(&self, model: Model) -> Result<Vec<Found>> {
        let kind = model.kind;
        let mut gan = Gan::new(model, self.settings.step)?.among(self.ranks.clone());
        let (mut d_losses, mut g_losses) = (Vec::new(), Vec::new());
        for i in 0..self.settings.iterations {
            let (real, z, classes) = (self.images(i, kind)?, self.z(i, kind)?, self.classes(i)?);
            let stats = gan.observed_iteration(&real, &z, classes, &mut |_| Ok(()))?;
            let values = stats.read()?;
            d_losses.push(values.d_loss);
            g_losses.push(values.g_loss);
        }
        gan.synchronize()?;
        let mut all = Vec::new();
        for (name, losses) in [("trace/d_loss", d_losses), ("trace/g_loss", g_losses)] {
            all.push(Found::new(Group::Trace, name.to_owned(), &Tensor::f_from_slice(&losses)?)?);
        }
        for entry in state(&gan) {
            // Adam's powers have no layout. They and the discriminator's moving statistics are not compared.
            let Some(layout) = entry.layout else { continue };
            let variable = entry.tf_name.trim_end_matches("/adam_m").trim_end_matches("/adam_v");
            let is_of_no_effect = self.is_of_no_effect(variable);
            let group = match (entry.part, entry.network) {
                (Part::Variable(role), _) if role.is_trainable() && !is_of_no_effect => {
                    Group::Variables
                }
                (Part::Variable(role), _) if role.is_trainable() => Group::CancelledBiases,
                (Part::Variable(Role::MovingMean), Network::Generator) => Group::MovingMeans,
                (Part::Variable(_), Network::Generator) => Group::MovingVariances,
                (Part::FirstMoment | Part::SecondMoment, _) if !is_of_no_effect => Group::Moments,
                (Part::FirstMoment | Part::SecondMoment, _) => Group::CancelledBiases,
                (Part::Variable(_) | Part::Average(_) | Part::Power, _) => continue,
            };
            let ours = layout.tf_from_mirrored(&entry.tensor)?;
            all.push(Found::new(group, format!("final/{}", entry.tf_name), &ours)?);
        }
        // Biases of no effect have one on moving means. What that moves here is no rounding.
        let model = gan.model.watched_by(None);
        let sample = model.generator.forward(&self.z(0, kind)?, Statistics::Moving)?;
        all.push(Found::new(Group::Sample, "final/sample".to_owned(), &upright(&sample)?)?);
        Ok(all)
    }

    fn is_of_no_effect(&self, variable: &str) -> bool {
        self.of_no_effect.iter().any(|bias| bias == variable)
    }
}

impl Found {
    /// A copy, so that nothing that happens later changes it.
    fn new(group: Group, name: String, ours: &Tensor) -> Result<Self> {
        Ok(Self { group, name, ours: ours.f_detach()?.f_to_device(Device::Cpu)?.f_detach_copy()? })
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
