//! Where containers reach this machine: the address of the interface that a network names.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::{fs, io};

use bollard::models::{Network, NetworkInspect};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Bridge, EngineError, HostFault, Routed};

/// The option by which a network names its interface.
const INTERFACE: &str = "com.docker.network.bridge.name";
/// Where the kernel shows interfaces.
const NET: &str = "/sys/class/net";
/// The options by which it says how others reach its containers.
const GATEWAY_MODES: [&str; 2] = [
    "com.docker.network.bridge.gateway_mode_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv6",
];

pub(super) fn bridge(name: &str, shown: &NetworkInspect) -> Result<Bridge, EngineError> {
    let fault = |text: String| EngineError::host(HostFault::Network, text);
    if shown.driver.as_deref() != Some("bridge") {
        return Err(fault(format!(
            "network `{name}` is of the driver `{}`; expected `bridge`",
            shown.driver.as_deref().unwrap_or_default()
        )));
    }
    let interface = interface(shown.options.as_ref(), shown.id.as_deref()).ok_or_else(|| {
        fault(format!(
            "network `{name}` does not say which interface is its own"
        ))
    })?;
    let subnets = shown.ipam.as_ref().and_then(|ipam| ipam.config.as_ref());
    let subnet = subnets
        .into_iter()
        .flatten()
        .filter_map(|config| config.subnet.clone())
        .find(|subnet| first_address(subnet).is_some());
    let inside = subnet
        .as_deref()
        .and_then(first_address)
        .ok_or_else(|| fault(format!("network `{name}` has no IPv4 subnet")))?;
    let gateway = address_of(&interface, inside).map_err(|error| {
        let path = format!("/sys/class/net/{interface}");
        fault(if std::path::Path::new(&path).exists() {
            format!(
                "interface `{interface}` of network `{name}` has no address ({error}): restart the Docker Engine \
                 (systemctl restart docker), which gives it one"
            )
        } else {
            format!(
                "there is no interface `{interface}`, which network `{name}` has: restart the Docker Engine (systemctl \
                 restart docker), which makes it again, or name another network with --bridge; is the engine on this machine?"
            )
        })
    })?;
    Ok(Bridge {
        network: name.to_owned(),
        interface,
        gateway,
        subnet,
        routed: routed(shown),
    })
}

/// The networks whose containers this machine alone reaches. What one of its containers may ask for, the machine may;
/// not so where a port of the bridge leads to others, or where the operator keeps the containers to themselves.
pub(super) fn is_own(shown: &Network) -> bool {
    let is_bridge = shown.driver.as_deref() == Some("bridge");
    let is_local = shown.scope.as_deref() == Some("local");
    let is_open = shown.internal != Some(true) && shown.config_only != Some(true);
    is_bridge
        && is_local
        && is_open
        && interface(shown.options.as_ref(), shown.id.as_deref())
            .is_some_and(|interface| !leads_elsewhere(Path::new(NET), &interface))
}

pub(super) fn subnets(shown: &Network) -> impl Iterator<Item = String> {
    let configs = shown.ipam.as_ref().and_then(|ipam| ipam.config.as_ref());
    let configs = configs.into_iter().flatten();
    configs.filter_map(|config| config.subnet.clone())
}

/// Some port of the bridge is anything but an end of a container's interface, which is known by its other end: a device, a
/// VLAN, a bond, a tunnel, a tap of a virtual machine.
fn leads_elsewhere(net: &Path, bridge: &str) -> bool {
    let Ok(ports) = fs::read_dir(net.join(bridge).join("brif")) else {
        // Without containers there may be no interface; nobody asks from there.
        return false;
    };
    ports
        .flatten()
        .any(|port| !is_pair(&net.join(port.file_name())))
}

/// One end of a pair of virtual interfaces. What lies upon another interface has one in `iflink`, too, but links to it.
fn is_pair(port: &Path) -> bool {
    let read = |file: &str| fs::read_to_string(port.join(file)).unwrap_or_default();
    let (link, own) = (read("iflink"), read("ifindex"));
    let has_other_end = !["", "0", own.trim()].contains(&link.trim());
    let is_upon = || {
        let entries = fs::read_dir(port).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name());
        names.any(|name| name.to_string_lossy().starts_with("lower_"))
    };
    let is_typed = || {
        read("uevent")
            .lines()
            .any(|line| line.starts_with("DEVTYPE="))
    };
    has_other_end
        && !port.join("device").exists()
        && !port.join("tun_flags").exists()
        && !is_typed()
        && !is_upon()
}

fn routed(shown: &NetworkInspect) -> Routed {
    let [v4, v6] = GATEWAY_MODES.map(|option| {
        let mode = shown.options.as_ref().and_then(|all| all.get(option));
        mode.is_some_and(|mode| matches!(mode.as_str(), "routed" | "nat-unprotected"))
    });
    Routed { v4, v6 }
}

fn interface(options: Option<&HashMap<String, String>>, id: Option<&str>) -> Option<String> {
    match options.and_then(|options| options.get(INTERFACE)) {
        Some(name) => Some(name.clone()),
        // Docker's own choice for networks made without a name for it.
        None => Some(format!("br-{}", id?.get(..12)?)),
    }
}

/// The first address of a subnet such as `172.17.0.0/16`.
fn first_address(subnet: &str) -> Option<Ipv4Addr> {
    let (network, _) = subnet.split_once('/')?;
    let network: Ipv4Addr = network.parse().ok()?;
    Some(Ipv4Addr::from(u32::from(network).wrapping_add(1)))
}

