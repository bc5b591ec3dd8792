//! Names, and what is said of them.

use model::skydns::Records;

use super::*;
use crate::tests::fixture::Cluster;

fn explain(name: &str) -> Explanation {
    let mut cluster = Cluster::default();
    cluster.host("h1");
    cluster.state("shop/web/0", "h1", "10.0.0.1:20000", "ready", "web");
    cluster.state("shop/web/1", "h1", "10.0.0.1:20001", "unready", "web");
    cluster.state("shop/web/2", "gone", "10.0.0.9:20000", "ready", "web");
    cluster.state("shop/web/3", "h1", "10.0.0.1:20002", "leaving", "web");
    let mut records = Records::default();
    for name in ["shop/web/a", "shop/db", "outside"] {
        let key = format!("/skydns/local/skydns/{name}");
        records
            .put(&key, br#"{"host":"192.0.2.9"}"#)
            .expect("record");
    }
    for name in ["wrong", "shop/web/b"] {
        let key = format!("/skydns/local/skydns/{name}");
        records.put(&key, b"{}").expect_err("no record");
    }
    let tables = Tables {
        directory: &cluster.directory(),
        records: &records,
    };
    let zone = Zone::new("skydns.local", []).expect("domain");
    zone.explain(tables, name).expect("a name")
}

#[test]
fn a_service_is_explained_with_all_its_instances() {
    let service = explain("web.shop.skydns.local");
    assert_eq!(service, explain("web.shop"));
    assert_eq!(
        service,
        explain("Web.Shop.skydns.local.").with_name(&service)
    );
    assert_eq!(service.name, "web.shop.skydns.local.");
    assert_eq!(
        service.meaning,
        "the ready instances of service web of app shop"
    );
    assert_eq!(
        service.records,
        [
            "web.shop.skydns.local. 1 IN A 10.0.0.1",
            "web.shop.skydns.local. 1 IN SRV 10 100 20000 0.web.shop.skydns.local."
        ]
    );
    let left_out = service.left_out.iter();
    let left_out: Vec<String> = left_out
        .map(|one| format!("{} on {}: {}", one.slot, one.host, one.reason))
        .collect();
    assert_eq!(
        left_out,
        [
            "shop/web/1 on h1: it is not ready",
            "shop/web/2 on gone: its host is missing, and others are there",
            "shop/web/3 on h1: it is leaving"
        ]
    );
    assert_eq!(service.hidden, 1);
    let means = |name: &str, slot: &str| {
        let (container, number) = slot.rsplit_once('/').expect("a slot");
        let container: manifests::ContainerId = container.parse().expect("a container");
        let service = model::directory::ServiceId {
            app: container.app.clone(),
            service: "db".parse().expect("a service"),
        };
        let slot = container.slot(number.parse().expect("a number"));
        let slots = explain(name).slots;
        slots.is_some_and(|slots| slots.has(&service, &slot))
    };
    // Nothing of it is there yet.
    assert!(means("db.shop", "shop/sql/7") && means("DB.shop.skydns.local", "shop/sql/7"));
    assert!(means("sql-7.db.shop", "shop/sql/7") && means("shop.skydns.local", "shop/sql/7"));
    assert!(!means("sql-6.db.shop", "shop/sql/7") && !means("db.blog", "shop/sql/7"));
    assert!(!means("web.shop", "shop/sql/7"));
    assert_eq!(explain("1.all.web.shop").left_out, []);
}

impl Explanation {
    /// As if it was asked for in another case.
    fn with_name(mut self, like: &Self) -> Self {
        self.name.clone_from(&like.name);
        self.records.clone_from(&like.records);
        self
    }
}

#[test]
fn a_key_that_is_no_record_is_told_with_its_name() {
    let unreadable = |name: &str| {
        let unreadable = explain(name).unreadable.into_iter();
        unreadable
            .map(|(key, error)| format!("{key}: {error}"))
            .collect::<Vec<_>>()
    };
    let wrong =
        "/skydns/local/skydns/wrong: it has neither `host` nor `text`, and needs one of them";
    assert_eq!(unreadable("wrong.skydns.local"), [wrong]);
    // It is meant by the name below the domain, too.
    assert_eq!(unreadable("Wrong"), [wrong]);
    assert_eq!(explain("wrong").meaning, "no such name");
    assert_eq!(unreadable("web.shop").len(), 1);
    assert_eq!(unreadable("skydns.local").len(), 2);
    assert_eq!(unreadable("db.shop"), [""; 0]);
}

#[test]
fn each_kind_of_name_is_told() {
    for (name, meaning) in [
        ("skydns.local", "the cluster's zone"),
        ("ns.skydns.local", "the agent that answers"),
        ("shop", "the ready instances of all services of app shop"),
        (
            "*.skydns.local",
            "the ready instances of all services of all apps",
        ),
        (
            "0.web.*",
            "slot 0, while it is ready, of service web of all apps",
        ),
        (
            "web-0.all.web.shop",
            "slot 0 of container web of service web of app shop",
        ),
        ("h1.hosts", "host h1"),
        ("hosts", "hosts are below it"),
        ("db.shop", "records under /skydns/"),
        ("outside", "records under /skydns/"),
        ("bd.shop.skydns.local", "no such name; app shop has web"),
        ("nobody.skydns.local", "no such name"),
        (
            "example.com.shop.skydns.local",
            "no such name; in containers an alias of example.com, for which their resolvers search here first",
        ),
        (
            "web.shop.shop.skydns.local",
            "no such name; in containers an alias of web.shop.skydns.local, for which their resolvers search here first",
        ),
        (
            "1.0.0.10.in-addr.arpa",
            "an address that this cluster names; its other records are forwarded",
        ),
        (
            "example.com",
            "not in skydns.local: forwarded to the host's resolvers",
        ),
        (
            "wbe.shop",
            "there is no wbe.shop.skydns.local: app shop has web; the name as it is, is forwarded to the host's resolvers",
        ),
        (
            "shop.",
            "not in skydns.local: forwarded to the host's resolvers",
        ),
    ] {
        assert_eq!(explain(name).meaning, meaning, "{name}");
    }
    assert_eq!(
        explain("outside").records,
        [
            "outside.skydns.local. 1 IN A 192.0.2.9",
            "outside.skydns.local. 1 IN SRV 10 100 0 outside.skydns.local."
        ]
    );
    assert_eq!(explain("db.shop").hidden, 0);
}
