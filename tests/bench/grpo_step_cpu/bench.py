"""A whole GRPO step (sample, reward, update) of a 10 M-parameter Qwen2 on two cores: r1d against
TRL.

Runs alternate (r1d, TRL, r1d, TRL, …), each a fresh process on the same weights; a run makes STEPS
steps, the first warms up and is left out, and the run's figure is the median of the others. Both
sides use fp32, two threads, 8 prompts × 8 completions × 64 tokens after 64-token prompts, beta = 0,
one update per step, and a reward that costs nothing (r1d's side runs the `format` plugin in its
sandbox)."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests"))
VOCAB, PROMPTS, GENERATIONS, PROMPT_TOKENS, COMPLETION_TOKENS, STEPS = 4096, 8, 8, 64, 64, 4


def make_model(directory):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=320,
        intermediate_size=1280,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(directory)
    words = {"<eos>": 0, **{f"w{i}": i for i in range(1, VOCAB)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>"
    ).save_pretrained(directory)
    return sum(p.numel() for p in model.parameters())


def make_prompts(path):
    with open(path, "w") as file:
        for row in range(PROMPTS * STEPS):
            words = " ".join(
                f"w{1 + (row * 131 + i * 17) % (VOCAB - 1)}" for i in range(PROMPT_TOKENS)
            )
            file.write(json.dumps({"prompt": words, "reference": "0"}) + "\n")


def run_r1d(folder):
    from conftest import Daemon

    (folder / "raw.jinja").write_text("{{ prompt }}")
    job = folder / "job.toml"
    job.write_text(f"""
name = "bench"
[model]
path = "{folder / "model"}"
dtype = "float32"
[data.train]
path = "{folder / "prompts.jsonl"}"
prompt = "prompt"
reference = "reference"
template = "{folder / "raw.jinja"}"
[[stage]]
name = "grpo"
kind = "grpo"
data = "train"
steps = {STEPS}
prompts_per_step = {PROMPTS}
num_generations = {GENERATIONS}
max_completion_length = {COMPLETION_TOKENS}
learning_rate = 1e-6
beta = 0.0
  [[stage.reward]]
  plugin = "format"
[sampler]
slots = {PROMPTS * GENERATIONS}
""")
    daemon = Daemon(folder / f"state-{time.time_ns()}").start()
    try:
        submitted = daemon.json("submit", job)
        status = daemon.wait_ended(submitted.get("body", submitted)["job"], 600)
        assert status["state"] == "succeeded", status["error"]
        lines = [
            json.loads(line)
            for line in (pathlib.Path(status["directory"]) / "metrics.jsonl")
            .read_text()
            .splitlines()
        ]
        assert lines[-1]["completions/mean_length"] > 0.97 * COMPLETION_TOKENS
        return statistics.median(line["step_time"] for line in lines[1:])
    finally:
        daemon.stop()


TRL = """
import json, sys, time, torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
folder, steps = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(2)
rows = [json.loads(line) for line in open(folder + "/prompts.jsonl")]
class Times(TrainerCallback):
    def __init__(self): self.at = [time.perf_counter()]
    def on_step_end(self, *_, **__): self.at.append(time.perf_counter())
times = Times()
config = GRPOConfig(output_dir=folder + "/trl", use_cpu=True, bf16=False, fp16=False, per_device_train_batch_size={batch}, num_generations={generations},
    max_completion_length={completion}, learning_rate=1e-6, beta=0.0, max_steps=steps, report_to=[], save_strategy="no", logging_strategy="no",
    gradient_checkpointing=False, temperature=1.0, generation_kwargs=dict(min_new_tokens={completion}), disable_tqdm=True)
GRPOTrainer(model=folder + "/model", reward_funcs=lambda completions, **_: [float(len(c) % 2) for c in completions], args=config,
    # Named, or AutoTokenizer makes a byte-level Qwen2 tokenizer of it, which knows none of the
    # words.
    processing_class=PreTrainedTokenizerFast.from_pretrained(folder + "/model", padding_side="left"),
    train_dataset=Dataset.from_list(rows), callbacks=[times]).train()
print(json.dumps([b - a for a, b in zip(times.at, times.at[1:])]))
"""


def run_trl(folder):
    code = TRL
    for name, value in (
        ("batch", PROMPTS * GENERATIONS),
        ("generations", GENERATIONS),
        ("completion", COMPLETION_TOKENS),
    ):
        code = code.replace("{%s}" % name, str(value))
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(STEPS)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return statistics.median(json.loads(done.stdout.splitlines()[-1])[1:])


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--pairs", type=int, default=5)
    pairs = arguments.parse_args().pairs
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        parameters = make_model(folder / "model")
        make_prompts(folder / "prompts.jsonl")
        rows = [(run_r1d(folder), run_trl(folder)) for _ in range(pairs)]
    ratios = sorted(theirs / ours for ours, theirs in rows)
    print(
        json.dumps(
            {
                "bench": "grpo_step_cpu",
                "parameters": parameters,
                "pairs": pairs,
                "sequences": PROMPTS * GENERATIONS,
                "prompt_tokens": PROMPT_TOKENS,
                "completion_tokens": COMPLETION_TOKENS,
                "r1d_step_s": statistics.median(ours for ours, _ in rows),
                "trl_step_s": statistics.median(theirs for _, theirs in rows),
                "speedup_median": statistics.median(ratios),
                "speedup_min": ratios[0],
                "speedup_max": ratios[-1],
            }
        )
    )


if __name__ == "__main__":
    main()
