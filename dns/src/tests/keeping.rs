//! Answers of resolvers that are kept, and the ways to get one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use hickory_proto::op::{Edns, Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::directory::Directory;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::fixture::{Bench, packet};
use super::relaying::{Resolver, code, response};
use crate::{Forwarding, Source, Stub};

fn record(owner: &str) -> Record {
    let owner = Name::from_ascii(owner).expect("name");
    Record::from_rdata(owner, 300, RData::A(A::new(192, 0, 2, 1)))
}

/// One with an address for each name, and for another name that nobody asked for.
async fn generous() -> Result<Resolver> {
    Resolver::start(|question| {
        let mut message = Message::from_vec(question).expect("question");
        message.metadata.message_type = MessageType::Response;
        let owner = message.queries[0].name().to_ascii();
        message.answers = vec![record(&owner), record("victim.example.")];
        message.additionals = vec![record("victim.example.")];
        vec![message.to_vec().expect("message")]
    })
    .await
}

#[tokio::test]
async fn an_answer_is_kept_for_its_question_and_no_other() -> Result<()> {
    let resolver = generous().await?;
    let bench = Bench::start(Directory::default(), &[resolver.addr]).await?;
    let ask = async |name, wanted| -> Result<Message> {
        Ok(Message::from_vec(
            &bench.udp(&packet(7, name, wanted)).await?,
        )?)
    };
    for name in ["www.example.", "WWW.example.", "www.EXAMPLE."] {
        let answer = ask(name, RecordType::A).await?;
        assert_eq!(answer.metadata.id, 7);
        assert_eq!(answer.queries[0].name().to_ascii(), name);
        assert_eq!(answer.answers.len(), 2);
    }
    assert_eq!(resolver.asked(), 1);
    // What came along with that answer is believed of no other question.
    for (count, name, wanted) in [
        (2, "victim.example.", RecordType::A),
        (3, "www.example.", RecordType::AAAA),
        (4, "example.", RecordType::A),
    ] {
        ask(name, wanted).await?;
        assert_eq!(resolver.asked(), count, "{name}");
    }
    let counters = &bench.handle.counters;
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(read(&counters.cache_hits), 2);
    assert_eq!(read(&counters.cache_misses), 4);
    // A type without an answer in it is not kept, since nobody says for how long.
    assert_eq!(read(&counters.cache_entries), 3);
    let queries: Vec<_> = counters.queries().collect();
    assert_eq!(queries, [("A", "NOERROR", 5), ("AAAA", "NOERROR", 1)]);
    for (source, expected) in [(Source::Cache, 2), (Source::Upstream, 4), (Source::Zone, 0)] {
        let took = counters.durations(source);
        let all: u64 = took.buckets.iter().map(|(_, count)| count).sum();
        assert_eq!(all, expected, "{source:?}");
    }
    Ok(())
}

#[tokio::test]
async fn flags_and_options_that_change_the_answer_are_asked_for_apart() -> Result<()> {
    let resolver = generous().await?;
    let bench = Bench::start(Directory::default(), &[resolver.addr]).await?;
    let plain = Message::from_vec(&packet(1, "www.example.", RecordType::A))?;
    let mut checking = plain.clone();
    checking.metadata.checking_disabled = true;
    let mut dnssec = plain.clone();
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true);
    dnssec.set_edns(edns);
    let mut sized = plain.clone();
    sized.set_edns(Edns::new());
    for (query, asked) in [
        (&plain, 1),
        (&checking, 2),
        (&dnssec, 3),
        (&sized, 3),
        (&dnssec, 3),
    ] {
        let answer = Message::from_vec(&bench.udp(&query.to_vec()?).await?)?;
        assert_eq!(resolver.asked(), asked);
        assert_eq!(answer.edns.is_some(), query.edns.is_some());
    }
    Ok(())
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_by_tcp() -> Result<()> {
    let count = std::sync::atomic::AtomicU64::new(0);
    let resolver = Resolver::start(move |question| {
        let mut answer = response(question, ResponseCode::NXDomain);
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            answer[2] |= 0x02;
        }
        vec![answer]
    })
    .await?;
    let bench = Bench::start(Directory::default(), &[resolver.addr]).await?;
    let answer = bench.udp(&packet(1, "example.com.", RecordType::A)).await?;
    assert_eq!((answer[2] & 0x02, resolver.asked()), (0, 2));
    Ok(())
}

