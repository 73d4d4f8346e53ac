//! What a signal does to a command other than `train`, which saves its state.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on a signal that ends the process removes what is half written first.
///
/// # Errors
/// If the operating system does not allow signals to be handled.
#[cfg(unix)]
pub fn leave_nothing_when_interrupted() -> Result<()> {
    use signal_hook::iterator::Signals;

    use dcgan::files::remove_all_unfinished;
    use dcgan::train::interrupt::{ENDING, is_ignored};

    use super::progress::say;
    let handled = ENDING.iter().filter(|(number, _)| !is_ignored(*number));
    let mut signals = Signals::new(handled.map(|(number, _)| number))?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(number) = signals.forever().next() {
            IS_INTERRUPTED.store(true, Ordering::SeqCst);
            remove_all_unfinished();
            let name =
                ENDING.iter().find(|(other, _)| *other == number).map_or("", |(_, name)| name);
            say(&format!("{name}: ended; no half written file is left"));
            // Not `std::process::exit`: other threads still compute, and nothing may be torn down beneath them.
            signal_hook::low_level::exit(128 + number);
        }
    })?;
    Ok(())
}

/// Nothing, on this system.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn leave_nothing_when_interrupted() -> Result<()> {
    Ok(())
}

/// Waits for the end, if a signal is just ending the process: what fails meanwhile fails because of that.
pub fn wait_if_interrupted() {
    while IS_INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}
