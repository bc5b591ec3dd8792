//! What happens to a cluster: users and operators who change their minds, and everything that can fail.

use manifests::SlotId;
use manifests::keys::{self, APPS, Key};
use manifests::manifest::Scale;
use model::records::{Availability, Cluster, Moved};
use store::host::Stop;
use store::kv::{KeyRange, Op};
use store::memory::MemEtcd;
use uuid::Uuid;

use crate::kinds::{Fault, Kind};
use crate::network::Net;
use crate::process::Process;
use crate::scenario::Scenario;
use crate::world::{Event, World};

/// While a host is to get a slot.
const AMID_HANDOVER: &[(u64, Kind)] = &[
    (6, Kind::LoseLease),
    (3, Kind::Kill),
    (3, Kind::PowerLoss),
    (2, Kind::Scale),
    (2, Kind::Delete),
    (2, Kind::Put),
    (2, Kind::Drain),
    (2, Kind::Activate),
    (2, Kind::CutOff),
];

/// When a host has just taken a slot over.
const AMID_TAKEOVER: &[(u64, Kind)] = &[
    (6, Kind::Drain),
    (3, Kind::Sick),
    (3, Kind::ContainerEnds),
    (2, Kind::LoseLease),
    (2, Kind::Kill),
    (1, Kind::Activate),
];

/// What an agent waits for is over by then.
const REST: u64 = 900_000;

const CONTAINERS: [&str; 3] = ["shop/web", "shop/db", "mail/in"];

impl World {
    /// The first manifests, and the first fault.
    pub fn begin(&mut self) {
        // In calm all hosts are there before anything is wanted, else perhaps not.
        let soonest = if self.scenario == Scenario::Calm {
            2_000
        } else {
            0
        };
        for id in CONTAINERS.into_iter().take(self.scenario.containers()) {
            let wait = soonest + self.dice.below(1_000);
            self.after(0, 0, wait, Event::Ordered(Fault::FirstPut(id)));
        }
        self.fault_soon();
    }

    fn fault_soon(&mut self) {
        let most = *self.dice.of(&[100, 1_500, 4_000, 12_000]).unwrap_or(&1_500);
        // The first ones wait until there is something to harm.
        let first = if self.now == 0 { 2_500 } else { 0 };
        let wait = first + self.dice.below(most);
        self.after(0, 0, wait, Event::Fault);
    }

    /// Something happens.
    pub fn fault(&mut self) {
        if !self.stormy || self.faults_left == 0 {
            return;
        }
        self.faults_left -= 1;
        let kind = self.scenario.draw(&mut self.dice);
        *self.exercised.entry(kind).or_default() += 1;
        let machine = self
            .some_owner()
            .unwrap_or_else(|| self.dice.below(self.machines.len() as u64) as usize);
        let name = self.machines[machine].host.name.clone();
        self.trace
            .say(self.now, "fault", || format!("{kind:?} (host {name})"));
        self.strike(kind, machine);
        if kind == Kind::Rest {
            self.after(0, 0, REST, Event::Fault);
        } else {
            self.fault_soon();
        }
    }

    fn strike_amid(&mut self, slot: &SlotId) {
        if !self.stormy || self.faults_left == 0 {
            return;
        }
        let Some(view) = self.truth.now.slot(slot) else {
            return;
        };
        let owner = view.claim.as_ref().map(|c| c.host.clone());
        let next = view.next.as_ref().map(|n| n.host.clone());
        let incoming = next.is_some();
        let Some(name) = (if self.dice.one_in(4) {
            owner.or(next)
        } else {
            next.or(owner)
        }) else {
            return;
        };
        let Some(machine) = self.machines.iter().position(|m| m.host.name == name) else {
            return;
        };
        self.faults_left -= 1;
        let kind = *self
            .dice
            .weighted(if incoming {
                AMID_HANDOVER
            } else {
                AMID_TAKEOVER
            })
            .unwrap_or(&Kind::LoseLease);
        *self.exercised.entry(kind).or_default() += 1;
        self.trace.say(self.now, "fault", || {
            format!("amid a change of {slot}: {kind:?} (host {name})")
        });
        let id = slot.container.to_string();
        match kind {
            Kind::Put => self.put_manifest(&id, false),
            Kind::Delete => self.write(vec![Op::delete(format!("{APPS}{id}/manifest"))]),
            Kind::Scale => self.rescale(&id, 0),
            // It does not come back, and nobody wants what it was to have any more, or not there.
            Kind::PowerLoss if incoming && self.dice.one_in(2) => {
                self.power_off(machine);
                self.lost_for_good = Some(machine);
                if self.dice.one_in(2) {
                    self.rescale(&id, 0);
                } else {
                    for other in 0..self.machines.len() {
                        self.make(other, Availability::Active);
                    }
                }
            }
            kind => self.strike(kind, machine),
        }
        if !incoming {
            self.everybody_back();
        }
        if self.dice.one_in(2) {
            self.tempt(slot.clone());
        }
    }

