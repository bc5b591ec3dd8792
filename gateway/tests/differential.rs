//! One random stream of operations to a real etcd that speaks v2 and to the
//! door over a real etcd, compared answer by answer.
//!
//! `DIFF_OPS` and `DIFF_SEED` choose how many and which. Both stores are
//! brought to the same index first, so answers are equal to the byte, except
//! where [`KNOWN_DIFFERENCES`] says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use dokkaa_tests::etcd::{Etcd, EtcdOptions};
use serde_json::Value;
use store::etcd::EtcdKv;

use crate::client::{Answer, Ask, Begun, Client};
use crate::house::House;

/// Where the door differs on purpose, and how the comparison takes that into account.
const KNOWN_DIFFERENCES: [(&str, &str); 6] = [
    (
        "CORS headers",
        "etcd sends them with every answer; a door must not let web pages in, so it sends none",
    ),
    (
        "X-Etcd-Cluster-Id, X-Raft-Index, X-Raft-Term",
        "two clusters have two ids and two logs: compared by presence and shape",
    ),
    (
        "order of an unsorted listing",
        "etcd leaves it open, the door always sorts: compared after sorting unless sorted=true",
    ),
    (
        "a wait below a deleted directory, at a key that never was",
        "etcd wakes it from history but not live; the door wakes it both ways",
    ),
    (
        "a double slash in the path",
        "etcd redirects and curl loses the body; the door cleans in place: not in the stream",
    ),
    (
        "POST, dir=true on PUT, TTL, refresh, stream=true",
        "not in this version of the door: not in the stream",
    ),
];

/// A few seconds' worth.
const DEFAULT_OPS: u64 = 5000;

/// No answer takes longer, unless something is wrong.
const CAP: Duration = Duration::from_secs(30);

/// Waits are looked at after so many operations.
const ROUND: u64 = 40;

/// Names of keys. None is the beginning of another: etcd's look into history
/// takes `/a` for a directory above `/ab`.
const NAMES: [&str; 6] = ["a", "b", "c", "_h", "\u{e9} x", "d"];

const VALUES: [&str; 8] = [
    "",
    "1",
    "2",
    "3",
    "<x>&\"y\"\n",
    "\u{e9}\u{2028}",
    "a+b c%",
    "true",
];

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

fn encode(text: &str) -> String {
    dokkaa_tests::http::escape(text)
}

/// Makes operations; knows a little of what is there, so that some of them hit.
struct Stream {
    random: Random,
    /// Keys written lately, with their modified index.
    known: BTreeMap<String, u64>,
    index: u64,
    first: u64,
}

/// One operation.
enum Step {
    Ask(Ask),
    Wait(Ask, String),
}

impl Stream {
    fn key(&mut self) -> String {
        let known = self.known.len() as u64;
        if known > 0 && self.random.one_in(2) {
            let at = self.random.below(known) as usize;
            if let Some(key) = self.known.keys().nth(at) {
                return key.clone();
            }
        }
        let depth = 1 + self.random.below(4);
        (0..depth)
            .map(|_| format!("/{}", self.random.pick(&NAMES)))
            .collect()
    }

