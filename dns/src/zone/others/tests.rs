//! Records as others write them, and the answers in full.

use hickory_proto::op::ResponseCode;
use model::directory::Directory;

use super::*;
use crate::tests::fixture::Cluster;
use crate::zone::{Tables, Zone};

fn directory() -> Directory {
    let mut cluster = Cluster::default();
    cluster.host("h1");
    cluster.state("shop/web/0", "h1", "10.0.0.1:20000", "ready", "web");
    cluster.directory()
}

fn records(values: &[(&str, &str)]) -> Records {
    let mut records = Records::default();
    for (key, value) in values {
        let key = format!("/skydns/{key}");
        records.put(&key, value.as_bytes()).expect("record");
    }
    records
}

/// The answer on a few lines; the SOA of answers without records is left out.
fn ask(values: &[(&str, &str)], question: &str) -> String {
    ask_turn(values, question, 0)
}

fn ask_turn(values: &[(&str, &str)], question: &str, turn: usize) -> String {
    let tables = Tables {
        directory: &directory(),
        records: &records(values),
    };
    let (name, wanted) = question.split_once(' ').expect("name and type");
    let name = Name::from_ascii(name).expect("name");
    let query = Query::query(name, wanted.parse().expect("type"));
    let zone = Zone::new("skydns.local", []).expect("domain");
    let Some(answer) = zone.answer(tables, &query, turn) else {
        return "forwarded".to_owned();
    };
    let mut lines = Vec::new();
    if answer.code != ResponseCode::NoError {
        lines.push(format!("{:?}", answer.code));
    }
    for record in answer.answers.iter().chain(&answer.additional) {
        let owner = if record.name == query.name {
            String::new()
        } else {
            format!("{} ", record.name)
        };
        let data = &record.data;
        lines.push(format!(
            "{owner}{} {} {data}",
            record.ttl,
            data.record_type()
        ));
    }
    lines.extend(answer.follow.map(|name| format!("follow {name}")));
    lines.join("\n")
}

const RAILS: [(&str, &str); 4] = [
    (
        "local/skydns/east/production/rails/1",
        r#"{"host":"service1.example.com","port":8080}"#,
    ),
    (
        "local/skydns/west/production/rails/2",
        r#"{"host":"service2.example.com","port":8080}"#,
    ),
    (
        "local/skydns/east/staging/rails/4",
        r#"{"host":"10.0.1.125","port":8080,"ttl":60}"#,
    ),
    (
        "local/skydns/east/staging/rails/6",
        r#"{"host":"2003::8:1","port":8080,"ttl":60}"#,
    ),
];

#[test]
fn a_name_is_answered_with_what_is_below_it() {
    assert_eq!(
        ask(&RAILS, "east.skydns.local. SRV"),
        "1 SRV 10 33 8080 service1.example.com.\n\
         60 SRV 10 33 8080 4.rails.staging.east.skydns.local.\n\
         60 SRV 10 33 8080 6.rails.staging.east.skydns.local.\n\
         4.rails.staging.east.skydns.local. 60 A 10.0.1.125\n\
         6.rails.staging.east.skydns.local. 60 AAAA 2003::8:1"
    );
    assert_eq!(
        ask(&RAILS, "rails.production.*.skydns.local. SRV"),
        "1 SRV 10 50 8080 service1.example.com.\n1 SRV 10 50 8080 service2.example.com."
    );
    let four = "60 A 10.0.1.125";
    for name in [
        "staging.east",
        "4.rails.staging.east",
        "east",
        "Staging.any",
    ] {
        assert_eq!(ask(&RAILS, &format!("{name}.skydns.local. A")), four);
    }
    assert_eq!(ask(&RAILS, "skydns.local. A"), four, "the zone itself");
    assert_eq!(ask(&RAILS, "east.skydns.local. TXT"), "");
    assert_eq!(ask(&RAILS, "ast.skydns.local. A"), "NXDomain");
    assert_eq!(ask(&RAILS, "east.example.com. A"), "forwarded");
    // A label of a name is no two of a key.
    let name = Name::from_labels([b"east/staging".as_slice(), b"skydns", b"local"]);
    assert!(find(&records(&RAILS), &name.expect("name")).is_empty());
}

#[test]
fn a_service_wins_over_records_of_its_name() {
    let host = r#"{"host":"10.0.0.9"}"#;
    let values = [
        ("local/skydns/shop/web", host),
        ("local/skydns/shop/web/0", host),
        ("local/skydns/shop/legacy", host),
    ];
    let theirs = "1 A 10.0.0.9";
    let ours = "1 A 10.0.0.1";
    assert_eq!(ask(&values, "web.shop.skydns.local. A"), ours);
    assert_eq!(ask(&values, "0.web.shop.skydns.local. A"), ours);
    assert_eq!(ask(&values, "shop.skydns.local. A"), ours);
    assert_eq!(ask(&values, "legacy.shop.skydns.local. A"), theirs);
    assert_eq!(ask(&values, "skydns.local. NS"), "1 NS ns.skydns.local.");
}

