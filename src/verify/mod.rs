//! Compares this build with a reference file, which holds what the real TensorFlow computed, with
//! TensorFlow's names and layouts and in its upright frame.
//!
//! Outputs are compared first, then losses, then every gradient by name, then training. The bounds
//! are part of the file format's definition. They hold for networks of any size.

mod case;
mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use self::case::{Case, Found};
pub use self::settings::Settings;
use crate::distributed::Ranks;
use crate::files::TensorFile;
use crate::tf::{KinkCount, Kinks};

/// Before the names of what TensorFlow computes in float64 from the values of a float32 file.
const TRUTH: &str = "float64/";

/// The groups of comparisons. A mistake in an early group shows in the later ones, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Generated images and logits, computed with the initial variables.
    Forward,
    /// Losses, computed with the initial variables.
    Losses,
    /// Gradients of d_loss for the discriminator's variables, and of g_loss for the generator's.
    Gradients,
    /// Gradients of the biases whose true gradient is 0.
    CancelledGradients,
    /// Losses of every iteration.
    Trace,
    /// Trained variables after the last iteration.
    Variables,
    /// Adam's moments after the last iteration.
    Moments,
    /// The biases whose true gradient is 0, and their moments, after the last iteration.
    CancelledBiases,
    /// The generator's moving means after the last iteration.
    MovingMeans,
    /// The generator's moving variances after the last iteration.
    MovingVariances,
    /// Images from the trained generator with moving statistics.
    Sample,
}

impl Group {
    /// Whether the error of this group is the largest absolute difference. A relative error would mean nothing
    /// for values that are truly 0.
    pub fn is_absolute(self) -> bool {
        matches!(self, Self::CancelledGradients | Self::CancelledBiases)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Forward => "forward",
            Self::Losses => "losses",
            Self::Gradients => "gradients",
            Self::CancelledGradients => "gradients that are 0 †",
            Self::Trace => "loss trace",
            Self::Variables => "trained variables",
            Self::Moments => "Adam's moments",
            Self::CancelledBiases => "biases of no effect †",
            Self::MovingMeans => "moving means",
            Self::MovingVariances => "moving variances",
            Self::Sample => "final sample",
        })
    }
}

/// The comparison of one tensor.
#[derive(Debug, Clone)]
pub struct Check {
    /// Which group it belongs to.
    pub group: Group,
    /// The tensor's name in the file.
    pub name: String,
    /// ‖ours − theirs‖ / ‖theirs‖; for values that are truly 0, the largest absolute difference. Where there is a truth: what
    /// is left of the difference from it without [`Truth::kinks`].
    pub error: f64,
    /// The largest error that passes.
    pub bound: f64,
    /// The first positions that differ by more than the bound allows, with both values. Empty if the check passed.
    pub first_bad: Vec<String>,
    /// What the truth says of the tensor, if the file has it.
    pub truth: Option<Truth>,
}

/// How far float32 is off from the truth, which is what TensorFlow computes in float64 from the same values. Each is a norm
/// in proportion to the truth's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// This build's error.
    pub ours: f64,
    /// TensorFlow's own error.
    pub tensorflow: f64,
    /// What of this build's error comes from activations that rounding has put on the other side of a ReLU's kink: the
    /// difference that they make in float64.
    pub kinks: f64,
}

impl Check {
    /// Whether the error is within its bound. NaN never is.
    pub fn passed(&self) -> bool {
        self.error <= self.bound
    }

    /// Of so many checks the worst: the one whose error is largest in proportion to its bound.
    pub fn worst<'a>(checks: impl IntoIterator<Item = &'a Self>) -> Option<&'a Self> {
        let share = |check: &Self| check.error / check.bound;
        checks.into_iter().reduce(|worst, check| {
            if share(check).is_nan() || share(check) > share(worst) { check } else { worst }
        })
    }
}

