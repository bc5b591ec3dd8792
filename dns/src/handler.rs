//! A request to its answer: from our zone, or from another resolver.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use hickory_proto::op::{OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use model::directory::Directory;
use tracing::warn;

use listen::LogThrottle;

use crate::relay::Relay;
use crate::response::Response;
use crate::zone::Zone;

/// Interval between log lines on queries that no resolver answers.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Questions since the start, as far as they could be read.
#[derive(Debug, Default)]
pub struct Counters {
    /// Came by UDP.
    pub udp: AtomicU64,
    /// Came by TCP.
    pub tcp: AtomicU64,
    /// Answered here, errors included.
    pub answered: AtomicU64,
    /// Answered by another resolver.
    pub relayed: AtomicU64,
    /// Not ours, and nobody answered.
    pub failed: AtomicU64,
}

/// Answers the requests of all sockets; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Handler(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    zone: ArcSwap<Zone>,
    directory: Arc<ArcSwap<Directory>>,
    relay: Relay,
    turn: AtomicUsize,
    counters: Arc<Counters>,
    log: Mutex<LogThrottle>,
}

/// What is done with a request.
enum Reaction<'a> {
    /// This is sent back.
    Answer(Response),
    /// The question is not ours.
    Relay(&'a Query),
}

impl Handler {
    pub(crate) fn new(zone: Zone, directory: Arc<ArcSwap<Directory>>, relay: Relay) -> Self {
        Self(Arc::new(Shared {
            zone: ArcSwap::from_pointee(zone),
            directory,
            relay,
            turn: AtomicUsize::new(0),
            counters: Arc::default(),
            log: Mutex::new(LogThrottle::new(LOG_INTERVAL)),
        }))
    }

    /// The agent is at these addresses from now on.
    pub(crate) fn answer_at(&self, addrs: Vec<IpAddr>) {
        let zone = Zone::clone(&self.0.zone.load()).at(addrs);
        self.0.zone.store(Arc::new(zone));
    }

    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.0.counters)
    }

    /// What is sent back to a request that could be read.
    pub(crate) async fn respond(&self, request: &Request) -> Response {
        self.0.respond(request).await
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        handle: R,
    ) -> ResponseInfo {
        let response = self.respond(request).await;
        response.send(request, handle).await
    }
}

impl Shared {
    async fn respond(&self, request: &Request) -> Response {
        count(match request.protocol() {
            Protocol::Udp => &self.counters.udp,
            _ => &self.counters.tcp,
        });
        match self.react(request) {
            Reaction::Answer(response) => {
                count(&self.counters.answered);
                response
            }
            Reaction::Relay(query) => self.relay(request, query).await,
        }
    }

    fn react<'a>(&self, request: &'a Request) -> Reaction<'a> {
        let failure = |code| Reaction::Answer(Response::failure(request, code));
        if request.metadata.op_code != OpCode::Query {
            return failure(ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else {
            return failure(ResponseCode::FormErr);
        };
        let query = query.original();
        // A transfer is many messages; nobody here has a use for one.
        if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return failure(ResponseCode::Refused);
        }
        if !self.zone.load().contains(query.name()) {
            return Reaction::Relay(query);
        }
        if request.version() > 0 {
            return failure(ResponseCode::BADVERS);
        }
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return failure(ResponseCode::Refused);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let answer = self.zone.load().answer(&self.directory.load(), query, turn);
        Reaction::Answer(Response::ours(request, answer))
    }

    async fn relay(&self, request: &Request, query: &Query) -> Response {
        let asked = self
            .relay
            .ask(request.as_slice(), query, request.protocol(), request.src());
        if let Some(answer) = asked.await {
            count(&self.counters.relayed);
            Response::of_others(request, answer)
        } else {
            count(&self.counters.failed);
            self.warn_unanswered();
            Response::failure(request, ResponseCode::ServFail)
        }
    }

    fn warn_unanswered(&self) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = log.pass((), Instant::now()) {
            warn!(suppressed, "no upstream resolver answered a DNS query");
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
