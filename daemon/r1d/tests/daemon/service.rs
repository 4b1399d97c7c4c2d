//! The daemon as a service: what it ends with when it cannot start, what it says of the machine and
//! of files out of its reach, and what happens when these change under it.

use crate::test_daemon::TestDaemon;
use r1d_proto::control::error::ErrorKind;
use r1d_proto::control::job::State;
use r1d_proto::control::{Request, Response};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

/// sysexits' EX_CONFIG, which the unit does not restart after.
const EXIT_CONFIG: Option<i32> = Some(78);
/// sysexits' EX_DATAERR.
const EXIT_DATA: Option<i32> = Some(65);

/// A daemon that does not start: its exit status, and what it says.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (ended.status.code(), said)
}

/// The daemon with a configuration file.
fn configured(daemon: &TestDaemon, text: &str) -> Command {
    let file = daemon.path("r1d.toml");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_r1d"));
    command
        .args(["run", "--config"])
        .arg(file)
        .arg("--state-dir")
        .arg(daemon.state());
    command
}

fn waits(daemon: &TestDaemon, job: &str) -> String {
    daemon
        .why(job)
        .waits
        .into_iter()
        .map(|wait| wait.waits_for)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn a_mistaken_configuration_ends_with_a_status_that_no_restart_follows() {
    let daemon = TestDaemon::new();
    let mistakes = [
        ("[node]\ndevcies = \"auto\"\n", "devcies"),
        ("[log]\nlevel = \"inof\"\n", "inof"),
        ("not toml", "r1d.toml"),
        ("[node]\ndevices = [\"gpu\"]\n", "gpu"),
    ];
    for (text, named) in mistakes {
        let (code, said) = refused(&mut configured(&daemon, text));
        assert!(
            code == EXIT_CONFIG && said.contains(named),
            "{code:?}: {said}"
        );
    }
    let (code, said) =
        refused(Command::new(env!("CARGO_BIN_EXE_r1d")).args(["dev", "--devices", "cpu,gpu"]));
    assert!(
        code == EXIT_CONFIG && said.contains("--devices: `devices` names \"gpu\""),
        "{code:?}: {said}"
    );
    let (code, said) = refused(Command::new(env!("CARGO_BIN_EXE_r1d")).args([
        "run",
        "--config",
        "/nowhere/r1d.toml",
    ]));
    assert!(
        code == EXIT_CONFIG && said.contains("/nowhere/r1d.toml"),
        "{code:?}: {said}"
    );
    // Whatever its name leads to is opened once, without waiting.
    let fifo = daemon.path("fifo.toml");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    for no_file in [fifo.to_str().unwrap(), "/dev/zero"] {
        let (code, said) = refused(
            Command::new("timeout")
                .arg("60")
                .arg(env!("CARGO_BIN_EXE_r1d"))
                .args(["run", "--config", no_file]),
        );
        assert!(
            code == EXIT_CONFIG && said.contains(no_file) && said.contains("regular file"),
            "{code:?}: {said}"
        );
    }
    let long = daemon.path(&"s".repeat(120));
    let (code, said) = refused(daemon.command().arg("--socket").arg(&long));
    assert!(
        code == EXIT_CONFIG && said.contains("[listen] socket") && said.contains("107"),
        "{code:?}: {said}"
    );
}

/// Another try may find the machine with more, so the unit makes one. How many files a start needs
/// differs between machines: one file more is given until they suffice.
#[test]
fn too_few_files_for_a_start_are_named_and_tried_again() {
    let daemon = TestDaemon::new();
    let mut refusals = 0;
    for files in 12.. {
        let given = daemon.command();
        let (code, said) = refused(
            Command::new("sh")
                .args(["-c", "ulimit -n $0 && exec timeout 20 \"$@\""])
                .arg(files.to_string())
                .arg(given.get_program())
                .args(given.get_args()),
        );
        if said.contains("is ready") {
            break;
        }
        refusals += 1;
        assert!(
            code == Some(1) && said.contains("LimitNOFILE="),
            "{files}: {code:?}: {said}"
        );
    }
    assert!(refusals > 1, "{refusals} limits were refused");
}

#[test]
fn a_group_of_administrators_that_is_not_there_is_warned_of() {
    let mut daemon = TestDaemon::new();
    daemon.devices(&["cpu"]);
    let file = daemon.path("r1d.toml");
    let text = fs::read_to_string(&file).unwrap();
    let text = text + "[listen]\nadmin_group = \"no-such-group\"\n";
    fs::write(&file, text).unwrap();
    daemon.start();
    daemon.wait("the warning", |daemon| {
        let log = daemon.log();
        log.contains("no group no-such-group").then_some(())
    });
}

#[test]
fn what_no_worker_can_do_without_is_missed_at_the_start() {
    let daemon = TestDaemon::new();
    let mut nowhere = configured(&daemon, "[node]\ndevices = [\"cpu\"]\n");
    let (code, said) = refused(nowhere.args(["--worker", "/nowhere/r1d-worker"]));
    assert!(
        code == EXIT_CONFIG && said.contains("/nowhere/r1d-worker") && said.contains("--worker"),
        "{code:?}: {said}"
    );
    daemon.plant(
        "probe",
        "127 r1d-worker: error while loading shared libraries: libtorch_cpu.so: cannot open \
         shared object file",
    );
    let (code, said) = refused(&mut daemon.command());
    assert!(
        code == EXIT_CONFIG && said.contains("[torch] lib") && said.contains("libtorch_cpu.so"),
        "{code:?}: {said}"
    );
}

#[test]
fn a_device_that_cannot_be_used_gets_no_jobs_until_it_can() {
    let mut daemon = TestDaemon::new();
    daemon.plant(
        "probe",
        "69 r1d-worker: device \"cuda:0\": this machine has 0 GPU(s)",
    );
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let waits = waits(&daemon, &job);
    assert!(
        waits.contains("a free device") && waits.contains("this machine has 0 GPU(s)"),
        "{waits}"
    );
    let Response::Nodes(nodes) = daemon.ask(Request::Nodes) else {
        panic!("no nodes")
    };
    let device = &nodes[0].devices[0];
    assert_eq!(device.state, "failed");
    assert!(
        device
            .problem
            .as_ref()
            .is_some_and(|problem| problem.contains("0 GPU(s)")),
        "{device:?}"
    );
    daemon.heal("probe");
    assert_eq!(daemon.wait_succeeded(&job).restarts, 0);
}

/// After its start, too, the daemon's own set-up fails no job: it waits with the reason.
#[test]
fn a_job_waits_while_the_workers_libraries_are_gone() {
    let mut daemon = TestDaemon::new();
    for moment in ["start-2", "start-3"] {
        daemon.plant(moment, "exit 127");
    }
    daemon.plant("train-2", "kill-self");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    daemon.wait("the reason", |daemon| {
        waits(daemon, &job).contains("[torch] lib").then_some(())
    });
    let status = daemon.wait_succeeded(&job);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
    assert_eq!(status.restarts, 1, "the worker's death, and nothing before");
}

/// What keeps a job from its first attempt, though the ledger has begun it, counts as no restart.
#[test]
fn a_worker_that_cannot_be_started_is_waited_for_and_counts_as_no_restart() {
    let mut daemon = TestDaemon::new();
    let worker = daemon.set_own_worker();
    daemon.start();
    let away = daemon.path("worker.away");
    fs::rename(&worker, &away).unwrap();
    let job = daemon.submit(daemon.job(&[]));
    daemon.wait("the reason", |daemon| {
        waits(daemon, &job).contains("own-worker").then_some(())
    });
    daemon.wait("its device is given up", |daemon| {
        let Response::Nodes(nodes) = daemon.ask(Request::Nodes) else {
            panic!("no nodes")
        };
        (nodes[0].devices[0].state == "failed").then_some(())
    });
    fs::rename(&away, &worker).unwrap();
    let status = daemon.wait_succeeded(&job);
    assert_eq!(status.restarts, 0);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
}

/// A data file that is away when the job is taken up again is waited for, as a full disk is.
#[test]
fn a_file_that_is_away_at_a_restart_is_waited_for() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-2", "hang");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let trained = daemon.path("faults/train.count");
    daemon.wait("the second update", |_| {
        (fs::read_to_string(&trained).ok()? == "2").then_some(())
    });
    daemon.kill();
    let (rows, away) = (daemon.path("rows.jsonl"), daemon.path("rows.away"));
    fs::rename(&rows, &away).unwrap();
    daemon.start();
    daemon.wait("the reason", |daemon| {
        let waits = waits(daemon, &job);
        (waits.contains("rows.jsonl is away") && waits.contains("cancel")).then_some(())
    });
    fs::rename(&away, &rows).unwrap();
    let status = daemon.wait_succeeded(&job);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
}

