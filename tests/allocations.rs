//! Measures the work of an iteration by counting the tensor memory that it allocates, instead of by time. If a
//! pass is computed twice, or a gradient is computed that nobody uses, this shows it on any processor.

use std::cell::Cell;
use std::ffi::{c_int, c_void};

use anyhow::{Context, Result};
use dcgan::model::{Model, ModelConfig};
use dcgan::rng::{Latent, Stream, rng};
use dcgan::settings::Precision;
use dcgan::shape::ImageShape;
use dcgan::tf::{Statistics, sigmoid_cross_entropy};
use dcgan::train::step::{Gan, StepConfig};
use tch::{Device, Tensor};

use super::common::one_thread;

thread_local! {
    static COUNTED: Cell<u64> = const { Cell::new(0) };
}

/// Smaller blocks are not counted. They are scalars and scratch memory of kernels, and do not show whether a pass
/// or a copy was made.
const LEAST: usize = 4096;

/// Replaces the C library's function of this name, which libtorch calls to allocate CPU tensors. It counts the
/// bytes that the calling thread asks for.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    // If the thread is ending, its counter may be gone already; then nothing is counted.
    let _ = COUNTED.try_with(|counted| {
        if size >= LEAST {
            counted.set(counted.get() + size as u64);
        }
    });
    // SAFETY: memalign accepts any size and the same alignments as posix_memalign. The caller guarantees that
    // `out` may be written to. Memory from memalign may be freed in the same way as memory from posix_memalign.
    unsafe {
        let memory = libc::memalign(align, size);
        if memory.is_null() {
            return libc::ENOMEM;
        }
        *out = memory;
    }
    0
}

/// The number of bytes that `work` allocates.
fn counted(work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let before = COUNTED.get();
    work()?;
    Ok(COUNTED.get() - before)
}

const BATCH: usize = 32;

struct Case {
    gan: Gan,
    real: Tensor,
    z: Tensor,
}

fn case(precision: Precision, channels: usize) -> Result<Case> {
    one_thread();
    let config = ModelConfig {
        image: ImageShape::reference(channels),
        base_width: 8,
        z_dim: 10,
        ..Default::default()
    };
    let model =
        Model::new(&config, 1, Device::Cpu, precision.kind())?.computing_in(precision.compute());
    let gan = Gan::new(model, StepConfig::default())?;
    let mut noise = rng(0, Stream::Z, 1);
    let pixels = Latent::Uniform.sample(&mut noise, BATCH, 32 * 32 * channels);
    let real = Tensor::from_slice(&pixels).view([BATCH as i64, 32, 32, channels as i64]);
    let real = real.permute([0, 3, 1, 2]).to_kind(precision.kind());
    let z = gan.model.z(&Latent::Uniform.sample(&mut noise, BATCH, 10))?;
    let mut case = Case { gan, real, z };
    // The first iteration allocates memory that later iterations use again.
    case.gan.iteration(&case.real, &case.z)?;
    Ok(case)
}

/// The bytes that the parts of an iteration allocate, where each part runs once and on its own.
struct Parts {
    generator_forward: u64,
    /// One pass of the discriminator in its own step, on real or on generated images.
    discriminator_forward: u64,
    discriminator_backward: u64,
    /// The discriminator's forward pass in a generator's step, where its weights get no gradients.
    judging: u64,
    generator_backward: u64,
    /// The casts of the weights to the kind in which the networks compute.
    generator_cast: u64,
    discriminator_cast: u64,
    generator_adam: u64,
    discriminator_adam: u64,
}

impl Case {
    fn iteration(&mut self) -> Result<u64> {
        counted(|| self.gan.iteration(&self.real, &self.z).map(drop))
    }

