#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use manifests::keys::Key;
use manifests::manifest::Protocol;
use manifests::{ContainerId, HostName, SlotId};
use model::directory::ServiceId;
use model::events::Kind;
use model::kv::{KeyValue, RangeReply};
use model::observed::{
    ContainerPort, ContainerState, Exit, Listing, ObservedContainer, Ownership, PublishedPorts,
    Readiness, Running, Surroundings,
};
use model::records::{Claim, Cluster, Phase, SlotState};
use model::snapshot::{Change, Touched};
use model::{Action, ActionReport, ActionResult, ModRev, VersionId, Write};
use uuid::Uuid;

use super::*;
use crate::effect::{Saving, Table};
use crate::host::HostStatus;
use crate::input::{EngineUpdate, OpenConnections, ProbeResult, WriteAnswers};
use crate::view::{self, Reason, ViewUpdate};

mod extents;
mod images;

const MANIFEST: &str = r#"{"image": "app", "services": {"http": 80}}"#;

/// The agent of host `a`, the etcd that its view shows, and a clock that is set.
struct Lab {
    agent: Agent,
    now: Now,
    snapshot: Snapshot,
    touched: Touched,
}

impl Lab {
    /// Nothing has reached it.
    fn new() -> Self {
        Self::with(OrphansNote::default())
    }

    fn with(orphans: OrphansNote) -> Self {
        let now = Now {
            mono: Millis(1_000_000),
            wall: 1_000_000,
        };
        let mut made = 0;
        let options = AgentOptions {
            host: Host {
                name: host("a"),
                id: Uuid::from_u128(1),
                surroundings: Surroundings {
                    host_ip: [10, 0, 0, 1].into(),
                    gateway: [172, 17, 0, 1].into(),
                    dns: None,
                    domain: "skydns.local".to_owned(),
                    network: "bridge".to_owned(),
                },
            },
            same_boot: true,
            notes: Notes::default(),
            orphans,
            names: Names(Box::new(move || {
                made += 1;
                format!("i{made}").parse().unwrap()
            })),
            rules: Rules::default(),
        };
        let mut lab = Self {
            agent: Agent::new(options, now),
            now,
            snapshot: Snapshot::default(),
            touched: Touched::default(),
        };
        lab.put_record("a", 1);
        lab
    }

    /// It has joined, follows etcd, has listed its engine, and has done what it had to do.
    fn at_work() -> Self {
        let mut lab = Self::new();
        lab.joins();
        lab.list(vec![]);
        lab.view();
        lab.effects();
        lab.on(Input::Statuses(None));
        lab.effects();
        lab
    }

    fn joins(&mut self) {
        let status = HostStatus::Live(1);
        self.on(Input::Host { status, floor: 1 });
    }

    fn on(&mut self, input: Input) {
        self.agent.on(input, self.now);
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono = self.now.mono + Duration::from_millis(ms);
        self.now.wall += ms as i64;
    }

    // === etcd ===

    fn put(&mut self, key: &Key, value: &[u8]) -> VersionId {
        let modified = self.snapshot.revision + 1;
        let put = Change::Put {
            key: key.to_string(),
            value: value.to_vec(),
            modified,
            created: modified,
        };
        let touched = self.snapshot.apply([put], modified);
        self.touched.extend(touched);
        ModRev(modified).version()
    }

    fn delete(&mut self, key: &Key) {
        let modified = self.snapshot.revision + 1;
        let key = key.to_string();
        let touched = self
            .snapshot
            .apply([Change::Delete { key, modified }], modified);
        self.touched.extend(touched);
    }

    fn put_record(&mut self, name: &str, id: u128) {
        let record = serde_json::json!({
            "id": Uuid::from_u128(id), "session": Uuid::nil(), "epoch": 0, "state": "up",
            "addr": "10.0.0.1", "engine": true,
            "versions": {"agent": "", "placement": planner::placement::VERSIONS},
        });
        let key = Key::HostRecord(host(name));
        self.put(&key, record.to_string().as_bytes());
    }

