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
    /// Notice for stderr, such as an unreachable host.
    Notice(String),
}

/// A line of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Time by its host's clock, RFC 3339 with nanoseconds.
    pub time: jiff::Timestamp,
    /// Its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerName>,
    /// Its slot.
    pub slot: u32,
    /// Its host.
    pub host: HostName,
    /// Standard output or standard error.
    pub stream: OutputStream,
    /// Text without its line end.
    pub line: String,
}

/// Query of `GET logs/…`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// Follow new lines.
    #[serde(default)]
    pub follow: bool,
    /// Only the last lines of each slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// Only lines after this time, exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<jiff::Timestamp>,
    /// Of the other instance that is kept: the one that ended last, or one of an update that the present one outlives.
    #[serde(default)]
    pub previous: bool,
    /// Of the last run before a version instead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub before: bool,
}

/// One line of `events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventLine {
    /// An event.
    Event(HostEvent),
    /// Notice for stderr, such as an unreachable host.
    Notice(String),
}

/// An event on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEvent {
    /// Time by its host's clock, RFC 3339. Of repeats, when they were recorded.
    pub time: jiff::Timestamp,
    /// Id, increasing with each event of its host.
    pub id: i64,
    /// Its host.
    pub host: HostName,
    /// Number of occurrences since the last one like it.
    pub times: u32,
    /// The event itself.
    #[serde(flatten)]
    pub what: model::events::Happened,
}
