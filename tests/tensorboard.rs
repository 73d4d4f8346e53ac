//! The event files that a run writes for TensorBoard, read back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dcgan::files::TensorFile;
use dcgan::record::jsonl::{Metrics, read_metrics};
use dcgan::run::checkpoint::Folder;
use protobuf::Message;
use tch::Kind;
use tensorboard_proto::api::Status;
use tensorboard_proto::event::{Event, SessionLog_SessionStatus};
use tensorboard_proto::layout::Layout;
use tensorboard_proto::plugin_hparams::HParamsPluginData;
use tensorboard_proto::summary::{HistogramProto, Summary_Image, Summary_Value};
use tensorboard_rs::masked_crc32c::{crc32c, masked_crc32c};

use super::common::{SMALL, dcgan, files, trace, train};

/// The data of the records in a TFRecord file. A record is the length of its data, the checksum of that length, the
/// data, and the checksum of the data.
fn records(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = bytes.split_at_checked(length).context("truncated")?;
        *bytes = rest;
        Ok(taken)
    }
    let checked = |data: &[u8], checksum: &[u8]| {
        ensure!(masked_crc32c(data).to_le_bytes() == checksum, "wrong checksum");
        Ok(())
    };
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let length = take(&mut bytes, 8)?;
        checked(length, take(&mut bytes, 4)?)?;
        let data = take(&mut bytes, u64::from_le_bytes(length.try_into()?) as usize)?;
        checked(data, take(&mut bytes, 4)?)?;
        records.push(data.to_vec());
    }
    Ok(records)
}

/// The run's event files, parsed, in the order in which TensorBoard reads them.
fn event_files(run: &Path) -> Result<Vec<Vec<Event>>> {
    let files =
        files(run)?.into_iter().filter(|(name, _)| name.starts_with("events.out.tfevents."));
    let parse = |data: &Vec<u8>| Ok(Event::parse_from_bytes(data)?);
    files.map(|(_, bytes)| records(&bytes)?.iter().map(parse).collect()).collect()
}

/// Trains and returns the run's one event file, parsed.
fn events_of_a_run(folder: &Path) -> Result<Vec<Event>> {
    train(folder, &format!("{SMALL} --log-every 1 --sample-every 2 --run run"));
    let mut all = event_files(&folder.join("run"))?;
    assert_eq!(all.len(), 1);
    all.pop().context("no events")
}

/// Every value of every summary, together with its step.
fn values(events: &[Event]) -> impl Iterator<Item = (i64, &Summary_Value)> {
    let of = |event: &Event| (event.get_step(), event.has_summary());
    events.iter().filter(move |event| of(event).1).flat_map(move |event| {
        event.get_summary().get_value().iter().map(move |v| (of(event).0, v))
    })
}

#[test]
fn the_checksum_is_crc32c() {
    // The first is from RFC 3720, appendix B.4; the second is the check value in every catalogue of checksums.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn the_file_begins_with_its_version_and_every_event_has_a_time() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let events = events_of_a_run(folder.path())?;
    assert_eq!(events[0].get_file_version(), "brain.Event:2");
    let times: Vec<_> = events.iter().map(Event::get_wall_time).collect();
    // Times are seconds since 1970. They must be later than July 2017 and in order.
    assert!(times[0] > 1.5e9 && times.is_sorted(), "{times:?}");
    Ok(())
}

#[test]
fn scalars_are_the_metrics_of_every_logged_iteration() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let events = events_of_a_run(folder.path())?;
    let scalars: Vec<_> = values(&events)
        .filter(|(_, value)| value.has_simple_value())
        .map(|(step, value)| (step, value.get_tag().to_owned(), value.get_simple_value()))
        .collect();
    let metrics: Vec<Metrics> = read_metrics(&folder.path().join("run/metrics.jsonl"))?;
    assert_eq!(metrics.len(), 4);
    let mut expected = Vec::new();
    for line in metrics {
        for (tag, value) in [
            ("discriminator_loss", line.d_loss),
            ("generator_loss", line.g_loss),
            ("mean_discriminator_output_prob_real", line.mean_discriminator_output_prob_real),
            ("mean_discriminator_output_prob_fake", line.mean_discriminator_output_prob_fake),
            ("images_per_s", line.images_per_s),
        ] {
            expected.push((line.iteration as i64, tag.to_owned(), value as f32));
        }
    }
    assert_eq!(scalars, expected);
    Ok(())
}

