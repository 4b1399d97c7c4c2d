//! Which kernels a model needs, and these.

use r1d_kernels::{
    Attention, AttentionSizes, DecodeKernels, ExpertSizes, Experts, Fp8Kernels, Gpu, KernelError,
    LatentAttention, LatentSizes, Routing, Scores,
};
use r1d_model::{
    AttentionSizes as ModelAttention, CausalLm, ExpertParts, FeedForwardParts, LayerParts,
    ModelParts, RouterRule, Scoring,
};
use tch::Kind;

/// All that the kernels' text depends on.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Shape {
    pub kind: Kind,
    pub attention: AttentionShape,
    pub experts: Option<(ExpertSizes, Routing)>,
    /// Whether layers multiply in FP8.
    pub fp8: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum AttentionShape {
    Grouped(AttentionSizes),
    /// The sizes, and the factor of the scores.
    Latent(LatentSizes, f32),
}

/// The kernels, compiled.
pub(super) struct Kernels {
    pub decode: DecodeKernels,
    pub attention: AttentionKernels,
    pub experts: Option<Experts>,
    pub fp8: Option<Fp8Kernels>,
}

pub(super) enum AttentionKernels {
    Grouped(Attention),
    Latent(LatentAttention),
}

impl AttentionShape {
    /// Kinds of numbers that the cache has of a token: keys and values, or latents.
    pub(super) fn kinds(&self) -> i64 {
        match self {
            AttentionShape::Grouped(_) => 2,
            AttentionShape::Latent(..) => 1,
        }
    }
}

impl Shape {
    /// What this model needs; an error if there are no such kernels.
    pub(super) fn of(model: &CausalLm, parts: &ModelParts) -> Result<Shape, KernelError> {
        let attention = match parts.attention {
            ModelAttention::Grouped(sizes) => AttentionShape::Grouped(AttentionSizes {
                heads: sizes.heads,
                key_heads: sizes.key_value_heads,
                head_dim: sizes.head_dim,
            }),
            ModelAttention::Latent(sizes) => {
                let scale = sizes.softmax_scale() as f32;
                let sizes = LatentSizes {
                    heads: sizes.heads,
                    latent: sizes.kv_lora_rank,
                    nope: sizes.qk_nope_head_dim,
                    rope: sizes.qk_rope_head_dim,
                    value: sizes.v_head_dim,
                };
                AttentionShape::Latent(sizes, scale)
            }
        };
        let shape = Shape {
            kind: model.kind(),
            attention,
            experts: experts_of(parts)?,
            fp8: rounded(parts).next().is_some(),
        };
        let (vocab, hidden) = parts.lm_head.size2()?;
        let widths = [hidden, dense_width(parts)?];
        let attention_is_known = match attention {
            AttentionShape::Grouped(sizes) => sizes.are_known(),
            AttentionShape::Latent(sizes, _) => sizes.are_known(),
        };
        let experts_are_known = shape
            .experts
            .is_none_or(|(sizes, routing)| sizes.are_known(&routing));
        let fp8_is_known = rounded(parts).all(|(outer, inner)| Fp8Kernels::takes(outer, inner));
        if DecodeKernels::takes(shape.kind, &widths, vocab)
            && attention_is_known
            && experts_are_known
            && fp8_is_known
        {
            return Ok(shape);
        }
        Err(KernelError::Model {
            what: "these sizes of heads and layers",
        })
    }
}

impl Kernels {
    pub(super) fn compile(gpu: &Gpu, shape: &Shape) -> Result<Kernels, KernelError> {
        let kind = shape.kind;
        Ok(Kernels {
            decode: DecodeKernels::compile(gpu, kind)?,
            attention: match shape.attention {
                AttentionShape::Grouped(sizes) => {
                    AttentionKernels::Grouped(Attention::compile(gpu, kind, sizes)?)
                }
                AttentionShape::Latent(sizes, _) => {
                    AttentionKernels::Latent(LatentAttention::compile(gpu, kind, sizes)?)
                }
            },
            experts: match shape.experts {
                Some((sizes, routing)) => Some(Experts::compile(gpu, kind, sizes, routing)?),
                None => None,
            },
            fp8: shape.fp8.then(|| Fp8Kernels::compile(gpu)).transpose()?,
        })
    }
}

/// The sizes of the matrices that are multiplied in FP8, `[outer, inner]`.
fn rounded(parts: &ModelParts) -> impl Iterator<Item = (i64, i64)> {
    let matrices = parts.layers.iter().flat_map(LayerParts::matrices);
    let rounded = matrices.filter_map(|matrix| parts.rounded.get(matrix));
    rounded.filter_map(|rounded| rounded.values.size2().ok())
}

/// The width of the widest dense network; all of them must be whole pieces.
pub(super) fn dense_width(parts: &ModelParts) -> Result<i64, KernelError> {
    let mut widest = 8;
    for layer in &parts.layers {
        let dense = match &layer.feed_forward {
            FeedForwardParts::Dense(dense) => Some(dense),
            FeedForwardParts::Experts(experts) => experts.shared.as_ref(),
        };
        let width = dense.map_or(Ok(8), |dense| Ok::<_, KernelError>(dense.down.size2()?.1))?;
        if width % 8 != 0 {
            return Ok(width);
        }
        widest = widest.max(width);
    }
    Ok(widest)
}

/// Sizes and routing of the experts, which must be the same in every layer that has some.
fn experts_of(parts: &ModelParts) -> Result<Option<(ExpertSizes, Routing)>, KernelError> {
    let mut found = None;
    for layer in &parts.layers {
        let FeedForwardParts::Experts(experts) = &layer.feed_forward else {
            continue;
        };
        let these = sizes_of(experts)?;
        if *found.get_or_insert(these) != these {
            return Err(KernelError::Model {
                what: "layers with different experts",
            });
        }
    }
    Ok(found)
}

fn sizes_of(experts: &ExpertParts) -> Result<(ExpertSizes, Routing), KernelError> {
    let RouterRule {
        experts_per_token,
        scoring,
        groups,
        groups_per_token,
        best_of_group,
        normalise,
        scaling_factor,
        ..
    } = experts.rule;
    let (experts, hidden, intermediate) = experts.down.size3()?;
    let sizes = ExpertSizes {
        experts,
        per_token: experts_per_token,
        hidden,
        intermediate,
    };
    let routing = Routing {
        scores: match scoring {
            Scoring::Sigmoid => Scores::Sigmoid,
            Scoring::Softmax { wide: true } => Scores::Softmax,
            Scoring::Softmax { wide: false } => Scores::SoftmaxOfNarrow,
        },
        groups,
        groups_per_token,
        best_of_group,
        normalise,
        factor: scaling_factor as f32,
    };
    Ok((sizes, routing))
}
