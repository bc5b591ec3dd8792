//! `up`, `down`, `etcd-env` and `reset-id`.

use std::path::PathBuf;

use clap::Args;

use super::addresses::docker_socket;
use super::agent::{AgentArgs, DOCKER_HOST, STATE_DIR};
use crate::down::DownArgs;
use crate::up::UpArgs;

/// `dokkaa up`: its own flags and the agent's.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa up                             in the foreground, Ctrl-C ends it
  dokkaa up --detach                    returns when it is ready
  dokkaa up --example                   in the background, with a page and who
                                        fetches it; by its unit under systemd
  dokkaa up --keys-listen 127.0.0.1:5001

It takes the agent's flags, too (dokkaa agent --help). Services are published on
the bridge's gateway: reachable from this machine and its containers only.")]
pub(crate) struct UpCommand {
    #[command(flatten)]
    pub(crate) up: UpArgs,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

/// `dokkaa down`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa down                           `dokkaa up` brings everything back
  dokkaa down --purge                   manifests go too; volumes stay

Its systemd unit is disabled: the cluster is not back after a reboot.")]
pub(crate) struct DownCommand {
    #[command(flatten)]
    pub(crate) down: DownArgs,
    /// State directory of `dokkaa up`
    #[arg(
        long,
        env = "DOKKAA_STATE_DIR",
        value_name = "DIR",
        default_value = STATE_DIR
    )]
    pub(crate) state_dir: PathBuf,
    /// Docker Engine of this machine
    #[arg(
        long,
        env = "DOCKER_HOST",
        value_name = "URL",
        default_value = DOCKER_HOST,
        value_parser = docker_socket
    )]
    pub(crate) docker: PathBuf,
}

/// `dokkaa etcd-env`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  eval \"$(dokkaa etcd-env)\" && etcdctl get --prefix /apps/")]
pub(crate) struct EtcdEnvArgs {
    /// State directory of `dokkaa up`
    #[arg(
        long,
        env = "DOKKAA_STATE_DIR",
        value_name = "DIR",
        default_value = STATE_DIR
    )]
    pub(crate) state_dir: PathBuf,
}

/// `dokkaa reset-id`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  systemctl stop dokkaa && dokkaa reset-id && systemctl start dokkaa

For a machine whose disk was copied from another host, or whose host.json is
damaged. The agent must not run. Slots with local volumes on this machine wait
afterwards: dokkaa volumes adopt SLOT --host HOST")]
pub(crate) struct ResetIdArgs {
    /// State directory of the agent
    #[arg(
        long,
        env = "DOKKAA_STATE_DIR",
        value_name = "DIR",
        default_value = STATE_DIR
    )]
    pub(crate) state_dir: PathBuf,
}