#[test]
fn images_are_the_pictures_on_disk_with_their_sizes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let events = events_of_a_run(folder.path())?;
    let images: Vec<_> = values(&events)
        .filter(|(_, value)| value.has_image())
        .map(|(step, value)| (step, value.get_tag(), value.get_image()))
        .collect();
    let expected = [
        (0, "real", "real.png"),
        (2, "samples", "samples/iteration-000002.png"),
        (4, "samples", "samples/iteration-000004.png"),
    ];
    assert_eq!(images.len(), expected.len());
    for ((step, tag, image), (expected_step, expected_tag, file)) in
        images.into_iter().zip(expected)
    {
        assert_eq!((step, tag), (expected_step, expected_tag));
        let png = std::fs::read(folder.path().join("run").join(file))?;
        assert!(image.get_encoded_image_string() == png, "{file}");
        let decoded = image::load_from_memory(&png)?;
        let size = |image: &Summary_Image| (image.get_width(), image.get_height());
        assert_eq!(size(image), (decoded.width() as i32, decoded.height() as i32), "{file}");
        assert_eq!(image.get_colorspace(), i32::from(decoded.color().channel_count()), "{file}");
    }
    Ok(())
}

/// The page of TensorBoard that a value is for, where it says one.
fn plugin(value: &Summary_Value) -> &str {
    value.get_metadata().get_plugin_data().get_plugin_name()
}

#[test]
fn the_settings_are_hyperparameters_and_losses_and_probabilities_share_charts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let events = events_of_a_run(folder.path())?;
    let hparams: Vec<_> = values(&events)
        .filter(|(_, value)| plugin(value) == "hparams")
        .map(|(_, value)| {
            let content = value.get_metadata().get_plugin_data().get_content();
            Ok(HParamsPluginData::parse_from_bytes(content)?)
        })
        .collect::<Result<_>>()?;
    assert_eq!(hparams.len(), 2);
    let settings = hparams[0].get_session_start_info().get_hparams();
    assert_eq!(settings["base-width"].get_number_value(), 1.0);
    assert_eq!(settings["dataset"].get_string_value(), "digits");
    assert!(!settings.contains_key("environment"));
    let end = hparams[1].get_session_end_info();
    assert_eq!(end.get_status(), Status::STATUS_SUCCESS);
    assert!(end.get_end_time_secs() >= hparams[0].get_session_start_info().get_start_time_secs());

    let (_, layout) = values(&events)
        .find(|(_, value)| plugin(value) == "custom_scalars")
        .context("no layout")?;
    let layout = Layout::parse_from_bytes(&layout.get_tensor().get_string_val()[0])?;
    let charts = layout.get_category()[0].get_chart();
    let tags = |i: usize| charts[i].get_multiline().get_tag().to_vec();
    assert_eq!(tags(0), ["^discriminator_loss$", "^generator_loss$"]);
    assert_eq!(tags(1).len(), 2);
    Ok(())
}

/// The histograms of a run, by step and tag.
fn histograms(run: &Path) -> Result<BTreeMap<(i64, String), HistogramProto>> {
    let events = event_files(run)?.concat();
    let histograms = values(&events).filter(|(_, value)| value.has_histo());
    let named = |(step, value): (i64, &Summary_Value)| {
        ((step, value.get_tag().to_owned()), value.get_histo().clone())
    };
    Ok(histograms.map(named).collect())
}

