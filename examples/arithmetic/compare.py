"""Reads what `control` left (PREFIX-job-SEED.json, PREFIX-control-SEED.json) and says whether
reinforcement learning was worth it."""

import json
import sys

prefix = sys.argv[1]
print(f"{'seed':>4} {'cold start':>10} {'control':>8} {'grpo':>6}")
fair = True
for seed in (1, 2, 3):
    score = {}
    for kind in ("job", "control"):
        with open(f"{prefix}-{kind}-{seed}.json") as file:
            status = json.load(file)
        status = status.get("body", status)
        score[kind] = {e["stage"]: e["metrics"]["pass@1"] for e in status["evals"]}
    cold, grpo, control = (
        score["job"]["cold-start"],
        score["job"]["reasoning"],
        score["control"]["more-sft"],
    )
    print(f"{seed:>4} {cold:>10.1%} {control:>8.1%} {grpo:>6.1%}")
    fair &= grpo >= 0.8 and grpo >= cold + 0.25 and grpo >= control + 0.1
sys.exit(0 if fair else "GRPO did not win by the margin that the README claims")
