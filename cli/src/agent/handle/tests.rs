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
