//! A job's inputs as they were when it was submitted: a resumed job that read other bytes would be
//! another job.

use crate::digest;
use crate::file_hashes::{CHANGES, FileHashes, Stamp};
use r1d_data::tokenizer;
use r1d_job::reward::{Plugin, Reward};
use r1d_job::{Job, ModelRef, Stage, TemplateSource, Weights};
use r1d_proto::remedy::{is_the_machines, to_mend};
use r1d_proto::user_file;
use r1d_store::{Disk, write_file};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Files and directories as the job names them. Files inside a directory that is out of reach
/// cannot be listed.
pub(crate) fn named(job: &Job) -> BTreeSet<PathBuf> {
    let data = job
        .data
        .values()
        .map(|source| &source.path)
        .filter(|path| !r1d_data::is_pattern(path));
    let models = job
        .models()
        .flat_map(|model| [model.tokenizer().to_path_buf(), model.config()]);
    let plugins = rewards(job).filter_map(|reward| match &reward.plugin {
        Plugin::Path(path) => Some(path),
        Plugin::Named(_) => None,
    });
    data.chain(plugins)
        .chain(asked(job))
        .cloned()
        .chain(models)
        .collect()
}

fn rewards(job: &Job) -> impl Iterator<Item = &Reward> {
    job.stages
        .iter()
        .filter_map(Stage::rollouts)
        .flat_map(|rollouts| &rollouts.rewards)
}

/// Directories of the models that rewards ask.
fn asked(job: &Job) -> impl Iterator<Item = &PathBuf> {
    rewards(job).filter_map(|reward| match &reward.model {
        Some(ModelRef::Directory(dir)) => Some(dir),
        _ => None,
    })
}

/// All files that are found of data sets, templates, tokenizers, models and what rewards use.
pub(crate) fn paths(job: &Job) -> BTreeSet<PathBuf> {
    let mut paths: BTreeSet<PathBuf> = job
        .data
        .values()
        .flat_map(|source| r1d_data::files(source).unwrap_or_default())
        .collect();
    let templates = job.data.values().map(|source| &source.template);
    let own = job.stages.iter().filter_map(Stage::template);
    let files = templates.chain(own).filter_map(TemplateSource::file);
    paths.extend(files.map(Path::to_path_buf));
    for model in job.models() {
        paths.insert(model.config());
        paths.extend(tokenizer::files(model.tokenizer()));
        if let Weights::Directory(dir) = model {
            paths.extend(weight_files(dir));
        }
    }
    for dir in asked(job) {
        paths.extend(weight_files(dir).into_iter().chain(tokenizer::files(dir)));
    }
    paths
}

/// The files of a directory's weights, as the worker will find them. Empty if they are faulty: an
/// error is reported when they are opened.
pub(crate) fn weight_files(dir: &Path) -> BTreeSet<PathBuf> {
    r1d_shape::weight_files(dir).unwrap_or_default()
}

/// Largest record of a job's inputs that is read; it has a few hundred bytes for each file.
const RECORD_MAX_BYTES: u64 = 256 << 20;
/// Files up to this size are hashed whole; larger ones only if they are data.
const WHOLE_MAX_BYTES: u64 = 64 << 20;
/// Places of a larger file that are hashed besides its beginning, and the bytes of each.
const SAMPLES: u64 = 1024;
const SAMPLE_BYTES: u64 = 4096;

/// The hash of all bytes of a file; or, unless `whole`, of its size, its beginning and evenly
/// spaced samples, because different weights differ nearly everywhere. `wanted` is called between
/// parts; its error ends the reading.
fn hash(path: &Path, whole: bool, wanted: &dyn Fn() -> io::Result<()>) -> io::Result<String> {
    if whole {
        return digest::of_file(path, wanted);
    }
    let mut file = user_file::open(path)?;
    let bytes = file.metadata()?.len();
    let mut hash = Sha256::new_with_prefix(bytes.to_le_bytes());
    digest::add(&mut hash, (&mut file).take(SAMPLES * SAMPLE_BYTES), wanted)?;
    for sample in 1..=SAMPLES {
        let place = u128::from(bytes.saturating_sub(SAMPLE_BYTES)) * u128::from(sample)
            / u128::from(SAMPLES);
        file.seek(SeekFrom::Start(place as u64))?;
        digest::add(&mut hash, (&mut file).take(SAMPLE_BYTES), wanted)?;
    }
    Ok(digest::hex(hash))
}

/// A file as it was found.
#[derive(Serialize, Deserialize)]
struct Seen {
    stamp: Stamp,
    /// Whether the hash covers all bytes.
    whole: bool,
    sha256: String,
    /// The stamp of a file in its place that had other bytes: it need not be read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    other: Option<Stamp>,
}

