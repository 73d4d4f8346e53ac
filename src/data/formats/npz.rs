//! NumPy's archives with arrays of images: `.npz`.

use std::io::{Read, Seek};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use zip::ZipArchive;

use super::npy::{self, Header, Reading, read_images};
use super::stack::{Each, labels_of, of_count};
use super::{Format, MAX_EXPANDED, Sink, SourceFile};

/// `npz:FILE`.
#[derive(Debug)]
pub struct Npz;

impl Format for Npz {
    fn name(&self) -> &'static str {
        "npz"
    }

    fn meaning(&self) -> &'static str {
        "a NumPy archive with such an array; FILE#NAME takes one of several"
    }

    fn holds_arrays(&self) -> bool {
        true
    }

    fn takes_range(&self) -> bool {
        true
    }

    /// Before the first, labels were not read.
    fn revision(&self) -> Option<u32> {
        Some(1)
    }

    fn files(&self, path: &Path) -> Result<Vec<SourceFile>> {
        Ok(vec![SourceFile::part_at(path)?])
    }

    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        let reading = sink.reading().clone();
        for file in &files {
            read_npz(file.open()?, file.part(), &reading, &mut |part, labels| {
                sink.stack(part, labels)
            })
            .with_context(|| file.name.clone())?;
        }
        Ok(())
    }
}

/// An array in an archive.
struct Entry {
    index: usize,
    /// Without `.npy`.
    name: String,
    header: Header,
}

/// Reads the array of images in a `.npz` file, of several the one called `name`. As [`read_images`]; each call of
/// `each` also gets the labels of its images, if the file has them: in an array of the fitting name and length, such as
/// `y_train` for `x_train`.
///
/// # Errors
/// As [`read_images`]; if there is no array of that name; if there is no name and several arrays of images, or none; if
/// an array expands beyond bounds.
pub fn read_npz(
    file: impl Read + Seek,
    name: Option<&str>,
    reading: &Reading,
    each: &mut Each,
) -> Result<()> {
    let mut archive = ZipArchive::new(file).context("NPZ")?;
    let mut entries = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).context("NPZ")?;
        let name = entry.name().context("NPZ")?.into_owned();
        let mut head = Vec::new();
        let read = entry.by_ref().take(1024).read_to_end(&mut head);
        read.with_context(|| format!("NPZ: {name}"))?;
        if let Ok((header, _)) = Header::parse(&head) {
            let name = name.strip_suffix(".npy").unwrap_or(&name).to_owned();
            entries.push(Entry { index, name, header });
        }
    }
    let told = || {
        let told = entries.iter().map(|entry| format!("{} ({})", entry.name, entry.header.told()));
        let told: Vec<_> = told.collect();
        if told.is_empty() { "none".to_owned() } else { told.join(", ") }
    };
    let chosen = match name {
        Some(name) => {
            let wanted = name.strip_suffix(".npy").unwrap_or(name);
            let found = entries.iter().find(|entry| entry.name == wanted);
            found.with_context(|| format!("NPZ: no array `{name}`; its arrays: {}", told()))?
        }
        None => {
            // Labels and the like have another rank.
            let ranks = if reading.reshape.is_some() { 2..=4 } else { 3..=4 };
            let found: Vec<_> =
                entries.iter().filter(|entry| ranks.contains(&entry.header.shape.len())).collect();
            ensure!(
                found.len() == 1,
                "NPZ: expected one array of images, of rank 3 or 4, found {}; name the one you want behind the \
                 file's name, as in FILE#NAME; its arrays: {}",
                if found.is_empty() { "none".to_owned() } else { found.len().to_string() },
                told()
            );
            found[0]
        }
    };
    let count = chosen.header.shape.first().copied();
    let fits = |entry: &&Entry| entry.header.labels().is_some() && entry.header.labels() == count;
    let labels = labels_of(&chosen.name)
        .into_iter()
        .find_map(|name| entries.iter().filter(fits).find(|entry| entry.name == name));
    let labels = match labels {
        None => None,
        Some(entry) => npy::read_labels(opened(&mut archive, entry)?)
            .with_context(|| format!("NPZ: {}", entry.name))?,
    };
    let mut at = 0;
    read_images(opened(&mut archive, chosen)?, reading, &mut |part| {
        let labels = of_count(labels.as_deref(), &mut at, part.count);
        each(part, labels)
    })
    .with_context(|| format!("NPZ: {}", chosen.name))
}

