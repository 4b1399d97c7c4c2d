//! What stands right around a box: signs that belong to its number, and words that take it back.

use std::borrow::Cow;

/// Words before a box that say it is not the answer.
const DENIALS: [&str; 8] = ["not", "never", "isn't", "wasn't", "aren't", "不是", "不等于", "并非"];
/// Signs before a box that do.
const UNEQUAL: [&str; 4] = ["\\ne", "\\neq", "\\not=", "≠"];
/// Words behind a box that do.
const REFUSALS: [&str; 22] = [
    "is wrong",
    "is incorrect",
    "is false",
    "is impossible",
    "is invalid",
    "is not correct",
    "is not right",
    "is not the",
    "is not valid",
    "is not possible",
    "is not a solution",
    "isn't correct",
    "isn't right",
    "isn't the",
    "was wrong",
    "cannot be",
    "can't be",
    "不对",
    "错误",
    "是错",
    "不正确",
    "舍去",
];

/// Whether the words right before or behind a box say that it is not the answer.
pub fn is_taken_back((before, after): (&str, &str)) -> bool {
    let before = before.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '$' | '*')).replace('’', "'");
    let before = before.strip_suffix("\\(").or_else(|| before.strip_suffix("\\[")).unwrap_or(&before).trim_end();
    if UNEQUAL.iter().any(|sign| before.ends_with(sign)) {
        return true;
    }
    let denies = |word: &str| {
        let Some(start) = before.len().checked_sub(word.len()) else { return false };
        let whole = !word.is_ascii() || !before.get(..start).is_some_and(|lead| lead.ends_with(char::is_alphanumeric));
        before.get(start..).is_some_and(|end| end.eq_ignore_ascii_case(word)) && whole
    };
    let behind = after.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '$' | '*'));
    let behind = behind.strip_prefix("\\)").or_else(|| behind.strip_prefix("\\]")).unwrap_or(behind).trim_start();
    DENIALS.iter().any(|word| denies(word)) || REFUSALS.iter().any(|words| behind.starts_with(words))
}

/// The content of a box with the signs of the formula that it stands in, where they change it: `-\boxed{12}`, `2\boxed{12}`,
/// `\boxed{12}\%`, `\boxed{12}^2`, `\sqrt{\boxed{12}}`.
pub fn signed<'a>(content: &'a str, (before, after): (&str, &str)) -> Cow<'a, str> {
    let (factor, suffix) = (factor_before(before), suffix_behind(after));
    let root = before.trim_end().ends_with("\\sqrt{") && after.trim_start().starts_with('}');
    if factor.is_none() && suffix.is_none() && !root {
        return Cow::Borrowed(content);
    }
    let simple = content.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | ',')) || content.chars().count() == 1;
    let inner = if root {
        format!("\\sqrt{{{content}}}")
    } else if simple || suffix.is_some_and(|suffix| !suffix.starts_with('^') || suffix.contains("circ")) && factor.is_none() {
        content.to_string()
    } else {
        format!("({content})")
    };
    let product = match factor {
        Some("-") => "-".to_string(),
        Some(factor) => format!("{factor} \\cdot "),
        None => String::new(),
    };
    Cow::Owned(format!("{product}{inner}{}", suffix.unwrap_or_default()))
}

/// A minus sign or a numeral that the box is multiplied by; `None` for a hyphen, a bullet, and the `-` of a difference.
fn factor_before(before: &str) -> Option<&str> {
    // Where a formula, or one of its sides, begins.
    let begins = |lead: &str| {
        let lead = lead.trim_end();
        lead.ends_with(['$', '=']) || lead.ends_with("\\(") || lead.ends_with("\\[")
    };
    let lead = before.trim_end_matches(' ');
    if let Some(lead) = lead.strip_suffix(['-', '−']) {
        let glued = before.ends_with(['-', '−']);
        let last = lead.trim_end().rsplit(char::is_whitespace).next().unwrap_or_default();
        let word = last.chars().count() > 1 && last.ends_with(char::is_alphabetic);
        let alone = lead.trim_end().is_empty() || (lead.ends_with(char::is_whitespace) && (word || lead.ends_with('\n')));
        return (begins(lead) || (glued && alone)).then_some("-");
    }
    let start = before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (lead, digits) = before.split_at_checked(start)?;
    let negative = lead.strip_suffix('-').filter(|lead| begins(lead));
    match negative {
        _ if digits.is_empty() => None,
        Some(lead) => before.get(lead.len()..),
        None => begins(lead).then_some(digits),
    }
}

/// A percent sign, a degree sign or a power right behind a box.
fn suffix_behind(after: &str) -> Option<&str> {
    let percent = after.trim_start();
    let percent = percent.strip_prefix('$').unwrap_or(percent);
    if percent.starts_with("\\%") || percent.starts_with('%') {
        return Some("\\%");
    }
    let power = after.strip_prefix('^')?;
    let end = match power.as_bytes().first()? {
        b'{' => power.find('}')? + 1,
        b'\\' => 1 + power.bytes().skip(1).take_while(u8::is_ascii_alphabetic).count(),
        byte if byte.is_ascii_alphanumeric() => 1,
        _ => return None,
    };
    after.get(..=end)
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
        for text in
            [r"not 11 but \boxed{12}", r"\boxed{12} is correct", r"a knot \boxed{12}", r"$\boxed{12}$, not 13", r"x \boxed{12} is"]
        {
            assert_eq!(answer(text), Boxed::Answer("12".into()), "{text}");
        }
    }
}
