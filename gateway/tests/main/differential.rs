//! One random stream of operations to a real etcd that speaks v2 and to the
//! API over a real etcd, compared answer by answer.
//!
//! `DIFF_OPS`, `DIFF_ROUNDS` and `DIFF_SEED` choose how many and which. Both stores are
//! brought to the same index first, so answers are equal to the byte, except
//! where [`KNOWN_DIFFERENCES`] says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use dokkaa_tests::etcd::{Etcd, EtcdOptions};
use dokkaa_tests::release::EtcdRelease;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use serde_json::Value;
use store::etcd::EtcdKv;

use crate::client::{Answer, Ask, Begun, Client};
use crate::harness::TestServer;
use crate::stream::{self, Random, Step, Stream};

/// Where dokkaa differs on purpose, and how the comparison takes that into account.
const KNOWN_DIFFERENCES: [(&str, &str); 6] = [
    (
        "CORS headers",
        "etcd sends them with every answer; dokkaa lets no web page in, so it sends none",
    ),
    (
        "X-Etcd-Cluster-Id, X-Raft-Index, X-Raft-Term",
        "two clusters have two ids and two logs: compared by presence and shape",
    ),
    (
        "order of an unsorted listing",
        "etcd leaves it open, dokkaa always sorts: compared after sorting unless sorted=true",
    ),
    (
        "a wait below a deleted directory, at a key that is not there",
        "etcd wakes it from history but not live; dokkaa wakes it both ways",
    ),
    (
        "a double slash in the path",
        "etcd redirects and curl loses the body; dokkaa cleans in place: not in the stream",
    ),
    (
        "expiration, ttl",
        "two clocks are read at two moments: compared within seconds",
    ),
];

/// Some twenty seconds' worth.
const DEFAULT_OPS: u64 = 20_000;

/// In so many, history ends for some waits.
const MANY_OPS: u64 = 5_000;

/// Rounds of keys that end.
const DEFAULT_ROUNDS: u64 = 4;

/// Operations of one such round; fewer on a slow machine, where the first keys would end before the last is written.
const ROUND_OPS: u64 = 100;
const ROUND_TIME: Duration = Duration::from_secs(1);

/// etcd ends keys each 500 ms, dokkaa at their time.
const SWEEP: Duration = Duration::from_millis(500);

/// No answer takes longer, unless something is wrong.
const CAP: Duration = Duration::from_secs(30);

/// Waits are looked at after so many operations.
const ROUND: u64 = 40;

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
    let (theirs, their_times) = without_times(&told(theirs));
    let (ours, our_times) = without_times(&told(ours));
    assert_eq!(theirs, ours, "{what}: {ask:?}\n(left: etcd, right: dokkaa)");
    assert_eq!(their_times.len(), our_times.len(), "{what}: {ask:?}");
    for (theirs, ours) in their_times.iter().zip(&our_times) {
        let apart = (theirs - ours).abs();
        assert!(apart < 5.0, "{what}: {ask:?}: {theirs} and {ours}");
    }
}

/// The text with its expirations and TTLs taken out, in seconds.
fn without_times(text: &str) -> (String, Vec<f64>) {
    let (mut left, mut times) = (String::new(), Vec::new());
    let mut rest = text;
    let names = ["\"expiration\":\"", "\"ttl\":"];
    while let Some((at, name)) = names
        .iter()
        .filter_map(|name| Some((rest.find(name)?, name)))
        .min()
    {
        let (before, value) = rest.split_at(at + name.len());
        let (value, after) = value.split_at(value.find(['"', ',', '}']).expect("an end"));
        left.push_str(before);
        times.push(value.parse().unwrap_or_else(|_| {
            let time: jiff::Timestamp = value.parse().expect("a time");
            assert_eq!(time.to_string(), value, "as Go writes it");
            time.as_nanosecond() as f64 / 1e9
        }));
        rest = after;
    }
    left.push_str(rest);
    (left, times)
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
                let ours = end(self.ours, &self.what, &self.ask, "dokkaa").await;
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
        Err(error) => panic!("{what}: {error}: only {whose} does not end this wait: {ask:?}"),
    }
}

