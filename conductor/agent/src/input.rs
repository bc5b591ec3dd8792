//! What reaches the agent.

use std::collections::BTreeMap;

use manifests::InstanceId;
use model::images::ImageAnswer;
use model::kv::RangeReply;
use model::observed::{Listing, ObservedContainer, Readiness, Surroundings};
use model::{ActionReport, Millis, Scope, Write};

use crate::effect::StateFile;
use crate::host::HostStatus;
use crate::view::ViewUpdate;

/// The time, as whoever drives the agent reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock, by which everything is decided.
    pub mono: Millis,
    /// Unix milliseconds, for what outlives the process.
    pub wall: i64,
}

/// What reaches the agent.
#[derive(Debug)]
pub enum Input {
    /// The view of etcd has changed.
    View(Box<ViewUpdate>),
    /// How the host stands, and the revision at which its record was put last.
    Host {
        /// How it stands.
        status: HostStatus,
        /// The record's revision.
        floor: i64,
    },
    /// Of `Effect::ReadStatuses`; none without an answer.
    Statuses(Option<RangeReply>),
    /// Of `Effect::Write`, in any number of parts.
    Wrote(WriteAnswers),
    /// What the engine shows.
    Engine(EngineUpdate),
    /// Of `Effect::Act`.
    Done(ActionReport),
    /// Of `Effect::Ask`.
    ImageAnswer(ImageAnswer),
    /// How far a pull is, for people; none at its end.
    Progress(Scope, Option<String>),
    /// Of `Effect::Probe`, whenever it differs.
    Probed(ProbeResult),
    /// Of `Effect::CountConnections`, whenever it differs.
    Connections(OpenConnections),
    /// Of `Effect::ReadLastLines`.
    LastLines(InstanceId, Vec<String>),
    /// Etcd refuses writes, and why; or it takes them (again).
    Alarm(Option<String>),
    /// Link ports that this host's agent can't have, and who has them.
    HeldLinks(BTreeMap<u16, String>),
    /// What containers are made with from now on.
    Surroundings(Box<Surroundings>),
    /// Of `Effect::Save`: it is on disk, or why not.
    Saved(StateFile, Result<(), String>),
}

/// Answers to writes that travelled together.
#[derive(Debug)]
pub struct WriteAnswers {
    /// Which, and whether the guards held; none without an answer.
    pub writes: Vec<(Write, Option<bool>)>,
    /// Etcd's revision.
    pub revision: i64,
    /// That of the view from which they were planned.
    pub seen: i64,
}

/// What the engine is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inspection {
    /// All containers.
    List,
    /// One, by Docker's id.
    Container(String),
}

/// What the engine shows.
#[derive(Debug)]
pub enum EngineUpdate {
    /// It is asked now: what becomes known of the same from elsewhere after this is newer than the answer.
    Asked(Inspection),
    /// All containers.
    List(Listing),
    /// One container as it is now.
    Container(Box<ObservedContainer>),
    /// A container is gone, by Docker's id.
    Gone(String),
    /// The engine does not answer; why.
    Unresponsive(String),
}

/// What a probe says of a running instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// Which.
    pub instance: InstanceId,
    /// The start that it is about.
    pub started_at: i64,
    /// Whether it takes traffic.
    pub readiness: Readiness,
    /// Why it is not ready, for people.
    pub reason: Option<String>,
}

/// How many connections an instance that leaves still has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenConnections {
    /// Which.
    pub instance: InstanceId,
    /// The start that it is about.
    pub started_at: i64,
    /// So many; none if they can't be counted.
    pub open: Option<u32>,
}
