//! `ROLL-1` and `ROLL-2` on tiny models of both architectures.

mod tiny;

use r1d_model::{Forward, Packed, kept_logprobs};
use r1d_proto::rollout::Rollout;
use r1d_proto::worker::Generate;
use r1d_proto::world::{counter_hash, counter_permutation};
use tch::Tensor;
use tiny::*;

/// The same samples in another order, with some left out.
fn shuffled(request: &Generate, round: u64) -> Generate {
    let mut changed = request.clone();
    let order = counter_permutation(&[round, 1], request.groups.len());
    changed.groups = order.iter().map(|&i| request.groups[i].clone()).collect();
    for group in &mut changed.groups {
        let order = counter_permutation(&[round, 2, group.prompt.into()], group.samples.len());
        group.samples = order.iter().map(|&i| group.samples[i]).collect();
        group.samples.retain(|sample| {
            round == 0
                || !counter_hash(&[round, 3, group.prompt.into(), (*sample).into()])
                    .is_multiple_of(3)
        });
    }
    changed
}

fn drawn(request: &Generate) -> usize {
    request.groups.iter().map(|group| group.samples.len()).sum()
}

/// ROLL-1: neither the slots, the company, the order nor the requested part of the group changes a
/// bit.
#[test]
fn a_rollout_is_the_same_bits_in_any_batch() {
    for config in BOTH {
        let model = model(config);
        let mut request = request(6, 4);
        for (top_k, top_p, temperature) in [(0, 1.0, 0.9), (20, 0.9, 1.0), (0, 1.0, 0.0)] {
            (
                request.sampling.top_k,
                request.sampling.top_p,
                request.sampling.temperature,
            ) = (top_k, top_p, temperature);
            let expected = generate(&mut sampler(&model, 5, true), &model, &request);
            assert_eq!(expected.len(), 24);
            for (round, slots) in [24, 1, 2, 3, 7, 13].into_iter().enumerate() {
                let changed = shuffled(&request, round as u64);
                let rollouts = generate(&mut sampler(&model, slots, true), &model, &changed);
                assert_eq!(rollouts.len(), drawn(&changed));
                for (key, rollout) in &rollouts {
                    assert_eq!(
                        rollout, &expected[key],
                        "round {round}, {slots} slots, {config}"
                    );
                }
            }
        }
    }
}

/// A step that was cut off is resumed with its missing samples, in the batch-invariant mode with
/// the same bits.
#[test]
fn a_resumed_step_draws_what_the_whole_one_would_have() {
    let model = model(DEEPSEEK_V3);
    let mut sampler = sampler(&model, 4, true);
    let whole = request(5, 3);
    let expected = generate(&mut sampler, &model, &whole);
    let mut resumed = whole.clone();
    resumed.groups[0].samples.clear();
    resumed.groups[2].samples = vec![1];
    let rollouts = generate(&mut sampler, &model, &resumed);
    assert_eq!(rollouts.len(), 10);
    assert!(
        rollouts
            .iter()
            .all(|(key, rollout)| rollout == &expected[key])
    );
}

#[test]
fn outside_the_mode_the_same_request_gives_the_same_rollouts() {
    for config in BOTH {
        let model = model(config);
        let request = request(6, 4);
        let first = generate(&mut sampler(&model, 5, false), &model, &request);
        let mut again = sampler(&model, 5, false);
        for _ in 0..2 {
            assert_eq!(generate(&mut again, &model, &request), first);
        }
    }
}

/// The ids that each of the completion's was drawn from, bool `[tokens, V]`; `None` if none were
/// cut off.
fn kept(rollout: &Rollout) -> Option<Tensor> {
    let mut rows = vec![vec![true; VOCAB_SIZE as usize]; rollout.completion_ids.len()];
    for (row, kept) in rows
        .iter_mut()
        .zip(rollout.kept_ids.tokens())
        .filter(|(_, kept)| !kept.is_whole())
    {
        row.fill(false);
        kept.runs()
            .for_each(|run| row[run.start as usize..run.end as usize].fill(true));
    }
    (!rollout.kept_ids.is_empty())
        .then(|| Tensor::from_slice(&rows.concat()).view([-1, VOCAB_SIZE as i64]))
}

/// Log-probabilities and experts of the completion in a forward pass of only this prompt and
/// completion, as a trainer runs it.
fn trainers_view(
    model: &r1d_model::CausalLm,
    rollout: &Rollout,
    invariant: bool,
) -> (Vec<f32>, Vec<i64>) {
    let ids = ids(rollout);
    let fed = Packed::new(
        Tensor::from_slice(&ids[..ids.len() - 1]),
        vec![ids.len() as i64 - 1],
    );
    let options = Forward {
        invariant,
        record_experts: true,
        ..Forward::default()
    };
    let output = tch::no_grad(|| model.forward(&fed, &options)).unwrap();
    let first = rollout.prompt_ids.len() - 1;
    let rows = rollout.completion_ids.len();
    let hidden = output.hidden.narrow(0, first as i64, rows as i64);
    let logits = tch::no_grad(|| model.logits(&hidden, &options)).unwrap();
    let kept = kept(rollout);
    let targets = Tensor::from_slice(&ids[first + 1..]);
    let logprobs = kept_logprobs(
        &logits,
        &targets,
        f64::from(sampling().temperature),
        kept.as_ref(),
    )
    .unwrap();
    let experts = output
        .experts
        .map(|experts| Vec::try_from(experts.reshape([-1])).unwrap())
        .unwrap_or_default();
    (logprobs.try_into().unwrap(), experts)
}

/// ROLL-2, and the layout of the recorded experts.
#[test]
fn recorded_logprobs_and_experts_are_the_trainers() {
    for config in BOTH {
        let model = model(config);
        for (invariant, top_k, top_p) in [
            (true, 0, 1.0),
            (false, 0, 1.0),
            (true, 0, 0.9),
            (true, 20, 0.8),
            (false, 20, 1.0),
        ] {
            let mut request = request(6, 4);
            (request.sampling.top_k, request.sampling.top_p) = (top_k, top_p);
            for (key, rollout) in generate(&mut sampler(&model, 5, invariant), &model, &request) {
                assert_eq!(
                    rollout.kept_ids.is_empty(),
                    top_k == 0 && top_p == 1.0,
                    "{key:?} {config}"
                );
                rollout
                    .kept_ids
                    .check(&rollout.completion_ids, VOCAB_SIZE)
                    .unwrap();
                let (logprobs, experts) = trainers_view(&model, &rollout, invariant);
                assert_eq!(
                    rollout.behaviour_logprobs.len(),
                    rollout.completion_ids.len()
                );
                if invariant {
                    assert_eq!(rollout.behaviour_logprobs, logprobs, "{key:?} {config}");
                }
                // Outside the mode float32 rounds as the processor's kernels add, in parts of the
                // number: on one with AMX -2.56555 and -2.56556 were seen.
                for (a, b) in rollout.behaviour_logprobs.iter().zip(&logprobs) {
                    assert!(
                        (a - b).abs() <= 1e-5 * a.abs().max(1.0),
                        "{key:?}: {a} while sampling, {b} in the trainer, {config}"
                    );
                }
                let recorded: Vec<i64> = rollout
                    .experts
                    .iter()
                    .map(|expert| i64::from(*expert))
                    .collect();
                assert_eq!(recorded, experts, "{key:?} {config}");
                if config == DEEPSEEK_V3 {
                    assert_eq!(
                        recorded.len(),
                        (ids(&rollout).len() - 1) * DEEPSEEK_V3_EXPERTS_PER_TOKEN
                    );
                }
            }
        }
    }
}
