//! `dcgan interpolate`: walks through latent space.

use std::ops::Range;
use std::process::ExitCode;

use anyhow::Result;
use dcgan::error::Usage;
use dcgan::files::write_bytes;
use dcgan::record::grid::Picture;
use dcgan::record::movie::Movie;
use dcgan::rng::Latent;
use dcgan::sample::walk;

use super::generator::{classes_of, read_z, sampler};
use super::movie::ensure_rate;
use super::output::{columns_for, ending, ensure_ending, ensure_free, ensure_picture};
use super::progress::{TaskProgress, say};
use crate::cli::{InterpolateArgs, Verbosity};

/// `dcgan interpolate`.
///
/// # Errors
/// [`Usage`], if the flags ask for what cannot be or a file is there already; if the generator cannot be
/// read or the file cannot be written.
pub fn interpolate(args: &InterpolateArgs) -> Result<ExitCode> {
    ensure_ending("--out", &args.out, &["gif", "png", "mp4"])?;
    let is_strip = ending(&args.out) == "png";
    if !is_strip {
        ensure_rate(args.fps, &args.out)?;
    }
    ensure_free(&args.out, false, args.force)?;
    let sampler = sampler(&args.generator)?;
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
    let asked = classes_of(&sampler, &args.classes)?;
    let own = args.z.as_deref().map(|file| read_z(file, z_dim)).transpose()?;
    // From class to class, z stays as it is.
    let is_of_classes = own.is_none() && asked.len() > 1;
    if let Some(found) = args.keyframes.filter(|_| is_of_classes) {
        let message = format!(
            "--keyframes {found}: a walk from class to class has a keyframe for each --class"
        );
        return Err(Usage(message).into());
    }
    let (walks, keys) = match &own {
        Some(own) => (1, own.len() / z_dim),
        None if is_of_classes => (walks, asked.len()),
        None => (walks, keys),
    };
    let key = |walk: usize, i: usize| {
        let number = if is_of_classes { walk } else { walk * keys + i } as u64;
        let class = asked.get(i % asked.len().max(1)).copied();
        match (&own, class) {
            (Some(own), _) => sampler.input_of(&own[i * z_dim..][..z_dim], &asked, i),
            (None, Some(class)) => sampler.noise_of(args.seed, number, 1, &[class]),
            (None, None) => sampler.noise(args.seed, number, 1),
        }
    };
    let z_at = |walk: usize, frame: usize| {
        let frame = (frame, frames);
        let noise = |i: usize| key(walk, i)[..z_dim].to_vec();
        // Between two classes lies a mixture of both, whatever way z takes.
        let class = |i: usize| key(walk, i)[z_dim..].to_vec();
        let mut row = path.through(noise, keys, frame, !is_strip);
        row.extend(walk::Path::Linear.through(class, keys, frame, !is_strip));
        row
    };
    let scale = args.scale as usize;
    let mut work = TaskProgress::new(Verbosity::unless(args.quiet));
    let images = if is_strip { walks * frames } else { walks };
    let shape = sampler.shape();
    ensure_picture(images, shape, scale)?;
    if is_strip {
        work.images(walks * frames);
        let mut images = Vec::new();
        for walk in 0..walks {
            let z = |frames: Range<usize>| frames.flat_map(|frame| z_at(walk, frame)).collect();
            sampler.each(frames, &z, &mut |block| {
                images.extend_from_slice(block);
                work.advance(block.len() / sampler.image_len());
                Ok(())
            })?;
        }
        let picture = Picture::grid(&images, shape.size, shape.channels, frames)?.scaled(scale);
        write_bytes(&args.out, &picture.png()?)?;
    } else {
        work.images(frames);
        let columns = columns_for(walks);
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
