//! What goes over the socket, seen by a listener in the engine's place.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use manifests::ContainerId;
use manifests::manifest::Protocol;
use model::disk::LocalImage;
use model::observed::{ContainerPort, Ownership};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use uuid::Uuid;

use super::DockerEngine;
use crate::{CreateSpec, Engine, EngineEvent, LogOptions, Mount, MountSource};

/// Method and path of each request that came.
type Requests = Arc<Mutex<BTreeSet<String>>>;

/// An engine of API 1.44 that has the container `c` and nothing else.
fn engine(socket: &Path) -> Requests {
    answers(socket, |path| {
        let (status, body) = match path.rsplit('/').next() {
            Some("version") => (200, r#"{"ApiVersion":"1.44","MinAPIVersion":"1.24"}"#),
            Some("_ping") => (200, "OK"),
            Some("info") => (200, "{}"),
            Some("json") if path.ends_with("/c/json") => (200, r#"{"Id":"c"}"#),
            Some("json") if path.ends_with("s/json") => (200, "[]"),
            Some("exec") => (201, r#"{"Id":"e"}"#),
            _ => (404, r#"{"message":"no such thing"}"#),
        };
        (status, body.to_owned())
    })
}

/// An engine that answers so, by method and path, with a status and a body.
fn answers(
    socket: &Path,
    answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static,
) -> Requests {
    let listener = UnixListener::bind(socket).expect("a socket");
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
            tokio::spawn(async move { serve(stream, &seen, &*answer).await });
        }
    });
    requests
}

async fn serve(
    mut stream: UnixStream,
    seen: &Mutex<BTreeSet<String>>,
    answer: &(impl Fn(&str) -> (u16, String) + Sync),
) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    read.read_line(&mut line).await?;
    let (request, _) = line.rsplit_once(' ').unwrap_or_default();
    let path = request.split('?').next().unwrap_or_default().to_owned();
    let (status, body) = answer(&path);
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

/// One container of two is not shown: the list has the other one, and says of which it knows nothing.
#[tokio::test]
async fn a_container_that_is_not_shown_is_listed_so() {
    let cluster = Uuid::from_u128(1);
    let labels = |instance: &str| {
        let labels = Ownership {
            cluster,
            slot: "shop/web".parse::<ContainerId>().expect("an id").slot(0),
            instance: instance.parse().expect("an instance"),
            manifest_hash: "m".to_owned(),
            host_hash: "h".to_owned(),
            before: None,
        };
        serde_json::to_string(&labels.labels()).expect("JSON")
    };
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("docker.sock");
    let listed = format!(
        r#"[{{"Id":"c","Labels":{}}},{{"Id":"stuck","Labels":{}}}]"#,
        labels("one"),
        labels("two")
    );
    let shown = format!(
        r#"{{"Id":"c","Name":"/c","State":{{"Status":"created"}},"Config":{{"Labels":{}}}}}"#,
        labels("one")
    );
    answers(&socket, move |path| {
        match path.rsplit_once("/containers/") {
            Some((_, "json")) => (200, listed.clone()),
            Some((_, "c/json")) => (200, shown.clone()),
            Some((_, "stuck/json")) => (500, r#"{"message":"it hangs"}"#.to_owned()),
            _ if path.ends_with("/version") => (
                200,
                r#"{"ApiVersion":"1.44","MinAPIVersion":"1.24"}"#.to_owned(),
            ),
            _ => (200, "OK".to_owned()),
        }
    });
    let listing = DockerEngine::new(&socket).list(Some(cluster)).await;
    let listing = listing.expect("the engine answers");
    let seen: Vec<&str> = listing
        .labelled
        .iter()
        .map(|c| c.docker_id.as_str())
        .collect();
    assert_eq!(seen, ["c"]);
    let unseen = listing.unseen.get("stuck").expect("it is listed");
    assert_eq!(unseen.instance.to_string(), "two");
    assert!(unseen.why.contains("it hangs"), "{}", unseen.why);
}
