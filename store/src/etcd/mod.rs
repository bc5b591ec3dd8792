//! `Kv` on a real etcd, from 3.4 on.
//!
//! Two clients, one for calls and one for streams, each at one endpoint at a
//! time and at the next one after a failure. Every call has a deadline, and
//! HTTP/2 keep-alive ends a connection that is dead. A transaction that writes is
//! sent once: after an `Unavailable` nobody knows whether it happened, and the
//! caller reads again. Reads are tried at the other endpoints within their deadline.

mod access;
mod client;
mod convert;
mod options;
mod own_certificate;
mod thread;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use client::{Attempt, Clients};
use etcd_client::proto::PbResponseHeader;
use etcd_client::{ConnectOptions, GetResponse, LeaseKeepAliveStream, LeaseKeeper};
pub use options::{EtcdOptions, EtcdOptionsError};
pub use thread::etcd_thread;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::kv::{KeyRange, Kv, KvError, Range, RangeReply, Status, Txn, TxnReply, Watch};

/// Largest message that is taken: a page of 1,000 manifests of the largest size fits.
const MAX_MESSAGE: usize = 2 << 30;
/// Pause before a read is tried at the next endpoint when all have failed once.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(100);

/// A client of etcd. It connects when it is first used, on the runtime of the options or else the one that uses it first.
#[derive(Debug)]
pub struct EtcdKv {
    calls: Clients,
    streams: Arc<Clients>,
    /// Where watches run, if not where they are opened.
    runs_on: Option<Handle>,
    call_timeout: Duration,
    /// Of the renewal that is under way: the stream of the last one, to be used again.
    renewals: Mutex<Option<Renewals>>,
    /// Id of etcd's own cluster in the last call's answer.
    cluster_id: AtomicU64,
    /// Time to live of the host's lease: sets the pace of watches.
    lease_ttl: Duration,
}

struct Renewals {
    lease: i64,
    attempt: Attempt,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl std::fmt::Debug for Renewals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewals")
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl EtcdKv {
    /// A client with these options; nothing is connected yet.
    pub fn new(options: &EtcdOptions) -> Result<Self, EtcdOptionsError> {
        let targets = Arc::new(options.targets()?);
        let mut connect = ConnectOptions::new().with_auto_token_refresh(true);
        if let Some((user, password)) = &options.user {
            connect = connect.with_user(user, password);
        }
        let own = options.own_certificate()?;
        // Agents spread over the endpoints.
        let first = uuid::Uuid::new_v4().as_u64_pair().0 as usize;
        Ok(Self {
            calls: Clients::new(targets.clone(), connect.clone(), own.clone(), first),
            // A member that has lost its quorum would take a watch and stay silent.
            streams: Arc::new(Clients::new(
                targets,
                connect.with_require_leader(true),
                own,
                first,
            )),
            runs_on: options.runs_on.clone(),
            call_timeout: options.call_timeout,
            renewals: Mutex::new(None),
            cluster_id: AtomicU64::new(0),
            lease_ttl: options.lease_ttl,
        })
    }

    /// One call at the endpoint in use of these, until the deadline.
    async fn once<T, F: Answer<T>>(
        &self,
        clients: &Clients,
        deadline: Instant,
        call: impl FnOnce(Attempt) -> F,
    ) -> Result<T, KvError> {
        let mut used = clients.generation();
        let result = tokio::time::timeout_at(deadline, async {
            let attempt = clients.attempt().await?;
            used = attempt.generation;
            call(attempt.clone())
                .await
                .map_err(|error| clients.failed(&attempt, error))
        })
        .await;
        result.unwrap_or_else(|_| Err(clients.late(used)))
    }

    /// A call that may be made twice: at each endpoint in turn, until the deadline.
    async fn anywhere<T, F: Answer<T>>(&self, call: impl Fn(Attempt) -> F) -> Result<T, KvError> {
        let deadline = Instant::now() + self.call_timeout;
        let mut tries = 0;
        loop {
            tries += 1;
            let result = self.once(&self.calls, deadline, &call).await;
            let Err(KvError::Unavailable(_)) = &result else {
                return result;
            };
            if tries >= 2 * self.calls.len() || Instant::now() >= deadline {
                return result;
            }
            if tries.is_multiple_of(self.calls.len()) {
                tokio::time::sleep_until((Instant::now() + BETWEEN_ROUNDS).min(deadline)).await;
            }
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.call_timeout
    }

    /// The revision in a header, whose cluster is noted.
    fn header(&self, header: Option<PbResponseHeader>) -> i64 {
        let Some(header) = header else { return 0 };
        self.cluster_id.store(header.cluster_id, Ordering::Relaxed);
        header.revision
    }

    async fn open_renewals(&self, lease: i64) -> Result<Renewals, KvError> {
        let attempt = self.streams.attempt().await?;
        let mut client = attempt.client.clone();
        let opened = client.lease_keep_alive(lease).await;
        let (keeper, answers) = opened.map_err(|error| self.streams.failed(&attempt, error))?;
        Ok(Renewals {
            lease,
            attempt,
            keeper,
            answers,
        })
    }

    async fn renew(&self, renewals: &mut Renewals) -> Result<(Duration, i64), KvError> {
        let asked = renewals.keeper.keep_alive().await;
        asked.map_err(|error| self.streams.failed(&renewals.attempt, error))?;
        match renewals.answers.message().await {
            Ok(Some(answer)) if answer.ttl() > 0 => {
                let revision = answer.0.header.map_or(0, |header| header.revision);
                Ok((Duration::from_secs(answer.0.ttl as u64), revision))
            }
            Ok(Some(_)) => Err(KvError::LeaseNotFound),
            Ok(None) => Err(self.streams.late(renewals.attempt.generation)),
            Err(error) => Err(self.streams.failed(&renewals.attempt, error)),
        }
    }
}

/// What a call of the client becomes.
trait Answer<T>: Future<Output = Result<T, etcd_client::Error>> + Send {}

impl<T, F: Future<Output = Result<T, etcd_client::Error>> + Send> Answer<T> for F {}

/// Reads a range.
fn get(attempt: Attempt, range: &Range) -> impl Answer<GetResponse> + use<> {
    let options = convert::get_options(range);
    let start = range.keys.start.clone();
    async move {
        let kv = attempt.client.kv_client();
        let mut kv = kv.max_decoding_message_size(MAX_MESSAGE);
        kv.get(start, Some(options)).await
    }
}

/// Gives the endpoint up that was in use then unless it is told that all went well: also when the call is dropped halfway.
struct OrGiveUp<'a>(Option<(&'a Clients, u64)>);

