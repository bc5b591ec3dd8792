//! The life of a slot on the host that has it, one step at a time.
//!
//! Of each slot at most one step and one write come out. Only the claimed
//! instance may run; what else there is of the slot leaves in order. Nothing
//! that runs is touched before what replaces it has been made.

use std::time::Duration;

use manifests::{InstanceId, Manifest, SlotId};

use crate::local::{InstanceMemory, SlotMemory, Work};
use crate::observed::{ContainerPort, ContainerState, Exit, ObservedContainer, Readiness};
use crate::plan::{Inputs, Plan, Step, Trust, Write, data};
use crate::records::{Claim, Phase, Rollout, SlotState, Status};
use crate::snapshot::{ContainerView, Desired, Rev, SlotView};
use crate::target::{Target, placed_anew};

/// How long an instance that was ready is still reached by who has resolved its name before: one DNS TTL.
const LEAVE: Duration = Duration::from_secs(1);
/// Running this long without being ready is told to others: a second, and the time that a look at it takes.
const UNREADY_AFTER: Duration = Duration::from_millis(1_200);
/// An adopted instance that others know as ready is looked at this long before that is taken back.
const ADOPT: Duration = Duration::from_secs(5);
/// A status that people read is written when it has held for this long: how it ended up …
const STATUS_HOLDS: Duration = Duration::from_millis(300);
/// … and what is under way, which most often is over before anybody looks.
const PROGRESS_HOLDS: Duration = Duration::from_secs(1);
/// SIGKILL follows the signal after this, where no manifest says otherwise.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A slot that this host has.
#[derive(Clone, Copy)]
struct Ctx<'a> {
    inputs: Inputs<'a>,
    slot: &'a SlotId,
    container: &'a ContainerView,
    view: &'a SlotView,
    claim: &'a Rev<Claim>,
    memory: Option<&'a SlotMemory>,
}

/// A slot that this host has, as `plan` gives it.
pub(crate) struct Own<'a> {
    /// Which.
    pub(crate) slot: SlotId,
    /// Its container.
    pub(crate) container: &'a ContainerView,
    /// What etcd says of it.
    pub(crate) view: &'a SlotView,
    /// This host's claim.
    pub(crate) claim: &'a Rev<Claim>,
    /// What the engine has of it.
    pub(crate) containers: &'a [&'a ObservedContainer],
}

/// What comes out for one slot: at most one step and one write.
#[derive(Default)]
struct Out {
    step: Option<Step>,
    write: Option<Write>,
    shared: Option<Write>,
    progress: &'static str,
    reason: Option<String>,
    /// The version that this is about, where it is not the claim's.
    about: Option<i64>,
}

impl Out {
    fn says(progress: &'static str, reason: Option<String>) -> Self {
        Self {
            progress,
            reason,
            ..Self::default()
        }
    }

    fn about(mut self, rev: i64) -> Self {
        self.about = Some(rev);
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.step.get_or_insert(step);
        self
    }

    fn write(mut self, write: Write) -> Self {
        self.write.get_or_insert(write);
        self
    }
}

/// Plans a slot that this host has.
pub(crate) fn own(
    inputs: &Inputs<'_>,
    own: Own<'_>,
    plan: &mut Plan,
    fresh: &mut dyn FnMut() -> InstanceId,
) {
    let ctx = Ctx {
        inputs: *inputs,
        slot: &own.slot,
        container: own.container,
        view: own.view,
        claim: own.claim,
        memory: inputs.local.slots.get(&own.slot),
    };
    let current = own
        .containers
        .iter()
        .copied()
        .find(|c| c.owner.instance == own.claim.instance);
    let out = if inputs.trust == Trust::RestartsOnly {
        restart_only(&ctx, current)
    } else if own.container.is_wanted(own.slot.slot) {
        wanted(&ctx, current, own.containers, plan, fresh)
    } else {
        unwanted(&ctx, own.containers, plan)
    };
    emit(&ctx, current, out, plan);
}

