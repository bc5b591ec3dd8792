//! Questions about other names, with resolvers of our own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use hickory_proto::op::{Edns, Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, CNAME, NS, NULL, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::directory::Directory;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::task::AbortOnDropHandle;

use super::fixture::{Bench, packet};
use crate::message::{read_message, write_message};

/// A resolver that says what it is told to and notes what it was asked.
pub(super) struct Resolver {
    pub(super) addr: SocketAddr,
    asked: Arc<AtomicU64>,
    last: Arc<Mutex<Vec<u8>>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Resolver {
    /// `answer` gets a question and returns the datagrams, or messages, to send back.
    pub(super) async fn start(
        answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Result<Self> {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await?;
            if let Ok(tcp) = TcpListener::bind(udp.local_addr()?).await {
                break (udp, tcp);
            }
        };
        let addr = udp.local_addr()?;
        let asked = Arc::new(AtomicU64::new(0));
        let last = Arc::new(Mutex::new(Vec::new()));
        let answer = {
            let (asked, last) = (Arc::clone(&asked), Arc::clone(&last));
            Arc::new(move |question: &[u8]| {
                asked.fetch_add(1, Ordering::Relaxed);
                *last.lock().expect("not poisoned") = question.to_vec();
                answer(question)
            })
        };
        let by_udp = {
            let answer = Arc::clone(&answer);
            async move {
                let mut packet = vec![0; 65_535];
                while let Ok((length, from)) = udp.recv_from(&mut packet).await {
                    for datagram in answer(&packet[..length]) {
                        udp.send_to(&datagram, from).await.expect("sent");
                    }
                }
            }
        };
        let by_tcp = async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let question = read_message(&mut stream, usize::MAX)
                    .await
                    .expect("question");
                for message in answer(&question) {
                    write_message(&mut stream, &message).await.expect("sent");
                }
            }
        };
        Ok(Self {
            addr,
            asked,
            last,
            _tasks: [
                AbortOnDropHandle::new(tokio::spawn(by_udp)),
                AbortOnDropHandle::new(tokio::spawn(by_tcp)),
            ],
        })
    }

    /// One that has only a code.
    pub(super) async fn coded(code: ResponseCode) -> Result<Self> {
        Self::start(move |question| vec![response(question, code)]).await
    }

    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// What it was asked last.
    pub(super) fn last(&self) -> Vec<u8> {
        self.last.lock().expect("not poisoned").clone()
    }
}

pub(super) fn response(question: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[3] = (answer[3] & 0xf0) | code.low();
    answer
}

/// An answer with something of all that there is in a message.
fn full(question: &[u8]) -> Message {
    let name = |text| Name::from_ascii(text).expect("name");
    let record = |owner, data| Record::from_rdata(name(owner), 86_401, data);
    let unknown = |code: u16, data: &[u8]| RData::Unknown {
        code: code.into(),
        rdata: NULL::with(data.to_vec()),
    };
    let mut message = Message::from_vec(question).expect("question");
    let metadata = &mut message.metadata;
    metadata.message_type = MessageType::Response;
    metadata.authoritative = true;
    metadata.recursion_available = true;
    metadata.authentic_data = true;
    metadata.checking_disabled = true;
    // In two parts, one of them in EDNS.
    metadata.response_code = ResponseCode::BADCOOKIE;
    message.answers = vec![
        record(
            "Example.COM.",
            RData::CNAME(CNAME(name("Www.Example.NET."))),
        ),
        record("Www.Example.NET.", unknown(65_280, &[0xc0, 0x0c, 0xff])),
        // RRSIG: the library is built without DNSSEC.
        record("Www.Example.NET.", unknown(46, b"a signature")),
    ];
    message.authorities = vec![record(
        "Example.NET.",
        RData::NS(NS(name("Ns.Example.NET."))),
    )];
    message.additionals = vec![record("Ns.Example.NET.", RData::A(A::new(192, 0, 2, 1)))];
    let mut edns = Edns::new();
    edns.set_max_payload(512).set_dnssec_ok(true);
    edns.set_rcode_high(ResponseCode::BADCOOKIE.high());
    let option = EdnsOption::Unknown(65_001, b"as it is".to_vec());
    edns.options_mut().insert(option);
    message.edns = Some(edns);
    message
}

