//! Answering a request: from the zone, or from an upstream resolver.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_proto::op::{Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use model::directory::Directory;
use model::skydns::{RecordError, Records};
use tracing::{Level, debug, enabled, warn};

use listen::LogThrottle;

use crate::clients::Clients;
use crate::cookies::{self, Cookie, Cookies, Malformed, Shown};
use crate::counters::{Counters, Source, code_name, count};
use crate::message::MAX_QUESTIONS;
use crate::rate::{RateLimit, Verdict};
use crate::relay::{Asked, Relay, Relayed, Unanswered};
use crate::response::{self, Response};
use crate::short::Question;
use crate::upstreams::Upstreams;
use crate::wire::{self, HEADER};
use crate::zone::{self, Explanation, Tables, Zone};

/// Interval between log lines on queries that no resolver answers.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Handler of the requests of all sockets. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Handler(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    zone: ArcSwap<Zone>,
    directory: Arc<ArcSwap<Directory>>,
    records: Arc<ArcSwap<Records>>,
    relay: Relay,
    clients: Arc<Clients>,
    rate: Mutex<RateLimit>,
    cookies: Cookies,
    turns: AtomicU64,
    counters: Arc<Counters>,
    log: Mutex<LogThrottle>,
}

/// What a client gets.
struct Answer {
    octets: Option<Vec<u8>>,
    code: ResponseCode,
    source: Source,
}

impl Answer {
    /// Of the zone, or a failure.
    fn new(response: Response, request: &Request, cookie: Option<Cookie>) -> Self {
        Self {
            code: response.code(),
            octets: response.encode(request, cookie),
            source: Source::Zone,
        }
    }
}

/// Treatment of a request.
enum Action<'a> {
    /// Answered at once.
    Answer(Response),
    /// Answered with what another name has, which is forwarded.
    Follow(Box<Follow>),
    /// Forwarded.
    Relay(Asked<'a>),
}

/// An answer whose last alias leads out of the zone.
struct Follow {
    response: Response,
    /// For what it leads to.
    query: Query,
    /// The answer if there is no such name, where that is not the answer.
    missing: Option<Response>,
}

impl Handler {
    pub(crate) fn new(
        zone: Zone,
        directory: Arc<ArcSwap<Directory>>,
        records: Arc<ArcSwap<Records>>,
        upstreams: Upstreams,
        clients: Arc<Clients>,
    ) -> Self {
        let counters = Arc::<Counters>::default();
        Self(Arc::new(Shared {
            zone: ArcSwap::from_pointee(zone),
            directory,
            records,
            relay: Relay::new(upstreams, Arc::clone(&counters)),
            clients,
            rate: Mutex::new(RateLimit::new(Instant::now())),
            cookies: Cookies::new(),
            turns: AtomicU64::new(0),
            counters,
            log: Mutex::new(LogThrottle::new(LOG_INTERVAL)),
        }))
    }

    /// Sets the addresses of `ns.<domain>`.
    pub(crate) fn set_addresses(&self, addrs: Vec<IpAddr>) {
        let zone = Zone::clone(&self.0.zone.load()).at(addrs);
        self.0.zone.store(Arc::new(zone));
    }

    pub(crate) fn explain(&self, name: &str) -> Option<Explanation> {
        self.0
            .with_tables(|zone, tables| zone.explain(tables, name))
    }

