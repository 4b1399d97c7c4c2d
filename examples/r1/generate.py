"""Makes the world of the R1 recipe at a small size: problems and conversations in English and
Chinese, and tokenizers. Standard library only; the same bytes each time.

    python3 examples/r1/generate.py [--seed 7]

writes data/*.jsonl and tokenizer*/ beside this file:

| file | rows | |
|---|---|---|
| `text` | `text` | what the base models read: solved problems, conversations, and pages that quote the R1-Zero template |
| `train` | `prompt`, `reference`, `domain`, `language` | problems with their answers, no thoughts |
| `scenarios` | the same | `train`'s problems and general prompts in turn, which have no reference |
| `general` | `prompt`, `completion` | conversations for supervised fine-tuning, written with more or less care |
| `pairs`, `pairs-test` | `prompt`, `chosen`, `rejected` | of two answers the more helpful one |
| `labels`, `labels-test` | `prompt`, `completion`, `label` | whole completions, safe (1) or not (0) |
| `test-en`, `test-zh`, `test-help`, `test-harm` | as `train` | held out |

No problem of the tests is in any other file, in whatever order of its numbers, language or story;
no prompt of `test-help` and `test-harm` is.

What the base reads decides what reinforcement learning can do, so it is chosen as the web is. Pages
answer in many ways, few of them in the form that R1-Zero rewards. Thoughts are sometimes wrong. And
thoughts about Chinese problems often mix both languages, and slip less often where they do. Whoever
is rewarded for right answers alone has a reason to mix languages."""

import argparse
import json
import pathlib
import random

import general
import problems
import vocabulary

HERE = pathlib.Path(__file__).resolve().parent
ROWS = {"test-en": 128, "test-zh": 128, "train": 6_000, "text": 40_000}
PROBLEMS_OF_TEXT = 0.8
TEMPLATE = "".join(vocabulary.PHRASES[:4]) + "{}" + vocabulary.PHRASES[4]

# How pages think about a problem in each language: (language of the thought, share of the pages,
# share of those that slip).
PAGES = {
    "en": [("en", 0.95, 0.1), ("mixed", 0.05, 0.1)],
    "zh": [("zh", 0.55, 0.25), ("mixed", 0.35, 0.05), ("en", 0.1, 0.15)],
}
# How they answer where the template asks for a thought and an answer.
REPLIES = {
    "<think>{thought}</think><answer>{answer}</answer>": 0.05,
    "{thought}<answer>{answer}</answer>": 0.1,
    "<think>{thought}</think>{answer}": 0.2,
    "<answer>{guess}</answer>": 0.25,
    "{guess}": 0.4,
}


def choose(rng, shares):
    return rng.choices(list(shares), list(shares.values()))[0]


def problem_page(rng, problem):
    language = rng.choice(["en", "zh"])
    asked = problems.question(rng, problem, language, rng.random() < 0.5)
    spoken, _, slips = rng.choices(PAGES[language], [share for _, share, _ in PAGES[language]])[0]
    thought, answer = problems.thought(rng, problem, spoken, rng.random() < slips)
    if rng.random() < 0.5:
        return f"{asked} {thought}. {answer}"
    guess = max(0, problems.answer(problem) + rng.randint(-3, 3))
    return TEMPLATE.format(asked) + choose(rng, REPLIES).format(
        thought=thought, answer=answer, guess=guess
    )


def answered(rng, prompt, good_share):
    return general.good(rng, prompt) if rng.random() < good_share else general.bad(rng, prompt)


def completion(thought, answer):
    return f"<think>{thought}</think><answer>{answer}</answer>"


def general_page(rng, prompt):
    thought, answer = answered(rng, prompt, 0.5)
    if rng.random() < 0.5:
        return f"{prompt[2]} {answer}"
    return TEMPLATE.format(prompt[2]) + choose(rng, REPLIES).format(
        thought=thought, answer=answer, guess=answer
    )