#[test]
fn histograms_are_of_all_weights_and_gradients_and_change_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    let args = format!("{SMALL} --log-every 1 --sample-every 2 --checkpoint-every 2 --keep 9");
    train(at, &format!("{args} --run without"));
    train(at, &format!("{args} --run run --histograms 2"));
    let run = at.join("run");
    assert!(trace(&run)? == trace(&at.join("without"))?, "the same training");
    assert!(histograms(&at.join("without"))?.is_empty());
    let all = histograms(&run)?;
    let mut expected = BTreeSet::new();
    for step in [2, 4] {
        let saved = TensorFile::read(&Folder::of_run(&run).file(step))?.tensors;
        // What has moments is trained.
        for name in saved.keys().filter_map(|name| name.strip_suffix(".adam_m")) {
            let weights = saved[name].to_kind(Kind::Double);
            let step = step as i64;
            let [of_weights, of_gradients] = ["weights", "gradients"].map(|what| {
                let tag = (step, format!("{what}/{name}"));
                expected.insert(tag.clone());
                all[&tag].clone()
            });
            let sum = weights.sum(Kind::Double).double_value(&[]);
            assert!((of_weights.get_sum() - sum).abs() <= 1e-9, "{name}");
            assert_eq!(of_weights.get_min(), weights.min().double_value(&[]), "{name}");
            assert_eq!(of_weights.get_max(), weights.max().double_value(&[]), "{name}");
            for histogram in [&of_weights, &of_gradients] {
                assert_eq!(histogram.get_num(), weights.numel() as f64, "{name}");
                assert_eq!(histogram.get_bucket().iter().sum::<f64>(), histogram.get_num());
                assert_eq!(histogram.get_bucket().len(), histogram.get_bucket_limit().len());
            }
            assert_ne!(of_weights, of_gradients, "{name}");
        }
    }
    let found: BTreeSet<_> = all.into_keys().collect();
    assert_eq!(found, expected);
    Ok(())
}

#[test]
fn a_resumed_run_goes_on_with_its_histograms_and_may_leave_them() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    train(at, &format!("{SMALL} --run whole --histograms 1 --iterations 6"));
    let steps = |run: &str| -> Result<BTreeSet<i64>> {
        Ok(histograms(&at.join(run))?.into_keys().map(|(step, _)| step).collect())
    };
    train(at, &format!("{SMALL} --run run --histograms 1 --iterations 2"));
    train(at, "train --resume run --iterations 4");
    assert_eq!(steps("run")?, BTreeSet::from([1, 2, 3, 4]));
    let whole = histograms(&at.join("whole"))?;
    for (tag, histogram) in histograms(&at.join("run"))? {
        assert_eq!(histogram, whole[&tag], "{tag:?}");
    }
    train(at, "train --resume run --iterations 6 --histograms none");
    assert_eq!(steps("run")?, BTreeSet::from([1, 2, 3, 4]));
    Ok(())
}

#[test]
fn evaluations_share_a_chart_with_what_the_metrics_say_of_real_images() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    let args = "--eval-every 2 --eval-count 24 --eval-features pixels --limit 60";
    train(at, &format!("{SMALL} {args} --run run"));
    let events = event_files(&at.join("run"))?.concat();
    let mut scalars = BTreeMap::new();
    for (step, value) in values(&events).filter(|(_, value)| value.get_tag().starts_with("eval/")) {
        scalars.insert((step, value.get_tag().to_owned()), value.get_simple_value());
    }
    // What `eval` says of as many images.
    let report = dcgan(at, "eval run --count 24 --features pixels --json");
    let report: serde_json::Value = serde_json::from_str(&report.stdout)?;
    for metric in ["frechet_distance", "kernel_distance", "precision", "recall", "coverage"] {
        let rows = report["metrics"].as_array().context("no metrics")?;
        let row = rows.iter().find(|row| row["metric"] == metric).context("no such metric")?;
        for step in [2, 4] {
            let floor = scalars[&(step, format!("eval/{metric}_floor"))];
            assert_eq!(f64::from(floor), f64::from(row["floor"].as_f64().unwrap() as f32));
        }
        let last = scalars[&(4, format!("eval/{metric}"))];
        assert_eq!(f64::from(last), f64::from(row["value"].as_f64().unwrap() as f32), "{metric}");
    }
    // Resumed with another setting, the layout is written anew and has them still.
    train(at, "train --resume run --iterations 5 --sample-every 1");
    for events in event_files(&at.join("run"))? {
        let layouts = values(&events).filter(|(_, value)| plugin(value) == "custom_scalars");
        let (_, layout) = layouts.last().context("no layout")?;
        let layout = Layout::parse_from_bytes(&layout.get_tensor().get_string_val()[0])?;
        let [training, evaluation] = layout.get_category() else { panic!("{layout:?}") };
        assert_eq!((training.get_title(), evaluation.get_title()), ("training", "evaluation"));
        let tags = evaluation.get_chart().iter().map(|chart| chart.get_multiline().get_tag());
        let tags: Vec<_> = tags.collect();
        let expected = ["^eval/frechet_distance$", "^eval/frechet_distance_floor$"];
        assert!(tags.iter().any(|tags| *tags == expected), "{tags:?}");
    }
    Ok(())
}

