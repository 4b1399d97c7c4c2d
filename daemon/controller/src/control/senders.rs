//! Who sends a request, and whether they may.

use super::ControlService;
use crate::access::{self, Caller, Need};
use crate::callers;
use r1d_ledger::User;
use r1d_proto::control::Request;
use r1d_proto::control::error::{ControlError, ErrorKind};
use r1d_proto::control::job::JobStatus;

/// The id of no user.
const NOBODY: u32 = u32::MAX;

/// Who sends a request, and what that means for it.
pub(super) struct Sender {
    /// The user's id, as the kernel tells it.
    pub uid: u32,
    /// `None` where the request needs nobody in particular.
    pub caller: Option<Caller>,
    /// Whether the request's job is the sender's to look into.
    pub owns: bool,
}

impl Sender {
    /// The user's id and name, for the record.
    pub(super) fn user(&self) -> Option<User> {
        self.caller.as_ref().map(|caller| caller.user.clone())
    }

    /// The user whose jobs' files the sender may have read, by id; `None`: everybody's.
    pub(super) fn reader(&self) -> Option<u32> {
        match &self.caller {
            Some(caller) if caller.is_admin => None,
            Some(caller) => Some(caller.user.uid),
            None => Some(NOBODY),
        }
    }
}

/// Leaves out the texts of the data that a status shows.
pub(super) fn without_texts(mut status: JobStatus) -> JobStatus {
    for eval in &mut status.evals {
        eval.example = None;
    }
    status
}

impl ControlService {
    /// Finds out who sends the request, and refuses what the sender may not. What was checked is
    /// what is answered: the request then names its job in full.
    pub(super) async fn admit(
        &self,
        uid: u32,
        request: &mut Request,
    ) -> Result<Sender, ControlError> {
        let room = match request {
            Request::Plan { .. } => &self.admission.planners,
            _ => &self.admission.callers,
        };
        let look_up = || callers::find(uid, self.admin_group.clone(), room);
        let found = |prefix: &mut String| {
            let record = self.find(prefix)?;
            *prefix = record.job().0.clone();
            Ok::<_, ControlError>(record)
        };
        let forbidden = |why: String| Err(ControlError::new(ErrorKind::Forbidden, why));
        let (caller, owns) = match access::need(request) {
            Need::Nothing => (None, false),
            Need::Name => (Some(look_up().await?), true),
            Need::Glance(job) => {
                let (record, caller) = (found(job)?, look_up().await?);
                let owns = caller.owns(record.owner.as_ref());
                (Some(caller), owns)
            }
            Need::Job(job) => {
                let (record, caller) = (found(job)?, look_up().await?);
                let owner = record.owner.as_ref();
                if !caller.owns(owner) {
                    return forbidden(access::not_yours(record.job(), owner, &self.admin_group));
                }
                (Some(caller), true)
            }
            Need::Jobs(jobs) => {
                let caller = look_up().await?;
                for job in jobs {
                    let record = found(job)?;
                    let owner = record.owner.as_ref();
                    if !caller.owns(owner) {
                        let group = &self.admin_group;
                        return forbidden(access::not_yours(record.job(), owner, group));
                    }
                }
                (Some(caller), true)
            }
            Need::Administration => {
                let caller = look_up().await?;
                if !caller.is_admin {
                    return forbidden(access::not_an_administrator(&self.admin_group));
                }
                (Some(caller), true)
            }
        };
        Ok(Sender { uid, caller, owns })
    }
}
