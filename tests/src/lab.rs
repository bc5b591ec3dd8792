//! The lab: a switch with an etcd, and hosts that are plugged into it.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;

use crate::agent::AgentOptions;
use crate::binary;
use crate::engine::{Container, Engine, EngineOptions};
use crate::etcd::{Etcd, EtcdOptions};
use crate::host::{Host, Parts};
use crate::images;
use crate::needs;
use crate::node::Node;
use crate::process::report;
use crate::registry::Registry;
use crate::release::{EngineRelease, EtcdRelease, LAB_MIN_API, engines};
use crate::resolver::Resolver;
use crate::wait::try_wait_for;

/// The switch: etcd, resolver and registry are there.
pub const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The lab's network. Every lab has the same: none of them sees another.
pub const NETWORK: &str = "10.99.0.0/24";

/// Waits for the end of its input, which is the end of the harness, and
/// removes what namespaces leave: the folder `$1` and the control groups `$2`.
const JANITOR: &str = r#"
cat >/dev/null
for try in $(seq 300); do
    rm -rf "$1"
    find /sys/fs/cgroup -maxdepth 2 -name "$2" | while read -r group; do
        find "$group" -depth -type d -exec rmdir {} \;
    done
    [ -e "$1" ] || [ -n "$(find /sys/fs/cgroup -maxdepth 2 -name "$2")" ] || exit 0
    sleep 0.1
done 2>/dev/null
exit 1
"#;

/// What a lab is to have.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// How many hosts: `h1`, `h2`, …
    pub hosts: usize,
    /// The hosts' engines in turn; none for what `LAB_ENGINE` says, else the
    /// machine's.
    pub engines: Vec<EngineRelease>,
    /// The oldest API version that engines speak, if not their own choice; none
    /// for what `LAB_MIN_API` says.
    pub min_api: Option<String>,
    /// Load the test images into every engine.
    pub images: bool,
    /// Start an agent on every host, with these options; none for a lab
    /// without agents, which needs no dokkaa binary either.
    pub agents: Option<AgentOptions>,
    /// How to run etcd.
    pub etcd: EtcdOptions,
    /// How many members etcd has: one on the switch's address, or several, each
    /// on an address of its own.
    pub members: usize,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            hosts: 3,
            engines: Vec::new(),
            min_api: None,
            images: true,
            agents: Some(AgentOptions::default()),
            etcd: EtcdOptions::default(),
            members: 1,
        }
    }
}

/// A running lab. Fields are dropped in order.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    resolver: Resolver,
    etcd: Vec<Etcd>,
    switch: Arc<Node>,
    folder: Folder,
}

impl Lab {
    /// Makes the lab, and waits until all of it answers.
    pub fn start(options: &LabOptions) -> anyhow::Result<Self> {
        needs::check_root()?;
        needs::check(&[needs::HOSTS, needs::ETCD])?;
        let binary = options.agents.is_some().then(binary::dokkaa).transpose()?;
        let archive = options.images.then(images::archive).transpose()?;
        let engines = engines(&options.engines, options.hosts)?;
        let etcd_root = EtcdRelease::wanted(options.etcd.release)?.root()?;
        let folder = Folder::new()?;
        // A copy: cargo may build anew while the lab runs.
        let binary = binary
            .map(|path| {
                let copy = folder.path().join("dokkaa");
                std::fs::copy(path, &copy).map(|_| copy)
            })
            .transpose()?;

        let switch = Arc::new(Node::new(
            "switch",
            &folder.path().join("switch"),
            &format!("{SWITCH}/24"),
            etcd_root.as_deref(),
        )?);
        switch.sh(&format!(
            "ip link add br0 type bridge && ip addr add {SWITCH}/24 dev br0 && ip link set br0 up"
        ))?;
        let mut wired = Vec::new();
        let min_api = options.min_api.clone();
        let min_api = min_api.or_else(|| std::env::var(LAB_MIN_API).ok());
        let min_api = min_api.filter(|oldest| !oldest.is_empty());
        for (number, release) in (1..).zip(engines) {
            wired.push(wire(&folder, &switch, number, release, min_api.clone())?);
        }
        let etcd = start_etcd(options, &switch)?;
        let urls: Vec<String> = etcd.iter().map(Etcd::url).collect();
        let resolver = Resolver::start(&switch, SWITCH)?;
        let mut hosts = Vec::new();
        for (node, engine, address, cable) in wired {
            engine.wait_ready()?;
            if let Some(binary) = &binary {
                node.sh(&format!(
                    "mkdir -p /usr/local/bin && ln -sf {} /usr/local/bin/dokkaa",
                    binary.display()
                ))?;
            }
            hosts.push(Host::new(Parts {
                engine,
                node,
                switch: Arc::clone(&switch),
                address,
                cable,
                binary: binary.clone(),
                etcd: urls.join(","),
            }));
        }
        if let Some(archive) = &archive {
            each(&hosts, |host| host.engine().load(archive))?;
        }
        let lab = Self {
            hosts,
            resolver,
            etcd,
            switch,
            folder,
        };
        if let Some(agents) = &options.agents {
            for host in &lab.hosts {
                host.launch_agent(agents)?;
            }
            for host in &lab.hosts {
                host.wait_agent()?;
            }
        }
        Ok(lab)
    }

    /// All hosts, in order of their names.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A host by its number: 1 is `h1`.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// A host by its name.
    pub fn named(&self, name: &str) -> anyhow::Result<&Host> {
        self.hosts
            .iter()
            .find(|host| host.name() == name)
            .with_context(|| format!("no host {name} in this lab"))
    }

