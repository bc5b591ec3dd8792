#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::PathBuf;
use std::sync::Arc;

use engine::memory::{MemEngine, Published};
use manifests::manifest::Pull;

use super::super::{Images, PullSettings};
use super::*;

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn images(engine: &MemEngine) -> Images {
    let settings = PullSettings {
        docker_config: PathBuf::from("/nonexistent"),
        at_once: 2,
        jitter: Duration::ZERO,
        record: None,
        spool: None,
    };
    Images::new(Arc::new(engine.clone()), settings)
}

/// Keeps images in containerd; the registry has `team/app:1`.
fn engine() -> MemEngine {
    let engine = MemEngine::default();
    engine.world(|world, _| {
        world.store.containerd = true;
        let published = Published {
            id: "sha256:one".to_owned(),
            digest: DIGEST.to_owned(),
            ..Published::default()
        };
        world.registry.insert("team/app:1".to_owned(), published);
    });
    engine
}

fn questions(engine: &MemEngine) -> u32 {
    engine.world(|world, _| world.questions)
}

async fn decided(images: &Images, name: &str) -> String {
    images.decide(name, Pull::Missing).await.unwrap().image
}

#[tokio::test]
async fn what_this_agent_pulled_has_a_digest_and_nobody_is_asked() {
    let engine = engine();
    let images = images(&engine);
    for _ in 0..2 {
        assert_eq!(decided(&images, "team/app:1").await, DIGEST);
    }
    assert_eq!(questions(&engine), 0);
}

#[tokio::test]
async fn a_digest_that_containerd_made_of_a_tag_counts_for_nothing() {
    let engine = engine();
    let images = images(&engine);
    engine.world(|world, _| world.add_local_image("team/app:2", "sha256:own"));
    let shown = engine.world(|world, _| world.image("team/app:2").unwrap().unwrap());
    assert_eq!(shown.repo_digests, [format!("team/app@{}", shown.id)]);
    for _ in 0..2 {
        let local = format!("local:{}", shown.id);
        assert_eq!(decided(&images, "team/app:2").await, local);
    }
    // The registry has said so, and is not asked twice.
    assert_eq!(questions(&engine), 1);
}

#[tokio::test]
async fn what_somebody_pulled_by_hand_is_asked_for_once() {
    let engine = engine();
    let images = images(&engine);
    engine
        .world(|world, _| world.pull("team/app:1", None))
        .unwrap();
    for _ in 0..2 {
        assert_eq!(decided(&images, "team/app:1").await, DIGEST);
    }
    assert_eq!(questions(&engine), 1);
}

#[tokio::test]
async fn what_the_engine_knows_to_have_pulled_is_not_asked_for() {
    let engine = engine();
    let images = images(&engine);
    for (name, from, asked) in [
        ("reg.example:5000/app:1", "reg.example/app", 0),
        ("reg.example:5000/app:2", "elsewhere.example/app", 1),
    ] {
        engine.world(|world, _| {
            world.add_local_image(name, "sha256:own");
            world.images.get_mut(name).unwrap().pulled_from = vec![from.to_owned()];
        });
        let decided = decided(&images, name).await;
        assert_eq!(decided.starts_with("local:"), asked > 0, "{decided}");
        assert_eq!(questions(&engine), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_says_nothing_holds_a_slot_up_for_seconds_and_once() {
    let engine = engine();
    let images = images(&engine);
    engine.world(|world, _| {
        world.registry_silent = true;
        world.add_local_image("team/app:2", "sha256:own");
        world.add_local_image("team/other:2", "sha256:other");
    });
    for (name, waited) in [
        ("team/app:2", ASK),
        ("team/app:2", Duration::ZERO),
        ("team/other:2", Duration::ZERO),
    ] {
        let begun = Instant::now();
        assert!(decided(&images, name).await.starts_with("local:"));
        let took = begun.elapsed();
        assert!(took >= waited && took < waited + Duration::from_millis(100));
    }
    tokio::time::advance(REMEMBERED).await;
    let begun = Instant::now();
    decided(&images, "team/app:2").await;
    assert!(begun.elapsed() >= ASK);
}

#[tokio::test]
async fn a_registry_that_is_away_is_not_asked_about_the_next_image() {
    let engine = engine();
    let images = images(&engine);
    engine.world(|world, _| {
        world.registry_away = true;
        world.add_local_image("team/app:2", "sha256:own");
        world.add_local_image("team/other:2", "sha256:other");
    });
    for name in ["team/app:2", "team/other:2"] {
        assert!(decided(&images, name).await.starts_with("local:"));
    }
    assert_eq!(questions(&engine), 1);
}
