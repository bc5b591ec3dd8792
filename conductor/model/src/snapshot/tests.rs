use manifests::keys::Key;
use serde_json::{Value, json};

use super::*;

fn put(key: &Key, value: &Value, at: i64) -> Change {
    Change::Put {
        key: key.to_string(),
        value: value.to_string().into_bytes(),
        modified: at,
        created: at,
    }
}

#[test]
fn what_affects_no_container_is_as_the_newest_manifest_says_it() {
    let web: ContainerId = "shop/web".parse().expect("an id");
    let manifest = Key::Manifest(web.clone());
    let version = |at: i64, manifest: &Value| {
        let value = json!({"manifest": manifest, "image": "sha256:a", "good": true});
        put(&Key::Version(web.clone(), at), &value, at + 1)
    };
    let first = json!({"image": "a", "services": {"web": 80}, "stop_timeout": "30s"});
    let other = json!({"image": "a", "services": {"web": 80}, "env": {"A": "b"}});
    let newest = json!({
        "image": "a", "services": {"web": {"port": 80, "ready": "started"}},
        "stop_timeout": "5s", "drain_timeout": "0s",
    });
    let mut snapshot = Snapshot::default();
    let (two, four) = (version(1, &first), version(3, &other));
    let puts = [put(&manifest, &first, 1), two.clone(), four.clone()];
    snapshot.apply(puts, 4);
    let counts = |snapshot: &Snapshot| {
        let view = &snapshot.containers[&web];
        let of = |id: i64| view.manifest_of(VersionId(id)).expect("a version");
        [1, 3].map(|id| {
            (
                of(id).stop_timeout.as_secs(),
                of(id).drain_timeout.as_secs(),
            )
        })
    };
    let hash = |snapshot: &Snapshot| {
        snapshot.containers[&web].versions[&VersionId(1)]
            .hash
            .clone()
    };
    let before = hash(&snapshot);
    assert_eq!(counts(&snapshot), [(30, 10), (10, 10)]);
    // The same container, but for the second version.
    let now = put(&manifest, &newest, 5);
    snapshot.apply([now.clone()], 5);
    assert_eq!(counts(&snapshot), [(5, 0), (10, 10)]);
    assert_eq!(hash(&snapshot), before);
    // In whatever order they come.
    for changes in [
        [&now, &two, &four],
        [&four, &two, &now],
        [&two, &now, &four],
    ] {
        let mut listed = Snapshot::default();
        listed.apply(changes.map(Clone::clone), 5);
        assert_eq!(listed, snapshot);
    }
    // Another image, one that can't be read, and none: each version's own.
    let other_image = json!({"image": "b", "services": {"web": 80}, "stop_timeout": "5s"});
    for (at, value) in [(6, other_image), (8, json!({"scale": "many"}))] {
        snapshot.apply([put(&manifest, &value, at)], at);
        assert_eq!(counts(&snapshot), [(30, 10), (10, 10)]);
        snapshot.apply([put(&manifest, &newest, at + 1)], at + 1);
        assert_eq!(counts(&snapshot), [(5, 0), (10, 10)]);
    }
    let key = manifest.to_string();
    snapshot.apply([Change::Delete { key, modified: 10 }], 10);
    assert_eq!(counts(&snapshot), [(30, 10), (10, 10)]);
}