impl Drop for OrGiveUp<'_> {
    fn drop(&mut self) {
        if let Some((clients, generation)) = self.0 {
            clients.give_up_generation(generation);
        }
    }
}

#[async_trait]
impl Kv for EtcdKv {
    async fn txn(&self, txn: Txn) -> Result<TxnReply, KvError> {
        let only_reads = txn.only_reads();
        let txn = convert::txn(txn);
        let call = |attempt: Attempt| {
            let txn = txn.clone();
            async move {
                let kv = attempt.client.kv_client();
                kv.max_decoding_message_size(MAX_MESSAGE).txn(txn).await
            }
        };
        let reply = if only_reads {
            self.anywhere(call).await?
        } else {
            self.once(&self.calls, self.deadline(), call).await?
        };
        let mut reply = reply.0;
        let revision = self.header(reply.header.take());
        Ok(convert::txn_reply(reply, revision))
    }

    async fn range(&self, range: Range) -> Result<RangeReply, KvError> {
        let reply = self.anywhere(|attempt| get(attempt, &range)).await?;
        let mut reply = reply.0;
        let revision = self.header(reply.header.take());
        Ok(convert::range_reply(reply, revision))
    }

    async fn range_at_stream(&self, range: Range) -> Result<RangeReply, KvError> {
        let call = |attempt| get(attempt, &range);
        let reply = self.once(&self.streams, self.deadline(), call).await?;
        let mut reply = reply.0;
        let revision = reply.header.take().map_or(0, |header| header.revision);
        Ok(convert::range_reply(reply, revision))
    }

