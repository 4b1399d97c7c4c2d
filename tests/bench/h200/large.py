"""GRPO steps of models at the limit of one GPU, with a reference: what they take of the device's and
the host's memory beside what `r1ctl plan` says, and the seconds of each part.

    python tests/bench/h200/large.py [--binaries DIRECTORY] [--case NAME ...] [--steps 2]
        [--seconds 200] [--folder DIRECTORY] [--tiny]

Qwen2.5-7B in full, its moments in bfloat16 or its optimiser on the host, and a model of
DeepSeek-V2-Lite's shape with adapters on its experts: random weights, 16 prompts of 256 tokens × 8
completions of 512, beta 0.001. JSON lines. There is no peer: TRL does not fit them on one GPU. A case
that takes longer than `--seconds` is given up, with what it has said so far."""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

import jobs
import torch
from safetensors.torch import save_file

parser = argparse.ArgumentParser()
parser.add_argument("--binaries", default=jobs.ROOT / "target/release")
parser.add_argument("--case", action="append")
parser.add_argument("--steps", type=int, default=2)
parser.add_argument("--seconds", type=float, default=200)
parser.add_argument("--folder")
parser.add_argument("--tiny", action="store_true")
arguments = parser.parse_args()
PROMPTS, GENERATIONS, PROMPT, COMPLETION = (2, 2, 16, 12) if arguments.tiny else (16, 8, 256, 512)
GIB = 1 << 30

QWEN = jobs.QWEN2 | dict(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    tie_word_embeddings=False,
)
V2_LITE = dict(
    architectures=["DeepseekV2ForCausalLM"],
    model_type="deepseek_v2",
    vocab_size=102400,
    hidden_size=2048,
    intermediate_size=10944,
    moe_intermediate_size=1408,
    num_hidden_layers=27,
    num_attention_heads=16,
    num_key_value_heads=16,
    n_routed_experts=64,
    n_shared_experts=2,
    num_experts_per_tok=6,
    first_k_dense_replace=1,
    moe_layer_freq=1,
    kv_lora_rank=512,
    q_lora_rank=None,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    topk_method="greedy",
    scoring_func="softmax",
    n_group=1,
    topk_group=1,
    norm_topk_prob=False,
    routed_scaling_factor=1.0,
    max_position_embeddings=4096,
    rope_theta=10000.0,
    rms_norm_eps=1e-6,
    hidden_act="silu",
    attention_bias=False,
    tie_word_embeddings=False,
    eos_token_id=0,
    bos_token_id=0,
)
SMALL = dict(vocab_size=600, hidden_size=64, intermediate_size=96, num_hidden_layers=2)
if arguments.tiny:
    QWEN |= SMALL | dict(num_attention_heads=4, num_key_value_heads=2)
    V2_LITE |= SMALL | dict(
        moe_intermediate_size=32,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=8,
        num_experts_per_tok=2,
        kv_lora_rank=16,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
    )
NARROW = 'adam_beta2 = 0.95\nexp_avg_dtype = "bfloat16"\nexp_avg_sq_dtype = "bfloat16"'
LORA = (
    "lora_r = 16\n"
    'lora_target_modules = ["all-linear", "gate_proj", "up_proj", "down_proj"]'
)
CASES = {
    "7B, bfloat16 moments": (QWEN, NARROW),
    "7B, optimiser on the host": (QWEN, 'optimizer_offload = "cpu"'),
    "V2-Lite, adapters on experts": (V2_LITE, LORA),
}


