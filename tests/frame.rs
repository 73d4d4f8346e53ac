//! Compares the mirrored frame with the slow, obvious form: TensorFlow's layouts, upright images, and "same"
//! padding by padding and cropping.

use std::collections::BTreeMap;

use anyhow::Result;
use dcgan::model::Network;
use dcgan::sample::sample;
use dcgan::shape::Grid;
use dcgan::tf::frame::rotate_images;
use dcgan::tf::{
    BatchNorm, BatchNormConfig, Conv, ConvConfig, ConvTranspose, Dense, DenseConfig, Statistics,
    Variable, sigmoid_cross_entropy,
};
use tch::{Device, Kind, Tensor, nn};

use super::common::{assert_close, normal, one_thread, random_model, randomize};

const BOUND: f64 = 1e-12;
const ALPHA: f64 = 0.2;
const EPSILON: f64 = 1e-5;

/// The slow, obvious form. It holds variables by TensorFlow's names, in TensorFlow's layouts and frame, and
/// computes on upright images `[N, C, H, W]`.
struct Upright(BTreeMap<String, Tensor>);

impl Upright {
    fn of(variables: &[Variable]) -> Result<Self> {
        let upright = |variable: &Variable| {
            let tensor = variable.layout.tf_from_mirrored(&variable.tensor.detach())?;
            let tensor = tensor.set_requires_grad(variable.role.is_trainable());
            Ok((variable.tf_name.clone(), tensor))
        };
        Ok(Self(variables.iter().map(upright).collect::<Result<_>>()?))
    }

    fn get(&self, layer: &str, name: &str) -> &Tensor {
        &self.0[&format!("{layer}/{name}")]
    }

    fn dense(&self, layer: &str, x: &Tensor) -> Tensor {
        x.matmul(self.get(layer, "kernel")) + self.get(layer, "bias")
    }

    /// With kernel 5, stride 2 and even sizes, "same" padding is 3 zeros: 1 before the input and 2 after it.
    fn conv(&self, layer: &str, x: &Tensor) -> Tensor {
        let kernel_oihw = self.get(layer, "kernel").permute([3, 2, 0, 1]);
        let bias = Some(self.get(layer, "bias"));
        x.constant_pad_nd([1, 2, 1, 2]).conv2d(&kernel_oihw, bias, [2, 2], [0, 0], [1, 1], 1)
    }

    /// The gradient of [`Self::conv`] with respect to its input. The part that belongs to the padding is cropped.
    fn conv_transpose(&self, layer: &str, x: &Tensor) -> Tensor {
        let kernel_iohw = self.get(layer, "kernel").permute([3, 2, 0, 1]);
        let (_, _, h, w) = x.size4().unwrap();
        let full =
            x.conv_transpose2d(&kernel_iohw, None::<&Tensor>, [2, 2], [0, 0], [0, 0], 1, [1, 1]); // [N, O, 2H + 3, 2W + 3]
        assert_eq!(full.size()[2..], [2 * h + 3, 2 * w + 3]);
        let same = full.narrow(2, 1, 2 * h).narrow(3, 1, 2 * w);
        same + self.get(layer, "bias").view([1, -1, 1, 1])
    }

    fn batch_norm(&self, layer: &str, x: &Tensor, moving: bool) -> Tensor {
        let (mean, variance) = if moving {
            let moving = |name| self.get(layer, name).view([1, -1, 1, 1]);
            (moving("moving_mean"), moving("moving_variance"))
        } else {
            let mean = |x: &Tensor| x.mean_dim([0, 2, 3].as_slice(), true, Kind::Double);
            (mean(x), mean(&(x - mean(x)).square()))
        };
        let channel = |name| self.get(layer, name).view([1, -1, 1, 1]);
        (x - mean) / (variance + EPSILON).sqrt() * channel("gamma") + channel("beta")
    }

    fn generator(&self, z: &Tensor, moving: bool) -> Tensor {
        let mut x = hwc_to_chw(&self.dense("dense", z));
        for suffix in ["", "_1", "_2"] {
            x = self.batch_norm(&format!("batch_normalization{suffix}"), &x, moving).relu();
            x = self.conv_transpose(&format!("conv2d_transpose{suffix}"), &x);
        }
        x.tanh()
    }

    fn discriminator(&self, images: &Tensor) -> Tensor {
        let leaky_relu = |x: Tensor| x.maximum(&(&x * ALPHA));
        let mut x = leaky_relu(self.conv("conv2d", images));
        for (conv, norm) in
            [("conv2d_1", "batch_normalization"), ("conv2d_2", "batch_normalization_1")]
        {
            x = leaky_relu(self.batch_norm(norm, &self.conv(conv, &x), false));
        }
        self.dense("dense", &x.permute([0, 2, 3, 1]).flatten(1, 3))
    }
}

/// `[N, (h, w, c)]` of the 4×4 grid → `[N, C, 4, 4]`.
fn hwc_to_chw(x: &Tensor) -> Tensor {
    let rows = x.size()[0];
    x.view([rows, 4, 4, -1]).permute([0, 3, 1, 2])
}

