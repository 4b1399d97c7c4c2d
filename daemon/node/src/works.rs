//! Does what clients of the controller ask of a node ([`r1d_link::work`]): reads jobs' files for
//! them, and changes what only the node can change.

use crate::accept::{self, AcceptError};
use crate::context::NodeContext;
use crate::job_log::{self, JobLog};
use crate::readable::{self, NotReadable};
use crate::reading::Reading;
use crate::reload::{self, ReloadError};
use crate::removal::FileRemovals;
use crate::review::{self, ReviewError};
use crate::samples::{self, SamplesError};
use crate::traces::{self, TraceError};
use crate::{inputs, log_tail, tasks};
use r1d_job::Job;
use r1d_ledger::JobRecord;
use r1d_link::{Answer, Report, Work, WorkId, WorkResult};
use r1d_proto::control::content::LogLine;
use r1d_proto::control::error::{ControlError, ErrorKind};
use r1d_proto::control::{Response, SampleSort};
use r1d_proto::ids::JobId;
use r1d_proto::user_file;
use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Time between two reports of a work's progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two looks at what is left of a job's last attempt.
const IN_HAND_AGAIN: Duration = Duration::from_millis(100);
/// Most bytes of a log that are read at a time.
const LOG_CHUNK_MAX_BYTES: u64 = 1 << 20;

/// The works in hand. Clones share them.
#[derive(Clone)]
pub(crate) struct Works {
    node: NodeContext,
    removals: FileRemovals,
    in_hand: Arc<Mutex<HashMap<WorkId, Reading>>>,
}

/// A work in hand, whose drop sends its answer: whoever waits for one that panics hears of it.
struct Unanswered {
    works: Works,
    id: WorkId,
    answer: Option<WorkResult>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let (works, id) = (&self.works, self.id);
        works.in_hand().remove(&id);
        let panicked = || {
            Err(ControlError::internal(
                "the node panicked over it: a bug, see the daemon's log",
            ))
        };
        let answer = self.answer.take().unwrap_or_else(panicked);
        let reports = works.node.live.reports();
        let answer = Box::new(answer);
        reports.send(Report::Answer { id, answer });
    }
}

impl Unanswered {
    /// Sends the answer.
    fn answer(mut self, answer: WorkResult) {
        self.answer = Some(answer);
    }
}

impl Works {
    pub(crate) fn new(node: NodeContext, removals: FileRemovals) -> Works {
        Works {
            node,
            removals,
            in_hand: Arc::default(),
        }
    }

    fn in_hand(&self) -> MutexGuard<'_, HashMap<WorkId, Reading>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a work, in a task of its own.
    pub(crate) fn begin(&self, id: WorkId, work: Work) {
        let (works, reading) = (self.clone(), self.reading());
        self.hand(id, reading.clone(), async move {
            works.until_answered(id, work, reading).await
        });
    }

    fn reading(&self) -> Reading {
        Reading::new(self.node.clock.clone())
    }

    /// Takes a work in hand until there is an answer, which is sent also where there is none.
    fn hand(
        &self,
        id: WorkId,
        reading: Reading,
        answered: impl Future<Output = WorkResult> + 'static,
    ) {
        self.in_hand().insert(id, reading);
        let unanswered = Unanswered {
            works: self.clone(),
            id,
            answer: None,
        };
        tasks::spawn("work", async move {
            unanswered.answer(answered.await);
        });
    }

    /// Ends a work at its next part, if it is still in hand.
    pub(crate) fn abandon(&self, id: WorkId) {
        if let Some(reading) = self.in_hand().get(&id) {
            reading.give_up();
        }
    }

    /// Carries a work out, and reports how far it is.
    async fn until_answered(&self, id: WorkId, work: Work, reading: Reading) -> WorkResult {
        let mut told = reading.now();
        let mut carried_out = std::pin::pin!(self.carry_out(work, &reading));
        loop {
            tokio::select! {
                answer = &mut carried_out => return answer,
                () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
            }
            let at = reading.now();
            if at != told {
                told = at.clone();
                self.node.live.reports().send(Report::Progress { id, at });
            }
        }
    }

    async fn carry_out(&self, work: Work, reading: &Reading) -> WorkResult {
        match work {
            Work::Reload {
                job,
                plugin,
                file,
                reader,
            } => {
                let (node, named) = (self.node.clone(), [file.clone()]);
                let checked = tasks::blocking(move || readable::check(&node, reader, named));
                (checked.await.map_err(ControlError::internal)?).map_err(not_readable)?;
                self.reload(&job, plugin, file).await
            }
            Work::PutDown { jobs } => {
                while reading.wanted().is_ok() && jobs.iter().any(|job| self.is_left(job)) {
                    tokio::time::sleep(IN_HAND_AGAIN).await;
                }
                Ok(Answer::Done)
            }
            work => {
                let (works, reading) = (self.clone(), reading.clone());
                let done = tasks::blocking(move || works.blocking(work, &reading));
                done.await.map_err(ControlError::internal)?
            }
        }
    }

