//! `dcgan sample`: images from a trained generator.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::cli::{GridSize, SampleArgs};
use crate::data::SIZE;
use crate::device::{self, default_threads};
use crate::record::grid::Picture;
use crate::record::progress::{Verbosity, Work, say};
use crate::runs::find;
use crate::sample::Sampler;
use crate::tensor_file::{write_atomically, write_bytes};
use crate::usage::Usage;

/// Images in one picture at most: it is held in memory.
const GRID_LIMIT: usize = 10_000;
/// Images that are made and written at a time.
const BLOCK: usize = 1024;

/// `dcgan sample`.
///
/// # Errors
/// [`Usage`], if the flags ask for what cannot be or a file is there already; if the generator cannot be
/// read or a file cannot be written.
pub fn sample(args: &SampleArgs) -> Result<ExitCode> {
    // All that can be wrong with the request, before anything is loaded.
    let target = Target::of(args)?;
    target.ensure_free(args.force)?;
    device::configure(args.threads.map_or_else(default_threads, usize::from));
    let kind = if args.precision == "f64" { Kind::Double } else { Kind::Float };
    let device = super::resolve_aloud(args.device, kind)?;
    let sampler = match &args.model {
        None => Sampler::built_in(device, kind)?,
        Some(model) => Sampler::load(&find(model)?, device, kind)?,
    };
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
    let mut job = Job { sampler, source, count, work: Work::new(Verbosity::Normal) };
    job.work.images(count);
    match &target {
        Target::Grid(path) => job.grid(path, args.grid)?,
        Target::Folder(path) => job.folder(path)?,
        Target::Npz(path) => job.npz(path)?,
    }
    drop(job.work);
    if !args.quiet {
        let what = if args.model.is_none() { " of the built-in generator (digits)" } else { "" };
        say(&format!("{count} images{what}: {}", target.path().display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the images go.
enum Target {
    Grid(PathBuf),
    Folder(PathBuf),
    Npz(PathBuf),
}

impl Target {
    fn of(args: &SampleArgs) -> Result<Self> {
        let target = match (&args.out_dir, &args.npz) {
            (Some(folder), _) => Self::Folder(folder.clone()),
            (None, Some(file)) => Self::Npz(file.clone()),
            (None, None) => {
                let file = args.out.clone().unwrap_or_else(|| "samples.png".into());
                let is_png =
                    file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
                if !is_png {
                    let message =
                        format!("--out {}: expected a name that ends in .png", file.display());
                    return Err(Usage(message).into());
                }
                Self::Grid(file)
            }
        };
        if let (Self::Grid(_), Some(grid), Some(count)) = (&target, args.grid, args.count)
            && grid.columns * grid.rows < count as usize
        {
            let GridSize { columns, rows } = grid;
            let message = format!("--grid {columns}x{rows} has no room for --count {count} images");
            return Err(Usage(message).into());
        }
        Ok(target)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Grid(path) | Self::Folder(path) | Self::Npz(path) => path,
        }
    }

    fn ensure_free(&self, force: bool) -> Result<()> {
        let path = self.path();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
            let message = format!("{}: there is no folder {}", path.display(), parent.display());
            return Err(Usage(message).into());
        }
        let is_folder = matches!(self, Self::Folder(_));
        let in_the_way = match path.symlink_metadata() {
            Err(_) => None,
            Ok(found) if found.is_dir() && is_folder => {
                let mut entries = fs::read_dir(path)
                    .with_context(|| format!("{}: cannot be read", path.display()))?;
                entries.next().map(|_| "is there and not empty")
            }
            Ok(found) if found.is_dir() => {
                let message = format!("{}: is a folder, expected a file's name", path.display());
                return Err(Usage(message).into());
            }
            Ok(_) if is_folder => {
                let message = format!("{}: is a file, expected a folder's name", path.display());
                return Err(Usage(message).into());
            }
            Ok(_) => Some("is there already"),
        };
        match in_the_way {
            Some(why) if !force => {
                let message = format!("{}: {why}; --force replaces it", path.display());
                Err(Usage(message).into())
            }
            _ => Ok(()),
        }
    }
}

/// Where z comes from.
enum Source {
    Seed(u64),
    /// Values row by row.
    File(Vec<f32>),
}

struct Job {
    sampler: Sampler,
    source: Source,
    count: usize,
    work: Work,
}

impl Job {
    /// Hands on all images, some at a time.
    fn each(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Self { sampler, source, count, work } = self;
        for first in (0..*count).step_by(BLOCK) {
            let rows = BLOCK.min(*count - first);
            let z = match source {
                Source::Seed(seed) => sampler.noise(*seed, first as u64, rows),
                Source::File(z) => z[first * sampler.z_dim()..][..rows * sampler.z_dim()].to_vec(),
            };
            sampler.each(&z, &mut |images| {
                take(images)?;
                work.advance(images.len() / sampler.image_len());
                Ok(())
            })?;
        }
        Ok(())
    }

    fn grid(&mut self, path: &Path, grid: Option<GridSize>) -> Result<()> {
        let count = self.count;
        if count > GRID_LIMIT {
            let message = format!(
                "--count {count}: a picture has room for {GRID_LIMIT} images; use --out-dir or --npz"
            );
            return Err(Usage(message).into());
        }
        let columns = grid.map_or_else(
            || count.isqrt() + usize::from(count.isqrt().pow(2) < count),
            |grid| grid.columns,
        );
        ensure!(
            grid.is_none_or(|grid| grid.columns * grid.rows >= count),
            Usage(format!("--grid has no room for {count} images"))
        );
        let mut images = Vec::new();
        self.each(&mut |block| {
            images.extend_from_slice(block);
            Ok(())
        })?;
        let png = Picture::grid(&images, SIZE, self.sampler.channels(), columns)?.png()?;
        write_bytes(path, &png)
    }

    /// One PNG an image; the folder appears when all are there, unless it is there already.
    fn folder(&mut self, path: &Path) -> Result<()> {
        let cannot = || format!("{}: cannot be written", path.display());
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let beside = tempfile::Builder::new()
            .prefix(".unfinished-")
            .tempdir_in(parent.unwrap_or(Path::new(".")))
            .with_context(cannot)?;
        let (channels, digits) =
            (self.sampler.channels(), (self.count - 1).to_string().len().max(6));
        let length = self.sampler.image_len();
        let mut names = Vec::new();
        self.each(&mut |images| {
            for image in images.chunks_exact(length) {
                let name = format!("{:0digits$}.png", names.len());
                let png = Picture::grid(image, SIZE, channels, 1)?.png()?;
                fs::write(beside.path().join(&name), png).with_context(cannot)?;
                names.push(name);
            }
            Ok(())
        })?;
        if path.is_dir() {
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

    /// One array `[N, 32, 32, C]` of bytes, as metric tools read it.
    fn npz(&mut self, path: &Path) -> Result<()> {
        let shape = [self.count, SIZE, SIZE, self.sampler.channels()];
        let mut failure = None;
        let written = write_atomically(path, |file| {
            let mut archive = ZipWriter::new(BufWriter::new(file));
            // Arrays of images hardly shrink, and readers may map what is stored.
            let options = SimpleFileOptions::default()
                .compression_method(zip::CompressionMethod::Stored)
                .large_file(true);
            archive.start_file("arr_0.npy", options).map_err(std::io::Error::other)?;
            archive.write_all(&npy_header(&shape))?;
            let all = self.each(&mut |images| Ok(archive.write_all(images)?));
            if let Err(error) = all {
                failure = Some(error);
                return Err(std::io::Error::other("the images cannot be made"));
            }
            archive.finish().map_err(std::io::Error::other)?.flush()
        });
        match failure {
            Some(error) => Err(error.context(format!("{}: cannot be written", path.display()))),
            None => written,
        }
    }
}

/// The beginning of a `.npy` file of bytes, version 1.0.
fn npy_header(shape: &[usize; 4]) -> Vec<u8> {
    let [n, h, w, c] = shape;
    let mut header =
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({n}, {h}, {w}, {c}), }}");
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

/// The latents in a `.npy` file, row by row.
fn read_z(path: &Path, z_dim: usize) -> Result<Vec<f32>> {
    let name = || format!("--z {}", path.display());
    let z = Tensor::read_npy(path).with_context(|| {
        format!("{}: expected a .npy file of floats in C order that can be read", name())
    })?;
    let shape = z.size();
    if !matches!(shape[..], [rows, columns] if rows > 0 && columns == z_dim as i64)
        || !matches!(z.kind(), Kind::Float | Kind::Double | Kind::Half)
    {
        let message = format!(
            "{}: expected floats of shape [N, {z_dim}], found {:?} of shape {shape:?}",
            name(),
            z.kind()
        );
        return Err(Usage(message).into());
    }
    let values = Vec::<f32>::try_from(z.f_to_kind(Kind::Float)?.f_flatten(0, -1)?)?;
    if let Some(i) = values.iter().position(|value| !value.is_finite()) {
        let (row, column) = (i / z_dim, i % z_dim);
        let message = format!("{}: row {row}, column {column} is {}", name(), values[i]);
        return Err(Usage(message).into());
    }
    Ok(values)
}
