//! In-memory `AgentHandle`, for tests of the APIs and of the CLI.

use model::VersionId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::stream;
use manifests::keys::{Key, WATCH_END, WATCH_START};
use manifests::{ContainerId, HostName, InstanceId, ServiceName, SlotId};
use model::events::{Event, Happened, Wanted};
use model::observed::Observed;
use model::records::{
    Capacity, Claim, Cluster, Data, HostRecord, HostState, Member, Peer, Phase, Progress,
    SlotState, Status, Versions,
};
use model::snapshot::Change;
use model::{Directory, Snapshot};
use store::Op;
use store::kv::{KeyRange, Range, Txn};
use store::memory::MemKv;
use tokio::sync::watch;

use super::agent::{AgentHandle, ClusterView, EventStream, HostError, LogRecord, LogStream};
use super::types::{CheckPort, DnsServer, LogOptions, NameReport, Reasons, Unreadable};

/// An agent with an in-memory etcd and no containers.
#[derive(Debug, Clone)]
pub struct MemAgent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: HostName,
    kv: MemKv,
    state: Mutex<AgentState>,
    /// Counts changes of the logs and events.
    logged: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct AgentState {
    blind: bool,
    stale: bool,
    seen: Option<i64>,
    known_at: Option<jiff::Timestamp>,
    hold: Option<String>,
    problems: Vec<String>,
    reasons: Reasons,
    names: BTreeMap<String, NameReport>,
    unreadable: Unreadable,
    cluster: Option<Cluster>,
    observed: Observed,
    volumes: BTreeSet<String>,
    check_port: Option<CheckPort>,
    logs: BTreeMap<SlotId, Log>,
    events: Vec<Event>,
}

#[derive(Debug, Default, Clone)]
struct Log {
    present: Vec<LogRecord>,
    previous: Option<Vec<LogRecord>>,
    ended: bool,
}

impl MemAgent {
    /// The agent of `host`, over this etcd. It has no record there yet.
    pub fn new(host: &str, kv: MemKv) -> Self {
        Self(Arc::new(Inner {
            host: host.parse().expect("a host's name"),
            kv,
            state: Mutex::default(),
            logged: watch::Sender::new(0),
        }))
    }

    /// Its etcd.
    pub fn mem_kv(&self) -> &MemKv {
        &self.0.kv
    }

    /// It has no view yet.
    pub fn set_blind(&self, blind: bool) {
        self.state().blind = blind;
    }

    /// Its view is stale.
    pub fn set_stale(&self, stale: bool) {
        self.state().stale = stale;
    }

    /// Its view is as old as this revision; none: as etcd is.
    pub fn set_seen(&self, revision: Option<i64>) {
        self.state().seen = revision;
    }

    /// It is in hold.
    pub fn set_hold(&self, hold: Option<&str>) {
        self.state().hold = hold.map(ToOwned::to_owned);
    }

    /// When its view was etcd's present state.
    pub fn set_known_at(&self, at: Option<jiff::Timestamp>) {
        self.state().known_at = at;
    }

    /// Its problems.
    pub fn set_problems(&self, problems: &[&str]) {
        self.state().problems = problems.iter().map(ToString::to_string).collect();
    }

    /// Its reasons.
    pub fn set_reasons(&self, reasons: Reasons) {
        self.state().reasons = reasons;
    }

    /// A name in its DNS.
    pub fn set_name(&self, report: NameReport) {
        self.state().names.insert(report.name.clone(), report);
    }

    /// Keys that are no records for its DNS.
    pub fn set_unreadable(&self, unreadable: Unreadable) {
        self.state().unreadable = unreadable;
    }

    /// Its cluster.
    pub fn set_cluster(&self, cluster: Option<Cluster>) {
        self.state().cluster = cluster;
    }

    /// Its containers.
    pub fn set_observed(&self, observed: Observed) {
        self.state().observed = observed;
    }

    /// What it listens on for a check; without it nothing.
    pub fn set_check_port(&self, port: CheckPort) {
        self.state().check_port = Some(port);
    }

    /// Adds a volume by Docker's name.
    pub fn add_volume(&self, name: &str) {
        self.state().volumes.insert(name.to_owned());
    }

    /// Names of its volumes.
    pub fn volumes(&self) -> Vec<String> {
        self.state().volumes.iter().cloned().collect()
    }

    /// Writes a key; its revision.
    pub fn put(&self, key: &Key, value: &[u8]) -> i64 {
        self.write(Op::put(key, value))
    }

    /// Deletes a key.
    pub fn delete(&self, key: &Key) -> i64 {
        self.write(Op::delete(key))
    }

