//! Random ledgers, with files, whose jobs read each other's results, take over stages, write into
//! each other's directories, fail, are requeued and removed, while the daemon is killed at any
//! moment of a removal. Nothing that a job needs goes, and nothing else stays.

use r1d_controller::removal::decide::{Decision, RetentionLimits, Selection, decide};
use r1d_ledger::{
    CheckpointRecord, Command, JobRecord, NewJob, StageRecord, State as LedgerState, User,
};
use r1d_node::own_checkpoints;
use r1d_node::removal::facts::{elsewhere, gather};
use r1d_node::removal::files;
use r1d_node::removal::sizes::{GONE_PREFIX, Sizes};
use r1d_proto::control::job::State;
use r1d_proto::control::removal::RemovalExtent;
use r1d_proto::ids::JobId;
use r1d_proto::storage::{Append, FileFacts, Storage};
use r1d_proto::world::counter_hash;
use r1d_store::{Disk, JobLayout, layout};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

const SEEDS: u64 = 40;
const ACTIONS: u64 = 60;
const STAGES: u32 = 3;

/// A disk whose process is killed after some changes; a directory that is being removed then is
/// there in part.
struct Killed {
    left: AtomicI64,
}

impl Killed {
    fn change(&self) -> io::Result<()> {
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            ..=0 => Err(io::Error::other("killed")),
            _ => Ok(()),
        }
    }
}