    /// Those who were cut off are back in a moment.
    fn everybody_back(&mut self) {
        for machine in 0..self.machines.len() {
            if self.machines[machine].net != Net::WHOLE {
                let wait = self.dice.below(1_500);
                self.after(
                    machine,
                    0,
                    wait,
                    Event::Ordered(Fault::Reconnected(machine)),
                );
            }
        }
    }

    /// The owner of the one slot that all is about.
    fn some_owner(&self) -> Option<usize> {
        let about = self.scenario == Scenario::Returns;
        let (_, container) = self.truth.now.containers.iter().next().filter(|_| about)?;
        let claim = container
            .slots
            .values()
            .find_map(|slot| slot.claim.as_ref())?;
        self.machines.iter().position(|m| m.host.name == claim.host)
    }

    fn strike(&mut self, kind: Kind, machine: usize) {
        let soon = self.dice.between(100, 4_000);
        let latest = if self.scenario == Scenario::Returns {
            90_000
        } else {
            25_000
        };
        let late = self.dice.between(1_000, latest);
        match kind {
            Kind::Kill => {
                self.kill(machine);
                self.start_after(
                    machine,
                    if self.dice.clone().one_in(3) {
                        late
                    } else {
                        soon
                    },
                );
            }
            Kind::GracefulRestart => {
                self.say_goodbye(machine, Stop::Restart);
                self.kill(machine);
                self.start_after(machine, soon);
            }
            Kind::Shutdown => {
                self.say_goodbye(machine, Stop::Shutdown);
                self.power_off(machine);
                self.after(machine, 0, late, Event::Ordered(Fault::Powered(machine)));
            }
            Kind::PowerLoss => {
                if self.dice.one_in(2) {
                    self.machines[machine].disk.lose_last_view();
                }
                self.power_off(machine);
                if !self.dice.one_in(4) {
                    self.after(machine, 0, late, Event::Ordered(Fault::Powered(machine)));
                }
            }
            Kind::Reboot => {
                self.power_off(machine);
                self.after(machine, 0, soon, Event::Ordered(Fault::Powered(machine)));
            }
            Kind::Several => {
                let back = self.dice.one_in(2);
                for other in 0..self.machines.len() {
                    if self.dice.one_in(2) {
                        self.power_off(other);
                        if back {
                            let wait = self.dice.between(1_000, 25_000);
                            self.after(other, 0, wait, Event::Ordered(Fault::Powered(other)));
                        }
                    }
                }
            }
            Kind::CutOff => {
                let net = &mut self.machines[machine].net;
                *net = match self.dice.below(4) {
                    0 => Net {
                        there: false,
                        ..*net
                    },
                    1 => Net {
                        back: false,
                        ..*net
                    },
                    2 => Net {
                        streams: false,
                        ..*net
                    },
                    _ => Net {
                        there: false,
                        back: false,
                        streams: false,
                    },
                };
                self.after(
                    machine,
                    0,
                    late,
                    Event::Ordered(Fault::Reconnected(machine)),
                );
            }
            Kind::LoseLease => {
                let lease = self.machines[machine]
                    .process
                    .as_ref()
                    .and_then(|p| p.host.lease());
                if let Some(lease) = lease {
                    let _ = self.etcd.lease_revoke(lease);
                    self.committed(None);
                }
            }
            Kind::SilentWatch => self.machines[machine].silent = true,
            Kind::Compact => {
                let back = self.dice.below(4) as i64;
                let _ = self.etcd.compact(self.etcd.revision() - back);
            }
            Kind::EtcdRestart => self.break_streams("etcd restarts"),
            Kind::MemberLags
            | Kind::MemberStalls
            | Kind::MemberRestarts
            | Kind::ProgressAhead
            | Kind::WatchGoesBack
            | Kind::FutureWatch
            | Kind::EventsLost
            | Kind::DeletionLost
            | Kind::RevisionFalls => self.strike_member(kind, machine, late),
            Kind::EtcdAway => {
                self.away = true;
                self.break_streams("etcd is away");
                self.after(0, 0, late, Event::Ordered(Fault::EtcdBack));
            }
            Kind::Backup => self.backups.push(self.etcd.clone()),
            Kind::Restore => {
                let at = self.dice.below(self.backups.len() as u64) as usize;
                if let Some(etcd) = self.backups.get(at).cloned() {
                    self.replace_etcd(etcd);
                    if self.dice.one_in(2) {
                        self.overtake();
                    }
                }
            }
            Kind::Empty => self.replace_etcd(MemEtcd::new()),
            Kind::OtherCluster => {
                self.replace_etcd(MemEtcd::new());
                let cluster = Cluster {
                    id: Uuid::from_u128(0xc2),
                    epoch: 1,
                };
                self.write(vec![Op::put_json(Key::Cluster, &cluster)]);
                self.overtake();
            }
            Kind::Accept => self.happens(Fault::Accept),
            Kind::EngineHangs => {
                self.machines[machine].engine.hangs = true;
                self.after(machine, 0, late, Event::Ordered(Fault::EngineBack(machine)));
            }
            Kind::Deaf => {
                self.machines[machine].deaf = true;
                self.after(machine, 0, late, Event::Ordered(Fault::EngineBack(machine)));
            }
            Kind::RegistryAway => {
                self.machines[machine].engine.twin.registry_away = true;
                self.after(machine, 0, late, Event::Ordered(Fault::EngineBack(machine)));
            }
            Kind::ContainerEnds | Kind::Sick | Kind::DockerRm => {
                self.strike_container(kind, machine);
            }
            Kind::Emptied => {
                self.say_goodbye(machine, Stop::Restart);
                self.kill(machine);
                let now = self.wall();
                let cluster = self.cluster.id;
                let engine = &mut self.machines[machine].engine;
                for container in engine.containers(cluster) {
                    let _ = engine.twin.remove(&container.docker_id, true, now);
                }
                self.engine_changed(machine);
                self.start_after(machine, soon);
            }
            // The next fault is late, and that is all.
            Kind::Rest => {}
            Kind::CopyDisk => self.copy_disk(machine),
            Kind::Idle => {
                self.machines[machine].idle = true;
                self.is_idle(machine);
            }
            Kind::Put => {
                let id = self.some_container();
                self.put_manifest(id, false);
            }
            Kind::Push => self.push(),
            Kind::GoBack => {
                let id = self.some_container();
                self.go_back(id);
            }
            Kind::Scale => self.scale(),
            Kind::Delete => {
                let id = self.some_container();
                self.write(vec![Op::delete(format!("{APPS}{id}/manifest"))]);
            }
            Kind::Pause => self.make(machine, Availability::Pause),
            Kind::Drain => self.make(machine, Availability::Drain),
            Kind::Leave => self.make(machine, Availability::Leave),
            Kind::Activate => self.make(machine, Availability::Active),
        }
    }

