use std::collections::BTreeMap;
use std::sync::Arc;

use manifests::HostName;
use model::Rules;
use model::records::{Availability, Capacity, Member, Versions};

use super::super::{Disk, JoinError};
use super::*;
use crate::view::Known;
use manifests::keys::Key;
use model::Rule;
use model::kv::{KeyRange, Op, Range};
use store::memory::MemEtcd;

const TTL: Duration = Duration::from_secs(6);
const GRACE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(250);

fn wanted() -> HostRecord {
    HostRecord {
        id: Uuid::nil(),
        session: Uuid::nil(),
        epoch: 0,
        state: HostState::Up,
        addr: "10.0.0.1".parse().expect("an address"),
        peer: None,
        api: Vec::new(),
        labels: BTreeMap::new(),
        capacity: Capacity::default(),
        versions: Versions {
            agent: "0.1.0".into(),
            placement: vec![1],
        },
        foreign: 0,
        engine: true,
        docker: None,
        disk: None,
        disk_full: false,
        hold: None,
        problems: Vec::new(),
    }
}

fn options(name: &str) -> HostOptions {
    HostOptions {
        name: name.parse().expect("a name"),
        ttl: TTL,
        restart_grace: GRACE,
        labelled_containers: false,
        saved: None,
        rules: Rules::default(),
    }
}

fn hold(reason: &str) -> Hold {
    Hold {
        reason: reason.to_owned(),
        shared: true,
    }
}

/// An etcd and a clock.
struct World {
    etcd: MemEtcd,
    now: Millis,
    away: bool,
}

/// A machine: its disk, and the process that runs on it.
struct Node {
    disk: Facts,
    machine: HostMachine,
    options: HostOptions,
    /// The steps that were carried out, the reads left out.
    did: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self {
            etcd: MemEtcd::new(),
            now: Millis(1_000),
            away: false,
        }
    }

    /// A new machine with its first process.
    fn node(&self, name: &str) -> Node {
        self.process(Disk::new(Uuid::new_v4()), None, None, "boot", options(name))
    }

    fn process(
        &self,
        disk: Disk,
        cluster: Option<Cluster>,
        hold: Option<Hold>,
        boot: &str,
        options: HostOptions,
    ) -> Node {
        let disk = Facts {
            disk,
            cluster,
            hold,
            boot_id: boot.to_owned(),
            session: Uuid::new_v4(),
            new_cluster: Uuid::new_v4(),
        };
        Node {
            machine: HostMachine::new(options.clone(), wanted(), disk.clone(), self.now),
            disk,
            options,
            did: Vec::new(),
        }
    }

    /// The process is killed, and another one starts on what the disk has.
    fn restart(&self, node: Node, boot: &str) -> Node {
        let Facts {
            disk,
            cluster,
            hold,
            ..
        } = node.disk;
        self.process(disk, cluster, hold, boot, node.options)
    }

    /// Carries out one step; false if there is nothing to do now. Without `answered` the process never hears of it.
    fn step(&mut self, node: &mut Node, answered: bool) -> bool {
        let step = node.machine.next(self.now);
        let unavailable = || {
            let away = std::io::Error::other("switched off by the test");
            KvError::Unavailable(Arc::new(away))
        };
        let answer = match &step {
            HostStep::Ask(_) | HostStep::Grant(_) if self.away => match step {
                HostStep::Ask(_) => HostAnswer::Asked(Err(unavailable())),
                _ => HostAnswer::Granted(Err(unavailable())),
            },
            HostStep::Ask(txn) => {
                if !txn.then.iter().all(|op| matches!(op, Op::Get(_))) {
                    node.did.push("write".to_owned());
                }
                HostAnswer::Asked(self.etcd.txn(txn))
            }
            HostStep::Grant(ttl) => HostAnswer::Granted(Ok(self.etcd.lease_grant(*ttl))),
            HostStep::Note(note) => {
                node.disk.note(note);
                let name = format!("{note:?}");
                let name = name.split('(').next().unwrap_or_default();
                node.did.push(format!("note {name}"));
                HostAnswer::Noted(Ok(()))
            }
            HostStep::Wait(_) => return false,
        };
        if answered {
            node.machine.answer(answer, self.now);
        }
        true
    }

    /// All that can be done at this moment.
    fn settle(&mut self, node: &mut Node) {
        for _ in 0..100 {
            if !self.step(node, true) {
                return;
            }
        }
        panic!("it goes on and on: {:?}", node.machine);
    }

    /// Time passes, in which the leases are kept.
    fn pass(&mut self, nodes: &mut [&mut Node], time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + TICK;
            self.etcd.advance(self.now);
            for node in &mut *nodes {
                if let Some(lease) = node.machine.lease()
                    && !self.away
                    && self.etcd.lease_keep_alive(lease.id).is_err()
                {
                    node.machine.lease_lost(lease.id);
                }
                self.settle(node);
            }
        }
    }

    fn value(&self, key: impl ToString) -> Option<Vec<u8>> {
        let reply = self.etcd.range(&Range::key(key)).expect("reads");
        Some(reply.kvs.into_iter().next()?.value)
    }

    fn record(&self, name: &str) -> Option<HostRecord> {
        let value = self.value(format!("/hosts/{name}/record"))?;
        Some(serde_json::from_slice(&value).expect("a record"))
    }

    fn member(&self, name: &str) -> Option<Uuid> {
        let value = self.value(format!("/dokkaa/members/{name}"))?;
        let member: Member = serde_json::from_slice(&value).expect("a member");
        Some(member.id)
    }

    fn keys(&self) -> Vec<String> {
        let all = Range::new(KeyRange::prefix("/"));
        let found = self.etcd.range(&all).expect("reads");
        found.kvs.into_iter().map(|kv| kv.key).collect()
    }

    fn put(&mut self, key: impl ToString, value: &impl serde::Serialize) {
        self.write(Op::put_json(key, value));
    }

    fn write(&mut self, op: Op) {
        let txn = Txn::new(Vec::new(), vec![op]);
        self.etcd.txn(&txn).expect("writes");
    }

    fn joined(&mut self, name: &str) -> Node {
        let mut node = self.node(name);
        self.settle(&mut node);
        assert!(node.is_live(), "{:?}", node.machine.status());
        node
    }
}

