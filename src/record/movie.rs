//! Pictures in motion: GIF by itself, MP4 through ffmpeg.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use color_quant::NeuQuant;

use super::grid::Picture;
use crate::files::{UNFINISHED, write_streamed};

/// Colours of a GIF's one palette.
const COLOURS: usize = 256;
/// Gray levels of a GIF: steps of 4, which nobody sees.
const GRAYS: usize = 64;
/// Frames that the palette is made from.
const LOOKED_AT: usize = 16;
/// Pixels of each of them, at most.
const LOOKED_AT_PIXELS: usize = 1 << 18;
/// NeuQuant's share of looked-at pixels: one in so many.
const SAMPLE_FACTOR: i32 = 10;

/// Frames a second of a GIF, at most: where a frame stays for less than two hundredths of a second, browsers show
/// it for ten.
pub const GIF_FPS: f64 = 50.0;

/// Frames of one size and one kind, made when they are asked for.
pub struct Movie<'a> {
    /// How many.
    pub count: usize,
    /// Frames a second.
    pub fps: f64,
    /// How long the last frame stays before a GIF begins again, in seconds.
    pub rest_s: f64,
    /// Frame `i`; asked for more than once.
    pub frame: &'a dyn Fn(usize) -> Result<Picture>,
}

impl Movie<'_> {
    /// Writes `path`, whole or not at all: a GIF, or an MP4 if its name ends in `.mp4`. `shown` is told of
    /// each frame.
    ///
    /// # Errors
    /// If there is no frame or they differ in size; if there is no ffmpeg or it fails; if the file cannot be
    /// written.
    pub fn write(&self, path: &Path, shown: &mut dyn FnMut()) -> Result<()> {
        ensure!(self.count > 0, "a film has at least one frame");
        if is_mp4(path) {
            return self.mp4(path, shown);
        }
        write_streamed(path, |file| self.gif(&mut BufWriter::new(file), shown))
    }

    /// Frame `i`, which must be of the first one's size.
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

    fn gif(&self, file: &mut dyn Write, shown: &mut dyn FnMut()) -> Result<()> {
        let first = (self.frame)(0)?;
        let (width, height) = (u16::try_from(first.width), u16::try_from(first.height));
        let (Ok(width), Ok(height)) = (width, height) else {
            bail!("a GIF has up to 65535 pixels a side, found {}×{}", first.width, first.height);
        };
        let palette = Palette::of(self, &first)?;
        let mut encoder = gif::Encoder::new(&mut *file, width, height, &palette.colours())?;
        encoder.set_repeat(gif::Repeat::Infinite)?;
        for i in 0..self.count {
            let frame = self.frame(i, &first)?;
            // A GIF counts hundredths of a second: what one frame loses the next one gets.
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
            shown();
        }
        drop(encoder);
        Ok(file.flush()?)
    }

    fn mp4(&self, path: &Path, shown: &mut dyn FnMut()) -> Result<()> {
        let first = (self.frame)(0)?;
        let cannot = || format!("{}: cannot be written", path.display());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        // ffmpeg wants a file by name; where it has written it, it is moved as any other.
        let scratch =
            tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(folder).with_context(cannot)?;
        let (made, said) = (scratch.path().join("film.mp4"), scratch.path().join("said"));
        let size = format!("{}x{}", first.width, first.height);
        let pixels = if first.channels == 1 { "gray" } else { "rgb24" };
        let mut command = Command::new("ffmpeg");
        command
            .args(["-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", pixels, "-s", &size])
            .args(["-r", &self.fps.to_string(), "-i", "-"])
            // Players want yuv420p, which has even sides.
            .args(["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-c:v", "libx264", "-crf", "18"])
            .args(["-pix_fmt", "yuv420p", "-movflags", "+faststart"])
            .arg(&made)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A pipe that nobody reads would stop it.
            .stderr(File::create(&said).with_context(cannot)?);
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
                // Where it has ended, it says below why.
                if input.write_all(&self.frame(i, &first)?.pixels).is_err() {
                    break;
                }
                shown();
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

/// Whether a film of this name is ffmpeg's.
pub fn is_mp4(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("mp4"))
}

/// The colours of all frames.
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
        let looked_at = movie.count.min(LOOKED_AT);
        for i in 0..looked_at {
            let frame = movie.frame((i + 1) * movie.count / looked_at - 1, first)?;
            let step = (frame.width * frame.height).div_ceil(LOOKED_AT_PIXELS);
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
