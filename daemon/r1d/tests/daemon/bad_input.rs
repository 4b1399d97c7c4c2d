//! What no user means to do, and what happens all the same: two daemons at once, a state directory
//! of a later release, a disk that is full or takes nothing, a clock that jumps, clients by the
//! hundred, requests that never end. Each gets a clear error or service as usual, and nothing is
//! lost. What happens to a job's own files is in `durable.rs`, and clients that leave in
//! `clients.rs`.

use crate::test_daemon::{Mount, TestDaemon, may_mount, mount_in_child};
use r1d_ledger::{Command as LedgerCommand, FORMAT_VERSION, Ledger};
use r1d_proto::control::error::ErrorKind;
use r1d_proto::control::job::{JobStatus, JobSummary, State};
use r1d_proto::control::{Request, Response};
use r1d_proto::frame::{self, Format, HEADER_BYTES, read_blocking};
use r1d_proto::ids::JobId;
use redb::TableDefinition;
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The time within which a client has to have sent its request.
const REQUEST_MAX: Duration = Duration::from_secs(10);

fn listed(daemon: &TestDaemon) -> Vec<JobSummary> {
    match daemon.ask(Request::List) {
        Response::Jobs(jobs) => jobs,
        other => panic!("{other:?}"),
    }
}

/// The files below a directory, with their bytes. Sockets are left out.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a kind"));
        if kind.is_dir() {
            found.extend(files(&path));
        } else if kind.is_file() {
            let bytes = fs::read(&path).expect("a file");
            found.insert(path, bytes);
        }
    }
    found
}

#[test]
fn of_two_daemons_that_start_at_once_one_serves() {
    for _ in 0..3 {
        let mut daemon = TestDaemon::new();
        let start = || -> Child {
            let mut command = daemon.command();
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().expect("r1d starts")
        };
        let mut both = [start(), start()];
        let loser = daemon.wait("one of them to end", |_| {
            (0..2).find(|index| both[*index].try_wait().expect("its status").is_some())
        });
        let [first, second] = both;
        let (loser, mut winner) = if loser == 0 {
            (first, second)
        } else {
            (second, first)
        };
        let ended = loser.wait_with_output().expect("its words");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("--state-dir"), "{said}");
        let answer = daemon.wait("the other's answer", |daemon| daemon.try_ask(Request::List));
        assert!(matches!(answer, Response::Jobs(_)));
        winner.kill().expect("it runs");
        winner.wait().expect("its status");
    }
}

fn set_version(state: &Path, version: u64) {
    const FORMAT: TableDefinition<&str, u64> = TableDefinition::new("format");
    let database = redb::Database::open(state.join("ledger.redb")).unwrap();
    let write = database.begin_write().unwrap();
    write
        .open_table(FORMAT)
        .unwrap()
        .insert("version", version)
        .unwrap();
    write.commit().unwrap();
}

/// An operator goes back to an earlier release: it touches nothing, and the later one goes on.
#[test]
fn a_state_directory_of_a_later_release_is_refused_and_left_alone() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-2", "hang");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let count = daemon.path("faults/train.count");
    daemon.wait("its second update", |_| {
        (fs::read_to_string(&count).ok()? == "2").then_some(())
    });
    daemon.kill();
    set_version(&daemon.state(), FORMAT_VERSION + 1);
    let before = files(&daemon.state().join("jobs"));
    let refused = daemon.command().output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(
        refused.status.code(),
        Some(65),
        "a restart does not help: {said}"
    );
    for word in ["ledger.redb", "run the release that wrote it"] {
        assert!(said.contains(word), "{said}");
    }
    let after = files(&daemon.state().join("jobs"));
    let changed = |path: &&PathBuf| before.get(*path) != after.get(*path);
    let changed: Vec<_> = before.keys().chain(after.keys()).filter(changed).collect();
    assert!(changed.is_empty(), "{changed:?}");
    set_version(&daemon.state(), FORMAT_VERSION);
    daemon.start();
    let status = daemon.wait_succeeded(&job);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
}

