//! The command line: every command, flag and help text, and nothing of what they do.
//!
//! The agent's flags are texts here; `config` merges them with the environment
//! and reads them, so that both are judged by the same rules.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use manifests::{AppName, ContainerId, HostName, SlotId};

use crate::cloud_config::CloudConfigArgs;
use crate::down::DownArgs;
use crate::up::UpArgs;

/// Where the CLI looks for an agent's API unless told otherwise.
pub(crate) const DEFAULT_ADDR: &str = "http://127.0.0.1:4001";

/// dokkaa runs containers on a cluster of Docker hosts: put a manifest in, the hosts do the rest.
#[derive(Debug, Parser)]
#[command(
    name = "dokkaa",
    version,
    propagate_version = false,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "Start with:\n  dokkaa up                                 a cluster on this machine\n  dokkaa apply shop/web web.json --wait     run a manifest\n  dokkaa ps                                 every slot, and why it waits\n\nEach command has --help with examples.\n\nExit codes: 0 done; 1 failed; 2 usage or configuration; 3 invalid manifest;\n4 --wait failed; 5 --wait timed out; 6 no agent reached."
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What is done on this machine.
    #[command(flatten)]
    Local(LocalCommand),
    /// What is asked of an agent.
    #[command(flatten)]
    User(UserCommand),
}

/// What is done on this machine.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalCommand {
    /// Run a cluster on this machine: the agent and an etcd of its own
    #[command(after_help = UP_EXAMPLES)]
    Up(Box<UpCommand>),
    /// Stop what `dokkaa up` runs; manifests and volumes stay
    #[command(after_help = DOWN_EXAMPLES)]
    Down(DownCommand),
    /// Print what etcdctl needs to reach the etcd of `dokkaa up`
    #[command(after_help = ETCD_ENV_EXAMPLES)]
    EtcdEnv(EtcdEnvArgs),
    /// Run this host of a cluster
    #[command(after_help = AGENT_EXAMPLES)]
    Agent(Box<AgentArgs>),
    /// Print user data that sets up hosts, or the agent's systemd unit
    CloudConfig(CloudConfigArgs),
}

/// What is asked of an agent, and what needs none.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Check manifests without a cluster
    #[command(after_help = VALIDATE_EXAMPLES)]
    Validate(ValidateArgs),
    /// Write manifests, and with --wait see them run
    #[command(after_help = APPLY_EXAMPLES)]
    Apply(ApplyArgs),
    /// Print a manifest as it was written
    #[command(after_help = GET_EXAMPLES)]
    Get(GetArgs),
    /// Change fields of a manifest
    #[command(after_help = SET_EXAMPLES)]
    Set(SetArgs),
    /// Change how many slots containers have
    #[command(after_help = SCALE_EXAMPLES)]
    Scale(ScaleArgs),
    /// List apps and their containers: ready slots, image, problems
    #[command(after_help = APPS_EXAMPLES)]
    Apps(AppsArgs),
    /// List every slot: where it is, how it is, and why it waits
    #[command(after_help = PS_EXAMPLES)]
    Ps(PsArgs),
    /// List the hosts: what each has, and what is wrong there
    #[command(after_help = HOSTS_EXAMPLES, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
    Hosts(HostsArgs),
    /// Give a host no more slots; it keeps what it has
    #[command(after_help = PAUSE_EXAMPLES)]
    Pause(HostArgs),
    /// Give a host slots again, after `pause` or `leave`
    #[command(after_help = ACTIVATE_EXAMPLES)]
    Activate(HostArgs),
    /// Drain a host and remove it from the cluster
    #[command(after_help = LEAVE_EXAMPLES)]
    Leave(LeaveArgs),
    /// Add or remove host labels
    #[command(after_help = LABEL_EXAMPLES)]
    Label(LabelArgs),
    /// List local volumes: which slot is kept where by its data
    #[command(after_help = VOLUMES_EXAMPLES, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
    Volumes(VolumesArgs),
    /// Save all manifests and settings to a file
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup(BackupArgs),
    /// Put a backup back, or end a hold
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore(RestoreArgs),
    /// Summarize cluster health
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// Print the output of containers, from whichever host
    #[command(after_help = LOGS_EXAMPLES)]
    Logs(LogsArgs),
    /// Show recent events of all hosts: starts, exits, moves, failures
    #[command(after_help = EVENTS_EXAMPLES)]
    Events(EventsArgs),
    /// Remove an app or a container; volumes stay, unless --volumes
    #[command(after_help = RM_EXAMPLES)]
    Rm(RmArgs),
    /// Explain a container: each slot, each host's reason, each link
    #[command(after_help = WHY_EXAMPLES)]
    Why(WhyArgs),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion(CompletionArgs),
    /// Print the version
    Version,
}

