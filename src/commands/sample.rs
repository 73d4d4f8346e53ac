//! `dcgan sample`: images from a trained generator.

use std::fs;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use dcgan::error::Usage;
use dcgan::files::{remove, scratch_beside, write_bytes, write_streamed};
use dcgan::record::grid::Picture;
use dcgan::sample::Sampler;
use tch::{Kind, Tensor};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use dcgan::shape::ImageShape;

use super::generator::{classes_of, read_z, sampler};
use super::output::{columns_for, ending, ensure_ending, ensure_free};
use super::progress::{TaskProgress, say};
use crate::cli::{GridSize, SampleArgs, Verbosity};

/// Pixels of the images in one picture at most, which is held in memory: 10,000 images of 32×32.
const PICTURE_PIXELS: usize = 10_000 * 32 * 32;

/// `dcgan sample`.
///
/// # Errors
/// [`Usage`], if the flags ask for what cannot be or a file is there already; if the generator cannot be
/// read or a file cannot be written.
pub fn sample(args: &SampleArgs) -> Result<ExitCode> {
    // All that can be wrong with the request, before anything is loaded.
    let target = Target::of(args)?;
    let is_folder = matches!(target, Target::Folder(_));
    ensure_free(target.path(), is_folder, args.force)?;
    let sampler = sampler(&args.generator)?;
    let asked = classes_of(&sampler, &args.classes)?;
    let source = match &args.z {
        Some(path) => Source::File(read_z(path, sampler.z_dim())?),
        None => Source::Seed(args.seed),
    };
    let count = match (&source, args.count, args.grid) {
        (Source::File(z), None, _) => z.len() / sampler.z_dim(),
        (Source::File(z), Some(count), _) => {
            let rows = z.len() / sampler.z_dim();
            if count as usize > rows {
                let message = format!("--count {count}: --z holds {rows} rows");
                return Err(Usage(message).into());
            }
            count as usize
        }
        (Source::Seed(_), None, Some(grid)) => grid.columns * grid.rows,
        (Source::Seed(_), count, _) => count.map_or(64, |count| count as usize),
    };
    let verbosity = Verbosity::unless(args.quiet);
    let mut job = Job { sampler, source, asked, count, work: TaskProgress::new(verbosity) };
    job.work.images(count);
    match &target {
        Target::Grid(path) => job.grid(path, args.grid)?,
        Target::Folder(path) => job.folder(path)?,
        Target::Npz(path) => job.npz(path)?,
        Target::Npy(path) => job.npy(path)?,
    }
    drop(job.work);
    if !args.quiet {
        let what =
            if args.generator.model.is_none() { " of the built-in generator (digits)" } else { "" };
        say(&format!("{count} images{what}: {}", target.path().display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the images go.
enum Target {
    Grid(PathBuf),
    Folder(PathBuf),
    Npz(PathBuf),
    Npy(PathBuf),
}

impl Target {
    fn of(args: &SampleArgs) -> Result<Self> {
        let target = match (&args.out_dir, &args.npz, &args.npy) {
            (Some(folder), ..) => Self::Folder(folder.clone()),
            (_, Some(file), _) => {
                ensure_ending("--npz", file, &["npz"])?;
                Self::Npz(file.clone())
            }
            (.., Some(file)) => {
                ensure_ending("--npy", file, &["npy"])?;
                Self::Npy(file.clone())
            }
            _ => {
                let file = args.out.clone().unwrap_or_else(|| "samples.png".into());
                ensure_ending("--out", &file, &["png"])?;
                Self::Grid(file)
            }
        };
        if let (Self::Grid(_), Some(grid), Some(count)) = (&target, args.grid, args.count)
            && grid.columns * grid.rows < count as usize
        {
            return Err(no_room(grid, count as usize).into());
        }
        Ok(target)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Grid(path) | Self::Folder(path) | Self::Npz(path) | Self::Npy(path) => path,
        }
    }
}

/// Where z comes from.
enum Source {
    Seed(u64),
    /// Values row by row.
    File(Vec<f32>),
}

impl Source {
    /// The generator's input for the images with these numbers, which are of the classes `asked` in turn.
    fn input(&self, sampler: &Sampler, asked: &[usize], images: Range<usize>) -> Vec<f32> {
        let (first, count) = (images.start as u64, images.len());
        match self {
            Self::Seed(seed) if asked.is_empty() => sampler.noise(*seed, first, count),
            Self::Seed(seed) => sampler.noise_of(*seed, first, count, asked),
            Self::File(z) => {
                let z_dim = sampler.z_dim();
                let row = |i: usize| sampler.input_of(&z[i * z_dim..][..z_dim], asked, i);
                images.flat_map(row).collect()
            }
        }
    }
}

struct Job {
    sampler: Sampler,
    source: Source,
    /// The classes of the images, in turn; where there are none, any.
    asked: Vec<usize>,
    count: usize,
    work: TaskProgress,
}

impl Job {
    /// Hands on all images, some at a time, as the network gives them.
    fn each_tensor(&mut self, take: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<()> {
        let Self { sampler, source, asked, count, work } = self;
        sampler.each_tensor(*count, &|rows| source.input(sampler, asked, rows), &mut |images| {
            take(images)?;
            work.advance(images.size()[0] as usize);
            Ok(())
        })
    }

    /// Hands on all images, some at a time: bytes.
    fn each(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Self { sampler, source, asked, count, work } = self;
        sampler.each(*count, &|rows| source.input(sampler, asked, rows), &mut |images| {
            take(images)?;
            work.advance(images.len() / sampler.image_len());
            Ok(())
        })
    }

    fn grid(&mut self, path: &Path, grid: Option<GridSize>) -> Result<()> {
        let count = self.count;
        let size = self.sampler.shape().size;
        let room = PICTURE_PIXELS / (size.width * size.height).max(1);
        if count > room {
            let message = format!(
                "--count {count}: a picture has room for {room} images of this size; use --out-dir or --npz"
            );
            return Err(Usage(message).into());
        }
        let columns = grid.map_or_else(|| columns_for(count), |grid| grid.columns);
        if let Some(grid) = grid.filter(|grid| grid.columns * grid.rows < count) {
            return Err(no_room(grid, count).into());
        }
        let mut images = Vec::new();
        self.each(&mut |block| {
            images.extend_from_slice(block);
            Ok(())
        })?;
        let ImageShape { size, channels } = self.sampler.shape();
        let png = Picture::grid(&images, size, channels, columns)?.png()?;
        write_bytes(path, &png)
    }

    /// One PNG an image; the folder appears when all are there, unless it is there already.
    fn folder(&mut self, path: &Path) -> Result<()> {
        let cannot = || format!("{}: cannot be written", path.display());
        let (beside, _unfinished) = scratch_beside(path)?;
        let digits = (self.count - 1).to_string().len().max(6);
        let shape = self.sampler.shape();
        let mut names = Vec::new();
        self.each(&mut |images| {
            for image in images.chunks_exact(shape.len()) {
                let name = format!("{:0digits$}.png", names.len());
                let png = Picture::grid(image, shape.size, shape.channels, 1)?.plain_png()?;
                fs::write(beside.path().join(&name), png).with_context(cannot)?;
                names.push(name);
            }
            Ok(())
        })?;
        if path.is_dir() {
            // Of two processes that write here, the second waits until the first is done. Where a file system has no
            // locks, it does not.
            let folder = fs::File::open(path).with_context(cannot)?;
            let _ = folder.lock();
            // Images of another call would be taken for this one's.
            for entry in fs::read_dir(path).with_context(cannot)? {
                let old = entry.with_context(cannot)?.path();
                let stem = old.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let is_ours = stem.len() >= 6 && stem.chars().all(|c| c.is_ascii_digit());
                if is_ours && ending(&old) == "png" {
                    remove(&old)?;
                }
            }
            for name in names {
                fs::rename(beside.path().join(&name), path.join(&name)).with_context(cannot)?;
            }
            return Ok(());
        }
        #[cfg(unix)]
        fs::set_permissions(beside.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .with_context(cannot)?;
        fs::rename(beside.keep(), path).with_context(cannot)
    }

    /// One array `[N, H, W, C]` of bytes, as metric tools read it.
    fn npz(&mut self, path: &Path) -> Result<()> {
        let ImageShape { size, channels } = self.sampler.shape();
        let shape = [self.count, size.height, size.width, channels];
        write_streamed(path, |file| {
            let mut archive = ZipWriter::new(BufWriter::new(file));
            // Arrays of images hardly shrink, and readers may map what is stored.
            let options = SimpleFileOptions::default()
                .compression_method(zip::CompressionMethod::Stored)
                .large_file(true);
            let mut write = || -> Result<()> {
                archive.start_file("arr_0.npy", options)?;
                archive.write_all(&npy_header("|u1", &shape))?;
                self.each(&mut |images| Ok(archive.write_all(images)?))
            };
            if let Err(error) = write() {
                // Dropped, it would try to write its end, and print what that says.
                std::mem::forget(archive);
                return Err(error);
            }
            Ok(archive.finish()?.flush()?)
        })
    }

    /// One array `[N, C, H, W]` of float32.
    fn npy(&mut self, path: &Path) -> Result<()> {
        let ImageShape { size, channels } = self.sampler.shape();
        let shape = [self.count, channels, size.height, size.width];
        write_streamed(path, |file| {
            let mut file = BufWriter::new(file);
            file.write_all(&npy_header("<f4", &shape))?;
            self.each_tensor(&mut |images| {
                let values = images.f_to_kind(Kind::Float)?.f_contiguous()?.f_flatten(0, -1)?;
                for value in Vec::<f32>::try_from(values)? {
                    file.write_all(&value.to_le_bytes())?;
                }
                Ok(())
            })?;
            Ok(file.flush()?)
        })
    }
}

fn no_room(GridSize { columns, rows }: GridSize, count: usize) -> Usage {
    Usage(format!("--grid {columns}x{rows}: has no room for {count} images"))
}

/// The beginning of a `.npy` file, version 1.0, of values of the type that numpy calls `descr`.
fn npy_header(descr: &str, shape: &[usize; 4]) -> Vec<u8> {
    let [a, b, c, d] = shape;
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({a}, {b}, {c}, {d}), }}");
    // With the 10 bytes before it and a line feed a multiple of 64.
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.into_bytes());
    bytes
}
