//! Changes while clients ask all the time: no request fails.

use std::collections::BTreeMap;

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::engine::Container;
use dokkaa_tests::host::Host;
use dokkaa_tests::http::Answer;
use dokkaa_tests::images::{NGINX, UBUNTU};
use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{App, CAP, Cluster, output};

/// One with a new connection for each request, and one that keeps its connection.
const CLIENTS: [&str; 2] = ["fresh", "kept"];

/// A server that finishes what it has when it is asked to stop.
fn server(version: &str) -> Value {
    json!({
        "image": NGINX,
        "scale": 3,
        "services": {"web": 80},
        "stop_signal": "SIGQUIT",
        "drain_timeout": "2s",
        "env": {"VERSION": version},
        "update": {"monitor": "1s"},
        "rebalance": "auto",
    })
}

/// A client of a link, with 200 requests a second once it has the first answer: all on one connection that it keeps until
/// the server closes it, or with this header. Each line of its output is an answer, and the number of connections made for it.
fn client(header: &str) -> Value {
    let to = "http://$SERVICE_WEB_ADDR:$SERVICE_WEB_PORT";
    let ask = format!(
        "until curl -s -o /dev/null {to}; do sleep 0.1; done; \
         exec curl -s -o /dev/null --rate 200/s --max-time 10 -H '{header}' \
         -w '%{{stderr}}%{{num_connects}} %{{http_code}} %{{errormsg}}\\n' \"{to}/?[1-1000000]\""
    );
    json!({
        "image": UBUNTU,
        "links": ["web"],
        "stop_signal": "SIGKILL",
        "command": ["sh", "-c", ask],
    })
}

/// The answers that the clients have had so far, and how many of each.
fn answers(app: &App) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for name in CLIENTS {
        for (host, client) in app.running(name) {
            for line in output(host, &client.id).lines() {
                let answer = line.split_once(' ').map_or(line, |(_, answer)| answer);
                *answers
                    .entry(format!("{name} {}", answer.trim()))
                    .or_default() += 1;
            }
        }
    }
    answers
}

/// Each kind has had so many more answers than before, and all were good.
#[track_caller]
fn all_are_answered(app: &App, before: &BTreeMap<String, usize>, more: usize) {
    let after = wait_for("requests of both kinds", CAP, || {
        let now = answers(app);
        let count = |of: &BTreeMap<String, usize>, kind: &str| of.get(kind).copied().unwrap_or(0);
        let goes_on = |kind: &str| count(&now, kind) >= count(before, kind) + more;
        let has_failed = now.keys().any(|kind| !kind.ends_with(" 200"));
        if has_failed || (goes_on("fresh 200") && goes_on("kept 200")) {
            Ok(now)
        } else {
            Err(format!("{now:?}"))
        }
    });
    let kinds: Vec<&str> = after.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["fresh 200", "kept 200"], "{after:?}");
}

/// Sets the availability of a host.
#[track_caller]
fn set(cluster: &Cluster, host: &str, availability: &str) {
    let path = format!("/dokkaa/v1/hosts/{host}/availability");
    let body = json!({"availability": availability}).to_string();
    let answer = cluster.lab.host(1).api("PUT", &path, &[], &body);
    let answer = answer.and_then(Answer::ok);
    assert!(answer.is_ok(), "{answer:?}");
}

/// Waits until other containers than these are what runs.
#[track_caller]
fn replaced(app: &App, old: &[(&Host, Container)]) {
    wait_for("other containers", CAP, || {
        let new = app.ids("web");
        let is_old = |(_, old): &(_, Container)| new.contains(&old.id);
        if new.len() == 3 && !old.iter().any(is_old) {
            Ok(())
        } else {
            Err(format!("{new:?}"))
        }
    });
}

/// Waits until the service has three containers, and as many on a host as wanted.
#[track_caller]
fn settled(app: &App, host: &str, is_wanted: impl Fn(usize) -> bool) {
    wait_for("three containers, and a host's share", CAP, || {
        let running = app.running("web");
        let there = running.iter().filter(|(one, _)| one.name() == host).count();
        if running.len() == 3 && is_wanted(there) {
            Ok(())
        } else {
            Err(format!("{there} of {}", running.len()))
        }
    });
}

