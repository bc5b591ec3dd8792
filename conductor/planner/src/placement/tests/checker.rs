//! Placement against an independent checker, which knows the rules from the design and reads a model, not a snapshot:
//! who is chosen is legal, nobody legal is better, and a slot is refused only if nobody is legal.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option::weighted;
use proptest::prelude::*;

use super::super::ranking::rendezvous;
use super::super::{Candidates, unclaimed};
use model::snapshot::{Change, Snapshot};

/// A host as it was made.
#[derive(Debug, Clone)]
struct Host {
    /// None: not live.
    state: Option<&'static str>,
    availability: Option<&'static str>,
    engine: bool,
    foreign: u32,
    /// Containers that it is marked unfit for: as the manifest is now, or as it was before.
    unfit: BTreeMap<usize, bool>,
    /// Its label `zone`.
    zone: Option<&'static str>,
    /// Its disk is too full.
    full: bool,
    /// Thousandths of processors, and bytes of memory; 0 is unknown.
    capacity: (u64, u64),
}

/// A slot as it was made.
#[derive(Debug, Clone)]
struct Slot {
    claimed_by: Option<usize>,
    next: Option<usize>,
    data_on: Option<usize>,
}

#[derive(Debug, Clone)]
struct Container {
    scale: u32,
    host_port: Option<u16>,
    slots: Vec<Slot>,
    /// `zone==a`, or `zone!=a`.
    constraint: Option<bool>,
    max_per_host: Option<u32>,
    spread: bool,
    cpu_millis: Option<u64>,
    memory: Option<u64>,
}

#[derive(Debug, Clone)]
struct Cluster {
    hosts: Vec<Host>,
    containers: Vec<Container>,
}

const HOSTS: usize = 5;

fn host() -> impl Strategy<Value = Host> {
    let state = prop_oneof![
        8 => Just(Some("up")),
        1 => Just(Some("restarting")),
        1 => Just(Some("hold")),
        1 => Just(None),
    ];
    let availability = prop_oneof![
        6 => Just(None),
        2 => Just(Some("active")),
        1 => Just(Some("pause")),
        1 => Just(Some("drain")),
    ];
    let engine = prop::bool::weighted(0.9);
    let unfit = btree_map(0..3_usize, any::<bool>(), 0..2);
    let zone = prop_oneof![Just(None), Just(Some("a")), Just(Some("b"))];
    let full = prop::bool::weighted(0.05);
    let cpus = prop_oneof![Just(0_u64), Just(1_000), Just(2_000)];
    let memory = prop_oneof![Just(0_u64), Just(1 << 30), Just(2 << 30)];
    let is = (state, availability, engine, 0..4_u32, unfit);
    (is, (zone, full, (cpus, memory))).prop_map(
        |((state, availability, engine, foreign, unfit), (zone, full, capacity))| Host {
            state,
            availability,
            engine,
            foreign,
            unfit,
            zone,
            full,
            capacity,
        },
    )
}

fn slot() -> impl Strategy<Value = Slot> {
    (
        weighted(0.4, 0..HOSTS),
        weighted(0.05, 0..HOSTS),
        weighted(0.1, 0..HOSTS),
    )
        .prop_map(|(claimed_by, next, data_on)| Slot {
            claimed_by,
            next,
            data_on,
        })
}

fn container() -> impl Strategy<Value = Container> {
    let port = prop_oneof![3 => Just(None), 1 => Just(Some(8080)), 1 => Just(Some(8081))];
    let resources = (
        weighted(0.3, prop_oneof![Just(300_u64), Just(900)]),
        weighted(0.3, prop_oneof![Just(200_u64 << 20), Just(700 << 20)]),
    );
    let asks = (
        weighted(0.2, any::<bool>()),
        weighted(0.3, 1..3_u32),
        prop::bool::weighted(0.3),
        resources,
    );
    (0..6_u32, port, vec(slot(), 6), asks).prop_map(|(scale, host_port, mut slots, asks)| {
        let (constraint, max_per_host, spread, (cpu_millis, memory)) = asks;
        if host_port.is_some() {
            // Nobody hands a port over to a host where it is taken.
            for slot in &mut slots {
                slot.next = None;
            }
        }
        Container {
            scale,
            host_port,
            slots,
            constraint,
            max_per_host,
            spread,
            cpu_millis,
            memory,
        }
    })
}

