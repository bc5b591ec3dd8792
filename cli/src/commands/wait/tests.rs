#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use serde_json::{Value, json};

fn row(slot: u32, status: &str, more: Value) -> Value {
    let mut row = json!({"app": "shop", "container": "web", "slot": slot, "status": status});
    row.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    row
}

/// What is said of revision 7 where the view stands at 9.
fn say(container: Value, slots: Vec<Value>) -> Verdict {
    let mut whole = json!({"app": "shop", "container": "web", "revision": 7, "scale": 2});
    whole
        .as_object_mut()
        .unwrap()
        .extend(container.as_object().unwrap().clone());
    let slots = json!({"slots": slots, "containers": [whole], "revision": 9});
    let slots: Slots = serde_json::from_value(slots).unwrap();
    verdict(&slots, &"shop/web".parse().unwrap(), 7)
}

fn is_pending(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Pending(_))
}

#[test]
fn it_converges_when_every_slot_is_ready_on_the_manifest() {
    let ready = |slot| row(slot, "ready", json!({}));
    assert_eq!(
        say(json!({}), vec![ready(0), ready(1)]),
        Verdict::Converged("2 of 2 slots ready".to_owned())
    );
    let old = row(1, "ready", json!({"outdated": true, "reason": "older"}));
    assert_eq!(
        say(json!({}), vec![ready(0), old]),
        Verdict::Pending("1 of 2 slots updated and ready; slot 1 ready: older".to_owned())
    );
    let waiting = row(1, "waiting", json!({"reason": "no host is live"}));
    assert!(is_pending(&say(json!({}), vec![ready(0), waiting])));
    let unplaceable = |slot| {
        let why = "no host can run it: h1: disk==ssd is asked for";
        row(slot, "waiting", json!({"unplaceable": true, "reason": why}))
    };
    assert_eq!(
        say(json!({}), vec![ready(0), unplaceable(1)]),
        Verdict::Stuck {
            how:
                "1 of 2 slots ready; slot 1 waiting: no host can run it: h1: disk==ssd is asked for"
                    .to_owned(),
            why: "slot 1: no host can run it: h1: disk==ssd is asked for".to_owned(),
            ready: 1,
        }
    );
    // What another one does may yet make room.
    let pulling = row(0, "pulling", json!({"reason": "pulling its image"}));
    assert!(is_pending(&say(json!({}), vec![pulling, unplaceable(1)])));
    let surplus = row(
        2,
        "leaving",
        json!({"surplus": true, "reason": "scaled down"}),
    );
    assert!(is_pending(&say(
        json!({}),
        vec![ready(0), ready(1), surplus]
    )));
    assert_eq!(
        say(json!({"scale": 0}), vec![]),
        Verdict::Converged("0 of 0 slots ready".to_owned())
    );
}

#[test]
fn what_has_just_started_has_to_prove_itself() {
    let ready = |slot, unproven: bool| row(slot, "ready", json!({"unproven": unproven}));
    assert_eq!(
        say(json!({}), vec![ready(0, false), ready(1, true)]),
        Verdict::Pending(
            "2 of 2 slots ready; slot 1 has to stay ready for `update.monitor`".to_owned()
        )
    );
    assert_eq!(
        say(json!({}), vec![ready(0, false), ready(1, false)]),
        Verdict::Converged("2 of 2 slots ready".to_owned())
    );
}

#[test]
fn attempts_of_hosts_that_give_up_do_not_begin_the_wait_anew() {
    let second = Duration::from_secs(1);
    let mut stuck = StuckFor::default();
    // Between these looks a host tried in vain.
    assert_eq!(stuck.stuck(0, second), second);
    assert_eq!(stuck.stuck(0, second), second * 2);
    assert_eq!(stuck.stuck(1, second), second);
    assert_eq!(stuck.stuck(0, second), second * 2);
    assert_eq!(stuck.stuck(1, second), second * 3);
    // The agent was silent for half a minute.
    assert_eq!(stuck.stuck(1, second * 30), second * 4);
}

#[test]
fn what_a_missing_host_has_of_a_global_container_is_not_waited_for() {
    let ready = row(0, "ready", json!({}));
    let lost = row(1, "lost", json!({"reason": "host h2 is missing"}));
    let slots = || vec![ready.clone(), lost.clone()];
    assert_eq!(
        say(json!({"global": true}), slots()),
        Verdict::Converged("1 of 1 slots ready, 1 on missing hosts".to_owned())
    );
    assert!(is_pending(&say(json!({}), slots())));
    assert_eq!(
        say(json!({"global": true, "scale": 0}), vec![]),
        Verdict::Converged("no host may have it: `dokkaa why shop/web`".to_owned())
    );
}

#[test]
fn it_fails_with_the_slot_its_reason_and_its_last_lines() {
    let failed = row(
        1,
        "failed",
        json!({"failed": true, "reason": "exit code 1", "log": ["a", "b\u{7}"]}),
    );
    assert_eq!(
        say(json!({}), vec![row(0, "ready", json!({})), failed]),
        Verdict::Failed("slot 1: exit code 1\n  | a\n  | b".to_owned())
    );
    let gave_up = json!({"gave_up": {"slot": 0, "reason": "not ready within 60 s"}});
    let row = row(0, "ready", json!({"outdated": true, "log": ["last"]}));
    assert_eq!(
        say(gave_up, vec![row]),
        Verdict::Failed("slot 0: not ready within 60 s\n  | last".to_owned())
    );
    assert!(matches!(
        say(json!({"errors": ["1:1 manifest: broken"]}), vec![]),
        Verdict::Failed(_)
    ));
}

