//! `dcgan interpolate` and `dcgan film`: pictures in motion.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::sample::read_z;
use crate::cli::{FilmArgs, InterpolateArgs};
use crate::data::SIZE;
use crate::record::grid::Picture;
use crate::record::movie::Movie;
use crate::record::plot::{label, thousands};
use crate::record::progress::{Verbosity, Work, say};
use crate::rng::Latent;
use crate::runs::find;
use crate::tensor_file::write_bytes;
use crate::train::RunDir;
use crate::train::resume::ensure_run;
use crate::usage::Usage;
use crate::walk;

/// Pixels of images in a strip at most: it is held in memory.
const STRIP_LIMIT: usize = 100_000_000;
/// A film is enlarged up to so many pixels in width: twice the usual grid.
const LARGE: usize = 410;
/// How long a film's last frame stays.
const REST_S: f64 = 2.0;
/// The file that `train --film` writes into the run's folder.
const FILM: &str = "film.gif";

/// `dcgan interpolate`.
///
/// # Errors
/// [`Usage`], if the flags ask for what cannot be or a file is there already; if the generator cannot be
/// read or the file cannot be written.
pub fn interpolate(args: &InterpolateArgs) -> Result<ExitCode> {
    let is_strip = match ending(&args.out).as_str() {
        "png" => true,
        "gif" | "mp4" => false,
        _ => return Err(wrong_ending(&args.out, ".gif, .png or .mp4")),
    };
    super::ensure_free(&args.out, false, args.force)?;
    let sampler = super::sampler(&args.generator)?;
    let z_dim = sampler.z_dim();
    let (frames, default_keys, default_walks) = if is_strip { (16, 4, 8) } else { (60, 8, 16) };
    let frames = args.frames.map_or(frames, |frames| frames as usize);
    let walks = args.walks.map_or(default_walks, |walks| walks as usize);
    let keys = args.keyframes.map_or(default_keys, |keys| keys as usize);
    let path = match (args.linear, args.slerp) {
        (true, _) => walk::Path::Linear,
        (_, true) => walk::Path::Spherical,
        _ if sampler.latent() == Latent::Normal => walk::Path::Spherical,
        _ => walk::Path::Linear,
    };
    // Each walk's keys, one after the other.
    let keys: Vec<Vec<f32>> = match &args.z {
        Some(file) => vec![read_z(file, z_dim)?],
        None => {
            let walk = |walk| sampler.noise(args.seed, (walk * keys) as u64, keys);
            (0..walks).map(walk).collect()
        }
    };
    let walks = keys.len();
    let z_at = |keys: &[f32], frame: usize| path.through(keys, z_dim, (frame, frames), !is_strip);
    let scale = args.scale as usize;
    let mut work = Work::new(if args.quiet { Verbosity::Quiet } else { Verbosity::Normal });
    if is_strip {
        let pixels = walks * frames * SIZE * SIZE * scale * scale;
        if pixels > STRIP_LIMIT {
            let message =
                format!("--frames {frames}: a strip of so many images is too large for a picture");
            return Err(Usage(message).into());
        }
        work.images(walks * frames);
        let mut images = Vec::new();
        for keys in &keys {
            let z: Vec<f32> = (0..frames).flat_map(|frame| z_at(keys, frame)).collect();
            sampler.each(&z, &mut |block| {
                images.extend_from_slice(block);
                work.advance(block.len() / sampler.image_len());
                Ok(())
            })?;
        }
        let picture = Picture::grid(&images, SIZE, sampler.channels(), frames)?.scaled(scale);
        write_bytes(&args.out, &picture.png()?)?;
    } else {
        work.images(frames);
        let columns = columns_for(walks);
        let frame = |i: usize| -> Result<Picture> {
            let z: Vec<f32> = keys.iter().flat_map(|keys| z_at(keys, i)).collect();
            let mut images = Vec::new();
            sampler.each(&z, &mut |block| {
                images.extend_from_slice(block);
                Ok(())
            })?;
            let picture = Picture::grid(&images, SIZE, sampler.channels(), columns)?;
            Ok(picture.scaled(scale))
        };
        let movie = Movie { count: frames, fps: args.fps, rest_s: 0.0, frame: &frame };
        movie.write(&args.out, &mut || work.advance(1))?;
    }
    drop(work);
    if !args.quiet {
        let what = if is_strip { "images" } else { "frames" };
        say(&format!("{walks} walk(s) of {frames} {what}: {}", args.out.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Columns of a picture that is as square as its images allow.
fn columns_for(count: usize) -> usize {
    count.isqrt() + usize::from(count.isqrt().pow(2) < count)
}

/// `dcgan film`.
///
/// # Errors
/// [`Usage`], if there is no such run, it has no samples, or a file is there already; if a sample cannot be
/// read or the film cannot be written.
pub fn film(args: &FilmArgs) -> Result<ExitCode> {
    if !["gif", "mp4"].contains(&ending(&args.out).as_str()) {
        return Err(wrong_ending(&args.out, ".gif or .mp4"));
    }
    super::ensure_free(&args.out, false, args.force)?;
    let run = find(&args.run)?;
    ensure_run(&run)?;
    let frames = shoot(&run, &args.out, args.fps, args.scale.map(usize::from), Verbosity::Normal)?;
    if !args.quiet {
        say(&format!("{frames} frames: {}", args.out.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the film of the run in `run` into its folder.
///
/// # Errors
/// As [`film`].
pub(super) fn of_finished_run(run: &Path, verbosity: Verbosity) -> Result<PathBuf> {
    let out = run.join(FILM);
    shoot(run, &out, 8.0, None, verbosity)?;
    Ok(out)
}

/// The run's grids in order, the iteration below each; how many there are.
fn shoot(
    run: &Path,
    out: &Path,
    fps: f64,
    scale: Option<usize>,
    verbosity: Verbosity,
) -> Result<usize> {
    let samples: Vec<_> = RunDir::samples_of(run)?.into_iter().collect();
    let Some((_, first)) = samples.first() else {
        let message = format!(
            "{}: the run has no samples yet; it writes one every --sample-every iterations",
            run.display()
        );
        return Err(Usage(message).into());
    };
    let first = Picture::read(first)?;
    let scale = scale.unwrap_or_else(|| (LARGE / first.width.max(1)).max(1));
    let height = 18.max(first.height * scale / 20);
    let frame = |i: usize| -> Result<Picture> {
        let (iteration, path) = &samples[i];
        let picture = Picture::read(path)?.scaled(scale);
        let text = format!("iteration {}", thousands(i64::try_from(*iteration)?));
        let caption = label(&text, picture.width, height, picture.channels)?;
        Picture::stacked(&[picture, caption])
    };
    let mut work = Work::new(verbosity);
    work.frames(samples.len());
    let movie = Movie { count: samples.len(), fps, rest_s: REST_S, frame: &frame };
    movie.write(out, &mut || work.advance(1)).context("the film cannot be made")?;
    Ok(samples.len())
}

/// What a file's name ends in, in small letters.
pub(super) fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

pub(super) fn wrong_ending(path: &Path, expected: &str) -> anyhow::Error {
    Usage(format!("--out {}: expected a name that ends in {expected}", path.display())).into()
}
