//! Queues a submitted job: the node reads it, then it is in the ledger with all that was decided
//! about it, in one transaction.

use super::ControlService;
use crate::admission::Permit;
use crate::node::{WorkProgress, unexpected};
use crate::tasks;
use r1d_ledger::{Command, LedgerError, NewJob, Rejected, User};
use r1d_link::work::{Accepted, Directory};
use r1d_link::{Answer, Work};
use r1d_proto::control::Response;
use r1d_proto::control::error::{ControlError, ErrorKind};
use r1d_proto::ids::JobId;
use r1d_proto::world::counter_hash;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Letters of a job's id, without i, l, o and u, which are misread. Eight of them make 32^8 ids.
const ID_LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_LENGTH: usize = 8;
/// Ids tried until one is free.
const ID_TRIES_MAX: u64 = 16;

/// What a client submits.
pub(super) struct ClientSubmission {
    pub text: String,
    /// Overrides the job file's priority.
    pub priority: Option<i32>,
    /// SHA-256 by plugin: by its name, or its absolute path.
    pub pins: BTreeMap<String, String>,
    /// Whether stages that earlier jobs have finished are taken over.
    pub reuses: bool,
    /// Who submits.
    pub owner: Option<User>,
    /// The user whose jobs' files it may read, by id; `None`: everybody's.
    pub reader: Option<u32>,
    /// Whether the job is paused from the beginning.
    pub held: bool,
    /// The client's id of the submission.
    pub id: String,
}

impl ControlService {
    /// Has the node read and check a job, and queues it. All of that is the client's turn.
    pub(super) async fn read_and_queue(
        &self,
        submission: ClientSubmission,
        turn: Permit,
        progress: &WorkProgress,
    ) -> Result<Response, ControlError> {
        let ledger = self.views.ledger.clone();
        let in_place = tasks::blocking(move || ledger.is_in_place()).await;
        in_place.map_err(ControlError::internal)?.map_err(refused)?;
        let work = Work::Accept {
            job_toml: submission.text.clone(),
            pins: submission.pins.clone(),
            reader: submission.reader,
        };
        let turn = Arc::new(turn);
        let asked = self.node().ask_in_turn(work, turn.clone(), progress);
        match asked.await? {
            Answer::Accepted(accepted) => self.queue(submission, accepted).await,
            other => Err(unexpected(&other)),
        }
    }

    /// Queues a job that was read and checked, under an id of its own.
    async fn queue(
        &self,
        submission: ClientSubmission,
        accepted: Accepted,
    ) -> Result<Response, ControlError> {
        // From here on no job is removed whose files this one names.
        let kept = self.removals.none_meanwhile().await;
        for attempt in 0..ID_TRIES_MAX {
            let id = self.new_id(attempt);
            match self.make_directory(&id, &accepted).await? {
                Directory::Made => {}
                Directory::Taken => continue,
                Directory::Removed(job) => return Err(removed(&job)),
            }
            let submit = self.command(&id, &submission, &accepted);
            let ledger = self.views.ledger.clone();
            let applied = tasks::blocking(move || ledger.apply(submit)).await;
            let refusal = match applied.map_err(ControlError::internal)? {
                Ok(_) => {
                    drop(kept);
                    self.log(&id, format!("submitted as {id}")).await;
                    return Ok(Response::Submitted {
                        job: id,
                        warnings: accepted.warnings,
                        plugins: accepted.plugins,
                    });
                }
                Err(refusal) => refusal,
            };
            if !is_of_the_id(&refusal) {
                // Nothing refers to the directory, so it is removed.
                let _ = self.node().ask(Work::RemoveDirectory { job: id }).await;
                return Err(refused(refusal));
            }
        }
        Err(ControlError::internal(format!(
            "no free job id after {ID_TRIES_MAX} tries"
        )))
    }

    async fn make_directory(
        &self,
        job: &JobId,
        accepted: &Accepted,
    ) -> Result<Directory, ControlError> {
        let make = Work::MakeDirectory {
            job: job.clone(),
            job_toml: accepted.job_toml.clone(),
            inputs: accepted.inputs.clone(),
        };
        match self.node().ask(make).await? {
            Answer::Directory(directory) => Ok(directory),
            other => Err(unexpected(&other)),
        }
    }

