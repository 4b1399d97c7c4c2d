//! The bridge to the reward pool: completions go in as they end (whole groups for a reward that
//! judges groups), verdicts come out in whatever order the pool finishes them. A judged reward is
//! called twice: for its questions, and with the answers of its model.

use crate::ends::unread;
use crate::loaded_job::LoadedJob;
use crate::reward_versions::JobReward;
use crate::tasks;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use r1d_data::{Json, Row, Tokenizer};
use r1d_proto::verdict::Verdict;
use r1d_rewards::{Completion, Judged, Line, LoadedReward, Rewards, ScoreError, World};
use r1d_runner::{Answers, End, Event, JudgeReply, JudgeRequest, ScoreItem, Source};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Completions and verdicts that may wait on either side (`LIM-1`). The number between them is
/// bounded by what a step or an evaluation samples.
const QUEUE_MAX_COMPLETIONS: usize = 256;
/// Interval at which a job that waits for verdicts gets a sign that its calls proceed or wait for
/// their turn.
const SIGN_INTERVAL: Duration = Duration::from_secs(5);

/// What a running job hands in.
pub(crate) enum ScoreRequest {
    /// Completions to be judged together.
    Score(Vec<ScoreItem>),
    /// Completions whose judge models have answered.
    Conclude(Vec<JudgeReply>),
}

/// Starts the bridge; returns where a job hands in completions and where it takes verdicts.
/// Dropping the sender ends the bridge.
pub(crate) fn bridge(
    loaded_job: Arc<LoadedJob>,
    rewards: &Rewards,
) -> (mpsc::Sender<ScoreRequest>, mpsc::Receiver<Event>) {
    let (items, incoming) = mpsc::channel(QUEUE_MAX_COMPLETIONS);
    let (outgoing, events) = mpsc::channel(QUEUE_MAX_COMPLETIONS);
    tasks::spawn(
        "scoring",
        carry(loaded_job, rewards.pool().line(), incoming, outgoing),
    );
    (items, events)
}

/// Moves completions and verdicts, and never waits for one side alone: the job may hand in
/// completions while it takes no verdicts.
async fn carry(
    loaded_job: Arc<LoadedJob>,
    pool: Line,
    mut items: mpsc::Receiver<ScoreRequest>,
    events: mpsc::Sender<Event>,
) {
    let mut judging = FuturesUnordered::new();
    let mut done: VecDeque<Event> = VecDeque::new();
    let mut before = pool.calls();
    loop {
        tokio::select! {
            item = items.recv() => match item {
                Some(ScoreRequest::Score(items)) => {
                    judging.push(judge(&loaded_job, &pool, items, None));
                }
                Some(ScoreRequest::Conclude(answered)) => {
                    for JudgeReply { item, answers } in answered {
                        judging.push(judge(&loaded_job, &pool, vec![item], Some(answers)));
                    }
                }
                None => return,
            },
            Some(events) = judging.next() => done.extend(events),
            () = tokio::time::sleep(SIGN_INTERVAL), if !judging.is_empty() && done.is_empty() => {
                let calls = pool.calls();
                if calls.go_on_since(&before) {
                    done.push_back(Event::Judging);
                }
                before = calls;
            }
            room = events.reserve(), if !done.is_empty() => match (room, done.pop_front()) {
                (Ok(room), Some(event)) => room.send(event),
                _ => return,
            },
        }
    }
}

/// The models' answers, by reward.
type ByReward = BTreeMap<String, Answers>;

/// Judges completions of one prompt. Returns all verdicts; with answers, those of the rewards that
/// asked.
async fn judge(
    loaded_job: &Arc<LoadedJob>,
    pool: &Line,
    items: Vec<ScoreItem>,
    answers: Option<ByReward>,
) -> Vec<Event> {
    let judged = match answers {
        None => verdicts(loaded_job, pool, items).await,
        Some(answers) => conclusions(loaded_job, pool, items, answers).await,
    };
    judged.unwrap_or_else(|end| vec![Event::Fault(end)])
}

fn failed(error: String) -> End {
    End::Failed { error }
}

/// The end of an attempt whose reward host failed, not the plugin: there is no verdict to train on,
/// and a fresh attempt may get one.
fn abandoned(judge: &JobReward, error: ScoreError) -> End {
    End::Abandoned {
        cause: format!("reward `{}`: {error}", judge.reward.name),
    }
}

/// Completions as rewards see them, and the rewards that judge their row in their step.
struct Hearing<'a> {
    completions: Vec<Completion>,
    row: Row,
    judges: Vec<(&'a JobReward, LoadedReward)>,
    /// The tokenizer of the completions.
    policy: &'a Tokenizer,
    /// Whether the prompt's text lacks the special ids that the tokenizer adds.
    adds_special: bool,
}

