//! The APIs that are compared, each in a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};
use dokkaa_tests::etcd::Etcd;
use gateway::listener::{self, ListenerConfig};
use gateway::v2::{self, V2};
use listen::Binder;
use store::etcd::{EtcdKv, EtcdOptions};
use tokio_util::sync::CancellationToken;

/// A keys API.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
}

impl Server {
    /// etcd's own.
    pub(super) fn of(etcd: &Etcd) -> Self {
        Self {
            address: etcd.address(),
            pid: etcd.pid(),
        }
    }
}

/// dokkaa's, over an etcd, until it is dropped.
pub(super) struct ApiProcess {
    process: Child,
    address: SocketAddr,
}

impl ApiProcess {
    pub(super) fn start(etcd: &Etcd) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["v2", &etcd.url()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().context("its output")?;
        let mut said = String::new();
        BufReader::new(output).read_line(&mut said)?;
        let address: SocketAddr = said.trim().parse().context("the API has no address")?;
        Ok(Self { process, address })
    }

    pub(super) fn server(&self) -> Server {
        Server {
            address: self.address,
            pid: self.process.id(),
        }
    }
}

impl Drop for ApiProcess {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().ok();
    }
}

/// That process: says its address, and serves until the end of its input.
pub(crate) fn serve(words: &[String]) -> anyhow::Result<()> {
    let [url] = words else {
        bail!("an API needs an etcd");
    };
    tokio::runtime::Runtime::new()?.block_on(async {
        let stop = CancellationToken::new();
        let kv = Arc::new(EtcdKv::new(&EtcdOptions::new([url]))?);
        let router = v2::router(V2::new(kv, "bench", stop.clone()));
        let any: SocketAddr = "127.0.0.1:0".parse()?;
        let listeners = listener::bind(&Binder::default(), &[any]).await?;
        let address = listeners[0].local_addr()?;
        let config = ListenerConfig::default();
        let served = tokio::spawn(listener::serve(listeners, config, router, stop.clone()));
        crate::say(&address.to_string())?;
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
        stop.cancel();
        Ok(served.await?)
    })
}
