//! Measures how long an iteration takes and how much of that time each of its parts needs.

mod floor;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::architecture::{Architecture, Operation};
use crate::data::prefetch::Prefetch;
use crate::data::{Batches, ImageSet};
use crate::device::DeviceChoice;
use crate::distributed::{Ranks, Share};
use crate::model::{Model, ModelConfig};
use crate::rng::{Latent, Stream, rng};
use crate::sample::Sampler;
use crate::settings::Precision;
use crate::shape::ImageShape;
use crate::statistics::median;
use crate::tf::Algorithm;
use crate::torch::{HAS_GRAPHS, Mark, count_exchange, exchanged};
use crate::train::graph::GraphedIterations;
use crate::train::inputs::InputMaker;
use crate::train::step::{Gan, Phase, StepConfig};
use floor::{Direction, Pass};

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchConfig {
    /// The numbers that decide both networks.
    pub model: ModelConfig,
    /// Number of real images in an iteration, and of rows of z.
    pub batch_size: usize,
    /// The number format to compute in.
    pub precision: Precision,
    /// Whether libtorch's own kernels compute all convolutions.
    pub plain_convolutions: bool,
    /// The device to compute on.
    pub device: Device,
    /// Iterations to run first, which are not counted.
    pub warmup: usize,
    /// Iterations to run and count; at least 1.
    pub iterations: usize,
    /// Whether iterations on CUDA are asked for as a graph.
    pub graph: bool,
    /// Whether to measure the convolutions alone, too.
    pub floor: bool,
    /// Number of images to sample after the iterations; 0 to leave that out.
    pub samples: usize,
    /// The processes that compute each batch together with this one, if there are any.
    pub ranks: Option<Rc<Ranks>>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct BenchResult {
    /// The median time of the counted iterations, in milliseconds.
    pub median_ms: f64,
    /// The shortest time of the counted iterations, in milliseconds.
    pub min_ms: f64,
    /// The time of each counted iteration in order, in milliseconds.
    pub times_ms: Vec<f64>,
    /// The median time of each part of an iteration, in milliseconds. On CUDA, their sum is more than an iteration takes.
    pub phases_ms: PhasesMs,
    /// Real images per second, at the median time.
    pub images_per_s: f64,
    /// 10^9 floating-point operations per second, at the median time. The operations of the plain algorithm are
    /// counted, even where a faster one with fewer operations is used.
    pub gflop_per_s: f64,
    /// 10^9 floating-point operations per second of libtorch's matrix product alone, in the same precision, at the size of
    /// the largest convolution. What an iteration reaches of it can be more than 1, because fewer operations may be done
    /// than are counted.
    pub matmul_gflop_per_s: f64,
    /// The way in which each convolution is computed, by its layer's name. Empty where the CPU does not compute them.
    pub convolutions: BTreeMap<String, Algorithm>,
    /// Real images in an iteration.
    pub batch: usize,
    /// `f32`, `bf16` or `f64`.
    pub precision: &'static str,
    /// The device, as it is written in the setting `device`.
    pub device: DeviceChoice,
    /// Whether iterations were one CUDA graph each.
    pub graph: bool,
    /// Number of CPU threads of this process.
    pub threads: i32,
    /// Where several ranks compute each batch together: what they exchange.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<Exchange>,
    /// The time that the convolutions of an iteration take alone, each pass in libtorch's fastest memory layout, in
    /// milliseconds. Absent if it was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_ms: Option<f64>,
    /// Images sampled per second, with batch norm folded into the weights. Absent if it was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_per_s: Option<f64>,
    /// The most resident memory that the process has used by the end of the iterations, in 10^6 bytes. Absent where
    /// the system does not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rss_mb: Option<f64>,
}

/// What ranks exchange in an iteration.
#[derive(Debug, Clone, Serialize)]
pub struct Exchange {
    /// The number of ranks.
    pub ranks: usize,
    /// The median time that this rank spends in sums and gathers, waiting for other ranks included, in milliseconds. Its
    /// parts are in [`PhasesMs`], too.
    pub ms: f64,
    /// The size of what each rank gives to the others, in 10^6 bytes.
    pub mb: f64,
}

/// Times of the parts of an iteration, in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PhasesMs {
    /// Making a batch of real images and of noise.
    pub data: f64,
    /// The generator's forward passes, z → images, in all steps.
    pub generator_forward: f64,
    /// The discriminator's forward passes, images → logits → losses, in all steps.
    pub discriminator_forward: f64,
    /// The backward pass through the discriminator to its weights.
    pub discriminator_backward: f64,
    /// The backward passes through the discriminator to the images, and through the generator to its weights.
    pub generator_backward: f64,
    /// Checking that gradients are finite, and Adam's updates.
    pub optimizers: f64,
}

