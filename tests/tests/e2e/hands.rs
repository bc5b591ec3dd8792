//! What somebody does by hand with `docker`, past the agents.

use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{App, CAP, Cluster, web, with};

/// The ids of what runs of one instance's slot and is called as the slot is.
fn original(app: &App, name: &str) -> (&'static dokkaa_tests::host::Host, String) {
    let all = app.running("web").into_iter();
    let mut named = all.filter(|(_, one)| one.name == name);
    let (host, one) = named.next().expect("it runs under its name");
    (host, one.id)
}

#[test]
fn a_copy_of_a_container_is_named_as_a_problem_and_left_alone() {
    let cluster = Cluster::take();
    let app = cluster.app("copied");
    app.put("web", &web("x"));
    let (host, one) = app.ready("web", 1).remove(0);
    let docker = |words: &[&str]| host.docker(words).expect("docker");
    docker(&["commit", &one.id, "copied-debug"]);
    let run = ["run", "--detach", "--name"];
    let last = ["copied-debug", "sleep", "9999"];
    docker(&[&run[..], &["copied-debug"], &last].concat());
    let labels = one
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let labels: Vec<String> = labels.collect();
    let labels = labels.iter().flat_map(|label| ["--label", label.as_str()]);
    let by_hand: Vec<&str> = run
        .into_iter()
        .chain(["copied-by-hand"])
        .chain(labels)
        .collect();
    docker(&[&by_hand[..], &["busybox", "sleep", "9999"]].concat());

    let problems = || {
        let answer = host
            .api("GET", "/dokkaa/v1/hosts", &[], "")
            .and_then(|answer| answer.ok()?.json())
            .map_err(|error| format!("{error:#}"))?;
        let rows = answer["hosts"].as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["host"] == host.name());
        Ok::<Value, String>(row.map_or(Value::Null, |row| row["problems"].clone()))
    };
    wait_for("both copies as problems of the host", CAP, || {
        let problems = problems()?.to_string();
        let is_named = |name: &str| {
            problems.contains(&format!(
                "container {name} carries dokkaa labels of copied/web"
            ))
        };
        if is_named("copied-debug") && is_named("copied-by-hand") {
            Ok(())
        } else {
            Err(problems)
        }
    });
    assert_eq!(original(&app, &one.name).1, one.id);
    let runs = |name: &str| docker(&["inspect", "--format", "{{.State.Running}}", name]);
    assert_eq!(runs("copied-debug").trim(), "true");
    assert_eq!(runs("copied-by-hand").trim(), "true");

    // They go, and nothing else does.
    docker(&["rm", "--force", "copied-debug", "copied-by-hand"]);
    docker(&["rmi", "copied-debug"]);
    wait_for("no problem any more", CAP, || {
        let problems = problems()?;
        if problems.to_string().contains("copied-") {
            Err(problems.to_string())
        } else {
            Ok(())
        }
    });
    assert_eq!(original(&app, &one.name).1, one.id);
    let claim = app.claims("web").remove(&0).expect("a claim");
    assert_eq!(claim["instance"], one.label("instance"));
}

#[test]
fn what_can_take_no_traffic_is_unready_at_once() {
    let cluster = Cluster::take();
    let app = cluster.app("frozen");
    app.put("web", &with(web("x"), "scale", json!(2)));
    let (host, one) = app.ready("web", 2).remove(0);
    host.docker(&["pause", &one.id]).expect("paused");
    let row = app.row("web", "paused", |row| row.reason.contains("paused"));
    assert_eq!((row.slot, row.status.as_str()), (Some(0), "unready"));
    host.docker(&["unpause", &one.id]).expect("goes on");
    let after = app.ready("web", 2).remove(0).1;
    assert_eq!(after.id, one.id, "it was left alone");

    host.docker(&["network", "disconnect", "bridge", &one.id])
        .expect("disconnected");
    wait_for("another container", CAP, || {
        match app.running("web").first() {
            Some((_, now)) if now.id != one.id => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    app.ready("web", 2);
}