    fn value(&mut self) -> &'static str {
        self.random.pick(&VALUES)
    }

    fn step(&mut self) -> Step {
        match self.random.below(100) {
            0..30 => Step::Ask(self.get()),
            30..56 => Step::Ask(self.put(&[])),
            56..64 => Step::Ask(self.put(&[("prevExist", "false")])),
            64..70 => Step::Ask(self.put(&[("prevExist", "true")])),
            70..80 => Step::Ask(self.compare("PUT")),
            80..90 => Step::Ask(self.delete()),
            90..93 => Step::Ask(self.compare("DELETE")),
            93..96 => Step::Ask(self.wrong()),
            _ => self.wait(),
        }
    }

    fn get(&mut self) -> Ask {
        let mut query = Vec::new();
        for name in ["recursive", "sorted", "quorum"] {
            if self.random.one_in(3) {
                query.push(format!("{name}={}", self.random.pick(&["true", "1", "f"])));
            }
        }
        if self.random.one_in(10) {
            query
                .push("prevExist=true&ttl=5&unknown=%20&dir=true&noValueOnSuccess=true".to_owned());
        }
        let key = match self.random.below(12) {
            0 => "/".to_owned(),
            1 => String::new(),
            _ => self.key(),
        };
        let method = if self.random.one_in(12) {
            "HEAD"
        } else {
            "GET"
        };
        let slash = if self.random.one_in(10) && key != "/" {
            "/"
        } else {
            ""
        };
        Ask::new(
            method,
            &format!("/v2/keys{}{slash}?{}", encode(&key), query.join("&")),
        )
    }

    /// Puts fields into the query, the body, or both, where the body's win.
    fn place(&mut self, method: &str, key: &str, fields: &[(String, String)]) -> Ask {
        let (mut query, mut body) = (Vec::new(), Vec::new());
        for (name, value) in fields {
            let field = format!("{name}={}", encode(value));
            match self.random.below(if method == "DELETE" { 1 } else { 6 }) {
                0 => query.push(field),
                1 => {
                    query.push(format!("{name}=other"));
                    body.push(field);
                }
                _ => body.push(field),
            }
        }
        let path = format!("/v2/keys{}?{}", encode(key), query.join("&"));
        let ask = Ask::new(method, &path);
        if body.is_empty() {
            ask
        } else {
            ask.form(&body.join("&"))
        }
    }

    fn put(&mut self, conditions: &[(&str, &str)]) -> Ask {
        let mut fields: Vec<(String, String)> = conditions
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        if !self.random.one_in(8) {
            fields.push(("value".to_owned(), self.value().to_owned()));
        }
        if self.random.one_in(10) {
            fields.push(("noValueOnSuccess".to_owned(), "true".to_owned()));
        }
        if self.random.one_in(20) {
            fields.push(("ttl".to_owned(), String::new()));
        }
        let key = if self.random.one_in(60) {
            "/".to_owned()
        } else {
            self.key()
        };
        self.place("PUT", &key, &fields)
    }

    fn compare(&mut self, method: &str) -> Ask {
        let key = if self.random.one_in(40) {
            "/".to_owned()
        } else {
            self.key()
        };
        let mut fields = Vec::new();
        let which = self.random.below(3);
        if which != 0 {
            let value = match self.value() {
                "" => "1",
                value => value,
            };
            fields.push(("prevValue".to_owned(), value.to_owned()));
        }
        if which != 1 {
            let right = self.known.get(&key).copied().unwrap_or(self.index);
            let index = match self.random.below(4) {
                0 => self.index,
                1 => 0,
                _ => right,
            };
            fields.push(("prevIndex".to_owned(), index.to_string()));
        }
        if self.random.one_in(4) {
            let exist = self.random.pick(&["true", "false", "1"]);
            fields.push(("prevExist".to_owned(), exist.to_owned()));
        }
        if method == "PUT" {
            fields.push(("value".to_owned(), self.value().to_owned()));
        } else if self.random.one_in(3) {
            fields.push(("recursive".to_owned(), "true".to_owned()));
        }
        // A condition that is none makes it a plain write; so be it.
        self.place(method, &key, &fields)
    }

    fn delete(&mut self) -> Ask {
        let mut fields = Vec::new();
        for name in ["dir", "recursive"] {
            if self.random.one_in(3) {
                fields.push((name.to_owned(), "true".to_owned()));
            }
        }
        let key = if self.random.one_in(60) {
            "/".to_owned()
        } else {
            self.key()
        };
        self.place("DELETE", &key, &fields)
    }

    fn wrong(&mut self) -> Ask {
        let fields = [
            "recursive=",
            "recursive=yes",
            "sorted=2",
            "wait=x",
            "dir=TrUe",
            "quorum=",
            "stream=no",
            "prevIndex=",
            "prevIndex=-1",
            "prevIndex=x",
            "waitIndex=1.5",
            "ttl=x",
            "ttl=-1",
            "prevExist=",
            "prevExist=maybe",
            "prevValue=",
            "refresh=x",
            "refresh=true",
            "refresh=true&value=x",
            "refresh=true&value=x&ttl=5",
            "noValueOnSuccess=",
            "wait=true&value=1",
            "value=%zz",
            "value=%",
            "value=a;b",
            "value=1&value=2",
            "=1",
            "value",
            "&&value=1",
            "prevIndex=18446744073709551615&value=1",
            "prevIndex=18446744073709551616",
            "wait=true&prevIndex=x",
            "ttl=x&prevExist=x",
            "dir=false&value=1",
        ];
        let fields = self.random.pick(&fields);
        let key = encode(&self.key());
        match self.random.below(8) {
            0 => Ask::new("PATCH", &format!("/v2/keys{key}")).form(fields),
            1 => Ask::new("DELETE", &format!("/v2/keys{key}?{fields}")),
            2 => Ask::new("PUT", &format!("/v2/keys{key}"))
                .header("content-type", "application/json")
                .form("{\"value\":\"json\"}"),
            3 => Ask::new("OPTIONS", &format!("/v2/keys{key}")),
            4 | 5 => Ask::new("PUT", &format!("/v2/keys{key}?{fields}")),
            // On GET, `wait=true` would wait.
            6 if !fields.contains("wait=true") => {
                Ask::new("GET", &format!("/v2/keys{key}?{fields}"))
            }
            _ => Ask::new("PUT", &format!("/v2/keys{key}")).form(fields),
        }
    }

    fn wait(&mut self) -> Step {
        let key = if self.random.one_in(6) {
            "/".to_owned()
        } else {
            self.key()
        };
        let mut query = "wait=true".to_owned();
        if self.random.one_in(2) {
            query.push_str("&recursive=true");
        }
        if !self.random.one_in(3) {
            let index = match self.random.below(5) {
                0 => self.index + self.random.below(30),
                // About where the history that is kept begins.
                1 => {
                    let by = 985 + self.random.below(30);
                    self.back(by)
                }
                2 => {
                    let by = self.random.below(1400);
                    self.back(by)
                }
                _ => {
                    let by = self.random.below(100);
                    self.back(by)
                }
            };
            query.push_str(&format!("&waitIndex={index}"));
        }
        let ask = Ask::new("GET", &format!("/v2/keys{}?{query}", encode(&key)));
        Step::Wait(ask, key)
    }

    fn back(&self, by: u64) -> u64 {
        self.index - by.min(self.index - self.first)
    }

    /// Takes notice of what a write was answered.
    fn learn(&mut self, answer: &Answer) {
        if let Some(index) = answer.header("x-etcd-index") {
            self.index = self.index.max(index.parse().expect("a number"));
        }
        let Ok(json) = serde_json::from_str::<Value>(&answer.body) else {
            return;
        };
        let node = &json["node"];
        let (Some(key), Some(index)) = (node["key"].as_str(), node["modifiedIndex"].as_u64())
        else {
            return;
        };
        match json["action"].as_str() {
            Some("delete" | "compareAndDelete") => {
                self.known.remove(key);
            }
            Some("set" | "create" | "update" | "compareAndSwap") => {
                self.known.insert(key.to_owned(), index);
            }
            _ => {}
        }
        while self.known.len() > 24 {
            self.known.pop_first();
        }
    }
}

