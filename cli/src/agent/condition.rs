//! What keeps the agent from its work, in the same words for `/readyz`, `status`, `hosts`, `ps` and the log.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use conductor::Published;
use model::observed::EngineState;
use store::host::{HostStatus, Waiting};
use store::{Alarm, Kv};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::AgentConfig;

/// What an agent lacks that has no view yet.
const UNREAD: &str = "etcd has not been read yet";

/// Condition of the agent: of its engine, its etcd and its cluster. Filled in as it starts.
pub(crate) struct Condition {
    etcd: String,
    own_etcd: bool,
    /// Why the engine is not used yet.
    engine: Mutex<Option<String>>,
    status: OnceLock<watch::Receiver<HostStatus>>,
    published: OnceLock<Arc<Published>>,
    /// Why etcd can't be followed.
    failing: OnceLock<watch::Receiver<Option<String>>>,
}

impl Condition {
    /// Of an agent that has only begun.
    pub(crate) fn new(config: &AgentConfig) -> Self {
        let docker = config.docker.display();
        Self::waiting(
            config.etcd.endpoints.join(", "),
            config.own_etcd,
            format!("the Docker Engine at {docker} has not answered yet"),
        )
    }

    pub(super) fn waiting(etcd: String, own_etcd: bool, engine: String) -> Self {
        Self {
            etcd,
            own_etcd,
            engine: Mutex::new(Some(engine)),
            status: OnceLock::new(),
            published: OnceLock::new(),
            failing: OnceLock::new(),
        }
    }

