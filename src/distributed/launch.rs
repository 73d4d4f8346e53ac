//! What a launcher has told this process of the ranks, and meeting them.

use std::fmt::Display;
use std::net::{IpAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::{Ranks, Share};
use crate::error::Usage;
use crate::torch::{Group, GroupConfig};

/// The variable by which a launcher of ours hands on the socket at which ranks meet.
pub const SOCKET: &str = "DCGAN_SOCKET";

/// The place of this process among the ranks, as its launcher has told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which of the ranks this is.
    pub share: Share,
    /// The number of this process among those on its machine, from 0, if the launcher says it.
    pub local_rank: Option<usize>,
    /// How many processes there are on its machine, if the launcher says it.
    pub local_count: Option<usize>,
    /// Where rank 0, or the launcher, serves the place at which ranks meet.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the launcher serves it, so that rank 0 does not.
    is_served: bool,
    /// The descriptor of the socket that a launcher of ours has opened.
    socket: Option<i32>,
    /// Sets the ranks of this start apart from those of an earlier one.
    prefix: String,
}

impl Place {
    /// What `variable` (that is [`std::env::var`]) says: as torchrun and others set RANK, WORLD_SIZE, MASTER_ADDR,
    /// MASTER_PORT and LOCAL_RANK, or as SLURM does in a step of several tasks. `None`, if there are no other ranks.
    ///
    /// # Errors
    /// [`Usage`], if a variable is missing or wrong.
    pub fn from_variables(
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Usage> {
        let (rank_name, count_name, local) =
            if variable("RANK").is_some() && variable("WORLD_SIZE").is_some() {
                ("RANK", "WORLD_SIZE", "LOCAL_RANK")
            } else if variable("SLURM_STEP_NUM_TASKS").is_some_and(|count| count != "1") {
                ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
            } else {
                return Ok(None);
            };
        let is_slurm = rank_name == "SLURM_PROCID";
        let rank = required(variable, rank_name, 0..=1_000_000)?;
        let count = required(variable, count_name, 1..=1_000_000)?;
        if rank >= count {
            return Err(Usage(format!(
                "environment variable {rank_name}: expected a rank below {count_name}, {count}, found {rank}"
            )));
        }
        if count == 1 && variable("MASTER_ADDR").is_none() {
            return Ok(None);
        }
        let local_rank = number(variable, local, 0..=1_000_000)?;
        let local_count = number(variable, "LOCAL_WORLD_SIZE", 1..=1_000_000)?;
        let host = match variable("MASTER_ADDR") {
            Some(host) => host,
            None if is_slurm => {
                let list = variable("SLURM_STEP_NODELIST").or_else(|| variable("SLURM_NODELIST"));
                list.map(|list| first_host(&list)).ok_or_else(|| missing("SLURM_STEP_NODELIST"))?
            }
            None => return Err(missing("MASTER_ADDR")),
        };
        let port = match number(variable, "MASTER_PORT", 1..=65535)? {
            Some(port) => port as u16,
            // The same for all tasks of a step, and seldom that of another.
            None if is_slurm => {
                let job = required(variable, "SLURM_JOB_ID", 0..=usize::MAX)?;
                let step = number(variable, "SLURM_STEP_ID", 0..=usize::MAX)?.unwrap_or(0);
                (20_000 + (job + step) % 10_000) as u16
            }
            None => return Err(missing("MASTER_PORT")),
        };
        let text = |name: &str| variable(name).unwrap_or_default();
        Ok(Some(Self {
            share: Share { rank, count },
            local_rank,
            local_count,
            host,
            port,
            is_served: text("TORCHELASTIC_USE_AGENT_STORE") == "True",
            socket: number(variable, SOCKET, 0..=1 << 20)?.map(|socket| socket as i32),
            prefix: format!(
                "dcgan-{}-{}",
                text("TORCHELASTIC_RUN_ID"),
                text("TORCHELASTIC_RESTART_COUNT")
            ),
        }))
    }

    /// Meets the other ranks: returns when all are there. `timeout` is how long is waited for them, now and later.
    ///
    /// # Errors
    /// If they do not come, or were told of other numbers; if the port is taken.
    pub fn meet(self, timeout: Duration) -> Result<Ranks> {
        let Self { share, host, port, is_served, socket, prefix, .. } = self;
        let place = format!("{host}:{port}");
        let at = || format!("rank {} of {}, meeting at {place}", share.rank, share.count);
        let serve = if share.rank == 0 && !is_served {
            Some(listener(&host, port, socket).with_context(at)?)
        } else {
            None
        };
        let address = own_address(&host, port).with_context(at)?.to_string();
        let identity = format!("process {} at {address}", std::process::id());
        let config = GroupConfig {
            host,
            port,
            serve,
            prefix,
            identity,
            version: format!("dcgan {}", crate::VERSION),
            rank: share.rank,
            count: share.count,
            timeout,
            address,
        };
        Ok(Ranks::new(Group::join(config).with_context(at)?, share))
    }
}

fn missing(name: &str) -> Usage {
    Usage(format!("the environment tells of several ranks, but {name} is not set"))
}

fn number(
    variable: &dyn Fn(&str) -> Option<String>,
    name: &str,
    range: std::ops::RangeInclusive<usize>,
) -> Result<Option<usize>, Usage> {
    fn parsed<T: FromStr>(text: &str) -> Option<T> {
        text.trim().parse().ok()
    }
    let Some(text) = variable(name) else { return Ok(None) };
    let wrong = |expected: &dyn Display| {
        Usage(format!("environment variable {name}: expected {expected}, found `{text}`"))
    };
    let number = parsed(&text).ok_or_else(|| wrong(&"a whole number"))?;
    if !range.contains(&number) {
        return Err(wrong(&format!("{} to {}", range.start(), range.end())));
    }
    Ok(Some(number))
}

fn required(
    variable: &dyn Fn(&str) -> Option<String>,
    name: &str,
    range: std::ops::RangeInclusive<usize>,
) -> Result<usize, Usage> {
    number(variable, name, range)?.ok_or_else(|| missing(name))
}

/// The first host of a list as SLURM writes it, such as `gpu[03-07,12],other`.
fn first_host(list: &str) -> String {
    let first = match (list.find('['), list.find(',')) {
        (Some(bracket), comma) if comma.is_none_or(|comma| bracket < comma) => {
            let numbers = &list[bracket + 1..];
            let end = numbers.find([',', '-', ']']).unwrap_or(numbers.len());
            let rest = numbers.find(']').map_or("", |close| &numbers[close + 1..]);
            let suffix = &rest[..rest.find(',').unwrap_or(rest.len())];
            return format!("{}{}{suffix}", &list[..bracket], &numbers[..end]);
        }
        (_, Some(comma)) => &list[..comma],
        _ => list,
    };
    first.to_owned()
}

/// The socket at which rank 0 serves the place where ranks meet: at that address alone, if it is one of this machine's.
fn listener(host: &str, port: u16, socket: Option<i32>) -> Result<TcpListener> {
    #[cfg(unix)]
    if let Some(socket) = socket {
        use std::os::fd::FromRawFd;
        // SAFETY: our launcher has opened the socket for this process, and nothing else here uses it.
        return Ok(unsafe { TcpListener::from_raw_fd(socket) });
    }
    let _ = socket;
    let told = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow!("the port {port} is taken; choose another MASTER_PORT")
        }
        _ => anyhow!("port {port}: {error}"),
    };
    match TcpListener::bind((host, port)) {
        // Behind a proxy or a service the address is not this machine's.
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            TcpListener::bind(("0.0.0.0", port)).map_err(told)
        }
        bound => bound.map_err(told),
    }
}

