//! `\boxed{…}`: where mathematical answers stand.

/// The content of the last complete `\boxed{…}`, braces balanced; of nested ones the innermost.
///
/// One pass over the text whatever it holds, so a megabyte of `\boxed{\boxed{…` costs no more than prose. `\{` and `\}` are
/// characters, not braces. An unclosed `\boxed{` at the end (a completion cut off) is passed over.
pub fn last(text: &str) -> Option<&str> {
    const PLAIN: u32 = u32::MAX;
    let bytes = text.as_bytes();
    // For each open brace: where the content of the box that it opens starts, or PLAIN.
    let mut open: Vec<u32> = Vec::new();
    let mut last: Option<(usize, usize)> = None;
    let mut boxed_before = false;
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' if bytes[i..].starts_with(b"\\boxed") => {
                i += b"\\boxed".len();
                // `\boxedtext` is another command.
                boxed_before = !bytes.get(i).is_some_and(u8::is_ascii_alphabetic);
                continue;
            }
            b'\\' => {
                boxed_before = false;
                // `\{` is a character and `\\` a line break, but some models write `\\boxed`.
                i += if bytes[i + 1..].starts_with(b"\\boxed") { 1 } else { 2 };
                continue;
            }
            b'{' => {
                open.push(if boxed_before { u32::try_from(i + 1).unwrap_or(PLAIN) } else { PLAIN });
                boxed_before = false;
            }
            b'}' => {
                if let Some(start) = open.pop().filter(|&start| start != PLAIN) {
                    let start = start as usize;
                    last = last.max(Some((start, i)));
                }
                boxed_before = false;
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => boxed_before = false,
        }
        i += 1;
    }
    last.and_then(|(start, end)| text.get(start..end))
}

#[cfg(test)]
mod tests {
    use super::last;

    #[test]
    fn the_last_complete_box_with_balanced_braces() {
        let cases = [
            (r"so \boxed{18}.", Some("18")),
            (r"\boxed{1} and then \boxed{2}", Some("2")),
            (r"\boxed{\frac{1}{2}}", Some(r"\frac{1}{2}")),
            (r"\boxed {7}", Some("7")),
            (r"\boxed{\boxed{5}}", Some("5")),
            (r"\boxed{\{1, 2\}}", Some(r"\{1, 2\}")),
            (r"\boxed{a \boxed{b} c}", Some("b")),
            (r"\boxed{3} wait, \boxed{4", Some("3")),
            (r"} stray \boxed{6} {", Some("6")),
            (r"{{ \boxed{6}", Some("6")),
            (r"\boxed{}", Some("")),
            (r"\boxed{é½}", Some("é½")),
            (r"\boxedtext{1}", None),
            (r"\boxed 5", None),
            (r"x \\boxed{5}", Some("5")),
            (r"x \\\boxed{5}", Some("5")),
            (r"\\boxed", None),
            (r"\boxed{", None),
            (r"boxed{5}", None),
            ("\\", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(last(text), expected, "{text}");
        }
    }

    #[test]
    fn a_megabyte_of_unclosed_boxes_ends_in_nothing() {
        assert_eq!(last(&r"\boxed{".repeat(150_000)), None);
        assert_eq!(last(&"{".repeat(1 << 20)), None);
    }
}