/// The known difference: dokkaa told of a directory's end, etcd (yet) nothing or what came after.
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

/// etcd with a v2 API of its own.
fn with_v2() -> Etcd {
    let options = EtcdOptions {
        v2: true,
        ..EtcdOptions::default()
    };
    Etcd::start(&options).expect("an etcd with v2")
}

/// etcd's own API, and ours over another etcd.
struct Both {
    theirs: Client,
    ours: Client,
    _running: (Etcd, Etcd, TestServer),
}

impl Both {
    async fn start(options: &EtcdOptions) -> Self {
        let reference = with_v2();
        let store = Etcd::start(options).expect("an etcd for dokkaa");
        let kv = EtcdKv::new(&store::etcd::EtcdOptions::new([store.url()])).expect("its options");
        let server = TestServer::over(Arc::new(kv)).await;
        Self {
            theirs: Client::new(reference.address()),
            ours: server.client.clone(),
            _running: (reference, store, server),
        }
    }
}

/// Reads what was asked for, and more, so often that answers are kept and the next GETs are given them.
async fn read_often(ours: &Client, asked: &Ask) {
    let key = asked.path.split('?').next().unwrap_or_default();
    let gets = [key, "/v2/keys/barrier", "/v2/keys/barrier", key].map(|path| ours.get(path));
    join_all(gets).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_stream_is_answered_as_by_etcd() {
    let Both { theirs, ours, .. } = &Both::start(&EtcdOptions::default()).await;

    let operations = number("DIFF_OPS", DEFAULT_OPS);
    let seed = number("DIFF_SEED", 1);
    let first = level(theirs, ours).await;
    let mut stream = Stream::new(seed, first);
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
                read_often(ours, &ask).await;
            }
            Step::Wait(ask, key) => {
                let (a, b) = tokio::join!(theirs.begin(ask.clone()), ours.begin(ask.clone()));
                waiting.push(both(what, ask, key, a, b));
            }
        }
        if n % ROUND == ROUND - 1 {
            waiting = look_at(theirs, ours, waiting, &mut told).await;
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
    assert!(operations < MANY_OPS || told.cleared > 3, "{told:?}");
    assert!(KNOWN_DIFFERENCES.iter().all(|(_, why)| !why.is_empty()));
}

