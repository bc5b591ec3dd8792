//! The agent, its etcd and its peers, as the handlers use them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use manifests::keys::{APPS, Key, STATUS, V2_META};
use manifests::{ContainerId, HostName, SlotId};
use model::records::Status;
use store::kv::{KeyRange, Range, RangeReply, Txn, TxnReply};
use store::{Compare, Op};

use super::agent::{AgentHandle, ClusterView, Peers};
use super::inputs::{Filter, RowInputs};
use super::list::{List, read_pages};
use super::overview;
use super::reply::ApiFailure;
use super::rows;
use super::types::{ContainerRow, Reasons, Slots};
use crate::v2::lookup::SideKey;

/// How long a check of etcd may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// State of the API.
#[derive(Clone)]
pub struct Api {
    /// The agent that serves it.
    pub agent: Arc<dyn AgentHandle>,
    /// The other agents; none without a peer listener.
    pub peers: Option<Arc<dyn Peers>>,
}

impl Api {
    pub(super) fn view(&self) -> Result<ClusterView, ApiFailure> {
        let view = self.agent.view();
        view.ok_or_else(|| ApiFailure::not_ready(&self.agent.problems()))
    }

    /// What to know before believing a list: problems of this agent, and the age of its view.
    pub(super) fn notices(&self, view: &ClusterView) -> Vec<String> {
        let mut notices = self.agent.problems();
        if view.stale {
            notices.push(overview::last_known(
                &self.agent.host(),
                view.hold.as_deref(),
                view.age(),
            ));
        }
        notices
    }

    /// etcd answers, trusted or not.
    pub(super) async fn etcd_answers(&self) -> bool {
        let kv = self.agent.kv();
        let read = kv.range(Range::key(Key::Cluster));
        matches!(tokio::time::timeout(PATIENCE, read).await, Ok(Ok(_)))
    }

    /// Notes when these containers end by themselves.
    pub(super) async fn expire(
        &self,
        view: &ClusterView,
        filter: &Filter,
        containers: &mut [ContainerRow],
        notices: &mut Vec<String>,
    ) {
        let expiries = self.expiries(view, filter, notices).await;
        for row in containers {
            let expiry = expiries.get(&row.id());
            row.expires = expiry
                .filter(|(revision, _)| row.revision == Some(*revision))
                .map(|(_, expires)| *expires);
        }
    }

    pub(super) async fn slots(&self, view: &ClusterView, filter: &Filter) -> Slots {
        let mut notices = self.notices(view);
        let statuses = self.statuses(view, filter, &mut notices).await;
        let answers = self.own_reasons();
        let (slots, mut containers) = rows::merge(row_inputs(view, &statuses, &answers), filter);
        self.expire(view, filter, &mut containers, &mut notices)
            .await;
        Slots {
            slots,
            containers,
            revision: view.snapshot.revision,
            stale: view.stale,
            known_at: view.stale_since(),
            notices,
        }
    }

    /// The other agents, if this host can be asked; or why not, for people.
    pub(super) fn peer(&self, host: &HostName) -> Result<&dyn Peers, String> {
        let view = self.agent.view();
        let is_live = view.is_some_and(|view| view.snapshot.is_live(host));
        match &self.peers {
            Some(peers) if is_live => Ok(peers.as_ref()),
            Some(_) => Err("it is missing".to_owned()),
            None => Err("this agent has no peer listener".to_owned()),
        }
    }

    /// etcd as it is now.
    pub(super) async fn list(&self) -> Result<List, ApiFailure> {
        let list = List::read(self.agent.kv().as_ref()).await;
        list.map_err(|error| ApiFailure::etcd_read(&error))
    }

    pub(super) async fn range(&self, range: Range) -> Result<RangeReply, ApiFailure> {
        let reply = self.agent.kv().range(range).await;
        reply.map_err(|error| ApiFailure::etcd_read(&error))
    }

    pub(super) async fn txn(&self, txn: Txn) -> Result<TxnReply, ApiFailure> {
        let is_read = txn
            .then
            .iter()
            .all(|op| matches!(op, Op::Get(_) | Op::First(_)));
        let reply = self.agent.kv().txn(txn).await;
        reply.map_err(|error| {
            if is_read {
                ApiFailure::etcd_read(&error)
            } else {
                ApiFailure::etcd_write(&error)
            }
        })
    }

    /// Writes, unless a guard does not hold; false then.
    pub(super) async fn try_write(
        &self,
        guards: Vec<Compare>,
        ops: Vec<Op>,
    ) -> Result<bool, ApiFailure> {
        Ok(self.txn(Txn::new(guards, ops)).await?.succeeded)
    }

