//! `r1ctl dataset`: the data sets that stages have made.

use crate::format::{percent, thousands};
use crate::table::{left, right, table};
use crate::terminal::{Look, one_line};
use r1d_proto::control::content::{MadeDataSet, Review};

pub(crate) fn datasets(sets: &[MadeDataSet], look: Look) -> String {
    let columns = [
        left("DATA SET"),
        right("ROWS"),
        right("MADE"),
        right("SAMPLED"),
        right("ACCEPTED"),
        left("REVIEW"),
        left("SHA-256"),
    ];
    let row = |set: &MadeDataSet| {
        vec![
            one_line(&set.stage),
            thousands(set.rows),
            thousands(set.rows_made),
            thousands(set.sampled),
            percent(set.acceptance_rate),
            review(set.review, look),
            set.sha256.chars().take(12).collect(),
        ]
    };
    table(look, &columns, sets.iter().map(row).collect())
}

fn review(review: Review, look: Look) -> String {
    match review {
        Review::NotAsked => "-".into(),
        Review::Waiting => look.yellow("waiting"),
        Review::Accepted => "accepted".into(),
        Review::Imported => "imported".into(),
    }
}

/// The result of a review.
pub(crate) fn reviewed(set: &MadeDataSet) -> String {
    let stage = one_line(&set.stage);
    match set.review {
        Review::Imported => {
            format!(
                "{stage}: {} rows take the place of the {} that were made\n",
                thousands(set.rows),
                thousands(set.rows_made)
            )
        }
        _ => format!("{stage}: its {} rows are accepted\n", thousands(set.rows)),
    }
}