    pub(crate) fn unreadable(&self) -> Vec<(String, RecordError)> {
        let records = self.0.records.load();
        let keys = records.unreadable(&[]);
        keys.map(|(key, error)| (key.to_owned(), error.clone()))
            .collect()
    }

    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.0.counters)
    }

    /// Writes the answer to a question for addresses of the zone, the short way; false for others, which go the long way.
    pub(crate) fn short(&self, message: &[u8], client: SocketAddr, answer: &mut Vec<u8>) -> bool {
        let shared = &self.0;
        // The rate of others is limited, and the long way logs.
        if !shared.clients.is_near(client.ip()) || enabled!(Level::DEBUG) {
            return false;
        }
        let begin = Instant::now();
        let Some(question) = Question::read(message) else {
            return false;
        };
        let turn = shared.turn();
        if !shared.with_tables(|zone, tables| zone.short(tables, &question, turn, answer)) {
            return false;
        }
        count(&shared.counters.udp);
        count(&shared.counters.answered);
        let (code, took) = (ResponseCode::NoError, begin.elapsed());
        shared.counters.add(question.kind, code, Source::Zone, took);
        true
    }

    /// The answer; none to a message that is shorter than a header, or a response.
    pub(crate) async fn answer(
        &self,
        message: Vec<u8>,
        client: SocketAddr,
        by: Protocol,
    ) -> Option<Vec<u8>> {
        let header = Header::read(&mut BinDecoder::new(&message)).ok()?;
        if header.metadata.message_type == MessageType::Response {
            return None;
        }
        let shown = self.0.shown(&message, client.ip());
        let cookie = shown.and_then(Result::ok);
        // Who has one of ours is no victim of somebody who sends with its address.
        let is_proven = cookie.is_some_and(|cookie| cookie.is_proof());
        if by == Protocol::Udp && !is_proven {
            match (self.0.verdict(client.ip()), cookie) {
                (Verdict::Answer, _) => {}
                (Verdict::Truncate, Some(cookie)) => return cookie.refusal(&message),
                (Verdict::Truncate, None) => return wire::truncated(&message),
                (Verdict::Drop, _) => return None,
            }
        }
        // A pointer in the only name leads into the header, which is another one in the answer.
        let is_plain = header.counts.queries != 1 || wire::plain_name(&message, HEADER).is_some();
        // The library allocates for as many questions as are announced.
        let request = (header.counts.queries <= MAX_QUESTIONS && is_plain)
            .then(|| Request::from_bytes(message, client, by).ok())
            .flatten();
        match request {
            None => response::bare(&header, ResponseCode::FormErr),
            Some(request) => self.0.respond(&request, shown).await,
        }
    }
}

impl Shared {
    /// A number that looks like chance: a counter's remainders would be the same ones again and again for clients that ask
    /// in a rhythm, as for A and AAAA together. The mix is that of SplitMix64.
    fn turn(&self) -> usize {
        let count = self.turns.fetch_add(1, Ordering::Relaxed);
        let mixed = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize
    }

    fn verdict(&self, client: IpAddr) -> Verdict {
        if self.clients.is_near(client) {
            return Verdict::Answer;
        }
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = rate.take(client, Instant::now());
        drop(rate);
        // Asked of the kernel, so only where it makes a difference.
        if verdict == Verdict::Answer || self.clients.is_of_this_host(client) {
            return Verdict::Answer;
        }
        count(&self.counters.limited);
        verdict
    }

    /// What the client shows of its cookies.
    fn shown(&self, message: &[u8], client: IpAddr) -> Shown {
        let option = cookies::option(message)?;
        Some(self.cookies.look(option, client, cookies::now()))
    }

    async fn respond(&self, request: &Request, shown: Shown) -> Option<Vec<u8>> {
        let begin = Instant::now();
        let cookie = shown.and_then(Result::ok);
        count(match request.protocol() {
            Protocol::Udp => &self.counters.udp,
            _ => &self.counters.tcp,
        });
        let answer = match self.action(request, shown) {
            Action::Answer(response) => {
                count(&self.counters.answered);
                Answer::new(response, request, cookie)
            }
            Action::Follow(follow) => self.follow(request, cookie, *follow).await,
            Action::Relay(asked) => self.relay(request, asked).await,
        };
        if let [query] = request.queries.queries() {
            let took = begin.elapsed();
            let Answer { code, source, .. } = answer;
            self.counters.add(query.query_type(), code, source, took);
            debug!(
                client = %request.src(),
                name = %query.name(),
                r#type = %query.query_type(),
                code = code_name(code),
                source = source.as_str(),
                micros = took.as_micros(),
                "query"
            );
        }
        answer.octets
    }