pub(super) fn code(answer: &[u8]) -> ResponseCode {
    ResponseCode::from(0, answer[3] & 0x0f)
}

#[tokio::test]
async fn other_names_are_forwarded_with_the_whole_answer() -> Result<()> {
    let resolver =
        Resolver::start(|question| vec![full(question).to_vec().expect("message")]).await?;
    let bench = Bench::start(Directory::default(), &[resolver.addr]).await?;
    let mut question = Message::from_vec(&packet(4711, "Example.COM.", RecordType::TXT))?;
    let mut edns = Edns::new();
    edns.set_max_payload(1400);
    question.set_edns(edns);
    let mut question = question.to_vec()?;
    question.extend_from_slice(b"no parser would write this");
    let mut expected = full(&question);
    // The size is the server's own to say.
    expected
        .edns
        .as_mut()
        .context("EDNS")?
        .set_max_payload(1400);
    for answer in [bench.udp(&question).await?, bench.tcp(&question).await?] {
        let answer = Message::from_vec(&answer)?;
        assert_eq!(answer, expected);
        // Names are the same in any case.
        assert_eq!(format!("{answer:?}"), format!("{expected:?}"));
        let seen = resolver.last();
        assert_eq!(seen[2..], question[2..], "all but the number");
    }
    assert_eq!(resolver.asked(), 2);
    assert_eq!(bench.handle.counters.relayed.load(Ordering::Relaxed), 2);
    Ok(())
}

#[tokio::test]
async fn forwarded_answers_keep_to_the_clients_payload_size() -> Result<()> {
    let resolver = Resolver::start(|question| {
        let mut message = full(question);
        let text = TXT::new(vec!["x".repeat(200); 4]);
        let owner = message.queries[0].name().clone();
        message.answers = vec![Record::from_rdata(owner, 1, RData::TXT(text))];
        vec![message.to_vec().expect("message")]
    })
    .await?;
    let bench = Bench::start(Directory::default(), &[resolver.addr]).await?;
    let mut question = Message::from_vec(&packet(1, "example.com.", RecordType::TXT))?;
    for (payload, is_cut) in [(600, true), (1400, false)] {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        question.set_edns(edns);
        let answer = bench.udp(&question.to_vec()?).await?;
        assert!(answer.len() <= payload.into());
        let answer = Message::from_vec(&answer)?;
        assert_eq!(answer.metadata.truncation, is_cut);
        assert_eq!(answer.answers.is_empty(), is_cut);
        assert!(answer.edns.is_some());
    }
    Ok(())
}

#[tokio::test]
async fn a_malformed_answer_is_none() -> Result<()> {
    let broken = Resolver::start(|question| {
        let mut answer = response(question, ResponseCode::NoError);
        // A record that does not follow.
        answer[7] = 1;
        vec![answer]
    })
    .await?;
    let good = Resolver::coded(ResponseCode::NXDomain).await?;
    let question = packet(1, "example.com.", RecordType::A);
    for (resolvers, expected) in [
        (vec![broken.addr], ResponseCode::ServFail),
        (vec![broken.addr, good.addr], ResponseCode::NXDomain),
    ] {
        let bench = Bench::start(Directory::default(), &resolvers).await?;
        assert_eq!(code(&bench.udp(&question).await?), expected);
        assert_eq!(code(&bench.tcp(&question).await?), expected);
    }
    Ok(())
}

#[tokio::test]
async fn the_zone_is_never_forwarded() -> Result<()> {
    let resolver = Resolver::coded(ResponseCode::NoError).await?;
    let bench = Bench::start(Directory::default(), &[resolver.addr]).await?;
    for name in [
        "skydns.local.",
        "web.shop.skydns.local.",
        "x.y.z.SKYDNS.local.",
    ] {
        let answer = bench.udp(&packet(1, name, RecordType::A)).await?;
        assert_eq!(Message::from_vec(&answer)?.authorities.len(), 1);
    }
    assert_eq!(resolver.asked(), 0);
    Ok(())
}

