//! `dcgan interpolate` and `dcgan film`: pictures in motion.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use super::sample::read_z;
use crate::cli::{FilmArgs, InterpolateArgs};
use crate::error::Usage;
use crate::files::write_bytes;
use crate::record::grid::Picture;
use crate::record::movie::{GIF_FPS, Movie, is_mp4};
use crate::record::plot::{label, thousands};
use crate::record::progress::{Verbosity, Work, say};
use crate::rng::Latent;
use crate::run::list::find;
use crate::run::resume::ensure_run;
use crate::run::{FILM, RunDir};
use crate::sample::walk;

/// A film is enlarged up to so many pixels in width: twice the usual grid.
const LARGE: usize = 410;
/// How long a film's last frame stays.
const REST_S: f64 = 2.0;

/// `dcgan interpolate`.
///
/// # Errors
/// [`Usage`], if the flags ask for what cannot be or a file is there already; if the generator cannot be
/// read or the file cannot be written.
pub fn interpolate(args: &InterpolateArgs) -> Result<ExitCode> {
    super::ensure_ending("--out", &args.out, &["gif", "png", "mp4"])?;
    let is_strip = super::ending(&args.out) == "png";
    if !is_strip {
        ensure_rate(args.fps, &args.out)?;
    }
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
    let own = args.z.as_deref().map(|file| read_z(file, z_dim)).transpose()?;
    let (walks, keys) = match &own {
        Some(own) => (1, own.len() / z_dim),
        None => (walks, keys),
    };
    let key = |walk: usize, i: usize| match &own {
        Some(own) => own[i * z_dim..][..z_dim].to_vec(),
        None => sampler.noise(args.seed, (walk * keys + i) as u64, 1),
    };
    let z_at = |walk: usize, frame: usize| {
        path.through(|i| key(walk, i), keys, (frame, frames), !is_strip)
    };
    let scale = args.scale as usize;
    let mut work = Work::new(Verbosity::unless(args.quiet));
    let images = if is_strip { walks * frames } else { walks };
    let shape = sampler.shape();
    super::ensure_picture(images, shape, scale)?;
    if is_strip {
        work.images(walks * frames);
        let mut images = Vec::new();
        for walk in 0..walks {
            let z: Vec<f32> = (0..frames).flat_map(|frame| z_at(walk, frame)).collect();
            sampler.each(&z, &mut |block| {
                images.extend_from_slice(block);
                work.advance(block.len() / sampler.image_len());
                Ok(())
            })?;
        }
        let picture = Picture::grid(&images, shape.size, shape.channels, frames)?.scaled(scale);
        write_bytes(&args.out, &picture.png()?)?;
    } else {
        work.images(frames);
        let columns = super::columns_for(walks);
        let frame = |i: usize| -> Result<Picture> {
            let z: Vec<f32> = (0..walks).flat_map(|walk| z_at(walk, i)).collect();
            let images = sampler.all(&z)?;
            let picture = Picture::grid(&images, shape.size, shape.channels, columns)?;
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

/// Whether a film of this name may have so many frames a second.
fn ensure_rate(fps: f64, out: &Path) -> Result<()> {
    if fps > GIF_FPS && !is_mp4(out) {
        let message = format!(
            "--fps {fps}: a GIF has up to {GIF_FPS} frames a second, browsers slow down more; an .mp4 may have more"
        );
        return Err(Usage(message).into());
    }
    Ok(())
}

/// `dcgan film`.
///
/// # Errors
/// [`Usage`], if there is no such run, it has no samples, or a file is there already; if a sample cannot be
/// read or the film cannot be written.
pub fn film(args: &FilmArgs) -> Result<ExitCode> {
    super::ensure_ending("--out", &args.out, &["gif", "mp4"])?;
    ensure_rate(args.fps, &args.out)?;
    super::ensure_free(&args.out, false, args.force)?;
    let run = find(&args.run)?;
    ensure_run(&run)?;
    let verbosity = Verbosity::unless(args.quiet);
    let frames = shoot(&run, &args.out, args.fps, args.scale.map(usize::from), verbosity)?;
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
    let broken = |path: &Path| format!("{}: is none of the run's grids; remove it", path.display());
    let Some((_, first)) = samples.first() else {
        let message = format!(
            "{}: the run has no samples yet; it writes one every --sample-every iterations",
            run.display()
        );
        return Err(Usage(message).into());
    };
    let first = Picture::read(first).with_context(|| broken(first))?;
    let scale = scale.unwrap_or_else(|| (LARGE / first.width.max(1)).max(1));
    let height = 18.max(first.height * scale / 20);
    let frame = |i: usize| -> Result<Picture> {
        let (iteration, path) = &samples[i];
        let picture = Picture::read(path).with_context(|| broken(path))?;
        let is_alike = (picture.width, picture.height, picture.channels)
            == (first.width, first.height, first.channels);
        ensure!(is_alike, "{}, or the others: they differ in size or colour", broken(path));
        let picture = picture.scaled(scale);
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
