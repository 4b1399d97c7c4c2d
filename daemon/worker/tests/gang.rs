//! Workers as the ranks of a gang: they find each other through the daemon's answers alone, refuse
//! what they cannot do together, and name whom they wait for.

mod gangs;
mod process;

use gangs::*;
use process::*;
use r1d_proto::worker::*;
use std::fs;

fn supervised() -> WorkerRequest {
    let sequence = |length| SupervisedSequence {
        ids: ids(length, length),
        trained: vec![true; length as usize],
    };
    WorkerRequest::Supervise(Supervise {
        step: 0,
        sequences: (3..12).map(sequence).collect(),
    })
}

/// A stage that samples alone.
fn sampling() -> WorkerRequest {
    opened(|request| request.optimiser = None)
}

#[test]
fn ranks_find_each_other_over_their_channels_to_the_daemon_and_stay_together() {
    let mut gang = Gang::open(2, &sampling(), place(2, Shard::None));
    // Another stage may share out what copies have.
    let stage = open(false);
    let sharing = [0, 1].map(|rank| {
        let place = place(2, Shard::Optimizer);
        placed(&stage, Place { rank, ..place })
    });
    for reply in gang.ask_each(sharing.to_vec()) {
        assert!(matches!(reply, Ok(Reply::Opened(_))), "{reply:?}");
    }
    let elsewhere = [1, 0].map(|rank| {
        let place = place(2, Shard::None);
        placed(&stage, Place { rank, ..place })
    });
    for reply in gang.ask_each(elsewhere.to_vec()) {
        let refused = reply.unwrap_err();
        assert_eq!(refused.message, "a worker has one place in one gang");
    }
}

#[test]
fn a_rank_says_who_did_not_come() {
    let mut gang = Gang::start(1);
    gang.nobody_comes();
    let place = Place {
        layout_independent: false,
        ..place(3, Shard::None)
    };
    let failure = gang.ask(0, placed(&sampling(), place)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Internal);
    assert_eq!(
        failure.message,
        "group `all`: ranks 1, 2 did not come within 60s"
    );
}

#[test]
fn what_ranks_cannot_do_together_is_refused_before_they_wait_for_each_other() {
    let mut gang = Gang::start(1);
    let two = place(2, Shard::None);
    let refusals = [
        (
            place(2, Shard::Parameters),
            "[parallel] shard = \"parameters\" is not built into this worker: set it to \
             \"optimizer\" or \"none\"",
        ),
        (
            place(16, Shard::None),
            "[parallel] layout_independent = true is for 1, 2, 4 or 8 devices, not 16: change \
             data = 16, or set it to false",
        ),
        (place(3, Shard::None), "2, 4 or 8 devices, not 3"),
        (
            Place {
                transport: Transport::Nccl,
                ..two
            },
            "transport `nccl` is for GPUs, and this rank has Cpu: use `gloo`",
        ),
    ];
    for (place, words) in refusals {
        let refused = gang.ask(0, placed(&open(false), place)).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Invalid, "{refused:?}");
        assert!(refused.message.contains(words), "{refused:?}");
    }
}

#[test]
fn a_rank_that_waits_for_a_dead_one_names_it_and_the_call() {
    let mut gang = Gang::open(2, &open(false), place(2, Shard::Optimizer));
    gang.trained(supervised());
    gang.send(0, supervised());
    gang.kill(1);
    gang.nobody_comes();
    let failure = gang.answer(0).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Internal, "{failure:?}");
    for words in [
        "group `all`, rank 0: `metrics` (call ",
        "rank 1 is waited for",
    ] {
        assert!(failure.message.contains(words), "{failure:?}");
    }
}

#[test]
fn a_checkpoint_whose_shares_do_not_come_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("step-1");
    let how = Place {
        within_ms: 1000,
        ..place(2, Shard::Optimizer)
    };
    let mut gang = Gang::open(2, &open(false), how);
    // Something is in the way of what the second rank writes, which the first one is told.
    let in_the_way = dir.path().join("..step-1.share-1.partial");
    fs::write(&in_the_way, "").unwrap();
    let CheckpointState::Failed(failure) = gang.saved(1, &checkpoint) else {
        panic!("it cannot be stored")
    };
    assert_eq!(failure.kind, FailureKind::Storage, "{failure:?}");
    assert!(failure.message.contains("Not a directory"), "{failure:?}");
    assert!(
        failure
            .message
            .starts_with("rank 1's share of the checkpoint: "),
        "{failure:?}"
    );
    fs::remove_file(&in_the_way).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    // In the way of the first: what the second leaves, now or later, is removed.
    let in_the_way = dir.path().join(".step-1.partial");
    fs::write(&in_the_way, "").unwrap();
    let state = gang.saved(2, &checkpoint);
    assert!(matches!(state, CheckpointState::Failed(_)), "{state:?}");
    fs::remove_file(&in_the_way).unwrap();
    gang.save_whole(3, &dir.path().join("step-3"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    // The second rank is not even asked.
    let (stage, step) = (0, 4);
    let dir = dir.path().join("step-4");
    gang.nobody_comes();
    gang.ask(0, WorkerRequest::Save { stage, step, dir })
        .unwrap();
    let CheckpointState::Failed(failure) = gang.stored(4) else {
        panic!("it cannot be stored")
    };
    assert_eq!(
        failure.message,
        "rank 1's share of the checkpoint: it is not written within 1s of rank 0's: that rank is \
         dead, stopped, or its disk is slow"
    );
}

/// Its daemon, which is not asked for anything, serves no rendezvous.
#[test]
fn a_gang_of_one_waits_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Worker::start();
    worker.ask(placed(&open(false), place(1, Shard::Optimizer)));
    worker.ask(supervised());
    worker.save_whole(1, &dir.path().join("step-1"));
}
