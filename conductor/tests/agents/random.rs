//! Random histories of whole agents. A failure names its seed; `AGENTS_SEED=<seed>` plays that one again, and
//! `AGENTS_HISTORIES` says how many there are.

use std::time::Duration;

use crate::agents::cluster::{Cluster, manifest, slot};

/// Histories of a usual run.
const HISTORIES: u64 = 8;
/// Commands of each.
const COMMANDS: u32 = 25;
const CONTAINERS: [&str; 3] = ["shop/web", "shop/db", "mail/in"];
const HOSTS: [&str; 3] = ["a", "b", "c"];

#[tokio::test(start_paused = true)]
async fn whatever_happens_all_is_as_wanted_in_the_end() {
    let asked = |name: &str| std::env::var(name).ok()?.parse().ok();
    let seeds = match asked("AGENTS_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=asked("AGENTS_HISTORIES").unwrap_or(HISTORIES),
    };
    for seed in seeds {
        let _told = Told(seed);
        history(seed).await;
    }
}

/// Names the seed of a history that fails.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = format!("play it again with AGENTS_SEED={}\n", self.0);
            // The test's own output, which is shown with the failure.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        }
    }
}

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }
}

async fn history(seed: u64) {
    let mut dice = Dice(seed);
    let mut cluster = Cluster::of(HOSTS.len()).await;
    cluster.journal.hosts_are_lost();
    for _ in 0..COMMANDS {
        something_happens(&mut cluster, &mut dice).await;
        let pause = if dice.below(4) == 0 { 20_000 } else { 1_500 };
        cluster.pass(Duration::from_millis(dice.below(pause))).await;
        if dice.below(80) == 0 {
            // What runs grows old. An engine that hangs for so long would be another story.
            for agent in &cluster.agents {
                agent.docker.world(|world, _| world.hangs = false);
            }
            cluster.pass(Duration::from_secs(660)).await;
        }
    }
    // All is well again.
    cluster.kv.set_unavailable(false);
    for name in HOSTS {
        let agent = cluster.agent(name);
        agent.wire.cut(false);
        agent.wire.hold_up(false);
        agent.wire.lose_answers(0);
        agent.docker.lose_answers(0);
        agent.docker.lose_events(false);
        agent.docker.world(|world, _| world.hangs = false);
    }
    for id in CONTAINERS {
        let scale = dice.below(4) as u32;
        cluster.put(id, &manifest(dice.of(&["app:1", "app:2"]), scale));
    }
    for id in CONTAINERS {
        cluster.wait_as_wanted(id).await;
    }
    cluster.quiet().await;
    let given_up = cluster.history(0).unfit();
    let idle = given_up.iter().find(|unfit| unfit.reason.ends_with(" min"));
    assert_eq!(idle, None, "nothing hangs for so long");
    for id in CONTAINERS {
        assert_eq!(cluster.is_as_wanted(id), Ok(()));
        cluster.delete(id);
    }
    for id in CONTAINERS {
        cluster
            .wait(&format!("{id} is gone"), |c| c.is_gone(id))
            .await;
    }
}

async fn something_happens(cluster: &mut Cluster, dice: &mut Dice) {
    let id = dice.of(&CONTAINERS);
    let host = dice.of(&HOSTS);
    let on = dice.below(2) == 0;
    match dice.below(20) {
        0..6 => {
            let image = dice.of(&["app:1", "app:2", "app:3", "appp:1"]);
            cluster.put(id, &manifest(image, dice.below(5) as u32));
        }
        6 => cluster.delete(id),
        7..9 => {
            let which = slot(id, dice.below(3) as u32);
            for agent in &cluster.agents {
                let all = agent.docker.containers();
                let mut all = all.iter();
                if all.any(|c| c.owner.slot == which && c.running().is_some()) {
                    agent.docker.crash(&which);
                }
            }
        }
        9 => {
            let docker = &cluster.agent(host).docker;
            if let Some(lost) = docker.containers().first() {
                docker.world(|world, now| {
                    // An engine that hangs loses nothing.
                    let _ = world.remove(&lost.docker_id, true, now);
                });
            }
        }
        // Without etcd no agent begins: that would wait for ever here.
        10..12 => {
            cluster.kv.set_unavailable(false);
            let agent = cluster.agent_mut(host);
            agent.wire.cut(false);
            if on {
                agent.kill().await;
            } else {
                agent.stop().await;
            }
            agent.start().await;
        }
        12 => cluster
            .agent(host)
            .docker
            .world(|world, _| world.hangs = on),
        13 => cluster.agent(host).wire.cut(on),
        14 => cluster.agent(host).wire.hold_up(on),
        15..17 => cluster
            .agent(host)
            .wire
            .lose_answers(1 + dice.below(3) as u32),
        17 => cluster
            .agent(host)
            .docker
            .lose_answers(1 + dice.below(3) as u32),
        18 => cluster.agent(host).docker.lose_events(on),
        _ => cluster.kv.set_unavailable(on),
    }
}
