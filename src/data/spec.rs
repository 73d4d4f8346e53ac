//! What the user calls a data set.

use std::path::PathBuf;
use std::str::FromStr;

use super::builtin::DIGITS;
use super::fetch::{Collection, Part};

/// A data set's name, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// The built-in digits.
    Digits,
    /// One that can be downloaded, and which part of it.
    Public(&'static Collection, Part),
    /// Image files in a folder and those below it.
    Folder(PathBuf),
    /// Image files in a zip archive.
    Zip(PathBuf),
    /// Image files in a tar archive, gzipped or not.
    Tar(PathBuf),
    /// An IDX file of images, gzipped or not.
    Idx(PathBuf),
    /// A MAT-file as SVHN's.
    Mat(PathBuf),
    /// A NumPy array.
    Npy(PathBuf),
    /// A NumPy archive with one array of images.
    Npz(PathBuf),
}

/// What there is to write for a data set, and what it means.
pub const SPECS: [(&str, &str); 9] = [
    ("digits", "10,000 real handwritten digits, built in"),
    ("mnist", "70,000 handwritten digits; mnist:train, mnist:test"),
    (
        "fashion-mnist, kmnist",
        "70,000 pieces of clothing, cursive Japanese characters; :train, :test",
    ),
    ("svhn", "99,289 house numbers, in colour; svhn:train, svhn:test, svhn:extra (531,131)"),
    ("folder:PATH", "image files in a folder and below it"),
    ("zip:FILE, tar:FILE", "image files in an archive (.tar.gz, too)"),
    ("idx:FILE", "an IDX file, as MNIST's (.gz, too)"),
    ("mat:FILE", "a MAT-file with X [height, width, channels, N], as SVHN's"),
    ("npy:FILE, npz:FILE", "a NumPy array [N, H, W], [N, H, W, C] or [N, C, H, W]"),
];

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) => (kind, Some(rest)),
            None => (text, None),
        };
        let path = || match rest {
            Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
            _ => Err(format!("expected a path after `{kind}:`, such as {kind}:PATH")),
        };
        match kind {
            DIGITS if rest.is_none() => return Ok(Self::Digits),
            "folder" => return path().map(Self::Folder),
            "zip" => return path().map(Self::Zip),
            "tar" => return path().map(Self::Tar),
            "idx" => return path().map(Self::Idx),
            "mat" => return path().map(Self::Mat),
            "npy" => return path().map(Self::Npy),
            "npz" => return path().map(Self::Npz),
            _ => {}
        }
        if let Some(collection) = Collection::named(kind) {
            return collection.part(rest).map(|part| Self::Public(collection, part));
        }
        let is_there = std::path::Path::new(text).exists();
        let hint = if is_there {
            format!("it is a file or folder; write folder:{text}, zip:{text} or the like")
        } else {
            let names: Vec<_> = SPECS.iter().map(|(name, _)| *name).collect();
            format!("expected one of {}", names.join(", "))
        };
        Err(format!("no such data set; {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_paths_and_parts_are_understood() {
        let parse = |text: &str| text.parse::<Spec>();
        assert_eq!(parse("digits"), Ok(Spec::Digits));
        assert_eq!(parse("folder:a b:c"), Ok(Spec::Folder("a b:c".into())));
        let Ok(Spec::Public(collection, part)) = parse("mnist:test") else { panic!("mnist:test") };
        assert_eq!((collection.name, part), ("mnist", Part::Test));
        assert!(matches!(parse("svhn:extra"), Ok(Spec::Public(_, Part::Extra))));
        for (text, told) in [
            ("nope", "expected one of digits, mnist"),
            ("folder:", "folder:PATH"),
            ("folder", "folder:PATH"),
            ("mnist:extra", "train or test"),
            ("digits:train", "no such data set"),
            (".", "write folder:."),
            ("", "no such data set"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