fn chw_to_hwc(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).flatten(1, 3)
}

/// A float64 layer from `new` with random variables, and the same layer in the upright form.
fn layer<L>(
    new: impl FnOnce(&nn::Path) -> L,
    variables: impl Fn(&L) -> Vec<Variable>,
) -> Result<(L, Upright)> {
    one_thread();
    let mut store = nn::VarStore::new(Device::Cpu);
    let layer = new(&store.root());
    store.double();
    randomize(&mut variables(&layer), 3);
    let upright = Upright::of(&variables(&layer))?;
    Ok((layer, upright))
}

/// Input channels, output channels, height and width.
const SHAPES: [(i64, i64, i64, i64); 4] =
    [(1, 2, 4, 4), (3, 4, 6, 10), (5, 1, 8, 2), (2, 3, 32, 32)];

#[test]
fn conv_equals_pad_and_crop() -> Result<()> {
    for (in_channels, out_channels, h, w) in SHAPES {
        let config = ConvConfig { in_channels, out_channels };
        let (conv, upright) = layer(|p| Conv::new(p, "conv2d", config), Conv::variables)?;
        let x = normal(1, &[2, in_channels, h, w]);
        let ours = rotate_images(&conv.forward(&rotate_images(&x)?)?)?;
        assert_close(&format!("{config:?}"), &ours, &upright.conv("conv2d", &x), BOUND);
    }
    Ok(())
}

#[test]
fn conv_transpose_equals_pad_and_crop() -> Result<()> {
    for (in_channels, out_channels, h, w) in SHAPES {
        let config = ConvConfig { in_channels, out_channels };
        let new = |p: &nn::Path| ConvTranspose::new(p, "t", config);
        let (conv, upright) = layer(new, ConvTranspose::variables)?;
        let x = normal(1, &[2, in_channels, h, w]);
        let ours = rotate_images(&conv.forward(&rotate_images(&x)?)?)?;
        assert_close(&format!("{config:?}"), &ours, &upright.conv_transpose("t", &x), BOUND);
    }
    Ok(())
}

#[test]
fn dense_layers_hold_the_grid_in_h_w_c_order() -> Result<()> {
    let grid = Grid { height: 4, width: 4 };
    for (features, channels) in [(1, 1), (7, 3), (3, 8)] {
        let config = DenseConfig::ToGrid { features, channels, grid };
        let (dense, upright) = layer(|p| Dense::new(p, "dense", config), Dense::variables)?;
        let x = normal(1, &[2, features]);
        let ours = rotate_images(&hwc_to_chw(&dense.forward(&x)?))?;
        let theirs = hwc_to_chw(&upright.dense("dense", &x));
        assert_close(&format!("{config:?}"), &ours, &theirs, BOUND);

        let config = DenseConfig::FromGrid { channels, grid, features };
        let (dense, upright) = layer(|p| Dense::new(p, "dense", config), Dense::variables)?;
        let x = normal(2, &[2, channels, 4, 4]);
        let ours = dense.forward(&chw_to_hwc(&rotate_images(&x)?))?;
        let theirs = upright.dense("dense", &chw_to_hwc(&x));
        assert_close(&format!("{config:?}"), &ours, &theirs, BOUND);
    }
    Ok(())
}

#[test]
fn batch_norm_normalizes_with_the_biased_variance_and_keeps_the_unbiased_one() -> Result<()> {
    for (channels, rows) in [(1, 1), (3, 2), (8, 5)] {
        let config = BatchNormConfig { channels, epsilon: EPSILON };
        let (norm, upright) = layer(|p| BatchNorm::new(p, "n", config), BatchNorm::variables)?;
        let x = normal(1, &[rows, channels, 4, 4]) * 0.01 + 0.02;
        for (statistics, moving) in [(Statistics::Batch, false), (Statistics::Moving, true)] {
            let theirs = upright.batch_norm("n", &x, moving);
            assert_close(
                &format!("{statistics:?}"),
                &norm.forward(&x, statistics)?,
                &theirs,
                BOUND,
            );
        }
        let moving = || {
            let variables = norm.variables();
            [variables[2].tensor.copy(), variables[3].tensor.copy()]
        };
        // Neither of the passes above has changed the moving statistics.
        let before = moving();
        assert_eq!(before[0], *upright.get("n", "moving_mean"));
        assert_eq!(before[1], *upright.get("n", "moving_variance"));

        let statistics = Statistics::BatchUpdating { momentum: 0.3 };
        let theirs = upright.batch_norm("n", &x, false);
        assert_close("updating", &norm.forward(&x, statistics)?, &theirs, BOUND);
        let batch = x.transpose(0, 1).flatten(1, 3); // [C, N · 16]
        let mean = batch.mean_dim(1, false, Kind::Double);
        let unbiased =
            (&batch - mean.unsqueeze(1)).square().sum_dim_intlist(1, false, Kind::Double)
                / (16 * rows - 1) as f64;
        let after = moving();
        assert_close("moving mean", &after[0], &(&before[0] * 0.7 + mean * 0.3), BOUND);
        assert_close("moving variance", &after[1], &(&before[1] * 0.7 + unbiased * 0.3), BOUND);
    }
    Ok(())
}

