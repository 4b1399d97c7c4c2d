//! Signatures of a component: Ed25519 (RFC 8032), in `FILE.wasm.sig` beside it.
//!
//! ```text
//! ed25519 <public key, 64 hex digits> <signature, 128 hex digits>       a line per signer
//! ```
//! The signed message is `"r1d plugin v1\0"` and the component's SHA-256. A key file is
//! `r1d-signing-key <seed, 64 hex digits>`, which only its owner may read.

use crate::cache::hex;
use crate::component::FILE_BYTES_MAX;
use r1d_proto::remedy::is_the_machines;
use r1d_proto::user_file;
use r1d_store::{Disk, FILE_MODE, PRIVATE_MODE, create_file, replace};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const DOMAIN: &[u8] = b"r1d plugin v1\0";
const KEY_WORD: &str = "r1d-signing-key";
const ALGORITHM: &str = "ed25519";
/// Largest key file or signature file; both are a few lines.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Parses 64 hex digits.
    pub fn parse(text: &str) -> Option<PublicKey> {
        unhex(text).map(PublicKey)
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Makes a new key in a new file (0600). An existing file is an error.
pub fn generate(path: &Path) -> std::io::Result<PublicKey> {
    let mut seed = [0u8; 32];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let text = format!("{KEY_WORD} {}\n", hex(&seed));
    create_file(&Disk, path, PRIVATE_MODE, |file| {
        file.write_all(text.as_bytes())
    })?;
    Ok(public(&pair(&seed)?))
}

/// Adds this key's signature to `FILE.sig`, in place of an older one of the same key. Returns that
/// file's path and the public key.
pub fn sign(component: &Path, key: &Path) -> std::io::Result<(PathBuf, PublicKey)> {
    let pair = read_key(key)?;
    let message = message_of(&Sha256::digest(user_file::read(component, FILE_BYTES_MAX)?).into());
    let (public, signature) = (public(&pair), pair.sign(&message));
    let path = beside(component);
    let kept: Vec<String> = read(component)?
        .lines()
        .filter(|line| !line.contains(&public.to_string()))
        .map(String::from)
        .collect();
    let line = format!("{ALGORITHM} {public} {}", hex(signature.as_ref()));
    let text: String = kept
        .into_iter()
        .chain([line])
        .map(|line| line + "\n")
        .collect();
    replace(&Disk, &path, FILE_MODE, |file| {
        file.write_all(text.as_bytes())
    })?;
    Ok((path, public))
}

/// The keys with a valid signature of this component beside its file. If the signature file cannot
/// be read, there are none; an error if the machine is to blame for that.
pub fn signers(component: &Path, sha256: &[u8; 32]) -> std::io::Result<Vec<PublicKey>> {
    let lines = match read(component) {
        Err(error) if is_the_machines(&error) => return Err(error),
        read => read.unwrap_or_default(),
    };
    let message = message_of(sha256);
    let signer = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (algorithm, key, signature) = (
            words.next()?,
            PublicKey::parse(words.next()?)?,
            unhex::<64>(words.next()?)?,
        );
        let right = UnparsedPublicKey::new(&ED25519, key.0)
            .verify(&message, &signature)
            .is_ok();
        (algorithm == ALGORITHM && right).then_some(key)
    };
    Ok(lines.lines().filter_map(signer).collect())
}

/// What the name of a component's signature file has behind the component's.
pub(crate) const ENDING: &str = ".sig";

/// Path of the signature file of a component: `FILE.wasm.sig`.
pub fn beside(component: &Path) -> PathBuf {
    let mut name = component.as_os_str().to_owned();
    name.push(ENDING);
    name.into()
}

fn message_of(sha256: &[u8; 32]) -> Vec<u8> {
    [DOMAIN, sha256].concat()
}

fn pair(seed: &[u8; 32]) -> std::io::Result<Ed25519KeyPair> {
    Ed25519KeyPair::from_seed_unchecked(seed)
        .map_err(|e| Error::new(ErrorKind::InvalidData, e.to_string()))
}

fn public(pair: &Ed25519KeyPair) -> PublicKey {
    let mut key = [0; 32];
    key.iter_mut()
        .zip(pair.public_key().as_ref())
        .for_each(|(to, from)| *to = *from);
    PublicKey(key)
}

fn read_key(path: &Path) -> std::io::Result<Ed25519KeyPair> {
    let wrong = |why: &str| Error::new(ErrorKind::InvalidData, why.to_owned());
    if std::fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        return Err(wrong(
            "others may read this key: chmod 600, or make a new one",
        ));
    }
    let text = user_file::read_text(path, SMALL_BYTES_MAX)?;
    let seed = text
        .trim()
        .strip_prefix(KEY_WORD)
        .and_then(|rest| unhex(rest.trim()));
    pair(&seed.ok_or_else(|| wrong("no key of `plugin keygen`"))?)
}

/// The text of a component's signature file; empty if there is none.
pub(crate) fn read(component: &Path) -> std::io::Result<String> {
    match user_file::read_text(&beside(component), SMALL_BYTES_MAX) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_component_and_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, wasm) = (
            dir.path().join("a.key"),
            dir.path().join("b.key"),
            dir.path().join("x.wasm"),
        );
        std::fs::write(&wasm, b"component").unwrap();
        let sha256: [u8; 32] = Sha256::digest(b"component").into();
        let (key_a, key_b) = (generate(&a).unwrap(), generate(&b).unwrap());
        assert_eq!(signers(&wasm, &sha256).unwrap(), []);
        assert_eq!(
            sign(&wasm, &a).unwrap(),
            (dir.path().join("x.wasm.sig"), key_a)
        );
        sign(&wasm, &a).unwrap();
        assert_eq!(
            signers(&wasm, &sha256).unwrap(),
            [key_a],
            "signed twice, listed once"
        );
        sign(&wasm, &b).unwrap();
        assert_eq!(signers(&wasm, &sha256).unwrap(), [key_a, key_b]);
        assert_eq!(
            signers(&wasm, &Sha256::digest(b"other").into()).unwrap(),
            []
        );
        let text = std::fs::read_to_string(beside(&wasm)).unwrap();
        // Every hex digit of the first signature, changed, unmakes it.
        for at in (8 + 65)..(8 + 65 + 128) {
            let mut bad = text.clone().into_bytes();
            bad[at] = if bad[at] == b'0' { b'1' } else { b'0' };
            std::fs::write(beside(&wasm), bad).unwrap();
            assert_eq!(signers(&wasm, &sha256).unwrap(), [key_b], "digit {at}");
        }
    }

    #[test]
    fn a_key_is_its_owners_and_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        generate(&key).unwrap();
        assert_eq!(
            std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(generate(&key).is_err());
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(dir.path().join("x.wasm"), b"x").unwrap();
        assert!(
            sign(&dir.path().join("x.wasm"), &key)
                .unwrap_err()
                .to_string()
                .contains("chmod 600")
        );
    }
}
