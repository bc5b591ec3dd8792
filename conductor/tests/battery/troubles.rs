//! What goes wrong, and whose fault it is said to be.

use std::net::{SocketAddr, TcpListener};

use engine::{CreateSpec, EngineError, HostFault, Mount, MountSource, Named};
use model::observed::ContainerState;

use crate::harness::{Does, Lab, everywhere, tcp};

everywhere!(
    a_port_that_another_container_has_is_the_hosts_fault,
    a_port_that_a_process_has_is_the_hosts_fault,
    an_address_of_another_machine_is_the_hosts_fault,
    a_mount_that_is_missing_is_the_hosts_fault_and_is_not_made,
    a_command_that_does_not_exist_is_the_manifests_fault,
    an_image_that_has_gone_is_worth_another_try,
    a_registry_that_is_not_reached_is_the_hosts_fault,
    an_image_is_shown_by_tag_and_id,
);

fn fault<T>(result: Result<T, EngineError>) -> HostFault {
    match result {
        Err(EngineError::HostFault { fault, .. }) => fault,
        Err(other) => panic!("not the host's fault: {other:?}"),
        Ok(_) => panic!("it went well"),
    }
}

fn publishing(lab: &Lab, name: &str, at: SocketAddr) -> CreateSpec {
    let mut spec = lab.spec(name, Does::Runs);
    spec.ports = [(tcp(80), at)].into();
    spec
}

async fn a_port_that_another_container_has_is_the_hosts_fault(lab: Lab) {
    let at = lab.free_port();
    let first = lab.run(&publishing(&lab, "first", at)).await;
    let second = lab.create(&publishing(&lab, "second", at)).await;
    assert_eq!(fault(lab.engine.start(&second).await), HostFault::PortTaken);
    let seen = lab.look(&second).await;
    let ContainerState::Created { error } = &seen.state else {
        panic!("it never ran: {seen:?}");
    };
    assert!(!error.is_empty());
    // It starts once the port is free, and it is the same container.
    lab.engine.remove(&first, true).await.expect("removed");
    lab.engine.start(&second).await.expect("started");
    assert!(lab.look(&second).await.running().is_some());
}

async fn a_port_that_a_process_has_is_the_hosts_fault(lab: Lab) {
    let held = TcpListener::bind((lab.address(), 0)).expect("a port");
    let at = held.local_addr().expect("bound");
    if let Some(twin) = lab.twin() {
        twin.world(|world, _| world.taken.insert(at));
    }
    let id = lab.create(&publishing(&lab, "web", at)).await;
    assert_eq!(fault(lab.engine.start(&id).await), HostFault::PortTaken);
}

async fn an_address_of_another_machine_is_the_hosts_fault(lab: Lab) {
    let at = SocketAddr::from(([192, 0, 2, 1], 20_000));
    let id = lab.create(&publishing(&lab, "web", at)).await;
    assert_eq!(
        fault(lab.engine.start(&id).await),
        HostFault::AddressMissing
    );
}

async fn a_mount_that_is_missing_is_the_hosts_fault_and_is_not_made(lab: Lab) {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing");
    let path = missing.to_string_lossy().into_owned();
    let volume = format!("dokkaa-battery-missing-{}", lab.cluster.simple());
    for (name, source) in [
        ("path", MountSource::Path(path.clone())),
        ("volume", MountSource::External(volume.clone())),
        ("again", MountSource::External(volume)),
    ] {
        let mut spec = lab.spec(name, Does::Runs);
        spec.mounts = vec![Mount {
            source,
            target: "/x".to_owned(),
            read_only: false,
        }];
        assert_eq!(fault(lab.engine.create(&spec).await), HostFault::Mount);
    }
    assert!(!missing.exists());

    std::fs::create_dir(&missing).expect("made");
    if let Some(twin) = lab.twin() {
        twin.world(|world, _| world.paths.insert(path.clone()));
    }
    let mut spec = lab.spec("path", Does::Runs);
    spec.mounts = vec![Mount {
        source: MountSource::Path(path),
        target: "/x".to_owned(),
        read_only: true,
    }];
    let id = lab.run(&spec).await;
    lab.engine.remove(&id, true).await.expect("removed");
}

async fn a_command_that_does_not_exist_is_the_manifests_fault(lab: Lab) {
    let id = lab.create(&lab.spec("web", Does::Nothing)).await;
    let failed = lab.engine.start(&id).await;
    assert!(
        matches!(failed, Err(EngineError::BadRequest(_))),
        "{failed:?}"
    );
    let seen = lab.look(&id).await;
    assert!(
        matches!(&seen.state, ContainerState::Created { error } if error.contains("/bin/nothing")),
        "{seen:?}"
    );
}

async fn an_image_that_has_gone_is_worth_another_try(lab: Lab) {
    let mut spec = lab.spec("web", Does::Runs);
    spec.image = format!("dokkaa-battery-nosuch-{}:1", lab.cluster.simple());
    let failed = lab.engine.create(&spec).await;
    assert!(
        matches!(failed, Err(EngineError::Conflict(_))),
        "{failed:?}"
    );
    assert_eq!(lab.engine.image(&spec.image).await, Ok(None));
}

async fn a_registry_that_is_not_reached_is_the_hosts_fault(lab: Lab) {
    // Nothing listens on port 1 of this address.
    let image = format!("{}:1/team/app:1", lab.address());
    let failed = lab.engine.pull(&image, None, &|_| {}).await;
    assert_eq!(fault(failed), HostFault::RegistryUnreachable);
    let odd = lab.engine.pull("No Image", None, &|_| {}).await;
    assert!(matches!(odd, Err(EngineError::BadRequest(_))), "{odd:?}");
}

async fn an_image_is_shown_by_tag_and_id(lab: Lab) {
    let by_tag = lab.engine.image(&lab.image).await.expect("an answer");
    let image = by_tag.expect("it is here");
    assert!(image.id.starts_with("sha256:"));
    let by_id = lab.engine.image(&image.id).await.expect("an answer");
    assert_eq!(by_id.map(|found| found.id), Some(image.id.clone()));
    let mut spec = lab.spec("web", Does::Runs);
    spec.image.clone_from(&image.id);
    let Ok(Named::Done(id)) = lab.engine.create(&spec).await else {
        panic!("an id is as good as a name");
    };
    assert_eq!(lab.look(&id).await.image_id, image.id);
}
