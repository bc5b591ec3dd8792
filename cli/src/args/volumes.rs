//! `volumes`.

use clap::{Args, Subcommand};
use manifests::{HostName, SlotId};

use super::values::{Selection, selection, slot};

/// `dokkaa volumes`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa volumes
  dokkaa volumes shop -o json
  dokkaa volumes adopt shop/db/0        use existing volumes, whoever made them
  dokkaa volumes release shop/db/0      let the slot start without its data
  dokkaa volumes rm shop/db/0           delete the data of a removed slot

A slot with a local volume runs only on the host that has the volume, as long as
that host is a member of the cluster. Data on missing and removed hosts is
listed, too. A slot whose volume is lost waits until a volume of that name is
restored in Docker or the slot is released. One whose container is hidden by
another storage driver of Docker may still run, and waits until it is adopted.")]
pub(crate) struct VolumesArgs {
    /// What to do instead of listing
    #[command(subcommand)]
    pub(crate) action: Option<VolumesAction>,
    /// Only of this app or container
    #[arg(value_name = "APP|APP/CONTAINER", value_parser = selection)]
    pub(crate) of: Option<Selection>,
}

/// Subcommands of `dokkaa volumes`.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumesAction {
    /// Give a slot the existing volumes of its name
    #[command(after_help = ADOPT_EXAMPLES)]
    Adopt(AdoptArgs),
    /// Let a slot start on any host, without its data
    #[command(after_help = RELEASE_EXAMPLES)]
    Release(PinArgs),
    /// Delete the data of a slot
    #[command(after_help = RM_EXAMPLES)]
    Rm(PinArgs),
}

const ADOPT_EXAMPLES: &str = "Examples:
  dokkaa volumes adopt shop/db/0              a waiting slot starts with them
  dokkaa volumes adopt shop/db/0 --host h2    they were copied to h2 by hand

Volumes of another cluster or made by hand are not used until they are adopted,
nor those of a container that another storage driver of Docker hides.
Their names in Docker are those of the slot: shop---db---0---NAME. With --host,
a slot that is on no host is pinned to that one.";

const RELEASE_EXAMPLES: &str = "Examples:
  dokkaa volumes release shop/db/0

The data stays in Docker, and dokkaa forgets it. The slot starts on any host
with an empty volume. This is refused while the slot runs on a host that does
not leave (it would be pinned there again at once), unless the volume is lost.";

const RM_EXAMPLES: &str = "Examples:
  dokkaa rm shop/db && dokkaa volumes rm shop/db/0

Only while no container of the slot exists, and only on a live host.";

/// `dokkaa volumes adopt`.
#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    #[command(flatten)]
    pub(crate) pin: PinArgs,
    /// Host that has them [default: the one that the slot is pinned to]
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<HostName>,
}

/// `dokkaa volumes release`, `dokkaa volumes rm`.
#[derive(Debug, Args)]
pub(crate) struct PinArgs {
    /// Slot whose data it is
    #[arg(value_name = "APP/CONTAINER/SLOT", value_parser = slot)]
    pub(crate) slot: SlotId,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
}
