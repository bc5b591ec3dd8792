//! `POST check`: whether the hosts reach each other's ports, each tried from each.
//!
//! A firewall between two hosts says nothing: links time out between these two
//! only. So every host tries every other one's peer listener, which is asked for
//! a port to try, and then a port that an instance is published on, or that one.

mod problems;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use futures_util::StreamExt;
use futures_util::stream;
use manifests::manifest::Protocol;
use manifests::{ContainerId, HostName, SlotId};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::agent::{ClusterView, Peers};
use super::api::{Api, ask_hosts};
use super::reply::{ApiFailure, ApiResult};
use super::types::{CheckPort, CheckedPort, HostsCheck, Reach, Tried};
use problems::problems;

/// Hosts that are tried at most: each tries each other one.
const MOST: usize = 32;
/// Connections that a host makes at a time.
const AT_ONCE: usize = 32;
/// For the peer listener's answer; a connection that is not accepted ends before.
const ANSWER: Duration = Duration::from_secs(3);
/// For a connection to an instance's port: a lost SYN is sent again after 1 s.
const CONNECT: Duration = Duration::from_secs(2);
/// For all that one host tries.
const ALL: Duration = Duration::from_secs(8);

impl Reach {
    /// What a failed connect means.
    pub(crate) fn of(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Self::Refused,
            std::io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Unreachable,
        }
    }
}

/// `POST check`.
pub(super) async fn check(State(api): State<Api>) -> ApiResult<HostsCheck> {
    let view = api.view()?;
    let Some(peers) = &api.peers else {
        return Err(ApiFailure::conflict("this agent has no peer listener"));
    };
    let own = api.agent.host();
    let live: Vec<HostName> = view.snapshot.live().map(|(host, _)| host.clone()).collect();
    let (hosts, left_out) = chosen(&own, live);
    let mut notices = api.notices(&view);
    if left_out > 0 {
        notices.push(format!(
            "{left_out} hosts are not tried: {MOST} at most are, {own} and those after it by name; --addr asks another one"
        ));
    }
    let others = hosts.iter().filter(|host| **host != own).cloned();
    let ask = async |host: HostName| match timeout(ALL, peers.check(&host, &hosts)).await {
        Ok(answer) => answer,
        Err(_) => Err("it takes too long".to_owned()),
    };
    let (here, there) = tokio::join!(api.try_hosts(&hosts), ask_hosts(others, ask, &mut notices));
    let mut tries = here;
    tries.extend(there.into_iter().flat_map(|(_, tried)| tried));
    tries.sort_by(|a, b| (&a.from, &a.to, a.port).cmp(&(&b.from, &b.to, b.port)));
    Ok(Json(HostsCheck {
        problems: problems(&view, &tries),
        hosts,
        tries,
        notices,
    }))
}

/// The host itself and those that come after it, in a circle; and how many others there are.
fn chosen(own: &HostName, mut live: Vec<HostName>) -> (Vec<HostName>, usize) {
    let at = live.partition_point(|host| host < own);
    live.rotate_left(at);
    let left_out = live.len().saturating_sub(MOST);
    live.truncate(MOST);
    live.sort();
    (live, left_out)
}

impl Api {
    /// Tries these hosts from this one.
    pub(crate) async fn try_hosts(&self, hosts: &[HostName]) -> Vec<Tried> {
        let own = self.agent.host();
        let (Some(view), Some(peers)) = (self.agent.view(), &self.peers) else {
            return Vec::new();
        };
        let mut tries = Vec::new();
        for host in hosts {
            if *host != own && view.snapshot.is_live(host) {
                tries.push(try_host(&view, peers.as_ref(), own.clone(), host.clone()));
            }
        }
        let tries = stream::iter(tries).buffer_unordered(AT_ONCE);
        tries.flat_map(stream::iter).collect().await
    }
}

