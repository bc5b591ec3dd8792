//! Whether containers reach the agent: tried from inside a container's network namespace.
//!
//! A firewall of the host stands between a container and the agent, and says
//! nothing: names do not resolve and links time out. So it is tried from where
//! the containers are, and what is in the way is named with the command that
//! opens it. Nothing is changed here. `port` is what other hosts try.

pub mod port;
pub mod watch;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use engine::netns::{EnterError, inside};

/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something of the agent's that a container must reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A TCP port: a link port, or DNS.
    Tcp(SocketAddr),
    /// The DNS server, by UDP.
    Dns {
        /// Where.
        at: SocketAddr,
        /// Its zone: what it answers by itself, whatever resolvers are behind it.
        zone: String,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => write!(f, "{at}/tcp"),
            Self::Dns { at, .. } => write!(f, "{at}/udp"),
        }
    }
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// There was an answer.
    Answered,
    /// The way is free, but nobody listens there.
    Refused,
    /// No answer at all: what a firewall does.
    Silent,
    /// Turned away on the way, or no way there.
    Unreachable(String),
}

/// Tries the targets from inside the network namespace of this process.
pub async fn probe_from(
    pid: u32,
    targets: Vec<Target>,
) -> Result<Vec<(Target, Reach)>, EnterError> {
    let try_one = |target| {
        let reach = reach(&target);
        (target, reach)
    };
    inside(pid, "probe", move || {
        targets.into_iter().map(try_one).collect()
    })
    .await
}

fn reach(target: &Target) -> Reach {
    let tried = match target {
        Target::Tcp(at) => TcpStream::connect_timeout(at, PATIENCE).map(drop),
        Target::Dns { at, zone } => ask(*at, zone),
    };
    match tried {
        Ok(()) => Reach::Answered,
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Reach::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Reach::Silent,
            _ => Reach::Unreachable(error.to_string()),
        },
    }
}

/// Any answer will do: a question for the start of authority of the zone.
fn ask(at: SocketAddr, zone: &str) -> io::Result<()> {
    // RFC 1035, 4.1: id, recursion desired, one question.
    let mut question = vec![0x64, 0x6b, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in zone.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        question.push(label.len() as u8);
        question.extend_from_slice(label);
    }
    // The root, SOA, IN.
    question.extend_from_slice(&[0, 0, 6, 0, 1]);
    let any: SocketAddr = match at {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(at)?;
    socket.send(&question)?;
    let mut answer = [0; 512];
    socket.recv(&mut answer).map(drop)
}

/// A firewall of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {
    /// Ubuntu's.
    Ufw,
    /// Fedora's and RHEL's.
    Firewalld,
    /// Rules of somebody else.
    Rules,
}

impl Firewall {
    /// The one that rules this machine, by the traces that it leaves.
    pub fn of_this_machine() -> Self {
        let ufw = std::fs::read_to_string("/etc/ufw/ufw.conf").unwrap_or_default();
        if enabled(&ufw) {
            Self::Ufw
        } else if Path::new("/run/firewalld").exists() {
            Self::Firewalld
        } else {
            Self::Rules
        }
    }

    /// What lets containers in: commands, one a line.
    pub fn opening(self, interface: &str, gateway: IpAddr) -> String {
        match self {
            Self::Ufw => format!(
                "ufw allow in on {interface} to {gateway} port 53\n\
                 ufw allow in on {interface} to {gateway} port 10000:10255 proto tcp"
            ),
            Self::Firewalld => format!(
                "firewall-cmd --permanent --zone=trusted --change-interface={interface}\n\
                 firewall-cmd --reload"
            ),
            Self::Rules => format!(
                "iptables -I INPUT -i {interface} -d {gateway} -p udp --dport 53 -j ACCEPT\n\
                 iptables -I INPUT -i {interface} -d {gateway} -p tcp -m multiport --dports 53,10000:10255 -j ACCEPT"
            ),
        }
    }
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ufw => "ufw",
            Self::Firewalld => "firewalld",
            Self::Rules => "iptables or nftables",
        })
    }
}

fn enabled(ufw: &str) -> bool {
    ufw.lines()
        .any(|line| line.trim().eq_ignore_ascii_case("enabled=yes"))
}

/// The default gateway in the network namespace of this process, by IPv4.
pub fn gateway_of(pid: u32) -> Option<IpAddr> {
    let routes = std::fs::read_to_string(format!("/proc/{pid}/net/route")).ok()?;
    default_gateway(&routes)
}

fn default_gateway(routes: &str) -> Option<IpAddr> {
    routes.lines().skip(1).find_map(|line| {
        // Interface, destination, gateway …, the addresses as the machine keeps them.
        let mut columns = line.split_whitespace().skip(1);
        let (destination, gateway) = (columns.next()?, columns.next()?);
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        (destination == "00000000").then(|| IpAddr::from(gateway.to_ne_bytes()))
    })
}

