//! How a reference file was made.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tch::Kind;

use crate::architecture::{ModelConfig, halvings};
use crate::shape::{ImageShape, ImageSize};
use crate::tf::AdamConfig;
use crate::train::objective::Objective;
use crate::train::step::StepConfig;

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
    /// Whether a float32 file also holds what TensorFlow computes in float64 from the same values.
    pub has_truth: bool,
}

impl Settings {
    pub(super) fn read(metadata: &BTreeMap<String, String>) -> Result<Self> {
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
        let has_truth = match metadata.get("truth").map(String::as_str) {
            None => false,
            Some("f64") if kind == Kind::Float => true,
            Some(other) => {
                bail!("metadata `truth`: expected `f64` in a file of f32, found `{other}`")
            }
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
            has_truth,
        })
    }
}
