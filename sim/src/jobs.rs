//! What runs before a version: no more than once, and no instance of the version starts before it is done.

use manifests::ContainerId;
use manifests::keys::Key;
use model::records::{Job, JobState};
use model::snapshot::ContainerView;
use model::{Action, VersionId};
use planner::rollout::{self, Target};
use store::kv::Op;

use crate::world::World;

impl World {
    /// Judges a start that takes effect. What a restore has lost may run again.
    pub(crate) fn starts(&mut self, machine: usize, step: &Action) -> Option<String> {
        let Action::Start { docker_id, .. } = step else {
            return None;
        };
        let labelled = self.machines[machine].engine.labelled(self.cluster.id);
        let container = labelled.into_iter().find(|c| c.docker_id == *docker_id)?;
        if self.was_restored() || container.running().is_some() {
            return None;
        }
        let (owner, name) = (&container.owner, &self.machines[machine].host.name);
        let id = owner.slot.container.clone();
        if let Some(version) = owner.before {
            let harm = format!("{name} starts what runs before {version} of {id} once more");
            let is_first = self.prepared.insert((id, version));
            return (!is_first).then_some(harm);
        }
        let view = self.truth.now.containers.get(&id)?;
        is_early(view, &owner.manifest_hash)
            .then(|| format!("{name} starts {id} before what its version wants has run"))
    }

    fn was_restored(&self) -> bool {
        !self.truth.former.is_empty() || self.cluster.epoch > 1
    }

    /// The version whose run has failed, that nobody goes on with.
    pub(crate) fn barred(container: &ContainerView) -> Option<VersionId> {
        let mark = container.rollout.as_ref();
        let mark = mark.filter(|mark| mark.failed && mark.before)?;
        let target = Target::of(container)?.rev();
        (mark.version == target).then_some(target)
    }

    /// What runs before the version has failed, and no older one can be run instead.
    pub(crate) fn is_barred_for_good(container: &ContainerView) -> bool {
        Self::barred(container).is_some_and(|barred| {
            let mut older = rollout::counting(container);
            older.all(|(version, parsed, _)| {
                let wants = parsed.own.as_ref().and_then(|own| own.before.as_ref());
                version >= barred || (wants.is_some() && !parsed.version.prepared)
            })
        })
    }

    /// The operator removes a host that is gone for good and holds up a container.
    pub(crate) fn remove_gone(&mut self) {
        let is_gone = |job: &&Job| {
            let mut machines = self.machines.iter();
            job.state == JobState::Running
                && machines.any(|machine| machine.gone && machine.host.name == job.host)
        };
        let jobs = self.truth.now.containers.values();
        let jobs = jobs.filter_map(|container| container.job.as_ref().map(|job| &job.value));
        let gone: Vec<_> = jobs.filter(is_gone).map(|job| job.host.clone()).collect();
        for host in gone {
            self.write(vec![Op::delete(Key::Member(host))]);
        }
    }

    /// What is left of runs that nobody asks for.
    pub(crate) fn job_left(&self, machine: usize) -> Option<String> {
        let jobs = self.machines[machine].engine.jobs(self.cluster.id);
        let noted = |id: &ContainerId| {
            let container = self.truth.now.containers.get(id)?;
            Some(container.job.as_ref()?.value.clone())
        };
        jobs.iter().find_map(|job| {
            let owner = &job.owner;
            let noted = noted(&owner.slot.container);
            let noted = noted.filter(|noted| noted.instance == owner.instance);
            let name = &self.machines[machine].host.name;
            match noted {
                None => Some(format!("{} is left on {name}", owner.instance)),
                Some(noted) if noted.state != JobState::Running && job.running().is_some() => {
                    Some(format!("{} still runs on {name}", owner.instance))
                }
                Some(_) => None,
            }
        })
    }
}

/// Of the versions with this hash none may be started.
fn is_early(view: &ContainerView, hash: &str) -> bool {
    let of_hash = view.versions.values();
    let mut of_hash = of_hash
        .filter(|version| version.hash.as_deref() == Some(hash))
        .peekable();
    of_hash.peek().is_some()
        && of_hash.all(|version| {
            let wants = version.own.as_ref().and_then(|own| own.before.as_ref());
            wants.is_some() && !version.version.prepared
        })
}
