//! `dcgan nearest`: generated images beside the nearest images of a data set.

use std::process::ExitCode;

use anyhow::Result;

use super::dataset::{load_with_progress, options_for_model};
use super::output::print;
use super::progress::{TaskProgress, say};
use crate::cli::NearestArgs;
use crate::cli::Verbosity;
use dcgan::data::ImageSet;
use dcgan::data::builtin::DIGITS;
use dcgan::error::Usage;
use dcgan::eval::neighbours::{CopyThreshold, Neighbour, nearest as nearest_in};
use dcgan::files::write_bytes;
use dcgan::record::grid::Picture;
use dcgan::rng::{Stream, rng, shuffled};
use dcgan::statistics::Sorted;

/// `dcgan nearest`.
///
/// # Errors
/// [`Usage`], if the flags ask for what is impossible or a file is there already; if the generator or the data
/// set cannot be read, or the picture cannot be written.
pub fn nearest(args: &NearestArgs) -> Result<ExitCode> {
    super::output::ensure_ending("--out", &args.out, &["png"])?;
    let (count, k) = (args.count as usize, args.neighbours as usize);
    super::output::ensure_free(&args.out, false, args.force)?;
    let sampler = super::generator::sampler(&args.generator)?;
    super::output::ensure_picture(count * (k + 1), sampler.shape(), args.scale as usize)?;
    let verbosity = Verbosity::unless(args.quiet);
    let dataset = args.dataset.as_deref().or(sampler.dataset()).unwrap_or(DIGITS);
    let options = options_for_model(&args.data, dataset, &sampler, verbosity)?;
    let set = load_with_progress(dataset, &options, verbosity)?;
    if set.channels() != sampler.channels() {
        let message = format!(
            "--dataset {dataset}: its images have {} channel(s), the generator's {}; name the set that it was trained on, or give --channels {}",
            set.channels(),
            sampler.channels(),
            sampler.channels()
        );
        return Err(Usage(message).into());
    }
    if set.count() <= k {
        let message = format!("--neighbours {k}: the data set has {} images", set.count());
        return Err(Usage(message).into());
    }
    let samples = sampler.sample(args.seed, count)?;
    // Real images and their nearest other ones tell which distances are usual in this set.
    let own = shuffled(&mut rng(args.seed, Stream::Subset, 1), set.count())?;
    let own = &own[..own.len().min(count.max(LEAST_REAL))];
    let real = set.rows(own.iter().copied())?;
    let mut work = TaskProgress::new(verbosity);
    work.comparisons(2 * set.count());
    let neighbours = nearest_in(&samples, &set, k, None, &mut |n| work.advance(n))?;
    let usual = nearest_in(&real, &set, 1, Some(own), &mut |n| work.advance(n))?;
    drop(work);

    let picture = rows(&samples, &neighbours, &set)?.scaled(args.scale as usize);
    write_bytes(&args.out, &picture.png()?)?;
    print(comparison(set.name(), &distances(&neighbours), &distances(&usual)).as_bytes())?;
    if !args.quiet {
        say(&format!("each generated image and its {k} nearest: {}", args.out.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The least number of real images whose nearest others tell what is usual.
const LEAST_REAL: usize = 200;

/// The distance of each image to its nearest neighbour.
fn distances(neighbours: &[Vec<Neighbour>]) -> Vec<f64> {
    neighbours.iter().map(|nearest| nearest[0].distance).collect()
}

/// What the distances of generated and of real images to the nearest image of the set say, in words.
fn comparison(set: &str, generated: &[f64], real: &[f64]) -> String {
    let threshold = CopyThreshold::among_real(real);
    let copies = threshold.count(generated);
    let sorted = |distances: &[f64]| Sorted::new(distances.iter().copied());
    let (ours, usual) = (sorted(generated), sorted(real));
    let count = ours.count();
    format!(
        "nearest image of `{set}` by pixels, root mean square in levels of 255:\n  \
         {count} generated images: median {:.1}, least {:.1}\n  \
         {} real images (to another one): median {:.1}, least {:.1}\n\
         {copies} of {count} generated images are nearer than the nearest 1 % of real ones ({:.1}){}\n",
        ours.quantile(1, 2),
        ours.least(),
        usual.count(),
        usual.quantile(1, 2),
        usual.least(),
        threshold.distance(),
        if copies * 20 > count && usual.count() >= LEAST_REAL {
            ": look at the picture, the model may copy"
        } else {
            ""
        }
    )
}

/// Each sample, with its neighbours on its right, in a row of its own.
fn rows(samples: &[u8], neighbours: &[Vec<Neighbour>], set: &ImageSet) -> Result<Picture> {
    let shape = set.shape();
    let mut pictures = Vec::new();
    for (sample, neighbours) in samples.chunks_exact(shape.len()).zip(neighbours) {
        let images = set.rows(neighbours.iter().map(|neighbour| neighbour.index))?;
        let left = Picture::grid(sample, shape.size, shape.channels, 1)?;
        let right = Picture::grid(&images, shape.size, shape.channels, neighbours.len())?;
        pictures.push(Picture::side_by_side(&left, &right)?);
    }
    Picture::stacked(&pictures)
}
