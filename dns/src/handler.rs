//! Answering a request: from the zone, or from an upstream resolver.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use model::directory::Directory;
use model::skydns::Records;
use tracing::warn;

use listen::LogThrottle;

use crate::relay::Relay;
use crate::response::Response;
use crate::zone::{Tables, Zone};

/// Interval between log lines on queries that no resolver answers.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Queries since the start, without malformed ones.
#[derive(Debug, Default)]
pub struct Counters {
    /// Queries over UDP.
    pub udp: AtomicU64,
    /// Queries over TCP.
    pub tcp: AtomicU64,
    /// Answered from the zone, errors included.
    pub answered: AtomicU64,
    /// Answered by an upstream resolver.
    pub relayed: AtomicU64,
    /// Forwarded without an answer.
    pub failed: AtomicU64,
}

/// Handler of the requests of all sockets. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Handler(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    zone: ArcSwap<Zone>,
    directory: Arc<ArcSwap<Directory>>,
    records: Arc<ArcSwap<Records>>,
    relay: Relay,
    turn: AtomicUsize,
    counters: Arc<Counters>,
    log: Mutex<LogThrottle>,
}

/// Treatment of a request.
enum Action<'a> {
    /// Answered at once.
    Answer(Response),
    /// Answered with what another name has, which is forwarded.
    Follow(Response, Query),
    /// Forwarded.
    Relay(&'a Query),
}

impl Handler {
    pub(crate) fn new(
        zone: Zone,
        directory: Arc<ArcSwap<Directory>>,
        records: Arc<ArcSwap<Records>>,
        relay: Relay,
    ) -> Self {
        Self(Arc::new(Shared {
            zone: ArcSwap::from_pointee(zone),
            directory,
            records,
            relay,
            turn: AtomicUsize::new(0),
            counters: Arc::default(),
            log: Mutex::new(LogThrottle::new(LOG_INTERVAL)),
        }))
    }

    /// Sets the addresses of `ns.<domain>`.
    pub(crate) fn set_addresses(&self, addrs: Vec<IpAddr>) {
        let zone = Zone::clone(&self.0.zone.load()).at(addrs);
        self.0.zone.store(Arc::new(zone));
    }

    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.0.counters)
    }

    /// The response to a well-formed request.
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
        match self.action(request) {
            Action::Answer(response) => {
                count(&self.counters.answered);
                response
            }
            Action::Follow(response, query) => self.follow(request, response, &query).await,
            Action::Relay(query) => self.relay(request, query).await,
        }
    }

    fn action<'a>(&self, request: &'a Request) -> Action<'a> {
        let failure = |code| Action::Answer(Response::failure(request, code));
        if request.metadata.op_code != OpCode::Query {
            return failure(ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else {
            return failure(ResponseCode::FormErr);
        };
        let query = query.original();
        // Zone transfers are neither served nor forwarded.
        if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return failure(ResponseCode::Refused);
        }
        if request.version() > 0 {
            return failure(ResponseCode::BADVERS);
        }
        // Other classes are about a server itself, such as `version.bind` of CHAOS.
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return failure(ResponseCode::Refused);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let tables = Tables {
            directory: &self.directory.load(),
            records: &self.records.load(),
        };
        let Some(mut answer) = self.zone.load().answer(tables, query, turn) else {
            return Action::Relay(query);
        };
        let follow = answer.follow.take();
        let response = Response::authoritative(request, answer);
        match follow {
            Some(name) => Action::Follow(response, Query::query(name, query.query_type())),
            None => Action::Answer(response),
        }
    }

    /// An alias is answered with what it leads to, as its client asks for no more.
    async fn follow(&self, request: &Request, mut response: Response, query: &Query) -> Response {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(query.clone());
        let Ok(packet) = message.to_vec() else {
            return Response::failure(request, ResponseCode::ServFail);
        };
        let asked = self
            .relay
            .ask(&packet, query, request.protocol(), request.src());
        if let Some(answer) = asked.await {
            count(&self.counters.answered);
            response.extend(answer);
            response
        } else {
            self.unanswered(request)
        }
    }

    async fn relay(&self, request: &Request, query: &Query) -> Response {
        let asked = self
            .relay
            .ask(request.as_slice(), query, request.protocol(), request.src());
        if let Some(answer) = asked.await {
            count(&self.counters.relayed);
            Response::forwarded(request, answer)
        } else {
            self.unanswered(request)
        }
    }

    fn unanswered(&self, request: &Request) -> Response {
        count(&self.counters.failed);
        self.warn_unanswered();
        Response::failure(request, ResponseCode::ServFail)
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
