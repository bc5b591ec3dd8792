//! The task that keeps the record in etcd as it should be: the only one that writes it after the start.

use std::sync::Arc;
use std::time::Duration;

use conductor_core::Millis;
use conductor_core::records::{Cluster, HostRecord, HostState};
use manifests::keys::Key;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::join::{put_on_lease, record_of, same_cluster};
use super::lease::{Gate, KeepAlive, Lease, LeaseReport};
use super::record::RecordKeeper;
use super::{Clock, Host, HostOptions, HostStatus, Observed, Stop, Stopped, later};
use crate::kv::{Compare, KeyRange, Kv, KvError, Op, OpReply, Txn};

/// Pause after the first attempt that failed; it doubles up to the longest.
const RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// What a join made.
pub(super) struct Own {
    pub(super) cluster: Cluster,
    pub(super) cluster_value: Vec<u8>,
    pub(super) record: HostRecord,
    /// Revision of the record.
    pub(super) modified: i64,
    pub(super) lease: Lease,
    pub(super) clock: Clock,
}

pub(super) struct Writer {
    kv: Arc<dyn Kv>,
    clock: Clock,
    options: HostOptions,
    cluster_value: Vec<u8>,
    session: Uuid,
    keeper: RecordKeeper,
    /// Revision of the record as far as known; 0: it is not there.
    modified: i64,
    lease: Option<Lease>,
    /// The record has been put on the present lease.
    on_lease: bool,
    keep: KeepAlive,
    status: watch::Sender<HostStatus>,
    floor: watch::Sender<i64>,
    not_before: Millis,
    failures: u32,
}

/// What a write found.
enum Wrote {
    Done,
    /// Look again at once.
    Again,
    /// Not now.
    Later,
    /// Never again.
    Foreign(Uuid),
}

impl Writer {
    pub(super) fn start(
        kv: Arc<dyn Kv>,
        options: HostOptions,
        gate: Gate,
        keep: KeepAlive,
        own: Own,
    ) -> Host {
        let (status_sender, status) = watch::channel(HostStatus::Live(own.modified));
        let (floor_sender, floor) = watch::channel(own.modified);
        let (wanted, wanted_receiver) = watch::channel(own.record.clone());
        let (observed, observed_receiver) = watch::channel(None);
        // One: there is one stop.
        let (stop, stop_receiver) = mpsc::channel(1);
        let host = Host {
            name: options.name.clone(),
            session: own.record.session,
            cluster: own.cluster,
            clock: own.clock,
            gate,
            wanted,
            observed,
            status,
            floor,
            seen: keep.revision.clone(),
            lease: keep.report.clone(),
            stop,
        };
        let writer = Self {
            kv,
            clock: own.clock,
            options,
            cluster_value: own.cluster_value,
            session: own.record.session,
            keeper: RecordKeeper::new(own.record, own.clock.now()),
            modified: own.modified,
            lease: Some(own.lease),
            on_lease: true,
            keep,
            status: status_sender,
            floor: floor_sender,
            not_before: Millis(0),
            failures: 0,
        };
        tokio::spawn(writer.run(wanted_receiver, observed_receiver, stop_receiver));
        host
    }

    async fn run(
        mut self,
        mut wanted: watch::Receiver<HostRecord>,
        mut observed: watch::Receiver<Option<Observed>>,
        mut stop: mpsc::Receiver<(Stop, oneshot::Sender<Stopped>)>,
    ) {
        let mut report = self.keep.report.clone();
        loop {
            let now = self.clock.now();
            let due = self.keeper.due().map(|due| due.max(self.not_before));
            // Every arm takes a message and nothing else: dropped halfway, none is lost.
            tokio::select! {
                // None: the host was dropped, and its lease is to end.
                asked = stop.recv() => {
                    if let Some((how, answer)) = asked {
                        let _ = answer.send(self.say_goodbye(how).await);
                    }
                    return;
                }
                Ok(()) = wanted.changed() => {
                    let record = wanted.borrow_and_update().clone();
                    self.keeper.want(record, now);
                }
                Ok(()) = report.changed() => {
                    let LeaseReport { lost, .. } = *report.borrow_and_update();
                    if lost.is_some() && lost == self.lease.map(|l| l.id) {
                        warn!(name = %self.options.name, "the lease has ended: putting a new record");
                        self.lost();
                    }
                }
                Ok(()) = observed.changed() => {
                    let seen = *observed.borrow_and_update();
                    if let Some(foreign) = seen.and_then(|seen| self.observe(seen)) {
                        self.foreign(foreign);
                    }
                }
                () = sleep_until(due, now) => self.write().await,
            }
            if let HostStatus::Foreign(_) = &*self.status.borrow() {
                break;
            }
        }
        // The record is another's: the lease may end, and only a stop is waited for.
        self.keep.lease.send_replace(None);
        if let Some((_, answer)) = stop.recv().await {
            let _ = answer.send(Stopped::NotNoted);
        }
    }

