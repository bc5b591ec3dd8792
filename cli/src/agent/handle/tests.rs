#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use model::observed::{Exit, Limits, Ownership, PublishedPorts, Running};
use uuid::Uuid;

use super::*;

fn container(instance: &str, state: ContainerState, created_at: i64) -> ObservedContainer {
    let web: manifests::ContainerId = "shop/web".parse().unwrap();
    ObservedContainer {
        docker_id: format!("d-{instance}"),
        name: String::new(),
        owner: Ownership {
            cluster: Uuid::nil(),
            slot: web.slot(0),
            instance: instance.parse().unwrap(),
            manifest_hash: String::new(),
            host_hash: String::new(),
            before: None,
        },
        state,
        addr: None,
        ports: PublishedPorts::new(),
        limits: Limits::default(),
        check: None,
        image: String::new(),
        image_id: String::new(),
        driver: String::new(),
        created_at,
    }
}

#[test]
fn the_claimed_instance_is_read_and_the_update_s_is_the_previous_one() {
    let runs = || {
        ContainerState::Running(Running {
            pid: 1,
            started_at: 1,
            health: None,
        })
    };
    let ended = || ContainerState::Exited(Exit::default());
    let read = |containers: &[ObservedContainer], previous| {
        let claimed = "i1".parse().unwrap();
        let read = to_read(containers.iter(), Some(&claimed), previous);
        read.map(|c| c.owner.instance.to_string())
    };
    let former = || container("i0", ended(), 0);
    let made = || {
        container(
            "i3",
            ContainerState::Created {
                error: String::new(),
            },
            9,
        )
    };
    for update in [runs(), ended()] {
        let all = [
            container("i2", update, 2),
            former(),
            container("i1", runs(), 1),
            made(),
        ];
        assert_eq!(read(&all, false).as_deref(), Some("i1"));
        assert_eq!(read(&all, true).as_deref(), Some("i2"));
    }
    assert_eq!(read(&[former(), made()], false).as_deref(), Some("i0"));
    assert_eq!(read(&[former(), made()], true), None);
}

#[test]
fn what_has_no_state_yet_is_starting() {
    let mut snapshot = Snapshot::default();
    let manifest = r#"{"image": "a", "scale": 3, "services": {"web": 80}}"#;
    let claim = |slot: u32| format!(r#"{{"host": "h1", "instance": "i{slot}", "version": 1}}"#);
    let record = r#"{"id": "00000000-0000-0000-0000-000000000001", "epoch": 1, "state": "up",
        "session": "00000000-0000-0000-0000-000000000002", "addr": "10.0.0.1",
        "versions": {"agent": "1", "placement": [1]}}"#;
    let state = r#"{"instance": "i0", "state": "ready", "addr": "10.0.0.1", "ports": {"web": 1}}"#;
    let puts = [
        ("/apps/shop/web/manifest", manifest.to_owned()),
        ("/hosts/h1/record", record.to_owned()),
        ("/claims/shop/web/slots/0", claim(0)),
        ("/claims/shop/web/slots/0.state", state.to_owned()),
        ("/claims/shop/web/slots/1", claim(1)),
    ];
    let changes = puts.into_iter().zip(1..);
    let changes = changes.map(|((key, value), revision)| model::snapshot::Change::Put {
        key: key.to_owned(),
        value: value.into_bytes(),
        modified: revision,
        created: revision,
    });
    snapshot.apply(changes, 5);
    let of = |app: &str| -> Vec<String> {
        let found = starting(&snapshot, |service, _| service.app.as_str() == app);
        let found = found.into_iter();
        found
            .map(|one| format!("{} on {}: {}", one.slot, one.host, one.reason))
            .collect()
    };
    let says = "shop/web/1 on h1: it is starting, and not served yet";
    assert_eq!(of("shop"), [says]);
    assert!(of("blog").is_empty());
}
