//! `\boxed{…}`: where mathematical answers stand.

mod around;

use std::borrow::Cow;

/// The answer that a text's boxes give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boxed<'a> {
    /// The text has no box.
    Absent,
    /// The last box never closes: a completion was cut off in its answer, and no earlier box is the
    /// answer.
    CutOff,
    /// The text takes the last box back: `not \boxed{5}`, `\boxed{5} is wrong`.
    TakenBack,
    /// The content of the last box, or of the list that it ends, with the signs around it.
    Answer(Cow<'a, str>),
}

/// The place of a complete box in a text, in bytes.
#[derive(Clone, Copy)]
struct Place {
    command: usize,
    start: usize,
    end: usize,
}

/// Boxes that one list may be written in.
const LIST_MAX: usize = 16;

/// The content of the last `\boxed{…}`, braces balanced; the innermost of nested ones. `None` if
/// there is no box, or if the last one never closes.
///
/// One pass over the text whatever it holds, so a megabyte of `\boxed{\boxed{…` costs no more than
/// prose. `\{` and `\}` are characters, not braces.
pub fn last(text: &str) -> Option<&str> {
    let (places, cut_off) = places(text);
    let place = places
        .iter()
        .max_by_key(|place| place.start)
        .filter(|_| !cut_off)?;
    text.get(place.start..place.end)
}

/// The last box, with the boxes before it that only commas, semicolons, `and` or `or` part from it:
/// `\boxed{3}, \boxed{5}` is `3, 5`. Names may stand before each of them: `x = \boxed{3} and y =
/// \boxed{5}` is `x = 3 and y = 5`. Signs right around a box belong to it: `-\boxed{12}` is `-12`
/// ([`around`]).
pub fn answer(text: &str) -> Boxed<'_> {
    let (places, cut_off) = places(text);
    let last = match places.iter().max_by_key(|place| place.start) {
        _ if cut_off => return Boxed::CutOff,
        None => return Boxed::Absent,
        Some(last) => *last,
    };
    if around::is_taken_back(outside(text, last)) {
        return Boxed::TakenBack;
    }
    let content = |place: Place| {
        around::signed(
            text.get(place.start..place.end).unwrap_or_default(),
            outside(text, place),
        )
    };
    let alone = |place: Place| content(place).map_or(Boxed::TakenBack, Boxed::Answer);
    // From the last to the first: each with what joins it to the one before it.
    let mut list = vec![(last, None)];
    while list.len() < LIST_MAX
        && let Some((next, _)) = list.last()
        && let Some(before) = places
            .iter()
            .filter(|place| place.start < next.start)
            .max_by_key(|place| place.start)
        && let Some(join) = text.get(before.end + 1..next.command).and_then(Join::read)
    {
        list.push((*before, Some(join)));
    }
    let Some((first, _)) = list.last().filter(|_| list.len() > 1).copied() else {
        return alone(last);
    };
    let mut joined = String::new();
    let named = list
        .iter()
        .any(|(_, join)| join.is_some_and(|join| join.name.is_some()));
    if named {
        match text.get(..first.command).and_then(name_before) {
            Some(name) => joined.push_str(&format!("{name} = ")),
            // `a, y = b`: what is a?
            None => return alone(last),
        }
    }
    for (place, join) in list.iter().rev() {
        let Some(content) = content(*place) else {
            return Boxed::TakenBack;
        };
        joined.push_str(&content);
        if let Some(Join { word, name }) = join {
            joined.push_str(word);
            joined.push_str(&name.map(|name| format!("{name} = ")).unwrap_or_default());
        }
    }
    Boxed::Answer(Cow::Owned(joined))
}

/// What stands before and behind a box, as far as it may say something of it.
fn outside(text: &str, place: Place) -> (&str, &str) {
    const BYTES_MAX: usize = 120;
    let (before, after) = (
        text.get(..place.command).unwrap_or_default(),
        text.get(place.end + 1..).unwrap_or_default(),
    );
    let near = before.ceil_char_boundary(before.len().saturating_sub(BYTES_MAX));
    let far = after.floor_char_boundary(BYTES_MAX);
    (
        before.get(near..).unwrap_or_default(),
        after.get(..far).unwrap_or_default(),
    )
}

/// What joins two boxes to one list.
#[derive(Clone, Copy)]
struct Join<'a> {
    word: &'static str,
    /// The name of the second box: `y` in `, y = `.
    name: Option<&'a str>,
}

