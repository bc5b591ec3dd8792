//! Exchanges under way, shared by equal queries.
//!
//! An exchange is driven by those that wait for it, and ends with the last.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Notify;

use super::answer::Answer as Upstream;
use crate::wire::Question;

/// Result of an exchange: an answer, or none that is well-formed.
pub(super) type Answer = Option<Arc<Upstream>>;
/// A shared exchange.
pub(super) type Flight = Shared<BoxFuture<'static, Answer>>;
/// What equal queries have in common.
type Key = Arc<[u8]>;

/// The query has come back: a resolver forwards to this server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loop;

/// The exchanges under way.
#[derive(Default, Clone)]
pub(super) struct Flights(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    count: u64,
    by_key: HashMap<Key, Under>,
}

/// An exchange under way.
struct Under {
    number: u64,
    /// Told when an equal query joins.
    joined: Arc<Notify>,
    /// As it was sent, if the case of its letters is one that nobody else uses.
    mark: Option<Question>,
    flight: WeakShared<BoxFuture<'static, Answer>>,
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flights({})", self.lock().by_key.len())
    }
}

impl Flights {
    /// The exchange of this query that is under way, or a new one, which is told of others that join.
    pub(super) fn join(
        &self,
        key: Key,
        question: &Question,
        start: impl FnOnce(Arc<Notify>) -> (Option<Question>, BoxFuture<'static, Answer>),
    ) -> Result<Flight, Loop> {
        let mut open = self.lock();
        let under_way = open.by_key.get(&key).and_then(|under| {
            let is_back = under.mark.as_ref() == Some(question);
            Some((under.flight.upgrade()?, is_back, Arc::clone(&under.joined)))
        });
        if let Some((flight, is_back, joined)) = under_way {
            joined.notify_one();
            // The last waiter's end takes the lock.
            drop(open);
            return if is_back { Err(Loop) } else { Ok(flight) };
        }
        let number = open.count;
        open.count += 1;
        let entry = Entry {
            flights: self.clone(),
            key: Arc::clone(&key),
            number,
        };
        let joined = Arc::new(Notify::new());
        let (mark, exchange) = start(Arc::clone(&joined));
        let flight = async move {
            let answer = exchange.await;
            drop(entry);
            answer
        }
        .boxed()
        .shared();
        if let Some(flight) = flight.downgrade() {
            let under = Under {
                number,
                joined,
                mark,
                flight,
            };
            open.by_key.insert(key, under);
        }
        Ok(flight)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes an exchange when it has ended, or nobody waits for it any more.
struct Entry {
    flights: Flights,
    key: Key,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut open = self.flights.lock();
        // A new exchange of this key may have begun since.
        let is_this = |under: &Under| under.number == self.number;
        if open.by_key.get(&self.key).is_some_and(is_this) {
            open.by_key.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn key() -> Key {
        [1, 2, 3].into()
    }

    fn question(name: [u8; 3]) -> Question {
        let octets = [&[3][..], &name, &[0, 0, 1, 0, 1]].concat();
        Question::read(&octets).expect("a question")
    }

    fn asked() -> Question {
        question(*b"www")
    }

    fn sent() -> Question {
        question(*b"wWw")
    }

    type Told = oneshot::Receiver<Answer>;

    fn until(
        told: Told,
    ) -> impl FnOnce(Arc<Notify>) -> (Option<Question>, BoxFuture<'static, Answer>) {
        |_| (Some(sent()), told.map(Result::unwrap_or_default).boxed())
    }

    #[tokio::test]
    async fn an_equal_query_joins() {
        let flights = Flights::default();
        let (tell, told) = oneshot::channel();
        let first = flights.join(key(), &asked(), until(told)).expect("no loop");
        let second = flights.join(key(), &asked(), |_| panic!("it is under way"));
        let second = second.expect("no loop");
        tell.send(None).expect("somebody waits");
        assert_eq!(tokio::join!(first, second), (None, None));
        assert!(flights.lock().by_key.is_empty());
        let start = |_| (None, async { None }.boxed());
        let third = flights.join(key(), &sent(), start).expect("no loop");
        assert_eq!(third.await, None);
    }

    #[tokio::test]
    async fn a_query_that_comes_back_is_a_loop() {
        let flights = Flights::default();
        let (_tell, told) = oneshot::channel();
        let flight = flights.join(key(), &asked(), until(told)).expect("no loop");
        let back = flights.join(key(), &sent(), |_| panic!("it is under way"));
        assert_eq!(back.err(), Some(Loop));
        drop(flight);
    }

    #[tokio::test]
    async fn an_exchange_is_told_that_it_was_joined() {
        let flights = Flights::default();
        let start = |joined: Arc<Notify>| {
            let joined = async move {
                joined.notified().await;
                None
            };
            (None, joined.boxed())
        };
        let mut first = flights.join(key(), &asked(), start).expect("no loop");
        assert_eq!((&mut first).now_or_never(), None);
        let second = flights.join(key(), &asked(), |_| panic!("it is under way"));
        assert_eq!(second.expect("no loop").now_or_never(), Some(None));
    }

    #[tokio::test]
    async fn an_exchange_without_waiters_ends() {
        let flights = Flights::default();
        let (mut tell, told) = oneshot::channel::<Answer>();
        let flight = flights.join(key(), &asked(), until(told)).expect("no loop");
        let other = flight.clone();
        drop(flight);
        assert!(!tell.is_closed());
        drop(other);
        tell.closed().await;
        assert!(flights.lock().by_key.is_empty());
    }
}