/// Headers that are compared, by value or by shape.
fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| {
            let value = value.to_str().expect("text");
            let shape = match name.as_str() {
                "x-etcd-cluster-id" => {
                    u64::from_str_radix(value, 16).expect("a number in hexadecimal");
                    "an id"
                }
                "x-raft-index" | "x-raft-term" => {
                    assert!(value.parse::<u64>().expect("a number") > 0);
                    "a number"
                }
                _ => value,
            };
            (name.to_string(), shape.to_owned())
        })
        .filter(|(name, _)| name.starts_with("x-") || name == "content-type" || name == "allow")
        .collect();
    all.sort();
    all
}

fn sort(value: &mut Value) {
    if let Some(nodes) = value["nodes"].as_array_mut() {
        nodes.sort_by_key(|node| node["key"].as_str().map(str::to_owned));
        nodes.iter_mut().for_each(sort);
    }
}

fn body(ask: &Ask, answer: &Answer) -> String {
    let listing = answer.body.contains("\"nodes\"");
    if !listing || ask.path.contains("sorted=true") || ask.path.contains("sorted=1") {
        return answer.body.clone();
    }
    let mut json = answer.json();
    sort(&mut json["node"]);
    json.to_string()
}

fn compare(what: &str, ask: &Ask, theirs: &Answer, ours: &Answer) {
    let told = |answer: &Answer| {
        let lines = [
            answer.status.to_string(),
            format!("{:?}", headers(&answer.headers)),
            body(ask, answer),
        ];
        lines.join("\n")
    };
    let (theirs, ours) = (told(theirs), told(ours));
    assert_eq!(
        theirs, ours,
        "{what}: {ask:?}\n(left: etcd, right: the door)"
    );
}

