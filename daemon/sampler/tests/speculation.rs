//! Speculative decoding draws the same ids as plain decoding.

mod tiny;

use r1d_proto::hyperparameters::Sampling;
use r1d_sampler::SamplerError;
use tiny::*;

/// In the batch-invariant mode ids, log-probabilities and experts are the same to the last bit.
#[test]
fn drafts_change_nothing_that_is_recorded() {
    let model = model(DEEPSEEK_V3_MTP);
    let mut request = request(6, 4);
    for (top_k, top_p, temperature) in [(0, 1.0, 0.9), (3, 0.9, 0.5), (0, 1.0, 0.0)] {
        for max_completion_length in [1, 2, 13, 14] {
            request.sampling = Sampling {
                top_k,
                top_p,
                temperature,
                max_completion_length,
                ..sampling()
            };
            let expected = generate(&mut sampler(&model, 5, true), &model, &request);
            for slots in [1, 5, 16, 24] {
                let mut drafting = sampler(&model, slots, true).with_speculation(true);
                let rollouts = generate(&mut drafting, &model, &request);
                assert_eq!(
                    rollouts, expected,
                    "{slots} slots, temperature {temperature}, {max_completion_length} tokens"
                );
            }
        }
    }
}

/// Prompt and completion fill the slot, so the last draft takes the slot's last place.
#[test]
fn a_completion_may_fill_its_slot() {
    let model = model(DEEPSEEK_V3_MTP);
    let mut request = request(2, 3);
    let longest = request
        .groups
        .iter()
        .map(|group| group.prompt_ids.len() as u32)
        .max()
        .unwrap();
    request.sampling = Sampling {
        max_completion_length: CAPACITY - longest,
        stop_ids: vec![],
        ..sampling()
    };
    let plain = generate(&mut sampler(&model, 6, true), &model, &request);
    assert_eq!(
        generate(
            &mut sampler(&model, 6, true).with_speculation(true),
            &model,
            &request
        ),
        plain
    );
}

#[test]
fn outside_the_mode_ids_are_the_same_and_some_drafts_are_accepted() {
    let model = model(DEEPSEEK_V3_MTP);
    let request = request(6, 4);
    let plain = try_generate(&mut sampler(&model, 5, false), &model, &request).unwrap();
    let drafting = try_generate(
        &mut sampler(&model, 5, false).with_speculation(true),
        &model,
        &request,
    )
    .unwrap();
    for (key, rollout) in &drafting.0 {
        let expected = &plain.0[key];
        assert_eq!(
            (&rollout.completion_ids, &rollout.experts),
            (&expected.completion_ids, &expected.experts),
            "{key:?}"
        );
        for (logprob, expected) in rollout
            .behaviour_logprobs
            .iter()
            .zip(&expected.behaviour_logprobs)
        {
            assert!((logprob - expected).abs() < 1e-5, "{key:?}");
        }
    }
    let rate = drafting.1["perf/draft_acceptance_rate"];
    assert!(
        rate > 0.0 && rate < 0.9,
        "a random module guesses right now and then, not {rate} of the time"
    );
    assert!(!plain.1.contains_key("perf/draft_acceptance_rate"));
}

#[test]
fn a_model_without_the_module_is_refused() {
    let model = model(DEEPSEEK_V3);
    let refused = try_generate(
        &mut sampler(&model, 2, false).with_speculation(true),
        &model,
        &request(1, 1),
    )
    .unwrap_err();
    assert!(
        matches!(refused, SamplerError::NoPredictionModule),
        "{refused}"
    );
}

/// With a head of zeros policy and module agree everywhere, and both draw with the same uniform.
#[test]
fn a_module_that_agrees_is_always_accepted() {
    let model = model(DEEPSEEK_V3_MTP);
    let (_, head) = model
        .parameters()
        .into_iter()
        .find(|(name, _)| name == "lm_head.weight")
        .unwrap();
    let _ = tch::no_grad(|| head.shallow_clone().zero_());
    for temperature in [0.0, 0.9] {
        let mut request = request(3, 4);
        request.sampling = Sampling {
            temperature,
            ..sampling()
        };
        let (rollouts, metrics) = try_generate(
            &mut sampler(&model, 5, false).with_speculation(true),
            &model,
            &request,
        )
        .unwrap();
        assert_eq!(
            metrics["perf/draft_acceptance_rate"], 1.0,
            "temperature {temperature}"
        );
        assert_eq!(
            rollouts,
            generate(&mut sampler(&model, 5, false), &model, &request)
        );
    }
}
