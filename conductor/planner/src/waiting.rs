//! Reasons for which a slot waits, as values; they become text where people read them.

use std::fmt;
use std::time::Duration;

use manifests::HostName;
use manifests::units::format_size;

use crate::disruption::Pause;
use crate::refusal::Refusal;

/// Reason for which a slot is not where or what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// No host is live.
    NoHost,
    /// No live host can run it: each with its reason.
    Unplaceable(Vec<(HostName, Refusal)>),
    /// Nothing is placed or taken over for now.
    Paused(Pause),
    /// Its manifest can't be read, and there is no version to go on with.
    InvalidManifest,
    /// It was kept without a manifest when a restore was accepted.
    Orphaned,
    /// In an update: the slot of this number comes first, or has not been ready for long enough.
    OtherSlot(u32),
    /// The update was paused.
    UpdatePaused,
    /// What runs before the version runs, or is about to, on this host.
    Before(HostName),
    /// As `Before`, on a host that is missing.
    BeforeAway(HostName),
    /// What runs before the version has failed.
    BeforeFailed(String),
    /// The host's addresses have changed, and it is replaced when the other slots are ready.
    OtherSlots,
    /// Another host takes it, and this one stops it first.
    HandedOver,
    /// Its local volumes are on another machine, of the same name.
    DataElsewhere,
    /// This has made no progress for so long.
    Stalled(Stalled, Duration),
    /// Progress of the pull of its image.
    Pulling(String),
    /// Error of the last attempt to pull, create or start.
    Attempt(String),
    /// The container that it replaces has so long to end.
    FormerContainer(Duration),
    /// It was asked to stop before it was wanted again, and has so long to end.
    Ending(Duration),
    /// It ran when its manifest was deleted; the new one has a constraint that does not hold on its host.
    NotHere(String),
    /// So many connections to what leaves are open.
    Draining(u32),
    /// Its instance failed.
    Failed(Failure),
    /// Its process ended, and is started again after this.
    Restarting(Failure, Duration),
    /// It runs and is not ready.
    NotReady(String),
    /// It is not ready after its start time-out, and why not.
    Late(Duration, String),
    /// It is ready, but somebody has changed its limits.
    LimitsChanged(String),
}

/// Hosts that are named of those that refuse for the same reason.
const NAMED: usize = 8;

/// Exit code of a process that SIGKILL has ended.
pub const KILLED: i64 = 137;

/// Failure of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Its process exited with this code.
    Exited(i64),
    /// It was killed with this memory limit in bytes. With cgroup v2 engines don't always hear that it was out of memory
    /// (containerd#8893).
    Killed(u64),
    /// The kernel killed it; its memory limit in bytes, if it has one.
    OutOfMemory(Option<u64>),
    /// Its image can't be had, or its container can't be created.
    NotMade(String),
    /// The engine could not start it.
    NotStarted(String),
    /// It was not ready within its start time-out.
    NotReady(Duration),
}

