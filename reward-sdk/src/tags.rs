//! `<think>`, `<answer>` and other tags without attributes.

/// The content of the last closed `<name>…</name>`: what stands between the last `</name>` and the
/// `<name>` nearest before it.
pub fn last<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let end = text.rfind(&format!("</{name}>"))?;
    let before = text.get(..end)?;
    let open = format!("<{name}>");
    let start = before.rfind(&open)? + open.len();
    before.get(start..)
}

/// Whether the last `<name>` behind a text's thought is not closed. The text is read from its end,
/// as far as that decides: most texts end in a closed tag.
pub fn is_cut_off(text: &str, name: &str) -> bool {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let closed = text.rfind(&close).unwrap_or_default();
    let after = text.get(closed..).unwrap_or_default();
    let Some(opened) = after.rfind(&open) else {
        return false;
    };
    let (before, tail) = text.split_at_checked(closed + opened).unwrap_or_default();
    !tail.contains("</think>") || before.contains("</think>")
}

/// A chain of thought and what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thought<'a> {
    /// The thought without its tags; `None` if it was never closed.
    pub think: Option<&'a str>,
    /// Everything after the first `</think>`; the whole text when there is none.
    pub rest: &'a str,
}

/// Splits at the first `</think>`. The opening tag may be missing: chat templates often end the
/// prompt with it.
pub fn split_think(text: &str) -> Thought<'_> {
    match text.split_once("</think>") {
        Some((before, rest)) => {
            let think = before
                .split_once("<think>")
                .map_or(before, |(_, think)| think);
            Thought {
                think: Some(think),
                rest,
            }
        }
        None => Thought {
            think: None,
            rest: text,
        },
    }
}

/// Checks that `text` is the tags `names`, such as `["think", "answer"]`, in this order, each
/// exactly once, with nothing but white space before, between and after them. The error names
/// the difference.
pub fn is_exactly(text: &str, names: &[&str]) -> std::result::Result<(), String> {
    let mut rest = text;
    for name in names {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        for tag in [&open, &close] {
            let count = text.matches(tag.as_str()).take(2).count();
            if count != 1 {
                return Err(if count == 0 {
                    format!("no {tag}")
                } else {
                    format!("{tag} more than once")
                });
            }
        }
        let (outside, after) = rest
            .split_once(open.as_str())
            .ok_or_else(|| format!("{open} out of order"))?;
        if !outside.trim().is_empty() {
            return Err(format!("text before {open}"));
        }
        rest = after
            .split_once(close.as_str())
            .ok_or_else(|| format!("{close} out of order"))?
            .1;
    }
    if rest.trim().is_empty() {
        Ok(())
    } else {
        Err("text after the last tag".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_closed_tag_wins() {
        assert_eq!(
            last("<answer>1</answer> no, <answer> 2 </answer>", "answer"),
            Some(" 2 ")
        );
        assert_eq!(last("<answer>1</answer> <answer>2", "answer"), Some("1"));
        assert_eq!(
            last("write <answer> here: <answer>3</answer>", "answer"),
            Some("3")
        );
        assert_eq!(last("3</answer>", "answer"), None);
        assert_eq!(last("<answer>3", "answer"), None);
        assert_eq!(last("", "answer"), None);
    }

    #[test]
    fn a_tag_behind_the_thought_is_cut_off_where_nothing_closes_it() {
        let cut_off = |text| is_cut_off(text, "answer");
        assert!(cut_off("<answer>3"));
        assert!(cut_off("<answer>1</answer> no, <answer>2"));
        assert!(cut_off("<think>a</think><answer>3"));
        assert!(cut_off("<think>a</think><answer>3</think>"));
        assert!(!cut_off("<answer>1</answer>"));
        assert!(!cut_off("<answer> tags: <answer>1</answer>"));
        assert!(!cut_off("<think>in <answer> tags</think> 3"));
        assert!(!cut_off("3</answer>"));
        assert!(!cut_off(""));
    }

    #[test]
    fn a_thought_may_lack_its_opening_tag() {
        assert_eq!(
            split_think("<think>a</think>b"),
            Thought {
                think: Some("a"),
                rest: "b"
            }
        );
        assert_eq!(
            split_think("a</think>b"),
            Thought {
                think: Some("a"),
                rest: "b"
            }
        );
        assert_eq!(
            split_think("<think>a"),
            Thought {
                think: None,
                rest: "<think>a"
            }
        );
    }

    #[test]
    fn tags_are_counted_ordered_and_alone() {
        let r1 = |text| is_exactly(text, &["think", "answer"]);
        assert_eq!(r1("<think>a</think><answer>b</answer>"), Ok(()));
        assert_eq!(r1(" <think>\na\n</think>\n\n<answer>b</answer>\n"), Ok(()));
        assert_eq!(r1("<think>a</think>"), Err("no <answer>".into()));
        assert_eq!(
            r1("<think>a</think><answer>b</answer><answer>c</answer>"),
            Err("<answer> more than once".into())
        );
        assert_eq!(
            r1("<answer>b</answer><think>a</think>"),
            Err("text before <think>".into())
        );
        assert_eq!(
            r1("<think>a<answer>b</answer></think>"),
            Err("<answer> out of order".into())
        );
        assert_eq!(
            r1("<think>a</think>so<answer>b</answer>"),
            Err("text before <answer>".into())
        );
        assert_eq!(
            r1("<think>a</think><answer>b</answer>."),
            Err("text after the last tag".into())
        );
        assert_eq!(
            r1("</think>a<think><answer>b</answer>"),
            Err("text before <think>".into())
        );
        assert_eq!(
            r1("<think>a</think></answer>b<answer>"),
            Err("text before <answer>".into())
        );
    }
}