/// The job that waits has no device, which is another job's meanwhile, and goes on when its file is
/// back.
#[test]
fn a_job_whose_file_is_away_leaves_its_device_to_others() {
    for started in [true, false] {
        let mut daemon = TestDaemon::new();
        daemon.plant("train-1", "hang");
        let (rows, away) = (daemon.path("own.jsonl"), daemon.path("own.away"));
        fs::copy(daemon.path("rows.jsonl"), &rows).unwrap();
        let own = daemon.path("rows.jsonl").display().to_string();
        let own = daemon.job(&[(&own, &rows.display().to_string())]);
        let other = [("seed = 11", "seed = 12")];
        daemon.start();
        // The first one to run is the one that waits for its file, or it is behind one that hangs.
        let blocker = (!started).then(|| daemon.submit(daemon.job(&[("seed = 11", "seed = 13")])));
        let first = daemon.submit(own);
        let second = daemon.submit(daemon.job(&other));
        let trained = daemon.path("faults/train.count");
        daemon.wait("the first update", |_| {
            (fs::read_to_string(&trained).ok()? == "1").then_some(())
        });
        fs::rename(&rows, &away).unwrap();
        match blocker {
            Some(blocker) => drop(daemon.ask(Request::Cancel { job: blocker })),
            None => {
                daemon.kill();
                daemon.start();
            }
        }
        assert_eq!(
            daemon.wait_succeeded(&second).restarts,
            0,
            "started: {started}"
        );
        let waits = waits(&daemon, &first);
        assert!(
            waits.contains("own.jsonl is away") && waits.contains("cancel"),
            "{waits}"
        );
        // An end of the daemon without a word is not held against a job that waits.
        daemon.kill();
        daemon.start();
        assert_eq!(
            daemon
                .log()
                .matches("ended without a word while it worked for the job")
                .count(),
            started as usize
        );
        fs::rename(&away, &rows).unwrap();
        let status = daemon.wait_succeeded(&first);
        assert_eq!(
            daemon.outcome(&status),
            TestDaemon::undisturbed(&[]),
            "started: {started}"
        );
        assert_eq!(
            status.restarts, started as u32,
            "the kill of the daemon that worked for it, and no wait"
        );
    }
}

