//! The weights of one network, without the rest of a run: taken from models and files, put into models and files.
//!
//! [`crate::run::model`] also finds them in runs and checkpoints.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tch::{Device, Kind, Tensor};

use crate::architecture;
use crate::data::Classes;
use crate::error::SettingError;
use crate::files::TensorFile;
use crate::finite::ensure_finite;
use crate::model::{Model, ModelConfig, Network};
use crate::settings::{Size, TrainConfig};
use crate::shape::ImageShape;

/// The format of files whose tensors have PyTorch's names and are in the mirrored frame ([`crate::tf::frame`]).
const FORMAT: &str = "dcgan-weights";
/// The format of files whose tensors have TensorFlow's names and are in its upright frame.
const TF_FORMAT: &str = "dcgan-tf";
/// The format version of both kinds of file.
const VERSION: &str = "1";

/// The key of the classes in the metadata of conditional networks.
const CLASSES_KEY: &str = "classes";

/// The built-in generator: base width 16, trained by this program on its built-in digits.
const BUILT_IN: &[u8] = include_bytes!("../assets/generator.safetensors");

/// Which weights, where there is a moving average of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// The moving average.
    Average,
    /// The weights as the optimizer left them.
    Raw,
}

impl Variant {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Average, Self::Raw];

    /// Its name, as flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Average => "average",
            Self::Raw => "raw",
        }
    }
}

/// The key in the metadata of exported weights that says which variant they are.
const VARIANT_KEY: &str = "weights";

/// The weights and moving statistics of one network, and where they come from.
#[derive(Debug)]
pub struct Weights {
    /// What error messages call their source, such as a file's path.
    pub name: String,
    /// The network that they belong to.
    pub network: Network,
    /// The settings with which they were trained.
    pub config: TrainConfig,
    /// The shape of the images.
    pub image: ImageShape,
    /// The classes that steer the network, if any do.
    pub classes: Option<Classes>,
    /// How many iterations they were trained.
    pub iteration: u64,
    /// Whether they are a moving average or the weights that it is of; `None` where there is no average.
    pub variant: Option<Variant>,
    /// The SHA-256 of the images that they were trained on, where that is known.
    pub images_sha256: Option<String>,
    /// The tensors by PyTorch's names, in the mirrored frame.
    pub tensors: BTreeMap<String, Tensor>,
}

/// The key in the metadata of exported weights of the SHA-256 of the images that they were trained on.
const IMAGES_KEY: &str = "images_sha256";

impl Weights {
    /// The live weights of a model: the tensors are the model's own, not copies.
    pub fn of_model(model: &Model, network: Network, config: &TrainConfig, iteration: u64) -> Self {
        let tensors = model.variables(network).into_iter();
        Self {
            name: "the model".to_owned(),
            network,
            config: config.clone(),
            image: model.config().image,
            classes: None,
            iteration,
            variant: None,
            images_sha256: None,
            tensors: tensors.map(|variable| (variable.torch_name, variable.tensor)).collect(),
        }
    }

    /// The generator of handwritten digits that is built into the program.
    ///
    /// # Errors
    /// No input causes an error.
    pub fn built_in() -> Result<Self> {
        let name = "the built-in generator";
        Self::parse(name, &TensorFile::parse(Path::new(name), BUILT_IN)?, Network::Generator)
    }

