//! A judge beside the policy, over the worker's socket.

mod process;

use process::*;
use r1d_proto::worker::*;
use std::path::{Path, PathBuf};

const PROMPT_TOKENS: usize = 16;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
}

/// A prompt and what transformers' `generate` continues it with, greedily.
fn greedy(dir: &Path) -> (Vec<u32>, Vec<u32>) {
    let tensors = tch::Tensor::read_safetensors(dir.join("golden.safetensors")).unwrap();
    let ids = tensors
        .iter()
        .find(|(name, _)| name == "greedy")
        .map(|(_, ids)| Vec::<i64>::try_from(ids.flatten(0, -1)).unwrap());
    let ids: Vec<u32> = ids.unwrap().into_iter().map(|id| id as u32).collect();
    let (prompt, continuation) = ids.split_at(PROMPT_TOKENS);
    (prompt.to_vec(), continuation.to_vec())
}

fn asked(dir: &Path, stop_ids: &[u32], questions: &[(&[u32], u32)]) -> WorkerRequest {
    let question = |(ids, max_tokens): &(&[u32], u32)| Question {
        prompt_ids: ids.to_vec(),
        max_tokens: *max_tokens,
    };
    let questions = questions.iter().map(question).collect();
    WorkerRequest::Answer(Answer {
        model: ModelSource::Directory(dir.into()),
        stop_ids: stop_ids.into(),
        questions,
    })
}

fn answers(worker: &mut Worker, request: WorkerRequest) -> Vec<Vec<u32>> {
    let Reply::Answered { answers } = worker.ask(request) else {
        panic!("not Answered")
    };
    answers
}

/// Whatever it is asked beside, at whatever length, and whatever else is open.
#[test]
fn a_judge_writes_what_transformers_would() {
    for (name, invariant) in [
        ("qwen2", true),
        ("qwen2", false),
        ("deepseek-v3-plain", true),
    ] {
        let dir = fixture(name);
        let (prompt, continuation) = greedy(&dir);
        let all = continuation.len() as u32;
        let mut worker = Worker::start();
        let WorkerRequest::Open(mut request) = open(false) else {
            unreachable!()
        };
        request.batch_invariant = invariant;
        worker.ask(WorkerRequest::Open(request));
        worker.ask(generate(0));
        let before = worker.rollouts();

        let other: Vec<u32> = prompt.iter().rev().copied().collect();
        let questions: &[(&[u32], u32)] = &[
            (&prompt, all),
            (&other[..5], 4),
            (&prompt, 3),
            (&other, all),
            (&prompt, all),
        ];
        let found = answers(&mut worker, asked(&dir, &[], questions));
        assert_eq!(
            (&found[0], &found[2][..], &found[4]),
            (&continuation, &continuation[..3], &continuation),
            "{name}"
        );
        assert_eq!((found[1].len(), found[3].len() as u32), (4, all));
        let told = |what: &str| {
            let is = |event: &Event| {
                matches!(event, Event::Progress { doing, total, .. } if doing
                == what && *total > 0)
            };
            worker.events.iter().filter(|event| is(event)).count()
        };
        let (loading, judging) = (told("loading"), told("judging"));
        // How long its parts took is told besides, for the trace.
        let is_span = |event: &&Event| matches!(event, Event::Spans(_));
        let spans = worker.events.iter().filter(is_span).count();
        assert!(
            loading > 0 && judging > 0 && loading + judging + spans == worker.events.len(),
            "{:?}",
            worker.events
        );
        // In another order and company, the same.
        assert_eq!(
            answers(
                &mut worker,
                asked(&dir, &[], &[(&other, all), (&prompt, all)])
            ),
            [&found[3], &found[0]].map(Clone::clone)
        );
        // An id that ends an answer is its last.
        let stop = continuation[continuation.len() / 2];
        let end = 1 + continuation.iter().position(|id| *id == stop).unwrap();
        assert_eq!(
            answers(&mut worker, asked(&dir, &[stop], &[(&prompt, all)])),
            [&continuation[..end]]
        );
        assert_eq!(answers(&mut worker, asked(&dir, &[], &[])), [[0; 0]; 0]);
        // The policy beside it is what it was.
        worker.ask(generate(0));
        assert_eq!(worker.rollouts(), before, "{name}");
    }
}

#[test]
fn what_is_no_judge_is_refused_and_the_worker_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    let scorer = folder.path().join("scorer");
    let mut worker = Worker::start();
    let request = |dir: &Path| asked(dir, &[], &[(&[3, 4], 2)]);
    let failure = worker.try_ask(request(&fixture("qwen2"))).unwrap_err();
    assert!(
        failure.kind == FailureKind::Invalid && failure.message.contains("no model is open"),
        "{failure:?}"
    );
    let WorkerRequest::Open(mut reward_model) = open(false) else {
        unreachable!()
    };
    (reward_model.scores, reward_model.sampler) = (true, None);
    worker.ask(WorkerRequest::Open(reward_model));
    worker.ask(WorkerRequest::Export {
        dir: scorer.clone(),
    });
    worker.ask(open(false));
    // What is not there may come back.
    let missing = (
        folder.path().join("missing"),
        FailureKind::Internal,
        "missing",
    );
    for (dir, kind, words) in [(scorer, FailureKind::Invalid, "reward model"), missing] {
        let failure = worker.try_ask(request(&dir)).unwrap_err();
        assert!(
            failure.kind == kind && failure.message.contains(words),
            "{failure:?}"
        );
    }
    let random = WorkerRequest::Answer(Answer {
        model: ModelSource::Init {
            config: config(),
            carry: None,
        },
        stop_ids: vec![],
        questions: vec![],
    });
    assert!(
        worker
            .try_ask(random)
            .unwrap_err()
            .message
            .contains("a judge has weights")
    );
    worker.ask(generate(0));
    assert_eq!(worker.rollouts().len(), 6);
}
