"""The example of a generative judge with real processes: a judge that the job trains decides what
rejection sampling keeps, and agrees with the rule."""

import json
import pathlib
import subprocess
import sys

import tiny

JUDGE = tiny.ROOT / "examples" / "judge"


def test_a_judge_that_the_job_trained_keeps_what_the_rule_finds_right(daemon):
    import pyarrow.parquet

    subprocess.run([sys.executable, JUDGE / "generate.py"], check=True)
    submitted = daemon.json("submit", JUDGE / "job.toml", "--update-lock")
    status = daemon.wait_ended(submitted.get("body", submitted)["job"], seconds=1200)
    assert status["state"] == "succeeded", status["error"]
    directory = pathlib.Path(status["directory"])
    judged = []
    for step in range(1, 5):
        for rollout in pyarrow.parquet.read_table(
            directory / "rollouts" / f"kept-step-{step:06}.parquet"
        ).to_pylist():
            said = {verdict["plugin"]: verdict["value"] for verdict in rollout["verdicts"]}
            judged.append(
                (
                    said["correctness"],
                    said["accuracy"],
                    rollout["advantage"] is not None,
                    rollout["completion"],
                )
            )
    assert len(judged) == 4 * 32 * 8
    # Neither all right nor all wrong: else agreeing would say nothing.
    right = sum(rule == 1 for _, rule, *_ in judged)
    assert 0.05 < right / len(judged) < 0.98, right
    agree = sum(judge == rule for judge, rule, *_ in judged)
    print(f"judge and rule agree on {agree} of {len(judged)}, of which {right} are right")
    assert agree / len(judged) > 0.95
    # What the judge did not find correct is not kept.
    assert all(judge == 1 for judge, _, kept, _ in judged if kept)
    rows = [
        json.loads(line)
        for line in (directory / "datasets" / "kept.jsonl").read_text().splitlines()
    ]
    assert rows and {row["completion"] for row in rows} <= {
        completion for judge, *_, completion in judged if judge == 1
    }
    exam = next(found for found in status["evals"] if found["stage"] == "policy-again")
    assert (
        abs(exam["metrics"]["rewards/correctness/mean"] - exam["metrics"]["rewards/accuracy/mean"])
        < 0.05
    ), exam["metrics"]
