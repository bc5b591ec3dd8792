//! New versions: one slot at a time, ready before the old one goes, and halted when one does not work.

use dokkaa_tests::engine::Event;
use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{App, CAP, Cluster, now, web, with};

fn three(page: &str) -> Value {
    with(web(page), "scale", json!(3))
}

/// `update.monitor` of a manifest that does not say it, in seconds.
const MONITOR: f64 = 5.0;

#[test]
fn an_update_replaces_one_slot_at_a_time() {
    let cluster = Cluster::take();
    let app = cluster.app("rolling");
    app.put("web", &three("same"));
    let old = app.ready("web", 3);
    let since = now();
    app.put(
        "web",
        &with(three("same"), "env", json!({"COLOUR": "green"})),
    );
    let new = app.ready("web", 3);
    for (slot, ((host, after), (_, before))) in new.iter().zip(&old).enumerate() {
        assert_ne!(after.id, before.id, "slot {slot}");
        wait_for("its final name", CAP, || {
            let running = app.running("web");
            let name = running
                .iter()
                .find(|(_, one)| one.id == after.id)
                .map(|(_, one)| &one.name);
            (name == Some(&before.name))
                .then_some(())
                .ok_or(format!("{name:?}"))
        });
        let environment =
            host.engine().inspect(&after.id).expect("inspect")["Config"]["Env"].to_string();
        assert!(environment.contains("COLOUR=green"), "{environment}");
    }
    // By the engines' own events: the new one starts before the old one ends, and that of the next slot when it has been
    // watched. What was replaced may still leave then.
    let mut both: Vec<(f64, f64)> = new
        .iter()
        .zip(&old)
        .map(|((new_host, after), (old_host, before))| {
            let end = moment(
                &old_host.engine().events(since, now()).expect("events"),
                "die",
                &before.id,
            );
            let start = moment(
                &new_host.engine().events(since, now()).expect("events"),
                "start",
                &after.id,
            );
            assert!(start < end, "started first, then stopped");
            (start, end)
        })
        .collect();
    let in_order = both.clone();
    both.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert_eq!(both, in_order, "in order of their numbers");
    for pair in both.windows(2) {
        let watched = pair[1].0 - pair[0].0;
        assert!(watched >= MONITOR, "two slots at once: {both:?}");
    }
}

fn moment(events: &[Event], action: &str, id: &str) -> f64 {
    let all: Vec<f64> = events
        .iter()
        .filter(|event| event.action == action && event.id == id)
        .map(|event| event.time)
        .collect();
    assert_eq!(all.len(), 1, "one {action} of {id}: {events:?}");
    all[0]
}

#[test]
fn a_misspelt_image_leaves_all_old_ones_running() {
    let cluster = Cluster::take();
    let app = cluster.app("misspelt");
    app.put("web", &three("good"));
    app.ready("web", 3);
    let before = app.ids("web");
    app.put("web", &with(three("good"), "image", json!("bussybox")));
    let row = app.row("web", "complaining about its image", |row| {
        row.reason.contains("bussybox")
    });
    assert_eq!(app.ids("web"), before, "{row:?}");
    // Put right, nothing needs to be replaced.
    app.put("web", &three("good"));
    app.ready("web", 3);
    assert_eq!(app.ids("web"), before);
}

#[test]
fn a_crashing_command_leaves_all_old_ones_running() {
    let cluster = Cluster::take();
    let app = cluster.app("crashing");
    app.put("web", &three("good"));
    app.ready("web", 3);
    let before = app.ids("web");
    let crashing = with(
        three("good"),
        "command",
        json!(["sh", "-c", "echo out of luck; exit 7"]),
    );
    app.put("web", &crashing);
    wait_for("the update to be given up", CAP, || {
        rollout(&app).ok_or_else(|| format!("{:?}", app.rows("web")))
    });
    app.row("web", "failed with its exit code", |row| {
        row.slot == Some(0) && row.outdated && row.reason.contains("code 7")
    });
    let after = app.ids("web");
    for id in &before {
        assert!(after.contains(id), "no old one was touched");
    }
    wait_for("its last words", CAP, || {
        let said = cluster
            .lab
            .host(2)
            .dokkaa(&["why", "crashing/web"])
            .map_err(|error| error.to_string())?;
        if said.stdout.contains("out of luck") {
            Ok(())
        } else {
            Err(said.to_string())
        }
    });

    // A new scale does not go on with the update: what is placed anew runs
    // the last good version.
    app.put("web", &with(crashing, "scale", json!(4)));
    app.row("web", "the new one, ready", |row| {
        row.slot == Some(3) && row.status == "ready"
    });
    let ids = app.ids("web");
    for id in &before {
        assert!(ids.contains(id), "no old one was touched");
    }

    // A version that works goes through.
    app.put("web", &three("better"));
    app.ready("web", 3);
}

