//! Questions to a small cluster, and the answers in full.

use std::sync::LazyLock;

use super::*;
use crate::tests::fixture::Cluster;

fn shop() -> Directory {
    let mut cluster = Cluster::default();
    cluster.host("h1");
    cluster.host("h2");
    cluster.state("shop/web/0", "h1", "10.0.0.1:20000", "ready", "web");
    cluster.state("shop/web/1", "h2", "10.0.0.2:20000", "ready", "web");
    cluster.state("shop/web/2", "h2", "10.0.0.2:20001", "ready", "web");
    cluster.state("shop/web/3", "h2", "10.0.0.2:20002", "unready", "web");
    cluster.state("shop/web/4", "h2", "10.0.0.2:20003", "stopped", "web");
    cluster.state("shop/six/0", "h1", "[fd00::1]:20004", "ready", "six");
    cluster.state("shop/slow/0", "h1", "10.0.0.1:20005", "unready", "slow");
    cluster.state("blog/a/0", "h1", "10.0.0.1:20006", "ready", "front");
    cluster.state("blog/b/0", "h2", "10.0.0.2:20006", "ready", "front");
    cluster.state("blog/b/1", "h2", "10.0.0.2:20007", "ready", "front");
    cluster.directory()
}

fn tables(directory: &Directory) -> Tables<'_> {
    static NONE: LazyLock<Records> = LazyLock::new(Records::default);
    Tables {
        directory,
        records: &NONE,
    }
}

/// The answer on a few lines: code, then each record's section, type and data.
fn ask(question: &str) -> String {
    ask_turn(question, 0)
}

fn ask_turn(question: &str, turn: usize) -> String {
    let zone = Zone::new("skydns.local", [[172, 17, 0, 1].into()]).expect("domain");
    let (name, wanted) = question.split_once(' ').expect("name and type");
    let name = Name::from_ascii(name).expect("name");
    let query = Query::query(name, wanted.parse().expect("type"));
    let Some(answer) = zone.answer(tables(&shop()), &query, turn) else {
        return "forwarded".to_owned();
    };
    let mut text = format!("{:?}\n", answer.code);
    let sections = [
        ("", answer.answers),
        ("authority ", answer.authority),
        ("additional ", answer.additional),
    ];
    for (section, records) in sections {
        for record in records {
            assert_eq!(record.ttl, 1);
            let owner = if record.name == query.name && section != "authority " {
                String::new()
            } else {
                format!("{} ", record.name)
            };
            let data = match &record.data {
                RData::SOA(_) => "SOA".to_owned(),
                data => format!("{} {data}", data.record_type()),
            };
            text += &[section, &owner, &data, "\n"].concat();
        }
    }
    text
}

const NODATA: &str = "NoError\nauthority skydns.local. SOA\n";
const NXDOMAIN: &str = "NXDomain\nauthority skydns.local. SOA\n";

#[test]
fn addresses_are_of_ready_instances_each_once_and_in_turn() {
    let name = "web.shop.skydns.local. A";
    assert_eq!(ask(name), "NoError\nA 10.0.0.1\nA 10.0.0.2\n");
    assert_eq!(ask_turn(name, 1), "NoError\nA 10.0.0.2\nA 10.0.0.1\n");
    assert_eq!(ask_turn(name, 3), ask(name));
    assert_eq!(
        ask("six.shop.skydns.local. AAAA"),
        "NoError\nAAAA fd00::1\n"
    );
    assert_eq!(ask("six.shop.skydns.local. ANY"), "NoError\nAAAA fd00::1\n");
}

#[test]
fn srv_has_the_published_port_and_a_target_that_resolves() {
    assert_eq!(
        ask("web.shop.skydns.local. SRV"),
        "NoError\n\
         SRV 10 33 20000 0.web.shop.skydns.local.\n\
         SRV 10 33 20000 1.web.shop.skydns.local.\n\
         SRV 10 33 20001 2.web.shop.skydns.local.\n\
         additional 0.web.shop.skydns.local. A 10.0.0.1\n\
         additional 1.web.shop.skydns.local. A 10.0.0.2\n\
         additional 2.web.shop.skydns.local. A 10.0.0.2\n"
    );
    assert_eq!(ask("0.web.shop.skydns.local. A"), "NoError\nA 10.0.0.1\n");
    assert_eq!(
        ask("2.web.shop.skydns.local. SRV"),
        "NoError\nSRV 10 100 20001 2.web.shop.skydns.local.\nadditional A 10.0.0.2\n"
    );
}

