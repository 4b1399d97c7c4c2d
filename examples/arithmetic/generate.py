"""Makes the demo's world: sums of small numbers, a chain of thought for each, and a tokenizer.
Standard library only; the same bytes each time.

    python3 examples/arithmetic/generate.py [--seed 7]

writes data/{pretrain,cold-start,train,test}.jsonl and tokenizer/ beside this file.

A problem is a running sum, `7+5-3+8`, never below zero. Its chain of thought takes one operation at
a time:

    What is 7+5-3+8?   <think>7+5=12;12-3=9;9+8=17</think><answer>17</answer>

`pretrain` is raw text in which a model can pick up the digits, the facts and the habit of working
left to right, but no tag and no template; `cold-start` is 80 solved problems in the R1-Zero form;
`train` has answers only; no problem of `test` is anywhere else."""

import argparse
import json
import pathlib
import random

HERE = pathlib.Path(__file__).resolve().parent
TERMS = (3, 5)  # numbers in a problem
TERMS_OF_TEXT = (2, 5)
LARGEST = 9  # of each number
ROWS = {"pretrain": 48_000, "cold-start": 80, "train": 6_000, "test": 256}

# The R1-Zero template's sentences are one token each: at this size the compute is for the sums, not
# for reading instructions.
PHRASES = [
    "A conversation between User and Assistant.",
    " The user asks a question, and the Assistant solves it.",
    " The assistant first thinks about the reasoning process in the mind and then provides the user with the answer.",
    " The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e.,"
    " <think> reasoning process here </think> <answer> answer here </answer>. User: ",
    ". Assistant:",
    "What is ",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
]
PAD, END = "<|pad|>", "<|end|>"


def steps(problem):
    """(before, operator, number, after) of each operation."""
    value, made = problem[0], []
    for operator, number in problem[1]:
        after = value + number if operator == "+" else value - number
        made.append((value, operator, number, after))
        value = after
    return made


def draw(rng, terms=TERMS):
    while True:
        count = rng.randint(*terms)
        rest = tuple((rng.choice("+-"), rng.randint(1, LARGEST)) for _ in range(count - 1))
        problem = (rng.randint(1, LARGEST), rest)
        if all(after >= 0 for *_, after in steps(problem)):
            return problem


def expression(problem):
    return str(problem[0]) + "".join(f"{operator}{number}" for operator, number in problem[1])


def answer(problem):
    return str(steps(problem)[-1][-1])


def chain(problem):
    return ";".join(
        f"{before}{operator}{number}={after}" for before, operator, number, after in steps(problem)
    )


def raw_text(problem):
    return f"{expression(problem)}:{chain(problem)};{answer(problem)}"


def canonical(problem):
    """Equal for problems that differ only in the order of their numbers."""
    return tuple(sorted([("+", problem[0]), *problem[1]]))


def tokenizer():
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: index for index, token in enumerate([PAD, END, *PHRASES, *characters])}
    special = "".join(
        "\\" + c if c in ".?|()[]{}*+^$\\" else c
        for c in "|".join(sorted(PHRASES, key=len, reverse=True)).replace("|", "\0")
    )
    pattern = special.replace("\0", "|") + "|[\\s\\S]"
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
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "?"},
    }


def write_rows(name, rows):
    with open(HERE / "data" / f"{name}.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--seed", type=int, default=7)
    rng = random.Random(arguments.parse_args().seed)
    held_out, problems = set(), {name: [] for name in ROWS}
    # Held-out problems first: what comes later must avoid them in every order of their numbers.
    while len(problems["test"]) < ROWS["test"]:
        problem = draw(rng)
        if canonical(problem) not in held_out:
            held_out.add(canonical(problem))
            problems["test"].append(problem)
    for name in ("cold-start", "train", "pretrain"):
        while len(problems[name]) < ROWS[name]:
            problem = draw(rng, TERMS_OF_TEXT if name == "pretrain" else TERMS)
            if canonical(problem) not in held_out:
                problems[name].append(problem)
    for name in ("cold-start", "train", "pretrain"):
        assert not {canonical(p) for p in problems[name]} & held_out, f"{name} holds a test problem"

    (HERE / "data").mkdir(exist_ok=True)
    write_rows("pretrain", ({"text": raw_text(p)} for p in problems["pretrain"]))
    solved = lambda p: f"<think>{chain(p)}</think><answer>{answer(p)}</answer>"
    write_rows(
        "cold-start",
        (
            {"prompt": f"What is {expression(p)}?", "completion": solved(p)}
            for p in problems["cold-start"]
        ),
    )
    for name in ("train", "test"):
        write_rows(
            name,
            (
                {"prompt": f"What is {expression(p)}?", "reference": answer(p)}
                for p in problems[name]
            ),
        )

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
