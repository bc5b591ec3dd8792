//! One image from one host to ten others at once, each in a network of its own
//! behind a link of limited rate, and to one of them alone.
//!
//! Peer listeners, clients and spools are the real ones; the engines are in
//! memory and take the bytes as fast as they come.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use conductor::images::{Images, OtherHosts, PullSettings, SpoolPlace};
use dokkaa_tests::needs;
use dokkaa_tests::node::Node;
use dokkaa_tests::process::Ran;
use engine::memory::MemEngine;
use engine::{Archive, EngineError};
use gateway::peer::{Identity, ImageServer, PeerClient, PeerTable, router, serve};
use gateway::v1::memory::MemAgent;
use gateway::v1::{AgentHandle, HostError};
use manifests::HostName;
use manifests::manifest::Pull;
use model::disk::DiskLimits;
use model::images::{OfferedImage, WantedArchive, WantedImage};
use model::records::Peer;
use store::memory::MemKv;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::verdict;

/// Hosts that lack the image.
const HOSTS: usize = 10;
/// Bytes of the archive.
const BYTES: u64 = 200_000_000;
/// What each host's link carries, in each direction.
const MEGABITS: u64 = 200;
const PORT: u16 = 7000;
const NAME: &str = "bench:1";
const ID: &str = "sha256:bench";
/// How much longer than one copy all of them may take.
const AT_MOST: f64 = 1.3;

pub(crate) struct Copies {
    one: Duration,
    all: Duration,
    /// Bytes that left the first host meanwhile.
    sent: u64,
}

pub(crate) fn measure() -> anyhow::Result<Copies> {
    needs::check_root()?;
    let folder = tempfile::tempdir()?;
    let links = Links::new(folder.path())?;
    // Of the store in memory, from which the hosts know each other.
    let runtime = tokio::runtime::Runtime::new()?;
    let _entered = runtime.enter();
    let cluster = Cluster::start(&links)?;
    let one = cluster.copy(&[1])?;
    cluster.forget()?;
    let others: Vec<usize> = (1..=HOSTS).collect();
    let before = links.sent()?;
    let all = cluster.copy(&others)?;
    let sent = links.sent()? - before;
    Ok(Copies { one, all, sent })
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, all) = (self.one.as_secs_f64(), self.all.as_secs_f64());
        writeln!(
            f,
            "An image of {} MB over links of {MEGABITS} Mbit/s, from host to host",
            BYTES / 1_000_000
        )?;
        writeln!(f, "  to one host:         {one:6.2} s")?;
        writeln!(f, "  to {HOSTS} hosts at once: {all:6.2} s")?;
        writeln!(
            f,
            "  sent by the first:   {:6.2} images",
            self.sent as f64 / BYTES as f64
        )?;
        let ratio = all / one;
        write!(
            f,
            "  ratio:               {ratio:6.2}   at most {AT_MOST}: {}",
            verdict(ratio <= AT_MOST)
        )
    }
}

/// A switch, and a node for each host.
struct Links {
    nodes: Vec<Node>,
    _switch: Node,
}

impl Links {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let switch = Node::new("switch", &folder.join("switch"), "10.98.0.1/24", None)?;
        switch.sh("ip link add br0 type bridge && ip link set br0 up")?;
        let rate = format!("tbf rate {MEGABITS}mbit burst 256kb latency 50ms");
        let mut nodes = Vec::new();
        for host in 0..=HOSTS {
            let (name, address) = (name(host), format!("{}/24", address(host)));
            let node = Node::new(&name, &folder.join(&name), &address, None)?;
            let cable = format!("cable{host}");
            // Both ends are born inside: the machine itself never sees them.
            let mut link = Command::new("ip");
            link.args(["link", "add", &cable, "netns", &switch.pid().to_string()])
                .args(["type", "veth", "peer", "name", "eth0"])
                .args(["netns", &node.pid().to_string()]);
            Ran::run(link, None)?.ok()?;
            switch.sh(&format!(
                "ip link set {cable} master br0 up && tc qdisc add dev {cable} root {rate}"
            ))?;
            node.sh(&format!(
                "ip addr add {address} dev eth0 && ip link set eth0 up && \
                 tc qdisc add dev eth0 root {rate}"
            ))?;
            nodes.push(node);
        }
        Ok(Self {
            nodes,
            _switch: switch,
        })
    }

    /// Bytes that the first host has sent so far.
    fn sent(&self) -> anyhow::Result<u64> {
        let sent = self.nodes[0].sh("awk '$1 == \"eth0:\" {print $10}' /proc/net/dev")?;
        Ok(sent.trim().parse()?)
    }
}

