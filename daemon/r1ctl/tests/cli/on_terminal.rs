//! What a terminal gets and a pipe does not: colours, frames, the live display.

use crate::fake_daemon::{Act, FakeDaemon};
use crate::fixtures as fix;
use crate::harness::Home;
use r1d_proto::control::{Request, Response};
use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

const COLUMNS: u16 = 90;

/// Runs r1ctl on a terminal of its own; what it drew, and its exit code.
fn on_terminal(home: &Home, words: &[&str], variables: &[(&str, &str)]) -> (String, Option<i32>) {
    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize {
        ws_row: 40,
        ws_col: COLUMNS,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the pointers are to live values of the types that openpty(3) asks for.
    let made = unsafe {
        libc::openpty(
            &mut ours,
            &mut theirs,
            std::ptr::null_mut(),
            std::ptr::null(),
            &size,
        )
    };
    assert_eq!(made, 0, "openpty: {}", std::io::Error::last_os_error());
    // SAFETY: openpty just made both descriptors, and nobody else owns them.
    let (mut ours, theirs) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    let mut command = home.command(words);
    command
        .stdout(Stdio::from(theirs.try_clone().unwrap()))
        .stderr(Stdio::from(theirs));
    let mut child = command
        .env("TERM", "xterm-256color")
        .envs(variables.iter().copied())
        .spawn()
        .unwrap();
    drop(command);
    let (mut drawn, mut buffer) = (Vec::new(), [0; 4096]);
    // The terminal's end reads as an error once the last writer has gone.
    while let Ok(n @ 1..) = ours.read(&mut buffer) {
        drawn.extend_from_slice(&buffer[..n]);
    }
    (
        String::from_utf8_lossy(&drawn).into_owned(),
        child.wait().unwrap().code(),
    )
}

fn job(home: &Home) -> FakeDaemon {
    FakeDaemon::start(&home.socket(), |request, _| match request {
        Request::Watch { .. } => {
            let status = |job| Act::Send(Response::Status(Box::new(job)));
            let look = || Act::Pause(Duration::from_millis(300));
            vec![
                status(fix::running(12)),
                look(),
                status(fix::running(13)),
                look(),
                status(fix::succeeded()),
                Act::Send(Response::End),
            ]
        }
        _ => vec![Act::Send(Response::Jobs(fix::jobs()))],
    })
}

#[test]
fn a_watched_job_is_drawn_and_the_summary_follows() {
    let home = Home::new();
    let _daemon = job(&home);
    let (drawn, code) = on_terminal(&home, &["status", "-w", "k3v"], &[]);
    assert_eq!(code, Some(0));
    for part in [
        "ETA 3m12s",
        "12/120",
        "13/120",
        "0.512",
        "sampling 312/512 completions",
        "tokens/s",
        "━",
        "\x1b[36m",
        "╭",
        "87.5 %",
    ] {
        assert!(drawn.contains(part), "no {part:?} in {drawn}");
    }
    assert!(
        !drawn.contains("\x1b[2J("),
        "a completion moved the cursor: {drawn}"
    );
    // The display is gone before the summary: nothing is drawn over it.
    let summary = &drawn[drawn.rfind('╭').unwrap()..];
    assert!(
        !summary.contains("ETA") && !summary.contains("sampling 312"),
        "{summary}"
    );
}

#[test]
fn colours_can_be_switched_off() {
    let home = Home::new();
    let _daemon = job(&home);
    let (drawn, _) = on_terminal(&home, &["list"], &[]);
    assert!(drawn.contains("\x1b[36mrunning"), "{drawn}");
    assert!(
        drawn.lines().all(
            |line| line.chars().filter(|c| "│╭╮╰╯┬┴├┤┼─".contains(*c)).count()
                <= usize::from(COLUMNS)
        ),
        "{drawn}"
    );
    for (words, variables) in [
        (&["list", "--no-color"][..], &[][..]),
        (&["list"], &[("NO_COLOR", "1")]),
        (&["list"], &[("TERM", "dumb")]),
    ] {
        let (drawn, code) = on_terminal(&home, words, variables);
        assert_eq!(code, Some(0));
        assert!(
            drawn.contains("running") && !drawn.contains('\x1b'),
            "{words:?} {variables:?}: {drawn}"
        );
    }
}
