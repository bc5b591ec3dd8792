//! What one ambassador hands over, another one carries on.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, ensure};
use listen::{Binder, Limits, Parcel};
use manifests::env::FIRST_LINK_PORT;
use manifests::manifest::Protocol;
use model::directory::Callers;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use super::fixture::{Bench, Cluster, Server, caller, handed_over, pattern, until, wait};
use crate::{Config, Connection};

const CALLER: &str = "127.0.0.5";

fn cluster(server: &Server) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.ready("shop/web/0", "web", &server.addr.to_string());
    cluster
}

fn callers() -> Callers {
    Callers::from([caller(CALLER, "shop/a/0", &["shop/web"])])
}

fn linked(server: &Server) -> Bench {
    Bench::start(&cluster(server), callers())
}

/// The way to another process: descriptors and bytes, nothing else.
fn pass_on(connections: Vec<Connection>) -> Vec<Connection> {
    let items = connections.into_iter().map(Connection::into_parts);
    let parcel = Parcel::pack(items.collect()).expect("packed");
    listen::unpack(parcel.ends.into())
        .into_iter()
        .map(|(text, fds)| Connection::from_parts(&text, fds).expect("readable"))
        .collect()
}

/// Another ambassador, with the connections of the one before.
async fn succeed(before: Bench, server: &Server) -> Bench {
    let connections = before.handle.hand_over().await;
    drop(before);
    let after = linked(server);
    after.handle.resume(pass_on(connections));
    after
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_both_ways_survives_many_handovers() -> Result<()> {
    let server = Server::echo().await;
    let mut bench = linked(&server);
    let sent = pattern(48 * 1024 * 1024 + 7);
    let (mut read, mut write) = bench.call(CALLER, 0).await?.into_split();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await?;
        write.shutdown().await
    });
    let mut got = vec![0; expected.len()];
    let parts = got.chunks_mut(expected.len() / 12 + 1);
    for part in parts {
        read.read_exact(part).await?;
        bench = succeed(bench, &server).await;
    }
    writer.await??;
    ensure!(got == expected, "other bytes");
    assert_eq!(read.read(&mut [0]).await?, 0, "its end");
    let counters = &bench.handle.counters;
    until("closed", || counters.open.load(Ordering::Relaxed) == 0).await?;
    assert_eq!(bench.handle.loads.open(server.addr), 0);
    Ok(())
}

#[tokio::test]
async fn what_was_read_and_could_not_be_sent_goes_along() -> Result<()> {
    let go = CancellationToken::new();
    let gate = go.clone();
    let server = Server::start(move |mut stream| {
        let gate = gate.clone();
        async move {
            gate.cancelled().await;
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await?;
            stream.write_all(&got).await
        }
    })
    .await;
    let bench = linked(&server);
    let (mut read, mut write) = bench.call(CALLER, 0).await?.into_split();
    let sent = pattern(64 * 1024 * 1024);
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await?;
        write.shutdown().await
    });
    // Nobody reads: the kernels' buffers fill, and then the ambassador's.
    let mut before = bench;
    let after = loop {
        tokio::task::yield_now().await;
        let connections = before.handle.hand_over().await;
        drop(before);
        let is_full = connections.iter().any(|one| one.unsent() > 0);
        let next = linked(&server);
        next.handle.resume(pass_on(connections));
        if is_full {
            break next;
        }
        before = next;
    };
    go.cancel();
    let mut got = Vec::new();
    read.read_to_end(&mut got).await?;
    writer.await??;
    ensure!(got == expected, "{} of {} bytes", got.len(), expected.len());
    drop(after);
    Ok(())
}

#[tokio::test]
async fn a_half_closed_connection_stays_half_closed() -> Result<()> {
    let (server, mut streams) = handed_over().await;
    let mut bench = linked(&server);
    for client_first in [true, false] {
        let client = bench.call(CALLER, 0).await?;
        let served = streams.recv().await.context("connected")?;
        let (mut first, mut second) = if client_first {
            (client, served)
        } else {
            (served, client)
        };
        first.write_all(b"question").await?;
        first.shutdown().await?;
        let mut text = String::new();
        second.read_to_string(&mut text).await?;
        assert_eq!(text, "question");
        bench = succeed(bench, &server).await;
        second.write_all(b"answer").await?;
        bench = succeed(bench, &server).await;
        second.shutdown().await?;
        text.clear();
        first.read_to_string(&mut text).await?;
        assert_eq!(text, "answer");
    }
    let counters = &bench.handle.counters;
    until("closed", || counters.open.load(Ordering::Relaxed) == 0).await
}

