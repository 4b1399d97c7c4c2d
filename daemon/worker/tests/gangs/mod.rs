//! Workers as the ranks of a gang, and what the daemon is for them: a rendezvous, and a channel to
//! each.
#![allow(dead_code, reason = "each test binary uses its part")]

use crate::process::*;
use r1d_proto::frame::{Format, read_blocking, write_blocking};
use r1d_proto::rendezvous::RendezvousCall;
use r1d_proto::rollout::Rollout;
use r1d_proto::worker::*;
use r1d_rendezvous::{Served, ToRank};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longest wait for a message; no test reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Gang {
    ranks: Vec<Rank>,
    meeting: Arc<Meeting>,
    requests: u64,
}

/// A worker, and what it said beside its calls on the rendezvous.
struct Rank {
    worker: Worker,
    heard: Receiver<FromWorker>,
    events: Vec<Event>,
    reports: Vec<CheckpointReport>,
}

/// The rendezvous and the channels to all ranks.
struct Meeting {
    served: Mutex<Served>,
    sockets: Vec<Mutex<UnixStream>>,
    /// Whether nobody comes any more: every wait is over at once.
    is_over: AtomicBool,
}

impl Meeting {
    /// Sends a message; a rank that was killed gets none.
    fn send(&self, rank: usize, id: u64, request: WorkerRequest) {
        let mut socket = self.sockets[rank].lock().unwrap();
        for message in (ToWorker { id, request }).messages(usize::MAX) {
            let _ = write_blocking(&mut *socket, Format::Postcard, &message);
        }
    }

    fn call(&self, rank: usize, call: RendezvousCall) {
        let mut served = self.served.lock().unwrap();
        let answers = served.call(rank, call, Duration::ZERO);
        self.answer(answers);
        if self.is_over.load(Ordering::SeqCst) {
            self.answer(served.expired(Duration::MAX));
        }
    }

    fn answer(&self, answers: Vec<ToRank>) {
        for ToRank { rank, answer } in answers {
            self.send(rank, 0, WorkerRequest::Rendezvous(answer));
        }
    }

    /// Reads what a rank says until it is gone.
    fn read(&self, rank: usize, mut socket: UnixStream, heard: &Sender<FromWorker>) {
        while let Ok(message) = read_blocking::<FromWorker>(&mut socket, Format::Postcard) {
            match message.body {
                Body::Rendezvous(call) => self.call(rank, call),
                _ if heard.send(message).is_err() => return,
                _ => {}
            }
        }
    }
}

impl Gang {
    /// Starts the workers of so many ranks.
    pub(crate) fn start(ranks: usize) -> Gang {
        let workers: Vec<Worker> = (0..ranks).map(|_| Worker::start()).collect();
        let socket = |worker: &Worker| worker.socket.try_clone().unwrap();
        let meeting = Arc::new(Meeting {
            served: Mutex::default(),
            sockets: workers.iter().map(|own| Mutex::new(socket(own))).collect(),
            is_over: AtomicBool::new(false),
        });
        let rank = |(rank, worker): (usize, Worker)| {
            let (heard, receiver) = channel();
            let (meeting, socket) = (Arc::clone(&meeting), socket(&worker));
            std::thread::spawn(move || meeting.read(rank, socket, &heard));
            Rank {
                worker,
                heard: receiver,
                events: Vec::new(),
                reports: Vec::new(),
            }
        };
        Gang {
            ranks: workers.into_iter().enumerate().map(rank).collect(),
            meeting,
            requests: 0,
        }
    }

    /// Opens the same stage on all ranks, each in its place.
    pub(crate) fn open(ranks: usize, stage: &WorkerRequest, how: Place) -> Gang {
        let mut gang = Gang::start(ranks);
        let placed = |rank| placed(stage, Place { rank, ..how });
        let opened = gang.ask_each((0..ranks as u32).map(placed).collect());
        for opened in opened {
            assert!(matches!(opened, Ok(Reply::Opened(_))), "{opened:?}");
        }
        gang
    }

    /// Lets every wait at the rendezvous end without what is waited for.
    pub(crate) fn nobody_comes(&self) {
        self.meeting.is_over.store(true, Ordering::SeqCst);
        let mut served = self.meeting.served.lock().unwrap();
        self.meeting.answer(served.expired(Duration::MAX));
    }

    pub(crate) fn kill(&mut self, rank: usize) {
        self.ranks[rank].worker.process.kill().unwrap();
        self.ranks[rank].worker.process.wait().unwrap();
    }

    /// Sends a request to one rank.
    pub(crate) fn send(&mut self, rank: usize, request: WorkerRequest) {
        self.requests += 1;
        self.ranks[rank].events.clear();
        self.meeting.send(rank, self.requests, request);
    }

    /// The answer of a rank to what was sent last.
    pub(crate) fn answer(&mut self, rank: usize) -> Result<Reply, Failure> {
        let own = &mut self.ranks[rank];
        loop {
            let FromWorker { id, body } = own.heard.recv_timeout(PATIENCE).unwrap();
            if let Body::Checkpoint(report) = body {
                own.reports.push(report);
                continue;
            }
            assert_eq!(id, self.requests);
            match body {
                Body::Event(event) => own.events.push(event),
                Body::Done(reply) => return Ok(reply),
                Body::Failed(failure) => return Err(failure),
                Body::Checkpoint(_) | Body::Rendezvous(_) => unreachable!(),
            }
        }
    }

