//! What libtorch has and `tch` lacks, through a few C++ functions of our own: the switches for TensorFloat-32 and for
//! deterministic algorithms, a counter of operators, a fused Adam, convolutions as matrix products, times on a CUDA device,
//! CUDA graphs, and groups of processes ([`Group`]).
//!
//! `shim.h` and `dist.h` say what each function does. `shim.cpp`, `conv.cpp` and `dist.cpp` are compiled into every build,
//! `graph.cpp` and `nccl.cpp` where the libtorch in use was built with CUDA and `build.rs` finds CUDA's headers, and NCCL's. This is
//! the project's only foreign code.

mod group;

pub use group::{
    Exchanged, Failure, Group, GroupConfig, GroupError, HAS_NCCL, count_exchange, exchanged,
};

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int};
use std::ptr::{NonNull, null_mut};

use anyhow::{Result, anyhow};
use tch::Tensor;
use torch_sys::C_tensor;

#[repr(C)]
struct RawMark {
    _private: [u8; 0],
}

#[cfg(cuda_graphs)]
#[repr(C)]
struct RawGraph {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn dcgan_free_message(message: *mut c_char);
    fn dcgan_allow_tf32(allow: bool) -> *mut c_char;
    fn dcgan_deterministic(on: bool) -> *mut c_char;
    fn dcgan_is_grad_enabled(is_enabled: *mut bool) -> *mut c_char;
    fn dcgan_start_counting() -> *mut c_char;
    fn dcgan_stop_counting(counts: *mut *mut c_char) -> *mut c_char;
    fn dcgan_fused_adam(
        theta: *mut C_tensor,
        gradient: *mut C_tensor,
        m: *mut C_tensor,
        v: *mut C_tensor,
        many_steps: *mut C_tensor,
        alpha: *mut C_tensor,
        found_inf: *mut C_tensor,
        beta1: f64,
        beta2: f64,
        epsilon: f64,
    ) -> *mut c_char;
    fn dcgan_conv_by_product(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        transposed: bool,
        at_once: i64,
        y: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn dcgan_has_amx_bf16(has: *mut bool) -> *mut c_char;
    fn dcgan_mark(device: c_int, mark: *mut *mut RawMark) -> *mut c_char;
    fn dcgan_free_mark(mark: *mut RawMark);
    fn dcgan_milliseconds_between(
        from: *mut RawMark,
        to: *mut RawMark,
        milliseconds: *mut f64,
    ) -> *mut c_char;
}

#[cfg(cuda_graphs)]
unsafe extern "C" {
    fn dcgan_graph(device: c_int, graph: *mut *mut RawGraph) -> *mut c_char;
    fn dcgan_free_graph(graph: *mut RawGraph);
    fn dcgan_begin_capture(graph: *mut RawGraph) -> *mut c_char;
    fn dcgan_end_capture(graph: *mut RawGraph) -> *mut c_char;
    fn dcgan_replay(graph: *mut RawGraph) -> *mut c_char;
}

/// Takes over a text that the shim has allocated.
///
/// # Safety
/// `text` is such a text, is not null, and is used nowhere else.
unsafe fn taken(text: *mut c_char) -> String {
    // SAFETY: the caller's promise. The shim's texts end with a zero, and only dcgan_free_message frees them.
    unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        dcgan_free_message(text);
        owned
    }
}

/// What a function of the shim has returned, as a result.
fn done(message: *mut c_char) -> Result<()> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: every function of the shim returns null or a message that it has allocated for its caller.
    let message = unsafe { taken(message) };
    Err(anyhow!("libtorch: {}", message.trim_end()))
}

/// The pointer that `tch` holds.
fn raw(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr().cast_mut()
}

/// Whether matrix products and convolutions of float32 on CUDA may round their factors to TensorFloat-32, whose mantissa
/// has 10 bits. Without this call, libtorch's convolutions do and its matrix products do not.
///
/// # Errors
/// If libtorch refuses.
pub fn allow_tf32(allow: bool) -> Result<()> {
    // SAFETY: it takes a plain value and sets a switch of libtorch's.
    done(unsafe { dcgan_allow_tf32(allow) })
}

/// Whether operations may only use algorithms that give the same bits each time, on the same device. An operation that
/// has no such algorithm is then an error.
///
/// # Errors
/// If libtorch refuses.
pub fn deterministic(on: bool) -> Result<()> {
    // SAFETY: it takes a plain value and sets switches of libtorch's.
    done(unsafe { dcgan_deterministic(on) })
}

/// Whether this thread records what gradients need.
pub fn is_grad_enabled() -> bool {
    let mut is_enabled = true;
    // SAFETY: `is_enabled` is written to before the function returns.
    done(unsafe { dcgan_is_grad_enabled(&raw mut is_enabled) }).is_err() || is_enabled
}

