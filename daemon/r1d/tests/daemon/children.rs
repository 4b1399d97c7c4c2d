//! The daemon's children with real processes: one that reads data or compiles a plugin may be
//! killed or stopped at any moment, which no job notices but by the time that it takes.

use crate::test_daemon::{TestDaemon, signal_process};
use r1d_proto::control::error::ErrorKind;
use r1d_proto::control::job::State;
use r1d_proto::control::{Request, Response};
use r1d_proto::frame::{Format, read_blocking, write_blocking};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the daemon is started as to read data, and to compile a plugin.
const READS: &str = "ingest";
const COMPILES: &str = "compile-reward";

/// The children of a daemon that do this.
fn children(daemon: u32, does: &str) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        fields.split_whitespace().nth(1) == Some(&daemon.to_string())
            && line.split('\0').any(|arg| arg == does)
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}

/// Sends a signal to the first child that does this.
fn strike(daemon: &mut TestDaemon, does: &str, signal: &str) -> u32 {
    let child = daemon.wait(does, |daemon| children(daemon.pid(), does).pop());
    signal_process(child, signal);
    child
}

fn is_there(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

/// A daemon that has a job which is held, and has to make again what is in `forgotten`, a folder of
/// its state, when the job is resumed.
fn held(forgotten: &str) -> (TestDaemon, String) {
    let mut daemon = TestDaemon::new();
    let row = fs::read_to_string(daemon.path("rows.jsonl")).unwrap();
    fs::write(daemon.path("rows.jsonl"), row.repeat(1000)).unwrap();
    daemon.start();
    let submit = Request::Submit {
        job: daemon.job(&[]),
        priority: None,
        pins: Default::default(),
        no_reuse: false,
        hold: true,
    };
    let Response::Submitted { job, .. } = daemon.ask(submit) else {
        panic!("{}", daemon.log());
    };
    daemon.kill();
    fs::remove_dir_all(daemon.state().join(forgotten)).unwrap();
    daemon.start();
    (daemon, job.0)
}

fn resume(daemon: &TestDaemon, job: &str) {
    let resumed = daemon.ask(Request::Resume { job: job.into() });
    assert!(!matches!(resumed, Response::Error(_)), "{resumed:?}");
}

#[test]
fn a_child_that_is_killed_once_is_replaced() {
    let reads = "the process that reads data.t";
    let compiles = "the process that compiles plugin accuracy is lost: the compiling process";
    for (forgotten, does, lost) in [("token-sets", READS, reads), ("cache", COMPILES, compiles)] {
        let (mut daemon, job) = held(forgotten);
        resume(&daemon, &job);
        strike(&mut daemon, does, "KILL");
        let status = daemon.wait_succeeded(&job);
        assert_eq!(status.restarts, 0, "{does}");
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains(lost));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        assert!(
            line.contains(&format!("job={job}"))
                && line.contains("(SIGKILL)): another is started in 0.25 s"),
            "{line}"
        );
    }
}

/// A job waits for a machine on which no child lives, and a client is told to try again.
#[test]
fn a_job_outlasts_children_that_are_killed_one_after_the_other() {
    let (mut daemon, job) = held("token-sets");
    let (pid, kills) = (daemon.pid(), AtomicBool::new(true));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while kills.load(Ordering::Relaxed) {
                for child in children(pid, READS) {
                    signal_process(child, "KILL");
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let end = Request::Submit {
            job: daemon.job(&[
                ("name = \"tested\"", "name = \"other\""),
                ("seed = 11", "seed = 12"),
            ]),
            priority: None,
            pins: Default::default(),
            no_reuse: false,
            hold: false,
        };
        let refused = daemon.ask(end);
        resume(&daemon, &job);
        let waits = daemon.wait("the wait for a child that lives", |daemon| {
            let waits = daemon.why(&job).waits;
            let waits = waits.into_iter().map(|wait| wait.waits_for);
            waits
                .into_iter()
                .find(|what| what.contains("5 times in a row"))
        });
        kills.store(false, Ordering::Relaxed);
        match refused {
            Response::Error(error) => assert_eq!(error.kind, ErrorKind::Internal, "{error:?}"),
            other => panic!("{other:?}"),
        }
        assert!(
            waits.starts_with("data.t") && waits.contains("SIGKILL"),
            "{waits}"
        );
    });
    daemon.wait_succeeded(&job);
}

