//! Lists and what explains them: `ps`, `hosts`, `status`, `why`, `apps`, on terminals too.

use super::*;

#[test]
fn ps_shows_every_slot_and_its_reason_in_one_line_each() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    api.make_ready(&web(), 0, revision);
    api.agent
        .put_status(&web().slot(0), "h1", |status| status.restarts = 1);
    api.agent.claim(&web().slot(1), "h1", revision);
    api.agent.put_status(&web().slot(1), "h1", |status| {
        status.progress = Progress::Waiting;
        status.reason = Some("exit code 1:\nsegfault\u{1b}[31m".to_owned());
    });
    let key = manifests::keys::Key::Manifest("shop/bad".parse().unwrap());
    api.agent.put(&key, b"garbage");
    let ended = api.run(&["ps"]).with(0);
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ended.out);
    assert!(
        !ended.out.contains('\u{1b}'),
        "no colour, whatever a reason says"
    );
    let columns: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(
        columns,
        [
            "APP",
            "CONTAINER",
            "SLOT",
            "HOST",
            "STATUS",
            "AGE",
            "PORTS",
            "REASON"
        ]
    );
    assert!(lines[1].contains("invalid manifest: 1:1"), "{}", lines[1]);
    assert!(lines[2].contains("web=10.0.0.1:20000") && lines[2].contains("restarted once"));
    assert!(lines[3].contains("exit code 1: segfault"), "{}", lines[3]);

    let json = api.run(&["ps", "shop/web", "-o", "json"]).with(0).json();
    assert_eq!(json["slots"].as_array().unwrap().len(), 2);
    assert_eq!(json["slots"][1]["status"], "waiting");
    api.run(&["ps", "other"]).with(1);
}

#[test]
fn a_link_to_a_service_that_nobody_offers_is_a_warning_everywhere() {
    let api = TestApi::open();
    let warning = "link `cahce`: no container offers this service; did you mean `cache`?";
    api.file(
        "all/shop/app.json",
        r#"{"image": "a", "links": ["cahce", "db"]}"#,
    );
    api.file(
        "all/shop/redis.json",
        r#"{"image": "a", "services": {"cache": 1, "db": 2}}"#,
    );
    // `db` is there once all are written.
    let ended = api.run(&["apply", "all"]).with(0);
    assert_eq!(ended.err, format!("shop/app: warning: {warning}\n"));
    let ended = api.run(&["apply", "shop/app", "all/shop/app.json"]).with(0);
    assert_eq!(ended.err, format!("shop/app: warning: {warning}\n"));
    let ended = api.run(&["scale", "shop/app=2"]).with(0);
    assert_eq!(ended.err, format!("shop/app: warning: {warning}\n"));

    let ps = api.run(&["ps", "shop/app"]).with(0).out;
    assert_eq!(ps.matches(warning).count(), 1, "{ps}");
    let json = api.run(&["ps", "-o", "json"]).with(0).json();
    assert_eq!(json["containers"][0]["warnings"][0], warning);
    let why = api.run(&["why", "shop/app"]).with(0).out;
    assert!(why.contains(&format!("warning: {warning}\n")), "{why}");
    let status = api.run(&["status"]).with(0).out;
    assert!(
        status.contains(&format!("  shop/app: {warning}\n")),
        "{status}"
    );

    let ended = api
        .run(&["set", "shop/app", "links=[\"cache\",\"db\"]"])
        .with(0);
    assert_eq!(ended.err, "");
    let status = api.run(&["status"]).with(0).out;
    assert!(!status.contains("link"), "{status}");
}

#[test]
fn a_link_to_a_udp_service_is_refused() {
    let api = TestApi::open();
    api.file(
        "dns.json",
        r#"{"image": "a", "services": {"dns": {"port": 53, "protocol": "udp"}}}"#,
    );
    api.file("app.json", r#"{"image": "a", "links": ["dns"]}"#);
    api.run(&["apply", "shop/dns", "dns.json"]).with(0);
    let ended = api.run(&["apply", "shop/app", "app.json"]).with(3);
    let says = "shop/app:1:1 links: link `dns`: the service is UDP, and links carry TCP only";
    assert!(ended.err.starts_with(says), "{}", ended.err);
    api.run(&["get", "shop/app"]).with(1);
}

#[test]
fn ps_watch_tells_each_change() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    let mut running = Running::start(api.command(&["ps", "--watch", "-o", "json"]));
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["slots"][0]["status"], "waiting");
    api.make_ready(&web(), 0, revision);
    let end = Instant::now() + LONG;
    while next()["slots"][0]["status"] != "ready" {
        assert!(Instant::now() < end);
    }
}

#[test]
fn hosts_status_and_why_are_for_people_and_programs() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(
        &web(),
        "{\"image\": \"a\", \"scale\": 2, \"links\": [\"db\"]}",
    );
    api.make_ready(&web(), 0, revision);
    api.agent.put_host("h2", None);
    let hosts = api.run(&["hosts"]).with(0).out;
    assert_eq!(hosts.lines().count(), 3);
    let json = api.run(&["hosts", "-o", "json"]).with(0).json();
    assert_eq!(json["hosts"][0]["slots"], 1);
    let status = api.run(&["status"]).with(0).out;
    assert!(status.contains("hosts    2 up"), "{status}");
    assert!(status.contains("slots    1 ready, 1 waiting"), "{status}");
    assert_eq!(api.run(&["status", "-o", "json"]).with(0).json()["apps"], 1);
    let ended = api.run(&["why", "shop/web"]).with(0);
    for line in [
        "slot 0 on h1 ready",
        "slot 1 waiting: h2 is about to claim it",
        "  h2: is to take it",
        "link shop/db by SERVICE_DB_ADDR, port 10000",
        "  no endpoint: no running container offers this service",
    ] {
        assert!(
            ended.out.lines().any(|l| l == line),
            "{line} is not in\n{}",
            ended.out
        );
    }
    let json = api.run(&["why", "shop/web", "-o", "json"]).with(0).json();
    assert_eq!(json["slots"][1]["hosts"][0]["host"], "h2");
    api.run(&["why", "shop/none"]).with(1);
}

