//! Grouped-query attention (Ainslie et al. 2023): several query heads share one head of keys and values.

use crate::attention;
use crate::config::{Fields, contradiction};
use crate::error::Result;
use crate::pass::{Pass, View};
use crate::rms_norm::RmsNorm;
use crate::weights::{Builder, Initial, Rows};
use tch::Tensor;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GqaSizes {
    pub hidden: i64,
    pub heads: i64,
    pub key_value_heads: i64,
    pub head_dim: i64,
    /// Biases on queries, keys and values.
    pub bias: bool,
    pub output_bias: bool,
    /// Queries and keys are normed head by head, with this ε.
    pub norm_epsilon: Option<f64>,
}

/// What fields mean that config.json does not have; where this says nothing, as many key heads as heads, and heads that divide `hidden_size`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Absent {
    pub key_value_heads: Option<i64>,
    pub head_dim: Option<i64>,
}

impl GqaSizes {
    /// Without biases or norms.
    pub fn parse(fields: &Fields, absent: Absent) -> Result<GqaSizes> {
        let given = |key: &str, absent: Option<i64>| -> Result<Option<i64>> {
            Ok(if fields.is_absent(key) { absent } else { fields.optional_size(key)? })
        };
        let hidden = fields.size("hidden_size")?;
        let heads = fields.size("num_attention_heads")?;
        let key_value_heads = given("num_key_value_heads", absent.key_value_heads)?.unwrap_or(heads);
        if heads % key_value_heads != 0 {
            return Err(contradiction(format!(
                "`num_key_value_heads` {key_value_heads} does not divide `num_attention_heads` {heads}"
            )));
        }
        let head_dim = match given("head_dim", absent.head_dim)? {
            Some(given) => given,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(contradiction(format!("`num_attention_heads` {heads} does not divide `hidden_size` {hidden}"))),
        };
        if head_dim % 2 != 0 {
            return Err(contradiction(format!("the head size is {head_dim}, expected an even number")));
        }
        Ok(GqaSizes { hidden, heads, key_value_heads, head_dim, bias: false, output_bias: false, norm_epsilon: None })
    }

    /// (heads, width) of the keys and of the values that are cached per token.
    pub fn cached_rows(&self) -> Vec<(i64, i64)> {
        vec![(self.key_value_heads, self.head_dim); 2]
    }
}

pub(crate) struct Gqa {
    sizes: GqaSizes,
    /// Queries above keys above values, `[(H + 2 Hk) · d, hidden]`.
    qkv_proj: Tensor,
    qkv_bias: Option<Tensor>,
    /// Of each query's and each key's head.
    norms: Option<(RmsNorm, RmsNorm)>,
    o_proj: Tensor,
    o_bias: Option<Tensor>,
}

impl Gqa {
    pub fn build(weights: &mut Builder, prefix: &str, sizes: &GqaSizes) -> Result<Gqa> {
        let GqaSizes { hidden, heads, key_value_heads, head_dim, bias, output_bias, norm_epsilon } = *sizes;
        let rows = || {
            let [q, kv] = [heads, key_value_heads].map(|h| h * head_dim);
            vec![Rows::new("q_proj", q), Rows::new("k_proj", kv), Rows::new("v_proj", kv)]
        };
        let norm =
            |weights: &mut Builder, name: &str, epsilon| RmsNorm::build(weights, &format!("{prefix}{name}"), head_dim, epsilon);
        Ok(Gqa {
            sizes: sizes.clone(),
            qkv_proj: weights.rows(prefix, "qkv_proj", ".weight", rows(), Some(hidden))?,
            qkv_bias: if bias { Some(weights.rows(prefix, "qkv_proj", ".bias", rows(), None)?) } else { None },
            norms: match norm_epsilon {
                Some(epsilon) => Some((norm(weights, "q_norm", epsilon)?, norm(weights, "k_norm", epsilon)?)),
                None => None,
            },
            o_proj: weights.tensor(&format!("{prefix}o_proj.weight"), &[hidden, heads * head_dim], Initial::Normal)?,
            o_bias: if output_bias {
                Some(weights.rows(prefix, "", ".bias", vec![Rows::new("o_proj", hidden)], None)?)
            } else {
                None
            },
        })
    }

    /// softmax(RoPE(W_q x) RoPE(W_k x)ᵀ / √d) W_v x: `[T, hidden]` → `[T, hidden]`.
    pub fn forward(&self, x: &Tensor, layer: usize, pass: &mut Pass) -> Result<Tensor> {
        let GqaSizes { heads, key_value_heads, head_dim, .. } = self.sizes;
        let qkv =
            pass.products.linear(x, &self.qkv_proj, self.qkv_bias.as_ref())?.f_view([-1, heads + 2 * key_value_heads, head_dim])?;
        let parts = qkv.f_split_with_sizes([heads + key_value_heads, key_value_heads], 1)?;
        let turning = match &self.norms {
            Some((query, key)) => {
                let heads = parts[0].f_split_with_sizes([heads, key_value_heads], 1)?;
                Tensor::f_cat(&[query.forward(&heads[0])?, key.forward(&heads[1])?], 1)?
            }
            None => parts[0].shallow_clone(),
        };
        // Queries and keys turn together.
        let rotated = pass.rotation.apply(&turning)?.f_split_with_sizes([heads, key_value_heads], 1)?;
        let (query, key, value) = (&rotated[0], &rotated[1], &parts[1]);
        let scale = (head_dim as f64).powf(-0.5);
        let attended = match &mut pass.view {
            View::Packed { packed, cached } => {
                if let Some(cached) = cached {
                    cached.store(layer, &[key, value])?;
                }
                attention::causal(query, key, value, scale, packed)?
            }
            View::Step { seen, cached } => {
                cached.store(layer, &[key, value])?;
                attention::step(query, &cached.read(layer, 0)?, &cached.read(layer, 1)?, scale, seen)?.f_flatten(1, 2)?
            }
        };
        pass.products.linear(&attended, &self.o_proj, self.o_bias.as_ref())
    }
}
