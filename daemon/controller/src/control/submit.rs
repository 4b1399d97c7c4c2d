//! Submissions ([`crate::submissions`]): who asks again finds the job of the first try.

use super::ControlService;
use super::connection::Pending;
use super::enqueue::ClientSubmission;
use super::senders::Sender;
use crate::node::WorkProgress;
use crate::submissions::{self, Submissions, Underway};
use crate::tasks;
use futures_util::FutureExt;
use r1d_job::Job;
use r1d_ledger::JobRecord;
use r1d_link::{Answer, Work};
use r1d_proto::control::error::{ControlError, ErrorKind};
use r1d_proto::control::{Request, Response};
use r1d_proto::ids::JobId;
use r1d_proto::shown;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A client of a submission that has not had its answer yet.
pub(super) struct Listener {
    submissions: Submissions,
    contents: String,
    id: String,
    /// When the client asked.
    now: Duration,
    pub heard: bool,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.heard {
            let (contents, id) = (
                std::mem::take(&mut self.contents),
                std::mem::take(&mut self.id),
            );
            self.submissions.left_unheard(contents, id, self.now);
        }
    }
}

impl ControlService {
    /// Finds the submission that the request means: the one with the client's id, or an equal one
    /// whose client left without the answer.
    pub(super) async fn listen(
        &self,
        uid: u32,
        id: Option<String>,
        request: &Request,
    ) -> Result<Listener, ControlError> {
        let (contents, now) = (submissions::contents(uid, request), self.views.clock.now());
        let is_known = |id: &str| {
            self.submissions.underway(id).is_some() || self.views.ledger.of_request(id).is_some()
        };
        let id = match id {
            Some(id) if is_known(&id) => id,
            id => {
                let unheard = self.find_unheard(&contents, now).await;
                unheard.or(id).unwrap_or_else(|| self.new_request_id())
            }
        };
        self.is_the_same(uid, &id, &contents, request).await?;
        Ok(Listener {
            submissions: self.submissions.clone(),
            contents,
            id,
            now,
            heard: false,
        })
    }

    /// Refuses a different job under the id of a submission that was made before or is being read.
    async fn is_the_same(
        &self,
        uid: u32,
        id: &str,
        contents: &str,
        request: &Request,
    ) -> Result<(), ControlError> {
        let (is_the_same, whose) = match self.views.ledger.of_request(id) {
            Some(record) if record.owner.as_ref().is_some_and(|owner| owner.uid != uid) => {
                (false, " of another user".into())
            }
            Some(record) => {
                let (request, job) = (request.clone(), record.job().clone());
                let compared = tasks::blocking(move || asked_for(&record, &request));
                (
                    compared.await.map_err(ControlError::internal)?,
                    format!(", which became job {job}"),
                )
            }
            None => {
                let underway = self.submissions.underway(id);
                (
                    underway.is_none_or(|underway| underway.contents == contents),
                    ", which is being read".into(),
                )
            }
        };
        if is_the_same {
            return Ok(());
        }
        let id = shown::quote(id);
        Err(ControlError::new(
            ErrorKind::Invalid,
            format!(
                "the id `{id}` is another submission's{whose}: each submission needs an id of its \
                 own"
            ),
        ))
    }

    /// Finds an equal submission whose client left without the answer. One that was refused or
    /// cancelled since is skipped, and so is one whose files were changed since: a new submission
    /// may succeed.
    async fn find_unheard(&self, contents: &str, now: Duration) -> Option<String> {
        while let Some(id) = self.submissions.find_unheard(contents, now) {
            let is_meant = match self.views.ledger.of_request(&id) {
                Some(record) if record.state().is_final() => false,
                Some(record) => self.is_untouched(record.job()).await,
                None => self.submissions.underway(&id).is_some(),
            };
            if is_meant {
                return Some(id);
            }
        }
        None
    }

    /// Whether the files that a job reads have not been written to since it was submitted.
    async fn is_untouched(&self, job: &JobId) -> bool {
        let job = job.clone();
        let asked = self.node().ask(Work::IsUntouched { job }).await;
        matches!(asked, Ok(Answer::Whether(true)))
    }

