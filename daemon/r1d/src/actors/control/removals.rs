//! Removals that users ask for.

use super::{ControlErrorOf, ControlService, Sender, error, internal};
use crate::reading::Reading;
use crate::removal::{RemovalError, Selection};
use crate::tasks;
use r1d_proto::control::{ErrorKind, Response};
use r1d_proto::ids::JobId;
use std::collections::BTreeSet;
use std::time::Duration;

/// Longest wait for what is left of a job's last attempt.
const IN_HAND_MAX: Duration = Duration::from_secs(60);
/// Time between two looks at it.
const IN_HAND_AGAIN: Duration = Duration::from_millis(100);

impl ControlService {
    /// Removes jobs, whose ids are whole.
    pub(super) async fn remove(
        &self,
        jobs: Vec<String>,
        sender: Sender,
    ) -> Result<Response, ControlErrorOf> {
        let jobs: BTreeSet<JobId> = jobs.into_iter().map(JobId).collect();
        let (service, turn) = (self.clone(), self.admission.removals.enter()?);
        // A client that leaves does not take its request back.
        let removing = tasks::spawn("removal", async move {
            // Other removals have their turns meanwhile.
            let _ = tokio::time::timeout(IN_HAND_MAX, service.put_down(&jobs)).await;
            let _turn = turn.await?;
            let selection = Selection::Named(jobs);
            service
                .removal(selection, false, &sender, &Reading::default())
                .await
        });
        removing.await.map_err(internal)?
    }

    /// Removes jobs that ended longer ago than `limits` says, in seconds, or that are beyond
    /// r1d.toml's limits; `limits` also says whether results stay.
    pub(super) async fn prune(
        &self,
        limits: (Option<u64>, Option<bool>),
        dry_run: bool,
        sender: Sender,
        reading: &Reading,
    ) -> Result<Response, ControlErrorOf> {
        let caller = sender.caller.as_ref();
        let caller = caller.ok_or_else(|| internal("nobody asks for this"))?;
        let owner = (!caller.is_admin).then_some(caller.user.uid);
        let selection = self.removals.beyond(limits.0, limits.1, owner);
        let selection = selection.map_err(refused)?;
        let reading = reading.clone();
        self.change(&self.admission.removals, move |service| async move {
            service.removal(selection, dry_run, &sender, &reading).await
        })
        .await
    }

    /// Waits until nothing of the last attempts of jobs that have ended is left.
    async fn put_down(&self, jobs: &BTreeSet<JobId>) {
        let is_left = |job: &JobId| {
            let record = self.views.ledger.job(job);
            let has_ended = record.is_some_and(|record| record.state().is_final());
            has_ended && self.removals.is_in_hand(job)
        };
        while jobs.iter().any(is_left) {
            tokio::time::sleep(IN_HAND_AGAIN).await;
        }
    }

    async fn removal(
        &self,
        selection: Selection,
        dry_run: bool,
        sender: &Sender,
        reading: &Reading,
    ) -> Result<Response, ControlErrorOf> {
        let by = sender
            .user()
            .map_or_else(|| "a user".into(), |user| user.name);
        let (removals, reading) = (self.removals.clone(), reading.clone());
        let removed =
            tasks::blocking(move || removals.carry_out(&selection, dry_run, &by, &reading));
        let removed = removed.await.map_err(internal)?.map_err(refused)?;
        Ok(Response::Removed(removed))
    }
}

fn refused(refused: RemovalError) -> ControlErrorOf {
    match refused {
        RemovalError::NoLimit => error(ErrorKind::Invalid, refused).into(),
        other => internal(other).into(),
    }
}
