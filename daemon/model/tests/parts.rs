//! [`r1d_model::ModelParts`] are what they say: a decoding step that is written out with them, as
//! an engine with kernels of its own does it, gives what the model's own step gives.

mod fixture;

use fixture::load;
use r1d_model::{
    AttentionParts, AttentionSizes, CausalLm, DenseParts, ExpertParts, FeedForwardParts, Forward,
    LatentParts, LoraSpec, MergedWeights, ModelParts, Norm, Packed, Places, RoundedWeights,
    Scoring,
};
use tch::{Device, Kind, Tensor};

const PROMPT: [i64; 6] = [3, 50, 7, 90, 11, 2];

fn normed(x: &Tensor, (weight, epsilon): Norm) -> Tensor {
    x.rms_norm([weight.size()[0]], Some(weight), f64::from(epsilon))
}

fn dense(x: &Tensor, parts: &DenseParts) -> Tensor {
    let halves = x.linear::<&Tensor>(parts.gate_up, None).chunk(2, -1);
    (halves[0].silu() * &halves[1]).linear::<&Tensor>(parts.down, None)
}

/// The mixture for one token `[1, D]`, expert by expert.
fn experts(x: &Tensor, parts: &ExpertParts) -> Tensor {
    let rule = &parts.rule;
    let logits = x.linear::<&Tensor>(parts.router, None);
    let scores = match rule.scoring {
        Scoring::Sigmoid => logits.sigmoid(),
        Scoring::Softmax { .. } => logits.softmax(-1, logits.kind()),
    };
    let mut choice = match parts.correction_bias {
        Some(bias) => &scores + bias,
        None => scores.shallow_clone(),
    };
    if rule.groups_per_token < rule.groups {
        let grouped = choice.view([rule.groups, -1]);
        let best = grouped.topk(rule.best_of_group, -1, true, true).0;
        let best: Tensor = best.sum_dim_intlist(-1, false, None);
        let kept = best.topk(rule.groups_per_token, -1, true, true).1;
        let outside = best
            .ones_like()
            .index_fill(0, &kept, 0.0)
            .to_kind(Kind::Bool);
        choice = grouped
            .masked_fill(&outside.unsqueeze(-1), f64::NEG_INFINITY)
            .view([1, -1]);
    }
    let chosen = choice.topk(rule.experts_per_token, -1, true, true).1;
    let mut gates = scores.gather(1, &chosen, false);
    if rule.normalise {
        let total: Tensor = gates.sum_dim_intlist(-1, true, None);
        gates /= total + 1e-20;
    }
    gates *= rule.scaling_factor;
    let one = |slot: i64| {
        let expert = i64::try_from(chosen.get(0).get(slot)).unwrap();
        let (gate_up, down) = (parts.gate_up.get(expert), parts.down.get(expert));
        let of_expert = DenseParts {
            gate_up: &gate_up,
            down: &down,
        };
        dense(x, &of_expert) * gates.get(0).get(slot)
    };
    let shared = parts.shared.as_ref().map(|shared| dense(x, shared));
    (0..rule.experts_per_token)
        .map(one)
        .chain(shared)
        .reduce(|sum, one| sum + one)
        .unwrap()
}

