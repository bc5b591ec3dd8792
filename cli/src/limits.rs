//! Limit of open files, and each listener's share of it.
//!
//! A connection is a file descriptor. Where 1,024 may be open or more, all listeners together take
//! at most four fifths of the limit; the rest is for Docker, etcd, files and child processes.

use listen::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Upper bound: the kernel's default `fs.nr_open`.
const MOST: u64 = 1 << 20;
/// With fewer the agent warns at its start.
const FEW: u64 = 4_096;

/// Raises the soft limit of open files to the hard limit, and returns it.
pub(crate) fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let (soft, hard) = (current.unwrap_or(MOST), maximum.unwrap_or(MOST));
    let wanted = hard.min(MOST).max(soft);
    let limit = Rlimit {
        current: Some(wanted),
        maximum,
    };
    let open_files = match setrlimit(Resource::Nofile, limit) {
        Ok(()) => wanted,
        Err(error) => {
            warn!(%error, soft, hard, "cannot raise the limit of open files");
            soft
        }
    };
    if open_files < FEW {
        warn!(
            open_files,
            "low limit of open files: few connections are accepted at a time; raise the hard limit (LimitNOFILE= of the unit, or `ulimit -Hn`)"
        );
    } else if open_files > soft {
        info!(open_files, before = soft, "raised the limit of open files");
    }
    open_files
}

/// The connections of each listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// `/v2` and `/dokkaa/v1`.
    pub(crate) api: Limits,
    /// Those that wait for events or follow logs there, besides.
    pub(crate) waits: usize,
    /// Authenticated peers, each of which is two descriptors.
    pub(crate) peers: Limits,
    /// Metrics and health.
    pub(crate) metrics: Limits,
    /// Links, each of which is two connections.
    pub(crate) links: Limits,
}

impl Shares {
    /// Shares of a limit of open files. DNS has 256 of its own, and the peer listener 64 before the handshake.
    pub(crate) fn of(open_files: u64) -> Self {
        let part = usize::try_from(open_files / 64)
            .unwrap_or(usize::MAX)
            .max(1);
        let limits = |all: usize, parts: usize| Limits {
            all,
            per_source: (all / parts).max(1),
        };
        Self {
            api: limits((part * 6).min(512), 2),
            waits: (part * 6).min(6_144),
            peers: limits((part * 3).min(1_024), 4),
            metrics: limits(part.min(64), 2),
            links: limits((part * 6).min(65_536), 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_listeners_together_leave_a_fifth() {
        for open_files in [1_024, 4_096, 20_000, MOST] {
            let Shares {
                api,
                waits,
                peers,
                metrics,
                links,
            } = Shares::of(open_files);
            let (dns, strangers) = (256, 64);
            let listeners = api.all + waits + 2 * peers.all + metrics.all + 2 * links.all;
            let all = listeners + dns + strangers;
            assert!(all as u64 * 5 <= open_files * 4, "{all} of {open_files}");
            for limits in [api, peers, metrics, links] {
                assert!(limits.per_source > 0 && limits.per_source < limits.all);
            }
        }
        let api = |open_files| {
            let Shares { api, waits, .. } = Shares::of(open_files);
            (api.all, waits)
        };
        assert_eq!(api(MOST), (512, 6_144));
        assert_eq!(api(1_024), (96, 96));
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = raise_open_files();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, Some(raised));
        assert!(current >= maximum.map(|hard| hard.min(MOST)));
    }
}
