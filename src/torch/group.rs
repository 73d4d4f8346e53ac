//! Groups of processes that compute together, on libtorch's c10d: gloo for tensors on the CPU, NCCL for those on CUDA.

use std::ffi::{CString, c_char, c_int};
use std::fmt;
use std::marker::PhantomData;
use std::net::TcpListener;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use anyhow::Result;
use tch::Tensor;
use torch_sys::C_tensor;

use super::{raw, taken};

#[repr(C)]
struct RawGroup {
    _private: [u8; 0],
}

#[repr(C)]
struct RawConfig {
    host: *const c_char,
    port: u16,
    serve: c_int,
    listen_fd: c_int,
    prefix: *const c_char,
    identity: *const c_char,
    version: *const c_char,
    rank: c_int,
    world_size: c_int,
    timeout_ms: i64,
    address: *const c_char,
}

unsafe extern "C" {
    fn dcgan_group(config: *const RawConfig, group: *mut *mut RawGroup) -> *mut c_char;
    fn dcgan_free_group(group: *mut RawGroup);
    fn dcgan_group_use_cuda(group: *mut RawGroup, device: c_int) -> *mut c_char;
    fn dcgan_all_reduce(group: *mut RawGroup, tensor: *mut C_tensor) -> *mut c_char;
    fn dcgan_broadcast(group: *mut RawGroup, tensor: *mut C_tensor, from: c_int) -> *mut c_char;
    fn dcgan_all_gather(
        group: *mut RawGroup,
        input: *mut C_tensor,
        output: *mut C_tensor,
    ) -> *mut c_char;
    fn dcgan_barrier(group: *mut RawGroup) -> *mut c_char;
    fn dcgan_store_set(
        group: *mut RawGroup,
        key: *const c_char,
        value: *const c_char,
    ) -> *mut c_char;
    fn dcgan_store_get(
        group: *mut RawGroup,
        key: *const c_char,
        value: *mut *mut c_char,
    ) -> *mut c_char;
    fn dcgan_count_exchange(on: bool);
    fn dcgan_exchange(nanoseconds: *mut i64, bytes: *mut i64);
    fn dcgan_group_batch_norm(
        group: *mut RawGroup,
        x: *mut C_tensor,
        weight: *mut C_tensor,
        bias: *mut C_tensor,
        moving_mean: *mut C_tensor,
        moving_variance: *mut C_tensor,
        momentum: f64,
        epsilon: f64,
        y: *mut *mut C_tensor,
    ) -> *mut c_char;
}

/// Whether this build can exchange tensors on CUDA devices.
pub const HAS_NCCL: bool = cfg!(nccl);

/// What has failed in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Another process did not come, or did not take part, within the time limit.
    Timeout,
    /// A connection could not be made, or broke: the process at its other end has ended.
    Connection,
    /// NCCL or gloo itself.
    Backend,
    /// What the processes were told does not fit together.
    Misfit,
    /// Something else.
    Other,
}

/// An error of a group. The group is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupError {
    /// What has failed.
    pub failure: Failure,
    /// What the library below says about it.
    pub message: String,
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.failure {
            Failure::Timeout => "the time limit is over, and another rank did not answer",
            Failure::Connection => {
                "another rank has ended, or the network between them does not work"
            }
            Failure::Backend | Failure::Other => "ranks cannot exchange tensors",
            Failure::Misfit => "ranks do not fit together",
        })?;
        write!(f, " ({})", plain(&self.message))
    }
}

impl std::error::Error for GroupError {}

/// What matters of a message of libtorch's or gloo's: without the places in their sources, and without their advice.
fn plain(message: &str) -> &str {
    if message.contains("Ping failed") {
        return "what answers there is another program";
    }
    let line = message.lines().next().unwrap_or_default();
    let line = line.split(". This is typically").next().unwrap_or_default();
    // `[/a/path/pair.cc:553] Connection closed by peer`
    let behind =
        line.find("[/").and_then(|start| Some(&line[start + line[start..].find("] ")? + 2..]));
    behind.unwrap_or(line).trim()
}

