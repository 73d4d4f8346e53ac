//! Iterations on a CUDA device as one CUDA graph.
//!
//! An iteration consists of some hundred small operations, and asking the device for each takes the host longer than
//! the device needs for most of them. A graph asks for all of them with one call. What an iteration reads lies in the
//! same places each time, so the inputs of an iteration are copied there first.

use std::collections::BTreeMap;

use anyhow::{Context, Error, Result, ensure};
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
    /// Of the GAN whose iterations it runs; see [`Gan::memory`].
    memory: [usize; 3],
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

    /// Whether there is a graph by now.
    pub fn is_captured(&self) -> bool {
        self.captured.is_some()
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
            ensure!(captured.memory == gan.memory(), "a graph runs the iterations of one GAN only");
            captured.fill(inputs, &numbers)?;
            self.graph.replay()?;
            return Ok(captured.stats.shallow_clone());
        }
        let seen = self.seen.entry(count).or_default();
        *seen += 1;
        let is_usual = *seen > WARM_UP && self.seen.keys().all(|&other| other <= count);
        if self.captured.is_some() || self.has_given_up || !is_usual {
            // Such as the last batch of an epoch, if it is smaller.
            return gan.queue(inputs, Some(&numbers), &mut |_| Ok(()));
        }
        let (fixed, fixed_numbers) = (inputs.map(copied)?, copied(&numbers)?);
        let queue = || gan.queue(&fixed, Some(&fixed_numbers), &mut |_| Ok(()));
        match self.graph.capture(queue) {
            Ok(stats) => {
                self.graph.replay()?;
                let reported = stats.shallow_clone();
                let (inputs, numbers, memory) = (fixed, fixed_numbers, gan.memory());
                self.captured = Some(Captured { inputs, numbers, stats, memory });
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
        let (places, new) = (self.inputs.all(), inputs.all());
        ensure!(places.len() == new.len(), "an iteration reads other inputs than the graph");
        for (place, new) in places.into_iter().zip(new) {
            ensure!(
                place.size() == new.size(),
                "the graph reads {:?}, and an iteration {:?}",
                place.size(),
                new.size()
            );
            place.shallow_clone().f_copy_(new)?;
        }
        self.numbers.f_copy_(numbers)?;
        Ok(())
    }
}

impl Inputs {
    /// All tensors.
    fn all(&self) -> Vec<&Tensor> {
        let Self { real, z, classes, draws, .. } = self;
        let classes = classes.iter().flat_map(|classes| [&classes.real, &classes.generated]);
        let draws = draws.iter().flat_map(|draws| draws.all());
        [real, z].into_iter().chain(classes).chain(draws).collect()
    }

    /// The same inputs, each tensor replaced by what `change` makes of it.
    fn map(&self, mut change: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let Self { real, z, classes, draws, whole } = self;
        let classes = match classes {
            Some(BatchClasses { real, generated }) => {
                Some(BatchClasses { real: change(real)?, generated: change(generated)? })
            }
            None => None,
        };
        let (real, z) = (change(real)?, change(z)?);
        let draws = draws.iter().map(|draws| draws.map(&mut change)).collect::<Result<_>>()?;
        Ok(Self { real, z, classes, draws, whole: *whole })
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::settings::Policy;
    use crate::train::augment::Augmentation;

    fn inputs(value: i64, rows: i64) -> Result<Inputs> {
        let floats = |size: &[i64]| Tensor::full(size, value, (Kind::Float, Device::Cpu));
        let classes = || Tensor::full([rows], value, (Kind::Int64, Device::Cpu));
        let all = vec![Policy::Color, Policy::Translation, Policy::Cutout].into();
        let augmentation = Augmentation::new(&all, value as u64).context("policies are given")?;
        let mut augmenter = augmentation.begin(0, 1);
        let draws = [rows, 4, 4].map(|count| augmenter.draw(count as usize, [32, 32]));
        Ok(Inputs {
            real: floats(&[rows, 1, 32, 32]).to_kind(Kind::Float),
            z: floats(&[4, 5]),
            classes: Some(BatchClasses { real: classes(), generated: classes() }),
            draws: draws.iter().map(|it| it.tensors(Device::Cpu)).collect::<Result<_>>()?,
            whole: [rows, 4],
        })
    }

    #[test]
    fn all_that_an_iteration_reads_comes_to_where_the_graph_reads_it() -> Result<()> {
        let fixed = inputs(1, 4)?.map(copied)?;
        let nothing = || StepStats::of_nothing();
        let numbers = Tensor::from_slice(&[1.0_f32, 2.0]);
        let mut captured = Captured {
            inputs: fixed,
            numbers: copied(&numbers)?,
            stats: nothing(),
            memory: [0; 3],
        };
        let places = |captured: &Captured| {
            let all = captured.inputs.all().into_iter().chain([&captured.numbers]);
            all.map(|tensor| tensor.data_ptr() as usize).collect::<Vec<_>>()
        };
        let before = places(&captured);
        // Images, noise, two tensors of classes, three of each of three draws, and the numbers.
        assert_eq!(before.len(), 2 + 2 + 9 + 1);
        let (new, new_numbers) = (inputs(2, 4)?, Tensor::from_slice(&[3.0_f32, 4.0]));
        captured.fill(&new, &new_numbers)?;
        assert_eq!(places(&captured), before);
        for (place, new) in captured.inputs.all().into_iter().zip(new.all()) {
            assert_eq!(place, new);
        }
        assert_eq!(captured.numbers, new_numbers);
        assert!(captured.fill(&inputs(2, 3)?, &new_numbers).is_err());
        Ok(())
    }
}
