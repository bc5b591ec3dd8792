//! What operators do: hosts, volumes, backups, the end of a hold.

use manifests::SlotId;
use manifests::keys::Key;
use model::records::Cluster;
use std::os::unix::fs::PermissionsExt;
use store::kv::Range;

use super::*;

const DB: &str = r#"{"image": "a", "volumes": ["data:/data"]}"#;

fn db() -> SlotId {
    "shop/db".parse::<ContainerId>().unwrap().slot(0)
}

fn availability(api: &TestApi, host: &str) -> String {
    let seen = api.agent.view().unwrap();
    let view = seen.snapshot.hosts.get(&host.parse().unwrap()).cloned();
    format!("{:?}", view.map(|view| view.availability()))
}

#[test]
fn hosts_are_paused_activated_and_labelled() {
    let api = TestApi::open();
    let ended = api.run(&["pause", "h1"]).with(0);
    assert!(ended.out.starts_with("h1 is paused"), "{}", ended.out);
    assert_eq!(availability(&api, "h1"), "Some(Pause)");
    api.run(&["activate", "h1"]).with(0);
    assert_eq!(availability(&api, "h1"), "Some(Active)");
    let ended = api.run(&["pause", "h7"]).with(1);
    assert_eq!(ended.err, "there is no host h7; there is h1\n");
    api.run(&["pause"]).with(2);

    let ended = api.run(&["label", "h1", "disk=ssd", "zone=a"]).with(0);
    assert_eq!(ended.out, "h1 disk=ssd,zone=a\n");
    let ended = api.run(&["label", "h1", "disk-"]).with(0);
    assert_eq!(ended.out, "h1 zone=a\n");
    let hosts = api.run(&["hosts"]).with(0).out;
    assert!(hosts.contains("zone=a"), "{hosts}");
    api.run(&["label", "h1", "disk"]).with(2);
    api.run(&["label", "h1"]).with(2);
}

#[test]
fn a_host_that_is_gone_is_forgotten_and_asked_about() {
    let api = TestApi::open();
    api.agent.put_member("h2");
    api.agent.put_data(&db(), "h2", &["data"]);
    let ended = api.run(&["hosts", "rm", "h2"]).with(2);
    assert!(ended.err.contains("--yes"), "{}", ended.err);
    let ended = api.run(&["hosts", "rm", "h1", "--yes"]).with(1);
    assert!(ended.err.contains("dokkaa leave h1"), "{}", ended.err);
    let ended = api.run(&["hosts", "rm", "h2", "--yes"]).with(0);
    assert_eq!(
        ended.out,
        "h2 is forgotten; the data of 1 slot is given up\n"
    );
    assert!(ended.err.contains("  shop/db/0: data\n"), "{}", ended.err);
    let json = api.run(&["hosts", "-o", "json"]).with(0).json();
    assert_eq!(json["hosts"].as_array().unwrap().len(), 1);
    api.run(&["hosts", "rm", "h2", "--yes"]).with(1);
}

#[test]
fn leave_tells_what_goes_and_follows_until_the_host_has_gone() {
    let api = TestApi::open();
    api.agent.put_host("h2", None);
    api.agent.put_member("h1");
    let revision = api.agent.put_manifest(&web(), WEB);
    let manifest = api.agent.put_manifest(&db().container, DB);
    api.agent.claim(&web().slot(0), "h1", revision);
    api.agent.claim(&db(), "h1", manifest);
    api.agent.put_data(&db(), "h1", &["data"]);
    api.run(&["leave"]).with(2);
    let ended = api.run(&["leave", "--yes", "--timeout", "1s"]).with(5);
    assert!(
        ended.err.contains("from h1 to other hosts: shop/web/0\n"),
        "{}",
        ended.err
    );
    assert!(
        ended
            .err
            .contains("  shop/db/0: its data is on h1 (data)\n"),
        "{}",
        ended.err
    );
    assert!(ended.err.contains("still has 2 slots"), "{}", ended.err);
    assert_eq!(availability(&api, "h1"), "Some(Leave)");

    api.run(&["activate", "h1"]).with(0);
    // A view that does not have the wish yet is no sign that somebody has ended it.
    let before = api.agent.view().unwrap().snapshot.revision;
    api.agent.set_seen(Some(before));
    api.run(&["leave", "--yes", "--timeout", "1s"]).with(5);
    api.agent.set_seen(None);

    api.run(&["activate", "h1"]).with(0);
    let running = Running::start(api.command(&["leave", "h1", "--yes"]));
    wait_for("the wish", || {
        (availability(&api, "h1") == "Some(Leave)").then_some(())
    });
    api.agent.delete(&Key::Claim(web().slot(0)));
    api.agent.delete(&Key::Claim(db()));
    api.agent.delete(&Key::Member("h1".parse().unwrap()));
    api.agent.delete(&Key::HostRecord("h1".parse().unwrap()));
    let ended = running.end().with(0);
    assert_eq!(ended.out, "h1 leaves\nh1 has left\n");
    api.run(&["leave", "h1", "--yes"]).with(1);
}

