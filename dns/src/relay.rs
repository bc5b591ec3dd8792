//! Forwarding of queries to the upstream resolvers, and their answers kept.
//!
//! A plain query is sent in words of our own. Id and port are random, against
//! forged answers; so is the case of the name's letters, by which a query that
//! comes back is known: some resolvers change it, and an answer may have any.
//! One that says more, with EDNS options, is sent as it came under another id,
//! and its answer not kept.
//!
//! Queries under way are limited in all and per client. Equal queries share
//! one exchange while it lasts.

mod answer;
mod asked;
mod cache;
mod exchange;
mod flights;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod loops;
mod race;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{join_all, pending};
use hickory_proto::op::ResponseCode;
use listen::{Limiter, Limits};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::counters::{Counters, Source, count};
use crate::upstreams::Upstreams;
use crate::wire::Question;
use answer::{Age, Answer};
use asked::Sent;
use cache::{Bounds, Cache, Found};
use exchange::Exchange;
use flights::{Flight, Flights, Loop};
use loops::Loops;
use race::{Outcome, Ranking, first_good};

pub(crate) use asked::Asked;
#[cfg(test)]
pub(crate) use race::DEADLINE;

/// Limits of queries under way, each of which may hold a socket. Ends forwarding loops too.
pub(crate) const OUTSTANDING: Limits = Limits {
    all: 512,
    per_source: 64,
};
/// What the cache may hold.
const KEPT: Bounds = Bounds {
    entries: 10_000,
    octets: 8 << 20,
};
/// Time before an answer out of date is given while resolvers are still asked (RFC 8767).
const PATIENCE: Duration = Duration::from_millis(1800);

/// Time after which an exchange that was joined may be one that came back in other letters.
const SUSPICIOUS: Duration = Duration::from_millis(500);

/// Forwarder to the upstream resolvers.
#[derive(Debug)]
pub(crate) struct Relay(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    upstreams: Upstreams,
    limiter: Limiter,
    flights: Flights,
    loops: Loops,
    exchange: Arc<Exchange>,
    ranking: Ranking,
    cache: Mutex<Cache>,
    counters: Arc<Counters>,
    /// Secret that makes ids of a count unpredictable.
    secret: RandomState,
    count: AtomicU64,
}

/// An answer to a client.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) octets: Vec<u8>,
    pub(crate) code: ResponseCode,
    pub(crate) source: Source,
}

