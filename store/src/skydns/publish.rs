//! Keeps a host's own records under `/skydns`, on the lease of its record: they end with the host.
//!
//! A key that another has written is left alone. A write whose answer was lost
//! is made again; each reads what is there first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use manifests::HostName;
use manifests::keys::Key;
use model::ModRev;
use model::backoff::Exponential;
use model::skydns::publisher;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::kv::{Compare, KeyValue, Kv, KvError, Op, Range, Txn};

/// Waits after failures, the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What a host wants to be there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Revision of the host's record: of another one the lease may be another.
    pub record: i64,
    /// Values by key.
    pub keys: BTreeMap<String, String>,
}

/// Keeps what is wanted there, until `stop`; while nothing is known to be wanted it writes nothing.
pub async fn publish(
    kv: Arc<dyn Kv>,
    host: HostName,
    mut wanted: watch::Receiver<Option<Wanted>>,
    stop: CancellationToken,
) {
    let mut publisher = Publisher {
        kv,
        host,
        record: 0,
        lease: 0,
        written: BTreeMap::new(),
    };
    let mut retry = Exponential::new(RETRY.0, RETRY.1);
    let publishes = async {
        loop {
            let now = wanted.borrow_and_update().clone();
            let result = match &now {
                Some(now) => publisher.reach(now).await,
                None => Ok(()),
            };
            match result {
                Ok(()) => retry.reset(),
                Err(error) => {
                    debug!(%error, "records are not published yet");
                    retry.failed();
                    // It is read again.
                    publisher.record = 0;
                }
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = sleep(retry.wait()), if retry.failures() > 0 => {}
            }
        }
    };
    stop.run_until_cancelled(publishes).await;
}

struct Publisher {
    kv: Arc<dyn Kv>,
    host: HostName,
    /// Revision of the record whose lease is known.
    record: i64,
    lease: i64,
    /// On this lease, or perhaps there: then without a value.
    written: BTreeMap<String, Option<String>>,
}

