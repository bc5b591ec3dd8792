//! What happened is told by any host, whichever it happened on.

use dokkaa_tests::host::Host;
use dokkaa_tests::process::Ran;
use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{App, CAP, Cluster, web, with};

/// The events of an app as a host tells them.
fn told(host: &Host, app: &App) -> Result<Vec<Value>, String> {
    let text = host
        .dokkaa(&["events", "-o", "json", &app.name])
        .and_then(Ran::ok)
        .map_err(|error| format!("{error:#}"))?;
    let lines = text.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{error}: {text}"))
}

/// Waits until the kinds in this order are among the events of a slot.
#[track_caller]
fn happened(host: &Host, app: &App, slot: u64, kinds: &[&str]) -> Vec<Value> {
    wait_for(&format!("{kinds:?} of slot {slot}"), CAP, || {
        let events = told(host, app)?;
        let of_slot = events.iter().filter(|event| event["slot"] == slot);
        let mut left = kinds.iter().peekable();
        for event in of_slot {
            left.next_if(|kind| event["kind"] == ***kind);
        }
        match left.peek() {
            None => Ok(events),
            Some(kind) => Err(format!("no {kind} in {events:#?}")),
        }
    })
}

#[test]
fn a_start_a_crash_and_an_end_are_told_by_every_host() {
    let cluster = Cluster::take();
    let app = cluster.app("eventful");
    app.put("web", &with(web("x"), "scale", json!(3)));
    let running = app.ready("web", 3);
    for host in cluster.lab.hosts() {
        for (slot, (on, _)) in (0..).zip(&running) {
            let begin = ["claimed", "created", "started", "ready"];
            let events = happened(host, &app, slot, &begin);
            let mut of_slot = events.iter().filter(|event| event["slot"] == slot);
            assert!(
                of_slot.all(|event| event["host"] == on.name()),
                "{events:#?}"
            );
        }
    }
    let (on, container) = &running[1];
    let mut others = cluster.lab.hosts().iter();
    let other = others.rfind(|host| host.name() != on.name());
    let other = other.expect("another host");
    on.docker(&["kill", &container.id]).expect("kill");
    let events = happened(other, &app, 1, &["ready", "exited", "started", "ready"]);
    let exited = events.iter().find(|event| event["kind"] == "exited");
    let exited = exited.expect("the end");
    assert_eq!(exited["host"], on.name());
    assert!(
        exited["message"]
            .as_str()
            .is_some_and(|m| m.contains("137")),
        "{exited}"
    );

    app.delete("web");
    app.gone("web");
    for slot in 0..3 {
        happened(other, &app, slot, &["ready", "stopped", "removed"]);
    }
    // For people: a line each, in order of time.
    let text = other
        .dokkaa(&["events", "eventful/web"])
        .and_then(Ran::ok)
        .expect("events");
    let times: Vec<&str> = text.lines().filter_map(|line| line.get(..19)).collect();
    assert_eq!(times.len(), text.lines().count(), "{text}");
    assert!(
        text.contains("eventful/web/1") && text.contains("exit code 137"),
        "{text}"
    );
    let none = other.dokkaa(&["events", "nothing"]).expect("events");
    assert_eq!(none.status.code(), Some(1), "{none}");
}

#[test]
fn who_follows_is_told_as_it_happens() {
    let cluster = Cluster::take();
    let app = cluster.app("followed");
    let host = cluster.lab.host(2);
    let binary = dokkaa_tests::binary::dokkaa().expect("dokkaa");
    let binary = binary.to_str().expect("a path");
    app.put("web", &web("x"));
    let words = [binary, "events", "--follow", "--since", "1m", "followed"];
    let mut following = host.start("events", &words).expect("events");
    app.ready("web", 1);
    app.delete("web");
    following
        .wait_log("the end of the container", CAP, |log| {
            ["started", "ready", "stopped", "removed"]
                .iter()
                .all(|kind| log.contains(&format!("  {kind}")))
                .then_some(())
        })
        .expect("the events");
    following.kill().expect("its end");
}
