//! Names that a container's resolver may ask for, and what they come to.

use hickory_proto::rr::Name;
use model::directory::Directory;
use model::skydns::Records;

use super::*;
use crate::tests::fixture::Cluster;

fn directory() -> Directory {
    let mut cluster = Cluster::default();
    cluster.host("h1");
    cluster.state("shop/web/0", "h1", "10.0.0.1:20000", "ready", "web");
    cluster.state("shop/net/0", "h1", "10.0.0.1:20001", "ready", "net");
    cluster.state("blog/db/0", "h1", "10.0.0.2:20000", "ready", "db");
    cluster.state("blog/slow/0", "h1", "10.0.0.2:20001", "unready", "slow");
    cluster.directory()
}

fn records() -> Records {
    let mut records = Records::default();
    for (name, value) in [
        ("shop/own", r#"{"host":"192.0.2.9"}"#),
        ("com/site", r#"{"host":"192.0.2.10"}"#),
        ("com/163", r#"{"host":"192.0.2.11"}"#),
        ("com/alias", r#"{"host":"www.example.net"}"#),
        ("com/lost", r#"{"host":"none.skydns.local"}"#),
        ("com/round", r#"{"host":"round.com.shop.skydns.local"}"#),
    ] {
        let key = format!("/skydns/local/skydns/{name}");
        records.put(&key, value.as_bytes()).expect("a record");
    }
    records
}

fn with_zone<T>(look: impl FnOnce(&Zone, Tables<'_>) -> T) -> T {
    let zone = Zone::new("skydns.local", []).expect("domain");
    let tables = Tables {
        directory: &directory(),
        records: &records(),
    };
    look(&zone, tables)
}

#[test]
fn a_search_comes_to_a_name_of_the_zone_or_leads_out_of_it() {
    for (name, wanted) in [
        // A service of another app, and what is below it.
        ("db.blog.shop.skydns.local.", "db.blog.skydns.local."),
        ("slow.blog.shop.skydns.local.", "slow.blog.skydns.local."),
        ("0.db.blog.shop.skydns.local.", "0.db.blog.skydns.local."),
        (
            "all.db.blog.shop.skydns.local.",
            "all.db.blog.skydns.local.",
        ),
        // One of its own app, named in full below the domain.
        ("web.shop.shop.skydns.local.", "web.shop.skydns.local."),
        ("h1.hosts.shop.skydns.local.", "h1.hosts.skydns.local."),
        // Records of others.
        ("site.com.shop.skydns.local.", "site.com.skydns.local."),
        ("163.com.shop.skydns.local.", "163.com.skydns.local."),
        // All else is outside, or in the zone in full.
        ("example.com.shop.skydns.local.", "example.com."),
        ("www.example.com.blog.skydns.local.", "www.example.com."),
        ("7.example.com.blog.skydns.local.", "7.example.com."),
        ("a.all.com.shop.skydns.local.", "a.all.com."),
        ("all.com.au.shop.skydns.local.", "all.com.au."),
        ("web-01.com.shop.skydns.local.", "web-01.com."),
        ("none.blog.shop.skydns.local.", "none.blog."),
        (
            "web.shop.skydns.local.blog.skydns.local.",
            "web.shop.skydns.local.",
        ),
        // The case stays.
        ("Db.Blog.SHOP.skydns.local.", "Db.Blog.skydns.local."),
        ("Example.Com.shop.SkyDNS.Local.", "Example.Com."),
    ] {
        let asked = Name::from_ascii(name).expect("a name");
        let found = with_zone(|zone, tables| zone.searched(&tables, &asked));
        let found = found.map(|found| found.to_ascii());
        assert_eq!(found.as_deref(), Some(wanted), "{name}");
    }
}

#[test]
fn what_may_have_been_written_in_full_is_no_search() {
    for name in [
        // Of the app itself.
        "db.shop.skydns.local.",
        "blog.shop.skydns.local.",
        "com.shop.skydns.local.",
        // Below a name that exists.
        "7.web.shop.skydns.local.",
        "7.all.web.shop.skydns.local.",
        "a.b.web.shop.skydns.local.",
        "example.net.shop.skydns.local.",
        "a.own.shop.skydns.local.",
        // An instance of a service that the app has not yet, and whose name is a top-level domain.
        "0.app.shop.skydns.local.",
        "All.App.shop.skydns.local.",
        "front-end-0.dev.shop.skydns.local.",
        "0.all.cloud.shop.skydns.local.",
        "front-end-0.all.cloud.shop.skydns.local.",
        "164.com.shop.skydns.local.",
        // Of no app.
        "example.com.none.skydns.local.",
        "example.com.hosts.skydns.local.",
        "example.com.ns.skydns.local.",
        "example.com.skydns.local.",
        "com.skydns.local.",
        "skydns.local.",
        // Wildcards.
        "any.com.shop.skydns.local.",
        "example.*.shop.skydns.local.",
        "example.com.any.skydns.local.",
        // Of another zone, or no names of ours.
        "example.com.",
        "example.com.shop.skydns.example.",
        ".",
    ] {
        let asked = Name::from_ascii(name).expect("a name");
        let found = with_zone(|zone, tables| zone.searched(&tables, &asked));
        assert_eq!(found, None, "{name}");
    }
}

/// Records on a line, and the name that is asked for elsewhere.
fn ask(name: &str, wanted: RecordType) -> Option<String> {
    let asked = Name::from_ascii(name).expect("a name");
    let answer = with_zone(|zone, tables| zone.search(tables, &Query::query(asked, wanted), 0))?;
    let records = answer.answers.iter().map(|record| {
        assert_eq!(record.ttl, 1);
        format!("{} {}", record.name, record.data)
    });
    let mut text: Vec<String> = records.collect();
    text.extend(
        answer
            .authority
            .iter()
            .map(|one| one.record_type().to_string()),
    );
    text.extend(answer.follow.map(|name| format!("-> {name}")));
    assert_eq!(answer.code, ResponseCode::NoError);
    Some(text.join(", "))
}

#[test]
fn the_answer_is_an_alias_with_what_it_leads_to() {
    for (name, wanted, answer) in [
        (
            "db.blog.shop.skydns.local.",
            RecordType::A,
            "db.blog.shop.skydns.local. db.blog.skydns.local., db.blog.skydns.local. 10.0.0.2",
        ),
        (
            "db.blog.shop.skydns.local.",
            RecordType::AAAA,
            "db.blog.shop.skydns.local. db.blog.skydns.local., SOA",
        ),
        (
            "slow.blog.shop.skydns.local.",
            RecordType::A,
            "slow.blog.shop.skydns.local. slow.blog.skydns.local., SOA",
        ),
        (
            "example.com.shop.skydns.local.",
            RecordType::MX,
            "example.com.shop.skydns.local. example.com., -> example.com.",
        ),
        (
            "alias.com.shop.skydns.local.",
            RecordType::A,
            "alias.com.shop.skydns.local. alias.com.skydns.local., \
             alias.com.skydns.local. www.example.net., -> www.example.net.",
        ),
        (
            "1.0.0.10.in-addr.arpa.shop.skydns.local.",
            RecordType::PTR,
            "1.0.0.10.in-addr.arpa.shop.skydns.local. 1.0.0.10.in-addr.arpa., \
             1.0.0.10.in-addr.arpa. h1.hosts.skydns.local.",
        ),
    ] {
        assert_eq!(
            ask(name, wanted).as_deref(),
            Some(answer),
            "{name} {wanted}"
        );
    }
}

#[test]
fn a_search_that_comes_to_nothing_has_no_answer_of_its_own() {
    for name in [
        "none.shop.skydns.local.blog.skydns.local.",
        "a.b.skydns.local.blog.skydns.local.",
        "lost.com.shop.skydns.local.",
        "round.com.shop.skydns.local.",
    ] {
        assert_eq!(ask(name, RecordType::A), None, "{name}");
    }
    for kind in OF_THE_NAME {
        assert_eq!(ask("example.com.shop.skydns.local.", kind), None, "{kind}");
    }
}
