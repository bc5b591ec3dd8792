//! The writes that there are: each constructor is a row of the tables of guards.

use manifests::keys::Key;
use manifests::{ContainerId, HostName, SlotId};

use super::{Guard, MAX_OPS, Over, Write, WriteKind, WriteOp};
use crate::records::{
    Claim, Cluster, Data, FoundImage, Job, Next, Rollout, SlotState, Status, Unfit, Version,
};
use crate::revision::{ModRev, VersionId};
use crate::scope::Scope;
use crate::snapshot::VoidNext;

/// What slots change hands by, and what is written in an owner's name: `docs/design/ownership.md`.
impl Write {
    /// Claim a free slot: MOD(claim) = 0, MOD(manifest), `.next` absent or void, and then deleted.
    pub fn claim(slot: SlotId, claim: Claim, manifest_rev: ModRev, next: Option<VoidNext>) -> Self {
        Self::of_slot(&slot, WriteKind::Claim)
            .owned(&slot, ModRev::ABSENT)
            .gives(&slot, claim)
            .wanted(&slot.container, manifest_rev)
            .replaces_void(&slot, next)
    }

    /// Claim for what a restore left without a manifest: claim, manifest and `.next` absent, and `/dokkaa/cluster` byte for
    /// byte, since what is absent is absent in any etcd. Writes the version too if etcd has lost it.
    pub fn keep(slot: SlotId, claim: Claim, version: Option<Version>, cluster: Cluster) -> Self {
        let id = claim.version;
        let write = Self::of_slot(&slot, WriteKind::Keep)
            .owned(&slot, ModRev::ABSENT)
            .gives(&slot, claim)
            .wanted(&slot.container, ModRev::ABSENT)
            .seen(Key::Next(slot.clone()), ModRev::ABSENT)
            .guard(Guard::Cluster(cluster));
        match version {
            Some(version) => write
                .seen(Key::Version(slot.container.clone(), id.0), ModRev::ABSENT)
                .op(WriteOp::Version(slot.container, id, version)),
            None => write,
        }
    }

    /// Take over from a lost host: MOD(claim), no record of that host, the rest as for a claim.
    pub fn take_over(
        slot: SlotId,
        claim: Claim,
        (claim_rev, lost): (ModRev, HostName),
        manifest_rev: ModRev,
        next: Option<VoidNext>,
    ) -> Self {
        Self::of_slot(&slot, WriteKind::TakeOver)
            .owned(&slot, claim_rev)
            .gives(&slot, claim)
            .over_lost(lost)
            .wanted(&slot.container, manifest_rev)
            .replaces_void(&slot, next)
    }

    /// Another instance for an own slot: MOD(claim).
    pub fn new_instance(slot: SlotId, claim: Claim, claim_rev: ModRev) -> Self {
        Self::of_slot(&slot, WriteKind::NewInstance)
            .owned(&slot, claim_rev)
            .gives(&slot, claim)
    }

    /// As another instance, of one that serves and whose turn it is in an update: MOD(claim), MOD(rollout).
    pub fn new_instance_in_turn(
        slot: SlotId,
        claim: Claim,
        claim_rev: ModRev,
        rollout_rev: ModRev,
    ) -> Self {
        let rollout = Key::Rollout(slot.container.clone());
        Self::new_instance(slot, claim, claim_rev).seen(rollout, rollout_rev)
    }

    /// Another instance for an own slot, that is ready: MOD(claim).
    pub fn replace(slot: SlotId, claim: Claim, claim_rev: ModRev, state: SlotState) -> Self {
        Self::of_slot(&slot, WriteKind::Replace)
            .owned(&slot, claim_rev)
            .gives_ready(&slot, claim, state)
    }

    /// The instance of an own slot counts for a manifest that was deleted and written again meanwhile: MOD(claim),
    /// MOD(manifest).
    pub fn adopt(slot: SlotId, claim: Claim, claim_rev: ModRev, manifest_rev: ModRev) -> Self {
        Self::of_slot(&slot, WriteKind::Adopt)
            .owned(&slot, claim_rev)
            .wanted(&slot.container, manifest_rev)
            .op(WriteOp::Claim(slot, claim))
    }

