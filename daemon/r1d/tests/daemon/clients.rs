//! Clients that leave, say nothing, ask for too much, or ask again: the daemon loses no submission
//! by it, makes no second job of one, and goes on answering everybody else.

use crate::test_daemon::TestDaemon;
use r1d_proto::control::error::ErrorKind;
use r1d_proto::control::job::{JobSummary, State};
use r1d_proto::control::{Envelope, Request, Response};
use r1d_proto::frame::{Format, read_blocking, write_blocking};
use std::fs;
use std::io::{ErrorKind as IoErrorKind, Read};
use std::os::unix::net::UnixStream;

fn submission(job: String) -> Request {
    Request::Submit {
        job,
        priority: None,
        pins: Default::default(),
        no_reuse: true,
        hold: false,
    }
}

fn under(id: &str, request: &Request) -> Envelope {
    Envelope {
        id: Some(id.into()),
        progress: false,
        request: request.clone(),
    }
}

fn say(daemon: &TestDaemon, envelope: &Envelope) -> UnixStream {
    let mut stream = daemon.connect().expect("a daemon");
    write_blocking(&mut stream, Format::Json, envelope).expect("a request");
    stream
}

fn submitted(answer: Response) -> String {
    match answer {
        Response::Submitted { job, .. } => job.0,
        other => panic!("{other:?}"),
    }
}

fn hear(mut stream: UnixStream) -> String {
    loop {
        match read_blocking(&mut stream, Format::Json).expect("an answer") {
            Response::Progress(_) => {}
            answer => return submitted(answer),
        }
    }
}

fn jobs(daemon: &TestDaemon) -> Vec<JobSummary> {
    match daemon.ask(Request::List) {
        Response::Jobs(jobs) => jobs,
        other => panic!("{other:?}"),
    }
}

/// A job that is over soon once it runs, and takes `rows` rows to read.
fn job(daemon: &TestDaemon, rows: usize) -> String {
    let text: String = (0..rows)
        .map(|i| format!("{{\"text\": \"{} {} {}\"}}\n", i % 7, i % 5, i % 3))
        .collect();
    fs::write(daemon.path(&format!("text-{rows}.jsonl")), text).expect("rows");
    let whole = daemon.job(&[(
        "rows.jsonl\"\n[data.train]",
        &format!("text-{rows}.jsonl\"\n[data.train]"),
    )]);
    let end = whole
        .find("[[stage]]\nname = \"cold-start\"")
        .expect("the second stage");
    whole[..end].to_owned()
}

/// What `r1ctl submit --timeout 1` does with a large data set, or Ctrl-C: nobody else submits
/// anything, and the job runs all the same.
#[test]
fn a_submission_whose_client_left_is_queued_and_runs() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    drop(say(
        &daemon,
        &Envelope {
            id: None,
            progress: false,
            request: submission(job(&daemon, 20_000)),
        },
    ));
    let ended = daemon.wait("the job of a client that left", |daemon| {
        jobs(daemon)
            .first()
            .filter(|job| job.state.is_final())
            .map(|job| job.state)
    });
    assert_eq!(ended, State::Succeeded);
}

#[test]
fn a_submission_that_is_sent_again_makes_one_job() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let request = submission(job(&daemon, 20_000));
    // The first client leaves while its job is read, two others are there at once, and one comes
    // later.
    drop(say(&daemon, &under("mine-1", &request)));
    let (second, third) = (
        say(&daemon, &under("mine-1", &request)),
        say(&daemon, &under("mine-1", &request)),
    );
    let id = hear(second);
    assert_eq!(hear(third), id);
    assert_eq!(hear(say(&daemon, &under("mine-1", &request))), id);
    daemon.wait_succeeded(&id);
    // The ledger knows it after the daemon that read it is gone.
    daemon.kill();
    daemon.start();
    assert_eq!(hear(say(&daemon, &under("mine-1", &request))), id);
    assert_eq!(jobs(&daemon).len(), 1);
    // The same job under another id is another job.
    assert_ne!(hear(say(&daemon, &under("mine-2", &request))), id);
    assert_eq!(jobs(&daemon).len(), 2);
}

