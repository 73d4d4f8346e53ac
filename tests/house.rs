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
        for name in ["clap", "clap_complete", "clap_mangen", "indicatif"] {
            assert!(!text.contains(&format!("{name}::")), "{}: {name}", path.display());
        }
    }
    Ok(())
}

/// The rooms of the library, as `docs/architecture.md` lists them: each uses only rooms of earlier lines.
const ROOMS: [&[&str]; 10] = [
    &["error", "files", "finite", "rng", "shape", "statistics", "torch"],
    &["device", "distributed", "pixels", "record", "tf"],
    &["architecture"],
    &["data"],
    &["eval", "model", "settings"],
    &["weights"],
    &["export", "sample"],
    &["run"],
    &["train"],
    &["bench", "verify"],
];

/// The names behind `crate::` in a line of code; comments may name anything.
fn rooms_used(line: &str) -> Vec<&str> {
    let code = line.split("//").next().unwrap_or_default();
    assert!(!code.contains("crate::{"), "one `use` for each room: {line}");
    let uses = code.split("crate::").skip(1);
    uses.filter_map(|after| {
        after
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .filter(|name| !name.is_empty())
    })
    .collect()
}

#[test]
fn a_room_uses_only_rooms_that_come_before_it() -> Result<()> {
    assert_eq!(rooms_used("use crate::tf::frame; // crate::run"), ["tf"]);
    let line_of = |room: &str| ROOMS.iter().position(|line| line.contains(&room));
    for path in library()? {
        let within = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))?;
        let room = within.iter().next().and_then(|first| first.to_str()).context("no name")?;
        let room = room.trim_end_matches(".rs");
        if room == "lib" {
            continue;
        }
        let own = line_of(room).with_context(|| format!("ROOMS lacks {room}"))?;
        let text = std::fs::read_to_string(&path)?;
        // A module's tests, if they stand last, may use anything.
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for (number, line) in (1..).zip(code.lines()) {
            for used in rooms_used(line).into_iter().filter(|used| *used != room) {
                // What is not a room is a constant of the crate, such as its version.
                let is_earlier = line_of(used).is_none_or(|line| line < own);
                assert!(is_earlier, "{}:{number}: {room} uses {used}: {line}", path.display());
            }
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
