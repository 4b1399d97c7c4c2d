"""Counts how often the judge and the rule agree on what a job sampled.

    python3 examples/judge/agreement.py JOB R1CTL [OPTION…]

JOB is the id that `r1ctl submit` prints; the options are `r1ctl`'s own, as `--socket PATH`. Every
step of the stage `kept` that is committed counts. Prints one line of JSON, too; exit code 1 where
there is nothing to compare."""

import collections
import json
import subprocess
import sys

STAGE = "kept"
LIMIT = 1_000_000


def samples(job, *words):
    command = [
        *sys.argv[2:],
        "-o",
        "json",
        "samples",
        job,
        "--stage",
        STAGE,
        "--limit",
        str(LIMIT),
        *words,
    ]
    asked = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if asked.returncode != 0:  # r1ctl has said why
        sys.exit(1)
    return json.loads(asked.stdout)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    job = sys.argv[1]
    newest = samples(job)
    if not newest:
        sys.exit(f"job {job}: no step of stage `{STAGE}` is committed, there is nothing to compare")
    counts = collections.Counter()
    last = newest[0]["step"]
    for step in range(1, last + 1):
        for sample in newest if step == last else samples(job, "--step", str(step)):
            said = {verdict["plugin"]: verdict["value"] for verdict in sample["verdicts"]}
            counts[said.get("correctness"), said.get("accuracy")] += 1
    both = {pair: count for pair, count in counts.items() if None not in pair}
    judged = sum(both.values())
    if not judged:
        sys.exit(
            f"job {job}: none of {counts.total()} completions has a verdict of both `correctness` and `accuracy`"
        )
    agree = sum(count for (judge, rule), count in both.items() if judge == rule)
    print(f"{judged} completions that both have judged, {counts.total() - judged} others")
    print(f"judge and rule agree on {agree} ({agree / judged:.2%})")
    for (judge, rule), count in sorted(both.items(), key=str):
        print(f"  judge {judge:g}, rule {rule:g}: {count}")
    print(
        json.dumps(
            {
                "judged": judged,
                "agree": agree,
                "others": counts.total() - judged,
                "right": sum(c for (_, r), c in both.items() if r == 1),
            }
        )
    )


if __name__ == "__main__":
    main()
