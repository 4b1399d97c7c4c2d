//! What a job may name and ask for without the daemon suffering: files that are no files, settings
//! at their limits, texts of a megabyte, plugins that never end.

use crate::guests::{Guest, component};
use crate::test_daemon::TestDaemon;
use r1d_proto::control::error::ControlError;
use r1d_proto::control::job::State;
use r1d_proto::control::{Request, Response};
use r1d_proto::frame::{Format, write_blocking};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A pipe, a link to a device without end, a socket, a directory, a file of the kernel's.
fn no_files(daemon: &TestDaemon) -> [PathBuf; 5] {
    let [fifo, zero, socket, directory] =
        ["fifo", "zero", "socket", "directory"].map(|name| daemon.path(name));
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    symlink("/dev/zero", &zero).unwrap();
    drop(UnixListener::bind(&socket).unwrap());
    fs::create_dir(&directory).unwrap();
    [fifo, zero, socket, directory, "/proc/kmsg".into()]
}

fn refusal(response: Response) -> ControlError {
    match response {
        Response::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

fn planned(daemon: &TestDaemon, job: String) -> Response {
    daemon.ask(Request::Plan {
        job,
        pins: Default::default(),
    })
}

/// The job with these keys in `[model]`.
fn starting_from(daemon: &TestDaemon, keys: &str) -> String {
    let job = daemon.job(&[]);
    let (before, model) = job.split_once("[model]\n").unwrap();
    let (_, after) = model.split_once("\n\n").unwrap();
    format!("{before}[model]\n{keys}\n\n{after}")
}

/// In the place of `file` of a model directory.
fn instead(daemon: &TestDaemon, model: &str, file: &str, what: &Path) {
    let place = daemon.path(model).join(file);
    let _ = fs::remove_file(&place);
    symlink(what, &place).unwrap();
}

#[test]
fn what_is_no_regular_file_is_refused_at_once_wherever_a_job_names_it() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    for (number, what) in no_files(&daemon).into_iter().enumerate() {
        let path = what.display().to_string();
        let refused = |job: String, named: &str| {
            let error = refusal(planned(&daemon, job)).message;
            assert!(error.contains(named), "{path}: {error}");
        };
        refused(
            daemon.job(&[("plugin = \"accuracy\"", &format!("plugin = \"{path}\""))]),
            &path,
        );
        refused(
            starting_from(
                &daemon,
                &format!(
                    "init = \"{path}\"\ntokenizer = \"{}\"",
                    daemon.path("tokenizer").display()
                ),
            ),
            &path,
        );
        for file in ["config.json", "model.safetensors"] {
            let name = format!("model-{number}-{}", file.len());
            daemon.write_language_model(&name);
            instead(&daemon, &name, file, &what);
            refused(
                starting_from(
                    &daemon,
                    &format!("path = \"{}\"", daemon.path(&name).display()),
                ),
                &name,
            );
        }
        let name = format!("indexed-{number}");
        daemon.write_language_model(&name);
        fs::remove_file(daemon.path(&name).join("model.safetensors")).unwrap();
        instead(&daemon, &name, "model.safetensors.index.json", &what);
        refused(
            starting_from(
                &daemon,
                &format!("path = \"{}\"", daemon.path(&name).display()),
            ),
            &name,
        );
    }
    // A signal still ends the daemon: no thread hangs on any of them.
    daemon.signal("TERM");
    assert!(daemon.ended().success());
}

/// The most memory that the daemon has held, bytes.
fn peak_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

/// Each is taken as far as its first step, or refused; the daemon is the same process afterwards,
/// and has not grown by what was asked for.
#[test]
fn settings_at_their_limits_are_planned_and_begun_without_the_memory_that_they_name() {
    const MEMORY_MAX_BYTES: u64 = 1 << 30;
    let mut daemon = TestDaemon::new();
    daemon.start();
    let pid = daemon.pid();
    let grpo = |key: &str, most: &str| {
        house_change(
            "prompts_per_step = 2",
            &format!("prompts_per_step = 2\n{key} = {most}"),
        )
    };
    let changes: Vec<(String, String)> = vec![
        house_change("prompts_per_step = 2", "prompts_per_step = 65536"),
        house_change("prompts_per_step = 2", "prompts_per_step = 4294967295"),
        house_change("num_generations = 4", "num_generations = 16384"),
        house_change("num_generations = 4", "num_generations = 4294967295"),
        house_change(
            "batch_size = 2\nmax_length = 8",
            "batch_size = 65536\nmax_length = 8",
        ),
        house_change(
            "batch_size = 2\nmax_length = 8",
            "batch_size = 4294967295\nmax_length = 8",
        ),
        house_change("batch_size = 4", "batch_size = 65536"),
        house_change("steps = 6", "steps = 4294967296"),
        house_change(
            "num_generations = 2\nmax_rows = 3",
            "num_generations = 16384\nmax_rows = 3",
        ),
        house_change(
            "num_generations = 2\nmax_rows = 3",
            "num_generations = 4294967295\nmax_rows = 3",
        ),
        house_change("max_resample_rounds = 2", "max_resample_rounds = 64"),
        grpo("num_iterations", "1024"),
        grpo("max_tokens_per_device", "16777216"),
        grpo("top_k", "4294967295"),
        house_change(
            "max_completion_length = 8\ntop_p",
            "max_completion_length = 16384\ntop_p",
        ),
    ];
    for (old, new) in changes {
        let job = daemon.job(&[(&old, &new)]);
        let submitted = daemon.ask(Request::Submit {
            job,
            priority: None,
            pins: Default::default(),
            no_reuse: true,
            hold: false,
        });
        if let Response::Submitted { job, .. } = submitted {
            assert!(
                !new.contains("4294967295") || new.contains("top_k"),
                "{new} was accepted"
            );
            let began = |daemon: &mut TestDaemon| {
                let status = daemon.try_status(&job.0)?;
                let doing = status
                    .activity
                    .as_ref()
                    .is_some_and(|activity| activity.doing != "loading");
                (status.state.is_final() || doing).then_some(())
            };
            daemon.wait(&format!("{new} to begin"), began);
            daemon.ask(Request::Cancel { job: job.0.clone() });
            daemon.wait("the job's end", |daemon| {
                daemon
                    .try_status(&job.0)
                    .filter(|status| status.state.is_final())
            });
        } else {
            let error = refusal(submitted).message;
            assert!(
                !new.contains("4294967295") || error.contains("is out of range"),
                "{new}: {error}"
            );
        }
        assert_eq!(daemon.pid(), pid);
        assert!(
            peak_bytes(pid) < MEMORY_MAX_BYTES,
            "{new}: {} bytes",
            peak_bytes(pid)
        );
    }
}

fn house_change(old: &str, new: &str) -> (String, String) {
    (old.into(), new.into())
}

/// An error that is fit to be printed.
fn is_tame(error: &str) {
    assert!(
        error.len() < 8 << 10 && !error.chars().any(char::is_control),
        "{} bytes: {:?}",
        error.len(),
        error.get(..200)
    );
}

#[test]
fn no_answer_and_no_log_echoes_a_megabyte_or_an_escape_sequence() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    // A plugin whose refusal is an escape sequence: an error with its string at 3000.
    let guest = Guest {
        fields: r#"(data (i32.const 512) "\01\00\00\00\b8\0b\00\00\0b\00\00\00") (data (i32.const 3000) "\1b]0;pwned\07\0a")"#,
        ..Guest::default()
    };
    let plugin = daemon.path("rude.wasm");
    fs::write(&plugin, component(&guest)).unwrap();
    let long = "x".repeat(1_000_000);
    let escapes = "\\u001b]0;pwned\\u0007".repeat(1000);
    for job in [
        daemon.job(&[(
            "plugin = \"accuracy\"",
            &format!("plugin = \"{}\"", plugin.display()),
        )]),
        daemon.job(&[("plugin = \"accuracy\"", &format!("plugin = \"{escapes}\""))]),
        daemon.job(&[("plugin = \"accuracy\"", "plugin = \"a\\u001b[2Jb\"")]),
        daemon.job(&[(
            "plugin = \"accuracy\"",
            &format!("plugin = \"accuracy\"\nconfig = {{ \"{escapes}\" = 1 }}"),
        )]),
        format!("{}\n\"{long}\" = 1", daemon.job(&[])),
        format!("\"{escapes}\" = 1\n{}", daemon.job(&[])),
        daemon.job(&[("name = \"tested\"", &format!("name = \"{long}\""))]),
        daemon.job(&[("/tokenizer\"", "/\\u001b[2J\"")]),
        daemon.job(&[("data = \"text\"", &format!("data = \"{escapes}\""))]),
    ] {
        let submit = Request::Submit {
            job: job.clone(),
            priority: None,
            pins: Default::default(),
            no_reuse: false,
            hold: false,
        };
        for request in [
            Request::Plan {
                job: job.clone(),
                pins: Default::default(),
            },
            submit,
        ] {
            is_tame(&refusal(daemon.ask(request)).message);
        }
    }
    for request in [
        Request::Status { job: long.clone() },
        Request::Why {
            job: "\u{1b}[2J".into(),
        },
    ] {
        is_tame(&refusal(daemon.ask(request)).message);
    }
    let escape = daemon
        .log()
        .lines()
        .find(|line| line.contains('\u{1b}') || line.len() > 16 << 10)
        .map(|line| line.len());
    assert_eq!(escape, None, "a line of the daemon's own log");
}