/// A device that cannot be used is not held by the job that found it so: another device takes the
/// job.
#[test]
fn a_job_on_a_device_that_fails_goes_on_another() {
    let mut daemon = TestDaemon::new();
    daemon.devices(&["cpu", "cuda:0"]);
    // The first worker that opens a model finds no device; then its device does not even open for a
    // look.
    daemon.plant("start-1", "exit 69");
    daemon.start();
    daemon.plant("probe", "69 r1d-worker: device: gone");
    let job = daemon.submit(daemon.job(&[]));
    let status = daemon.wait_succeeded(&job);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
    assert_eq!(
        status.restarts, 0,
        "nothing was begun on the device that failed"
    );
    let Response::Nodes(nodes) = daemon.ask(Request::Nodes) else {
        panic!("no nodes")
    };
    let states: Vec<&str> = nodes[0]
        .devices
        .iter()
        .map(|device| device.state.as_str())
        .collect();
    assert_eq!(states, ["failed", "idle"]);
}

/// A job that is cancelled while its file is away ends at once, and its device goes on with others.
#[test]
fn a_job_whose_file_is_away_can_be_cancelled() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-1", "hang");
    daemon.start();
    let blocker = daemon.submit(daemon.job(&[("seed = 11", "seed = 13")]));
    let trained = daemon.path("faults/train.count");
    daemon.wait("the first update", |_| {
        (fs::read_to_string(&trained).ok()? == "1").then_some(())
    });
    let job = daemon.submit(daemon.job(&[]));
    let (rows, away) = (daemon.path("rows.jsonl"), daemon.path("rows.away"));
    fs::rename(&rows, &away).unwrap();
    daemon.ask(Request::Cancel { job: blocker });
    daemon.wait("the reason", |daemon| {
        waits(daemon, &job)
            .contains("rows.jsonl is away")
            .then_some(())
    });
    daemon.ask(Request::Cancel { job: job.clone() });
    assert_eq!(daemon.wait_ended(&job).state, State::Cancelled);
    fs::rename(&away, &rows).unwrap();
    let next = daemon.submit(daemon.job(&[("seed = 11", "seed = 12")]));
    daemon.wait_succeeded(&next);
}

