//! What is odd about the links of a manifest, against what the cluster offers.
//!
//! Warnings, never errors: a link may be written before its service.

use std::fmt;

use manifests::manifest::{Link, Protocol, Service};
use manifests::{AppName, ContainerId, Manifest};

use crate::directory::{Directory, ServiceId};
use crate::snapshot::{Desired, Snapshot};

/// Something a link asks for that it will not get as things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkWarning {
    /// No manifest names the service, and no instance of it runs.
    NotOffered {
        /// As it was written.
        link: Link,
        /// Similar names.
        hint: Option<Hint>,
    },
    /// The service is UDP.
    Udp(Link),
    /// The service listens on its host's loopback address.
    Loopback(Link),
}

impl LinkWarning {
    /// It can never be as it is meant: a manifest that asks for it is not taken.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Udp(_))
    }
}

/// Names similar to that of a link without a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// This link.
    DidYouMean(String),
    /// This container, which has a name like it and offers nothing.
    NoServices(ContainerId),
}

impl fmt::Display for LinkWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (link, hint) = match self {
            Self::NotOffered { link, hint } => (link, hint),
            Self::Udp(link) => {
                return write!(
                    f,
                    "link `{link}`: the service is UDP, and links carry TCP only; clients of a UDP service look up its DNS SRV record"
                );
            }
            Self::Loopback(link) => {
                return write!(
                    f,
                    "link `{link}`: the service is bound to its host's loopback address, where no container reaches it"
                );
            }
        };
        write!(f, "link `{link}`: no container offers this service")?;
        match hint {
            Some(Hint::DidYouMean(other)) => write!(f, "; did you mean `{other}`?"),
            Some(Hint::NoServices(id)) => write!(f, "; {id} has no `services`"),
            None => Ok(()),
        }
    }
}

/// The warnings of a container's links, in their order. The manifest need not be in the snapshot yet.
pub fn warnings(
    snapshot: &Snapshot,
    directory: &Directory,
    id: &ContainerId,
    manifest: &Manifest,
) -> Vec<LinkWarning> {
    let mut found = Vec::new();
    for link in &manifest.links {
        let service = ServiceId {
            app: link.app.as_ref().unwrap_or(&id.app).clone(),
            service: link.service.clone(),
        };
        let offered = offers(snapshot, id, manifest, &service);
        if !offered.is_empty() && offered.iter().all(|s| s.protocol == Protocol::Udp) {
            found.push(LinkWarning::Udp(link.clone()));
        } else if !offered.is_empty()
            && offered
                .iter()
                .all(|s| s.bind.is_some_and(|at| at.is_loopback()))
        {
            found.push(LinkWarning::Loopback(link.clone()));
        }
        if !offered.is_empty() || directory.endpoints(&service).is_some() {
            continue;
        }
        found.push(LinkWarning::NotOffered {
            link: link.clone(),
            hint: hint(snapshot, directory, &id.app, &service),
        });
    }
    found
}

/// A service in every manifest that names it; this container's manifest is the one given.
fn offers<'a>(
    snapshot: &'a Snapshot,
    id: &ContainerId,
    manifest: &'a Manifest,
    service: &ServiceId,
) -> Vec<&'a Service> {
    let others = snapshot.containers.iter().filter_map(|(other, view)| {
        let known = view
            .manifest
            .as_ref()
            .filter(|_| other != id && other.app == service.app)?;
        match &known.value {
            Desired::Valid { manifest, .. } => manifest.services.get(&service.service),
            Desired::Invalid(_) => None,
        }
    });
    let own = (service.app == id.app).then(|| manifest.services.get(&service.service));
    own.flatten().into_iter().chain(others).collect()
}

/// A like name in the same app, then a container of that name, then that service in another app.
fn hint(
    snapshot: &Snapshot,
    directory: &Directory,
    own: &AppName,
    missed: &ServiceId,
) -> Option<Hint> {
    let meant = |service: &ServiceId| {
        Hint::DidYouMean(if service.app == *own {
            service.service.to_string()
        } else {
            service.to_string()
        })
    };
    let offered = || directory.services().map(|(service, _)| service);
    let alike = offered()
        .filter(|known| known.app == missed.app)
        .filter_map(|known| {
            let far = distance(known.service.as_str(), missed.service.as_str())?;
            Some((far, known))
        })
        .min();
    if let Some((_, known)) = alike {
        return Some(meant(known));
    }
    if let Some(hint) = container_of(snapshot, missed) {
        return Some(match hint {
            Hint::DidYouMean(service) if missed.app != *own => {
                Hint::DidYouMean(format!("{}/{service}", missed.app))
            }
            hint => hint,
        });
    }
    offered()
        .filter(|known| known.service == missed.service)
        .min_by_key(|known| {
            let far = strsim::damerau_levenshtein(known.app.as_str(), missed.app.as_str());
            (known.app != *own, far)
        })
        .map(meant)
}

