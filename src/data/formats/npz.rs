//! NumPy's archives with one array of images: `.npz`.

use std::io::{Read, Seek};

use anyhow::{Context, Result, bail, ensure};
use zip::ZipArchive;

use super::npy::{Header, Range, read_images};
use super::{Format, MAX_EXPANDED, Sink, SourceFile, Stack};

/// `npz:FILE`.
#[derive(Debug)]
pub struct Npz;

impl Format for Npz {
    fn name(&self) -> &'static str {
        "npz"
    }

    fn meaning(&self) -> &'static str {
        "a NumPy archive with one such array"
    }

    fn takes_range(&self) -> bool {
        true
    }

    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        for file in &files {
            read_npz(file.open()?, sink.range(), &mut |part| sink.stack(part, None))
                .with_context(|| file.name.clone())?;
        }
        Ok(())
    }
}

/// Reads the one array of images in a `.npz` file. As [`read_images`].
///
/// # Errors
/// As [`read_images`]; if there are several arrays of images, none, or one expands beyond bounds.
pub fn read_npz(
    file: impl Read + Seek,
    range: Option<Range>,
    each: &mut dyn FnMut(Stack) -> Result<()>,
) -> Result<()> {
    let mut archive = ZipArchive::new(file).context("NPZ")?;
    let mut found = Vec::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).context("NPZ")?;
        let name = entry.name().context("NPZ")?.into_owned();
        // Labels and the like have another rank.
        let mut head = Vec::new();
        let read = entry.by_ref().take(1024).read_to_end(&mut head);
        read.with_context(|| format!("NPZ: {name}"))?;
        let header = Header::parse(&head);
        if header.is_ok_and(|(header, _)| (3..=4).contains(&header.shape.len())) {
            found.push((i, name));
        }
    }
    let [(index, name)] = &found[..] else {
        let names: Vec<_> = found.iter().map(|(_, name)| name.as_str()).collect();
        let found = match names.len() {
            0 => "none".to_owned(),
            count => {
                format!("{count}: {}; save the one you want with numpy.save", names.join(", "))
            }
        };
        bail!("NPZ: expected one array of images, of rank 3 or 4, found {found}");
    };
    let entry = archive.by_index(*index).context("NPZ")?;
    ensure!(entry.size() <= MAX_EXPANDED, "NPZ: {name}: more than {MAX_EXPANDED} bytes");
    let entry = entry.take(MAX_EXPANDED);
    read_images(entry, range, each).with_context(|| format!("NPZ: {name}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::super::npy::tests::file;
    use super::*;

    fn archive(entries: &[(&str, Vec<u8>)]) -> Result<Cursor<Vec<u8>>> {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            archive.start_file(*name, SimpleFileOptions::default())?;
            archive.write_all(bytes)?;
        }
        Ok(Cursor::new(archive.finish()?.into_inner()))
    }

    #[test]
    fn of_an_archive_the_one_array_of_images_is_read() -> Result<()> {
        let images = file("|u1", false, "(1, 2, 2)", &[1, 2, 3, 4]);
        let labels = file("<i8", false, "(1,)", &[0; 8]);
        let file = archive(&[("y.npy", labels.clone()), ("x.npy", images.clone())])?;
        let mut pixels = Vec::new();
        read_npz(file, None, &mut |part| {
            pixels.extend(part.pixels);
            Ok(())
        })?;
        assert_eq!(pixels, [1, 2, 3, 4]);
        let error = |entries: &[(&str, Vec<u8>)]| -> Result<String> {
            Ok(format!("{:#}", read_npz(archive(entries)?, None, &mut |_| Ok(())).unwrap_err()))
        };
        assert!(error(&[("y.npy", labels)])?.contains("found none"));
        assert!(
            error(&[("a.npy", images.clone()), ("b.npy", images)])?
                .contains("found 2: a.npy, b.npy")
        );
        assert!(read_npz(Cursor::new(b"no zip"), None, &mut |_| Ok(())).is_err());
        Ok(())
    }
}
