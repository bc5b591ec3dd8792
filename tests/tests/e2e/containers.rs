//! What a container gets, and what stays of it.

use std::collections::BTreeSet;

use dokkaa_tests::wait_for;
use serde_json::json;

use super::{CAP, Cluster, serve, web, with};

#[test]
fn a_container_gets_what_its_manifest_says() {
    let cluster = Cluster::take();
    let app = cluster.app("dressed");
    app.put(
        "web",
        &json!({
            "image": "busybox",
            "services": {"web": {"port": 80, "role": "front"}, "admin": 81},
            "entrypoint": ["sh", "-c"],
            "command": [format!("nc -ll -p 81 -e cat & {}", serve("x"))],
            "env": {"PLAIN": "a b", "NUMBER": 7, "TRUE": true, "DOKKAA_HOST": "mine"},
            "labels": {"com.example.team": "blue"},
            "user": "0:0",
            "workdir": "/tmp",
            "stop_signal": "SIGKILL",
            "stop_timeout": "3s",
            "log": {"max_size": "64k", "max_file": 2},
        }),
    );
    let (host, one) = app.ready("web", 1).remove(0);
    let seen = host.engine().inspect(&one.id).expect("inspect");
    assert_eq!(seen["Config"]["User"], "0:0");
    assert_eq!(seen["Config"]["WorkingDir"], "/tmp");
    assert_eq!(seen["Config"]["Entrypoint"], json!(["sh", "-c"]));
    assert_eq!(seen["Config"]["Labels"]["com.example.team"], "blue");
    assert_eq!(seen["HostConfig"]["RestartPolicy"]["Name"], "no");
    let log = &seen["HostConfig"]["LogConfig"];
    assert_eq!(log["Config"]["max-file"], "2", "{log}");
    assert!(
        matches!(
            log["Config"]["max-size"].as_str(),
            Some("64k" | "65536" | "65536b")
        ),
        "{log}"
    );
    let environment = app.exec("web", 0, &["env"]).expect("env");
    let has: BTreeSet<&str> = environment.lines().collect();
    for variable in [
        "PLAIN=a b",
        "NUMBER=7",
        "TRUE=true",
        "DOKKAA_APP_NAME=dressed",
        "DOKKAA_CONTAINER_NAME=web",
        "DOKKAA_SLOT=0",
        &format!("DOKKAA_HOST={}", host.name()),
    ] {
        assert!(has.contains(variable), "{variable} in\n{environment}");
    }
    let ours = |name: &str, value: &str| {
        environment.lines().any(|line| {
            line.split_once('=')
                .is_some_and(|(key, is)| key.eq_ignore_ascii_case(name) && is == value)
        })
    };
    assert!(ours("DOKKAA_SERVICE_web", "80"), "{environment}");
    assert!(ours("DOKKAA_SERVICE_admin", "81"), "{environment}");
    assert!(ours("DOKKAA_ROLE_web", "front"), "{environment}");
    let resolv = app
        .exec("web", 0, &["cat", "/etc/resolv.conf"])
        .expect("resolv.conf");
    let gateway = host.gateway().expect("gateway");
    assert!(
        resolv.contains(&format!("nameserver {gateway}")),
        "{resolv}"
    );
    assert!(resolv.contains("dressed.skydns.local"), "{resolv}");
}

/// A command of one string is split as a shell does, but no shell runs it.
#[test]
fn a_command_may_be_one_string() {
    let cluster = Cluster::take();
    let app = cluster.app("split");
    app.put(
        "web",
        &json!({"image": "busybox", "stop_signal": "SIGKILL", "command": "sh -c 'echo \"one  $0\"; sleep 1000' '*'"}),
    );
    app.ready("web", 1);
    app.prints("web", 0, "one  *");
}

#[test]
fn a_service_with_a_host_port_has_that_port() {
    let cluster = Cluster::take();
    let app = cluster.app("fixed");
    let manifest = with(
        web("at home"),
        "services",
        json!({"web": {"port": 80, "host_port": 8088}}),
    );
    app.put("web", &with(manifest.clone(), "scale", json!(3)));
    let running = app.ready("web", 3);
    let hosts: BTreeSet<&str> = running.iter().map(|(host, _)| host.name()).collect();
    assert_eq!(hosts.len(), 3, "one on each host");
    for (host, _) in &running {
        let page = cluster
            .lab
            .host(1)
            .curl(&[&format!("http://{}:8088/", host.address())])
            .expect("a page");
        assert_eq!(page.trim(), "at home");
    }
    // A fourth has no host left, and says so.
    app.put("web", &with(manifest.clone(), "scale", json!(4)));
    let row = app.row("web", "left over", |row| {
        row.slot == Some(3) && row.reason.contains("8088")
    });
    assert_eq!(row.status, "waiting");
    // A new version takes the port over, slot by slot.
    let newer = with(manifest, "env", json!({"V": 2}));
    app.put("web", &with(newer, "scale", json!(3)));
    app.ready("web", 3);
}

