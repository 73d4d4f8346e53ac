//! Everything that a run writes except its checkpoints.

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use super::checkpoint::Header;
use super::folder::{FINISHED, RunDir};
use super::observer::Observer;
use crate::data::{ImageSet, Labels, SetIdentity};
use crate::device::{self, DeviceChoice};
use crate::files::write_bytes;
use crate::model::{Model, Network};
use crate::record::grid::Picture;
use crate::record::histogram::Histogram;
use crate::record::jsonl::{Evaluation, JsonLines, Line, Metrics, Rollback, rewind};
use crate::record::tensorboard::{Charts, TensorBoard};
use crate::sample::grid::{GRID, classes_of_rows};
use crate::settings::{ENVIRONMENT_KEY, TrainConfig};
use crate::shape::ImageShape;
use crate::tf::Algorithm;
use crate::weights::{Variant, Weights};

/// Images from all over `set`; of a labelled one as many as a grid of classes has, in its rows.
fn real_images(set: &ImageSet, labels: Option<&Labels>) -> Result<Vec<u8>> {
    let Some(labels) = labels else { return set.spread(GRID * GRID) };
    let mut taken: Vec<usize> = Vec::new();
    let mut images = Vec::new();
    for class in classes_of_rows(labels.classes.len()) {
        let of_class = labels.of_images.iter().enumerate().filter(|(_, of)| **of as usize == class);
        let rows: Vec<_> =
            of_class.map(|(i, _)| i).filter(|i| !taken.contains(i)).take(GRID).collect();
        images.extend(set.rows(rows.iter().copied())?);
        // A class may have fewer images than a row has room for.
        images.resize(images.len() + (GRID - rows.len()) * set.image_len(), 0);
        taken.extend(rows);
    }
    Ok(images)
}

/// What a configuration file calls the number of ranks, if there are several.
pub(super) const RANKS_KEY: &str = "ranks";

/// Which scalars share a chart in TensorBoard, besides the chart that each has for itself: those of training, and each of
/// the `metrics` with its floor.
fn charts(metrics: &[String]) -> Vec<(&'static str, Charts)> {
    let chart = |title: &str, tags: [&str; 2]| (title.to_owned(), tags.map(str::to_owned).into());
    let training = vec![
        chart("losses", ["discriminator_loss", "generator_loss"]),
        chart(
            "probabilities",
            ["mean_discriminator_output_prob_real", "mean_discriminator_output_prob_fake"],
        ),
    ];
    let mut all = vec![("training", training)];
    if !metrics.is_empty() {
        let with_floor = |name: &String| chart(name, [&tag_of_metric(name), &tag_of_floor(name)]);
        all.push(("evaluation", metrics.iter().map(with_floor).collect()));
    }
    all
}

fn tag_of_metric(name: &str) -> String {
    format!("eval/{name}")
}

fn tag_of_floor(name: &str) -> String {
    format!("eval/{name}_floor")
}

/// The metrics of an evaluation.
fn names(evaluation: &Evaluation) -> Vec<String> {
    evaluation.evaluation.keys().cloned().collect()
}

/// The run's configuration, metrics, events, pictures and weights.
pub(crate) struct Journal<'a> {
    run: &'a RunDir,
    progress: &'a dyn Observer,
    metrics: JsonLines,
    /// The last line of metrics that was written.
    pub(crate) last: Option<Metrics>,
    /// Every evaluation of the run so far.
    pub(crate) evaluations: Vec<Evaluation>,
    board: Option<TensorBoard>,
    /// The metrics that have a chart in TensorBoard, of those that were written since the run was begun or resumed.
    charted: Vec<String>,
    /// The classes of a conditional run.
    classes: Vec<String>,
    shape: ImageShape,
    real: Picture,
}

