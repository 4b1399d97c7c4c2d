"""Pairs of a reference and an answer whose truth is known by how they are made.

A value is drawn (exact fractions, no computer algebra), and written down twice, in two different
ways. For half of the pairs the second is written from a value that was changed first. So whether
the two are equal is known without asking anybody."""

import json
import pathlib
import random
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, isqrt


@dataclass
class Pair:
    category: str
    reference: str
    answer: str
    equal: bool


def integer(r, low=2, high=400):
    return r.randint(low, high)


def fraction(r):
    value = Fraction(r.randint(-60, 60) or 7, r.randint(2, 24))
    return value if value.denominator > 1 else value + Fraction(1, 3)


def changed(r, value):
    return value + r.choice([1, -1, 2, Fraction(1, 2), -3, 10])


def two(r, draw, change=changed):
    """A value, and the same or another one, and whether they are equal."""
    value = draw(r)
    if r.random() < 0.5:
        return value, value, True
    other = change(r, value)
    return value, other, value == other


def latex(value):
    """A fraction as LaTeX in lowest terms."""
    value = Fraction(value)
    sign = "-" if value < 0 else ""
    value = abs(value)
    return (
        f"{sign}{value.numerator}"
        if value.denominator == 1
        else rf"{sign}\frac{{{value.numerator}}}{{{value.denominator}}}"
    )


def fraction_forms(r, value):
    n, d = abs(value.numerator), value.denominator
    sign = "-" if value < 0 else ""
    k = r.randint(2, 5)
    forms = [
        rf"{sign}\dfrac{{{n}}}{{{d}}}",
        rf"{sign}\tfrac{{{n}}}{{{d}}}",
        f"{sign}{n}/{d}",
        rf"{sign}\frac{{{n * k}}}{{{d * k}}}",
    ]
    forms.append(rf"\frac{{{sign}{n}}}{{{d}}}")
    if n < 10 and d < 10:
        forms.append(rf"{sign}\frac{n}{d}" if len(f"{n}{d}") == 2 else forms[0])
    if n > d > 1:
        forms.append(rf"{sign}{n // d}\frac{{{n % d}}}{{{d}}}")
    rest = d
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1:
        forms.append(decimal(value))
    return forms


def decimal(value):
    places = 0
    scaled = Fraction(value)
    while scaled.denominator != 1:
        scaled *= 10
        places += 1
    digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
    text = digits if not places else f"{digits[:-places]}.{digits[-places:]}"
    return ("-" if value < 0 else "") + text


def integers(r):
    a, b, equal = two(
        r,
        lambda r: r.randint(-(10**7), 10**7),
        lambda r, v: v + r.choice([1, -1, 10, 1000, -v * 2 or 5]),
    )
    forms = [
        f"{b:,}",
        str(b),
        f"{b}.0",
        f"{b:,}".replace(",", "{,}"),
        f"{b:,}".replace(",", r",\!"),
        rf"\left({b}\right)" if b >= 0 else str(b),
    ]
    return str(a), r.choice(forms), equal


def fractions(r):
    a, b, equal = two(r, fraction)
    return latex(a), r.choice(fraction_forms(r, Fraction(b))), equal


def rounded(r):
    """A fraction that no decimal is, and a decimal near it: never equal."""
    d = r.choice([3, 7, 9, 11, 13])
    value = Fraction(r.choice([n for n in range(1, 40) if n % d]), d)
    return latex(value), f"{float(value):.{r.choice([3, 4, 6, 8])}f}", False


def scientific(r):
    digits, power = r.randint(11, 99), r.randint(-6, 9)
    a, b, equal = two(
        r,
        lambda r: Fraction(digits) * Fraction(10) ** (power - 1),
        lambda r, v: v * r.choice([10, Fraction(1, 10), -1]),
    )
    mantissa, exponent = (
        (digits, power)
        if equal
        else (
            digits if b > 0 else -digits,
            power + (1 if abs(b) > abs(a) else -1 if abs(b) < abs(a) else 0),
        )
    )
    written = f"{mantissa / 10:.1f}"
    return (
        decimal(a),
        r.choice([rf"{written}\times 10^{{{exponent}}}", rf"{written} \cdot 10^{{{exponent}}}"]),
        equal,
    )


