//! What is wrong is refused, or waits, and never stops anything else.

use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{CAP, Cluster, web, with};
use dokkaa_tests::process::Ran;

/// Invalid manifests, with a text of the answer.
const BAD: [(&str, &str); 16] = [
    (r#"{"image": "busybox""#, "1:"),
    (r#"{"image": 7}"#, "image"),
    (
        r#"{"image": "busybox", "link": ["a"]}"#,
        "did you mean `links`",
    ),
    (r#"{"image": "busybox", "image": "other"}"#, "image"),
    (r#"{"image": "busybox"} trailing"#, "1:"),
    (r#"{"image": "busybox", "scale": -1}"#, "scale"),
    (r#"{"image": "busybox", "scale": 1.5}"#, "scale"),
    (
        r#"{"image": "busybox", "services": {"web": 70000}}"#,
        "services",
    ),
    (r#"{"image": "busybox", "services": {"We_b": 80}}"#, "We_b"),
    (r#"{"image": "busybox", "links": ["a", "b:a"]}"#, "links"),
    (
        r#"{"image": "busybox", "connect_timeout": "1s"}"#,
        "not supported yet",
    ),
    (r#"{"image": "busybox", "memory": "much"}"#, "memory"),
    (
        r#"{"image": "busybox", "placement": {"constraints": ["zone=a"]}}"#,
        "constraints",
    ),
    (r#"{"scale": 1}"#, "image"),
    (r#"["busybox"]"#, "1:1"),
    ("", "1:1"),
];

#[test]
fn a_bad_manifest_is_refused() {
    let cluster = Cluster::take();
    let app = cluster.app("refused");
    for (manifest, said) in BAD {
        let answer = app.try_put("web", manifest);
        assert_eq!(answer.status, 400, "{manifest}: {answer:?}");
        let body = answer.json().expect("JSON");
        assert_eq!(body["errorCode"], 209, "{manifest}: {body}");
        let cause = body["cause"].as_str().expect("a cause");
        assert!(cause.contains(said), "{manifest}: {cause}");
        assert_eq!(cluster.lab.etcd().get(&app.key("web")).expect("etcd"), None);
    }
    for name in ["Web", "a---b", "-a", "a_b", &"a".repeat(41)] {
        let answer = app.try_put(name, r#"{"image": "busybox"}"#);
        assert!((400..500).contains(&answer.status), "{name}: {answer:?}");
    }
    assert_eq!(cluster.lab.etcd().list("/apps/refused/").expect("etcd"), []);
}

#[test]
fn a_huge_body_is_refused() {
    let cluster = Cluster::take();
    let host = cluster.lab.host(1);
    let body = format!("value={}", "x".repeat(5 * 1024 * 1024));
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let path = "/v2/keys/apps/huge/web/manifest";
    let answer = host.api("PUT", path, &form, &body).expect("an answer");
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(
        host.api("GET", path, &[], "").expect("an answer").status,
        404
    );
}

/// curl's -d cuts a form at `&`: the answer says what to use instead.
#[test]
fn a_form_that_was_cut_gets_a_hint() {
    let cluster = Cluster::take();
    let host = cluster.lab.host(1);
    let ran = host
        .run(&[
            "curl",
            "--silent",
            "-L",
            "-XPUT",
            "-d",
            r#"value={"image": "busybox", "env": {"A": "b&c"}}"#,
            "http://127.0.0.1:4001/v2/keys/apps/cut/web/manifest",
        ])
        .and_then(Ran::ok)
        .expect("an answer");
    let body: Value = serde_json::from_str(&ran).expect("JSON");
    assert_eq!(body["errorCode"], 209, "{body}");
    assert!(body.to_string().contains("--data-urlencode"), "{body}");
}

/// Whatever stands in etcd, the last good version runs on, and comes back
/// when it crashes; everything else goes on.
#[test]
fn garbage_in_etcd_stops_nothing() {
    let cluster = Cluster::take();
    let app = cluster.app("garbage");
    app.put("web", &with(web("good"), "scale", json!(2)));
    let before = app.ready("web", 2);
    for garbage in ["{ not json", r#"{"image": 3, "scale": "x"}"#, "", "\u{0}"] {
        app.smuggle("web", garbage);
        wait_for("ps to say what is wrong", CAP, || {
            let said = cluster
                .lab
                .host(2)
                .dokkaa(&["ps", "garbage"])
                .map_err(|error| error.to_string())?;
            let text = said.stdout + &said.stderr;
            if text.contains("1:") {
                Ok(())
            } else {
                Err(text)
            }
        });
    }
    app.smuggle("never", "{ not json either");
    wait_for("the log to say what is wrong", CAP, || {
        let log = cluster.lab.host(2).agent_log();
        let said = log
            .lines()
            .any(|line| line.contains("not valid") && line.contains("garbage/never"));
        if said {
            Ok(())
        } else {
            Err("it does not".to_owned())
        }
    });
    app.put("other", &web("other"));
    app.ready("other", 1);
    assert_eq!(
        app.ids("web"),
        before
            .iter()
            .map(|(_, one)| one.id.clone())
            .collect::<Vec<_>>()
    );
    let (host, one) = &before[0];
    host.docker(&["kill", &one.id]).expect("kill");
    wait_for("the last good version", CAP, || {
        let running = app.ids("web").len();
        if running == 2 {
            Ok(())
        } else {
            Err(format!("{running} run"))
        }
    });
    app.put("web", &with(web("good"), "scale", json!(1)));
    app.ready("web", 1);
}

#[test]
fn an_image_that_does_not_exist_says_so_and_waits() {
    let cluster = Cluster::take();
    let app = cluster.app("nowhere");
    app.put("web", &json!({"image": "no/such-image:ever"}));
    app.put("other", &web("other"));
    app.ready("other", 1);
    let row = app.row("web", "without an image", |row| {
        row.reason.contains("no/such-image")
    });
    assert_ne!(row.status, "ready");
    assert!(app.ids("web").is_empty());
}
