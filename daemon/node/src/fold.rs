//! What the ranks of a gang say, as one worker would say it. A request is over when every rank that
//! was asked has answered, or as soon as one has failed.

use crate::live_ranks::LiveRanks;
use crate::worker::{FromRank, WorkerReply};
use r1d_proto::worker::{
    Body, Event, Failure, FailureKind, FromWorker, Metrics, Reply, WEIGHTS_CHECKSUM,
};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};

/// How long a rank's failure is held back that another rank may have caused: those that wait for a
/// rank hear of its end before its supervisor does.
const CAUSE_WAIT: Duration = Duration::from_secs(2);

/// What a worker says it does while it makes an update.
const TRAINING: &str = "training";

/// Metrics of which a gang has the mean of its ranks'.
const MEANS: [&str; 2] = ["perf/mfu", "perf/draft_acceptance_rate"];

/// Folds what the workers of a gang say until none says anything more, or nobody listens: then its
/// end is the workers'. `live` takes note of each word.
pub(crate) async fn fold(
    mut heard: mpsc::Receiver<FromRank>,
    said: mpsc::Sender<FromRank>,
    live: LiveRanks,
) {
    let mut fold = Fold::new(live.size());
    let mut held: Option<(Pin<Box<Sleep>>, FromRank)> = None;
    loop {
        let over = async {
            match &mut held {
                Some((over, _)) => over.await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            biased;
            next = heard.recv() => Some(next),
            () = over => None,
            () = said.closed() => return,
        };
        if let Some(Some(FromRank { rank, reply })) = &next {
            live.said(*rank, reply);
        }
        let out = match next {
            Some(Some(FromRank { rank, reply })) => match reply {
                WorkerReply::Message(message) => match fold.said(rank, message) {
                    Folded::Nothing => None,
                    Folded::Whole(message) => {
                        // It is the cause of what is held back.
                        held.take_if(|_| matches!(message.body, Body::Failed(_)));
                        Some(of(rank, message))
                    }
                    Folded::Consequence(message) => {
                        let wait = || (Box::pin(sleep(CAUSE_WAIT)), of(rank, message));
                        held.get_or_insert_with(wait);
                        None
                    }
                },
                // The gang has ended with it.
                end => {
                    held = None;
                    Some(FromRank { rank, reply: end })
                }
            },
            Some(None) if held.is_none() => return,
            Some(None) | None => held.take().map(|(_, failure)| FromRank {
                rank: fold.silent().unwrap_or(failure.rank),
                ..failure
            }),
        };
        let Some(out) = out else {
            continue;
        };
        if said.send(out).await.is_err() {
            return;
        }
    }
}

fn of(rank: usize, message: FromWorker) -> FromRank {
    FromRank {
        rank,
        reply: WorkerReply::Message(message),
    }
}

/// What comes of a rank's message.
#[derive(Debug, PartialEq)]
enum Folded {
    /// Nothing yet, or nothing any more.
    Nothing,
    /// A message of the gang.
    Whole(FromWorker),
    /// A failure of a rank that may be the consequence of another rank's end.
    Consequence(FromWorker),
}

/// How far the ranks are with the request at work.
struct Fold {
    /// The id of the newest request that was heard of.
    id: u64,
    /// Whether it is over.
    is_over: bool,
    ranks: Vec<Answering>,
}

/// What a rank has said of the request at work.
#[derive(Clone, Default)]
struct Answering {
    reply: Option<Reply>,
    has_failed: bool,
    /// How far it was last, of what, in which unit.
    progress: Option<(String, u64, u64, String)>,
}

impl Fold {
    fn new(ranks: usize) -> Fold {
        Fold {
            id: 0,
            is_over: true,
            ranks: vec![Answering::default(); ranks],
        }
    }

    /// Takes note of a rank's message.
    fn said(&mut self, rank: usize, FromWorker { id, body }: FromWorker) -> Folded {
        let whole = |body| Folded::Whole(FromWorker { id, body });
        // These are beside the requests. Rank 0 alone writes checkpoints.
        if matches!(
            body,
            Body::Event(Event::Started { .. }) | Body::Checkpoint(_)
        ) {
            return whole(body);
        }
        if id > self.id {
            (self.id, self.is_over) = (id, false);
            self.ranks.fill(Answering::default());
        }
        if id < self.id || self.is_over {
            return Folded::Nothing;
        }
        match body {
            Body::Event(Event::Progress {
                doing,
                done,
                total,
                unit,
            }) => {
                if let Some(own) = self.ranks.get_mut(rank) {
                    own.progress = Some((doing.clone(), done, total, unit.clone()));
                }
                whole(Body::Event(self.progress(doing, unit)))
            }
            Body::Event(Event::Spans(_)) if rank > 0 => Folded::Nothing,
            Body::Event(_) => whole(body),
            Body::Done(reply) => match self.answered(rank, reply) {
                Some(body) => whole(body),
                None => Folded::Nothing,
            },
            Body::Failed(failure) => {
                if let Some(own) = self.ranks.get_mut(rank) {
                    own.has_failed = true;
                }
                let is_consequence = failure.kind == FailureKind::Internal;
                self.is_over = !is_consequence;
                let failure = Body::Failed(Failure {
                    message: format!("rank {rank}: {}", failure.message),
                    ..failure
                });
                if is_consequence {
                    Folded::Consequence(FromWorker { id, body: failure })
                } else {
                    whole(failure)
                }
            }
            Body::Checkpoint(_) | Body::Rendezvous(_) => Folded::Nothing,
        }
    }

    /// The one rank that has neither answered nor failed, if all others have: the others may have
    /// waited for it.
    fn silent(&self) -> Option<usize> {
        let is_silent = |(_, rank): &(usize, &Answering)| rank.reply.is_none() && !rank.has_failed;
        let mut silent = self.ranks.iter().enumerate().filter(is_silent);
        let (number, _) = silent.next()?;
        silent.next().is_none().then_some(number)
    }

    /// How far all ranks are that do the same. Of a batch that they train on together each knows
    /// the whole, else each has a part of its own.
    fn progress(&self, doing: String, unit: String) -> Event {
        let (mut all_done, mut all) = (0u64, 0u64);
        for (of, done, total, counted) in
            self.ranks.iter().filter_map(|rank| rank.progress.as_ref())
        {
            if (of, counted) == (&doing, &unit) {
                all_done = all_done.saturating_add(*done);
                all = match doing.as_str() {
                    TRAINING => all.max(*total),
                    _ => all.saturating_add(*total),
                };
            }
        }
        Event::Progress {
            doing,
            done: all_done,
            total: all,
            unit,
        }
    }

    /// Takes a rank's answer; returns that of the gang if it is the last one.
    fn answered(&mut self, rank: usize, reply: Reply) -> Option<Body> {
        // Rank 0 alone was asked, or all score the same texts.
        if matches!(reply, Reply::Scored { .. } | Reply::Answered { .. }) {
            self.is_over = true;
            return Some(Body::Done(reply));
        }
        self.ranks.get_mut(rank)?.reply = Some(reply);
        let replies: Option<Vec<Reply>> = self.ranks.iter().map(|of| of.reply.clone()).collect();
        let folded = of_all(replies?);
        self.is_over = true;
        Some(match folded {
            Ok(reply) => Body::Done(reply),
            Err(message) => Body::Failed(Failure::new(FailureKind::Internal, &message)),
        })
    }
}

/// The answer of the ranks that have given these, in their order.
fn of_all(replies: Vec<Reply>) -> Result<Reply, String> {
    let mut metrics: Vec<Metrics> = Vec::new();
    for reply in &replies {
        if let Reply::Generated { metrics: own } | Reply::Trained { metrics: own } = reply {
            metrics.push(own.clone());
        }
    }
    match replies.into_iter().next() {
        Some(Reply::Generated { .. }) => Ok(Reply::Generated {
            metrics: together(&metrics),
        }),
        Some(Reply::Trained { .. }) => {
            check_weights(&metrics)?;
            Ok(Reply::Trained {
                metrics: together(&metrics),
            })
        }
        Some(first) => Ok(first),
        None => Err("a gang without ranks has answered".into()),
    }
}

/// Checks that all ranks have the same weights after an update. All else that they say of one is
/// either of all ranks or measured by each.
fn check_weights(metrics: &[Metrics]) -> Result<(), String> {
    let checksum = |metrics: &Metrics| metrics.get(WEIGHTS_CHECKSUM).map(|sum| sum.to_bits());
    let mut sums = metrics.iter().map(checksum);
    let first = sums.next().flatten();
    match sums.position(|sum| sum != first) {
        Some(before) => Err(format!(
            "rank 0 and rank {} have other weights than each other after the same update",
            before + 1
        )),
        None => Ok(()),
    }
}

/// The numbers of a gang: those that ranks have in common, the longest times, the sum of what they
/// got done.
fn together(metrics: &[Metrics]) -> Metrics {
    let mut all = Metrics::new();
    let mut counts = Metrics::new();
    for (name, &value) in metrics.iter().flatten() {
        let so_far = all.entry(name.clone()).or_insert(value);
        let count = counts.entry(name.clone()).or_insert(0.0);
        *count += 1.0;
        if *count == 1.0 {
            continue;
        }
        if name.starts_with("timing_s/") {
            *so_far = so_far.max(value);
        } else if name.starts_with("perf/") {
            *so_far += value;
        }
    }
    all.remove(WEIGHTS_CHECKSUM);
    for name in MEANS {
        if let (Some(sum), Some(count)) = (all.get_mut(name), counts.get(name)) {
            *sum /= count;
        }
    }
    all
}

#[cfg(test)]
mod tests;
