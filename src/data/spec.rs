//! What the user calls a data set.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;

use super::fetch::{COLLECTIONS, Collection, Part};
use super::formats::{self, FORMATS, Format};
use crate::files::places;

/// A data set's name, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// One on this machine's disk, or within this program: its format, and where it is.
    Local(&'static dyn Format, PathBuf),
    /// One that can be downloaded, and which part of it.
    Public(&'static Collection, Part),
}

/// Every form that a data set's name may have, such as `mnist` or `zip:FILE`, with what it means.
pub fn names() -> Vec<(String, &'static str)> {
    let formats = || FORMATS.iter().map(|format| (pattern(*format), format.meaning()));
    let public = COLLECTIONS.iter().map(|one| (one.name.to_owned(), one.meaning));
    let is_built_in = |(name, _): &(String, _)| !name.contains(':');
    let built_in = formats().filter(is_built_in);
    built_in.chain(public).chain(formats().filter(|format| !is_built_in(format))).collect()
}

/// How a set of this format is named, such as `zip:FILE`.
fn pattern(format: &dyn Format) -> String {
    match format.place() {
        Some(place) => format!("{}:{place}", format.name()),
        None => format.name().to_owned(),
    }
}

/// The format and the path in the name of a data set that is given by a path.
fn parts(text: &str) -> Option<(&str, &str)> {
    let (kind, path) = text.split_once(':')?;
    let is_path = formats::named(kind)?.place().is_some() && !path.is_empty();
    is_path.then_some((kind, path))
}

/// The files that the path of a data set names: itself, or several with `+` between them. A path that is there as a whole
/// is one, as in `folder:c++`.
fn files(path: &str) -> Vec<&str> {
    let is_there = |path: &str| places::resolved(path).is_ok_and(|path| path.exists());
    let all: Vec<_> = path.split('+').collect();
    let are_several = !is_there(path) && all.iter().all(|path| !path.is_empty() && is_there(path));
    if are_several { all } else { vec![path] }
}

/// The same name with an absolute path, so that it means the same wherever it is read.
///
/// # Errors
/// As [`places::resolved`].
pub fn absolute(text: &str) -> Result<String> {
    let Some((kind, path)) = parts(text) else { return Ok(text.to_owned()) };
    let all = files(path).into_iter().map(places::resolved).collect::<Result<Vec<_>>>()?;
    let all: Vec<_> = all.iter().map(|path| path.display().to_string()).collect();
    Ok(format!("{kind}:{}", all.join("+")))
}

/// The same name with only the last part of the path, for those who have no business with the folders of this machine.
pub fn portable(text: &str) -> String {
    let Some((kind, path)) = parts(text) else { return text.to_owned() };
    let last = |path: &str| {
        let path = places::resolved(path).unwrap_or_default();
        // `..` has no name of its own.
        let path =
            if path.file_name().is_none() { path.canonicalize().unwrap_or(path) } else { path };
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    };
    format!("{kind}:{}", files(path).into_iter().map(last).collect::<Vec<_>>().join("+"))
}

/// Where the data set of this name should be, if it is given by a path and nothing is there.
pub fn missing(text: &str) -> Option<PathBuf> {
    let (kind, path) = parts(text)?;
    let path = places::resolved(path).ok()?;
    // A part of a file, or several files, are no path themselves.
    let is_there = path.exists() || formats::named(kind)?.files(&path).is_ok();
    (!is_there).then_some(path)
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) => (kind, Some(rest)),
            None => (text, None),
        };
        if let Some(format) = formats::named(kind) {
            match (format.place(), rest) {
                (None, None) => return Ok(Self::Local(format, PathBuf::new())),
                (None, Some(_)) => {}
                (Some(_), Some(path)) if !path.is_empty() => {
                    let path = places::with_home(path).map_err(|error| format!("{error:#}"))?;
                    return Ok(Self::Local(format, path));
                }
                (Some(_), _) => {
                    let pattern = pattern(format);
                    return Err(format!("expected a path after `{kind}:`, such as {pattern}"));
                }
            }
        }
        if let Some(collection) = Collection::named(kind) {
            return collection.part(rest).map(|part| Self::Public(collection, part));
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Err(format!("no such data set; it is a folder; write folder:{text}"));
        }
        if path.exists() {
            let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            let hint = match formats::of_files(&ending) {
                Some(format) => format!("write {}:{text}", format.name()),
                None => "write folder: and the name of a folder of images, or zip:, tar:, npy: or the like and \
                         the name of a file that holds many"
                    .to_owned(),
            };
            return Err(format!("no such data set; it is a file; {hint}"));
        }
        let names: Vec<_> = names().into_iter().map(|(name, _)| name).collect();
        let names = names.join(", ");
        Err(format!(
            "no such data set, and no file or folder of that name; expected one of {names}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_paths_and_parts_are_understood() {
        let parse = |text: &str| text.parse::<Spec>();
        assert_eq!(parse("digits"), Ok(Spec::Local(&formats::builtin::Digits, PathBuf::new())));
        let photos = Spec::Local(&formats::folder::Folder, "a b:c".into());
        assert_eq!(parse("folder:a b:c"), Ok(photos));
        let Ok(Spec::Public(collection, part)) = parse("mnist:test") else { panic!("mnist:test") };
        assert_eq!((collection.name, part), ("mnist", Part::Test));
        assert!(matches!(parse("svhn:extra"), Ok(Spec::Public(_, Part::Extra))));
        for (text, told) in [
            ("nope", "expected one of digits, mnist"),
            ("folder:", "folder:PATH"),
            ("folder", "folder:PATH"),
            ("npy", "npy:FILE"),
            ("mnist:extra", "train or test"),
            ("digits:train", "no such data set"),
            (".", "write folder:."),
            ("", "no such data set"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn a_plus_in_a_path_that_is_there_separates_nothing() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let here = folder.path().canonicalize()?;
        for name in ["c++ x", "a+", "x+y"] {
            std::fs::create_dir(here.join(name))?;
            let spec = format!("folder:{}", here.join(name).display());
            assert_eq!((absolute(&spec)?, portable(&spec)), (spec, format!("folder:{name}")));
        }
        for name in ["images", "labels"] {
            std::fs::write(here.join(name), "")?;
        }
        let both = format!("idx:{0}/images+{0}/labels", here.display());
        assert_eq!((absolute(&both)?, portable(&both)), (both, "idx:images+labels".to_owned()));
        Ok(())
    }

    #[test]
    fn a_path_is_made_absolute_for_this_machine_and_short_for_others() -> Result<()> {
        let here = std::env::current_dir()?;
        let home = places::with_home("~")?;
        for (name, expected, short) in [
            ("digits", "digits".to_owned(), "digits"),
            ("mnist:test", "mnist:test".to_owned(), "mnist:test"),
            ("folder:a b/c:d", format!("folder:{}/a b/c:d", here.display()), "folder:c:d"),
            ("npz:~/x.npz#y", format!("npz:{}/x.npz#y", home.display()), "npz:x.npz#y"),
            ("zip:/a/b.zip", "zip:/a/b.zip".to_owned(), "zip:b.zip"),
            (
                "idx:src/lib.rs+src/main.rs",
                format!("idx:{0}/src/lib.rs+{0}/src/main.rs", here.display()),
                "idx:lib.rs+main.rs",
            ),
        ] {
            assert_eq!(absolute(name)?, expected);
            assert_eq!(absolute(&expected)?, expected);
            assert_eq!(portable(&expected), short);
        }
        let last = here.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert_eq!(portable("folder:."), format!("folder:{last}"));
        assert_eq!(missing("folder:no such"), Some(here.join("no such")));
        assert_eq!([missing("folder:src"), missing("digits")], [None, None]);
        Ok(())
    }

    #[test]
    fn every_format_and_collection_is_listed_and_what_is_listed_is_understood() {
        let listed = names();
        assert_eq!(listed.len(), FORMATS.len() + COLLECTIONS.len());
        for format in FORMATS {
            assert!(listed.contains(&(pattern(*format), format.meaning())), "{format:?}");
            let found = pattern(*format).parse::<Spec>();
            assert!(matches!(found, Ok(Spec::Local(found, _)) if found == *format), "{format:?}");
        }
        for (name, meaning) in &listed {
            assert!(name.parse::<Spec>().is_ok() && !meaning.is_empty(), "{name}");
            assert_eq!(listed.iter().filter(|(other, _)| other == name).count(), 1, "{name}");
        }
    }
}
