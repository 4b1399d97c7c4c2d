//! Blobs: what was put is there, whole, whatever happens; what is needed stays, and what was not
//! used for longest goes first.

use proptest::prelude::*;
use r1d_proto::storage::Storage;
use r1d_sim::SimDisk;
use r1d_store::{BlobHash, Blobs, Disk};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const DIR: &str = "/state/blobs";
const OTHER: &str = "/state/blobs/README";
const BLOBS: u8 = 5;

fn hash(blob: u8) -> BlobHash {
    BlobHash::from_bytes([blob; 32])
}

fn contents(blob: u8) -> Vec<u8> {
    vec![blob; 700 * usize::from(blob)]
}

fn disk() -> SimDisk {
    let disk = SimDisk::default();
    for dir in ["/state", DIR] {
        disk.make_dir(Path::new(dir)).unwrap();
        disk.sync_dir(Path::new(dir).parent().unwrap()).unwrap();
    }
    let mut other = disk.create(Path::new(OTHER), 0o600).unwrap();
    other.append(b"not a blob").unwrap();
    other.sync().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk
}

fn blobs(disk: &SimDisk) -> Blobs {
    Blobs::open(disk.shared(), Path::new(DIR), ".wasm")
}

/// The blobs that are there, each of them whole.
fn there(disk: &SimDisk, blobs: &Blobs) -> BTreeSet<u8> {
    let read = |blob: &u8| match disk.read(&blobs.path(&hash(*blob))) {
        Ok(bytes) => {
            assert!(bytes == contents(*blob), "blob {blob} is not what was put");
            true
        }
        Err(_) => false,
    };
    (0..BLOBS).filter(read).collect()
}