/// The comparison of one file.
#[derive(Debug, Clone)]
pub struct Report {
    /// How the file was made.
    pub settings: Settings,
    /// Every comparison, in order.
    pub checks: Vec<Check>,
    /// What was not compared, and why.
    pub not_compared: Vec<String>,
    /// Of a file with a truth: this build in float64, compared with it, and the kinks of float32.
    pub float64: Option<(Vec<Check>, KinkCount)>,
}

impl Report {
    /// Whether every comparison passed.
    pub fn passed(&self) -> bool {
        let of_float64 = self.float64.iter().flat_map(|(checks, _)| checks);
        self.checks.iter().chain(of_float64).all(Check::passed)
    }

    /// For each group, the number of its tensors and its worst check ([`Check::worst`]).
    pub fn worst(&self) -> BTreeMap<Group, (usize, &Check)> {
        let mut groups: BTreeMap<Group, Vec<&Check>> = BTreeMap::new();
        for check in &self.checks {
            groups.entry(check.group).or_default().push(check);
        }
        let all = groups.into_iter();
        all.filter_map(|(group, checks)| Some((group, (checks.len(), Check::worst(checks)?))))
            .collect()
    }
}

/// The largest errors that pass. `None` means that the values are not compared.
struct Bounds {
    forward: f64,
    gradients: f64,
    cancelled: Option<f64>,
    trace: f64,
    variables: f64,
    moments: f64,
    moving_means: f64,
    moving_variances: Option<f64>,
    sample: Option<f64>,
}

impl Bounds {
    const FLOAT64: Self = Self {
        forward: 1e-12,
        gradients: 1e-12,
        cancelled: Some(1e-8),
        trace: 1e-10,
        variables: 1e-10,
        moments: 1e-10,
        // TF: in float64, TensorFlow still keeps the decay as a float32, and updates the moving variance
        // with the biased variance of the batch.
        moving_means: 1e-6,
        moving_variances: None,
        sample: None,
    };
    /// Of float32 against TensorFlow's float32, both of which may have values on the other side of a kink.
    const FLOAT32: Self = Self {
        forward: 1e-5,
        gradients: 5e-2,
        cancelled: None,
        trace: 1e-2,
        variables: 3e-1,
        moments: 1e-1,
        moving_means: 5e-3,
        moving_variances: Some(1e-3),
        sample: Some(5e-2),
    };
    /// Of float32 against the truth, with the same values on the other side of a kink. What has been trained may be further
    /// off than gradients are: Adam's first steps are as long for a gradient that is only rounding as for any other, and its
    /// sign is not certain (`docs/exactness.md`).
    const ROUNDING: Self = Self {
        forward: 1e-5,
        gradients: 1e-4,
        cancelled: None,
        trace: 5e-4,
        variables: 3e-3,
        moments: 1e-3,
        // Biases of no effect, which only rounding moves, are part of the means.
        moving_means: 5e-3,
        moving_variances: Some(1e-4),
        sample: Some(5e-2),
    };

    /// The bound of a group.
    fn of(&self, group: Group) -> Option<f64> {
        match group {
            Group::Forward | Group::Losses => Some(self.forward),
            Group::Gradients => Some(self.gradients),
            Group::CancelledGradients | Group::CancelledBiases => self.cancelled,
            Group::Trace => Some(self.trace),
            Group::Variables => Some(self.variables),
            Group::Moments => Some(self.moments),
            Group::MovingMeans => Some(self.moving_means),
            Group::MovingVariances => self.moving_variances,
            Group::Sample => self.sample,
        }
    }
}

/// Compares this build, on `device`, with the reference file at `path`.
///
/// # Errors
/// If the file has another format, or does not hold exactly the tensors that its settings ask for. The message
/// names the file and the tensor. A difference between this build and the file is not an error: see
/// [`Report::passed`].
pub fn verify(path: &Path, device: Device) -> Result<Report> {
    verify_among(path, device, None)
}

