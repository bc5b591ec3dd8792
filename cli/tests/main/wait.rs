//! `--wait` and `wait`: how they end, and what they say meanwhile.

use super::versions::{put_rollout, update_under_way};
use super::*;

#[test]
fn wait_ends_when_the_last_slot_has_proven_itself() {
    let api = TestApi::open();
    let (_, new) = update_under_way(&api);
    for slot in 1..3 {
        api.make_ready(&web(), slot, new);
    }
    put_rollout(&api, new, serde_json::json!({"updating": [2]}));
    let mut running = Running::start(api.command(&["rollout", "watch", "shop/web"]));
    let mut notes = BufReader::new(running.0.stderr.take().unwrap()).lines();
    assert!(notes.next().unwrap().unwrap().contains("Ctrl-C"));
    assert_eq!(
        notes.next().unwrap().unwrap(),
        "shop/web: 3 of 3 slots ready; slot 2 has to stay ready for `update.monitor`"
    );
    api.agent.delete(&manifests::keys::Key::Rollout(web()));
    assert!(wait_for("its end", || running.0.try_wait().unwrap()).success());
}

#[test]
fn on_a_terminal_each_slot_has_a_line() {
    let api = TestApi::open();
    let (_, new) = update_under_way(&api);
    put_rollout(&api, new, serde_json::json!({"updating": [0]}));
    let line = format!(
        "stty cols 80 rows 24; {} rollout watch shop/web --timeout 1s; exit 0",
        env!("CARGO_BIN_EXE_dokkaa")
    );
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .env("DOKKAA_ADDR", format!("http://{}", api.addr))
        .env("TERM", "xterm")
        .stdin(Stdio::null());
    let shown = Ended::of(script.output().expect("script, of util-linux")).with(0);
    let shown = shown.out.replace('\r', "");
    let block = format!(
        "shop/web: version {new} (b), 0 of 3 slots: under way\n\
         shop/web/0  h1  watched\n\
         shop/web/1  h1  waiting    waiting for its turn to update\n\
         shop/web/2  h1  waiting    waiting for its turn to update\n\u{1b}[4A"
    );
    assert!(shown.contains(&block), "{shown:?}");
    // What moves the cursor has no width.
    let mut lines = shown
        .lines()
        .map(|line| line.replace("\u{1b}[4A\u{1b}[J", ""));
    assert!(lines.all(|line| line.chars().count() <= 80), "{shown}");
}

#[test]
fn wait_ends_converged() {
    let api = TestApi::open();
    api.file("web.json", WEB);
    let args = [
        "apply",
        "shop/web",
        "web.json",
        "--wait",
        "--timeout",
        "30s",
    ];
    let running = Running::start(api.command(&args));
    let revision = wait_for("the manifest", || api.revision(&web()));
    for slot in 0..2 {
        api.make_ready(&web(), slot, revision);
    }
    let version = format!("{{\"manifest\": {WEB}, \"image\": \"sha256:1\"}}");
    let key = manifests::keys::Key::Version(web(), revision);
    api.agent.put(&key, version.as_bytes());
    let ended = running.end().with(0);
    assert!(
        ended
            .out
            .ends_with("shop/web converged: 2 of 2 slots ready\n"),
        "{}",
        ended.out
    );
}

#[test]
fn wait_ends_failed_with_the_slot_and_its_last_lines() {
    let api = TestApi::open();
    api.file("web.json", WEB);
    let args = ["apply", "shop/web", "web.json", "--wait"];
    let running = Running::start(api.command(&args));
    let revision = wait_for("the manifest", || api.revision(&web()));
    api.agent.claim(&web().slot(1), "h1", revision);
    api.agent.put_status(&web().slot(1), "h1", |status| {
        status.progress = Progress::Failed;
        status.version = model::VersionId(revision);
        status.reason = Some("no such image".to_owned());
        status.log = vec!["last words".to_owned()];
    });
    let ended = running.end().with(4);
    let expected = "shop/web failed: slot 1: no such image\n  | last words\n";
    assert!(ended.err.ends_with(expected), "{}", ended.err);
}

#[test]
fn wait_ends_timed_out_with_what_it_waits_for() {
    let api = TestApi::open();
    api.file("web.json", WEB);
    let args = [
        "apply",
        "shop/web",
        "web.json",
        "--wait",
        "--timeout",
        "500ms",
    ];
    let ended = api.run(&args).with(5);
    assert!(
        ended
            .err
            .contains("timed out after 500ms: 0 of 2 slots ready"),
        "{}",
        ended.err
    );
    // Scale 0 is there at once.
    let version = api.revision(&web()).unwrap();
    assert!(version > 0);
    api.run(&["scale", "shop/web=0", "--wait"]).with(0);
}

#[test]
fn wait_gives_up_soon_on_what_no_host_may_take() {
    let api = TestApi::open();
    let manifest = r#"{"image": "a", "placement": {"constraints": ["disk==ssd"]}}"#;
    api.file("web.json", manifest);
    let start = Instant::now();
    let ended = api
        .run(&["apply", "shop/web", "web.json", "--wait"])
        .with(4);
    assert!(start.elapsed() >= Duration::from_secs(10));
    let reason = "no host can run it: h1: disk==ssd is asked for, and disk is not set";
    let told: Vec<&str> = ended.err.lines().collect();
    assert!(
        told[0].contains("Ctrl-C ends the wait only"),
        "{}",
        ended.err
    );
    assert_eq!(
        told[1..],
        [
            format!("shop/web: 0 of 1 slots ready; slot 0 waiting: {reason}"),
            format!("shop/web failed: slot 0: {reason}"),
        ]
    );
    let args = ["scale", "shop/web=2", "--wait", "--timeout", "300ms"];
    api.run(&args).with(5);
}
