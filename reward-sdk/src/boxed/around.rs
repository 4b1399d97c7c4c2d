//! What stands right around a box: the formula that it is a part of, and words that change its
//! number or take it back.

use std::borrow::Cow;

/// Words before a box that say it is not the answer, and between which and the box only
/// [`BETWEEN`] stands.
const DENIALS: &[&str] = &["not", "never", "cannot", "impossible", "neither", "nor"];
/// Words between a denial and a box: `cannot be equal to \boxed{5}`.
const BETWEEN: &[&str] = &[
    "be", "been", "equal", "equals", "to", "the", "answer", "exactly", "a", "get", "obtain",
    "give", "have", "that", "possibly",
];
/// Words anywhere in a box's clause that leave the box open as an answer.
const DOUBTS: &[&str] = &[
    "whether",
    "doubt",
    "doubts",
    "doubtful",
    "unlikely",
    "unclear",
    "uncertain",
    "wonder",
    "wonders",
    "undecided",
];
/// Words right before a box that say another number than the one in it; an `of` may follow them.
const OTHERS: &[&str] = &[
    "half",
    "third",
    "quarter",
    "twice",
    "thrice",
    "double",
    "triple",
    "root",
    "square",
    "cube",
    "reciprocal",
    "than",
    "least",
    "most",
    "over",
    "under",
    "below",
    "above",
    "beyond",
    "times",
    "plus",
    "exceeds",
    "exceed",
    "except",
    "multiple",
];
/// Endings of the text before a box that mark the box as not the answer, or only as a bound.
const ENDINGS: &[&str] = &[
    "\\ne",
    "\\neq",
    "\\not=",
    "≠",
    "不是",
    "不等于",
    "并非",
    "不为",
    "可能是",
    "不会是",
    "不能是",
    "大于",
    "小于",
    "多于",
    "少于",
    "超过",
    "不足",
    "至少",
    "至多",
    "最多",
    "最少",
    "除了",
    "一半是",
    "难说是",
    "up to",
];
/// Words behind a box that say it is not the answer.
const REFUSALS: &[&str] = &[
    "is wrong",
    "is incorrect",
    "is false",
    "is impossible",
    "is invalid",
    "is not ",
    "isn't ",
    "was wrong",
    "cannot be",
    "can't be",
    "is too ",
    "contradicts",
    "leads to a contradiction",
    "more than",
    "less than",
    "fewer than",
    "or more",
    "or less",
    "? No",
    "? no",
    "不对",
    "错",
    "是错",
    "不正确",
    "舍去",
    "不可能",
    "不符合",
    "不合",
    "太",
    "则矛盾",
    "矛盾",
    "以上",
    "以下",
];
/// Words behind a box that belong to its number.
const SCALES: &[&str] = &[
    "million",
    "billion",
    "trillion",
    "thousand",
    "hundred",
    "dozen",
    "percent",
    "per cent",
    "ppm",
    "below zero",
    "万",
    "亿",
];
/// Commands that make another number of what follows them.
const FUNCTIONS: &[&str] = &[
    "sqrt", "sin", "cos", "tan", "log", "ln", "exp", "cdot", "times", "div", "pm", "mp", "lfloor",
    "lceil", "lvert",
];

/// What is set around formulas: `$`, `\(`, `**`, white space.
fn within(text: &str) -> &str {
    text.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '$' | '*'))
        .trim_end_matches("\\(")
        .trim_end_matches("\\[")
        .trim_end()
}

/// Returns the text behind a box without the end of the box's formula.
fn behind(after: &str) -> &str {
    let set = |c: char| c.is_whitespace() || matches!(c, '$' | '*');
    let after = after.trim_start_matches(set);
    after
        .strip_prefix("\\)")
        .or_else(|| after.strip_prefix("\\]"))
        .unwrap_or(after)
        .trim_start_matches(set)
}

/// Returns the words of the clause that ends in a box, the last word first.
#[inline(never)]
fn clause(before: &str) -> Vec<String> {
    let start = last_of(before, &["\n", ".", ",", ";", ":", "?", "!", "，", "。"]).unwrap_or(0);
    let mut words = Vec::new();
    for word in before.get(start..).unwrap_or_default().split_whitespace() {
        match word {
            "but" | "so" | "hence" => words.clear(),
            _ if word.is_ascii() => words.push(word.to_ascii_lowercase()),
            _ => words.push(word.replace('’', "'")),
        }
    }
    words.reverse();
    words
}