/// What `rollout status` says of it.
fn status(container: Value, slots: Vec<Value>) -> String {
    let mut whole = json!({"app": "shop", "container": "web", "revision": 7, "scale": 2});
    let more = container.as_object().unwrap().clone();
    whole.as_object_mut().unwrap().extend(more);
    let container: ContainerRow = serde_json::from_value(whole).unwrap();
    let slots: Vec<SlotRow> = serde_json::from_value(json!(slots)).unwrap();
    headline(&container, &slots.iter().collect::<Vec<_>>())
}

#[test]
fn an_attempt_beside_what_serves_is_no_failure_of_the_update_before_it_is_noted() {
    let why = "keeps the older version: the new one failed: no such image";
    let tried = || {
        let more = json!({"failed": true, "outdated": true, "reason": why});
        row(0, "ready", more)
    };
    let old = || row(1, "ready", json!({"outdated": true, "reason": "its turn"}));
    let update = |update: Value| json!({"update": update});
    let under_way = || update(json!({"version": 7, "updating": [0]}));
    assert_eq!(
        say(under_way(), vec![tried(), old()]),
        Verdict::Pending(format!(
            "0 of 2 slots updated and ready; slot 0 ready: {why}"
        ))
    );
    let said = status(under_way(), vec![tried(), old()]);
    assert!(said.ends_with("0 of 2 slots: under way"), "{said}");
    // One may fail, and has.
    let noted = || update(json!({"version": 7, "failures": [0]}));
    let failed = Verdict::Failed(format!("slot 0: {why}"));
    assert_eq!(say(noted(), vec![tried(), old()]), failed);
    let said = status(noted(), vec![tried(), old()]);
    assert!(
        said.ends_with(&format!("failed, slot 0: {why}; it is tried on")),
        "{said}"
    );
    // A slot that is only restarted fails without being counted.
    let restart = update(json!({"version": 7, "updating": [0], "restart": [0]}));
    assert_eq!(say(restart, vec![tried(), old()]), failed);
    let mut halted = update(
        json!({"version": 7, "failures": [0], "halted": true, "slot": 0,
        "reason": "no such image"}),
    );
    halted["gave_up"] = json!({"slot": 0, "reason": "no such image"});
    let failed = Verdict::Failed("slot 0: no such image".to_owned());
    assert_eq!(say(halted.clone(), vec![tried(), old()]), failed);
    let said = status(halted, vec![tried(), old()]);
    assert!(
        said.ends_with("halted, slot 0 failed: no such image"),
        "{said}"
    );
    // Nothing older serves.
    let more = json!({"failed": true, "reason": "no such image"});
    let first = || vec![row(0, "failed", more.clone())];
    let failed = Verdict::Failed("slot 0: no such image".to_owned());
    assert_eq!(say(json!({}), first()), failed);
    let said = status(json!({}), first());
    assert!(
        said.ends_with("failed, slot 0: no such image; it is tried on"),
        "{said}"
    );
}

#[test]
fn an_update_is_over_when_no_slot_is_watched_any_more() {
    let ready = |slot| row(slot, "ready", json!({}));
    let update = |more: Value| {
        let mut update = json!({"version": 7});
        let more = more.as_object().unwrap().clone();
        update.as_object_mut().unwrap().extend(more);
        json!({"update": update})
    };
    assert_eq!(
        say(update(json!({"updating": [1]})), vec![ready(0), ready(1)]),
        Verdict::Pending(
            "2 of 2 slots ready; slot 1 has to stay ready for `update.monitor`".to_owned()
        )
    );
    // A pause when nothing is left to do holds nobody up.
    let paused = update(json!({"paused": true}));
    let done = say(paused.clone(), vec![ready(0), ready(1)]);
    assert!(matches!(done, Verdict::Converged(_)));
    let old = row(1, "ready", json!({"outdated": true, "reason": "older"}));
    let Verdict::Pending(how) = say(paused, vec![ready(0), old.clone()]) else {
        panic!("it is paused");
    };
    assert!(
        how.ends_with("`dokkaa rollout resume shop/web` goes on"),
        "{how}"
    );
    let mut back = update(json!({"halted": true, "back_to": 5}));
    back["gave_up"] = json!({"slot": 0, "reason": "exit code 1"});
    assert_eq!(
        say(back, vec![ready(0), old]),
        Verdict::Failed("slot 0: exit code 1; all slots go back to version 5".to_owned())
    );
}

#[test]
fn somebody_else_may_come_between() {
    let Verdict::Failed(why) = say(json!({"revision": 8}), vec![]) else {
        panic!("another manifest");
    };
    assert!(why.contains("changed meanwhile"));
    let gone = Slots {
        revision: 9,
        ..Slots::default()
    };
    let id = "shop/web".parse().unwrap();
    assert!(matches!(verdict(&gone, &id, 7), Verdict::Failed(_)));
}

#[test]
fn what_the_agent_has_not_seen_yet_is_not_judged() {
    let id = "shop/web".parse().unwrap();
    let behind = Slots {
        revision: 6,
        ..Slots::default()
    };
    assert!(is_pending(&verdict(&behind, &id, 7)));
    let stale = Slots {
        revision: 9,
        stale: true,
        ..Slots::default()
    };
    assert!(is_pending(&verdict(&stale, &id, 7)));
}