/// Fills the daemon's disk to its last byte.
fn fill(daemon: &TestDaemon) -> PathBuf {
    let path = daemon.on_its_disk(&daemon.state().join("ballast"));
    let mut ballast = fs::File::create(&path).expect("a file");
    for length in [1 << 16, 1 << 10, 1] {
        while ballast.write_all(&vec![0; length]).is_ok() {}
    }
    path
}

/// Whatever the daemon or its worker writes next finds no room: the job waits, says for what, and
/// ends as if nothing had happened.
#[test]
fn a_disk_that_fills_up_at_any_moment_is_waited_for() {
    let mut daemon = TestDaemon::new();
    fs::create_dir_all(daemon.state()).unwrap();
    if !may_mount(&daemon.state()) {
        return eprintln!("skipped: this user may not mount a file system");
    }
    daemon.set_disk(64 << 20);
    let moments = [("supervise", 2), ("save", 3), ("generate", 2), ("train", 4)];
    for (moment, n) in moments {
        daemon.plant(&format!("{moment}-{n}"), "hold");
    }
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let at_least = |daemon: &TestDaemon, moment: &str, n: u64| {
        let count = fs::read_to_string(daemon.path(&format!("faults/{moment}.count")));
        count
            .ok()
            .and_then(|count| count.parse().ok())
            .is_some_and(|count: u64| count >= n)
    };
    for (moment, n) in moments {
        daemon.wait(moment, |daemon| at_least(daemon, moment, n).then_some(()));
        let ballast = fill(&daemon);
        daemon.heal(&format!("{moment}-{n}"));
        let waits = daemon.wait("the wait for room", |daemon| {
            let status = daemon.try_status(&job)?;
            assert!(!status.state.is_final(), "{:?} at {moment}", status.error);
            let waits = daemon
                .why(&job)
                .waits
                .into_iter()
                .map(|wait| wait.waits_for);
            waits.into_iter().find(|what| what.contains("make room"))
        });
        assert!(waits.contains("No space left"), "{waits}");
        // Whoever submits now hears of it, and whoever looks is answered.
        let refused = daemon.ask(Request::Submit {
            job: daemon.job(&[("seed = 11", "seed = 12")]),
            priority: None,
            pins: Default::default(),
            no_reuse: false,
            hold: false,
        });
        let Response::Error(refused) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(refused.kind, ErrorKind::Internal, "{}", refused.message);
        assert!(refused.message.contains("make room"), "{}", refused.message);
        assert_eq!(listed(&daemon).len(), 1);
        fs::remove_file(ballast).unwrap();
    }
    let status = daemon.wait_ended(&job);
    assert_eq!(status.state, State::Succeeded, "{:?}", status.error);
    let status = JobStatus {
        model: status.model.as_ref().map(|model| daemon.on_its_disk(model)),
        directory: daemon.on_its_disk(&status.directory),
        ..status
    };
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named_at_the_start() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-2", "hang");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let count = daemon.path("faults/train.count");
    daemon.wait("its second update", |_| {
        (fs::read_to_string(&count).ok()? == "2").then_some(())
    });
    daemon.kill();
    if !may_mount(&daemon.state()) {
        return eprintln!("skipped: this user may not mount a file system");
    }
    let mut command: Command = daemon.command();
    mount_in_child(&mut command, &daemon.state(), Mount::ReadOnly);
    let refused = command.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && !said.contains("panicked"),
        "{said}"
    );
    let state = daemon.state().display().to_string();
    for word in [state.as_str(), "Read-only file system"] {
        assert!(said.contains(word), "{said}");
    }
    daemon.start();
    let status = daemon.wait_succeeded(&job);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
}