impl Node {
    fn is_live(&self) -> bool {
        matches!(self.machine.status(), HostStatus::Live(_))
    }

    fn is_held(&self) -> bool {
        matches!(self.machine.status(), HostStatus::Held(_))
    }

    fn cluster(&self) -> Cluster {
        self.disk.cluster.clone().expect("it knows one")
    }

    fn name(&self) -> &HostName {
        &self.options.name
    }

    fn writes(&self) -> usize {
        self.did.iter().filter(|did| *did == "write").count()
    }
}

#[test]
fn a_first_start_makes_the_cluster_and_notes_each_thing_before_it_is_used() {
    let mut world = World::new();
    let node = world.joined("a");
    assert_eq!(
        node.did,
        ["write", "note Cluster", "note Session", "write"],
        "the cluster's key, and then the record"
    );
    let record = world.record("a").expect("is there");
    assert_eq!(record.session, node.disk.session);
    assert_eq!((record.epoch, record.state), (1, HostState::Up));
    assert_eq!(world.member("a"), Some(node.disk.disk.id));
    assert_eq!(node.machine.floor(), world.etcd.revision());
    let mut second = world.joined("b");
    assert_eq!(second.cluster(), node.cluster());
    assert_eq!(second.machine.next(world.now), HostStep::Wait(None));
}

#[test]
fn a_crash_after_any_step_of_a_start_holds_up_no_later_start() {
    // Killed after each step of its start, with and without having heard of the last one.
    for heard in [true, false] {
        for steps in 1.. {
            let mut world = World::new();
            let first = world.joined("a");
            let mut second = world.restart(first, "boot");
            let mut done = 0;
            while done < steps && world.step(&mut second, heard || done + 1 < steps) {
                done += 1;
            }
            let ended = done < steps;
            let mut third = world.restart(second, "boot");
            world.settle(&mut third);
            assert!(third.is_live(), "after {steps}: {:?}", third.machine);
            let record = world.record("a").expect("is there");
            assert_eq!(record.session, third.disk.session, "after {steps}");
            assert_eq!(third.disk.disk.before, None, "after {steps}");
            if ended {
                break;
            }
        }
    }
}

