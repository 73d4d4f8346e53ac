//! Several ranks compute what one process computes.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use dcgan::distributed::{Ranks, Share};
use dcgan::files::TensorFile;
use dcgan::model::{Model, ModelConfig, Network};
use dcgan::run::checkpoint::Folder;
use dcgan::settings::Policy;
use dcgan::shape::ImageShape;
use dcgan::torch::{Group, GroupConfig};
use dcgan::train::augment::Augmentation;
use dcgan::train::step::{BatchClasses, Gan, StepConfig, StepValues};
use tch::{Device, Kind, Tensor};

use super::collapse::HOPELESS;
use super::common::{
    Ran, SMALL, assert_close, command, dcgan, newest, normal, one_thread, state, train,
};

const Z_DIM: i64 = 5;

/// Runs `work` as each of `count` ranks, on threads of their own.
fn as_ranks<T: Send + 'static>(
    count: usize,
    work: impl Fn(Ranks) -> T + Clone + Send + 'static,
) -> Vec<T> {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let mut socket = Some(socket);
    let start = |rank| {
        let config = GroupConfig {
            host: "127.0.0.1".to_owned(),
            port,
            serve: socket.take(),
            prefix: "test".to_owned(),
            identity: format!("thread {rank}"),
            version: "1".to_owned(),
            rank,
            count,
            timeout: Duration::from_secs(120),
            address: "127.0.0.1".to_owned(),
        };
        let work = work.clone();
        thread::spawn(move || work(Ranks::new(Group::join(config).unwrap(), Share { rank, count })))
    };
    let threads: Vec<_> = (0..count).map(start).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// What is trained, and how.
#[derive(Clone, Copy)]
struct Case {
    kind: Kind,
    compute: Kind,
    classes: i64,
    augment: bool,
    ema: bool,
    /// Rows of real images in each iteration.
    rows: &'static [i64],
    /// Rows of z.
    batch: i64,
}

const PLAIN: Case = Case {
    kind: Kind::Double,
    compute: Kind::Double,
    classes: 0,
    augment: false,
    ema: false,
    // The last batch of an epoch is smaller, once smaller than the number of ranks.
    rows: &[5, 5, 1, 5, 2],
    batch: 5,
};

/// All tensors of a checkpoint and the gradients of the last iteration, what was reported of each iteration, and how much images differed.
struct Trained {
    state: Vec<(String, Tensor)>,
    values: Vec<StepValues>,
    spreads: Vec<Option<(f64, f64)>>,
}

// SAFETY: libtorch counts handles atomically, and only one thread has them at a time.
unsafe impl Send for Trained {}

fn trained(case: Case, iterations: u64, ranks: Option<Ranks>) -> Result<Trained> {
    let config = ModelConfig {
        image: ImageShape::reference(3),
        base_width: 2,
        z_dim: Z_DIM,
        classes: case.classes,
        ..Default::default()
    };
    let model = Model::new(&config, 1, Device::Cpu, case.kind)?.computing_in(case.compute);
    let augment = if case.augment {
        let all = vec![Policy::Color, Policy::Translation, Policy::Cutout];
        Augmentation::new(&all.into(), 3)
    } else {
        None
    };
    let ema = case.ema.then_some(0.9);
    let step = StepConfig { augment, ema, keeps_gradients: true, ..Default::default() };
    let ranks = ranks.map(Rc::new);
    let mut gan = Gan::new(model, step)?.among(ranks.clone());
    let (mut values, mut spreads, mut gradients) = (Vec::new(), Vec::new(), Vec::new());
    for i in 1..=iterations {
        let n = case.rows[i as usize % case.rows.len()];
        let real = normal(2 * i, &[n, 3, 32, 32]).tanh().to_kind(case.kind);
        let mut z = normal(2 * i + 1, &[case.batch, Z_DIM]).to_kind(case.kind);
        let mut classes = None;
        if case.classes > 0 {
            let of = |n: i64| Tensor::arange(n, (Kind::Int64, Device::Cpu)).remainder(case.classes);
            let one_hot = of(case.batch).one_hot(case.classes).to_kind(case.kind);
            z = Tensor::cat(&[z, one_hot], 1);
            classes = Some(BatchClasses { real: of(n), generated: of(case.batch) });
        }
        let stats = gan.observed_iteration(&real, &z, classes, &mut |_| Ok(()))?;
        values.push(stats.read()?);
        let share = ranks.as_ref().map_or(Share::WHOLE, |ranks| ranks.share());
        spreads.push(stats.spreads(&share.rows(&real)?)?);
        gradients.clear();
        for network in Network::ALL {
            let variables = gan.model.trainable(network).into_iter();
            for (variable, gradient) in variables.zip(stats.gradients(network).unwrap()) {
                let name = format!("{}/gradient", network.full_name(&variable));
                gradients.push((name, gradient.shallow_clone()));
            }
        }
    }
    if let Some(ranks) = ranks {
        ranks.barrier()?;
    }
    Ok(Trained { state: [state(&gan), gradients].into_iter().flatten().collect(), values, spreads })
}

/// Asserts that each of `count` ranks ends as one process does, and all with the same bits.
fn assert_ranks_equal_one(case: Case, iterations: u64, count: usize, bound: f64) -> Result<()> {
    one_thread();
    let one = trained(case, iterations, None)?;
    let all = as_ranks(count, move |ranks| trained(case, iterations, Some(ranks)).unwrap());
    let config = ModelConfig { base_width: 2, ..Default::default() };
    let of_no_effect = dcgan::architecture::Architecture::new(config)?.biases_of_no_effect();
    for ranks in &all {
        assert_eq!(ranks.state, all[0].state, "all ranks have the same bits");
        for ((name, ours), (_, theirs)) in ranks.state.iter().zip(&one.state) {
            // The true gradient of these biases is 0. They, and the means that contain them, are rounding errors.
            let is_rounding = name.contains("moving_mean")
                || of_no_effect.iter().any(|bias| name.starts_with(bias));
            // After one step of Adam a weight whose gradient is small may have gone either way.
            if case.compute == Kind::BFloat16 {
                if name.contains("adam_") || name.ends_with("/gradient") {
                    continue;
                }
                let error = (ours - theirs).abs().max().double_value(&[]);
                assert!(error <= 1e-2, "{name}: {error:e}");
            } else if is_rounding {
                let error = (ours - theirs).abs().max().double_value(&[]);
                assert!(error <= bound.max(1e-8), "{name}: {error:e}");
            } else {
                assert_close(name, ours, theirs, bound);
            }
        }
        for (i, (ours, theirs)) in ranks.values.iter().zip(&one.values).enumerate() {
            for (ours, theirs) in [
                (ours.d_loss, theirs.d_loss),
                (ours.g_loss, theirs.g_loss),
                (
                    ours.mean_discriminator_output_prob_real,
                    theirs.mean_discriminator_output_prob_real,
                ),
                (
                    ours.mean_discriminator_output_prob_fake,
                    theirs.mean_discriminator_output_prob_fake,
                ),
            ] {
                assert!((ours - theirs).abs() <= bound, "{i}: {ours} {theirs}");
            }
        }
        for (ours, theirs) in ranks.spreads.iter().zip(&one.spreads) {
            match (ours, theirs) {
                (Some(ours), Some(theirs)) => {
                    assert!((ours.0 - theirs.0).abs() <= bound, "{ours:?} {theirs:?}");
                    assert!((ours.1 - theirs.1).abs() <= bound, "{ours:?} {theirs:?}");
                }
                _ => assert_eq!(ours, theirs, "a single image differs from nothing"),
            }
        }
    }
    Ok(())
}

#[test]
fn two_and_three_ranks_equal_one_in_float64_after_25_iterations() -> Result<()> {
    for count in [1, 2, 3] {
        assert_ranks_equal_one(PLAIN, 25, count, 1e-12)?;
    }
    Ok(())
}

#[test]
fn conditional_augmented_and_averaged_training_is_the_same_on_two_ranks() -> Result<()> {
    let case = Case { classes: 3, augment: true, ema: true, ..PLAIN };
    assert_ranks_equal_one(case, 6, 2, 1e-12)
}

#[test]
fn bfloat16_trains_on_two_ranks() -> Result<()> {
    let case = Case { kind: Kind::Float, compute: Kind::BFloat16, ..PLAIN };
    assert_ranks_equal_one(case, 1, 2, 0.1)
}

#[test]
fn a_value_that_is_not_finite_on_one_rank_stops_all_at_the_same_step() {
    one_thread();
    let errors = as_ranks(2, |ranks| {
        let config = ModelConfig { base_width: 2, z_dim: Z_DIM, ..Default::default() };
        let model = Model::new(&config, 1, Device::Cpu, Kind::Float).unwrap();
        let before: Vec<_> =
            model.variables(Network::Generator).iter().map(|v| v.tensor.detach().copy()).collect();
        let mut gan = Gan::new(model, StepConfig::default()).unwrap().among(Some(Rc::new(ranks)));
        let real = normal(1, &[4, 1, 32, 32]).to_kind(Kind::Float);
        // The first row is that of rank 0.
        let _ = real.get(0).fill_(f64::NAN);
        let z = normal(2, &[4, Z_DIM]).to_kind(Kind::Float);
        let error = gan.iteration(&real, &z).unwrap_err().to_string();
        let after = gan.model.variables(Network::Generator);
        assert!(before.iter().zip(after).all(|(before, after)| *before == after.tensor));
        gan.ranks().unwrap().barrier().unwrap();
        error
    });
    assert_eq!(errors[0], "discriminator_loss is not finite at iteration 1");
    assert_eq!(errors[0], errors[1]);
}

/// Options of small runs whose ranks come to the same numbers up to rounding in float64.
const EXACT: &str = "--precision f64 --batch-size 5 --limit 17 --sample-every 0";

/// Asserts that the newest checkpoints of both runs hold the same values up to rounding.
fn assert_same_state(ours: &Path, theirs: &Path) -> Result<()> {
    let tensors = |run: &Path| -> Result<_> {
        Ok(TensorFile::read(&Folder::of_run(run).file(newest(run)?))?.tensors)
    };
    let (ours, theirs) = (tensors(ours)?, tensors(theirs)?);
    assert!(ours.keys().eq(theirs.keys()));
    for (name, theirs) in &theirs {
        let error = (&ours[name] - theirs).abs().max().double_value(&[]);
        let largest = theirs.abs().max().double_value(&[]);
        assert!(error <= 1e-8 + 1e-8 * largest, "{name}: {error:e}");
    }
    Ok(())
}

#[test]
fn runs_of_one_and_of_several_ranks_end_alike_and_resume_each_other() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    // The samples of an evaluation are more than a block, so that each rank makes some.
    let options = format!("{SMALL} {EXACT} --learning-rate 0.001 --eval-every 3 --eval-count 150");
    let run = |more: &str| train(at, &format!("train {options} --quiet {more}"));
    run("--run one --iterations 6");
    // The last batch of an epoch has 2 images, and there are 3 ranks.
    run("--run three --iterations 6 --ranks 3");
    assert_same_state(&at.join("three"), &at.join("one"))?;
    let evaluations = |run: &str| {
        let lines = std::fs::read_to_string(at.join(run).join("metrics.jsonl")).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap());
        let values = lines.map(|line: serde_json::Value| line["evaluation"].clone());
        values.filter(|value| !value.is_null()).collect::<Vec<_>>()
    };
    assert_eq!(evaluations("one").len(), 2);
    assert_eq!(evaluations("three"), evaluations("one"), "the same images");
    run("--run mixed --iterations 3 --ranks 2 --checkpoint-every 3");
    train(at, "train --resume mixed --iterations 5 --quiet");
    train(at, "train --resume mixed --iterations 6 --quiet --ranks 2");
    assert_same_state(&at.join("mixed"), &at.join("one"))?;
    let lines = std::fs::read_to_string(at.join("three/metrics.jsonl"))?;
    assert_eq!(lines.lines().filter(|line| line.contains("d_loss")).count(), 1, "{lines}");
    Ok(())
}

