"""Whole jobs through the daemon on a GPU, one build beside another: how fast a GRPO job samples,
and how much of the device's memory a job takes.

    python tests/bench/sampling_gpu/run.py [--build NAME=DIRECTORY ...] [--cases sampling float32 evaluation] [--tiny]

A build is a directory with r1d, r1ctl, r1d-worker and plugins/; target/release alone where none is
named. The model has the shape of Qwen2.5-0.5B and random weights, with logits about as peaked as a
trained model's; prompts are 256 tokens. Builds take turns within a case. JSON lines:

sampling    bfloat16, 32 × 8 completions of 512 tokens, top_p 1 and 0.95, with and without the sampling mask: tokens a second of the last step, the step's
            seconds, and what its update took (no group has variance)
float32     pretraining on texts of 2,048 tokens, 8 a step, and of 16,384, 1 a step, with 14 query heads on 2 key heads: seconds a step, memory
evaluation  the sampling job, whose evaluation may write 16,384 tokens: memory until the second step

Memory is the most that nvidia-smi saw, of everything on the device. `--tiny` is the same at a size
for two cores, to try the script."""

import argparse
import json
import pathlib
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
ENDED = ("succeeded", "failed", "cancelled")

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
    build.split("=", 1) for build in arguments.build or [f"target={ROOT / 'target/release'}"]
)

MODEL = dict(
    architectures=["Qwen2ForCausalLM"],
    model_type="qwen2",
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    max_position_embeddings=32768,
    rope_theta=1000000.0,
    rms_norm_eps=1e-6,
    hidden_act="silu",
    tie_word_embeddings=True,
    initializer_range=0.17,
    eos_token_id=0,
    bos_token_id=0,
)
PROMPTS, GENERATIONS, PROMPT, COMPLETION, LONG = 32, 8, 256, 512, 16384
TEXTS = ((2048, 8), (16384, 1))
if arguments.tiny:
    MODEL.update(
        vocab_size=600,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2048,
        initializer_range=0.3,
    )
    PROMPTS, GENERATIONS, PROMPT, COMPLETION, LONG = 2, 2, 16, 12, 512
    TEXTS = ((48, 4),)


def write_inputs(folder):
    (folder / "model.json").write_text(json.dumps(MODEL))
    vocabulary = {"<eos>": 0, **{f"w{i}": i for i in range(1, MODEL["vocab_size"])}}
    eos = dict(
        id=0,
        content="<eos>",
        single_word=False,
        lstrip=False,
        rstrip=False,
        normalized=False,
        special=True,
    )
    tokenizer = dict(
        version="1.0",
        truncation=None,
        padding=None,
        added_tokens=[eos],
        normalizer=None,
        pre_tokenizer=dict(type="WhitespaceSplit"),
        post_processor=None,
        decoder=None,
        model=dict(type="WordLevel", vocab=vocabulary, unk_token="w1"),
    )
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer/tokenizer_config.json").write_text(
        json.dumps(dict(eos_token="<eos>", pad_token="<eos>"))
    )

    def words(row, count):
        return " ".join(
            f"w{1 + (row * 131 + i * 17) % (MODEL['vocab_size'] - 1)}" for i in range(count)
        )

    rows = PROMPTS * arguments.steps
    (folder / "prompts.jsonl").write_text(
        "".join(
            json.dumps(dict(prompt=words(row, PROMPT), reference="0")) + "\n" for row in range(rows)
        )
    )
    for length, batch in TEXTS:
        text = "".join(
            json.dumps(dict(text=words(row, length))) + "\n"
            for row in range(batch * arguments.steps)
        )
        (folder / f"text-{length}.jsonl").write_text(text)


def head(folder, dtype):
    return f'name = "bench"\n[model]\ninit = "{folder}/model.json"\ntokenizer = "{folder}/tokenizer"\ndtype = "{dtype}"\n[checkpoint]\nevery_steps = 0\nkeep = 1\n'


def sampling_job(folder, top_p, mask, completion=COMPLETION, evaluation=""):
    return (
        head(folder, "bfloat16")
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
        head(folder, "float32")
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


class Memory:
    """The most that was in use on the first device, MiB, while it looks."""

    def __enter__(self):
        self.most, self.ended = 0, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()
        return self

    def look(self):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        while not self.ended.wait(0.1):
            try:
                self.most = max(
                    self.most,
                    int(subprocess.run(query, capture_output=True, text=True, check=True).stdout),
                )
            except (OSError, ValueError, subprocess.CalledProcessError):
                return

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def run(build, folder, text, until=None):
    """The job's metrics by step, its end, and the most memory. `until` steps are enough, if
    given."""
    state = folder / f"state-{time.time_ns()}"
    state.mkdir()
    (state / "job.toml").write_text(text)
    binaries = pathlib.Path(builds[build])
    daemon = subprocess.Popen(
        [binaries / "r1d", "dev", "--state-dir", state / "r1d"],
        stderr=(state / "r1d.log").open("w"),
    )

    def ctl(*words):
        done = subprocess.run(
            [
                binaries / "r1ctl",
                "--socket",
                state / "r1d/r1d.sock",
                *map(str, words),
                "-o",
                "json",
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"r1ctl {words}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        answer = json.loads(done.stdout)
        return answer.get("body", answer)

    try:
        while not (state / "r1d/r1d.sock").exists():
            time.sleep(0.05)
        with Memory() as memory:
            name = ctl("submit", state / "job.toml")["job"]
            while True:
                status = ctl("status", name)
                file = pathlib.Path(status["directory"]) / "metrics.jsonl"
                lines = (
                    [json.loads(line) for line in file.read_text().splitlines()]
                    if file.exists()
                    else []
                )
                # An out-of-memory job is tried again: once is enough to know.
                gave_up = status["restarts"] > 0
                if status["state"] in ENDED or gave_up or (until and len(lines) >= until):
                    break
                time.sleep(0.2)
        end = "gave up" if gave_up and status["state"] not in ENDED else status["state"]
        why = [
            line
            for line in (state / "r1d.log").read_text(errors="replace").splitlines()
            if "out of memory" in line
        ]
        return lines, end, memory.most, (why or [""])[0][-300:]
    finally:
        daemon.terminate()
        daemon.wait()


def say(**row):
    print(json.dumps(dict(bench="sampling_gpu", **row)), flush=True)


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
