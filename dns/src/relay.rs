//! Questions about others, carried to the host's resolvers as they came.
//!
//! Only the number of the question is changed, so that a guessed answer fits
//! neither number nor port. Resolvers are asked in their order; the next one
//! as soon as one fails, or does not answer for a while, and the first good
//! answer counts, as with the host's own programs. Keeps nothing of an answer.
//!
//! So many questions are under way at once, and so many of one client, so that
//! none takes the others' share. Questions of the same octets, whoever asks,
//! are one exchange while it lasts.

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
use exchange::{Exchange, Question};
use flights::{Flights, Key};

/// Questions under way at once: each may hold a socket. A loop through another resolver ends here too.
pub(crate) const OUTSTANDING: Limits = Limits {
    all: 512,
    per_source: 64,
};
/// How long a resolver is waited for before the next is asked too.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a client is kept waiting: after five seconds it asks again by itself.
const DEADLINE: Duration = Duration::from_millis(4500);

/// The way to the host's resolvers.
#[derive(Debug)]
pub(crate) struct Relay {
    upstreams: Upstreams,
    limiter: Limiter,
    flights: Flights,
    exchange: Arc<Exchange>,
    /// Secret of this process; with a count, it gives numbers that can't be guessed.
    secret: RandomState,
    asked: AtomicU64,
}

impl Relay {
    pub(crate) fn new(upstreams: Upstreams) -> Self {
        Self {
            upstreams,
            limiter: Limiter::new(OUTSTANDING),
            flights: Flights::default(),
            exchange: Arc::default(),
            secret: RandomState::new(),
            asked: AtomicU64::new(0),
        }
    }

    /// The answer to the question of a packet; none if nobody has one that can be read.
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
            let question = Question::new(packet, self.number(), query.clone());
            first_good(Arc::clone(&self.exchange), upstreams, question, by).boxed()
        });
        flight.await.map(Arc::unwrap_or_clone)
    }

    fn number(&self) -> u16 {
        let count = self.asked.fetch_add(1, Ordering::Relaxed);
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
            () = sleep(PATIENCE), if !waiting.as_slice().is_empty() => {}
            () = &mut deadline => return bad,
        }
    }
}

/// Another resolver is asked after SERVFAIL, NOTIMP and REFUSED, as the C library does.
fn is_good(answer: &Message) -> bool {
    !matches!(
        answer.metadata.response_code,
        ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused
    )
}