    /// What was ordered happens.
    pub fn happens(&mut self, fault: Fault) {
        self.trace.say(self.now, "fault", || format!("{fault:?}"));
        match fault {
            Fault::Reconnected(machine) => {
                self.machines[machine].net = Net::WHOLE;
                self.stream_soon(machine);
            }
            Fault::Powered(machine) => self.power_on(machine),
            Fault::EngineBack(machine) => {
                let at = &mut self.machines[machine];
                at.engine.hangs = false;
                at.engine.twin.registry_away = false;
                at.deaf = false;
            }
            Fault::EtcdBack => {
                self.away = false;
                for machine in 0..self.machines.len() {
                    self.stream_soon(machine);
                }
            }
            Fault::MemberBack(member) => {
                self.members[member].stalled = false;
                self.streams_soon();
            }
            Fault::FirstPut(id) => self.put_manifest(id, true),
            Fault::Amid(slot) => self.strike_amid(&slot),
            Fault::Accept => {
                self.cluster.epoch += 1;
                let put = Op::put_json(Key::Cluster, &self.cluster);
                self.write(vec![put]);
            }
        }
    }

    // === machines ===

    /// The process is gone at once.
    pub fn kill(&mut self, machine: usize) {
        self.machines[machine].process = None;
    }

    fn start_after(&mut self, machine: usize, wait: u64) {
        self.after(machine, 0, wait, Event::Start);
    }

