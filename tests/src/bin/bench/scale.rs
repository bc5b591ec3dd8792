//! A thousand slots over a hundred hosts: agents in this process, on a real etcd.
//!
//! The floor is what etcd and its watches take for the same keys: written by
//! one client in transactions of a hundred, seen by a watch per host.

use std::fmt;
use std::time::Instant;

use anyhow::Context;
use manifests::keys::Key;
use store::kv::{Event, KeyRange, Kv, Op, Txn, WatchReply};
use tokio::task::JoinSet;

use crate::agents::{Asked, CAP, Cluster, client, on_processor};
use crate::{median, verdict};

const HOSTS: u16 = 100;
const CONTAINERS: usize = 20;
const SLOTS: usize = 1_000;
const ROUNDS: usize = 3;
/// How often the floor it may take.
const MAY_TAKE: f64 = 3.0;
/// Of all claims, in percent.
const MAY_LOSE: f64 = 5.0;
/// Writes in the watched range for a slot that starts at once.
const WRITES: f64 = 2.0;
/// How etcd's work grows is measured with so many hosts, and these slots.
const GROWTH: [u16; 3] = [10, 100, 300];
const GROWTH_SLOTS: usize = 300;
const GROWTH_CONTAINERS: usize = 6;

pub(crate) struct Scale {
    took: Vec<f64>,
    floor: Vec<f64>,
    /// Of this process, for each agent.
    agent: Vec<f64>,
    etcd: Vec<f64>,
    plans: u64,
    asked: Asked,
    watched: f64,
}

/// How etcd's work grows with the hosts.
pub(crate) struct Growth(Vec<(u16, f64)>);

pub(crate) fn measure() -> anyhow::Result<Scale> {
    tokio::runtime::Runtime::new()?.block_on(run())
}

pub(crate) fn measure_growth() -> anyhow::Result<Growth> {
    let runtime = tokio::runtime::Runtime::new()?;
    let of = |hosts| Ok((hosts, runtime.block_on(growth(hosts))?));
    let growth: anyhow::Result<Vec<(u16, f64)>> = GROWTH.into_iter().map(of).collect();
    Ok(Growth(growth?))
}

async fn run() -> anyhow::Result<Scale> {
    let mut scale = Scale {
        took: Vec::new(),
        floor: Vec::new(),
        agent: Vec::new(),
        etcd: Vec::new(),
        plans: 0,
        asked: Asked::default(),
        watched: 0.0,
    };
    let cluster = Cluster::start(HOSTS).await?;
    let url = cluster.etcd.url();
    for round in 0..=ROUNDS {
        let (before, plans) = (cluster.shared.asked(), cluster.plans());
        let start = start(&cluster, CONTAINERS, SLOTS).await?;
        let (asked, plans) = (cluster.shared.asked(), cluster.plans() - plans);
        let floor = Box::pin(floor(&url, HOSTS, &start.keys)).await?;
        cluster.clear(&start.containers).await?;
        // The first round warms up.
        if round == 0 {
            continue;
        }
        scale.took.push(start.took);
        scale.floor.push(floor);
        scale.agent.push(start.agents / f64::from(HOSTS));
        scale.etcd.push(start.etcd / SLOTS as f64);
        scale.plans += plans;
        scale.asked.add_difference(&before, &asked);
        scale.watched += start.keys.len() as f64;
    }
    Ok(scale)
}

/// What it took to start slots.
struct Start {
    containers: Vec<String>,
    took: f64,
    /// Seconds on a processor: this process, and etcd.
    agents: f64,
    etcd: f64,
    /// What was written about slots, in order.
    keys: Vec<(String, Vec<u8>)>,
}

async fn start(cluster: &Cluster, containers: usize, slots: usize) -> anyhow::Result<Start> {
    let names: Vec<String> = (0..containers).map(|n| format!("bench/c{n:02}")).collect();
    let (own, etcd) = (std::process::id(), cluster.etcd.pid());
    let position = cluster.shared.position();
    let before = (on_processor(own)?, on_processor(etcd)?);
    let begin = Instant::now();
    for name in &names {
        cluster.put(name, slots / containers).await?;
    }
    let end = cluster.ready(position, slots).await?;
    let after = (on_processor(own)?, on_processor(etcd)?);
    let about_slots = |event: Event| match (Key::parse(event.key()), event) {
        (Some(Key::Claim(_) | Key::State(_)), Event::Put { now, .. }) => Some((now.key, now.value)),
        _ => None,
    };
    Ok(Start {
        containers: names,
        took: (end - begin).as_secs_f64(),
        agents: after.0 - before.0,
        etcd: after.1 - before.1,
        keys: cluster
            .shared
            .events(position)
            .into_iter()
            .filter_map(about_slots)
            .collect(),
    })
}

