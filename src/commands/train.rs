//! `dcgan train`: begin a run, resume one, or fork one.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use dcgan::architecture::{Architecture, Network};
use dcgan::data::spec::{missing, portable};
use dcgan::data::{ImageSet, Options, SetIdentity};
use dcgan::device::{self, default_threads};
use dcgan::distributed::Ranks;
use dcgan::error::{Fixable, Usage};
use dcgan::eval::metric::Metric;
use dcgan::run::RunDir;
use dcgan::run::checkpoint::{Checkpoint, Origin};
use dcgan::run::list::find;
use dcgan::run::resume::{Saved, ensure_run, network_changes, ranks_of};
use dcgan::settings::{Change, Channels, OnCollapse, Switch, TrainConfig};
use dcgan::train::interrupt::{Interrupt, OnUsr};
use dcgan::train::memory::estimate;
use dcgan::train::{End, Job, Outcome, Work, is_divergence};
use tch::Device;

use super::dataset::{colours, load_with_progress};
use super::errors::{exit_code, print_error, print_warning};
use super::generator::{note_on, note_on_tf32};
use super::memory::{ensure_enough, told};
use super::output::{print, shell_quoted};
use super::progress::{Progress, say};
use super::ranks::{Member, Role, launch, print_error_of_rank};
use crate::cli::{TrainArgs, Verbosity};

/// `dcgan train`.
///
/// # Errors
/// As [`dcgan::train::train`], and [`Usage`].
pub fn train(args: &TrainArgs) -> Result<ExitCode> {
    // A signal that asks for a checkpoint may come before there is anything to save; it must not end the process.
    Interrupt::default().on_usr(args.on_usr)?;
    match Role::of(args.ranks)? {
        Role::Launcher(count) if !args.dry_run => {
            // What is wrong with the settings is said once, before there are ranks.
            if args.resumed().is_none() {
                args.resolve()?;
            }
            launch(count)
        }
        Role::Rank(place) if !args.dry_run => {
            let rank = place.share.rank;
            let told = |error: anyhow::Error| {
                print_error_of_rank(&error, rank, "train");
                Ok(exit_code(&error))
            };
            // Its errors name the rank.
            let among = Member::meet(place, args.timeout)?;
            let result = match rank {
                0 => as_first(args, Some(&among)),
                _ => assist(args, &among),
            };
            // Said before the connections are closed, which may take a while.
            result.or_else(told)
        }
        Role::Rank(place) if place.share.rank > 0 => Ok(ExitCode::SUCCESS),
        _ => as_first(args, None),
    }
}

fn as_first(args: &TrainArgs, ranks: Option<&Member>) -> Result<ExitCode> {
    match (args.resumed(), &args.fork) {
        (None, _) => begin(args, ranks),
        (Some(of), None) => resume(args, &of, ranks),
        (Some(of), Some(to)) => fork(args, &of, to, ranks),
    }
}

/// What a rank other than the first does.
fn assist(args: &TrainArgs, among: &Member) -> Result<ExitCode> {
    // Rank 0 has read the settings, which may come from a checkpoint. A flag that says otherwise is a mistake.
    let text = among.ranks.text_of_first("")?;
    let of_first: TrainConfig = toml::from_str(&text)?;
    let own = args.resolve_continued(&of_first)?;
    let rank = among.ranks.share().rank;
    let changes = of_first.all_changes(&own)?;
    let changes = changes.iter().filter(|change| !["device", "threads"].contains(&&*change.key));
    let refused = changes.into_iter().next().map(|Change { key, was, is }| {
        format!(
            "--{key} is {was} on rank 0 and {is} on rank {rank}; all ranks need the same settings"
        )
    });
    among.ensure_none_refuses(refused)?;
    let config = TrainConfig { device: own.device, threads: own.threads, ..of_first };
    let prepared = Prepared::with_config(args, config, None, Some(among), Verbosity::Quiet)?;
    let Prepared { config, device, set, interrupt, .. } = prepared;
    interrupt.on_end(args.on_usr)?;
    if among.ranks.text_of_first("")? != TRAINS {
        among.ranks.barrier()?;
        return Ok(ExitCode::SUCCESS);
    }
    among.ranks.first_alone(|| Ok(()))?;
    let ranks = Rc::clone(&among.ranks);
    let end =
        dcgan::train::assist(Work { config: &config, device, set, ranks, interrupt: &interrupt })?;
    Ok(match end {
        End::Finished => ExitCode::SUCCESS,
        End::Interrupted(signal) => ExitCode::from(signal.exit_code()),
    })
}

