"""Whole jobs through the daemon on a GPU, one build beside another: how fast a GRPO job samples,
and how much of the device's memory a job takes.

    python tests/bench/h200/sampling.py [--build NAME=DIRECTORY ...]
        [--cases sampling float32 evaluation] [--tiny]

A build is a directory with r1d, r1ctl, r1d-worker and plugins/; target/release alone where none is
named. The model has the shape of Qwen2.5-0.5B and random weights, with logits about as peaked as a
trained model's; prompts are 256 tokens. Builds take turns within a case. JSON lines:

sampling    bfloat16, 32 × 8 completions of 512 tokens, top_p 1 and 0.95, with and without the
            sampling mask: tokens a second of the last step, the step's seconds, and what its update
            took (no group has variance)
float32     pretraining on texts of 2,048 tokens, 8 a step, and of 16,384, 1 a step, with 14 query
            heads on 2 key heads: seconds a step, memory
evaluation  the sampling job, whose evaluation may write 16,384 tokens: memory until the second step

Memory is the most that nvidia-smi saw, of everything on the device. `--tiny` is the same at a size
for two cores, to try the script."""

import argparse
import json
import pathlib
import tempfile

import jobs

parser = argparse.ArgumentParser()
parser.add_argument("--build", action="append", help="NAME=DIRECTORY")
parser.add_argument("--cases", nargs="+", default=["sampling", "float32", "evaluation"])
parser.add_argument("--steps", type=int, default=2)
parser.add_argument(
    "--mask", action="store_true", help="one more row: top_p 0.95 with keep_sampling_mask"
)
parser.add_argument("--tiny", action="store_true")
arguments = parser.parse_args()
builds = dict(
    build.split("=", 1) for build in arguments.build or [f"target={jobs.ROOT / 'target/release'}"]
)

MODEL = jobs.MODELS["tiny" if arguments.tiny else "0.5B"]
PROMPTS, GENERATIONS, PROMPT, COMPLETION, LONG = 32, 8, 256, 512, 16384
TEXTS = ((2048, 8), (16384, 1))
if arguments.tiny:
    PROMPTS, GENERATIONS, PROMPT, COMPLETION, LONG = 2, 2, 16, 12, 512
    TEXTS = ((48, 4),)


def write_inputs(folder):
    jobs.write_model(folder, MODEL)
    jobs.write_prompts(folder, MODEL, PROMPTS * arguments.steps, PROMPT)
    for length, batch in TEXTS:
        jobs.write_texts(folder, MODEL, batch * arguments.steps, length)


def sampling_job(folder, top_p, mask, completion=COMPLETION, evaluation=""):
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
max_completion_length = {completion}
top_p = {top_p}
keep_sampling_mask = {str(mask).lower()}
learning_rate = 1e-6
beta = 0.0
max_tokens_per_device = 16384
  [[stage.reward]]
  plugin = "format"
{evaluation}"""
    )


def text_job(folder, length, batch):
    return (
        jobs.head(folder, "float32")
        + f"""
[data.text]
path = "{folder}/text-{length}.jsonl"
text = "text"
[[stage]]
name = "language"
kind = "pretrain"
data = "text"
steps = {arguments.steps}
batch_size = {batch}
max_length = {length}
learning_rate = 1e-5
max_tokens_per_device = 16384
"""
    )


def run(build, folder, text, until=None):
    return jobs.run(builds[build], folder, text, until)


def say(**row):
    print(json.dumps(dict(bench="sampling", **row)), flush=True)


with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    write_inputs(folder)
    if "sampling" in arguments.cases:
        for top_p, mask in (
            (1.0, False),
            (0.95, False),
            *([(0.95, True)] if arguments.mask else []),
        ):
            for build in builds:
                lines, end, memory, why = run(build, folder, sampling_job(folder, top_p, mask))
                last = lines[-1] if lines else {}
                say(
                    case="sampling",
                    build=build,
                    top_p=top_p,
                    keep_sampling_mask=mask,
                    rows=PROMPTS * GENERATIONS,
                    steps=len(lines),
                    end=end,
                    tokens_per_s=[round(line["perf/sampling_throughput"]) for line in lines],
                    sampling_s=last.get("timing_s/sampling"),
                    update_s=last.get("timing_s/update"),
                    step_s=last.get("step_time"),
                    mean_length=last.get("completions/mean_length"),
                    memory_mib=memory,
                    why=why,
                )
    if "float32" in arguments.cases:
        for length, batch in TEXTS:
            for build in builds:
                lines, end, memory, why = run(build, folder, text_job(folder, length, batch))
                say(
                    case="float32",
                    build=build,
                    tokens=length,
                    batch=batch,
                    steps=len(lines),
                    end=end,
                    step_s=lines[-1]["step_time"] if lines else None,
                    loss=lines[-1]["loss"] if lines else None,
                    memory_mib=memory,
                    why=why,
                )
    if "evaluation" in arguments.cases:
        for build in builds:
            evaluation = (
                f'[[eval]]\ndata = "train"\nmax_completion_length = {LONG}\nat_start = false\n'
            )
            lines, end, memory, why = run(
                build,
                folder,
                sampling_job(folder, 1.0, False, 64 if COMPLETION > 64 else 8, evaluation),
                until=1,
            )
            say(
                case="evaluation",
                build=build,
                evaluation_tokens=LONG,
                steps=len(lines),
                end=end,
                memory_mib=memory,
                why=why,
            )
