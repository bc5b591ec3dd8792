//! Local volumes that are not what the slot had: lost, another cluster's, on another machine.

use dokkaa_tests::host::Host;
use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{App, CAP, Cluster, with};

/// A container that counts its lives in its volume.
fn counting() -> Value {
    json!({
        "image": "busybox",
        "stop_signal": "SIGKILL",
        "volumes": ["data:/data"],
        "command": ["sh", "-c", "echo life >>/data/lives; wc -l </data/lives; exec sleep 1000"],
    })
}

#[track_caller]
fn dokkaa(host: &Host, words: &[&str], code: i32) -> String {
    let ran = host.dokkaa(words).expect("run");
    assert_eq!(ran.code(), code, "{words:?}: {ran}");
    ran.stdout
}

/// Ends the slots of a container, and waits until nothing of it is left on its hosts.
#[track_caller]
fn scale_to_none(app: &App, manifest: &Value) {
    app.put("db", &with(manifest.clone(), "scale", json!(0)));
    wait_for("the removal of its containers", CAP, || {
        let left = app.lab.containers(&app.name);
        match left.map_err(|error| format!("{error:#}"))?.len() {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        }
    });
}

#[test]
fn a_volume_that_is_lost_is_not_made_anew_until_its_slot_is_released() {
    let cluster = Cluster::take();
    let app = cluster.app("lost");
    app.put("db", &counting());
    let (host, _) = app.ready("db", 1).remove(0);
    app.prints("db", 0, "1");
    scale_to_none(&app, &counting());
    let volume = "lost---db---0---data";
    host.docker(&["volume", "rm", volume]).expect("remove");
    let states = || dokkaa(host, &["volumes", "lost"], 0);
    assert!(states().contains(" lost "), "{}", states());
    app.put("db", &counting());
    let row = app.row("db", "waiting", |row| {
        row.status == "waiting" && row.reason.contains("is gone")
    });
    assert!(row.reason.contains("dokkaa volumes release"), "{row:?}");

    // Restored by hand, it is used.
    let mount = format!("{volume}:/data");
    let restored = ["run", "--rm", "-v", &mount, "busybox", "sh", "-c"];
    let script = "echo restored >/data/lives";
    host.docker(&[&restored[..], &[script]].concat())
        .expect("restore");
    app.ready("db", 1);
    app.prints("db", 0, "2");

    // Released, it begins anew.
    scale_to_none(&app, &counting());
    host.docker(&["volume", "rm", volume]).expect("remove");
    app.put("db", &counting());
    app.row("db", "waiting", |row| row.reason.contains("is gone"));
    dokkaa(host, &["volumes", "release", "lost/db/0", "--yes"], 0);
    app.ready("db", 1);
    app.prints("db", 0, "1");
}

#[test]
fn a_volume_of_another_cluster_is_used_when_it_is_adopted() {
    let cluster = Cluster::take();
    let app = cluster.app("adopted");
    let volume = "adopted---db---0---data";
    let label = "dokkaa.cluster=00000000-0000-0000-0000-000000000008";
    let mount = format!("{volume}:/data");
    let script = "echo theirs >/data/lives";
    for host in cluster.lab.hosts() {
        host.docker(&["volume", "create", "--label", label, volume])
            .expect("volume");
        host.docker(&["run", "--rm", "-v", &mount, "busybox", "sh", "-c", script])
            .expect("data");
    }
    app.put("db", &counting());
    let row = app.row("db", "waiting for its volume", |row| {
        row.status == "waiting" && row.reason.contains("belongs to another cluster")
    });
    let on = cluster.lab.hosts().iter().find(|h| h.name() == row.host);
    let on = on.expect("its host");
    let why = dokkaa(on, &["why", "adopted/db"], 0);
    assert!(why.contains("dokkaa volumes adopt adopted/db/0"), "{why}");
    dokkaa(on, &["volumes", "adopt", "adopted/db/0", "--yes"], 0);
    app.ready("db", 1);
    app.prints("db", 0, "2");
}

#[test]
fn a_drained_host_gives_away_slots_without_their_data_where_it_is_told_to() {
    let cluster = Cluster::take();
    let app = cluster.app("left");
    app.put("db", &counting());
    let (host, _) = app.ready("db", 1).remove(0);
    app.prints("db", 0, "1");
    let name = host.name();
    let ran = host.dokkaa(&["drain", name, "--wait"]).expect("run");
    assert!(ran.code() == 4 && ran.stderr.contains("left/db/0"), "{ran}");
    let ran = host.dokkaa(&["drain", name, "--force-volumes"]);
    let ran = ran.expect("run");
    assert!(ran.code() == 2 && ran.stderr.contains("--yes"), "{ran}");
    dokkaa(
        host,
        &["drain", name, "--force-volumes", "--yes", "--wait"],
        0,
    );
    let (other, _) = app.ready("db", 1).remove(0);
    assert_ne!(other.name(), name);
    app.prints("db", 0, "1");

    // Its data is still where it was, and is not gone back to.
    dokkaa(host, &["activate", name], 0);
    let mount = "left---db---0---data:/data";
    let read = ["run", "--rm", "-v", mount, "busybox", "cat", "/data/lives"];
    assert_eq!(host.docker(&read).expect("its data").trim(), "life");
    let (now, _) = app.ready("db", 1).remove(0);
    assert_eq!(now.name(), other.name());
}

/// `compress` of daemon.json and `max_file: 1` of a manifest are no legal pair.
#[test]
fn the_log_options_of_a_manifest_are_whole_on_an_engine_with_its_own() {
    let cluster = Cluster::take();
    let app = cluster.app("logging");
    let engine = cluster.lab.host(2).engine();
    engine.kill().expect("kill");
    let options = ["compress=true", "max-size=10m", "max-file=3"];
    let options = options.map(|option| ["--log-opt", option]).concat();
    engine.start_again(&options).expect("again");
    let mut manifest = json!({
        "image": "busybox",
        "stop_signal": "SIGKILL",
        "command": ["sleep", "1000"],
        "scale": 3,
        "placement": {"max_per_host": 1},
    });
    for log in [json!({"max_file": 1}), json!({"max_file": 2})] {
        manifest["log"] = log;
        app.put("web", &manifest);
        app.ready("web", 3);
    }
    drop(app);
    engine.kill().expect("kill");
    engine.start_again(&[]).expect("again");
}

#[test]
fn data_that_goes_with_its_container_is_said() {
    let cluster = Cluster::take();
    let app = cluster.app("unnamed");
    for host in cluster.lab.hosts() {
        let commit = "id=$(docker create busybox true) && \
                      docker commit --change 'VOLUME /kept' --change 'VOLUME /data/' $id unnamed && docker rm $id";
        host.sh(commit).expect("an image");
    }
    let mut manifest = json!({
        "image": "unnamed",
        "pull": "never",
        "stop_signal": "SIGKILL",
        "command": ["sleep", "1000"],
        "volumes": ["kept:/kept"],
    });
    app.put("db", &manifest);
    app.ready("db", 1);
    let why = || dokkaa(cluster.lab.host(1), &["why", "unnamed/db"], 0);
    let text = why();
    assert!(text.contains("written to /data is lost"), "{text}");
    manifest["volumes"] = json!(["kept:/kept", "data:/data"]);
    app.put("db", &manifest);
    app.ready("db", 1);
    let text = why();
    assert!(!text.contains("is lost"), "{text}");
}
