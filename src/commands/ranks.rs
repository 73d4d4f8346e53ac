//! Several processes for one command: `--ranks` starts them on this machine, others are started by a launcher.

use std::net::TcpListener;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use dcgan::data::ImageSet;
use dcgan::device::{self, DeviceChoice, default_threads, threads_of_environment, usable_cores};
use dcgan::distributed::Ranks;
use dcgan::distributed::launch::{Place, SOCKET};
use dcgan::error::Usage;
use dcgan::settings::Switch;
use dcgan::torch::{Failure, GroupError};
use dcgan::train::interrupt::{ENDING, WARNING, is_ignored};
use dcgan::train::is_divergence;
use tch::{Device, Kind};

use super::errors::print_error;
use super::generator::device_of;
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

/// Whether `--ranks` has started this process.
fn are_started_here() -> bool {
    std::env::var_os(STARTED).is_some()
}

/// Where a command that is no run computes.
pub(super) enum Part {
    /// Nowhere: it has started ranks, and they have ended.
    Launched(ExitCode),
    /// On this device, together with other ranks if there are any.
    Here(Device, Option<Rc<Ranks>>),
}

impl Part {
    /// What `--ranks`, the environment and the flags of the device say.
    ///
    /// # Errors
    /// As [`Role::of`], [`launch`], [`Member::meet`] and [`device_of`].
    pub(super) fn of(asked: Option<u16>, args: &DeviceArgs, kind: Kind) -> Result<Self> {
        match Role::of(asked)? {
            Role::Launcher(count) => launch(count).map(Self::Launched),
            Role::Alone => Ok(Self::Here(device_of(args, kind)?, None)),
            Role::Rank(place) => {
                let member = Member::meet(place, TIMEOUT_S)?;
                let threads = args.threads.map(usize::from);
                let threads = threads.unwrap_or_else(|| member.default_threads());
                device::configure(member.part_of(threads), args.tf32 == Switch::On)?;
                Ok(Self::Here(member.device(args.device, kind)?, Some(member.ranks)))
            }
        }
    }
}

/// This process among the ranks, and among those of its machine.
pub(super) struct Member {
    pub(super) ranks: Rc<Ranks>,
    host: String,
    /// The number of this process among those on its machine.
    local_rank: usize,
    /// How many there are.
    local_count: usize,
    /// The first rank on this machine.
    first_here: usize,
}

/// Marks the error of another rank, which that rank says, or rank 0.
#[derive(Debug)]
struct SaidElsewhere;

impl std::fmt::Display for SaidElsewhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("another rank has failed")
    }
}

impl Member {
    /// Meets the other ranks, and will wait so many seconds for them.
    ///
    /// # Errors
    /// As [`Place::meet`].
    pub(super) fn meet(place: Place, timeout_s: u64) -> Result<Self> {
        let (local_rank, local_count) = (place.local_rank, place.local_count);
        let ranks = Rc::new(place.meet(Duration::from_secs(timeout_s))?);
        let host = gethostname::gethostname().to_string_lossy().into_owned();
        let hosts = ranks.texts(&host)?;
        let here: Vec<_> = (0..hosts.len()).filter(|&rank| hosts[rank] == host).collect();
        let own = here.iter().position(|&rank| rank == ranks.share().rank).unwrap_or_default();
        Ok(Self {
            ranks,
            host,
            local_rank: local_rank.unwrap_or(own),
            local_count: local_count.unwrap_or(here.len()).max(1),
            first_here: here.first().copied().unwrap_or_default(),
        })
    }

    /// How many threads the ranks of this machine have together, if nobody has said it.
    pub(super) fn default_threads(&self) -> usize {
        match threads_of_environment() {
            _ if are_started_here() => default_threads(),
            // Other launchers say how many threads each process has; torchrun says 1 where nobody has thought of it.
            Some(each) if each > 1 => (each * self.local_count).min(1024),
            _ => usable_cores(),
        }
    }

    /// The part of `threads` that this rank has: the ranks of a machine share them.
    pub(super) fn part_of(&self, threads: usize) -> usize {
        (threads / self.local_count).max(1)
    }

