//! `dcgan verify`: this build against what the real TensorFlow computed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use dcgan::tf::KinkCount;
use dcgan::torch::GroupError;
use dcgan::verify::{Check, Group, Report, Truth};
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

fn verdict(passed: bool) -> &'static str {
    if passed { "ok" } else { "FAILED" }
}

type Groups<'a> = BTreeMap<Group, (usize, &'a Check)>;

/// The table of groups. Columns of the truth are for a file that holds it.
fn write_groups(text: &mut String, groups: &Groups, by_truth: bool) -> Result<()> {
    let (width, error) = if by_truth { (18, "rest") } else { (24, "error") };
    let truth_columns = |columns: [&str; 3]| match (by_truth, columns) {
        (false, _) => String::new(),
        (true, [tensorflow, ours, kinks]) => format!("{tensorflow:>10} {ours:>9} {kinks:>9} "),
    };
    let columns = truth_columns(["TensorFlow", "error", "of kinks"]);
    writeln!(
        text,
        "  {:<width$} {:>7} {columns}{error:>9} {:>7}  {:<6} worst",
        "", "tensors", "bound", ""
    )?;
    for (group, (count, worst)) in groups {
        let numbers = match worst.truth {
            None => ["-"; 3].map(str::to_owned),
            Some(Truth { ours, tensorflow, kinks }) => {
                [tensorflow, ours, kinks].map(|number| format!("{number:.1e}"))
            }
        };
        let columns = truth_columns(numbers.each_ref().map(String::as_str));
        writeln!(
            text,
            "  {group:<width$} {count:>7} {columns}{:>9.1e} {:>7.0e}  {:<6} {}",
            worst.error,
            worst.bound,
            verdict(worst.passed()),
            worst.name
        )?;
    }
    Ok(())
}

fn write_kinks(text: &mut String, of_float64: &[Check], kinks: KinkCount) -> Result<()> {
    if let Some(worst) = Check::worst(of_float64) {
        let passed = of_float64.iter().filter(|check| check.passed()).count();
        writeln!(
            text,
            "  the truth is TensorFlow's float64; {passed} of {} tensors of this build's float64 agree with it\n  (worst: \
             {:.1e}, bound {:.0e}, {})",
            of_float64.len(),
            worst.error,
            worst.bound,
            worst.name
        )?;
    }
    let KinkCount { activations, near, crossed, rounding } = kinks;
    writeln!(
        text,
        "  kinks: of {activations} activations {near} lie so near to 0 that rounding, {rounding:.0e} of a layer's\n  values, \
         may put them on the other side of a ReLU's kink, and did so with {crossed}. Float64 with these on the\n  other side says \
         how much of the error comes from them. The rest is rounding, which the bound is for."
    )?;
    Ok(())
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
    let groups = report.worst();
    write_groups(&mut text, &groups, report.float64.is_some())?;
    if let Some((of_float64, kinks)) = &report.float64 {
        write_kinks(&mut text, of_float64, *kinks)?;
    } else if settings.kind == Kind::Float {
        text += "  the file holds no float64 results (make_reference.py --with-float64), so this is the weaker check:\n  \
                 bounds are those that TensorFlow's float32 holds against its own float64\n";
    }
    let of_float64 = report.float64.iter().flat_map(|(checks, _)| checks);
    let all = report.checks.iter().chain(of_float64);
    for check in all.filter(|check| every_tensor || !check.passed()) {
        let (error, bound) = (check.error, check.bound);
        writeln!(
            text,
            "  {:<6} {} error {error:.2e}, bound {bound:.0e}{}",
            verdict(check.passed()),
            check.name,
            check.truth.map_or(String::new(), |Truth { ours, tensorflow, kinks }| format!(
                "; from the truth {ours:.2e}, TensorFlow {tensorflow:.2e}, of kinks {kinks:.2e}"
            ))
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
