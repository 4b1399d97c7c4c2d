"""A whole GRPO step on a GPU (sample, reward, update): jobs of r1d beside TRL, in one run, on the
same prompts, from random weights of the same shape.

    python tests/bench/h200/grpo.py [--build NAME=DIRECTORY ...] [--model 0.5B] [--steps 4]
        [--no-peer] [--tiny]

A build is a directory with r1d, r1ctl, r1d-worker and plugins/; target/release where none is named.
32 prompts of 256 tokens × 8 completions of 512, bfloat16, beta 0, one update a step. TRL 1.16 keeps
float32 masters, computes in bfloat16 and generates with transformers; its completions are made to
have 512 tokens. JSON lines: the median step without the first, and its parts as each side's own
metrics give them."""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import jobs

parser = argparse.ArgumentParser()
parser.add_argument("--build", action="append", help="NAME=DIRECTORY")
parser.add_argument("--model", default="0.5B")
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--no-peer", action="store_true")
parser.add_argument("--tiny", action="store_true")
arguments = parser.parse_args()
builds = dict(
    build.split("=", 1) for build in arguments.build or [f"target={jobs.ROOT / 'target/release'}"]
)
MODEL = jobs.MODELS["tiny" if arguments.tiny else arguments.model]
PROMPTS, GENERATIONS, PROMPT, COMPLETION = (2, 2, 16, 12) if arguments.tiny else (32, 8, 256, 512)

PEER = """
import json, sys, time, torch, transformers
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
config, folder, rows, generations, completion, steps = json.loads(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:7])
has_gpu = torch.cuda.is_available()
torch.manual_seed(0)
config = transformers.Qwen2Config(**{k: v for k, v in config.items() if k not in ("architectures", "model_type")})
model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
prompts = [json.loads(line) for line in open(folder + "/prompts.jsonl")]
class Times(TrainerCallback):
    def __init__(self): self.at = [time.perf_counter()]
    def on_step_end(self, *_, **__):
        if has_gpu: torch.cuda.synchronize()
        self.at.append(time.perf_counter())
times = Times()
arguments = GRPOConfig(output_dir=folder + "/trl", use_cpu=not has_gpu, bf16=has_gpu, per_device_train_batch_size=32 if rows > 32 else rows,
    gradient_accumulation_steps=max(1, rows // 32), num_generations=generations, max_completion_length=completion, learning_rate=1e-6, beta=0.0,
    max_steps=steps, report_to=[], save_strategy="no", logging_strategy="no", gradient_checkpointing=False, temperature=1.0,
    generation_kwargs=dict(min_new_tokens=completion), disable_tqdm=True)
tokenizer = PreTrainedTokenizerFast(tokenizer_file=folder + "/tokenizer/tokenizer.json", eos_token="<eos>", pad_token="<eos>", padding_side="left")
GRPOTrainer(model=model, reward_funcs=lambda completions, **_: [float(len(c) % 2) for c in completions], args=arguments, processing_class=tokenizer,
    train_dataset=Dataset.from_list(prompts), callbacks=[times]).train()
print(json.dumps([b - a for a, b in zip(times.at, times.at[1:])]))
"""


def say(**row):
    print(json.dumps(dict(bench="grpo", model=arguments.model, **row)), flush=True)


def job(folder):
    # An advantage needs rewards that differ: completions of as many words differ in characters.
    return (
        jobs.head(folder, "bfloat16")
        + f"""
[data.train]
path = "{folder}/prompts.jsonl"
prompt = "prompt"
reference = "reference"
template = "plain"
[[stage]]
name = "reasoning"
kind = "grpo"
data = "train"
steps = {arguments.steps}
prompts_per_step = {PROMPTS}
num_generations = {GENERATIONS}
max_completion_length = {COMPLETION}
learning_rate = 1e-6
beta = 0.0
max_tokens_per_device = 32768
  [[stage.reward]]
  plugin = "length"
  config = {{ unit = "characters", max_len = {8 * COMPLETION} }}
"""
    )


def peer(folder):
    words = [json.dumps(MODEL), folder, PROMPTS * GENERATIONS, GENERATIONS, COMPLETION]
    with jobs.Memory() as memory:
        done = subprocess.run(
            [sys.executable, "-c", PEER, *map(str, words), str(arguments.steps)],
            capture_output=True,
            text=True,
        )
    if done.returncode:
        return say(who="TRL", why=done.stderr[-1500:])
    times = json.loads(done.stdout.splitlines()[-1])
    say(who="TRL", step_s=round(statistics.median(times[1:]), 3), memory_mib=memory.most)


def ours(folder, build, binaries):
    lines, end, memory, why = jobs.run(binaries, folder, job(folder))
    if len(lines) < 2:
        return say(who=f"r1d {build}", end=end, why=why)

    def median(key):
        found = [line[key] for line in lines[1:] if line.get(key) is not None]
        return round(statistics.median(found), 3) if found else None

    parts = {key: median(key) for key in sorted(lines[-1]) if key.startswith("timing_s/")}
    say(
        who=f"r1d {build}",
        step_s=median("step_time"),
        **parts,
        sampling_tokens_per_s=median("perf/sampling_throughput"),
        mfu=median("perf/mfu"),
        reward_std=median("reward_std"),
        mean_length=median("completions/mean_length"),
        difference=median("sampling/sampling_logp_difference/mean"),
        memory_mib=memory,
    )


with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    jobs.write_model(folder, MODEL)
    jobs.write_prompts(folder, MODEL, PROMPTS * arguments.steps, PROMPT)
    for build, binaries in builds.items():
        ours(folder, build, binaries)
    if not arguments.no_peer:
        peer(folder)
