//! The host's ports for services of instances: which one comes next.
//!
//! A port is taken from the agent's own range, the least recently used first,
//! never again within ten minutes of its last use, never one that another
//! container of ours holds, and only if a bind shows that it is free. The pool
//! is a value; the file that keeps the order of use and the bind are apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use manifests::manifest::Protocol;
use serde::{Deserialize, Serialize};
use store::state_file;

/// So long a port rests after its last use: clients may still connect to what was there.
pub const REST: Duration = Duration::from_secs(600);

/// The agent's own range of ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange(RangeInclusive<u16>);

/// Error of parsing a [`PortRange`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port range; expected one such as `20000-29999`")]
pub struct PortRangeError(String);

impl PortRange {
    /// The default: 20000–29999.
    pub const DEFAULT: Self = Self(20_000..=29_999);

    /// How many ports.
    pub fn size(&self) -> usize {
        usize::from(*self.0.end()) - usize::from(*self.0.start()) + 1
    }

    /// First and last port.
    pub fn bounds(&self) -> &RangeInclusive<u16> {
        &self.0
    }

    /// Whether it shares a port with another range.
    pub fn overlaps(&self, other: &RangeInclusive<u16>) -> bool {
        self.0.start() <= other.end() && other.start() <= self.0.end()
    }

    /// Whether a port is in it.
    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let range = text.split_once('-').and_then(|(first, last)| {
            let first: u16 = first.trim().parse().ok()?;
            let last: u16 = last.trim().parse().ok()?;
            (first > 0 && first <= last).then_some(Self(first..=last))
        });
        range.ok_or_else(|| PortRangeError(text.to_owned()))
    }
}

impl TryFrom<String> for PortRange {
    type Error = PortRangeError;

    fn try_from(text: String) -> Result<Self, PortRangeError> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

/// The pool: when each port was used last, in Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortPool {
    range: PortRange,
    last_use: BTreeMap<u16, i64>,
}

impl PortPool {
    /// A pool without a past.
    pub fn new(range: PortRange) -> Self {
        Self {
            range,
            last_use: BTreeMap::new(),
        }
    }

    /// Ports that may be taken now, in the order in which they should be: those never used by number, then by the time
    /// of their last use. `in_use`: held by containers of ours, running or not.
    pub fn candidates(&self, in_use: &BTreeSet<u16>, now: i64) -> Vec<u16> {
        let mut ports: Vec<(i64, u16)> = self
            .range
            .0
            .clone()
            .filter(|port| !in_use.contains(port))
            .filter_map(|port| match self.last_use.get(&port) {
                None => Some((i64::MIN, port)),
                // The clock was set back since: as if used just now.
                Some(used) if *used > now => None,
                Some(used) => (now - used >= REST.as_millis() as i64).then_some((*used, port)),
            })
            .collect();
        ports.sort_unstable();
        ports.into_iter().map(|(_, port)| port).collect()
    }

    /// Takes a port for each protocol that is asked for; `is_free` is the bind probe. None if there are not enough.
    pub fn take(
        &mut self,
        wanted: &[Protocol],
        in_use: &BTreeSet<u16>,
        now: i64,
        mut is_free: impl FnMut(u16, Protocol) -> bool,
    ) -> Option<Vec<u16>> {
        let mut candidates = self.candidates(in_use, now).into_iter();
        let mut taken = Vec::with_capacity(wanted.len());
        for protocol in wanted {
            taken.push(candidates.find(|port| is_free(*port, *protocol))?);
        }
        for port in &taken {
            self.mark(*port, now);
        }
        Some(taken)
    }

    /// The port is used now: when it is taken, and when what had it is gone.
    pub fn mark(&mut self, port: u16, now: i64) {
        if self.range.contains(port) {
            self.last_use.insert(port, now);
        }
    }

    /// Reads the order of use from a file; a missing or damaged one is a pool without a past.
    pub fn load(range: PortRange, path: &Path, now: i64) -> Self {
        let last_use: BTreeMap<u16, i64> = std::fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let mut pool = Self::new(range);
        for (port, used) in last_use {
            pool.mark(port, used.min(now));
        }
        pool
    }

    /// Writes the order of use to a file, at once or not at all.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        // Two at a time would write into one new file.
        static SAVING: Mutex<()> = Mutex::new(());
        let _alone = SAVING.lock().unwrap_or_else(PoisonError::into_inner);
        state_file::replace_json(path, &self.last_use)
    }
}

