//! Follows the engine's events over lost connections and silent streams.
//!
//! An event is only a hint to look again, so one too many does no harm and
//! one that is lost is healed by the list that follows each `Connected`.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;
use model::backoff::Exponential;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::client::{DockerEngine, failure};
use super::translate;
use crate::{Engine, EngineError, EngineEvent, Operation};

/// Hints that may wait for the reader. When they are more, it is told to list everything instead.
const WAITING: usize = 256;
/// A stream that is silent for so long is asked whether its engine lives.
const IDLE: Duration = Duration::from_secs(20);
/// A stream that is silent for so many times `IDLE` is opened anew: it may be dead on an engine that lives.
const REOPEN: u32 = 15;
/// Between attempts to connect.
const RETRY: Exponential = Exponential::new(Duration::from_millis(50), Duration::from_secs(2));

/// What happens to containers and matters. Without this, each exec of a healthcheck is three events.
const ACTIONS: [&str; 12] = [
    "create",
    "start",
    "die",
    "oom",
    "health_status",
    "rename",
    "destroy",
    "pause",
    "unpause",
    "update",
    "connect",
    "disconnect",
];

pub(super) fn follow(engine: DockerEngine) -> mpsc::Receiver<EngineEvent> {
    let (events, reader) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let follower = Follower {
            engine,
            events: events.clone(),
            since: now(),
            overflowed: false,
        };
        tokio::select! {
            () = follower.run() => (),
            () = events.closed() => (),
        }
    });
    reader
}

/// Unix nanoseconds.
pub(super) fn now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |time| time.as_nanos() as i64)
}

struct Follower {
    engine: DockerEngine,
    events: mpsc::Sender<EngineEvent>,
    /// Time of the newest event, at first of the start, in Unix nanoseconds: the engine has this machine's clock.
    since: i64,
    /// The reader was too slow; it is told to list.
    overflowed: bool,
}

/// Why a stream ended.
enum End {
    /// It was silent for long; a new one goes on where it ended.
    Silent,
    /// It was lost.
    Lost(EngineError),
}

impl Follower {
    async fn run(mut self) {
        let mut connected = false;
        let mut retry = RETRY;
        loop {
            match self.open(&mut connected).await {
                End::Silent => retry.reset(),
                End::Lost(error) => {
                    self.engine.forget().await;
                    if std::mem::take(&mut connected) {
                        retry.reset();
                    }
                    if retry.failures() == 0 {
                        self.send(EngineEvent::Lost(error.to_string())).await;
                    }
                    sleep(retry.next_wait()).await;
                }
            }
        }
    }

    /// Opens a stream and reads it to its end.
    async fn open(&mut self, connected: &mut bool) -> End {
        let docker = match self.engine.docker().await {
            Ok(docker) => docker,
            Err(error) => return End::Lost(error),
        };
        let options = EventsOptions {
            since: Some(format!(
                "{}.{:09}",
                self.since / 1_000_000_000,
                self.since % 1_000_000_000
            )),
            until: None,
            filters: Some(HashMap::from([
                (
                    "type".to_owned(),
                    ["container", "network"].map(str::to_owned).to_vec(),
                ),
                ("event".to_owned(), ACTIONS.map(str::to_owned).to_vec()),
            ])),
        };
        let mut stream = docker.events(Some(options));
        if !*connected {
            // The engine need not listen for this stream yet: what happens until it does is told afterwards, because
            // of `since`.
            if let Err(error) = self.engine.ping().await {
                return End::Lost(error);
            }
            *connected = true;
            self.send(EngineEvent::Connected).await;
        }
        let mut silent = 0;
        loop {
            let waited = tokio::select! {
                waited = timeout(IDLE, stream.next()) => waited,
                room = self.events.reserve(), if self.overflowed => {
                    if let Ok(room) = room {
                        room.send(EngineEvent::Connected);
                    }
                    self.overflowed = false;
                    continue;
                }
            };
            match waited {
                Ok(Some(Ok(message))) => {
                    silent = 0;
                    self.pass_on(message);
                }
                Ok(Some(Err(error))) => return End::Lost(failure(Operation::Other, &error)),
                Ok(None) => return End::Lost(EngineError::Unresponsive("the events ended".into())),
                Err(_) => {
                    silent += 1;
                    if let Err(error) = self.engine.ping().await {
                        return End::Lost(error);
                    }
                    if silent == REOPEN {
                        return End::Silent;
                    }
                }
            }
        }
    }

    async fn send(&mut self, event: EngineEvent) {
        // Fails only when nobody reads any more; then the whole task is ended.
        let _ = self.events.send(event).await;
    }

    /// Never waits for the reader: the engine drops a client that does not read.
    fn pass_on(&mut self, message: EventMessage) {
        self.since = message.time_nano.unwrap_or(self.since);
        let Some(event) = translate::event(message) else {
            return;
        };
        // After one that was lost, all that follow are in the list that the reader is told to make.
        if !self.overflowed {
            self.overflowed = self.events.try_send(event).is_err();
        }
    }
}
