//! The user's commands, where it takes several hosts to show them.

use dokkaa_tests::host::Host;
use dokkaa_tests::process::Ran;
use serde_json::{Value, json};

use super::{Cluster, web, with};

fn apply(host: &Host, words: &[&str], manifest: &Value) -> Ran {
    let all = [&["dokkaa", "apply"], words, &["-"]].concat();
    host.node()
        .run_with(&all, Some(manifest.to_string().as_bytes()))
        .expect("run")
}

#[test]
fn apply_waits_for_the_end_and_says_which() {
    let cluster = Cluster::take();
    let app = cluster.app("applied");
    let host = cluster.lab.host(3);
    let ran = apply(
        host,
        &["--wait", "applied/web"],
        &with(web("x"), "scale", json!(2)),
    );
    assert_eq!(ran.code(), 0, "{ran}");
    assert_eq!(app.ids("web").len(), 2);
    let ran = apply(
        host,
        &["applied/web"],
        &json!({"image": "busybox", "scale": -1}),
    );
    assert_eq!(ran.code(), 3, "{ran}");
    let crashing = with(web("x"), "command", json!(["sh", "-c", "exit 5"]));
    let ran = apply(
        host,
        &["--wait", "applied/web"],
        &with(crashing, "scale", json!(2)),
    );
    assert_eq!(ran.code(), 4, "{ran}");
    let never = with(
        with(web("x"), "command", json!(["sleep", "1000"])),
        "start_timeout",
        json!("10m"),
    );
    let ran = apply(
        host,
        &["--wait", "--timeout", "3s", "applied/never"],
        &never,
    );
    assert_eq!(ran.code(), 5, "{ran}");
}

#[test]
fn scale_set_get_and_rm_work_from_any_host() {
    let cluster = Cluster::take();
    let app = cluster.app("commanded");
    let host = cluster.lab.host(2);
    app.put("web", &web("x"));
    app.ready("web", 1);
    let ran = host.dokkaa(&["scale", "commanded/web=3"]).expect("run");
    assert_eq!(ran.code(), 0, "{ran}");
    app.ready("web", 3);
    let ran = host
        .dokkaa(&["set", "--wait", "commanded/web", "env.COLOUR=red"])
        .expect("run");
    assert_eq!(ran.code(), 0, "{ran}");
    app.ready("web", 3);
    let environment = app.exec("web", 2, &["env"]).expect("env");
    assert!(environment.contains("COLOUR=red"), "{environment}");
    let text = host
        .dokkaa(&["get", "commanded/web"])
        .and_then(Ran::ok)
        .expect("get");
    let manifest: Value = serde_json::from_str(&text).expect("a manifest");
    assert_eq!(manifest["scale"], 3);
    assert_eq!(manifest["env"]["COLOUR"], "red");
    let ran = host.dokkaa(&["rm", "--yes", "commanded/web"]).expect("run");
    assert_eq!(ran.code(), 0, "{ran}");
    app.gone("web");
}

/// Logs come from whichever host, over the peer API, in order of time.
#[test]
fn logs_are_gathered_from_all_hosts() {
    let cluster = Cluster::take();
    let app = cluster.app("spoken");
    let script =
        "for i in 1 2 3; do echo line-$i of slot-$DOKKAA_SLOT; sleep 0.1; done; exec sleep 1000";
    app.put(
        "web",
        &json!({
            "image": "busybox", "scale": 3, "stop_signal": "SIGKILL",
            "command": ["sh", "-c", script],
        }),
    );
    app.ready("web", 3);
    for slot in 0..3 {
        app.prints("web", slot, "line-3");
    }
    for host in cluster.lab.hosts() {
        let ran = host.dokkaa(&["logs", "spoken/web"]).expect("run");
        assert_eq!(ran.code(), 0, "{ran}");
        for slot in 0..3 {
            for line in 1..=3 {
                let wanted = format!("line-{line} of slot-{slot}");
                assert_eq!(ran.stdout.matches(&wanted).count(), 1, "{wanted} in {ran}");
            }
        }
    }
    let ran = cluster
        .lab
        .host(1)
        .dokkaa(&["logs", "--tail", "1", "spoken/web/1"])
        .and_then(Ran::ok)
        .expect("logs");
    assert_eq!(ran.lines().count(), 1, "{ran}");
    assert!(ran.contains("line-3 of slot-1"), "{ran}");
}

#[test]
fn lists_are_json_on_request() {
    let cluster = Cluster::take();
    let host = cluster.lab.host(2);
    let hosts = host
        .dokkaa(&["hosts", "-o", "json"])
        .and_then(Ran::ok)
        .expect("hosts");
    for name in ["h1", "h2", "h3"] {
        assert!(hosts.contains(&format!("\"{name}\"")), "{hosts}");
    }
    serde_json::from_str::<Value>(&hosts).expect("JSON");
    let status = host
        .dokkaa(&["status", "-o", "json"])
        .and_then(Ran::ok)
        .expect("status");
    serde_json::from_str::<Value>(&status).expect("JSON");
    let none = host
        .dokkaa(&["ps", "--addr", "http://127.0.0.1:1"])
        .expect("run");
    assert_eq!(none.code(), 6, "{none}");
}