    /// The device of this rank for networks of `kind`: of several GPUs, the one with its number on this machine.
    ///
    /// # Errors
    /// [`Usage`], if there is no such device, two ranks have the same GPU, or it is an Apple GPU; if this build has no
    /// NCCL for CUDA.
    pub(super) fn device(&self, choice: DeviceChoice, kind: Kind) -> Result<Device> {
        let own = self.own_device(choice, kind);
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
        let text = match &own {
            Ok(Device::Cuda(number)) => format!("cuda:{number} {visible} of {}", self.host),
            // Any number of ranks may share the CPU.
            Ok(_) => format!("the CPU as rank {}", self.ranks.share().rank),
            Err(_) => String::new(),
        };
        let all = self.ranks.texts(&text)?;
        let device = own?;
        if let Some(rank) = all.iter().position(String::is_empty) {
            return Err(anyhow!("rank {rank} has no such device").context(SaidElsewhere));
        }
        let Device::Cuda(number) = device else { return Ok(device) };
        // All ranks come to the same answer, so that none goes on to wait for the others.
        if let Some((one, other)) = first_equal(&all) {
            let error = anyhow!(Usage(format!(
                "rank {one} and rank {other} would share {}; expected a GPU for each rank: give fewer ranks, or --device cpu",
                all[one]
            )));
            let says_it = self.ranks.share().rank == one;
            return Err(if says_it { error } else { error.context(SaidElsewhere) });
        }
        self.ranks.use_cuda(number)?;
        Ok(device)
    }

    fn own_device(&self, choice: DeviceChoice, kind: Kind) -> Result<Device> {
        let first = device::resolve(choice, kind)?;
        let share = self.ranks.share();
        if first == Device::Mps {
            let problem = "ranks cannot share an Apple GPU; give --device cpu";
            return Err(Usage(format!("--device {choice}: {problem}")).into());
        }
        // Where launchers show each rank its own GPU only, that is number 0.
        if !first.is_cuda() || tch::Cuda::device_count() < 2 || share.count == 1 {
            return Ok(first);
        }
        if matches!(choice, DeviceChoice::Cuda(Some(_))) {
            let problem = "each rank has a GPU of its own; give --device cuda";
            return Err(Usage(format!("--device {choice}: {problem}")).into());
        }
        device::resolve(DeviceChoice::Cuda(Some(self.local_rank)), kind)
    }

    /// Does `load` on one rank of each machine first, so that the others find in the cache what it has made. Returns when
    /// all ranks have loaded: nothing that is waited for with a time limit begins before that.
    ///
    /// # Errors
    /// Those of `load` on any rank; if rank 0 ends before all have loaded.
    pub(super) fn load(&self, load: impl Fn() -> Result<ImageSet>) -> Result<ImageSet> {
        let key = |rank: usize| format!("loaded/{rank}");
        let ensure_loaded = |rank: usize| match &*self.ranks.wait_for(&key(rank))? {
            "" => Ok(()),
            problem => Err(anyhow!("rank {rank}: {problem}").context(SaidElsewhere)),
        };
        let share = self.ranks.share();
        let set = if share.rank == self.first_here {
            load()
        } else {
            ensure_loaded(self.first_here).and_then(|()| load())
        };
        let problem = set.as_ref().err().map(|error| format!("{error:#}"));
        self.ranks.group().tell(&key(share.rank), &problem.unwrap_or_default())?;
        let set = set?;
        (0..share.count).try_for_each(ensure_loaded)?;
        Ok(set)
    }

    /// Ends all ranks with the error of the first that has `refused` something; rank 0 says it.
    ///
    /// # Errors
    /// [`Usage`]; if another rank does not answer.
    pub(super) fn ensure_none_refuses(&self, refused: Option<String>) -> Result<()> {
        let all = self.ranks.texts(refused.as_deref().unwrap_or_default())?;
        match all.into_iter().find(|text| !text.is_empty()) {
            None => Ok(()),
            Some(text) if self.ranks.is_first() => Err(Usage(text).into()),
            Some(text) => Err(anyhow!(Usage(text)).context(SaidElsewhere)),
        }
    }
}

/// The first two ranks of which the same is said.
fn first_equal(of_ranks: &[String]) -> Option<(usize, usize)> {
    (0..of_ranks.len()).find_map(|other| {
        let one = of_ranks[..other].iter().position(|text| *text == of_ranks[other])?;
        Some((one, other))
    })
}

