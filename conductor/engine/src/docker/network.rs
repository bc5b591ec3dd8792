//! Where containers reach this machine: the address of the interface that a network names.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bollard::models::NetworkInspect;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Bridge, EngineError, HostFault, Routed};

/// The option by which a network names its interface.
const INTERFACE: &str = "com.docker.network.bridge.name";
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
    let interface = interface(shown).ok_or_else(|| {
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

fn routed(shown: &NetworkInspect) -> Routed {
    let [v4, v6] = GATEWAY_MODES.map(|option| {
        let mode = shown.options.as_ref().and_then(|all| all.get(option));
        mode.is_some_and(|mode| matches!(mode.as_str(), "routed" | "nat-unprotected"))
    });
    Routed { v4, v6 }
}

fn interface(shown: &NetworkInspect) -> Option<String> {
    let named = shown
        .options
        .as_ref()
        .and_then(|options| options.get(INTERFACE));
    match named {
        Some(name) => Some(name.clone()),
        // Docker's own choice for networks made without a name for it.
        None => Some(format!("br-{}", shown.id.as_deref()?.get(..12)?)),
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
        assert_eq!(interface(&shown).as_deref(), Some("br-0123456789ab"));
        shown.options = Some([(INTERFACE.to_owned(), "docker0".to_owned())].into());
        assert_eq!(interface(&shown).as_deref(), Some("docker0"));
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
