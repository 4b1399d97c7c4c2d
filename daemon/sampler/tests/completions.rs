//! Results of a request: ids, ends, distribution, errors.

mod tiny;

use r1d_model::{CausalLm, Forward, Packed};
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::rollout::FinishReason;
use r1d_proto::worker::{Generate, Group};
use r1d_sampler::SamplerError;
use tch::{Device, Kind, Tensor};
use tiny::*;

/// Probabilities of the next id after `ids`, float64.
fn next_probabilities(model: &CausalLm, ids: &[i64], temperature: f64) -> Vec<f64> {
    let batch = Packed::new(Tensor::from_slice(ids), vec![ids.len() as i64]);
    let hidden = tch::no_grad(|| model.forward(&batch, &Forward::default()))
        .unwrap()
        .hidden;
    let logits = tch::no_grad(|| {
        model.logits(
            &hidden.narrow(0, ids.len() as i64 - 1, 1),
            &Forward::default(),
        )
    })
    .unwrap();
    (logits.to_kind(Kind::Double) / temperature)
        .softmax(-1, Kind::Double)
        .view([-1])
        .try_into()
        .unwrap()
}

#[test]
fn greedy_is_the_likeliest_id_at_every_step() {
    for config in BOTH {
        let model = model(config);
        let mut request = request(3, 1);
        request.sampling = Sampling {
            temperature: 0.0,
            stop_ids: vec![],
            ..sampling()
        };
        for rollout in generate(&mut sampler(&model, 2, false), &model, &request).values() {
            let ids = ids(rollout);
            for end in rollout.prompt_ids.len()..ids.len() {
                let probabilities = next_probabilities(&model, &ids[..end], 1.0);
                let best = (0..probabilities.len())
                    .max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]))
                    .unwrap();
                assert_eq!(ids[end], best as i64);
                let recorded =
                    f64::from(rollout.behaviour_logprobs[end - rollout.prompt_ids.len()]);
                assert!(
                    (recorded - probabilities[best].ln()).abs() < 1e-5,
                    "greedy records the log-probability at temperature 1"
                );
            }
        }
    }
}

#[test]
fn completions_end_at_a_stop_id_or_at_the_limit() {
    let model = model(QWEN2);
    let request = request(8, 6);
    let rollouts = generate(&mut sampler(&model, 7, false), &model, &request);
    let (mut stopped, mut cut) = (0, 0);
    for rollout in rollouts.values() {
        let (last, before) = rollout.completion_ids.split_last().unwrap();
        assert!(
            before
                .iter()
                .all(|id| !request.sampling.stop_ids.contains(id)),
            "nothing comes after a stop id"
        );
        match rollout.finish {
            FinishReason::Stop => assert!(request.sampling.stop_ids.contains(last)),
            FinishReason::Length => {
                assert_eq!(rollout.completion_ids.len(), 14);
                assert!(!request.sampling.stop_ids.contains(last));
            }
        }
        stopped += usize::from(rollout.finish == FinishReason::Stop);
        cut += usize::from(rollout.finish == FinishReason::Length);
        let group = &request.groups[rollout.key.prompt as usize];
        assert_eq!(
            (
                rollout.key.stage,
                rollout.key.step,
                rollout.policy_version,
                rollout.row
            ),
            (1, 5, 9, group.row)
        );
        assert_eq!(rollout.prompt_ids, group.prompt_ids);
    }
    assert!(
        stopped > 0 && cut > 0,
        "{stopped} stopped, {cut} cut: the test should see both"
    );
}

#[test]
fn completions_of_one_token_and_requests_of_none() {
    let model = model(DEEPSEEK_V3);
    let mut sampler = sampler(&model, 2, false);
    let mut one = request(3, 3);
    one.sampling.max_completion_length = 1;
    let rollouts = generate(&mut sampler, &model, &one);
    assert_eq!(rollouts.len(), 9);
    for rollout in rollouts.values() {
        assert_eq!(rollout.completion_ids.len(), 1);
        assert_eq!(
            rollout.experts.len(),
            rollout.prompt_ids.len() * DEEPSEEK_V3_EXPERTS_PER_TOKEN
        );
    }
    assert!(generate(&mut sampler, &model, &request(0, 0)).is_empty());
    assert!(generate(&mut sampler, &model, &request(2, 0)).is_empty());
}

