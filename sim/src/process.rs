//! A process of the agent, and what it has under way.

use std::collections::{BTreeMap, BTreeSet};

use agent::Agent;
use manifests::{ContainerId, InstanceId};
use model::{Millis, Scope, Trust};
use store::host::HostStatus;
use store::memory::WatchId;
use store::view::View;

use crate::host_life::HostLife;
use crate::members::Life;

/// A process of the agent.
#[derive(Debug)]
pub struct Process {
    /// Which.
    pub id: u64,
    /// Its record.
    pub host: HostLife,
    /// All else, once it has joined.
    pub agent: Option<Box<Joined>>,
    /// How the host stands, as was told last.
    pub(crate) said: String,
}

/// A joined agent, and what it has under way.
#[derive(Debug)]
pub struct Joined {
    /// The view.
    pub view: View,
    /// The agent.
    pub agent: Agent,
    /// The revision of the first read of this connect, and after how many restores it was.
    pub first_read: (i64, usize),
    /// Own writes that were answered, by what they were about: their revision.
    pub answered: BTreeMap<Scope, i64>,
    /// Containers of which an image could not be had, or a container not made or started.
    pub failed: BTreeSet<ContainerId>,
    /// How the host stands, as the agent knows.
    pub(crate) host: Option<(HostStatus, i64)>,
    pub(crate) stream: Option<Stream>,
    /// The member that the first read of this connect went to.
    pub(crate) endpoint: usize,
    pub(crate) asking: bool,
    /// Instances that are probed, and since which start.
    pub(crate) probes: BTreeMap<InstanceId, i64>,
    /// Instances whose connections are counted, and the start that it is about.
    pub(crate) counted: BTreeMap<InstanceId, i64>,
    pub(crate) wake: Option<u64>,
    /// When the agent is to be asked, if nothing comes before.
    pub(crate) wake_at: Millis,
    pub(crate) next_list: Millis,
    pub(crate) next_save: Millis,
    pub(crate) saved: (u64, i64),
}

/// The stream of its view.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) watch: WatchId,
    pub(crate) of: Life,
    /// Something is on its way.
    pub(crate) coming: bool,
    /// Its progress is asked for.
    pub(crate) asked: bool,
    /// So many of the next replies with events are lost.
    pub(crate) loses: u32,
}

impl Process {
    /// Its view follows etcd and may be acted on.
    pub fn sees_all(&self) -> bool {
        let agent = self.agent.as_ref();
        agent.is_some_and(|joined| joined.agent.trust() == Trust::Full)
    }

    /// A stream is there, and nothing of it is on its way.
    pub fn stream_waits(&mut self) -> bool {
        let stream = self.agent.as_mut().and_then(|agent| agent.stream.as_mut());
        stream.is_some_and(|stream| !std::mem::replace(&mut stream.coming, true))
    }

    /// Its watch, and whose.
    pub fn watch(&self) -> Option<(WatchId, Life)> {
        let stream = self.agent.as_ref()?.stream.as_ref()?;
        Some((stream.watch, stream.of))
    }

    /// The next events on the stream are lost.
    pub fn stream_loses(&mut self, replies: u32) {
        if let Some(stream) = self.agent.as_mut().and_then(|agent| agent.stream.as_mut()) {
            stream.loses = replies;
        }
    }

    /// What was on its way is lost.
    pub fn stream_broke(&mut self) {
        if let Some(stream) = self.agent.as_mut().and_then(|agent| agent.stream.as_mut()) {
            stream.coming = false;
        }
    }
}
