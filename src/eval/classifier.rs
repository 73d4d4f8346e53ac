//! A small classifier whose features sets of images are compared by. The program trains it itself, once for each data
//! set, and keeps it in a cache.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand_chacha::rand_core::Rng;
use sha2::{Digest, Sha256};
use tch::nn::OptimizerConfig;
use tch::{Device, Kind, Tensor, nn};

use crate::data::{ImageSet, Labels};
use crate::files::TensorFile;
use crate::finite::ensure_finite;
use crate::pixels;
use crate::rng::{Latent, Stream, permutation, rng};
use crate::shape::ImageShape;

/// Dimensions of the features.
pub const DIMENSIONS: i64 = 128;
/// Channels after each of the two convolutions.
const WIDTHS: [i64; 2] = [32, 64];
/// The shortest side of images from which there is something to learn.
const LEAST_SIDE: usize = 16;
/// Images in a training step.
const BATCH: usize = 128;
/// Passes over the images, unless that makes fewer or more steps than [`STEPS`] allows.
const EPOCHS: usize = 4;
/// The fewest and the most training steps.
const STEPS: (usize, usize) = (600, 3000);
/// Adam's learning rate in the first step; it falls to 0 along a cosine.
const LEARNING_RATE: f64 = 2e-3;
/// One image out of so many is held out of training, to measure how often the classifier is right.
const HELD_OUT: usize = 7;
/// The fewest images that it is trained on: two are held out.
const LEAST_IMAGES: usize = 2 * HELD_OUT;
/// The most pixels that images are moved by in training, in either direction.
const SHIFT: u32 = 2;
/// Version of the file and of the training. Files of another version are not read, so the classifier is trained anew.
const VERSION: &str = "1";
/// Marks the file as a classifier's.
const FORMAT: &str = "dcgan-classifier";

/// A trained network of two convolutions and two dense layers.
#[derive(Debug)]
pub struct Classifier {
    /// Weight and bias of each layer in turn.
    layers: Vec<Tensor>,
    /// The names of the classes.
    pub classes: Vec<String>,
    /// The share of held-out images that it classifies rightly.
    pub accuracy: f64,
    /// How many images were held out of training.
    pub held_out: usize,
    /// A hash of the images and classes that it was trained on.
    key: String,
    /// The SHA-256 of its weights, which tells it from other classifiers.
    pub digest: String,
}

impl Classifier {
    /// The classifier of `set`, from the folder `cache`, or trained now and written to that folder. `progress` is told
    /// of the steps that are done and of how many there are.
    ///
    /// # Errors
    /// If the set has no classes, or fewer than 14 images; if it cannot be read.
    pub fn load_or_train(
        set: &ImageSet,
        device: Device,
        cache: Option<&Path>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let labels = set.labels().with_context(|| {
            format!(
                "data set {}: its images have no classes, which this classifier learns",
                set.name()
            )
        })?;
        let mut key = Sha256::new();
        key.update(set.identity()?.pixels_key());
        key.update(serde_json::to_vec(&labels.classes)?);
        labels.of_images.iter().for_each(|label| key.update(label.to_le_bytes()));
        let key = hex::encode(key.finalize());
        let name = format!("classifier-{}-v{VERSION}.safetensors", &key[..32]);
        let path = cache.map(|cache| cache.join(name));
        if let Some(found) = path.as_ref().and_then(|path| Self::read(path, &key, device).ok()) {
            return Ok(found);
        }
        let trained = Self::train(set, labels, key, device, progress)?;
        if let Some(path) = path {
            // Without a cache the classifier is trained again next time, which costs only time.
            let _ = trained.write(&path);
        }
        Ok(trained)
    }

