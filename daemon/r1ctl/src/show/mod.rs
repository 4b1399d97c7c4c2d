//! The daemon's answers as text: pure functions of (answer, look). Text of models, data and logs
//! passes [`printable`](crate::terminal::printable) on its way.

mod datasets;
mod jobs;
mod nodes;
mod plan;
mod removals;
mod samples;
mod status;
mod summary;
mod trace;
mod why;

pub(crate) use datasets::{datasets, reviewed};
pub(crate) use jobs::{jobs, log_line};
pub(crate) use nodes::nodes;
pub(crate) use plan::{plan, resolved};
pub(crate) use removals::{pruned, removed};
pub(crate) use samples::{judged, samples};
pub(crate) use status::{activity, status};
pub(crate) use summary::summary;
pub(crate) use trace::trace;
pub(crate) use why::why;
