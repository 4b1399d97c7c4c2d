//! The commands: what each asks of the daemon, and what it prints of the answer.

use crate::cli::{Cli, Command, Dataset, Global, Jobs, Output, Patience, Plugin};
use crate::client::Client;
use crate::error::{EXIT_FAILED, Ended, Error};
use crate::lock::{Lock, Mode};
use crate::print::{self, Printer};
use crate::socket::candidates;
use crate::terminal::one_line;
use crate::watch::{Style, Watch};
use crate::{dataset, explain, job_file, model, pages, plugin, report, show};
use r1d_job::Job;
use r1d_proto::control::{Activity, Request, Response, SampleSort, State};
use r1d_proto::world::SharedClock;
use serde::Serialize;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) fn run(cli: Cli, printer: &Printer, clock: SharedClock) -> Result<Ended, Error> {
    let Cli { global, command } = cli;
    let session = Session {
        global,
        printer,
        clock,
    };
    match command {
        Command::Submit {
            file,
            wait,
            priority,
            locked,
            update_lock,
            no_reuse,
            hold,
            patience,
        } => {
            // Faults of the job file itself are reported without a daemon.
            let job = job_file::read(&file)?;
            let lock = Lock::beside(&file)?;
            let mode = if locked {
                Mode::Locked
            } else if update_lock {
                Mode::Update
            } else {
                Mode::Add
            };
            if mode == Mode::Locked {
                require_pins(&job, &lock)?;
            }
            let request = Request::Submit {
                job: job.to_toml(),
                priority,
                pins: lock.pins(mode),
                no_reuse,
                hold,
            };
            session.block_on(session.submit(request, lock, wait.then_some(patience)))
        }
        Command::Status {
            job,
            watch: true,
            patience,
        } => {
            let style = Style::of_status(session.global.output);
            session.block_on(async {
                session
                    .watch(&session.find().await?, &job, style, patience)
                    .await
            })
        }
        Command::Logs {
            job,
            follow,
            tail,
            since,
        } => session.block_on(session.logs(Request::Logs {
            job,
            follow,
            tail,
            since_s: since.map(|since| since.as_secs()),
        })),
        Command::Plan { file } => session.ask(Request::Plan {
            job: job_file::read(&file)?.to_toml(),
        }),
        Command::List { state, owner } => session.list(&state, owner.as_deref()),
        Command::Status { job, .. } => session.ask(Request::Status { job }),
        Command::Cancel(jobs) => session.each(jobs, |job| Request::Cancel { job }),
        Command::Pause(jobs) => session.each(jobs, |job| Request::Pause { job }),
        Command::Resume(jobs) => session.each(jobs, |job| Request::Resume { job }),
        Command::Requeue(jobs) => session.each(jobs, |job| Request::Requeue { job }),
        Command::Rm(Jobs { jobs }) => session.remove(Request::Remove { jobs }),
        Command::Prune {
            older_than,
            keep_final,
            dry_run,
        } => session.remove(Request::Prune {
            older_than_s: older_than.map(|time| time.as_secs()),
            keep_final: keep_final.then_some(true),
            dry_run,
        }),
        Command::Samples {
            job,
            stage,
            step,
            sort,
            limit,
        } => session.ask(Request::Samples {
            job,
            stage,
            step,
            sort: sort.into(),
            limit,
        }),
        Command::Report {
            dir: Some(dir), to, ..
        } => session.report_of(&dir, &to),
        Command::Report { job, to, .. } => {
            session.block_on(session.report(job.unwrap_or_default(), &to))
        }
        Command::Why { job } => session.ask(Request::Why { job }),
        Command::Dataset(Dataset::List { job }) => session.ask(Request::DataSets { job }),
        Command::Dataset(Dataset::Review {
            job,
            stage,
            export: Some(to),
            ..
        }) => session.block_on(session.export(job, &stage, &to)),
        Command::Dataset(Dataset::Review {
            job, stage, import, ..
        }) => {
            let absolute = |file: PathBuf| {
                std::path::absolute(&file).map_err(|source| Error::File { path: file, source })
            };
            let file = import.map(absolute).transpose()?;
            session.ask(Request::Review { job, stage, file })
        }
        Command::Nodes => session.ask(Request::Nodes),
        Command::Shutdown => session.ask(Request::Shutdown),
        Command::Explain { key } => explain::run(key.as_deref(), session.global.output),
        Command::Model(command) => model::run(command, session.global.output),
        Command::Plugin(Plugin::Reload { job, plugin, file }) => {
            let file =
                std::path::absolute(&file).map_err(|source| Error::File { path: file, source })?;
            session.ask(Request::Reload { job, plugin, file })
        }
        Command::Rescore {
            job,
            plugin,
            reward,
            config,
            limit,
            dirs,
        } => {
            let run = if job.contains('/') {
                PathBuf::from(job)
            } else {
                session.directory(job)?
            };
            plugin::rescore(
                plugin::Rescore {
                    run,
                    plugin,
                    reward,
                    config,
                    limit,
                    dirs,
                },
                session.global.output,
                printer,
            )
        }
        Command::Plugin(Plugin::Author(command)) => {
            plugin::run(command, session.global.output, printer)
        }
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { dir } => pages::man(dir.as_deref()),
    }
}