impl GroupError {
    /// The error of a backward pass that exchanges tensors: libtorch hands on only the text of what has failed in it.
    pub fn in_backward(error: tch::TchError) -> anyhow::Error {
        let text = error.to_string();
        if !["gloo", "NCCL", "c10d"].iter().any(|name| text.contains(name)) {
            return error.into();
        }
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let failure = if has(&["imed out", "imeout"]) {
            Failure::Timeout
        } else if has(&["onnection", "ocket", "peer", "eset"]) {
            Failure::Connection
        } else {
            Failure::Backend
        };
        // NCCL says what has happened behind these words, on a line of its own.
        let last = text.split("Last error:").nth(1).map(str::trim).filter(|last| !last.is_empty());
        let message = last.unwrap_or(&text).lines().next().unwrap_or_default().to_owned();
        Self { failure, message }.into()
    }
}

/// The result of a function of the shim for groups.
fn done(message: *mut c_char) -> Result<(), GroupError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: every function of the shim returns null or a message that it has allocated for its caller.
    let text = unsafe { taken(message) };
    let failure = match text.as_bytes().first() {
        Some(b'T') => Failure::Timeout,
        Some(b'N') => Failure::Connection,
        Some(b'B') => Failure::Backend,
        Some(b'U') => Failure::Misfit,
        _ => Failure::Other,
    };
    // Behind the first line there may be a stack.
    let message = text.get(1..).unwrap_or_default().lines().next().unwrap_or_default().to_owned();
    Err(GroupError { failure, message })
}

/// What this process has exchanged with others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// The time in sums and gathers, waiting for other ranks included.
    pub time: Duration,
    /// The bytes of this process's tensors in them.
    pub bytes: u64,
}

/// Counts from now on, or no longer, what this process exchanges with others. On CUDA each exchange then waits for the
/// device, so this is for measuring only.
pub fn count_exchange(on: bool) {
    // SAFETY: it takes a plain value.
    unsafe { dcgan_count_exchange(on) }
}

/// What has been exchanged since counting began.
pub fn exchanged() -> Exchanged {
    let (mut nanoseconds, mut bytes) = (0, 0);
    // SAFETY: it writes two numbers.
    unsafe { dcgan_exchange(&raw mut nanoseconds, &raw mut bytes) };
    let positive = |number: i64| u64::try_from(number).unwrap_or_default();
    Exchanged { time: Duration::from_nanos(positive(nanoseconds)), bytes: positive(bytes) }
}

/// How a process joins a group.
#[derive(Debug)]
pub struct GroupConfig {
    /// The address at which the process of rank 0, or a launcher, serves what all meet at.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The socket at which this process serves it; `None` in all processes but one.
    pub serve: Option<TcpListener>,
    /// Sets groups apart that meet at the same place, one after the other.
    pub prefix: String,
    /// Says who this process is, unlike any other.
    pub identity: String,
    /// The version of the program, which must be the same in all processes.
    pub version: String,
    /// The number of this process, from 0.
    pub rank: usize,
    /// The number of processes.
    pub count: usize,
    /// How long is waited for other processes, when they meet and later.
    pub timeout: Duration,
    /// The address of this machine at which others reach this process.
    pub address: String,
}

/// A group of processes. Each must ask for the same operations in the same order, with tensors of the same sizes.
///
/// It belongs to one thread, so that there is one order.
#[derive(Debug)]
pub struct Group {
    raw: NonNull<RawGroup>,
    count: usize,
    _one_thread: PhantomData<*const ()>,
}

/// How much longer than its own time limit libtorch may take to meet.
const GRACE: Duration = Duration::from_secs(5);

/// A group on its way from the thread that has met the others.
struct Handed(*mut RawGroup);
// SAFETY: the thread hands it on and does not use it any more, and nothing in it belongs to a thread.
unsafe impl Send for Handed {}

fn c_string(text: &str) -> Result<CString, GroupError> {
    let message = format!("{text:?} contains a zero");
    CString::new(text).map_err(|_| GroupError { failure: Failure::Misfit, message })
}

#[cfg(unix)]
fn descriptor(socket: TcpListener) -> c_int {
    use std::os::fd::IntoRawFd;
    socket.into_raw_fd()
}

#[cfg(not(unix))]
fn descriptor(_socket: TcpListener) -> c_int {
    -1
}

