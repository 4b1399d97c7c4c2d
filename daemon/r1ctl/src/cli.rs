//! The command line, defined once: parsing, help, completions and the man pages come from here.

pub(crate) mod model;
pub(crate) mod plugin;

use clap::{Args, Parser, Subcommand, ValueEnum};
use model::Model;
use plugin::{Plugin, Rescore};
use r1d_proto::control::job::State;
use r1d_proto::control::{Request, SampleSort};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

/// Submit training jobs to r1d and watch them learn.
#[derive(Debug, Parser)]
#[command(name = "r1ctl", version, max_term_width = 100, disable_help_subcommand = true,
    after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "Exit codes: 0 ok, 1 failed, 2 job failed or cancelled, 64 wrong command \
                          line, 130 interrupted.";

/// The heading that options of every command stand under.
const GLOBAL: &str = "Global options";

#[derive(Debug, Args)]
#[command(next_help_heading = GLOBAL)]
pub(crate) struct Global {
    /// The daemon's socket [default: R1D_SOCKET, else r1d.sock under R1D_STATE_DIR or the local
    /// state directory, then /run/r1d/r1d.sock]
    #[arg(long, global = true, value_name = "PATH", value_parser = any_path())]
    pub socket: Option<PathBuf>,
    /// How to print: a table for people, or JSON
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table, value_name =
        "FORMAT")]
    pub output: Output,
    /// No colours (also when NO_COLOR is set, and whenever the output is not a terminal)
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Longest wait for a connection, and then for an answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30, value_parser =
        clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// Also an empty one, which counts as none.
fn any_path() -> impl clap::builder::TypedValueParser<Value = PathBuf> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().map(PathBuf::from)
}

impl Global {
    /// How to call r1ctl again so that it finds the same daemon, for hints. The environment stays
    /// as it is.
    pub(crate) fn again(&self) -> String {
        match &self.socket {
            Some(socket) => format!("r1ctl --socket {}", socket.display()),
            None => "r1ctl".into(),
        }
    }