impl<'a> Join<'a> {
    /// Reads `, `, `$ and $` or `, y = `; `None` for anything else.
    fn read(between: &'a str) -> Option<Join<'a>> {
        const BYTES_MAX: usize = 48;
        if between.len() > BYTES_MAX {
            return None;
        }
        let (between, name) = match named(between) {
            Some((before, name)) => (before, Some(name)),
            None => (between, None),
        };
        let mut word = None;
        let mut rest = between;
        while let Some(c) = rest.chars().next() {
            const SPACES: [&str; 10] = [
                "\\text{", "\\quad", "\\,", "\\;", "\\ ", "\\)", "\\(", "$", "**", "}",
            ];
            const WORDS: [(&str, &str); 9] = [
                ("and", " and "),
                ("or", " or "),
                ("和", " and "),
                ("与", " and "),
                ("及", " and "),
                ("或", " or "),
                (",", ", "),
                ("，", ", "),
                ("、", ", "),
            ];
            let spaced = c.is_whitespace().then_some(c.len_utf8());
            if let Some(length) = spaced.or_else(|| {
                SPACES
                    .iter()
                    .find(|space| rest.starts_with(**space))
                    .map(|space| space.len())
            }) {
                rest = rest.get(length..)?;
            } else if let Some((written, meant)) =
                WORDS.iter().find(|(written, _)| rest.starts_with(written))
            {
                // `, and` is `and`.
                if word.is_some_and(|word| word != ", ") {
                    return None;
                }
                word = Some(*meant);
                rest = rest.get(written.len()..)?;
            } else if c == ';' && word.is_none() {
                word = Some("; ");
                rest = rest.get(1..)?;
            } else {
                return None;
            }
        }
        word.map(|word| Join { word, name })
    }
}

/// A name and `=` at the end of a text, and what stands before: `, y = ` → `, ` and `y`.
fn named(text: &str) -> Option<(&str, &str)> {
    let before = text.trim_end().strip_suffix('=')?.trim_end();
    let index = |name: &str| {
        name.strip_suffix('}')
            .and_then(|name| name.rsplit_once("_{"))
            .map(|(stem, _)| stem.len())
    };
    let stem = index(before).or_else(|| {
        let digits = before.trim_end_matches(|c: char| c.is_ascii_digit());
        digits
            .strip_suffix('_')
            .filter(|_| digits.len() < before.len())
            .map(str::len)
    });
    let start = stem.unwrap_or(before.len()).checked_sub(1)?;
    let (lead, name) = (before.get(..start)?, before.get(start..)?);
    let letter = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && !lead.ends_with(|c: char| c.is_alphanumeric() || c == '\\');
    letter.then_some((lead, name))
}

fn name_before(text: &str) -> Option<&str> {
    named(text.trim_end().trim_end_matches('$')).map(|(_, name)| name)
}

/// The complete boxes, in the order in which they close, and whether a later box never closes.
fn places(text: &str) -> (Vec<Place>, bool) {
    let bytes = text.as_bytes();
    // For each open brace: the box that it opens, if it opens one.
    let mut open: Vec<Option<Place>> = Vec::new();
    let mut found: Vec<Place> = Vec::new();
    let mut command = None;
    let mut i = 0;
    while let Some(byte) = bytes.get(i) {
        match byte {
            b'\\' if bytes[i..].starts_with(b"\\boxed") => {
                let at = i;
                i += b"\\boxed".len();
                // `\boxedtext` is another command.
                command = Some(at).filter(|_| !bytes.get(i).is_some_and(u8::is_ascii_alphabetic));
                continue;
            }
            b'\\' => {
                command = None;
                // `\{` is a character and `\\` a line break, but some models write `\\boxed`.
                i += if bytes[i + 1..].starts_with(b"\\boxed") {
                    1
                } else {
                    2
                };
                continue;
            }
            b'{' => open.push(command.take().map(|command| Place {
                command,
                start: i + 1,
                end: i + 1,
            })),
            b'}' => {
                if let Some(place) = open.pop().flatten() {
                    found.push(Place { end: i, ..place });
                }
                command = None;
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => command = None,
        }
        i += 1;
    }
    let last = found.iter().map(|place| place.start).max().unwrap_or(0);
    // `\boxed` at the text's end has lost its brace.
    let cut_off = command.is_some() || open.iter().flatten().any(|place| place.start > last);
    (found, cut_off)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (r"\boxed{3} wait, \boxed{4", None),
            (r"\boxed{3} wait, \boxed", None),
            (r"I write \boxed{ here: \boxed{4}", Some("4")),
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

    #[test]
    fn boxes_that_a_comma_joins_are_a_list() {
        let cases = [
            (r"$\boxed{3}$, $\boxed{5}$, $\boxed{7}$", "3, 5, 7"),
            (r"\boxed{3}, \boxed{5}, and \boxed{7}", "3, 5 and 7"),
            (r"\boxed{3} or \boxed{5}", "3 or 5"),
            (r"x = \boxed{3}, y = \boxed{5}", "x = 3, y = 5"),
            (
                r"$x_1=\boxed{3}$ and $x_{2}=\boxed{5}$",
                "x_1 = 3 and x_{2} = 5",
            ),
            (r"\boxed{3}和\boxed{5}", "3 and 5"),
            // Drafts, and a box that another sentence has.
            (r"\boxed{3} \boxed{4}", "4"),
            (r"\boxed{3}, or rather \boxed{4}", "4"),
            (r"\boxed{3}. So \boxed{5}", "5"),
            (r"\boxed{3}, y = \boxed{5}", "5"),
            (r"\boxed{\boxed{5}}", "5"),
        ];
        for (text, expected) in cases {
            assert_eq!(answer(text), Boxed::Answer(expected.into()), "{text}");
        }
        assert_eq!(answer("3"), Boxed::Absent);
        assert_eq!(answer(r"\boxed{3}, \boxed{5"), Boxed::CutOff);
    }
}
