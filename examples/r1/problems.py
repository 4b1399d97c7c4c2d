"""Sums and short word problems in English and Chinese, with worked thoughts.

A problem is a running sum that is never below zero: a first number, then (operator, number) pairs.
It is asked as a formula or as a story in either language, and thought about one operation at a
time, in English, in Chinese, or clause by clause in either:

    What is 7+5-3?                             start with 7, add 5 is 12, take 3 is 9
    小明有7个苹果，买5个，吃3个。现在有几个？          先有7，加5得12，减3得9
"""

LARGEST = 9  # of each number
COUNT = (3, 4)  # numbers in a problem

NAMES = {"en": ["Tom", "Anna", "Ben", "Mary"], "zh": ["小明", "小红", "小华", "小丽"]}
THINGS = {"en": ["apples", "books", "cards", "eggs"], "zh": ["苹果", "桃子", "橘子", "鸡蛋"]}
VERBS = {
    "en": {"+": ["buys", "finds", "gets"], "-": ["loses", "sells", "gives away"]},
    "zh": {"+": ["买", "捡", "得到"], "-": ["丢", "卖", "送人"]},
}


def draw(rng, count=COUNT):
    while True:
        numbers = rng.randint(*count)
        problem = (
            rng.randint(1, LARGEST),
            tuple((rng.choice("+-"), rng.randint(1, LARGEST)) for _ in range(numbers - 1)),
        )
        if min(after for *_, after in steps(problem)) >= 0:
            return problem


def steps(problem):
    """(operator, number, after) of each operation."""
    value, made = problem[0], []
    for operator, number in problem[1]:
        value += number if operator == "+" else -number
        made.append((operator, number, value))
    return made


def answer(problem):
    return steps(problem)[-1][-1]


def canonical(problem):
    """Equal for problems that differ only in the order of their numbers, in whatever language or
    story they are asked."""
    return tuple(sorted([("+", problem[0]), *problem[1]]))


def question(rng, problem, language, story):
    first, rest = problem
    if not story:
        formula = str(first) + "".join(f"{operator}{number}" for operator, number in rest)
        return f"What is {formula}?" if language == "en" else f"{formula}等于几？"
    name, thing = rng.choice(NAMES[language]), rng.choice(THINGS[language])
    deeds = [(rng.choice(VERBS[language][operator]), number) for operator, number in rest]
    if language == "en":
        return (
            f"{name} has {first} {thing}"
            + "".join(f", {verb} {number}" for verb, number in deeds)
            + ". How many are there now?"
        )
    return (
        f"{name}有{first}个{thing}"
        + "".join(f"，{verb}{number}个" for verb, number in deeds)
        + "。现在有几个？"
    )


def thought(rng, problem, language, wrong=False):
    """(text, what it comes to). `language` is "en", "zh" or "mixed"; a `wrong` thought slips in one
    operation and goes on from there."""
    slip = rng.randrange(len(problem[1])) if wrong else None
    value, text = problem[0], ""
    for index in range(len(problem[1]) + 1):
        spoken = rng.choice(["en", "zh"]) if language == "mixed" else language
        if index == 0:
            text = f"start with {value}" if spoken == "en" else f"先有{value}"
            continue
        operator, number = problem[1][index - 1]
        value += number if operator == "+" else -number
        if index - 1 == slip:
            value += rng.choice([-2, -1, 1, 2]) if value >= 2 else rng.choice([1, 2])
        if spoken == "en":
            text += f", {'add' if operator == '+' else 'take'} {number} is {value}"
        else:
            text += f"，{'加' if operator == '+' else '减'}{number}得{value}"
    return text, value
