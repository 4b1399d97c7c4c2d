"""Judges the cases of golden.jsonl without WASM: `python3 test_golden.py`. `r1ctl plugin test`
judges the same cases in the built component."""

import json
from types import SimpleNamespace

import score as reward
from config import configured


def verdict(case):
    completion = SimpleNamespace(
        id=0, prompt=case.get("prompt", ""), text=case["completion"], reference=case.get("reference"), tokens=case.get("tokens", 0),
        finish=case.get("finish", "stop"), meta=case.get("meta") or {},
    )  # fmt: skip
    try:
        result = reward.score(
            completion, configured(reward.Config, json.dumps(case.get("config", {})))
        )
    except reward.Unscorable as error:
        return {"verdict": "abstain", "reason": str(error)}
    value, reason, parts = (
        (*result, None, [])[:3] if isinstance(result, tuple) else (result, None, [])
    )
    return {"verdict": "score", "score": value, "parts": parts or [], "reason": reason or ""}


def test_golden():
    with open("golden.jsonl", encoding="utf-8") as lines:
        cases = [json.loads(line) for line in lines if line.strip() and not line.startswith("//")]
    assert cases, "no cases"
    for case in cases:
        expected, found = {"verdict": "score", **case["expect"]}, verdict(case)
        reason = expected.pop("reason", "")
        assert reason in found["reason"] and expected == {
            key: found.get(key) for key in expected
        }, f"{case['case']}: {found}"
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    test_golden()
