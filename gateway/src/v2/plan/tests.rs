use axum::http::Method;
use store::memory::MemEtcd;

use super::super::form::Form;
use super::super::request::{Operation, parse};
use super::*;
use crate::v2::lookup::read;

const LEASE: i64 = 7;

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().expect("a time")
}

fn path(key: &str) -> KeyPath {
    KeyPath::new(key).expect("a key")
}

fn look(etcd: &mut MemEtcd, key: &KeyPath) -> Lookup {
    let reply = etcd.txn(&Txn::new(Vec::new(), read(key, true)));
    Lookup::new(key, reply.expect("a read"))
}

fn planned(etcd: &mut MemEtcd, method: &Method, key: &str, query: &str) -> Planned {
    let form = Form::parse(None, Some(query)).expect("a form");
    let Ok(Operation::Write(write)) = parse(method, path(key), &form) else {
        panic!("{query} is no write");
    };
    let seen = look(etcd, &write.key);
    plan(&write, &seen, now()).unwrap_or_else(|error| panic!("{query}: {error}"))
}

fn put(etcd: &mut MemEtcd, key: &str, query: &str) -> Planned {
    let planned = planned(etcd, &Method::PUT, key, query);
    let (txn, _) = planned.request(Uuid::nil(), 0);
    assert!(etcd.txn(&txn).expect("a write").succeeded);
    planned
}

/// What a transaction puts, with leases.
fn puts(planned: &Planned) -> Vec<(String, String, i64)> {
    let (txn, _) = planned.request(Uuid::nil(), LEASE);
    let put = |op: Op| match op {
        Op::Put { key, value, lease } => {
            let value = String::from_utf8(value).expect("text");
            (key != OP_KEY).then_some((key, value, lease))
        }
        _ => None,
    };
    txn.then.into_iter().filter_map(put).collect()
}

fn deletes(planned: &Planned) -> Vec<String> {
    let delete = |op: &Op| match op {
        Op::Delete(keys) => Some(String::from_utf8_lossy(&keys.start).into_owned()),
        _ => None,
    };
    planned.txn.then.iter().filter_map(delete).collect()
}

fn owned(puts: &[(&str, &str, i64)]) -> Vec<(String, String, i64)> {
    let own =
        |(key, value, lease): &(&str, &str, i64)| ((*key).to_owned(), (*value).to_owned(), *lease);
    puts.iter().map(own).collect()
}