// None of these is inlined: each loop of its own is a loop in every component.
#[inline(never)]
fn is_in(list: &[&str], word: &str) -> bool {
    list.contains(&word)
}

#[inline(never)]
fn begins_in<'l>(text: &str, list: &[&'l str]) -> Option<&'l str> {
    list.iter()
        .find(|part| text.as_bytes().starts_with(part.as_bytes()))
        .copied()
}

#[inline(never)]
fn ends_in(text: &str, list: &[&str]) -> bool {
    list.iter()
        .any(|part| text.as_bytes().ends_with(part.as_bytes()))
}

/// Whether a letter, a digit or a space stands at a place: no sign begins with one.
fn is_plain(text: &str, at: usize) -> bool {
    text.as_bytes()
        .get(at)
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b' ')
}

/// Returns the first place of any of the parts, and the part that stands there.
#[inline(never)]
fn first_of<'l>(text: &str, list: &[&'l str]) -> Option<(usize, &'l str)> {
    (0..text.len()).find_map(|at| {
        if is_plain(text, at) {
            None
        } else {
            Some((at, begins_in(text.get(at..)?, list)?))
        }
    })
}

/// Returns the byte behind the last occurrence of any of the parts.
#[inline(never)]
fn last_of(text: &str, list: &[&str]) -> Option<usize> {
    let part = |at| {
        if is_plain(text, at) {
            None
        } else {
            Some(at + begins_in(text.get(at..)?, list)?.len())
        }
    };
    (0..text.len()).rev().find_map(part)
}

/// Whether a formula contains words: more than `letters_max` bytes of letters in a row that are not
/// a command.
#[inline(never)]
fn is_prose(text: &str, letters_max: usize) -> bool {
    let (mut count, mut command) = (0, false);
    text.chars().any(|c| {
        if c.is_alphabetic() {
            count += c.len_utf8();
        } else {
            (count, command) = (0, c == '\\');
        }
        count > letters_max && !command
    })
}

/// Whether the words around a box say that it is not the answer, or that its number is another.
#[inline(never)]
pub(crate) fn is_taken_back((before, after): (&str, &str)) -> bool {
    let before = within(before);
    let words = clause(before);
    let denied = words
        .iter()
        .find(|word| !is_in(BETWEEN, word))
        .is_some_and(|word| is_in(DENIALS, word) || word.ends_with("n't"));
    let other = words
        .iter()
        .find(|word| *word != "of")
        .is_some_and(|word| is_in(OTHERS, word));
    denied
        || other
        || ends_in(before, ENDINGS)
        || words.iter().any(|word| is_in(DOUBTS, word))
        || begins_in(behind(after), REFUSALS).is_some()
}

/// The content of a box with the formula that it is a part of, and the words that belong to its
/// number: `-\boxed{12}`, `2\boxed{12}`, `\boxed{12}\%`, `\frac{\boxed{3}}{4}`,
/// `\boxed{5} million`; `None` where the formula cannot be told. A box with another side of an
/// equation behind it is a blank that is filled in: `17 - \boxed{5} = 12` is 5.
#[inline(never)]
pub(crate) fn signed<'a>(content: &'a str, (before, after): (&str, &str)) -> Option<Cow<'a, str>> {
    let (left, right) = (lead(before), tail(after));
    let scaled = behind(after);
    let whole = |word: &&str| {
        !word.is_ascii()
            || !scaled
                .get(word.len()..)
                .is_some_and(|rest| rest.starts_with(char::is_alphabetic))
    };
    let percent = begins_in(scaled, &["\\%", "%"]).map(|_| "\\%");
    let unit = percent
        .or_else(|| begins_in(scaled, SCALES).filter(whole))
        .unwrap_or_default();
    let sentence = within(before);
    let negative = ends_in(sentence, &["minus", "Minus", "negative", "Negative", "负"]);
    let part = (left.changes || right.changes) && !right.ends_in_relation;
    if unit.is_empty() && !negative && !part {
        return Some(Cow::Borrowed(content));
    }
    let (lead, tail) = if part {
        (left.text.trim_end(), right.text)
    } else {
        ("", "")
    };
    let command = lead.contains('\\') && !ends_in(lead, &["{", "-", "+"]);
    let simple = !command
        && (content
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b','))
            || content.chars().nth(1).is_none()
            || (lead.is_empty() && (tail.is_empty() || tail.contains("circ"))));
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let mut read = String::from(if negative { "-" } else { "" });
    read.push_str(lead);
    if digit(lead.as_bytes().last()) && !command {
        read.push_str(" \\cdot ");
    }
    for part in if simple {
        ["", content, "", tail]
    } else {
        ["(", content, ")", tail]
    } {
        read.push_str(part);
    }
    if unit.is_ascii() && unit != "\\%" && !unit.is_empty() {
        read.push(' ');
    }
    read.push_str(unit);
    let mut open = 0_i32;
    let balanced = read.bytes().all(|byte| {
        open += i32::from(byte == b'{') - i32::from(byte == b'}');
        open >= 0
    });
    // `\boxed{5}3` is no 53.
    let glued = tail.as_bytes().first().is_some_and(u8::is_ascii_digit);
    (balanced && open == 0 && !glued).then_some(Cow::Owned(read))
}

