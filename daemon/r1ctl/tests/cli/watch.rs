//! Staying with a job: `status --watch` and `submit --wait` in a pipe.

use crate::fake_daemon::{Act, FakeDaemon};
use crate::fixtures as fix;
use crate::harness::{Home, Run, golden};
use r1d_proto::control::job::JobStatus;
use r1d_proto::control::{Request, Response};
use r1d_proto::ids::JobId;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::thread::{sleep, spawn};
use std::time::Duration;

fn send(status: JobStatus) -> Act {
    Act::Send(Response::Status(Box::new(status)))
}

fn life(last: JobStatus) -> Vec<Act> {
    let mut began = fix::running(0);
    began.restarts = 0;
    began.evals.truncate(1);
    let mut acts: Vec<Act> = [
        fix::queued(),
        began,
        fix::running(1),
        fix::running(1),
        fix::running(3),
    ]
    .into_iter()
    .map(send)
    .collect();
    acts.extend([send(last), Act::Send(Response::End)]);
    acts
}

#[test]
fn in_a_pipe_each_event_is_a_line_and_the_summary_comes_last() {
    for (name, last, code) in [
        ("succeeded", fix::succeeded as fn() -> JobStatus, 0),
        ("failed", fix::failed, 2),
        ("cancelled", fix::cancelled, 2),
    ] {
        let home = Home::new();
        let daemon = FakeDaemon::start(&home.socket(), move |_, _| life(last()));
        let run = home.run(&["status", "--watch", "k3v"]).expect(code);
        assert_eq!(run.stderr, "");
        assert_eq!(daemon.requests(), [Request::Watch { job: "k3v".into() }]);
        golden(&format!("watch/{name}.txt"), &run.stdout);
    }
}

/// Nobody takes a stage of another job for one that was done in no time.
#[test]
fn a_stage_that_is_reused_names_the_job_that_did_it() {
    let home = Home::new();
    let reused = |mut status: JobStatus| {
        status.stages[0].reused_from = Some(JobId("b81m0c2d".into()));
        send(status)
    };
    let _daemon = FakeDaemon::start(&home.socket(), move |_, _| {
        let running = [0, 1].map(|step| reused(fix::running(step)));
        let last = [reused(fix::succeeded()), Act::Send(Response::End)];
        [send(fix::queued())]
            .into_iter()
            .chain(running)
            .chain(last)
            .collect()
    });
    let run = home.run(&["status", "--watch", "k3v"]).expect(0);
    let of_stage = |line: &&str| line.trim_start_matches("stage ").starts_with("cold-start ");
    let lines: Vec<&str> = run.stdout.lines().filter(of_stage).collect();
    assert_eq!(
        lines,
        ["stage cold-start (sft) reused from job b81m0c2d: 40 steps"]
    );
}

#[test]
fn json_is_one_status_per_line() {
    let home = Home::new();
    let _daemon = FakeDaemon::start(&home.socket(), |_, _| life(fix::failed()));
    let run = home.run(&["status", "-w", "k3v", "-o", "json"]).expect(2);
    let statuses: Vec<JobStatus> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(statuses.len(), 6);
    assert_eq!(statuses[5], fix::failed());
}

#[test]
fn a_daemon_that_is_restarted_is_found_again_and_nothing_is_told_twice() {
    let home = Home::new();
    let socket = home.socket();
    let mut first = FakeDaemon::start(&socket, |_, _| {
        vec![send(fix::running(1)), send(fix::running(3)), Act::Die]
    });
    let child = home
        .command(&["status", "-w", "k3v"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    first.wait_until_gone();
    sleep(Duration::from_millis(300));
    let second = FakeDaemon::start(&socket, |_, _| {
        let mut again = fix::running(3);
        again.restarts = 2;
        vec![
            send(again),
            send(fix::succeeded()),
            Act::Send(Response::End),
        ]
    });
    let run = Run::of(child.wait_with_output().unwrap(), &home).expect(0);
    assert!(
        run.stderr
            .contains("the daemon went away, looking for it again"),
        "{}",
        run.stderr
    );
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    golden("watch/restarted.txt", &run.stdout);
    // The whole id is known by then: the prefix may have become ambiguous.
    assert_eq!(
        second.requests(),
        [Request::Watch {
            job: fix::JOB.into()
        }]
    );
}

#[test]
fn a_daemon_that_ends_the_stream_before_the_job_ended_is_looked_for_again() {
    let home = Home::new();
    let _daemon = FakeDaemon::start(&home.socket(), |_, before| {
        let status = if before == 0 {
            fix::running(1)
        } else {
            fix::succeeded()
        };
        vec![send(status), Act::Send(Response::End)]
    });
    home.run(&["status", "-w", "k3v"]).expect(0);
}

#[test]
fn a_daemon_that_stays_away_is_given_up_with_the_way_back() {
    let home = Home::new();
    let _daemon = FakeDaemon::start(&home.socket(), |_, _| vec![send(fix::running(1)), Act::Die]);
    let run = home
        .run(&["status", "-w", "k3v", "--reconnect", "1"])
        .expect(1);
    golden("errors/lost.txt", &run.stderr);
}

#[test]
fn hints_name_the_socket_that_was_named() {
    let home = Home::new();
    let named = home.path().join("named.sock");
    let _daemon = FakeDaemon::start(&named, |_, _| life(fix::failed()));
    let run = home
        .run(&["status", "-w", "k3v", "--socket", "named.sock"])
        .expect(2);
    assert!(
        run.stdout
            .contains("r1ctl --socket named.sock logs k3v9qx7a"),
        "{}",
        run.stdout
    );
}

#[test]
fn a_daemon_that_hangs_while_it_is_watched_counts_as_away() {
    let home = Home::new();
    let _daemon = FakeDaemon::start(&home.socket(), |request, before| match (request, before) {
        (Request::Watch { .. }, 0) => vec![send(fix::running(1)), Act::Hang],
        _ => vec![Act::Hang],
    });
    let run = home
        .run(&["status", "-w", "k3v", "--reconnect", "1", "--timeout", "1"])
        .expect(1);
    assert!(
        run.stderr.contains("is not back after 1 s"),
        "{}",
        run.stderr
    );
}

#[test]
fn ctrl_c_detaches_and_tells_the_way_back() {
    let home = Home::new();
    let daemon = FakeDaemon::start(&home.socket(), |_, _| {
        vec![send(fix::running(1)), Act::Hang]
    });
    let mut child = home
        .command(&["status", "-w", "k3v"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let rest = spawn(move || stdout.read_to_string(&mut String::new()).unwrap());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let run = Run::of(child.wait_with_output().unwrap(), &home).expect(130);
    rest.join().unwrap();
    golden("watch/detached.txt", &run.stderr);
    assert!(
        !daemon
            .requests()
            .iter()
            .any(|request| matches!(request, Request::Cancel { .. })),
        "the job goes on"
    );
}
