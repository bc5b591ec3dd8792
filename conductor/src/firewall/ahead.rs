//! Rules of others that come before ours and let go what ours would close: said, not fought. Pure.

use super::rules::{InstancePorts, Shown, Wanted};
use manifests::env::{FIRST_LINK_PORT, LAST_LINK_PORT};

/// The first such rule.
///
/// One that names a source says whom it lets in, and is meant so. What a jump to another chain does there is not followed.
pub(super) fn ahead(shown: &Shown, wanted: &Wanted) -> Option<String> {
    let rule = shown
        .ahead()
        .find(|rule| lets_go(&Rule::read(rule), wanted))?;
    Some(format!(
        "firewall: `{rule}` comes before the agent's rules and lets others reach what they close (ports of instances, DNS, links); \
         delete it, put it behind `-j DOKKAA`, or name whom it lets in with `-s`"
    ))
}

/// A rule as `iptables -S` prints it.
struct Rule<'a> {
    words: Vec<&'a str>,
}

impl<'a> Rule<'a> {
    fn read(text: &'a str) -> Self {
        Self {
            words: text.split_whitespace().collect(),
        }
    }

    /// The value of a flag, and whether it is negated.
    fn value(&self, flags: &[&str]) -> Option<(&'a str, bool)> {
        let at = self.words.iter().position(|word| flags.contains(word))?;
        let negated = at > 0 && self.words[at - 1] == "!";
        Some((*self.words.get(at + 1)?, negated))
    }

    /// The values of a flag that is not negated.
    fn only(&self, flags: &[&str]) -> Option<&'a str> {
        self.value(flags)
            .filter(|(_, negated)| !negated)
            .map(|(value, _)| value)
    }
}

fn lets_go(rule: &Rule<'_>, wanted: &Wanted) -> bool {
    let is_verdict = matches!(rule.only(&["-j"]), Some("ACCEPT" | "RETURN"));
    is_verdict
        && rule.only(&["-s", "--src-range"]).is_none()
        && !is_from_here(rule, wanted)
        && !is_open_already(rule)
        && !is_other_traffic(rule, wanted)
}

/// This machine, or a container of it.
fn is_from_here(rule: &Rule<'_>, wanted: &Wanted) -> bool {
    rule.only(&["-i"])
        .is_some_and(|interface| interface == "lo" || wanted.bridges.contains(interface))
}

/// Only packets of connections that are open.
fn is_open_already(rule: &Rule<'_>) -> bool {
    let state = rule.value(&["--ctstate", "--state"]);
    state.is_some_and(|(states, negated)| {
        let names_new = states
            .split(',')
            .any(|state| matches!(state, "NEW" | "DNAT"));
        names_new == negated
    })
}

/// Another protocol, interface or port than those that are closed.
fn is_other_traffic(rule: &Rule<'_>, wanted: &Wanted) -> bool {
    let protocol = rule.only(&["-p"]);
    if protocol.is_some_and(|name| !matches!(name, "tcp" | "udp" | "all")) {
        return true;
    }
    // What is forwarded to a container has its port there.
    if rule.words.get(1) == Some(&"INPUT") {
        let ports = rule.only(&["--dport", "--dports"]);
        return ports.is_some_and(|ports| !ports.split(',').any(|port| meets(port, wanted)));
    }
    rule.only(&["-o"])
        .is_some_and(|interface| !wanted.bridges.contains(interface))
}

/// Whether a port or a range such as `1:1024` has some of ours.
fn meets(ports: &str, wanted: &Wanted) -> bool {
    let (first, last) = ports.split_once(':').unwrap_or((ports, ports));
    let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
        return true;
    };
    let ours = |from: u16, to: u16| first <= to && from <= last;
    let instances =
        |InstancePorts { range, .. }: &InstancePorts| ours(*range.start(), *range.end());
    ours(53, 53)
        || ours(FIRST_LINK_PORT, LAST_LINK_PORT)
        || wanted.published.as_ref().is_some_and(instances)
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::{DOCKERS, wanted};
    use super::*;

    /// What is said of a table with this rule before our jumps, and all let go behind them.
    fn said(rule: &str) -> Option<String> {
        let dockers = DOCKERS.replace("-A DOCKER-USER -j RETURN\n", "");
        let table = format!(
            "{rule}\n{dockers}-N DOKKAA\n-A INPUT -j DOKKAA\n-A DOCKER-USER -j DOKKAA\n\
             -A DOCKER-USER -j RETURN\n-A INPUT -j ACCEPT\n"
        );
        ahead(&Shown::read(&table), &wanted())
    }

    #[test]
    fn what_lets_everybody_go_before_our_rules_is_named() {
        for rule in [
            "-A DOCKER-USER -j RETURN",
            "-A DOCKER-USER -i eth0 -j ACCEPT",
            "-A DOCKER-USER -p tcp -m tcp --dport 80 -j ACCEPT",
            "-A FORWARD -o docker0 -j ACCEPT",
            "-A INPUT -j ACCEPT",
            "-A INPUT -p tcp -m multiport --dports 22,20000:20100 -j ACCEPT",
            "-A INPUT -p udp -m udp --dport 53 -j ACCEPT",
            "-A INPUT -m conntrack ! --ctstate INVALID -j ACCEPT",
            "-A INPUT ! -s 10.0.0.9/32 -j ACCEPT",
        ] {
            let said = said(rule).expect(rule);
            assert!(said.contains(&format!("`{rule}`")), "{said}");
        }
    }

    #[test]
    fn what_lets_go_nothing_of_ours_or_says_whom_is_not() {
        for rule in [
            "-A INPUT -i lo -j ACCEPT",
            "-A INPUT -i docker0 -j ACCEPT",
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A INPUT -m conntrack ! --ctstate NEW -j ACCEPT",
            "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT",
            "-A INPUT -p icmp -j ACCEPT",
            "-A INPUT -j f2b-sshd",
            "-A INPUT -s 10.9.0.0/16 -j ACCEPT",
            "-A DOCKER-USER -s 10.9.0.0/16 -j RETURN",
            "-A FORWARD -o eth0 -j ACCEPT",
            "-A DOCKER-USER -j DROP",
        ] {
            assert_eq!(said(rule), None, "{rule}");
        }
    }
}
