//! What only a real container shows: that what a manifest asks for is what its process finds.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use conductor::reachability::{Reach, Target, probe_from};
use conductor::readiness::{Criterion, Look, look};
use engine::{LogOptions, SpecInput, spec};
use futures_util::StreamExt;
use manifests::Manifest;
use manifests::manifest::{Healthcheck, HealthcheckChoice, Service, Volume, VolumeSource};
use model::observed::{Ownership, Surroundings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Does, Lab, docker, tcp, wait_for};

fn manifest(lab: &Lab, script: &str) -> Manifest {
    Manifest {
        command: Some(["-c", script].map(str::to_owned).to_vec()),
        entrypoint: Some(vec!["/bin/sh".to_owned()]),
        env: BTreeMap::from([("GREETING".to_owned(), "hello = world".to_owned())]),
        services: [("web".parse().expect("a name"), Service::on_port(80))].into(),
        stop_timeout: Duration::from_secs(5),
        ..Manifest::of_image(&lab.image)
    }
}

async fn make(lab: &Lab, manifest: &Manifest, at: SocketAddr) -> String {
    let owner = lab.owner("web");
    let bridge = lab.engine.bridge("bridge").await.expect("a bridge");
    let surroundings = Surroundings {
        host_ip: at.ip(),
        gateway: bridge.gateway,
        dns: Some(bridge.gateway),
        domain: "skydns.local".to_owned(),
        network: "bridge".to_owned(),
    };
    let made = spec(SpecInput {
        before: None,
        manifest,
        image: &lab.image,
        image_labels: &[],
        cluster: lab.cluster,
        slot: &owner.slot,
        instance: &owner.instance,
        manifest_hash: &owner.manifest_hash,
        host: &"h1".parse().expect("a host"),
        surroundings: &surroundings,
        ports: [(tcp(80), at)].into(),
        beside: false,
    });
    let id = lab.run(&made).await;
    let seen = lab.look(&id).await;
    let read: Ownership = seen.owner.clone();
    assert_eq!((&read.slot, &read.instance), (&owner.slot, &owner.instance));
    // The hash of what it shows to have been given is the hash in its label.
    assert_eq!(read.host_hash, surroundings.hash(&seen.ports));
    id
}