/// What of a formula stands on one side of a box, and whether it makes another number of it.
struct Side<'t> {
    text: &'t str,
    changes: bool,
    ends_in_relation: bool,
}

/// Signs between the sides of an equation, and what else parts a formula from another.
const RELATIONS: &[&str] = &[
    "=",
    "<",
    ">",
    "\\approx",
    "\\to",
    "\\Rightarrow",
    "\\implies",
    "\\iff",
    "\\therefore",
    "\\in",
    "\\le",
    "\\ge",
    "\\equiv",
    "\\quad",
    "\\qquad",
    "\\text",
    "\\displaystyle",
    "\\\\",
    "&",
    ",",
    ";",
    ":",
    "≈",
    "≤",
    "≥",
    "⇒",
    "→",
    "∴",
];

/// The formula's part before a box: all of it within `$`, else what is glued to the box.
#[inline(never)]
fn lead(before: &str) -> Side<'_> {
    let line = last_of(before, &["\n"]).unwrap_or(0);
    let line = before.get(line..).unwrap_or_default();
    let mut opened = None;
    let mut last = b' ';
    for (at, byte) in line.bytes().enumerate() {
        match (last, byte) {
            (b'\\', b'(' | b'[') => opened = Some(at + 1),
            (b'\\', b')' | b']') => opened = None,
            (b'$', b'$') => opened = Some(at + 1),
            (_, b'$') if last != b'\\' => {
                opened = if opened.is_some() { None } else { Some(at + 1) }
            }
            _ => {}
        }
        last = byte;
    }
    let rest = line.get(opened.unwrap_or(0)..).unwrap_or_default();
    let side = last_of(rest, RELATIONS);
    let whole = rest.get(side.unwrap_or(0)..).unwrap_or_default();
    let formula = (side.is_some() || opened.is_some())
        && !is_prose(whole, if opened.is_some() { 2 } else { 1 });
    const OPERATORS: &[&str] = &["+", "-", "−", "/", "^"];
    let trimmed = line.trim_end();
    // `Answer: - \boxed{12}`
    let bullet = opened.is_none()
        && !line.contains('=')
        && line.ends_with(' ')
        && is_in(OPERATORS, whole.trim());
    let text = if bullet {
        ""
    } else if formula {
        whole.trim_start()
    } else if ends_in(trimmed, OPERATORS) {
        // `10-\boxed{5}`, `10 - \boxed{5}` in a sentence.
        let mut number = trimmed.to_string();
        number.pop();
        let start = number.trim_end().rfind(' ').map_or(0, |at| at + 1);
        let operand = number.trim_end().get(start..).unwrap_or_default();
        let letters = operand.chars().filter(|c| c.is_alphabetic()).count();
        let counts =
            letters <= 1 && operand.ends_with(|c: char| c.is_ascii_alphanumeric() || c == ')');
        let glued = trimmed.len() == line.len() && ends_in(trimmed, &["-", "−"]);
        if counts {
            trimmed.get(start..).unwrap_or_default()
        } else if glued && (number.is_empty() || number.ends_with(' ')) {
            "-"
        } else {
            ""
        }
    } else {
        line.get(line.rfind([' ', '$']).map_or(0, |at| at + 1)..)
            .unwrap_or_default()
    };
    let end = text.trim_end();
    let letters = end
        .bytes()
        .rev()
        .take_while(u8::is_ascii_alphabetic)
        .count();
    let command = end
        .rfind('\\')
        .and_then(|at| end.get(at + 1..))
        .unwrap_or_default();
    let group = end.strip_suffix('{').unwrap_or_default();
    let changes = ends_in(end, &["+", "-", "−", "/", "^", "|", "×", "√"])
        || end.as_bytes().last().is_some_and(u8::is_ascii_digit)
        || ((1..=2).contains(&letters) && command.len() != letters && (letters == 1 || formula))
        || is_in(FUNCTIONS, command)
        || ends_in(group, &["frac", "sqrt", "^", "]", "binom"])
        || (group.ends_with('}')
            && first_of(group, &["\\frac{", "\\dfrac{", "\\tfrac{"]).is_some())
        || (formula && end.len() > 3 && end.ends_with(')'));
    Side {
        text,
        changes,
        ends_in_relation: false,
    }
}

