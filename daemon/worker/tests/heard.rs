//! Whoever waits for a long request hears that it moves: a word for each part that is read, hashed,
//! written or computed.

mod process;

use process::*;
use r1d_proto::hyperparameters::{DpoLossType, DpoObjective};
use r1d_proto::worker::*;

/// Checks the progress messages of a request that has just been answered: there are several, and
/// they go from 0 to a positive end. Returns their number.
fn heard(worker: &Worker, doing: &str) -> usize {
    let told = worker.progress();
    let own: Vec<_> = told.iter().filter(|(what, ..)| *what == doing).collect();
    let all = format!("{doing}: {told:?}");
    assert!(own.len() > 1, "one word and then silence: {all}");
    assert!(own.is_sorted_by_key(|(_, done, _)| *done), "{all}");
    assert!(
        own.first().unwrap().1 == 0 && own.last().unwrap().1 > 0,
        "{all}"
    );
    assert!(
        own.iter()
            .all(|(_, done, total)| done <= total || *total == 0),
        "{all}"
    );
    own.iter()
        .map(|(_, done, _)| *done)
        .collect::<std::collections::BTreeSet<_>>()
        .len()
}

/// Micro-batches of one or two texts.
fn tight(request: WorkerRequest) -> WorkerRequest {
    let WorkerRequest::Open(mut open) = request else {
        unreachable!()
    };
    open.max_tokens_per_device = 16;
    WorkerRequest::Open(open)
}

fn text(start: u32) -> Vec<u32> {
    (start..start + 12).map(|id| 2 + id % (VOCAB - 2)).collect()
}

fn pairs() -> Vec<Pair> {
    (0..6)
        .map(|i| Pair {
            prompt_ids: text(i),
            chosen_ids: text(i + 1),
            rejected_ids: text(i + 2),
            margin: 0.0,
        })
        .collect()
}

#[test]
fn files_are_heard_of_as_they_are_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, exported) = (dir.path().join("checkpoint"), dir.path().join("exported"));
    let mut worker = Worker::start_talkative();
    worker.ask(open(true));
    worker.save_whole(1, &checkpoint);
    assert!(heard(&worker, "checkpointing") > 20, "tensor by tensor");
    worker.ask(WorkerRequest::Restore {
        dir: checkpoint.clone(),
    });
    assert!(heard(&worker, "restoring") > 20);
    worker.ask(WorkerRequest::Export {
        dir: exported.clone(),
    });
    assert!(heard(&worker, "exporting") > 20);
    let WorkerRequest::Open(mut request) = open(true) else {
        unreachable!()
    };
    request.model = ModelSource::Directory(exported);
    worker.ask(WorkerRequest::Open(request));
    assert!(heard(&worker, "loading") > 20);
}

/// The words of a request that has just been answered, whatever they count.
fn words(worker: &Worker, doing: &str) -> usize {
    worker
        .progress()
        .iter()
        .filter(|(what, ..)| *what == doing)
        .count()
}

#[test]
fn an_update_is_heard_of_tensor_by_tensor_and_a_copy_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Worker::start_talkative();
    worker.ask(open(true));
    worker.save_whole(1, &dir.path().join("checkpoint"));
    let config = r1d_shape::Config::parse(&config()).unwrap();
    // In memory those of one input are fused, and the experts of a layer are stacked.
    let tensors = config.num_hidden_layers as usize * 8;
    let sequences = vec![SupervisedSequence {
        ids: text(0),
        trained: vec![true; 12],
    }];
    worker.ask(WorkerRequest::Supervise(Supervise { step: 0, sequences }));
    // One micro-batch: the norm of each gradient, and the step of each tensor.
    assert!(
        words(&worker, "training") > 2 * tensors,
        "{:?}",
        worker.progress()
    );
    worker.ask(WorkerRequest::SyncReference);
    assert!(
        words(&worker, "copying the policy") > tensors,
        "{:?}",
        worker.progress()
    );
}

#[test]
fn updates_and_scores_are_heard_of_micro_batch_by_micro_batch() {
    let mut worker = Worker::start_talkative();
    worker.ask(tight(open(true)));
    let sequences = (0..6)
        .map(|i| SupervisedSequence {
            ids: text(i),
            trained: vec![true; 12],
        })
        .collect();
    worker.ask(WorkerRequest::Supervise(Supervise { step: 0, sequences }));
    assert!(heard(&worker, "training") > 6);
    let objective = DpoObjective {
        loss_type: DpoLossType::Sigmoid,
        beta: 0.1,
        label_smoothing: 0.0,
    };
    worker.ask(WorkerRequest::TrainDpo(TrainDpo {
        step: 1,
        objective,
        pairs: pairs(),
    }));
    assert!(heard(&worker, "training") > 6);

    let WorkerRequest::Open(mut scorer) = tight(open(false)) else {
        unreachable!()
    };
    (scorer.scores, scorer.sampler) = (true, None);
    worker.ask(WorkerRequest::Open(scorer));
    let batch = RewardBatch::Pairs {
        pairs: pairs(),
        center_rewards_coefficient: 0.0,
    };
    worker.ask(WorkerRequest::TrainReward(TrainReward { step: 0, batch }));
    assert!(heard(&worker, "training") > 6);
    // Passes of 16,384 tokens at most.
    let long = |start: u32| (0..9000).map(|id| 2 + (start + id) % (VOCAB - 2)).collect();
    worker.ask(WorkerRequest::Score {
        model: None,
        sequences: (0..3).map(long).collect(),
    });
    assert!(heard(&worker, "scoring") > 3);
}
