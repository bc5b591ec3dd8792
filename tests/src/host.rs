//! A host of the lab: a node with a Docker Engine, and mostly an agent.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;

use crate::agent::{Agent, AgentOptions};
use crate::engine::{Container, Engine};
use crate::http::{self, Answer, Target};
use crate::manager::Manager;
use crate::node::Node;
use crate::process::{Process, Ran, read_lossy};

/// What a power cut takes with it besides the processes, of what a node has
/// and a machine would not: mounts of containers, interfaces, rules of the
/// packet filter and what lies in `/run`.
const POWER_CUT: &str = r#"
keeper=$(cat /run/keeper)
while :; do
    others=
    for process in /proc/[0-9]*; do
        case ${process#/proc/} in
        1 | "$keeper" | $$) ;;
        *) others="$others ${process#/proc/}" ;;
        esac
    done
    [ -n "$others" ] || break
    kill -9 $others
done 2>/dev/null
awk '$2 ~ "^/(var/lib|run)/docker/" { print $2 }' /proc/mounts | sort -r |
    while read -r mount; do umount -l "$mount"; done
rm -rf /run/docker*
ip link delete docker0
for table in filter nat mangle raw; do iptables -t $table -F; iptables -t $table -X; done
nft flush ruleset
exit 0
"#;

/// A machine that was started again has another boot id.
const POWER_ON: &str = "
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
";

/// A host. Fields are dropped in order: agent, engine, node.
#[derive(Debug)]
pub struct Host {
    agent: Mutex<Option<Agent>>,
    engine: Engine,
    node: Arc<Node>,
    switch: Arc<Node>,
    address: Ipv4Addr,
    cable: String,
    binary: Option<PathBuf>,
    etcd: String,
}

/// What the lab puts together into a host.
pub(crate) struct Parts {
    pub(crate) engine: Engine,
    pub(crate) node: Arc<Node>,
    pub(crate) switch: Arc<Node>,
    pub(crate) address: Ipv4Addr,
    /// The switch's end of the cable.
    pub(crate) cable: String,
    pub(crate) binary: Option<PathBuf>,
    pub(crate) etcd: String,
}