impl Publisher {
    async fn reach(&mut self, wanted: &Wanted) -> Result<(), KvError> {
        if self.record != wanted.record {
            let key = Key::HostRecord(self.host.clone()).to_string();
            let record = self.get(&key).await?;
            let lease = record.map_or(0, |record| record.lease);
            if lease != self.lease {
                // What was on the other one ends with it.
                self.written.clear();
                self.lease = lease;
            }
            self.record = wanted.record;
        }
        // Without its record nobody would take them away.
        if self.lease == 0 {
            return Ok(());
        }
        for (key, value) in &wanted.keys {
            if self.written.get(key) != Some(&Some(value.clone())) {
                self.put(key, value).await?;
            }
        }
        let written = self.written.keys();
        let surplus: Vec<String> = written
            .filter(|key| !wanted.keys.contains_key(*key))
            .cloned()
            .collect();
        for key in surplus {
            self.delete(&key).await?;
        }
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, KvError> {
        let reply = self.kv.range(Range::key(key)).await?;
        Ok(reply.kvs.into_iter().next())
    }

    async fn put(&mut self, key: &str, value: &str) -> Result<(), KvError> {
        let there = self.get(key).await?;
        let guard = match &there {
            None => Compare::absent(key),
            Some(there) if publisher(&there.value).is_some() => {
                Compare::modified(key, ModRev(there.modified))
            }
            Some(_) => {
                warn!(key, "not published: the key is another's");
                // Until it is to say something else.
                self.written.insert(key.to_owned(), Some(value.to_owned()));
                return Ok(());
            }
        };
        self.written.insert(key.to_owned(), None);
        let put = Op::Put {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
            lease: self.lease,
        };
        let reply = self.kv.txn(Txn::new(vec![guard], vec![put])).await?;
        if reply.succeeded {
            self.written.insert(key.to_owned(), Some(value.to_owned()));
            return Ok(());
        }
        Err(KvError::Refused("the key has changed meanwhile".to_owned()))
    }

    async fn delete(&mut self, key: &str) -> Result<(), KvError> {
        if let Some(there) = self.get(key).await?
            && publisher(&there.value).as_ref() == Some(&self.host)
        {
            let guard = Compare::modified(key, ModRev(there.modified));
            let txn = Txn::new(vec![guard], vec![Op::delete(key)]);
            // One that has changed is another host's by now.
            self.kv.txn(txn).await?;
        }
        self.written.remove(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::kv::KeyRange;
    use crate::memory::MemKv;

    const KEY: &str = "/skydns/local/skydns/shop/web/";

    struct Bench {
        kv: MemKv,
        wanted: watch::Sender<Option<Wanted>>,
        _stop: tokio_util::sync::DropGuard,
    }

    impl Bench {
        fn start() -> Self {
            let kv = MemKv::new();
            let stop = CancellationToken::new();
            let (wanted, wants) = watch::channel(None);
            let host = "h1".parse().unwrap();
            tokio::spawn(publish(Arc::new(kv.clone()), host, wants, stop.clone()));
            Self {
                kv,
                wanted,
                _stop: stop.drop_guard(),
            }
        }

        async fn write(&self, op: Op) -> i64 {
            let txn = Txn::new(Vec::new(), vec![op]);
            self.kv.txn(txn).await.unwrap().revision
        }

        /// The host's record on a new lease.
        async fn join(&self) -> (i64, i64) {
            let (lease, _) = self.kv.lease_grant(Duration::from_secs(60)).await.unwrap();
            let put = Op::Put {
                key: "/hosts/h1/record".to_owned(),
                value: b"{}".to_vec(),
                lease,
            };
            (lease, self.write(put).await)
        }

        fn want(&self, record: i64, ports: &[(&str, u16)]) {
            let keys = ports.iter().map(|(one, port)| {
                let host = "h1".parse().unwrap();
                let addr = [10, 0, 0, 1].into();
                let value = model::skydns::published(&host, addr, *port, 1);
                (format!("{KEY}{one}"), value)
            });
            let keys = keys.collect();
            self.wanted.send_replace(Some(Wanted { record, keys }));
        }

        /// Waits until the keys have these ports, all on the lease.
        async fn reaches(&self, lease: i64, ports: &[(&str, u64)]) {
            loop {
                let range = Range::new(KeyRange::prefix(KEY));
                let found = self.kv.range(range).await.unwrap().kvs;
                let has = |(kv, (one, port)): (&KeyValue, &(&str, u64))| {
                    let value: serde_json::Value = serde_json::from_slice(&kv.value).unwrap();
                    kv.key == format!("{KEY}{one}") && value["port"] == *port && kv.lease == lease
                };
                if found.len() == ports.len() && found.iter().zip(ports).all(has) {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_there_while_they_are_wanted_and_end_with_the_host() {
        let bench = Bench::start();
        let (lease, record) = bench.join().await;
        bench.want(record, &[("0", 20_000), ("1", 20_001)]);
        bench.reaches(lease, &[("0", 20_000), ("1", 20_001)]).await;
        bench.want(record, &[("1", 20_002)]);
        bench.reaches(lease, &[("1", 20_002)]).await;
        // Not while nothing is known, nor while etcd is away.
        bench.wanted.send_replace(None);
        bench.kv.set_unavailable(true);
        bench.want(record, &[("2", 20_003)]);
        sleep(Duration::from_secs(5)).await;
        bench.kv.set_unavailable(false);
        bench.reaches(lease, &[("2", 20_003)]).await;
        // A write whose answer is lost is found, or made again.
        bench.kv.lose_next_answer();
        bench.want(record, &[("2", 20_003), ("3", 20_004)]);
        bench.reaches(lease, &[("2", 20_003), ("3", 20_004)]).await;
        bench.kv.lease_revoke(lease).await.unwrap();
        bench.reaches(lease, &[]).await;
        // A record on another lease has them again.
        let (lease, record) = bench.join().await;
        bench.want(record, &[("2", 20_003)]);
        bench.reaches(lease, &[("2", 20_003)]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_others_are_left_alone_and_those_of_agents_taken_over() {
        let bench = Bench::start();
        let (lease, record) = bench.join().await;
        let theirs = r#"{"host":"192.0.2.1","port":1}"#;
        bench.write(Op::put(format!("{KEY}0"), theirs)).await;
        let other = r#"{"dokkaa":"h2","host":"10.0.0.2","port":2}"#;
        for one in ["1", "2"] {
            bench.write(Op::put(format!("{KEY}{one}"), other)).await;
        }
        bench.want(record, &[("0", 20_000), ("1", 20_001)]);
        let value = async |one: &str| {
            let range = Range::key(format!("{KEY}{one}"));
            let found = bench.kv.range(range).await.unwrap().kvs;
            (
                found[0].lease,
                String::from_utf8_lossy(&found[0].value).into_owned(),
            )
        };
        while value("1").await.0 != lease {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(value("0").await, (0, theirs.to_owned()));
        // What another host has taken over is no longer ours to take away.
        bench.write(Op::put(format!("{KEY}1"), other)).await;
        bench.want(record, &[("3", 20_003)]);
        while bench
            .kv
            .range(Range::key(format!("{KEY}3")))
            .await
            .unwrap()
            .kvs
            .is_empty()
        {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_secs(1)).await;
        for one in ["1", "2"] {
            assert_eq!(value(one).await, (0, other.to_owned()));
        }
        assert_eq!(value("0").await, (0, theirs.to_owned()));
    }
}