#[test]
fn all_ranks_roll_back_together() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    let ran = dcgan(at, &format!("{HOPELESS} --on-collapse rollback --run run --ranks 2"));
    ran.assert_refused("train", 1, &["rolled back 3 times"]);
    assert_eq!(ran.stderr.matches(", resuming with other noise").count(), 3, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("error: ").count(), 1, "{}", ran.stderr);
    Ok(())
}

#[test]
fn a_continued_run_begins_resumes_and_ends() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    let run = |more: &str| train(at, &format!("train {SMALL} --run it --continue {more}"));
    run("--iterations 2");
    assert_eq!(newest(&at.join("it"))?, 2);
    let told = run("--iterations 3 --ranks 2").stderr;
    assert!(told.contains("resuming after iteration 2 of 3"), "{told}");
    let told = run("--iterations 3 --ranks 2").stderr;
    assert!(told.contains("finished, all 3 iterations"), "{told}");
    // Where no checkpoint can be read, there is nothing to resume.
    for checkpoint in Folder::of_run(&at.join("it")).iterations()? {
        std::fs::write(Folder::of_run(&at.join("it")).file(checkpoint), "damaged")?;
    }
    let told = run("--iterations 2 --ranks 2").stderr;
    assert!(told.contains("warning: the run begins anew: "), "{told}");
    assert_eq!(newest(&at.join("it"))?, 2);
    let lines = std::fs::read_to_string(at.join("it/metrics.jsonl"))?;
    assert!(!lines.contains("\"iteration\":3"), "{lines}");
    // A checkpoint that cannot be read for now may well be whole.
    let newest = Folder::of_run(&at.join("it")).file(2);
    std::fs::rename(&newest, at.join("elsewhere"))?;
    std::fs::create_dir(&newest)?;
    let refused = dcgan(at, &format!("train {SMALL} --run it --continue --iterations 3"));
    refused.assert_refused("train", 1, &["iteration-000002.safetensors"]);
    std::fs::remove_dir(&newest)?;
    std::fs::rename(at.join("elsewhere"), &newest)?;
    let other = dcgan(at, &format!("train {SMALL} --run it --continue --batch-size 3"));
    other.assert_refused("--continue", 2, &["--continue: batch-size was 4 and is 3"]);
    Ok(())
}

