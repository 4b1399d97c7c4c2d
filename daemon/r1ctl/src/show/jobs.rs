//! `r1ctl list`, `r1ctl logs`.

use crate::format::{minute_of_s, thousands, time_of_ms};
use crate::table::{left, right, table};
use crate::terminal::{Look, one_line, printable};
use r1d_proto::control::content::LogLine;
use r1d_proto::control::job::JobSummary;

pub(crate) fn jobs(jobs: &[JobSummary], look: Look) -> String {
    let columns = [
        left("JOB"),
        left("NAME"),
        left("OWNER"),
        left("STATE"),
        right("PRIORITY"),
        left("STAGE"),
        right("STEP"),
        left("SUBMITTED"),
    ];
    let row = |job: &JobSummary| {
        vec![
            job.job.to_string(),
            one_line(&job.name),
            job.owner.as_deref().map_or_else(|| "-".into(), one_line),
            look.standing(job.state, job.pausing),
            job.priority.to_string(),
            job.stage.as_deref().map_or_else(|| "-".into(), one_line),
            if job.stage.is_some() {
                format!("{}/{}", thousands(job.step), thousands(job.steps))
            } else {
                "-".into()
            },
            minute_of_s(job.submitted_at),
        ]
    };
    table(look, &columns, jobs.iter().map(row).collect())
}

pub(crate) fn log_line(line: &LogLine, look: Look) -> String {
    let level = format!("{:5}", line.level.to_uppercase());
    let level = match line.level.to_ascii_lowercase().as_str() {
        "error" => look.red(&level),
        "warn" => look.yellow(&level),
        "info" => look.green(&level),
        _ => look.dim(&level),
    };
    // The lines of one message stay together under its time.
    let message = printable(line.message.trim_end()).replace('\n', "\n    ");
    format!("{} {level} {message}\n", look.dim(&time_of_ms(line.at_ms)))
}
