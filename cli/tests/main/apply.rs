//! Manifests in and out: `validate`, `apply`, `get`, `rm`, `set`.

use super::*;

#[test]
fn validate_needs_no_agent_and_names_every_mistake() {
    let api = TestApi::open();
    api.file("good.json", WEB);
    api.file("bad.json", "{\n \"imag\": \"a\",\n \"scale\": -1\n}");
    let ended = api.run(&["validate", "good.json"]).with(0);
    assert_eq!(
        (ended.out.as_str(), ended.err.as_str()),
        ("good.json: valid\n", "")
    );
    let odd = r#"{"scale": 1, "image": "a", "env": {"SERVICE_DB_ADDR": "x"}}"#;
    api.file("odd.json", odd);
    let ended = api.run(&["validate", "odd.json"]).with(0);
    assert_eq!(ended.out, "odd.json: valid\n");
    let warning = "1:36 env.SERVICE_DB_ADDR";
    assert!(ended.err.contains(warning), "{}", ended.err);
    let planned = api.run(&["plan", "shop/web", "odd.json"]).with(10);
    assert!(planned.out.contains(warning), "{}", planned.out);
    // Once it is written, nobody need have that text.
    api.run(&["apply", "shop/web", "odd.json"]).with(0);
    let ps = api.run(&["ps", "shop/web"]).with(0).out;
    assert!(ps.contains("env.SERVICE_DB_ADDR: "), "{ps}");
    assert!(!ps.contains(warning), "{ps}");
    let ended = api.run(&["validate", "bad.json", "good.json"]).with(3);
    let quiet = api
        .run(&["validate", "-q", "bad.json", "good.json"])
        .with(3);
    assert_eq!(quiet.err, ended.err, "errors are no notices");
    assert!(ended.err.lines().count() >= 2, "{}", ended.err);
    assert!(ended.err.lines().all(|line| line.starts_with("bad.json:")));
    assert!(ended.err.contains("did you mean"), "{}", ended.err);
    api.run(&["validate", "missing.json"]).with(2);
    let mut command = api.command(&["validate", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"{").unwrap();
    Ended::of(child.wait_with_output().unwrap()).with(3);
}

#[test]
fn manifests_go_in_and_come_out_as_they_were_written() {
    let api = TestApi::open();
    api.file("web.json", WEB);
    let ended = api.run(&["apply", "shop/web", "web.json"]).with(0);
    assert!(
        ended.out.starts_with("shop/web created (revision "),
        "{}",
        ended.out
    );
    let ended = api.run(&["apply", "shop/web", "web.json"]).with(0);
    assert!(ended.out.contains("unchanged"), "{}", ended.out);
    assert_eq!(api.run(&["get", "shop/web"]).with(0).out, WEB);
    let ended = api.run(&["get", "shop/none"]).with(1);
    assert_eq!(ended.err, "there is no container shop/none\n");
    api.run(&["get", "shop"]).with(2);
    api.run(&["rm", "shop/web", "--yes"]).with(0);
    assert_eq!(api.revision(&web()), None);
    api.run(&["rm", "shop/web", "--yes"]).with(1);
}

#[test]
fn a_directory_is_checked_whole_before_the_first_is_written() {
    let api = TestApi::open();
    api.file("all/shop/web.json", WEB);
    api.file("all/shop/db.json", "{\"scale\": 1}");
    api.file("all/README.md", "not a manifest");
    let ended = api.run(&["apply", "all"]).with(3);
    assert!(ended.err.contains("db.json:1:1"), "{}", ended.err);
    assert_eq!(api.revision(&web()), None, "nothing was written");
    api.file("all/shop/db.json", WEB);
    let ended = api.run(&["apply", "all"]).with(0);
    assert_eq!(ended.out.lines().count(), 2);
    let ended = api.run(&["rm", "shop", "--yes"]).with(0);
    assert_eq!(ended.out, "shop/db removed\nshop/web removed\n");
    api.file("all/web.json", WEB);
    api.run(&["apply", "all"]).with(2);
    api.run(&["apply", "nowhere"]).with(2);
    api.run(&["apply", "nowhere", "all/web.json"]).with(2);
}

#[test]
fn rm_asks_on_a_terminal_only() {
    let api = TestApi::open();
    api.agent.put_manifest(&web(), WEB);
    let ended = api.run(&["rm", "shop/web"]).with(2);
    assert!(ended.err.contains("--yes"), "{}", ended.err);
    assert!(api.revision(&web()).is_some());
}

#[test]
fn changes_at_the_same_time_do_not_lose_each_other() {
    let api = TestApi::open();
    api.agent.put_manifest(&web(), WEB);
    let running: Vec<Running> = (0..8)
        .map(|n| {
            let change = format!("env.K{n}={n}");
            Running::start(api.command(&["set", "shop/web", &change]))
        })
        .collect();
    for running in running {
        running.end().with(0);
    }
    let manifest = api.run(&["get", "shop/web"]).with(0).json();
    assert_eq!(manifest["env"].as_object().unwrap().len(), 8, "{manifest}");
    assert_eq!(manifest["services"]["web"], 80);

    let ended = api.run(&["set", "shop/web", "env.K1-", "image=b"]).with(0);
    assert!(ended.out.contains("changed"), "{}", ended.out);
    let ended = api.run(&["set", "shop/web", "image=b"]).with(0);
    assert!(ended.out.contains("unchanged"), "{}", ended.out);
    api.run(&["scale", "shop/web=3"]).with(0);
    assert_eq!(api.run(&["get", "shop/web"]).json()["scale"], 3);
    api.run(&["scale", "shop/web=1001"]).with(3);
    api.run(&["set", "shop/web", "links=7"]).with(3);
    api.run(&["set", "shop/web", "nothing"]).with(2);
    api.run(&["set", "shop/none", "image=b"]).with(1);
}
