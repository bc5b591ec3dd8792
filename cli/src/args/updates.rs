//! `history`, `rollback`, `rollout`, `restart`, `stop` and `start`.

use clap::{Args, Subcommand};
use manifests::ContainerId;

use super::values::{Selection, container, selection};

/// `dokkaa history`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa history shop/web
  dokkaa history shop/web --diff 1207        from version 1207 to now
  dokkaa history shop/web --diff 1207 1311
  dokkaa history shop/web -o json | jq '.versions[0].manifest'

A version is a manifest that means another container than the one before, with
the image that was decided on; its number is the manifest's revision. * marks
the one that is wanted, GOOD those that have stayed ready once. The last five
and the last good one are kept, until the manifest is removed.")]
pub(crate) struct HistoryArgs {
    /// Container
    #[arg(value_name = "APP/CONTAINER", value_parser = container)]
    pub(crate) container: ContainerId,
    /// Print the fields that differ: from this version to another, or to now
    #[arg(long, num_args = 1..=2, value_name = "VERSION")]
    pub(crate) diff: Option<Vec<i64>>,
}

/// `dokkaa rollback`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa rollback shop/web --wait
  dokkaa rollback shop/web --to 1207         a version of `dokkaa history`

Writes the earlier manifest again, all of it but its scale, which stays. What
changes is printed. The slots follow in turn, as in any update; those that still
run that version are kept, and its image is the one that it had. Without --to it
is the newest good version before the one that is wanted, or where none was
good, the one before it; a restart is no version to go back to. Nothing is
written if somebody changes the manifest at the same time.

Where the manifest is the same and has an image_policy, only the image goes
back: the manifest is not written, and the image is not replaced again before
the registry has one that is newer than the one gone back from.")]
pub(crate) struct RollbackArgs {
    /// Container
    #[arg(value_name = "APP/CONTAINER", value_parser = container)]
    pub(crate) container: ContainerId,
    /// Version to go back to [default: the last good one before]
    #[arg(long, value_name = "VERSION")]
    pub(crate) to: Option<i64>,
    /// Wait until every slot is ready on it
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `dokkaa rollout`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa rollout status shop/web        how far each slot is, and why it waits
  dokkaa rollout pause shop/web         no further slot is updated
  dokkaa rollout resume shop/web
  dokkaa rollout watch shop/web         follow it to its end, as apply --wait")]
pub(crate) struct RolloutArgs {
    #[command(subcommand)]
    pub(crate) action: RolloutAction,
}

/// Subcommands of `dokkaa rollout`.
#[derive(Debug, Subcommand)]
pub(crate) enum RolloutAction {
    /// Show how far the update of a container is
    #[command(after_help = STATUS_EXAMPLES)]
    Status(RolloutOf),
    /// Begin with no further slot
    #[command(after_help = PAUSE_EXAMPLES)]
    Pause(RolloutOf),
    /// Go on with an update that is paused or halted
    #[command(after_help = RESUME_EXAMPLES)]
    Resume(RolloutOf),
    /// Follow an update to its end
    #[command(after_help = WATCH_EXAMPLES)]
    Watch(RolloutOf),
}

const STATUS_EXAMPLES: &str = "Examples:
  dokkaa rollout status shop/web
  dokkaa rollout status shop/web -o json | jq '.containers[0].update'

UPDATE is `done` for a slot that runs the version and has stayed ready for
`monitor` of the manifest's `update`, `watched` until then, `updating` while its
new instance is made, `waiting` until its turn comes, `paused`; `failed`, and
`kept` for those that an update which was halted left as they are; `went back`.

Exits with 4 when the update has failed, as --wait does, and else with 0.";

const PAUSE_EXAMPLES: &str = "Examples:
  dokkaa rollout pause shop/web

Slots whose turn has come end it. The next version (an apply, a set, a rollback)
is not paused.";

const RESUME_EXAMPLES: &str = "Examples:
  dokkaa rollout resume shop/web

Takes the pause away, and what is known of slots that have failed: an update
that was halted is tried again, and halts again where it still fails.";

const WATCH_EXAMPLES: &str = "Examples:
  dokkaa rollout watch shop/web
  dokkaa rollout watch shop/web --timeout 10m

Exits with 0 when every slot runs the version and has proven itself, with 4 when
the update failed or the manifest was changed, with 5 after --timeout.";

/// `dokkaa rollout status|pause|resume|watch`.
#[derive(Debug, Args)]
pub(crate) struct RolloutOf {
    /// Container
    #[arg(value_name = "APP/CONTAINER", value_parser = container)]
    pub(crate) container: ContainerId,
}

pub(super) const RESTART_EXAMPLES: &str = "Examples:
  dokkaa restart shop/web --wait
  dokkaa restart shop                   every container of the app
  dokkaa restart shop/web --slot 2      one of its slots

Writes the time as `restarted_at` into the manifest: every instance is replaced,
slot after slot, as in an update. With --slot the manifest stays as it is, and
the other slots are not touched: a new instance of the same version takes the
place of the one that runs, in its turn where others are being updated. Where
both can't run at once, the old one is stopped first.";

pub(super) const STOP_EXAMPLES: &str = "Examples:
  dokkaa stop shop/web --wait
  dokkaa stop shop                      every container of the app

Writes `stopped` into the manifest: nothing of it runs, and it keeps its scale,
its versions and its volumes. `dokkaa start` takes that back.";

pub(super) const START_EXAMPLES: &str = "Examples:
  dokkaa start shop/web --wait
  dokkaa start shop                     every container of the app

Takes `stopped` out of the manifest: as many slots run as its scale says.";

/// `dokkaa restart`.
#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    pub(crate) verb: VerbArgs,
    /// This slot of the container alone
    #[arg(long, value_name = "N")]
    pub(crate) slot: Option<u32>,
}

/// `dokkaa stop`, `dokkaa start`, and `dokkaa restart` without --slot.
#[derive(Debug, Args)]
pub(crate) struct VerbArgs {
    /// App or container
    #[arg(value_name = "APP|APP/CONTAINER", value_parser = selection)]
    pub(crate) of: Selection,
    /// Wait until it is done
    #[arg(long)]
    pub(crate) wait: bool,
}
