//! The names of a journal's files. An attempt writes to files of its own: its epoch is in their
//! names.

use r1d_proto::storage::Storage;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

const DIR: &str = "stage-";
const FILE: &str = "step-";
const ENDING: &str = ".journal";

/// The directory of a stage's journal.
pub(crate) fn dir(journal_dir: &Path, stage: u32) -> PathBuf {
    journal_dir.join(format!("{DIR}{stage}"))
}

/// The stages that have a journal.
pub(crate) fn stages(storage: &dyn Storage, journal_dir: &Path) -> io::Result<BTreeSet<u32>> {
    let names = or_none(storage.list_dirs(journal_dir))?;
    Ok(names
        .iter()
        .filter_map(|name| number(name.strip_prefix(DIR)?))
        .collect())
}

/// The file of a step that the attempt of an epoch writes; earlier releases, whose epoch counts as
/// 0, had none in the name.
pub(crate) fn file(dir: &Path, step: u64, epoch: u64) -> PathBuf {
    dir.join(match epoch {
        0 => format!("{FILE}{step:08}{ENDING}"),
        _ => format!("{FILE}{step:08}.e{epoch}{ENDING}"),
    })
}

/// The epochs that have left a file of a step, by step. None if there is no such directory.
pub(crate) fn epochs(
    storage: &dyn Storage,
    dir: &Path,
) -> io::Result<BTreeMap<u64, BTreeSet<u64>>> {
    let mut found: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for (step, epoch) in or_none(storage.list(dir))?
        .iter()
        .filter_map(|name| parse(name))
    {
        found.entry(step).or_default().insert(epoch);
    }
    Ok(found)
}

fn or_none(names: io::Result<Vec<String>>) -> io::Result<Vec<String>> {
    match names {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

/// The step and epoch that a file's name gives.
fn parse(name: &str) -> Option<(u64, u64)> {
    let numbers = name.strip_prefix(FILE)?.strip_suffix(ENDING)?;
    match numbers.split_once(".e") {
        Some((step, epoch)) => Some((number(step)?, number(epoch).filter(|epoch| *epoch > 0)?)),
        None => Some((number(numbers)?, 0)),
    }
}

fn number<T: std::str::FromStr>(digits: &str) -> Option<T> {
    let is_digits = digits.bytes().all(|b| b.is_ascii_digit());
    is_digits.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_step_and_epoch_and_strangers_give_none() {
        for (step, epoch) in [(0, 0), (7, 0), (7, 1), (123_456_789, 12)] {
            let path = file(Path::new("/j"), step, epoch);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(parse(name), Some((step, epoch)), "{name}");
        }
        for name in [
            "step-x.journal",
            "step-1.e.journal",
            "step-1.e0.journal",
            "step-1.e2",
            "step-.journal",
            ".step-1.e2.journal.9-1.part",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