impl PhasesMs {
    /// All parts together.
    pub fn sum(&self) -> f64 {
        let Self { data, generator_forward, discriminator_forward, .. } = self;
        let Self { discriminator_backward, generator_backward, optimizers, .. } = self;
        data + generator_forward
            + discriminator_forward
            + discriminator_backward
            + generator_backward
            + optimizers
    }
}

/// The number of images that real batches are drawn from.
const IMAGES: usize = 1024;

/// Measures whole iterations on random images. An iteration makes a batch and its noise, does one discriminator step
/// and two generator steps, and reads the losses.
///
/// On CUDA, parts are measured apart from whole iterations, because the host has to wait for each part. Whole iterations
/// are run as in training, where it waits for nothing.
///
/// # Errors
/// If the device cannot hold the networks or a loss is not finite.
pub fn bench(config: &BenchConfig) -> Result<BenchResult> {
    let BenchConfig { model, batch_size, precision, device, warmup, iterations, .. } =
        config.clone();
    let (z_dim, kind) = (model.z_dim as usize, precision.kind());
    let mut batches = Batches::new(random_images(model.image)?, batch_size, 0);
    // The batches of an epoch that have the full size. Only these are used, so that all iterations do the same work.
    let full = (IMAGES / batch_size.min(IMAGES)) as u64;
    let whole = match device {
        Device::Cuda(number) => Some(WholeIterations::new(config, number)?),
        _ => None,
    };
    let model = Model::new(&model, 0, device, kind)?
        .computing_in(precision.compute())
        .with_plain_convolutions(config.plain_convolutions);
    let mut gan = Gan::new(model, StepConfig::default())?.among(config.ranks.clone());

    let mut times_ms = Vec::new();
    let (mut exchanges_ms, mut exchanged_mb) = (Vec::new(), 0.0);
    let mut phases: BTreeMap<Option<Phase>, Vec<f64>> = BTreeMap::new();
    for i in 0..(warmup + iterations.max(1)) as u64 {
        let start = Instant::now();
        let mut before = start;
        let mut times: BTreeMap<Option<Phase>, f64> = BTreeMap::new();
        let mut done = |phase| {
            wait(device);
            let now = Instant::now();
            *times.entry(phase).or_default() += (now - before).as_secs_f64() * 1e3;
            before = now;
        };
        let real = batches.batch(1 + i % full, device, kind)?;
        let z = Latent::Uniform.sample(&mut rng(0, Stream::Z, i), batch_size, z_dim);
        let z = gan.model.z(&z)?;
        done(None);
        count_exchange(config.ranks.is_some());
        let stats = gan.observed_iteration(&real, &z, None, &mut |phase| {
            done(Some(phase));
            Ok(())
        })?;
        // Reading the losses waits for the device, so that the clock stops only when the work is done.
        stats.read()?;
        gan.synchronize()?;
        if i >= warmup as u64 {
            let exchanged = exchanged();
            exchanges_ms.push(exchanged.time.as_secs_f64() * 1e3);
            exchanged_mb = exchanged.bytes as f64 / 1e6;
            times_ms.push(start.elapsed().as_secs_f64() * 1e3);
            for (phase, time) in times {
                phases.entry(phase).or_default().push(time);
            }
        }
    }
    count_exchange(false);
    let mut is_graph = false;
    if let Some(mut whole) = whole {
        times_ms = whole.times_ms(&mut gan)?;
        is_graph = whole.graph.is_some_and(|graph| graph.is_captured());
    }
    let max_rss_mb = max_rss_mb();
    let median_ms = median(&times_ms);
    let phase = |phase| phases.get(&phase).map_or(0., |times| median(times));
    let passes =
        passes(&gan.model.architecture, batch_size as i64, StepConfig::default().g_steps as i64);
    let flop: f64 = passes.iter().map(|(pass, count)| pass.flop() * *count as f64).sum();
    let largest = passes.iter().max_by(|(a, _), (b, _)| a.flop().total_cmp(&b.flop()));
    let (largest, _) = largest.context("the networks have no convolution")?;
    let matmul_gflop_per_s =
        largest.product_gflop_per_s(device, precision.compute(), &mut || wait(device))?;
    let ranks = config.ranks.as_ref().map_or(1, |ranks| ranks.share().count);
    let convolutions = gan.model.algorithms(batch_size.div_ceil(ranks));
    let floor_ms = match config.floor {
        true => Some(floor(&passes, device, precision.compute())?),
        false => None,
    };
    let samples_per_s = match config.samples {
        0 => None,
        samples => Some(sampled_per_s(&gan.model, samples, batch_size)?),
    };
    Ok(BenchResult {
        median_ms,
        min_ms: times_ms.iter().copied().fold(f64::INFINITY, f64::min),
        times_ms,
        phases_ms: PhasesMs {
            data: phase(None),
            generator_forward: phase(Some(Phase::GeneratorForward)),
            discriminator_forward: phase(Some(Phase::DiscriminatorForward)),
            discriminator_backward: phase(Some(Phase::DiscriminatorBackward)),
            generator_backward: phase(Some(Phase::GeneratorBackward)),
            optimizers: phase(Some(Phase::Optimizers)),
        },
        images_per_s: batch_size as f64 / (median_ms / 1e3),
        gflop_per_s: flop / 1e9 / (median_ms / 1e3),
        matmul_gflop_per_s,
        convolutions: convolutions.into_iter().collect(),
        batch: batch_size,
        precision: precision.name(),
        device: DeviceChoice::from(device),
        graph: is_graph,
        threads: tch::get_num_threads(),
        exchange: config.ranks.as_ref().map(|ranks| Exchange {
            ranks: ranks.share().count,
            ms: median(&exchanges_ms),
            mb: exchanged_mb,
        }),
        floor_ms,
        samples_per_s,
        max_rss_mb,
    })
}

