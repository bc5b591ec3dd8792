//! Packets as no well-behaved client sends them, and the sizes of answers.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use model::directory::Directory;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio::net::{TcpStream, UdpSocket};

use super::fixture::{Bench, Cluster};
use crate::message::{read_message, write_message};

const NAME: &str = "web.shop.skydns.local.";

fn web(slots: u8) -> Directory {
    let mut cluster = Cluster::default();
    cluster.host("h1");
    for slot in 0..slots {
        let addr = format!("10.0.0.{slot}:20000");
        cluster.state(&format!("shop/web/{slot}"), "h1", &addr, "ready", "web");
    }
    cluster.directory()
}

fn packet(name: &str, wanted: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("name"), wanted));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().expect("packet")
}

#[tokio::test]
async fn answers_keep_to_the_clients_payload_size() -> Result<()> {
    let bench = Bench::start(web(200), &[]).await?;
    for (payload, limit) in [
        (None, 512),
        (Some(100), 512),
        (Some(900), 900),
        (Some(4096), 1232),
    ] {
        for wanted in [RecordType::A, RecordType::SRV] {
            let answer = bench.udp(&packet(NAME, wanted, payload)).await?;
            let (message, length) = (Message::from_vec(&answer)?, answer.len());
            assert!(length <= limit, "{length} of {limit}");
            assert!(length > limit - 100, "{length} of {limit}");
            assert!(message.metadata.truncation);
            assert!(!message.answers.is_empty());
            assert_eq!(message.edns.is_some(), payload.is_some());
        }
    }
    let answer = bench.tcp(&packet(NAME, RecordType::A, None)).await?;
    let message = Message::from_vec(&answer)?;
    assert_eq!(message.answers.len(), 200);
    assert!(!message.metadata.truncation);
    Ok(())
}

#[tokio::test]
async fn additional_records_are_left_out_without_tc() -> Result<()> {
    let bench = Bench::start(web(9), &[]).await?;
    let packet = packet(NAME, RecordType::SRV, None);
    let message = Message::from_vec(&bench.udp(&packet).await?)?;
    assert_eq!((message.answers.len(), message.additionals.len()), (9, 0));
    assert!(!message.metadata.truncation);
    let message = Message::from_vec(&bench.tcp(&packet).await?)?;
    assert_eq!((message.answers.len(), message.additionals.len()), (9, 9));
    Ok(())
}

#[tokio::test]
async fn an_answer_is_authoritative_and_repeats_the_question() -> Result<()> {
    let bench = Bench::start(web(1), &[]).await?;
    let packet = packet("wEb.shop.SKYDNS.local.", RecordType::A, Some(1232));
    let message = Message::from_vec(&bench.udp(&packet).await?)?;
    assert!(message.metadata.authoritative);
    assert!(message.metadata.recursion_desired && message.metadata.recursion_available);
    let name = message.queries[0].name().to_ascii();
    assert_eq!(name, "wEb.shop.SKYDNS.local.");
    assert_eq!(message.answers.len(), 1);
    assert_eq!(message.edns.context("as asked")?.max_payload(), 1232);
    Ok(())
}

#[tokio::test]
async fn unsupported_queries_are_errors() -> Result<()> {
    let bench = Bench::start(web(1), &[]).await?;
    let code = async |packet: &[u8]| -> Result<ResponseCode> {
        let answer = bench.udp(packet).await?;
        assert_eq!(answer[..2], packet[..2], "id");
        Ok(Message::from_vec(&answer)?.metadata.response_code)
    };
    let good = packet(NAME, RecordType::A, Some(1232));
    assert_eq!(code(&good).await?, ResponseCode::NoError);
    let mut notify = good.clone();
    notify[2] |= 4 << 3;
    assert_eq!(code(&notify).await?, ResponseCode::NotImp);
    let mut two = packet(NAME, RecordType::A, None);
    two[5] = 2;
    two.extend_from_within(12..);
    assert_eq!(code(&two).await?, ResponseCode::FormErr);
    let mut many = packet(NAME, RecordType::A, None);
    for _ in 1..100 {
        many.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
    }
    many[5] = 100;
    assert_eq!(code(&many).await?, ResponseCode::FormErr);
    let mut none = good[..12].to_vec();
    none[5] = 0;
    none[11] = 0;
    assert_eq!(code(&none).await?, ResponseCode::FormErr);
    assert_eq!(code(&good[..20]).await?, ResponseCode::FormErr);
    assert_eq!(code(&good[..good.len() - 3]).await?, ResponseCode::FormErr);
    let transfer = packet("skydns.local.", RecordType::AXFR, None);
    assert_eq!(code(&transfer).await?, ResponseCode::Refused);
    let mut version = good.clone();
    let at = version.len() - 5;
    version[at] = 1;
    let version = code(&version).await?;
    // Its number is that of BADSIG too.
    assert_eq!((version.high(), version.low()), (1, 0));
    let mut chaos = packet(NAME, RecordType::A, None);
    let at = chaos.len() - 1;
    chaos[at] = 3;
    assert_eq!(code(&chaos).await?, ResponseCode::Refused);
    Ok(())
}

