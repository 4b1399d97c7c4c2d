//! The file of a token set: what was written is read, and damage is noticed.

use crate::made::KEY;
use proptest::prelude::*;
use r1d_ingest::file::Writer;
use r1d_ingest::{Key, SetError, TokenSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

fn written(records: &[Vec<u8>], facts: &str) -> File {
    let file = tempfile::tempfile().unwrap();
    let mut writer = Writer::new(file.try_clone().unwrap()).unwrap();
    for record in records {
        writer.add(record).unwrap();
    }
    writer.finish(&KEY, &facts).unwrap();
    file
}

fn bytes(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Everything that can be read of a set.
fn all(file: File) -> Result<(Vec<Vec<u8>>, String), SetError> {
    let set = TokenSet::open(file, &KEY)?;
    let records = (0..set.len()).map(|record| set.record(record));
    Ok((records.collect::<Result<_, _>>()?, set.facts()?))
}

fn records() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let record = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        // Some reach over the border of a block, which is at 128 KiB.
        (any::<u8>(), 60_000usize..140_000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    prop::collection::vec(record, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read(records in records(), facts in "[a-z]{0,20}") {
        prop_assert_eq!(all(written(&records, &facts)).unwrap(), (records, facts));
    }

    /// One byte that is another, anywhere, or an end that is missing or too long: reading fails, or
    /// gives what was written. It never panics, and never gives anything else.
    #[test]
    fn damage_is_noticed(records in records(), at in any::<prop::sample::Index>(),
        flipped in 1u8..=255, cut in any::<prop::sample::Index>(), longer in 1usize..300) {
        let file = written(&records, "facts");
        let whole = bytes(&file);
        let mut other = whole.clone();
        let place = at.index(whole.len());
        other[place] ^= flipped;
        prop_assert!(matches!(all(with(&other)), Err(SetError::Damaged(_))), "byte {}", place);
        let cut = cut.index(whole.len());
        let found = all(with(&whole[..cut]));
        prop_assert!(matches!(found, Err(SetError::Damaged(_))), "cut at {}", cut);
        let longer = [&whole[..], &vec![0; longer]].concat();
        prop_assert!(matches!(all(with(&longer)), Err(SetError::Damaged(_))));
    }

    /// Bytes that are no set, behind a header that begins as one or not.
    #[test]
    fn anything_else_is_no_set(bytes in prop::collection::vec(any::<u8>(), 0..600),
        is_like in any::<bool>()) {
        let mut bytes = bytes;
        if is_like && bytes.len() > 12 {
            bytes[..12].copy_from_slice(b"R1DTOKEN\x01\0\0\0");
        }
        prop_assert!(matches!(all(with(&bytes)), Err(SetError::Damaged(_))));
    }
}

/// A set of another key is another set, whatever its file is called.
#[test]
fn a_file_that_was_swapped_for_another_set_is_noticed() {
    let file = written(&[b"a".to_vec()], "");
    let error = TokenSet::open(file, &Key::from_bytes([8; 32])).unwrap_err();
    assert!(
        matches!(error, SetError::Damaged("it is another one")),
        "{error}"
    );
}

/// A file that is cut while it is open gives an error, not a signal that ends the daemon.
#[test]
fn a_set_that_is_truncated_while_it_is_open_gives_an_error() {
    let records: Vec<Vec<u8>> = (0..100).map(|byte| vec![byte; 9000]).collect();
    let file = written(&records, "");
    let set = TokenSet::open(file.try_clone().unwrap(), &KEY).unwrap();
    assert_eq!(set.record(3).unwrap(), records[3]);
    file.set_len(200_000).unwrap();
    assert!(matches!(set.record(90), Err(SetError::Damaged(_))));
    assert!(set.is_damaged());
}

#[test]
fn keys_are_read_as_they_are_shown() {
    let key = Key::from_bytes(std::array::from_fn(|i| (i * 9) as u8));
    assert_eq!(Key::parse(&key.to_string()), Some(key));
    for other in [
        "",
        "ab",
        &"g".repeat(64),
        &"A".repeat(64),
        &format!("+{}", "1".repeat(63)),
    ] {
        assert_eq!(Key::parse(other), None, "{other:?}");
    }
}