#[test]
fn another_seed_step_or_stage_draws_other_completions() {
    let model = model(QWEN2);
    let mut sampler = sampler(&model, 6, true);
    let request = request(2, 3);
    let base = generate(&mut sampler, &model, &request);
    let changes: [fn(&mut Generate); 3] =
        [|r| r.sampling.seed += 1, |r| r.step += 1, |r| r.stage += 1];
    for change in changes {
        let mut changed = request.clone();
        change(&mut changed);
        let other = generate(&mut sampler, &model, &changed);
        assert!(
            base.iter()
                .any(|(key, rollout)| rollout.completion_ids != other[key].completion_ids)
        );
    }
    assert_ne!(
        base[&(0, 0)].completion_ids,
        base[&(0, 1)].completion_ids,
        "samples of a group differ"
    );
}

/// A vocabulary of 16 ids, which is small enough to count.
fn small_vocabulary() -> String {
    QWEN2.replace("\"vocab_size\": 96", "\"vocab_size\": 16")
}

/// Checks that Pearson's chi-square of `counts` against `probabilities` is at most 4 standard
/// deviations above its mean, and that ids without probability do not occur.
fn assert_distributed(counts: &[u64], probabilities: &[f64], what: &str) {
    let n: u64 = counts.iter().sum();
    let (mut chi_square, mut freedom) = (0.0f64, -1.0f64);
    for (id, (count, probability)) in counts.iter().zip(probabilities).enumerate() {
        let expected = probability * n as f64;
        if *probability == 0.0 {
            assert_eq!(
                *count, 0,
                "{what}: id {id} was drawn but has no probability"
            );
        } else {
            chi_square += (*count as f64 - expected).powi(2) / expected;
            freedom += 1.0;
        }
    }
    assert!(
        chi_square < freedom + 4.0 * (2.0 * freedom).sqrt(),
        "{what}: chi-square {chi_square} with {freedom} degrees of freedom"
    );
}

/// The model's distribution after temperature, top-k and top-p, computed from their definitions.
fn filtered(model: &CausalLm, ids: &[i64], sampling: &Sampling) -> Vec<f64> {
    let mut probabilities = next_probabilities(model, ids, sampling.temperature.into());
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    let mass: f64 = order.iter().map(|id| probabilities[*id]).sum();
    let mut reached = 0.0;
    order.retain(|id| {
        let inside = reached < f64::from(sampling.top_p) * mass;
        reached += probabilities[*id];
        inside
    });
    let mass: f64 = order.iter().map(|id| probabilities[*id]).sum();
    for (id, probability) in probabilities.iter_mut().enumerate() {
        *probability = if order.contains(&id) {
            *probability / mass
        } else {
            0.0
        };
    }
    probabilities
}

/// Keep Sampling Mask: a record's sets follow the definition, and its log-probabilities are over
/// these sets. Without it, the same ids are drawn and the log-probabilities are over the whole
/// vocabulary.
#[test]
fn records_are_of_the_distribution_that_ids_were_drawn_from() {
    let model = model(QWEN2);
    for (temperature, top_k, top_p) in
        [(0.9, 0, 0.8), (1.3, 9, 1.0), (1.0, 30, 0.95), (0.9, 0, 1.0)]
    {
        let mut request = request(4, 3);
        request.sampling = Sampling {
            temperature,
            top_k,
            top_p,
            ..sampling()
        };
        let records = generate(&mut sampler(&model, 5, false), &model, &request);
        request.sampling.keep_sampling_mask = false;
        let plain = generate(&mut sampler(&model, 5, false), &model, &request);
        for (key, rollout) in &records {
            let whole = &plain[key];
            assert!(
                whole.kept_ids.is_empty() && rollout.completion_ids == whole.completion_ids,
                "{key:?}"
            );
            let all = ids(rollout);
            let mut sets = rollout.kept_ids.tokens();
            for (place, (recorded, of_all)) in rollout
                .behaviour_logprobs
                .iter()
                .zip(&whole.behaviour_logprobs)
                .enumerate()
            {
                let at = rollout.prompt_ids.len() + place;
                let expected = filtered(&model, &all[..at], &request.sampling);
                let near = |logprob: f32, probability: f64| {
                    (f64::from(logprob) - probability.ln()).abs() < 1e-5
                };
                assert!(
                    near(*recorded, expected[all[at] as usize]),
                    "{key:?} {place}: {recorded}"
                );
                assert!(
                    near(
                        *of_all,
                        next_probabilities(&model, &all[..at], temperature.into())
                            [all[at] as usize]
                    ),
                    "{key:?} {place}"
                );
                let mut kept = vec![sets.next().is_none_or(|set| set.is_whole()); expected.len()];
                let set = rollout.kept_ids.tokens().nth(place);
                set.iter()
                    .flat_map(|set| set.runs())
                    .for_each(|run| kept[run.start as usize..run.end as usize].fill(true));
                let left: Vec<bool> = expected
                    .iter()
                    .map(|probability| *probability > 0.0)
                    .collect();
                assert_eq!(kept, left, "{key:?} {place}");
            }
        }
        let cut = records.values().any(|rollout| !rollout.kept_ids.is_empty());
        assert_eq!(cut, top_k > 0 || top_p < 1.0);
    }
}

