//! The mean loss of a model on texts, with its linear layers in float32, bfloat16 and FP8:
//! `loss DIR TEXTS.jsonl DEVICE`. One JSON line, for tests/device_state/fp8.

use r1d_data::Tokenizer;
use r1d_model::{CausalLm, Forward, Packed, token_logprobs};
use std::io::BufRead;
use std::path::PathBuf;
use tch::{Kind, Tensor};

/// Texts, and tokens of each.
const TEXTS: usize = 1024;
const TOKENS: usize = 128;
/// Texts of one pass.
const TOGETHER: usize = 64;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(texts), Some(device)) = (
        arguments.next().map(PathBuf::from),
        arguments.next(),
        arguments.next(),
    ) else {
        return Err("usage: loss DIR TEXTS.jsonl DEVICE".into());
    };
    let device = r1d_torch::device::open(&device)?;
    let tokenizer = Tokenizer::open(&dir)?;
    let mut rows: Vec<Vec<i64>> = vec![];
    for line in std::io::BufReader::new(std::fs::File::open(texts)?).lines() {
        let row: serde_json::Value = serde_json::from_str(&line?)?;
        let ids = tokenizer.encode(row["text"].as_str().ok_or("a row without `text`")?, true)?;
        if ids.len() >= TOKENS && rows.len() < TEXTS {
            rows.push(ids[..TOKENS].iter().map(|id| i64::from(*id)).collect());
        }
    }
    let loss = |kind: Kind, fp8: bool| -> Result<f64, Error> {
        let mut model = CausalLm::load(&dir, device, kind)?;
        model.set_fp8(fp8);
        let mut sum = 0.0;
        for together in rows.chunks(TOGETHER) {
            let ids = Tensor::from_slice(&together.concat()).to_device(device);
            let batch = Packed::new(ids.shallow_clone(), vec![TOKENS as i64; together.len()]);
            sum += tch::no_grad(|| -> Result<f64, Error> {
                let hidden = model.forward(&batch, &Forward::default())?.hidden;
                let of_each = |t: &Tensor, start: i64| {
                    let width = t.numel() as i64 / (together.len() * TOKENS) as i64;
                    t.view([together.len() as i64, TOKENS as i64, width])
                        .narrow(1, start, TOKENS as i64 - 1)
                        .reshape([-1, width])
                };
                let logits = model.logits(&of_each(&hidden, 0), &Forward::default())?;
                let next = of_each(&ids, 1).view([-1]);
                Ok(f64::try_from(
                    token_logprobs(&logits, &next, 1.0)?.sum(Kind::Double).neg(),
                )?)
            })?;
        }
        Ok(sum / (rows.len() * (TOKENS - 1)) as f64)
    };
    let [wide, half, eighth] = [
        (Kind::Float, false),
        (Kind::BFloat16, false),
        (Kind::BFloat16, true),
    ]
    .map(|(kind, fp8)| loss(kind, fp8));
    let (wide, half, eighth) = (wide?, half?, eighth?);
    println!(
        r#"{{"bench": "loss", "texts": {}, "float32": {wide:.6}, "bfloat16": {half:.6}, "fp8": {eighth:.6}, "fp8_over_bfloat16": {:.6}}}"#,
        rows.len(),
        eighth / half - 1.0
    );
    Ok(())
}
