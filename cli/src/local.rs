//! The commands that are done on this machine: `agent`, `up`, `down`, `etcd-env`, `reset-id` and
//! `cloud-config`.
//!
//! Reads their configuration, sets up the log, and hands over; what they do is
//! in the modules of their names.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use engine::DockerEngine;
use store::host::StateDir;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::agent::{Inheritance, Misconfigured};
use crate::args::{
    AgentArgs, DEFAULT_ADDR, DownCommand, EtcdEnvArgs, LocalCommand, ResetIdArgs, UpCommand,
};
use crate::commands::{CommandError, print};
use crate::config::{self, AgentConfig, LogFormat, Machine};
use crate::{agent, cloud_config, down, embedded_etcd, etcd_env, example, service, up};

/// Most threads of the agent: its work waits more than it computes.
const THREADS: usize = 4;
/// Time for blocking calls, such as a write to a slow disk, to return after the end of the work.
const BLOCKING_CALLS: Duration = Duration::from_millis(100);

/// Carries out a command.
pub(crate) fn run(command: LocalCommand) -> anyhow::Result<ExitCode> {
    match &command {
        LocalCommand::Up(args) if args.up.example => {
            service::take_variables(&args.agent.host.state_dir)?;
        }
        LocalCommand::Down(args) => service::take_variables(&args.state_dir)?,
        LocalCommand::EtcdEnv(args) => service::take_variables(&args.state_dir)?,
        _ => {}
    }
    match command {
        LocalCommand::Agent(args) => run_agent(*args),
        LocalCommand::Up(args) => run_up(*args),
        LocalCommand::Down(args) => run_down(&args),
        LocalCommand::EtcdEnv(args) => run_etcd_env(&args),
        LocalCommand::ResetId(args) => run_reset_id(&args),
        LocalCommand::CloudConfig(args) => cloud_config::run(args),
    }
}

/// `etcd-child <parent> <line…>`, which is no command for people: see `embedded_etcd::become_etcd`.
pub(crate) fn become_etcd(arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let (parent, line) = arguments.split_first().context("no parent named")?;
    let parent = parent
        .to_str()
        .and_then(|parent| parent.parse().ok())
        .context("the parent is no process id")?;
    Err(embedded_etcd::become_etcd(parent, line).into())
}

fn run_agent(args: AgentArgs) -> anyhow::Result<ExitCode> {
    let config = config::agent(args, &Machine::look()).map_err(misconfigured)?;
    start_log(&config)?;
    let inheritance = Inheritance::take();
    block_on(agent::run(config, inheritance, |_| {}, |_| {}))
}

fn run_up(args: UpCommand) -> anyhow::Result<ExitCode> {
    let config = config::up(args.agent, &Machine::look()).map_err(misconfigured)?;
    start_log(&config)?;
    let state_dir = config.state_dir.clone();
    let in_background = args.up.in_background;
    if args.up.example {
        let addr = config
            .keys_listen
            .first()
            .map_or_else(|| DEFAULT_ADDR.to_owned(), |keys| format!("http://{keys}"));
        return block_on(async {
            let started = up::start(&args.up, &state_dir, &config.docker).await?;
            if started == ExitCode::SUCCESS {
                example::run(&config.docker, &addr).await
            } else {
                Ok(started)
            }
        });
    }
    let inheritance = Inheritance::take();
    block_on(up::run(&args.up, &state_dir, |etcd, ready| async move {
        let mut config = config;
        config.etcd.endpoints = vec![etcd];
        let waits = |for_what: &str| up::say_waiting(for_what, in_background);
        agent::run(config, inheritance, waits, |bound| {
            // Nobody waits any more: the cluster runs all the same.
            let _ = ready.send(bound);
        })
        .await
    }))
}

fn run_down(args: &DownCommand) -> anyhow::Result<ExitCode> {
    block_on(down::run(&args.down, &args.state_dir, || {
        Ok(DockerEngine::new(&args.docker))
    }))
}

fn run_etcd_env(args: &EtcdEnvArgs) -> anyhow::Result<ExitCode> {
    let state_dir = &args.state_dir;
    let lines = etcd_env::lines(state_dir).with_context(|| {
        format!(
            "there is no etcd of dokkaa up in {}; run dokkaa up, or name its --state-dir",
            state_dir.display()
        )
    })?;
    match print(&lines) {
        Ok(()) | Err(CommandError::Closed) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
    }
}

fn run_reset_id(args: &ResetIdArgs) -> anyhow::Result<ExitCode> {
    let id = StateDir::reset_id(&args.state_dir).context("this machine keeps its identity")?;
    match print(&format!("the identity of this machine is {id} now\n")) {
        Ok(()) | Err(CommandError::Closed) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
    }
}

// === what they share ===

fn misconfigured(error: config::ConfigError) -> Misconfigured {
    Misconfigured(error.to_string())
}

/// Runs to the end, and does not wait long for blocking calls that are still under way.
fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    // The one provider of the process, for whoever asks for the default.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.min(THREADS))
        .enable_all()
        .build()
        .context("cannot start the threads of the agent")?;
    let ended = runtime.block_on(work);
    runtime.shutdown_timeout(BLOCKING_CALLS);
    ended
}

fn start_log(config: &AgentConfig) -> anyhow::Result<()> {
    // Who wants what the DNS library writes about packets names it.
    let filter = format!("{},{}", dns::LOG_FILTER, config.log_filter);
    let filter: Targets = filter.parse().map_err(|error| {
        Misconfigured(format!(
            "--log-filter: `{}` is not a filter, such as `info,store=debug`: {error}",
            config.log_filter
        ))
    })?;
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Text => registry.with(log).init(),
        LogFormat::Json => registry.with(log.json().flatten_event(true)).init(),
    }
    Ok(())
}