    /// The weights of `network` in `file`, whose tensors have PyTorch's or TensorFlow's names. Messages call it `name`.
    ///
    /// # Errors
    /// If the file has neither format or another format version, or holds only the other network.
    pub fn parse(name: &str, file: &TensorFile, network: Network) -> Result<Self> {
        let TensorFile { metadata, tensors } = file;
        let get = |key: &str| metadata.get(key).map(String::as_str);
        let format = get("format").unwrap_or("unknown");
        ensure!(
            [FORMAT, TF_FORMAT].contains(&format),
            "expected a checkpoint or exported weights, found a file of format {format}"
        );
        let version = get("version").context("lacks `version`")?;
        ensure!(
            version == VERSION,
            "this program, {}, reads weights of version {VERSION}; these have version {version}",
            crate::VERSION
        );
        let is_tf = format == TF_FORMAT;
        let (mut config, mut channels) = (TrainConfig::default(), None);
        if let Some(text) = get("config") {
            config = toml::from_str(text).context("`config`")?;
            // A wrong setting in a file is a damaged file, not wrong usage.
            config.validate().map_err(|error| anyhow!("`config`: {error}"))?;
        } else if is_tf {
            channels = Some(infer_sizes(tensors, &mut config)?);
        } else {
            bail!("lacks `config`");
        }
        if let Some(text) = get("channels") {
            channels = text.parse().ok();
        }
        let channels = channels
            .filter(|channels| (1..=1024).contains(channels))
            .with_context(|| format!("`channels` is {:?}", get("channels").unwrap_or("missing")))?;
        let size = config.image_size.known().context("`config` lacks the size of images")?;
        let image = ImageShape { size, channels };
        ensure!(
            get("image_size").is_none_or(|text| text.parse() == Ok(size)),
            "`image_size` is {}, and in `config` it is {size}",
            get("image_size").unwrap_or("missing")
        );
        let classes: Option<Classes> = match get(CLASSES_KEY) {
            None => None,
            Some(text) => {
                Some(serde_json::from_str(text).with_context(|| format!("`{CLASSES_KEY}`"))?)
            }
        };
        ensure!(
            config.takes(classes.as_ref()),
            "`{CLASSES_KEY}` is {}, and `conditional` is {}",
            get(CLASSES_KEY).unwrap_or("missing"),
            config.conditional.is_on()
        );
        let iteration = get("iteration").map_or(Some(0), |text| text.parse().ok());
        // The same limit as for a checkpoint.
        let iteration = iteration.filter(|&iteration: &u64| iteration < 1 << 48);
        let iteration = iteration.with_context(|| {
            format!("`iteration` is {:?}", get("iteration").unwrap_or("missing"))
        })?;
        let variant = match get(VARIANT_KEY) {
            None => None,
            Some(text) => {
                let variant = Variant::ALL.into_iter().find(|variant| variant.name() == text);
                Some(variant.with_context(|| {
                    format!("`{VARIANT_KEY}`: expected average or raw, found {text:?}")
                })?)
            }
        };
        let tensors = if is_tf {
            let count = Classes::count(classes.as_ref());
            mirrored(&config.model(image, count), network, tensors)?
        } else {
            let found = get("network").context("lacks `network`")?;
            let expected = network.name();
            ensure!(found == expected, "expected a {expected}, found a {found}");
            tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
        };
        Ok(Self {
            name: name.to_owned(),
            network,
            config,
            image,
            classes,
            iteration,
            variant,
            images_sha256: metadata.get(IMAGES_KEY).cloned(),
            tensors,
        })
    }

    /// These weights, if they are what is asked for. Where there is no average, all weights are raw.
    ///
    /// # Errors
    /// [`SettingError`], if they are of another variant than `asked`.
    pub fn checked(self, asked: Option<Variant>) -> Result<Self> {
        let found = self.variant.unwrap_or(Variant::Raw);
        let Some(asked) = asked.filter(|&asked| asked != found) else { return Ok(self) };
        let problem = match asked {
            Variant::Average => {
                "there is no moving average; a generator has one if the setting `ema` was given in training"
            }
            Variant::Raw => {
                "holds only the moving average; the checkpoints of its run hold the raw weights too"
            }
        };
        let problem = format!("{}: {problem}", self.name);
        Err(SettingError::of_value(VARIANT_KEY, asked.name(), problem).into())
    }

    /// The kind of the tensors: float64 if any of them has it, else float32.
    pub fn kind(&self) -> Kind {
        let is_double = self.tensors.values().any(|tensor| tensor.kind() == Kind::Double);
        if is_double { Kind::Double } else { Kind::Float }
    }

    /// The numbers that decide the networks' layers.
    pub fn model_config(&self) -> ModelConfig {
        self.config.model(self.image, Classes::count(self.classes.as_ref()))
    }

    /// A model of both networks, where this network has these weights and the other one its initial values.
    ///
    /// # Errors
    /// As [`Self::load_into`]; also if the device cannot hold the networks.
    pub fn model(&self, device: Device, kind: Kind) -> Result<Model> {
        let model = Model::new(&self.model_config(), self.config.seed, device, kind)?;
        self.load_into(&model)?;
        Ok(model)
    }

    /// Like [`Self::model`], but only for the weights of a generator.
    ///
    /// # Errors
    /// As [`Self::model`]; also if these are the weights of a discriminator.
    pub fn generator(&self, device: Device, kind: Kind) -> Result<Model> {
        let found = self.network.name();
        ensure!(
            self.network == Network::Generator,
            "{}: expected a generator, found a {found}",
            self.name
        );
        self.model(device, kind)
    }

    /// Copies these weights into the network of `model`.
    ///
    /// # Errors
    /// If a tensor is missing, unknown, of another shape or not finite, or if a variance is negative. Then nothing has
    /// changed.
    pub fn load_into(&self, model: &Model) -> Result<()> {
        let load = || {
            for (name, tensor) in &self.tensors {
                ensure_finite(name, tensor)?;
                let is_variance = name.ends_with(".running_var") && tensor.numel() > 0;
                ensure!(
                    !is_variance || tensor.f_min()?.f_double_value(&[])? >= 0.0,
                    "tensor {name}: a variance is negative"
                );
            }
            model.load(self.network, &self.tensors)
        };
        load().with_context(|| self.name.clone())
    }

