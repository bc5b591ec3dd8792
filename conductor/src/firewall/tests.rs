//! The rules against real connections: three network namespaces, a host between the world and a container.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::iter::zip;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use engine::memory::MemEngine;
use engine::netns::inside;
use engine::{Bridge, EngineFacts, EngineInfo, Routed};
use manifests::manifest::Protocol;
use model::Snapshot;
use model::records::Docker;
use model::snapshot::Change;
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;

use super::rules::{Family, Wanted};
use super::wanted::{Site, peers, wanted};
use super::*;
use crate::published::{Published, Seen};

const HOST: &str = "10.98.0.1";
const PEER: &str = "10.98.0.2";
const STRANGER: &str = "10.98.0.3";
/// Forwarded to the container, as Docker does it.
const INSTANCE: &str = "10.98.0.1:20001";
/// Somebody on the host listens there, as Docker's proxy does it.
const PROXIED: &str = "10.98.0.1:20002";
/// Forwarded too, and the `host_port` of a service.
const HOST_PORT: &str = "10.98.0.1:25565";
/// A container's own address.
const CONTAINER: &str = "172.30.0.2:80";
const CONTAINER_V6: &str = "[fd30::2]:80";
/// Links and DNS, for this machine's containers.
const LINK: &str = "172.30.0.1:10000";
const DNS: &str = "172.30.0.1:53";
/// For this machine only: one listens there itself, the other is published there as Docker does it without its proxy.
const LOOPBACK: &str = "127.0.0.1:4001";
const PUBLISHED_ON_LOOPBACK: &str = "127.0.0.1:8080";
/// Longer than any connection takes, and as long as a dropped one is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// A network namespace; it ends when it is dropped.
struct Space(Child);

impl Space {
    fn new() -> Self {
        let mut keeper = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "for of in all default; do echo 0 >/proc/sys/net/ipv6/conf/$of/accept_dad; done
                 ip link set lo up && echo made && exec cat",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut said = String::new();
        let stdout = keeper.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut said).expect("a line");
        assert_eq!(
            said, "made\n",
            "a network namespace needs root and iproute2"
        );
        Self(keeper)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Runs a script in it; what it printed.
    fn sh(&self, script: &str) -> String {
        let pid = self.pid().to_string();
        let ran = Command::new("nsenter")
            .args(["--target", &pid, "--net", "sh", "-ec", script])
            .output()
            .expect("nsenter");
        let complaint = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{script}: {complaint}");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }

    /// Does async work in it.
    async fn run<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let work = move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(work())
        };
        inside(self.pid(), "space", work).await.expect("entered")
    }

    async fn listen(&self, at: &'static str) -> TcpListener {
        self.run(move || async move { TcpListener::bind(at).expect("bound") })
            .await
    }

    /// Whether a connection is opened; one that is refused instead of dropped is an error.
    async fn connects(&self, from: &'static str, to: &'static str) -> bool {
        let from = SocketAddr::new(from.parse().expect("an address"), 0);
        let to: SocketAddr = to.parse().expect("an address");
        self.run(move || async move {
            let socket =
                Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
            socket.bind(&from.into()).expect("bound");
            match socket.connect_timeout(&to.into(), PATIENCE) {
                Ok(()) => true,
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => false,
                Err(error) => panic!("{from} to {to}: {error}"),
            }
        })
        .await
    }
}

impl Space {
    /// Answers each datagram, until the end of the test.
    async fn echo(&self, at: &'static str) {
        let socket = self
            .run(move || async move { UdpSocket::bind(at).expect("bound") })
            .await;
        std::thread::spawn(move || {
            let mut text = [0; 16];
            while let Ok((length, from)) = socket.recv_from(&mut text) {
                if socket.send_to(&text[..length], from).is_err() {
                    break;
                }
            }
        });
    }

