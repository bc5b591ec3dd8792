//! What keeps the agent from its work, in the same words for `/readyz`, `status`, `hosts`, `ps` and the log.

use conductor::Published;
use model::observed::EngineState;
use store::Alarm;
use store::host::{HostStatus, Waiting};

/// Everything that is wrong; nothing in health.
pub(crate) fn lacks(published: &Published, status: &HostStatus, own_etcd: bool) -> Vec<String> {
    let mut lacks = Vec::new();
    match published.seen.load().as_ref() {
        None => lacks.push("etcd has not been read yet".to_owned()),
        Some(seen) => {
            if let Some(reason) = &seen.distrust {
                lacks.push(format!("nothing is changed: {reason}"));
            } else if seen.stale {
                lacks.push("etcd can't be followed at the moment".to_owned());
            }
        }
    }
    if let EngineState::Unresponsive(why) = &published.observed.load().engine {
        lacks.push(format!("the Docker Engine does not answer: {why}"));
    }
    if let HostStatus::Held(reason) = status {
        lacks.push(format!("this host is in hold: {reason}"));
    }
    lacks.extend(troubles(published, status, own_etcd));
    lacks
}

/// What neither the view nor the host's record in etcd shows.
pub(crate) fn troubles(published: &Published, status: &HostStatus, own_etcd: bool) -> Vec<String> {
    let alarm = published.alarm.borrow().map(|it| alarm(it, own_etcd));
    let standing = match status {
        // That it is in hold the view says.
        HostStatus::Live(_) | HostStatus::Held(_) => None,
        HostStatus::Joining(Waiting::Begun) => Some("this host has not joined yet".to_owned()),
        HostStatus::Joining(why) => Some(format!("this host has not joined yet: {why}")),
        HostStatus::Failed(error) => Some(error.to_string()),
        HostStatus::Left => Some("this host has left the cluster".to_owned()),
        HostStatus::Lost => Some("this host's record is not in etcd".to_owned()),
        HostStatus::Distrusted => Some("etcd holds another cluster".to_owned()),
        HostStatus::Foreign(_) => Some(
            "this host's identity runs twice: another process writes its record, and this one writes nothing any more"
                .to_owned(),
        ),
    };
    alarm.into_iter().chain(standing).collect()
}

/// What an alarm means, and what clears it.
pub(crate) fn alarm(alarm: Alarm, own_etcd: bool) -> String {
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