/// Tries whether a container could have this address.
///
/// # Errors
///
/// `AddrInUse` if somebody on this machine has it; others as bind(2) gives them, such as `AddrNotAvailable` for one that
/// is not this host's.
pub(crate) fn try_bind(at: SocketAddr, protocol: Protocol) -> io::Result<()> {
    match protocol {
        Protocol::Tcp => TcpListener::bind(at).map(drop),
        Protocol::Udp => UdpSocket::bind(at).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const TEN_MINUTES: i64 = 600_000;

    fn range(text: &str) -> PortRange {
        text.parse().expect("a range")
    }

    fn pool() -> PortPool {
        PortPool::new(range("20000-20003"))
    }

    fn take(pool: &mut PortPool, in_use: &[u16], now: i64) -> Option<u16> {
        let in_use = in_use.iter().copied().collect();
        let taken = pool.take(&[Protocol::Tcp], &in_use, now, |_, _| true)?;
        taken.first().copied()
    }

    #[test]
    fn a_port_comes_again_only_after_its_rest_and_the_longest_unused_first() {
        let mut pool = pool();
        let first: Vec<_> = (0..4).map(|at| take(&mut pool, &[], at)).collect();
        assert_eq!(first, [20_000, 20_001, 20_002, 20_003].map(Some));
        assert_eq!(take(&mut pool, &[], 10), None);
        pool.mark(20_000, 100);
        assert_eq!(take(&mut pool, &[], TEN_MINUTES + 50), Some(20_001));
        assert_eq!(take(&mut pool, &[20_002], TEN_MINUTES + 50), Some(20_003));
        assert_eq!(take(&mut pool, &[], TEN_MINUTES + 100), Some(20_002));
        assert_eq!(take(&mut pool, &[], TEN_MINUTES + 100), Some(20_000));
    }

    #[test]
    fn a_port_that_a_probe_finds_taken_is_passed_over() {
        let mut pool = pool();
        let tcp_is_taken_at_20000 =
            |port: u16, protocol: Protocol| port != 20_000 || protocol == Protocol::Udp;
        let wanted = [Protocol::Tcp, Protocol::Udp];
        let taken = pool.take(&wanted, &BTreeSet::new(), 0, tcp_is_taken_at_20000);
        assert_eq!(taken, Some(vec![20_001, 20_002]));
        let none = pool.take(&wanted, &BTreeSet::new(), 0, |_, _| false);
        assert_eq!(none, None);
        assert_eq!(pool.candidates(&BTreeSet::new(), 0), [20_000, 20_003]);
    }

    #[test]
    fn a_clock_that_was_set_back_frees_nothing_early() {
        let mut pool = pool();
        pool.mark(20_000, 1_000_000);
        assert!(!pool.candidates(&BTreeSet::new(), 5).contains(&20_000));
    }

    #[test]
    fn the_order_of_use_outlives_the_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ports.json");
        assert_eq!(PortPool::load(range("20000-20003"), &file, 0), pool());
        let mut used = pool();
        take(&mut used, &[], 7);
        used.save(&file).expect("written");
        assert_eq!(PortPool::load(range("20000-20003"), &file, 9), used);
        let other = PortPool::load(range("20001-20003"), &file, 9);
        assert_eq!(other.candidates(&BTreeSet::new(), 9).len(), 3);
        std::fs::write(&file, "{").expect("written");
        assert_eq!(PortPool::load(range("20000-20003"), &file, 0), pool());
    }

    #[test]
    fn saves_at_the_same_time_leave_a_whole_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ports.json");
        let range = PortRange::DEFAULT;
        let mut pools = Vec::new();
        for size in [10, 10_000, 100, 1_000] {
            let mut pool = PortPool::new(range.clone());
            (20_000..).take(size).for_each(|port| pool.mark(port, 1));
            pools.push(pool);
        }
        std::thread::scope(|scope| {
            for pool in &pools {
                scope.spawn(|| pool.save(&file).expect("written"));
            }
        });
        assert!(pools.contains(&PortPool::load(range, &file, 1)));
    }

    #[test]
    fn a_range_is_two_ports_in_order() {
        assert_eq!(range("20000-29999"), PortRange::DEFAULT);
        assert_eq!(PortRange::DEFAULT.size(), 10_000);
        for odd in ["", "20000", "2-1", "0-5", "1-70000", "a-b"] {
            assert_eq!(odd.parse::<PortRange>(), Err(PortRangeError(odd.into())));
        }
    }

    #[test]
    fn a_bind_shows_who_holds_a_port() {
        let here = IpAddr::from([127, 0, 0, 1]);
        let held = TcpListener::bind((here, 0)).expect("a port");
        let port = held.local_addr().expect("bound").port();
        assert!(try_bind(SocketAddr::new(here, port), Protocol::Tcp).is_err());
        assert!(try_bind(SocketAddr::from(([127, 0, 0, 2], port)), Protocol::Tcp).is_ok());
    }
}
