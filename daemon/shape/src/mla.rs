//! Sizes of multi-head latent attention (DeepSeek-V2 2.1).

/// The sizes, under the names of config.json where it has them.
#[derive(Clone, Debug, PartialEq)]
pub struct MlaSizes {
    /// Width of the hidden states.
    pub hidden: i64,
    /// Heads of queries, keys and values.
    pub heads: i64,
    /// Width of the compressed queries. `None`: queries are projected straight from the hidden
    /// states.
    pub q_lora_rank: Option<i64>,
    /// Width of the latent that keys and values are computed from (r).
    pub kv_lora_rank: i64,
    /// Dimensions of a head's queries and keys that do not rotate (dn).
    pub qk_nope_head_dim: i64,
    /// Dimensions of a head's queries and keys that rotate with the position (dr).
    pub qk_rope_head_dim: i64,
    /// Dimensions of a head's values.
    pub v_head_dim: i64,
    /// The projections from the hidden states and the output projection have biases.
    pub bias: bool,
    /// The checkpoint stores rotary dimensions as pairs.
    pub rope_interleave: bool,
    /// The factor by which YaRN multiplies the softmax scale; 1 without YaRN.
    pub scale_factor: f64,
}

impl MlaSizes {
    /// Dimensions of a head's query and key: dn + dr.
    pub fn query_head_dim(&self) -> i64 {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// The tensors that are cached per token, each as (heads, width): latent and rotary key
    /// together, or, if `naive`, whole keys and values.
    pub fn cached_rows(&self, naive: bool) -> Vec<(i64, i64)> {
        if naive {
            vec![
                (self.heads, self.query_head_dim()),
                (self.heads, self.v_head_dim),
            ]
        } else {
            vec![(1, self.kv_lora_rank + self.qk_rope_head_dim)]
        }
    }

    /// The factor of the attention scores: (dn + dr)^-½ times YaRN's factor. It stays the same in
    /// the absorbed form, which multiplies in r + dr dimensions.
    pub fn softmax_scale(&self) -> f64 {
        (self.query_head_dim() as f64).powf(-0.5) * self.scale_factor
    }
}
