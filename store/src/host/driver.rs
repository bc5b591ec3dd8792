//! Carries out what `HostMachine` says, on a `Kv` and a state directory.

use std::sync::Arc;
use std::time::Duration;

use manifests::HostName;
use model::Millis;
use model::records::{Cluster, Hold, HostRecord};
use model::snapshot::Rev;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, warn};
use uuid::Uuid;

use super::disk::StateDir;
use super::lease::{Gate, KeepAlive, Keeper, LeaseReport};
use super::{
    Clock, HostAnswer, HostMachine, HostOptions, HostStatus, HostStep, KvFactory, Stop, Stopped,
    Verdict,
};
use crate::kv::Kv;
use crate::view::{Reason, Trust, ViewUpdate};

/// How long `Host::stop` takes at most, whatever etcd does.
const STOP: Duration = Duration::from_millis(800);

/// This host in the cluster, from before it has joined. Dropped, it lets its lease end.
#[derive(Debug)]
pub struct Host {
    name: HostName,
    session: Uuid,
    same_boot: bool,
    clock: Clock,
    gate: Gate,
    inputs: watch::Sender<Inputs>,
    status: watch::Receiver<HostStatus>,
    cluster: watch::Receiver<Option<Cluster>>,
    floor: watch::Receiver<i64>,
    seen: watch::Receiver<i64>,
    lease: watch::Receiver<LeaseReport>,
    stop: mpsc::Sender<(Stop, oneshot::Sender<Stopped>)>,
}

/// What others tell the machine. Each is fed when it is another than before.
#[derive(Debug, Clone, PartialEq)]
struct Inputs {
    wanted: HostRecord,
    observed: Option<Observed>,
    word: Verdict,
    accepted: Option<Cluster>,
    leave: bool,
}

/// The own record as a view showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Observed {
    /// The view's revision.
    revision: i64,
    /// Session and revision of the record; none if it was not there.
    record: Option<(Uuid, i64)>,
}

impl Host {
    /// Begins to join, and returns at once; `status` says how far it is.
    ///
    /// `record` says what is to stand in the record; identity, session, epoch, state and hold are set here. The host
    /// takes or makes the cluster's key, waits for an old record to end, and keeps its lease and its record by itself.
    pub fn start(
        kv: Arc<dyn Kv>,
        keep_alive: KvFactory,
        dir: Arc<StateDir>,
        options: HostOptions,
        record: HostRecord,
    ) -> std::io::Result<Self> {
        let keeper = Keeper::Thread(keep_alive);
        Self::start_with(kv, keeper, Clock::machine(), dir, options, record)
    }

    /// As `start`, for simulations: time is `clock`, and the lease is kept by a task of this runtime.
    pub fn start_simulated(
        kv: Arc<dyn Kv>,
        clock: Clock,
        dir: Arc<StateDir>,
        options: HostOptions,
        record: HostRecord,
    ) -> std::io::Result<Self> {
        let keeper = Keeper::Task(kv.clone());
        Self::start_with(kv, keeper, clock, dir, options, record)
    }

    fn start_with(
        kv: Arc<dyn Kv>,
        keeper: Keeper,
        clock: Clock,
        dir: Arc<StateDir>,
        options: HostOptions,
        record: HostRecord,
    ) -> std::io::Result<Self> {
        let gate = Gate::default();
        gate.stamp(clock.now());
        let keep = KeepAlive::start(keeper, clock, gate.clone())?;
        let fed = Inputs {
            wanted: record.clone(),
            observed: None,
            word: Verdict::Nothing,
            accepted: None,
            leave: false,
        };
        let name = options.name.clone();
        let machine = HostMachine::new(options, record, dir.facts(), clock.now());
        let (status_out, status) = watch::channel(machine.status().clone());
        let (cluster_out, cluster) = watch::channel(machine.cluster().cloned());
        let (floor_out, floor) = watch::channel(machine.floor());
        let (inputs, inputs_out) = watch::channel(fed.clone());
        // One: there is one stop.
        let (stop, stop_out) = mpsc::channel(1);
        let host = Self {
            name,
            session: dir.session(),
            same_boot: dir.same_boot(),
            clock,
            gate,
            inputs,
            status,
            cluster,
            floor,
            seen: keep.revision.clone(),
            lease: keep.report.clone(),
            stop,
        };
        let driver = Driver {
            kv,
            dir,
            clock,
            machine,
            keep,
            fed,
            status: status_out,
            cluster: cluster_out,
            floor: floor_out,
            failing: false,
        };
        tokio::spawn(driver.run(inputs_out, stop_out));
        Ok(host)
    }