#[tokio::test]
async fn an_answer_is_not_answered() -> Result<()> {
    let bench = Bench::start(web(1), &[]).await?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let good = packet(NAME, RecordType::A, None);
    let mut response = good.clone();
    response[0] ^= 1;
    response[2] |= 0x80;
    for packet in [&response, &good[..11], &good] {
        socket.send_to(packet, bench.addr).await?;
    }
    let mut answer = [0; 512];
    socket.recv(&mut answer).await?;
    assert_eq!(answer[..2], good[..2], "only the last is a question");
    Ok(())
}

/// Random octets, and questions with some octets changed or cut off.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::sample::select(vec![
        NAME,
        "all.web.shop.skydns.local.",
        "skydns.local.",
        "example.com.",
    ]);
    let types = prop::sample::select(vec![
        RecordType::A,
        RecordType::SRV,
        RecordType::SOA,
        RecordType::ANY,
    ]);
    let changed = (
        names,
        types,
        prop::option::of(any::<u16>()),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(name, wanted, payload, changes, end, cut)| {
            let mut packet = packet(name, wanted, payload);
            for (at, octet) in changes {
                let at = at.index(packet.len());
                packet[at] = octet;
            }
            if cut {
                packet.truncate(end.index(packet.len()));
            }
            packet
        });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..600), changed]
}

/// An answer that fits one of the questions, within what is sent in a datagram.
fn check(answer: &[u8], asked: &BTreeSet<[u8; 2]>) -> Result<()> {
    let message = Message::from_vec(answer).with_context(|| format!("{answer:02x?}"))?;
    assert_eq!(message.metadata.message_type, MessageType::Response);
    assert!(asked.contains(&message.metadata.id.to_be_bytes()));
    assert!(answer.len() <= 1232);
    Ok(())
}

#[tokio::test]
async fn any_packet_gets_a_valid_answer_or_none() -> Result<()> {
    // Nobody is there: what would be relayed fails at once.
    let gone = UdpSocket::bind("127.0.0.1:0").await?.local_addr()?;
    let bench = Bench::start(web(3), &[gone]).await?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let mut asked = BTreeSet::new();
    let mut answer = vec![0; 65_535];
    let (mut runner, packets) = (TestRunner::default(), packets());
    let mut answered = 0;
    for count in 0..10_000 {
        let Ok(packet) = packets.new_tree(&mut runner) else {
            unreachable!("no packet is filtered");
        };
        let packet = packet.current();
        asked.extend(packet.first_chunk().copied());
        if count % 100 == 0 {
            // One that is silent afterwards, too.
            let mut stream = TcpStream::connect(bench.addr).await?;
            write_message(&mut stream, &packet).await?;
        }
        socket.send_to(&packet, bench.addr).await?;
        tokio::task::yield_now().await;
        while let Ok(length) = socket.try_recv(&mut answer) {
            check(&answer[..length], &asked)?;
            answered += 1;
        }
    }
    assert!(answered > 1000, "{answered}");
    let question = packet(NAME, RecordType::A, None);
    let message = Message::from_vec(&bench.udp(&question).await?)?;
    assert_eq!(message.answers.len(), 3);
    let mut stream = TcpStream::connect(bench.addr).await?;
    write_message(&mut stream, &question).await?;
    let message = Message::from_vec(&read_message(&mut stream, usize::MAX).await?)?;
    assert_eq!(message.answers.len(), 3);
    Ok(())
}
