//! Several processes for one command: `--ranks` starts them on this machine, others are started by a launcher.

use std::net::TcpListener;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dcgan::distributed::Ranks;
use dcgan::distributed::launch::{Place, SOCKET};
use dcgan::error::Usage;
use dcgan::torch::{Failure, GroupError};
use dcgan::train::is_divergence;

use super::errors::print_error;
use super::progress::say;

/// How long the other ranks may take to end once one has failed.
const GRACE: Duration = Duration::from_secs(10);
/// How often the ranks are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Set for ranks that `--ranks` has started: where a connection breaks, what has started them says why.
const STARTED: &str = "DCGAN_STARTED";

/// What this process is to do.
#[derive(Debug)]
pub(super) enum Role {
    /// Everything: there are no ranks.
    Alone,
    /// Start so many ranks and wait for them.
    Launcher(usize),
    /// Be one of several ranks.
    Rank(Place),
}

impl Role {
    /// What the environment and `--ranks` say.
    ///
    /// # Errors
    /// [`Usage`], if the environment is wrong or contradicts `--ranks`.
    pub(super) fn of(asked: Option<u16>) -> Result<Self> {
        let place = Place::from_variables(&|name| std::env::var(name).ok())?;
        match (place, asked) {
            (None, None) => Ok(Self::Alone),
            (None, Some(count)) => Ok(Self::Launcher(count.into())),
            (Some(place), asked) => {
                let count = place.share.count;
                if asked.is_some_and(|asked| usize::from(asked) != count) {
                    let message =
                        format!("a launcher has started {count} ranks already; leave it out");
                    return Err(Usage(format!("--ranks: {message}")).into());
                }
                Ok(Self::Rank(place))
            }
        }
    }
}

/// Whether `--ranks` has started this process.
pub(super) fn are_started_here() -> bool {
    std::env::var_os(STARTED).is_some()
}

/// Meets the other ranks.
///
/// # Errors
/// As [`Place::meet`].
pub(super) fn meet(place: Place, timeout_s: u64) -> Result<Rc<Ranks>> {
    Ok(Rc::new(place.meet(Duration::from_secs(timeout_s))?))
}

/// Prints what has ended rank number `rank` in `command`, unless rank 0 or what has started the ranks says it.
pub(super) fn print_error_of_rank(error: &anyhow::Error, rank: usize, command: &str) {
    let of_group = error.downcast_ref::<GroupError>();
    if of_group.is_none() && rank == 0 {
        return print_error(error, command);
    }
    let is_broken = of_group.is_some_and(|error| error.failure == Failure::Connection);
    let is_said = rank > 0 && is_divergence(error) || is_broken && are_started_here();
    if !is_said {
        print_error(&anyhow::anyhow!("rank {rank}: {error:#}"), command);
    }
}

