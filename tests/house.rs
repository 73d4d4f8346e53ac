//! What the house's rooms may know of each other, read from the sources.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dcgan::settings::SETTINGS;
use walkdir::WalkDir;

/// The Rust files of the library: all but those of the program.
fn library() -> Result<Vec<PathBuf>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for entry in WalkDir::new(&src).sort_by_file_name() {
        let path = entry?.into_path();
        let within = path.strip_prefix(&src)?;
        let is_of_the_program =
            ["cli", "commands", "main.rs"].iter().any(|p| within.starts_with(p));
        if !is_of_the_program && path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    assert!(files.len() > 50, "{files:?}");
    Ok(files)
}

/// Flags in a line, but for those of other programs.
fn flags(line: &str) -> Vec<&str> {
    let starts = line.match_indices("--").filter(|(at, _)| {
        let (before, after) = (&line[..*at], &line[at + 2..]);
        // Part of a word, such as `a--b`, is none.
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || c == '-');
        let is_of_others = ["setup.sh ", "cargo build "].iter().any(|name| before.ends_with(name));
        begins && !is_of_others && after.starts_with(|c: char| c.is_ascii_lowercase())
    });
    starts.map(|(at, _)| line[at..].split_whitespace().next().unwrap_or_default()).collect()
}

#[test]
fn no_text_of_the_library_names_a_flag_or_a_command() -> Result<()> {
    assert_eq!(flags("use `--seed 1` or cargo build --release, a--b, ---x"), ["--seed"]);
    for path in library()? {
        let text = std::fs::read_to_string(&path)?;
        for (number, line) in (1..).zip(text.lines()) {
            let place = format!("{}:{number}: {line}", path.display());
            assert!(flags(line).is_empty(), "{place}");
            // Documentation may name a command, messages may not.
            let is_comment = line.trim_start().starts_with("//");
            assert!(is_comment || !line.contains("`dcgan "), "{place}");
        }
    }
    // These are comments in the sources, and texts in the program.
    for setting in SETTINGS.iter() {
        assert!(!setting.doc.contains("`dcgan "), "{setting:?}");
    }
    Ok(())
}

#[test]
fn no_file_of_the_library_uses_a_crate_of_the_command_line() -> Result<()> {
    for path in library()? {
        let text = std::fs::read_to_string(&path)?;
        for name in ["clap", "clap_complete", "indicatif"] {
            assert!(!text.contains(&format!("{name}::")), "{}: {name}", path.display());
        }
    }
    Ok(())
}

#[test]
fn main_is_short() -> Result<()> {
    let main = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs");
    let text = std::fs::read_to_string(&main).context("main.rs")?;
    assert!(text.lines().count() < 70, "{} lines", text.lines().count());
    Ok(())
}