/// Iterations on a CUDA device as a run does them: inputs are made ahead, the host waits for nothing, and most of them are
/// one CUDA graph.
struct WholeIterations {
    number: usize,
    warmup: usize,
    iterations: usize,
    inputs: Prefetch<InputMaker>,
    full: u64,
    graph: Option<GraphedIterations>,
}

impl WholeIterations {
    fn new(config: &BenchConfig, number: usize) -> Result<Self> {
        let BenchConfig { model, batch_size, precision, device, warmup, iterations, .. } =
            config.clone();
        tch::Cuda::cudnn_set_benchmark(true);
        // Collectives are not part of a graph.
        let graph = match config.graph && HAS_GRAPHS && config.ranks.is_none() {
            true => Some(GraphedIterations::new(number)?),
            false => None,
        };
        let share = config.ranks.as_ref().map_or(Share::WHOLE, |ranks| ranks.share());
        let inputs = Prefetch::new(InputMaker {
            batches: Batches::new(random_images(model.image)?, batch_size, 0).shared(share),
            options: (precision.kind(), device),
            seed: 0,
            salt: 0,
            latent: Latent::Uniform,
            batch_size,
            z_dim: model.z_dim as usize,
            classes: None,
            step: StepConfig::default(),
            share,
        });
        // Before there is a graph, some iterations are run without one.
        let warmup = warmup.max(10);
        let full = (IMAGES / batch_size.min(IMAGES)) as u64;
        Ok(Self { number, warmup, iterations: iterations.max(1), inputs, full, graph })
    }

