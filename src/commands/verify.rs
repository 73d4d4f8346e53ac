//! `dcgan verify`: this build against what the real TensorFlow computed.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use dcgan::torch::GroupError;
use dcgan::verify::Report;
use tch::Kind;

use super::errors::print_error;
use super::output::print;
use super::ranks::Part;
use crate::cli::VerifyArgs;

/// `dcgan verify`.
///
/// # Errors
/// As [`dcgan::verify::verify`]; a disagreement is exit status 1, no error.
pub fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    let (device, ranks) = match Part::of(args.ranks, &args.device, Kind::Float)? {
        Part::Launched(code) => return Ok(code),
        Part::Here(device, ranks) => (device, ranks),
    };
    let is_first = ranks.as_ref().is_none_or(|ranks| ranks.is_first());
    let mut failed = 0;
    for path in &args.files {
        // A file that cannot be compared has not agreed; the next one may.
        match dcgan::verify::verify_among(path, device, ranks.clone()) {
            Ok(report) => {
                let table = verify_table(&path.display().to_string(), &report, args.verbose)?;
                if is_first {
                    print(table.as_bytes())?;
                }
                failed += usize::from(!report.passed());
            }
            // The ranks are of no use to each other any more.
            Err(error) if error.is::<GroupError>() => return Err(error),
            Err(error) => {
                if is_first {
                    print_error(&error, "verify");
                }
                failed += 1;
            }
        }
    }
    let count = args.files.len();
    if let Some(ranks) = &ranks {
        ranks.barrier()?;
    }
    if is_first {
        let agree = format!("{} of {count} files agree with TensorFlow\n", count - failed);
        print(agree.as_bytes())?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verify_table(file: &str, report: &Report, every_tensor: bool) -> Result<String> {
    let settings = &report.settings;
    let mut text = format!(
        "{file}\n  {}, {}, {} iteration(s), batch {}, width {}, images {}×{}, {} channel(s), z {}\n",
        settings.framework,
        if settings.kind == Kind::Double { "float64" } else { "float32" },
        settings.iterations,
        settings.batch,
        settings.model.base_width,
        settings.model.image.size.width,
        settings.model.image.size.height,
        settings.model.image.channels,
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
