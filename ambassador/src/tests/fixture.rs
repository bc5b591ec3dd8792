//! A cluster's state as keys, callers, servers and waiting.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use manifests::SlotId;
use manifests::env::FIRST_LINK_PORT;
use model::directory::{Directory, ServiceId};
use model::snapshot::{Change, Snapshot};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use model::directory::{Caller, Callers};

use crate::{Ambassador, Config, Handle, Ports, Tables};

/// `app/service`.
pub(crate) fn service(text: &str) -> ServiceId {
    let (app, service) = text.split_once('/').expect("app/service");
    ServiceId {
        app: app.parse().expect("app"),
        service: service.parse().expect("service"),
    }
}

/// `app/container/slot`.
pub(crate) fn slot(text: &str) -> SlotId {
    let (container, slot) = text.rsplit_once('/').expect("app/container/slot");
    let container: manifests::ContainerId = container.parse().expect("app/container");
    container.slot(slot.parse().expect("slot"))
}

/// A caller with links to services, from the first link port on.
pub(crate) fn caller(ip: &str, of: &str, links: &[&str]) -> (IpAddr, Caller) {
    let links = (FIRST_LINK_PORT..).zip(links.iter().map(|link| service(link)));
    let caller = Caller {
        slot: slot(of),
        links: links.collect(),
    };
    (ip.parse().expect("address"), caller)
}

/// Keys in etcd that make a directory.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    puts: Vec<(String, serde_json::Value)>,
}

impl Cluster {
    /// A ready instance of a slot, `app/container/slot`.
    pub(crate) fn ready(&mut self, of: &str, service: &str, addr: &str) {
        self.state(of, service, addr, "ready");
    }

    pub(crate) fn state(&mut self, of: &str, service: &str, addr: &str, state: &str) {
        let addr: SocketAddr = addr.parse().expect("address");
        let slot = slot(of);
        let claim = format!("/claims/{}/slots/{}", slot.container, slot.slot);
        let instance = format!("{}-{}", slot.container.container, slot.slot);
        self.puts.push((
            claim.clone(),
            serde_json::json!({"host": "h1", "instance": instance, "version": 1}),
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

/// A running ambassador and all that it reads.
pub(crate) struct Bench {
    pub(crate) handle: Handle,
    pub(crate) tables: Arc<Tables>,
    pub(crate) directory: Arc<ArcSwap<Directory>>,
    pub(crate) refresh: mpsc::Receiver<()>,
    pub(crate) shutdown: CancellationToken,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Bench {
    pub(crate) fn start(cluster: &Cluster, callers: Callers) -> Self {
        let mut config = Config::new([127, 0, 0, 1].into());
        config.ports = Ports::Ephemeral;
        Self::start_with(config, cluster, callers)
    }

    pub(crate) fn start_with(config: Config, cluster: &Cluster, callers: Callers) -> Self {
        let directory = Arc::new(ArcSwap::from_pointee(cluster.directory()));
        let tables = Arc::new(Tables::new(Arc::clone(&directory)));
        tables.set_callers(callers);
        let (ask, refresh) = mpsc::channel(4);
        let shutdown = CancellationToken::new();
        let handle = Ambassador::start(config, Arc::clone(&tables), ask, shutdown.clone());
        Self {
            handle,
            tables,
            directory,
            refresh,
            shutdown,
        }
    }

    /// Connects as a caller to its n-th link.
    pub(crate) async fn call(&self, from: &str, link: u16) -> anyhow::Result<TcpStream> {
        let link = FIRST_LINK_PORT + link;
        let mut addresses = self.handle.addresses.clone();
        let to = wait(&mut addresses, |bound| bound.contains_key(&link)).await?[&link];
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from.parse()?, 0))?;
        Ok(socket.connect(to).await?)
    }

    /// Connects and reads all that the service sends by itself.
    pub(crate) async fn hear(&self, from: &str, link: u16) -> anyhow::Result<String> {
        let mut stream = self.call(from, link).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }
}

/// Waits for a state; fails after a long time and shows the last.
pub(crate) async fn wait<T: Clone + std::fmt::Debug>(
    watch: &mut watch::Receiver<T>,
    is_it: impl FnMut(&T) -> bool,
) -> anyhow::Result<T> {
    let found = tokio::time::timeout(Duration::from_secs(30), async {
        watch.wait_for(is_it).await.map(|state| state.clone())
    })
    .await;
    match found {
        Ok(state) => Ok(state?),
        Err(_) => anyhow::bail!("still {:?}", *watch.borrow()),
    }
}

/// Looks until it is so; fails after a long time.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
    tokio::time::timeout(Duration::from_secs(30), async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .with_context(|| format!("still not so: {what}"))
}

/// A server that does the same with each connection until dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    pub(crate) async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let addr = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self {
            addr,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Says its name and closes.
    pub(crate) async fn saying(name: &'static str) -> Self {
        Self::start(move |mut stream| async move { stream.write_all(name.as_bytes()).await }).await
    }

    /// Sends back what it gets, then ends.
    pub(crate) async fn echo() -> Self {
        Self::start(|mut stream| async move {
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await?;
            to.shutdown().await
        })
        .await
    }
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    listener.local_addr().expect("bound")
}

/// The test's side of each connection that the server got.
pub(crate) async fn handed_over() -> (Server, mpsc::Receiver<TcpStream>) {
    let (give, take) = mpsc::channel(1);
    let server = Server::start(move |stream| {
        let give = give.clone();
        async move {
            // The test may have ended.
            let _ = give.send(stream).await;
            Ok(())
        }
    })
    .await;
    (server, take)
}

/// Bytes that repeat only after 251, so that a shifted or doubled part shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}