/// What a job reads, as it was when the job was submitted: its files, the files that were looked
/// for but missing, and what its patterns and directories of weights held.
#[derive(Serialize, Deserialize)]
pub(crate) struct Inputs {
    files: BTreeMap<PathBuf, Seen>,
    absent: BTreeSet<PathBuf>,
    patterns: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    weights: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

/// The inputs that are found before the job is read, not hashed yet.
pub(crate) struct Found {
    inputs: Inputs,
    data: BTreeSet<PathBuf>,
    stamps: BTreeMap<PathBuf, Stamp>,
}

impl Found {
    pub(crate) fn of(job: &Job) -> io::Result<Found> {
        let data: BTreeSet<PathBuf> = job
            .data
            .values()
            .flat_map(|source| r1d_data::files(source).unwrap_or_default())
            .collect();
        let patterns = job
            .data
            .values()
            .map(|source| &source.path)
            .filter(|path| r1d_data::is_pattern(path));
        let patterns = patterns
            .map(|pattern| Ok((pattern.clone(), matching(pattern)?)))
            .collect::<io::Result<_>>()?;
        let tokenizers = job
            .models()
            .map(|model| model.tokenizer())
            .chain(asked(job).map(PathBuf::as_path));
        let absent = tokenizers
            .flat_map(tokenizer::looked_for)
            .filter(|file| !file.exists())
            .collect();
        let own = job.models().filter_map(|model| match model {
            Weights::Directory(dir) => Some(dir),
            _ => None,
        });
        let weights = own
            .chain(asked(job))
            .map(|dir| (dir.clone(), weight_files(dir)))
            .collect();
        let stamp = |path: PathBuf| {
            Stamp::of(&path)
                .map_err(|error| at(&path, error))
                .map(|stamp| (path, stamp))
        };
        let stamps = paths(job)
            .into_iter()
            .filter(|path| path.is_file())
            .map(stamp)
            .collect::<io::Result<_>>()?;
        Ok(Found {
            inputs: Inputs {
                files: BTreeMap::new(),
                absent,
                patterns,
                weights,
            },
            data,
            stamps,
        })
    }

    /// Hashes the files. A file that changes meanwhile is an error that names it; `wanted` is
    /// called between parts, and its error ends the reading.
    pub(crate) fn hashed(
        self,
        hashes: &FileHashes,
        wanted: &dyn Fn() -> io::Result<()>,
    ) -> io::Result<Inputs> {
        let Found {
            mut inputs,
            data,
            stamps,
        } = self;
        for (path, stamp) in stamps {
            let whole = data.contains(&path) || stamp.bytes <= WHOLE_MAX_BYTES;
            let sha256 = if whole {
                hashes.sha256(&path, wanted)
            } else {
                hash(&path, whole, wanted)
            };
            let sha256 = sha256.map_err(|error| at(&path, error))?;
            if Stamp::of(&path).map_err(|error| at(&path, error))? != stamp {
                return Err(at(&path, CHANGES));
            }
            inputs.files.insert(
                path,
                Seen {
                    stamp,
                    whole,
                    sha256,
                    other: None,
                },
            );
        }
        Ok(inputs)
    }
}

impl Inputs {
    /// SHA-256 of all bytes of a file as it was submitted; `None` if it was not hashed whole.
    pub(crate) fn sha256_of(&self, path: &Path) -> Option<&str> {
        self.files
            .get(path)
            .filter(|seen| seen.whole)
            .map(|seen| seen.sha256.as_str())
    }

    /// Describes the first input that is not as it was; `None` if all are.
    fn unlike(&mut self) -> Option<String> {
        let away = self.files.keys().find_map(|path| {
            let error = user_file::open(path).err()?;
            let path = path.display();
            Some(if error.kind() == ErrorKind::PermissionDenied {
                format!("{path} cannot be read ({error}): let the daemon's user read it")
            } else {
                format!("{path} is away ({error}): it was there when the job was submitted")
            })
        });
        away.or_else(|| self.added()).or_else(|| self.changed())
    }

    /// Describes a file that did not exist when the job was submitted and would change what it
    /// reads.
    fn added(&self) -> Option<String> {
        let patterns = self
            .patterns
            .iter()
            .filter_map(|(pattern, were)| Some((matching(pattern).ok()?, were)));
        let weights = self
            .weights
            .iter()
            .map(|(dir, were)| (weight_files(dir), were));
        // A file that has a pattern's own name would be read instead of the files that match it.
        let absent = self
            .absent
            .iter()
            .chain(self.patterns.keys())
            .find(|path| path.exists())
            .cloned();
        let new = absent.or_else(|| {
            patterns
                .chain(weights)
                .find_map(|(are, were)| are.difference(were).next().cloned())
        })?;
        let new = new.display();
        Some(format!(
            "{new} was not there when the job was submitted: move it away, or cancel the job and \
             submit it again"
        ))
    }

