use std::collections::BTreeMap;

use model::records::{Capacity, HostState, Versions};
use uuid::Uuid;

use super::*;

fn record() -> HostRecord {
    HostRecord {
        id: Uuid::nil(),
        session: Uuid::nil(),
        epoch: 1,
        state: HostState::Up,
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

fn with(foreign: u32, state: HostState) -> HostRecord {
    HostRecord {
        foreign,
        state,
        ..record()
    }
}

/// In etcd as it is wanted.
fn written() -> RecordKeeper {
    let mut keeper = RecordKeeper::new(record(), Millis(0));
    keeper.written(record());
    keeper
}

#[test]
fn a_count_is_written_when_it_has_held() {
    let mut keeper = written();
    assert_eq!(keeper.due(), None);
    keeper.want(with(1, HostState::Up), Millis(100));
    assert_eq!(keeper.due(), Some(Millis(2_100)));
    // Another change begins anew; the same again does not.
    keeper.want(with(2, HostState::Up), Millis(1_000));
    keeper.want(with(2, HostState::Up), Millis(1_500));
    assert_eq!(keeper.due(), Some(Millis(3_000)));
    keeper.want(record(), Millis(2_000));
    assert_eq!(keeper.due(), None);
}

#[test]
fn a_change_of_state_takes_the_rest_along_at_once() {
    let mut keeper = written();
    keeper.want(with(3, HostState::Up), Millis(100));
    keeper.want(with(3, HostState::Hold), Millis(200));
    assert_eq!(keeper.due(), Some(Millis(0)));
    keeper.written(with(3, HostState::Hold));
    assert_eq!(keeper.due(), None);
}

#[test]
fn a_lost_record_is_due_at_once() {
    let mut keeper = written();
    keeper.lost();
    assert_eq!(keeper.due(), Some(Millis(0)));
}
