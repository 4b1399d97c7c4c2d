//! A daemon of one's own: real processes on a fresh state directory, with the fake worker, and what
//! tests ask of them.

#![allow(clippy::disallowed_methods, reason = "a test's own thread may sleep")]

mod code_cache;

use r1d_proto::control::content::LogLine;
use r1d_proto::control::error::ErrorKind;
use r1d_proto::control::job::{JobStatus, State};
use r1d_proto::control::why::Why;
use r1d_proto::control::{Request, Response};
use r1d_proto::frame::{Format, read_blocking, write_blocking};
use serde_json::{Map, Value};
use std::ffi::CString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) struct TestDaemon {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
    delay_ms: u32,
    silence_s: u32,
    program: PathBuf,
    worker: PathBuf,
    variables: Vec<(String, String)>,
    umask: Option<u32>,
    user: Option<u32>,
    is_configured: bool,
    state_name: String,
    disk_bytes: Option<u64>,
}

/// What a finished job leaves that kills may not change: the weights' hash, metrics and evaluations
/// without what the clock decides.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    pub weights: String,
    pub metrics: Vec<Map<String, Value>>,
    pub evals: Vec<(Option<String>, u64, Map<String, Value>)>,
}

/// What the fake worker's judge writes.
const VERDICTS: [&str; 2] = [
    r#"{"correctness":"correct"}"#,
    r#"{"correctness":"incorrect"}"#,
];

/// How long a test waits for anything before it fails.
const PATIENCE: Duration = Duration::from_secs(120);

impl TestDaemon {
    pub(crate) fn new() -> TestDaemon {
        let dir = tempfile::Builder::new()
            .prefix("r1d-test-")
            .tempdir()
            .expect("a directory");
        let program = PathBuf::from(env!("CARGO_BIN_EXE_r1d"));
        let worker = program.with_file_name("examples").join("fake-worker");
        let (variables, umask, user) = (Vec::new(), None, None);
        let is_configured = false;
        let state_name = "state".into();
        let daemon = TestDaemon {
            daemon: None,
            state_name,
            is_configured,
            disk_bytes: None,
            delay_ms: 1,
            silence_s: 60,
            program,
            worker,
            variables,
            umask,
            user,
            dir,
        };
        fs::create_dir_all(daemon.path("faults")).expect("faults");
        daemon.write_inputs();
        daemon
    }

    pub(crate) fn with_delay_ms(mut self, delay_ms: u32) -> TestDaemon {
        self.delay_ms = delay_ms;
        self
    }

    pub(crate) fn with_silence_s(mut self, silence_s: u32) -> TestDaemon {
        self.silence_s = silence_s;
        self
    }

