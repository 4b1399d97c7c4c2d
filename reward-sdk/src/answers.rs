//! Where answers stand: in completions, and in the references of data sets.

use crate::boxed::Boxed;
use crate::{boxed, tags};
use std::borrow::Cow;

/// The final answer of a completion: what the last `<answer>…</answer>` holds (its last `\boxed{…}`
/// when there is one), else the last `\boxed{…}` of the text; trimmed. Boxes that a comma, `and` or
/// `or` joins are one list ([`boxed::answer`]). `None` without an answer, when the last tag or box
/// is cut off, when the text takes the box back, or when nothing is in it.
pub fn of_completion(text: &str) -> Option<Cow<'_, str>> {
    if tags::is_cut_off(text, "answer") {
        return None;
    }
    let (within, else_all) = match tags::last(text, "answer") {
        Some(answer) => (answer, true),
        None => (text, false),
    };
    let answer = match boxed::answer(within) {
        Boxed::Answer(answer) => answer,
        Boxed::Absent if else_all => within.into(),
        Boxed::Absent | Boxed::CutOff | Boxed::TakenBack => return None,
    };
    Some(trimmed(answer)).filter(|answer| !answer.is_empty())
}

/// The final answer of a reference: the line behind the last `####`, else its boxes as in a
/// completion, else all of it; trimmed. What stands behind `####` may itself be boxed.
pub fn of_reference(reference: &str) -> Cow<'_, str> {
    let answer = match reference.rsplit_once("####") {
        Some((_, rest)) => rest.trim().lines().next().unwrap_or_default(),
        None => reference,
    };
    trimmed(match boxed::answer(answer) {
        Boxed::Answer(answer) => answer,
        Boxed::Absent | Boxed::CutOff | Boxed::TakenBack => answer.into(),
    })
}

fn trimmed(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => text.trim().into(),
        Cow::Owned(text) => text.trim().to_string().into(),
    }
}

/// Quotes the start of a text, 60 characters at most, enough to recognise it by.
pub fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let text = text.trim();
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("`{}…`", text.get(..end).unwrap_or_default()),
        None => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_completion() {
        assert_eq!(of_completion("<answer> 4 </answer>").as_deref(), Some("4"));
        assert_eq!(
            of_completion("<answer>so \\boxed{4}.</answer> \\boxed{5}").as_deref(),
            Some("4")
        );
        assert_eq!(
            of_completion("\\boxed{3} or rather \\boxed{5}").as_deref(),
            Some("5")
        );
        assert_eq!(
            of_completion("\\boxed{3} or \\boxed{5}").as_deref(),
            Some("3 or 5")
        );
        assert_eq!(of_completion("\\boxed{3}. Then \\boxed{5"), None);
        assert_eq!(
            of_completion("<answer>\\boxed{3}. Then \\boxed{5</answer>"),
            None
        );
        assert_eq!(of_completion("<answer>4"), None);
        assert_eq!(of_completion("<answer>12</answer> no: <answer>13"), None);
        assert_eq!(of_completion("\\boxed{12} <answer>13"), None);
        assert_eq!(
            of_completion("<think>into <answer> tags</think> \\boxed{12}").as_deref(),
            Some("12")
        );
        assert_eq!(of_completion("<answer> </answer> \\boxed{5}"), None);
        assert_eq!(of_completion("4"), None);
    }

    #[test]
    fn the_answer_of_a_reference() {
        assert_eq!(of_reference("9 * 2 = 18\n#### 18\n"), "18");
        assert_eq!(
            of_reference("so $x = \\boxed{\\frac{1}{2}}$."),
            "\\frac{1}{2}"
        );
        assert_eq!(of_reference(" (1, 2) "), "(1, 2)");
        assert_eq!(of_reference("#### "), "");
    }

    #[test]
    fn excerpts_are_short() {
        assert_eq!(excerpt(" 18 "), "`18`");
        assert_eq!(excerpt(&"é".repeat(100)), format!("`{}…`", "é".repeat(60)));
    }
}