#[test]
fn no_change_fails_a_request() {
    let cluster = Cluster::take();
    let app = cluster.app("load");
    app.put("web", &server("1"));
    let first = app.ready("web", 3);
    app.put("fresh", &client("Connection: close"));
    app.put("kept", &client("Accept: */*"));
    let clients: Vec<_> = CLIENTS.iter().flat_map(|name| app.ready(name, 1)).collect();
    all_are_answered(&app, &BTreeMap::new(), 100);

    // An update, and back.
    let before = answers(&app);
    app.put("web", &server("2"));
    replaced(&app, &first);
    let second = app.ready("web", 3);
    all_are_answered(&app, &before, 500);
    let before = answers(&app);
    let host = cluster.lab.host(1);
    host.dokkaa(&["rollback", "load/web", "--wait"])
        .expect("a rollback");
    replaced(&app, &second);
    all_are_answered(&app, &before, 500);

    // A host without a client is drained, and gets its share again when it is active.
    let has_client = |name: &str| clients.iter().any(|(host, _)| host.name() == name);
    let mut hosts = cluster.lab.hosts().iter();
    let drained = hosts.find(|host| !has_client(host.name())).expect("a host");
    settled(&app, drained.name(), |there| there > 0);
    let before = answers(&app);
    set(&cluster, drained.name(), "drain");
    settled(&app, drained.name(), |there| there == 0);
    all_are_answered(&app, &before, 200);
    let before = answers(&app);
    set(&cluster, drained.name(), "active");
    settled(&app, drained.name(), |there| there > 0);
    all_are_answered(&app, &before, 200);

    // And once more: what it had comes back when it is asked for.
    let before = answers(&app);
    let had = app
        .running("web")
        .iter()
        .filter(|(host, _)| host.name() == drained.name())
        .count();
    for command in [
        ["drain", drained.name(), "--wait"].as_slice(),
        &["activate", drained.name(), "--return", "--wait"],
    ] {
        host.dokkaa(command).expect("done");
    }
    settled(&app, drained.name(), |there| there == had);
    all_are_answered(&app, &before, 200);

    // The agent there ends, is killed, and comes back: what it runs goes on.
    let before = answers(&app);
    drained.stop_agent().expect("an end");
    drained
        .start_agent(&AgentOptions::default())
        .expect("a start");
    drained.kill_agent().expect("an end");
    drained
        .start_agent(&AgentOptions::default())
        .expect("a start");
    app.ready("web", 3);
    all_are_answered(&app, &before, 200);
}

/// Requests of the client that keeps its connection, and the connections that it has made for them.
fn kept(app: &App) -> (usize, usize) {
    let (mut requests, mut connects) = (0, 0);
    for (host, client) in app.running("kept") {
        for line in output(host, &client.id).lines() {
            requests += 1;
            connects += usize::from(!line.starts_with("0 "));
        }
    }
    (requests, connects)
}

/// Also that of the clients' own host, which carries their connections.
#[test]
fn no_restart_of_an_agent_fails_a_request() {
    let cluster = Cluster::take();
    let app = cluster.app("restarts");
    app.put("web", &server("1"));
    app.ready("web", 3);
    app.put("fresh", &client("Connection: close"));
    app.put("kept", &client("Accept: */*"));
    for name in CLIENTS {
        app.ready(name, 1);
    }
    all_are_answered(&app, &BTreeMap::new(), 100);
    for _ in 0..3 {
        for host in cluster.lab.hosts() {
            let before = answers(&app);
            let stored = host.stored().expect("names");
            assert!(!stored.is_empty());
            host.restart_agent(&AgentOptions::default())
                .expect("a restart");
            all_are_answered(&app, &before, 100);
            // Open connections are no longer in the store, and it has what it had.
            assert_eq!(host.stored().expect("names"), stored);
        }
    }
    // A connection that breaks while it is idle is made anew by curl without a word. The server closes one after 1,000
    // requests.
    let (requests, connects) = kept(&app);
    assert_eq!(connects, requests.div_ceil(1_000), "of {requests} requests");
}
