//! Counters of `/v2/stats`, since the agent's start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::request::{Operation, WriteKind};

/// Kinds of operations, each with the names of its counters: of what succeeded, and of what did not.
const COUNTERS: [(&str, &str); 7] = [
    ("getsSuccess", "getsFail"),
    ("setsSuccess", "setsFail"),
    ("createSuccess", "createFail"),
    ("updateSuccess", "updateFail"),
    ("deleteSuccess", "deleteFail"),
    ("compareAndSwapSuccess", "compareAndSwapFail"),
    ("compareAndDeleteSuccess", "compareAndDeleteFail"),
];

/// Counted since the start.
#[derive(Debug)]
pub(super) struct Stats {
    started: Timestamp,
    begun: Instant,
    counted: [(AtomicU64, AtomicU64); COUNTERS.len()],
    expired: AtomicU64,
}

/// An operation's place among the counters; none for a wait.
pub(super) fn kind(operation: &Operation) -> Option<usize> {
    Some(match operation {
        Operation::Get(_) => 0,
        Operation::Wait(_) => return None,
        Operation::Write(write) => match write.change {
            WriteKind::Set(_) => 1,
            WriteKind::Create(_) | WriteKind::CreateInOrder(_) => 2,
            WriteKind::Update(_) => 3,
            WriteKind::Delete { .. } => 4,
            WriteKind::CompareAndSwap(..) => 5,
            WriteKind::CompareAndDelete(_) => 6,
        },
    })
}

impl Stats {
    pub(super) fn new() -> Self {
        Self {
            started: Timestamp::now(),
            begun: Instant::now(),
            counted: Default::default(),
            expired: AtomicU64::new(0),
        }
    }

    pub(super) fn count(&self, kind: Option<usize>, succeeded: bool) {
        if let Some((well, badly)) = kind.and_then(|kind| self.counted.get(kind)) {
            let counter = if succeeded { well } else { badly };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// This agent has ended a key whose TTL was over.
    pub(super) fn expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    /// `/v2/stats/store`, with so many waits under way.
    pub(super) fn store(&self, waiting: usize) -> Value {
        let mut all = Map::new();
        for ((succeeded, failed), (well, badly)) in COUNTERS.iter().zip(&self.counted) {
            all.insert((*succeeded).into(), well.load(Ordering::Relaxed).into());
            all.insert((*failed).into(), badly.load(Ordering::Relaxed).into());
        }
        let expired = self.expired.load(Ordering::Relaxed);
        all.insert("expireCount".into(), expired.into());
        all.insert("watchers".into(), waiting.into());
        all.into()
    }

    /// `/v2/stats/self`: a member that leads itself.
    pub(super) fn own(&self, name: &str, id: &str) -> Value {
        let start = self.started.to_string();
        json!({
            "name": name,
            "id": id,
            "state": "StateLeader",
            "startTime": start,
            "leaderInfo": {
                "leader": id,
                "uptime": duration(self.begun.elapsed()),
                "startTime": start,
            },
            "recvAppendRequestCnt": 0,
            "sendAppendRequestCnt": 0,
        })
    }
}

/// As Go writes and reads it: `1h0m3.5s`.
fn duration(of: Duration) -> String {
    let (hours, minutes, seconds) = (
        of.as_secs() / 3600,
        of.as_secs() / 60 % 60,
        of.as_secs() % 60,
    );
    let above = match (hours, minutes) {
        (0, 0) => String::new(),
        (0, minutes) => format!("{minutes}m"),
        (hours, minutes) => format!("{hours}h{minutes}m"),
    };
    let fraction = format!(".{:09}", of.subsec_nanos());
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{above}{seconds}{fraction}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (of, text) in [
            (Duration::ZERO, "0s"),
            (Duration::from_millis(3_250), "3.25s"),
            (Duration::from_secs(70), "1m10s"),
            (Duration::new(7_200, 1), "2h0m0.000000001s"),
        ] {
            assert_eq!(duration(of), text);
        }
    }
}
