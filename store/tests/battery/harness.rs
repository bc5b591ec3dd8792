//! Both etcds behind one face, and one helper to wait.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use store::etcd::{EtcdKv, EtcdOptions};
use store::kv::{Kv, KvError, Range};
use store::memory::{MemEtcd, MemKv};
use store::{Op, Txn, TxnReply};
use tempfile::TempDir;
use tokio::time::Instant;

/// An etcd process with its data in a folder of its own; it ends with this value.
pub(crate) struct RealEtcd {
    child: Child,
    address: String,
    folder: TempDir,
}

impl RealEtcd {
    /// On a free TCP port.
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let (child, address) = run(
            folder.path(),
            "http://127.0.0.1:0",
            "http://127.0.0.1:0",
            &[],
        );
        Self {
            child,
            address,
            folder,
        }
    }

    /// With room for so many bytes.
    pub(crate) fn start_with_quota(bytes: u32) -> Self {
        let folder = TempDir::new().expect("a folder");
        let any = "http://127.0.0.1:0";
        let quota = format!("--quota-backend-bytes={bytes}");
        let (child, address) = run(folder.path(), any, any, &[&quota]);
        Self {
            child,
            address,
            folder,
        }
    }

    /// With TLS: it has `server.pem` and `server.key` in its folder, and takes clients that `ca.pem` there has signed.
    pub(crate) fn start_with_tls(folder: TempDir) -> Self {
        let files = [
            "--cert-file=server.pem",
            "--key-file=server.key",
            "--trusted-ca-file=ca.pem",
            "--client-cert-auth",
        ];
        let (child, address) = run(
            folder.path(),
            "https://127.0.0.1:0",
            "http://127.0.0.1:0",
            &files,
        );
        Self {
            child,
            address,
            folder,
        }
    }

    /// On a unix socket, as the embedded one.
    pub(crate) fn start_on_socket() -> Self {
        let folder = TempDir::new().expect("a folder");
        let (child, _) = run(folder.path(), "unix://c:1", "unix://p:1", &[]);
        let socket = folder.path().join("c:1");
        Self {
            child,
            address: format!("unix:{}", socket.display()),
            folder,
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Kills it, and starts it again at the same place with the same data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let listen = format!("http://{}", self.address);
        let (child, _) = run(self.folder.path(), &listen, "http://127.0.0.1:0", &[]);
        self.child = child;
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// A snapshot in its folder, made as an operator makes one.
    pub(crate) fn save(&self) -> PathBuf {
        let file = self.folder.path().join("snapshot");
        self.etcdctl(&["--endpoints", &self.address, "snapshot", "save", "snapshot"]);
        file
    }

    /// Starts it, when it has been killed, with the data of a snapshot, or without any; its own is kept.
    pub(crate) fn start_with(&mut self, snapshot: Option<&Path>) {
        let folder = self.folder.path();
        std::fs::rename(folder.join("data"), folder.join("before")).expect("renames");
        if let Some(snapshot) = snapshot {
            // With the token that it always had: to its clients it is the same cluster.
            self.etcdctl(&[
                "snapshot",
                "restore",
                snapshot.to_str().expect("text"),
                "--data-dir=data",
                "--initial-cluster=default=http://127.0.0.1:0",
                "--initial-advertise-peer-urls=http://127.0.0.1:0",
            ]);
        }
        self.restart();
    }

    /// Starts it, when it has been killed, with the data that it had before `start_with`.
    pub(crate) fn start_with_its_own(&mut self) {
        let folder = self.folder.path();
        std::fs::remove_dir_all(folder.join("data")).expect("removes");
        std::fs::rename(folder.join("before"), folder.join("data")).expect("renames");
        self.restart();
    }

    /// Makes room and clears the alarm, as docs/recovery.md says.
    pub(crate) fn make_room(&self, revision: i64) {
        let at = ["--endpoints", &self.address];
        let revision = revision.to_string();
        for line in [
            &["compaction", &revision][..],
            &["defrag"],
            &["alarm", "disarm"],
        ] {
            self.etcdctl(&[&at[..], line].concat());
        }
    }

    fn etcdctl(&self, args: &[&str]) {
        let output = Command::new("etcdctl")
            .current_dir(self.folder.path())
            .env("ETCDCTL_API", "3")
            .args(args)
            .output()
            .expect("etcdctl is in PATH");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {args:?}: {said}");
    }

    pub(crate) fn options(&self) -> EtcdOptions {
        EtcdOptions::new([self.address.clone()])
    }

    pub(crate) fn kv(&self) -> Arc<dyn Kv> {
        Arc::new(EtcdKv::new(&self.options()).expect("good options"))
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The process, and the client address from its log.
fn run(folder: &Path, client: &str, peer: &str, more: &[&str]) -> (Child, String) {
    let advertise = |url: &str| url.replace("unix://", "http://");
    let mut child = Command::new("etcd")
        .current_dir(folder)
        .args(["--data-dir", "data", "--logger", "capnslog"])
        .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
        .args(["--listen-client-urls", client])
        .args(["--advertise-client-urls", &advertise(client)])
        .args(["--listen-peer-urls", peer])
        .args(["--initial-advertise-peer-urls", &advertise(peer)])
        .args(["--initial-cluster", &format!("default={}", advertise(peer))])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("etcd is in PATH");
    let log = child.stderr.take().expect("piped");
    let (sender, receiver) = std::sync::mpsc::channel();
    // Reads to the end, so that etcd never waits for its log.
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            sender.send(line).ok();
        }
    });
    let mut last = String::new();
    while let Ok(line) = receiver.recv_timeout(Duration::from_secs(30)) {
        if let Some((_, address)) = line.split_once("client requests on ") {
            let address = address.split(',').next().unwrap_or_default();
            return (child, address.trim().to_owned());
        }
        last = line;
    }
    child.kill().ok();
    child.wait().ok();
    panic!("etcd did not start; its last line: {last}");
}