#[test]
fn instances_of_several_containers_never_share_a_name() {
    assert_eq!(
        ask("front.blog.skydns.local. SRV"),
        "NoError\n\
         SRV 10 33 20006 a-0.front.blog.skydns.local.\n\
         SRV 10 33 20006 b-0.front.blog.skydns.local.\n\
         SRV 10 33 20007 1.front.blog.skydns.local.\n\
         additional a-0.front.blog.skydns.local. A 10.0.0.1\n\
         additional b-0.front.blog.skydns.local. A 10.0.0.2\n\
         additional 1.front.blog.skydns.local. A 10.0.0.2\n"
    );
    assert_eq!(
        ask("b-0.front.blog.skydns.local. A"),
        "NoError\nA 10.0.0.2\n"
    );
    assert_eq!(
        ask("0.front.blog.skydns.local. A"),
        "NoError\nA 10.0.0.1\nA 10.0.0.2\n"
    );
}

#[test]
fn all_includes_endpoints_that_are_not_ready() {
    assert_eq!(
        ask("all.slow.shop.skydns.local. SRV"),
        "NoError\n\
         SRV 10 100 20005 0.all.slow.shop.skydns.local.\n\
         additional 0.all.slow.shop.skydns.local. A 10.0.0.1\n"
    );
    assert_eq!(
        ask("0.all.slow.shop.skydns.local. A"),
        "NoError\nA 10.0.0.1\n"
    );
    assert_eq!(ask("0.slow.shop.skydns.local. A"), NODATA);
    assert_eq!(
        ask("3.all.web.shop.skydns.local. A"),
        "NoError\nA 10.0.0.2\n"
    );
    assert_eq!(ask("4.all.web.shop.skydns.local. A"), NODATA);
}

#[test]
fn a_name_without_the_type_is_nodata() {
    for there in [
        "skydns.local. A",
        "hosts.skydns.local. A",
        "h2.hosts.skydns.local. AAAA",
        "shop.skydns.local. TXT",
        "*.slow.shop.skydns.local. A",
        "slow.shop.skydns.local. A",
        "web.shop.skydns.local. AAAA",
        "web.shop.skydns.local. TXT",
        "3.web.shop.skydns.local. A",
        "ns.skydns.local. AAAA",
    ] {
        assert_eq!(ask(there), NODATA, "{there}");
    }
    for missing in [
        "nobody.skydns.local. A",
        "h3.hosts.skydns.local. A",
        "gone.*.skydns.local. A",
        "*.gone.skydns.local. A",
        "9.*.*.skydns.local. A",
        "*.*.*.*.skydns.local. A",
        "gone.shop.skydns.local. A",
        "5.web.shop.skydns.local. A",
        "00.web.shop.skydns.local. A",
        "x.web.shop.skydns.local. A",
        "x-0.web.shop.skydns.local. A",
        "0.0.web.shop.skydns.local. A",
        "all.gone.shop.skydns.local. A",
        "a.b.c.d.e.skydns.local. A",
    ] {
        assert_eq!(ask(missing), NXDOMAIN, "{missing}");
    }
}

#[test]
fn a_label_may_be_any_octets() {
    let zone = Zone::new("skydns.local", []).expect("domain");
    for label in [b"w\x01b".as_slice(), b"w\xffb", b"w.b", b" "] {
        let labels = [label, b"shop", b"skydns", b"local"];
        let name = Name::from_labels(labels).expect("name");
        let query = Query::query(name, RecordType::A);
        assert_eq!(
            zone.answer(tables(&shop()), &query, 0)
                .map(|answer| answer.code),
            Some(ResponseCode::NXDomain),
            "{label:?}"
        );
    }
}

#[test]
fn the_apex_has_soa_and_ns() {
    assert_eq!(ask("skydns.local. SOA"), "NoError\nSOA\n");
    assert_eq!(
        ask("skydns.local. NS"),
        "NoError\nNS ns.skydns.local.\nadditional ns.skydns.local. A 172.17.0.1\n"
    );
    assert_eq!(ask("ns.skydns.local. A"), "NoError\nA 172.17.0.1\n");
}

#[test]
fn names_are_case_insensitive() {
    assert_eq!(ask("6.WEB.Shop.SKYDNS.local. A"), NXDOMAIN);
    assert_eq!(ask("1.WEB.Shop.SKYDNS.local. A"), "NoError\nA 10.0.0.2\n");
}

#[test]
fn only_names_below_the_domain_are_ours() {
    let zone = Zone::new("SkyDNS.Local.", []).expect("domain");
    let ours = |name: &str| zone.contains(&Name::from_ascii(name).expect("name"));
    assert!(ours("skydns.local.") && ours("a.b.SKYDNS.LOCAL."));
    assert!(!ours("local.") && !ours(".") && !ours("myskydns.local."));
    assert!(!ours("skydns.local.example.com."));
}

