//! A `dokkaa agent` on a host.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;

use crate::http::{self, Answer, Target};
use crate::manager::{AS_MAIN_PROCESS, Manager};
use crate::node::Node;
use crate::process::{Process, read_lossy, tail};

const READY_CAP: Duration = Duration::from_secs(60);

/// What the agent is started with, besides where its etcd is.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// More arguments.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
}

/// A running agent. On a host of its own it may have the default addresses.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    node: Arc<Node>,
    manager: Manager,
}

impl Agent {
    /// Default address of the API.
    pub const API: &'static str = "127.0.0.1:4001";
    /// Metrics and readiness, as they are by default.
    pub const METRICS: &'static str = "127.0.0.1:4002";

    /// Starts it; its log is added to `agent.log` in the node's folder.
    pub fn start(
        node: &Arc<Node>,
        binary: &Path,
        etcd: &str,
        options: &AgentOptions,
        manager: Manager,
    ) -> anyhow::Result<Self> {
        let mut command = node.command("sh");
        command
            .args(["-c", AS_MAIN_PROCESS, "main"])
            .arg(binary)
            .args(["agent", "--etcd", etcd])
            .args(&options.arguments)
            .envs(options.environment.iter().map(|(key, value)| (key, value)));
        manager.start(&mut command)?;
        Ok(Self {
            process: node.start("agent", command)?,
            node: Arc::clone(node),
            manager,
        })
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let metrics: SocketAddr = Self::METRICS.parse().context("an address")?;
        let node = Arc::clone(&self.node);
        let log = self.log_path();
        self.process
            .wait_while_running(&format!("readiness on {}", node.name()), READY_CAP, || {
                http::request(&Target::Inside(&node, metrics), "GET", "/readyz", &[], b"")
                    .and_then(Answer::ok)
                    .map(drop)
                    .map_err(|error| {
                        let log = tail(&read_lossy(&log), 15);
                        format!("{error:#}; end of its log:\n{log}")
                    })
            })
    }

    /// Asks it to end, as the service manager would.
    pub fn stop(&mut self) -> anyhow::Result<(ExitStatus, Duration)> {
        self.process.terminate()
    }

    /// Kills it.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// What it has stored is there.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// What its manager holds when it has ended, for the next one.
    pub fn into_manager(self) -> Manager {
        self.manager
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.process.poll_exit().is_none()
    }

    /// Its process id, as seen on the machine.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has logged; of earlier agents on the host too.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The file with its log.
    pub fn log_path(&self) -> PathBuf {
        self.process.log_path().to_owned()
    }
}
