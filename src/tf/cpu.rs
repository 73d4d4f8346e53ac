//! Elements of dense CPU tensors as slices. This is the only `unsafe` code in the numerics.

use anyhow::{Result, ensure};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

/// A float type that a tensor can hold.
pub(super) trait Element: num_traits::Float + Send + Sync {
    /// The tensor kind of this type.
    const KIND: Kind;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;
}

impl Element for f64 {
    const KIND: Kind = Kind::Double;
}

/// Number of elements that a thread works on at a time. Four arrays of this length fit into the second-level
/// cache of a core.
pub(super) const CHUNK: usize = 16 * 1024;

/// The elements of a dense CPU tensor, in memory order.
pub(super) fn elements<T: Element>(x: &Tensor) -> Result<&[T]> {
    check::<T>(x)?;
    Ok(match x.numel() {
        0 => &[],
        // SAFETY: `check` proved that `numel` elements of this type lie densely from `data_ptr` on. An
        // empty tensor may have a null pointer, which `from_raw_parts` must not see; the arm above handles
        // empty tensors. The slice borrows the tensor. Another handle to the same storage could write to it
        // in the meantime, but the callers, which are all in the parent module, hold a `&mut` to every
        // handle that they write to.
        numel => unsafe { std::slice::from_raw_parts(x.data_ptr().cast(), numel) },
    })
}

/// The elements of a dense CPU tensor, in memory order, as a mutable slice.
pub(super) fn elements_mut<T: Element>(x: &mut Tensor) -> Result<&mut [T]> {
    check::<T>(x)?;
    Ok(match x.numel() {
        0 => &mut [],
        // SAFETY: as in `elements`. The exclusive borrow of the handle means exclusive access to the storage,
        // because only the optimizer calls this: it has checked that the gradients it reads lie elsewhere,
        // and no forward pass runs during its step.
        numel => unsafe { std::slice::from_raw_parts_mut(x.data_ptr().cast(), numel) },
    })
}

fn check<T: Element>(x: &Tensor) -> Result<()> {
    ensure!(
        x.device() == Device::Cpu && x.f_kind()? == T::KIND && is_dense(x),
        "expected a dense {:?} tensor on the CPU, found {:?} on {:?} with shape {:?}, strides {:?}",
        T::KIND,
        x.f_kind()?,
        x.device(),
        x.size(),
        x.stride(),
    );
    Ok(())
}

/// Whether the elements fill one block of memory without gaps, in any order of dimensions.
fn is_dense(x: &Tensor) -> bool {
    let mut dims: Vec<_> =
        x.stride().into_iter().zip(x.size()).filter(|&(_, size)| size != 1).collect();
    dims.sort_unstable();
    let mut expected = 1;
    dims.into_iter().all(|(stride, size)| {
        let fits = stride == expected;
        expected *= size;
        fits
    })
}

/// Whether every element of every tensor is finite and has a finite square. The square matters because
/// Adam's second moment is a mean of squares. The tensors must be dense, on the CPU, and of kind Float or
/// Double.
///
/// # Errors
/// If a tensor is not dense, not on the CPU, or of another kind.
pub fn all_finite(tensors: &[Tensor]) -> Result<bool> {
    fn finite<T: Element>(x: &Tensor) -> Result<bool> {
        // The loop over a chunk does not stop early, so that the compiler can use vector registers.
        let is_finite = |chunk: &[T]| chunk.iter().fold(true, |all, &x| all & (x * x).is_finite());
        Ok(elements::<T>(x)?.par_chunks(CHUNK).all(is_finite))
    }
    for x in tensors {
        let finite =
            if x.f_kind()? == Kind::Double { finite::<f64>(x)? } else { finite::<f32>(x)? };
        if !finite {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_nan_or_infinity_anywhere_is_found() -> Result<()> {
        for kind in [Kind::Float, Kind::Double] {
            let square_overflows = if kind == Kind::Float { 2e19 } else { 2e154 };
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, square_overflows] {
                for at in [0, 1, 16383, 16384, 39_999] {
                    let good = Tensor::rand([40_000], (kind, Device::Cpu));
                    assert!(all_finite(&[good.shallow_clone()])?);
                    let _ = good.get(at).fill_(bad);
                    assert!(!all_finite(&[good])?, "{bad} at {at}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn only_dense_cpu_tensors_of_the_right_kind_are_lent() {
        let x = Tensor::zeros([2, 3, 4, 5], (Kind::Float, Device::Cpu));
        assert!(elements::<f32>(&x).is_ok());
        assert!(elements::<f32>(&x.permute([0, 2, 3, 1])).is_ok());
        assert!(elements::<f64>(&x).is_err());
        assert!(elements::<f32>(&x.narrow(3, 0, 2)).is_err());
        assert!(elements::<f32>(&x.narrow(0, 0, 1).expand([3, 3, 4, 5], false)).is_err());
        assert_eq!(elements::<f32>(&x.narrow(0, 0, 0)).ok(), Some(&[][..]));
    }
}
