//! Functions that several test modules use.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use dcgan::files::TensorFile;
use dcgan::model::{Model, ModelConfig, Network};
use dcgan::record::jsonl::{Evaluation, Line, Metrics, read};
use dcgan::rng::{Latent, Stream, rng};
use dcgan::run::checkpoint::{Checkpoint, Folder};
use dcgan::shape::ImageShape;
use dcgan::tf::{Role, Variable};
use dcgan::train::state::Entry;
use dcgan::train::step::Gan;
use tch::{Device, Kind, Tensor};

/// The exit code and the output of a process that has ended.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Runs `command` to its end and asserts that it did not panic. Failure messages call it `what`.
    pub fn of(mut command: Command, what: &str) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let ran = Self { code: status.code(), stdout: text(stdout), stderr: text(stderr) };
        assert!(!ran.stderr.contains("panicked at"), "dcgan {what}\n{}", ran.stderr);
        ran
    }

    /// Asserts that the process ended with `code` and that its stderr contains all of `parts`.
    pub fn assert_refused(&self, what: &str, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "dcgan {what}\n{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "dcgan {what}: no `{part}` in\n{}", self.stderr);
        }
    }
}

/// A command that runs the executable in `folder` with `args`, which are split at white space.
pub fn command(folder: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dcgan"));
    command.current_dir(folder).args(args.split_whitespace()).stdin(Stdio::null());
    // Threads that wait for one another sleep instead of running busy loops: see `one_thread`.
    command.env("OMP_WAIT_POLICY", "passive");
    command
}

/// Runs the executable in `folder` and asserts that it did not panic.
pub fn dcgan(folder: &Path, args: &str) -> Ran {
    Ran::of(command(folder, args), args)
}

/// Options of a training run of 4 iterations that takes less than a second. The learning rate is high because at
/// the usual one, samples would still be all gray after 4 iterations.
pub const SMALL: &str = "--device cpu --threads 1 --base-width 1 --z-dim 3 --batch-size 4 \
                         --iterations 4 --learning-rate 0.1";

/// Makes libtorch compute on one thread. Tests run at the same time, and libtorch's threads wait for one another
/// in busy loops: if there are more threads than cores, milliseconds become seconds.
pub fn one_thread() {
    tch::set_num_threads(1);
}

/// Runs the executable in `folder` and asserts that it succeeds.
pub fn train(folder: &Path, args: &str) -> Ran {
    let ran = dcgan(folder, args);
    assert_eq!(ran.code, Some(0), "dcgan {args}\n{}", ran.stderr);
    ran
}

/// The contents of every file under `folder`, by its path within the folder.
pub fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type()?.is_dir() {
            let inner = files(&entry.path())?.into_iter();
            all.extend(inner.map(|(path, bytes)| (format!("{name}/{path}"), bytes)));
        } else {
            all.insert(name, std::fs::read(entry.path())?);
        }
    }
    Ok(all)
}

/// The results in a run's folder, without times.
#[derive(Debug, PartialEq)]
pub struct Trace {
    pub pictures: BTreeMap<String, Vec<u8>>,
    /// The tensors of the last checkpoint (`state`) and of both networks' files.
    pub tensors: BTreeMap<String, BTreeMap<String, Tensor>>,
    pub lines: Vec<Line>,
}

/// Reads the results of a run that has finished.
pub fn trace(run: &Path) -> Result<Trace> {
    let mut trace =
        Trace { pictures: BTreeMap::new(), tensors: BTreeMap::new(), lines: Vec::new() };
    let state = Folder::of_run(run).file(newest(run)?);
    for (name, bytes) in files(run)? {
        let path = run.join(&name);
        if name.ends_with(".png") {
            trace.pictures.insert(name, bytes);
        } else if path == state || name.ends_with("tor.safetensors") {
            let kind = if path == state { "state".to_owned() } else { name };
            trace.tensors.insert(kind, TensorFile::read(&path)?.tensors);
        } else {
            ensure!(!name.contains(".unfinished-"), "{name}");
        }
    }
    assert_eq!(trace.tensors.len(), 3);
    trace.lines = read(&run.join("metrics.jsonl"))?.into_iter().map(without_times).collect();
    Ok(trace)
}

