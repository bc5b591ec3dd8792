//! What happens to the bytes, and to the ends of connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use manifests::manifest::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::fixture::{Bench, Cluster, Server, caller, handed_over, pattern, until};
use model::directory::Callers;

fn linked(server: &Server) -> Bench {
    let mut cluster = Cluster::default();
    cluster.ready("shop/web/0", "web", &server.addr.to_string());
    Bench::start(
        &cluster,
        Callers::from([caller("127.0.0.5", "shop/a/0", &["shop/web"])]),
    )
}

#[tokio::test]
async fn half_close_is_passed_on_in_both_directions() -> Result<()> {
    let (server, mut streams) = handed_over().await;
    let bench = linked(&server);
    for client_first in [true, false] {
        let client = bench.call("127.0.0.5", 0).await?;
        let server = streams.recv().await.expect("connected");
        let (mut first, mut second) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        first.write_all(b"question").await?;
        first.shutdown().await?;
        let mut text = String::new();
        second.read_to_string(&mut text).await?;
        assert_eq!(text, "question");
        second.write_all(b"answer").await?;
        second.shutdown().await?;
        text.clear();
        first.read_to_string(&mut text).await?;
        assert_eq!(text, "answer");
    }
    let counters = &bench.handle.counters;
    until("closed", || counters.open.load(Ordering::Relaxed) == 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_transfer_arrives_whole_both_ways_at_once() -> Result<()> {
    let server = Server::echo().await;
    let bench = linked(&server);
    let sent = pattern(64 * 1024 * 1024 + 7);
    let (mut read, mut write) = bench.call("127.0.0.5", 0).await?.into_split();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await?;
        write.shutdown().await
    });
    let mut got = Vec::with_capacity(expected.len());
    read.read_to_end(&mut got).await?;
    writer.await??;
    ensure!(got == expected, "{} of {} bytes", got.len(), expected.len());
    Ok(())
}

#[tokio::test]
async fn a_slow_reader_slows_the_writer() -> Result<()> {
    let go = Arc::new(Notify::new());
    let gate = Arc::clone(&go);
    let length = 64 * 1024 * 1024;
    let server = Server::start(move |mut stream| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await?;
            let answer: &[u8] = if got == pattern(length) {
                b"whole"
            } else {
                b"not"
            };
            stream.write_all(answer).await
        }
    })
    .await;
    let bench = linked(&server);
    let mut client = bench.call("127.0.0.5", 0).await?;
    let sent = pattern(length);
    // What the kernels' buffers take on the way, and no more: nothing is piled up here.
    let mut taken = 0;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_secs(1), client.write(&sent[taken..])).await
    {
        taken += written?;
    }
    ensure!(taken < length, "{taken} bytes went somewhere");
    go.notify_one();
    client.write_all(&sent[taken..]).await?;
    client.shutdown().await?;
    let mut text = String::new();
    client.read_to_string(&mut text).await?;
    assert_eq!(text, "whole");
    Ok(())
}

#[tokio::test]
async fn a_reset_is_passed_on_in_both_directions() -> Result<()> {
    let (server, mut streams) = handed_over().await;
    let bench = linked(&server);
    for client_resets in [true, false] {
        for half_closed in [false, true] {
            let client = bench.call("127.0.0.5", 0).await?;
            let server = streams.recv().await.expect("connected");
            let (mut resets, mut other) = if client_resets {
                (client, server)
            } else {
                (server, client)
            };
            resets.write_all(b"x").await?;
            if half_closed {
                resets.shutdown().await?;
            }
            let mut byte = [0];
            other.read_exact(&mut byte).await?;
            if half_closed {
                assert_eq!(other.read(&mut byte).await?, 0);
            }
            resets.set_zero_linger()?;
            drop(resets);
            if half_closed {
                // Nothing more is read here: that the other has gone shows in what is written.
                let mut error = None;
                while error.is_none() {
                    error = other.write_all(b"y").await.err();
                    tokio::task::yield_now().await;
                }
            } else {
                let error = other.read(&mut byte).await.expect_err("reset");
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
        }
    }
    let counters = &bench.handle.counters;
    until("closed", || counters.open.load(Ordering::Relaxed) == 0).await?;
    assert_eq!(counters.ok.load(Ordering::Relaxed), 4);
    Ok(())
}

#[tokio::test]
async fn a_reset_is_noticed_after_the_end_of_data_and_without_traffic() -> Result<()> {
    let (server, mut streams) = handed_over().await;
    let bench = linked(&server);
    let mut client = bench.call("127.0.0.5", 0).await?;
    let mut server = streams.recv().await.expect("connected");
    client.shutdown().await?;
    assert_eq!(server.read(&mut [0]).await?, 0);
    client.set_zero_linger()?;
    drop(client);
    let counters = &bench.handle.counters;
    until("closed", || counters.open.load(Ordering::Relaxed) == 0).await?;
    until("reset", || {
        matches!(server.take_error(), Ok(Some(_)) | Err(_))
    })
    .await
}

#[tokio::test]
async fn connections_are_reset_when_the_agent_stops() -> Result<()> {
    let (server, mut streams) = handed_over().await;
    let bench = linked(&server);
    let mut client = bench.call("127.0.0.5", 0).await?;
    let mut server = streams.recv().await.expect("connected");
    bench.shutdown.cancel();
    for stream in [&mut client, &mut server] {
        let error = stream.read(&mut [0]).await.expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    Ok(())
}

#[tokio::test]
async fn a_thousand_connections_leak_nothing() -> Result<()> {
    let server = Server::saying("web").await;
    let bench = linked(&server);
    for _ in 0..1000 {
        assert_eq!(bench.hear("127.0.0.5", 0).await?, "web");
    }
    let handle = &bench.handle;
    until("closed", || {
        handle.counters.open.load(Ordering::Relaxed) == 0
    })
    .await?;
    assert_eq!(handle.counters.ok.load(Ordering::Relaxed), 1000);
    assert_eq!(handle.loads.open(server.addr), 0);
    // Other tests of this process have sockets of their own: only ours are counted.
    let listen = *handle.addresses.borrow().values().next().expect("bound");
    until("no socket is left", || {
        own_sockets(&[listen.port(), server.addr.port()]) <= 2
    })
    .await
}

/// Open sockets of this process, in this network namespace, with one of these ports as their own or their peer's.
fn own_sockets(ports: &[u16]) -> usize {
    let open = listen::sockets::open_inodes("self");
    listen::sockets::read("self", Protocol::Tcp, false)
        .expect("table")
        .into_iter()
        .filter(|socket| open.contains(&socket.inode))
        .filter(|socket| {
            [socket.local, socket.peer]
                .iter()
                .any(|at| ports.contains(&at.port()))
        })
        .count()
}
