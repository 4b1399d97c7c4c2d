"""Decoding: r1d's sampler against transformers' generate, the two taking turns in one run.

    python tests/bench/decode_cpu/run.py [--pairs 5] [--batches 1 32 128] [--threads 1] [--dtypes float32 bfloat16] [--mkl-intel-kernels]
    python tests/bench/decode_cpu/run.py --model 0.5b --device cuda:0 --batches 1 64 256 --prompt 256 --new 256 --dtypes bfloat16

A Qwen2 with random weights from a fixed seed (10 M parameters, or the shape of Qwen2.5-0.5B),
end-of-sequence ignored. First both must decode the same greedy ids in float32; then each row is
warmed up and measured A B A B …, and printed as one JSON line: medians of the pairwise ratios with
their least and greatest, wall and CPU seconds of both, tokens per second. A ratio above 1 is for
r1d. `--mkl-intel-kernels` gives both sides MKL's Intel kernels on other processors. Needs `cargo
build --release -p r1d-sampler --example decode_server`, and torch and transformers for this script.
"""

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
SERVER = ROOT / "target/release/examples/decode_server"
SEED = 20251123
COMMON = dict(
    tie_word_embeddings=True,
    rms_norm_eps=1e-6,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
CONFIGS = {
    # 9.96 M parameters.
    "10m": COMMON
    | dict(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_theta=10000.0,
        initializer_range=0.05,
    ),
    # Qwen2.5-0.5B's shape.
    "0.5b": COMMON
    | dict(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_theta=1000000.0,
        initializer_range=0.02,
    ),
}
# The undocumented switch that both sides get with --mkl-intel-kernels: the binary carries its own,
# the peer's is preloaded.
MKL_SOURCE = "int mkl_serv_intel_cpu_true(void) { return 1; }"


class R1d:
    """r1d's sampler in a process of its own."""

    def __init__(self, directory, dtype, arguments):
        self.new_tokens = arguments.new
        switches = ["--mkl-intel-kernels"] if arguments.mkl_intel_kernels else []
        self.process = subprocess.Popen(
            [SERVER, directory, dtype, str(arguments.threads), arguments.device, *switches],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, prompts, temperature=0.0, invariant=False):
        batch = {
            "prompts": prompts,
            "new_tokens": self.new_tokens,
            "temperature": temperature,
            "invariant": invariant,
        }
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
    """generate with the dynamic cache, its default; `attention` is the attention implementation
    (sdpa is the default)."""

    def __init__(self, directory, dtype, attention, arguments):
        import torch
        import transformers

        self.torch, self.device, self.prompt, self.new_tokens = (
            torch,
            arguments.device,
            arguments.prompt,
            arguments.new,
        )
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=getattr(torch, dtype), attn_implementation=attention
        )
        self.model.eval().to(self.device)

    def run(self, prompts, temperature=0.0):
        ids = self.torch.tensor(prompts, device=self.device)
        draw = (
            dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
            if temperature
            else dict(do_sample=False)
        )
        wall, cpu = time.perf_counter(), time.process_time()
        out = self.model.generate(
            ids,
            attention_mask=self.torch.ones_like(ids),
            max_new_tokens=self.new_tokens,
            min_new_tokens=self.new_tokens,
            pad_token_id=0,
            **draw,
        )
        out = out.cpu()
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        return *seconds, out[:, self.prompt :].tolist()


def make_model(directory, config):
    import torch
    import transformers

    transformers.set_seed(SEED)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.05)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(directory)
    return sum(p.numel() for p in model.parameters())


def prompts_of(batch, vocab, tokens):
    import torch

    generator = torch.Generator().manual_seed(SEED + batch)
    return torch.randint(0, vocab, (batch, tokens), generator=generator).tolist()


def preload_mkl_switch():
    """Starts this script again with the switch in place."""
    if "R1D_BENCH_MKL" in os.environ:
        return
    library = pathlib.Path(tempfile.mkdtemp()) / "mkl_switch.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"],
        input=MKL_SOURCE,
        text=True,
        check=True,
    )
    os.environ |= {"R1D_BENCH_MKL": "1", "LD_PRELOAD": str(library)}
    os.execv(sys.executable, [sys.executable, *sys.argv])


