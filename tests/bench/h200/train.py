"""Training on a GPU: updates of r1d beside those of transformers, in one run, on the same texts,
from random weights of the same shape, with float32 masters and AdamW on both sides.

    python tests/bench/h200/train.py [--build NAME=DIRECTORY ...] [--models 0.5B 1.5B]
        [--batches 8 16] [--length 2048] [--peers eager compile] [--steps 8] [--tiny]

A build is a directory with r1d, r1ctl, r1d-worker and plugins/; target/release where none is named.
A batch is that many sequences of `--length` tokens, packed, in bfloat16. transformers keeps its
weights in float32 under autocast, with SDPA, grouped products of experts and torch's fused AdamW, in
micro-batches of the most sequences of which a power of two fits. JSON lines: tokens a second of the
median of all updates but the first two, the share of the measured rate of a bfloat16 product that
6 × parameters × tokens is (of both sides alike; of experts those count that a token goes through;
attention's products are not counted), the last loss, the most memory that nvidia-smi saw. `MLA` is
the model of decode_mla: 4.85 B parameters with latent attention and experts."""

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
parser.add_argument("--models", nargs="+", default=["0.5B", "1.5B"])
parser.add_argument("--batches", nargs="+", type=int, default=[8, 16])
parser.add_argument("--length", type=int, default=2048)
parser.add_argument("--peers", nargs="*", default=["eager", "compile"])
parser.add_argument("--steps", type=int, default=8)
parser.add_argument("--settings", nargs="*", default=[""], help="lines of the stage, tried in turn")
parser.add_argument("--tiny", action="store_true")
arguments = parser.parse_args()
builds = dict(
    build.split("=", 1) for build in arguments.build or [f"target={jobs.ROOT / 'target/release'}"]
)
LENGTH = 64 if arguments.tiny else arguments.length
MODELS = ["tiny"] if arguments.tiny else arguments.models

PEER = """
import json, sys, time, torch, transformers
config, texts, batch, length, steps, how = json.loads(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6]), sys.argv[6]
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
torch.set_float32_matmul_precision("high")
fields = {k: v for k, v in config.items() if k not in ("architectures", "model_type")}
experts = config.get("n_routed_experts") or 0
chosen = config["num_experts_per_tok"] / experts if experts else 1
how_experts = dict(experts_implementation="grouped_mm") if experts else {}
config = transformers.AutoConfig.for_model(config["model_type"], **fields)
with torch.device(device):
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32, **how_experts)
at_work = sum(p.numel() * (chosen if ".experts." in name else 1) for name, p in model.named_parameters())
model.train()
call = torch.compile(model) if how == "compile" else model
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device == "cuda")
rows = [[int(word[1:]) for word in json.loads(line)["text"].split()] for line in open(texts)]
def step(ids, micro):
    for part in ids.split(micro):
        with torch.autocast(device, torch.bfloat16):
            loss = call(input_ids=part, labels=part, use_cache=False).loss
        (loss * len(part) / len(ids)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return loss
micro, times = batch, []
while True:
    try:
        times = []
        for index in range(steps):
            ids = torch.tensor(rows[index * batch : (index + 1) * batch], device=device)
            if device == "cuda": torch.cuda.synchronize()
            begun = time.perf_counter()
            loss = step(ids, micro)
            if device == "cuda": torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
        break
    except torch.OutOfMemoryError:
        optimiser.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        micro //= 2
print(json.dumps(dict(times=times, loss=loss.item(), micro_batch=micro, parameters=round(at_work))))
"""

RATE = """
import time, torch
a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
for _ in range(5): a @ b
torch.cuda.synchronize(); begun = time.perf_counter()
for _ in range(20): a @ b
torch.cuda.synchronize()
print(20 * 2 * 8192**3 / (time.perf_counter() - begun))
"""


def say(**row):
    print(json.dumps(dict(bench="train", **row)), flush=True)


def job(folder, batch, setting):
    return (
        jobs.head(folder, "bfloat16")
        + f"""
[data.text]
path = "{folder}/text-{LENGTH}.jsonl"
text = "text"
[[stage]]
name = "language"
kind = "pretrain"
data = "text"
steps = {arguments.steps}
batch_size = {batch}
max_length = {LENGTH}
learning_rate = 1e-5
max_tokens_per_device = {max(16384, LENGTH)}
{setting}
"""
    )


def shown(model, batch, who, times, parameters, rate, **others):
    seconds = statistics.median(times[2:])
    tokens = batch * LENGTH
    flops = 6 * parameters * tokens / seconds
    say(
        model=model,
        batch=batch,
        who=who,
        tokens_per_s=round(tokens / seconds),
        step_s=round(seconds, 4),
        mfu=rate and round(flops / rate, 3),
        **others,
    )


def measured_rate():
    done = subprocess.run([sys.executable, "-c", RATE], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else None


def compare(folder, model, batch, rate):
    shape = jobs.MODELS[model]
    jobs.write_texts(folder, shape, batch * arguments.steps, LENGTH)
    parameters = None
    for how in arguments.peers:
        texts = folder / f"text-{LENGTH}.jsonl"
        words = [json.dumps(shape), texts, batch, LENGTH, arguments.steps, how]
        with jobs.Memory() as memory:
            done = subprocess.run(
                [sys.executable, "-c", PEER, *map(str, words)], capture_output=True, text=True
            )
        if done.returncode:
            say(model=model, batch=batch, who=f"transformers {how}", why=done.stderr[-600:])
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        parameters = found.pop("parameters")
        times = found.pop("times")
        who = f"transformers {how}"
        shown(model, batch, who, times, parameters, rate, **found, memory_mib=memory.most)
    for setting in arguments.settings:
        for build, binaries in builds.items():
            lines, end, memory, why = jobs.run(
                binaries, folder, job(folder, batch, setting), until=arguments.steps
            )
            who = " ".join(["r1d", build, setting]).strip()
            if len(lines) < 3:
                say(model=model, batch=batch, who=who, end=end, why=why)
                continue
            times = [line["timing_s/update"] for line in lines]
            last = dict(loss=lines[-1]["loss"], mfu_metric=lines[-1].get("perf/mfu"))
            shown(model, batch, who, times, parameters or 0, rate, **last, memory_mib=memory)


with tempfile.TemporaryDirectory() as scratch:
    rate = measured_rate()
    for model in MODELS:
        folder = pathlib.Path(scratch) / model
        jobs.write_model(folder, jobs.MODELS[model])
        for batch in arguments.batches:
            compare(folder, model, batch, rate)
