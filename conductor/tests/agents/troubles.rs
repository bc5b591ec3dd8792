//! Engines that hang, etcd that is away, answers that are lost.

use std::collections::BTreeSet;
use std::time::Duration;

use manifests::InstanceId;
use manifests::keys::Key;
use model::records::Phase;

use crate::agents::cluster::{Cluster, container, manifest, slot};

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_moves_nothing_and_is_taken_up_again() {
    let cluster = Cluster::of(3).await;
    cluster.put("shop/web", &manifest("app:1", 6));
    cluster.wait_as_wanted("shop/web").await;
    let before = cluster.quiet().await;
    let calls = cluster.journal.calls().len();
    cluster
        .agent("a")
        .docker
        .world(|world, _| world.hangs = true);
    let said = |cluster: &Cluster| {
        let snapshot = cluster.snapshot();
        let name = &cluster.agent("a").name;
        let engine = snapshot.record(name).is_some_and(|record| record.engine);
        (!engine)
            .then_some(())
            .ok_or("its record says nothing".to_owned())
    };
    cluster.wait("its record says so", said).await;
    // Meanwhile the others go on: what is new goes to them.
    cluster.put("shop/db", &manifest("app:2", 2));
    cluster.wait_as_wanted("shop/db").await;
    cluster.put("shop/web", &manifest("app:2", 6));
    cluster.pass(Duration::from_secs(120)).await;
    let history = cluster.history(before);
    let of_a = cluster.agent("a").wire.asked();
    for number in 0..6 {
        let claims = history.claims(&slot("shop/web", number));
        assert!(claims.iter().all(Option::is_some), "nothing is given up");
    }
    assert!(cluster.load()["b"] >= 3 && cluster.load()["c"] >= 3);
    let touched: Vec<_> = cluster.journal.calls()[calls..]
        .iter()
        .filter(|call| call.host == "a" && call.succeeded)
        .map(|call| call.what)
        .collect();
    assert!(touched.is_empty(), "{touched:?} of an engine that hangs");

    cluster
        .agent("a")
        .docker
        .world(|world, _| world.hangs = false);
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()));
    assert_eq!(cluster.is_as_wanted("shop/db"), Ok(()));
    assert!(cluster.agent("a").wire.asked().len() > of_a.len());
    let said = cluster.snapshot();
    let record = said.record(&cluster.agent("a").name).expect("it is live");
    assert!(record.engine);
}

#[tokio::test(start_paused = true)]
async fn what_ends_while_its_engine_hangs_takes_no_traffic() {
    let cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 2));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    let docker = &cluster.agent("a").docker;
    docker.world(|world, _| world.hangs = true);
    let ended = docker.containers()[0].owner.slot.clone();
    docker.crash(&ended);
    let is_told = |cluster: &Cluster| {
        let snapshot = cluster.snapshot();
        let state = snapshot.slot(&ended).and_then(|view| view.state.clone());
        let state = state.ok_or("no state")?;
        (state.value.state == Phase::Unready)
            .then_some(())
            .ok_or_else(|| format!("{state:?}"))
    };
    let begin = tokio::time::Instant::now();
    cluster.wait("its state says so", is_told).await;
    assert!(begin.elapsed() < Duration::from_secs(4));
    docker.world(|world, _| world.hangs = false);
    cluster.wait_as_wanted("shop/web").await;
    assert_eq!(cluster.journal.count("create"), 2);
}

#[tokio::test(start_paused = true)]
async fn lost_events_are_healed_by_a_list() {
    let cluster = Cluster::of(1).await;
    cluster.put("shop/web", &manifest("app:1", 2));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    cluster.agent("a").docker.lose_events(true);
    let first = slot("shop/web", 0);
    cluster.agent("a").docker.crash(&first);
    let restarted = |cluster: &Cluster| {
        let starts = cluster.journal.count("start");
        (starts == 3)
            .then_some(())
            .ok_or(format!("{starts} starts"))
    };
    cluster.wait("it is started again", restarted).await;
    // Somebody removes one behind the agent's back.
    let second = slot("shop/web", 1);
    let docker = &cluster.agent("a").docker;
    let all = docker.containers();
    let lost = all
        .iter()
        .find(|c| c.owner.slot == second)
        .expect("it runs");
    docker
        .world(|world, now| world.remove(&lost.docker_id, true, now))
        .expect("removed");
    let made = |cluster: &Cluster| {
        let creates = cluster.journal.count("create");
        (creates == 3)
            .then_some(())
            .ok_or(format!("{creates} creates"))
    };
    cluster.wait("it is made anew", made).await;
    cluster.wait_as_wanted("shop/web").await;
}

