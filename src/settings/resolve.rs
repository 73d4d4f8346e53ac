//! Defaults, overridden by a file, overridden by what was asked for beside it.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

use super::value::NONE;
use super::{Form, SETTINGS, Setting, TrainConfig};
use crate::error::{SettingError, Usage};

/// The key of a configuration file that is no setting: the folder of the run.
const RUN_KEY: &str = "run";
/// The part of a run's `config.toml` that says where it ran and is not read back.
pub const ENVIRONMENT_KEY: &str = "environment";

/// A resolved configuration and where the run goes, if the user said so.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// What to train.
    pub config: TrainConfig,
    /// The run's folder.
    pub run: Option<PathBuf>,
}

/// Defaults, overridden by `file` ([`read_file`]), overridden by `flags`.
///
/// # Errors
/// [`SettingError`], if a value is not allowed; [`Usage`], if a key is unknown (with the nearest known one) or
/// a value is of another type.
pub fn resolve(mut file: toml::Table, flags: toml::Table) -> Result<Resolved> {
    override_by(&mut file, flags);
    settle(file)
}

/// The configuration of a run that continues one with `base`: its own, overridden by `flags`.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_on(base: &TrainConfig, flags: toml::Table) -> Result<TrainConfig> {
    let mut table = toml::Table::try_from(base)?;
    override_by(&mut table, flags);
    Ok(settle(table)?.config)
}

/// The settings that the file at `path` holds, by the names of [`SETTINGS`], and `run` if it is there.
///
/// # Errors
/// [`Usage`], naming the file and the key, if the file cannot be read or is no TOML, a key is unknown
/// (with the nearest known one), or a value is of another type or not allowed.
pub fn read_file(path: &Path) -> Result<toml::Table> {
    let usage = |message: String| anyhow!(Usage(format!("{}: {message}", path.display())));
    let text = std::fs::read_to_string(path).map_err(|e| usage(format!("cannot be read: {e}")))?;
    let raw: toml::Table = text.parse().map_err(|e| usage(format!("not valid TOML\n{e}")))?;
    let mut table = toml::Table::new();
    for (key, value) in raw {
        if key == ENVIRONMENT_KEY {
            continue;
        }
        // `batch_size` is as good as `batch-size`.
        if table.insert(key.replace('_', "-"), value).is_some() {
            return Err(usage(format!("`{key}` is given twice")));
        }
    }
    settle(table.clone()).map_err(|e| usage(e.to_string()))?;
    Ok(table)
}

/// The configuration that the run's file at `path` holds.
///
/// # Errors
/// As [`read_file`]; the message says what to do.
pub fn read_run_config(path: &Path) -> Result<TrainConfig> {
    let read = read_file(path).and_then(|table| Ok(settle(table)?.config));
    read.map_err(|error| {
        let remedy = "correct it or remove it: a run's checkpoint has every setting";
        anyhow!(Usage(format!("{error}\n{remedy}")))
    })
}

fn override_by(table: &mut toml::Table, flags: toml::Table) {
    if flags.contains_key("epochs") && !flags.contains_key("iterations") {
        // Iterations would override what was asked for.
        table.remove("iterations");
    }
    table.extend(flags);
}

/// The configuration that `table` and the defaults make, validated.
fn settle(mut table: toml::Table) -> Result<Resolved> {
    let run = match table.remove(RUN_KEY) {
        Some(toml::Value::String(run)) if !run.is_empty() => Some(PathBuf::from(run)),
        Some(other) => {
            let problem = format!("expected a path, found {other}");
            return Err(SettingError::new(RUN_KEY, problem).into());
        }
        None => None,
    };
    // A setting without a value is one whose key is not there.
    let may_have_none =
        |key: &str| SETTINGS.iter().any(|setting| setting.name == key && setting.may_have_none);
    table.retain(|key, value| value.as_str() != Some(NONE) || !may_have_none(key));
    for (key, value) in &table {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == *key) else {
            return Err(unknown(key).into());
        };
        // On its own, so that the message can name the key.
        let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
        alone.try_into::<TrainConfig>().map_err(|e| {
            let message = e.to_string();
            // The words of a setting's own type say more than those about types of TOML.
            let own = message.lines().next().filter(|line| line.starts_with("expected "));
            let problem = || format!("expected {}, found {value}", expected(setting));
            SettingError::new(key, own.map_or_else(problem, str::to_owned))
        })?;
    }
    let config: TrainConfig = table.try_into().map_err(|e| Usage(e.to_string()))?;
    config.validate()?;
    Ok(Resolved { config, run })
}