/// What a file says counts, not when it was written; other bytes in its place, or a file that was
/// not there and would have a say, are waited for like one that is away.
#[test]
fn a_job_goes_on_with_the_files_of_its_submission_and_no_others() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-2", "hang");
    daemon.start();
    let part = daemon.path("rows-*.jsonl").display().to_string();
    let rows = daemon.path("rows.jsonl");
    fs::copy(&rows, daemon.path("rows-1.jsonl")).unwrap();
    let changes = [(
        &*format!("path = \"{}\"", rows.display()),
        &*format!("path = \"{part}\""),
    )];
    let job = daemon.submit(daemon.job(&changes));
    let trained = daemon.path("faults/train.count");
    daemon.wait("the second update", |_| {
        (fs::read_to_string(&trained).ok()? == "2").then_some(())
    });
    daemon.kill();
    let rows = daemon.path("rows-1.jsonl");
    let whole = fs::read(&rows).unwrap();
    let half = |daemon: &TestDaemon| {
        fs::write(daemon.path("rows-1.jsonl"), &whole[..whole.len() / 2]).unwrap()
    };
    let template = |daemon: &TestDaemon| {
        fs::write(
            daemon.path("tokenizer/chat_template.jinja"),
            "{{ messages }}",
        )
        .unwrap()
    };
    let another = |daemon: &TestDaemon| fs::write(daemon.path("rows-0.jsonl"), "{}").unwrap();
    // Other bytes with the size and the time of those that were there, as an archive sets them.
    let disguised = |daemon: &TestDaemon| {
        let rows = daemon.path("rows-1.jsonl");
        let time = fs::metadata(&rows).unwrap().modified().unwrap();
        fs::write(
            &rows,
            String::from_utf8(whole.clone())
                .unwrap()
                .replace("\"0\"", "\"1\""),
        )
        .unwrap();
        fs::File::options()
            .write(true)
            .open(&rows)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    type Plant<'a> = &'a dyn Fn(&TestDaemon);
    let faults: [(Plant, &str, &str); 4] = [
        (&disguised, "rows-1.jsonl", "is not as it was"),
        (&half, "rows-1.jsonl", "is not as it was"),
        (&template, "chat_template.jinja", "was not there"),
        (&another, "rows-0.jsonl", "was not there"),
    ];
    for (plant, file, said) in faults {
        plant(&daemon);
        daemon.start();
        daemon.wait(said, |daemon| {
            let waits = waits(daemon, &job);
            (waits.contains(&format!("{file} {said}")) && waits.contains("cancel")).then_some(())
        });
        daemon.kill();
        let planted = daemon.path("tokenizer/chat_template.jinja");
        let _ = fs::remove_file(planted);
        let _ = fs::remove_file(daemon.path("rows-0.jsonl"));
        // As a copy leaves it: the same bytes, and another time.
        fs::write(&rows, &whole).unwrap();
    }
    daemon.start();
    let status = daemon.wait_succeeded(&job);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
}