/// The clock was years ahead, or in 1970, when the job began; now it is right.
#[test]
fn a_clock_that_jumps_changes_nothing_but_times() {
    let years_ahead = 4_000_000_000;
    for at in [years_ahead, 1] {
        let mut daemon = TestDaemon::new();
        daemon.plant("probe", "69 this device cannot be used yet");
        daemon.start();
        let job = daemon.submit(daemon.job(&[]));
        daemon.kill();
        let ledger = Ledger::open(&daemon.state().join("ledger.redb")).unwrap();
        let id = JobId(job.clone());
        ledger.apply(LedgerCommand::Start { job: id, at }).unwrap();
        drop(ledger);
        daemon.start();
        let status = daemon.try_status(&job).expect("a status");
        assert_eq!(
            (status.state, status.started_at),
            (State::Running, Some(at))
        );
        let wait = daemon.why(&job).waits.into_iter().next().expect("a wait");
        assert!(wait.since_s >= 0.0 && wait.since_s < 1e4, "{wait:?}");
        daemon.heal("probe");
        let status = daemon.wait_succeeded(&job);
        assert!(status.ended_at.is_some_and(|ended| ended < years_ahead));
        assert!(
            status
                .stages
                .iter()
                .all(|stage| stage.seconds >= 0.0 && stage.seconds < 1e4)
        );
        assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
        assert_eq!(listed(&daemon).len(), 1);
    }
}

/// Half of each request is sent, and then nothing. 200 such clients keep nobody waiting; the newest
/// of them hear what is missing.
#[test]
fn half_a_request_is_waited_for_a_while_and_by_nobody_else() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let whole = frame::encode(Format::Json, &Request::Cancel { job: job.clone() }).unwrap();
    let half = |length: usize| {
        let mut stream = daemon.connect().expect("a connection");
        stream.write_all(&whole[..length]).expect("half a request");
        stream
    };
    let lengths = [1, HEADER_BYTES - 1, HEADER_BYTES, whole.len() - 1];
    let mut clients: Vec<UnixStream> = (0..200).map(|at| half(lengths[at % 4])).collect();
    let status = daemon.wait_succeeded(&job);
    assert_eq!(status.restarts, 0);
    let newest = clients.last_mut().unwrap();
    newest.set_read_timeout(Some(3 * REQUEST_MAX)).unwrap();
    let Response::Error(error) = read_blocking(newest, Format::Json).expect("an answer") else {
        panic!("no error")
    };
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(
        error.message.contains("no request within 10 s"),
        "{}",
        error.message
    );
    // Who came before so many others is told by the connection's end.
    assert_eq!(clients[0].read(&mut [0]).unwrap_or(0), 0);
}

/// Each of 200 clients at a time gets an answer, or is told to try again; what was answered is so.
#[test]
fn two_hundred_clients_at_a_time_are_answered() {
    let mut daemon = TestDaemon::new();
    daemon.plant("probe", "69 this device cannot be used yet");
    daemon.start();
    let first = daemon.submit(daemon.job(&[]));
    let (daemon, first) = (&daemon, first.as_str());
    let ask = |index: u32| -> Response {
        let request = match index % 4 {
            0 => Request::List,
            1 => Request::Status { job: first.into() },
            2 => Request::Nodes,
            _ => Request::Submit {
                job: daemon.job(&[("seed = 11", &format!("seed = {index}"))]),
                priority: None,
                pins: Default::default(),
                no_reuse: false,
                hold: false,
            },
        };
        daemon
            .try_ask(request)
            .unwrap_or_else(|| panic!("client {index} has no answer"))
    };
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let ask = &ask;
        let clients: Vec<_> = (0..200)
            .map(|index| scope.spawn(move || ask(index)))
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("an answer"))
            .collect()
    });
    let mut submitted = 1;
    for (index, answer) in answers.iter().enumerate() {
        match (index % 4, answer) {
            (0, Response::Jobs(_)) | (1, Response::Status(_)) | (2, Response::Nodes(_)) => {}
            (3, Response::Submitted { .. }) => submitted += 1,
            (_, Response::Error(error)) if error.kind == ErrorKind::Busy => {}
            (_, other) => panic!("client {index}: {other:?}"),
        }
    }
    assert!(submitted > 1, "nobody could submit");
    assert_eq!(listed(daemon).len(), submitted);
}