/// What a file may give a setting.
fn expected(setting: &Setting) -> String {
    let quoted = |names: &[&str]| {
        names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
    };
    match setting.form {
        Form::Bool => "true or false".to_owned(),
        Form::Choice(names) => format!("one of {}", quoted(names)),
        Form::Choices(names) => format!("a list of some of {}, in brackets", quoted(names)),
        Form::List => "a list of texts, such as [\"3\", \"7\"]".to_owned(),
        Form::Pair => "two numbers, such as [0, 1]".to_owned(),
        Form::One => setting.allowed.clone(),
    }
}

fn unknown(key: &str) -> Usage {
    let known = || SETTINGS.iter().map(|setting| &*setting.name).chain([RUN_KEY]);
    let nearest = known()
        .map(|name| (strsim::jaro_winkler(name, key), name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(similarity, _)| *similarity > 0.85);
    let hint = match nearest {
        Some((_, nearest)) => format!("did you mean `{nearest}`?"),
        None => format!("expected one of {}", known().collect::<Vec<_>>().join(", ")),
    };
    Usage(format!("unknown key `{key}`: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::super::{Background, Channels, Policy, Precision, Switch};
    use super::*;
    use crate::data::Fit;
    use crate::rng::Latent;

    fn from_file(text: &str, flags: toml::Table) -> Result<Resolved> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("some.toml");
        std::fs::write(&path, text)?;
        resolve(read_file(&path)?, flags)
    }

    fn error_of(text: &str) -> String {
        let error = from_file(text, toml::Table::new()).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("some.toml: "), "{error:?}");
        error.to_string()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() -> Result<()> {
        let flags: toml::Table = "batch-size = 7".parse()?;
        let text =
            "batch-size = 5\nseed = 3\nlearning_rate = 1\nrun = \"x\"\n[environment]\nabc = 1";
        let resolved = from_file(text, flags)?;
        let expected =
            TrainConfig { batch_size: 7, seed: 3, learning_rate: 1.0, ..Default::default() };
        assert_eq!(resolved, Resolved { config: expected, run: Some("x".into()) });
        Ok(())
    }

    #[test]
    fn the_flag_for_epochs_wins_over_the_files_iterations() -> Result<()> {
        let config = from_file("iterations = 4", "epochs = 20".parse()?)?.config;
        assert_eq!((config.epochs, config.iterations), (20, None));
        let config = from_file("iterations = 4", "epochs = 2\niterations = 3".parse()?)?.config;
        assert_eq!(config.iterations, Some(3));
        Ok(())
    }

    #[test]
    fn none_takes_back_a_setting_that_has_no_default_and_is_no_value_of_another() -> Result<()> {
        let base = TrainConfig { ema: Some(0.9), limit: Some(5), ..Default::default() };
        let without = resolve_on(&base, "ema = 'none'".parse()?)?;
        assert_eq!(without, TrainConfig { ema: None, ..base });
        assert_eq!(
            from_file("ema = 'none'\nlimit = 'none'", toml::Table::new())?.config,
            TrainConfig::default()
        );
        assert!(error_of("seed = 'none'").contains("seed: expected a whole number"));
        assert!(error_of("emma = 'none'").contains("unknown key `emma`"));
        Ok(())
    }

    #[test]
    fn what_is_written_is_read_back_the_same() -> Result<()> {
        for config in [
            TrainConfig::default(),
            TrainConfig {
                iterations: Some(5),
                ema: Some(0.999),
                threads: Some(3),
                channels: Channels::Color,
                fit: Some(Fit::Pad),
                background: Background([1, 2, 254]),
                range: Some([-1.0, 1.0]),
                classes: vec!["3".to_owned(), "a b".to_owned()],
                limit: Some(9),
                flip: true,
                device: "cuda:1".parse().map_err(|e| anyhow!("{e}"))?,
                precision: Precision::F64,
                tf32: Switch::On,
                augment: vec![Policy::Cutout, Policy::Translation].into(),
                latent: Latent::Normal,
                learning_rate: 0.1 + 0.2,
                seed: u64::MAX,
                ..Default::default()
            },
        ] {
            let text = toml::to_string(&config)?;
            assert_eq!(from_file(&text, toml::Table::new())?.config, config);
        }
        Ok(())
    }

    #[test]
    fn wrong_keys_values_and_syntax_are_named_with_what_to_do() {
        assert!(error_of("bach-size = 3").contains("did you mean `batch-size`"));
        assert!(error_of("qqqq = 3").contains("expected one of"));
        for (text, told) in [
            ("batch-size = \"many\"", "batch-size: expected 1 to 65536, found \"many\""),
            ("epochs = 1.5", "epochs: expected 1 to 1000000000, found 1.5"),
            (
                "latent = \"gamma\"",
                "latent: expected one of \"uniform\", \"normal\", found \"gamma\"",
            ),
            ("channels = 1", "channels: expected one of \"auto\", \"1\", \"3\", found 1"),
            ("fit = 1", "fit: expected one of \"crop\", \"pad\", \"stretch\", found 1"),
            ("flip = \"maybe\"", "flip: expected true or false, found \"maybe\""),
            (
                "augment = \"color\"",
                "augment: expected a list of some of \"color\", \"translation\", \"cutout\", in brackets, found \"color\"",
            ),
            ("augment = ['colour']", "in brackets, found [\"colour\"]"),
            (
                "classes = 'x'",
                "classes: expected a list of texts, such as [\"3\", \"7\"], found \"x\"",
            ),
            ("range = 1", "range: expected two numbers, such as [0, 1], found 1"),
            ("ema = '0.99'", "ema: expected a number above 0, below 1, found \"0.99\""),
            ("seed = 1.5", "seed: expected 0 to 18446744073709551615; "),
            ("background = 'pink'", "background: expected black, white or #rrggbb, found `pink`"),
        ] {
            let error = error_of(text);
            assert!(error.contains(told), "{error}");
        }
        // `fit` is not what was meant.
        assert!(error_of("film = true").contains("unknown key `film`: expected one of"));
        assert!(error_of("batch-size = 3\nbatch_size = 4").contains("twice"));
        assert!(error_of("batch-size = ").contains("some.toml"));
        assert!(error_of("seed = -1").contains("seed"));
        assert!(error_of("run = 3").contains("some.toml"));
        assert!(error_of("run = ''").contains("some.toml: run: expected a path"));
        assert!(
            error_of("z-dim = -5").contains("some.toml") && error_of("z-dim = -5").contains("-5")
        );
    }

    #[test]
    fn every_range_is_checked() {
        for text in [
            "epochs = 0",
            "iterations = 0",
            "batch-size = 0",
            "g-steps = 0",
            "z-dim = -5",
            "base-width = 0",
            "threads = 0",
            "log-every = 0",
            "keep = 0",
            "image-size = 65",
            "max-width = 0",
            "limit = 0",
            "channels = '2'",
            "background = 'pink'",
            "range = [1, 0]",
            "max-bad = 101.0",
            "learning-rate = 0.0",
            "learning-rate = nan",
            "beta1 = 1.0",
            "beta1 = -0.1",
            "label-smoothing = 1.0",
            "augment = ['color', 'color']",
            "label-smoothing = inf",
            "ema = 0.0",
            "ema = 1.0",
            "ema = nan",
            "ema = 'some'",
        ] {
            let key = text.split(' ').next().unwrap_or_default();
            assert!(error_of(text).contains(key), "{text}: {}", error_of(text));
        }
    }
}