    /// Give an own slot up, with its state and status: MOD(claim).
    pub fn release(slot: SlotId, claim_rev: ModRev) -> Self {
        Self::of_slot(&slot, WriteKind::Release)
            .owned(&slot, claim_rev)
            .frees(&slot)
    }

    /// As a release, of a slot that this host can't run, which it says in the same transaction.
    pub fn release_unfit(slot: SlotId, claim_rev: ModRev, host: HostName, unfit: Unfit) -> Self {
        let mark = WriteOp::Unfit(host, slot.container.clone(), unfit);
        Self {
            kind: WriteKind::ReleaseUnfit,
            ..Self::release(slot, claim_rev).op(mark)
        }
    }

    /// How an own slot is, for people: MOD(claim).
    pub fn status(slot: SlotId, status: Status, claim_rev: ModRev) -> Self {
        Self::of_slot(&slot, WriteKind::Status)
            .owned(&slot, claim_rev)
            .op(WriteOp::Status(slot, status))
    }

    /// How far the own instance is: MOD(claim), MOD(state).
    pub fn state(slot: SlotId, state: SlotState, claim_rev: ModRev, state_rev: ModRev) -> Self {
        Self::of_slot(&slot, WriteKind::State)
            .owned(&slot, claim_rev)
            .seen(Key::State(slot.clone()), state_rev)
            .op(WriteOp::State(slot, state))
    }

    /// The volumes of an own slot exist: MOD(claim), MOD(data).
    pub fn data(slot: SlotId, data: (Data, ModRev), claim_rev: ModRev) -> Self {
        Self::of_slot(&slot, WriteKind::Data)
            .owned(&slot, claim_rev)
            .with_data(Some(data))
    }

    /// Take `stopped` back, so that the own instance may start again: as a state, and `.next` absent or void.
    pub fn take_back(
        slot: SlotId,
        state: SlotState,
        claim_rev: ModRev,
        state_rev: ModRev,
        next: Option<VoidNext>,
    ) -> Self {
        Self {
            kind: WriteKind::TakeBack,
            ..Self::state(slot.clone(), state, claim_rev, state_rev).replaces_void(&slot, next)
        }
    }

    /// Begin a handover to this host: MOD(claim), MOD(manifest), `.next` absent or void.
    pub fn next(
        slot: SlotId,
        next: Next,
        claim_rev: ModRev,
        manifest_rev: ModRev,
        void: Option<VoidNext>,
    ) -> Self {
        Self::of_slot(&slot, WriteKind::Next)
            .owned(&slot, claim_rev)
            .wanted(&slot.container, manifest_rev)
            .absent_or_void(&slot, void)
            .op(WriteOp::Next(slot, next))
    }

    /// End a handover, the claim names the new instance: MOD(claim), MOD(manifest), MOD(`.next`); if it is not ready also no
    /// record of the owner, or MOD(state) which says `stopped`.
    pub fn promote(
        slot: SlotId,
        claim: Claim,
        claim_rev: ModRev,
        manifest_rev: ModRev,
        next_rev: ModRev,
        over: Over,
    ) -> Self {
        let write = Self::of_slot(&slot, WriteKind::Promote)
            .owned(&slot, claim_rev)
            .wanted(&slot.container, manifest_rev)
            .seen(Key::Next(slot.clone()), next_rev)
            .op(WriteOp::Delete(Key::Next(slot.clone())));
        match over {
            Over::Ready(state) => write.gives_ready(&slot, claim, state),
            Over::Nobody => write.gives(&slot, claim),
            Over::Lost(host) => write.gives(&slot, claim).over_lost(host),
            Over::Stopped(state_rev, host) => Self {
                over: Over::Stopped(state_rev, host),
                ..write
                    .gives(&slot, claim)
                    .seen(Key::State(slot.clone()), state_rev)
            },
        }
    }

    /// Retake an own slot for an instance that is ready here while the owner's is not: MOD(claim), `.next` and the owner's
    /// state as seen.
    pub fn retake(
        slot: SlotId,
        claim: Claim,
        state: SlotState,
        claim_rev: ModRev,
        state_rev: ModRev,
        next_rev: ModRev,
    ) -> Self {
        let write = Self::of_slot(&slot, WriteKind::Retake)
            .owned(&slot, claim_rev)
            .seen(Key::State(slot.clone()), state_rev)
            .seen(Key::Next(slot.clone()), next_rev)
            .gives_ready(&slot, claim, state);
        match next_rev {
            ModRev::ABSENT => write,
            _ => write.op(WriteOp::Delete(Key::Next(slot))),
        }
    }