def percentages(r):
    p = Fraction(r.randint(1, 400), r.choice([1, 2, 4]))
    kind = r.randrange(3)
    if kind == 0:
        return rf"{decimal(p)}\%", decimal(p / 100), True
    if kind == 1:
        return rf"{decimal(p)}\%", rf"{decimal(p + r.choice([0, 1]))}\%".replace("x", ""), None
    return decimal(p), rf"{decimal(p)}\%", False


UNITS = [
    ("cm", "km"),
    ("m", "cm"),
    ("kg", "mg"),
    ("hours", "minutes"),
    ("cm^2", "cm^3"),
    ("miles", "feet"),
]


def units(r):
    n = integer(r)
    unit, other = r.choice(UNITS)

    def written(n, unit):
        name, _, power = unit.partition("^")
        return rf"{n}\text{{ {name}}}" + (f"^{power}" if power else "")

    kind = r.randrange(4)
    if kind == 0:
        return str(n), written(n, unit), True
    if kind == 1:
        return written(n, unit), written(n, unit).replace(r"\text", r"\mathrm"), True
    if kind == 2:
        return written(n, unit), written(n, other), False
    return written(n, unit), written(n + r.choice([1, 10]), unit), False


def square_free(n):
    return all(n % (k * k) for k in range(2, isqrt(n) + 1))


def surds(r):
    """a√n + b"""
    n = r.choice([n for n in range(2, 40) if square_free(n)])
    a, b = r.choice([2, 3, 4, 5, 7]), r.randint(-9, 9)
    k, c, equal = two(
        r,
        lambda r: (a, b),
        lambda r, v: (v[0], v[1] + r.choice([1, -1, 2])) if r.random() < 0.7 else (v[0] + 1, v[1]),
    )
    (a, b), (x, y) = k, c
    tail = lambda v: "" if v == 0 else f"{v:+d}"  # noqa: E731
    reference = rf"{a}\sqrt{{{n}}}{tail(b)}"
    forms = [
        rf"\sqrt{{{x * x * n}}}{tail(y)}",
        rf"{y}+\sqrt{{{x * x * n}}}",
        rf"\frac{{{x * n}}}{{\sqrt{{{n}}}}}{tail(y)}",
        rf"{x} \sqrt{{{n}}}{tail(y)}",
    ]
    return reference, r.choice(forms), equal


def nested_surds(r):
    """√(p + q + 2√(pq)) = √p + √q"""
    p, q = r.sample([2, 3, 5, 6, 7, 10, 11, 13], 2)
    equal = r.random() < 0.5
    inner = p + q + (0 if equal else r.choice([1, -1]))
    return rf"\sqrt{{{p}}}+\sqrt{{{q}}}", rf"\sqrt{{{inner}+2\sqrt{{{p * q}}}}}", equal


def pi_multiples(r):
    a, b, equal = two(r, fraction)
    n, d = abs(b.numerator), b.denominator
    sign = "-" if b < 0 else ""
    forms = [
        rf"{sign}\frac{{{n}\pi}}{{{d}}}",
        rf"{sign}\frac{{{n}}}{{{d}}}\pi",
        rf"{sign}{n}\pi/{d}",
        rf"{sign}\frac{{{2 * n}\pi}}{{{2 * d}}}",
    ]
    return latex(a) + r"\pi", r.choice(forms), equal


def logarithms(r):
    base, a, b = r.choice([2, 3, 5, 7]), r.randint(1, 4), r.randint(1, 4)
    kind = r.randrange(3)
    a2 = a if r.random() < 0.5 else a + 1
    if kind == 0:
        return str(a), rf"\log_{{{base}}} {base**a2}", a == a2
    if kind == 1:
        return rf"{a}\ln {base}" if a > 1 else rf"\ln {base}", rf"\ln {base**a2}", a == a2
    return latex(Fraction(a, b)), rf"\log_{{{base**b}}} {base**a2}", a == a2


SINES = {0: "0", 30: r"\frac{1}{2}", 45: r"\frac{\sqrt{2}}{2}", 60: r"\frac{\sqrt{3}}{2}", 90: "1"}


def sine_of(degrees):
    degrees %= 360
    sign = "" if degrees < 180 else "-"
    degrees %= 180
    value = SINES[min(degrees, 180 - degrees)]
    return sign + value if value != "0" else "0"


