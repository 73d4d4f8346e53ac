//! Batches that are made while the one before is trained on.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use tch::{Device, Kind};

use super::batches::epoch_of;
use super::{Batch, Batches};
use crate::pixels::place;

/// Batches that lie ready, besides the one that is being made.
const AHEAD: usize = 1;

/// [`Batches`] on a thread of their own, which makes the next ones ahead of time.
#[derive(Debug)]
pub struct Prefetch {
    device: Device,
    kind: Kind,
    per_epoch: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nobody is making any.
    Idle(Box<Batches>),
    /// The next one to come is that of `iteration`.
    Making { iteration: u64, ready: Receiver<Result<Batch>>, maker: JoinHandle<Box<Batches>> },
    /// The maker could not be started, or has panicked.
    Lost,
}

impl Prefetch {
    /// Batches of `kind` on `device`.
    pub fn new(batches: Batches, device: Device, kind: Kind) -> Self {
        Self { device, kind, per_epoch: batches.per_epoch(), state: State::Idle(Box::new(batches)) }
    }

    /// Batches an epoch.
    pub fn per_epoch(&self) -> u64 {
        self.per_epoch
    }

    /// The epoch of an iteration; both counted from 1.
    pub fn epoch_of(&self, iteration: u64) -> u64 {
        epoch_of(iteration, self.per_epoch)
    }

    /// The batch of an iteration, as [`Batches::batch`]; that of the iteration after the last one is
    /// the one that has been made already.
    ///
    /// # Errors
    /// As [`Batches::batch`]; if there is no thread to be had.
    pub fn batch(&mut self, iteration: u64) -> Result<Batch> {
        if !matches!(self.state, State::Making { iteration: next, .. } if next == iteration) {
            self.start_at(iteration)?;
        }
        let State::Making { iteration: next, ready, .. } = &mut self.state else {
            return Err(lost());
        };
        *next += 1;
        // After an error the maker has ended; `next` is then the iteration of no one.
        let batch = ready.recv().map_err(|_| lost())?.inspect_err(|_| *next = u64::MAX)?;
        let classes = batch.classes.map(|classes| classes.f_to_device(self.device));
        let images = place(batch.images, self.device, self.kind)?;
        Ok(Batch { images, classes: classes.transpose()? })
    }

    fn start_at(&mut self, iteration: u64) -> Result<()> {
        let mut batches = match std::mem::replace(&mut self.state, State::Lost) {
            State::Idle(batches) => batches,
            State::Making { ready, maker, .. } => {
                // Nobody listens any more: the maker ends with the batch at hand.
                drop(ready);
                maker.join().map_err(|_| lost())?
            }
            State::Lost => return Err(lost()),
        };
        let (device, kind) = (self.device, self.kind);
        let (sender, ready) = sync_channel(AHEAD);
        let make = move || {
            for iteration in iteration.. {
                let batch = batches.prepare(iteration, device, kind);
                let is_last = batch.is_err();
                if sender.send(batch).is_err() || is_last {
                    break;
                }
            }
            batches
        };
        let maker = thread::Builder::new().name("batches".to_owned()).spawn(make);
        let maker = maker.context("no thread can be started for making batches")?;
        self.state = State::Making { iteration, ready, maker };
        Ok(())
    }
}

fn lost() -> anyhow::Error {
    anyhow!("the thread that makes batches has ended unexpectedly")
}

#[cfg(test)]
mod tests {
    use super::super::ImageSet;
    use super::*;
    use crate::shape::ImageShape;

    fn batches() -> Result<Batches> {
        let pixels = (0..10).flat_map(|i| vec![i; 32 * 32]).collect();
        Ok(Batches::new(ImageSet::new("ten", ImageShape::reference(1), pixels)?, 4, 0))
    }

    #[test]
    fn batches_are_the_same_as_without_a_thread_in_any_order() -> Result<()> {
        let mut plain = batches()?;
        let mut ahead = Prefetch::new(batches()?, Device::Cpu, Kind::Double);
        assert_eq!(ahead.per_epoch(), 3);
        for iteration in [1, 2, 3, 4, 5, 2, 3, 9, 1, 1, 2] {
            let expected = plain.batch(iteration, Device::Cpu, Kind::Double)?;
            let batch = ahead.batch(iteration)?;
            assert_eq!((batch.images, batch.classes), (expected, None), "{iteration}");
        }
        Ok(())
    }
}
