//! The rules as values: what they are to say, and what makes them so. Pure.
//!
//! What stands is read from `iptables -S`; what changes it is one input for
//! `iptables-restore --noflush`, which the kernel takes as a whole or not at all.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use manifests::env::{FIRST_LINK_PORT, LAST_LINK_PORT};
use manifests::manifest::Protocol;

/// A family of addresses: each has tables of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The agent's chain in the table `filter`.
pub const CHAIN: &str = "DOKKAA";
/// The chain that `check` tries.
const TRIAL: &str = "DOKKAA-TRIAL";
/// The one that Docker keeps for others, ahead of its own rules.
pub(super) const DOCKER_USER: &str = "DOCKER-USER";
/// What only this machine itself may send to. IPv6 needs no rule: the kernel always drops `::1` that comes in from outside.
const LOOPBACK: &str = "127.0.0.0/8";

/// What the rules of one family are to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Of the addresses below.
    pub family: Family,
    /// Interfaces of bridges with this machine's containers.
    pub bridges: BTreeSet<String>,
    /// The one of the agent's containers, if others reach them by published ports only.
    pub closed: Option<String>,
    /// Where this machine's containers reach DNS and links.
    pub gateway: Option<IpAddr>,
    /// Instances' ports, if they are published on an address of this family.
    pub published: Option<InstancePorts>,
}

/// Instances' ports, and who may connect to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InstancePorts {
    /// The address that they are published on.
    pub host_ip: IpAddr,
    /// The agent's range.
    pub range: RangeInclusive<u16>,
    /// The hosts of the cluster.
    pub peers: BTreeSet<IpAddr>,
    /// Ports of the range that are for the world.
    pub exempt: BTreeSet<(u16, Protocol)>,
}

/// The rules of the chain in order, as `iptables -S` prints them.
///
/// Docker has changed the destination of what it forwards, so connection tracking is asked for the one before that. What
/// is not opened now, or not to our ports, is let go before the list of peers.
pub(super) fn rules(wanted: &Wanted) -> Vec<String> {
    rules_in(CHAIN, wanted)
}

fn rules_in(chain: &str, wanted: &Wanted) -> Vec<String> {
    let Wanted {
        family,
        bridges,
        closed,
        gateway,
        published,
    } = wanted;
    let mut rules = Vec::new();
    let mut rule = |target: &str, matches: &str| {
        rules.push(format!("-A {chain} {matches} -j {target}"));
    };
    // Also what answers a local client of a port that Docker publishes on 127.0.0.1 without its proxy: it comes in by a
    // bridge, for 127.0.0.1.
    rule("RETURN", "-m conntrack ! --ctstate NEW");
    rule("RETURN", "-i lo");
    // With `route_localnet` the kernel takes what a container or a neighbour sends to a loopback address, and Docker
    // forwards it, where a port is published there. A redirection of the operator's was sent elsewhere.
    if *family == Family::V4 {
        rule("DROP", &format!("-m conntrack --ctorigdst {LOOPBACK}"));
    }
    for bridge in bridges {
        rule("RETURN", &format!("-i {bridge}"));
    }
    if let Some(bridge) = closed {
        let direct = format!("-o {bridge} -m conntrack ! --ctstate DNAT");
        rule("DROP", &direct);
    }
    if let Some(gateway) = gateway {
        let to = format!("-d {}", host(*gateway));
        let links = format!("{FIRST_LINK_PORT}:{LAST_LINK_PORT}");
        for (protocol, ports) in [("udp", "53"), ("tcp", "53"), ("tcp", &links)] {
            let guarded = format!("{to} -p {protocol} -m {protocol} --dport {ports}");
            rule("DROP", &guarded);
        }
    }
    if let Some(InstancePorts {
        host_ip,
        range,
        peers,
        exempt,
    }) = published
    {
        let (first, last) = (range.start(), range.end());
        let elsewhere = [
            format!("-m conntrack ! --ctorigdst {host_ip}"),
            format!("-m conntrack ! --ctorigdstport {first}:{last}"),
        ];
        for matches in elsewhere {
            rule("RETURN", &matches);
        }
        for (port, protocol) in exempt {
            let open = format!("-p {protocol} -m conntrack --ctorigdstport {port}");
            rule("RETURN", &open);
        }
        for peer in peers {
            rule("RETURN", &format!("-s {}", host(*peer)));
        }
        // What else has a number for a port, such as a ping's type, is none of ours.
        for protocol in ["tcp", "udp"] {
            rule("DROP", &format!("-p {protocol}"));
        }
    }
    rules
}

/// One address, as a network.
fn host(ip: IpAddr) -> String {
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    format!("{ip}/{bits}")
}

