#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::update::Turn;

const OLD: &str = r#"{"image": "a:1", "scale": 4, "update": {"monitor": "1s"}}"#;
const NEW: &str = r#"{"image": "a:2", "scale": 4, "update": {"monitor": "1s"}}"#;

fn put(snapshot: &mut Snapshot, key: &str, value: &str) -> i64 {
    let modified = snapshot.revision + 1;
    let key = key.to_owned();
    let value = value.as_bytes().to_vec();
    let manifest = snapshot
        .containers
        .get(&id())
        .and_then(|c| c.manifest.as_ref());
    let known = manifest.filter(|_| key.ends_with("/manifest"));
    let created = known.map_or(modified, |known| known.created.0);
    let change = Change::Put {
        key,
        value,
        modified,
        created,
    };
    snapshot.apply([change], modified);
    modified
}

fn id() -> ContainerId {
    "shop/web".parse().unwrap()
}

fn host(snapshot: &mut Snapshot, name: &str) {
    let record = r#"{"id":"00000000-0000-4000-8000-000000000001","session":"00000000-0000-4000-8000-000000000002",
        "epoch":1,"state":"up","addr":"10.0.0.1","versions":{"agent":"1","placement":[1]}}"#;
    put(snapshot, &format!("/hosts/{name}/record"), record);
}

fn manifest(snapshot: &mut Snapshot, text: &str) -> i64 {
    put(snapshot, "/apps/shop/web/manifest", text)
}