impl<'a> Journal<'a> {
    /// Opens the run's files for training after `iteration`, and creates them in a new folder. What they hold of later
    /// iterations is removed, because it will be written again. If the run was trained before, `lines_every` is the
    /// number of iterations between two of its lines of metrics, so that missing lines can be noticed.
    pub(crate) fn open(
        config_toml: &str,
        set: &ImageSet,
        labels: Option<&Labels>,
        run: &'a RunDir,
        progress: &'a dyn Observer,
        (iteration, rollbacks): (u64, &[Rollback]),
        lines_every: Option<u64>,
    ) -> Result<Self> {
        let config_path = run.file("config.toml");
        let is_same = std::fs::read(&config_path).is_ok_and(|old| old == config_toml.as_bytes());
        if !is_same {
            write_bytes(&config_path, config_toml.as_bytes())?;
        }
        let shape = set.shape();
        let images = real_images(set, labels)?;
        let real = Picture::grid(&images, shape.size, shape.channels, GRID)?;
        let png = real.png()?;
        write_bytes(&run.file("real.png"), &png)?;
        let Rewound { metrics, last, evaluations } = Rewound::to(run, iteration, rollbacks)?;
        let reached = last.map_or(0, |last| last.iteration);
        if lines_every.is_some_and(|every| reached + every <= iteration) {
            progress.warn(&format!(
                "metrics.jsonl: the lines after iteration {reached}, up to {iteration}, are missing"
            ));
        }
        // A run that was stopped before its first line and its first grid has at most written its settings for
        // TensorBoard, so it counts as new.
        let is_new = last.is_none() && !run.has_samples()?;
        let board = match TensorBoard::create(run.path()) {
            Ok(board) => board,
            Err(error) => {
                progress
                    .warn(&format!("{error:#}; training continues without TensorBoard's events"));
                None
            }
        };
        let charted = evaluations.last().map(names).unwrap_or_default();
        let classes = labels.map(|labels| labels.classes.clone()).unwrap_or_default();
        let mut journal = Self {
            run,
            progress,
            metrics,
            last,
            evaluations,
            board,
            charted: charted.clone(),
            classes,
            shape,
            real: real.clone(),
        };
        journal.events(|board| {
            let next = if is_new { 0 } else { iteration + 1 };
            board.restart(next)?;
            if is_new || !is_same {
                board.text(next, "config", &format!("```toml\n{config_toml}```"))?;
                let mut settings: toml::Table = config_toml.parse()?;
                settings.remove(ENVIRONMENT_KEY);
                board.hparams(next, &settings)?;
                board.layout(next, &charts(&charted))?;
            }
            if is_new {
                board.image(next, "real", &real, &png)?;
            }
            board.flush()
        });
        Ok(journal)
    }

    /// Removes from the run's files what belongs to iterations after `iteration`, so that training can continue from
    /// there.
    pub(crate) fn rewind(&mut self, iteration: u64, rollbacks: &[Rollback]) -> Result<()> {
        let Rewound { metrics, last, evaluations } = Rewound::to(self.run, iteration, rollbacks)?;
        self.charted = evaluations.last().map(names).unwrap_or_default();
        (self.metrics, self.last, self.evaluations) = (metrics, last, evaluations);
        self.events(|board| {
            board.restart(iteration + 1)?;
            board.flush()
        });
        Ok(())
    }

    /// Writes TensorBoard's events, unless writing them has failed. A failure here is a warning and does not stop the
    /// run.
    fn events(&mut self, write: impl FnOnce(&mut TensorBoard) -> Result<()>) {
        if let Some(board) = &mut self.board
            && let Err(error) = write(board)
        {
            self.progress.warn(&format!("{error:#}; training continues without them"));
        }
    }

    /// Writes a line of metrics.
    pub(crate) fn metrics(&mut self, metrics: Metrics) -> Result<()> {
        // Checked first, because writing to a removed file gives no error although what is written is lost.
        self.run.ensure_there()?;
        self.metrics.write(&Line::Metrics(metrics))?;
        self.progress.log(&metrics);
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
        self.last = Some(metrics);
        Ok(())
    }

