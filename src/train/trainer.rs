//! The loop: batch, step, log, sample, and at the end the weights.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use tch::Device;

use super::run_dir::RunDir;
use super::step::Gan;
use crate::config::{ENVIRONMENT_KEY, TrainConfig};
use crate::data::{Batches, ImageSet, SIZE};
use crate::device::{self, DeviceChoice};
use crate::model::{Model, Network};
use crate::record::grid::Picture;
use crate::record::jsonl::{JsonLines, Metrics};
use crate::record::progress::Progress;
use crate::record::tensorboard::TensorBoard;
use crate::rng::{Stream, rng};
use crate::sample::sample;
use crate::tensor_file::{TensorFile, write_atomically};

/// Columns, and rows, of a sample grid.
const GRID: usize = 6;

/// What a finished run came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Iterations trained.
    pub iterations: u64,
    /// The last line of metrics.
    pub last: Metrics,
}

/// Trains on `set` as `config` says, on `device`, and writes everything to `run`.
///
/// [`crate::device::configure`] has set the threads before.
///
/// # Errors
/// [`super::NonFinite`] if a loss is NaN or infinite: then no weights are written. If a file of the
/// run cannot be written. TensorBoard's events are not such a file: that is a warning.
pub fn train(
    config: &TrainConfig,
    device: Device,
    set: ImageSet,
    run: &RunDir,
    progress: &Progress,
) -> Result<Outcome> {
    let kind = config.precision.kind();
    // The networks come first: where they do not fit, nothing has been written.
    let model = Model::new(&config.model(set.channels()), config.seed, device, kind)?;
    let mut gan = Gan::new(model, config.step())?;
    let mut record = Record::create(config, device, &set, run, progress)?;
    let mut batches = Batches::new(set, config.batch_size, config.seed);
    let total = config.total_iterations(batches.per_epoch());
    let fixed_z = {
        let mut rng = rng(config.seed, Stream::SampleZ, 0);
        config.latent.sample(&mut rng, GRID * GRID, gan.model.config.z_dim as usize)
    };

    let start = Instant::now();
    // Since the last line of metrics.
    let (mut images, mut training_s) = (0, 0.0);
    let mut last = None;
    for iteration in 1..=total {
        // Train: one batch of real images, one z.
        let step_start = Instant::now();
        let real = batches.batch(iteration, device, kind)?;
        let z = config.latent.sample(
            &mut rng(config.seed, Stream::Z, iteration),
            config.batch_size,
            gan.model.config.z_dim as usize,
        );
        let stats = gan.iteration(&real, &gan.model.z(&z)?)?;
        images += real.size()[0];

        // Log. Reading the losses waits for the device, so it belongs to the time of training.
        let is_last = iteration == total;
        if iteration % config.log_every == 0 || is_last {
            gan.synchronize()?;
            let values = stats.read()?;
            training_s += step_start.elapsed().as_secs_f64();
            let metrics = Metrics {
                iteration,
                epoch: batches.epoch_of(iteration),
                d_loss: values.d_loss,
                g_loss: values.g_loss,
                mean_discriminator_output_prob_real: values.mean_discriminator_output_prob_real,
                mean_discriminator_output_prob_fake: values.mean_discriminator_output_prob_fake,
                images_per_s: images as f64 / training_s,
                elapsed_s: start.elapsed().as_secs_f64(),
            };
            record.metrics(&metrics)?;
            (images, training_s) = (0, 0.0);
            last = Some(metrics);
        } else {
            training_s += step_start.elapsed().as_secs_f64();
        }
        progress.advance(iteration);

        // Sample: the same 36 z every time, with moving statistics.
        let is_due = config.sample_every > 0 && iteration % config.sample_every == 0;
        if is_due || is_last {
            gan.synchronize()?;
            record.samples(iteration, &sample(&gan.model, &fixed_z)?)?;
        }
    }

    // Finish: what was trained, and what it looks like beside what it was trained on.
    record.finish(config, &gan.model)?;
    let last = last.context("a run of no iterations")?;
    Ok(Outcome { iterations: total, last })
}

/// Everything a run writes.
struct Record<'a> {
    run: &'a RunDir,
    progress: &'a Progress,
    metrics: JsonLines,
    board: Option<TensorBoard>,
    channels: usize,
    real: Picture,
    generated: Option<Picture>,
}

impl<'a> Record<'a> {
    fn create(
        config: &TrainConfig,
        device: Device,
        set: &ImageSet,
        run: &'a RunDir,
        progress: &'a Progress,
    ) -> Result<Self> {
        run.begin()?;
        let text = config_toml(config, device, set)?;
        write_bytes(&run.file("config.toml"), text.as_bytes())?;
        let real = Picture::grid(set.first(GRID * GRID), SIZE, set.channels(), GRID)?;
        let png = real.png()?;
        write_bytes(&run.file("real.png"), &png)?;
        let mut record = Self {
            run,
            progress,
            metrics: JsonLines::create(run.file("metrics.jsonl"))?,
            board: None,
            channels: set.channels(),
            real,
            generated: None,
        };
        match TensorBoard::create(run.path()) {
            Ok(board) => record.board = Some(board),
            Err(error) => progress.warn(&format!("{error:#}; training goes on without")),
        }
        let picture = record.real.clone();
        record.events(|board| {
            board.text(0, "config", &format!("```toml\n{text}```"))?;
            board.image(0, "real", &picture, &png)?;
            board.flush()
        });
        Ok(record)
    }

