//! etcd's part of the configuration: endpoints, certificates, user.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use store::etcd::EtcdOptions;

use super::error::ConfigError;
use crate::args::EtcdArgs;
use crate::args::addresses::{Endpoint, Scheme};
use crate::args::settings::{EtcdUser, etcd_user};

/// etcd, and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EtcdConfig {
    /// URLs: `http://…`, `https://…`, or `unix://<path>`.
    pub(crate) endpoints: Vec<String>,
    /// CA certificate, PEM.
    pub(crate) ca: Option<PathBuf>,
    /// Client certificate and its key, PEM.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) user: Option<EtcdUser>,
}

impl EtcdConfig {
    /// Plaintext over a network and a password in the open are worth a warning.
    pub(super) fn new(args: EtcdArgs, warnings: &mut Vec<String>) -> Result<Self, ConfigError> {
        let user = user(&args, warnings)?;
        let identity = args.etcd_cert.zip(args.etcd_key);
        let tls = args.etcd_ca.is_some() || identity.is_some();
        let endpoints = args
            .endpoints
            .0
            .iter()
            .map(|endpoint| url(endpoint, tls))
            .collect::<Result<Vec<_>, _>>()?;
        let schemes = |scheme: &str| endpoints.iter().filter(|e| e.starts_with(scheme)).count();
        if (schemes("http://") > 0 && schemes("https://") > 0)
            || (schemes("unix://") > 0 && endpoints.len() > 1)
        {
            return Err(ConfigError::new(
                "--etcd",
                "http, https and unix endpoints can't be mixed",
            ));
        }
        if let Some(open) = endpoints.iter().find(|e| is_plain_and_remote(e)) {
            warnings.push(format!(
                "etcd is reached in plaintext at {open}: whoever is on that network is root on every host; see docs/three-hosts.md for TLS"
            ));
        }
        Ok(Self {
            endpoints,
            ca: args.etcd_ca,
            identity,
            user,
        })
    }

    /// Options of the store. A certificate that can't be read is an error now, not at the first connect.
    pub(crate) fn options(&self, lease_ttl: Duration) -> Result<EtcdOptions, ConfigError> {
        let files = [
            ("--etcd-ca", self.ca.as_ref()),
            ("--etcd-cert", self.identity.as_ref().map(|(cert, _)| cert)),
            ("--etcd-key", self.identity.as_ref().map(|(_, key)| key)),
        ];
        for (flag, path) in files {
            if let Some((path, Err(error))) = path.map(|path| (path, std::fs::read(path))) {
                return Err(ConfigError::new(
                    flag,
                    format!("{}: {error}", path.display()),
                ));
            }
        }
        let (cert, key) = self.identity.clone().unzip();
        Ok(EtcdOptions {
            ca: self.ca.clone(),
            cert,
            key,
            user: self.user.clone().map(|user| (user.name, user.password)),
            lease_ttl,
            ..EtcdOptions::new(self.endpoints.iter())
        })
    }
}

fn url(endpoint: &Endpoint, tls: bool) -> Result<String, ConfigError> {
    let Endpoint { scheme, at } = endpoint;
    Ok(match scheme {
        Scheme::Unix => format!("unix://{at}"),
        Scheme::Http if tls => {
            return Err(ConfigError::new(
                "--etcd",
                format!(
                    "`http://{at}` is plaintext, but a certificate is given; expected https://"
                ),
            ));
        }
        Scheme::Any if !tls => format!("http://{at}"),
        Scheme::Http => format!("http://{at}"),
        Scheme::Any | Scheme::Https => format!("https://{at}"),
    })
}

/// User and password, from a file or by value.
fn user(args: &EtcdArgs, warnings: &mut Vec<String>) -> Result<Option<EtcdUser>, ConfigError> {
    if args.is_user_visible {
        warnings.push(
            "--etcd-user shows the password to every user of this host (`ps`); --etcd-user-file keeps it in a file"
                .to_owned(),
        );
    }
    let Some(path) = &args.etcd_user_file else {
        return Ok(args.etcd_user.clone());
    };
    let user = read_user(path).map_err(|why| {
        ConfigError::new("--etcd-user-file", format!("{}: {why}", path.display()))
    })?;
    if std::fs::metadata(path).is_ok_and(|file| file.mode() & 0o077 != 0) {
        let path = path.display();
        warnings.push(format!(
            "{path} holds a password and is open to other users: chmod 600 {path}"
        ));
    }
    Ok(Some(user))
}

fn read_user(path: &Path) -> Result<EtcdUser, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    etcd_user(text.trim_end_matches(['\n', '\r']))
}

fn is_plain_and_remote(endpoint: &str) -> bool {
    let Some(rest) = endpoint.strip_prefix("http://") else {
        return false;
    };
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