/// As [`verify`], with the training done by all `ranks` together. Each of them compares.
///
/// # Errors
/// As [`verify`]; if another rank has ended or does not answer.
pub fn verify_among(path: &Path, device: Device, ranks: Option<Rc<Ranks>>) -> Result<Report> {
    let file = TensorFile::read(path)?;
    Case::new(&file, device, ranks).and_then(report).with_context(|| path.display().to_string())
}

fn report(case: Case) -> Result<Report> {
    let kind = case.settings.kind;
    let (checks, float64) = if case.settings.has_truth {
        let (checks, of_float64, count) = checks_by_truth(&case)?;
        (checks, Some((of_float64, count)))
    } else {
        let bounds = if kind == Kind::Double { &Bounds::FLOAT64 } else { &Bounds::FLOAT32 };
        (checks(&case, &case.found(kind, None)?, "", bounds)?, None)
    };
    let not_compared = not_compared(&case);
    Ok(Report { settings: case.settings, checks, not_compared, float64 })
}

/// What is not compared of a file, and why.
fn not_compared(case: &Case) -> Vec<String> {
    let (settings, mut all) = (&case.settings, Vec::new());
    if !case.is_trained() {
        all.push(format!(
            "training: rounding errors grow with each float32 iteration, and the file has {} \
             iterations; use a file of 1 iteration or a file in float64 to compare it",
            settings.iterations
        ));
        return all;
    }
    if settings.kind == Kind::Double {
        all.push(
            "moving variances and the final sample: in float64 TensorFlow updates moving \
             variances with the biased variance; use a float32 file to compare them"
                .to_owned(),
        );
    } else {
        all.push(
            "biases of convolutions that feed a batch norm: their true gradient is 0, and \
             only float32 rounding errors change them"
                .to_owned(),
        );
    }
    all.push(
        "the discriminator's moving statistics: TensorFlow updates them in a race and never \
         reads them"
            .to_owned(),
    );
    all
}

/// Compares what was found with the file's tensors of the same names behind `prefix`.
fn checks(case: &Case, found: &[Found], prefix: &str, bounds: &Bounds) -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for Found { group, name, ours } in found {
        let Some(bound) = bounds.of(*group) else { continue };
        let theirs = theirs(case, *group, &format!("{prefix}{name}"), ours)?;
        let error = error(*group, ours, &theirs, &theirs)?;
        let name = format!("{prefix}{name}");
        all.push(Check::new(*group, name, (ours, &theirs), error, bound)?);
    }
    Ok(all)
}

/// Compares float32 with the truth. Returns these checks, those of this build in float64, and the kinks that were met.
///
/// Three runs of this build: in float64, which must be the truth; in float32; and in float64 with values on those sides of
/// the kinks where float32 has them. The difference of the two in float64 is what kinks account for, and nothing but
/// rounding may be left of the difference between float32 and the last.
fn checks_by_truth(case: &Case) -> Result<(Vec<Check>, Vec<Check>, KinkCount)> {
    let exact = case.found(Kind::Double, None)?;
    let of_float64 = checks(case, &exact, TRUTH, &Bounds::FLOAT64)?;
    let kinks = Rc::new(Kinks::recording());
    let found = case.found(Kind::Float, Some(&kinks))?;
    kinks.replay();
    let on_same_sides = case.found(Kind::Double, Some(&kinks))?;
    let mut all = Vec::new();
    for ((found, same), exact) in found.iter().zip(&on_same_sides).zip(&exact) {
        let Found { group, name, ours } = found;
        let Some(bound) = Bounds::ROUNDING.of(*group) else { continue };
        let tensorflow = theirs(case, *group, name, ours)?;
        let truth = theirs(case, *group, &format!("{TRUTH}{name}"), ours)?;
        // TF: what float64 does otherwise is not the truth of float32.
        let is_true = Bounds::FLOAT64.of(*group).is_some();
        let reference = if is_true { &truth } else { &exact.ours };
        let error = |a: &Tensor, b: &Tensor| error(*group, a, b, reference);
        let truth = Truth {
            ours: error(ours, reference)?,
            tensorflow: error(&tensorflow, reference)?,
            kinks: error(&same.ours, &exact.ours)?,
        };
        let rest = error(ours, &same.ours)?;
        let check = Check::new(*group, name.clone(), (ours, &same.ours), rest, bound)?;
        all.push(Check { truth: Some(truth), ..check });
        if !is_true {
            // This build's own float64 is no proof of the moving variances. TensorFlow's float32 is.
            let Some(bound) = Bounds::FLOAT32.of(*group) else { continue };
            let error = self::error(*group, ours, &tensorflow, &tensorflow)?;
            let name = format!("{name} and float32");
            all.push(Check::new(*group, name, (ours, &tensorflow), error, bound)?);
        }
    }
    Ok((all, of_float64, kinks.count()))
}

