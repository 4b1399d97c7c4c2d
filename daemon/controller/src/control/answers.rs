//! What each request is answered with that is answered once.

use super::senders::{Sender, without_texts};
use super::{ControlService, response};
use crate::node::{WorkProgress, unexpected};
use r1d_link::{Answer, Work};
use r1d_proto::control::error::{ControlError, ErrorKind};
use r1d_proto::control::node::NodeStatus;
use r1d_proto::control::{Request, Response};

impl ControlService {
    pub(super) async fn single(
        &self,
        request: Request,
        sender: Sender,
        progress: &WorkProgress,
    ) -> Result<Response, ControlError> {
        match request {
            Request::List => Ok(Response::Jobs(self.views.summaries())),
            Request::Status { job } => {
                let status = self.views.status(&*self.find(&job)?);
                Ok(Response::Status(Box::new(if sender.owns {
                    status
                } else {
                    without_texts(status)
                })))
            }
            Request::Why { job } => Ok(Response::Why(self.views.why(&*self.find(&job)?).await?)),
            Request::Pause { .. } | Request::Resume { .. } | Request::Requeue { .. } => {
                self.decision(request, sender).await
            }
            Request::Cancel { job } => {
                let job = self.find(&job)?.job().clone();
                let cancel = |service: ControlService| async move { service.cancel(job).await };
                self.change((&self.admission.cancels, sender.uid), cancel)
                    .await
            }
            Request::Remove { jobs } => self.remove(jobs, sender).await,
            Request::Prune {
                older_than_s,
                keep_final,
                dry_run,
            } => {
                let limits = (older_than_s, keep_final);
                self.prune(limits, dry_run, sender, progress).await
            }
            Request::Nodes => Ok(Response::Nodes(vec![self.node_status().await?])),
            Request::Shutdown => self.shut_down(),
            request => self.work_of_node(request, &sender, progress).await,
        }
    }

    /// Has the node answer what it has the files for.
    async fn work_of_node(
        &self,
        request: Request,
        sender: &Sender,
        progress: &WorkProgress,
    ) -> Result<Response, ControlError> {
        let (reader, uid) = (sender.reader(), sender.uid);
        let looks = (&self.admission.looks, uid);
        let whole = |job: &str| Ok::<_, ControlError>(self.find(job)?.job().clone());
        match request {
            Request::Plan { job, pins } => {
                let plan = Work::Plan {
                    job_toml: job,
                    pins,
                    reader,
                };
                self.read((&self.admission.plans, uid), progress, plan)
                    .await
            }
            Request::Samples {
                job,
                stage,
                step,
                sort,
                limit,
            } => {
                let samples = Work::Samples {
                    job: whole(&job)?,
                    stage,
                    step,
                    sort,
                    limit,
                };
                self.read(looks, progress, samples).await
            }
            Request::Trace { job, stage, step } => {
                let job = whole(&job)?;
                let trace = Work::Trace { job, stage, step };
                self.read(looks, progress, trace).await
            }
            Request::DataSets { job } => {
                let listed = Work::DataSets { job: whole(&job)? };
                self.read(looks, progress, listed).await
            }
            Request::Reload { job, plugin, file } => {
                let reload = Work::Reload {
                    job: whole(&job)?,
                    plugin,
                    file,
                    reader,
                };
                self.change_of_node(uid, reload).await
            }
            Request::Review { job, stage, file } => {
                let review = Work::Review {
                    job: whole(&job)?,
                    stage,
                    file,
                    reader,
                };
                self.change_of_node(uid, review).await
            }
            _ => Err(ControlError::internal(
                "such a request has a way of its own",
            )),
        }
    }

    /// Has the node change something, whether the client stays or not.
    async fn change_of_node(&self, uid: u32, work: Work) -> Result<Response, ControlError> {
        let change =
            |service: ControlService| async move { response(service.node().ask(work).await?) };
        self.change((&self.admission.submissions, uid), change)
            .await
    }

    fn shut_down(&self) -> Result<Response, ControlError> {
        let Some(shutdown) = &self.shutdown else {
            let what = "this daemon is a service: stop it with `systemctl stop r1d`";
            return Err(ControlError::new(ErrorKind::Invalid, what));
        };
        shutdown.send_replace(true);
        Ok(Response::ShuttingDown)
    }

    /// Describes the node. Its plugins are looked for by one client at a time, because their
    /// directories may be in the network, and hang.
    async fn node_status(&self) -> Result<NodeStatus, ControlError> {
        let turn = self.admission.plugins.clone().lock_owned().await;
        let (node, progress) = (self.node(), WorkProgress::default());
        let plugins = match node.ask_in_turn(Work::Plugins, turn, &progress).await? {
            Answer::Plugins(plugins) => plugins,
            other => return Err(unexpected(&other)),
        };
        Ok(NodeStatus {
            name: self.node_name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            state_dir: self.views.state_dir.clone(),
            uptime_s: self.views.clock.now().saturating_sub(self.since).as_secs(),
            devices: self.views.live_status.devices(),
            plugins,
        })
    }
}
