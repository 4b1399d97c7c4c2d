//! Takes what the node reports: live status, answers to works, and what the queue decides by.

use crate::jobs::{FromNode, Jobs};
use crate::live_status::LiveStatus;
use crate::node::NodeLink;
use crate::tasks::{self, Supervised};
use r1d_link::{Inbox, Report};
use r1d_runner::schedule::{Problem, ProblemKind};
use tokio::sync::mpsc;

/// Reports that may wait for the queue, which waits for a disk now and then (`LIM-1`). Beyond that,
/// clients wait with them.
const FOR_QUEUE_MAX: usize = 1024;

/// Reads reports as long as the daemon lives.
pub(crate) async fn read(
    reports: Inbox<Report>,
    live_status: LiveStatus,
    node: NodeLink,
    jobs: Supervised<Jobs>,
) {
    let (for_queue, waiting) = mpsc::channel(FOR_QUEUE_MAX);
    tasks::spawn("reports for the queue", hand_on(waiting, jobs));
    loop {
        match reports.next().await {
            Report::Job { job, live } => live_status.show(&job, live.map(|live| *live)),
            Report::Device { device, used } => live_status.uses(device, used),
            Report::Progress { id, at } => node.progressed(id, at),
            Report::Answer { id, answer } => node.answered(id, *answer),
            report => {
                note(&report, &live_status);
                // The other end is closed by a panic alone, which is logged there.
                let _ = for_queue.send(report).await;
            }
        }
    }
}

/// Takes note of what the queue is told as well.
fn note(report: &Report, live_status: &LiveStatus) {
    match report {
        Report::Held(cause) => live_status.hold(cause.clone()),
        Report::Tried { device, problem } => {
            let kind = ProblemKind::Failed;
            let problem = problem.clone().map(|cause| Problem { kind, cause });
            live_status.found(*device, problem);
        }
        _ => {}
    }
}

/// Hands reports on to the queue, in order.
async fn hand_on(mut waiting: mpsc::Receiver<Report>, jobs: Supervised<Jobs>) {
    while let Some(report) = waiting.recv().await {
        // A queue that is being made anew begins with what ledger and live status have.
        let _ = jobs.ask("the queue", FromNode(report)).await;
    }
}
