//! The judge actor: a language model beside the policy writes answers to the questions of rewards.

use crate::device::{DeviceThread, Opened};
use crate::failure::{invalid, of_model, of_sampling};
use crate::outbox::Outbox;
use crate::source::{Placement, check_contents, kind, reading_bytes};
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use r1d_model::CausalLm;
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::rollout::Rollout;
use r1d_proto::worker::{Answer, Failure, Generate, Group, ModelSource, Question, Slots};
use r1d_sampler::Sampler;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Answers decoded at a time if the stage itself samples nothing (`LIM-1`).
const SLOTS_MAX: u32 = 64;

#[derive(Message)]
#[rtype(result = "Result<Vec<Vec<u32>>, Failure>")]
pub(crate) struct Write {
    pub request: Answer,
    pub outbox: Outbox,
}

pub(crate) struct JudgeActor {
    pub device: DeviceThread,
    pub placement: Placement,
}

impl Actor for JudgeActor {
    type Context = Context<Self>;
}

impl Handler<Write> for JudgeActor {
    type Result = ResponseFuture<Result<Vec<Vec<u32>>, Failure>>;

    fn handle(&mut self, Write { request, outbox }: Write, _: &mut Self::Context) -> Self::Result {
        let (device, placement) = (self.device.clone(), self.placement.clone());
        Box::pin(async move {
            device
                .run(move |device_state| {
                    answers(device_state.opened()?, &request, &placement, &outbox)
                })
                .await
        })
    }
}

/// A question, and the places in the request at which it is asked.
type Asked<'a> = (&'a Question, Vec<usize>);

/// Answers the questions, in their order. Equal questions are answered once.
fn answers(
    opened: &mut Opened,
    request: &Answer,
    placement: &Placement,
    outbox: &Outbox,
) -> Result<Vec<Vec<u32>>, Failure> {
    let mut places: BTreeMap<&Question, Vec<usize>> = BTreeMap::new();
    for (place, question) in request.questions.iter().enumerate() {
        places.entry(question).or_default().push(place);
    }
    let by_length = by_length(places);
    let (invariant, held) = (opened.request.batch_invariant, opened.request.sampler);
    let model = judge(opened, &request.model, placement, outbox)?;
    let mut answers = vec![Vec::new(); request.questions.len()];
    let (mut tokens_before, mut tokens_after) = (
        0,
        by_length
            .values()
            .map(|asked| u64::from(longest_answer(asked)) * asked.len() as u64)
            .sum::<u64>(),
    );
    for asked in by_length.into_values() {
        let max_tokens = longest_answer(&asked);
        let longest = asked
            .iter()
            .map(|(question, _)| question.prompt_ids.len())
            .max()
            .unwrap_or(0);
        let slots = slots(held, longest as u32 + max_tokens, asked.len() as u32);
        let generate = greedy(&asked, max_tokens, &request.stop_ids);
        let mut sampler = Sampler::new(model, slots, invariant, placement.clock.clone())
            .map_err(of_sampling)?
            .with_own_kernels(placement.own_kernels);
        let mut completed = |rollout: Rollout| {
            let Some((question, places)) = asked.get(rollout.key.prompt as usize) else {
                return;
            };
            let own = rollout
                .completion_ids
                .get(..question.max_tokens as usize)
                .unwrap_or(&rollout.completion_ids);
            for place in places {
                if let Some(answer) = answers.get_mut(*place) {
                    *answer = own.to_vec();
                }
            }
        };
        tokens_after -= u64::from(max_tokens) * asked.len() as u64;
        let mut reached = 0;
        let total = tokens_before + u64::from(max_tokens) * asked.len() as u64 + tokens_after;
        let written = outbox.during("judging", "tokens", total, |report| {
            let mut progress = |done: u64, most: u64| {
                reached = done;
                report.at(tokens_before + done, tokens_before + most + tokens_after);
            };
            sampler.generate(model, &generate, &mut completed, &mut progress)
        });
        written.map_err(of_sampling)?;
        tokens_before += reached;
    }
    Ok(answers)
}

/// Questions by the length of their answers. A request to the sampler has one length; questions of
/// similar lengths share the longest of them: a greedy answer to fewer tokens is the beginning of
/// one to more.
fn by_length(places: BTreeMap<&Question, Vec<usize>>) -> BTreeMap<u32, Vec<Asked<'_>>> {
    let mut by_length: BTreeMap<u32, Vec<Asked<'_>>> = BTreeMap::new();
    for (question, places) in places {
        let bucket = question
            .max_tokens
            .checked_next_power_of_two()
            .unwrap_or(u32::MAX);
        by_length
            .entry(bucket)
            .or_default()
            .push((question, places));
    }
    by_length
}

/// The request that lets the sampler write one greedy answer to each question.
fn greedy(asked: &[Asked<'_>], max_tokens: u32, stop_ids: &[u32]) -> Generate {
    let group = |(index, (question, _)): (usize, &Asked<'_>)| Group {
        prompt: index as u32,
        row: 0,
        prompt_ids: question.prompt_ids.clone(),
        samples: vec![0],
    };
    Generate {
        stage: 0,
        step: 0,
        policy_version: 0,
        sampling: Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            keep_sampling_mask: false,
            max_completion_length: max_tokens,
            stop_ids: stop_ids.to_vec(),
            seed: 0,
        },
        record_experts: false,
        groups: asked.iter().enumerate().map(group).collect(),
    }
}

fn longest_answer(asked: &[Asked<'_>]) -> u32 {
    asked
        .iter()
        .map(|(question, _)| question.max_tokens)
        .max()
        .unwrap_or(0)
}

/// The cache's slots: as many tokens as the policy's cache holds, or as one question needs.
fn slots(held: Option<Slots>, capacity: u32, questions: u32) -> Slots {
    let held = held.unwrap_or(Slots::of(SLOTS_MAX, capacity));
    // Short questions may be more at a time than the policy's completions, because memory is the
    // limit.
    let fitting = Slots {
        count: u32::MAX,
        ..held
    }
    .fitting(capacity.into());
    Slots::of(fitting.clamp(1, questions.max(1)), capacity)
}

/// A judge beside the stage's models; it is loaded at its first question.
fn judge<'a>(
    opened: &'a mut Opened,
    source: &ModelSource,
    placement: &Placement,
    outbox: &Outbox,
) -> Result<&'a CausalLm, Failure> {
    let ModelSource::Directory(dir) = source else {
        return Err(invalid("a judge has weights: name its directory"));
    };
    match opened.judges.entry(source.clone()) {
        Entry::Occupied(loaded) => Ok(loaded.into_mut()),
        Entry::Vacant(place) => {
            let (dtype, invariant) = (kind(opened.request.dtype), opened.request.batch_invariant);
            let model = outbox.during("loading", "bytes", reading_bytes(source), |_| {
                check_contents(source)?;
                let model = CausalLm::load(dir, placement.device, dtype).map_err(of_model)?;
                if invariant {
                    model.check_invariance().map_err(of_model)?;
                }
                Ok(model)
            })?;
            Ok(place.insert(model))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_as_large_as_the_policys() {
        let held = Some(Slots::of(16, 128));
        assert_eq!(slots(held, 512, 50), Slots::of(4, 512));
        assert_eq!(
            slots(held, 50, 10),
            Slots::of(10, 50),
            "no more than there are questions"
        );
        assert_eq!(slots(held, 10_000, 10), Slots::of(1, 10_000));
        assert_eq!(slots(None, 10, 1000), Slots::of(SLOTS_MAX, 10));
    }
}
