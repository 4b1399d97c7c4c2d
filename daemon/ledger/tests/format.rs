//! Files of earlier formats: what they hold is there in the present one, whatever a crash cuts off.

use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder};
use r1d_ledger::{
    Command, CommandId, Effect, FORMAT_VERSION, JobRecord, Ledger, LedgerError, NewJob, Record,
    Rejected,
};
use r1d_proto::control::job::State as RunState;
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The ledger of a state directory of the last release that wrote format 1.
const LEDGER: &[u8] = include_bytes!("format-1/ledger.redb.gz");
/// What that release said of its jobs.
const EXPECTED: &[u8] = include_bytes!("format-1/expected.json.gz");

fn unpacked(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The jobs by name, with their ids.
fn expected() -> Vec<(String, JobId, Value)> {
    let all: Value = serde_json::from_slice(&unpacked(EXPECTED)).unwrap();
    let job = |(id, job): (&String, &Value)| {
        let name = job["status"]["name"].as_str().unwrap().to_owned();
        (name, JobId(id.clone()), job.clone())
    };
    all.as_object().unwrap().iter().map(job).collect()
}

/// A state directory with the ledger of format 1.
fn state_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ledger.redb"), unpacked(LEDGER)).unwrap();
    dir
}

fn open(dir: &Path) -> Ledger {
    Ledger::open(&dir.join("ledger.redb")).unwrap()
}

/// All that the ledger knows, as text.
fn contents(ledger: &Ledger) -> String {
    let job = |record: &JobRecord| {
        let stages = 0..record.progress.stages.len() as u32;
        let metrics = stages.map(|stage| ledger.metrics(record.job(), stage).unwrap());
        format!("{record:?}\n{:?}\n", metrics.collect::<Vec<_>>())
    };
    ledger
        .state()
        .jobs()
        .iter()
        .map(|record| job(record))
        .collect()
}

/// Compares a job's stages with those of a status; those of a running job may have gone on.
fn check_stages(record: &JobRecord, status: &Value) {
    let stages = status["stages"].as_array().unwrap();
    for (stage, expected) in record.progress.stages.iter().zip(stages) {
        assert_eq!(stage.name, expected["name"].as_str().unwrap());
        assert_eq!(stage.steps, expected["steps"].as_u64().unwrap());
        let step = expected["step"].as_u64().unwrap();
        assert!(stage.step == step || stage.step > step && stage.state == RunState::Running);
        assert!(!stage.metrics.is_empty() && stage.begun_at > 0);
    }
    let begun = stages
        .iter()
        .filter(|stage| stage["step"].as_u64() > Some(0));
    assert_eq!(record.progress.stages.len(), begun.count());
}

/// Compares a job's metrics with the lines of `metrics.jsonl`.
fn check_metrics(ledger: &Ledger, record: &JobRecord, lines: &[Value]) {
    let mut of_stages = Vec::new();
    for (index, stage) in record.progress.stages.iter().enumerate() {
        let rows = ledger.metrics(record.job(), index as u32).unwrap();
        assert_eq!(rows.len() as u64, stage.step, "{}", stage.name);
        of_stages.extend(rows.into_iter().map(|row| (stage.name.clone(), row)));
    }
    for line in lines {
        let place = (
            line["stage"].as_str().unwrap(),
            line["step"].as_u64().unwrap() - 1,
        );
        let row = of_stages
            .iter()
            .find(|(stage, (step, _))| (stage.as_str(), *step) == place);
        let (_, (_, metrics)) = row.unwrap_or_else(|| panic!("no metrics of {place:?}"));
        let numbers = line.as_object().unwrap().iter();
        let numbers = numbers.filter(|(name, _)| *name != "stage" && *name != "step");
        for (name, value) in numbers {
            let kept = metrics[name.as_str()];
            assert!(
                value.as_f64().map_or(kept.is_nan(), |value| value == kept),
                "{name}: {kept}"
            );
        }
        assert_eq!(
            metrics.len(),
            line.as_object().unwrap().len() - 2,
            "{place:?}"
        );
    }
}