/// The file's tensor `name`, of the shape of `ours`, in float64.
fn theirs(case: &Case, group: Group, name: &str, ours: &Tensor) -> Result<Tensor> {
    let shape = if group == Group::Losses { vec![] } else { ours.size() };
    Ok(case.tensor(name, &shape)?.f_reshape(ours.size())?.f_to_kind(Kind::Double)?)
}

/// ‖a − b‖ / ‖reference‖; of groups whose values are truly 0, the largest absolute difference.
fn error(group: Group, a: &Tensor, b: &Tensor, reference: &Tensor) -> Result<f64> {
    let double = |x: &Tensor| x.f_to_kind(Kind::Double);
    let difference = double(a)?.f_sub(&double(b)?)?;
    if group.is_absolute() {
        return Ok(difference.f_abs()?.f_max()?.f_double_value(&[])?);
    }
    let norm = |x: &Tensor| x.f_norm()?.f_double_value(&[]);
    // If both are 0, the error is 0. If only the expected norm is 0, the error is infinite and fails.
    Ok(match (norm(&difference)?, norm(&double(reference)?)?) {
        (0., 0.) => 0.,
        (difference, reference) => difference / reference,
    })
}

impl Check {
    /// The check of tensors that differ by `error`. If it has not passed, with the first positions that differ.
    fn new(
        group: Group,
        name: String,
        (ours, theirs): (&Tensor, &Tensor),
        error: f64,
        bound: f64,
    ) -> Result<Self> {
        let check = Self { group, name, error, bound, first_bad: Vec::new(), truth: None };
        if check.passed() {
            return Ok(check);
        }
        let (ours, theirs) = (ours.f_to_kind(Kind::Double)?, theirs.f_to_kind(Kind::Double)?);
        let scale = if group.is_absolute() {
            1.
        } else {
            theirs.f_nan_to_num(0., 0., 0.)?.f_abs()?.f_max()?.f_double_value(&[])?
        };
        let difference = ours.f_sub(&theirs)?.f_abs()?;
        let first_bad = first_bad(&ours, &theirs, &difference, bound * scale)?;
        Ok(Self { first_bad, ..check })
    }
}

/// The first positions, up to three, that differ by more than `limit`.
fn first_bad(
    ours: &Tensor,
    theirs: &Tensor,
    difference: &Tensor,
    limit: f64,
) -> Result<Vec<String>> {
    // "Not at most" instead of "greater", so that NaN counts as different.
    let bad = difference.f_le(limit)?.f_logical_not()?.f_nonzero()?;
    let positions = Vec::<Vec<i64>>::try_from(bad.f_narrow(0, 0, bad.size()[0].min(3))?)?;
    positions
        .into_iter()
        .map(|at| {
            let (ours, theirs) = (ours.f_double_value(&at)?, theirs.f_double_value(&at)?);
            Ok(format!("{at:?}: expected {theirs:.9e}, found {ours:.9e}"))
        })
        .collect()
}
