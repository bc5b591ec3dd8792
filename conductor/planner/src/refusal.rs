//! Reasons for which a host can't take a slot, as values.

use std::fmt;

use manifests::{HostName, SlotId};

/// Reason for which a live host can't take a slot.
#[derive(Debug, Clone, PartialEq, Eq, strum::Display)]
pub enum Refusal {
    /// Its agent restarts.
    #[strum(to_string = "its agent restarts")]
    Restarting,
    /// It is in hold.
    #[strum(to_string = "it is in hold: it distrusts its etcd")]
    Hold,
    /// The operator has paused it.
    #[strum(to_string = "it is paused")]
    Paused,
    /// The operator drains it.
    #[strum(to_string = "it is drained")]
    Drained,
    /// It leaves the cluster.
    #[strum(to_string = "it leaves the cluster")]
    Leaving,
    /// Its engine does not answer.
    #[strum(to_string = "its Docker Engine does not answer")]
    EngineDown,
    /// Its disk is full to so many percent.
    #[strum(to_string = "disk {0} %")]
    DiskFull(u8),
    /// It has marked itself unfit for the container.
    #[strum(to_string = "unfit: {0}")]
    Unfit(String),
    /// A constraint asks for a label that it does not have.
    #[strum(to_string = "{constraint} is asked for, and {label} is not set")]
    LabelMissing {
        /// The constraint.
        constraint: String,
        /// Its label.
        label: String,
    },
    /// A constraint asks for another value of a label.
    #[strum(to_string = "{constraint} is asked for, and {label} is {value}")]
    LabelDiffers {
        /// The constraint.
        constraint: String,
        /// Its label.
        label: String,
        /// The host's value.
        value: String,
    },
    /// The slot's local volumes are on that host.
    #[strum(to_string = "the slot's data is on {0}")]
    DataOn(HostName),
    /// The slot's local volumes are on an earlier machine of this name.
    #[strum(to_string = "the slot's data is on another machine that was called {0}")]
    DataOnFormerMachine(HostName),
    /// It has as many of the container as one host may have.
    #[strum(to_string = "it has {0} of it already (max_per_host)")]
    MaxPerHost(u32),
    /// Too few processors are free.
    #[strum(to_string = "{free} of {total} cpus are free, {asked} are asked for")]
    Cpus {
        /// Free.
        free: Cpus,
        /// Of so many.
        total: Cpus,
        /// Asked for.
        asked: Cpus,
    },
    /// Too little memory is free, in MiB.
    #[strum(to_string = "{free} MiB of {total} MiB memory are free, {asked} MiB are asked for")]
    Memory {
        /// Free.
        free: u64,
        /// Of so much.
        total: u64,
        /// Asked for.
        asked: u64,
    },
    /// This slot has a port that it needs.
    #[strum(to_string = "host port {0} is taken by {1}")]
    HostPort(u16, SlotId),
}

/// Processors, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus(pub u64);

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 as f64 / 1_000.0)
    }
}
