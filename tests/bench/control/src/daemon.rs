//! A daemon of a build, with the fake worker of r1d's tests, and what is asked of it.

use crate::figure::Failed;
use r1d_proto::control::job::{JobStatus, State};
use r1d_proto::control::{Request, Response};
use r1d_proto::frame::{Format, read_blocking, write_blocking};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Kernel ticks in a second, by which /proc counts processor time.
const TICKS: f64 = 100.0;

/// The worker that computes nothing, below a build's directory.
const FAKE_WORKER: &str = "examples/fake-worker";

/// A directory with the programs of a build.
pub(crate) struct Build(PathBuf);

impl Build {
    pub(crate) fn at(dir: PathBuf) -> Build {
        Build(dir)
    }

    /// Checks that the programs are there that are measured.
    pub(crate) fn check(&self) -> Result<(), Failed> {
        let mut programs = ["r1d", "r1ctl", FAKE_WORKER].into_iter();
        match programs.find(|name| !self.program(name).is_file()) {
            None => Ok(()),
            Some(name) => Err(Failed(format!(
                "{} has no {name}: build it there, with `cargo build --release --workspace` and \
                 once more with `--examples`",
                self.0.display()
            ))),
        }
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// How a daemon is started.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) devices: usize,
    /// Whether the devices can be used.
    pub(crate) usable: bool,
    /// Time that a completion or an update takes.
    pub(crate) delay: Duration,
}

/// A running daemon; dropping it kills it.
pub(crate) struct Daemon {
    child: Child,
    dir: PathBuf,
    r1ctl: PathBuf,
    /// Time from the start of the process to its first answer.
    pub(crate) started: Duration,
}

impl Daemon {
    /// Starts a daemon in `dir`, whose state directory is `dir/state`, and waits for its answer.
    pub(crate) fn start(build: &Build, dir: &Path, setup: Setup) -> Result<Daemon, Failed> {
        let names: Vec<String> = (0..setup.devices)
            .map(|index| format!("cuda:{index}"))
            .collect();
        fs::write(
            dir.join("r1d.toml"),
            format!("[node]\ndevices = {names:?}\n"),
        )?;
        let faults = dir.join("faults");
        fs::create_dir_all(&faults)?;
        if setup.usable {
            let _ = fs::remove_file(faults.join("probe"));
        } else {
            fs::write(faults.join("probe"), "69 it is not to be used")?;
        }
        let log = fs::File::create(dir.join("r1d.log"))?;
        let begun = Instant::now();
        let child = Command::new(build.program("r1d"))
            .args(["run", "--config"])
            .arg(dir.join("r1d.toml"))
            .arg("--state-dir")
            .arg(dir.join("state"))
            .arg("--worker")
            .arg(build.program(FAKE_WORKER))
            .env("FAKE_WORKER_DELAY_MS", setup.delay.as_millis().to_string())
            .env("FAKE_WORKER_FAULTS", &faults)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut daemon = Daemon {
            child,
            dir: dir.into(),
            r1ctl: build.program("r1ctl"),
            started: Duration::ZERO,
        };
        let answers = |daemon: &mut Daemon| match daemon.child.try_wait()? {
            Some(_) => Err(Failed(format!("r1d ended: {}", daemon.log()))),
            None => Ok(daemon.ask(&Request::Nodes).is_ok().then_some(())),
        };
        daemon.wait("its answer", Duration::from_millis(2), answers)?;
        daemon.started = begun.elapsed();
        Ok(daemon)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("r1d.log")).unwrap_or_default()
    }

    pub(crate) fn wait<T>(
        &mut self,
        what: &str,
        pause: Duration,
        mut look: impl FnMut(&mut Daemon) -> Result<Option<T>, Failed>,
    ) -> Result<T, Failed> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            std::thread::sleep(pause);
        }
        Err(Failed(format!("waited in vain for {what}: {}", self.log())))
    }

    pub(crate) fn connect(&self) -> Result<UnixStream, Failed> {
        Ok(UnixStream::connect(self.dir.join("state/r1d.sock"))?)
    }

    pub(crate) fn ask(&self, request: &Request) -> Result<Response, Failed> {
        let mut stream = self.connect()?;
        write_blocking(&mut stream, Format::Json, request)?;
        match read_blocking(&mut stream, Format::Json)? {
            Response::Error(error) => Err(Failed(error.message)),
            answer => Ok(answer),
        }
    }

    pub(crate) fn submit(&self, job: String) -> Result<String, Failed> {
        let submit = Request::Submit {
            job,
            priority: None,
            pins: Default::default(),
            no_reuse: false,
            hold: false,
        };
        match self.ask(&submit)? {
            Response::Submitted { job, .. } => Ok(job.0),
            other => Err(Failed(format!("{other:?}"))),
        }
    }

    pub(crate) fn status(&self, job: &str) -> Result<JobStatus, Failed> {
        match self.ask(&Request::Status { job: job.into() })? {
            Response::Status(status) => Ok(*status),
            other => Err(Failed(format!("{other:?}"))),
        }
    }

    /// Waits until the job has ended as it should.
    pub(crate) fn succeeded(&mut self, job: &str) -> Result<JobStatus, Failed> {
        self.wait("the job's end", Duration::from_millis(5), |daemon| {
            let status = daemon.status(job)?;
            match status.state {
                State::Succeeded => Ok(Some(status)),
                state if state.is_final() => Err(Failed(format!("{:?}", status.error))),
                _ => Ok(None),
            }
        })
    }

    /// Time that `r1ctl` takes for a command.
    pub(crate) fn r1ctl(&self, words: &[&str]) -> Result<Duration, Failed> {
        let begun = Instant::now();
        let ended = Command::new(&self.r1ctl)
            .args(words)
            .arg("--socket")
            .arg(self.dir.join("state/r1d.sock"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()?;
        let elapsed = begun.elapsed();
        if !ended.status.success() {
            return Err(Failed(String::from_utf8_lossy(&ended.stderr).into_owned()));
        }
        Ok(elapsed)
    }

    /// Processor time of the daemon alone, without its workers.
    pub(crate) fn processor_time(&self) -> Result<Duration, Failed> {
        self.time(11)
    }

    /// Processor time of the daemon's children that have ended.
    pub(crate) fn children_time(&self) -> Result<Duration, Failed> {
        self.time(13)
    }

    /// Two numbers of /proc/PID/stat behind the process's name, in user mode and in the kernel.
    fn time(&self, first: usize) -> Result<Duration, Failed> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
        let ticks = fields.split_whitespace().skip(first).take(2);
        let ticks: f64 = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
        Ok(Duration::from_secs_f64(ticks / TICKS))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A line of the daemon's memory, in MB: `VmRSS`, `VmHWM`.
    pub(crate) fn memory_mb(&self, line: &str) -> Result<f64, Failed> {
        memory_mb(self.id(), line)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of a process's memory, in MB.
pub(crate) fn memory_mb(process: u32, line: &str) -> Result<f64, Failed> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let found = status
        .lines()
        .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let kb = found.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    kb.map(|kb| kb / 1024.0)
        .ok_or_else(|| Failed(format!("no {line}")))
}