#[derive(Clone, Debug)]
enum Action {
    Put(u8),
    Touch(u8),
    Remove(u8),
    Collect {
        kilobytes_max: u64,
        needed: BTreeSet<u8>,
    },
    Crash(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let needed = proptest::collection::btree_set(0..BLOBS, 0..4);
    prop_oneof![
        4 => (0..BLOBS).prop_map(Action::Put),
        2 => (0..BLOBS).prop_map(Action::Touch),
        1 => (0..BLOBS).prop_map(Action::Remove),
        2 => (0..8u64, needed).prop_map(|(kilobytes_max, needed)| Action::Collect {
            kilobytes_max,
            needed
        }),
        1 => any::<u64>().prop_map(Action::Crash),
    ]
}

/// What a test knows of each blob: when it was used last, by a count of the actions.
type Used = BTreeMap<u8, usize>;

fn collect(disk: &SimDisk, blobs: &Blobs, used: &mut Used, bytes_max: u64, needed: &BTreeSet<u8>) {
    let before = there(disk, blobs);
    let is_needed = |found: &BlobHash| needed.contains(&found.bytes()[0]);
    let collected = blobs.collect(bytes_max, is_needed).unwrap();
    let after = there(disk, blobs);
    let gone: BTreeSet<u8> = before.difference(&after).copied().collect();
    let bytes = |of: &BTreeSet<u8>| {
        of.iter()
            .map(|blob| contents(*blob).len() as u64)
            .sum::<u64>()
    };
    assert_eq!(
        (collected.files, collected.bytes),
        (gone.len(), bytes(&gone))
    );
    assert!(gone.is_disjoint(needed), "what is needed stays");
    let left: BTreeSet<u8> = after.difference(needed).copied().collect();
    assert!(
        left.is_empty() || bytes(&after) <= bytes_max,
        "nothing is left that has no room"
    );
    if let Some(last) = gone.iter().max_by_key(|blob| used[blob]) {
        let spared = bytes(&after) + contents(*last).len() as u64;
        assert!(
            bytes_max == 0 || spared > bytes_max,
            "no more goes than has to"
        );
        assert!(
            left.iter().all(|blob| used[blob] > used[last]),
            "what was used later stays"
        );
    }
    used.retain(|blob, _| after.contains(blob));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn blobs_are_whole_and_go_in_the_order_of_their_use(
        actions in proptest::collection::vec(action(), 1..40)
    ) {
        let disk = disk();
        let blobs = blobs(&disk);
        let mut used = Used::new();
        for (time, action) in actions.into_iter().enumerate() {
            match action {
                Action::Put(blob) => {
                    blobs.put(&hash(blob), &contents(blob)).unwrap();
                    // One that is there already is not written again.
                    used.entry(blob).or_insert(time);
                }
                Action::Touch(blob) if used.contains_key(&blob) => {
                    blobs.touch(&hash(blob)).unwrap();
                    used.insert(blob, time);
                }
                Action::Remove(blob) if used.contains_key(&blob) => {
                    blobs.remove(&hash(blob)).unwrap();
                    used.remove(&blob);
                }
                Action::Touch(blob) => prop_assert!(blobs.touch(&hash(blob)).is_err()),
                Action::Remove(blob) => prop_assert!(blobs.remove(&hash(blob)).is_err()),
                Action::Collect { kilobytes_max, needed } => {
                    collect(&disk, &blobs, &mut used, 1000 * kilobytes_max, &needed);
                }
                Action::Crash(seed) => {
                    disk.crash(seed);
                    // What was removed may be there again, as old as it was or older.
                    let found = there(&disk, &blobs);
                    let is_there = |blob: &u8| found.contains(blob);
                    prop_assert!(used.keys().all(is_there), "what was put is there");
                    for blob in found.iter().filter(|blob| !used.contains_key(blob)) {
                        blobs.remove(&hash(*blob)).unwrap();
                    }
                    disk.sync_dir(Path::new(DIR)).unwrap();
                }
            }
            prop_assert_eq!(there(&disk, &blobs), used.keys().copied().collect());
            prop_assert_eq!(disk.read(Path::new(OTHER)).unwrap(), b"not a blob");
        }
    }
}

/// The machine may die in any operation: a blob is whole or away, and whole once it was put.
#[test]
fn a_blob_is_whole_or_away_wherever_the_power_is_lost() {
    let mut outcomes = BTreeSet::new();
    for operation in 1..20 {
        for seed in 0..64 {
            let disk = disk();
            let blobs = blobs(&disk);
            disk.lose_power_at(disk.operations() + operation);
            let put = (blobs.put_beside(&hash(3), ".sig", b"signed"))
                .and_then(|()| blobs.put(&hash(3), &contents(3)));
            disk.crash(seed);
            let is_there = there(&disk, &blobs).contains(&3);
            let beside = disk.read(&Path::new(DIR).join(format!("{}.wasm.sig", hash(3))));
            assert!(
                put.is_err() || is_there,
                "operation {operation}, seed {seed}"
            );
            assert!(!is_there || beside.is_ok_and(|bytes| bytes == b"signed"));
            outcomes.insert((put.is_ok(), is_there));
            blobs.put(&hash(3), &contents(3)).unwrap();
            disk.crash(seed);
            assert!(there(&disk, &blobs).contains(&3), "it is put again");
        }
    }
    let all = BTreeSet::from([(false, false), (false, true), (true, true)]);
    assert_eq!(
        outcomes, all,
        "power was lost before, in and behind the last rename"
    );
}

#[test]
fn a_blob_goes_with_what_belongs_to_it_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blobs");
    let blobs = Blobs::open(Disk::shared(), &path, ".wasm");
    assert_eq!(
        blobs.collect(0, |_| false).unwrap().files,
        0,
        "no directory, no blobs"
    );
    blobs.put(&hash(1), b"one").unwrap();
    blobs.put_beside(&hash(1), ".sig", b"signed").unwrap();
    // What a crash left of a blob whose own file is away.
    blobs.put_beside(&hash(2), ".sig", b"signed").unwrap();
    let others = ["README", &"a".repeat(64), &format!("{}.other", hash(1))];
    for name in others {
        std::fs::write(path.join(name), "kept").unwrap();
    }
    std::fs::write(path.join(format!(".{}.wasm.1-0.part", hash(1))), "half").unwrap();
    assert_eq!(
        blobs.collect(0, |found| *found == hash(1)).unwrap().files,
        1
    );
    assert!(blobs.path(&hash(1)).is_file());
    let collected = blobs.collect(0, |_| false).unwrap();
    assert_eq!((collected.files, collected.bytes), (2, 9));
    Blobs::open(Disk::shared(), &path, ".wasm");
    let mut left = Disk.list(&path).unwrap();
    left.sort();
    let mut others = others.map(str::to_string);
    others.sort();
    assert_eq!(
        left, others,
        "parts of a dead writer go when blobs are opened"
    );
}

#[test]
fn a_damaged_blob_is_put_anew() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(Disk::shared(), dir.path(), "");
    for damaged in ["", "ones", "oen", "on"] {
        std::fs::write(blobs.path(&hash(1)), damaged).unwrap();
        blobs.put(&hash(1), b"one").unwrap();
        assert_eq!(std::fs::read(blobs.path(&hash(1))).unwrap(), b"one");
    }
    let part = blobs.part(&hash(2));
    std::fs::write(&part, "two").unwrap();
    blobs.place(&part, &hash(2)).unwrap();
    assert_eq!(std::fs::read(blobs.path(&hash(2))).unwrap(), b"two");
    assert_eq!(
        Disk.list(dir.path()).unwrap().len(),
        2,
        "nothing is left beside them"
    );
}