#[test]
fn a_crash_after_any_step_of_a_first_start_leaves_one_cluster() {
    for heard in [true, false] {
        for steps in 1.. {
            let mut world = World::new();
            let mut first = world.node("a");
            let mut done = 0;
            while done < steps && world.step(&mut first, heard || done + 1 < steps) {
                done += 1;
            }
            let ended = done < steps;
            let before = world.value(Key::Cluster);
            let mut second = world.restart(first, "boot");
            world.settle(&mut second);
            assert!(second.is_live(), "after {steps}: {:?}", second.machine);
            assert!(before.is_none() || before == world.value(Key::Cluster));
            if ended {
                break;
            }
        }
    }
}

#[test]
fn answers_that_are_lost_leave_one_record_of_this_process() {
    let mut world = World::new();
    let mut node = world.node("a");
    // Every second write is carried out, and its answer is lost.
    for round in 0..40 {
        let lost = HostAnswer::Asked(Err(KvError::Refused("no answer".into())));
        let HostStep::Ask(txn) = node.machine.next(world.now) else {
            world.step(&mut node, true);
            world.now = world.now + TICK;
            continue;
        };
        let reply = world.etcd.txn(&txn);
        let answer = if round % 2 == 0 {
            lost
        } else {
            HostAnswer::Asked(reply)
        };
        node.machine.answer(answer, world.now);
        world.now = world.now + TICK;
    }
    let mut nodes = [&mut node];
    world.pass(&mut nodes, Duration::from_secs(3));
    assert!(node.is_live(), "{:?}", node.machine);
    let record = world.record("a").expect("is there");
    assert_eq!(record.session, node.disk.session);
}

#[test]
fn after_a_reboot_the_killed_process_s_record_is_waited_for() {
    let mut world = World::new();
    let first = world.joined("a");
    let mut second = world.restart(first, "another boot");
    world.settle(&mut second);
    let waits = HostStatus::Joining(Waiting::Record(wanted().addr));
    assert_eq!(second.machine.status(), &waits);
    world.pass(&mut [&mut second], TTL + TICK);
    assert!(second.is_live(), "{:?}", second.machine.status());
}

#[test]
fn a_name_that_another_machine_lives_under_is_not_taken() {
    let mut world = World::new();
    let (mut first, mut second) = (world.joined("a"), world.node("a"));
    world.pass(&mut [&mut first, &mut second], TTL + GRACE);
    let waits = HostStatus::Joining(Waiting::NameTaken(wanted().addr));
    assert_eq!(*second.machine.status(), waits);
    world.pass(&mut [&mut first, &mut second], Duration::from_secs(1));
    assert!(matches!(
        second.machine.status(),
        HostStatus::Failed(JoinError::NameTaken { .. })
    ));
    assert_eq!(second.machine.next(world.now), HostStep::Wait(None));
    assert_eq!(second.machine.lease(), None);
    assert!(first.is_live());
    // Etcd was away meanwhile: what could not be seen does not count as waiting.
    let mut third = world.node("a");
    world.settle(&mut third);
    world.away = true;
    world.now = world.now + TTL + GRACE;
    world.settle(&mut third);
    world.away = false;
    world.pass(&mut [&mut first, &mut third], TTL);
    assert!(matches!(third.machine.status(), HostStatus::Joining(_)));
}

#[test]
fn without_its_rule_a_start_goes_on_over_any_record() {
    let mut world = World::new();
    let first = world.joined("a");
    let options = HostOptions {
        rules: Rules::without(Rule::OwnRecord),
        ..options("a")
    };
    let mut second = world.process(Disk::new(Uuid::new_v4()), None, None, "boot", options);
    world.settle(&mut second);
    assert!(second.is_live());
    let record = world.record("a").expect("is there");
    assert_ne!(record.session, first.disk.session);
}

#[test]
fn a_copied_disk_is_found() {
    let mut world = World::new();
    let original = world.joined("a");
    let copied = original.disk.clone();
    let mut original = world.restart(original, "boot");
    world.settle(&mut original);
    // The copy knows the session before, and not the present one.
    let mut copy = world.process(copied.disk, copied.cluster, None, "its boot", options("b"));
    world.settle(&mut copy);
    let other = original.name().clone();
    assert_eq!(
        copy.machine.status(),
        &HostStatus::Failed(JoinError::Clone { other })
    );
    assert_eq!(world.record("b"), None);
}

#[test]
fn a_renamed_machine_takes_its_old_names_away() {
    let mut world = World::new();
    let old = world.joined("old");
    let id = old.disk.disk.id;
    let Facts { disk, cluster, .. } = old.disk;
    let mut new = world.process(disk, cluster, None, "boot", options("new"));
    world.settle(&mut new);
    assert!(new.is_live());
    assert_eq!((world.record("old"), world.member("old")), (None, None));
    assert_eq!(world.member("new"), Some(id));
}