    /// Trains on six sevenths of the images and measures on the rest.
    fn train(
        set: &ImageSet,
        labels: Labels,
        key: String,
        device: Device,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let count = set.count();
        ensure!(
            count >= LEAST_IMAGES,
            "a classifier takes at least {LEAST_IMAGES} images, found {count}"
        );
        let order = permutation(&mut rng(0, Stream::Subset, 3), u32::try_from(count)?);
        let (held_out, training) = order.split_at(count / HELD_OUT);
        let store = nn::VarStore::new(device);
        let ImageShape { size, channels } = set.shape();
        ensure!(
            size.width.min(size.height) >= LEAST_SIDE,
            "a classifier takes images of at least {LEAST_SIDE}×{LEAST_SIDE}, found {size}"
        );
        // Either convolution is followed by a pooling that halves.
        let grid = (size.height / 2 / 2 * (size.width / 2 / 2)) as i64;
        let shapes: [&[i64]; 4] = [
            &[WIDTHS[0], channels as i64, 3, 3],
            &[WIDTHS[1], WIDTHS[0], 3, 3],
            &[DIMENSIONS, WIDTHS[1] * grid],
            &[labels.classes.len() as i64, DIMENSIONS],
        ];
        let mut layers = Vec::new();
        for (i, shape) in shapes.into_iter().enumerate() {
            // He's initial values: the variance is 2 divided by the number of inputs.
            let inputs: i64 = shape[1..].iter().product();
            let values = shape.iter().product::<i64>() as usize;
            let noise = Latent::Normal.sample(&mut rng(i as u64, Stream::Init, 1 << 40), values, 1);
            let initial = Tensor::f_from_slice(&noise)?.f_view(shape)?;
            let initial = initial.f_mul_scalar((2.0 / inputs as f64).sqrt())?;
            let root = store.root();
            layers.push(root.var_copy(&format!("weight{i}"), &initial));
            layers.push(root.zeros(&format!("bias{i}"), &[shape[0]]));
        }
        let classes = labels.classes.clone();
        let held = held_out.len();
        let mut classifier =
            Self { layers, classes, accuracy: 0.0, held_out: held, key, digest: String::new() };
        let per_epoch = training.len().div_ceil(BATCH);
        let steps = (EPOCHS * per_epoch).clamp(STEPS.0, STEPS.1);
        let mut optimizer = nn::Adam::default().build(&store, LEARNING_RATE)?;
        let mut order = Vec::new();
        for step in 0..steps {
            let position = step % per_epoch;
            if position == 0 {
                let epoch = (step / per_epoch) as u64;
                let mut shuffle = rng(1, Stream::Shuffle, epoch);
                order = permutation(&mut shuffle, u32::try_from(training.len())?);
            }
            let chosen = &order[position * BATCH..order.len().min((position + 1) * BATCH)];
            let rows: Vec<u32> = chosen.iter().map(|&i| training[i as usize]).collect();
            let (images, targets) = batch(set, &labels, &rows, device)?;
            let mut shifts = rng(1, Stream::Flip, step as u64);
            let mut shift = || i64::from(shifts.next_u32() % (2 * SHIFT + 1)) - i64::from(SHIFT);
            let images = images.f_roll([shift(), shift()], [2i64, 3])?;
            let done = step as f64 / steps as f64;
            optimizer.set_lr(LEARNING_RATE * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()));
            let (_, logits) = classifier.forward(&images)?;
            let loss = logits.f_cross_entropy_loss::<Tensor>(
                &targets,
                None,
                tch::Reduction::Mean,
                -100,
                0.0,
            )?;
            ensure_finite("the classifier's loss", &loss)?;
            optimizer.zero_grad();
            loss.f_backward()?;
            optimizer.step();
            progress(step + 1, steps);
        }
        let _no_grad = tch::no_grad_guard();
        let mut right = 0.0;
        for rows in held_out.chunks(4 * BATCH) {
            let (images, targets) = batch(set, &labels, rows, device)?;
            let (_, logits) = classifier.forward(&images)?;
            right += logits
                .f_argmax(1, false)?
                .f_eq_tensor(&targets)?
                .f_sum(Kind::Double)?
                .f_double_value(&[])?;
        }
        classifier.accuracy = right / held_out.len() as f64;
        for layer in &mut classifier.layers {
            *layer = layer.f_detach()?;
        }
        classifier.digest = digest(&classifier.layers)?;
        Ok(classifier)
    }

    /// Images `[n, C, H, W]` in [−1, 1] → features `[n, 128]` and logits `[n, classes]`.
    ///
    /// # Errors
    /// If the images are of another shape than those that it was trained on.
    pub fn forward(&self, images: &Tensor) -> Result<(Tensor, Tensor)> {
        let [w1, b1, w2, b2, w3, b3, w4, b4] = &self.layers[..] else {
            unreachable!("four layers, as they were made or read")
        };
        let layer = |x: &Tensor, w: &Tensor, b: &Tensor| -> Result<Tensor> {
            let x = x.f_conv2d(w, Some(b), [1, 1], [1, 1], [1, 1], 1)?.f_relu()?;
            Ok(x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?)
        };
        let x = layer(images, w1, b1)?; // [n, 32, H/2, W/2]
        let x = layer(&x, w2, b2)?.f_flatten(1, -1)?; // [n, 64·H/4·W/4]
        let features = x.f_linear(w3, Some(b3))?.f_relu()?;
        let logits = features.f_linear(w4, Some(b4))?;
        Ok((features, logits))
    }

    fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let metadata = [
            ("format", FORMAT.to_owned()),
            ("version", VERSION.to_owned()),
            ("trained_on", self.key.clone()),
            ("classes", serde_json::to_string(&self.classes)?),
            ("accuracy", self.accuracy.to_string()),
            ("held_out", self.held_out.to_string()),
        ];
        let tensors = self.layers.iter().enumerate();
        TensorFile {
            metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
            tensors: tensors
                .map(|(i, layer)| (format!("layer{i}"), layer.shallow_clone()))
                .collect(),
        }
        .write_sealed(path)
    }

    fn read(path: &Path, key: &str, device: Device) -> Result<Self> {
        let TensorFile { metadata, mut tensors } = TensorFile::read_sealed(path)?;
        let get = |key: &str| metadata.get(key).map(String::as_str).context("another file");
        ensure!(get("format")? == FORMAT && get("version")? == VERSION, "another version");
        ensure!(get("trained_on")? == key, "of other images");
        let mut layers = Vec::new();
        for i in 0..8 {
            let layer = tensors.remove(&format!("layer{i}")).context("a layer is missing")?;
            ensure_finite("a layer", &layer)?;
            layers.push(layer.f_to_device(device)?);
        }
        Ok(Self {
            digest: digest(&layers)?,
            layers,
            classes: serde_json::from_str(get("classes")?)?,
            accuracy: get("accuracy")?.parse()?,
            held_out: get("held_out")?.parse()?,
            key: key.to_owned(),
        })
    }
}