#[tokio::test]
async fn a_truncated_answer_is_forwarded_with_tc() -> Result<()> {
    let resolver = Resolver::start(|question| {
        let mut answer = response(question, ResponseCode::NoError);
        answer[2] |= 0x02;
        vec![answer]
    })
    .await?;
    let bench = Bench::start(Directory::default(), &[resolver.addr]).await?;
    let answer = bench.udp(&packet(1, "example.com.", RecordType::A)).await?;
    assert_eq!(answer[2] & 0x02, 0x02);
    Ok(())
}

#[tokio::test]
async fn the_next_resolver_is_queried_after_a_failure_or_silence() -> Result<()> {
    let gone = UdpSocket::bind("127.0.0.1:0").await?.local_addr()?;
    let silent = Resolver::start(|_| Vec::new()).await?;
    let failing = Resolver::coded(ResponseCode::ServFail).await?;
    let good = Resolver::coded(ResponseCode::NXDomain).await?;
    for first in [gone, silent.addr, failing.addr] {
        let bench = Bench::start(Directory::default(), &[first, good.addr]).await?;
        let question = packet(1, "example.com.", RecordType::A);
        assert_eq!(code(&bench.udp(&question).await?), ResponseCode::NXDomain);
        if first != silent.addr {
            assert_eq!(code(&bench.tcp(&question).await?), ResponseCode::NXDomain);
        }
    }
    Ok(())
}

#[tokio::test]
async fn without_a_good_answer_the_client_gets_an_error() -> Result<()> {
    let gone = UdpSocket::bind("127.0.0.1:0").await?.local_addr()?;
    let question = packet(4711, "example.com.", RecordType::A);
    let bench = Bench::start(Directory::default(), &[gone]).await?;
    for answer in [bench.udp(&question).await?, bench.tcp(&question).await?] {
        let answer = Message::from_vec(&answer)?;
        assert_eq!(answer.metadata.id, 4711);
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(answer.queries.len(), 1);
    }
    assert_eq!(bench.handle.counters.failed.load(Ordering::Relaxed), 2);

    let refusing = Resolver::coded(ResponseCode::Refused).await?;
    let bench = Bench::start(Directory::default(), &[gone, refusing.addr]).await?;
    let answer = bench.udp(&question).await?;
    assert_eq!(answer, response(&question, ResponseCode::Refused));
    Ok(())
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again() -> Result<()> {
    let count = AtomicU64::new(0);
    let resolver = Resolver::start(
        move |question| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Vec::new(),
            _ => vec![response(question, ResponseCode::NoError)],
        },
    )
    .await?;
    let bench = Bench::start(Directory::default(), &[resolver.addr]).await?;
    let answer = bench.udp(&packet(1, "example.com.", RecordType::A)).await?;
    assert_eq!(code(&answer), ResponseCode::NoError);
    assert_eq!(resolver.asked(), 2);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_does_not_match_is_ignored() -> Result<()> {
    let resolver = Resolver::start(|question| {
        let right = response(question, ResponseCode::NoError);
        let mut other_number = right.clone();
        other_number[0] ^= 1;
        let mut no_response = right.clone();
        no_response[2] &= 0x7f;
        let number = u16::from_be_bytes([question[0], question[1]]);
        let other_name = packet(number, "example.net.", RecordType::A);
        let other_name = response(&other_name, ResponseCode::NoError);
        vec![
            Vec::new(),
            vec![0; 5],
            other_number,
            no_response,
            other_name,
            right,
        ]
    })
    .await?;
    let bench = Bench::start(Directory::default(), &[resolver.addr]).await?;
    let question = packet(1, "example.com.", RecordType::A);
    let answer = bench.udp(&question).await?;
    assert_eq!(answer, response(&question, ResponseCode::NoError));
    Ok(())
}

#[tokio::test]
async fn the_server_never_forwards_to_itself() -> Result<()> {
    let bench = Bench::start(Directory::default(), &[]).await?;
    bench.set_resolvers(&[bench.addr])?;
    let answer = bench.udp(&packet(1, "example.com.", RecordType::A)).await?;
    assert_eq!(code(&answer), ResponseCode::ServFail);
    let counters = &bench.handle.counters;
    assert_eq!(
        counters.udp.load(Ordering::Relaxed),
        1,
        "it did not come back"
    );
    Ok(())
}