/// The address from which this machine reaches `host`. A machine's own name may stand for 127.0.1.1, which others cannot
/// reach.
fn own_address(host: &str, port: u16) -> Result<IpAddr> {
    let found = (host, port).to_socket_addrs().with_context(|| format!("{host}: no such host"))?;
    let mut last = anyhow!("{host}: no address");
    for address in found {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        // Nothing is sent: this only asks the system for the route.
        let route = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(address)?;
            socket.local_addr()
        });
        match route {
            Ok(local) => return Ok(local.ip()),
            Err(error) => last = anyhow!("{host}: {error}"),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Option<Place>, Usage> {
        let find = |name: &str| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        };
        Place::from_variables(&find)
    }

    const TORCHRUN: [(&str, &str); 5] = [
        ("RANK", "5"),
        ("WORLD_SIZE", "8"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "host"),
        ("MASTER_PORT", "29500"),
    ];

    #[test]
    fn torchruns_and_slurms_variables_are_understood() {
        assert_eq!(place(&[]), Ok(None));
        assert_eq!(place(&[("RANK", "1")]), Ok(None));
        assert_eq!(place(&[("RANK", "0"), ("WORLD_SIZE", "1")]), Ok(None));
        let found = place(&TORCHRUN).unwrap().unwrap();
        assert_eq!((found.share, found.local_rank), (Share { rank: 5, count: 8 }, Some(1)));
        assert_eq!((found.host.as_str(), found.port, found.is_served), ("host", 29500, false));

        let slurm = [
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_PROCID", "3"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_NODELIST", "gpu[03-04]"),
            ("SLURM_JOB_ID", "12345"),
        ];
        let found = place(&slurm).unwrap().unwrap();
        assert_eq!((found.share, found.local_rank), (Share { rank: 3, count: 4 }, Some(1)));
        assert_eq!((found.host.as_str(), found.port), ("gpu03", 22345));
        assert_eq!(place(&[("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_PROCID", "0")]), Ok(None));
    }

    #[test]
    fn the_first_host_of_a_list_is_found() {
        for (list, first) in [
            ("one", "one"),
            ("one,two", "one"),
            ("gpu[03-07,12],other", "gpu03"),
            ("gpu[3,5]-a", "gpu3-a"),
            ("a,gpu[03-07]", "a"),
        ] {
            assert_eq!(first_host(list), first);
        }
    }

    #[test]
    fn wrong_and_missing_variables_are_named() {
        for (i, name) in [(3, "MASTER_ADDR"), (4, "MASTER_PORT")] {
            let mut variables = TORCHRUN.to_vec();
            variables.remove(i);
            assert!(place(&variables).unwrap_err().0.contains(name));
        }
        for (i, value) in [(0, "8"), (0, "x"), (1, "0"), (4, "70000"), (2, "-1")] {
            let mut variables = TORCHRUN;
            variables[i].1 = value;
            assert!(place(&variables).is_err(), "{variables:?}");
        }
    }

    #[test]
    fn a_taken_port_is_told_as_one() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = listener("127.0.0.1", port, None).unwrap_err().to_string();
        assert!(error.contains("is taken"), "{error}");
        assert_eq!(own_address("127.0.0.1", port).unwrap().to_string(), "127.0.0.1");
    }
}