    /// Its name.
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// The session of this process.
    pub fn session(&self) -> Uuid {
        self.session
    }

    /// The process before this one ran in the same boot of the machine: others can't have its slots for long.
    pub fn same_boot(&self) -> bool {
        self.same_boot
    }

    /// The cluster that it belongs to; none before a first start has met it.
    pub fn cluster(&self) -> watch::Receiver<Option<Cluster>> {
        self.cluster.clone()
    }

    /// How it stands.
    pub fn status(&self) -> watch::Receiver<HostStatus> {
        self.status.clone()
    }

    /// Newest revision in keep-alive answers: for `ViewInputs::seen`.
    pub fn seen(&self) -> watch::Receiver<i64> {
        self.seen.clone()
    }

    /// Revision at which the record was put anew last: for `ViewInputs::floor`.
    pub fn floor(&self) -> watch::Receiver<i64> {
        self.floor.clone()
    }

    /// When the lease was renewed last.
    pub fn lease(&self) -> watch::Receiver<LeaseReport> {
        self.lease.clone()
    }

    /// The main loop finished a pass; to be called at least every few seconds, or the lease ends.
    pub fn pass_done(&self) {
        self.gate.stamp(self.clock.now());
    }

    /// The clock that it lives by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The gate, for a loop that does not own the host.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Changes what the record should say. Identity, session, epoch, state and hold are not the caller's.
    pub fn update_record(&self, change: impl FnOnce(&mut HostRecord)) {
        self.inputs.send_if_modified(|inputs| {
            let before = inputs.wanted.clone();
            change(&mut inputs.wanted);
            inputs.wanted != before
        });
    }

    /// Takes from an update of the view whether etcd is believed, which cluster was accepted, and how the own record
    /// looks.
    pub fn follow(&self, update: &ViewUpdate) {
        if let Some(cluster) = &update.accepted {
            self.accept(cluster.clone());
        }
        match &update.trust {
            // What the disk says, and the machine knows it with its reason.
            Trust::Distrust(Reason::Held) => {}
            Trust::Distrust(reason) => self.hold(Some(Hold {
                reason: reason.to_string(),
                shared: reason.is_shared(),
            })),
            Trust::Trusted if update.complete => {
                self.hold(None);
                let record = update.snapshot.record(&self.name);
                self.observe(update.snapshot.revision, record);
            }
            Trust::Trusted => {}
        }
    }

    /// A trusted, complete view shows this own record: heals a lost one, finds a second process.
    pub fn observe(&self, revision: i64, record: Option<&Rev<HostRecord>>) {
        let observed = Observed {
            revision,
            record: record.map(|r| (r.session, r.modified.0)),
        };
        self.inputs.send_if_modified(|inputs| {
            let before = inputs.observed.replace(observed);
            record.is_none() || before.is_none_or(|before| before.record != observed.record)
        });
    }

    /// The view distrusts etcd, and why; or (none) it has seen all of it and trusts it.
    pub fn hold(&self, hold: Option<Hold>) {
        let word = Verdict::from(hold);
        self.inputs.send_if_modified(|inputs| {
            let differs = inputs.word != word;
            inputs.word = word;
            differs
        });
    }

    /// The view has met the known cluster with a higher epoch: an accepted restore.
    pub fn accept(&self, cluster: Cluster) {
        self.inputs
            .send_modify(|inputs| inputs.accepted = Some(cluster));
    }

    /// The operator wants this host to leave, and it has nothing left. Called off if the operator has changed their
    /// mind; else the status says `Left` in the end.
    pub fn leave(&self) {
        self.inputs.send_modify(|inputs| inputs.leave = true);
    }

    /// Says good-bye, within a second whatever etcd does.
    pub async fn stop(self, how: Stop) -> Stopped {
        let (sender, receiver) = oneshot::channel();
        let stop = async {
            self.stop.send((how, sender)).await.ok()?;
            receiver.await.ok()
        };
        tokio::time::timeout(STOP, stop)
            .await
            .ok()
            .flatten()
            .unwrap_or(Stopped::NotNoted)
    }
}

struct Driver {
    kv: Arc<dyn Kv>,
    dir: Arc<StateDir>,
    clock: Clock,
    machine: HostMachine,
    keep: KeepAlive,
    /// What the machine was fed last.
    fed: Inputs,
    status: watch::Sender<HostStatus>,
    cluster: watch::Sender<Option<Cluster>>,
    floor: watch::Sender<i64>,
    failing: bool,
}

