//! Names in DNS: `GET dns`.

use std::net::SocketAddr;

use manifests::{HostName, SlotId};
use serde::{Deserialize, Serialize};

/// Keys that are no records, and are named.
const MOST: usize = 20;

/// `GET dns`: where the agent answers DNS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsServer {
    /// Domain of the names of services.
    pub domain: String,
    /// Addresses at which it answers at present.
    pub listen: Vec<SocketAddr>,
    /// Keys under `/skydns` that are no records.
    #[serde(default, skip_serializing_if = "Unreadable::is_empty")]
    pub unreadable: Unreadable,
}

/// `GET dns/<name>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameReport {
    /// In full.
    pub name: String,
    /// What it is, in words.
    pub meaning: String,
    /// All its records, as in a zone file.
    pub records: Vec<String>,
    /// Instances that it means and that are in no answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// So many keys under `/skydns` have the name, and are not answered: a service has it.
    #[serde(default)]
    pub hidden: usize,
    /// Keys under `/skydns` of the name, and below it, that are no records.
    #[serde(default, skip_serializing_if = "Unreadable::is_empty")]
    pub unreadable: Unreadable,
    /// The last known state.
    #[serde(default)]
    pub stale: bool,
    /// Notices for stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// Keys under `/skydns` that are no records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// How many there are; an agent knows of 1,000 at most.
    pub count: usize,
    /// The first of them, by key.
    pub first: Vec<UnreadableKey>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableKey {
    /// The key.
    pub key: String,
    /// Why it is no record.
    pub error: String,
}

impl Unreadable {
    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// In words: the first `most` of them, and how many there are besides.
    pub fn sentences(&self, most: usize) -> Vec<String> {
        let first = self.first.iter().take(most);
        let mut said: Vec<String> = first
            .map(|one| format!("the record at {} is not in DNS: {}", one.key, one.error))
            .collect();
        let rest = self.count.saturating_sub(said.len());
        if rest > 0 {
            said.push(format!(
                "{rest} more under /skydns can't be read either; `dokkaa dns NAME` shows those of a name"
            ));
        }
        said
    }
}

/// Keys that are no records, and why, in order of key.
impl FromIterator<(String, String)> for Unreadable {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(all: T) -> Self {
        let mut unreadable = Self::default();
        for (key, error) in all {
            unreadable.count += 1;
            if unreadable.first.len() < MOST {
                unreadable.first.push(UnreadableKey { key, error });
            }
        }
        unreadable
    }
}

/// An instance that is in no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its slot.
    pub slot: SlotId,
    /// Its host.
    pub host: HostName,
    /// Why, for people.
    pub reason: String,
}