/// What `why` and the log say of a job that waits is what keeps it now: each cause once, however
/// often its files are looked at.
#[test]
fn the_cause_of_a_wait_is_renewed_when_it_changes() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-2", "hang");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let trained = daemon.path("faults/train.count");
    daemon.wait("the second update", |_| {
        (fs::read_to_string(&trained).ok()? == "2").then_some(())
    });
    daemon.kill();
    let rows = daemon.path("rows.jsonl");
    let whole = fs::read(&rows).unwrap();
    fs::remove_file(&rows).unwrap();
    daemon.start();
    let said = |daemon: &mut TestDaemon, cause: &str| {
        daemon.wait(cause, |daemon| {
            waits(daemon, &job).contains(cause).then_some(())
        })
    };
    said(&mut daemon, "rows.jsonl is away");
    fs::write(&rows, &whole[..whole.len() / 2]).unwrap();
    said(&mut daemon, "rows.jsonl is not as it was");
    let config = daemon.path("model.json");
    fs::rename(&config, daemon.path("away.json")).unwrap();
    said(&mut daemon, "model.json is away");
    assert!(
        !waits(&daemon, &job).contains("rows.jsonl"),
        "{}",
        waits(&daemon, &job)
    );
    // Some looks later.
    std::thread::sleep(std::time::Duration::from_secs(8));
    let told = |log: &[r1d_proto::control::content::LogLine]| {
        let causes = log
            .iter()
            .filter_map(|line| line.message.strip_prefix("the job waits: "));
        causes
            .map(|cause| cause.rsplit('/').next().unwrap_or_default()[..14].to_owned())
            .collect::<Vec<_>>()
    };
    let log = daemon.log_lines(&job);
    assert_eq!(
        told(&log),
        ["rows.jsonl is ", "rows.jsonl is ", "model.json is "],
        "{log:?}"
    );
    fs::rename(daemon.path("away.json"), &config).unwrap();
    fs::write(&rows, &whole).unwrap();
    daemon.wait_succeeded(&job);
}

/// A worker that hangs in its driver outlives its daemon. The next daemon says which one it waits
/// for, everywhere, and once.
#[test]
fn a_worker_of_the_daemon_before_that_cannot_end_is_named() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    daemon.kill();
    // What holds a worker's standard output.
    let lock = fs::File::options()
        .write(true)
        .open(daemon.state().join("workers.lock"))
        .unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut worker = Command::new("sleep")
        .arg("1000")
        .stdout(lock)
        .spawn()
        .unwrap();
    let pid = worker.id();
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let (named, deed) = (format!("process {pid}"), format!("`kill -9 {pid}`"));
    daemon.wait("the reason", |daemon| {
        let waits = waits(daemon, &job);
        (waits.contains(&named) && waits.contains(&deed)).then_some(())
    });
    let device = |daemon: &TestDaemon| match daemon.ask(Request::Nodes) {
        Response::Nodes(mut nodes) => nodes.remove(0).devices.remove(0),
        other => panic!("{other:?}"),
    };
    let shown = device(&daemon);
    assert!(
        shown.state == "waiting"
            && shown
                .problem
                .as_ref()
                .is_some_and(|problem| problem.contains(&deed)),
        "{shown:?}"
    );
    // Some looks later.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(
        daemon
            .log()
            .matches("of the daemon before this one")
            .count(),
        1,
        "{}",
        daemon.log()
    );
    worker.kill().unwrap();
    worker.wait().unwrap();
    daemon.wait_succeeded(&job);
    assert_eq!(device(&daemon).problem, None);
}

