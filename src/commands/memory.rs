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
        let limits = system.cgroup_limits();
        let within = |of_system: u64, of_limits: Option<u64>| {
            of_limits.filter(|&limit| limit > 0).map_or(of_system, |limit| limit.min(of_system))
        };
        let total = within(system.total_memory(), limits.as_ref().map(|l| l.total_memory));
        let available = within(system.available_memory(), limits.as_ref().map(|l| l.free_memory));
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
/// [`Fixable::NetworksTooLarge`], if it never can have them.
pub(super) fn ensure_enough(expected: u64) -> Result<()> {
    let Some(Memory { total, available }) = Memory::look() else { return Ok(()) };
    let needs = format!("training takes about {} of memory", told(expected));
    if expected > total {
        let message = format!("{needs}; there are {} in all", told(total));
        return Err(Fixable::NetworksTooLarge(message).into());
    }
    if expected > available {
        say(&format!(
            "warning: {needs}, and {} are free; with a smaller --batch-size or --base-width it takes less",
            told(available)
        ));
    }
    Ok(())
}
