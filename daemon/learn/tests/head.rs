//! Chunks of the output head give the same log-probabilities and gradients as all tokens at once.

mod tiny;

use r1d_learn::head::{Chunk, Distributions, Head, entropy_sum};
use r1d_learn::optimiser::Optimiser;
use r1d_model::{CausalLm, Forward, Packed};
use r1d_torch::foreach;
use tch::{Kind, Tensor};
use tiny::*;

const TOKENS: i64 = 23;

fn batch() -> (Packed, Tensor) {
    let own = |seed: u64| {
        Tensor::from_slice(
            &ids(seed, TOKENS as usize)
                .into_iter()
                .map(i64::from)
                .collect::<Vec<_>>(),
        )
    };
    (Packed::new(own(1), vec![9, TOKENS - 9]), own(2))
}

/// Gradients of a loss that ties all tokens together, or of one that does not, with another term
/// beside it.
fn gradients(model: &CausalLm, chunk: i64, whole: bool) -> (Vec<Tensor>, Vec<f32>) {
    let (packed, targets) = batch();
    let parameters: Vec<Tensor> = model
        .parameters()
        .into_iter()
        .map(|(_, tensor)| tensor)
        .collect();
    foreach::clear_gradients(&parameters).unwrap();
    let hidden = model.forward(&packed, &Forward::default()).unwrap().hidden;
    let weights = Tensor::linspace(-1.0, 1.0, TOKENS, tch::kind::FLOAT_CPU);
    let mut seen = vec![0f32; TOKENS as usize];
    let mut loss = |logp: &Tensor, start: i64| {
        let sum = (logp * weights.narrow(0, start, logp.size()[0])).sum(Kind::Float);
        Ok(if whole { (sum / 10.0).exp() } else { sum })
    };
    let mut observe = |part: Chunk| {
        let values = Vec::<f32>::try_from(part.logp).unwrap();
        seen[part.start as usize..part.start as usize + values.len()].copy_from_slice(&values);
        assert_eq!(part.likeliest()?.size(), [values.len() as i64]);
        Ok(())
    };
    let extra = (&hidden * &hidden).sum(Kind::Float) * 0.01;
    let head = Head::new(model, 0.8, false).in_chunks(chunk);
    head.backward(
        &hidden,
        &targets,
        Some(extra),
        whole,
        &mut loss,
        &mut observe,
        &mut || Ok(()),
    )
    .unwrap();
    let alone = Vec::<f32>::try_from(head.logprobs(&hidden, &targets).unwrap()).unwrap();
    assert!(
        alone.iter().zip(&seen).all(|(a, b)| (a - b).abs() < 1e-6),
        "{alone:?} {seen:?}"
    );
    (parameters.iter().map(|p| p.grad().copy()).collect(), seen)
}

#[test]
fn gradients_do_not_depend_on_the_chunk() {
    let model = qwen2(Kind::Float);
    model.set_requires_grad(true);
    for whole in [false, true] {
        let (expected, logp) = gradients(&model, 1 << 20, whole);
        for chunk in [1, 5, 22, 23] {
            let (got, chunked) = gradients(&model, chunk, whole);
            assert!(logp.iter().zip(&chunked).all(|(a, b)| (a - b).abs() < 1e-6));
            for (x, y) in expected.iter().zip(&got) {
                let scale = f64::try_from(x.abs().max().to_kind(Kind::Double)).unwrap();
                let difference = f64::try_from((x - y).abs().max().to_kind(Kind::Double)).unwrap();
                assert!(
                    scale > 0.0 && difference <= 1e-5 * scale,
                    "chunk {chunk}, whole {whole}: {difference} of {scale}"
                );
            }
        }
    }
}

