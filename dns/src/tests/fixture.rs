//! A cluster's state as keys, a running server, and clients.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use arc_swap::ArcSwap;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use manifests::ContainerId;
use model::directory::Directory;
use model::skydns::Records;
use model::snapshot::{Change, Snapshot};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::message::{read_message, write_message};
use crate::{Config, Dns, Files, Forwarding, Handle, Zone};

/// Keys in etcd that make a directory.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    puts: Vec<(String, serde_json::Value)>,
}

impl Cluster {
    /// A live host.
    pub(crate) fn host(&mut self, name: &str) {
        self.puts.push((
            format!("/hosts/{name}/record"),
            serde_json::json!({
                "id": "00000000-0000-4000-8000-000000000001",
                "session": "00000000-0000-4000-8000-000000000002",
                "epoch": 1,
                "state": "up",
                "addr": "10.0.0.1",
                "versions": {"agent": "0", "placement": [1]},
            }),
        ));
    }

    /// An instance of a slot, `app/container/slot`, and the state of its one service.
    pub(crate) fn state(&mut self, of: &str, host: &str, addr: &str, state: &str, service: &str) {
        let addr: SocketAddr = addr.parse().expect("address");
        let (container, slot) = of.rsplit_once('/').expect("app/container/slot");
        let container: ContainerId = container.parse().expect("app/container");
        let claim = format!("/claims/{container}/slots/{slot}");
        let instance = format!("{}-{slot}", container.container);
        self.puts.push((
            claim.clone(),
            serde_json::json!({"host": host, "instance": instance, "version": 1}),
        ));
        self.puts.push((
            format!("{claim}.state"),
            serde_json::json!({
                "instance": instance,
                "state": state,
                "addr": addr.ip(),
                "ports": {service: addr.port()},
            }),
        ));
    }

    pub(crate) fn directory(&self) -> Directory {
        let changes = self.puts.iter().map(|(key, value)| Change::Put {
            key: key.clone(),
            value: value.to_string().into_bytes(),
            modified: 1,
            created: 1,
        });
        let mut snapshot = Snapshot::default();
        snapshot.apply(changes, 1);
        Directory::new(&snapshot)
    }
}

/// A running server and what it reads.
pub(crate) struct Bench {
    pub(crate) handle: Handle,
    pub(crate) addr: SocketAddr,
    pub(crate) directory: Arc<ArcSwap<Directory>>,
    pub(crate) records: Arc<ArcSwap<Records>>,
    pub(crate) shutdown: CancellationToken,
    folder: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Bench {
    /// A server whose host has these resolvers.
    pub(crate) async fn start(directory: Directory, resolvers: &[SocketAddr]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        write_resolvers(folder.path(), resolvers)?;
        let listen = "127.0.0.1:0".parse()?;
        Self::start_at(listen, directory, folder, begun())?
            .bound()
            .await
    }

    /// A server that may not be able to listen yet.
    pub(crate) fn start_at(
        listen: SocketAddr,
        directory: Directory,
        folder: tempfile::TempDir,
        begin: CancellationToken,
    ) -> Result<Self> {
        Self::launch(listen, directory, folder, begin, Forwarding::default())
    }

    /// A server that forwards as it is told.
    pub(crate) async fn forwarding(
        forwarding: Forwarding,
        resolvers: &[SocketAddr],
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        write_resolvers(folder.path(), resolvers)?;
        let (listen, directory) = ("127.0.0.1:0".parse()?, Directory::default());
        Self::launch(listen, directory, folder, begun(), forwarding)?
            .bound()
            .await
    }

    fn launch(
        listen: SocketAddr,
        directory: Directory,
        folder: tempfile::TempDir,
        begin: CancellationToken,
        forwarding: Forwarding,
    ) -> Result<Self> {
        let records = Arc::<ArcSwap<Records>>::default();
        let config = Config {
            listen: vec![listen],
            zone: Zone::new("skydns.local", [listen.ip()])?,
            // As the agent's: it keeps sockets until they are released.
            binder: listen::Binder::new(None, Vec::new()),
            records: Arc::clone(&records),
            begin,
            forwarding: Forwarding {
                files: Files {
                    resolv_conf: folder.path().join("resolv.conf"),
                    behind_stub: folder.path().join("none"),
                },
                ..forwarding
            },
            bridges: Vec::new(),
            allowed: Vec::new(),
        };
        let directory = Arc::new(ArcSwap::from_pointee(directory));
        let shutdown = CancellationToken::new();
        Ok(Self {
            handle: Dns::start(config, Arc::clone(&directory), shutdown.clone()),
            addr: listen,
            directory,
            records,
            shutdown,
            folder,
        })
    }

    async fn bound(mut self) -> Result<Self> {
        let bound = wait(&mut self.handle.addresses, |bound| !bound.is_empty()).await?;
        self.addr = bound[0];
        Ok(self)
    }

    /// The host has other resolvers now.
    pub(crate) fn set_resolvers(&self, resolvers: &[SocketAddr]) -> Result<()> {
        write_resolvers(self.folder.path(), resolvers)
    }

    /// What `dig` prints with these arguments.
    pub(crate) async fn dig(&self, arguments: &str) -> Result<String> {
        let run = self.client("dig", format!("+tries=1 +timeout=10 {arguments}"));
        run.await.context("dig; it is in Debian's bind9-dnsutils")
    }

    /// What `kdig` prints with these arguments.
    pub(crate) async fn kdig(&self, arguments: &str) -> Result<String> {
        let run = self.client("kdig", format!("+retry=0 +timeout=10 {arguments}"));
        run.await.context("kdig; it is in Debian's knot-dnsutils")
    }

    async fn client(&self, program: &str, arguments: String) -> Result<String> {
        let output = tokio::process::Command::new(program)
            .arg("@127.0.0.1")
            .args(["-p", &self.addr.port().to_string()])
            .args(arguments.split(' '))
            .kill_on_drop(true)
            .output()
            .await?;
        let text = String::from_utf8(output.stdout)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments}: {text}{errors}");
        Ok(text)
    }

