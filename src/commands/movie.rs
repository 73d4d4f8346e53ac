//! The film of a run's samples, which `film` makes when asked and `train` at its end.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use dcgan::error::Usage;
use dcgan::record::grid::Picture;
use dcgan::record::movie::{GIF_FPS, Movie, is_mp4};
use dcgan::record::numbers::thousands;
use dcgan::record::plot::label;
use dcgan::run::{FILM, RunDir};

use super::progress::TaskProgress;
use crate::cli::Verbosity;

/// A film is enlarged up to so many pixels in width: twice the usual grid.
const LARGE: usize = 410;

/// How long a film's last frame stays.
const REST_S: f64 = 2.0;

/// Whether a film of this name may have so many frames a second.
pub(super) fn ensure_rate(fps: f64, out: &Path) -> Result<()> {
    if fps > GIF_FPS && !is_mp4(out) {
        let message = format!(
            "--fps {fps}: a GIF has up to {GIF_FPS} frames a second, browsers slow down more; an .mp4 may have more"
        );
        return Err(Usage(message).into());
    }
    Ok(())
}

/// Writes the film of the run in `run` into its folder, and returns where it is.
///
/// # Errors
/// As [`write_film`].
pub(super) fn of_finished_run(run: &Path, verbosity: Verbosity) -> Result<PathBuf> {
    let out = run.join(FILM);
    write_film(run, &out, 8.0, None, verbosity)?;
    Ok(out)
}

/// Writes a film of the run's sample grids in order, the iteration below each, and returns how many there are.
///
/// # Errors
/// [`Usage`], if there are none; if one cannot be read, or the film cannot be written.
pub(super) fn write_film(
    run: &Path,
    out: &Path,
    fps: f64,
    scale: Option<usize>,
    verbosity: Verbosity,
) -> Result<usize> {
    let samples: Vec<_> = RunDir::samples_of(run)?.into_iter().collect();
    // The error of reading names the file.
    let read = |path: &Path| {
        Picture::read(path)
            .map_err(|error| anyhow!("{error:#}; it is none of the run's grids: remove it"))
    };
    let Some((_, first)) = samples.first() else {
        let message = format!(
            "{}: the run has no samples yet; it writes one every --sample-every iterations",
            run.display()
        );
        return Err(Usage(message).into());
    };
    let first = read(first)?;
    let scale = scale.unwrap_or_else(|| (LARGE / first.width.max(1)).max(1));
    let height = 18.max(first.height * scale / 20);
    let frame = |i: usize| -> Result<Picture> {
        let (iteration, path) = &samples[i];
        let picture = read(path)?;
        let is_alike = (picture.width, picture.height, picture.channels)
            == (first.width, first.height, first.channels);
        ensure!(
            is_alike,
            "{}: differs from other grids in size or colour; remove it, or the others",
            path.display()
        );
        let picture = picture.scaled(scale);
        let text = format!("iteration {}", thousands(i64::try_from(*iteration)?));
        let caption = label(&text, picture.width, height, picture.channels)?;
        Picture::stacked(&[picture, caption])
    };
    let mut work = TaskProgress::new(verbosity);
    work.frames(samples.len());
    let movie = Movie { count: samples.len(), fps, rest_s: REST_S, frame: &frame };
    movie.write(out, &mut || work.advance(1)).context("the film cannot be made")?;
    Ok(samples.len())
}