#[test]
fn a_file_with_a_ttl_is_on_the_lease_and_its_directories_are_not() {
    let mut etcd = MemEtcd::new();
    let planned = planned(&mut etcd, &Method::PUT, "/d/a", "value=1&ttl=5");
    assert!(planned.needs_lease());
    assert_eq!(
        puts(&planned),
        owned(&[
            ("/d/a", "1", LEASE),
            (
                "/v2meta/d/a",
                r#"{"expires":"2026-01-02T03:04:10Z"}"#,
                LEASE
            ),
            ("/v2meta/d", r#"{"dir":true}"#, 0),
        ])
    );
}

#[test]
fn a_directory_with_a_ttl_is_on_none_and_is_noted_for_all() {
    let mut etcd = MemEtcd::new();
    let made = put(&mut etcd, "/d", "dir=true&ttl=5");
    assert!(made.ends() && !made.needs_lease());
    assert_eq!(
        puts(&made),
        owned(&[
            (
                "/v2meta/d",
                r#"{"dir":true,"expires":"2026-01-02T03:04:10Z"}"#,
                0
            ),
            (
                "/v2meta//ttl/d",
                r#"{"expiration":"2026-01-02T03:04:10Z","ttl":5}"#,
                0
            ),
        ])
    );
    let index = etcd.revision();
    let stays = put(&mut etcd, "/d", "prevExist=true");
    let side = format!(r#"{{"created":{index},"dir":true}}"#);
    assert_eq!(puts(&stays), owned(&[("/v2meta/d", side.as_str(), 0)]));
    assert_eq!(deletes(&stays), ["/v2meta//ttl/d"]);
    // Nothing to change: only the event.
    let again = put(&mut etcd, "/d", "prevExist=true");
    assert_eq!((puts(&again), deletes(&again)), (Vec::new(), Vec::new()));
}

#[test]
fn a_plain_write_takes_what_was_said_of_the_key_away() {
    let mut etcd = MemEtcd::new();
    put(&mut etcd, "/a", "value=1&ttl=5");
    let set = planned(&mut etcd, &Method::PUT, "/a", "value=2");
    assert_eq!(puts(&set), owned(&[("/a", "2", 0)]));
    assert_eq!(deletes(&set), ["/v2meta/a"]);
    assert!(!set.ends());
    let dir = planned(&mut etcd, &Method::PUT, "/a", "dir=true");
    assert_eq!(puts(&dir), owned(&[("/v2meta/a", r#"{"dir":true}"#, 0)]));
    assert_eq!(deletes(&dir), ["/a"]);
}

#[test]
fn a_lease_is_given_back_with_the_file_that_it_was_made_for() {
    let mut etcd = MemEtcd::new();
    let made = planned(&mut etcd, &Method::PUT, "/a", "value=1&ttl=5");
    assert_eq!(made.former_lease, None);
    let (lease, _) = etcd.lease_grant(std::time::Duration::from_secs(7));
    let (txn, _) = made.request(Uuid::nil(), lease);
    assert!(etcd.txn(&txn).expect("a write").succeeded);
    for query in ["value=2", "value=2&ttl=9", "dir=true"] {
        let set = planned(&mut etcd, &Method::PUT, "/a", query);
        assert_eq!(set.former_lease, Some(lease), "{query}");
    }
    let delete = planned(&mut etcd, &Method::DELETE, "/a", "");
    assert_eq!(delete.former_lease, Some(lease));
    // A key that v3 has put below makes a directory of it, which a POST leaves as it is.
    etcd.txn(&Txn::new(Vec::new(), vec![Op::put("/a/b", "1")]))
        .expect("put");
    for (method, query) in [(Method::POST, "value=1"), (Method::PUT, "prevExist=true")] {
        assert_eq!(
            planned(&mut etcd, &method, "/a", query).former_lease,
            None,
            "{query}"
        );
    }
}

#[test]
fn a_posted_key_is_named_by_the_next_revision() {
    let mut etcd = MemEtcd::new();
    put(&mut etcd, "/other", "value=1");
    let next = etcd.revision() + 1;
    let posted = planned(&mut etcd, &Method::POST, "/q", "value=1");
    assert_eq!(posted.key, path(&format!("/q/{next:020}")));
    // Another host's key comes first: what was planned would sort before it.
    let others = planned(&mut etcd, &Method::POST, "/q", "value=2");
    assert!(
        etcd.txn(&others.request(Uuid::nil(), 0).0)
            .expect("a write")
            .succeeded
    );
    assert!(
        !etcd
            .txn(&posted.request(Uuid::nil(), 0).0)
            .expect("a write")
            .succeeded
    );
}

#[test]
fn an_apps_directories_have_no_side_keys() {
    let mut etcd = MemEtcd::new();
    let manifest = put(&mut etcd, "/apps/a/c/manifest", "value={}");
    let own = [
        ("/apps/a/c/manifest", "{}", 0),
        ("/v2meta/apps", r#"{"dir":true}"#, 0),
    ];
    assert_eq!(puts(&manifest), owned(&own));
}

#[test]
fn only_what_is_as_it_was_ends() {
    let mut etcd = MemEtcd::new();
    let ends = |etcd: &mut MemEtcd, key: &str, modified| {
        expire(&look(etcd, &path(key)), modified, now()).map(|planned| planned.event(0).action)
    };
    for (key, query) in [("/a", "value=1&ttl=5"), ("/d", "dir=true&ttl=5")] {
        put(&mut etcd, key, query);
        let modified = etcd.revision();
        assert_eq!(
            ends(&mut etcd, key, modified),
            Some(Action::Expire),
            "{key}"
        );
        assert_eq!(ends(&mut etcd, key, modified - 1), None, "{key}");
        put(&mut etcd, key, "prevExist=true&refresh=true&ttl=9");
        let refreshed = etcd.revision();
        assert_eq!(ends(&mut etcd, key, modified), None, "{key}");
        assert_eq!(
            ends(&mut etcd, key, refreshed),
            Some(Action::Expire),
            "{key}"
        );
        put(&mut etcd, key, "prevExist=true");
        let stays = etcd.revision();
        assert_eq!(ends(&mut etcd, key, stays), None, "{key}");
    }
    // v3 knows of no TTL.
    put(&mut etcd, "/b", "value=1&ttl=5");
    etcd.txn(&Txn::new(Vec::new(), vec![Op::put("/b", "2")]))
        .expect("put");
    let modified = etcd.revision();
    assert_eq!(ends(&mut etcd, "/b", modified), None);
}
