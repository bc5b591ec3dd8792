//! The record of one process: the real machine, and what it has been told.

use model::Millis;
use model::records::{Cluster, Hold, HostRecord};
use store::host::{HostMachine, HostStatus};
use uuid::Uuid;

/// The record of one process.
#[derive(Debug)]
pub struct HostLife {
    pub(crate) machine: HostMachine,
    /// A step is not answered yet.
    pub(crate) asking: bool,
    /// The lease that is kept alive.
    pub(crate) kept: Option<i64>,
    pub(crate) wake: Option<u64>,
    pub(crate) inbox: Inputs,
    pub(crate) fed: Inputs,
    /// The process before this one ran in the same boot of the machine.
    pub same_boot: bool,
}

/// What the view tells the machine; each is fed when it is another than before.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Inputs {
    pub(crate) engine: Option<bool>,
    pub(crate) observed: Option<(i64, Option<(Uuid, i64)>)>,
    pub(crate) belief: Option<Belief>,
    pub(crate) accepted: Option<Cluster>,
    pub(crate) leave: bool,
}

/// What the view thinks of etcd.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Belief {
    Trusted,
    Distrusted(Hold),
}

impl HostLife {
    /// How the host stands.
    pub fn status(&self) -> &HostStatus {
        self.machine.status()
    }

    /// Revision at which the record was put anew last.
    pub fn floor(&self) -> i64 {
        self.machine.floor()
    }

    /// The lease that is kept alive.
    pub fn lease(&self) -> Option<i64> {
        self.machine.lease().map(|lease| lease.id)
    }

    /// It has joined, and nobody else writes in its name.
    pub fn is_member(&self) -> bool {
        matches!(self.status(), HostStatus::Live(_) | HostStatus::Lost)
    }

    /// Feeds the machine what is another than before.
    pub(crate) fn feed(&mut self, wanted: Option<HostRecord>, now: Millis) {
        let inbox = self.inbox.clone();
        let fed = std::mem::replace(&mut self.fed, inbox);
        let inputs = &self.fed;
        if let Some(wanted) = wanted {
            self.machine.want(wanted, now);
        }
        if let Some(cluster) = inputs
            .accepted
            .as_ref()
            .filter(|_| inputs.accepted != fed.accepted)
        {
            self.machine.accept(cluster.clone());
        }
        if inputs.belief != fed.belief {
            match &inputs.belief {
                Some(Belief::Trusted) => self.machine.hold(None, now),
                Some(Belief::Distrusted(hold)) => self.machine.hold(Some(hold.clone()), now),
                None => {}
            }
        }
        if let Some((revision, record)) = inputs.observed
            && (inputs.observed != fed.observed)
        {
            self.machine.observed(revision, record);
        }
        if inputs.leave {
            self.inbox.leave = false;
            self.fed.leave = false;
            self.machine.leave();
        }
    }
}
