//! The moving average of the generator: what it leaves as it is, where it is kept, and who takes it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use dcgan::files::TensorFile;
use dcgan::record::jsonl::{Line, read};
use dcgan::rng::{Latent, Stream, rng};
use dcgan::run::checkpoint::Folder;
use dcgan::run::model::sampler;
use dcgan::sample::sample;
use dcgan::weights::Weights;
use tch::{Device, Kind, Tensor};

use super::common::{SMALL, dcgan, files, newest, trace, train};
use super::resume::assert_resumes_everywhere;

/// Options of a run with an average and with checkpoints at 0, 2 and 4.
fn averaged() -> String {
    format!("{} --ema 0.9", plain())
}

/// The same without an average.
fn plain() -> String {
    format!("{SMALL} --log-every 1 --sample-every 2 --checkpoint-every 2 --keep 9")
}

type Tensors = BTreeMap<String, Tensor>;

/// The tensors of a checkpoint of `run`.
fn checkpoint(run: &Path, iteration: u64) -> Result<Tensors> {
    Ok(TensorFile::read(&Folder::of_run(run).file(iteration))?.tensors)
}

/// The averages among a checkpoint's tensors, by the names of what they are averages of; and the other tensors.
fn parted(tensors: Tensors) -> (Tensors, Tensors) {
    let (averages, rest): (Tensors, Tensors) =
        tensors.into_iter().partition(|(name, _)| name.ends_with(".ema"));
    let named = |(name, tensor): (String, Tensor)| (name.replace(".ema", ""), tensor);
    (averages.into_iter().map(named).collect(), rest)
}

/// Of `tensors` those that `names` has.
fn only<'a>(tensors: &'a Tensors, names: &Tensors) -> BTreeMap<&'a String, &'a Tensor> {
    tensors.iter().filter(|(name, _)| names.contains_key(*name)).collect()
}

fn as_refs(tensors: &Tensors) -> BTreeMap<&String, &Tensor> {
    tensors.iter().collect()
}

#[test]
fn an_average_changes_no_bit_of_training_and_is_in_no_file_that_did_not_ask_for_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{} --run plain", plain()));
    train(folder.path(), &format!("{} --run averaged", averaged()));
    let [plain, averaged] = ["plain", "averaged"].map(|run| folder.path().join(run));
    for iteration in [0, 2, 4] {
        let (none, expected) = parted(checkpoint(&plain, iteration)?);
        assert!(none.is_empty());
        let (averages, rest) = parted(checkpoint(&averaged, iteration)?);
        assert!(rest == expected, "{iteration}");
        // One for each variable of the generator: two for each layer, and four for each batch norm.
        assert_eq!(averages.len(), 4 * 2 + 3 * 4);
        assert!(averages.keys().all(|name| name.starts_with("generator.")));
        // It begins as the initial weights.
        let are_the_weights = as_refs(&averages) == only(&rest, &averages);
        assert_eq!(are_the_weights, iteration == 0, "{iteration}");
    }
    let (plain_trace, averaged_trace) = (trace(&plain)?, trace(&averaged)?);
    assert_eq!(plain_trace.lines, averaged_trace.lines);
    let discriminator = "discriminator.safetensors";
    assert!(plain_trace.tensors[discriminator] == averaged_trace.tensors[discriminator]);
    let config = std::fs::read_to_string(plain.join("config.toml"))?;
    assert!(!config.contains("ema"), "{config}");
    for file in [plain.join("generator.safetensors"), averaged.join(discriminator)] {
        assert!(!TensorFile::read(&file)?.metadata.contains_key("weights"));
    }
    Ok(())
}

#[test]
fn a_run_with_an_average_resumes_bit_for_bit_from_every_position() -> Result<()> {
    assert_resumes_everywhere(&averaged(), &[0, 2, 4])?;
    let float64 = format!("{} --precision f64", averaged());
    assert_resumes_everywhere(&float64, &[2])
}

#[test]
fn the_average_is_what_the_formula_makes_of_the_weights_of_every_iteration() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options =
        format!("{SMALL} --precision f64 --checkpoint-every 1 --keep 9 --ema 0.27 --run run");
    train(folder.path(), &options);
    let run = folder.path().join("run");
    let (mut expected, _) = parted(checkpoint(&run, 0)?);
    // (1 + t) / (10 + t), as long as that is less than 0.27.
    for (iteration, decay) in [(1, 2.0 / 11.0), (2, 0.25), (3, 0.27), (4, 0.27)] {
        let (averages, weights) = parted(checkpoint(&run, iteration)?);
        for (name, average) in &mut expected {
            let weights = &weights[name];
            *average = &*average * decay + weights * (1.0 - decay);
            let scale = weights.abs().max().double_value(&[]).max(1.0);
            let error = (&averages[name] - &*average).abs().max().double_value(&[]);
            // A few roundings in each iteration.
            assert!(error <= 2e-15 * scale, "{iteration}: {name}: {error:e}");
        }
    }
    Ok(())
}

