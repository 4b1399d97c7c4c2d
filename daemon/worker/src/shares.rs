//! Which rank of a gang writes what of a checkpoint. The first writes the models, which all have
//! alike, and the manifest. Where ranks share the experts or the optimiser's states, each writes
//! its own share, in files of its own: the others leave theirs beside the directory and word of it
//! at the rendezvous, and the first takes them in.

use crate::failure::of_writing;
use r1d_model::ModelError;
use r1d_model::checkpoint::{self, Manifest};
use r1d_proto::worker::{Failure, FailureKind, Open, Shard};
use r1d_proto::world::SharedClock;
use r1d_rendezvous::{Rendezvous, RendezvousError};
use r1d_torch::work;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A trainer's state where one rank writes all of it.
const TRAINER_FILE: &str = "trainer.safetensors";
/// The rank that writes the manifest.
const FIRST: u32 = 0;
/// How long the first rank waits for another in one call on the rendezvous. Between two of them it
/// reports that it is still there.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What one rank writes of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    rank: u32,
    /// Files that a trainer's state is in, one of each of the first ranks.
    files: u32,
    /// Ranks that have a shard of the models' experts each, the first ones.
    shards: u32,
}

impl Part {
    /// Ranks that write at a time.
    pub(crate) fn writers(&self) -> u32 {
        self.files.max(self.shards)
    }

    /// The part of this worker of what it opened.
    pub(crate) fn of(request: &Open) -> Part {
        let place = request.place.as_ref();
        let shared = place.filter(|place| place.shard == Shard::Optimizer);
        let shards = place.map_or(1, |place| place.expert.max(1));
        Part {
            rank: place.map_or(0, |place| place.rank),
            files: match (&request.optimiser, shared) {
                (Some(_), Some(shared)) => shared.ranks(),
                (Some(_), None) => shards,
                (None, _) => 1,
            },
            shards,
        }
    }

    /// Whether it has the manifest, all reports, and what ranks have alike.
    pub(crate) fn is_first(self) -> bool {
        self.rank == FIRST
    }

    /// Whether it has models, or its experts of them.
    pub(crate) fn has_models(self) -> bool {
        self.rank < self.shards
    }

    /// Whether it has states of trainers.
    pub(crate) fn has_trainers(self) -> bool {
        self.rank < self.files
    }

    /// The file of a trainer's state, or of this rank's share of it.
    pub(crate) fn trainer_file(self) -> String {
        let Part { rank, files, .. } = self;
        match files {
            1 => TRAINER_FILE.to_owned(),
            _ => format!("trainer-{:05}-of-{files:05}.safetensors", rank + 1),
        }
    }
}

/// The files of a trainer's state in the folder `within` of a checkpoint, whatever layout wrote
/// them.
pub(crate) fn trainer_files(dir: &Path, manifest: &Manifest, within: &str) -> Vec<PathBuf> {
    let is_trainers = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_share = name.starts_with("trainer-") && name.ends_with(".safetensors");
        path.parent() == Some(Path::new(within)) && (name == TRAINER_FILE || is_share)
    };
    let paths = manifest.files.iter().map(|file| Path::new(&file.path));
    let found: Vec<_> = paths
        .filter(|path| is_trainers(path))
        .map(|path| dir.join(path))
        .collect();
    if found.is_empty() {
        // What reads it says that it is not there.
        return vec![dir.join(within).join(TRAINER_FILE)];
    }
    found
}

/// Why a directory was not written.
enum NotWritten {
    Own(ModelError),
    OfOthers(Failure),
}

impl From<ModelError> for NotWritten {
    fn from(error: ModelError) -> NotWritten {
        NotWritten::Own(error)
    }
}

/// How the ranks of a gang make one directory together.
pub(crate) struct Shares {
    pub part: Part,
    pub rendezvous: Arc<dyn Rendezvous>,
    pub clock: SharedClock,
    /// The request that asks for the directory, the same number on all ranks.
    pub request: u64,
    /// How long the first rank waits for the others, once its own files are written.
    pub within: Duration,
}

impl Shares {
    fn key(&self, rank: u32) -> String {
        format!("save/{}/{rank}", self.request)
    }

    /// The ranks whose shares the first one takes in.
    fn others(&self) -> Range<u32> {
        1..self.part.writers()
    }

    /// The part of a directory that ranks export together: each has its experts of the model.
    pub(crate) fn of_export(self) -> Shares {
        let part = Part {
            files: 1,
            ..self.part
        };
        Shares { part, ..self }
    }

    /// Fills a directory, takes the files of the other ranks in, and makes it visible. Returns the
    /// hash of its manifest.
    pub(crate) fn write(
        &self,
        dir: &Path,
        fill: impl FnOnce(&Path) -> Result<(), ModelError>,
    ) -> Result<String, Failure> {
        let written = checkpoint::write_directory_atomically(dir, |into| {
            fill(into)?;
            self.take_in(dir, into).map_err(NotWritten::OfOthers)
        });
        match written {
            Ok(manifest) => Ok(manifest.sha256),
            Err(NotWritten::Own(error)) => Err(of_writing(error)),
            Err(NotWritten::OfOthers(failure)) => Err(failure),
        }
    }

