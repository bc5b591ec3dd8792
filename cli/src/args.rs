//! The command line: every command, flag and help text, and nothing of what they do.

pub(crate) mod addresses;
mod agent;
mod backup;
mod global;
mod hosts;
mod lists;
mod local;
mod logs;
mod manifests;
mod parse;
mod plan;
pub(crate) mod settings;
mod updates;
pub(crate) mod values;
mod volumes;

use clap::{Parser, Subcommand};

pub(crate) use agent::{AgentArgs, EtcdArgs, OtherNamesArgs, STATE_DIR};
pub(crate) use backup::{BackupArgs, RestoreArgs};
pub(crate) use global::{DEFAULT_ADDR, Format, GlobalArgs};
pub(crate) use hosts::{
    ActivateArgs, DrainArgs, HostArgs, HostsAction, HostsArgs, HostsRmArgs, LabelArgs, LeaveArgs,
};
pub(crate) use lists::{
    AppsArgs, CompletionArgs, DnsAction, DnsArgs, DnsInstallArgs, PsArgs, WhyArgs,
};
pub(crate) use local::{DownCommand, EtcdEnvArgs, ResetIdArgs, UpCommand};
pub(crate) use logs::{EventsArgs, LogsArgs};
pub(crate) use manifests::{ApplyArgs, GetArgs, RmArgs, ScaleArgs, SetArgs, ValidateArgs};
#[cfg(test)]
pub(crate) use parse::parse_without_variables;
pub(crate) use parse::{ParseError, command, parse};
pub(crate) use plan::{DiffArgs, ManifestsOf, PlanArgs};
pub(crate) use updates::{
    HistoryArgs, RestartArgs, RollbackArgs, RolloutAction, RolloutArgs, RolloutOf, VerbArgs,
};
pub(crate) use values::{LogsOf, Selection};
pub(crate) use volumes::{AdoptArgs, PinArgs, VolumesAction, VolumesArgs};

use crate::cloud_config::CloudConfigArgs;

/// Run containers on a cluster of Docker hosts
#[derive(Debug, Parser)]
#[command(
    name = "dokkaa",
    version,
    propagate_version = false,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "Start with:
  dokkaa up                                 a cluster on this machine
  dokkaa apply shop/web web.json --wait     run a manifest
  dokkaa ps                                 every slot, and why it waits

Each command has --help with examples.

Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 invalid manifest;
4 rollout failed; 5 --wait timed out; 6 no agent reached; 10 `plan` has changes."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Local(LocalCommand),
    #[command(flatten)]
    User(UserCommand),
}

/// Commands of this machine.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalCommand {
    /// Run a cluster on this machine: the agent and an etcd of its own
    Up(Box<UpCommand>),
    /// Stop what `dokkaa up` runs; manifests and volumes stay
    Down(DownCommand),
    /// Print what etcdctl needs to reach the etcd of `dokkaa up`
    EtcdEnv(EtcdEnvArgs),
    /// Run the agent of a host
    #[command(after_help = agent::EXAMPLES)]
    Agent(Box<AgentArgs>),
    /// Give this machine an identity of its own, after its disk was copied
    ResetId(ResetIdArgs),
    /// Print user data for new hosts, or the agent's systemd unit
    CloudConfig(CloudConfigArgs),
}

/// Commands that ask an agent, and those that need none.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Check manifests without a cluster
    Validate(ValidateArgs),
    /// Say what writing manifests would do, before anything changes
    Plan(PlanArgs),
    /// Compare manifests with those of the cluster, field by field
    Diff(DiffArgs),
    /// Write manifests, and with --wait follow their rollout
    Apply(ApplyArgs),
    /// Print a manifest as it was written
    Get(GetArgs),
    /// Change fields of a manifest
    Set(SetArgs),
    /// Change the number of slots of containers
    Scale(ScaleArgs),
    /// List the versions of a container, and what differs between them
    History(HistoryArgs),
    /// Write an earlier version of a manifest back
    Rollback(RollbackArgs),
    /// Show, pause, resume or watch the update of a container
    #[command(disable_help_subcommand = true)]
    Rollout(RolloutArgs),
    /// Replace the instances of an app or a container, slot after slot
    #[command(after_help = updates::RESTART_EXAMPLES)]
    Restart(RestartArgs),
    /// Stop an app or a container; its manifest, scale and volumes stay
    #[command(after_help = updates::STOP_EXAMPLES)]
    Stop(VerbArgs),
    /// Start an app or a container that was stopped
    #[command(after_help = updates::START_EXAMPLES)]
    Start(VerbArgs),
    /// List apps and their containers: ready slots, image, problems
    Apps(AppsArgs),
    /// List slots: host, status, ports, and why they wait
    Ps(PsArgs),
    /// List hosts: state, capacity, problems
    #[command(disable_help_subcommand = true)]
    Hosts(HostsArgs),
    /// Give a host no more slots; it keeps those it has
    #[command(after_help = hosts::PAUSE_EXAMPLES)]
    Pause(HostArgs),
    /// Move the slots of a host to others, before maintenance
    Drain(DrainArgs),
    /// Give a host slots again, after `pause`, `drain` or `leave`
    Activate(ActivateArgs),
    /// Drain a host and remove it from the cluster
    Leave(LeaveArgs),
    /// Add or remove host labels
    Label(LabelArgs),
    /// List local volumes: which slot is pinned to which host
    #[command(disable_help_subcommand = true)]
    Volumes(VolumesArgs),
    /// Save all manifests and settings to a file
    Backup(BackupArgs),
    /// Restore a backup, or end a hold
    Restore(RestoreArgs),
    /// Summarize cluster health
    #[command(after_help = "Examples:
  dokkaa status
  dokkaa status -o json --addr http://10.0.0.1:4001")]
    Status,
    /// Print the output of containers, from any host
    Logs(LogsArgs),
    /// List recent events of all hosts: starts, exits, moves, failures
    Events(EventsArgs),
    /// Remove an app or a container; volumes stay, unless --volumes
    Rm(RmArgs),
    /// Explain a container: each slot, each host's reason, each link
    Why(WhyArgs),
    /// Explain a name in DNS: its records, and what is not among them
    Dns(DnsArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Print the version
    Version,
}
