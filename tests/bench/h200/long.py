"""Completions as long as R1's on a GPU: a GRPO step whose completions may have 32,768 tokens, sampled
and trained, beside one of as many short ones.

    python tests/bench/h200/long.py [--build DIRECTORY] [--models 0.5B 1.5B] [--lengths 512 32768]
        [--prompts 8] [--generations 8] [--tokens 0] [--steps 1] [--tiny]

Prompts of 256 tokens, bfloat16, beta 0, one update a step, a micro-batch of one completion with
`gradient_checkpointing`. The weights are random, so a completion ends by chance: about one of five
within 32,768 tokens. `--tokens` is `[sampler] tokens`: with fewer than all completions may come to,
rows give up their pages and come back. JSON lines: tokens a second while sampling, seconds of
sampling and update, rows of a mean decode step, rows that were put back, and the most memory that
nvidia-smi saw."""

import argparse
import json
import pathlib
import tempfile

import jobs

parser = argparse.ArgumentParser()
parser.add_argument("--build", default=jobs.ROOT / "target/release")
parser.add_argument("--models", nargs="+", default=["0.5B", "1.5B"])
parser.add_argument("--lengths", nargs="+", type=int, default=[512, 32768])
parser.add_argument("--prompts", type=int, default=8)
parser.add_argument("--generations", type=int, default=8)
parser.add_argument("--tokens", type=int, default=0)
parser.add_argument("--steps", type=int, default=1)
parser.add_argument("--tiny", action="store_true")
arguments = parser.parse_args()
PROMPT = 16 if arguments.tiny else 256
MODELS = ["tiny"] if arguments.tiny else arguments.models
LENGTHS = [24, 200] if arguments.tiny else arguments.lengths


def job(folder, length):
    return (
        jobs.head(folder, "bfloat16")
        + f"""
[sampler]
tokens = {arguments.tokens}
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
prompts_per_step = {arguments.prompts}
num_generations = {arguments.generations}
max_completion_length = {length}
learning_rate = 1e-6
beta = 0.0
gradient_checkpointing = true
max_tokens_per_device = {max(16384, PROMPT + length)}
  [[stage.reward]]
  plugin = "length"
  config = {{ unit = "characters", max_len = {8 * length} }}
"""
    )


def measure(folder, model, length):
    lines, end, memory, why = jobs.run(arguments.build, folder, job(folder, length))
    last = lines[-1] if lines else {}
    print(
        json.dumps(
            dict(
                bench="long",
                model=model,
                rows=arguments.prompts * arguments.generations,
                completion=length,
                end=end,
                mean_length=last.get("completions/mean_length"),
                tokens_per_s=last.get("perf/sampling_throughput"),
                sampling_s=last.get("timing_s/sampling"),
                sampling_rows=last.get("perf/sampling_rows"),
                preemptions=last.get("perf/sampling_preemptions", 0),
                update_s=last.get("timing_s/update"),
                step_s=last.get("step_time"),
                mfu=last.get("perf/mfu"),
                difference=last.get("sampling/sampling_logp_difference/mean"),
                memory_mib=memory,
                why=why,
            )
        ),
        flush=True,
    )


with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    for model in MODELS:
        # A completion of 32,768 tokens stands behind a prompt.
        shape = jobs.MODELS[model] | dict(max_position_embeddings=1 << 16)
        jobs.write_model(folder, shape)
        jobs.write_prompts(folder, shape, arguments.prompts * arguments.steps, PROMPT)
        for length in LENGTHS:
            measure(folder, model, length)
