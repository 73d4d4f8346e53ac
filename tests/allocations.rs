//! Work counted, not timed: the tensor memory that an iteration asks for. A pass computed twice, a
//! gradient that nobody uses or a new copy shows here on any machine.

use std::cell::Cell;
use std::ffi::{c_int, c_void};

use anyhow::Result;
use dcgan::config::Precision;
use dcgan::model::{Model, ModelConfig};
use dcgan::rng::{Latent, Stream, rng};
use dcgan::tf::{Statistics, sigmoid_cross_entropy};
use dcgan::train::step::{Gan, StepConfig};
use tch::{Device, Tensor};

use super::common::one_thread;

thread_local! {
    static COUNTED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Smaller blocks, kernels' own and scalars, say nothing of passes and copies.
const LEAST: usize = 4096;

/// What libtorch's allocator of CPU tensors calls, in place of the C library's: counts calls and bytes
/// of the calling thread.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    // The thread may be ending, its counter gone.
    let _ = COUNTED.try_with(|counted| {
        let (calls, bytes) = counted.get();
        if size >= LEAST {
            counted.set((calls + 1, bytes + size as u64));
        }
    });
    // SAFETY: memalign takes any size and the alignments that posix_memalign does, `out` is the
    // caller's to write to, and what comes from memalign may be freed as what comes from here.
    unsafe {
        let memory = libc::memalign(align, size);
        if memory.is_null() {
            return libc::ENOMEM;
        }
        *out = memory;
    }
    0
}

/// Calls and bytes that `work` asks for.
fn counted(work: impl FnOnce() -> Result<()>) -> Result<(u64, u64)> {
    let (calls, bytes) = COUNTED.get();
    work()?;
    let (calls_after, bytes_after) = COUNTED.get();
    Ok((calls_after - calls, bytes_after - bytes))
}

const BATCH: usize = 32;

struct Case {
    gan: Gan,
    real: Tensor,
    z: Tensor,
}

fn case(precision: Precision, channels: i64) -> Result<Case> {
    one_thread();
    let config = ModelConfig { channels, base_width: 8, z_dim: 10, ..Default::default() };
    let model =
        Model::new(&config, 1, Device::Cpu, precision.kind())?.computing_in(precision.compute());
    let gan = Gan::new(model, StepConfig::default())?;
    let mut noise = rng(0, Stream::Z, 1);
    let pixels = Latent::Uniform.sample(&mut noise, BATCH, 32 * 32 * channels as usize);
    let real = Tensor::from_slice(&pixels).view([BATCH as i64, 32, 32, channels]);
    let real = real.permute([0, 3, 1, 2]).to_kind(precision.kind());
    let z = gan.model.z(&Latent::Uniform.sample(&mut noise, BATCH, 10))?;
    let mut case = Case { gan, real, z };
    // The first one makes what later ones keep.
    case.gan.iteration(&case.real, &case.z)?;
    Ok(case)
}

impl Case {
    fn iteration(&mut self) -> Result<(u64, u64)> {
        counted(|| self.gan.iteration(&self.real, &self.z).map(drop))
    }
}

#[test]
fn an_iteration_asks_for_no_more_memory_than_it_did() -> Result<()> {
    // Measured when this was written. Up to a twentieth more may be scratch of another processor's
    // kernels.
    let mut failures = Vec::new();
    for (precision, channels, calls, bytes) in [
        (Precision::F32, 1, 384, 80_621_472),
        (Precision::F32, 3, 384, 62_907_664),
        (Precision::F64, 1, 349, 186_984_992),
        (Precision::Bf16, 1, 416, 36_251_192),
    ] {
        let mut case = case(precision, channels)?;
        let (found_calls, found_bytes) = case.iteration()?;
        assert!(found_calls > 0, "nothing was counted");
        if found_calls * 20 > calls * 21 || found_bytes * 20 > bytes * 21 {
            let name = precision.name();
            failures.push(format!(
                "{name}, {channels} channels: {found_calls} tensors, {found_bytes} bytes; expected \
                 {calls}, {bytes}"
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn a_generator_pass_that_is_not_shared_would_show() -> Result<()> {
    let mut case = case(Precision::F32, 1)?;
    let (_, bytes) = case.iteration()?;
    let Case { gan, z, .. } = &case;
    let (_, more_bytes) = counted(|| {
        let fake = gan.model.generator.forward(z, Statistics::Batch)?;
        sigmoid_cross_entropy(&fake, 0.0).map(drop)
    })?;
    // The bounds leave a twentieth.
    assert!(more_bytes * 20 > bytes, "{more_bytes} of {bytes}");
    Ok(())
}