    /// The content of a file with PyTorch's names and layouts, in the mirrored frame.
    ///
    /// # Errors
    /// No input causes an error.
    pub fn file(&self) -> Result<TensorFile> {
        let frame =
            "mirrored: images and kernels are rotated by 180 degrees, grids are in (h, w, c) order";
        let tensors = self.tensors.iter();
        Ok(TensorFile {
            metadata: self.metadata(FORMAT, frame)?,
            tensors: tensors.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect(),
        })
    }

    /// The content of a file with TensorFlow's names and layouts, in its upright frame.
    ///
    /// # Errors
    /// As [`Self::model`].
    pub fn tf_file(&self) -> Result<TensorFile> {
        let model = self.model(Device::Cpu, self.kind())?;
        let mut tensors = BTreeMap::new();
        for variable in model.variables(self.network) {
            let upright = variable.layout.tf_from_mirrored(&variable.tensor.f_detach()?)?;
            tensors.insert(self.network.full_name(&variable), upright);
        }
        let frame = "upright: as TensorFlow computes";
        Ok(TensorFile { metadata: self.metadata(TF_FORMAT, frame)?, tensors })
    }

    /// The metadata that files of every format hold: where the weights come from and what sizes the network has.
    ///
    /// # Errors
    /// No input causes an error.
    pub fn about(&self) -> Result<BTreeMap<String, String>> {
        let model = self.model_config();
        let config = self.config.portable();
        let about = [
            ("version", VERSION.to_owned()),
            ("program", format!("dcgan {}", crate::VERSION)),
            ("network", self.network.name().to_owned()),
            ("iteration", self.iteration.to_string()),
            ("channels", model.image.channels.to_string()),
            ("base_width", model.base_width.to_string()),
            ("z_dim", model.z_dim.to_string()),
            ("latent", self.config.latent.name().to_owned()),
            ("alpha", model.alpha.to_string()),
            ("bn_epsilon", model.bn_epsilon.to_string()),
            ("image_size", model.image.size.to_string()),
            ("dataset", config.dataset.clone()),
            ("config", toml::to_string(&config)?),
        ];
        let variant = self.variant.map(|variant| (VARIANT_KEY, variant.name().to_owned()));
        let classes = self.classes.as_ref().map(serde_json::to_string).transpose()?;
        let classes = classes.map(|classes| (CLASSES_KEY, classes));
        let images = self.images_sha256.clone().map(|sha256| (IMAGES_KEY, sha256));
        let about = about.into_iter().chain(variant).chain(classes).chain(images);
        Ok(about.map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// The metadata of a file that holds only weights: [`Self::about`], its format and its frame.
    fn metadata(&self, format: &str, frame: &str) -> Result<BTreeMap<String, String>> {
        let mut about = self.about()?;
        about.insert("format".to_owned(), format.to_owned());
        about.insert("frame".to_owned(), frame.to_owned());
        Ok(about)
    }
}

/// The variables of `network` among `tensors`, which have TensorFlow's names, converted to PyTorch's names and the
/// mirrored frame.
///
/// # Errors
/// If a variable is missing or has another shape, or if the network has no variable of a name that is there.
fn mirrored(
    config: &ModelConfig,
    network: Network,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>> {
    let model = Model::new(config, 0, Device::Cpu, Kind::Float)?;
    let prefix = format!("{}/", network.name());
    let is_moment = |name: &str| name.ends_with("/adam_m") || name.ends_with("/adam_v");
    let mut unknown: BTreeMap<_, _> = tensors
        .iter()
        .filter(|(name, _)| name.starts_with(&prefix) && !is_moment(name))
        .filter(|(name, _)| !name.ends_with("_power"))
        .collect();
    ensure!(!unknown.is_empty(), "holds no {}", network.name());
    let mut mirrored = BTreeMap::new();
    for variable in model.variables(network) {
        let name = network.full_name(&variable);
        let upright = unknown.remove(&name).with_context(|| format!("lacks tensor {name}"))?;
        let expected = variable.layout.tf_from_mirrored(&variable.tensor.f_detach()?)?.size();
        let found = upright.size();
        ensure!(found == expected, "tensor {name}: expected shape {expected:?}, found {found:?}");
        mirrored.insert(variable.torch_name, variable.layout.mirrored_from_tf(upright)?);
    }
    if let Some(name) = unknown.keys().next() {
        bail!("tensor {name} is none of a {}'s tensors", network.name());
    }
    Ok(mirrored)
}

/// Finds out the networks' sizes from the shapes of TensorFlow's variables and sets them in `config`. Returns the
/// number of channels of the images.
fn infer_sizes(tensors: &BTreeMap<String, Tensor>, config: &mut TrainConfig) -> Result<usize> {
    let found = architecture::infer(|name| tensors.get(name).map(Tensor::size))?;
    (config.z_dim, config.base_width) = (found.z_dim, found.base_width);
    config.max_width = found.max_width;
    config.image_size = Size::Of(found.image.size);
    config.validate().map_err(|error| anyhow!("the sizes of its tensors: {error}"))?;
    Ok(found.image.channels)
}
