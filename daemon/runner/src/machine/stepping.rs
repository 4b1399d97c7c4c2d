//! A step, from what the journal has of it to its commit.

use super::{Following, Machine, State, to_worker};
use crate::flow::Flow;
use crate::message::{Command, Event, Recalled, Source, Store};
use crate::step::Step;
use r1d_proto::rollout::ScoredRollout;
use r1d_proto::worker::{Body, Metrics, Reply, WorkerRequest};
use std::time::Duration;

impl Machine {
    /// Takes a step from what the journal has of it to its commit.
    pub(super) fn stepping(&mut self, state: State, event: Event, now: Duration) -> Following {
        match (state, event) {
            (State::Recalling { stage }, Event::Recalled(recalled)) => {
                self.step(stage, recalled, now)
            }
            (State::Recalling { stage }, Event::Stored) => {
                self.step(stage, Recalled::default(), now)
            }
            (State::Stepping { stage, mut step }, event) => {
                match step.handle(&self.plan, stage, event, now)? {
                    Flow::Go(commands) => Ok((State::Stepping { stage, step }, commands)),
                    Flow::Done {
                        metrics,
                        tokens,
                        rollouts,
                    } => self.commit(stage, metrics, tokens, rollouts),
                }
            }
            (State::Committing { stage, num_tokens }, Event::Stored) => {
                if let Some(record) = self.record.stages.get_mut(stage) {
                    record.step += 1;
                    record.num_tokens = num_tokens;
                }
                if self
                    .plan
                    .syncs_reference(stage, self.record.committed(stage))
                {
                    Ok((
                        State::SyncingReference { stage },
                        to_worker(WorkerRequest::SyncReference),
                    ))
                } else {
                    self.boundary(stage, now)
                }
            }
            (
                State::SyncingReference { stage },
                Event::Worker(Body::Done(Reply::ReferenceSynced)),
            ) => self.boundary(stage, now),
            (state, event) => Err(self.unexpected(&state, &event)),
        }
    }

    /// Begins the next step. Completions that an earlier attempt left are the same bits as new ones
    /// only in the batch-invariant mode; otherwise those of an unsealed step are dropped and all
    /// are sampled again. A sealed step goes on to its update in any mode.
    ///
    /// If the ledger is an older copy, the sealed steps behind it go on to their updates too, up to
    /// a gap: completions behind the gap were sampled with other weights.
    pub(super) fn step(&mut self, stage: usize, recalled: Recalled, now: Duration) -> Following {
        let step = self.record.committed(stage);
        let usable = self.plan.job.batch_invariant || recalled.sealed.is_some();
        let (stale, behind_a_gap) = (
            !usable && !recalled.sampled.is_empty(),
            recalled.later && recalled.sampled.is_empty(),
        );
        if stale || behind_a_gap {
            return Ok((
                State::Recalling { stage },
                vec![Command::Forget { stage, step }],
            ));
        }
        self.leftovers |= recalled.later;
        let models = self.judge_models(Source::Stage(stage))?;
        let (mut begun, commands) = Step::begin(&self.plan, stage, step, recalled, models, now);
        if let Some(Flow::Done {
            metrics,
            tokens,
            rollouts,
        }) = begun.finished_at_once(&self.plan, now)
        {
            return self.commit(stage, metrics, tokens, rollouts);
        }
        Ok((
            State::Stepping {
                stage,
                step: Box::new(begun),
            },
            commands,
        ))
    }

    pub(super) fn commit(
        &mut self,
        stage: usize,
        mut metrics: Metrics,
        tokens: u64,
        rollouts: Vec<ScoredRollout>,
    ) -> Following {
        let before = self
            .record
            .stages
            .get(stage)
            .map_or(0.0, |record| record.num_tokens);
        let num_tokens = before + tokens as f64;
        metrics.insert("num_tokens".into(), num_tokens);
        let step = self.record.committed(stage);
        let store = Store::Commit {
            stage,
            step,
            metrics,
            rollouts,
        };
        Ok((
            State::Committing { stage, num_tokens },
            vec![Command::Store(store)],
        ))
    }
}