/// What stands in the table, as far as it concerns us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// The rules of our chain; none if there is no such chain.
    pub(super) chain: Option<Vec<String>>,
    /// The rules elsewhere that lead to it.
    jumps: Vec<String>,
    /// The rules of the chains that lead to it, in order.
    parents: Vec<String>,
    /// What is forwarded passes DOCKER-USER.
    has_docker_user: bool,
}

impl Shown {
    /// Reads the output of `iptables -S`.
    pub(super) fn read(text: &str) -> Self {
        let mut shown = Self::default();
        let of_chain = format!("-A {CHAIN} ");
        let (jump, goto) = (format!(" -j {CHAIN}"), format!(" -g {CHAIN}"));
        for line in text.lines().map(str::trim_end) {
            if line == format!("-N {CHAIN}") {
                shown.chain.get_or_insert_default();
            } else if line.starts_with(&of_chain) {
                shown.chain.get_or_insert_default().push(line.to_owned());
            } else if line.ends_with(&jump) || line.ends_with(&goto) {
                shown.jumps.push(line.to_owned());
            }
            let parents = ["INPUT", "FORWARD", DOCKER_USER];
            if parents.iter().any(|parent| is_of(line, parent)) {
                shown.parents.push(line.to_owned());
            }
            shown.has_docker_user |= line == format!("-A FORWARD -j {DOCKER_USER}");
        }
        shown
    }

    /// Who is let in by address.
    pub(super) fn peers(&self) -> BTreeSet<IpAddr> {
        let rules = self.chain.iter().flatten();
        rules
            .filter_map(|rule| {
                let (_, source) = rule.split_once(" -s ")?;
                source.split(['/', ' ']).next()?.parse().ok()
            })
            .collect()
    }

    /// The rules that what is forwarded or taken in passes before it gets to our chain.
    pub(super) fn ahead(&self) -> impl Iterator<Item = &str> {
        let before = |parent: &'static str, end: String| {
            let rules = self.parents.iter().map(String::as_str);
            rules
                .filter(move |rule| is_of(rule, parent))
                .take_while(move |rule| *rule != end)
        };
        let docker_user = format!("-A FORWARD -j {DOCKER_USER}");
        let [forward, input] = self.wanted_jumps();
        let forwarded = if self.has_docker_user {
            [Some(("FORWARD", docker_user)), Some((DOCKER_USER, forward))]
        } else {
            [Some(("FORWARD", forward)), None]
        };
        let ways = forwarded.into_iter().flatten().chain([("INPUT", input)]);
        ways.flat_map(move |(parent, end)| before(parent, end))
    }

    /// The jumps that there must be, each once. Docker keeps its DOCKER-USER ahead of all its rules, and what is in it;
    /// where it has none, or nothing leads there, ours goes straight ahead of what is forwarded.
    fn wanted_jumps(&self) -> [String; 2] {
        let forward = if self.has_docker_user {
            DOCKER_USER
        } else {
            "FORWARD"
        };
        [forward, "INPUT"].map(|parent| format!("-A {parent} -j {CHAIN}"))
    }
}

fn is_of(rule: &str, chain: &str) -> bool {
    let rest = rule.strip_prefix("-A ").and_then(|r| r.strip_prefix(chain));
    rest.is_some_and(|rest| rest.starts_with(' '))
}

/// What makes the table as it is wanted; none if it is. `as_shown`: the wanted chain as it is printed here.
pub(super) fn change(shown: &Shown, wanted: &Wanted, as_shown: &[String]) -> Option<String> {
    let mut lines = Vec::new();
    if shown.chain.as_deref() != Some(as_shown) {
        // Named like this, a chain is made, or emptied.
        lines.push(format!(":{CHAIN} - [0:0]"));
        lines.extend(rules(wanted));
    }
    let mut missing: Vec<String> = shown.wanted_jumps().into();
    for jump in &shown.jumps {
        match missing.iter().position(|wanted| wanted == jump) {
            Some(there) => drop(missing.remove(there)),
            None => lines.push(jump.replacen("-A", "-D", 1)),
        }
    }
    lines.extend(missing.iter().map(|jump| jump.replacen("-A", "-I", 1)));
    (!lines.is_empty()).then(|| input(&lines))
}

/// What takes all of ours out of the table; none if there is nothing.
pub(super) fn removal(shown: &Shown) -> Option<String> {
    let deleted = shown.jumps.iter().map(|jump| jump.replacen("-A", "-D", 1));
    let mut lines: Vec<String> = deleted.collect();
    if shown.chain.is_some() {
        lines.extend([format!("-F {CHAIN}"), format!("-X {CHAIN}")]);
    }
    (!lines.is_empty()).then(|| input(&lines))
}

