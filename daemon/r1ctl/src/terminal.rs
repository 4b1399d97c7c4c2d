//! Properties of the terminal, and what follows from them: colours, widths, which text may be
//! printed raw.

use crate::cli::Global;
use owo_colors::{OwoColorize, Style};
use r1d_proto::control::job::State;
use r1d_proto::shown;
use std::io::IsTerminal;
use terminal_size::{Height, Width, terminal_size_of};

/// Columns, if the terminal does not report its width.
const WIDTH_DEFAULT: usize = 100;
/// Fewest columns that tables are wrapped to: in fewer they cannot be read, so they run over the
/// edge.
const WIDTH_MIN: usize = 40;

/// How text is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub colour: bool,
    /// Columns of the terminal; `None` when piped: no frames, and nothing is wrapped.
    pub width: Option<usize>,
}

impl Look {
    #[cfg(test)]
    pub(crate) const PLAIN: Look = Look {
        colour: false,
        width: None,
    };

    pub(crate) fn of_stdout(global: &Global) -> Look {
        let stdout = std::io::stdout();
        Look::of(stdout.is_terminal(), terminal_size_of(&stdout), global)
    }

    pub(crate) fn of_stderr(global: &Global) -> Look {
        let stderr = std::io::stderr();
        Look::of(stderr.is_terminal(), terminal_size_of(&stderr), global)
    }

    /// The look of a stream; a dumb terminal is written to like a pipe.
    fn of(terminal: bool, size: Option<(Width, Height)>, global: &Global) -> Look {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let terminal = terminal && variable("TERM").is_none_or(|term| term != "dumb");
        let columns = size.map_or(WIDTH_DEFAULT, |(Width(columns), _)| {
            usize::from(columns).max(WIDTH_MIN)
        });
        Look {
            colour: terminal && !global.no_color && variable("NO_COLOR").is_none(),
            width: terminal.then_some(columns),
        }
    }

    fn paint(self, style: Style, text: &str) -> String {
        if self.colour {
            text.style(style).to_string()
        } else {
            text.to_owned()
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint(Style::new().dimmed(), text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint(Style::new().red().bold(), text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint(Style::new().green(), text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint(Style::new().yellow(), text)
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.paint(Style::new().cyan(), text)
    }

    /// The state of a job, also while it is pausing.
    pub(crate) fn standing(self, state: State, pausing: bool) -> String {
        if pausing {
            self.yellow("pausing")
        } else {
            self.state(state)
        }
    }

    /// The state of a job or stage, in its colour.
    pub(crate) fn state(self, state: State) -> String {
        let name = state.name();
        match state {
            State::Queued => self.dim(name),
            State::Running => self.cyan(name),
            State::Succeeded => self.green(name),
            State::Failed => self.red(name),
            State::Cancelled | State::Paused => self.yellow(name),
        }
    }
}

/// Makes text of a model, a data set or a log safe to print: control characters, which could move
/// the cursor or change the window's title, are shown as escapes. Line ends stay.
pub(crate) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => safe.push('\n'),
            '\t' => safe.push_str("    "),
            c if shown::is_unsafe(c) => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe
}

/// Makes text [`printable`] on one line.
pub(crate) fn one_line(text: &str) -> String {
    printable(&text.replace("\r\n", "\n").replace('\n', "⏎"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_writes_cannot_move_the_cursor() {
        assert_eq!(
            printable("a\x1b[2Jb\r\u{9b}c\nd\te"),
            "a\\u{1b}[2Jb\\r\\u{9b}c\nd    e"
        );
        assert_eq!(one_line("a\nb"), "a⏎b");
    }

    #[test]
    fn no_colour_means_no_escape_sequence() {
        for state in State::ALL {
            assert!(!Look::PLAIN.state(state).contains('\x1b'));
            assert!(
                Look {
                    colour: true,
                    width: None
                }
                .state(state)
                .contains('\x1b')
            );
        }
    }
}
