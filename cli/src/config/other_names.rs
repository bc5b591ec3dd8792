//! What DNS does with names outside the zone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{ConfigError, DnsListen, flat};
use crate::args::OtherNamesArgs;

/// Where they are forwarded, and for whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OtherNames {
    /// Resolvers in the place of the host's own; none are the host's.
    pub(crate) upstreams: Vec<SocketAddr>,
    /// Zones with resolvers of their own.
    pub(crate) stubs: BTreeMap<String, Vec<SocketAddr>>,
    /// Who is served besides this host and its containers.
    pub(crate) allowed: Vec<dns::Network>,
}

impl OtherNames {
    pub(super) fn new(
        args: OtherNamesArgs,
        domain: &str,
        listen: &DnsListen,
    ) -> Result<Self, ConfigError> {
        let mut upstreams = Vec::new();
        for to in flat(args.upstreams) {
            add(&mut upstreams, to, listen, "--dns-upstream")?;
        }
        let mut stubs = BTreeMap::<String, Vec<SocketAddr>>::new();
        for (zone, to) in flat(args.stubs) {
            let ours = zone.strip_suffix(domain);
            if ours.is_some_and(|rest| rest.is_empty() || rest.ends_with('.')) {
                return Err(ConfigError::new(
                    "--dns-stub",
                    format!(
                        "`{zone}` is in the cluster's own zone {domain} (--domain), which is never forwarded"
                    ),
                ));
            }
            add(stubs.entry(zone).or_default(), to, listen, "--dns-stub")?;
        }
        Ok(Self {
            upstreams,
            stubs,
            allowed: flat(args.allowed).collect(),
        })
    }
}

fn add(
    resolvers: &mut Vec<SocketAddr>,
    to: SocketAddr,
    listen: &DnsListen,
    flag: &'static str,
) -> Result<(), ConfigError> {
    let wrong = |what| Err(ConfigError::new(flag, format!("{to} {what}")));
    if matches!(listen, DnsListen::At(own) if own.contains(&to)) {
        return wrong("is where this agent's own DNS listens (--dns-listen)");
    }
    if resolvers.contains(&to) {
        return wrong("is listed twice");
    }
    resolvers.push(to);
    Ok(())
}
