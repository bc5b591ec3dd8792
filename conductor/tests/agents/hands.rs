//! What somebody does by hand at an engine, past the agent.

use std::time::Duration;

use engine::{CreateSpec, Named};
use manifests::SlotId;
use model::observed::ObservedContainer;
use model::records::Phase;

use crate::agents::cluster::{Cluster, manifest, slot};

fn container(cluster: &Cluster, of: &SlotId) -> ObservedContainer {
    let all = cluster.agent("a").docker.containers().into_iter();
    let mut of_slot = all.filter(|c| c.owner.slot == *of && c.running().is_some());
    of_slot.next().expect("it runs")
}

/// Somebody makes an image of it and runs that, with these labels beside the image's; its Docker id.
fn copy(cluster: &Cluster, of: &ObservedContainer, name: &str) -> String {
    cluster.agent("a").docker.world(|world, now| {
        let image = world.commit(&of.docker_id, name).expect("committed");
        let spec = CreateSpec {
            name: name.to_owned(),
            image,
            ..CreateSpec::default()
        };
        let Ok(Named::Done(id)) = world.create(&spec, now) else {
            panic!("the name is free");
        };
        world.start(&id, now).expect("started");
        id
    })
}

fn runs(cluster: &Cluster, docker_id: &str) -> bool {
    let docker = &cluster.agent("a").docker;
    let seen = docker.world(|world, _| world.inspect(docker_id));
    seen.expect("it answers")
        .is_some_and(|c| c.running().is_some())
}

fn says(cluster: &Cluster, wanted: Phase) -> Result<(), String> {
    let state = cluster.snapshot();
    let state = state.slot(&slot("shop/web", 0));
    let state = state.and_then(|view| view.current_state().map(|s| s.state));
    (state == Some(wanted))
        .then_some(())
        .ok_or(format!("{state:?}"))
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_container_is_named_and_left_alone() {
    let mut cluster = Cluster::of(1).await;
    cluster.journal.hosts_are_lost();
    cluster.put("shop/web", &manifest("app:1", 1));
    cluster.wait_as_wanted("shop/web").await;
    let before = cluster.quiet().await;
    let calls = cluster.journal.calls().len();
    let original = container(&cluster, &slot("shop/web", 0));
    let first = copy(&cluster, &original, "debug");
    cluster.pass(Duration::from_secs(60)).await;
    let said = cluster.agent("a").published().copies.borrow().clone();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("container debug carries dokkaa labels of shop/web/0"));
    assert_eq!(cluster.agent("a").published().observed.load().foreign, 1);

    // It goes, another comes, and the agent is started anew.
    let docker = &cluster.agent("a").docker;
    docker
        .world(|world, now| world.remove(&first, true, now))
        .expect("removed");
    let second = copy(&cluster, &original, "debug-2");
    cluster.pass(Duration::from_secs(60)).await;
    cluster.agent_mut("a").kill().await;
    cluster.agent_mut("a").start().await;
    cluster.pass(Duration::from_secs(60)).await;
    assert!(runs(&cluster, &second));
    assert_eq!(
        container(&cluster, &slot("shop/web", 0)).docker_id,
        original.docker_id
    );
    assert_eq!(
        cluster.journal.calls().len(),
        calls,
        "the engine is left alone"
    );
    assert_eq!(
        cluster.history(before).keys(),
        [],
        "nobody is told anything"
    );

    // The original goes with its manifest, and the copy does not.
    cluster.delete("shop/web");
    cluster.pass(Duration::from_secs(60)).await;
    assert!(!runs(&cluster, &original.docker_id));
    assert!(runs(&cluster, &second));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_has_the_slots_name_is_left_alone_too() {
    let cluster = Cluster::of(1).await;
    cluster.journal.hosts_are_lost();
    cluster.put("shop/web", &manifest("app:1", 1));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    let original = container(&cluster, &slot("shop/web", 0));
    let docker = &cluster.agent("a").docker;
    let copied = copy(&cluster, &original, "debug");
    docker.world(|world, now| {
        let gone = world.remove(&original.docker_id, true, now);
        let renamed = world.rename(&copied, &original.name);
        assert!(gone.is_ok() && renamed.is_ok());
    });
    let another = |cluster: &Cluster| {
        says(cluster, Phase::Ready)?;
        let all = cluster.agent("a").docker.containers();
        let mut all = all.iter().filter(|c| c.running().is_some());
        let made = all.any(|c| c.docker_id != copied && c.docker_id != original.docker_id);
        made.then_some(())
            .ok_or("there is only the copy".to_owned())
    };
    cluster.wait("another is made", another).await;
    cluster.pass(Duration::from_secs(60)).await;
    assert!(runs(&cluster, &copied), "it has its name and goes on");
}

#[tokio::test(start_paused = true)]
async fn a_paused_container_is_unready_until_it_goes_on() {
    let cluster = Cluster::of(1).await;
    cluster.put("shop/web", &manifest("app:1", 1));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    let calls = cluster.journal.calls().len();
    let docker = &cluster.agent("a").docker;
    let id = container(&cluster, &slot("shop/web", 0)).docker_id;
    for _ in 0..3 {
        docker.world(|world, _| world.pause(&id));
        cluster.pass(Duration::from_millis(500)).await;
        assert_eq!(says(&cluster, Phase::Unready), Ok(()), "at once");
        cluster.pass(Duration::from_secs(120)).await;
        assert_eq!(
            says(&cluster, Phase::Unready),
            Ok(()),
            "and as long as it is"
        );
        docker.world(|world, _| world.unpause(&id));
        cluster.pass(Duration::from_millis(500)).await;
        assert_eq!(says(&cluster, Phase::Ready), Ok(()), "at once");
    }
    assert_eq!(cluster.journal.calls().len(), calls, "it is not touched");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_has_lost_its_network_is_replaced() {
    let cluster = Cluster::of(1).await;
    cluster.put("shop/web", &manifest("app:1", 1));
    cluster.wait_as_wanted("shop/web").await;
    let before = cluster.quiet().await;
    let first = container(&cluster, &slot("shop/web", 0));
    let docker = &cluster.agent("a").docker;
    docker.world(|world, _| world.disconnect(&first.docker_id));
    let another = |cluster: &Cluster| {
        says(cluster, Phase::Ready)?;
        let now = container(cluster, &slot("shop/web", 0));
        (now.docker_id != first.docker_id)
            .then_some(())
            .ok_or("it still runs".to_owned())
    };
    cluster.wait("it is replaced", another).await;
    let id = &slot("shop/web", 0).container;
    assert_eq!(cluster.history(before).fewest_ready(id, &[0]), 0, "at once");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_fails_takes_no_readiness_away() {
    let cluster = Cluster::of(1).await;
    cluster.put("shop/web", &manifest("app:1", 2));
    cluster.wait_as_wanted("shop/web").await;
    let before = cluster.quiet().await;
    cluster.agent("a").docker.fail_looks(true);
    cluster.pass(Duration::from_secs(120)).await;
    assert_eq!(cluster.history(before).keys(), []);
    // One that was not ready before is not, and says why.
    cluster.put("shop/db", &manifest("app:2", 1));
    cluster.pass(Duration::from_secs(30)).await;
    let waiting = cluster.agent("a").published().waiting.load_full();
    let why = waiting.get(&slot("shop/db", 0)).map(ToString::to_string);
    assert!(
        why.as_ref()
            .is_some_and(|why| why.contains("too many open files")),
        "{why:?}"
    );
    cluster.agent("a").docker.fail_looks(false);
    cluster.wait_as_wanted("shop/db").await;
    assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()));
}
