//! The contents of one step, as its entries add up, and which entry may follow which.

use crate::entry::{Entry, Refused};
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::{Rollout, ScoredRollout};
use r1d_proto::verdict::Verdict;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A step as the journal holds it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepRecord {
    /// The completions, by their keys.
    pub sampled: BTreeMap<SampleKey, Rollout>,
    /// Verdicts and reward of the completions that are scored so far; a reward of `None`: an
    /// abstention takes the sample out.
    pub scored: BTreeMap<SampleKey, (Vec<Verdict>, Option<f32>)>,
    /// The completions that make up the step, in training order, with their advantages; `None`
    /// until the step is sealed.
    pub sealed: Option<Vec<(SampleKey, Option<f32>)>>,
}

impl StepRecord {
    pub(crate) fn add(&mut self, entry: Entry) {
        match entry {
            Entry::Sampled(rollout) => {
                self.sampled.insert(rollout.key, rollout);
            }
            Entry::Scored {
                key,
                verdicts,
                reward,
            } => {
                self.scored.insert(key, (verdicts, reward));
            }
            Entry::Sealed { advantages, .. } => self.sealed = Some(advantages),
        }
    }

    /// The step's completions in training order; `None` unless it is sealed.
    pub fn into_scored(mut self) -> Option<Vec<ScoredRollout>> {
        let sealed = self.sealed.take()?;
        let mut whole = |(key, advantage)| {
            let rollout = self.sampled.remove(&key)?;
            let (verdicts, reward) = self.scored.remove(&key)?;
            Some(ScoredRollout {
                rollout,
                verdicts,
                reward,
                advantage,
            })
        };
        sealed.into_iter().map(&mut whole).collect()
    }
}

/// Length and checksum of a record: equal prints are equal records.
pub(crate) type Print = (u32, u32);

/// The keys and prints of what a step holds: enough to tell a repetition from a contradiction.
#[derive(Default)]
pub(crate) struct Step {
    sampled: HashMap<SampleKey, Print>,
    scored: HashMap<SampleKey, Print>,
    sealed: Option<Print>,
}

impl Step {
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// Takes the entry in; `Ok(false)` if an equal one, to the byte, is here already.
    pub(crate) fn admit(&mut self, entry: &Entry, print: Print) -> Result<bool, Refused> {
        match entry {
            Entry::Sampled(rollout) => {
                self.admit_sample(rollout.key, "the sampled completion", print, |step| {
                    &mut step.sampled
                })
            }
            Entry::Scored { key, .. } => {
                if !self.sampled.contains_key(key) {
                    return Err(Refused::NotSampled { key: *key });
                }
                self.admit_sample(*key, "the score", print, |step| &mut step.scored)
            }
            Entry::Sealed {
                step, advantages, ..
            } => self.admit_seal(*step, advantages, print),
        }
    }

    /// Undoes an [`Step::admit`] that took the entry in.
    pub(crate) fn withdraw(&mut self, entry: &Entry) {
        match entry {
            Entry::Sampled(rollout) => {
                self.sampled.remove(&rollout.key);
            }
            Entry::Scored { key, .. } => {
                self.scored.remove(key);
            }
            Entry::Sealed { .. } => self.sealed = None,
        }
    }

    fn admit_sample(
        &mut self,
        key: SampleKey,
        what: &'static str,
        print: Print,
        map: impl Fn(&mut Step) -> &mut HashMap<SampleKey, Print>,
    ) -> Result<bool, Refused> {
        match map(self).get(&key) {
            Some(known) if *known == print => return Ok(false),
            Some(_) => return Err(Refused::Differs { what, key }),
            None => {}
        }
        if self.is_sealed() {
            return Err(Refused::Sealed { step: key.step });
        }
        map(self).insert(key, print);
        Ok(true)
    }

    fn admit_seal(
        &mut self,
        step: u64,
        advantages: &[(SampleKey, Option<f32>)],
        print: Print,
    ) -> Result<bool, Refused> {
        match self.sealed {
            Some(known) if known == print => return Ok(false),
            Some(_) => return Err(Refused::Sealed { step }),
            None => {}
        }
        let mut once = HashSet::new();
        for (key, _) in advantages {
            if !self.sampled.contains_key(key) {
                return Err(Refused::NotSampled { key: *key });
            }
            if !self.scored.contains_key(key) {
                return Err(Refused::NotScored { key: *key });
            }
            if !once.insert(*key) {
                return Err(Refused::SealedTwice { key: *key });
            }
        }
        self.sealed = Some(print);
        Ok(true)
    }
}