#[test]
fn images_and_exports_are_of_the_average_unless_raw_weights_are_asked_for() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{} --run plain", plain()));
    train(folder.path(), &format!("{} --run averaged", averaged()));
    let made = |arguments: &str| -> Result<Vec<u8>> {
        let options = "--device cpu --threads 1 --count 9 --npz a.npz --force --quiet";
        train(folder.path(), &format!("sample {arguments} {options}"));
        Ok(std::fs::read(folder.path().join("a.npz"))?)
    };
    let average = made("averaged")?;
    let newest_checkpoint = "averaged/checkpoints/iteration-000004.safetensors";
    for same in [
        "averaged --weights average",
        newest_checkpoint,
        "averaged/generator.safetensors",
        "averaged/generator.safetensors --weights average",
    ] {
        assert!(made(same)? == average, "{same}");
    }
    let raw = made("averaged --weights raw")?;
    assert!(raw != average);
    for same in ["plain", "plain --weights raw", "plain/generator.safetensors --weights raw"] {
        assert!(made(same)? == raw, "{same}");
    }

    // Exports say which they are, if there are two.
    for (arguments, says, images) in [
        ("averaged", Some("average"), &average),
        ("averaged --weights raw", Some("raw"), &raw),
        ("plain --weights raw", None, &raw),
    ] {
        for format in ["safetensors", "tf"] {
            let out = "--out out.safetensors --force";
            train(folder.path(), &format!("export {arguments} --format {format} {out}"));
            let file = TensorFile::read(&folder.path().join("out.safetensors"))?;
            let said = file.metadata.get("weights").map(String::as_str);
            assert_eq!(said, says, "{arguments} {format}");
            assert!(made("out.safetensors")? == *images, "{arguments} {format}");
        }
    }
    // Grids of the run, too.
    let weights = TensorFile::read(&folder.path().join("averaged/generator.safetensors"))?;
    let weights = Weights::parse("it", &weights, dcgan::model::Network::Generator)?;
    let z = Latent::Uniform.sample(&mut rng(0, Stream::SampleZ, 0), 36, 3);
    let images = sample(&weights.generator(Device::Cpu, Kind::Float)?, &z)?;
    let size = dcgan::shape::ImageSize::REFERENCE;
    let picture = dcgan::record::grid::Picture::grid(&images, size, 1, 6)?.png()?;
    let grid =
        |run: &str| std::fs::read(folder.path().join(run).join("samples/iteration-000004.png"));
    assert!(grid("averaged")? == picture);
    assert!(grid("plain")? != picture);
    // What the library reads from a run.
    let of_run = sampler(&folder.path().join("averaged"), Device::Cpu, Kind::Float)?;
    let of_file =
        sampler(&folder.path().join("averaged/generator.safetensors"), Device::Cpu, Kind::Float)?;
    assert_eq!(of_run.sample(1, 4)?, of_file.sample(1, 4)?);
    Ok(())
}

#[test]
fn weights_that_are_not_there_are_refused_and_nothing_is_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{} --run plain", plain()));
    train(folder.path(), &format!("{} --run averaged", averaged()));
    let before = files(folder.path())?;
    let none = "there is no moving average; a generator has one if the setting `ema` was given";
    let only_average = "holds only the moving average; the checkpoints of its run hold the raw";
    for (arguments, told) in [
        ("sample plain --weights average", none),
        ("sample plain/generator.safetensors --weights average", none),
        ("sample --weights average", none),
        ("sample averaged/generator.safetensors --weights raw", only_average),
        ("interpolate plain --weights average --out a.png", none),
        ("nearest plain --weights average --dataset digits", none),
        ("eval plain --weights average --dataset digits", none),
        ("export plain --weights average --format tf", none),
        ("export averaged --network discriminator --weights average --format tf", none),
        ("sample averaged --weights best", "possible values: average, raw"),
        ("eval --images x.npz --weights raw", "cannot be used with"),
        ("train --resume averaged --iterations 9 --ema 0.8", "ema was 0.9 and is 0.8;"),
        ("train --resume averaged --iterations 9 --ema none", "ema was 0.9 and is none;"),
        ("train --resume plain --iterations 9 --ema 0.9", "ema was none and is 0.9;"),
        ("train --ema 0", "--ema: expected a number above 0, below 1, found 0"),
        ("train --ema 1", "--ema: expected a number above 0, below 1, found 1"),
        ("train --ema x", "'x' for '--ema <DECAY>': expected a number"),
    ] {
        dcgan(folder.path(), arguments).assert_refused(arguments, 2, &[told]);
    }
    let without_locks = |mut files: BTreeMap<String, Vec<u8>>| {
        files.retain(|name, _| !name.ends_with("/.lock"));
        files
    };
    assert!(without_locks(files(folder.path())?) == without_locks(before));
    Ok(())
}

