//! Follows the engine: events say what to inspect again, a list from time to time heals what they missed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use agent::{EngineUpdate, Input, Inspection};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use engine::{Change, Engine, EngineError, EngineEvent};

/// Time between two healing lists, each of which inspects every container.
const HEAL_EVERY: Duration = Duration::from_secs(60);
/// Time between two questions whether the engine answers at all.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Time between two tries while the engine does not answer.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// Time between two tries to see a container that an engine which answers does not show.
const UNSEEN_EVERY: Duration = Duration::from_secs(10);

/// Containers that are looked at at once, beside those of a list.
const LOOKS: usize = 16;

/// After a container was connected or disconnected it is looked at, unless another event of it leads to a look before:
/// each start and each end brings one of these too.
const NETWORK_AFTER: Duration = Duration::from_millis(300);

/// After a start or an end of a foreign container, a list counts them all; more of them meanwhile wait for the same one.
const COUNT_AFTER: Duration = Duration::from_secs(2);

/// Follows until cancelled. `again` asks for a list now.
pub(crate) async fn follow(
    engine: Arc<dyn Engine>,
    cluster: Uuid,
    out: mpsc::Sender<Input>,
    mut again: mpsc::Receiver<()>,
    stop: CancellationToken,
) {
    let mut events = engine.events();
    let mut heal = tokio::time::interval(HEAL_EVERY);
    heal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asking = Asking::default();
    let turns = Arc::new(Semaphore::new(LOOKS));
    let mut list_at = None;
    let mut look_at: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let soonest = look_at.iter().min_by_key(|(_, at)| **at);
        let soonest = soonest.map(|(id, at)| (id.clone(), *at));
        let look = async {
            match soonest {
                Some((id, at)) => {
                    tokio::time::sleep_until(at).await;
                    id
                }
                None => std::future::pending().await,
            }
        };
        let list = async {
            match list_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let (update, inspection) = tokio::select! {
            () = stop.cancelled() => return,
            Some(answered) = asking.answers.join_next() => {
                let Some((inspection, answer)) = answered_by(answered) else {
                    return;
                };
                asking.under_way.remove(&inspection);
                let unseen = matches!(&answer, Ok(EngineUpdate::List(listing)) if !listing.unseen.is_empty());
                let retry = match (&answer, &inspection) {
                    (Ok(_), _) => unseen.then_some(UNSEEN_EVERY),
                    (Err(_), Inspection::List) => Some(RETRY_EVERY),
                    (Err(error), Inspection::Container(id)) => {
                        let why = model::error::chain(error);
                        tracing::warn!(container = %id, %why, "the Docker Engine does not show a container");
                        // Is it this container, or the engine?
                        look_at.insert(id.clone(), Instant::now() + UNSEEN_EVERY);
                        engine.ping().await.is_err().then_some(RETRY_EVERY)
                    }
                };
                if let Some(retry) = retry {
                    list_at = Some(sooner(list_at, retry));
                }
                let update = match answer {
                    Ok(update) => Some(update),
                    Err(error) if retry.is_some() => Some(unresponsive(&error)),
                    Err(_) => None,
                };
                let again = asking.again.remove(&inspection);
                (update, again.then_some(inspection))
            }
            _ = heal.tick() => (None, Some(Inspection::List)),
            _ = ping.tick() => match engine.ping().await {
                Ok(()) => (None, None),
                // Said before the list, whose time-out is longer.
                Err(error) => (Some(unresponsive(&error)), Some(Inspection::List)),
            },
            asked = again.recv() => match asked {
                Some(()) => (None, Some(Inspection::List)),
                None => return,
            },
            () = list => (None, Some(Inspection::List)),
            id = look => {
                look_at.remove(&id);
                (None, Some(Inspection::Container(id)))
            }
            event = events.recv() => match event {
                Some(EngineEvent::Connected) => (None, Some(Inspection::List)),
                Some(EngineEvent::Lost(why)) => {
                    tracing::warn!(%why, "Docker event stream closed; resubscribing");
                    // Whether it is more than a lost connection, a list shows.
                    (None, Some(Inspection::List))
                }
                // With a list, what depends on the engine's networks is read again.
                Some(EngineEvent::Networks) => {
                    list_at = Some(sooner(list_at, NETWORK_AFTER));
                    (None, None)
                }
                Some(EngineEvent::Container { docker_id, owner, change }) => {
                    let ours = owner.is_some_and(|(of, _)| of == cluster);
                    if change == Change::Network {
                        let at = Instant::now() + NETWORK_AFTER;
                        look_at.entry(docker_id).or_insert(at);
                        continue;
                    }
                    look_at.remove(&docker_id);
                    match change {
                        Change::Removed => {
                            // An answer that is under way may still have it.
                            asking.doubt(Inspection::Container(docker_id.clone()));
                            (Some(EngineUpdate::Gone(docker_id)), None)
                        }
                        _ if ours => (None, Some(Inspection::Container(docker_id))),
                        Change::Started | Change::Died(_) => {
                            list_at = Some(sooner(list_at, COUNT_AFTER));
                            (None, None)
                        }
                        _ => (None, None),
                    }
                }
                None => return,
            },
        };
        if let Some(update) = update
            && out.send(Input::Engine(update)).await.is_err()
        {
            return;
        }
        let Some(inspection) = inspection else {
            continue;
        };
        if inspection == Inspection::List {
            ping.reset();
            list_at = None;
            look_at.clear();
        }
        if !asking.begins(&inspection) {
            continue;
        }
        let asked = EngineUpdate::Asked(inspection.clone());
        if out.send(Input::Engine(asked)).await.is_err() {
            return;
        }
        let answer = ask(engine.clone(), cluster, inspection, turns.clone());
        asking.answers.spawn(answer);
    }
}

