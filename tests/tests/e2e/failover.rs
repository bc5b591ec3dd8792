//! Hosts are lost and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::engine::Container;
use dokkaa_tests::host::Host;
use dokkaa_tests::process::Ran;
use dokkaa_tests::{Lab, wait_for};
use serde_json::{Value, json};

use super::{App, CAP, Cluster, client, resolved, web, with};

/// A lost host's record ends, its slots are taken over, and others are ready.
const FAILOVER: Duration = Duration::from_secs(30);

/// Six slots of a service on three hosts, and a client on each.
fn served(cluster: &Cluster, name: &str) -> App {
    let app = cluster.app(name);
    app.put("web", &with(web("served"), "scale", json!(6)));
    app.put("asker", &with(client("web", "WEB"), "scale", json!(3)));
    app.ready("web", 6);
    app.ready("asker", 3);
    for host in cluster.lab.hosts() {
        let all = host.containers(name).expect("containers");
        assert_eq!(all.len(), 3, "{}: {all:#?}", host.name());
    }
    app
}

/// Waits until no claim of the app names the host, and what took its slots over
/// is ready; the host's API is not asked.
#[track_caller]
fn taken_over(app: &App, container: &str, scale: usize, lost: &Host) {
    wait_for(&format!("{} to be replaced", lost.name()), FAILOVER, || {
        let claims = app.claims(container);
        let rows = app.rows(container)?;
        let good = |slot: u64, host: &str| {
            host != lost.name()
                && rows
                    .iter()
                    .any(|row| row.slot == Some(slot) && row.host == host && row.status == "ready")
        };
        let all = claims
            .iter()
            .all(|(slot, claim)| good(u64::from(*slot), host_of(claim)));
        if claims.len() == scale && all {
            Ok(())
        } else {
            Err(format!("{claims:#?} {rows:#?}"))
        }
    });
}

fn host_of(claim: &Value) -> &str {
    claim["host"].as_str().unwrap_or_default()
}

/// What there is of the app on a host is exactly what the claims name.
#[track_caller]
fn nothing_left(app: &App, host: &Host) {
    let what = format!("{} to have what it claims and nothing else", host.name());
    wait_for(&what, CAP, || {
        let found = host
            .containers(&app.name)
            .map_err(|error| format!("{error:#}"))?;
        let found: BTreeSet<(String, bool)> = found
            .iter()
            .map(|one| (one.label("instance").to_owned(), one.runs()))
            .collect();
        let wanted: BTreeSet<(String, bool)> = ["web", "asker"]
            .iter()
            .flat_map(|container| app.claims(container).into_values())
            .filter(|claim| host_of(claim) == host.name())
            .map(|claim| {
                (
                    claim["instance"].as_str().unwrap_or_default().to_owned(),
                    true,
                )
            })
            .collect();
        if found == wanted {
            Ok(())
        } else {
            Err(format!("{found:?} instead of {wanted:?}"))
        }
    });
}

/// The live hosts' addresses are all that DNS on them says.
#[track_caller]
fn announced(app: &App, hosts: &[&Host]) {
    let wanted: BTreeSet<String> = hosts
        .iter()
        .map(|host| host.address().to_string())
        .collect();
    wait_for(&format!("DNS to say {wanted:?}"), CAP, || {
        for host in hosts {
            let at = host
                .gateway()
                .map(|gateway| format!("@{gateway}"))
                .map_err(|error| format!("{error:#}"))?;
            let said: BTreeSet<String> = host
                .dig(&[&at, &app.domain("web"), "A"])
                .map_err(|error| format!("{error:#}"))?
                .into_iter()
                .collect();
            if said != wanted {
                return Err(format!("{}: {said:?}", host.name()));
            }
        }
        Ok(())
    });
}

/// The slot number of the client that is on a host.
#[track_caller]
fn asker_on(app: &App, host: &Host) -> usize {
    app.running("asker")
        .iter()
        .position(|(on, _)| on.name() == host.name())
        .expect("a client there")
}

#[track_caller]
fn fetched(app: &App, host: &Host) {
    let what = format!("pages for the client on {}", host.name());
    wait_for(&what, CAP, || {
        app.fetches("asker", asker_on(app, host), "WEB", 12)
    });
}

fn ids(containers: &[Container]) -> BTreeSet<String> {
    containers.iter().map(|one| one.id.clone()).collect()
}