/// The weights are what the index names, whatever its shards are called: they are as much the job's
/// as rows are.
#[test]
fn shards_of_any_name_are_waited_for_as_they_were() {
    let mut daemon = TestDaemon::new();
    daemon.write_language_model("base");
    let (base, shard) = (daemon.path("base"), daemon.path("base/part1.bin"));
    fs::write(base.join("state"), "7").unwrap();
    fs::rename(base.join("model.safetensors"), &shard).unwrap();
    let config =
        r1d_shape::Config::parse(&fs::read_to_string(base.join("config.json")).unwrap()).unwrap();
    let map = config
        .tensors()
        .into_iter()
        .map(|tensor| (tensor.name, "part1.bin".into()))
        .collect();
    let index = serde_json::json!({"weight_map": serde_json::Value::Object(map)});
    fs::write(base.join("model.safetensors.index.json"), index.to_string()).unwrap();
    daemon.plant("train-2", "hang");
    daemon.start();
    let own = daemon.path("").display().to_string();
    let init = format!("init = \"{own}model.json\"\ntokenizer = \"{own}tokenizer\"");
    let job = daemon.submit(daemon.job(&[(&init, &format!("path = \"{}\"", base.display()))]));
    let trained = daemon.path("faults/train.count");
    daemon.wait("the second update", |_| {
        (fs::read_to_string(&trained).ok()? == "2").then_some(())
    });
    daemon.kill();
    let whole = fs::read(&shard).unwrap();
    let mut other = whole.clone();
    other[whole.len() - 2..].copy_from_slice(&[0x80, 0x3f]);
    fs::write(&shard, other).unwrap();
    daemon.start();
    daemon.wait("the reason", |daemon| {
        waits(daemon, &job)
            .contains("part1.bin is not as it was")
            .then_some(())
    });
    fs::write(&shard, whole).unwrap();
    daemon.wait_succeeded(&job);
}

#[test]
fn a_ledger_that_is_gone_or_empty_beside_jobs_is_named() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-1", "hang");
    daemon.start();
    daemon.submit(daemon.job(&[]));
    daemon.kill();
    let (ledger, copy) = (daemon.state().join("ledger.redb"), daemon.path("copy"));
    fs::rename(&ledger, &copy).unwrap();
    let (code, said) = refused(&mut daemon.command());
    assert!(
        code == EXIT_DATA && said.contains("1 jobs in") && said.contains("put a copy"),
        "{code:?}: {said}"
    );
    assert!(!ledger.exists(), "a refusal leaves no new ledger");
    let whole = fs::read(&copy).unwrap();
    let mut zeros = whole.clone();
    zeros[..4096].fill(0);
    for (damaged, what) in [
        (&[][..], "empty"),
        (&zeros, "damaged"),
        (&whole[..whole.len() / 2], "damaged"),
    ] {
        fs::write(&ledger, damaged).unwrap();
        let (code, said) = refused(&mut daemon.command());
        assert!(
            code == EXIT_DATA && said.contains("ledger.redb") && said.contains(what),
            "{code:?}: {said}"
        );
    }
    // Whoever wants to start anew moves the jobs away.
    fs::remove_file(&ledger).unwrap();
    fs::rename(daemon.state().join("jobs"), daemon.path("old-jobs")).unwrap();
    daemon.start();
    assert!(matches!(daemon.ask(Request::List), Response::Jobs(jobs) if jobs.is_empty()));
}

