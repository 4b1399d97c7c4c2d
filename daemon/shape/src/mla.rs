//! Sizes of multi-head latent attention (DeepSeek-V2 2.1).

#[derive(Clone, Debug, PartialEq)]
pub struct MlaSizes {
    pub hidden: i64,
    pub heads: i64,
    /// Absent: queries come straight from the hidden states.
    pub q_lora_rank: Option<i64>,
    pub kv_lora_rank: i64,
    pub qk_nope_head_dim: i64,
    pub qk_rope_head_dim: i64,
    pub v_head_dim: i64,
    pub bias: bool,
    /// The checkpoint stores rotary dimensions as pairs.
    pub rope_interleave: bool,
    /// What YaRN multiplies the softmax scale by.
    pub scale_factor: f64,
}

impl MlaSizes {
    /// Dimensions of a query and of a key.
    pub fn query_head_dim(&self) -> i64 {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// (heads, width) of what is cached per token: latent and rotary key, or whole keys and values.
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

    /// Of (dn + dr)^-½, even where the absorbed form multiplies in r + dr dimensions.
    pub fn softmax_scale(&self) -> f64 {
        (self.query_head_dim() as f64).powf(-0.5) * self.scale_factor
    }
}
