//! The harness does what the other tests take for granted.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dokkaa_tests::images::{BUSYBOX, NGINX, UBUNTU, WELCOME};
use dokkaa_tests::{Lab, LabOptions, lab, resolver, wait_for};

const CAP: Duration = Duration::from_secs(60);

#[test]
fn hosts_are_machines_of_their_own_on_one_network() {
    let lab = Lab::start(&LabOptions {
        hosts: 2,
        images: true,
        agents: None,
        ..LabOptions::default()
    })
    .expect("a lab");
    let (one, two) = (lab.host(1), lab.host(2));

    // Names, resolvers and engines are the host's own.
    let names = lab::each(lab.hosts(), |host| {
        let engine = host.engine().get("/info")?["Name"].clone();
        Ok((host.sh("hostname")?.trim().to_owned(), engine))
    })
    .expect("names");
    assert_eq!(
        names,
        [
            ("h1".to_owned(), "h1".into()),
            ("h2".to_owned(), "h2".into())
        ]
    );
    let resolved = one.dig(&["anything.example"]).expect("dig");
    assert_eq!(resolved, [resolver::ANSWER.to_string()]);
    assert_eq!(lab.resolver().asked(), ["anything.example."]);

    // An image is the same one on every engine.
    for image in [NGINX, UBUNTU, BUSYBOX] {
        let ids = lab::each(lab.hosts(), |host| {
            Ok(host.engine().get(&format!("/images/{image}/json"))?["Id"].clone())
        })
        .expect("image ids");
        assert_eq!(ids[0], ids[1], "{image}");
    }

    // A container on one host reaches one on the other.
    let port = format!("{}:8080:80", one.address());
    one.docker(&["run", "--detach", "--publish", &port, NGINX])
        .expect("nginx");
    let url = format!("http://{}:8080/", one.address());
    let fetch = |host: &dokkaa_tests::host::Host| {
        host.docker(&[
            "run",
            "--rm",
            UBUNTU,
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "2",
            &url,
        ])
        .map_err(|error| error.to_string())
    };
    let page = wait_for("nginx's page from the other host", CAP, || fetch(two));
    assert!(page.contains(WELCOME), "{page}");

    // A cable out of the switch cuts the host off, and only that.
    one.unplug().expect("unplug");
    fetch(two).expect_err("the cable is out");
    lab.etcd().put("/still", "here").expect("etcd is not on h1");
    one.plug().expect("plug");
    wait_for("the page again", CAP, || fetch(two));

    let folder = lab.folder().to_owned();
    drop(lab);
    assert!(!folder.exists());
}

#[test]
fn a_registry_asks_for_the_password() {
    let lab = Lab::start(&LabOptions {
        hosts: 2,
        images: true,
        agents: None,
        ..LabOptions::default()
    })
    .expect("a lab");
    let registry = lab.registry().expect("a registry");
    let (one, two) = (lab.host(1), lab.host(2));
    registry.login(one).expect("login");
    let image = registry.push(one, BUSYBOX, "private").expect("push");
    one.docker(&["pull", &image]).expect("h1 is logged in");
    two.docker(&["pull", &image])
        .expect_err("h2 is not logged in");
}

/// Whatever ends a lab, nothing of it stays: here, the program that made it
/// is killed.
#[test]
fn a_killed_lab_leaves_nothing() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["--hosts", "1", "--without-agents"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the lab");
    let mut said = String::new();
    let mut lines = BufReader::new(program.stdout.take().expect("a pipe"));
    while !said.contains("ctrl-C") {
        assert_ne!(lines.read_line(&mut said).expect("a line"), 0, "{said}");
    }
    let script = said
        .split_whitespace()
        .find(|word| word.ends_with("/on-h2") || word.ends_with("/on-h1"))
        .expect("a script that enters a host");
    let folder = Path::new(script).parent().expect("a folder").to_owned();
    let name = folder
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let enter = std::fs::read_to_string(folder.join("on-h1")).expect("the script");
    let pid = enter
        .split("--target ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .expect("a process id");
    let space = namespace(pid).expect("its namespace");
    let container = Command::new(folder.join("on-h1"))
        .args(["docker", "run", "--detach", BUSYBOX, "sleep", "1000"])
        .output()
        .expect("docker");
    assert!(container.status.success(), "{container:?}");
    assert!(
        inhabitants(&space) >= 4,
        "shell, dockerd, containerd, sleep"
    );
    assert_ne!(control_groups(&name), BTreeSet::new());

    program.kill().expect("kill");
    program.wait().expect("its end");

    wait_for("the end of all that the lab was", CAP, || {
        let left = (
            inhabitants(&space),
            folder.exists(),
            control_groups(&name),
            mounts(&name),
        );
        if left == (0, false, BTreeSet::new(), 0) {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
}

fn namespace(pid: &str) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// How many processes live in a process namespace.
fn inhabitants(space: &Path) -> usize {
    std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(Result::ok)
        .filter(|entry| {
            namespace(&entry.file_name().to_string_lossy()).is_some_and(|own| own == space)
        })
        .count()
}

fn control_groups(name: &str) -> BTreeSet<String> {
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", name])
        .output()
        .expect("find");
    String::from_utf8_lossy(&found.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

fn mounts(name: &str) -> usize {
    std::fs::read_to_string("/proc/self/mountinfo")
        .expect("mounts")
        .lines()
        .filter(|line| line.contains(name))
        .count()
}
