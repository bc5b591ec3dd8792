//! Certificates for tests: one authority per folder, made with openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::needs;
use crate::process::Ran;

/// A certificate authority that lives in a folder.
#[derive(Debug, Clone)]
pub struct Authority {
    folder: PathBuf,
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

const KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
];

impl Authority {
    /// Makes an authority in `folder`.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        needs::check(&[needs::TLS])?;
        std::fs::create_dir_all(folder)?;
        let authority = Self {
            folder: folder.to_owned(),
        };
        let mut command = Command::new("openssl");
        command
            .args(["req", "-x509", "-days", "2", "-subj", "/CN=dokkaa test CA"])
            .args(KEY)
            .arg("-keyout")
            .arg(folder.join("ca.key"))
            .arg("-out")
            .arg(authority.certificate());
        Ran::run(command, None)?.ok()?;
        Ok(authority)
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate for servers and clients, good for these addresses.
    pub fn issue(&self, name: &str, addresses: &[&str]) -> anyhow::Result<Issued> {
        let issued = Issued {
            certificate: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}.key")),
        };
        let mut alternatives = format!("subjectAltName=DNS:{name}");
        for address in addresses {
            alternatives.push_str(",IP:");
            alternatives.push_str(address);
        }
        let mut command = Command::new("openssl");
        command
            .args(["req", "-x509", "-days", "2", "-subj"])
            .arg(format!("/CN={name}"))
            .args(KEY)
            .arg("-CA")
            .arg(self.certificate())
            .arg("-CAkey")
            .arg(self.folder.join("ca.key"))
            .args(["-addext", &alternatives])
            .args(["-addext", "extendedKeyUsage=serverAuth,clientAuth"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&issued.key)
            .arg("-out")
            .arg(&issued.certificate);
        Ran::run(command, None)?.ok()?;
        Ok(issued)
    }
}
