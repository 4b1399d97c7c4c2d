//! Removals that users ask for.

use super::ControlService;
use super::senders::Sender;
use crate::node::WorkProgress;
use crate::removal::Selection;
use crate::tasks;
use r1d_link::Work;
use r1d_proto::control::Response;
use r1d_proto::control::error::ControlError;
use r1d_proto::ids::JobId;
use std::collections::BTreeSet;
use std::time::Duration;

/// Longest wait for what is left of a job's last attempt.
const IN_HAND_MAX: Duration = Duration::from_secs(60);

impl ControlService {
    /// Removes jobs, whose ids are whole.
    pub(super) async fn remove(
        &self,
        jobs: Vec<String>,
        sender: Sender,
    ) -> Result<Response, ControlError> {
        let jobs: BTreeSet<JobId> = jobs.into_iter().map(JobId).collect();
        let (service, turn) = (self.clone(), self.admission.removals.enter(sender.uid)?);
        // A client that leaves does not take its request back.
        let removing = tasks::spawn("removal", async move {
            // Other removals have their turns meanwhile.
            let put_down = Work::PutDown { jobs: jobs.clone() };
            let _ = tokio::time::timeout(IN_HAND_MAX, service.node().ask(put_down)).await;
            let _turn = turn.await?;
            let selection = Selection::Named(jobs);
            service
                .removal(selection, false, &sender, &WorkProgress::default())
                .await
        });
        removing.await.map_err(ControlError::internal)?
    }

    /// Removes jobs that ended longer ago than `limits` says, in seconds, or that are beyond
    /// r1d.toml's limits; `limits` also says whether results stay.
    pub(super) async fn prune(
        &self,
        limits: (Option<u64>, Option<bool>),
        dry_run: bool,
        sender: Sender,
        progress: &WorkProgress,
    ) -> Result<Response, ControlError> {
        let caller = sender.caller.as_ref();
        let caller = caller.ok_or_else(|| ControlError::internal("nobody asks for this"))?;
        let owner = (!caller.is_admin).then_some(caller.user.uid);
        let selection = self.removals.beyond(limits.0, limits.1, owner)?;
        let progress = progress.clone();
        let room = (&self.admission.removals, sender.uid);
        self.change(room, move |service| async move {
            let removed = service.removal(selection, dry_run, &sender, &progress);
            removed.await
        })
        .await
    }

    async fn removal(
        &self,
        selection: Selection,
        dry_run: bool,
        sender: &Sender,
        progress: &WorkProgress,
    ) -> Result<Response, ControlError> {
        let by = sender
            .user()
            .map_or_else(|| "a user".into(), |user| user.name);
        let removed = self.removals.carry_out(&selection, dry_run, &by, progress);
        Ok(Response::Removed(removed.await?))
    }
}