#[test]
fn a_domain_is_checked() {
    for bad in ["", ".", "a..b", "-a.local", "a b", "a_b.local", "é.local"] {
        let error = Zone::new(bad, []).expect_err(bad);
        assert_eq!(error, DomainError::NotADomain(bad.to_owned()));
    }
    let long = format!("{}.local", "a.".repeat(60));
    assert!(matches!(Zone::new(&long, []), Err(DomainError::TooLong(_))));
}

#[test]
fn an_endpoint_of_a_missing_host_is_the_last_resort() {
    let mut cluster = Cluster::default();
    cluster.host("h1");
    cluster.state("shop/web/0", "h1", "10.0.0.1:20000", "ready", "web");
    cluster.state("shop/web/1", "gone", "10.0.0.9:20000", "ready", "web");
    cluster.state("shop/db/0", "gone", "10.0.0.9:20001", "ready", "db");
    let directory = cluster.directory();
    let zone = Zone::new("skydns.local", []).expect("domain");
    let addrs = |name: &str| -> Vec<Option<IpAddr>> {
        let query = Query::query(Name::from_ascii(name).expect("name"), RecordType::A);
        let answer = zone.answer(tables(&directory), &query, 0).expect("ours");
        answer.answers.iter().map(|r| r.data.ip_addr()).collect()
    };
    let ip = |last| Some(IpAddr::from([10, 0, 0, last]));
    assert_eq!(addrs("web.shop.skydns.local."), [ip(1)]);
    assert_eq!(addrs("all.web.shop.skydns.local."), [ip(1)]);
    assert_eq!(addrs("db.shop.skydns.local."), [ip(9)]);
}

#[test]
fn an_app_is_all_its_services() {
    let app = "NoError\n\
         SRV 10 33 20006 a-0.front.blog.skydns.local.\n\
         SRV 10 33 20006 b-0.front.blog.skydns.local.\n\
         SRV 10 33 20007 1.front.blog.skydns.local.\n\
         additional a-0.front.blog.skydns.local. A 10.0.0.1\n\
         additional b-0.front.blog.skydns.local. A 10.0.0.2\n\
         additional 1.front.blog.skydns.local. A 10.0.0.2\n";
    assert_eq!(ask("blog.skydns.local. SRV"), app);
    assert_eq!(ask("*.blog.skydns.local. SRV"), app);
    assert_eq!(ask("any.blog.skydns.local. SRV"), app);
    assert_eq!(
        ask("shop.skydns.local. SRV"),
        "NoError\n\
         SRV 10 25 20004 0.six.shop.skydns.local.\n\
         SRV 10 25 20000 0.web.shop.skydns.local.\n\
         SRV 10 25 20000 1.web.shop.skydns.local.\n\
         SRV 10 25 20001 2.web.shop.skydns.local.\n\
         additional 0.six.shop.skydns.local. AAAA fd00::1\n\
         additional 0.web.shop.skydns.local. A 10.0.0.1\n\
         additional 1.web.shop.skydns.local. A 10.0.0.2\n\
         additional 2.web.shop.skydns.local. A 10.0.0.2\n"
    );
    assert_eq!(ask("shop.skydns.local. AAAA"), "NoError\nAAAA fd00::1\n");
}

#[test]
fn a_wildcard_is_every_app_service_or_instance() {
    let both = "NoError\nA 10.0.0.1\nA 10.0.0.2\n";
    for name in ["*", "*.*", "any.*.*", "web.*", "*.web.shop", "0.*.*"] {
        assert_eq!(ask(&format!("{name}.skydns.local. A")), both, "{name}");
    }
    for (name, addr) in [
        ("1.*.shop", "10.0.0.2"),
        ("a-0.*.any", "10.0.0.1"),
        ("*.all.slow.*", "10.0.0.1"),
    ] {
        let answer = format!("NoError\nA {addr}\n");
        assert_eq!(ask(&format!("{name}.skydns.local. A")), answer, "{name}");
    }
    assert_eq!(
        ask("0.*.shop.skydns.local. SRV"),
        "NoError\n\
         SRV 10 50 20004 0.six.shop.skydns.local.\n\
         SRV 10 50 20000 0.web.shop.skydns.local.\n\
         additional 0.six.shop.skydns.local. AAAA fd00::1\n\
         additional 0.web.shop.skydns.local. A 10.0.0.1\n"
    );
}