const UP_EXAMPLES: &str = "Examples:
  dokkaa up                             in the foreground, Ctrl-C ends it
  dokkaa up --detach                    returns when it is ready
  dokkaa up --keys-listen 127.0.0.1:5001

It takes the agent's flags, too (dokkaa agent --help). Services are published on
the bridge's gateway: reachable from this machine and its containers only.";

const DOWN_EXAMPLES: &str = "Examples:
  dokkaa down                           the next `dokkaa up` brings everything back
  dokkaa down --purge                   manifests go too; volumes stay";

const ETCD_ENV_EXAMPLES: &str = "Examples:
  eval \"$(dokkaa etcd-env)\" && etcdctl get --prefix /apps/";

const VALIDATE_EXAMPLES: &str = "Examples:
  dokkaa validate nginx.json
  dokkaa validate manifests/            every <app>/<container>.json below
  generate | dokkaa validate -";

const APPLY_EXAMPLES: &str = "Examples:
  dokkaa apply shop/web web.json
  dokkaa apply shop/web - < web.json
  dokkaa apply shop/web web.json --wait --timeout 2m
  dokkaa apply manifests/               every <app>/<container>.json below; all are
                                        checked before the first is written

--wait ends with 0 when every slot is ready on this manifest, with 4 when it
failed (the slot, its reason and its last log lines are printed) or when no host
may take a slot for 10 s (with --timeout it waits on), with 5 after --timeout.
Ctrl-C ends the wait only.";

const GET_EXAMPLES: &str = "Examples:
  dokkaa get shop/web
  dokkaa get shop/web > web.json";

const SET_EXAMPLES: &str = "Examples:
  dokkaa set shop/web image=nginx:1.27
  dokkaa set shop/web env.LEVEL=debug env.OLD-          KEY- takes a field away
  dokkaa set shop/web scale=3 services.web.port=8080 --wait

The manifest is read, changed and written only if nobody changed it meanwhile;
if somebody did, it is read again. Values are JSON where that fits the field
(links='[\"db\"]'), else text.";

const SCALE_EXAMPLES: &str = "Examples:
  dokkaa scale shop/web=3
  dokkaa scale shop/web=3 shop/worker=0 --wait";

const APPS_EXAMPLES: &str = "Examples:
  dokkaa apps
  dokkaa apps shop
  dokkaa apps -o json | jq -r '.apps[].containers[].image'

What is scaled to 0 is listed, too. Each slot: dokkaa ps.";

const PS_EXAMPLES: &str = "Examples:
  dokkaa ps
  dokkaa ps shop
  dokkaa ps -o wide                     with image, version and container id
  dokkaa ps shop/web --watch
  dokkaa ps -o json | jq '.slots[] | select(.status != \"ready\")'

PORTS: where each service listens on the slot's host; (public) marks a host_port
that is open to the world.";

const HOSTS_EXAMPLES: &str = "Examples:
  dokkaa hosts
  dokkaa hosts -o wide                  with FOREIGN and AGENT
  dokkaa hosts -o json | jq -r '.hosts[] | select(.state == \"missing\").host'
  dokkaa hosts rm h3                    forget a host that will not come back

CPUS and MEMORY are what the host has, DISK how full Docker's disk is, FOREIGN the
running containers that dokkaa did not start: it leaves them alone, but counts them
where it looks for the emptiest host.

A host that is missing keeps its data and perhaps its containers; others have
taken its slots over, but for those with a local volume. `hosts rm` gives that
data up, so it lists the slots and asks. A host that is live leaves instead:
dokkaa leave.";

const HOSTS_RM_EXAMPLES: &str = "Examples:
  dokkaa hosts rm h3
  dokkaa hosts rm h3 --yes              without a question";

const PAUSE_EXAMPLES: &str = "Examples:
  dokkaa pause h2                       before a look at what is wrong there
  dokkaa activate h2                    takes it back

What runs there runs on. To get it away: dokkaa leave.";

const ACTIVATE_EXAMPLES: &str = "Examples:
  dokkaa activate h2";