    fn put_claim(&mut self, slot: &SlotId, of: &str, instance: &str, rev: VersionId) {
        let claim = Claim {
            host: host(of),
            instance: instance.parse().unwrap(),
            version: rev,
        };
        let claim = serde_json::to_vec(&claim).unwrap();
        self.put(&Key::Claim(slot.clone()), &claim);
    }

    /// A manifest whose version is decided; its revision.
    fn put_decided(&mut self, manifest: &str) -> VersionId {
        let rev = self.put(&Key::Manifest(web()), manifest.as_bytes());
        let version = serde_json::json!({
            "manifest": serde_json::from_str::<serde_json::Value>(manifest).unwrap(),
            "image": "sha256:app", "good": true,
        });
        let key = Key::Version(web(), rev.0);
        self.put(&key, version.to_string().as_bytes());
        rev
    }

    /// Slot 0 is this host's, and it has made its instance `one`, which runs.
    fn has_one(&mut self, manifest: &str) -> ObservedContainer {
        let rev = self.put_decided(manifest);
        self.put_claim(&web().slot(0), "a", "one", rev);
        let versions = &self.snapshot.containers.get(&web()).unwrap().versions;
        let hash = versions.values().next().unwrap().hash.clone().unwrap();
        let mut one = container("one", hash);
        one.owner.host_hash = self.agent.host.surroundings.hash(&one.ports);
        self.on(Input::Done(ActionReport {
            result: ActionResult::Prepared {
                slot: web().slot(0),
                instance: "one".parse().unwrap(),
                rev,
                before: false,
            },
            container: Some(Box::new(one.clone())),
            gone: None,
        }));
        one
    }

    fn update(&mut self) -> ViewUpdate {
        ViewUpdate {
            snapshot: self.snapshot.clone(),
            touched: std::mem::take(&mut self.touched),
            resync: false,
            complete: true,
            stale: false,
            trust: view::Trust::Trusted,
            accepted: None,
        }
    }

    /// The view shows etcd as it is.
    fn view(&mut self) {
        let update = self.update();
        self.on(Input::View(Box::new(update)));
    }

    fn view_is(&mut self, change: impl FnOnce(&mut ViewUpdate)) {
        let mut update = self.update();
        change(&mut update);
        self.on(Input::View(Box::new(update)));
    }

    fn answer(&mut self, writes: Vec<Write>, held: Option<bool>) {
        let seen = self.snapshot.revision;
        self.on(Input::Wrote(WriteAnswers {
            writes: writes.into_iter().map(|write| (write, held)).collect(),
            revision: seen + 1,
            seen,
        }));
    }

    // === the engine ===

    fn list(&mut self, labelled: Vec<ObservedContainer>) {
        self.on(Input::Engine(EngineUpdate::Asked(Inspection::List)));
        self.on(Input::Engine(EngineUpdate::List(Listing {
            labelled,
            ..Listing::default()
        })));
    }

    // === what it does ===

    /// All effects, each carried out in no time; what is to be saved is saved.
    fn effects(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some(effect) = self.agent.next(self.now) {
            if let Effect::Save(saving) = &effect {
                self.on(Input::Saved(file(saving), Ok(())));
            }
            effects.push(effect);
        }
        effects
    }

    /// Writes and actions.
    fn does(&mut self) -> Vec<String> {
        self.effects().iter().flat_map(kinds).collect()
    }

    fn plans(&self) -> u64 {
        self.agent.counts().plans
    }

    /// It plans now.
    fn plans_now(&mut self) -> bool {
        let before = self.plans();
        self.effects();
        self.plans() > before
    }
}

fn kinds(effect: &Effect) -> Vec<String> {
    match effect {
        Effect::Write { writes, .. } => writes.iter().map(|w| w.kind.to_string()).collect(),
        Effect::Act(action) => vec![action.kind().to_owned()],
        _ => Vec::new(),
    }
}

fn writes(effects: Vec<Effect>) -> Vec<Write> {
    let of = |effect| match effect {
        Effect::Write { writes, .. } => writes,
        _ => Vec::new(),
    };
    effects.into_iter().flat_map(of).collect()
}

