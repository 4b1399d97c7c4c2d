//! config.json: the fields that every architecture shares, checked, and the typed access that the
//! architectures read theirs with.

use crate::architecture::{self};
use crate::blueprint::{Blueprint, FeedForwardSizes};
use crate::error::{Result, ShapeError, contradiction, unsupported};
use crate::fields::Fields;
use crate::fp8::BlockSize;
use crate::rope::RopeSpec;
use r1d_proto::user_file;
use serde_json::{Map, Value, json};
use std::path::Path;

/// A model's shape: the content of config.json, checked as a whole before any tensor is touched.
#[derive(Clone, Debug)]
pub struct Config {
    /// `architectures[0]`, for example `DeepseekV3ForCausalLM`.
    pub architecture: String,
    /// A reward or value model: the head gives one number (`…ForSequenceClassification` with one
    /// label).
    pub scores: bool,
    /// Ids of the vocabulary (V): rows of the embedding.
    pub vocab_size: i64,
    /// `pad_token_id`: the id whose embedding gets no gradient from being read.
    pub padding_index: Option<i64>,
    /// Width of the hidden states.
    pub hidden_size: i64,
    /// Layers, without multi-token prediction modules.
    pub num_hidden_layers: i64,
    /// Positions that the model was trained for; the architecture's default if config.json has
    /// none.
    pub max_position_embeddings: i64,
    /// ε of the block norms.
    pub rms_norm_eps: f64,
    /// The output head is the embedding; never of a model that [`scores`](Self::scores).
    pub tie_word_embeddings: bool,
    /// Standard deviation of freshly initialised matrices.
    pub initializer_range: f64,
    /// Layers with routed experts; 0 in dense models.
    pub moe_layers: i64,
    /// Routed experts of such a layer (E); 0 in dense models.
    pub experts: i64,
    /// Routed experts that each token goes to (K); 0 in dense models.
    pub experts_per_token: i64,
    /// The rotary position embedding.
    pub rope: RopeSpec,
    /// The parts of the layers.
    pub blueprint: Blueprint,
    /// The layers behind `num_hidden_layers` of a checkpoint are multi-token prediction modules.
    pub prediction_modules: bool,
    /// The first multi-token prediction module is part of the model.
    pub runs_prediction_module: bool,
    /// The block that shares a scale in weights that are stored in FP8.
    pub fp8_block: BlockSize,
    /// The file's own fields, so that those which this release does not read are written back
    /// unchanged.
    fields: Map<String, Value>,
}

impl Config {
    /// Reads `dir/config.json` and checks it.
    pub fn read(dir: &Path) -> Result<Config> {
        let path = dir.join("config.json");
        let text =
            user_file::read_text(&path, CONFIG_MAX_BYTES).map_err(|source| ShapeError::Io {
                path: path.clone(),
                source,
            })?;
        Config::parse(&text).map_err(|problem| ShapeError::InDirectory {
            dir: dir.to_owned(),
            problem: Box::new(problem),
        })
    }