fn cluster() -> impl Strategy<Value = Cluster> {
    (vec(host(), 1..=HOSTS), vec(container(), 3))
        .prop_map(|(hosts, containers)| Cluster { hosts, containers })
}

fn name(host: usize) -> String {
    format!("host-{host}")
}

fn uuid(host: usize) -> String {
    format!("00000000-0000-4000-8000-00000000000{host}")
}

/// Keys and values; a container's manifest has its number + 10 as revision.
fn keys(cluster: &Cluster) -> Vec<(String, String, i64)> {
    let mut keys = Vec::new();
    for (number, container) in cluster.containers.iter().enumerate() {
        let rev = number as i64 + 10;
        let services = container
            .host_port
            .map(|port| format!(r#", "services": {{"s": {{"port": 80, "host_port": {port}}}}}"#))
            .unwrap_or_default();
        let mut placement = Vec::new();
        if let Some(equal) = container.constraint {
            let relation = if equal { "==" } else { "!=" };
            placement.push(format!(r#""constraints": ["zone{relation}a"]"#));
        }
        placement.extend(
            container
                .max_per_host
                .map(|most| format!(r#""max_per_host": {most}"#)),
        );
        if container.spread {
            placement.push(r#""spread": "zone""#.to_owned());
        }
        let cpus = container
            .cpu_millis
            .map(|millis| format!(r#", "cpus": "0.{millis}""#));
        let memory = container
            .memory
            .map(|bytes| format!(r#", "memory": "{}m""#, bytes >> 20));
        let asks = format!(
            r#", "placement": {{{}}}{}{}"#,
            placement.join(", "),
            cpus.unwrap_or_default(),
            memory.unwrap_or_default()
        );
        let manifest = format!(
            r#"{{"image": "x", "scale": {}{services}{asks}}}"#,
            container.scale
        );
        keys.push((format!("/apps/app/c{number}/manifest"), manifest, rev));
        for (slot, made) in container.slots.iter().enumerate() {
            let key = format!("/claims/app/c{number}/slots/{slot}");
            let claim = |host: usize| {
                format!(
                    r#"{{"host": "{}", "instance": "i", "version": {rev}}}"#,
                    name(host)
                )
            };
            keys.extend(made.claimed_by.map(|by| (key.clone(), claim(by), 20)));
            keys.extend(made.next.map(|by| (format!("{key}.next"), claim(by), 20)));
            keys.extend(made.data_on.map(|on| {
                let (host, id) = (name(on), uuid(on));
                let data = format!(r#"{{"host": "{host}", "host_id": "{id}", "volumes": []}}"#);
                (format!("/claims/app/c{number}/data/{slot}"), data, 20)
            }));
        }
    }
    for (number, host) in cluster.hosts.iter().enumerate() {
        let name = name(number);
        keys.extend(host.state.map(|state| {
            let record = format!(
                r#"{{"id": "{0}", "session": "{0}", "epoch": 1, "state": "{state}", "addr": "10.0.0.1",
                "versions": {{"agent": "1", "placement": [1, 2]}}, "foreign": {1}, "engine": {2}, "disk_full": {3},
                "capacity": {{"cpu_millis": {4}, "memory": {5}}}{6}}}"#,
                uuid(number),
                host.foreign,
                host.engine,
                host.full,
                host.capacity.0,
                host.capacity.1,
                host.zone
                    .map(|zone| format!(r#", "labels": {{"zone": "{zone}"}}"#))
                    .unwrap_or_default(),
            );
            (format!("/hosts/{name}/record"), record, 30)
        }));
        keys.extend(host.availability.map(|availability| {
            let key = format!("/hosts/{name}/availability");
            (key, format!(r#""{availability}""#), 30)
        }));
        for (container, now) in &host.unfit {
            let rev = *container as i64 + if *now { 10 } else { 1 };
            let key = format!("/hosts/{name}/unfit/app/c{container}");
            let unfit = format!(r#"{{"manifest_rev": {rev}, "reason": "no"}}"#);
            keys.push((key, unfit, 30));
        }
    }
    keys
}

fn snapshot(cluster: &Cluster) -> Snapshot {
    let puts = keys(cluster)
        .into_iter()
        .map(|(key, value, at)| Change::Put {
            key,
            value: value.into_bytes(),
            modified: at,
            created: at,
        });
    let mut snapshot = Snapshot::default();
    snapshot.apply(puts.collect::<Vec<_>>(), 40);
    snapshot
}

fn is_live(cluster: &Cluster, host: usize) -> bool {
    let made = cluster.hosts.get(host);
    made.is_some_and(|made| made.state.is_some())
}

/// What has been given away so far, by the checker's own counting.
struct Given<'a> {
    cluster: &'a Cluster,
    /// Host, container, slot.
    slots: Vec<(usize, usize, usize)>,
}

/// Of the same container in the same zone, of all, of the same container, and the draw.
type Rank = (usize, u32, usize, Reverse<u64>);

impl<'a> Given<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let mut slots = Vec::new();
        for (number, container) in cluster.containers.iter().enumerate() {
            for (slot, made) in container.slots.iter().enumerate() {
                let both = [made.claimed_by, made.next];
                let live = both.iter().flatten().filter(|h| is_live(cluster, **h));
                slots.extend(live.map(|host| (*host, number, slot)));
            }
        }
        Self { cluster, slots }
    }

    fn is_legal(&self, host: usize, container: usize, slot: usize) -> bool {
        let made = &self.cluster.hosts[host];
        let wanted = &self.cluster.containers[container];
        let data_elsewhere = wanted.slots[slot].data_on.is_some_and(|on| on != host);
        let port_is_taken = self.slots.iter().any(|(on, other, number)| {
            *on == host
                && (*other, *number) != (container, slot)
                && wanted.host_port.is_some()
                && self.cluster.containers[*other].host_port == wanted.host_port
        });
        made.state == Some("up")
            && matches!(made.availability, None | Some("active"))
            && made.engine
            && made.unfit.get(&container) != Some(&true)
            && !data_elsewhere
            && !port_is_taken
            && !made.full
            && wanted
                .constraint
                .is_none_or(|equal| (made.zone == Some("a")) == equal)
            && wanted
                .max_per_host
                .is_none_or(|most| self.same(host, container) < most as usize)
            && self.has_room(host, container)
    }

    fn same(&self, host: usize, container: usize) -> usize {
        let same = |of: &&(usize, usize, usize)| of.0 == host && of.1 == container;
        self.slots.iter().filter(same).count()
    }

    fn has_room(&self, host: usize, container: usize) -> bool {
        let here = self.slots.iter().filter(|(on, ..)| *on == host);
        let asks = |number: usize| {
            let of = &self.cluster.containers[number];
            (of.cpu_millis.unwrap_or(0), of.memory.unwrap_or(0))
        };
        let (cpus, memory) = here.fold((0, 0), |(cpus, memory), (_, number, _)| {
            (cpus + asks(*number).0, memory + asks(*number).1)
        });
        let (has_cpus, has_memory) = self.cluster.hosts[host].capacity;
        let wanted = &self.cluster.containers[container];
        let fits = |asks: Option<u64>, used: u64, has: u64| {
            asks.is_none_or(|asks| has == 0 || used + asks <= has)
        };
        fits(wanted.cpu_millis, cpus, has_cpus) && fits(wanted.memory, memory, has_memory)
    }

    /// The lowest is the best.
    fn rank(&self, host: usize, container: usize, slot: usize) -> Rank {
        let zone = self.cluster.hosts[host].zone;
        let in_zone = |of: &usize| self.cluster.hosts[*of].zone == zone;
        let group: usize = (0..self.cluster.hosts.len())
            .filter(in_zone)
            .filter(|of| is_live(self.cluster, *of))
            .map(|of| self.same(of, container))
            .sum();
        let group = if self.cluster.containers[container].spread {
            group
        } else {
            0
        };
        let all = self.slots.iter().filter(|(on, ..)| *on == host).count() as u32;
        let same = self.same(host, container);
        let key = format!("app/c{container}/{slot}");
        let drawn = rendezvous(&key, &name(host));
        let all = self.cluster.hosts[host].foreign + all;
        (group, all, same, Reverse(drawn))
    }
}

fn check(cluster: &Cluster, placed: &[Candidates]) -> Result<(), TestCaseError> {
    let mut given = Given::new(cluster);
    let mut left = placed.iter();
    for (number, container) in cluster.containers.iter().enumerate() {
        for slot in 0..container.scale as usize {
            let made = &container.slots[slot];
            let lives = |host: Option<usize>| host.is_some_and(|host| is_live(cluster, host));
            if lives(made.claimed_by) || lives(made.next) {
                continue;
            }
            let placed = left.next().expect("each free slot is placed");
            let text = placed.slot.to_string();
            prop_assert_eq!(&text, &format!("app/c{number}/{slot}"));
            let live = (0..cluster.hosts.len()).filter(|h| cluster.hosts[*h].state.is_some());
            let (legal, not): (Vec<usize>, Vec<usize>) =
                live.partition(|host| given.is_legal(*host, number, slot));
            let by_name: BTreeMap<String, usize> =
                legal.iter().map(|host| (name(*host), *host)).collect();
            let order: Vec<usize> = placed
                .order
                .iter()
                .filter_map(|host| by_name.get(host.as_str()).copied())
                .collect();
            prop_assert_eq!(order.len(), placed.order.len(), "{} is not legal", text);
            prop_assert_eq!(order.len(), legal.len(), "{} leaves somebody out", text);
            let ranks: Vec<_> = order
                .iter()
                .map(|host| given.rank(*host, number, slot))
                .collect();
            prop_assert!(ranks.is_sorted(), "{} could go to somebody better", text);
            prop_assert_eq!(placed.refused.len(), not.len());
            if let Some(host) = order.first() {
                given.slots.push((*host, number, slot));
            }
        }
    }
    prop_assert!(left.next().is_none(), "nothing else is placed");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_choice_is_legal_and_none_is_better(cluster in cluster()) {
        check(&cluster, &unclaimed(&snapshot(&cluster)))?;
    }

    /// Agents see the same keys in any order.
    #[test]
    fn the_order_of_arrival_does_not_matter(cluster in cluster()) {
        let mut backwards = Snapshot::default();
        for (key, value, at) in keys(&cluster).into_iter().rev() {
            let put = Change::Put { key, value: value.into_bytes(), modified: at, created: at };
            backwards.apply([put], 40);
        }
        prop_assert_eq!(unclaimed(&backwards), unclaimed(&snapshot(&cluster)));
    }
}

/// Agents of different releases must agree, so these values are for ever. Computed with the reference implementation
/// (xxhash 0.8, by its Python binding).
#[test]
fn rendezvous_is_what_it_has_always_been() {
    let long =
        "a-forty-letter-app-name-of-the-longest-sor/a-forty-letter-container-of-the-longest/999";
    for (slot, host, value) in [
        ("shop/web/0", "a", 0x1143_b380_b1d1_e626),
        ("shop/web/0", "b", 0xa65e_5c2e_cb81_8587),
        ("shop/web/1", "a", 0x7b2b_1887_4a03_587b),
        ("mail/in/12", "host-17", 0xc7fc_87d7_fd2d_1987),
        ("a/b/0", "h", 0x6ec1_c575_3e4c_5b40),
        (
            "shop/web/0",
            "a-host-with-a-rather-long-name.example.org",
            0x4a6f_e849_ee72_a30c,
        ),
        (long, &"a".repeat(63), 0xa40a_cdb0_2658_3de5),
        ("x/y/3", &"z".repeat(200), 0x96fa_1990_6a95_2167),
    ] {
        assert_eq!(rendezvous(slot, host), value, "{slot} {host}");
    }
}