    fn action<'a>(&self, request: &'a Request, shown: Shown) -> Action<'a> {
        let failure = |code| Action::Answer(Response::failure(request, code));
        if request.metadata.op_code != OpCode::Query {
            return failure(ResponseCode::NotImp);
        }
        let cookie = match shown.transpose() {
            Ok(cookie) => cookie,
            Err(Malformed) => return failure(ResponseCode::FormErr),
        };
        let query = match (request.queries.queries(), cookie) {
            ([query], _) => query,
            // It asks for the cookie.
            ([], Some(cookie)) => return failure(cookie.code()),
            _ => return failure(ResponseCode::FormErr),
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
        let turn = self.turn();
        let (answer, found) = self.with_tables(|zone, tables| {
            let answer = zone.answer(tables, query, turn);
            let is_missing = answer.as_ref().is_some_and(zone::Answer::is_missing);
            let found = is_missing.then(|| zone.search(tables, query, turn));
            // The kernel is asked who the client is, so only where it makes a difference.
            let found = found.flatten().filter(|_| self.searches(request));
            (answer, found)
        });
        let Some(answer) = answer else {
            if !self.clients.is_served_others(request.src().ip()) {
                return failure(ResponseCode::Refused);
            }
            return match Asked::new(request, cookie) {
                Some(asked) => Action::Relay(asked),
                None => failure(ResponseCode::FormErr),
            };
        };
        let (mut answer, missing) = match found {
            Some(found) => (found, Some(answer)),
            None => (answer, None),
        };
        let follow = answer.follow.take();
        let response = Response::authoritative(request, answer);
        match follow {
            Some(name) => Action::Follow(Box::new(Follow {
                response,
                query: Query::query(name, query.query_type()),
                missing: missing.map(|answer| Response::authoritative(request, answer)),
            })),
            None => Action::Answer(response),
        }
    }

    /// A container's resolver searches. Who asks not to recurse gets what is there.
    fn searches(&self, request: &Request) -> bool {
        request.metadata.recursion_desired && self.clients.is_container(request.src().ip())
    }

    fn with_tables<T>(&self, look: impl FnOnce(&Zone, Tables<'_>) -> T) -> T {
        let tables = Tables {
            directory: &self.directory.load(),
            records: &self.records.load(),
        };
        look(&self.zone.load(), tables)
    }

    /// An alias is answered with what it leads to, as its client asks for no more.
    async fn follow(&self, request: &Request, cookie: Option<Cookie>, follow: Follow) -> Answer {
        let Follow {
            mut response,
            query,
            missing,
        } = follow;
        if !self.clients.is_served_others(request.src().ip()) {
            count(&self.counters.answered);
            return Answer::new(response, request, cookie);
        }
        let (message, source) = match self.ask(&query, request.src()).await {
            Ok(answer) => answer,
            Err(why) => return self.unanswered(request, cookie, why),
        };
        match missing {
            Some(missing) if message.metadata.response_code == ResponseCode::NXDomain => {
                response = missing;
            }
            _ => response.extend(message),
        }
        count(&self.counters.relayed);
        Answer {
            source,
            ..Answer::new(response, request, cookie)
        }
    }

    /// What the resolvers have for a name that no client asked for.
    async fn ask(
        &self,
        query: &Query,
        client: SocketAddr,
    ) -> Result<(Message, Source), Unanswered> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(query.clone());
        let packet = message.to_vec().map_err(|_| Unanswered::Upstream)?;
        // Of any length, as over TCP.
        let request = Request::from_bytes(packet, client, Protocol::Tcp);
        let request = request.map_err(|_| Unanswered::Upstream)?;
        let asked = Asked::new(&request, None).ok_or(Unanswered::Upstream)?;
        let answer = self.relay.ask(&asked, client).await?;
        let message = Message::from_vec(&answer.octets).map_err(|_| Unanswered::Upstream)?;
        Ok((message, answer.source))
    }

    async fn relay(&self, request: &Request, asked: Asked<'_>) -> Answer {
        match self.relay.ask(&asked, request.src()).await {
            Ok(Relayed {
                octets,
                code,
                source,
            }) => {
                count(&self.counters.relayed);
                Answer {
                    octets: Some(octets),
                    code,
                    source,
                }
            }
            Err(why) => self.unanswered(request, asked.cookie, why),
        }
    }

    fn unanswered(&self, request: &Request, cookie: Option<Cookie>, why: Unanswered) -> Answer {
        count(&self.counters.failed);
        self.warn(why);
        let failure = Response::failure(request, ResponseCode::ServFail);
        Answer {
            source: Source::Upstream,
            ..Answer::new(failure, request, cookie)
        }
    }

    fn warn(&self, why: Unanswered) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = log.pass((), Instant::now()) {
            warn!(suppressed, "{why}");
        }
    }
}
