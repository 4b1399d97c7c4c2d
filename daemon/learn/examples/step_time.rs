use r1d_learn::Trainer;
use r1d_model::CausalLm;
use r1d_proto::recipe::*;
use r1d_proto::worker::*;
use r1d_proto::world::{SystemClock, counter_hash};
use tch::{Device, Kind};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let opt = |name: &str| args.iter().any(|a| a == name);
    if opt("keep") {
        r1d_torch::memory::keep_freed(8 << 30);
    }
    r1d_torch::mkl::use_intel_kernels(opt("mkl"));
    let _ = r1d_torch::runtime::set_flush_denormal(opt("denormal"));
    r1d_torch::runtime::set_threads(if opt("two") { 2 } else { 1 }).unwrap();
    let vocab = if opt("bigv") { 4096 } else { 128 };
    let config = if opt("qwen") {
        format!(r#"{{"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2","vocab_size":{vocab},"hidden_size":256,"intermediate_size":768,
    "num_hidden_layers":8,"num_attention_heads":8,"num_key_value_heads":4,"max_position_embeddings":2048,"rms_norm_eps":1e-6,
    "rope_theta":10000.0,"tie_word_embeddings":false,"hidden_act":"silu","initializer_range":0.02}}"#)
    } else {
        format!(r#"{{"architectures":["DeepseekV3ForCausalLM"],"model_type":"deepseek_v3","vocab_size":{vocab},"hidden_size":192,"intermediate_size":512,
    "moe_intermediate_size":128,"num_hidden_layers":4,"first_k_dense_replace":1,"num_attention_heads":6,"num_key_value_heads":6,
    "q_lora_rank":96,"kv_lora_rank":64,"qk_nope_head_dim":32,"qk_rope_head_dim":16,"v_head_dim":32,"n_routed_experts":8,
    "n_shared_experts":1,"num_experts_per_tok":2,"n_group":4,"topk_group":2,"norm_topk_prob":true,"routed_scaling_factor":2.5,
    "scoring_func":"sigmoid","topk_method":"noaux_tc","max_position_embeddings":2048,"rms_norm_eps":1e-6,"rope_theta":10000.0,
    "attention_bias":false,"tie_word_embeddings":false,"hidden_act":"silu","initializer_range":0.02}}"#)
    };
    let kind = if opt("bf16") { Kind::BFloat16 } else { Kind::Float };
    let model = CausalLm::init(&config, 1, Device::Cpu, kind).unwrap();
    let n: i64 = model.parameters().iter().map(|(_, t)| t.numel() as i64).sum();
    let optimiser = Optimiser { learning_rate: 1e-4, lr_scheduler_type: LrSchedule::Constant, warmup_steps: 0, total_steps: 100,
        min_lr_ratio: 0.0, adam_beta1: 0.9, adam_beta2: 0.95, adam_epsilon: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0 };
    let router = RouterTraining { bias_update_speed: 1e-3, aux_loss_alpha: 0.0 };
    let budget = args.iter().find_map(|a| a.strip_prefix("budget=")).map_or(4096, |b| b.parse().unwrap());
    let mut trainer = Trainer::new(&model, &optimiser, router, budget, false).unwrap().with_clock(SystemClock::shared());
    let (count, base) = (64u64, if opt("long") { 256 } else { 96 });
    let sequences: Vec<TrainSequence> = (0..count).map(|i| {
        let length = (base / 2 + counter_hash(&[3, i]) % base) as usize;
        let id = |s: u64, n: usize| (0..n as u64).map(|t| (counter_hash(&[s, i, t]) % vocab as u64) as u32).collect::<Vec<_>>();
        TrainSequence { prompt_ids: id(1, 24), completion_ids: id(2, length), behaviour_logprobs: vec![-4.0; length], experts: vec![], advantage: (i % 5) as f32 - 2.0, truncated: false }
    }).collect();
    let objective = Objective { loss_type: LossType::Grpo, importance_sampling_level: ImportanceSamplingLevel::Token, epsilon: 0.2, epsilon_high: 0.2, beta: 0.0, num_iterations: 1, num_minibatches: 1, mask_truncated_completions: false, max_completion_length: 128, temperature: 1.0, routing_replay: false };
    let batch = Train { step: 0, first_update: 0, objective, seed: 0, sequences };
    let tokens: usize = batch.sequences.iter().map(|s| 24 + s.completion_ids.len()).sum();
    let mut times = Vec::new();
    let steps: usize = args.iter().find_map(|a| a.strip_prefix("steps=")).map_or(8, |b| b.parse().unwrap());
    for _ in 0..steps {
        let m = trainer.train(&model, None, &batch, &mut |_, _| {}).unwrap();
        times.push(m["timing_s/update"]);
    }
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    times.sort_by(f64::total_cmp);
    println!("{:?}: {:.2}M params, {tokens} tokens, min {:.3} s, {:.0} tok/s; minflt {} utime {} stime {} kept {}", &args[1..], n as f64 / 1e6, times[0], tokens as f64 / times[0], f[7], f[11], f[12], r1d_torch::memory::kept() >> 20);
}
