//! A real etcd of one member, on a free port, gone when dropped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::http::{self, Answer, Target};
use crate::needs;
use crate::node::Node;
use crate::process::{Process, Ran};
use crate::tls::{Authority, Issued};

const START_CAP: Duration = Duration::from_secs(30);

/// How to run it.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    /// Serve the keys API of version 2 too.
    pub v2: bool,
    /// Serve TLS only, and ask clients for certificates.
    pub tls: bool,
}

/// A running etcd.
#[derive(Debug)]
pub struct Etcd {
    process: Process,
    address: SocketAddr,
    socket: PathBuf,
    node: Option<Arc<Node>>,
    certificates: Option<Certificates>,
    /// Removed after the process has ended.
    folder: tempfile::TempDir,
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
        Self::start_at(options, None, "127.0.0.1", folder)
    }

    /// Starts an etcd inside a node, at one of its addresses.
    pub fn start_in(options: &EtcdOptions, node: &Arc<Node>, ip: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("etcd-")
            .tempdir_in(node.folder())?;
        Self::start_at(options, Some(Arc::clone(node)), ip, folder)
    }

    fn start_at(
        options: &EtcdOptions,
        node: Option<Arc<Node>>,
        ip: &str,
        folder: tempfile::TempDir,
    ) -> anyhow::Result<Self> {
        needs::check(&[needs::ETCD])?;
        let scheme = if options.tls { "https" } else { "http" };
        let client_url = format!("{scheme}://{ip}:0");
        let peer_url = "http://127.0.0.1:0";
        // The JSON gateway of an etcd on port 0 dials port 0 and fails, that of
        // a unix socket works; it is for the harness only.
        let socket = folder.path().join("gateway:1");
        let listen = format!("{client_url},unix://gateway:1");
        let data = folder.path().join("data").display().to_string();
        let initial = format!("default={peer_url}");
        let mut words = vec![
            "etcd",
            "--data-dir",
            &data,
            "--listen-client-urls",
            &listen,
            "--advertise-client-urls",
            &client_url,
            "--listen-peer-urls",
            peer_url,
            "--initial-advertise-peer-urls",
            peer_url,
            "--initial-cluster",
            &initial,
        ];
        if options.v2 {
            words.push("--enable-v2");
        }
        let mut files = Vec::new();
        let certificates = if options.tls {
            let authority = Authority::new(&folder.path().join("tls"))?;
            let server = authority.issue("etcd", &[ip, "127.0.0.1"])?;
            files = [
                authority.certificate(),
                server.certificate.clone(),
                server.key.clone(),
            ]
            .iter()
            .map(|path| path.display().to_string())
            .collect();
            Some(Certificates {
                authority: authority.certificate(),
                client: authority.issue("client", &[])?,
            })
        } else {
            None
        };
        if let [authority, certificate, key] = files.as_slice() {
            words.push("--client-cert-auth");
            for (flag, file) in [
                ("--trusted-ca-file", authority),
                ("--cert-file", certificate),
                ("--key-file", key),
            ] {
                words.extend([flag, file.as_str()]);
            }
        }
        let log = folder.path().join("log");
        let mut process = if let Some(node) = &node {
            let mut command = node.command("sh");
            command
                .args(["-c", "cd \"$1\" && shift && exec \"$@\"", "etcd"])
                .arg(folder.path())
                .args(&words);
            Process::start("etcd", command, crate::process::Started::ByFork, &log)?
        } else {
            Process::leashed("etcd", &words, folder.path(), &log)?
        };
        let address = process.wait_log("its client address", START_CAP, served_address)?;
        process.wait_while_running("its gateway", START_CAP, || {
            http::request(&Target::Unix(socket.clone()), "GET", "/health", &[], b"")
                .and_then(Answer::ok)
                .map_err(|error| format!("{error:#}"))
        })?;
        Ok(Self {
            process,
            address,
            socket,
            node,
            certificates,
            folder,
        })
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

    /// The process: its id, its log, signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Where it keeps its data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Runs etcdctl (API version 3) against it.
    pub fn etcdctl(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = match &self.node {
            Some(node) => node.command("etcdctl"),
            None => Command::new("etcdctl"),
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

/// The address in "serving insecure client requests on ADDRESS, …" or
/// "serving client requests on ADDRESS"; the gateway's socket is none.
fn served_address(log: &str) -> Option<SocketAddr> {
    log.split("client requests on ")
        .skip(1)
        .find_map(|rest| rest.split([',', '\n', ' ', '"']).next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_log() {
        let log = "N | embed: serving insecure client requests on gateway:1, this is\n\
                   N | embed: serving insecure client requests on 127.0.0.1:33109, this is\n";
        let address = served_address(log).expect("address");
        assert_eq!(address.port(), 33109);
        assert_eq!(served_address("ready to serve client requests\n"), None);
    }

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
            v2: false,
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