impl Relayed {
    fn new(answer: &Answer, to: &Asked<'_>, age: Age, source: Source) -> Self {
        Self {
            octets: answer.reply(to, age),
            code: answer.code(),
            source,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    /// No resolver has a well-formed one.
    #[error("no upstream resolver answered a DNS query")]
    Upstream,
    /// The limit is reached.
    #[error("too many DNS queries wait for upstream resolvers")]
    Busy,
    /// It came back.
    #[error("a forwarded DNS query came back: an upstream resolver forwards to this server")]
    Loop,
}

impl Relay {
    pub(crate) fn new(upstreams: Upstreams, counters: Arc<Counters>) -> Self {
        Self(Arc::new(Shared {
            upstreams,
            limiter: Limiter::new(OUTSTANDING),
            flights: Flights::default(),
            loops: Loops::default(),
            exchange: Arc::default(),
            ranking: Ranking::default(),
            cache: Mutex::new(Cache::new(KEPT)),
            counters,
            secret: RandomState::new(),
            count: AtomicU64::new(0),
        }))
    }

    /// The answer to a client's query.
    pub(crate) async fn ask(
        &self,
        asked: &Asked<'_>,
        client: SocketAddr,
    ) -> Result<Relayed, Unanswered> {
        if self.0.loops.is_back(&asked.question) {
            return Err(Unanswered::Loop);
        }
        let key = asked.key();
        let upstreams = self.0.upstreams.of(asked.name);
        if upstreams.is_new {
            self.0.cache().clear();
        }
        let found = self.0.cache().get(&key, now().into_std());
        let spare = match found {
            Some(Found::Ready(answer, age)) => {
                self.0.count_use(age);
                return Ok(Relayed::new(&answer, asked, age, Source::Cache));
            }
            Some(Found::Spare(answer)) => Some(answer),
            None => None,
        };
        let permit = self.0.limiter.acquire(client.ip(), now().into_std());
        let permit = permit.map_err(|reason| {
            debug!(%client, %reason, "DNS query refused");
            Unanswered::Busy
        })?;
        let flight = self.0.join(key, asked, upstreams.addresses);
        let flight = flight.map_err(|Loop| Unanswered::Loop)?;
        let answer = if spare.is_none() {
            flight.await
        } else {
            // It goes on without this client.
            let going_on = flight.clone();
            tokio::spawn(async move {
                going_on.await;
                drop(permit);
            });
            timeout(PATIENCE, flight).await.unwrap_or_default()
        };
        match (answer, spare) {
            (answer, Some(spare)) if !answer.as_ref().is_some_and(|answer| answer.is_good()) => {
                self.0.count_use(Age::Stale);
                Ok(Relayed::new(&spare, asked, Age::Stale, Source::Cache))
            }
            (Some(answer), _) => {
                count(&self.0.counters.cache_misses);
                let age = Age::Known(Duration::ZERO);
                Ok(Relayed::new(&answer, asked, age, Source::Upstream))
            }
            (None, _) => Err(Unanswered::Upstream),
        }
    }
}

impl Shared {
    fn join(
        self: &Arc<Self>,
        key: Arc<[u8]>,
        asked: &Asked<'_>,
        upstreams: Arc<[SocketAddr]>,
    ) -> Result<Flight, Loop> {
        let to_keep = asked.is_plain.then(|| Arc::clone(&key));
        self.flights.join(key, &asked.question, |joined| {
            let folded = asked.question.folded();
            // A case that somebody chose is kept: a forwarder's, which knows its query by it.
            let is_ours = asked.is_plain && asked.question == folded;
            let question = if is_ours {
                folded.in_random_case(self.random_bits())
            } else {
                asked.question.clone()
            };
            // The root has no letters.
            let mark = Some(&question).filter(|sent| is_ours && **sent != folded);
            let mark = mark.cloned();
            let sent = asked.upstream(self.random() as u16, question);
            let all = Arc::clone(self);
            let looks_back = all
                .clone()
                .looks_back(folded, Arc::clone(&upstreams), joined);
            let flies = all.fly(to_keep, sent, upstreams);
            let ends = async {
                tokio::select! {
                    answer = flies => answer,
                    () = looks_back => None,
                }
            };
            (mark, ends.boxed())
        })
    }

    /// Asks upstream and keeps the answer.
    async fn fly(
        self: Arc<Self>,
        key: Option<Arc<[u8]>>,
        sent: Sent,
        upstreams: Arc<[SocketAddr]>,
    ) -> flights::Answer {
        let sent = Arc::new(sent);
        let ask = |to| Arc::clone(&self.exchange).ask(to, Arc::clone(&sent));
        let Outcome { answer, failures } = first_good(&upstreams, &self.ranking, ask).await;
        self.counters
            .upstream_failures
            .fetch_add(failures, Ordering::Relaxed);
        let answer = answer.map(Arc::new);
        if let Some(key) = key {
            self.keep(&key, answer.as_ref());
        }
        answer
    }

    /// Until it is known that all resolvers of a query forward to this server: one that does not may yet answer.
    async fn looks_back(
        self: Arc<Self>,
        question: Question,
        upstreams: Arc<[SocketAddr]>,
        joined: Arc<Notify>,
    ) {
        joined.notified().await;
        sleep(SUSPICIOUS).await;
        join_all(upstreams.iter().map(|to| self.is_back(&question, *to))).await;
    }

    /// Until a name that this resolver is asked for is asked for here.
    async fn is_back(&self, question: &Question, resolver: SocketAddr) {
        let Some(mut probe) = self.loops.probe(question, self.random()) else {
            return pending().await;
        };
        let sent = Sent::plain(self.random() as u16, probe.question.clone(), 0, false);
        let ask = Arc::clone(&self.exchange).ask(resolver, Arc::new(sent));
        tokio::select! {
            () = probe.is_back() => {}
            // What it answers is of no interest.
            () = ask.then(|_| pending()) => {}
        }
    }

    fn keep(&self, key: &Arc<[u8]>, answer: Option<&Arc<Answer>>) {
        let now = now().into_std();
        let mut cache = self.cache();
        let is_good = answer.is_some_and(|answer| answer.is_good());
        if !is_good && cache.hold(key, now) {
            return;
        }
        if let Some(answer) = answer {
            cache.put(key, Arc::clone(answer), now);
            let Counters {
                cache_entries,
                cache_octets,
                ..
            } = &*self.counters;
            cache_entries.store(cache.len() as u64, Ordering::Relaxed);
            cache_octets.store(cache.octets() as u64, Ordering::Relaxed);
        }
    }

    fn count_use(&self, age: Age) {
        count(match age {
            Age::Known(_) => &self.counters.cache_hits,
            Age::Stale => &self.counters.cache_stale,
        });
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn random(&self) -> u64 {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        self.secret.hash_one(count)
    }

    fn random_bits(&self) -> impl FnMut() -> bool {
        let (mut bits, mut left) = (0_u64, 0);
        move || {
            if left == 0 {
                (bits, left) = (self.random(), u64::BITS);
            }
            left -= 1;
            bits >>= 1;
            bits & 1 == 1
        }
    }
}

/// The clock of the runtime, which tests can stop.
fn now() -> Instant {
    Instant::now()
}