/// Work without progress.
#[derive(Debug, Clone, PartialEq, Eq, strum::Display)]
pub enum Stalled {
    /// A pull.
    #[strum(to_string = "pulling its image has made no progress")]
    Pull,
    /// The creation of the container.
    #[strum(to_string = "creating its container has made no progress")]
    Create,
    /// The Docker Engine, and what it last said.
    #[strum(to_string = "the Docker Engine has not answered ({0})")]
    Engine(String),
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost => f.write_str("no host is live"),
            Self::Unplaceable(refusals) => {
                f.write_str("no host can run it: ")?;
                write_by_reason(f, refusals)
            }
            Self::Paused(pause) => pause.fmt(f),
            Self::InvalidManifest => {
                f.write_str("its manifest is not valid, and there is no earlier one")
            }
            Self::Orphaned => {
                f.write_str("it has no manifest any more; `dokkaa rm` of its name ends it")
            }
            Self::OtherSlot(slot) => {
                write!(f, "waits until slot {slot} is ready on the new version")
            }
            Self::UpdatePaused => {
                f.write_str("the update is paused; `dokkaa rollout resume` goes on")
            }
            Self::Before(host) => write!(f, "waits for `before` to end on {host}"),
            Self::BeforeAway(host) => write!(
                f,
                "waits for {host}, which runs `before` and is missing; `dokkaa hosts rm {host}` gives it up"
            ),
            Self::BeforeFailed(why) => write!(f, "`before` failed: {why}"),
            Self::OtherSlots => f.write_str(
                "the host's addresses have changed; waits until the other slots are ready",
            ),
            Self::HandedOver => f.write_str("another host takes it"),
            Self::DataElsewhere => {
                f.write_str("its data is on another machine that had this host's name")
            }
            Self::Stalled(what, time) => write!(f, "{what} for {} min", time.as_secs() / 60),
            Self::Pulling(text)
            | Self::Attempt(text)
            | Self::NotReady(text)
            | Self::LimitsChanged(text) => f.write_str(text),
            Self::FormerContainer(timeout) => write!(
                f,
                "stopping the former container, up to {} s",
                timeout.as_secs()
            ),
            Self::Ending(timeout) => write!(
                f,
                "it was asked to stop before it was wanted again; started again when it has ended, up to {} s",
                timeout.as_secs()
            ),
            Self::NotHere(constraint) => write!(
                f,
                "`{constraint}` of its new manifest does not hold on this host"
            ),
            Self::Draining(1) => f.write_str("draining: 1 connection"),
            Self::Draining(open) => write!(f, "draining: {open} connections"),
            Self::Failed(failure) => failure.fmt(f),
            Self::Restarting(failure, after) => {
                write!(f, "{failure}; restarting in {} s", after.as_secs())
            }
            Self::Late(timeout, why) => write!(f, "{}: {why}", Failure::NotReady(*timeout)),
        }
    }
}

/// Hosts that refuse for the same reason are named together.
fn write_by_reason(f: &mut fmt::Formatter<'_>, refusals: &[(HostName, Refusal)]) -> fmt::Result {
    let mut reasons: Vec<(String, Vec<&HostName>)> = Vec::new();
    for (host, refusal) in refusals {
        let reason = refusal.to_string();
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, hosts)) => hosts.push(host),
            None => reasons.push((reason, vec![host])),
        }
    }
    for (at, (reason, hosts)) in reasons.iter().enumerate() {
        let separator = if at == 0 { "" } else { "; " };
        let named = hosts.iter().take(NAMED).map(ToString::to_string);
        let named = named.collect::<Vec<_>>().join(", ");
        write!(f, "{separator}{named}")?;
        match hosts.len().saturating_sub(NAMED) {
            0 => {}
            more => write!(f, " and {more} more")?,
        }
        write!(f, ": {reason}")?;
    }
    Ok(())
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Killed(limit) => write!(
                f,
                "exited with code {KILLED} (SIGKILL), perhaps out of memory (limit {})",
                format_size(*limit)
            ),
            Self::OutOfMemory(None) => f.write_str("killed: out of memory"),
            Self::OutOfMemory(Some(limit)) => {
                write!(f, "killed: out of memory (limit {})", format_size(*limit))
            }
            Self::NotMade(error) => f.write_str(error),
            Self::NotStarted(error) => write!(f, "does not start: {error}"),
            Self::NotReady(timeout) => {
                write!(f, "not ready within {} s of its start", timeout.as_secs())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn hosts_that_refuse_for_the_same_reason_are_named_together() {
        let host = |number: u32| format!("h{number}").parse::<HostName>().unwrap();
        let unfit = || Refusal::Unfit("no such image".to_owned());
        let some = vec![
            (host(1), unfit()),
            (host(2), Refusal::Drained),
            (host(3), unfit()),
        ];
        assert_eq!(
            Waiting::Unplaceable(some).to_string(),
            "no host can run it: h1, h3: unfit: no such image; h2: it is drained"
        );
        let many = (1..=200).map(|number| (host(number), unfit())).collect();
        assert_eq!(
            Waiting::Unplaceable(many).to_string(),
            "no host can run it: h1, h2, h3, h4, h5, h6, h7, h8 and 192 more: unfit: no such image"
        );
    }
}