    /// Whether something of the last attempt of a job that has ended is left.
    fn is_left(&self, job: &JobId) -> bool {
        let record = self.node.ledger.job(job);
        let has_ended = record.is_some_and(|record| record.state().is_final());
        has_ended && self.node.is_in_hand(job)
    }

    fn record(&self, job: &JobId) -> Result<Arc<JobRecord>, ControlError> {
        let record = self.node.ledger.job(job);
        record.ok_or_else(|| ControlError::internal(format!("job `{job}` has no record")))
    }

    async fn reload(&self, job: &JobId, plugin: String, file: PathBuf) -> WorkResult {
        let reload = reload::reload(self.record(job)?, plugin, file, self.node.clone());
        reload.await.map(Answer::Response).map_err(not_reloaded)
    }

    /// Carries out what reads or writes files.
    fn blocking(&self, work: Work, reading: &Reading) -> WorkResult {
        let node = &self.node;
        match work {
            Work::Plan {
                job_toml,
                pins,
                reader,
            } => {
                let plan = accept::plan(&job_toml, pins, reader, node, reading);
                let plan = plan.map_err(refused)?;
                Ok(Answer::Response(Response::Plan(Box::new(plan))))
            }
            Work::Accept {
                job_toml,
                pins,
                reader,
            } => {
                let accepted = accept::accept(&job_toml, pins, reader, node, reading);
                accepted.map(Answer::Accepted).map_err(refused)
            }
            Work::MakeDirectory {
                job,
                job_toml,
                inputs,
            } => {
                let made = accept::make_directory(&job, &job_toml, &inputs, node);
                made.map(Answer::Directory).map_err(refused)
            }
            Work::RemoveDirectory { job } => {
                accept::remove_directory(&job, node);
                Ok(Answer::Done)
            }
            Work::LeaveStatus { job } => {
                node.leave_status(&job);
                Ok(Answer::Done)
            }
            Work::IsUntouched { job } => {
                let inputs = node.layout(&job).inputs();
                Ok(Answer::Whether(inputs::is_untouched(&inputs)))
            }
            Work::Plugins => Ok(Answer::Plugins(node.rewards.names())),
            Work::FindInLog { .. } | Work::ReadLog { .. } | Work::Log { .. } => self.of_log(work),
            Work::DataSets { .. } | Work::Review { .. } | Work::AwaitedReview { .. } => {
                self.of_data_set(work)
            }
            Work::RemovalFacts { .. } | Work::Measure { .. } | Work::Remove { .. } => {
                self.of_removal(work)
            }
            Work::Samples {
                job,
                stage,
                step,
                sort,
                limit,
            } => self.samples(&job, (stage, step), sort, limit),
            Work::Trace { job, stage, step } => self.trace(&job, stage, step),
            Work::Reload { .. } | Work::PutDown { .. } => Err(elsewhere()),
        }
    }

    fn of_log(&self, work: Work) -> WorkResult {
        let path = |job: &JobId| self.node.layout(job).log();
        match work {
            // A log that cannot be read has nothing to show.
            Work::FindInLog { job, tail } => {
                let found = user_file::open(&path(&job))
                    .and_then(|mut log| log_tail::begin(&mut log, tail));
                Ok(Answer::Offset(found.unwrap_or(0)))
            }
            Work::ReadLog { job, offset } => {
                let (lines, bytes) = lines(&path(&job), offset).unwrap_or_default();
                Ok(Answer::Lines { lines, bytes })
            }
            Work::Log {
                job,
                line,
                is_warning,
            } => {
                let log = JobLog::new(path(&job), &job.0, self.node.clock.clone());
                if is_warning {
                    log.warn(line);
                } else {
                    log.info(line);
                }
                Ok(Answer::Done)
            }
            _ => Err(elsewhere()),
        }
    }

