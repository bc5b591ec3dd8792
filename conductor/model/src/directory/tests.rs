//! The table, followed step by step.

#![expect(clippy::unwrap_used, reason = "names in tests are legal")]

use super::*;
use crate::snapshot::Change;

/// Numbers below what is asked for, the same ones each time (xorshift).
pub(super) fn random() -> impl FnMut(u64) -> u64 {
    let mut random = 88_172_645_463_325_252_u64;
    move |below| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    }
}

fn put(snapshot: &mut Snapshot, key: &str, value: &str) -> Touched {
    let revision = snapshot.revision + 1;
    let change = Change::Put {
        key: key.to_owned(),
        value: value.as_bytes().to_vec(),
        modified: revision,
        created: revision,
    };
    snapshot.apply([change], revision)
}

fn delete(snapshot: &mut Snapshot, key: &str) -> Touched {
    let modified = snapshot.revision + 1;
    let key = key.to_owned();
    snapshot.apply([Change::Delete { key, modified }], modified)
}

fn service() -> ServiceId {
    ServiceId {
        app: "shop".parse().unwrap(),
        service: "web".parse().unwrap(),
    }
}

const RECORD: &str = r#"{"id":"00000000-0000-0000-0000-000000000001","session":"00000000-0000-0000-0000-000000000001",
    "epoch":0,"state":"up","addr":"10.0.0.1","versions":{"agent":"","placement":[1]}}"#;

#[test]
fn an_address_that_two_containers_have_gives_neither_its_links() {
    let caller = |slot: &str| Caller {
        slot: slot.parse::<manifests::ContainerId>().unwrap().slot(0),
        links: vec![(10_000, service())],
    };
    let addr = |last: u8| IpAddr::from([172, 17, 0, last]);
    let (web, db, job) = (caller("shop/web"), caller("shop/db"), caller("shop/job"));
    let (callers, shared) = callers([
        (addr(2), web.clone()),
        (addr(3), job.clone()),
        (addr(2), db.clone()),
    ]);
    assert_eq!(callers[&addr(2)].links, []);
    assert_eq!(callers[&addr(3)], job);
    assert_eq!(shared, [(addr(2), (web.slot, db.slot))].into());
}

#[test]
fn follows_claims_and_states_of_live_hosts_and_nothing_else() {
    let mut snapshot = Snapshot::default();
    let mut directory = Directory::default();
    let mut step = |snapshot: &Snapshot, touched: Touched| {
        directory.update(snapshot, &touched);
        let whole = Directory::new(snapshot);
        assert_eq!(
            directory.services().collect::<Vec<_>>(),
            whole.services().collect::<Vec<_>>(),
            "followed step by step and made anew are the same"
        );
        assert_eq!(places(&directory), places(&whole));
        let serving: Vec<u16> = directory
            .serving(&service())
            .iter()
            .map(|e| e.port)
            .collect();
        (
            directory.endpoints(&service()).map(Endpoints::size),
            serving,
        )
    };
    let touched = put(&mut snapshot, "/hosts/h1/record", RECORD);
    assert_eq!(step(&snapshot, touched), (None, vec![]));
    // Offered, and nothing runs yet.
    let manifest = r#"{"image": "web", "services": {"web": 80}}"#;
    let touched = put(&mut snapshot, "/apps/shop/web/manifest", manifest);
    assert_eq!(step(&snapshot, touched), (Some(0), vec![]));
    let claim = r#"{"host":"h1","instance":"i1","version":2}"#;
    let touched = put(&mut snapshot, "/claims/shop/web/slots/0", claim);
    assert_eq!(step(&snapshot, touched), (Some(0), vec![]));
    // A state of another instance does not count.
    let state = |instance: &str, state: &str| {
        format!(
            r#"{{"instance":"{instance}","state":"{state}","addr":"10.0.0.1","ports":{{"web":20000}}}}"#
        )
    };
    let touched = put(
        &mut snapshot,
        "/claims/shop/web/slots/0.state",
        &state("i0", "ready"),
    );
    assert_eq!(step(&snapshot, touched), (Some(0), vec![]));
    let touched = put(
        &mut snapshot,
        "/claims/shop/web/slots/0.state",
        &state("i1", "ready"),
    );
    assert_eq!(step(&snapshot, touched), (Some(1), vec![20_000]));
    // Where no endpoint of a live host is left, that of the missing one stays.
    let touched = delete(&mut snapshot, "/hosts/h1/record");
    assert_eq!(step(&snapshot, touched), (Some(1), vec![20_000]));
    let touched = put(&mut snapshot, "/hosts/h1/record", RECORD);
    assert_eq!(step(&snapshot, touched), (Some(1), vec![20_000]));
    let touched = put(
        &mut snapshot,
        "/claims/shop/web/slots/0.state",
        &state("i1", "leaving"),
    );
    assert_eq!(step(&snapshot, touched), (Some(1), vec![]));
    let touched = delete(&mut snapshot, "/claims/shop/web/slots/0");
    assert_eq!(step(&snapshot, touched), (Some(0), vec![]));
    let touched = delete(&mut snapshot, "/apps/shop/web/manifest");
    assert_eq!(step(&snapshot, touched), (None, vec![]));
}

