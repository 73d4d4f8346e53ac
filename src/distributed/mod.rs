//! Ranks: processes that train one GAN together, each on its rows of every batch.
//!
//! z, shuffles and batches are those of one process; a rank computes with its own rows ([`Share`]). What one process
//! would compute of a whole batch is computed by all ranks together ([`Ranks`]). [`launch`] reads what a launcher has
//! told a process of the others, and meets them.

pub mod launch;

use std::cell::Cell;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::torch::Group;

/// How often a rank looks whether rank 0 is done with what it does alone.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long rank 0 may take for what it does alone, such as an evaluation. If it ends meanwhile, its connection breaks
/// and nobody waits so long.
const ALONE_AT_MOST: Duration = Duration::from_secs(6 * 3600);

/// Which rows of a batch are those of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The rank, from 0.
    pub rank: usize,
    /// The number of ranks.
    pub count: usize,
}

impl Share {
    /// All rows: there is one rank.
    pub const WHOLE: Self = Self { rank: 0, count: 1 };

    /// Its rows of a batch of so many: as many as those of any other rank, or one more or less. There may be none.
    pub fn of(self, rows: usize) -> Range<usize> {
        let first = |rank: usize| rows * rank / self.count;
        first(self.rank)..first(self.rank + 1)
    }

    /// Its rows of `tensor`.
    ///
    /// # Errors
    /// If the tensor is a scalar.
    pub fn rows(self, tensor: &Tensor) -> Result<Tensor> {
        if self == Self::WHOLE {
            return Ok(tensor.shallow_clone());
        }
        let rows = *tensor.size().first().context("a scalar has no rows")?;
        let own = self.of(usize::try_from(rows)?);
        Ok(tensor.f_narrow(0, own.start as i64, own.len() as i64)?)
    }
}

/// This process as one of the ranks, and its connections to the others. Every rank calls the same methods in the same
/// order.
#[derive(Debug)]
pub struct Ranks {
    group: Group,
    share: Share,
    /// How many pieces of work rank 0 has done alone so far.
    done_alone: Cell<u64>,
}

impl Ranks {
    /// This process as rank number `share.rank` in `group`.
    pub fn new(group: Group, share: Share) -> Self {
        Self { group, share, done_alone: Cell::new(0) }
    }

    /// The rows of this rank.
    pub fn share(&self) -> Share {
        self.share
    }

    /// Whether this is rank 0, which alone writes files and speaks.
    pub fn is_first(&self) -> bool {
        self.share.rank == 0
    }

    /// What ranks exchange tensors through.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// From now on tensors on this CUDA device can be exchanged. Every rank has a device of its own.
    ///
    /// # Errors
    /// If this build has no NCCL, or NCCL fails.
    pub fn use_cuda(&self, device: usize) -> Result<()> {
        Ok(self.group.use_cuda(device)?)
    }

    /// Replaces `tensor`, which must be dense, by its sum over all ranks: the same bits on each.
    ///
    /// # Errors
    /// If another rank has ended or does not answer.
    pub fn sum(&self, tensor: &Tensor) -> Result<()> {
        Ok(self.group.sum(tensor)?)
    }

    /// The largest of the numbers that ranks give.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn largest(&self, number: i64) -> Result<i64> {
        Ok(self.group.gathered(&Tensor::f_from_slice(&[number])?)?.f_max()?.f_int64_value(&[])?)
    }

    /// The text that rank 0 gives; what others give does not matter.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn text_of_first(&self, text: &str) -> Result<String> {
        let length = Tensor::f_from_slice(&[text.len() as i64])?;
        self.group.broadcast(&length, 0)?;
        let length = length.f_int64_value(&[0])?;
        let bytes = match self.is_first() {
            true => Tensor::f_from_slice(text.as_bytes())?,
            false => Tensor::f_zeros([length], (Kind::Uint8, Device::Cpu))?,
        };
        if length > 0 {
            self.group.broadcast(&bytes, 0)?;
        }
        Ok(String::from_utf8(Vec::try_from(bytes)?)?)
    }

    /// The texts of all ranks, by rank.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn texts(&self, text: &str) -> Result<Vec<String>> {
        let longest = self.largest(text.len() as i64)?;
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(usize::try_from(longest)?, 0);
        // gloo has nothing to send of an empty tensor.
        bytes.push(0);
        let all = self.group.gathered(&Tensor::f_from_slice(&bytes)?)?;
        let of_rank = |rank: i64| -> Result<String> {
            let bytes = Vec::<u8>::try_from(all.f_select(0, rank)?)?;
            Ok(String::from_utf8(bytes)?.trim_end_matches('\0').to_owned())
        };
        (0..self.share.count as i64).map(of_rank).collect()
    }

    /// Does `work` on rank 0 alone. The others wait until it is done.
    ///
    /// # Errors
    /// The errors of `work` on rank 0. Others: if rank 0 ends before it is done.
    pub fn first_alone<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let number = self.done_alone.get() + 1;
        self.done_alone.set(number);
        let key = format!("done-alone/{number}");
        if self.is_first() {
            let result = work()?;
            self.group.tell(&key, "done")?;
            return Ok(Some(result));
        }
        self.wait_for(&key)?;
        Ok(None)
    }

    /// Waits until a rank has said something under the name `key`, and gives what.
    ///
    /// # Errors
    /// If rank 0, through which ranks speak, ends before that.
    pub fn wait_for(&self, key: &str) -> Result<String> {
        let start = Instant::now();
        loop {
            if let Some(text) = self.group.told(key)? {
                return Ok(text);
            }
            ensure!(start.elapsed() < ALONE_AT_MOST, "no word of `{key}` from another rank");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until all ranks are here, so that none ends while another needs it.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn barrier(&self) -> Result<()> {
        Ok(self.group.barrier()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_the_whole_in_order_and_differ_by_a_row_at_most() {
        for (rows, count) in [(128, 3), (1, 3), (0, 2), (2, 2), (7, 4), (128, 1)] {
            let shares: Vec<_> = (0..count).map(|rank| Share { rank, count }.of(rows)).collect();
            assert_eq!(
                shares.iter().cloned().flatten().collect::<Vec<_>>(),
                (0..rows).collect::<Vec<_>>()
            );
            let lengths = || shares.iter().map(ExactSizeIterator::len);
            assert!(lengths().max().unwrap() - lengths().min().unwrap() <= 1);
        }
    }
}