#[test]
fn a_fork_may_turn_the_average_on_or_off_or_give_it_another_decay() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{} --run plain", plain()));
    train(folder.path(), &format!("{} --run averaged", averaged()));
    let fork = |from: &str, name: &str, ema: &str| -> Result<[(Tensors, Tensors); 2]> {
        let from = format!("{from}/checkpoints/iteration-000002.safetensors");
        train(folder.path(), &format!("train --resume {from} --fork {name} {ema}"));
        let run = folder.path().join(name);
        Ok([parted(checkpoint(&run, 2)?), parted(checkpoint(&run, 4)?)])
    };
    let (_, raw) = parted(checkpoint(&folder.path().join("plain"), 4)?);
    let saved = parted(checkpoint(&folder.path().join("averaged"), 2)?).0;
    let expected = parted(checkpoint(&folder.path().join("averaged"), 4)?).0;

    // Turned on, it begins as the saved weights.
    let [(begin, weights), (end, rest)] = fork("plain", "on", "--ema 0.9")?;
    assert!(as_refs(&begin) == only(&weights, &begin) && begin.len() == 20);
    assert!(rest == raw && end != begin);
    // Turned off, it is left behind.
    let [(begin, _), (end, rest)] = fork("averaged", "off", "--ema none")?;
    assert!(begin.is_empty() && end.is_empty() && rest == raw);
    let config = std::fs::read_to_string(folder.path().join("off/config.toml"))?;
    assert!(!config.contains("ema"), "{config}");
    // Otherwise it goes on from the saved average. A ramp of 4/13 and 5/14 is below either decay.
    let [(begin, _), (end, rest)] = fork("averaged", "same", "")?;
    assert!(begin == saved && end == expected && rest == raw);
    let [(begin, _), (end, rest)] = fork("averaged", "other", "--ema 0.1")?;
    assert!(begin == saved && end != expected && rest == raw);
    Ok(())
}

#[test]
fn a_checkpoint_that_lacks_an_average_or_has_one_too_many_is_not_taken() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{} --run run", averaged()));
    let path = folder.path().join("run/checkpoints/iteration-000002.safetensors");
    let name = "generator.dense.weight.ema";
    let whole = TensorFile::read(&path)?.tensors.len();
    let lacks = format!("lacks tensor {name}");
    let counts = |found: usize| format!("expected {whole} tensors, found {found}");
    let more = Some("generator.dense.ema");
    for (extra, ema, told) in [
        (None, "", lacks),
        // An average that is left behind has to be whole, too: the file is not what it says it is.
        (None, "--ema none", counts(whole - 1)),
        (more, "", counts(whole + 1)),
        (more, "--ema none", counts(whole + 1)),
    ] {
        let mut file = TensorFile::read_sealed(&path)?;
        let tensor = file.tensors.remove(name).context("no such tensor")?;
        if let Some(extra) = extra {
            file.tensors.insert(name.to_owned(), tensor.shallow_clone());
            file.tensors.insert(extra.to_owned(), tensor);
        }
        file.write_sealed(&folder.path().join("changed.safetensors"))?;
        let args = format!("train --resume changed.safetensors --fork new {ema}");
        let ran = dcgan(folder.path(), &args);
        ran.assert_refused(&args, 1, &[&format!("changed.safetensors: {told}")]);
        std::fs::remove_dir_all(folder.path().join("new"))?;
    }
    Ok(())
}

#[test]
fn a_run_that_is_rolled_back_goes_on_with_the_average_of_that_checkpoint() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // As in `collapse.rs`: the learning rate moves weights by 1 in each step, so that all images become one.
    let options = "--device cpu --threads 1 --base-width 1 --batch-size 8 --learning-rate 1 \
                   --iterations 430 --checkpoint-every 30 --keep 99 --quiet --ema 0.9";
    train(folder.path(), &format!("{options} --run warned"));
    let ran = dcgan(folder.path(), &format!("{options} --on-collapse rollback --run rolled"));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let lines = read(&folder.path().join("rolled/metrics.jsonl"))?;
    let mut rollbacks = lines.into_iter().filter_map(|line| match line {
        Line::Rollback(rollback) => Some(rollback.iteration),
        Line::Metrics(_) | Line::Evaluation(_) => None,
    });
    let to = rollbacks.next().context("no rollback")?;
    let [rolled, warned] = ["rolled", "warned"].map(|run| folder.path().join(run));
    // The rollback has written the checkpoint anew, from the state that it went back to.
    assert!(checkpoint(&rolled, to)? == checkpoint(&warned, to)?);
    let last = newest(&rolled)?;
    assert!(last > to);
    assert!(parted(checkpoint(&rolled, last)?).0 != parted(checkpoint(&warned, last)?).0);
    Ok(())
}

#[test]
fn the_average_of_imported_weights_begins_as_these_weights() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{} --run run", averaged()));
    let ran = train(folder.path(), "import run/generator.safetensors --out in.safetensors");
    assert!(ran.stderr.contains("(the moving average, not the weights"), "{}", ran.stderr);
    let (averages, rest) = parted(TensorFile::read(&folder.path().join("in.safetensors"))?.tensors);
    assert_eq!(averages.len(), 20);
    assert!(as_refs(&averages) == only(&rest, &averages));
    let run = folder.path().join("run");
    assert!(averages == parted(checkpoint(&run, 4)?).0);
    train(folder.path(), "train --resume in.safetensors --fork more --iterations 5");
    Ok(())
}
