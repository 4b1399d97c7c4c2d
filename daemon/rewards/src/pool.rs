//! The scoring threads. They are OS threads of their own, so judging never delays the control plane; their queue is bounded
//! (`LIM-1`), and time in it is never part of a completion's time.

use crate::engine;
use crate::error::{RewardError, ScoreError};
use crate::judge::{Ask, Completion, Judged, LoadedReward};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Completions that wait per thread. A full queue makes [`Pool::score`] wait and [`Pool::try_submit`] refuse.
pub const QUEUE_PER_THREAD_MAX: usize = 1_024;

type Judgement<T> = Result<T, ScoreError>;

/// Where a judgement goes.
enum Answer<T> {
    Waiting(oneshot::Sender<Judgement<T>>),
    Callback(Box<dyn FnOnce(Judgement<T>) + Send>),
}

impl<T> Answer<T> {
    fn send(self, judgement: Judgement<T>) {
        match self {
            // Nobody waits any more: nothing is lost.
            Answer::Waiting(sender) => drop(sender.send(judgement)),
            Answer::Callback(done) => done(judgement),
        }
    }

    fn is_abandoned(&self) -> bool {
        matches!(self, Answer::Waiting(sender) if sender.is_closed())
    }
}

/// What is judged in one call.
enum Task {
    One(Completion, Answer<Judged>),
    /// Never split.
    Group(Vec<Completion>, Answer<Vec<Judged>>),
    /// A phase of a judged reward; whoever waits is told by the closure.
    Phase(Box<dyn FnOnce(&LoadedReward) + Send>),
}

impl Task {
    fn run(self, reward: &LoadedReward) {
        match self {
            Task::One(completion, answer) => judge(answer, || reward.score(&completion)),
            Task::Group(group, answer) => judge(answer, || reward.score_group(&group)),
            Task::Phase(phase) => phase(reward),
        }
    }

    fn close(self) {
        match self {
            Task::One(_, answer) => answer.send(Err(ScoreError::Closed)),
            Task::Group(_, answer) => answer.send(Err(ScoreError::Closed)),
            // Its sender goes with it, which is how whoever waits is told.
            Task::Phase(phase) => drop(phase),
        }
    }
}

fn judge<T>(answer: Answer<T>, score: impl FnOnce() -> Judgement<T>) {
    if answer.is_abandoned() {
        return;
    }
    // A panic of the host is no verdict, and must not cost the pool a thread.
    let judged = catch_unwind(AssertUnwindSafe(score));
    let judged = judged.unwrap_or_else(|panic| Err(ScoreError::Host(panic_text(panic.as_ref()))));
    // Neither must a panic of the caller's.
    let _ = catch_unwind(AssertUnwindSafe(|| answer.send(judged)));
}

/// No room in the queue: hand the completion in again when one of yours is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the scoring queue is full")]
pub struct QueueFull;

/// A snapshot for `why` and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub queued: usize,
    pub running: usize,
    pub threads: usize,
    /// Calls that have ended since the pool began, of whichever job: while it grows, whoever waits has its turn to come.
    pub ended: u64,
}

/// Closes when dropped: completions still queued end with [`ScoreError::Closed`], running ones end by themselves.
pub struct Pool {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    threads: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    jobs: VecDeque<Job>,
    running: usize,
    ended: u64,
    closed: bool,
}

struct Job {
    reward: LoadedReward,
    task: Task,
    _room: OwnedSemaphorePermit,
}

