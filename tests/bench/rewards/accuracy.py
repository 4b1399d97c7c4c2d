"""Completions per second and core: the reward `accuracy`, built natively, beside Math-Verify 0.9 on
the same pairs, a process each.

    python -m venv /tmp/math-verify && /tmp/math-verify/bin/pip install 'math-verify[antlr4_13_2]==0.9.0'
    cargo build --release -p accuracy --example judge
    /tmp/math-verify/bin/python tests/bench/rewards/accuracy.py [--per-category 20] [--rounds 3]

The pairs are those of tests/parity. The two take turns; medians. Time is the processors', so that a
busy machine does not matter; ours includes starting and reading its input. Prints one JSON line for
all pairs, and one for the numbers alone."""

import argparse
import json
import logging
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "parity"))
import pairs as made


def ours(pairs, binary):
    lines = [
        json.dumps(
            {"reference": p.reference, "completion": rf"The answer is $\boxed{{{p.answer}}}$."}
        )
        for p in pairs
    ]
    # Often enough to be measured.
    repeats = max(1, 20_000 // len(lines))
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])  # noqa: E731
    before = used()
    subprocess.run(
        [binary, "--time"],
        input="\n".join(lines * repeats),
        capture_output=True,
        text=True,
        check=True,
    )
    return len(lines) * repeats / (used() - before)


def theirs(pairs):
    from math_verify import parse, verify

    started = time.process_time()
    for p in pairs:
        verify(parse(f"${p.reference}$"), parse(rf"The answer is $\boxed{{{p.answer}}}$."))
    return len(pairs) / (time.process_time() - started)


def main():
    logging.disable(logging.CRITICAL)
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--per-category", type=int, default=20)
    arguments.add_argument("--rounds", type=int, default=3)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    arguments.add_argument("--binary", default=str(target / "release" / "examples" / "judge"))
    given = arguments.parse_args()

    everything = list(made.generated(given.per_category, seed=7))
    numbers = [
        p
        for p in everything
        if p.category
        in ("integers", "fractions", "scientific", "percentages", "units", "assignments")
    ]
    for name, pairs in (("all categories", everything), ("numbers", numbers)):
        theirs(pairs[:20])
        rounds = [(ours(pairs, given.binary), theirs(pairs)) for _ in range(given.rounds)]
        mine, other = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            json.dumps(
                {
                    "pairs": name,
                    "n": len(pairs),
                    "accuracy_per_s": round(mine),
                    "math_verify_per_s": round(other, 1),
                    "ratio": round(mine / other, 1),
                }
            )
        )


if __name__ == "__main__":
    main()
