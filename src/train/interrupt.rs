//! Signals that ask a run to end or to save its state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

#[cfg(unix)]
use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2};

/// Signals that ask to end. SIGXCPU says that the time of the processor that the process may take is used up.
#[cfg(unix)]
pub const ENDING: [(i32, &str); 4] =
    [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP"), (libc::SIGXCPU, "SIGXCPU")];
/// Signals that ask to end.
#[cfg(not(unix))]
pub const ENDING: [(i32, &str); 2] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM")];

/// Signals by which batch systems warn that a job's time is nearly over.
#[cfg(unix)]
pub const WARNING: [(i32, &str); 2] = [(SIGUSR1, "SIGUSR1"), (SIGUSR2, "SIGUSR2")];
/// Signals by which batch systems warn: this system has none.
#[cfg(not(unix))]
pub const WARNING: [(i32, &str); 0] = [];

/// What [`Request::code`] adds for an end, so that among ranks an end outdoes everything else.
const END: i64 = 1 << 16;

/// A signal that asks for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    number: i32,
    /// Its name, such as `SIGINT`.
    pub name: &'static str,
}

impl Signal {
    /// The signal of this number, if it is one that can ask for something.
    fn of(number: i64) -> Option<Self> {
        let mut signals = ENDING.into_iter().chain(WARNING);
        let (number, name) = signals.find(|&(other, _)| i64::from(other) == number)?;
        Some(Self { number, name })
    }

    /// The exit status that shells report for a process ended by this signal: 128 + its number.
    pub fn exit_code(self) -> u8 {
        u8::try_from(128 + self.number).unwrap_or(u8::MAX)
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To write a checkpoint and train on.
    Save(Signal),
    /// To write a checkpoint and end.
    End(Signal),
}

impl Request {
    /// A number for it that is larger, the more it asks for; 0 for no request.
    pub(super) fn code(request: Option<Self>) -> i64 {
        match request {
            None => 0,
            Some(Self::Save(signal)) => signal.number.into(),
            Some(Self::End(signal)) => END + i64::from(signal.number),
        }
    }

    /// The request of this number.
    pub(super) fn of(code: i64) -> Option<Self> {
        if code < END {
            Signal::of(code).map(Self::Save)
        } else {
            Signal::of(code - END).map(Self::End)
        }
    }
}

/// What SIGUSR1 and SIGUSR2 ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnUsr {
    /// A checkpoint, after which training goes on.
    #[default]
    Save,
    /// The end, as SIGTERM does.
    Stop,
}

/// Remembers what signals have asked for.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    end: Arc<AtomicUsize>,
    save: Arc<AtomicUsize>,
}

impl Interrupt {
    /// From now on SIGUSR1 and SIGUSR2 are remembered here where they ask for a checkpoint: they must not end a process
    /// that is still reading its images.
    ///
    /// # Errors
    /// If the operating system does not allow a signal to be handled.
    pub fn on_usr(&self, on_usr: OnUsr) -> Result<()> {
        if on_usr == OnUsr::Stop {
            return Ok(());
        }
        handle(&WARNING, |number, _| {
            flag::register_usize(number, Arc::clone(&self.save), number as usize)
        })
    }

    /// From now on the first SIGINT, SIGTERM, SIGHUP or SIGXCPU is remembered here instead of ending the process, so
    /// that the run can save its state; with [`OnUsr::Stop`], so are SIGUSR1 and SIGUSR2. A SIGINT or SIGTERM after
    /// that first signal ends the process at once. Signals that were ignored when the process started, as `nohup`
    /// arranges, stay ignored.
    ///
    /// # Errors
    /// If the operating system does not allow a signal to be handled.
    pub fn on_end(&self, on_usr: OnUsr) -> Result<()> {
        let first = Arc::new(AtomicBool::new(false));
        let register = |number: i32, name: &'static str| {
            // Only these are sent by somebody who asks twice. A closed terminal may send SIGHUP twice, once from the
            // shell and once from the system; SIGXCPU comes again every second.
            if [SIGINT, SIGTERM].contains(&number) {
                // This must be registered before the flag below: handlers run in order, so the first signal
                // still finds `first` false here, and the next handler sets it.
                let code = Signal { number, name }.exit_code().into();
                flag::register_conditional_shutdown(number, code, Arc::clone(&first))?;
            }
            flag::register(number, Arc::clone(&first))?;
            flag::register_usize(number, Arc::clone(&self.end), number as usize)
        };
        handle(&ENDING, register)?;
        if on_usr == OnUsr::Stop { handle(&WARNING, register) } else { Ok(()) }
    }

    /// What has been asked for since the last call; an end again and again.
    pub fn requested(&self) -> Option<Request> {
        let save = self.save.swap(0, Ordering::Relaxed);
        let signal = |number: usize| Signal::of(i64::try_from(number).ok()?);
        let end = signal(self.end.load(Ordering::Relaxed)).map(Request::End);
        end.or_else(|| signal(save).map(Request::Save))
    }
}

/// Calls `register` with each of `signals` that is not ignored.
fn handle<T>(
    signals: &[(i32, &'static str)],
    register: impl Fn(i32, &'static str) -> std::io::Result<T>,
) -> Result<()> {
    for &(number, name) in signals.iter().filter(|(number, _)| !is_ignored(*number)) {
        register(number, name).with_context(|| format!("{name} cannot be handled"))?;
    }
    Ok(())
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn among_ranks_an_end_outdoes_a_checkpoint_whatever_the_numbers_of_the_signals() {
        let end = Request::End(Signal { number: SIGHUP, name: "SIGHUP" });
        let save = Request::Save(Signal { number: SIGUSR2, name: "SIGUSR2" });
        assert!(Request::code(Some(end)) > Request::code(Some(save)));
        for request in [None, Some(end), Some(save)] {
            assert_eq!(Request::of(Request::code(request)), request);
        }
    }

    #[test]
    fn a_checkpoint_that_was_asked_for_is_asked_for_once() {
        let interrupt = Interrupt::default();
        interrupt.save.store(SIGUSR1 as usize, Ordering::Relaxed);
        let name = |request: Option<Request>| match request {
            Some(Request::Save(signal)) => signal.name,
            _ => "",
        };
        assert_eq!(name(interrupt.requested()), "SIGUSR1");
        assert_eq!(interrupt.requested(), None);
    }
}