fn logs(effects: &[Effect]) -> Vec<&AgentLog> {
    let mut lines = Vec::new();
    for effect in effects {
        if let Effect::Log(line) = effect {
            lines.push(line);
        }
    }
    lines
}

fn file(saving: &Saving) -> StateFile {
    match saving {
        Saving::Orphans(_) => StateFile::Orphans,
        Saving::Instances(_) => StateFile::Instances,
    }
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn web() -> ContainerId {
    "shop/web".parse().unwrap()
}

/// A running container of `shop/web`'s slot 0.
fn container(instance: &str, manifest_hash: String) -> ObservedContainer {
    let owner = Ownership {
        before: None,
        cluster: Uuid::nil(),
        slot: web().slot(0),
        instance: instance.parse().unwrap(),
        manifest_hash,
        host_hash: String::new(),
    };
    ObservedContainer {
        docker_id: format!("docker-{instance}"),
        name: owner.slot.docker_name(),
        owner,
        state: ContainerState::Running(Running {
            pid: 1,
            started_at: 1,
            health: None,
        }),
        addr: Some([172, 17, 0, 2].into()),
        ports: PublishedPorts::new(),
        limits: model::observed::Limits::default(),
        check: None,
        image: String::new(),
        image_id: String::new(),
        driver: String::new(),
        created_at: 1,
    }
}

fn crashed(container: &ObservedContainer, at: i64) -> ObservedContainer {
    ObservedContainer {
        state: ContainerState::Exited(Exit {
            code: 1,
            at,
            ..Exit::default()
        }),
        ..container.clone()
    }
}

// === when it plans ===

#[test]
fn nothing_is_planned_before_etcd_and_the_engine_are_known() {
    let mut lab = Lab::new();
    lab.joins();
    lab.view();
    assert!(!lab.plans_now());
    lab.list(vec![]);
    assert!(lab.plans_now());
}

#[test]
fn what_an_earlier_agent_said_is_read_before_anything_is_written() {
    let mut lab = Lab::new();
    lab.put(&Key::Manifest(web()), MANIFEST.as_bytes());
    lab.list(vec![]);
    lab.view();
    assert_eq!(lab.does(), [""; 0], "it has not joined");
    lab.joins();
    let effects = lab.effects();
    let reads = |effect: &&Effect| matches!(effect, Effect::ReadStatuses(_));
    assert_eq!(effects.iter().filter(reads).count(), 1);
    assert!(effects.iter().flat_map(kinds).next().is_none());
    let status = serde_json::json!({
        "host": "a", "instance": "old", "progress": "ready", "restarts": 3,
    });
    let kv = KeyValue {
        key: Key::Status(web().slot(0)).to_string(),
        value: status.to_string().into_bytes(),
        created: 1,
        modified: 1,
        lease: 0,
        version: 1,
    };
    lab.on(Input::Statuses(Some(RangeReply {
        kvs: vec![kv],
        revision: 1,
        more: false,
        count: 1,
    })));
    let memory = &lab.agent.memory().slots[&web().slot(0)];
    assert_eq!(memory.earlier_restarts, Some(("old".parse().unwrap(), 3)));
    assert_eq!(lab.does(), ["claim"]);
}

#[test]
fn what_does_not_concern_this_host_is_gathered_and_what_does_is_planned_at_once() {
    let mut lab = Lab::at_work();
    lab.put_record("b", 2);
    let rev = lab.put(&Key::Manifest(web()), MANIFEST.as_bytes());
    lab.put_claim(&web().slot(0), "b", "other", rev);
    lab.view();
    assert!(lab.plans_now(), "hosts and manifests concern everyone");

    for _ in 0..3 {
        lab.put_claim(&web().slot(0), "b", "another", rev);
        lab.view();
        assert!(!lab.plans_now(), "another live host has it");
        lab.pass(50);
    }
    lab.pass(99);
    assert!(!lab.plans_now());
    lab.pass(1);
    assert!(lab.plans_now(), "250 ms after the first of them");

    lab.put_claim(&web().slot(0), "a", "own", rev);
    lab.view();
    assert!(lab.plans_now());
}

#[test]
fn a_resync_and_another_trust_are_planned_at_once() {
    let mut lab = Lab::at_work();
    lab.put_record("b", 2);
    let rev = lab.put(&Key::Manifest(web()), MANIFEST.as_bytes());
    lab.put_claim(&web().slot(0), "b", "other", rev);
    lab.view();
    lab.effects();
    let mut quiet = |change: fn(&mut ViewUpdate)| {
        lab.put_claim(&web().slot(0), "b", "another", rev);
        lab.view_is(change);
        let planned = lab.plans_now();
        (planned, lab.agent.planned_under())
    };
    assert!(!quiet(|_| {}).0);
    assert_eq!(quiet(|update| update.resync = true), (true, Trust::Full));
    let stale = quiet(|update| update.stale = true);
    assert_eq!(stale, (true, Trust::RestartsOnly));
    assert_eq!(quiet(|_| {}), (true, Trust::Full));
}

#[test]
fn a_plan_that_took_long_is_followed_by_a_rest() {
    for (took, rest) in [(5, 0), (40, 80), (1_000, 500)] {
        let mut lab = Lab::at_work();
        lab.put_record("b", 2);
        lab.view();
        let before = lab.plans();
        while lab.plans() == before {
            assert!(lab.agent.next(lab.now).is_some());
        }
        lab.pass(took);
        lab.effects();
        let before = lab.plans();
        lab.put_record("c", 3);
        lab.view();
        if rest > 0 {
            lab.pass(rest - 1);
            lab.effects();
            assert_eq!(lab.plans(), before, "it took {took} ms");
            lab.pass(1);
        }
        assert!(lab.plans_now(), "it took {took} ms");
    }
}

#[test]
fn it_plans_now_and_then_whatever_happens() {
    let mut lab = Lab::at_work();
    let effects = lab.effects();
    assert!(effects.is_empty(), "{effects:?}");
    lab.pass(4_999);
    assert!(!lab.plans_now());
    lab.pass(1);
    assert!(lab.plans_now());
}

// === how far etcd is trusted ===

#[test]
fn in_hold_only_what_crashed_is_started_again() {
    let mut lab = Lab::at_work();
    let own = lab.has_one(MANIFEST);
    lab.put(
        &Key::Manifest("shop/db".parse().unwrap()),
        MANIFEST.as_bytes(),
    );
    lab.view_is(|update| update.trust = view::Trust::Distrust(Reason::Held));
    lab.list(vec![own.clone()]);
    assert_eq!(lab.does(), [""; 0]);
    lab.list(vec![crashed(&own, 5)]);
    lab.effects();
    lab.pass(1_000);
    assert_eq!(lab.does(), ["start"]);
    assert_eq!(lab.agent.planned_under(), Trust::RestartsOnly);

    lab.view();
    let does = lab.does();
    assert!(does.contains(&"claim".to_owned()), "{does:?}");
}

#[test]
fn a_view_without_the_own_record_is_not_planned_by() {
    let mut lab = Lab::at_work();
    let floor = lab.snapshot.revision + 1;
    let status = HostStatus::Live(floor);
    lab.on(Input::Host { status, floor });
    lab.list(vec![]);
    assert!(lab.plans_now());
    assert_eq!(lab.agent.planned_under(), Trust::RestartsOnly);
    lab.put_record("a", 1);
    lab.view();
    assert!(lab.plans_now());
    assert_eq!(lab.agent.planned_under(), Trust::Full);

    let status = HostStatus::Foreign(Uuid::nil());
    lab.on(Input::Host { status, floor });
    assert!(lab.plans_now());
    assert_eq!(lab.agent.planned_under(), Trust::RestartsOnly);
}

#[test]
fn after_a_write_without_an_answer_nothing_is_written_for_a_second() {
    let mut lab = Lab::at_work();
    lab.put(&Key::Manifest(web()), MANIFEST.as_bytes());
    lab.view();
    let claim = writes(lab.effects());
    lab.answer(claim, None);
    assert!(lab.plans_now());
    assert_eq!(lab.agent.planned_under(), Trust::RestartsOnly);
    lab.pass(999);
    assert_eq!(lab.does(), [""; 0]);
    lab.pass(1);
    assert_eq!(lab.does(), ["claim"]);
}

#[test]
fn a_lost_write_is_planned_again_soon() {
    let mut lab = Lab::at_work();
    lab.put(&Key::Manifest(web()), MANIFEST.as_bytes());
    lab.view();
    let claim = writes(lab.effects());
    lab.answer(claim, Some(false));
    assert_eq!(lab.does(), [""; 0]);
    lab.pass(250);
    assert_eq!(lab.does(), ["claim"]);
    assert_eq!(lab.agent.counts().writes_lost, 1);
}

#[test]
fn a_start_is_no_warning_and_what_lasts_is() {
    let warns = |effects: &[Effect]| logs(effects).contains(&&AgentLog::NotFollowed);
    let mut lab = Lab::new();
    lab.list(vec![]);
    lab.view_is(|update| update.complete = false);
    assert!(!warns(&lab.effects()));
    lab.pass(5_000);
    assert!(warns(&lab.effects()));
    lab.pass(5_000);
    assert!(!warns(&lab.effects()), "once");
    lab.view();
    let followed = AgentLog::Followed(lab.snapshot.revision);
    assert!(logs(&lab.effects()).contains(&&followed));
    lab.view_is(|update| update.stale = true);
    assert!(warns(&lab.effects()), "at once");

    // A host that joins: its view is incomplete until its record is seen.
    let mut lab = Lab::new();
    lab.list(vec![]);
    lab.view();
    lab.view_is(|update| update.complete = false);
    assert!(!warns(&lab.effects()), "it only joins");
    lab.pass(5_000);
    assert!(warns(&lab.effects()), "it does not join");
}

// === the disk ===

#[test]
fn what_an_accepted_restore_left_is_on_disk_before_anything_is_planned() {
    for on_disk in [true, false] {
        let mut lab = Lab::at_work();
        let own = lab.has_one(MANIFEST);
        lab.view();
        lab.list(vec![own]);
        lab.effects();

        // It has another history, without the manifest.
        lab.snapshot = Snapshot::default();
        lab.put_record("a", 1);
        let cluster = Cluster {
            id: Uuid::nil(),
            epoch: 2,
        };
        let value = serde_json::to_vec(&cluster).unwrap();
        lab.put(&Key::Cluster, &value);
        lab.view_is(|update| {
            update.resync = true;
            update.accepted = Some(cluster);
        });
        let mut saved = Vec::new();
        while let Some(effect) = lab.agent.next(lab.now) {
            let is_kept = saved
                .last()
                .is_some_and(|note: &OrphansNote| !note.accepted);
            assert!(is_kept || kinds(&effect).is_empty(), "{effect:?}");
            assert!(!kinds(&effect).contains(&"stop".to_owned()), "{effect:?}");
            match effect {
                Effect::Save(Saving::Orphans(note)) => {
                    let result = on_disk.then_some(()).ok_or("full".to_owned());
                    lab.on(Input::Saved(StateFile::Orphans, result));
                    saved.push(note);
                }
                // The record says that the restore is accepted only when that is noted.
                Effect::Follow(_) => assert!(saved.iter().any(|note| note.accepted)),
                _ => {}
            }
            if !on_disk {
                break;
            }
        }
        if on_disk {
            let kept = &saved.last().unwrap().kept;
            assert!(kept.contains_key(&"one".parse().unwrap()));
            assert_eq!(lab.agent.planned_under(), Trust::Full);
            lab.pass(1_000);
            let does = lab.does();
            assert!(!does.contains(&"stop".to_owned()), "{does:?}");
        } else {
            while let Some(effect) = lab.agent.next(lab.now) {
                assert!(kinds(&effect).is_empty(), "{effect:?}");
                if let Effect::Save(_) = effect {
                    lab.on(Input::Saved(StateFile::Orphans, Err("full".to_owned())));
                }
            }
            assert_eq!(lab.agent.planned_under(), Trust::RestartsOnly);
        }
    }
}

#[test]
fn an_instance_is_noted_before_it_is_made() {
    let mut lab = Lab::at_work();
    let rev = lab.put_decided(MANIFEST);
    lab.view();
    let claim = writes(lab.effects());
    lab.answer(claim, Some(true));
    lab.put_claim(&web().slot(0), "a", "i1", rev);
    lab.view();
    let effects = lab.effects();
    let noted = |effect: &Effect| match effect {
        Effect::Save(Saving::Instances(notes)) => {
            serde_json::to_string(notes).unwrap().contains("i1")
        }
        _ => false,
    };
    let makes = |effect: &Effect| matches!(effect, Effect::Act(Action::Prepare(_)));
    let noted = effects.iter().position(noted).unwrap();
    let makes = effects.iter().position(makes).unwrap();
    assert!(noted < makes);
}

// === what follows from what is observed ===

#[test]
fn a_running_instance_is_probed_until_it_ends() {
    let mut lab = Lab::at_work();
    let own = lab.has_one(MANIFEST);
    lab.view();
    lab.list(vec![own.clone()]);
    let probes = |effects: &[Effect]| {
        let of = |effect: &Effect| match effect {
            Effect::Probe(probe) => Some(format!("probe {}", probe.container.owner.instance)),
            Effect::EndProbe(instance) => Some(format!("end {instance}")),
            Effect::ReadLastLines { instance, .. } => Some(format!("lines {instance}")),
            _ => None,
        };
        effects.iter().filter_map(of).collect::<Vec<_>>()
    };
    assert_eq!(probes(&lab.effects()), ["probe one"]);
    lab.list(vec![own.clone()]);
    assert_eq!(probes(&lab.effects()), [""; 0]);
    lab.list(vec![crashed(&own, 5)]);
    assert_eq!(probes(&lab.effects()), ["lines one", "end one"]);
    assert_eq!(lab.agent.counts().restarts, 1);
}

#[test]
fn last_lines_of_what_is_not_ready_in_time_are_read_once() {
    let mut lab = Lab::at_work();
    let own = lab.has_one(r#"{"image": "app", "services": {"http": 80}, "start_timeout": "5s"}"#);
    lab.view();
    lab.list(vec![own]);
    let reads = |lab: &mut Lab| {
        let effects = lab.effects();
        let is_read = |effect: &&Effect| matches!(effect, Effect::ReadLastLines { .. });
        effects.iter().filter(is_read).count()
    };
    assert_eq!(reads(&mut lab), 0);
    lab.pass(4_900);
    assert_eq!(reads(&mut lab), 0);
    lab.pass(100);
    assert_eq!(reads(&mut lab), 1);
    lab.put(&Key::Manifest("shop/other".parse().unwrap()), b"{}");
    lab.view();
    lab.pass(5_000);
    assert_eq!(reads(&mut lab), 0);
}

#[test]
fn what_affects_no_container_is_probed_as_the_manifest_says_it_now() {
    let mut lab = Lab::at_work();
    let own = lab.has_one(MANIFEST);
    lab.view();
    lab.list(vec![own]);
    lab.effects();
    let ready = r#"{"image": "app", "services": {"http": {"port": 80, "ready": "started"}}}"#;
    lab.put(&Key::Manifest(web()), ready.as_bytes());
    lab.view();
    let effects = lab.effects();
    let mut probes = effects.iter().filter_map(|effect| match effect {
        Effect::Probe(probe) => Some(probe),
        _ => None,
    });
    let probe = probes.next().unwrap();
    let service = probe.manifest.services.values().next().unwrap();
    assert_eq!(service.ready, manifests::manifest::Ready::Started);
    assert!(probes.next().is_none());
}

#[test]
fn the_end_of_a_manifest_is_told_with_what_it_ends() {
    let mut lab = Lab::at_work();
    lab.has_one(MANIFEST);
    lab.view();
    lab.effects();
    let leaves = |lab: &mut Lab| {
        let state = SlotState {
            instance: "one".parse().unwrap(),
            state: Phase::Leaving,
            addr: [10, 0, 0, 1].into(),
            ports: BTreeMap::new(),
        };
        let write = Write::state(web().slot(0), state, ModRev(3), ModRev::ABSENT);
        lab.answer(vec![write], Some(true));
        let told = lab.effects().into_iter().filter_map(|effect| match effect {
            Effect::Record(happened) => Some(happened),
            _ => None,
        });
        told.flatten().map(|one| one.message).collect::<Vec<_>>()
    };
    assert_eq!(leaves(&mut lab), ["takes no new connections"]);
    let modified = lab.snapshot.revision + 1;
    let key = Key::Manifest(web()).to_string();
    let deleted = Change::Delete { key, modified };
    let touched = lab.snapshot.apply([deleted], modified);
    lab.touched.extend(touched);
    lab.view();
    lab.effects();
    let gone = "its manifest is gone: takes no new connections";
    assert_eq!(leaves(&mut lab), [gone]);
}

#[test]
fn connections_of_what_leaves_are_counted_until_they_are_gone() {
    let mut lab = Lab::at_work();
    let mut own = lab.has_one(MANIFEST);
    let port = ContainerPort {
        port: 80,
        protocol: Protocol::Tcp,
    };
    own.ports = [(port, ([10, 0, 0, 1], 20_000).into())].into();
    own.owner.host_hash = lab.agent.host.surroundings.hash(&own.ports);
    lab.view();
    lab.list(vec![own.clone()]);
    let counts = |effects: &[Effect]| {
        let of = |effect: &Effect| match effect {
            Effect::CountConnections(counted) => {
                Some(format!("count {} {:?}", counted.instance, counted.ports))
            }
            Effect::EndCount(instance) => Some(format!("end {instance}")),
            Effect::Act(action) => Some(action.kind().to_owned()),
            _ => None,
        };
        effects.iter().filter_map(of).collect::<Vec<_>>()
    };
    let open = |lab: &mut Lab, started_at: i64, open: Option<u32>| {
        lab.on(Input::Connections(OpenConnections {
            instance: "one".parse().unwrap(),
            started_at,
            open,
        }));
        lab.pass(200);
        counts(&lab.effects())
    };
    let delete = |lab: &mut Lab| {
        let modified = lab.snapshot.revision + 1;
        let key = Key::Manifest(web()).to_string();
        let touched = lab
            .snapshot
            .apply([Change::Delete { key, modified }], modified);
        lab.touched.extend(touched);
        lab.view();
    };
    assert_eq!(counts(&lab.effects()), [""; 0]);
    delete(&mut lab);
    assert_eq!(counts(&lab.effects()), [""; 0], "a TTL first");
    lab.pass(1_000);
    assert_eq!(counts(&lab.effects()), ["count one {80}"]);
    assert_eq!(open(&mut lab, 1, Some(3)), [""; 0]);
    assert_eq!(open(&mut lab, 1, None), [""; 0], "nobody knows");
    assert_eq!(open(&mut lab, 7, Some(0)), [""; 0], "of another start");
    // It stays after all, and leaves again.
    lab.put(&Key::Manifest(web()), MANIFEST.as_bytes());
    lab.view();
    assert_eq!(counts(&lab.effects()), ["end one"]);
    assert_eq!(open(&mut lab, 1, Some(0)), [""; 0], "not asked for");
    delete(&mut lab);
    lab.effects();
    lab.pass(1_000);
    assert_eq!(counts(&lab.effects()), ["count one {80}"]);
    assert_eq!(open(&mut lab, 1, Some(2)), [""; 0]);
    assert_eq!(open(&mut lab, 1, Some(0)), ["stop"]);
}

#[test]
fn the_link_ports_of_what_is_made_are_known_when_it_is_started() {
    let mut lab = Lab::at_work();
    let mut own = lab.has_one(r#"{"image": "app", "links": ["db"]}"#);
    let state = std::mem::replace(
        &mut own.state,
        ContainerState::Created {
            error: String::new(),
        },
    );
    lab.view();
    lab.list(vec![own.clone()]);
    let effects = lab.effects();
    assert!(effects.iter().any(|effect| {
        matches!(effect, Effect::Publish(Table::AwaitedLinks(ports)) if ports.len() == 1)
    }));
    // In the same breath: the engine takes longer to start it than a port to be bound.
    let starts = |effect: &Effect| matches!(effect, Effect::Act(Action::Start { .. }));
    assert!(effects.iter().any(starts));
    own.state = state;
    lab.list(vec![own]);
    let effects = lab.effects();
    assert!(effects.iter().any(|effect| {
        matches!(effect, Effect::Publish(Table::AwaitedLinks(ports)) if ports.is_empty())
    }));
}

#[test]
fn an_instance_whose_link_port_another_process_holds_is_not_ready() {
    let mut lab = Lab::at_work();
    let one: InstanceId = "one".parse().unwrap();
    let own = lab.has_one(r#"{"image": "app", "services": {"http": 80}, "links": ["db"]}"#);
    lab.view();
    lab.list(vec![own]);
    lab.on(Input::Probed(ProbeResult {
        instance: one.clone(),
        started_at: 1,
        readiness: Readiness::Ready,
        reason: None,
    }));
    let effects = lab.effects();
    let callers = effects.iter().find_map(|effect| match effect {
        Effect::Publish(Table::Callers(callers)) => Some(callers.clone()),
        _ => None,
    });
    let callers = callers.unwrap();
    let (port, service) = callers.values().next().unwrap().links[0].clone();
    let app = web().app;
    let db = "db".parse().unwrap();
    assert_eq!(service, ServiceId { app, service: db });

    let mut hold = |port: u16| {
        let held = BTreeMap::from([(port, "172.17.0.1 is taken by squatter".to_owned())]);
        lab.on(Input::HeldLinks(held));
        lab.effects();
        lab.agent.observed_now().readiness(&one).clone()
    };
    assert_eq!(hold(port + 1), Readiness::Ready);
    let Readiness::Unready(why) = hold(port) else {
        panic!("it is ready");
    };
    assert!(why.contains("db") && why.contains("squatter"), "{why}");
}

#[test]
fn what_happens_on_the_engine_is_recorded_once() {
    let mut lab = Lab::at_work();
    let own = lab.has_one(MANIFEST);
    lab.view();
    lab.list(vec![own.clone()]);
    lab.effects();
    let at = lab.now.wall + 1;
    lab.list(vec![crashed(&own, at)]);
    assert_eq!(recorded(lab.effects()), [Kind::Exited]);
    lab.list(vec![crashed(&own, at)]);
    assert_eq!(recorded(lab.effects()), []);
}

#[test]
fn that_another_host_is_missing_is_recorded_from_a_trusted_view_alone() {
    let mut lab = Lab::at_work();
    let member = serde_json::json!({"id": Uuid::from_u128(2)}).to_string();
    lab.put(&Key::Member(host("b")), member.as_bytes());
    lab.put_record("b", 2);
    lab.view();
    assert_eq!(recorded(lab.effects()), [], "it has joined");
    lab.delete(&Key::HostRecord(host("b")));
    lab.view();
    assert_eq!(recorded(lab.effects()), [Kind::HostMissing]);
    lab.put_record("b", 2);
    lab.view_is(|update| update.stale = true);
    assert_eq!(recorded(lab.effects()), []);
}

/// The kinds of what these effects record.
fn recorded(effects: Vec<Effect>) -> Vec<Kind> {
    let of = |effect| match effect {
        Effect::Record(happened) => happened,
        _ => Vec::new(),
    };
    let kinds = effects.into_iter().flat_map(of).map(|what| what.kind);
    kinds.collect()
}
