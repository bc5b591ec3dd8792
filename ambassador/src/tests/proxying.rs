//! Who reaches what, who is refused, and what is said of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::fixture::{Bench, Cluster, Server, caller, nobody, service, slot, until, wait};
use model::directory::Callers;

use crate::Config;

fn is_reset(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn one_port_leads_each_caller_to_its_own_service() -> Result<()> {
    let (web, db) = (Server::saying("web").await, Server::saying("db").await);
    let mut cluster = Cluster::default();
    cluster.ready("shop/web/0", "web", &web.addr.to_string());
    cluster.ready("shop/db/0", "db", &db.addr.to_string());
    let bench = Bench::start(
        &cluster,
        Callers::from([
            caller("127.0.0.5", "shop/a/0", &["shop/web"]),
            caller("127.0.0.6", "shop/b/0", &["shop/db", "shop/web"]),
        ]),
    );
    assert_eq!(bench.hear("127.0.0.5", 0).await?, "web");
    assert_eq!(bench.hear("127.0.0.6", 0).await?, "db");
    assert_eq!(bench.hear("127.0.0.6", 1).await?, "web");
    assert_eq!(bench.handle.counters.ok.load(Ordering::Relaxed), 3);
    assert_eq!(bench.handle.addresses.borrow().len(), 2);
    Ok(())
}

#[tokio::test]
async fn the_target_is_resolved_per_connection() -> Result<()> {
    let (old, new) = (Server::saying("old").await, Server::saying("new").await);
    let mut before = Cluster::default();
    before.ready("shop/web/0", "web", &old.addr.to_string());
    let mut after = Cluster::default();
    after.ready("shop/web/0", "web", &new.addr.to_string());
    let bench = Bench::start(
        &before,
        Callers::from([caller("127.0.0.5", "shop/a/0", &["shop/web"])]),
    );
    assert_eq!(bench.hear("127.0.0.5", 0).await?, "old");
    bench.directory.store(Arc::new(after.directory()));
    assert_eq!(bench.hear("127.0.0.5", 0).await?, "new");
    Ok(())
}

#[tokio::test]
async fn connections_are_balanced_round_robin_and_by_load() -> Result<()> {
    let (a, b) = (Server::echo().await, Server::echo().await);
    let mut cluster = Cluster::default();
    cluster.ready("shop/web/0", "web", &a.addr.to_string());
    cluster.ready("shop/web/1", "web", &b.addr.to_string());
    let bench = Bench::start(
        &cluster,
        Callers::from([caller("127.0.0.5", "shop/a/0", &["shop/web"])]),
    );
    let ok = |n| {
        let counters = Arc::clone(&bench.handle.counters);
        move || counters.ok.load(Ordering::Relaxed) == n
    };
    let mut open = Vec::new();
    for n in 1..=6 {
        open.push(bench.call("127.0.0.5", 0).await?);
        until("connected", ok(n)).await?;
    }
    let loads = &bench.handle.loads;
    assert_eq!((loads.open(a.addr), loads.open(b.addr)), (3, 3));
    drop(open);
    until("all closed", || {
        loads.open(a.addr) + loads.open(b.addr) == 0
    })
    .await?;
    assert_eq!(bench.handle.counters.open.load(Ordering::Relaxed), 0);
    Ok(())
}

#[tokio::test]
async fn connections_of_one_caller_are_limited() -> Result<()> {
    let echo = Server::echo().await;
    let mut cluster = Cluster::default();
    cluster.ready("shop/web/0", "web", &echo.addr.to_string());
    let mut config = Config::new([127, 0, 0, 1].into());
    config.ports = crate::Ports::Ephemeral;
    config.limits = listen::Limits {
        all: 4,
        per_source: 2,
    };
    let callers = [
        caller("127.0.0.5", "shop/a/0", &["shop/web", "shop/web"]),
        caller("127.0.0.6", "shop/b/0", &["shop/web"]),
    ];
    let bench = Bench::start_with(config, &cluster, Callers::from(callers));
    let open = Arc::clone(&bench.handle.counters);
    let one = bench.call("127.0.0.5", 0).await?;
    let _two = bench.call("127.0.0.5", 1).await?;
    until("both are open", || open.open.load(Ordering::Relaxed) == 2).await?;
    let mut third = bench.call("127.0.0.5", 0).await?;
    assert!(is_reset(&third.read_u8().await.expect_err("reset").into()));
    let mut other = bench.call("127.0.0.6", 0).await?;
    other.write_u8(7).await?;
    assert_eq!(other.read_u8().await?, 7);
    drop(one);
    until("one has ended", || open.open.load(Ordering::Relaxed) == 2).await?;
    let mut fourth = bench.call("127.0.0.5", 1).await?;
    fourth.write_u8(8).await?;
    assert_eq!(fourth.read_u8().await?, 8);
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_skipped() -> Result<()> {
    let up = Server::saying("up").await;
    let mut cluster = Cluster::default();
    cluster.ready("shop/web/0", "web", &nobody().await.to_string());
    cluster.ready("shop/web/1", "web", &up.addr.to_string());
    let bench = Bench::start(
        &cluster,
        Callers::from([caller("127.0.0.5", "shop/a/0", &["shop/web"])]),
    );
    for _ in 0..4 {
        assert_eq!(bench.hear("127.0.0.5", 0).await?, "up");
    }
    assert_eq!(bench.handle.counters.ok.load(Ordering::Relaxed), 4);
    assert_eq!(bench.handle.counters.failed.load(Ordering::Relaxed), 0);
    Ok(())
}

/// A listener that answers nobody: its queue is full, and the kernel drops what comes.
async fn silent(at: &str) -> Result<(TcpListener, Vec<TcpStream>)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(at.parse()?, 0))?;
    let listener = socket.listen(1)?;
    let addr = listener.local_addr()?;
    let mut waiting = Vec::new();
    let short = Duration::from_millis(300);
    while let Ok(stream) = tokio::time::timeout(short, TcpStream::connect(addr)).await {
        waiting.push(stream?);
    }
    Ok((listener, waiting))
}

