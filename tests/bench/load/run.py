"""Loading a model: r1d against transformers and against reading the files, taking turns in one run.

    python tests/bench/load/run.py [--pairs 3] [--device cuda:0]

A Qwen2 of 0.5 B parameters in bfloat16, in shards of 300 MB, is loaded as bfloat16 and as float32.
The files are in the page cache for all three. Prints one JSON line per dtype: medians in GB of file
per second, and peak memory over the size of the loaded weights. Needs
`cargo build --release --workspace --example load`."""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
LOAD = ROOT / "target/release/examples/load"
PEER = """
import json, resource, sys, time, torch, transformers
transformers.logging.set_verbosity_error()
device = sys.argv[3]
torch.zeros(1, device=device).item()
started = time.perf_counter()
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]), device_map=device)
if device == "cpu":
    for p in model.parameters(): p.sum()  # mapped weights are read when they are first touched
else:
    torch.cuda.synchronize()
print(json.dumps(dict(seconds=time.perf_counter() - started, peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)))
"""


def make(folder):
    import torch
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(
        folder, max_shard_size="300MB"
    )


def read(files):
    started = time.perf_counter()
    buffer = bytearray(1 << 24)
    for file in files:
        with open(file, "rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - started


def run(command):
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


parser = argparse.ArgumentParser()
parser.add_argument("--pairs", type=int, default=3)
parser.add_argument("--device", default="cpu")
arguments = parser.parse_args()
with tempfile.TemporaryDirectory() as folder:
    make(folder)
    files = sorted(pathlib.Path(folder).glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    for dtype, width in (("bfloat16", 2), ("float32", 4)):
        rows = [
            (
                run([LOAD, folder, dtype, arguments.device]),
                run([sys.executable, "-c", PEER, folder, dtype, arguments.device]),
                read(files),
            )
            for _ in range(arguments.pairs)
        ]
        speed = lambda seconds: round(size / 1e9 / statistics.median(seconds), 3)
        weights = rows[0][0]["parameters"] * width
        print(
            json.dumps(
                dict(
                    bench="load",
                    device=arguments.device,
                    dtype=dtype,
                    file_bytes=size,
                    shards=len(files),
                    pairs=arguments.pairs,
                    r1d_gb_per_s=speed([r["seconds"] for r, _, _ in rows]),
                    transformers_gb_per_s=speed([p["seconds"] for _, p, _ in rows]),
                    read_gb_per_s=speed([s for _, _, s in rows]),
                    r1d_own_over_weights=round(rows[0][0]["own_bytes"] / weights, 3),
                    r1d_peak_over_weights=round(rows[0][0]["peak_bytes"] / weights, 3),
                    transformers_peak_over_weights=round(rows[0][1]["peak_bytes"] / weights, 3),
                )
            ),
            flush=True,
        )
