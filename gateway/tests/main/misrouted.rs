//! Packets for 127.0.0.1 that come by another interface, as a container can send them where `route_localnet` is set.

use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use dokkaa_tests::node::Node;
use gateway::listener::{self, ListenerConfig};
use gateway::v2::{self, V2};
use store::kv::{Kv, Range};
use store::memory::MemKv;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the host's kernel lets through, at its worst.
const HOST: &str = "
ip addr add 10.77.0.1/24 dev cable && ip link set cable up
for way in all cable; do
    echo 0 >/proc/sys/net/ipv4/conf/$way/rp_filter
    echo 1 >/proc/sys/net/ipv4/conf/$way/route_localnet
    echo 1 >/proc/sys/net/ipv4/conf/$way/accept_local
done
";

/// A neighbour that sends what is for 127.0.0.1 over the cable.
const NEIGHBOUR: &str = "
ip addr add 10.77.0.2/24 dev cable && ip link set cable up
ip addr add 127.0.0.5/32 dev cable
for way in all cable; do
    echo 0 >/proc/sys/net/ipv4/conf/$way/rp_filter
    echo 1 >/proc/sys/net/ipv4/conf/$way/route_localnet
done
ip route add 127.0.0.1 via 10.77.0.1 dev cable src 10.77.0.2 table 100
ip rule add pref 1 lookup 100
ip rule add pref 10 lookup local && ip rule del pref 0
";

const WRITE: &str = "PUT /v2/keys/evil?value=1 HTTP/1.1\r\nHost: 127.0.0.1:4001\r\n\r\n";
const CAP: Duration = Duration::from_secs(2);

/// What a neighbour is answered; an error where there is no connection or it breaks.
fn attack(neighbour: &Node, at: SocketAddr) -> std::io::Result<String> {
    let mut stream = neighbour.connect(at, CAP)?;
    stream.set_read_timeout(Some(CAP))?;
    std::io::Write::write_all(&mut stream, WRITE.as_bytes())?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loopback_listener_answers_this_machine_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = |name: &str| {
        Node::new(name, &folder.path().join(name), "10.77.0.1/24", None).expect("a node")
    };
    let (host, neighbour) = (node("host"), node("neighbour"));
    let (one, two) = (host.pid().to_string(), neighbour.pid().to_string());
    let cable = Command::new("ip")
        .args(["link", "add", "cable", "netns", &one, "type", "veth"])
        .args(["peer", "name", "cable", "netns", &two])
        .status();
    assert!(cable.expect("ip").success());
    host.sh(HOST).expect("the host's network");
    neighbour.sh(NEIGHBOUR).expect("the neighbour's network");

    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let kv = MemKv::new();
    let open = |listener: StdListener| {
        listener.set_nonblocking(true).expect("a socket");
        let at = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let v2 = V2::new(Arc::new(kv.clone()), "h1", stop.clone());
        let router = listener::routes(v2::router(v2), Router::new());
        let listener = TcpListener::from_std(listener).expect("a listener");
        tokio::spawn(listener::serve(
            vec![listener],
            ListenerConfig::default(),
            router,
            stop,
        ));
        at
    };
    let plain = || host.inside(|| StdListener::bind(any)).expect("a thread");

    // The way is there: who listens as programs do is reached.
    let unguarded = plain().expect("a port");
    let at = unguarded.local_addr().expect("an address");
    neighbour.connect(at, CAP).expect("the attack itself works");
    let (_, from) = unguarded.accept().expect("a connection");
    assert_eq!(from.ip().to_string(), "10.77.0.2");

    // Accepted by the kernel, and closed before anything is read.
    let at = open(plain().expect("a port"));
    let error = attack(&neighbour, at).expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");

    // As the agent listens: the kernel finds no socket.
    let at = open(
        host.inside(|| listen::tcp(any))
            .expect("a thread")
            .expect("a port"),
    );
    let error = attack(&neighbour, at).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");

    // With a forged source of this machine the answer does not come back.
    let forged = "ip route replace 127.0.0.1 via 10.77.0.1 dev cable src 127.0.0.5 table 100";
    neighbour.sh(forged).expect("another source");
    for at in [unguarded.local_addr().expect("an address"), at] {
        let error = attack(&neighbour, at).expect_err("no connection");
        assert!(
            matches!(
                error.kind(),
                ErrorKind::TimedOut | ErrorKind::ConnectionRefused
            ),
            "{error}"
        );
    }

    let all = kv.range(Range::new(store::kv::KeyRange::prefix("/")));
    assert_eq!(all.await.expect("the store").kvs, []);
    // This machine itself is answered.
    let own = host.connect(at, CAP).expect("a connection");
    drop(own);
}