const LEAVE_EXAMPLES: &str = "Examples:
  dokkaa leave                          the host whose agent answers
  dokkaa leave h3
  dokkaa leave h3 --yes --no-wait       without a question; it goes on by itself

Each slot runs on another host before it stops here. Slots with a local volume
can't: they end last, and wait until the host is back or `dokkaa volumes release`
lets go of their data. Then the host is no member any more, and its agent ends.
Ctrl-C ends the display only; dokkaa activate takes the host back.

It ends with 0 when the host has left, with 4 when somebody took it back, with 5
after --timeout.";

const LABEL_EXAMPLES: &str = "Examples:
  dokkaa label h1 disk=ssd zone=a
  dokkaa label h1 zone-                 NAME- takes a label away

They win over those that the agent was started with (--label), and outlive its
restarts. Manifests name them in placement.constraints.";

const VOLUMES_EXAMPLES: &str = "Examples:
  dokkaa volumes
  dokkaa volumes shop -o json
  dokkaa volumes adopt shop/db/0        use the volumes that are there, whoever made them
  dokkaa volumes release shop/db/0      the slot may start elsewhere, without its data
  dokkaa volumes rm shop/db/0           delete the data of a slot that is not there any more

A slot with a local volume runs on the host that has it and nowhere else, as long
as that host is a member. Data on a host that is missing or gone is named here,
too: nothing is forgotten by itself. A slot whose volume is lost waits, until the
volume is restored under its name in Docker or the slot is released.";

const ADOPT_EXAMPLES: &str = "Examples:
  dokkaa volumes adopt shop/db/0              what waits for it starts with them
  dokkaa volumes adopt shop/db/0 --host h2    they were brought to h2 by hand

Volumes of another cluster, and such as were made by hand, are not used before
somebody has said so here. They are the ones of the slot's name in Docker:
shop---db---0---NAME. With --host, a slot that no host has is kept on that one
from now on.";

const RELEASE_EXAMPLES: &str = "Examples:
  dokkaa volumes release shop/db/0

The data stays where it is, under Docker's name for it; dokkaa forgets it. The
slot starts on any host with an empty volume. While it runs on a host that does
not leave, it would be kept there at once again: then this is refused, unless the
volume is lost.";

const VOLUMES_RM_EXAMPLES: &str = "Examples:
  dokkaa rm shop/db && dokkaa volumes rm shop/db/0

Only while no container of the slot exists, and only on a host that is live.";

const BACKUP_EXAMPLES: &str = "Examples:
  dokkaa backup cluster.json
  dokkaa backup | jq -r '.manifests | keys[]'

One JSON document: manifests, labels and availability of hosts, settings, the id
of the cluster. Not what runs where: the hosts know that. The same cluster gives
the same text. Manifests may hold passwords: the file is its owner's only.";

const RESTORE_EXAMPLES: &str = "Examples:
  dokkaa restore cluster.json --dry-run     what it would write
  dokkaa restore cluster.json               what is there and differs stays
  dokkaa restore cluster.json --overwrite   the backup wins
  dokkaa restore cluster.json --new-cluster the manifests only, into another cluster
  dokkaa restore --accept                   end a hold with etcd as it is

Into an etcd that was lost and is empty, on the machines of the cluster: agents are
in hold and what runs runs on; the manifests are written, then the cluster key,
then they go on, and containers are found again. Done twice, it writes nothing.

Into an etcd that went back in time (a snapshot was restored), agents are in hold,
too: restore what is missing, then --accept. It shows host by host what would
stop, and asks.";

const STATUS_EXAMPLES: &str = "Examples:
  dokkaa status
  dokkaa status -o json --addr http://10.0.0.1:4001";

const LOGS_EXAMPLES: &str = "Examples:
  dokkaa logs shop                      the whole app, merged by time
  dokkaa logs shop/web                  all slots of a container
  dokkaa logs -f --tail 20 shop/web     the last 20 lines of each slot, and on
  dokkaa logs -t --since 10m shop/web/2 one slot, with times
  dokkaa logs --previous shop/web/0     the instance before this one

On a terminal control characters of the lines are left out, but for colours;
--raw prints them. In a pipe lines are as they were written. A host that does not
answer is one line on stderr, not an error.";

const EVENTS_EXAMPLES: &str = "Examples:
  dokkaa events                         the last hour, all hosts, in order of time
  dokkaa events shop/web --since 2d
  dokkaa events -f shop                 the last hour of an app, and on
  dokkaa events -o json | jq 'select(.kind == \"exited\")'

