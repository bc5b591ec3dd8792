//! What a user changes: scale, image, command, and that it goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use manifests::InstanceId;
use manifests::keys::Key;
use model::records::Rollout;

use crate::agents::cluster::{Cluster, container, manifest, slot};

/// The instance of each slot, by the claims.
fn instances(cluster: &Cluster, id: &str) -> BTreeMap<u32, InstanceId> {
    let snapshot = cluster.snapshot();
    let view = snapshot
        .containers
        .get(&container(id))
        .expect("it is there");
    let claimed = |(number, slot): (&u32, &model::snapshot::SlotView)| {
        Some((*number, slot.claim.as_ref()?.instance.clone()))
    };
    view.slots.iter().filter_map(claimed).collect()
}

/// The versions that the slots run.
fn versions(cluster: &Cluster, id: &str) -> BTreeSet<i64> {
    let snapshot = cluster.snapshot();
    let view = snapshot.containers.get(&container(id));
    let slots = view.expect("it is there").slots.values();
    let claims = slots.filter_map(|slot| slot.claim.as_ref());
    claims.map(|claim| claim.version.0).collect()
}

/// A manifest whose process is this command.
fn with_command(command: &str, scale: u32) -> String {
    format!(
        r#"{{"image": "app:2", "scale": {scale}, "command": ["{command}"], "services": {{"http": 80}}, "start_timeout": "20s"}}"#
    )
}

fn rollout(cluster: &Cluster, id: &str) -> Option<Rollout> {
    let key = Key::Rollout(container(id)).to_string();
    let value = cluster.keys(&key).into_values().next()?;
    serde_json::from_slice(&value).ok()
}

