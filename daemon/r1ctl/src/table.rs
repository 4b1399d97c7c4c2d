//! Tables: framed and fitted to a terminal, or aligned columns without a frame when piped.

use crate::terminal::Look;
use tabled::builder::Builder;
use tabled::settings::object::{Columns, Rows};
use tabled::settings::peaker::Priority;
use tabled::settings::{Alignment, Modify, Padding, Style, Width};

pub(crate) struct Column {
    head: &'static str,
    right: bool,
}

pub(crate) const fn left(head: &'static str) -> Column {
    Column { head, right: false }
}

/// A right-aligned column, for numbers.
pub(crate) const fn right(head: &'static str) -> Column {
    Column { head, right: true }
}

/// Formats a table; every line ends with a line break. Each row has as many cells as there are
/// `columns`.
pub(crate) fn table(look: Look, columns: &[Column], rows: Vec<Vec<String>>) -> String {
    let alignments: Vec<bool> = columns.iter().map(|c| c.right).collect();
    let heads: Vec<String> = columns.iter().map(|c| c.head.to_owned()).collect();
    headed(look, &heads, &alignments, rows)
}

/// Formats a [`table`] whose heads are known at run time only; `right[i]` aligns column i to the
/// right.
pub(crate) fn headed(
    look: Look,
    heads: &[String],
    right: &[bool],
    rows: Vec<Vec<String>>,
) -> String {
    let mut builder = Builder::default();
    builder.push_record(heads.iter().map(|head| look.bold(head)));
    for row in rows {
        builder.push_record(row);
    }
    let mut table = builder.build();
    match look.width {
        Some(width) => {
            table.with(Style::rounded());
            table.with(
                Width::wrap(width)
                    .priority(Priority::max(true))
                    .keep_words(true),
            );
        }
        None => {
            table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
        }
    }
    for (i, _) in right.iter().enumerate().filter(|(_, right)| **right) {
        table.with(Modify::new(Columns::one(i)).with(Alignment::right()));
    }
    table.with(Modify::new(Rows::first()).with(Alignment::left()));
    table
        .to_string()
        .lines()
        .fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// Formats two texts side by side under their heads, each wrapped to half of the terminal; one
/// above the other when piped.
pub(crate) fn side_by_side(look: Look, heads: [&str; 2], texts: [&str; 2]) -> String {
    let Some(width) = look.width else {
        return format!("{}:\n{}\n{}:\n{}\n", heads[0], texts[0], heads[1], texts[1]);
    };
    let mut builder = Builder::default();
    builder.push_record(heads.map(|head| look.bold(head)));
    builder.push_record(texts);
    let mut table = builder.build();
    // The frame around the two columns has 3 bars and 4 spaces.
    let half = width.saturating_sub(7) / 2;
    table
        .with(Style::rounded())
        .with(Modify::new(Columns::new(..)).with(Width::wrap(half).keep_words(true)));
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piped_table_is_aligned_columns_with_no_trailing_space() {
        let text = table(
            Look::PLAIN,
            &[left("name"), right("n"), left("note")],
            vec![
                vec!["a".into(), "1".into(), "x".into()],
                vec!["longer".into(), "1000".into(), String::new()],
            ],
        );
        assert_eq!(text, "name    n     note\na          1  x\nlonger  1000\n");
    }

    #[test]
    fn a_table_on_a_terminal_fits_it() {
        let look = Look {
            colour: false,
            width: Some(40),
        };
        let text = table(
            look,
            &[left("name"), left("text")],
            vec![vec!["a".into(), "many words that go on and on ".repeat(4)]],
        );
        for line in text.lines() {
            assert!(line.chars().count() <= 40, "{line}");
        }
        assert!(text.starts_with('╭'), "{text}");
        let text = side_by_side(
            look,
            ["before", "after"],
            ["x".repeat(70).as_str(), "short"],
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 40),
            "{text}"
        );
        assert_eq!(text.matches('x').count(), 70);
    }
}