/// Prints what has ended rank number `rank` in `command`, unless rank 0 or what has started the ranks says it.
pub(super) fn print_error_of_rank(error: &anyhow::Error, rank: usize, command: &str) {
    let of_group = error.downcast_ref::<GroupError>();
    if of_group.is_none() && rank == 0 && !error.is::<SaidElsewhere>() {
        return print_error(error, command);
    }
    let is_broken = of_group.is_some_and(|error| error.failure == Failure::Connection);
    let is_said_elsewhere = is_broken || error.is::<SaidElsewhere>();
    let is_said = rank > 0 && is_divergence(error) || is_said_elsewhere && are_started_here();
    if !is_said {
        let is_late = of_group.is_some_and(|error| error.failure == Failure::Timeout);
        let hint = if is_late { "; --timeout says how long is waited" } else { "" };
        print_error(&anyhow!("rank {rank}: {error:#}{hint}"), command);
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
    let mut failed: Option<(ExitStatus, Instant)> = None;
    let mut is_killing = false;
    loop {
        for (number, rank) in ranks.iter_mut().enumerate() {
            if rank.status.is_none() {
                rank.status = rank.child.try_wait().context("a rank is gone")?;
                if let Some(status) = rank.status
                    && is_failure(status)
                {
                    failed.get_or_insert((status, Instant::now()));
                    if let Some(signal) = killed(status).filter(|_| !is_killing) {
                        let is_handed_on = signals.first.get() == Some(signal);
                        if !is_handed_on {
                            say(&format!(
                                "error: rank {number} was ended by signal {signal}; the other ranks end"
                            ));
                        } else if number == 0 {
                            say("ended by a signal before there was anything to save");
                        }
                    }
                }
            }
        }
        if ranks.iter().all(|rank| rank.status.is_some()) {
            break;
        }
        if failed.is_some_and(|(_, when)| when.elapsed() > GRACE) {
            is_killing = true;
            ranks.iter_mut().for_each(Rank::kill);
        }
        #[cfg(unix)]
        if signals.is_stopped.swap(false, Ordering::Relaxed) {
            ranks.iter().for_each(|rank| rank.signal(libc::SIGSTOP));
            // SAFETY: it takes a number. This process goes on behind it once it is continued.
            unsafe { libc::raise(libc::SIGSTOP) };
            ranks.iter().for_each(|rank| rank.signal(libc::SIGCONT));
        }
        if let Some((signal, is_urgent)) = signals.next() {
            // The ranks agree among themselves. Who asks again to end does not want to wait for that.
            let asked = if is_urgent { count } else { 1 };
            ranks.iter().take(asked).for_each(|rank| rank.signal(signal));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let code = match (failed, signals.first.get()) {
        (Some(_), Some(signal)) => 128 + signal,
        (Some((status, _)), None) => status.code().unwrap_or(1),
        (None, _) => ranks.first().and_then(|rank| rank.status?.code()).unwrap_or(1),
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

/// The signal that has ended a process.
fn killed(status: ExitStatus) -> Option<i32> {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        status.signal()
    }
    #[cfg(not(unix))]
    {
        let _ = status;
        None
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
    /// The first that was handed on and asks to end.
    first: std::cell::Cell<Option<i32>>,
    /// Whether the terminal has asked for a pause (Ctrl-Z).
    is_stopped: Arc<AtomicBool>,
}

impl Signals {
    fn catch() -> Result<Self> {
        let all = ENDING.iter().chain(&WARNING).map(|&(number, _)| number);
        let mut caught = Vec::new();
        // Those that are ignored, as `nohup` arranges, stay so.
        for signal in all.filter(|&signal| !is_ignored(signal)) {
            let flag = Arc::new(AtomicUsize::new(0));
            signal_hook::flag::register_usize(signal, Arc::clone(&flag), 1)
                .context("signals cannot be handled")?;
            caught.push((signal, flag));
        }
        let is_stopped = Arc::new(AtomicBool::new(false));
        #[cfg(unix)]
        if !is_ignored(signal_hook::consts::SIGTSTP) {
            signal_hook::flag::register(signal_hook::consts::SIGTSTP, Arc::clone(&is_stopped))
                .context("signals cannot be handled")?;
        }
        Ok(Self { caught, first: None.into(), is_stopped })
    }

    /// The next one, and whether it asks to end for the second time.
    fn next(&self) -> Option<(i32, bool)> {
        let mut caught = self.caught.iter();
        let &(signal, _) = caught.find(|(_, flag)| flag.swap(0, Ordering::Relaxed) > 0)?;
        let may_train_on = WARNING.iter().any(|&(number, _)| number == signal);
        if may_train_on {
            return Some((signal, false));
        }
        let is_urgent = self.first.get().is_some();
        if !is_urgent {
            self.first.set(Some(signal));
        }
        Some((signal, is_urgent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ranks_with_one_gpu_are_found() {
        let of = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        assert_eq!(first_equal(&of(&["cuda:0 of a", "cuda:1 of a", "cuda:0 of b"])), None);
        assert_eq!(first_equal(&of(&["0", "1", "2", "1", "0"])), Some((1, 3)));
    }
}
