//! A node's identity: a key and a self-signed certificate, in one file that only the owner may
//! read.

use crate::NetError;
use r1d_store::{Disk, PRIVATE_MODE, replace};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;

/// Most bytes of the file that are read: more than any key and certificate that this module writes.
const FILE_MAX_BYTES: u64 = 64 << 10;
/// The name in the certificate. TLS needs one, but it is not checked: peers are known by their
/// certificate's hash.
pub(crate) const SERVER_NAME: &str = "r1d";

/// SHA-256 of a certificate's DER bytes. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        Fingerprint(Sha256::digest(certificate.as_ref()).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Fingerprint {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Fingerprint, NetError> {
        let mut bytes = [0u8; 32];
        let well_formed = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let value = std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok());
            match value.filter(|_| well_formed) {
                Some(value) => *byte = value,
                None => {
                    return Err(NetError::Fingerprint {
                        text: text.to_string(),
                    });
                }
            }
        }
        if !well_formed {
            return Err(NetError::Fingerprint {
                text: text.to_string(),
            });
        }
        Ok(Fingerprint(bytes))
    }
}

/// A key and its certificate.
#[derive(Debug)]
pub struct NodeIdentity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl NodeIdentity {
    /// Reads the identity at `path`; makes one if there is no such file. The file holds the
    /// certificate and the key in PEM, mode 0600.
    pub fn open(path: &Path) -> Result<NodeIdentity, NetError> {
        match File::open(path) {
            Ok(file) => NodeIdentity::read(path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => NodeIdentity::create(path),
            Err(source) => Err(NetError::IdentityFile {
                path: path.to_path_buf(),
                source,
            }),
        }
    }

    /// Makes an identity that is kept nowhere: for what lives no longer than its process.
    pub fn ephemeral() -> Result<NodeIdentity, NetError> {
        let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_string()])
            .map_err(|error| NetError::Tls(error.to_string()))?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .map_err(|error| NetError::Tls(error.to_string()))?;
        Ok(NodeIdentity {
            certificate: made.cert.into(),
            key,
        })
    }

    /// The fingerprint by which peers know this node.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    fn read(path: &Path, file: File) -> Result<NodeIdentity, NetError> {
        let failed = |source| NetError::IdentityFile {
            path: path.to_path_buf(),
            source,
        };
        let bad = |what: String| NetError::Identity {
            path: path.to_path_buf(),
            what,
        };
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let why = format!("others may read the node's key (mode {mode:o}): chmod 600 it");
            return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, why)));
        }
        let mut pem = Vec::new();
        file.take(FILE_MAX_BYTES)
            .read_to_end(&mut pem)
            .map_err(failed)?;
        let certificate = CertificateDer::from_pem_slice(&pem)
            .map_err(|error| bad(format!("no certificate in it ({error})")))?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|error| bad(format!("no key in it ({error})")))?;
        Ok(NodeIdentity { certificate, key })
    }

    fn create(path: &Path) -> Result<NodeIdentity, NetError> {
        let failed = |source| NetError::IdentityFile {
            path: path.to_path_buf(),
            source,
        };
        let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_string()])
            .map_err(|error| NetError::Tls(error.to_string()))?;
        let pem = made.cert.pem() + &made.signing_key.serialize_pem();
        // Mode 0600 from its first byte. When it returns, no crash leads to another identity than
        // the one that peers are told next.
        replace(&Disk, path, PRIVATE_MODE, |file| {
            file.write_all(pem.as_bytes())
        })
        .map_err(failed)?;
        NodeIdentity::read(path, File::open(path).map_err(failed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn an_identity_is_made_once_and_kept_to_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.pem");
        let first = NodeIdentity::open(&path).unwrap().fingerprint();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(NodeIdentity::open(&path).unwrap().fingerprint(), first);
        assert_eq!(first.to_string().parse::<Fingerprint>().unwrap(), first);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let error = NodeIdentity::open(&path).unwrap_err().to_string();
        assert!(
            error.contains("mode 640") && error.contains("chmod 600"),
            "{error}"
        );
    }

    #[test]
    fn a_file_without_a_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.pem");
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .unwrap()
            .write_all(b"nothing")
            .unwrap();
        let error = NodeIdentity::open(&path).unwrap_err().to_string();
        assert!(
            error.contains("node.pem") && error.contains("no certificate"),
            "{error}"
        );
    }

    #[test]
    fn a_fingerprint_is_64_hexadecimal_digits() {
        for bad in [
            "",
            "00",
            &"g".repeat(64),
            &"0".repeat(63),
            &"0".repeat(65),
            &"é".repeat(32),
            &"+1".repeat(32),
        ] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
