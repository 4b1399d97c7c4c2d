//! `r1ctl why`: the chain of waits.

use crate::format::duration;
use crate::terminal::{Look, one_line, printable};
use r1d_proto::control::why::{Wait, Why};

pub(crate) fn why(why: &Why, look: Look) -> String {
    let state = look.standing(why.state, why.pausing);
    let job = look.bold(&why.job.0);
    if why.state.is_final() {
        let error = why.error.as_ref();
        let error = error.map_or_else(String::new, |error| format!(": {}", printable(error)));
        return format!("job {job} {state}{error}\n");
    }
    let mut text = format!("job {job} is {state}");
    if why.waits.is_empty() {
        return text + " and waits for nothing\n";
    }
    text.push('\n');
    for (depth, wait) in why.waits.iter().enumerate() {
        let branch = if depth == 0 {
            String::new()
        } else {
            format!("{}└ ", "  ".repeat(depth - 1))
        };
        text += &format!("{branch}{}\n", line(wait, look));
    }
    text
}

fn line(wait: &Wait, look: Look) -> String {
    // `deadline_s` counts from the same moment as `since_s`. A wait beyond it is a bug of the
    // daemon, and is shown as one.
    let deadline = match wait.deadline_s {
        Some(deadline) if deadline < wait.since_s => {
            look.red(&format!("over its deadline of {}", duration(deadline)))
        }
        Some(deadline) => look.dim(&format!("at most {}", duration(deadline))),
        None => look.dim("no deadline"),
    };
    format!(
        "{} has waited {}, {deadline}, for {}",
        look.bold(&one_line(&wait.owner)),
        duration(wait.since_s),
        one_line(&wait.waits_for)
    )
}
