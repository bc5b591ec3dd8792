//! DNS, links and the firewall: what containers reach at the bridge's gateway, and who reaches them.

use std::net::SocketAddr;
use std::sync::Arc;

use ambassador::{Ambassador, Tables};
use arc_swap::ArcSwap;
use conductor::firewall;
use conductor::reachability::watch::Probe;
use engine::{Bridge, EngineFacts, EngineInfo};
use model::observed::Surroundings;
use store::skydns::{self, saved::Saved};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::error::Misconfigured;
use super::inheritance::Inheritance;
use super::network::{
    NetworkFollower, dns_addresses, dns_bound, dns_clients, forwarding, other_dns_clients,
    surroundings,
};
use super::parts::{Parts, Tasks};
use super::problems::{Problems, follow_held_links};
use super::unreached::LinkFailures;

/// Handles of the data plane.
pub(super) struct Dataplane {
    /// Where DNS is to listen.
    pub(super) dns: Vec<SocketAddr>,
    /// Where it does.
    pub(super) dns_bound: Vec<SocketAddr>,
    pub(super) dns_counters: Arc<dns::Counters>,
    pub(super) names: dns::Names,
    /// Where it answers at present.
    pub(super) dns_now: watch::Receiver<Vec<SocketAddr>>,
    pub(super) links: Arc<ambassador::Handle>,
    pub(super) link_counters: Arc<ambassador::Counters>,
    pub(super) link_failures: Arc<ambassador::Failures>,
    pub(super) surroundings: watch::Receiver<Surroundings>,
    /// Asks for a list of the engine.
    pub(super) look_again: mpsc::Receiver<()>,
}

/// Containers are answered once `known` is cancelled; until then what they ask waits in the sockets.
pub(super) async fn start(
    parts: &Parts,
    info: EngineInfo,
    bridge: Bridge,
    inheritance: &mut Inheritance,
    known: CancellationToken,
    tasks: &mut Tasks,
) -> Result<Dataplane, Misconfigured> {
    let Parts {
        config,
        host,
        published,
        ..
    } = parts;
    let saved = Saved::new(parts.dir.skydns_file(), parts.cluster);
    let records = Arc::new(ArcSwap::from_pointee(saved.load()));
    let (kv, to) = (parts.kv.clone(), Arc::clone(&records));
    let says = move |records| to.store(Arc::new(records));
    tasks.spawn(|stop| skydns::follow(kv, saved, says, stop));
    let dns = dns_addresses(config, bridge.gateway);
    let names = dns::Dns::start(
        dns::Config {
            listen: dns.clone(),
            zone: dns::Zone::new(&config.domain, dns.iter().map(SocketAddr::ip))
                .map_err(Misconfigured::by)?,
            records,
            forwarding: forwarding(&config.other_names).map_err(Misconfigured::by)?,
            bridges: dns_clients(&bridge),
            allowed: config.other_names.allowed.clone(),
            binder: inheritance.binder.clone(),
            begin: known.clone(),
        },
        published.directory.clone(),
        tasks.stop.clone(),
    );
    // One list is enough for all unknown callers that wait for one.
    let (unknown, look_again) = mpsc::channel(1);
    let tables = Arc::new(Tables::new(published.directory.clone()));
    let links = Ambassador::start(
        ambassador::Config {
            limits: parts.shares.links,
            binder: inheritance.binder.clone(),
            ..ambassador::Config::new(bridge.gateway)
        },
        tables.clone(),
        unknown,
        tasks.stop.clone(),
    );
    links.resume(inheritance.connections().await);
    let binder = inheritance.binder.clone();
    tasks.spawn(|stop| Inheritance::close_unused(binder, stop));
    let links = Arc::new(links);
    let callers = published.callers.subscribe();
    let awaited = published.awaited_links.subscribe();
    // A link's port is bound, or taken over, with the first callers: not before their services are known.
    tasks.spawn(|stop| async move {
        if stop.run_until_cancelled(known.cancelled()).await.is_some() {
            tables.follow(callers, awaited, stop).await;
        }
    });

    let (surround, surroundings) = watch::channel(surroundings(config, &bridge));
    // The first list of the engine brings them otherwise.
    let subnets = parts.engine.subnets().await.unwrap_or_default();
    names.set_bridges(dns_clients(&bridge), other_dns_clients(&subnets));
    let facts = watch::Sender::new(EngineFacts {
        info,
        bridge,
        subnets,
    });
    let engine_facts = facts.subscribe();
    let (engine, engine_problem) = watch::channel(None);
    let (docker, lists) = (parts.engine.clone(), published.lists.subscribe());
    tasks.spawn(|stop| engine::facts::follow(docker, facts, engine, lists, stop));
    let (firewall, firewall_problems) = watch::channel(Vec::new());
    let setup = firewall::Setup {
        instance_ports: config.instance_ports,
        host: host.name().clone(),
        host_ip: Some(config.host_ip).filter(|_| !config.host_ip_is_gateway),
        range: config.port_range.bounds().clone(),
        engine: engine_facts.clone(),
        published: published.clone(),
        problems: firewall,
        every: firewall::RECHECK,
    };
    tasks.spawn(|stop| firewall::run(setup, stop));
    let (reachability, reachability_problem) = watch::channel(None);
    let probe = Probe {
        published: published.clone(),
        engine: engine_facts.clone(),
        surroundings: surroundings.clone(),
        problem: reachability,
    };
    tasks.spawn(|stop| probe.run(stop));
    let (unreached, unreached_problems) = watch::channel(Vec::new());
    let link_failures = LinkFailures {
        connects: links.failed_connects.clone(),
        published: published.clone(),
        own: host.name().clone(),
        problems: unreached,
    };
    tasks.spawn(|stop| link_failures.follow(stop));
    let problems = Problems {
        dns: names.problems.clone(),
        links: links.problems.clone(),
        engine: engine_problem,
        reachability: reachability_problem,
        firewall: firewall_problems,
        unreached: unreached_problems,
        copies: published.copies.subscribe(),
    };
    let record = host.clone();
    tasks.spawn(|stop| problems.report(record, stop));
    let (held, to) = (links.problems.clone(), published.clone());
    tasks.spawn(|stop| follow_held_links(held, to, stop));

    let dataplane = Dataplane {
        dns_bound: dns_bound(names.addresses.clone(), &dns).await,
        dns,
        dns_counters: names.counters.clone(),
        dns_now: names.addresses.clone(),
        names: names.names.clone(),
        links: links.clone(),
        link_counters: links.counters.clone(),
        link_failures: links.failures.clone(),
        surroundings,
        look_again,
    };
    let follower = NetworkFollower {
        config: config.clone(),
        names,
        links,
        host: host.clone(),
        surround,
    };
    tasks.spawn(|stop| follower.follow(engine_facts, stop));
    Ok(dataplane)
}
