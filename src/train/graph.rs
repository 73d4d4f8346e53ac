//! Iterations on a CUDA device as one CUDA graph.
//!
//! An iteration consists of some hundred small operations, and asking the device for each takes the host longer than
//! the device needs for most of them. A graph asks for all of them with one call. What an iteration reads lies in the
//! same places each time, so the inputs of an iteration are copied there first.

use std::collections::BTreeMap;

use anyhow::{Context, Error, Result};
use tch::Tensor;

use super::step::{BatchClasses, Gan, Inputs, StepStats};
use crate::torch::Graph;

/// So many iterations with as many images are asked for operation by operation before one becomes the graph. By then
/// libtorch has chosen its algorithms and has made what it keeps.
const WARM_UP: u32 = 3;

/// Runs iterations, most of them as a graph.
#[derive(Debug)]
pub struct GraphedIterations {
    /// How many iterations there were, by their number of real images.
    seen: BTreeMap<i64, u32>,
    captured: Option<Captured>,
    /// Why no graph could be made, until somebody asks.
    trouble: Option<Error>,
    /// Whether that was tried in vain.
    has_given_up: bool,
    // Behind the tensors whose memory belongs to it, because fields are dropped in order.
    graph: Graph,
}

/// The graph of an iteration: what it reads and writes.
#[derive(Debug)]
struct Captured {
    inputs: Inputs,
    numbers: Tensor,
    stats: StepStats,
}

impl GraphedIterations {
    /// Nothing is a graph yet. From now on, until this value is dropped, all work of this thread goes to a queue of its
    /// own on CUDA device number `device`.
    ///
    /// # Errors
    /// If there is no such device, or this build has no graphs.
    pub fn new(device: usize) -> Result<Self> {
        let graph = Graph::new(device)?;
        Ok(Self {
            seen: BTreeMap::new(),
            captured: None,
            trouble: None,
            has_given_up: false,
            graph,
        })
    }

    /// Why no graph could be made, if that has just happened. Iterations are then run operation by operation.
    pub fn trouble(&mut self) -> Option<Error> {
        self.trouble.take()
    }

    /// Runs one iteration like [`Gan::run`]. What it reports holds until the next iteration.
    ///
    /// # Errors
    /// As [`Gan::run`].
    pub fn run(&mut self, gan: &mut Gan, inputs: &Inputs) -> Result<StepStats> {
        let numbers = gan.begin()?.context("a graph needs a CUDA device")?;
        let count = inputs.real.size()[0];
        if let Some(captured) = &mut self.captured
            && captured.inputs.real.size()[0] == count
        {
            captured.fill(inputs, &numbers)?;
            self.graph.replay()?;
            return Ok(captured.stats.shallow_clone());
        }
        let seen = self.seen.entry(count).or_default();
        *seen += 1;
        if self.captured.is_some() || self.has_given_up || *seen <= WARM_UP {
            // Such as the last batch of an epoch, if it is smaller.
            return gan.queue(inputs, Some(&numbers), &mut |_| Ok(()));
        }
        let (fixed, fixed_numbers) = (inputs.map(copied)?, copied(&numbers)?);
        let queue = || gan.queue(&fixed, Some(&fixed_numbers), &mut |_| Ok(()));
        match self.graph.capture(queue) {
            Ok(stats) => {
                self.graph.replay()?;
                let reported = stats.shallow_clone();
                self.captured = Some(Captured { inputs: fixed, numbers: fixed_numbers, stats });
                Ok(reported)
            }
            Err(error) => {
                self.trouble = Some(error);
                self.has_given_up = true;
                gan.queue(inputs, Some(&numbers), &mut |_| Ok(()))
            }
        }
    }
}

fn copied(x: &Tensor) -> Result<Tensor> {
    let mut copy = x.f_empty_like()?;
    copy.f_copy_(x)?;
    Ok(copy)
}

impl Captured {
    /// Copies what an iteration reads to where the graph reads it.
    fn fill(&mut self, inputs: &Inputs, numbers: &Tensor) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        for (place, new) in self.inputs.all().into_iter().zip(inputs.all()) {
            place.shallow_clone().f_copy_(new)?;
        }
        self.numbers.f_copy_(numbers)?;
        Ok(())
    }
}

impl Inputs {
    /// All tensors.
    fn all(&self) -> Vec<&Tensor> {
        let Self { real, z, classes, draws } = self;
        let classes = classes.iter().flat_map(|classes| [&classes.real, &classes.generated]);
        let draws = draws.iter().flat_map(|draws| draws.all());
        [real, z].into_iter().chain(classes).chain(draws).collect()
    }

    /// The same inputs, each tensor replaced by what `change` makes of it.
    fn map(&self, mut change: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let Self { real, z, classes, draws } = self;
        let classes = match classes {
            Some(BatchClasses { real, generated }) => {
                Some(BatchClasses { real: change(real)?, generated: change(generated)? })
            }
            None => None,
        };
        let (real, z) = (change(real)?, change(z)?);
        let draws = draws.iter().map(|draws| draws.map(&mut change)).collect::<Result<_>>()?;
        Ok(Self { real, z, classes, draws })
    }
}
