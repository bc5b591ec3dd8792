//! What the agent wants done: values that a runtime carries out in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use manifests::{ContainerId, InstanceId, Manifest, SlotId};
use model::directory::Callers;
use model::events::Happened;
use model::identity::Notes;
use model::images::ImageQuestion;
use model::kv::Range;
use model::observed::{Copied, Observed, ObservedContainer, Running, Surroundings};
use model::{Action, Directory, Millis, ModRev, Scope, Snapshot, Write, WriteKind};
use planner::Waiting;

use crate::restore::OrphansNote;
use crate::view::ViewUpdate;

/// What is to be done. A runtime carries effects out one after the other; only writes, reads, actions and probes may
/// go on after the next has begun.
#[derive(Debug)]
pub enum Effect {
    /// Writes to etcd, each with its guards: answered by `Input::Wrote`.
    Write {
        /// What is written.
        writes: Vec<Write>,
        /// Revision of the view from which they were planned.
        seen: i64,
    },
    /// What an earlier agent of this host said of its slots is to be read from etcd, once: answered by
    /// `Input::Statuses`.
    ReadStatuses(Range),
    /// On the engine: answered by `Input::Done`, and `Input::Progress` meanwhile.
    Act(Action),
    /// A registry is to be asked for a newer image: answered by `Input::ImageAnswer`.
    Ask(ImageQuestion),
    /// A running instance is to be probed from now on, until it is another one or its probe ends: answered by
    /// `Input::Probed`, again and again.
    Probe(Box<Probe>),
    /// This instance does not run any more.
    EndProbe(InstanceId),
    /// The open connections of an instance that leaves are to be counted from now on, until that ends: answered by
    /// `Input::Connections`, again and again.
    CountConnections(Counted),
    /// They are not waited for any more.
    EndCount(InstanceId),
    /// The last lines that an instance wrote before it ended, or was late: answered by `Input::LastLines`.
    ReadLastLines {
        /// Which instance.
        instance: InstanceId,
        /// Docker's id.
        docker_id: String,
    },
    /// A file of the state directory is to say this: answered by `Input::Saved`.
    Save(Saving),
    /// The host's record follows the view: what it is judged by. What was touched is left out.
    Follow(Box<ViewUpdate>),
    /// What the host's record says of the engine.
    Report {
        /// Running containers that are not ours.
        foreign: u32,
        /// It answers.
        engine: bool,
    },
    /// What others read.
    Publish(Table),
    /// What happened, to be kept for who asks.
    Record(Vec<Happened>),
    /// A line for the log.
    Log(AgentLog),
    /// The agent is to be asked again then, if nothing comes before. Each replaces the one before.
    WakeAt(Millis),
}

/// A running instance that is probed, and what it was made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// The container as it is now; its health may be new.
    pub container: ObservedContainer,
    /// The manifest of its version.
    pub manifest: Arc<Manifest>,
}

/// An instance whose open connections are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Which.
    pub instance: InstanceId,
    /// Its process.
    pub process: Running,
    /// Its service ports.
    pub ports: BTreeSet<u16>,
}

/// A file of the state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateFile {
    /// What an accepted restore left without a manifest.
    Orphans,
    /// The containers that this host has made.
    Instances,
}

/// What a file of the state directory is to say.
#[derive(Debug, Clone, PartialEq)]
pub enum Saving {
    /// What an accepted restore left without a manifest.
    Orphans(OrphansNote),
    /// The containers that this host has made.
    Instances(Notes),
}

/// The cluster as this agent sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// etcd.
    pub snapshot: Snapshot,
    /// It is known to be old, or not complete yet.
    pub stale: bool,
    /// Why nothing is changed, if etcd is not believed.
    pub distrust: Option<String>,
}

/// Tables that others read; each is whole.
#[derive(Debug, Clone)]
pub enum Table {
    /// The cluster.
    Seen(Box<Seen>),
    /// Services and endpoints.
    Directory(Directory),
    /// The engine, which was listed wholly.
    Listed,
    /// The engine as far as it is known.
    Observed(Arc<Observed>),
    /// Containers that carry our labels and are not ours, for people.
    Copies(Vec<String>),
    /// Why slots wait.
    Waiting(BTreeMap<SlotId, Waiting>),
    /// Instances that may use links.
    Callers(Arc<Callers>),
    /// Link ports of containers that are made and do not run: they may be started at any moment.
    AwaitedLinks(BTreeSet<u16>),
}

/// A line for the log; how it reads is said at the edge.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentLog {
    /// etcd is followed from this revision on.
    Followed(i64),
    /// etcd is not followed, or not any more.
    NotFollowed,
    /// etcd is not the one that this host knows, for this reason.
    Distrusted(String),
    /// A restore was accepted: the epoch from now on.
    Restored(u64),
    /// A manifest that was written past the API is valid, but odd.
    ManifestWarnings(ContainerId, ModRev, Vec<String>),
    /// A manifest is not valid.
    ManifestInvalid(ContainerId, ModRev, Vec<String>),
    /// The engine answers again.
    EngineBack,
    /// The engine does not answer.
    EngineUnresponsive(String),
    /// The engine's network is another one.
    NetworkChanged(Surroundings),
    /// The guards of a write did not hold: its kind, and what it was about.
    GuardFailed(WriteKind, Scope),
    /// A plan that does something new: the view's revision, and what by number.
    Planned(i64, String),
    /// A slot waits, and why.
    Waits(SlotId, Waiting),
    /// Two containers have one address.
    SharedAddress(std::net::IpAddr, SlotId, SlotId),
    /// A container carries our labels and is not ours.
    Copied(Copied),
    /// A file can't be written; whether that is known already.
    NotSaved(StateFile, String, bool),
    /// It is written again.
    SavedAgain(StateFile),
}
