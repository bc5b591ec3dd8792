//! From a write until a wait is told of it, one after the other.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::bail;
use store::kv::{KeyRange, Kv, Op, Txn, WatchReply};

use super::connection::{Connection, whole};
use crate::agents::client;

pub(super) const WRITES: usize = 500;
const KEY: &str = "/bench/seen";

/// PUTs by v3, in milliseconds.
#[derive(Default)]
pub(super) struct Seen {
    /// Until a wait of v2 was told.
    pub(super) by_wait: Vec<f64>,
    /// Until a watch of v3 had the same one.
    pub(super) by_watch: Vec<f64>,
}

/// At dokkaa's API over the etcd of this URL.
pub(super) async fn of_v3(server: SocketAddr, url: &str) -> anyhow::Result<Seen> {
    let (writer, reader) = (client(url)?, client(url)?);
    let mut watch = reader.watch(KeyRange::key(KEY), 0, false).await?;
    let mut connection = Connection::open(server).await?;
    let mut seen = Seen::default();
    for _ in 0..WRITES {
        let event = connection.wait(KEY).await?;
        let begin = Instant::now();
        let by_wait = async {
            whole(event).await?;
            anyhow::Ok(millis(begin))
        };
        let by_watch = async {
            loop {
                match watch.replies.recv().await {
                    Some(WatchReply::Events(..)) => return Ok(millis(begin)),
                    Some(WatchReply::Progress(_)) => {}
                    other => bail!("the watch ended: {other:?}"),
                }
            }
        };
        let put = writer.txn(Txn::new(vec![], vec![Op::put(KEY, "1")]));
        let (by_wait, by_watch, put) = tokio::join!(by_wait, by_watch, put);
        put?;
        seen.by_wait.push(by_wait?);
        seen.by_watch.push(by_watch?);
    }
    Ok(seen)
}

/// PUTs by v2 until a wait was told, in milliseconds: etcd's own does not tell of v3's.
pub(super) async fn of_v2(server: SocketAddr) -> anyhow::Result<Vec<f64>> {
    let mut writer = Connection::open(server).await?;
    let mut connection = Connection::open(server).await?;
    let mut took = Vec::new();
    for _ in 0..WRITES {
        let event = connection.wait(KEY).await?;
        let begin = Instant::now();
        let told = async {
            whole(event).await?;
            anyhow::Ok(millis(begin))
        };
        let (told, put) = tokio::join!(told, writer.put(KEY, "1"));
        put?;
        took.push(told?);
    }
    Ok(took)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