    /// Why the engine can't be used yet; none once it can.
    pub(crate) fn engine(&self, why: Option<String>) {
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// The host begins to join.
    pub(crate) fn joins(&self, status: watch::Receiver<HostStatus>) {
        // There is one host to an agent.
        let _ = self.status.set(status);
    }

    /// The conductor begins to work.
    pub(crate) fn works(&self, published: Arc<Published>) {
        let _ = self.published.set(published);
    }

    /// The view begins to follow etcd.
    pub(crate) fn follows(&self, failing: watch::Receiver<Option<String>>) {
        let _ = self.failing.set(failing);
    }

    fn failing(&self) -> Option<String> {
        self.failing.get()?.borrow().clone()
    }

    /// What does not work, where and why, and what to look at.
    fn with_reason(&self, what: &str) -> String {
        match self.failing() {
            Some(why) => format!("{what}: {why}{}", look_at(&why)),
            None => what.to_owned(),
        }
    }

    /// All that is missing; nothing if the agent works as it should.
    pub(crate) fn lacks(&self) -> Vec<String> {
        let Some(published) = self.published.get() else {
            let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
            let lacks = engine.clone().into_iter().chain(self.membership());
            let lacks: Vec<String> = lacks.collect();
            // The host can be a member before anything else of the agent has begun.
            if lacks.is_empty() {
                return vec![UNREAD.to_owned()];
            }
            return lacks;
        };
        let mut lacks = Vec::new();
        match published.seen.load().as_ref() {
            None => lacks.push(self.with_reason(UNREAD)),
            Some(seen) => {
                if let Some(reason) = &seen.distrust {
                    lacks.push(format!("nothing is changed: {reason}"));
                } else if seen.stale {
                    lacks.push(self.with_reason("etcd can't be followed at the moment"));
                }
            }
        }
        if let EngineState::Unresponsive(why) = &published.observed.load().engine {
            lacks.push(format!("the Docker Engine does not answer: {why}"));
        }
        let status = self.status.get().map(|status| status.borrow().clone());
        if let Some(HostStatus::Held(reason)) = status {
            lacks.push(format!("this host is in hold: {reason}"));
        }
        lacks.extend(self.troubles(published));
        lacks
    }

    /// All that is missing, without what a view of etcd and the host's record show.
    pub(crate) fn problems(&self) -> Vec<String> {
        let Some(published) = self.published.get() else {
            return self.lacks();
        };
        let seen = published.seen.load();
        let Some(seen) = seen.as_ref() else {
            return self.lacks();
        };
        let mut problems = self.troubles(published);
        if seen.stale && seen.distrust.is_none() {
            let what = self
                .failing()
                .map(|_| self.with_reason("etcd can't be followed"));
            problems.extend(what);
        }
        problems
    }

    /// Why etcd can't be asked now, as far as that is known; none if it is followed.
    pub(crate) fn without_etcd(&self) -> Option<String> {
        let published = self.published.get()?;
        if let Some(seen) = published.seen.load().as_ref()
            && !seen.stale
        {
            return None;
        }
        let lacks = self.lacks().join("; ");
        Some(if self.names_etcd(&lacks) {
            lacks
        } else {
            format!("etcd at {}: {lacks}", self.etcd)
        })
    }

    /// It says already where etcd was asked.
    fn names_etcd(&self, text: &str) -> bool {
        self.etcd
            .split(", ")
            .any(|endpoint| text.contains(endpoint))
    }

    fn troubles(&self, published: &Published) -> Vec<String> {
        let alarm = published.alarm.borrow().map(|it| alarm(it, self.own_etcd));
        // That etcd is away is said of the view, unless there is worse to be said of that.
        let seen = published.seen.load();
        let is_said_of_view = seen
            .as_ref()
            .as_ref()
            .is_none_or(|seen| seen.distrust.is_none());
        let is_said = is_said_of_view && self.failing().is_some() && self.waits_for_etcd();
        let membership = self.membership().filter(|_| !is_said);
        alarm.into_iter().chain(membership).collect()
    }

    /// The host has not joined, since etcd does not answer.
    fn waits_for_etcd(&self) -> bool {
        let status = self.status.get().map(|status| status.borrow().clone());
        matches!(
            status,
            Some(HostStatus::Joining(Waiting::Begun | Waiting::Etcd(_)))
        )
    }

    /// Why the host is no live member.
    fn membership(&self) -> Option<String> {
        let etcd = &self.etcd;
        Some(match &*self.status.get()?.borrow() {
            // That it is in hold the view says.
            HostStatus::Live(_) | HostStatus::Held(_) => return None,
            HostStatus::Joining(Waiting::Begun) => format!("etcd at {etcd} has not answered yet"),
            HostStatus::Joining(Waiting::Etcd(error)) if self.names_etcd(error) => {
                format!("{error}{}", look_at(error))
            }
            HostStatus::Joining(Waiting::Etcd(error)) => {
                format!("etcd at {etcd} can't be used: {error}")
            }
            HostStatus::Joining(why) => format!("this host has not joined yet: {why}"),
            HostStatus::Failed(error) => error.to_string(),
            HostStatus::Left => "this host has left the cluster".to_owned(),
            HostStatus::Lost => "this host's record is not in etcd".to_owned(),
            HostStatus::Distrusted => "etcd holds another cluster".to_owned(),
            HostStatus::Foreign(_) => "this host's identity runs twice: another process writes its record, and this one writes nothing any more".to_owned(),
        })
    }
}

/// What to look at where etcd is not reached.
fn look_at(why: &str) -> &'static str {
    let says = |what: &[&str]| what.iter().any(|what| why.contains(what));
    if says(&["Connection refused"]) {
        "; check that etcd runs there"
    } else if says(&[
        "no answer in time",
        "timed out",
        "deadline",
        "unreachable",
        "No route",
    ]) {
        "; check that the host is up and that no firewall is between"
    } else {
        ""
    }
}

/// Publishes etcd's alarm, while which nothing is placed or moved.
pub(super) async fn follow_alarm(
    kv: Arc<dyn Kv>,
    published: Arc<Published>,
    own_etcd: bool,
    stop: CancellationToken,
) {
    let says = |alarm: Option<store::Alarm>| {
        if let Some(alarm) = alarm {
            error!("{}", self::alarm(alarm, own_etcd));
        } else {
            info!("etcd alarm cleared; it takes writes again");
        }
        published.alarm.send_replace(alarm);
    };
    store::alarm::follow(kv, store::alarm::EVERY, says, stop).await;
}

