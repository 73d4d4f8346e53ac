//! Mistakes on the command line that clap's own words would not help against.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory};

use super::Cli;

/// How alike two flags must be for one to be proposed for the other.
const ALIKE: f64 = 0.85;

/// What to say of the error `found` in these arguments, where there is something better than its own words.
pub(super) fn explained(found: &clap::Error, arguments: &[OsString]) -> Option<String> {
    if found.kind() == ErrorKind::InvalidUtf8 {
        let argument = arguments.iter().find(|argument| argument.to_str().is_none())?;
        return Some(format!(
            "{argument:?} is not UTF-8; rename it, or name it by a link with another name"
        ));
    }
    let kinds = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    let word = kinds.into_iter().find_map(|kind| text(found, kind))?;
    // `--augment color` is a flag without a value, and a word that belongs to nothing.
    let at = arguments.iter().position(|argument| argument == word)?;
    let flag = arguments.get(at.checked_sub(1)?)?.to_str()?.strip_prefix("--")?;
    takes_equals(&Cli::command(), flag).then(|| {
        format!("--{flag} {word}: expected the value after an equals sign: --{flag}={word}")
    })
}

/// Takes back clap's proposal of another flag where the two are only somewhat alike, as `--workers` and `--fork`.
pub(super) fn without_far_proposal(mut found: clap::Error) -> clap::Error {
    let name = |kind| text(&found, kind).map(|flag| flag.trim_start_matches('-').to_owned());
    let both = (name(ContextKind::InvalidArg), name(ContextKind::SuggestedArg));
    if let (Some(given), Some(proposed)) = both
        && strsim::jaro_winkler(&given, &proposed) < ALIKE
    {
        found.remove(ContextKind::SuggestedArg);
        // It is that of the other flag.
        found.remove(ContextKind::Usage);
    }
    found
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}

/// Whether a flag of this name, of this command or one within it, takes its value after an equals sign only.
fn takes_equals(command: &Command, flag: &str) -> bool {
    let is_it =
        |argument: &Arg| argument.get_long() == Some(flag) && argument.is_require_equals_set();
    command.get_arguments().any(is_it)
        || command.get_subcommands().any(|within| takes_equals(within, flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(arguments: &str) -> (clap::Error, Vec<OsString>) {
        let arguments: Vec<OsString> = arguments.split(' ').map(OsString::from).collect();
        (Cli::command().try_get_matches_from(&arguments).unwrap_err(), arguments)
    }

    #[test]
    fn a_value_that_needs_an_equals_sign_is_told_so() {
        for (arguments, flag) in [
            ("dcgan --augment color", "--augment=color"),
            ("dcgan train --flip maybe", "--flip=maybe"),
            ("dcgan data show digits --skip-bad yes", "--skip-bad=yes"),
        ] {
            let (error, arguments) = error(arguments);
            let told = explained(&error, &arguments).unwrap_or_default();
            assert!(told.ends_with(&format!("after an equals sign: {flag}")), "{told}");
        }
        for arguments in ["dcgan nonsense", "dcgan --seed 3 color"] {
            let (error, arguments) = error(arguments);
            assert_eq!(explained(&error, &arguments), None);
        }
    }

    #[test]
    fn only_a_flag_that_is_much_like_it_is_proposed() {
        for (arguments, proposed) in
            [("dcgan --workers 4", None), ("dcgan --batchsize 4", Some("--batch-size"))]
        {
            let error = without_far_proposal(error(arguments).0);
            assert_eq!(text(&error, ContextKind::SuggestedArg), proposed);
        }
    }
}
