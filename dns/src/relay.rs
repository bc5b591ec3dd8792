//! Forwarding of queries to the upstream resolvers.
//!
//! Only the id of a query is replaced: id and port are random, against forged
//! answers. Resolvers are queried in order, the next one on a failure or after
//! 1.5 s, and the first good answer wins, as in the C library.
//!
//! Queries under way are limited in all and per client. Queries of equal
//! octets share one exchange while it lasts.

mod exchange;
mod flights;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_server::net::xfer::Protocol;
use listen::{Limiter, Limits};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::debug;

use crate::resolv_conf::Upstreams;
use exchange::{Exchange, Question, RETRY};
use flights::{Flights, Key};

/// Limits of queries under way, each of which may hold a socket. Ends forwarding loops too.
pub(crate) const OUTSTANDING: Limits = Limits {
    all: 512,
    per_source: 64,
};
/// Time-out of a query; clients retry after 5 s.
const DEADLINE: Duration = Duration::from_millis(4500);

/// Forwarder to the upstream resolvers.
#[derive(Debug)]
pub(crate) struct Relay {
    upstreams: Upstreams,
    limiter: Limiter,
    flights: Flights,
    exchange: Arc<Exchange>,
    /// Secret that makes ids of a count unpredictable.
    secret: RandomState,
    count: AtomicU64,
}

impl Relay {
    pub(crate) fn new(upstreams: Upstreams) -> Self {
        Self {
            upstreams,
            limiter: Limiter::new(OUTSTANDING),
            flights: Flights::default(),
            exchange: Arc::default(),
            secret: RandomState::new(),
            count: AtomicU64::new(0),
        }
    }

    /// The answer to the query in a packet; none if no resolver has a well-formed one.
    pub(crate) async fn ask(
        &self,
        packet: &[u8],
        query: &Query,
        by: Protocol,
        client: SocketAddr,
    ) -> Option<Message> {
        let _permit = match self.limiter.acquire(client.ip(), Instant::now()) {
            Ok(permit) => permit,
            Err(reason) => {
                debug!(%client, %reason, "DNS query refused");
                return None;
            }
        };
        let key = Key::new(packet, by)?;
        let flight = self.flights.join(key, || {
            let upstreams = self.upstreams.current();
            let question = Question::new(packet, self.next_id(), query.clone());
            first_good(Arc::clone(&self.exchange), upstreams, question, by).boxed()
        });
        flight.await.map(Arc::unwrap_or_clone)
    }

    fn next_id(&self) -> u16 {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        self.secret.hash_one(count) as u16
    }
}

async fn first_good(
    exchange: Arc<Exchange>,
    upstreams: Arc<[SocketAddr]>,
    question: Question,
    by: Protocol,
) -> Option<Arc<Message>> {
    let question = Arc::new(question);
    let mut waiting = upstreams.iter();
    let mut asked = JoinSet::new();
    let mut bad = None;
    let mut deadline = pin!(sleep(DEADLINE));
    loop {
        if let Some(to) = waiting.next() {
            asked.spawn(Arc::clone(&exchange).ask(*to, Arc::clone(&question), by));
        }
        if asked.is_empty() {
            return bad;
        }
        tokio::select! {
            Some(Ok((from, answer))) = asked.join_next() => match answer {
                Ok(answer) if is_good(&answer) => return Some(Arc::new(answer)),
                Ok(answer) => bad = Some(Arc::new(answer)),
                Err(error) => debug!(%from, %error, "upstream resolver failed"),
            },
            () = sleep(RETRY), if !waiting.as_slice().is_empty() => {}
            () = &mut deadline => return bad,
        }
    }
}

/// The next resolver is queried after SERVFAIL, NOTIMP and REFUSED, as in the C library.
fn is_good(answer: &Message) -> bool {
    !matches!(
        answer.metadata.response_code,
        ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused
    )
}