/// By command: back to what was good, each slot anew, nothing, and as it was.
#[test]
fn a_container_is_taken_back_restarted_stopped_and_started() {
    let cluster = Cluster::take();
    let app = cluster.app("verbs");
    let two = |page: &str| with(three(page), "scale", json!(2));
    let said = |words: &[&str], code: i32| {
        let ran = cluster.lab.host(2).dokkaa(words).expect("an end");
        assert_eq!(ran.status.code(), Some(code), "{ran}");
        ran
    };
    app.put("web", &two("good"));
    app.ready("web", 2);
    // A version is good once an instance has stayed ready.
    wait_for("a good version", CAP, || {
        let history = said(&["history", "verbs/web"], 0).stdout;
        history.contains(" yes ").then_some(()).ok_or(history)
    });
    let before = app.ids("web");

    let crashing = with(two("good"), "command", json!(["sh", "-c", "exit 7"]));
    app.put("web", &crashing);
    let ran = said(&["rollout", "watch", "verbs/web"], 4);
    assert!(ran.stderr.contains("code 7"), "{ran}");
    let ran = said(&["rollout", "status", "verbs/web"], 4);
    assert!(ran.stdout.contains("halted, slot 0 failed: "), "{ran}");
    let ran = said(&["rollback", "verbs/web", "--wait"], 0);
    assert!(
        ran.stdout
            .contains("  command: [\"sh\",\"-c\",\"exit 7\"] -> "),
        "{ran}"
    );
    app.ready("web", 2);
    assert_eq!(app.ids("web")[1], before[1], "slot 1 was not touched");

    let before = app.ids("web");
    said(&["restart", "verbs/web", "--wait"], 0);
    app.ready("web", 2);
    let after = app.ids("web");
    assert!(after.iter().all(|id| !before.contains(id)), "{after:?}");
    assert_eq!(rollout(&app), None, "every slot has proven itself");

    let before = after;
    said(&["restart", "verbs/web", "--slot", "1", "--wait"], 0);
    app.ready("web", 2);
    let after = app.ids("web");
    assert_eq!(after[0], before[0], "slot 0 was not touched");
    assert_ne!(after[1], before[1]);
    assert_eq!(rollout(&app), None);
    let ran = said(&["restart", "verbs/web", "--slot", "2"], 1);
    assert!(ran.stderr.contains("has no slot 2; it has 0, 1"), "{ran}");
    assert_eq!(rollout(&app), None);

    said(&["stop", "verbs", "--wait"], 0);
    wait_for("its end", CAP, || {
        let left = app.ids("web");
        left.is_empty().then_some(()).ok_or(left.join(", "))
    });
    let ran = said(&["ps", "verbs/web"], 0);
    assert!(ran.stdout.contains("stopped"), "{ran}");
    said(&["start", "verbs", "--wait"], 0);
    app.ready("web", 2);
    let ran = said(&["rollback", "verbs/web", "--to", "1"], 1);
    assert!(ran.stderr.contains("has no version 1; there are "), "{ran}");
}

fn rollout(app: &App) -> Option<String> {
    app.lab
        .etcd()
        .get(&format!("/claims/{}/web/rollout", app.name))
        .expect("etcd")
}

/// `:latest` of an image that is here only: a PUT without any change is no
/// update, unless the manifest says `pull: always`.
#[test]
fn a_put_without_a_change_changes_nothing() {
    let cluster = Cluster::take();
    let app = cluster.app("idempotent");
    app.put("web", &three("same"));
    app.ready("web", 3);
    let before = app.ids("web");
    // Other spelling, same meaning.
    let spelt = format!("{:#}", with(three("same"), "pull", json!("missing")));
    assert!(matches!(app.try_put("web", &spelt).status, 200 | 201));
    app.put("other", &web("other"));
    app.ready("other", 1);
    app.ready("web", 3);
    assert_eq!(app.ids("web"), before);
}