#[test]
fn what_is_old_is_said_to_be() {
    let api = TestApi::open();
    api.agent.put_manifest(&web(), WEB);
    api.agent.set_stale(true);
    let ended = api.run(&["ps"]).with(0);
    assert!(ended.err.contains("last known state"), "{}", ended.err);
    assert_eq!(ended.out.lines().count(), 3);
    let ended = api.run(&["hosts"]).with(0);
    assert!(ended.err.contains("last known state"), "{}", ended.err);
    let status = |api: &TestApi| api.run(&["status"]).with(0).out;
    assert!(status(&api).contains("etcd     answers"));
    api.agent.set_hold(Some("/dokkaa/cluster is missing"));
    let held = status(&api);
    assert!(held.contains("etcd     answers, but is not trusted (in hold)"));
    assert!(held.contains("is in hold: /dokkaa/cluster is missing"));
    api.agent.mem_kv().set_unavailable(true);
    assert!(status(&api).contains("etcd     does not answer"));
}

#[test]
fn what_is_scaled_to_0_is_listed_and_apps_are_too() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    api.make_ready(&web(), 0, revision);
    let job = "shop/job".parse().unwrap();
    api.agent
        .put_manifest(&job, r#"{"image": "b", "scale": 0}"#);
    let ps = api.run(&["ps", "shop/job"]).with(0).out;
    let row: Vec<&str> = ps.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..7], ["shop", "job", "-", "-", "scaled", "to", "0"]);
    let apps = api.run(&["apps"]).with(0).out;
    let rows: Vec<Vec<&str>> = apps
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["APP", "CONTAINER", "READY", "IMAGE", "NOTES"]);
    assert_eq!(rows[1], ["shop", "job", "0/0", "b"]);
    assert_eq!(rows[2][..4], ["shop", "web", "1/2", "a"]);
    let json = api.run(&["apps", "shop", "-o", "json"]).with(0).json();
    assert_eq!(json["apps"][0]["containers"][1]["ready"], 1);
    api.run(&["apps", "none"]).with(1);
    let wide = api.run(&["ps", "-o", "wide", "shop/web"]).with(0).out;
    assert!(wide.lines().next().unwrap().contains("IMAGE"), "{wide}");
    let row: Vec<&str> = wide.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[7..9], ["a", &revision.to_string()]);
}

#[test]
fn a_terminal_gets_what_fits_and_nothing_that_it_would_obey() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    api.make_ready(&web(), 0, revision);
    api.agent.log(
        &web().slot(0),
        [record(0, "a\u{1b}]0;title\u{7}\u{1b}[2Jb")],
    );
    let logs = on_terminal(&api, 80, "logs shop/web/0");
    assert_eq!(logs, "ab\n");
    let raw = on_terminal(&api, 80, "logs --raw shop/web/0");
    assert!(raw.contains("\u{1b}[2J"), "{raw:?}");

    api.agent.claim(&web().slot(1), "h1", revision);
    let reason = "a long reason ".repeat(12);
    api.agent.put_status(&web().slot(1), "h1", |status| {
        status.progress = Progress::Waiting;
        status.reason = Some(reason.clone());
    });
    let ps = on_terminal(&api, 80, "ps");
    assert!(ps.lines().all(|line| line.chars().count() <= 80), "{ps}");
    assert!(ps.contains("\n    a long reason a long"), "{ps}");
    assert!(ps.lines().next().unwrap().contains("STATUS"), "{ps}");
    assert_eq!(on_terminal(&api, 0, "ps"), ps, "80 where it is not known");
}

#[test]
fn every_table_fits_80_columns_and_breaks_no_word() {
    let api = TestApi::open();
    let id: ContainerId = "online-shop/web-frontend".parse().unwrap();
    let host = "ip-10-20-30-40";
    let revision = api.agent.put_manifest(&id, WEB);
    api.agent.put_host(host, None);
    api.agent.claim(&id.slot(0), host, revision);
    let ports = [("web", 20_000), ("admin", 20_001), ("metrics", 20_002)];
    api.agent.put_state(&id.slot(0), host, Phase::Ready, &ports);
    let image = format!("registry.example.com/team/web@sha256:{}", "0".repeat(64));
    let now = jiff::Timestamp::now().as_millisecond();
    let pulled = Happened::of_slot(&id.slot(0), Kind::Exited, format!("{image} was pulled"));
    api.agent.happens(now, pulled);
    for list in ["ps", "apps", "hosts", "volumes", "events"] {
        for columns in [80, 0] {
            let text = on_terminal(&api, columns, list);
            assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        }
    }
    let ps = on_terminal(&api, 80, "ps");
    assert!(ps.ends_with("\n(-o wide shows AGE, too)\n"), "{ps}");
    for (service, port) in ports {
        let address = format!("{service}=10.0.0.1:{port}");
        assert!(ps.contains(&address), "{ps}");
    }
    let wide = on_terminal(&api, 80, "ps -o wide");
    assert!(wide.lines().any(|line| line.contains("CONTAINER ID")));
    let help = on_terminal(&api, 0, "ps -h");
    assert!(help.contains("Only this app or container"));
}
