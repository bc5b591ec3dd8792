//! Agents that end and begin again: what runs is adopted.

use std::time::Duration;

use manifests::keys::Key;
use model::directory::ServiceId;
use model::records::{Cluster as Accepted, HostState};
use store::kv::{Op, Txn};

use crate::agents::cluster::{Cluster, manifest, slot};

#[tokio::test(start_paused = true)]
async fn an_agent_that_restarts_adopts_what_runs() {
    let mut cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 4));
    cluster.wait_as_wanted("shop/web").await;
    let before = cluster.quiet().await;
    let calls = cluster.journal.calls().len();
    cluster.agent_mut("a").stop().await;
    cluster.pass(Duration::from_secs(10)).await;
    cluster.agent_mut("a").start().await;
    cluster.quiet().await;
    assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()));
    assert_eq!(
        cluster.journal.calls().len(),
        calls,
        "the engines are left alone"
    );
    assert_eq!(
        cluster.history(before).keys(),
        [],
        "nothing is written anew"
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_killed_adopts_what_runs() {
    let mut cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 4));
    cluster.wait_as_wanted("shop/web").await;
    let before = cluster.quiet().await;
    let calls = cluster.journal.calls().len();
    // Before its record has ended.
    for pause in [0, 2, 5] {
        cluster.agent_mut("a").kill().await;
        cluster.pass(Duration::from_secs(pause)).await;
        cluster.agent_mut("a").start().await;
        cluster.quiet().await;
    }
    assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()));
    assert_eq!(
        cluster.journal.calls().len(),
        calls,
        "the engines are left alone"
    );
    assert_eq!(
        cluster.history(before).keys(),
        [],
        "nothing is written anew"
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_with_fifty_slots_writes_nothing_but_the_record() {
    let mut cluster = Cluster::of(1).await;
    cluster.put("shop/web", &manifest("app:1", 50));
    cluster.wait_as_wanted("shop/web").await;
    let before = cluster.quiet().await;
    let asked = cluster.agent("a").wire.asked().len();
    let calls = cluster.journal.calls().len();
    cluster.agent_mut("a").stop().await;
    cluster.agent_mut("a").start().await;
    let after = cluster.quiet().await;
    assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()));
    assert_eq!(cluster.history(before).keys(), []);
    assert_eq!(
        after - before,
        2,
        "it says that it restarts, and that it is back"
    );
    assert_eq!(cluster.agent("a").wire.asked().len(), asked);
    assert_eq!(cluster.journal.calls().len(), calls);
}

#[tokio::test(start_paused = true)]
async fn all_agents_at_once() {
    let mut cluster = Cluster::of(3).await;
    cluster.put("shop/web", &manifest("app:1", 6));
    cluster.wait_as_wanted("shop/web").await;
    let before = cluster.quiet().await;
    let calls = cluster.journal.calls().len();
    for name in ["a", "b", "c"] {
        cluster.agent_mut(name).kill().await;
    }
    cluster.pass(Duration::from_secs(120)).await;
    for name in ["a", "b", "c"] {
        cluster.agent_mut(name).start().await;
    }
    cluster.quiet().await;
    assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()));
    assert_eq!(cluster.journal.calls().len(), calls);
    assert_eq!(cluster.history(before).keys(), []);
}

