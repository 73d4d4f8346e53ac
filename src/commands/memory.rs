//! Whether the machine has the memory that training takes.

use anyhow::Result;
use dcgan::error::Fixable;
use indicatif::DecimalBytes;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::progress::say;

/// The memory of the machine, or of the container that the program runs in.
struct Memory {
    total: u64,
    available: u64,
}

impl Memory {
    /// What the system says of it; `None` where it says nothing.
    fn look() -> Option<Self> {
        let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(memory);
        let (mut total, mut available) = (system.total_memory(), system.available_memory());
        if let Some(limits) = system.cgroup_limits().filter(|limits| limits.total_memory > 0) {
            total = total.min(limits.total_memory);
            // Files that the system keeps in memory count as used by a container, but they make room.
            available = available.min(limits.total_memory.saturating_sub(limits.rss));
        }
        (total > 0).then_some(Self { total, available })
    }
}

/// A number of bytes as people read it.
pub(super) fn told(bytes: u64) -> String {
    DecimalBytes(bytes).to_string()
}

/// Checks that this machine has the `expected` bytes of memory. If it has them and others use too much of it now, that
/// is a warning.
///
/// # Errors
/// [`Fixable::TrainingTooLarge`], if it never can have them.
pub(super) fn ensure_enough(expected: u64) -> Result<()> {
    let Some(Memory { total, available }) = Memory::look() else { return Ok(()) };
    let needs = format!("training takes about {} of memory", told(expected));
    if expected > total {
        let message = format!("{needs}; there are {} in all", told(total));
        return Err(Fixable::TrainingTooLarge(message).into());
    }
    if expected > available {
        say(&format!(
            "warning: {needs}, and {} are free; with a smaller --batch-size or --base-width it takes less",
            told(available)
        ));
    }
    Ok(())
}
