//! Settings, as flags and in the documents: both are made from their table.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use dcgan::settings::{Heading, OnResume, SETTINGS, Setting};

use super::common::{command, dcgan, train};

#[test]
fn settings_page_is_up_to_date() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let page = page()?;
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page)?;
    }
    let found = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    assert!(
        found == page,
        "docs/settings.md is not what src/settings/mod.rs says; this command rewrites it:\n  {UPDATE}"
    );
    Ok(())
}

const UPDATE: &str = "UPDATE_DOCS=1 cargo test --release settings_page";

/// `docs/settings.md`.
fn page() -> Result<String> {
    let mut page = format!(
        "<!-- Made from the table in src/settings/mod.rs. Change it there, then run
     {UPDATE} -->

# Settings

A setting has one name everywhere: `batch-size` is the flag `--batch-size` of `dcgan train`, the key
`batch-size` in a configuration file (`batch_size` is read too), and the key in the `config.toml` of a run
and in its checkpoints.

Where a setting is given more than once, flags win over the file that `--config FILE` names, and the file wins
over the defaults. `epochs` as a flag also wins over `iterations` in the file.

```toml
# my.toml, for: dcgan --config my.toml --seed 7
dataset = \"mnist\"
epochs = 30
learning-rate = 1e-4
run = \"runs/mnist-slow\"
```

Beside settings a file may have `run`, the folder of the run (the flag `--run`), and a part `[environment]`,
which is not read: `dcgan` writes it into a run's `config.toml` to say with which version, on which device and
on which images the run was made. So `dcgan --config runs/NAME/config.toml` repeats a run.
`dcgan --dry-run` prints the value of every setting, and stops.

The column *On resume* says whether `dcgan --resume RUN` may be given another value than the run had so far. A
resumed run is the same run, so a setting that decides its results stays. With `--fork NEWRUN` another run
begins from the checkpoint, and there such a setting may change too, unless the saved networks depend on it.

Settings marked with * decide how a data set is read. They are also flags of `dcgan data show`, `dcgan eval`
and `dcgan nearest`.
"
    );
    for heading in Heading::ALL {
        writeln!(page, "\n## {}\n", heading.name())?;
        writeln!(page, "| Setting | What it does | Default | Allowed | On resume |")?;
        writeln!(page, "|---|---|---|---|---|")?;
        for setting in SETTINGS.iter().filter(|setting| setting.heading == heading) {
            let star = if setting.reads_data { " *" } else { "" };
            let Setting { name, doc, allowed, .. } = setting;
            let default = setting.default.as_deref().unwrap_or("none");
            let on_resume = match setting.on_resume {
                OnResume::MayChange(why) => format!("may change: {why}"),
                OnResume::Fixed(why) => format!("stays: {why}"),
                OnResume::FixedByNetworks(why) => format!("stays, in a fork too: {why}"),
            };
            writeln!(page, "| `{name}`{star} | {doc} | {default} | {allowed} | {on_resume} |")?;
        }
    }
    Ok(page)
}

/// The text in which `--help` explains each flag, in one line.
fn help(folder: &Path, of: &str) -> Result<String> {
    let mut command = command(folder, &format!("{of} --help"));
    let output = command.env("COLUMNS", "9999").output()?;
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn every_setting_is_a_flag_with_its_words_and_its_default() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for of in ["", "train", "data show", "eval", "nearest"] {
        let help = help(folder.path(), of)?;
        let trains = ["", "train"].contains(&of);
        for setting in SETTINGS.iter().filter(|setting| trains || setting.reads_data) {
            let default = setting.default.as_ref().map(|d| format!(" [default: {d}]"));
            let doc = setting.doc.trim_end_matches('.');
            let command = match &*setting.name {
                "dataset" => "; `dcgan data` says more",
                "eval-every" => "; `dcgan eval` measures in the same way",
                _ => "",
            };
            let words = format!("{doc}{command}{}", default.unwrap_or_default());
            assert!(help.contains(&format!("--{}", setting.name)), "{of}: {}", setting.name);
            assert!(help.contains(&words), "{of}: {words}\n{help}");
        }
        for flag in ["--flip", "--batch-size", "--eval-every"] {
            assert_eq!(help.contains(&format!("  {flag}")), trains, "{of}: {flag}");
        }
    }
    Ok(())
}