/// What waits were told.
#[derive(Debug, Default)]
struct Told {
    events: u64,
    cleared: u64,
}

impl Told {
    fn count(&mut self, answer: &Answer) {
        if answer.status == 200 {
            self.events += 1;
        } else {
            self.cleared += 1;
        }
    }
}

/// A wait that both have begun.
struct Waiting {
    what: String,
    ask: Ask,
    key: String,
    theirs: tokio::task::JoinHandle<Answer>,
    ours: tokio::task::JoinHandle<Answer>,
}

impl Waiting {
    /// Compares once one of the two has ended. Gives itself back if neither has.
    async fn look(self, told: &mut Told) -> Option<Self> {
        match (self.theirs.is_finished(), self.ours.is_finished()) {
            (false, false) => return Some(self),
            (false, true) => {
                let ours = self.ours.await.expect("an answer");
                if below_a_deleted_directory(&self.key, &ours, None) {
                    self.theirs.abort();
                    return None;
                }
                told.count(&ours);
                let theirs = end(self.theirs, &self.what, &self.ask, "etcd").await;
                compare(&self.what, &self.ask, &theirs, &ours);
            }
            (true, _) => {
                let theirs = self.theirs.await.expect("an answer");
                told.count(&theirs);
                let ours = end(self.ours, &self.what, &self.ask, "the door").await;
                if below_a_deleted_directory(&self.key, &ours, Some(&theirs)) {
                    return None;
                }
                compare(&self.what, &self.ask, &theirs, &ours);
            }
        }
        None
    }
}

async fn end(task: tokio::task::JoinHandle<Answer>, what: &str, ask: &Ask, whose: &str) -> Answer {
    match tokio::time::timeout(CAP, task).await {
        Ok(answer) => answer.expect("an answer"),
        Err(_) => panic!("{what}: only one has ended this wait, not {whose}: {ask:?}"),
    }
}

