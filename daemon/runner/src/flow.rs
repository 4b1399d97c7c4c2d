//! What follows from an event: commands, the end of a step, or the end of an attempt that has no
//! place for it.

use crate::message::{Command, End, Event};
use r1d_proto::rollout::ScoredRollout;
use r1d_proto::worker::Metrics;
use std::fmt::Write;

/// Number of characters of an unexpected event that an error shows.
const EVENT_SHOWN_MAX_CHARS: usize = 120;

/// What follows from an event in a step.
#[derive(Debug)]
pub enum Flow {
    /// The step goes on with these commands.
    Go(Vec<Command>),
    /// The step is done and can be committed; if it trains, the worker's weights hold the update.
    Done {
        /// Metrics of the step, by name.
        metrics: Metrics,
        /// Tokens sampled or trained on.
        tokens: u64,
        /// The step's completions; empty for a step on rows.
        rollouts: Vec<ScoredRollout>,
    },
}

/// The end of an attempt whose state has no place for an event: the attempt is given up, and the
/// next one continues from the record.
pub fn unexpected(state: &str, event: &Event) -> End {
    // The debug format may have gigabytes of completions; only the part that is shown is made.
    let mut beginning = Beginning(String::new());
    let _ = write!(beginning, "{event:?}");
    End::Abandoned {
        cause: format!(
            "an event that nobody waits for in state {state}: {}",
            beginning.0
        ),
    }
}

/// A writer that takes the first characters of a text, and refuses the rest.
struct Beginning(String);

impl Write for Beginning {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = EVENT_SHOWN_MAX_CHARS - self.0.chars().count().min(EVENT_SHOWN_MAX_CHARS);
        self.0.extend(text.chars().take(room));
        if text.chars().nth(room).is_some() {
            Err(std::fmt::Error)
        } else {
            Ok(())
        }
    }
}