Each host keeps its own events, at most 10 MB of them; what is repeated within a
minute is one line with how often. A host that does not answer is one line on
stderr, not an error.";

const RM_EXAMPLES: &str = "Examples:
  dokkaa rm shop/web
  dokkaa rm shop --yes                  the whole app, without a question
  dokkaa rm shop/db --volumes           and its data, when it has stopped

What was kept after a restore without a manifest (an orphan) is removed by its
name, too.";

const WHY_EXAMPLES: &str = "Examples:
  dokkaa why shop/web
  dokkaa why shop/web/2                 one slot: each host, and why not there
  dokkaa why shop/web -o json";

const COMPLETION_EXAMPLES: &str = "Examples:
  dokkaa completion bash > /etc/bash_completion.d/dokkaa
  dokkaa completion zsh > \"${fpath[1]}/_dokkaa\"
  dokkaa completion fish > ~/.config/fish/completions/dokkaa.fish";

/// How an agent is reached.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ClientArgs {
    /// The API of an agent, any agent
    #[arg(long, env = "DOKKAA_ADDR", value_name = "URL", default_value = DEFAULT_ADDR)]
    pub(crate) addr: String,
    /// Token to send; agents of this version ask for none
    #[arg(
        long,
        env = "DOKKAA_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
    /// Longest time to wait for an answer, and with --wait for the end [default: 30s, with --wait 5m]
    #[arg(long, value_name = "TIME", value_parser = crate::config::duration)]
    pub(crate) timeout: Option<Duration>,
}

impl ClientArgs {
    /// The longest time for one answer.
    pub(crate) fn answer_within(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(30))
    }

    /// The longest time for `--wait`.
    pub(crate) fn converged_within(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(300))
    }
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people: columns that do not fit the terminal are left out
    #[default]
    Table,
    /// For people: all columns
    Wide,
    /// For programs
    Json,
}

/// Of every command that lists.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// How to print
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        value_name = "FORMAT",
        default_value_t
    )]
    pub(crate) format: Format,
}

/// `dokkaa validate`.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Manifests, directories of them, or `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// `dokkaa apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// `app/container` with a FILE, or a directory with files `<app>/<container>.json`
    #[arg(value_name = "APP/CONTAINER|DIR")]
    pub(crate) target: String,
    /// The manifest, `-` for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Wait until every slot is ready on what was written
    #[arg(long)]
    pub(crate) wait: bool,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Container to print
    #[arg(value_name = "APP/CONTAINER", value_parser = container)]
    pub(crate) container: ContainerId,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Container to change
    #[arg(value_name = "APP/CONTAINER", value_parser = container)]
    pub(crate) container: ContainerId,
    /// Fields: `image=nginx:1.27`, `env.LEVEL=debug`, `env.OLD-`
    #[arg(required = true, value_name = "FIELD=VALUE")]
    pub(crate) changes: Vec<String>,
    /// Wait until every slot is ready on what was written
    #[arg(long)]
    pub(crate) wait: bool,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa scale`.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// Containers to change, and how many slots each gets
    #[arg(required = true, value_name = "APP/CONTAINER=N", value_parser = scale)]
    pub(crate) scales: Vec<(ContainerId, u32)>,
    /// Wait until every slot is ready
    #[arg(long)]
    pub(crate) wait: bool,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa apps`.
