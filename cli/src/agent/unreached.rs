//! Hosts that no link of this one gets to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambassador::FailedConnects;
use conductor::Published;
use manifests::HostName;
use model::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Time between two looks while connects fail.
const LOOK: Duration = Duration::from_secs(5);

/// Follows failed connects of links.
pub(super) struct LinkFailures {
    pub(super) connects: Arc<FailedConnects>,
    pub(super) published: Arc<Published>,
    /// What does not answer here is no matter of the way.
    pub(super) own: HostName,
    /// For people.
    pub(super) problems: watch::Sender<Vec<String>>,
}

impl LinkFailures {
    /// Says which hosts are not reached, until it is stopped.
    pub(super) async fn follow(self, stop: CancellationToken) {
        let mut changed = self.connects.changed();
        let mut said = Said::default();
        loop {
            let now = Instant::now();
            let failing = self.connects.failing(now);
            let by_host = match self.published.seen.load().as_ref() {
                Some(seen) => by_host(&failing, &seen.snapshot, &self.own),
                None => BTreeMap::new(),
            };
            if said.follow(&by_host, now) {
                self.problems.send_replace(said.texts());
            }
            let counts = !self.connects.is_empty(now);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changed.changed(), if !counts => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK), if counts => {}
            }
        }
    }
}

/// Live hosts only: the endpoints of a missing one go by themselves.
fn by_host(
    failing: &BTreeMap<IpAddr, String>,
    snapshot: &Snapshot,
    own: &HostName,
) -> BTreeMap<HostName, String> {
    let others = snapshot.live().filter(|(host, _)| *host != own);
    others
        .filter_map(|(host, record)| Some((host.clone(), failing.get(&record.value.addr)?.clone())))
        .collect()
}

/// What is in the host's record. Its figures are written anew once a window: a write of each failure would cost more.
#[derive(Default)]
struct Said(BTreeMap<HostName, (String, Instant)>);

impl Said {
    /// Whether there is news.
    fn follow(&mut self, failing: &BTreeMap<HostName, String>, now: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|host, _| {
            let goes_on = failing.contains_key(host);
            if !goes_on {
                info!(%host, "links reach it again, or are not used");
            }
            goes_on
        });
        let mut is_new = self.0.len() != before;
        for (host, how) in failing {
            let text = format!("links to {host} fail: {how}; dokkaa hosts --check");
            match self.0.get(host) {
                Some((_, at))
                    if now.saturating_duration_since(*at) < ambassador::FAILURES_COUNT => {}
                Some((old, _)) if *old == text => {}
                known => {
                    if known.is_none() {
                        warn!("{text}");
                    }
                    self.0.insert(host.clone(), (text, now));
                    is_new = true;
                }
            }
        }
        is_new
    }

    fn texts(&self) -> Vec<String> {
        self.0.values().map(|(text, _)| text.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_renewed_once_a_minute_and_an_end_at_once() {
        let host: HostName = "h3".parse().expect("a name");
        let failing = |n: u32| {
            let how = format!("{n} of {n} connects in the last minute timed out");
            BTreeMap::from([(host.clone(), how)])
        };
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut said = Said::default();
        assert!(!said.follow(&BTreeMap::new(), begun));
        assert!(said.follow(&failing(3), begun));
        let text =
            "links to h3 fail: 3 of 3 connects in the last minute timed out; dokkaa hosts --check";
        assert_eq!(said.texts(), [text]);
        assert!(!said.follow(&failing(9), after(30)));
        assert!(said.follow(&failing(12), after(61)));
        assert!(said.texts()[0].contains("12 of 12"));
        assert!(said.follow(&BTreeMap::new(), after(62)));
        assert!(said.texts().is_empty());
    }
}
