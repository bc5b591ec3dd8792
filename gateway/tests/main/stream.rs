//! A random stream of operations on the v2 keys, the same for the same seed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::client::{Answer, Ask};

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
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// No key that [`short_lived`] writes ends sooner.
pub(crate) const SHORTEST: Duration = Duration::from_millis(1_500);

/// An operation below a directory on keys and directories of which most end after 2 to 5 seconds, directories last.
pub(crate) fn short_lived(random: &mut Random, dir: &str) -> Ask {
    let ttl = random.pick(&["2", "3"]);
    let parent = random.pick(&["", "/d0", "/d1", "/d2"]);
    let file = format!("{dir}{parent}/f{}", random.below(8));
    let value = random.pick(&["1", "2", "3"]);
    let put = |form: &str| Ask::new("PUT", &file).form(form);
    match random.below(20) {
        0..7 => put(&format!("value={value}&ttl={ttl}")),
        7 => put(&format!("value={value}")),
        8 => put(&format!("value={value}&prevExist=true")),
        9 => put(&format!("value={value}&prevExist=true&ttl={ttl}")),
        10 => put(&format!("value={value}&prevExist=false&ttl={ttl}")),
        11 => put(&format!("value={value}&prevValue=1&ttl={ttl}")),
        12 => put(&format!("refresh=true&prevExist=true&ttl={ttl}")),
        13 => put(&format!("refresh=true&ttl={ttl}")),
        14 => put("prevExist=true&ttl=&value=1"),
        15 => Ask::new("DELETE", &file),
        16 => Ask::new("POST", &format!("{dir}{parent}")).form(&format!("value=1&ttl={ttl}")),
        17 => Ask::new("PUT", &format!("{dir}/e{}", random.below(4))).form("dir=true&ttl=5"),
        18 => {
            let parent = random.pick(&["/d0", "/d1", "/d2"]);
            Ask::new("PUT", &format!("{dir}{parent}")).form("dir=true&prevExist=true&ttl=5")
        }
        _ => Ask::new("GET", &format!("{dir}?recursive=true&sorted=true")),
    }
}

fn encode(text: &str) -> String {
    dokkaa_tests::http::escape(text)
}

/// Makes operations; knows a little of what is there, so that some of them hit.
pub(crate) struct Stream {
    random: Random,
    /// Keys written lately, with their modified index.
    known: BTreeMap<String, u64>,
    /// The newest index.
    pub(crate) index: u64,
    first: u64,
}

/// One operation.
pub(crate) enum Step {
    Ask(Ask),
    Wait(Ask, String),
}

impl Stream {
    /// From this index on, which both stores are at.
    pub(crate) fn new(seed: u64, first: u64) -> Self {
        Self {
            random: Random::new(seed),
            known: BTreeMap::new(),
            index: first,
            first,
        }
    }

    fn key(&mut self) -> String {
        let known = self.known.len() as u64;
        if known > 0 && self.random.one_in(2) {
            let at = self.random.below(known) as usize;
            if let Some(key) = self.known.keys().nth(at) {
                return key.clone();
            }
        }
        let depth = 1 + self.random.below(4);
        let names: Vec<&str> = (0..depth).map(|_| self.random.pick(&NAMES)).collect();
        format!("/{}", names.join("/"))
    }

    fn value(&mut self) -> &'static str {
        self.random.pick(&VALUES)
    }

    pub(crate) fn step(&mut self) -> Step {
        match self.random.below(100) {
            0..27 => Step::Ask(self.get()),
            27..51 => Step::Ask(self.put(&[])),
            51..54 => Step::Ask(self.post()),
            54..56 => Step::Ask(self.refresh()),
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
        match self.random.below(20) {
            0 => fields.push(("ttl".to_owned(), String::new())),
            1..4 => fields.push(self.ttl()),
            _ => {}
        }
        if self.random.one_in(10) {
            fields.push(("dir".to_owned(), "true".to_owned()));
        }
        let key = self.key_or_root(60);
        self.place("PUT", &key, &fields)
    }

    fn key_or_root(&mut self, one_in: u64) -> String {
        if self.random.one_in(one_in) {
            "/".to_owned()
        } else {
            self.key()
        }
    }

    /// Nothing ends while the stream is on.
    fn ttl(&mut self) -> (String, String) {
        let ttl = self.random.pick(&["1000", "86400", "1000000000"]);
        ("ttl".to_owned(), ttl.to_owned())
    }

    fn post(&mut self) -> Ask {
        let mut fields = vec![("value".to_owned(), self.value().to_owned())];
        match self.random.below(6) {
            0 => fields.push(("dir".to_owned(), "true".to_owned())),
            1 => fields.push(self.ttl()),
            2 => fields.push(("prevExist".to_owned(), "true".to_owned())),
            3 => fields.push(("noValueOnSuccess".to_owned(), "true".to_owned())),
            _ => {}
        }
        let key = self.key_or_root(20);
        self.place("POST", &key, &fields)
    }

    fn refresh(&mut self) -> Ask {
        let mut fields = vec![("refresh".to_owned(), "true".to_owned()), self.ttl()];
        match self.random.below(8) {
            0..4 => fields.push(("prevExist".to_owned(), "true".to_owned())),
            4 => fields.push(("prevExist".to_owned(), "false".to_owned())),
            5 => fields.push(("prevIndex".to_owned(), self.index.to_string())),
            6 => fields.push(("dir".to_owned(), "true".to_owned())),
            _ => {}
        }
        let key = self.key_or_root(60);
        self.place("PUT", &key, &fields)
    }

    fn compare(&mut self, method: &str) -> Ask {
        let key = self.key_or_root(40);
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
            if self.random.one_in(6) {
                fields.push(self.ttl());
            }
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
        let key = self.key_or_root(60);
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
            4 => Ask::new("POST", &format!("/v2/keys{key}?{fields}")),
            5 => Ask::new("PUT", &format!("/v2/keys{key}?{fields}")),
            // On GET, `wait=true` would wait.
            6 if !fields.contains("wait=true") => {
                Ask::new("GET", &format!("/v2/keys{key}?{fields}"))
            }
            _ => Ask::new("PUT", &format!("/v2/keys{key}")).form(fields),
        }
    }

    fn wait(&mut self) -> Step {
        let key = self.key_or_root(6);
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
            query = format!("{query}&waitIndex={index}");
        }
        let ask = Ask::new("GET", &format!("/v2/keys{}?{query}", encode(&key)));
        Step::Wait(ask, key)
    }

    fn back(&self, by: u64) -> u64 {
        self.index - by.min(self.index - self.first)
    }

    /// Takes notice of what a write was answered.
    pub(crate) fn learn(&mut self, answer: &Answer) {
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