#[test]
fn an_app_is_known_while_one_of_its_containers_has_a_manifest() {
    let mut snapshot = Snapshot::default();
    let mut directory = Directory::default();
    let app = "shop".parse().unwrap();
    let mut step = |snapshot: &Snapshot, touched: Touched| {
        directory.update(snapshot, &touched);
        assert_eq!(
            directory.has_app(&app),
            Directory::new(snapshot).has_app(&app)
        );
        directory.has_app(&app)
    };
    let (job, web) = ("/apps/shop/job/manifest", "/apps/shop/web/manifest");
    let served = r#"{"image": "web", "services": {"web": 80}}"#;
    let touched = put(&mut snapshot, "/apps/blog/web/manifest", served);
    assert!(!step(&snapshot, touched));
    let touched = put(&mut snapshot, job, r#"{"image": "job"}"#);
    assert!(step(&snapshot, touched));
    let touched = put(&mut snapshot, job, r#"{"image": "job", "scale": 2}"#);
    assert!(step(&snapshot, touched));
    let touched = put(&mut snapshot, web, served);
    assert!(step(&snapshot, touched));
    let touched = delete(&mut snapshot, job);
    assert!(step(&snapshot, touched));
    let touched = put(&mut snapshot, web, "{");
    assert!(step(&snapshot, touched));
    let touched = delete(&mut snapshot, web);
    assert!(!step(&snapshot, touched));
}

/// Hosts and services, as the indexes have them.
fn places(directory: &Directory) -> Vec<String> {
    let hosts = directory.hosts().map(|host| {
        let addrs: Vec<IpAddr> = directory.addresses_of(host).collect();
        for addr in &addrs {
            assert!(directory.hosts_at(*addr).any(|at| at == host));
        }
        format!("{host} {addrs:?}")
    });
    let services = directory.services().map(|(id, endpoints)| {
        let of = directory.services_of(&id.app);
        let named = directory.services_named(&id.service);
        assert_eq!(of.chain(named).filter(|(other, _)| *other == id).count(), 2);
        format!("{id} {}", endpoints.size())
    });
    hosts.chain(services).collect()
}

#[test]
fn hosts_and_services_are_found_by_address_and_by_name() {
    let mut snapshot = Snapshot::default();
    let mut directory = Directory::default();
    let state = |addr: &str, service: &str| {
        format!(r#"{{"instance":"i","state":"ready","addr":"{addr}","ports":{{"{service}":1}}}}"#)
    };
    let mut step = |snapshot: &Snapshot, touched: Touched| {
        directory.update(snapshot, &touched);
        assert_eq!(places(&directory), places(&Directory::new(snapshot)));
        let at = |last| directory.hosts_at(IpAddr::from([10, 0, 0, last]));
        let at = |last| at(last).map(HostName::as_str).collect::<Vec<_>>().join(" ");
        let web = "web".parse().unwrap();
        let named = directory.services_named(&web);
        let named: Vec<&str> = named.map(|(id, _)| id.app.as_str()).collect();
        format!("{} | {} | {}", at(1), at(2), named.join(" "))
    };
    for (slot, host) in [
        ("shop/web/slots/0", "h1"),
        ("shop/web/slots/1", "h1"),
        ("blog/web/slots/0", "h2"),
    ] {
        let claim = format!(r#"{{"host":"{host}","instance":"i","version":1}}"#);
        put(&mut snapshot, &format!("/claims/{slot}"), &claim);
    }
    let mut says = |key: &str, value: Option<&str>| {
        let key = format!("/claims/{key}");
        let touched = match value {
            Some(value) => put(&mut snapshot, &key, value),
            None => delete(&mut snapshot, &key),
        };
        step(&snapshot, touched)
    };
    let (web, other) = (state("10.0.0.1", "web"), state("10.0.0.2", "web"));
    assert_eq!(says("shop/web/slots/0.state", Some(&web)), "h1 |  | shop");
    assert_eq!(says("shop/web/slots/1.state", Some(&web)), "h1 |  | shop");
    let said = says("blog/web/slots/0.state", Some(&web));
    assert_eq!(
        said, "h1 h2 |  | blog shop",
        "two hosts may have one address"
    );
    let said = says("shop/web/slots/0.state", Some(&other));
    assert_eq!(said, "h1 h2 | h1 | blog shop", "and one host two");
    assert_eq!(says("shop/web/slots/1", None), "h2 | h1 | blog shop");
    let api = state("10.0.0.1", "api");
    assert_eq!(says("blog/web/slots/0.state", Some(&api)), "h2 | h1 | shop");
    assert_eq!(says("blog/web/slots/0", None), " | h1 | shop");
    assert_eq!(says("shop/web/slots/0", None), " |  | ");
}

/// All that readers may ask.
fn said(directory: &Directory, apps: &[&str], services: &[&str]) -> Vec<String> {
    let listed = |endpoints: &Endpoints| endpoints.values().cloned().collect::<Vec<_>>();
    let mut said = places(directory);
    for app in apps {
        said.push(format!(
            "{app} {}",
            directory.has_app(&app.parse().unwrap())
        ));
        for service in services {
            let id = ServiceId {
                app: app.parse().unwrap(),
                service: service.parse().unwrap(),
            };
            let label = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
            let labels = [label(service), label(app)].concat();
            let addresses = directory.addresses(&labels);
            let endpoints = directory.endpoints(&id).map(listed);
            said.push(format!("{id} {endpoints:?} {addresses:?}"));
        }
    }
    for service in services {
        let named = directory.services_named(&service.parse().unwrap());
        let named = named.map(|(id, endpoints)| (id, listed(endpoints)));
        said.push(format!("{service} {:?}", named.collect::<Vec<_>>()));
    }
    for host in directory.hosts() {
        said.push(format!("{host} {:?}", directory.endpoints_on(host)));
    }
    said
}

#[test]
fn followed_through_any_history_it_is_as_made_anew_and_readers_keep_theirs() {
    let mut next = random();
    let (apps, services) = (["shop", "blog"], ["web", "api"]);
    let mut snapshot = Snapshot::default();
    let mut directory = Directory::default();
    let mut kept: Option<(Directory, Vec<String>)> = None;
    let mut served = 0;
    for step in 0..4_000 {
        let mut touched = Touched::default();
        for _ in 0..=next(3) {
            let id = format!("{}/c{}", apps[next(2) as usize], next(2));
            let (slot, host, instance) = (next(3), next(3), next(2));
            let service = services[next(2) as usize];
            let (key, value) = match next(8) {
                0 => (format!("/hosts/h{host}/record"), RECORD.to_owned()),
                1 => {
                    let both = r#""web": 80, "api": {"port": 81, "protocol": "udp"}"#;
                    let one = format!(r#""{service}": 80"#);
                    let named = [both, &one, ""][next(3) as usize];
                    let manifest = format!(r#"{{"image": "web", "services": {{{named}}}}}"#);
                    let odd = next(6) == 0;
                    let text = if odd { "{".to_owned() } else { manifest };
                    (format!("/apps/{id}/manifest"), text)
                }
                2 => {
                    let manifest = format!(
                        r#"{{"image": "web", "services": {{"{service}": {{"port": 80, "protocol": "udp"}}}}}}"#
                    );
                    let version = format!(r#"{{"manifest": {manifest}, "image": "sha256:1"}}"#);
                    (format!("/claims/{id}/versions/1"), version)
                }
                3 | 4 => {
                    let claim =
                        format!(r#"{{"host":"h{host}","instance":"i{instance}","version":1}}"#);
                    (format!("/claims/{id}/slots/{slot}"), claim)
                }
                _ => {
                    let phase = ["ready", "unready"][next(2) as usize];
                    let ports = [r#""web":1"#, r#""web":1,"api":2"#, ""][next(3) as usize];
                    let state = format!(
                        r#"{{"instance":"i{instance}","state":"{phase}","addr":"10.0.0.{host}","ports":{{{ports}}}}}"#
                    );
                    (format!("/claims/{id}/slots/{slot}.state"), state)
                }
            };
            touched.extend(if next(4) == 0 {
                delete(&mut snapshot, &key)
            } else {
                put(&mut snapshot, &key, &value)
            });
        }
        directory.update(&snapshot, &touched);
        let now = said(&directory, &apps, &services);
        assert_eq!(
            now,
            said(&Directory::new(&snapshot), &apps, &services),
            "{step}"
        );
        served += directory.services().filter(|(_, e)| e.size() > 1).count();
        if let Some((directory, before)) = &kept {
            assert_eq!(&said(directory, &apps, &services), before, "{step}");
        }
        if next(5) == 0 {
            kept = Some((directory.clone(), now));
        }
    }
    assert!(served > 1_000, "{served}");
}
