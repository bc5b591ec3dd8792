//! What goes over the socket, seen by a listener in the engine's place.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use manifests::manifest::Protocol;
use model::disk::LocalImage;
use model::observed::ContainerPort;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::DockerEngine;
use crate::{CreateSpec, Engine, EngineEvent, LogOptions, Mount, MountSource};

/// Method and path of each request that came.
type Requests = Arc<Mutex<BTreeSet<String>>>;

/// An engine of API 1.44 that has the container `c` and nothing else.
fn engine(socket: &Path) -> Requests {
    let listener = UnixListener::bind(socket).expect("a socket");
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move { answer(stream, &seen).await });
        }
    });
    requests
}

async fn answer(mut stream: UnixStream, seen: &Mutex<BTreeSet<String>>) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    read.read_line(&mut line).await?;
    let (request, _) = line.rsplit_once(' ').unwrap_or_default();
    let path = request.split('?').next().unwrap_or_default().to_owned();
    let (status, body) = match path.rsplit('/').next() {
        Some("version") => (200, r#"{"ApiVersion":"1.44","MinAPIVersion":"1.24"}"#),
        Some("_ping") => (200, "OK"),
        Some("info") => (200, "{}"),
        Some("json") if path.ends_with("/c/json") => (200, r#"{"Id":"c"}"#),
        Some("json") if path.ends_with("s/json") => (200, "[]"),
        Some("exec") => (201, r#"{"Id":"e"}"#),
        _ => (404, r#"{"message":"no such thing"}"#),
    };
    seen.lock().expect("not poisoned").insert(path);
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n");
    write
        .write_all(format!("{head}\r\n{body}").as_bytes())
        .await?;
    write.shutdown().await?;
    tokio::io::copy(&mut read, &mut tokio::io::sink()).await?;
    Ok(())
}

#[tokio::test]
async fn each_request_names_the_agreed_version_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("docker.sock");
    let requests = engine(&socket);
    let docker = DockerEngine::new(&socket);
    let port = ContainerPort {
        port: 80,
        protocol: Protocol::Tcp,
    };
    let volume = MountSource::Volume {
        name: "v".to_owned(),
        labels: [].into(),
    };
    let mount = |source| Mount {
        source,
        target: "/data".to_owned(),
        read_only: false,
    };
    let mut spec = CreateSpec {
        name: "new".to_owned(),
        ports: [(port, ([127, 0, 0, 1], 80).into())].into(),
        mounts: vec![mount(volume)],
        ..CreateSpec::default()
    };
    let image = LocalImage {
        id: "i".to_owned(),
        names: vec!["i:1".to_owned()],
        used: false,
    };
    let short = Duration::from_secs(1);

    // What each says is not the subject.
    let _ = docker.ping().await;
    let _ = docker.info().await;
    let _ = docker.bridge("n").await;
    let _ = docker.subnets().await;
    let _ = docker.list(None).await;
    let _ = docker.inspect("c").await;
    let _ = docker.pull("i:1", None, &|_| {}).await;
    let _ = docker.image("i").await;
    let _ = docker.images().await;
    let _ = docker.remove_image(&image).await;
    let _ = docker.disk_usage().await;
    let _ = docker.create(&spec).await;
    spec.mounts = vec![mount(MountSource::External("x".to_owned()))];
    let _ = docker.create(&spec).await;
    spec.mounts.clear();
    let _ = docker.create(&spec).await;
    let _ = docker.start("c").await;
    let _ = docker.stop("c", short).await;
    let _ = docker.remove("c", true).await;
    let _ = docker.volumes().await;
    let _ = docker.remove_volume("v").await;
    let _ = docker.rename("c", "d").await;
    let _ = docker.exec("c", &["true".to_owned()], short).await;
    if let Ok(mut log) = docker.logs("c", LogOptions::default()).await {
        let _ = futures_util::StreamExt::next(&mut log).await;
    }
    let mut events = docker.events();
    assert_eq!(events.recv().await, Some(EngineEvent::Connected));
    assert!(matches!(events.recv().await, Some(EngineEvent::Lost(_))));
    drop(events);

    let mut seen = requests.lock().expect("not poisoned").clone();
    assert!(seen.remove("GET /version"), "{seen:?}");
    let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
    assert_eq!(
        seen,
        [
            "DELETE /v1.44/containers/c",
            "DELETE /v1.44/images/i:1",
            "DELETE /v1.44/volumes/v",
            "GET /v1.44/_ping",
            "GET /v1.44/containers/c/json",
            "GET /v1.44/containers/c/logs",
            "GET /v1.44/containers/json",
            "GET /v1.44/events",
            "GET /v1.44/images/i/json",
            "GET /v1.44/images/json",
            "GET /v1.44/info",
            "GET /v1.44/networks",
            "GET /v1.44/networks/n",
            "GET /v1.44/volumes",
            "GET /v1.44/volumes/x",
            "POST /v1.44/containers/c/exec",
            "POST /v1.44/containers/c/rename",
            "POST /v1.44/containers/c/start",
            "POST /v1.44/containers/c/stop",
            "POST /v1.44/containers/create",
            "POST /v1.44/exec/e/start",
            "POST /v1.44/images/create",
            "POST /v1.44/volumes/create",
        ]
    );
}