/// What is wrong, for people; none if everything was reached. One line: what was tried, what came back, and what may be
/// the cause. `route` is the container's own gateway, if it is known.
pub fn problem(
    tried: &[(Target, Reach)],
    route: Option<IpAddr>,
    firewall: Firewall,
    interface: &str,
    gateway: IpAddr,
) -> Option<String> {
    let blocked: Vec<String> = tried
        .iter()
        .filter_map(|(target, reach)| match reach {
            Reach::Answered | Reach::Refused => None,
            Reach::Silent => Some(format!("{target}: no answer in {} s", PATIENCE.as_secs())),
            Reach::Unreachable(error) => Some(format!("{target}: {error}")),
        })
        .collect();
    if blocked.is_empty() {
        return None;
    }
    let cause = match route {
        Some(route) if route != gateway => format!(
            "its gateway is {route}, that of {interface} is {gateway} now: the network has changed since it was made, and \
             it is replaced"
        ),
        _ => {
            let commands = firewall.opening(interface, gateway).replace('\n', " && ");
            format!(
                "likely {firewall} drops it, let it in with: {commands}; or {interface} is not as Docker made it"
            )
        }
    };
    Some(format!(
        "a container does not reach the agent ({}): {cause}",
        blocked.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_blocked_is_named_with_the_command_that_opens_it() {
        let gateway = IpAddr::from([172, 17, 0, 1]);
        let dns = Target::Dns {
            at: SocketAddr::new(gateway, 53),
            zone: "skydns.local".to_owned(),
        };
        let link = Target::Tcp(SocketAddr::new(gateway, 10_000));
        let fine = [
            (dns.clone(), Reach::Answered),
            (link.clone(), Reach::Refused),
        ];
        assert_eq!(
            problem(&fine, None, Firewall::Ufw, "docker0", gateway),
            None
        );
        let blocked = [
            (dns, Reach::Silent),
            (link, Reach::Unreachable("no route".to_owned())),
        ];
        for (firewall, command) in [
            (Firewall::Ufw, "ufw allow in on docker0"),
            (Firewall::Firewalld, "firewall-cmd"),
            (Firewall::Rules, "iptables -I INPUT -i docker0"),
        ] {
            let text =
                problem(&blocked, Some(gateway), firewall, "docker0", gateway).expect("a problem");
            assert!(text.contains(command) && !text.contains('\n'), "{text}");
            let tried = "(172.17.0.1:53/udp: no answer in 2 s, 172.17.0.1:10000/tcp: no route)";
            assert!(text.contains(tried), "{text}");
        }
        let moved = IpAddr::from([172, 18, 0, 1]);
        let text = problem(&blocked, Some(moved), Firewall::Rules, "docker0", gateway);
        let text = text.expect("a problem");
        assert!(
            text.contains("its gateway is 172.18.0.1") && !text.contains("iptables"),
            "{text}"
        );
    }

    #[test]
    fn the_default_gateway_is_read_from_the_routes() {
        let routes = "Iface\tDestination\tGateway\tFlags\neth0\t000011AC\t00000000\t0001\neth0\t00000000\t010011AC\t0003\n";
        let little = cfg!(target_endian = "little");
        let expected = IpAddr::from(if little {
            [172, 17, 0, 1]
        } else {
            [1, 0, 17, 172]
        });
        assert_eq!(default_gateway(routes), Some(expected));
    }

    #[test]
    fn ufw_says_in_its_file_whether_it_is_on() {
        assert!(enabled("# comment\nENABLED=yes\nLOGLEVEL=low\n"));
        assert!(!enabled("ENABLED=no\n#ENABLED=yes\n"));
    }

    #[test]
    fn an_answer_a_refusal_and_silence_are_told_apart() {
        let here = IpAddr::from([127, 0, 0, 1]);
        let listens = std::net::TcpListener::bind((here, 0)).expect("a port");
        let at = listens.local_addr().expect("bound");
        assert_eq!(reach(&Target::Tcp(at)), Reach::Answered);
        drop(listens);
        assert_eq!(reach(&Target::Tcp(at)), Reach::Refused);

        let server = UdpSocket::bind((here, 0)).expect("a port");
        let dns = Target::Dns {
            at: server.local_addr().expect("bound"),
            zone: "skydns.local".to_owned(),
        };
        assert_eq!(reach(&dns), Reach::Silent);
        let mut question = [0; 512];
        server.recv_from(&mut question).expect("the first question");
        let answering = std::thread::spawn(move || {
            let (length, from) = server.recv_from(&mut question).expect("a question");
            server.send_to(&question[..length], from).expect("answered");
        });
        assert_eq!(reach(&dns), Reach::Answered);
        answering.join().expect("answered");
    }
}