/// A stream's lines, until one has this text. etcd tells a stream at a deleted
/// directory of that twice.
async fn lines_until(mut stream: Begun, last: &str) -> Vec<String> {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(last) {
        let frame = tokio::time::timeout(CAP, stream.body.frame()).await;
        let frame = frame.expect("a line in time").expect("a line");
        text.extend(frame.expect("a line").into_data().expect("data"));
    }
    let text = String::from_utf8(text).expect("text");
    let mut lines: Vec<String> = text.lines().map(|line| without_times(line).0).collect();
    lines.dedup();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_told_as_by_etcd() {
    // A newer one: what is answered does not depend on it.
    let newer = EtcdOptions {
        release: Some(EtcdRelease::Etcd35),
        ..EtcdOptions::default()
    };
    let Both { theirs, ours, .. } = &Both::start(&newer).await;
    let first = level(theirs, ours).await;
    let mut stream = Stream::new(number("DIFF_SEED", 1), first);
    let mut streams = Vec::new();
    for query in [
        "/?recursive=true",
        "/a?recursive=true",
        "/a",
        "/b/c",
        "/_h?recursive=true",
    ] {
        let sign = if query.contains('?') { "&" } else { "?" };
        let path = format!("/v2/keys{query}{sign}wait=true&stream=true");
        for client in [theirs, ours] {
            let begun = client.begin(Ask::new("GET", &path)).await;
            assert_eq!(begun.status, 200);
            streams.push(tokio::spawn(lines_until(begun, "the last")));
        }
    }
    for _ in 0..number("DIFF_OPS", 600) {
        if let Step::Ask(ask) = stream.step() {
            let (a, _) = tokio::join!(theirs.send(ask.clone()), ours.send(ask.clone()));
            stream.learn(&a);
        }
    }
    for key in ["/a", "/b", "/_h"] {
        let delete = || Ask::new("DELETE", &format!("/v2/keys{key}?recursive=true"));
        tokio::join!(theirs.send(delete()), ours.send(delete()));
    }
    for key in ["/a", "/b/c", "/_h", "/d"] {
        let put = || Ask::new("PUT", &format!("/v2/keys{key}")).form("value=the last");
        tokio::join!(theirs.send(put()), ours.send(put()));
    }
    let told = futures_util::future::join_all(streams).await;
    let told: Vec<Vec<String>> = told
        .into_iter()
        .map(|lines| lines.expect("lines"))
        .collect();
    // The known difference of a deleted directory, for the stream that is below one.
    let ends_b =
        |line: &str| line.starts_with(r#"{"action":"delete","node":{"key":"/b","dir":true"#);
    for pair in told.chunks(2) {
        let (theirs, mut ours) = (&pair[0], pair[1].clone());
        ours.retain(|line| theirs.contains(line) || !ends_b(line));
        assert_eq!(*theirs, ours, "(left: etcd, right: dokkaa)");
    }
    assert!(told[0].len() > 100, "{}", told[0].len());
}

/// Each line of a stream with when it came, until one has this text.
async fn timed_lines_until(mut stream: Begun, last: &str) -> Vec<(String, Instant)> {
    let mut lines: Vec<(String, Instant)> = Vec::new();
    while lines.last().is_none_or(|(line, _)| !line.contains(last)) {
        let frame = tokio::time::timeout(CAP, stream.body.frame()).await;
        let frame = frame.expect("a line in time").expect("a line");
        let data = frame.expect("a line").into_data().expect("data");
        let text = String::from_utf8(data.to_vec()).expect("text");
        lines.extend(text.lines().map(|line| (line.to_owned(), Instant::now())));
    }
    lines
}

/// What a stream was told of ends, in order of key: of two that are due at once, either may be first.
fn ends(lines: &[(String, Instant)]) -> (Vec<(String, Instant)>, Vec<u64>) {
    let (mut ends, mut indexes) = (Vec::new(), Vec::new());
    for (line, at) in lines {
        if line.starts_with(r#"{"action":"expire""#) {
            let mut json: Value = serde_json::from_str(line).expect("JSON");
            let index = json["node"]["modifiedIndex"].take();
            indexes.push(index.as_u64().expect("an index"));
            ends.push((without_times(&json.to_string()).0, *at));
        }
    }
    ends.sort();
    (ends, indexes)
}

/// Random keys and directories with short TTLs. Nothing is written while they end, so that indexes stay the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_keys_end_when_and_as_they_do_in_etcd() {
    let Both { theirs, ours, .. } = &Both::start(&EtcdOptions::default()).await;
    level(theirs, ours).await;
    let seed = number("DIFF_SEED", 1);
    let mut random = Random::new(seed);
    let (mut ended, mut late, mut rounds) = (0, 0, 0);
    for round in 0..number("DIFF_ROUNDS", DEFAULT_ROUNDS) {
        let dir = format!("/v2/keys/t{round}");
        let watch = Ask::new(
            "GET",
            &format!("{dir}?wait=true&stream=true&recursive=true"),
        );
        let mut streams = Vec::new();
        for client in [theirs, ours] {
            let begun = client.begin(watch.clone()).await;
            streams.push(tokio::spawn(timed_lines_until(begun, "\"the last\"")));
        }
        let begin = Instant::now();
        let mut answered = Vec::new();
        for n in 0..ROUND_OPS {
            if begin.elapsed() > ROUND_TIME {
                break;
            }
            let what = format!("DIFF_SEED={seed}, round {round}, operation {n}");
            let ask = stream::short_lived(&mut random, &dir);
            let (a, b) = tokio::join!(theirs.send(ask.clone()), ours.send(ask.clone()));
            answered.push((what, ask, a, b));
        }
        // On a machine that was slower, some may have ended between: each where it was.
        assert!(begin.elapsed() < CAP, "too slow to compare");
        let in_time = begin.elapsed() < stream::SHORTEST;
        let left = Ask::new("GET", &format!("{dir}?recursive=true&sorted=true"));
        let answers = loop {
            let (a, b) = tokio::join!(theirs.send(left.clone()), ours.send(left.clone()));
            if !a.body.contains("expiration") && !b.body.contains("expiration") {
                break (a, b);
            }
            assert!(begin.elapsed() < CAP, "{}\n{}", a.body, b.body);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let put = || Ask::new("PUT", &format!("{dir}/z")).form("value=the last");
        tokio::join!(theirs.send(put()), ours.send(put()));
        let told = futures_util::future::join_all(streams).await;
        let told: Vec<_> = told
            .into_iter()
            .map(|lines| ends(&lines.expect("lines")))
            .collect();
        if !in_time {
            level(theirs, ours).await;
            continue;
        }
        rounds += 1;
        for (what, ask, a, b) in &answered {
            compare(what, ask, a, b);
        }
        let what = format!("DIFF_SEED={seed}, round {round}");
        compare(&what, &left, &answers.0, &answers.1);
        let ((theirs, their_indexes), (ours, our_indexes)) = (&told[0], &told[1]);
        let texts = |lines: &[(String, Instant)]| -> Vec<String> {
            lines.iter().map(|(line, _)| line.clone()).collect()
        };
        assert_eq!(
            texts(theirs),
            texts(ours),
            "{what}: (left: etcd, right: dokkaa)"
        );
        assert_eq!(their_indexes, our_indexes, "{what}");
        for ((line, theirs), (_, ours)) in theirs.iter().zip(ours) {
            let apart = theirs.max(ours).duration_since(*theirs.min(ours));
            ended += 1;
            // etcd's own lateness is anything up to a sweep; the rest is for both to tell.
            late += u32::from(apart > SWEEP + SWEEP / 2);
            assert!(apart < 3 * SWEEP, "{what}: {apart:?}: {line}");
        }
    }
    assert!(rounds > 0, "too slow to compare");
    assert!(ended >= 4 * rounds, "{ended} in {rounds} rounds");
    // The rest is for a machine that is busy at that moment.
    assert!(late * 10 <= ended, "{late} of {ended} were told too late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_end_when_and_as_they_do_in_etcd() {
    let Both { theirs, ours, .. } = &Both::start(&EtcdOptions::default()).await;
    level(theirs, ours).await;
    let watch = Ask::new("GET", "/v2/keys/t?wait=true&stream=true&recursive=true");
    let mut streams = Vec::new();
    for client in [theirs, ours] {
        let begun = client.begin(watch.clone()).await;
        streams.push(tokio::spawn(timed_lines_until(
            begun,
            "\"value\":\"the last",
        )));
    }
    for (method, key, form) in [
        ("PUT", "/t/file", "value=1&ttl=60"),
        ("PUT", "/t/file", "value=2&ttl=1&prevExist=true"),
        ("PUT", "/t/dir", "dir=true&ttl=2"),
        ("PUT", "/t/dir/a/b", "value=3&ttl=60"),
        ("POST", "/t", "value=4&ttl=3"),
        ("PUT", "/t/stays", "value=5&ttl=1"),
        ("PUT", "/t/stays", "value=6"),
        ("PUT", "/t/fresh", "value=7&ttl=1"),
        ("PUT", "/t/fresh", "ttl=4&refresh=true&prevExist=true"),
        ("PUT", "/t/last", "value=8&ttl=5"),
    ] {
        let ask = Ask::new(method, &format!("/v2/keys{key}")).form(form);
        let (a, b) = tokio::join!(theirs.send(ask.clone()), ours.send(ask.clone()));
        compare("before the end", &ask, &a, &b);
    }
    // Until the last has ended.
    let ask = Ask::new("GET", "/v2/keys/t/last?wait=true");
    let (a, b) = tokio::join!(theirs.send(ask.clone()), ours.send(ask.clone()));
    compare("the end", &ask, &a, &b);
    let left = Ask::new("GET", "/v2/keys/t?recursive=true&sorted=true");
    let (a, b) = tokio::join!(theirs.send(left.clone()), ours.send(left.clone()));
    compare("what is left", &left, &a, &b);
    assert_eq!(a.json()["node"]["nodes"][0]["key"], "/t/stays");
    let put = || Ask::new("PUT", "/v2/keys/t/last").form("value=the last");
    tokio::join!(theirs.send(put()), ours.send(put()));

    let told = futures_util::future::join_all(streams).await;
    let told: Vec<_> = told
        .into_iter()
        .map(|lines| lines.expect("lines"))
        .collect();
    let (theirs, ours) = (&told[0], &told[1]);
    let texts = |lines: &[(String, Instant)]| -> Vec<String> {
        lines
            .iter()
            .map(|(line, _)| without_times(line).0)
            .collect()
    };
    assert_eq!(texts(theirs), texts(ours), "(left: etcd, right: dokkaa)");
    let ends = |line: &str| line.starts_with(r#"{"action":"expire""#);
    let mut ended = 0;
    for ((line, theirs), (_, ours)) in theirs.iter().zip(ours) {
        if ends(line) {
            ended += 1;
            // etcd looks each 500 ms; the rest is for a busy machine.
            let apart = theirs.max(ours).duration_since(*theirs.min(ours));
            assert!(apart < Duration::from_millis(1_500), "{apart:?}: {line}");
        }
    }
    assert_eq!(ended, 5);
}

#[tokio::test]
async fn what_clients_ask_beside_keys_has_etcds_shape() {
    let reference = with_v2();
    let (server, _) = TestServer::in_memory().await;
    let theirs = Client::new(reference.address());
    for path in [
        "/version",
        "/health",
        "/v2/members",
        "/v2/members/leader",
        "/v2/stats/self",
        "/v2/stats/store",
        "/v2/stats/leader",
        "/v2/auth/enable",
    ] {
        let (a, b) = tokio::join!(theirs.get(path), server.client.get(path));
        assert_eq!(a.status, b.status, "{path}");
        assert_eq!(names_in(&a.json()), names_in(&b.json()), "{path}");
        assert_eq!(a.body.ends_with('\n'), b.body.ends_with('\n'), "{path}");
        let id = |answer: &Answer| answer.header("x-etcd-cluster-id").is_some();
        assert_eq!(id(&a), id(&b), "{path}");
    }
    for (method, path) in [
        ("GET", "/v2/machines"),
        ("PUT", "/v2/machines"),
        ("GET", "/v2/machinesx"),
        ("GET", "/"),
    ] {
        let ask = || Ask::new(method, path);
        let (a, b) = tokio::join!(theirs.send(ask()), server.client.send(ask()));
        assert_eq!(a.status, b.status, "{path}");
        assert_eq!(headers(&a.headers), headers(&b.headers), "{path}");
    }
}

/// The names and types of all fields, at every level. Times are told from other text, and durations.
fn names_in(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) if text.parse::<jiff::Timestamp>().is_ok() => vec!["time".to_owned()],
        Value::String(text) if text.parse::<jiff::SignedDuration>().is_ok() => {
            vec!["duration".to_owned()]
        }
        Value::String(_) => vec!["text".to_owned()],
        Value::Number(_) => vec!["number".to_owned()],
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| {
                let below = names_in(value);
                std::iter::once(name.clone()).chain(
                    below
                        .into_iter()
                        .map(move |below| format!("{name}.{below}")),
                )
            })
            .collect(),
        Value::Array(values) => {
            // The members have no peer URLs.
            let first = values.first().filter(|first| first.is_object());
            first.map(names_in).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

fn both(what: String, ask: Ask, key: String, theirs: Begun, ours: Begun) -> Waiting {
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