#[test]
fn a_lost_lease_brings_a_new_record() {
    let mut world = World::new();
    let mut node = world.joined("a");
    let lease = node.machine.lease().expect("a lease");
    world.etcd.lease_revoke(lease.id).expect("revokes");
    world.away = true;
    node.machine.lease_lost(lease.id);
    world.settle(&mut node);
    assert_eq!(node.machine.status(), &HostStatus::Lost);
    world.away = false;
    world.pass(&mut [&mut node], Duration::from_secs(3));
    assert!(node.is_live());
    assert_ne!(node.machine.lease(), Some(lease));
    let record = world.record("a").expect("is there");
    assert_eq!(record.session, node.disk.session);
    assert_eq!(node.machine.floor(), world.etcd.revision());
}

#[test]
fn a_lease_that_ends_while_the_record_is_put_is_noticed() {
    let mut world = World::new();
    let mut node = world.node("a");
    while node.machine.lease().is_none() {
        world.step(&mut node, true);
    }
    let lease = node.machine.lease().expect("a lease");
    world.etcd.lease_revoke(lease.id).expect("revokes");
    world.settle(&mut node);
    assert!(node.is_live());
    assert_ne!(node.machine.lease(), Some(lease));
}

#[test]
fn a_record_that_was_deleted_comes_back() {
    let mut world = World::new();
    let mut node = world.joined("a");
    world.write(Op::delete("/hosts/a/record"));
    // What an older view did not show is no news.
    node.machine.observed(node.machine.floor(), None);
    assert_eq!(node.machine.next(world.now), HostStep::Wait(None));
    node.machine.observed(world.etcd.revision(), None);
    assert_eq!(node.machine.status(), &HostStatus::Lost);
    world.settle(&mut node);
    assert!(node.is_live() && world.record("a").is_some());
}

#[test]
fn another_process_on_the_record_ends_all_writing() {
    let mut world = World::new();
    let mut node = world.joined("a");
    let other = HostRecord {
        session: Uuid::new_v4(),
        ..world.record("a").expect("is there")
    };
    world.put("/hosts/a/record", &other);
    let at = world.etcd.revision();
    node.machine.observed(at, Some((other.session, at)));
    world.settle(&mut node);
    assert_eq!(node.machine.status(), &HostStatus::Foreign(other.session));
    assert_eq!(node.machine.lease(), None);
    node.machine.hold(Some(hold("too late")), world.now);
    node.machine.stop(Stop::Restart);
    assert_eq!(node.machine.stopped(), Some(Stopped::NotNoted));
    assert_eq!(world.etcd.revision(), at);
}

#[test]
fn a_change_is_written_on_the_same_lease_and_a_lost_guard_is_judged() {
    let mut world = World::new();
    let mut node = world.joined("a");
    let floor = node.machine.floor();
    let change = HostRecord {
        engine: false,
        id: Uuid::new_v4(),
        state: HostState::Hold,
        ..wanted()
    };
    node.machine.want(change, world.now);
    world.settle(&mut node);
    let record = world.record("a").expect("is there");
    assert_eq!((record.engine, record.state), (false, HostState::Up));
    assert_eq!(record.id, node.disk.disk.id);
    assert_eq!(node.machine.floor(), floor);
    // Somebody touched it: it is written all the same, when it was seen that it is still ours.
    world.put("/hosts/a/record", &record);
    node.machine.want(wanted(), world.now);
    world.settle(&mut node);
    assert!(world.record("a").expect("is there").engine);
    assert!(node.is_live());
}

// === hold ===

