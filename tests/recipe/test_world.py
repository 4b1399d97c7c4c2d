"""The world that `examples/r1/generate.py` makes: nothing held out is trained on, texts survive the
tokenizers, and its claims about itself hold."""

import itertools
import json
import re

import pytest
from recipe import R1, prepared

generate = prepared()
ROWS, ASKED = generate.make(7)
problems, vocabulary = generate.problems, generate.vocabulary
TESTS = ["test-en", "test-zh"]


def numbers_of(text):
    """A question's running sum as a canonical problem, read back from its text."""
    formula = re.search(r"\d(?:[+-]\d)+", text)
    if formula:
        signed = re.findall(r"([+-]?)(\d)", formula.group())
        return tuple(sorted((sign or "+", int(digit)) for sign, digit in signed))
    signs = {
        verb: sign
        for verbs in problems.VERBS.values()
        for sign, words in verbs.items()
        for verb in words
    }
    told = re.findall(
        "(has|有|" + "|".join(sorted(signs, key=len, reverse=True)) + r") ?(\d)", text
    )
    return tuple(sorted((signs.get(verb, "+"), int(digit)) for verb, digit in told))


def questions(rows):
    """The question of every row, page and completion that holds a problem."""
    for row in rows:
        text = row.get("prompt") or row.get("text")
        text = text.split(vocabulary.PHRASES[3])[-1]
        found = re.match(r".*?(?:\?|？|。现在有几个？)", text)
        if found and numbers_of(found.group()):
            yield numbers_of(found.group())


def test_no_held_out_problem_is_trained_on_in_any_form():
    held = {problem for name in TESTS for problem in questions(ROWS[name])}
    assert held == {problems.canonical(problem) for name in TESTS for problem in ASKED[name]}
    assert len(held) == sum(len(ROWS[name]) for name in TESTS)
    for name in ("train", "text", "scenarios"):
        seen = list(questions(ROWS[name]))
        assert len(seen) >= 0.4 * len(ROWS[name]), name
        assert not held & set(seen), name


def test_no_held_out_prompt_is_trained_on():
    held = {
        row["prompt"]
        for name in ("test-help", "test-harm", "pairs-test", "labels-test")
        for row in ROWS[name]
    }
    for name in ("scenarios", "general", "pairs", "labels"):
        assert not held & {row["prompt"] for row in ROWS[name]}, name
    pages = "\n".join(row["text"] for row in ROWS["text"])
    assert not [prompt for prompt in held if prompt in pages]


@pytest.mark.parametrize("name", ["train", *TESTS])
def test_references_are_the_answers(name):
    for row, problem in zip(ROWS[name], ASKED[name], strict=True):
        assert numbers_of(row["prompt"]) == problems.canonical(problem)
        assert int(row["reference"]) == sum(
            int(sign + str(number)) for sign, number in problems.canonical(problem)
        )


def test_a_wrong_thought_is_wrong_and_a_right_one_right():
    rng = generate.random.Random(1)
    for wrong, language in itertools.product([False, True], ["en", "zh", "mixed"]):
        for _ in range(200):
            problem = problems.draw(rng)
            text, value = problems.thought(rng, problem, language, wrong)
            assert (value == problems.answer(problem)) is not wrong
            assert text.endswith(str(value))


def test_the_same_seed_makes_the_same_rows():
    assert generate.make(7)[0] == ROWS
    assert generate.make(8)[0] != ROWS


@pytest.mark.parametrize("name", list(vocabulary.CUTS))
def test_every_text_survives_the_tokenizer(name):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(R1 / name / "tokenizer.json"))
    unknown = tokenizer.token_to_id(vocabulary.UNKNOWN)
    for rows in ROWS.values():
        for row in rows[:2_000]:
            for text in row.values():
                if isinstance(text, str):
                    ids = tokenizer.encode(text, add_special_tokens=False).ids
                    assert unknown not in ids
                    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_each_model_has_room_for_its_tokenizer():
    for name, model in (
        ("tokenizer", "model"),
        ("tokenizer-qwen2", "qwen2"),
        ("tokenizer-llama", "llama"),
    ):
        tokens = len(json.loads((R1 / name / "tokenizer.json").read_text())["model"]["vocab"])
        assert tokens <= json.loads((R1 / f"{model}.json").read_text())["vocab_size"], model


def test_the_tokenizers_differ():
    from tokenizers import Tokenizer

    text = "What is 7+12? start with 7, add 12 is 19"
    cuts = {
        tuple(Tokenizer.from_file(str(R1 / name / "tokenizer.json")).encode(text).tokens)
        for name in vocabulary.CUTS
    }
    assert len(cuts) == len(vocabulary.CUTS)
