//! TensorBoard events: the protocol types of `tensorboard-rs`, through its record writer.
//!
//! Its `SummaryWriter` is not used, because it swaps width and height, supports no gray images, panics on an I/O error
//! and truncates another writer's file of the same second. Here an error is returned once, after which writing has
//! stopped and every further call does nothing: a run is worth more than its curves.

use std::fs::{File, OpenOptions};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use protobuf::well_known_types::Value;
use protobuf::{Message, RepeatedField};
use tensorboard_proto::api::Status;
use tensorboard_proto::event::{Event, SessionLog, SessionLog_SessionStatus};
use tensorboard_proto::layout::{Category, Chart, Layout, MultilineChartContent};
use tensorboard_proto::plugin_hparams::{HParamsPluginData, SessionEndInfo, SessionStartInfo};
use tensorboard_proto::summary::{
    HistogramProto, Summary, Summary_Image, Summary_Value, SummaryMetadata,
    SummaryMetadata_PluginData,
};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::types::DataType;
use tensorboard_rs::record_writer::RecordWriter;

use super::grid::Picture;
use super::histogram::Histogram;

/// Charts that show several scalars each: their titles, and the tags of the scalars.
pub type Charts = Vec<(String, Vec<String>)>;

/// What the names of event files begin with; seconds since 1970 follow.
const PREFIX: &str = "events.out.tfevents.";

fn files_in(folder: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn seconds_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()
}

/// Seconds since 1970.
fn seconds_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Says for which of TensorBoard's pages a value is.
fn metadata(plugin: &str, content: Vec<u8>) -> SummaryMetadata {
    let mut data = SummaryMetadata_PluginData::new();
    data.set_plugin_name(plugin.to_owned());
    data.set_content(content);
    let mut metadata = SummaryMetadata::new();
    metadata.set_plugin_data(data);
    metadata
}

/// Writes one event file.
pub struct TensorBoard {
    path: PathBuf,
    /// `None` once writing has failed.
    writer: Option<RecordWriter<BufWriter<File>>>,
}