    /// Whether TensorBoard's events are written.
    pub(crate) fn has_events(&self) -> bool {
        self.board.is_some()
    }

    /// Writes a line with an evaluation. For TensorBoard it also writes the `floors`: what metrics say of real images.
    pub(crate) fn evaluation(
        &mut self,
        evaluation: Evaluation,
        floors: &[(&str, f64)],
    ) -> Result<()> {
        self.run.ensure_there()?;
        self.metrics.write(&Line::Evaluation(evaluation.clone()))?;
        self.progress.evaluation(&evaluation);
        let measured = names(&evaluation);
        let is_charted = self.charted == measured;
        self.events(|board| {
            let values = &evaluation.evaluation;
            let floors = floors.iter().filter(|(name, _)| values.contains_key(*name));
            let scalars: Vec<_> = values
                .iter()
                .map(|(name, &value)| (tag_of_metric(name), value))
                .chain(floors.map(|&(name, floor)| (tag_of_floor(name), floor)))
                .collect();
            let scalars: Vec<_> =
                scalars.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            board.scalars(evaluation.iteration, &scalars)?;
            if !is_charted {
                board.layout(evaluation.iteration, &charts(&measured))?;
            }
            board.flush()
        });
        self.charted = measured;
        self.evaluations.push(evaluation);
        Ok(())
    }

    /// Writes histograms of `tensors` for TensorBoard, each with its tag.
    pub(crate) fn histograms(&mut self, iteration: u64, tensors: &[(String, Tensor)]) {
        self.events(|board| {
            let histogram = |(tag, tensor): &(String, Tensor)| -> Result<_> {
                let no_histogram = || format!("there is no histogram of {tag}");
                Ok((tag.clone(), Histogram::of(tensor).with_context(no_histogram)?))
            };
            let all = tensors.iter().map(histogram).collect::<Result<Vec<_>>>()?;
            board.histograms(iteration, &all)?;
            board.flush()
        });
    }

    /// Writes the sample grid of `iteration`, made of `images` `[N, H, W, C]`. Of a conditional run TensorBoard also gets the
    /// rows of each class for themselves, with its name.
    pub(crate) fn samples(&mut self, iteration: u64, images: &[u8]) -> Result<()> {
        let picture = self.picture(images)?;
        let png = picture.png()?;
        write_bytes(&self.run.sample(iteration), &png)?;
        let of_classes = self.by_class(images)?;
        self.events(|board| {
            board.image(iteration, "samples", &picture, &png)?;
            for (class, picture) in &of_classes {
                // A bare number would be read as that of an image among several under one tag.
                let tag = format!("samples/class_{class}");
                board.image(iteration, &tag, picture, &picture.png()?)?;
            }
            board.flush()
        });
        Ok(())
    }

    /// The rows of each class in a grid of `images`, with its name; nothing where no classes steer the networks.
    fn by_class(&self, images: &[u8]) -> Result<Vec<(String, Picture)>> {
        let row_length = GRID * self.shape.len();
        let rows = classes_of_rows(self.classes.len());
        let mut all = Vec::new();
        let mut first = 0;
        // The rows of a class follow each other.
        for of_class in rows.chunk_by(usize::eq) {
            let images = images.chunks(row_length).skip(first).take(of_class.len());
            let picture = self.picture(&images.collect::<Vec<_>>().concat())?;
            all.push((self.classes[of_class[0]].clone(), picture));
            first += of_class.len();
        }
        Ok(all)
    }

    fn picture(&self, images: &[u8]) -> Result<Picture> {
        Picture::grid(images, self.shape.size, self.shape.channels, GRID)
    }

    /// Waits until the lines of metrics are on the disk: a checkpoint is written after them, so that none is missing
    /// when the run resumes from it.
    pub(crate) fn sync(&self) -> Result<()> {
        self.run.ensure_there()?;
        self.metrics.sync()
    }