    /// Give a handover to this host up: MOD(`.next`). If this host can't run it, it says so in the same transaction.
    pub fn delete_next(slot: SlotId, next_rev: ModRev, unfit: Option<(HostName, Unfit)>) -> Self {
        let container = slot.container.clone();
        let mark = unfit.map(|(host, unfit)| WriteOp::Unfit(host, container, unfit));
        let mut write = Self::of_slot(&slot, WriteKind::DeleteNext)
            .seen(Key::Next(slot.clone()), next_rev)
            .op(WriteOp::Delete(Key::Next(slot)));
        write.ops.extend(mark);
        write
    }

    /// Delete a `.next` that nobody can finish: MOD(`.next`), no record of its host.
    pub fn delete_void_next(slot: SlotId, next: VoidNext) -> Self {
        Self {
            over: Over::Lost(next.host.clone()),
            ..Self::of_slot(&slot, WriteKind::DeleteNext)
                .guard(Guard::VoidNext(slot.clone(), next))
                .op(WriteOp::Delete(Key::Next(slot)))
        }
    }

    /// Delete a lost host's claim for what nobody wants: MOD(claim), MOD(manifest), no record of that host.
    pub fn delete_unwanted(
        slot: SlotId,
        claim_rev: ModRev,
        manifest_rev: ModRev,
        lost: HostName,
    ) -> Self {
        Self::of_slot(&slot, WriteKind::DeleteUnwanted)
            .owned(&slot, claim_rev)
            .wanted(&slot.container, manifest_rev)
            .over_lost(lost)
            .frees(&slot)
    }

    /// Notes in the same transaction where the slot's volumes are: MOD(data).
    #[must_use]
    pub fn with_data(self, data: Option<(Data, ModRev)>) -> Self {
        match (data, self.slot().cloned()) {
            (Some((data, rev)), Some(slot)) => self
                .seen(Key::Data(slot.clone()), rev)
                .op(WriteOp::Data(slot, data)),
            _ => self,
        }
    }
}

/// What slots share: `docs/design/keys.md`.
impl Write {
    /// The image of a version is decided: the version absent, MOD(manifest), which is its key.
    pub fn version(container: ContainerId, id: VersionId, version: Version) -> Self {
        Self::of_container(&container, WriteKind::Version)
            .seen(Key::Version(container.clone(), id.0), ModRev::ABSENT)
            .wanted(&container, id.manifest_rev())
            .op(WriteOp::Version(container, id, version))
    }

    /// As a version, of an image that was found: the version absent, MOD(manifest), MOD(image), which is its key.
    pub fn version_of_found(
        container: ContainerId,
        id: VersionId,
        version: Version,
        manifest_rev: ModRev,
    ) -> Self {
        Self::of_container(&container, WriteKind::Version)
            .seen(Key::Version(container.clone(), id.0), ModRev::ABSENT)
            .wanted(&container, manifest_rev)
            .seen(Key::FoundImage(container.clone()), id.manifest_rev())
            .op(WriteOp::Version(container, id, version))
    }

    /// The registry has a newer image: MOD(manifest), MOD(image).
    pub fn found(
        container: ContainerId,
        found: FoundImage,
        manifest_rev: ModRev,
        image_rev: ModRev,
    ) -> Self {
        Self::of_container(&container, WriteKind::Found)
            .wanted(&container, manifest_rev)
            .seen(Key::FoundImage(container.clone()), image_rev)
            .op(WriteOp::FoundImage(container, found))
    }

    /// The update to an image that was found has failed, and the one before is run again: as for one that is found.
    pub fn went_back(
        container: ContainerId,
        found: FoundImage,
        manifest_rev: ModRev,
        image_rev: ModRev,
    ) -> Self {
        Self {
            kind: WriteKind::WentBack,
            ..Self::found(container, found, manifest_rev, image_rev)
        }
    }