#[derive(Debug, Args)]
pub(crate) struct AppsArgs {
    /// Only this app, or only this container
    #[arg(value_name = "APP|APP/CONTAINER", value_parser = selection)]
    pub(crate) of: Option<Selection>,
    /// The format.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Only this app, or only this container
    #[arg(value_name = "APP|APP/CONTAINER", value_parser = selection)]
    pub(crate) of: Option<Selection>,
    /// Keep running and show every change
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// The format.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The format.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// How `dokkaa hosts` lists.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The format.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// App, container or slot
    #[arg(value_name = "APP[/CONTAINER[/SLOT]]", value_parser = logs_of)]
    pub(crate) of: LogsOf,
    /// Follow new output
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Last N lines per slot
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) tail: Option<u32>,
    /// Only what is newer than a time (RFC 3339) or than so long ago (`10m`)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Print the time of each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Lines of the instance that ended last, instead of the present one
    #[arg(short, long, conflicts_with = "follow")]
    pub(crate) previous: bool,
    /// Print control characters to a terminal as they were written
    #[arg(long)]
    pub(crate) raw: bool,
    /// The format.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only of this app, or of this container
    #[arg(value_name = "APP|APP/CONTAINER", value_parser = selection)]
    pub(crate) of: Option<Selection>,
    /// Follow new events
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only what is newer than a time (RFC 3339) or than so long ago (`10m`, `2d`)
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) since: String,
    /// Only of the host whose agent answers
    #[arg(long)]
    pub(crate) local: bool,
    /// The format.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// App or container to remove
    #[arg(value_name = "APP|APP/CONTAINER", value_parser = selection)]
    pub(crate) of: Selection,
    /// Delete the data of its local volumes, too, when its containers have gone
    #[arg(long)]
    pub(crate) volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa hosts`.
#[derive(Debug, Args)]
pub(crate) struct HostsArgs {
    /// What to do instead of listing.
    #[command(subcommand)]
    pub(crate) action: Option<HostsAction>,
    /// How to list.
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// What is done with the list of hosts.
#[derive(Debug, Subcommand)]
pub(crate) enum HostsAction {
    /// Forget a host that is not there any more, and the data it has
    #[command(after_help = HOSTS_RM_EXAMPLES)]
    Rm(HostsRmArgs),
}

/// `dokkaa hosts rm`.
#[derive(Debug, Args)]
pub(crate) struct HostsRmArgs {
    /// Host to forget
    #[arg(value_name = "HOST")]
    pub(crate) host: HostName,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa pause`, `dokkaa activate`.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// Host to pause or activate
    #[arg(value_name = "HOST")]
    pub(crate) host: HostName,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa leave`.
#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// Host to remove [default: the one whose agent answers]
    #[arg(value_name = "HOST")]
    pub(crate) host: Option<HostName>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Do not wait until it has left
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa label`.
#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// Host to label
    #[arg(value_name = "HOST")]
    pub(crate) host: HostName,
    /// Labels: `disk=ssd`, `zone-`
    #[arg(required = true, value_name = "NAME=VALUE|NAME-", value_parser = label)]
    pub(crate) changes: Vec<(String, Option<String>)>,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa volumes`.
#[derive(Debug, Args)]
pub(crate) struct VolumesArgs {
    /// What to do instead of listing.
    #[command(subcommand)]
    pub(crate) action: Option<VolumesAction>,
    /// Only of this app, or only of this container
    #[arg(value_name = "APP|APP/CONTAINER", value_parser = selection)]
    pub(crate) of: Option<Selection>,
    /// The format.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// What is done with local volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumesAction {
    /// Give a slot the volumes of its name that a host has
    #[command(after_help = ADOPT_EXAMPLES)]
    Adopt(AdoptArgs),
    /// Let a slot start on any host, without its data
    #[command(after_help = RELEASE_EXAMPLES)]
    Release(PinArgs),
    /// Delete the data of a slot
    #[command(after_help = VOLUMES_RM_EXAMPLES)]
    Rm(PinArgs),
}

/// `dokkaa volumes adopt`.
#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// The slot.
    #[command(flatten)]
    pub(crate) pin: PinArgs,
    /// The host that has them [default: the one that the slot is kept on]
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<HostName>,
}

/// `dokkaa volumes release`, `dokkaa volumes rm`.
#[derive(Debug, Args)]
pub(crate) struct PinArgs {
    /// Slot whose data it is
    #[arg(value_name = "APP/CONTAINER/SLOT", value_parser = slot)]
    pub(crate) slot: SlotId,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Where to [default: standard output]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup, `-` for standard input
    #[arg(value_name = "FILE", required_unless_present = "accept")]
    pub(crate) file: Option<PathBuf>,
    /// Let agents in hold go on with etcd as it is
    #[arg(long, conflicts_with_all = ["file", "overwrite", "new_cluster", "dry_run"])]
    pub(crate) accept: bool,
    /// Overwrite what says something else now
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// The backup is of another cluster: take its manifests only
    #[arg(long)]
    pub(crate) new_cluster: bool,
    /// Only show what would be written
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa why`.
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Container or slot to explain
    #[arg(value_name = "APP/CONTAINER[/SLOT]", value_parser = source)]
    pub(crate) of: (ContainerId, Option<u32>),
    /// The format.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The connection.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `dokkaa completion`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// For which shell
    pub(crate) shell: clap_complete::Shell,
}

/// An app or one container of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of an app.
    App(AppName),
    /// One container.
    Container(ContainerId),
}