    /// Writes a host's record.
    pub fn put_host(&self, host: &str, peer: Option<Peer>) -> i64 {
        let record = HostRecord {
            id: uuid_of(host),
            session: uuid_of(host),
            epoch: 1,
            state: HostState::Up,
            addr: [10, 0, 0, 1].into(),
            peer,
            api: Vec::new(),
            labels: BTreeMap::new(),
            capacity: Capacity::default(),
            versions: Versions {
                agent: "0.0.0".to_owned(),
                placement: vec![1],
            },
            foreign: 0,
            engine: true,
            docker: None,
            disk: None,
            disk_full: false,
            hold: None,
            problems: Vec::new(),
        };
        let host: HostName = host.parse().expect("a host's name");
        self.write(Op::put_json(Key::HostRecord(host), &record))
    }

    /// Makes a host a member; its machine is that of its record.
    pub fn put_member(&self, host: &str) -> i64 {
        let member = Member { id: uuid_of(host) };
        let host: HostName = host.parse().expect("a host's name");
        self.write(Op::put_json(Key::Member(host), &member))
    }

    /// Pins a slot to the machine of `host` by its volumes, which exist.
    pub fn put_data(&self, slot: &SlotId, host: &str, volumes: &[&str]) -> i64 {
        let data = Data {
            host: host.parse().expect("a host's name"),
            host_id: uuid_of(host),
            existing: volumes.iter().map(|name| (*name).to_owned()).collect(),
            driver: None,
            volumes: volumes.iter().map(|name| (*name).to_owned()).collect(),
        };
        self.write(Op::put_json(Key::Data(slot.clone()), &data))
    }

    /// Writes a manifest and the version of it; its revision.
    pub fn put_manifest(&self, id: &ContainerId, manifest: &str) -> i64 {
        let revision = self.put(&Key::Manifest(id.clone()), manifest.as_bytes());
        let json: serde_json::Value = serde_json::from_str(manifest).expect("a JSON value");
        let version = serde_json::json!({"manifest": json, "image": "sha256:1", "good": false});
        self.put(
            &Key::Version(id.clone(), revision),
            version.to_string().as_bytes(),
        );
        revision
    }

    /// Gives a slot to a host. The instance is named after both.
    pub fn claim(&self, slot: &SlotId, host: &str, version: i64) -> i64 {
        let claim = Claim {
            host: host.parse().expect("a host's name"),
            instance: instance(slot, host),
            version: VersionId(version),
        };
        self.write(Op::put_json(Key::Claim(slot.clone()), &claim))
    }

    /// Says how far the instance of `host` is.
    pub fn put_state(&self, slot: &SlotId, host: &str, state: Phase, ports: &[(&str, u16)]) -> i64 {
        let ports = ports
            .iter()
            .map(|(service, port)| {
                let service: ServiceName = service.parse().expect("a service's name");
                (service, *port)
            })
            .collect();
        let state = SlotState {
            instance: instance(slot, host),
            state,
            addr: [10, 0, 0, 1].into(),
            ports,
        };
        self.write(Op::put_json(Key::State(slot.clone()), &state))
    }

    /// Writes the status of `host`'s instance.
    pub fn put_status(&self, slot: &SlotId, host: &str, change: impl FnOnce(&mut Status)) -> i64 {
        let mut status = Status {
            instance: instance(slot, host),
            host: host.parse().expect("a host's name"),
            progress: Progress::Starting,
            version: VersionId::default(),
            reason: None,
            container_id: None,
            restarts: 0,
            started_at: None,
            log: Vec::new(),
        };
        change(&mut status);
        self.write(Op::put_json(Key::Status(slot.clone()), &status))
    }

    /// The container of a slot on this host writes lines.
    pub fn log(&self, slot: &SlotId, records: impl IntoIterator<Item = LogRecord>) {
        let mut state = self.state();
        let log = state.logs.entry(slot.clone()).or_default();
        log.present.extend(records);
        log.ended = false;
        drop(state);
        self.0.logged.send_modify(|changes| *changes += 1);
    }

    /// The container of a slot ends; its lines are the previous ones of the next.
    pub fn end_log(&self, slot: &SlotId) {
        let mut state = self.state();
        let log = state.logs.entry(slot.clone()).or_default();
        log.previous = Some(std::mem::take(&mut log.present));
        log.ended = true;
        drop(state);
        self.0.logged.send_modify(|changes| *changes += 1);
    }

    /// Adds an event; its id is its time.
    pub fn happens(&self, at: i64, what: Happened) {
        self.state().events.push(Event {
            id: at,
            at,
            times: 1,
            what,
        });
        self.0.logged.send_modify(|changes| *changes += 1);
    }

