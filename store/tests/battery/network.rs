//! Connections that break, hang and come back; only a real etcd has them.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use store::Op;
use store::etcd::{EtcdKv, EtcdOptions, etcd_thread};
use store::kv::{Event, KeyRange, Kv, KvError, Range, Watch, WatchReply};
use store::view::{Reason, Trust, ViewOptions};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{RealEtcd, get, put, txn, wait_for};
use crate::view::{Running, cluster, manifest, put_cluster};

/// A TCP proxy whose cable can be pulled: then nothing passes, and nobody is told.
struct Proxy {
    address: String,
    pulled: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound").to_string();
        let (pulled, receiver) = watch::channel(false);
        let target = target.to_owned();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((inbound, _)) = listener.accept().await {
                let (target, pulled) = (target.clone(), receiver.clone());
                connections.spawn(async move {
                    let Ok(outbound) = TcpStream::connect(target).await else {
                        return;
                    };
                    let (from, to) = inbound.into_split();
                    let (back, forth) = outbound.into_split();
                    tokio::select! {
                        () = copy(from, forth, pulled.clone()) => {}
                        () = copy(back, to, pulled) => {}
                    }
                });
            }
        });
        Self {
            address,
            pulled,
            _tasks: tasks,
        }
    }

    fn pull(&self, pulled: bool) {
        self.pulled.send_replace(pulled);
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut pulled: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 || pulled.wait_for(|pulled| !pulled).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

fn client(endpoints: &[&str]) -> Arc<dyn Kv> {
    let options = EtcdOptions {
        lease_ttl: Duration::from_secs(5),
        ..EtcdOptions::new(endpoints.iter().copied())
    };
    Arc::new(EtcdKv::new(&options).expect("good options"))
}

/// Waits for the first event, over closed watches.
async fn first_event(kv: &dyn Kv, mut watch: Watch, from: i64) -> Event {
    loop {
        match watch.replies.recv().await {
            Some(WatchReply::Events(events, _)) => {
                return events.into_iter().next().expect("not empty");
            }
            Some(WatchReply::Progress(_)) => {}
            Some(WatchReply::Closed(_)) | None => {
                watch = wait_for("a watch", || async {
                    kv.watch(KeyRange::prefix("/w/"), from, false).await.ok()
                })
                .await;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_on_a_unix_socket_is_used_as_any_other() {
    let etcd = RealEtcd::start_on_socket();
    assert!(etcd.folder().join("c:1").exists());
    let kv = etcd.kv();
    let at = put(&*kv, "/w/a", "1").await;
    let (lease, _) = kv
        .lease_grant(Duration::from_secs(5))
        .await
        .expect("grants");
    kv.lease_keep_alive(lease).await.expect("renews");
    let watch = kv
        .watch(KeyRange::prefix("/w/"), at, false)
        .await
        .expect("watches");
    assert_eq!(first_event(&*kv, watch, at).await.modified(), at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_etcd_every_call_fails_in_time() {
    // A port that nobody listens on.
    let free = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let kv = client(&[&address]);
    let started = Instant::now();
    let results = tokio::join!(
        async { kv.range(Range::key("/a")).await.map(|_| ()) },
        async { txn(&*kv, vec![Op::put("/a", "1")]).await.map(|_| ()) },
        async { kv.watch(KeyRange::key("/a"), 0, false).await.map(|_| ()) },
        async { kv.lease_grant(Duration::from_secs(5)).await.map(|_| ()) },
        async { kv.lease_keep_alive(1).await.map(|_| ()) },
    );
    for result in [results.0, results.1, results.2, results.3, results.4] {
        assert!(matches!(result, Err(KvError::Unavailable(_))), "{result:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_cable_is_pulled_calls_fail_and_come_back_by_themselves() {
    let etcd = RealEtcd::start();
    let proxy = Proxy::to(etcd.address()).await;
    let kv = client(&[&proxy.address]);
    put(&*kv, "/a", "1").await;
    let (lease, _) = kv
        .lease_grant(Duration::from_secs(60))
        .await
        .expect("grants");
    kv.lease_keep_alive(lease).await.expect("renews");
    proxy.pull(true);
    let started = Instant::now();
    let (read, written, renewed) = tokio::join!(
        kv.range(Range::key("/a")),
        txn(&*kv, vec![Op::put("/a", "2")]),
        kv.lease_keep_alive(lease),
    );
    assert!(matches!(read, Err(KvError::Unavailable(_))), "{read:?}");
    assert!(
        matches!(written, Err(KvError::Unavailable(_))),
        "{written:?}"
    );
    assert!(
        matches!(renewed, Err(KvError::Unavailable(_))),
        "{renewed:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(20));
    proxy.pull(false);
    wait_for("a read", || async { kv.range(Range::key("/a")).await.ok() }).await;
    wait_for("a renewal", || async {
        kv.lease_keep_alive(lease).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_cable_is_pulled_a_watch_ends_in_time_and_resumes_without_a_gap() {
    let etcd = RealEtcd::start();
    let proxy = Proxy::to(etcd.address()).await;
    let (behind, direct) = (client(&[&proxy.address]), etcd.kv());
    let from = put(&*direct, "/outside", "1").await + 1;
    let mut watch = behind
        .watch(KeyRange::prefix("/w/"), from, false)
        .await
        .expect("watches");
    proxy.pull(true);
    let at = put(&*direct, "/w/a", "1").await;
    let ended = tokio::time::timeout(Duration::from_secs(30), watch.replies.recv());
    let ended = ended.await.expect("in time");
    assert!(matches!(ended, Some(WatchReply::Closed(_))), "{ended:?}");
    proxy.pull(false);
    assert_eq!(first_event(&*behind, watch, from).await.modified(), at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_watch_stays_open_and_says_its_progress_once() {
    let etcd = RealEtcd::start();
    let kv = etcd.kv();
    let from = put(&*kv, "/outside", "1").await + 1;
    let mut watch = kv
        .watch(KeyRange::prefix("/w/"), from, false)
        .await
        .expect("watches");
    let mut progress = Vec::new();
    // Longer than etcd bears pings that it finds too many.
    let quiet = tokio::time::timeout(Duration::from_secs(9), async {
        loop {
            match watch.replies.recv().await {
                Some(WatchReply::Progress(at)) => progress.push(at),
                other => return other,
            }
        }
    });
    let said = quiet.await;
    assert!(said.is_err(), "{said:?}");
    assert_eq!(progress, [from - 1]);
    watch.progress.send(()).await.expect("open");
    let asked = watch.replies.recv().await;
    assert_eq!(asked, Some(WatchReply::Progress(from - 1)));
    put(&*kv, "/w/a", "1").await;
    assert!(matches!(
        watch.replies.recv().await,
        Some(WatchReply::Events(..))
    ));
}

#[test]
fn on_a_thread_of_its_own_a_connection_outlives_the_runtime_that_used_it_first() {
    let etcd = RealEtcd::start();
    let options = EtcdOptions {
        runs_on: Some(etcd_thread().expect("starts")),
        ..etcd.options()
    };
    let kv = EtcdKv::new(&options).expect("good options");
    let runtime = || {
        let built = Builder::new_current_thread().enable_all().build();
        built.expect("a runtime")
    };
    let mut watch = runtime().block_on(async {
        put(&kv, "/w/a", "1").await;
        let watch = kv.watch(KeyRange::prefix("/w/"), 0, false).await;
        watch.expect("watches")
    });
    runtime().block_on(async {
        let at = put(&kv, "/w/a", "2").await;
        let said = async {
            loop {
                match watch.replies.recv().await {
                    Some(WatchReply::Progress(_)) => {}
                    said => return said,
                }
            }
        };
        let said = tokio::time::timeout(Duration::from_secs(10), said).await;
        let Ok(Some(WatchReply::Events(events, _))) = &said else {
            panic!("{said:?}");
        };
        assert_eq!(events[0].modified(), at);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_restarts_is_used_again() {
    let mut etcd = RealEtcd::start();
    let kv = etcd.kv();
    let at = put(&*kv, "/w/a", "1").await;
    let (lease, _) = kv
        .lease_grant(Duration::from_secs(60))
        .await
        .expect("grants");
    let watch = kv
        .watch(KeyRange::prefix("/w/"), at + 1, false)
        .await
        .expect("watches");
    etcd.restart();
    let next = put(&*kv, "/w/a", "2").await;
    assert_eq!(first_event(&*kv, watch, at + 1).await.modified(), next);
    wait_for("a renewal", || async {
        kv.lease_keep_alive(lease).await.ok()
    })
    .await;
    assert_eq!(get(&*kv, "/w/a").await.as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_endpoint_hangs_the_other_is_used() {
    let etcd = RealEtcd::start();
    let proxy = Proxy::to(etcd.address()).await;
    let kv = client(&[&proxy.address, etcd.address()]);
    put(&*kv, "/a", "1").await;
    proxy.pull(true);
    // Wherever the client is: reads go on within their own deadline.
    for _ in 0..3 {
        kv.range(Range::key("/a")).await.expect("reads");
    }
    wait_for("a watch", || async {
        kv.watch(KeyRange::prefix("/w/"), 0, false).await.ok()
    })
    .await;
    let (lease, _) = kv
        .lease_grant(Duration::from_secs(60))
        .await
        .expect("grants");
    wait_for("a renewal", || async {
        kv.lease_keep_alive(lease).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_finds_the_endpoint_that_is_its_cluster_and_finds_it_again() {
    // Set up alike: etcd's own cluster ids are the same, so nothing but the keys tells them apart.
    let (etcd, stranger) = (RealEtcd::start(), RealEtcd::start());
    let proxy = Proxy::to(etcd.address()).await;
    let (ours, other) = (cluster(), cluster());
    let direct = etcd.kv();
    put_cluster(&*direct, &ours).await;
    put(&*direct, &manifest("a"), "{}").await;
    put_cluster(&*stranger.kv(), &other).await;
    let kv = client(&[&proxy.address, stranger.address()]);
    let mut view = Running::start(kv, ViewOptions::new(ours.clone(), None, None));
    let update = view.until("a complete view", |u| u.complete).await;
    assert!(update.trust.is_trusted());
    proxy.pull(true);
    let update = view.until("distrust", |u| !u.trust.is_trusted()).await;
    let reason = Reason::OtherCluster {
        known: ours.id,
        found: other.id,
    };
    assert_eq!(update.trust, Trust::Distrust(reason));
    put(&*direct, &manifest("b"), "{}").await;
    proxy.pull(false);
    let update = view.until("trust", |u| u.complete).await;
    assert!(update.trust.is_trusted());
    assert_eq!(update.snapshot.containers.size(), 2);
    view.stop().await;
}

/// A folder with `ca.pem`, and `<name>.pem` and `<name>.key` for each name, signed by it.
fn certificates(names: &[&str]) -> TempDir {
    certificates_of(names, &[])
}

/// The same, of which some have expired.
fn certificates_of(names: &[&str], expired: &[&str]) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let write = |file: &str, text: String| {
        std::fs::write(folder.path().join(file), text).expect("writes");
    };
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().expect("a key");
    let ca_cert = ca.self_signed(&ca_key).expect("signs");
    write("ca.pem", ca_cert.pem());
    let issuer = Issuer::new(ca, ca_key);
    for name in names {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, *name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if expired.contains(name) {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let cert = params.signed_by(&key, &issuer).expect("signs");
        write(&format!("{name}.pem"), cert.pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_both_sides_show_their_certificates() {
    let etcd = RealEtcd::start_with_tls(certificates(&["server", "client"]));
    let file = |name: &str| Some(etcd.folder().join(name));
    let options = EtcdOptions {
        ca: file("ca.pem"),
        cert: file("client.pem"),
        key: file("client.key"),
        ..EtcdOptions::new([etcd.address()])
    };
    assert!(options.plaintext_endpoints().is_empty());
    let kv = EtcdKv::new(&options).expect("good options");
    let at = put(&kv, "/w/a", "1").await;
    let watch = kv
        .watch(KeyRange::prefix("/w/"), at, false)
        .await
        .expect("watches");
    assert_eq!(first_event(&kv, watch, at).await.modified(), at);

    let strangers = certificates(&["client"]);
    let stranger = |name: &str| Some(strangers.path().join(name));
    for wrong in [
        EtcdOptions {
            cert: None,
            key: None,
            ..options.clone()
        },
        EtcdOptions {
            cert: stranger("client.pem"),
            key: stranger("client.key"),
            ..options.clone()
        },
        EtcdOptions {
            ca: stranger("ca.pem"),
            ..options.clone()
        },
    ] {
        let kv = EtcdKv::new(&wrong).expect("good options");
        let read = kv.range(Range::key("/w/a")).await;
        assert!(matches!(read, Err(KvError::Unavailable(_))), "{read:?}");
    }
    let half = EtcdOptions {
        key: None,
        ..options
    };
    assert!(EtcdKv::new(&half).is_err());
}

/// What is said of a refused read, its source with it.
async fn said(kv: &EtcdKv, range: Range) -> String {
    let error = kv.range(range).await.expect_err("is refused");
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_told_by_whose_it_is() {
    for (expired, whose) in [
        ("server", "etcd's certificate has expired"),
        ("client", "this host's certificate has expired"),
    ] {
        let etcd = RealEtcd::start_with_tls(certificates_of(&["server", "client"], &[expired]));
        let file = |name: &str| Some(etcd.folder().join(name));
        let options = EtcdOptions {
            ca: file("ca.pem"),
            cert: file("client.pem"),
            key: file("client.key"),
            ..EtcdOptions::new([etcd.address()])
        };
        let kv = EtcdKv::new(&options).expect("good options");
        let said = said(&kv, Range::key("/w/a")).await;
        assert!(
            said.contains(whose) && said.contains("openssl x509"),
            "{said}"
        );
    }
}

fn as_user(etcd: &RealEtcd, user: Option<(&str, &str)>) -> EtcdKv {
    let options = EtcdOptions {
        user: user.map(|(user, password)| (user.into(), password.into())),
        ..etcd.options()
    };
    EtcdKv::new(&options).expect("good options")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_etcd_denies_is_said_with_the_command_that_helps() {
    let etcd = RealEtcd::start();
    let mut admin = etcd_client::Client::connect([etcd.address()], None)
        .await
        .expect("connects");
    for role in ["root", "apps"] {
        admin.role_add(role).await.expect("adds");
    }
    let apps = etcd_client::Permission::read_write("/apps/").with_prefix();
    admin
        .role_grant_permission("apps", apps)
        .await
        .expect("grants");
    for user in ["root", "agent", "nobody"] {
        admin.user_add(user, "secret", None).await.expect("adds");
    }
    for (user, role) in [("root", "root"), ("agent", "apps")] {
        admin.user_grant_role(user, role).await.expect("grants");
    }
    admin.auth_enable().await.expect("enables");
    let with = |user| as_user(&etcd, user);
    let all = || Range::new(store::view::watched());
    let agent = with(Some(("agent", "secret")));
    put(&agent, "/apps/shop/web/manifest", "1").await;
    let grant = "etcdctl role grant-permission ROLE readwrite /apps/ /hosts0";
    for (kv, range, helps) in [
        (&agent, Range::key("/dokkaa/cluster"), grant),
        (&agent, all(), grant),
        (&with(Some(("nobody", "secret"))), all(), grant),
        (
            &with(Some(("agent", "wrong"))),
            all(),
            "etcdctl user passwd NAME",
        ),
        (&with(None), all(), "--etcd-user-file"),
    ] {
        let said = said(kv, range).await;
        assert!(said.contains(helps), "{said}");
    }
    // A watch is refused in the same words, and the command helps.
    let watched = agent.watch(store::view::watched(), 1, false).await;
    let said = watched.expect_err("is refused").to_string();
    assert!(said.contains(grant), "{said}");
    let root = etcd_client::ConnectOptions::new().with_user("root", "secret");
    let mut admin = etcd_client::Client::connect([etcd.address()], Some(root))
        .await
        .expect("connects");
    let whole = etcd_client::Permission::read_write("/apps/").with_range_end("/hosts0");
    admin
        .role_grant_permission("apps", whole)
        .await
        .expect("grants");
    agent.range(all()).await.expect("reads");
    put(&agent, "/dokkaa/cluster", "1").await;
    agent
        .watch(store::view::watched(), 1, false)
        .await
        .expect("watches");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_logs_in_with_a_password_and_one_without_is_refused() {
    let etcd = RealEtcd::start();
    let mut admin = etcd_client::Client::connect([etcd.address()], None)
        .await
        .expect("connects");
    admin.role_add("root").await.expect("adds");
    for user in ["root", "agent"] {
        admin.user_add(user, "secret", None).await.expect("adds");
        admin.user_grant_role(user, "root").await.expect("grants");
    }
    admin.auth_enable().await.expect("enables");
    let with = |user| as_user(&etcd, user);
    let agent = with(Some(("agent", "secret")));
    let at = put(&agent, "/w/a", "1").await;
    let watch = agent
        .watch(KeyRange::prefix("/w/"), at, false)
        .await
        .expect("watches");
    assert_eq!(first_event(&agent, watch, at).await.modified(), at);
    for wrong in [None, Some(("agent", "wrong"))] {
        let read = with(wrong).range(Range::key("/w/a")).await;
        assert!(matches!(read, Err(KvError::Refused(_))), "{read:?}");
    }
}

#[test]
fn endpoints_that_are_none_are_refused() {
    for wrong in ["", "etcd", "ftp://a:1", "http://a", "unix:", "http://"] {
        let result = EtcdKv::new(&EtcdOptions::new([wrong]));
        assert!(result.is_err(), "{wrong}");
    }
    assert!(EtcdKv::new(&EtcdOptions::new(Vec::<String>::new())).is_err());
    for right in [
        "etcd:2379",
        "10.0.0.1:2379",
        "http://[::1]:2379",
        "unix:/run/etcd",
    ] {
        EtcdKv::new(&EtcdOptions::new([right])).expect(right);
    }
}

#[test]
fn plaintext_over_a_network_is_named() {
    let options = EtcdOptions::new([
        "127.0.0.1:1",
        "localhost:1",
        "unix:/run/etcd",
        "https://far:1",
        "http://[::1]:1",
        "10.0.0.1:1",
        "http://far:1",
    ]);
    assert_eq!(
        options.plaintext_endpoints(),
        ["10.0.0.1:1", "http://far:1"]
    );
}
