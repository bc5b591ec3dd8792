//! The one way in which anything here waits: look again after a short
//! interval, give up after a long cap, and say what was seen last.
//!
//! Never sleeps for a fixed time to let something settle.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long to wait between two looks.
const INTERVAL: Duration = Duration::from_millis(25);

/// Looks until `look` gives a value, and panics with the last state seen
/// when `cap` has passed.
#[track_caller]
pub fn wait_for<T, E: Display>(what: &str, cap: Duration, look: impl FnMut() -> Result<T, E>) -> T {
    match try_wait_for(what, cap, look) {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// As [`wait_for`], but gives an error instead of a panic.
pub fn try_wait_for<T, E: Display>(
    what: &str,
    cap: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let last = match look() {
            Ok(value) => return Ok(value),
            Err(state) => state,
        };
        if start.elapsed() >= cap {
            anyhow::bail!("waited {} s for {what}; last seen: {last}", cap.as_secs());
        }
        std::thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_until_there_is_a_value() {
        let mut looks = 0;
        let value = wait_for("three looks", Duration::from_secs(10), || {
            looks += 1;
            if looks == 3 {
                Ok(looks)
            } else {
                Err(format!("{looks} looks"))
            }
        });
        assert_eq!(value, 3);
    }

    #[test]
    fn a_failure_shows_the_last_state() {
        let error = try_wait_for("the moon", Duration::ZERO, || Err::<(), _>("still dark"))
            .expect_err("never true");
        assert_eq!(
            error.to_string(),
            "waited 0 s for the moon; last seen: still dark"
        );
    }
}
