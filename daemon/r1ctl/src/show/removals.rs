//! `r1ctl rm`, `r1ctl prune`.

use crate::format::bytes;
use crate::table::{left, right, table};
use crate::terminal::{Look, one_line, printable};
use r1d_proto::control::removal::{RemovalExtent, Removed, RemovedJob};

/// Formats what went of jobs that were named, a line each.
pub(crate) fn removed(removed: &Removed) -> String {
    let line =
        |job: &RemovedJob| format!("removed {} ({})\n", one_line(&job.job.0), bytes(job.bytes));
    removed.jobs.iter().map(line).collect()
}

/// Formats what goes, or would, and what stays, with the reasons; behind it the sum.
pub(crate) fn pruned(removed: &Removed, look: Look) -> String {
    let goes = if removed.dry_run {
        "WOULD GO"
    } else {
        "REMOVED"
    };
    let columns = [
        left("JOB"),
        left("NAME"),
        left(goes),
        right("SIZE"),
        left("WHY"),
    ];
    let gone = removed.jobs.iter().map(|job| {
        let extent = match job.extent {
            RemovalExtent::Whole => "all",
            RemovalExtent::AllButResults => "all but its results",
        };
        vec![
            one_line(&job.job.0),
            one_line(&job.name),
            extent.into(),
            bytes(job.bytes),
            printable(&job.why),
        ]
    });
    let kept = removed.kept.iter().map(|job| {
        vec![
            one_line(&job.job.0),
            one_line(&job.name),
            look.yellow("nothing"),
            "-".into(),
            printable(&job.why),
        ]
    });
    let sum = removed
        .jobs
        .iter()
        .fold(0u64, |sum, job| sum.saturating_add(job.bytes));
    let jobs = removed.jobs.len();
    let jobs = match jobs {
        1 => "1 job".to_owned(),
        many => format!("{many} jobs"),
    };
    let would = if removed.dry_run {
        "would be freed"
    } else {
        "freed as the files are removed, in the background"
    };
    format!(
        "{}\n{jobs}, {} {would}\n",
        table(look, &columns, gone.chain(kept).collect()),
        bytes(sum)
    )
}
