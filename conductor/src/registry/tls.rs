//! Which certificates of a registry are believed: those of the machine's authorities, and of the ones that Docker keeps
//! for it.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// For this registry; `certificates` has a directory for each that has its own authorities. Reads files.
pub(super) fn config(
    registry: &str,
    certificates: Option<&Path>,
) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(all) = certificates {
        roots.add_parsable_certificates(own(&all.join(registry)));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// The authorities in `*.crt` of a directory.
fn own(folder: &Path) -> Vec<CertificateDer<'static>> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.map(|file| file.path());
    let certificates = files.filter(|path| path.extension().is_some_and(|end| end == "crt"));
    certificates
        .filter_map(|path| CertificateDer::pem_file_iter(path).ok())
        .flatten()
        .flatten()
        .collect()
}
