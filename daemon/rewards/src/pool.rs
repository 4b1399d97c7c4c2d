//! The scoring threads. They are OS threads of their own, so judging never delays the control
//! plane; their queues are bounded (`LIM-1`), and time in them is never part of a completion's
//! time.
//!
//! Each job has a [`Line`], and the lines share the threads ([`crate::turns`]): a job whose rewards
//! are slow delays another's completions by the calls at work, not by all that it has handed in.

use crate::completion::{Ask, Completion, Judged};
use crate::engine;
use crate::error::{RewardError, ScoreError};
use crate::loaded::LoadedReward;
use crate::turns::Turns;
use r1d_proto::world::SharedClock;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Number of completions of one line that may wait per thread. While a queue is full,
/// [`Line::score`] waits and [`Line::try_submit`] refuses.
pub const QUEUE_PER_THREAD_MAX: usize = 1_024;

type Judgement<T> = Result<T, ScoreError>;

/// The receiver of a judgement.
enum Answer<T> {
    Waiting(oneshot::Sender<Judgement<T>>),
    Callback(Box<dyn FnOnce(Judgement<T>) + Send>),
}

impl<T> Answer<T> {
    fn send(self, judgement: Judgement<T>) {
        match self {
            // If the receiver is gone, nothing is lost.
            Answer::Waiting(sender) => drop(sender.send(judgement)),
            Answer::Callback(done) => done(judgement),
        }
    }

    fn is_abandoned(&self) -> bool {
        matches!(self, Answer::Waiting(sender) if sender.is_closed())
    }
}

/// What one call judges.
enum Task {
    One(Completion, Answer<Judged>),
    /// All samples of a prompt, which are never split.
    Group(Vec<Completion>, Answer<Vec<Judged>>),
    /// A phase of a judged reward; the closure hands on its result.
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
            // The closure holds the sender; dropping it tells the receiver.
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
    // Nor must a panic in the caller's code.
    let _ = catch_unwind(AssertUnwindSafe(|| answer.send(judged)));
}

/// The queue has no room: submit the completion again when one of yours is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the scoring queue is full")]
pub struct QueueFull;

/// A snapshot of the pool for `why` and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Calls that wait, of all lines.
    pub queued: usize,
    /// Calls at work.
    pub running: usize,
    /// Scoring threads.
    pub threads: usize,
}

/// The calls of one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls that wait for a thread.
    pub waiting: usize,
    /// Calls that a thread is working on.
    pub at_work: usize,
    /// Number of calls that have ended since the line began.
    pub ended: u64,
}

impl Calls {
    /// Whether the line makes progress towards its verdicts, even if none is complete since
    /// `before`: its own calls end one after the other, or all of them wait while other lines have
    /// their turns. A line without calls makes none.
    pub fn go_on_since(&self, before: &Calls) -> bool {
        let has_any = self.waiting + self.at_work > 0;
        has_any && (self.at_work == 0 || self.ended != before.ended)
    }
}

/// The scoring threads. When the pool is dropped, completions that are queued end with
/// [`ScoreError::Closed`]; running ones end by themselves.
pub struct Pool {
    /// The line of callers that have none of their own.
    line: Line,
    lines: AtomicU64,
}

/// One job's place at the pool, with a queue of its own.
#[derive(Clone)]
pub struct Line {
    place: Arc<Place>,
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    threads: usize,
}

/// The part of a line that its calls share. The count changes under the queue's lock.
struct Place {
    id: u64,
    ended: AtomicU64,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    clock: SharedClock,
}

#[derive(Default)]
struct Queue {
    turns: Turns<Job>,
    closed: bool,
}

struct Job {
    place: Arc<Place>,
    reward: LoadedReward,
    task: Task,
    _room: OwnedSemaphorePermit,
}

impl Pool {
    pub(crate) fn start(threads: usize, clock: SharedClock) -> Result<Pool, RewardError> {
        let queue = Mutex::new(Queue::default());
        let shared = Arc::new(Shared {
            queue,
            changed: Condvar::new(),
            clock,
        });
        let pool = Pool {
            line: Line::new(0, shared.clone(), threads),
            lines: AtomicU64::new(1),
        };
        for i in 0..threads {
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("reward-{i}"))
                .stack_size(2 * engine::STACK_BYTES);
            thread
                .spawn(move || shared.work())
                .map_err(|e| RewardError::Engine(format!("cannot start a thread: {e}")))?;
        }
        Ok(pool)
    }

    /// A new line, for one job.
    pub fn line(&self) -> Line {
        Line::new(
            self.lines.fetch_add(1, Ordering::Relaxed),
            self.line.shared.clone(),
            self.line.threads,
        )
    }

    /// [`Line::score`] for a caller that has no line of its own.
    pub async fn score(&self, reward: LoadedReward, completion: Completion) -> Judgement<Judged> {
        self.line.score(reward, completion).await
    }

    /// [`Line::try_submit`] for a caller that has no line of its own.
    pub fn try_submit(
        &self,
        reward: LoadedReward,
        completion: Completion,
        done: impl FnOnce(Judgement<Judged>) + Send + 'static,
    ) -> Result<(), QueueFull> {
        self.line.try_submit(reward, completion, done)
    }

    /// How much the pool has to do at the moment.
    pub fn load(&self) -> Load {
        let queue = self.line.shared.lock();
        Load {
            queued: queue.turns.waiting(),
            running: queue.turns.at_work(),
            threads: self.line.threads,
        }
    }
}