async fn hearing<'a>(
    loaded_job: &'a Arc<LoadedJob>,
    items: &[ScoreItem],
) -> Result<Option<Hearing<'a>>, End> {
    let Some((of, row, key)) = items.first().map(|item| (item.of, item.row, item.key)) else {
        return Ok(None);
    };
    let reader = loaded_job.clone();
    let read = tasks::blocking(move || reader.row(of, row)).await;
    let read = read.map_err(|panic| failed(format!("reading row {row}: {panic}")))?;
    let prompted = read.map_err(|error| unread(error.into()))?;
    let (Some(prompted), Some(tokenizer)) = (prompted, loaded_job.tokenizer(of)) else {
        return Err(failed(format!(
            "row {row} of {of:?} is not in the job's data"
        )));
    };
    let step = matches!(of, Source::Stage(_)).then_some(key.step);
    let judges: Vec<&JobReward> = loaded_job
        .judges_of(of, prompted.row.domain.as_deref())
        .into_iter()
        .filter(|judge| step.is_none_or(|step| step >= judge.reward.after_step))
        .collect();
    let completion = |item: &ScoreItem| -> Result<Completion, End> {
        Ok(Completion {
            id: (item.key.prompt as u64) << 32 | item.key.sample as u64,
            prompt: prompted.prompt.clone(),
            text: tokenizer
                .decode_completion(&item.completion_ids)
                .map_err(|error| failed(error.to_string()))?,
            reference: prompted.row.reference.clone(),
            tokens: item.completion_ids.len() as u32,
            finish: item.finish,
            meta: prompted.row.meta.clone(),
        })
    };
    let completions = items
        .iter()
        .map(completion)
        .collect::<Result<Vec<_>, _>>()?;
    let reward_versions = loaded_job
        .reward_versions
        .read()
        .await
        .of(&judges, of, items);
    Ok(Some(Hearing {
        completions,
        row: prompted.row,
        judges: judges.into_iter().zip(reward_versions).collect(),
        policy: tokenizer,
        adds_special: prompted.adds_special,
    }))
}

/// Completions as judged rewards see them: `meta` also has the row's own prompt, before any
/// template, as `prompt`.
fn asked_about(completions: &[Completion], row: &Row) -> Vec<Completion> {
    let meta = match &row.prompt {
        None => row.meta.clone(),
        Some(prompt) => {
            let columns = row.meta.as_deref().and_then(|meta| Json::parse(meta).ok());
            let mut columns = if let Some(Json::Object(columns)) = columns {
                columns
            } else {
                Vec::new()
            };
            columns.retain(|(name, _)| name != "prompt");
            columns.push(("prompt".into(), Json::Text(prompt.clone())));
            Some(Json::Object(columns).to_string())
        }
    };
    completions
        .iter()
        .map(|completion| Completion {
            meta: meta.clone(),
            ..completion.clone()
        })
        .collect()
}

/// What the rewards say of a completion: verdicts, and questions for a model.
type OfCompletion = (Vec<Verdict>, Vec<JudgeRequest>);

async fn verdicts(
    loaded_job: &Arc<LoadedJob>,
    pool: &Line,
    items: Vec<ScoreItem>,
) -> Result<Vec<Event>, End> {
    let Some(Hearing {
        completions,
        row,
        judges,
        policy,
        adds_special,
    }) = hearing(loaded_job, &items).await?
    else {
        return Ok(Vec::new());
    };
    let mut said: Vec<OfCompletion> = vec![(Vec::new(), Vec::new()); items.len()];
    for (judge, loaded) in judges {
        let name = &judge.reward.name;
        if loaded.world() == World::JudgedReward {
            let asked = Asking {
                loaded_job,
                pool,
                judge,
                loaded,
                policy,
                adds_special,
            };
            let completions = asked_about(&completions, &row);
            asked.plan(&completions, &mut said).await?;
            continue;
        }
        let judged = judged(pool, &loaded, &completions)
            .await
            .map_err(|error| abandoned(judge, error))?;
        said.iter_mut()
            .zip(judged)
            .for_each(|((verdicts, _), judged)| verdicts.push(verdict(name, &loaded, judged)));
    }
    let scored =
        |((item, completion), (verdicts, asked)): ((ScoreItem, Completion), _)| Event::Scored {
            key: item.key,
            verdicts,
            asked,
            text: completion.text,
        };
    Ok(items
        .into_iter()
        .zip(completions)
        .zip(said)
        .map(scored)
        .collect())
}

