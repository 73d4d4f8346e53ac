//! The flags of settings, made from the table of [`SETTINGS`].

use anyhow::Result;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use dcgan::settings::{Form, SETTINGS, Setting, TrainConfig, in_toml, resolve};

/// The flags of settings that were given: of all, or only of those that decide how a data set is read.
#[derive(Debug, Clone, Default)]
pub struct SettingFlags<const ONLY_OF_DATA: bool> {
    given: toml::Table,
}

/// The flags of all settings.
pub type SettingArgs = SettingFlags<false>;

/// The flags of the settings that decide how a data set is read. Which one it is, commands ask for
/// in their own words.
pub type DataArgs = SettingFlags<true>;

impl<const ONLY_OF_DATA: bool> SettingFlags<ONLY_OF_DATA> {
    /// What was given, by the names of TOML.
    pub fn given(&self) -> toml::Table {
        self.given.clone()
    }

    fn settings() -> impl Iterator<Item = &'static Setting> {
        SETTINGS.iter().filter(|setting| setting.reads_data || !ONLY_OF_DATA)
    }
}

impl DataArgs {
    /// What these flags and defaults come to, for the data set `spec`.
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn resolve(&self, spec: &str, seed: Option<u64>) -> Result<TrainConfig> {
        let mut flags = self.given();
        flags.insert("dataset".to_owned(), spec.into());
        if let Some(seed) = seed {
            flags.insert("seed".to_owned(), in_toml(seed));
        }
        Ok(resolve(toml::Table::new(), flags)?.config)
    }
}

impl<const ONLY_OF_DATA: bool> Args for SettingFlags<ONLY_OF_DATA> {
    fn augment_args(command: Command) -> Command {
        Self::settings().fold(command, |command, setting| command.arg(flag(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const ONLY_OF_DATA: bool> FromArgMatches for SettingFlags<ONLY_OF_DATA> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for Setting { name, .. } in Self::settings() {
            let values = matches.get_many::<toml::Value>(name).into_iter().flatten().cloned();
            if let Some(value) = values.reduce(joined) {
                self.given.insert(name.clone(), value);
            }
        }
        Ok(())
    }
}

/// Of a list that is given in parts, all of them; of anything else, the last. An empty list takes back what was
/// given before it.
fn joined(first: toml::Value, second: toml::Value) -> toml::Value {
    match (first, second) {
        (_, toml::Value::Array(second)) if second.is_empty() => second.into(),
        (toml::Value::Array(first), toml::Value::Array(second)) => {
            first.into_iter().chain(second).collect::<Vec<_>>().into()
        }
        (_, second) => second,
    }
}

/// The flag of a setting. Its values are read here, so that a wrong one is said with the flag; whether they
/// are allowed is the settings' own check.
fn flag(setting: &'static Setting) -> Arg {
    let flag = Arg::new(&*setting.name)
        .long(&*setting.name)
        .value_name(setting.value_name)
        .help_heading(setting.heading.name())
        .help(help(setting));
    let one_of = |names: &'static [&'static str]| {
        // What unsets a setting of a configuration file or of a resumed run is no choice of its own.
        let none = setting.may_have_none.then(|| PossibleValue::new("none").hide(true));
        let names = names.iter().map(|&name| PossibleValue::new(name)).chain(none);
        PossibleValuesParser::new(names).try_map(|text| (setting.parse)(&text))
    };
    match setting.form {
        Form::Bool => flag
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(one_of(&["true", "false"])),
        Form::Choice(names) => flag.value_parser(one_of(names)),
        Form::Choices(_) => flag
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("all")
            .action(ArgAction::Append)
            .value_parser(setting.parse),
        Form::Pair => flag.allow_hyphen_values(true).value_parser(setting.parse),
        Form::List => flag.action(ArgAction::Append).value_parser(setting.parse),
        Form::One => flag.value_parser(setting.parse),
    }
}

fn help(setting: &Setting) -> String {
    let doc = setting.doc.trim_end_matches('.');
    let default = setting.default.as_ref().map(|default| format!(" [default: {default}]"));
    let more = more(&setting.name);
    format!("{doc}{more}{}", default.unwrap_or_default())
}

/// What this program has to add to a setting's own words: the commands that go with it.
fn more(setting: &str) -> &'static str {
    match setting {
        "dataset" => "; `dcgan data` says more",
        "eval-every" => "; `dcgan eval` measures in the same way",
        _ => "",
    }
}