/// The address that this machine has on `interface`: what a datagram to `inside` would carry. None is sent.
fn address_of(interface: &str, inside: Ipv4Addr) -> io::Result<IpAddr> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.connect(&SocketAddr::from((inside, 9)).into())?;
    let own = socket.local_addr()?.as_socket().map(|address| address.ip());
    own.filter(|ip| !ip.is_unspecified())
        .ok_or_else(|| io::Error::other("it has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_is_the_named_one_or_dockers_choice() {
        let mut shown = NetworkInspect {
            id: Some("0123456789abcdef".to_owned()),
            ..NetworkInspect::default()
        };
        let interface = |shown: &NetworkInspect| {
            interface(shown.options.as_ref(), shown.id.as_deref()).expect("an interface")
        };
        assert_eq!(interface(&shown), "br-0123456789ab");
        shown.options = Some([(INTERFACE.to_owned(), "docker0".to_owned())].into());
        assert_eq!(interface(&shown), "docker0");
    }

    fn network(change: impl FnOnce(&mut Network)) -> Network {
        let mut network = Network {
            id: Some("0123456789abcdef".to_owned()),
            driver: Some("bridge".to_owned()),
            scope: Some("local".to_owned()),
            ..Network::default()
        };
        change(&mut network);
        network
    }

    #[test]
    fn a_network_is_this_machines_own_unless_others_are_in_it() {
        assert!(is_own(&network(|_| {})));
        for driver in ["macvlan", "ipvlan", "overlay", "host"] {
            let other = network(|network| network.driver = Some(driver.to_owned()));
            assert!(!is_own(&other), "{driver}");
        }
        assert!(!is_own(&network(
            |network| network.scope = Some("swarm".to_owned())
        )));
        assert!(!is_own(&network(|network| network.internal = Some(true))));
        assert!(!is_own(
            &network(|network| network.config_only = Some(true))
        ));
        let subnets_of = |subnets: &[&str]| {
            let config = |subnet: &&str| bollard::models::IpamConfig {
                subnet: Some((*subnet).to_owned()),
                ..bollard::models::IpamConfig::default()
            };
            let ipam = bollard::models::Ipam {
                config: Some(subnets.iter().map(config).collect()),
                ..bollard::models::Ipam::default()
            };
            super::subnets(&network(|network| network.ipam = Some(ipam))).collect::<Vec<_>>()
        };
        let both = ["172.18.0.0/16", "fd00:1::/64"];
        assert_eq!(subnets_of(&both), both);
    }

    /// A folder as the kernel's: a bridge whose ports have these files.
    #[test]
    fn a_bridge_with_a_port_to_others_leads_elsewhere() {
        let pair = [("ifindex", "9\n"), ("iflink", "4\n")];
        for (files, elsewhere) in [
            (&[("uevent", "INTERFACE=veth1\nIFINDEX=9\n")][..], false),
            (&[("uevent", "DEVTYPE=vlan\nINTERFACE=eth0.7\n")], true),
            (&[("device", "")], true),
            (&[("tun_flags", "0x1002")], true),
            // A device, a bond, a tunnel.
            (&[("iflink", "9\n")], true),
            (&[("iflink", "0\n")], true),
            (&[("iflink", "")], true),
            (&[("lower_eth0", "")], true),
        ] {
            let net = tempfile::tempdir().expect("a folder");
            let write = |port: &str, (file, text): &(&str, &str)| {
                fs::write(net.path().join(port).join(file), text).expect("written");
            };
            for port in ["veth0", "other"] {
                fs::create_dir_all(net.path().join("br/brif").join(port)).expect("made");
                fs::create_dir_all(net.path().join(port)).expect("made");
                for file in &pair {
                    write(port, file);
                }
            }
            for file in files {
                write("other", file);
            }
            assert_eq!(leads_elsewhere(net.path(), "br"), elsewhere, "{files:?}");
            assert!(!leads_elsewhere(net.path(), "none"));
        }
    }

    #[test]
    fn a_network_says_whether_others_may_route_to_its_containers() {
        let with = |option: &str, mode: &str| {
            routed(&NetworkInspect {
                options: Some([(option.to_owned(), mode.to_owned())].into()),
                ..NetworkInspect::default()
            })
        };
        assert_eq!(routed(&NetworkInspect::default()), Routed::default());
        assert_eq!(with(GATEWAY_MODES[0], "nat"), Routed::default());
        assert!(with(GATEWAY_MODES[0], "routed").v4);
        assert!(with(GATEWAY_MODES[1], "nat-unprotected").v6);
    }

    #[test]
    fn a_network_that_is_no_bridge_of_this_machine_is_refused_with_the_reason() {
        let mut shown = NetworkInspect {
            driver: Some("macvlan".to_owned()),
            ..NetworkInspect::default()
        };
        let refused = |shown: &NetworkInspect| bridge("n", shown).expect_err("refused").to_string();
        assert!(refused(&shown).contains("expected `bridge`"));
        shown.driver = Some("bridge".to_owned());
        assert!(refused(&shown).contains("which interface"));
        shown.options = Some([(INTERFACE.to_owned(), "nosuch0".to_owned())].into());
        assert!(refused(&shown).contains("no IPv4 subnet"));
        shown.ipam = Some(bollard::models::Ipam {
            config: Some(vec![bollard::models::IpamConfig {
                subnet: Some("172.31.0.0/16".to_owned()),
                ..bollard::models::IpamConfig::default()
            }]),
            ..bollard::models::Ipam::default()
        });
        assert!(refused(&shown).contains("there is no interface `nosuch0`"));
    }
}