#[tokio::test(start_paused = true)]
async fn what_happened_meanwhile_is_made_good() {
    let mut cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 4));
    cluster.put("shop/db", &manifest("app:1", 2));
    cluster.put("shop/old", &manifest("app:1", 2));
    for id in ["shop/web", "shop/db", "shop/old"] {
        cluster.wait_as_wanted(id).await;
    }
    cluster.quiet().await;
    cluster.agent_mut("a").stop().await;
    // A crash, an update, a delete, and more of one.
    let crashed = cluster
        .agent("a")
        .docker
        .containers()
        .into_iter()
        .find(|c| c.owner.slot.container.container.as_str() == "web")
        .expect("a has one");
    cluster.agent("a").docker.crash(&crashed.owner.slot);
    cluster.put("shop/db", &manifest("app:2", 2));
    cluster.put("shop/web", &manifest("app:1", 5));
    cluster.delete("shop/old");
    cluster.pass(Duration::from_secs(8)).await;
    cluster.agent_mut("a").start().await;
    cluster.wait_as_wanted("shop/web").await;
    cluster.wait_as_wanted("shop/db").await;
    cluster.wait("it is gone", |c| c.is_gone("shop/old")).await;
    cluster.quiet().await;
    for id in ["shop/web", "shop/db"] {
        assert_eq!(cluster.is_as_wanted(id), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_kill_in_the_middle_of_a_deploy_or_an_update_leaves_no_second_container() {
    // After each call of a deploy (a pull, two creates, two starts) and of an update after it.
    for calls in 1..=16 {
        let mut cluster = Cluster::of(1).await;
        cluster.put("shop/web", &manifest("app:1", 2));
        if calls > 5 {
            cluster.wait_as_wanted("shop/web").await;
            cluster.put("shop/web", &manifest("app:2", 2));
        }
        cluster.journal.reaches(calls).await;
        cluster.agent_mut("a").kill().await;
        cluster.agent_mut("a").start().await;
        cluster.wait_as_wanted("shop/web").await;
        cluster.quiet().await;
        assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()), "after {calls}");
        let names = cluster.containers();
        let first = slot("shop/web", 0).docker_name();
        let runs = |name: &str| {
            let mut all = names.iter();
            all.any(|(_, c)| c.name == name && c.running().is_some())
        };
        assert!(runs(&first), "after {calls}: {names:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_without_etcd_looks_after_what_runs() {
    let mut cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 4));
    cluster.wait_as_wanted("shop/web").await;
    let before = cluster.quiet().await;
    let a = cluster.agent_mut("a");
    a.stop().await;
    a.wire.cut(true);
    let crashed = a.docker.containers().remove(0).owner.slot;
    a.docker.crash(&crashed);
    a.begin().await;
    let runs = |c: &Cluster| match c.agent("a").runs() {
        2 => Ok(()),
        runs => Err(format!("{runs} run")),
    };
    cluster.wait("what has crashed runs again", runs).await;
    // Names go on being answered for, from the view on disk.
    let directory = cluster.agent("a").published().directory.load();
    let web = ServiceId {
        app: "shop".parse().expect("a name"),
        service: "http".parse().expect("a name"),
    };
    assert_eq!(directory.serving(&web).len(), 4);
    let calls = cluster.journal.calls().len();
    cluster.agent("a").wire.cut(false);
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()));
    assert_eq!(cluster.journal.calls().len(), calls);
    let claims = cluster.history(before).keys();
    let changes_hands = |key: &&Key| matches!(key, Key::Claim(_) | Key::Next(_));
    let changed: Vec<_> = claims.iter().filter(changes_hands).collect();
    assert!(changed.is_empty(), "{changed:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_nothing_is_started_before_etcd_has_said_whose_it_is() {
    let mut cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 4));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    let a = cluster.agent_mut("a");
    a.reboot().await;
    a.wire.cut(true);
    a.begin().await;
    cluster.pass(Duration::from_secs(60)).await;
    assert_eq!(cluster.agent("a").runs(), 0);
    cluster.agent("a").wire.cut(false);
    cluster.wait_as_wanted("shop/web").await;
}

