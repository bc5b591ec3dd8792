//! What registries said of newer images, and when they are asked next.

use std::time::Duration;

use model::VersionId;
use model::backoff::Exponential;
use model::images::{ImageAnswer, RegistryImage};
use model::time::Millis;

/// First wait after a question without an answer, and the longest; the policy's own time counts where it is longer.
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What is known of the newer image of one container.
#[derive(Debug, Clone)]
pub struct Check {
    /// Since when this host asks for it.
    since: Millis,
    /// It is being asked.
    asking: bool,
    /// When the last answer came, or was not had.
    last: Option<Millis>,
    /// Questions without an answer.
    failures: Exponential,
    /// The registry wants to be left alone for so long.
    retry_after: Duration,
    /// The last answer, and the version that was asked about.
    said: Option<(VersionId, RegistryImage)>,
}

impl Check {
    pub(super) fn new(now: Millis) -> Self {
        Self {
            since: now,
            asking: false,
            last: None,
            failures: Exponential::new(FIRST_WAIT, LONGEST_WAIT),
            retry_after: Duration::ZERO,
            said: None,
        }
    }

    pub(super) fn asks(&mut self) {
        self.asking = true;
    }

    pub(super) fn answered(&mut self, answer: &ImageAnswer, now: Millis) {
        self.asking = false;
        self.last = Some(now);
        match &answer.said {
            Ok(image) => {
                self.failures.reset();
                self.retry_after = Duration::ZERO;
                self.said = Some((answer.version, image.clone()));
            }
            Err(no) => {
                self.failures.failed();
                self.retry_after = no.retry_after.unwrap_or_default();
            }
        }
    }

    /// The answer that was given of this version: one of an earlier one may be older than what runs.
    pub(crate) fn said_of(&self, version: VersionId) -> Option<&RegistryImage> {
        let (of, image) = self.said.as_ref()?;
        (*of == version).then_some(image)
    }

    /// When the registry is asked, if that is each `every`, and for the first time after `first`; none while it is asked.
    pub(crate) fn due(&self, every: Duration, first: Duration) -> Option<Millis> {
        if self.asking {
            return None;
        }
        Some(match self.last {
            None => self.since + first,
            Some(last) => last + every.max(self.failures.wait()).max(self.retry_after),
        })
    }
}

#[cfg(test)]
mod tests {
    use model::images::NoAnswer;

    use super::*;

    fn answer(said: Result<&str, Option<u64>>) -> ImageAnswer {
        ImageAnswer {
            container: "shop/web".parse().expect("an id"),
            version: VersionId(7),
            said: match said {
                Ok(digest) => Ok(RegistryImage {
                    image: "a:1".to_owned(),
                    digest: digest.to_owned(),
                    at: 0,
                }),
                Err(after) => Err(NoAnswer {
                    reason: "busy".to_owned(),
                    retry_after: after.map(Duration::from_secs),
                }),
            },
        }
    }

    #[test]
    fn a_registry_that_does_not_answer_is_asked_less_often_and_as_it_says() {
        let every = Duration::from_secs(10);
        let mut check = Check::new(Millis(0));
        let mut waits = |said| {
            check.asks();
            assert_eq!(check.due(every, Duration::ZERO), None, "one at a time");
            check.answered(&answer(said), Millis(0));
            check.due(every, Duration::ZERO).map(|at| at.0 / 1000)
        };
        assert_eq!(waits(Ok("d1")), Some(10));
        assert_eq!(waits(Err(None)), Some(30));
        assert_eq!(waits(Err(None)), Some(60));
        assert_eq!(waits(Err(Some(900))), Some(900));
        assert_eq!(waits(Ok("d2")), Some(10));
        assert_eq!(check.said_of(VersionId(6)), None);
        assert!(check.said_of(VersionId(7)).is_some());
    }
}