#[test]
fn in_hold_the_record_says_so_and_nothing_else_is_written() {
    let mut world = World::new();
    let mut node = world.joined("a");
    world.write(Op::delete(Key::Cluster));
    world.write(Op::delete("/dokkaa/members/a"));
    node.machine.hold(Some(hold("the key is gone")), world.now);
    assert!(node.is_held());
    world.settle(&mut node);
    assert_eq!(node.disk.hold, Some(hold("the key is gone")));
    let record = world.record("a").expect("is there");
    assert_eq!(record.state, HostState::Hold);
    assert_eq!(record.hold, Some(hold("the key is gone")));
    assert_eq!(world.keys(), ["/hosts/a/record"]);
    // Noted before it is said.
    let last = node.did.iter().rev().take(2).collect::<Vec<_>>();
    assert_eq!(last, ["write", "note Hold"]);
    // Also on another lease.
    let lease = node.machine.lease().expect("a lease");
    world.etcd.lease_revoke(lease.id).expect("revokes");
    world.pass(&mut [&mut node], Duration::from_secs(3));
    assert!(node.is_held());
    assert_eq!(world.keys(), ["/hosts/a/record"]);
    // Guarded by the absence: a key that somebody writes meanwhile is judged first.
    let other = Cluster {
        id: Uuid::new_v4(),
        epoch: 1,
    };
    world.put(Key::Cluster, &other);
    let at = world.etcd.revision();
    node.machine
        .hold(Some(hold("it is another one")), world.now);
    world.settle(&mut node);
    assert_eq!(node.machine.status(), &HostStatus::Distrusted);
    assert_eq!(world.etcd.revision(), at);
    // What it was comes back.
    let ours = node.cluster();
    world.put(Key::Cluster, &ours);
    node.machine.hold(None, world.now);
    world.pass(&mut [&mut node], Duration::from_secs(5));
    assert!(node.is_live(), "{:?}", node.machine.status());
    assert_eq!(node.disk.hold, None);
    assert!(world.member("a").is_some());
    let record = world.record("a").expect("is there");
    assert_eq!((record.state, record.hold), (HostState::Up, None));
}

#[test]
fn another_cluster_s_etcd_gets_nothing() {
    let mut world = World::new();
    let mut node = world.joined("a");
    let ours = node.cluster();
    world.etcd = MemEtcd::new();
    let other = Cluster {
        id: Uuid::new_v4(),
        epoch: 9,
    };
    world.put(Key::Cluster, &other);
    let at = world.etcd.revision();
    world.pass(&mut [&mut node], TTL);
    assert_eq!(node.machine.status(), &HostStatus::Distrusted);
    node.machine.accept(other);
    let mut next = world.restart(node, "boot");
    world.pass(&mut [&mut next], TTL);
    assert_eq!(next.machine.status(), &HostStatus::Distrusted);
    assert_eq!(world.etcd.revision(), at);
    assert_eq!(next.cluster(), ours);
}

#[test]
fn a_key_that_nobody_can_read_is_not_written_past() {
    let mut world = World::new();
    let mut node = world.joined("a");
    world.write(Op::put(Key::Cluster, "{"));
    node.machine.hold(Some(hold("it can't be read")), world.now);
    let at = world.etcd.revision();
    world.pass(&mut [&mut node], TTL);
    assert_eq!(node.machine.status(), &HostStatus::Distrusted);
    assert_eq!(world.etcd.revision(), at);
    let mut fresh = world.node("b");
    world.settle(&mut fresh);
    let waits = HostStatus::Joining(Waiting::UnreadableCluster);
    assert_eq!(fresh.machine.status(), &waits);
}

#[test]
fn a_start_on_an_etcd_that_went_back_begins_in_hold_and_so_does_the_next() {
    let mut world = World::new();
    let mut node = world.joined("a");
    node.options.saved = Some(Known {
        cluster: node.cluster(),
        revision: world.etcd.revision() + 2,
    });
    let mut node = world.restart(node, "boot");
    world.settle(&mut node);
    assert!(node.is_held());
    let record = world.record("a").expect("is there");
    assert_eq!(record.state, HostState::Hold);
    assert!(node.disk.hold.is_some());
    // Meanwhile etcd has overtaken what was seen: that proves nothing, and is not asked.
    world.put("/apps/x/y/manifest", &1);
    world.put("/apps/x/y/manifest", &2);
    let mut node = world.restart(node, "boot");
    assert!(node.is_held(), "before anything was asked");
    world.settle(&mut node);
    assert!(node.is_held());
    assert_eq!(world.record("a").map(|r| r.state), Some(HostState::Hold));
    // The view has checked all of it.
    node.machine.hold(None, world.now);
    world.settle(&mut node);
    assert!(node.is_live());
    assert_eq!(node.disk.hold, None);
}

