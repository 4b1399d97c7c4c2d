//! Reads rotary position embedding (Su et al. 2021) from config.json, with its extensions to longer
//! contexts: linear, Llama 3's, YaRN (Peng et al. 2023).

use crate::error::{Result, contradiction, unsupported};
use crate::fields::Fields;
use serde_json::{Map, Value, json};
use std::f64::consts::PI;

/// The rotation of positions, as config.json has it.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// The base of the frequencies (`rope_theta`); above 1.
    pub theta: f64,
    /// How the positions are stretched; `None` if they are not.
    pub scaling: Option<Scaling>,
}

/// How a model trained on shorter contexts is stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// All frequencies are divided by the factor (Chen et al. 2023).
    Linear {
        factor: f64,
    },
    Llama3(Llama3),
    Yarn(Yarn),
}

/// "The Llama 3 herd of models": waves longer than the original context / `low_freq_factor` are
/// stretched by `factor`, those shorter than the original context / `high_freq_factor` are not,
/// those between go over from one to the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3 {
    pub factor: f64,
    pub low_freq_factor: f64,
    pub high_freq_factor: f64,
    pub original_max_position_embeddings: f64,
}

/// "YaRN: Efficient Context Window Extension of Large Language Models", 3.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    pub beta_fast: f64,
    pub beta_slow: f64,
    pub original_max_position_embeddings: f64,
    pub mscale: Option<f64>,
    pub mscale_all_dim: Option<f64>,
    pub attention_factor: Option<f64>,
    /// Round the bounds of the ramp to whole dimensions.
    pub truncate: bool,
}

const THETA_DEFAULT: f64 = 10_000.0;
const ORIGINAL_MAX: &str = "original_max_position_embeddings";

impl RopeSpec {
    /// Reads `rope_scaling` + `rope_theta` (transformers 4, DeepSeek's own files) or
    /// `rope_parameters` (transformers 5); both may be there if they agree.
    pub fn parse(fields: &Fields, max_position_embeddings: i64) -> Result<RopeSpec> {
        let outer_theta = fields.optional_number("rope_theta")?;
        // If both spellings have it, transformers uses the outer one.
        let outer_original = fields.optional_size(ORIGINAL_MAX)?;
        let read = |object: &Fields| {
            RopeSpec::parse_object(object, outer_theta, outer_original, max_position_embeddings)
        };
        let old = fields
            .object("rope_scaling")?
            .map(|o| read(&o))
            .transpose()?;
        let new = fields
            .object("rope_parameters")?
            .map(|o| read(&o))
            .transpose()?;
        if let (Some(old), Some(new)) = (&old, &new)
            && old != new
        {
            return Err(contradiction(
                "`rope_scaling` and `rope_parameters` disagree: keep one of them",
            ));
        }
        let spec = new.or(old).unwrap_or(RopeSpec {
            theta: outer_theta.unwrap_or(THETA_DEFAULT),
            scaling: None,
        });
        if outer_theta.is_some_and(|theta| theta != spec.theta) {
            return Err(contradiction(
                "`rope_theta` and the `rope_theta` of `rope_parameters` disagree: keep one of them",
            ));
        }
        if spec.theta <= 1.0 {
            return Err(contradiction(format!(
                "`rope_theta` is {}, expected a number above 1",
                spec.theta
            )));
        }
        Ok(spec)
    }