def trigonometric_values(r):
    degrees = r.choice([d for d in range(0, 360, 15) if d % 30 == 0 or d % 45 == 0])
    other = degrees if r.random() < 0.5 else r.choice([d for d in range(0, 360, 30)])
    angle = Fraction(other, 180)
    written = (
        "0"
        if angle == 0
        else (
            r"\pi"
            if angle == 1
            else rf"\frac{{{angle.numerator if angle.numerator > 1 else ''}\pi}}{{{angle.denominator}}}"
        )
    )
    return sine_of(degrees), rf"\sin({written})", sine_of(degrees) == sine_of(other)


IDENTITIES = [
    (r"\sin 2x", r"2\sin x\cos x", r"2\sin x"),
    (r"\cos 2x", r"1-2\sin^2 x", r"1-\sin^2 x"),
    (r"\cos 2x", r"\cos^2 x-\sin^2 x", r"\sin^2 x-\cos^2 x"),
    ("1", r"\sin^2 x+\cos^2 x", r"\sin^2 x-\cos^2 x"),
    (r"\sec^2 x", r"1+\tan^2 x", r"1-\tan^2 x"),
    (r"\sin 3x", r"3\sin x-4\sin^3 x", r"3\sin x+4\sin^3 x"),
    (r"\cos 3x", r"4\cos^3 x-3\cos x", r"4\cos^3 x+3\cos x"),
    (r"\sin(x+y)", r"\sin x\cos y+\cos x\sin y", r"\sin x\cos y-\cos x\sin y"),
    (r"\cos(x-y)", r"\cos x\cos y+\sin x\sin y", r"\cos x\cos y-\sin x\sin y"),
    (r"\tan x", r"\frac{\sin x}{\cos x}", r"\frac{\cos x}{\sin x}"),
    (r"\frac{1-\cos 2x}{2}", r"\sin^2 x", r"\cos^2 x"),
    (r"\cot x+\tan x", r"\frac{1}{\sin x\cos x}", r"\frac{1}{\sin x+\cos x}"),
    (r"\sin^4 x-\cos^4 x", r"-\cos 2x", r"\cos 2x"),
]


def trigonometric_identities(r):
    left, right, wrong = r.choice(IDENTITIES)
    k = r.choice(["", "2", "3", "5"])
    equal = r.random() < 0.5
    scaled = lambda text: text if not k else rf"{k}\left({text}\right)"  # noqa: E731
    v = r.choice(["x", "t", r"\theta ", "a"])
    rename = lambda text: text.replace("x", v) if "y" not in text else text  # noqa: E731
    left, right = rename(left), rename(right if equal else wrong)
    return scaled(left), scaled(right), equal


def polynomial(coefficients, variable="x"):
    """Written from the highest power."""
    text = ""
    top = len(coefficients) - 1
    for i, c in enumerate(coefficients):
        power = top - i
        if c == 0:
            continue
        body = "" if abs(c) == 1 and power else str(abs(c))
        body += (
            ""
            if power == 0
            else variable
            if power == 1
            else f"{variable}^{{{power}}}"
            if power > 9
            else f"{variable}^{power}"
        )
        text += ("-" if c < 0 else "+" if text else "") + body
    return text or "0"