    /// Writes to TensorBoard, if that still works.
    fn events(&mut self, write: impl FnOnce(&mut TensorBoard) -> Result<()>) {
        if let Some(board) = &mut self.board
            && let Err(error) = write(board)
        {
            self.progress.warn(&format!("{error:#}; training goes on without"));
        }
    }

    fn metrics(&mut self, metrics: &Metrics) -> Result<()> {
        self.metrics.write(metrics)?;
        self.progress.log(metrics);
        self.events(|board| {
            let scalars = [
                ("discriminator_loss", metrics.d_loss),
                ("generator_loss", metrics.g_loss),
                (
                    "mean_discriminator_output_prob_real",
                    metrics.mean_discriminator_output_prob_real,
                ),
                (
                    "mean_discriminator_output_prob_fake",
                    metrics.mean_discriminator_output_prob_fake,
                ),
                ("images_per_s", metrics.images_per_s),
            ];
            board.scalars(metrics.iteration, &scalars)?;
            board.flush()
        });
        Ok(())
    }

    fn samples(&mut self, iteration: u64, images: &[u8]) -> Result<()> {
        let picture = Picture::grid(images, SIZE, self.channels, GRID)?;
        let png = picture.png()?;
        write_bytes(&self.run.sample(iteration), &png)?;
        self.events(|board| {
            board.image(iteration, "samples", &picture, &png)?;
            board.flush()
        });
        self.generated = Some(picture);
        Ok(())
    }

    fn finish(&mut self, config: &TrainConfig, model: &Model) -> Result<()> {
        for network in Network::ALL {
            let path = self.run.file(&format!("{}.safetensors", network.name()));
            weights(config, model, network)?.write(&path)?;
        }
        if let Some(generated) = &self.generated {
            let both = Picture::side_by_side(&self.real, generated)?;
            write_bytes(&self.run.file("real_vs_generated.png"), &both.png()?)?;
        }
        Ok(())
    }
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    write_atomically(path, |file| file.write_all(bytes))
}

/// The resolved configuration, enough to repeat the run, and where it ran.
fn config_toml(config: &TrainConfig, device: Device, set: &ImageSet) -> Result<String> {
    let mut table = toml::Table::try_from(config)?;
    let text = |value: &str| toml::Value::String(value.to_owned());
    let environment = toml::Table::from_iter([
        ("dcgan".to_owned(), text(crate::VERSION)),
        ("git-commit".to_owned(), text(crate::GIT_COMMIT.unwrap_or("unknown"))),
        ("libtorch".to_owned(), text(device::libtorch_version().as_deref().unwrap_or("unknown"))),
        ("device".to_owned(), text(&DeviceChoice::from(device).to_string())),
        ("cpu".to_owned(), text(&device::cpu_name())),
        ("threads".to_owned(), toml::Value::Integer(tch::get_num_threads().into())),
        ("images".to_owned(), toml::Value::Integer(i64::try_from(set.count())?)),
        ("images-sha256".to_owned(), text(&set.sha256())),
    ]);
    table.insert(ENVIRONMENT_KEY.to_owned(), environment.into());
    let toml = toml::to_string(&table)?;
    Ok(format!("# Repeat this run: dcgan train --config THIS_FILE\n{toml}"))
}

/// A network's variables by PyTorch's names, with what they are.
fn weights(config: &TrainConfig, model: &Model, network: Network) -> Result<TensorFile> {
    let metadata = [
        ("format", "dcgan-weights".to_owned()),
        ("version", "1".to_owned()),
        ("program", format!("dcgan {}", crate::VERSION)),
        ("network", network.name().to_owned()),
        (
            "frame",
            "mirrored: images and kernels are rotated by 180 degrees, grids are in (h, w, c) order"
                .to_owned(),
        ),
        ("channels", model.config.channels.to_string()),
        ("base_width", model.config.base_width.to_string()),
        ("z_dim", model.config.z_dim.to_string()),
        ("alpha", model.config.alpha.to_string()),
        ("bn_epsilon", model.config.bn_epsilon.to_string()),
        ("image_size", SIZE.to_string()),
        ("dataset", config.dataset.clone()),
        ("config", toml::to_string(config)?),
    ];
    let tensors = model.variables(network).into_iter();
    Ok(TensorFile {
        metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
        tensors: tensors.map(|variable| (variable.torch_name, variable.tensor)).collect(),
    })
}