/// Starts this command `count` times, as ranks that meet on this machine, and waits for them. Signals that ask to end
/// are handed on. If one rank fails, the others are ended.
///
/// # Errors
/// If a process or a socket cannot be had.
pub(super) fn launch(count: usize) -> Result<ExitCode> {
    let signals = Signals::catch()?;
    let socket = TcpListener::bind("127.0.0.1:0").context("no port on 127.0.0.1")?;
    let port = socket.local_addr()?.port();
    let mut ranks: Vec<Rank> = Vec::new();
    for rank in 0..count {
        match start(rank, count, port, &socket) {
            Ok(child) => ranks.push(Rank { child, status: None }),
            Err(error) => {
                ranks.iter_mut().for_each(Rank::kill);
                return Err(error.context(format!("rank {rank} cannot be started")));
            }
        }
    }
    drop(socket);
    let mut failed: Option<(usize, ExitStatus, Instant)> = None;
    loop {
        for (number, rank) in ranks.iter_mut().enumerate() {
            if rank.status.is_none() {
                rank.status = rank.child.try_wait().context("a rank is gone")?;
                if let Some(status) = rank.status
                    && is_failure(status)
                    && failed.is_none()
                {
                    failed = Some((number, status, Instant::now()));
                    if let Some(how) = killed(status) {
                        say(&format!(
                            "error: rank {number} was ended by {how}; the other ranks end"
                        ));
                    }
                }
            }
        }
        if ranks.iter().all(|rank| rank.status.is_some()) {
            break;
        }
        if failed.is_some_and(|(_, _, when)| when.elapsed() > GRACE) {
            ranks.iter_mut().for_each(Rank::kill);
        }
        if let Some((signal, is_urgent)) = signals.next() {
            // The ranks agree among themselves. Who asks again to end does not want to wait for that.
            let asked = if is_urgent { count } else { 1 };
            ranks.iter().take(asked).for_each(|rank| rank.signal(signal));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let code = match failed {
        Some((_, status, _)) => status.code().unwrap_or(1),
        None => ranks.first().and_then(|rank| rank.status?.code()).unwrap_or(1),
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// A process that was started as a rank.
#[derive(Debug)]
struct Rank {
    child: Child,
    status: Option<ExitStatus>,
}

impl Rank {
    fn kill(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
        }
    }

    fn signal(&self, signal: i32) {
        #[cfg(unix)]
        if self.status.is_none()
            && let Ok(process) = i32::try_from(self.child.id())
        {
            // SAFETY: it only sends a signal, to a child that has not been waited for, so that its number is its own.
            unsafe { libc::kill(process, signal) };
        }
        #[cfg(not(unix))]
        let _ = signal;
    }
}

/// Whether a rank has ended otherwise than it should: all ranks end together with 128 + the number of a signal that
/// asked for it.
fn is_failure(status: ExitStatus) -> bool {
    !status.code().is_some_and(|code| code == 0 || code > 128)
}

/// What has ended a process that has not ended itself.
fn killed(status: ExitStatus) -> Option<String> {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        status.signal().map(|signal| format!("signal {signal}"))
    }
    #[cfg(not(unix))]
    {
        status.code().is_none().then(|| "the system".to_owned())
    }
}

fn start(rank: usize, count: usize, port: u16, socket: &TcpListener) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1));
    for (name, value) in [
        ("RANK", rank.to_string()),
        ("WORLD_SIZE", count.to_string()),
        ("LOCAL_RANK", rank.to_string()),
        ("LOCAL_WORLD_SIZE", count.to_string()),
        ("MASTER_ADDR", "127.0.0.1".to_owned()),
        ("MASTER_PORT", port.to_string()),
        (STARTED, "1".to_owned()),
    ] {
        command.env(name, value);
    }
    #[cfg(unix)]
    {
        use std::os::fd::AsRawFd;
        use std::os::unix::process::CommandExt;
        let socket = socket.as_raw_fd();
        if rank == 0 {
            command.env(SOCKET, socket.to_string());
        }
        // A group of its own: what the terminal sends to all, such as Ctrl-C, would otherwise come twice.
        command.process_group(0);
        let parent = std::process::id();
        // SAFETY: between fork and exec it only calls functions of the system that are allowed there.
        unsafe {
            command.pre_exec(move || prepare_child((rank == 0).then_some(socket), parent));
        }
    }
    #[cfg(not(unix))]
    let _ = (socket, SOCKET);
    Ok(command.spawn()?)
}

/// In the new process: keeps the socket, and lets the process end with the one that has started it, even if that is
/// killed.
#[cfg(unix)]
fn prepare_child(socket: Option<i32>, parent: u32) -> std::io::Result<()> {
    // SAFETY: these functions take numbers only.
    unsafe {
        if let Some(socket) = socket
            && libc::fcntl(socket, libc::F_SETFD, 0) == -1
        {
            return Err(std::io::Error::last_os_error());
        }
        #[cfg(target_os = "linux")]
        {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == -1 {
                return Err(std::io::Error::last_os_error());
            }
            // It may have ended before that.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                libc::_exit(1);
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = parent;
    }
    Ok(())
}

/// Signals that ask the ranks for something, and that have not been handed on yet.
struct Signals {
    caught: Vec<(i32, Arc<AtomicUsize>)>,
    /// Whether one was handed on that asks to end.
    ends: std::cell::Cell<bool>,
}

impl Signals {
    fn catch() -> Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        #[cfg(unix)]
        use signal_hook::consts::{SIGUSR1, SIGUSR2};
        #[cfg(unix)]
        let all = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP, libc::SIGXCPU, SIGUSR1, SIGUSR2];
        #[cfg(not(unix))]
        let all = [SIGINT, SIGTERM];
        let mut caught = Vec::new();
        for signal in all {
            let flag = Arc::new(AtomicUsize::new(0));
            signal_hook::flag::register_usize(signal, Arc::clone(&flag), 1)
                .context("signals cannot be handled")?;
            caught.push((signal, flag));
        }
        Ok(Self { caught, ends: false.into() })
    }

    /// The next one, and whether it asks to end for the second time.
    fn next(&self) -> Option<(i32, bool)> {
        let mut caught = self.caught.iter();
        let &(signal, _) = caught.find(|(_, flag)| flag.swap(0, Ordering::Relaxed) > 0)?;
        #[cfg(unix)]
        let may_train_on =
            [signal_hook::consts::SIGUSR1, signal_hook::consts::SIGUSR2].contains(&signal);
        #[cfg(not(unix))]
        let may_train_on = false;
        Some((signal, !may_train_on && self.ends.replace(true)))
    }
}