fn memory_mb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("its memory");
    let kb: u64 = line
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .expect("a number");
    kb / 1024
}

/// A request of 1 GB is refused by its header, whether or not it comes, and takes no memory.
#[test]
fn a_request_of_a_gigabyte_is_refused_and_takes_no_memory() {
    const LENGTH: u32 = 1 << 30;
    let mut daemon = TestDaemon::new();
    daemon.start();
    let before = memory_mb(daemon.pid());
    let mut header = frame::encode(Format::Json, &Request::List).unwrap();
    header.truncate(HEADER_BYTES);
    header[8..12].copy_from_slice(&LENGTH.to_le_bytes());
    let refused = |stream: &mut UnixStream| {
        let Response::Error(error) = read_blocking(stream, Format::Json).expect("an answer") else {
            panic!("no error")
        };
        assert_eq!(error.kind, ErrorKind::Invalid);
        let words = ["frame of 1073741824 bytes", "the limit is"];
        assert!(
            words.iter().all(|word| error.message.contains(word)),
            "{}",
            error.message
        );
    };
    let mut claims = daemon.connect().unwrap();
    claims.write_all(&header).unwrap();
    refused(&mut claims);
    let mut sends = daemon.connect().unwrap();
    sends.write_all(&header).unwrap();
    let chunk = vec![b' '; 1 << 20];
    for _ in 0..LENGTH >> 20 {
        match sends.write_all(&chunk) {
            Ok(()) => {}
            Err(error) if error.kind() == IoErrorKind::BrokenPipe => break,
            Err(error) => panic!("{error}"),
        }
    }
    refused(&mut sends);
    assert!(matches!(daemon.ask(Request::Nodes), Response::Nodes(_)));
    let taken = memory_mb(daemon.pid()) - before;
    assert!(taken < 64, "{taken} MB");
}

/// A job file just below the limit, all of it tables: refused in words, and others are served.
#[test]
fn a_job_file_of_ten_thousand_tables_is_refused_in_words() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let path = daemon.path("rows.jsonl").display().to_string();
    let named = |table: usize| format!("[data.t{table}]\npath = \"{path}\"\nprompt = \"prompt\"\n");
    let rewards = |_: usize| "  [[stage.reward]]\n  plugin = \"accuracy\"\n".to_owned();
    let stages = |table: usize| {
        format!("[[stage]]\nname = \"s{table}\"\nkind = \"sft\"\ndata = \"train\"\nepochs = 1\n")
    };
    let nested = |table: usize| format!("[a{}]\n", ".a".repeat(table % 40));
    let all = |table: &dyn Fn(usize) -> String| -> String { (0..10_000).map(table).collect() };
    for tables in [all(&named), all(&rewards), all(&stages), all(&nested)] {
        let tables = &tables[..tables.len().min(1_000_000)];
        let cut = tables.rfind('\n').unwrap_or(0);
        let job = format!("{}\n{}\n", daemon.job(&[]), &tables[..cut]);
        let mut waiting = daemon.connect().unwrap();
        let plan = Request::Plan {
            job: job.clone(),
            pins: Default::default(),
        };
        frame::write_blocking(&mut waiting, Format::Json, &plan).unwrap();
        assert!(matches!(daemon.ask(Request::Nodes), Response::Nodes(_)));
        let Response::Error(error) = read_blocking(&mut waiting, Format::Json).unwrap() else {
            panic!("planned")
        };
        assert_eq!(error.kind, ErrorKind::Invalid, "{}", error.message);
        assert!(
            error.message.len() < 10_000,
            "{} bytes",
            error.message.len()
        );
        assert_eq!(daemon.refused(job), error.message);
    }
    assert!(listed(&daemon).is_empty());
    let job = daemon.submit(daemon.job(&[]));
    daemon.wait_succeeded(&job);
}