/// Questions to the engine, each of which goes on while others are answered: one container may hold up its own. Tasks, so
/// that they go on while this one waits for the engine, too: what they hold of its client, it may wait for.
#[derive(Default)]
struct Asking {
    under_way: BTreeSet<Inspection>,
    /// What happened since these were asked is not in their answers.
    again: BTreeSet<Inspection>,
    answers: JoinSet<(Inspection, Answer)>,
}

type Answer = Result<EngineUpdate, EngineError>;

impl Asking {
    /// It is to be asked now; else when it is answered that is under way.
    fn begins(&mut self, inspection: &Inspection) -> bool {
        let begins = self.under_way.insert(inspection.clone());
        if !begins {
            self.again.insert(inspection.clone());
        }
        begins
    }

    /// An answer that is under way is to be asked for once more.
    fn doubt(&mut self, inspection: Inspection) {
        if self.under_way.contains(&inspection) {
            self.again.insert(inspection);
        }
    }
}

/// None when the runtime ends.
fn answered_by(task: Result<(Inspection, Answer), JoinError>) -> Option<(Inspection, Answer)> {
    match task {
        Ok(answered) => Some(answered),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

async fn ask(
    engine: Arc<dyn Engine>,
    cluster: Uuid,
    inspection: Inspection,
    turns: Arc<Semaphore>,
) -> (Inspection, Answer) {
    let answer = match &inspection {
        Inspection::List => engine.list(Some(cluster)).await.map(EngineUpdate::List),
        Inspection::Container(id) => {
            let _turn = turns.acquire().await;
            engine.inspect(id).await.map(|found| match found {
                // A network's events don't say whose a container is.
                Some(container) if container.owner.cluster == cluster => {
                    EngineUpdate::Container(Box::new(container))
                }
                _ => EngineUpdate::Gone(id.clone()),
            })
        }
    };
    (inspection, answer)
}

fn sooner(before: Option<Instant>, after: Duration) -> Instant {
    let at = Instant::now() + after;
    before.map_or(at, |before| before.min(at))
}

fn unresponsive(error: &EngineError) -> EngineUpdate {
    EngineUpdate::Unresponsive(model::error::chain(error))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use engine::DockerEngine;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::time::{sleep, timeout};

    use super::*;

    /// Answers one request, unless it hangs; the events never end.
    async fn answer(mut stream: UnixStream, hangs: Arc<AtomicBool>) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head);
        let path = head.split(' ').nth(1).unwrap_or_default();
        if hangs.load(Ordering::Relaxed) || path.contains("/events") {
            std::future::pending::<()>().await;
        }
        let body = if path.ends_with("/version") {
            r#"{"ApiVersion":"1.44","MinAPIVersion":"1.24"}"#
        } else if path.contains("/containers/json") {
            "[]"
        } else {
            "OK"
        };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 200 X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(answer.as_bytes()).await
    }

    /// With the real client: what holds it while it waits for the engine must not wait for itself.
    #[tokio::test(start_paused = true)]
    async fn an_engine_that_has_hung_is_listed_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let hangs = Arc::new(AtomicBool::new(false));
        let does = hangs.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, does.clone()));
            }
        });
        let (out, mut inputs) = mpsc::channel(16);
        let (_again, again) = mpsc::channel(1);
        let engine = Arc::new(DockerEngine::new(&socket));
        let stop = CancellationToken::new();
        tokio::spawn(follow(engine, Uuid::nil(), out, again, stop.clone()));
        let mut listed = async |within| {
            let list = async {
                while let Some(input) = inputs.recv().await {
                    if matches!(input, Input::Engine(EngineUpdate::List(_))) {
                        return;
                    }
                }
            };
            timeout(within, list).await.is_ok()
        };
        assert!(listed(Duration::from_secs(5)).await);
        for _ in 0..3 {
            hangs.store(true, Ordering::Relaxed);
            // A list that was under way when it began to hang may come.
            while listed(Duration::from_secs(200)).await {}
            hangs.store(false, Ordering::Relaxed);
            assert!(listed(Duration::from_secs(60)).await, "nobody asks it");
        }
        stop.cancel();
        sleep(Duration::from_millis(1)).await;
    }
}