#[test]
fn flags_are_written_as_people_write_them() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (args, lines) in [
        ("--range -1,1", &["range = [-1.0, 1.0]"][..]),
        ("--range=-1,1", &["range = [-1.0, 1.0]"]),
        ("--classes 3,7", &["classes = [\"3\", \"7\"]"]),
        ("--classes 3 --classes 7", &["classes = [\"3\", \"7\"]"]),
        ("--augment", &["augment = [\"color\", \"translation\", \"cutout\"]"]),
        ("--augment=cutout,color", &["augment = [\"color\", \"cutout\"]"]),
        ("--augment=cutout --augment=color", &["augment = [\"color\", \"cutout\"]"]),
        ("--augment=none --augment=cutout", &["augment = [\"cutout\"]"]),
        ("--flip --skip-bad", &["flip = true", "skip-bad = true"]),
        ("--flip=true --flip=false", &["flip = false"]),
        ("--channels 1 --fit pad", &["channels = \"1\"", "fit = \"pad\""]),
        ("--background #ffffff", &["background = \"white\""]),
        ("--learning-rate 1 --device cpu", &["learning-rate = 1.0", "device = \"cpu\""]),
        ("--image-size 32x32", &["image-size = 32"]),
    ] {
        let ran = train(folder.path(), &format!("{args} --dry-run"));
        for line in lines {
            assert!(ran.stdout.contains(&format!("{line}\n")), "{args}: {}", ran.stdout);
        }
    }
    for args in ["", "--augment --augment=none"] {
        let ran = train(folder.path(), &format!("{args} --dry-run"));
        assert!(!ran.stdout.contains("augment"), "{args}: {}", ran.stdout);
    }
    let ran = train(folder.path(), "data show digits --classes 3 --classes 7 --limit 9 --limit 5");
    assert!(ran.stdout.contains("images    5\n"), "{}", ran.stdout);
    Ok(())
}

#[test]
fn a_wrong_value_is_said_with_its_flag_on_the_command_line_and_with_its_key_in_a_file() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    for (args, parts) in [
        ("--flip=maybe", ["'maybe' for '--flip[=<BOOL>]'", "true, false"]),
        ("--augment=blur", ["'blur' for '--augment[=<POLICY,...>]'", "color, translation, cutout"]),
        (
            "--augment=color,color",
            ["error: --augment: expected some of color,", "found color,color"],
        ),
        ("--channels 2", ["'2' for '--channels", "auto, 1, 3"]),
        ("--range 5", ["'5' for '--range <LOW,HIGH>'", "two numbers, such as 0,1"]),
        ("--range 1,0", ["error: --range: expected two numbers, low and high", "found 1,0"]),
        ("--image-size big", ["'big' for '--image-size", "such as 64 or 80x48"]),
        (
            "--image-size 72",
            ["error: --image-size: images of 72×72 pixels", "nearest that are: 64 and 80"],
        ),
        ("--image-size 80x12", ["error: --image-size: images of 80×12", "nearest that are: 80x20"]),
        ("--image-size 512", ["sides are 16 to 256 pixels", "nearest that are: 256"]),
        ("--max-bad x", ["'x' for '--max-bad <PERCENT>'", "expected a number"]),
        ("--max-bad 101", ["error: --max-bad: expected a percentage", "found 101"]),
        ("--eval-metric copies", ["error: --eval-metric: expected one of", "found copies"]),
        ("data show digits --limit 0", ["error: --limit: expected 1 to 4294967295", "found 0"]),
        ("data show digits --fit no", ["'no' for '--fit", "crop, pad, stretch"]),
    ] {
        dcgan(folder.path(), args).assert_refused(args, 2, &parts);
    }
    for (text, told) in [
        ("z-dim = 0", "z-dim: expected 1 to 65536, found 0\n"),
        ("run = 3", "run: expected a path, found 3\n"),
        ("eval-metric = 'fid'", "eval-metric: expected one of frechet_distance"),
        ("fit = 'x'", "fit: expected one of \"crop\", \"pad\", \"stretch\", found \"x\""),
    ] {
        std::fs::write(folder.path().join("my.toml"), text)?;
        let told = format!("error: --config my.toml: {told}");
        dcgan(folder.path(), "--config my.toml").assert_refused(text, 2, &[&told]);
    }
    Ok(())
}
