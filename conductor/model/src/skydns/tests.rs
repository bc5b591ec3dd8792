//! Keys and values as others write them.

use uuid::Uuid;

use super::*;

fn table(records: &[(&str, &str)]) -> Records {
    let mut table = Records::default();
    for (name, value) in records {
        let key = format!("/skydns/local/skydns/{name}");
        table.put(&key, value.as_bytes()).expect("record");
    }
    table
}

/// The names of what is found, below the domain.
fn below(table: &Records, labels: &str) -> Vec<String> {
    let labels: Vec<&str> = ["local", "skydns"]
        .into_iter()
        .chain(labels.split_terminator('/'))
        .collect();
    let found = table.below(&labels, 100);
    let names = found.iter().map(|(labels, _)| labels[2..].join("/"));
    names.collect()
}

fn parsed(value: &str) -> Result<Record, RecordError> {
    parse::parse(value.as_bytes()).map(|record| record.expect("another's"))
}

#[test]
fn a_record_is_parsed_as_others_write_it() {
    let whole = parsed(
        r#"{"host":"10.0.0.9","port":8080,"priority":20,"weight":50,"text":"hello","ttl":60,
            "group":"g1","targetstrip":1,"mail":true,"creationDate":"2019-01-01T00:00:00Z"}"#,
    );
    let record = Record {
        host: Some(Target::Addr([10, 0, 0, 9].into())),
        port: 8080,
        priority: 20,
        weight: 50,
        text: "hello".to_owned(),
        ttl: Some(60),
        group: "g1".to_owned(),
        target_strip: 1,
        mail: true,
    };
    assert_eq!(whole, Ok(record));
    let lenient = parsed(r#"{"Host": "Db.Example.COM.", "Port": "80", "ttl": null}"#);
    let record = lenient.expect("record");
    assert_eq!(record.host, Some(Target::Name("db.example.com".to_owned())));
    assert_eq!((record.port, record.priority, record.ttl), (80, 10, None));
    let six = parsed(r#"{"host":"fd00::1"}"#).expect("record");
    assert!(matches!(six.host, Some(Target::Addr(addr)) if addr.is_ipv6()));
    assert_eq!(parsed(r#"{"text":"only"}"#).expect("record").host, None);
}

fn written(records: &Records, cluster: Uuid, most: usize) -> (Vec<u8>, usize) {
    let mut file = Vec::new();
    let left_out = records.write(cluster, most, &mut file).expect("written");
    (file, left_out)
}

fn names(records: &Records) -> Vec<String> {
    below(records, "")
}

#[test]
fn what_is_saved_reads_back_as_it_was() {
    let text = "t\u{e4}xt \"".repeat(400);
    let text = serde_json::json!({ "text": text }).to_string();
    let table = table(&[
        (
            "a/b",
            r#"{"host":"Db.Example.COM.","port":"80","ttl":60,"group":"g","mail":true}"#,
        ),
        (
            "a/c",
            r#"{"host":"fd00::1","priority":7,"weight":3,"targetstrip":2}"#,
        ),
        ("x~y", r#"{"host":"10.0.0.9"}"#),
        // The longest value there is gets longer.
        ("z", &text[..]),
    ]);
    assert!(!table.is_saved());
    let cluster = Uuid::from_u128(1);
    let (file, left_out) = written(&table, cluster, usize::MAX);
    assert_eq!(left_out, 0);
    let read = |cluster, file: &[u8]| Records::read(cluster, &mut &*file);
    let again = read(cluster, &file).expect("reads").expect("whole");
    assert!(again.is_saved());
    assert_eq!(again.table, table.table);
    let of_another = read(Uuid::from_u128(2), &file).expect("reads");
    assert!(of_another.is_none());
    for length in 0..file.len() - 1 {
        assert!(read(cluster, &file[..length]).is_err(), "{length}");
    }
}

#[test]
fn so_many_octets_are_saved_and_no_more() {
    let value = r#"{"host":"10.0.0.9"}"#;
    let table = table(&[("a", value), ("b", value), ("c", value)]);
    let cluster = Uuid::from_u128(1);
    let whole = written(&table, cluster, usize::MAX).0;
    let head = whole
        .iter()
        .position(|octet| *octet == b'\n')
        .expect("a line")
        + 1;
    let line = (whole.len() - head) / 3;
    for (most, kept) in [
        (0, 0),
        (line - 1, 0),
        (line, 1),
        (3 * line - 1, 2),
        (3 * line, 3),
    ] {
        let (file, left_out) = written(&table, cluster, most);
        let read = Records::read(cluster, &mut &*file)
            .expect("reads")
            .expect("whole");
        assert_eq!((read.len(), left_out), (kept, 3 - kept), "{most}");
        assert_eq!(names(&read), names(&table)[..kept]);
    }
}

#[test]
fn what_is_no_record_says_why() {
    for (value, why) in [
        ("", "it is not a JSON object"),
        ("[1]", "it is not a JSON object"),
        ("{}", "it has neither `host` nor `text`"),
        (r#"{"port":80}"#, "it has neither `host` nor `text`"),
        (
            r#"{"host":"a b"}"#,
            "`host` is not an address or a domain name",
        ),
        (
            r#"{"host":"a..b"}"#,
            "`host` is not an address or a domain name",
        ),
        (r#"{"host":1}"#, "`host` is not a string"),
        (
            r#"{"host":"a","port":65536}"#,
            "`port` is not a number in its range",
        ),
        (
            r#"{"host":"a","port":-1}"#,
            "`port` is not a number in its range",
        ),
        (
            r#"{"host":"a","ttl":{}}"#,
            "`ttl` is not a number in its range",
        ),
        (r#"{"host":"a","mail":1}"#, "`mail` is not true or false"),
    ] {
        let error = parsed(value).expect_err(value).to_string();
        assert!(error.starts_with(why), "{value}: {error}");
    }
    let long = format!(r#"{{"text":"{}"}}"#, "a".repeat(5000));
    assert_eq!(parsed(&long), Err(RecordError::TooLong(5011)));
    let mut table = Records::default();
    let long = format!("/skydns/{}", "a/".repeat(130));
    for key in [
        "/skydns/",
        "/skydns//",
        "/skydns/local//db",
        "/skydns/local/a.b",
        "/skydns/local/a b",
        "/skydns/*/com",
        "/other/local/db",
        &long,
    ] {
        let error = table.put(key, br#"{"host":"a"}"#);
        assert_eq!(error, Err(RecordError::NotAName), "{key}");
    }
    assert!(table.is_empty());
}

#[test]
fn what_is_no_record_is_known_until_it_is_one_or_is_gone() {
    let mut table = table(&[("db/1", r#"{"host":"10.0.0.9"}"#)]);
    let key = |name: &str| format!("/skydns/local/skydns/{name}");
    for name in ["db/1", "DB/2", "db/a b", "dbx", "other/3"] {
        assert!(table.put(&key(name), b"{}").is_err(), "{name}");
    }
    let at = |table: &Records, labels: &[&str]| {
        let found = table.unreadable(labels);
        found
            .map(|(key, _)| key["/skydns/local/skydns/".len()..].to_owned())
            .collect::<Vec<_>>()
    };
    let db = ["DB/2", "db/1", "db/a b"];
    assert_eq!(at(&table, &["local", "skydns", "db"]), db);
    assert_eq!(at(&table, &["local", "skydns", "*", "3"]), ["other/3"]);
    assert_eq!(at(&table, &[]).len(), 5);
    let why = table.unreadable(&["local", "skydns", "db", "1"]).next();
    assert_eq!(why.expect("known").1, &RecordError::Nothing);

    // The present reason counts.
    table.put(&key("db/1"), b"[]").expect_err("no record");
    let why = table.unreadable(&["local", "skydns", "db", "1"]).next();
    assert_eq!(why.expect("known").1, &RecordError::NotAnObject);
    table
        .put(&key("db/1"), br#"{"host":"10.0.0.9"}"#)
        .expect("record");
    table
        .put(&key("DB/2"), br#"{"dokkaa":"h1"}"#)
        .expect("an agent's");
    table.delete(&key("db/a b"));
    assert_eq!(at(&table, &[]), ["dbx", "other/3"]);
}

#[test]
fn what_is_known_of_keys_that_are_no_records_is_bounded() {
    let mut table = Records::default();
    let key = |n: usize| format!("/skydns/{n}/{}", "é".repeat(5_000));
    for n in 0..=MAX_UNREADABLE {
        assert!(table.put(&key(n), b"").is_err());
    }
    let known = |table: &Records| table.unreadable(&[]).count();
    assert_eq!(known(&table), MAX_UNREADABLE);
    let longest = table.unreadable(&[]).map(|(key, _)| key.chars().count());
    assert_eq!(longest.max(), Some(MAX_KEY));
    table.delete(&key(0));
    assert_eq!(known(&table), MAX_UNREADABLE - 1);
}

#[test]
fn a_name_is_all_that_is_below_it() {
    let host = r#"{"host":"10.0.0.9"}"#;
    let mut table = table(&[
        ("east/production/rails/1", host),
        ("east/staging/rails/4", host),
        ("east/staging/rails/6", host),
        ("east-2/web", host),
        ("EAST2/Web", host),
        ("west/production/rails/2", host),
    ]);
    let east = [
        "east/production/rails/1",
        "east/staging/rails/4",
        "east/staging/rails/6",
    ];
    assert_eq!(below(&table, "east/"), east);
    assert_eq!(below(&table, "east/*"), east);
    assert_eq!(below(&table, "east/any/rails"), east);
    assert_eq!(
        below(&table, "*/production"),
        [east[0], "west/production/rails/2"]
    );
    assert_eq!(below(&table, "*/*/*/4"), [east[1]]);
    assert_eq!(below(&table, "east2"), ["east2/web"]);
    assert_eq!(below(&table, "").len(), 6);
    assert_eq!(below(&table, "eas"), [""; 0]);
    assert_eq!(below(&table, "*/web/*"), [""; 0]);
    // Names that are given back, or say nothing any more.
    table.delete("/skydns/local/skydns/east2/web");
    assert_eq!(below(&table, "east2"), [""; 0]);
    let key = "/skydns/local/skydns/west/production/rails/2";
    assert_eq!(table.put(key, b"{}"), Err(RecordError::Nothing));
    assert_eq!(below(&table, "west"), [""; 0]);
    assert_eq!(table.len(), 4);
    assert!(table.at(&["local", "skydns", "east-2", "web"]).is_some());
    assert!(table.at(&["local", "skydns", "east-2"]).is_none());
}

#[test]
fn what_a_wildcard_looks_at_is_bounded() {
    let host = r#"{"host":"10.0.0.9"}"#;
    let names: Vec<String> = (0..1000).map(|n| format!("app{n:03}/web")).collect();
    let records: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), host)).collect();
    let table = table(&records);
    let found = |labels: &[&str]| table.below(labels, 100).len();
    assert_eq!(found(&["local"]), 100);
    assert_eq!(
        found(&["local", "skydns", "*", "web"]),
        50,
        "each is two steps"
    );
    assert_eq!(found(&["local", "skydns", "*", "none"]), 0);
    assert_eq!(found(&["local", "skydns", "app999"]), 1);
}

#[test]
fn what_an_agent_publishes_is_not_read_back() {
    let host = "h1".parse().expect("host");
    let value = published(&host, [10, 0, 0, 1].into(), 20_000, 1);
    let expected = r#"{"dokkaa":"h1","host":"10.0.0.1","port":20000,"ttl":1}"#;
    assert_eq!(value, expected);
    assert_eq!(publisher(value.as_bytes()), Some(host));
    assert_eq!(publisher(br#"{"host":"10.0.0.1"}"#), None);
    let mut table = table(&[("shop/web/0", r#"{"host":"10.0.0.9"}"#)]);
    let key = "/skydns/local/skydns/shop/web/0";
    assert_eq!(table.put(key, value.as_bytes()), Ok(()));
    assert!(table.is_empty());
}
