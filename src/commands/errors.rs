//! Errors as a person at the command line reads them: the library names settings and kinds of errors, this names flags
//! and commands.

use std::process::ExitCode;

use dcgan::data::npy::RangeIsMissing;
use dcgan::error::{Fixable, SettingError, is_usage};
use dcgan::run::list::shell_quoted;

use super::progress::say;

/// Says on standard error what went wrong, and what helps.
pub fn print_error(error: &anyhow::Error) {
    say(&format!("error: {}", describe(error)));
}

/// Says on standard error what went wrong that does not stop the command.
pub(super) fn print_warning(error: &anyhow::Error) {
    say(&format!("warning: {}", describe(error)));
}

/// The exit code of a command that `error` has ended: 2 for wrong usage, else 1.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if is_usage(error) { 2 } else { 1 })
}

/// The chain of causes in one line, and what helps.
fn describe(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        // On the command line a setting is a flag.
        let dashes = if cause.is::<SettingError>() { "--" } else { "" };
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
    match remedy(error) {
        Some(remedy) if text.contains('\n') => format!("{text}\n{remedy}"),
        Some(remedy) => format!("{text}; {remedy}"),
        None => text,
    }
}

/// What helps against `error`, where flags or commands do.
fn remedy(error: &anyhow::Error) -> Option<String> {
    if error.is::<RangeIsMissing>() {
        return Some("for example --range 0,1 or --range=-1,1".to_owned());
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
        Fixable::UnreadableImages(_) => "--skip-bad leaves them out".to_owned(),
        Fixable::TooManyUnreadableImages(_) => "--max-bad PERCENT allows more".to_owned(),
        Fixable::NetworksTooLarge(_) => "give a smaller --base-width or --z-dim".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_setting_is_a_flag_whatever_context_it_has() {
        let error = anyhow!(SettingError::new("seed", "expected a number"));
        assert_eq!(describe(&error), "--seed: expected a number");
        assert_eq!(describe(&error.context("in it")), "in it: --seed: expected a number");
    }

    #[test]
    fn what_helps_comes_last() {
        let error = anyhow!(Fixable::NoSuchRun("7".to_owned())).context("no model");
        let expected = "no model: 7: there is no such run; `dcgan runs` lists those there are";
        assert_eq!(describe(&error), expected);
        let error = anyhow!(Fixable::UnreadableImages("1 of 2 cannot be read\n  a.png".to_owned()));
        let expected = "1 of 2 cannot be read\n  a.png\n--skip-bad leaves them out";
        assert_eq!(describe(&error), expected);
    }

    #[test]
    fn frames_of_libtorchs_stack_and_repeated_causes_are_left_out() {
        let error = anyhow!("no memory\nException raised from x\nframe #0: y").context("no memory");
        assert_eq!(describe(&error), "no memory");
    }
}