    fn parse_object(
        object: &Fields,
        outer_theta: Option<f64>,
        outer_original: Option<i64>,
        max_position_embeddings: i64,
    ) -> Result<RopeSpec> {
        let theta = object
            .optional_number("rope_theta")?
            .or(outer_theta)
            .unwrap_or(THETA_DEFAULT);
        if object
            .optional_number("partial_rotary_factor")?
            .is_some_and(|f| f != 1.0)
        {
            return Err(unsupported("partial_rotary_factor", "not 1", "only 1 is"));
        }
        let rope_type = rope_type(object)?;
        let original = || -> Result<f64> {
            let inner = object.positive_or(ORIGINAL_MAX, max_position_embeddings as f64)?;
            Ok(outer_original.map_or(inner, |outer| outer as f64))
        };
        let required = |key: &str| -> Result<f64> {
            if object.get(key).is_none() {
                return Err(contradiction(format!(
                    "`{key}` is missing, which rope type \"{rope_type}\" needs"
                )));
            }
            object.positive_or(key, 1.0)
        };
        let scaling = match rope_type {
            "default" => None,
            "linear" => Some(Scaling::Linear {
                factor: required("factor")?,
            }),
            "llama3" => {
                let spec = Llama3 {
                    factor: required("factor")?,
                    low_freq_factor: required("low_freq_factor")?,
                    high_freq_factor: required("high_freq_factor")?,
                    original_max_position_embeddings: original()?,
                };
                if spec.high_freq_factor <= spec.low_freq_factor {
                    return Err(contradiction(
                        "`high_freq_factor` must be above `low_freq_factor`",
                    ));
                }
                Some(Scaling::Llama3(spec))
            }
            "yarn" => {
                let original = original()?;
                Some(Scaling::Yarn(Yarn {
                    factor: object
                        .positive_or("factor", max_position_embeddings as f64 / original)?,
                    beta_fast: object.positive_or("beta_fast", 32.0)?,
                    beta_slow: object.positive_or("beta_slow", 1.0)?,
                    original_max_position_embeddings: original,
                    mscale: object.optional_number("mscale")?.filter(|&m| m != 0.0),
                    mscale_all_dim: object
                        .optional_number("mscale_all_dim")?
                        .filter(|&m| m != 0.0),
                    attention_factor: object.optional_number("attention_factor")?,
                    truncate: object.flag_unless_absent("truncate")?,
                }))
            }
            other => {
                let supported = "supported are \"default\", \"linear\", \"llama3\" and \"yarn\"";
                return Err(unsupported("rope_type", format!("\"{other}\""), supported));
            }
        };
        Ok(RopeSpec { theta, scaling })
    }

    fn yarn(&self) -> Option<&Yarn> {
        match &self.scaling {
            Some(Scaling::Yarn(yarn)) => Some(yarn),
            _ => None,
        }
    }

    /// Writes the fields in both spellings, for transformers 4 and 5.
    pub fn write(&self, fields: &mut Map<String, Value>) {
        let mut parameters = Map::new();
        let mut put = |key: &str, value: Value| parameters.insert(key.into(), value);
        let kind = match &self.scaling {
            None => "default",
            Some(Scaling::Linear { factor }) => {
                put("factor", json!(factor));
                "linear"
            }
            Some(Scaling::Llama3(llama3)) => {
                put("factor", json!(llama3.factor));
                put("low_freq_factor", json!(llama3.low_freq_factor));
                put("high_freq_factor", json!(llama3.high_freq_factor));
                put(
                    ORIGINAL_MAX,
                    json!(llama3.original_max_position_embeddings as i64),
                );
                "llama3"
            }
            Some(Scaling::Yarn(yarn)) => {
                put("factor", json!(yarn.factor));
                put("beta_fast", json!(yarn.beta_fast));
                put("beta_slow", json!(yarn.beta_slow));
                put(
                    ORIGINAL_MAX,
                    json!(yarn.original_max_position_embeddings as i64),
                );
                let optional = [
                    ("mscale", yarn.mscale),
                    ("mscale_all_dim", yarn.mscale_all_dim),
                    ("attention_factor", yarn.attention_factor),
                ];
                for (key, value) in optional {
                    if let Some(value) = value {
                        put(key, json!(value));
                    }
                }
                if !yarn.truncate {
                    put("truncate", false.into());
                }
                "yarn"
            }
        };
        put("rope_type", kind.into());
        if self.scaling.is_some() {
            put("type", kind.into());
        }
        fields.remove(ORIGINAL_MAX);
        fields.insert("rope_theta".into(), json!(self.theta));
        fields.insert(
            "rope_scaling".into(),
            if self.scaling.is_some() {
                Value::Object(parameters.clone())
            } else {
                Value::Null
            },
        );
        parameters.insert("rope_theta".into(), json!(self.theta));
        fields.insert("rope_parameters".into(), Value::Object(parameters));
    }