#[test]
fn a_ledger_of_format_1_is_brought_up_with_all_that_it_holds() {
    let dir = state_directory();
    let ledger = open(dir.path());
    assert_eq!(ledger.state().jobs().len(), expected().len());
    let mut jobs = std::collections::BTreeMap::new();
    for (name, id, expected) in expected() {
        let (record, status) = (
            ledger.state().job(&id).cloned().unwrap(),
            &expected["status"],
        );
        let state = serde_json::to_value(record.state()).unwrap();
        assert_eq!(
            (&state, &*record.submission.name),
            (&status["state"], &*name)
        );
        assert_eq!(Value::from(record.submission.priority), status["priority"]);
        assert_eq!(
            Value::from(record.submission.submitted_at),
            status["submitted_at"]
        );
        assert!(record.request.is_some() && record.submission.job_toml.contains("[[stage]]"));
        check_stages(&record, status);
        let evals = status["evals"].as_array().unwrap();
        let kept = record
            .evals
            .iter()
            .map(|eval| serde_json::to_value(&**eval).unwrap());
        assert_eq!(&kept.take(evals.len()).collect::<Vec<_>>(), evals);
        check_metrics(&ledger, &record, expected["metrics"].as_array().unwrap());
        jobs.insert(name, record);
    }
    // The ledger has what the release has no words for.
    assert_eq!(jobs["whole"].reward_versions.len(), 3);
    assert_eq!(jobs["reusing"].reuse.taken.len(), 2);
    assert!(jobs["running"].strikes.taken_up && jobs["running"].progress.epoch > 1);
    let checkpoints = jobs["whole"]
        .progress
        .stages
        .iter()
        .map(|stage| stage.checkpoints.len());
    assert_eq!(checkpoints.collect::<Vec<_>>(), [2, 2, 2]);
    let model = jobs["whole"].progress.model.as_ref().unwrap();
    assert_eq!(
        *model,
        dir.path()
            .join("jobs")
            .join(&jobs["whole"].job().0)
            .join("final")
    );
    let before = contents(&ledger);
    drop(ledger);
    let size = std::fs::metadata(dir.path().join("ledger.redb"))
        .unwrap()
        .len();
    assert!(
        size < unpacked(LEDGER).len() as u64,
        "{size}: the metrics are elsewhere"
    );
    assert_eq!(contents(&open(dir.path())), before);
}

/// The first builds that wrote format 1 had none of these tables.
#[test]
fn a_ledger_of_format_1_may_lack_what_came_later() {
    let dir = state_directory();
    let database = Database::open(dir.path().join("ledger.redb")).unwrap();
    let write = database.begin_write().unwrap();
    for table in ["strikes", "reuse"] {
        let table = TableDefinition::<&str, &[u8]>::new(table);
        assert!(write.delete_table(table).unwrap());
    }
    let requests = TableDefinition::<&str, &str>::new("requests");
    assert!(write.delete_table(requests).unwrap());
    let versions = TableDefinition::<(&str, u64), &[u8]>::new("graders");
    assert!(write.delete_table(versions).unwrap());
    write.commit().unwrap();
    drop(database);
    let ledger = open(dir.path());
    assert_eq!(ledger.state().jobs().len(), expected().len());
    for record in ledger.state().jobs() {
        assert!(record.request.is_none() && record.reuse.keys.is_empty());
        assert!(record.reward_versions.is_empty() && record.strikes.count == 0);
    }
}

