//! Features of images: the numbers by which sets of images are compared.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use fast_image_resize::images::Image;
use fast_image_resize::{PixelType, Resizer};
use sha2::{Digest, Sha256};
use tch::{CModule, Device, IValue, Kind, Tensor};

use super::classifier::{self, Classifier};
use super::tensors::rows;
use crate::data::ImageSet;
use crate::finite::ensure_finite;
use crate::pixels;
use crate::shape::{ImageShape, ImageSize};

/// Images that go through a network together.
const BLOCK: usize = 256;
/// The most values of an image as features. Metrics of features need the features' covariance, which takes 130 MB
/// for so many, and a minute of computing.
const MAX_PIXELS: usize = 4096;

/// Computes features of images.
#[derive(Debug)]
pub enum Extractor {
    /// The pixels themselves, 0 to 255: `H·W·C` dimensions. Of images of more than 4096 values, the means of squares
    /// of 2 by 2 pixels, or of 4 by 4 and so on, until there are no more.
    Pixels,
    /// The last hidden layer of a classifier that this program has trained.
    Classifier(Classifier),
    /// A TorchScript module.
    Module(Module),
}

/// Which values a module expects in its images, `[N, 3, H, W]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputRange {
    /// Bytes, 0 to 255, or floats of the same values if the module refuses bytes.
    Bytes,
    /// Floats, 0 to 1.
    Unit,
    /// Floats, −1 to 1.
    Symmetric,
}

/// A TorchScript module that computes features `[N, d]` of images `[N, 3, H, W]`.
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

/// How a module's `forward` is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Call {
    /// Kind of the images.
    kind: Kind,
    /// Whether `return_features=True` is passed, which the modules of the StyleGAN authors need.
    with_flag: bool,
}

/// Features of images, and the logits of their classes if a classifier computed them.
#[derive(Debug)]
pub struct Features {
    /// `[n, d]`, float32.
    pub values: Tensor,
    /// `[n, classes]`; only [`Extractor::Classifier`] has them.
    pub logits: Option<Tensor>,
}

/// Whether the file at `path` begins as TorchScript modules do, which are ZIP archives.
fn begins_as_archive(path: &Path) -> bool {
    let mut begin = [0; 2];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut begin));
    read.is_ok() && begin == *b"PK"
}

impl Module {
    /// Loads the module in `path` and finds out, by trying, how it is called, for images of the size `images`, which
    /// are resized to `side` by `side` before where that is given.
    ///
    /// # Errors
    /// If it is no TorchScript module, or does not compute `[n, d]` of images.
    pub fn load(
        path: &Path,
        range: InputRange,
        side: Option<usize>,
        images: ImageSize,
        device: Device,
    ) -> Result<Self> {
        let name = || path.display().to_string();
        std::fs::metadata(path).with_context(|| format!("{}: cannot be read", name()))?;
        // What libtorch says of such a file is about its own code.
        let mut module = CModule::load_on_device(path, device).map_err(|_| {
            let found = match begins_as_archive(path) {
                true => "an archive that is damaged, cut off or holds something else",
                false => "a file of another kind",
            };
            anyhow!(
                "{}: expected a TorchScript module (torch.jit.save writes one), found {found}",
                name()
            )
        })?;
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
    /// The name that users know it by: `pixels`, `digits` or the module's file.
    pub fn name(&self) -> String {
        match self {
            Self::Pixels => "pixels".to_owned(),
            Self::Classifier(_) => "digits".to_owned(),
            Self::Module(module) => module.path.display().to_string(),
        }
    }

    /// The name, of a module without its folder, with a hash that tells it from other features of that name: metrics of
    /// different features cannot be compared.
    ///
    /// # Errors
    /// As [`Self::cache_key`].
    pub fn mark(&self) -> Result<String> {
        let name = match self {
            Self::Module(Module { path, .. }) => {
                path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
            _ => self.name(),
        };
        Ok(match self.cache_key()? {
            None => name,
            Some(key) => format!("{name} {}", &hex::encode(Sha256::digest(key))[..8]),
        })
    }

    /// Everything that its features depend on besides the images, as the key of a cache; `None` for pixels, which are
    /// not worth caching.
    ///
    /// # Errors
    /// If the module's file cannot be read.
    pub fn cache_key(&self) -> Result<Option<String>> {
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

    /// A description for people.
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

    /// Features of the images `numbers` of `set`. `progress` is told of how many more images are done.
    ///
    /// # Errors
    /// If an image cannot be read or the network fails; if a feature is not finite, and then the message names the
    /// image.
    pub fn features(
        &self,
        set: &ImageSet,
        numbers: &[usize],
        device: Device,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Features> {
        let _no_grad = tch::no_grad_guard();
        let (mut values, mut logits) = (Vec::new(), Vec::new());
        for chunk in numbers.chunks(BLOCK) {
            let bytes = set.rows(chunk.iter().copied())?;
            let block = match self {
                Self::Pixels => pixel_features(&bytes, set.shape())?,
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
            progress(chunk.len());
        }
        Ok(Features {
            values: Tensor::f_cat(&values, 0)?,
            logits: if logits.is_empty() { None } else { Some(Tensor::f_cat(&logits, 0)?) },
        })
    }
}

/// The features of [`Extractor::Pixels`] of images `[n, H, W, C]` of `shape`: `[n, d]`.
fn pixel_features(images: &[u8], shape: ImageShape) -> Result<Tensor> {
    let sides = (0..).map(|level| 1 << level);
    let side: usize =
        sides.into_iter().find(|side| shape.len() / (side * side) <= MAX_PIXELS).unwrap_or(1);
    if side == 1 {
        return rows(images, shape.len(), Kind::Float);
    }
    let images = pixels::planes(images, shape)?.f_to_kind(Kind::Float)?;
    let sides = [side as i64; 2];
    let means = images.f_avg_pool2d(sides, sides, [0, 0], false, true, None::<i64>)?;
    Ok(means.f_flatten(1, -1)?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_of_large_images_are_averaged_until_they_are_few() -> Result<()> {
        let of =
            |width, height, channels| ImageShape { size: ImageSize { width, height }, channels };
        for (shape, dimensions) in [
            (of(32, 32, 3), 3072),
            (of(64, 64, 1), 4096),
            (of(64, 64, 3), 3072),
            (of(80, 48, 3), 2880),
            (of(256, 256, 3), 3072),
        ] {
            let features = pixel_features(&vec![7; 2 * shape.len()], shape)?;
            assert_eq!(features.size(), [2, dimensions], "{shape}");
            assert_eq!(
                (features.min().double_value(&[]), features.max().double_value(&[])),
                (7.0, 7.0)
            );
        }
        // Of each square of 2 by 2 pixels the mean, in each channel.
        let shape = of(64, 64, 3);
        let image: Vec<u8> = (0..shape.len()).map(|i| (i * i / 7) as u8).collect();
        let mean = |x: usize, y: usize, c: usize| {
            let pixels = [(0, 0), (1, 0), (0, 1), (1, 1)]
                .map(|(dx, dy)| f64::from(image[((2 * y + dy) * 64 + 2 * x + dx) * 3 + c]));
            pixels.iter().sum::<f64>() / 4.0
        };
        let features = pixel_features(&image, shape)?.view([3, 32, 32]);
        for (x, y, c) in [(0, 0, 0), (31, 5, 2), (7, 30, 1)] {
            assert_eq!(features.double_value(&[c as i64, y as i64, x as i64]), mean(x, y, c));
        }
        Ok(())
    }
}
