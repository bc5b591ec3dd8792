//! Records of this host's instances in SkyDNS's format, for servers that are no agents.

use std::collections::BTreeMap;

use manifests::HostName;
use manifests::keys::SKYDNS;
use model::directory::{Directory, Endpoint, ServiceId};
use model::skydns;

use super::select::shared_slots;
use super::{TTL, Zone};

impl Zone {
    /// Keys and values of the ready instances of a host: `/skydns/<domain reversed>/<app>/<service>/<one>`.
    pub fn published(&self, directory: &Directory, host: &HostName) -> BTreeMap<String, String> {
        let domain: Vec<String> = self.origin.iter().rev().map(text).collect();
        let domain = domain.join("/");
        let endpoints = directory.endpoints_on(host);
        let ready = endpoints.iter().filter(|(_, endpoint)| endpoint.is_ready());
        ready
            .map(|(service, endpoint)| {
                let one = label(directory, service, endpoint);
                let key = format!("{SKYDNS}{domain}/{}/{}/{one}", service.app, service.service);
                let value = skydns::published(host, endpoint.addr, endpoint.port, TTL);
                (key, value)
            })
            .collect()
    }
}

/// The label of an instance in its own name.
fn label(directory: &Directory, service: &ServiceId, endpoint: &Endpoint) -> String {
    let known = directory.endpoints(service);
    let is_shared = known.is_some_and(|known| shared_slots(known).contains_key(&endpoint.slot));
    if is_shared {
        format!("{}-{}", endpoint.container, endpoint.slot)
    } else {
        endpoint.slot.to_string()
    }
}

fn text(label: &[u8]) -> String {
    String::from_utf8_lossy(label).into_owned()
}
