//! The making of a container.

use manifests::InstanceId;
use model::records::Progress;
use model::volumes;
use model::{Action, Fault, Prepare};

use super::ctx::{Ctx, Decision};
use crate::output::Notes;
use crate::rollout::Target;
use crate::waiting::Waiting;

/// Makes a container, pulling what lacks; it is not started.
pub(super) fn prepare(
    ctx: &Ctx<'_>,
    target: &Target<'_>,
    instance: &InstanceId,
    temporary_name: bool,
    notes: &mut Notes,
) -> Decision {
    let Target::Decided {
        rev,
        version,
        manifest,
    } = target
    else {
        return Decision::new(Progress::Unknown, None);
    };
    let trouble = ctx.memory.map(|m| &m.trouble).filter(|t| t.rev == *rev);
    let waits = trouble.is_some_and(|t| t.fault == Fault::Data);
    if let Some(trouble) = trouble {
        let again = trouble.next_try();
        if again > ctx.inputs.now {
            notes.requeue(again);
            let progress = if waits {
                Progress::Waiting
            } else {
                Progress::Failed
            };
            let reason = Some(Waiting::Attempt(trouble.reason.clone()));
            let mut decision = Decision::new(progress, reason).about(*rev);
            decision.shared = ctx.not_made(target, trouble, notes);
            return decision;
        }
    }
    let pulls = ctx
        .memory
        .and_then(|m| m.pull_progress.clone())
        .map(Waiting::Pulling);
    let progress = match pulls {
        Some(_) => Progress::Pulling,
        None if waits => Progress::Waiting,
        None => Progress::Creating,
    };
    let reason = trouble
        .map(|t| t.reason.clone())
        .filter(|reason| !reason.is_empty())
        .map(Waiting::Attempt);
    Decision::new(progress, pulls.or(reason))
        .about(*rev)
        .action(Action::Prepare(Prepare {
            slot: ctx.slot.clone(),
            instance: instance.clone(),
            rev: *rev,
            manifest: (*manifest).clone(),
            image: version.version.image.clone(),
            content: version.version.content.clone(),
            hash: version.hash.clone().unwrap_or_default(),
            temporary_name,
            existing: volumes::existing(ctx.inputs.host, Some(ctx.view)).to_vec(),
            driver: volumes::driver(ctx.inputs.host, Some(ctx.view)).map(ToOwned::to_owned),
            before: false,
        }))
}
