"""One job in several layouts on CPU devices: what an update costs, and what its exchanges cost.

    tests/bench/parallel/run [--steps 6]

The model is a Qwen3-MoE of 31 M parameters, 29 M of them in 16 experts a layer, which learns from
random text. Prints a JSON line for each layout: seconds of an update and of a step's sampling, of
these the seconds in collectives (of the slowest rank), bytes that all ranks sent to each other in
an update, and what the arithmetic says that they have to send:

    gradients   2 (n - 1) elements of 4 bytes, of what every rank has (an all-to-all and an
                all-gather of an n-th each); of an expert shard (data - 1) in the place of (n - 1),
                for each of its copies
    weights     with shared optimiser states an all-gather of the weights in the place of the second
    tokens      rows of 4 x hidden bytes, to the expert and back, in the forward and the backward
                pass; of each token's experts (expert - 1) / expert are elsewhere where routing is
                even

Ranks share the machine's cores, so seconds say what exchanges cost and not how fast devices are."""

import argparse
import json
import pathlib
import random
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = ROOT / "target/release"
LAYERS, HIDDEN, INNER, EXPERTS, CHOSEN = 4, 256, 600, 16, 4
BATCH, LENGTH = 8, 256
LAYOUTS = [
    (1, 1, "none"),
    (2, 1, "none"),
    (2, 1, "optimizer"),
    (1, 2, "none"),
    (4, 1, "optimizer"),
    (2, 2, "optimizer"),
    (1, 4, "none"),
]
JOB = """
name = "parallel"
batch_invariant = true

[parallel]
data = {data}
expert = {expert}
shard = "{shard}"

[model]
init = "{folder}/config.json"
tokenizer = "{tokenizer}"
dtype = "float32"

[data.text]
path = "{folder}/text.jsonl"
text = "text"

[data.problems]
path = "{problems}/train.jsonl"
prompt = "prompt"
reference = "reference"
template = "r1-zero"

[[stage]]
name = "language"
kind = "pretrain"
data = "text"
steps = {steps}
batch_size = {batch}
max_length = {length}

[[stage]]
name = "reasoning"
kind = "grpo"
data = "problems"
steps = {steps}
prompts_per_step = 4
num_generations = 4
max_completion_length = 32

  [[stage.reward]]
  plugin = "format"
"""


def write(folder):
    config = dict(
        architectures=["Qwen3MoeForCausalLM"],
        model_type="qwen3_moe",
        vocab_size=len(json.loads((tokenizer() / "tokenizer.json").read_text())["model"]["vocab"]),
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        moe_intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        norm_topk_prob=True,
        max_position_embeddings=1024,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        hidden_act="silu",
        tie_word_embeddings=False,
    )
    (folder / "config.json").write_text(json.dumps(config))
    draw = random.Random(1)
    text = "".join
    rows = [text(draw.choices("0123456789+-=", k=4 * LENGTH)) for _ in range(256)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))


def tokenizer():
    data = ROOT / "examples/arithmetic/data/train.jsonl"
    if not data.exists():
        subprocess.run(["python3", ROOT / "examples/arithmetic/generate.py"], check=True)
    return ROOT / "examples/arithmetic/tokenizer"


def run(folder, data, expert, shard, steps):
    state = folder / f"{data}x{expert}-{shard}"
    devices = ",".join(["cpu"] * data * expert)
    words = [BIN / "r1d", "dev", "--state-dir", state, "--devices", devices]
    daemon = subprocess.Popen(words, stderr=(folder / "r1d.log").open("a"))
    r1ctl = [BIN / "r1ctl", "--socket", state / "r1d.sock"]
    try:
        while not (state / "r1d.sock").exists():
            time.sleep(0.1)
        job = folder / "job.toml"
        job.write_text(
            JOB.format(
                folder=folder,
                tokenizer=tokenizer(),
                problems=ROOT / "examples/arithmetic/data",
                data=data,
                expert=expert,
                shard=shard,
                steps=steps,
                batch=BATCH,
                length=LENGTH,
            )
        )
        subprocess.run([*r1ctl, "submit", job, "--wait"], check=True, stdout=subprocess.DEVNULL)
        (of_job,) = (state / "jobs").iterdir()
        return [json.loads(line) for line in (of_job / "metrics.jsonl").read_text().splitlines()]
    finally:
        daemon.terminate()
        daemon.wait()


def arithmetic(parameters, data, expert, shard):
    """Bytes that all ranks together send in an update of the pretraining stage."""
    ranks, of_experts = data * expert, LAYERS * EXPERTS * 3 * HIDDEN * INNER
    common = parameters - of_experts
    gradients = 4 * 2 * ((ranks - 1) * common + (data - 1) * of_experts)
    rows = BATCH * (LENGTH - 1) * CHOSEN * LAYERS * (expert - 1) / expert
    return dict(gradients=gradients, tokens=int(4 * HIDDEN * rows * 4))


parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=6)
arguments = parser.parse_args()
with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    write(folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    attention = HIDDEN * 64 * (4 + 2 + 2) + 4 * 64 * HIDDEN + 2 * 64
    block = attention + EXPERTS * HIDDEN + 2 * HIDDEN + EXPERTS * 3 * HIDDEN * INNER
    parameters = 2 * vocabulary * HIDDEN + HIDDEN + LAYERS * block
    for data, expert, shard in LAYOUTS:
        lines = run(folder, data, expert, shard, arguments.steps)
        # A stage's first steps are slower: memory is mapped, connections are made.
        of = lambda stage, key: statistics.median(
            line[key] for line in lines if line["stage"] == stage and line["step"] > 1 and key in line
        )
        found = dict(bench="parallel", data=data, expert=expert, shard=shard)
        found["update_s"] = round(of("language", "timing_s/update"), 3)
        found["sampling_s"] = round(of("reasoning", "timing_s/sampling"), 3)
        if data * expert > 1:
            found["exchange_s"] = round(of("language", "timing_s/exchange"), 3)
            found["sampling_exchange_s"] = round(of("reasoning", "timing_s/sampling_exchange"), 3)
            sent = of("language", "perf/exchange_bytes")
            due = arithmetic(parameters, data, expert, shard)
            found["exchange_mb"] = round(sent / 1e6, 1)
            found["due_mb"] = {key: round(value / 1e6, 1) for key, value in due.items()}
            found["sent_over_due"] = round(sent / sum(due.values()), 3)
        print(json.dumps(found), flush=True)
