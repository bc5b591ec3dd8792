//! What a container offers and what it wants to reach: `services` and `links`.

use std::collections::BTreeMap;

use super::super::reader::{Entry, Fields, Node, Reader, quoted, shortened};
use crate::env::{FIRST_LINK_PORT, LAST_LINK_PORT, MAX_LINKS, link_variable_name};
use crate::fields;
use crate::manifest::{Link, Protocol, Ready, Service};
use crate::names::{NameError, ServiceName};

/// Named ports.
pub(super) fn services(r: &mut Reader, node: &Node<'_>) -> BTreeMap<ServiceName, Service> {
    let mut services = BTreeMap::new();
    let mut host_ports: BTreeMap<(u16, Protocol), String> = BTreeMap::new();
    let entries = r
        .entries(node, "a map of names to ports such as {\"web\": 80}")
        .unwrap_or_default();
    for entry in entries {
        let name: Result<ServiceName, NameError> = entry.name.parse();
        if let Err(error) = &name {
            r.wrong_name(&entry, error);
        }
        let Some(service) = service(r, &entry, &mut host_ports) else {
            continue;
        };
        if let Ok(name) = name {
            services.insert(name, service);
        }
    }
    services
}

fn service(
    r: &mut Reader,
    entry: &Entry<'_>,
    host_ports: &mut BTreeMap<(u16, Protocol), String>,
) -> Option<Service> {
    let node = &entry.node;
    if node.is_number() {
        return port(r, node).map(Service::on_port);
    }
    let fields = r.object(
        node,
        fields::SERVICE,
        "a port, or an object such as {\"port\": 80}",
    )?;
    let mut service = Service::on_port(0);
    if let Some(port) = r
        .need(
            node,
            &fields,
            "port",
            "the port inside the container, such as 80",
        )
        .and_then(|node| port(r, node))
    {
        service.port = port;
    }
    if let Some(protocol) = fields
        .get("protocol")
        .and_then(|node| r.choice(node, &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]))
    {
        service.protocol = protocol;
    }
    service.role = fields
        .get("role")
        .and_then(|node| r.string(node, "a string"))
        .map(str::to_owned);
    if let Some(ready) = fields.get("ready").and_then(|node| {
        r.choice(
            node,
            &[("listening", Ready::Listening), ("started", Ready::Started)],
        )
    }) {
        service.ready = ready;
    }
    if let Some(node) = fields.get("host_port") {
        service.host_port = port(r, node);
        if let Some(port) = service.host_port
            && let Some(other) = host_ports.insert((port, service.protocol), shortened(entry.name))
        {
            r.wrong(
                node,
                format_args!("{port} is the host_port of `{other}` too"),
                "a port of its own for each protocol",
            );
        }
    }
    service.bind = fields.get("bind").and_then(|node| bind(r, node, &fields));
    if let Some(node) = fields.get("host_port")
        && service.bind.is_some_and(|ip| ip.is_unspecified())
        && let Some(of) = service.host_port.and_then(of_the_agent)
    {
        r.wrong(
            node,
            format_args!("is {of} on the address of the bridge, which `bind` includes"),
            "another port, or no `bind`: the host's own address (--host-ip)",
        );
    }
    Some(service)
}

/// What the agent of each host serves to containers on this port at the bridge's address.
fn of_the_agent(port: u16) -> Option<&'static str> {
    match port {
        53 => Some("DNS's"),
        FIRST_LINK_PORT..=LAST_LINK_PORT => Some("one of the ports of links (10000-10255)"),
        _ => None,
    }
}

fn bind(r: &mut Reader, node: &Node<'_>, fields: &Fields<'_>) -> Option<std::net::IpAddr> {
    let text = r.string(node, "an IP address")?;
    if fields.get("host_port").is_none() {
        r.wrong(node, "requires `host_port`", "both or neither");
    }
    let address = text.parse().ok();
    if address.is_none() {
        r.wrong(
            node,
            format_args!("{} is not an IP address", quoted(text)),
            "one such as \"127.0.0.1\"",
        );
    }
    address
}

fn port(r: &mut Reader, node: &Node<'_>) -> Option<u16> {
    r.integer(node, 1..=u32::from(u16::MAX))
        .and_then(|port| u16::try_from(port).ok())
}

/// Wishes to reach services.
pub(super) fn links(r: &mut Reader, node: &Node<'_>) -> Vec<Link> {
    const EXPECTED: &str = "a list of services such as [\"db\", \"shop/cache:sessions\"]";
    let elements = r.list(node, EXPECTED).unwrap_or_default();
    if elements.len() > MAX_LINKS {
        r.wrong(
            node,
            format_args!("has {} links", elements.len()),
            format_args!("at most {MAX_LINKS}"),
        );
        return Vec::new();
    }
    let mut links: Vec<Link> = Vec::new();
    let mut by_variable: BTreeMap<String, String> = BTreeMap::new();
    for element in elements {
        let Some(text) = r.string(&element, "a string such as \"db\" or \"shop/db:alias\"") else {
            continue;
        };
        let link: Link = match text.parse() {
            Ok(link) => link,
            Err(error) => {
                r.says(&element, error);
                continue;
            }
        };
        let variable = link_variable_name(&link);
        if let Some(earlier) = by_variable.get(&variable) {
            r.wrong(
                &element,
                format_args!("gives SERVICE_{variable}_ADDR, as \"{earlier}\" does"),
                format_args!(
                    "another name by an alias, such as \"{}:other\"",
                    without_alias(&link)
                ),
            );
        }
        by_variable.insert(variable, link.to_string());
        links.push(link);
    }
    links
}

fn without_alias(link: &Link) -> Link {
    Link {
        alias: None,
        ..link.clone()
    }
}
