//! Output of one slot, read from its owner and reopened when it moves.
//!
//! Invariant: no line of an instance is sent twice, also after a lost
//! connection: reading resumes after the time of the last line.

use futures_util::StreamExt;
use jiff::Timestamp;
use manifests::{HostName, InstanceId, SlotId};
use model::snapshot::ContainerView;
use planner::rollout::Target;
use planner::update;

use crate::v1::agent::{HostError, LogStream};
use crate::v1::api::Api;
use crate::v1::merge::{RETRY, SourceSink};
use crate::v1::types::{LogLine, LogOptions};

/// Reader of one slot's output.
pub(super) struct SlotLogReader {
    pub(super) api: Api,
    pub(super) options: LogOptions,
    pub(super) slot: SlotId,
    pub(super) out: SourceSink<LogLine>,
}

/// Owner and instance of a slot.
type SlotLocation = (HostName, InstanceId);

/// End of a stream.
enum ReadEnd {
    /// Complete.
    Through,
    /// Failed.
    Broken(HostError),
    /// The client is gone.
    Unread,
}

impl SlotLogReader {
    pub(super) async fn run(mut self) {
        if let Some(other) = self.other_instance() {
            self.out.notice(other).await;
        }
        if self.options.previous {
            self.read_previous().await;
        } else if self.options.follow {
            self.follow().await;
        } else {
            self.read_once().await;
        }
    }

    async fn read_once(&mut self) {
        let Some((host, _)) = self.place() else {
            let slot = self.slot.clone();
            self.out
                .notice(format!("{slot}: no host has claimed it yet"))
                .await;
            return;
        };
        let options = self.options.clone();
        let mut last = options.since;
        let ended = match self.open(&host, &options).await {
            Ok(stream) => self.pass_on(stream, &host, &mut last).await,
            Err(error) => ReadEnd::Broken(error),
        };
        if let ReadEnd::Broken(error) = ended {
            self.tell_trouble(&host, &error).await;
        }
    }