fn name(host: usize) -> String {
    format!("h{host}")
}

fn address(host: usize) -> String {
    format!("10.98.0.{}", 10 + host)
}

/// What a host is told to do; it answers when that is done.
enum Order {
    /// Gets the image, if it has none.
    Get(oneshot::Sender<Result<(), EngineError>>),
    Forget(oneshot::Sender<Result<(), EngineError>>),
}

type Orders = tokio::sync::mpsc::UnboundedSender<Order>;

/// The hosts, each a thread in its network.
struct Cluster {
    hosts: Vec<Orders>,
}

impl Cluster {
    fn start(links: &Links) -> anyhow::Result<Self> {
        let kv = MemKv::new();
        let agent = MemAgent::new("h0", kv);
        let mut identities = Vec::new();
        for (host, node) in links.nodes.iter().enumerate() {
            let identity = Arc::new(Identity::load_or_create(node.folder())?);
            let peer = Peer {
                addr: format!("{}:{PORT}", address(host)).parse()?,
                fingerprint: identity.fingerprint().to_owned(),
            };
            agent.put_host(&name(host), Some(peer));
            identities.push(identity);
        }
        let mut hosts = Vec::new();
        let (ready, all_ready): (Sender<anyhow::Result<()>>, Receiver<_>) = channel();
        for (number, (node, identity)) in links.nodes.iter().zip(identities).enumerate() {
            let (orders, received) = tokio::sync::mpsc::unbounded_channel();
            let host = Host {
                number,
                folder: node.folder().to_owned(),
                identity,
                agent: agent.clone(),
            };
            let network = format!("/proc/{}/ns/net", node.pid());
            let ready = ready.clone();
            std::thread::spawn(move || {
                let ended = enter(&network).and_then(|()| host.run(received, &ready));
                // Nobody listens any more once all are ready.
                ready.send(ended).ok();
            });
            hosts.push(orders);
        }
        for _ in &hosts {
            all_ready.recv()??;
        }
        Ok(Self { hosts })
    }

    /// Until all of these hosts have the image.
    fn copy(&self, hosts: &[usize]) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        self.order(hosts, Order::Get)?;
        Ok(begin.elapsed())
    }

    fn forget(&self) -> anyhow::Result<()> {
        let others: Vec<usize> = (1..=HOSTS).collect();
        self.order(&others, Order::Forget)
    }

    fn order(
        &self,
        hosts: &[usize],
        order: impl Fn(oneshot::Sender<Result<(), EngineError>>) -> Order,
    ) -> anyhow::Result<()> {
        let mut answers = Vec::new();
        for host in hosts {
            let (answer, answered) = oneshot::channel();
            let sent = self.hosts[*host].send(order(answer));
            sent.map_err(|_| anyhow!("{} has ended", name(*host)))?;
            answers.push(answered);
        }
        for (host, answer) in hosts.iter().zip(answers) {
            answer.blocking_recv()?.with_context(|| name(*host))?;
        }
        Ok(())
    }
}

/// Moves this thread into a network.
fn enter(network: &str) -> anyhow::Result<()> {
    use std::os::fd::AsFd;
    let network = std::fs::File::open(network)?;
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(network.as_fd(), Some(kind))?;
    Ok(())
}