/// What tries whether such rules can be set, and what removes them again. Nothing leads to them.
pub(super) fn trial(host_ip: IpAddr) -> (String, String) {
    let all_kinds = Wanted {
        family: Family::of(host_ip),
        bridges: ["docker0".to_owned()].into(),
        closed: Some("docker0".to_owned()),
        gateway: Some(host_ip),
        published: Some(InstancePorts {
            host_ip,
            range: 1..=2,
            peers: [host_ip].into(),
            exempt: [(1, Protocol::Tcp), (1, Protocol::Udp)].into(),
        }),
    };
    let mut set = vec![format!(":{TRIAL} - [0:0]")];
    set.extend(rules_in(TRIAL, &all_kinds));
    let unset = [format!("-F {TRIAL}"), format!("-X {TRIAL}")];
    (input(&set), input(&unset))
}

fn input(lines: &[String]) -> String {
    format!("*filter\n{}\nCOMMIT\n", lines.join("\n"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const DOCKERS: &str = "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N DOCKER\n-N DOCKER-USER\n\
        -A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER\n-A DOCKER-USER -j RETURN\n";

    pub(in super::super) fn wanted() -> Wanted {
        Wanted {
            family: Family::V4,
            bridges: ["br-0123456789ab".to_owned(), "docker0".to_owned()].into(),
            closed: Some("docker0".to_owned()),
            gateway: Some(IpAddr::from([172, 17, 0, 1])),
            published: Some(InstancePorts {
                host_ip: IpAddr::from([10, 0, 0, 1]),
                range: 20_000..=29_999,
                peers: [IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 10])].into(),
                exempt: [(25_565, Protocol::Tcp), (25_565, Protocol::Udp)].into(),
            }),
        }
    }

    fn to_be_done(shown: &str) -> Option<String> {
        change(&Shown::read(shown), &wanted(), &rules(&wanted()))
    }

    #[test]
    fn the_chain_lets_in_who_is_named_and_nobody_else() {
        assert_eq!(
            rules(&wanted()),
            [
                "-A DOKKAA -m conntrack ! --ctstate NEW -j RETURN",
                "-A DOKKAA -i lo -j RETURN",
                "-A DOKKAA -m conntrack --ctorigdst 127.0.0.0/8 -j DROP",
                "-A DOKKAA -i br-0123456789ab -j RETURN",
                "-A DOKKAA -i docker0 -j RETURN",
                "-A DOKKAA -o docker0 -m conntrack ! --ctstate DNAT -j DROP",
                "-A DOKKAA -d 172.17.0.1/32 -p udp -m udp --dport 53 -j DROP",
                "-A DOKKAA -d 172.17.0.1/32 -p tcp -m tcp --dport 53 -j DROP",
                "-A DOKKAA -d 172.17.0.1/32 -p tcp -m tcp --dport 10000:10255 -j DROP",
                "-A DOKKAA -m conntrack ! --ctorigdst 10.0.0.1 -j RETURN",
                "-A DOKKAA -m conntrack ! --ctorigdstport 20000:29999 -j RETURN",
                "-A DOKKAA -p tcp -m conntrack --ctorigdstport 25565 -j RETURN",
                "-A DOKKAA -p udp -m conntrack --ctorigdstport 25565 -j RETURN",
                "-A DOKKAA -s 10.0.0.2/32 -j RETURN",
                "-A DOKKAA -s 10.0.0.10/32 -j RETURN",
                "-A DOKKAA -p tcp -j DROP",
                "-A DOKKAA -p udp -j DROP",
            ]
        );
    }

    #[test]
    fn what_is_missing_is_set_and_what_stands_is_left_alone() {
        let chain = rules(&wanted()).join("\n");
        assert_eq!(
            to_be_done(DOCKERS).expect("a change"),
            format!(
                "*filter\n:DOKKAA - [0:0]\n{chain}\n-I DOCKER-USER -j DOKKAA\n-I INPUT -j DOKKAA\nCOMMIT\n"
            )
        );
        let jumps = "-N DOKKAA\n-A INPUT -j DOKKAA\n-A DOCKER-USER -j DOKKAA\n";
        assert_eq!(to_be_done(&format!("{DOCKERS}{jumps}{chain}\n")), None);
        let flushed = to_be_done(&format!("{DOCKERS}{jumps}")).expect("a change");
        assert_eq!(
            flushed,
            format!("*filter\n:DOKKAA - [0:0]\n{chain}\nCOMMIT\n")
        );
        let shorter = chain.replace("-A DOKKAA -p udp -j DROP", "");
        assert!(to_be_done(&format!("{DOCKERS}{jumps}{shorter}")).is_some());
        let jump_lost = "-N DOKKAA\n-A INPUT -j DOKKAA\n";
        assert_eq!(
            to_be_done(&format!("{DOCKERS}{jump_lost}{chain}\n")).expect("a change"),
            "*filter\n-I DOCKER-USER -j DOKKAA\nCOMMIT\n"
        );
    }

    #[test]
    fn another_spelling_of_the_same_chain_is_known_once_it_was_seen() {
        let spelt: Vec<String> = rules(&wanted())
            .iter()
            .map(|rule| rule.replace("--ctorigdst 10.0.0.1", "--ctorigdst 10.0.0.1/32"))
            .collect();
        let shown = format!(
            "{DOCKERS}-N DOKKAA\n-A INPUT -j DOKKAA\n-A DOCKER-USER -j DOKKAA\n{}\n",
            spelt.join("\n")
        );
        let shown = Shown::read(&shown);
        assert!(change(&shown, &wanted(), &rules(&wanted())).is_some());
        assert_eq!(change(&shown, &wanted(), &spelt), None);
    }

    #[test]
    fn where_docker_user_leads_nowhere_the_jump_is_in_forward_and_moves_when_docker_is_back() {
        let chain = format!("-N DOKKAA\n{}\n", rules(&wanted()).join("\n"));
        let flushed = format!("-P FORWARD DROP\n-N DOCKER-USER\n{chain}");
        assert_eq!(
            to_be_done(&flushed).expect("a change"),
            "*filter\n-I FORWARD -j DOKKAA\n-I INPUT -j DOKKAA\nCOMMIT\n"
        );
        let back = format!("{DOCKERS}{chain}-A INPUT -j DOKKAA\n-A FORWARD -j DOKKAA\n");
        assert_eq!(
            to_be_done(&back).expect("a change"),
            "*filter\n-D FORWARD -j DOKKAA\n-I DOCKER-USER -j DOKKAA\nCOMMIT\n"
        );
    }

    #[test]
    fn one_jump_is_enough() {
        let twice = format!(
            "{DOCKERS}-N DOKKAA\n-A INPUT -j DOKKAA\n-A INPUT -i eth0 -j DOKKAA\n-A INPUT -j DOKKAA\n\
             -A DOCKER-USER -j DOKKAA\n{}\n",
            rules(&wanted()).join("\n")
        );
        assert_eq!(
            to_be_done(&twice).expect("a change"),
            "*filter\n-D INPUT -i eth0 -j DOKKAA\n-D INPUT -j DOKKAA\nCOMMIT\n"
        );
    }

    #[test]
    fn nothing_of_ours_is_left_and_nothing_of_others_is_touched() {
        assert_eq!(removal(&Shown::read(DOCKERS)), None);
        let ours = "-N DOKKAA\n-N DOKKAA-X\n-A INPUT -j DOKKAA\n-A DOCKER-USER -j DOKKAA\n-A INPUT -j DOKKAA-X\n\
             -A DOKKAA -p tcp -j DROP\n-A DOKKAA-X -p tcp -j DROP\n";
        assert_eq!(
            removal(&Shown::read(&format!("{DOCKERS}{ours}"))).expect("something to remove"),
            "*filter\n-D INPUT -j DOKKAA\n-D DOCKER-USER -j DOKKAA\n-F DOKKAA\n-X DOKKAA\nCOMMIT\n"
        );
    }

    #[test]
    fn who_was_let_in_is_read_from_the_chain() {
        let chain = format!("{DOCKERS}{}\n", rules(&wanted()).join("\n"));
        let peers = wanted().published.expect("ports").peers;
        assert_eq!(Shown::read(&chain).peers(), peers);
        assert_eq!(Shown::read(DOCKERS).peers(), BTreeSet::new());
    }

    #[test]
    fn addresses_of_the_other_kind_are_written_in_full() {
        let ip = |text: &str| text.parse().expect("an address");
        let v6 = Wanted {
            family: Family::V6,
            gateway: Some(ip("fd00:17::1")),
            published: Some(InstancePorts {
                host_ip: ip("fd00::1"),
                peers: [ip("fd00::2")].into(),
                ..wanted().published.expect("ports")
            }),
            ..wanted()
        };
        let rules = rules(&v6).join("\n");
        assert!(rules.contains("! --ctorigdst fd00::1 -j"), "{rules}");
        assert!(rules.contains("-s fd00::2/128 -j RETURN"), "{rules}");
        assert!(rules.contains("-d fd00:17::1/128 -p udp"), "{rules}");
        assert!(!rules.contains("127.0.0.0"), "{rules}");
    }
}
