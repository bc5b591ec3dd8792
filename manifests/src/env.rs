//! The environment of an instance: the user's, with dokkaa's variables on top.
//!
//! Links get the ports 10000, 10001, … in their order.

use std::collections::BTreeMap;

use crate::manifest::Link;
use crate::manifest::Manifest;
use crate::names::{AppName, HostName, ServiceName, SlotId};

/// First port on which a container's links listen at the ambassador.
pub const FIRST_LINK_PORT: u16 = 10_000;
/// Port of the last link that a container may have.
pub const LAST_LINK_PORT: u16 = FIRST_LINK_PORT + MAX_LINKS as u16 - 1;
/// Most links of one container.
pub const MAX_LINKS: usize = 256;
/// Prefixes of dokkaa's variables, which take precedence over the user's.
pub const RESERVED_PREFIXES: [&str; 3] = ["SERVICE_", "DOKKAA_", "BACKENDS_"];

/// Inputs of an instance's environment, beside its manifest.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// The slot.
    pub slot: &'a SlotId,
    /// Its host.
    pub host: &'a HostName,
    /// The ambassador's address.
    pub ambassador: std::net::IpAddr,
    /// The DNS zone.
    pub domain: &'a str,
}

/// A resolved link: connections to `port` at the ambassador go to `service` of `app`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkTarget {
    /// Port at the ambassador.
    pub port: u16,
    /// The service's app.
    pub app: AppName,
    /// The service.
    pub service: ServiceName,
}

/// The whole environment, by name.
pub fn environment(manifest: &Manifest, context: &Context<'_>) -> BTreeMap<String, String> {
    let mut env = manifest.env.clone();
    let container = &context.slot.container;
    for (link, target) in manifest
        .links
        .iter()
        .zip(link_targets(manifest, &container.app))
    {
        let name = link_variable_name(link);
        let LinkTarget { port, app, service } = target;
        env.insert(
            format!("SERVICE_{name}_ADDR"),
            context.ambassador.to_string(),
        );
        env.insert(format!("SERVICE_{name}_PORT"), port.to_string());
        env.insert(
            format!("BACKENDS_{port}"),
            format!("{service}.{app}.{}", context.domain),
        );
    }
    for (name, service) in &manifest.services {
        let name = name.as_str().replace('-', "_");
        env.insert(format!("DOKKAA_SERVICE_{name}"), service.port.to_string());
        if let Some(role) = &service.role {
            env.insert(format!("DOKKAA_ROLE_{name}"), role.clone());
        }
    }
    for (name, value) in [
        ("DOKKAA_APP_NAME", container.app.to_string()),
        ("DOKKAA_CONTAINER_NAME", container.container.to_string()),
        ("DOKKAA_SLOT", context.slot.slot.to_string()),
        ("DOKKAA_HOST", context.host.to_string()),
    ] {
        env.insert(name.to_owned(), value);
    }
    env
}

/// `<NAME>` of a link's `SERVICE_<NAME>_ADDR`.
pub fn link_variable_name(link: &Link) -> String {
    link.alias
        .as_ref()
        .unwrap_or(&link.service)
        .as_str()
        .to_ascii_uppercase()
        .replace('-', "_")
}

/// Targets of the links of a container of `app`, in order.
pub fn link_targets<'a>(
    manifest: &'a Manifest,
    app: &'a AppName,
) -> impl Iterator<Item = LinkTarget> + 'a {
    manifest
        .links
        .iter()
        .zip(FIRST_LINK_PORT..)
        .map(move |(link, port)| LinkTarget {
            port,
            app: link.app.as_ref().unwrap_or(app).clone(),
            service: link.service.clone(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[test]
    fn dokkaas_variables_are_added_to_the_users() {
        let manifest = parse::strict(
            br#"{"image": "a",
                "env": {"A": "1", "SERVICE_DB_PORT": "mine", "SERVICE_OTHER": "mine"},
                "links": ["db", "shop/big-table:big-t"],
                "services": {"web-ui": {"port": 80, "role": "front"}, "dns": {"port": 53, "protocol": "udp"}}}"#,
        )
        .expect("valid")
        .manifest;
        let slot = "blog/site"
            .parse::<crate::ContainerId>()
            .expect("valid")
            .slot(2);
        let host = "h1".parse().expect("valid");
        let env = environment(
            &manifest,
            &Context {
                slot: &slot,
                host: &host,
                ambassador: [172, 17, 0, 1].into(),
                domain: "skydns.local",
            },
        );
        let expected = [
            ("A", "1"),
            ("BACKENDS_10000", "db.blog.skydns.local"),
            ("BACKENDS_10001", "big-table.shop.skydns.local"),
            ("DOKKAA_APP_NAME", "blog"),
            ("DOKKAA_CONTAINER_NAME", "site"),
            ("DOKKAA_HOST", "h1"),
            ("DOKKAA_ROLE_web_ui", "front"),
            ("DOKKAA_SERVICE_dns", "53"),
            ("DOKKAA_SERVICE_web_ui", "80"),
            ("DOKKAA_SLOT", "2"),
            ("SERVICE_BIG_T_ADDR", "172.17.0.1"),
            ("SERVICE_BIG_T_PORT", "10001"),
            ("SERVICE_DB_ADDR", "172.17.0.1"),
            ("SERVICE_DB_PORT", "10000"),
            ("SERVICE_OTHER", "mine"),
        ];
        let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(env, expected);
    }
}
