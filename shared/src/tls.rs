//! Whom our connections trust, without a certificate being read that nobody needs: parsing the machine's
//! 145 takes longer than all the rest of a function's start.
//!
//! AWS: the roots that AWS signs its services under. Providers and Clerk: Mozilla's roots, which are
//! compiled in as what TLS needs of them. With `SSL_CERT_FILE`, as OpenSSL reads it: the certificates of
//! that file, and no others.

use std::{fs, sync::Arc};

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::config;

/// Amazon Root CA 1 to 4 and Starfield Services G2 (<https://www.amazontrust.com/repository/>), until
/// 2037 and later; a test holds them against Mozilla's.
const AMAZON: &[u8] = include_bytes!("tls/amazon-roots.pem");

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// `SSL_CERT_FILE`.
    #[error("SSL_CERT_FILE names no file of PEM certificates")]
    File,
    /// The crypto library offers no TLS version.
    #[error("TLS cannot be set up")]
    Tls,
}

/// PEM certificates of `SSL_CERT_FILE`, and what they are as roots.
fn of_file() -> Result<Option<(Vec<u8>, RootCertStore)>, TrustError> {
    let Some(path) = config::certificate_file() else {
        return Ok(None);
    };
    let pem = fs::read(path).map_err(|_| TrustError::File)?;
    let roots = parse(&pem).filter(|roots| !roots.is_empty());
    Ok(Some((pem, roots.ok_or(TrustError::File)?)))
}

fn parse(pem: &[u8]) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.ok()?).ok()?;
    }
    Some(roots)
}

/// For AWS.
pub(crate) fn aws() -> Result<TlsContext, TrustError> {
    let pem = of_file()?.map_or_else(|| AMAZON.to_vec(), |(pem, _)| pem);
    let trusted = TrustStore::empty().with_pem_certificate(pem);
    let context = TlsContext::builder().with_trust_store(trusted).build();
    context.map_err(|_| TrustError::Tls)
}

/// For everybody else.
pub(crate) fn web() -> Result<ClientConfig, TrustError> {
    let mozilla = || RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let roots = of_file()?.map_or_else(mozilla, |(_, roots)| roots);
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| TrustError::Tls)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mozilla_trusts_every_root_that_is_trusted_for_aws() {
        let amazon = parse(AMAZON).unwrap();
        assert_eq!(amazon.len(), 5);
        for root in &amazon.roots {
            assert!(webpki_roots::TLS_SERVER_ROOTS.contains(root), "{root:?}");
        }
    }
}
