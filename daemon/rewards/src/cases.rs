//! Judges many completions on several threads and hands on the verdicts in order: for tools that
//! work through a file.

use crate::completion::{Ask, Completion, Judged};
use crate::error::ScoreError;
use crate::loaded::LoadedReward;
use crate::world::World;
use r1d_proto::verdict::Outcome;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Number of batches of verdicts that wait to be handed on (`LIM-1`).
const TOLD_LATER_MAX: usize = 16;
/// Number of units after which a thread hands its verdicts on. It does so in batches, because each
/// hand-over wakes the receiver.
const BATCH_UNITS_MAX: usize = 64;
/// Time of judging after which a thread hands its verdicts on.
const BATCH_TOOK_MAX: Duration = Duration::from_millis(2);

/// A completion, and the group that a reward of groups judges it with.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The completion.
    pub completion: Completion,
    /// Name of its group.
    pub group: String,
}

/// A source of a model's answers to the questions of judged rewards.
pub trait Answers: Sync {
    /// The answer, or the reason why the model has none; `None` if no model is there to answer.
    fn answer(&self, ask: &Ask) -> Option<Result<String, String>>;
}

/// A source that answers no question.
pub struct NoAnswers;

impl Answers for NoAnswers {
    fn answer(&self, _: &Ask) -> Option<Result<String, String>> {
        None
    }
}

impl LoadedReward {
    /// Judges all members on this many threads, and calls `tell` with the index and verdict of each
    /// in the order of `members`, until it returns false. Members of a group need not be
    /// neighbours. A question without an answer makes an abstention.
    pub fn judge_all(
        &self,
        members: &[Member],
        answers: &dyn Answers,
        threads: usize,
        mut tell: impl FnMut(usize, Judged) -> bool,
    ) -> Result<(), ScoreError> {
        let units = units(self.world(), members);
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, receiver) = mpsc::sync_channel(TOLD_LATER_MAX);
        std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, units.len().max(1)) {
                let (sender, units, next, stop) = (sender.clone(), &units, &next, &stop);
                scope.spawn(move || {
                    let (mut batch, mut took) = (Vec::new(), Duration::ZERO);
                    while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let judged = catch_unwind(AssertUnwindSafe(|| {
                            self.judge_unit(members, unit, answers)
                        }));
                        let judged =
                            judged.unwrap_or_else(|_| Err(ScoreError::Host("panic".into())));
                        took += judged.iter().flatten().map(|judged| judged.took).sum();
                        let failed = judged.is_err();
                        batch.push((unit, judged));
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        if failed || took >= BATCH_TOOK_MAX || batch.len() >= BATCH_UNITS_MAX {
                            took = Duration::ZERO;
                            if sender.send(std::mem::take(&mut batch)).is_err() {
                                return;
                            }
                        }
                    }
                    // Sending fails once the receiver has stopped, and then the verdicts are not
                    // wanted.
                    let _ = sender.send(batch);
                });
            }
            drop(sender);
            let mut waiting: BTreeMap<usize, Judged> = BTreeMap::new();
            let mut told = 0;
            let ended = receiver.iter().flatten().try_for_each(|(unit, judged)| {
                waiting.extend(unit.iter().copied().zip(judged.map_err(Some)?));
                while let Some(judged) = waiting.remove(&told) {
                    if !tell(told, judged) {
                        return Err(None);
                    }
                    told += 1;
                }
                Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            drop(receiver);
            match ended {
                Ok(()) | Err(None) => Ok(()),
                Err(Some(error)) => Err(error),
            }
        })
    }

    fn judge_unit(
        &self,
        members: &[Member],
        unit: &[usize],
        answers: &dyn Answers,
    ) -> Result<Vec<Judged>, ScoreError> {
        let completions = || {
            unit.iter()
                .filter_map(|&i| members.get(i))
                .map(|member| &member.completion)
        };
        match self.world() {
            World::Reward => completions()
                .map(|completion| self.score(completion))
                .collect(),
            World::GroupReward => self.score_group(&completions().cloned().collect::<Vec<_>>()),
            World::JudgedReward => completions()
                .map(|completion| self.judge_with(completion, answers))
                .collect(),
        }
    }

    fn judge_with(
        &self,
        completion: &Completion,
        answers: &dyn Answers,
    ) -> Result<Judged, ScoreError> {
        let asks = match self.plan(completion)? {
            Ok(asks) => asks,
            Err(judged) => return Ok(judged),
        };
        let answered: Vec<_> = asks.iter().map(|ask| answers.answer(ask)).collect();
        match answered
            .iter()
            .position(Option::is_none)
            .and_then(|i| asks.get(i))
        {
            None => self.conclude(
                completion,
                &answered.into_iter().flatten().collect::<Vec<_>>(),
            ),
            Some(ask) => {
                let open = answered.iter().filter(|answer| answer.is_none()).count();
                let reason = format!(
                    "no answer to {open} of {} questions to model `{}`",
                    asks.len(),
                    ask.model
                );
                Ok(Judged {
                    outcome: Outcome::Abstain { reason },
                    reason: None,
                    fuel: 0,
                    took: Duration::ZERO,
                })
            }
        }
    }
}

/// Indices of the members that each call judges.
fn units(world: World, members: &[Member]) -> Vec<Vec<usize>> {
    if world != World::GroupReward {
        return (0..members.len()).map(|i| vec![i]).collect();
    }
    let mut units: Vec<Vec<usize>> = Vec::new();
    let mut of_group: HashMap<&str, usize> = HashMap::new();
    for (i, member) in members.iter().enumerate() {
        let unit = *of_group.entry(&member.group).or_insert(units.len());
        match units.get_mut(unit) {
            Some(unit) => unit.push(i),
            None => units.push(vec![i]),
        }
    }
    units
}