#[test]
fn a_named_volume_stays_and_keeps_its_host() {
    let cluster = Cluster::take();
    let app = cluster.app("kept");
    let manifest = json!({
        "image": "busybox",
        "stop_signal": "SIGKILL",
        "volumes": ["data:/data"],
        "command": ["sh", "-c", "echo life >>/data/lives; wc -l </data/lives; exec sleep 1000"],
    });
    app.put("db", &manifest);
    let (host, _) = app.ready("db", 1).remove(0);
    app.prints("db", 0, "1");
    // A new version, and then a new manifest of the same name.
    app.put("db", &with(manifest.clone(), "env", json!({"V": 2})));
    app.ready("db", 1);
    app.prints("db", 0, "2");
    app.delete("db");
    app.gone("db");
    // A claim that is left would be run once more as it was.
    wait_for("the end of its slot", CAP, || {
        let rows = app.rows("db")?;
        rows.is_empty().then_some(()).ok_or(format!("{rows:?}"))
    });
    app.put("db", &manifest);
    let (again, _) = app.ready("db", 1).remove(0);
    assert_eq!(again.name(), host.name());
    app.prints("db", 0, "3");
    let volumes = host
        .docker(&["volume", "ls", "--format", "{{.Name}}"])
        .expect("volumes");
    assert!(
        volumes.lines().any(|name| name == "kept---db---0---data"),
        "{volumes}"
    );
}

/// An image's own HEALTHCHECK that says no is no hindrance when it is turned off.
#[test]
fn the_check_of_an_image_can_be_turned_off() {
    let cluster = Cluster::take();
    let app = cluster.app("unchecked");
    for host in cluster.lab.hosts() {
        host.sh(
            "id=$(docker create busybox true) && docker commit \
             --change 'HEALTHCHECK --interval=1s --retries=1 CMD false' $id unchecked && docker rm $id",
        )
        .expect("an image");
    }
    let manifest = with(
        with(web("x"), "image", json!("unchecked")),
        "pull",
        json!("never"),
    );
    app.put("web", &manifest);
    app.row("web", "unready", |row| row.status == "unready");
    app.put("web", &with(manifest, "healthcheck", json!("none")));
    app.ready("web", 1);
}

/// A slot is ready when its ports listen, and unready when they stop.
#[test]
fn readiness_follows_the_ports_and_the_check() {
    let cluster = Cluster::take();
    let app = cluster.app("readiness");
    app.put(
        "slow",
        &with(
            web("x"),
            "command",
            json!([
                "sh",
                "-c",
                "until [ -e /go ]; do sleep 0.1; done; exec httpd -f -p 80 -h /"
            ]),
        ),
    );
    app.put(
        "checked",
        &with(
            web("x"),
            "healthcheck",
            json!({"command": ["test", "-e", "/healthy"], "interval": "1s", "retries": 1}),
        ),
    );
    for container in ["slow", "checked"] {
        app.row(container, "running but not ready", |row| {
            row.status == "unready"
        });
    }
    super::resolved(cluster.lab, &app.domain("web"), "A", &[]);
    app.exec("slow", 0, &["touch", "/go"]).expect("touch");
    app.exec("checked", 0, &["touch", "/healthy"])
        .expect("touch");
    app.ready("slow", 1);
    app.ready("checked", 1);
    app.exec("checked", 0, &["rm", "/healthy"]).expect("rm");
    app.row("checked", "unhealthy", |row| row.status == "unready");
}

/// A container that always fails is started again, but ever more slowly.
#[test]
fn a_crash_loop_says_why() {
    let cluster = Cluster::take();
    let app = cluster.app("looping");
    app.put(
        "web",
        &json!({"image": "busybox", "command": ["sh", "-c", "echo no configuration; exit 3"]}),
    );
    let row = app.row("web", "crashing", |row| row.reason.contains('3'));
    assert_ne!(row.status, "ready");
    wait_for("its last words", CAP, || {
        let said = cluster
            .lab
            .host(1)
            .dokkaa(&["why", "looping/web"])
            .map_err(|error| error.to_string())?;
        if said.stdout.contains("no configuration") {
            Ok(())
        } else {
            Err(said.to_string())
        }
    });
}