    fn command(&self, job: &JobId, submission: &ClientSubmission, accepted: &Accepted) -> Command {
        Command::Submit(NewJob {
            job: job.clone(),
            name: accepted.name.clone(),
            priority: submission.priority.unwrap_or(accepted.priority),
            job_toml: accepted.job_toml.clone(),
            devices: accepted.devices,
            request: Some(submission.id.clone()),
            reward_versions: accepted.plugins.clone(),
            keys: accepted.keys.clone(),
            reuses: submission.reuses,
            owner: submission.owner.clone(),
            held: submission.held,
            at: self.views.clock.unix().as_secs(),
        })
    }

    /// Makes a job id from the clock, the process, the number of jobs and `attempt`: likely to be
    /// free.
    fn new_id(&self, attempt: u64) -> JobId {
        let nanos = self.views.clock.unix().as_nanos() as u64;
        let mut hash = counter_hash(&[
            nanos,
            std::process::id() as u64,
            self.views.ledger.state().len() as u64,
            attempt,
        ]);
        let letters = (0..ID_LENGTH).map(|_| {
            let letter = ID_LETTERS
                .get((hash % 32) as usize)
                .copied()
                .unwrap_or(b'0');
            hash /= 32;
            letter as char
        });
        JobId(letters.collect())
    }
}

/// Whether another id may do.
fn is_of_the_id(refusal: &LedgerError) -> bool {
    matches!(
        refusal,
        LedgerError::Rejected(Rejected::DuplicateJob { .. } | Rejected::BeingRemoved { .. })
    )
}

/// The answer to a submission that the ledger did not take.
fn refused(refused: LedgerError) -> ControlError {
    if matches!(refused, LedgerError::Rejected(_)) {
        return ControlError::new(ErrorKind::Invalid, refused);
    }
    ControlError::with_remedy(&refused)
}

fn removed(job: &JobId) -> ControlError {
    let what = format!(
        "job {job}, whose files the job names, was removed while it was read: name others, or \
         submit that one again"
    );
    ControlError::new(ErrorKind::Invalid, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Controller;
    use crate::node::tests::answer;
    use futures_util::FutureExt;
    use r1d_link::{NodeEnd, Order};

    fn submission() -> ClientSubmission {
        ClientSubmission {
            text: "seed = 1".into(),
            priority: None,
            pins: BTreeMap::new(),
            reuses: false,
            owner: None,
            reader: None,
            held: false,
            id: "s".into(),
        }
    }

    fn accepted() -> Accepted {
        Accepted {
            name: "n".into(),
            priority: 0,
            job_toml: "seed = 1".into(),
            devices: 1,
            inputs: String::new(),
            plugins: BTreeMap::new(),
            keys: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Plays the node of one submission; `meanwhile` is called while its directory is made.
    async fn reads_and_queues(there: &NodeEnd, meanwhile: impl Fn()) {
        loop {
            let Order::Work { id, work } = there.orders.next().await else {
                continue;
            };
            match *work {
                Work::Accept { .. } => answer(there, id, Answer::Accepted(accepted())),
                Work::MakeDirectory { .. } => {
                    meanwhile();
                    answer(there, id, Answer::Directory(Directory::Made));
                }
                _ => return answer(there, id, Answer::Done),
            }
        }
    }

    /// No more submissions are at work than there are turns, also not in what comes after reading.
    #[actix::test]
    async fn a_submission_has_its_turn_until_its_job_is_queued() {
        let (Controller { service }, there) = Controller::of_test();
        let turn = || {
            let turn = service.admission.submissions.enter(0).unwrap();
            turn.now_or_never().map(Result::unwrap)
        };
        let mut others: Vec<Permit> = std::iter::from_fn(turn).collect();
        let own = others.pop().unwrap();
        let progress = WorkProgress::default();
        let submitted = service.read_and_queue(submission(), own, &progress);
        let is_taken = || assert!(turn().is_none(), "it is not queued yet");
        let (submitted, ()) = tokio::join!(submitted, reads_and_queues(&there, is_taken));
        assert!(matches!(submitted, Ok(Response::Submitted { .. })));
        assert!(turn().is_some());
    }
}