    /// The next event that is wanted; waits for one.
    async fn next_event(
        self,
        mut wanted: Wanted,
    ) -> Option<(Result<Event, String>, (Self, Wanted))> {
        let mut changes = self.0.logged.subscribe();
        loop {
            changes.borrow_and_update();
            let next = self
                .state()
                .events
                .iter()
                .find(|e| wanted.takes(e))
                .cloned();
            if let Some(event) = next {
                wanted.after = Some(event.id);
                return Some((Ok(event), (self, wanted)));
            }
            if !wanted.follow || changes.changed().await.is_err() {
                return None;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, AgentState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, op: Op) -> i64 {
        self.0.kv.with(|etcd| {
            etcd.txn(&Txn::new(Vec::new(), vec![op]))
                .expect("a write without guards")
                .revision
        })
    }
}

/// The instance that the fake gives a slot on a host.
pub fn instance(slot: &SlotId, host: &str) -> InstanceId {
    let id = &slot.container;
    format!("{}-{}-{}-{host}", id.app, id.container, slot.slot)
        .parse()
        .expect("an instance's name")
}

fn uuid_of(host: &str) -> uuid::Uuid {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(host.bytes()) {
        *to = from;
    }
    uuid::Uuid::from_bytes(bytes)
}

#[async_trait]
impl AgentHandle for MemAgent {
    fn host(&self) -> HostName {
        self.0.host.clone()
    }

    fn view(&self) -> Option<ClusterView> {
        let state = self.state();
        if state.blind {
            return None;
        }
        let range = Range {
            revision: state.seen.unwrap_or_default(),
            ..Range::new(KeyRange::range(WATCH_START, WATCH_END))
        };
        let reply = self
            .0
            .kv
            .with(|etcd| etcd.range(&range))
            .expect("the newest revision is never compacted");
        let mut snapshot = Snapshot::default();
        let changes = reply.kvs.into_iter().map(|kv| Change::Put {
            key: kv.key,
            value: kv.value,
            modified: kv.modified,
            created: kv.created,
        });
        snapshot.apply(changes, reply.revision);
        Some(ClusterView {
            directory: Directory::new(&snapshot),
            snapshot,
            stale: state.stale,
            hold: state.hold.clone(),
            known_at: state.known_at,
        })
    }

    fn problems(&self) -> Vec<String> {
        self.state().problems.clone()
    }

    fn kv(&self) -> Arc<dyn store::Kv> {
        Arc::new(self.0.kv.clone())
    }

    fn reasons(&self) -> Reasons {
        self.state().reasons.clone()
    }

    fn dns(&self) -> DnsServer {
        DnsServer {
            domain: "skydns.local".to_owned(),
            listen: vec![([172, 17, 0, 1], 53).into()],
            unreadable: self.state().unreadable.clone(),
        }
    }

    fn name(&self, name: &str) -> Option<NameReport> {
        self.state().names.get(name).cloned()
    }

    fn cluster(&self) -> Option<Cluster> {
        self.state().cluster.clone()
    }

    fn observed(&self) -> Observed {
        self.state().observed.clone()
    }

    async fn check_port(&self) -> CheckPort {
        self.state().check_port.clone().unwrap_or(CheckPort {
            at: None,
            token: String::new(),
            range: "20000-29999".to_owned(),
            firewall: "iptables or nftables".to_owned(),
        })
    }

    async fn volume_names(&self) -> Result<BTreeSet<String>, HostError> {
        Ok(self.state().volumes.clone())
    }

    async fn remove_volume(&self, name: &str) -> Result<(), HostError> {
        self.state().volumes.remove(name);
        Ok(())
    }

    fn events(&self, wanted: Wanted) -> EventStream {
        Box::pin(stream::unfold((self.clone(), wanted), |(agent, wanted)| {
            agent.next_event(wanted)
        }))
    }

    async fn local_logs(
        &self,
        slot: &SlotId,
        options: &LogOptions,
    ) -> Result<LogStream, HostError> {
        let log = self
            .state()
            .logs
            .get(slot)
            .cloned()
            .ok_or(HostError::NotFound)?;
        let lines = match (options.previous, log.previous) {
            (true, Some(previous)) => previous,
            (true, None) => return Err(HostError::NotFound),
            (false, _) => log.present,
        };
        let read = lines.len();
        let skip = options
            .tail
            .map_or(0, |tail| read.saturating_sub(tail as usize));
        let following = Following {
            agent: self.clone(),
            slot: slot.clone(),
            waiting: lines.into_iter().skip(skip).collect(),
            read,
            follow: options.follow,
            changes: self.0.logged.subscribe(),
        };
        Ok(Box::pin(stream::unfold(following, |mut following| async {
            let record = following.next().await?;
            Some((Ok(record), following))
        })))
    }
}

struct Following {
    agent: MemAgent,
    slot: SlotId,
    waiting: VecDeque<LogRecord>,
    read: usize,
    follow: bool,
    changes: watch::Receiver<u64>,
}

impl Following {
    async fn next(&mut self) -> Option<LogRecord> {
        loop {
            if let Some(record) = self.waiting.pop_front() {
                return Some(record);
            }
            if !self.follow {
                return None;
            }
            self.changes.borrow_and_update();
            let log = self.agent.state().logs.get(&self.slot).cloned()?;
            if log.present.len() > self.read {
                self.waiting
                    .extend(log.present[self.read..].iter().cloned());
                self.read = log.present.len();
            } else if log.ended || self.changes.changed().await.is_err() {
                return None;
            }
        }
    }
}
