//! The bridge to the reward pool: completions go in as they end (whole groups where a reward judges groups), verdicts come out in
//! whatever order the pool has them.

use crate::materials::{Judge, Materials};
use crate::tasks;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use r1d_proto::verdict::Verdict;
use r1d_rewards::{Completion, Judged, LoadedReward, Rewards, ScoreError, World};
use r1d_runner::{End, Event, ScoreItem};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Completions and verdicts that may wait on either side (`LIM-1`). What lies between them is bounded by what a step or an evaluation samples.
const QUEUE_MAX_COMPLETIONS: usize = 256;

/// Where a running job hands in completions, and takes its verdicts from. Dropping the sender ends the bridge.
pub fn bridge(materials: Arc<Materials>, rewards: Arc<Rewards>) -> (mpsc::Sender<Vec<ScoreItem>>, mpsc::Receiver<Event>) {
    let (items, incoming) = mpsc::channel(QUEUE_MAX_COMPLETIONS);
    let (outgoing, events) = mpsc::channel(QUEUE_MAX_COMPLETIONS);
    tasks::spawn("scoring", carry(materials, rewards, incoming, outgoing));
    (items, events)
}

/// Never waits for one side alone: the job may be handing in completions just when it is not taking verdicts.
async fn carry(
    materials: Arc<Materials>,
    rewards: Arc<Rewards>,
    mut items: mpsc::Receiver<Vec<ScoreItem>>,
    events: mpsc::Sender<Event>,
) {
    let mut judging = FuturesUnordered::new();
    let mut done: VecDeque<Event> = VecDeque::new();
    loop {
        tokio::select! {
            item = items.recv() => match item {
                Some(items) => judging.push(judge(&materials, &rewards, items)),
                None => return,
            },
            Some(events) = judging.next() => done.extend(events),
            room = events.reserve(), if !done.is_empty() => match (room, done.pop_front()) {
                (Ok(room), Some(event)) => room.send(event),
                _ => return,
            },
        }
    }
}

/// All verdicts on completions of one prompt.
async fn judge(materials: &Materials, rewards: &Rewards, items: Vec<ScoreItem>) -> Vec<Event> {
    verdicts(materials, rewards, items).await.unwrap_or_else(|end| vec![Event::Fault(end)])
}

async fn verdicts(materials: &Materials, rewards: &Rewards, items: Vec<ScoreItem>) -> Result<Vec<Event>, End> {
    let failed = |error: String| End::Failed { error };
    let Some((of, row)) = items.first().map(|item| (item.of, item.row)) else { return Ok(Vec::new()) };
    let (Some((prompt, data, judges)), Some(tokenizer)) = (materials.row(of, row), materials.tokenizer(of)) else {
        return Err(failed(format!("row {row} of {of:?} is not in the job's data")));
    };
    let completion = |item: &ScoreItem| -> Result<Completion, End> {
        Ok(Completion {
            id: (item.key.prompt as u64) << 32 | item.key.sample as u64,
            prompt: prompt.to_owned(),
            text: tokenizer.decode_completion(&item.completion_ids).map_err(|error| failed(error.to_string()))?,
            reference: data.reference.clone(),
            tokens: item.completion_ids.len() as u32,
            finish: item.finish,
            meta: data.meta.clone(),
        })
    };
    let completions = items.iter().map(completion).collect::<Result<Vec<_>, _>>()?;
    let mut verdicts: Vec<Vec<Verdict>> = vec![Vec::new(); items.len()];
    let judges: Vec<&Judge> = judges.collect();
    let graders = materials.graders.read().await.of(&judges, of, &items);
    for (judge, loaded) in judges.into_iter().zip(graders) {
        // The host failed, not the plugin: there is no verdict to train on, and a fresh attempt may have one.
        let abandoned = |error| End::Abandoned { cause: format!("reward `{}`: {error}", judge.reward.name) };
        let judged = judged(rewards, &loaded, &completions).await.map_err(abandoned)?;
        verdicts.iter_mut().zip(judged).for_each(|(verdicts, judged)| verdicts.push(verdict(&judge.reward.name, &loaded, judged)));
    }
    let scored = |((item, completion), verdicts): ((ScoreItem, Completion), _)| Event::Scored {
        key: item.key,
        verdicts,
        text: completion.text,
    };
    Ok(items.into_iter().zip(completions).zip(verdicts).map(scored).collect())
}

/// As many as completions, in their order.
async fn judged(rewards: &Rewards, loaded: &LoadedReward, completions: &[Completion]) -> Result<Vec<Judged>, ScoreError> {
    if loaded.world() == World::GroupReward {
        return rewards.pool().score_group(loaded.clone(), completions.to_vec()).await;
    }
    try_join_all(completions.iter().map(|completion| rewards.pool().score(loaded.clone(), completion.clone()))).await
}

fn verdict(name: &str, loaded: &LoadedReward, judged: Judged) -> Verdict {
    Verdict {
        plugin: name.into(),
        module_sha256: loaded.module_sha256().into(),
        config_sha256: loaded.config_sha256().into(),
        outcome: judged.outcome,
        value: None,
        fuel: judged.fuel,
    }
}
