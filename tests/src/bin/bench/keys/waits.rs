//! Thousands of waits at once: what they cost, and who is woken.

use std::time::Instant;

use anyhow::Context;
use dokkaa_tests::etcd::Etcd;
use dokkaa_tests::http::{Target, request};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connection::{Connection, whole};
use super::server::Server;
use crate::agents::CAP;
use crate::idle::resident_mb;

pub(super) const WAITS: usize = 5_000;
/// So many PUTs, each of the key of one wait.
pub(super) const WOKEN: usize = 200;
/// From one woken wait to the next: all are different.
const STRIDE: usize = 37;

pub(super) struct Waits {
    /// Watches of etcd v3 for all of them.
    pub(super) watches: f64,
    /// Resident, of one.
    pub(super) kilobytes: f64,
    /// PUTs after which the wait for their key was the next that was told.
    pub(super) right: usize,
    /// Waits that were told besides.
    pub(super) others: usize,
    /// From the PUT until the wait was told, in milliseconds.
    pub(super) took: Vec<f64>,
}

pub(super) async fn measure(server: Server, etcd: &Etcd) -> anyhow::Result<Waits> {
    let watches_before = watches(etcd)?;
    let mut writer = Connection::open(server.address).await?;
    // What the first wait makes for all of them is not of each.
    let mut first = Connection::open(server.address).await?;
    let told = first.wait("/bench/first").await?;
    writer.put("/bench/first", "1").await?;
    whole(told).await?;
    let resident_before = resident_mb(server.pid)?;

    let (tell, mut told) = mpsc::unbounded_channel();
    let mut waits = JoinSet::new();
    for number in 0..WAITS {
        let mut connection = Connection::open(server.address).await?;
        let event = connection.wait(&key(number)).await?;
        let tell = tell.clone();
        waits.spawn(async move {
            let event = whole(event).await;
            tell.send((number, event, Instant::now())).ok();
            drop(connection);
        });
    }
    let resident = resident_mb(server.pid)? - resident_before;
    let watches = watches(etcd)? - watches_before;

    let (mut took, mut right) = (Vec::new(), 0);
    for n in 0..WOKEN {
        let number = n * STRIDE % WAITS;
        let begin = Instant::now();
        writer.put(&key(number), "1").await?;
        let next = tokio::time::timeout(CAP, told.recv()).await;
        let (woken, event, at) = next.context("no wait was told")?.context("no waits")?;
        took.push((at - begin).as_secs_f64() * 1e3);
        let of_key = format!(r#""key":"{}""#, key(number));
        right += usize::from(woken == number && event?.contains(&of_key));
    }
    Ok(Waits {
        watches,
        kilobytes: resident * 1024.0 / WAITS as f64,
        right,
        others: told.len(),
        took,
    })
}

fn key(number: usize) -> String {
    format!("/bench/waits/w{number:04}")
}

/// Watches of v3 that an etcd has.
fn watches(etcd: &Etcd) -> anyhow::Result<f64> {
    let metrics = request(
        &Target::Machine(etcd.address()),
        "GET",
        "/metrics",
        &[],
        b"",
    )?
    .ok()?;
    let watchers = metrics
        .body
        .lines()
        .find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total "));
    Ok(watchers.context("etcd counts no watches")?.trim().parse()?)
}
