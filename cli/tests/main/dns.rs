//! `dns` and `dns install`.

use super::*;

#[test]
fn dns_install_prints_what_it_would_do() {
    let api = TestApi::open();
    let printed = api.run(&["dns", "install", "--print"]).with(0).out;
    assert!(printed.starts_with("# "), "{printed}");
    assert!(printed.contains("172.17.0.1"), "{printed}");
    api.run(&["dns"]).with(2);
}

#[test]
fn dns_explains_a_name() {
    let api = TestApi::open();
    api.agent.set_name(NameReport {
        name: "web.shop".to_owned(),
        meaning: "the ready instances of service web of app shop".to_owned(),
        records: vec!["web.shop.skydns.local. 1 IN A 10.0.0.1".to_owned()],
        left_out: vec![LeftOut {
            slot: web().slot(1),
            host: "h2".parse().unwrap(),
            reason: "it is not ready".to_owned(),
        }],
        hidden: 2,
        ..NameReport::default()
    });
    let ended = api.run(&["dns", "web.shop"]).with(0);
    assert_eq!(
        ended.out,
        "web.shop: the ready instances of service web of app shop\n  \
         web.shop.skydns.local. 1 IN A 10.0.0.1\n\n\
         not in the answers\n  shop/web/1 on h2: it is not ready\n\n\
         not answered either: 2 keys under /skydns, since the cluster has this name\n"
    );
    let json = api.run(&["dns", "web.shop", "-o", "json"]).with(0).json();
    assert_eq!(json["left_out"][0]["reason"], "it is not ready");
    let wrong = ["db", "db/1"].map(|name| {
        let key = format!("/skydns/local/skydns/{name}");
        (key, "it is not a JSON object".to_owned())
    });
    api.agent.set_name(NameReport {
        name: "db".to_owned(),
        meaning: "no such name".to_owned(),
        unreadable: wrong.into_iter().collect(),
        ..NameReport::default()
    });
    let ended = api.run(&["dns", "db"]).with(0);
    assert_eq!(
        ended.out,
        "db: no such name\n\n\
         the record at /skydns/local/skydns/db is not in DNS: it is not a JSON object\n\
         the record at /skydns/local/skydns/db/1 is not in DNS: it is not a JSON object\n"
    );
    api.run(&["dns", "no-name"]).with(1);
    api.run(&["dns", "a/b"]).with(2);
}
