//! First deploys: who claims what, how often is written, and nothing at rest.

use std::time::Duration;

use manifests::keys::Key;

use crate::agents::cluster::{Cluster, manifest, slot};

#[tokio::test(start_paused = true)]
async fn slots_are_spread_evenly() {
    let cluster = Cluster::of(3).await;
    cluster.put("shop/web", &manifest("app:1", 7));
    cluster.wait_as_wanted("shop/web").await;
    let load = cluster.load();
    let mut counts: Vec<usize> = load.values().copied().collect();
    counts.sort_unstable();
    assert_eq!(counts, [2, 2, 3], "{load:?}");

    cluster.put("shop/db", &manifest("app:2", 2));
    cluster.put("mail/in", &manifest("app:3", 3));
    cluster.wait_as_wanted("shop/db").await;
    cluster.wait_as_wanted("mail/in").await;
    let load = cluster.load();
    assert!(load.values().all(|n| *n == 4), "{load:?}");
    assert_eq!(cluster.journal.count("create"), 12);
    assert_eq!(cluster.journal.count("start"), 12);
    assert_eq!(cluster.journal.count("stop"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deploy_of_one_slot_is_few_writes_and_then_none() {
    let cluster = Cluster::of(3).await;
    cluster.quiet().await;
    let before = cluster.revision();
    cluster.put("shop/web", &manifest("app:1", 1));
    cluster.wait_as_wanted("shop/web").await;
    let after = cluster.quiet().await;
    let history = cluster.history(before);
    let count = |of: fn(&Key) -> bool| history.keys().iter().filter(|key| of(key)).count();
    assert_eq!(count(|key| matches!(key, Key::Claim(_))), 1);
    assert_eq!(count(|key| matches!(key, Key::Version(..))), 2);
    assert_eq!(count(|key| matches!(key, Key::State(_))), 1);
    assert!(count(|key| matches!(key, Key::Status(_))) <= 2);
    assert!(history.transactions() <= 6, "{:?}", history.keys());

    let asked: usize = cluster.agents.iter().map(|a| a.wire.asked().len()).sum();
    cluster.pass(Duration::from_secs(300)).await;
    assert_eq!(cluster.revision(), after, "nothing is written at rest");
    let asked_after: usize = cluster.agents.iter().map(|a| a.wire.asked().len()).sum();
    assert_eq!(asked_after, asked, "nothing is asked for at rest");
    assert_eq!(cluster.journal.calls().len(), 3, "pull, create, start");
}

#[tokio::test(start_paused = true)]
async fn of_two_claims_on_one_revision_one_counts() {
    let cluster = Cluster::of(2).await;
    cluster.quiet().await;
    let before = cluster.revision();
    // Whoever comes first is slow; after its turn the other one claims, and then both writes are under way.
    for agent in &cluster.agents {
        agent.wire.hold_up(true);
    }
    cluster.put("shop/web", &manifest("app:1", 1));
    cluster.pass(Duration::from_secs(5)).await;
    for agent in &cluster.agents {
        agent.wire.hold_up(false);
    }
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    let tried: Vec<bool> = cluster
        .agents
        .iter()
        .flat_map(|agent| agent.wire.asked())
        .filter(|asked| {
            asked
                .keys
                .contains(&Key::Claim(slot("shop/web", 0)).to_string())
        })
        .map(|asked| asked.held)
        .collect();
    assert_eq!(tried.len(), 2, "both tried");
    assert_eq!(tried.iter().filter(|held| **held).count(), 1);
    let claims = cluster.history(before).claims(&slot("shop/web", 0));
    assert_eq!(claims.len(), 1, "{claims:?}");
    assert_eq!(cluster.journal.count("create"), 1);
    assert_eq!(cluster.load().values().sum::<usize>(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_misspelt_image_is_said_and_healed() {
    let cluster = Cluster::of(3).await;
    cluster.put("shop/web", &manifest("appp:1", 2));
    cluster.put("shop/db", &manifest("app:1", 3));
    // It harms nobody else.
    cluster.wait_as_wanted("shop/db").await;
    let said = |cluster: &Cluster| {
        let all = cluster.keys("/status/shop/web/");
        let all: Vec<String> = all
            .into_values()
            .map(|value| String::from_utf8(value).expect("JSON"))
            .collect();
        let failed = |text: &&String| text.contains("\"failed\"") && text.contains("appp");
        let both = all.iter().filter(failed).count() == 2;
        both.then_some(()).ok_or(format!("{all:?}"))
    };
    cluster.wait("the status says why", said).await;
    cluster.quiet().await;
    assert_eq!(cluster.journal.count("create"), 3, "of shop/db alone");

    cluster.put("shop/web", &manifest("app:1", 2));
    cluster.wait_as_wanted("shop/web").await;
    assert_eq!(cluster.journal.count("create"), 5);
    assert_eq!(cluster.journal.count("stop"), 0);
}
