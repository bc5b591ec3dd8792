//! What operators do: labels, data on other hosts, hosts that leave.

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::host::Host;
use dokkaa_tests::process::Ran;
use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{CAP, Cluster, web, with};

#[track_caller]
fn dokkaa(host: &Host, words: &[&str], code: i32) -> Ran {
    let ran = host.dokkaa(words).expect("run");
    assert_eq!(ran.code(), code, "{words:?}: {ran}");
    ran
}

#[test]
fn data_on_another_host_is_deleted_when_its_slot_has_gone() {
    let cluster = Cluster::take();
    let app = cluster.app("keeping");
    app.put("db", &with(web("x"), "volumes", json!(["data:/data"])));
    let (on, _) = app.ready("db", 1)[0].clone();
    let mut others = cluster.lab.hosts().iter();
    let other = others.rfind(|host| host.name() != on.name());
    let other = other.expect("another host");

    let list = dokkaa(other, &["volumes", "keeping", "-o", "json"], 0);
    let list: Value = serde_json::from_str(&list.stdout).expect("JSON");
    let row = &list["volumes"][0];
    let name = "keeping---db---0---data";
    assert_eq!(row["docker"], name, "{list}");
    assert_eq!(
        (&row["host"], &row["presence"]),
        (&json!(on.name()), &json!("live"))
    );
    let exists = || {
        let all = on.docker(&["volume", "ls", "-q"]).expect("volumes");
        all.lines().any(|line| line == name)
    };
    assert!(exists());
    dokkaa(other, &["volumes", "rm", "keeping/db/0", "--yes"], 1);
    assert!(exists());
    dokkaa(other, &["rm", "keeping/db", "--volumes", "--yes"], 0);
    assert!(!exists());
    let left = dokkaa(other, &["volumes", "keeping", "-o", "json"], 0);
    let left: Value = serde_json::from_str(&left.stdout).expect("JSON");
    assert_eq!(left["volumes"], json!([]));
}

#[test]
fn a_label_decides_where_a_container_runs() {
    let cluster = Cluster::take();
    let app = cluster.app("labelled");
    let host = cluster.lab.host(2);
    let constrained = json!({"constraints": ["operated==yes"]});
    app.put("web", &with(web("x"), "placement", constrained));
    app.row("web", "refused everywhere", |row| {
        row.status == "waiting" && row.reason.contains("operated")
    });
    dokkaa(
        cluster.lab.host(1),
        &["label", host.name(), "operated=yes"],
        0,
    );
    let running = app.ready("web", 1);
    assert_eq!(running[0].0.name(), host.name());
    let why = dokkaa(cluster.lab.host(3), &["why", "labelled/web/0"], 0);
    assert!(why.stdout.contains("runs it"), "{why}");
    app.delete("web");
    dokkaa(cluster.lab.host(1), &["label", host.name(), "operated-"], 0);
}

#[test]
fn a_host_leaves_when_its_slots_run_elsewhere() {
    let cluster = Cluster::take();
    let app = cluster.app("moving");
    app.put("web", &with(web("x"), "scale", json!(3)));
    app.ready("web", 3);
    let host = cluster.lab.host(3);
    let left = dokkaa(host, &["leave", "--yes", "--timeout", "80s"], 0);
    assert!(left.stdout.contains("has left"), "{left}");
    let running = app.ready("web", 3);
    assert!(running.iter().all(|(on, _)| on.name() != host.name()));
    wait_for("the host to be gone", CAP, || {
        let hosts = dokkaa(cluster.lab.host(1), &["hosts", "-o", "json"], 0);
        let hosts: Value = serde_json::from_str(&hosts.stdout).expect("JSON");
        let rows = hosts["hosts"].as_array().cloned().unwrap_or_default();
        if rows.iter().any(|row| row["host"] == host.name()) {
            return Err(hosts.to_string());
        }
        Ok(())
    });
    cluster.lab.heal(&AgentOptions::default()).expect("healed");
    dokkaa(cluster.lab.host(1), &["pause", host.name()], 0);
    dokkaa(cluster.lab.host(1), &["activate", host.name()], 0);
}

/// Waits until every host says that it changes nothing, or that it goes on.
#[track_caller]
fn hold(cluster: &Cluster, wanted: bool) {
    wait_for(&format!("every host to have hold: {wanted}"), CAP, || {
        for host in cluster.lab.hosts() {
            let report = host
                .api("GET", "/dokkaa/v1/hold", &[], "")
                .and_then(|answer| answer.json())
                .map_err(|error| format!("{error:#}"))?;
            if report["held"].is_null() == wanted {
                return Err(format!("{}: {report}", host.name()));
            }
        }
        Ok(())
    });
}

#[test]
fn an_etcd_that_was_lost_is_told_again_and_what_runs_runs_on() {
    let cluster = Cluster::take();
    let app = cluster.app("outliving");
    app.put("web", &with(web("x"), "scale", json!(3)));
    app.ready("web", 3);
    let ids = app.ids("web");
    let host = cluster.lab.host(1);
    let backup = dokkaa(host, &["backup"], 0).stdout;
    cluster.lab.etcd().start_empty().expect("an empty etcd");
    hold(&cluster, true);
    assert_eq!(app.ids("web"), ids, "nothing is stopped meanwhile");
    let restore = |code| {
        let words = ["dokkaa", "restore", "-", "--yes"];
        let ran = host.node().run_with(&words, Some(backup.as_bytes()));
        let ran = ran.expect("run");
        assert_eq!(ran.code(), code, "{ran}");
        ran
    };
    assert!(restore(0).stdout.contains("cluster key restored"));
    hold(&cluster, false);
    app.ready("web", 3);
    assert_eq!(app.ids("web"), ids, "the same containers");
    assert_eq!(restore(0).stdout, "there is nothing to restore\n");
}

#[test]
fn a_snapshot_is_accepted_by_an_operator_and_what_it_does_not_know_is_kept() {
    let cluster = Cluster::take();
    let app = cluster.app("known");
    app.put("web", &web("x"));
    app.ready("web", 1);
    let snapshot = cluster.lab.folder().join("operator.snapshot");
    cluster.lab.etcd().save(&snapshot).expect("saved");
    let later = cluster.app("later");
    later.put("web", &web("x"));
    later.ready("web", 1);
    let ids = later.ids("web");
    cluster.lab.etcd().restore(&snapshot).expect("restored");
    hold(&cluster, true);

    let host = cluster.lab.host(2);
    let accepted = dokkaa(host, &["restore", "--accept", "--yes"], 0);
    let told = "later/web/0 has no manifest: kept until `dokkaa rm later/web`";
    assert!(accepted.stderr.contains(told), "{accepted}");
    assert!(accepted.stdout.contains("accepted: epoch"), "{accepted}");
    hold(&cluster, false);
    later.row("web", "an orphan", |row| row.status == "orphan");
    assert_eq!(later.ids("web"), ids, "it runs on");
    app.ready("web", 1);
    dokkaa(host, &["rm", "later/web", "--yes"], 0);
    later.gone("web");
}