impl Line {
    fn new(id: u64, shared: Arc<Shared>, threads: usize) -> Line {
        let place = Arc::new(Place {
            id,
            ended: AtomicU64::new(0),
        });
        Line {
            place,
            shared,
            room: Arc::new(Semaphore::new(threads * QUEUE_PER_THREAD_MAX)),
            threads,
        }
    }

    /// The line's calls at the moment.
    pub fn calls(&self) -> Calls {
        let queue = self.shared.lock();
        let (waiting, at_work) = queue.turns.of(self.place.id);
        Calls {
            waiting,
            at_work,
            ended: self.place.ended.load(Ordering::Relaxed),
        }
    }

    /// Judges a completion on the pool. Waits, without holding a thread, while the queue is full.
    /// If the future is dropped while the completion waits, it is not judged.
    pub async fn score(&self, reward: LoadedReward, completion: Completion) -> Judgement<Judged> {
        let room = self
            .room
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| ScoreError::Closed)?;
        let (sender, receiver) = oneshot::channel();
        self.push(reward, Task::One(completion, Answer::Waiting(sender)), room);
        receiver.await.unwrap_or(Err(ScoreError::Closed))
    }

    /// Judges a group on the pool, like [`Line::score`]; it takes one place in the queue.
    pub async fn score_group(
        &self,
        reward: LoadedReward,
        group: Vec<Completion>,
    ) -> Judgement<Vec<Judged>> {
        let room = self
            .room
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| ScoreError::Closed)?;
        let (sender, receiver) = oneshot::channel();
        self.push(reward, Task::Group(group, Answer::Waiting(sender)), room);
        receiver.await.unwrap_or(Err(ScoreError::Closed))
    }

    /// First phase of a judged reward: [`LoadedReward::plan`] on the pool.
    pub async fn plan(
        &self,
        reward: LoadedReward,
        completion: Completion,
    ) -> Judgement<Result<Vec<Ask>, Judged>> {
        self.phase(reward, move |reward| reward.plan(&completion))
            .await
    }

    /// Second phase of a judged reward: [`LoadedReward::conclude`] on the pool.
    pub async fn conclude(
        &self,
        reward: LoadedReward,
        completion: Completion,
        answers: Vec<Result<String, String>>,
    ) -> Judgement<Judged> {
        self.phase(reward, move |reward| reward.conclude(&completion, &answers))
            .await
    }

    async fn phase<T: Send + 'static>(
        &self,
        reward: LoadedReward,
        phase: impl FnOnce(&LoadedReward) -> Judgement<T> + Send + 'static,
    ) -> Judgement<T> {
        let room = self
            .room
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| ScoreError::Closed)?;
        let (sender, receiver) = oneshot::channel();
        let task = move |reward: &LoadedReward| judge(Answer::Waiting(sender), || phase(reward));
        self.push(reward, Task::Phase(Box::new(task)), room);
        receiver.await.unwrap_or(Err(ScoreError::Closed))
    }

    /// Judges a completion like [`Line::score`], for a caller that is not a future. `done` is
    /// called on a scoring thread, so it must be short. An error if the queue is full.
    pub fn try_submit(
        &self,
        reward: LoadedReward,
        completion: Completion,
        done: impl FnOnce(Judgement<Judged>) + Send + 'static,
    ) -> Result<(), QueueFull> {
        let room = self
            .room
            .clone()
            .try_acquire_owned()
            .map_err(|_| QueueFull)?;
        self.push(
            reward,
            Task::One(completion, Answer::Callback(Box::new(done))),
            room,
        );
        Ok(())
    }

    fn push(&self, reward: LoadedReward, task: Task, room: OwnedSemaphorePermit) {
        let job = Job {
            place: self.place.clone(),
            reward,
            task,
            _room: room,
        };
        self.shared.lock().turns.push(self.place.id, job);
        self.shared.changed.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let waiting = {
            let mut queue = self.line.shared.lock();
            queue.closed = true;
            queue.turns.close()
        };
        self.line.shared.changed.notify_all();
        for job in waiting {
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
            if let Some(job) = queue.turns.take() {
                return Some(job);
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        while let Some(Job {
            place,
            reward,
            task,
            _room: room,
        }) = self.next()
        {
            // The place in the queue is free as soon as the completion has left it.
            drop(room);
            let began = self.clock.now();
            task.run(&reward);
            let took = self.clock.now().saturating_sub(began);
            let mut queue = self.lock();
            queue.turns.end(place.id, took);
            place.ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| text.to_string())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", text.unwrap_or_else(|| "unknown".into()))
}
