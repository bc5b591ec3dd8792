//! A real etcd, alone on a free port or one member of several, gone when
//! dropped.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::http::{self, Answer, Target};
use crate::needs;
use crate::node::Node;
use crate::process::{Process, Ran, Started};
use crate::release::EtcdRelease;
use crate::tls::{Authority, Issued};

const START_CAP: Duration = Duration::from_secs(30);

/// Members of a cluster have a network of their own, and must know each
/// other's port before they start.
const PEER_PORT: u16 = 12_380;

/// How to run it.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    /// Which one; none for what `LAB_ETCD` says, else the machine's.
    pub release: Option<EtcdRelease>,
    /// Serve the keys API of version 2 too.
    pub v2: bool,
    /// Serve TLS only, and ask clients for certificates.
    pub tls: bool,
}

/// An etcd.
#[derive(Debug)]
pub struct Etcd {
    process: Mutex<Process>,
    address: SocketAddr,
    socket: PathBuf,
    member: Member,
    certificates: Option<Certificates>,
    /// Removed after the process has ended.
    folder: tempfile::TempDir,
}

/// What an etcd is started with, each time.
#[derive(Debug)]
struct Member {
    name: String,
    ip: String,
    peer_url: String,
    /// `--initial-cluster`.
    members: String,
    v2: bool,
    /// The files of the authority, the certificate and the key.
    tls: Option<[String; 3]>,
    node: Option<Arc<Node>>,
    /// The folder of its programs, outside a node and not the machine's.
    programs: Option<PathBuf>,
}

/// What a client of an etcd with TLS needs.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// A client's certificate and key.
    pub client: Issued,
}

