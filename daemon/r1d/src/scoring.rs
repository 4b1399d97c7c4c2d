//! The bridge to the reward pool: completions go in as they end, verdicts come out in whatever order the pool has them.

use crate::materials::Materials;
use crate::tasks;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use r1d_proto::verdict::Verdict;
use r1d_rewards::{Completion, LoadedReward, Rewards};
use r1d_runner::{End, Event, ScoreItem};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Completions and verdicts that may wait on either side (`LIM-1`). What lies between them is bounded by what a step or an evaluation samples.
const QUEUE_MAX_COMPLETIONS: usize = 256;

/// Where a running job hands in completions, and takes its verdicts from. Dropping the sender ends the bridge.
pub fn bridge(materials: Arc<Materials>, rewards: Arc<Rewards>) -> (mpsc::Sender<ScoreItem>, mpsc::Receiver<Event>) {
    let (items, incoming) = mpsc::channel(QUEUE_MAX_COMPLETIONS);
    let (outgoing, events) = mpsc::channel(QUEUE_MAX_COMPLETIONS);
    tasks::spawn("scoring", carry(materials, rewards, incoming, outgoing));
    (items, events)
}

/// Never waits for one side alone: the job may be handing in completions just when it is not taking verdicts.
async fn carry(
    materials: Arc<Materials>,
    rewards: Arc<Rewards>,
    mut items: mpsc::Receiver<ScoreItem>,
    events: mpsc::Sender<Event>,
) {
    let mut judging = FuturesUnordered::new();
    let mut done: VecDeque<Event> = VecDeque::new();
    loop {
        tokio::select! {
            item = items.recv() => match item {
                Some(item) => judging.push(judge(&materials, &rewards, item)),
                None => return,
            },
            Some(event) = judging.next() => done.push_back(event),
            room = events.reserve(), if !done.is_empty() => match (room, done.pop_front()) {
                (Ok(room), Some(event)) => room.send(event),
                _ => return,
            },
        }
    }
}

/// All verdicts on one completion.
async fn judge(materials: &Materials, rewards: &Rewards, item: ScoreItem) -> Event {
    let fault = |error: String| Event::Fault(End::Failed { error });
    let text = match materials.tokenizer.decode_completion(&item.completion_ids) {
        Ok(text) => text,
        Err(error) => return fault(error.to_string()),
    };
    let Some((prompt, row, judges)) = materials.row(item.of, item.row) else {
        return fault(format!("row {} of {:?} is not in the job's data", item.row, item.of));
    };
    let completion = Completion {
        id: (item.key.prompt as u64) << 32 | item.key.sample as u64,
        prompt: prompt.to_owned(),
        text: text.clone(),
        reference: row.reference.clone(),
        tokens: item.completion_ids.len() as u32,
        finish: item.finish,
        meta: row.meta.clone(),
    };
    let mut verdicts = Vec::new();
    for judge in judges {
        match verdict(rewards, &judge.reward.name, &judge.loaded, completion.clone()).await {
            Ok(verdict) => verdicts.push(verdict),
            // The host failed, not the plugin: there is no verdict to train on, and a fresh attempt may have one.
            Err(error) => return Event::Fault(End::Abandoned { cause: format!("reward `{}`: {error}", judge.reward.name) }),
        }
    }
    Event::Scored { key: item.key, verdicts, text }
}

async fn verdict(
    rewards: &Rewards,
    name: &str,
    loaded: &LoadedReward,
    completion: Completion,
) -> Result<Verdict, r1d_rewards::ScoreError> {
    let judged = rewards.pool().score(loaded.clone(), completion).await?;
    Ok(Verdict {
        plugin: name.into(),
        module_sha256: loaded.module_sha256().into(),
        config_sha256: loaded.config_sha256().into(),
        outcome: judged.outcome,
        value: None,
        fuel: judged.fuel,
    })
}