    /// The time of each counted iteration on the device, in milliseconds.
    fn times_ms(&mut self, gan: &mut Gan) -> Result<Vec<f64>> {
        let mut marks = Vec::new();
        for i in 0..self.warmup + self.iterations {
            if i >= self.warmup {
                marks.push(Mark::now(self.number)?);
            }
            let inputs = self.inputs.get(1 + i as u64 % self.full)?.sent()?;
            let _stats = match &mut self.graph {
                Some(graph) => graph.run(gan, &inputs)?,
                None => gan.run(&inputs, &mut |_| Ok(()))?,
            };
        }
        marks.push(Mark::now(self.number)?);
        gan.synchronize()?;
        marks.windows(2).map(|pair| pair[0].milliseconds_to(&pair[1])).collect()
    }
}

/// Waits until the device has done all the work that was sent to it.
fn wait(device: Device) {
    if let Device::Cuda(n) = device {
        tch::Cuda::synchronize(n as i64);
    }
}

/// [`IMAGES`] images of uniform noise.
fn random_images(shape: ImageShape) -> Result<ImageSet> {
    let count = IMAGES * shape.len();
    let noise = Latent::Uniform.sample(&mut rng(0, Stream::SampleZ, 0), count, 1);
    let bytes = noise.into_iter().map(|x| ((x + 1.) * 127.5) as u8).collect();
    ImageSet::new("random", shape, bytes)
}

/// The passes of convolutions that an iteration needs, and how often it needs each. Results that are needed twice are
/// counted once, and gradients that nothing uses are left out.
fn passes(architecture: &Architecture, batch: i64, g_steps: i64) -> Vec<(Pass, i64)> {
    let mut passes = Vec::new();
    for layer in &architecture.generator {
        if let (Operation::ConvTranspose, Some(grid)) = (layer.operation, layer.input.grid()) {
            let (coarse, fine) = (layer.input.channels(), layer.output.channels());
            for direction in Direction::ALL {
                passes.push((Pass { direction, batch, coarse, fine, grid }, g_steps));
            }
        }
    }
    for (i, layer) in architecture.discriminator.iter().enumerate() {
        if let (Operation::Conv, Some(grid)) = (layer.operation, layer.output.grid()) {
            let (coarse, fine) = (layer.output.channels(), layer.input.channels());
            let pass = |direction| Pass { direction, batch, coarse, fine, grid };
            passes.push((pass(Direction::CoarseFromFine), 2 + g_steps));
            // The discriminator's own step needs no gradient of the images, which are the first layer's input.
            let to_coarser = if i == 0 { 0 } else { 2 };
            passes.push((pass(Direction::FineFromCoarse), g_steps + to_coarser));
            passes.push((pass(Direction::Weights), 2));
        }
    }
    passes
}

/// The time that all `passes` take alone, in milliseconds.
fn floor(passes: &[(Pass, i64)], device: Device, kind: Kind) -> Result<f64> {
    let mut sum = 0.;
    for (pass, count) in passes {
        sum += pass.fastest_ms(device, kind, &mut || wait(device))? * *count as f64;
    }
    Ok(sum)
}

/// Images that the generator of `model` makes per second.
fn sampled_per_s(model: &Model, samples: usize, batch_size: usize) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    let sampler = Sampler::new(model, crate::rng::Latent::default())?;
    let z_dim = model.config().z_dim as usize;
    let mut noise = rng(0, Stream::SampleZ, 1);
    // The first batch is not counted, because it also sets things up.
    let z: Tensor = model.z(&Latent::Uniform.sample(&mut noise, batch_size, z_dim))?;
    sampler.images(&z)?;
    if model.device != Device::Cpu {
        // As images are made there, in blocks of its own size.
        let each = |samples| {
            sampler.each(
                samples,
                &|rows| sampler.noise(1, rows.start as u64, rows.len()),
                &mut |_| Ok(()),
            )
        };
        each(batch_size)?;
        let start = Instant::now();
        each(samples)?;
        return Ok(samples as f64 / start.elapsed().as_secs_f64());
    }
    let start = Instant::now();
    let mut left = samples;
    while left > 0 {
        let rows = left.min(batch_size);
        let z = model.z(&Latent::Uniform.sample(&mut noise, rows, z_dim))?;
        sampler.images(&z)?;
        left -= rows;
    }
    wait(model.device);
    Ok(samples as f64 / start.elapsed().as_secs_f64())
}

/// The most resident memory that this process has used so far, in 10^6 bytes, where the system tells it.
fn max_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024. / 1e6)
}
