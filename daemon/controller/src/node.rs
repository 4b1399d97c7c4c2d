//! The controller's side of the link to its node: orders, and works with what has come of them.

use r1d_link::{Answer, Order, Outbox, Work, WorkId, WorkResult};
use r1d_proto::control::error::{ControlError, ErrorKind};
use r1d_proto::control::job::Activity;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// A node, as the controller knows it. Clones share the link.
#[derive(Clone)]
pub(crate) struct NodeLink(Arc<NodeLinkParts>);

struct NodeLinkParts {
    orders: Outbox<Order>,
    works: Mutex<AskedWorks>,
}

#[derive(Default)]
struct AskedWorks {
    last: WorkId,
    in_hand: HashMap<WorkId, AskedWork>,
}

/// A work that the node has in hand, whether somebody still waits for it or not.
struct AskedWork {
    answer: oneshot::Sender<WorkResult>,
    progress: WorkProgress,
    /// The client's turn, which lasts as long as the work.
    _turn: Box<dyn Send>,
}

/// How far something is that a client waits for.
#[derive(Clone)]
pub(crate) struct WorkProgress(Arc<Mutex<Activity>>);

impl Default for WorkProgress {
    fn default() -> Self {
        let progress = WorkProgress(Arc::new(Mutex::new(Activity {
            doing: String::new(),
            done: 0,
            total: 1,
            unit: "parts".into(),
        })));
        progress.at("waiting for its turn", 0, 1);
        progress
    }
}

impl WorkProgress {
    fn lock(&self) -> MutexGuard<'_, Activity> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is done now.
    pub(crate) fn now(&self) -> Activity {
        self.lock().clone()
    }

    /// Reports what is done now, when `done` of `total` parts are finished.
    pub(crate) fn at(&self, doing: &str, done: usize, total: usize) {
        let mut now = self.lock();
        (now.done, now.total) = (done as u64, total as u64);
        now.doing = doing.into();
    }
}

/// Gives a work up when it is dropped before the answer.
struct Wanted<'n> {
    node: &'n NodeLink,
    id: WorkId,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        if self.node.works().in_hand.contains_key(&self.id) {
            self.node.order(Order::Abandon { id: self.id });
        }
    }
}

impl NodeLink {
    pub(crate) fn new(orders: Outbox<Order>) -> NodeLink {
        NodeLink(Arc::new(NodeLinkParts {
            orders,
            works: Mutex::default(),
        }))
    }

    fn works(&self) -> MutexGuard<'_, AskedWorks> {
        self.0.works.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn order(&self, order: Order) {
        self.0.orders.send(order);
    }

    /// Has the node do a work, and waits for the answer. Whoever drops the wait gives the work up.
    pub(crate) async fn ask(&self, work: Work) -> Result<Answer, ControlError> {
        self.ask_in_turn(work, (), &WorkProgress::default()).await
    }

    /// Does what [`NodeLink::ask`] does, in a client's turn and with reports of the progress.
    pub(crate) async fn ask_in_turn(
        &self,
        work: Work,
        turn: impl Send + 'static,
        progress: &WorkProgress,
    ) -> Result<Answer, ControlError> {
        let (id, answered) = self.begin(work, Box::new(turn), progress.clone());
        let _wanted = Wanted { node: self, id };
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(lost()),
        }
    }

    fn begin(
        &self,
        work: Work,
        turn: Box<dyn Send>,
        progress: WorkProgress,
    ) -> (WorkId, oneshot::Receiver<WorkResult>) {
        let (answer, answered) = oneshot::channel();
        let mut works = self.works();
        works.last += 1;
        let id = works.last;
        let in_hand = AskedWork {
            answer,
            progress,
            _turn: turn,
        };
        works.in_hand.insert(id, in_hand);
        drop(works);
        let work = Box::new(work);
        self.order(Order::Work { id, work });
        (id, answered)
    }

    /// Takes note of a work's progress.
    pub(crate) fn progressed(&self, id: WorkId, at: Activity) {
        if let Some(in_hand) = self.works().in_hand.get(&id) {
            *in_hand.progress.lock() = at;
        }
    }

    /// Hands a work's answer to whoever waits for it.
    pub(crate) fn answered(&self, id: WorkId, answer: WorkResult) {
        let in_hand = self.works().in_hand.remove(&id);
        if let Some(in_hand) = in_hand {
            // Nobody waits any more where the client has left.
            let _ = in_hand.answer.send(answer);
        }
    }
}

fn lost() -> ControlError {
    ControlError::new(
        ErrorKind::Internal,
        "the daemon does not wait for the node's answer any more: a bug, see its log",
    )
}

/// The error of an answer to something else than what was asked.
pub(crate) fn unexpected(answer: &Answer) -> ControlError {
    let what = format!("the node answers something else: {answer:?}");
    ControlError::new(ErrorKind::Internal, what)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Controller;
    use futures_util::FutureExt;
    use r1d_link::{NodeEnd, Report, in_memory};

    pub(crate) fn answer(there: &NodeEnd, id: WorkId, answer: Answer) {
        let answer = Box::new(Ok(answer));
        there.reports.send(Report::Answer { id, answer });
    }

    /// Works go on where the node has lost its runs by a panic.
    #[actix::test]
    async fn a_work_is_answered_whatever_becomes_of_the_runs() {
        let (controller, there) = Controller::of_test();
        let node = &controller.service.views.node;
        let answers = async {
            loop {
                if let Order::Work { id, .. } = there.orders.next().await {
                    there.reports.send(Report::Restarted);
                    return answer(&there, id, Answer::Whether(true));
                }
            }
        };
        let (answer, ()) = tokio::join!(node.ask(Work::Plugins), answers);
        assert!(matches!(answer, Ok(Answer::Whether(true))));
    }

    /// A client that leaves ends its work, and its turn lasts until the node has ended it.
    #[actix::test]
    async fn a_work_that_nobody_waits_for_is_given_up() {
        let (controller, there) = in_memory();
        let node = NodeLink::new(controller.orders);
        let mut asked = Box::pin(node.ask(Work::Plugins));
        assert!((&mut asked).now_or_never().is_none());
        let Order::Work { id, .. } = there.orders.next().await else {
            panic!("a work")
        };
        drop(asked);
        let Some(Order::Abandon { id: given_up }) = there.orders.next().now_or_never() else {
            panic!("it is given up")
        };
        assert_eq!((given_up, node.works().in_hand.len()), (id, 1));
        node.answered(id, Ok(Answer::Done));
        assert_eq!(node.works().in_hand.len(), 0);

        let asked = node.ask(Work::Plugins);
        let answers = async {
            let Order::Work { id, .. } = there.orders.next().await else {
                panic!("a work")
            };
            node.answered(id, Ok(Answer::Whether(true)));
        };
        let (answer, ()) = tokio::join!(asked, answers);
        assert!(matches!(answer, Ok(Answer::Whether(true))));
        assert!(
            there.orders.next().now_or_never().is_none(),
            "a work that is answered is not given up"
        );
    }
}
