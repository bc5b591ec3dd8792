#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is missing"
)]

use super::*;
use engine::Operation;
use engine::memory::{MemEngine, Published};

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn engine() -> MemEngine {
    let engine = MemEngine::default();
    engine.world(|world, _| {
        let published = Published {
            id: "sha256:one".to_owned(),
            digest: DIGEST.to_owned(),
            ..Published::default()
        };
        world.registry.insert("team/app:1".to_owned(), published);
    });
    engine
}

fn images(engine: &MemEngine) -> Images {
    Images::new(
        Arc::new(engine.clone()),
        PullSettings {
            docker_config: PathBuf::from("/nonexistent"),
            at_once: 2,
            jitter: Duration::ZERO,
            record: None,
            spool: None,
        },
    )
}

fn pulls(engine: &MemEngine) -> u32 {
    engine.world(|world, _| world.pulls)
}

#[tokio::test]
async fn missing_pulls_once_and_decides_the_digest() {
    let engine = engine();
    let images = images(&engine);
    for _ in 0..2 {
        let decided = images.decide("team/app:1", Pull::Missing).await.unwrap();
        assert_eq!(decided.image, DIGEST);
        assert_eq!(decided.note, None);
    }
    assert_eq!(pulls(&engine), 1);
    let source = images
        .ensure("team/app:1", DIGEST, None, Pull::Missing)
        .await
        .unwrap();
    assert_eq!(source.reference, format!("team/app@{DIGEST}"));
    assert_eq!(pulls(&engine), 1);
}

/// The same image, pushed again with another index: the engine has both digests of it.
#[tokio::test]
async fn of_several_digests_the_one_that_was_pulled_counts() {
    let engine = engine();
    let images = images(&engine);
    for digit in ["b", "a", "c"] {
        let digest = format!("sha256:{}", digit.repeat(64));
        engine.world(|world, _| {
            let published = world.registry.get_mut("team/app:1").unwrap();
            published.digest.clone_from(&digest);
        });
        let decided = images.decide("team/app:1", Pull::Always).await.unwrap();
        assert_eq!(decided.image, digest);
    }
}

#[tokio::test]
async fn another_host_pulls_by_the_digest_alone() {
    let engine = engine();
    let images = images(&engine);
    let source = images
        .ensure("team/app:1", DIGEST, None, Pull::Missing)
        .await
        .unwrap();
    assert_eq!(source.reference, format!("team/app@{DIGEST}"));
    assert!(engine.image(&source.reference).await.unwrap().is_some());
    assert_eq!(engine.image("team/app:1").await.unwrap(), None);
}

