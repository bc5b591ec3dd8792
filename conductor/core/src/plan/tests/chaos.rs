//! Random histories: users who change their minds, engines that lose containers, agents that restart, views that lag,
//! answers that are lost. After every round nothing forbidden has happened; when it is quiet, all is as wanted.
//!
//! A failure prints its seed and its history; `CHAOS_SEED=<seed>` plays that one again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use manifests::keys::Key;
use manifests::{ContainerId, InstanceId, Manifest, SlotId, canonical};

use super::world::World;
use crate::local::{Fault, Local, Outcome, Work};
use crate::observed::{ContainerState, EngineState, ObservedContainer, Readiness};
use crate::plan::{Inputs, Plan, Step, Trust, Write, plan};
use crate::records::{Phase, Status};
use crate::rules::Rules;
use crate::snapshot::{ContainerView, Desired, Snapshot};
use crate::time::Millis;

/// Histories of a usual run.
const HISTORIES: u64 = 120;
/// Commands of each.
const COMMANDS: usize = 40;
/// After this long without commands all is as wanted: crash loops have reached their longest back-off.
const QUIET: Duration = Duration::from_secs(1_200);

const CONTAINERS: [&str; 3] = ["shop/web", "shop/db", "mail/in"];

#[test]
fn whatever_happens_nothing_forbidden_is_done_and_in_the_end_all_is_as_wanted() {
    if let Some(seed) = asked_for("CHAOS_SEED") {
        Chaos::new(seed).history();
        return;
    }
    let histories = asked_for("CHAOS_HISTORIES").unwrap_or(HISTORIES);
    for seed in 1..=histories {
        Chaos::new(seed).history();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how much and what to play is the developer's choice at each run"
)]
fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// One time in so many.
    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }
}

/// What an agent knows and has under way.
#[derive(Default)]
struct Edge {
    view: Snapshot,
    /// Rounds until it ends, and the step.
    steps: Vec<(u64, Step)>,
    answers: Vec<Answer>,
    retry_writes_at: Millis,
    /// Cut off from etcd; its record is gone.
    away: bool,
}

/// An answer of etcd on its way.
struct Answer {
    /// Rounds until it arrives.
    rounds: u64,
    write: Write,
    /// Whether the guards held; none: the answer is lost.
    held: Option<bool>,
    /// Of the store.
    revision: i64,
    /// Of the view that it was planned from.
    seen: i64,
}

struct Chaos {
    seed: u64,
    dice: Dice,
    world: World,
    edges: BTreeMap<String, Edge>,
    manifests: BTreeMap<&'static str, (String, u64)>,
    /// Views lag, steps take time, answers are late or lost.
    slow: bool,
    /// What happened, for whoever reads a failure.
    told: String,
}

