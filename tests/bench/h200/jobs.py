"""What the benches of one GPU share: models of real shapes with random weights, inputs of a given
length, and jobs through the daemon with the most memory that they took."""

import json
import pathlib
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
ENDED = ("succeeded", "failed", "cancelled")
QWEN2 = dict(
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
MODELS = {
    "0.5B": QWEN2,
    "1.5B": QWEN2
    | dict(
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        initializer_range=0.13,
    ),
    "MLA": json.loads((ROOT / "tests/bench/h200/decode_mla/model.json").read_text()),
    "tiny": QWEN2
    | dict(
        vocab_size=600,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2048,
        initializer_range=0.3,
    ),
}


def words(model, row, count):
    """A text of `count` tokens, the same for the same row."""
    vocabulary = model["vocab_size"] - 1
    return " ".join(f"w{1 + (row * 131 + i * 17) % vocabulary}" for i in range(count))


def write_model(folder, model):
    """Writes model.json and a tokenizer of words for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(model))
    vocabulary = {"<eos>": 0, **{f"w{i}": i for i in range(1, model["vocab_size"])}}
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
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer/tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer/tokenizer_config.json").write_text(
        json.dumps(dict(eos_token="<eos>", pad_token="<eos>"))
    )


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_prompts(folder, model, rows, tokens):
    prompts = (dict(prompt=words(model, row, tokens), reference="0") for row in range(rows))
    write_lines(folder / "prompts.jsonl", prompts)


def write_texts(folder, model, rows, tokens):
    texts = (dict(text=words(model, row, tokens)) for row in range(rows))
    write_lines(folder / f"text-{tokens}.jsonl", texts)


def head(folder, dtype):
    """The part of a job file that all benches share."""
    return f"""
name = "bench"
[model]
init = "{folder}/model.json"
tokenizer = "{folder}/tokenizer"
dtype = "{dtype}"
[checkpoint]
every_steps = 0
keep = 1
"""


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


def run(binaries, folder, text, until=None):
    """The job's metrics by step, its end, the most memory, and a line of the log where memory was
    out. `until` steps are enough, if given."""
    state = folder / f"state-{time.time_ns()}"
    state.mkdir()
    (state / "job.toml").write_text(text)
    binaries = pathlib.Path(binaries)
    daemon = subprocess.Popen(
        [binaries / "r1d", "dev", "--state-dir", state / "r1d"],
        stderr=(state / "r1d.log").open("w"),
    )

    def ctl(*words):
        socket = ["--socket", state / "r1d/r1d.sock"]
        command = [binaries / "r1ctl", *socket, *map(str, words), "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            log = (state / "r1d.log").read_text(errors="replace")[-2000:]
            raise SystemExit(f"r1ctl {words}: {done.stdout[-2000:]} {done.stderr[-2000:]} {log}")
        answer = json.loads(done.stdout)
        return answer.get("body", answer)

    try:
        while not (state / "r1d/r1d.sock").exists():
            if daemon.poll() is not None:
                raise SystemExit((state / "r1d.log").read_text(errors="replace")[-2000:])
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
        return lines, end, memory.most, (why or [status.get("error") or ""])[0][-300:]
    finally:
        daemon.terminate()
        daemon.wait()
