//! Follows what others write under `/skydns`: a list, then a watch.
//!
//! Nothing is decided from it, so it needs none of the view's proofs: a list an
//! hour heals what a watch has lost. While etcd is away the last records hold,
//! also those of the agent before: `saved` has them on disk.
//! `publish` keeps a host's own there.

pub mod publish;
pub mod saved;

use std::sync::Arc;
use std::time::Duration;

use manifests::keys::SKYDNS;
use model::backoff::Exponential;
use model::skydns::Records;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::saved::Saved;
use crate::kv::{Event, KeyRange, Kv, KvError, Range, Watch, WatchReply};

/// SkyDNS's own settings are no record.
const SETTINGS: &str = "/skydns/config";
/// Keys per read.
const PAGE: i64 = 1_000;
/// A list this often.
const LIST_EVERY: Duration = Duration::from_secs(3600);
/// Waits after failures, the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Gives the records to `says` at each change, until `stop`, and keeps them on disk.
pub async fn follow(
    kv: Arc<dyn Kv>,
    saved: Saved,
    says: impl Fn(Records),
    stop: CancellationToken,
) {
    let (now, to_save) = watch::channel(Records::default());
    let mut follower = Follower {
        kv,
        says: |records: Records| {
            now.send_replace(records.clone());
            says(records);
        },
        records: Records::default(),
        listed: false,
    };
    let mut retry = Exponential::new(RETRY.0, RETRY.1);
    let follows = async {
        loop {
            match follower.list_and_watch().await {
                Ok(()) => retry.reset(),
                Err(error) => {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    // Said once, however long it lasts. What hides etcd is said by others.
                    let is_refused = matches!(error, KvError::Refused(_)) && retry.failures() == 0;
                    if is_refused && follower.listed {
                        warn!(%error, source, "records under {SKYDNS} can't be read any more, and stay in DNS as they were");
                    } else if is_refused {
                        warn!(%error, source, "records under {SKYDNS} can't be read, and are not in DNS");
                        // Those of the agent before, too.
                        (follower.says)(Records::default());
                    } else {
                        debug!(%error, source, "records under {SKYDNS} can't be followed");
                    }
                    sleep(retry.next_wait()).await;
                }
            }
        }
    };
    let saves = saved.keep(to_save, stop.clone());
    tokio::join!(stop.run_until_cancelled(follows), saves);
}

struct Follower<S> {
    kv: Arc<dyn Kv>,
    says: S,
    records: Records,
    /// What is wrong in a later list was logged before.
    listed: bool,
}

impl<S: Fn(Records)> Follower<S> {
    /// Until the watch ends, or the next list is due.
    async fn list_and_watch(&mut self) -> Result<(), KvError> {
        let revision = self.list().await?;
        let next_list = Instant::now() + LIST_EVERY;
        let keys = KeyRange::prefix(SKYDNS);
        // How far it is says nothing here.
        let Watch { mut replies, .. } = self.kv.watch(keys, revision + 1, false).await?;
        loop {
            let reply = tokio::select! {
                reply = replies.recv() => reply,
                () = sleep_until(next_list) => return Ok(()),
            };
            match reply {
                Some(WatchReply::Events(events, _)) => {
                    for event in events {
                        match event {
                            Event::Put { now, .. } => self.put(&now.key, &now.value, true),
                            Event::Delete { key, .. } => self.records.delete(&key),
                        }
                    }
                    (self.says)(self.records.clone());
                }
                Some(WatchReply::Progress(_)) => {}
                Some(WatchReply::Compacted(_)) | None => return Ok(()),
                Some(WatchReply::Closed(reason)) => {
                    debug!(reason, "watch of {SKYDNS} closed");
                    // Not at once: the reason may stand.
                    sleep(RETRY.0).await;
                    return Ok(());
                }
            }
        }
    }

    /// All records as of one revision.
    async fn list(&mut self) -> Result<i64, KvError> {
        let mut range = Range {
            limit: PAGE,
            ..Range::new(KeyRange::prefix(SKYDNS))
        };
        let before = std::mem::take(&mut self.records);
        let result = loop {
            let page = match self.kv.range_at_stream(range.clone()).await {
                Ok(page) => page,
                Err(error) => break Err(error),
            };
            if range.revision == 0 {
                range.revision = page.revision;
            }
            for kv in &page.kvs {
                self.put(&kv.key, &kv.value, !self.listed);
            }
            match page.kvs.last() {
                Some(last) if page.more => range.keys.start = format!("{}\0", last.key).into(),
                _ => break Ok(range.revision),
            }
        };
        match result {
            Ok(_) => {
                self.listed = true;
                (self.says)(self.records.clone());
            }
            Err(_) => self.records = before,
        }
        result
    }