    /// Checks the text of a config.json. Errors name the field.
    pub fn parse(json: &str) -> Result<Config> {
        let fields = match serde_json::from_str(json) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(ShapeError::Config("the file is not a JSON object".into())),
            Err(error) => return Err(ShapeError::Config(format!("not JSON: {error}"))),
        };
        let read = Fields(&fields);
        let (registered, scores) = architecture::find(&read)?;
        if scores {
            read.one_label()?;
        }
        let fp8_block = read.fp8_block()?;
        // "swish" is another name of it in transformers. `attention_dropout` is ignored: it says
        // how a model was trained, and r1d trains without dropout.
        if read.text("hidden_act")? != Some("swish") {
            read.expect_text("hidden_act", "silu")?;
        }
        let (vocab_size, hidden_size) = (read.size("vocab_size")?, read.size("hidden_size")?);
        let max_position_embeddings =
            read.max_position_embeddings(registered.max_position_embeddings)?;
        let num_hidden_layers = read.size("num_hidden_layers")?;
        check_counts(&read)?;
        let blueprint = (registered.parse)(&read)?;
        check_tensors(&blueprint)?;
        let moe_layers = blueprint.expert_layers().count() as i64;
        let (experts, experts_per_token) =
            blueprint.expert_layers().next().map_or((0, 0), |sizes| {
                (sizes.rule.experts, sizes.rule.experts_per_token)
            });
        Ok(Config {
            architecture: if scores {
                architecture::scoring(registered.name)
            } else {
                registered.name.to_owned()
            },
            scores,
            vocab_size,
            padding_index: read.padding_index(vocab_size)?,
            hidden_size,
            num_hidden_layers,
            max_position_embeddings,
            rms_norm_eps: read.positive_or("rms_norm_eps", 1e-6)?,
            tie_word_embeddings: read.flag_or("tie_word_embeddings", false)? && !scores,
            initializer_range: read.positive_or("initializer_range", 0.02)?,
            moe_layers,
            experts,
            experts_per_token,
            rope: RopeSpec::parse(&read, max_position_embeddings)?,
            blueprint,
            prediction_modules: registered.prediction_modules,
            runs_prediction_module: false,
            fp8_block,
            fields,
        })
    }

    /// Gives the model an output head of its own. A head among the weights takes precedence over
    /// config.json, as in transformers.
    pub fn untie(&mut self) {
        self.tie_word_embeddings = false;
        self.fields
            .insert("tie_word_embeddings".into(), false.into());
    }

    /// Puts a scalar head in the output head's place.
    pub fn with_score(mut self) -> Config {
        if !self.scores {
            self.scores = true;
            self.architecture = architecture::scoring(&self.architecture);
            self.tie_word_embeddings = false;
            self.runs_prediction_module = false;
            for (key, value) in [
                ("id2label", json!({ "0": "LABEL_0" })),
                ("label2id", json!({ "LABEL_0": 0 })),
            ] {
                self.fields.insert(key.into(), value);
            }
            for key in ["num_labels", "problem_type"] {
                self.fields.remove(key);
            }
        }
        self
    }

    /// Fails for a model that gives scores where one that gives logits is needed.
    pub fn refuse_scores(&self) -> Result<()> {
        if self.scores {
            Err(contradiction(format!(
                "`architectures` is \"{}\", a reward model, which generates nothing",
                self.architecture
            )))
        } else {
            Ok(())
        }
    }

    /// Adds the multi-token prediction module that config.json announces. Fails if it announces
    /// none, or more than one.
    pub fn with_prediction(mut self) -> Result<Config> {
        self.refuse_scores()?;
        let announced = Fields(&self.fields).count_or("num_nextn_predict_layers", 0)?;
        if !self.prediction_modules || announced < 1 {
            let message = "the model has no multi-token prediction module: \
                           `num_nextn_predict_layers` of a DeepSeek-V3 must be 1";
            return Err(contradiction(message));
        }
        if announced > 1 {
            return Err(unsupported("num_nextn_predict_layers", announced, "one is"));
        }
        self.runs_prediction_module = true;
        Ok(self)
    }

    /// Numbers that the cache keeps per token, summed over all layers.
    pub fn cache_values_per_token(&self) -> u64 {
        let per_layer: i64 = self
            .blueprint
            .cached_rows(false)
            .iter()
            .map(|(heads, width)| heads * width)
            .sum();
        (self.cached_layers() * per_layer) as u64
    }

    /// Layers of a cache. If the multi-token prediction module is run, its layer is the last.
    pub fn cached_layers(&self) -> i64 {
        self.num_hidden_layers + i64::from(self.runs_prediction_module)
    }

    /// The text of config.json for weights of `dtype` (`float32`, `bfloat16`, `float16`). It has
    /// the rope fields in the spellings of transformers 4 and 5.
    pub fn to_json(&self, dtype: &str) -> String {
        let mut fields = self.fields.clone();
        fields.insert(
            "architectures".into(),
            Value::from(vec![self.architecture.as_str()]),
        );
        for key in ["dtype", "torch_dtype"] {
            fields.insert(key.into(), Value::from(dtype));
        }
        // Weights are written unquantised, and with the prediction module only if it is run.
        fields.remove("quantization_config");
        if self.prediction_modules && !self.runs_prediction_module {
            fields.insert("num_nextn_predict_layers".into(), 0.into());
        }
        self.rope.write(&mut fields);
        let mut text = serde_json::to_string_pretty(&Value::Object(fields)).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// Largest config.json that is read, in bytes.
const CONFIG_MAX_BYTES: u64 = 16 << 20;
/// Largest number of layers, and of experts in a layer: lists of that length are made before any
/// weight is looked for.
const COUNT_MAX: i64 = 1 << 16;

/// Largest number of tensors of all layers, whose names are listed to look for them; DeepSeek-V3
/// has 45,000.
const TENSORS_MAX: i64 = 1 << 18;
/// Largest number of tensors of a layer, apart from its routed experts.
const BLOCK_TENSORS: i64 = 20;

/// Refuses counts of which lists are made that no memory holds.
fn check_counts(read: &Fields) -> Result<()> {
    for key in [
        "num_hidden_layers",
        "n_routed_experts",
        "num_experts",
        "num_local_experts",
        "num_attention_heads",
    ] {
        if let Some(count) = read.optional_count(key)?.filter(|&count| count > COUNT_MAX) {
            return Err(contradiction(format!(
                "`{key}` is {count}, expected at most {COUNT_MAX}"
            )));
        }
    }
    Ok(())
}

/// Refuses more tensors than can be looked for by name.
fn check_tensors(blueprint: &Blueprint) -> Result<()> {
    let in_a_layer = |sizes: &FeedForwardSizes| match sizes {
        FeedForwardSizes::Experts(sizes) => BLOCK_TENSORS + 3 * sizes.rule.experts,
        FeedForwardSizes::Dense { .. } => BLOCK_TENSORS,
    };
    let tensors: i64 = blueprint.feed_forwards.iter().map(in_a_layer).sum();
    if tensors > TENSORS_MAX {
        return Err(contradiction(format!(
            "the layers have {tensors} tensors, expected at most {TENSORS_MAX}"
        )));
    }
    Ok(())
}
