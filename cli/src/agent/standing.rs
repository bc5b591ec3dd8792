//! What the agent still waits for, from its first moment on; once it works, what [`condition`] says.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use conductor::Published;
use store::host::{HostStatus, Waiting};
use tokio::sync::watch;

use super::condition;
use crate::config::AgentConfig;

/// How this agent stands with its engine, its etcd and its cluster; filled in as it starts.
pub(crate) struct Standing {
    etcd: String,
    own_etcd: bool,
    /// Why the engine is not used yet.
    engine: Mutex<Option<String>>,
    status: OnceLock<watch::Receiver<HostStatus>>,
    published: OnceLock<Arc<Published>>,
}

impl Standing {
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

    /// All that is missing; nothing if the agent works as it should.
    pub(crate) fn lacks(&self) -> Vec<String> {
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = engine.clone();
        let status = self.status.get().map(watch::Receiver::borrow);
        match (status, self.published.get()) {
            (Some(status), Some(published)) => condition::lacks(published, &status, self.own_etcd),
            (Some(status), None) => engine.into_iter().chain(self.meets(&status)).collect(),
            (None, _) => engine.into_iter().collect(),
        }
    }

    /// Why etcd can't be asked now, as far as that is known; none if it is followed.
    pub(crate) fn without_etcd(&self) -> Option<String> {
        let published = self.published.get()?;
        if let Some(seen) = published.seen.load().as_ref()
            && !seen.stale
        {
            return None;
        }
        Some(format!(
            "etcd at {}: {}",
            self.etcd,
            self.lacks().join("; ")
        ))
    }

    /// What an agent waits for that knows no cluster yet.
    fn meets(&self, status: &HostStatus) -> Option<String> {
        Some(match status {
            HostStatus::Joining(Waiting::Begun) => {
                format!("etcd at {} has not answered yet", self.etcd)
            }
            HostStatus::Joining(Waiting::Etcd(error)) => {
                format!("etcd at {} can't be used: {error}", self.etcd)
            }
            HostStatus::Joining(why) => format!("this host has not joined yet: {why}"),
            HostStatus::Failed(error) => error.to_string(),
            _ => return None,
        })
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
        let standing =
            Standing::waiting(etcd, false, "/run/d.sock has not answered yet".to_owned());
        let lacks = |what: &str| standing.lacks().iter().any(|lack| lack.contains(what));
        assert!(lacks("/run/d.sock has not answered yet"));
        standing.engine(Some("the Docker Engine at x: refused".to_owned()));
        assert_eq!(standing.lacks(), ["the Docker Engine at x: refused"]);
        standing.engine(None);
        let (sender, status) = watch::channel(HostStatus::Joining(Waiting::Begun));
        standing.joins(status);
        assert_eq!(
            standing.lacks(),
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

        let published = Arc::new(Published::default());
        standing.works(published.clone());
        assert!(lacks("has not been read yet"));
        let see = |stale, distrust: Option<&str>| {
            published.seen.store(Arc::new(Some(Seen {
                snapshot: Snapshot::default(),
                stale,
                distrust: distrust.map(ToOwned::to_owned),
            })));
        };
        see(true, None);
        assert!(lacks("followed"));
        assert!(standing.without_etcd().is_some());
        see(false, Some("the cluster's key is gone"));
        assert!(lacks("the cluster's key is gone"));
        see(false, None);
        sender.send(HostStatus::Lost).unwrap();
        assert!(lacks("not in etcd"));
        assert_eq!(standing.without_etcd(), None);
        sender.send(HostStatus::Live(1)).unwrap();
        assert_eq!(standing.lacks(), [""; 0]);
    }
}
