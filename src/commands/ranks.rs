//! Several processes for one command: `--ranks` starts them on this machine, others are started by a launcher.

use std::net::TcpListener;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dcgan::data::ImageSet;
use dcgan::device::{self, DeviceChoice, default_threads};
use dcgan::distributed::Ranks;
use dcgan::distributed::launch::{Place, SOCKET};
use dcgan::error::Usage;
use dcgan::settings::Switch;
use dcgan::torch::{Failure, GroupError};
use dcgan::train::is_divergence;
use tch::{Device, Kind};

use super::errors::print_error;
use super::progress::say;
use crate::cli::DeviceArgs;

/// How long the other ranks may take to end once one has failed.
const GRACE: Duration = Duration::from_secs(10);
/// How often the ranks are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How many seconds a rank waits for another, where that is not asked for.
pub(super) const TIMEOUT_S: u64 = 300;
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

/// This process among the ranks.
pub(super) struct OfMachine {
    pub(super) ranks: Rc<Ranks>,
    /// The number of this process among those on its machine.
    local_rank: usize,
}

impl OfMachine {
    /// Meets the other ranks, and will wait so many seconds for them.
    ///
    /// # Errors
    /// As [`Place::meet`].
    pub(super) fn meet(place: Place, timeout_s: u64) -> Result<Self> {
        let local_rank = place.local_rank;
        Ok(Self { ranks: Rc::new(place.meet(Duration::from_secs(timeout_s))?), local_rank })
    }

    /// The part of `threads` that this rank has: the ranks of a machine share them, as far as the launcher says how many
    /// they are.
    pub(super) fn part_of(threads: usize) -> usize {
        let told = std::env::var("LOCAL_WORLD_SIZE").ok().and_then(|text| text.parse().ok());
        (threads / told.unwrap_or(1).max(1)).max(1)
    }

    /// Sets what decides how libtorch computes, and gives this rank's device for networks of `kind`.
    ///
    /// # Errors
    /// As [`Self::device`].
    pub(super) fn device_of(&self, args: &DeviceArgs, kind: Kind) -> Result<Device> {
        let threads = args.threads.map_or_else(default_threads, usize::from);
        device::configure(Self::part_of(threads), args.tf32 == Switch::On)?;
        self.device(args.device, kind)
    }

    /// The device of this rank for networks of `kind`: of several GPUs, the one with its number on this machine.
    ///
    /// # Errors
    /// As [`device::resolve`]; if the device is an Apple GPU, or this build has no NCCL for CUDA.
    pub(super) fn device(&self, mut choice: DeviceChoice, kind: Kind) -> Result<Device> {
        let first = device::resolve(choice, kind)?;
        if first == Device::Mps {
            let problem = "ranks cannot share an Apple GPU; give --device cpu";
            return Err(Usage(format!("--device {choice}: {problem}")).into());
        }
        // Where launchers show each rank its own GPU only, that is number 0.
        if first.is_cuda() && tch::Cuda::device_count() > 1 {
            choice = DeviceChoice::Cuda(Some(self.local_rank));
        }
        let device = device::resolve(choice, kind)?;
        if let Device::Cuda(number) = device {
            self.ranks.use_cuda(number)?;
        }
        Ok(device)
    }

    /// Does `load` on one rank of this machine first, so that the others find in the cache what it has made.
    ///
    /// # Errors
    /// Those of `load`; if the rank that loads first ends before it is done.
    pub(super) fn one_after_another(
        &self,
        load: impl Fn() -> Result<ImageSet>,
    ) -> Result<ImageSet> {
        let key = format!("loaded/{}", gethostname::gethostname().display());
        if self.local_rank == 0 {
            let set = load()?;
            self.ranks.group().tell(&key, "done")?;
            return Ok(set);
        }
        self.ranks.wait_for(&key)?;
        load()
    }
}

/// Prints what has ended rank number `rank` in `command`, unless rank 0 or what has started the ranks says it.
pub(super) fn print_error_of_rank(error: &anyhow::Error, rank: usize, command: &str) {
    let of_group = error.downcast_ref::<GroupError>();
    if of_group.is_none() && rank == 0 {
        return print_error(error, command);
    }
    let is_broken = of_group.is_some_and(|error| error.failure == Failure::Connection);
    let is_said =
        rank > 0 && is_divergence(error) || is_broken && std::env::var_os(STARTED).is_some();
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
        if let Some((signal, is_first)) = signals.next() {
            // The ranks agree among themselves on the first. Who asks again does not want to wait for that.
            let asked = if is_first { 1 } else { count };
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

/// Signals that ask to end, and that have not been handed on yet.
struct Signals {
    caught: Vec<(i32, Arc<AtomicUsize>)>,
    handed_on: std::cell::Cell<bool>,
}

impl Signals {
    fn catch() -> Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        #[cfg(unix)]
        let all = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
        #[cfg(not(unix))]
        let all = [SIGINT, SIGTERM];
        let mut caught = Vec::new();
        for signal in all {
            let flag = Arc::new(AtomicUsize::new(0));
            signal_hook::flag::register_usize(signal, Arc::clone(&flag), 1)
                .context("signals cannot be handled")?;
            caught.push((signal, flag));
        }
        Ok(Self { caught, handed_on: false.into() })
    }

    /// The next one, and whether it is the first.
    fn next(&self) -> Option<(i32, bool)> {
        let mut caught = self.caught.iter();
        let (signal, _) = caught.find(|(_, flag)| flag.swap(0, Ordering::Relaxed) > 0)?;
        Some((*signal, !self.handed_on.replace(true)))
    }
}