    fn parts(&mut self) -> Result<Parts> {
        let Self { gan, real, z } = self;
        let compute = gan.model.compute;
        let updating = Statistics::BatchUpdating { momentum: 0.1 };
        let (mut generator, mut discriminator, mut fake) = (None, None, None);
        let generator_cast = counted(|| {
            generator = Some(gan.model.generator.cast(compute)?);
            Ok(())
        })?;
        let discriminator_cast = counted(|| {
            discriminator = Some(gan.model.discriminator.cast(compute)?);
            Ok(())
        })?;
        let (Some(generator), Some(discriminator)) = (generator, discriminator) else {
            unreachable!("both were just made")
        };
        let generator_forward = counted(|| {
            fake = Some(generator.forward(z, updating)?);
            Ok(())
        })?;
        let fake = fake.context("the pass has given no images")?;

        let mut d_loss = Tensor::new();
        let both = counted(|| {
            let on = |images: &Tensor, label| {
                sigmoid_cross_entropy(&discriminator.forward(images, None, updating)?, label)
            };
            d_loss = on(real, 0.9)?.f_add(&on(&fake.f_detach()?, 0.0)?)?;
            Ok(())
        })?;
        let mut gradients = Vec::new();
        let discriminator_backward = counted(|| {
            gradients = Tensor::f_run_backward(&[&d_loss], &gan.d_adam.variables(), false, false)?;
            Ok(())
        })?;
        let discriminator_adam = counted(|| gan.d_adam.step(&gradients))?;

        // The step has changed the weights, so their casts are made again.
        let discriminator = gan.model.discriminator.cast(compute)?;
        let mut g_loss = Tensor::new();
        let judging = counted(|| {
            let logits = discriminator.forward(&fake, None, Statistics::Batch)?;
            g_loss = sigmoid_cross_entropy(&logits, 1.0)?;
            Ok(())
        })?;
        let generator_backward = counted(|| {
            gradients = Tensor::f_run_backward(&[&g_loss], &gan.g_adam.variables(), false, false)?;
            Ok(())
        })?;
        let generator_adam = counted(|| gan.g_adam.step(&gradients))?;
        Ok(Parts {
            generator_forward,
            discriminator_forward: both / 2,
            discriminator_backward,
            judging,
            generator_backward,
            generator_cast,
            discriminator_cast,
            generator_adam,
            discriminator_adam,
        })
    }
}

impl Parts {
    /// The bytes that an iteration with one discriminator step and two generator steps needs. The generator runs
    /// twice, not three times, and each step computes gradients only for the network that it trains.
    fn needed(&self) -> u64 {
        2 * (self.generator_cast + self.generator_forward)
            + 2 * self.discriminator_cast
            + 2 * self.discriminator_forward
            + self.discriminator_backward
            + self.discriminator_adam
            + 2 * (self.judging + self.generator_backward + self.generator_adam)
    }
}

const PRECISIONS: [(Precision, usize); 4] =
    [(Precision::F32, 1), (Precision::F32, 3), (Precision::F64, 1), (Precision::Bf16, 1)];

/// By which part an iteration may allocate more than it needs, because a library may keep memory or allocate it
/// again. On an AMD EPYC (Zen 4) both numbers are equal to the byte.
const SLACK: f64 = 0.01;

// How much scratch memory a kernel allocates depends on the processor. So this test does not expect a fixed number
// of bytes; it compares an iteration with its parts, which are counted in the same process.
#[test]
fn an_iteration_asks_for_no_more_memory_than_its_parts() -> Result<()> {
    let mut failures = Vec::new();
    for (precision, channels) in PRECISIONS {
        let mut case = case(precision, channels)?;
        let found = case.iteration()?;
        let needed = case.parts()?.needed();
        assert!(needed > 0, "nothing was counted");
        if !(found as f64 <= (1.0 + SLACK) * needed as f64) {
            let name = precision.name();
            failures.push(format!(
                "{name}, {channels} channels: {found} bytes; the parts take {needed}"
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn a_generator_pass_that_is_not_shared_would_show() -> Result<()> {
    for (precision, channels) in PRECISIONS {
        let mut case = case(precision, channels)?;
        let found = case.iteration()?;
        let parts = case.parts()?;
        let bound = (1.0 + SLACK) * parts.needed() as f64;
        // What the iteration would allocate if two steps did not share a pass of the generator.
        let unshared = found + parts.generator_forward;
        assert!(unshared as f64 > bound, "{}, {channels} channels", precision.name());
    }
    Ok(())
}
