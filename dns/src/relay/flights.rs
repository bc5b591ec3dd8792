//! Exchanges under way, shared by equal queries.
//!
//! An exchange is driven by those that wait for it, and ends with the last.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use hickory_proto::op::Message;
use hickory_server::net::xfer::Protocol;

/// Result of an exchange: an answer, or none that is well-formed.
type Answer = Option<Arc<Message>>;
/// A shared exchange.
type Flight = Shared<BoxFuture<'static, Answer>>;

/// A query without its id. All other octets count: answers repeat the case of
/// the name, and depend on flags and EDNS options.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    by_tcp: bool,
    question: Arc<[u8]>,
}

impl Key {
    /// None if the packet is too short for an id.
    pub(super) fn new(packet: &[u8], by: Protocol) -> Option<Self> {
        Some(Self {
            by_tcp: by != Protocol::Udp,
            question: packet.get(2..)?.into(),
        })
    }
}

/// The exchanges under way.
#[derive(Default, Clone)]
pub(super) struct Flights(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    count: u64,
    by_key: HashMap<Key, (u64, WeakShared<BoxFuture<'static, Answer>>)>,
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flights({})", self.lock().by_key.len())
    }
}

impl Flights {
    /// The exchange of this query that is under way, or a new one.
    pub(super) fn join(
        &self,
        key: Key,
        start: impl FnOnce() -> BoxFuture<'static, Answer>,
    ) -> Flight {
        let mut open = self.lock();
        let under_way = open
            .by_key
            .get(&key)
            .and_then(|(_, flight)| flight.upgrade());
        if let Some(flight) = under_way {
            return flight;
        }
        let number = open.count;
        open.count += 1;
        let entry = Entry {
            flights: self.clone(),
            key: key.clone(),
            number,
        };
        let exchange = start();
        let flight = async move {
            let answer = exchange.await;
            drop(entry);
            answer
        }
        .boxed()
        .shared();
        if let Some(weak) = flight.downgrade() {
            open.by_key.insert(key, (number, weak));
        }
        flight
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
        let is_this = |(number, _): &(u64, _)| *number == self.number;
        if open.by_key.get(&self.key).is_some_and(is_this) {
            open.by_key.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn key(number: u8) -> Key {
        Key::new(&[number, number, 1, 2, 3], Protocol::Udp).expect("long enough")
    }

    #[tokio::test]
    async fn an_equal_query_with_another_id_joins() {
        let flights = Flights::default();
        let (tell, told) = oneshot::channel();
        let first = flights.join(key(1), || told.map(Result::unwrap_or_default).boxed());
        let second = flights.join(key(2), || panic!("it is under way"));
        tell.send(Some(Arc::new(Message::query())))
            .expect("somebody waits");
        let (first, second) = tokio::join!(first, second);
        assert!(Arc::ptr_eq(
            &first.expect("an answer"),
            &second.expect("an answer")
        ));
        assert!(flights.lock().by_key.is_empty());
        // Nothing is cached.
        let third = flights.join(key(1), || async { None }.boxed());
        assert_eq!(third.await, None);
    }

    #[tokio::test]
    async fn an_exchange_without_waiters_ends() {
        let flights = Flights::default();
        let (mut tell, told) = oneshot::channel::<Answer>();
        let flight = flights.join(key(1), || told.map(Result::unwrap_or_default).boxed());
        let other = flight.clone();
        drop(flight);
        assert!(!tell.is_closed());
        drop(other);
        tell.closed().await;
        assert!(flights.lock().by_key.is_empty());
    }

    #[test]
    fn a_query_by_tcp_is_another_key() {
        let by = |by| Key::new(&[1, 2, 3], by);
        assert_ne!(by(Protocol::Udp), by(Protocol::Tcp));
        assert_eq!(Key::new(&[1], Protocol::Udp), None);
    }
}