/// Latent attention of one token `[1, D]` up to the output projection, in the absorbed form, with
/// the latents of earlier tokens `[tokens, r + dr]`.
fn latent(x: &Tensor, parts: &LatentParts, model: &ModelParts, earlier: &Tensor) -> Tensor {
    let AttentionSizes::Latent(sizes) = model.attention else {
        panic!("other attention")
    };
    let (heads, r, dr) = (sizes.heads, sizes.kv_lora_rank, sizes.qk_rope_head_dim);
    let (dn, dv) = (sizes.qk_nope_head_dim, sizes.v_head_dim);
    let product = x.linear::<&Tensor>(parts.a_proj, None);
    let before = product.size()[1] - r - dr;
    let part = |start: i64, width: i64| product.narrow(1, start, width);
    let query = match &parts.query {
        Some(query) => normed(&part(0, before), query.norm).linear::<&Tensor>(query.b_proj, None),
        None => part(0, before),
    };
    let query = query.view([heads, dn + dr]);
    let position = earlier.size()[0];
    let table = model.rotations.get(position).to_kind(x.kind());
    let rotated = |x: &Tensor| x * table.get(0) + x.roll(dr / 2, -1) * table.get(1);
    let token = [
        normed(&part(before, r), parts.latent_norm),
        rotated(&part(before + r, dr)),
    ];
    let cache = Tensor::cat(&[earlier, &Tensor::cat(&token, 1)], 0);
    let kv_b = parts.kv_b_proj.view([heads, dn + dv, r]);
    let absorbed = query
        .narrow(1, 0, dn)
        .unsqueeze(1)
        .bmm(&kv_b.narrow(1, 0, dn))
        .squeeze_dim(1);
    let query = Tensor::cat(&[absorbed, rotated(&query.narrow(1, dn, dr))], 1);
    let scores = query.matmul(&cache.tr()) * sizes.softmax_scale();
    let weighed = scores.softmax(-1, x.kind()).matmul(&cache.narrow(1, 0, r));
    let values = kv_b.narrow(1, dn, dv).transpose(1, 2);
    weighed.unsqueeze(1).bmm(&values).view([1, heads * dv])
}

/// Gives the model adapters of all its layers, experts too, whose B is of this size.
fn adapt(model: &mut CausalLm, size: f64) {
    let targets = ["all-linear", "gate_proj", "up_proj", "down_proj"];
    let spec = LoraSpec {
        r: 4,
        lora_alpha: 10.0,
        target_modules: targets.map(str::to_owned).to_vec(),
    };
    model.adapt(&spec, 5).unwrap();
    for (index, (name, tensor)) in (0..).zip(model.parameters()) {
        let size = if name.contains("lora_A") { 0.1 } else { size };
        let places = Tensor::arange(tensor.numel() as i64, (Kind::Double, Device::Cpu));
        let values = (places * 0.37 + f64::from(index)).sin() * size;
        tch::no_grad(|| tensor.shallow_clone().copy_(&values.view_as(&tensor)));
    }
}

fn merge(model: &CausalLm) -> MergedWeights {
    let mut merged = MergedWeights::default();
    model.merge(&mut merged).unwrap();
    merged
}

#[test]
fn a_step_that_is_written_out_is_the_models() {
    let not_rounded = RoundedWeights::default();
    let names = ["deepseek-v3-plain", "deepseek-v3-yarn", "deepseek-v2"];
    for (name, adapted) in names
        .into_iter()
        .flat_map(|name| [(name, false), (name, true)])
    {
        let mut model = load(name, Kind::Double);
        if adapted {
            adapt(&mut model, 0.2);
            let none = MergedWeights::default();
            assert!(
                model.parts(32, &none, &not_rounded).unwrap().is_none(),
                "not without adapters"
            );
        }
        let merged = merge(&model);
        let _guard = tch::no_grad_guard();
        let mut cache = model.cache(1, 32, false).unwrap();
        let (prompt, last) = PROMPT.split_at(PROMPT.len() - 1);
        let batch = Packed::new(Tensor::from_slice(prompt), vec![prompt.len() as i64]);
        let options = Forward::default();
        model
            .prefill(&batch, &[vec![0]], &mut cache, &options)
            .unwrap();
        let parts = model.parts(32, &merged, &not_rounded).unwrap().unwrap();
        let earlier: Vec<Tensor> = (0..parts.layers.len())
            .map(|layer| {
                let held = cache.latents(layer).unwrap().get(0).get(0);
                held.narrow(0, 0, prompt.len() as i64).copy()
            })
            .collect();
        let places = Places {
            slots: &cache.select(&[0]).unwrap(),
            positions: &Tensor::from_slice(&[prompt.len() as i64]),
            max_position: prompt.len() as i64,
        };
        let ids = Tensor::from_slice(last);
        let output = model.decode(&ids, &places, &mut cache, &options).unwrap();
        let expected = model.logits(&output.hidden, &options).unwrap();

        let mut hidden = parts.embed_tokens.index_select(0, &ids);
        for (layer, earlier) in parts.layers.iter().zip(&earlier) {
            let AttentionParts::Latent(of_layer) = &layer.attention else {
                panic!("other attention")
            };
            let x = normed(&hidden, layer.input_norm);
            let attended = latent(&x, of_layer, &parts, earlier);
            hidden += attended.linear::<&Tensor>(layer.o_proj, None);
            let x = normed(&hidden, layer.post_attention_norm);
            hidden += match &layer.feed_forward {
                FeedForwardParts::Dense(parts) => dense(&x, parts),
                FeedForwardParts::Experts(parts) => experts(&x, parts),
            };
        }
        let logits = normed(&hidden, parts.norm).linear::<&Tensor>(parts.lm_head, None);
        let off = f64::try_from((&logits - &expected).norm() / expected.norm()).unwrap();
        assert!(off < 1e-6, "{name}: {off:e}");
    }
}