#[tokio::test(start_paused = true)]
async fn a_restored_etcd_is_held_until_the_operator_accepts_it() {
    let mut cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 4));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    let backup = cluster.kv.with(|etcd| etcd.clone());
    cluster.put("shop/db", &manifest("app:1", 2));
    cluster.wait_as_wanted("shop/db").await;
    cluster.quiet().await;
    let calls = cluster.journal.calls().len();
    cluster.kv.with(|etcd| {
        *etcd = backup;
        etcd.close_watches("restored");
    });
    let states = |c: &Cluster| -> Vec<HostState> {
        let snapshot = c.snapshot();
        snapshot.live().map(|(_, record)| record.state).collect()
    };
    let held = |c: &Cluster| match states(c) {
        states if states == [HostState::Hold; 2] => Ok(()),
        states => Err(format!("{states:?}")),
    };
    cluster.wait("all are in hold", held).await;
    // Also across a restart, and however long it lasts.
    cluster.agent_mut("a").kill().await;
    cluster.agent_mut("a").begin().await;
    cluster.pass(Duration::from_secs(120)).await;
    assert_eq!(held(&cluster), Ok(()));
    assert_eq!(cluster.journal.calls().len(), calls, "nothing is changed");
    let known = cluster
        .snapshot()
        .cluster
        .expect("it is in the backup")
        .value;
    let accepted = Accepted {
        epoch: known.epoch + 1,
        ..known
    };
    let accept = Txn::new(vec![], vec![Op::put_json(Key::Cluster, &accepted)]);
    let reply = cluster.kv.with(|etcd| etcd.txn(&accept));
    assert!(reply.is_ok());
    let up = |c: &Cluster| match states(c) {
        states if states == [HostState::Up; 2] => Ok(()),
        states => Err(format!("{states:?}")),
    };
    cluster.wait("all are up again", up).await;
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()));
    assert_eq!(cluster.journal.calls().len(), calls, "what runs is kept");
}

/// With the alarm NOSPACE etcd refuses what puts something and new leases, and goes on with the rest.
#[tokio::test(start_paused = true)]
async fn a_host_that_restarts_while_etcd_is_full_is_waited_for() {
    let mut cluster = Cluster::of(3).await;
    cluster.put("shop/web", &manifest("app:1", 6));
    cluster.wait_as_wanted("shop/web").await;
    let before = cluster.quiet().await;
    let calls = cluster.journal.calls().len();
    cluster.kv.set_no_space(true);
    cluster.agent_mut("a").stop().await;
    cluster.agent_mut("a").begin().await;
    cluster.pass(Duration::from_secs(60)).await;
    assert_eq!(
        cluster.snapshot().live().count(),
        2,
        "it can't put its record"
    );
    // The alarm is cleared, and the others know it first.
    cluster.agent("a").wire.cut(true);
    cluster.kv.set_no_space(false);
    cluster.pass(Duration::from_secs(10)).await;
    cluster.agent("a").wire.cut(false);
    cluster
        .wait("it is back", |cluster| {
            let live = cluster.snapshot().live().count();
            (live == 3).then_some(()).ok_or(format!("{live} live"))
        })
        .await;
    cluster.quiet().await;
    assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()));
    assert_eq!(
        cluster.history(before).keys(),
        [],
        "nobody took anything over"
    );
    assert_eq!(
        cluster.journal.calls().len(),
        calls,
        "the engines are left alone"
    );
}

#[tokio::test(start_paused = true)]
async fn a_host_that_dies_while_etcd_is_full_is_taken_over_when_it_is_not_any_more() {
    let mut cluster = Cluster::of(3).await;
    cluster.put("shop/web", &manifest("app:1", 6));
    cluster.wait_as_wanted("shop/web").await;
    cluster.kv.set_no_space(true);
    cluster.agent_mut("a").kill().await;
    cluster.pass(Duration::from_secs(20)).await;
    // Whichever of the others would take them.
    let mut reasons = Vec::new();
    for host in ["b", "c"] {
        let waiting = cluster.agent(host).published().waiting.load();
        reasons.extend(waiting.values().map(ToString::to_string));
    }
    assert!(
        reasons.len() == 2 && reasons.iter().all(|why| why.contains("NOSPACE")),
        "{reasons:?}"
    );
    cluster.kv.set_no_space(false);
    cluster
        .wait("its slots are elsewhere", |cluster| {
            let snapshot = cluster.snapshot();
            let on_a = (0..6)
                .filter_map(|n| snapshot.slot(&slot("shop/web", n))?.claim.clone())
                .filter(|claim| claim.host.as_str() == "a")
                .count();
            (on_a == 0).then_some(()).ok_or(format!("{on_a} slots"))
        })
        .await;
}
