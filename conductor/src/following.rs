//! Follows the engine: events say what to look at again, a list from time to time heals what they missed.
//!
//! It only looks and reports; it holds no state that matters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::observed::ObservedContainer;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use engine::{Change, Engine, EngineEvent, Listing};

/// Time between two healing lists.
const HEAL_EVERY: Duration = Duration::from_secs(20);
/// Time between two tries while the engine does not answer.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// After a container was connected or disconnected it is looked at, unless another event of it leads to a look before:
/// each start and each end brings one of these too.
const NETWORK_AFTER: Duration = Duration::from_millis(300);

/// After a start or an end of a foreign container, a list counts them all; more of them meanwhile wait for the same one.
const COUNT_AFTER: Duration = Duration::from_secs(2);

/// What was seen.
#[derive(Debug)]
pub(crate) enum Sighting {
    /// A look is begun: whatever is set after this is newer.
    Begun(Look),
    /// A whole list.
    List(Listing),
    /// One container as it is now.
    Container(Box<ObservedContainer>),
    /// A container is gone.
    Gone(String),
    /// The engine does not answer; why.
    Unresponsive(String),
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Look {
    /// Everything.
    List,
    /// One container, by Docker's id.
    Container(String),
}

/// Follows until cancelled. `again` asks for a list now.
pub(crate) async fn follow(
    engine: Arc<dyn Engine>,
    cluster: Uuid,
    out: mpsc::Sender<Sighting>,
    mut again: mpsc::Receiver<()>,
    stop: CancellationToken,
) {
    let mut events = engine.events();
    let mut heal = tokio::time::interval(HEAL_EVERY);
    heal.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
        let look = tokio::select! {
            () = stop.cancelled() => return,
            _ = heal.tick() => Some(Look::List),
            asked = again.recv() => match asked {
                Some(()) => Some(Look::List),
                None => return,
            },
            () = tokio::time::sleep(RETRY_EVERY), if !answers => Some(Look::List),
            () = count => Some(Look::List),
            id = network => {
                networks.remove(&id);
                Some(Look::Container(id))
            }
            event = events.recv() => match event {
                Some(EngineEvent::Connected) => Some(Look::List),
                Some(EngineEvent::Lost(why)) => {
                    tracing::warn!(%why, "the engine's events ended; they are asked for again");
                    // Whether it is more than a lost connection, a list shows.
                    Some(Look::List)
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
                            if out.send(Sighting::Gone(docker_id)).await.is_err() {
                                return;
                            }
                            None
                        }
                        _ if ours => Some(Look::Container(docker_id)),
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
        let Some(look) = look else { continue };
        if look == Look::List {
            count_at = None;
            networks.clear();
        }
        if out.send(Sighting::Begun(look.clone())).await.is_err() {
            return;
        }
        let seen = match look {
            Look::List => engine.list(Some(cluster)).await.map(Sighting::List),
            Look::Container(id) => engine.inspect(&id).await.map(|found| match found {
                Some(container) => Sighting::Container(Box::new(container)),
                None => Sighting::Gone(id),
            }),
        };
        answers = seen.is_ok();
        let seen = seen.unwrap_or_else(|error| Sighting::Unresponsive(model::error::chain(&error)));
        if out.send(seen).await.is_err() {
            return;
        }
    }
}