impl Etcd {
    /// Starts an etcd on the machine's loopback.
    pub fn start(options: &EtcdOptions) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("dokkaa-etcd-").tempdir()?;
        let root = EtcdRelease::wanted(options.release)?.root()?;
        let member = Member {
            programs: root.map(|root| root.join("usr/bin")),
            ..Member::alone(options, None, "127.0.0.1")
        };
        let etcd = Self::launch(options, member, folder)?;
        etcd.wait_serving()?;
        Ok(etcd)
    }

    /// Starts an etcd inside a node, at one of its addresses: the node's own.
    pub fn start_in(options: &EtcdOptions, node: &Arc<Node>, ip: &str) -> anyhow::Result<Self> {
        let folder = Self::folder_in(node)?;
        let member = Member::alone(options, Some(Arc::clone(node)), ip);
        let etcd = Self::launch(options, member, folder)?;
        etcd.wait_serving()?;
        Ok(etcd)
    }

    /// Starts one cluster inside a node, a member at each of these addresses.
    pub fn cluster_in(
        options: &EtcdOptions,
        node: &Arc<Node>,
        ips: &[String],
    ) -> anyhow::Result<Vec<Self>> {
        let url = |ip: &String| format!("http://{ip}:{PEER_PORT}");
        let members: Vec<String> = ips
            .iter()
            .enumerate()
            .map(|(number, ip)| format!("m{}={}", number + 1, url(ip)))
            .collect();
        let mut all = Vec::new();
        for (number, ip) in ips.iter().enumerate() {
            let member = Member {
                name: format!("m{}", number + 1),
                peer_url: url(ip),
                members: members.join(","),
                ..Member::alone(options, Some(Arc::clone(node)), ip)
            };
            all.push(Self::launch(options, member, Self::folder_in(node)?)?);
        }
        // None has a leader before there is a majority.
        for etcd in &all {
            etcd.wait_serving()?;
        }
        Ok(all)
    }

    fn folder_in(node: &Node) -> anyhow::Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new()
            .prefix("etcd-")
            .tempdir_in(node.folder())?)
    }

    fn launch(
        options: &EtcdOptions,
        mut member: Member,
        folder: tempfile::TempDir,
    ) -> anyhow::Result<Self> {
        needs::check(&[needs::ETCD])?;
        let certificates = if options.tls {
            let authority = Authority::new(&folder.path().join("tls"))?;
            let server = authority.issue("etcd", &[&member.ip, "127.0.0.1"])?;
            let files = [authority.certificate(), server.certificate, server.key];
            member.tls = Some(files.map(|path| path.display().to_string()));
            Some(Certificates {
                authority: authority.certificate(),
                client: authority.issue("client", &[])?,
            })
        } else {
            None
        };
        // Not 0: that is where etcd's JSON gateway would dial.
        let ip: IpAddr = member.ip.parse()?;
        let port = match &member.node {
            Some(node) => node.inside(move || free_port(ip))??,
            None => free_port(ip)?,
        };
        Ok(Self {
            process: Mutex::new(member.launch(folder.path(), port)?),
            address: SocketAddr::new(ip, port),
            // For the harness only, which needs no certificate there.
            socket: folder.path().join("gateway:1"),
            member,
            certificates,
            folder,
        })
    }

    /// Kills it.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.process().kill()
    }

    /// Starts it again after its end, at the same address and on the data that
    /// it has. It serves when a majority of the members runs.
    pub fn start_again(&self) -> anyhow::Result<()> {
        // Else the socket of the one before is taken for this one's.
        std::fs::remove_file(&self.socket).ok();
        *self.process() = self
            .member
            .launch(self.folder.path(), self.address.port())?;
        Ok(())
    }

    /// Waits until it serves.
    pub fn wait_serving(&self) -> anyhow::Result<()> {
        let target = Target::Unix(self.socket.clone());
        self.process()
            .wait_while_running("its gateway", START_CAP, || {
                http::request(&target, "GET", "/health", &[], b"")
                    .and_then(Answer::ok)
                    .map_err(|error| format!("{error:#}"))
            })?;
        Ok(())
    }

    /// Takes all its data away and starts it again, as a new cluster with the
    /// same token.
    pub fn start_empty(&self) -> anyhow::Result<()> {
        self.kill()?;
        std::fs::remove_dir_all(self.data())?;
        self.start_again()?;
        self.wait_serving()
    }

    /// Saves what it has to a file.
    pub fn save(&self, snapshot: &Path) -> anyhow::Result<()> {
        self.etcdctl(&["snapshot", "save", &snapshot.display().to_string()])?;
        Ok(())
    }

    /// Starts it again with what a file has, as `etcdctl snapshot restore` does
    /// it: with the same token.
    pub fn restore(&self, snapshot: &Path) -> anyhow::Result<()> {
        self.kill()?;
        let data = self.data();
        std::fs::remove_dir_all(&data)?;
        self.etcdctl(&[
            "snapshot",
            "restore",
            &snapshot.display().to_string(),
            "--data-dir",
            &data.display().to_string(),
            "--name",
            &self.member.name,
            "--initial-cluster",
            &self.member.members,
            "--initial-advertise-peer-urls",
            &self.member.peer_url,
        ])?;
        self.start_again()?;
        self.wait_serving()
    }

    /// Forgets the history of all keys up to now.
    pub fn compact(&self) -> anyhow::Result<()> {
        let revision = self.revision()?;
        match self.etcdctl(&["compact", &revision.to_string()]) {
            // Nothing was written since the last time.
            Err(error) if error.to_string().contains("has been compacted") => Ok(()),
            done => done.map(drop),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process().signal(signal)
    }

    /// Whether it runs, frozen or not.
    pub fn runs(&self) -> bool {
        self.process().poll_exit().is_none()
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where clients reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its client URL.
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address)
    }

    /// What clients need if it serves TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Where it keeps its data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// Runs etcdctl (API version 3) against it.
    pub fn etcdctl(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = match &self.member.node {
            Some(node) => node.command("etcdctl"),
            None => Command::new(self.member.program("etcdctl")),
        };
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url()]);
        if let Some(tls) = &self.certificates {
            command
                .arg("--cacert")
                .arg(&tls.authority)
                .arg("--cert")
                .arg(&tls.client.certificate)
                .arg("--key")
                .arg(&tls.client.key);
        }
        command.args(words);
        Ran::run(command, None)?.ok()
    }

    /// What it says its version is.
    pub fn version(&self) -> anyhow::Result<String> {
        let status = self.call("/v3/maintenance/status", &json!({}))?;
        let version = status["version"].as_str().context("a version")?;
        Ok(version.to_owned())
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let body = json!({"key": BASE64.encode(key), "value": BASE64.encode(value)});
        self.call("/v3/kv/put", &body)?;
        Ok(())
    }

    /// Deletes a key.
    pub fn delete(&self, key: &str) -> anyhow::Result<()> {
        self.call("/v3/kv/deleterange", &json!({"key": BASE64.encode(key)}))?;
        Ok(())
    }

    /// A key's value.
    pub fn get(&self, key: &str) -> anyhow::Result<Option<String>> {
        let body = json!({"key": BASE64.encode(key)});
        Ok(pairs(&self.call("/v3/kv/range", &body)?)?
            .into_iter()
            .next()
            .map(|(_, value)| value))
    }

    /// All keys below a prefix with their values, in order.
    pub fn list(&self, prefix: &str) -> anyhow::Result<Vec<(String, String)>> {
        let mut end = prefix.as_bytes().to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let body = json!({"key": BASE64.encode(prefix), "range_end": BASE64.encode(end)});
        pairs(&self.call("/v3/kv/range", &body)?)
    }

    /// The store's revision: it rises with every write, whoever makes it.
    pub fn revision(&self) -> anyhow::Result<u64> {
        let answer = self.call("/v3/kv/range", &json!({"key": BASE64.encode("/")}))?;
        answer["header"]["revision"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .context("no revision in etcd's answer")
    }

    fn call(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        http::request(
            &Target::Unix(self.socket.clone()),
            "POST",
            path,
            &[("Content-Type", "application/json")],
            body.to_string().as_bytes(),
        )?
        .ok()?
        .json()
    }
}