def multiplied(a, b):
    product = [0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            product[i + j] += x * y
    return product


def polynomials(r):
    a, b = [r.randint(1, 5), r.randint(-9, 9) or 1], [r.randint(1, 4), r.randint(-9, 9) or 2]
    product = multiplied(a, b)
    if r.random() < 0.4:
        c = [1, r.randint(-5, 5) or 3]
        factored, product = [a, b, c], multiplied(product, c)
    else:
        factored = [a, b]
    equal = r.random() < 0.5
    shown = list(product)
    if not equal:
        shown[r.randrange(len(shown))] += r.choice([1, -1, 2])
    v = r.choice(["x", "n", "t", "y"])
    return (
        polynomial(shown, v),
        "".join(f"({polynomial(f, v)})" for f in factored),
        shown == product,
    )


def rational_functions(r):
    a, b = r.sample(range(-7, 8), 2)
    p, q = r.randint(1, 6), r.randint(1, 6)
    # p/(x-a) + q/(x-b) over one denominator
    above = [p + q, -(p * b + q * a)]
    if r.random() < 0.5:
        shown = above
    else:
        shown = [above[0], above[1] + r.choice([1, -1, 3])]
    below = lambda c: f"x{-c:+d}" if c else "x"  # noqa: E731
    return (
        rf"\frac{{{p}}}{{{below(a)}}}+\frac{{{q}}}{{{below(b)}}}",
        rf"\frac{{{polynomial(shown)}}}{{({below(a)})({below(b)})}}",
        shown == above,
    )


def exponentials(r):
    base, k, m = r.choice([2, 3, 5]), r.randint(1, 3), r.randint(2, 3)
    equal = r.random() < 0.5
    if r.random() < 0.5:
        return rf"{base}^{{n+{k}}}", rf"{base ** (k if equal else k + 1)}\cdot {base}^n", equal
    return rf"{base**m}^x", rf"{base}^{{{m if equal else m + 1}x}}", equal


def intervals(r):
    low = fraction(r)
    high = low + r.randint(1, 9)
    open_, close = r.choice("(["), r.choice(")]")
    kind = r.randrange(5)
    low2, open2, close2 = low, open_, close
    equal = r.random() < 0.5
    if not equal:
        if r.random() < 0.5:
            low2 = low - r.choice([1, Fraction(1, 2)])
        elif r.random() < 0.5:
            open2 = "[" if open_ == "(" else "("
        else:
            close2 = "]" if close == ")" else ")"
    form = r.choice(
        [
            rf"\left{open2}{latex(low2)}, {latex(high)}\right{close2}",
            f"{open2}{latex(low2)},{latex(high)}{close2}",
        ]
    )
    if kind == 0:
        return (
            f"{open_}{latex(low)},\\infty)",
            f"{open2}{latex(low2)},+\\infty)",
            (low, open_) == (low2, open2),
        )
    if kind == 1:
        form = rf"x \in {form}"
    return f"{open_}{latex(low)},{latex(high)}{close}", form, equal


def unions(r):
    a, b, c, d = sorted(r.sample(range(-20, 30), 4))
    other = d if r.random() < 0.5 else d + 1
    return rf"({a},{b})\cup[{c},{d}]", rf"[{c},{other}]\cup({a},{b})", d == other


def inequalities(r):
    a = fraction(r)
    b = a if r.random() < 0.5 else changed(r, a)
    name, opposite, interval = r.choice(
        [
            ("<", ">", "(-\\infty,{})"),
            (">", "<", "({},\\infty)"),
            (r"\le", r"\ge", "(-\\infty,{}]"),
            (r"\ge", r"\le", "[{},\\infty)"),
        ]
    )
    k = r.randint(2, 5)
    forms = [
        f"{latex(b)} {opposite} x",
        interval.format(latex(b)),
        f"-x {opposite} {latex(-b)}",
        f"{k}x {name} {latex(k * b)}",
    ]
    return f"x {name} {latex(a)}", r.choice(forms), a == b


def sets(r):
    items = r.sample(
        [Fraction(n) for n in range(-30, 30)] + [fraction(r) for _ in range(10)], r.randint(2, 5)
    )
    items = list(dict.fromkeys(items))
    other = list(items)
    if r.random() >= 0.5:
        if r.random() < 0.5:
            other[0] += 100
        else:
            other.pop()
    r.shuffle(other)
    return (
        r"\{" + ", ".join(map(latex, items)) + r"\}",
        r"\{" + ",".join(latex(v) for v in other) + r"\}",
        set(items) == set(other),
    )


def lists(r):
    items = r.sample(range(-40, 40), r.randint(2, 4))
    other = list(items)
    if r.random() >= 0.5:
        other[0] += 100
    r.shuffle(other)
    *head, last = map(str, other)
    forms = [
        ", ".join(map(str, other)),
        ", ".join(head) + rf"\text{{ and }}{last}",
        r"\{" + ", ".join(map(str, other)) + r"\}",
    ]
    forms.append(r"\text{ or }".join(f"x={v}" for v in other))
    return ", ".join(map(str, items)), r.choice(forms), set(items) == set(other)


def plus_minus(r):
    a, n = r.randint(-9, 9), r.choice([2, 3, 5, 7, 11])
    m = n if r.random() < 0.5 else n + 1
    return rf"{a}\pm\sqrt{{{n}}}", rf"{a}+\sqrt{{{m}}}, {a}-\sqrt{{{m}}}", n == m


def tuples(r):
    items = [
        fraction(r) if r.random() < 0.5 else Fraction(r.randint(-20, 20))
        for _ in range(r.choice([2, 3, 3, 4]))
    ]
    other = list(items)
    if r.random() >= 0.5:
        if r.random() < 0.5 and other[0] != other[-1]:
            other[0], other[-1] = other[-1], other[0]
        else:
            other[-1] += 1
    written = r"\left(" + ", ".join(map(latex, other)) + r"\right)"
    return "(" + ",".join(map(latex, items)) + ")", written, items == other


def matrices(r):
    rows, columns = r.choice([(2, 2), (2, 3), (3, 1), (3, 3)])
    entries = [
        [Fraction(r.randint(-9, 9), r.choice([1, 1, 2, 3])) for _ in range(columns)]
        for _ in range(rows)
    ]
    other = [list(row) for row in entries]
    if r.random() >= 0.5:
        other[r.randrange(rows)][r.randrange(columns)] += 1
    write = lambda m, kind: (
        rf"\begin{{{kind}}}"
        + r" \\ ".join(" & ".join(map(latex, row)) for row in m)
        + rf"\end{{{kind}}}"
    )  # noqa: E731
    return (
        write(entries, "pmatrix"),
        write(other, r.choice(["pmatrix", "bmatrix"])),
        entries == other,
    )


def assignments(r):
    a, b, equal = two(r, fraction)
    name = r.choice(["x", "y", "n", r"\theta", "a_1"])
    if r.random() < 0.5:
        return latex(a), f"{name}={r.choice(fraction_forms(r, Fraction(b)))}", equal
    return f"{name}={latex(a)}", r.choice(fraction_forms(r, Fraction(b))), equal


def lines(r):
    a, b, c = r.randint(1, 9), r.randint(1, 9), r.randint(1, 20)
    k = r.choice([2, 3, -1, -2])
    shift = 0 if r.random() < 0.5 else r.choice([1, -1])
    signed = lambda n, v: f"{n:+d}{v}"  # noqa: E731
    reference = f"{a}x+{b}y={c}"
    if r.random() < 0.5:
        return (
            reference,
            f"{k * a}x{signed(k * b, 'y')}{signed(-k * (c + shift), '')}=0",
            shift == 0,
        )
    return reference, rf"y={latex(Fraction(-a, b))}x+{latex(Fraction(c + shift, b))}", shift == 0


def functions(r):
    coefficients = [r.randint(1, 5), r.randint(-9, 9), r.randint(-9, 9)]
    other = list(coefficients)
    if r.random() >= 0.5:
        other[1] += 1
    left = r.choice(["f(x)", "y", "g(x)"])
    return polynomial(coefficients), f"{left}={polynomial(other)}", coefficients == other


def complex_numbers(r):
    a, b = r.randint(-9, 9), r.randint(1, 9)
    x, y, equal = two(
        r, lambda r: (a, b), lambda r, v: (v[0], -v[1]) if r.random() < 0.5 else (v[0] + 1, v[1])
    )
    (a, b), (c, d) = x, y
    shown = lambda n: "" if abs(n) == 1 else str(abs(n))  # noqa: E731
    forms = [f"{c}{'+' if d > 0 else '-'}{shown(d)}i", f"{'-' if d < 0 else ''}{shown(d)}i{c:+d}"]
    p, q = r.randint(1, 5), r.randint(1, 5)
    if equal and r.random() < 0.3:
        # (p + qi)(s + ti)
        s, t = r.randint(1, 5), r.randint(1, 5)
        return f"{p * s - q * t}+{p * t + q * s}i", f"({p}+{q}i)({s}+{t}i)", True
    return f"{a}+{shown(b)}i", r.choice(forms), equal


def ratios(r):
    a, b = r.randint(1, 30), r.randint(2, 30)
    g = gcd(a, b)
    k = r.randint(2, 5)
    other = b // g if r.random() < 0.5 else b // g + 1
    return f"{a // g}:{b // g}", f"{a // g * k}:{other * k}", b // g == other


def factorials(r):
    n, k = r.randint(4, 12), r.randint(2, 4)
    product = 1
    for i in range(k):
        product = product * (n - i) // (i + 1)
    shown = product if r.random() < 0.5 else product + r.choice([1, -1])
    return str(shown), rf"\binom{{{n}}}{{{k}}}", shown == product


WORDS = [
    "even",
    "odd",
    "Evelyn",
    "circle",
    "ellipse",
    "hyperbola",
    "Monday",
    "green",
    "north",
    "increasing",
    "Briana",
]


def words(r):
    a = r.choice(WORDS)
    b = a if r.random() < 0.5 else r.choice(WORDS)
    return (
        rf"\text{{{a}}}",
        r.choice([b, rf"\text{{{b}}}", rf"\mathrm{{{b}}}", rf"\text{{{b} }}"]),
        a == b,
    )


def choices(r):
    a = r.choice("ABCDE")
    b = a if r.random() < 0.5 else r.choice("ABCDE")
    return (
        rf"\text{{{a}}}",
        r.choice([rf"\text{{({b})}}", rf"\textbf{{{b}}}", b, rf"\text{{{b}}}"]),
        a == b,
    )


LENGTHS = [("mm", 1), ("cm", 10), ("m", 1000), ("km", 10**6)]
TIMES = [("seconds", 1), ("minutes", 60), ("hours", 3600), ("days", 86400)]
MASSES = [("mg", 1), ("g", 1000), ("kg", 10**6)]


def conversions(r):
    """The same quantity in another unit, squared and cubed ones too."""
    (small, one), (large, many) = sorted(
        r.sample(r.choice([LENGTHS, TIMES, MASSES]), 2), key=lambda unit: unit[1]
    )
    power = r.choice([1, 1, 2, 3]) if (small, one) in LENGTHS else 1
    n = integer(r, 1, 50)
    factor = Fraction(many, one) ** power
    equal = r.random() < 0.5
    shown = n * factor if equal else n * factor * r.choice([10, Fraction(1, 10), 2])
    mark = f"^{power}" if power > 1 else ""
    pair = [rf"{n} \text{{ {large}}}{mark}", rf"{decimal(shown)} \text{{ {small}}}{mark}"]
    r.shuffle(pair)
    return pair[0], pair[1], equal


def written_set(r, low, high, inside, closed):
    """Between two numbers or outside of them, as an interval or as inequalities."""
    a, b = latex(low), latex(high)
    if inside:
        less, more = (r"\le", r"\ge") if closed else ("<", ">")
        return r.choice(
            [
                f"[{a},{b}]" if closed else f"({a},{b})",
                f"{a} {less} x {less} {b}",
                f"{b} {more} x {more} {a}",
            ]
        )
    left, right = ("]", "[") if closed else (")", "(")
    less, more = (r"\le", r"\ge") if closed else ("<", ">")
    return r.choice(
        [rf"(-\infty,{a}{left}\cup{right}{b},\infty)", rf"x {less} {a} \text{{ or }} x {more} {b}"]
    )


def two_ends(r):
    low = fraction(r) if r.random() < 0.3 else Fraction(r.randint(-12, 12))
    return low, low + r.randint(1, 9)


def quadratic_inequalities(r):
    low, high = two_ends(r)
    scale = (low.denominator * high.denominator) * r.choice([1, 2, 3])
    coefficients = [int(c) for c in (scale, -scale * (low + high), scale * low * high)]
    inside, closed = r.random() < 0.5, r.random() < 0.5
    relation = {
        (True, True): r"\le",
        (True, False): "<",
        (False, True): r"\ge",
        (False, False): ">",
    }[inside, closed]
    if r.random() < 0.5:
        coefficients, relation = (
            [-c for c in coefficients],
            {r"\le": r"\ge", "<": ">", r"\ge": r"\le", ">": "<"}[relation],
        )
    equal = r.random() < 0.5
    if not equal:
        kind = r.randrange(3)
        closed, inside = closed != (kind == 0), inside != (kind == 1)
        high += kind == 2
    return (
        f"{polynomial(coefficients)} {relation} 0",
        written_set(r, low, high, inside, closed),
        equal,
    )


def absolute_inequalities(r):
    low, high = two_ends(r)
    centre, radius = (low + high) / 2, (high - low) / 2
    k = r.randint(1, 4)
    inner = f"{'' if k == 1 else k}x{'+' if centre <= 0 else '-'}{latex(abs(k * centre))}"
    inside, closed = r.random() < 0.5, r.random() < 0.5
    relation = {
        (True, True): r"\le",
        (True, False): "<",
        (False, True): r"\ge",
        (False, False): ">",
    }[inside, closed]
    equal = r.random() < 0.5
    if not equal:
        low -= 1
    left, right = r.choice([("|", "|"), (r"\left|", r"\right|"), (r"\lvert ", r"\rvert ")])
    return (
        f"{left}{inner}{right} {relation} {latex(k * radius)}",
        written_set(r, low, high, inside, closed),
        equal,
    )


def rational_inequalities(r):
    """(x − a) / (x − b): the pole is never in the set."""
    a, b = r.sample(range(-9, 10), 2)
    low, high = min(a, b), max(a, b)
    below = lambda c: f"x{-c:+d}" if c else "x"  # noqa: E731
    closed, positive = r.random() < 0.5, r.random() < 0.5
    relation = {
        (True, True): r"\ge",
        (True, False): r"\le",
        (False, True): ">",
        (False, False): "<",
    }[closed, positive]
    equal = r.random() < 0.5
    if positive:
        left = "]" if closed and low == a else ")"
        right = "[" if closed and high == a else "("
        if not equal:
            left = "]" if left == ")" else ")"
        answer = rf"(-\infty,{low}{left}\cup{right}{high},\infty)"
    else:
        left = "[" if closed and low == a else "("
        right = "]" if closed and high == a else ")"
        if not equal:
            right = "]" if right == ")" else ")"
        answer = f"{left}{low},{high}{right}"
    return rf"\frac{{{below(a)}}}{{{below(b)}}} {relation} 0", answer, equal


def congruences(r):
    m = r.randint(3, 30)
    a = r.randrange(m)
    equal = r.random() < 0.5
    shown = a + m * r.choice([-1, 0, 1, 2]) + (0 if equal else r.randrange(1, m))
    forms = [
        rf"x \equiv {shown} \pmod {{{m}}}",
        rf"x \equiv {shown} \mod {m}",
        rf"x \equiv {shown} (\text{{mod }} {m})",
        f"x = {m}k{shown:+d}",
    ]
    return rf"x \equiv {a} \pmod{{{m}}}", r.choice(forms), equal


def reversed_brackets(r):
    low, high = two_ends(r)
    open_, close = r.choice("(["), r.choice(")]")
    if (open_, close) == ("[", "]"):
        open_ = "("
    equal = r.random() < 0.5
    open2, close2 = (
        (open_, close)
        if equal
        else r.choice(
            [("(" if open_ == "[" else "[", close), (open_, ")" if close == "]" else "]")]
        )
    )
    written = (
        f"{ {'(': ']', '[': '['}[open2] }{latex(low)};{latex(high)}{ {')': '[', ']': ']'}[close2] }"
    )
    return f"{open_}{latex(low)},{latex(high)}{close}", written, equal


def systems(r):
    x, y = r.sample(range(-20, 20), 2)
    equal = r.random() < 0.5
    p, q = (x, y) if equal else (y, x)
    rows = [f"x={p}", f"y={q}"]
    r.shuffle(rows)
    return f"({x},{y})", rf"\begin{{cases}} {rows[0]} \\ {rows[1]} \end{{cases}}", equal


ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(r, n):
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + (r.choice(["-", " "]) + ONES[n % 10] if n % 10 else "")
    if n < 1000:
        return f"{ONES[n // 100]} hundred" + (
            r.choice([" ", " and "]) + in_words(r, n % 100) if n % 100 else ""
        )
    return f"{in_words(r, n // 1000)} thousand" + (" " + in_words(r, n % 1000) if n % 1000 else "")


def number_words(r):
    n = r.choice([r.randrange(100), r.randrange(1000), r.randrange(10**5)])
    shown = n if r.random() < 0.5 else n + r.choice([1, 10, 100])
    text = in_words(r, shown)
    return str(n), r.choice([text, rf"\text{{{text}}}", text.capitalize()]), n == shown


def repeating_decimals(r):
    lead = "".join(str(r.randrange(10)) for _ in range(r.randrange(3)))
    period = str(r.randint(1, 999))
    whole = r.randrange(5)
    value = Fraction(int(f"{whole}{lead}"), 10 ** len(lead)) + Fraction(
        int(period), (10 ** len(period) - 1) * 10 ** len(lead)
    )
    shown = value if r.random() < 0.5 else value + Fraction(1, value.denominator)
    return (
        latex(shown),
        rf"{whole}.{lead}"
        + r.choice([rf"\overline{{{period}}}", f"({period})", period * 3 + r"\ldots"]),
        shown == value,
    )


def bases(r):
    n, base = r.randint(2, 500), r.randint(2, 16)
    digits, rest = "", n
    while rest:
        digits, rest = "0123456789ABCDEF"[rest % base] + digits, rest // base
    shown = n if r.random() < 0.5 else n + base
    if digits[0].isalpha():
        digits = rf"\text{{{digits}}}"
    return str(shown), f"{digits}_{{{base}}}", shown == n


def clock_times(r):
    hour, minute, afternoon = r.randint(1, 12), r.randint(0, 59), r.random() < 0.5
    half, other = ("PM", "AM") if afternoon else ("AM", "PM")
    kind = r.randrange(4)
    written = f"{hour}:{minute:02d}"
    forms = [
        rf"{written} \text{{ {half}}}",
        f"{written} {half.lower()}",
        rf"{written}\text{{ {half[0].lower()}.m.}}",
    ]
    if kind == 0:
        return forms[0], r.choice(forms), True
    if kind == 1:
        return forms[0], rf"{written} \text{{ {other}}}", False
    if kind == 2:
        return forms[0], rf"{hour}:{(minute + 30) % 60:02d} \text{{ {half}}}", False
    return forms[0], f"{hour % 12 + 12 * afternoon}:{minute:02d}", True


def full_width(r):
    a, b, equal = two(r, lambda r: r.randint(-9999, 9999), lambda r, v: v + r.choice([1, -1, 10]))
    text = "".join(chr(ord(c) + 0xFEE0) for c in str(b))
    return str(a), text + r.choice(["", "。"]), equal


def families(r):
    start, period = fraction(r), r.choice([1, 2])
    shift = r.choice([-2, -1, 0, 1]) * period
    equal = r.random() < 0.5
    other = start + shift + (0 if equal else r.choice([Fraction(1, 2), Fraction(1, 3)]))
    step = r"\pi" if period == 1 else r"2{}\pi"
    reference = rf"x = {latex(start)}\pi + {step.format('k') if period == 2 else 'k' + step}, k \in \mathbb{{Z}}"
    answer = (
        rf"x = {'2' if period == 2 else ''}n\pi {'-' if other < 0 else '+'} {latex(abs(other))}\pi"
        if other
        else rf"x = {'2' if period == 2 else ''}n\pi"
    )
    return (
        reference,
        answer
        + r.choice(
            [r", n \in \mathbb{Z}", r"\ (n \in \mathbb{Z})", r" \text{ where } n \in \mathbb{Z}"]
        ),
        equal,
    )


CATEGORIES = [
    integers, fractions, rounded, scientific, percentages, units, surds, nested_surds, pi_multiples, logarithms, trigonometric_values,
    trigonometric_identities, polynomials, rational_functions, exponentials, intervals, unions, inequalities, sets, lists, plus_minus, tuples,
    matrices, assignments, lines, functions, complex_numbers, ratios, factorials, words, choices, conversions,
    quadratic_inequalities, absolute_inequalities, rational_inequalities, congruences, reversed_brackets, systems, number_words,
    repeating_decimals, bases, clock_times, full_width, families,
]  # fmt: skip


def generated(per_category, seed):
    """`per_category` pairs of each kind, no pair twice."""
    for category in CATEGORIES:
        r = random.Random(f"{seed} {category.__name__}")
        seen = set()
        for _ in range(per_category * 20):
            reference, answer, equal = category(r)
            if equal is None:
                equal = reference == answer
            if (reference, answer) not in seen:
                seen.add((reference, answer))
                yield Pair(category.__name__, reference, answer, equal)
            if len(seen) == per_category:
                break


def written():
    """Pairs whose truth a person has seen to: `written.tsv`."""
    category = None
    for line in (pathlib.Path(__file__).parent / "written.tsv").read_text().splitlines():
        if line.startswith("# "):
            category = f"written: {line[2:]}"
            continue
        reference, answer, verdict = line.split("\t")
        yield Pair(category, reference, answer, {"equal": True, "different": False}[verdict])


def from_gsm8k(directory, count, seed):
    """Final answers of GSM8K, right ones in another dress and wrong ones."""
    rows = [json.loads(line) for line in (pathlib.Path(directory) / "gsm8k" / "test.jsonl").open()]
    r = random.Random(f"{seed} gsm8k")
    for row in r.sample(rows, count):
        final = row["answer"].rsplit("####", 1)[1].strip()
        value = Fraction(final.replace(",", "").replace("$", ""))
        shown = value if r.random() < 0.5 else value + r.choice([1, -1, 5, 10, value or 3])
        plain = decimal(shown)
        whole = shown.denominator == 1
        forms = [
            plain,
            rf"\${plain}",
            f"{int(shown):,}" if whole else plain,
            plain + (".00" if whole else "0"),
            rf"{plain}\text{{ dollars}}",
            f"x = {plain}",
        ]
        yield Pair("gsm8k", final, r.choice(forms), shown == value)
