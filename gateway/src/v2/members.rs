//! The hosts whose API a v2 client can reach, each as a member of the cluster.
//!
//! A host's record says where its API listens, if that is not loopback; the
//! host that is asked is a member under the address that it was asked at.

use manifests::keys::Key;
use model::records::HostRecord;
use serde::Serialize;
use store::kv::{KeyRange, Range};

use super::state::V2;

/// One host, as etcd shows a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Member {
    pub(super) id: String,
    name: String,
    #[serde(rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(rename = "clientURLs")]
    pub(super) client_urls: Vec<String>,
}

impl Member {
    fn new(name: &str, client_urls: Vec<String>) -> Self {
        Self {
            id: id(name),
            name: name.to_owned(),
            peer_urls: Vec::new(),
            client_urls,
        }
    }
}

/// The host that is asked, and then all live hosts whose API is reached from others. Without etcd, that host alone.
pub(super) async fn all(v2: &V2, asked_at: &str) -> Vec<Member> {
    let mut own = vec![asked_at.to_owned()];
    let mut others = Vec::new();
    for (name, urls) in records(v2).await {
        if name == v2.name {
            own.extend(urls.into_iter().filter(|url| url != asked_at));
        } else if !urls.is_empty() {
            others.push(Member::new(&name, urls));
        }
    }
    others.insert(0, Member::new(&v2.name, own));
    others
}

/// The live hosts and where their API is reached.
async fn records(v2: &V2) -> Vec<(String, Vec<String>)> {
    let range = Range::new(KeyRange::prefix("/hosts/"));
    let Ok(found) = v2.kv.range(range).await else {
        return Vec::new();
    };
    let record = |key: &str, value: &[u8]| {
        let Some(Key::HostRecord(name)) = Key::parse(key) else {
            return None;
        };
        let record: HostRecord = serde_json::from_slice(value).ok()?;
        let urls = record.api.iter().map(|at| format!("http://{at}"));
        Some((name.to_string(), urls.collect()))
    };
    let found = found.kvs.iter();
    found.filter_map(|kv| record(&kv.key, &kv.value)).collect()
}

/// A host's number among the members: of its name (FNV-1a), so that every agent gives the same without a look at etcd.
pub(super) fn id(name: &str) -> String {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_an_id_that_stays() {
        assert_eq!(id("h1"), "8ba8707b55f07d2");
        assert_ne!(id("h1"), id("h2"));
    }
}
