"""Makes the world of the judge's example: sums, rows that teach a judge, and a tokenizer. Standard
library only; the same bytes each time.

    python3 examples/judge/generate.py

writes data/{policy,judge,train,test}.jsonl and tokenizer/ beside this file.

A policy answers `34+57=` with `<answer>91</answer>`; it is trained for so short a time that it is
often wrong. The judge reads what the reward `correctness` asks (PROMPT below is the job's
`config.prompt`, the fence is the plugin's) and writes

    {"analysis": "9=9 1=1", "correctness": "correct"}

after comparing digit by digit: the analysis is its chain of thought. It learns from right answers,
from wrong ones, of which half differ in one digit, and from a few that are no two digits. No
problem of `test` is anywhere else."""

import json
import pathlib
import random

HERE = pathlib.Path(__file__).resolve().parent
FENCE = "=====#1====="
PROMPT = "{fence}{question}{fence}{reference}{fence}{answer}{fence}Judge:"
PHRASES = [
    "<answer>",
    "</answer>",
    FENCE,
    "Judge:",
    '{"analysis": "',
    '", "correctness": "',
    '"}',
    "correct",
    "incorrect",
    "other length",
]
PAD, END = "<|pad|>", "<|end|>"
ROWS = {"judge": 24_000, "test": 256}


def question(a, b):
    return f"{a}+{b}="


def tokenizer():
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: index for index, token in enumerate([PAD, END, *PHRASES, *characters])}
    longest = sorted(PHRASES, key=len, reverse=True)
    special = "|".join(
        "".join("\\" + c if c in ".?|()[]{}*+^$\\" else c for c in phrase) for phrase in longest
    )
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, token in enumerate([PAD, END])
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": special + "|[\\s\\S]"},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "?"},
    }


def verdict(reference, answer):
    if len(reference) != len(answer):
        analysis = "other length"
    else:
        analysis = " ".join(
            f"{one}{'=' if one == other else '!'}{other}" for one, other in zip(reference, answer)
        )
    return json.dumps(
        {"analysis": analysis, "correctness": "correct" if reference == answer else "incorrect"}
    )


def judged(rng, a, b):
    """A row that teaches the judge."""
    reference = f"{a + b:02}"
    kind = rng.random()
    if kind < 0.5:
        answer = reference
    elif kind < 0.72:
        digits = list(reference)
        digits[rng.randrange(2)] = rng.choice("0123456789")
        answer = "".join(digits)
    elif kind < 0.95:
        answer = f"{rng.randrange(100):02}"
    else:
        answer = "".join(rng.choice("0123456789") for _ in range(rng.choice([1, 3])))
    fields = {"fence": FENCE, "question": question(a, b), "reference": reference, "answer": answer}
    prompt = PROMPT
    for name, value in fields.items():
        prompt = prompt.replace("{" + name + "}", value)
    return {"prompt": prompt, "completion": verdict(reference, answer)}


def write_rows(name, rows):
    with open(HERE / "data" / f"{name}.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def main():
    rng = random.Random(7)
    problems = [(a, b) for a in range(1, 99) for b in range(1, 99) if 10 <= a + b < 100]
    rng.shuffle(problems)
    test, train = problems[: ROWS["test"]], problems[ROWS["test"] :]
    (HERE / "data").mkdir(exist_ok=True)
    rows = lambda problems: (
        {"prompt": question(a, b), "reference": f"{a + b:02}"} for a, b in problems
    )
    write_rows("train", rows(train))
    write_rows("test", rows(test))
    write_rows(
        "policy",
        (
            {"prompt": question(a, b), "completion": f"<answer>{a + b:02}</answer>"}
            for a, b in train
        ),
    )
    write_rows("judge", (judged(rng, *rng.choice(train)) for _ in range(ROWS["judge"])))

    (HERE / "tokenizer").mkdir(exist_ok=True)
    for name, content in (
        ("tokenizer.json", tokenizer()),
        (
            "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": END,
                "pad_token": PAD,
                "clean_up_tokenization_spaces": False,
            },
        ),
        ("generation_config.json", {"eos_token_id": 1, "pad_token_id": 0}),
    ):
        (HERE / "tokenizer" / name).write_text(
            json.dumps(content, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