    /// The socket that the user named, by the option or the variable.
    pub(crate) fn named_socket(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os("R1D_SOCKET").map(PathBuf::from);
        self.socket.clone().or_else(variable)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Queue a job
    ///
    /// The plugins that judge are pinned in r1.lock beside the job file when it is first submitted;
    /// later submissions are judged by the same, or refused. Prints the new job's id. With --wait,
    /// shows its progress and ends with a summary; Ctrl-C detaches, the job goes on.
    Submit(Submit),
    /// List the jobs: running, queued, paused, ended
    List {
        /// Only jobs in this state; several with commas, as in queued,running. `ended`: all that
        /// succeeded, failed or were cancelled
        #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states())]
        state: Vec<StateFilter>,
        /// Only jobs of this user
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
    },
    /// Show a job: its stages, metrics and evaluations
    Status {
        /// Id of a job, or any prefix of it that no other job shares
        job: String,
        /// Stay until the job has ended; exit code 2 unless it succeeded. With -o json: one line
        /// for each change
        #[arg(short, long, visible_alias = "wait")]
        watch: bool,
        #[command(flatten)]
        patience: Patience,
    },
    /// Show a job's log
    ///
    /// With -o json: JSON lines, one for each entry of the log.
    Logs(Logs),
    /// Stop jobs; what they have written stays, and `requeue` lets them go on
    Cancel(Jobs),
    /// Let jobs wait until `resume`
    ///
    /// A running job stops after the step in flight, which is committed; an evaluation in flight is
    /// abandoned, and done anew after `resume`. Steps since the last checkpoint are then trained
    /// again, on the same completions or rows.
    Pause(Jobs),
    /// Let paused jobs go on, at their old place in the queue
    Resume(Jobs),
    /// Put jobs at the queue's end that run, failed or were cancelled
    ///
    /// They go on from what they have. A running job gives its device up.
    Requeue(Jobs),
    /// Remove jobs that have ended, with all their files
    ///
    /// A job stays that another one needs: that reads its files, or can take over one of its
    /// stages. Jobs that need each other go together. The files go in the background.
    Rm(Jobs),
    /// Remove jobs that ended long ago
    ///
    /// Without --older-than: what is beyond the limits of `[retention]` in r1d.toml. Who is no
    /// administrator removes only own jobs. What another job needs stays.
    Prune {
        /// Jobs that ended at least so long ago, for example 30d or 12h
        #[arg(long, value_name = "TIME", value_parser = age)]
        older_than: Option<Duration>,
        /// Whether a job that succeeded keeps its final model, the data sets that it made, its
        /// metrics and its log [default: `keep_final` of `[retention]` in r1d.toml, which is true
        /// unless it says otherwise]
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
            default_missing_value = "true")]
        keep_final: Option<bool>,
        /// Only tell what would go, and why
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what a job would do: stages, tokens, memory, disk
    ///
    /// `r1ctl explain WORD` says what a word above a column means, for example SNAPSHOT.
    Plan {
        /// The job file
        #[arg(value_name = "JOB.TOML")]
        file: PathBuf,
        /// Print the job file with every default filled in instead
        #[arg(long)]
        toml: bool,
    },
    /// Show prompts, completions and what each reward said of them
    Samples(Samples),
    /// Print how long the parts of a step took, as a file for ui.perfetto.dev
    ///
    /// In the Trace Event Format, which Chrome reads too: the device's requests and their parts,
    /// the rewards by group, journal and ledger, the checkpoint that is written beside them. The
    /// last steps have a trace, each once the next one has begun.
    Trace {
        /// Id of a job, or any prefix of it that no other job shares
        job: String,
        /// The step's stage [default: the last one that has begun]
        #[arg(long, value_name = "NAME")]
        stage: Option<String>,
        /// The step [default: the last one with a trace]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        step: Option<u64>,
    },
    /// Write the story of a job: report.html, to open in a browser, and report.md
    ///
    /// The graph of stages, what the evaluations found after each, curves, cost, samples. Of a job
    /// at work: as far as it came.
    Report {
        /// Id of a job, or any prefix of it that no other job shares
        #[arg(required_unless_present = "dir")]
        job: Option<String>,
        /// A job's directory, which needs no daemon; how the job stands is what its daemon last
        /// wrote there
        #[arg(long, value_name = "DIR", conflicts_with = "job")]
        dir: Option<PathBuf>,
        /// Directory for the two files; created if need be
        #[arg(long, value_name = "DIR", default_value = ".")]
        to: PathBuf,
    },
    /// Tell what a job waits for: who waits, for what, since when, until when
    Why {
        /// Id of a job, or any prefix of it that no other job shares
        job: String,
    },
    /// Look at the data sets that a job's stages make, and review them
    #[command(subcommand)]
    Dataset(Dataset),
    /// List the nodes, their devices and reward plugins
    Nodes,
    /// Explain a key of the job file or a word of r1ctl's tables, or list all keys
    Explain {
        /// For example `learning_rate`, `stage.beta` or `DURABLE`
        key: Option<String>,
    },
    /// Work with a model directory; needs no daemon
    #[command(subcommand)]
    Model(Model),
    /// Write, test and measure rewards; only `reload` needs a daemon
    #[command(subcommand)]
    Plugin(Plugin),
    /// Judge a run's completions again, by another plugin, and show where the two disagree
    Rescore(Rescore),
    /// Stop a daemon that was started by `r1d dev`, after the step in flight
    Shutdown,
    /// Print the completion script of a shell
    Completions { shell: clap_complete::Shell },
    /// Print the man page
    Man {
        /// Write the pages of r1ctl and all its commands into this directory instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// What is submitted, and how.
#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// The job file
    #[arg(value_name = "JOB.TOML")]
    pub file: PathBuf,
    /// Stay until the job has ended; exit code 2 unless it succeeded
    #[arg(short, long)]
    pub wait: bool,
    /// Jobs of a higher priority start first [default: of the job file]
    #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser =
        clap::value_parser!(i32).range(-1000..=1000))]
    pub priority: Option<i32>,
    /// Refuse when r1.lock beside the job file lacks one of the job's plugins
    #[arg(long, conflicts_with = "update_lock")]
    pub locked: bool,
    /// Take the plugins as they are now, and pin them in r1.lock
    #[arg(long)]
    pub update_lock: bool,
    /// Do every stage, also those that an earlier job has finished with the same settings and
    /// inputs
    #[arg(long)]
    pub no_reuse: bool,
    /// Let the job wait until `r1ctl resume`
    #[arg(long, conflicts_with = "wait")]
    pub hold: bool,
    #[command(flatten)]
    pub patience: Patience,
}

/// The part of a log that is shown.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Id of a job, or any prefix of it that no other job shares
    pub job: String,
    /// Stay and print new lines until the job has ended
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    pub tail: Option<u64>,
    /// Only lines of the last so much time, for example 10m or 2h; or since a time as the log has
    /// it, for example 2026-11-23T19:22:05Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Since>,
}