#[test]
fn a_job_of_format_1_goes_on() {
    let dir = state_directory();
    let (_, job, _) = expected()
        .into_iter()
        .find(|(name, ..)| name == "running")
        .unwrap();
    let ledger = open(dir.path());
    let start = Command::Start {
        job: job.clone(),
        at: 1,
    };
    let Effect::Started { epoch, .. } = ledger.apply(start).unwrap() else {
        panic!("not started");
    };
    let record = ledger.state().job(&job).cloned().unwrap();
    let (stage, at_work) = record.stage_at_work().unwrap();
    let step = at_work.step;
    for step in step..step + 70 {
        let metrics = Metrics::from([("loss".into(), step as f64)]);
        let commit = Command::CommitStep {
            job: job.clone(),
            epoch,
            stage,
            step,
            metrics,
        };
        ledger.apply(commit).unwrap();
    }
    let before = contents(&ledger);
    drop(ledger);
    let ledger = open(dir.path());
    assert_eq!(contents(&ledger), before);
    let steps = ledger.metrics_in(&job, stage, step - 3..step + 60).unwrap();
    assert!(steps.iter().map(|(step, _)| *step).eq(step - 3..step + 60));
}

/// A daemon that is killed while it brings the ledger up leaves the old file in its place, and
/// beside it any part of the new one and of the jobs' metrics.
#[test]
fn a_migration_that_was_cut_off_is_begun_anew() {
    let whole = state_directory();
    let held = contents(&open(whole.path()));
    let new = std::fs::read(whole.path().join("ledger.redb")).unwrap();
    for length in [0, 1, 4096, new.len() / 2, new.len() - 1, new.len()] {
        let dir = state_directory();
        std::fs::write(dir.path().join("ledger.redb.new"), &new[..length]).unwrap();
        for (index, (_, job, _)) in expected().into_iter().enumerate() {
            let path = |dir: &Path| dir.join("jobs").join(&job.0).join("metrics.blocks");
            let Ok(blocks) = std::fs::read(path(whole.path())) else {
                continue;
            };
            std::fs::create_dir_all(path(dir.path()).parent().unwrap()).unwrap();
            let part = blocks.len() * index / 4;
            std::fs::write(path(dir.path()), &blocks[..part.min(blocks.len())]).unwrap();
        }
        let found = contents(&open(dir.path()));
        let own = dir.path().to_str().unwrap();
        let theirs = whole.path().to_str().unwrap();
        assert_eq!(
            found.replace(own, theirs),
            held,
            "{length} bytes of the new file"
        );
        assert!(!dir.path().join("ledger.redb.new").exists());
    }
}

/// A disk that does not take the jobs' metrics leaves the old ledger as it was.
#[test]
fn a_migration_that_fails_leaves_the_old_ledger() {
    let dir = state_directory();
    std::fs::write(dir.path().join("jobs"), "in the way").unwrap();
    let error = Ledger::open(&dir.path().join("ledger.redb")).err().unwrap();
    assert!(error.to_string().contains("metrics.blocks"), "{error}");
    std::fs::remove_file(dir.path().join("jobs")).unwrap();
    assert_eq!(open(dir.path()).state().jobs().len(), expected().len());
}

#[test]
fn the_file_says_which_format_it_has_and_a_newer_one_is_refused() {
    const FORMAT: TableDefinition<&str, u64> = TableDefinition::new("format");
    let dir = state_directory();
    drop(open(dir.path()));
    let database = Database::open(dir.path().join("ledger.redb")).unwrap();
    let read = database.begin_read().unwrap();
    let version = read.open_table(FORMAT).unwrap().get("version").unwrap();
    assert_eq!(version.map(|version| version.value()), Some(FORMAT_VERSION));
    let write = database.begin_write().unwrap();
    let newer = FORMAT_VERSION + 1;
    write
        .open_table(FORMAT)
        .unwrap()
        .insert("version", newer)
        .unwrap();
    write.commit().unwrap();
    drop((read, database));
    let error = Ledger::open(&dir.path().join("ledger.redb")).err().unwrap();
    assert!(
        matches!(error, LedgerError::Newer { found, .. } if found == newer),
        "{error}"
    );
    assert!(
        error.to_string().contains("run the release that wrote it"),
        "{error}"
    );
}

/// The files of a state directory, by their paths in it.
type Files = Vec<(String, Vec<u8>)>;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format-2/state.gz")
}