/// A head's gradient is a sum over chunks, which bfloat16 would round once for each.
#[test]
fn the_heads_gradient_does_not_lose_bits_with_each_chunk() {
    let (model, exact) = (qwen2(Kind::BFloat16), qwen2(Kind::BFloat16));
    let (packed, targets) = batch();
    let weights = Tensor::linspace(0.5, 1.0, TOKENS, tch::kind::FLOAT_CPU);
    let gradient = |model: &CausalLm, chunk: i64| {
        model.set_requires_grad(true);
        let mut optimiser = Optimiser::new(model.parameters(), &optimiser(1e-3)).unwrap();
        let hidden = model.forward(&packed, &Forward::default()).unwrap().hidden;
        let mut loss = |logp: &Tensor, start: i64| {
            Ok((logp * weights.narrow(0, start, logp.size()[0])).sum(Kind::Float))
        };
        let head = Head::new(model, 1.0, false).in_chunks(chunk);
        let mut take = || optimiser.accumulate();
        head.backward(
            &hidden.detach(),
            &targets,
            None,
            false,
            &mut loss,
            &mut |_| Ok(()),
            &mut take,
        )
        .unwrap();
        optimiser.gradient_norm().unwrap().double_value(&[])
    };
    let at_once = gradient(&exact, 1 << 20);
    let difference = (gradient(&model, 1) / at_once - 1.0).abs();
    assert!(difference < 1e-3, "{difference:e}");
}

#[test]
fn entropy_is_that_of_the_tempered_softmax() {
    let logits = Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.0, 0.0, 0.0]).view([2, 3]);
    let targets = Tensor::from_slice(&[2i64, 1]);
    for temperature in [1.0, 0.7] {
        let p = (logits.to_kind(Kind::Double) / temperature).softmax(-1, Kind::Double);
        let expected = f64::try_from(-(&p * p.log()).sum(Kind::Double)).unwrap();
        let logp = r1d_model::token_logprobs(&logits, &targets, temperature).unwrap();
        let chunk = Chunk {
            start: 0,
            logp: &logp,
            distributions: Distributions::Logits {
                logits: &logits,
                kept: None,
            },
        };
        let got = f64::try_from(entropy_sum(&chunk, &targets, temperature).unwrap()).unwrap();
        assert!((got - expected).abs() < 1e-6, "{got} {expected}");
    }
}

/// The number of progress reports during `work`.
fn words<T>(work: impl FnOnce() -> T) -> usize {
    let heard = std::rc::Rc::new(std::cell::Cell::new(0));
    let counted = heard.clone();
    r1d_torch::work::heard_by(move |_| counted.set(counted.get() + 1), work);
    heard.get()
}

#[test]
fn chunks_are_heard_of_one_by_one() {
    let model = qwen2(Kind::Float);
    model.set_requires_grad(true);
    let (packed, targets) = batch();
    let hidden = model
        .forward(&packed, &Forward::default())
        .unwrap()
        .hidden
        .detach();
    let head = Head::new(&model, 1.0, false).in_chunks(4);
    let chunks = TOKENS.div_euclid(4) as usize + 1;
    // Reports come from a chunk's product and its end, and with gradients from the product's part
    // in the backward pass.
    assert_eq!(
        words(|| head.logprobs(&hidden, &targets).unwrap()),
        2 * chunks
    );
    let mut loss = |logp: &Tensor, _| Ok(logp.sum(Kind::Float));
    let (mut observe, mut take) = (|_: Chunk| Ok(()), || Ok(()));
    assert_eq!(
        words(|| head
            .backward(
                &hidden,
                &targets,
                None,
                false,
                &mut loss,
                &mut observe,
                &mut take
            )
            .unwrap()),
        3 * chunks
    );
    assert_eq!(
        words(|| head
            .backward(
                &hidden,
                &targets,
                None,
                true,
                &mut loss,
                &mut observe,
                &mut take
            )
            .unwrap()),
        5 * chunks,
        "a loss of the whole goes through them twice"
    );
}

#[test]
fn a_pass_is_heard_of_product_by_product() {
    let model = qwen2(Kind::Float);
    model.set_requires_grad(true);
    let layers = model.config.num_hidden_layers as usize;
    let (packed, _) = batch();
    let forward = || {
        model
            .forward(&packed, &Forward::default())
            .unwrap()
            .hidden
            .sum(Kind::Float)
    };
    let mut loss = Tensor::new();
    // The products of a layer: queries, keys and values in one, attention's output, gate and up in
    // one, down.
    let products = 4 * layers;
    assert!(words(|| loss = forward()) >= products);
    assert_eq!(
        words(|| r1d_torch::runtime::backward(&loss).unwrap()),
        products
    );
}