/// A time span, as `30d` or `1h 30m`.
fn age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a time such as 30d, 12h or 90m".into())
}

/// The time at which the lines that are shown begin.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Since {
    /// So long ago.
    Ago(Duration),
    /// At this time after the Unix epoch.
    At(Duration),
}

fn since(text: &str) -> Result<Since, &'static str> {
    let at = humantime::parse_rfc3339_weak(text).ok();
    let at = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let ago = || humantime::parse_duration(text).ok().map(Since::Ago);
    at.map(Since::At)
        .or_else(ago)
        .ok_or("write how long ago, as in 10m or 2h, or when, as in 2026-11-23T19:22:05Z")
}

/// The completions that are shown.
#[derive(Debug, Args)]
pub(crate) struct Samples {
    /// Id of a job, or any prefix of it that no other job shares
    pub job: String,
    /// Only this stage [default: the latest one that sampled]
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// Only this step [default: the latest one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub step: Option<u64>,
    /// By prompt and sample, best reward first, or longest completion first
    #[arg(long, value_enum, default_value_t = Sort::Order)]
    pub sort: Sort,
    /// At most so many samples
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32)
        .range(1..))]
    pub limit: u32,
}

impl Logs {
    /// `now` is the time since the Unix epoch.
    pub(crate) fn request(self, now: Duration) -> Request {
        let ago_s = |since: Since| match since {
            Since::Ago(time) => time.as_secs(),
            // The line of that very second is one of them.
            Since::At(at) => now.saturating_sub(at).as_secs() + 1,
        };
        Request::Logs {
            job: self.job,
            follow: self.follow,
            tail: self.tail,
            since_s: self.since.map(ago_s),
        }
    }
}

impl Samples {
    pub(crate) fn request(self) -> Request {
        Request::Samples {
            job: self.job,
            stage: self.stage,
            step: self.step,
            sort: self.sort.into(),
            limit: self.limit,
        }
    }
}

/// States by which a list is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StateFilter {
    Is(State),
    Ended,
}

impl StateFilter {
    pub(crate) fn takes(self, state: State) -> bool {
        match self {
            StateFilter::Is(wanted) => wanted == state,
            StateFilter::Ended => state.is_final(),
        }
    }
}

/// The names of the states, and `ended` for all final ones.
fn states() -> impl clap::builder::TypedValueParser<Value = StateFilter> {
    use clap::builder::TypedValueParser;
    const ENDED: &str = "ended";
    let names = State::ALL.map(State::name).into_iter().chain([ENDED]);
    clap::builder::PossibleValuesParser::new(names).try_map(|name| {
        let known = State::ALL.into_iter().find(|state| state.name() == name);
        let ended = (name == ENDED).then_some(StateFilter::Ended);
        known.map(StateFilter::Is).or(ended).ok_or("no such state")
    })
}

/// Jobs that a command is carried out on, one after the other.
#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// Ids of jobs, or any prefixes of them that no other jobs share; of several, -o json prints
    /// one list
    #[arg(required = true, value_name = "JOB")]
    pub jobs: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dataset {
    /// List what the job's stages have made: rows, acceptance rate, whether somebody has looked at
    /// it
    List {
        /// Id of a job, or any prefix of it that no other job shares
        job: String,
    },
    /// Review a data set that the job waits for (`review = true` in its stage)
    ///
    /// Export it, delete, edit or add rows, and import the file: its rows then are the data set,
    /// and the job goes on. A review can be changed until a later stage begins to read the data
    /// set.
    #[command(group = clap::ArgGroup::new("act").required(true))]
    Review {
        /// Id of a job, or any prefix of it that no other job shares
        job: String,
        /// The stage that made it
        stage: String,
        /// Write the rows as JSON lines to a file that does not exist
        #[arg(long, value_name = "FILE.jsonl", group = "act")]
        export: Option<PathBuf>,
        /// Take this file's rows in their place; each line is checked
        #[arg(long, value_name = "FILE.jsonl", group = "act")]
        import: Option<PathBuf>,
        /// Take the rows as the stage made them
        #[arg(long, group = "act")]
        accept: bool,
    },
}

/// How long a watched daemon may be away.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Patience {
    /// How long to look for a daemon that went away while waiting for the job
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub reconnect: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    Order,
    Reward,
    Length,
}

impl From<Sort> for SampleSort {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Order => SampleSort::Order,
            Sort::Reward => SampleSort::Reward,
            Sort::Length => SampleSort::Length,
        }
    }
}
