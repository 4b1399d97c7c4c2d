//! Runs the real binary in an empty environment, and compares with the golden files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Set to anything, it makes tests write the golden files instead of comparing with them.
const UPDATE_VARIABLE: &str = "R1D_UPDATE_GOLDENS";
/// Far beyond what any command here takes.
const HANG: Duration = Duration::from_secs(60);

/// A home directory of a test's own.
pub(crate) struct Home {
    dir: TempDir,
}

pub(crate) struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Home {
    pub(crate) fn new() -> Home {
        Home {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The socket of a daemon in this home's local state directory.
    pub(crate) fn socket(&self) -> PathBuf {
        let state = self.path().join(".local/state/r1d");
        std::fs::create_dir_all(&state).unwrap();
        state.join("r1d.sock")
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_r1ctl"));
        command
            .args(words)
            .env_clear()
            .env("HOME", self.path())
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Run {
        self.finish(self.command(words))
    }

    /// Runs a command to its end; one that hangs is killed, and has no exit code.
    pub(crate) fn finish(&self, mut command: Command) -> Run {
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if end
                .recv_timeout(HANG)
                .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        });
        let output = child.wait_with_output().unwrap();
        drop(ended);
        watchdog.join().unwrap();
        Run::of(output, self)
    }
}

impl Run {
    /// Paths of the home are shown as `HOME`, so that they do not change from run to run.
    pub(crate) fn of(output: std::process::Output, home: &Home) -> Run {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes)
                .unwrap()
                .replace(home.path().to_str().unwrap(), "HOME")
        };
        Run {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Run {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }
}

/// Compares with `tests/golden_cli/NAME`.
#[track_caller]
pub(crate) fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden_cli")
        .join(name);
    if std::env::var_os(UPDATE_VARIABLE).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == text,
        "{name} changed; if rightly so: {UPDATE_VARIABLE}=1 cargo test --release -p r1ctl\n--- \
         golden\n{golden}\n--- now\n{text}"
    );
}