/// Plans that nobody waits for any more, of a plugin that takes as long as it is let: a job beside
/// them is judged as ever.
#[test]
fn plans_of_a_plugin_that_never_ends_keep_no_job_from_its_verdicts() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let mut bytes = component(&Guest {
        configure: "(loop $again (br $again)) (unreachable)",
        ..Guest::default()
    });
    // A custom section of 2 MiB, as large as an interpreter: id 0, its length, an empty name.
    bytes.extend([0, 0x80, 0x80, 0x80, 0x01]);
    bytes.resize(bytes.len() + (2 << 20), 0);
    let plugin = daemon.path("endless.wasm");
    fs::write(&plugin, bytes).unwrap();
    let limits = "limits = { fuel = 9223372036854775807, wall_ms = 3600000 }";
    let job = daemon.job(&[(
        "plugin = \"accuracy\"",
        &format!("plugin = \"{}\"\n{limits}", plugin.display()),
    )]);
    let plans: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = daemon.connect().unwrap();
            write_blocking(
                &mut stream,
                Format::Json,
                &Request::Plan {
                    job: job.clone(),
                    pins: Default::default(),
                },
            )
            .unwrap();
            stream
        })
        .collect();
    let beside = daemon.submit(daemon.job(&[]));
    assert_eq!(daemon.wait_ended(&beside).state, State::Succeeded);
    // Whoever asked has gone: the daemon ends without waiting for a plugin.
    drop(plans);
    daemon.signal("TERM");
    assert!(daemon.ended().success());
}
