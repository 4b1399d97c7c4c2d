//! The gang of a job: the workers of its devices, which are one worker to its run. Each rank is
//! asked for its part of what the run asks, and what all ranks answer comes back as one answer
//! ([`crate::fold`]). A gang of one rank is that worker.

use crate::fold::fold;
use crate::job_log::JobLog;
use crate::live_ranks::LiveRanks;
use crate::meeting::{Meeting, Seat};
use crate::tasks::{self, Restarting, Supervised};
use crate::worker::{Ask, End, FromRank, Launch, Worker, WorkerError};
use futures_util::future::join_all;
use r1d_parallel::balance::shared_out;
use r1d_proto::ids::JobId;
use r1d_proto::worker::{Group, Place, ToWorker, WorkerRequest};
use r1d_proto::world::SharedClock;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Messages of all ranks that may wait to be folded (`LIM-1`): a full channel holds workers back.
const SAID_MAX: usize = 64;

/// A device and the supervisor of its worker.
#[derive(Clone)]
pub(crate) struct Rank {
    pub device: String,
    pub worker: Supervised<Worker>,
}

/// The ranks of a job, in their order. Clones share the workers.
#[derive(Clone)]
pub(crate) struct Gang {
    ranks: Arc<[Rank]>,
    live: LiveRanks,
}

impl Gang {
    pub(crate) fn new(ranks: Vec<Rank>, clock: SharedClock) -> Gang {
        let live = LiveRanks::new(ranks.len(), clock);
        let ranks = ranks.into();
        Gang { ranks, live }
    }

    /// The number of ranks.
    pub(crate) fn size(&self) -> usize {
        self.ranks.len()
    }

    /// What the ranks do, and which one is at fault.
    pub(crate) fn live(&self) -> &LiveRanks {
        &self.live
    }