/// Plans what the engine has of a slot that this host does not have.
pub(crate) fn not_own(
    inputs: &Inputs<'_>,
    slot: &SlotId,
    containers: &[&ObservedContainer],
    plan: &mut Plan,
) {
    let work = Work::Slot(slot.clone());
    if inputs
        .local
        .is_ahead_of(&work, inputs.snapshot.revision, inputs.now)
    {
        return;
    }
    let view = inputs.snapshot.slot(slot);
    let container = inputs.snapshot.containers.get(&slot.container);
    let claimed = view.is_some_and(|v| v.claim.is_some());
    if let (Some(container), false) = (container, claimed) {
        let runs = containers.iter().find(|c| c.running().is_some());
        if let (Some(runs), true, Some(manifest)) =
            (runs, container.is_wanted(slot.slot), &container.manifest)
        {
            if !inputs.local.writing.contains(&work) && view.is_none_or(|v| v.next.is_none()) {
                let rev = container
                    .versions
                    .iter()
                    .rfind(|(_, v)| v.hash.as_ref() == Some(&runs.owner.manifest_hash))
                    .map_or(0, |(rev, _)| *rev);
                // An own slot that nobody has and this host runs is claimed as it is; placement need not decide.
                plan.writes.retain(|w| w.work() != work);
                plan.writes.push(Write::Claim {
                    slot: slot.clone(),
                    claim: Claim {
                        host: inputs.host.name.clone(),
                        instance: runs.owner.instance.clone(),
                        manifest_rev: rev,
                    },
                    manifest: manifest.modified,
                    data: container
                        .manifest_of(rev)
                        .and_then(|m| data(inputs.host, view, m)),
                });
            }
            return;
        }
    }
    if inputs.local.busy.contains(&work) {
        return;
    }
    let step = retire_all(inputs, slot, containers, container.map(|c| &**c), plan);
    plan.steps.extend(step);
}

/// The next step towards having nothing of the slot; none while all that is left is leaving.
fn retire_all(
    inputs: &Inputs<'_>,
    slot: &SlotId,
    containers: &[&ObservedContainer],
    view: Option<&ContainerView>,
    plan: &mut Plan,
) -> Option<Step> {
    containers
        .iter()
        .find_map(|container| retire(inputs, slot, container, view, plan))
}

/// Leaves, then stops, then removes one container. None while it leaves.
fn retire(
    inputs: &Inputs<'_>,
    slot: &SlotId,
    container: &ObservedContainer,
    view: Option<&ContainerView>,
    plan: &mut Plan,
) -> Option<Step> {
    let instance = container.owner.instance.clone();
    let docker_id = container.docker_id.clone();
    if matches!(container.state, ContainerState::Removing) {
        return None;
    }
    if let Some(memory) = inputs.local.slots.get(slot) {
        let again = memory.trouble.backoff.next_try();
        if again > inputs.now {
            plan.requeue(again);
            return None;
        }
    }
    if container.running().is_none() {
        return Some(Step::Remove {
            slot: slot.clone(),
            instance,
            docker_id,
        });
    }
    if !has_left(inputs, container, plan) {
        return None;
    }
    let manifest = manifest_of(container, view);
    Some(Step::Stop {
        slot: slot.clone(),
        instance,
        docker_id,
        timeout: manifest.map_or(STOP_TIMEOUT, |m| m.stop_timeout),
    })
}

/// Nobody is sent to it any more. One that offers nothing, or was never ready, has left at once.
fn has_left(inputs: &Inputs<'_>, container: &ObservedContainer, plan: &mut Plan) -> bool {
    let instance = &container.owner.instance;
    let memory = inputs.local.instances.get(instance);
    let reached = !container.ports.is_empty() && memory.is_none_or(|m| m.was_ready);
    if !reached {
        return true;
    }
    plan.leaving.push(instance.clone());
    let since = memory.and_then(|m| m.leaving_since).unwrap_or(inputs.now);
    if inputs.now < since + LEAVE {
        plan.requeue(since + LEAVE);
        return false;
    }
    true
}

/// The manifest that a container was made from, by its hash; else the user's.
fn manifest_of<'a>(
    container: &ObservedContainer,
    view: Option<&'a ContainerView>,
) -> Option<&'a Manifest> {
    let view = view?;
    let made_from = view
        .versions
        .values()
        .find(|v| v.hash.as_ref() == Some(&container.owner.manifest_hash))
        .and_then(|v| v.manifest.as_deref());
    made_from.or_else(|| {
        view.manifest_of(view.manifest.as_ref()?.modified)
            .map(|m| &**m)
    })
}