/// What a `Backend` can be restored to.
pub(crate) struct Backup {
    memory: Option<MemEtcd>,
    file: Option<PathBuf>,
}

/// One of the two.
pub(crate) struct Backend {
    pub(crate) kv: Arc<dyn Kv>,
    memory: Option<MemKv>,
    etcd: Option<RealEtcd>,
    /// What was in memory before a restore.
    before: Option<MemEtcd>,
}

impl Backend {
    pub(crate) fn memory() -> Self {
        let memory = MemKv::new();
        Self {
            kv: Arc::new(memory.clone()),
            memory: Some(memory),
            etcd: None,
            before: None,
        }
    }

    pub(crate) fn etcd() -> Self {
        let etcd = RealEtcd::start();
        Self {
            kv: etcd.kv(),
            memory: None,
            etcd: Some(etcd),
            before: None,
        }
    }

    /// Makes a client of its own.
    pub(crate) fn factory(&self) -> Arc<dyn Fn() -> Arc<dyn Kv> + Send + Sync> {
        if let Some(memory) = self.memory.clone() {
            return Arc::new(move || Arc::new(memory.clone()));
        }
        let etcd = self.etcd.as_ref().expect("one of the two");
        let options = etcd.options();
        Arc::new(move || Arc::new(EtcdKv::new(&options).expect("good options")))
    }

    pub(crate) async fn compact(&self, revision: i64) {
        if let Some(memory) = &self.memory {
            memory
                .with(|etcd| etcd.compact(revision))
                .expect("compacts");
        }
        if let Some(etcd) = &self.etcd {
            let mut client = etcd_client::Client::connect([etcd.address()], None)
                .await
                .expect("connects");
            let options = etcd_client::CompactionOptions::new().with_physical();
            client
                .compact(revision, Some(options))
                .await
                .expect("compacts");
        }
    }

    /// A backup as an operator makes one.
    pub(crate) fn back_up(&self) -> Backup {
        Backup {
            memory: self.memory.as_ref().map(|kv| kv.with(|etcd| etcd.clone())),
            file: self.etcd.as_ref().map(RealEtcd::save),
        }
    }

    /// Ends it; its data stays.
    pub(crate) fn go_down(&mut self) {
        if let Some(memory) = &self.memory {
            memory.set_unavailable(true);
        }
        if let Some(etcd) = &mut self.etcd {
            etcd.kill();
        }
    }

    /// When it is down: starts it with the data of a backup, or without any.
    pub(crate) fn come_up_with(&mut self, backup: Option<&Backup>) {
        if let Some(memory) = &self.memory {
            let data = backup.and_then(|backup| backup.memory.clone());
            let data = data.unwrap_or_default();
            self.before = Some(memory.with(|etcd| std::mem::replace(etcd, data)));
            memory.set_unavailable(false);
        }
        if let Some(etcd) = &mut self.etcd {
            etcd.start_with(backup.and_then(|backup| backup.file.as_deref()));
        }
    }

    /// When it is down: starts it with the data that it had before `come_up_with`.
    pub(crate) fn come_up_with_its_own(&mut self) {
        if let Some(memory) = &self.memory {
            let data = self.before.take().expect("was restored before");
            memory.with(|etcd| *etcd = data);
            memory.set_unavailable(false);
        }
        if let Some(etcd) = &mut self.etcd {
            etcd.start_with_its_own();
        }
    }

    /// Breaks every connection, as a restart does.
    pub(crate) fn restart(&mut self) {
        if let Some(memory) = &self.memory {
            memory.with(|etcd| etcd.close_watches("restarted"));
        }
        if let Some(etcd) = &mut self.etcd {
            etcd.restart();
        }
    }
}

/// Runs each case on both.
macro_rules! both {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(crate::harness::Backend::memory()).await;
            })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(crate::harness::Backend::etcd()).await;
            })*
        }
    };
}
pub(crate) use both;

/// Looks again and again, for a long time, until there is an answer.
pub(crate) async fn wait_for<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Puts one key; its revision. Tried again while etcd is away.
pub(crate) async fn put(kv: &dyn Kv, key: &str, value: &str) -> i64 {
    wait_for("a put", || async {
        match txn(kv, vec![Op::put(key, value)]).await {
            Ok(reply) => Some(reply.revision),
            Err(KvError::Unavailable(_)) => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await
}

/// Deletes one key; the revision after it.
pub(crate) async fn delete(kv: &dyn Kv, key: &str) -> i64 {
    let reply = txn(kv, vec![Op::delete(key)]).await;
    reply.expect("deletes").revision
}

/// A transaction without guards.
pub(crate) async fn txn(kv: &dyn Kv, ops: Vec<Op>) -> Result<TxnReply, KvError> {
    kv.txn(Txn::new(Vec::new(), ops)).await
}

/// A key's value.
pub(crate) async fn get(kv: &dyn Kv, key: &str) -> Option<String> {
    let reply = kv.range(Range::key(key)).await.expect("reads");
    let kv = reply.kvs.into_iter().next()?;
    Some(String::from_utf8(kv.value).expect("text"))
}
