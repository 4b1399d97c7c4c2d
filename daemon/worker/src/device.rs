//! The device's own thread: the one place where tensors live and kernels are launched.
//!
//! Actors never compute in a handler: they hand a closure to this thread and await its answer. The
//! thread runs one closure at a time, in the order of arrival, so everything that the closures
//! touch ([`DeviceState`]) needs no lock.

use crate::failure::invalid;
use crate::gang::Gang;
use r1d_learn::Trainer;
use r1d_model::checkpoint::Blocks;
use r1d_model::{CausalLm, SequenceClassifier};
use r1d_proto::worker::{Failure, FailureKind, ModelSource, Open};
use r1d_sampler::Sampler;
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Closures that may wait for the device (`LIM-1`): requests are carried out one at a time, so more
/// than a few is a fault.
const QUEUE_MAX_TASKS: usize = 16;

/// What is on the device between requests.
#[derive(Default)]
pub(crate) struct DeviceState {
    pub open: Option<Opened>,
    /// The other ranks of the worker's gang, once it has met them.
    pub gang: Option<Gang>,
    /// The thread that writes the last checkpoint, or has written it.
    pub writing: Option<JoinHandle<()>>,
}

/// The model that a stage trains or samples from.
pub(crate) enum Model {
    Policy(CausalLm),
    Reward(SequenceClassifier),
}

impl Model {
    /// The model's weights, whichever head it has.
    pub(crate) fn weights(&self) -> &CausalLm {
        match self {
            Model::Policy(policy) => policy,
            Model::Reward(scorer) => scorer.model(),
        }
    }

    pub(crate) fn policy(&self) -> Result<&CausalLm, Failure> {
        match self {
            Model::Policy(policy) => Ok(policy),
            Model::Reward(_) => Err(invalid(
                "the stage was opened with a reward model, which has no policy",
            )),
        }
    }

    pub(crate) fn scorer(&self) -> Result<&SequenceClassifier, Failure> {
        match self {
            Model::Reward(scorer) => Ok(scorer),
            Model::Policy(_) => Err(invalid(
                "the stage was opened with a policy, which gives no scores: open it with `scores`",
            )),
        }
    }
}

/// PPO's value model and its trainer.
pub(crate) struct Critic {
    pub model: SequenceClassifier,
    pub trainer: Trainer,
}

/// The tensors of a stage. Sampler and trainer share the model's storage, so a weight update costs
/// no copy.
pub(crate) struct Opened {
    pub request: Open,
    pub model: Model,
    pub reference: Option<CausalLm>,
    pub critic: Option<Critic>,
    /// The reward models that the stage's rewards have asked so far.
    pub reward_models: BTreeMap<ModelSource, SequenceClassifier>,
    pub judges: BTreeMap<ModelSource, CausalLm>,
    pub trainer: Option<Trainer>,
    pub sampler: Option<Sampler>,
    /// Memory that is kept for the stage's snapshots; `None` if each gets its own.
    pub snapshot_memory: Option<Blocks>,
}

impl DeviceState {
    pub(crate) fn opened(&mut self) -> Result<&mut Opened, Failure> {
        self.open.as_mut().ok_or_else(|| Failure {
            kind: FailureKind::Invalid,
            message: "no model is open: send Open first".into(),
        })
    }
}

type Task = Box<dyn FnOnce(&mut DeviceState) + Send>;

/// A handle to the device's thread.
#[derive(Clone)]
pub(crate) struct DeviceThread {
    tasks: mpsc::SyncSender<Task>,
}

impl DeviceThread {
    /// Starts the thread. A panic there ends the process, because a half-changed model must not
    /// serve; `r1d` starts a fresh worker.
    pub(crate) fn start() -> std::io::Result<DeviceThread> {
        let (tasks, queue) = mpsc::sync_channel::<Task>(QUEUE_MAX_TASKS);
        std::thread::Builder::new()
            .name("device".into())
            .spawn(move || {
                r1d_torch::runtime::set_flush_denormal(true);
                let mut device_state = DeviceState::default();
                for task in queue {
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        task(&mut device_state)
                    }))
                    .is_err()
                    {
                        tracing::error!("the device's thread panicked; the worker ends");
                        std::process::exit(super::EXIT_PANIC);
                    }
                }
            })?;
        Ok(DeviceThread { tasks })
    }

    /// Runs `work` on the device's thread and awaits its result.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut DeviceState) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let task: Task = Box::new(move |device_state| {
            // If the caller is gone, the answer is dropped.
            let _ = reply.send(work(device_state));
        });
        self.tasks.try_send(task).map_err(|e| Failure {
            kind: FailureKind::Internal,
            message: format!(
                "the device's queue of {QUEUE_MAX_TASKS} tasks does not take another: {e}"
            ),
        })?;
        answer.await.map_err(|_| Failure {
            kind: FailureKind::Internal,
            message: "the device's thread dropped the task".into(),
        })?
    }
}