    fn of_data_set(&self, work: Work) -> WorkResult {
        let node = &self.node;
        match work {
            Work::DataSets { job } => {
                let listed = review::list(node, &*self.record(&job)?).map_err(not_reviewed)?;
                Ok(Answer::Response(Response::DataSets(listed)))
            }
            Work::Review {
                job,
                stage,
                file,
                reader,
            } => {
                readable::check(node, reader, file.clone()).map_err(not_readable)?;
                let record = self.record(&job)?;
                let reviewed = review::review(node, &record, &stage, file.as_deref());
                let reviewed = reviewed.map_err(not_reviewed)?;
                Ok(Answer::Response(Response::Reviewed(reviewed)))
            }
            Work::AwaitedReview { job } => {
                let record = self.record(&job)?;
                let dir = node.layout(&job).datasets();
                let parsed = Job::parse(&record.submission.job_toml, Path::new("/")).ok();
                // A bad record is reported when the inputs are opened.
                let awaited = |parsed| review::awaited(&record, &parsed, &dir).ok().flatten();
                let awaited = parsed.and_then(awaited);
                let wanted = |(stage, rows): (String, u64)| review::wanted(&job, &stage, rows);
                Ok(Answer::Review(awaited.map(wanted)))
            }
            _ => Err(elsewhere()),
        }
    }

    fn of_removal(&self, work: Work) -> WorkResult {
        match work {
            Work::RemovalFacts { counts_bytes } => {
                Ok(Answer::Facts(self.removals.facts(counts_bytes)))
            }
            Work::Measure { job } => Ok(Answer::Size(self.removals.size(&job))),
            Work::Remove { job, extent, why } => {
                let taken = self.removals.take(&job, extent, &why);
                taken.map(|()| Answer::Done).map_err(ControlError::internal)
            }
            _ => Err(elsewhere()),
        }
    }

    fn samples(
        &self,
        job: &JobId,
        (stage, step): (Option<String>, Option<u64>),
        sort: SampleSort,
        limit: u32,
    ) -> WorkResult {
        let (record, layout) = (self.record(job)?, self.node.layout(job));
        match samples::read(&record, &layout, stage, step, sort, limit) {
            Ok(samples) => Ok(Answer::Response(Response::Samples(samples))),
            Err(other @ SamplesError::Data(_)) => Err(ControlError::internal(other)),
            Err(unknown) => Err(ControlError::new(ErrorKind::NotFound, unknown)),
        }
    }

    fn trace(&self, job: &JobId, stage: Option<String>, step: Option<u64>) -> WorkResult {
        let (record, layout) = (self.record(job)?, self.node.layout(job));
        match traces::read(&record, &layout, stage, step) {
            Ok(trace) => Ok(Answer::Response(Response::Trace(trace))),
            Err(other @ TraceError::File { .. }) => Err(ControlError::internal(other)),
            Err(unknown) => Err(ControlError::new(ErrorKind::NotFound, unknown)),
        }
    }
}

fn elsewhere() -> ControlError {
    ControlError::internal("such a work has a way of its own")
}

/// The whole lines of a log from an offset on, and the bytes that they take.
fn lines(path: &Path, offset: u64) -> io::Result<(Vec<LogLine>, u64)> {
    let mut bytes = Vec::new();
    let mut file = user_file::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    file.take(LOG_CHUNK_MAX_BYTES).read_to_end(&mut bytes)?;
    let (lines, length) = job_log::parse(&bytes);
    Ok((lines, length as u64))
}

fn not_readable(refused: NotReadable) -> ControlError {
    ControlError::new(ErrorKind::Forbidden, refused)
}

fn refused(refused: AcceptError) -> ControlError {
    if let AcceptError::NotReadable(refused) = refused {
        return not_readable(refused);
    }
    if refused.is_the_jobs() {
        return ControlError::new(ErrorKind::Invalid, refused);
    }
    ControlError::with_remedy(&refused)
}

fn not_reviewed(refused: ReviewError) -> ControlError {
    let kind = match &refused {
        ReviewError::NoStage { .. } => ErrorKind::NotFound,
        refused if refused.is_the_daemons() => ErrorKind::Internal,
        _ => ErrorKind::Invalid,
    };
    ControlError::new(kind, refused)
}

fn not_reloaded(refused: ReloadError) -> ControlError {
    let kind = if refused.is_the_daemons() {
        ErrorKind::Internal
    } else {
        ErrorKind::Invalid
    };
    ControlError::new(kind, refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orders::tests::TestNode;

    #[actix::test]
    async fn a_work_that_panics_is_answered() {
        let node = TestNode::new();
        let works = &node.parts.works;
        works.hand(7, works.reading(), async { panic!("planted") });
        match node.report().await {
            Report::Answer { id: 7, answer } => {
                assert_eq!(answer.unwrap_err().kind, ErrorKind::Internal);
            }
            other => panic!("an answer: {other:?}"),
        }
        assert!(works.in_hand().is_empty());
    }
}