#[tokio::test(start_paused = true)]
async fn without_etcd_crashed_containers_are_restarted_and_nothing_else_is_done() {
    for away in [3, 60, 400] {
        let cluster = Cluster::of(3).await;
        cluster.put("shop/web", &manifest("app:1", 6));
        cluster.wait_as_wanted("shop/web").await;
        let before = cluster.quiet().await;
        let calls = cluster.journal.calls().len();
        let first = slot("shop/web", 0);
        let owner = cluster.owner(&first).name.clone();
        cluster.kv.set_unavailable(true);
        cluster.pass(Duration::from_secs(1)).await;
        cluster.agent(owner.as_str()).docker.crash(&first);
        cluster.pass(Duration::from_secs(away)).await;
        let done = cluster.journal.calls().split_off(calls);
        let done: Vec<_> = done
            .iter()
            .map(|call| (call.what, call.slot.as_ref()))
            .collect();
        assert_eq!(done, [("start", Some(&first))], "after {away} s");
        // Who asks the directory still gets all of them.
        let directory = cluster.agent("a").published().directory.load_full();
        let endpoints: usize = directory.services().map(|(_, all)| all.size()).sum();
        assert_eq!(endpoints, 6);

        cluster.kv.set_unavailable(false);
        cluster.put("shop/web", &manifest("app:1", 7));
        cluster.wait_as_wanted("shop/web").await;
        cluster.quiet().await;
        let history = cluster.history(before);
        for number in 0..6 {
            assert!(history.claims(&slot("shop/web", number)).is_empty());
        }
        assert_eq!(cluster.journal.count("create"), 7);
        assert_eq!(cluster.journal.count("stop"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_cut_off_keeps_what_it_has_until_it_is_back_and_the_others_take_it_over() {
    let cluster = Cluster::of(3).await;
    cluster.journal.hosts_are_lost();
    cluster.put("shop/web", &manifest("app:1", 6));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    let on_a = |cluster: &Cluster| -> BTreeSet<InstanceId> {
        let all = cluster.containers().into_iter();
        all.filter(|(host, _)| host.as_str() == "a")
            .map(|(_, container)| container.owner.instance)
            .collect()
    };
    let copies = on_a(&cluster);
    cluster.agent("a").wire.cut(true);
    let taken_over = |cluster: &Cluster| {
        let snapshot = cluster.snapshot();
        let ready = |number: u32| {
            snapshot
                .slot(&slot("shop/web", number))
                .is_some_and(|slot| {
                    let host = slot.claim.as_ref().map(|claim| claim.host.as_str());
                    host.is_some_and(|host| host != "a")
                        && slot
                            .current_state()
                            .is_some_and(|s| s.state == Phase::Ready)
                })
        };
        let all = (0..6).all(ready);
        all.then_some(())
            .ok_or("not all are ready elsewhere".to_owned())
    };
    cluster.wait("the others have its slots", taken_over).await;
    assert_eq!(cluster.load()["a"], 2, "its copies run on");
    assert_eq!(on_a(&cluster), copies);
    cluster.agent("a").wire.cut(false);
    let back = tokio::time::Instant::now();
    // Whether or not it has new ones already.
    let left = |cluster: &Cluster| {
        let left = on_a(cluster).intersection(&copies).count();
        (left == 0)
            .then_some(())
            .ok_or_else(|| format!("{left} of its copies run"))
    };
    cluster.wait("they have left", left).await;
    let shared = |cluster: &Cluster| {
        let load = cluster.load();
        let is_even = load.values().all(|containers| *containers == 2);
        is_even.then_some(()).ok_or(format!("{load:?}"))
    };
    cluster.wait("it has its share again", shared).await;
    assert!(back.elapsed() < Duration::from_secs(60));
    let revision = cluster.quiet_for(Duration::from_secs(60)).await;
    assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()));
    assert_eq!(cluster.revision(), revision, "nothing moves any more");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_cut_off_does_not_stop_what_is_deleted_until_it_is_back() {
    let cluster = Cluster::of(2).await;
    cluster.put("shop/web", &manifest("app:1", 2));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    cluster.agent("a").wire.cut(true);
    cluster.delete("shop/web");
    cluster.pass(Duration::from_secs(60)).await;
    assert_eq!(cluster.load()["a"], 1);
    assert_eq!(cluster.load()["b"], 0);
    cluster.agent("a").wire.cut(false);
    cluster.wait("all is gone", |c| c.is_gone("shop/web")).await;
}

#[tokio::test(start_paused = true)]
async fn writes_whose_answers_are_lost_make_no_second_container() {
    for lost in [1, 2, 3, 5, 8] {
        let cluster = Cluster::of(2).await;
        for agent in &cluster.agents {
            agent.wire.lose_answers(lost);
        }
        cluster.put("shop/web", &manifest("app:1", 4));
        cluster.wait_as_wanted("shop/web").await;
        cluster.quiet().await;
        cluster.put("shop/web", &manifest("app:2", 4));
        cluster.wait_as_wanted("shop/web").await;
        for agent in &cluster.agents {
            agent.wire.lose_answers(lost);
        }
        cluster.put("shop/web", &manifest("app:3", 3));
        cluster.wait_as_wanted("shop/web").await;
        cluster.quiet().await;
        assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()));
        assert_eq!(cluster.load().values().sum::<usize>(), 3);
        let left: u32 = cluster
            .agents
            .iter()
            .map(|agent| agent.wire.answers_to_lose())
            .sum();
        assert!(left < lost * 2, "some were lost");
        for agent in &cluster.agents {
            agent.wire.lose_answers(lost);
        }
        cluster.delete("shop/web");
        cluster.wait("all is gone", |c| c.is_gone("shop/web")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_is_lost_is_used() {
    let cluster = Cluster::of(1).await;
    let before = cluster.quiet().await;
    cluster.agent("a").wire.lose_answers(1);
    cluster.put("shop/web", &manifest("app:1", 1));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    assert_eq!(cluster.journal.count("create"), 1);
    assert_eq!(cluster.journal.count("start"), 1);
    // An instance that nobody remembers having minted is minted anew, once.
    let claims = cluster.history(before).claims(&slot("shop/web", 0));
    assert!(claims.len() <= 2, "{claims:?}");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_hangs_in_its_start_holds_up_no_other() {
    let cluster = Cluster::of(1).await;
    cluster.agent("a").docker.world(|world, _| {
        if let Some(image) = world.registry.get_mut("app:2") {
            image.delay = Duration::from_secs(120);
        }
    });
    cluster.put("shop/slow", &manifest("app:2", 1));
    cluster.put("shop/web", &manifest("app:1", 3));
    cluster.wait_as_wanted("shop/web").await;
    let key = Key::State(slot("shop/slow", 0)).to_string();
    assert!(cluster.keys(&key).is_empty(), "it is still being pulled");
    cluster.wait_as_wanted("shop/slow").await;
    let snapshot = cluster.snapshot();
    let view = snapshot.containers.get(&container("shop/slow"));
    let state = view.and_then(|v| v.slots.get(&0)?.current_state());
    assert_eq!(state.map(|s| s.state), Some(Phase::Ready));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_its_engine_does_not_show_holds_up_no_other() {
    let mut cluster = Cluster::of(1).await;
    cluster.put("shop/web", &manifest("app:1", 2));
    cluster.wait_as_wanted("shop/web").await;
    cluster.quiet().await;
    let stuck = cluster.agent("a").docker.containers();
    let stuck = stuck.iter().find(|c| c.owner.slot.slot == 0);
    let stuck = stuck.expect("the first one").docker_id.clone();
    let docker = &cluster.agent("a").docker;
    let engine_answers = |cluster: &Cluster| {
        let snapshot = cluster.snapshot();
        let record = snapshot.record(&cluster.agent("a").name);
        record.is_some_and(|record| record.engine)
    };
    docker.crash(&slot("shop/web", 0));
    docker.world(|world, _| world.stuck.insert(stuck));
    cluster.pass(Duration::from_secs(90)).await;
    cluster.agent("a").docker.crash(&slot("shop/web", 1));
    let restarted = |cluster: &Cluster| {
        let starts = cluster.journal.count("start");
        (starts == 3)
            .then_some(())
            .ok_or(format!("{starts} starts"))
    };
    cluster.wait("the other is started again", restarted).await;
    assert!(engine_answers(&cluster), "one container is not the engine");

    // Of an agent that has not seen it, it is not taken for absent.
    cluster.agent_mut("a").stop().await;
    cluster.agent_mut("a").start().await;
    cluster.pass(Duration::from_secs(90)).await;
    assert!(!engine_answers(&cluster), "what there is, it does not know");
    assert_eq!(cluster.journal.count("create"), 2);
    let docker = &cluster.agent("a").docker;
    docker.world(|world, _| world.stuck.clear());
    cluster.wait_as_wanted("shop/web").await;
    assert!(engine_answers(&cluster));
    assert_eq!(cluster.journal.count("create"), 2);
    assert_eq!(cluster.journal.count("start"), 4);
}

#[tokio::test(start_paused = true)]
async fn an_engine_whose_answers_are_lost_has_no_container_too_many() {
    for lost in 1..=14 {
        for deaf in [false, true] {
            let cluster = Cluster::of(1).await;
            let docker = &cluster.agent("a").docker;
            docker.lose_events(deaf);
            // Later and later: in a deploy, and in an update after it.
            cluster.put("shop/web", &manifest("app:1", 2));
            if lost > 5 {
                cluster.wait_as_wanted("shop/web").await;
                cluster.put("shop/web", &manifest("app:2", 2));
            }
            cluster.journal.reaches(lost - 1).await;
            docker.lose_answers(2);
            cluster.wait_as_wanted("shop/web").await;
            cluster.pass(Duration::from_secs(25)).await;
            assert_eq!(cluster.is_as_wanted("shop/web"), Ok(()), "{lost} {deaf}");
            let all = docker.containers();
            let running = all.iter().filter(|c| c.running().is_some()).count();
            assert_eq!(running, 2, "{lost} {deaf}: {all:?}");
            let foreign = docker.world(|world, _| {
                let list = world.list(None).expect("it answers");
                list.clusters.values().sum::<u32>()
            });
            assert_eq!(
                foreign as usize,
                all.len(),
                "{lost} {deaf}: nobody knows some"
            );
            cluster.delete("shop/web");
            cluster.wait("all is gone", |c| c.is_gone("shop/web")).await;
        }
    }
}