    /// The factor of the softmax scale in DeepSeek's attention: m², m = 0.1 · mscale_all_dim ·
    /// ln(factor) + 1.
    pub fn attention_scale_factor(&self) -> f64 {
        match self.yarn() {
            Some(Yarn {
                factor,
                mscale_all_dim: Some(mscale),
                ..
            }) => magnitude(*factor, *mscale).powi(2),
            _ => 1.0,
        }
    }

    /// Radians per position of each of the `dims / 2` planes, in float32 as transformers computes
    /// them: at position 100,000 their last bit is worth 0.006 rad.
    pub fn frequencies(&self, dims: i64) -> Vec<f32> {
        let exponent = |i: i64| (2 * i) as f32 / dims as f32;
        let plain = (0..dims / 2).map(|i| (self.theta as f32).powf(exponent(i)));
        match &self.scaling {
            None => plain.map(|f| 1.0 / f).collect(),
            Some(Scaling::Linear { factor }) => plain.map(|f| 1.0 / f / *factor as f32).collect(),
            Some(Scaling::Llama3(llama3)) => plain.map(|f| llama3.frequency(1.0 / f)).collect(),
            Some(Scaling::Yarn(yarn)) => {
                let (low, high) = yarn.ramp(self.theta, dims);
                let frequency = |(i, f): (usize, f32)| {
                    let keep =
                        1.0 - ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    1.0 / (yarn.factor as f32 * f) * (1.0 - keep) + 1.0 / f * keep
                };
                plain.enumerate().map(frequency).collect()
            }
        }
    }

    /// The factor of cos and sin.
    pub fn attention_factor(&self) -> f64 {
        self.yarn().map_or(1.0, |yarn| {
            yarn.attention_factor
                .unwrap_or_else(|| match (yarn.mscale, yarn.mscale_all_dim) {
                    (Some(mscale), Some(all)) => {
                        magnitude(yarn.factor, mscale) / magnitude(yarn.factor, all)
                    }
                    _ => magnitude(yarn.factor, 1.0),
                })
        })
    }
}

/// YaRN's √(1/t): how much sharper attention must be on a stretched context.
fn magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * factor.ln() + 1.0
    }
}

impl Llama3 {
    fn frequency(&self, plain: f32) -> f32 {
        let context = self.original_max_position_embeddings as f32;
        let (factor, low, high) = (
            self.factor as f32,
            self.low_freq_factor as f32,
            self.high_freq_factor as f32,
        );
        let wave = 2.0 * std::f32::consts::PI / plain;
        if wave > context / low {
            plain / factor
        } else if wave < context / high {
            plain
        } else {
            let smooth = (context / wave - low) / (high - low);
            (1.0 - smooth) * plain / factor + smooth * plain
        }
    }
}

impl Yarn {
    /// The first and the last plane of YaRN's ramp. Before it frequencies stay as they were (fast),
    /// behind it they are divided by `factor` (slow), and within it they go over from one to the
    /// other.
    pub fn ramp(&self, theta: f64, dims: i64) -> (f64, f64) {
        let plane = |rotations: f64| {
            dims as f64 * (self.original_max_position_embeddings / (rotations * 2.0 * PI)).ln()
                / (2.0 * theta.ln())
        };
        let (low, high) = (plane(self.beta_fast), plane(self.beta_slow));
        let (low, high) = if self.truncate {
            (low.floor(), high.ceil())
        } else {
            (low, high)
        };
        let (low, high) = (low.max(0.0), high.min((dims - 1) as f64));
        (low, if low == high { high + 0.001 } else { high })
    }
}