/// Runs `work` and counts how often this thread calls each of libtorch's operators. An operator that calls others is not
/// counted, they are; but a convolution counts as one. On the CPU backward passes run on the thread that asks for them.
///
/// # Errors
/// If this thread is counting already, and the errors of `work`.
pub fn counted<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, BTreeMap<String, u64>)> {
    // SAFETY: it takes nothing.
    done(unsafe { dcgan_start_counting() })?;
    let result = work();
    let mut text = null_mut();
    // SAFETY: `text` is written to before the function returns, and only then if there is no message.
    done(unsafe { dcgan_stop_counting(&raw mut text) })?;
    // SAFETY: without a message, the function has written a text of its own.
    let text = unsafe { taken(text) };
    let counts = text.lines().filter_map(|line| {
        let (name, count) = line.rsplit_once(' ')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    Ok((result?, counts.collect()))
}

/// What a step of [`fused_adam`] changes: tensors of float32, dense, equally long, on one device.
#[derive(Debug)]
pub struct AdamState<'a> {
    /// The weights.
    pub theta: &'a Tensor,
    /// First moments.
    pub m: &'a Tensor,
    /// Second moments.
    pub v: &'a Tensor,
}

/// The numbers of a step of [`fused_adam`].
#[derive(Debug)]
pub struct AdamStep<'a> {
    /// The step size with the bias correction in it: a float32 scalar on the device.
    pub alpha: &'a Tensor,
    /// 1 if the step is not to be taken, else 0: a float32 scalar on the device.
    pub found_inf: &'a Tensor,
    /// So many steps, that PyTorch's own bias correction is 1: a float32 scalar on the device.
    pub many_steps: &'a Tensor,
    /// Decay of the first moments.
    pub beta1: f64,
    /// Decay of the second moments.
    pub beta2: f64,
    /// Added to the square root of the second moments.
    pub epsilon: f64,
}

/// One step of TensorFlow's Adam in one kernel.
///
/// # Errors
/// If the tensors do not fit each other.
pub fn fused_adam(state: &AdamState, gradient: &Tensor, step: &AdamStep) -> Result<()> {
    let AdamState { theta, m, v } = state;
    let AdamStep { alpha, found_inf, many_steps, beta1, beta2, epsilon } = *step;
    let [theta, gradient, m, v] = [*theta, gradient, *m, *v].map(raw);
    let [many_steps, alpha, found_inf] = [many_steps, alpha, found_inf].map(raw);
    // SAFETY: all pointers are those of live tensors; libtorch checks their shapes, kinds and devices. The tensors that
    // change are shared through handles anyway, as everywhere in `tch`.
    done(unsafe {
        dcgan_fused_adam(theta, gradient, m, v, many_steps, alpha, found_inf, beta1, beta2, epsilon)
    })
}

/// Whether this build computes [`conv_by_product`] on all threads. Elsewhere the parts around the products take one.
pub const HAS_OPENMP: bool = cfg!(openmp);

/// A convolution with kernel 5, stride 2 and padding 2 as a matrix product, on the CPU, in channels-last order:
/// `x` `[N, C, 2H, 2W]`, `weight` `[A, C, 5, 5]` and `bias` `[A]` → `[N, A, H, W]`. If `transposed`: `x` `[N, A, H, W]`
/// and `bias` `[C]` → `[N, C, 2H, 2W]`. Columns are made for `at_once` images at a time, which bounds the memory that is taken.
///
/// Gradients are recorded. They have no gradients themselves: asking for these is an error.
///
/// # Errors
/// If the shapes do not go together, or the kind is none of float32, float64 and bfloat16.
pub fn conv_by_product(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    transposed: bool,
    at_once: i64,
) -> Result<Tensor> {
    let [x, weight, bias] = [x, weight, bias].map(Tensor::as_ptr);
    let mut y = null_mut();
    // SAFETY: the tensors are live, and `y` is written to before the function returns, if there is no message.
    done(unsafe { dcgan_conv_by_product(x, weight, bias, transposed, at_once, &raw mut y) })?;
    // SAFETY: without a message, the function has made a tensor, whose only owner this is.
    Ok(unsafe { Tensor::from_ptr(y) })
}

/// Whether the processor multiplies matrices of bfloat16 in tiles (AMX), and the system permits this process to use them.
pub fn has_amx_bf16() -> bool {
    let mut has = false;
    // SAFETY: `has` is written to before the function returns.
    // Where libtorch cannot tell, nothing is known to be there.
    done(unsafe { dcgan_has_amx_bf16(&raw mut has) }).is_ok() && has
}

/// A point in the queue of work of a CUDA device.
#[derive(Debug)]
pub struct Mark(NonNull<RawMark>);

