//! What each iteration needs from the host, made while the iteration before is trained.

use std::fmt::Debug;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};

/// Iterations for which everything lies ready, besides the one that is being made.
const AHEAD: usize = 1;

/// Makes what an iteration needs.
pub trait Make: Send + 'static {
    /// What it makes.
    type Made: Debug + Send + 'static;

    /// Makes what iteration number `iteration` needs, whichever was asked for before. It is called on a thread of its own.
    ///
    /// # Errors
    /// If it cannot be made.
    fn make(&mut self, iteration: u64) -> Result<Self::Made>;
}

/// A maker on a thread of its own, which makes the next ones ahead of time.
#[derive(Debug)]
pub struct Prefetch<M: Make>(State<M>);

#[derive(Debug)]
enum State<M: Make> {
    /// Nobody is making any.
    Idle(Box<M>),
    /// The next one to come is that of `iteration`.
    Making { iteration: u64, ready: Receiver<Result<M::Made>>, maker: JoinHandle<Box<M>> },
    /// The maker could not be started, or has panicked.
    Lost,
}

impl<M: Make> Prefetch<M> {
    /// Begins when the first iteration is asked for.
    pub fn new(maker: M) -> Self {
        Self(State::Idle(Box::new(maker)))
    }

    /// What an iteration needs. That of the iteration after the last one has been made already.
    ///
    /// # Errors
    /// As [`Make::make`]; if there is no thread to be had.
    pub fn get(&mut self, iteration: u64) -> Result<M::Made> {
        if !matches!(self.0, State::Making { iteration: next, .. } if next == iteration) {
            let maker = self.stopped()?;
            self.start_at(iteration, maker)?;
        }
        let State::Making { iteration: next, ready, .. } = &mut self.0 else {
            return Err(lost());
        };
        *next += 1;
        // After an error the maker has ended; `next` is then the iteration of no one.
        ready.recv().map_err(|_| lost())?.inspect_err(|_| *next = u64::MAX)
    }

    /// Changes the maker. What it has made ahead is thrown away.
    ///
    /// # Errors
    /// If its thread has panicked.
    pub fn change(&mut self, change: impl FnOnce(&mut M)) -> Result<()> {
        let mut maker = self.stopped()?;
        change(&mut maker);
        self.0 = State::Idle(maker);
        Ok(())
    }

    fn stopped(&mut self) -> Result<Box<M>> {
        match std::mem::replace(&mut self.0, State::Lost) {
            State::Idle(maker) => Ok(maker),
            State::Making { ready, maker, .. } => {
                // Nobody listens any more: the maker ends with what it has at hand.
                drop(ready);
                maker.join().map_err(|_| lost())
            }
            State::Lost => Err(lost()),
        }
    }

    fn start_at(&mut self, iteration: u64, mut maker: Box<M>) -> Result<()> {
        let (sender, ready) = sync_channel(AHEAD);
        let make = move || {
            for iteration in iteration.. {
                let made = maker.make(iteration);
                let is_last = made.is_err();
                if sender.send(made).is_err() || is_last {
                    break;
                }
            }
            maker
        };
        let maker = thread::Builder::new().name("batches".to_owned()).spawn(make);
        let maker = maker.context("no thread can be started for making batches")?;
        self.0 = State::Making { iteration, ready, maker };
        Ok(())
    }
}

impl<M: Make> Drop for Prefetch<M> {
    fn drop(&mut self) {
        // What it makes may lie in memory of a device's driver, which must not go first.
        let _ = self.stopped();
    }
}

fn lost() -> anyhow::Error {
    anyhow!("the thread that makes batches has ended unexpectedly")
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    /// Makes `sum` + iteration and fails at iteration 13.
    struct Adder {
        sum: u64,
    }

    impl Make for Adder {
        type Made = u64;

        fn make(&mut self, iteration: u64) -> Result<u64> {
            ensure!(iteration != 13, "thirteen");
            Ok(self.sum + iteration)
        }
    }

    #[test]
    fn any_iteration_can_be_asked_for_in_any_order_also_after_a_failure() -> Result<()> {
        let mut ahead = Prefetch::new(Adder { sum: 100 });
        for iteration in [1, 2, 3, 4, 5, 2, 3, 9, 1, 1, 2, 11, 12] {
            assert_eq!(ahead.get(iteration)?, 100 + iteration);
        }
        assert_eq!(ahead.get(13).unwrap_err().to_string(), "thirteen");
        assert_eq!(ahead.get(14)?, 114);
        Ok(())
    }

    #[test]
    fn after_a_change_nothing_is_left_of_what_was_made_before() -> Result<()> {
        let mut ahead = Prefetch::new(Adder { sum: 100 });
        assert_eq!(ahead.get(1)?, 101);
        ahead.change(|maker| maker.sum = 200)?;
        assert_eq!((ahead.get(2)?, ahead.get(3)?), (202, 203));
        Ok(())
    }
}