/// The type of scaling, which has two names for its field.
fn rope_type<'a>(object: &Fields<'a>) -> Result<&'a str> {
    let rope_type = match (object.text("rope_type")?, object.text("type")?) {
        (Some(a), Some(b)) if a != b => {
            return Err(contradiction(format!(
                "rope `type` \"{b}\" and `rope_type` \"{a}\" disagree"
            )));
        }
        (a, b) => a.or(b).unwrap_or("default"),
    };
    let sharpened = object
        .optional_number("mscale_all_dim")?
        .is_some_and(|mscale| mscale != 0.0);
    if sharpened && !matches!(rope_type, "default" | "yarn") {
        return Err(unsupported(
            "mscale_all_dim",
            format!("there with rope type \"{rope_type}\""),
            "it is with \"yarn\"",
        ));
    }
    Ok(rope_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deepseek(factor: f64, mscale: f64) -> RopeSpec {
        let text = format!(
            r#"{{"rope_theta": 10000, "rope_scaling": {{"type": "yarn", "factor": {factor}, "beta_fast": 32, "beta_slow": 1,
                "mscale": {mscale}, "mscale_all_dim": {mscale}, "original_max_position_embeddings": 4096}}}}"#
        );
        let fields: Map<String, Value> = serde_json::from_str(&text).unwrap();
        RopeSpec::parse(&Fields(&fields), 163_840).unwrap()
    }

    #[test]
    fn yarn_gives_deepseek_v3s_frequencies() {
        let spec = deepseek(40.0, 1.0);
        assert_eq!(spec.yarn().unwrap().ramp(spec.theta, 64), (10.0, 23.0));
        let unrounded = Yarn {
            truncate: false,
            ..spec.yarn().unwrap().clone()
        };
        let (low, high) = unrounded.ramp(spec.theta, 64);
        assert!(
            (low - 10.472240810318025).abs() < 1e-12 && (high - 22.513440636877274).abs() < 1e-12
        );
        let expected = [
            (0, 1.0),
            (1, 0.7498942093324559),
            (9, 0.07498942093324558),
            (10, 0.056234132519034905),
            (11, 0.03900692656714386),
            (15, 0.008334508951020777),
            (22, 1.778279410038922e-4),
            (23, 3.33380358040831e-5),
            (24, 2.5e-5),
            (31, 3.33380358e-6),
        ];
        let found = spec.frequencies(64);
        for (plane, expected) in expected {
            let error = (f64::from(found[plane]) / expected - 1.0).abs();
            assert!(
                error < 1e-6,
                "plane {plane}: {} for {expected}",
                found[plane]
            );
        }
    }

    #[test]
    fn yarn_sharpens_attention_as_deepseek_does() {
        for (mscale, scale) in [(1.0, 0.1352337788608801), (0.707, 0.11472138679292611)] {
            let spec = deepseek(40.0, mscale);
            assert!((192f64.powf(-0.5) * spec.attention_scale_factor() - scale).abs() < 1e-15);
            assert_eq!(spec.attention_factor(), 1.0);
        }
        assert_eq!(deepseek(1.0, 1.0).attention_scale_factor(), 1.0);
    }

    #[test]
    fn a_lone_mscale_falls_back_to_the_papers_factor() {
        let yarn = Yarn {
            mscale_all_dim: None,
            ..deepseek(40.0, 1.0).yarn().unwrap().clone()
        };
        let spec = RopeSpec {
            theta: 10_000.0,
            scaling: Some(Scaling::Yarn(yarn)),
        };
        assert!((spec.attention_factor() - (0.1 * 40f64.ln() + 1.0)).abs() < 1e-15);
        assert_eq!(spec.attention_scale_factor(), 1.0);
    }
}
