//! What images are compared by.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use fast_image_resize::images::Image;
use fast_image_resize::{PixelType, Resizer};
use sha2::{Digest, Sha256};
use tch::{CModule, Device, IValue, Kind, Tensor};

use super::classifier::{Classifier, to_unit};
use crate::data::{ImageSet, SIZE};
use crate::finite::ensure_finite;

/// Images that go through a network together.
const BLOCK: usize = 256;

/// From images to features.
#[derive(Debug)]
pub enum Extractor {
    /// The pixels themselves, 0 to 255: `C·32·32` dimensions.
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
    size: Option<usize>,
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
    /// Loads `path` and finds out how it is called.
    ///
    /// # Errors
    /// If it is no TorchScript module, or does not give `[n, d]` for images.
    pub fn load(
        path: &Path,
        range: InputRange,
        size: Option<usize>,
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
            size,
            call: Call { kind: Kind::Float, with_flag: false },
        };
        let kinds: &[Kind] = match range {
            InputRange::Bytes => &[Kind::Uint8, Kind::Float],
            _ => &[Kind::Float],
        };
        let probe = [128_u8; 2 * 3 * SIZE * SIZE];
        let mut refusal = None;
        for with_flag in [true, false] {
            for &kind in kinds {
                found.call = Call { kind, with_flag };
                match found.features(&probe, 3, device) {
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

    fn features(&self, images: &[u8], channels: usize, device: Device) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let side = self.size.unwrap_or(SIZE);
        let resized;
        let bytes = if side == SIZE {
            images
        } else {
            resized = resize(images, channels, side)?;
            &resized
        };
        let shape = [-1, side as i64, side as i64, channels as i64];
        let x = Tensor::f_from_slice(bytes)?.f_view(shape)?.f_permute([0, 3, 1, 2])?;
        let x = if channels == 1 { x.f_repeat([1, 3, 1, 1])? } else { x };
        let x = match self.range {
            InputRange::Bytes => x.f_to_kind(self.call.kind)?,
            InputRange::Unit => x.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?,
            InputRange::Symmetric => {
                x.f_to_kind(Kind::Float)?.f_div_scalar(127.5)?.f_sub_scalar(1.0)?
            }
        };
        let mut arguments = vec![IValue::Tensor(x.f_contiguous()?.f_to_device(device)?)];
        if self.call.with_flag {
            arguments.push(IValue::Bool(true));
        }
        let features = match self.module.forward_is(&arguments)? {
            IValue::Tensor(features) => features,
            other => bail!("expected a tensor, found {other:?}"),
        };
        let count = images.len() / (SIZE * SIZE * channels);
        let shape = features.size();
        ensure!(
            shape.len() >= 2 && shape[0] == count as i64 && shape[2..].iter().all(|&n| n == 1),
            "expected features [{count}, d], found {shape:?}"
        );
        Ok(features.f_flatten(1, -1)?.f_to_kind(Kind::Float)?)
    }
}

impl Extractor {
    /// For people, as they ask for it.
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
            Self::Module(Module { path, range, size, .. }) => {
                let bytes = std::fs::read(path)
                    .with_context(|| format!("{}: cannot be read", path.display()))?;
                let digest = hex::encode(Sha256::digest(bytes));
                Some(format!("module {digest} {range:?} {size:?}"))
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
            Self::Module(Module { path, range, size, .. }) => {
                let range = match range {
                    InputRange::Bytes => "0 to 255",
                    InputRange::Unit => "0 to 1",
                    InputRange::Symmetric => "-1 to 1",
                };
                let size = size.unwrap_or(SIZE);
                format!("{}, on images of {size}×{size}, {range}", path.display())
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
                    let images = to_unit(&bytes, set.channels(), device)?;
                    let (features, scores) = classifier.forward(&images)?;
                    ensure_finite("the classifier's logits", &scores)?;
                    logits.push(scores.f_to_device(Device::Cpu)?);
                    features
                }
                Self::Module(module) => module.features(&bytes, set.channels(), device)?,
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

/// Images `[n, 32, 32, C]`, resampled by Lanczos' filter to `side`.
fn resize(images: &[u8], channels: usize, side: usize) -> Result<Vec<u8>> {
    let pixels = if channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
    let (from, to) = (SIZE as u32, u32::try_from(side)?);
    let mut resizer = Resizer::new();
    let mut all = Vec::with_capacity(images.len() / (SIZE * SIZE) * side * side);
    for image in images.chunks_exact(SIZE * SIZE * channels) {
        let source = Image::from_vec_u8(from, from, image.to_vec(), pixels)?;
        let mut target = Image::new(to, to, pixels);
        resizer.resize(&source, &mut target, None)?;
        all.extend_from_slice(target.buffer());
    }
    Ok(all)
}
