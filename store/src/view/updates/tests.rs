use model::records::Cluster;
use model::snapshot::{Snapshot, Touched};

use super::*;
use crate::view::Trust;

fn update(revision: i64, host: &str, resync: bool) -> ViewUpdate {
    let mut touched = Touched::default();
    touched.hosts.insert(host.parse().expect("a name"));
    let mut snapshot = Snapshot::default();
    snapshot.apply([], revision);
    ViewUpdate {
        snapshot,
        touched,
        resync,
        complete: true,
        stale: false,
        trust: Trust::Trusted,
        accepted: None,
    }
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_snapshot_and_all_that_was_touched() {
    let (sender, mut updates) = updates();
    sender.send(update(1, "a", true));
    sender.send(update(2, "b", false));
    let got = updates.next().await.expect("an update");
    assert_eq!(got.snapshot.revision, 2);
    assert!(got.resync);
    assert_eq!(got.touched.hosts.len(), 2);
    assert!(updates.try_next().is_none());
    sender.send(update(3, "c", false));
    let got = updates.next().await.expect("an update");
    assert_eq!((got.touched.hosts.len(), got.resync), (1, false));
}

#[tokio::test]
async fn an_acceptance_is_not_lost_in_what_comes_after_it() {
    let (sender, mut updates) = updates();
    let cluster = Cluster {
        id: uuid::Uuid::nil(),
        epoch: 2,
    };
    sender.send(ViewUpdate {
        accepted: Some(cluster.clone()),
        ..update(1, "a", true)
    });
    sender.send(update(2, "b", false));
    let got = updates.next().await.expect("an update");
    assert_eq!((got.snapshot.revision, got.accepted), (2, Some(cluster)));
}

#[tokio::test]
async fn what_waits_is_read_after_the_view_has_ended() {
    let (sender, mut updates) = updates();
    sender.send(update(1, "a", false));
    drop(sender);
    assert!(updates.next().await.is_some());
    assert!(updates.next().await.is_none());
}
