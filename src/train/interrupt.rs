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
    /// The signal of this number, if it is one that can ask a run to end.
    pub(super) fn of(number: i64) -> Option<Self> {
        let signal = SIGNALS.into_iter().find(|&(other, _)| i64::from(other) == number);
        signal.map(|(number, name)| Self { number, name })
    }

    /// Its number.
    pub(super) fn number(self) -> i64 {
        self.number.into()
    }

    /// The exit status that shells report for a process ended by this signal: 128 + its number.
    pub fn exit_code(self) -> u8 {
        u8::try_from(128 + self.number).unwrap_or(u8::MAX)
    }
}

/// Remembers whether a signal has asked the run to end.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// From now on the first SIGINT, SIGTERM or SIGHUP is remembered here instead of ending the process, so that
    /// the run can save its state. A SIGINT or SIGTERM after that first signal ends the process at once. Signals
    /// that were ignored when the process started, as `nohup` arranges, stay ignored.
    ///
    /// # Errors
    /// If the operating system does not allow a signal to be handled.
    pub fn on_signals() -> Result<Self> {
        let interrupt = Self::default();
        let first = Arc::new(AtomicBool::new(false));
        for (number, name) in SIGNALS {
            if is_ignored(number) {
                continue;
            }
            let code = Signal { number, name }.exit_code().into();
            let register = || {
                // A closed terminal may send SIGHUP twice, once from the shell and once from the system. That
                // is not a user who asks twice, so a second SIGHUP does not end the process.
                if name != "SIGHUP" {
                    // This must be registered before the flag below: handlers run in order, so the first signal
                    // still finds `first` false here, and the next handler sets it.
                    flag::register_conditional_shutdown(number, code, Arc::clone(&first))?;
                }
                flag::register(number, Arc::clone(&first))?;
                flag::register_usize(number, Arc::clone(&interrupt.0), number as usize)
            };
            register().with_context(|| format!("{name} cannot be handled"))?;
        }
        Ok(interrupt)
    }

    /// The signal that has asked the run to end, if one has come.
    pub fn requested(&self) -> Option<Signal> {
        let received = self.0.load(Ordering::Relaxed);
        let signal = SIGNALS.into_iter().find(|&(number, _)| number as usize == received);
        signal.map(|(number, name)| Signal { number, name })
    }
}

/// Whether this process ignores the signal, as `nohup` arranges for SIGHUP.
#[cfg(unix)]
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: without a new action, `sigaction` only writes the present action to `present`, and all zeros are
    // a valid value for `present` to start with.
    unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut present) == 0
            && present.sa_sigaction == libc::SIG_IGN
    }
}

/// Whether this process ignores the signal.
#[cfg(not(unix))]
pub fn is_ignored(_: i32) -> bool {
    false
}