#[test]
fn the_slots_of_a_host_without_power_run_elsewhere() {
    let cluster = Cluster::take();
    let app = served(&cluster, "powerless");
    let lost = cluster.lab.host(3);
    let live = [cluster.lab.host(1), cluster.lab.host(2)];
    let before = ids(&lost.containers(&app.name).expect("containers"));

    lost.power_off().expect("power off");
    taken_over(&app, "web", 6, lost);
    taken_over(&app, "asker", 3, lost);
    announced(&app, &live);
    for host in live {
        fetched(&app, host);
    }

    // It is back: nothing of what it had is started, and nothing of it stays.
    let back = super::now();
    lost.power_on().expect("power on");
    lost.start_agent(&AgentOptions::default()).expect("start");
    app.ready("web", 6);
    app.ready("asker", 3);
    nothing_left(&app, lost);
    let started: Vec<_> = lost
        .engine()
        .events(back, super::now())
        .expect("events")
        .into_iter()
        .filter(|event| event.action == "start" && before.contains(&event.id))
        .collect();
    assert!(started.is_empty(), "{started:?}");
    for host in live {
        fetched(&app, host);
    }
}

#[test]
fn a_host_whose_agent_stays_away_is_replaced_while_its_containers_run() {
    let cluster = Cluster::take();
    let app = served(&cluster, "unattended");
    let lost = cluster.lab.host(2);
    let before = lost.containers(&app.name).expect("containers");
    lost.kill_agent().expect("kill");
    taken_over(&app, "web", 6, lost);
    taken_over(&app, "asker", 3, lost);
    assert_eq!(lost.containers(&app.name).expect("containers"), before);
    announced(&app, &[cluster.lab.host(1), cluster.lab.host(3)]);
    others_tell(cluster.lab.host(3), lost, "host-missing");

    lost.start_agent(&AgentOptions::default()).expect("start");
    app.ready("web", 6);
    app.ready("asker", 3);
    nothing_left(&app, lost);
    others_tell(cluster.lab.host(3), lost, "host-back");
}

/// Waits until an event of another host says this of a host; only one of them tells it.
#[track_caller]
fn others_tell(asked: &Host, about: &Host, kind: &str) {
    let told = wait_for(&format!("{kind} of {}", about.name()), CAP, || {
        let events = asked
            .dokkaa(&["events", "--since", "5m", "-o", "json"])
            .and_then(Ran::ok)
            .map_err(|error| format!("{error:#}"))?;
        let lines = events.lines().map(serde_json::from_str::<Value>);
        let all: Vec<Value> = lines
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{error}: {events}"))?;
        let of_host = |event: &&Value| event["kind"] == kind && event["of_host"] == about.name();
        let tellers = all.iter().rev().filter(of_host);
        let tellers: Vec<String> = tellers.map(|event| event["host"].to_string()).collect();
        if tellers.is_empty() {
            Err(format!("{all:#?}"))
        } else {
            Ok(tellers)
        }
    });
    let hosts: BTreeSet<&String> = told.iter().collect();
    assert_eq!(hosts.len(), 1, "{told:?}");
}

#[test]
fn a_host_that_is_cut_off_is_doubled_only_while_it_is() {
    let cluster = Cluster::take();
    let app = served(&cluster, "islanded");
    let lost = cluster.lab.host(3);
    let before = lost.containers(&app.name).expect("containers");
    lost.unplug().expect("unplug");
    taken_over(&app, "web", 6, lost);
    taken_over(&app, "asker", 3, lost);
    announced(&app, &[cluster.lab.host(1), cluster.lab.host(2)]);
    // The island lives on with what it knows.
    assert_eq!(lost.containers(&app.name).expect("containers"), before);
    let own = before
        .iter()
        .find(|one| one.label("container") == "asker")
        .expect("a client");
    wait_for("a page on the island", CAP, || {
        lost.docker(&[
            "exec",
            &own.id,
            "sh",
            "-c",
            "timeout 5 wget -q -O - http://$SERVICE_WEB_ADDR:$SERVICE_WEB_PORT/",
        ])
        .map_err(|error| format!("{error:#}"))
    });

    lost.plug().expect("plug");
    app.ready("web", 6);
    app.ready("asker", 3);
    nothing_left(&app, lost);
    for host in [cluster.lab.host(1), cluster.lab.host(2)] {
        fetched(&app, host);
    }
}

