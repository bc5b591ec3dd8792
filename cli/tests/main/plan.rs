//! `plan`, `diff` and `apply --prune`.

use manifests::ContainerId;

use super::{TestApi, WEB, web};

fn id(text: &str) -> ContainerId {
    text.parse().unwrap()
}

/// `shop/web` with two slots that are ready, and a directory with its file.
fn running() -> TestApi {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    for slot in 0..2 {
        api.make_ready(&web(), slot, revision);
    }
    api.file("all/shop/web.json", WEB);
    api
}

#[test]
fn a_plan_says_what_would_change_and_writes_nothing() {
    let api = running();
    let ended = api.run(&["plan", "all"]).with(0);
    assert_eq!(ended.out, "containers: 1 unchanged; slots: 2 kept\n");

    let new = WEB.replace("\"a\"", "\"b\"").replace(": 2", ": 3");
    api.file("all/shop/web.json", &new);
    let db = r#"{"image": "db", "before": {"command": ["migrate", "--all"]}}"#;
    api.file("all/shop/db.json", db);
    let before = api.revision(&web());
    let ended = api.run(&["plan", "all"]).with(10);
    assert_eq!(
        ended.out,
        "shop/db created
  slot 0 created on h1
  first, once: migrate --all (`before`)

shop/web changed
  image: a -> b
  scale: 2 -> 3 (replaces nothing)
  slots 0, 1 replaced on h1
  slot 2 created on h1
  start-first, 1 at a time

containers: 1 created, 1 changed; slots: 2 created, 2 replaced
"
    );
    assert_eq!(ended.err, "");
    let json = api.run(&["plan", "all", "-o", "json"]).with(10).json();
    assert_eq!(json["changes"], true);
    assert_eq!(json["containers"][1]["slots"][0]["reason"], "image: a -> b");
    assert_eq!(api.revision(&web()), before);
    assert_eq!(api.revision(&id("shop/db")), None);
}

#[test]
fn a_plan_takes_what_apply_and_set_take() {
    let api = running();
    let file = ["plan", "shop/web", "all/shop/web.json"];
    api.run(&file).with(0);
    api.run(&["plan", "all/shop/web.json"]).with(0);
    let ended = api.run(&["plan", "shop/web", "scale=1"]).with(10);
    assert!(
        ended.out.contains("  slot 1 removed from h1\n"),
        "{}",
        ended.out
    );
    let ended = api
        .run(&["plan", "shop/web", "image=b", "env.A=1"])
        .with(10);
    assert!(ended.out.contains("  env.A: none -> 1\n"), "{}", ended.out);

    for (args, said) in [
        (&["plan", "nowhere"][..], "no such file or directory"),
        (&["plan", "shop/web"], "FIELD=VALUE"),
        (&["plan", "web", "scale=1"], "not app/container"),
        (&["plan", "shop/web", "image"], "image: No such file"),
        (&["plan", "shop/web", "image", "scale=1"], "FIELD=VALUE"),
        (&["plan", "shop/web", "scale=1", "--prune"], "directory"),
    ] {
        let ended = api.run(args).with(2);
        assert!(ended.err.contains(said), "{args:?}: {}", ended.err);
    }
    api.file("web.json", WEB);
    let ended = api.run(&["plan", "web.json"]).with(2);
    assert!(
        ended.err.contains("dokkaa plan shop/web web.json"),
        "{}",
        ended.err
    );
    api.run(&["plan", "shop/none", "scale=1"]).with(1);
}

#[test]
fn a_plan_of_an_invalid_manifest_says_what_validate_says() {
    let api = running();
    api.file("all/shop/web.json", "{\"image\": 1}");
    let validated = api.run(&["validate", "all"]).with(3);
    let planned = api.run(&["plan", "all"]).with(3);
    assert_eq!(planned.err, validated.err);
    assert_eq!(api.run(&["diff", "all"]).with(3).err, validated.err);
}

#[test]
fn a_diff_shows_fields_of_both_sides() {
    let api = running();
    api.run(&["diff", "all"]).with(0);
    let new = WEB.replace("\"a\"", "\"b\"");
    api.file("all/shop/web.json", &new);
    let revision = api.revision(&web()).unwrap();
    let ended = api.run(&["diff", "all"]).with(10);
    assert_eq!(
        ended.out,
        format!(
            "--- shop/web (revision {revision})
+++ all/shop/web.json
-image: a
+image: b
"
        )
    );
    api.file("all/shop/db.json", r#"{"image": "db"}"#);
    api.agent
        .put_manifest(&id("shop/old"), r#"{"image": "old"}"#);
    let ended = api.run(&["diff", "all", "--prune"]).with(10);
    assert!(
        ended
            .out
            .starts_with("--- /dev/null\n+++ all/shop/db.json\n+image: db\n--- shop/old"),
        "{}",
        ended.out
    );
    assert!(
        ended.out.contains("+++ /dev/null\n-image: old\n"),
        "{}",
        ended.out
    );
}

#[test]
fn a_prune_removes_what_the_named_apps_have_besides() {
    let api = running();
    let old = id("shop/old");
    let other = id("blog/web");
    for id in [&old, &other] {
        let revision = api.agent.put_manifest(id, r#"{"image": "a"}"#);
        api.make_ready(id, 0, revision);
    }
    let ended = api.run(&["plan", "all", "--prune"]).with(10);
    assert_eq!(
        ended.out,
        "shop/old removed
  slot 0 removed from h1

containers: 1 unchanged, 1 removed; slots: 1 removed, 2 kept
"
    );
    let ended = api.run(&["apply", "all", "--prune"]).with(2);
    assert!(ended.err.contains("--yes"), "{}", ended.err);
    assert!(api.revision(&old).is_some());
    api.run(&["apply", "shop/web", "all/shop/web.json", "--prune", "--yes"])
        .with(2);
    let ended = api.run(&["apply", "all", "--prune", "--yes"]).with(0);
    assert!(ended.out.ends_with("shop/old removed\n"), "{}", ended.out);
    assert_eq!(api.revision(&old), None);
    assert!(api.revision(&other).is_some());
    let ended = api.run(&["apply", "all", "--prune", "--yes"]).with(0);
    assert!(!ended.out.contains("removed"), "{}", ended.out);
}