impl TensorBoard {
    /// Creates a new event file in `folder`, whose name makes TensorBoard read it after the files that are there
    /// already. A build without the feature `cli` has no writer, and gives `None`.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(folder: &Path) -> Result<Option<Self>> {
        let host = gethostname::gethostname();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // TensorBoard reads files in the order of their names, which hold the time in seconds, and a run may be resumed
        // within a second.
        let seconds = files_in(folder).filter_map(|name| seconds_of(&name)).max();
        let seconds = seconds.map_or(now, |last| now.max(last.saturating_add(1)));
        let (mut number, pid) = (0, std::process::id());
        let (path, file) = loop {
            let name = format!("{PREFIX}{seconds:010}.{}.{pid}.{number}", host.display());
            let path = folder.join(name.replace(['/', '\\'], "_"));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => {
                    return Err(e)
                        .with_context(|| format!("{}: cannot be created", path.display()));
                }
            }
        };
        let mut board = Self { path, writer: Some(RecordWriter::new(BufWriter::new(file))) };
        let mut event = Event::new();
        event.set_file_version("brain.Event:2".to_owned());
        board.write(event)?;
        board.flush()?;
        Ok(Some(board))
    }

    /// Tells that training resumes at `step`, so that TensorBoard forgets what it has read of that step and later ones.
    ///
    /// # Errors
    /// The first time that writing fails.
    pub fn restart(&mut self, step: u64) -> Result<()> {
        let mut session = SessionLog::new();
        session.set_status(SessionLog_SessionStatus::START);
        let mut event = Event::new();
        event.set_step(i64::try_from(step)?);
        event.set_session_log(session);
        self.write(event)
    }

    /// Writes the scalars of a step, each with its tag.
    ///
    /// # Errors
    /// The first time that writing fails.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let value = |&(tag, scalar): &(&str, f64)| {
            let mut value = Summary_Value::new();
            value.set_tag(tag.to_owned());
            value.set_simple_value(scalar as f32);
            value
        };
        self.summary(step, scalars.iter().map(value).collect())
    }

    /// Writes the histograms of a step, each with its tag.
    ///
    /// # Errors
    /// The first time that writing fails.
    pub fn histograms(&mut self, step: u64, histograms: &[(String, Histogram)]) -> Result<()> {
        let value = |(tag, histogram): &(String, Histogram)| {
            let mut proto = HistogramProto::new();
            proto.set_min(histogram.least);
            proto.set_max(histogram.largest);
            proto.set_num(histogram.count as f64);
            proto.set_sum(histogram.sum);
            proto.set_sum_squares(histogram.sum_of_squares);
            proto.set_bucket_limit(histogram.limits.clone());
            proto.set_bucket(histogram.counts.iter().map(|&count| count as f64).collect());
            let mut value = Summary_Value::new();
            value.set_tag(tag.clone());
            value.set_histo(proto);
            value
        };
        self.summary(step, histograms.iter().map(value).collect())
    }

    /// Writes a picture, given also as the bytes of a PNG file.
    ///
    /// # Errors
    /// The first time that writing fails.
    pub fn image(&mut self, step: u64, tag: &str, picture: &Picture, png: &[u8]) -> Result<()> {
        let mut image = Summary_Image::new();
        image.set_height(i32::try_from(picture.height)?);
        image.set_width(i32::try_from(picture.width)?);
        image.set_colorspace(i32::try_from(picture.channels)?);
        image.set_encoded_image_string(png.to_vec());
        let mut value = Summary_Value::new();
        value.set_tag(tag.to_owned());
        value.set_image(image);
        self.summary(step, vec![value])
    }

    /// Writes a text in Markdown.
    ///
    /// # Errors
    /// The first time that writing fails.
    pub fn text(&mut self, step: u64, tag: &str, markdown: &str) -> Result<()> {
        self.bytes(step, tag, "text", markdown.as_bytes())
    }

    /// Writes which scalars share a chart on the page of custom scalars: categories of charts, each chart with a title and
    /// the tags of its curves.
    ///
    /// # Errors
    /// The first time that writing fails.
    pub fn layout(&mut self, step: u64, categories: &[(&str, Charts)]) -> Result<()> {
        let chart = |(title, tags): &(String, Vec<String>)| {
            let tags: Vec<_> = tags.iter().map(|tag| format!("^{tag}$")).collect();
            let mut lines = MultilineChartContent::new();
            lines.set_tag(RepeatedField::from(tags));
            let mut chart = Chart::new();
            chart.set_title(title.clone());
            chart.set_multiline(lines);
            chart
        };
        let category = |(title, charts): &(&str, Charts)| {
            let mut category = Category::new();
            category.set_title((*title).to_owned());
            category.set_chart(RepeatedField::from(charts.iter().map(chart).collect::<Vec<_>>()));
            category
        };
        let categories: Vec<_> = categories.iter().map(category).collect();
        let mut layout = Layout::new();
        layout.set_category(RepeatedField::from(categories));
        self.bytes(step, "custom_scalars__config__", "custom_scalars", &layout.write_to_bytes()?)
    }

    /// Writes the settings, by which the page of hyperparameters compares runs. Lists are written as text.
    ///
    /// # Errors
    /// The first time that writing fails.
    pub fn hparams(&mut self, step: u64, settings: &toml::Table) -> Result<()> {
        let mut start = SessionStartInfo::new();
        start.set_start_time_secs(seconds_now());
        for (name, setting) in settings {
            let mut value = Value::new();
            match setting {
                toml::Value::Boolean(on) => value.set_bool_value(*on),
                toml::Value::Integer(number) => value.set_number_value(*number as f64),
                toml::Value::Float(number) => value.set_number_value(*number),
                toml::Value::String(text) => value.set_string_value(text.clone()),
                other => value.set_string_value(other.to_string()),
            }
            start.mut_hparams().insert(name.clone(), value);
        }
        let mut data = HParamsPluginData::new();
        data.set_session_start_info(start);
        self.session(step, "_hparams_/session_start_info", &data)
    }

    /// Tells the page of hyperparameters that the run is finished.
    ///
    /// # Errors
    /// The first time that writing fails.
    pub fn finished(&mut self, step: u64) -> Result<()> {
        let mut end = SessionEndInfo::new();
        end.set_status(Status::STATUS_SUCCESS);
        end.set_end_time_secs(seconds_now());
        let mut data = HParamsPluginData::new();
        data.set_session_end_info(end);
        self.session(step, "_hparams_/session_end_info", &data)
    }

    fn session(&mut self, step: u64, tag: &str, data: &HParamsPluginData) -> Result<()> {
        let mut value = Summary_Value::new();
        value.set_tag(tag.to_owned());
        value.set_metadata(metadata("hparams", data.write_to_bytes()?));
        // What counts is in the metadata; readers expect a tensor all the same.
        let mut tensor = TensorProto::new();
        tensor.set_dtype(DataType::DT_FLOAT);
        tensor.set_float_val(vec![0.0]);
        value.set_tensor(tensor);
        self.summary(step, vec![value])
    }

    /// Writes bytes as a tensor of one string, for one of TensorBoard's pages.
    fn bytes(&mut self, step: u64, tag: &str, plugin: &str, bytes: &[u8]) -> Result<()> {
        let mut tensor = TensorProto::new();
        tensor.set_dtype(DataType::DT_STRING);
        tensor.set_string_val(RepeatedField::from(vec![bytes.to_vec()]));
        let mut value = Summary_Value::new();
        value.set_tag(tag.to_owned());
        value.set_metadata(metadata(plugin, Vec::new()));
        value.set_tensor(tensor);
        self.summary(step, vec![value])
    }

    /// Hands everything that was written to the operating system, so that a running TensorBoard sees it.
    ///
    /// # Errors
    /// The first time that writing fails.
    pub fn flush(&mut self) -> Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let done = writer.flush();
        self.finish(done)
    }

    fn summary(&mut self, step: u64, values: Vec<Summary_Value>) -> Result<()> {
        let mut summary = Summary::new();
        summary.set_value(RepeatedField::from(values));
        let mut event = Event::new();
        event.set_step(i64::try_from(step)?);
        event.set_summary(summary);
        self.write(event)
    }

    fn write(&mut self, mut event: Event) -> Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        event.set_wall_time(seconds_now());
        let done = writer.write(&event.write_to_bytes()?);
        self.finish(done)
    }

    fn finish(&mut self, done: std::io::Result<()>) -> Result<()> {
        done.map_err(|e| {
            self.writer = None;
            let path = self.path.display();
            anyhow::Error::new(e)
                .context(format!("{path}: TensorBoard's events cannot be written any more"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageSize;

    /// The summaries of an event file, whose record framing the integration tests check.
    fn values(folder: &Path) -> Result<Vec<Summary_Value>> {
        let path = std::fs::read_dir(folder)?.next().context("no event file")??.path();
        let (bytes, mut at, mut values) = (std::fs::read(path)?, 0, Vec::new());
        while let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let length = u64::from_le_bytes(*length) as usize;
            let event = Event::parse_from_bytes(&bytes[at + 12..at + 12 + length])?;
            values.extend(event.get_summary().get_value().to_vec());
            at += 8 + 4 + length + 4;
        }
        Ok(values)
    }

    #[test]
    fn pictures_that_are_not_square_keep_their_sides_gray_and_rgb() -> Result<()> {
        for (channels, columns) in [(1, 3), (3, 2)] {
            let folder = tempfile::tempdir()?;
            let images: Vec<u8> = (0..3 * 4 * channels).map(|i| i as u8).collect();
            let picture = Picture::grid(&images, ImageSize::square(2), channels, columns)?;
            let png = picture.png()?;
            let mut board = TensorBoard::create(folder.path())?.unwrap();
            board.image(7, "samples", &picture, &png)?;
            board.flush()?;
            let values = values(folder.path())?;
            let image = values[0].get_image();
            let decoded = image::load_from_memory(image.get_encoded_image_string())?;
            assert_eq!(
                (image.get_width() as u32, image.get_height() as u32),
                (decoded.width(), decoded.height())
            );
            assert_eq!(
                (picture.width as u32, picture.height as u32),
                (decoded.width(), decoded.height())
            );
            assert_eq!(
                (image.get_colorspace() as usize, decoded.as_bytes()),
                (channels, &picture.pixels[..])
            );
        }
        Ok(())
    }

    #[test]
    fn two_writers_in_one_second_have_files_of_their_own() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut boards = [TensorBoard::create(folder.path())?, TensorBoard::create(folder.path())?];
        for board in boards.iter_mut().flatten() {
            board.scalars(1, &[("x", 1.0)])?;
            board.flush()?;
        }
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 2);
        Ok(())
    }
}