/// Starts rank number `rank` of 2, as a launcher would.
fn start(at: &Path, rank: usize, port: u16, args: &str) -> Child {
    start_of(2, at, rank, port, args)
}

/// Starts rank number `rank` of `count`.
fn start_of(count: usize, at: &Path, rank: usize, port: u16, args: &str) -> Child {
    let mut command = command(at, args);
    let (count, port) = (count.to_string(), port.to_string());
    for (name, value) in
        [("WORLD_SIZE", &*count), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &*port)]
    {
        command.env(name, value);
    }
    let rank = rank.to_string();
    command.env("RANK", &rank).env("LOCAL_RANK", &rank).env("LOCAL_WORLD_SIZE", "2");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A port that nobody uses now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The exit code of a process and what it has written to standard error.
fn ended(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(!stderr.contains("panicked at"), "{stderr}");
    Ran { code: output.status.code(), stdout, stderr }
}

/// Waits until the run in `path` has a checkpoint of an iteration after its first one.
fn wait_for_checkpoint(path: &Path) {
    let start = Instant::now();
    while newest(path).unwrap_or(0) == 0 {
        assert!(start.elapsed() < Duration::from_secs(120), "nothing happens");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn where_a_rank_is_killed_the_other_ends_soon_with_a_whole_checkpoint() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    let args = |run: usize| {
        format!("train {SMALL} --run run{run} --iterations 100000 --checkpoint-every 2 --quiet")
    };
    for killed in [0, 1] {
        let port = free_port();
        let mut ranks = [0, 1].map(|rank| Some(start(at, rank, port, &args(killed))));
        let run = at.join(format!("run{killed}"));
        wait_for_checkpoint(&run);
        let mut victim = ranks[killed].take().unwrap();
        victim.kill().unwrap();
        let start = Instant::now();
        victim.wait().unwrap();
        let other = ended(ranks[1 - killed].take().unwrap());
        assert!(start.elapsed() < Duration::from_secs(10));
        let expected = format!("rank {}: ", 1 - killed);
        other.assert_refused("train", 1, &[&expected, "another rank has ended"]);
        Folder::of_run(&run).latest(u64::MAX, |error| panic!("{error:#}"))?;
    }
    Ok(())
}

#[test]
fn other_settings_a_wrong_number_of_ranks_and_a_taken_port_are_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    let args = format!("train {SMALL} --run run --timeout 20");
    let port = free_port();
    let other = format!("{args} --learning-rate 0.5");
    let ranks = [start(at, 0, port, &args), start(at, 1, port, &other)];
    for rank in ranks.map(ended) {
        let told = ["--learning-rate is 0.1 on rank 0 and 0.5 on rank 1"];
        rank.assert_refused("train", 2, &told);
    }
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let rank = ended(start(at, 0, taken.local_addr()?.port(), &args));
    rank.assert_refused("train", 1, &["rank 0 of 2", "is taken"]);
    let wrong = ended(start(at, 2, free_port(), &args));
    wrong.assert_refused("train", 2, &["RANK", "below WORLD_SIZE, 2, found 2"]);
    // Two processes of the same number, and two that were told of other numbers of ranks.
    let args = format!("train {SMALL} --run run --timeout 5");
    for (count, rank, told) in [(2, 0, "told to be rank 0"), (3, 1, "was told of")] {
        let port = free_port();
        let first = start(at, 0, port, &args);
        let mut other = start_of(count, at, rank, port, &args);
        let both = [ended(first), {
            let _ = other.wait();
            ended(other)
        }];
        let said: String = both.iter().map(|ran| ran.stderr.clone()).collect();
        assert!(both.iter().any(|ran| ran.code == Some(1)) && !said.is_empty(), "{said}");
        assert!(said.contains(told) || said.contains("is taken"), "{said}");
    }
    assert!(!at.join("run").exists());
    Ok(())
}