def layer(model, index):
    """Names and shapes of a block's tensors; of none for the ones outside of blocks."""
    hidden, vocabulary = model["hidden_size"], model["vocab_size"]
    if index is None:
        outside = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
        return outside | {"lm_head.weight": (vocabulary, hidden)}
    heads = model["num_attention_heads"]
    shapes = {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    if "kv_lora_rank" in model:
        latent, rotary = model["kv_lora_rank"], model["qk_rope_head_dim"]
        plain, value = model["qk_nope_head_dim"], model["v_head_dim"]
        attention = dict(
            q_proj=(heads * (plain + rotary), hidden),
            kv_a_proj_with_mqa=(latent + rotary, hidden),
            kv_a_layernorm=(latent,),
            kv_b_proj=(heads * (plain + value), latent),
            o_proj=(hidden, heads * value),
        )
    else:
        width = hidden // heads
        keys = model["num_key_value_heads"] * width
        attention = dict(
            q_proj=(hidden, hidden),
            k_proj=(keys, hidden),
            v_proj=(keys, hidden),
            o_proj=(hidden, hidden),
        )
    shapes |= {f"self_attn.{name}": shape for name, shape in attention.items()}

    def network(prefix, inner):
        wide = {f"{prefix}{name}": (inner, hidden) for name in ("gate_proj", "up_proj")}
        return wide | {f"{prefix}down_proj": (hidden, inner)}

    if index < model.get("first_k_dense_replace", model["num_hidden_layers"]):
        shapes |= network("mlp.", model["intermediate_size"])
    else:
        inner = model["moe_intermediate_size"]
        shapes |= network("mlp.shared_experts.", inner * model["n_shared_experts"])
        shapes["mlp.gate"] = (model["n_routed_experts"], hidden)
        for expert in range(model["n_routed_experts"]):
            shapes |= network(f"mlp.experts.{expert}.", inner)
    named = {f"model.layers.{index}.{name}.weight": shape for name, shape in shapes.items()}
    if "kv_lora_rank" not in model:
        biases = {f"self_attn.{name}": attention[name][:1] for name in ("q_proj", "k_proj", "v_proj")}
        named |= {f"model.layers.{index}.{name}.bias": shape for name, shape in biases.items()}
    return named


def write_weights(folder, model):
    """A Hugging Face directory of random weights, drawn by the GPU, a file for each block."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    def values(name, shape):
        if len(shape) == 1:
            made = torch.zeros if name.endswith("bias") else torch.ones
            return made(shape, dtype=torch.bfloat16)
        return (torch.randn(shape, dtype=torch.bfloat16, device=device) * 0.02).cpu()

    (folder / "config.json").write_text(json.dumps(model | dict(torch_dtype="bfloat16")))
    files, places = [None, *range(model["num_hidden_layers"])], {}
    for number, index in enumerate(files, 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        tensors = {name: values(name, shape) for name, shape in layer(model, index).items()}
        save_file(tensors, folder / name, metadata=dict(format="pt"))
        places |= dict.fromkeys(tensors, name)
    index = dict(metadata={}, weight_map=places)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.cuda.empty_cache() if torch.cuda.is_available() else None


def job(folder, settings):
    return f"""
name = "large"
[model]
path = "{folder}/model"
dtype = "bfloat16"
[checkpoint]
every_steps = 0
keep = 1
[data.train]
path = "{folder}/prompts.jsonl"
prompt = "prompt"
reference = "reference"
template = "plain"
[[stage]]
name = "reasoning"
kind = "grpo"
data = "train"
steps = {arguments.steps + 8}
prompts_per_step = {PROMPTS}
num_generations = {GENERATIONS}
max_completion_length = {COMPLETION}
learning_rate = 1e-6
beta = 0.001
max_tokens_per_device = 8192
gradient_checkpointing = true
{settings}
  [[stage.reward]]
  plugin = "length"
  config = {{ unit = "characters", max_len = {8 * COMPLETION} }}
"""


def host_bytes():
    """Memory of the workers' own, without the files that they have mapped."""
    total = 0
    for status in pathlib.Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        if text.startswith("Name:\tr1d-worker"):
            rows = dict(line.split(":", 1) for line in text.splitlines())
            total += sum(int(rows[key].split()[0]) << 10 for key in ("RssAnon", "RssShmem"))
    return total


def measure(folder, settings):
    """The plan's sums, the steps' metrics, the most memory of device and host, and how it ended."""
    state = folder / "state"
    state.mkdir()
    (state / "job.toml").write_text(job(folder, settings))
    binaries = pathlib.Path(arguments.binaries)
    log = (state / "r1d.log").open("w")
    daemon = subprocess.Popen(
        [binaries / "r1d", "dev", "--state-dir", state / "r1d"], stderr=log
    )

    def ctl(*words):
        command = [binaries / "r1ctl", "--socket", state / "r1d/r1d.sock", *words, "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        answer = json.loads(done.stdout)
        return answer.get("body", answer)

    lines, most_on_host, why, planned = [], 0, "", {}
    try:
        until = time.monotonic() + arguments.seconds
        while not (state / "r1d/r1d.sock").exists() and time.monotonic() < until:
            time.sleep(0.05)
        planned = ctl("plan", state / "job.toml")["stages"][0]
        with jobs.Memory() as memory:
            name = ctl("submit", state / "job.toml")["job"]
            while time.monotonic() < until and len(lines) < arguments.steps:
                status = ctl("status", name)
                file = pathlib.Path(status["directory"]) / "metrics.jsonl"
                if file.exists():
                    lines = [json.loads(line) for line in file.read_text().splitlines()]
                most_on_host = max(most_on_host, host_bytes())
                if status["state"] in jobs.ENDED or status["restarts"] > 0:
                    break
                time.sleep(0.1)
        why = "" if lines else (status.get("error") or status["state"])
    except (RuntimeError, KeyError) as error:
        why = str(error)
    finally:
        daemon.kill()
        daemon.wait()
    told = (state / "r1d.log").read_text(errors="replace").splitlines()
    why += "".join(line[-300:] for line in told if "memory" in line and "WARN" in line)
    most = getattr(locals().get("memory"), "most", 0)
    return planned, lines, most << 20, most_on_host, why


def gib(count):
    return round(count / GIB, 2)


def say(name, started, planned, lines, device, host, why):
    def median(key):
        found = [line[key] for line in lines[-1:] if line.get(key) is not None]
        return round(statistics.median(found), 3) if found else None

    durations = lines[-1] if lines else {}
    keys = sorted(key for key in durations if key.startswith("timing_s/") and "_at" not in key)
    row = dict(
        bench="large",
        case=name,
        steps=len(lines),
        step_s=median("step_time"),
        **{key: median(key) for key in keys},
        sampling_tokens_per_s=median("perf/sampling_throughput"),
        mfu=median("perf/mfu"),
        difference=median("sampling/sampling_logp_difference/mean"),
        grad_norm=median("grad_norm"),
        device_gib=gib(device),
        planned_gib=gib(planned.get("memory_peak", 0)),
        host_gib=gib(host),
        planned_host={key: gib(n) for key, n in planned.get("host_memory", {}).items()},
        planned={key: gib(n) for key, n in planned.get("memory", {}).items()},
        case_s=round(time.monotonic() - started, 1),
    )
    print(json.dumps(row | (dict(why=why[-1500:]) if why else {})), flush=True)


def main():
    written = None
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = pathlib.Path(scratch)
        for name in arguments.case or CASES:
            model, settings = CASES[name]
            started = time.monotonic()
            if written is not model:
                shutil.rmtree(folder / "model", ignore_errors=True)
                jobs.write_model(folder, model)
                (folder / "tokenizer").rename(folder / "model")
                write_weights(folder / "model", model)
                jobs.write_prompts(folder, model, PROMPTS * arguments.steps, PROMPT)
                written = model
            say(name, started, *measure(folder, settings))
            shutil.rmtree(folder / "state")


main()
