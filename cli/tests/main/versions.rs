//! Versions of a container: `history`, `rollback`, `rollout`, and what is done with its slots.

use super::*;

#[test]
fn history_lists_versions_and_what_differs() {
    let api = TestApi::open();
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let first = put_version(
        &api,
        &web(),
        r#"{"image": "a", "scale": 2}"#,
        &digest("1"),
        true,
    );
    let second = put_version(
        &api,
        &web(),
        r#"{"image": "b", "scale": 2, "env": {"LEVEL": "debug"}}"#,
        &digest("2"),
        false,
    );
    api.make_ready(&web(), 0, first);
    api.make_ready(&web(), 1, second);
    let ended = api.run(&["history", "shop/web"]).with(0);
    let lines: Vec<Vec<&str>> = ended
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let (one, two) = (first.to_string(), second.to_string());
    assert_eq!(
        lines,
        [
            &["VERSION", "IMAGE", "DIGEST", "GOOD", "SLOTS", "CHANGED"][..],
            &[
                "*",
                &two,
                "b",
                "sha256:222222222222",
                "-",
                "1",
                "env,",
                "image"
            ],
            &[&one, "a", "sha256:111111111111", "yes", "0"],
        ]
    );
    let json = api
        .run(&["history", "shop/web", "-o", "json"])
        .with(0)
        .json();
    assert_eq!(json["wanted"], second);
    assert_eq!(json["versions"][1]["manifest"]["image"], "a");
    let diff = |args: &[&str]| api.run(&[&["history", "shop/web", "--diff"], args].concat());
    assert_eq!(
        diff(&[&one, &two]).with(0).out,
        "env.LEVEL: none -> \"debug\"\nimage: \"a\" -> \"b\"\n"
    );
    assert_eq!(diff(&[&one]).with(0).out.lines().count(), 2);
    let none = diff(&["7"]).with(1).err;
    assert!(
        none.contains("shop/web has no version 7; there are"),
        "{none}"
    );
    let table = on_terminal(&api, 80, "history shop/web");
    assert!(table.lines().all(|l| l.chars().count() <= 80), "{table}");

    // One that nobody has decided the image of is listed, too.
    api.run(&["set", "shop/web", "image=c"]).with(0);
    let ended = api.run(&["history", "shop/web"]).with(0);
    assert!(ended.out.contains("not decided yet"), "{}", ended.out);
    api.run(&["history", "shop/none"]).with(1);
    api.run(&["history", "shop"]).with(2);
}

#[test]
fn rollback_writes_the_earlier_manifest_and_says_what_changes() {
    let api = TestApi::open();
    let first = put_version(
        &api,
        &web(),
        r#"{"image": "a", "scale": 2}"#,
        "sha256:1",
        true,
    );
    let ended = api.run(&["rollback", "shop/web"]).with(1);
    assert_eq!(
        ended.err,
        format!(
            "shop/web has no earlier version of another manifest; there is only {first} (wanted)\n"
        )
    );
    assert_eq!(api.revision(&web()), Some(first), "nothing was written");
    let second = put_version(
        &api,
        &web(),
        r#"{"image": "b", "scale": 4}"#,
        "sha256:2",
        false,
    );
    for (to, says) in [
        (first + 1000, "has no version"),
        (second, "is to run already"),
    ] {
        let ended = api
            .run(&["rollback", "shop/web", "--to", &to.to_string()])
            .with(1);
        assert!(ended.err.contains(says), "{}", ended.err);
    }
    let there = format!("there are {second} (wanted), {first} (good)\n");
    let ended = api.run(&["rollback", "shop/web", "--to", "1"]).with(1);
    assert!(ended.err.ends_with(&there), "{}", ended.err);
    assert_ne!(api.revision(&web()), None);

    let ended = api.run(&["rollback", "shop/web"]).with(0);
    let now = api.revision(&web()).unwrap();
    assert_eq!(
        ended.out,
        format!(
            "shop/web goes back to version {first} (revision {now})\n  image: \"b\" -> \"a\"\n"
        )
    );
    assert_eq!(ended.err, "");
    let manifest = api.run(&["get", "shop/web"]).with(0).json();
    assert_eq!(
        manifest,
        serde_json::json!({"image": "a", "scale": 4}),
        "as many as there are now"
    );

    // By name, also to one that never was good; and waited for.
    let args = [
        "rollback",
        "shop/web",
        "--to",
        &second.to_string(),
        "--wait",
    ];
    let running = Running::start(api.command(&args));
    wait_for("the manifest", || {
        api.revision(&web()).filter(|at| *at > now)
    });
    for slot in 0..4 {
        api.make_ready(&web(), slot, second);
    }
    let ended = running.end().with(0);
    assert!(
        ended.err.contains("has never stayed ready"),
        "{}",
        ended.err
    );
    api.run(&["rollback", "shop/none"]).with(1);
    api.run(&["rollback", "shop"]).with(2);
}