#[test]
fn other_images_on_another_rank_are_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let port = free_port();
    let args = "train --dataset npy:images.npy --range 0,1 --base-width 1 --batch-size 2 --run run";
    let mut ranks = Vec::new();
    for rank in [0_u8, 1] {
        // Each rank has a folder of its own, and in it a file of the same name.
        let at = folder.path().join(rank.to_string());
        std::fs::create_dir(&at)?;
        let images = Tensor::full([4, 32, 32], 0.5 * f64::from(rank), (Kind::Float, Device::Cpu));
        images.write_npy(at.join("images.npy"))?;
        ranks.push(start(&at, usize::from(rank), port, args));
    }
    for rank in ranks {
        ended(rank).assert_refused("train", 1, &["all ranks need the same data set"]);
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_signal_to_any_rank_ends_all_and_a_rank_that_hangs_is_not_waited_for_long() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    let send = |rank: &Child, signal| {
        // SAFETY: the process is a child that has not been waited for.
        unsafe { libc::kill(i32::try_from(rank.id()).unwrap(), signal) };
    };
    let begun = |run: &str, timeout: u64| {
        let options = "--iterations 100000 --checkpoint-every 2 --quiet";
        let args = format!("train {SMALL} --run {run} {options} --timeout {timeout}");
        let port = free_port();
        let ranks = [0, 1].map(|rank| start(at, rank, port, &args));
        wait_for_checkpoint(&at.join(run));
        ranks
    };
    let ranks = begun("ended", 60);
    send(&ranks[1], libc::SIGINT);
    for rank in ranks.map(ended) {
        assert_eq!(rank.code, Some(130), "{}", rank.stderr);
    }
    let [first, mut hanging] = begun("hung", 2);
    send(&hanging, libc::SIGSTOP);
    let start = Instant::now();
    ended(first).assert_refused("train", 1, &["rank 0: ", "the time limit is over"]);
    assert!(start.elapsed() < Duration::from_secs(20));
    hanging.kill()?;
    hanging.wait()?;
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn the_launcher_says_which_rank_was_killed_and_no_rank_is_left() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    let args = format!("train {SMALL} --run run --iterations 100000 --checkpoint-every 2 --quiet");
    let mut command = command(at, &format!("{args} --ranks 3"));
    let launcher = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    wait_for_checkpoint(&at.join("run"));
    let id = launcher.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    let victim: i32 = children.split_whitespace().nth(2).unwrap().parse()?;
    // SAFETY: it only sends a signal, to a child of the launcher, which has not waited for it.
    unsafe { libc::kill(victim, libc::SIGKILL) };
    let ran = ended(launcher);
    ran.assert_refused("train", 1, &["error: rank 2 was ended by signal 9"]);
    for child in children.split_whitespace() {
        assert!(!Path::new("/proc").join(child).exists());
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_signal_ends_all_ranks_with_a_checkpoint_and_a_kill_of_their_launcher_too() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    for (signal, code) in [(libc::SIGTERM, Some(143)), (libc::SIGKILL, None)] {
        let run = format!("run{signal}");
        let args = format!(
            "train {SMALL} --run {run} --iterations 100000 --checkpoint-every 2 --quiet --ranks 2"
        );
        let mut command = command(at, &args);
        let launcher = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        wait_for_checkpoint(&at.join(&run));
        // SAFETY: the process is a child that has not been waited for.
        unsafe { libc::kill(i32::try_from(launcher.id())?, signal) };
        // This waits until no rank has standard error open any more.
        let start = Instant::now();
        let ended = ended(launcher);
        assert!(start.elapsed() < Duration::from_secs(20));
        assert_eq!(ended.code, code, "{}", ended.stderr);
        let before = newest(&at.join(&run))?;
        if code.is_some() {
            assert!(ended.stderr.contains("SIGTERM after iteration"), "{}", ended.stderr);
        }
        thread::sleep(Duration::from_millis(300));
        assert_eq!(newest(&at.join(&run))?, before, "nobody trains any more");
    }
    Ok(())
}

#[test]
fn verify_trains_with_ranks_too() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/f64_gray_w2_5it.safetensors");
    let ran = dcgan(Path::new("."), &format!("verify --threads 2 --ranks 2 {file}"));
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stdout.matches("1 of 1 files agree").count(), 1, "{}", ran.stdout);
}
