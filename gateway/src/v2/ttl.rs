//! When a node ends by itself. Pure: the time is an argument.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Longest that etcd's leases have, less what a lease gets beyond its key; about 285 years.
pub const MAX_TTL: u64 = 8_999_999_990;

/// As answers and events show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ttl {
    /// When.
    pub expiration: Timestamp,
    /// Seconds that were left when this was said, rounded up.
    #[serde(rename = "ttl", default, skip_serializing_if = "is_zero")]
    pub left: i64,
}

impl Ttl {
    /// What is left until `expiration`; negative if that is past.
    pub fn new(expiration: Timestamp, now: Timestamp) -> Self {
        let left = expiration.duration_since(now);
        let rounded_up = i64::from(left.subsec_nanos() > 0);
        Self {
            expiration,
            left: left.as_secs() + rounded_up,
        }
    }
}

/// The end of `seconds` from now; at most [`MAX_TTL`].
pub fn ends(seconds: u64, now: Timestamp) -> Timestamp {
    let seconds = SignedDuration::from_secs(seconds.min(MAX_TTL).cast_signed());
    now.checked_add(seconds).unwrap_or(Timestamp::MAX)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(left: &i64) -> bool {
    *left == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(left: SignedDuration) -> String {
        let now: Timestamp = "2026-01-02T03:04:05.5Z".parse().expect("a time");
        let ttl = Ttl::new(now + left, now);
        serde_json::to_string(&ttl).expect("json")
    }

    #[test]
    fn seconds_are_rounded_up_and_none_are_not_shown() {
        let millis = SignedDuration::from_millis;
        for (left, json) in [
            (
                millis(1500),
                r#"{"expiration":"2026-01-02T03:04:07Z","ttl":2}"#,
            ),
            (
                millis(1000),
                r#"{"expiration":"2026-01-02T03:04:06.5Z","ttl":1}"#,
            ),
            (
                SignedDuration::from_nanos(1),
                r#"{"expiration":"2026-01-02T03:04:05.500000001Z","ttl":1}"#,
            ),
            (millis(0), r#"{"expiration":"2026-01-02T03:04:05.5Z"}"#),
            (millis(-400), r#"{"expiration":"2026-01-02T03:04:05.1Z"}"#),
            (
                millis(-1400),
                r#"{"expiration":"2026-01-02T03:04:04.1Z","ttl":-1}"#,
            ),
        ] {
            assert_eq!(shown(left), json);
        }
    }

    #[test]
    fn the_longest_ttl_has_an_end() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(ends(MAX_TTL, now) < Timestamp::MAX);
        assert_eq!(ends(u64::MAX, now), ends(MAX_TTL, now));
    }
}
