//! What happened, as values: told from what the loop sees and does anyway.
//!
//! Each host tells its own deeds and what it sees of itself. Of another one is
//! only told that it is missing, which that one can't tell, and that it is back.
//! An event is for people: nothing is decided by it.

mod repeats;

use manifests::{AppName, ContainerId, ContainerName, HostName, InstanceId, SlotId};
use serde::{Deserialize, Serialize};

pub use repeats::Repeats;

/// Longest message, in bytes: what an engine says has no end of its own.
const LONGEST: usize = 1_000;

/// Kind of an event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Kind {
    /// A manifest was written or removed.
    Manifest,
    /// An operator has paused, drained or activated a host.
    Availability,
    /// A slot that nobody had is this host's.
    Claimed,
    /// The slot of a host that is missing is this host's.
    TakenOver,
    /// A slot that another took over is this host's again.
    Retaken,
    /// An instance here is to take a slot over from its owner.
    Handover,
    /// It has.
    HandedOver,
    /// It will not.
    HandoverEnded,
    /// An own slot is to run a new instance.
    Replacing,
    /// A slot was given up.
    Released,
    /// This host can't run a container, and says so to all.
    Unfit,
    /// It may be able to now.
    Fit,
    /// The image of a version is decided.
    Image,
    /// A registry has a newer image for a container.
    ImageFound,
    /// All slots run it.
    ImageRolled,
    /// It failed, and the image before is run again.
    ImageBack,
    /// A registry did not say whether it has one.
    ImageUnknown,
    /// What runs before a version has been started, or is done.
    Before,
    /// An update was given up.
    UpdateFailed,
    /// A container was made.
    Created,
    /// Its process was started.
    Started,
    /// It takes traffic.
    Ready,
    /// It takes none any more.
    Unready,
    /// Somebody has paused it.
    Paused,
    /// Somebody has unpaused it.
    Unpaused,
    /// It takes no new connections, and is about to be stopped.
    Leaving,
    /// Its process ended because this host asked it to.
    Stopped,
    /// Its process ended by itself, or somebody else ended it.
    Exited,
    /// The container is gone.
    Removed,
    /// Something that was to be done could not be.
    Failed,
    /// The Docker Engine does not answer.
    EngineUnresponsive,
    /// It does again.
    EngineBack,
    /// etcd can't be followed.
    EtcdUnreachable,
    /// It can be again.
    EtcdBack,
    /// This host distrusts its etcd, and changes nothing.
    Hold,
    /// It trusts it again.
    HoldEnded,
    /// Somebody has accepted that etcd was restored.
    Restored,
    /// The agent has started.
    HostUp,
    /// The agent ends; containers run on.
    HostRestarting,
    /// The host's record has ended.
    HostMissing,
    /// It is in etcd again.
    HostBack,
    /// So much happened at once that not all of it was kept.
    Dropped,
    /// Written by a newer agent.
    Other(String),
}

const KINDS: [(Kind, &str); 42] = [
    (Kind::Manifest, "manifest"),
    (Kind::Availability, "availability"),
    (Kind::Claimed, "claimed"),
    (Kind::TakenOver, "taken-over"),
    (Kind::Retaken, "retaken"),
    (Kind::Handover, "handover"),
    (Kind::HandedOver, "handed-over"),
    (Kind::HandoverEnded, "handover-ended"),
    (Kind::Replacing, "replacing"),
    (Kind::Released, "released"),
    (Kind::Unfit, "unfit"),
    (Kind::Fit, "fit"),
    (Kind::Image, "image"),
    (Kind::ImageFound, "image-found"),
    (Kind::ImageRolled, "image-rolled"),
    (Kind::ImageBack, "image-back"),
    (Kind::ImageUnknown, "image-unknown"),
    (Kind::Before, "before"),
    (Kind::UpdateFailed, "update-failed"),
    (Kind::Created, "created"),
    (Kind::Started, "started"),
    (Kind::Ready, "ready"),
    (Kind::Unready, "unready"),
    (Kind::Paused, "paused"),
    (Kind::Unpaused, "unpaused"),
    (Kind::Leaving, "leaving"),
    (Kind::Stopped, "stopped"),
    (Kind::Exited, "exited"),
    (Kind::Removed, "removed"),
    (Kind::Failed, "failed"),
    (Kind::EngineUnresponsive, "engine-unresponsive"),
    (Kind::EngineBack, "engine-back"),
    (Kind::EtcdUnreachable, "etcd-unreachable"),
    (Kind::EtcdBack, "etcd-back"),
    (Kind::Hold, "hold"),
    (Kind::HoldEnded, "hold-ended"),
    (Kind::Restored, "restored"),
    (Kind::HostUp, "host-up"),
    (Kind::HostRestarting, "host-restarting"),
    (Kind::HostMissing, "host-missing"),
    (Kind::HostBack, "host-back"),
    (Kind::Dropped, "dropped"),
];