impl Group {
    /// Meets the other processes: returns when all are there.
    ///
    /// # Errors
    /// [`GroupError`], if not all come in time, or if they were told of other numbers.
    pub fn join(config: GroupConfig) -> Result<Self, GroupError> {
        let (count, timeout) = (config.count, config.timeout);
        let place = format!("{}:{}", config.host, config.port);
        // On a thread of its own, because libtorch waits without limit for a place that takes a connection and is silent.
        let (said, result) = std::sync::mpsc::channel();
        std::thread::spawn(move || said.send(Self::joined(config)));
        let raw = result.recv_timeout(timeout + GRACE).unwrap_or_else(|_| {
            let message = format!("what listens at {place} does not answer");
            Err(GroupError { failure: Failure::Timeout, message })
        })?;
        let none =
            || GroupError { failure: Failure::Other, message: "there is no group".to_owned() };
        let raw = NonNull::new(raw.0).ok_or_else(none)?;
        Ok(Self { raw, count, _one_thread: PhantomData })
    }

    fn joined(config: GroupConfig) -> Result<Handed, GroupError> {
        let (host, prefix) = (c_string(&config.host)?, c_string(&config.prefix)?);
        let (identity, address) = (c_string(&config.identity)?, c_string(&config.address)?);
        let version = c_string(&config.version)?;
        let raw_config = RawConfig {
            host: host.as_ptr(),
            port: config.port,
            serve: config.serve.is_some().into(),
            listen_fd: config.serve.map_or(-1, descriptor),
            prefix: prefix.as_ptr(),
            identity: identity.as_ptr(),
            version: version.as_ptr(),
            rank: config.rank as c_int,
            world_size: config.count as c_int,
            timeout_ms: i64::try_from(config.timeout.as_millis()).unwrap_or(i64::MAX),
            address: address.as_ptr(),
        };
        let mut group = null_mut();
        // SAFETY: all pointers are those of texts that live until the function returns; it writes to `group`.
        done(unsafe { dcgan_group(&raw const raw_config, &raw mut group) })?;
        Ok(Handed(group))
    }

    /// From now on tensors on this CUDA device go through NCCL. Every process has a device of its own.
    ///
    /// # Errors
    /// [`GroupError`], also if this build has no NCCL ([`HAS_NCCL`]).
    pub fn use_cuda(&self, device: usize) -> Result<(), GroupError> {
        // SAFETY: the pointer is live.
        done(unsafe { dcgan_group_use_cuda(self.raw.as_ptr(), device as c_int) })
    }

