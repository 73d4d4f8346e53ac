//! What all ranks of a training do together: each calls the same functions in the same order, rank 0 as a whole run
//! ([`super::train_among`]), the others as workers ([`super::assist`]).

use anyhow::{Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use super::interrupt::{Interrupt, Request};
use super::state::{Entry, state};
use super::step::Gan;
use crate::distributed::{Ranks, Share};
use crate::finite::NotFinite;
use crate::run::watch::Watch;
use crate::sample::{BLOCK, Sampler};

/// What all ranks need to know of a run's state besides its tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Position {
    /// How many iterations are done.
    pub(super) iteration: u64,
    /// The state of the watch for collapse.
    pub(super) watch: Watch,
    /// How often the run has switched to other noise.
    pub(super) salt: u8,
    /// How often the run was rolled back.
    pub(super) rollbacks: usize,
    /// Whether rank 0 evaluates samples.
    pub(super) evaluates: bool,
}

/// Gives all ranks the state of rank 0: its tensors, and the `position` that it gives.
///
/// # Errors
/// If another rank has ended or does not answer.
pub(super) fn hand_out(
    gan: &mut Gan,
    ranks: &Ranks,
    position: Option<&Position>,
) -> Result<Position> {
    let text = match position {
        Some(position) => serde_json::to_string(position)?,
        None => String::new(),
    };
    let position: Position = serde_json::from_str(&ranks.text_of_first(&text)?)?;
    for Entry { tensor, .. } in state(gan) {
        ranks.group().broadcast(&tensor, 0)?;
    }
    if !ranks.is_first() {
        gan.continue_from(position.iteration)?;
    }
    Ok(position)
}

/// Checks that all ranks have the same bits, and that all values are finite.
///
/// # Errors
/// [`NotFinite`] on all ranks, if a value of any is not finite; if another rank has other bits, has ended or does not
/// answer.
pub(super) fn agree(gan: &Gan, ranks: &Ranks) -> Result<()> {
    let mut hash = Sha256::new();
    let mut not_finite = String::new();
    for Entry { name, tensor, .. } in state(gan) {
        let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
        if tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            not_finite = name;
            break;
        }
        let mut bytes = vec![0; tensor.numel() * tensor.f_kind()?.elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        hash.update(bytes);
    }
    // Said before anybody stops, so that all stop for the same reason.
    if let Some(name) = ranks.texts(&not_finite)?.into_iter().find(|name| !name.is_empty()) {
        return Err(anyhow!(NotFinite).context(name));
    }
    let hashes = ranks.texts(&hex::encode(hash.finalize()))?;
    let other = hashes.iter().position(|other| *other != hashes[0]);
    ensure!(
        other.is_none(),
        "rank {} has come to other weights than rank 0; all machines need the same program, libtorch and kind of processor",
        other.unwrap_or_default()
    );
    Ok(())
}

/// The result of what this rank has done, unless it has failed on any.
///
/// # Errors
/// The error of this rank, else [`NotFinite`]: what ranks do alone fails for the values that they come to. If another
/// rank has ended or does not answer.
pub(super) fn unless_any_fails<T>(ranks: &Ranks, own: Result<T>) -> Result<T> {
    let any_fails = ranks.largest(own.is_err().into())? != 0;
    let own = own?;
    if any_fails { Err(NotFinite.into()) } else { Ok(own) }
}

/// The first `count` images of `seed`, `[count, H, W, C]`: each rank makes some, and rank 0 gets them all.
///
/// # Errors
/// [`NotFinite`] on all ranks, if a pixel of any is not finite; if another rank has ended or does not answer.
pub(super) fn sampled(
    sampler: &Sampler,
    ranks: &Ranks,
    seed: u64,
    count: usize,
) -> Result<Option<Vec<u8>>> {
    // Whole blocks, so that an image has the same bits however many ranks there are.
    let numbers_of = |rank| {
        let blocks = Share { rank, ..ranks.share() }.of(count.div_ceil(BLOCK));
        (blocks.start * BLOCK).min(count)..(blocks.end * BLOCK).min(count)
    };
    let length = sampler.image_len();
    let own = sampler.sample_range(seed, numbers_of(ranks.share().rank));
    let mut own = unless_any_fails(ranks, own)?;
    let most = (0..ranks.share().count).map(|rank| numbers_of(rank).len()).max();
    own.resize(most.unwrap_or_default() * length, 0);
    let all = ranks.group().gathered(&Tensor::f_from_slice(&own)?)?;
    if !ranks.is_first() {
        return Ok(None);
    }
    let mut images = Vec::with_capacity(count * length);
    for rank in 0..ranks.share().count {
        let of_rank = Vec::<u8>::try_from(all.f_get(rank as i64)?)?;
        images.extend_from_slice(&of_rank[..numbers_of(rank).len() * length]);
    }
    Ok(Some(images))
}

/// What a signal has asked any of the ranks for: the same answer on all.
///
/// # Errors
/// If another rank has ended or does not answer.
pub(super) fn requested(interrupt: &Interrupt, ranks: Option<&Ranks>) -> Result<Option<Request>> {
    let own = interrupt.requested();
    match ranks {
        None => Ok(own),
        Some(ranks) => Ok(Request::of(ranks.largest(Request::code(own))?)),
    }
}