    fn put(&mut self, key: &str, value: &[u8], is_new: bool) {
        if key == SETTINGS {
            return;
        }
        match self.records.put(key, value) {
            Err(error) if is_new => warn!(key, %error, "not a record in DNS"),
            Ok(()) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use async_trait::async_trait;
    use model::kv::{Op, Txn};
    use tokio::sync::watch;

    use super::*;
    use crate::kv::{RangeReply, Status, TxnReply};
    use crate::memory::MemKv;

    async fn write(kv: &MemKv, ops: Vec<Op>) {
        kv.txn(Txn::new(Vec::new(), ops)).await.unwrap();
    }

    fn put(name: &str, value: &str) -> Op {
        Op::put(format!("{SKYDNS}local/skydns/{name}"), value)
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_listed_and_then_followed() {
        let kv = MemKv::new();
        let host = r#"{"host":"10.0.0.9"}"#;
        let many = (0..2_500).map(|n| put(&format!("many/{n}"), host));
        for chunk in many.collect::<Vec<_>>().chunks(100) {
            write(&kv, chunk.to_vec()).await;
        }
        write(&kv, vec![put("wrong", "{}"), Op::put("/apps/x", host)]).await;
        let (says, mut said) = watch::channel(Records::default());
        let now = said.clone();
        let stop = CancellationToken::new();
        let folder = tempfile::TempDir::new().unwrap();
        let saved = Saved::new(folder.path().join("skydns"), uuid::Uuid::from_u128(1));
        assert!(saved.load().is_empty());
        let follows = tokio::spawn(follow(
            Arc::new(kv.clone()),
            saved.clone(),
            move |records| {
                says.send_replace(records);
            },
            stop.clone(),
        ));
        let mut reaches = async |count| said.wait_for(|table| table.len() == count).await.is_ok();
        assert!(reaches(2_500).await);
        let wrong = |records: &Records| {
            let wrong = records.unreadable(&[]);
            wrong.map(|(key, _)| key.to_owned()).collect::<Vec<_>>()
        };
        let key = format!("{SKYDNS}local/skydns/wrong");
        assert_eq!(wrong(&now.borrow()), [key]);
        write(&kv, vec![put("db", host)]).await;
        assert!(reaches(2_501).await);
        write(&kv, vec![put("wrong", host)]).await;
        assert!(reaches(2_502).await);
        assert!(wrong(&now.borrow()).is_empty());
        let key = format!("{SKYDNS}local/skydns/db");
        write(&kv, vec![Op::delete(key), put("many/0", "nothing")]).await;
        assert!(reaches(2_500).await);
        // While etcd is away they stay, and what has changed meanwhile is found.
        kv.set_unavailable(true);
        let key = format!("{SKYDNS}local/skydns/many/1");
        kv.with(|etcd| {
            etcd.txn(&Txn::new(Vec::new(), vec![Op::delete(key)]))
                .unwrap()
        });
        kv.set_unavailable(false);
        assert!(reaches(2_499).await);
        stop.cancel();
        follows.await.unwrap();
        // The next agent has them, etcd or no etcd.
        let again = saved.load();
        assert!(again.is_saved());
        assert_eq!(again.len(), 2_499);
    }

    #[tokio::test]
    async fn the_file_is_written_when_something_has_changed() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("skydns");
        let saved = Saved::new(path.clone(), uuid::Uuid::from_u128(1));
        let mut table = Records::default();
        let key = format!("{SKYDNS}local/skydns/db");
        table.put(&key, br#"{"host":"10.0.0.9"}"#).unwrap();
        let (says, said) = watch::channel(Records::default());
        let stop = CancellationToken::new();
        let keeps = tokio::spawn(saved.clone().keep(said, stop.clone()));
        let is_there = async |wanted| {
            while path.exists() != wanted {
                sleep(Duration::from_millis(20)).await;
            }
        };
        says.send_replace(table.clone());
        is_there(true).await;
        // What is put again as it is costs nothing: the file would be there again.
        std::fs::remove_file(&path).unwrap();
        says.send_replace(table.clone());
        stop.cancel();
        keeps.await.unwrap();
        assert!(!path.exists());
        // Nothing is left of records that are gone, or that must not be read any more.
        let (says, said) = watch::channel(table);
        let stop = CancellationToken::new();
        let keeps = tokio::spawn(saved.keep(said, stop.clone()));
        std::fs::write(&path, "what was there").unwrap();
        says.send_replace(Records::default());
        is_there(false).await;
        stop.cancel();
        keeps.await.unwrap();
    }

    /// An etcd that lets nobody read.
    struct Closed;

    fn refused<T>() -> Result<T, KvError> {
        Err(KvError::Refused("permission denied".to_owned()))
    }

    #[async_trait]
    impl Kv for Closed {
        async fn txn(&self, _: Txn) -> Result<TxnReply, KvError> {
            refused()
        }

        async fn range(&self, _: Range) -> Result<RangeReply, KvError> {
            refused()
        }

        async fn watch(&self, _: KeyRange, _: i64, _: bool) -> Result<Watch, KvError> {
            refused()
        }

        async fn status(&self) -> Result<Status, KvError> {
            refused()
        }

        async fn lease_grant(&self, _: Duration) -> Result<(i64, Duration), KvError> {
            refused()
        }

        async fn lease_keep_alive(&self, _: i64) -> Result<(Duration, i64), KvError> {
            refused()
        }

        async fn lease_revoke(&self, _: i64) -> Result<(), KvError> {
            refused()
        }
    }

    #[tokio::test]
    async fn saved_records_that_must_not_be_read_any_more_are_forgotten() {
        let folder = tempfile::TempDir::new().unwrap();
        let saved = Saved::new(folder.path().join("skydns"), uuid::Uuid::from_u128(1));
        let (says, mut said) = watch::channel(Some(saved.load()));
        let stop = CancellationToken::new();
        let says = move |records: Records| {
            says.send_replace(Some(records).filter(|records| !records.is_empty()));
        };
        let follows = tokio::spawn(follow(Arc::new(Closed), saved, says, stop.clone()));
        assert!(said.wait_for(Option::is_none).await.is_ok());
        stop.cancel();
        follows.await.unwrap();
    }
}
