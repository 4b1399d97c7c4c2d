//! Grouped-query attention (Ainslie et al. 2023): several query heads share one head of keys and
//! values.

use crate::attention;
use crate::error::Result;
use crate::forward::{Context, View};
use crate::fused;
use crate::parts::{AttentionParts, GroupedParts};
use crate::rms_norm::RmsNorm;
use crate::weights::{Builder, Initial, Rows};
use r1d_kernels::{QkvSizes, TrainKernels};
use r1d_shape::GqaSizes;
use tch::Tensor;

pub(crate) struct Gqa {
    sizes: GqaSizes,
    /// Queries above keys above values, `[(H + 2 Hk) · d, hidden]`.
    qkv_proj: Tensor,
    qkv_bias: Option<Tensor>,
    /// Norms of each head's queries and of each head's keys.
    norms: Option<(RmsNorm, RmsNorm)>,
    o_proj: Tensor,
    o_bias: Option<Tensor>,
}

impl Gqa {
    pub(crate) fn build(weights: &mut Builder, prefix: &str, sizes: &GqaSizes) -> Result<Gqa> {
        let GqaSizes {
            hidden,
            heads,
            key_value_heads,
            head_dim,
            bias,
            output_bias,
            norm_epsilon,
        } = *sizes;
        let rows = || {
            let [q, kv] = [heads, key_value_heads].map(|h| h * head_dim);
            vec![
                Rows::new("q_proj", q),
                Rows::new("k_proj", kv),
                Rows::new("v_proj", kv),
            ]
        };
        let norm = |weights: &mut Builder, name: &str, epsilon| {
            RmsNorm::build(weights, &format!("{prefix}{name}"), head_dim, epsilon)
        };
        Ok(Gqa {
            sizes: sizes.clone(),
            qkv_proj: weights.rows(prefix, "qkv_proj", ".weight", rows(), Some(hidden))?,
            qkv_bias: if bias {
                Some(weights.rows(prefix, "qkv_proj", ".bias", rows(), None)?)
            } else {
                None
            },
            norms: match norm_epsilon {
                Some(epsilon) => Some((
                    norm(weights, "q_norm", epsilon)?,
                    norm(weights, "k_norm", epsilon)?,
                )),
                None => None,
            },
            o_proj: weights.tensor(
                &format!("{prefix}o_proj.weight"),
                &[hidden, heads * head_dim],
                Initial::Normal,
            )?,
            o_bias: if output_bias {
                Some(weights.rows(prefix, "", ".bias", vec![Rows::new("o_proj", hidden)], None)?)
            } else {
                None
            },
        })
    }

    /// The tensors, and the output projection; `None` if that has a bias.
    pub(crate) fn parts(&self) -> Option<(AttentionParts<'_>, &Tensor)> {
        let parts = AttentionParts::Grouped(GroupedParts {
            qkv_proj: &self.qkv_proj,
            qkv_bias: self.qkv_bias.as_ref(),
            head_norms: self
                .norms
                .as_ref()
                .map(|(query, key)| (query.parts(), key.parts())),
        });
        self.o_bias.is_none().then_some((parts, &self.o_proj))
    }

    /// Computes softmax(RoPE(W_q x) RoPE(W_k x)ᵀ / √d) W_v x and the output projection: `[T,
    /// hidden]` → `[T, hidden]`.
    pub(crate) fn forward(&self, x: &Tensor, layer: usize, context: &Context) -> Result<Tensor> {
        let GqaSizes {
            heads,
            key_value_heads,
            head_dim,
            ..
        } = self.sizes;
        let qkv = context
            .products
            .linear(x, &self.qkv_proj, self.qkv_bias.as_ref())?
            .f_view([-1, heads + 2 * key_value_heads, head_dim])?;
        let [query, key, value] = match self.fused(&qkv, context)? {
            Some(rotated) => rotated,
            None => self.rotated(&qkv, context)?,
        };
        let (query, key, value) = (&query, &key, &value);
        let scale = (head_dim as f64).powf(-0.5);
        let attended = match &context.view {
            View::Packed { packed, cached } => {
                if let Some(cached) = cached {
                    cached.store(layer, &[key, value])?;
                }
                attention::causal(query, key, value, scale, packed)?
            }
            View::Step { seen, cached } => {
                cached.store(layer, &[key, value])?;
                attention::step(
                    query,
                    &cached.read(layer, 0)?,
                    &cached.read(layer, 1)?,
                    scale,
                    seen,
                )?
                .f_flatten(1, 2)?
            }
        };
        context
            .products
            .linear(&attended, &self.o_proj, self.o_bias.as_ref())
    }

    /// Rotates queries and keys of a product `[T, heads + 2 · key_value_heads, head_dim]`, behind
    /// their norms if they have any. Returns queries, keys and values.
    fn rotated(&self, qkv: &Tensor, context: &Context) -> Result<[Tensor; 3]> {
        let GqaSizes {
            heads,
            key_value_heads,
            ..
        } = self.sizes;
        let parts = qkv.f_split_with_sizes([heads + key_value_heads, key_value_heads], 1)?;
        let turning = match &self.norms {
            Some((query, key)) => {
                let heads = parts[0].f_split_with_sizes([heads, key_value_heads], 1)?;
                Tensor::f_cat(&[query.forward(&heads[0])?, key.forward(&heads[1])?], 1)?
            }
            None => parts[0].shallow_clone(),
        };
        // Queries and keys rotate together.
        let rotated = context
            .rotation
            .apply(&turning)?
            .f_split_with_sizes([heads, key_value_heads], 1)?;
        Ok([&rotated[0], &rotated[1], &parts[1]].map(Tensor::shallow_clone))
    }

    /// Computes [`Self::rotated`] by one kernel; `None` where there is none.
    fn fused(&self, qkv: &Tensor, context: &Context) -> Result<Option<[Tensor; 3]>> {
        let GqaSizes {
            heads,
            key_value_heads,
            head_dim,
            ..
        } = self.sizes;
        let table = context.rotation.table();
        let takes = self.norms.is_none()
            && TrainKernels::takes_head_dim(head_dim)
            && table.size()[2] == head_dim;
        let Some(kernels) = context.kernels.filter(|_| takes) else {
            return Ok(None);
        };
        let sizes = QkvSizes {
            heads,
            key_heads: key_value_heads,
            head_dim,
        };
        fused::rotate(kernels, qkv, table, sizes).map(Some)
    }
}