#[tokio::test]
async fn a_resolver_that_knows_no_edns_is_asked_without() -> Result<()> {
    let resolver = Resolver::start(|question| {
        let has_edns = question[11] > 0;
        let mut bare = response(question, ResponseCode::FormErr);
        bare.truncate(12);
        bare[4..12].fill(0);
        vec![if has_edns {
            bare
        } else {
            response(question, ResponseCode::NXDomain)
        }]
    })
    .await?;
    let bench = Bench::start(Directory::default(), &[resolver.addr]).await?;
    let answer = bench.udp(&packet(1, "example.com.", RecordType::A)).await?;
    assert_eq!(code(&answer), ResponseCode::NXDomain);
    Ok(())
}

#[tokio::test]
async fn a_query_that_comes_back_ends_at_once() -> Result<()> {
    let one = Bench::start(Directory::default(), &[]).await?;
    let other = Bench::start(Directory::default(), &[one.addr]).await?;
    one.set_resolvers(&[other.addr])?;
    let begin = std::time::Instant::now();
    let answer = one.udp(&packet(1, "example.com.", RecordType::A)).await?;
    assert_eq!(code(&answer), ResponseCode::ServFail);
    assert!(begin.elapsed() < crate::relay::DEADLINE, "no time-out");
    assert_eq!(one.handle.counters.udp.load(Ordering::Relaxed), 2);
    Ok(())
}

/// Passes on what it is asked, in lower case, and what it gets.
async fn forwarder(to: SocketAddr) -> Result<(SocketAddr, AbortOnDropHandle<()>)> {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
    let addr = socket.local_addr()?;
    let mut forwarding = JoinSet::new();
    let serves = async move {
        let mut query = vec![0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let mut query = query[..length].to_vec();
            query[12..].make_ascii_lowercase();
            let back = Arc::clone(&socket);
            forwarding.spawn(async move {
                let onwards = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
                onwards.send_to(&query, to).await.expect("sent");
                let mut answer = vec![0; 512];
                let length = onwards.recv(&mut answer).await.expect("received");
                let _ = back.send_to(&answer[..length], from).await;
            });
        }
    };
    Ok((addr, AbortOnDropHandle::new(tokio::spawn(serves))))
}

#[tokio::test]
async fn a_query_that_comes_back_in_other_letters_ends_soon() -> Result<()> {
    let bench = Bench::start(Directory::default(), &[]).await?;
    let (first, _first) = forwarder(bench.addr).await?;
    let (second, _second) = forwarder(first).await?;
    bench.set_resolvers(&[second])?;
    let begin = std::time::Instant::now();
    let answer = bench.udp(&packet(1, "example.com.", RecordType::A)).await?;
    assert_eq!(code(&answer), ResponseCode::ServFail);
    assert!(begin.elapsed() < crate::relay::DEADLINE, "no time-out");
    Ok(())
}

/// One of two resolvers forwards to this server, the other one takes its time.
#[tokio::test]
async fn a_resolver_that_does_not_loop_is_waited_for() -> Result<()> {
    let slow = UdpSocket::bind("127.0.0.1:0").await?;
    let bench = Bench::start(Directory::default(), &[]).await?;
    let (first, _first) = forwarder(bench.addr).await?;
    let (second, _second) = forwarder(first).await?;
    bench.set_resolvers(&[slow.local_addr()?, second])?;
    let question = packet(1, "example.com.", RecordType::A);
    let answers = async {
        let mut query = vec![0; 512];
        let (length, from) = slow.recv_from(&mut query).await?;
        let first = query[..length].to_vec();
        // It is asked for the name that may come back when the other one has been, too.
        loop {
            let (length, _) = slow.recv_from(&mut query).await?;
            let other = Message::from_vec(&query[..length])?;
            if other.queries[0].name().to_ascii().len() > "example.com.".len() {
                break;
            }
        }
        slow.send_to(&response(&first, ResponseCode::NXDomain), from)
            .await?;
        Ok(())
    };
    let (answer, answers) = tokio::join!(bench.udp(&question), answers);
    let answers: Result<()> = answers;
    answers?;
    assert_eq!(code(&answer?), ResponseCode::NXDomain);
    Ok(())
}

