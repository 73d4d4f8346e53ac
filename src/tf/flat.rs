//! Tensors that lie side by side in one buffer, so that an operation on all of them is a single one.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// Each tensor begins at a multiple of so many bytes, as libtorch places tensors of their own.
const BOUNDARY: i64 = 64;

/// A buffer, and the places of tensors in it.
#[derive(Debug)]
pub struct Flat {
    /// The whole buffer: `[n]`. Between two tensors there may be a few zeros.
    pub all: Tensor,
    places: Vec<Place>,
    /// As many zeros as the largest gap may have.
    zeros: Tensor,
}

/// The place of a tensor in a buffer. It keeps its shape and its memory order.
#[derive(Debug, Clone)]
struct Place {
    size: Vec<i64>,
    stride: Vec<i64>,
    first: i64,
    count: i64,
}

impl Flat {
    /// Moves `tensors` into one buffer: afterwards each is a view of it, with the same shape, values and memory order.
    /// Other handles to the same tensor follow.
    ///
    /// # Errors
    /// If they differ in kind or device, or there is no memory for a second copy of them.
    pub fn of(tensors: &mut [Tensor]) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let options = match tensors.first() {
            Some(first) => (first.f_kind()?, first.device()),
            None => (Kind::Float, tch::Device::Cpu),
        };
        let boundary = BOUNDARY / options.0.elt_size_in_bytes() as i64;
        let (mut places, mut end) = (Vec::with_capacity(tensors.len()), 0);
        for tensor in tensors.iter() {
            let found = (tensor.f_kind()?, tensor.device());
            ensure!(found == options, "expected a tensor of {options:?}, found {found:?}");
            let (size, stride, count) = (tensor.size(), tensor.stride(), tensor.numel() as i64);
            places.push(Place { size, stride, first: end, count });
            end = (end + count + boundary - 1) / boundary * boundary;
        }
        let zeros = Tensor::f_zeros([boundary], options)?;
        let flat = Self { all: Tensor::f_zeros([end], options)?, places, zeros };
        for (tensor, mut view) in tensors.iter_mut().zip(flat.views()?) {
            view.f_copy_(tensor)?;
            tensor.f_set_data(&view)?;
        }
        Ok(flat)
    }

    /// A buffer of zeros with the same places.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn zeros_like(&self) -> Result<Self> {
        let zeros = self.zeros.shallow_clone();
        Ok(Self { all: self.all.f_zeros_like()?, places: self.places.clone(), zeros })
    }

    /// The tensors: views of the buffer.
    ///
    /// # Errors
    /// Never; libtorch checks that they lie within the buffer.
    pub fn views(&self) -> Result<Vec<Tensor>> {
        self.views_of(&self.all)
    }

    /// The tensors of another buffer with the same places, such as [`Self::gathered`] makes: views of it.
    ///
    /// # Errors
    /// If it is shorter.
    pub fn views_of(&self, buffer: &Tensor) -> Result<Vec<Tensor>> {
        let view =
            |place: &Place| buffer.f_as_strided(&place.size, &place.stride, Some(place.first));
        Ok(self.places.iter().map(view).collect::<Result<_, _>>()?)
    }

    /// `tensors`, one for each place and of the same shape, as a buffer of the same places: `[n]`. They are copied, all
    /// at once where their memory order is that of the places.
    ///
    /// # Errors
    /// If their number is another one.
    pub fn gathered(&self, tensors: &[Tensor]) -> Result<Tensor> {
        let (expected, found) = (self.places.len(), tensors.len());
        ensure!(expected == found, "expected {expected} tensors, found {found}");
        let end = self.all.size()[0];
        let mut pieces = Vec::with_capacity(2 * tensors.len());
        for (i, (place, tensor)) in self.places.iter().zip(tensors).enumerate() {
            ensure!(
                tensor.size() == place.size,
                "expected a tensor of {:?}, found {:?}",
                place.size,
                tensor.size()
            );
            let tensor = in_memory_order(tensor, &place.stride)?;
            pieces.push(tensor.f_as_strided([place.count], [1], None)?);
            let next = self.places.get(i + 1).map_or(end, |next| next.first);
            let gap = next - place.first - place.count;
            if gap > 0 {
                pieces.push(self.zeros.f_narrow(0, 0, gap)?);
            }
        }
        Ok(Tensor::f_cat(&pieces, 0)?)
    }
}

/// `x`, which is dense, in the memory order that `stride` says: itself if it has that order already, otherwise a copy.
pub(super) fn in_memory_order(x: &Tensor, stride: &[i64]) -> Result<Tensor> {
    if x.stride() == stride {
        return Ok(x.shallow_clone());
    }
    let mut copy = Tensor::f_empty_strided(x.size(), stride, (x.f_kind()?, x.device()))?;
    copy.f_copy_(&x.f_detach()?)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn tensors_keep_shape_values_order_and_handles_and_begin_at_boundaries() -> Result<()> {
        for (kind, boundary) in [(Kind::Float, 16), (Kind::Double, 8)] {
            let numbers = |count: i64| Tensor::arange(count, (kind, Device::Cpu)) + 1.;
            let turned = numbers(6).view([2, 3]).tr();
            let mut tensors = [numbers(3), turned, numbers(17).set_requires_grad(true)];
            let handles = tensors.each_ref().map(Tensor::shallow_clone);
            let before = tensors.each_ref().map(|tensor| (tensor.detach().copy(), tensor.stride()));
            let flat = Flat::of(&mut tensors)?;
            for ((handle, view), (values, stride)) in handles.iter().zip(flat.views()?).zip(before)
            {
                assert_eq!((handle.detach(), handle.stride()), (values.shallow_clone(), stride));
                assert_eq!(view, values);
                assert_eq!(view.data_ptr(), handle.data_ptr());
                assert_eq!(view.data_ptr() as usize % 64, 0);
            }
            assert!(handles[2].requires_grad());
            // 3, 6 and 17 values, each part filled up to a boundary.
            let parts = [3_i64, 6, 17].map(|count| (count + boundary - 1) / boundary * boundary);
            assert_eq!(flat.all.size(), [parts.iter().sum::<i64>()]);
            assert_eq!(flat.gathered(&tensors)?, flat.all, "the gaps are zeros");
            let other_order = tensors[1].tr().contiguous().tr();
            let gathered = flat.gathered(&[
                tensors[0].detach(),
                other_order.contiguous(),
                tensors[2].detach(),
            ])?;
            assert_eq!(gathered, flat.all);
            let _ = flat.views()?[0].fill_(9.);
            assert_eq!(handles[0].double_value(&[2]), 9.);
            assert!(flat.gathered(&tensors[..2]).is_err());
        }
        Ok(())
    }
}