impl Driver {
    async fn run(
        mut self,
        mut inputs: watch::Receiver<Inputs>,
        mut stop: mpsc::Receiver<(Stop, oneshot::Sender<Stopped>)>,
    ) {
        let mut report = self.keep.report.clone();
        let mut waits: Option<oneshot::Sender<Stopped>> = None;
        loop {
            self.publish();
            if let Some(stopped) = self.machine.stopped() {
                if let Some(waits) = waits {
                    let _ = waits.send(stopped);
                }
                return;
            }
            let now = self.clock.now();
            let step = self.machine.next(now);
            // Every arm takes a message and nothing else: dropped halfway, none is lost. A stop does not wait for etcd.
            tokio::select! {
                asked = stop.recv(), if waits.is_none() => {
                    // None: the host was dropped, and its lease is to end.
                    let Some((how, answer)) = asked else { return };
                    self.machine.stop(how);
                    waits = Some(answer);
                }
                Ok(()) = inputs.changed(), if matches!(step, HostStep::Wait(_)) => {
                    let inputs = inputs.borrow_and_update().clone();
                    self.feed(inputs, now);
                }
                Ok(()) = report.changed(), if matches!(step, HostStep::Wait(_)) => {
                    let LeaseReport { lost, .. } = *report.borrow_and_update();
                    if let Some(lost) = lost {
                        self.machine.lease_lost(lost);
                    }
                }
                answer = carry_out(&*self.kv, &self.dir, now, step.clone()) => {
                    if let Some(answer) = answer {
                        self.say(&step, &answer);
                        self.machine.answer(answer, self.clock.now());
                    }
                }
            }
        }
    }

    fn feed(&mut self, inputs: Inputs, now: Millis) {
        let fed = std::mem::replace(&mut self.fed, inputs);
        let inputs = &self.fed;
        if inputs.wanted != fed.wanted {
            self.machine.want(inputs.wanted.clone(), now);
        }
        if let Some(cluster) = &inputs.accepted
            && inputs.accepted != fed.accepted
        {
            self.machine.accept(cluster.clone());
        }
        if inputs.word != fed.word {
            let hold = match &inputs.word {
                Verdict::Distrusts(hold) => Some(hold.clone()),
                Verdict::Trusts | Verdict::Nothing => None,
            };
            self.machine.hold(hold, now);
        }
        if let Some(Observed { revision, record }) = inputs.observed
            && inputs.observed != fed.observed
        {
            self.machine.observed(revision, record);
        }
        if inputs.leave {
            // Once for each time that it is asked for.
            self.fed.leave = false;
            self.machine.leave();
        }
    }

    fn publish(&self) {
        self.keep.lease.send_if_modified(|lease| {
            let differs = *lease != self.machine.lease();
            *lease = self.machine.lease();
            differs
        });
        self.cluster.send_if_modified(|cluster| {
            let differs = cluster.as_ref() != self.machine.cluster();
            *cluster = self.machine.cluster().cloned();
            differs
        });
        self.floor.send_if_modified(|floor| {
            std::mem::replace(floor, self.machine.floor()) != self.machine.floor()
        });
        // Last: who sees that it is live sees the rest of it too.
        self.status.send_if_modified(|status| {
            let differs = status != self.machine.status();
            status.clone_from(self.machine.status());
            differs
        });
    }

    /// Says once, however long it lasts, that something fails.
    fn say(&mut self, step: &HostStep, answer: &HostAnswer) {
        let error = match answer {
            HostAnswer::Asked(Err(error)) | HostAnswer::Granted(Err(error)) => error.to_string(),
            HostAnswer::Noted(Err(error)) => error.clone(),
            HostAnswer::Asked(Ok(_)) | HostAnswer::Granted(Ok(_)) | HostAnswer::Noted(Ok(())) => {
                self.failing = false;
                return;
            }
        };
        if std::mem::replace(&mut self.failing, true) {
            debug!(error, ?step, "the host's record can't be written");
        } else {
            warn!(
                error,
                "the host's record can't be written now; trying again"
            );
        }
    }
}

/// None: the time has come, and there is nothing to answer.
async fn carry_out(kv: &dyn Kv, dir: &StateDir, now: Millis, step: HostStep) -> Option<HostAnswer> {
    match step {
        HostStep::Ask(txn) => Some(HostAnswer::Asked(kv.txn(txn).await)),
        HostStep::Grant(ttl) => Some(HostAnswer::Granted(kv.lease_grant(ttl).await)),
        HostStep::Note(note) => {
            let noted = dir.note(&note).map_err(|error| {
                let source = std::error::Error::source(&error);
                source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
            });
            Some(HostAnswer::Noted(noted))
        }
        HostStep::Wait(Some(at)) => {
            tokio::time::sleep(at - now).await;
            None
        }
        HostStep::Wait(None) => std::future::pending().await,
    }
}