#[test]
fn a_conditional_run_shows_the_samples_of_each_class_by_its_name() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    train(at, &format!("{SMALL} --sample-every 2 --conditional --classes 3,7 --run run"));
    let events = event_files(&at.join("run"))?.concat();
    let mut images = BTreeMap::new();
    for (step, value) in values(&events).filter(|(_, value)| value.has_image()) {
        let png = value.get_image().get_encoded_image_string();
        let image = image::load_from_memory(png)?.into_luma8();
        assert!(images.insert((step, value.get_tag().to_owned()), image).is_none());
    }
    for step in [2, 4] {
        let at = |tag: &str| images[&(step, tag.to_owned())].clone();
        let (whole, threes, sevens) = (at("samples"), at("samples/class_3"), at("samples/class_7"));
        // Three rows each, with a gap of two pixels between rows.
        let (width, height) = threes.dimensions();
        assert_eq!((width, height), (whole.width(), 3 * 32 + 2 * 2));
        assert_eq!(whole.height(), 2 * height + 2);
        let rows = |top: u32| {
            image::imageops::crop_imm(&whole, 0, top, width, height).to_image().into_raw()
        };
        assert!(threes.into_raw() == rows(0), "the upper rows are threes");
        assert!(sevens.into_raw() == rows(height + 2), "the lower rows are sevens");
    }
    assert_eq!(images.len(), 1 + 2 * 3);
    Ok(())
}

#[test]
fn the_configuration_is_there_as_text() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let events = events_of_a_run(folder.path())?;
    let texts: Vec<_> = values(&events).filter(|(_, value)| plugin(value) == "text").collect();
    assert_eq!(texts.len(), 1);
    let (step, value) = texts[0];
    assert_eq!((step, value.get_tag()), (0, "config"));
    let config = std::fs::read_to_string(folder.path().join("run/config.toml"))?;
    let text = value.get_tensor().get_string_val().first().context("no text")?;
    assert_eq!(std::str::from_utf8(text)?, format!("```toml\n{config}```"));
    Ok(())
}

const START: &str = "_hparams_/session_start_info";
const END: &str = "_hparams_/session_end_info";
const LAYOUT: &str = "custom_scalars__config__";

#[test]
fn a_resumed_run_tells_tensorboard_from_which_step_on_to_replace_events() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let args = format!("{SMALL} --log-every 1 --sample-every 2 --checkpoint-every 2 --keep 9");
    train(folder.path(), &format!("{args} --run run"));
    let run = folder.path().join("run");
    // As if the run had been stopped after iteration 3 or 4, with iteration 2 as its newest checkpoint.
    Folder::of_run(&run).remove_after(2)?;
    // All within the same second or so: then only the number in their names puts the event files in order.
    train(folder.path(), "train --resume run");
    train(folder.path(), "train --resume run --iterations 5");
    let all = event_files(&run)?;
    assert_eq!(all.len(), 3);
    let tags = |events: &[Event]| {
        let tag = |(step, value): (i64, &Summary_Value)| (step, value.get_tag().to_owned());
        values(events).filter(|(_, value)| !value.has_simple_value()).map(tag).collect::<Vec<_>>()
    };
    for (events, first, expected) in [
        // A new run states step 0, because it may have been stopped before its first line and started again.
        (
            &all[0],
            0,
            &[
                (0, "config"),
                (0, START),
                (0, LAYOUT),
                (0, "real"),
                (2, "samples"),
                (4, "samples"),
                (4, END),
            ][..],
        ),
        (&all[1], 3, &[(4, "samples"), (4, END)]),
        // The settings have changed, so they are written again.
        (&all[2], 5, &[(5, "config"), (5, START), (5, LAYOUT), (5, "samples"), (5, END)]),
    ] {
        assert_eq!(events[0].get_file_version(), "brain.Event:2");
        assert_eq!(events[1].get_session_log().get_status(), SessionLog_SessionStatus::START);
        assert_eq!(events[1].get_step(), first);
        let expected: Vec<_> = expected.iter().map(|&(step, tag)| (step, tag.to_owned())).collect();
        assert_eq!(tags(events), expected);
    }
    Ok(())
}
