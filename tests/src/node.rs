//! A node: one set of namespaces (network, hostname, processes, mounts, IPC)
//! that behaves like a machine of its own.
//!
//! Invariant: every process of a node ends with the process that made it,
//! because the node's first process lives on a pipe that only the maker holds.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::needs;
use crate::process::{Process, Ran, Started, report};
use crate::wait::try_wait_for;

const FIRST_PROCESS: &str = include_str!("node.sh");

/// A machine made of namespaces.
#[derive(Debug)]
pub struct Node {
    name: String,
    folder: PathBuf,
    /// `unshare`, whose child is the first process of the node.
    keeper: Child,
    pid: u32,
}

impl Node {
    /// Makes a node with a folder of its own on the machine's disk. `address`
    /// (with its prefix length) is what its `/etc/hosts` calls itself; `root`
    /// has programs that come before the machine's.
    pub fn new(
        name: &str,
        folder: &Path,
        address: &str,
        root: Option<&Path>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut keeper = Command::new("unshare")
            .args(["--net", "--uts", "--mount", "--pid", "--ipc"])
            .args(["--fork", "--kill-child", "--"])
            .args(["sh", "-c", FIRST_PROCESS, "node"])
            .arg(name)
            .arg(folder)
            .arg(address)
            .arg(root.unwrap_or(Path::new("")))
            .env_clear()
            .envs(environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("start unshare")?;
        let mut said = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            BufReader::new(stdout).read_line(&mut said)?;
        }
        let Ok(pid) = said.trim().parse() else {
            let mut complaint = String::new();
            keeper.kill().ok();
            if let Some(mut stderr) = keeper.stderr.take() {
                stderr.read_to_string(&mut complaint).ok();
            }
            keeper.wait().ok();
            anyhow::bail!("node {name} could not be made: {}", complaint.trim());
        };
        Ok(Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            keeper,
            pid,
        })
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder on the machine's disk, seen under the same path inside.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its first process, as seen on the machine.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The words that enter this node, to be followed by a command.
    pub fn enter(&self) -> Vec<String> {
        let mut words: Vec<String> = ["nsenter", "--target", &self.pid.to_string()]
            .map(str::to_owned)
            .to_vec();
        words.extend(
            ["--net", "--uts", "--mount", "--pid", "--ipc", "--"]
                .iter()
                .map(|word| (*word).to_owned()),
        );
        words
    }

    /// A command that will run inside, with a plain environment.
    pub fn command(&self, program: &str) -> Command {
        let words = self.enter();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg(program)
            .env_clear()
            .envs(environment())
            .current_dir("/");
        command
    }

    /// Runs a command inside to its end.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<Ran> {
        self.run_with(words, None)
    }

    /// Runs a command inside to its end, with an input.
    pub fn run_with(&self, words: &[&str], stdin: Option<&[u8]>) -> anyhow::Result<Ran> {
        let mut command = self.command(words[0]);
        command.args(&words[1..]);
        Ran::run(command, stdin)
    }

    /// Runs a script inside; an exit code other than 0 is an error.
    pub fn sh(&self, script: &str) -> anyhow::Result<String> {
        self.run(&["sh", "-c", script])?.ok()
    }

    /// Starts a command inside, its output in a log file of the node's folder.
    pub fn start(&self, name: &str, command: Command) -> anyhow::Result<Process> {
        let log = self.folder.join(format!("{name}.log"));
        Process::start(name, command, Started::ByFork, &log)
    }

    /// A TCP connection made inside the node, to be used from here.
    pub fn connect(&self, address: SocketAddr, cap: Duration) -> std::io::Result<TcpStream> {
        self.inside(move || TcpStream::connect_timeout(&address, cap))?
    }

    /// Runs `work` on a thread that is in the node's network.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
        let network = std::fs::File::open(format!("/proc/{}/ns/net", self.pid))?;
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    rustix::thread::move_into_link_name_space(
                        network.as_fd(),
                        Some(rustix::thread::LinkNameSpaceType::Network),
                    )?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let ended = try_wait_for(
            &format!("the end of node {}", self.name),
            Duration::from_secs(20),
            || match self.keeper.try_wait() {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("processes left".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        );
        if let Err(error) = ended {
            report(&error.to_string());
            self.keeper.kill().ok();
            self.keeper.wait().ok();
        }
    }
}

fn environment() -> [(&'static str, &'static str); 3] {
    [
        ("PATH", needs::path()),
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
    ]
}
