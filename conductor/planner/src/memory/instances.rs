//! Memory of an instance on this host's engine.

use model::backoff::Backoff;
use model::observed::{ContainerState, ObservedContainer, Readiness};
use model::time::Millis;

/// Memory of one instance. It has no default: it begins when this process sees the instance.
#[derive(Debug, Clone)]
pub struct InstanceMemory {
    /// When this process saw it first.
    pub first_seen: Millis,
    /// Start of its process, as this process saw it.
    pub running_since: Option<Millis>,
    /// Start that `running_since` belongs to, by Docker's clock.
    started_at: i64,
    /// Its process was started before this one saw it: it may have been ready at some time.
    pub adopted: bool,
    /// It was ready at some time.
    pub was_ready: bool,
    /// It was ready once, and then was not.
    pub lost_readiness: bool,
    /// Time since which it has been ready without a break.
    pub ready_since: Option<Millis>,
    /// Time since which it takes no new connections.
    pub leaving_since: Option<Millis>,
    /// Ends of its process that were seen.
    pub ends: u32,
    /// End that was counted last, by Docker's clock.
    ended_at: i64,
    /// This process asked it to stop: its end is no failure.
    pub stop_requested: bool,
    /// Its address or port is taken: only another instance gets another one.
    pub must_recreate: bool,
    /// Reason for which it is not ready, by its last probe, for people.
    pub unready_reason: Option<String>,
    /// Last lines of its log when it ended, or was not ready in time.
    pub log: Vec<String>,
    /// Failed starts and ends.
    pub backoff: Backoff,
}

impl InstanceMemory {
    pub(super) fn new(now: Millis) -> Self {
        Self {
            first_seen: now,
            running_since: None,
            started_at: 0,
            adopted: false,
            was_ready: false,
            lost_readiness: false,
            ready_since: None,
            leaving_since: None,
            ends: 0,
            ended_at: 0,
            stop_requested: false,
            must_recreate: false,
            unready_reason: None,
            log: Vec::new(),
            backoff: Backoff::default(),
        }
    }

    /// An end from before this process is not counted: the first start after it is at once.
    pub(super) fn found(container: &ObservedContainer, now: Millis) -> Self {
        let ended_at = match &container.state {
            ContainerState::Exited(exit) => exit.at,
            _ => 0,
        };
        Self {
            ended_at,
            adopted: container.running().is_some(),
            ..Self::new(now)
        }
    }

    pub(super) fn start_failed(&mut self, must_recreate: bool, now: Millis) {
        self.must_recreate |= must_recreate;
        self.ends += 1;
        self.backoff.failed(now);
    }

    /// Takes in what the engine shows: starts and ends.
    pub(super) fn observe(
        &mut self,
        container: &ObservedContainer,
        readiness: &Readiness,
        now: Millis,
    ) {
        match &container.state {
            ContainerState::Running(running) | ContainerState::Paused(running) => {
                if self.running_since.is_none() || self.started_at != running.started_at {
                    self.adopted &= self.started_at == 0;
                    self.running_since = Some(now);
                    self.started_at = running.started_at;
                    self.stop_requested = false;
                }
                if let Some(since) = self.running_since {
                    self.backoff.lived(since, now);
                }
            }
            ContainerState::Exited(exit) => {
                self.running_since = None;
                if self.ended_at != exit.at {
                    self.ended_at = exit.at;
                    if !self.stop_requested {
                        self.ends += 1;
                        self.backoff.failed(now);
                    }
                }
            }
            ContainerState::Created { .. } | ContainerState::Removing => {
                self.running_since = None;
            }
        }
        if container.running().is_some() && readiness == &Readiness::Ready {
            self.was_ready = true;
            self.ready_since.get_or_insert(now);
        } else {
            self.lost_readiness |= self.was_ready;
            self.ready_since = None;
        }
    }
}
