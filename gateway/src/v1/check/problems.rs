//! What tries say is wrong, and what helps. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use manifests::HostName;

use crate::v1::agent::ClusterView;
use crate::v1::types::{CheckProblem, CheckedPort, Reach, Tried};

/// Of a host that could not be asked for it.
const DEFAULT_RANGE: &str = "20000-29999";

/// What is wrong: one for each host, port and cause, with all hosts that see it.
pub(super) fn problems(view: &ClusterView, tries: &[Tried]) -> Vec<CheckProblem> {
    let mut causes: BTreeMap<(&HostName, CheckedPort, Reach, bool), Vec<&Tried>> = BTreeMap::new();
    for tried in tries {
        // Of an instance's port nothing is known where the peer listener is what fails, and that is said.
        let is_wrong = match tried.result {
            Reach::Open => false,
            Reach::Unknown => tried.port == CheckedPort::Peer,
            _ => true,
        };
        if is_wrong {
            let key = (&tried.to, tried.port, tried.result, tried.slot.is_some());
            causes.entry(key).or_default().push(tried);
        }
    }
    let mut problems: Vec<CheckProblem> = causes
        .into_values()
        .map(|same| {
            let answered = |one: &&Tried| one.to == same[0].to && one.range.is_some();
            problem(view, &same, tries.iter().find(answered))
        })
        .collect();
    for (host, known) in &view.snapshot.hosts {
        if known.member.is_some() && known.record.is_none() {
            problems.push(CheckProblem {
                from: Vec::new(),
                to: host.clone(),
                problem: "no sign of it, so it was not tried: its agent is down, or it does not reach etcd"
                    .to_owned(),
                help: Some(format!("on {host}: systemctl status dokkaa; dokkaa status")),
            });
        }
    }
    problems
}

/// `same`: tries of one port with one result, at least one. `answered`: another host got an answer of the agent there.
fn problem(view: &ClusterView, same: &[&Tried], answered: Option<&Tried>) -> CheckProblem {
    let first = same[0];
    let to = &first.to;
    let at = first
        .at
        .map_or_else(|| "its port".to_owned(), |at| at.to_string());
    let range = answered.and_then(|one| one.range.as_deref());
    let firewall = answered.and_then(|one| one.firewall.as_deref());
    let what = match (first.port, &first.slot) {
        (CheckedPort::Peer, _) => format!("peer port {at}/tcp"),
        (CheckedPort::Instance, Some(slot)) => format!("port {at}/tcp of {slot}"),
        (CheckedPort::Instance, None) => format!("port {at}/tcp, opened for this check,"),
    };
    let why = first.why.as_deref().unwrap_or("no answer");
    let (problem, opens) = match first.result {
        Reach::TimedOut => (format!("{what} times out: a firewall between them?"), true),
        Reach::Refused if first.port == CheckedPort::Peer => {
            let text = format!(
                "{what} is refused: its agent does not listen there, or a firewall rejects it"
            );
            (text, false)
        }
        Reach::Refused => (
            format!("{what} is refused: nothing listens there, or a firewall rejects it"),
            true,
        ),
        Reach::Silent => (
            format!("{what} is accepted and not answered: is its agent frozen?"),
            false,
        ),
        Reach::Wrong => (
            format!("{what} is answered by something that is not {to}'s agent: {why}"),
            false,
        ),
        Reach::Unreachable => (
            format!("{what}: {why}: a firewall that rejects it, or no route?"),
            true,
        ),
        Reach::Unknown | Reach::Open => (format!("it was not tried: {why}"), false),
    };
    let sources: Vec<IpAddr> = same
        .iter()
        .filter_map(|one| Some(view.snapshot.record(&one.from)?.value.addr))
        .collect();
    let ports = match first.port {
        CheckedPort::Peer => first.at.map(|at| at.port().to_string()),
        CheckedPort::Instance => Some(range.unwrap_or(DEFAULT_RANGE).to_owned()),
    };
    let help = match (opens, ports) {
        (true, Some(ports)) => {
            let forwarded = first.slot.is_some();
            Some(format!(
                "on {to}: {}",
                opening(firewall, &sources, &ports, forwarded)
            ))
        }
        (false, _) if matches!(first.result, Reach::Refused | Reach::Silent) => {
            Some(format!("on {to}: systemctl status dokkaa"))
        }
        _ => None,
    };
    CheckProblem {
        from: same.iter().map(|one| one.from.clone()).collect(),
        to: to.clone(),
        problem,
        help,
    }
}

/// The command that lets these in. What Docker has forwarded has another destination by then.
fn opening(firewall: Option<&str>, from: &[IpAddr], ports: &str, forwarded: bool) -> String {
    let colon = ports.replace('-', ":");
    let each = |command: &dyn Fn(&IpAddr) -> String| {
        from.iter().map(command).collect::<Vec<_>>().join(" && ")
    };
    match firewall {
        Some("ufw") if forwarded => {
            each(&|ip| format!("ufw route allow proto tcp from {ip} to any"))
        }
        Some("ufw") => each(&|ip| format!("ufw allow proto tcp from {ip} to any port {colon}")),
        Some("firewalld") => {
            let sources =
                each(&|ip| format!("firewall-cmd --permanent --zone=trusted --add-source={ip}"));
            format!("{sources} && firewall-cmd --reload")
        }
        _ => {
            let program = if from.iter().any(IpAddr::is_ipv6) {
                "ip6tables"
            } else {
                "iptables"
            };
            let list: Vec<String> = from.iter().map(ToString::to_string).collect();
            let list = list.join(",");
            if forwarded {
                format!(
                    "{program} -I FORWARD -s {list} -p tcp -m conntrack --ctorigdstport {colon} -j ACCEPT"
                )
            } else {
                format!("{program} -I INPUT -s {list} -p tcp --dport {colon} -j ACCEPT")
            }
        }
    }
}
