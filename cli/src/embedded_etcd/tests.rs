#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;

use manifests::manifest::Protocol;

const LONG: Duration = Duration::from_secs(60);

fn config(state_dir: &Path) -> Config {
    Config {
        state_dir: state_dir.to_owned(),
        program: "etcd".into(),
        // The test program is no launcher; `env` only runs what follows.
        launcher: vec!["env".into()],
    }
}

async fn until(what: &str, mut seen: impl FnMut() -> bool) {
    let start = Instant::now();
    while !seen() {
        assert!(start.elapsed() < LONG, "never seen: {what}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn child_of(etcd: &EmbeddedEtcd) -> ProcessMark {
    etcd.shared.lock().child.clone().unwrap()
}

#[tokio::test]
async fn it_is_closed_to_others_restarted_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = EmbeddedEtcd::start(config(dir.path())).unwrap();
    etcd.ready(LONG).await.unwrap();

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&etcd.files.dir), 0o700);
    assert_eq!(mode(&etcd.files.data()), 0o700);
    for name in [CLIENT_SOCKET, PEER_SOCKET] {
        let kind = fs::symlink_metadata(etcd.files.dir.join(name)).unwrap();
        assert!(kind.file_type().is_socket(), "{name}");
    }
    assert_eq!(tcp_listeners(child_of(&etcd).pid()), []);

    // Its owner gets in, another user of the machine does not.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    assert!(etcdctl_gets_in(&etcd, None));
    if rustix::process::geteuid().is_root() {
        assert!(!etcdctl_gets_in(&etcd, Some(65_534)));
    }

    // Killed, it comes back with the same data and over its stale sockets.
    let first = child_of(&etcd);
    first.signal(Signal::KILL).unwrap();
    until("its end", || !first.is_running()).await;
    until("another process", || {
        etcd.shared
            .lock()
            .child
            .as_ref()
            .is_some_and(|c| *c != first)
    })
    .await;
    etcd.ready(LONG).await.unwrap();

    let second = child_of(&etcd);
    let pid_file = etcd.files.pid_file();
    assert_eq!(ProcessMark::read(&pid_file).as_ref(), Some(&second));
    etcd.stop();
    assert!(!second.is_running());
    assert!(!pid_file.exists());
}

#[tokio::test]
async fn one_left_behind_is_ended_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::of(dir.path());
    files.prepare().unwrap();
    let mut left = Command::new("sleep").arg("600").spawn().unwrap();
    let mark = ProcessMark::of(left.id()).unwrap();
    mark.write(&files.pid_file()).unwrap();

    let etcd = EmbeddedEtcd::start(config(dir.path())).unwrap();
    assert!(!mark.is_running());
    left.wait().unwrap();
    etcd.ready(LONG).await.unwrap();
}

#[tokio::test]
async fn one_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = EmbeddedEtcd::start(Config {
        launcher: ["sh", "-c", "echo broken on purpose; exit 1"]
            .map(OsString::from)
            .into(),
        ..config(dir.path())
    })
    .unwrap();
    let error = etcd.ready(LONG).await.unwrap_err().to_string();
    assert!(error.ends_with("broken on purpose"), "{error}");

    let missing = EmbeddedEtcd::start(Config {
        program: "no-such-etcd".into(),
        ..config(dir.path())
    })
    .unwrap_err();
    assert!(matches!(missing, EmbeddedEtcdError::NotInstalled(_)));

    let deep = dir.path().join("x".repeat(120));
    let error = EmbeddedEtcd::start(config(&deep)).unwrap_err();
    assert!(matches!(error, EmbeddedEtcdError::PathTooLong(_)));
}

/// True if etcdctl, run as that user, reads from it.
fn etcdctl_gets_in(etcd: &EmbeddedEtcd, user: Option<u32>) -> bool {
    let mut command = Command::new("etcdctl");
    command
        .args(["--command-timeout=2s", "--dial-timeout=2s", "get", "key"])
        .env("ETCDCTL_API", "3")
        .env("ETCDCTL_ENDPOINTS", etcd.endpoint());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command.output().unwrap().status.success()
}

/// The listening TCP sockets of a process.
fn tcp_listeners(pid: i32) -> Vec<SocketAddr> {
    let pid = pid.to_string();
    let open = listen::sockets::open_inodes(&pid);
    [false, true]
        .into_iter()
        .filter_map(|v6| listen::sockets::read(&pid, Protocol::Tcp, v6).ok())
        .flatten()
        .filter(|socket| socket.listens && open.contains(&socket.inode))
        .map(|socket| socket.local)
        .collect()
}