    /// A version got ready: MOD(version).
    pub fn good(
        container: ContainerId,
        id: VersionId,
        version: Version,
        version_rev: ModRev,
    ) -> Self {
        let good = Version {
            good: true,
            ..version
        };
        Self::of_container(&container, WriteKind::Good)
            .seen(Key::Version(container.clone(), id.0), version_rev)
            .op(WriteOp::Version(container, id, good))
    }

    /// Prune versions: MOD of each. Those that are too many for one transaction stay for the next.
    pub fn prune(container: &ContainerId, versions: &[(VersionId, ModRev)]) -> Self {
        let write = Self::of_container(container, WriteKind::Prune);
        versions
            .iter()
            .take(MAX_OPS)
            .fold(write, |write, (id, rev)| {
                let key = Key::Version(container.clone(), id.0);
                write.seen(key.clone(), *rev).op(WriteOp::Delete(key))
            })
    }

    /// A slot failed in an update: MOD(manifest), MOD(rollout).
    pub fn rollout(
        container: ContainerId,
        rollout: Rollout,
        manifest_rev: ModRev,
        rollout_rev: ModRev,
    ) -> Self {
        Self {
            kind: WriteKind::Rollout,
            ..Self::permit(container, rollout, manifest_rev, rollout_rev)
        }
    }

    /// Which slots are being updated: as for a rollout. Once nothing is left to say the key goes.
    pub fn permit(
        container: ContainerId,
        rollout: Rollout,
        manifest_rev: ModRev,
        rollout_rev: ModRev,
    ) -> Self {
        let key = Key::Rollout(container.clone());
        Self::of_container(&container, WriteKind::Permit)
            .wanted(&container, manifest_rev)
            .seen(key.clone(), rollout_rev)
            .op(if rollout.is_over() {
                WriteOp::Delete(key)
            } else {
                WriteOp::Rollout(container, rollout)
            })
    }

    /// What runs before a version is about to be started: MOD(before), which lets one host do it, once; MOD(manifest).
    pub fn job_start(
        container: ContainerId,
        job: Job,
        manifest_rev: ModRev,
        job_rev: ModRev,
    ) -> Self {
        Self::of_container(&container, WriteKind::JobStart)
            .wanted(&container, manifest_rev)
            .seen(Key::Before(container.clone()), job_rev)
            .op(WriteOp::Before(container, job))
    }

    /// As a start, in place of a run whose host is no member any more: no member, no record.
    #[must_use]
    pub fn over_removed(self, host: HostName) -> Self {
        self.seen(Key::Member(host.clone()), ModRev::ABSENT)
            .guard(Guard::NoRecord(host))
    }

    /// It has been done: MOD(before), MOD(version), which is prepared.
    pub fn job_done(
        container: ContainerId,
        job: Job,
        job_rev: ModRev,
        version: Option<(Version, ModRev)>,
    ) -> Self {
        let id = job.version;
        let write = Self::of_container(&container, WriteKind::JobEnd)
            .seen(Key::Before(container.clone()), job_rev)
            .op(WriteOp::Before(container.clone(), job));
        let Some((version, rev)) = version else {
            return write;
        };
        let prepared = Version {
            prepared: true,
            ..version
        };
        write
            .seen(Key::Version(container.clone(), id.0), rev)
            .op(WriteOp::Version(container, id, prepared))
    }

    /// It has failed: MOD(before); and MOD(manifest), MOD(rollout) of the update that is halted for it.
    pub fn job_failed(
        container: ContainerId,
        job: Job,
        job_rev: ModRev,
        halted: Option<(Rollout, ModRev, ModRev)>,
    ) -> Self {
        let write = Self::of_container(&container, WriteKind::JobEnd)
            .seen(Key::Before(container.clone()), job_rev)
            .op(WriteOp::Before(container.clone(), job));
        match halted {
            Some((rollout, manifest_rev, rollout_rev)) => write
                .wanted(&container, manifest_rev)
                .seen(Key::Rollout(container.clone()), rollout_rev)
                .op(WriteOp::Rollout(container, rollout)),
            None => write,
        }
    }

