//! When the oldest buffered line may be sent although some sources have none to compare it with.
//!
//! Pure. Lines are in order within a source but not across sources, and a slow
//! host must not block the others for ever. Old lines wait a limited time for
//! each source that has not caught up; new lines are delayed briefly, so that
//! lines of the same moment come in order.

use std::time::Duration;

/// Delay of new lines.
const REORDER: Duration = Duration::from_millis(200);

/// The oldest buffered line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Written before the request.
    pub(super) is_old: bool,
    /// Time since its arrival.
    pub(super) held: Duration,
}

/// A source without a buffered line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Silent {
    /// It has sent new output.
    pub(super) caught_up: bool,
    /// Time since its last line.
    pub(super) silent: Duration,
}

/// Time until the next check, unless a line arrives; none if the line may be sent.
pub(super) fn wait(
    head: Head,
    silent: impl IntoIterator<Item = Silent>,
    patience: Duration,
) -> Option<Duration> {
    silent
        .into_iter()
        .filter_map(|source| {
            let left = if head.is_old {
                if source.caught_up {
                    return None;
                }
                patience.checked_sub(source.silent)?
            } else {
                REORDER.checked_sub(head.held)?
            };
            (!left.is_zero()).then_some(left)
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn head(is_old: bool, held: u64) -> Head {
        Head {
            is_old,
            held: Duration::from_millis(held),
        }
    }

    fn silent(caught_up: bool, silent: u64) -> Silent {
        Silent {
            caught_up,
            silent: Duration::from_millis(silent),
        }
    }

    #[test]
    fn with_a_line_of_every_source_nothing_waits() {
        assert_eq!(wait(head(true, 0), [], PATIENCE), None);
        assert_eq!(wait(head(false, 0), [], PATIENCE), None);
    }

    #[test]
    fn old_output_waits_for_sources_that_have_not_caught_up_but_not_for_ever() {
        let left = wait(head(true, 9_000), [silent(false, 1_000)], PATIENCE);
        assert_eq!(left, Some(Duration::from_secs(4)));
        assert_eq!(wait(head(true, 0), [silent(false, 5_000)], PATIENCE), None);
        assert_eq!(wait(head(true, 0), [silent(true, 0)], PATIENCE), None);
    }

    #[test]
    fn the_least_patient_source_is_not_what_counts() {
        let left = wait(
            head(true, 0),
            [silent(false, 4_000), silent(false, 2_000)],
            PATIENCE,
        );
        assert_eq!(left, Some(Duration::from_secs(3)));
    }

    #[test]
    fn new_output_is_held_back_for_a_moment() {
        let left = wait(head(false, 50), [silent(true, 0)], PATIENCE);
        assert_eq!(left, Some(Duration::from_millis(150)));
        assert_eq!(wait(head(false, 200), [silent(true, 0)], PATIENCE), None);
    }
}
