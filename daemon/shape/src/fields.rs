//! Typed access to the fields of config.json.

use crate::error::{Result, ShapeError, unsupported};
use crate::fp8::{BLOCK_SIZE, BlockSize};
use serde_json::{Map, Value};

/// Largest size in config.json. Real models are below it, and products of a few sizes stay within
/// 64 bits.
const SIZE_MAX: i64 = 1 << 31;
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
    pub(crate) fn padding_index(&self, vocab_size: i64) -> Result<Option<i64>> {
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
    pub(crate) fn one_label(&self) -> Result<()> {
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
    pub(crate) fn fp8_block(&self) -> Result<BlockSize> {
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