/// The first host back is not given what the others have: while more than one
/// is missing, nothing moves.
#[test]
fn after_a_power_cut_of_everything_each_host_takes_up_its_own() {
    let cluster = Cluster::take();
    let app = served(&cluster, "blackout");
    let claims = || ["web", "asker"].map(|container| app.claims(container));
    let before = claims();
    for host in cluster.lab.hosts() {
        host.power_off().expect("power off");
    }
    wait_for("the end of all records", CAP, || no_record(cluster.lab));
    let [one, two, three] = [1, 2, 3].map(|number| cluster.lab.host(number));
    for host in [one, two] {
        host.power_on().expect("power on");
    }
    one.start_agent(&AgentOptions::default()).expect("start");
    let why = "2 of 3 hosts are missing";
    app.row("web", "paused", |row| row.reason.contains(why));
    assert_eq!(claims(), before);
    two.start_agent(&AgentOptions::default()).expect("start");
    three.power_on().expect("power on");
    three.start_agent(&AgentOptions::default()).expect("start");
    app.ready("web", 6);
    app.ready("asker", 3);
    // The last one is waited for as well.
    assert_eq!(claims(), before);
    for host in cluster.lab.hosts() {
        nothing_left(&app, host);
    }
    fetched(&app, app.running("asker")[0].0);
}

fn no_record(lab: &Lab) -> Result<(), String> {
    let records: Vec<String> = lab
        .etcd()
        .list("/hosts/")
        .map_err(|error| format!("{error:#}"))?
        .into_iter()
        .map(|(key, _)| key)
        .filter(|key| key.ends_with("/record"))
        .collect();
    if records.is_empty() {
        Ok(())
    } else {
        Err(format!("{records:?}"))
    }
}

/// Nothing but the record is written, once as it goes and once as it is back.
#[test]
fn a_restart_within_the_grace_costs_two_writes() {
    let cluster = Cluster::take();
    let app = served(&cluster, "graced");
    let host = cluster.lab.host(2);
    let revision = || cluster.lab.etcd().revision().expect("revision");
    let all = || -> BTreeMap<String, String> {
        cluster
            .lab
            .etcd()
            .list("/")
            .expect("etcd")
            .into_iter()
            .filter(|(key, _)| !key.ends_with("/h2/record"))
            .collect()
    };
    wait_for("the last status", CAP, || {
        let said = cluster.lab.etcd().list("/status/graced/").expect("etcd");
        let ready = |status: &String| status.contains(r#""progress":"ready""#);
        if said.len() == 9 && said.iter().all(|(_, status)| ready(status)) {
            Ok(())
        } else {
            Err(format!("{said:#?}"))
        }
    });
    // Nor is anything left to be said of their versions.
    wait_for("all versions to be good", CAP, || {
        let said = cluster.lab.etcd().list("/claims/graced/").expect("etcd");
        let versions = said.iter().filter(|(key, _)| key.contains("/versions/"));
        let mut open = versions.filter(|(_, version)| !version.contains(r#""good":true"#));
        open.next().map_or(Ok(()), |(key, _)| Err(key.clone()))
    });
    let (before, keys) = (revision(), all());
    host.stop_agent().expect("stop");
    host.start_agent(&AgentOptions::default()).expect("start");
    app.ready("web", 6);
    // Its slots are ready all the while, also before its record is back.
    wait_for("its record to be back", CAP, || {
        let writes = revision() - before;
        (writes >= 2)
            .then_some(())
            .ok_or(format!("{writes} writes"))
    });
    assert_eq!(revision(), before + 2);

    // Longer than any lease lives: what counts is that it said goodbye.
    let stopped = Instant::now();
    host.stop_agent().expect("stop");
    wait_for("ten seconds", CAP, || {
        assert_eq!(revision(), before + 3);
        if stopped.elapsed() > Duration::from_secs(10) {
            Ok(())
        } else {
            Err("not yet")
        }
    });
    host.start_agent(&AgentOptions::default()).expect("start");
    app.ready("web", 6);
    app.ready("asker", 3);
    assert_eq!(revision(), before + 4);
    assert_eq!(all(), keys);
    let addresses: Vec<String> = cluster
        .lab
        .hosts()
        .iter()
        .map(|host| host.address().to_string())
        .collect();
    resolved(cluster.lab, &app.domain("web"), "A", &addresses);
}