/// The SHA-256 of the layers' values.
fn digest(layers: &[Tensor]) -> Result<String> {
    let mut digest = Sha256::new();
    for layer in layers {
        let values = layer.f_to_device(Device::Cpu)?.f_contiguous()?.f_flatten(0, -1)?;
        Vec::<f32>::try_from(values)?.iter().for_each(|value| digest.update(value.to_le_bytes()));
    }
    Ok(hex::encode(digest.finalize()))
}

/// The images `rows` of `set` `[n, C, H, W]` in [−1, 1], and their classes `[n]`.
fn batch(
    set: &ImageSet,
    labels: &Labels,
    rows: &[u32],
    device: Device,
) -> Result<(Tensor, Tensor)> {
    let bytes = set.rows(rows.iter().map(|&row| row as usize))?;
    let targets: Vec<i64> = rows.iter().map(|&row| labels.of_images[row as usize].into()).collect();
    let targets = Tensor::f_from_slice(&targets)?.f_to_device(device)?;
    Ok((images(&bytes, set.shape(), device)?, targets))
}

/// Bytes `[n, H, W, C]` as the classifier takes them: `[n, C, H, W]` in [−1, 1].
pub(super) fn images(bytes: &[u8], shape: ImageShape, device: Device) -> Result<Tensor> {
    Ok(pixels::from_bytes(bytes, shape, device, Kind::Float)?.f_contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageSize;

    #[test]
    fn a_classifier_is_trained_on_images_of_any_size_from_16_on() -> Result<()> {
        // The images are so few that more threads would only wait for each other.
        tch::set_num_threads(1);
        let labelled = |width, height| {
            let shape = ImageShape { size: ImageSize { width, height }, channels: 1 };
            // Dark images and bright ones.
            let pixels = (0..28).flat_map(|i| vec![if i % 2 == 0 { 40 } else { 200 }; shape.len()]);
            let classes = ["dark", "bright"].map(str::to_owned).into();
            let set = ImageSet::new("two", shape, pixels.collect())?;
            Ok::<_, anyhow::Error>(set.labelled((0..28).map(|i| i % 2).collect(), classes))
        };
        let set = labelled(18, 16)?;
        let classifier = Classifier::load_or_train(&set, Device::Cpu, None, &mut |_, _| {})?;
        assert_eq!((classifier.accuracy, classifier.held_out), (1.0, 4));
        let images = images(&set.first(3)?, set.shape(), Device::Cpu)?;
        let (features, logits) = classifier.forward(&images)?;
        assert_eq!((features.size(), logits.size()), (vec![3, DIMENSIONS], vec![3, 2]));
        // Images of another size are refused, and so are those too small to learn from.
        assert!(classifier.forward(&images.narrow(3, 0, 12)).is_err());
        let error =
            Classifier::load_or_train(&labelled(15, 40)?, Device::Cpu, None, &mut |_, _| {});
        assert!(error.unwrap_err().to_string().contains("at least 16×16"));
        Ok(())
    }
}
