//! `before`: once for each version, on one host, and nothing is touched until it is done.

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::process::Ran;
use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{App, CAP, Cluster, now, web, with};

/// Runs before a version that were started since then: each with its host and version.
fn started(app: &App, since: f64) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for host in app.lab.hosts() {
        for event in host.engine().events(since, now()).expect("events") {
            let version = event.attributes.get("dokkaa.before");
            let is_ours = event.attributes.get("dokkaa.app") == Some(&app.name);
            if let Some(version) = version.filter(|_| is_ours && event.action == "start") {
                found.push((host.name().to_owned(), version.clone()));
            }
        }
    }
    found
}

#[track_caller]
fn dokkaa(app: &App, words: &[&str]) -> Ran {
    let ran = app.lab.host(1).dokkaa(words).expect("run");
    assert_eq!(ran.code(), 0, "{words:?}: {ran}");
    ran
}

/// Three slots that need a database, and what is to run there before.
fn shop(page: &str, script: &str) -> Value {
    let before = json!({"command": ["sh", "-c", script], "timeout": "1m"});
    let linked = with(with(web(page), "links", json!(["sql"])), "before", before);
    with(linked, "scale", json!(3))
}

const ASKS: &str = "wget -q -O - http://$SERVICE_SQL_ADDR:$SERVICE_SQL_PORT/";

fn database(app: &App, page: &str) {
    app.put("db", &with(web(page), "services", json!({"sql": 80})));
    app.ready("db", 1);
}

#[track_caller]
fn fails(app: &App, why: &str) {
    let id = format!("{}/web", app.name);
    wait_for("the reason of its failure", CAP, || {
        let said = dokkaa(app, &["why", &id]).to_string();
        if said.contains(why) {
            Ok(())
        } else {
            Err(said)
        }
    });
}

#[test]
fn it_runs_once_for_a_version_and_its_failure_touches_nothing() {
    let cluster = Cluster::take();
    let app = cluster.app("before");
    let id = "before/web";
    let since = now();
    database(&app, "the database");
    let migrates = format!("{ASKS} && echo migrated");
    app.put("web", &shop("one", &migrates));
    let old: Vec<String> = app.ready("web", 3).into_iter().map(|(_, c)| c.id).collect();
    assert_eq!(started(&app, since).len(), 1);
    let said = dokkaa(&app, &["logs", "--before", id]).to_string();
    assert!(
        said.contains("the database") && said.contains("migrated"),
        "{said}"
    );

    app.put("web", &shop("two", "echo broken; exit 3"));
    fails(&app, "`before` failed: exited with code 3");
    let status = app.lab.host(1).dokkaa(&["rollout", "status", id]);
    let status = status.expect("run");
    assert_eq!(status.code(), 4, "{status}");
    let status = status.to_string();
    assert!(status.contains("halted, `before` failed"), "{status}");
    assert_eq!(app.ids("web"), old);
    assert_eq!(started(&app, since).len(), 2);
    let said = dokkaa(&app, &["logs", "--before", id]).to_string();
    assert!(said.contains("broken"), "{said}");

    dokkaa(&app, &["rollout", "resume", id]);
    wait_for("another try", CAP, || match started(&app, since).len() {
        3 => Ok(()),
        other => Err(format!("{other} starts")),
    });
    fails(&app, "`before` failed: exited with code 3");
    assert_eq!(app.ids("web"), old);

    app.put("web", &shop("two", &migrates));
    let new: Vec<String> = app.ready("web", 3).into_iter().map(|(_, c)| c.id).collect();
    assert!(new.iter().all(|id| !old.contains(id)), "{old:?} {new:?}");
    assert_eq!(started(&app, since).len(), 4);

    dokkaa(&app, &["restart", id, "--wait"]);
    let restarted = app.ready("web", 3).into_iter().map(|(_, c)| c.id);
    assert!(restarted.into_iter().all(|id| !new.contains(&id)));
    assert_eq!(started(&app, since).len(), 4);
}

#[test]
fn it_is_waited_for_when_its_agent_is_killed() {
    let cluster = Cluster::take();
    let app = cluster.app("before-kill");
    let since = now();
    database(&app, "wait");
    let waits = format!("until [ \"$({ASKS})\" = go ]; do sleep 0.2; done");
    app.put("web", &shop("one", &waits));
    let (name, _) = wait_for("its start", CAP, || {
        let started = started(&app, since);
        started.first().cloned().ok_or("none".to_owned())
    });
    let mut hosts = app.lab.hosts().iter();
    let host = hosts.find(|host| host.name() == name).expect("a host");
    host.kill_agent().expect("killed");
    host.start_agent(&AgentOptions::default()).expect("started");
    assert!(app.running("web").is_empty());
    database(&app, "go");
    app.ready("web", 3);
    assert_eq!(started(&app, since).len(), 1);
}
