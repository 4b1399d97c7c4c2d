//! Where answers stand: in completions, and in the references of data sets.

use crate::{boxed, tags};

/// The final answer of a completion: what the last `<answer>…</answer>` holds (its last `\boxed{…}` when there is one), else the
/// last `\boxed{…}` of the text; trimmed. `None` when there is none, or nothing in it.
pub fn of_completion(text: &str) -> Option<&str> {
    let answer = match tags::last(text, "answer") {
        Some(answer) => boxed::last(answer).unwrap_or(answer),
        None => boxed::last(text)?,
    };
    Some(answer.trim()).filter(|answer| !answer.is_empty())
}

/// The final answer of a reference: the line behind the last `####`, else the last `\boxed{…}`, else all of it; trimmed. What stands
/// behind `####` may itself be boxed.
pub fn of_reference(reference: &str) -> &str {
    let answer = match reference.rsplit_once("####") {
        Some((_, rest)) => rest.trim().lines().next().unwrap_or_default(),
        None => reference,
    };
    boxed::last(answer).unwrap_or(answer).trim()
}

/// Enough of a text to recognise it by, quoted.
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
        assert_eq!(of_completion("<answer> 4 </answer>"), Some("4"));
        assert_eq!(of_completion("<answer>so \\boxed{4}.</answer> \\boxed{5}"), Some("4"));
        assert_eq!(of_completion("\\boxed{3} or rather \\boxed{5}"), Some("5"));
        assert_eq!(of_completion("<answer>4"), None);
        assert_eq!(of_completion("<answer> </answer> \\boxed{5}"), None);
        assert_eq!(of_completion("4"), None);
    }

    #[test]
    fn the_answer_of_a_reference() {
        assert_eq!(of_reference("9 * 2 = 18\n#### 18\n"), "18");
        assert_eq!(of_reference("so $x = \\boxed{\\frac{1}{2}}$."), "\\frac{1}{2}");
        assert_eq!(of_reference(" (1, 2) "), "(1, 2)");
        assert_eq!(of_reference("#### "), "");
    }

    #[test]
    fn excerpts_are_short() {
        assert_eq!(excerpt(" 18 "), "`18`");
        assert_eq!(excerpt(&"é".repeat(100)), format!("`{}…`", "é".repeat(60)));
    }
}