/// Whoever took an id that is another submission's would be told of a job that is not theirs.
#[test]
fn another_job_under_the_id_of_a_submission_is_refused() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let (one, other) = (
        submission(job(&daemon, 600_000)),
        submission(job(&daemon, 20_001)),
    );
    let refused = |stream: UnixStream| match read_blocking(&mut { stream }, Format::Json)
        .expect("an answer")
    {
        Response::Error(error) => {
            assert!(
                error.kind == ErrorKind::Invalid
                    && error.message.contains("`same-1` is another submission's"),
                "{error:?}"
            );
        }
        other => panic!("{other:?}"),
    };
    // While the first is being read, and when the ledger has it; a daemon that did not read it
    // knows it too. Two connections are served in any order, so the second waits for a word on the
    // first.
    let mut first = say(
        &daemon,
        &Envelope {
            progress: true,
            ..under("same-1", &one)
        },
    );
    let word = read_blocking(&mut first, Format::Json).expect("a word");
    assert!(matches!(word, Response::Progress(_)), "{word:?}");
    refused(say(&daemon, &under("same-1", &other)));
    let id = hear(first);
    refused(say(&daemon, &under("same-1", &other)));
    let Request::Submit { job: text, .. } = &one else {
        panic!()
    };
    let prior = Request::Submit {
        job: text.clone(),
        priority: Some(7),
        pins: Default::default(),
        no_reuse: true,
        hold: false,
    };
    refused(say(&daemon, &under("same-1", &prior)));
    daemon.kill();
    daemon.start();
    refused(say(&daemon, &under("same-1", &other)));
    assert_eq!(hear(say(&daemon, &under("same-1", &one))), id);
    // What was refused leaves nothing that another submission of it would find.
    assert_ne!(hear(say(&daemon, &under("own-1", &other))), id);
    assert_eq!(jobs(&daemon).len(), 2);
}

/// A factor of the layout that is left out is chosen when the job is accepted. It is recorded, and
/// on other devices the same submission is the same job, with the layout that it had.
#[test]
fn a_layout_that_is_left_out_is_chosen_once() {
    let mut daemon = TestDaemon::new();
    daemon.devices(&["cpu", "cpu"]);
    daemon.start();
    let text = daemon.job(&[("[model]", "[parallel]\n\n[model]")]);
    let planned = |daemon: &TestDaemon| {
        let (job, pins) = (text.clone(), Default::default());
        let Response::Plan(plan) = daemon.ask(Request::Plan { job, pins }) else {
            panic!("no plan")
        };
        let layout = plan.layout.expect("a layout");
        let resolved = format!("data = {}\nexpert = {}\n", layout.data, layout.expert);
        assert!(plan.resolved.contains(&resolved), "{}", plan.resolved);
        (layout.data, layout.expert)
    };
    assert_eq!(planned(&daemon), (1, 2));
    let request = submission(text.clone());
    let id = hear(say(&daemon, &under("mine-1", &request)));
    let status = daemon.try_status(&id).expect("a status");
    let recorded = || fs::read_to_string(status.directory.join("job.toml")).expect("a job file");
    let first = recorded();
    assert!(
        first.contains("[parallel]\ndata = 1\nexpert = 2\n"),
        "{first}"
    );
    daemon.kill();
    daemon.devices(&["cpu"; 4]);
    daemon.start();
    assert_eq!(planned(&daemon), (1, 4));
    assert_eq!(hear(say(&daemon, &under("mine-1", &request))), id);
    assert_eq!(jobs(&daemon).len(), 1);
    daemon.wait_succeeded(&id);
    assert_eq!(recorded(), first);
}