#[test]
fn a_host_that_has_left_may_be_in_the_list_for_a_while() {
    let api = TestApi::open();
    api.agent.put_host("h2", None);
    api.agent
        .set_seen(Some(api.agent.view().unwrap().snapshot.revision));
    let leave = ["leave", "h2", "--yes", "--timeout", "2s"];
    let running = Running::start(api.command(&leave));
    let key = Key::Availability("h2".parse().unwrap());
    wait_for("the wish", || {
        let read = Range::key(&key);
        let reply = api.agent.mem_kv().with(|etcd| etcd.range(&read)).unwrap();
        (!reply.kvs.is_empty()).then_some(())
    });
    api.agent.delete(&key);
    api.agent.delete(&Key::HostRecord("h2".parse().unwrap()));
    running.end().with(5);
}

#[test]
fn drain_waits_for_what_can_move_and_names_what_stays() {
    let api = TestApi::open();
    api.agent.put_host("h2", None);
    let revision = api.agent.put_manifest(&web(), WEB);
    api.agent.claim(&web().slot(0), "h1", revision);
    let ended = api.run(&["drain", "h1"]).with(0);
    assert!(ended.out.starts_with("h1 is drained"), "{}", ended.out);
    assert_eq!(availability(&api, "h1"), "Some(Drain)");
    let ended = api
        .run(&["drain", "h1", "--wait", "--timeout", "1s"])
        .with(5);
    assert!(
        ended.err.contains("h1: 1 slot left to move"),
        "{}",
        ended.err
    );
    assert!(ended.err.contains("dokkaa activate h1"), "{}", ended.err);

    let running = Running::start(api.command(&["drain", "h1", "--wait"]));
    api.agent.delete(&Key::Claim(web().slot(0)));
    let ended = running.end().with(0);
    assert!(
        ended.out.contains("h1 has no slots any more\n"),
        "{}",
        ended.out
    );

    let manifest = api.agent.put_manifest(&db().container, DB);
    api.agent.claim(&db(), "h1", manifest);
    api.agent.put_data(&db(), "h1", &["data"]);
    let ended = api.run(&["drain", "h1", "--wait"]).with(4);
    assert!(
        ended
            .err
            .contains("  shop/db/0: its data is on h1 (data)\n"),
        "{}",
        ended.err
    );
    assert!(
        ended.err.contains("1 slot of h1 can't move: shop/db/0"),
        "{}",
        ended.err
    );
    // Without its data, after a question.
    let ended = api.run(&["drain", "h1", "--force-volumes"]).with(2);
    let says = "their data stays on h1:\n  shop/db/0: data\n";
    assert!(ended.err.contains(says), "{}", ended.err);
    assert!(ended.err.contains("use --yes"), "{}", ended.err);
    assert_eq!(availability(&api, "h1"), "Some(Drain)");
    let ended = api
        .run(&["drain", "h1", "--force-volumes", "--yes"])
        .with(0);
    assert!(ended.err.contains(says), "{}", ended.err);
    assert!(!ended.err.contains("these stay"), "{}", ended.err);
    assert_eq!(availability(&api, "h1"), "Some(DrainVolumes)");
    let ended = api.run(&["hosts"]).with(0);
    assert!(
        ended.out.contains("(draining, also volumes)"),
        "{}",
        ended.out
    );
    api.run(&["drain", "h7"]).with(1);
    api.run(&["drain"]).with(2);
}

