//! Newer images of a registry: followed by digest and by tag, gone back from when they fail, and by hand.

use std::collections::BTreeSet;

use dokkaa_tests::host::Host;
use dokkaa_tests::images::BUSYBOX;
use dokkaa_tests::registry::Registry;
use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{App, CAP, Cluster};

const SLOTS: usize = 3;

/// Makes an image whose process is this, and pushes it under these names.
fn push(registry: &Registry, host: &Host, command: &str, names: &[&str]) {
    host.sh(&format!(
        "c=$(docker create {BUSYBOX}) && docker commit --change 'CMD [\"sh\", \"-c\", \"{command}\"]' $c followed:new && \
         docker rm $c"
    ))
    .expect("an image");
    for name in names {
        registry.push(host, "followed:new", name).expect("push");
    }
    host.docker(&["rmi", "followed:new"]).expect("rmi");
}

/// The images of what runs, by their digest.
fn images(app: &App, container: &str) -> BTreeSet<String> {
    let running = app.running(container).into_iter();
    let image = |(host, one): (&'static Host, dokkaa_tests::engine::Container)| {
        let shown = host.engine().inspect(&one.id).ok()?;
        let image = shown["Config"]["Image"].as_str()?.to_owned();
        Some(image)
    };
    running.filter_map(image).collect()
}

/// Waits until all slots run one image, that is none of these.
fn rolled(app: &App, container: &str, before: &BTreeSet<String>) -> BTreeSet<String> {
    let what = format!("another image of {}/{container}", app.name);
    wait_for(&what, CAP, || {
        let now = images(app, container);
        let is_new = now.len() == 1 && now.is_disjoint(before);
        is_new.then_some(()).ok_or(format!("{now:?}"))
    });
    app.ready(container, SLOTS);
    images(app, container)
}

fn manifest(image: &str, policy: &Value) -> Value {
    json!({
        "image": image,
        "scale": SLOTS,
        "stop_signal": "SIGKILL",
        "update": {"monitor": "2s"},
        "image_policy": policy,
    })
}

/// How often the registry was asked for the digest of a tag.
fn asked(registry: &Registry, tag: &str) -> usize {
    let path = format!("/manifests/{tag}");
    let log = registry.log();
    let heads = log
        .lines()
        .filter(|line| line.contains("HEAD") && line.contains(&path) && line.contains("dokkaa"));
    heads.count()
}

/// Waits until the registry was asked twice more, and what that was answered is known.
fn asked_again(registry: &Registry, tag: &str) {
    let before = asked(registry, tag);
    wait_for("two more questions", CAP, || {
        let now = asked(registry, tag);
        (now >= before + 2).then_some(()).ok_or(format!("{now}"))
    });
}

#[test]
fn newer_images_are_followed_and_a_bad_one_is_left() {
    let cluster = Cluster::take();
    let app = cluster.app("follow");
    let registry = cluster.lab.registry().expect("a registry");
    for host in cluster.lab.hosts() {
        registry.login(host).expect("login");
    }
    let builder = cluster.lab.host(2);
    let said = |words: &[&str]| {
        let ran = cluster.lab.host(1).dokkaa(words).expect("an end");
        assert_eq!(ran.status.code(), Some(0), "{ran}");
        ran.stdout
    };
    let events = |kind: &str| {
        let said = said(&["events", "follow/web"]);
        said.lines().filter(|line| line.contains(kind)).count()
    };

    push(&registry, builder, "sleep 1001", &["web:latest", "api:1.9"]);
    let web = manifest(&registry.name("web"), &json!({"check": "10s"}));
    let api = manifest(
        &registry.name("api:1.9"),
        &json!({"check": "10s", "match": "1.*"}),
    );
    app.put("web", &web);
    app.put("api", &api);
    app.ready("web", SLOTS);
    app.ready("api", SLOTS);
    let (first, first_api) = (images(&app, "web"), images(&app, "api"));

    // A new digest of the tag, and a tag that is newer by its number.
    push(
        &registry,
        builder,
        "sleep 1002",
        &["web:latest", "api:1.10", "api:2.0"],
    );
    let second = rolled(&app, "web", &first);
    let second_api = rolled(&app, "api", &first_api);
    wait_for("the end of it to be told", CAP, || {
        let told = (events("image-found"), events("image-rolled"));
        (told == (1, 1)).then_some(()).ok_or(format!("{told:?}"))
    });
    let history = said(&["history", "follow/api"]);
    assert!(history.contains("api:1.10"), "{history}");
    let now = said(&["get", "follow/web"]);
    assert!(!now.contains("sha256"), "the manifest is as it was: {now}");

    // One that fails: back to the one before, and it is not tried again.
    push(&registry, builder, "exit 7", &["web:latest"]);
    wait_for("the way back", CAP, || {
        let told = events("image-back");
        (told == 1).then_some(()).ok_or(format!("{told}"))
    });
    app.ready("web", SLOTS);
    assert_eq!(images(&app, "web"), second);
    asked_again(&registry, "latest");
    assert_eq!(events("image-found"), 2);
    assert_eq!(images(&app, "web"), second);
    for words in [["rollout", "status"].as_slice(), &["why"]] {
        let said = said(&[words, &["follow/web"]].concat());
        let told = said
            .lines()
            .filter(|line| line.contains("not run: "))
            .count();
        assert_eq!(told, 1, "{said}");
    }

    // The next one is, and by hand it is gone back from until there is a newer one.
    push(&registry, builder, "sleep 1003", &["web:latest"]);
    let third = rolled(&app, "web", &second);
    assert!(third.is_disjoint(&first));
    wait_for("a good version", CAP, || {
        let told = events("image-rolled");
        (told == 2).then_some(()).ok_or(format!("{told}"))
    });
    let back = said(&["rollback", "follow/web", "--wait"]);
    assert!(back.contains("goes back to the image of version"), "{back}");
    app.ready("web", SLOTS);
    assert_eq!(images(&app, "web"), second);
    asked_again(&registry, "latest");
    assert_eq!(images(&app, "web"), second);
    push(&registry, builder, "sleep 1004", &["web:latest"]);
    rolled(&app, "web", &(&second | &third));

    // Nothing of it touched the other one.
    assert_eq!(images(&app, "api"), second_api);
    for host in cluster.lab.hosts() {
        registry.logout(host).expect("logout");
    }
}
