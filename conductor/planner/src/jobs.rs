//! What a manifest wants to run before a version, on the host that runs it: once, before any instance of it starts.
//!
//! `/claims/<app>/<container>/before` says that it runs before its container is started. Only the process that wrote
//! this starts the container, and it asks for that once: after a crash nobody knows whether it was started, so it is
//! waited for if it runs or has ended, and has failed otherwise.

use std::time::Duration;

use manifests::update::Before;
use manifests::{ContainerId, HostName, SlotId};
use model::observed::{ContainerState, ObservedContainer};
use model::records::{Job, JobState, Rollout};
use model::snapshot::{ContainerView, Rev, SlotView, Snapshot, mod_rev};
use model::{Action, Millis, ModRev, Scope, VersionId, Write};

use crate::inputs::Inputs;
use crate::output::{Notes, Report};
use crate::retire::stop_timeout;
use crate::rollout::{Target, mark};
use crate::update;
use crate::waiting::Failure;

/// How far what runs before a version is, as far as etcd says.
pub(crate) enum Step<'a> {
    /// It runs, or what runs before another version does.
    Runs(&'a Job),
    /// It has failed; nobody tries it again before that is taken from etcd.
    Failed(&'a Rev<Job>),
    /// It may begin.
    Begins,
    /// It may begin, or has failed, since this host is no member any more.
    BeginsOver(HostName),
}

/// How far what runs before the version `rev` is.
pub(crate) fn step<'a>(
    snapshot: &Snapshot,
    container: &'a ContainerView,
    rev: VersionId,
) -> Step<'a> {
    let Some(job) = &container.job else {
        return Step::Begins;
    };
    let is_member = |host: &HostName| {
        let view = snapshot.hosts.get(host);
        view.is_some_and(|view| view.member.is_some() || view.record.is_some())
    };
    match job.state {
        JobState::Running if is_member(&job.host) => Step::Runs(job),
        JobState::Running => Step::BeginsOver(job.host.clone()),
        JobState::Failed if job.version == rev => Step::Failed(job),
        JobState::Failed | JobState::Done => Step::Begins,
    }
}

/// The container that was made to run before the version `rev`, and that etcd says nothing of: it was never started.
pub(crate) fn made<'a>(
    inputs: &Inputs<'a>,
    container: &ContainerView,
    id: &ContainerId,
    rev: VersionId,
) -> Option<&'a ObservedContainer> {
    let noted = container.job.as_ref().map(|job| &job.instance);
    let mut jobs = inputs.observed.jobs.values();
    jobs.find(|job| {
        let owner = &job.owner;
        owner.slot.container == *id
            && owner.before == Some(rev)
            && noted != Some(&owner.instance)
            && is_untouched(&job.state)
    })
}

/// No process of it was ever started.
fn is_made(state: &ContainerState) -> bool {
    matches!(state, ContainerState::Created { .. })
}

/// It was made, and no start of it has failed.
fn is_untouched(state: &ContainerState) -> bool {
    matches!(state, ContainerState::Created { error } if error.is_empty())
}

/// What this host runs before versions, to its end; and what is left of that.
pub(crate) fn jobs(inputs: &Inputs<'_>) -> Report {
    let mut report = Report::default();
    let me = &inputs.host.name;
    for id in inputs.snapshot.preparing() {
        let Some(container) = inputs.snapshot.containers.get(id) else {
            continue;
        };
        if let Some(job) = container.job.as_ref().filter(|job| job.host == *me) {
            run(inputs, id, container, job, &mut report);
        }
    }
    for job in inputs.observed.jobs.values() {
        report.actions.extend(clear(inputs, job, &mut report.notes));
    }
    report
}

