//! Agents come and go; containers stay.

use std::time::Duration;

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::host::Host;
use dokkaa_tests::process::Ran;
use dokkaa_tests::wait_for;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{App, CAP, Cluster, resolved, web, with};

/// Id and start of everything that runs, by slot.
fn running(app: &App) -> Vec<(String, String)> {
    app.running("web")
        .iter()
        .map(|(host, one)| {
            let started = host.engine().inspect(&one.id).expect("inspect")["State"]["StartedAt"]
                .as_str()
                .expect("a time")
                .to_owned();
            (one.id.clone(), started)
        })
        .collect()
}

fn record(cluster: &Cluster, host: &Host) -> Value {
    let text = cluster
        .lab
        .etcd()
        .get(&format!("/hosts/{}/record", host.name()))
        .expect("etcd")
        .unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

#[test]
fn a_restarted_agent_adopts_without_touching() {
    let cluster = Cluster::take();
    let app = cluster.app("adopted");
    app.put("web", &with(web("stay"), "scale", json!(6)));
    app.ready("web", 6);
    let before = running(&app);
    let host = cluster.lab.host(2);
    let session = record(&cluster, host)["session"].clone();

    let (status, took) = host.stop_agent().expect("stop");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(3), "it took {took:?}");
    assert_eq!(record(&cluster, host)["state"], "restarting");
    assert_eq!(running(&app), before);
    host.start_agent(&AgentOptions::default()).expect("start");
    wait_for("the record to say up", CAP, || {
        let now = record(&cluster, host);
        if now["state"] == "up" && now["session"] != session {
            Ok(())
        } else {
            Err(now.to_string())
        }
    });
    app.ready("web", 6);
    assert_eq!(running(&app), before);

    // Killed without a word, it is the same.
    host.kill_agent().expect("kill");
    host.start_agent(&AgentOptions::default()).expect("start");
    app.ready("web", 6);
    assert_eq!(running(&app), before);
}

