//! On which side of a ReLU's kink activations fall.
//!
//! A value within rounding of 0 may fall on either side, and so change a gradient by far more than rounding does. Who
//! compares float32 with float64 has to know where that has happened: [`Kinks`] keeps what went into the ReLUs of one run,
//! and lets another run of more digits fall on the same sides.

use std::cell::RefCell;
use std::collections::VecDeque;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

/// So many times the root of a layer's mean squared rounding is how far from 0 it may put a value on the other side.
const REACH: f64 = 16.0;
/// No reach is longer than this share of the root of a layer's mean square, so that nothing but rounding is excused.
const LONGEST_REACH: f64 = 1e-4;

/// The values that went into ReLUs, in the order of passes and layers.
#[derive(Debug)]
pub struct Kinks(RefCell<State>);

#[derive(Debug)]
enum State {
    Recording(VecDeque<Tensor>),
    Replaying(VecDeque<Tensor>, KinkCount),
}

/// What a run that fell on the sides of another one has met.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct KinkCount {
    /// Activations of all passes.
    pub activations: i64,
    /// Those that lie so near to 0 that rounding may put them on the other side.
    pub near: i64,
    /// Those that rounding has put on the other side.
    pub crossed: i64,
    /// The largest rounding of a layer in proportion to its values, both as roots of mean squares.
    pub rounding: f64,
}

impl Kinks {
    /// Keeps what goes into the ReLUs.
    pub fn recording() -> Self {
        Self(RefCell::new(State::Recording(VecDeque::new())))
    }

    /// Lets the next run fall on the sides of the one that has been recorded.
    pub fn replay(&self) {
        let mut state = self.0.borrow_mut();
        if let State::Recording(recorded) = &mut *state {
            *state = State::Replaying(std::mem::take(recorded), KinkCount::default());
        }
    }

    /// What has been met since [`Self::replay`].
    pub fn count(&self) -> KinkCount {
        match &*self.0.borrow() {
            State::Recording(_) => KinkCount::default(),
            State::Replaying(_, count) => *count,
        }
    }

    /// What a ReLU with this slope for negative values makes of `x`, on the sides of the recorded run. `None` while a run is
    /// recorded: then it is computed as always.
    ///
    /// # Errors
    /// If the recorded run had fewer ReLUs, or others.
    pub fn relu(&self, x: &Tensor, slope: f64) -> Result<Option<Tensor>> {
        let mut state = self.0.borrow_mut();
        let (recorded, count) = match &mut *state {
            State::Recording(all) => {
                all.push_back(x.f_detach_copy()?);
                return Ok(None);
            }
            State::Replaying(all, count) => {
                (all.pop_front().context("the recorded run had fewer ReLUs")?, count)
            }
        };
        let factors = tch::no_grad(|| -> Result<Tensor> {
            let root_of_mean_square =
                |x: &Tensor| x.f_square()?.f_mean(Kind::Double)?.f_sqrt()?.f_double_value(&[]);
            let values = x.f_detach()?;
            let recorded = recorded.f_to_kind(values.kind())?;
            let rounding = root_of_mean_square(&recorded.f_sub(&values)?)?;
            let size = root_of_mean_square(&values)?;
            let reach = (REACH * rounding).min(LONGEST_REACH * size);
            let is_near = values.f_abs()?.f_le(reach)?;
            let (own, other) = (values.f_gt(0.)?, recorded.f_gt(0.)?);
            let crossed = is_near.f_logical_and(&own.f_logical_xor(&other)?)?;
            let number = |which: &Tensor| which.f_sum(Kind::Int64)?.f_int64_value(&[]);
            count.activations += values.numel() as i64;
            count.near += number(&is_near)?;
            count.crossed += number(&crossed)?;
            if size > 0.0 {
                count.rounding = count.rounding.max(rounding / size);
            }
            let side = own.f_logical_xor(&crossed)?.f_to_kind(values.kind())?;
            Ok(side.f_mul_scalar(1.0 - slope)?.f_add_scalar(slope)?)
        })?;
        Ok(Some(x.f_mul(&factors)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_within_rounding_of_0_falls_on_the_side_of_the_recorded_run_and_no_other_does()
    -> Result<()> {
        let kinks = Kinks::recording();
        let rounded = [1.0, -2.0, 1e-7, 3.0, -0.5].map(|x: f64| x as f32);
        assert_eq!(kinks.relu(&Tensor::from_slice(&rounded), 0.2)?, None);
        kinks.replay();
        let x = Tensor::from_slice(&[1.0 + 3e-8, -2.0, -1e-7, 3.0, 0.5]).set_requires_grad(true);
        let y = kinks.relu(&x, 0.2)?.context("nothing is replayed")?;
        let slopes = Tensor::run_backward(&[y.sum(Kind::Double)], &[&x], false, false);
        // The third crossed over. The last is no rounding: it is not excused.
        let expected = Tensor::from_slice(&[1.0, 0.2, 1.0, 1.0, 1.0]);
        assert_eq!(slopes[0], expected);
        assert_eq!(y.detach(), x.detach() * expected);
        let KinkCount { activations, near, crossed, .. } = kinks.count();
        assert_eq!((activations, near, crossed), (5, 1, 1));
        assert!(kinks.relu(&x, 0.2).is_err(), "there were no more");
        Ok(())
    }
}
