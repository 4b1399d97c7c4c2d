//! The launches of one decoding step.

use super::buffers::{AttentionBuffers, Buffers, ExpertBuffers};
use super::kernels::{AttentionKernels, AttentionShape, Kernels, Shape};
use r1d_kernels::{
    CachePages, Choice, Compression, Cut, Draw, Experts, Gpu, KernelError, LatentAttention,
    LatentToken, PAGE_TOKENS, Rotation, Scratch,
};
use r1d_model::{
    AttentionParts, ExpertParts, FeedForwardParts, LatentParts, LayerParts, ModelParts, Norm,
};
use tch::Tensor;

type Result<T> = std::result::Result<T, KernelError>;

/// How a request draws, and what it records.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Drawing {
    /// Temperature of the distribution; 0 is greedy.
    pub temperature: f32,
    /// What top-k and top-p cut off; `None` if nothing.
    pub cut: Option<Cut>,
    /// Whether the sets of kept ids are recorded.
    pub keeps: bool,
    /// Whether experts are recorded.
    pub records_experts: bool,
}

/// A step of all rows of a graph: the tokens' way through the layers, and the draw.
pub(super) struct Step<'a> {
    pub gpu: &'a Gpu,
    pub kernels: &'a Kernels,
    pub shape: &'a Shape,
    pub parts: &'a ModelParts<'a>,
    /// Addresses of what the cache has of each layer, `[layers, 1 or 2]`.
    pub cache: &'a Tensor,
    pub buffers: &'a Buffers,
    pub drawing: Drawing,
}

