//! Multi-head latent attention (DeepSeek-V2 2.1, DeepSeek-V3 (1)–(11)).
//!
//! Keys and values are expanded from one latent per token; only the latent and one rotary key are
//! cached. Names follow the checkpoint: `_a` projections go down to a latent, `_b` projections up
//! from it.

use crate::attention::{self, CacheView, PackedView};
use crate::error::Result;
use crate::forward::{Context, View};
use crate::fused;
use crate::matmul::{Products, plus};
use crate::parts::{AttentionParts, LatentParts, QueryParts};
use crate::rms_norm::RmsNorm;
use crate::rope::{Rotation, halves_from_pairs};
use crate::weights::{Builder, Initial, Rows};
use r1d_kernels::{LatentHeads, TrainKernels};
use r1d_shape::MlaSizes;
use std::sync::Arc;
use tch::Tensor;

/// ε of the two latent norms, whatever `rms_norm_eps` is.
const LATENT_NORM_EPSILON: f64 = 1e-6;

pub(crate) struct Mla {
    sizes: MlaSizes,
    /// The query's `_a` projection (or whole projection) above `kv_a_proj_with_mqa`.
    a_proj: Tensor,
    /// Bias of the query's part of `a_proj`.
    q_a_bias: Option<Tensor>,
    /// Bias of the other part of `a_proj`.
    kv_a_bias: Option<Tensor>,
    q_b: Option<(RmsNorm, Tensor)>,
    kv_a_layernorm: RmsNorm,
    /// W_kvb, `[H · (dn + dv), r]`.
    kv_b_proj: Tensor,
    o_proj: Tensor,
    o_bias: Option<Tensor>,
}

struct Query {
    /// The part that does not rotate, `[T, H, dn]`.
    nope: Tensor,
    /// The rotated part, `[T, H, dr]`.
    rope: Tensor,
}

/// All that later tokens need of a token.
struct Latent {
    /// The latent after its norm, `[T, r]`.
    c: Tensor,
    /// The rotated key, `[T, 1, dr]`, one for all heads.
    k_rope: Tensor,
}

impl Mla {
    pub(crate) fn build(weights: &mut Builder, prefix: &str, sizes: &MlaSizes) -> Result<Mla> {
        let MlaSizes {
            hidden,
            heads,
            kv_lora_rank,
            qk_nope_head_dim,
            qk_rope_head_dim,
            v_head_dim,
            ..
        } = *sizes;
        let pairs = |heads, plain| {
            sizes
                .rope_interleave
                .then(|| halves_from_pairs(heads, plain, qk_rope_head_dim))
        };
        let query_width = heads * sizes.query_head_dim();
        let kv_a = Rows::reordered(
            "kv_a_proj_with_mqa",
            kv_lora_rank + qk_rope_head_dim,
            pairs(1, kv_lora_rank),
        );
        let query = match sizes.q_lora_rank {
            Some(rank) => Rows::new("q_a_proj", rank),
            None => Rows::reordered("q_proj", query_width, pairs(heads, qk_nope_head_dim)),
        };
        let a_proj = weights.rows(
            prefix,
            "q_kv_a_proj",
            ".weight",
            vec![query, kv_a],
            Some(hidden),
        )?;
        let mut bias = |rows: Rows| -> Result<Option<Tensor>> {
            Ok(if sizes.bias {
                Some(weights.rows(prefix, "", ".bias", vec![rows], None)?)
            } else {
                None
            })
        };
        let q_a_bias = sizes
            .q_lora_rank
            .map(|rank| bias(Rows::new("q_a_proj", rank)))
            .transpose()?
            .flatten();
        let kv_a_bias = bias(Rows::reordered(
            "kv_a_proj_with_mqa",
            kv_lora_rank + qk_rope_head_dim,
            pairs(1, kv_lora_rank),
        ))?;
        let o_bias = bias(Rows::new("o_proj", hidden))?;
        let q_b = match sizes.q_lora_rank {
            Some(rank) => {
                let norm = RmsNorm::build(
                    weights,
                    &format!("{prefix}q_a_layernorm"),
                    rank,
                    LATENT_NORM_EPSILON,
                )?;
                let rows = Rows::reordered("q_b_proj", query_width, pairs(heads, qk_nope_head_dim));
                Some((
                    norm,
                    weights.rows(prefix, "", ".weight", vec![rows], Some(rank))?,
                ))
            }
            None => None,
        };
        Ok(Mla {
            sizes: sizes.clone(),
            a_proj,
            q_a_bias,
            kv_a_bias,
            q_b,
            kv_a_layernorm: RmsNorm::build(
                weights,
                &format!("{prefix}kv_a_layernorm"),
                kv_lora_rank,
                LATENT_NORM_EPSILON,
            )?,
            kv_b_proj: weights.tensor(
                &format!("{prefix}kv_b_proj.weight"),
                &[heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank],
                Initial::Normal,
            )?,
            o_proj: weights.tensor(
                &format!("{prefix}o_proj.weight"),
                &[hidden, heads * v_head_dim],
                Initial::Normal,
            )?,
            o_bias,
        })
    }