#[test]
fn an_etcd_that_goes_back_under_a_running_host_gets_no_record_but_one_in_hold() {
    let mut world = World::new();
    let mut node = world.joined("a");
    let backup = world.etcd.clone();
    for n in 0..5 {
        world.put("/apps/x/y/manifest", &n);
    }
    // The view has seen it all; then the backup comes back, and with it the end of the lease.
    node.machine.hold(None, world.now);
    let ours = Some((node.disk.session, node.machine.floor()));
    node.machine.observed(world.etcd.revision(), ours);
    world.etcd = backup;
    let lease = node.machine.lease().expect("a lease");
    world.etcd.lease_revoke(lease.id).expect("revokes");
    let held = |world: &World| world.record("a").is_none_or(|r| r.state == HostState::Hold);
    for _ in 0..40 {
        world.pass(&mut [&mut node], TICK);
        assert!(held(&world));
    }
    assert!(node.is_held() && world.record("a").is_some());
}

#[test]
fn a_hold_that_is_told_while_the_record_is_put_is_written_after_it() {
    let mut world = World::new();
    let mut node = world.node("a");
    let put = loop {
        match node.machine.next(world.now) {
            HostStep::Ask(txn) if node.machine.lease().is_some() => break txn,
            _ => world.step(&mut node, true),
        };
    };
    let reply = world.etcd.txn(&put);
    node.machine.hold(Some(hold("restored")), world.now);
    node.machine.answer(HostAnswer::Asked(reply), world.now);
    assert_eq!(world.record("a").map(|r| r.state), Some(HostState::Up));
    world.settle(&mut node);
    assert_eq!(world.record("a").map(|r| r.state), Some(HostState::Hold));
    assert!(node.is_held());
}

#[test]
fn a_hold_is_noted_while_etcd_is_away() {
    let mut world = World::new();
    let mut node = world.joined("a");
    world.away = true;
    node.machine.hold(Some(hold("restored")), world.now);
    world.settle(&mut node);
    assert_eq!(node.disk.hold, Some(hold("restored")));
    assert!(node.is_held());
}

#[test]
fn what_the_view_does_not_find_is_looked_at_again() {
    let mut world = World::new();
    let mut node = world.joined("a");
    let ours = node.cluster();
    node.machine.hold(None, world.now);
    world.write(Op::delete(Key::Cluster));
    // The record has to be written: the machine sees it before the view does.
    let change = HostRecord {
        engine: false,
        ..wanted()
    };
    node.machine.want(change, world.now);
    world.settle(&mut node);
    assert!(node.is_held());
    let writes = node.writes();
    world.pass(&mut [&mut node], DOUBT * 3);
    assert!(node.is_held());
    assert_eq!(node.writes(), writes, "to look is not to write");
    world.put(Key::Cluster, &ours);
    world.pass(&mut [&mut node], DOUBT);
    assert!(node.is_live(), "{:?}", node.machine.status());
}

#[test]
fn a_host_in_hold_that_stops_goes_on_saying_why() {
    let mut world = World::new();
    let mut node = world.joined("a");
    node.machine.hold(Some(hold("restored")), world.now);
    world.settle(&mut node);
    node.machine.stop(Stop::Restart);
    world.settle(&mut node);
    assert_eq!(node.machine.stopped(), Some(Stopped::Noted));
    let record = world.record("a").expect("is there");
    assert_eq!(record.state, HostState::Restarting);
    assert_eq!(record.hold, Some(hold("restored")));
}

// === acceptance ===

#[test]
fn an_accepted_restore_is_noted_and_then_record_and_member_are_put() {
    let mut world = World::new();
    let mut node = world.joined("a");
    node.options.saved = Some(Known {
        cluster: node.cluster(),
        revision: 1_000,
    });
    let accepted = Cluster {
        epoch: 2,
        ..node.cluster()
    };
    // By a host that was in hold, and did not run when it was accepted.
    node.disk.hold = Some(hold("restored"));
    world.etcd = MemEtcd::new();
    world.put(Key::Cluster, &accepted);
    for steps in 1.. {
        let mut world = World {
            etcd: world.etcd.clone(),
            ..world
        };
        let copy = Node {
            machine: world.node("a").machine,
            disk: node.disk.clone(),
            options: node.options.clone(),
            did: Vec::new(),
        };
        let mut node = world.restart(copy, "boot");
        let mut done = 0;
        while done < steps && world.step(&mut node, true) {
            done += 1;
        }
        let ended = done < steps;
        let mut node = world.restart(node, "boot");
        node.machine.hold(None, world.now);
        world.settle(&mut node);
        assert!(node.is_live(), "after {steps}: {:?}", node.machine);
        assert_eq!(world.record("a").map(|r| r.epoch), Some(2));
        assert_eq!(world.member("a"), Some(node.disk.disk.id));
        assert_eq!((node.cluster(), node.disk.hold), (accepted.clone(), None));
        if ended {
            break;
        }
    }
}

