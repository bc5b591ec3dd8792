//! Both etcds behind one face, and one helper to wait.

use std::fs::File;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use store::etcd::{EtcdKv, EtcdOptions};
use store::kv::{Kv, KvError, Range};
use store::memory::{MemEtcd, MemKv};
use store::{Op, Txn, TxnReply};
use tempfile::TempDir;
use tokio::time::Instant;

/// An etcd process with its data in a folder of its own; it ends with this value.
pub(crate) struct RealEtcd {
    process: Process,
    address: String,
    folder: TempDir,
}

/// A process that ends with this value.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn kill(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), signal).expect("signals");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl RealEtcd {
    /// On a free TCP port.
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let (process, address) = run(
            folder.path(),
            "http://127.0.0.1:0",
            "http://127.0.0.1:0",
            &[],
        );
        Self {
            process,
            address,
            folder,
        }
    }

    /// With room for so many bytes.
    pub(crate) fn start_with_quota(bytes: u32) -> Self {
        let folder = TempDir::new().expect("a folder");
        let any = "http://127.0.0.1:0";
        let quota = format!("--quota-backend-bytes={bytes}");
        let (process, address) = run(folder.path(), any, any, &[&quota]);
        Self {
            process,
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
        let (process, address) = run(
            folder.path(),
            "https://127.0.0.1:0",
            "http://127.0.0.1:0",
            &files,
        );
        Self {
            process,
            address,
            folder,
        }
    }

    /// On a unix socket, as the embedded one.
    pub(crate) fn start_on_socket() -> Self {
        let folder = TempDir::new().expect("a folder");
        let (process, _) = run(folder.path(), "unix://c:1", "unix://p:1", &[]);
        let socket = folder.path().join("c:1");
        Self {
            process,
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
        let (process, _) = run(self.folder.path(), &listen, "http://127.0.0.1:0", &[]);
        self.process = process;
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
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
        let output = Command::new(program("etcdctl"))
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

/// A program of etcd: of the release that `LAB_ETCD` names, else the machine's.
pub(crate) fn program(name: &str) -> PathBuf {
    match std::env::var("LAB_ETCD").as_deref() {
        Err(_) | Ok("" | "3.4") => name.into(),
        Ok("3.5") => {
            let this = std::env::current_exe().expect("a path");
            let target = this.ancestors().nth(3).expect("in target/debug/deps");
            target.join("roots/sid/usr/bin").join(name)
        }
        Ok(other) => panic!("LAB_ETCD={other}: 3.4 or 3.5"),
    }
}

/// The process, and the client address from its log.
fn run(folder: &Path, client: &str, peer: &str, more: &[&str]) -> (Process, String) {
    let advertise = |url: &str| url.replace("unix://", "http://");
    let args = [
        &["--data-dir", "data", "--listen-client-urls", client][..],
        &["--advertise-client-urls", &advertise(client)],
        &["--listen-peer-urls", peer],
        &["--initial-advertise-peer-urls", &advertise(peer)],
        &["--initial-cluster", &format!("default={}", advertise(peer))],
        more,
    ];
    let (process, log) = launch(folder, "log", &args.concat());
    let address = log.address();
    (process, address)
}

/// What an etcd says, read to its end, so that it never waits for its log.
pub(crate) struct Log(std::sync::mpsc::Receiver<String>);

impl Log {
    /// Where it serves its clients, once it does.
    pub(crate) fn address(&self) -> String {
        let mut last = String::new();
        while let Ok(line) = self.0.recv_timeout(Duration::from_secs(30)) {
            let of_clients = line.contains("serving client traffic");
            if let Some((_, address)) = line.split_once(r#""address":""#).filter(|_| of_clients) {
                return address.split('"').next().unwrap_or_default().to_owned();
            }
            last = line;
        }
        panic!("etcd does not serve; its last line: {last}");
    }
}

/// Starts a member that finds a lost leader soon.
///
/// Its log is also in this file of the folder.
pub(crate) fn launch(folder: &Path, log_name: &str, args: &[&str]) -> (Process, Log) {
    let mut child = Command::new(program("etcd"))
        .current_dir(folder)
        .args(["--logger", "zap"])
        .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("etcd is in PATH");
    let log = child.stderr.take().expect("piped");
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut file = File::create(folder.join(log_name)).expect("a file");
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            writeln!(file, "{line}").ok();
            sender.send(line).ok();
        }
    });
    (Process(child), Log(receiver))
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

    /// When it is down: starts it with the data that it has.
    pub(crate) fn come_up(&mut self) {
        if let Some(memory) = &self.memory {
            memory.set_unavailable(false);
        }
        if let Some(etcd) = &mut self.etcd {
            etcd.restart();
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
