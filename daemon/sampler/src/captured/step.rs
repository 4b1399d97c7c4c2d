//! The launches of one decoding step.

use super::buffers::{AttentionBuffers, Buffers, ExpertBuffers};
use super::kernels::{AttentionKernels, AttentionShape, Kernels, Shape};
use r1d_kernels::{
    CachePages, Choice, Compression, Cut, Draw, Experts, Few, Fp8Kernels, Fp8Matrix, Gpu,
    KernelError, LatentAttention, LatentToken, PAGE_TOKENS, Rotation, Scratch,
};
use r1d_model::{
    AttentionParts, DenseParts, ExpertParts, FeedForwardParts, LatentParts, LayerParts, ModelParts,
    Norm, RoundedMatrix,
};
use tch::{Kind, Tensor};

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

    /// Whether products of few rows with this matrix have kernels of their own.
    fn few(&self, weight: &Tensor) -> Result<bool> {
        let (rows, width) = self.buffers.hidden.size2()?;
        Ok(self.rounded(weight).is_none() && self.kernels.decode.takes_few(rows, width))
    }

    /// The matrix in FP8, if it is multiplied so.
    fn rounded(&self, weight: &Tensor) -> Option<(&Fp8Kernels, &RoundedMatrix)> {
        let kernels = self.kernels.fp8.as_ref()?;
        Some((kernels, self.parts.rounded.get(weight)?))
    }

    /// Computes y = x Wᵀ, or y += x Wᵀ where it `adds`. In FP8 x is rounded in its place.
    fn linear(&self, x: &Tensor, weight: &Tensor, (y, adds): (&Tensor, bool)) -> Result<()> {
        let gpu = self.gpu;
        let wide = |weight: &Tensor| {
            if adds {
                gpu.add_linear(x, weight, y)
            } else {
                gpu.linear(x, weight, y)
            }
        };
        let Some((kernels, rounded)) = self.rounded(weight) else {
            return wide(weight);
        };
        kernels.round_rows(gpu, x)?;
        if x.size2()?.0 > Fp8Kernels::ROWS_MAX {
            return wide(&rounded.wide);
        }
        let matrix = Fp8Matrix {
            values: &rounded.values,
            scale: &rounded.scale,
        };
        kernels.linear(gpu, x, matrix, (y, adds))
    }

    /// y = Norm(h) Wᵀ.
    fn normed_linear(&self, norm: Norm, weight: &Tensor, y: &Tensor) -> Result<()> {
        let hidden = &self.buffers.hidden;
        if self.few(weight)? {
            let few = match y.kind() {
                Kind::Float => Few::Normed(norm.0, norm.1),
                _ => Few::Plain(norm.0, norm.1),
            };
            return self.kernels.decode.few(self.gpu, &few, hidden, weight, y);
        }
        self.norm(norm)?;
        self.linear(&self.buffers.normed, weight, (y, false))
    }

    fn norm(&self, (norm, epsilon): Norm) -> Result<()> {
        let Buffers { hidden, normed, .. } = self.buffers;
        let decode = &self.kernels.decode;
        decode.rms_norm(self.gpu, hidden, norm, epsilon, normed)
    }

    /// h += x Wᵀ.
    fn add_linear(&self, x: &Tensor, weight: &Tensor) -> Result<()> {
        let hidden = &self.buffers.hidden;
        if self.few(weight)? {
            let decode = &self.kernels.decode;
            return decode.few(self.gpu, &Few::Added, x, weight, hidden);
        }
        self.linear(x, weight, (hidden, true))
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

    /// h += down(silu(gate x) · up x) with x = Norm(h).
    fn dense(&self, (norm, epsilon): Norm, dense: &DenseParts) -> Result<()> {
        let (gpu, decode) = (self.gpu, &self.kernels.decode);
        let (gate_up, activated) = self.buffers.of_width(dense.down.size2()?.1)?;
        if self.few(dense.gate_up)? {
            let gated = Few::Gated(norm, epsilon);
            let hidden = &self.buffers.hidden;
            decode.few(gpu, &gated, hidden, dense.gate_up, &activated)?;
        } else {
            self.norm((norm, epsilon))?;
            self.linear(&self.buffers.normed, dense.gate_up, (&gate_up, false))?;
            decode.silu_mul(gpu, &gate_up, &activated)?;
        }
        self.add_linear(&activated, dense.down)
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