/// The container that is called as the service was; links name services.
fn container_of(snapshot: &Snapshot, missed: &ServiceId) -> Option<Hint> {
    let name = missed.service.as_str().parse().ok()?;
    let id = ContainerId::new(missed.app.clone(), name);
    let manifest = snapshot.containers.get(&id)?.manifest.as_ref()?;
    match &manifest.value {
        Desired::Valid { manifest, .. } => Some(match manifest.services.keys().next() {
            Some(service) => Hint::DidYouMean(service.to_string()),
            None => Hint::NoServices(id),
        }),
        Desired::Invalid(_) => None,
    }
}

/// How far two names are from each other, if one may be a slip of the other.
fn distance(known: &str, written: &str) -> Option<usize> {
    let far = strsim::damerau_levenshtein(known, written);
    (far <= 2 && far * 2 < known.len()).then_some(far)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::snapshot::Change;

    fn snapshot(manifests: &[(&str, &str)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let changes = manifests
            .iter()
            .zip(1..)
            .map(|((id, text), rev)| Change::Put {
                key: format!("/apps/{id}/manifest"),
                value: text.as_bytes().to_vec(),
                modified: rev,
                created: rev,
            });
        snapshot.apply(changes, manifests.len() as i64);
        snapshot
    }

    /// What is said of a container of the app `shop` with one link.
    fn said(snapshot: &Snapshot, link: &str) -> String {
        let text = format!(r#"{{"image": "a", "links": ["{link}"], "services": {{"own": 1}}}}"#);
        let manifest = manifests::parse::strict(text.as_bytes()).unwrap().manifest;
        let id = "shop/web".parse().unwrap();
        let found = warnings(snapshot, &Directory::new(snapshot), &id, &manifest);
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    #[test]
    fn a_link_that_leads_nowhere_says_what_may_have_been_meant() {
        let snapshot = snapshot(&[
            (
                "shop/redis",
                r#"{"image": "a", "services": {"cache": 6379}}"#,
            ),
            ("shop/job", r#"{"image": "a"}"#),
            (
                "blog/site",
                r#"{"image": "a", "scale": 0, "services": {"pages": 80}}"#,
            ),
        ]);
        for fine in ["cache", "shop/cache", "cache:c", "own", "blog/pages"] {
            assert_eq!(said(&snapshot, fine), "", "{fine}");
        }
        let meant = |link: &str, meant: &str| {
            assert_eq!(
                said(&snapshot, link),
                format!("link `{link}`: no container offers this service{meant}")
            );
        };
        meant("cahce", "; did you mean `cache`?");
        meant("cahce:sessions", "; did you mean `cache`?");
        // Links name services, not containers.
        meant("redis", "; did you mean `cache`?");
        meant("job", "; shop/job has no `services`");
        meant("blog/site", "; did you mean `blog/pages`?");
        meant("pages", "; did you mean `blog/pages`?");
        meant("bolg/pages", "; did you mean `blog/pages`?");
        meant("blog/cache", "; did you mean `cache`?");
        meant("x", "");
    }

    #[test]
    fn a_link_to_what_no_container_reaches_says_so() {
        let snapshot = snapshot(&[
            (
                "dns/a",
                r#"{"image": "a", "services": {"dns": {"port": 53, "protocol": "udp"}, "both": {"port": 54, "protocol": "udp"}}}"#,
            ),
            ("dns/b", r#"{"image": "a", "services": {"both": 54}}"#),
            (
                "db/one",
                r#"{"image": "a", "services": {"sql": {"port": 1, "host_port": 5432, "bind": "127.0.0.1"}}}"#,
            ),
        ]);
        assert_eq!(said(&snapshot, "dns/both"), "");
        assert!(said(&snapshot, "dns/dns").contains("links carry TCP only"));
        assert!(said(&snapshot, "db/sql").contains("loopback"));
    }

    #[test]
    fn what_still_runs_is_offered_whatever_its_manifest_says_now() {
        let mut snapshot = snapshot(&[("shop/redis", r#"{"image": "a", "services": {"new": 1}}"#)]);
        let mut put = |key: &str, value: &str| {
            let revision = snapshot.revision + 1;
            let change = Change::Put {
                key: key.to_owned(),
                value: value.as_bytes().to_vec(),
                modified: revision,
                created: revision,
            };
            snapshot.apply([change], revision);
        };
        put(
            "/claims/shop/redis/slots/0",
            r#"{"host":"h1","instance":"i1","version":1}"#,
        );
        put(
            "/claims/shop/redis/slots/0.state",
            r#"{"instance":"i1","state":"ready","addr":"10.0.0.1","ports":{"old":20000}}"#,
        );
        assert_eq!(said(&snapshot, "old"), "");
        assert_eq!(said(&snapshot, "new"), "");
    }
}