impl std::fmt::Display for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::App(app) => app.fmt(f),
            Self::Container(id) => id.fmt(f),
        }
    }
}

/// Whose lines `dokkaa logs` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogsOf {
    /// Of all containers of an app.
    App(AppName),
    /// Of all slots of a container.
    Container(ContainerId),
    /// Of one slot.
    Slot(SlotId),
}

impl std::fmt::Display for LogsOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::App(app) => app.fmt(f),
            Self::Container(id) => id.fmt(f),
            Self::Slot(slot) => slot.fmt(f),
        }
    }
}

// === reading single arguments ===

fn container(text: &str) -> Result<ContainerId, String> {
    if !text.contains('/') {
        return Err("expected app/container, such as `shop/web`".to_owned());
    }
    text.parse()
        .map_err(|e: manifests::names::NameError| e.to_string())
}

fn selection(text: &str) -> Result<Selection, String> {
    if text.contains('/') {
        return container(text).map(Selection::Container);
    }
    text.parse()
        .map(Selection::App)
        .map_err(|e: manifests::names::NameError| e.to_string())
}

fn source(text: &str) -> Result<(ContainerId, Option<u32>), String> {
    match text.splitn(3, '/').collect::<Vec<_>>().as_slice() {
        [app, name, slot] => {
            let slot = slot
                .parse()
                .map_err(|_| format!("`{slot}` is not a slot; expected a number from 0"))?;
            Ok((container(&format!("{app}/{name}"))?, Some(slot)))
        }
        _ => Ok((container(text)?, None)),
    }
}

fn logs_of(text: &str) -> Result<LogsOf, String> {
    if let Ok(Selection::App(app)) = selection(text) {
        return Ok(LogsOf::App(app));
    }
    Ok(match source(text)? {
        (id, None) => LogsOf::Container(id),
        (id, Some(number)) => LogsOf::Slot(id.slot(number)),
    })
}

fn slot(text: &str) -> Result<SlotId, String> {
    match source(text)? {
        (id, Some(number)) => Ok(id.slot(number)),
        (_, None) => Err("expected app/container/slot, such as `shop/db/0`".to_owned()),
    }
}

fn label(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = match (text.split_once('='), text.strip_suffix('-')) {
        (Some((name, value)), _) => (name, Some(value.to_owned())),
        (None, Some(name)) => (name, None),
        (None, None) => ("", None),
    };
    if name.is_empty() {
        return Err("expected name=value, or name- to take it away".to_owned());
    }
    Ok((name.to_owned(), value))
}

fn scale(text: &str) -> Result<(ContainerId, u32), String> {
    let (id, number) = text
        .split_once('=')
        .ok_or("expected app/container=N, such as `shop/web=3`")?;
    let number = number
        .parse()
        .map_err(|_| format!("`{number}` is not a number of slots; expected 0 to 1000"))?;
    Ok((container(id)?, number))
}

/// `dokkaa up`: its own flags and the agent's.
#[derive(Debug, Args)]
pub(crate) struct UpCommand {
    /// Its own.
    #[command(flatten)]
    pub(crate) up: UpArgs,
    /// The agent's.
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

/// `dokkaa down`.
#[derive(Debug, Args)]
pub(crate) struct DownCommand {
    /// Its own.
    #[command(flatten)]
    pub(crate) down: DownArgs,
    /// State directory of `dokkaa up` [env: DOKKAA_STATE_DIR] [default: /var/lib/dokkaa]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<String>,
    /// The Docker Engine of this machine [env: DOCKER_HOST] [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "URL")]
    pub(crate) docker: Option<String>,
}

/// `dokkaa etcd-env`.
#[derive(Debug, Args)]
pub(crate) struct EtcdEnvArgs {
    /// State directory of `dokkaa up` [env: DOKKAA_STATE_DIR] [default: /var/lib/dokkaa]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<String>,
}

/// The agent's flags as they were given; `config::agent` reads them.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct AgentArgs {
    /// etcd: `host:port` or URLs, separated by commas [env: ETCD_ADDR] [default: http://127.0.0.1:2379]
    #[arg(long, value_name = "LIST", help_heading = "etcd")]
    pub(crate) etcd: Option<String>,
    /// CA certificate of etcd, PEM; turns TLS on [env: DOKKAA_ETCD_CA]
    #[arg(long, value_name = "FILE", help_heading = "etcd")]
    pub(crate) etcd_ca: Option<String>,
    /// Client certificate for etcd, PEM [env: DOKKAA_ETCD_CERT]
    #[arg(long, value_name = "FILE", help_heading = "etcd")]
    pub(crate) etcd_cert: Option<String>,
    /// Key of the client certificate, PEM [env: DOKKAA_ETCD_KEY]
    #[arg(long, value_name = "FILE", help_heading = "etcd")]
    pub(crate) etcd_key: Option<String>,
    /// File with the user of etcd, as `name:password`; readable by root only [env: DOKKAA_ETCD_USER_FILE]
    #[arg(long, value_name = "FILE", help_heading = "etcd")]
    pub(crate) etcd_user_file: Option<String>,
    /// The same by value, which `ps` shows to everybody; not in a unit [env: DOKKAA_ETCD_USER]
    #[arg(long, value_name = "NAME:PASSWORD", help_heading = "etcd")]
    pub(crate) etcd_user: Option<String>,
    /// Time after which a host that is silent counts as lost, at least 5s [env: DOKKAA_LEASE_TTL] [default: 6s]
    #[arg(long, value_name = "TIME", help_heading = "etcd")]
    pub(crate) lease_ttl: Option<String>,
    /// Time for which the slots of a stopped agent wait for it; then other hosts take them over [env: DOKKAA_RESTART_GRACE] [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "etcd")]
    pub(crate) restart_grace: Option<String>,

