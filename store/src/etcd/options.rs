//! Where etcd is and how to reach it: parsed and read from disk once, at the edge.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Certificate, Identity, TlsOptions};
use tokio::runtime::Handle;
use tonic::transport::Endpoint;

use super::thread::Spawner;
use crate::pace;

use super::own_certificate::OwnCertificate;

/// Where the distributions keep the roots that the machine trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How to reach etcd.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// `host:port`, `http://…`, `https://…` or `unix:/path/to/socket`; `host:port` is https if there is a `ca` or `cert`.
    pub endpoints: Vec<String>,
    /// Roots for https endpoints; none is the machine's.
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// Time to live of the host's lease; a dead connection is noticed in about half of it (`pace`).
    pub lease_ttl: Duration,
    /// Deadline of each call.
    pub call_timeout: Duration,
    /// Deadline of each connect.
    pub connect_timeout: Duration,
    /// HTTP/2 pings find out that a connection is dead. Who calls at a steady pace finds it out by the call.
    pub pings: bool,
    /// The runtime on which connections and watches live; none is the one that uses them first.
    pub runs_on: Option<Handle>,
}

/// Why the options are no good.
#[derive(Debug, thiserror::Error)]
pub enum EtcdOptionsError {
    /// No endpoint.
    #[error("no etcd endpoint is given")]
    NoEndpoint,
    /// Not an endpoint.
    #[error(
        "`{0}` is not an etcd endpoint; expected host:port, http://host:port, https://host:port or unix:/path"
    )]
    Endpoint(String),
    /// One without the other.
    #[error("an etcd client certificate and its key go together; only one of them is given")]
    HalfIdentity,
    /// A file can't be read.
    #[error("{0} can't be read")]
    File(PathBuf, #[source] std::io::Error),
    /// TLS can't be set up from what is given.
    #[error("TLS for etcd can't be set up from the given files")]
    Tls(#[source] tonic::transport::Error),
}

impl EtcdOptions {
    /// These endpoints, with the usual deadlines, without TLS and user.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            ca: None,
            cert: None,
            key: None,
            user: None,
            lease_ttl: Duration::from_secs(6),
            call_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            pings: true,
            runs_on: None,
        }
    }

    /// Endpoints that carry secrets in the clear over a network.
    pub fn plaintext_endpoints(&self) -> Vec<&str> {
        let tls = self.ca.is_some() || self.cert.is_some();
        let plaintext = |endpoint: &&str| {
            let rest = match endpoint.split_once("://") {
                Some(("http", rest)) => rest,
                Some(_) => return false,
                None if endpoint.starts_with("unix:") || tls => return false,
                None => endpoint,
            };
            let host = rest.split('/').next().unwrap_or_default();
            let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
            host != "localhost" && !loopback
        };
        self.endpoints
            .iter()
            .map(String::as_str)
            .filter(plaintext)
            .collect()
    }

    /// Each endpoint ready to be connected to, with its name for the log.
    pub(super) fn targets(&self) -> Result<Vec<(String, Endpoint)>, EtcdOptionsError> {
        if self.endpoints.is_empty() {
            return Err(EtcdOptionsError::NoEndpoint);
        }
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some(Identity::from_pem(read(cert)?, read(key)?)),
            (None, None) => None,
            _ => return Err(EtcdOptionsError::HalfIdentity),
        };
        let tls = self.ca.is_some() || identity.is_some();
        self.endpoints
            .iter()
            .map(|name| {
                let refused = || EtcdOptionsError::Endpoint(name.clone());
                let url = if name.starts_with("unix:") || name.contains("://") {
                    name.clone()
                } else if tls {
                    format!("https://{name}")
                } else {
                    format!("http://{name}")
                };
                let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| refused())?;
                let endpoint = match url.split_once(':').map(|(scheme, _)| scheme) {
                    Some("unix") if url.len() > "unix:".len() => endpoint,
                    Some("http") if endpoint.uri().port().is_some() => endpoint,
                    Some("https") if endpoint.uri().port().is_some() => endpoint
                        .tls_config(self.tls(identity.clone())?)
                        .map_err(EtcdOptionsError::Tls)?,
                    _ => return Err(refused()),
                };
                let mut endpoint = endpoint
                    .connect_timeout(self.connect_timeout)
                    .tcp_nodelay(true);
                if self.pings {
                    endpoint = endpoint
                        .http2_keep_alive_interval(pace::every(self.lease_ttl))
                        .keep_alive_timeout(pace::deadline(self.lease_ttl));
                }
                if let Some(runtime) = &self.runs_on {
                    endpoint = endpoint.executor(Spawner(runtime.clone()));
                }
                Ok((name.clone(), endpoint))
            })
            .collect()
    }

    /// The certificate that is shown to etcd.
    pub(super) fn own_certificate(&self) -> Result<Option<Arc<OwnCertificate>>, EtcdOptionsError> {
        let pem = self.cert.as_deref().map(read).transpose()?;
        Ok(pem.and_then(|pem| OwnCertificate::read(&pem)).map(Arc::new))
    }

    fn tls(&self, identity: Option<Identity>) -> Result<TlsOptions, EtcdOptionsError> {
        let roots = self.ca.as_deref().unwrap_or(Path::new(SYSTEM_ROOTS));
        let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(roots)?));
        Ok(match identity {
            Some(identity) => tls.identity(identity),
            None => tls,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, EtcdOptionsError> {
    std::fs::read(path).map_err(|source| EtcdOptionsError::File(path.to_owned(), source))
}
