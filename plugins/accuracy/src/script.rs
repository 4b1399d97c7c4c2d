//! Full-width and Chinese signs as their plain ones, so that one set of rules reads both.

use std::borrow::Cow;

/// The text in ASCII's digits, letters and punctuation: `１２，３` → `12,3`, `x＝1 或 x＝2` →
/// `x=1 or x=2`.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let to_rewrite = |c| {
        matches!(c, '\u{2010}'..='\u{2011}' | '\u{3000}'..='\u{303f}')
            || matches!(c, '\u{4e00}'..='\u{9fff}' | '\u{ff01}'..='\u{ff5e}')
    };
    if !text.chars().any(to_rewrite) {
        return Cow::Borrowed(text);
    }
    // Words that have a sign's character in them.
    const WORDS: [(&str, &str); 5] = [
        ("大于或等于", "≥"),
        ("小于或等于", "≤"),
        ("并且", "且"),
        ("而且", "且"),
        ("或者", "或"),
    ];
    let text = WORDS
        .iter()
        .fold(Cow::Borrowed(text), |text, (word, plain)| {
            if text.contains(word) {
                text.replace(word, plain).into()
            } else {
                text
            }
        });
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{ff01}'..='\u{ff5e}' => out.extend(char::from_u32(u32::from(c) - 0xfee0)),
            '\u{2010}' | '\u{2011}' => out.push('-'),
            '、' => out.push(','),
            '。' => out.push('.'),
            '【' => out.push('['),
            '】' => out.push(']'),
            '\u{3000}' => out.push(' '),
            '或' => out.push_str(" or "),
            '和' | '与' | '及' | '且' => out.push_str(" and "),
            other => out.push(other),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn full_width_becomes_plain() {
        for (text, plain) in [
            ("１２。", "12."),
            ("x＝1 或 x＝2", "x=1  or  x=2"),
            ("（－1，２）", "(-1,2)"),
            ("50％", "50%"),
            ("é ½", "é ½"),
        ] {
            assert_eq!(super::plain(text), plain);
        }
    }
}