/// What an alarm means, and what clears it.
fn alarm(alarm: Alarm, own_etcd: bool) -> String {
    let reach = if own_etcd {
        "eval \"$(dokkaa etcd-env)\" and "
    } else {
        ""
    };
    match alarm {
        Alarm::NoSpace => format!(
            "{alarm} and refuses writes: what runs goes on running, nothing is started, moved or taken over, and a host that restarts is missing; to clear it, with {reach}etcdctl: `etcdctl compaction REVISION` (the revision is in `etcdctl endpoint status -w json`), `etcdctl defrag`, `etcdctl alarm disarm`; see \"etcd is full\" in docs/recovery.md"
        ),
        Alarm::Corrupt => format!(
            "{alarm} and refuses everything: replace the member that is wrong, then `etcdctl alarm disarm`; see docs/recovery.md"
        ),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use conductor::published::Seen;
    use model::Snapshot;

    use super::*;

    #[test]
    fn what_is_missing_is_said_from_the_start_on() {
        let etcd = "http://10.0.0.1:2379".to_owned();
        let condition =
            Condition::waiting(etcd, false, "/run/d.sock has not answered yet".to_owned());
        let lacks = |what: &str| condition.lacks().iter().any(|lack| lack.contains(what));
        assert!(lacks("/run/d.sock has not answered yet"));
        condition.engine(Some("the Docker Engine at x: refused".to_owned()));
        assert_eq!(condition.lacks(), ["the Docker Engine at x: refused"]);
        condition.engine(None);
        let (sender, status) = watch::channel(HostStatus::Joining(Waiting::Begun));
        condition.joins(status);
        assert_eq!(
            condition.lacks(),
            ["etcd at http://10.0.0.1:2379 has not answered yet"]
        );
        let refused = Waiting::Etcd("connection refused".to_owned());
        sender.send(HostStatus::Joining(refused)).unwrap();
        assert!(lacks(
            "etcd at http://10.0.0.1:2379 can't be used: connection refused"
        ));
        let other = Waiting::NameTaken([10, 0, 0, 9].into());
        sender.send(HostStatus::Joining(other)).unwrap();
        assert!(lacks("10.0.0.9"));
        sender.send(HostStatus::Live(1)).unwrap();
        assert_eq!(condition.lacks(), [UNREAD]);

        let published = Arc::new(Published::default());
        condition.works(published.clone());
        assert!(lacks("has not been read yet"));
        let see = |stale, distrust: Option<&str>| {
            published.seen.store(Arc::new(Some(Seen {
                snapshot: Snapshot::default(),
                stale,
                distrust: distrust.map(ToOwned::to_owned),
            })));
        };
        see(true, None);
        let (failing, follows) = watch::channel(None);
        condition.follows(follows);
        assert!(lacks("followed"));
        let refused = "http://10.0.0.1:2379: Connection refused (os error 111)";
        failing.send_replace(Some(refused.to_owned()));
        let waits = Waiting::Etcd(format!("etcd does not answer: {refused}"));
        sender.send(HostStatus::Joining(waits)).unwrap();
        let says =
            format!("etcd can't be followed at the moment: {refused}; check that etcd runs there");
        assert_eq!(condition.lacks(), std::slice::from_ref(&says));
        assert_eq!(condition.without_etcd(), Some(says));
        let other = Waiting::NameTaken([10, 0, 0, 9].into());
        sender.send(HostStatus::Joining(other)).unwrap();
        failing.send_replace(Some("permission denied".to_owned()));
        assert!(lacks("followed at the moment: permission denied"));
        let follow = "etcd can't be followed: permission denied".to_owned();
        assert!(condition.problems().contains(&follow));
        assert!(condition.without_etcd().is_some());
        see(false, Some("the cluster's key is gone"));
        assert!(lacks("the cluster's key is gone"));
        assert!(!condition.problems().contains(&follow));
        see(false, None);
        sender.send(HostStatus::Lost).unwrap();
        assert!(lacks("not in etcd"));
        assert_eq!(condition.without_etcd(), None);
        sender.send(HostStatus::Live(1)).unwrap();
        assert_eq!(condition.lacks(), [""; 0]);
    }
}