    /// The devices, by rank.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &str> {
        self.ranks.iter().map(|rank| &*rank.device)
    }

    /// The device of rank 0, by which the job is planned: those of a gang are alike.
    pub(crate) fn device(&self) -> &str {
        self.devices().next().unwrap_or_default()
    }

    /// The workers in words: `worker cuda:0`, `workers cuda:0, cuda:1`.
    pub(crate) fn in_words(&self) -> String {
        let devices: Vec<&str> = self.devices().collect();
        let workers = if devices.len() > 1 {
            "workers"
        } else {
            "worker"
        };
        format!("{workers} {}", devices.join(", "))
    }

    /// Starts a process for each rank, after its previous one has ended. What they say goes to
    /// `said`; they end when nobody hears it any more. A rank that does not start is at fault.
    pub(crate) async fn launch(
        &self,
        job: &JobId,
        said: mpsc::Sender<FromRank>,
        log: &JobLog,
        meeting: &Meeting,
    ) -> Result<Result<(), WorkerError>, Restarting> {
        let said = match self.size() {
            0 | 1 => said,
            _ => {
                let (of_ranks, heard) = mpsc::channel(SAID_MAX);
                tasks::spawn("gang", fold(heard, said, self.live.clone()));
                of_ranks
            }
        };
        for (number, rank) in self.ranks.iter().enumerate() {
            let launch = Launch {
                job: job.clone(),
                said: said.clone(),
                log: log.clone(),
                seat: Seat {
                    meeting: meeting.clone(),
                    rank: number,
                },
            };
            if let Err(error) = rank.worker.ask("worker", launch).await? {
                self.live.failed(number);
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Hands each rank its part of a request. The end of a process is reported on its own stream,
    /// with the cause.
    pub(crate) async fn ask(&self, ToWorker { id, request }: ToWorker) {
        let parts = parts(request, self.size());
        for ((number, rank), request) in self.ranks.iter().enumerate().zip(parts) {
            if let Some(request) = request {
                self.live.asked(number, &request);
                let _ = rank
                    .worker
                    .ask("worker", Ask(ToWorker { id, request }))
                    .await;
            }
        }
    }

    /// Kills the processes and waits until they are gone.
    pub(crate) async fn end(&self) {
        // A supervisor that restarts has dropped its process.
        let ranks = self.ranks.iter();
        join_all(ranks.map(|rank| rank.worker.ask("worker", End))).await;
    }
}

/// What each of so many ranks is asked, of what all are asked together; `None`: nothing. Prompts
/// are shared out; models beside the open one answer on rank 0 alone; all else is for every rank.
fn parts(request: WorkerRequest, ranks: usize) -> Vec<Option<WorkerRequest>> {
    if ranks <= 1 {
        return vec![Some(request)];
    }
    match request {
        WorkerRequest::Open(open) => (0..ranks as u32)
            .map(|rank| {
                let place = open.place.map(|place| Place { rank, ..place });
                let mut open = open.clone();
                open.place = place;
                Some(WorkerRequest::Open(open))
            })
            .collect(),
        WorkerRequest::Generate(mut generate) => {
            let groups = std::mem::take(&mut generate.groups);
            let of_rank = |groups| {
                let mut generate = generate.clone();
                generate.groups = groups;
                Some(WorkerRequest::Generate(generate))
            };
            shared(groups, ranks).into_iter().map(of_rank).collect()
        }
        WorkerRequest::Score { model: Some(_), .. } | WorkerRequest::Answer(_) => {
            let others = (1..ranks).map(|_| None);
            std::iter::once(Some(request)).chain(others).collect()
        }
        request => vec![Some(request); ranks],
    }
}

/// Shares groups out by the completions that they lack. All completions of a group are drawn on one
/// rank, because they share their prompt.
fn shared(groups: Vec<Group>, ranks: usize) -> Vec<Vec<Group>> {
    let costs: Vec<usize> = groups.iter().map(|group| group.samples.len()).collect();
    let mut groups: Vec<Option<Group>> = groups.into_iter().map(Some).collect();
    let mut take = |index: usize| groups.get_mut(index)?.take();
    let shares = shared_out(&costs, ranks);
    shares
        .into_iter()
        .map(|own| own.into_iter().filter_map(&mut take).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::hyperparameters::Sampling;
    use r1d_proto::worker::{Generate, ModelSource};

    fn group(prompt: u32, samples: u32) -> Group {
        Group {
            prompt,
            row: 0,
            prompt_ids: vec![1],
            samples: (0..samples).collect(),
        }
    }

    fn sampling() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            keep_sampling_mask: false,
            max_completion_length: 8,
            stop_ids: vec![],
            seed: 0,
        }
    }

    fn generate(groups: Vec<Group>) -> WorkerRequest {
        WorkerRequest::Generate(Generate {
            stage: 0,
            step: 0,
            policy_version: 0,
            sampling: sampling(),
            record_experts: false,
            groups,
        })
    }

    /// Every prompt is answered by exactly one rank, and a rank without any is asked too: it has to
    /// answer.
    #[test]
    fn each_prompt_goes_to_one_rank() {
        let sizes = [4, 4, 1, 4, 2, 4, 0];
        let groups = sizes
            .iter()
            .zip(0..)
            .map(|(&samples, prompt)| group(prompt, samples));
        let asked = |ranks| parts(generate(groups.clone().collect()), ranks);
        for ranks in [1, 2, 3, 9] {
            let asked = asked(ranks);
            assert_eq!(asked.len(), ranks);
            let of_ranks = asked.into_iter().map(|part| match part {
                Some(WorkerRequest::Generate(generate)) => generate.groups,
                other => panic!("{other:?}"),
            });
            let of_ranks: Vec<Vec<Group>> = of_ranks.collect();
            let mut prompts: Vec<u32> =
                of_ranks.concat().iter().map(|group| group.prompt).collect();
            prompts.sort_unstable();
            assert_eq!(prompts, [0, 1, 2, 3, 4, 5, 6]);
            let most = of_ranks
                .iter()
                .map(|own| own.iter().map(|group| group.samples.len()).sum::<usize>());
            assert!(
                most.max() <= Some(19_usize.div_ceil(ranks).max(4) + 3),
                "{of_ranks:?}"
            );
        }
    }

    #[test]
    fn judges_and_reward_models_answer_on_rank_0() {
        let score = |model| WorkerRequest::Score {
            model,
            sequences: vec![vec![1]],
        };
        let beside = score(Some(ModelSource::Directory("reward".into())));
        assert_eq!(parts(beside.clone(), 3), [Some(beside), None, None]);
        // The open model's experts may be on all ranks.
        assert_eq!(
            parts(score(None), 2),
            [Some(score(None)), Some(score(None))]
        );
        let close = || Some(WorkerRequest::Close);
        assert_eq!(parts(WorkerRequest::Close, 2), [close(), close()]);
    }
}
