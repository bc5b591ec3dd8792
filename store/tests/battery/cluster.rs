//! A real etcd of three members. Their peers meet through proxies, which can hold back what one of them is to apply.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use store::etcd::{EtcdKv, EtcdOptions};
use store::kv::Kv;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::{Log, Process, launch, wait_for};

/// Time to live of a host's lease, which sets the pace of everything else.
pub(crate) const TTL: Duration = Duration::from_secs(5);

/// Three members, of which each runs or not.
pub(crate) struct RealCluster {
    members: Vec<Member>,
    /// The member that gets no entries.
    held: watch::Sender<Option<Held>>,
    folder: TempDir,
    _proxies: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    member: usize,
    id: u64,
}

struct Member {
    process: Option<Process>,
    /// Of its clients; of one that has not run yet a port that nobody listens on.
    address: String,
    /// Known of those that have run.
    id: u64,
}

impl RealCluster {
    /// Starts the first `running` of the three.
    pub(crate) async fn start(running: usize) -> Self {
        let folder = TempDir::new().expect("a folder");
        let held = watch::Sender::new(None);
        let mut proxies = JoinSet::new();
        let mut peers = Vec::new();
        for number in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            peers.push(format!(
                "m{number}=http://{}",
                listener.local_addr().expect("bound")
            ));
            let socket = folder.path().join(format!("peer{number}:1"));
            proxies.spawn(proxy(listener, number, socket, held.subscribe()));
        }
        let peers = peers.join(",");
        let started: Vec<(Process, Log)> = (0..running)
            .map(|number| run(folder.path(), &peers, number, "127.0.0.1:0"))
            .collect();
        let mut cluster = Self {
            members: Vec::new(),
            held,
            folder,
            _proxies: proxies,
        };
        for (process, log) in started {
            let address = log.address();
            let kv = client(&[&address]);
            let status = wait_for("a status", || async { kv.status().await.ok() }).await;
            cluster.members.push(Member {
                process: Some(process),
                address,
                id: status.member_id,
            });
        }
        while cluster.members.len() < 3 {
            let free = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            cluster.members.push(Member {
                process: None,
                address: free.local_addr().expect("bound").to_string(),
                id: 0,
            });
        }
        cluster
    }

    /// A client of this member alone.
    pub(crate) fn only(&self, member: usize) -> Arc<dyn Kv> {
        client(&[&self.members[member].address])
    }

    /// A client of all members, wherever it begins.
    pub(crate) fn all(&self) -> Arc<dyn Kv> {
        let addresses = self.members.iter().map(|member| member.address.as_str());
        client(&addresses.collect::<Vec<_>>())
    }

    /// A client of all members that begins at this one.
    pub(crate) async fn at(&self, member: usize) -> Arc<dyn Kv> {
        let id = self.members[member].id;
        wait_for("a client at the member", || async {
            let kv = self.all();
            let status = kv.status().await.ok()?;
            (status.member_id == id).then_some(kv)
        })
        .await
    }

    /// The member that leads, by the word of one that runs.
    pub(crate) async fn leader(&self, asked: usize) -> usize {
        let kv = self.only(asked);
        wait_for("a leader", || async {
            let status = kv.status().await.ok()?;
            let mut members = self.members.iter();
            members.position(|member| member.id != 0 && member.id == status.leader)
        })
        .await
    }

    pub(crate) fn freeze(&self, member: usize) {
        self.process(member).signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self, member: usize) {
        self.process(member).signal(Signal::CONT);
    }

    pub(crate) fn kill(&mut self, member: usize) {
        self.members[member].process = None;
    }

    /// This member gets no entries of the log and no snapshot, but hears of its leader, until another is named or none.
    pub(crate) fn hold(&self, member: Option<usize>) {
        let held = member.map(|member| Held {
            member,
            id: self.members[member].id,
        });
        self.held.send_replace(held);
    }

    fn process(&self, member: usize) -> &Process {
        self.members[member].process.as_ref().expect("runs")
    }
}

/// The logs of a test that fails are kept.
impl Drop for RealCluster {
    #[expect(clippy::print_stderr, reason = "it belongs to what the test says")]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.members.clear();
        for number in 0..3 {
            std::fs::remove_dir_all(self.folder.path().join(format!("m{number}"))).ok();
        }
        self.folder.disable_cleanup(true);
        eprintln!("what etcd said: {}", self.folder.path().display());
    }
}

pub(crate) fn client(endpoints: &[&str]) -> Arc<dyn Kv> {
    let options = EtcdOptions {
        lease_ttl: TTL,
        ..EtcdOptions::new(endpoints.iter().copied())
    };
    Arc::new(EtcdKv::new(&options).expect("good options"))
}

fn run(folder: &Path, peers: &str, number: usize, client: &str) -> (Process, Log) {
    let name = format!("m{number}");
    let own = peers.split(',').nth(number).unwrap_or_default();
    let own = own.trim_start_matches(&format!("{name}="));
    let client = format!("http://{client}");
    let args = [
        &["--name", &name, "--data-dir", &name][..],
        &["--listen-client-urls", &client],
        &["--advertise-client-urls", &client],
        &["--listen-peer-urls", &format!("unix://peer{number}:1")],
        &["--initial-advertise-peer-urls", own],
        &["--initial-cluster", peers],
        // What is older than 5,000 entries is soon forgotten.
        &["--snapshot-count", "100"],
    ];
    launch(folder, &format!("{name}.log"), &args.concat())
}

/// Passes on what peers say to the member at this socket, and its answers.
async fn proxy(
    listener: TcpListener,
    member: usize,
    socket: PathBuf,
    held: watch::Receiver<Option<Held>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((inbound, _)) = listener.accept().await {
        connections.spawn(pass(inbound, member, socket.clone(), held.clone()));
    }
}

/// One connection to this member. The answer to one that asks for entries waits while that is held.
async fn pass(
    mut inbound: TcpStream,
    member: usize,
    socket: PathBuf,
    mut held: watch::Receiver<Option<Held>>,
) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match inbound.read_buf(&mut head).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
    }
    let asked = String::from_utf8_lossy(&head);
    let is_held = held.borrow().is_some_and(|held| held.member == member);
    if is_held && asked.starts_with("POST /raft/snapshot") {
        return;
    }
    let entries_of = asked
        .strip_prefix("GET /raft/stream/msgapp/")
        .and_then(|rest| rest.split(' ').next())
        .and_then(|id| u64::from_str_radix(id, 16).ok());
    let Ok(mut outbound) = UnixStream::connect(socket).await else {
        return;
    };
    if outbound.write_all(&head).await.is_err() {
        return;
    }
    let (mut from, mut to) = inbound.into_split();
    let (mut back, mut forth) = outbound.into_split();
    let answers = async {
        let mut buffer = vec![0; 65_536];
        while let Ok(read @ 1..) = back.read(&mut buffer).await {
            let holds = |held: &Option<Held>| held.is_some_and(|held| Some(held.id) == entries_of);
            if holds(&held.borrow()) {
                // What was held is lost, as on a cable that is cut.
                held.wait_for(|held| !holds(held)).await.ok();
                return;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut from, &mut forth) => {}
        () = answers => {}
    }
}