    /// Writes both networks' weights and then the picture of real images beside generated `images`. If the settings ask
    /// for a moving average, the generator of `model` is to be the average. The picture comes last, because a run that
    /// has it counts as finished.
    pub(crate) fn finish(
        &mut self,
        Header { config, iteration, set, .. }: &Header,
        model: &Model,
        images: &[u8],
    ) -> Result<()> {
        for network in Network::ALL {
            let path = self.run.file(&format!("{}.safetensors", network.name()));
            let is_averaged = network == Network::Generator && config.ema.is_some();
            let variant = is_averaged.then_some(Variant::Average);
            let weights = Weights::of_model(model, network, config, *iteration);
            let (classes, images_sha256) = (set.classes.clone(), Some(set.sha256.clone()));
            Weights { variant, classes, images_sha256, ..weights }.file()?.write(&path)?;
        }
        let both = Picture::side_by_side(&self.real, &self.picture(images)?)?;
        self.events(|board| {
            board.finished(*iteration)?;
            board.flush()
        });
        write_bytes(&self.run.file(FINISHED), &both.png()?)
    }
}

/// What a run has logged up to an iteration.
struct Rewound {
    metrics: JsonLines,
    last: Option<Metrics>,
    evaluations: Vec<Evaluation>,
}

impl Rewound {
    /// Removes lines of metrics and sample grids of iterations after `iteration`, and returns the lines that are left.
    fn to(run: &RunDir, iteration: u64, rollbacks: &[Rollback]) -> Result<Self> {
        let path = run.file("metrics.jsonl");
        let (mut last, mut evaluations) = (None, Vec::new());
        for line in rewind(&path, iteration, rollbacks)? {
            match line {
                Line::Metrics(metrics) => last = Some(metrics),
                Line::Evaluation(evaluation) => evaluations.push(evaluation),
                Line::Rollback(_) => {}
            }
        }
        run.remove_samples_after(iteration)?;
        Ok(Self { metrics: JsonLines::append(path)?, last, evaluations })
    }
}

/// The text of a run's `config.toml`: all settings, so that the run can be repeated, and the environment in which it
/// runs. There, `convolutions` are the ways in which the CPU computes each, if it does.
pub(crate) fn config_toml(
    config: &TrainConfig,
    device: Device,
    set: &SetIdentity,
    how_to_repeat: Option<&str>,
    ranks: usize,
    convolutions: &[(String, Algorithm)],
) -> Result<String> {
    let mut table = toml::Table::try_from(config)?;
    let text = |value: &str| toml::Value::String(value.to_owned());
    let mut environment = toml::Table::from_iter([
        ("dcgan".to_owned(), text(crate::VERSION)),
        ("git-commit".to_owned(), text(crate::GIT_COMMIT.unwrap_or("unknown"))),
        ("libtorch".to_owned(), text(device::libtorch_version().as_deref().unwrap_or("unknown"))),
        ("device".to_owned(), text(&DeviceChoice::from(device).to_string())),
        ("cpu".to_owned(), text(&device::cpu_name())),
        ("threads".to_owned(), toml::Value::Integer(tch::get_num_threads().into())),
        ("images".to_owned(), toml::Value::Integer(i64::try_from(set.images)?)),
        ("images-sha256".to_owned(), text(&set.sha256)),
    ]);
    if ranks > 1 {
        environment.insert(RANKS_KEY.to_owned(), toml::Value::Integer(i64::try_from(ranks)?));
    }
    if !convolutions.is_empty() {
        let ways = convolutions.iter().map(|(layer, way)| (layer.clone(), text(way.name())));
        environment.insert("convolutions".to_owned(), toml::Table::from_iter(ways).into());
    }
    table.insert(ENVIRONMENT_KEY.to_owned(), environment.into());
    let toml = toml::to_string(&table)?;
    let comment = how_to_repeat.map(|command| format!("# Repeat this run: {command}\n"));
    Ok(comment.unwrap_or_default() + &toml)
}