    /// Writes; a guard that does not hold is a conflict.
    pub(super) async fn write(&self, guards: Vec<Compare>, ops: Vec<Op>) -> Result<(), ApiFailure> {
        let written = self.try_write(guards, ops).await?;
        written.then_some(()).ok_or_else(ApiFailure::changed)
    }

    /// Reasons of this host: enough for a list.
    pub(super) fn own_reasons(&self) -> BTreeMap<HostName, Reasons> {
        BTreeMap::from([(self.agent.host(), self.agent.reasons())])
    }

    /// Reasons of every live host.
    pub(super) async fn all_reasons(
        &self,
        view: &ClusterView,
        notices: &mut Vec<String>,
    ) -> BTreeMap<HostName, Reasons> {
        let mut reasons = self.own_reasons();
        if let Some(peers) = &self.peers {
            let live = view.snapshot.live().map(|(host, _)| host);
            let others = live.filter(|host| !reasons.contains_key(*host)).cloned();
            let others: Vec<HostName> = others.collect();
            let asked = ask_hosts(others, async |host| peers.reasons(&host).await, notices);
            reasons.extend(asked.await);
        }
        reasons
    }

    /// The status keys. A failed read is a notice: the rows say less without them.
    pub(super) async fn statuses(
        &self,
        view: &ClusterView,
        filter: &Filter,
        notices: &mut Vec<String>,
    ) -> BTreeMap<SlotId, Status> {
        if view.stale {
            return BTreeMap::new();
        }
        let range = Range {
            serializable: true,
            ..Range::new(KeyRange::prefix(&filter.prefix(STATUS)))
        };
        let kvs = match read_pages(self.agent.kv().as_ref(), range).await {
            Ok((kvs, _)) => kvs,
            Err(error) => {
                notices.push(format!("the status of slots could not be read: {error}"));
                return BTreeMap::new();
            }
        };
        let statuses = kvs.iter().filter_map(|kv| match Key::parse(&kv.key)? {
            Key::Status(slot) => Some((slot, serde_json::from_slice(&kv.value).ok()?)),
            _ => None,
        });
        statuses.collect()
    }

    /// Which manifests were written with a TTL. A failed read is a notice.
    async fn expiries(
        &self,
        view: &ClusterView,
        filter: &Filter,
        notices: &mut Vec<String>,
    ) -> Expiries {
        if view.stale {
            return Expiries::new();
        }
        let prefix = filter.prefix(&format!("{V2_META}{APPS}"));
        let range = Range {
            serializable: true,
            ..Range::new(KeyRange::prefix(&prefix))
        };
        let kvs = match read_pages(self.agent.kv().as_ref(), range).await {
            Ok((kvs, _)) => kvs,
            Err(error) => {
                notices.push(format!("what has a TTL could not be read: {error}"));
                return Expiries::new();
            }
        };
        let expiries = kvs.iter().filter_map(|kv| {
            let Key::Manifest(id) = Key::parse(kv.key.strip_prefix(V2_META)?)? else {
                return None;
            };
            let side = SideKey::new(kv);
            Some((id, (side.modified, side.meta.expires?)))
        });
        expiries.collect()
    }
}

/// When a manifest of this revision ends by itself.
type Expiries = BTreeMap<ContainerId, (i64, Timestamp)>;

/// Asks hosts at the same time. One that does not answer is a notice.
pub(super) async fn ask_hosts<T, F>(
    hosts: impl IntoIterator<Item = HostName>,
    ask: impl Fn(HostName) -> F,
    notices: &mut Vec<String>,
) -> Vec<(HostName, T)>
where
    F: Future<Output = Result<T, String>>,
{
    let hosts: Vec<HostName> = hosts.into_iter().collect();
    let asked = join_all(hosts.iter().cloned().map(ask)).await;
    let mut answers = Vec::new();
    for (host, answer) in hosts.into_iter().zip(asked) {
        match answer {
            Ok(answer) => answers.push((host, answer)),
            Err(why) => notices.push(format!("host {host} does not answer: {why}")),
        }
    }
    answers
}

pub(super) fn row_inputs<'a>(
    view: &'a ClusterView,
    statuses: &'a BTreeMap<SlotId, Status>,
    answers: &'a BTreeMap<HostName, Reasons>,
) -> RowInputs<'a> {
    RowInputs {
        snapshot: &view.snapshot,
        directory: &view.directory,
        statuses,
        answers,
        now: jiff::Timestamp::now().as_second(),
    }
}
