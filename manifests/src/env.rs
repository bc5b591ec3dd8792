//! The environment of an instance: the user's, and ours on top.

use std::collections::BTreeMap;

use crate::Manifest;
use crate::names::{HostName, SlotId};

/// First port on which a container's links listen at the ambassador.
pub const FIRST_LINK_PORT: u16 = 10_000;
/// Most links of one container.
pub const MAX_LINKS: usize = 256;

/// What the environment of one instance is made from.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// Which slot.
    pub slot: &'a SlotId,
    /// Where it runs.
    pub host: &'a HostName,
    /// The ambassador's address.
    pub ambassador: std::net::IpAddr,
    /// The DNS zone.
    pub domain: &'a str,
}

/// The environment in full, by name.
pub fn environment(manifest: &Manifest, context: &Context<'_>) -> BTreeMap<String, String> {
    let _ = context;
    manifest.env.clone()
}