impl Mark {
    /// Behind all the work that this thread has asked of CUDA device number `device` so far.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn now(device: usize) -> Result<Self> {
        let mut mark = null_mut();
        // SAFETY: `mark` is written to before the function returns.
        done(unsafe { dcgan_mark(c_int::try_from(device)?, &raw mut mark) })?;
        NonNull::new(mark).map(Self).ok_or_else(|| anyhow!("libtorch made no event"))
    }

    /// Waits until the device has come to it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn wait(&self) -> Result<()> {
        // From a point to itself it takes no time, and both are waited for.
        self.milliseconds_to(self).map(|_| ())
    }

    /// Waits until the device has come to both, and tells how many milliseconds it took from this one to `later`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn milliseconds_to(&self, later: &Self) -> Result<f64> {
        let mut milliseconds = 0.;
        // SAFETY: both pointers are live, and `milliseconds` is written to before the function returns.
        done(unsafe {
            dcgan_milliseconds_between(self.0.as_ptr(), later.0.as_ptr(), &raw mut milliseconds)
        })?;
        Ok(milliseconds)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: the pointer is live, and this is its only owner.
        unsafe { dcgan_free_mark(self.0.as_ptr()) }
    }
}

/// Whether this build can make CUDA graphs.
pub const HAS_GRAPHS: bool = cfg!(cuda_graphs);

/// Work of a CUDA device that has been asked for once and can then be done again and again, with one call.
///
/// While it lives, all work of the thread that made it goes to a queue of its own.
#[derive(Debug)]
pub(crate) struct Graph {
    #[cfg(cuda_graphs)]
    raw: NonNull<RawGraph>,
    /// So there is none.
    #[cfg(not(cuda_graphs))]
    none: std::convert::Infallible,
    /// Queues belong to threads.
    _one_thread: std::marker::PhantomData<*const ()>,
}

#[cfg(cuda_graphs)]
impl Graph {
    /// An empty graph on CUDA device number `device`.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn new(device: usize) -> Result<Self> {
        let mut graph = null_mut();
        // SAFETY: `graph` is written to before the function returns.
        done(unsafe { dcgan_graph(c_int::try_from(device)?, &raw mut graph) })?;
        let raw = NonNull::new(graph).ok_or_else(|| anyhow!("libtorch made no graph"))?;
        Ok(Self { raw, _one_thread: std::marker::PhantomData })
    }

    /// Makes the graph of what `work` asks of the device. Nothing of it is done yet. The tensors that `work` makes hold
    /// what [`Self::replay`] computes; memory that it reads has to stay where it is.
    ///
    /// # Errors
    /// If `work` reads a value from the device or waits for it, and the errors of `work`.
    pub fn capture<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        // SAFETY: the pointer is live, and no other thread has it.
        done(unsafe { dcgan_begin_capture(self.raw.as_ptr()) })?;
        let result = work();
        // SAFETY: as above. It comes after the beginning, also where `work` has failed.
        let end = done(unsafe { dcgan_end_capture(self.raw.as_ptr()) });
        let result = result?;
        end.map(|()| result)
    }

    /// Asks for the work of the graph to be done.
    ///
    /// # Errors
    /// If nothing has been captured, or the device fails.
    pub fn replay(&mut self) -> Result<()> {
        // SAFETY: the pointer is live, and no other thread has it.
        done(unsafe { dcgan_replay(self.raw.as_ptr()) })
    }
}

#[cfg(cuda_graphs)]
impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the pointer is live, and this is its only owner.
        unsafe { dcgan_free_graph(self.raw.as_ptr()) }
    }
}

#[cfg(not(cuda_graphs))]
impl Graph {
    /// Says that this build has none.
    ///
    /// # Errors
    /// Always.
    pub fn new(_device: usize) -> Result<Self> {
        Err(anyhow!("this build has no CUDA graphs"))
    }

    /// As in builds that have graphs.
    ///
    /// # Errors
    /// Never, as there is no graph.
    pub fn capture<T>(&mut self, _work: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.none {}
    }

    /// As in builds that have graphs.
    ///
    /// # Errors
    /// Never, as there is no graph.
    pub fn replay(&mut self) -> Result<()> {
        match self.none {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_counted_and_errors_come_as_messages() -> Result<()> {
        let x = Tensor::from_slice(&[1.0_f32, 2.0]);
        let (sum, counts) = counted(|| Ok((&x + &x).f_add(&x)?))?;
        assert_eq!(sum, Tensor::from_slice(&[3.0_f32, 6.0]));
        assert_eq!(counts["aten::add"], 2, "{counts:?}");

        let zeros = Tensor::from_slice(&[0.0_f32, 0.0]);
        let state = AdamState { theta: &x, m: &zeros, v: &zeros };
        let scalar = Tensor::from(0.0_f32);
        let [alpha, found_inf, many_steps] = [&scalar, &scalar, &scalar];
        let step = AdamStep { alpha, found_inf, many_steps, beta1: 0.5, beta2: 0.9, epsilon: 1e-8 };
        let of_other_kind = Tensor::from_slice(&[0.0_f64, 0.0]);
        let error = fused_adam(&state, &of_other_kind, &step).unwrap_err();
        assert!(error.to_string().starts_with("libtorch: "), "{error}");
        Ok(())
    }
}