    /// Asks one rank.
    pub(crate) fn ask(&mut self, rank: usize, request: WorkerRequest) -> Result<Reply, Failure> {
        self.send(rank, request);
        self.answer(rank)
    }

    /// Asks each rank its own request, all at once.
    pub(crate) fn ask_each(&mut self, requests: Vec<WorkerRequest>) -> Vec<Result<Reply, Failure>> {
        self.requests += 1;
        for (rank, request) in requests.into_iter().enumerate() {
            self.ranks[rank].events.clear();
            self.meeting.send(rank, self.requests, request);
        }
        (0..self.ranks.len())
            .map(|rank| self.answer(rank))
            .collect()
    }

    /// Asks all ranks the same, which they all do.
    pub(crate) fn all(&mut self, request: WorkerRequest) -> Vec<Reply> {
        let requests = self.ranks.iter().map(|_| request.clone()).collect();
        let replies = self.ask_each(requests).into_iter();
        replies
            .map(|reply| reply.unwrap_or_else(|failure| panic!("{failure:?}")))
            .collect()
    }

    /// Trains. The metrics, which are the same on all ranks but for times and throughputs.
    pub(crate) fn trained(&mut self, request: WorkerRequest) -> Metrics {
        let own = |reply| {
            let Reply::Trained { mut metrics } = reply else {
                panic!("{reply:?}")
            };
            metrics.retain(|name, _| !name.starts_with("timing_s/") && !name.starts_with("perf/"));
            metrics
        };
        let mut metrics = self.all(request).into_iter().map(own);
        let first = metrics.next().unwrap();
        metrics.for_each(|other| assert_eq!(other, first));
        first
    }

    /// Samples a step: each rank groups of its own, which are none for some where there are more
    /// ranks than groups.
    pub(crate) fn sampled(&mut self, request: WorkerRequest) -> Vec<Rollout> {
        let WorkerRequest::Generate(whole) = request else {
            panic!("not Generate")
        };
        let ranks = self.ranks.len();
        let of_rank = |rank: usize| {
            let mut own = whole.clone();
            own.groups
                .retain(|group| group.prompt as usize % ranks == rank);
            WorkerRequest::Generate(own)
        };
        self.sampled_each((0..ranks).map(of_rank).collect())
    }

    /// Samples on each rank what it is asked.
    pub(crate) fn sampled_each(&mut self, requests: Vec<WorkerRequest>) -> Vec<Rollout> {
        for reply in self.ask_each(requests) {
            assert!(matches!(reply, Ok(Reply::Generated { .. })), "{reply:?}");
        }
        let events = self.ranks.iter().flat_map(|own| &own.events);
        let mut rollouts: Vec<Rollout> = events
            .filter_map(|event| match event {
                Event::Completed(rollout) => Some(rollout.clone()),
                _ => None,
            })
            .collect();
        rollouts.sort_by_key(|rollout| rollout.key);
        rollouts
    }

    /// Saves, and returns what the first rank says in the end. No other says anything.
    pub(crate) fn saved(&mut self, step: u64, dir: &Path) -> CheckpointState {
        let (stage, dir) = (0, dir.to_owned());
        for reply in self.all(WorkerRequest::Save { stage, step, dir }) {
            assert_eq!(reply, Reply::SnapshotTaken);
        }
        let state = self.stored(step);
        let others = &self.ranks[1..];
        assert!(others.iter().all(|own| own.reports.is_empty()));
        state
    }

    /// What the first rank says in the end of the checkpoint of a step.
    pub(crate) fn stored(&mut self, step: u64) -> CheckpointState {
        let own = &mut self.ranks[0];
        loop {
            let is_over = |report: &&CheckpointReport| {
                report.step == step && !matches!(report.state, CheckpointState::Writing { .. })
            };
            if let Some(report) = own.reports.iter().find(is_over) {
                return report.state.clone();
            }
            let message = own.heard.recv_timeout(PATIENCE).unwrap();
            let Body::Checkpoint(report) = message.body else {
                panic!("{message:?}")
            };
            own.reports.push(report);
        }
    }

    pub(crate) fn save_whole(&mut self, step: u64, dir: &Path) {
        let state = self.saved(step, dir);
        assert!(matches!(state, CheckpointState::Stored { .. }), "{state:?}");
    }

    pub(crate) fn restore(&mut self, dir: &Path) {
        let dir = dir.to_owned();
        self.all(WorkerRequest::Restore { dir });
    }

    pub(crate) fn export(&mut self, dir: &Path) {
        let dir = dir.to_owned();
        self.all(WorkerRequest::Export { dir });
    }
}

/// A gang of `data` copies that adds along the tree; its rank is to be set.
pub(crate) fn place(data: usize, shard: Shard) -> Place {
    Place {
        rank: 0,
        data: data as u32,
        expert: 1,
        transport: Transport::Gloo,
        shard,
        layout_independent: true,
        within_ms: 60_000,
    }
}

/// A gang of `data` copies of each of `expert` shares of the experts.
pub(crate) fn of_experts(data: usize, expert: u32, shard: Shard) -> Place {
    Place {
        expert,
        ..place(data, shard)
    }
}

/// What is opened, in a place of a gang.
pub(crate) fn placed(stage: &WorkerRequest, place: Place) -> WorkerRequest {
    let WorkerRequest::Open(mut request) = stage.clone() else {
        panic!("not Open")
    };
    request.place = Some(place);
    WorkerRequest::Open(request)
}