#[test]
fn frequencies_follow_the_distribution_at_the_first_and_at_a_decoded_token() {
    let model = model(&small_vocabulary());
    let prompt_ids = vec![7u32, 2, 11];
    let samples = 20_000;
    for (temperature, top_k, top_p) in [
        (1.0, 0, 1.0),
        (0.5, 0, 1.0),
        (2.0, 6, 1.0),
        (1.0, 0, 0.7),
        (1.3, 9, 0.8),
    ] {
        let sampling = Sampling {
            temperature,
            top_k,
            top_p,
            keep_sampling_mask: false,
            max_completion_length: 2,
            stop_ids: vec![],
            seed: 3,
        };
        let groups = vec![Group {
            prompt: 0,
            row: 0,
            prompt_ids: prompt_ids.clone(),
            samples: (0..samples).collect(),
        }];
        let request = Generate {
            stage: 0,
            step: 0,
            policy_version: 0,
            sampling: sampling.clone(),
            record_experts: false,
            groups,
        };
        let rollouts = generate(&mut sampler(&model, 500, false), &model, &request);
        let mut first = vec![0u64; 16];
        let mut second = vec![vec![0u64; 16]; 16];
        for rollout in rollouts.values() {
            let [a, b] = rollout.completion_ids[..] else {
                panic!("two ids expected")
            };
            first[a as usize] += 1;
            second[a as usize][b as usize] += 1;
        }
        let what = format!("temperature {temperature}, top_k {top_k}, top_p {top_p}");
        let mut ids: Vec<i64> = prompt_ids.iter().map(|id| i64::from(*id)).collect();
        assert_distributed(
            &first,
            &filtered(&model, &ids, &sampling),
            &format!("{what}, first id"),
        );
        let usual = (0..16).max_by_key(|id| first[*id]).unwrap();
        ids.push(usual as i64);
        assert_distributed(
            &second[usual],
            &filtered(&model, &ids, &sampling),
            &format!("{what}, id after {usual}"),
        );
    }
}

