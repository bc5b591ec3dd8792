//! What a manifest wants to run before a version, seen from a slot that is to run it: it waits, or its host begins it.

use manifests::InstanceId;

use super::ctx::{Ctx, Decision};
use super::prepare::prepare;
use crate::jobs::{Step, halts, made, removed, step};
use crate::output::Notes;
use crate::rollout::{Target, is_prepared};
use crate::waiting::Waiting;
use model::records::{Job, JobState, Progress};
use model::snapshot::mod_rev;
use model::{Action, Scope, Write};

/// What a slot does while what runs before its version has not been done; none if it has.
///
/// The owners of slots have their turns; of two that begin, etcd takes one.
pub(super) fn before(
    ctx: &Ctx<'_>,
    target: &Target<'_>,
    notes: &mut Notes,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Option<Decision> {
    let Target::Decided { rev, version, .. } = target else {
        return None;
    };
    if is_prepared(version) {
        return None;
    }
    let (id, me) = (&ctx.slot.container, &ctx.inputs.host.name);
    let waits = |why: Waiting| Some(Decision::new(Progress::Waiting, Some(why)).about(*rev));
    let over = match step(ctx.inputs.snapshot, ctx.container, *rev) {
        Step::Runs(job) if ctx.inputs.snapshot.is_live(&job.host) => {
            return waits(Waiting::Before(job.host.clone()));
        }
        Step::Runs(job) => return waits(Waiting::BeforeAway(job.host.clone())),
        Step::Failed(job) => {
            let why = Waiting::BeforeFailed(job.reason.clone());
            let mut decision = Decision::new(Progress::Failed, Some(why)).about(*rev);
            decision.shared = halts(ctx.container, id, job);
            return Some(decision);
        }
        Step::Begins => None,
        Step::BeginsOver(host) => Some(host),
    };
    let mut decision = Decision::new(Progress::Waiting, None).about(*rev);
    if Target::of(ctx.container).is_none_or(|newest| newest.rev() != *rev) {
        return Some(decision);
    }
    let scope = Scope::Container(id.clone());
    if !ctx.inputs.is_my_turn(notes, &scope, Some(ctx.turn())) {
        return Some(decision);
    }
    let lost = over.as_ref().filter(|_| {
        let job = ctx.container.job.as_ref();
        job.is_some_and(|job| job.version == *rev)
    });
    if let (Some(host), Some(job)) = (lost, &ctx.container.job) {
        decision.shared = Some(removed(ctx.container, id, job, host));
        return Some(decision);
    }
    let Some(made) = made(&ctx.inputs, ctx.container, id, *rev) else {
        let mut decision = prepare(ctx, target, &fresh(), true, notes);
        if let Some(Action::Prepare(wanted)) = &mut decision.action {
            wanted.before = true;
        }
        return Some(decision);
    };
    decision.reason = Some(Waiting::Before(me.clone()));
    let manifest = ctx.container.manifest.as_ref()?;
    let job = Job {
        version: *rev,
        host: me.clone(),
        instance: made.owner.instance.clone(),
        state: JobState::Running,
        reason: String::new(),
    };
    let job_rev = mod_rev(ctx.container.job.as_ref());
    let start = Write::job_start(id.clone(), job, manifest.modified, job_rev);
    decision.shared = Some(match over {
        Some(host) => start.over_removed(host),
        None => start,
    });
    Some(decision)
}
