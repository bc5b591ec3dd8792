//! What a v2 client finds out of the cluster: who else answers, and what was done.

use std::sync::Arc;

use serde_json::{Value, json};
use store::kv::{Kv, Op, Txn};

use crate::client::Ask;
use crate::harness::TestServer;

fn record(api: &[&str]) -> Vec<u8> {
    let record = json!({
        "id": "00000000-0000-4000-8000-000000000001",
        "session": "00000000-0000-4000-8000-000000000002",
        "epoch": 1,
        "state": "up",
        "addr": "10.0.0.1",
        "api": api,
        "versions": {"agent": "0", "placement": [1]},
    });
    record.to_string().into_bytes()
}

async fn put(kv: &Arc<dyn Kv>, key: &str, value: Vec<u8>) {
    let txn = Txn::new(Vec::new(), vec![Op::put(key, value)]);
    kv.txn(txn).await.expect("written");
}

/// Hosts as one asked host shows them: name, id and addresses.
async fn members(server: &TestServer) -> Vec<(String, String, Value)> {
    let json = server.client.get("/v2/members").await.json();
    let text = |member: &Value, field: &str| member[field].as_str().expect("text").to_owned();
    let members = json["members"].as_array().expect("members").iter();
    members
        .map(|member| {
            let urls = member["clientURLs"].clone();
            (text(member, "name"), text(member, "id"), urls)
        })
        .collect()
}

#[tokio::test]
async fn all_hosts_whose_api_is_reached_are_members_with_an_id_of_their_own() {
    let (h1, kv) = TestServer::in_memory().await;
    let kv: Arc<dyn Kv> = Arc::new(kv);
    let h2 = TestServer::named("h2", kv.clone()).await;
    let own = |server: &TestServer| format!("http://{}", server.address);

    // All listen on loopback: only the asked one is there for this client.
    put(&kv, "/hosts/h1/record", record(&[])).await;
    put(&kv, "/hosts/h2/record", record(&[])).await;
    let machines = h1.client.get("/v2/machines").await.body;
    assert_eq!(machines, own(&h1));

    let at = h2.address.to_string();
    put(
        &kv,
        "/hosts/h2/record",
        record(&[&at, "[2001:db8::2]:4001"]),
    )
    .await;
    put(&kv, "/hosts/h3/record", record(&["10.0.0.3:4001"])).await;
    put(&kv, "/hosts/h4/record", b"not a record".to_vec()).await;
    let machines = h1.client.get("/v2/machines").await.body;
    let expected = [
        &own(&h1),
        &own(&h2),
        "http://[2001:db8::2]:4001",
        "http://10.0.0.3:4001",
    ];
    assert_eq!(machines, expected.join(", "));

    let by_h1 = members(&h1).await;
    let names: Vec<&str> = by_h1.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["h1", "h2", "h3"]);
    let mut by_h2 = members(&h2).await;
    by_h2.sort_by(|a, b| a.0.cmp(&b.0));
    // h1 is reached on loopback only, so h2 does not name it; the others are the same.
    assert_eq!(by_h2, by_h1[1..]);
    let mut ids: Vec<&String> = by_h1.iter().map(|(_, id, _)| id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    for (server, id) in [(&h1, &by_h1[0].1), (&h2, &by_h1[1].1)] {
        let leader = server.client.get("/v2/members/leader").await.json();
        assert_eq!(leader["id"], id.as_str());
        let own = server.client.get("/v2/stats/self").await.json();
        assert_eq!(
            (&own["id"], &own["leaderInfo"]["leader"]),
            (&json!(id), &json!(id))
        );
    }
}

#[tokio::test]
async fn operations_are_counted_by_kind_and_outcome() {
    let (server, _) = TestServer::in_memory().await;
    let client = &server.client;
    client.put("/v2/keys/a", "value=1").await;
    client.put("/v2/keys/a", "value=1&prevExist=false").await;
    client.put("/v2/keys/a", "value=2&prevValue=1").await;
    client.get("/v2/keys/a").await;
    client.get("/v2/keys/b").await;
    client.delete("/v2/keys/a").await;
    client.put("/v2/keys/claims/a", "value=1").await;
    let wait = client.begin(Ask::new("GET", "/v2/keys/a?wait=true")).await;
    let stats = client.get("/v2/stats/store").await.json();
    let mut told: Vec<(&str, u64)> = stats
        .as_object()
        .expect("counters")
        .iter()
        .map(|(name, count)| (name.as_str(), count.as_u64().expect("a number")))
        .filter(|(_, count)| *count > 0)
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            ("compareAndSwapSuccess", 1),
            ("createFail", 1),
            ("deleteSuccess", 1),
            ("getsFail", 1),
            ("getsSuccess", 1),
            ("setsFail", 1),
            ("setsSuccess", 1),
            ("watchers", 1),
        ]
    );
    drop(wait);
}
