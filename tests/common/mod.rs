//! What several test modules share.

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

/// What a process left.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// What `command` leaves. Whatever happens, it never panics; messages call it `what`.
    pub fn of(mut command: Command, what: &str) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let ran = Self { code: status.code(), stdout: text(stdout), stderr: text(stderr) };
        assert!(!ran.stderr.contains("panicked at"), "dcgan {what}\n{}", ran.stderr);
        ran
    }

    /// Asserts that it ended with `code` and said all of `parts`.
    pub fn assert_refused(&self, what: &str, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "dcgan {what}\n{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "dcgan {what}: no `{part}` in\n{}", self.stderr);
        }
    }
}

/// The executable, to be run in `folder` with `args`, which are split at blanks.
pub fn command(folder: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dcgan"));
    command.current_dir(folder).args(args.split_whitespace()).stdin(Stdio::null());
    // As `one_thread` says; here threads that wait sleep.
    command.env("OMP_WAIT_POLICY", "passive");
    command
}

/// Runs the executable in `folder`. Whatever happens, it never panics.
pub fn dcgan(folder: &Path, args: &str) -> Ran {
    Ran::of(command(folder, args), args)
}

/// A training run of 4 iterations that takes less than a second. At the usual learning rate its
/// samples would still be all gray.
pub const SMALL: &str = "--device cpu --threads 1 --base-width 1 --z-dim 3 --batch-size 4 \
                         --iterations 4 --learning-rate 0.1";

/// Makes libtorch compute on one thread. Tests run beside each other, and its threads wait for one
/// another in busy loops: with more of them than cores, milliseconds become seconds.
pub fn one_thread() {
    tch::set_num_threads(1);
}

/// Trains in `folder`, to the end.
pub fn train(folder: &Path, args: &str) -> Ran {
    let ran = dcgan(folder, args);
    assert_eq!(ran.code, Some(0), "dcgan {args}\n{}", ran.stderr);
    ran
}

/// Every file under `folder`, by its path within it.
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

/// What a run comes to, but for times.
#[derive(Debug, PartialEq)]
pub struct Trace {
    pub pictures: BTreeMap<String, Vec<u8>>,
    /// Of the checkpoint at the end, and of both networks.
    pub tensors: BTreeMap<String, BTreeMap<String, Tensor>>,
    pub lines: Vec<Line>,
}

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

/// Takes the run in `from` back to what it was when its checkpoint of `iteration` had just been
/// written, as a crash then would have left it.
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
        // Some runs never had them.
        let _ = std::fs::remove_file(to.join(last));
    }
    Ok(())
}

/// Standard normal values, the same for the same `seed`.
pub fn normal(seed: u64, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values = Latent::Normal.sample(&mut rng(seed, Stream::SampleZ, 0), count, 1);
    Tensor::from_slice(&values).to_kind(Kind::Double).reshape(shape)
}

/// Gives every variable values away from its initial ones, so that each of them matters.
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

/// Everything that a checkpoint holds, by TensorFlow's names: copies.
pub fn state(gan: &Gan) -> Vec<(String, Tensor)> {
    let copy = |entry: Entry| (entry.tf_name, entry.tensor.detach().copy());
    dcgan::train::state::state(gan).into_iter().map(copy).collect()
}

/// Every variable of a network, by its full name: copies.
pub fn named(network: Network, variables: &[Variable]) -> Vec<(String, Tensor)> {
    variables.iter().map(|v| (network.full_name(v), v.tensor.detach().copy())).collect()
}

/// Asserts that ‖ours − theirs‖ is within `bound` of ‖theirs‖.
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
