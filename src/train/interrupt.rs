//! Signals that ask a run to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

#[cfg(unix)]
const SIGNALS: [(i32, &str); 3] =
    [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (signal_hook::consts::SIGHUP, "SIGHUP")];
#[cfg(not(unix))]
const SIGNALS: [(i32, &str); 2] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM")];

/// A signal that asked the run to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    number: i32,
    /// Its name, such as `SIGINT`.
    pub name: &'static str,
}

impl Signal {
    /// The exit status that the shell knows it by: 128 + its number.
    pub fn exit_code(self) -> u8 {
        u8::try_from(128 + self.number).unwrap_or(u8::MAX)
    }
}

/// Whether a signal has asked the run to end.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP are noted here instead of ending the process; a SIGINT or
    /// SIGTERM after that ends it at once. A signal that the process was started to ignore, as by `nohup`, stays
    /// ignored.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn on_signals() -> Result<Self> {
        let interrupt = Self::default();
        let first = Arc::new(AtomicBool::new(false));
        for (number, name) in SIGNALS {
            if is_ignored(number) {
                continue;
            }
            let code = Signal { number, name }.exit_code().into();
            let register = || {
                // Shell and system may each tell of a closed terminal: that is no impatience.
                if name != "SIGHUP" {
                    // Before the next one: the first signal finds `first` false and sets it.
                    flag::register_conditional_shutdown(number, code, Arc::clone(&first))?;
                }
                flag::register(number, Arc::clone(&first))?;
                flag::register_usize(number, Arc::clone(&interrupt.0), number as usize)
            };
            register().with_context(|| format!("{name} cannot be handled"))?;
        }
        Ok(interrupt)
    }

    /// The signal that has come, if one has.
    pub fn requested(&self) -> Option<Signal> {
        let received = self.0.load(Ordering::Relaxed);
        let signal = SIGNALS.into_iter().find(|&(number, _)| number as usize == received);
        signal.map(|(number, name)| Signal { number, name })
    }
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: `sigaction` without a new action only writes the present one, for which all zeros is a
    // valid value to begin with.
    unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut present) == 0
            && present.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(not(unix))]
fn is_ignored(_: i32) -> bool {
    false
}
