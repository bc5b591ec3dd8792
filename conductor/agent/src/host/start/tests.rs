use std::collections::BTreeMap;

use model::records::{Capacity, Versions};

use uuid::Uuid;

use super::*;

fn new_cluster() -> Cluster {
    Cluster {
        id: Uuid::new_v4(),
        epoch: 2,
    }
}

const LIMIT: Duration = Duration::from_secs(36);

fn record(session: Uuid, state: HostState) -> HostRecord {
    HostRecord {
        id: Uuid::nil(),
        session,
        epoch: 1,
        state,
        addr: "10.0.0.1".parse().expect("an address"),
        peer: None,
        api: Vec::new(),
        labels: BTreeMap::new(),
        capacity: Capacity::default(),
        versions: Versions {
            agent: "0.1.0".into(),
            placement: vec![1],
        },
        foreign: 0,
        engine: true,
        docker: None,
        disk: None,
        disk_full: false,
        hold: None,
        problems: Vec::new(),
    }
}

fn disk(session: Option<Uuid>, before: Option<Uuid>) -> Disk {
    Disk {
        id: Uuid::nil(),
        boot_id: "this".into(),
        session,
        before,
        before_boot_id: "this".into(),
    }
}

#[test]
fn the_start_protocol_goes_on_only_for_an_earlier_process_of_this_machine() {
    let (ours, before, foreign) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let disk = disk(Some(ours), Some(before));
    let cases = [
        // session, state, boot, waited; what to do
        (ours, HostState::Up, "this", 0, Start::GoOn),
        (before, HostState::Up, "this", 0, Start::GoOn),
        (ours, HostState::Hold, "this", 0, Start::GoOn),
        (ours, HostState::Restarting, "other", 0, Start::GoOn),
        (ours, HostState::Up, "other", 0, Start::Wait),
        (ours, HostState::Up, "other", 36, Start::Exit),
        (foreign, HostState::Up, "this", 0, Start::Wait),
        (foreign, HostState::Restarting, "this", 35, Start::Wait),
        (foreign, HostState::Restarting, "this", 36, Start::Exit),
    ];
    for (session, state, boot, waited, wanted) in cases {
        let record = record(session, state);
        let waited = Duration::from_secs(waited);
        let decided = decide(Some(&record), &disk, boot, waited, LIMIT);
        assert_eq!(decided, wanted, "{state:?} {boot} {waited:?}");
    }
    assert_eq!(decide(None, &disk, "other", LIMIT, LIMIT), Start::GoOn);
}

#[test]
fn a_record_under_another_name_is_ours_only_with_our_session() {
    let ours = Uuid::new_v4();
    let disk = disk(Some(ours), None);
    let of = |session: Uuid, state: HostState, boot: &str, waited: u64| {
        let waited = Duration::from_secs(waited);
        decide_other(&record(session, state), &disk, boot, waited, LIMIT)
    };
    assert_eq!(of(ours, HostState::Up, "this", 0), Start::GoOn);
    assert_eq!(of(ours, HostState::Restarting, "other", 0), Start::GoOn);
    // It may be the original of a copied disk.
    assert_eq!(of(ours, HostState::Up, "other", 0), Start::Wait);
    assert_eq!(of(ours, HostState::Up, "other", 36), Start::Exit);
    assert_eq!(of(Uuid::new_v4(), HostState::Up, "this", 0), Start::Exit);
}

#[test]
fn a_cluster_is_made_only_where_nothing_speaks_of_one() {
    let known = new_cluster();
    let other = new_cluster();
    let there = |cluster: &Cluster| {
        Some(Rev {
            value: cluster.clone(),
            modified: model::ModRev(5),
            created: model::ModRev(5),
        })
    };
    let fresh = ClusterFacts {
        known: None,
        saved_revision: 0,
        labelled_containers: false,
        live_records: false,
    };
    let knows = ClusterFacts {
        known: Some(&known),
        ..fresh
    };
    assert_eq!(decide_cluster(fresh, None, 9), ClusterStart::Create);
    assert_eq!(
        decide_cluster(fresh, there(&other).as_ref(), 9),
        ClusterStart::Use(other.clone())
    );
    for facts in [
        ClusterFacts {
            labelled_containers: true,
            ..fresh
        },
        ClusterFacts {
            live_records: true,
            ..fresh
        },
    ] {
        let decided = decide_cluster(facts, None, 9);
        assert!(matches!(decided, ClusterStart::Missing(_)), "{decided:?}");
    }
    assert_eq!(
        decide_cluster(knows, there(&known).as_ref(), 9),
        ClusterStart::Use(known.clone())
    );
    let (restored, older) = (
        Cluster {
            epoch: known.epoch + 1,
            ..known.clone()
        },
        Cluster {
            epoch: known.epoch - 1,
            ..known.clone()
        },
    );
    let behind = ClusterFacts {
        saved_revision: 10,
        ..knows
    };
    for (facts, found) in [
        (knows, None),
        (knows, there(&other)),
        (knows, there(&older)),
        (behind, there(&known)),
    ] {
        let decided = decide_cluster(facts, found.as_ref(), 9);
        assert!(matches!(decided, ClusterStart::Distrust(_)), "{decided:?}");
    }
    // An accepted restore counts wherever its history stands.
    for facts in [knows, behind] {
        let decided = decide_cluster(facts, there(&restored).as_ref(), 9);
        assert_eq!(decided, ClusterStart::Accept(restored.clone()));
    }
}
