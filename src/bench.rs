//! How long an iteration takes.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::device::DeviceChoice;
use crate::model::{Model, ModelConfig};
use crate::rng::{Latent, Stream, rng};
use crate::tf::frame::IMAGE_SIZE;
use crate::train::step::{Gan, StepConfig};

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchConfig {
    /// Sizes of the networks.
    pub model: ModelConfig,
    /// Real images an iteration, and rows of z.
    pub batch_size: usize,
    /// Kind of the weights and of the computation.
    pub kind: Kind,
    /// Where.
    pub device: Device,
    /// Iterations that are not counted.
    pub warmup: usize,
    /// Iterations that are; at least 1.
    pub iterations: usize,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct BenchResult {
    /// Of the counted iterations, in milliseconds.
    pub median_ms: f64,
    /// Of the counted iterations, in milliseconds.
    pub min_ms: f64,
    /// Each counted iteration, in milliseconds, in order.
    pub times_ms: Vec<f64>,
    /// Real images a second, at the median.
    pub images_per_s: f64,
    /// Images an iteration.
    pub batch: usize,
    /// `f32` or `f64`.
    pub precision: &'static str,
    /// Device, as `--device` takes it.
    pub device: DeviceChoice,
    /// CPU threads.
    pub threads: i32,
    /// Largest resident memory of the process, in 10^6 bytes; absent where the system does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rss_mb: Option<f64>,
}

/// Times whole iterations (noise made, one discriminator step, two generator steps, losses read) on
/// random images.
///
/// # Errors
/// If the device cannot hold the networks or a loss is not finite.
pub fn bench(config: &BenchConfig) -> Result<BenchResult> {
    let BenchConfig { model, batch_size, kind, device, warmup, iterations } = config.clone();
    let z_dim = model.z_dim as usize;
    let shape = [batch_size as i64, IMAGE_SIZE, IMAGE_SIZE, model.channels];
    let real = Latent::Uniform.sample(
        &mut rng(0, Stream::SampleZ, 0),
        batch_size,
        (IMAGE_SIZE * IMAGE_SIZE * model.channels) as usize,
    );
    let real = Tensor::f_from_slice(&real)?
        .f_view(shape)?
        .f_permute([0, 3, 1, 2])?
        .f_to_device(device)?
        .f_to_kind(kind)?;
    let mut gan = Gan::new(Model::new(&model, 0, device, kind)?, StepConfig::default())?;
    let mut times_ms = Vec::new();
    for i in 0..(warmup + iterations.max(1)) as u64 {
        let start = Instant::now();
        let z = Latent::Uniform.sample(&mut rng(0, Stream::Z, i), batch_size, z_dim);
        let stats = gan.iteration(&real, &gan.model.z(&z)?)?;
        // Reading the losses waits for the device, and stops the clock when the work is done.
        stats.read()?;
        gan.synchronize()?;
        if i >= warmup as u64 {
            times_ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let mut sorted = times_ms.clone();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median_ms = match sorted.len() % 2 {
        1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.,
    };
    Ok(BenchResult {
        median_ms,
        min_ms: sorted[0],
        times_ms,
        images_per_s: batch_size as f64 / (median_ms / 1e3),
        batch: batch_size,
        precision: if kind == Kind::Double { "f64" } else { "f32" },
        device: DeviceChoice::from(device),
        threads: tch::get_num_threads(),
        max_rss_mb: max_rss_mb(),
    })
}

fn max_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024. / 1e6)
}
