#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod checker;

use super::*;
use model::snapshot::Change;

/// A snapshot of these keys, each with a revision of its own.
fn snapshot(keys: &[(&str, String)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let changes = keys.iter().zip(1..).map(|((key, value), at)| Change::Put {
        key: (*key).to_owned(),
        value: value.clone().into_bytes(),
        modified: at,
        created: at,
    });
    snapshot.apply(changes.collect::<Vec<_>>(), keys.len() as i64);
    snapshot
}

fn record(foreign: u32) -> String {
    format!(
        r#"{{"id":"00000000-0000-4000-8000-000000000001","session":"00000000-0000-4000-8000-000000000002",
        "epoch":1,"state":"up","addr":"10.0.0.1","versions":{{"agent":"1","placement":[1]}},"foreign":{foreign}}}"#
    )
}

/// Slots that are placed at once don't share a host's port either, however
/// few containers that host has.
#[test]
fn slots_with_a_host_port_go_to_different_hosts() {
    let snapshot = snapshot(&[
        ("/hosts/idle/record", record(0)),
        ("/hosts/busy/record", record(9)),
        (
            "/apps/a/web/manifest",
            r#"{"image": "x", "scale": 3, "services": {"web": {"port": 80, "host_port": 8088}}}"#
                .to_owned(),
        ),
    ]);
    let placed = unclaimed(&snapshot);
    let first: Vec<Option<&str>> = placed
        .iter()
        .map(|slot| slot.order.first().map(HostName::as_str))
        .collect();
    assert_eq!(first, [Some("idle"), Some("busy"), None]);
    let why = placed[2].why_waiting().unwrap().to_string();
    assert!(
        why.contains("idle: host port 8088 is taken by a/web/0"),
        "{why}"
    );
}