/// Three slots that run a version, and a newer manifest.
pub(super) fn update_under_way(api: &TestApi) -> (i64, i64) {
    let manifest = r#"{"image": "a", "scale": 3}"#;
    let old = put_version(api, &web(), manifest, "sha256:1", true);
    for slot in 0..3 {
        api.make_ready(&web(), slot, old);
    }
    let manifest = r#"{"image": "b", "scale": 3}"#;
    let new = put_version(api, &web(), manifest, "sha256:2", false);
    api.make_ready(&web(), 0, new);
    (old, new)
}

pub(super) fn put_rollout(api: &TestApi, version: i64, more: Value) {
    let mut rollout = serde_json::json!({"version": version});
    let more = more.as_object().unwrap().clone();
    rollout.as_object_mut().unwrap().extend(more);
    let key = manifests::keys::Key::Rollout(web());
    api.agent.put(&key, rollout.to_string().as_bytes());
}

fn rollout_of(api: &TestApi) -> Option<model::records::Rollout> {
    let seen = api.agent.view().unwrap();
    let rollout = seen.snapshot.containers.get(&web())?.rollout.clone()?;
    Some(rollout.value)
}

#[test]
fn an_update_is_shown_paused_and_resumed() {
    let api = TestApi::open();
    let (old, new) = update_under_way(&api);
    put_rollout(&api, new, serde_json::json!({"updating": [0]}));
    let ended = api.run(&["rollout", "status", "shop/web"]).with(0);
    assert_eq!(
        ended.out,
        format!(
            "shop/web: version {new} (b), 0 of 3 slots: under way\n\
             SLOT  HOST  VERSION  UPDATE   REASON\n\
             0     h1    {new:<7}  watched\n\
             1     h1    {old:<7}  waiting  waiting for its turn to update\n\
             2     h1    {old:<7}  waiting  waiting for its turn to update\n"
        )
    );
    let ended = api.run(&["rollout", "pause", "shop/web"]).with(0);
    let says = "is paused; slots that are under way end it: 0\n";
    assert!(ended.out.ends_with(says), "{}", ended.out);
    let rollout = rollout_of(&api).unwrap();
    assert!(rollout.paused && rollout.version.0 == new);
    assert_eq!(rollout.updating, [0].into());
    let ended = api.run(&["rollout", "status", "shop/web"]).with(0).out;
    let says = "0 of 3 slots: paused; `dokkaa rollout resume shop/web` goes on\n";
    assert!(
        ended.lines().next().unwrap().contains(says.trim()),
        "{ended}"
    );
    assert_eq!(
        ended.matches("  paused   the update is paused").count(),
        2,
        "{ended}"
    );
    let ended = api.run(&["rollout", "pause", "shop/web"]).with(1);
    assert!(ended.err.contains("is paused already"), "{}", ended.err);
    // Who waits is told why.
    let args = ["rollout", "watch", "shop/web", "--timeout", "300ms"];
    let ended = api.run(&args).with(5);
    assert!(
        ended.err.contains("rollout resume shop/web"),
        "{}",
        ended.err
    );

    api.run(&["rollout", "resume", "shop/web"]).with(0);
    let rollout = rollout_of(&api).unwrap();
    assert!(!rollout.paused && rollout.updating == [0].into());
    let ended = api.run(&["rollout", "resume", "shop/web"]).with(1);
    assert!(
        ended.err.contains("neither paused nor halted"),
        "{}",
        ended.err
    );

    // Halted, and why; its failures are forgotten.
    let halted = serde_json::json!({"failed": true, "failures": [0], "reason": "exit code 7"});
    put_rollout(&api, new, halted);
    let ended = api.run(&["rollout", "status", "shop/web"]).with(4).out;
    let says = "halted, slot 0 failed: exit code 7\n";
    assert!(ended.contains(says), "{ended}");
    assert_eq!(ended.matches("  kept ").count(), 2, "{ended}");
    let ended = api.run(&["rollout", "watch", "shop/web"]).with(4);
    assert!(
        ended.err.ends_with("slot 0: exit code 7\n"),
        "{}",
        ended.err
    );
    api.run(&["rollout", "resume", "shop/web"]).with(0);
    assert_eq!(rollout_of(&api), None);

    // It ends.
    for slot in 1..3 {
        api.make_ready(&web(), slot, new);
    }
    let ended = api.run(&["rollout", "status", "shop/web"]).with(0).out;
    assert!(ended.contains("3 of 3 slots: done\n"), "{ended}");
    let ended = api.run(&["rollout", "watch", "shop/web"]).with(0);
    assert_eq!(ended.out, "shop/web converged: 3 of 3 slots ready\n");
    let ended = api.run(&["rollout", "pause", "shop/web"]).with(1);
    assert!(ended.err.contains("nothing to pause"), "{}", ended.err);
    let json = api.run(&["rollout", "status", "shop/web", "-o", "json"]);
    assert_eq!(json.with(0).json()["containers"][0]["version"], new);
    for verb in ["status", "pause", "resume", "watch"] {
        api.run(&["rollout", verb, "shop/none"]).with(1);
        api.run(&["rollout", verb, "shop"]).with(2);
    }
    api.run(&["rollout"]).with(2);
}

