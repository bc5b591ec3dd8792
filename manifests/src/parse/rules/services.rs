//! `services` and `links`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::node::{Entry, Fields, Node, quoted, shortened};
use super::super::reader::Reader;
use crate::env::{FIRST_LINK_PORT, LAST_LINK_PORT, MAX_LINKS, link_variable_name};
use crate::fields;
use crate::manifest::{Link, Protocol, Service};
use crate::names::{NameError, ServiceName};

type Services = BTreeMap<ServiceName, Service>;

/// Names of the services that have a host port.
#[derive(Default)]
struct HostPorts {
    /// By it.
    outside: BTreeMap<(u16, Protocol), String>,
    /// By the port inside the container, which has one host port at most.
    inside: BTreeMap<(u16, Protocol), String>,
}

pub(super) fn services(r: &mut Reader, node: &Node<'_>) -> Option<Services> {
    let mut services = BTreeMap::new();
    let mut host_ports = HostPorts::default();
    for entry in r.entries(node, "a map of names to ports such as {\"web\": 80}")? {
        let name: Result<ServiceName, NameError> = entry.name.parse();
        if let Err(error) = &name {
            r.says(&entry, error);
        }
        if let (Some(service), Ok(name)) = (service(r, &entry, &mut host_ports), name) {
            services.insert(name, service);
        }
    }
    Some(services)
}

fn service(r: &mut Reader, entry: &Entry<'_>, host_ports: &mut HostPorts) -> Option<Service> {
    let node = &entry.node;
    if node.as_number().is_some() {
        return r.port(node).map(Service::on_port);
    }
    let expected = "a port, or an object such as {\"port\": 80}";
    let f = &r.object(node, fields::SERVICE, expected)?;
    let mut service = Service::on_port(0);
    let port = r.need(node, f, "port", "the port inside the container, such as 80");
    if let Some(port) = port.and_then(|node| r.port(node)) {
        service.port = port;
    }
    r.set(f, "protocol", &mut service.protocol, Reader::choice);
    r.set(f, "role", &mut service.role, |r, node| {
        r.string(node, "a string").map(str::to_owned)
    });
    r.set(f, "ready", &mut service.ready, Reader::choice);
    r.set(f, "host_port", &mut service.host_port, Reader::port);
    r.set(f, "bind", &mut service.bind, |r, node| bind(r, node, f));
    if let Some(node) = f.get("host_port")
        && let Some(port) = service.host_port
    {
        let name = shortened(entry.name);
        let outside = (port, service.protocol);
        if let Some(other) = host_ports.outside.insert(outside, name.clone()) {
            r.wrong(
                node,
                format_args!("{port} is already the host_port of `{other}`"),
                "another port for each service of one protocol",
            );
        }
        let inside = (service.port, service.protocol);
        if service.port != 0
            && let Some(other) = host_ports.inside.insert(inside, name)
        {
            r.wrong(
                node,
                format_args!(
                    "port {} inside has the host_port of `{other}` already",
                    service.port
                ),
                "one host_port for each port inside",
            );
        }
        if service.bind.is_some_and(|ip| ip.is_unspecified())
            && let Some(owner) = agent_port(port)
        {
            r.wrong(
                node,
                format_args!("is used by {owner} on the bridge's address, which `bind` includes"),
                "another port, or no `bind`: the host's own address (--host-ip)",
            );
        }
    }
    Some(service)
}

/// User of a port at the bridge's address on every host.
fn agent_port(port: u16) -> Option<&'static str> {
    match port {
        53 => Some("DNS"),
        FIRST_LINK_PORT..=LAST_LINK_PORT => Some("links (10000-10255)"),
        _ => None,
    }
}

fn bind(r: &mut Reader, node: &Node<'_>, fields: &Fields<'_>) -> Option<IpAddr> {
    let text = r.string(node, "an IP address")?;
    if fields.get("host_port").is_none() {
        r.wrong(node, "requires `host_port`", "both or neither");
    }
    let address = text.parse().ok();
    if address.is_none() {
        let wrong = format_args!("{} is not an IP address", quoted(text));
        r.wrong(node, wrong, "one such as \"127.0.0.1\"");
    }
    address
}

pub(super) fn links(r: &mut Reader, node: &Node<'_>) -> Option<Vec<Link>> {
    const EXPECTED: &str = "a list of services such as [\"db\", \"shop/cache:sessions\"]";
    let mut links: Vec<Link> = Vec::new();
    let mut by_variable: BTreeMap<String, String> = BTreeMap::new();
    for element in r.short_list(node, (MAX_LINKS, "links"), EXPECTED)? {
        let expected = "a string such as \"db\" or \"shop/db:alias\"";
        let Some(link) = r.parsed::<Link>(&element, expected) else {
            continue;
        };
        let variable = link_variable_name(&link);
        if let Some(earlier) = by_variable.get(&variable) {
            let plain = Link {
                alias: None,
                ..link.clone()
            };
            r.wrong(
                &element,
                format_args!("sets SERVICE_{variable}_ADDR, which \"{earlier}\" sets already"),
                format_args!("an alias, such as \"{plain}:other\""),
            );
        }
        by_variable.insert(variable, link.to_string());
        links.push(link);
    }
    Some(links)
}