def ask(rng, problem, language):
    asked = problems.question(rng, problem, language, rng.random() < 0.5)
    return {
        "prompt": asked,
        "reference": str(problems.answer(problem)),
        "domain": f"math-{language}",
        "language": language,
    }


def general_row(prompt):
    return {"prompt": prompt[2], "reference": "", "domain": prompt[0], "language": prompt[1]}


def pair(rng, prompt):
    return {
        "prompt": prompt[2],
        "chosen": general.good(rng, prompt)[1],
        "rejected": general.bad(rng, prompt)[1],
        "language": prompt[1],
    }


def label(rng, prompt):
    safe = prompt[0] == "helpfulness" or rng.random() < 0.5
    said = (
        answered(rng, prompt, 0.5)
        if prompt[0] == "helpfulness"
        else (general.good if safe else general.bad)(rng, prompt)
    )
    return {
        "prompt": prompt[2],
        "completion": completion(*said),
        "label": int(safe),
        "language": prompt[1],
    }


def make(seed):
    """Every file's rows by its name, and the problems behind them by the names of the files that
    ask them."""
    rng = random.Random(seed)
    asked, held_out = {name: [] for name in ROWS}, set()
    # Held-out problems first: what comes later must avoid them in every order of their numbers.
    for name in ROWS:
        test = name.startswith("test")
        while len(asked[name]) < ROWS[name] * (PROBLEMS_OF_TEXT if name == "text" else 1):
            problem = problems.draw(rng)
            if problems.canonical(problem) not in held_out:
                asked[name].append(problem)
                held_out |= {problems.canonical(problem)} if test else set()
    train, test = general.prompts(rng)
    help_train, harm_train = (
        [p for p in train if p[0] == domain] for domain in ("helpfulness", "harmlessness")
    )
    help_test, harm_test = (
        [p for p in test if p[0] == domain] for domain in ("helpfulness", "harmlessness")
    )

    text = [problem_page(rng, problem) for problem in asked["text"]]
    text += [general_page(rng, rng.choice(train)) for _ in range(ROWS["text"] - len(text))]
    rng.shuffle(text)
    rows = {"text": [{"text": page} for page in text]}
    rows["train"] = [ask(rng, problem, rng.choice(["en", "zh"])) for problem in asked["train"]]
    rows["scenarios"] = [
        row
        for problem in rows["train"][:2_000]
        for row in (problem, general_row(rng.choice(train)))
    ]
    rows["general"] = []
    for _ in range(600):
        prompt = rng.choice(train)
        said = answered(rng, prompt, 0.35)
        rows["general"].append(
            {"prompt": prompt[2], "completion": completion(*said), "language": prompt[1]}
        )
    rows["pairs"] = [pair(rng, rng.choice(help_train)) for _ in range(1_500)]
    rows["pairs-test"] = [pair(rng, prompt) for prompt in help_test for _ in range(4)]
    rows["labels"] = [
        label(rng, rng.choice(harm_train if rng.random() < 0.8 else help_train))
        for _ in range(1_500)
    ]
    rows["labels-test"] = [label(rng, prompt) for prompt in harm_test for _ in range(6)]
    rows["test-en"] = [ask(rng, problem, "en") for problem in asked["test-en"]]
    rows["test-zh"] = [ask(rng, problem, "zh") for problem in asked["test-zh"]]
    rows["test-help"] = [general_row(prompt) for prompt in help_test]
    rows["test-harm"] = [general_row(prompt) for prompt in harm_test]
    return rows, asked


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--seed", type=int, default=7)
    rows, _ = make(arguments.parse_args().seed)
    (HERE / "data").mkdir(exist_ok=True)
    for name, made in rows.items():
        with open(HERE / "data" / f"{name}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    texts = [
        value
        for made in rows.values()
        for row in made
        for value in row.values()
        if isinstance(value, str)
    ]
    for name, cut in vocabulary.CUTS.items():
        print(f"{name}: {vocabulary.write(HERE / name, cut, texts)} tokens")


if __name__ == "__main__":
    main()