/// A judged reward before it judges.
struct Asking<'a> {
    loaded_job: &'a LoadedJob,
    pool: &'a Line,
    judge: &'a JobReward,
    loaded: LoadedReward,
    policy: &'a Tokenizer,
    adds_special: bool,
}

impl Asking<'_> {
    /// Adds to what is said of each completion: the reward's questions, or its verdict if it has
    /// none.
    async fn plan(&self, completions: &[Completion], said: &mut [OfCompletion]) -> Result<(), End> {
        let (pool, loaded) = (self.pool, &self.loaded);
        let name = &self.judge.reward.name;
        let planned = completions
            .iter()
            .map(|completion| pool.plan(loaded.clone(), completion.clone()));
        let planned = try_join_all(planned)
            .await
            .map_err(|error| abandoned(self.judge, error))?;
        for ((planned, completion), (verdicts, asked)) in
            planned.into_iter().zip(completions).zip(said)
        {
            match planned {
                Ok(asks) if asks.is_empty() => {
                    let concluded = pool
                        .conclude(loaded.clone(), completion.clone(), Vec::new())
                        .await;
                    let concluded = concluded.map_err(|error| abandoned(self.judge, error))?;
                    verdicts.push(verdict(name, loaded, concluded));
                }
                Ok(asks) => {
                    let questions = self.loaded_job.judge_models.questions(
                        &self.loaded_job.job,
                        &self.judge.reward,
                        asks,
                        self.policy,
                        self.adds_special,
                    );
                    asked.push(JudgeRequest {
                        reward: name.clone(),
                        questions: questions.map_err(failed)?,
                    });
                }
                Err(fault) => verdicts.push(verdict(name, loaded, fault)),
            }
        }
        Ok(())
    }
}

/// The verdicts of the rewards that have answers.
async fn conclusions(
    loaded_job: &Arc<LoadedJob>,
    pool: &Line,
    items: Vec<ScoreItem>,
    mut answers: ByReward,
) -> Result<Vec<Event>, End> {
    let Some(Hearing {
        completions,
        row,
        judges,
        ..
    }) = hearing(loaded_job, &items).await?
    else {
        return Ok(Vec::new());
    };
    let completions = asked_about(&completions, &row);
    let (Some(item), Some(completion)) = (items.first(), completions.first()) else {
        return Ok(Vec::new());
    };
    let mut verdicts = Vec::new();
    for (judge, loaded) in judges {
        let Some(said) = answers.remove(&judge.reward.name) else {
            continue;
        };
        let said = loaded_job
            .judge_models
            .answers(&loaded_job.job, &judge.reward, said)
            .map_err(failed)?;
        let concluded = pool
            .conclude(loaded.clone(), completion.clone(), said)
            .await;
        verdicts.push(verdict(
            &judge.reward.name,
            &loaded,
            concluded.map_err(|error| abandoned(judge, error))?,
        ));
    }
    match answers.into_keys().next() {
        Some(name) => Err(failed(format!(
            "a model answered for reward `{name}`, which does not judge this row"
        ))),
        None => Ok(vec![Event::Concluded {
            key: item.key,
            verdicts,
        }]),
    }
}

/// Judges completions; the results are in their order.
async fn judged(
    pool: &Line,
    loaded: &LoadedReward,
    completions: &[Completion],
) -> Result<Vec<Judged>, ScoreError> {
    if loaded.world() == World::GroupReward {
        return pool.score_group(loaded.clone(), completions.to_vec()).await;
    }
    try_join_all(
        completions
            .iter()
            .map(|completion| pool.score(loaded.clone(), completion.clone())),
    )
    .await
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

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::rollout::FinishReason;

    #[test]
    fn judged_rewards_read_the_rows_own_prompt() {
        let rendered = Completion {
            id: 0,
            prompt: "User: 1 + 1? Assistant:".into(),
            text: "2".into(),
            reference: None,
            tokens: 1,
            finish: FinishReason::Stop,
            meta: None,
        };
        let meta = |row: &Row| {
            asked_about(std::slice::from_ref(&rendered), row)
                .remove(0)
                .meta
        };
        // Numbers stay as they are written.
        let columns = r#"{"level":3,"answer":717897987691852588770249}"#;
        let row = Row {
            prompt: Some("1 + 1?".into()),
            meta: Some(columns.into()),
            ..Row::default()
        };
        assert_eq!(
            meta(&row).as_deref(),
            Some(r#"{"level":3,"answer":717897987691852588770249,"prompt":"1 + 1?"}"#)
        );
        assert_eq!(
            meta(&Row { meta: None, ..row }).as_deref(),
            Some(r#"{"prompt":"1 + 1?"}"#)
        );
        assert_eq!(meta(&Row::default()), None);
    }
}