/// A line of metrics with all times and speeds set to 0.
pub fn without_times(line: Line) -> Line {
    match line {
        Line::Metrics(line) => Line::Metrics(Metrics { images_per_s: 0.0, elapsed_s: 0.0, ..line }),
        Line::Evaluation(line) => Line::Evaluation(Evaluation { eval_s: 0.0, ..line }),
        rollback => rollback,
    }
}

/// The iteration of the newest checkpoint.
pub fn newest(run: &Path) -> Result<u64> {
    Folder::of_run(run).iterations()?.pop().context("no checkpoint")
}

/// Copies the run `from` to `to` as a crash would have left it just after the checkpoint of `iteration` was
/// written.
pub fn crash(from: &Path, to: &Path, iteration: u64) -> Result<()> {
    for (name, bytes) in files(from)? {
        let path = to.join(&name);
        std::fs::create_dir_all(path.parent().context("no parent")?)?;
        std::fs::write(path, bytes)?;
    }
    Folder::of_run(to).remove_after(iteration)?;
    let best = Folder::of_run(to).best();
    if Checkpoint::header(&best).is_ok_and(|header| header.iteration > iteration) {
        std::fs::remove_file(best)?;
    }
    for last in ["generator.safetensors", "discriminator.safetensors", "real_vs_generated.png"] {
        // Runs that did not finish do not have these files.
        let _ = std::fs::remove_file(to.join(last));
    }
    Ok(())
}

/// Standard normal values. The same `seed` gives the same values.
pub fn normal(seed: u64, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values = Latent::Normal.sample(&mut rng(seed, Stream::SampleZ, 0), count, 1);
    Tensor::from_slice(&values).to_kind(Kind::Double).reshape(shape)
}

/// Gives all variables random values that differ from their initial ones, so that a test notices if a variable is
/// not used.
pub fn randomize(variables: &mut [Variable], seed: u64) {
    let _no_grad = tch::no_grad_guard();
    for (i, variable) in variables.iter_mut().enumerate() {
        let x = normal(1000 * seed + i as u64, &variable.tensor.size());
        variable.tensor.copy_(&match variable.role {
            Role::Kernel => x * 0.2,
            Role::Gamma => x * 0.2 + 1.0,
            Role::MovingVariance => x.square() + 0.5,
            Role::Bias | Role::Beta | Role::MovingMean => x * 0.2,
        });
    }
}

/// A small float64 model with [`randomize`]d variables.
pub fn random_model(channels: usize, base_width: i64) -> Result<Model> {
    one_thread();
    let config = ModelConfig {
        image: ImageShape::reference(channels),
        base_width,
        z_dim: 5,
        ..Default::default()
    };
    let model = Model::new(&config, 0, Device::Cpu, Kind::Double)?;
    for network in Network::ALL {
        randomize(&mut model.variables(network), network as u64);
    }
    Ok(model)
}

/// Copies of all tensors that a checkpoint holds, with TensorFlow's names.
pub fn state(gan: &Gan) -> Vec<(String, Tensor)> {
    let copy = |entry: Entry| (entry.tf_name, entry.tensor.detach().copy());
    dcgan::train::state::state(gan).into_iter().map(copy).collect()
}

/// Copies of all variables of a network, with their full names.
pub fn named(network: Network, variables: &[Variable]) -> Vec<(String, Tensor)> {
    variables.iter().map(|v| (network.full_name(v), v.tensor.detach().copy())).collect()
}

/// Asserts that ‖ours − theirs‖ is at most `bound` · ‖theirs‖.
pub fn assert_close(name: &str, ours: &Tensor, theirs: &Tensor, bound: f64) {
    assert_eq!(ours.size(), theirs.size(), "{name}");
    let _no_grad = tch::no_grad_guard();
    let norm = |x: &Tensor| x.norm().double_value(&[]);
    let difference = ours - theirs;
    let error = match (norm(&difference), norm(theirs)) {
        (0., 0.) => 0.,
        (difference, theirs) => difference / theirs,
    };
    // NaN must fail.
    if error.is_nan() || error > bound {
        let limit = bound * theirs.abs().max().double_value(&[]);
        let bad = difference.abs().le(limit).logical_not().nonzero();
        let first = Vec::<Vec<i64>>::try_from(bad.narrow(0, 0, bad.size()[0].min(3))).unwrap();
        panic!("{name}: error {error:e}, bound {bound:e}, first bad positions {first:?}");
    }
}
