//! Films: GIF files are written here, MP4 files by ffmpeg.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use color_quant::NeuQuant;

use super::grid::Picture;
use crate::files::own::GIF_COMMENT;
use crate::files::{scratch_beside, write_streamed};

/// Colours of a GIF's palette, which all frames share.
const COLOURS: usize = 256;
/// Gray levels of a GIF: steps of 4 out of 255, which are too small to be seen.
const GRAYS: usize = 64;
/// The most frames that the palette is made from.
const PALETTE_FRAMES: usize = 16;
/// The most pixels of each of these frames.
const PALETTE_PIXELS: usize = 1 << 18;
/// NeuQuant learns from one out of so many of these pixels.
const SAMPLE_FACTOR: i32 = 10;

/// The most frames a second of a GIF: a frame that is to stay for less than two hundredths of a second is shown for ten
/// by browsers.
pub const GIF_FPS: f64 = 50.0;

/// A film whose frames, all of one size and one number of channels, are made when they are needed.
pub struct Movie<'a> {
    /// The number of frames.
    pub count: usize,
    /// Frames a second.
    pub fps: f64,
    /// How many seconds the last frame stays before a GIF begins again.
    pub rest_s: f64,
    /// Makes frame `i`; called more than once for some frames.
    pub frame: &'a dyn Fn(usize) -> Result<Picture>,
}

impl Movie<'_> {
    /// Writes the film to `path`, whole or not at all: an MP4 if the name ends in `.mp4`, else a GIF. `progress` is
    /// called after each frame.
    ///
    /// # Errors
    /// If there is no frame or frames differ in size; if ffmpeg is missing or fails; if the file cannot be written.
    pub fn write(&self, path: &Path, progress: &mut dyn FnMut()) -> Result<()> {
        ensure!(self.count > 0, "a film has at least one frame");
        if is_mp4(path) {
            return self.mp4(path, progress);
        }
        write_streamed(path, |file| self.gif(&mut BufWriter::new(file), progress))
    }

    /// Makes frame `i`, which must be of the same size as the first one.
    fn frame(&self, i: usize, first: &Picture) -> Result<Picture> {
        let frame = (self.frame)(i)?;
        ensure!(
            (frame.width, frame.height, frame.channels)
                == (first.width, first.height, first.channels),
            "frame {i} is {}×{}×{}, the first one {}×{}×{}",
            frame.width,
            frame.height,
            frame.channels,
            first.width,
            first.height,
            first.channels
        );
        Ok(frame)
    }

    fn gif(&self, file: &mut dyn Write, progress: &mut dyn FnMut()) -> Result<()> {
        let first = (self.frame)(0)?;
        let (width, height) = (u16::try_from(first.width), u16::try_from(first.height));
        let (Ok(width), Ok(height)) = (width, height) else {
            bail!("a GIF has up to 65535 pixels a side, found {}×{}", first.width, first.height);
        };
        let palette = Palette::of(self, &first)?;
        let mut encoder = gif::Encoder::new(&mut *file, width, height, &palette.colours())?;
        encoder.set_repeat(gif::Repeat::Infinite)?;
        encoder.write_raw_extension(gif::Extension::Comment.into(), &[GIF_COMMENT])?;
        for i in 0..self.count {
            let frame = self.frame(i, &first)?;
            // A GIF counts in hundredths of a second; what rounding takes from one frame the next one gets.
            let until = |frame: usize| (100.0 * frame as f64 / self.fps).round();
            let mut delay = until(i + 1) - until(i);
            if i + 1 == self.count {
                delay += 100.0 * self.rest_s;
            }
            encoder.write_frame(&gif::Frame {
                width,
                height,
                delay: delay as u16,
                buffer: palette.indices(&frame).into(),
                ..Default::default()
            })?;
            progress();
        }
        drop(encoder);
        Ok(file.flush()?)
    }

    fn mp4(&self, path: &Path, progress: &mut dyn FnMut()) -> Result<()> {
        let first = (self.frame)(0)?;
        // ffmpeg writes to a file that it is given by name, so it writes beside the film and the result is moved.
        let (scratch, _unfinished) = scratch_beside(path)?;
        let (made, said) = (scratch.path().join("film.mp4"), scratch.path().join("said"));
        let size = format!("{}x{}", first.width, first.height);
        let pixels = if first.channels == 1 { "gray" } else { "rgb24" };
        let mut command = Command::new("ffmpeg");
        command
            .args(["-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", pixels, "-s", &size])
            .args(["-r", &self.fps.to_string(), "-i", "-"])
            // Most players support yuv420p only, which needs even sides.
            .args(["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-c:v", "libx264", "-crf", "18"])
            .args(["-pix_fmt", "yuv420p", "-movflags", "+faststart"])
            .arg(&made)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A file, because ffmpeg would stop when a pipe that nobody reads is full.
            .stderr(File::create(&said)?);
        let mut ffmpeg = match command.spawn() {
            Err(e) if e.kind() == ErrorKind::NotFound => bail!(
                "{}: MP4 is written by ffmpeg, which is not in PATH; install it (Debian: apt install \
                 ffmpeg), or name a .gif",
                path.display()
            ),
            child => child.context("ffmpeg cannot be started")?,
        };
        let mut input = ffmpeg.stdin.take().context("ffmpeg has no input")?;
        let mut feed = || -> Result<()> {
            for i in 0..self.count {
                // If ffmpeg has ended, its status and its message are looked at below.
                if input.write_all(&self.frame(i, &first)?.pixels).is_err() {
                    break;
                }
                progress();
            }
            Ok(())
        };
        let fed = feed();
        drop(input);
        let status = ffmpeg.wait().context("ffmpeg cannot be waited for")?;
        fed?;
        let said = std::fs::read(&said).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let last = said.trim().lines().last().unwrap_or("nothing").to_owned();
        ensure!(status.success(), "{}: ffmpeg failed; it said: {last}", path.display());
        let mut made = File::open(&made).context("ffmpeg has written no file")?;
        write_streamed(path, |file| Ok(std::io::copy(&mut made, file).map(drop)?))
    }
}

