//! `update`: how another version takes the place of the present one; and whether instances move.

use std::time::Duration;

use serde::{Serialize, Serializer};
use strum::{EnumString, VariantNames};

use crate::units::duration;

/// The update policy of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Update {
    /// Most slots that are updated at once.
    pub parallelism: Parallelism,
    /// Whether the new instance starts before the old one stops; none: as volumes and ports allow.
    pub order: Option<Order>,
    /// Time for which a new instance must stay ready before the next slot is updated.
    #[serde(serialize_with = "duration")]
    pub monitor: Duration,
    /// Time between that and the next slot.
    #[serde(serialize_with = "duration")]
    pub delay: Duration,
    /// Slots that may fail before the update is halted.
    pub max_failures: u32,
    /// What follows when more have failed.
    pub on_failure: OnFailure,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            parallelism: Parallelism::Slots(1),
            order: None,
            monitor: Duration::from_secs(5),
            delay: Duration::ZERO,
            max_failures: 0,
            on_failure: OnFailure::default(),
        }
    }
}

/// Most slots that are updated at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parallelism {
    /// So many.
    Slots(u32),
    /// So many percent of the slots, at least one.
    Percent(u32),
}

impl Parallelism {
    /// Number of slots, of so many.
    pub fn of(self, scale: u32) -> u32 {
        match self {
            Self::Slots(slots) => slots,
            Self::Percent(percent) => (scale * percent).div_ceil(100).max(1),
        }
    }
}

impl Serialize for Parallelism {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Slots(slots) => serializer.serialize_u32(*slots),
            Self::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

/// Which of two instances of a slot comes first in an update.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, EnumString, VariantNames, strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Order {
    /// The new one is ready before the old one is asked to stop.
    StartFirst,
    /// The old one has stopped before the new one is started.
    StopFirst,
}

/// What follows when an update has failed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, EnumString, VariantNames, strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum OnFailure {
    /// The other slots keep what they run; the slot that failed is tried on.
    #[default]
    Pause,
    /// All slots go back to the last good version.
    Rollback,
    /// The update goes on.
    Continue,
}

/// A command that runs once for each new version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Before {
    /// Arguments, in place of the container's own.
    pub command: Vec<String>,
    /// Another image than the container's.
    pub image: Option<String>,
    /// Time after which it has failed.
    #[serde(serialize_with = "duration")]
    pub timeout: Duration,
}

impl Before {
    /// Its `timeout` where the manifest says nothing.
    pub const TIMEOUT: Duration = Duration::from_secs(600);
}

/// Whether instances may move to hosts that have fewer containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, EnumString, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Rebalance {
    /// When nothing else is under way.
    #[default]
    Auto,
    /// Never.
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_rounded_up_and_at_least_one() {
        for (percent, scale, slots) in [(25, 10, 3), (25, 4, 1), (1, 3, 1), (100, 7, 7), (50, 0, 1)]
        {
            assert_eq!(Parallelism::Percent(percent).of(scale), slots);
        }
    }
}