async fn output(lab: &Lab, id: &str) -> Vec<String> {
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let log = lab.engine.logs(id, follow).await.expect("a log");
    let lines = log.map(|chunk| {
        let chunk = chunk.expect("a line");
        String::from_utf8_lossy(&chunk.bytes).trim_end().to_owned()
    });
    tokio::time::timeout(Duration::from_secs(60), lines.collect())
        .await
        .expect("it ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_finds_what_its_manifest_asks_for() {
    let lab = Lab::docker().await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("note"), "from the host\n").expect("written");
    let script =
        "echo $GREETING; id -u; pwd; cat /mnt/note; cat /etc/hosts /etc/resolv.conf; echo end";
    let mut manifest = manifest(&lab, script);
    manifest.user = Some("user".to_owned());
    manifest.workdir = Some("/tmp".to_owned());
    manifest.volumes = vec![Volume {
        source: VolumeSource::HostPath(folder.path().to_string_lossy().into_owned()),
        target: "/mnt".to_owned(),
        read_only: true,
    }];
    // The container's user is not this one.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("ours");
    let id = make(&lab, &manifest, lab.free_port()).await;
    let lines = output(&lab, &id).await;
    let gateway = lab.engine.bridge("bridge").await.expect("a bridge").gateway;
    assert_eq!(
        lines[..4],
        ["hello = world", "1000", "/tmp", "from the host"],
        "{lines:?}"
    );
    let has = |wanted: &str| lines.iter().any(|line| line == wanted);
    assert!(has(&format!("{gateway}\tbackends")), "{lines:?}");
    assert!(has(&format!("nameserver {gateway}")), "{lines:?}");
    let search = format!(
        "search {}.skydns.local",
        lab.owner("web").slot.container.app
    );
    assert!(has(&search), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_port_is_reached_once_it_is_ready() {
    let lab = Lab::docker().await;
    let manifest = manifest(&lab, "sleep 0.3; exec httpd -f -p 80");
    let at = lab.free_port();
    let id = make(&lab, &manifest, at).await;
    let seen = lab.look(&id).await;
    let criterion = Criterion::of(&seen, &manifest);
    assert_eq!(criterion, Criterion::Listening([tcp(80)].into()));
    wait_for(|| async {
        match look(lab.engine.as_ref(), &seen, &criterion, 0).await {
            Ok(Look::Yes) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let mut client = TcpStream::connect(at).await.expect("connected");
    let request = b"GET /nothing HTTP/1.0\r\n\r\n";
    client.write_all(request).await.expect("asked");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");

    let elsewhere = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), at.port());
    assert!(TcpStream::connect(elsewhere).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthcheck_counts_before_docker_has_a_verdict() {
    let lab = Lab::docker().await;
    let mut manifest = manifest(&lab, "sleep 0.3; echo > /tmp/up; sleep 1000");
    manifest.healthcheck = HealthcheckChoice::Own(Healthcheck {
        command: ["/bin/sh", "-c", "cat /tmp/up"].map(str::to_owned).to_vec(),
        // Docker's first run comes after this.
        interval: Some(Duration::from_secs(3_600)),
        timeout: Some(Duration::from_secs(5)),
        retries: None,
        start_period: None,
    });
    let id = make(&lab, &manifest, lab.free_port()).await;
    let seen = lab.look(&id).await;
    let criterion = Criterion::of(&seen, &manifest);
    assert!(matches!(criterion, Criterion::Health(_)));
    wait_for(|| async {
        match look(lab.engine.as_ref(), &seen, &criterion, 0).await {
            Ok(Look::Yes) => Ok(()),
            Ok(Look::No(why)) => {
                assert!(why.contains("/tmp/up"), "{why}");
                Err(why)
            }
            Err(error) => panic!("{error}"),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_docker_restarts_by_itself_takes_no_traffic_meanwhile() {
    let lab = Lab::docker().await;
    let id = lab.create(&lab.spec("web", Does::Ends(1))).await;
    let restart = bollard::models::RestartPolicy {
        name: Some(bollard::models::RestartPolicyNameEnum::ALWAYS),
        maximum_retry_count: None,
    };
    let update = bollard::models::ContainerUpdateBody {
        restart_policy: Some(restart),
        ..bollard::models::ContainerUpdateBody::default()
    };
    let updated = docker().update_container(&id, update).await;
    updated.expect("updated");
    lab.engine.start(&id).await.expect("started");
    let seen = lab.until(&id, |seen| seen.cut_off().is_some()).await;
    let why = seen.cut_off().expect("it is cut off");
    assert!(why.contains("restart policy"), "{why}");
    // It is not to be replaced because Docker has it out of its network for a moment.
    assert!(!seen.has_lost_network());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_is_as_full_as_df_says() {
    let lab = Lab::docker().await;
    let root = lab.engine.info().await.expect("an answer").data_root;
    wait_for(|| async {
        let shown = Command::new("df").args(["--output=pcent", &root]).output();
        let shown = String::from_utf8(shown.expect("df").stdout).expect("text");
        let usage = lab.engine.disk_usage().await.expect("an answer");
        let percent = usage.expect("the engine is on this machine").percent();
        // Others write meanwhile.
        if shown.contains(&format!(" {percent}%")) {
            Ok(())
        } else {
            Err((shown, percent))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_container_reaches_of_this_machine_is_seen_from_inside_it() {
    let lab = Lab::docker().await;
    let manifest = manifest(&lab, "exec httpd -f -p 80");
    let id = make(&lab, &manifest, lab.free_port()).await;
    let pid = lab.look(&id).await.running().expect("it runs").pid;
    let gateway = lab.engine.bridge("bridge").await.expect("a bridge").gateway;
    let bound = std::net::TcpListener::bind((gateway, 0)).expect("the bridge's gateway is here");
    let listens = Target::Tcp(bound.local_addr().expect("bound"));
    let bound = std::net::TcpListener::bind((gateway, 0)).expect("a port");
    let closed = Target::Tcp(bound.local_addr().expect("bound"));
    drop(bound);
    // Only inside the container this is the container's own.
    let inside = Target::Tcp(SocketAddr::from(([127, 0, 0, 1], 80)));
    crate::harness::wait_for(|| async {
        let tried = probe_from(pid, vec![listens.clone(), closed.clone(), inside.clone()]).await;
        let tried: Vec<Reach> = tried.expect("tried").into_iter().map(|(_, r)| r).collect();
        let expected = [Reach::Answered, Reach::Refused, Reach::Answered];
        if tried == expected {
            Ok(())
        } else {
            Err(tried)
        }
    })
    .await;
    let own = std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
    let of_process = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
    assert_eq!(own, of_process);
}
