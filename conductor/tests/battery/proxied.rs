//! What depends on the way to the engine: the agreed version, and connections that are lost.

use std::path::Path;
use std::time::Duration;

use engine::{Change, DEFAULT_SOCKET, DockerEngine, Engine, EngineError, EngineEvent, NEWEST};

use crate::harness::{Does, Lab, next, wait_for};
use crate::proxy::Proxy;

#[tokio::test]
async fn every_path_carries_the_newest_version_that_both_know() {
    for (newest, oldest, spoken) in [
        ("1.40", "1.12", "1.40".to_owned()),
        ("1.41", "1.12", "1.41".to_owned()),
        ("1.51", "1.24", "1.51".to_owned()),
        ("1.99", "1.44", NEWEST.to_string()),
    ] {
        let proxy = Proxy::alone(newest, oldest);
        let engine = DockerEngine::new(proxy.socket());
        for _ in 0..2 {
            engine.ping().await.expect("an answer");
        }
        let info = engine.info().await.expect("an answer");
        assert_eq!(info.docker.api, spoken);
        let ping = format!("/v{spoken}/_ping");
        let expected = ["/version", &ping, &ping, &format!("/v{spoken}/info")];
        assert_eq!(proxy.paths(), expected, "{newest}");
    }
}

#[tokio::test]
async fn an_engine_that_is_too_old_or_too_new_is_refused_with_what_to_do() {
    for (newest, oldest, what_to_do) in [
        ("1.39", "1.12", "update Docker"),
        ("2.5", "2.0", "update dokkaa"),
    ] {
        let proxy = Proxy::alone(newest, oldest);
        let refused = DockerEngine::new(proxy.socket()).ping().await;
        let text = refused.expect_err("refused").to_string();
        assert!(text.contains(what_to_do), "{text}");
        assert_eq!(proxy.paths(), ["/version"]);
    }
}

#[tokio::test]
async fn after_a_lost_connection_the_version_is_agreed_on_again() {
    let proxy = Proxy::alone("1.45", "1.24");
    let engine = DockerEngine::new(proxy.socket());
    engine.ping().await.expect("an answer");
    proxy.cut(true);
    let lost = engine.ping().await;
    assert!(
        matches!(lost, Err(EngineError::Unresponsive(_))),
        "{lost:?}"
    );
    proxy.report("1.42", "1.24");
    proxy.cut(false);
    proxy.paths();
    engine.ping().await.expect("an answer");
    assert_eq!(proxy.paths(), ["/version", "/v1.42/_ping"]);
}

#[tokio::test]
async fn no_engine_is_unresponsive_and_is_found_once_it_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("engine.sock");
    let engine = DockerEngine::new(&socket);
    let nobody = engine.ping().await;
    assert!(
        matches!(nobody, Err(EngineError::Unresponsive(_))),
        "{nobody:?}"
    );
    std::os::unix::fs::symlink(DEFAULT_SOCKET, &socket).expect("linked");
    engine.ping().await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_while_the_connection_was_lost_is_told_afterwards() {
    let proxy = Proxy::before(Path::new(DEFAULT_SOCKET));
    let lab = Lab::on(DockerEngine::new(proxy.socket())).await;
    let mut events = lab.events().await;
    let id = lab.run(&lab.spec("job", Does::Runs)).await;
    until(&mut events, &id, &Change::Started).await;
    lab.up(&id).await;

    proxy.cut(true);
    while !matches!(next(&mut events).await, EngineEvent::Lost(_)) {}
    // By another way: this one is cut.
    let direct = DockerEngine::new(Path::new(DEFAULT_SOCKET));
    let stopped = direct.stop(&id, Duration::from_secs(30)).await;
    stopped.expect("stopped");
    proxy.cut(false);
    while next(&mut events).await != EngineEvent::Connected {}
    until(&mut events, &id, &Change::Died(Some(143))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_away_is_said_once() {
    let proxy = Proxy::before(Path::new(DEFAULT_SOCKET));
    proxy.cut(true);
    let engine = DockerEngine::new(proxy.socket());
    let mut events = engine.events();
    assert!(matches!(next(&mut events).await, EngineEvent::Lost(_)));
    // Several attempts more bring no second word.
    wait_for(|| async {
        match engine.ping().await {
            Err(EngineError::Unresponsive(_)) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    proxy.cut(false);
    assert_eq!(next(&mut events).await, EngineEvent::Connected);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_is_given_up_after_the_deadline_and_taken_up_again() {
    let proxy = Proxy::alone("1.41", "1.12");
    let engine = DockerEngine::new(proxy.socket());
    engine.ping().await.expect("an answer");
    proxy.hang(true);
    let lost = engine.ping().await;
    assert!(
        matches!(lost, Err(EngineError::Unresponsive(_))),
        "{lost:?}"
    );
    proxy.hang(false);
    engine.ping().await.expect("an answer");
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_from_death() {
    let proxy = Proxy::alone("1.41", "1.12");
    let engine = DockerEngine::new(proxy.socket());
    let mut events = engine.events();
    assert_eq!(next(&mut events).await, EngineEvent::Connected);
    // Long silence on an engine that answers is nothing to speak of.
    let silence = tokio::time::timeout(Duration::from_secs(3_600), events.recv());
    assert!(silence.await.is_err());
    proxy.hang(true);
    assert!(matches!(next(&mut events).await, EngineEvent::Lost(_)));
    proxy.hang(false);
    assert_eq!(next(&mut events).await, EngineEvent::Connected);
}

async fn until(events: &mut tokio::sync::mpsc::Receiver<EngineEvent>, id: &str, wanted: &Change) {
    loop {
        if let EngineEvent::Container {
            docker_id, change, ..
        } = next(events).await
            && docker_id == id
            && change == *wanted
        {
            return;
        }
    }
}