/// The bytes of an array, not more than fit in memory.
fn opened<'a>(
    archive: &'a mut ZipArchive<impl Read + Seek>,
    entry: &Entry,
) -> Result<impl Read + 'a> {
    let file = archive.by_index(entry.index).context("NPZ")?;
    let (found, name) = (file.size(), &entry.name);
    ensure!(
        found <= MAX_EXPANDED,
        "NPZ: {name}: expected at most {MAX_EXPANDED} bytes, found {found}; save it with numpy.save, \
         and read that as npy:FILE"
    );
    Ok(file.take(MAX_EXPANDED))
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::super::npy::tests::file;
    use super::*;

    fn archive(entries: &[(&str, &[u8])]) -> Result<Cursor<Vec<u8>>> {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            archive.start_file(*name, SimpleFileOptions::default())?;
            archive.write_all(bytes)?;
        }
        Ok(Cursor::new(archive.finish()?.into_inner()))
    }

    type Read = (Vec<u8>, Vec<String>);

    fn read(entries: &[(&str, &[u8])], name: Option<&str>, reading: &Reading) -> Result<Read> {
        let (mut pixels, mut classes) = (Vec::new(), Vec::new());
        read_npz(archive(entries)?, name, reading, &mut |part, labels| {
            pixels.extend(part.pixels);
            classes.extend_from_slice(labels.unwrap_or_default());
            Ok(())
        })?;
        Ok((pixels, classes))
    }

    #[test]
    fn the_one_array_of_images_is_read_or_that_which_is_named_with_its_labels() -> Result<()> {
        let train = &file("|u1", false, "(1, 2, 2)", &[1, 2, 3, 4])[..];
        let test = &file("|u1", false, "(2, 1, 2)", &[5, 6, 7, 8])[..];
        let (one, two) = (&file("<i8", false, "(1,)", &[7, 0, 0, 0, 0, 0, 0, 0])[..], "(2, 1)");
        let two = &file("|u1", false, two, &[3, 9])[..];
        let plain = Reading::default();
        let expected = |pixels: &[u8], classes: &[&str]| {
            (pixels.to_vec(), classes.iter().map(|&class| class.to_owned()).collect::<Vec<_>>())
        };
        let single = [("y.npy", one), ("x.npy", train)];
        assert_eq!(read(&single, None, &plain)?, expected(&[1, 2, 3, 4], &["7"]));
        // As Keras' mnist.npz, and as MedMNIST's files.
        for names in [
            ["x_train.npy", "y_train.npy", "x_test.npy", "y_test.npy"],
            ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"],
        ] {
            let all: Vec<_> = names.into_iter().zip([train, one, test, two]).collect();
            let name = names[0].trim_end_matches(".npy");
            assert_eq!(read(&all, Some(name), &plain)?, expected(&[1, 2, 3, 4], &["7"]));
            let found = read(&all, Some(names[2]), &plain)?;
            assert_eq!(found, expected(&[5, 6, 7, 8], &["3", "9"]));
            let error = format!("{:#}", read(&all, None, &plain).unwrap_err());
            assert!(error.contains("found 2; name the one you want"), "{error}");
            assert!(error.contains(&format!("{name} (uint8 [1, 2, 2])")), "{error}");
            let error = format!("{:#}", read(&all, Some("nope"), &plain).unwrap_err());
            assert!(error.contains("no array `nope`; its arrays: "), "{error}");
        }
        // Labels of another number of images are those of other images.
        let other = [("y.npy", two), ("x.npy", train)];
        assert_eq!(read(&other, None, &plain)?, expected(&[1, 2, 3, 4], &[]));
        let none = format!("{:#}", read(&[("y.npy", one)], None, &plain).unwrap_err());
        assert!(none.contains("found none"), "{none}");
        let rows = file("|u1", false, "(1, 4)", &[1, 2, 3, 4]);
        let reading = Reading { reshape: Some(vec![2, 2]), ..Reading::default() };
        assert_eq!(read(&[("data.npy", &rows)], None, &reading)?.0, [1, 2, 3, 4]);
        assert!(read_npz(Cursor::new(b"no zip"), None, &plain, &mut |_, _| Ok(())).is_err());
        Ok(())
    }
}
