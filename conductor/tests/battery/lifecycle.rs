//! A container's life, from its making to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use bollard::query_parameters as query;
use engine::{Change, EngineError, EngineEvent, HostFault, Mount, MountSource, Named};
use futures_util::FutureExt as _;
use manifests::manifest::{Healthcheck, HealthcheckChoice, Protocol, Ulimit, UlimitName};
use model::observed::{
    ContainerPort, ContainerState, Health, LABEL_CLUSTER, LABEL_INSTANCE, LABEL_SLOT, Limits,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::harness::{Does, Lab, docker, everywhere, next, tcp};

everywhere!(
    a_container_is_made_started_stopped_started_again_and_removed,
    what_is_already_so_is_success,
    a_process_that_ends_says_with_which_code,
    a_process_that_does_not_stop_is_killed,
    ours_are_told_by_label_whatever_their_name,
    a_name_that_another_has_is_an_answer,
    events_say_what_happened_to_whom,
    a_healthcheck_is_seen_and_its_verdict_too,
    a_listening_port_is_seen_from_outside,
    open_connections_are_counted,
    the_end_of_a_process_is_seen,
    volumes_outlive_their_container,
    an_engine_says_what_it_is,
    a_container_gets_its_part_of_the_host_and_no_more,
    a_process_has_the_limits_that_are_asked_for,
    a_paused_container_takes_no_traffic,
    a_container_without_its_network_is_seen,
);

async fn a_container_is_made_started_stopped_started_again_and_removed(lab: Lab) {
    let mut spec = lab.spec("web", Does::Runs);
    let at = lab.free_port();
    spec.ports = [(tcp(80), at)].into();
    let id = lab.create(&spec).await;
    let made = lab.look(&id).await;
    assert!(matches!(&made.state, ContainerState::Created { error } if error.is_empty()));
    assert_eq!(made.owner.labels(), spec.labels);
    assert!(made.has_final_name());
    assert_eq!(made.ports, spec.ports);
    assert_eq!(made.addr, None);
    assert_eq!(made.image, lab.image);
    let here = lab.engine.image(&lab.image).await.expect("an answer");
    assert_eq!(here.map(|image| image.id), Some(made.image_id));
    assert!(made.created_at > 1_600_000_000_000);

    lab.engine.start(&id).await.expect("started");
    let runs = lab.look(&id).await;
    let first = runs.running().expect("it runs").clone();
    assert!(first.pid > 0 && first.started_at >= made.created_at);
    assert!(runs.addr.is_some());

    lab.up(&id).await;
    let limit = Duration::from_secs(30);
    lab.engine.stop(&id, limit).await.expect("stopped");
    let stopped = lab.look(&id).await;
    let ContainerState::Exited(exit) = &stopped.state else {
        panic!("it stopped: {stopped:?}");
    };
    assert_eq!((exit.code, exit.out_of_memory), (143, false));
    assert!(exit.at >= first.started_at);
    // What it is to publish is known of one that does not run too.
    assert_eq!(stopped.ports, spec.ports);

    lab.engine.start(&id).await.expect("started again");
    let again = lab.look(&id).await;
    assert_ne!(again.running().expect("it runs").pid, first.pid);

    lab.engine.remove(&id, true).await.expect("removed");
    assert_eq!(lab.engine.inspect(&id).await.expect("an answer"), None);
    let all = lab.engine.list(Some(lab.cluster)).await.expect("a list");
    assert_eq!(all.labelled, []);
}

async fn what_is_already_so_is_success(lab: Lab) {
    let id = lab.run(&lab.spec("web", Does::Runs)).await;
    lab.engine.start(&id).await.expect("it runs already");
    lab.up(&id).await;
    let refused = lab.engine.remove(&id, false).await;
    assert!(matches!(refused, Err(EngineError::Conflict(_))));
    for _ in 0..2 {
        let stopped = lab.engine.stop(&id, Duration::from_secs(30)).await;
        stopped.expect("stopped");
    }
    for _ in 0..2 {
        lab.engine.remove(&id, false).await.expect("removed");
    }
    let stopped = lab.engine.stop(&id, Duration::from_secs(1)).await;
    stopped.expect("gone is stopped");
    let started = lab.engine.start(&id).await;
    assert!(matches!(started, Err(EngineError::NotFound(_))));
    let renamed = lab.engine.rename(&id, "other-name").await;
    assert!(matches!(renamed, Err(EngineError::NotFound(_))));
}

async fn a_process_that_ends_says_with_which_code(lab: Lab) {
    let id = lab.run(&lab.spec("job", Does::Ends(3))).await;
    let ended = lab.until(&id, |seen| seen.running().is_none()).await;
    assert!(matches!(&ended.state, ContainerState::Exited(exit) if exit.code == 3));
}

async fn a_process_that_does_not_stop_is_killed(lab: Lab) {
    let id = lab.run(&lab.spec("mule", Does::Stays)).await;
    let stopped = lab.engine.stop(&id, Duration::from_secs(1)).await;
    stopped.expect("stopped");
    let killed = lab.look(&id).await;
    assert!(matches!(&killed.state, ContainerState::Exited(exit) if exit.code == 137));
}

async fn ours_are_told_by_label_whatever_their_name(lab: Lab) {
    let spec = lab.spec("web", Does::Runs);
    let id = lab.run(&spec).await;
    let renamed = lab.engine.rename(&id, &format!("{}.x", spec.name)).await;
    assert_eq!(renamed, Ok(Named::Done(())));

    // Its cluster's label is there, another is not: not ours, but this cluster's.
    let mut damaged = lab.spec("damaged", Does::Runs);
    damaged.labels.remove(LABEL_SLOT);
    lab.run(&damaged).await;

    let all = lab.engine.list(Some(lab.cluster)).await.expect("a list");
    assert_eq!(all.labelled.len(), 1);
    assert_eq!(all.labelled[0].docker_id, id);
    assert_eq!(all.labelled[0].owner.labels(), spec.labels);
    assert!(!all.labelled[0].has_final_name());
    assert!(all.foreign >= 1);
    assert_eq!(all.clusters.get(&lab.cluster.to_string()), Some(&2));

    let others = lab.engine.list(Some(Uuid::new_v4())).await.expect("a list");
    assert_eq!(others.labelled, []);
    assert!(others.foreign >= 2);
    let nobody = lab.engine.list(None).await.expect("a list");
    assert_eq!(nobody.labelled, []);
}

async fn a_name_that_another_has_is_an_answer(lab: Lab) {
    let ours = lab.spec("ours", Does::Runs);
    let first = lab.create(&ours).await;
    let Ok(Named::Taken(Some(holder))) = lab.engine.create(&ours).await else {
        panic!("the name is taken");
    };
    assert_eq!(holder.docker_id, first);
    assert_eq!(
        holder.owner.map(|owner| owner.labels()),
        Some(ours.labels.clone())
    );

    // Somebody else's container; only the cluster is kept, for the tests' own clean-up.
    let mut foreign = lab.spec("theirs", Does::Runs);
    foreign.labels = BTreeMap::from([(LABEL_CLUSTER.to_owned(), lab.cluster.to_string())]);
    let theirs = lab.create(&foreign).await;
    for taken in [
        lab.engine.create(&foreign).await.expect("an answer"),
        match lab
            .engine
            .rename(&first, &foreign.name)
            .await
            .expect("an answer")
        {
            Named::Taken(holder) => Named::Taken(holder),
            Named::Done(()) => panic!("the name is taken"),
        },
    ] {
        let Named::Taken(Some(holder)) = taken else {
            panic!("the name is taken");
        };
        assert_eq!(
            (holder.docker_id.as_str(), holder.owner),
            (theirs.as_str(), None)
        );
    }

    let own = lab.engine.rename(&first, &ours.name).await;
    assert_eq!(own, Ok(Named::Done(())));
    let free = format!("{}.free", ours.name);
    assert_eq!(lab.engine.rename(&first, &free).await, Ok(Named::Done(())));
    assert_eq!(lab.look(&first).await.name, free);
}

async fn events_say_what_happened_to_whom(lab: Lab) {
    let mut events = lab.events().await;
    let spec = lab.spec("job", Does::Ends(4));
    let id = lab.run(&spec).await;
    lab.until(&id, |seen| seen.running().is_none()).await;
    let renamed = lab.engine.rename(&id, &format!("{}.old", spec.name)).await;
    assert_eq!(renamed, Ok(Named::Done(())));
    lab.engine.remove(&id, true).await.expect("removed");

    let mut changes = Vec::new();
    while changes.last() != Some(&Change::Removed) {
        if let EngineEvent::Container {
            docker_id,
            owner,
            change,
        } = next(&mut events).await
            && docker_id == id
            && change != Change::Network
        {
            let (cluster, instance) = owner.expect("it carries labels");
            assert_eq!(cluster, lab.cluster);
            assert_eq!(Some(&instance.to_string()), spec.labels.get(LABEL_INSTANCE));
            changes.push(change);
        }
    }
    assert_eq!(
        changes,
        [
            Change::Created,
            Change::Started,
            Change::Died(Some(4)),
            Change::Renamed,
            Change::Removed
        ]
    );
}

async fn a_healthcheck_is_seen_and_its_verdict_too(lab: Lab) {
    let mut events = lab.events().await;
    let mut spec = lab.spec("checked", Does::Runs);
    let command = vec!["/bin/sh".to_owned(), "-c".to_owned(), "exit 0".to_owned()];
    spec.healthcheck = HealthcheckChoice::Own(Healthcheck {
        command: command.clone(),
        interval: Some(Duration::from_secs(1)),
        timeout: Some(Duration::from_secs(5)),
        retries: Some(1),
        start_period: None,
    });
    let id = lab.run(&spec).await;
    let seen = lab.look(&id).await;
    let check = seen.check.clone().expect("a check");
    assert_eq!(
        (check.command, check.timeout),
        (command, Duration::from_secs(5))
    );
    assert!(seen.running().expect("it runs").health.is_some());
    if let Some(twin) = lab.twin() {
        twin.world(|world, _| world.set_health(&id, Health::Healthy));
    }
    until_event(&mut events, &id, &Change::Health).await;
    let healthy = lab.look(&id).await;
    let health = healthy.running().expect("it runs").health;
    assert_eq!(health, Some(Health::Healthy));
}

async fn a_listening_port_is_seen_from_outside(lab: Lab) {
    let mut spec = lab.spec("web", Does::Listens);
    spec.ports = [(tcp(80), lab.free_port())].into();
    let id = lab.run(&spec).await;
    let pid = lab.look(&id).await.running().expect("it runs").pid;
    let udp = ContainerPort {
        protocol: Protocol::Udp,
        ..tcp(80)
    };
    crate::harness::wait_for(|| async {
        let wanted = [tcp(80), tcp(81), udp].into();
        let seen = lab.engine.listening(pid, &wanted).await;
        let seen = seen.expect("an answer").ports;
        if seen == [tcp(80)].into() {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    let others = lab.engine.listening(pid, &[tcp(81), udp].into()).await;
    assert_eq!(others.expect("an answer").ports, [].into());

    let mut silent = lab.spec("silent", Does::Runs);
    silent.ports = [(tcp(80), lab.free_port())].into();
    let id = lab.run(&silent).await;
    let pid = lab.look(&id).await.running().expect("it runs").pid;
    let seen = lab.engine.listening(pid, &[tcp(80)].into()).await;
    assert_eq!(seen.expect("an answer").ports, [].into());
}

async fn open_connections_are_counted(lab: Lab) {
    let mut spec = lab.spec("web", Does::Listens);
    let at = lab.free_port();
    spec.ports = [(tcp(80), at)].into();
    let id = lab.run(&spec).await;
    let pid = lab.look(&id).await.running().expect("it runs").pid;
    let count = async |port: u16| lab.engine.connections(pid, &[port].into()).await;
    assert_eq!(count(80).await.expect("an answer"), 0);
    assert_eq!(count(81).await.expect("an answer"), 0);
    if let Some(twin) = lab.twin() {
        twin.world(|world, _| world.set_connections(&id, 80, 2));
        assert_eq!(count(80).await.expect("an answer"), 2);
        assert_eq!(count(81).await.expect("an answer"), 0);
    }
    lab.engine.remove(&id, true).await.expect("removed");
    assert!(matches!(count(80).await, Err(EngineError::NotFound(_))));
}

async fn the_end_of_a_process_is_seen(lab: Lab) {
    let id = lab.run(&lab.spec("web", Does::Runs)).await;
    let pid = lab.look(&id).await.running().expect("it runs").pid;
    let mut ended = lab.engine.process_ended(pid);
    assert!((&mut ended).now_or_never().is_none());
    lab.engine.remove(&id, true).await.expect("removed");
    tokio::time::timeout(Duration::from_secs(60), ended)
        .await
        .expect("it is seen")
        .expect("it can be seen");
    // One that has ended before.
    lab.engine.process_ended(pid).await.expect("it has ended");
}

async fn volumes_outlive_their_container(lab: Lab) {
    let mut spec = lab.spec("data", Does::Runs);
    let name = format!("{}---0---db", spec.name);
    let labels = BTreeMap::from([(LABEL_CLUSTER.to_owned(), lab.cluster.to_string())]);
    let mount = |source| Mount {
        source,
        target: "/data".to_owned(),
        read_only: false,
    };
    spec.mounts = vec![mount(MountSource::Volume {
        name: name.clone(),
        labels,
    })];
    for _ in 0..2 {
        let id = lab.run(&spec).await;
        lab.engine.remove(&id, true).await.expect("removed");
    }
    // It is still there: it can be used as one that must exist.
    spec.mounts = vec![mount(MountSource::External(name.clone()))];
    let id = lab.run(&spec).await;
    // It goes when no container has it, and is not missed then.
    let refused = lab.engine.remove_volume(&name).await;
    assert!(
        matches!(refused, Err(EngineError::Conflict(_))),
        "{refused:?}"
    );
    lab.engine.remove(&id, true).await.expect("removed");
    for _ in 0..2 {
        lab.engine.remove_volume(&name).await.expect("removed");
    }
    let gone = lab.engine.create(&spec).await;
    assert!(
        matches!(gone, Err(EngineError::HostFault { .. })),
        "{gone:?}"
    );
}

async fn an_engine_says_what_it_is(lab: Lab) {
    lab.engine.ping().await.expect("it answers");
    let info = lab.engine.info().await.expect("an answer");
    assert!(info.cpus > 0 && info.memory > 0 && info.data_root.starts_with('/'));
    let docker = info.docker;
    assert!(docker.api.starts_with("1.") && !docker.version.is_empty());
    assert!(!docker.store.driver.is_empty() && docker.firewall.contains("tables"));
    assert!([1, 2].contains(&docker.cgroup));
    let bridge = lab.engine.bridge("bridge").await.expect("a bridge");
    assert!(!bridge.interface.is_empty() && !bridge.gateway.is_unspecified());
    assert!(!bridge.gateway.is_loopback());
}

/// Waits for an event about this container.
async fn until_event(events: &mut mpsc::Receiver<EngineEvent>, id: &str, wanted: &Change) {
    loop {
        if let EngineEvent::Container {
            docker_id, change, ..
        } = next(events).await
            && docker_id == id
            && change == *wanted
        {
            return;
        }
    }
}

async fn a_paused_container_takes_no_traffic(lab: Lab) {
    let id = lab.run(&lab.spec("web", Does::Runs)).await;
    let started = lab.look(&id).await.running().expect("it runs").started_at;
    let mut events = lab.events().await;
    lab.pause(&id, true).await;
    until_event(&mut events, &id, &Change::Other).await;
    let frozen = lab.look(&id).await;
    assert!(matches!(frozen.state, ContainerState::Paused(_)));
    assert_eq!(
        frozen.running().map(|process| process.started_at),
        Some(started)
    );
    assert!(frozen.addr.is_some() && !frozen.has_lost_network());
    assert!(frozen.cut_off().is_some_and(|why| why.contains("paused")));
    let listed = lab.engine.list(Some(lab.cluster)).await.expect("a list");
    assert_eq!(listed.labelled[0].state, frozen.state);
    // No command runs in it meanwhile, and that says nothing about the command.
    let command = ["/bin/sh", "-c", "exit 0"].map(str::to_owned);
    let limit = Duration::from_secs(60);
    let refused = lab.engine.exec(&id, &command, limit).await;
    assert!(
        matches!(refused, Err(EngineError::Conflict(_))),
        "{refused:?}"
    );

    lab.pause(&id, false).await;
    until_event(&mut events, &id, &Change::Other).await;
    let goes_on = lab.look(&id).await;
    assert!(matches!(goes_on.state, ContainerState::Running(_)));
    assert_eq!(goes_on.cut_off(), None);
}

async fn a_container_without_its_network_is_seen(lab: Lab) {
    let id = lab.run(&lab.spec("web", Does::Runs)).await;
    assert!(!lab.look(&id).await.has_lost_network());
    let mut events = lab.events().await;
    lab.disconnect(&id).await;
    until_event(&mut events, &id, &Change::Network).await;
    let lost = lab.look(&id).await;
    assert!(lost.running().is_some() && lost.has_lost_network());
    assert!(lost.cut_off().is_some_and(|why| why.contains("network")));
    lab.engine
        .stop(&id, Duration::from_secs(1))
        .await
        .expect("stopped");
    assert!(!lab.look(&id).await.has_lost_network(), "it does not run");
}

async fn a_process_has_the_limits_that_are_asked_for(lab: Lab) {
    let mut spec = lab.spec("web", Does::Runs);
    let (soft, hard) = (512, 1024);
    spec.ulimits = [(UlimitName::Nofile, Ulimit { soft, hard })].into();
    let id = lab.run(&spec).await;
    if lab.twin().is_some() {
        return;
    }
    let none = None::<query::InspectContainerOptions>;
    let shown = docker().inspect_container(&id, none).await.expect("shown");
    let sent = shown.host_config.and_then(|host| host.ulimits);
    let sent = sent.and_then(|all| all.into_iter().next()).expect("limits");
    assert_eq!((sent.soft, sent.hard), (Some(soft), Some(hard)));
    // Before 1.1.13 runc itself now and then raises the soft one.
    let command = ["/bin/sh", "-c", "ulimit -Hn"].map(str::to_owned);
    let shown = lab.engine.exec(&id, &command, Duration::from_secs(60));
    let shown = shown.await.expect("run").output;
    assert_eq!(String::from_utf8_lossy(&shown), "1024\n");

    // More than any kernel gives.
    let mut large = lab.spec("large", Does::Runs);
    large.ulimits = [(UlimitName::Nofile, Ulimit::both(1 << 50))].into();
    let Ok(Named::Done(large)) = lab.engine.create(&large).await else {
        panic!("not made");
    };
    let refused = lab.engine.start(&large).await;
    assert!(
        matches!(
            refused,
            Err(EngineError::HostFault {
                fault: HostFault::Resources,
                ..
            })
        ),
        "{refused:?}"
    );
}

async fn a_container_gets_its_part_of_the_host_and_no_more(lab: Lab) {
    let mut spec = lab.spec("web", Does::Runs);
    spec.cpu_millis = Some(250);
    spec.memory = Some(64 << 20);
    let id = lab.run(&spec).await;
    let limits = Limits {
        cpu_millis: Some(250),
        memory: Some(64 << 20),
    };
    assert_eq!(lab.look(&id).await.limits, limits);
    if let Some(twin) = lab.twin() {
        let made = twin.world(|world, _| world.spec(&id).cloned());
        assert_eq!(made, Some(spec));
    } else {
        let none = None::<query::InspectContainerOptions>;
        let shown = docker().inspect_container(&id, none).await.expect("shown");
        let host = shown.host_config.expect("a configuration");
        assert_eq!(host.nano_cpus, Some(250_000_000));
        assert_eq!(host.memory, Some(64 << 20));
        // Where the kernel can't limit swap, Docker leaves this out.
        assert!(
            matches!(host.memory_swap, Some(-1 | 67_108_864)),
            "{host:?}"
        );
        // Somebody changes it, and Docker says so.
        let mut events = lab.events().await;
        let update = bollard::models::ContainerUpdateBody {
            memory: Some(48 << 20),
            ..bollard::models::ContainerUpdateBody::default()
        };
        let updated = docker().update_container(&id, update).await;
        updated.expect("updated");
        until_event(&mut events, &id, &Change::Other).await;
        assert_eq!(lab.look(&id).await.limits.memory, Some(48 << 20));
    }

    // What another host may have.
    let mut large = lab.spec("large", Does::Runs);
    large.cpu_millis = Some(1_024_000);
    let refused = lab.engine.create(&large).await;
    assert!(
        matches!(
            refused,
            Err(EngineError::HostFault {
                fault: HostFault::Resources,
                ..
            })
        ),
        "{refused:?}"
    );
}
