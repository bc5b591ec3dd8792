//! Follows the engine: events say what to inspect again, a list from time to time heals what they missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent::{EngineUpdate, Input, Inspection};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use engine::{Change, Engine, EngineEvent};

/// Time between two healing lists, each of which inspects every container.
const HEAL_EVERY: Duration = Duration::from_secs(60);
/// Time between two questions whether the engine answers at all.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Time between two tries while the engine does not answer.
const RETRY_EVERY: Duration = Duration::from_secs(2);

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
    let mut answers = true;
    let mut count_at = None;
    let mut networks: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let soonest = networks.iter().min_by_key(|(_, at)| **at);
        let soonest = soonest.map(|(id, at)| (id.clone(), *at));
        let network = async {
            match soonest {
                Some((id, at)) => {
                    tokio::time::sleep_until(at).await;
                    id
                }
                None => std::future::pending().await,
            }
        };
        let count = async {
            match count_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let inspection = tokio::select! {
            () = stop.cancelled() => return,
            _ = heal.tick() => Some(Inspection::List),
            _ = ping.tick() => match engine.ping().await {
                Ok(()) => None,
                Err(error) => {
                    // Said before the list, whose time-out is longer.
                    let why = EngineUpdate::Unresponsive(model::error::chain(&error));
                    if out.send(Input::Engine(why)).await.is_err() {
                        return;
                    }
                    Some(Inspection::List)
                }
            },
            asked = again.recv() => match asked {
                Some(()) => Some(Inspection::List),
                None => return,
            },
            () = tokio::time::sleep(RETRY_EVERY), if !answers => Some(Inspection::List),
            () = count => Some(Inspection::List),
            id = network => {
                networks.remove(&id);
                Some(Inspection::Container(id))
            }
            event = events.recv() => match event {
                Some(EngineEvent::Connected) => Some(Inspection::List),
                Some(EngineEvent::Lost(why)) => {
                    tracing::warn!(%why, "Docker event stream closed; resubscribing");
                    // Whether it is more than a lost connection, a list shows.
                    Some(Inspection::List)
                }
                // With a list, what depends on the engine's networks is read again.
                Some(EngineEvent::Networks) => {
                    let at = Instant::now() + NETWORK_AFTER;
                    count_at = Some(count_at.map_or(at, |before: Instant| before.min(at)));
                    None
                }
                Some(EngineEvent::Container { docker_id, owner, change }) => {
                    let ours = owner.is_some_and(|(of, _)| of == cluster);
                    if change == Change::Network {
                        let at = Instant::now() + NETWORK_AFTER;
                        networks.entry(docker_id).or_insert(at);
                        continue;
                    }
                    networks.remove(&docker_id);
                    match change {
                        Change::Removed => {
                            if out.send(Input::Engine(EngineUpdate::Gone(docker_id))).await.is_err() {
                                return;
                            }
                            None
                        }
                        _ if ours => Some(Inspection::Container(docker_id)),
                        Change::Started | Change::Died(_) => {
                            count_at.get_or_insert_with(|| Instant::now() + COUNT_AFTER);
                            None
                        }
                        _ => None,
                    }
                }
                None => return,
            },
        };
        let Some(inspection) = inspection else {
            continue;
        };
        if inspection == Inspection::List {
            ping.reset();
            count_at = None;
            networks.clear();
        }
        if out
            .send(Input::Engine(EngineUpdate::Asked(inspection.clone())))
            .await
            .is_err()
        {
            return;
        }
        let seen = match inspection {
            Inspection::List => engine.list(Some(cluster)).await.map(EngineUpdate::List),
            Inspection::Container(id) => engine.inspect(&id).await.map(|found| match found {
                Some(container) => EngineUpdate::Container(Box::new(container)),
                None => EngineUpdate::Gone(id),
            }),
        };
        answers = seen.is_ok();
        let seen =
            seen.unwrap_or_else(|error| EngineUpdate::Unresponsive(model::error::chain(&error)));
        if out.send(Input::Engine(seen)).await.is_err() {
            return;
        }
    }
}