/// A side that closes, or is reset, while no ambassador is there.
#[tokio::test]
async fn an_end_meanwhile_is_passed_on() -> Result<()> {
    let (server, mut streams) = handed_over().await;
    for (client_ends, by_reset) in [(true, false), (false, false), (true, true), (false, true)] {
        let bench = linked(&server);
        let client = bench.call(CALLER, 0).await?;
        let served = streams.recv().await.context("connected")?;
        let (ends, mut other) = if client_ends {
            (client, served)
        } else {
            (served, client)
        };
        let connections = bench.handle.hand_over().await;
        if by_reset {
            ends.set_zero_linger()?;
        }
        drop(ends);
        let next = linked(&server);
        next.handle.resume(pass_on(connections));
        let read = other.read(&mut [0]).await;
        if by_reset {
            let error = read.expect_err("reset");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        } else {
            assert_eq!(read?, 0);
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_nobody_resumes_is_reset() -> Result<()> {
    let (server, mut streams) = handed_over().await;
    let bench = linked(&server);
    let mut client = bench.call(CALLER, 0).await?;
    let mut served = streams.recv().await.context("connected")?;
    drop(pass_on(bench.handle.hand_over().await));
    for stream in [&mut client, &mut served] {
        let error = stream.read(&mut [0]).await.expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    Ok(())
}

#[tokio::test]
async fn resumed_connections_count_for_limits_and_loads() -> Result<()> {
    let (server, mut streams) = handed_over().await;
    let bench = linked(&server);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = bench.call(CALLER, 0).await?;
        clients.push((client, streams.recv().await.context("connected")?));
    }
    let connections = pass_on(bench.handle.hand_over().await);
    assert_eq!(connections.len(), 3);
    let mut config = Config::new([127, 0, 0, 1].into());
    config.ports = crate::Ports::Ephemeral;
    config.limits = Limits {
        all: 16,
        per_source: 2,
    };
    let next = Bench::start_with(config, &cluster(&server), callers());
    next.handle.resume(connections);
    let counters = &next.handle.counters;
    until("two", || counters.open.load(Ordering::Relaxed) == 2).await?;
    assert_eq!(next.handle.loads.open(server.addr), 2);
    assert_eq!(counters.ok.load(Ordering::Relaxed), 0, "counted before");
    let mut reset = 0;
    for (mut client, mut served) in clients {
        if client.write_all(b"x").await.is_ok() && served.read_u8().await.is_ok() {
            continue;
        }
        reset += 1;
    }
    assert_eq!(reset, 1);
    Ok(())
}

async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(CALLER.parse()?, 0))?;
    Ok(socket.connect(to).await?)
}

/// A connection of an unknown caller has no endpoint when the agent stops; the next agent knows it.
#[tokio::test]
async fn a_connection_without_an_endpoint_is_handed_over_too() -> Result<()> {
    let server = Server::saying("web").await;
    let stranger = Callers::from([caller("127.0.0.9", "shop/b/0", &["shop/web"])]);
    let mut bench = Bench::start(&cluster(&server), stranger);
    let mut client = bench.call(CALLER, 0).await?;
    bench.refresh.recv().await.context("the engine is asked")?;
    let connections = pass_on(bench.handle.hand_over().await);
    assert_eq!(connections.len(), 1);
    let next = Bench::start(&cluster(&server), Callers::new());
    next.handle.resume(connections);
    next.tables.set_callers(callers());
    let mut text = String::new();
    client.read_to_string(&mut text).await?;
    assert_eq!(text, "web");
    Ok(())
}

/// What connects while there is no agent, and before the next one has its tables, is served by it.
#[tokio::test]
async fn a_listener_is_taken_over_with_what_waits_in_its_queue() -> Result<()> {
    let server = Server::saying("web").await;
    let ip: IpAddr = "127.9.0.1".parse()?;
    let addr = SocketAddr::new(ip, FIRST_LINK_PORT);
    let stored = listen::tcp(addr)?;
    let start = |callers| {
        let copy = stored.try_clone().expect("a copy");
        let left = vec![(addr, Protocol::Tcp, copy.into())];
        let config = Config {
            binder: Binder::new(None, left),
            ..Config::new(ip)
        };
        Bench::start_with(config, &cluster(&server), callers)
    };
    let bench = start(callers());
    let bound = |bound: &std::collections::BTreeMap<_, _>| !bound.is_empty();
    wait(&mut bench.handle.addresses.clone(), bound).await?;
    let mut text = String::new();
    connect(addr).await?.read_to_string(&mut text).await?;
    bench.handle.hand_over().await;
    drop(bench);
    let mut waiting = Vec::new();
    for _ in 0..100 {
        waiting.push(connect(addr).await?);
    }
    let next = start(Callers::new());
    waiting.push(connect(addr).await?);
    assert!(next.handle.addresses.borrow().is_empty(), "no tables yet");
    next.tables.set_callers(callers());
    for mut client in waiting {
        client.read_to_string(&mut text).await?;
    }
    assert_eq!(text, "web".repeat(102));
    Ok(())
}
