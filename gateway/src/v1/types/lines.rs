//! Streams: logs and events.

use manifests::{ContainerName, HostName};
use model::logs::OutputStream;
use serde::{Deserialize, Serialize};

/// One line of `logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogEvent {
    /// Output of a slot.
    Line(LogLine),
    /// Something about the answer itself: a host that is not reached. For stderr.
    Notice(String),
}

/// A line that a container wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When, RFC 3339 with nanoseconds, by its host's clock.
    pub time: jiff::Timestamp,
    /// Of which container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerName>,
    /// Which slot.
    pub slot: u32,
    /// On which host.
    pub host: HostName,
    /// Where it was written.
    pub stream: OutputStream,
    /// Without its line end.
    pub line: String,
}

/// Which lines: the query of `GET logs/…`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// Go on with what comes.
    #[serde(default)]
    pub follow: bool,
    /// Only so many of the last lines of each slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// Only lines after this time, itself excluded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<jiff::Timestamp>,
    /// Of the instance that ended last.
    #[serde(default)]
    pub previous: bool,
}

/// One line of `events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventLine {
    /// Something that happened.
    Event(HostEvent),
    /// Something about the answer itself: a host that is not reached. For stderr.
    Notice(String),
}

/// Something that happened on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEvent {
    /// When, RFC 3339, by its host's clock. Of repeats, when they were told.
    pub time: jiff::Timestamp,
    /// Rises with each event of its host.
    pub id: i64,
    /// On which host.
    pub host: HostName,
    /// How often since the one like it before.
    pub times: u32,
    /// What.
    #[serde(flatten)]
    pub what: model::events::Happened,
}