#[test]
fn what_is_in_the_ledgers_place_and_no_file_is_named() {
    let daemon = TestDaemon::new();
    fs::create_dir_all(daemon.state()).unwrap();
    let ledger = daemon.state().join("ledger.redb");
    let fifo = |path: &Path| {
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    let device = |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap();
    let directory = |path: &Path| fs::create_dir(path).unwrap();
    type Plant<'a> = &'a dyn Fn(&Path);
    let plants: [(Plant, &str); 3] = [
        (&directory, "a directory"),
        (&fifo, "a pipe"),
        (&device, "a device"),
    ];
    for (plant, what) in plants {
        plant(&ledger);
        let (code, said) = refused(&mut daemon.command());
        assert!(
            code == EXIT_DATA && said.contains("ledger.redb is no file") && said.contains(what),
            "{code:?}: {said}"
        );
        fs::remove_file(&ledger)
            .or_else(|_| fs::remove_dir(&ledger))
            .unwrap();
    }
}

/// A job's own files are opened as those that it names: a pipe among them holds nobody up.
#[test]
fn a_pipe_among_a_jobs_own_files_keeps_no_other_job_from_running() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-2", "hang");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let trained = daemon.path("faults/train.count");
    daemon.wait("the second update", |_| {
        (fs::read_to_string(&trained).ok()? == "2").then_some(())
    });
    daemon.kill();
    for name in ["inputs.json", "log.jsonl"] {
        let own = daemon.state().join("jobs").join(&job).join(name);
        fs::remove_file(&own).unwrap();
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &own, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }
    daemon.start();
    daemon.wait("the reason", |daemon| {
        let waits = waits(daemon, &job);
        (waits.contains("inputs.json should say") && waits.contains("a pipe")).then_some(())
    });
    assert!(daemon.log_lines(&job).is_empty());
    let other = daemon.submit(daemon.job(&[("seed = 11", "seed = 12")]));
    daemon.wait_succeeded(&other);
}

/// Otherwise it would go on to acknowledge what nobody finds again.
#[test]
fn a_daemon_whose_state_directory_is_gone_refuses_and_ends() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    fs::rename(daemon.state(), daemon.path("moved")).unwrap();
    let mut stream =
        std::os::unix::net::UnixStream::connect(daemon.path("moved/r1d.sock")).unwrap();
    let submit = Request::Submit {
        job: daemon.job(&[]),
        priority: None,
        pins: Default::default(),
        no_reuse: false,
        hold: false,
    };
    r1d_proto::frame::write_blocking(&mut stream, r1d_proto::frame::Format::Json, &submit).unwrap();
    match r1d_proto::frame::read_blocking(&mut stream, r1d_proto::frame::Format::Json) {
        Ok(Response::Error(error)) => {
            assert_eq!(error.kind, ErrorKind::Internal);
            assert!(
                error.message.contains("ledger.redb") && error.message.contains("gone"),
                "{}",
                error.message
            );
        }
        Ok(other) => panic!("{other:?}"),
        // It ended before it answered.
        Err(_) => {}
    }
    assert_eq!(daemon.ended().code(), Some(1), "systemd starts it again");
    assert!(
        daemon.log().contains("was removed, or replaced") || daemon.log().contains("is gone"),
        "{}",
        daemon.log()
    );
}

#[test]
fn the_journal_gets_priorities_and_no_second_time() {
    let mut daemon = TestDaemon::new();
    // What systemd tells of the stream that it connected: here, the log's file.
    let log = fs::File::create(daemon.path("r1d.log"))
        .unwrap()
        .metadata()
        .unwrap();
    daemon.set("JOURNAL_STREAM", &format!("{}:{}", log.dev(), log.ino()));
    daemon.plant("open-1", "fail invalid");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    assert_eq!(daemon.wait_ended(&job).state, State::Failed);
    daemon.signal("TERM");
    daemon.ended();
    let text = daemon.log();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() > 2, "{text}");
    for line in &lines {
        assert!(
            line.starts_with("<3>") || line.starts_with("<4>") || line.starts_with("<6>"),
            "{line}"
        );
        assert!(!line[3..].trim_start().starts_with("20"), "a time: {line}");
    }
    assert!(text.contains("<6>") && text.contains("<3>"), "{text}");
}

