//! config.json: the fields that every architecture shares, checked, and the typed access that the
//! architectures read theirs with.

use crate::architecture::{self, Blueprint, FeedForwardSizes};
use crate::error::{Result, ShapeError};
use crate::fp8::{BLOCK_SIZE, BlockSize, scale_name};
use crate::rope::RopeSpec;
use crate::tensors::{HEAD, TensorShape, tensors};
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

/// Sizes that a job's log and plan show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The class name, as in [`Config::architecture`].
    pub architecture: String,
    /// Numbers in all trained tensors.
    pub parameters: u64,
    /// Parameters that one token's forward pass uses, embedding and head included.
    pub active_parameters: u64,
    /// Ids of the vocabulary.
    pub vocab_size: u32,
    /// Layers with routed experts; 0 in dense models.
    pub moe_layers: u32,
    /// Routed experts that each token goes to; 0 in dense models.
    pub experts_per_token: u32,
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
        let blueprint = (registered.parse)(&read)?;
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

    /// Whether the model has no use for this tensor on disk.
    pub fn ignores(&self, tensor: &str) -> bool {
        let no_head = self.tie_word_embeddings || self.scores;
        let unused_head = no_head && (tensor == HEAD || tensor == scale_name(HEAD));
        unused_head || tensor.ends_with(".rotary_emb.inv_freq") || self.leaves_out(tensor)
    }

    /// Lists every tensor of the model, as it lies on disk.
    pub fn tensors(&self) -> Vec<TensorShape> {
        tensors(self)
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

    /// The part of a tensor's name behind its layer, if that layer is a multi-token prediction
    /// module.
    fn within_prediction<'a>(&self, tensor: &'a str) -> Option<&'a str> {
        let (layer, name) = tensor.strip_prefix("model.layers.")?.split_once('.')?;
        let behind = layer
            .parse::<i64>()
            .is_ok_and(|layer| layer >= self.num_hidden_layers);
        (self.prediction_modules && behind).then_some(name)
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

    /// Counts the parameters from their shapes alone: no tensor is allocated.
    pub fn summary(&self) -> Summary {
        let tensors = self.tensors();
        let trained = || tensors.iter().filter(|tensor| tensor.trained);
        let routed: u64 = trained()
            .filter(|tensor| tensor.routed)
            .map(TensorShape::count)
            .sum();
        let parameters = trained().map(TensorShape::count).sum();
        let idle = match self.experts {
            0 => 0,
            experts => routed / experts as u64 * (experts - self.experts_per_token) as u64,
        };
        Summary {
            architecture: self.architecture.clone(),
            parameters,
            active_parameters: parameters - idle,
            vocab_size: self.vocab_size as u32,
            moe_layers: self.moe_layers as u32,
            experts_per_token: self.experts_per_token as u32,
        }
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
/// Largest size in config.json. Real models are below it, and products of a few sizes stay within
/// 64 bits.
const SIZE_MAX: i64 = 1 << 31;
/// Largest number of layers, and of experts in a layer: lists of that length are made before any
/// weight is looked for.
const COUNT_MAX: i64 = 1 << 16;

/// Largest number of tensors of all layers, whose names are listed to look for them; DeepSeek-V3
/// has 45,000.
const TENSORS_MAX: i64 = 1 << 18;
/// Largest number of tensors of a layer, apart from its routed experts.
const BLOCK_TENSORS: i64 = 20;

/// Largest absolute value of a number in config.json: products of a few such numbers with what the
/// model computes still fit float32. A job's numbers have the same limits.
const NUMBER_MAX: f64 = 1e30;
/// Smallest absolute value of a number other than 0: a smaller one would be 0 in float32.
const NUMBER_MIN: f64 = 1e-37;
const FLOAT32: &str = "that float32 holds (1e-37 to 1e30)";

fn is_held(number: f64) -> bool {
    number == 0.0 || (NUMBER_MIN..=NUMBER_MAX).contains(&number.abs())
}

/// Typed access to a JSON object. An absent field and one that is `null` are the same, except to
/// [`Fields::is_absent`] and [`Fields::flag_unless_absent`].
pub struct Fields<'a>(pub &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Whether the object does not have the key, not even as `null`.
    pub fn is_absent(&self, key: &str) -> bool {
        !self.0.contains_key(key)
    }

    pub fn max_position_embeddings(&self, default: i64) -> Result<i64> {
        Ok(self
            .optional_size("max_position_embeddings")?
            .unwrap_or(default))
    }

    /// Reads `pad_token_id`; a negative one counts from the end of the vocabulary.
    fn padding_index(&self, vocab_size: i64) -> Result<Option<i64>> {
        let wanted = format!("an id of the vocabulary of {vocab_size}, or null");
        let inside = |id: i64| {
            (-vocab_size..vocab_size)
                .contains(&id)
                .then(|| id.rem_euclid(vocab_size))
        };
        self.typed("pad_token_id", &wanted, |v| v.as_i64().and_then(inside))
    }

    fn wrong(key: &str, value: &Value, wanted: &str) -> ShapeError {
        ShapeError::Config(format!("`{key}` is {value}, expected {wanted}"))
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.get(key)
            .map(|value| read(value).ok_or_else(|| Self::wrong(key, value, wanted)))
            .transpose()
    }

    fn required<T>(key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| ShapeError::Config(format!("`{key}` is missing")))
    }

    /// Reads a required whole number of at least 1.
    pub fn size(&self, key: &str) -> Result<i64> {
        Self::required(key, self.optional_size(key)?)
    }

    pub fn optional_size(&self, key: &str) -> Result<Option<i64>> {
        self.typed(
            key,
            "a whole number of at least 1, and not astronomical",
            |v| v.as_i64().filter(|n| (1..=SIZE_MAX).contains(n)),
        )
    }

    /// Reads a whole number of at least 0, or gives `default`.
    pub fn count_or(&self, key: &str, default: i64) -> Result<i64> {
        Ok(self.optional_count(key)?.unwrap_or(default))
    }

    /// Reads a whole number of at least 0.
    pub fn optional_count(&self, key: &str) -> Result<Option<i64>> {
        self.typed(
            key,
            "a whole number of at least 0, and not astronomical",
            |v| v.as_i64().filter(|n| (0..=SIZE_MAX).contains(n)),
        )
    }

    /// Reads a number that the model's float32 can hold.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, &format!("a number {FLOAT32}"), |v| {
            v.as_f64().filter(|&x| is_held(x))
        })
    }

    pub fn positive_or(&self, key: &str, default: f64) -> Result<f64> {
        let wanted = format!("a number above 0 {FLOAT32}");
        Ok(self
            .typed(key, &wanted, |v| {
                v.as_f64().filter(|&x| x > 0.0 && is_held(x))
            })?
            .unwrap_or(default))
    }

    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self
            .typed(key, "true or false", Value::as_bool)?
            .unwrap_or(default))
    }

    /// Reads a flag that is true if the key is absent; `null` is false, as in transformers.
    pub fn flag_unless_absent(&self, key: &str) -> Result<bool> {
        self.flag_or(key, self.is_absent(key))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>> {
        Ok(self.typed(key, "an object", Value::as_object)?.map(Fields))
    }

    /// Refuses any value but `supported`, which is also the meaning of an absent field.
    pub fn expect_text(&self, key: &str, supported: &str) -> Result<()> {
        match self.text(key)? {
            Some(found) if found != supported => Err(unsupported(
                key,
                format!("\"{found}\""),
                format!("only \"{supported}\" is"),
            )),
            _ => Ok(()),
        }
    }

    /// Refuses any number of labels but one. transformers assumes two if config.json has none.
    fn one_label(&self) -> Result<()> {
        let named = self.object("id2label")?.map(|labels| labels.0.len() as i64);
        match self.optional_count("num_labels")?.or(named).unwrap_or(2) {
            1 => Ok(()),
            other => Err(unsupported(
                "num_labels",
                other,
                "a reward model has 1, so `id2label` has one entry",
            )),
        }
    }

    /// The block size of FP8 weights. FP8 with a scale per block is the only quantisation that is
    /// read.
    fn fp8_block(&self) -> Result<BlockSize> {
        let Some(quantisation) = self.object("quantization_config")? else {
            return Ok(BLOCK_SIZE);
        };
        let method = quantisation.text("quant_method")?.unwrap_or("unnamed");
        let format = quantisation.text("fmt")?.unwrap_or("e4m3");
        if method != "fp8" || format != "e4m3" {
            let supported = "\"fp8\" in e4m3 with block scales is; convert other checkpoints to \
                             bfloat16 first and drop the field";
            return Err(unsupported(
                "quantization_config",
                format!("{method} ({format})"),
                supported,
            ));
        }
        let wanted = "two whole numbers of at least 1";
        let pair = |value: &Value| match value.as_array().map(Vec::as_slice) {
            Some([rows, columns]) => Some((
                rows.as_i64().filter(|&n| n >= 1)?,
                columns.as_i64().filter(|&n| n >= 1)?,
            )),
            _ => None,
        };
        if !quantisation.is_absent("weight_block_size")
            && quantisation.get("weight_block_size").is_none()
        {
            return Err(unsupported(
                "weight_block_size",
                "null (one scale per tensor)",
                "two numbers, the size of a block, are",
            ));
        }
        let block = quantisation.typed("weight_block_size", wanted, pair)?;
        Ok(block.map_or(BLOCK_SIZE, |(rows, columns)| BlockSize { rows, columns }))
    }
}

pub(crate) fn unsupported(
    field: &str,
    found: impl std::fmt::Display,
    supported: impl Into<String>,
) -> ShapeError {
    ShapeError::Unsupported {
        field: field.into(),
        found: found.to_string(),
        supported: supported.into(),
    }
}

/// An error for fields of config.json that contradict each other or this model.
pub fn contradiction(message: impl Into<String>) -> ShapeError {
    ShapeError::Config(message.into())
}