    /// Describes a file with other bytes. If only its stamp differs, records the new stamp.
    fn changed(&mut self) -> Option<String> {
        self.files.iter_mut().find_map(|(path, was)| {
            let now = Stamp::of(path).ok()?;
            if now == was.stamp {
                return None;
            }
            let read = now.bytes == was.stamp.bytes && was.other != Some(now);
            if read && hash(path, was.whole, &|| Ok(())).is_ok_and(|hash| hash == was.sha256) {
                was.stamp = now;
                return None;
            }
            was.other = Some(now);
            let path = path.display();
            Some(format!(
                "{path} is not as it was when the job was submitted: put the file back, or cancel \
                 the job and submit it again"
            ))
        })
    }
}

/// The files that match a pattern now.
fn matching(pattern: &Path) -> io::Result<BTreeSet<PathBuf>> {
    Ok(r1d_data::matches(pattern)?.into_iter().collect())
}

fn at(path: &Path, error: impl Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// Lets the hashes of the files that were read whole be known without reading them again. What is
/// not to be had of the record is found out again.
pub(crate) fn learn(record: &Path, hashes: &FileHashes) {
    let read = user_file::read(record, RECORD_MAX_BYTES)
        .and_then(|bytes| Ok(serde_json::from_slice::<Inputs>(&bytes)?));
    let Ok(inputs) = read else { return };
    for (path, seen) in inputs.files.iter().filter(|(_, seen)| seen.whole) {
        hashes.learn(path, seen.stamp, &seen.sha256);
    }
}

/// Whether nothing was written or added since the record was made, judged by stamps: no file is
/// read.
pub(crate) fn is_untouched(record: &Path) -> bool {
    let read = user_file::read(record, RECORD_MAX_BYTES)
        .and_then(|bytes| Ok(serde_json::from_slice::<Inputs>(&bytes)?));
    read.is_ok_and(|inputs| {
        let same =
            |(path, seen): (&PathBuf, &Seen)| Stamp::of(path).is_ok_and(|now| now == seen.stamp);
        inputs.files.iter().all(same) && inputs.added().is_none()
    })
}

/// The files and directories that a record of inputs names; none if it cannot be read.
pub(crate) fn recorded(record: &Path) -> BTreeSet<PathBuf> {
    let read = user_file::read(record, RECORD_MAX_BYTES).ok();
    let inputs = read.and_then(|bytes| serde_json::from_slice::<Inputs>(&bytes).ok());
    let of = |inputs: Inputs| {
        let files = inputs.files.into_keys();
        files.chain(inputs.weights.into_keys()).collect()
    };
    inputs.map(of).unwrap_or_default()
}

/// Describes a record of inputs that is not read.
fn unread(record: &Path, error: &io::Error) -> String {
    let record = record.display();
    match error.kind() {
        ErrorKind::PermissionDenied => {
            format!("{record} cannot be read ({error}): let the daemon's user read it")
        }
        _ if is_the_machines(error) => {
            format!("{record} cannot be read ({error}){}", to_mend(error))
        }
        _ => format!(
            "{record} should say what the job read when it was submitted ({error}): put it back, \
             or cancel the job and submit it again"
        ),
    }
}

/// Describes an input that is not as `record`, the file of the job's [`Inputs`], has it; `None` if
/// all are. A job waits until they are. What was found out about files on the way is written into
/// the record.
pub(crate) fn unlike(record: &Path) -> Option<String> {
    let read = user_file::read(record, RECORD_MAX_BYTES);
    let inputs = read.and_then(|bytes| Ok((serde_json::from_slice::<Inputs>(&bytes)?, bytes)));
    let (mut inputs, before) = match inputs {
        Ok(inputs) => inputs,
        Err(error) => return Some(unread(record, &error)),
    };
    let unlike = inputs.unlike();
    // A record that cannot be written now is found out again the next time.
    if let Ok(after) = serde_json::to_vec(&inputs)
        && after != before
    {
        let _ = write_file(&Disk, record, |file| file.write_all(&after));
    }
    unlike
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who has lost nothing is not told to put something back.
    #[test]
    fn a_record_is_missed_where_the_machine_is_not_out_of_something() {
        let of = |number| {
            unread(
                Path::new("inputs.json"),
                &io::Error::from_raw_os_error(number),
            )
        };
        // EMFILE, EIO; ENOENT; EACCES.
        for (number, remedy) in [
            (24, "LimitNOFILE="),
            (5, "see to that file system"),
            (13, "let the daemon's user read it"),
        ] {
            let said = of(number);
            assert!(
                said.contains(remedy) && !said.contains("put it back"),
                "{said}"
            );
        }
        assert!(of(2).contains("put it back"), "{}", of(2));
    }
}
