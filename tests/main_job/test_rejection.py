"""Rejection sampling with real processes: pretrain, keep some of the completions, fine-tune the
base on them. A killed job ends with the same data set and the same weights; what is kept trains on
exactly the ids of prompt, completion and end."""

import json
import os
import pathlib
import signal

import pytest
import tiny
from conftest import Daemon

JOB = """
name = "rejection"
seed = 5
batch_invariant = true

[model]
init = "MODEL"
tokenizer = "TOKENIZER"
dtype = "float32"

[data.text]
path = "DATA/pretrain.jsonl"
text = "text"

[data.train]
path = "ROWS"
prompt = "prompt"
reference = "reference"
template = "r1-zero"

[data.cold-start]
path = "DATA/cold-start.jsonl"
template = "r1-zero"

[[stage]]
name = "language"
kind = "pretrain"
data = "text"
steps = 6
batch_size = 4
max_length = 64
learning_rate = 1e-3

[[stage]]
name = "keep"
kind = "rejection-sampling"
data = "train"
prompts_per_step = 4
num_generations = 8
max_completion_length = 48
select = "best-of-n"
keep = 2

  [[stage.reward]]
  plugin = "accuracy"

  [[stage.reward]]
  plugin = "format"

[[stage]]
name = "tuned"
kind = "sft"
from = "base"
data = "keep"
more_data = ["cold-start"]
steps = 6
batch_size = 4
learning_rate = 1e-3

[checkpoint]
every_steps = 3
"""
ROWS = 18


def submit(daemon, folder, **replace):
    rows = (tiny.data() / "train.jsonl").read_text().splitlines()[:ROWS]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    text = JOB.replace("ROWS", str(folder / "rows.jsonl")).replace("DATA", str(tiny.data()))
    text = text.replace("MODEL", str(tiny.ROOT / "configs" / "models" / "tiny-deepseek-v3.json"))
    text = text.replace("TOKENIZER", str(tiny.ARITHMETIC / "tokenizer"))
    for old, new in replace.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "job.toml").write_text(text)
    submitted = daemon.json("submit", folder / "job.toml")
    return submitted.get("body", submitted)["job"]


def left(status):
    """What a finished job left: metrics, the data set's bytes and the final weights."""
    dataset = pathlib.Path(status["directory"]) / "datasets" / "keep.jsonl"
    return tiny.metrics(status["directory"]), dataset.read_bytes(), tiny.weights(status["model"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    daemon = Daemon(folder / "state").start()
    try:
        status = daemon.wait_ended(submit(daemon, folder))
        assert status["state"] == "succeeded", status["error"]
        assert status["restarts"] == 0
        return status
    finally:
        daemon.stop()


def test_the_best_of_each_prompt_are_kept(undisturbed):
    lines = [line for line in tiny.metrics(undisturbed["directory"]) if line["stage"] == "keep"]
    assert len(lines) == 5 and not any("loss" in line for line in lines)
    rows = [json.loads(line) for line in left(undisturbed)[1].splitlines()]
    made = json.loads(
        (pathlib.Path(undisturbed["directory"]) / "datasets" / "keep.json").read_text()
    )
    assert made["prompts"] == ROWS and made["sampled"] == ROWS * 8
    assert made["rows"] + made["illegible"] == sum(line["samples/kept"] for line in lines)
    assert len(rows) == made["rows"] > 0
    prompts = {
        json.loads(line)["prompt"]
        for line in (tiny.data() / "train.jsonl").read_text().splitlines()[:ROWS]
    }
    for row in rows:
        assert row["prompt"] in prompts and row["reference"] and isinstance(row["reward"], float)


def test_text_that_is_kept_is_tokenised_as_it_was_sampled(undisturbed):
    """Of the completions that were kept, those whose text gives back their ids; the log counts the
    others."""
    import pyarrow.parquet
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny.ARITHMETIC / "tokenizer" / "tokenizer.json"))
    directory = pathlib.Path(undisturbed["directory"])
    made = json.loads((directory / "datasets" / "keep.json").read_text())
    kept = iter(
        json.loads(line)
        for line in (directory / "datasets" / "keep.jsonl").read_text().splitlines()
    )
    others = illegible = 0
    for step in range(1, 6):
        for rollout in pyarrow.parquet.read_table(
            directory / "rollouts" / f"keep-step-{step:06}.parquet"
        ).to_pylist():
            if rollout["advantage"] is None:
                continue
            assert rollout["finish"] == "stop", "what is cut off is no example"
            ids = rollout["completion_ids"][:-1]
            if "\ufffd" in rollout["completion"]:
                illegible += 1
                continue
            row = next(kept)
            assert row["completion"] == rollout["completion"]
            again = tokenizer.encode(row["completion"], add_special_tokens=False).ids
            others += again != ids
            assert tokenizer.decode(again, skip_special_tokens=False) == row["completion"]
    assert next(kept, None) is None
    assert (others, illegible) == (made["other_ids"], made["illegible"])


@pytest.mark.parametrize("stage,who", [("keep", "worker"), ("keep", "daemon"), ("tuned", "worker")])
def test_a_killed_job_ends_with_the_same_bytes(stage, who, tmp_path, undisturbed):
    daemon = Daemon(tmp_path / "state").start()
    try:
        job = submit(daemon, tmp_path)

        def moment():
            now = daemon.status(job)
            at = next((s for s in now["stages"] if s["state"] == "running"), None)
            return at and at["name"] == stage and at["step"] >= 1

        daemon.wait_for(moment)
        if who == "worker":
            os.kill(daemon.worker_pid(), signal.SIGKILL)
        else:
            daemon.kill()
            daemon.start()
        status = daemon.wait_ended(job)
        assert status["state"] == "succeeded", status["error"]
        assert status["restarts"] == 1
        assert left(status) == left(undisturbed)
    finally:
        daemon.stop()


def test_a_stage_that_keeps_nothing_fails_with_the_rate(tmp_path, daemon):
    job = submit(
        daemon, tmp_path, **{'plugin = "accuracy"': 'plugin = "accuracy"\n  min_score = 2.0'}
    )
    status = daemon.wait_ended(job)
    assert status["state"] == "failed"
    assert "kept none of its 144 completions (acceptance rate 0.0000)" in status["error"], status[
        "error"
    ]
