//! Which resolvers are asked for a name.
//!
//! The longest zone that a stub names, else those given, else the host's own,
//! which are read again on a query, at most every 2 s. The server's own
//! addresses are left out.
//!
//! Invariant: where the host names none any more, as while its uplink is away,
//! they stay the same: what was answered before is kept for just then.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::rr::{LowerName, Name};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::clients::is_local;
use crate::resolv_conf::Files;
use crate::zone::DomainError;

/// Time for which the files are not read again.
const FRESH: Duration = Duration::from_secs(2);

/// Where names outside the zone are asked for.
#[derive(Debug, Clone, Default)]
pub struct Forwarding {
    /// Files that name the host's resolvers.
    pub files: Files,
    /// Resolvers in the place of the host's; none are the host's.
    pub upstreams: Vec<SocketAddr>,
    /// Zones with resolvers of their own.
    pub stubs: Vec<Stub>,
}

/// A zone with resolvers of its own.
#[derive(Debug, Clone)]
pub struct Stub {
    zone: LowerName,
    to: Vec<SocketAddr>,
}

impl Stub {
    /// A zone such as `corp.example`.
    pub fn new(zone: &str, to: Vec<SocketAddr>) -> Result<Self, DomainError> {
        let not = |_| DomainError::NotADomain(zone.to_owned());
        let mut zone = Name::from_ascii(zone).map_err(not)?;
        zone.set_fqdn(true);
        Ok(Self {
            zone: zone.into(),
            to,
        })
    }
}

/// The upstream resolvers.
#[derive(Debug)]
pub(crate) struct Upstreams {
    general: Resolvers,
    /// The longest zone first.
    stubs: Vec<(LowerName, Resolvers)>,
}

impl Upstreams {
    pub(crate) fn new(forwarding: Forwarding, own: &watch::Receiver<Vec<SocketAddr>>) -> Self {
        let Forwarding {
            files,
            upstreams,
            mut stubs,
        } = forwarding;
        stubs.sort_by_key(|stub| std::cmp::Reverse(stub.zone.num_labels()));
        let resolvers = |from| Resolvers {
            from,
            own: own.clone(),
            cache: Mutex::default(),
        };
        let general = match upstreams.as_slice() {
            [] => Source::Host(files),
            _ => Source::Given(upstreams),
        };
        Self {
            general: resolvers(general),
            stubs: stubs
                .into_iter()
                .map(|stub| (stub.zone, resolvers(Source::Given(stub.to))))
                .collect(),
        }
    }

    /// The resolvers of a name.
    pub(crate) fn of(&self, name: &LowerName) -> Current {
        let stub = self.stubs.iter().find(|(zone, _)| zone.zone_of(name));
        match stub {
            Some((zone, resolvers)) => resolvers.current(Some(zone)),
            None => self.general.current(None),
        }
    }
}

/// Resolvers in order of preference.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) addresses: Arc<[SocketAddr]>,
    /// The host names others than before.
    pub(crate) is_new: bool,
}

/// Resolvers of one zone.
#[derive(Debug)]
struct Resolvers {
    from: Source,
    /// Addresses of this server.
    own: watch::Receiver<Vec<SocketAddr>>,
    cache: Mutex<Cache>,
}

#[derive(Debug)]
enum Source {
    Host(Files),
    Given(Vec<SocketAddr>),
}

#[derive(Debug, Default)]
struct Cache {
    at: Option<Instant>,
    own: Vec<SocketAddr>,
    named: Vec<SocketAddr>,
    used: Arc<[SocketAddr]>,
}

impl Resolvers {
    fn current(&self, zone: Option<&LowerName>) -> Current {
        let now = Instant::now();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.own.borrow();
        let is_fresh = cache
            .at
            .is_some_and(|at| now.saturating_duration_since(at) < FRESH);
        if is_fresh && cache.own == *own {
            return Current {
                addresses: Arc::clone(&cache.used),
                is_new: false,
            };
        }
        let named = match &self.from {
            Source::Host(files) => files.read(&cache.named),
            Source::Given(given) => given.clone(),
        };
        let is_new = cache.at.is_some() && cache.named != named;
        if cache.at.is_none() || is_new || cache.own != *own {
            let (ours, used): (Vec<_>, Vec<_>) =
                named.iter().copied().partition(|to| is_ours(&own, *to));
            if !ours.is_empty() {
                warn!(
                    addresses = ?ours,
                    "an upstream resolver is the agent's own address; ignoring it"
                );
            }
            if let Some(zone) = zone {
                info!(%zone, resolvers = ?used, "forwarding DNS queries of a zone to");
            } else {
                info!(resolvers = ?used, "forwarding external DNS queries to");
            }
            cache.used = used.into();
            cache.named = named;
            cache.own.clone_from(&own);
        }
        cache.at = Some(now);
        Current {
            addresses: Arc::clone(&cache.used),
            is_new,
        }
    }
}

fn is_ours(own: &[SocketAddr], to: SocketAddr) -> bool {
    own.iter().any(|own| {
        own.port() == to.port()
            && (own.ip() == to.ip() || (own.ip().is_unspecified() && is_local(to.ip())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts
            .iter()
            .map(|text| text.parse().expect("address"))
            .collect()
    }

    fn of(name: &str, forwarding: Forwarding, own: &[&str]) -> Vec<SocketAddr> {
        let own = watch::Sender::new(addrs(own));
        let name = Name::from_ascii(name).expect("name");
        let upstreams = Upstreams::new(forwarding, &own.subscribe());
        upstreams.of(&name.into()).addresses.to_vec()
    }

    fn given(upstreams: &[&str], stubs: &[(&str, &str)]) -> Forwarding {
        let stub = |(zone, to): &(&str, &str)| Stub::new(zone, addrs(&[to])).expect("stub");
        Forwarding {
            upstreams: addrs(upstreams),
            stubs: stubs.iter().map(stub).collect(),
            ..Forwarding::default()
        }
    }

    #[test]
    fn the_servers_own_addresses_are_left_out() {
        let named = ["172.17.0.1:53", "127.0.0.1:53", "192.0.2.1:53"];
        let of = |own| of("example.com.", given(&named, &[]), &[own]);
        assert_eq!(of("172.17.0.1:53"), addrs(&named[1..]));
        assert_eq!(of("172.17.0.1:5353"), addrs(&named));
        let all = of("0.0.0.0:53");
        assert!(!all.contains(&addrs(&named)[1]) && all.contains(&addrs(&named)[2]));
        let stub = given(&[], &[("example.com", "127.0.0.1:53")]);
        assert!(super::tests::of("x.example.com.", stub, &["127.0.0.1:53"]).is_empty());
    }

    #[test]
    fn the_longest_stub_of_a_name_is_asked() {
        let forwarding = given(
            &["192.0.2.9:53"],
            &[
                ("corp.example", "192.0.2.1:53"),
                ("lab.Corp.example.", "192.0.2.2:53"),
            ],
        );
        for (name, to) in [
            ("corp.example.", "192.0.2.1:53"),
            ("A.CORP.example.", "192.0.2.1:53"),
            ("a.lab.corp.example.", "192.0.2.2:53"),
            ("xcorp.example.", "192.0.2.9:53"),
            ("example.", "192.0.2.9:53"),
        ] {
            assert_eq!(of(name, forwarding.clone(), &[]), addrs(&[to]), "{name}");
        }
    }
}