/// A person who types the command again has another id, and means the same job as long as nobody
/// told of the first.
#[test]
fn the_same_command_again_finds_the_job_that_nobody_heard_of() {
    let mut daemon = TestDaemon::new();
    daemon.plant("start-1", "hang");
    daemon.start();
    let request = submission(job(&daemon, 20_000));
    drop(say(&daemon, &under("one", &request)));
    let found = daemon.wait("the first job", |daemon| {
        jobs(daemon).first().map(|job| job.job.0.clone())
    });
    assert_eq!(hear(say(&daemon, &under("two", &request))), found);
    assert_eq!(jobs(&daemon).len(), 1);
    let other = hear(say(&daemon, &under("three", &request)));
    assert_ne!(other, found, "whoever has heard of it means another one");
    assert_eq!(jobs(&daemon).len(), 2);
    // And whoever has corrected the data before the command is given again means another job too.
    drop(say(&daemon, &under("four", &request)));
    let unheard = daemon.wait("the third job", |daemon| {
        jobs(daemon)
            .iter()
            .map(|job| job.job.0.clone())
            .find(|id| *id != found && *id != other)
    });
    fs::write(
        daemon.path("text-20000.jsonl"),
        "{\"text\": \"1 2 3\"}\n".repeat(40),
    )
    .unwrap();
    let corrected = hear(say(&daemon, &under("five", &request)));
    assert!(![found, other, unheard].contains(&corrected), "{corrected}");
}

#[test]
fn a_long_submission_says_how_far_it_is() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let request = submission(job(&daemon, 600_000));
    let mut stream = say(
        &daemon,
        &Envelope {
            id: None,
            progress: true,
            request,
        },
    );
    let mut words = Vec::new();
    loop {
        match read_blocking(&mut stream, Format::Json).expect("an answer") {
            Response::Progress(activity) => words.push(activity),
            answer => {
                submitted(answer);
                break;
            }
        }
    }
    assert!(
        words.iter().any(|word| word
            .doing
            .starts_with("reading the data of stage `reading`")
            && word.total == 3),
        "{words:?}"
    );
    daemon.signal("TERM");
    daemon.ended();
}

/// Connections that say nothing hold nobody up: the oldest of them make room.
#[test]
fn idle_connections_keep_nobody_from_being_answered() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-1", "hang");
    daemon.start();
    let id = daemon.submit(daemon.job(&[]));
    let mut idle: Vec<UnixStream> = (0..300)
        .map(|_| daemon.connect().expect("a connection"))
        .collect();
    assert!(matches!(
        daemon.ask(Request::Cancel { job: id }),
        Response::Cancelled { .. }
    ));
    // The newest is still waited for: the answer did not come of its being given up.
    let newest = idle.last_mut().unwrap();
    newest.set_nonblocking(true).unwrap();
    assert_eq!(
        newest.read(&mut [0]).unwrap_err().kind(),
        IoErrorKind::WouldBlock
    );
    // Who connected before so many others is told to try again by the connection's end.
    let oldest = &mut idle[0];
    assert_eq!(oldest.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn watchers_take_no_place_of_commands_and_have_a_limit_of_their_own() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-1", "hang");
    daemon.start();
    let id = daemon.submit(daemon.job(&[]));
    let watch = Envelope {
        id: None,
        progress: false,
        request: Request::Watch { job: id.clone() },
    };
    let mut watching = Vec::new();
    let refused = loop {
        let mut stream = say(&daemon, &watch);
        match read_blocking(&mut stream, Format::Json).expect("an answer") {
            Response::Status(_) => watching.push(stream),
            Response::Error(error) => break error,
            other => panic!("{other:?}"),
        }
        assert!(watching.len() <= 128, "{} watch", watching.len());
    };
    assert_eq!((watching.len(), refused.kind), (128, ErrorKind::Busy));
    assert!(matches!(daemon.ask(Request::Nodes), Response::Nodes(_)));
    assert!(matches!(
        daemon.ask(Request::Cancel { job: id }),
        Response::Cancelled { .. }
    ));
    // All of them hear of it, and then there is room again.
    for mut stream in watching {
        while !matches!(
            read_blocking(&mut stream, Format::Json).expect("an answer"),
            Response::End
        ) {}
    }
    let again = daemon.submit(daemon.job(&[("seed = 11", "seed = 12")]));
    let watched = daemon.stream(Request::Watch { job: again });
    assert!(matches!(watched.last(), Some(Response::Status(status)) if status.state.is_final()));
}

