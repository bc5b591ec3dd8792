//! From a write to etcd until every host answers with what it changed, beside etcd's own watch.
//!
//! Agents with DNS servers in this process, on a real etcd.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use dns::{Dns, Handle};
use manifests::keys::Key;
use manifests::{ContainerId, SlotId};
use model::records::{Claim, Phase, SlotState};
use model::{Directory, VersionId};
use store::kv::{KeyRange, Kv, Op, Txn, WatchReply};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::load::ask_once;
use super::servers::{config, says};
use super::services::{PORT, name};
use crate::agents::{CAP, Cluster, client, host_name, record};
use crate::size::instance;

const HOSTS: u16 = 3;
pub(super) const CHANGES: u8 = 200;
/// Time between questions to a server, which is part of what is measured.
const EACH: Duration = Duration::from_micros(500);
/// Time between changes.
const BETWEEN: Duration = Duration::from_millis(10);
/// The host whose instance it is; no agent runs there.
const OWNER: u16 = 999;

/// Milliseconds from the start of a write, sorted.
pub(super) struct News {
    /// Until all servers answer with it.
    pub(super) answered: Vec<f64>,
    /// Until a watch of etcd has it.
    pub(super) watched: Vec<f64>,
}

pub(super) fn measure() -> anyhow::Result<News> {
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> anyhow::Result<News> {
    let cluster = Cluster::start(HOSTS).await?;
    let mut servers = Vec::new();
    for agent in &cluster.agents {
        servers.push(start(agent.directory().context("no agent")?).await?);
    }
    let url = cluster.etcd.url();
    let (writer, reader) = (client(&url)?, client(&url)?);
    let slot = slot()?;
    let key = Key::State(slot.clone());
    let mut watch = reader
        .watch(KeyRange::key(key.to_string()), 0, false)
        .await?;
    let owner = record(Uuid::nil(), address(0));
    let claim = Claim {
        host: host_name(OWNER)?,
        instance: instance(&slot)?,
        version: VersionId(1),
    };
    let owned = vec![
        Op::put(
            Key::HostRecord(claim.host.clone()),
            serde_json::to_string(&owner)?,
        ),
        Op::put(Key::Claim(slot.clone()), serde_json::to_string(&claim)?),
    ];
    writer.txn(Txn::new(vec![], owned)).await?;
    let (mut answered, mut watched) = (Vec::new(), Vec::new());
    for change in 1..=CHANGES {
        let state = SlotState {
            instance: claim.instance.clone(),
            state: Phase::Ready,
            addr: address(change),
            ports: [(name(0).split('.').next().context("a name")?.parse()?, PORT)].into(),
        };
        let put = Op::put(key.clone(), serde_json::to_string(&state)?);
        let begin = Instant::now();
        let asking: Vec<_> = servers
            .iter()
            .map(|(at, _)| {
                let at = *at;
                tokio::task::spawn_blocking(move || until(at, address(change)))
            })
            .collect();
        let by_watch = async {
            loop {
                match watch.replies.recv().await {
                    Some(WatchReply::Events(..)) => return Ok(millis(begin)),
                    Some(WatchReply::Progress(_)) => {}
                    other => bail!("the watch ended: {other:?}"),
                }
            }
        };
        let (put, by_watch) = tokio::join!(writer.txn(Txn::new(vec![], vec![put])), by_watch);
        put?;
        watched.push(by_watch?);
        let mut last = begin;
        for asked in asking {
            last = last.max(asked.await??);
        }
        answered.push(last.duration_since(begin).as_secs_f64() * 1e3);
        tokio::time::sleep(BETWEEN).await;
    }
    answered.sort_by(f64::total_cmp);
    watched.sort_by(f64::total_cmp);
    Ok(News { answered, watched })
}

/// A server that answers from the directory of an agent.
async fn start(directory: Arc<ArcSwap<Directory>>) -> anyhow::Result<(SocketAddr, Handle)> {
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let mut handle = Dns::start(config(any)?, directory, CancellationToken::new());
    let bound = handle.addresses.wait_for(|at| !at.is_empty()).await?;
    let at = *bound.first().context("an address")?;
    drop(bound);
    Ok((at, handle))
}

/// When a server answers with an address.
fn until(server: SocketAddr, address: IpAddr) -> anyhow::Result<Instant> {
    let begin = Instant::now();
    while begin.elapsed() < CAP {
        if ask_once(server, 0).is_ok_and(|answer| says(&answer, address)) {
            return Ok(Instant::now());
        }
        sleep(EACH);
    }
    bail!("{server} does not answer with {address}");
}

/// The slot of the first service.
fn slot() -> anyhow::Result<SlotId> {
    let name = name(0);
    let (service, app) = name.split_once('.').context("a name")?;
    let id: ContainerId = format!("{app}/{service}").parse()?;
    Ok(id.slot(0))
}

fn address(change: u8) -> IpAddr {
    IpAddr::from([10, 1, 2, change])
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