impl Host {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            agent: Mutex::new(None),
            engine: parts.engine,
            node: parts.node,
            switch: parts.switch,
            address: parts.address,
            cable: parts.cable,
            binary: parts.binary,
            etcd: parts.etcd,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// Its address on the lab's network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its namespaces.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Its Docker Engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Runs a command on the host.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<Ran> {
        self.node.run(words)
    }

    /// Runs a script on the host; an exit code other than 0 is an error.
    pub fn sh(&self, script: &str) -> anyhow::Result<String> {
        self.node.sh(script)
    }

    /// Starts a program on the host.
    pub fn start(&self, name: &str, words: &[&str]) -> anyhow::Result<Process> {
        let mut command = self.node.command(words[0]);
        command.args(&words[1..]);
        self.node.start(name, command)
    }

    /// Runs `docker` on the host.
    pub fn docker(&self, words: &[&str]) -> anyhow::Result<String> {
        self.run(&[&["docker"], words].concat())?.ok()
    }

    /// Runs `curl` on the host.
    pub fn curl(&self, words: &[&str]) -> anyhow::Result<String> {
        self.run(
            &[
                &["curl", "--silent", "--show-error", "--max-time", "30"],
                words,
            ]
            .concat(),
        )?
        .ok()
    }

    /// Runs `dig +short` on the host; one answer a line, in order.
    pub fn dig(&self, words: &[&str]) -> anyhow::Result<Vec<String>> {
        let out = self
            .run(&[&["dig", "+short", "+time=1", "+tries=2"], words].concat())?
            .ok()?;
        let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    }

    /// The address of the bridge that its containers are on.
    pub fn gateway(&self) -> anyhow::Result<Ipv4Addr> {
        let text = self.sh("ip -4 -o addr show docker0")?;
        text.split_whitespace()
            .skip_while(|word| *word != "inet")
            .nth(1)
            .and_then(|word| word.split('/').next())
            .and_then(|word| word.parse().ok())
            .with_context(|| format!("no address on docker0 of {}: {text}", self.name()))
    }

    /// Runs `dokkaa` on the host.
    pub fn dokkaa(&self, words: &[&str]) -> anyhow::Result<Ran> {
        self.run(&[&["dokkaa"], words].concat())
    }

    /// One request to the host's API on 127.0.0.1:4001.
    pub fn api(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<Answer> {
        self.ask(Agent::API, method, path, headers, body)
    }

    /// What its agent has counted, in Prometheus' text format.
    pub fn metrics(&self) -> anyhow::Result<String> {
        let answer = self.ask(Agent::METRICS, "GET", "/metrics", &[], "")?;
        Ok(answer.ok()?.body)
    }

    /// One request from the host to any address.
    pub fn ask(
        &self,
        address: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<Answer> {
        let address: SocketAddr = address.parse()?;
        http::request(
            &Target::Inside(&self.node, address),
            method,
            path,
            headers,
            body.as_bytes(),
        )
    }

    /// PUTs a manifest over the host's API.
    pub fn put(&self, app: &str, container: &str, manifest: &str) -> anyhow::Result<Answer> {
        self.api(
            "PUT",
            &format!("/v2/keys/apps/{app}/{container}/manifest"),
            &[("Content-Type", "application/x-www-form-urlencoded")],
            &format!("value={}", http::escape(manifest)),
        )
    }

    /// DELETEs a manifest over the host's API.
    pub fn delete(&self, app: &str, container: &str) -> anyhow::Result<Answer> {
        self.api(
            "DELETE",
            &format!("/v2/keys/apps/{app}/{container}/manifest"),
            &[],
            "",
        )
    }

    /// The containers of an app on this host, running or not.
    pub fn containers(&self, app: &str) -> anyhow::Result<Vec<Container>> {
        self.engine.containers(&[&format!("dokkaa.app={app}")])
    }

    /// Starts the agent and waits until it is ready.
    pub fn start_agent(&self, options: &AgentOptions) -> anyhow::Result<()> {
        self.launch_agent(options)?;
        self.wait_agent()
    }

    /// Starts the agent.
    pub fn launch_agent(&self, options: &AgentOptions) -> anyhow::Result<()> {
        // One that has ended by itself leaves nothing to the next.
        let ended = self.agent().take_if(|agent| !agent.runs());
        drop(ended);
        let manager = Manager::new(&self.node.folder().join("notify"))?;
        self.launch_agent_after(options, manager)
    }

    /// Starts the agent with what another one has stored.
    pub fn launch_agent_after(
        &self,
        options: &AgentOptions,
        manager: Manager,
    ) -> anyhow::Result<()> {
        let binary = self
            .binary
            .as_deref()
            .context("this lab was made without a dokkaa binary")?;
        let agent = Agent::start(&self.node, binary, &self.etcd, options, manager)?;
        *self.agent() = Some(agent);
        Ok(())
    }

    /// Ends the agent with SIGTERM or SIGKILL; what it has stored is kept as
    /// long as the manager is. [`Self::stop_agent`] keeps nothing.
    pub fn end_agent(&self, signal: Signal) -> anyhow::Result<Manager> {
        let mut agent = self.agent().take().context("no agent")?;
        if signal == Signal::KILL {
            agent.kill()?;
        } else {
            agent.stop()?;
        }
        Ok(agent.into_manager())
    }

    /// The names of what the agent has stored, in order.
    pub fn stored(&self) -> anyhow::Result<Vec<String>> {
        let agent = self.agent();
        Ok(agent.as_ref().context("no agent")?.manager().stored()?)
    }

    /// Restarts the agent in order, as systemd does, and waits until it is ready.
    pub fn restart_agent(&self, options: &AgentOptions) -> anyhow::Result<()> {
        let manager = self.end_agent(Signal::TERM)?;
        self.launch_agent_after(options, manager)?;
        self.wait_agent()
    }

    /// Waits until the agent is ready.
    pub fn wait_agent(&self) -> anyhow::Result<()> {
        self.agent().as_mut().context("no agent")?.wait_ready()
    }

    /// Stops the agent with SIGTERM; how it ended, and how long that took.
    pub fn stop_agent(&self) -> anyhow::Result<(ExitStatus, Duration)> {
        self.agent().take().context("no agent")?.stop()
    }

    /// Kills the agent.
    pub fn kill_agent(&self) -> anyhow::Result<()> {
        self.agent().take().context("no agent")?.kill()
    }

    /// The agent, if one runs.
    pub fn agent(&self) -> MutexGuard<'_, Option<Agent>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts what does not run of engine and agent, lets go on what is
    /// frozen, and puts the cable in.
    pub fn heal(&self, options: &AgentOptions) -> anyhow::Result<()> {
        self.plug()?;
        if self.engine.runs() {
            self.engine.signal(Signal::CONT)?;
        } else {
            self.engine.start_again(&[])?;
        }
        let running = self.agent().as_mut().is_some_and(Agent::runs);
        if running {
            return Ok(());
        }
        self.start_agent(options)
    }

    /// Takes the power away: the cable is dead, every process is killed, those
    /// in containers too. What is on disk stays.
    pub fn power_off(&self) -> anyhow::Result<()> {
        self.unplug()?;
        // Those which wait for them say so when they are killed.
        drop(self.run(&["sh", "-c", POWER_CUT])?);
        *self.agent() = None;
        self.engine.kill()
    }

    /// Gives the power back: the machine boots, and its engine with it. The
    /// agent is to be started.
    pub fn power_on(&self) -> anyhow::Result<()> {
        self.sh(POWER_ON)?;
        self.plug()?;
        self.engine.start_again(&[])
    }

    /// What the host's agents have logged so far.
    pub fn agent_log(&self) -> String {
        read_lossy(&self.node.folder().join("agent.log"))
    }

    /// Pulls the host's cable out of the switch.
    pub fn unplug(&self) -> anyhow::Result<()> {
        self.switch
            .run(&["ip", "link", "set", &self.cable, "down"])?
            .ok()
            .map(drop)
    }

    /// Puts the cable in again.
    pub fn plug(&self) -> anyhow::Result<()> {
        self.switch
            .run(&["ip", "link", "set", &self.cable, "up"])?
            .ok()
            .map(drop)
    }
}