#[test]
fn an_address_has_the_name_of_its_host() {
    let name = "1.0.0.10.in-addr.arpa.";
    let answer = "NoError\nPTR h1.hosts.skydns.local.\n";
    assert_eq!(ask(&format!("{name} PTR")), answer);
    assert_eq!(ask("1.0.0.10.IN-ADDR.arpa. PTR"), answer);
    let six = Name::from(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]));
    assert_eq!(ask(&format!("{six} PTR")), answer);
    assert_eq!(ask("h1.hosts.skydns.local. A"), "NoError\nA 10.0.0.1\n");
    let answer = "NoError\nAAAA fd00::1\n";
    assert_eq!(ask("H1.Hosts.skydns.local. AAAA"), answer);
    for other in [
        "3.0.0.10.in-addr.arpa. PTR",
        "01.0.0.10.in-addr.arpa. PTR",
        "0.0.10.in-addr.arpa. PTR",
        "1.1.0.0.10.in-addr.arpa. PTR",
        "1.0.0.10.in-addr.arpa. TXT",
        "x.in-addr.arpa. PTR",
        "example.com. PTR",
    ] {
        assert_eq!(ask(other), "forwarded", "{other}");
    }
}

#[test]
fn a_host_may_have_dots() {
    let mut cluster = Cluster::default();
    cluster.host("h1.example.com");
    cluster.state("shop/web/0", "h1.example.com", "10.0.0.1:1", "ready", "web");
    let directory = cluster.directory();
    let zone = Zone::new("skydns.local", []).expect("domain");
    let code = |name: &str| {
        let name = Name::from_ascii(format!("{name}.hosts.skydns.local.")).expect("name");
        let answer = zone.answer(tables(&directory), &Query::query(name, RecordType::A), 0);
        let answer = answer.expect("ours");
        (answer.code, answer.answers.len())
    };
    assert_eq!(code("h1.example.com"), (ResponseCode::NoError, 1));
    assert_eq!(code("example.com"), (ResponseCode::NoError, 0));
    assert_eq!(code("com"), (ResponseCode::NoError, 0));
    assert_eq!(code("ample.com"), (ResponseCode::NXDomain, 0));
    assert_eq!(code("h1"), (ResponseCode::NXDomain, 0));
}

#[test]
fn instances_of_missing_hosts_come_last() {
    let mut cluster = Cluster::default();
    cluster.host("h1");
    cluster.state("shop/api/0", "gone", "10.0.0.9:1", "ready", "api");
    cluster.state("shop/web/0", "h1", "10.0.0.1:2", "ready", "web");
    cluster.state("shop/web/1", "h1", "10.0.0.2:3", "ready", "web");
    let directory = cluster.directory();
    let zone = Zone::new("skydns.local", []).expect("domain");
    for turn in 0..3 {
        let name = Name::from_ascii("shop.skydns.local.").expect("name");
        let query = Query::query(name, RecordType::SRV);
        let answer = zone.answer(tables(&directory), &query, turn).expect("ours");
        let records = answer.answers.iter().map(|record| record.data.to_string());
        let mut records: Vec<String> = records.collect();
        assert_eq!(records[2], "20 100 1 0.api.shop.skydns.local.");
        records.sort();
        assert_eq!(records[0], "10 50 2 0.web.shop.skydns.local.");
    }
}

/// A question that means everything is answered from the first that there are.
#[test]
fn a_wildcard_stops_after_the_first_thousand() {
    let directory = |apps: u32| {
        let mut cluster = Cluster::default();
        cluster.host("h1");
        for app in 0..apps {
            let addr = format!("10.0.{}.{}:1", app / 250, app % 250);
            cluster.state(&format!("app{app}/web/0"), "h1", &addr, "ready", "web");
        }
        cluster.directory()
    };
    let (few, many) = (directory(1), directory(5_000));
    let zone = Zone::new("skydns.local", []).expect("domain");
    for name in ["*", "web.*", "0.*.*", "0.web.*"] {
        let name = Name::from_ascii(format!("{name}.skydns.local.")).expect("name");
        let query = Query::query(name, RecordType::SRV);
        let count = |directory| {
            zone.answer(tables(directory), &query, 0)
                .map(|a| a.answers.len())
        };
        assert_eq!(count(&few), Some(1));
        assert_eq!(count(&many), Some(500), "{query}");
    }
}

#[test]
fn ready_instances_of_a_host_are_published_under_their_names() {
    let zone = Zone::new("skydns.local", []).expect("domain");
    let published = zone.published(&shop(), &"h1".parse().expect("host"));
    let published: Vec<String> = published
        .iter()
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    let value = |addr: &str, port: u16| {
        format!(r#"{{"dokkaa":"h1","host":"{addr}","port":{port},"ttl":1}}"#)
    };
    assert_eq!(
        published,
        [
            format!(
                "/skydns/local/skydns/blog/front/a-0 {}",
                value("10.0.0.1", 20006)
            ),
            format!(
                "/skydns/local/skydns/shop/six/0 {}",
                value("fd00::1", 20004)
            ),
            format!(
                "/skydns/local/skydns/shop/web/0 {}",
                value("10.0.0.1", 20000)
            ),
        ]
    );
}
