//! `[retention]` of r1d.toml, kept by a controller whose node is the test: when it looks.

use r1d_controller::{Controller, ControllerSetup};
use r1d_job::DaemonConfig;
use r1d_ledger::{Command, Memory, NewJob, Session};
use r1d_link::{Answer, NodeEnd, Order, Report, Work, WorkId, in_memory};
use r1d_proto::ids::JobId;
use r1d_proto::world::SystemClock;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for an order.
const ORDER_MAX: Duration = Duration::from_secs(20);

struct World {
    ledger: Arc<Session>,
    node: NodeEnd,
    _controller: Controller,
}

impl World {
    /// At most one job that has ended is kept.
    fn new() -> World {
        let (link, node) = in_memory();
        let ledger = Arc::new(Session::open(Arc::new(Memory::default()), 1));
        let mut retention = DaemonConfig::dev().unwrap().retention;
        retention.jobs_max = 1;
        let setup = ControllerSetup {
            ledger: ledger.clone(),
            clock: SystemClock::shared(),
            node_name: "node".into(),
            devices: vec!["cpu".into()],
            state_dir: "/s".into(),
            retention,
            admin_group: "r1d-admin".into(),
            shutdown: None,
        };
        World {
            ledger,
            node,
            _controller: Controller::start(setup, link),
        }
    }

    fn end(&self, job: &str) {
        let job = JobId(job.into());
        let submit = Command::Submit(NewJob::of(job.clone(), "seed = 1"));
        self.ledger.apply(submit).unwrap();
        self.ledger.apply(Command::Cancel { job, at: 2 }).unwrap();
    }

    fn answer(&self, id: WorkId, answer: Answer) {
        let answer = Box::new(Ok(answer));
        self.node.reports.send(Report::Answer { id, answer });
    }

    async fn work(&self) -> Option<(WorkId, Work)> {
        loop {
            let order = tokio::time::timeout(ORDER_MAX, self.node.orders.next());
            match order.await.ok()? {
                Order::Work { id, work } => return Some((id, *work)),
                _ => continue,
            }
        }
    }

    /// Waits for a look, which first waits for what is left of jobs. Returns their number, and the
    /// work that the look goes on with.
    async fn look(&self) -> (usize, WorkId) {
        let Some((id, Work::PutDown { jobs })) = self.work().await else {
            panic!("a look")
        };
        self.answer(id, Answer::Done);
        match self.work().await {
            Some((id, Work::RemovalFacts { .. })) => (jobs.len(), id),
            other => panic!("facts are asked for: {other:?}"),
        }
    }
}

/// Nobody waits ten minutes for room: each end, and each removal, has the limits looked at. What
/// ends during a look shares the next one.
#[actix::test]
async fn limits_are_looked_at_when_a_job_has_ended_or_is_gone() {
    let world = World::new();
    let (ended, look) = world.look().await;
    assert_eq!(ended, 0);
    ["a", "b", "c"].into_iter().for_each(|job| world.end(job));
    world.answer(look, Answer::Facts(Vec::new()));
    let (ended, look) = world.look().await;
    assert_eq!(ended, 3, "one look for all of them");
    world.answer(look, Answer::Facts(Vec::new()));

    let (job, elsewhere) = (JobId("b".into()), Default::default());
    world
        .ledger
        .apply(Command::Remove { job, elsewhere })
        .unwrap();
    let (ended, _) = world.look().await;
    assert_eq!(ended, 2);
}