    /// The etcd on the switch, or its first member.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd[0]
    }

    /// All members of the etcd.
    pub fn members(&self) -> &[Etcd] {
        &self.etcd
    }

    /// Makes everything run again that was cut off, frozen or killed.
    pub fn heal(&self, agents: &AgentOptions) -> anyhow::Result<()> {
        for etcd in &self.etcd {
            if etcd.runs() {
                etcd.signal(Signal::CONT)?;
            } else {
                etcd.start_again()?;
            }
        }
        self.etcd.iter().try_for_each(Etcd::wait_serving)?;
        each(&self.hosts, |host| host.heal(agents)).map(drop)
    }

    /// The switch, for what else is to run beside the hosts.
    pub fn switch(&self) -> &Arc<Node> {
        &self.switch
    }

    /// The resolver that the hosts' `/etc/resolv.conf` names.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// The lab's folder on the machine.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a registry on the switch.
    pub fn registry(&self) -> anyhow::Result<Registry> {
        Registry::start(&self.switch, &SWITCH.to_string())
    }

    /// The containers of an app on all hosts whose engine runs, each with its
    /// host.
    pub fn containers(&self, app: &str) -> anyhow::Result<Vec<(&Host, Container)>> {
        let mut all = Vec::new();
        for host in self.hosts.iter().filter(|host| host.engine().runs()) {
            for container in host.containers(app)? {
                all.push((host, container));
            }
        }
        Ok(all)
    }
}

impl fmt::Display for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} hosts in {}",
            self.hosts.len(),
            self.folder().display()
        )
    }
}

/// Runs `work` for every host at once.
pub fn each<T: Send>(
    hosts: &[Host],
    work: impl Fn(&Host) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = hosts
            .iter()
            .map(|host| scope.spawn(|| work(host).with_context(|| host.name().to_owned())))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

/// Makes a host's node, plugs it in and starts its engine.
fn wire(
    folder: &Folder,
    switch: &Node,
    number: usize,
    release: EngineRelease,
    min_api: Option<String>,
) -> anyhow::Result<(Arc<Node>, Engine, Ipv4Addr, String)> {
    let name = format!("h{number}");
    let last = u8::try_from(10 + number).context("too many hosts")?;
    let address = Ipv4Addr::new(10, 99, 0, last);
    let cidr = format!("{address}/24");
    let root = release.root()?;
    let path = folder.path().join(&name);
    let node = Arc::new(Node::new(&name, &path, &cidr, root.as_deref())?);
    let cable = format!("cable{number}");
    // Both ends are born inside: the machine itself never sees them.
    let mut link = Command::new("ip");
    link.args(["link", "add", &cable, "netns", &switch.pid().to_string()])
        .args(["type", "veth", "peer", "name", "eth0"])
        .args(["netns", &node.pid().to_string()]);
    crate::process::Ran::run(link, None)?.ok()?;
    switch.sh(&format!(
        "ip link set {cable} master br0 && ip link set {cable} up"
    ))?;
    node.sh(&format!(
        "ip addr add {cidr} dev eth0 && ip link set eth0 up && ip route add default via {SWITCH}"
    ))?;
    write_enter(&node)?;
    let cgroup = format!("/{}/{name}", folder.name);
    let options = EngineOptions {
        release,
        cgroup: &cgroup,
        insecure_registry: NETWORK,
        min_api,
    };
    let engine = Engine::start(&node, options)?;
    Ok((node, engine, address, cable))
}

/// Starts the etcd, on addresses of the switch.
fn start_etcd(options: &LabOptions, switch: &Arc<Node>) -> anyhow::Result<Vec<Etcd>> {
    if options.members == 1 {
        return Ok(vec![Etcd::start_in(
            &options.etcd,
            switch,
            &SWITCH.to_string(),
        )?]);
    }
    let ips: Vec<String> = (2..2 + options.members)
        .map(|last| format!("10.99.0.{last}"))
        .collect();
    for ip in &ips {
        switch.sh(&format!("ip addr add {ip}/24 dev br0"))?;
    }
    Etcd::cluster_in(&options.etcd, switch, &ips)
}

/// A script in the lab's folder that enters a node: `on-h1 [COMMAND]`.
fn write_enter(node: &Node) -> anyhow::Result<()> {
    let path = node.folder().with_file_name(format!("on-{}", node.name()));
    let enter = node.enter().join(" ");
    let script = format!("#!/bin/sh\n[ $# -gt 0 ] || set -- bash\nexec {enter} \"$@\"\n");
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The lab's folder and the janitor that removes it.
#[derive(Debug)]
struct Folder {
    /// Also the name of the lab's control groups.
    name: String,
    path: PathBuf,
    janitor: Child,
}

impl Folder {
    fn new() -> anyhow::Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "dokkaa-lab-{}-{}",
            std::process::id(),
            LABS.fetch_add(1, Ordering::Relaxed)
        );
        // Not below $TMPDIR: a unix socket's path has at most 107 bytes, and
        // a node has its own /var.
        let path = Path::new("/tmp").join(&name);
        let janitor = Command::new("setsid")
            .args(["sh", "-c", JANITOR, "janitor"])
            .arg(&path)
            .arg(&name)
            .env("PATH", needs::path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the janitor")?;
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self {
            name,
            path,
            janitor,
        })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let ended = try_wait_for("the janitor", Duration::from_secs(60), || {
            match self.janitor.try_wait() {
                Ok(Some(status)) => Ok(status),
                Ok(None) => Err("still at work".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
        match ended {
            Ok(status) if status.success() => {}
            Ok(status) => report(&format!(
                "{} could not be removed ({status})",
                self.path.display()
            )),
            Err(error) => report(&error.to_string()),
        }
    }
}
