//! Small reads and writes over many connections at once, at both APIs in turns.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use store::etcd::EtcdKv;
use store::kv::{KeyRange, Kv, Op, Txn};
use tokio::task::JoinSet;

use super::connection::Connection;
use super::p99;
use crate::agents::client;
use crate::{median, verdict};

const CONNECTIONS: usize = 16;
/// Of each connection.
const KEYS: usize = 50;
const VALUE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const ROUNDS: usize = 3;
const TIME: Duration = Duration::from_secs(2);
/// Of the requests a second that etcd's own v2 answers; its p99 may be so much shorter.
const AT_LEAST: f64 = 0.8;

#[derive(Debug, Clone, Copy)]
enum Asked {
    Put,
    Get,
    /// A linearized GET; dokkaa's always is.
    GetByQuorum,
}

/// What one API made of one kind of request.
#[derive(Default)]
struct Rate {
    /// Requests a second, in each round.
    per_second: Vec<f64>,
    /// Of each request, in milliseconds.
    took: Vec<f64>,
}

#[derive(Default)]
struct Both {
    dokkaa: Rate,
    etcd: Rate,
}

#[derive(Default)]
pub(super) struct Load {
    put: Both,
    get: Both,
    /// Of etcd.
    by_quorum: Rate,
    /// PUTs of v3 to the etcd below dokkaa: each of v2 is one at least.
    put_by_v3: Rate,
    /// Linearized GETs of v3 there.
    get_by_v3: Rate,
}

/// At dokkaa's API, at the etcd of this URL that is below it, and at etcd's own API.
pub(super) async fn measure(
    dokkaa: SocketAddr,
    below: &str,
    etcd: SocketAddr,
) -> anyhow::Result<Load> {
    let below = Arc::new(client(below)?);
    fill(dokkaa).await?;
    fill(etcd).await?;
    let mut load = Load::default();
    for _ in 0..ROUNDS {
        let v2 = |server, asked| move |number, end| ask(server, number, asked, end);
        let v3 = |asked| {
            let below = &below;
            move |number, end| ask_v3(below.clone(), number, asked, end)
        };
        load.put.dokkaa.round(v2(dokkaa, Asked::Put)).await?;
        load.put.etcd.round(v2(etcd, Asked::Put)).await?;
        load.put_by_v3.round(v3(Asked::Put)).await?;
        load.get.dokkaa.round(v2(dokkaa, Asked::Get)).await?;
        load.get.etcd.round(v2(etcd, Asked::Get)).await?;
        load.by_quorum.round(v2(etcd, Asked::GetByQuorum)).await?;
        load.get_by_v3.round(v3(Asked::Get)).await?;
    }
    Ok(load)
}

/// Makes all keys, so that a round creates none.
async fn fill(server: SocketAddr) -> anyhow::Result<()> {
    let mut connection = Connection::open(server).await?;
    for number in 0..CONNECTIONS {
        for n in 0..KEYS {
            connection.put(&key(number, n), VALUE).await?;
        }
    }
    Ok(())
}

fn key(connection: usize, n: usize) -> String {
    format!("/bench/c{connection}/k{}", n % KEYS)
}

impl Rate {
    async fn round<F: Future<Output = anyhow::Result<Vec<f64>>> + Send + 'static>(
        &mut self,
        ask: impl Fn(usize, Instant) -> F,
    ) -> anyhow::Result<()> {
        let mut connections = JoinSet::new();
        let (begin, before) = (Instant::now(), self.took.len());
        for number in 0..CONNECTIONS {
            connections.spawn(ask(number, begin + TIME));
        }
        while let Some(took) = connections.join_next().await {
            self.took.extend(took??);
        }
        let answered = self.took.len() - before;
        self.per_second
            .push(answered as f64 / begin.elapsed().as_secs_f64());
        Ok(())
    }
}

/// One request after the other, until the time is over: what each took, in milliseconds.
async fn ask(
    server: SocketAddr,
    number: usize,
    asked: Asked,
    end: Instant,
) -> anyhow::Result<Vec<f64>> {
    let mut connection = Connection::open(server).await?;
    let mut took = Vec::new();
    while Instant::now() < end {
        let key = key(number, took.len());
        let begin = Instant::now();
        match asked {
            Asked::Put => connection.put(&key, VALUE).await?,
            Asked::Get => connection.get(&key).await?,
            Asked::GetByQuorum => connection.get(&format!("{key}?quorum=true")).await?,
        };
        took.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}

/// The same of v3, over a connection that all share as dokkaa's requests do.
async fn ask_v3(
    etcd: Arc<EtcdKv>,
    number: usize,
    asked: Asked,
    end: Instant,
) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::new();
    while Instant::now() < end {
        let key = key(number, took.len());
        let begin = Instant::now();
        let op = match asked {
            Asked::Put => Op::put(key, VALUE),
            Asked::Get | Asked::GetByQuorum => Op::Get(KeyRange::key(key)),
        };
        etcd.txn(Txn::new(Vec::new(), vec![op])).await?;
        took.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = median(&self.per_second);
        write!(
            f,
            "{per_second:7.0} a second, p99 {:.1} ms",
            p99(&self.took)
        )
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "values of {} bytes over {CONNECTIONS} connections, median of {ROUNDS} rounds of {} s:",
            VALUE.len(),
            TIME.as_secs()
        )?;
        for (name, Both { dokkaa, etcd }, v3) in [
            ("PUT", &self.put, &self.put_by_v3),
            ("GET", &self.get, &self.get_by_v3),
        ] {
            let ratio = median(&dokkaa.per_second) / median(&etcd.per_second);
            let slower = p99(&dokkaa.took) / p99(&etcd.took);
            let of_v3 = median(&dokkaa.per_second) / median(&v3.per_second);
            write!(
                f,
                "\n  {name}                 {dokkaa}\n  \
                 {name}, etcd alone     {etcd}\n  \
                 {name} by v3          {v3}\n  \
                 ratio               {ratio:7.2}, at least {AT_LEAST}: {}\n  \
                 p99                 {slower:7.2}, at most {:.2}: {}\n  \
                 ratio to v3         {of_v3:7.2}",
                verdict(ratio >= AT_LEAST),
                1.0 / AT_LEAST,
                verdict(slower <= 1.0 / AT_LEAST),
            )?;
        }
        let ratio = median(&self.get.dokkaa.per_second) / median(&self.by_quorum.per_second);
        write!(
            f,
            "\n  GET, quorum=true    {}\n  \
             ratio               {ratio:7.2} (dokkaa's GETs all are linearized)",
            self.by_quorum
        )
    }
}
