//! What images are compared by.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use fast_image_resize::images::Image;
use fast_image_resize::{PixelType, Resizer};
use sha2::{Digest, Sha256};
use tch::{CModule, Device, IValue, Kind, Tensor};

use super::classifier::{self, Classifier};
use crate::data::ImageSet;
use crate::pixels;
use crate::run::watch::ensure_finite;
use crate::shape::{ImageShape, ImageSize};

/// Images that go through a network together.
const BLOCK: usize = 256;

/// From images to features.
#[derive(Debug)]
pub enum Extractor {
    /// The pixels themselves, 0 to 255: `H·W·C` dimensions.
    Pixels,
    /// The last hidden layer of a classifier that this program trained.
    Classifier(Classifier),
    /// A TorchScript module.
    Module(Module),
}

/// How a module takes its images, `[N, 3, H, W]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputRange {
    /// Bytes, 0 to 255; floats of the same values where it refuses bytes.
    Bytes,
    /// Floats, 0 to 1.
    Unit,
    /// Floats, −1 to 1.
    Symmetric,
}

/// A TorchScript module `[N, 3, H, W]` → `[N, d]`.
#[derive(Debug)]
pub struct Module {
    module: CModule,
    path: PathBuf,
    range: InputRange,
    /// Width and height that images are resized to before; as they are where there is none.
    side: Option<usize>,
    /// The size of the images that it is loaded for.
    images: ImageSize,
    call: Call,
}

/// What a module's `forward` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Call {
    kind: Kind,
    /// `return_features=True`, as those of the StyleGAN authors do.
    with_flag: bool,
}

/// Features of images, and what a classifier says of their classes.
#[derive(Debug)]
pub struct Features {
    /// `[n, d]`, float32.
    pub values: Tensor,
    /// `[n, classes]`, of [`Extractor::Classifier`].
    pub logits: Option<Tensor>,
}

impl Module {
    /// Loads `path` and finds out how it is called, for images of the size `images`, which are resized to
    /// `side` by `side` before where that is given.
    ///
    /// # Errors
    /// If it is no TorchScript module, or does not give `[n, d]` for images.
    pub fn load(
        path: &Path,
        range: InputRange,
        side: Option<usize>,
        images: ImageSize,
        device: Device,
    ) -> Result<Self> {
        let name = || path.display().to_string();
        std::fs::metadata(path).with_context(|| format!("{}: cannot be read", name()))?;
        let mut module = CModule::load_on_device(path, device)
            .with_context(|| format!("{}: expected a TorchScript module", name()))?;
        module.f_set_eval().with_context(name)?;
        let mut found = Self {
            module,
            path: path.to_path_buf(),
            range,
            side,
            images,
            call: Call { kind: Kind::Float, with_flag: false },
        };
        let kinds: &[Kind] = match range {
            InputRange::Bytes => &[Kind::Uint8, Kind::Float],
            _ => &[Kind::Float],
        };
        let shape = ImageShape { size: images, channels: 3 };
        let probe = vec![128; 2 * shape.len()];
        let mut refusal = None;
        for with_flag in [true, false] {
            for &kind in kinds {
                found.call = Call { kind, with_flag };
                match found.features(&probe, shape, device) {
                    Ok(_) => return Ok(found),
                    Err(error) => refusal = Some(error),
                }
            }
        }
        let refusal = refusal.context("it was not called")?;
        Err(refusal.context(format!(
            "{}: expected a module that takes images [N, 3, H, W] and gives features [N, d]",
            name()
        )))
    }

    /// Features `[n, d]` of images `[n, H, W, C]` of `shape`.
    fn features(&self, images: &[u8], shape: ImageShape, device: Device) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let taken = ImageShape { size: self.taken(shape.size), ..shape };
        let resized;
        let bytes = if taken == shape {
            images
        } else {
            resized = resize(images, shape, taken.size)?;
            &resized
        };
        let x = match self.range {
            InputRange::Bytes => pixels::planes(bytes, taken)?.f_to_kind(self.call.kind)?,
            InputRange::Unit => {
                pixels::planes(bytes, taken)?.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?
            }
            InputRange::Symmetric => pixels::from_bytes(bytes, taken, Device::Cpu, Kind::Float)?,
        };
        let x = if shape.channels == 1 { x.f_repeat([1, 3, 1, 1])? } else { x };
        let mut arguments = vec![IValue::Tensor(x.f_contiguous()?.f_to_device(device)?)];
        if self.call.with_flag {
            arguments.push(IValue::Bool(true));
        }
        let features = match self.module.forward_is(&arguments)? {
            IValue::Tensor(features) => features,
            other => bail!("expected a tensor, found {other:?}"),
        };
        let count = images.len() / shape.len();
        let shape = features.size();
        ensure!(
            shape.len() >= 2 && shape[0] == count as i64 && shape[2..].iter().all(|&n| n == 1),
            "expected features [{count}, d], found {shape:?}"
        );
        Ok(features.f_flatten(1, -1)?.f_to_kind(Kind::Float)?)
    }

    /// The size in which it takes images of `size`.
    fn taken(&self, size: ImageSize) -> ImageSize {
        self.side.map_or(size, ImageSize::square)
    }
}

