//! Key and certificate of the agent: created once, kept in the state directory.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use store::state_file;

const FILE: &str = "peer.pem";

/// Key and certificate of an agent.
#[derive(Debug)]
pub struct Identity {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: Arc<PrivateKeyDer<'static>>,
    fingerprint: String,
}

/// Errors of loading or creating an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// No key could be generated.
    #[error("key and certificate could not be generated")]
    Make(#[source] rcgen::Error),
}

impl Identity {
    /// Loads the identity in this state directory; creates one if it is absent or unreadable.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, IdentityError> {
        let path = state_dir.join(FILE);
        let failed = |source| IdentityError::File {
            path: path.clone(),
            source,
        };
        match fs::read(&path) {
            Ok(pem) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(state_file::PRIVATE))
                    .map_err(failed)?;
                if let Some(identity) = Self::read(&pem) {
                    return Ok(identity);
                }
                // The host record will have the new fingerprint, so nothing is lost.
                tracing::warn!(path = %path.display(), "invalid peer key or certificate; generating a new one");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let (identity, pem) = Self::make().map_err(IdentityError::Make)?;
        state_file::replace(&path, pem.as_bytes()).map_err(failed)?;
        Ok(identity)
    }

    /// SHA-256 of the certificate, in hex, as in the host record.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn new(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Self {
        Self {
            fingerprint: fingerprint(&certificate),
            certificate,
            key: Arc::new(key),
        }
    }

    fn read(pem: &[u8]) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(pem).ok()?;
        let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
        Some(Self::new(certificate, key))
    }

    fn make() -> Result<(Self, String), rcgen::Error> {
        let key = rcgen::KeyPair::generate()?;
        let certificate =
            rcgen::CertificateParams::new(vec!["dokkaa-peer".to_owned()])?.self_signed(&key)?;
        let pem = format!("{}{}", key.serialize_pem(), certificate.pem());
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok((Self::new(certificate.der().clone(), key), pem))
    }

    /// An identity in memory.
    #[cfg(test)]
    pub(super) fn fresh() -> Self {
        Self::make().expect("a key can be made").0
    }
}

/// SHA-256 of a certificate, in hex.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(certificate) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn it_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(dir.path()).unwrap();
        let again = Identity::load_or_create(dir.path()).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.fingerprint().len(), 64);
        let path = dir.path().join(FILE);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), state_file::PRIVATE);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        assert_eq!(mode(&path), state_file::PRIVATE, "a lax mode is put right");
    }

    #[test]
    fn a_broken_file_gives_a_new_identity() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "garbage").unwrap();
        let new = Identity::load_or_create(dir.path()).unwrap();
        let again = Identity::load_or_create(dir.path()).unwrap();
        assert_eq!(new.fingerprint(), again.fingerprint());
    }
}