    async fn watch(&self, keys: KeyRange, from: i64, previous: bool) -> Result<Watch, KvError> {
        let used = self.streams.generation();
        let opened = tokio::time::timeout(
            self.call_timeout,
            watch::open(&self.streams, keys, from, previous),
        )
        .await;
        let opened = opened.unwrap_or_else(|_| Err(self.streams.late(used)))?;
        let ours = self.cluster_id.load(Ordering::Relaxed);
        if ours != 0 && opened.cluster_id != ours {
            self.streams.give_up(&opened.attempt);
            let why = client::Failure("an endpoint belongs to another etcd cluster".into());
            return Err(KvError::Unavailable(Arc::new(why)));
        }
        let on = self.runs_on.clone().unwrap_or_else(Handle::current);
        Ok(opened.start(self.streams.clone(), self.lease_ttl, &on))
    }

    async fn status(&self) -> Result<Status, KvError> {
        let reply = self
            .anywhere(|attempt| async move { attempt.client.maintenance_client().status().await })
            .await?;
        let header = reply.0.header.unwrap_or_default();
        Ok(Status {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            leader: reply.0.leader,
            version: reply.0.version,
            raft_term: reply.0.raft_term,
            raft_index: reply.0.raft_index,
            alarm: convert::alarm(&reply.0.errors),
        })
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<(i64, Duration), KvError> {
        let seconds = ttl.as_millis().div_ceil(1_000) as i64;
        // Made twice, one of them just ends.
        let reply = self
            .anywhere(
                |attempt| async move { attempt.client.lease_client().grant(seconds, None).await },
            )
            .await?;
        Ok((reply.id(), Duration::from_secs(reply.ttl() as u64)))
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<(Duration, i64), KvError> {
        let mut kept = self.renewals.lock().await;
        let usable = kept.take().filter(|renewals| renewals.lease == lease);
        let used = usable.as_ref().map_or_else(
            || self.streams.generation(),
            |renewals| renewals.attempt.generation,
        );
        let mut or_give_up = OrGiveUp(Some((&*self.streams, used)));
        let renewed = tokio::time::timeout(self.call_timeout, async {
            let mut renewals = match usable {
                Some(renewals) => renewals,
                None => self.open_renewals(lease).await?,
            };
            let answer = self.renew(&mut renewals).await?;
            Ok((renewals, answer))
        })
        .await;
        let (renewals, answer) = match renewed {
            Ok(Ok(renewed)) => renewed,
            Ok(Err(error)) => {
                // Whether the endpoint is to blame is decided already.
                or_give_up.0 = None;
                return Err(error);
            }
            Err(_) => return Err(self.streams.late(used)),
        };
        or_give_up.0 = None;
        *kept = Some(renewals);
        Ok(answer)
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), KvError> {
        self.anywhere(|attempt| async move { attempt.client.lease_client().revoke(lease).await })
            .await?;
        Ok(())
    }

    fn avoid_stream_endpoint(&self) {
        self.streams.give_up_present();
    }

    fn stream_endpoint(&self) -> u64 {
        self.streams.generation()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::net::TcpListener;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_call_that_hangs_gives_up_the_endpoint_that_it_used_and_no_other() {
        // Connections are taken by the kernel, and nobody answers.
        let silent = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = silent.each_ref().map(|one| one.local_addr().unwrap());
        let kv = EtcdKv::new(&EtcdOptions {
            call_timeout: Duration::from_secs(1),
            ..EtcdOptions::new(addresses.map(|address| address.to_string()))
        })
        .unwrap();
        let keys = || KeyRange::prefix("/w/");
        let meanwhile = async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            kv.avoid_stream_endpoint();
        };

        assert!(kv.watch(keys(), 0, false).await.is_err());
        assert_eq!(kv.stream_endpoint(), 1);
        // Somebody else gives that one up while it hangs.
        let (opened, ()) = tokio::join!(kv.watch(keys(), 0, false), meanwhile());
        assert!(opened.is_err());
        assert_eq!(kv.stream_endpoint(), 2);

        assert!(kv.lease_keep_alive(1).await.is_err());
        assert_eq!(kv.stream_endpoint(), 3);
        let (renewed, ()) = tokio::join!(kv.lease_keep_alive(1), meanwhile());
        assert!(renewed.is_err());
        assert_eq!(kv.stream_endpoint(), 4);
        let dropped = tokio::time::timeout(Duration::from_millis(500), async {
            tokio::join!(kv.lease_keep_alive(1), meanwhile())
        });
        assert!(dropped.await.is_err());
        assert_eq!(kv.stream_endpoint(), 5);
    }
}
