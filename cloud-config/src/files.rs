//! Parts that both kinds of user data share.

use serde::Serialize;
use serde_saphyr::LitString;

use crate::options::{Binary, ConfigError, Options};

/// Directory of the certificates.
const TLS_DIR: &str = "/etc/dokkaa";

/// One entry of `write_files`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct WriteFile {
    path: String,
    permissions: &'static str,
    content: LitString,
}

impl WriteFile {
    pub(crate) fn new(path: &str, permissions: &'static str, content: &str) -> Self {
        Self {
            path: path.to_owned(),
            permissions,
            content: LitString(content.to_owned()),
        }
    }
}

/// Paths of the certificates on the host.
pub(crate) struct TlsPaths {
    pub(crate) ca: String,
    pub(crate) cert: String,
    pub(crate) key: String,
}

pub(crate) fn tls_paths() -> TlsPaths {
    let path = |name: &str| format!("{TLS_DIR}/etcd-{name}.pem");
    TlsPaths {
        ca: path("ca"),
        cert: path("cert"),
        key: path("key"),
    }
}

/// File with the agent's etcd user.
pub(crate) const ETCD_USER: &str = "/etc/dokkaa/etcd-user";

/// Certificates and the etcd user, if any. Key and password are readable by root only.
pub(crate) fn secret_files(options: &Options) -> Vec<WriteFile> {
    let mut files = Vec::new();
    if let Some(tls) = &options.tls {
        let paths = tls_paths();
        files.extend([
            WriteFile::new(&paths.ca, "0644", &tls.ca),
            WriteFile::new(&paths.cert, "0644", &tls.cert),
            WriteFile::new(&paths.key, "0600", &tls.key),
        ]);
    }
    if let Some(user) = &options.etcd_user {
        files.push(WriteFile::new(ETCD_USER, "0600", &format!("{user}\n")));
    }
    files
}

/// Script that downloads `dokkaa` to `program` unless it exists.
pub(crate) fn fetch_script(binary: &Binary, program: &str) -> String {
    let Binary { url, sha256 } = binary;
    // `Options::check` admits no quotes in either.
    format!(
        "#!/bin/sh\n\
         # Downloads dokkaa once; a file with a wrong checksum is not kept.\n\
         set -e\n\
         [ ! -x {program} ] || exit 0\n\
         curl -fsSL --retry 5 -o {program}.new '{url}'\n\
         echo '{sha256}  {program}.new' | sha256sum -c --quiet\n\
         chmod 755 {program}.new\n\
         mv {program}.new {program}\n"
    )
}

/// The user data as YAML.
pub(crate) fn user_data(data: &impl Serialize) -> Result<String, ConfigError> {
    let yaml = serde_saphyr::to_string(data).map_err(|e| ConfigError::Yaml(e.to_string()))?;
    Ok(format!("{HEADER}{yaml}"))
}

const HEADER: &str = "\
#cloud-config
# Sets up one host of a dokkaa cluster; the same for every host.
# Open these ports between the hosts: 4003 and 20000-29999, and 2380 where hosts
# run etcd members. Keep them closed to everybody else: access to etcd is root
# on every host. The API (4001) listens on 127.0.0.1 only.
";
