//! `r1d-worker verify`: checks that a model directory computes what transformers computes. Compares
//! logits, and greedy decoding through the cache, with golden values that scripts of `tests/` or
//! users made. It needs no tokenizer and ignores end-of-sequence ids.

use crate::place::{Place, PlaceError};
use clap::ValueEnum;
use r1d_model::{CausalLm, Forward, ModelError, Packed, checkpoint};
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::worker::{Generate, Group, Slots};
use r1d_proto::world::SystemClock;
use r1d_sampler::{Sampler, SamplerError};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tch::{Device, Kind, TchError, Tensor};

/// Rows of logits that are compared at a time (`LIM-1`): bounds memory for large vocabularies.
const COMPARE_ROWS_MAX: i64 = 512;

#[derive(clap::Args)]
pub(crate) struct VerifyArguments {
    /// A Hugging Face model directory.
    pub dir: PathBuf,
    /// A safetensors file with `input_ids` [B, T] int64, `logits` [B, T, V] float32 and, where
    /// decoding is to be compared, `greedy` [1, N] int64.
    #[arg(long, value_name = "FILE")]
    pub golden: PathBuf,
    /// An adapter in peft's layout (adapter_config.json, adapter_model.safetensors) for the model.
    #[arg(long, value_name = "DIR")]
    pub lora: Option<PathBuf>,
    /// The logits may differ by this times max(1, standard deviation of the golden logits).
    #[arg(long, default_value_t = 2e-5)]
    pub atol: f64,
    /// The first so many ids of `greedy` are its prompt.
    #[arg(long, default_value_t = 16)]
    pub prompt_len: usize,
    #[command(flatten)]
    pub place: Place,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// The result of the comparison; its JSON is part of the command's interface.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct VerifyReport {
    pub ok: bool,
    /// `null` if a logit of the model or of the file is not finite.
    pub max_abs_diff: Option<f64>,
    pub tolerance: f64,
    pub logits_std: f64,
    /// `null` if the file has no `greedy`.
    pub greedy_ok: Option<bool>,
    /// Index in `greedy` of the first id that the model does not decode.
    pub greedy_first_mismatch: Option<usize>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error("{}: no tensor `{name}`: a golden file has `input_ids` [B, T] int64, `logits` [B, T, \
             V] float32 and may have `greedy` [1, N] int64", file.display())]
    Missing { file: PathBuf, name: &'static str },
    #[error("{}: `{name}` is {found:?}, it must be {expected}", file.display())]
    Dtype {
        file: PathBuf,
        name: &'static str,
        found: Kind,
        expected: &'static str,
    },
    #[error("{}: `{name}` has shape {found:?}, it must be {expected}", file.display())]
    Shape {
        file: PathBuf,
        name: &'static str,
        found: Vec<i64>,
        expected: String,
    },
    #[error("{}: `{name}` has id {id}, outside the model's vocabulary of {vocab_size}",
        file.display())]
    Id {
        file: PathBuf,
        name: &'static str,
        id: i64,
        vocab_size: i64,
    },
    #[error(
        "--prompt-len is {prompt_len}, but `greedy` has {ids} ids: at least 1 must be the \
         prompt's and at least 1 decoded"
    )]
    PromptLen { prompt_len: usize, ids: usize },
    #[error("--atol is {0}: it must be a number greater than 0")]
    Atol(f64),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    #[error(transparent)]
    Torch(#[from] TchError),
}