/// Channels and base width of the networks to compare.
const NETWORKS: [(i64, i64); 3] = [(1, 1), (2, 3), (3, 2)];

#[test]
fn the_whole_generator_equals_the_upright_one() -> Result<()> {
    for (channels, width) in NETWORKS {
        let model = random_model(channels as usize, width)?;
        let upright = Upright::of(&model.variables(Network::Generator))?;
        let z = normal(1, &[4, 5]);
        for (statistics, moving) in [(Statistics::Batch, false), (Statistics::Moving, true)] {
            let ours = rotate_images(&model.generator.forward(&z, statistics)?)?;
            let theirs = upright.generator(&z, moving);
            assert_close(&format!("{channels} channels, {statistics:?}"), &ours, &theirs, BOUND);
        }
    }
    Ok(())
}

#[test]
fn the_whole_discriminator_equals_the_upright_one() -> Result<()> {
    for (channels, width) in NETWORKS {
        let model = random_model(channels as usize, width)?;
        let upright = Upright::of(&model.variables(Network::Discriminator))?;
        let images = normal(1, &[4, channels, 32, 32]);
        let ours =
            model.discriminator.forward(&rotate_images(&images)?, None, Statistics::Batch)?;
        let theirs = upright.discriminator(&images);
        assert_close(&format!("{channels} channels"), &ours, &theirs, BOUND);
    }
    Ok(())
}

#[test]
fn every_gradient_of_the_whole_network_equals_the_upright_one() -> Result<()> {
    for (channels, width) in NETWORKS {
        let model = random_model(channels as usize, width)?;
        let [generator, discriminator] =
            Network::ALL.map(|network| Upright::of(&model.variables(network)));
        let (generator, discriminator) = (generator?, discriminator?);
        let z = normal(1, &[4, 5]);
        let fake = model.generator.forward(&z, Statistics::Batch)?;
        let logits = model.discriminator.forward(&fake, None, Statistics::Batch)?;
        let ours = sigmoid_cross_entropy(&logits, 1.0)?;
        let logits = discriminator.discriminator(&generator.generator(&z, false));
        let theirs = sigmoid_cross_entropy(&logits, 1.0)?;
        assert_close("loss", &ours, &theirs, BOUND);
        for (network, upright) in Network::ALL.into_iter().zip([&generator, &discriminator]) {
            let variables = model.trainable(network);
            for variable in variables {
                let theirs_of = &upright.0[&variable.tf_name];
                let gradient = |loss: &Tensor, of: &Tensor| {
                    Tensor::run_backward(&[loss], &[of], true, false).remove(0)
                };
                let ours = variable.layout.tf_from_mirrored(&gradient(&ours, &variable.tensor))?;
                let theirs = gradient(&theirs, theirs_of);
                let name = network.full_name(&variable);
                if norm(&theirs) < 1e-14 {
                    // The bias has no effect, because a batch norm subtracts it. Both gradients are rounding
                    // errors.
                    assert!(norm(&ours) < 1e-14, "{name}");
                } else {
                    assert_close(&name, &ours, &theirs, BOUND);
                }
            }
        }
    }
    Ok(())
}

fn norm(x: &Tensor) -> f64 {
    x.norm().double_value(&[])
}

#[test]
fn samples_are_the_upright_generators_images() -> Result<()> {
    for (channels, width) in NETWORKS {
        let model = random_model(channels as usize, width)?;
        let z = normal(1, &[4, 5]);
        let upright = Upright::of(&model.variables(Network::Generator))?;
        let images = upright.generator(&z, true).detach();
        let bytes = ((images + 1.0) * 127.5).round().to_kind(Kind::Uint8).permute([0, 2, 3, 1]);
        let bytes: Vec<u8> = Vec::try_from(bytes.contiguous().flatten(0, -1))?;
        let z: Vec<f32> = Vec::try_from(z.to_kind(Kind::Float).flatten(0, -1))?;
        assert!(sample(&model, &z)? == bytes, "{channels} channels");
    }
    Ok(())
}

#[test]
fn batch_norm_folded_into_the_weights_gives_the_same_images() -> Result<()> {
    for channels in [1, 3] {
        let model = random_model(channels, 2)?;
        for batch in [2, 40] {
            let z = normal(4, &[batch, model.config().z_dim]);
            let plain = model.generator.forward(&z, Statistics::Moving)?;
            let folded = model.generator.folded()?;
            for _ in 0..2 {
                assert_close("folded", &folded.forward(&z)?, &plain.detach(), BOUND);
            }
        }
    }
    Ok(())
}