fn decided(snapshot: &mut Snapshot, text: &str, rev: i64) {
    let version = format!(r#"{{"manifest": {text}, "image": "{rev}", "good": true}}"#);
    put(snapshot, &Key::Version(id(), rev).to_string(), &version);
}

/// A slot on `h1`, ready or not.
fn slot(snapshot: &mut Snapshot, number: u32, rev: i64, state: &str) {
    let slot = id().slot(number);
    let claim = format!(r#"{{"host": "h1", "instance": "i{number}", "version": {rev}}}"#);
    put(snapshot, &Key::Claim(slot.clone()).to_string(), &claim);
    let state = format!(
        r#"{{"instance": "i{number}", "state": "{state}", "addr": "10.0.0.1", "ports": {{}}}}"#
    );
    put(snapshot, &Key::State(slot).to_string(), &state);
}

/// Four slots of the old version, of which the last one is not ready.
fn running() -> Snapshot {
    let mut snapshot = Snapshot::default();
    host(&mut snapshot, "h1");
    let rev = manifest(&mut snapshot, OLD);
    decided(&mut snapshot, OLD, rev);
    for number in 0..4 {
        let state = if number == 3 { "unready" } else { "ready" };
        slot(&mut snapshot, number, rev, state);
    }
    snapshot
}

fn of(before: &Snapshot, after: &Snapshot) -> Preview {
    preview(before, after, &BTreeSet::from([id()]))
        .remove(&id())
        .unwrap()
}

fn runs_image(fate: &Fate) -> Option<&str> {
    match fate {
        Fate::Replaced { runs, .. } => Some(&runs.as_ref()?.image),
        _ => None,
    }
}

#[test]
fn the_order_is_that_in_which_slots_get_their_turn() {
    let before = running();
    let mut after = before.clone();
    let rev = manifest(&mut after, NEW);
    let planned = of(&before, &after);
    assert!(
        planned
            .slots
            .values()
            .all(|fate| runs_image(fate) == Some("a:1"))
    );
    let update = planned.update.unwrap();
    assert_eq!(
        (update.parallelism, update.slots.as_slice()),
        (1, &[3, 0, 1, 2][..])
    );
    assert_eq!(update.order, Order::StartFirst);

    // Slot after slot as the hosts do it, each ready on the new version before the next one asks.
    decided(&mut after, NEW, rev);
    for (at, next) in update.slots.iter().enumerate() {
        for number in &update.slots[at..] {
            let container = &after.containers[&id()];
            let claim = container.slots[number].claim.as_ref().unwrap();
            let target = rollout::of_slot(container, *number, claim.version).unwrap();
            let turn = update::turn(&after, container, &id().slot(*number), &target);
            let is_next = matches!(turn, Turn::Now | Turn::Noted(_));
            assert_eq!(is_next, number == next, "slot {number} at {at}: {turn:?}");
        }
        slot(&mut after, *next, rev, "ready");
    }
    assert_eq!(of(&after, &after).update, None);
}

#[test]
fn a_halted_update_is_no_change_and_a_paused_one_waits() {
    let mut snapshot = running();
    let rev = manifest(&mut snapshot, NEW);
    decided(&mut snapshot, NEW, rev);
    slot(&mut snapshot, 0, rev, "unready");
    let mark = |failed: bool| {
        let paused = !failed;
        format!(
            r#"{{"version": {rev}, "failed": {failed}, "paused": {paused}, "slot": 0, "reason": "exited", "failures": [0]}}"#
        )
    };
    let key = Key::Rollout(id()).to_string();
    put(&mut snapshot, &key, &mark(true));
    let halted = of(&snapshot, &snapshot);
    let why = Some(Stays::Halted(0, "exited".to_owned()));
    assert_eq!(
        halted.slots[&1],
        Fate::Kept {
            host: "h1".parse().unwrap(),
            why
        }
    );
    // Another manifest is another update.
    let mut after = snapshot.clone();
    manifest(&mut after, &NEW.replace("a:2", "a:3"));
    assert!(runs_image(&of(&snapshot, &after).slots[&1]).is_some());

    put(&mut snapshot, &key, &mark(false));
    let paused = of(&snapshot, &snapshot);
    assert_eq!(
        paused.slots[&1],
        Fate::Waiting {
            host: Some("h1".parse().unwrap()),
            why: Waiting::UpdatePaused
        }
    );
}

#[test]
fn what_was_just_claimed_is_kept_also_while_nobody_has_decided_its_image() {
    let mut before = Snapshot::default();
    host(&mut before, "h1");
    let rev = manifest(&mut before, OLD);
    for number in 0..4 {
        slot(&mut before, number, rev, "unready");
    }
    let mut after = before.clone();
    manifest(&mut after, OLD);
    let planned = of(&before, &after);
    assert!(
        planned
            .slots
            .values()
            .all(|fate| matches!(fate, Fate::Kept { why: None, .. }))
    );
    manifest(&mut after, NEW);
    assert!(
        of(&before, &after)
            .slots
            .values()
            .all(|fate| runs_image(fate) == Some("a:1"))
    );
}

#[test]
fn a_change_that_is_taken_back_replaces_only_what_has_changed() {
    let mut before = running();
    let rev = manifest(&mut before, NEW);
    decided(&mut before, NEW, rev);
    slot(&mut before, 0, rev, "ready");
    let mut after = before.clone();
    manifest(&mut after, OLD);
    let planned = of(&before, &after);
    assert_eq!(runs_image(&planned.slots[&0]), Some("a:2"));
    assert!(matches!(planned.slots[&1], Fate::Kept { .. }));
    assert_eq!(planned.update.unwrap().slots, [0]);
}

#[test]
fn each_slot_that_nobody_has_is_placed_once_however_many_there_are() {
    let mut before = Snapshot::default();
    host(&mut before, "h1");
    let mut after = before.clone();
    manifest(&mut after, &OLD.replace('4', "200"));
    let placed = of(&before, &after);
    assert_eq!(placed.slots.len(), 200);
    assert!(
        placed
            .slots
            .values()
            .all(|fate| matches!(fate, Fate::Created { .. }))
    );
}

#[test]
fn a_global_container_is_created_where_it_lacks_and_removed_where_it_is_one_too_many() {
    let mut before = Snapshot::default();
    for name in ["h1", "h2", "h3"] {
        host(&mut before, name);
    }
    let old = r#"{"image": "a:1", "scale": 2}"#;
    let rev = manifest(&mut before, old);
    decided(&mut before, old, rev);
    slot(&mut before, 0, rev, "ready");
    slot(&mut before, 1, rev, "ready");
    put(&mut before, "/hosts/h3/availability", r#""pause""#);
    let mut after = before.clone();
    manifest(&mut after, r#"{"image": "a:1", "scale": "global"}"#);
    let fates: Vec<String> = (of(&before, &after).slots.iter())
        .map(|(number, fate)| format!("{number} {fate:?}"))
        .collect();
    assert_eq!(
        fates,
        [
            r#"0 Kept { host: HostName("h1"), why: None }"#,
            r#"1 Removed { host: HostName("h1") }"#,
            r#"2 Created { host: HostName("h2"), first: None }"#,
        ]
    );
    // What a missing host has stays its own.
    let mut lost = after.clone();
    put(
        &mut lost,
        "/dokkaa/members/h1",
        r#"{"id":"00000000-0000-4000-8000-000000000001"}"#,
    );
    let record = Change::Delete {
        key: "/hosts/h1/record".to_owned(),
        modified: 99,
    };
    lost.apply([record], 99);
    let kept = Fate::Kept {
        host: "h1".parse().unwrap(),
        why: Some(Stays::Missing),
    };
    assert_eq!(of(&before, &lost).slots[&0], kept);
}

#[test]
fn what_runs_before_is_said_where_it_will_run() {
    let with = |image: &str, more: &str| {
        format!(r#"{{"image": "{image}", "before": {{"command": ["migrate"]}}{more}}}"#)
    };
    let runs = |before: &Snapshot, text: &str| {
        let mut after = before.clone();
        manifest(&mut after, text);
        of(before, &after).before.map(|before| before.command)
    };
    let mut snapshot = Snapshot::default();
    host(&mut snapshot, "h1");
    let migrates = Some(vec!["migrate".to_owned()]);
    assert_eq!(runs(&snapshot, &with("a:1", "")), migrates, "the first");
    let rev = manifest(&mut snapshot, &with("a:1", ""));
    let key = Key::Version(id(), rev).to_string();
    let text = with("a:1", "");
    let version =
        format!(r#"{{"manifest": {text}, "image": "one", "good": true, "prepared": true}}"#);
    put(&mut snapshot, &key, &version);
    slot(&mut snapshot, 0, rev, "ready");
    assert_eq!(runs(&snapshot, &with("a:2", "")), migrates, "another image");
    let scaled = with("a:1", r#", "scale": 3"#);
    assert_eq!(runs(&snapshot, &scaled), None, "more of the same");
    let restarted = with("a:1", r#", "restarted_at": "2026-01-01T00:00:00Z""#);
    assert_eq!(runs(&snapshot, &restarted), None, "a restart");
    assert_eq!(runs(&snapshot, r#"{"image": "a:2"}"#), None);
}

#[test]
fn what_is_deleted_and_written_again_for_another_host_goes_there() {
    let with = |constraint: &str| {
        format!(
            r#"{{"image": "a:1", "scale": 2, "placement": {{"constraints": ["{constraint}"]}}, "before": {{"command": ["migrate"]}}}}"#
        )
    };
    let label = |snapshot: &mut Snapshot, name: &str, disk: &str| {
        let key = Key::Labels(name.parse().unwrap()).to_string();
        put(snapshot, &key, &format!(r#"{{"disk": "{disk}"}}"#));
    };
    let mut before = Snapshot::default();
    for (name, disk) in [("h1", "hdd"), ("h2", "ssd")] {
        host(&mut before, name);
        label(&mut before, name, disk);
    }
    let hdd = with("disk==hdd");
    let rev = manifest(&mut before, &hdd);
    decided(&mut before, &hdd, rev);
    slot(&mut before, 0, rev, "ready");
    slot(&mut before, 1, rev, "ready");
    // Data stay where they are, and the slot with them.
    put(
        &mut before,
        &Key::Data(id().slot(1)).to_string(),
        r#"{"host": "h1", "host_id": "00000000-0000-4000-8000-000000000001", "volumes": ["db"]}"#,
    );
    let ssd = with("disk==ssd");

    // Changed while it is there, it outlives the constraint.
    let mut after = before.clone();
    manifest(&mut after, &ssd);
    let kept = |constraint: &str| Fate::Kept {
        host: "h1".parse().unwrap(),
        why: Some(Stays::Outlived(constraint.to_owned())),
    };
    assert_eq!(of(&before, &after).slots[&0], kept("disk==ssd"));

    let gone = Change::Delete {
        key: Key::Manifest(id()).to_string(),
        modified: before.revision + 1,
    };
    before.apply([gone], before.revision + 1);
    let mut after = before.clone();
    manifest(&mut after, &ssd);
    let planned = of(&before, &after);
    let moved = Fate::Moved {
        from: "h1".parse().unwrap(),
        to: Some("h2".parse().unwrap()),
        why: Leaves::NotHere("disk==ssd".to_owned()),
    };
    assert_eq!(planned.slots[&0], moved);
    assert_eq!(planned.slots[&1], kept("disk==ssd"));
    assert!(planned.before.is_some(), "it is begun there");

    // Its host does not keep it where no other can have it.
    let mut after = before.clone();
    manifest(&mut after, &with("disk==nvme"));
    let fate = &of(&before, &after).slots[&0];
    let is_unplaceable = matches!(
        fate,
        Fate::Waiting {
            host: None,
            why: Waiting::Unplaceable(_)
        }
    );
    assert!(is_unplaceable, "{fate:?}");

    // The same manifest again: all stays.
    let mut after = before.clone();
    manifest(&mut after, &hdd);
    let planned = of(&before, &after);
    let all_stay = |fate: &Fate| matches!(fate, Fate::Kept { why: None, .. });
    assert!(planned.slots.values().all(all_stay), "{planned:?}");
}