    /// Replaces `tensor`, which must be dense, by its sum over all ranks: the same bits on each.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn sum(&self, tensor: &Tensor) -> Result<(), GroupError> {
        // SAFETY: both pointers are live. The tensor is shared through handles anyway, as everywhere in `tch`.
        done(unsafe { dcgan_all_reduce(self.raw.as_ptr(), raw(tensor)) })
    }

    /// Replaces `tensor`, which must be dense, by that of rank `from`.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Result<(), GroupError> {
        // SAFETY: as in `sum`.
        done(unsafe { dcgan_broadcast(self.raw.as_ptr(), raw(tensor), from as c_int) })
    }

    /// The tensors of all ranks: `[ranks, ...]`.
    ///
    /// # Errors
    /// [`GroupError`]; if there is no memory.
    pub fn gathered(&self, tensor: &Tensor) -> Result<Tensor> {
        let mut size = vec![self.count as i64];
        size.extend(tensor.size());
        let other = |error: tch::TchError| GroupError {
            failure: Failure::Other,
            message: error.to_string(),
        };
        let kind = tensor.f_kind().map_err(other)?;
        let all = Tensor::f_empty(size, (kind, tensor.device())).map_err(other)?;
        // SAFETY: as in `sum`.
        done(unsafe { dcgan_all_gather(self.raw.as_ptr(), raw(tensor), raw(&all)) })?;
        Ok(all)
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn barrier(&self) -> Result<(), GroupError> {
        // SAFETY: the pointer is live.
        done(unsafe { dcgan_barrier(self.raw.as_ptr()) })
    }

    /// Says `value` to all ranks, under the name `key`.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn tell(&self, key: &str, value: &str) -> Result<(), GroupError> {
        let (key, value) = (c_string(key)?, c_string(value)?);
        // SAFETY: the pointers are live until the function returns.
        done(unsafe { dcgan_store_set(self.raw.as_ptr(), key.as_ptr(), value.as_ptr()) })
    }

    /// What a rank has said under the name `key`; `None` if none has yet. It does not wait.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn told(&self, key: &str) -> Result<Option<String>, GroupError> {
        let key = c_string(key)?;
        let mut value = null_mut();
        // SAFETY: the pointers are live until the function returns, and it writes to `value`.
        done(unsafe { dcgan_store_get(self.raw.as_ptr(), key.as_ptr(), &raw mut value) })?;
        // SAFETY: if there is a value, it is a text that the shim has allocated for its caller.
        Ok((!value.is_null()).then(|| unsafe { taken(value) }))
    }

    /// Batch norm of the rows of all ranks, of which `x` `[N, C, H, W]` are this rank's: `N` may be 0. The result has the
    /// kind of `x`; statistics are computed in that of the weights. `moving` are the moving mean and variance, and by which
    /// share they move. Gradients of the weights are those of this rank's rows: their sum over all ranks is the gradient.
    /// There are no second derivatives.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn batch_norm(
        &self,
        x: &Tensor,
        (gamma, beta): (&Tensor, &Tensor),
        moving: Option<(&Tensor, &Tensor, f64)>,
        epsilon: f64,
    ) -> Result<Tensor, GroupError> {
        let (mean, variance, momentum) = match moving {
            Some((mean, variance, momentum)) => (raw(mean), raw(variance), momentum),
            None => (null_mut(), null_mut(), 0.0),
        };
        let mut y = null_mut();
        // SAFETY: all pointers are live or null where the shim allows it; it writes to `y` a tensor for its caller.
        unsafe {
            done(dcgan_group_batch_norm(
                self.raw.as_ptr(),
                raw(x),
                raw(gamma),
                raw(beta),
                mean,
                variance,
                momentum,
                epsilon,
                &raw mut y,
            ))?;
            Ok(Tensor::from_ptr(y))
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: the pointer is live, and this is its only owner.
        unsafe { dcgan_free_group(self.raw.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    #[test]
    fn messages_are_told_without_paths_and_advice() {
        let told = |text: &str| super::plain(text).to_owned();
        assert_eq!(
            told(
                "Internal torch error: [/a/gloo/pair.cc:553] Connection closed by peer [::1]:2. This is typically a"
            ),
            "Connection closed by peer [::1]:2"
        );
        assert_eq!(told("rank 1 did not come\nmore"), "rank 1 did not come");
        assert_eq!(told(""), "");
    }

    use tch::{Device, Kind};

    use super::*;

    /// Runs `work` as each of `count` ranks, on threads of their own.
    fn as_ranks<T: Send + 'static>(
        count: usize,
        timeout: Duration,
        work: impl Fn(usize, Result<Group, GroupError>) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut socket = Some(socket);
        let ranks: Vec<_> = (0..count)
            .map(|rank| {
                let config = GroupConfig {
                    host: "127.0.0.1".to_owned(),
                    port,
                    serve: socket.take(),
                    prefix: "test".to_owned(),
                    identity: format!("thread {rank}"),
                    version: "1".to_owned(),
                    rank,
                    count,
                    timeout,
                    address: "127.0.0.1".to_owned(),
                };
                let work = work.clone();
                thread::spawn(move || work(rank, Group::join(config)))
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn ranks_add_hand_out_gather_and_tell() {
        for count in [1, 2, 3] {
            as_ranks(count, LONG, move |rank, group| {
                let group = group.unwrap();
                let own = |rank: usize| Tensor::from_slice(&[1.0, rank as f64]);
                let sum = own(rank);
                group.sum(&sum).unwrap();
                let ranks: usize = (0..count).sum();
                assert_eq!(sum, Tensor::from_slice(&[count as f64, ranks as f64]));
                let all: Vec<_> = (0..count).map(own).collect();
                assert_eq!(group.gathered(&own(rank)).unwrap(), Tensor::stack(&all, 0));
                let last = own(rank);
                group.broadcast(&last, count - 1).unwrap();
                assert_eq!(last, own(count - 1));
                if rank == 0 {
                    assert_eq!(group.told("a key").unwrap(), None);
                    group.tell("a key", "a value").unwrap();
                }
                group.barrier().unwrap();
                assert_eq!(group.told("a key").unwrap().as_deref(), Some("a value"));
                let gaps = Tensor::zeros([4, 4], (Kind::Float, Device::Cpu)).narrow(1, 0, 2);
                assert!(group.sum(&gaps).is_err(), "gloo would add what lies in between");
                group.barrier().unwrap();
            });
        }
    }

    #[test]
    fn a_rank_that_ends_and_a_rank_that_hangs_are_errors_of_the_others() {
        let failures = as_ranks(2, Duration::from_secs(2), |rank, group| {
            let group = group.unwrap();
            if rank == 1 {
                return None;
            }
            Some(group.sum(&Tensor::from(1.0)).unwrap_err().failure)
        });
        assert_eq!(failures, [Some(Failure::Connection), None]);
        let failures = as_ranks(2, Duration::from_secs(1), |rank, group| {
            let group = group.unwrap();
            if rank == 1 {
                thread::sleep(Duration::from_secs(4));
                return None;
            }
            Some(group.sum(&Tensor::from(1.0)).unwrap_err().failure)
        });
        assert_eq!(failures, [Some(Failure::Timeout), None]);
    }

    #[test]
    fn batch_norm_of_all_ranks_is_that_of_the_whole_batch_also_where_a_rank_has_no_rows() {
        let options = (Kind::Double, Device::Cpu);
        let bounds: [&[i64]; 5] = [&[0, 6], &[0, 1, 6], &[0, 6, 6], &[0, 0, 4, 6], &[0, 2, 3, 6]];
        for bounds in bounds {
            tch::manual_seed(1);
            let [x, dy] = [(), ()].map(|()| Tensor::randn([6, 3, 4, 5], options) * 2. + 3.);
            let [gamma, beta] = [(), ()].map(|()| Tensor::randn([3], options));
            let moving = move || [Tensor::zeros([3], options), Tensor::ones([3], options)];
            // What libtorch computes of the whole batch.
            let whole = {
                let [x, gamma, beta] =
                    [&x, &gamma, &beta].map(|leaf| leaf.copy().set_requires_grad(true));
                let [mean, var] = moving();
                let y = x.batch_norm(
                    Some(&gamma),
                    Some(&beta),
                    Some(&mean),
                    Some(&var),
                    true,
                    0.3,
                    1e-5,
                    false,
                );
                let loss = (&y * &dy).sum(Kind::Double);
                let mut all = Tensor::run_backward(&[&loss], &[&x, &gamma, &beta], false, false);
                all.extend([y.detach(), mean, var]);
                all
            };
            let given: Vec<_> = [&x, &dy, &gamma, &beta].map(Tensor::shallow_clone).into();
            let given = Shared(given);
            let all = as_ranks(bounds.len() - 1, LONG, move |rank, group| {
                let group = group.unwrap();
                let Shared(given) = &given;
                let (from, count) = (bounds[rank], bounds[rank + 1] - bounds[rank]);
                let rows = |x: &Tensor| x.narrow(0, from, count).copy();
                let x = rows(&given[0]).set_requires_grad(true);
                let [gamma, beta] =
                    [&given[2], &given[3]].map(|leaf| leaf.copy().set_requires_grad(true));
                let [mean, var] = moving();
                let y =
                    group.batch_norm(&x, (&gamma, &beta), Some((&mean, &var, 0.3)), 1e-5).unwrap();
                let loss = (&y * rows(&given[1])).sum(Kind::Double);
                let mut all = Tensor::run_backward(&[&loss], &[&x, &gamma, &beta], false, false);
                all.extend([y.detach(), mean, var]);
                group.sum(&all[1]).unwrap();
                group.sum(&all[2]).unwrap();
                let without = group.batch_norm(&x, (&gamma, &beta), None, 1e-5).unwrap();
                assert_eq!(without, y, "moving statistics change nothing of the output");
                group.barrier().unwrap();
                Shared(all)
            });
            for (i, expected) in whole.iter().enumerate() {
                let of_ranks: Vec<_> = all.iter().map(|Shared(all)| &all[i]).collect();
                // Of images and their gradients each rank has its rows, of the rest the whole.
                let found = if i == 0 || i == 3 {
                    vec![Tensor::cat(&of_ranks, 0)]
                } else {
                    of_ranks.iter().map(|x| x.shallow_clone()).collect()
                };
                for found in found {
                    let error = (found - expected).abs().max().double_value(&[]);
                    assert!(error <= 1e-12, "{bounds:?} {i}: {error:e}");
                }
            }
        }
    }

    /// Tensors that one thread after the other uses, or several only read.
    struct Shared(Vec<Tensor>);
    // SAFETY: libtorch counts handles atomically, and `work` uses tensors as said above.
    unsafe impl Send for Shared {}

    impl Clone for Shared {
        fn clone(&self) -> Self {
            Self(self.0.iter().map(Tensor::shallow_clone).collect())
        }
    }
}