/// The known difference: the door told of a directory's end, etcd (yet) nothing or what came after.
fn below_a_deleted_directory(key: &str, ours: &Answer, theirs: Option<&Answer>) -> bool {
    if ours.status != 200 || theirs.is_some_and(|theirs| theirs.status != 200) {
        return false;
    }
    let json = ours.json();
    let above = json["node"]["key"].as_str().unwrap_or_default();
    json["action"] == "delete"
        && json["node"]["dir"] == true
        && key.starts_with(&format!("{above}/"))
        && theirs.is_none_or(|theirs| theirs.index() > ours.index())
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_stream_is_answered_as_by_etcd() {
    let options = EtcdOptions {
        v2: true,
        ..EtcdOptions::default()
    };
    let reference = Etcd::start(&options).expect("an etcd with v2");
    let store = Etcd::start(&EtcdOptions::default()).expect("an etcd for the door");
    let kv = EtcdKv::new(&store::etcd::EtcdOptions::new([store.url()])).expect("its options");
    let house = House::over(Arc::new(kv)).await;
    let theirs = Client::new(reference.address());
    let ours = house.client.clone();

    let operations = number("DIFF_OPS", DEFAULT_OPS);
    let seed = number("DIFF_SEED", 1);
    let first = level(&theirs, &ours).await;
    let mut stream = Stream {
        random: Random(seed),
        known: BTreeMap::new(),
        index: first,
        first,
    };
    let mut waiting: Vec<Waiting> = Vec::new();
    let (mut writes, mut errors, mut told) = (0_u64, 0_u64, Told::default());
    for n in 0..operations {
        let what = format!("DIFF_SEED={seed}, operation {n}");
        match stream.step() {
            Step::Ask(ask) => {
                let (a, b) = tokio::join!(theirs.send(ask.clone()), ours.send(ask.clone()));
                compare(&what, &ask, &a, &b);
                let before = stream.index;
                stream.learn(&a);
                writes += u64::from(stream.index > before);
                errors += u64::from(a.status >= 400);
            }
            Step::Wait(ask, key) => {
                let (a, b) = tokio::join!(theirs.begin(ask.clone()), ours.begin(ask.clone()));
                waiting.push(both(what, ask, key, a, b).await);
            }
        }
        if n % ROUND == ROUND - 1 {
            waiting = look_at(&theirs, &ours, waiting, &mut told).await;
            stream.index += 1;
        }
    }
    for wait in waiting {
        wait.theirs.abort();
        wait.ours.abort();
    }
    // The stream is one that finds something out.
    assert!(
        writes * 4 > operations,
        "{writes} of {operations} were writes"
    );
    assert!(
        errors * 8 > operations,
        "{errors} of {operations} were errors"
    );
    assert!(told.events * 60 > operations, "{told:?} in {operations}");
    // Histories end only after a thousand events.
    assert!(operations < DEFAULT_OPS || told.cleared > 3, "{told:?}");
    assert!(KNOWN_DIFFERENCES.iter().all(|(_, why)| !why.is_empty()));
}

async fn both(what: String, ask: Ask, key: String, theirs: Begun, ours: Begun) -> Waiting {
    // An event may be in history: then its body is there already.
    let heads = |begun: &Begun| format!("{} {:?}", begun.status, headers(&begun.headers));
    assert_eq!(heads(&theirs), heads(&ours), "{what}: {ask:?}");
    Waiting {
        what,
        ask,
        key,
        theirs: tokio::spawn(theirs.end()),
        ours: tokio::spawn(ours.end()),
    }
}

/// One event that both wait for, so that all before it have been told; then all waits are looked at.
async fn look_at(
    theirs: &Client,
    ours: &Client,
    waiting: Vec<Waiting>,
    told: &mut Told,
) -> Vec<Waiting> {
    let ask = Ask::new("GET", "/v2/keys/barrier?wait=true");
    let (a, b) = tokio::join!(theirs.begin(ask.clone()), ours.begin(ask.clone()));
    let put = || Ask::new("PUT", "/v2/keys/barrier").form("value=x");
    tokio::join!(theirs.send(put()), ours.send(put()));
    let (a, b) = tokio::join!(a.end(), b.end());
    compare("barrier", &ask, &a, &b);
    let mut left = Vec::new();
    for wait in waiting {
        if let Some(wait) = wait.look(told).await {
            left.push(wait);
        }
    }
    // Too many open waits only cost connections: the oldest are given up.
    for wait in left.drain(..left.len().saturating_sub(40)) {
        wait.theirs.abort();
        wait.ours.abort();
    }
    left
}

/// Writes one key until both are at the same index, which is given.
async fn level(theirs: &Client, ours: &Client) -> u64 {
    let put = || Ask::new("PUT", "/v2/keys/barrier").form("value=start");
    let mut a = theirs.send(put()).await.index();
    let mut b = ours.send(put()).await.index();
    while a != b {
        if a < b {
            a = theirs.send(put()).await.index();
        } else {
            b = ours.send(put()).await.index();
        }
    }
    // The node itself has another history on each side.
    for client in [theirs, ours] {
        client.delete("/v2/keys/barrier").await;
        client.put("/v2/keys/barrier", "value=start").await;
    }
    a + 2
}
