//! `dcgan plot`, `dcgan report` and `dcgan nearest`: what a run came to, for eyes.

use std::process::ExitCode;

use anyhow::Result;

use super::data::load_aloud;
use super::print;
use crate::cli::{NearestArgs, PlotArgs, ReportArgs};
use crate::data::builtin::DIGITS;
use crate::data::{ImageSet, Options};
use crate::error::Usage;
use crate::eval::neighbours::{Neighbour, is_copy, nearest as nearest_in, suspicious};
use crate::files::write_bytes;
use crate::record::grid::Picture;
use crate::record::jsonl::read_metrics;
use crate::record::plot::{CURVES, Plot};
use crate::record::progress::{Verbosity, Work, say};
use crate::rng::{Stream, permutation, rng};
use crate::run::list::{find, name_of};
use crate::run::resume::ensure_run;

/// `dcgan plot`.
///
/// # Errors
/// [`Usage`], if there is no such run, nothing is logged, or a file is there already; if it cannot be read or
/// written.
pub fn plot(args: &PlotArgs) -> Result<ExitCode> {
    super::ensure_ending("--out", &args.out, &["png", "svg"])?;
    if args.runs.len() > CURVES {
        let message = format!("{} runs: a plot tells {CURVES} apart at most", args.runs.len());
        return Err(Usage(message).into());
    }
    super::ensure_free(&args.out, false, args.force)?;
    let mut runs = Vec::new();
    for run in &args.runs {
        let path = find(run)?;
        ensure_run(&path)?;
        let file = path.join("metrics.jsonl");
        let metrics = if file.exists() { read_metrics(&file)? } else { Vec::new() };
        if metrics.is_empty() {
            return Err(Usage(format!("{}: nothing has been logged yet", path.display())).into());
        }
        let name = name_of(&path);
        // Of two of one name the paths tell which is which.
        let is_taken = runs.iter().any(|(other, _)| *other == name);
        runs.push((if is_taken { path.display().to_string() } else { name }, metrics));
    }
    let plot = Plot::of_runs(&runs);
    let bytes = if super::ending(&args.out) == "svg" {
        plot.svg()?.into_bytes()
    } else {
        plot.picture()?.png()?
    };
    write_bytes(&args.out, &bytes)?;
    say(&format!("{} run(s): {}", runs.len(), args.out.display()));
    Ok(ExitCode::SUCCESS)
}

/// `dcgan report`.
///
/// # Errors
/// [`Usage`], if there is no such run or a file is there already; as [`crate::record::report::html`].
pub fn report(args: &ReportArgs) -> Result<ExitCode> {
    super::ensure_ending("--out", &args.out, &["html"])?;
    super::ensure_free(&args.out, false, args.force)?;
    let run = find(&args.run)?;
    ensure_run(&run)?;
    write_bytes(&args.out, crate::record::report::html(&run)?.as_bytes())?;
    say(&format!("{}: {}", run.display(), args.out.display()));
    Ok(ExitCode::SUCCESS)
}

/// `dcgan nearest`.
///
/// # Errors
/// [`Usage`], if the flags ask for what cannot be or a file is there already; if the generator or the data
/// set cannot be read, or the picture not be written.
pub fn nearest(args: &NearestArgs) -> Result<ExitCode> {
    super::ensure_ending("--out", &args.out, &["png"])?;
    let (count, k) = (args.count as usize, args.neighbours as usize);
    super::ensure_free(&args.out, false, args.force)?;
    let sampler = super::sampler(&args.generator)?;
    super::ensure_picture(count * (k + 1), sampler.shape(), args.scale as usize)?;
    let verbosity = Verbosity::unless(args.quiet);
    let dataset = args.dataset.as_deref().or(sampler.dataset()).unwrap_or(DIGITS);
    let options = args.data.resolve(dataset, None)?.data();
    let options = Options { size: sampler.shape().size, ..options };
    let set = load_aloud(dataset, &options, verbosity)?;
    if set.channels() != sampler.channels() {
        let message = format!(
            "--dataset {dataset}: its images have {} channel(s), the generator's {}; name the set that it was trained on",
            set.channels(),
            sampler.channels()
        );
        return Err(Usage(message).into());
    }
    if set.count() <= k {
        let message = format!("--neighbours {k}: the data set has {} images", set.count());
        return Err(Usage(message).into());
    }
    let samples = sampler.sample(args.seed, count)?;
    // As many real images, and their nearest others: what is usual in this set.
    let own = permutation(&mut rng(args.seed, Stream::Subset, 1), u32::try_from(set.count())?);
    let own: Vec<usize> = own.into_iter().take(count.max(FLOOR)).map(|i| i as usize).collect();
    let real = set.rows(own.iter().copied())?;
    let mut work = Work::new(verbosity);
    work.comparisons(2 * set.count());
    let found = nearest_in(&samples, &set, k, None, &mut |n| work.advance(n))?;
    let usual = nearest_in(&real, &set, 1, Some(&own), &mut |n| work.advance(n))?;
    drop(work);

    let picture = rows(&samples, &found, &set)?.scaled(args.scale as usize);
    write_bytes(&args.out, &picture.png()?)?;
    let distances = |found: &[Vec<Neighbour>]| {
        let mut all: Vec<f64> = found.iter().map(|found| found[0].distance).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let (ours, theirs) = (distances(&found), distances(&usual));
    let median = |all: &[f64]| all[all.len() / 2];
    let suspicious = suspicious(&theirs);
    let copies = ours.iter().filter(|&&distance| is_copy(distance, suspicious)).count();
    let text = format!(
        "nearest image of `{}` by pixels, root mean square in levels of 255:\n  \
         {count} generated images: median {:.1}, least {:.1}\n  \
         {} real images (to another one): median {:.1}, least {:.1}\n\
         {copies} of {count} generated images are nearer than the nearest 1 % of real ones ({suspicious:.1}){}\n",
        set.name(),
        median(&ours),
        ours[0],
        theirs.len(),
        median(&theirs),
        theirs[0],
        if copies * 20 > count && theirs.len() >= FLOOR {
            ": look at the picture, the model may copy"
        } else {
            ""
        }
    );
    print(text.as_bytes())?;
    if !args.quiet {
        say(&format!("each generated image and its {k} nearest: {}", args.out.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Real images at least, whose nearest others tell what is usual.
const FLOOR: usize = 200;

/// Each sample on the left of its neighbours.
fn rows(samples: &[u8], found: &[Vec<Neighbour>], set: &ImageSet) -> Result<Picture> {
    let shape = set.shape();
    let mut pictures = Vec::new();
    for (sample, found) in samples.chunks_exact(shape.len()).zip(found) {
        let images = set.rows(found.iter().map(|neighbour| neighbour.index))?;
        let left = Picture::grid(sample, shape.size, shape.channels, 1)?;
        let right = Picture::grid(&images, shape.size, shape.channels, found.len())?;
        pictures.push(Picture::side_by_side(&left, &right)?);
    }
    Picture::stacked(&pictures)
}