/// A watched job that waits hears of its place, of its start and of its end, though nothing of the
/// job itself changes meanwhile.
#[test]
fn a_watcher_of_a_queued_job_hears_of_its_place() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-1", "hang");
    daemon.start();
    let submit = |seed: &str| daemon.submit(daemon.job(&[("seed = 11", seed)]));
    let [first, second, third] = ["seed = 1", "seed = 2", "seed = 3"].map(submit);
    daemon.wait("the first job's turn", |daemon| {
        (daemon.try_status(&first)?.state == State::Running).then_some(())
    });
    let watch = Envelope {
        id: None,
        progress: false,
        request: Request::Watch { job: third },
    };
    let mut watching = say(&daemon, &watch);
    let mut next = || match read_blocking(&mut watching, Format::Json).expect("a status") {
        Response::Status(status) => Some(status),
        Response::End => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(next().expect("a status").queue_position, Some(2));
    let cancel = |job: String| daemon.ask(Request::Cancel { job });
    assert!(matches!(cancel(second), Response::Cancelled { .. }));
    assert_eq!(next().expect("a status").queue_position, Some(1));
    assert!(matches!(cancel(first), Response::Cancelled { .. }));
    let states: Vec<State> = std::iter::from_fn(|| Some(next()?.state)).collect();
    assert!(states.contains(&State::Running), "{states:?}");
    assert_eq!(states.last(), Some(&State::Succeeded));
}

fn threads(daemon: &TestDaemon) -> usize {
    let status =
        fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("the daemon's status");
    let line = status
        .lines()
        .find(|line| line.starts_with("Threads:"))
        .expect("its threads");
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .expect("a number")
}

/// `while true; do r1ctl plan big.toml & kill $!; done`: what nobody waits for is not begun, or
/// ends soon, and takes few threads meanwhile.
#[test]
fn abandoned_plans_wedge_nobody() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-1", "hang");
    daemon.start();
    let running = daemon.submit(daemon.job(&[]));
    let before = threads(&daemon);
    let plan = Envelope {
        id: None,
        progress: false,
        request: Request::Plan {
            job: job(&daemon, 100_000),
            pins: Default::default(),
        },
    };
    let mut most = 0;
    for _ in 0..200 {
        drop(say(&daemon, &plan));
        most = most.max(threads(&daemon));
    }
    let cancelled = daemon.ask(Request::Cancel { job: running });
    assert!(
        matches!(cancelled, Response::Cancelled { .. }),
        "{cancelled:?}"
    );
    most = most.max(threads(&daemon));
    assert!(
        most < before + 40,
        "{before} threads before, {most} with 200 plans that nobody waits for"
    );
    let next = daemon.submit(daemon.job(&[("seed = 11", "seed = 12")]));
    daemon.wait_succeeded(&next);
}

#[test]
fn a_request_that_is_too_long_is_refused_in_words() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let long = Request::Plan {
        job: "#".repeat(3 << 20),
        pins: Default::default(),
    };
    let Some(Response::Error(error)) = daemon.try_ask(long) else {
        panic!("no answer")
    };
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(
        error
            .message
            .contains("the limit of this stream is 2097152"),
        "{}",
        error.message
    );
    assert!(matches!(daemon.ask(Request::Nodes), Response::Nodes(_)));
}
