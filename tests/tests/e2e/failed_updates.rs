//! Versions that don't work: the update halts or goes back, and the old version serves all the while.

use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{App, CAP, Cluster, output, serve, web, with};

/// A way in which a version doesn't work.
struct Fault {
    name: &'static str,
    /// What is said of it.
    reason: &'static str,
    /// Its last words, if it has any.
    words: Option<&'static str>,
}

const FAULTS: [Fault; 4] = [
    Fault {
        name: "image",
        reason: "nobody.has/this",
        words: None,
    },
    Fault {
        name: "crash",
        reason: "exited with code 7",
        words: Some("out of luck"),
    },
    Fault {
        name: "dies",
        reason: "exited with code 9",
        words: Some("ready and gone"),
    },
    Fault {
        name: "hangs",
        reason: "not ready within 3 s of its start",
        words: Some("deep in thought"),
    },
];

const SCALES: [usize; 2] = [1, 3];

/// Each fault at each scale, in a container of its own: its name, which is that of its service, too.
fn all() -> impl Iterator<Item = (String, &'static Fault, usize)> {
    let at = |scale: usize| {
        let name = move |fault: &'static Fault| (format!("{}{scale}", fault.name), fault, scale);
        FAULTS.iter().map(name)
    };
    SCALES.into_iter().flat_map(at)
}

fn good(name: &str, scale: usize) -> Value {
    let mut manifest = with(web("good"), "services", json!({name: 80}));
    manifest["scale"] = json!(scale);
    manifest
}

fn bad(name: &str, fault: &Fault, scale: usize, on_failure: &str) -> Value {
    let mut manifest = with(good(name, scale), "start_timeout", json!("3s"));
    manifest["update"] = json!({"monitor": "2s", "on_failure": on_failure});
    let command = match fault.name {
        "image" => return with(manifest, "image", json!("nobody.has/this:1")),
        "crash" => "echo out of luck; exit 7".to_owned(),
        // Long enough to be found ready, and not to take the place of the old one.
        "dies" => {
            let serve = serve("bad").replace("exec httpd -f", "httpd");
            format!("{serve} && sleep 0.2; echo ready and gone; exit 9")
        }
        _ => "echo deep in thought; exec sleep 1000".to_owned(),
    };
    with(manifest, "command", json!(["sh", "-c", command]))
}

/// Fetches from each of the services in turn, once each has answered, and prints each answer that is not the old version's.
fn client() -> Value {
    let (mut first, mut round, mut links) = (Vec::new(), Vec::new(), Vec::new());
    for (name, ..) in all() {
        let variable = format!("SERVICE_{}", name.to_uppercase());
        let fetch =
            format!("timeout 5 wget -q -O - http://${variable}_ADDR:${variable}_PORT/ 2>&1");
        first.push(format!(
            "until [ \"$({fetch})\" = good ]; do sleep 0.1; done"
        ));
        round.push(format!(
            "got=$({fetch}); [ \"$got\" = good ] || echo failed: {name}: $got"
        ));
        links.push(name);
    }
    let (first, round) = (first.join("; "), round.join("; "));
    json!({
        "image": "busybox",
        "links": links,
        "stop_signal": "SIGKILL",
        "command": ["sh", "-c", format!("{first}; while true; do {round}; echo round; done")],
    })
}

/// Waits for some more rounds of the client; no fetch has failed.
#[track_caller]
fn all_served(app: &App) {
    let said = || {
        let (host, one) = app.running("client").pop().expect("the client");
        output(host, &one.id)
    };
    let rounds = |said: &str| said.lines().filter(|line| *line == "round").count();
    let before = rounds(&said());
    let said = wait_for("more rounds of the client", CAP, || {
        let said = said();
        let now = rounds(&said);
        if now >= before + 3 {
            Ok(said)
        } else {
            Err(format!("{now} rounds"))
        }
    });
    let failed: Vec<&str> = said.lines().filter(|line| *line != "round").collect();
    assert_eq!(failed.len(), 0, "{failed:?}");
}

/// Waits until a command says all of this.
#[track_caller]
fn says(app: &App, words: &[&str], texts: &[&str]) {
    wait_for(&format!("{texts:?} from {words:?}"), CAP, || {
        let ran = app.lab.host(2).dokkaa(words);
        let ran = ran.map_err(|error| format!("{error:#}"))?;
        let said = format!("{}{}", ran.stdout, ran.stderr);
        if texts.iter().all(|text| said.contains(text)) {
            Ok(())
        } else {
            Err(said)
        }
    });
}

/// The newest version of a container.
#[track_caller]
fn version(app: &App, name: &str) -> String {
    let versions = app
        .lab
        .etcd()
        .list(&format!("/claims/{}/{name}/versions/", app.name));
    let versions = versions.expect("etcd").into_iter();
    let of = |key: &str| {
        key.rsplit('/')
            .next()
            .and_then(|version| version.parse::<i64>().ok())
    };
    let newest = versions.filter_map(|(key, _)| of(&key)).max();
    newest.expect("a version").to_string()
}

/// Every kind of fault, with one slot and with three, at the same time. Alone: what dies must be seen to be dead within the
/// second after which it would take the place of the old one.
#[test]
fn a_version_that_fails_in_whatever_way_leaves_the_old_one_serving() {
    let cluster = Cluster::take();
    let app = cluster.app("faulty");
    for (name, _, scale) in all() {
        app.put(&name, &good(&name, scale));
    }
    let old: Vec<(String, Vec<String>)> = all()
        .map(|(name, _, scale)| {
            app.ready(&name, scale);
            (version(&app, &name), app.ids(&name))
        })
        .collect();
    app.put("client", &client());
    app.ready("client", 1);
    all_served(&app);

    for (name, fault, scale) in all() {
        app.put(&name, &bad(&name, fault, scale, "pause"));
    }
    for ((name, fault, scale), (_, ids)) in all().zip(&old) {
        let of = format!("faulty/{name}");
        let halted = format!("0 of {scale} slots: halted, slot 0 failed: ");
        says(&app, &["rollout", "status", &of], &[&halted, fault.reason]);
        let failed = "the rollout failed at slot 0: ";
        let mut why = vec![failed, fault.reason];
        why.extend(fault.words);
        says(&app, &["why", &of], &why);
        let running = app.ids(&name);
        assert!(ids.iter().all(|id| running.contains(id)), "{name}");
    }
    all_served(&app);

    // The old version again: nothing of it had gone.
    for (name, _, scale) in all() {
        app.put(&name, &good(&name, scale));
    }
    for ((name, _, scale), (_, ids)) in all().zip(&old) {
        app.ready(&name, scale);
        assert_eq!(app.ids(&name), *ids, "{name}");
    }
    for (name, fault, scale) in all() {
        app.put(&name, &bad(&name, fault, scale, "rollback"));
    }
    for ((name, fault, scale), (version, ids)) in all().zip(&old) {
        let of = format!("faulty/{name}");
        let halted = "halted, slot 0 failed: ";
        let back = format!("; all slots go back to version {version}");
        let went = ["went back", halted, fault.reason, &back];
        says(&app, &["rollout", "status", &of], &went);
        says(&app, &["history", &of], &[halted, fault.reason, &back]);
        wait_for("the old ones alone", CAP, || {
            let running = app.ids(&name);
            let rows = app.rows(&name)?;
            let ready = rows.iter().filter(|row| row.status == "ready").count();
            if running == *ids && ready == scale {
                Ok(())
            } else {
                Err(format!("{running:?}, not {ids:?}; {rows:#?}"))
            }
        });
    }
    all_served(&app);
}
