//! A command's talk with the daemon: what it asks, and what it prints of the answers.

use crate::cli::{Global, Jobs, Output, Patience, StateFilter};
use crate::client::Client;
use crate::error::{EXIT_FAILED, Ended, Error};
use crate::lock::Lock;
use crate::print::{self, Printer};
use crate::socket::candidates;
use crate::terminal::one_line;
use crate::watch::{Style, Watch};
use crate::{dataset, report, show};
use r1d_proto::control::job::Activity;
use r1d_proto::control::{Request, Response, SampleSort};
use r1d_proto::ids::JobId;
use r1d_proto::world::SharedClock;
use serde::Serialize;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A command that talks to the daemon.
pub(crate) struct Session<'a> {
    pub global: Global,
    pub printer: &'a Printer,
    pub clock: SharedClock,
}

impl Session<'_> {
    /// Runs what talks to the daemon.
    pub(crate) fn block_on<T>(
        &self,
        command: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        runtime.block_on(command)
    }

    async fn find(&self) -> Result<Client, Error> {
        let places = candidates(self.global.named_socket().as_deref(), |name| {
            std::env::var(name).ok()
        });
        Client::find(places, Duration::from_secs(self.global.timeout)).await
    }

    /// Asks one thing, and prints the answer.
    pub(crate) fn ask(&self, request: Request) -> Result<Ended, Error> {
        self.block_on(async {
            let client = self.find().await?;
            let answer = client.ask(&request).await?;
            self.answer(&client, &request, answer)?;
            Ok(Ended::Ok)
        })
    }

    /// Shows what the job would do, or the job with every default filled in.
    pub(crate) fn plan(&self, request: Request, is_toml: bool) -> Result<Ended, Error> {
        self.block_on(async {
            let client = self.find().await?;
            let answer = client.ask(&request).await?;
            let Response::Plan(plan) = &answer else {
                return Err(client.unexpected(&request, &answer));
            };
            self.print(plan, || {
                if is_toml {
                    show::resolved(plan)
                } else {
                    show::plan(plan, self.printer.stdout)
                }
            })?;
            Ok(Ended::Ok)
        })
    }

    /// Sends a request for each of the jobs. One that is refused does not keep the others from
    /// theirs.
    pub(crate) fn each(
        &self,
        jobs: Jobs,
        request: impl Fn(String) -> Request,
    ) -> Result<Ended, Error> {
        self.block_on(async {
            let client = self.find().await?;
            let mut ended = Ended::Ok;
            // Of several jobs, JSON is one list: of what was done, also where the daemon goes away.
            let is_list = self.global.output == Output::Json && jobs.jobs.len() > 1;
            let (mut bodies, mut broken) = (Vec::new(), None);
            for job in jobs.jobs {
                let request = request(job);
                match client.ask(&request).await {
                    Ok(answer) if is_list => bodies.push(Body::of(&answer)?),
                    Ok(answer) => self.answer(&client, &request, answer)?,
                    Err(error @ Error::Daemon(_)) => {
                        self.printer.error(&error.to_string());
                        ended = Ended::Code(EXIT_FAILED);
                    }
                    Err(error) => {
                        broken = Some(error);
                        break;
                    }
                }
            }
            if is_list {
                print::json(&bodies)?;
            }
            broken.map_or(Ok(ended), Err)
        })
    }

    /// Lists the jobs in these states, all if there are none, of this owner.
    pub(crate) fn list(&self, states: &[StateFilter], owner: Option<&str>) -> Result<Ended, Error> {
        self.block_on(async {
            let client = self.find().await?;
            let answer = client.ask(&Request::List).await?;
            let Response::Jobs(mut jobs) = answer else {
                return Err(client.unexpected(&Request::List, &answer));
            };
            jobs.retain(|job| {
                let is_in_state =
                    states.is_empty() || states.iter().any(|wanted| wanted.takes(job.state));
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
    pub(crate) fn remove(&self, request: Request) -> Result<Ended, Error> {
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
            (Request::Status { .. }, Response::Status(status)) => {
                self.print(status, || show::status(status, look))
            }
            (Request::Samples { .. }, Response::Samples(samples)) if samples.is_empty() => {
                if self.global.output == Output::Json {
                    print::json(samples)?;
                }
                Err(Error::NoSamples)
            }
            (Request::Samples { .. }, Response::Samples(samples)) => {
                self.print(samples, || show::samples(samples, look))
            }
            (Request::Trace { .. }, Response::Trace(it)) => self.print(it, || show::trace(it)),
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
                self.print(&Body::of(&answer)?, || paused(job, *at_work))
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
    pub(crate) fn directory(&self, job: String) -> Result<PathBuf, Error> {
        self.block_on(async {
            let client = self.find().await?;
            let request = Request::Status { job };
            match client.ask(&request).await? {
                Response::Status(status) => Ok(status.directory),
                answer => Err(client.unexpected(&request, &answer)),
            }
        })
    }

    /// Writes a made data set to a file, for people to edit.
    pub(crate) async fn export(&self, job: String, stage: &str, to: &Path) -> Result<Ended, Error> {
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
    pub(crate) async fn report(&self, job: String, to: &Path) -> Result<Ended, Error> {
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
    pub(crate) fn report_of(&self, dir: &Path, to: &Path) -> Result<Ended, Error> {
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

    /// Submits a job, pins its plugins, and watches it if somebody waits.
    pub(crate) async fn submit(
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

    /// Watches a job until it has ended.
    pub(crate) async fn watch_job(&self, job: &str, patience: Patience) -> Result<Ended, Error> {
        let style = Style::of_status(self.global.output);
        self.watch(&self.find().await?, job, style, patience).await
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
    pub(crate) async fn logs(&self, request: Request) -> Result<Ended, Error> {
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

/// What has become of a job that was paused.
fn paused(job: &JobId, at_work: bool) -> String {
    if at_work {
        format!("pausing {job}: it stops after the step in flight\n")
    } else {
        format!("paused {job}\n")
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
