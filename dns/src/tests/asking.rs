//! Questions about our zone, and the sockets.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Result, ensure};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use model::directory::Directory;
use model::skydns::Records;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::fixture::{Bench, begun, packet, wait, web};
use crate::message::{read_message, write_message};

#[tokio::test]
async fn dig_gets_addresses_and_ports() -> Result<()> {
    let bench = Bench::start(web(1), &[]).await?;
    for way in ["+notcp", "+tcp"] {
        let short = |name: &str| format!("{way} +short {name}");
        let text = bench.dig(&short("web.shop.skydns.local A")).await?;
        assert_eq!(text, "10.0.1.0\n");
        let text = bench.dig(&short("Web.Shop.SkyDNS.local SRV")).await?;
        assert_eq!(text, "10 100 20000 0.web.shop.skydns.local.\n");
        let text = bench.dig(&short("0.web.shop.skydns.local A")).await?;
        assert_eq!(text, "10.0.1.0\n");
    }
    let text = bench.dig("web.shop.skydns.local SRV").await?;
    for part in [
        "status: NOERROR",
        "flags: qr aa rd ra;",
        "ANSWER: 1",
        "ADDITIONAL: 2",
        "0.web.shop.skydns.local. 1\tIN\tA\t10.0.1.0",
    ] {
        ensure!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(bench.handle.counters.udp.load(Ordering::Relaxed), 4);
    assert_eq!(bench.handle.counters.tcp.load(Ordering::Relaxed), 3);
    assert_eq!(bench.handle.counters.answered.load(Ordering::Relaxed), 7);
    Ok(())
}

#[tokio::test]
async fn dig_tells_no_data_from_no_name() -> Result<()> {
    let bench = Bench::start(web(1), &[]).await?;
    for (question, status) in [
        ("web.shop.skydns.local AAAA", "NOERROR"),
        ("shop.skydns.local TXT", "NOERROR"),
        ("gone.shop.skydns.local A", "NXDOMAIN"),
        ("nobody.skydns.local A", "NXDOMAIN"),
    ] {
        let text = bench.dig(question).await?;
        ensure!(text.contains(&format!("status: {status}")), "{text}");
        ensure!(text.contains("ANSWER: 0, AUTHORITY: 1"), "{text}");
        let soa = "skydns.local.\t\t1\tIN\tSOA\tns.skydns.local. hostmaster.skydns.local. 1 ";
        ensure!(text.contains(soa), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn dig_retries_over_tcp_after_truncation() -> Result<()> {
    let bench = Bench::start(web(200), &[]).await?;
    let name = "web.shop.skydns.local A";
    let text = bench.dig(&format!("+ignore +noedns {name}")).await?;
    ensure!(text.contains("flags: qr aa tc rd ra;"), "{text}");
    let text = bench.dig(&format!("+short {name}")).await?;
    assert_eq!(text.lines().count(), 200);
    Ok(())
}

#[tokio::test]
async fn a_swapped_directory_holds_from_the_next_query_on() -> Result<()> {
    let bench = Bench::start(web(1), &[]).await?;
    let count = async || -> Result<usize> {
        let question = packet(7, "web.shop.skydns.local.", RecordType::A);
        Ok(Message::from_vec(&bench.udp(&question).await?)?
            .answers
            .len())
    };
    assert_eq!(count().await?, 1);
    bench.directory.store(Arc::new(web(3)));
    assert_eq!(count().await?, 3);
    bench.directory.store(Arc::new(Directory::default()));
    assert_eq!(count().await?, 0);
    Ok(())
}

/// A question that comes before there is a directory, as in the queue of a socket that was taken over.
#[tokio::test]
async fn a_question_waits_for_the_directory() -> Result<()> {
    let (folder, begin) = (tempfile::tempdir()?, CancellationToken::new());
    let listen = "127.0.0.1:0".parse()?;
    let mut bench = Bench::start_at(listen, Directory::default(), folder, begin.clone())?;
    bench.addr = wait(&mut bench.handle.addresses, |bound| !bound.is_empty()).await?[0];
    let question = packet(7, "web.shop.skydns.local.", RecordType::A);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(bench.addr).await?;
    socket.send(&question).await?;
    let tcp = bench.tcp(&question);
    let swap = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        bench.directory.store(Arc::new(web(2)));
        begin.cancel();
    };
    let (answer, ()) = tokio::join!(tcp, swap);
    assert_eq!(Message::from_vec(&answer?)?.answers.len(), 2);
    let mut answer = vec![0; 512];
    let length = socket.recv(&mut answer).await?;
    assert_eq!(Message::from_vec(&answer[..length])?.answers.len(), 2);
    Ok(())
}

/// What comes first for a client that asks for both types of addresses each time, as resolvers do.
async fn firsts(bench: &Bench, name: &str) -> Result<BTreeSet<String>> {
    let mut firsts = BTreeSet::new();
    for number in 0..64 {
        let answer = bench.udp(&packet(number, name, RecordType::A)).await?;
        let answer = Message::from_vec(&answer)?;
        firsts.insert(answer.answers[0].data.to_string());
        bench.udp(&packet(number, name, RecordType::AAAA)).await?;
    }
    Ok(firsts)
}

#[tokio::test]
async fn every_instance_comes_first_for_those_who_ask_in_a_rhythm() -> Result<()> {
    for count in [2, 3, 4, 6] {
        let bench = Bench::start(web(count), &[]).await?;
        let mut records = Records::default();
        for slot in 0..count {
            let key = format!("/skydns/local/skydns/alias/{slot}");
            let value = format!(r#"{{"host":"{slot}.web.shop.skydns.local"}}"#);
            records.put(&key, value.as_bytes())?;
        }
        bench.records.store(Arc::new(records));
        for name in ["web.shop.skydns.local.", "alias.skydns.local."] {
            let firsts = firsts(&bench, name).await?;
            assert_eq!(firsts.len(), usize::from(count), "{name}: {firsts:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn garbage_neither_stops_the_server_nor_its_clients() -> Result<()> {
    let bench = Bench::start(web(1), &[]).await?;
    let good = packet(7, "web.shop.skydns.local.", RecordType::A);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    for length in [0, 1, 11, 12, 20, 4000] {
        socket.send_to(&vec![0xff; length], bench.addr).await?;
        socket
            .send_to(&good[..length.min(good.len())], bench.addr)
            .await?;
    }
    // A length that nothing follows, then one client that asks twice on one connection.
    let mut silent = TcpStream::connect(bench.addr).await?;
    silent.write_all(&[0x0f, 0xff, 0]).await?;
    let mut stream = TcpStream::connect(bench.addr).await?;
    for number in [1, 2] {
        // What is no question at all is passed over.
        write_message(&mut stream, &[1, 2, 3]).await?;
        let question = packet(number, "web.shop.skydns.local.", RecordType::A);
        write_message(&mut stream, &question).await?;
        let answer = Message::from_vec(&read_message(&mut stream, usize::MAX).await?)?;
        assert_eq!((answer.metadata.id, answer.answers.len()), (number, 1));
    }
    // The silent one is closed in the end.
    assert_eq!(silent.read(&mut [0]).await?, 0);
    let answer = Message::from_vec(&bench.udp(&good).await?)?;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    Ok(())
}

#[tokio::test]
async fn a_taken_port_is_a_problem_that_goes_away() -> Result<()> {
    let taken = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    let addr = taken.local_addr()?;
    let mut bench = Bench::start_at(addr, web(1), tempfile::tempdir()?, begun())?;
    let problems = &mut bench.handle.problems;
    let shown = wait(problems, |problems| !problems.is_empty()).await?;
    assert_eq!(shown.len(), 1);
    let text = shown[0].to_string();
    let expected = format!("{addr}/udp is taken by ");
    ensure!(text.starts_with(&expected), "{text}");
    ensure!(bench.handle.addresses.borrow().is_empty());
    drop(taken);
    wait(problems, Vec::is_empty).await?;
    assert_eq!(*bench.handle.addresses.borrow(), [addr]);
    let text = bench.dig("+short web.shop.skydns.local A").await?;
    assert_eq!(text, "10.0.1.0\n");
    Ok(())
}

#[tokio::test]
async fn the_port_is_free_after_shutdown() -> Result<()> {
    let directory = Directory::default();
    let listen = "127.0.0.1:0".parse()?;
    let config = crate::Config {
        listen: vec![listen],
        zone: crate::Zone::new("skydns.local", [])?,
        binder: listen::Binder::default(),
        records: Arc::default(),
        begin: begun(),
        forwarding: crate::Forwarding::default(),
        bridges: Vec::new(),
        allowed: Vec::new(),
    };
    let shutdown = CancellationToken::new();
    let directory = Arc::new(arc_swap::ArcSwap::from_pointee(directory));
    let mut handle = crate::Dns::start(config, directory, shutdown.clone());
    let addr = wait(&mut handle.addresses, |bound| !bound.is_empty()).await?[0];
    let _open = TcpStream::connect(addr).await?;
    shutdown.cancel();
    handle.stopped().await;
    std::net::UdpSocket::bind(addr)?;
    ensure!(std::net::TcpStream::connect(addr).is_err());
    Ok(())
}
