//! A registry with a password, on the lab's switch.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::host::Host;
use crate::needs;
use crate::node::Node;
use crate::process::{Process, Ran, Started};

/// Who may pull and push.
pub const USER: &str = "puller";
/// The password of [`USER`].
pub const PASSWORD: &str = "open-sesame";

/// Debian's docker-registry with htpasswd. It asks for a login on every pull.
#[derive(Debug)]
pub struct Registry {
    process: Process,
    address: SocketAddr,
    /// Removed after the process has ended.
    _folder: tempfile::TempDir,
    _node: Arc<Node>,
}

impl Registry {
    /// Starts it in a node, on a free port of one of its addresses.
    pub fn start(node: &Arc<Node>, ip: &str) -> anyhow::Result<Self> {
        needs::check(&[needs::REGISTRY])?;
        let held = tempfile::Builder::new()
            .prefix("registry-")
            .tempdir_in(node.folder())?;
        let folder = held.path();
        std::fs::create_dir_all(folder.join("data"))?;
        let passwords = node.run(&["htpasswd", "-Bbn", USER, PASSWORD])?.ok()?;
        std::fs::write(folder.join("htpasswd"), passwords)?;
        let config = folder.join("config.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info}}\n\
                 storage: {{filesystem: {{rootdirectory: '{data}'}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: '{ip}:0'}}\n\
                 auth: {{htpasswd: {{realm: lab, path: '{passwords}'}}}}\n",
                data = folder.join("data").display(),
                passwords = folder.join("htpasswd").display(),
            ),
        )?;
        let mut command = node.command("docker-registry");
        command.arg("serve").arg(&config);
        let log = folder.join("log");
        let mut process = Process::start("registry", command, Started::ByFork, &log)?;
        let address = process.wait_log("its address", Duration::from_secs(30), listening)?;
        Ok(Self {
            process,
            address,
            _folder: held,
            _node: Arc::clone(node),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has logged: one line a request.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The name of an image in this registry.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// Logs a host's root in, as `docker login` does.
    pub fn login(&self, host: &Host) -> anyhow::Result<()> {
        let ran: Ran = host.node().run_with(
            &[
                "docker",
                "login",
                "--username",
                USER,
                "--password-stdin",
                &self.address.to_string(),
            ],
            Some(PASSWORD.as_bytes()),
        )?;
        ran.ok().map(drop)
    }

    /// Logs a host's root out.
    pub fn logout(&self, host: &Host) -> anyhow::Result<()> {
        host.docker(&["logout", &self.address.to_string()])
            .map(drop)
    }

    /// Pushes an image of a host that is logged in, and removes the tag there
    /// again; the name it can be pulled by.
    pub fn push(&self, host: &Host, image: &str, name: &str) -> anyhow::Result<String> {
        let full = self.name(name);
        host.docker(&["tag", image, &full])?;
        host.docker(&["push", &full])?;
        host.docker(&["rmi", &full])?;
        Ok(full)
    }
}

/// The address in "listening on 10.99.0.1:45035".
fn listening(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on ")?;
    rest.split(['"', ' ', '\n', ','])
        .next()
        .context("an address")
        .ok()?
        .parse()
        .ok()
}