fn restart_only(ctx: &Ctx<'_>, current: Option<&ObservedContainer>) -> Out {
    match current {
        Some(container) if matches!(container.state, ContainerState::Exited(_)) => {
            restart(ctx, container)
        }
        _ => Out::says("unchanged", None),
    }
}

fn unwanted(ctx: &Ctx<'_>, containers: &[&ObservedContainer], plan: &mut Plan) -> Out {
    let mut out = Out::says("leaving", None);
    let runs = containers
        .iter()
        .any(|c| c.owner.instance == ctx.claim.instance && c.running().is_some());
    if let (true, Some(state)) = (runs, ctx.view.current_state())
        && state.state == Phase::Ready
    {
        out = out.write(ctx.state_write(SlotState {
            state: Phase::Leaving,
            ..state.value.clone()
        }));
    }
    out.step = retire_all(&ctx.inputs, ctx.slot, containers, Some(ctx.container), plan);
    if containers.is_empty() {
        out = out.write(Write::Release {
            slot: ctx.slot.clone(),
            held: ctx.claim.modified,
        });
    }
    out
}

fn wanted(
    ctx: &Ctx<'_>,
    current: Option<&ObservedContainer>,
    containers: &[&ObservedContainer],
    plan: &mut Plan,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Out {
    let Some(target) = ctx.target() else {
        return Out::says(
            "waiting",
            Some("its manifest is not valid, and there is no earlier one".to_owned()),
        );
    };
    let outdated = target.outdates(ctx.container, ctx.claim.manifest_rev);
    // What was made to replace an instance that needs it no more is one too many.
    let replaced =
        current.is_none_or(|c| outdated || ctx.is_doomed(c) || ctx.surroundings_changed(c));
    let prepared = ctx
        .memory
        .and_then(|m| m.prepared.as_ref())
        .filter(|(_, rev)| replaced && *rev == target.rev());
    let others: Vec<&ObservedContainer> = containers
        .iter()
        .copied()
        .filter(|c| {
            let instance = &c.owner.instance;
            *instance != ctx.claim.instance && prepared.is_none_or(|(p, _)| p != instance)
        })
        .collect();
    let Some(current) = current else {
        return absent(ctx, &target, !others.is_empty(), plan, fresh);
    };
    plan.staying.push(current.owner.instance.clone());
    match &current.state {
        ContainerState::Removing => Out::says("waiting", Some("Docker is removing it".to_owned())),
        ContainerState::Created { error } => {
            let work = Work::Slot(ctx.slot.clone());
            if ctx.inputs.local.busy.contains(&work) {
                // It may be running in a moment.
                return Out::says("starting", None);
            }
            let doomed = ctx.is_doomed(current);
            if outdated && !doomed && matches!(target, Target::Undecided { .. }) {
                // It may be that nothing can replace it: until that is known it is better than nothing.
                let replace = resolve(ctx, &target, plan);
                return merge(first_start(ctx, current, error, &others, plan), replace);
            }
            if outdated || doomed {
                return ctx.remint(&target, fresh);
            }
            first_start(ctx, current, error, &others, plan)
        }
        ContainerState::Running(_) | ContainerState::Paused(_) => {
            let mut out = running(ctx, current, &target, plan);
            if let Some(replace) =
                replacement(ctx, current, &target, prepared, outdated, plan, fresh)
            {
                out = merge(out, replace);
            }
            if out.step.is_none() {
                out.step = tidy(ctx, current, &others, plan);
            }
            out
        }
        ContainerState::Exited(exit) => {
            let mut replace = replacement(ctx, current, &target, prepared, outdated, plan, fresh);
            let goes_on = |out: &mut Out| out.step.is_some() || out.write.is_some();
            if let Some(replace) = replace.take_if(goes_on) {
                return replace;
            }
            // While what is to replace it has to wait, it is better than nothing.
            let mut out = restart(ctx, current);
            out.shared = give_up(ctx, current, &target, Some(&why_ended(exit)));
            if out.step.is_none() {
                out.step = tidy(ctx, current, &others, plan);
            }
            match replace {
                Some(replace) => merge(out, replace),
                None => out,
            }
        }
    }
}

/// What a replacement says comes first; it never overwrites a write of the running instance.
fn merge(running: Out, replace: Out) -> Out {
    Out {
        step: running.step.or(replace.step),
        write: running.write.or(replace.write),
        shared: running.shared.or(replace.shared),
        progress: replace.progress,
        reason: replace.reason.or(running.reason),
        about: replace.about,
    }
}

/// The engine has nothing of the claimed instance.
fn absent(
    ctx: &Ctx<'_>,
    target: &Target<'_>,
    temporary_name: bool,
    plan: &mut Plan,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Out {
    let minted = ctx.memory.and_then(|m| m.minted.as_ref()) == Some(&ctx.claim.instance);
    if !minted || target.rev() != ctx.claim.manifest_rev {
        return ctx.remint(target, fresh);
    }
    match target {
        Target::Undecided { .. } => resolve(ctx, target, plan),
        Target::Decided { .. } => prepare(ctx, target, &ctx.claim.instance, temporary_name, plan),
    }
}

fn resolve(ctx: &Ctx<'_>, target: &Target<'_>, plan: &mut Plan) -> Out {
    let Target::Undecided {
        rev,
        manifest,
        json,
    } = target
    else {
        return Out::default();
    };
    let id = &ctx.slot.container;
    let work = Work::Container(id.clone());
    let local = ctx.inputs.local;
    let trouble = local.images.get(id).filter(|t| t.rev == *rev);
    let reason = trouble.map(|t| t.reason.clone());
    let progress = ctx.memory.and_then(|m| m.progress.clone());
    if let Some(trouble) = trouble {
        let again = trouble.backoff.next_try();
        if again > ctx.inputs.now {
            plan.requeue(again);
            return Out::says("failed", reason).about(*rev);
        }
    }
    let out = Out::says("pulling", reason.or(progress)).about(*rev);
    let under_way = local.busy.contains(&work)
        || local.writing.contains(&work)
        || local.is_ahead_of(&work, ctx.inputs.snapshot.revision, ctx.inputs.now)
        || plan.steps.iter().any(|s| s.work() == work);
    if !under_way {
        plan.steps.push(Step::Resolve {
            container: id.clone(),
            rev: *rev,
            manifest: (*manifest).clone(),
            json: (*json).clone(),
        });
    }
    out
}

fn prepare(
    ctx: &Ctx<'_>,
    target: &Target<'_>,
    instance: &InstanceId,
    temporary_name: bool,
    plan: &mut Plan,
) -> Out {
    let Target::Decided {
        rev,
        version,
        manifest,
    } = target
    else {
        return Out::default();
    };
    let trouble = ctx.memory.map(|m| &m.trouble).filter(|t| t.rev == *rev);
    if let Some(trouble) = trouble {
        let again = trouble.backoff.next_try();
        if again > ctx.inputs.now {
            plan.requeue(again);
            return Out::says("failed", Some(trouble.reason.clone())).about(*rev);
        }
    }
    let pulls = ctx.memory.and_then(|m| m.progress.clone());
    let progress = if pulls.is_some() {
        "pulling"
    } else {
        "creating"
    };
    let reason = trouble.map(|t| t.reason.clone()).filter(|r| !r.is_empty());
    Out::says(progress, pulls.or(reason))
        .about(*rev)
        .step(Step::Prepare {
            slot: ctx.slot.clone(),
            instance: instance.clone(),
            rev: *rev,
            manifest: (*manifest).clone(),
            image: version.version.image.clone(),
            hash: version.hash.clone().unwrap_or_default(),
            temporary_name,
        })
}

/// Made and never started: what else runs of the slot goes first.
fn first_start(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    error: &str,
    others: &[&ObservedContainer],
    plan: &mut Plan,
) -> Out {
    if let Some(other) = others.iter().find(|c| c.running().is_some()) {
        let step = retire(&ctx.inputs, ctx.slot, other, Some(ctx.container), plan);
        return Out {
            step,
            ..Out::says("replacing", None)
        };
    }
    let mut out = start_after_backoff(ctx, current, plan);
    if !error.is_empty() {
        let reason = format!("it does not start: {error}");
        if let Some(target) = ctx.target() {
            out.shared = give_up(ctx, current, &target, Some(&reason));
        }
        out.progress = "failed";
        out.reason = Some(reason);
    }
    out
}

fn start_after_backoff(ctx: &Ctx<'_>, current: &ObservedContainer, plan: &mut Plan) -> Out {
    let again = ctx
        .instance(current)
        .map(|m| m.backoff.next_try())
        .unwrap_or_default();
    if again > ctx.inputs.now {
        plan.requeue(again);
        return Out::says("failed", None);
    }
    Out::says("starting", None).step(Step::Start {
        slot: ctx.slot.clone(),
        instance: current.owner.instance.clone(),
        docker_id: current.docker_id.clone(),
    })
}

/// Its process ended: tell others, and start it again after the back-off.
fn restart(ctx: &Ctx<'_>, current: &ObservedContainer) -> Out {
    let mut out = start_after_backoff(ctx, current, &mut Plan::default());
    if let (ContainerState::Exited(exit), Some(memory)) = (&current.state, ctx.instance(current)) {
        // Before this process nothing was counted: it is the machine or the engine that stopped it.
        if memory.ends > 0 {
            out.progress = "failed";
            out.reason = Some(format!(
                "{}; is started again after {} s",
                why_ended(exit),
                memory.backoff.wait().as_secs()
            ));
        }
    }
    if let Some(state) = ctx.view.current_state()
        && state.state != Phase::Unready
        && ctx.inputs.trust == Trust::Full
    {
        out = out.write(ctx.state_write(SlotState {
            state: Phase::Unready,
            ..state.value.clone()
        }));
    }
    out
}

fn why_ended(exit: &Exit) -> String {
    if exit.out_of_memory {
        "was killed for want of memory".to_owned()
    } else if exit.error.is_empty() {
        format!("ended with exit code {}", exit.code)
    } else {
        format!("does not start: {}", exit.error)
    }
}

fn running(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    target: &Target<'_>,
    plan: &mut Plan,
) -> Out {
    let now = ctx.inputs.now;
    let memory = ctx.instance(current);
    let since = memory.and_then(|m| m.running_since).unwrap_or(now);
    let seen = memory.map_or(now, |m| m.seen);
    let known = ctx.view.current_state();
    let readiness = ctx.inputs.observed.readiness(&current.owner.instance);
    let (phase, mut out) = match readiness {
        Readiness::Ready => (Some(Phase::Ready), Out::says("ready", None)),
        Readiness::Unready(why) => (
            Some(Phase::Unready),
            Out::says("unready", Some(why.clone())),
        ),
        Readiness::Starting => {
            let adopted = known.is_some_and(|s| s.state == Phase::Ready);
            let tell_at = if adopted {
                seen + ADOPT
            } else {
                since + UNREADY_AFTER
            };
            if now < tell_at {
                plan.requeue(tell_at);
                let progress = if adopted { "ready" } else { "starting" };
                (None, Out::says(progress, None))
            } else {
                let why = memory
                    .and_then(|m| m.lacks.clone())
                    .unwrap_or_else(|| "is not ready yet".to_owned());
                (Some(Phase::Unready), Out::says("starting", Some(why)))
            }
        }
    };
    if let Some(phase) = phase {
        let state = ctx.state(current, phase);
        if known.is_none_or(|known| known.value != state) {
            out = out.write(ctx.state_write(state));
        }
    }
    if phase == Some(Phase::Ready) {
        out.shared = ctx.good();
    } else if known.is_none_or(|s| s.state != Phase::Ready)
        && let Some(manifest) = ctx.container.manifest_of(ctx.claim.manifest_rev)
    {
        let late = since + manifest.start_timeout;
        if now < late {
            plan.requeue(late);
        } else {
            let reason = format!(
                "not ready within {} s of its start",
                manifest.start_timeout.as_secs()
            );
            out.shared = give_up(ctx, current, target, Some(&reason));
            out.reason = Some(match out.reason {
                Some(why) => format!("{reason}: {why}"),
                None => reason,
            });
        }
    }
    out
}

/// Why and how the running or ended instance is replaced; none if it is not, or not yet.
fn replacement(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    target: &Target<'_>,
    prepared: Option<&(InstanceId, i64)>,
    outdated: bool,
    plan: &mut Plan,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Option<Out> {
    if outdated {
        if target.was_given_up(ctx.container) {
            return None;
        }
        if let Err(why) = ctx.my_turn(target) {
            return Some(Out::says("outdated", Some(why)));
        }
    } else if ctx.is_doomed(current) || ctx.surroundings_changed(current) {
        let ready = ctx
            .view
            .current_state()
            .is_some_and(|s| s.state == Phase::Ready);
        if ready && !ctx.others_ready() {
            return Some(Out::says(
                "outdated",
                Some(
                    "the host's addresses have changed; waits until the other slots are ready"
                        .to_owned(),
                ),
            ));
        }
    } else {
        return None;
    }
    match (target, prepared) {
        (Target::Undecided { .. }, _) => Some(resolve(ctx, target, plan)),
        (Target::Decided { manifest, .. }, Some((instance, rev)))
            if ctx.inputs.observed.containers.contains_key(instance) =>
        {
            Some(Out::says("replacing", None).write(Write::NewInstance {
                slot: ctx.slot.clone(),
                claim: Claim {
                    host: ctx.inputs.host.name.clone(),
                    instance: instance.clone(),
                    manifest_rev: *rev,
                },
                held: ctx.claim.modified,
                data: data(ctx.inputs.host, Some(ctx.view), manifest),
            }))
        }
        (Target::Decided { .. }, _) => Some(prepare(ctx, target, &fresh(), true, plan)),
    }
}

/// Gives an update up whose first instance failed; nothing without an older version to stay with. What slots stay
/// with where an update was given up is not given up in its turn.
fn give_up(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    target: &Target<'_>,
    reason: Option<&str>,
) -> Option<Write> {
    let memory = ctx.instance(current)?;
    let failed = memory.ends > 0 || memory.running_since.is_some();
    let manifest = ctx.container.manifest.as_ref()?;
    let update = ctx.container.versions.keys().any(|rev| *rev < target.rev());
    if !failed
        || memory.was_ready
        || !update
        || target.outdates(ctx.container, ctx.claim.manifest_rev)
        || Target::of(ctx.container).is_none_or(|wanted| wanted.rev() != target.rev())
        || target.was_given_up(ctx.container)
    {
        return None;
    }
    Some(Write::Rollout {
        container: ctx.slot.container.clone(),
        rollout: Rollout {
            version: target.rev(),
            failed: true,
            slot: ctx.slot.slot,
            reason: reason.unwrap_or("it ended before it was ready").to_owned(),
        },
        manifest: manifest.modified,
        seen: ctx.container.rollout.as_ref().map_or(0, |r| r.modified),
    })
}

/// What is left to do beside a running instance: stop and remove what it replaced (the last one that ended is kept
/// for its log), and give it its final name.
fn tidy(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    others: &[&ObservedContainer],
    plan: &mut Plan,
) -> Option<Step> {
    if let Some(other) = others.iter().find(|c| c.running().is_some()) {
        return retire(&ctx.inputs, ctx.slot, other, Some(ctx.container), plan);
    }
    let kept = others
        .iter()
        .filter(|c| matches!(c.state, ContainerState::Exited(_)))
        .max_by_key(|c| c.created_at);
    for other in others {
        if kept.is_some_and(|kept| kept.docker_id == other.docker_id) {
            continue;
        }
        let step = retire(&ctx.inputs, ctx.slot, other, Some(ctx.container), plan);
        if step.is_some() {
            return step;
        }
    }
    if current.has_final_name() {
        return None;
    }
    let name = ctx.slot.docker_name();
    let (container, name) = match kept.filter(|kept| kept.has_final_name()) {
        Some(kept) => (*kept, format!("{name}.{}", kept.owner.instance)),
        None => (current, name),
    };
    if let Some(memory) = ctx.memory {
        let again = memory.trouble.backoff.next_try();
        if again > ctx.inputs.now {
            plan.requeue(again);
            return None;
        }
    }
    Some(Step::Rename {
        slot: ctx.slot.clone(),
        instance: container.owner.instance.clone(),
        docker_id: container.docker_id.clone(),
        name,
    })
}

impl<'a> Ctx<'a> {
    fn instance(&self, container: &ObservedContainer) -> Option<&'a InstanceMemory> {
        self.inputs.local.instances.get(&container.owner.instance)
    }

    /// Its address or port is not to be had.
    fn is_doomed(&self, container: &ObservedContainer) -> bool {
        self.instance(container).is_some_and(|m| m.doomed)
    }

    /// The host gives something else to its containers than it gave to this one.
    fn surroundings_changed(&self, container: &ObservedContainer) -> bool {
        let surroundings = &self.inputs.host.surroundings;
        surroundings.hash(&container.ports) != container.owner.host_hash
    }

    /// What this slot should run. Where an update was given up, or the manifest can't be read, each slot stays with
    /// what it has; only the slot that failed goes on being tried.
    fn target(&self) -> Option<Target<'a>> {
        let target = Target::of(self.container)?;
        let halted = target.was_given_up(self.container)
            || self
                .container
                .manifest
                .as_ref()
                .is_some_and(|m| matches!(m.value, Desired::Invalid(_)));
        if halted && self.claim.manifest_rev != target.rev() {
            let keeps = placed_anew(self.container)?;
            return Some(
                match self.container.versions.get(&self.claim.manifest_rev) {
                    Some(version) => match &version.manifest {
                        Some(manifest) => Target::Decided {
                            rev: self.claim.manifest_rev,
                            version,
                            manifest,
                        },
                        None => keeps,
                    },
                    None => keeps,
                },
            );
        }
        Some(target)
    }

    /// One slot at a time, in order of number: every lower slot is ready on the new version, or not placed.
    fn my_turn(&self, target: &Target<'_>) -> Result<(), String> {
        for (number, slot) in self.container.slots.range(..self.slot.slot) {
            let Some(claim) = &slot.claim else { continue };
            if !self.container.is_wanted(*number) {
                continue;
            }
            let ready = slot
                .current_state()
                .is_some_and(|s| s.state == Phase::Ready);
            if !ready || target.outdates(self.container, claim.manifest_rev) {
                return Err(format!(
                    "waits until slot {number} is ready on the new version"
                ));
            }
        }
        Ok(())
    }

    fn others_ready(&self) -> bool {
        self.container
            .slots
            .iter()
            .filter(|(number, slot)| {
                **number != self.slot.slot
                    && slot.claim.is_some()
                    && self.container.is_wanted(**number)
            })
            .all(|(_, slot)| {
                slot.current_state()
                    .is_some_and(|s| s.state == Phase::Ready)
            })
    }

    /// Another instance for a slot whose claimed one was never started or is gone.
    fn remint(&self, target: &Target<'_>, fresh: &mut dyn FnMut() -> InstanceId) -> Out {
        Out::says("starting", None).write(Write::NewInstance {
            slot: self.slot.clone(),
            claim: Claim {
                host: self.inputs.host.name.clone(),
                instance: fresh(),
                manifest_rev: target.rev(),
            },
            held: self.claim.modified,
            data: data(self.inputs.host, Some(self.view), target.manifest()),
        })
    }

    fn state(&self, container: &ObservedContainer, phase: Phase) -> SlotState {
        let manifest = self.container.manifest_of(self.claim.manifest_rev);
        let ports = manifest
            .into_iter()
            .flat_map(|m| &m.services)
            .filter_map(|(name, service)| {
                let inside = ContainerPort {
                    port: service.port,
                    protocol: service.protocol,
                };
                Some((name.clone(), container.ports.get(&inside)?.port()))
            })
            .collect();
        SlotState {
            instance: container.owner.instance.clone(),
            state: phase,
            addr: self.inputs.host.surroundings.host_ip,
            ports,
        }
    }

    fn state_write(&self, state: SlotState) -> Write {
        Write::State {
            slot: self.slot.clone(),
            state,
            held: self.claim.modified,
            seen: self.view.state.as_ref().map_or(0, |s| s.modified),
        }
    }

    fn good(&self) -> Option<Write> {
        let version = self.container.versions.get(&self.claim.manifest_rev)?;
        if version.version.good {
            return None;
        }
        Some(Write::Good {
            container: self.slot.container.clone(),
            rev: self.claim.manifest_rev,
            version: crate::records::Version {
                good: true,
                ..version.version.clone()
            },
            seen: version.modified,
        })
    }

    /// Restarts of the instance that earlier agents counted.
    fn restarts_before(&self) -> u32 {
        self.memory
            .and_then(|m| m.before.as_ref())
            .filter(|(instance, _)| *instance == self.claim.instance)
            .map_or(0, |(_, restarts)| *restarts)
    }

    /// What people read of this slot.
    fn status(&self, current: Option<&ObservedContainer>, out: &Out) -> Status {
        let memory = current.and_then(|c| self.instance(c));
        let running = current.and_then(ObservedContainer::running);
        Status {
            instance: self.claim.instance.clone(),
            host: self.inputs.host.name.clone(),
            progress: out.progress.to_owned(),
            manifest_rev: out.about.unwrap_or(self.claim.manifest_rev),
            reason: out.reason.clone(),
            container_id: current.map(|c| c.docker_id.clone()),
            restarts: memory.map_or(0, |m| m.ends) + self.restarts_before(),
            started_at: running.map(|r| r.started_at / 1000),
            log: if out.progress == "failed" {
                memory.map(|m| m.log.clone()).unwrap_or_default()
            } else {
                Vec::new()
            },
        }
    }
}

/// Lets out what may go now, and notes the rest.
fn emit(ctx: &Ctx<'_>, current: Option<&ObservedContainer>, mut out: Out, plan: &mut Plan) {
    let local = ctx.inputs.local;
    let work = Work::Slot(ctx.slot.clone());
    let revision = ctx.inputs.snapshot.revision;
    let behind = local.is_ahead_of(&work, revision, ctx.inputs.now);
    let status = ctx.status(current, &out);
    if let Some(reason) = &out.reason {
        plan.waiting.insert(ctx.slot.clone(), reason.clone());
    }
    let waits_for_backoff = current
        .and_then(|c| ctx.instance(c))
        .map(|m| m.backoff.next_try())
        .filter(|at| *at > ctx.inputs.now);
    if let Some(at) = waits_for_backoff {
        plan.requeue(at);
    }
    if ctx.inputs.trust == Trust::Full {
        if out.write.is_none() {
            out.write = status_write(ctx, &status, plan);
        }
        let shared = Work::Container(ctx.slot.container.clone());
        if let Some(write) = out.shared.take() {
            let free = !local.writing.contains(&shared)
                && !local.is_ahead_of(&shared, revision, ctx.inputs.now)
                && !plan.writes.iter().any(|w| w.work() == shared);
            if free {
                plan.writes.push(write);
            }
        }
        if let Some(write) = out.write.take()
            && !behind
            && !local.writing.contains(&work)
        {
            plan.writes.push(write);
        }
        plan.statuses.insert(ctx.slot.clone(), status);
    }
    if let Some(step) = out.step
        && !behind
        && !local.busy.contains(&work)
    {
        plan.steps.push(step);
    }
}

/// A status that has held for a moment and is not written yet.
fn status_write(ctx: &Ctx<'_>, status: &Status, plan: &mut Plan) -> Option<Write> {
    if ctx.memory.and_then(|m| m.status.as_ref()) == Some(status) {
        return None;
    }
    let since = ctx
        .memory
        .and_then(|m| m.status_now.as_ref())
        .filter(|(now, _)| now == status)
        .map_or(ctx.inputs.now, |(_, since)| *since);
    let holds = match status.progress.as_str() {
        "ready" | "failed" | "waiting" => STATUS_HOLDS,
        _ => PROGRESS_HOLDS,
    };
    if ctx.inputs.now < since + holds {
        plan.requeue(since + holds);
        return None;
    }
    Some(Write::Status {
        slot: ctx.slot.clone(),
        status: status.clone(),
        held: ctx.claim.modified,
    })
}