impl Kind {
    /// As it is spelt.
    pub fn as_str(&self) -> &str {
        if let Self::Other(word) = self {
            return word;
        }
        let known = KINDS.iter().find(|(kind, _)| kind == self);
        known.map_or("", |(_, word)| word)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<String> for Kind {
    fn from(word: String) -> Self {
        let known = KINDS.iter().find(|(_, known)| *known == word);
        known.map_or(Self::Other(word), |(kind, _)| kind.clone())
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> Self {
        kind.as_str().to_owned()
    }
}

/// Something that happened, without when and how often.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Happened {
    /// Of which app; none if it is about the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// Of which container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerName>,
    /// Of which slot; none if it is about all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Its kind.
    pub kind: Kind,
    /// Of which instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// For people; may be empty.
    pub message: String,
    /// The host that had the slot before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_host: Option<HostName>,
    /// The other host that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_host: Option<HostName>,
}

impl Happened {
    /// About the host.
    pub fn here(kind: Kind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or_default());
            message.push('…');
        }
        Self {
            app: None,
            container: None,
            slot: None,
            kind,
            instance: None,
            message,
            from_host: None,
            of_host: None,
        }
    }

    /// About another host.
    pub fn of_host(host: &HostName, kind: Kind, message: impl Into<String>) -> Self {
        Self {
            of_host: Some(host.clone()),
            ..Self::here(kind, message)
        }
    }

    /// About a container.
    pub fn of(id: &ContainerId, kind: Kind, message: impl Into<String>) -> Self {
        Self {
            app: Some(id.app.clone()),
            container: Some(id.container.clone()),
            ..Self::here(kind, message)
        }
    }

    /// About a slot.
    pub fn of_slot(slot: &SlotId, kind: Kind, message: impl Into<String>) -> Self {
        Self {
            slot: Some(slot.slot),
            ..Self::of(&slot.container, kind, message)
        }
    }

    /// This instance of it.
    #[must_use]
    pub fn instance(self, instance: &InstanceId) -> Self {
        Self {
            instance: Some(instance.clone()),
            ..self
        }
    }

    /// Former host of the slot.
    #[must_use]
    pub fn from(self, host: &HostName) -> Self {
        Self {
            from_host: Some(host.clone()),
            ..self
        }
    }

    /// Its subject, as people spell it; empty if that is the host that tells it.
    pub fn subject(&self) -> String {
        if let Some(host) = &self.of_host {
            return host.to_string();
        }
        let slot = self.slot.map(|slot| slot.to_string());
        let parts = [
            self.app.as_ref().map(AppName::as_str),
            self.container.as_ref().map(ContainerName::as_str),
            slot.as_deref(),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("/")
    }
}

/// Something that happened on a host, as that host keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rises with each event of its host and is near its time, so that one can read on behind it.
    pub id: i64,
    /// When, in Unix milliseconds by its host's clock; for people. Of repeats, when they were told.
    pub at: i64,
    /// Number of equal events that this one stands for.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
    /// What.
    #[serde(flatten)]
    pub what: Happened,
}

fn once() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_once(times: &u32) -> bool {
    *times == 1
}

/// Filter of a host's events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Only of this app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// Only of this container of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerName>,
    /// Only those with a higher id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// And those that are still to come.
    #[serde(default)]
    pub follow: bool,
}

impl Wanted {
    /// It is one of them.
    pub fn takes(&self, event: &Event) -> bool {
        let what = &event.what;
        (self.app.is_none() || what.app == self.app)
            && (self.container.is_none() || what.container == self.container)
            && self.after.is_none_or(|after| event.id > after)
    }
}

#[cfg(test)]
mod tests;
