//! Operators' requests on a real etcd: what only that refuses, and guards over ranges.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use dokkaa_tests::etcd::{Etcd, EtcdOptions};
use gateway::v1::agent::EventStream;
use gateway::v1::memory::MemAgent;
use gateway::v1::types::{CheckPort, DnsServer, LogOptions, NameReport, Reasons};
use gateway::v1::{AgentHandle, Api, ClusterView, HostError, LogStream};
use manifests::{HostName, SlotId};
use model::events::Wanted;
use model::observed::Observed;
use model::records::Cluster;
use serde_json::{Value, json};
use store::Kv;
use store::etcd::EtcdKv;
use store::memory::MemKv;

use crate::client::Ask;
use crate::harness::TestServer;

/// An agent that runs nothing, over a real etcd.
struct OnEtcd {
    agent: MemAgent,
    kv: Arc<EtcdKv>,
}

#[async_trait]
impl AgentHandle for OnEtcd {
    fn host(&self) -> HostName {
        self.agent.host()
    }

    fn view(&self) -> Option<ClusterView> {
        self.agent.view()
    }

    fn problems(&self) -> Vec<String> {
        self.agent.problems()
    }

    fn kv(&self) -> Arc<dyn Kv> {
        self.kv.clone()
    }

    fn reasons(&self) -> Reasons {
        self.agent.reasons()
    }

    fn dns(&self) -> DnsServer {
        self.agent.dns()
    }

    fn name(&self, name: &str) -> Option<NameReport> {
        self.agent.name(name)
    }

    fn events(&self, wanted: Wanted) -> EventStream {
        self.agent.events(wanted)
    }

    fn cluster(&self) -> Option<Cluster> {
        self.agent.cluster()
    }

    fn observed(&self) -> Observed {
        self.agent.observed()
    }

    async fn check_port(&self) -> CheckPort {
        self.agent.check_port().await
    }

    async fn volume_names(&self) -> Result<BTreeSet<String>, HostError> {
        self.agent.volume_names().await
    }

    async fn remove_volume(&self, name: &str) -> Result<(), HostError> {
        self.agent.remove_volume(name).await
    }

    async fn local_logs(
        &self,
        slot: &SlotId,
        options: &LogOptions,
    ) -> Result<LogStream, HostError> {
        self.agent.local_logs(slot, options).await
    }
}

async fn server() -> (TestServer, Etcd) {
    let etcd = Etcd::start(&EtcdOptions::default()).expect("an etcd");
    let kv = EtcdKv::new(&store::etcd::EtcdOptions::new([etcd.url()])).expect("its options");
    let agent = Arc::new(OnEtcd {
        agent: MemAgent::new("h1", MemKv::new()),
        kv: Arc::new(kv),
    });
    let api = Api { agent, peers: None };
    (TestServer::of(api).await, etcd)
}

const ID: &str = "00000000-0000-0000-0000-000000000007";

#[tokio::test(flavor = "multi_thread")]
async fn a_large_backup_is_restored_once_and_the_cluster_key_comes_last() {
    let (server, etcd) = server().await;
    let padding = "x".repeat(2_000);
    let manifests: serde_json::Map<String, Value> = (0..300)
        .map(|n| {
            let manifest = json!({"image": "a", "env": {"PADDING": padding}});
            (format!("shop/c{n}"), manifest)
        })
        .collect();
    // More than a transaction takes, each with two guards.
    let pins: serde_json::Map<String, Value> = (0..300)
        .map(|n| {
            let pin = json!({"host": "h1", "host_id": ID, "volumes": ["x"], "existing": ["x"]});
            (format!("shop/db/{n}"), pin)
        })
        .collect();
    let backup = json!({
        "dokkaa_backup": 1,
        "cluster": {"id": ID, "epoch": 3},
        "manifests": manifests,
        "labels": {"h1": {"disk": "ssd"}},
        "availability": {"h1": "pause"},
        "config": {"x": "1"},
        "pins": pins,
    });
    let restore = async || {
        let ask = Ask::new("POST", "/dokkaa/v1/restore").form(&backup.to_string());
        let answer = server.client.send(ask).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    let first = restore().await;
    assert_eq!(first["cluster"], json!({"id": ID, "epoch": 4}));
    assert_eq!(etcd.list("/apps/").expect("a list").len(), 300);
    let revision = etcd.revision().expect("a revision");
    let again = restore().await;
    assert_eq!(again["cluster"], Value::Null);
    assert_eq!(
        etcd.revision().expect("a revision"),
        revision,
        "nothing was written"
    );
    let answer = server.client.get("/dokkaa/v1/backup").await.json();
    assert_eq!(answer["cluster"]["epoch"], 4);
    for part in ["manifests", "labels", "availability", "config", "pins"] {
        assert_eq!(answer[part], backup[part], "{part}");
    }
    // The v2 API lets none of that in.
    for key in [
        "dokkaa/cluster",
        "dokkaa/config/x",
        "hosts/h1/labels",
        "hosts/h1/availability",
    ] {
        let put = server
            .client
            .put(&format!("/v2/keys/{key}"), "value=1")
            .await;
        assert_eq!(put.status, 403, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_much_data_is_forgotten() {
    let (server, etcd) = server().await;
    let member = json!({"id": ID}).to_string();
    etcd.put("/dokkaa/members/h2", &member).expect("a write");
    etcd.put("/hosts/h2/labels", r#"{"a":"b"}"#)
        .expect("a write");
    for number in 0..130 {
        let data = json!({"host": "h2", "host_id": ID, "volumes": ["data"]});
        etcd.put(&format!("/claims/shop/db/data/{number}"), &data.to_string())
            .expect("a write");
    }
    let answer = server.client.delete("/dokkaa/v1/hosts/h2").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(etcd.list("/").expect("a list"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claims_of_an_orphan_are_released_unless_there_is_a_manifest() {
    let (server, etcd) = server().await;
    let claim = json!({"host": "h1", "instance": "i", "version": 1}).to_string();
    for key in ["slots/0", "slots/1", "slots/0.state", "data/0"] {
        etcd.put(&format!("/claims/shop/web/{key}"), &claim)
            .expect("a write");
    }
    let answer = server.client.delete("/dokkaa/v1/manifests/shop/web").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let left = etcd.list("/claims/").expect("a list");
    let keys: Vec<&str> = left.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["/claims/shop/web/data/0"]);
    let answer = server.client.delete("/dokkaa/v1/manifests/shop/web").await;
    assert_eq!(answer.status, 404, "{}", answer.body);
}