    pub(crate) async fn udp(&self, packet: &[u8]) -> Result<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(self.addr).await?;
        socket.send(packet).await?;
        let mut answer = vec![0; 65_535];
        let length =
            tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut answer)).await??;
        answer.truncate(length);
        Ok(answer)
    }

    pub(crate) async fn tcp(&self, packet: &[u8]) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.addr).await?;
        write_message(&mut stream, packet).await?;
        Ok(tokio::time::timeout(
            Duration::from_secs(30),
            read_message(&mut stream, usize::MAX),
        )
        .await??)
    }
}

fn write_resolvers(folder: &Path, resolvers: &[SocketAddr]) -> Result<()> {
    let lines: Vec<String> = resolvers
        .iter()
        .map(|to| format!("nameserver [{}]:{}\n", to.ip(), to.port()))
        .collect();
    Ok(std::fs::write(folder.join("resolv.conf"), lines.concat())?)
}

/// A question as a packet.
pub(crate) fn packet(number: u16, name: &str, wanted: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = number;
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(name).expect("name");
    message.add_query(Query::query(name, wanted));
    message.to_vec().expect("packet")
}

/// Waits for a state; fails after a long time and shows the last.
pub(crate) async fn wait<T: Clone + std::fmt::Debug>(
    watch: &mut watch::Receiver<T>,
    is_it: impl FnMut(&T) -> bool,
) -> Result<T> {
    let found = tokio::time::timeout(Duration::from_secs(30), async {
        watch.wait_for(is_it).await.map(|state| state.clone())
    })
    .await;
    match found {
        Ok(state) => Ok(state?),
        Err(_) => anyhow::bail!("still {:?}", *watch.borrow()),
    }
}

/// Of a server whose directory is there.
pub(crate) fn begun() -> CancellationToken {
    let begin = CancellationToken::new();
    begin.cancel();
    begin
}

/// So many ready instances of `web.shop`.
pub(crate) fn web(slots: u8) -> Directory {
    let mut cluster = Cluster::default();
    cluster.host("h1");
    for slot in 0..slots {
        let addr = format!("10.0.1.{slot}:20000");
        cluster.state(&format!("shop/web/{slot}"), "h1", &addr, "ready", "web");
    }
    cluster.directory()
}
