//! `r1ctl trace`.

use r1d_proto::trace::StepTrace;

/// Formats a trace as a file for trace viewers.
pub(crate) fn trace(trace: &StepTrace) -> String {
    format!("{:#}\n", trace.to_chrome())
}