/// The peer listener first, which says what else there is to try.
async fn try_host(
    view: &ClusterView,
    peers: &dyn Peers,
    from: HostName,
    to: HostName,
) -> [Tried; 2] {
    let begun = Instant::now();
    let asked = timeout(ANSWER, peers.check_port(&to)).await;
    let took = begun.elapsed();
    let (result, why, port) = match asked {
        Ok(Ok(port)) => (Reach::Open, None, port),
        Ok(Err((reach, why))) => (reach, Some(why), None),
        Err(_) => (Reach::Silent, None, None),
    };
    let record = view.snapshot.record(&to);
    let listener = record.and_then(|record| record.value.peer.as_ref());
    let peer = Tried {
        at: listener.map(|listener| listener.addr),
        from,
        to,
        port: CheckedPort::Peer,
        slot: None,
        result,
        ms: (result == Reach::Open).then(|| millis(took)),
        why,
        range: port.as_ref().map(|port| port.range.clone()),
        firewall: port.as_ref().map(|port| port.firewall.clone()),
    };
    let instance = try_instance(view, port.as_ref(), &peer).await;
    [peer, instance]
}

/// A port of an instance, or the one that the agent listens on for this.
async fn try_instance(view: &ClusterView, port: Option<&CheckPort>, peer: &Tried) -> Tried {
    let range = port.and_then(|port| bounds(&port.range));
    let published = published(view, &peer.to, range.as_ref());
    let (at, slot, token) = match (published, port) {
        (Some((at, slot)), _) => (Some(at), Some(slot), None),
        (None, Some(port)) => (port.at, None, Some(port.token.as_str())),
        (None, None) => (None, None, None),
    };
    let (result, ms, why) = if let Some(at) = at {
        connect(at, token).await
    } else {
        let why = match (peer.result, port) {
            (Reach::Open, None) => "its agent is older and opens no port for a check",
            (Reach::Open, Some(_)) => "no port of its range is free",
            _ => "no instance is there, and its agent can't be asked for a port",
        };
        (Reach::Unknown, None, Some(why.to_owned()))
    };
    Tried {
        port: CheckedPort::Instance,
        at,
        slot,
        result,
        ms,
        why,
        ..peer.clone()
    }
}

/// Where a ready instance of the host is published, and which.
fn published(
    view: &ClusterView,
    host: &HostName,
    range: Option<&RangeInclusive<u16>>,
) -> Option<(SocketAddr, SlotId)> {
    let addr = view.snapshot.record(host)?.value.addr;
    let services = view.directory.services();
    let endpoints = services.flat_map(|(id, all)| all.values().map(move |one| (id, one)));
    let fits = |port: u16| range.is_none_or(|range| range.contains(&port));
    endpoints
        .filter(|(_, one)| one.host == *host && one.is_ready() && one.addr == addr)
        .find(|(_, one)| one.protocol == Protocol::Tcp && fits(one.port))
        .map(|(id, one)| {
            let container = ContainerId::new(id.app.clone(), one.container.clone());
            (
                SocketAddr::new(one.addr, one.port),
                container.slot(one.slot),
            )
        })
}

fn bounds(range: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = range.split_once('-')?;
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// Connects, and reads the token where one is expected.
async fn connect(at: SocketAddr, token: Option<&str>) -> (Reach, Option<u64>, Option<String>) {
    let begun = Instant::now();
    let mut stream = match timeout(CONNECT, TcpStream::connect(at)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return (Reach::of(&error), None, Some(error.to_string())),
        Err(_) => return (Reach::TimedOut, None, None),
    };
    let took = Some(millis(begun.elapsed()));
    let Some(token) = token else {
        return (Reach::Open, took, None);
    };
    let mut said = vec![0; token.len()];
    match timeout(CONNECT, stream.read_exact(&mut said)).await {
        Ok(Ok(_)) if said == token.as_bytes() => (Reach::Open, took, None),
        Ok(_) => (Reach::Wrong, None, None),
        Err(_) => (Reach::Silent, None, None),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}
