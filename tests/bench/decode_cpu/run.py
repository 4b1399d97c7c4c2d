"""Decoding on the CPU: r1d's sampler against transformers' generate, the two taking turns in one run.

    python tests/bench/decode_cpu/run.py [--pairs 5] [--batches 1 32 128] [--threads 1] [--dtypes float32 bfloat16]

A 10 M-parameter Qwen2 with random weights from a fixed seed, prompts of 64 ids, 128 new tokens, end-of-sequence ignored. First both must
decode the same greedy ids in float32; then each row is warmed up and measured A B A B …, and printed as one JSON line: medians of the
pairwise ratios with their least and greatest, wall and CPU seconds of both, tokens per second. A ratio above 1 is for r1d.
Needs `cargo build --release -p r1d-sampler --example decode_server`, and torch and transformers for this script.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
SERVER = ROOT / "target/release/examples/decode_server"
SEED = 20251123
PROMPT_TOKENS, NEW_TOKENS = 64, 128
# 9.96 M parameters.
CONFIG = dict(
    vocab_size=8192, hidden_size=256, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=1024, rope_theta=10000.0, rms_norm_eps=1e-6, tie_word_embeddings=True, initializer_range=0.05,
    bos_token_id=None, eos_token_id=None, pad_token_id=None,
)


class R1d:
    """r1d's sampler in a process of its own."""

    def __init__(self, directory, dtype, threads):
        self.process = subprocess.Popen([SERVER, directory, dtype, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, prompts, temperature=0.0, invariant=False):
        batch = {"prompts": prompts, "new_tokens": NEW_TOKENS, "temperature": temperature, "invariant": invariant}
        self.process.stdin.write(json.dumps(batch) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"decode_server ended with {self.process.wait()}")
        answer = json.loads(answer)
        return answer["seconds"], answer["cpu_seconds"], answer["ids"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Transformers:
    """generate with the dynamic cache, its default; `attention` is the attention implementation (sdpa is the default)."""

    def __init__(self, directory, dtype, attention):
        import torch
        import transformers

        self.torch = torch
        self.model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype), attn_implementation=attention)
        self.model.eval()

    def run(self, prompts, temperature=0.0):
        ids = self.torch.tensor(prompts)
        draw = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0) if temperature else dict(do_sample=False)
        wall, cpu = time.perf_counter(), time.process_time()
        out = self.model.generate(
            ids, attention_mask=self.torch.ones_like(ids), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, pad_token_id=0, **draw
        )
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        return *seconds, out[:, PROMPT_TOKENS:].tolist()


def make_model(directory):
    import torch
    import transformers

    transformers.set_seed(SEED)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**CONFIG))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.05)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(directory)
    return sum(p.numel() for p in model.parameters())


def prompts_of(batch):
    import torch

    generator = torch.Generator().manual_seed(SEED + batch)
    return torch.randint(0, CONFIG["vocab_size"], (batch, PROMPT_TOKENS), generator=generator).tolist()


def compare(a, b, pairs):
    """A B A B …; the first pair warms both up."""
    a(), b()
    runs = [(a()[:2], b()[:2]) for _ in range(pairs)]
    wall = [peer[0] / ours[0] for ours, peer in runs]
    cpu = [peer[1] / ours[1] for ours, peer in runs if ours[1] > 0]
    middle = lambda values: round(statistics.median(values), 4)
    return {
        "wall_ratio": middle(wall), "wall_ratio_min": round(min(wall), 3), "wall_ratio_max": round(max(wall), 3),
        "cpu_ratio": middle(cpu) if cpu else None,
        "r1d_wall_s": middle([r[0][0] for r in runs]), "peer_wall_s": middle([r[1][0] for r in runs]),
        "r1d_cpu_s": middle([r[0][1] for r in runs]), "peer_cpu_s": middle([r[1][1] for r in runs]),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--threads", type=int, default=1, help="of both sides")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--attention", nargs="+", default=["sdpa", "eager"], help="attention implementations of the peer")
    parser.add_argument("--keep", help="make the model here, and leave it")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.keep or temporary
        parameters = make_model(directory)
        for dtype in arguments.dtypes:
            r1d = R1d(directory, dtype, arguments.threads)
            for batch in arguments.batches:
                prompts = prompts_of(batch)
                row = {"bench": "decode_cpu", "parameters": parameters, "dtype": dtype, "batch": batch, "prompt": PROMPT_TOKENS,
                       "new_tokens": NEW_TOKENS, "threads": arguments.threads, "torch": torch.__version__, "transformers": transformers.__version__}
                for attention in arguments.attention:
                    peer = Transformers(directory, dtype, attention)
                    if dtype == "float32":
                        assert r1d.run(prompts)[2] == peer.run(prompts)[2], f"greedy ids differ: batch {batch}, {attention}"
                    for draw, temperature in [("greedy", 0.0), ("sampled", 1.0)]:
                        measured = compare(lambda: r1d.run(prompts, temperature), lambda: peer.run(prompts, temperature), arguments.pairs)
                        throughput = {"r1d_tokens_per_s": round(batch * NEW_TOKENS / measured["r1d_wall_s"])}
                        print(json.dumps(row | {"peer": f"transformers {attention}", "draw": draw} | measured | throughput), flush=True)
                if dtype == "float32":
                    # What the batch-invariant mode costs: the ratio is its time over the fast mode's.
                    assert arguments.threads > 1 or r1d.run(prompts, 0.0, True)[2] == r1d.run(prompts)[2]
                if arguments.threads == 1:
                    measured = compare(lambda: r1d.run(prompts), lambda: r1d.run(prompts, 0.0, True), arguments.pairs)
                    print(json.dumps(row | {"peer": "r1d batch-invariant", "draw": "greedy"} | measured), flush=True)
            r1d.close()


if __name__ == "__main__":
    main()
