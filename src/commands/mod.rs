//! What each command does, from its arguments to its output.

mod data;
mod eval;
mod export;
mod film;
mod runs;
mod sample;
mod show;
mod train;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tch::{Device, Kind};

use crate::bench::{BenchConfig, BenchResult};
pub use data::data;
pub use eval::eval;
pub use export::{export, import};
pub use film::{film, interpolate};
pub use runs::runs;
pub use sample::sample;
pub use show::{nearest, plot, report};
pub use train::train;

use crate::cli::{BenchArgs, GeneratorArgs, VerifyArgs};
use crate::data::SIZE;
use crate::device::{self, DeviceChoice, default_threads};
use crate::error::{SettingError, Usage};
use crate::model::{ModelConfig, Network};
use crate::record::progress::say;
use crate::run::list::find;
use crate::sample::Sampler;
use crate::verify::Report;
use crate::weights::Weights;

/// Writes to standard output. A reader that went away (`| head`) is no error.
///
/// # Errors
/// If writing fails for another reason.
pub fn print(bytes: &[u8]) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Says on standard error what went wrong, the chain of causes in one line.
pub fn print_error(error: &anyhow::Error) {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        // The library names settings; on the command line they are flags.
        let flag = if cause.is::<SettingError>() { "--" } else { "" };
        let text = format!("{flag}{cause}");
        // libtorch appends a stack of C++ frames to its messages.
        let cut =
            ["\nException raised from", "\nframe #"].iter().filter_map(|m| text.find(m)).min();
        let text = text[..cut.unwrap_or(text.len())].trim();
        // Some errors repeat their source in their own message.
        if parts.last().is_none_or(|last| !last.contains(text)) {
            parts.push(text.to_owned());
        }
    }
    say(&format!("error: {}", parts.join(": ")));
}

/// The device that `choice` comes to; says so where it was left open.
fn resolve_aloud(choice: DeviceChoice, kind: Kind) -> Result<Device> {
    let (device, note) = device::resolve(choice, kind)?;
    if let Some(note) = note {
        say(&note);
    }
    Ok(device)
}

/// The generator that the flags name, ready to sample; threads are set.
///
/// # Errors
/// As [`Weights::read`] and [`device::resolve`].
fn sampler(args: &GeneratorArgs) -> Result<Sampler> {
    let device = device_of(args)?;
    let weights = match &args.model {
        None => Weights::built_in()?,
        Some(model) => Weights::read(&find(model)?, Network::Generator, warn_of_damage)?,
    };
    Sampler::of(&weights, device, args.precision.kind())?.computing_in(args.precision.compute())
}

/// Says that a checkpoint was passed over.
fn warn_of_damage(error: &anyhow::Error) {
    say(&format!("warning: {error:#}"));
}

/// What a file's name ends in, in small letters.
fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

/// Whether the name after `flag` ends in one of `expected`.
///
/// # Errors
/// [`Usage`], if not.
fn ensure_ending(flag: &str, path: &Path, expected: &[&str]) -> Result<()> {
    if expected.contains(&ending(path).as_str()) {
        return Ok(());
    }
    let expected = expected.join(" or .");
    Err(Usage(format!("{flag} {}: expected a name that ends in .{expected}", path.display()))
        .into())
}

/// Bytes of a picture at most: it is held in memory.
const PICTURE_LIMIT: usize = 1 << 30;

/// Whether a picture has room for so many images, each pixel a square of `scale`.
///
/// # Errors
/// [`Usage`], if not.
fn ensure_picture(images: usize, channels: usize, scale: usize) -> Result<()> {
    let side = (SIZE + 2) * scale;
    if images.saturating_mul(side * side * channels) > PICTURE_LIMIT {
        let message = format!(
            "{images} images of {side}×{side} pixels are too large for one picture; ask for fewer or smaller ones"
        );
        return Err(Usage(message).into());
    }
    Ok(())
}

/// Columns of a picture that is as square as its images allow.
fn columns_for(count: usize) -> usize {
    count.isqrt() + usize::from(count.isqrt().pow(2) < count)
}

/// The device that the flags name; threads are set.
///
/// # Errors
/// As [`device::resolve`].
fn device_of(args: &GeneratorArgs) -> Result<Device> {
    device::configure(args.threads.map_or_else(default_threads, usize::from));
    resolve_aloud(args.device, args.precision.kind())
}

/// Whether a file, or a folder, may be written to `path`: nothing is there, or it may be replaced.
///
/// # Errors
/// [`Usage`], if not.
fn ensure_free(path: &Path, is_folder: bool, force: bool) -> Result<()> {
    let usage = |message: String| Err(Usage(format!("{}: {message}", path.display())).into());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
        return usage(format!("there is no folder {}", parent.display()));
    }
    let in_the_way = match path.symlink_metadata() {
        Err(_) => None,
        Ok(found) if found.is_dir() && is_folder => {
            let mut entries = std::fs::read_dir(path)
                .with_context(|| format!("{}: cannot be read", path.display()))?;
            entries.next().map(|_| "is there and not empty")
        }
        Ok(found) if found.is_dir() => {
            return usage("is a folder, expected a file's name".to_owned());
        }
        Ok(_) if is_folder => return usage("is a file, expected a folder's name".to_owned()),
        Ok(_) => Some("is there already"),
    };
    match in_the_way {
        Some(why) if !force => usage(format!("{why}; --force replaces it")),
        _ => Ok(()),
    }
}

