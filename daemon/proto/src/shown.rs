//! Text of users, models and plugins on its way into an error or a log: cut to a limit, and without
//! anything that moves a terminal's cursor.
//!
//! A key of a job file may have a megabyte, a plugin's message may hold an escape sequence, and
//! both end up in an error's text. An error quotes with [`quote`]; where it leaves the process,
//! [`line`] comes last.

/// Most bytes of a quoted piece: a key, a value, a name.
pub const QUOTE_MAX_BYTES: usize = 200;
/// Most bytes of a whole error or warning.
pub const LINE_MAX_BYTES: usize = 4 << 10;

/// Makes a piece of outside text safe to quote in an error: one line of at most
/// [`QUOTE_MAX_BYTES`].
pub fn quote(text: &str) -> String {
    shown(text, QUOTE_MAX_BYTES, false)
}

/// Makes an error or a warning safe to show: one line of at most [`LINE_MAX_BYTES`].
pub fn line(text: &str) -> String {
    shown(text, LINE_MAX_BYTES, false)
}

/// Makes a text of our own safe to show like [`line`], but keeps its line breaks.
pub fn lines(text: &str) -> String {
    shown(text, LINE_MAX_BYTES, true)
}

/// Formats a number without hundreds of zeros before or behind its digits.
pub fn number(number: f64) -> String {
    let is_long = number.is_finite() && number != 0.0 && !(1e-5..1e15).contains(&number.abs());
    if is_long {
        format!("{number:e}")
    } else {
        number.to_string()
    }
}

/// Whether a terminal would do something else with the character than show it: control characters,
/// and those that turn the direction of text or end a line.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Escapes and cuts a text; the number of bytes that were cut off stands at its end.
fn shown(text: &str, bytes_max: usize, keeps_lines: bool) -> String {
    let mut shown = String::new();
    for (at, c) in text.char_indices() {
        let before = shown.len();
        match c {
            '\n' if keeps_lines => shown.push('\n'),
            '\t' => shown.push(' '),
            c if is_unsafe(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
        if shown.len() > bytes_max {
            shown.truncate(before);
            shown.push_str(&format!("… ({} bytes more)", text.len() - at));
            break;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_move_a_cursor_is_an_escape() {
        assert_eq!(
            line("a\x1b[2J\r\n\u{9b}b\u{202e}c\td"),
            "a\\u{1b}[2J\\r\\n\\u{9b}b\\u{202e}c d"
        );
        assert_eq!(lines("one\ntwo\x07"), "one\ntwo\\u{7}");
        assert_eq!(quote("δ 三 ✓"), "δ 三 ✓");
    }

    #[test]
    fn a_number_takes_few_characters() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (-1e30, "-1e30"),
            (1e308, "1e308"),
            (5e-324, "5e-324"),
            (1e14, "100000000000000"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(
            (number(f64::NAN), number(f64::NEG_INFINITY)),
            ("NaN".into(), "-inf".into())
        );
    }

    #[test]
    fn a_megabyte_is_cut_at_a_character_and_told_by_its_size() {
        for text in [
            "三".repeat(1 << 20),
            "\x1b".repeat(1 << 20),
            "x".repeat(1 << 20),
        ] {
            let (quoted, whole) = (quote(&text), line(&text));
            assert!(
                quoted.len() < QUOTE_MAX_BYTES + 40 && whole.len() < LINE_MAX_BYTES + 40,
                "{quoted}"
            );
            assert!(quoted.ends_with(" bytes more)"), "{quoted}");
        }
        let limit = "x".repeat(QUOTE_MAX_BYTES);
        assert_eq!(quote(&limit), limit);
    }
}
