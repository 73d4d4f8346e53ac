//! A state to go on from, out of weights from elsewhere.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Tensor};

use crate::data::SetIdentity;
use crate::error::Usage;
use crate::files::TensorFile;
use crate::model::{Model, Network};
use crate::run::checkpoint::{self, Checkpoint, Header, Origin};
use crate::run::watch::{Watch, ensure_finite};
use crate::tf::Adam;
use crate::tf::frame::Layout;
use crate::train::step::Gan;
use crate::weights::Weights;

/// Both networks with their optimizers, and what became of them.
#[derive(Debug)]
pub struct Imported {
    gan: Gan,
    header: Header,
    /// What was taken and what begins anew, for people.
    pub notes: Vec<String>,
}

impl Imported {
    /// Reads exported weights of one network or both.
    ///
    /// # Errors
    /// [`Usage`], if a network is in two files, or a file is a checkpoint already. If a file cannot be
    /// read, holds neither network, or two networks do not fit together.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::new();
        for path in paths {
            let name = path.display().to_string();
            if path.is_dir() {
                let message =
                    "is a folder; expected exported weights, such as a run's generator.safetensors";
                return Err(Usage(format!("{name}: {message}")).into());
            }
            if Checkpoint::is_one(path)? {
                let message =
                    "is a checkpoint already; `dcgan train --resume` takes it with --fork";
                return Err(Usage(format!("{name}: {message}")).into());
            }
            files.push((name, TensorFile::read(path)?));
        }
        let mut all: Vec<(Weights, &TensorFile)> = Vec::new();
        for (name, file) in &files {
            let networks = networks_in(file);
            ensure!(
                !networks.is_empty(),
                "{name}: expected exported weights, found neither network"
            );
            for network in networks {
                if let Some((other, _)) = all.iter().find(|(other, _)| other.network == network) {
                    let (network, other) = (network.name(), &other.name);
                    let message = format!("{name}: holds a {network}, and so does {other}");
                    return Err(Usage(message).into());
                }
                let weights = Weights::parse(name, file, network).with_context(|| name.clone())?;
                all.push((weights, file));
            }
        }
        // Settings are the generator's where both are there.
        all.sort_by_key(|(weights, _)| weights.network as usize);
        let (first, _) = all.first().context("no file to import")?;
        let (config, kind) = (first.config.clone(), first.kind());
        let mut others = all.iter().map(|(other, _)| other);
        if let Some(other) = others.find(|other| other.model_config() != first.model_config()) {
            let (ours, theirs) = (first.model_config(), other.model_config());
            bail!(
                "{} and {} do not fit together: channels {} and {}, base_width {} and {}, z_dim {} and {}",
                first.name,
                other.name,
                ours.channels,
                theirs.channels,
                ours.base_width,
                theirs.base_width,
                ours.z_dim,
                theirs.z_dim
            );
        }
        let model = Model::new(&first.model_config(), config.seed, Device::Cpu, kind)?;
        let mut gan = Gan::new(model, (&config).into())?;
        all.iter().try_for_each(|(weights, _)| weights.load_into(&gan.model))?;
        let mut notes = Vec::new();
        if let Some((other, _)) = all.iter().find(|(other, _)| other.config != config) {
            notes.push(format!("settings are those of {}; {} has others", first.name, other.name));
        }
        for network in Network::ALL {
            let what = network.name();
            let Some((weights, file)) = all.iter().find(|(weights, _)| weights.network == network)
            else {
                notes.push(format!(
                    "{what}: in none of the files; it begins with initial values of seed {}",
                    config.seed
                ));
                continue;
            };
            let variables = gan.model.trainable(network);
            let names: Vec<_> = variables
                .iter()
                .map(|variable| (network.full_name(variable), variable.layout))
                .collect();
            let adam = match network {
                Network::Generator => &mut gan.g_adam,
                Network::Discriminator => &mut gan.d_adam,
            };
            let name = &weights.name;
            let restored =
                restore_adam(file, network, &names, adam).with_context(|| name.clone())?;
            let state = if restored { "Adam's moments too" } else { "Adam's moments begin at 0" };
            notes.push(format!("{what}: {name}; {state}"));
        }
        let iteration = all.iter().map(|(weights, _)| weights.iteration).max().unwrap_or(0);
        // The images are not in the file.
        let set = SetIdentity { images: 1, channels: first.channels, sha256: String::new() };
        let header = Header {
            iteration,
            config,
            set,
            watch: Watch::default(),
            healthy: iteration,
            salt: 0,
            rollbacks: Vec::new(),
            origin: Origin::here(),
        };
        Ok(Self { gan, header, notes })
    }

    /// Iterations done, as the files say.
    pub fn iteration(&self) -> u64 {
        self.header.iteration
    }

    /// Writes a checkpoint, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let Self { gan, header, .. } = self;
        checkpoint::save(path, header, &gan.model, [&gan.g_adam, &gan.d_adam])
    }
}

/// The networks that a file says or shows that it holds.
fn networks_in(file: &TensorFile) -> Vec<Network> {
    let stated = file.metadata.get("network");
    let holds = |network: &Network| {
        let prefix = format!("{}/", network.name());
        stated.is_some_and(|stated| stated == network.name())
            || file.tensors.keys().any(|name| name.starts_with(&prefix))
    };
    Network::ALL.into_iter().filter(holds).collect()
}

/// Gives `adam` the moments and powers that `file` has by TensorFlow's names, if it has them.
fn restore_adam(
    file: &TensorFile,
    network: Network,
    names: &[(String, Layout)],
    adam: &mut Adam,
) -> Result<bool> {
    let TensorFile { tensors, .. } = file;
    let prefix = format!("{}/", network.name());
    let is_of_adam = |name: &String| {
        let ends = ["/adam_m", "/adam_v", "_power"].iter().any(|end| name.ends_with(end));
        name.starts_with(&prefix) && ends
    };
    if !tensors.keys().any(is_of_adam) {
        return Ok(false);
    }
    let get = |name: &str| -> Result<&Tensor> {
        let tensor = tensors.get(name).with_context(|| format!("lacks tensor {name}"))?;
        ensure_finite(name, tensor)?;
        Ok(tensor)
    };
    let mut pairs = Vec::new();
    for ((name, layout), slot) in names.iter().zip(adam.slots()) {
        for (moment, live) in [("adam_m", &slot.m), ("adam_v", &slot.v)] {
            let is_variance = moment == "adam_v";
            let name = format!("{name}/{moment}");
            let moment = layout.mirrored_from_tf(get(&name)?).with_context(|| name.clone())?;
            ensure!(
                !is_variance || moment.f_min()?.f_double_value(&[])? >= 0.0,
                "tensor {name}: a mean of squares is negative"
            );
            let (expected, found) = (live.size(), moment.size());
            ensure!(
                expected == found,
                "tensor {name}: expected shape {expected:?}, found {found:?}"
            );
            pairs.push((live.shallow_clone(), moment));
        }
    }
    let power = |name: &str| -> Result<f32> {
        let name = format!("{}/{name}", network.name());
        let power = get(&name)?;
        ensure!(power.numel() == 1, "tensor {name}: expected one value");
        let power = power.f_double_value(&vec![0; power.dim()])? as f32;
        ensure!(
            (0.0..1.0).contains(&power),
            "tensor {name}: expected 0 or more, below 1, found {power}"
        );
        Ok(power)
    };
    let powers = (power("beta1_power")?, power("beta2_power")?);
    let _no_grad = tch::no_grad_guard();
    for (mut live, moment) in pairs {
        live.f_copy_(&moment)?;
    }
    adam.set_powers(powers);
    Ok(true)
}
