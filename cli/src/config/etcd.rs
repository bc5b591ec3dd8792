//! etcd's part of the configuration: endpoints, certificates, user.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use store::etcd::EtcdOptions;

use super::{AgentConfig, ConfigError, Reader};
use crate::args::AgentArgs;

/// etcd, and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EtcdConfig {
    /// URLs: `http://…`, `https://…`, or `unix://<path>`.
    pub(crate) endpoints: Vec<String>,
    /// CA certificate, PEM.
    pub(crate) ca: Option<PathBuf>,
    /// Client certificate and its key, PEM.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    /// User and password.
    pub(crate) user: Option<(String, String)>,
}

impl std::fmt::Debug for EtcdConfig {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("ca", &self.ca)
            .field("identity", &self.identity)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish()
    }
}

/// Reads it; plaintext over a network is worth a warning.
pub(super) fn etcd(
    args: &AgentArgs,
    read: Reader<'_>,
    warnings: &mut Vec<String>,
) -> Result<EtcdConfig, ConfigError> {
    let file = |flag: &Option<String>, name: &str, variable: &str| {
        read.text(flag.as_ref(), name, variable)
            .text
            .map(PathBuf::from)
    };
    let ca = file(&args.etcd_ca, "etcd-ca", "DOKKAA_ETCD_CA");
    let cert = file(&args.etcd_cert, "etcd-cert", "DOKKAA_ETCD_CERT");
    let key = file(&args.etcd_key, "etcd-key", "DOKKAA_ETCD_KEY");
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(ConfigError::new("--etcd-cert", "needs --etcd-key too"));
        }
        (None, Some(_)) => {
            return Err(ConfigError::new("--etcd-key", "needs --etcd-cert too"));
        }
    };
    let tls = ca.is_some() || identity.is_some();
    let given = read.text(args.etcd.as_ref(), "etcd", "ETCD_ADDR");
    let endpoints = match &given.text {
        None if tls => vec!["https://127.0.0.1:2379".to_owned()],
        None => vec!["http://127.0.0.1:2379".to_owned()],
        Some(_) => given.read(|text| {
            text.split(',')
                .map(|part| endpoint(part.trim(), tls))
                .collect::<Result<Vec<_>, _>>()
        })?,
    };
    let schemes = |scheme: &str| endpoints.iter().filter(|e| e.starts_with(scheme)).count();
    if (schemes("http://") > 0 && schemes("https://") > 0)
        || (schemes("unix://") > 0 && endpoints.len() > 1)
    {
        return Err(ConfigError::new(
            given.name,
            "http, https and unix endpoints can't be mixed",
        ));
    }
    if let Some(open) = endpoints.iter().find(|e| is_plain_and_remote(e)) {
        warnings.push(format!(
            "etcd is reached in plaintext at {open}: whoever is on that network is root on every host; see docs/three-hosts.md for TLS"
        ));
    }
    Ok(EtcdConfig {
        endpoints,
        ca,
        identity,
        user: user(args, read, warnings)?,
    })
}

/// User and password, from a file or by value.
fn user(
    args: &AgentArgs,
    read: Reader<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<(String, String)>, ConfigError> {
    let value = read.text(args.etcd_user.as_ref(), "etcd-user", "DOKKAA_ETCD_USER");
    let file = read.text(
        args.etcd_user_file.as_ref(),
        "etcd-user-file",
        "DOKKAA_ETCD_USER_FILE",
    );
    if args.etcd_user.is_some() {
        warnings.push(
            "--etcd-user shows the password to every user of this host (`ps`); --etcd-user-file keeps it in a file"
                .to_owned(),
        );
    }
    // The value is a secret: it is not repeated in a message.
    let parse = |text: &str| {
        text.split_once(':')
            .filter(|(name, password)| !name.is_empty() && !password.is_empty())
            .map(|(name, password)| (name.to_owned(), password.to_owned()))
            .ok_or_else(|| "expected name:password".to_owned())
    };
    match (&value.text, &file.text) {
        (None, None) => Ok(None),
        (Some(_), None) => value.read(parse).map(Some),
        (None, Some(_)) => {
            let path = file.text.clone().unwrap_or_default();
            let user = file.read(|path| {
                let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
                parse(text.trim_end_matches(['\n', '\r'])).map_err(|why| format!("{path}: {why}"))
            })?;
            let open = std::fs::metadata(&path).is_ok_and(|file| file.mode() & 0o077 != 0);
            if open {
                warnings.push(format!(
                    "{path} holds a password and is open to other users: chmod 600 {path}"
                ));
            }
            Ok(Some(user))
        }
        (Some(_), Some(_)) => Err(ConfigError::new(
            file.name,
            "etcd's user is given twice, by value too",
        )),
    }
}

/// A URL without a path, from `host:port` or a URL.
fn endpoint(text: &str, tls: bool) -> Result<String, String> {
    let wrong = || {
        format!(
            "`{text}` is not an endpoint; expected host:port, http://…, https://… or unix:///path"
        )
    };
    if let Some(path) = text.strip_prefix("unix://") {
        return if path.starts_with('/') {
            Ok(text.to_owned())
        } else {
            Err(wrong())
        };
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err(wrong()),
        None => (if tls { "https" } else { "http" }, text),
    };
    if scheme == "http" && tls {
        return Err(format!(
            "`{text}` is plaintext, but a certificate is given; expected https://"
        ));
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => {
            (host, port.parse::<u16>().map_err(|_| wrong())?)
        }
        _ => (rest, 2379),
    };
    let legal =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '[' | ']' | ':');
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || port == 0 || bare_v6 || !host.chars().all(legal) {
        return Err(wrong());
    }
    Ok(format!("{scheme}://{host}:{port}"))
}

fn is_plain_and_remote(endpoint: &str) -> bool {
    let Some(rest) = endpoint.strip_prefix("http://") else {
        return false;
    };
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What the store takes. Certificates that can't be read are said now, not at the first connect.
pub(crate) fn etcd_options(config: &AgentConfig) -> Result<EtcdOptions, ConfigError> {
    let etcd = &config.etcd;
    let files = [
        ("--etcd-ca", etcd.ca.as_ref()),
        ("--etcd-cert", etcd.identity.as_ref().map(|(cert, _)| cert)),
        ("--etcd-key", etcd.identity.as_ref().map(|(_, key)| key)),
    ];
    for (flag, path) in files {
        if let Some((path, Err(error))) = path.map(|path| (path, std::fs::read(path))) {
            let what = format!("{}: {error}", path.display());
            return Err(ConfigError::new(flag, what));
        }
    }
    let (cert, key) = etcd.identity.clone().unzip();
    Ok(EtcdOptions {
        ca: etcd.ca.clone(),
        cert,
        key,
        user: etcd.user.clone(),
        lease_ttl: config.lease_ttl,
        ..EtcdOptions::new(etcd.endpoints.iter())
    })
}
