//! Whether what listens on 127.0.0.1 is open to containers and neighbours: `route_localnet` (`ip-sysctl` of the kernel).

use std::collections::BTreeSet;
use std::fs;

/// What is said of the interfaces that have it; none if none has.
pub(super) fn exposed<'a>(bridges: impl Iterator<Item = &'a str>) -> Option<String> {
    // `all` counts for each interface.
    let interfaces: BTreeSet<&str> = ["all"].into_iter().chain(bridges).collect();
    let on: Vec<&str> = interfaces
        .into_iter()
        .filter(|interface| is_on(interface))
        .collect();
    (!on.is_empty()).then(|| {
        format!(
            "net.ipv4.conf.*.route_localnet is 1 on {}: what listens on 127.0.0.1 of this machine can be reached from containers, \
             but for the agent's rules (Docker sets it with `userland-proxy: false`)",
            on.join(", ")
        )
    })
}

fn is_on(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet");
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}