    /// Writes this rank's share, which the first one takes in.
    pub(crate) fn hand_over(
        &self,
        dir: &Path,
        fill: impl FnOnce(&Path) -> Result<(), ModelError>,
    ) -> Result<(), Failure> {
        checkpoint::hand_over(dir, self.part.rank as usize, fill).map_err(of_writing)
    }

    /// Leaves word of what came of this rank's share. Where the first rank has given the checkpoint
    /// up, the share is removed.
    pub(crate) fn tell(&self, dir: &Path, outcome: &Result<(), Failure>) -> Result<(), Failure> {
        let value = serde_json::to_vec(outcome).map_err(internal)?;
        let told = self.rendezvous.set(&self.key(self.part.rank), &value);
        told.map_err(internal)?;
        if self.rendezvous.has(&self.key(FIRST)).map_err(internal)? {
            discard(dir, self.part.rank);
        }
        Ok(())
    }

    /// Takes the files of all other ranks into the unfinished directory.
    fn take_in(&self, dir: &Path, into: &Path) -> Result<(), Failure> {
        let until = self.clock.now() + self.within;
        for rank in self.others() {
            let of_rank = |failure: Failure| {
                let message = format!("rank {rank}'s share of the checkpoint: {}", failure.message);
                Failure::new(failure.kind, &message)
            };
            self.word_of(rank, until).map_err(of_rank)?;
            let taken = checkpoint::take_in(dir, rank as usize, into);
            taken.map_err(|error| of_rank(of_writing(error)))?;
        }
        Ok(())
    }

    /// Waits for a rank's word, and returns what it says.
    fn word_of(&self, rank: u32, until: Duration) -> Result<(), Failure> {
        loop {
            let left = until.saturating_sub(self.clock.now());
            match self.rendezvous.get(&self.key(rank), left.min(LOOK_EVERY)) {
                Ok(value) => {
                    let outcome = serde_json::from_slice::<Result<(), Failure>>(&value);
                    return outcome.map_err(internal)?;
                }
                Err(RendezvousError::Absent { .. }) if left > LOOK_EVERY => work::moved(0),
                Err(RendezvousError::Absent { .. }) => {
                    return Err(internal(format!(
                        "it is not written within {:?} of rank 0's: that rank is dead, stopped, \
                         or its disk is slow",
                        self.within
                    )));
                }
                Err(error) => return Err(internal(error)),
            }
        }
    }

    /// Gives up a checkpoint that cannot be completed, and removes what other ranks have left for
    /// it. A rank that is not done yet learns of it when it is.
    pub(crate) fn give_up(&self, dir: &Path) {
        if self.others().is_empty() {
            return;
        }
        if let Err(error) = self.rendezvous.set(&self.key(FIRST), b"given up") {
            tracing::warn!("other ranks are not told of a failed checkpoint: {error}");
        }
        self.others().for_each(|rank| discard(dir, rank));
    }
}

/// Removes a share of a checkpoint that there will not be. If it cannot be, it is in the way of
/// nothing, and removed before the next attempt.
fn discard(dir: &Path, rank: u32) {
    if let Err(error) = checkpoint::discard(dir, rank as usize) {
        tracing::warn!("rank {rank}'s share of a checkpoint is left: {error}");
    }
}

fn internal(error: impl Display) -> Failure {
    Failure::new(FailureKind::Internal, &error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_model::checkpoint::ManifestEntry;

    #[test]
    fn ranks_share_the_trainers_files_alone() {
        let part = |rank, files| Part {
            rank,
            files,
            shards: 1,
        };
        assert_eq!(part(0, 1).trainer_file(), "trainer.safetensors");
        assert_eq!(
            part(11, 12).trainer_file(),
            "trainer-00012-of-00012.safetensors"
        );
        assert!(part(0, 1).has_trainers() && !part(1, 1).has_trainers());
        assert!(part(3, 4).has_trainers() && !part(3, 4).is_first());
        // Two copies of two shards of the experts.
        let shards = |rank, files| Part {
            rank,
            files,
            shards: 2,
        };
        assert!(shards(1, 2).has_models() && !shards(2, 2).has_models());
        assert!(!part(1, 4).has_models());
        assert_eq!(
            [shards(0, 1), shards(0, 4)].map(|part| part.writers()),
            [2, 4]
        );
    }

    #[test]
    fn a_trainers_files_are_found_whatever_layout_wrote_them() {
        let found = |paths: &[&str], within: &str| {
            let entry = |path: &&str| ManifestEntry {
                path: (*path).to_owned(),
                bytes: 0,
                sha256: String::new(),
            };
            let manifest = Manifest {
                sha256: String::new(),
                files: paths.iter().map(entry).collect(),
            };
            let found = trainer_files(Path::new("/c"), &manifest, within).into_iter();
            let found = found.map(|path| path.to_string_lossy().into_owned());
            found.collect::<Vec<_>>()
        };
        let shared = [
            "model.safetensors",
            "trainer-00001-of-00002.safetensors",
            "trainer-00002-of-00002.safetensors",
            "value/trainer.safetensors",
        ];
        let expected = [1, 2].map(|at| format!("/c/trainer-{at:05}-of-00002.safetensors"));
        assert_eq!(found(&shared, ""), expected);
        assert_eq!(found(&shared, "value"), ["/c/value/trainer.safetensors"]);
        assert_eq!(
            found(&["trainer_state.json"], ""),
            ["/c/trainer.safetensors"]
        );
    }
}
