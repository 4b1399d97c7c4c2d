use r1d_learn::Trainer;
use r1d_model::CausalLm;
use r1d_proto::recipe::*;
use r1d_proto::worker::*;
use r1d_proto::world::*;
use r1d_sampler::Sampler;
use std::collections::BTreeMap;
use std::time::Instant;

fn arg(name: &str, default: f64) -> f64 {
    std::env::args().find_map(|a| a.strip_prefix(&format!("{name}=")).map(|v| v.parse().unwrap())).unwrap_or(default)
}
fn rows(name: &str) -> Vec<BTreeMap<String, String>> {
    std::fs::read_to_string(format!("examples/arithmetic/data/{name}.jsonl")).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}
const PRE: &str = "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: ";
fn optimiser(lr: f64, sched: LrSchedule, warm: u64, total: u64) -> Optimiser {
    Optimiser { learning_rate: lr, lr_scheduler_type: sched, warmup_steps: warm, total_steps: total, min_lr_ratio: 0.1, adam_beta1: 0.9, adam_beta2: 0.95, adam_epsilon: 1e-8, weight_decay: arg("wd", 0.0), max_grad_norm: 1.0 }
}
fn main() {
    if arg("mkl", 0.0) > 0.0 { r1d_torch::mkl::use_intel_kernels(true); }
    let tok = tokenizers();
    let enc = |s: &str| -> Vec<u32> { tok.encode(s, false).unwrap() };
    let dec = |ids: &[u32]| -> String { tok.decode(ids, true).unwrap() };
    r1d_torch::runtime::set_threads(arg("threads", 2.0) as u32).unwrap();
    let seed = arg("seed", 1.0) as u64;
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string("configs/models/tiny-deepseek-v3.json").unwrap()).unwrap();
    config["vocab_size"] = 128.into();
    let model = CausalLm::init(&config.to_string(), seed, tch::Device::Cpu, tch::Kind::Float).unwrap();
    println!("parameters {:?}", model.summary().parameters);
    let router = RouterTraining { bias_update_speed: 1e-3, aux_loss_alpha: 1e-4 };
    let frozen = RouterTraining { bias_update_speed: 0.0, aux_loss_alpha: 0.0 };
    let mut sampler = Sampler::new(&model, Slots { count: 256, capacity: 96 }, false, SystemClock::shared()).unwrap();
    let t0 = Instant::now();
    let test = rows("test");
    let prompt = |r: &BTreeMap<String, String>| format!("{PRE}{}. Assistant:", r["prompt"]);
    let judge = |text: &str, reference: &str| -> (f64, f64) {
        let f = text.starts_with("<think>") && text.ends_with("</answer>") && ["<think>", "</think>", "<answer>", "</answer>"].iter().all(|t| text.matches(t).count() == 1) && text.contains("</think><answer>");
        let a = text.rsplit_once("<answer>").map(|x| x.1.split("</answer>").next().unwrap() == reference && x.1.contains("</answer>")).unwrap_or(false);
        (a as u8 as f64, f as u8 as f64)
    };
    let mut evaluate = |sampler: &mut Sampler, model: &CausalLm, temperature: f32, what: &str| {
        let t = Instant::now();
        let groups = test.iter().enumerate().map(|(i, r)| Group { prompt: i as u32, row: i as u64, prompt_ids: enc(&prompt(r)), samples: vec![0] }).collect();
        let req = Generate { stage: 9, step: 0, policy_version: 0, sampling: Sampling { temperature, top_p: 1.0, top_k: 0, max_completion_length: 56, stop_ids: vec![1], seed: 1 }, groups };
        let mut sum = (0.0, 0.0);
        let mut shown = String::new();
        sampler.generate(model, &req, &mut |r| { let text = dec(&r.completion_ids); let (a, f) = judge(&text, &test[r.row as usize]["reference"]); sum.0 += a; sum.1 += f; if r.row == 0 { shown = text; } }, &mut |_, _| {}).unwrap();
        println!("[{:5.1}s] {what} T={temperature} accuracy {:.3} format {:.3} eval {:.2}s  {shown}", t0.elapsed().as_secs_f64(), sum.0 / test.len() as f64, sum.1 / test.len() as f64, t.elapsed().as_secs_f64());
    };
    evaluate(&mut sampler, &model, 0.0, "random");
    // pretrain
    let n = arg("npre", 600.0) as u64;
    let bs = arg("preb", 32.0) as usize;
    let len = arg("prelen", 64.0) as usize;
    let mut stream: Vec<u32> = Vec::new();
    for r in rows("pretrain") { stream.extend(enc(&r["text"])); stream.push(1); }
    let seqs: Vec<&[u32]> = stream.chunks_exact(len).collect();
    let order = counter_permutation(&[seed, 1], seqs.len());
    println!("pretrain sequences {}", seqs.len());
    let mut trainer = Trainer::new(&model, &optimiser(arg("lr0", 1e-3), LrSchedule::Cosine, 20, n), router, 16384, false).unwrap();
    for s in 0..n {
        let b = (0..bs).map(|i| seqs[order[(s as usize * bs + i) % seqs.len()]]).map(|x| SupervisedSequence { ids: x.to_vec(), trained: vec![true; x.len()] }).collect();
        let m = trainer.supervise(&model, &Supervise { step: s, sequences: b }).unwrap();
        if s % 100 == 99 { println!("[{:5.1}s] pre {} loss {:.3} acc {:.3} load {:?}", t0.elapsed().as_secs_f64(), s + 1, m["loss"], m["mean_token_accuracy"], m.get("moe/expert_load_max_over_mean")); }
    }
    drop(trainer);
    let n = arg("nsft", 100.0) as u64;
    let cold = rows("cold-start");
    let mut trainer = Trainer::new(&model, &optimiser(arg("lr1", 1e-3), LrSchedule::Cosine, 10, n), frozen, 16384, false).unwrap();
    for s in 0..n {
        let b = (0..32).map(|i| { let e = (s as usize * 32 + i) / cold.len(); let o = counter_permutation(&[seed, 2, e as u64], cold.len()); &cold[o[(s as usize * 32 + i) % cold.len()]] }).map(|r| {
            let p = enc(&prompt(r)); let mut c = enc(&r["completion"]); c.push(1);
            SupervisedSequence { trained: [vec![false; p.len()], vec![true; c.len()]].concat(), ids: [p, c].concat() }
        }).collect();
        let m = trainer.supervise(&model, &Supervise { step: s, sequences: b }).unwrap();
        if s % 50 == 49 { println!("[{:5.1}s] sft {} loss {:.3}", t0.elapsed().as_secs_f64(), s + 1, m["loss"]); }
    }
    drop(trainer);
    evaluate(&mut sampler, &model, 0.0, "cold-start");
    evaluate(&mut sampler, &model, 1.0, "cold-start");
    let n = arg("ngrpo", 60.0) as u64;
    let (p, g) = (arg("p", 32.0) as usize, arg("g", 8.0) as usize);
    let train = rows("train");
    let beta = arg("beta", 0.0);
    let reference = (beta > 0.0).then(|| model.deep_copy().unwrap());
    let mut trainer = Trainer::new(&model, &optimiser(arg("lr2", 1e-4), if arg("decay", 0.0) > 0.0 { LrSchedule::Linear } else { LrSchedule::Constant }, 5, n), frozen, 16384, false).unwrap();
    for s in 0..n {
        let t = Instant::now();
        let pick: Vec<usize> = (0..p).map(|i| (counter_hash(&[seed, 5, s, i as u64]) % train.len() as u64) as usize).collect();
        let groups = pick.iter().enumerate().map(|(i, &r)| Group { prompt: i as u32, row: r as u64, prompt_ids: enc(&prompt(&train[r])), samples: (0..g as u32).collect() }).collect();
        let temp = arg("temp", 1.0) as f32;
        let req = Generate { stage: 2, step: s, policy_version: s, sampling: Sampling { temperature: temp, top_p: 1.0, top_k: 0, max_completion_length: 56, stop_ids: vec![1], seed }, groups };
        let mut out = Vec::new();
        sampler.generate(&model, &req, &mut |r| out.push(r), &mut |_, _| {}).unwrap();
        out.sort_by_key(|r| r.key);
        let ts = t.elapsed().as_secs_f64();
        let wa = arg("wf", 1.0);
        let r: Vec<f64> = out.iter().map(|r| { let (a, f) = judge(&dec(&r.completion_ids), &train[r.row as usize]["reference"]); a + wa * f }).collect();
        let acc: f64 = out.iter().map(|r| judge(&dec(&r.completion_ids), &train[r.row as usize]["reference"]).0).sum::<f64>() / out.len() as f64;
        let mut seqs = Vec::new();
        for (gi, chunk) in out.chunks(g).enumerate() {
            let rr = &r[gi * g..(gi + 1) * g];
            let mean = rr.iter().sum::<f64>() / g as f64;
            let std = (rr.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (g as f64 - 1.0)).sqrt();
            for (k, x) in chunk.iter().enumerate() {
                let a = if arg("nstd", 1.0) > 0.0 { (rr[k] - mean) / (std + 1e-6) } else { rr[k] - mean };
                if a == 0.0 && arg("skip", 1.0) > 0.0 { continue; }
                seqs.push(TrainSequence { prompt_ids: x.prompt_ids.clone(), completion_ids: x.completion_ids.clone(), behaviour_logprobs: x.behaviour_logprobs.clone(), experts: x.experts.clone(), advantage: a as f32, truncated: x.finish == r1d_proto::rollout::FinishReason::Length });
            }
        }
        let tokens: usize = out.iter().map(|x| x.completion_ids.len()).sum();
        let k = seqs.len();
        let t2 = Instant::now();
        let m = trainer.train(&model, reference.as_ref(), &Train { step: s, first_update: s, objective: Objective { loss_type: if arg("dapo", 0.0) > 0.0 { LossType::Dapo } else { LossType::Grpo }, importance_sampling_level: ImportanceSamplingLevel::Token, epsilon: 0.2, epsilon_high: 0.2, beta, num_iterations: 1, num_minibatches: arg("mb", 1.0) as u32, mask_truncated_completions: false, max_completion_length: 56, temperature: temp, routing_replay: true }, seed, sequences: seqs }, &mut |_, _| {}).unwrap();
        if s < 2 || s % 10 == 9 { println!("[{:5.1}s] grpo {} reward {:.3} acc {acc:.3} sample {ts:.2}s ({:.0} tok/s) train {} seq {:.2}s len {:.1} diff {:.1e} gn {:.2}", t0.elapsed().as_secs_f64(), s + 1, r.iter().sum::<f64>() / r.len() as f64, tokens as f64 / ts, k, t2.elapsed().as_secs_f64(), tokens as f64 / out.len() as f64, m["sampling/sampling_logp_difference/max"], m["grad_norm"]); }
        if s % 20 == 19 { evaluate(&mut sampler, &model, 0.0, "grpo"); }
    }
}
fn tokenizers() -> r1d_data::Tokenizer { r1d_data::Tokenizer::open(std::path::Path::new("examples/arithmetic/tokenizer")).unwrap() }