    /// Waits until its table is as expected.
    async fn shows(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let start = Instant::now();
        loop {
            let table = self.sh("iptables -S");
            if is_so(&table) {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "{what}:\n{table}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether a datagram is answered.
    async fn is_answered(&self, from: &'static str, to: &'static str) -> bool {
        let from = SocketAddr::new(from.parse().expect("an address"), 0);
        self.run(move || async move {
            let socket = UdpSocket::bind(from).expect("bound");
            socket.set_read_timeout(Some(PATIENCE)).expect("set");
            socket.connect(to).expect("a route");
            socket.send(b"?").expect("sent");
            socket.recv(&mut [0; 16]).is_ok()
        })
        .await
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A host between the world and a container of its own.
struct Lan {
    world: Space,
    host: Space,
    container: Space,
    #[expect(dead_code, reason = "held, not read")]
    listening: [TcpListener; 5],
}

impl Lan {
    async fn new() -> Self {
        let (world, host, container) = (Space::new(), Space::new(), Space::new());
        host.sh(&format!(
            "ip link add eth0 type veth peer name eth0 netns {}
             ip link add docker0 type veth peer name eth0 netns {}
             ip addr add {HOST}/24 dev eth0 && ip link set eth0 up
             ip addr add 172.30.0.1/24 dev docker0 && ip link set docker0 up
             echo 1 >/proc/sys/net/ipv4/ip_forward
             iptables -N DOCKER-USER && iptables -A DOCKER-USER -j RETURN
             iptables -A FORWARD -j DOCKER-USER
             for port in 20001 25565; do
                 iptables -t nat -A PREROUTING -d {HOST} -p tcp --dport $port -j DNAT --to 172.30.0.2:80
             done
             for chain in PREROUTING OUTPUT; do
                 iptables -t nat -A $chain -d 127.0.0.1 -p tcp --dport 8080 -j DNAT --to 172.30.0.2:80
             done
             iptables -t nat -A POSTROUTING -o docker0 -m addrtype --src-type LOCAL -j MASQUERADE
             echo 1 >/proc/sys/net/ipv4/conf/docker0/route_localnet
             echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
             ip addr add fd98::1/64 dev eth0 nodad && ip addr add fd30::1/64 dev docker0 nodad",
            world.pid(),
            container.pid(),
        ));
        world.sh(&format!(
            "ip addr add {PEER}/24 dev eth0 && ip addr add {STRANGER}/24 dev eth0 && ip link set eth0 up
             ip addr add fd98::2/64 dev eth0 nodad
             ip route add 172.30.0.0/24 via {HOST} && ip route add fd30::/64 via fd98::1"
        ));
        container.sh(
            "ip addr add 172.30.0.2/24 dev eth0 && ip link set eth0 up && ip route add default via 172.30.0.1
             ip addr add fd30::2/64 dev eth0 nodad && ip route add default via fd30::1",
        );
        // Both send to 127.0.0.1 of the host, as CAP_NET_RAW lets a container with frames of its own.
        let to_loopback = |via: &str| {
            format!(
                "for option in route_localnet accept_local; do echo 1 >/proc/sys/net/ipv4/conf/eth0/$option; done
                 ip route del local 127.0.0.1 dev lo table local && ip route del local 127.0.0.0/8 dev lo table local
                 ip route add 127.0.0.0/8 via {via}"
            )
        };
        world.sh(&to_loopback(HOST));
        container.sh(&to_loopback("172.30.0.1"));
        let listening = [
            container.listen("[::]:80").await,
            host.listen(PROXIED).await,
            host.listen(LINK).await,
            host.listen(DNS).await,
            host.listen(LOOPBACK).await,
        ];
        host.echo(DNS).await;
        Self {
            world,
            host,
            container,
            listening,
        }
    }

    /// Who reaches what: instance, proxied, `host_port`.
    async fn reach(&self, from: &'static str) -> [bool; 3] {
        let mut reach = [false; 3];
        for (reached, to) in reach.iter_mut().zip([INSTANCE, PROXIED, HOST_PORT]) {
            *reached = self.world.connects(from, to).await;
        }
        reach
    }
}

/// A view with these hosts, in which `h1` has a service with the `host_port`.
fn seen(hosts: &[(&str, &str)], stale: bool) -> Seen {
    let put = |key: String, value: serde_json::Value| Change::Put {
        key,
        value: value.to_string().into_bytes(),
        modified: 5,
        created: 5,
    };
    let id = uuid::Uuid::nil();
    let mut changes: Vec<Change> = hosts
        .iter()
        .map(|(name, addr)| {
            let record = json!({
                "id": id, "session": id, "epoch": 0, "state": "up", "addr": addr,
                "versions": {"agent": "0", "placement": []},
            });
            put(format!("/hosts/{name}/record"), record)
        })
        .collect();
    let services = json!({
        "game": {"port": 80, "host_port": 25_565},
        "outside-the-range": {"port": 81, "host_port": 81},
    });
    changes.push(put(
        "/apps/a/game/manifest".to_owned(),
        json!({"image": "x", "scale": 2, "services": services}),
    ));
    changes.push(put(
        "/apps/a/elsewhere/manifest".to_owned(),
        json!({"image": "x", "services": {"s": {"port": 80, "host_port": 25_566}}}),
    ));
    for (slot, host) in [("a/game/slots/0", "h1"), ("a/elsewhere/slots/0", "h2")] {
        changes.push(put(
            format!("/claims/{slot}"),
            json!({"host": host, "instance": "0123456789ab", "version": 5}),
        ));
    }
    let mut snapshot = Snapshot::default();
    snapshot.apply(changes, 5);
    Seen {
        snapshot,
        stale,
        distrust: None,
    }
}

const BOTH: [(&str, &str); 2] = [("h1", HOST), ("h2", PEER)];
const ALL: [(&str, &str); 3] = [("h1", HOST), ("h2", PEER), ("h3", STRANGER)];

fn facts() -> watch::Sender<EngineFacts> {
    watch::Sender::new(EngineFacts {
        info: EngineInfo {
            docker: Docker::default(),
            id: String::new(),
            cpus: 1,
            memory: 1,
            data_root: "/var/lib/docker".to_owned(),
            rootless: false,
            operating_system: "Debian".to_owned(),
            insecure_registries: Vec::new(),
        },
        subnets: BTreeSet::new(),
        bridge: Bridge {
            network: "bridge".to_owned(),
            interface: "docker0".to_owned(),
            gateway: IpAddr::from([172, 30, 0, 1]),
            subnet: Some("172.30.0.0/24".to_owned()),
            routed: Routed::default(),
        },
    })
}

fn setup(published: &Arc<Published>, engine: &watch::Sender<EngineFacts>) -> Setup {
    Setup {
        instance_ports: InstancePorts::Peers,
        host: "h1".parse().expect("a name"),
        host_ip: HOST.parse().ok(),
        range: 20_000..=29_999,
        engine: engine.subscribe(),
        published: Arc::clone(published),
        problems: watch::Sender::default(),
        every: Duration::from_millis(200),
    }
}

fn publish(published: &Published, seen: Seen) {
    published.seen.store(Arc::new(Some(seen)));
    published
        .revision
        .send_modify(|(revision, _)| *revision += 1);
}

/// The task of the agent, in this network namespace.
fn keep_in(host: &Space, setup: Setup, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
    let pid = host.pid();
    let work = move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(run(setup, stop));
    };
    tokio::spawn(async move { inside(pid, "firewall", work).await.expect("entered") })
}

fn forwards(table: &str, parent: &str) -> bool {
    table.contains("-A DOKKAA -p udp -j DROP") && table.contains(&format!("-A {parent} -j DOKKAA"))
}

/// What `iptables -S -v` lists without its counts, and the packets of each line.
fn rules_and_packets(listing: &str) -> (Vec<String>, Vec<u64>) {
    let counts = |line: &str| -> Option<(String, u64)> {
        let (start, rest) = line.split_once(" -c ")?;
        let mut words = rest.splitn(3, ' ');
        let packets = words.next()?.parse().ok()?;
        let rule = words.nth(1).unwrap_or_default();
        Some((format!("{start} {rule}"), packets))
    };
    let read = |line: &str| counts(line).unwrap_or_else(|| (line.to_owned(), 0));
    listing.lines().map(read).unzip()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_is_named_reaches_an_instance() {
    let site = Lan::new().await;
    let (published, engine) = (Arc::new(Published::default()), facts());
    publish(&published, seen(&BOTH, false));
    assert_eq!(site.reach(STRANGER).await, [true; 3], "before all rules");
    let before = site.host.sh("iptables -S");

    let stop = CancellationToken::new();
    let running = keep_in(&site.host, setup(&published, &engine), stop.clone());
    site.host
        .shows("the rules are set", |table| forwards(table, "DOCKER-USER"))
        .await;
    assert_eq!(site.reach(PEER).await, [true; 3]);
    assert_eq!(site.reach(STRANGER).await, [false, false, true]);
    assert!(site.container.connects("172.30.0.2", PROXIED).await);
    assert!(site.host.connects(HOST, PROXIED).await);

    // A host that joins is let in, and one that has gone is not, but by a view that is old nobody is shut out.
    let has_stranger = |table: &str| table.contains(&format!("-s {STRANGER}/32"));
    publish(&published, seen(&ALL, false));
    site.host.shows("a third host", has_stranger).await;
    assert_eq!(site.reach(STRANGER).await, [true; 3]);
    let open = site
        .host
        .sh("iptables -S DOKKAA | grep -c -- '-s 10.98.0.'");
    assert_eq!(open.trim(), "3");
    publish(&published, seen(&BOTH, false));
    site.host
        .shows("two hosts", |table| !has_stranger(table))
        .await;
    assert_eq!(site.reach(STRANGER).await, [false, false, true]);

    // Whoever flushes all rules opens nothing for long.
    site.host.sh("iptables -F");
    site.host
        .shows("the rules are back", |table| forwards(table, "FORWARD"))
        .await;
    assert_eq!(site.reach(STRANGER).await, [false, false, true]);
    assert_eq!(site.reach(PEER).await, [true; 3]);
    // And Docker starts again.
    site.host.sh("iptables -I FORWARD -j DOCKER-USER");
    engine.send_modify(|_| {});
    site.host
        .shows("the jump has moved", |table| {
            forwards(table, "DOCKER-USER") && !forwards(table, "FORWARD")
        })
        .await;
    assert_eq!(site.reach(STRANGER).await, [false, false, true]);

    // The rules outlive who set them; the next one finds them as they are to be.
    stop.cancel();
    running.await.expect("joined");
    assert_eq!(site.reach(STRANGER).await, [false, false, true]);
    let counted = site.host.sh("iptables -S -v");
    let next = setup(&published, &engine);
    site.host
        .run(move || async move {
            let mut keeper = Keeper::new(&next);
            assert!(keeper.follow() && !keeper.follow());
            keeper.keep().await;
            assert_eq!(next.problems.borrow().len(), 1, "route_localnet");
        })
        .await;
    // A rule that is written anew counts from nothing; a late packet of the connections above still counts.
    let (rules, packets) = rules_and_packets(&counted);
    let (rules_after, packets_after) = rules_and_packets(&site.host.sh("iptables -S -v"));
    assert_eq!(rules_after, rules, "nothing is written");
    assert!(
        zip(&packets_after, &packets).all(|(after, before)| after >= before),
        "nothing is written: {packets_after:?} after {packets:?}"
    );

    // Started while etcd is away, with nothing to go by but what stands.
    publish(&published, seen(&[("h1", HOST)], true));
    let away = setup(&published, &engine);
    site.host
        .run(move || async move {
            let mut keeper = Keeper::new(&away);
            keeper.take_over().await;
            assert!(keeper.follow());
            keeper.keep().await;
        })
        .await;
    assert_eq!(site.reach(PEER).await, [true; 3]);

    assert!(site.host.run(remove).await.expect("removed"));
    assert!(!site.host.run(remove).await.expect("nothing to remove"));
    let restored = before.replace("-A DOCKER-USER -j RETURN\n", "");
    assert_eq!(site.host.sh("iptables -S"), restored);
    assert_eq!(site.reach(STRANGER).await, [true; 3]);
}

/// Docker's rules with its nftables back end, as far as they forward something.
const NFTABLES: &str = "
    iptables -t nat -F
    nft 'table ip docker-bridges {
        chain filter-FORWARD {
            type filter hook forward priority filter; policy accept
            oifname docker0 jump filter-forward-in__docker0
            iifname docker0 accept
        }
        chain filter-forward-in__docker0 {
            ct state established,related accept
            ip daddr 172.30.0.2 tcp dport 80 accept
            drop
        }
        chain nat-PREROUTING {
            type nat hook prerouting priority dstnat; policy accept
            fib daddr type local jump nat-prerouting-and-output
        }
        chain nat-prerouting-and-output {
            ip daddr 10.98.0.1 tcp dport { 20001, 25565 } dnat to 172.30.0.2:80
        }
    }'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_hold_where_docker_changes_to_nftables_and_back() {
    let site = Lan::new().await;
    let (published, engine) = (Arc::new(Published::default()), facts());
    publish(&published, seen(&BOTH, false));
    let stop = CancellationToken::new();
    let running = keep_in(&site.host, setup(&published, &engine), stop.clone());
    site.host
        .shows("the rules are set", |table| forwards(table, "DOCKER-USER"))
        .await;

    // What was set with iptables stays until the machine starts again.
    site.host.sh(NFTABLES);
    engine.send_modify(|_| {});
    assert_eq!(site.reach(STRANGER).await, [false, false, true]);
    assert_eq!(site.reach(PEER).await, [true; 3]);

    // At once: the agent may be looking after its rules still.
    site.host.sh("iptables-restore --noflush <<END
*filter
-F FORWARD
-F DOCKER-USER
-X DOCKER-USER
-F INPUT
-F DOKKAA
-X DOKKAA
COMMIT
END");
    engine.send_modify(|_| {});
    site.host
        .shows("the rules are in FORWARD", |table| {
            forwards(table, "FORWARD")
        })
        .await;
    assert_eq!(site.reach(STRANGER).await, [false, false, true]);
    assert_eq!(site.reach(PEER).await, [true; 3]);
    assert!(!site.world.connects(STRANGER, DNS).await);

    site.host.sh(
        "nft delete table ip docker-bridges
         iptables -N DOCKER-USER; iptables -I FORWARD -j DOCKER-USER
         iptables -t nat -A PREROUTING -d 10.98.0.1 -p tcp --dport 20001 -j DNAT --to 172.30.0.2:80
         iptables -t nat -A PREROUTING -d 10.98.0.1 -p tcp --dport 25565 -j DNAT --to 172.30.0.2:80",
    );
    engine.send_modify(|_| {});
    site.host
        .shows("the jump has moved", |table| {
            forwards(table, "DOCKER-USER") && !forwards(table, "FORWARD")
        })
        .await;
    assert_eq!(site.reach(STRANGER).await, [false, false, true]);
    assert_eq!(site.reach(PEER).await, [true; 3]);
    stop.cancel();
    running.await.expect("joined");
}

/// A restarted dockerd may have set its rules anew. The agent lists all containers then, which leads here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_are_checked_when_the_engine_is_back() {
    let host = Space::new();
    let published = Arc::new(Published::default());
    publish(&published, seen(&BOTH, false));
    let docker = Arc::new(MemEngine::default());
    let facts = EngineFacts::read(docker.as_ref(), "bridge").await;
    let facts = watch::Sender::new(facts.expect("it answers"));
    let setup = Setup {
        // Only the engine leads to a check.
        every: Duration::from_secs(3600),
        ..setup(&published, &facts)
    };
    let stop = CancellationToken::new();
    let running = keep_in(&host, setup, stop.clone());
    host.shows("the rules are set", |table| forwards(table, "FORWARD"))
        .await;
    let following = tokio::spawn(engine::facts::follow(
        docker,
        facts,
        watch::Sender::default(),
        published.lists.subscribe(),
        stop.clone(),
    ));
    host.sh("iptables -F");
    published.lists.send_modify(|lists| *lists += 1);
    host.shows("the rules are back", |table| forwards(table, "FORWARD"))
        .await;
    stop.cancel();
    running.await.expect("joined");
    following.await.expect("joined");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_host_loses_what_an_earlier_start_left() {
    let host = Space::new();
    let published = Arc::new(Published::default());
    publish(&published, seen(&BOTH, false));
    let mut setup = setup(&published, &facts());
    setup.every = RECHECK;
    let mut open = self::setup(&published, &facts());
    open.instance_ports = InstancePorts::Open;
    host.run(move || async move {
        let mut keeper = Keeper::new(&setup);
        keeper.follow();
        keeper.keep().await;
    })
    .await;
    assert!(host.sh("iptables -S").contains(CHAIN));
    let stop = CancellationToken::new();
    stop.cancel();
    host.run(move || run(open, stop)).await;
    assert!(!host.sh("iptables -S").contains(CHAIN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_rules_can_be_set_is_tried_and_leaves_nothing() {
    let host = Space::new();
    for (ip, tables) in [("8.8.8.8", "iptables -S"), ("2600::1", "ip6tables -S")] {
        let before = host.sh(tables);
        let ip: IpAddr = ip.parse().expect("an address");
        let tried = host.run(move || check(InstancePorts::Peers, ip)).await;
        tried.expect("rules can be set");
        assert_eq!(host.sh(tables), before);
    }
}

/// A chain of the name that is tried, of another kind, is in the way as a missing permission is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_the_world_is_refused_where_no_rules_can_be_set() {
    let host = Space::new();
    host.sh("iptables -N DOKKAA-TRIAL && iptables -A INPUT -j DOKKAA-TRIAL");
    let try_it = |ports, ip: &'static str| {
        let ip: IpAddr = ip.parse().expect("an address");
        host.run(move || check(ports, ip))
    };
    let refused = try_it(InstancePorts::Peers, "8.8.8.8").await;
    let text = model::error::chain(&refused.expect_err("the chain is in use"));
    assert!(
        text.contains("--instance-ports open") && text.contains("iptables-restore failed"),
        "{text}"
    );
    for (ports, ip) in [
        (InstancePorts::Open, "8.8.8.8"),
        (InstancePorts::Peers, "10.0.0.1"),
    ] {
        try_it(ports, ip).await.expect("nothing is tried");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_t_be_set_is_a_problem_that_ends_when_it_can() {
    let host = Space::new();
    let published = Arc::new(Published::default());
    publish(&published, seen(&BOTH, false));
    let setup = setup(&published, &facts());
    let told = setup.problems.subscribe();
    host.run(move || async move {
        let mut keeper = Keeper::new(&setup);
        keeper.follow();
        let right = keeper.tables[0].wanted.clone().expect("wanted");
        let too_long = BTreeSet::from(["an-interface-of-a-long-name".to_owned()]);
        keeper.tables[0].wanted = Some(Wanted {
            bridges: too_long,
            ..right.clone()
        });
        keeper.keep().await;
        let problem = told.borrow().first().cloned().expect("a problem");
        let parts = [
            "10.98.0.1",
            "iptables-restore failed",
            "--instance-ports open",
        ];
        assert!(parts.iter().all(|part| problem.contains(part)), "{problem}");
        assert!(!problem.contains('\n'), "{problem}");
        keeper.tables[0].wanted = Some(right);
        keeper.keep().await;
        assert!(told.borrow().is_empty());
    })
    .await;
    assert!(forwards(&host.sh("iptables -S"), "FORWARD"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_read_again_when_any_has_changed() {
    let host = Space::new();
    if !host.sh("iptables --version").contains("nf_tables") {
        return;
    }
    let published = Arc::new(Published::default());
    publish(&published, seen(&BOTH, false));
    let setup = setup(&published, &facts());
    let change = host.pid();
    host.run(move || async move {
        let mut keeper = Keeper::new(&setup);
        keeper.take_over().await;
        keeper.follow();
        keeper.keep().await;
        assert!(keeper.may_differ(), "what was set is read once more");
        keeper.keep().await;
        assert!(!keeper.may_differ() && !keeper.may_differ());
        let pid = change.to_string();
        let ran = Command::new("nsenter")
            .args(["--target", &pid, "--net", "iptables", "-F", CHAIN])
            .status();
        assert!(ran.expect("nsenter").success());
        assert!(keeper.may_differ());
    })
    .await;
}

#[test]
fn what_the_world_routes_to_is_told_by_the_address() {
    let is_global = |text: &str| super::is_global(text.parse().expect("an address"));
    for inside in [
        "10.0.0.1",
        "172.17.0.1",
        "127.0.0.1",
        "100.64.0.1",
        "198.18.0.1",
        "fd00::1",
        "::1",
        "2001:db8::1",
    ] {
        assert!(!is_global(inside), "{inside}");
    }
    for world in ["8.8.8.8", "172.32.0.1", "2600::1"] {
        assert!(is_global(world), "{world}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_outside_gets_past_the_published_ports() {
    let site = Lan::new().await;
    let published = Arc::new(Published::default());
    publish(&published, seen(&BOTH, false));
    let from_outside = async || {
        [
            site.world.connects(STRANGER, CONTAINER).await,
            site.world.connects("fd98::2", CONTAINER_V6).await,
            site.world.connects(STRANGER, LINK).await,
            site.world.connects(STRANGER, DNS).await,
            site.world.is_answered(STRANGER, DNS).await,
            site.container.connects("172.30.0.2", LOOPBACK).await,
            site.world.connects(STRANGER, PUBLISHED_ON_LOOPBACK).await,
        ]
    };
    assert_eq!(from_outside().await, [true; 7], "before all rules");

    let keep = |setup: Setup| {
        site.host.run(move || async move {
            let mut keeper = Keeper::new(&setup);
            keeper.take_over().await;
            keeper.follow();
            keeper.keep().await;
            setup.problems.borrow().clone()
        })
    };
    let problems = keep(setup(&published, &facts())).await;
    assert!(
        problems.len() == 1 && problems[0].contains("route_localnet is 1 on docker0"),
        "{problems:?}"
    );
    assert_eq!(from_outside().await, [false; 7]);
    // What is for them is still had: by this machine, its containers, and the world.
    assert!(site.host.connects("0.0.0.0", CONTAINER).await);
    assert!(site.host.connects("::", CONTAINER_V6).await);
    assert!(site.host.connects("0.0.0.0", LOOPBACK).await);
    assert!(site.host.connects("0.0.0.0", PUBLISHED_ON_LOOPBACK).await);
    assert!(site.host.is_answered("0.0.0.0", DNS).await);
    assert!(site.container.connects("172.30.0.2", LINK).await);
    assert!(site.container.connects("172.30.0.2", DNS).await);
    assert!(site.container.is_answered("172.30.0.2", DNS).await);
    assert!(site.world.connects(STRANGER, HOST_PORT).await);
    assert!(site.world.connects(PEER, INSTANCE).await);

    // A network that its operator lets others route to is left to him; its links and DNS are not.
    let routed = facts();
    routed.send_modify(|facts| facts.bridge.routed = Routed { v4: true, v6: true });
    keep(setup(&published, &routed)).await;
    assert_eq!(
        from_outside().await,
        [true, true, false, false, false, false, false]
    );

    // A rule of somebody else that lets all go before ours is said.
    site.host.sh("iptables -I DOCKER-USER -j RETURN");
    let problems = keep(setup(&published, &facts())).await;
    assert!(
        problems[0].contains("`-A DOCKER-USER -j RETURN` comes before"),
        "{problems:?}"
    );
    assert!(site.host.run(remove).await.expect("removed"));
    let v6 = site.host.sh("ip6tables -S");
    assert!(!v6.contains(CHAIN), "{v6}");
}

#[test]
fn what_is_wanted_follows_records_and_claims() {
    let published = Arc::new(Published::default());
    let setup = setup(&published, &facts());
    let facts = facts();
    let bridge = facts.borrow().bridge.clone();
    let v6_addresses = "fe80000000000000a00 05 40 20 80 docker0\nfd000000000001 02 40 00 80 eth0\n";
    let site = Site {
        interfaces: "Inter-|   Receive\n    lo: 1\n docker0: 2\nbr-0123456789ab: 3\nbr-lan: 4\n eth0: 5\n",
        v6_addresses,
        bridge: &bridge,
    };
    let hosts = [("h1", HOST), ("h2", PEER), ("h3", "fd00::3")];
    let no_one = BTreeSet::new();
    let known = peers(setup.host_ip(), &seen(&hosts, false), &no_one);
    let first = |family| wanted(&setup, &seen(&hosts, false), &site, family, &known);
    let v4 = first(Family::V4).expect("IPv4");
    let ips = |texts: &[&str]| -> BTreeSet<IpAddr> {
        texts
            .iter()
            .map(|t| t.parse().expect("an address"))
            .collect()
    };
    let ports = v4.published.expect("ports");
    assert_eq!(ports.peers, ips(&[HOST, PEER]));
    assert_eq!(ports.exempt, [(25_565, Protocol::Tcp)].into());
    let bridges: Vec<&str> = v4.bridges.iter().map(String::as_str).collect();
    assert_eq!(bridges, ["br-0123456789ab", "docker0"]);
    assert_eq!(v4.closed.as_deref(), Some("docker0"));
    assert_eq!(v4.gateway, Some(bridge.gateway));
    // Only link-local addresses: nobody routes there.
    assert_eq!(first(Family::V6), None);

    // While etcd is away the last known hosts stay, and new ones come.
    let alone = [("h1", HOST), ("h3", STRANGER)];
    let old = peers(setup.host_ip(), &seen(&alone, true), &known);
    assert_eq!(old, ips(&[HOST, PEER, STRANGER]));
    let back = peers(setup.host_ip(), &seen(&alone, false), &old);
    assert_eq!(back, ips(&[HOST, STRANGER]));
    let distrusted = Seen {
        distrust: Some("another cluster".to_owned()),
        ..seen(&[], false)
    };
    assert_eq!(peers(setup.host_ip(), &distrusted, &back), back);
}
