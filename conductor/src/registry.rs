//! A client of image registries, as far as two questions go: which digest a tag has, and which tags there are.
//!
//! By Docker's registry protocol (HTTP API v2, OCI distribution): `HEAD` of a manifest, which no registry counts as a
//! pull, and the list of tags. A registry is reached by HTTPS with the machine's certificate authorities and those
//! that Docker keeps for it (`/etc/docker/certs.d`); without it only where the engine itself calls it insecure.
//! Answers have limits in size and time.

mod auth;
mod http;
#[cfg(test)]
mod tests;
mod tls;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use engine::Credentials;
use hyper::header::{ACCEPT, LINK, RETRY_AFTER};
use hyper::{Method, StatusCode, Uri};
use manifests::image::Reference;
use manifests::image_policy::{TagPattern, with_tag};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use auth::Authorization;
use http::{Answer, Client};

/// All that one question takes.
const WHOLE: Duration = Duration::from_secs(60);
/// What a tag may mean: an index or a manifest, OCI's or Docker's.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";
/// The header with the digest of what was asked for.
const DIGEST: &str = "docker-content-digest";
/// Tags of one answer, and answers that are read of one list.
const TAGS: usize = 1_000;
const MOST_PAGES: usize = 50;
/// Where Docker Hub's registry is.
const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// Why a registry gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// It can't be reached.
    #[error("{0} is not reached: {1}")]
    Unreachable(String, String),
    /// It takes too long.
    #[error("{0} does not answer within a minute")]
    Late(String),
    /// It wants to be left alone.
    #[error("{registry} has had too many requests, or too much to do ({status})")]
    Busy {
        /// Which.
        registry: String,
        /// What it said.
        status: StatusCode,
        /// For so long.
        retry_after: Option<Duration>,
    },
    /// It refuses these credentials, or there are none.
    #[error("{0} refuses this host: {1}; `docker login` on it helps if it has to be logged in")]
    Refused(String, String),
    /// It has no such image.
    #[error("{0} has no {1}")]
    NoImage(String, String),
    /// Its answer can't be understood.
    #[error("the answer of {0} can't be understood: {1}")]
    Odd(String, String),
}

/// How registries are reached, as the engine is configured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reach {
    /// Registries that need no HTTPS: names, and networks as `10.0.0.0/8`.
    pub(crate) insecure: Vec<String>,
    /// Certificates of registries: a directory with one for each, or none.
    pub(crate) certificates: Option<PathBuf>,
}

/// One registry, with what it takes to ask it about one repository.
pub(crate) struct Registry {
    client: Client,
    /// As people call it.
    name: String,
    /// In it.
    path: String,
    authorization: Authorization,
}

impl Registry {
    /// That of an image.
    pub(crate) async fn of(
        image: &Reference,
        credentials: Option<Credentials>,
        reach: &Reach,
    ) -> Result<Self, RegistryError> {
        let name = image.registry().to_owned();
        let host = if name == HUB { HUB_HOST } else { &name };
        let repository = image.repository();
        let path = repository.split_once('/').map_or("", |(_, path)| path);
        let may_be_plain = is_insecure(&name, &reach.insecure).await;
        let client = Client::of(&name, host, may_be_plain, reach.certificates.clone());
        Ok(Self {
            client: client.await?,
            path: path.to_owned(),
            authorization: Authorization::new(credentials),
            name,
        })
    }

    /// The newest image of these tags, or this one's own tag, and its digest.
    pub(crate) async fn newest(
        mut self,
        image: &Reference,
        tags: Option<&TagPattern>,
    ) -> Result<(Reference, String), RegistryError> {
        let name = self.name.clone();
        let ask = async {
            let mut image = image.clone();
            if let Some(pattern) = tags {
                let all = self.tags().await?;
                let all = all.iter().map(String::as_str);
                let newest = pattern.newest(Some(image.version()), all);
                if let Some(tag) = newest.map(str::to_owned) {
                    image = with_tag(&image, &tag);
                }
            }
            let digest = self.digest(image.version()).await?;
            Ok((image, digest))
        };
        let asked = timeout(WHOLE, ask).await;
        asked.map_err(|_| RegistryError::Late(name))?
    }