/// Links and names asked for while no agent is there are answered by the next one.
#[test]
fn after_a_crash_the_next_agent_answers_what_waits() {
    let cluster = Cluster::take();
    let app = cluster.app("crashed");
    app.put("web", &web("waited for"));
    app.ready("web", 1);
    let idle = json!({
        "image": "busybox",
        "links": ["web"],
        "stop_signal": "SIGKILL",
        "command": ["sleep", "1000000"],
    });
    app.put("asker", &idle);
    let (host, asker) = app.ready("asker", 1).remove(0);
    let fetch = "timeout 60 wget -q -O - http://$SERVICE_WEB_ADDR:$SERVICE_WEB_PORT/";
    let fetch = ["exec", &asker.id, "sh", "-c", fetch];
    let page = host.docker(&fetch).expect("the page");
    let at = format!("@{}", host.gateway().expect("gateway"));
    let name = app.domain("web");
    // The next agent answers from what this one has saved.
    wait_for("a view on disk that knows the service", CAP, || {
        let knows = "grep -qa /claims/crashed/web/slots/0.state /var/lib/dokkaa/view";
        host.sh(knows).map_err(|error| format!("{error:#}"))
    });

    let manager = host.end_agent(Signal::KILL).expect("an end");
    std::thread::scope(|scope| {
        let page_later = scope.spawn(|| host.docker(&fetch));
        let name_later = scope.spawn(|| host.run(&["dig", "+short", "+time=60", &at, &name]));
        wait_for("a connection and a question to wait", CAP, || {
            let connections = host.sh("ss -Htn state established sport = :10000");
            let questions = host.sh("ss -Huln sport = :53");
            let waits = |questions: &str| {
                let queued = |line: &str| Some(line.split_whitespace().nth(1)? != "0");
                questions.lines().filter_map(queued).any(|waits| waits)
            };
            match (connections, questions) {
                (Ok(open), Ok(asked)) if !open.is_empty() && waits(&asked) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        host.launch_agent_after(&AgentOptions::default(), manager)
            .expect("a start");
        let later = page_later.join().expect("no panic").expect("the page");
        assert_eq!(later, page);
        let name = name_later.join().expect("no panic").expect("dig");
        assert_eq!(name.stdout.lines().count(), 1, "{name}");
    });
    host.wait_agent().expect("ready");
    app.ready("asker", 1);
}

#[test]
fn what_was_deleted_meanwhile_is_removed_by_the_agent_that_returns() {
    let cluster = Cluster::take();
    let app = cluster.app("meanwhile");
    app.put("web", &with(web("x"), "scale", json!(3)));
    let hosts = app.ready("web", 3);
    let host = cluster.lab.host(3);
    assert!(hosts.iter().any(|(one, _)| one.name() == host.name()));
    host.stop_agent().expect("stop");
    app.put("web", &with(web("x"), "scale", json!(0)));
    wait_for("the end of the others", CAP, || {
        let left = app.running("web");
        if left.iter().all(|(one, _)| one.name() == host.name()) {
            Ok(())
        } else {
            Err(format!("{} run", left.len()))
        }
    });
    assert_eq!(app.ids("web").len(), 1, "nobody else stops h3's");
    host.start_agent(&AgentOptions::default()).expect("start");
    app.gone("web");
}

/// An agent without its etcd goes on with what it has.
#[test]
fn without_etcd_containers_and_names_stay() {
    let cluster = Cluster::take();
    let app = cluster.app("cutoff");
    app.put("web", &with(web("still here"), "scale", json!(3)));
    app.put(
        "asker",
        &with(super::client("web", "WEB"), "scale", json!(3)),
    );
    app.ready("web", 3);
    app.ready("asker", 3);
    let elsewhere = |app: &App| -> Vec<String> {
        app.running("web")
            .into_iter()
            .filter(|(host, _)| host.name() != "h3")
            .map(|(_, one)| one.id)
            .collect()
    };
    let before = elsewhere(&app);
    let (host, container) = app
        .running("web")
        .into_iter()
        .find(|(host, _)| host.name() == "h3")
        .expect("one on h3");
    let (outside, others) = ("outside.skydns.local", "192.0.2.9".to_owned());
    let etcd = cluster.lab.etcd();
    let key = "/skydns/local/skydns/outside";
    etcd.put(key, r#"{"host":"192.0.2.9"}"#).expect("put");
    resolved(cluster.lab, outside, "A", std::slice::from_ref(&others));
    host.unplug().expect("unplug");
    let ready = |wanted: &str| {
        let metrics = host.metrics().map_err(|error| error.to_string())?;
        metrics
            .lines()
            .any(|line| line.contains("etcd_up") && line.ends_with(wanted))
            .then_some(())
            .ok_or(metrics)
    };
    wait_for("h3 to see that etcd is away", CAP, || ready(" 0"));
    // Names are still answered, and what crashes is started again.
    let at = format!("@{}", host.gateway().expect("gateway"));
    let name = app.domain("web");
    assert_eq!(host.dig(&[&at, &name, "A"]).expect("dig").len(), 3);
    host.docker(&["kill", &container.id]).expect("kill");
    let runs_again = || {
        let running = host
            .containers(&app.name)
            .map_err(|error| error.to_string())?;
        if running
            .iter()
            .any(|one| one.runs() && one.label("container") == "web")
        {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    };
    wait_for("it to be started again", CAP, runs_again);
    // Also by an agent that starts without etcd: it has the view on its disk.
    host.stop_agent().expect("stop");
    host.docker(&["kill", &container.id]).expect("kill");
    host.launch_agent(&AgentOptions::default()).expect("start");
    wait_for("it to be started by the next agent", CAP, runs_again);
    let names = || {
        let found = host.dig(&[&at, &name, "A"]).map_err(|e| e.to_string())?;
        if found.len() == 3 {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    };
    wait_for("names to be answered again", CAP, names);
    assert_eq!(host.dig(&[&at, outside, "A"]).expect("dig"), [others]);
    let said = || host.dokkaa(&["dns", outside]).and_then(Ran::ok);
    let explained = said().expect("explained");
    assert!(explained.contains("etcd has not confirmed"), "{explained}");
    host.plug().expect("plug");
    wait_for("h3 to see etcd again", CAP, || ready(" 1"));
    wait_for("its records to be confirmed", CAP, || {
        let explained = said().map_err(|error| format!("{error:#}"))?;
        let is_confirmed = explained.contains("192.0.2.9\n") && !explained.contains("confirmed");
        is_confirmed.then_some(()).ok_or(explained)
    });
    etcd.delete(key).expect("deleted");
    resolved(cluster.lab, outside, "A", &[]);
    app.ready("web", 3);
    for id in &before {
        assert!(
            elsewhere(&app).contains(id),
            "what ran elsewhere was left alone"
        );
    }
}