#[test]
fn activate_brings_back_what_a_drain_has_moved() {
    let api = TestApi::open();
    api.agent.put_host("h2", None);
    let revision = api.agent.put_manifest(&web(), WEB);
    api.agent.claim(&web().slot(0), "h1", revision);
    let ended = api.run(&["activate", "h1", "--return"]).with(0);
    assert_eq!(
        ended.out,
        "h1 is active: there is nothing that a drain has moved away\n"
    );
    api.run(&["drain", "h1"]).with(0);
    api.agent.claim(&web().slot(0), "h2", revision);
    let ended = api
        .run(&["activate", "h1", "--return", "--wait", "--timeout", "1s"])
        .with(5);
    assert_eq!(ended.out, "h1 is active: 1 slot to come back\n");
    assert!(ended.err.contains("such as shop/web/0"), "{}", ended.err);
    let running = Running::start(api.command(&["activate", "h1", "--return", "--wait"]));
    let key = Key::Moved("h1".parse().unwrap(), web().slot(0));
    api.agent.claim(&web().slot(0), "h1", revision);
    api.agent.delete(&key);
    let ended = running.end().with(0);
    assert!(
        ended.out.ends_with("h1 has what can come back: 1 slot\n"),
        "{}",
        ended.out
    );
    api.run(&["activate", "h1", "--wait"]).with(2);
}

#[test]
fn a_host_that_is_taken_back_is_followed_no_more() {
    let api = TestApi::open();
    api.agent.put_host("h2", None);
    api.run(&["leave", "h2", "--yes", "--no-wait"]).with(0);
    assert_eq!(availability(&api, "h2"), "Some(Leave)");
    let mut running = Running::start(api.command(&["leave", "h2", "--yes"]));
    wait_for("its end", || {
        if availability(&api, "h2") == "Some(Leave)" {
            api.agent.delete(&Key::Availability("h2".parse().unwrap()));
        }
        running.0.try_wait().unwrap()
    });
    let ended = running.end().with(4);
    assert!(ended.err.contains("set it to active"), "{}", ended.err);
}

#[test]
fn volumes_are_listed_released_and_deleted() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&db().container, DB);
    api.agent.claim(&db(), "h1", revision);
    api.agent.put_data(&db(), "h1", &["data"]);
    api.agent.add_volume("shop---db---0---data");
    let list = api.run(&["volumes", "shop"]).with(0).out;
    let row: Vec<&str> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        row.join(" "),
        "shop db 0 data h1 live present on h1 shop---db---0---data"
    );
    let json = api.run(&["volumes", "-o", "json"]).with(0).json();
    assert_eq!(json["volumes"][0]["docker"], "shop---db---0---data");
    api.run(&["volumes", "release", "shop/db"]).with(2);
    api.run(&["volumes", "release", "shop/db/0"]).with(2);
    api.run(&["volumes", "release", "shop/db/0", "--yes"])
        .with(1);
    api.run(&["volumes", "rm", "shop/db/0", "--yes"]).with(1);
    api.run(&["volumes", "rm", "shop/db/9", "--yes"]).with(1);

    let ended = api.run(&["volumes", "adopt", "shop/db/0", "--yes"]).with(0);
    assert_eq!(ended.out, "shop/db/0 has its data on h1\n");
    api.run(&["volumes", "adopt", "shop/db/1", "--yes"]).with(1);
    api.run(&["volumes", "adopt", "shop/db/1", "--yes", "--host", "h1"])
        .with(1);

    // `rm --volumes` waits until the slot has stopped.
    let running = Running::start(api.command(&["rm", "shop/db", "--volumes", "--yes"]));
    wait_for("the manifest to go", || {
        api.revision(&db().container).is_none().then_some(())
    });
    assert_eq!(api.agent.volumes().len(), 1);
    api.agent.delete(&Key::Claim(db()));
    let ended = running.end().with(0);
    assert_eq!(
        ended.out,
        "shop/db removed\nshop/db/0: data deleted on h1\n"
    );
    assert!(api.agent.volumes().is_empty());
    // Data on a host that is away is said, and not forgotten.
    api.agent.put_member("h2");
    api.agent.put_data(&db(), "h2", &["data"]);
    let ended = api.run(&["rm", "shop/db", "--volumes", "--yes"]).with(1);
    assert!(
        ended.err.contains("on h2, which is missing"),
        "{}",
        ended.err
    );
    let ended = api
        .run(&["volumes", "release", "shop/db/0", "--yes"])
        .with(0);
    assert_eq!(ended.out, "shop/db/0 is no longer kept on h2\n");
    api.run(&["rm", "shop/db", "--volumes", "--yes"]).with(1);
}