/// The same keys elsewhere, in transactions of a hundred, until every watch has seen the last one.
async fn floor(url: &str, hosts: u16, keys: &[(String, Vec<u8>)]) -> anyhow::Result<f64> {
    let floor = KeyRange::prefix("/floor/");
    let writer = client(url)?;
    let mut watches = JoinSet::new();
    for _ in 0..hosts {
        let reader = client(url)?;
        let mut watch = reader.watch(floor.clone(), 0, false).await?;
        let keys = keys.len();
        watches.spawn(async move {
            let mut seen = 0;
            while seen < keys {
                match watch.replies.recv().await {
                    Some(WatchReply::Events(events, _)) => seen += events.len(),
                    Some(WatchReply::Progress(_)) => {}
                    other => anyhow::bail!("the watch ended: {other:?}"),
                }
            }
            drop(reader);
            Ok(Instant::now())
        });
    }
    let begin = Instant::now();
    for (number, part) in keys.chunks(100).enumerate() {
        let put = |(place, (key, value)): (usize, &(String, Vec<u8>))| {
            Op::put(format!("/floor/{number}-{place}{key}"), value.clone())
        };
        let ops = part.iter().enumerate().map(put).collect();
        writer.txn(Txn::new(vec![], ops)).await?;
    }
    let mut end = begin;
    while let Some(seen) = tokio::time::timeout(CAP, watches.join_next())
        .await
        .context("the floor's watches")?
    {
        end = end.max(seen??);
    }
    let sweep = Txn::new(vec![], vec![Op::Delete(floor)]);
    writer.txn(sweep).await?;
    Ok((end - begin).as_secs_f64())
}

/// Seconds of etcd's on a processor for a slot, with a watch for each host.
async fn growth(hosts: u16) -> anyhow::Result<f64> {
    let cluster = Cluster::start(hosts).await?;
    let mut watches = JoinSet::new();
    for _ in 0..hosts {
        let reader = client(&cluster.etcd.url())?;
        let mut watch = reader.watch(crate::agents::watched(), 0, false).await?;
        watches.spawn(async move {
            while watch.replies.recv().await.is_some() {}
            drop(reader);
        });
    }
    let start = start(&cluster, GROWTH_CONTAINERS, GROWTH_SLOTS).await?;
    Ok(start.etcd / GROWTH_SLOTS as f64)
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (took, floor) = (median(&self.took), median(&self.floor));
        let ratio = took / floor;
        let all = (SLOTS * self.took.len()) as f64;
        let lost = self.asked.claims_lost as f64 / self.asked.claims as f64 * 100.0;
        let watched = self.watched / all;
        write!(
            f,
            "{SLOTS} slots on {HOSTS} hosts (agents in one process, engines in memory), median of {}:\n  \
             PUT to all ready    {took:7.2} s\n  \
             the same keys alone {floor:7.2} s, seen by {HOSTS} watches\n  \
             ratio               {ratio:7.2}, at most {MAY_TAKE}: {}\n  \
             watched writes      {watched:7.2} a slot (claimed, ready), at most {WRITES}: {}\n  \
             requests to etcd    {:7.2} a slot\n  \
             claims lost         {lost:7.2} % of {}, at most {MAY_LOSE}: {}\n  \
             versions lost       {:7} of {}\n  \
             processor, an agent {:7.1} ms for all {SLOTS}, in {} plans\n  \
             processor, etcd     {:7.3} ms a slot",
            self.took.len(),
            verdict(ratio <= MAY_TAKE),
            verdict(watched <= WRITES),
            self.asked.requests as f64 / all,
            self.asked.claims,
            verdict(lost <= MAY_LOSE),
            self.asked.versions_lost,
            self.asked.versions,
            median(&self.agent) * 1e3,
            self.plans / u64::from(HOSTS) / self.took.len() as u64,
            median(&self.etcd) * 1e3,
        )
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "etcd's processor time with a watch a host, for each of {GROWTH_SLOTS} slots:"
        )?;
        for (hosts, spent) in &self.0 {
            write!(f, "\n  {hosts:3} hosts           {:7.3} ms", spent * 1e3)?;
        }
        if let (Some((few, little)), Some((many, much))) = (self.0.first(), self.0.last()) {
            let (grew, hosts) = (much / little, f64::from(*many) / f64::from(*few));
            write!(
                f,
                "\n  grew                {grew:7.1} times, at most as the hosts ({hosts:.0}): {}",
                verdict(grew <= hosts)
            )?;
        }
        Ok(())
    }
}