#[test]
fn a_host_that_is_a_name_makes_an_alias() {
    let values = [
        ("local/skydns/db", r#"{"host":"db.example.com","ttl":30}"#),
        ("local/skydns/front", r#"{"host":"web.shop.skydns.local"}"#),
        ("local/skydns/gone", r#"{"host":"gone.shop.skydns.local"}"#),
        ("local/skydns/a", r#"{"host":"b.skydns.local"}"#),
        ("local/skydns/b", r#"{"host":"a.skydns.local"}"#),
        ("local/skydns/self", r#"{"host":"self.skydns.local"}"#),
        ("local/skydns/two/1", r#"{"host":"one.example.com"}"#),
        ("local/skydns/two/2", r#"{"host":"two.example.com"}"#),
    ];
    let alias = "30 CNAME db.example.com.";
    for wanted in ["A", "AAAA", "HTTPS"] {
        let answer = ask(&values, &format!("db.skydns.local. {wanted}"));
        assert_eq!(answer, format!("{alias}\nfollow db.example.com."));
    }
    for wanted in ["CNAME", "ANY"] {
        assert_eq!(ask(&values, &format!("db.skydns.local. {wanted}")), alias);
    }
    let front = "1 CNAME web.shop.skydns.local.\nweb.shop.skydns.local. 1 A 10.0.0.1";
    assert_eq!(ask(&values, "front.skydns.local. A"), front);
    let gone = "NXDomain\n1 CNAME gone.shop.skydns.local.";
    assert_eq!(ask(&values, "gone.skydns.local. A"), gone);
    assert_eq!(ask(&values, "a.skydns.local. A"), "ServFail");
    assert_eq!(ask(&values, "self.skydns.local. A"), "");
    for (turn, host) in ["one", "two"].iter().enumerate() {
        let expected = format!("1 CNAME {host}.example.com.\nfollow {host}.example.com.");
        assert_eq!(ask_turn(&values, "two.skydns.local. A", turn), expected);
    }
}

#[test]
fn weights_are_shares_of_a_priority() {
    let values = [
        ("local/skydns/x/1", r#"{"host":"a.example","weight":120}"#),
        ("local/skydns/x/2", r#"{"host":"b.example","weight":100}"#),
        ("local/skydns/x/3", r#"{"host":"c.example","weight":130}"#),
        ("local/skydns/x/4", r#"{"host":"d.example","priority":20}"#),
        ("local/skydns/x/5", r#"{"host":"d.example","priority":20}"#),
    ];
    assert_eq!(
        ask(&values, "x.skydns.local. SRV"),
        "1 SRV 10 34 0 a.example.\n1 SRV 10 28 0 b.example.\n\
         1 SRV 10 37 0 c.example.\n1 SRV 20 50 0 d.example."
    );
}

#[test]
fn text_mail_and_the_fields_of_a_target() {
    let long = format!(r#"{{"text":"{}"}}"#, "a".repeat(300));
    let values = [
        ("local/skydns/note/1", r#"{"text":"hello there","ttl":5}"#),
        ("local/skydns/note/2", r#"{"text":"hello there","ttl":5}"#),
        ("local/skydns/long", &long),
        ("local/skydns/mx/1", r#"{"host":"10.0.0.7","mail":true}"#),
        (
            "local/skydns/mx/2",
            r#"{"host":"mail.example.com","mail":true,"priority":5}"#,
        ),
        (
            "local/skydns/strip/1",
            r#"{"host":"10.0.0.8","targetstrip":1}"#,
        ),
        (
            "local/skydns/much/1",
            r#"{"host":"10.0.0.8","targetstrip":9}"#,
        ),
    ];
    assert_eq!(ask(&values, "note.skydns.local. TXT"), "5 TXT hello there");
    assert_eq!(ask(&values, "note.skydns.local. A"), "");
    let long = format!("1 TXT {}{}", "a".repeat(255), "a".repeat(45));
    assert_eq!(ask(&values, "long.skydns.local. TXT"), long);
    assert_eq!(
        ask(&values, "mx.skydns.local. MX"),
        "1 MX 10 1.mx.skydns.local.\n1 MX 5 mail.example.com.\n\
         1.mx.skydns.local. 1 A 10.0.0.7"
    );
    assert_eq!(
        ask(&values, "1.strip.skydns.local. SRV"),
        "1 SRV 10 100 0 strip.skydns.local.\nstrip.skydns.local. 1 A 10.0.0.8"
    );
    assert_eq!(
        ask(&values, "1.much.skydns.local. SRV"),
        "1 SRV 10 100 0 1.much.skydns.local.\n1 A 10.0.0.8"
    );
}

#[test]
fn a_group_leaves_out_the_others() {
    let values = [
        ("local/skydns/dom/a", r#"{"host":"10.0.0.1","group":"g1"}"#),
        (
            "local/skydns/dom/sub/a",
            r#"{"host":"10.0.0.2","group":"g1"}"#,
        ),
        (
            "local/skydns/dom/sub/b",
            r#"{"host":"10.0.0.3","group":"g2"}"#,
        ),
        ("local/skydns/dom/sub/c", r#"{"host":"10.0.0.4"}"#),
    ];
    let name = "dom.skydns.local. A";
    assert_eq!(
        ask(&values, name),
        "1 A 10.0.0.1\n1 A 10.0.0.2\n1 A 10.0.0.4"
    );
    // Two groups next to each other are none.
    let all = "1 A 10.0.0.2\n1 A 10.0.0.3\n1 A 10.0.0.4";
    assert_eq!(ask(&values, "sub.dom.skydns.local. A"), all);
}

#[test]
fn an_address_may_be_named_by_others() {
    let values = [
        ("arpa/in-addr/10/0/0/127", r#"{"host":"nas.example.com."}"#),
        ("arpa/in-addr/10/0/0/1", r#"{"host":"other.example.com."}"#),
    ];
    let theirs = "1 PTR nas.example.com.";
    assert_eq!(ask(&values, "127.0.0.10.in-addr.arpa. PTR"), theirs);
    let ours = "1 PTR h1.hosts.skydns.local.";
    assert_eq!(ask(&values, "1.0.0.10.in-addr.arpa. PTR"), ours);
    assert_eq!(ask(&values, "10.in-addr.arpa. PTR"), "forwarded");
    assert_eq!(ask(&values, "127.0.0.10.in-addr.arpa. A"), "forwarded");
}
