//! How long idle threads of libgomp, with which libtorch computes, wait awake.

/// How many times an idle thread checks for work before it sleeps. That takes some microseconds: long enough to bridge the
/// gap between two operations, and short enough to leave the processors of a busy machine to others. The measurements are
/// in `benches/NOTES.md`.
#[cfg(target_os = "linux")]
const SPINS: &std::ffi::CStr = c"10000";

/// The variable from which libgomp reads it.
#[cfg(target_os = "linux")]
const VARIABLE: &std::ffi::CStr = c"GOMP_SPINCOUNT";

/// Lets idle threads sleep soon, unless the user has set how they wait.
///
/// libgomp reads the setting when it is loaded, before `main`. Where it has read it through this program's
/// [`getenv`](answer::getenv), nothing is left to do. Other versions of libgomp read the environment itself: for them this
/// function sets the variable and starts the program again in the same process.
pub fn let_idle_threads_sleep() {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        let is_set = |(name, _)| name == "OMP_WAIT_POLICY" || name == "GOMP_SPINCOUNT";
        // Not by `std::env::var_os`, which asks `getenv`.
        if was_asked() || std::env::vars_os().any(is_set) {
            return;
        }
        let mut arguments = std::env::args_os();
        let mut program = std::process::Command::new("/proc/self/exe");
        if let Some(name) = arguments.next() {
            program.arg0(name);
        }
        let [variable, spins] = [VARIABLE, SPINS].map(|text| text.to_string_lossy().into_owned());
        // `exec` returns only if it fails. Then this process continues as it is.
        let _ = program.args(arguments).env(variable, spins).exec();
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use answer::was_asked;

#[cfg(all(target_os = "linux", not(target_env = "gnu")))]
fn was_asked() -> bool {
    false
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod answer {
    use std::ffi::{CStr, c_char};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::{SPINS, VARIABLE};

    static WAS_ASKED: AtomicBool = AtomicBool::new(false);

    /// Whether the variable was asked for before `main`.
    pub fn was_asked() -> bool {
        WAS_ASKED.load(Relaxed)
    }

    unsafe extern "C" {
        /// glibc's `getenv`, by its other name: the two differ only in executables that run with the rights of their owner.
        fn secure_getenv(name: *const c_char) -> *const c_char;
    }

    /// Stands in for glibc's `getenv` in the whole process, also in libraries, because the loader looks for functions in the
    /// executable first. It adds one answer: [`SPINS`], if the user has set nothing about waiting threads.
    ///
    /// Libraries call this before the Rust runtime begins, so it allocates nothing and locks nothing.
    // SAFETY: no other function of this name is linked in; it takes and gives what glibc's does.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn getenv(name: *const c_char) -> *const c_char {
        // SAFETY: the caller keeps the rules of `getenv`, which are those of `secure_getenv`.
        let value = unsafe { secure_getenv(name) };
        // SAFETY: the caller gives a text that ends with 0.
        if !value.is_null() || name.is_null() || unsafe { CStr::from_ptr(name) } != VARIABLE {
            return value;
        }
        WAS_ASKED.store(true, Relaxed);
        // SAFETY: as above.
        match unsafe { secure_getenv(c"OMP_WAIT_POLICY".as_ptr()) }.is_null() {
            true => SPINS.as_ptr(),
            false => value,
        }
    }
}
