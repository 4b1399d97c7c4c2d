//! The final answer of a completion, for majority votes: whatever the plugins think of it, two
//! completions agree when these are equal.

/// Returns the last `<answer>…</answer>`, else the last `\boxed{…}`, else the text after the last
/// `####`, else the last line; without spaces around it. It is empty if the completion has none of
/// them.
pub fn final_answer(text: &str) -> &str {
    let found = tagged(text)
        .or_else(|| boxed(text))
        .or_else(|| text.rfind("####").map(|at| &text[at + 4..]));
    found
        .unwrap_or(text)
        .trim()
        .lines()
        .next_back()
        .unwrap_or("")
        .trim()
}

fn tagged(text: &str) -> Option<&str> {
    let end = text.rfind("</answer>")?;
    let start = text[..end].rfind("<answer>")? + "<answer>".len();
    Some(&text[start..end])
}

fn boxed(text: &str) -> Option<&str> {
    let start = text.rfind("\\boxed{")? + "\\boxed{".len();
    let mut depth = 1;
    for (at, c) in text[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[start..start + at]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::final_answer;

    #[test]
    fn finds_what_the_usual_forms_hold() {
        assert_eq!(final_answer("<think>2+2</think><answer> 4 </answer>"), "4");
        assert_eq!(
            final_answer("<answer>3</answer> no: <answer>4</answer>"),
            "4"
        );
        assert_eq!(
            final_answer("so \\boxed{1}, rather \\boxed{\\frac{1}{2}}."),
            "\\frac{1}{2}"
        );
        assert_eq!(final_answer("2 + 2 = 4\n#### 4\n"), "4");
        assert_eq!(final_answer("thinking\n4 "), "4");
        assert_eq!(final_answer("\\boxed{1"), "\\boxed{1");
        assert_eq!(final_answer(""), "");
    }
}