    /// The digest of a tag.
    async fn digest(&mut self, tag: &str) -> Result<String, RegistryError> {
        let path = format!("/v2/{}/manifests/{tag}", self.path);
        let head = self.get(Method::HEAD, &path).await?;
        let said = head.headers.get(DIGEST).and_then(|d| d.to_str().ok());
        let digest = if let Some(digest) = said {
            digest.to_owned()
        } else {
            let whole = self.get(Method::GET, &path).await?;
            sha256(&whole.body)
        };
        match format!("a@{digest}").parse::<Reference>() {
            Ok(_) => Ok(digest),
            Err(error) => Err(self.odd(error.to_string())),
        }
    }

    /// All tags.
    async fn tags(&mut self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut all = Vec::new();
        let mut path = format!("/v2/{}/tags/list?n={TAGS}", self.path);
        for _ in 0..MOST_PAGES {
            let answer = self.get(Method::GET, &path).await?;
            let page: Page =
                serde_json::from_slice(&answer.body).map_err(|e| self.odd(e.to_string()))?;
            all.extend(page.tags.unwrap_or_default());
            let link = answer.headers.get(LINK).and_then(|l| l.to_str().ok());
            match link.and_then(next_page) {
                Some(next) => path = next,
                None => return Ok(all),
            }
        }
        Err(self.odd(format!("more than {} tags", TAGS * MOST_PAGES)))
    }

    /// An answer, with a login if one is asked for.
    async fn get(&mut self, method: Method, path: &str) -> Result<Answer, RegistryError> {
        let mut answer = self.send(&method, path).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            let scope = format!("repository:{}:pull", self.path);
            self.authorization
                .follow(&self.client, &self.name, &answer, &scope)
                .await?;
            answer = self.send(&method, path).await?;
        }
        let name = self.name.clone();
        match answer.status {
            StatusCode::OK => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(RegistryError::Refused(name, answer.status.to_string()))
            }
            StatusCode::NOT_FOUND => Err(RegistryError::NoImage(name, self.path.clone())),
            status => Err(busy(&name, &answer)
                .unwrap_or_else(|| RegistryError::Odd(name, status.to_string()))),
        }
    }

    async fn send(&self, method: &Method, path: &str) -> Result<Answer, RegistryError> {
        let mut headers = vec![(ACCEPT, MANIFESTS.to_owned())];
        headers.extend(self.authorization.header());
        self.client.send(method, path, headers, None).await
    }

    fn odd(&self, what: String) -> RegistryError {
        RegistryError::Odd(self.name.clone(), what)
    }
}

/// The registry wants to be left alone.
fn busy(registry: &str, answer: &Answer) -> Option<RegistryError> {
    let is_busy = matches!(
        answer.status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    let after = answer
        .headers
        .get(RETRY_AFTER)
        .and_then(|v| v.to_str().ok());
    is_busy.then(|| RegistryError::Busy {
        registry: registry.to_owned(),
        status: answer.status,
        retry_after: after
            .and_then(|s| s.trim().parse().ok())
            .map(Duration::from_secs),
    })
}

/// The path of the next page, of `</v2/a/tags/list?n=10&last=x>; rel="next"`; of the same registry.
fn next_page(link: &str) -> Option<String> {
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    let is_next = rest.contains("rel=\"next\"") || rest.contains("rel=next");
    let uri: Uri = target.parse().ok().filter(|_| is_next)?;
    uri.path_and_query().map(ToString::to_string)
}

fn sha256(bytes: &[u8]) -> String {
    let mut digest = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}

/// The engine asks this registry without HTTPS: it is named, or all of its addresses are.
async fn is_insecure(registry: &str, insecure: &[String]) -> bool {
    if insecure.iter().any(|name| name == registry) {
        return true;
    }
    let with_port = if registry
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    {
        registry.to_owned()
    } else {
        format!("{registry}:443")
    };
    let Ok(found) = tokio::net::lookup_host(with_port).await else {
        return false;
    };
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    let is_in = |ip: &IpAddr| insecure.iter().any(|network| contains(network, *ip));
    !addresses.is_empty() && addresses.iter().all(is_in)
}

/// Whether a network such as `10.0.0.0/8` has this address.
fn contains(network: &str, ip: IpAddr) -> bool {
    let Some((base, bits)) = network.split_once('/') else {
        return false;
    };
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let (base, ip, width) = match (base, ip.to_canonical()) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => {
            (u128::from(base.to_bits()), u128::from(ip.to_bits()), 32)
        }
        (IpAddr::V6(base), IpAddr::V6(ip)) => (base.to_bits(), ip.to_bits(), 128),
        _ => return false,
    };
    let host_bits = width - bits.min(width);
    base.checked_shr(host_bits).unwrap_or(0) == ip.checked_shr(host_bits).unwrap_or(0)
}