/// Who waits for a plugin learns which one.
#[test]
fn a_plugin_that_is_compiled_is_named() {
    let (mut daemon, job) = held("cache");
    resume(&daemon, &job);
    let child = strike(&mut daemon, COMPILES, "STOP");
    daemon.wait("the plugin's name", |daemon| {
        let waits = daemon.why(&job).waits;
        waits
            .iter()
            .find(|wait| wait.waits_for.contains("plugin accuracy is being compiled"))?;
        Some(())
    });
    signal_process(child, "CONT");
    daemon.wait_succeeded(&job);
}

/// A child that compiles for a job has a deadline, which people see, and ends with the start that
/// wants its code.
#[test]
fn a_pause_ends_the_child_that_compiles_for_a_start() {
    let (mut daemon, job) = held("cache");
    resume(&daemon, &job);
    let child = strike(&mut daemon, COMPILES, "STOP");
    daemon.wait("a deadline", |daemon| {
        let waits = daemon.why(&job).waits;
        let compiled = waits
            .iter()
            .find(|wait| wait.waits_for.contains("plugin accuracy is being compiled"))?;
        let deadline_s = compiled.deadline_s?;
        assert!(deadline_s <= 300.0, "{deadline_s}");
        Some(())
    });
    let paused = daemon.ask(Request::Pause { job: job.clone() });
    assert!(!matches!(paused, Response::Error(_)), "{paused:?}");
    daemon.wait("the child's end", |_| (!is_there(child)).then_some(()));
    resume(&daemon, &job);
    daemon.wait_succeeded(&job);
}

/// A wait for a child has a deadline; a stopped one does not outlive its daemon.
#[test]
fn a_stopped_child_ends_with_its_daemon() {
    for (forgotten, does) in [("token-sets", READS), ("cache", COMPILES)] {
        for signal in ["KILL", "TERM"] {
            let (mut daemon, job) = held(forgotten);
            resume(&daemon, &job);
            let child = strike(&mut daemon, does, "STOP");
            if does == READS {
                daemon.wait("a deadline", |daemon| {
                    daemon.why(&job).waits.first()?.deadline_s
                });
            }
            daemon.signal(signal);
            daemon.ended();
            daemon.wait("the child's end", |_| (!is_there(child)).then_some(()));
        }
    }
}

/// The lowest number that no open file of the process has.
fn free_descriptor(pid: u32) -> u64 {
    let is_free = |number: &u64| !fs::exists(format!("/proc/{pid}/fd/{number}")).unwrap();
    (0..).find(is_free).unwrap()
}

#[test]
fn a_daemon_that_can_open_no_file_has_its_jobs_wait() {
    let (mut daemon, job) = held("token-sets");
    let pid = Pid::from_raw(daemon.pid() as i32);
    let mut stream = daemon.connect().unwrap();
    // The daemon has taken the connection up when it has answered another one.
    daemon.ask(Request::Nodes);
    let limit = |current| Rlimit {
        current: Some(current),
        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
    };
    let before = prlimit(pid, Resource::Nofile, limit(free_descriptor(daemon.pid()))).unwrap();
    let resume = Request::Resume { job: job.clone() };
    write_blocking(&mut stream, Format::Json, &resume).unwrap();
    let resumed: Response = read_blocking(&mut stream, Format::Json).unwrap();
    assert!(!matches!(resumed, Response::Error(_)), "{resumed:?}");
    // It has been tried, and could not be asked about.
    daemon.wait("the wait", |daemon| {
        daemon.log().contains("Too many open files").then_some(())
    });
    std::thread::sleep(Duration::from_millis(500));
    prlimit(pid, Resource::Nofile, before).unwrap();
    let status = daemon.try_status(&job).unwrap();
    assert_ne!(status.state, State::Failed, "{:?}", status.error);
    daemon.wait_succeeded(&job);
}
