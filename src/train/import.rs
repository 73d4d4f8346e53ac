//! Makes a checkpoint, from which training can resume, out of exported weights.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tch::Device;

use super::state::{Entry, save, state};
use super::step::Gan;
use crate::architecture::{ModelConfig, Network};
use crate::data::SetIdentity;
use crate::error::{Fixable, Usage};
use crate::files::TensorFile;
use crate::finite::ensure_finite;
use crate::model::Model;
use crate::run::checkpoint::{Checkpoint, Header, Origin};
use crate::run::watch::Watch;
use crate::weights::{Variant, Weights};

/// Both networks and their optimizers as imported, with notes on what was imported.
#[derive(Debug)]
pub struct Imported {
    gan: Gan,
    header: Header,
    /// Sentences for people: what was taken from which file, and what starts with initial values.
    pub notes: Vec<String>,
}

impl Imported {
    /// Reads exported weights of one network or both. A network that is in no file gets initial values.
    ///
    /// # Errors
    /// [`Usage`], if a network is in two files or a path is a folder; [`Fixable::IsCheckpoint`], if a file is a
    /// checkpoint already. Any other error if a file cannot be read, a file holds neither network, or the two
    /// networks do not fit together.
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
                return Err(Fixable::IsCheckpoint(path.clone()).into());
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
        // If both networks are there, the settings are the generator's.
        all.sort_by_key(|(weights, _)| weights.network as usize);
        let (first, _) = all.first().context("no file to import")?;
        let (config, kind) = (first.config.clone(), first.kind());
        let mut others = all.iter().map(|(other, _)| other);
        let names =
            |weights: &Weights| weights.classes.as_ref().map(|classes| classes.names.clone());
        if let Some(other) = others.clone().find(|other| names(other) != names(first)) {
            bail!(
                "{} and {} do not fit together: they are of different classes",
                first.name,
                other.name
            );
        }
        let widths = |weights: &Weights| {
            let max_width = weights.config.max_width;
            max_width.map_or("none".to_owned(), |width| width.to_string())
        };
        if let Some(other) = others.find(|other| other.model_config() != first.model_config()) {
            let (ours, theirs) = (first.model_config(), other.model_config());
            let ModelConfig { image, base_width, z_dim, .. } = ours;
            bail!(
                "{} and {} do not fit together: images of {image} and {}, base_width {base_width} and {}, max_width {} \
                 and {}, z_dim {z_dim} and {}",
                first.name,
                other.name,
                theirs.image,
                theirs.base_width,
                widths(first),
                widths(other),
                theirs.z_dim
            );
        }
        let model = Model::new(&first.model_config(), config.seed, Device::Cpu, kind)?;
        // Before there is a GAN, because a moving average begins as the weights that it is made with.
        all.iter().try_for_each(|(weights, _)| weights.load_into(&model))?;
        let gan = Gan::new(model, (&config).into())?;
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
            let name = &weights.name;
            let restored = restore_optimizer(file, network, &gan).with_context(|| name.clone())?;
            let state = if restored { "Adam's moments too" } else { "Adam's moments begin at 0" };
            let average = match weights.variant {
                Some(Variant::Average) => " (the moving average, not the weights that it is of)",
                _ => "",
            };
            notes.push(format!("{what}: {name}{average}; {state}"));
        }
        let iteration = all.iter().map(|(weights, _)| weights.iteration).max().unwrap_or(0);
        // Weights do not tell how many images they were trained on, and older ones not which, so that 1 and nothing stand
        // for that.
        let sha256 = first.images_sha256.clone().unwrap_or_default();
        let set = SetIdentity::new(1, first.model_config().image, sha256);
        let set = SetIdentity { classes: first.classes.clone(), ..set };
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

    /// How many iterations the weights were trained for, according to the files.
    pub fn iteration(&self) -> u64 {
        self.header.iteration
    }

    /// Writes the checkpoint to `path`. If that fails, there is no partial file.
    ///
    /// # Errors
    /// If the file cannot be written or a value is not finite.
    pub fn save(&self, path: &Path) -> Result<()> {
        let Self { gan, header, .. } = self;
        save(path, header, gan)
    }
}

/// The networks that a file holds, according to its metadata or to the names of its tensors.
fn networks_in(file: &TensorFile) -> Vec<Network> {
    let stated = file.metadata.get("network");
    let holds = |network: &Network| {
        let prefix = format!("{}/", network.name());
        stated.is_some_and(|stated| stated == network.name())
            || file.tensors.keys().any(|name| name.starts_with(&prefix))
    };
    Network::ALL.into_iter().filter(holds).collect()
}

/// Gives the optimizer of `network` the moments and powers that `file` holds under TensorFlow's names. Returns
/// whether the file holds any.
///
/// # Errors
/// If the file holds only some of them, or if one has another shape, is not finite or has an impossible value.
/// Then nothing has changed.
fn restore_optimizer(file: &TensorFile, network: Network, gan: &Gan) -> Result<bool> {
    let mut entries = state(gan);
    entries.retain(|entry| entry.network == network && entry.part.is_of_adam());
    if !entries.iter().any(|entry| file.tensors.contains_key(&entry.tf_name)) {
        return Ok(false);
    }
    let mut pairs = Vec::new();
    for Entry { tf_name: name, part, layout, tensor: live, .. } in entries {
        let found = file.tensors.get(&name).with_context(|| format!("lacks tensor {name}"))?;
        ensure_finite(&name, found)?;
        let found = match layout {
            Some(layout) => layout.mirrored_from_tf(found).with_context(|| name.clone())?,
            None => {
                ensure!(found.numel() == 1, "tensor {name}: expected one value");
                found.f_reshape([0; 0])?
            }
        };
        let (expected, size) = (live.size(), found.size());
        ensure!(expected == size, "tensor {name}: expected shape {expected:?}, found {size:?}");
        part.ensure_possible(&found).with_context(|| format!("tensor {name}"))?;
        pairs.push((live, found));
    }
    let _no_grad = tch::no_grad_guard();
    for (mut live, found) in pairs {
        live.f_copy_(&found)?;
    }
    Ok(true)
}