#[test]
fn weights_that_diverged_are_named_and_the_sampler_lives_on() {
    let model = model(QWEN2);
    let mut sampler = sampler(&model, 2, false);
    let request = request(2, 2);
    let sound = generate(&mut sampler, &model, &request);
    let broken = model.deep_copy().unwrap();
    for (_, mut parameter) in broken.parameters() {
        let _ = tch::no_grad(|| parameter.fill_(f64::NAN));
    }
    let error = try_generate(&mut sampler, &broken, &request).unwrap_err();
    assert!(
        matches!(error, SamplerError::NotFinite { position: 0, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("prompt 0, sample 0 of step 5"),
        "{error}"
    );
    assert_eq!(generate(&mut sampler, &model, &request), sound);
}

/// Tests a way of the GPU that float64 has on the CPU too: keys that a query does not see are
/// multiplied by 0.
#[test]
fn what_is_not_finite_does_not_stay_in_the_cache() {
    let model = CausalLm::init(QWEN2, 11, Device::Cpu, Kind::Double).unwrap();
    let mut sampler = sampler(&model, 4, false);
    let request = request(2, 2);
    let sound = generate(&mut sampler, &model, &request);
    let broken = model.deep_copy().unwrap();
    for (_, mut parameter) in broken.parameters() {
        let _ = tch::no_grad(|| parameter.fill_(f64::NAN));
    }
    // This request is longer than the next, which does not overwrite all of it.
    let mut long = request.clone();
    long.groups
        .iter_mut()
        .for_each(|group| group.prompt_ids = vec![1; 40]);
    try_generate(&mut sampler, &broken, &long).unwrap_err();
    assert_eq!(generate(&mut sampler, &model, &request), sound);
}

#[test]
fn experts_are_recorded_where_they_are_asked_for() {
    let model = model(DEEPSEEK_V3);
    let mut request = request(3, 2);
    let recorded = generate(&mut sampler(&model, 4, false), &model, &request);
    assert!(recorded.values().all(|rollout| !rollout.experts.is_empty()));
    request.record_experts = false;
    let bare = generate(&mut sampler(&model, 4, false), &model, &request);
    assert!(bare.values().all(|rollout| rollout.experts.is_empty()));
    assert!(
        bare.values()
            .zip(recorded.values())
            .all(|(bare, recorded)| bare.completion_ids == recorded.completion_ids)
    );
}

/// The memory that a training step needs serves an evaluation of any length, with fewer completions
/// at a time.
#[test]
fn one_cache_serves_short_and_long_requests() {
    let model = model(QWEN2);
    let mut one = sampler(&model, 3, false);
    for length in [14, 100, 8, 180] {
        let mut request = request(3, 2);
        request.sampling.max_completion_length = length;
        request.sampling.stop_ids.clear();
        let (rollouts, metrics) = try_generate(&mut one, &model, &request).unwrap();
        assert!(
            rollouts
                .values()
                .all(|rollout| rollout.completion_ids.len() == length as usize)
        );
        let slots = if length < 48 { 3.0 } else { 1.0 };
        assert!(
            metrics["perf/sampling_rows"] <= slots,
            "{length}: {}",
            metrics["perf/sampling_rows"]
        );
        let fresh = generate(&mut sampler(&model, 3, false), &model, &request);
        assert_eq!(
            rollouts, fresh,
            "{length}: nothing of an earlier request is left"
        );
    }
}

#[test]
fn a_prompt_that_does_not_fit_a_slot_is_refused_before_anything_is_sampled() {
    let model = model(QWEN2);
    let mut request = request(2, 2);
    request.groups[1].prompt_ids = vec![1; 115];
    let error = try_generate(&mut sampler(&model, 2, false), &model, &request)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("prompt 1 of step 5 (row 101) has 115 tokens and may grow by 14"),
        "{error}"
    );
    assert!(error.contains("the whole cache holds 128"), "{error}");
}

#[test]
fn a_slot_is_usable_to_its_last_token() {
    let model = model(QWEN2);
    let mut request = request(1, 2);
    request.groups[0].prompt_ids = vec![1; 8];
    request.sampling.max_completion_length = CAPACITY - 8;
    request.sampling.stop_ids.clear();
    let rollouts = generate(&mut sampler(&model, 2, false), &model, &request);
    assert!(
        rollouts
            .values()
            .all(|rollout| rollout.completion_ids.len() == CAPACITY as usize - 8)
    );
}

#[test]
fn progress_never_goes_back_and_ends_complete() {
    let model = model(QWEN2);
    let mut seen = vec![];
    let mut tokens = 0;
    let metrics = sampler(&model, 3, false)
        .generate(
            &model,
            &request(4, 2),
            &mut |rollout| tokens += rollout.completion_ids.len() as u64,
            &mut |done, total| seen.push((done, total)),
        )
        .unwrap();
    assert_eq!(seen.last(), Some(&(tokens, tokens)));
    assert!(
        seen.windows(2)
            .all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 >= pair[1].1)
    );
    assert!(seen.iter().all(|(done, total)| done <= total));
    for name in [
        "timing_s/sampling",
        "perf/sampling_throughput",
        "perf/sampling_rows",
    ] {
        assert!(metrics[name] > 0.0, "{name}");
    }
}
