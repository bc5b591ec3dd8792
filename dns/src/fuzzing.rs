//! What fuzzing calls: a packet from either side, and what holds whatever is in it.
//!
//! Nothing leaves the process, and nothing is waited for. The first octet of the data chooses who asks, the rest is the packet.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use model::directory::Directory;
use model::skydns::Records;
use model::snapshot::{Change, Snapshot};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::clients::Clients;
use crate::cookies::{self, Cookies};
use crate::handler::Handler;
use crate::message::MAX_QUESTION;
use crate::relay::fuzzing::pass_on;
use crate::response::Response;
use crate::upstreams::{Forwarding, Upstreams};
use crate::wire::{self, DATAGRAM, HEADER, RESPONSE};
use crate::zone::{Tables, Zone};

const DOMAIN: &str = "skydns.local";
/// Of this server; as the only resolver it is left out.
const OWN: ([u8; 4], u16) = ([127, 0, 0, 53], 53);

/// A client of each kind: this host, a container, one that is allowed to ask for other names, a stranger.
const CLIENTS: [IpAddr; 4] = [
    IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 2)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
];

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let built = Builder::new_current_thread().enable_all().build();
    built.expect("a runtime")
});
static HANDLER: LazyLock<Handler> = LazyLock::new(handler);
static TABLES: LazyLock<(Shared<Directory>, Shared<Records>)> = LazyLock::new(|| {
    let directory = Directory::new(&snapshot());
    (shared(directory), shared(records()))
});

type Shared<T> = Arc<ArcSwap<T>>;

fn shared<T>(table: T) -> Shared<T> {
    Arc::new(ArcSwap::from_pointee(table))
}

fn snapshot() -> Snapshot {
    let mut puts = vec![(
        "/hosts/h1/record".to_owned(),
        r#"{"id":"00000000-0000-4000-8000-000000000001","session":"00000000-0000-4000-8000-000000000002",
            "epoch":1,"state":"up","addr":"10.0.0.1","versions":{"agent":"0","placement":[1]}}"#
            .to_owned(),
    )];
    let mut claim = |of: &str, slot: u8, addr: &str, state: &str, service: &str| {
        let (_, container) = of.split_once('/').unwrap_or_default();
        let claim = format!("/claims/{of}/slots/{slot}");
        let instance = format!("{container}-{slot}");
        puts.push((
            claim.clone(),
            format!(r#"{{"host":"h1","instance":"{instance}","version":1}}"#),
        ));
        puts.push((
            format!("{claim}.state"),
            format!(
                r#"{{"instance":"{instance}","state":"{state}","addr":"{addr}","ports":{{"{service}":20000}}}}"#
            ),
        ));
    };
    for slot in 0..40 {
        claim("shop/web", slot, &format!("10.0.1.{slot}"), "ready", "web");
    }
    claim("shop/db", 0, "10.0.0.1", "ready", "db");
    claim("blog/db", 0, "fd00::9", "ready", "db");
    claim("blog/db", 1, "10.0.0.1", "unready", "db");
    let changes = puts.into_iter().map(|(key, value)| Change::Put {
        key,
        value: value.into_bytes(),
        modified: 1,
        created: 1,
    });
    let mut snapshot = Snapshot::default();
    snapshot.apply(changes, 1);
    snapshot
}

