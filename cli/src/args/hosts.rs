//! `hosts`, `pause`, `activate`, `leave` and `label`.

use clap::{Args, Subcommand};
use manifests::HostName;

use super::values::label_change;

/// `dokkaa hosts`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa hosts
  dokkaa hosts -o wide                  with agent and Docker Engine
  dokkaa hosts -o json | jq -r '.hosts[] | select(.state == \"missing\").host'
  dokkaa hosts rm h3                    forget a host that will not come back
  dokkaa hosts --check                  is there a firewall between them?

CPUS and MEMORY are what the host has, DISK is the usage of Docker's disk,
FOREIGN the number of running containers that dokkaa did not start: they are
left alone, but count for the placement. IMAGES is the engine's image store,
PROXY its userland proxy, where the engine says so (29.5).

A missing host keeps its data and maybe its containers; its slots run on other
hosts, except those with a local volume. `hosts rm` gives that data up, so it
lists the slots and asks. A live host leaves instead: dokkaa leave.

--check makes each host connect to the peer port of each other one and to a
port of its --port-range: one of an instance, or one that its agent opens for
some seconds. It lists what is in the way with the command that opens it, and
exits with 1 then. At most 32 hosts are tried, over TCP only.")]
pub(crate) struct HostsArgs {
    /// Try whether the hosts reach each other, each from each
    #[arg(long)]
    pub(crate) check: bool,
    /// What to do instead of listing
    #[command(subcommand)]
    pub(crate) action: Option<HostsAction>,
}

/// Subcommands of `dokkaa hosts`.
#[derive(Debug, Subcommand)]
pub(crate) enum HostsAction {
    /// Forget a missing host, and the data on it
    Rm(HostsRmArgs),
}

/// `dokkaa hosts rm`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa hosts rm h3
  dokkaa hosts rm h3 --yes              without confirmation")]
pub(crate) struct HostsRmArgs {
    /// Host to forget
    #[arg(value_name = "HOST")]
    pub(crate) host: HostName,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
}

pub(super) const PAUSE_EXAMPLES: &str = "Examples:
  dokkaa pause h2                       before maintenance
  dokkaa activate h2                    gets slots again

Containers on it keep running. To move them away: dokkaa drain.";

/// `dokkaa activate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa activate h2                    after `pause`, `drain` or `leave`
  dokkaa activate h2 --return --wait    what `drain` moved away comes back

Without --return what was moved away does not come back at once: when nothing
else is under way, slots move to hosts that have fewer, one after the other.
With it two at a time do, each ready here before it stops there. Those that
another host runs with a local volume stay with it.

With --wait, exits with 0 when they are back, with 4 when the host is not
active any more, with 5 after --timeout.")]
pub(crate) struct ActivateArgs {
    /// Host to activate
    #[arg(value_name = "HOST")]
    pub(crate) host: HostName,
    /// Bring back the slots that it had when it was drained
    #[arg(long)]
    pub(crate) r#return: bool,
    /// Wait until they are back
    #[arg(short, long, requires = "return")]
    pub(crate) wait: bool,
}

/// `dokkaa pause`.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// Host
    #[arg(value_name = "HOST")]
    pub(crate) host: HostName,
}

/// `dokkaa drain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa drain h2 --wait && ssh h2 reboot
  dokkaa activate h2 --return           gets its slots back
  dokkaa drain h2 --force-volumes       moves slots without their data, too

Each slot runs on another host, ready, before it stops on this one. The host
stays in the cluster, also while it is restarted. Slots with a local volume and
those that no other host can run stay, and stop with the host. With
--force-volumes those with a local volume go, too, and begin with empty volumes
elsewhere; their data stays on this host and does not follow them.

With --wait, exits with 0 when nothing is left that can move, with 4 when the
host was activated again or slots stay on it, with 5 after --timeout.")]
pub(crate) struct DrainArgs {
    /// Host to drain
    #[arg(value_name = "HOST")]
    pub(crate) host: HostName,
    /// Wait until its slots run elsewhere
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// Move slots with local volumes, too; their data stays on the host
    #[arg(long)]
    pub(crate) force_volumes: bool,
    /// Do not ask whether to leave data behind
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// `dokkaa leave`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa leave                          the host whose agent answers
  dokkaa leave h3
  dokkaa leave h3 --yes --no-wait       without confirmation, in the background

Each slot runs on another host before it stops on this one. Slots with a local
volume cannot move: they stop last, and wait until the host is back or `dokkaa
volumes release` gives up their data. Then the host is removed from the cluster
and its agent exits. Ctrl-C only ends the waiting; dokkaa activate takes the
host back.

Exits with 0 when the host has left, with 4 when it was activated again, with 5
after --timeout.")]
pub(crate) struct LeaveArgs {
    /// Host to remove [default: the one whose agent answers]
    #[arg(value_name = "HOST")]
    pub(crate) host: Option<HostName>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Do not wait until it has left
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// `dokkaa label`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa label h1 disk=ssd zone=a
  dokkaa label h1 zone-                 NAME- removes a label

These labels override those of the agent's --label, and are kept when it
restarts. Manifests use them in placement.constraints.")]
pub(crate) struct LabelArgs {
    /// Host to label
    #[arg(value_name = "HOST")]
    pub(crate) host: HostName,
    /// Labels: `disk=ssd`, `zone-`
    #[arg(required = true, value_name = "NAME=VALUE|NAME-", value_parser = label_change)]
    pub(crate) changes: Vec<(String, Option<String>)>,
}