    /// The instance that ended last may be on any host: the owner's first.
    async fn read_previous(&mut self) {
        let own = self.api.agent.host();
        let mut hosts: Vec<HostName> = self.place().map(|(host, _)| host).into_iter().collect();
        let live = self.api.agent.view().map(|view| {
            let mut live: Vec<HostName> =
                view.snapshot.live().map(|(host, _)| host.clone()).collect();
            live.sort_by_key(|host| *host != own);
            live
        });
        for host in live.unwrap_or_default() {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let options = self.options.clone();
        for host in hosts {
            let mut last = options.since;
            match self.open(&host, &options).await {
                Ok(stream) => {
                    if let ReadEnd::Broken(error) = self.pass_on(stream, &host, &mut last).await {
                        self.tell_trouble(&host, &error).await;
                    }
                    return;
                }
                Err(HostError::NotFound) => {}
                Err(error) => self.tell_trouble(&host, &error).await,
            }
        }
        let slot = self.slot.clone();
        self.out
            .notice(format!("{slot}: no ended instance is kept"))
            .await;
    }

    async fn follow(&mut self) {
        let mut reading: Option<SlotLocation> = None;
        let mut last = self.options.since;
        let mut retry = RETRY;
        let mut first = true;
        loop {
            if let Some(place) = self.place() {
                if reading.as_ref() != Some(&place) {
                    if reading.is_some() {
                        // All lines of another instance are new, whatever its host's clock says.
                        last = None;
                    }
                    reading = Some(place.clone());
                    retry.reset();
                }
                let options = LogOptions {
                    tail: self.options.tail.filter(|_| first),
                    since: last,
                    ..self.options.clone()
                };
                let before = last;
                let ended = match self.open(&place.0, &options).await {
                    Ok(stream) => {
                        self.out.over();
                        first = false;
                        self.pass_on(stream, &place.0, &mut last).await
                    }
                    Err(error) => ReadEnd::Broken(error),
                };
                if last != before {
                    retry.reset();
                }
                match ended {
                    ReadEnd::Unread => return,
                    // Not created yet, or ended and not created again yet.
                    ReadEnd::Through | ReadEnd::Broken(HostError::NotFound) => {}
                    ReadEnd::Broken(error) => self.tell_trouble(&place.0, &error).await,
                }
            } else if !self.is_wanted() {
                return;
            }
            tokio::select! {
                () = self.out.closed() => return,
                () = tokio::time::sleep(retry.next_wait()) => {}
            }
        }
    }

    /// What is read is the instance that serves, and an update has another one.
    fn other_instance(&self) -> Option<String> {
        if self.options.previous || self.options.before {
            return None;
        }
        let view = self.api.agent.view()?;
        let container = view.snapshot.containers.get(&self.slot.container)?;
        beside(container, &self.slot)
    }

    fn place(&self) -> Option<SlotLocation> {
        let view = self.api.agent.view()?;
        if self.options.before {
            let container = view.snapshot.containers.get(&self.slot.container)?;
            let job = container.job.as_ref()?;
            return Some((job.host.clone(), job.instance.clone()));
        }
        let claim = view.snapshot.slot(&self.slot)?.claim.as_ref()?;
        Some((claim.host.clone(), claim.instance.clone()))
    }

    fn is_wanted(&self) -> bool {
        self.api.agent.view().is_some_and(|view| {
            let container = view.snapshot.containers.get(&self.slot.container);
            container.is_some_and(|view| view.is_wanted(self.slot.slot))
        })
    }

    async fn open(&self, host: &HostName, options: &LogOptions) -> Result<LogStream, HostError> {
        let api = &self.api;
        if *host == api.agent.host() {
            return api.agent.local_logs(&self.slot, options).await;
        }
        let peers = api.peer(host).map_err(HostError::Unreachable)?;
        peers.logs(host, &self.slot, options).await
    }

    async fn pass_on(
        &self,
        mut stream: LogStream,
        host: &HostName,
        last: &mut Option<Timestamp>,
    ) -> ReadEnd {
        // Lines of this stream may have equal times: only those of earlier streams are skipped.
        let after = *last;
        loop {
            let record = tokio::select! {
                () = self.out.closed() => return ReadEnd::Unread,
                record = stream.next() => record,
            };
            let record = match record {
                None => return ReadEnd::Through,
                Some(Err(error)) => return ReadEnd::Broken(error),
                Some(Ok(record)) => record,
            };
            if after.is_some_and(|after| record.time <= after) {
                continue;
            }
            *last = Some(record.time);
            let line = LogLine {
                time: record.time,
                container: Some(self.slot.container.container.clone()),
                slot: self.slot.slot,
                host: host.clone(),
                stream: record.source,
                line: record.line,
            };
            if !self.out.line(line).await {
                return ReadEnd::Unread;
            }
        }
    }

    async fn tell_trouble(&mut self, host: &HostName, error: &HostError) {
        let text = match error {
            HostError::Unreachable(why) => format!("host {host} unreachable: {why}"),
            HostError::NotFound => format!("{}: no container on host {host}", self.slot),
            _ => format!("{}: host {host}: {error}", self.slot),
        };
        self.out.notice(text).await;
    }
}

/// That the claimed instance of a slot is of an older version, beside which a newer one is tried or has failed.
fn beside(container: &ContainerView, slot: &SlotId) -> Option<String> {
    let claim = container.claim(slot.slot)?;
    let target = Target::of(container)?;
    if !target.outdates(container, claim.version) {
        return None;
    }
    let rollout = update::rollout(container)?;
    let (older, newer) = (claim.version, rollout.version);
    let how = if rollout.failures.contains(&slot.slot) {
        format!("failed ({})", rollout.reason)
    } else if rollout.updating.contains(&slot.slot) {
        "is under way".to_owned()
    } else {
        return None;
    };
    Some(format!(
        "{slot}: this is version {older}, which serves; the update to version {newer} {how}: --previous shows the output of \
         its instance, if one was started"
    ))
}
