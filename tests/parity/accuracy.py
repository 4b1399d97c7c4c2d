"""The reward `accuracy` beside Math-Verify 0.9, natively: how often they agree, and which is right
where they do not.

    python -m venv /tmp/math-verify && /tmp/math-verify/bin/pip install 'math-verify[antlr4_13_2]==0.9.0'
    cargo build --release -p accuracy --example judge
    /tmp/math-verify/bin/python tests/parity/accuracy.py disagreements.json [--per-category 80] [--seed 1]

The truth of each pair is known by construction (`pairs.py`), or written beside it (`written.tsv`);
no judge's opinion settles anything. `R1D_TEST_DATA` names the directory with `gsm8k/test.jsonl`;
without it those pairs are left out. Ends with 1 when fewer than 98 % of the pairs that Math-Verify
has right are judged alike, or when a disagreement finds `accuracy` wrong."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
from collections import defaultdict

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import pairs as made

ROOT = pathlib.Path(__file__).resolve().parents[2]
AGREEMENT_MIN = 0.98


def judged_by_accuracy(pairs, binary):
    lines = [
        json.dumps(
            {"reference": p.reference, "completion": rf"The answer is \boxed{{{p.answer}}}."}
        )
        for p in pairs
    ]
    out = subprocess.run(
        [binary], input="\n".join(lines), capture_output=True, text=True, check=True
    ).stdout
    verdicts = [json.loads(line) for line in out.splitlines()]
    assert len(verdicts) == len(pairs)
    return [(v["score"] == 1.0, v["reason"]) for v in verdicts]


def judged_by_math_verify(pairs):
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    return [
        verify(parse(f"${p.reference}$"), parse(rf"The answer is $\boxed{{{p.answer}}}$."))
        for p in pairs
    ]


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("disagreements", help="JSON file to write")
    arguments.add_argument("--per-category", type=int, default=80)
    arguments.add_argument("--seed", type=int, default=1)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    arguments.add_argument("--binary", default=str(target / "release" / "examples" / "judge"))
    given = arguments.parse_args()

    pairs = list(made.generated(given.per_category, given.seed))
    pairs += made.written()
    data = os.environ.get("R1D_TEST_DATA")
    if data:
        pairs += made.from_gsm8k(data, 600, given.seed)
    else:
        print("R1D_TEST_DATA is not set: no pairs from GSM8K", file=sys.stderr)

    ours = judged_by_accuracy(pairs, given.binary)
    theirs = judged_by_math_verify(pairs)

    rows = defaultdict(lambda: defaultdict(int))
    disagreements = []
    for pair, (mine, reason), other in zip(pairs, ours, theirs, strict=True):
        for row in (rows[pair.category], rows["all"]):
            row["n"] += 1
            row["agree"] += mine == other
            row["ours_right"] += mine == pair.equal
            row["theirs_right"] += other == pair.equal
            row["alike_where_theirs_right"] += mine == other == pair.equal
        if mine != other or mine != pair.equal:
            right = (
                "neither" if mine == other else "accuracy" if mine == pair.equal else "math-verify"
            )
            disagreements.append(
                {
                    **vars(pair),
                    "accuracy": mine,
                    "reason": reason,
                    "math_verify": other,
                    "right": right,
                }
            )

    print(f"{'category':40}{'n':>6}{'agree':>8}{'accuracy right':>16}{'Math-Verify right':>19}")
    for name, row in sorted(rows.items(), key=lambda item: (item[0] == "all", item[0])):
        share = lambda key: f"{100 * row[key] / row['n']:.1f} %"  # noqa: B023, E731
        print(
            f"{name:40}{row['n']:6}{share('agree'):>8}{share('ours_right'):>16}{share('theirs_right'):>19}"
        )
    total = rows["all"]
    alike = total["alike_where_theirs_right"] / total["theirs_right"]
    wrong = [d for d in disagreements if d["right"] != "accuracy"]
    print(
        f"agreement where Math-Verify is right: {100 * alike:.2f} %; disagreements: {len(disagreements)}, accuracy wrong in {len(wrong)}"
    )
    pathlib.Path(given.disagreements).write_text(
        json.dumps(disagreements, indent=1, ensure_ascii=False) + "\n"
    )
    return 0 if alike >= AGREEMENT_MIN and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
