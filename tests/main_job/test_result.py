"""What a job leaves behind is what other tools read: transformers the model, pyarrow the
rollouts."""

import json
import pathlib
import subprocess

import pyarrow.parquet
import pytest
import tiny
from conftest import BIN, Daemon


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    daemon = Daemon(folder / "state").start()
    try:
        submitted = daemon.json("submit", tiny.write(folder / "job.toml"))
        status = daemon.wait_ended(submitted.get("body", submitted)["job"])
        assert status["state"] == "succeeded", status["error"]
        yield daemon, status
    finally:
        daemon.stop()


def test_transformers_gives_the_same_logits(finished, tmp_path):
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, status = finished
    model = AutoModelForCausalLM.from_pretrained(
        status["model"],
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
    )
    tokenizer = AutoTokenizer.from_pretrained(status["model"])
    ids = torch.randint(0, len(tokenizer), (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        golden = {"input_ids": ids, "logits": model(ids).logits.float()}
    save_file(golden, tmp_path / "golden.safetensors")
    done = subprocess.run(
        [
            BIN / "r1ctl",
            "model",
            "verify",
            status["model"],
            "--golden",
            tmp_path / "golden.safetensors",
            "-o",
            "json",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["ok"] and verdict["max_abs_diff"] <= verdict["tolerance"]


def test_rollouts_are_parquet_with_every_verdict(finished):
    _, status = finished
    files = sorted((pathlib.Path(status["directory"]) / "rollouts").glob("**/*.parquet"))
    rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    assert len(rows) == 8 * 2 * 4
    for row in rows:
        assert len(row["completion_ids"]) == len(row["behaviour_logprobs"])
        assert all(logprob <= 0 for logprob in row["behaviour_logprobs"])
        for token, kept in zip(row["completion_ids"], kept_sets(row), strict=True):
            assert token in kept, "every id is among those that top_p left"
    assert {(row["step"], row["prompt_index"], row["sample_index"]) for row in rows} == {
        (s, p, g) for s in range(1, 9) for p in range(2) for g in range(4)
    }


def kept_sets(row):
    """Of each token the number of runs, then of each run how many ids are dropped and how many are
    kept."""
    numbers = iter(row["kept_ids"])
    for runs in numbers:
        kept, at = set(), 0
        for _ in range(runs):
            start = at + next(numbers)
            at = start + next(numbers)
            kept.update(range(start, at))
        yield kept


def test_metrics_have_trls_names_once_per_step(finished):
    _, status = finished
    lines = tiny.metrics(status["directory"])
    assert [(line["stage"], line["step"]) for line in lines] == (
        [("language", s) for s in range(1, 7)]
        + [("cold-start", s) for s in range(1, 7)]
        + [("reasoning", s) for s in range(1, 9)]
    )
    last = lines[-1]
    for name in (
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "rewards/accuracy/mean",
        "rewards/format/mean",
        "kl",
        "loss",
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "sampling/kept_ids/mean",
        "completions/mean_length",
        "completions/clipped_ratio",
        "sampling/sampling_logp_difference/max",
        "sampling/importance_sampling_ratio/max",
    ):
        assert name in last, f"{name} is not in {sorted(last)}"
    # ROLL-2: the trainer's forward gives the log-probs that the decode path recorded, over the ids
    # that top_p left.
    assert all(
        line["sampling/sampling_logp_difference/max"] == 0
        and line["sampling/importance_sampling_ratio/min"] == 1
        and line["sampling/importance_sampling_ratio/max"] == 1
        for line in lines
        if line["stage"] == "reasoning"
    )
