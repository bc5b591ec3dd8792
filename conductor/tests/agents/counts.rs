//! What a start costs etcd.

use manifests::keys::Key;

use crate::agents::cluster::{Cluster, manifest};

#[tokio::test(start_paused = true)]
async fn a_slot_that_starts_at_once_costs_two_watched_writes() {
    let cluster = Cluster::of(4).await;
    let before = cluster.quiet().await;
    cluster.put("shop/web", &manifest("app:1", 20));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    let history = cluster.history(before);
    let keys = history.keys();
    let claims = keys.iter().filter(|key| matches!(key, Key::Claim(_)));
    let states = keys.iter().filter(|key| matches!(key, Key::State(_)));
    assert_eq!((claims.count(), states.count()), (20, 20), "{keys:#?}");
    // The claims of a host travel together.
    let claiming = history.transactions_of(|key| matches!(key, Key::Claim(_)));
    assert_eq!(claiming, 4, "{keys:#?}");
}