fn cluster(epoch: u64) -> Cluster {
    Cluster {
        id: uuid::Uuid::from_u128(7),
        epoch,
    }
}

fn put_cluster(api: &TestApi, epoch: u64) {
    let value = serde_json::to_vec(&cluster(epoch)).unwrap();
    api.agent.put(&Key::Cluster, &value);
    api.agent.set_cluster(Some(cluster(epoch)));
}

#[test]
fn a_backup_is_a_file_that_can_be_put_back() {
    let before = TestApi::open();
    put_cluster(&before, 1);
    before.agent.put_manifest(&web(), WEB);
    before.agent.put_manifest(&db().container, DB);
    before.run(&["label", "h1", "disk=ssd"]).with(0);
    let ended = before.run(&["backup", "cluster.json"]).with(0);
    assert_eq!(ended.out, "cluster.json: 2 manifests\n");
    let path = before.dir.path().join("cluster.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(before.run(&["backup"]).with(0).out, text);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "manifests may hold passwords");

    let api = TestApi::open();
    api.agent.set_cluster(Some(cluster(1)));
    let file = path.to_str().unwrap();
    api.run(&["restore", file]).with(2);
    let ended = api.run(&["restore", file, "--dry-run"]).with(0);
    assert!(
        ended.err.contains("added    /apps/shop/db/manifest\n"),
        "{}",
        ended.err
    );
    assert!(ended.err.contains("epoch 2"), "{}", ended.err);
    assert_eq!(api.revision(&web()), None);
    let ended = api.run(&["restore", file, "--yes"]).with(0);
    assert!(
        ended.out.starts_with("restored: 3 added\n"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("epoch 2"), "{}", ended.out);
    let ended = api.run(&["restore", file, "--yes"]).with(0);
    assert_eq!(ended.out, "there is nothing to restore\n");

    api.file("other.json", "{\"image\": \"other\"}");
    api.run(&["apply", "shop/web", "other.json"]).with(0);
    let ended = api.run(&["restore", file, "--yes"]).with(0);
    assert!(ended.err.contains("kept     /apps/shop/web/manifest: "));
    let ended = api.run(&["restore", file, "--yes", "--overwrite"]).with(0);
    assert_eq!(ended.out, "restored: 1 replaced, 2 same\n");

    let broken = text.replace("\"scale\": 2", "\"scale\": \"two\"");
    api.file("broken.json", &broken);
    let ended = api
        .run(&["restore", "broken.json", "--yes", "--overwrite"])
        .with(3);
    assert!(
        ended.err.contains("/apps/shop/web/manifest: 3:"),
        "{}",
        ended.err
    );
    api.file("garbage.json", "{\"a\": 1}");
    api.run(&["restore", "garbage.json", "--yes"]).with(2);
    api.run(&["restore", "nowhere.json", "--yes"]).with(2);
    api.run(&["restore"]).with(2);
    api.run(&["restore", file, "--accept"]).with(2);
}

#[test]
fn a_hold_ends_when_an_operator_has_seen_what_that_means() {
    let api = TestApi::open();
    put_cluster(&api, 4);
    let ended = api.run(&["restore", "--accept", "--yes"]).with(1);
    assert!(ended.err.contains("nothing to accept"), "{}", ended.err);
    api.agent.set_hold(Some("etcd went back in time"));
    api.agent.put_host("h2", None);
    api.run(&["restore", "--accept"]).with(2);
    let ended = api.run(&["restore", "--accept", "--yes"]).with(0);
    assert!(
        ended
            .err
            .contains("h1 (in hold: etcd went back in time): nothing stops\n"),
        "{}",
        ended.err
    );
    assert!(
        ended.err.contains("host h2 does not answer"),
        "{}",
        ended.err
    );
    assert_eq!(ended.out, "accepted: epoch 5\n");
}

#[test]
fn why_explains_one_slot() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    api.make_ready(&web(), 0, revision);
    let ended = api.run(&["why", "shop/web/1"]).with(0);
    assert!(ended.out.contains("slot 1 waiting"), "{}", ended.out);
    assert!(!ended.out.contains("slot 0"), "{}", ended.out);
    api.run(&["why", "shop/web/5"]).with(1);
}
