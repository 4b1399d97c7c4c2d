//! The tensors of a model as they lie on disk, under Hugging Face's names.

use crate::blueprint::{AttentionSizes, ExpertSizes, FeedForwardSizes};
use crate::config::Config;
use crate::fp8::scale_name;
use crate::gqa::GqaSizes;
use crate::mla::MlaSizes;

/// The embedding, `[vocab_size, hidden_size]`.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The output head, `[vocab_size, hidden_size]`, in models that do not share the embedding's.
pub const HEAD: &str = "lm_head.weight";
/// The scalar head, `[1, hidden_size]`, in the output head's place of models with
/// [`Config::scores`].
pub const SCORE: &str = "score.weight";

/// One tensor on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// The name in the file.
    pub name: String,
    /// Size of each dimension.
    pub shape: Vec<i64>,
    /// Whether it is a parameter; false for a buffer.
    pub trained: bool,
    /// Whether it belongs to a routed expert, so that only the tokens that the router sends there
    /// use it.
    pub routed: bool,
}

impl TensorShape {
    /// The number of values in it.
    pub fn count(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product()
    }
}

impl Config {
    /// Lists every tensor of the model, as it lies on disk.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let mut list = List::default();
        list.add(EMBEDDING, &[self.vocab_size, self.hidden_size]);
        for (layer, feed_forward) in (0..).zip(&self.blueprint.feed_forwards) {
            list.block(self, layer, feed_forward);
        }
        list.add("model.norm.weight", &[self.hidden_size]);
        match self.tie_word_embeddings {
            _ if self.scores => list.add(SCORE, &[1, self.hidden_size]),
            true => {}
            false => list.add(HEAD, &[self.vocab_size, self.hidden_size]),
        }
        if self.runs_prediction_module {
            list.prediction_module(self);
        }
        list.0
    }

    /// Whether the model has no use for this tensor on disk.
    pub fn ignores(&self, tensor: &str) -> bool {
        let no_head = self.tie_word_embeddings || self.scores;
        let unused_head = no_head && (tensor == HEAD || tensor == scale_name(HEAD));
        unused_head || tensor.ends_with(".rotary_emb.inv_freq") || self.leaves_out(tensor)
    }

    /// Whether a tensor belongs to a multi-token prediction module, run or not.
    pub fn of_prediction(&self, tensor: &str) -> bool {
        self.within_prediction(tensor).is_some()
    }

    /// Whether a tensor on disk belongs to a multi-token prediction module that is not run, or
    /// repeats the embedding or the head for one that is.
    pub fn leaves_out(&self, tensor: &str) -> bool {
        let Some(name) = self.within_prediction(tensor) else {
            return false;
        };
        let name = name.strip_suffix("_scale_inv").unwrap_or(name);
        let shared = ["embed_tokens.weight", "shared_head.head.weight"].contains(&name);
        !self.runs_prediction_module || shared
    }

    /// The part of a tensor's name behind its layer, if that layer is a multi-token prediction
    /// module.
    fn within_prediction<'a>(&self, tensor: &'a str) -> Option<&'a str> {
        let (layer, name) = tensor.strip_prefix("model.layers.")?.split_once('.')?;
        let behind = layer
            .parse::<i64>()
            .is_ok_and(|layer| layer >= self.num_hidden_layers);
        (self.prediction_modules && behind).then_some(name)
    }
}

#[derive(Default)]
struct List(Vec<TensorShape>);

impl List {
    fn add(&mut self, name: &str, shape: &[i64]) {
        self.0.push(TensorShape {
            name: name.to_owned(),
            shape: shape.to_vec(),
            trained: true,
            routed: false,
        });
    }

    /// Adds a matrix, and its bias if it has one.
    fn linear(&mut self, name: &str, rows: i64, columns: i64, bias: bool) {
        self.add(&format!("{name}.weight"), &[rows, columns]);
        if bias {
            self.add(&format!("{name}.bias"), &[rows]);
        }
    }

    fn block(&mut self, config: &Config, layer: i64, feed_forward: &FeedForwardSizes) {
        let (prefix, hidden) = (format!("model.layers.{layer}"), config.hidden_size);
        self.add(&format!("{prefix}.input_layernorm.weight"), &[hidden]);
        match &config.blueprint.attention {
            AttentionSizes::Grouped(sizes) => self.grouped(&format!("{prefix}.self_attn"), sizes),
            AttentionSizes::Latent(sizes) => self.latent(&format!("{prefix}.self_attn"), sizes),
        }
        self.add(
            &format!("{prefix}.post_attention_layernorm.weight"),
            &[hidden],
        );
        match feed_forward {
            FeedForwardSizes::Dense { intermediate } => {
                self.gated(&format!("{prefix}.mlp"), hidden, *intermediate)
            }
            FeedForwardSizes::Experts(sizes) => {
                self.experts(&format!("{prefix}.mlp"), hidden, sizes)
            }
        }
    }

