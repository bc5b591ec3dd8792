//! Agents that end and begin again: what runs is adopted.

use std::time::Duration;

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
    for pause in [0, 2, 60] {
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
    for calls in 1..=17 {
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