/// What rank 0 says where it is going to train.
const TRAINS: &str = "train";

/// Says to the other ranks whether there is something to train.
fn go_on(ranks: Option<&Member>, trains: bool) -> Result<()> {
    let Some(among) = ranks else { return Ok(()) };
    among.ranks.text_of_first(if trains { TRAINS } else { "" })?;
    // None ends while another needs it.
    if trains { Ok(()) } else { among.ranks.barrier() }
}

/// Checks that all ranks have loaded the same images.
fn ensure_same_set(ranks: &Ranks, identity: &SetIdentity) -> Result<()> {
    let own = serde_json::to_string(identity)?;
    let all = ranks.texts(&own)?;
    for (rank, of_rank) in all.iter().enumerate() {
        ensure!(
            *of_rank == all[0],
            "rank 0 has the images {}, and rank {rank} has {of_rank}; all ranks need the same data set",
            all[0]
        );
    }
    Ok(())
}

fn begin(args: &TrainArgs, ranks: Option<&Member>) -> Result<ExitCode> {
    let resolved = args.resolve()?;
    let prepared = Prepared::new(args, resolved.config, None, ranks)?;
    let asked = resolved.run.as_deref();
    if args.dry_run {
        if let Some(run) = asked {
            RunDir::check(run)?;
        }
        return prepared.print_plan("");
    }
    let run = RunDir::create(asked, &portable(&prepared.config.dataset))?;
    prepared.train(&run, None, ranks)
}

fn resume(args: &TrainArgs, of: &Path, ranks: Option<&Member>) -> Result<ExitCode> {
    let path = find(of)?;
    if path.is_file() {
        let message = "a run resumes from its newest checkpoint: give its folder, or --fork NEWRUN to \
                       start another from this file";
        return Err(Usage(format!("--resume {}: {message}", path.display())).into());
    }
    ensure_run(&path)?;
    // A dry run writes nothing, not even a lock.
    let run = if args.dry_run { None } else { Some(RunDir::open(&path)?) };
    let saved = match Saved::read(&path, print_warning) {
        Err(error) if args.is_continued && is_lost(&error) => {
            print_warning(&error.context("the run begins anew"));
            Saved::without_checkpoint(&path)?
        }
        saved => saved?,
    };
    let found = saved.checkpoint.as_ref().map(|checkpoint| checkpoint.header.set.channels);
    let prepared = Prepared::new(args, args.resolve_continued(&saved.config)?, found, ranks)?;
    let keeps_networks = saved.config.network_changes(&prepared.config)?.is_empty();
    refuse(
        if args.is_continued { "--continue" } else { "--resume" },
        &saved.changes(&prepared.config, &prepared.identity)?,
        if keeps_networks {
            "a resumed run is the same run, whatever flags or its config.toml say now; with --fork NEWRUN another \
             starts from its checkpoint"
        } else {
            "a resumed run is the same run, and its networks keep their shapes; begin another with --run NEWRUN"
        },
    )?;
    let (iteration, total) = (saved.iteration(), prepared.total());
    if iteration > total {
        let message = format!(
            "--resume {}: the run is at iteration {iteration} already, and {total} are asked for; \
             expected more --iterations or --epochs",
            path.display()
        );
        return Err(Usage(message).into());
    }
    let Some(run) = run else {
        return prepared.print_plan(&resuming(iteration, total));
    };
    if iteration == total && RunDir::is_finished(&path) {
        if prepared.verbosity > Verbosity::Quiet {
            say(&format!(
                "{}: finished, all {total} iterations; with more --epochs or --iterations it resumes",
                path.display()
            ));
        }
        if args.film {
            make_film(&path, prepared.verbosity);
        }
        go_on(ranks, false)?;
        return Ok(ExitCode::SUCCESS);
    }
    prepared.warn_of_other_bits(&saved);
    let (was, is) = (ranks_of(&path), ranks.map_or(1, |among| among.ranks.share().count));
    if was != is && iteration > 0 {
        say(&format!(
            "note: the number of ranks was {was} and is {is}: the run resumes, but perhaps not bit for bit as it would have continued"
        ));
    }
    run.reopen()?;
    prepared.train(&run, saved.checkpoint, ranks)
}