/// Starts it if this process may, and writes how it ended.
fn run(
    inputs: &Inputs<'_>,
    id: &ContainerId,
    container: &ContainerView,
    job: &Rev<Job>,
    report: &mut Report,
) {
    let failed = |why: String| Some(Err(why));
    let own = inputs.memory.jobs.get(id);
    let own = own.filter(|own| own.instance == job.instance);
    let observed = inputs.observed.jobs.get(&job.instance);
    let ended = match observed.map(|observed| (observed, &observed.state)) {
        None | Some((_, ContainerState::Removing)) => {
            failed("its container is gone, and how it ended is not known".to_owned())
        }
        Some((observed, state @ ContainerState::Created { error })) => match own {
            Some(own) if is_untouched(state) && !own.start_asked => {
                report.actions.push(Action::Start {
                    slot: observed.owner.slot.clone(),
                    instance: job.instance.clone(),
                    docker_id: observed.docker_id.clone(),
                });
                None
            }
            Some(_) if is_acting(inputs, &observed.owner.slot) => None,
            Some(_) => failed(Failure::NotStarted(error.clone()).to_string()),
            None => failed(format!(
                "the agent of {} was restarted when it was about to start it",
                job.host
            )),
        },
        Some((observed, ContainerState::Running(_) | ContainerState::Paused(_))) => {
            let until = ends_by(inputs, Some(container), observed);
            if inputs.now < until {
                report.notes.requeue(until);
                None
            } else {
                let timeout = timeout(container, job.version).as_secs();
                failed(format!("it has not ended within {timeout} s"))
            }
        }
        Some((_, ContainerState::Exited(exit))) => {
            if !exit.error.is_empty() {
                failed(Failure::NotStarted(exit.error.clone()).to_string())
            } else if exit.out_of_memory {
                failed(Failure::OutOfMemory(None).to_string())
            } else if exit.code == 0 {
                Some(Ok(()))
            } else {
                failed(Failure::Exited(exit.code).to_string())
            }
        }
    };
    report.writes.extend(ended.map(|ended| match ended {
        Ok(()) => done(container, id, job),
        Err(why) => {
            let has_run = observed.is_some_and(|observed| !is_made(&observed.state));
            let hint = format!("{why}; `dokkaa logs {id} --before` shows what it said");
            fails(container, id, job, if has_run { hint } else { why })
        }
    }));
}

fn is_acting(inputs: &Inputs<'_>, slot: &SlotId) -> bool {
    let scope = Scope::Slot(slot.clone());
    inputs.memory.in_flight.is_acting(&scope)
}

/// When it has run for too long, as this process has seen it run.
fn ends_by(
    inputs: &Inputs<'_>,
    container: Option<&ContainerView>,
    job: &ObservedContainer,
) -> Millis {
    let memory = inputs.memory.instances.get(&job.owner.instance);
    let since = memory.and_then(|memory| memory.running_since);
    let timeout = container
        .zip(job.owner.before)
        .map_or(Before::TIMEOUT, |(container, version)| {
            timeout(container, version)
        });
    since.unwrap_or(inputs.now) + timeout
}

fn timeout(container: &ContainerView, version: VersionId) -> Duration {
    let own = container.versions.get(&version);
    let own = own.and_then(|version| version.own.as_ref());
    own.and_then(|own| own.before.as_ref())
        .map_or(Before::TIMEOUT, |before| before.timeout)
}

fn done(container: &ContainerView, id: &ContainerId, job: &Rev<Job>) -> Write {
    let done = Job {
        state: JobState::Done,
        ..job.value.clone()
    };
    let version = container.versions.get(&job.version);
    let version = version.map(|version| (version.version.clone(), version.modified));
    Write::job_done(id.clone(), done, job.modified, version)
}

/// It has failed; the update to its version is halted, if that is still what the user wants.
fn fails(container: &ContainerView, id: &ContainerId, job: &Rev<Job>, reason: String) -> Write {
    let halted = halted(container, job.version, &reason);
    let failed = Job {
        state: JobState::Failed,
        reason,
        ..job.value.clone()
    };
    Write::job_failed(id.clone(), failed, job.modified, halted)
}