    /// Another's session on the record.
    fn observe(&mut self, seen: Observed) -> Option<Uuid> {
        match seen.record {
            Some((session, modified)) if session != self.session => {
                (modified > self.modified).then_some(session)
            }
            Some(_) => None,
            None => {
                if self.modified != 0 && seen.revision > self.modified {
                    warn!(name = %self.options.name, "the record is gone: putting a new one");
                    self.modified = 0;
                    self.keeper.lost();
                    self.on_lease = false;
                    self.status.send_replace(HostStatus::Lost);
                }
                None
            }
        }
    }

    fn lost(&mut self) {
        self.lease = None;
        self.on_lease = false;
        self.keeper.lost();
        self.status.send_replace(HostStatus::Lost);
    }

    fn foreign(&mut self, session: Uuid) {
        error!(name = %self.options.name, %session, "another process writes this host's record: this identity runs twice; this one writes nothing any more");
        self.status.send_replace(HostStatus::Foreign(session));
    }

    async fn write(&mut self) {
        match self.try_write().await {
            Ok(Wrote::Done) => self.failures = 0,
            Ok(Wrote::Again) => {}
            Ok(Wrote::Later) => self.later("the cluster's key is not the known one"),
            Ok(Wrote::Foreign(session)) => self.foreign(session),
            Err(KvError::LeaseNotFound) => self.lost(),
            Err(error) => self.later(&error.to_string()),
        }
    }

    /// Said once, however long it lasts.
    fn later(&mut self, why: &str) {
        if self.failures == 0 {
            warn!(why, "the host's record can't be written now");
        }
        let pause = RETRY.saturating_mul(1 << self.failures.min(8));
        self.failures += 1;
        self.not_before = self.clock.now() + pause.min(LONGEST_RETRY);
    }

    async fn try_write(&mut self) -> Result<Wrote, KvError> {
        let lease = if let Some(lease) = self.lease {
            lease
        } else {
            let (id, ttl) = self.kv.lease_grant(self.options.ttl).await?;
            let lease = Lease { id, ttl };
            self.lease = Some(lease);
            self.keep.lease.send_replace(Some(lease));
            lease
        };
        let record = self.keeper.wanted().clone();
        let put = put_on_lease(&self.options.name, &record, lease.id);
        let reply = self.kv.txn(self.guarded(put)).await?;
        if reply.succeeded {
            self.modified = reply.revision;
            self.keeper.written(record);
            if !self.on_lease {
                info!(name = %self.options.name, revision = reply.revision, "put a new record");
                self.on_lease = true;
                self.floor.send_replace(reply.revision);
            }
            self.status.send_replace(HostStatus::Live(reply.revision));
            return Ok(Wrote::Done);
        }
        let mut found = reply.replies.into_iter().map(|reply| match reply {
            OpReply::Get(kvs) => kvs,
            _ => Vec::new(),
        });
        let cluster = found.next().unwrap_or_default();
        if cluster.first().map(|kv| &kv.value) != Some(&self.cluster_value) {
            self.status.send_replace(HostStatus::Distrusted);
            return Ok(Wrote::Later);
        }
        let kvs = found.next().unwrap_or_default();
        let found = kvs.first().map_or(0, |kv| kv.modified);
        match record_of(&kvs) {
            Some(record) if record.session != self.session => Ok(Wrote::Foreign(record.session)),
            // An own write whose answer was lost, a record that has ended, or one that nobody can read.
            _ => {
                self.modified = found;
                self.keeper.lost();
                Ok(Wrote::Again)
            }
        }
    }

    fn guarded(&self, op: Op) -> Txn {
        let key = Key::HostRecord(self.options.name.clone());
        Txn {
            guards: vec![
                same_cluster(&self.cluster_value),
                Compare::modified(&key, self.modified),
            ],
            then: vec![op],
            otherwise: vec![
                Op::Get(KeyRange::key(Key::Cluster.to_string())),
                Op::Get(KeyRange::key(key.to_string())),
            ],
        }
    }

    /// Bounded by the caller.
    async fn say_goodbye(&mut self, how: Stop) -> Stopped {
        let noted = match how {
            Stop::Restart => self.say_restarting().await,
            Stop::Shutdown => {
                let gone = Op::delete(Key::HostRecord(self.options.name.clone()));
                self.kv.txn(self.guarded(gone)).await.map(|r| r.succeeded)
            }
        };
        match noted {
            Ok(true) => Stopped::Noted,
            Ok(false) => Stopped::NotNoted,
            Err(error) => {
                warn!(%error, "the host's record could not be changed; it ends with its lease");
                Stopped::NotNoted
            }
        }
    }

    async fn say_restarting(&mut self) -> Result<bool, KvError> {
        let (id, _) = self.kv.lease_grant(self.options.restart_grace).await?;
        let record = HostRecord {
            state: HostState::Restarting,
            ..self.keeper.wanted().clone()
        };
        let put = put_on_lease(&self.options.name, &record, id);
        let reply = self.kv.txn(self.guarded(put)).await?;
        Ok(reply.succeeded)
    }
}

/// For ever, if nothing is due.
async fn sleep_until(due: Option<Millis>, now: Millis) {
    match due {
        Some(due) => tokio::time::sleep_until(later(due, now)).await,
        None => std::future::pending().await,
    }
}