fn fork(args: &TrainArgs, of: &Path, to: &Path, ranks: Option<&Member>) -> Result<ExitCode> {
    let path = find(of)?;
    RunDir::check(to)?;
    if to.starts_with(&path) {
        let message = "is within the run that is to be left as it is; name another folder";
        return Err(Usage(format!("--fork {}: {message}", to.display())).into());
    }
    let checkpoint = if path.is_file() {
        let advice = "expected a checkpoint, such as RUN/checkpoints/iteration-000500.safetensors; `dcgan import` makes \
                      one of exported weights";
        Checkpoint::load(&path).context(advice)?
    } else {
        let saved = Saved::read(&path, print_warning)?;
        let none = || format!("{}: there is no checkpoint yet", path.display());
        saved.checkpoint.with_context(none)?
    };
    let found = Some(checkpoint.header.set.channels);
    let config = args.resolve_on(&checkpoint.header.config)?;
    let prepared = Prepared::new(args, config, found, ranks)?;
    refuse(
        "--fork",
        &network_changes(&checkpoint, &prepared.config, &prepared.identity)?,
        "a checkpoint's networks keep their shapes",
    )?;
    let (iteration, total) = (checkpoint.header.iteration, prepared.total());
    if iteration >= total {
        let message = format!(
            "--fork {}: the checkpoint is at iteration {iteration}, and {total} are asked for; expected \
             more --iterations or --epochs",
            to.display()
        );
        return Err(Usage(message).into());
    }
    if args.dry_run {
        return prepared.print_plan(&resuming(iteration, total));
    }
    let run = RunDir::create(Some(to), &portable(&prepared.config.dataset))?;
    prepared.train(&run, Some(checkpoint.fork()), ranks)
}

/// Whether a run has trained, and none of its checkpoints can be read.
fn is_lost(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Fixable::StateIsLost { .. }))
}

/// Ends a command whose `flag` allows no `changes`.
fn refuse(flag: &str, changes: &[Change], why: &str) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let told = changes.iter().map(|Change { key, was, is }| format!("{key} was {was} and is {is}"));
    Err(Usage(format!("{flag}: {}; {why}", told.collect::<Vec<_>>().join(", "))).into())
}

fn resuming(iteration: u64, total: u64) -> String {
    format!("resuming after iteration {iteration} of {total}")
}

/// The error that the data set of a run that is to be resumed is not at `path`.
fn is_missing(run: &Path, dataset: &str, path: &Path) -> Usage {
    Usage(format!(
        "--resume {}: its data set is `{dataset}`, and there is nothing at {}; --dataset SPEC can name another place of \
         the same images",
        run.display(),
        path.display()
    ))
}

/// What is known before the first file is written.
struct Prepared {
    config: TrainConfig,
    device: Device,
    /// How the device was chosen.
    note: Option<&'static str>,
    set: ImageSet,
    identity: SetIdentity,
    architecture: Architecture,
    /// The bytes of memory that training is expected to take.
    memory: u64,
    verbosity: Verbosity,
    /// Whether a film is made at the end.
    film: bool,
    interrupt: Interrupt,
    on_usr: OnUsr,
}

