//! Sizes of grouped-query attention (Ainslie et al. 2023).

use crate::error::{Result, contradiction};
use crate::fields::Fields;

/// The sizes, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct GqaSizes {
    /// Width of the hidden states.
    pub hidden: i64,
    /// Query heads; a multiple of `key_value_heads`.
    pub heads: i64,
    /// Heads of keys and values, each shared by `heads / key_value_heads` query heads.
    pub key_value_heads: i64,
    /// Dimensions of a head; even.
    pub head_dim: i64,
    /// Queries, keys and values have biases.
    pub bias: bool,
    /// The output projection has a bias.
    pub output_bias: bool,
    /// ε of the norm of each head's queries and keys; `None` if they are not normed.
    pub norm_epsilon: Option<f64>,
}

/// Defaults of fields that config.json omits. A `None` here means: as many key heads as query
/// heads, and `head_dim = hidden_size / heads`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Absent {
    pub key_value_heads: Option<i64>,
    pub head_dim: Option<i64>,
}

impl GqaSizes {
    /// Reads the sizes of attention without biases or norms.
    pub(crate) fn parse(fields: &Fields, absent: Absent) -> Result<GqaSizes> {
        let given = |key: &str, absent: Option<i64>| -> Result<Option<i64>> {
            Ok(if fields.is_absent(key) {
                absent
            } else {
                fields.optional_size(key)?
            })
        };
        let hidden = fields.size("hidden_size")?;
        let heads = fields.size("num_attention_heads")?;
        let key_value_heads =
            given("num_key_value_heads", absent.key_value_heads)?.unwrap_or(heads);
        if heads % key_value_heads != 0 {
            return Err(contradiction(format!(
                "`num_key_value_heads` {key_value_heads} does not divide `num_attention_heads` \
                 {heads}"
            )));
        }
        let head_dim = match given("head_dim", absent.head_dim)? {
            Some(given) => given,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                return Err(contradiction(format!(
                    "`num_attention_heads` {heads} does not divide `hidden_size` {hidden}"
                )));
            }
        };
        if head_dim % 2 != 0 {
            return Err(contradiction(format!(
                "the head size is {head_dim}, expected an even number"
            )));
        }
        Ok(GqaSizes {
            hidden,
            heads,
            key_value_heads,
            head_dim,
            bias: false,
            output_bias: false,
            norm_epsilon: None,
        })
    }

    /// The tensors that are cached per token, keys and values, each as (heads, width).
    pub fn cached_rows(&self) -> Vec<(i64, i64)> {
        vec![(self.key_value_heads, self.head_dim); 2]
    }
}