    /// A variable of the daemon's environment.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.into(), value.into()));
    }

    /// The state directory is on a disk of this size, which is the daemon's alone and goes with it:
    /// [`TestDaemon::on_its_disk`] has the paths of files there. Needs root.
    pub(crate) fn set_disk(&mut self, bytes: u64) {
        self.disk_bytes = Some(bytes);
    }

    /// A path as the running daemon sees it.
    pub(crate) fn on_its_disk(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid()));
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }

    fn socket(&self) -> PathBuf {
        match self.disk_bytes {
            Some(_) => self.path("r1d.sock"),
            None => self.state().join("r1d.sock"),
        }
    }

    pub(crate) fn set_umask(&mut self, umask: u32) {
        self.umask = Some(umask);
    }

    /// The daemon has these devices; without, those of the machine.
    pub(crate) fn devices(&mut self, devices: &[&str]) {
        let text = format!("[node]\ndevices = {devices:?}\n");
        fs::write(self.path("r1d.toml"), text).expect("a configuration");
        self.is_configured = true;
    }

    /// The daemon runs as this user, and the group of the same number, from copies of the programs
    /// and plugins: the build may lie where this user may not enter.
    pub(crate) fn set_user(&mut self, user: u32) {
        self.user = Some(user);
        let built = self.program.with_file_name("plugins");
        fs::create_dir_all(self.path("bin/plugins")).expect("a directory for the plugins");
        for entry in fs::read_dir(&built).expect("plugins").flatten() {
            fs::copy(
                entry.path(),
                self.path("bin/plugins").join(entry.file_name()),
            )
            .expect("a copy of a plugin");
        }
        for (program, name) in [
            (&mut self.program, "r1d"),
            (&mut self.worker, "fake-worker"),
        ] {
            let copy = self.dir.path().join("bin").join(name);
            fs::copy(&program, &copy).expect("a copy of a program");
            *program = copy;
        }
    }

    /// The daemon's worker is a copy, which a test may take away.
    pub(crate) fn set_own_worker(&mut self) -> PathBuf {
        let copy = self.path("own-worker");
        fs::copy(&self.worker, &copy).expect("a copy of the worker");
        self.worker = copy.clone();
        copy
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path(&self.state_name)
    }

    /// The state directory of the next daemon.
    pub(crate) fn set_state(&mut self, name: &str) {
        self.state_name = name.into();
    }

    /// Words 0 to 14: `</s> <think> </think> <answer> </answer>`, then the digits, whose order is
    /// the tokenizer's own; then two verdicts of a judge.
    fn write_tokenizer(&self, name: &str, digits: [&str; 10]) {
        let words = [
            &["</s>", "<think>", "</think>", "<answer>", "</answer>"],
            &digits[..],
            &VERDICTS[..],
        ]
        .concat();
        let vocabulary: Map<String, Value> = words
            .iter()
            .enumerate()
            .map(|(id, word)| (word.to_string(), Value::from(id)))
            .collect();
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
                "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "0"}
        });
        let dir = self.path(name);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).expect("tokenizer");
        fs::write(dir.join("generation_config.json"), r#"{"eos_token_id": 0}"#)
            .expect("generation config");
    }

    fn write_inputs(&self) {
        self.write_tokenizer(
            "tokenizer",
            ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
        );
        let row = |i: u32| {
            serde_json::json!({"prompt": format!("{} {}", i % 10, i / 10), "reference": (i % 3)
                .to_string(),
            "completion": format!("<think> {0} </think> <answer> {0} </answer>", i % 3),
                "text": format!(
                "{} {} {}", i % 7, i % 5, i % 3)})
        };
        let rows: String = (0..40).map(|i| format!("{}\n", row(i))).collect();
        fs::write(self.path("rows.jsonl"), rows).expect("rows");
        let config = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../configs/models/tiny-deepseek-v3.json");
        fs::copy(config, self.path("model.json")).expect("the model's config");
    }

    /// A model with another architecture, and a tokenizer in which the ids of the first three
    /// digits mean other ones.
    pub(crate) fn write_student(&self) {
        self.write_tokenizer(
            "student-tokenizer",
            ["2", "0", "1", "3", "4", "5", "6", "7", "8", "9"],
        );
        let chat = r#"{"chat_template": "{% for message in messages %}<answer> {{ message.content }} </answer>{% endfor %} <think> "}"#;
        fs::write(self.path("student-tokenizer/tokenizer_config.json"), chat)
            .expect("tokenizer config");
        let config = serde_json::json!({"model_type": "qwen2", "vocab_size": 32, "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2});
        fs::write(self.path("student.json"), config.to_string()).expect("the student's config");
    }

    /// A Hugging Face directory of a language model, as far as the daemon looks into one.
    pub(crate) fn write_language_model(&self, name: &str) {
        self.write_tokenizer(name, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        let config = serde_json::json!({"architectures": ["Qwen2ForCausalLM"], "model_type":
            "qwen2",
            "vocab_size": 32,
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
            "max_position_embeddings": 4096});
        fs::write(self.path(name).join("config.json"), config.to_string()).expect("config");
        let (mut entries, mut end) = (Map::new(), 0);
        for tensor in r1d_shape::Config::parse(&config.to_string())
            .expect("a config")
            .tensors()
        {
            let (start, shape) = (end, &tensor.shape);
            end += 4 * tensor.count();
            entries.insert(
                tensor.name,
                serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}),
            );
        }
        let header = Value::Object(entries).to_string();
        let weights = [
            &(header.len() as u64).to_le_bytes()[..],
            header.as_bytes(),
            &vec![0; end as usize],
        ]
        .concat();
        fs::write(self.path(name).join("model.safetensors"), weights).expect("weights");
    }

    /// A job of three stages; `changes` replace parts of its text.
    pub(crate) fn job(&self, changes: &[(&str, &str)]) -> String {
        let mut text = JOB.replace("DIR", &self.dir.path().display().to_string());
        for (old, new) in changes {
            assert!(text.contains(old), "{old:?} is not in the job");
            text = text.replace(old, new);
        }
        text
    }

    /// Plants a fault (see the fake worker).
    pub(crate) fn plant(&self, moment: &str, fault: &str) {
        fs::write(self.path("faults").join(moment), fault).expect("a fault");
    }

    pub(crate) fn heal(&self, moment: &str) {
        fs::remove_file(self.path("faults").join(moment)).expect("a fault to remove");
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if self.is_configured {
            command.args(["run", "--config"]).arg(self.path("r1d.toml"))
        } else {
            command.arg("dev")
        };
        command
            .arg("--state-dir")
            .arg(self.state())
            .arg("--worker")
            .arg(&self.worker);
        command.args(["--worker-silence", &self.silence_s.to_string()]);
        command
            .env("FAKE_WORKER_DELAY_MS", self.delay_ms.to_string())
            .env("FAKE_WORKER_FAULTS", self.path("faults"));
        command.env_remove("R1D_STATE_DIR").env_remove("R1D_WORKER");
        command
            .stdin(Stdio::null())
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        if let Some(bytes) = self.disk_bytes {
            fs::create_dir_all(self.state()).expect("a directory for the disk");
            mount_in_child(&mut command, &self.state(), Mount::Disk(bytes));
            command.arg("--socket").arg(self.socket());
        }
        if let Some(umask) = self.umask {
            let mode = rustix::fs::Mode::from_raw_mode(umask);
            // SAFETY: umask(2) is one system call, and may be called between fork and exec.
            unsafe {
                command.pre_exec(move || {
                    rustix::process::umask(mode);
                    Ok(())
                });
            }
        }
        command
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&mut self) {
        if self.user.is_none() && !self.state().exists() {
            code_cache::seed(&self.state().join("cache"));
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("r1d.log"))
            .expect("a log");
        let daemon = self
            .command()
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("r1d starts");
        self.daemon = Some(daemon);
        self.wait("the daemon's answer", |daemon| {
            matches!(daemon.try_ask(Request::Nodes), Some(Response::Nodes(_))).then_some(())
        });
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon").id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        signal_process(self.pid(), signal);
    }

    /// Waits for the daemon's end.
    pub(crate) fn ended(&mut self) -> std::process::ExitStatus {
        self.daemon
            .take()
            .expect("a daemon")
            .wait()
            .expect("its status")
    }

    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
        self.ended();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("r1d.log")).unwrap_or_default()
    }

    /// Starts the daemon again when a planted fault has killed it.
    pub(crate) fn revive(&mut self) -> bool {
        let dead = self
            .daemon
            .as_mut()
            .is_none_or(|daemon| daemon.try_wait().expect("its status").is_some());
        if dead {
            self.start();
        }
        dead
    }

    pub(crate) fn wait<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut TestDaemon) -> Option<T>,
    ) -> T {
        let mut left = PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let pause = Duration::from_millis(10);
            left = left
                .checked_sub(pause)
                .unwrap_or_else(|| panic!("waited in vain for {what}\n{}", self.log()));
            std::thread::sleep(pause);
        }
    }

    pub(crate) fn connect(&self) -> Option<UnixStream> {
        let stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(stream)
    }

    pub(crate) fn try_ask(&self, request: Request) -> Option<Response> {
        let mut stream = self.connect()?;
        write_blocking(&mut stream, Format::Json, &request).ok()?;
        read_blocking(&mut stream, Format::Json).ok()
    }

    pub(crate) fn ask(&self, request: Request) -> Response {
        self.try_ask(request)
            .unwrap_or_else(|| panic!("no answer\n{}", self.log()))
    }

    /// All answers of a stream.
    pub(crate) fn stream(&self, request: Request) -> Vec<Response> {
        let mut stream = self.connect().expect("a daemon");
        write_blocking(&mut stream, Format::Json, &request).expect("a request");
        let mut answers = Vec::new();
        loop {
            match read_blocking(&mut stream, Format::Json).expect("an answer") {
                Response::End => return answers,
                answer => answers.push(answer),
            }
        }
    }

    pub(crate) fn submit(&self, job: String) -> String {
        match self.ask(Request::Submit {
            job,
            priority: None,
            pins: Default::default(),
            no_reuse: false,
            hold: false,
        }) {
            Response::Submitted { job, .. } => job.0,
            other => panic!("{other:?}"),
        }
    }

    /// The error that a job is refused with.
    pub(crate) fn refused(&self, job: String) -> String {
        match self.ask(Request::Submit {
            job,
            priority: None,
            pins: Default::default(),
            no_reuse: false,
            hold: false,
        }) {
            Response::Error(error) => {
                assert_eq!(error.kind, ErrorKind::Invalid, "{}", error.message);
                error.message
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn try_status(&self, job: &str) -> Option<JobStatus> {
        match self.try_ask(Request::Status { job: job.into() })? {
            Response::Status(status) => Some(*status),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn why(&self, job: &str) -> Why {
        match self.ask(Request::Why { job: job.into() }) {
            Response::Why(why) => why,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn log_lines(&self, job: &str) -> Vec<LogLine> {
        let lines = |answer| match answer {
            Response::Lines(lines) => lines,
            other => panic!("{other:?}"),
        };
        self.stream(Request::Logs {
            job: job.into(),
            follow: false,
            tail: None,
            since_s: None,
        })
        .into_iter()
        .flat_map(lines)
        .collect()
    }

    /// Waits for the job's end; a daemon that was killed meanwhile is started again.
    pub(crate) fn wait_ended(&mut self, job: &str) -> JobStatus {
        let job = job.to_owned();
        self.wait("the job's end", |daemon| {
            daemon.revive();
            daemon
                .try_status(&job)
                .filter(|status| status.state.is_final())
        })
    }

    pub(crate) fn wait_succeeded(&mut self, job: &str) -> JobStatus {
        let status = self.wait_ended(job);
        assert_eq!(
            status.state,
            State::Succeeded,
            "{:?}\n{}",
            status.error,
            self.log()
        );
        status
    }

    pub(crate) fn outcome(&self, status: &JobStatus) -> Outcome {
        let exact = |object: Map<String, Value>| {
            object
                .into_iter()
                .filter(|(name, _)| !r1d_runner::metrics::is_timing(name))
                .collect()
        };
        let text = fs::read_to_string(status.directory.join("metrics.jsonl")).expect("metrics");
        let metrics = text
            .lines()
            .map(|line| exact(serde_json::from_str(line).expect("a line of JSON")))
            .collect();
        let numbers = |metrics: &std::collections::BTreeMap<String, f64>| {
            metrics
                .iter()
                .map(|(n, v)| (n.clone(), Value::from(*v)))
                .collect()
        };
        let evals = status
            .evals
            .iter()
            .map(|e| (e.stage.clone(), e.step, exact(numbers(&e.metrics))))
            .collect();
        let model = status.model.as_ref().expect("a final model");
        Outcome {
            weights: fs::read_to_string(model.join("state")).expect("weights"),
            metrics,
            evals,
        }
    }

    /// Runs the job on a daemon where nothing goes wrong.
    pub(crate) fn undisturbed(changes: &[(&str, &str)]) -> Outcome {
        let mut daemon = TestDaemon::new();
        daemon.start();
        let job = daemon.submit(daemon.job(changes));
        let status = daemon.wait_succeeded(&job);
        daemon.outcome(&status)
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // A test that changed its state directory has nothing to give.
        let _ = code_cache::publish(&self.state().join("cache"));
    }
}

/// What a directory becomes for a process and its children.
pub(crate) enum Mount {
    /// A disk of this size.
    Disk(u64),
    ReadOnly,
}

/// Has the command's process see another file system at `dir`. Needs root.
pub(crate) fn mount_in_child(command: &mut Command, dir: &Path, mount: Mount) {
    let text = |text: &str| CString::new(text).expect("no zero in it");
    let dir = text(&dir.display().to_string());
    let (root, kind) = (text("/"), text("tmpfs"));
    let check = |failed: i32| match failed {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    let options = match mount {
        Mount::Disk(bytes) => Some(text(&format!("size={bytes}"))),
        Mount::ReadOnly => None,
    };
    let (private, read_only) = (
        libc::MS_REC | libc::MS_PRIVATE,
        libc::MS_BIND | libc::MS_RDONLY,
    );
    let mounted = move || {
        // SAFETY: each is one system call on strings that live as long as the closure, and may be
        // called between fork and exec.
        let none = std::ptr::null();
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            check(libc::mount(none, root.as_ptr(), none, private, none.cast()))?;
            let (at, kind) = (dir.as_ptr(), kind.as_ptr());
            match &options {
                Some(options) => check(libc::mount(kind, at, kind, 0, options.as_ptr().cast())),
                None => {
                    check(libc::mount(at, at, none, libc::MS_BIND, none.cast()))?;
                    let flags = libc::MS_REMOUNT | read_only;
                    check(libc::mount(none, at, none, flags, none.cast()))
                }
            }
        }
    };
    // SAFETY: see above.
    unsafe {
        command.pre_exec(mounted);
    }
}

/// Whether this process may mount file systems for its children.
pub(crate) fn may_mount(dir: &Path) -> bool {
    let mut command = Command::new("true");
    mount_in_child(&mut command, dir, Mount::Disk(1 << 20));
    command.status().is_ok_and(|status| status.success())
}

pub(crate) fn signal_process(pid: u32, signal: &str) {
    let _ = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

const JOB: &str = r#"
name = "tested"
seed = 11
batch_invariant = true

[model]
init = "DIR/model.json"
tokenizer = "DIR/tokenizer"

[data.text]
path = "DIR/rows.jsonl"
[data.train]
path = "DIR/rows.jsonl"
reference = "reference"
template = "plain"

[[stage]]
name = "reading"
kind = "pretrain"
data = "text"
steps = 3
batch_size = 2
max_length = 8

[[stage]]
name = "cold-start"
kind = "sft"
data = "train"
steps = 3
batch_size = 4
max_length = 32

[[stage]]
name = "reasoning"
kind = "grpo"
data = "train"
steps = 6
prompts_per_step = 2
num_generations = 4
max_completion_length = 8
top_p = 0.9
beta = 0.01
sync_ref_steps = 2
dynamic_sampling = true
max_resample_rounds = 2

  [[stage.reward]]
  plugin = "accuracy"

  [[stage.reward]]
  plugin = "format"
  weight = 0.5

[checkpoint]
every_steps = 2
keep = 2

[[eval]]
data = "train"
every_steps = 3
stages = ["reasoning"]
num_generations = 2
max_rows = 3
max_completion_length = 8
metrics = ["pass@1", "cons@2"]
"#;