impl Prepared {
    /// `found` are the channels that the images of a run had when it was begun.
    fn new(
        args: &TrainArgs,
        config: TrainConfig,
        found: Option<usize>,
        ranks: Option<&Member>,
    ) -> Result<Self> {
        if let Some(among) = ranks {
            among.ranks.text_of_first(&toml::to_string(&config)?)?;
            among.ensure_none_refuses(None)?;
        }
        Self::with_config(args, config, found, ranks, args.verbosity())
    }

    fn with_config(
        args: &TrainArgs,
        mut config: TrainConfig,
        found: Option<usize>,
        ranks: Option<&Member>,
        verbosity: Verbosity,
    ) -> Result<Self> {
        let interrupt = Interrupt::default();
        interrupt.on_usr(args.on_usr)?;
        // A wrong name is refused although nothing may be measured, and before a data set is fetched.
        let metric =
            Metric::that_decides(&config.eval_metric).map_err(|error| args.with_its_file(error))?;
        let threads = config
            .threads
            .unwrap_or_else(|| ranks.map_or_else(default_threads, Member::default_threads));
        let own_threads = ranks.map_or(threads, |among| among.part_of(threads));
        device::configure(own_threads, config.tf32 == Switch::On)?;
        let kind = config.precision.kind();
        let device = match ranks {
            None => device::resolve(config.device, kind)?,
            Some(among) => among.device(config.device, kind)?,
        };
        let note = note_on(config.device, device);
        let is_first = ranks.is_none_or(|among| among.ranks.is_first());
        if is_first {
            note_on_tf32(config.tf32, device);
            for (flag, is_given) in [
                ("--graph", config.graph.is_some()),
                ("--deterministic", config.deterministic.is_on()),
            ] {
                if is_given && !device.is_cuda() {
                    say(&format!("note: {flag} changes nothing here: it is for CUDA"));
                }
            }
        }
        // What was left open is settled now, so that the run's record can repeat it.
        config.device = device.into();
        config.threads = Some(threads);
        let load_as = |options: &Options| match is_first {
            true => load_with_progress(&config.dataset, options, verbosity),
            false => dcgan::data::load(&config.dataset, options, &mut |_| {}),
        };
        let load = || load_as(&config.data());
        let set = match ranks {
            None => load(),
            Some(among) => among.load(load),
        };
        let set = set.map_err(|error| match (args.resumed(), missing(&config.dataset)) {
            (Some(run), Some(path)) if !args.gives("dataset") => {
                is_missing(&run, &config.dataset, &path).into()
            }
            _ => error,
        })?;
        // Version 0.3 counted gray images that are stored in colour as colour.
        let set = match found.filter(|&found| found != set.channels() && ranks.is_none()) {
            Some(found) if config.channels == Channels::Auto => {
                say(&format!(
                    "warning: the images of {} are {}; they are read {}, as the networks are that go on",
                    config.dataset,
                    colours(set.channels()),
                    colours(found)
                ));
                load_as(&Options { channels: Some(found), ..config.data() })?
            }
            _ => set,
        };
        let config = config.with_size(set.shape().size)?;
        let identity = set.identity_for(config.conditional.is_on())?;
        if let Some(among) = ranks {
            ensure_same_set(&among.ranks, &identity)?;
        }
        let architecture = Architecture::new(config.model(set.shape(), identity.class_count()))?;
        let memory = estimate(&architecture, &config);
        // What a GPU takes, and has, is not known here.
        if device == Device::Cpu && is_first {
            ensure_enough(memory)?;
        }
        super::evaluator::ensure_possible(&config, metric, &set)?;
        if config.batch_size > set.count() && is_first {
            say(&format!(
                "warning: --batch-size {}: there are {} images, so each batch of real images is the whole set",
                config.batch_size,
                set.count()
            ));
        }
        // Messages so far name paths as they were given.
        let config = config.with_absolute_paths()?;
        let (film, on_usr) = (args.film, args.on_usr);
        Ok(Self {
            config,
            device,
            note,
            set,
            identity,
            architecture,
            memory,
            verbosity,
            film,
            interrupt,
            on_usr,
        })
    }