impl Extractor {
    /// For people, as `--features` has it.
    pub fn name(&self) -> String {
        match self {
            Self::Pixels => "pixels".to_owned(),
            Self::Classifier(_) => "digits".to_owned(),
            Self::Module(module) => module.path.display().to_string(),
        }
    }

    /// The name, and what tells it from others of that name: numbers by different features cannot be compared.
    ///
    /// # Errors
    /// As [`Self::id`].
    pub fn mark(&self) -> Result<String> {
        let name = self.name();
        Ok(match self.id()? {
            None => name,
            Some(id) => format!("{name} {}", &hex::encode(Sha256::digest(id))[..8]),
        })
    }

    /// What its features depend on besides the images; `None` of pixels, which cost nothing.
    ///
    /// # Errors
    /// If the module's file cannot be read.
    pub fn id(&self) -> Result<Option<String>> {
        Ok(match self {
            Self::Pixels => None,
            Self::Classifier(classifier) => Some(format!("classifier {}", classifier.digest)),
            Self::Module(Module { path, range, side, .. }) => {
                let bytes = std::fs::read(path)
                    .with_context(|| format!("{}: cannot be read", path.display()))?;
                let digest = hex::encode(Sha256::digest(bytes));
                Some(format!("module {digest} {range:?} {side:?}"))
            }
        })
    }

    /// What it is, in words.
    pub fn describe(&self) -> String {
        match self {
            Self::Pixels => "pixels, 0 to 255".to_owned(),
            Self::Classifier(Classifier { accuracy, held_out, classes, .. }) => format!(
                "a classifier of {} classes, right on {:.2} % of {held_out} images that it was not trained on",
                classes.len(),
                100.0 * accuracy
            ),
            Self::Module(module) => {
                let range = match module.range {
                    InputRange::Bytes => "0 to 255",
                    InputRange::Unit => "0 to 1",
                    InputRange::Symmetric => "-1 to 1",
                };
                let ImageSize { width, height } = module.taken(module.images);
                format!("{}, on images of {width}×{height}, {range}", module.path.display())
            }
        }
    }

    /// Features of the images `rows` of `set`. `done` is told how many more are done.
    ///
    /// # Errors
    /// If an image cannot be read, the network fails, or a feature is not finite: then the message says of
    /// which image.
    pub fn features(
        &self,
        set: &ImageSet,
        rows: &[usize],
        device: Device,
        done: &mut dyn FnMut(usize),
    ) -> Result<Features> {
        let _no_grad = tch::no_grad_guard();
        let (mut values, mut logits) = (Vec::new(), Vec::new());
        for chunk in rows.chunks(BLOCK) {
            let bytes = set.rows(chunk.iter().copied())?;
            let block = match self {
                Self::Pixels => {
                    let rows = Tensor::f_from_slice(&bytes)?.f_view([chunk.len() as i64, -1])?;
                    rows.f_to_kind(Kind::Float)?
                }
                Self::Classifier(classifier) => {
                    let images = classifier::images(&bytes, set.shape(), device)?;
                    let (features, scores) = classifier.forward(&images)?;
                    ensure_finite("the classifier's logits", &scores)?;
                    logits.push(scores.f_to_device(Device::Cpu)?);
                    features
                }
                Self::Module(module) => module.features(&bytes, set.shape(), device)?,
            };
            let block = block.f_to_device(Device::Cpu)?;
            let bad = block.f_isfinite()?.f_all_dim(1, false)?.f_logical_not()?;
            if bad.f_any()?.f_int64_value(&[])? != 0 {
                let first = bad.f_to_kind(Kind::Int64)?.f_argmax(0, false)?.f_int64_value(&[])?;
                let image = chunk[first as usize];
                bail!("data set {}: image {image} has features that are not finite", set.name());
            }
            values.push(block);
            done(chunk.len());
        }
        Ok(Features {
            values: Tensor::f_cat(&values, 0)?,
            logits: if logits.is_empty() { None } else { Some(Tensor::f_cat(&logits, 0)?) },
        })
    }
}

/// Images `[n, H, W, C]` of `shape`, resampled by Lanczos' filter to the size `to`.
fn resize(images: &[u8], shape: ImageShape, to: ImageSize) -> Result<Vec<u8>> {
    let pixels = if shape.channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
    let (width, height) = (u32::try_from(shape.size.width)?, u32::try_from(shape.size.height)?);
    let (to_width, to_height) = (u32::try_from(to.width)?, u32::try_from(to.height)?);
    let mut resizer = Resizer::new();
    let mut all = Vec::with_capacity(images.len() / shape.pixels() * to.width * to.height);
    for image in images.chunks_exact(shape.len()) {
        let source = Image::from_vec_u8(width, height, image.to_vec(), pixels)?;
        let mut target = Image::new(to_width, to_height, pixels);
        resizer.resize(&source, &mut target, None)?;
        all.extend_from_slice(target.buffer());
    }
    Ok(all)
}
