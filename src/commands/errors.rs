//! Errors as a person at the command line reads them: the library names settings and kinds of errors, this names flags
//! and commands.

use std::process::ExitCode;

use dcgan::data::npy::Range;
use dcgan::data::{RangeIsMissing, ShapeIsMissing};
use dcgan::device::Unavailable;
use dcgan::error::{Fixable, SettingError, is_usage};

use super::output::shell_quoted;
use super::progress::say;
use crate::cli::has_flag;

/// Says on standard error what went wrong in `command`, such as `train` or `data show`, and what helps.
pub fn print_error(error: &anyhow::Error, command: &str) {
    say(&format!("error: {}", describe(error, &|flag| has_flag(command, flag))));
}

/// Says on standard error what went wrong that does not stop the command.
pub(super) fn print_warning(error: &anyhow::Error) {
    // The command continues, so that no flag has to be named.
    say(&format!("warning: {}", describe(error, &|_| false)));
}

/// The exit code of a command that `error` has ended: 2 for wrong usage, else 1.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if is_usage(error) { 2 } else { 1 })
}

/// The chain of causes in one line, and what helps. `has_flag` says which flags the command has.
fn describe(error: &anyhow::Error, has_flag: &dyn Fn(&str) -> bool) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        // On the command line a setting is a flag.
        let setting = cause.downcast_ref().map(|error: &SettingError| error.setting.as_str());
        let setting = setting.or(cause.is::<Unavailable>().then_some("device"));
        let dashes = if setting.is_some_and(has_flag) { "--" } else { "" };
        let text = format!("{dashes}{cause}");
        // libtorch appends a stack of C++ frames to its messages.
        let cut =
            ["\nException raised from", "\nframe #"].iter().filter_map(|m| text.find(m)).min();
        let text = text[..cut.unwrap_or(text.len())].trim();
        // Some errors repeat their source in their own message.
        if parts.last().is_none_or(|last| !last.contains(text)) {
            parts.push(text.to_owned());
        }
    }
    let text = parts.join(": ");
    match remedy(error, has_flag) {
        Some(remedy) if text.contains('\n') => format!("{text}\n{remedy}"),
        Some(remedy) => format!("{text}; {remedy}"),
        None => text,
    }
}

/// What helps against `error`, where commands or flags do that `has_flag` knows.
fn remedy(error: &anyhow::Error, has_flag: &dyn Fn(&str) -> bool) -> Option<String> {
    let by_flag = |flag: &str, text: &str| has_flag(flag).then(|| text.to_owned());
    if let Some(missing) = error.downcast_ref::<RangeIsMissing>() {
        let Range { low, high } = missing.likely();
        return by_flag("range", &format!("for example --range={low},{high}"));
    }
    if let Some(missing) = error.downcast_ref::<ShapeIsMissing>() {
        return by_flag("reshape", &format!("for example --reshape {}", missing.likely()));
    }
    Some(match error.downcast_ref::<Fixable>()? {
        Fixable::NoSuchRun(_) => "`dcgan runs` lists those there are".to_owned(),
        Fixable::IsCheckpoint(path) => {
            let path = shell_quoted(&path.display().to_string());
            format!("`dcgan train --resume {path} --fork NEWRUN` does so")
        }
        Fixable::StateIsLost { config, .. } => {
            let config = shell_quoted(&config.display().to_string());
            format!("`dcgan --config {config}` repeats the run from its beginning")
        }
        Fixable::NotFetched { collection, .. } => {
            format!("`dcgan data fetch {collection} --mirror URL` takes it from elsewhere")
        }
        Fixable::UnreadableImages(_) => {
            return by_flag("skip-bad", "--skip-bad leaves them out");
        }
        Fixable::TooManyUnreadableImages(_) => {
            return by_flag("max-bad", "--max-bad PERCENT allows more");
        }
        Fixable::NetworksTooLarge(_) => {
            return smaller(has_flag, &["image-size", "base-width", "max-width", "z-dim"]);
        }
        Fixable::TrainingTooLarge(_) => {
            return smaller(has_flag, &["batch-size", "image-size", "base-width", "max-width"]);
        }
    })
}

/// Proposes smaller values of those of `flags` that the command has.
fn smaller(has_flag: &dyn Fn(&str) -> bool, flags: &[&str]) -> Option<String> {
    let flags: Vec<_> =
        flags.iter().filter(|flag| has_flag(flag)).map(|flag| format!("--{flag}")).collect();
    let (last, others) = flags.split_last()?;
    let or = if others.is_empty() { "" } else { " or " };
    Some(format!("give a smaller {}{or}{last}", others.join(", ")))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_setting_is_a_flag_of_a_command_that_has_it_whatever_context_it_has() {
        let error = anyhow!(SettingError::new("seed", "expected a number"));
        let told = |error: &_, command: &str| describe(error, &|flag| has_flag(command, flag));
        assert_eq!(told(&error, "train"), "--seed: expected a number");
        assert_eq!(told(&error, "export"), "seed: expected a number");
        let error = error.context("in it");
        assert_eq!(told(&error, "data show"), "in it: --seed: expected a number");
        assert_eq!(told(&error, "data fetch"), "in it: seed: expected a number");
    }

    #[test]
    fn only_flags_of_the_command_help() {
        let told = |error: &_, command: &str| describe(error, &|flag| has_flag(command, flag));
        let error = anyhow!(Fixable::NetworksTooLarge("too large".to_owned()));
        for (command, expected) in [
            (
                "train",
                "too large; give a smaller --image-size, --base-width, --max-width or --z-dim",
            ),
            ("bench", "too large; give a smaller --image-size, --base-width or --max-width"),
            ("sample", "too large"),
        ] {
            assert_eq!(told(&error, command), expected);
        }
        let error = anyhow!(Fixable::TooManyUnreadableImages("6 of 9".to_owned()));
        assert_eq!(told(&error, "nearest"), "6 of 9; --max-bad PERCENT allows more");
        assert_eq!(told(&error, "sample"), "6 of 9");
    }

    #[test]
    fn what_helps_comes_last() {
        let error = anyhow!(Fixable::NoSuchRun("7".to_owned())).context("no model");
        let expected = "no model: 7: there is no such run; `dcgan runs` lists those there are";
        assert_eq!(describe(&error, &|_| true), expected);
        let error = anyhow!(Fixable::UnreadableImages("1 of 2 cannot be read\n  a.png".to_owned()));
        let expected = "1 of 2 cannot be read\n  a.png\n--skip-bad leaves them out";
        assert_eq!(describe(&error, &|_| true), expected);
    }

    #[test]
    fn frames_of_libtorchs_stack_and_repeated_causes_are_left_out() {
        let error = anyhow!("no memory\nException raised from x\nframe #0: y").context("no memory");
        assert_eq!(describe(&error, &|_| true), "no memory");
    }
}