    /// The Docker Engine of this machine [env: DOCKER_HOST] [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "URL", help_heading = "Docker")]
    pub(crate) docker: Option<String>,
    /// Directory of the Docker client's config.json, with the registry logins [env: DOKKAA_DOCKER_CONFIG] [default: /root/.docker]
    #[arg(long, value_name = "DIR", help_heading = "Docker")]
    pub(crate) docker_config: Option<String>,
    /// Docker network of the containers; its gateway gets DNS and the link ports [env: DOKKAA_BRIDGE] [default: bridge]
    #[arg(long, value_name = "NETWORK", help_heading = "Docker")]
    pub(crate) bridge: Option<String>,
    /// Ports on --host-ip at which services are published [env: DOKKAA_PORT_RANGE] [default: 20000-29999]
    #[arg(long, value_name = "FIRST-LAST", help_heading = "Docker")]
    pub(crate) port_range: Option<String>,
    /// Who may connect to those ports: peers (this machine and the hosts of the cluster; the agent keeps iptables rules) or open (whoever reaches --host-ip) [env: DOKKAA_INSTANCE_PORTS] [default: peers]
    #[arg(long, value_name = "peers|open", help_heading = "Docker")]
    pub(crate) instance_ports: Option<String>,
    /// How full the disk of Docker may be: from the first on, images that the agent pulled and nobody needs are removed; from the second on, this host gets no new containers; 100,100 waits until it is full [env: DOKKAA_DISK_LIMITS] [default: 85,95]
    #[arg(long, value_name = "PERCENT,PERCENT", help_heading = "Docker")]
    pub(crate) disk_limits: Option<String>,

    /// Address at which the other hosts reach this one [env: HOST_IP] [default: that of the default route]
    #[arg(long, value_name = "IP", help_heading = "This host")]
    pub(crate) host_ip: Option<String>,
    /// Name of this host in the cluster [env: DOKKAA_NAME] [default: the machine's host name]
    #[arg(long, value_name = "NAME", help_heading = "This host")]
    pub(crate) name: Option<String>,
    /// Labels of this host, repeated or separated by commas [env: DOKKAA_LABELS]
    #[arg(long = "label", value_name = "KEY=VALUE", help_heading = "This host")]
    pub(crate) labels: Vec<String>,
    /// Where the agent keeps what must outlive it [env: DOKKAA_STATE_DIR] [default: /var/lib/dokkaa]
    #[arg(long, value_name = "DIR", help_heading = "This host")]
    pub(crate) state_dir: Option<String>,