impl Pool {
    pub(crate) fn start(threads: usize) -> Result<Pool, RewardError> {
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), running: 0, ended: 0, closed: false });
        let shared = Arc::new(Shared { queue, changed: Condvar::new() });
        let pool = Pool { shared: shared.clone(), room: Arc::new(Semaphore::new(threads * QUEUE_PER_THREAD_MAX)), threads };
        for i in 0..threads {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("reward-{i}")).stack_size(2 * engine::STACK_BYTES);
            thread.spawn(move || shared.work()).map_err(|e| RewardError::Engine(format!("cannot start a thread: {e}")))?;
        }
        Ok(pool)
    }

    /// Judges a completion on the pool. Waits, without holding a thread, while the queue is full. Dropping the future takes a
    /// completion that waits out of the queue's work.
    pub async fn score(&self, reward: LoadedReward, completion: Completion) -> Judgement<Judged> {
        let room = self.room.clone().acquire_owned().await.map_err(|_| ScoreError::Closed)?;
        let (sender, receiver) = oneshot::channel();
        self.push(reward, Task::One(completion, Answer::Waiting(sender)), room);
        receiver.await.unwrap_or(Err(ScoreError::Closed))
    }

    /// The same for a group, which takes one place in the queue.
    pub async fn score_group(&self, reward: LoadedReward, group: Vec<Completion>) -> Judgement<Vec<Judged>> {
        let room = self.room.clone().acquire_owned().await.map_err(|_| ScoreError::Closed)?;
        let (sender, receiver) = oneshot::channel();
        self.push(reward, Task::Group(group, Answer::Waiting(sender)), room);
        receiver.await.unwrap_or(Err(ScoreError::Closed))
    }

    /// First phase of a judged reward: [`LoadedReward::plan`] on the pool.
    pub async fn plan(&self, reward: LoadedReward, completion: Completion) -> Judgement<Result<Vec<Ask>, Judged>> {
        self.phase(reward, move |reward| reward.plan(&completion)).await
    }

    /// Second phase of a judged reward: [`LoadedReward::conclude`] on the pool.
    pub async fn conclude(
        &self,
        reward: LoadedReward,
        completion: Completion,
        answers: Vec<Result<String, String>>,
    ) -> Judgement<Judged> {
        self.phase(reward, move |reward| reward.conclude(&completion, &answers)).await
    }

    async fn phase<T: Send + 'static>(
        &self,
        reward: LoadedReward,
        phase: impl FnOnce(&LoadedReward) -> Judgement<T> + Send + 'static,
    ) -> Judgement<T> {
        let room = self.room.clone().acquire_owned().await.map_err(|_| ScoreError::Closed)?;
        let (sender, receiver) = oneshot::channel();
        let task = move |reward: &LoadedReward| judge(Answer::Waiting(sender), || phase(reward));
        self.push(reward, Task::Phase(Box::new(task)), room);
        receiver.await.unwrap_or(Err(ScoreError::Closed))
    }

    /// The same for a caller that is not a future: `done` is called on a scoring thread, so it must be short.
    pub fn try_submit(
        &self,
        reward: LoadedReward,
        completion: Completion,
        done: impl FnOnce(Result<Judged, ScoreError>) + Send + 'static,
    ) -> Result<(), QueueFull> {
        let room = self.room.clone().try_acquire_owned().map_err(|_| QueueFull)?;
        self.push(reward, Task::One(completion, Answer::Callback(Box::new(done))), room);
        Ok(())
    }

    pub fn load(&self) -> Load {
        let queue = self.shared.lock();
        Load { queued: queue.jobs.len(), running: queue.running, threads: self.threads, ended: queue.ended }
    }

    fn push(&self, reward: LoadedReward, task: Task, room: OwnedSemaphorePermit) {
        self.shared.lock().jobs.push_back(Job { reward, task, _room: room });
        self.shared.changed.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let jobs = {
            let mut queue = self.shared.lock();
            queue.closed = true;
            std::mem::take(&mut queue.jobs)
        };
        self.shared.changed.notify_all();
        for job in jobs {
            job.task.close();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                queue.running += 1;
                return Some(job);
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        while let Some(Job { reward, task, _room: room }) = self.next() {
            // Its place in the queue is free as soon as it has left it.
            drop(room);
            task.run(&reward);
            let mut queue = self.lock();
            (queue.running, queue.ended) = (queue.running - 1, queue.ended + 1);
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string()).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", text.unwrap_or_else(|| "unknown".into()))
}