#[test]
fn a_running_host_accepts_what_its_view_has_met() {
    let mut world = World::new();
    let mut node = world.joined("a");
    let accepted = Cluster {
        epoch: 2,
        ..node.cluster()
    };
    world.write(Op::delete(Key::Cluster));
    node.machine.hold(Some(hold("the key is gone")), world.now);
    world.settle(&mut node);
    world.put(Key::Cluster, &accepted);
    node.did.clear();
    node.machine.accept(accepted.clone());
    world.settle(&mut node);
    assert!(node.is_live());
    assert_eq!(node.did, ["note Cluster", "note Hold", "write"]);
    let record = world.record("a").expect("is there");
    assert_eq!((record.epoch, record.state), (2, HostState::Up));
    // An earlier epoch is no acceptance.
    let earlier = Cluster {
        epoch: 1,
        ..accepted
    };
    node.machine.accept(earlier);
    assert_eq!(node.machine.next(world.now), HostStep::Wait(None));
}

#[test]
fn an_own_record_from_the_backup_is_waited_for_and_is_no_second_process() {
    let mut world = World::new();
    let first = world.joined("a");
    let (backup, older) = (world.etcd.clone(), first.disk.session);
    let mut node = world.restart(first, "boot");
    world.settle(&mut node);
    let accepted = Cluster {
        epoch: 2,
        ..node.cluster()
    };
    world.etcd = backup;
    world.put(Key::Cluster, &accepted);
    node.machine.accept(accepted);
    world.settle(&mut node);
    assert_eq!(world.record("a").map(|r| r.session), Some(older));
    assert_ne!(node.machine.status(), &HostStatus::Foreign(older));
    world.pass(&mut [&mut node], TTL + Duration::from_secs(1));
    assert!(node.is_live(), "{:?}", node.machine.status());
    assert_eq!(
        world.record("a").map(|r| r.session),
        Some(node.disk.session)
    );
}

// === the end ===

#[test]
fn a_stop_says_restarting_or_takes_the_record_away() {
    let mut world = World::new();
    let mut node = world.joined("a");
    node.machine.stop(Stop::Restart);
    world.settle(&mut node);
    assert_eq!(node.machine.stopped(), Some(Stopped::Noted));
    let record = world.record("a").expect("is there");
    assert_eq!(record.state, HostState::Restarting);
    let mut node = world.restart(node, "another boot");
    world.settle(&mut node);
    assert!(node.is_live(), "at once");
    node.machine.stop(Stop::Shutdown);
    world.settle(&mut node);
    assert_eq!(node.machine.stopped(), Some(Stopped::Noted));
    assert_eq!(world.record("a"), None);
    assert!(world.member("a").is_some(), "who is missing is known");
    let mut node = world.node("b");
    node.machine.stop(Stop::Restart);
    assert_eq!(node.machine.stopped(), Some(Stopped::NotNoted));
}

#[test]
fn a_host_leaves_only_as_long_as_the_operator_wants_it() {
    let mut world = World::new();
    let (mut node, other) = (world.joined("a"), world.joined("b"));
    node.machine.leave();
    world.settle(&mut node);
    assert!(node.is_live(), "nobody wants it");
    let before = world.etcd.revision();
    world.put("/hosts/a/availability", &Availability::Leave);
    node.machine.leave();
    // Between the read and the write they change their mind.
    assert!(world.step(&mut node, true));
    world.put("/hosts/a/availability", &Availability::Active);
    world.settle(&mut node);
    assert!(node.is_live());
    assert_eq!(world.etcd.revision(), before + 2);
    world.put("/hosts/a/availability", &Availability::Leave);
    node.machine.leave();
    world.settle(&mut node);
    assert_eq!(node.machine.status(), &HostStatus::Left);
    assert_eq!(node.machine.lease(), None);
    let b = other.name();
    assert_eq!(
        world.keys(),
        [
            "/dokkaa/cluster".to_owned(),
            format!("/dokkaa/members/{b}"),
            format!("/hosts/{b}/record")
        ]
    );
    assert_eq!(node.machine.next(world.now), HostStep::Wait(None));
}