/// What an adapter adds is in the merged weights on average, although it is less than bfloat16
/// tells apart; and other adapters come into the same memory.
#[test]
fn a_young_adapter_is_not_rounded_away() {
    let dense = |parts: &ModelParts| -> Vec<Tensor> {
        let layers = parts.layers.iter();
        let of_layer = |layer: &r1d_model::LayerParts| match &layer.feed_forward {
            FeedForwardParts::Dense(dense) => {
                [dense.gate_up, dense.down].map(Tensor::shallow_clone)
            }
            FeedForwardParts::Experts(_) => panic!("experts"),
        };
        layers.flat_map(of_layer).collect()
    };
    let not_rounded = RoundedWeights::default();
    let weights = |kind: Kind, size: Option<f64>| {
        let mut model = load("qwen2", kind);
        if let Some(size) = size {
            adapt(&mut model, size);
        }
        let mut merged = merge(&model);
        let first = dense(&model.parts(32, &merged, &not_rounded).unwrap().unwrap());
        model.merge(&mut merged).unwrap();
        let again = dense(&model.parts(32, &merged, &not_rounded).unwrap().unwrap());
        let places = |all: &[Tensor]| all.iter().map(Tensor::data_ptr).collect::<Vec<_>>();
        assert_eq!(
            places(&first),
            places(&again),
            "a graph may keep the places"
        );
        let flat: Vec<Tensor> = again.iter().map(|one| one.reshape([-1])).collect();
        Tensor::cat(&flat, 0).to_kind(Kind::Double)
    };
    let size = Some(1e-3);
    let exact = weights(Kind::Double, size) - weights(Kind::Double, None);
    let found = weights(Kind::BFloat16, size) - weights(Kind::BFloat16, None);
    let moved = f64::try_from(found.ne(0.0).to_kind(Kind::Double).mean(Kind::Double)).unwrap();
    assert!(moved < 0.5, "most weights are as they were: {moved} moved");
    let share = f64::try_from(found.dot(&exact) / exact.dot(&exact)).unwrap();
    assert!(
        (share - 1.0).abs() < 0.1,
        "{share} of the adapters is there"
    );
}

/// A model in FP8 has parts once its weights are rounded, and what is not rounded has none.
#[test]
fn products_in_fp8_have_rounded_weights() {
    let mut model = load("qwen2", Kind::BFloat16);
    model.set_fp8(true);
    let (merged, mut rounded) = (MergedWeights::default(), RoundedWeights::default());
    assert!(model.parts(8, &merged, &rounded).unwrap().is_none());
    model.round(&mut rounded).unwrap();
    let parts = model.parts(8, &merged, &rounded).unwrap().unwrap();
    for matrix in parts
        .layers
        .iter()
        .flat_map(r1d_model::LayerParts::matrices)
    {
        assert_eq!(
            parts.rounded.get(matrix).is_some(),
            r1d_torch::fp8::takes(matrix)
        );
    }
    assert!(
        parts.rounded.get(parts.lm_head).is_none(),
        "the head stays wide"
    );
    for other in ["deepseek-v3-plain", "qwen3-moe"] {
        let mut model = load(other, Kind::BFloat16);
        model.set_fp8(true);
        let mut rounded = RoundedWeights::default();
        model.round(&mut rounded).unwrap();
        assert!(
            model.parts(8, &merged, &rounded).unwrap().is_none(),
            "{other}"
        );
    }
}