/// Runs the comparison. Exit code 0 if everything agrees, 1 if something differs.
pub(crate) fn run(arguments: VerifyArguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let report = verify(&arguments)?;
    match arguments.output {
        Format::Text => println!("{report}"),
        Format::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(crate) fn verify(arguments: &VerifyArguments) -> Result<VerifyReport, VerifyError> {
    if !(arguments.atol.is_finite() && arguments.atol > 0.0) {
        return Err(VerifyError::Atol(arguments.atol));
    }
    let golden = Golden::read(&arguments.golden)?;
    let greedy = golden
        .greedy
        .as_ref()
        .map(|ids| (arguments.prompt_len, ids.clone()));
    if let Some((prompt_len, ids)) = &greedy
        && !(1..ids.len()).contains(prompt_len)
    {
        return Err(VerifyError::PromptLen {
            prompt_len: *prompt_len,
            ids: ids.len(),
        });
    }
    let (device, kind) = arguments.place.open()?;
    let mut model = CausalLm::load(&arguments.dir, device, kind)?;
    model.set_fp8(arguments.place.fp8);
    if let Some(adapter) = &arguments.lora {
        model.load_adapter(adapter)?;
    }
    golden.fits(&arguments.golden, model.config.vocab_size)?;

    let logits_std = f64::try_from(golden.logits.f_std(true)?)?;
    let tolerance = arguments.atol * logits_std.max(1.0);
    let max_abs_diff = tch::no_grad(|| compare_logits(&model, &golden))?;
    let greedy_first_mismatch = match &greedy {
        Some((prompt_len, ids)) => first_mismatch(&model, *prompt_len, ids)?,
        None => None,
    };
    let greedy_ok = greedy.map(|_| greedy_first_mismatch.is_none());
    Ok(VerifyReport {
        // A NaN is not within any tolerance.
        ok: max_abs_diff <= tolerance && greedy_ok != Some(false),
        max_abs_diff: max_abs_diff.is_finite().then_some(max_abs_diff),
        tolerance,
        logits_std,
        greedy_ok,
        greedy_first_mismatch,
    })
}

struct Golden {
    /// int64 `[B, T]`
    input_ids: Tensor,
    /// float32 `[B, T, V]`
    logits: Tensor,
    greedy: Option<Vec<i64>>,
}

impl Golden {
    fn read(file: &Path) -> Result<Golden, VerifyError> {
        let mut tensors = checkpoint::load_tensors(file, Device::Cpu)?;
        let mut take = |name: &'static str| {
            tensors
                .iter()
                .position(|(n, _)| n == name)
                .map(|i| tensors.swap_remove(i).1)
        };
        let missing = |name| VerifyError::Missing {
            file: file.to_owned(),
            name,
        };
        let input_ids = take("input_ids").ok_or_else(|| missing("input_ids"))?;
        let logits = take("logits").ok_or_else(|| missing("logits"))?;
        let greedy = take("greedy");

        let is = |name, tensor: &Tensor, kind, expected| match tensor.kind() {
            found if found == kind => Ok(()),
            found => Err(VerifyError::Dtype {
                file: file.to_owned(),
                name,
                found,
                expected,
            }),
        };
        let shaped = |name, tensor: &Tensor, fits: bool, expected: String| {
            if fits {
                Ok(())
            } else {
                Err(VerifyError::Shape {
                    file: file.to_owned(),
                    name,
                    found: tensor.size(),
                    expected,
                })
            }
        };
        is("input_ids", &input_ids, Kind::Int64, "int64")?;
        is("logits", &logits, Kind::Float, "float32")?;
        shaped(
            "input_ids",
            &input_ids,
            input_ids.dim() == 2 && input_ids.numel() > 0,
            "[B, T], not empty".into(),
        )?;
        let (rows, tokens) = input_ids.size2()?;
        let fits =
            matches!(logits.size().as_slice(), [b, t, v] if *b == rows && *t == tokens && *v > 0);
        shaped(
            "logits",
            &logits,
            fits,
            format!("[{rows}, {tokens}, V], as `input_ids` is [{rows}, {tokens}]"),
        )?;
        let greedy = match greedy {
            Some(ids) => {
                is("greedy", &ids, Kind::Int64, "int64")?;
                shaped(
                    "greedy",
                    &ids,
                    ids.dim() == 2 && ids.size()[0] == 1,
                    "[1, N]".into(),
                )?;
                Some(Vec::try_from(&ids.f_reshape([-1])?)?)
            }
            None => None,
        };
        Ok(Golden {
            input_ids,
            logits,
            greedy,
        })
    }

    /// Checks that the ids and logits belong to the model's vocabulary.
    fn fits(&self, file: &Path, vocab_size: i64) -> Result<(), VerifyError> {
        let size = self.logits.size();
        if size[2] != vocab_size {
            let expected = format!(
                "[{}, {}, {vocab_size}], as the model's vocabulary has {vocab_size} ids",
                size[0], size[1]
            );
            return Err(VerifyError::Shape {
                file: file.to_owned(),
                name: "logits",
                found: size,
                expected,
            });
        }
        let inputs = Vec::<i64>::try_from(&self.input_ids.f_reshape([-1])?)?;
        for (name, ids) in [
            ("input_ids", Some(&inputs)),
            ("greedy", self.greedy.as_ref()),
        ] {
            if let Some(&id) =
                ids.and_then(|ids| ids.iter().find(|id| !(0..vocab_size).contains(*id)))
            {
                return Err(VerifyError::Id {
                    file: file.to_owned(),
                    name,
                    id,
                    vocab_size,
                });
            }
        }
        Ok(())
    }
}

/// Largest absolute difference of all logits; NaN if either side has one.
fn compare_logits(model: &CausalLm, golden: &Golden) -> Result<f64, VerifyError> {
    let (rows, tokens) = golden.input_ids.size2()?;
    let input_ids = golden
        .input_ids
        .f_reshape([-1])?
        .f_to_device(model.device())?;
    let batch = Packed::new(input_ids, vec![tokens; rows as usize]);
    let hidden = model.forward(&batch, &Forward::default())?.hidden;
    let expected = golden.logits.f_view([rows * tokens, -1])?;
    let mut largest = 0.0;
    for first in (0..rows * tokens).step_by(COMPARE_ROWS_MAX as usize) {
        let count = COMPARE_ROWS_MAX.min(rows * tokens - first);
        let logits = model.logits(&hidden.f_narrow(0, first, count)?, &Forward::default())?;
        // `max` of a tensor with a NaN is NaN; `f64::max` would drop it.
        let logits = logits.f_to_device(Device::Cpu)?;
        let difference: f64 = f64::try_from(
            logits
                .f_sub(&expected.f_narrow(0, first, count)?)?
                .f_abs()?
                .f_max()?,
        )?;
        if difference.is_nan() {
            return Ok(difference);
        }
        largest = difference.max(largest);
    }
    Ok(largest)
}

/// Decodes exactly `ids.len() - prompt_len` ids behind the prompt, through the cache. Returns the
/// index of the first that differs from `ids`.
fn first_mismatch(
    model: &CausalLm,
    prompt_len: usize,
    ids: &[i64],
) -> Result<Option<usize>, VerifyError> {
    let slots = Slots::of(1, ids.len() as u32);
    let sampling = Sampling {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        keep_sampling_mask: false,
        max_completion_length: (ids.len() - prompt_len) as u32,
        stop_ids: vec![],
        seed: 0,
    };
    let prompt_ids = ids[..prompt_len].iter().map(|id| *id as u32).collect();
    let groups = vec![Group {
        prompt: 0,
        row: 0,
        prompt_ids,
        samples: vec![0],
    }];
    let request = Generate {
        stage: 0,
        step: 0,
        policy_version: 0,
        sampling,
        record_experts: false,
        groups,
    };
    let mut decoded = vec![];
    let mut sampler = Sampler::new(model, slots, false, SystemClock::shared())?;
    match sampler.generate(
        model,
        &request,
        &mut |rollout| decoded = rollout.completion_ids,
        &mut |_, _| {},
    ) {
        Ok(_) => {}
        // If no id can be drawn from the logits, none agrees.
        Err(SamplerError::NotFinite { position, .. }) => return Ok(Some(prompt_len + position)),
        Err(error) => return Err(error.into()),
    }
    let differs = |(_, (id, decoded)): &(usize, (&i64, &u32))| **id != i64::from(**decoded);
    Ok(ids
        .iter()
        .enumerate()
        .skip(prompt_len)
        .zip(&decoded)
        .map(|((i, id), d)| (i, (id, d)))
        .find(differs)
        .map(|(i, _)| i))
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max_abs_diff {
            Some(difference) => write!(f, "logits differ by at most {difference:.2e}")?,
            None => write!(f, "logits are not finite")?,
        }
        write!(
            f,
            " (tolerance {:.2e}, standard deviation {:.3})",
            self.tolerance, self.logits_std
        )?;
        match (self.greedy_ok, self.greedy_first_mismatch) {
            (None, _) => write!(f, "; no `greedy` to decode")?,
            (Some(_), None) => write!(f, "; greedy decoding agrees")?,
            (Some(_), Some(i)) => write!(f, "; greedy decoding differs first at id {i}")?,
        }
        write!(f, ": {}", if self.ok { "ok" } else { "NOT ok" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODELS: [&str; 5] = [
        "deepseek-v3-yarn",
        "deepseek-v3-plain",
        "deepseek-v3-biased",
        "qwen2",
        "qwen2-tied",
    ];

    fn fixture(model: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures")
            .join(model)
    }

    fn cpu() -> Place {
        Place {
            device: "cpu".into(),
            dtype: crate::place::Dtype::Float32,
            fp8: false,
        }
    }

    fn arguments(model: &str, golden: PathBuf) -> VerifyArguments {
        VerifyArguments {
            dir: fixture(model),
            golden,
            lora: None,
            atol: 2e-5,
            prompt_len: 16,
            place: cpu(),
            output: Format::Json,
        }
    }

    /// qwen2 compared with its golden file after a change.
    fn changed(
        change: impl FnOnce(&mut Vec<(String, Tensor)>),
    ) -> Result<VerifyReport, VerifyError> {
        let mut tensors =
            checkpoint::load_tensors(&fixture("qwen2").join("golden.safetensors"), Device::Cpu)
                .unwrap();
        change(&mut tensors);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("changed.safetensors");
        checkpoint::save_tensors(&file, &tensors).unwrap();
        verify(&arguments("qwen2", file))
    }

    /// Replaces the tensor `name`.
    fn set(tensors: &mut [(String, Tensor)], name: &str, with: impl FnOnce(&Tensor) -> Tensor) {
        let (_, tensor) = tensors.iter_mut().find(|(n, _)| n == name).unwrap();
        *tensor = with(tensor);
    }

    #[test]
    fn the_models_of_transformers_pass() {
        for model in MODELS {
            let report =
                verify(&arguments(model, fixture(model).join("golden.safetensors"))).unwrap();
            assert!(
                report.ok && report.greedy_ok == Some(true),
                "{model}: {report}"
            );
        }
    }

    #[test]
    fn another_models_golden_file_fails() {
        let report = verify(&arguments(
            "qwen2",
            fixture("deepseek-v3-yarn").join("golden.safetensors"),
        ))
        .unwrap();
        assert!(!report.ok && report.max_abs_diff.unwrap() > 0.1, "{report}");
    }

    #[test]
    fn the_tolerance_follows_the_spread_of_the_golden_logits() {
        let nudged = |by: f64| {
            changed(|tensors| {
                set(tensors, "logits", |logits| {
                    let logits = logits * 1.0;
                    let _ = logits.get(1).get(7).get(5).g_add_scalar_(by);
                    logits.shallow_clone()
                })
            })
            .unwrap()
        };
        let sound = nudged(0.0);
        assert!(
            sound.logits_std > 1.0
                && (sound.tolerance / (2e-5 * sound.logits_std) - 1.0).abs() < 1e-9,
            "{sound}"
        );
        let nudged = nudged(sound.tolerance * 1.5);
        assert!(!nudged.ok && nudged.greedy_ok == Some(true), "{nudged}");
    }

    #[test]
    fn a_logit_that_is_no_number_fails() {
        let report = changed(|tensors| {
            set(tensors, "logits", |logits| {
                logits.masked_fill(&logits.gt(2.0), f64::NAN)
            })
        })
        .unwrap();
        assert!(!report.ok && report.max_abs_diff.is_none(), "{report}");
        assert!(
            serde_json::to_string(&report)
                .unwrap()
                .contains("\"max_abs_diff\":null")
        );
    }

    #[test]
    fn the_first_other_greedy_id_is_named() {
        let report = changed(|tensors| {
            set(tensors, "greedy", |greedy| {
                let mut ids = Vec::<i64>::try_from(greedy.view([-1])).unwrap();
                ids[29] = (ids[29] + 1) % 100;
                Tensor::from_slice(&ids).unsqueeze(0)
            })
        })
        .unwrap();
        assert_eq!(
            (report.ok, report.greedy_ok, report.greedy_first_mismatch),
            (false, Some(false), Some(29))
        );
    }

    #[test]
    fn greedy_decoding_is_only_compared_where_the_file_has_it() {
        let report = changed(|tensors| tensors.retain(|(name, _)| name != "greedy")).unwrap();
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            format!(
                "{{\"ok\":true,\"max_abs_diff\":{},\"tolerance\":{},\"logits_std\":{},\
                 \"greedy_ok\":null,\"greedy_first_mismatch\":null}}",
                serde_json::json!(report.max_abs_diff),
                serde_json::json!(report.tolerance),
                serde_json::json!(report.logits_std)
            )
        );
    }

    #[test]
    fn a_bad_golden_file_is_refused_with_the_tensor_named() {
        type Tensors = Vec<(String, Tensor)>;
        let message = |change: &dyn Fn(&mut Tensors)| {
            changed(|tensors| change(tensors)).unwrap_err().to_string()
        };
        let missing = message(&|tensors| tensors.retain(|(name, _)| name != "logits"));
        assert!(missing.contains("no tensor `logits`"), "{missing}");
        let dtype = message(&|tensors| set(tensors, "input_ids", |ids| ids.to_kind(Kind::Int)));
        assert!(
            dtype.contains("`input_ids` is Int, it must be int64"),
            "{dtype}"
        );
        let shape = message(&|tensors| {
            set(tensors, "logits", |logits| {
                logits.narrow(1, 0, 5).contiguous()
            })
        });
        assert!(
            shape.contains("`logits` has shape [2, 5, 128], it must be [2, 33, V]"),
            "{shape}"
        );
        let vocabulary = message(&|tensors| {
            set(tensors, "logits", |logits| {
                logits.narrow(2, 0, 5).contiguous()
            })
        });
        assert!(
            vocabulary.contains("the model's vocabulary has 128 ids"),
            "{vocabulary}"
        );
        let greedy = message(&|tensors| set(tensors, "greedy", |ids| ids.view([2, -1])));
        assert!(
            greedy.contains("`greedy` has shape [2, 20], it must be [1, N]"),
            "{greedy}"
        );
        let id = message(&|tensors| set(tensors, "greedy", |ids| ids + 100));
        assert!(
            id.contains("`greedy` has id") && id.contains("vocabulary of 128"),
            "{id}"
        );
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let golden = fixture("qwen2").join("golden.safetensors");
        let message = |change: &dyn Fn(&mut VerifyArguments)| {
            let mut arguments = arguments("qwen2", golden.clone());
            change(&mut arguments);
            verify(&arguments).unwrap_err().to_string()
        };
        for prompt_len in [0, 40] {
            assert!(message(&|a| a.prompt_len = prompt_len).contains(&format!(
                "--prompt-len is {prompt_len}, but `greedy` has 40 ids"
            )));
        }
        assert!(message(&|a| a.atol = 0.0).contains("--atol is 0"));
    }
}