fn records() -> Records {
    let mut records = Records::default();
    let long = format!(r#"{{"text":"{}"}}"#, "t".repeat(700));
    for (name, value) in [
        (
            "mail",
            r#"{"host":"10.0.0.9","port":25,"mail":true,"targetstrip":1}"#,
        ),
        ("mail/2", r#"{"host":"fd00::2","group":"g","weight":3}"#),
        ("alias", r#"{"host":"example.com","ttl":60}"#),
        ("text", &long),
    ] {
        let key = format!("/skydns/local/skydns/{name}");
        records.put(&key, value.as_bytes()).expect("a record");
    }
    records
}

fn handler() -> Handler {
    let own = watch::Sender::new(vec![OWN.into()]);
    let forwarding = Forwarding {
        upstreams: vec![OWN.into()],
        ..Forwarding::default()
    };
    let network = |text: &str| text.parse().expect("a network");
    let clients = Clients::new(
        vec![network("198.51.100.0/24")],
        vec![network("fd00::/8")],
        own.subscribe(),
    );
    let (directory, records) = &*TABLES;
    Handler::new(
        Zone::new(DOMAIN, [IpAddr::from(OWN.0)]).expect("a domain"),
        directory.clone(),
        records.clone(),
        Upstreams::new(forwarding, &own.subscribe()),
        Arc::new(clients),
    )
}

/// A packet that a client sends.
pub fn query(data: &[u8]) {
    let Some((who, packet)) = data.split_first() else {
        return;
    };
    if packet.len() > MAX_QUESTION {
        return;
    }
    let _entered = RUNTIME.enter();
    let ip = CLIENTS[usize::from(who & 3)];
    let client = SocketAddr::new(ip, 1024);
    let by = match who & 4 {
        0 => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    // The rate of clients of other hosts is limited; each query has all of it.
    let is_far = CLIENTS[2..].contains(&ip);
    let of_far = is_far.then(handler);
    let handler = of_far.as_ref().unwrap_or(&HANDLER);
    let answer = handler.answer(packet.to_vec(), client, by).now_or_never();
    let answer = answer.expect("no resolver is asked");
    let is_query = packet.len() >= HEADER && packet[2] & RESPONSE == 0;
    assert_eq!(answer.is_some(), is_query);
    let Some(answer) = answer else { return };
    answers(packet, &answer);
    if by == Protocol::Udp {
        assert!(answer.len() <= DATAGRAM.into());
    }
    let long = Message::from_vec(&answer).expect("well-formed");
    let mut short = Vec::new();
    if by == Protocol::Udp && handler.short(packet, client, &mut short) {
        let short = Message::from_vec(&short).expect("well-formed");
        // The records turn with each answer.
        assert_eq!(sorted(short), sorted(long));
    }
    let refusals = [
        wire::truncated(packet),
        cookie(packet, ip).and_then(|cookie| cookie.refusal(packet)),
    ];
    for refusal in refusals.iter().flatten() {
        answers(packet, refusal);
    }
    if let Some(without) = cookies::without(packet) {
        assert_eq!(cookies::option(&without), None);
        let is_query = Request::from_bytes(packet.to_vec(), client, by).is_ok();
        assert!(!is_query || Request::from_bytes(without, client, by).is_ok());
    }
}

fn cookie(packet: &[u8], client: IpAddr) -> Option<cookies::Cookie> {
    static COOKIES: LazyLock<Cookies> = LazyLock::new(Cookies::new);
    COOKIES.look(cookies::option(packet)?, client, 1).ok()
}

fn answers(query: &[u8], answer: &[u8]) {
    assert!(answer.len() >= HEADER);
    assert_eq!(answer[..2], query[..2], "the id");
    assert_ne!(answer[2] & RESPONSE, 0);
}

fn sorted(mut message: Message) -> Message {
    message.answers.sort_by_key(ToString::to_string);
    message
}

/// The queries that answers come for: plain, with options of EDNS, with cookies, by TCP, for the root.
fn queries() -> Vec<(Vec<u8>, Protocol)> {
    let mut queries = Vec::new();
    for (name, wanted, edns) in [
        ("example.com.", RecordType::A, &[][..]),
        (
            "eXample.com.",
            RecordType::AAAA,
            &[0, 0, 41, 4, 208, 0, 0, 128, 0, 0, 0],
        ),
        (
            "example.com.",
            RecordType::SRV,
            b"\0\0\x29\x02\x00\0\0\0\0\0\x0c\0\x0a\0\x08cookie..",
        ),
        (
            "www.example.com.",
            RecordType::TXT,
            b"\0\0\x29\xff\xff\0\0\0\0\0\x14\xfd\xe9\0\x04kept\0\x0a\0\x08cookie..",
        ),
        (".", RecordType::NS, &[]),
    ] {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.metadata.recursion_desired = true;
        let name = Name::from_ascii(name).expect("a name");
        message.add_query(Query::query(name, wanted));
        let mut packet = message.to_vec().expect("a query");
        packet.extend(edns);
        packet[HEADER - 1] = u8::from(!edns.is_empty());
        queries.push((packet.clone(), Protocol::Udp));
        queries.push((packet, Protocol::Tcp));
    }
    queries
}

/// A packet that an upstream resolver sends as the answer to a query.
pub fn answer(data: &[u8]) {
    static QUERIES: LazyLock<Vec<(Vec<u8>, Protocol)>> = LazyLock::new(queries);
    let Some((which, packet)) = data.split_first() else {
        return;
    };
    let query = &QUERIES[usize::from(*which) % QUERIES.len()];
    for reply in replies(query, packet) {
        if let Ok(message) = Message::from_vec(&reply) {
            follow(query, message);
        }
    }
    // As the library writes it: no pointer of a name leads to a TTL, or to the id.
    let message = Message::from_vec(packet).ok();
    let plain = message.and_then(|message| message.to_vec().ok());
    for reply in plain.iter().flat_map(|plain| replies(query, plain)) {
        assert!(Message::from_vec(&reply).is_ok(), "{reply:02x?}");
    }
}

/// What the client of a query gets of it.
fn replies((query, by): &(Vec<u8>, Protocol), packet: &[u8]) -> Vec<Vec<u8>> {
    let request = request(query, *by);
    let replies = pass_on(&request, cookie(query, request.src().ip()), packet);
    let most = match by {
        Protocol::Udp => DATAGRAM,
        _ => u16::MAX,
    };
    for reply in &replies {
        answers(query, reply);
        assert!(reply.len() <= most.into());
        assert!(is_whole(reply), "{reply:02x?}");
    }
    replies
}

fn request(query: &[u8], by: Protocol) -> Request {
    let client = SocketAddr::new(CLIENTS[0], 1024);
    Request::from_bytes(query.to_vec(), client, by).expect("a request")
}

/// Every record that the header announces is there, and nothing else.
fn is_whole(reply: &[u8]) -> bool {
    let count = |at| usize::from(wire::half(reply, at).unwrap_or_default());
    let question = wire::plain_name(reply, HEADER).map(|end| end + 4);
    let records = count(6) + count(8) + count(10);
    let end = (0..records).try_fold(question.unwrap_or_default(), |at, _| {
        Some(wire::record(reply, at)?.data.end)
    });
    count(4) == 1 && question.is_some() && end == Some(reply.len())
}

/// The answer to an alias that leads there.
fn follow((asked, by): &(Vec<u8>, Protocol), message: Message) {
    static ZONE: LazyLock<Zone> = LazyLock::new(|| Zone::new(DOMAIN, []).expect("a domain"));
    let (directory, records) = &*TABLES;
    let tables = Tables {
        directory: &directory.load(),
        records: &records.load(),
    };
    let name = Name::from_ascii("alias.skydns.local.").expect("a name");
    let query = Query::query(name, RecordType::A);
    let answer = ZONE.answer(tables, &query, 0).expect("a name of the zone");
    let request = request(asked, *by);
    let mut response = Response::authoritative(&request, answer);
    response.extend(message);
    let encoded = response.encode(&request, None).expect("an answer");
    Message::from_vec(&encoded).expect("well-formed");
}