impl Member {
    /// The only member of its cluster.
    fn alone(options: &EtcdOptions, node: Option<Arc<Node>>, ip: &str) -> Self {
        let peer_url = "http://127.0.0.1:0".to_owned();
        Self {
            name: "default".to_owned(),
            ip: ip.to_owned(),
            members: format!("default={peer_url}"),
            peer_url,
            v2: options.v2,
            tls: None,
            node,
            programs: None,
        }
    }

    /// What starts a program of it.
    fn program(&self, name: &str) -> String {
        self.programs.as_ref().map_or_else(
            || name.to_owned(),
            |folder| folder.join(name).display().to_string(),
        )
    }

    /// Starts it with its data in `folder`, for clients on `port`.
    fn launch(&self, folder: &Path, port: u16) -> anyhow::Result<Process> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client_url = format!("{scheme}://{}:{port}", self.ip);
        let listen = format!("{client_url},unix://gateway:1");
        let data = folder.join("data").display().to_string();
        let program = self.program("etcd");
        let mut words = vec![
            program.as_str(),
            "--name",
            &self.name,
            "--data-dir",
            &data,
            "--listen-client-urls",
            &listen,
            "--advertise-client-urls",
            &client_url,
            "--listen-peer-urls",
            &self.peer_url,
            "--initial-advertise-peer-urls",
            &self.peer_url,
            "--initial-cluster",
            &self.members,
        ];
        if self.v2 {
            words.push("--enable-v2");
        }
        if let Some([authority, certificate, key]) = &self.tls {
            words.push("--client-cert-auth");
            for (flag, file) in [
                ("--trusted-ca-file", authority),
                ("--cert-file", certificate),
                ("--key-file", key),
            ] {
                words.extend([flag, file.as_str()]);
            }
        }
        let log = folder.join("log");
        let Some(node) = &self.node else {
            return Process::leashed("etcd", &words, folder, &log);
        };
        let mut command = node.command("sh");
        command
            .args(["-c", "cd \"$1\" && shift && exec \"$@\"", "etcd"])
            .arg(folder)
            .args(&words);
        Process::start("etcd", command, Started::ByFork, &log)
    }
}

fn pairs(answer: &Value) -> anyhow::Result<Vec<(String, String)>> {
    let none = Vec::new();
    let text = |value: &Value| -> anyhow::Result<String> {
        let bytes = BASE64.decode(value.as_str().unwrap_or_default())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    answer["kvs"]
        .as_array()
        .unwrap_or(&none)
        .iter()
        .map(|pair| Ok((text(&pair["key"])?, text(&pair["value"])?)))
        .collect()
}

/// A port that nobody has, below those that connections take for themselves, and
/// another one each time.
fn free_port(ip: IpAddr) -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = (std::process::id() % 1000) as u16;
    for _ in 0..1000 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 14_000 + own.wrapping_mul(15).wrapping_add(number) % 15_000;
        if TcpListener::bind((ip, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port at {ip}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etcd_keeps_what_is_put_and_leaves_nothing() {
        let etcd = Etcd::start(&EtcdOptions::default()).expect("etcd");
        let before = etcd.revision().expect("revision");
        etcd.put("/a/b", "one\ntwo").expect("put");
        etcd.put("/a/c", "").expect("put");
        assert_eq!(etcd.revision().expect("revision"), before + 2);
        assert_eq!(etcd.get("/a/b").expect("get").as_deref(), Some("one\ntwo"));
        etcd.delete("/a/b").expect("delete");
        assert_eq!(etcd.get("/a/b").expect("get"), None);
        let left = etcd.list("/a/").expect("list");
        assert_eq!(left, [("/a/c".to_owned(), String::new())]);
        let (pid, folder) = (etcd.pid(), etcd.folder().to_owned());
        drop(etcd);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!folder.exists());
    }

    #[test]
    fn with_tls_only_a_client_with_a_certificate_gets_in() {
        let etcd = Etcd::start(&EtcdOptions {
            tls: true,
            ..EtcdOptions::default()
        })
        .expect("etcd");
        etcd.etcdctl(&["put", "/k", "v"]).expect("put");
        assert_eq!(etcd.get("/k").expect("get").as_deref(), Some("v"));
        let mut bare = Command::new("etcdctl");
        bare.env("ETCDCTL_API", "3")
            .args(["--endpoints", &etcd.url()])
            .args([
                "--insecure-skip-tls-verify",
                "--command-timeout=1s",
                "get",
                "/k",
            ]);
        let ran = Ran::run(bare, None).expect("run");
        assert_ne!(ran.code(), 0, "{ran}");
    }
}
