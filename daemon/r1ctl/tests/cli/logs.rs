//! `r1ctl logs`: a stream of lines.

use crate::fake_daemon::{Act, FakeDaemon};
use crate::fixtures as fix;
use crate::harness::{Home, golden};
use crate::shape::shape;
use r1d_proto::control::{Request, Response};
use serde_json::Value;
use std::time::{Duration, SystemTime};

fn lines() -> Vec<Act> {
    let (first, rest) = (fix::log_lines().remove(0), fix::log_lines().split_off(1));
    vec![
        Act::Send(Response::Lines(vec![first])),
        Act::Send(Response::Lines(rest)),
    ]
}

#[test]
fn lines_are_printed_until_the_daemon_ends_the_stream() {
    let home = Home::new();
    let daemon = FakeDaemon::start(&home.socket(), |_, _| {
        lines()
            .into_iter()
            .chain([Act::Send(Response::End)])
            .collect()
    });
    golden(
        "table/logs.txt",
        &home.run(&["logs", "k3v"]).expect(0).stdout,
    );
    let json = home
        .run(&["logs", "-f", "k3v", "-o", "json"])
        .expect(0)
        .stdout;
    golden("json/logs.jsonl", &json);
    let documents: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    golden("schema/logs.txt", &shape(&documents));
    let request = |follow| Request::Logs {
        job: "k3v".into(),
        follow,
        tail: None,
        since_s: None,
    };
    assert_eq!(daemon.requests(), [request(false), request(true)]);
    let words = ["logs", "k3v", "--tail", "20", "--since", "1h 30m"];
    home.run(&words).expect(0);
    let asked = Request::Logs {
        job: "k3v".into(),
        follow: false,
        tail: Some(20),
        since_s: Some(5400),
    };
    assert_eq!(daemon.requests().last(), Some(&asked));
    // A time as the log has it: the line of that second is one of them.
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let before = now();
    home.run(&["logs", "k3v", "--since", "2001-09-09T01:46:40Z"])
        .expect(0);
    let Some(Request::Logs { since_s, .. }) = daemon.requests().pop() else {
        panic!("a request for the log");
    };
    let from = |now: u64| now + 1 - 1_000_000_000;
    assert!((from(before)..=from(now())).contains(&since_s.unwrap()));
    let refused = home
        .run(&["logs", "k3v", "--since", "yesterday"])
        .expect(64)
        .stderr;
    assert!(refused.contains("as in 10m or 2h, or when"), "{refused}");
}

#[test]
fn a_stream_that_breaks_off_is_an_error() {
    let home = Home::new();
    let _daemon = FakeDaemon::start(&home.socket(), |_, _| lines());
    let run = home.run(&["logs", "k3v", "-f"]).expect(1);
    assert_eq!(run.stdout.lines().count(), 4);
    assert!(run.stderr.contains("closed the stream"), "{}", run.stderr);
}

#[test]
fn a_quiet_job_is_followed_as_long_as_its_daemon_lives() {
    let home = Home::new();
    let daemon = FakeDaemon::start(&home.socket(), |request, _| match request {
        Request::Logs { .. } => {
            let quiet = Act::Pause(Duration::from_millis(2500));
            [quiet]
                .into_iter()
                .chain(lines())
                .chain([Act::Send(Response::End)])
                .collect()
        }
        _ => vec![Act::Send(Response::Jobs(vec![]))],
    });
    assert_eq!(
        home.run(&["logs", "k3v", "-f", "--timeout", "1"])
            .expect(0)
            .stdout
            .lines()
            .count(),
        4
    );
    assert_eq!(
        daemon
            .requests()
            .iter()
            .filter(|request| **request == Request::Nodes)
            .count(),
        2,
        "signs of life asked for"
    );
}