struct Host {
    number: usize,
    folder: PathBuf,
    identity: Arc<Identity>,
    agent: MemAgent,
}

impl Host {
    /// Serves and obeys on this thread, which alone makes its sockets.
    fn run(
        self,
        orders: tokio::sync::mpsc::UnboundedReceiver<Order>,
        ready: &Sender<anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build()?;
        runtime.block_on(self.work(orders, ready))
    }

    async fn work(
        self,
        mut orders: tokio::sync::mpsc::UnboundedReceiver<Order>,
        ready: &Sender<anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let engine = MemEngine::default();
        if self.number == 0 {
            engine.world(|world, _| {
                world.add_local_image(NAME, ID);
                world.archive_padding = BYTES;
            });
        }
        let settings = PullSettings {
            docker_config: PathBuf::from("/nonexistent"),
            at_once: 3,
            jitter: Duration::ZERO,
            record: None,
            spool: Some(SpoolPlace {
                folder: self.folder.clone(),
                limits: DiskLimits::default(),
            }),
        };
        let images = Images::new(Arc::new(engine.clone()), settings);
        let table = Arc::new(PeerTable::default());
        let snapshot = self.agent.view().context("a view")?.snapshot;
        table.update(&snapshot, false);
        let client = Arc::new(PeerClient::new(self.identity.clone(), table.clone()));
        images.meet(Arc::new(Others {
            this: self.number,
            client: client.clone(),
        }));
        let listener = TcpListener::bind((address(self.number), PORT)).await?;
        let routes = router(
            Arc::new(self.agent.clone()),
            Arc::new(Served(images.clone())),
            client,
        );
        let limits = listen::Limits {
            all: 256,
            per_source: 64,
        };
        let stop = CancellationToken::new();
        let server = serve(
            vec![listener],
            self.identity.clone(),
            table,
            routes,
            limits,
            stop.clone(),
        );
        tokio::spawn(server);
        ready.send(Ok(()))?;
        while let Some(order) = orders.recv().await {
            match order {
                Order::Get(answer) => {
                    let images = images.clone();
                    tokio::spawn(async move {
                        let decided = format!("local:{ID}");
                        let got = images.ensure(NAME, &decided, None, Pull::Never);
                        answer.send(got.await.map(drop)).ok();
                    });
                }
                Order::Forget(answer) => {
                    engine.world(|world, _| world.images.clear());
                    answer.send(Ok(())).ok();
                }
            }
        }
        stop.cancel();
        Ok(())
    }
}

/// A host's images, for the others.
struct Served(Images);

#[async_trait]
impl ImageServer for Served {
    async fn offer(&self, wanted: &WantedImage) -> Result<Option<OfferedImage>, HostError> {
        let offer = self.0.offer(wanted).await;
        offer.map_err(|error| HostError::Engine(error.to_string()))
    }

    async fn archive(&self, wanted: &WantedArchive) -> Result<Option<Archive>, HostError> {
        let archive = self.0.archive(wanted).await;
        archive.map_err(|error| HostError::Engine(error.to_string()))
    }
}

/// The others' images, for a host.
struct Others {
    this: usize,
    client: Arc<PeerClient>,
}

#[async_trait]
impl OtherHosts for Others {
    fn hosts(&self, _image: &str) -> Vec<HostName> {
        // Not all of those who ask begin with the same host.
        let all = (0..=HOSTS).map(|n| (self.this + n) % (HOSTS + 1));
        let others = all.filter(|host| *host != self.this);
        others.filter_map(|host| name(host).parse().ok()).collect()
    }

    async fn offer(
        &self,
        host: &HostName,
        wanted: &WantedImage,
    ) -> Result<Option<OfferedImage>, String> {
        self.client.offered_image(host, wanted).await
    }

    async fn archive(
        &self,
        host: &HostName,
        wanted: &WantedArchive,
    ) -> Result<Option<Archive>, String> {
        self.client.image_archive(host, wanted).await
    }
}