/// Whether a film of this name is an MP4, which ffmpeg writes.
pub fn is_mp4(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("mp4"))
}

/// The colours that all frames of a GIF share.
enum Palette {
    /// [`GRAYS`] levels.
    Gray,
    /// Chosen by NeuQuant from some of the frames.
    Colour(Box<NeuQuant>),
}

impl Palette {
    fn of(movie: &Movie, first: &Picture) -> Result<Self> {
        if first.channels == 1 {
            return Ok(Self::Gray);
        }
        let mut rgba = Vec::new();
        let frames = movie.count.min(PALETTE_FRAMES);
        for i in 0..frames {
            let frame = movie.frame((i + 1) * movie.count / frames - 1, first)?;
            let step = (frame.width * frame.height).div_ceil(PALETTE_PIXELS);
            let some = frame.pixels.chunks_exact(3).step_by(step);
            rgba.extend(some.flat_map(|rgb| [rgb[0], rgb[1], rgb[2], 255]));
        }
        Ok(Self::Colour(Box::new(NeuQuant::new(SAMPLE_FACTOR, COLOURS, &rgba))))
    }

    fn colours(&self) -> Vec<u8> {
        match self {
            Self::Gray => (0..GRAYS).flat_map(|i| [(i * 255 / (GRAYS - 1)) as u8; 3]).collect(),
            Self::Colour(colours) => colours.color_map_rgb(),
        }
    }

    fn indices(&self, frame: &Picture) -> Vec<u8> {
        match self {
            Self::Gray => {
                let level = |&value: &u8| (usize::from(value) * (GRAYS - 1) + 127) / 255;
                frame.pixels.iter().map(|value| level(value) as u8).collect()
            }
            Self::Colour(colours) => {
                let index = |rgb: &[u8]| colours.index_of(&[rgb[0], rgb[1], rgb[2], 255]) as u8;
                frame.pixels.chunks_exact(3).map(index).collect()
            }
        }
    }
}
