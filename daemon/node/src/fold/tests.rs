use super::*;
use r1d_proto::worker::{CheckpointReport, CheckpointState};

fn message(id: u64, body: Body) -> FromWorker {
    FromWorker { id, body }
}

fn live() -> LiveRanks {
    LiveRanks::new(3, r1d_proto::world::SystemClock::shared())
}

fn trained(pairs: &[(&str, f64)]) -> Body {
    let metrics = pairs.iter().map(|&(name, value)| (name.into(), value));
    Body::Done(Reply::Trained {
        metrics: metrics.collect(),
    })
}

fn progress(doing: &str, done: u64, total: u64) -> Body {
    Body::Event(Event::Progress {
        doing: doing.into(),
        done,
        total,
        unit: "tokens".into(),
    })
}

fn failed(kind: FailureKind, text: &str) -> Body {
    Body::Failed(Failure::new(kind, text))
}

fn whole(id: u64, body: Body) -> Folded {
    Folded::Whole(message(id, body))
}

#[test]
fn an_answer_comes_when_all_ranks_have_answered() {
    let mut fold = Fold::new(3);
    let own = |loss, seconds| {
        trained(&[
            ("loss", loss),
            ("timing_s/update", seconds),
            ("perf/mfu", 0.5),
        ])
    };
    assert_eq!(fold.said(2, message(1, own(0.25, 3.0))), Folded::Nothing);
    assert_eq!(fold.said(0, message(1, own(0.25, 1.0))), Folded::Nothing);
    // The slowest rank is waited for.
    assert_eq!(
        fold.said(1, message(1, own(0.25, 2.0))),
        whole(1, own(0.25, 3.0))
    );
    let closed = || Body::Done(Reply::Closed);
    assert_eq!(fold.said(1, message(2, closed())), Folded::Nothing);
    assert_eq!(fold.said(2, message(2, closed())), Folded::Nothing);
    assert_eq!(fold.said(0, message(2, closed())), whole(2, closed()));
}

/// What ranks have done adds up; what says how fast they were is of all of them.
#[test]
fn completions_come_at_once_and_their_numbers_together() {
    let mut fold = Fold::new(2);
    let generated = |seconds, throughput| {
        let metrics = [
            ("timing_s/sampling", seconds),
            ("perf/sampling_throughput", throughput),
            ("perf/draft_acceptance_rate", throughput / 100.0),
        ];
        let metrics = metrics.map(|(name, value)| (name.to_owned(), value));
        Body::Done(Reply::Generated {
            metrics: metrics.into(),
        })
    };
    assert_eq!(
        fold.said(0, message(1, progress("sampling", 5, 40))),
        whole(1, progress("sampling", 5, 40))
    );
    assert_eq!(
        fold.said(1, message(1, progress("sampling", 7, 30))),
        whole(1, progress("sampling", 12, 70))
    );
    assert_eq!(
        fold.said(1, message(1, progress("training", 1, 50))),
        whole(1, progress("training", 1, 50))
    );
    assert_eq!(
        fold.said(0, message(1, progress("training", 4, 50))),
        whole(1, progress("training", 5, 50))
    );
    assert_eq!(
        fold.said(1, message(1, generated(2.0, 40.0))),
        Folded::Nothing
    );
    let Folded::Whole(FromWorker {
        body: Body::Done(Reply::Generated { metrics }),
        ..
    }) = fold.said(0, message(1, generated(4.0, 60.0)))
    else {
        panic!("no answer of the gang")
    };
    assert_eq!(metrics["timing_s/sampling"], 4.0);
    assert_eq!(metrics["perf/sampling_throughput"], 100.0);
    assert_eq!(metrics["perf/draft_acceptance_rate"], 0.5);
}

