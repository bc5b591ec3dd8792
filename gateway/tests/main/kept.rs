//! Answers to GETs that are kept: how often etcd is asked, and that each is what etcd has just then.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dokkaa_tests::etcd::{Etcd, EtcdOptions};
use futures_util::future::{join, join_all};
use store::etcd::EtcdKv;
use store::kv::{KeyRange, Kv, KvError, Op, Range, RangeReply, Status, Txn, TxnReply, Watch};
use store::memory::{MemEtcd, MemKv};
use tokio::sync::{mpsc, watch};

use crate::client::Client;
use crate::harness::TestServer;

/// An etcd whose requests are counted, and whose watches a test may hold up.
pub(crate) struct Counted {
    etcd: Arc<dyn Kv>,
    txns: AtomicUsize,
    ranges: AtomicUsize,
    /// From which revision each watch was.
    watches: std::sync::Mutex<Vec<i64>>,
    /// Watches say nothing.
    held: watch::Sender<bool>,
    /// The revision is refused.
    refuses: std::sync::atomic::AtomicBool,
}

impl Counted {
    fn new(etcd: Arc<dyn Kv>) -> Arc<Self> {
        Arc::new(Self {
            etcd,
            txns: AtomicUsize::new(0),
            ranges: AtomicUsize::new(0),
            watches: std::sync::Mutex::default(),
            held: watch::Sender::new(false),
            refuses: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// Transactions and ranges since it was last asked.
    fn take(&self) -> (usize, usize) {
        let take = |counter: &AtomicUsize| counter.swap(0, Ordering::SeqCst);
        (take(&self.txns), take(&self.ranges))
    }

    fn watches(&self) -> Vec<i64> {
        self.watches.lock().expect("a list").clone()
    }

    /// Has the etcd in memory be as it was, once the watch that runs has seen it go.
    pub(crate) async fn restore(&self, memory: &MemKv, saved: MemEtcd) {
        let before = self.watches().len();
        memory.set_unavailable(true);
        while self.watches().len() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        memory.with(|etcd| *etcd = saved);
        memory.set_unavailable(false);
    }
}

#[async_trait]
impl Kv for Counted {
    async fn txn(&self, txn: Txn) -> Result<TxnReply, KvError> {
        self.txns.fetch_add(1, Ordering::SeqCst);
        self.etcd.txn(txn).await
    }

    async fn range(&self, range: Range) -> Result<RangeReply, KvError> {
        if range.keys.end.is_none() {
            self.ranges.fetch_add(1, Ordering::SeqCst);
            if self.refuses.load(Ordering::SeqCst) {
                return Err(KvError::Refused("permission denied".to_owned()));
            }
        }
        self.etcd.range(range).await
    }

    async fn watch(&self, keys: KeyRange, from: i64, previous: bool) -> Result<Watch, KvError> {
        self.watches.lock().expect("a list").push(from);
        let Watch {
            replies: mut said,
            progress,
        } = self.etcd.watch(keys, from, previous).await?;
        let (sender, replies) = mpsc::channel(1);
        let mut held = self.held.subscribe();
        tokio::spawn(async move {
            loop {
                let reply = tokio::select! {
                    () = sender.closed() => return,
                    reply = said.recv() => reply,
                };
                let Some(reply) = reply else { return };
                if held.wait_for(|held| !held).await.is_err() || sender.send(reply).await.is_err() {
                    return;
                }
            }
        });
        Ok(Watch { replies, progress })
    }

    async fn status(&self) -> Result<Status, KvError> {
        self.etcd.status().await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<(i64, Duration), KvError> {
        self.etcd.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<(Duration, i64), KvError> {
        self.etcd.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), KvError> {
        self.etcd.lease_revoke(lease).await
    }
}

pub(crate) async fn in_memory() -> (TestServer, MemKv, Arc<Counted>) {
    let memory = MemKv::new();
    let kv = Counted::new(Arc::new(memory.clone()));
    (TestServer::over(kv.clone()).await, memory, kv)
}

fn put(memory: &MemKv, key: &str, value: &str) {
    let put = Txn::new(Vec::new(), vec![Op::put(key, value)]);
    memory.with(|etcd| etcd.txn(&put)).expect("a write");
}

async fn value(client: &Client, key: &str) -> String {
    let get = client.get(&format!("/v2/keys{key}")).await;
    let value = get.json()["node"]["value"].as_str().map(str::to_owned);
    value.unwrap_or_else(|| panic!("{}", get.body))
}

/// GETs a key until its answer is kept.
async fn keep(client: &Client, kv: &Counted, key: &str) {
    for _ in 0..200 {
        kv.take();
        join_all((0..64).map(|_| value(client, key))).await;
        if kv.take().0 == 0 {
            return;
        }
    }
    panic!("no answer is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn gets_that_come_often_share_a_revision_and_read_nothing() {
    let (server, memory, kv) = in_memory().await;
    let client = &server.client;
    put(&memory, "/a", "1");
    value(client, "/a").await;
    assert_eq!(kv.take().0, 1);
    assert!(kv.watches().is_empty());
    keep(client, &kv, "/a").await;
    assert_eq!(kv.watches(), [memory.with(|etcd| etcd.revision()) + 1]);
    value(client, "/a").await;
    assert_eq!(kv.take(), (0, 1));
    join_all((0..64).map(|_| value(client, "/a"))).await;
    let (txns, ranges) = kv.take();
    assert_eq!(txns, 0);
    assert!(ranges < 64, "{ranges}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_event_is_late_is_read() {
    let (server, memory, kv) = in_memory().await;
    let client = &server.client;
    put(&memory, "/a", "1");
    put(&memory, "/b", "1");
    keep(client, &kv, "/a").await;
    kv.held.send_replace(true);
    for n in 2..20 {
        put(&memory, "/a", &n.to_string());
        assert_eq!(value(client, "/a").await, n.to_string());
        // Once they are known to be late, the revision alone is not asked for.
        assert_eq!(kv.take(), (1, usize::from(n == 2)));
    }
    kv.held.send_replace(false);
    keep(client, &kv, "/a").await;
    assert_eq!(value(client, "/a").await, "19");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_not_watched_makes_no_answer_wait_or_old() {
    let (server, memory, kv) = in_memory().await;
    let client = &server.client;
    put(&memory, "/a", "1");
    keep(client, &kv, "/a").await;
    put(&memory, "outside", "1");
    for _ in 0..8 {
        assert_eq!(value(client, "/a").await, "1");
    }
    assert_eq!(kv.take(), (8, 1));
    put(&memory, "/b", "1");
    keep(client, &kv, "/a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_a_file_away_is_seen() {
    let (server, memory, kv) = in_memory().await;
    let client = &server.client;
    let write = |ops| {
        let txn = Txn::new(Vec::new(), ops);
        memory.with(|etcd| etcd.txn(&txn)).expect("a write")
    };
    for op in [
        Op::delete("/d/a"),
        Op::put("/d/a/b", "below"),
        Op::delete("/d/a"),
    ] {
        client.delete("/v2/keys/d/a/b").await;
        client.delete("/v2/keys/d/a?dir=true").await;
        assert_eq!(client.put("/v2/keys/d/a", "value=1").await.status, 201);
        keep(client, &kv, "/d/a").await;
        write(vec![op]);
        let get = client.get("/v2/keys/d/a").await;
        let whole = client.get("/v2/keys/d/a?recursive=true").await;
        assert_eq!(get.body, whole.body.replace(r#","nodes":[]"#, ""));
        assert!(!get.body.contains(r#""value":"1""#), "{}", get.body);
    }
    // A created index, and a TTL.
    assert_eq!(client.put("/v2/keys/e", "value=1").await.status, 201);
    keep(client, &kv, "/e").await;
    let update = client.put("/v2/keys/e", "value=2&prevExist=true").await;
    let created = &update.json()["node"]["createdIndex"];
    assert_eq!(
        &client.get("/v2/keys/e").await.json()["node"]["createdIndex"],
        created
    );
    keep(client, &kv, "/e").await;
    client.put("/v2/keys/e", "value=3&ttl=100").await;
    assert_eq!(client.get("/v2/keys/e").await.json()["node"]["ttl"], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_was_restored_is_believed() {
    let (server, memory, kv) = in_memory().await;
    let client = &server.client;
    put(&memory, "/a", "1");
    let saved = memory.with(|etcd| etcd.clone());
    put(&memory, "/a", "2");
    put(&memory, "/a", "3");
    keep(client, &kv, "/a").await;
    memory.set_unavailable(true);
    memory.with(|etcd| *etcd = saved);
    memory.set_unavailable(false);
    for n in 4..40 {
        put(&memory, "/a", &n.to_string());
        assert_eq!(value(client, "/a").await, n.to_string());
    }
    keep(client, &kv, "/a").await;
    assert_eq!(value(client, "/a").await, "39");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_finds_the_past_and_watches_once() {
    let (server, memory, kv) = in_memory().await;
    let client = &server.client;
    for n in 1..9 {
        put(&memory, "/a", &n.to_string());
    }
    keep(client, &kv, "/a").await;
    let told = client.get("/v2/keys/a?wait=true&waitIndex=3").await;
    assert_eq!(told.json()["node"]["value"], "2");
    keep(client, &kv, "/a").await;
    assert_eq!(kv.watches().len(), 2);
    assert_eq!(kv.watches()[1], 1);
    put(&memory, "/a", "9");
    assert_eq!(value(client, "/a").await, "9");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_revision_is_refused_each_get_is_a_read() {
    let (server, memory, kv) = in_memory().await;
    let client = &server.client;
    put(&memory, "/a", "1");
    keep(client, &kv, "/a").await;
    kv.refuses.store(true, Ordering::SeqCst);
    assert_eq!(value(client, "/a").await, "1");
    assert_eq!(kv.take(), (1, 1));
    join_all((0..64).map(|_| value(client, "/a"))).await;
    let (txns, ranges) = kv.take();
    assert!(txns + ranges < 64, "{txns} {ranges}");
}

/// Each key has one writer, which counts up; who reads it sees no less than was there when it asked, and no more than
/// was begun when it was answered.
async fn readers_and_writers(clients: [&Client; 2], rounds: usize) {
    const KEYS: usize = 4;
    let begun: [AtomicI64; KEYS] = Default::default();
    let done: [AtomicI64; KEYS] = Default::default();
    let read: [AtomicI64; KEYS] = Default::default();
    let goes_on = AtomicUsize::new(KEYS);
    let write = async |key: usize| {
        for n in 1..=rounds {
            let n = i64::try_from(n).expect("small");
            begun[key].store(n, Ordering::SeqCst);
            let form = if n % 5 == 0 {
                format!("value={n}&prevExist=true")
            } else {
                format!("value={n}")
            };
            let put = clients[n as usize % 2]
                .put(&format!("/v2/keys/r/k{key}"), &form)
                .await;
            assert!([200, 201].contains(&put.status), "{}", put.body);
            done[key].store(n, Ordering::SeqCst);
        }
        goes_on.fetch_sub(1, Ordering::SeqCst);
    };
    let look = async |number: usize| {
        let client = clients[number % 2];
        let mut index = 0;
        let mut looks = 0;
        while goes_on.load(Ordering::SeqCst) > 0 {
            looks += 1;
            let key = (number + looks) % KEYS;
            let least = done[key]
                .load(Ordering::SeqCst)
                .max(read[key].load(Ordering::SeqCst));
            let get = client.get(&format!("/v2/keys/r/k{key}")).await;
            let most = begun[key].load(Ordering::SeqCst);
            let seen = if get.status == 404 {
                0
            } else {
                let value = get.json()["node"]["value"].as_str().map(str::parse);
                value.expect("a value").expect("a number")
            };
            assert!((least..=most).contains(&seen), "{least} {seen} {most}");
            read[key].fetch_max(seen, Ordering::SeqCst);
            let of_get = get.header("x-etcd-index").expect("an index");
            let of_get: u64 = of_get.parse().expect("a number");
            assert!(of_get >= index, "{of_get} {index}");
            assert!(get.status == 404 || get.index() <= of_get);
            index = of_get;
        }
    };
    let writers = join_all((0..KEYS).map(write));
    join(writers, join_all((0..16).map(look))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gets_are_linearized() {
    let (server, memory, kv) = in_memory().await;
    put(&memory, "/a", "1");
    keep(&server.client, &kv, "/a").await;
    let other = TestServer::over(Arc::new(memory.clone())).await;
    let (late, end) = (kv.clone(), tokio_util::sync::CancellationToken::new());
    let held = end.clone();
    let holds = tokio::spawn(async move {
        while !held.is_cancelled() {
            late.held.send_modify(|held| *held = !*held);
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    });
    readers_and_writers([&server.client, &other.client], 400).await;
    end.cancel();
    holds.await.expect("ended");
    let (_, revisions) = kv.take();
    assert!(revisions > 0, "no answer was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn gets_are_linearized_on_a_real_etcd() {
    let etcd = Etcd::start(&EtcdOptions::default()).expect("an etcd");
    let client = || EtcdKv::new(&store::etcd::EtcdOptions::new([etcd.url()])).expect("its options");
    let kv = Counted::new(Arc::new(client()));
    let server = TestServer::over(kv.clone()).await;
    let other = TestServer::over(Arc::new(client())).await;
    let put = server.client.put("/v2/keys/d/a", "value=1").await;
    assert_eq!(put.status, 201);
    keep(&server.client, &kv, "/d/a").await;
    readers_and_writers([&server.client, &other.client], 100).await;
    let (_, revisions) = kv.take();
    assert!(revisions > 0, "no answer was kept");
    keep(&server.client, &kv, "/d/a").await;
    etcd.put("/d/a", "by v3").expect("a write");
    assert_eq!(value(&server.client, "/d/a").await, "by v3");
}