#[tokio::test]
async fn an_endpoint_that_times_out_is_skipped() -> Result<()> {
    let (silent, _waiting) = silent("127.0.0.1").await?;
    let silent = silent.local_addr()?;
    let up = Server::saying("up").await;
    let mut config = Config::new([127, 0, 0, 1].into());
    config.ports = crate::Ports::Ephemeral;
    config.connect_timeout = Duration::from_millis(200);
    let mut cluster = Cluster::default();
    cluster.ready("shop/web/0", "web", &silent.to_string());
    cluster.ready("shop/web/1", "web", &up.addr.to_string());
    cluster.ready("shop/db/0", "db", &silent.to_string());
    let links = caller("127.0.0.5", "shop/a/0", &["shop/web", "shop/db"]);
    let bench = Bench::start_with(config, &cluster, Callers::from([links]));
    for _ in 0..3 {
        assert_eq!(bench.hear("127.0.0.5", 0).await?, "up");
    }
    let error = bench.hear("127.0.0.5", 1).await.expect_err("no answer");
    assert!(is_reset(&error), "{error:#}");
    let last = || {
        let failure = bench
            .handle
            .failures
            .last(&slot("shop/a/0"), &service("shop/db"));
        failure.map(|failure| failure.reason)
    };
    until("noted", || last().is_some()).await?;
    let expected = format!("{silent}: timed out after 200ms");
    assert_eq!(last(), Some(expected));
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_unreachable_hides_no_other() -> Result<()> {
    let up = Server::saying("up").await;
    let mut config = Config::new([127, 0, 0, 1].into());
    config.ports = crate::Ports::Ephemeral;
    config.connect_timeout = Duration::from_millis(200);
    let mut cluster = Cluster::default();
    let mut lost = Vec::new();
    for n in 0..4 {
        let one = silent("127.0.0.2").await?;
        let addr = one.0.local_addr()?;
        cluster.ready(&format!("shop/web/{n}"), "web", &addr.to_string());
        lost.push(one);
    }
    cluster.ready("shop/web/4", "web", &up.addr.to_string());
    let links = caller("127.0.0.5", "shop/a/0", &["shop/web"]);
    let bench = Bench::start_with(config, &cluster, Callers::from([links]));
    for _ in 0..3 {
        assert_eq!(bench.hear("127.0.0.5", 0).await?, "up");
    }
    // Each of the three has tried one of them at most.
    let failing = bench.handle.failed_connects.failures([127, 0, 0, 2].into());
    assert!(failing <= 3, "{failing} attempts");
    Ok(())
}

#[tokio::test]
async fn all_endpoints_down_is_a_failure_with_its_reason() -> Result<()> {
    let (one, two) = (nobody().await, nobody().await);
    let mut cluster = Cluster::default();
    cluster.ready("shop/web/0", "web", &one.to_string());
    cluster.ready("shop/web/1", "web", &two.to_string());
    let bench = Bench::start(
        &cluster,
        Callers::from([caller("127.0.0.5", "shop/a/0", &["shop/web"])]),
    );
    let error = bench.hear("127.0.0.5", 0).await.expect_err("nobody there");
    assert!(is_reset(&error), "{error:#}");
    let (slot, service) = (slot("shop/a/0"), service("shop/web"));
    let failures = &bench.handle.failures;
    until("noted", || failures.last(&slot, &service).is_some()).await?;
    let reason = failures.last(&slot, &service).context("noted")?.reason;
    assert!(reason.contains(&format!("{one}: ")), "{reason}");
    assert!(reason.contains(&format!("{two}: ")), "{reason}");
    assert_eq!(bench.handle.counters.failed.load(Ordering::Relaxed), 1);
    assert_eq!(bench.handle.loads.open(one), 0);
    Ok(())
}

#[tokio::test]
async fn a_service_without_ready_endpoints_is_refused_with_its_reason() -> Result<()> {
    let mut cluster = Cluster::default();
    cluster.state("shop/web/0", "web", "127.0.0.1:9", "unready");
    let bench = Bench::start(
        &cluster,
        Callers::from([caller("127.0.0.5", "shop/a/0", &["shop/web", "shop/gone"])]),
    );
    for link in [0, 1] {
        let error = bench.hear("127.0.0.5", link).await.expect_err("refused");
        assert!(is_reset(&error), "{error:#}");
    }
    let last = |name| {
        let failure = bench
            .handle
            .failures
            .last(&slot("shop/a/0"), &service(name));
        failure.map(|failure| failure.reason)
    };
    until("noted", || last("shop/gone").is_some()).await?;
    assert_eq!(
        last("shop/web").as_deref(),
        Some("its only instance is not ready")
    );
    assert_eq!(
        last("shop/gone").as_deref(),
        Some("the service has no instances")
    );
    assert_eq!(bench.handle.counters.refused.load(Ordering::Relaxed), 2);

    bench.tables.set_callers(Callers::new());
    until("forgotten", || last("shop/web").is_none()).await
}

#[tokio::test]
async fn the_first_connection_of_what_is_about_to_be_started_waits_for_it() -> Result<()> {
    let web = Server::saying("web").await;
    let mut cluster = Cluster::default();
    cluster.ready("shop/web/0", "web", &web.addr.to_string());
    let mut config = Config::new([127, 0, 0, 1].into());
    config.ports = crate::Ports::Ephemeral;
    config.hold = Duration::from_secs(30);
    let mut bench = Bench::start_with(config, &cluster, Callers::new());
    bench
        .tables
        .set_awaited([manifests::env::FIRST_LINK_PORT].into());
    let mut stream = bench.call("127.0.0.5", 0).await?;
    bench.refresh.recv().await.context("asked")?;
    let first = caller("127.0.0.5", "shop/a/0", &["shop/web"]);
    bench.tables.set_callers(Callers::from([first]));
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    assert_eq!(text, "web");
    Ok(())
}

#[tokio::test]
async fn an_unknown_caller_is_admitted_when_the_engine_knows_it() -> Result<()> {
    let web = Server::saying("web").await;
    let mut cluster = Cluster::default();
    cluster.ready("shop/web/0", "web", &web.addr.to_string());
    let known = caller("127.0.0.5", "shop/a/0", &["shop/web"]);
    let late = caller("127.0.0.6", "shop/b/0", &["shop/web"]);
    // Longer than any delay of the test machine: what is tested is that the answer ends the wait.
    let mut config = Config::new([127, 0, 0, 1].into());
    config.ports = crate::Ports::Ephemeral;
    config.hold = Duration::from_secs(30);
    let mut bench = Bench::start_with(config, &cluster, Callers::from([known.clone()]));
    let mut stream = bench.call("127.0.0.6", 0).await?;
    bench.refresh.recv().await.context("asked")?;
    // A swap that does not help is no answer.
    bench.tables.set_callers(Callers::from([known.clone()]));
    bench.tables.set_callers(Callers::from([known, late]));
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    assert_eq!(text, "web");
    Ok(())
}

#[tokio::test]
async fn an_unknown_caller_is_refused_when_the_engine_does_not_know_it() -> Result<()> {
    let mut bench = Bench::start(
        &Cluster::default(),
        Callers::from([caller("127.0.0.5", "shop/a/0", &["shop/web"])]),
    );
    let error = bench.hear("127.0.0.7", 0).await.expect_err("refused");
    assert!(is_reset(&error), "{error:#}");
    assert_eq!(bench.refresh.recv().await, Some(()), "the engine was asked");
    until("counted", || {
        bench.handle.counters.refused.load(Ordering::Relaxed) == 1
    })
    .await
}

#[tokio::test]
async fn a_taken_port_is_a_problem_that_goes_away() -> Result<()> {
    let web = Server::saying("web").await;
    let mut cluster = Cluster::default();
    cluster.ready("shop/web/0", "web", &web.addr.to_string());
    let taken = TcpListener::bind("127.0.0.1:0").await?;
    let addr = taken.local_addr()?;
    let (ip, mut the_caller) = caller("127.0.0.5", "shop/a/0", &["shop/web"]);
    the_caller.links[0].0 = addr.port();
    let bench = Bench::start_with(
        Config::new(addr.ip()),
        &cluster,
        Callers::from([(ip, the_caller)]),
    );
    let mut problems = bench.handle.problems.clone();
    let shown = wait(&mut problems, |problems| !problems.is_empty()).await?;
    assert_eq!(shown.len(), 1);
    assert!(
        shown[0]
            .to_string()
            .starts_with(&format!("{addr}/tcp is taken by ")),
        "{}",
        shown[0]
    );
    drop(taken);
    wait(&mut problems, Vec::is_empty).await?;
    assert_eq!(bench.handle.addresses.borrow()[&addr.port()], addr);
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(ip, 0))?;
    let mut text = String::new();
    let mut stream = socket.connect(addr).await?;
    stream.read_to_string(&mut text).await?;
    assert_eq!(text, "web");
    Ok(())
}

#[tokio::test]
async fn listeners_start_with_links_and_stop_with_the_agent() -> Result<()> {
    let bench = Bench::start(&Cluster::default(), Callers::new());
    let mut addresses = bench.handle.addresses.clone();
    assert!(addresses.borrow().is_empty());
    let many: Vec<String> = (0..300).map(|n| format!("shop/s{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    bench
        .tables
        .set_callers(Callers::from([caller("127.0.0.5", "shop/a/0", &many[..3])]));
    let bound = wait(&mut addresses, |bound| bound.len() == 3).await?;
    assert!(bound.keys().copied().eq(10_000..10_003));
    bench
        .tables
        .set_callers(Callers::from([caller("127.0.0.5", "shop/a/0", &many)]));
    let bound = wait(&mut addresses, |bound| bound.len() >= 256).await?;
    assert_eq!(bound.len(), 256, "no more than a container may have links");
    let addr = bound[&10_000];
    bench.shutdown.cancel();
    until("closed", || std::net::TcpStream::connect(addr).is_err()).await
}