    fn total(&self) -> u64 {
        self.config.total_iterations(self.set.per_epoch(self.config.batch_size))
    }

    /// Prints the plan, and `resuming` where a run is resumed or forked.
    fn print_plan(self, resuming: &str) -> Result<ExitCode> {
        let mut plan = self.plan()?;
        if !resuming.is_empty() {
            writeln!(plan, "\n# {resuming}")?;
        }
        if let Some(note) = self.note.filter(|_| self.verbosity > Verbosity::Quiet) {
            say(note);
        }
        print(plan.as_bytes())
    }

    /// The resolved configuration and the layers, as `--dry-run` prints them.
    fn plan(&self) -> Result<String> {
        let Self { config, set, architecture, memory, .. } = self;
        let mut text = toml::to_string(config)?;
        let per_epoch = set.per_epoch(config.batch_size);
        let total = config.total_iterations(per_epoch);
        let size = set.shape().size;
        writeln!(
            text,
            "\n# {} images of {}×{}, {} channel(s), {per_epoch} iterations an epoch, {total} in all",
            set.count(),
            size.width,
            size.height,
            set.channels()
        )?;
        for network in Network::ALL {
            let rows = architecture.table(network);
            writeln!(text, "\n{:<36} {:>14} {:>12}", network.name(), "output", "parameters")?;
            for row in &rows {
                writeln!(text, "  {:<34} {:>14} {:>12}", row.layer, row.output, row.parameters)?;
            }
            let sum: i64 = rows.iter().map(|row| row.parameters).sum();
            writeln!(text, "  {:<34} {:>14} {sum:>12}", "all", "")?;
        }
        writeln!(text, "\n# on the CPU, training takes about {} of memory", told(*memory))?;
        Ok(text)
    }

    /// Warns where a resumed run cannot be expected to come to the same bits.
    fn warn_of_other_bits(&self, saved: &Saved) {
        let Some(Checkpoint { header, .. }) = &saved.checkpoint else { return };
        let (was, is) = (&header.config, &self.config);
        let (origin_was, origin_is) = (&header.origin, Origin::here());
        let threads = |config: &TrainConfig| config.threads.unwrap_or_default().to_string();
        let every = |config: &TrainConfig| config.checkpoint_every.to_string();
        // A rollback goes to a checkpoint.
        let rolls_back = is.on_collapse == OnCollapse::Rollback;
        for (what, was, is) in [
            ("threads", threads(was), threads(is)),
            ("device", was.device.to_string(), is.device.to_string()),
            ("libtorch", origin_was.libtorch.clone(), origin_is.libtorch),
            ("dcgan", origin_was.dcgan.clone(), origin_is.dcgan),
            ("cpu", origin_was.cpu.clone(), origin_is.cpu),
            ("checkpoint-every", every(was), if rolls_back { every(is) } else { every(was) }),
        ] {
            if was != is {
                say(&format!(
                    "warning: {what} was {was} and is {is}: the run resumes, but perhaps not bit for bit as it would have continued"
                ));
            }
        }
    }

