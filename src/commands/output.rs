//! What commands print, and what they check of the files that they are to write.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use console::{Alignment, measure_text_width, pad_str};
use dcgan::error::Usage;
use dcgan::shape::ImageShape;

/// Writes to standard output. A reader that went away (`| head`) is no error.
///
/// # Errors
/// If writing fails for another reason.
pub fn print(bytes: &[u8]) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(e).context("standard output: cannot be written")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Rows as lines, their columns as wide as what is in them: the first `left` columns to the left, the others, which hold
/// numbers, to the right.
pub(super) fn aligned(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column| {
        let cells = rows.iter().filter_map(|row| row.get::<usize>(column));
        cells.map(|cell| measure_text_width(cell.as_str())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            let side = if column < left { Alignment::Left } else { Alignment::Right };
            pad_str(cell, width, side, None)
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A path as it is written in a shell command: in quotes where it needs them.
pub(super) fn shell_quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !path.is_empty() && path.chars().all(is_plain) {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', "'\\''"))
}

/// What a file's name ends in, in small letters.
pub(super) fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

/// Whether the name after `flag` ends in one of `expected`.
///
/// # Errors
/// [`Usage`], if not.
pub(super) fn ensure_ending(flag: &str, path: &Path, expected: &[&str]) -> Result<()> {
    if expected.contains(&ending(path).as_str()) {
        return Ok(());
    }
    let expected = expected.join(" or .");
    Err(Usage(format!("{flag} {}: expected a name that ends in .{expected}", path.display()))
        .into())
}

/// Bytes of a picture at most: it is held in memory.
const PICTURE_LIMIT: usize = 1 << 30;

/// Whether a picture has room for so many images, each pixel a square of `scale`.
///
/// # Errors
/// [`Usage`], if not.
pub(super) fn ensure_picture(images: usize, shape: ImageShape, scale: usize) -> Result<()> {
    let [width, height] = [shape.size.width, shape.size.height].map(|side| (side + 2) * scale);
    if images.saturating_mul(width * height * shape.channels) > PICTURE_LIMIT {
        let message = format!(
            "{images} images of {width}×{height} pixels are too large for one picture; ask for fewer or smaller ones"
        );
        return Err(Usage(message).into());
    }
    Ok(())
}

/// Columns of a picture that is as square as its images allow.
pub(super) fn columns_for(count: usize) -> usize {
    count.isqrt() + usize::from(count.isqrt().pow(2) < count)
}

/// Whether a file, or a folder, may be written to `path`: nothing is there, or it may be replaced.
///
/// # Errors
/// [`Usage`], if not.
pub(super) fn ensure_free(path: &Path, is_folder: bool, force: bool) -> Result<()> {
    let usage = |message: String| Err(Usage(format!("{}: {message}", path.display())).into());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
        return usage(format!("there is no folder {}", parent.display()));
    }
    let in_the_way = match path.symlink_metadata() {
        Err(_) => None,
        Ok(found) if found.is_dir() && is_folder => {
            let mut entries = std::fs::read_dir(path)
                .with_context(|| format!("{}: cannot be read", path.display()))?;
            entries.next().map(|_| "is there and not empty")
        }
        Ok(found) if found.is_dir() => {
            return usage("is a folder, expected a file's name".to_owned());
        }
        Ok(_) if is_folder => return usage("is a file, expected a folder's name".to_owned()),
        Ok(_) => Some("is there already"),
    };
    match in_the_way {
        Some(why) if !force => usage(format!("{why}; --force replaces it")),
        _ => Ok(()),
    }
}