    /// The API: manifests and commands [env: DOKKAA_KEYS_LISTEN] [default: 127.0.0.1:4001]
    #[arg(long, value_name = "LIST|off", help_heading = "Listening")]
    pub(crate) keys_listen: Option<String>,
    /// DNS [env: DOKKAA_DNS_LISTEN] [default: the bridge's gateway, port 53]
    #[arg(long, value_name = "LIST|off", help_heading = "Listening")]
    pub(crate) dns_listen: Option<String>,
    /// For other agents, with mutual TLS [env: DOKKAA_PEER_LISTEN] [default: port 4003 of --host-ip]
    #[arg(long, value_name = "LIST|off", help_heading = "Listening")]
    pub(crate) peer_listen: Option<String>,
    /// /metrics, /healthz and /readyz, without a password: names and states of apps [env: DOKKAA_METRICS_LISTEN] [default: 127.0.0.1:4002]
    #[arg(long, value_name = "LIST|off", help_heading = "Listening")]
    pub(crate) metrics_listen: Option<String>,
    /// Names by which the API may be called, besides addresses and localhost [env: DOKKAA_ALLOW_HOST]
    #[arg(long = "allow-host", value_name = "NAME", help_heading = "Listening")]
    pub(crate) allow_hosts: Vec<String>,
    /// Let --keys-listen be reached from outside without a login: anyone who reaches it has root on every host [env: DOKKAA_INSECURE]
    #[arg(long, help_heading = "Listening")]
    pub(crate) insecure: bool,
    /// Zone of the services' names [env: DOKKAA_DOMAIN] [default: skydns.local]
    #[arg(long, value_name = "NAME", help_heading = "Listening")]
    pub(crate) domain: Option<String>,

    /// How the log is written: text or json [env: DOKKAA_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Log")]
    pub(crate) log_format: Option<String>,
    /// What is logged, as `info` or `info,store=debug` [env: DOKKAA_LOG_FILTER] [default: info]
    #[arg(long, value_name = "FILTER", help_heading = "Log")]
    pub(crate) log_filter: Option<String>,
}

const AGENT_EXAMPLES: &str = "Examples:
  dokkaa agent --etcd 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 \\
      --etcd-ca ca.pem --etcd-cert host.pem --etcd-key host.key
  ETCD_ADDR=127.0.0.1:2379 HOST_IP=10.0.0.1 dokkaa agent
  dokkaa agent --dns-listen off --keys-listen 127.0.0.1:0

The --…-listen flags take a list of ip:port separated by commas, port 0 for any
free one (the log says which), or off. A flag wins over its variable.

SIGTERM ends the agent and leaves its containers running; links and DNS of this
host are down until it is back. For --restart-grace its slots wait for it; then other hosts take them over, while its containers run on
unattended until it is back. To take a host out for good: dokkaa leave.

Docker publishes ports past a host's firewall, so the agent closes --port-range on
--host-ip itself, with an iptables chain DOKKAA: who connects from neither this
machine nor a host of the cluster is dropped. So is who routes to the bridge, for
containers, DNS or links. What the world is to reach gets a host_port in its
manifest, which listens at --host-ip unless bind names another address, such as
0.0.0.0. --instance-ports open takes all these rules away.

Between hosts only --peer-listen, --port-range and etcd are needed, and nothing
from the world. From a laptop: ssh -L 4001:127.0.0.1:4001 <host>.";

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_but_version_shows_examples() {
        fn look(command: &mut clap::Command) {
            let name = command.get_name().to_owned();
            if name == "version" {
                return;
            }
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{name}");
            command.get_subcommands_mut().for_each(look);
        }
        Cli::command().get_subcommands_mut().for_each(look);
    }

    #[test]
    fn labels_and_slots_of_volumes() {
        let set = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        assert_eq!(label("disk=ssd").unwrap(), set("disk", "ssd"));
        assert_eq!(label("a=b-").unwrap(), set("a", "b-"));
        assert_eq!(label("a=").unwrap(), set("a", ""));
        assert_eq!(label("disk-").unwrap(), ("disk".to_owned(), None));
        assert!(label("disk").is_err() && label("=x").is_err() && label("-").is_err());
        assert_eq!(slot("shop/db/3").unwrap().to_string(), "shop/db/3");
        assert!(slot("shop/db").is_err() && slot("shop/db/x").is_err());
    }

    #[test]
    fn names_are_read_once() {
        assert_eq!(source("shop/web/2").unwrap().1, Some(2));
        assert_eq!(source("shop/web").unwrap().1, None);
        assert!(source("shop/web/x").is_err() && source("shop").is_err());
        assert_eq!(scale("shop/web=3").unwrap().1, 3);
        assert!(scale("shop/web").is_err() && scale("shop=3").is_err());
        assert!(matches!(selection("shop").unwrap(), Selection::App(_)));
        assert!(matches!(
            selection("shop/web").unwrap(),
            Selection::Container(_)
        ));
        assert!(selection("Shop").is_err());
    }
}