    /// A machine goes down.
    pub fn power_off(&mut self, machine: usize) {
        self.kill(machine);
        let now = self.wall();
        let at = &mut self.machines[machine];
        at.powered = false;
        at.boot += 1;
        at.engine.twin.reboot(now);
        self.engine_changed(machine);
    }

    fn power_on(&mut self, machine: usize) {
        if !self.machines[machine].powered {
            self.machines[machine].powered = true;
            let wait = self.dice.below(2_000);
            self.start_after(machine, wait);
        }
    }

    /// Another machine with this one's disk, under its name or another.
    fn copy_disk(&mut self, machine: usize) {
        if self.machines.len() > 6 {
            return;
        }
        let same_name = self.dice.one_in(2);
        let name = self.machines[machine].host.name.clone();
        let mut disk = self.machines[machine].disk.clone();
        if !same_name && self.dice.one_in(2) {
            // An older copy.
            disk.identity.session = None;
            disk.identity.before = None;
        }
        let id = self.machines[machine].host.id;
        let copy = self.add_machine(self.machines.len());
        let at = &mut self.machines[copy];
        if same_name {
            at.host.name = name;
        }
        at.disk = disk;
        at.host.id = id;
        at.witness.copied = true;
    }

    fn strike_container(&mut self, kind: Kind, machine: usize) {
        let now = self.wall();
        let cluster = self.cluster.id;
        let engine = &mut self.machines[machine].engine;
        let running = engine.running(cluster);
        let Some(container) = self.dice.of(&running) else {
            return;
        };
        let id = container.docker_id.clone();
        match kind {
            Kind::ContainerEnds => engine.twin.crash(&id, 1, now),
            Kind::Sick => {
                engine.sick.insert(container.owner.instance.clone());
                self.look_again(machine);
            }
            _ => {
                // Somebody makes an image of it, runs that instead, and removes it by hand, with force.
                let copies = engine.copies.len();
                let _ = engine.copy(&id, &format!("debug-{}-{copies}", container.name), now);
                let _ = engine.twin.remove(&id, true, now);
            }
        }
        self.engine_changed(machine);
    }

    // === etcd ===

    /// So much is written that its revision is above every view.
    fn overtake(&mut self) {
        for _ in 0..self.dice.between(1, 60) {
            self.write(vec![Op::put("/somebody/else", "x")]);
        }
    }

    /// Something is wrong with the member that a machine follows, or with what it says.
    fn strike_member(&mut self, kind: Kind, machine: usize, late: u64) {
        let stream = self.machines[machine]
            .process
            .as_ref()
            .and_then(Process::watch);
        let member = stream.map_or(self.machines[machine].member, |(_, of)| of.member);
        let back = self.dice.between(1, 20) as i64;
        match kind {
            Kind::MemberLags => {
                self.members[member].lag = *self.dice.of(&[50, 400, 3_000]).unwrap_or(&50);
            }
            Kind::MemberStalls => {
                self.members[member].stalled = true;
                self.after(0, 0, late, Event::Ordered(Fault::MemberBack(member)));
            }
            Kind::ProgressAhead => {
                let at = &mut self.members[member];
                (at.ahead, at.lag) = (true, 400);
                self.restart_member(member);
            }
            Kind::FutureWatch => {
                self.members[member].says_old_events = true;
                self.restart_member(member);
            }
            Kind::WatchGoesBack => {
                let from = self.etcd.revision() - back;
                if let Some((watch, of)) = stream
                    && self.lives(of)
                {
                    self.etcd.repeat(watch, from);
                }
                self.streams_soon();
            }
            Kind::EventsLost => {
                let lost = self.dice.between(1, 3) as u32;
                if let Some(process) = &mut self.machines[machine].process {
                    process.stream_loses(lost);
                }
            }
            Kind::DeletionLost => {
                let id = self.some_container();
                self.write(vec![Op::delete(format!("{APPS}{id}/manifest"))]);
                let revision = self.etcd.revision();
                let _ = self.etcd.compact(revision);
                self.etcd.lose_deletions(revision);
            }
            Kind::RevisionFalls => {
                let id = self.some_container();
                self.write(vec![Op::delete(format!("{APPS}{id}/manifest"))]);
                let mut etcd = self.etcd.clone();
                etcd.fall();
                self.replace_etcd(etcd);
            }
            _ => self.restart_member(member),
        }
    }