    /// Begins to read a job, or joins the reading that is under way. The reading goes on if the
    /// client leaves.
    pub(super) fn submit(&self, listener: &Listener, request: Request, sender: &Sender) -> Pending {
        let id = listener.id.clone();
        if let Some(record) = self.views.ledger.of_request(&id) {
            return Pending::ready(Ok(submitted_before(&record)));
        }
        let contents = listener.contents.clone();
        let underway = self
            .submissions
            .underway(&id)
            .map_or_else(|| self.begin(id, contents, request, sender), Ok);
        match underway {
            Ok(underway) => Pending {
                progress: underway.progress.clone(),
                answer: async move {
                    let panicked = || {
                        ControlError::internal(
                            "reading the job panicked: a bug, see the daemon's log",
                        )
                    };
                    underway.answered().await.unwrap_or_else(|| Err(panicked()))
                }
                .boxed_local(),
            },
            Err(refused) => Pending::ready(Err(refused)),
        }
    }

    fn begin(
        &self,
        id: String,
        contents: String,
        request: Request,
        sender: &Sender,
    ) -> Result<Underway, ControlError> {
        let Request::Submit {
            job: text,
            priority,
            pins,
            no_reuse,
            hold,
        } = request
        else {
            return Err(ControlError::internal("not a submission"));
        };
        let turn = self.admission.submissions.enter(sender.uid)?;
        let progress = WorkProgress::default();
        let (underway, begun) = self.submissions.begin(&id, contents, progress.clone());
        let submission = ClientSubmission {
            text,
            priority,
            pins,
            reuses: !no_reuse,
            owner: sender.user(),
            reader: sender.reader(),
            held: hold,
            id,
        };
        let service = self.clone();
        tasks::spawn("submission", async move {
            let read = async {
                service
                    .read_and_queue(submission, turn.await?, &progress)
                    .await
            };
            let read = read.await;
            match &read {
                Ok(Response::Submitted { job, .. }) => tracing::debug!("job {job} is queued"),
                Ok(_) => {}
                Err(error) => tracing::info!("a submission is refused: {}", error.message),
            }
            begun.answer(read);
        });
        Ok(underway)
    }

    /// Makes an id for a submission whose client gave none.
    fn new_request_id(&self) -> String {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        format!(
            "r1d-{:x}-{}-{made}",
            self.views.clock.unix().as_nanos(),
            std::process::id()
        )
    }
}

/// SHA-256 of the components that judged first, by plugin.
fn first_judges(record: &JobRecord) -> BTreeMap<String, String> {
    let first = record
        .reward_versions
        .iter()
        .filter(|reward_version| (reward_version.stage, reward_version.step) == (0, 0));
    first
        .map(|reward_version| (reward_version.plugin.clone(), reward_version.sha256.clone()))
        .collect()
}

/// The job that an earlier submission with the same id became.
fn submitted_before(record: &JobRecord) -> Response {
    Response::Submitted {
        job: record.job().clone(),
        warnings: Vec::new(),
        plugins: first_judges(record),
    }
}

/// Whether the job was submitted with the same contents as `request`. Both job files are parsed, so
/// a different spelling of the same settings makes no difference.
fn asked_for(record: &JobRecord, request: &Request) -> bool {
    let Request::Submit {
        job,
        priority,
        pins,
        no_reuse,
        ..
    } = request
    else {
        return false;
    };
    let known = Job::parse(&record.submission.job_toml, Path::new("/"));
    let (Ok(mut asked), Ok(known)) = (Job::parse(job, Path::new("/")), known) else {
        return false;
    };
    // A request without a date or a layout takes that of the first submission.
    asked.date = asked.date.or_else(|| known.date.clone());
    asked.parallel = asked.parallel.or(known.parallel);
    let judges = first_judges(record);
    let is_pinned = |(plugin, pin): (&String, &String)| {
        judges
            .get(plugin)
            .is_none_or(|sha256| sha256.eq_ignore_ascii_case(pin))
    };
    priority.unwrap_or(asked.priority) == record.submission.priority
        && asked.to_toml() == known.to_toml()
        && pins.iter().all(is_pinned)
        && *no_reuse != record.reuse.enabled
}