def compare(a, b, pairs):
    """A B A B …; the first pair warms both up."""
    a(), b()
    runs = [(a()[:2], b()[:2]) for _ in range(pairs)]
    wall = [peer[0] / ours[0] for ours, peer in runs]
    cpu = [peer[1] / ours[1] for ours, peer in runs if ours[1] > 0]
    middle = lambda values: round(statistics.median(values), 4)
    return {
        "wall_ratio": middle(wall),
        "wall_ratio_min": round(min(wall), 3),
        "wall_ratio_max": round(max(wall), 3),
        "cpu_ratio": middle(cpu) if cpu else None,
        "r1d_wall_s": middle([r[0][0] for r in runs]),
        "peer_wall_s": middle([r[1][0] for r in runs]),
        "r1d_cpu_s": middle([r[0][1] for r in runs]),
        "peer_cpu_s": middle([r[1][1] for r in runs]),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--threads", type=int, default=1, help="of both sides")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument(
        "--attention",
        nargs="+",
        default=["sdpa", "eager"],
        help="attention implementations of the peer",
    )
    parser.add_argument(
        "--draws", nargs="+", choices=["greedy", "sampled"], default=["greedy", "sampled"]
    )
    parser.add_argument("--model", choices=CONFIGS, default="10m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--mkl-intel-kernels", action="store_true")
    parser.add_argument("--keep", help="make the model here, and leave it")
    arguments = parser.parse_args()
    if arguments.mkl_intel_kernels:
        preload_mkl_switch()
    config, on_cpu = CONFIGS[arguments.model], arguments.device == "cpu"
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.keep or temporary
        parameters = make_model(directory, config)
        for dtype in arguments.dtypes:
            r1d = R1d(directory, dtype, arguments)
            for batch in arguments.batches:
                prompts = prompts_of(batch, config["vocab_size"], arguments.prompt)
                row = {
                    "bench": "decode",
                    "device": arguments.device,
                    "parameters": parameters,
                    "dtype": dtype,
                    "batch": batch,
                    "prompt": arguments.prompt,
                    "new_tokens": arguments.new,
                    "threads": arguments.threads,
                    "mkl_intel_kernels": arguments.mkl_intel_kernels,
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                }
                for attention in arguments.attention:
                    peer = Transformers(directory, dtype, attention, arguments)
                    if dtype == "float32":
                        assert r1d.run(prompts)[2] == peer.run(prompts)[2], (
                            f"greedy ids differ: batch {batch}, {attention}"
                        )
                    for draw in arguments.draws:
                        temperature = 0.0 if draw == "greedy" else 1.0
                        measured = compare(
                            lambda: r1d.run(prompts, temperature),
                            lambda: peer.run(prompts, temperature),
                            arguments.pairs,
                        )
                        throughput = {
                            "r1d_tokens_per_s": round(
                                batch * arguments.new / measured["r1d_wall_s"]
                            )
                        }
                        print(
                            json.dumps(
                                row
                                | {"peer": f"transformers {attention}", "draw": draw}
                                | measured
                                | throughput
                            ),
                            flush=True,
                        )
                if dtype == "float32" and on_cpu:
                    # What the batch-invariant mode costs: the ratio is its time over the fast
                    # mode's.
                    assert (
                        arguments.threads > 1
                        or r1d.run(prompts, 0.0, True)[2] == r1d.run(prompts)[2]
                    )
                if arguments.threads == 1 and on_cpu and dtype == "float32":
                    measured = compare(
                        lambda: r1d.run(prompts),
                        lambda: r1d.run(prompts, 0.0, True),
                        arguments.pairs,
                    )
                    print(
                        json.dumps(
                            row | {"peer": "r1d batch-invariant", "draw": "greedy"} | measured
                        ),
                        flush=True,
                    )
            r1d.close()


if __name__ == "__main__":
    main()
