//! A daemon that refuses, talks nonsense, or does not talk.

use crate::fake_daemon::{Act, FakeDaemon};
use crate::fixtures as fix;
use crate::harness::{Home, golden};
use r1d_proto::control::Response;
use r1d_proto::control::error::{ControlError, ErrorKind};
use r1d_proto::frame::{Format, encode};
use std::process::Stdio;

fn refusal(kind: ErrorKind, message: &str) -> Response {
    Response::Error(ControlError {
        kind,
        message: message.into(),
    })
}

#[test]
fn what_the_daemon_refuses_is_told_in_its_words() {
    let ambiguous = refusal(
        ErrorKind::Ambiguous,
        "`k3` is the start of several jobs: k3v9qx7a, k3zz01ab; type more of the id",
    );
    let absent = refusal(
        ErrorKind::NotFound,
        "no job starts with `q`: `r1ctl list` shows the jobs",
    );
    let home = Home::new();
    for (name, error) in [("ambiguous", ambiguous), ("not-found", absent)] {
        let _daemon = FakeDaemon::answering(&home.socket(), error);
        for words in [
            &["status", "k3"][..],
            &["status", "-w", "k3"],
            &["cancel", "k3"],
            &["logs", "k3"],
            &["why", "k3", "-o", "json"],
        ] {
            let run = home.run(words).expect(1);
            assert_eq!(run.stdout, "", "{words:?}");
            golden(&format!("errors/{name}.txt"), &run.stderr);
        }
    }
}

#[test]
fn a_daemon_that_does_not_answer_is_given_up_at_the_deadline() {
    let home = Home::new();
    let _daemon = FakeDaemon::start(&home.socket(), |_, _| vec![Act::Hang]);
    let run = home.run(&["list", "--timeout", "1"]).expect(1);
    golden("errors/no-answer.txt", &run.stderr);
}

#[test]
fn an_answer_of_the_wrong_kind_is_named() {
    let home = Home::new();
    let _daemon = FakeDaemon::answering(&home.socket(), Response::Jobs(vec![]));
    for (words, request) in [
        (["status", "k3"], "status"),
        (["why", "k3"], "why"),
        (["logs", "k3"], "logs"),
    ] {
        let error = home.run(&words).expect(1).stderr;
        assert!(
            error.contains(&format!("answered `jobs` to `{request}`")),
            "{error}"
        );
    }
}

#[test]
fn frames_that_are_not_r1ds_are_refused() {
    let mut newer = encode(Format::Json, &Response::End).unwrap();
    newer[4] = 9;
    let mut torn = encode(Format::Json, &Response::Jobs(fix::jobs())).unwrap();
    torn.truncate(40);
    let cases = [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            "not an r1d frame",
        ),
        (newer, "frame version 9"),
        (torn, "stream error"),
        (vec![], "the other side closed the stream"),
    ];
    for (bytes, part) in cases {
        let home = Home::new();
        let _daemon = FakeDaemon::start(&home.socket(), move |_, _| vec![Act::Raw(bytes.clone())]);
        let error = home.run(&["list"]).expect(1).stderr;
        assert!(
            error.contains(part) && error.contains("r1d.sock"),
            "{error}"
        );
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let home = Home::new();
    let _daemon = FakeDaemon::answering(&home.socket(), Response::Jobs(fix::jobs()));
    let mut child = home
        .command(&["list"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).as_ref()
        ),
        (Some(0), "")
    );
}