/// Checks that every plugin of the job file has a pin, in the lock or in the job file.
fn require_pins(job: &Job, lock: &Lock) -> Result<(), Error> {
    let rewards = job
        .stages
        .iter()
        .filter_map(|stage| stage.rollouts())
        .flat_map(|rollouts| rollouts.rewards.iter().cloned());
    let rewards = rewards.chain(job.evals.iter().flat_map(|eval| job.eval_rewards(eval)));
    let unpinned: BTreeSet<String> = rewards
        .filter(|reward| reward.sha256.is_none())
        .map(|reward| reward.plugin.to_string())
        .collect();
    match lock.missing(&unpinned).as_slice() {
        [] => Ok(()),
        missing => Err(Error::Lock {
            path: lock.path().into(),
            why: format!(
                "no pin of {}, and --locked adds none: submit without it once",
                missing.join(", ")
            ),
        }),
    }
}

/// A command that talks to the daemon.
struct Session<'a> {
    global: Global,
    printer: &'a Printer,
    clock: SharedClock,
}

impl Session<'_> {
    fn block_on(
        &self,
        command: impl Future<Output = Result<Ended, Error>>,
    ) -> Result<Ended, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        runtime.block_on(command)
    }

    async fn find(&self) -> Result<Client, Error> {
        let places = candidates(self.global.socket.as_deref(), |name| {
            std::env::var(name).ok()
        });
        Client::find(places, Duration::from_secs(self.global.timeout)).await
    }

    fn ask(&self, request: Request) -> Result<Ended, Error> {
        self.block_on(async {
            let client = self.find().await?;
            let answer = client.ask(&request).await?;
            self.answer(&client, &request, answer)?;
            Ok(Ended::Ok)
        })
    }

    /// Sends a request for each of the jobs. One that is refused does not keep the others from
    /// theirs.
    fn each(&self, jobs: Jobs, request: impl Fn(String) -> Request) -> Result<Ended, Error> {
        self.block_on(async {
            let client = self.find().await?;
            let mut ended = Ended::Ok;
            for job in jobs.jobs {
                let request = request(job);
                let answered = match client.ask(&request).await {
                    Ok(answer) => self.answer(&client, &request, answer),
                    Err(error) => Err(error),
                };
                match answered {
                    Err(error @ Error::Daemon(_)) => {
                        self.printer.error(&error.to_string());
                        ended = Ended::Code(EXIT_FAILED);
                    }
                    answered => answered?,
                }
            }
            Ok(ended)
        })
    }

    fn list(&self, states: &[State], owner: Option<&str>) -> Result<Ended, Error> {
        self.block_on(async {
            let client = self.find().await?;
            let answer = client.ask(&Request::List).await?;
            let Response::Jobs(mut jobs) = answer else {
                return Err(client.unexpected(&Request::List, &answer));
            };
            jobs.retain(|job| {
                let is_in_state = states.is_empty() || states.contains(&job.state);
                is_in_state && owner.is_none_or(|owner| job.owner.as_deref() == Some(owner))
            });
            let none = if states.is_empty() && owner.is_none() {
                "no jobs yet; queue one: r1ctl submit JOB.TOML"
            } else {
                "no such jobs; without --state and --owner: all jobs"
            };
            self.print_some(&jobs, none, || show::jobs(&jobs, self.printer.stdout))?;
            Ok(Ended::Ok)
        })
    }

    /// Removes jobs. Those that were named and stay are errors; those that are beyond a limit and
    /// stay are listed.
    fn remove(&self, request: Request) -> Result<Ended, Error> {
        self.block_on(async {
            let client = self.find().await?;
            let answer = client.ask(&request).await?;
            let Response::Removed(removed) = &answer else {
                return Err(client.unexpected(&request, &answer));
            };
            let is_named = matches!(request, Request::Remove { .. });
            if self.global.output == Output::Json {
                print::json(removed)?;
            } else if is_named {
                print::data(&show::removed(removed))?;
            } else if removed.jobs.is_empty() && removed.kept.is_empty() {
                self.printer
                    .note("no job ended so long ago, or is beyond the limits");
            } else {
                print::data(&show::pruned(removed, self.printer.stdout))?;
            }
            if !is_named || removed.kept.is_empty() {
                return Ok(Ended::Ok);
            }
            for kept in &removed.kept {
                self.printer
                    .error(&format!("job {} stays: {}", kept.job, kept.why));
            }
            Ok(Ended::Code(EXIT_FAILED))
        })
    }

    fn answer(&self, client: &Client, request: &Request, answer: Response) -> Result<(), Error> {
        let look = self.printer.stdout;
        match (request, &answer) {
            (Request::Plan { .. }, Response::Plan(plan)) => {
                self.print(plan, || show::plan(plan, look))
            }
            (Request::Status { .. }, Response::Status(status)) => {
                self.print(status, || show::status(status, look))
            }
            (Request::Samples { .. }, Response::Samples(samples)) => self.print_some(
                samples,
                "no samples of this stage and step are committed",
                || show::samples(samples, look),
            ),
            (Request::Why { .. }, Response::Why(why)) => self.print(why, || show::why(why, look)),
            (Request::DataSets { .. }, Response::DataSets(sets)) => self.print_some(
                sets,
                "no data sets yet: a rejection-sampling stage makes one when it is finished",
                || show::datasets(sets, look),
            ),
            (Request::Review { .. }, Response::Reviewed(set)) => {
                self.print(set, || show::reviewed(set))
            }
            (Request::Nodes, Response::Nodes(nodes)) => {
                self.print(nodes, || show::nodes(nodes, look))
            }
            (Request::Cancel { .. }, Response::Cancelled { job }) => {
                self.print(&Body::of(&answer)?, || format!("cancelled {job}\n"))
            }
            (Request::Pause { .. }, Response::Paused { job, at_work }) => {
                let when = if *at_work {
                    " after the step in flight"
                } else {
                    ""
                };
                self.print(&Body::of(&answer)?, || format!("paused {job}{when}\n"))
            }
            (Request::Resume { .. }, Response::Resumed { job }) => {
                self.print(&Body::of(&answer)?, || format!("resumed {job}\n"))
            }
            (Request::Requeue { .. }, Response::Requeued { job }) => {
                self.print(&Body::of(&answer)?, || format!("requeued {job}\n"))
            }
            (
                Request::Reload { .. },
                Response::Reloaded {
                    plugin,
                    sha256,
                    stage,
                    step,
                    ..
                },
            ) => {
                let short: String = sha256.chars().take(12).collect();
                self.print(&Body::of(&answer)?, || {
                    format!("{plugin}: {short} judges from step {step} of stage {stage} on\n")
                })
            }
            (Request::Shutdown, Response::ShuttingDown) => match self.global.output {
                Output::Json => print::json(&answer),
                Output::Table => {
                    self.printer.note(
                        "the daemon stops after the step in flight; started again, it goes on \
                         from there",
                    );
                    Ok(())
                }
            },
            _ => Err(client.unexpected(request, &answer)),
        }
    }

    /// The directory of a job's files.
    fn directory(&self, job: String) -> Result<PathBuf, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        runtime.block_on(async {
            let client = self.find().await?;
            let request = Request::Status { job };
            match client.ask(&request).await? {
                Response::Status(status) => Ok(status.directory),
                answer => Err(client.unexpected(&request, &answer)),
            }
        })
    }

    /// Writes a made data set to a file, for people to edit.
    async fn export(&self, job: String, stage: &str, to: &Path) -> Result<Ended, Error> {
        let client = self.find().await?;
        let request = Request::DataSets { job: job.clone() };
        let sets = match client.ask(&request).await? {
            Response::DataSets(sets) => sets,
            answer => return Err(client.unexpected(&request, &answer)),
        };
        let set = dataset::export(&sets, stage, to)?;
        self.print(set, || format!("{}\n", to.display()))?;
        let again = &self.printer.again;
        self.printer.note(&format!(
            "{} rows; give them back: {again} dataset review {job} {stage} --import {}",
            set.rows,
            to.display()
        ));
        Ok(Ended::Ok)
    }

    /// Writes the report of a job that the daemon knows.
    async fn report(&self, job: String, to: &Path) -> Result<Ended, Error> {
        let client = self.find().await?;
        let request = Request::Status { job };
        let status = match client.ask(&request).await? {
            Response::Status(status) => *status,
            answer => return Err(client.unexpected(&request, &answer)),
        };
        let mut samples = BTreeMap::new();
        for stage in status
            .stages
            .iter()
            .filter(|stage| stage.metrics.contains_key(report::SAMPLED))
        {
            let (job, name) = (status.job.0.clone(), Some(stage.name.clone()));
            let limit = report::SAMPLES_MAX;
            let request = Request::Samples {
                job,
                stage: name,
                step: None,
                sort: SampleSort::Reward,
                limit,
            };
            let found = match client.ask(&request).await {
                Ok(Response::Samples(found)) => Ok(found),
                Ok(answer) => Err(client.unexpected(&request, &answer)),
                Err(error) => Err(error),
            };
            samples.insert(stage.name.clone(), found);
        }
        let run = report::gather(status, self.clock.unix().as_secs(), |stage| {
            samples.remove(stage).unwrap_or_else(|| Ok(Vec::new()))
        })?;
        self.reported(&run, to)
    }

    /// Writes the report of a job from its directory, without a daemon.
    fn report_of(&self, dir: &Path, to: &Path) -> Result<Ended, Error> {
        let run = report::gather(
            report::left_status(dir)?,
            self.clock.unix().as_secs(),
            |stage| report::left_samples(dir, stage),
        )?;
        self.reported(&run, to)
    }

    fn reported(&self, run: &report::Run, to: &Path) -> Result<Ended, Error> {
        let written = report::write(run, to)?;
        self.print(&written, || {
            format!(
                "{}\n{}\n",
                written.html.display(),
                written.markdown.display()
            )
        })?;
        Ok(Ended::Ok)
    }

    async fn submit(
        &self,
        request: Request,
        mut lock: Lock,
        wait: Option<Patience>,
    ) -> Result<Ended, Error> {
        let client = self.find().await?;
        // A person at a terminal sees that a large data set is being read; scripts do not want to.
        let told = Cell::new(None);
        let progress = |activity: &Activity| {
            if self.printer.stderr.width.is_some()
                && told.replace(Some(activity.doing.clone())).as_ref() != Some(&activity.doing)
            {
                self.printer.note(&one_line(&activity.doing));
            }
        };
        let answer = client
            .ask_once(self.new_id(), &request, progress)
            .await
            .map_err(|error| {
                if error.is_away() {
                    Error::Unheard(Box::new(error))
                } else {
                    error
                }
            })?;
        let Response::Submitted {
            job,
            warnings,
            plugins,
        } = &answer
        else {
            return Err(client.unexpected(&request, &answer));
        };
        // The job is queued, even if the lock file cannot be written.
        match lock.take(plugins) {
            Ok(true) => self
                .printer
                .note(&format!("plugins pinned in {}", lock.path().display())),
            Ok(false) => {}
            Err(error) => self
                .printer
                .warning(&format!("the job's plugins are not pinned: {error}")),
        }
        for warning in warnings {
            self.printer.warning(warning);
        }
        match wait {
            Some(patience) => {
                self.printer.note(&format!("submitted as {job}"));
                self.watch(
                    &client,
                    &job.0,
                    Style::of_submit(self.global.output),
                    patience,
                )
                .await
            }
            None => {
                self.print(&Body::of(&answer)?, || format!("{job}\n"))?;
                let again = &self.printer.again;
                self.printer.note(&match &request {
                    Request::Submit { hold: true, .. } => {
                        format!("on hold; let it start: {again} resume {job}")
                    }
                    _ => format!("queued; watch it: {again} status --watch {job}"),
                });
                Ok(Ended::Ok)
            }
        }
    }

    /// An id for a request that must be carried out only once.
    fn new_id(&self) -> String {
        format!(
            "r1ctl-{:x}-{}",
            self.clock.unix().as_nanos(),
            std::process::id()
        )
    }

    async fn watch(
        &self,
        client: &Client,
        job: &str,
        style: Style,
        patience: Patience,
    ) -> Result<Ended, Error> {
        let reconnect = Duration::from_secs(patience.reconnect);
        Watch {
            client,
            printer: self.printer,
            clock: self.clock.clone(),
            reconnect,
            style,
        }
        .job(job)
        .await
    }

    /// Prints a log. The daemon sends lines until [`Response::End`], whether or not it follows the
    /// job.
    async fn logs(&self, request: Request) -> Result<Ended, Error> {
        let client = self.find().await?;
        let mut answers = client.open(&request).await?;
        while let Some(answer) = answers.next().await? {
            let Response::Lines(lines) = &answer else {
                return Err(client.unexpected(&request, &answer));
            };
            match self.global.output {
                Output::Json => lines.iter().try_for_each(print::json_line)?,
                Output::Table => {
                    let look = self.printer.stdout;
                    let text: String = lines
                        .iter()
                        .map(|line| show::log_line(line, look))
                        .collect();
                    print::data(&text)?;
                }
            }
        }
        Ok(Ended::Ok)
    }

    fn print(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Error> {
        match self.global.output {
            Output::Json => print::json(value),
            Output::Table => print::data(&text()),
        }
    }

    fn print_some<T: Serialize>(
        &self,
        values: &[T],
        none: &str,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if values.is_empty() && self.global.output == Output::Table {
            self.printer.note(none);
            return Ok(());
        }
        self.print(&values, text)
    }
}

/// Serialises the fields of a [`Response`] whose variant holds them itself.
#[derive(Serialize)]
#[serde(transparent)]
struct Body(serde_json::Value);

impl Body {
    fn of(answer: &Response) -> Result<Body, Error> {
        Ok(Body(
            serde_json::to_value(answer)?
                .get_mut("body")
                .map(serde_json::Value::take)
                .unwrap_or_default(),
        ))
    }
}
