//! The live display of a terminal: a line for the job, one for each stage, the metrics, the present
//! activity.

use crate::format::{duration, thousands, watched_metrics};
use crate::show;
use crate::terminal::{Look, one_line};
use crate::watch::events::eval_line;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use r1d_proto::control::job::{JobStatus, StageStatus, State};
use r1d_proto::world::SharedClock;
use std::cell::RefCell;
use std::time::Duration;

const TICK_MS: u64 = 120;
const BAR_COLUMNS: usize = 24;

pub(super) struct Live {
    look: Look,
    clock: SharedClock,
    screen: MultiProgress,
    /// A spinner beside the job's name, which turns as long as the client runs.
    head: ProgressBar,
    lines: RefCell<Vec<ProgressBar>>,
}

impl Live {
    pub(super) fn new(look: Look, clock: SharedClock) -> Live {
        let screen = MultiProgress::new();
        let head = screen.add(ProgressBar::new_spinner().with_style(style(if look.colour {
            "{spinner:.cyan} {wide_msg}"
        } else {
            "{spinner} {wide_msg}"
        })));
        head.enable_steady_tick(Duration::from_millis(TICK_MS));
        Live {
            look,
            clock,
            screen,
            head,
            lines: RefCell::new(Vec::new()),
        }
    }

    pub(super) fn show(&self, last: Option<&JobStatus>, now: &JobStatus) {
        for eval in now
            .evals
            .iter()
            .skip(last.map_or(0, |last| last.evals.len()))
        {
            // A display that cannot be drawn is no reason to leave the job.
            let _ = self.screen.println(self.look.green(&eval_line(eval)));
        }
        let until = now.ended_at.unwrap_or_else(|| self.clock.unix().as_secs());
        let elapsed = now.started_at.map(|at| until.saturating_sub(at) as f64);
        self.head.set_message(head(now, elapsed, self.look));
        let texts = body(now, self.look);
        let mut lines = self.lines.borrow_mut();
        while lines.len() < texts.len() {
            lines.push(
                self.screen
                    .add(ProgressBar::new_spinner().with_style(style("  {wide_msg}"))),
            );
        }
        for (line, text) in lines
            .iter()
            .zip(texts.into_iter().map(Some).chain(std::iter::repeat(None)))
        {
            line.set_message(text.unwrap_or_default());
        }
    }

    pub(super) fn away(&self, text: &str) {
        self.head.set_message(self.look.yellow(text));
    }

    /// Removes the display from the screen, before the summary is printed.
    pub(super) fn close(&self) {
        self.head.finish_and_clear();
        for line in self.lines.borrow().iter() {
            line.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn head(job: &JobStatus, elapsed_s: Option<f64>, look: Look) -> String {
    let mut parts = vec![
        format!(
            "{} {}",
            look.bold(&one_line(&job.name)),
            look.dim(&job.job.0)
        ),
        look.standing(job.state, job.pausing),
    ];
    parts.extend(
        job.queue_position
            .map(|place| format!("place {place} in the queue")),
    );
    parts.extend(elapsed_s.map(duration));
    parts.extend(job.eta_s.map(|eta| format!("ETA {}", duration(eta))));
    if job.restarts > 0 {
        parts.push(look.yellow(&format!("restarts {}", job.restarts)));
    }
    parts.join("  ")
}

fn body(job: &JobStatus, look: Look) -> Vec<String> {
    let names = job
        .stages
        .iter()
        .map(|stage| stage.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut lines: Vec<String> = job
        .stages
        .iter()
        .map(|stage| stage_line(stage, names, look))
        .collect();
    // The metrics of the stage at work, or between stages those of the one before.
    let latest = job.stages.iter().rfind(|stage| !stage.metrics.is_empty());
    let metrics = latest.map_or_else(Vec::new, |stage| watched_metrics(&stage.metrics));
    let metrics: Vec<String> = metrics
        .iter()
        .map(|(name, value)| format!("{} {value}", look.dim(name)))
        .collect();
    lines.push(metrics.join("  "));
    lines.push(
        job.activity
            .as_ref()
            .map_or_else(String::new, |now| look.dim(&show::activity(now))),
    );
    lines
}

fn stage_line(stage: &StageStatus, names: usize, look: Look) -> String {
    let mark = match stage.state {
        State::Queued => look.dim("·"),
        State::Running => look.cyan("▸"),
        State::Succeeded => look.green("✓"),
        State::Failed => look.red("✗"),
        State::Cancelled => look.yellow("–"),
        State::Paused => look.yellow("‖"),
    };
    let count = format!("{}/{}", thousands(stage.step), thousands(stage.steps));
    let time = match &stage.reused_from {
        Some(job) => look.dim(&format!("reused from {}", one_line(&job.0))),
        None if stage.seconds > 0.0 => look.dim(&duration(stage.seconds)),
        None => String::new(),
    };
    format!(
        "{mark} {:names$} {} {count:>11}  {time}",
        one_line(&stage.name),
        bar(stage.step, stage.steps, look)
    )
}

fn bar(done: u64, total: u64, look: Look) -> String {
    let share = if total == 0 {
        0.0
    } else {
        (done as f64 / total as f64).clamp(0.0, 1.0)
    };
    let full = (share * BAR_COLUMNS as f64) as usize;
    look.cyan(&"━".repeat(full)) + &look.dim(&"─".repeat(BAR_COLUMNS - full))
}
