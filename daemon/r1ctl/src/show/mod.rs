//! The daemon's answers as text: pure functions of (answer, look). What comes from models, data and
//! logs passes [`printable`](crate::terminal::printable) on its way.

mod datasets;
mod jobs;
mod nodes;
mod plan;
mod samples;
mod status;
mod summary;
mod why;

pub use datasets::{datasets, reviewed};
pub use jobs::{jobs, log_line};
pub use nodes::nodes;
pub use plan::plan;
pub use samples::{judged, samples};
pub use status::{activity, status};
pub use summary::summary;
pub use why::why;
