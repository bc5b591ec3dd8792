//! `history`, `rollback`.

use clap::Args;
use manifests::ContainerId;

use super::values::container;

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

Writes the earlier manifest again, all of it: also the scale that it had. What
changes is printed. The slots follow in turn, as in any update; those that still
run that version are kept, and its image is the one that it had. Without --to it
is the newest good version before the one that is wanted, or where none was
good, the one before it; a restart is no version to go back to. Nothing is
written if somebody changes the manifest at the same time.")]
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
