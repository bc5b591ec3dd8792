//! Whether the certificate that this host shows to etcd has ended.
//!
//! With TLS 1.3 etcd refuses it after the handshake, and mostly all that is seen of that is a closed connection: the
//! certificate itself says why.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error, RootCertStore};

/// The certificate, ready to be asked.
#[derive(Debug, Clone)]
pub(super) struct OwnCertificate {
    certificate: CertificateDer<'static>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl OwnCertificate {
    /// The first one in a PEM file; none if there is none that can be read.
    pub(super) fn read(pem: &[u8]) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(pem).ok()?;
        // Who has signed it is not asked here: dates are looked at first.
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).ok()?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        Some(Self {
            certificate,
            verifier: verifier.build().ok()?,
        })
    }

    /// Its end has passed.
    pub(super) fn has_expired(&self) -> bool {
        let verified = self
            .verifier
            .verify_client_cert(&self.certificate, &[], UnixTime::now());
        matches!(
            verified,
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            ))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(year: i32) -> OwnCertificate {
        let mut params = rcgen::CertificateParams::new(["client".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signs").pem();
        OwnCertificate::read(pem.as_bytes()).expect("a certificate")
    }

    #[test]
    fn only_one_whose_end_has_passed_has_expired() {
        assert!(until(2001).has_expired());
        assert!(!until(2999).has_expired());
        assert!(OwnCertificate::read(b"no certificate").is_none());
    }
}
