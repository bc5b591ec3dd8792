//! Searches of containers, which are finished for them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::net::xfer::Protocol;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::fixture::{packet, web};
use super::relaying::{Resolver, response};
use crate::clients::Clients;
use crate::handler::Handler;
use crate::upstreams::{Forwarding, Upstreams};
use crate::{Source, Zone};

const CONTAINER: &str = "198.51.100.7";
const OTHER: &str = "example.com.shop.skydns.local.";
const OURS: &str = "web.shop.shop.skydns.local.";

/// The host of the containers in 198.51.100.0/24, with the service `web.shop`.
pub(crate) fn handler(resolver: SocketAddr) -> Result<Handler> {
    let own = watch::Sender::new(Vec::new());
    let forwarding = Forwarding {
        upstreams: vec![resolver],
        ..Forwarding::default()
    };
    let clients = Clients::new(
        vec!["198.51.100.0/24".parse()?, "127.0.0.0/8".parse()?],
        vec!["10.0.0.0/8".parse()?],
        own.subscribe(),
    );
    Ok(Handler::new(
        Zone::new("skydns.local", [])?,
        Arc::new(ArcSwap::from_pointee(web(1))),
        Arc::default(),
        Upstreams::new(forwarding, &own.subscribe()),
        Arc::new(clients),
    ))
}

async fn send(handler: &Handler, packet: Vec<u8>, from: &str) -> Result<Message> {
    let client = SocketAddr::new(from.parse()?, 1024);
    let answer = handler.answer(packet, client, Protocol::Udp).await;
    Ok(Message::from_vec(&answer.context("an answer")?)?)
}

async fn ask(handler: &Handler, name: &str, wanted: RecordType) -> Result<Message> {
    send(handler, packet(7, name, wanted), CONTAINER).await
}

/// Owner and data of the records of an answer.
fn shown<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<String> {
    let records = records.into_iter();
    records
        .map(|one| match &one.data {
            RData::SOA(_) => format!("{} SOA", one.name),
            data => format!("{} {data}", one.name),
        })
        .collect()
}

/// A resolver that knows `example.com`, with an address and nothing else.
async fn knowing() -> Result<Resolver> {
    let name = |text: &str| Name::from_ascii(text).expect("a name");
    Resolver::start(move |question| {
        let mut message =
            Message::from_vec(&response(question, ResponseCode::NoError)).expect("a question");
        message.edns = None;
        let query = message.queries[0].clone();
        let is_known = *query.name() == name("example.com.");
        if is_known && query.query_type() == RecordType::A {
            let data = RData::A(A::new(192, 0, 2, 1));
            message
                .answers
                .push(Record::from_rdata(query.name().clone(), 60, data));
        } else {
            let data = SOA::new(name("ns.com."), name("a.com."), 1, 2, 3, 4, 60);
            message
                .authorities
                .push(Record::from_rdata(name("com."), 60, RData::SOA(data)));
        }
        if !is_known {
            message.metadata.response_code = ResponseCode::NXDomain;
        }
        vec![message.to_vec().expect("a message")]
    })
    .await
}

#[tokio::test]
async fn a_containers_search_is_finished_with_one_answer() -> Result<()> {
    let resolver = knowing().await?;
    let handler = handler(resolver.addr)?;
    for asked in [1, 1] {
        let answer = ask(&handler, OTHER, RecordType::A).await?;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        let alias = format!("{OTHER} example.com.");
        assert_eq!(shown(&answer.answers), [&alias, "example.com. 192.0.2.1"]);
        assert_eq!(resolver.asked(), asked, "the second is of the cache");
    }
    // The cache is that of the name itself.
    ask(&handler, "example.com.", RecordType::A).await?;
    assert_eq!(resolver.asked(), 1);
    let no_data = ask(&handler, OTHER, RecordType::AAAA).await?;
    assert_eq!(no_data.metadata.response_code, ResponseCode::NoError);
    assert_eq!(no_data.answers.len(), 1, "the alias");
    assert_eq!(shown(&no_data.authorities), ["com. SOA"]);

    let ours = ask(&handler, OURS, RecordType::A).await?;
    let alias = format!("{OURS} web.shop.skydns.local.");
    let wanted = [&alias, "web.shop.skydns.local. 10.0.1.0"];
    assert_eq!(shown(&ours.answers), wanted);
    assert_eq!(resolver.asked(), 2);

    let counters = handler.counters();
    assert_eq!(counters.udp.load(Ordering::Relaxed), 5);
    assert_eq!(counters.answered.load(Ordering::Relaxed), 1);
    assert_eq!(counters.relayed.load(Ordering::Relaxed), 4);
    let took = |source| {
        let counts = counters.durations(source).buckets.into_iter();
        counts.map(|(_, count)| count).sum::<u64>()
    };
    assert_eq!(Source::ALL.map(took), [1, 2, 2]);
    let codes: Vec<_> = counters.queries().collect();
    assert_eq!(codes, [("A", "NOERROR", 4), ("AAAA", "NOERROR", 1)]);
    Ok(())
}

#[tokio::test]
async fn whoever_is_no_container_gets_what_is_there() -> Result<()> {
    let resolver = knowing().await?;
    let handler = handler(resolver.addr)?;
    for name in [OTHER, OURS] {
        let mut answers = Vec::new();
        // The host itself, who is allowed, and a stranger.
        for from in ["127.0.0.1", "10.0.0.7", "192.0.2.1"] {
            answers.push(send(&handler, packet(7, name, RecordType::A), from).await?);
        }
        // A container that wants no recursion.
        let mut iterative = packet(7, name, RecordType::A);
        iterative[2] &= !1;
        answers.push(send(&handler, iterative, CONTAINER).await?);
        for answer in answers {
            assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
            assert_eq!(shown(&answer.answers), [""; 0]);
            assert_eq!(shown(&answer.authorities), ["skydns.local. SOA"]);
        }
    }
    assert_eq!(resolver.asked(), 0);
    Ok(())
}

#[tokio::test]
async fn a_search_that_finds_nothing_ends_with_the_first_name() -> Result<()> {
    let resolver = knowing().await?;
    let handler = handler(resolver.addr)?;
    let answer = ask(&handler, "none.example.shop.skydns.local.", RecordType::A).await?;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert!(answer.metadata.authoritative);
    assert_eq!(shown(&answer.answers), [""; 0]);
    assert_eq!(shown(&answer.authorities), ["skydns.local. SOA"]);
    assert_eq!(answer.authorities[0].ttl, 1, "not the time of another zone");
    // The resolver of the container goes on by itself.
    let last = ask(&handler, "none.example.", RecordType::A).await?;
    assert_eq!(last.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(resolver.asked(), 1);
    Ok(())
}

#[tokio::test]
async fn a_failure_is_not_taken_for_a_name_that_does_not_exist() -> Result<()> {
    let failing = Resolver::coded(ResponseCode::ServFail).await?;
    let gone = UdpSocket::bind("127.0.0.1:0").await?.local_addr()?;
    for resolver in [failing.addr, gone] {
        let answer = ask(&handler(resolver)?, OTHER, RecordType::A).await?;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    Ok(())
}