#[tokio::test(start_paused = true)]
async fn scaling_touches_no_other_slot() {
    let cluster = Cluster::of(3).await;
    cluster.put("shop/web", &manifest("app:1", 2));
    cluster.wait_as_wanted("shop/web").await;
    let two = instances(&cluster, "shop/web");
    cluster.put("shop/web", &manifest("app:1", 6));
    cluster.wait_as_wanted("shop/web").await;
    assert!(cluster.load().values().all(|n| *n == 2));
    let six = instances(&cluster, "shop/web");
    assert!(
        two.iter()
            .all(|(number, instance)| six[number] == *instance)
    );
    assert_eq!(cluster.journal.count("start"), 6);
    assert_eq!(cluster.journal.count("stop"), 0);

    cluster.put("shop/web", &manifest("app:1", 3));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    let three = instances(&cluster, "shop/web");
    assert!(
        three
            .iter()
            .all(|(number, instance)| six[number] == *instance)
    );
    let stopped: Vec<u32> = {
        let calls = cluster.journal.calls().into_iter();
        let stops = calls.filter(|call| call.what == "stop");
        let mut numbers: Vec<u32> = stops.filter_map(|c| Some(c.slot?.slot)).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(stopped, [3, 4, 5]);
    assert_eq!(cluster.journal.count("start"), 6);
    assert_eq!(cluster.journal.count("remove"), 3);
    assert!(cluster.keys("/status/shop/web/").len() <= 3);

    cluster.put("shop/web", &manifest("app:1", 0));
    let empty = |cluster: &Cluster| {
        let left = cluster.containers().len();
        (left == 0).then_some(()).ok_or(format!("{left} left"))
    };
    cluster.wait("nothing runs", empty).await;
    cluster.put("shop/web", &manifest("app:1", 1));
    cluster.wait_as_wanted("shop/web").await;
}

#[tokio::test(start_paused = true)]
async fn an_update_takes_one_slot_at_a_time() {
    let cluster = Cluster::of(3).await;
    cluster.put("shop/web", &manifest("app:1", 5));
    cluster.wait_as_wanted("shop/web").await;
    let before = cluster.quiet().await;
    let calls = cluster.journal.calls().len();
    cluster.put("shop/web", &manifest("app:2", 5));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    let fewest = cluster
        .history(before)
        .fewest_ready(&container("shop/web"), &[0, 1, 2, 3, 4]);
    // Each new instance is ready before the old one goes.
    assert_eq!(fewest, 5);
    let calls = cluster.journal.calls().split_off(calls);
    assert!(calls.iter().all(|call| call.running.len() == 5));
    let count = |what: &str| calls.iter().filter(|call| call.what == what).count();
    assert_eq!((count("create"), count("start"), count("stop")), (5, 5, 5));
    let order: Vec<u32> = calls
        .iter()
        .filter(|call| call.what == "start")
        .filter_map(|call| Some(call.slot.as_ref()?.slot))
        .collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
    assert!(
        cluster
            .containers()
            .iter()
            .all(|(_, c)| { c.running().is_none() || c.has_final_name() })
    );
}

#[tokio::test(start_paused = true)]
async fn never_more_slots_are_down_on_purpose_than_may_whatever_is_put_meanwhile() {
    for (parallelism, least) in [(1, 3), (2, 2)] {
        let cluster = Cluster::of(2).await;
        let manifest = |image: &str| {
            let update = format!(
                r#"{{"order": "stop-first", "parallelism": {parallelism}, "monitor": "2s"}}"#
            );
            format!(
                r#"{{"image": "{image}", "scale": 4, "services": {{"http": 80}}, "update": {update}}}"#
            )
        };
        cluster.put("shop/web", &manifest("app:1"));
        cluster.wait_as_wanted("shop/web").await;
        let before = cluster.quiet().await;
        for (at, image) in (1..).zip(["app:2", "app:3", "app:1", "app:2"]) {
            cluster.put("shop/web", &manifest(image));
            let begun = |cluster: &Cluster| {
                let stops = cluster.journal.count("stop");
                (stops >= 2 * at)
                    .then_some(())
                    .ok_or(format!("{stops} stops"))
            };
            cluster.wait("some of them are replaced", begun).await;
        }
        cluster.wait_as_wanted("shop/web").await;
        let fewest = cluster
            .history(before)
            .fewest_ready(&container("shop/web"), &[0, 1, 2, 3]);
        assert_eq!(fewest, least);
        cluster.quiet().await;
        assert_eq!(rollout(&cluster, "shop/web"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_to_an_image_that_does_not_exist_stops_nothing() {
    let cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 3));
    cluster.wait_as_wanted("shop/web").await;
    cluster.put("shop/web", &manifest("appp:1", 3));
    cluster.pass(Duration::from_secs(600)).await;
    assert_eq!(cluster.load().values().sum::<usize>(), 3);
    assert_eq!(cluster.journal.count("stop"), 0);
    assert_eq!(cluster.journal.count("create"), 3);
    cluster.put("shop/web", &manifest("app:2", 3));
    cluster.wait_as_wanted("shop/web").await;
}

#[tokio::test(start_paused = true)]
async fn an_update_that_crashes_halts_at_its_first_slot() {
    let cluster = Cluster::of(3).await;
    cluster.put("shop/web", &manifest("app:1", 3));
    cluster.wait_as_wanted("shop/web").await;
    let good = instances(&cluster, "shop/web");
    let bad = cluster.put("shop/web", &with_command("crash", 3));
    let halted = |cluster: &Cluster| {
        let rollout = rollout(cluster, "shop/web");
        let halted = rollout
            .as_ref()
            .is_some_and(|r| r.version.0 == bad && r.failed);
        halted.then_some(()).ok_or(format!("{rollout:?}"))
    };
    cluster.wait("the update is given up", halted).await;
    cluster.pass(Duration::from_secs(300)).await;
    let now = instances(&cluster, "shop/web");
    assert_eq!((&now[&1], &now[&2]), (&good[&1], &good[&2]));
    let running = cluster.journal.running();
    assert_eq!(running.get(&slot("shop/web", 1)), Some(&1));
    assert_eq!(running.get(&slot("shop/web", 2)), Some(&1));
    assert_eq!(cluster.journal.count("create"), 4);

    // What is placed anew runs the last good version.
    cluster.put("shop/web", &with_command("crash", 4));
    let placed = |cluster: &Cluster| {
        let runs = cluster.journal.running().contains_key(&slot("shop/web", 3));
        runs.then_some(()).ok_or("it does not run".to_owned())
    };
    cluster.wait("the new slot runs", placed).await;

    cluster.put("shop/web", &manifest("app:3", 4));
    cluster.wait_as_wanted("shop/web").await;
}

#[tokio::test(start_paused = true)]
async fn an_update_that_never_gets_ready_halts() {
    let cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 3));
    cluster.wait_as_wanted("shop/web").await;
    let bad = cluster.put("shop/web", &with_command("never-ready", 3));
    let halted = |cluster: &Cluster| {
        let rollout = rollout(cluster, "shop/web");
        let halted = rollout
            .as_ref()
            .is_some_and(|r| r.version.0 == bad && r.slot == 0);
        halted.then_some(()).ok_or(format!("{rollout:?}"))
    };
    cluster.wait("the update is given up", halted).await;
    cluster.quiet().await;
    assert_eq!(cluster.journal.count("create"), 4);
    assert_eq!(cluster.journal.count("stop"), 0);
    cluster.put("shop/web", &manifest("app:1", 3));
    cluster.wait_as_wanted("shop/web").await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_ends_after_it_was_ready_is_taken_back() {
    for (command, scale) in [
        ("crash", 1),
        ("crash", 3),
        ("never-ready", 1),
        ("never-ready", 3),
        ("ends-soon", 1),
        ("ends-soon", 3),
        ("ends-later", 1),
        ("ends-later", 3),
    ] {
        let cluster = Cluster::of(3).await;
        let all: Vec<u32> = (0..scale).collect();
        cluster.put("shop/web", &manifest("app:1", scale));
        cluster.wait_as_wanted("shop/web").await;
        let before = cluster.quiet().await;
        let update = r#""update": {"on_failure": "rollback"}"#;
        let bad = with_command(command, scale).replacen('{', &format!("{{{update}, "), 1);
        let bad = cluster.put("shop/web", &bad);
        let taken_back = |cluster: &Cluster| {
            let rollout = rollout(cluster, "shop/web");
            let failed = rollout
                .as_ref()
                .is_some_and(|r| r.version.0 == bad && r.failed && r.updating.is_empty());
            failed.then_some(()).ok_or(format!("{rollout:?}"))
        };
        cluster.wait("the update is taken back", taken_back).await;
        cluster.quiet().await;
        let claims = instances(&cluster, "shop/web");
        assert_eq!(claims.len(), scale as usize);
        assert_eq!(cluster.journal.running().values().sum::<u32>(), scale);
        let run_by: BTreeSet<i64> = versions(&cluster, "shop/web");
        assert!(run_by.iter().all(|version| *version < bad), "{run_by:?}");
        let fewest = cluster
            .history(before)
            .fewest_ready(&container("shop/web"), &all);
        assert_eq!(fewest, scale as usize, "{command} {scale}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_serves_again_when_the_new_one_ends_while_it_is_watched() {
    for scale in [1, 3] {
        let cluster = Cluster::of(3).await;
        let all: Vec<u32> = (0..scale).collect();
        cluster.put("shop/web", &manifest("app:1", scale));
        cluster.wait_as_wanted("shop/web").await;
        let before = cluster.quiet().await;
        let bad = cluster.put("shop/web", &with_command("ends-later", scale));
        // Tried on beside the old one, it ends again and again, and never takes the place for good.
        let tried_on = |cluster: &Cluster| {
            let starts = cluster.journal.count("start");
            let halted = rollout(cluster, "shop/web").is_some_and(|r| r.failed);
            (halted && starts >= scale as usize + 4)
                .then_some(())
                .ok_or(format!("{starts} starts"))
        };
        cluster.wait("it is tried on", tried_on).await;
        let run_by = versions(&cluster, "shop/web");
        assert!(run_by.iter().all(|version| *version < bad), "{run_by:?}");
        let history = cluster.history(before);
        let fewest = history.fewest_ready(&container("shop/web"), &all);
        assert_eq!(fewest, scale as usize);
        // One that stays ready takes the place after all.
        for host in ["a", "b", "c"] {
            let docker = &cluster.agent(host).docker;
            docker.world(|world, _| world.programs.clear());
        }
        cluster.wait_as_wanted("shop/web").await;
        cluster.quiet().await;
        assert_eq!(rollout(&cluster, "shop/web"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_goes_on_by_itself_once_what_failed_gets_ready() {
    let cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 2));
    cluster.wait_as_wanted("shop/web").await;
    cluster.put("shop/web", &with_command("crash", 2));
    let halted = |cluster: &Cluster| {
        let rollout = rollout(cluster, "shop/web");
        let halted = rollout.as_ref().is_some_and(|r| r.failed);
        halted.then_some(()).ok_or(format!("{rollout:?}"))
    };
    cluster.wait("the update is halted", halted).await;
    for host in ["a", "b"] {
        let docker = &cluster.agent(host).docker;
        docker.world(|world, _| world.programs.clear());
    }
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    assert_eq!(rollout(&cluster, "shop/web"), None);
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_started_again_with_back_off() {
    let cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 2));
    cluster.wait_as_wanted("shop/web").await;
    let before = cluster.quiet().await;
    let (first, second) = (slot("shop/web", 0), slot("shop/web", 1));
    let claimed = instances(&cluster, "shop/web");
    for _ in 0..3 {
        cluster.owner(&first).docker.crash(&first);
        cluster.wait_as_wanted("shop/web").await;
    }
    assert_eq!(cluster.journal.count("create"), 2);
    assert_eq!(cluster.journal.count("start"), 5);
    assert_eq!(instances(&cluster, "shop/web"), claimed);
    let history = cluster.history(before);
    assert!(history.claims(&first).is_empty());
    let others = |key: &Key| matches!(key, Key::State(of) | Key::Status(of) if *of == second);
    assert!(!history.keys().iter().any(others));
}

#[tokio::test(start_paused = true)]
async fn a_delete_leaves_nothing() {
    let cluster = Cluster::of(3).await;
    cluster.put("shop/web", &manifest("app:1", 4));
    cluster.put("shop/db", &manifest("app:2", 2));
    cluster.put("shop/odd", &with_command("crash", 2));
    cluster.put("shop/lost", &manifest("appp:1", 2));
    cluster.wait_as_wanted("shop/web").await;
    cluster.wait_as_wanted("shop/db").await;
    cluster.put("shop/web", &manifest("app:2", 4));
    cluster.wait_as_wanted("shop/web").await;
    for gone in ["shop/web", "shop/odd", "shop/lost"] {
        cluster.delete(gone);
    }
    for gone in ["shop/web", "shop/odd", "shop/lost"] {
        cluster.wait("nothing is left", |c| c.is_gone(gone)).await;
    }
    cluster.quiet().await;
    assert_eq!(cluster.is_as_wanted("shop/db"), Ok(()));
    assert_eq!(cluster.load().values().sum::<usize>(), 2);
    for gone in ["shop/web", "shop/odd", "shop/lost"] {
        assert_eq!(cluster.is_gone(gone), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_is_taken_back_at_once_stops_nothing() {
    let cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 2));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    cluster.delete("shop/web");
    cluster.pass(Duration::from_millis(400)).await;
    cluster.put("shop/web", &manifest("app:1", 2));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()));
    assert_eq!(cluster.journal.count("stop"), 0);
    assert_eq!(cluster.journal.count("create"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_started_again_while_an_update_can_not_go_on() {
    let cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 3));
    cluster.wait_as_wanted("shop/web").await;
    cluster.put("shop/web", &manifest("appp:1", 3));
    cluster.quiet().await;
    for number in 0..3 {
        let crashed = slot("shop/web", number);
        cluster.owner(&crashed).docker.crash(&crashed);
    }
    let all_run = |cluster: &Cluster| {
        let running = cluster.journal.running().len();
        (running == 3).then_some(()).ok_or(format!("{running} run"))
    };
    cluster.wait("all run again", all_run).await;
    assert_eq!(cluster.journal.count("create"), 3);
    assert_eq!(cluster.journal.count("start"), 6);
}