impl Storage for Killed {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        self.change()?;
        Disk.make_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Disk.list(dir)
    }

    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        Disk.list_dirs(dir)
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn Append>> {
        Disk.append(path)
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn Append>> {
        Disk.create(path, mode)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Disk.read(path)
    }

    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        Disk.read_at(path, offset, length)
    }

    fn facts(&self, path: &Path) -> io::Result<FileFacts> {
        Disk.facts(path)
    }

    fn touch(&self, path: &Path) -> io::Result<()> {
        Disk.touch(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.link(from, to)
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.copy(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        Disk.remove(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        for name in Disk.list_dirs(dir)? {
            self.remove_dir(&dir.join(name))?;
        }
        for name in Disk.list(dir)? {
            self.remove(&dir.join(name))?;
        }
        self.change()?;
        Disk.remove_dir(dir)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        // The process is killed, the machine goes on.
        self.change()
    }
}

struct World {
    seed: u64,
    drawn: u64,
    dir: tempfile::TempDir,
    ledger: LedgerState,
    clock_s: u64,
    submitted: u64,
    /// What each job reads outside of its own directory, as it was when it was submitted.
    reads: BTreeMap<JobId, Vec<PathBuf>>,
}

impl World {
    fn new(seed: u64) -> World {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "state/jobs",
            "state/token-sets",
            "state/plugins",
            "big",
            "links",
        ] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("state/token-sets/s"), "s").unwrap();
        fs::write(dir.path().join("state/plugins/p.wasm"), "p").unwrap();
        fs::write(dir.path().join("state/ledger.redb"), "l").unwrap();
        World {
            seed,
            drawn: 0,
            dir,
            ledger: LedgerState::default(),
            clock_s: 1000,
            submitted: 0,
            reads: BTreeMap::new(),
        }
    }

    /// A number below `limit`.
    fn draw(&mut self, limit: u64) -> u64 {
        self.drawn += 1;
        counter_hash(&[self.seed, self.drawn]) % limit.max(1)
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn layout(&self, job: &JobId) -> JobLayout {
        JobLayout::of(&self.state_dir(), job)
    }

    fn apply(&mut self, command: Command) -> bool {
        self.ledger.apply(&command).is_ok()
    }

    fn any_job(&mut self) -> Option<JobId> {
        let jobs = self.ledger.jobs();
        let index = self.draw(jobs.len() as u64) as usize;
        jobs.get(index).map(|record| record.job().clone())
    }

    fn write(&self, path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    /// Something of another job that exists, as a job file may name it.
    fn of_another(&mut self) -> Option<PathBuf> {
        let job = self.any_job()?;
        let layout = self.layout(&job);
        let checkpoints = self.ledger.job(&job)?.progress.stages.iter();
        let checkpoint = checkpoints
            .flat_map(|stage| &stage.checkpoints)
            .next_back()
            .map(|checkpoint| checkpoint.dir.clone());
        let path = match self.draw(5) {
            0 => layout.final_dir(),
            1 => layout::data_set(&layout.datasets(), "s0"),
            2 => layout.rollouts("s0", 1),
            3 => checkpoint?,
            _ => {
                // By another name.
                let link = self.dir.path().join(format!("links/{}", self.drawn));
                std::os::unix::fs::symlink(layout.final_dir(), &link).ok()?;
                link
            }
        };
        path.exists().then_some(path)
    }

    fn submit(&mut self) {
        let job = JobId(format!("j{}", self.submitted));
        self.submitted += 1;
        let mut text =
            "name = \"a\"\n[model]\ninit = \"/a.json\"\ntokenizer = \"/t\"\n".to_string();
        let mut reads = Vec::new();
        for index in 0..self.draw(3) {
            let Some(path) = self.of_another() else {
                continue;
            };
            text += &format!("[data.d{index}]\npath = {:?}\n", path.display().to_string());
            reads.push(path);
        }
        text += "[data.d]\npath = \"/d.jsonl\"\nreference = \"r\"\n[[stage]]\nname = \"s0\"\n\
                 kind = \"grpo\"\ndata = \"d\"\nsteps = 1\n[[stage.reward]]\n\
                 plugin = \"accuracy\"\n";
        if let Some(path) = self.of_another().filter(|_| self.drawn.is_multiple_of(3)) {
            // A judge, or a plugin's file.
            text += &format!(
                "[[stage.reward]]\nplugin = {:?}\n",
                path.display().to_string()
            );
            reads.push(path);
        }
        match self.draw(4) {
            0 => {
                text += &format!(
                    "[checkpoint]\nto = \"file://{}\"\n",
                    self.dir.path().join("big").display()
                )
            }
            1 => {
                // Into the results of another job.
                if let Some(other) = self.any_job() {
                    let to = self.layout(&other).datasets();
                    fs::create_dir_all(&to).unwrap();
                    text += &format!("[checkpoint]\nto = \"file://{}\"\n", to.display());
                    reads.push(to);
                }
            }
            _ => {}
        }
        let keys = (0..STAGES).map(|stage| match self.draw(3) {
            0 => String::new(),
            key => format!("{stage}k{key}"),
        });
        let submit = Command::Submit(NewJob {
            reward_versions: BTreeMap::from([("accuracy".into(), "ab".into())]),
            keys: keys.collect(),
            reuses: self.drawn.is_multiple_of(2),
            owner: Some(User {
                uid: self.drawn as u32 % 2,
                name: "u".into(),
            }),
            at: self.clock_s,
            ..NewJob::of(job.clone(), text)
        });
        if let Command::Submit(new) = &submit {
            r1d_job::Job::parse(&new.job_toml, Path::new("/")).unwrap();
        }
        self.write(&self.layout(&job).job_toml());
        self.write(&self.layout(&job).log());
        assert!(self.apply(submit));
        self.reads.insert(job, reads);
    }

    fn checkpoints_of(&self, record: &JobRecord) -> PathBuf {
        let parsed = r1d_job::Job::parse(&record.submission.job_toml, Path::new("/"));
        let to = parsed.ok().and_then(|job| job.checkpoint.to);
        self.layout(record.job())
            .checkpoints(to.as_deref(), record.job())
    }

    /// A job does its next stage, or takes it over, or ends.
    fn go_on(&mut self) {
        let Some(job) = self.any_job() else { return };
        self.clock_s += self.draw(50);
        let at = self.clock_s;
        let is_started = self.apply(Command::Start {
            job: job.clone(),
            at,
        });
        let Some(record) = self.ledger.job(&job).cloned().filter(|_| is_started) else {
            let requeues = self.draw(4) == 0;
            if requeues {
                self.apply(Command::Requeue { job, at: 30 });
            }
            return;
        };
        let (epoch, stage) = (record.progress.epoch, record.progress.stages.len() as u32);
        let name = format!("s{stage}");
        let dir = layout::checkpoint(&self.checkpoints_of(&record), &name, 1);
        if stage == STAGES || self.draw(5) == 0 {
            let state = match (stage, self.draw(2)) {
                (STAGES, _) => State::Succeeded,
                (_, 0) => State::Failed,
                _ => State::Cancelled,
            };
            let is_done = state == State::Succeeded;
            let model = is_done.then(|| self.layout(&job).final_dir());
            if let Some(model) = &model {
                self.write(&model.join("config.json"));
            }
            let error = None;
            assert!(self.apply(Command::Finish {
                job,
                epoch,
                state,
                error,
                model,
                at
            }));
            return;
        }
        let source = self.source_of(&record, stage as usize);
        self.write(&dir.join("manifest.json"));
        own_checkpoints(&self.checkpoints_of(&record), &self.state_dir()).unwrap();
        self.write(&self.layout(&job).rollouts(&name, 1));
        self.write(&layout::data_set(&self.layout(&job).datasets(), &name));
        let checkpoint = CheckpointRecord {
            step: 1,
            dir: dir.clone(),
            manifest_sha256: "ab".into(),
        };
        if let Some(of) = source {
            let finished = self.ledger.job(&of).unwrap().progress.stages[stage as usize].clone();
            let record = StageRecord {
                checkpoints: vec![checkpoint],
                ..StageRecord::clone(&finished)
            };
            let (metrics, evals) = (vec![(0, Default::default())], vec![]);
            let record = Box::new(record);
            let taken = Command::ReuseStage {
                job,
                epoch,
                of,
                stage,
                record,
                metrics,
                evals,
            };
            assert!(self.apply(taken));
            return;
        }
        let (kind, step) = ("grpo".into(), 0);
        let (dir, manifest_sha256) = (dir, "ab".into());
        for command in [
            Command::BeginStage {
                job: job.clone(),
                epoch,
                stage,
                name,
                kind,
                steps: 1,
                at,
            },
            Command::CommitStep {
                job: job.clone(),
                epoch,
                stage,
                step,
                metrics: Default::default(),
            },
            Command::Checkpoint {
                job: job.clone(),
                epoch,
                stage,
                step: 1,
                dir,
                manifest_sha256,
            },
            Command::FinishStage {
                job: job.clone(),
                epoch,
                stage,
                at,
            },
        ] {
            assert!(self.apply(command));
        }
    }

    /// A job from which a job that is at this stage can take it over.
    fn source_of(&self, record: &JobRecord, stage: usize) -> Option<JobId> {
        let key = record.reuse.keys.get(stage).filter(|key| !key.is_empty())?;
        let offers = |other: &&std::sync::Arc<JobRecord>| {
            let finished = other.progress.stages.get(stage);
            other.job() != record.job()
                && other.state().is_final()
                && other.reuse.keys.get(stage) == Some(key)
                && finished.is_some_and(|stage| {
                    let is_there = |checkpoint: &CheckpointRecord| checkpoint.dir.exists();
                    stage.state == State::Succeeded
                        && stage.newest_checkpoint().is_some_and(is_there)
                })
        };
        let jobs = self.ledger.jobs();
        let found = jobs.iter().find(offers).filter(|_| record.reuse.enabled);
        found.map(|other| other.job().clone())
    }

    fn decision(&self, selection: &Selection) -> Decision {
        let mut sizes = Sizes::default();
        let facts = gather(
            &self.ledger,
            &self.state_dir(),
            &|_| false,
            Some(&mut sizes),
        );
        decide(&facts, selection, self.clock_s)
    }

    fn selection(&mut self) -> Selection {
        if self.draw(2) == 0 {
            let count = 1 + self.draw(3);
            return Selection::Named((0..count).filter_map(|_| self.any_job()).collect());
        }
        let mut some = |limit: u64| {
            let value = self.draw(limit);
            (self.draw(2) == 0).then_some(value)
        };
        let limits = RetentionLimits {
            age_max_s: some(300),
            jobs_max: some(6),
            bytes_max: some(100_000),
            owner: some(2).map(|uid| uid as u32),
            ..RetentionLimits::default()
        };
        Selection::Beyond(RetentionLimits {
            keep_final: self.draw(2) == 0,
            spare: if self.draw(3) == 0 {
                vec![State::Failed]
            } else {
                vec![]
            },
            ..limits
        })
    }

    /// Removes what is selected, as the daemon does, until it is killed.
    fn remove(&mut self, storage: &dyn Storage) -> Option<()> {
        let selection = self.selection();
        let decision = self.decision(&selection);
        let mut aside = Vec::new();
        for going in &decision.going {
            let record = self.ledger.job(&going.job).unwrap().clone();
            assert!(record.state().is_final(), "{going:?} has not ended");
            if let Selection::Beyond(RetentionLimits {
                owner: Some(owner), ..
            }) = &selection
            {
                assert_eq!(
                    record.owner.as_ref().unwrap().uid,
                    *owner,
                    "another user's job"
                );
            }
            let (job, elsewhere) = (going.job.clone(), elsewhere(&record, &self.state_dir()));
            match going.extent {
                RemovalExtent::Whole => {
                    // A crash may come between any two commands.
                    storage.make_dir(&self.state_dir()).ok()?;
                    assert!(self.apply(Command::Remove { job, elsewhere }));
                    self.check();
                }
                RemovalExtent::AllButResults => {
                    let state_dir = self.state_dir();
                    files::put_aside(storage, &state_dir, &job, &elsewhere, &mut aside).ok()?;
                    self.check();
                }
            }
        }
        for dir in aside {
            files::remove_dir(storage, &dir).ok()?;
        }
        self.finish(storage)
    }

    fn finish(&mut self, storage: &dyn Storage) -> Option<()> {
        for (job, removal) in self.ledger.removals().clone() {
            files::remove_job(storage, &self.state_dir(), &job, &removal).ok()?;
            assert!(self.apply(Command::Forget { job }));
        }
        Some(())
    }

    /// The next daemon finds what the one before has left.
    fn restart(&mut self) {
        let orphans = files::orphans(&Disk, &self.ledger, &self.state_dir()).unwrap();
        assert!(orphans.unknown.is_empty(), "{orphans:?}");
        let outside = files::orphans_elsewhere(&Disk, &self.ledger, &self.state_dir());
        for dir in orphans.left_over.into_iter().chain(outside) {
            files::remove_dir(&Disk, &dir).unwrap();
        }
        self.finish(&Disk).unwrap();
        self.check_nothing_is_aside();
        let known: BTreeSet<String> = self
            .ledger
            .jobs()
            .iter()
            .map(|record| record.job().0.clone())
            .collect();
        for dir in ["state/jobs", "big"] {
            let dir = self.dir.path().join(dir);
            for name in Disk.list_dirs(&dir).unwrap() {
                assert!(known.contains(&name), "{name} is left in {}", dir.display());
            }
        }
    }

    fn check_nothing_is_aside(&self) {
        let mut dirs = vec![self.dir.path().to_path_buf()];
        while let Some(dir) = dirs.pop() {
            for name in Disk.list_dirs(&dir).unwrap() {
                let is_aside = name.starts_with(GONE_PREFIX);
                assert!(!is_aside, "{name} is left in {}", dir.display());
                dirs.push(dir.join(name));
            }
        }
    }

    /// All that the jobs on record need is there.
    fn check(&self) {
        for record in self.ledger.jobs() {
            let (job, state) = (record.job(), record.state());
            let layout = self.layout(job);
            let there = |path: &Path| {
                assert!(
                    path.exists(),
                    "job {job} ({state:?}) needs {}",
                    path.display()
                )
            };
            there(&layout.job_toml());
            if state == State::Succeeded {
                there(&layout.final_dir());
                there(&layout::data_set(&layout.datasets(), "s0"));
                continue;
            }
            self.reads[job].iter().for_each(|path| there(path));
            let stages = record.progress.stages.iter();
            let checkpoints = stages.flat_map(|stage| &stage.checkpoints);
            checkpoints.for_each(|checkpoint| there(&checkpoint.dir));
        }
        for kept in ["state/token-sets/s", "state/plugins/p.wasm"] {
            assert!(self.dir.path().join(kept).exists());
        }
    }

    /// The stages that jobs which have not ended can take over.
    fn offers(&self) -> BTreeSet<(JobId, usize)> {
        let mut offers = BTreeSet::new();
        for record in self
            .ledger
            .jobs()
            .iter()
            .filter(|record| !record.state().is_final())
        {
            let next = record.progress.stages.len()..STAGES as usize;
            let found = next.filter(|stage| self.source_of(record, *stage).is_some());
            offers.extend(found.map(|stage| (record.job().clone(), stage)));
        }
        offers
    }
}

/// Runs one history; returns how many jobs went.
fn history(seed: u64) -> u64 {
    let mut world = World::new(seed);
    for _ in 0..ACTIONS {
        match world.draw(10) {
            0..2 => world.submit(),
            2..8 => world.go_on(),
            _ => {
                let offers = world.offers();
                let changes = world.draw(30) as i64;
                let left = AtomicI64::new(if changes < 10 { changes } else { i64::MAX });
                let is_whole = world.remove(&Killed { left }).is_some();
                world.check();
                assert_eq!(world.offers(), offers, "what could be taken over is gone");
                if !is_whole || changes == 20 {
                    world.restart();
                    world.check();
                }
            }
        }
    }
    world.restart();
    world.submitted - world.ledger.len() as u64
}

#[test]
fn nothing_that_a_job_needs_is_ever_removed() {
    let seeds = std::env::var("R1D_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = seeds.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    let mut gone = 0;
    for seed in seeds.clone() {
        let ran = std::panic::catch_unwind(|| history(seed));
        gone += ran.unwrap_or_else(|_| {
            panic!(
                "again: R1D_SEED={seed} cargo test --release --workspace --test removal_simulation"
            )
        });
    }
    assert!(
        gone > seeds.count() as u64,
        "hardly anything was removed: {gone} jobs"
    );
}