    /// The tensors, and the output projection; `None` if that has a bias.
    pub(crate) fn parts(&self) -> Option<(AttentionParts<'_>, &Tensor)> {
        let query = self.q_b.as_ref().map(|(norm, b_proj)| QueryParts {
            bias: self.q_a_bias.as_ref(),
            norm: norm.parts(),
            b_proj,
        });
        let parts = AttentionParts::Latent(LatentParts {
            a_proj: &self.a_proj,
            query,
            latent_bias: self.kv_a_bias.as_ref(),
            latent_norm: self.kv_a_layernorm.parts(),
            kv_b_proj: &self.kv_b_proj,
        });
        self.o_bias.is_none().then_some((parts, &self.o_proj))
    }

    /// Runs the attention: `[T, hidden]` → `[T, hidden]`.
    pub(crate) fn forward(&self, x: &Tensor, layer: usize, context: &Context) -> Result<Tensor> {
        if let (
            Some(kernels),
            Some(heads),
            View::Packed {
                packed,
                cached: None,
            },
        ) = (context.kernels, heads_of(&self.sizes), &context.view)
        {
            let attended = self.attend_fused(kernels, x, heads, packed, context)?;
            return context.products.linear(&attended, &self.o_proj, None);
        }
        let (query, latent) = self.project(x, &context.rotation, context.products)?;
        let scale = self.sizes.softmax_scale();
        let attended = match &context.view {
            View::Packed { packed, cached } => {
                let (key, value) = self.expand(&latent, context.products)?;
                match cached {
                    Some(cached) if cached.naive() => cached.store(layer, &[&key, &value])?,
                    Some(cached) => cached.store(layer, &[&latent.joined()?])?,
                    None => (),
                }
                attention::causal(&query.joined()?, &key, &value, scale, packed)?
            }
            View::Step { seen, cached } if cached.naive() => {
                let (key, value) = self.expand(&latent, context.products)?;
                cached.store(layer, &[&key, &value])?;
                let (key, value) = (cached.read(layer, 0)?, cached.read(layer, 1)?);
                attention::step(&query.joined()?, &key, &value, scale, seen)?.f_flatten(1, 2)?
            }
            View::Step { seen, cached } => {
                cached.store(layer, &[&latent.joined()?])?;
                self.absorbed(
                    &query,
                    &cached.read(layer, 0)?,
                    scale,
                    seen,
                    context.products,
                )?
            }
        };
        context
            .products
            .linear(&attended, &self.o_proj, self.o_bias.as_ref())
    }