/// Two that ask for the same name of a resolver that is slow are not taken for a loop.
#[tokio::test]
async fn a_slow_resolver_is_no_loop() -> Result<()> {
    let silent = UdpSocket::bind("127.0.0.1:0").await?;
    let bench = Bench::start(Directory::default(), &[silent.local_addr()?]).await?;
    let question = packet(1, "example.com.", RecordType::A);
    let answers = async {
        let mut query = vec![0; 512];
        let (length, from) = silent.recv_from(&mut query).await?;
        let first = query[..length].to_vec();
        // The name that may come back.
        let (length, _) = silent.recv_from(&mut query).await?;
        let probe = Message::from_vec(&query[..length])?;
        let name = probe.queries[0].name().to_ascii().to_lowercase();
        assert!(name.ends_with(".example.com."), "{name}");
        assert_eq!(name.len(), "0123456789abcdef.example.com.".len());
        silent
            .send_to(&response(&first, ResponseCode::NXDomain), from)
            .await?;
        Ok(())
    };
    let (one, other, answers) = tokio::join!(bench.udp(&question), bench.udp(&question), answers);
    let answers: Result<()> = answers;
    answers?;
    for answer in [one?, other?] {
        assert_eq!(code(&answer), ResponseCode::NXDomain);
    }
    Ok(())
}

#[tokio::test]
async fn given_resolvers_and_stubs_take_the_place_of_the_hosts() -> Result<()> {
    let host = Resolver::coded(ResponseCode::Refused).await?;
    let given = Resolver::coded(ResponseCode::NoError).await?;
    let corp = Resolver::coded(ResponseCode::NXDomain).await?;
    let forwarding = Forwarding {
        upstreams: vec![given.addr],
        stubs: vec![
            Stub::new("corp.example", vec![gone().await?, corp.addr])?,
            // The zone is answered from the directory all the same.
            Stub::new("local", vec![corp.addr])?,
        ],
        ..Forwarding::default()
    };
    let bench = Bench::forwarding(forwarding, &[host.addr]).await?;
    for (name, expected, is_forwarded) in [
        ("example.com.", ResponseCode::NoError, true),
        ("db.CORP.example.", ResponseCode::NXDomain, true),
        ("other.local.", ResponseCode::NXDomain, true),
        ("no.shop.skydns.local.", ResponseCode::NXDomain, false),
    ] {
        let before = corp.asked() + given.asked();
        let answer = bench.udp(&packet(1, name, RecordType::A)).await?;
        assert_eq!(code(&answer), expected, "{name}");
        assert_eq!(
            corp.asked() + given.asked() > before,
            is_forwarded,
            "{name}"
        );
    }
    assert_eq!(host.asked(), 0);
    Ok(())
}

#[tokio::test]
async fn without_resolvers_an_answer_out_of_date_is_given() -> Result<()> {
    let resolver = generous().await?;
    let bench = Bench::start(Directory::default(), &[resolver.addr]).await?;
    let question = packet(1, "www.example.", RecordType::A);
    let ask = async || Ok::<_, anyhow::Error>(Message::from_vec(&bench.udp(&question).await?)?);
    assert_eq!(ask().await?.answers[0].ttl, 300);
    drop(resolver);
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(1000)).await;
    // The threads of the server are none of the runtime's, which would go on while they answer.
    tokio::time::resume();
    let counters = &bench.handle.counters;
    for _ in 0..2 {
        assert_eq!(ask().await?.answers[0].ttl, 30);
        // The second one asks nobody.
        assert_eq!(counters.upstream_failures.load(Ordering::Relaxed), 1);
    }
    assert_eq!(counters.cache_stale.load(Ordering::Relaxed), 2);
    let other = bench.udp(&packet(1, "example.", RecordType::A)).await?;
    assert_eq!(code(&other), ResponseCode::ServFail);
    Ok(())
}

#[tokio::test]
async fn a_change_of_the_hosts_resolvers_is_followed_and_makes_it_forget() -> Result<()> {
    let (old, new) = (
        generous().await?,
        Resolver::coded(ResponseCode::NXDomain).await?,
    );
    let bench = Bench::start(Directory::default(), &[old.addr]).await?;
    let question = packet(1, "www.example.", RecordType::A);
    assert_eq!(code(&bench.udp(&question).await?), ResponseCode::NoError);
    bench.set_resolvers(&[new.addr])?;
    tokio::time::timeout(std::time::Duration::from_secs(30), async {
        while code(&bench.udp(&question).await?) != ResponseCode::NXDomain {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    })
    .await??;
    assert_eq!(old.asked(), 1, "it was kept until then");
    Ok(())
}

async fn gone() -> Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0").await?.local_addr()?)
}
