//! The peers that may connect: certificates are known by their hash, and nothing else about them
//! counts (no authority, name or date).

use crate::NetError;
use crate::identity::{Fingerprint, NodeIdentity};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// The protocol's name in the handshake, which fails with peers of another protocol.
const ALPN: &[u8] = b"r1d/1";

/// The fingerprints that may connect to this node. Clones share the set.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<RwLock<BTreeSet<Fingerprint>>>);

impl Peers {
    /// Lets `peer` connect from now on.
    pub fn allow(&self, peer: Fingerprint) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(peer);
    }

    /// Refuses new connections of `peer` from now on; those that it has stay until they are closed.
    pub fn revoke(&self, peer: &Fingerprint) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(peer);
    }

    /// Whether `peer` may connect.
    pub fn contains(&self, peer: &Fingerprint) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(peer)
    }
}

/// The one provider of cryptography, ring. It also becomes the process's default, because a library
/// that looks for one and finds two compiled in panics.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let install = || {
        let ring = rustls::crypto::ring::default_provider();
        // An error means that there is a default already: ours is passed explicitly below in any
        // case.
        let _ = ring.clone().install_default();
        Arc::new(ring)
    };
    PROVIDER.get_or_init(install).clone()
}

pub(crate) fn server_config(
    identity: &NodeIdentity,
    peers: &Peers,
) -> Result<rustls::ServerConfig, NetError> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(Arc::new(Pinned(Allowed::Any(peers.clone()))))
        .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session skips the certificate: a revoked peer would come back in.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

pub(crate) fn client_config(
    identity: &NodeIdentity,
    peer: Fingerprint,
) -> Result<rustls::ClientConfig, NetError> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(Allowed::Only(peer))))
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key())
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

fn tls(error: Error) -> NetError {
    NetError::Tls(error.to_string())
}

#[derive(Debug)]
enum Allowed {
    Any(Peers),
    Only(Fingerprint),
}

/// Verifies that the certificate's hash is allowed and that the peer holds its key.
#[derive(Debug)]
struct Pinned(Allowed);

impl Pinned {
    fn verify(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let found = Fingerprint::of(certificate);
        let allowed = match &self.0 {
            Allowed::Any(peers) => peers.contains(&found),
            Allowed::Only(peer) => *peer == found,
        };
        if allowed {
            Ok(())
        } else {
            Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &provider().signature_verification_algorithms,
        )
    }
}

/// Refuses TLS 1.2, which QUIC does not have.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("tls 1.2 is not spoken here".to_string()))
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        peer: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(peer).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        peer: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(peer).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