    fn restart_member(&mut self, member: usize) {
        self.members[member].restarts();
        self.streams_soon();
    }

    // === users ===

    fn some_container(&mut self) -> &'static str {
        let most = self.scenario.containers();
        CONTAINERS[self.dice.below(most as u64) as usize]
    }

    fn make(&mut self, machine: usize, availability: Availability) {
        let host = self.machines[machine].host.name.clone();
        let mut ops = vec![Op::put_json(Key::Availability(host.clone()), &availability)];
        match availability {
            Availability::Drain => {
                let had = self.truth.now.claimed_by(&host).cloned();
                let noted = had.map(|slot| Op::put_json(Key::Moved(host.clone(), slot), &Moved {}));
                ops.extend(noted);
            }
            // It comes back half of the times.
            Availability::Active if self.dice.one_in(2) => {
                ops.push(Op::Delete(KeyRange::prefix(&keys::moved(&host))));
            }
            _ => {}
        }
        self.write(ops);
    }

    fn put_manifest(&mut self, id: &str, first: bool) {
        let dice = &mut self.dice;
        let mut manifest = serde_json::json!({
            "image": format!("good:{}", 1 + dice.below(3)),
            "scale": match self.scenario {
                Scenario::OneSlot | Scenario::Returns | Scenario::StopFirst | Scenario::Drain => 1,
                Scenario::Calm => 1 + dice.below(7),
                _ => 1 + dice.below(3),
            },
            "start_timeout": "10s",
            "stop_timeout": "2s",
        });
        let count = manifest["scale"].as_u64().unwrap_or_default();
        // What a container is like stays so: two that learn to want one port of a host are the user's mistake.
        let most = if self.scenario == Scenario::StopFirst {
            8
        } else {
            14
        };
        let port = 8_000
            + CONTAINERS
                .iter()
                .position(|other| *other == id)
                .unwrap_or(0);
        let likeness = *self
            .likeness
            .entry(id.to_owned())
            .or_insert_with(|| dice.below(most));
        manifest["scale"] = self.scale_of(id, count);
        let dice = &mut self.dice;
        match likeness {
            0 => manifest["volumes"] = serde_json::json!(["data:/data"]),
            1 => {
                manifest["services"] = serde_json::json!({"http": {"port": 80, "host_port": port}});
            }
            2..7 if self.scenario == Scenario::StopFirst => {
                let shared = serde_json::json!([{"source": crate::engine::SHARED, "target": "/data", "external": true}]);
                manifest["volumes"] = shared;
            }
            2 | 3 => {}
            _ => manifest["services"] = serde_json::json!({"http": 80}),
        }
        if self.scenario == Scenario::Returns {
            manifest["command"] = serde_json::json!(["late"]);
            manifest["services"] = serde_json::json!({"http": 80});
        }
        // As is its policy: slots that are down for an earlier manifest count.
        let orders = ["start-first", "stop-first"];
        let on_failure = ["pause", "rollback", "continue"][dice.below(3) as usize];
        manifest["update"] = serde_json::json!({
            "order": orders[usize::from(matches!(likeness, 0 | 1 | 4..9))],
            "parallelism": if likeness.is_multiple_of(3) { "66%" } else { "33%" },
            "monitor": "2s",
            "on_failure": on_failure,
        });
        if self.scenario == Scenario::Images {
            manifest["image_policy"] = if likeness.is_multiple_of(2) {
                serde_json::json!({"check": "10s", "match": "*"})
            } else {
                serde_json::json!({"check": "10s"})
            };
        }
        if self.scenario.prepares() && dice.one_in(3) {
            let command = ["migrates", "migrates", "migrates", "breaks", "hangs"];
            let command = command[dice.below(5) as usize];
            manifest["before"] = serde_json::json!({"command": [command], "timeout": "5s"});
        }
        let strange = self.scenario != Scenario::Calm && !first && dice.one_in(6);
        if strange {
            let command = ["never", "ends", "late"][dice.below(3) as usize];
            manifest["command"] = serde_json::json!([command]);
            if dice.one_in(4) && self.scenario != Scenario::Images {
                manifest["image"] = serde_json::json!("missing:1");
            }
        }
        self.write(vec![Op::put_json(
            format!("{APPS}{id}/manifest"),
            &manifest,
        )]);
    }

    fn scale(&mut self) {
        let id = self.some_container();
        let scale = self.dice.below(4);
        self.rescale(id, scale);
    }

    /// Some containers are global now and then, instead of having one slot.
    fn scale_of(&self, id: &str, count: u64) -> serde_json::Value {
        let is_of_one = matches!(
            self.scenario,
            Scenario::OneSlot | Scenario::Returns | Scenario::StopFirst
        );
        let likeness = self.likeness.get(id);
        let may = likeness.is_some_and(|likeness| matches!(likeness, 0 | 1 | 5 | 9));
        if count == 1 && may && !is_of_one {
            Scale::GLOBAL.into()
        } else {
            count.into()
        }
    }

    fn rescale(&mut self, id: &str, scale: u64) {
        let key = format!("{APPS}{id}/manifest");
        let found = self.etcd.range(&store::kv::Range::key(&key));
        let Some(kv) = found.ok().and_then(|reply| reply.kvs.into_iter().next()) else {
            return;
        };
        let Ok(mut manifest) = serde_json::from_slice::<serde_json::Value>(&kv.value) else {
            return;
        };
        manifest["scale"] = self.scale_of(id, scale);
        self.write(vec![Op::put_json(key, &manifest)]);
    }

    // === the end of all faults ===

    /// Nothing fails from now on, and what has failed is repaired.
    pub fn heal(&mut self) {
        self.trace
            .say(self.now, "fault", || "everything is repaired".to_owned());
        self.stormy = false;
        self.latency = self.latency.min(20);
        self.away = false;
        for member in &mut self.members {
            member.heals();
        }
        self.reconcile_etcd();
        for machine in 0..self.machines.len() {
            let at = &mut self.machines[machine];
            at.net = Net::WHOLE;
            at.silent = false;
            at.deaf = false;
            at.idle = false;
            at.engine.heal();
            if let Some(process) = &mut at.process {
                process.stream_loses(0);
            }
            self.is_idle(machine);
            let at = &mut self.machines[machine];
            if at.gone {
                self.power_off(machine);
                continue;
            }
            if !at.powered && self.lost_for_good == Some(machine) {
                at.gone = true;
                continue;
            }
            if !at.powered {
                self.power_on(machine);
            } else if at.process.is_none() {
                self.start_after(machine, 10);
            }
            self.look_again(machine);
            self.stream_soon(machine);
        }
        // An image that nobody has stays so; users give it up.
        self.give_up_what_cannot_be();
    }

    /// The operator brings back an etcd that is the cluster's, and accepts it.
    fn reconcile_etcd(&mut self) {
        let ours = self.truth.now.cluster.as_ref().map(|c| &c.value) == Some(&self.cluster);
        let restored = !self.truth.former.is_empty();
        if !ours || restored {
            self.happens(Fault::Accept);
        }
    }

    fn give_up_what_cannot_be(&mut self) {
        for id in CONTAINERS {
            let key = format!("{APPS}{id}/manifest");
            let found = self.etcd.range(&store::kv::Range::key(&key));
            let Some(kv) = found.ok().and_then(|reply| reply.kvs.into_iter().next()) else {
                continue;
            };
            let text = String::from_utf8_lossy(&kv.value);
            if text.contains("missing:1") {
                let better = text.replace("missing:1", "good:1");
                self.write(vec![Op::put(key, better.into_bytes())]);
            }
        }
    }
}