    fn train(
        self,
        run: &RunDir,
        from: Option<Checkpoint>,
        ranks: Option<&Member>,
    ) -> Result<ExitCode> {
        go_on(ranks, true)?;
        let total = self.total();
        let plan = (self.verbosity == Verbosity::Verbose).then(|| self.plan()).transpose()?;
        let Self { config, device, note, set, verbosity, film, interrupt, on_usr, .. } = self;
        let evaluator = || super::evaluator::evaluator(&config, &set, device, verbosity);
        let evaluator = match ranks {
            None => evaluator()?,
            // It may have to train a classifier first.
            Some(among) => among.ranks.first_alone(evaluator)?.flatten(),
        };
        let progress = Progress::new(verbosity, total);
        if let Some(plan) = plan {
            progress.note(&plan);
        }
        if let Some(note) = note {
            progress.note(note);
        }
        let path = run.path().display().to_string();
        if let Some(checkpoint) = &from {
            let iteration = checkpoint.header.iteration;
            progress.note(&resuming(iteration, total));
        }
        progress.note(&format!(
            "training on {} images of `{}` on {}, {} threads{}; everything goes to {path}",
            set.count(),
            set.name(),
            config.device,
            config.threads.unwrap_or_default(),
            match ranks {
                None => String::new(),
                Some(among) => format!(", {} ranks", among.ranks.share().count),
            }
        ));
        interrupt.on_end(on_usr)?;
        let job = Job {
            config: &config,
            device,
            set,
            run,
            from,
            how_to_repeat: Some("dcgan train --config THIS_FILE"),
            progress: &progress,
            interrupt: &interrupt,
            evaluator,
        };
        let outcome = dcgan::train::train_among(job, ranks.map(|among| Rc::clone(&among.ranks)));
        // The bar must not come between the last lines.
        drop(progress);
        match outcome {
            Ok(outcome) => {
                let code = report(&outcome, total, &path, verbosity);
                if film && matches!(outcome.end, End::Finished) {
                    make_film(run.path(), verbosity);
                }
                Ok(code)
            }
            Err(error) => {
                if ranks.is_some() {
                    print_error_of_rank(&error, 0, "train");
                } else {
                    print_error(&error, "train");
                }
                if let Some(iteration) = run.checkpoints().iterations().unwrap_or_default().last() {
                    let what_to_do = match ranks.is_some() && !is_divergence(&error) {
                        true => "start the job again, with --continue".to_owned(),
                        false => remedy(&error, &config, &path),
                    };
                    say(&format!("the state after iteration {iteration} is kept; {what_to_do}"));
                } else {
                    say(
                        "no state is kept; once the cause is corrected, run the same command again",
                    );
                }
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

/// The film of a run that is finished, whatever becomes of it.
fn make_film(run: &Path, verbosity: Verbosity) {
    match super::movie::of_finished_run(run, verbosity) {
        Ok(film) if verbosity > Verbosity::Quiet => say(&format!("the film: {}", film.display())),
        Ok(_) => {}
        Err(error) => print_warning(&error),
    }
}

/// Says how the run ended.
fn report(outcome: &Outcome, total: u64, path: &str, verbosity: Verbosity) -> ExitCode {
    let Outcome { end, iterations, last, checkpoints_s } = outcome;
    match *end {
        End::Interrupted(signal) => {
            say(&format!(
                "{} after iteration {iterations} of {total}; nothing is lost: {}",
                signal.name,
                how_to_resume(path)
            ));
            ExitCode::from(signal.exit_code())
        }
        End::Finished => {
            if verbosity > Verbosity::Quiet
                && let Some(last) = last
            {
                say(&format!(
                    "done: {iterations} iterations in {:.0} s; d_loss {:.4}, g_loss {:.4}; look at {path}/real_vs_generated.png",
                    last.elapsed_s, last.d_loss, last.g_loss
                ));
            }
            if verbosity == Verbosity::Verbose {
                say(&format!("writing checkpoints took {checkpoints_s:.2} s"));
            }
            ExitCode::SUCCESS
        }
    }
}

/// What to do with the run in `path`, which `error` has ended.
fn remedy(error: &anyhow::Error, config: &TrainConfig, path: &str) -> String {
    let resume = how_to_resume(path);
    if !is_divergence(error) {
        return format!("once the cause is corrected: {resume}");
    }
    // The same settings would come to the same end.
    let fork = format!("with other settings: {resume} --fork NEWRUN --learning-rate X");
    if config.on_collapse == OnCollapse::Rollback {
        return fork;
    }
    format!("with other noise: {resume} --on-collapse rollback; {fork}")
}

/// The command that resumes the run in `path`.
fn how_to_resume(path: &str) -> String {
    format!("dcgan train --resume {}", shell_quoted(path))
}