/// A state directory with the ledger of format 2, as its first release wrote it.
fn format_2() -> tempfile::TempDir {
    let packed = std::fs::read(golden()).unwrap();
    let files: Files = postcard::from_bytes(&unpacked(&packed)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    dir
}

/// The state directory that the ledger of format 1 became: format 2, as its first release wrote it.
/// It is made anew (`R1D_UPDATE_GOLDENS=1`) only if that release was never given to anybody.
#[test]
fn a_ledger_of_format_2_is_read_for_ever() {
    let now = state_directory();
    let held = contents(&open(now.path()));
    if std::env::var_os("R1D_UPDATE_GOLDENS").is_some() {
        let own = now.path().join("jobs");
        let jobs = std::fs::read_dir(&own)
            .unwrap()
            .map(|job| job.unwrap().file_name());
        let blocks = jobs.map(|job| format!("jobs/{}/metrics.blocks", job.to_str().unwrap()));
        let paths = blocks.chain(["ledger.redb".to_owned()]);
        let mut files: Files = paths
            .map(|path| (path.clone(), std::fs::read(now.path().join(path)).unwrap()))
            .collect();
        files.sort();
        let bytes = postcard::to_stdvec(&files).unwrap();
        let mut packed = Vec::new();
        GzEncoder::new(bytes.as_slice(), Compression::best())
            .read_to_end(&mut packed)
            .unwrap();
        std::fs::write(golden(), packed).unwrap();
    }
    let dir = format_2();
    let found = contents(&open(dir.path()));
    let (own, theirs) = (dir.path().to_str().unwrap(), now.path().to_str().unwrap());
    assert_eq!(found.replace(own, theirs), held);
}

fn submit(job: &str) -> Command {
    Command::Submit(NewJob::of(JobId(job.into()), "seed = 1"))
}

/// The first releases of format 2 know no answers to commands. Their files gain them with the first
/// command that has an id; and a command without one, as those releases carry it out, leaves them.
#[test]
fn a_ledger_without_answers_gains_them() {
    let dir = format_2();
    let id = CommandId {
        session: 3,
        number: 1,
    };
    let jobs = open(dir.path()).state().jobs().len();
    let ledger = open(dir.path());
    Record::apply(&ledger, id, submit("new")).unwrap();
    drop(ledger);
    open(dir.path()).apply(submit("other")).unwrap();
    let ledger = open(dir.path());
    let again = Record::apply(&ledger, id, submit("new")).unwrap();
    assert_eq!(again, Effect::Submitted);
    assert_eq!(ledger.state().jobs().len(), jobs + 2);
}

/// What a command did to a later release is not known here: the command counts as forgotten, and
/// the ledger opens.
#[test]
fn the_answer_of_a_later_release_is_no_damage() {
    const ANSWERS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("answers");
    let dir = tempfile::tempdir().unwrap();
    let id = CommandId {
        session: 3,
        number: 1,
    };
    let ledger = open(dir.path());
    Record::apply(&ledger, id, submit("new")).unwrap();
    drop(ledger);
    let database = Database::open(dir.path().join("ledger.redb")).unwrap();
    let write = database.begin_write().unwrap();
    let mut answers = write.open_table(ANSWERS).unwrap();
    let key = (id.session, id.number);
    let mut row = answers.get(key).unwrap().unwrap().value().to_vec();
    let effect = row.windows(9).position(|part| part == b"Submitted");
    row[effect.unwrap()] = b'X';
    answers.insert(key, row.as_slice()).unwrap();
    drop(answers);
    write.commit().unwrap();
    drop(database);
    let ledger = open(dir.path());
    let again = Record::apply(&ledger, id, submit("new")).unwrap_err();
    assert!(
        matches!(
            again,
            LedgerError::Rejected(Rejected::IdForgotten { id: of }) if of == id
        ),
        "{again}"
    );
    assert_eq!(ledger.state().jobs().len(), 1);
}