    /// Computes attention's result before the output projection, `[T, H · dv]`, of whole sequences
    /// that no cache needs, by kernels that write queries, keys and values once.
    fn attend_fused(
        &self,
        kernels: &Arc<TrainKernels>,
        x: &Tensor,
        heads: LatentHeads,
        packed: &PackedView,
        context: &Context,
    ) -> Result<Tensor> {
        let (products, table) = (context.products, context.rotation.table());
        let of_latent = [self.sizes.kv_lora_rank, heads.rotary];
        let down = products.linear(x, &self.a_proj, None)?;
        let normed = |norm: &RmsNorm, x: Tensor| -> Result<Tensor> {
            Ok(norm.behind_sum(x, None, Some(kernels))?.1)
        };
        let [query, latent, shared] = match &self.q_b {
            None => three(fused::rotate_tails(
                kernels, &down, table, heads, &of_latent,
            )?)?,
            Some((norm, q_b_proj)) => {
                let rank = down.size()[1] - of_latent[0] - of_latent[1];
                let [query, latent, shared] = split(&down, [rank, of_latent[0], of_latent[1]])?;
                let query = products.linear(&normed(norm, query)?, q_b_proj, None)?;
                let query = fused::rotate_tails(kernels, &query, table, heads, &[])?;
                three(query.into_iter().chain([latent, shared]).collect())?
            }
        };
        let latent = normed(&self.kv_a_layernorm, latent)?;
        let expanded = products.wide().linear(&latent, &self.kv_b_proj, None)?;
        let expanded = expanded.f_view([-1, heads.heads, heads.plain + heads.value])?;
        let [key, value] = fused::expand_latent(kernels, &expanded, &shared, table, heads)?;
        let scale = self.sizes.softmax_scale();
        let attended = attention::causal(&query, &key, &value, scale, packed)?;
        // Behind each head's result stand zeros, as behind its values.
        Ok(attended
            .f_view([-1, heads.heads, heads.width()])?
            .f_narrow(2, 0, heads.value)?
            .f_flatten(1, 2)?)
    }

    /// Computes q = W_qb RMSNorm(W_qa x) (or W_q x); c = RMSNorm(W_kva x [..r]); k_rope =
    /// RoPE(W_kva x [r..]).
    fn project(
        &self,
        x: &Tensor,
        rotation: &Rotation,
        products: Products,
    ) -> Result<(Query, Latent)> {
        let MlaSizes {
            heads,
            kv_lora_rank,
            qk_nope_head_dim,
            qk_rope_head_dim,
            ..
        } = self.sizes;
        let query_rows = self.a_proj.size()[0] - kv_lora_rank - qk_rope_head_dim;
        let down = products.linear(x, &self.a_proj, None)?;
        let [query, latent, k_rope] = split(&down, [query_rows, kv_lora_rank, qk_rope_head_dim])?;
        let query = plus(query, self.q_a_bias.as_ref())?;
        let (latent, k_rope) = match &self.kv_a_bias {
            None => (latent, k_rope),
            Some(bias) => {
                let [of_latent, of_rope] = split(bias, [kv_lora_rank, qk_rope_head_dim])?;
                (latent.f_add(&of_latent)?, k_rope.f_add(&of_rope)?)
            }
        };
        let query = match &self.q_b {
            Some((norm, q_b_proj)) => products.linear(&norm.forward(&query)?, q_b_proj, None)?,
            None => query,
        };
        let [nope, rope] = split(
            &query.f_view([-1, heads, self.sizes.query_head_dim()])?,
            [qk_nope_head_dim, qk_rope_head_dim],
        )?;
        let query = Query {
            nope,
            rope: rotation.apply(&rope)?,
        };
        let latent = Latent {
            c: self.kv_a_layernorm.forward(&latent)?,
            k_rope: rotation.apply(&k_rope.f_unsqueeze(1)?)?,
        };
        Ok((query, latent))
    }

    /// Computes [k_nope; v] = W_kvb c, in the weights' own dtype like [`Self::absorbed`], and puts
    /// the rotary key beside each head's own: `[T, H, dn + dr]`, `[T, H, dv]`.
    fn expand(&self, latent: &Latent, products: Products) -> Result<(Tensor, Tensor)> {
        let MlaSizes {
            heads,
            qk_nope_head_dim,
            qk_rope_head_dim,
            v_head_dim,
            ..
        } = self.sizes;
        let expanded = products
            .wide()
            .linear(&latent.c, &self.kv_b_proj, None)?
            .f_view([-1, heads, qk_nope_head_dim + v_head_dim])?;
        let [k_nope, value] = split(&expanded, [qk_nope_head_dim, v_head_dim])?;
        let k_rope = latent
            .k_rope
            .f_expand([-1, heads, qk_rope_head_dim], false)?;
        Ok((Tensor::f_cat(&[k_nope, k_rope], -1)?, value))
    }