    fn grouped(&mut self, prefix: &str, sizes: &GqaSizes) {
        let GqaSizes {
            hidden,
            heads,
            key_value_heads,
            head_dim,
            bias,
            output_bias,
            norm_epsilon,
        } = *sizes;
        for (name, heads) in [
            ("q_proj", heads),
            ("k_proj", key_value_heads),
            ("v_proj", key_value_heads),
        ] {
            self.linear(&format!("{prefix}.{name}"), heads * head_dim, hidden, bias);
        }
        if norm_epsilon.is_some() {
            self.add(&format!("{prefix}.q_norm.weight"), &[head_dim]);
            self.add(&format!("{prefix}.k_norm.weight"), &[head_dim]);
        }
        self.linear(
            &format!("{prefix}.o_proj"),
            hidden,
            heads * head_dim,
            output_bias,
        );
    }

    fn latent(&mut self, prefix: &str, sizes: &MlaSizes) {
        let MlaSizes {
            hidden,
            heads,
            kv_lora_rank,
            qk_nope_head_dim,
            qk_rope_head_dim,
            v_head_dim,
            bias,
            ..
        } = *sizes;
        let queries = heads * sizes.query_head_dim();
        match sizes.q_lora_rank {
            Some(rank) => {
                self.linear(&format!("{prefix}.q_a_proj"), rank, hidden, bias);
                self.add(&format!("{prefix}.q_a_layernorm.weight"), &[rank]);
                self.linear(&format!("{prefix}.q_b_proj"), queries, rank, false);
            }
            None => self.linear(&format!("{prefix}.q_proj"), queries, hidden, false),
        }
        self.linear(
            &format!("{prefix}.kv_a_proj_with_mqa"),
            kv_lora_rank + qk_rope_head_dim,
            hidden,
            bias,
        );
        self.add(&format!("{prefix}.kv_a_layernorm.weight"), &[kv_lora_rank]);
        self.linear(
            &format!("{prefix}.kv_b_proj"),
            heads * (qk_nope_head_dim + v_head_dim),
            kv_lora_rank,
            false,
        );
        self.linear(
            &format!("{prefix}.o_proj"),
            hidden,
            heads * v_head_dim,
            bias,
        );
    }

    fn gated(&mut self, prefix: &str, hidden: i64, intermediate: i64) {
        self.linear(&format!("{prefix}.gate_proj"), intermediate, hidden, false);
        self.linear(&format!("{prefix}.up_proj"), intermediate, hidden, false);
        self.linear(&format!("{prefix}.down_proj"), hidden, intermediate, false);
    }

    fn experts(&mut self, prefix: &str, hidden: i64, sizes: &ExpertSizes) {
        let ExpertSizes {
            intermediate,
            shared_intermediate,
            rule,
        } = *sizes;
        self.linear(&format!("{prefix}.gate"), rule.experts, hidden, false);
        if rule.correction_bias {
            let name = format!("{prefix}.gate.e_score_correction_bias");
            self.0.push(TensorShape {
                name,
                shape: vec![rule.experts],
                trained: false,
                routed: false,
            });
        }
        let first = self.0.len();
        for expert in 0..rule.experts {
            self.gated(&format!("{prefix}.experts.{expert}"), hidden, intermediate);
        }
        self.0[first..]
            .iter_mut()
            .for_each(|tensor| tensor.routed = true);
        if shared_intermediate > 0 {
            self.gated(
                &format!("{prefix}.shared_experts"),
                hidden,
                shared_intermediate,
            );
        }
    }

    /// Adds the module: a block like the last layer's, three norms, and the projection that mixes
    /// its two inputs.
    fn prediction_module(&mut self, config: &Config) {
        let (layer, hidden) = (config.num_hidden_layers, config.hidden_size);
        let prefix = format!("model.layers.{layer}");
        self.add(&format!("{prefix}.enorm.weight"), &[hidden]);
        self.add(&format!("{prefix}.hnorm.weight"), &[hidden]);
        self.add(&format!("{prefix}.eh_proj.weight"), &[hidden, 2 * hidden]);
        let dense = FeedForwardSizes::Dense {
            intermediate: hidden,
        };
        self.block(
            config,
            layer,
            config.blueprint.feed_forwards.last().unwrap_or(&dense),
        );
        self.add(&format!("{prefix}.shared_head.norm.weight"), &[hidden]);
    }
}