/// The last line before an end that is an error has its priority too; without systemd there is
/// none.
#[test]
fn last_words_have_a_priority_in_the_journal_alone() {
    let daemon = TestDaemon::new();
    let log = fs::File::create(daemon.path("words")).unwrap();
    let stat = log.metadata().unwrap();
    let mut command = configured(&daemon, "[node]\ndevcies = \"auto\"\n");
    let status = command
        .env("JOURNAL_STREAM", format!("{}:{}", stat.dev(), stat.ino()))
        .stderr(log)
        .status()
        .unwrap();
    assert_eq!(status.code(), EXIT_CONFIG);
    let said = fs::read_to_string(daemon.path("words")).unwrap();
    assert!(said.lines().all(|line| line.starts_with("<3>")), "{said}");
    let (_, said) = refused(&mut configured(&daemon, "[node]\ndevcies = \"auto\"\n"));
    assert!(said.starts_with("r1d: "), "{said}");
}

fn files_below(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        }
        found.push(path);
    }
}

/// The group that may submit may read what its jobs leave, where the umask says so.
#[test]
fn what_a_job_leaves_has_the_mode_of_the_umask() {
    let mut daemon = TestDaemon::new();
    daemon.set_umask(0o027);
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let status = daemon.wait_succeeded(&job);
    let mut found = Vec::new();
    files_below(&status.directory, &mut found);
    assert!(found.len() > 10);
    for path in found {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            mode,
            if path.is_dir() { 0o750 } else { 0o640 },
            "{}",
            path.display()
        );
    }
}

/// Whoever runs the tests as root lets the daemon run as somebody else: root may do everything.
fn as_somebody(daemon: &mut TestDaemon) -> String {
    if !rustix::process::geteuid().is_root() {
        return rustix::process::geteuid().as_raw().to_string();
    }
    daemon.set_user(65534);
    let mut found = vec![daemon.path(".")];
    files_below(&daemon.path("."), &mut found);
    for path in found {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    "nobody".into()
}

#[test]
fn what_the_daemons_user_may_not_reach_is_refused_with_what_to_do() {
    let mut daemon = TestDaemon::new();
    let user = as_somebody(&mut daemon);
    daemon.start();
    let rows = daemon.path("rows.jsonl").display().to_string();
    let (home, file) = (daemon.path("home"), daemon.path("home/mine/rows.jsonl"));
    fs::create_dir_all(daemon.path("home/mine")).unwrap();
    fs::copy(&rows, &file).unwrap();
    let moved = file.display().to_string();
    let job = daemon.job(&[(
        &format!("[data.train]\npath = \"{rows}\""),
        &format!("[data.train]\npath = \"{moved}\""),
    )]);
    // A home that others may not enter, then a file that they may not read.
    fs::set_permissions(&home, fs::Permissions::from_mode(0o000)).unwrap();
    let error = daemon.refused(job.clone());
    assert!(
        error.contains(&moved) && error.contains(&format!("may not enter {}", home.display())),
        "{error}"
    );
    assert!(
        error.contains("setfacl") && error.contains("runs as user"),
        "{error}"
    );
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let error = daemon.refused(job.clone());
    assert!(error.contains(&format!("may not read {moved}")), "{error}");
    match daemon.ask(Request::Plan {
        job: job.clone(),
        pins: Default::default(),
    }) {
        Response::Error(refusal) => assert_eq!(refusal.message, error, "a plan says the same"),
        other => panic!("{other:?}"),
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    // Where checkpoints cannot be written.
    let to = daemon.path("closed");
    fs::create_dir(&to).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o555)).unwrap();
    let elsewhere = format!(
        "[checkpoint]\nto = \"file://{}\"\n",
        to.join("mine").display()
    );
    let error = daemon.refused(daemon.job(&[("[checkpoint]\n", &elsewhere)]));
    assert!(
        error.contains("checkpoint.to")
            && error.contains(&format!("may not write in {}", to.display())),
        "{error}"
    );
    let read_only = daemon.refused(daemon.job(&[(
        "[checkpoint]\n",
        "[checkpoint]\nto = \"file:///proc/r1d\"\n",
    )]));
    assert!(read_only.contains("checkpoint.to"), "{read_only}");
    let job = daemon.submit(job);
    let status = daemon.wait_ended(&job);
    assert_eq!(status.state, State::Succeeded, "{user}: {:?}", status.error);
}
