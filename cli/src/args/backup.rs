//! `backup` and `restore`.

use std::path::PathBuf;

use clap::Args;

/// `dokkaa backup`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa backup cluster.json
  dokkaa backup | jq -r '.manifests | keys[]'

One JSON document: manifests, labels and availability of hosts, settings, the
cluster ID, and which slot's local volumes are where. It does not say what runs
where: the hosts know that. The same cluster gives the same text. Manifests may
hold passwords: the file is readable by its owner only.

While the agent is in hold, or etcd is empty, it fails and leaves the file as it
is.")]
pub(crate) struct BackupArgs {
    /// File to write [default: standard output]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// `dokkaa restore`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa restore cluster.json --dry-run     print what it would write
  dokkaa restore cluster.json               existing keys that differ are kept
  dokkaa restore cluster.json --overwrite   existing keys are overwritten
  dokkaa restore cluster.json --new-cluster only manifests, of another cluster
  dokkaa restore --accept                   end a hold with etcd as it is

After the loss of etcd, into an empty one, on the same machines: agents are in
hold, and running containers keep running. The manifests are written, then the
cluster key; agents then end the hold and find their containers again. A second
run writes nothing. Where a slot's local volumes are is written only where
nothing says it, also with --overwrite.

After etcd was restored from a snapshot, agents are in hold, too: restore what
is missing, then --accept. It prints by host what would stop, and asks.")]
pub(crate) struct RestoreArgs {
    /// Backup, `-` for standard input
    #[arg(value_name = "FILE", required_unless_present = "accept")]
    pub(crate) file: Option<PathBuf>,
    /// End the hold of agents with etcd as it is
    #[arg(long, conflicts_with_all = ["file", "overwrite", "new_cluster", "dry_run"])]
    pub(crate) accept: bool,
    /// Overwrite keys that differ
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// The backup is of another cluster: restore only its manifests
    #[arg(long)]
    pub(crate) new_cluster: bool,
    /// Only print what would be written
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
}
