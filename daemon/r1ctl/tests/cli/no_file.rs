//! Paths on the command line that are no files: each ends at once, with an error that names it.

use crate::harness::Home;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::os::unix::fs::symlink;

/// A pipe, a link to a device without end, a directory.
fn no_files(home: &Home) -> [&'static str; 3] {
    mknodat(CWD, home.path().join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    symlink("/dev/zero", home.path().join("zero")).unwrap();
    std::fs::create_dir(home.path().join("directory")).unwrap();
    ["fifo", "zero", "directory"]
}

#[test]
fn a_job_file_that_is_no_file_is_refused() {
    let home = Home::new();
    for path in no_files(&home).into_iter().chain(["/proc/self/status"]) {
        for command in ["plan", "submit"] {
            let run = home.run(&[command, path]).expect(1);
            assert!(
                run.stderr.contains(&format!("{path}: it is ")),
                "{command} {path}: {}",
                run.stderr
            );
        }
    }
}

#[test]
fn a_lock_that_is_no_file_is_refused() {
    let home = Home::new();
    home.write("job.toml", crate::submit::JOB_FILE);
    for path in no_files(&home) {
        let lock = home.path().join("r1.lock");
        let _ = std::fs::remove_file(&lock);
        symlink(home.path().join(path), &lock).unwrap();
        let run = home.run(&["submit", "job.toml"]).expect(1);
        assert!(
            run.stderr.contains("HOME/r1.lock: it is "),
            "{path}: {}",
            run.stderr
        );
    }
}

#[test]
fn an_error_echoes_neither_a_megabyte_nor_an_escape_sequence() {
    let home = Home::new();
    let job = crate::submit::JOB_FILE;
    for text in [
        format!("\"{}\" = 1\n{job}", "x".repeat(900_000)),
        format!("\"{}\" = 1\n{job}", "\\u001b]0;pwned\\u0007".repeat(1000)),
        format!("name = \"{}\"\n{job}", "\u{9b}2J".repeat(1000)),
    ] {
        home.write("job.toml", &text);
        let error = home.run(&["plan", "job.toml"]).expect(1).stderr;
        assert!(
            error.len() < 8 << 10 && !error.trim_end().chars().any(char::is_control),
            "{} bytes: {:?}",
            error.len(),
            error.get(..300)
        );
    }
    let long = "y\u{1b}[2J".repeat(10_000);
    for words in [
        &["explain", &long][..],
        &["plan", &long],
        &["status", "--socket", &long[..4000], "x"],
    ] {
        let error = home.run(words).stderr;
        assert!(
            error.len() < 8 << 10 && !error.contains('\u{1b}'),
            "{:?}: {} bytes",
            words[0],
            error.len()
        );
    }
}
