"""Counts how often the judge and the rule agree on what the job sampled.

    python3 examples/judge/agreement.py R1CTL [OPTION…]

The options are `r1ctl`'s own, as `--socket PATH`. Prints one line of JSON, too; exit code 1 where there is nothing to compare.
"""

import collections
import json
import subprocess
import sys

STEPS = 4
LIMIT = 1000


def ask(*words):
    return json.loads(subprocess.run([*sys.argv[1:], "-o", "json", *words], check=True, capture_output=True, text=True).stdout)


def main():
    job = ask("list")[-1]["job"]
    counts = collections.Counter()
    for step in range(1, STEPS + 1):
        for sample in ask("samples", job, "--stage", "kept", "--step", str(step), "--limit", str(LIMIT)):
            said = {verdict["plugin"]: verdict["value"] for verdict in sample["verdicts"]}
            counts[said.get("correctness"), said.get("accuracy")] += 1
    both = {pair: count for pair, count in counts.items() if None not in pair}
    judged = sum(both.values())
    if not judged:
        return 1
    agree = sum(count for (judge, rule), count in both.items() if judge == rule)
    print(f"{judged} completions that both have judged, {counts.total() - judged} others")
    print(f"judge and rule agree on {agree} ({agree / judged:.2%})")
    for (judge, rule), count in sorted(both.items(), key=str):
        print(f"  judge {judge:g}, rule {rule:g}: {count}")
    print(json.dumps({"judged": judged, "agree": agree, "others": counts.total() - judged, "right": sum(c for (_, r), c in both.items() if r == 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