#[test]
fn containers_are_restarted_stopped_and_started() {
    let api = TestApi::open();
    let job: ContainerId = "shop/job".parse().unwrap();
    for id in [&web(), &job] {
        let revision = api.agent.put_manifest(id, r#"{"image": "a", "scale": 2}"#);
        for slot in 0..2 {
            api.make_ready(id, slot, revision);
        }
    }
    let manifest = |id: &str| api.run(&["get", id]).with(0).json();
    let ended = api.run(&["restart", "shop/web"]).with(0);
    assert!(ended.out.starts_with("shop/web restarts (revision "));
    let at = manifest("shop/web")["restarted_at"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(at.parse::<jiff::Timestamp>().is_ok(), "{at}");
    assert_eq!(manifest("shop/job").get("restarted_at"), None);
    api.run(&["restart", "shop/web"]).with(0);
    assert_ne!(manifest("shop/web")["restarted_at"], at);

    let ended = api.run(&["restart", "shop/job", "--slot", "1"]).with(0);
    assert!(ended.out.starts_with("shop/job/1 on "), "{}", ended.out);
    assert_eq!(manifest("shop/job").get("restarted_at"), None);
    let ended = api.run(&["restart", "shop/job", "--slot", "2"]).with(1);
    let says = "shop/job has no slot 2; it has 0, 1";
    assert!(ended.err.contains(says), "{}", ended.err);
    let ended = api.run(&["restart", "shop", "--slot", "1"]).with(2);
    let says = "such as `dokkaa restart shop/web --slot 1`";
    assert!(ended.err.contains(says), "{}", ended.err);

    let ended = api.run(&["stop", "shop"]).with(0);
    assert!(ended.out.starts_with("shop/job stops (revision "));
    assert_eq!(ended.out.lines().count(), 2);
    assert_eq!(
        manifest("shop/job"),
        serde_json::json!({"image": "a", "scale": 2, "stopped": true})
    );
    let ps = api.run(&["ps", "shop/job"]).with(0).out;
    assert_eq!(
        ps.matches("stopping (the container is stopped)").count(),
        2,
        "{ps}"
    );
    let ended = api.run(&["stop", "shop/web"]).with(0);
    assert!(
        ended
            .out
            .starts_with("shop/web is stopped already (revision ")
    );
    let ended = api.run(&["restart", "shop/web"]).with(1);
    assert_eq!(
        ended.err,
        "shop/web: it is stopped; `dokkaa start shop/web` starts it\n"
    );
    let ended = api.run(&["restart", "shop"]).with(0);
    assert_eq!((ended.out.as_str(), ended.err.lines().count()), ("", 2));

    // Waited for until nothing of it is left.
    let running = Running::start(api.command(&["stop", "shop/job", "--wait"]));
    for slot in 0..2 {
        api.agent
            .delete(&manifests::keys::Key::Claim(job.slot(slot)));
    }
    let ended = running.end().with(0);
    assert!(
        ended
            .out
            .ends_with("shop/job converged: 0 of 0 slots ready\n")
    );
    let row = |list: &str| -> Vec<String> {
        let out = api.run(&[list, "shop/job"]).with(0).out;
        let row = out.lines().nth(1).unwrap().split_whitespace();
        row.map(str::to_owned).collect()
    };
    assert_eq!(row("ps")[4], "stopped");
    assert_eq!(row("apps")[2], "stopped");
    let why = api.run(&["why", "shop/job"]).with(0).out;
    assert!(
        why.contains(", stopped; `dokkaa start shop/job` starts it\n"),
        "{why}"
    );
    let ended = api.run(&["rollout", "status", "shop/job"]).with(0);
    assert!(
        ended.out.contains("stopped; `dokkaa start"),
        "{}",
        ended.out
    );

    let ended = api.run(&["start", "shop/job"]).with(0);
    assert!(ended.out.starts_with("shop/job starts (revision "));
    assert_eq!(
        manifest("shop/job"),
        serde_json::json!({"image": "a", "scale": 2})
    );
    let ended = api.run(&["start", "shop/job"]).with(0);
    assert!(ended.out.starts_with("shop/job is not stopped (revision "));
    api.run(&["scale", "shop/job=0"]).with(0);
    let ended = api.run(&["start", "shop/job"]).with(0);
    assert!(
        ended.err.contains("dokkaa scale shop/job=1"),
        "{}",
        ended.err
    );
    for verb in ["restart", "stop", "start"] {
        let ended = api.run(&[verb, "shop/none"]).with(1);
        assert_eq!(ended.err, "there is no container shop/none\n");
        let ended = api.run(&[verb, "none"]).with(1);
        assert_eq!(ended.err, "there is no app none\n");
        api.run(&[verb]).with(2);
    }
}