impl Step<'_> {
    pub(super) fn launch(&self) -> Result<()> {
        let (buffers, parts) = (self.buffers, self.parts);
        let ids = (&buffers.last_id, &buffers.step);
        let decode = &self.kernels.decode;
        decode.embed(self.gpu, ids, parts.embed_tokens, &buffers.hidden)?;
        let mut expert_layer = 0;
        for (layer, at) in parts.layers.iter().zip(0..) {
            let cache = CachePages {
                memory: &self.cache.f_get(at)?,
                table: &buffers.page_table,
            };
            self.attention(layer, &cache)?;
            self.add_linear(&buffers.attended, layer.o_proj)?;
            let norm = layer.post_attention_norm;
            match &layer.feed_forward {
                FeedForwardParts::Dense(dense) => self.dense(norm, dense)?,
                FeedForwardParts::Experts(experts) => {
                    self.experts(norm, experts, expert_layer)?;
                    expert_layer += 1;
                }
            }
        }
        self.normed_linear(parts.norm, parts.lm_head, &buffers.logits)?;
        self.draw()
    }

    fn draw(&self) -> Result<()> {
        let (buffers, decode) = (self.buffers, &self.kernels.decode);
        let Drawing {
            temperature, cut, ..
        } = self.drawing;
        if let Some(cut) = cut {
            let (live, limits) = (&buffers.live, &buffers.limits);
            decode.threshold(self.gpu, &buffers.logits, live, cut, limits)?;
        }
        let draw = Draw {
            uniforms: &buffers.uniforms,
            step: &buffers.step,
            live: &buffers.live,
            last_id: &buffers.last_id,
            position: &buffers.position,
            ids: &buffers.ids,
            logprobs: &buffers.logprobs,
            temperature,
            limits: cut.map(|_| &buffers.limits),
            kept: (buffers.kept.numel() > 0).then_some(&buffers.kept),
        };
        decode.draw(self.gpu, &buffers.logits, &draw)
    }

    /// Attention of a layer up to its output projection.
    fn attention(&self, layer: &LayerParts, cache: &CachePages) -> Result<()> {
        let (buffers, norm) = (self.buffers, layer.input_norm);
        match (
            &self.kernels.attention,
            &layer.attention,
            &buffers.attention,
        ) {
            (
                AttentionKernels::Grouped(attention),
                AttentionParts::Grouped(parts),
                AttentionBuffers::Grouped { qkv, query },
            ) => {
                self.normed_linear(norm, parts.qkv_proj, qkv)?;
                let rotation = Rotation {
                    bias: parts.qkv_bias,
                    norms: parts
                        .head_norms
                        .map(|((query, epsilon), (key, _))| (query, key, epsilon)),
                    table: &self.parts.rotations,
                    position: &buffers.position,
                    live: &buffers.live,
                };
                let partial = &buffers.partial;
                let scratch = Scratch { query, partial };
                attention.run(self.gpu, qkv, &rotation, cache, &scratch, &buffers.attended)
            }
            (
                AttentionKernels::Latent(attention),
                AttentionParts::Latent(parts),
                AttentionBuffers::Latent { product, .. },
            ) => {
                self.normed_linear(norm, parts.a_proj, product)?;
                self.latent(attention, parts, cache)
            }
            _ => Err(KernelError::Model {
                what: "layers with different attention",
            }),
        }
    }

    /// Multi-head latent attention behind its first projection.
    fn latent(
        &self,
        attention: &LatentAttention,
        parts: &LatentParts,
        cache: &CachePages,
    ) -> Result<()> {
        let (gpu, buffers) = (self.gpu, self.buffers);
        let (
            AttentionBuffers::Latent {
                product,
                compressed,
                queries,
                query,
                weighed,
            },
            AttentionShape::Latent(_, scale),
        ) = (&buffers.attention, self.shape.attention)
        else {
            return Ok(());
        };
        let token = LatentToken {
            bias: parts.latent_bias,
            norm: parts.latent_norm,
            table: &self.parts.rotations,
            position: &buffers.position,
            live: &buffers.live,
        };
        let compression = parts.query.as_ref().map(|query| Compression {
            bias: query.bias,
            norm: query.norm,
            to: compressed,
        });
        attention.store(gpu, product, &token, compression.as_ref(), (cache, query))?;
        let heads = match &parts.query {
            Some(parts) => {
                gpu.linear(compressed, parts.b_proj, queries)?;
                attention.rotate(gpu, queries, &token, query)?;
                queries
            }
            None => product,
        };
        attention.absorb(gpu, heads, parts.kv_b_proj, query)?;
        let rows = (&buffers.position, &buffers.live);
        let places = buffers.page_table.size2()?.1 * PAGE_TOKENS;
        let splits = attention.parts(query.size3()?.0, places);
        let out = (weighed, &buffers.partial);
        attention.attend(gpu, query, cache, rows, (scale, splits), out)?;
        attention.project(gpu, weighed, parts.kv_b_proj, &buffers.attended)
    }

    /// h += Σ_k gate_k · E_k(x) + Shared(x) over the chosen experts, with x = Norm(h).
    fn experts(&self, norm: Norm, parts: &ExpertParts, layer: i64) -> Result<()> {
        let (gpu, buffers) = (self.gpu, self.buffers);
        let (Some(kernels), Some(of_experts)) = (&self.kernels.experts, &buffers.experts) else {
            return Err(KernelError::Model {
                what: "experts of these sizes",
            });
        };
        let ExpertBuffers {
            logits,
            chosen,
            gates,
            order,
            starts,
            between,
            outputs,
            shared,
            record,
        } = of_experts;
        self.norm(norm)?;
        gpu.linear(&buffers.normed, parts.router, logits)?;
        let choice = Choice {
            chosen,
            gates,
            order,
            starts,
        };
        let (live, step) = (&buffers.live, &buffers.step);
        let record = self.drawing.records_experts.then_some((record, layer));
        let scores = (logits, parts.correction_bias);
        kernels.route(gpu, scores, (live, step), &choice, record)?;
        self.routed(kernels, parts, (&choice, live), (between, outputs))?;
        let shared = match &parts.shared {
            Some(dense) => {
                let (gate_up, activated) = buffers.of_width(dense.down.size2()?.1)?;
                gpu.linear(&buffers.normed, dense.gate_up, &gate_up)?;
                self.kernels.decode.silu_mul(gpu, &gate_up, &activated)?;
                gpu.linear(&activated, dense.down, shared)?;
                Some(shared)
            }
            None => None,
        };
        kernels.combine(gpu, (outputs, shared), (&choice, live), &buffers.hidden)
    }

    fn routed(
        &self,
        kernels: &Experts,
        parts: &ExpertParts,
        (choice, live): (&Choice, &Tensor),
        results: (&Tensor, &Tensor),
    ) -> Result<()> {
        let (x, weights) = (&self.buffers.normed, (parts.gate_up, parts.down));
        let blocks = kernels.blocks(x.size2()?.0);
        kernels.run(self.gpu, x, weights, (choice, live, blocks), results)
    }
}