impl Drop for Chaos {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines: Vec<&str> = self.told.lines().collect();
            let last = lines.len().saturating_sub(400);
            let told = lines[last..].join("\n");
            let mut keys = String::new();
            self.world.command("keys /", &mut keys);
            self.world.command("ps", &mut keys);
            let text = format!(
                "{told}\n{keys}\nplay it again with CHAOS_SEED={}\n",
                self.seed
            );
            // The test's own output, which is shown with the failure.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        }
    }
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut world = World::default();
        for line in ["missing bad:1", "crashing crash:1", "slow slow:1"] {
            world.command(line, &mut String::new());
        }
        let hosts = 1 + dice.below(4) as usize;
        let mut edges = BTreeMap::new();
        for name in ["a", "b", "c", "d"].into_iter().take(hosts) {
            world.command(&format!("host {name}"), &mut String::new());
            edges.insert(name.to_owned(), Edge::default());
        }
        Self {
            seed,
            slow: dice.one_in(2),
            dice,
            world,
            edges,
            manifests: BTreeMap::new(),
            told: String::new(),
        }
    }

    fn history(&mut self) {
        for _ in 0..COMMANDS {
            self.something_happens();
            for _ in 0..self.dice.below(8) {
                self.round();
                let step = if self.dice.one_in(6) { 3_000 } else { 300 };
                self.world.now = self.world.now + Duration::from_millis(1 + self.dice.below(step));
            }
        }
        self.all_is_well_again();
        self.settle(QUIET);
        self.is_as_wanted();
        self.a_restart_changes_nothing();
        self.in_the_end_everything_goes();
    }

    fn tell(&mut self, text: &str) {
        let _ = writeln!(self.told, "{:>7} {text}", self.world.now.0);
    }

    // === what happens ===

    fn something_happens(&mut self) {
        let hosts: Vec<String> = self.edges.keys().cloned().collect();
        let host = hosts[self.dice.below(hosts.len() as u64) as usize].clone();
        let id = CONTAINERS[self.dice.below(3) as usize];
        let slot = format!("{id}/{}", self.dice.below(3));
        match self.dice.below(100) {
            0..25 => self.put(id),
            25..40 => self.scale(id),
            40..47 => {
                self.manifests.remove(id);
                self.command(&format!("delete {id}"));
            }
            47..57 => self.command(&format!("crash {slot}")),
            57..63 => self.command(&format!("docker-loses {host} {slot}")),
            63..71 => self.restart_agent(&host),
            71..77 => {
                let trust = self.dice.of(&["full", "restarts-only"]);
                self.command(&format!("trust {host} {trust}"));
            }
            77..82 => {
                let engine = &mut self.world.agent(&host).observed.engine;
                *engine = match engine {
                    EngineState::Up => EngineState::Unresponsive("hangs".to_owned()),
                    EngineState::Unresponsive(_) => EngineState::Up,
                };
                self.tell(&format!("the engine of {host} hangs, or not any more"));
            }
            82..86 => self.cut(&host),
            86..88 => {
                let gateway = IpAddr::from([172, 17, 0, 1 + self.dice.below(3) as u8]);
                self.world.agent(&host).host.surroundings.gateway = gateway;
                self.tell(&format!("{host} has {gateway} on its bridge"));
            }
            _ => {
                let time = 100 + self.dice.below(30_000);
                self.command(&format!("pass {time}"));
            }
        }
    }

    fn command(&mut self, line: &str) {
        self.tell(line);
        self.world.command(line, &mut String::new());
    }

    fn put(&mut self, id: &'static str) {
        let image = match self.dice.below(20) {
            0..14 => self.dice.of(&["good:1", "good:2", "good:3"]),
            14..16 => "bad:1",
            16..18 => "crash:1",
            _ => "slow:1",
        };
        let services = self.dice.of(&["", r#","services":{"http":80}"#]);
        let pull = if self.dice.one_in(10) {
            r#","pull":"always""#
        } else {
            ""
        };
        let text = format!(r#""image":"{image}","start_timeout":"5s"{services}{pull}"#);
        let scale = self.dice.below(5);
        self.manifests.insert(id, (text, scale));
        self.write_manifest(id);
    }

    fn scale(&mut self, id: &'static str) {
        let scale = self.dice.below(5);
        if let Some(manifest) = self.manifests.get_mut(id) {
            manifest.1 = scale;
            self.write_manifest(id);
        }
    }

    fn write_manifest(&mut self, id: &'static str) {
        let Some((text, scale)) = self.manifests.get(id) else {
            return;
        };
        if self.dice.one_in(25) {
            self.command(&format!("manifest {id} {{"));
        } else {
            self.command(&format!(r#"manifest {id} {{{text},"scale":{scale}}}"#));
        }
    }

    /// The process is killed and begins anew: what it had asked of others may happen, and nobody is told.
    fn restart_agent(&mut self, host: &str) {
        self.tell(&format!("restart-agent {host}"));
        let edge = self.edges.get_mut(host).unwrap();
        edge.answers.clear();
        edge.retry_writes_at = Millis(0);
        for (_, step) in std::mem::take(&mut edge.steps) {
            if self.dice.one_in(2) && self.world.agent(host).observed.engine == EngineState::Up {
                self.carry_out(host, step);
            }
        }
        let mut local = Local::default();
        for (key, (value, ..)) in &self.world.keys {
            if let Some(Key::Status(slot)) = Key::parse(key)
                && let Ok(status) = serde_json::from_slice::<Status>(value)
                && status.host.as_str() == host
            {
                local.resume(slot, status);
            }
        }
        let agent = self.world.agent(host);
        agent.local = local;
        agent.observed.readiness.clear();
    }

    fn cut(&mut self, host: &str) {
        let key = format!("/hosts/{host}/record");
        let edge = self.edges.get_mut(host).unwrap();
        edge.away = !edge.away;
        if edge.away {
            let record = self.world.keys.get(&key).map(|(value, ..)| value.clone());
            self.world.records.insert(host.to_owned(), record.unwrap());
            self.world.delete(&key);
        } else {
            let record = self.world.records.remove(host).unwrap();
            self.world.put(&key, record);
        }
        self.tell(&format!("{host} is cut off, or not any more"));
    }

    fn all_is_well_again(&mut self) {
        self.slow = false;
        let hosts: Vec<String> = self.edges.keys().cloned().collect();
        for host in hosts {
            if self.edges[&host].away {
                self.cut(&host);
            }
            let agent = self.world.agent(&host);
            agent.trust = Trust::Full;
            agent.observed.engine = EngineState::Up;
        }
        let ids: Vec<&'static str> = self.manifests.keys().copied().collect();
        for id in ids {
            let view = self.world.snapshot.containers.get(&id.parse().unwrap());
            let valid = view.and_then(|v| v.manifest.as_ref());
            if valid.is_some_and(|m| matches!(m.value, Desired::Invalid(_))) {
                let (text, scale) = self.manifests[id].clone();
                self.command(&format!(r#"manifest {id} {{{text},"scale":{scale}}}"#));
            }
        }
    }

    // === rounds ===

    /// Everybody sees, plans on what is seen, and then all is carried out, or under way.
    fn round(&mut self) -> (bool, Option<Millis>) {
        let now = self.world.now;
        let hosts: Vec<String> = self.edges.keys().cloned().collect();
        let mut did = false;
        let mut wake: Option<Millis> = None;
        for host in &hosts {
            did |= self.arrive(host);
        }
        let mut plans = Vec::new();
        for host in &hosts {
            let planned = self.plan(host);
            if let Some(at) = planned.requeue_at {
                wake = Some(wake.map_or(at, |w| w.min(at)));
            }
            if self.edges[host].retry_writes_at > now {
                let at = self.edges[host].retry_writes_at;
                wake = Some(wake.map_or(at, |w| w.min(at)));
            }
            did |= !planned.is_idle();
            plans.push((host.clone(), planned));
        }
        for (host, planned) in plans {
            for write in planned.writes {
                self.send(&host, write);
            }
            for step in planned.steps {
                let delay = self.delay();
                self.tell(&format!("{host} {} {:?}", step.kind(), step.work()));
                let edge = self.edges.get_mut(&host).unwrap();
                edge.steps.push((delay, step));
            }
        }
        did |= self
            .edges
            .values()
            .any(|e| !e.steps.is_empty() || !e.answers.is_empty());
        self.check();
        (did, wake)
    }

    fn delay(&mut self) -> u64 {
        if self.slow { self.dice.below(4) } else { 0 }
    }

    /// Views, ends of steps, answers and looks reach an agent.
    fn arrive(&mut self, host: &str) -> bool {
        let now = self.world.now;
        let late = self.slow && self.dice.one_in(2);
        let edge = self.edges.get_mut(host).unwrap();
        let mut news = false;
        if !edge.away && !late && edge.view.revision != self.world.snapshot.revision {
            edge.view = self.world.snapshot.clone();
            news = true;
        }
        for answer in &mut edge.answers {
            answer.rounds = answer.rounds.saturating_sub(1);
        }
        let (arrived, later): (Vec<Answer>, _) = std::mem::take(&mut edge.answers)
            .into_iter()
            .partition(|answer| answer.rounds == 0);
        edge.answers = later;
        for answer in arrived {
            news = true;
            let (write, local) = (&answer.write, &mut self.world.agent(host).local);
            if let Some(held) = answer.held {
                local.wrote(write, held, answer.revision, answer.seen, now);
            } else {
                local.not_written(write);
                let edge = self.edges.get_mut(host).unwrap();
                edge.retry_writes_at = now + Duration::from_secs(1);
            }
        }
        if self.world.agent(host).observed.engine == EngineState::Up {
            let edge = self.edges.get_mut(host).unwrap();
            for step in &mut edge.steps {
                step.0 = step.0.saturating_sub(1);
            }
            let (ended, later): (Vec<_>, Vec<_>) = std::mem::take(&mut edge.steps)
                .into_iter()
                .partition(|(rounds, _)| *rounds == 0);
            edge.steps = later;
            for (_, step) in ended {
                news = true;
                let (outcome, write) = self.carry_out(host, step);
                let outcome = self.maybe_lost(outcome);
                self.world.agent(host).local.record(&outcome, now);
                if let Some(write) = write {
                    self.image_decided(host, write);
                }
            }
            news |= self.look(host);
        }
        news
    }

    /// The engine did it, but what is heard of it is a failure.
    fn maybe_lost(&mut self, outcome: Outcome) -> Outcome {
        if !self.slow || !self.dice.one_in(15) {
            return outcome;
        }
        let reason = "the engine does not answer".to_owned();
        match outcome {
            Outcome::Prepared { slot, rev, .. } => Outcome::NotPrepared {
                slot,
                rev,
                reason,
                fault: Fault::Passing,
            },
            Outcome::Done { slot } => Outcome::Failed { slot, reason },
            other => other,
        }
    }

    /// As the loop does it: what was decided is written if the manifest is still that one.
    fn image_decided(&mut self, host: &str, write: Write) {
        let Write::Version { container, rev, .. } = &write else {
            return;
        };
        let view = self.edges[host].view.containers.get(container);
        let still = view.and_then(|v| v.manifest.as_ref());
        if still.is_some_and(|m| m.modified == *rev) {
            let local = &mut self.world.agent(host).local;
            local.writing.insert(write.work());
            self.send(host, write);
        }
    }

    fn send(&mut self, host: &str, write: Write) {
        let seen = self.edges[host].view.revision;
        let answer = if self.edges[host].away {
            Answer {
                rounds: 1,
                write,
                held: None,
                revision: 0,
                seen,
            }
        } else {
            let held = self.world.write(&write);
            let word = if held { "" } else { " (lost)" };
            self.tell(&format!("{host} {} {:?}{word}", write.kind(), write.work()));
            Answer {
                rounds: self.delay(),
                write,
                held: (!self.slow || !self.dice.one_in(12)).then_some(held),
                revision: self.world.revision,
                seen,
            }
        };
        self.edges.get_mut(host).unwrap().answers.push(answer);
    }

    /// What runs and can get ready is found to be.
    fn look(&mut self, host: &str) -> bool {
        let (slow, images) = (&self.world.slow, &self.world.images);
        let observed = &mut self.world.hosts.get_mut(host).unwrap().observed;
        let mut found = Vec::new();
        for (instance, container) in &observed.containers {
            let never = images
                .get(instance.as_str())
                .is_some_and(|image| slow.contains(image));
            let known = observed.readiness.contains_key(instance);
            if container.running().is_some() && !never && !known {
                found.push(instance.clone());
            }
        }
        for instance in &found {
            if !self.slow || self.dice.one_in(2) {
                observed
                    .readiness
                    .insert(instance.clone(), Readiness::Ready);
            }
        }
        !found.is_empty()
    }

    /// A step on an engine that may have lost what it is about.
    fn carry_out(&mut self, host: &str, step: Step) -> (Outcome, Option<Write>) {
        let refuses = self.slow && self.dice.one_in(20);
        let observed = &self.world.agent(host).observed;
        let there = |instance: &InstanceId| observed.containers.get(instance);
        let runs = |instance| there(instance).is_some_and(|c| c.running().is_some());
        let named = |name: &str| observed.containers.values().any(|c| c.name == name);
        let failed = |slot: &SlotId, reason: &str| Outcome::Failed {
            slot: slot.clone(),
            reason: reason.to_owned(),
        };
        let odd = match &step {
            Step::Start { slot, instance, .. } if there(instance).is_none() => {
                Some(Outcome::NotStarted {
                    slot: slot.clone(),
                    instance: instance.clone(),
                    reason: "no such container".to_owned(),
                    fault: Fault::Passing,
                    doomed: false,
                })
            }
            Step::Start { slot, instance, .. } if refuses => Some(Outcome::NotStarted {
                slot: slot.clone(),
                instance: instance.clone(),
                reason: "the port is taken".to_owned(),
                fault: Fault::Host,
                doomed: true,
            }),
            Step::Start { slot, instance, .. } if runs(instance) => {
                Some(Outcome::Done { slot: slot.clone() })
            }
            Step::Stop { slot, instance, .. } if !runs(instance) => {
                Some(Outcome::Done { slot: slot.clone() })
            }
            Step::Remove { slot, instance, .. } if there(instance).is_none() => {
                Some(Outcome::Done { slot: slot.clone() })
            }
            Step::Remove { slot, instance, .. } if runs(instance) => Some(failed(slot, "it runs")),
            Step::Rename { slot, instance, .. } if there(instance).is_none() => {
                Some(failed(slot, "no such container"))
            }
            Step::Rename { slot, name, .. } if named(name) => Some(failed(slot, "taken")),
            Step::Prepare {
                slot,
                instance,
                rev,
                ..
            } if there(instance).is_some() => Some(Outcome::Prepared {
                slot: slot.clone(),
                instance: instance.clone(),
                rev: *rev,
            }),
            _ => None,
        };
        if let Some(odd) = odd {
            return (odd, None);
        }
        let step = match step {
            Step::Prepare {
                slot,
                instance,
                rev,
                manifest,
                image,
                hash,
                temporary_name,
            } => Step::Prepare {
                temporary_name: temporary_name || named(&slot.docker_name()),
                slot,
                instance,
                rev,
                manifest,
                image,
                hash,
            },
            step => step,
        };
        let started = match &step {
            Step::Start { instance, .. } => Some(instance.clone()),
            _ => None,
        };
        let done = self.world.step(host, step);
        if let Some(instance) = started {
            // The looks will tell.
            self.world.agent(host).observed.readiness.remove(&instance);
        }
        done
    }

    fn plan(&mut self, host: &str) -> Plan {
        let now = self.world.now;
        let minted = &mut self.world.minted;
        let agent = self.world.hosts.get_mut(host).unwrap();
        let edge = &self.edges[host];
        agent.local.observe(&agent.observed, now);
        if agent.trust == Trust::Full {
            agent.local.see(&edge.view, now);
        }
        let trust = if edge.away || edge.retry_writes_at > now {
            Trust::RestartsOnly
        } else {
            agent.trust
        };
        let planned = plan(
            Inputs {
                snapshot: &edge.view,
                observed: &agent.observed,
                local: &agent.local,
                host: &agent.host,
                trust,
                rules: Rules::default(),
                now,
            },
            &mut || {
                *minted += 1;
                format!("i{minted}").parse().unwrap()
            },
        );
        self.is_allowed(host, &planned, trust);
        let agent = self.world.agent(host);
        agent.local.begin(&planned, now);
        planned
    }

    // === what must never be ===

    /// Nothing in a plan is forbidden by what it was made from.
    fn is_allowed(&self, host: &str, planned: &Plan, trust: Trust) {
        let edge = &self.edges[host];
        let agent = &self.world.hosts[host];
        let mut works: Vec<Work> = planned.steps.iter().map(Step::work).collect();
        works.extend(edge.steps.iter().map(|(_, step)| step.work()));
        assert_each_once(host, "step", works);
        let mut works: Vec<Work> = planned.writes.iter().map(Write::work).collect();
        // What an image was decided to be is written when it is known, whatever else is under way.
        let planned_ones = |a: &&Answer| !matches!(a.write, Write::Version { .. });
        let under_way = edge.answers.iter().filter(planned_ones);
        works.extend(under_way.map(|answer| answer.write.work()));
        assert_each_once(host, "write", works);
        if trust == Trust::RestartsOnly {
            assert!(planned.writes.is_empty(), "{host} writes: {planned}");
            let starts = |s: &Step| matches!(s, Step::Start { .. });
            assert!(planned.steps.iter().all(starts), "{host}: {planned}");
        }
        if let EngineState::Unresponsive(_) = agent.observed.engine {
            assert!(planned.is_idle(), "{host}: {planned}");
        }
        for step in &planned.steps {
            if let Step::Stop { instance, .. } | Step::Remove { instance, .. } = step {
                let container = &agent.observed.containers[instance];
                let memory = agent.local.instances.get(instance);
                let doomed = memory.is_some_and(|m| m.doomed);
                let given = agent.host.surroundings.hash(&container.ports);
                let right = !doomed
                    && given == container.owner.host_hash
                    && is_right(&edge.view, host, container);
                assert!(!right, "{host} would {} {instance}", step.kind());
            }
        }
        let known = edge.view.revision == self.world.revision;
        if known && edge.answers.is_empty() {
            for write in &planned.writes {
                assert!(self.world.holds(write), "{host}: {write:?} can't hold");
            }
        }
        for write in &planned.writes {
            if let Write::State { slot, state, .. } = write
                && state.state == Phase::Ready
            {
                let container = &agent.observed.containers[&state.instance];
                assert!(container.running().is_some(), "{slot} does not run");
                let wanted = edge.view.containers[&slot.container].is_wanted(slot.slot);
                assert!(wanted, "{slot} is not wanted");
            }
        }
    }

    /// No slot runs twice, and nothing is said of a slot that nobody has.
    fn check(&self) {
        let mut running: BTreeMap<&SlotId, &str> = BTreeMap::new();
        for (host, agent) in &self.world.hosts {
            for container in agent.observed.containers.values() {
                if container.running().is_some()
                    && let Some(other) = running.insert(&container.owner.slot, host)
                {
                    panic!("{} runs on {other} and {host}", container.owner.slot);
                }
            }
        }
        for key in self.world.keys.keys() {
            if let Some(Key::State(slot) | Key::Status(slot)) = Key::parse(key) {
                let claimed = self.world.modified(&Key::Claim(slot)) != 0;
                assert!(claimed, "{key} without a claim");
            }
        }
    }

    // === the end ===

    fn settle(&mut self, time: Duration) {
        let end = self.world.now + time;
        for _ in 0..20_000 {
            let (did, wake) = self.round();
            if did {
                self.world.now = self.world.now + Duration::from_millis(1);
                continue;
            }
            match wake {
                Some(at) if at <= end => {
                    self.world.now = at.max(Millis(self.world.now.0 + 1));
                }
                _ => {
                    self.world.now = end;
                    return;
                }
            }
        }
        panic!("it goes on for ever");
    }

    fn is_as_wanted(&self) {
        let mut named: BTreeSet<InstanceId> = BTreeSet::new();
        for (id, view) in &self.world.snapshot.containers {
            for (number, slot) in &view.slots {
                let claim = slot.claim.as_ref();
                let claim = claim.unwrap_or_else(|| panic!("{id}/{number}: remains"));
                named.insert(claim.instance.clone());
            }
            let id_text = id.to_string();
            let Some((_, scale)) = self.manifests.get(id_text.as_str()) else {
                panic!("{id} is deleted, and not gone");
            };
            let claimed: Vec<u32> = view.slots.keys().copied().collect();
            let wanted: Vec<u32> = (0..*scale as u32).collect();
            assert_eq!(claimed, wanted, "{id}");
            self.runs_as_wanted(id, view);
        }
        for id in self.manifests.keys() {
            let there = self.world.snapshot.containers.get(&id.parse().unwrap());
            assert!(there.is_some(), "{id}");
        }
        for (host, agent) in &self.world.hosts {
            for container in agent.observed.containers.values() {
                let instance = &container.owner.instance;
                // The last one that ended is kept for its log; while what replaces it can't be made, all are.
                let replaced = self.claimed_instance(host, &container.owner.slot);
                let ended = matches!(container.state, ContainerState::Exited(_));
                let kept = container.running().is_none()
                    && replaced
                        .is_some_and(|by| ended || !agent.observed.containers.contains_key(by));
                // One that is made to replace another may have to wait.
                let memory = agent.local.slots.get(&container.owner.slot);
                let prepared = memory.and_then(|m| m.prepared.as_ref());
                let kept = kept || prepared.is_some_and(|(prepared, _)| prepared == instance);
                assert!(named.contains(instance) || kept, "{host} has {instance}");
            }
        }
    }

    fn claimed_instance(&self, host: &str, slot: &SlotId) -> Option<&InstanceId> {
        let claim = self.world.snapshot.slot(slot)?.claim.as_ref()?;
        (claim.host.as_str() == host).then_some(&claim.instance)
    }

    fn runs_as_wanted(&self, id: &ContainerId, view: &ContainerView) {
        let wanted = wanted(view).unwrap();
        let image = wanted.image.as_str();
        let given_up = view
            .rollout
            .as_ref()
            .filter(|r| r.modified > view.manifest.as_ref().unwrap().created);
        let mut runs_wanted = 0;
        for (number, slot) in &view.slots {
            let claim = slot.claim.as_ref().unwrap();
            let container = self.world.hosts[claim.host.as_str()]
                .observed
                .containers
                .get(&claim.instance);
            let version = view.versions.get(&claim.manifest_rev);
            let runs = version.and_then(|v| v.manifest.as_ref());
            let same = runs.is_some_and(|m| same(m, wanted));
            runs_wanted += u32::from(same);
            let good = |m: &Manifest| m.image.starts_with("good");
            // One that crashes in its first moments halts the update, whatever it would have been.
            if image.starts_with("good") && given_up.is_none() {
                assert!(same, "{id}/{number} runs something else");
            }
            match (container, runs) {
                (Some(container), Some(manifest)) if good(manifest) => {
                    assert!(container.running().is_some(), "{id}/{number} does not run");
                    assert!(container.has_final_name(), "{}", container.name);
                    let host = &self.world.hosts[claim.host.as_str()].host;
                    let given = host.surroundings.hash(&container.ports);
                    // It is made anew for that only while all others are ready.
                    let all_good = image.starts_with("good") && given_up.is_none();
                    let same = container.owner.host_hash == given;
                    assert!(same || !all_good, "{id}/{number}: another host's");
                    let state = slot.current_state().map(|s| s.state);
                    assert_eq!(state, Some(Phase::Ready), "{id}/{number}");
                    assert!(version.unwrap().version.good, "{id}/{number}");
                }
                (Some(_), Some(_)) => {}
                (Some(_), None) => panic!("{id}/{number} runs an unknown version"),
                (None, _) => assert_eq!(image, "bad:1", "{id}/{number} is not there"),
            }
        }
        let halts = ["crash:1", "slow:1"].contains(&image);
        let old = view.versions.len() as u32 > 1 && runs_wanted < view.slots.len() as u32;
        if halts && old {
            let halted = given_up.is_some_and(|r| r.failed);
            assert!(halted, "{id}: others stay, and nothing says why");
        }
    }

    /// Where nothing is wrong, agents that restart write nothing and leave the engines alone.
    fn a_restart_changes_nothing(&mut self) {
        let all_good =
            self.world.snapshot.containers.values().all(|view| {
                view.rollout.is_none() && wanted(view).unwrap().image.starts_with("good")
            });
        let hosts: Vec<String> = self.edges.keys().cloned().collect();
        for host in &hosts {
            self.restart_agent(host);
        }
        let (revision, minted) = (self.world.revision, self.world.minted);
        self.settle(Duration::from_secs(60));
        if all_good {
            assert_eq!(self.world.revision, revision, "a restart writes");
            assert_eq!(self.world.minted, minted);
        }
    }

    fn in_the_end_everything_goes(&mut self) {
        for id in CONTAINERS {
            if self.manifests.remove(id).is_some() {
                self.command(&format!("delete {id}"));
            }
        }
        self.settle(QUIET);
        assert!(self.world.snapshot.containers.is_empty(), "keys are left");
        let left: Vec<&String> = self
            .world
            .keys
            .keys()
            .filter(|key| !key.starts_with("/hosts/"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        for (host, agent) in &self.world.hosts {
            let left = agent.observed.containers.len();
            assert_eq!(left, 0, "{host} has containers");
        }
    }
}

fn assert_each_once(host: &str, what: &str, works: Vec<Work>) {
    let mut seen = BTreeSet::new();
    for work in works {
        let twice = format!("{host}: two {what}s at once on {work:?}");
        assert!(seen.insert(work), "{twice}");
    }
}

fn wanted(view: &ContainerView) -> Option<&Manifest> {
    match &view.manifest.as_ref()?.value {
        Desired::Valid { manifest, .. } => Some(manifest),
        Desired::Invalid(_) => None,
    }
}

fn same(one: &Manifest, other: &Manifest) -> bool {
    one.image == other.image && canonical::same_container(one, other)
}

/// The claim names it, the slot is wanted, and it is what the user wants: by what this snapshot says.
fn is_right(snapshot: &Snapshot, host: &str, container: &ObservedContainer) -> bool {
    let slot = &container.owner.slot;
    let Some(view) = snapshot.containers.get(&slot.container) else {
        return false;
    };
    let claim = view.slots.get(&slot.slot).and_then(|s| s.claim.as_ref());
    let Some(claim) = claim else { return false };
    if claim.host.as_str() != host || claim.instance != container.owner.instance {
        return false;
    }
    let runs = view.versions.get(&claim.manifest_rev);
    let (Some(runs), Some(wanted)) = (runs.and_then(|v| v.manifest.as_ref()), wanted(view)) else {
        return false;
    };
    view.is_wanted(slot.slot)
        && same(runs, wanted)
        && wanted.pull != manifests::manifest::Pull::Always
}