/// `dcgan verify`.
///
/// # Errors
/// As [`crate::verify::verify`]; a disagreement is exit status 1, no error.
pub fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    device::configure(args.threads.map_or_else(default_threads, usize::from));
    let device = resolve_aloud(args.device, Kind::Float)?;
    let mut failed = 0;
    for path in &args.files {
        // A file that cannot be compared has not agreed; the next one may.
        match crate::verify::verify(path, device) {
            Ok(report) => {
                let table = verify_table(&path.display().to_string(), &report, args.verbose)?;
                print(table.as_bytes())?;
                failed += usize::from(!report.passed());
            }
            Err(error) => {
                print_error(&error);
                failed += 1;
            }
        }
    }
    let count = args.files.len();
    print(format!("{} of {count} files agree with TensorFlow\n", count - failed).as_bytes())?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verify_table(file: &str, report: &Report, every_tensor: bool) -> Result<String> {
    let settings = &report.settings;
    let mut text = format!(
        "{file}\n  {}, {}, {} iteration(s), batch {}, width {}, {} channel(s), z {}\n",
        settings.framework,
        if settings.kind == Kind::Double { "float64" } else { "float32" },
        settings.iterations,
        settings.batch,
        settings.model.base_width,
        settings.model.channels,
        settings.model.z_dim,
    );
    let verdict = |passed: bool| if passed { "ok" } else { "FAILED" };
    writeln!(text, "  {:<24} {:>7} {:>9} {:>7}  {:<6} worst", "", "tensors", "error", "bound", "")?;
    let groups = report.worst();
    for (group, (count, worst)) in &groups {
        writeln!(
            text,
            "  {group:<24} {count:>7} {:>9.1e} {:>7.0e}  {:<6} {}",
            worst.error,
            worst.bound,
            verdict(worst.passed()),
            worst.name
        )?;
    }
    for check in report.checks.iter().filter(|check| every_tensor || !check.passed()) {
        let (error, bound) = (check.error, check.bound);
        writeln!(
            text,
            "  {:<6} {} error {error:.2e}, bound {bound:.0e}",
            verdict(check.passed()),
            check.name
        )?;
        for position in &check.first_bad {
            writeln!(text, "         at {position}")?;
        }
    }
    for reason in &report.not_compared {
        writeln!(text, "  not compared: {reason}")?;
    }
    if groups.keys().any(|group| group.is_absolute()) {
        writeln!(
            text,
            "  † of biases that a batch norm takes out again: the largest absolute difference"
        )?;
    }
    Ok(text + "\n")
}

/// `dcgan bench`.
///
/// # Errors
/// As [`crate::bench::bench`].
pub fn bench(args: &BenchArgs) -> Result<ExitCode> {
    if args.tf32 == "on" {
        // SAFETY: no thread has been started yet (see `main`).
        unsafe { device::allow_tf32() };
    }
    device::configure(args.threads.map_or_else(default_threads, usize::from));
    let device = resolve_aloud(args.device, args.precision.kind())?;
    let result = crate::bench::bench(&BenchConfig {
        model: ModelConfig { base_width: args.base_width.into(), ..Default::default() },
        batch_size: args.batch_size as usize,
        precision: args.precision,
        device,
        warmup: args.warmup.into(),
        iterations: args.iterations.into(),
        floor: args.floor,
        samples: args.samples as usize,
    })?;
    if args.json {
        return print(format!("{}\n", serde_json::to_string(&result)?).as_bytes());
    }
    print(bench_table(&result)?.as_bytes())
}

fn bench_table(result: &BenchResult) -> Result<String> {
    let BenchResult { median_ms, min_ms, images_per_s, gflop_per_s, batch, .. } = result;
    let BenchResult { phases_ms, precision, device, threads, .. } = result;
    let memory = result.max_rss_mb.map_or("unknown".to_owned(), |mb| format!("{mb:.0} MB"));
    let mut text = format!(
        "{median_ms:.1} ms an iteration (median of {}, least {min_ms:.1}), {images_per_s:.0} images/s\n\
         batch {batch}, {precision}, {device}, {threads} threads, peak memory {memory}\n\n",
        result.times_ms.len(),
    );
    for (phase, ms) in [
        ("batch and noise", phases_ms.data),
        ("generator forward", phases_ms.generator_forward),
        ("discriminator forward", phases_ms.discriminator_forward),
        ("discriminator backward", phases_ms.discriminator_backward),
        ("generator backward", phases_ms.generator_backward),
        ("optimizers", phases_ms.optimizers),
    ] {
        writeln!(text, "  {phase:<24}{ms:>9.1} ms {:>6.1} %", 100. * ms / median_ms)?;
    }
    writeln!(
        text,
        "\n{gflop_per_s:.0} GFLOP/s, counting the plain algorithm's operations in convolutions"
    )?;
    if let Some(floor_ms) = result.floor_ms {
        writeln!(
            text,
            "libtorch's convolutions alone, each in its best layout: {floor_ms:.1} ms; \
             an iteration takes {:.2} times that",
            median_ms / floor_ms
        )?;
    }
    if let Some(samples_per_s) = result.samples_per_s {
        writeln!(text, "sampling: {samples_per_s:.0} images/s")?;
    }
    Ok(text)
}

/// `dcgan doctor`.
///
/// # Errors
/// If standard output fails.
pub fn doctor() -> Result<ExitCode> {
    print(format!("{}\n", device::doctor()).as_bytes())
}