/// A gang whose ranks drift apart trains no model that anybody has asked for. All other numbers of
/// an update are of all ranks, so they do not show whose weights differ.
#[test]
fn ranks_that_have_different_weights_are_found() {
    let own = |checksum| trained(&[("loss", 1.0), (WEIGHTS_CHECKSUM, checksum)]);
    let mut fold = Fold::new(2);
    fold.said(0, message(1, own(7.0)));
    let equal = fold.said(1, message(1, own(7.0)));
    assert_eq!(equal, whole(1, trained(&[("loss", 1.0)])));
    fold.said(0, message(2, own(8.0)));
    let Folded::Whole(FromWorker {
        body: Body::Failed(failure),
        ..
    }) = fold.said(1, message(2, own(9.0)))
    else {
        panic!("the difference is not found")
    };
    assert_eq!(failure.kind, FailureKind::Internal);
    assert_eq!(
        failure.message,
        "rank 0 and rank 1 have other weights than each other after the same update"
    );
    // A rank that forgets its checksum is none that has the same weights.
    fold.said(0, message(3, own(8.0)));
    let missing = fold.said(1, message(3, trained(&[("loss", 1.0)])));
    let Folded::Whole(FromWorker {
        body: Body::Failed(_),
        ..
    }) = missing
    else {
        panic!("{missing:?}")
    };
}

/// One rank writes checkpoints, judges and tells spans; what is over says nothing more.
#[test]
fn what_one_rank_alone_does_is_not_waited_for() {
    let mut fold = Fold::new(2);
    let stored = || {
        Body::Checkpoint(CheckpointReport {
            stage: 0,
            step: 2,
            state: CheckpointState::Stored {
                manifest_sha256: "ab".into(),
            },
        })
    };
    let scored = || Body::Done(Reply::Scored { scores: vec![1.0] });
    assert_eq!(fold.said(0, message(3, scored())), whole(3, scored()));
    assert_eq!(fold.said(0, message(2, stored())), whole(2, stored()));
    assert_eq!(
        fold.said(1, message(3, progress("scoring", 1, 2))),
        Folded::Nothing
    );
    let failure = || failed(FailureKind::OutOfMemory, "no memory");
    assert_eq!(
        fold.said(1, message(4, failure())),
        whole(4, failed(FailureKind::OutOfMemory, "rank 1: no memory"))
    );
    assert_eq!(fold.said(0, message(4, failure())), Folded::Nothing);
}

/// Who waits for a rank that is gone hears of that before the rank's supervisor does; the cause is
/// what is told.
#[actix::test]
async fn the_cause_of_a_failure_is_told_and_not_its_consequence() {
    let lost = || FromRank {
        rank: 1,
        reply: WorkerReply::Lost {
            cause: "killed".into(),
        },
    };
    let internal = |rank| {
        let body = failed(FailureKind::Internal, "rank 1 is gone");
        of(rank, message(1, body))
    };
    let full = of(2, message(1, failed(FailureKind::OutOfMemory, "no memory")));
    for (heard, told, about) in [
        (vec![internal(0), internal(2), lost()], "killed", 1),
        (vec![internal(0), full], "rank 2: no memory", 2),
        (vec![internal(0)], "rank 0: rank 1 is gone", 0),
        // The device of the one that says nothing is doubted.
        (vec![internal(0), internal(2)], "rank 0: rank 1 is gone", 1),
    ] {
        let (of_ranks, folded) = mpsc::channel(4);
        let (said, mut out) = mpsc::channel(4);
        crate::tasks::spawn("fold", fold(folded, said, live()));
        for message in heard {
            of_ranks.send(message).await.unwrap();
        }
        drop(of_ranks);
        let first = out.recv().await.unwrap();
        assert_eq!(first.rank, about);
        let first = match first.reply {
            WorkerReply::Lost { cause } | WorkerReply::Unusable { cause } => cause,
            WorkerReply::Message(FromWorker {
                body: Body::Failed(failure),
                ..
            }) => failure.message,
            other => panic!("{other:?}"),
        };
        assert_eq!(first, told);
        assert!(out.recv().await.is_none(), "one end");
    }
}

/// A run that ends between the starts of two ranks leaves no worker that nobody ever ends.
#[actix::test]
async fn ranks_hear_of_an_attempt_that_listens_no_more() {
    let (of_ranks, folded) = mpsc::channel(4);
    let (said, out) = mpsc::channel(4);
    crate::tasks::spawn("fold", fold(folded, said, live()));
    drop(out);
    let heard = tokio::time::timeout(Duration::from_secs(60), of_ranks.closed()).await;
    assert!(heard.is_ok(), "the fold serves a gang that nobody hears");
}