/// The update to this version as it is halted, and what it was decided on.
fn halted(
    container: &ContainerView,
    version: VersionId,
    reason: &str,
) -> Option<(Rollout, ModRev, ModRev)> {
    let manifest = container.manifest.as_ref()?;
    Target::of(container).filter(|target| target.rev() == version)?;
    let rollout = Rollout {
        failed: true,
        before: true,
        reason: reason.to_owned(),
        ..update::rollout(container)?
    };
    let rollout_rev = mod_rev(container.rollout.as_ref());
    Some((rollout, manifest.modified, rollout_rev))
}

/// Halts the update to a version that has failed while another one was wanted; none if it is halted.
pub(crate) fn halts(container: &ContainerView, id: &ContainerId, job: &Job) -> Option<Write> {
    let mark = mark(container);
    if mark.is_some_and(|mark| mark.version == job.version && mark.failed) {
        return None;
    }
    let (rollout, manifest_rev, rollout_rev) = halted(container, job.version, &job.reason)?;
    Some(Write::rollout(
        id.clone(),
        rollout,
        manifest_rev,
        rollout_rev,
    ))
}

/// The host that ran it is no member any more: it has failed.
pub(crate) fn removed(
    container: &ContainerView,
    id: &ContainerId,
    job: &Rev<Job>,
    host: &HostName,
) -> Write {
    let why = format!("{host} was removed while it ran, and how it ended is not known");
    fails(container, id, job, why).over_removed(host.clone())
}

/// Stops what has failed, and removes what nobody asks for. The last run stays, for its output.
fn clear(inputs: &Inputs<'_>, job: &ObservedContainer, notes: &mut Notes) -> Option<Action> {
    let (slot, instance) = (&job.owner.slot, &job.owner.instance);
    let container = inputs.snapshot.containers.get(&slot.container);
    let container = container.map(AsRef::as_ref);
    let memory = inputs.memory.slots.get(slot);
    if let Some(again) = memory.map(|memory| memory.retiring.next_try())
        && again > inputs.now
    {
        notes.requeue(again);
        return None;
    }
    let wanted = container.filter(|container| container.manifest.is_some());
    let noted = wanted.and_then(|container| container.job.as_ref());
    let noted = noted.filter(|noted| noted.instance == *instance);
    if job.running().is_some() {
        let until = match noted.map(|noted| noted.state) {
            Some(JobState::Running) => return None,
            // A restore has lost it: it may end by itself.
            None if wanted.is_some() => ends_by(inputs, container, job),
            Some(JobState::Failed | JobState::Done) | None => inputs.now,
        };
        if inputs.now < until {
            notes.requeue(until);
            return None;
        }
        return Some(Action::Stop {
            slot: slot.clone(),
            instance: instance.clone(),
            docker_id: job.docker_id.clone(),
            timeout: stop_timeout(job, container),
        });
    }
    let is_kept = noted.is_some()
        || wanted.is_some_and(|container| may_begin(inputs, container, job))
        || job.is_going();
    (!is_kept).then(|| Action::Remove {
        slot: slot.clone(),
        instance: instance.clone(),
        docker_id: job.docker_id.clone(),
    })
}

/// It was made for the version that is wanted, and is about to begin.
fn may_begin(inputs: &Inputs<'_>, container: &ContainerView, job: &ObservedContainer) -> bool {
    let is_here = |(number, slot): (&u32, &SlotView)| {
        let claim = slot.claim.as_ref();
        container.is_wanted(*number) && claim.is_some_and(|c| c.host == inputs.host.name)
    };
    if !container.slots.iter().any(is_here) {
        return false;
    }
    let target = Target::of(container).filter(|target| !target.is_prepared());
    target.is_some_and(|target| {
        let rev = target.rev();
        let step = step(inputs.snapshot, container, rev);
        job.owner.before == Some(rev)
            && is_untouched(&job.state)
            && matches!(step, Step::Begins | Step::BeginsOver(_))
    })
}
