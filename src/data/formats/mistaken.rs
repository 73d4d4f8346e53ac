//! Files of another kind than they are taken for, told by how they begin.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// A kind of file: how it begins, what it is called, the formats that read it, and what to do otherwise.
struct Known {
    begins: &'static [u8],
    called: &'static str,
    read_by: &'static [&'static str],
    advice: &'static str,
}

/// Kinds of files that come in place of others.
const KNOWN: &[Known] = &[
    known(
        b"7z\xbc\xaf\x27\x1c",
        "a 7-Zip archive",
        &[],
        "unpack it, and name its folder with folder:PATH",
    ),
    known(b"Rar!\x1a\x07", "a RAR archive", &[], "unpack it, and name its folder with folder:PATH"),
    known(b"BZh", "compressed by bzip2", &[], "unpack it first, or pack it as tar.gz"),
    known(b"\xfd7zXZ", "compressed by xz", &[], "unpack it first, or pack it as tar.gz"),
    known(b"\x28\xb5\x2f\xfd", "compressed by zstd", &[], "unpack it first, or pack it as tar.gz"),
    known(
        b"PK\x03\x04",
        "a zip archive",
        &["zip", "npz", "emnist"],
        "name it with zip:FILE, or with npz:FILE if it is one of arrays of NumPy",
    ),
    known(
        b"\x1f\x8b",
        "a gzip file",
        &["tar", "idx", "mat", "cifar", "emnist"],
        "name a .tar.gz file with tar:FILE; unpack any other first",
    ),
    known(b"\x93NUMPY", "a NumPy array", &["npy"], "name it with npy:FILE"),
    known(b"MATLAB 5.0 MAT-file", "a MAT-file", &["mat"], "name it with mat:FILE"),
    known(
        b"\x89HDF",
        "an HDF5 file",
        &["mat"],
        "save the array of images with numpy.save, and name that with npy:FILE",
    ),
    known(b"\x89PNG", "a PNG image", &[], "name the folder of such images with folder:PATH"),
    known(b"\xff\xd8\xff", "a JPEG image", &[], "name the folder of such images with folder:PATH"),
    known(b"%PDF", "a PDF document", &[], "expected a data set"),
    known(
        b"version https://git-lfs",
        "a pointer of Git LFS to a file",
        &[],
        "`git lfs pull` fetches the file",
    ),
];

/// What servers send in place of a file that has moved or wants a login.
const PAGES: [&[u8]; 3] = [b"<!doctype html", b"<html", b"<?xml"];
/// The signature of the record at the end of a zip archive, and the most bytes that are behind its begin.
const ZIP_END: (&[u8], u64) = (b"PK\x05\x06", 22 + 65_535);

const fn known(
    begins: &'static [u8],
    called: &'static str,
    read_by: &'static [&'static str],
    advice: &'static str,
) -> Known {
    Known { begins, called, read_by, advice }
}

/// Checks that the file at `path` is not known to be of another kind than the format of that name reads.
///
/// # Errors
/// If it is, or empty, or a zip archive that was cut off; the message says what to do. If it cannot be read.
pub(in crate::data) fn ensure_of_format(path: &Path, format: &str) -> Result<()> {
    let cannot = || format!("{}: cannot be read", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    let mut head = Vec::new();
    file.by_ref().take(512).read_to_end(&mut head).with_context(cannot)?;
    let shown = path.display();
    ensure!(!head.is_empty(), "{shown}: is empty");
    let text = head.trim_ascii_start().to_ascii_lowercase();
    ensure!(
        !PAGES.iter().any(|page| text.starts_with(page)),
        "{shown}: is a web page, as servers send it in place of a file that has moved or wants a login; \
         download the file again"
    );
    let is_tar = head.get(257..262) == Some(b"ustar");
    ensure!(
        !is_tar || ["tar", "cifar"].contains(&format),
        "{shown}: is a tar archive; name it with tar:FILE"
    );
    let Some(known) = KNOWN.iter().find(|known| head.starts_with(known.begins)) else {
        return Ok(());
    };
    let Known { called, read_by, advice, .. } = known;
    ensure!(read_by.contains(&format), "{shown}: is {called}; {advice}");
    if called.contains("zip archive") {
        let (mark, longest) = ZIP_END;
        let length = file.seek(SeekFrom::End(0)).with_context(cannot)?;
        file.seek(SeekFrom::Start(length.saturating_sub(longest))).with_context(cannot)?;
        let mut end = Vec::new();
        file.read_to_end(&mut end).with_context(cannot)?;
        if !end.windows(mark.len()).any(|part| part == mark) {
            bail!(
                "{shown}: cannot be read as a zip archive: its end is missing, as that of a download that was \
                 cut off; download it again"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_kind_is_called_what_it_is_with_what_to_do() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x");
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (format, bytes, told) in [
            ("zip", &b"\n <!DOCTYPE html><title>Sorry</title>"[..], "is a web page"),
            ("npy", b"<html>", "download the file again"),
            ("zip", b"7z\xbc\xaf\x27\x1c\0\x04", "is a 7-Zip archive; unpack it"),
            ("zip", b"Rar!\x1a\x07\x01\0", "is a RAR archive"),
            ("zip", b"\x1f\x8b\x08", "is a gzip file; name a .tar.gz file with tar:FILE"),
            ("zip", &tar, "is a tar archive"),
            ("npz", b"\x93NUMPY\x01", "is a NumPy array; name it with npy:FILE"),
            ("npy", b"PK\x03\x04", "npz:FILE if it is one of arrays of NumPy"),
            ("tar", b"BZh91AY", "is compressed by bzip2; unpack it first"),
            ("idx", b"version https://git-lfs.github.com/spec/v1", "`git lfs pull`"),
            ("idx", b"", "x: is empty"),
            ("npz", b"PK\x03\x04 and no end", "its end is missing"),
        ] {
            std::fs::write(&path, bytes)?;
            let error = ensure_of_format(&path, format).unwrap_err().to_string();
            assert!(error.contains(told), "{format}: {error}");
        }
        for (format, bytes) in [
            ("zip", &b"PK\x03\x04 PK\x05\x06 and so on"[..]),
            ("tar", &tar),
            ("tar", b"\x1f\x8b"),
            ("idx", b"\x1f\x8b"),
            ("mat", b"MATLAB 5.0 MAT-file"),
            ("npy", b"nobody knows"),
        ] {
            std::fs::write(&path, bytes)?;
            ensure_of_format(&path, format)?;
        }
        Ok(())
    }
}
