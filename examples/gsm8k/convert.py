"""GSM8K's files as the stages of job.toml read them. Standard library only.

    python3 examples/gsm8k/convert.py GSM8K_DIRECTORY OUTPUT_DIRECTORY

`text`: question and worked solution as plain text, for `pretrain` and the tokenizer. `solutions`:
question and R1-Zero answer, for `sft`. `train`, `test`: question and reference, for `grpo` and the
evaluation. Only `test` comes from GSM8K's test split."""

import json
import pathlib
import re
import sys


def rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def solution(row):
    """(reasoning, answer): GSM8K's calculator marks `<<48/2=24>>` taken out, one step per line."""
    reasoning, answer = re.sub(r"<<[^>]*>>", "", row["answer"]).rsplit("####", 1)
    return reasoning.strip(), answer.strip().replace(",", "")


def write(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main():
    source, target = map(pathlib.Path, sys.argv[1:])
    train, test = rows(source / "train.jsonl"), rows(source / "test.jsonl")
    assert not {row["question"] for row in train} & {row["question"] for row in test}, (
        "a test question is in the training split"
    )
    target.mkdir(parents=True, exist_ok=True)
    solved = [(row["question"], *solution(row)) for row in train]
    write(target / "text.jsonl", ({"text": f"{q}\n{r}\n{a}"} for q, r, a in solved))
    write(
        target / "solutions.jsonl",
        (
            {"question": q, "completion": f" <think> {r} </think> <answer> {a} </answer>"}
            for q, r, a in solved
        ),
    )
    for name, split in (("train", train), ("test", test)):
        write(
            target / f"{name}.jsonl",
            ({"question": row["question"], "answer": row["answer"]} for row in split),
        )


if __name__ == "__main__":
    main()
