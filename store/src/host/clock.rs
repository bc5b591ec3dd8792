//! The clocks that an agent lives by: the machine's, or in simulations the runtime's, which a test can pause.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::Millis;
use tokio::time::Instant;

use super::lease::boottime;

/// A simulation begins here: its first moment must not look like no time at all.
const BEGIN: Duration = Duration::from_secs(1_000);

/// What time it is, for this process and for people.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Where a simulation's time began; none: the machine's clocks.
    simulated: Option<Instant>,
}

impl Clock {
    /// CLOCK_BOOTTIME, and the wall clock.
    pub fn machine() -> Self {
        Self { simulated: None }
    }

    /// Both go with tokio's clock, from a fixed time on.
    pub fn runtime() -> Self {
        Self {
            simulated: Some(Instant::now()),
        }
    }

    /// Milliseconds of this process's own monotonic clock.
    pub fn now(self) -> Millis {
        self.simulated
            .map_or_else(boottime, |start| Millis(0) + BEGIN + start.elapsed())
    }

    /// Unix milliseconds.
    pub fn wall(self) -> i64 {
        let since_epoch = match self.simulated {
            Some(_) => Duration::from_millis(self.now().0),
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or(Duration::ZERO),
        };
        since_epoch.as_millis() as i64
    }
}