    /// Sweep what is left of a container, but its data: manifest absent, no key under `…/slots/`.
    pub fn sweep(container: ContainerId) -> Self {
        Self::of_container(&container, WriteKind::Sweep)
            .wanted(&container, ModRev::ABSENT)
            .guard(Guard::NoSlots(container.clone()))
            .op(WriteOp::DeleteVersions(container.clone()))
            .op(WriteOp::Delete(Key::FoundImage(container.clone())))
            .op(WriteOp::Delete(Key::Rollout(container.clone())))
            .op(WriteOp::Delete(Key::Before(container)))
    }

    /// The mark of this host goes, since it may be able to run it now: MOD(mark).
    pub fn fit(container: ContainerId, host: HostName, unfit_rev: ModRev) -> Self {
        let key = Key::Unfit(host, container.clone());
        Self::of_container(&container, WriteKind::Fit)
            .seen(key.clone(), unfit_rev)
            .op(WriteOp::Delete(key))
    }

    /// A slot that was given away for a drain is back, or can't come back: MOD(moved).
    pub fn returned(slot: SlotId, host: HostName, moved_rev: ModRev) -> Self {
        let key = Key::Moved(host, slot.clone());
        Self::of_slot(&slot, WriteKind::Returned)
            .seen(key.clone(), moved_rev)
            .op(WriteOp::Delete(key))
    }
}

/// What the rows have in common.
impl Write {
    fn of_slot(slot: &SlotId, kind: WriteKind) -> Self {
        Self::new(Scope::Slot(slot.clone()), kind)
    }

    fn of_container(container: &ContainerId, kind: WriteKind) -> Self {
        Self::new(Scope::Container(container.clone()), kind)
    }

    fn new(scope: Scope, kind: WriteKind) -> Self {
        Self {
            scope,
            kind,
            over: Over::Nobody,
            guards: Vec::new(),
            ops: Vec::new(),
        }
    }

    fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    fn op(mut self, op: WriteOp) -> Self {
        self.ops.push(op);
        self
    }

    fn seen(self, key: Key, rev: ModRev) -> Self {
        self.guard(Guard::Seen(key, rev))
    }

    fn owned(self, slot: &SlotId, claim_rev: ModRev) -> Self {
        self.seen(Key::Claim(slot.clone()), claim_rev)
    }

    fn wanted(self, container: &ContainerId, manifest_rev: ModRev) -> Self {
        self.seen(Key::Manifest(container.clone()), manifest_rev)
    }

    fn over_lost(self, host: HostName) -> Self {
        Self {
            over: Over::Lost(host.clone()),
            ..self.guard(Guard::NoRecord(host))
        }
    }

    fn absent_or_void(self, slot: &SlotId, next: Option<VoidNext>) -> Self {
        self.guard(match next {
            None => Guard::Seen(Key::Next(slot.clone()), ModRev::ABSENT),
            Some(next) => Guard::VoidNext(slot.clone(), next),
        })
    }

    fn replaces_void(self, slot: &SlotId, next: Option<VoidNext>) -> Self {
        let void = next.is_some();
        let write = self.absent_or_void(slot, next);
        if void {
            write.op(WriteOp::Delete(Key::Next(slot.clone())))
        } else {
            write
        }
    }

    /// The claim, and what the former instance said goes.
    fn gives(self, slot: &SlotId, claim: Claim) -> Self {
        self.op(WriteOp::Claim(slot.clone(), claim)).forgets(slot)
    }

    /// As `gives`, to an instance that is ready.
    fn gives_ready(self, slot: &SlotId, claim: Claim, state: SlotState) -> Self {
        Self {
            over: Over::Ready(state.clone()),
            ..self
                .op(WriteOp::Claim(slot.clone(), claim))
                .op(WriteOp::State(slot.clone(), state))
                .op(WriteOp::Delete(Key::Status(slot.clone())))
        }
    }

    fn frees(self, slot: &SlotId) -> Self {
        self.op(WriteOp::Delete(Key::Claim(slot.clone())))
            .forgets(slot)
    }

    fn forgets(self, slot: &SlotId) -> Self {
        self.op(WriteOp::Delete(Key::State(slot.clone())))
            .op(WriteOp::Delete(Key::Status(slot.clone())))
    }
}