    /// Attention in the latent space: W_kvb's key half is absorbed into the query, its value half
    /// into the output. All heads read `rows` `[B, 1, L, r + dr]` as the cache has them
    /// (DeepSeek-V2 appendix C).
    fn absorbed(
        &self,
        query: &Query,
        rows: &Tensor,
        scale: f64,
        seen: &CacheView,
        products: Products,
    ) -> Result<Tensor> {
        let MlaSizes {
            heads,
            kv_lora_rank,
            qk_nope_head_dim,
            v_head_dim,
            ..
        } = self.sizes;
        let kv_b = products.matrix(&self.kv_b_proj)?.f_view([
            heads,
            qk_nope_head_dim + v_head_dim,
            kv_lora_rank,
        ])?;
        let [w_k, w_v] = split_rows(&kv_b, [qk_nope_head_dim, v_head_dim])?;
        let by_head = |t: &Tensor| t.f_transpose(0, 1);
        let (kind, wide) = (query.nope.kind(), kv_b.kind());
        let q_latent =
            by_head(&by_head(&query.nope.f_to_kind(wide)?)?.f_bmm(&w_k)?)?.f_to_kind(kind)?;
        let query = Tensor::f_cat(&[&q_latent, &query.rope], -1)?;
        let weighed = attention::step(
            &query,
            rows,
            &rows.f_narrow(3, 0, kv_lora_rank)?,
            scale,
            seen,
        )?;
        let attended =
            by_head(&by_head(&weighed.f_to_kind(wide)?)?.f_bmm(&w_v.f_transpose(1, 2)?)?)?
                .f_to_kind(kind)?;
        Ok(attended.f_reshape([-1, heads * v_head_dim])?)
    }
}

impl Query {
    fn joined(&self) -> Result<Tensor> {
        Ok(Tensor::f_cat(&[&self.nope, &self.rope], -1)?)
    }
}

impl Latent {
    /// Latent and rotary key as they are cached, `[T, 1, r + dr]`.
    fn joined(&self) -> Result<Tensor> {
        Ok(Tensor::f_cat(&[&self.c.f_unsqueeze(1)?, &self.k_rope], -1)?)
    }
}

/// The heads as r1d's own kernels for training see them; `None` where these do not know them.
pub(crate) fn heads_of(sizes: &MlaSizes) -> Option<LatentHeads> {
    let heads = LatentHeads {
        heads: sizes.heads,
        plain: sizes.qk_nope_head_dim,
        rotary: sizes.qk_rope_head_dim,
        value: sizes.v_head_dim,
    };
    // Rows of a product begin at multiples of a vector, and those of its parts too.
    let ranks = [sizes.kv_lora_rank, sizes.q_lora_rank.unwrap_or(0)];
    let knows = heads.are_known() && ranks.iter().all(|rank| rank % 8 == 0);
    (knows && !sizes.bias).then_some(heads)
}

fn three(tensors: Vec<Tensor>) -> Result<[Tensor; 3]> {
    let made = |tensors: Vec<Tensor>| format!("{} parts, not three", tensors.len());
    tensors
        .try_into()
        .map_err(|tensors| crate::ModelError::Input(made(tensors)))
}

/// Splits the last dimension into parts of these sizes.
fn split<const N: usize>(x: &Tensor, sizes: [i64; N]) -> Result<[Tensor; N]> {
    split_along(x, sizes, -1)
}

fn split_rows<const N: usize>(x: &Tensor, sizes: [i64; N]) -> Result<[Tensor; N]> {
    split_along(x, sizes, 1)
}

fn split_along<const N: usize>(x: &Tensor, sizes: [i64; N], dim: i64) -> Result<[Tensor; N]> {
    let parts = x.f_split_with_sizes(sizes, dim)?;
    let count = parts.len();
    parts
        .try_into()
        .map_err(|_| crate::ModelError::Input(format!("a split into {N} parts made {count}")))
}