/// The first word of a text, with the operand of an operator that stands alone: `\cdot 2`.
fn glued_text(text: &str) -> &str {
    let end = text.find(' ').unwrap_or(text.len());
    let alone = end == 1 || text.starts_with('\\');
    let second = text
        .get(end + 1..)
        .and_then(|rest| rest.find(' '))
        .map_or(text.len(), |at| end + 1 + at);
    text.get(..if alone { second } else { end })
        .unwrap_or_default()
}

/// The formula's part behind a box.
#[inline(never)]
fn tail(after: &str) -> Side<'_> {
    let (end, sign) = first_of(after, &["$", "\\)", "\\]", "\n"]).unwrap_or((after.len(), "\n"));
    let line = after.get(..end).unwrap_or_default();
    let (side, relation) = first_of(line, RELATIONS).unwrap_or((end, ""));
    let whole = line.get(..side).unwrap_or_default();
    let trimmed = whole.trim_start();
    let math = sign != "\n";
    let prose = is_prose(whole, 2);
    let glued = whole.len() == trimmed.len();
    let bytes = trimmed.as_bytes();
    let rest = trimmed.get(1..).unwrap_or_default().trim_start().as_bytes();
    let operand = rest
        .first()
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'\\' | b'('));
    let letters = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_alphabetic())
        .count();
    let changes = match bytes.first() {
        Some(b'+' | b'/') => operand,
        Some(b'-') => operand && !prose,
        Some(b'.') => glued && bytes.get(1).is_some_and(u8::is_ascii_digit),
        Some(b'^' | b'|') => true,
        Some(b'!') => math,
        Some(b'}') => bytes.get(1) == Some(&b'{'),
        Some(byte) if byte.is_ascii_digit() => glued,
        Some(byte) if byte.is_ascii_alphabetic() => letters == 1 && (glued || math),
        Some(b'(') => glued && math && !prose && (trimmed.contains('+') || trimmed.contains('-')),
        _ => begins_in(
            trimmed,
            &["\\cdot", "\\times", "\\div", "\\sqrt", "\\pi", "\\pm", "×"],
        )
        .is_some(),
    };
    let text = if math && !prose {
        whole.trim_end()
    } else {
        glued_text(trimmed)
    };
    Side {
        text: text.strip_suffix('.').unwrap_or(text),
        changes,
        ends_in_relation: is_in(&["=", "<", ">", "\\approx", "≈"], relation),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Boxed, answer};

    #[test]
    fn signs_around_a_box_belong_to_it() {
        for (text, expected) in [
            (r"$-\boxed{12}$", "-12"),
            (r"\(-\boxed{12}\)", "-12"),
            (r"$x = - \boxed{12}$", "-12"),
            (r"the answer is -\boxed{12}", "-12"),
            (r"$-\boxed{x+1}$", "-(x+1)"),
            (r"$2\boxed{12}$", r"2 \cdot 12"),
            (r"$x = -2\boxed{12}$", r"-2 \cdot 12"),
            (r"$\boxed{12}\%$", r"12\%"),
            (r"\boxed{12}%", r"12\%"),
            (r"$\boxed{12}^2$", "12^2"),
            (r"$\boxed{x+1}^{10}$", "(x+1)^{10}"),
            (r"$\boxed{12}^\circ$", r"12^\circ"),
            (r"$\boxed{\frac12}^{\circ}$", r"\frac12^{\circ}"),
            (r"$\sqrt{\boxed{12}}$", r"\sqrt{12}"),
            (r"$-\boxed{3}, \boxed{5}$", "-3, 5"),
            // A bullet, a dash, a difference, a step's number, the end of a sentence.
            (r"- \boxed{12}", "12"),
            ("So\n- \\boxed{12}", "12"),
            (r"Answer: - \boxed{12}", "12"),
            (r"answer-\boxed{12}", "12"),
            (r"answer—\boxed{12}", "12"),
            (r"$17 - \boxed{5} = 12$", "5"),
            (r"17 -\boxed{5} = 12", "5"),
            (r"$17 - 5 = \boxed{12}$", "12"),
            (r"1. \boxed{12}", "12"),
            (r"Step 2 \boxed{12}", "12"),
            (r"The answer is \boxed{12}!", "12"),
            (r"**\boxed{12}**", "12"),
        ] {
            assert_eq!(answer(text), Boxed::Answer(expected.into()), "{text}");
        }
    }

    #[test]
    fn words_around_a_box_take_it_back() {
        for text in [
            r"The answer is not \boxed{12}.",
            r"It isn't $\boxed{12}$",
            r"$x \ne \boxed{12}$",
            r"\boxed{12} is wrong.",
            r"$\boxed{12}$ is not correct",
            r"答案不是\boxed{12}",
            r"\boxed{12}舍去",
        ] {
            assert_eq!(answer(text), Boxed::TakenBack, "{text}");
        }
        for text in [
            r"not 11 but \boxed{12}",
            r"\boxed{12} is correct",
            r"a knot \boxed{12}",
            r"$\boxed{12}$, not 13",
            r"x \boxed{12} is",
        ] {
            assert_eq!(answer(text), Boxed::Answer("12".into()), "{text}");
        }
    }

    #[test]
    fn a_box_is_read_with_its_formula() {
        for (text, expected) in [
            (r"2\boxed{12}", r"2 \cdot 12"),
            (r"The answer is 2\boxed{12}.", r"2 \cdot 12"),
            (r"x\boxed{5}", r"x \cdot 5"),
            (r"$\boxed{5}x$", "5x"),
            (r"$\boxed{5}+1$", "5+1"),
            (r"$1+\boxed{5}$", "1+5"),
            (r"10-\boxed{5}", "10-5"),
            (r"10 - \boxed{5}", "10 -5"),
            (r"$3\cdot\boxed{4}$", r"3\cdot(4)"),
            (r"$\frac{\boxed{3}}{4}$", r"\frac{3}{4}"),
            (r"$\frac{1}{\boxed{3}}$", r"\frac{1}{3}"),
            (r"$\boxed{5}!$", "5!"),
            (r"\boxed{5}\cdot 2", r"5\cdot 2"),
            (r"$\boxed{5}$ million", "5 million"),
            (r"\boxed{5} percent", "5 percent"),
            (r"minus \boxed{5}", "-5"),
            (r"负\boxed{5}", "-5"),
            (r"\boxed{5}万", "5万"),
        ] {
            let read = answer(text);
            let Boxed::Answer(read) = read else {
                panic!("{text}: {read:?}")
            };
            assert_eq!(read.replace(' ', ""), expected.replace(' ', ""), "{text}");
        }
    }

    #[test]
    fn usual_last_lines_keep_their_box() {
        for text in [
            r"Thus the answer is \boxed{12}.",
            r"\boxed{12} apples",
            r"= \boxed{12}",
            r"x = \boxed{12}",
            r"\$\boxed{12}",
            r"$\$\boxed{12}$",
            r"The total cost is \$\boxed{12}.",
            r"$\boxed{12}$ dollars",
            r"$$\boxed{12}$$",
            "$$\n\\boxed{12}\n$$",
            r"\[ \boxed{12} \]",
            r"\[x^2 + y^2 = \boxed{12}.\]",
            r"\(\boxed{12}\)",
            r"So $3 \cdot 4 = \boxed{12}$.",
            r"$3 \times 4 = 12$, so \boxed{12}",
            r"$\boxed{12}\text{ cm}$",
            r"$\boxed{12} \text{ cm}^2$",
            r"\boxed{12} \text{ cm}",
            r"\boxed{12} cm",
            r"\boxed{12}元",
            r"\boxed{12}个",
            r"\boxed{12}千克",
            r"答案为$\boxed{12}$。",
            r"故选\boxed{12}",
            r"$\therefore \boxed{12}$",
            r"$x = 12 \Rightarrow \boxed{12}$",
            r"$a+b \implies \boxed{12}$",
            r"$\text{Answer: }\boxed{12}$",
            r"$\textbf{\boxed{12}}$",
            r"\textbf{\boxed{12}}",
            r"$\color{red}{\boxed{12}}$",
            r"$\displaystyle\boxed{12}$",
            r"$\quad\boxed{12}$",
            r"$\boxed{12}\quad\blacksquare$",
            r"$\boxed{12}. \square$",
            r"\begin{aligned} x &= 3\cdot 4 \\ &= \boxed{12} \end{aligned}",
            r"**Final Answer:** \boxed{12}",
            r"**Answer: \boxed{12}**",
            r"### Final Answer \boxed{12}",
            r"#### \boxed{12}",
            r"> \boxed{12}",
            r"* \boxed{12}",
            r"(a) \boxed{12}",
            r"(2) \boxed{12}",
            r"(1)\boxed{12}",
            r"Part 2: \boxed{12}",
            r"The answer to part 2 is \boxed{12}.",
            r"the number is $12$: \boxed{12}",
            r"Since $f$ is not continuous at 12 points, the answer is \boxed{12}.",
            r"The number of people who do not like tea is \boxed{12}.",
            r"The smallest number that cannot be written as a sum is \boxed{12}.",
            r"The least common multiple is \boxed{12}.",
            r"It is not 13; it is \boxed{12}.",
            r"It cost $5 and $7, in total \boxed{12}",
            r"He pays $5 more, so the total is $\boxed{12}$.",
            r"\boxed{12} (since 3 times 4 is 12)",
            r"\boxed{12}, not 13.",
            r"\boxed{12}. I checked that 13 is wrong.",
            r"\boxed{12} is the answer.",
            r"\boxed{12} students are left.",
            r"The expression equals $\boxed{12}$ when $x=2$.",
            r"$f(2)=\boxed{12}$",
            r"$P(A) = \boxed{12}$",
            r"$\angle ABC = \boxed{12}$",
            r"$\boxed{12} = x$",
            r"$\sin x + 2 = \boxed{12}$",
            r"$3 + \boxed{12} = 15$",
            r"The final answer is: $\boxed{12}$!",
            r"therefore: \boxed{12}",
            r"Final answer: $\boxed{12}$ ✓",
            r"I am not sure, maybe \boxed{12}",
            r"The area of the square is \boxed{12}.",
            r"Tom has \boxed{12} marbles more",
            r"最小值为\boxed{12}",
            r"x的值为$\boxed{12}$.",
            r"The answer is\boxed{12}",
            r"answer:\boxed{12}",
            r"2) \boxed{12}",
            r"$(\boxed{12})$",
        ] {
            assert_eq!(answer(text), Boxed::Answer("12".into()), "{text}");
        }
    }

    #[test]
    fn bounds_doubts_and_denials_take_a_box_back() {
        for text in [
            r"half of \boxed{5}",
            r"twice \boxed{5}",
            r"the square root of $\boxed{5}$",
            r"less than \boxed{5}",
            r"more than \boxed{5}",
            r"at least \boxed{5}",
            r"at most \boxed{5}",
            r"up to \boxed{5}",
            r"大于\boxed{5}",
            r"\boxed{5} more than Tom",
            r"The answer cannot be \boxed{5}.",
            r"It can't be \boxed{5}",
            r"It must not be \boxed{5}",
            r"It could not be \boxed{5}",
            r"It is impossible to get \boxed{5}",
            r"不可能是\boxed{5}",
            r"It is unclear whether it is \boxed{5}.",
            r"I doubt that it is \boxed{5}.",
            r"\boxed{6} contradicts the condition.",
            r"\boxed{6} is too large.",
            r"\boxed{6}? No.",
            r"若答案是\boxed{6}则矛盾",
            r"\boxed{6}不可能",
            r"$\boxed{6}$ is not the answer",
            r"It is unlikely to be \boxed{6}",
            r"anything except \boxed{6}",
            r"I wonder whether it is $\boxed{6}$",
            r"$x \neq \boxed{6}$",
        ] {
            assert_eq!(answer(text), Boxed::TakenBack, "{text}");
        }
    }
}