#[tokio::test]
async fn an_image_of_no_registry_is_known_by_its_id() {
    let engine = engine();
    let images = images(&engine);
    engine.world(|world, _| world.add_local_image("made-here", "sha256:own"));
    let decided = images.decide("made-here", Pull::Missing).await.unwrap();
    assert_eq!(decided.image, "local:sha256:own");
    let same = images.ensure("made-here", &decided.image, None, Pull::Missing);
    assert_eq!(same.await.unwrap().note, None);
    let other = images.ensure("made-here", "local:sha256:other", None, Pull::Missing);
    assert!(other.await.unwrap().note.unwrap().contains("sha256:other"));
    assert_eq!(pulls(&engine), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_just_decided_on_is_not_looked_at_again_and_only_once() {
    let engine = engine();
    let images = images(&engine);
    let ensure = async || {
        let ensured = images.ensure("made-here", "local:sha256:own", None, Pull::Missing);
        ensured.await.unwrap().note.is_none()
    };
    for (later, is_same) in [(Duration::ZERO, true), (JUST_SEEN, false)] {
        engine.world(|world, _| world.add_local_image("made-here", "sha256:own"));
        images.decide("made-here", Pull::Missing).await.unwrap();
        engine.world(|world, _| world.add_local_image("made-here", "sha256:new"));
        tokio::time::advance(later).await;
        assert_eq!(ensure().await, is_same, "after {later:?}");
        assert!(!ensure().await);
    }
}

#[tokio::test]
async fn a_host_that_lacks_a_local_image_and_can_t_pull_it_is_at_fault() {
    let engine = engine();
    let images = images(&engine);
    for (pull, pulled) in [(Pull::Never, 0), (Pull::Missing, 1)] {
        let failed = images
            .ensure("made-there", "local:sha256:x", None, pull)
            .await;
        assert!(matches!(
            failed,
            Err(EngineError::HostFault {
                fault: HostFault::ImageMissing,
                ..
            })
        ));
        assert_eq!(pulls(&engine), pulled);
    }
}

#[tokio::test]
async fn always_asks_and_makes_do_with_what_is_here_when_nobody_answers() {
    let engine = engine();
    let images = images(&engine);
    let nothing_here = {
        engine.world(|world, _| world.registry_away = true);
        images.decide("team/app:1", Pull::Always).await
    };
    assert!(is_away(&nothing_here.unwrap_err()));
    engine.world(|world, _| world.registry_away = false);
    for _ in 0..2 {
        let decided = images.decide("team/app:1", Pull::Always).await.unwrap();
        assert_eq!((decided.image.as_str(), decided.note), (DIGEST, None));
    }
    assert_eq!(pulls(&engine), 3);
    engine.world(|world, _| world.registry_away = true);
    let decided = images.decide("team/app:1", Pull::Always).await.unwrap();
    assert_eq!(decided.image, DIGEST);
    assert!(decided.note.unwrap().contains("was not reached"));
}

#[tokio::test]
async fn never_pulls_nothing_and_stays_local() {
    let engine = engine();
    let images = images(&engine);
    let lacking = images.decide("team/app:1", Pull::Never).await;
    assert!(matches!(lacking, Err(EngineError::NotFound(_))));
    images.decide("team/app:1", Pull::Missing).await.unwrap();
    let decided = images.decide("team/app:1", Pull::Never).await.unwrap();
    assert_eq!(decided.image, "local:sha256:one");
    assert_eq!(pulls(&engine), 1);
}

#[tokio::test(start_paused = true)]
async fn concurrent_pulls_of_one_image_are_one_and_an_abandoned_one_is_begun_anew() {
    let engine = engine();
    let images = images(&engine);
    engine.world(|world, _| {
        world.registry.get_mut("team/app:1").unwrap().delay = Duration::from_secs(30);
    });
    let abandoned = tokio::time::timeout(
        Duration::from_secs(1),
        images.decide("team/app:1", Pull::Missing),
    );
    assert!(abandoned.await.is_err());
    let all = (0..5).map(|_| images.decide("team/app:1", Pull::Missing));
    for decided in futures_util::future::join_all(all).await {
        assert_eq!(decided.unwrap().image, DIGEST);
    }
    assert_eq!(pulls(&engine), 1);
    assert_eq!(images.progress("team/app:1"), None);
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_waits_for_others_gets_on_as_they_do() {
    let engine = engine();
    let images = images(&engine);
    engine.world(|world, _| {
        let published = world.registry.get_mut("team/app:1").unwrap();
        published.delay = Duration::from_secs(30);
        let published = published.clone();
        for tag in [2, 3] {
            let name = format!("team/app:{tag}");
            world.registry.insert(name, published.clone());
        }
    });
    let pulls = ["team/app:1", "team/app:2", "team/app:3"];
    let pulls = pulls.map(|name| images.decide(name, Pull::Missing));
    let pulls = futures_util::future::join_all(pulls);
    let meanwhile = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        images.progress("team/app:3")
    };
    let (pulled, told) = tokio::join!(pulls, meanwhile);
    assert!(pulled.iter().all(Result::is_ok));
    let told = told.expect("it is told");
    assert!(
        told.starts_with("waits for other images: pulling team/app:1: ")
            && told.contains("; pulling team/app:2: "),
        "{told}"
    );
    assert_eq!(images.progress("team/app:3"), None);
}

#[tokio::test]
async fn a_bad_name_is_the_manifests_fault() {
    let failed = images(&engine()).decide("No Image", Pull::Missing).await;
    assert!(matches!(failed, Err(EngineError::BadRequest(_))));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_wants_a_pause_gets_it_for_all_its_images() {
    let engine = engine();
    let images = images(&engine);
    let limited = |retry_after| EngineError::RateLimited {
        retry_after,
        message: "toomanyrequests".to_owned(),
    };
    for (said, pause) in [
        (Some(Duration::from_secs(90)), 90),
        (None, PAUSE.as_secs()),
        (Some(Duration::from_secs(1 << 30)), LONGEST_PAUSE.as_secs()),
    ] {
        let before = pulls(&engine);
        engine.world(|world, _| world.failures.push((Operation::Pull, limited(said))));
        let failed = images.decide("team/other:1", Pull::Missing).await;
        assert_eq!(failed.unwrap_err(), limited(said));
        tokio::time::advance(Duration::from_secs(pause - 1)).await;
        let refused = images.decide("team/app:1", Pull::Always).await.unwrap_err();
        assert!(refused.to_string().contains("again in 1 s"), "{refused}");
        assert_eq!(pulls(&engine), before + 1);
        let elsewhere = images.decide("example.com/app:1", Pull::Missing).await;
        assert!(matches!(elsewhere, Err(EngineError::NotFound(_))));
        tokio::time::advance(Duration::from_secs(1)).await;
        let decided = images.decide("team/app:1", Pull::Always).await.unwrap();
        assert_eq!(decided.image, DIGEST);
        engine.world(|world, _| world.images.clear());
    }
}

#[tokio::test]
async fn what_this_agent_pulled_is_remembered_and_nothing_else() {
    let engine = engine();
    let images = images(&engine);
    let known = || {
        let pulled = images.shared.record.pulled().into_iter();
        let names = pulled.map(|(id, image)| (id, image.names.into_iter().collect::<Vec<_>>()));
        names.collect::<Vec<_>>()
    };
    // It was here before.
    engine
        .world(|world, _| world.pull("team/app:1", None))
        .unwrap();
    images.decide("team/app:1", Pull::Always).await.unwrap();
    assert_eq!(known(), []);
    engine.world(|world, _| world.images.clear());
    images
        .ensure("team/app:1", DIGEST, None, Pull::Missing)
        .await
        .unwrap();
    let digest = format!("team/app@{DIGEST}");
    let one = "sha256:one".to_owned();
    assert_eq!(known(), [(one.clone(), vec![digest.clone()])]);
    images.decide("team/app:1", Pull::Always).await.unwrap();
    assert_eq!(known(), [(one, vec!["team/app:1".to_owned(), digest])]);
}
