//! What ranks rely on when they find each other: in memory, as a daemon serves it, and over the
//! channel of a worker.

use r1d_proto::rendezvous::{
    Ask, KEY_BYTES_MAX, KEYS_MAX, RendezvousAnswer, RendezvousCall, VALUE_BYTES_MAX,
};
use r1d_rendezvous::{
    Below, CALLS_MAX, Carried, Rendezvous, RendezvousError, Served, Shared, ToRank, WAIT_MAX,
};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

#[test]
fn numbers_add_up() {
    let table = Shared::default();
    assert_eq!(table.add("count", 2).unwrap(), 2);
    assert_eq!(table.add("count", -5).unwrap(), -3);
    table.set("text", b"x").unwrap();
    for (key, amount) in [("text", 1), ("count", i64::MIN)] {
        let refused = table.add(key, amount);
        assert!(matches!(refused, Err(RendezvousError::NoNumber { .. })));
    }
}

#[test]
fn a_rendezvous_holds_no_tensors() {
    let table = Shared::default();
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    let large = vec![0; VALUE_BYTES_MAX + 1];
    for (key, value) in [("large", large), (&long, vec![])] {
        let refused = table.set(key, &value);
        assert!(
            matches!(refused, Err(RendezvousError::Full { .. })),
            "{key}"
        );
    }
    for key in 0..KEYS_MAX {
        table.set(&key.to_string(), &[]).unwrap();
    }
    assert!(table.set("one more", &[]).is_err());
    table.set("0", b"set again").unwrap();
}

#[test]
fn a_key_is_waited_for_and_a_missing_one_is_named() {
    let shared = Arc::new(Shared::default());
    let setter = Arc::clone(&shared);
    let thread = std::thread::spawn(move || setter.set("address", b"1.2.3.4"));
    assert_eq!(
        shared.get("address", Duration::from_secs(20)).unwrap(),
        b"1.2.3.4"
    );
    thread.join().unwrap().unwrap();
    assert!(shared.has("address").unwrap());
    assert!(!shared.has("other").unwrap());
    let error = shared.get("other", Duration::from_millis(5)).unwrap_err();
    assert_eq!(error.to_string(), "nobody set `other` within 5ms");
}

#[test]
fn epochs_do_not_meet() {
    let shared: Arc<dyn Rendezvous> = Arc::new(Shared::default());
    let first = Below::new("job/1", Arc::clone(&shared));
    let second = Below::new("job/2", Arc::clone(&shared));
    first.set("rank 0", b"here").unwrap();
    assert!(!second.has("rank 0").unwrap());
    assert!(shared.has("job/1/rank 0").unwrap());
}

const SECOND: Duration = Duration::from_secs(1);

fn call(number: u64, key: &str, ask: Ask) -> RendezvousCall {
    let key = key.to_owned();
    RendezvousCall { number, key, ask }
}

fn get(within: Duration) -> Ask {
    Ask::Get { within }
}

fn answered(rank: usize, number: u64, value: &[u8]) -> ToRank {
    let result = Ok(value.to_vec());
    ToRank {
        rank,
        answer: RendezvousAnswer { number, result },
    }
}

#[test]
fn who_sets_a_key_wakes_all_who_wait_for_it_and_nobody_else() {
    let mut served = Served::default();
    assert_eq!(served.call(0, call(1, "a", get(SECOND)), SECOND), []);
    assert_eq!(served.call(2, call(7, "a", get(SECOND)), SECOND), []);
    assert_eq!(served.call(0, call(2, "b", get(SECOND)), SECOND), []);
    let answers = served.call(1, call(1, "a", Ask::Set(b"x".to_vec())), SECOND);
    let all = [
        answered(1, 1, b""),
        answered(0, 1, b"x"),
        answered(2, 7, b"x"),
    ];
    assert_eq!(answers, all);
    let missed: Vec<_> = served.missed().map(|m| (m.rank, m.key)).collect();
    assert_eq!(missed, [(0, "b".to_owned())]);
    let counted = served.call(1, call(2, "b", Ask::Add(-3)), SECOND);
    assert_eq!(counted, [answered(1, 2, b"-3"), answered(0, 2, b"-3")]);
}

#[test]
fn a_wait_ends_at_its_deadline_with_the_key_that_is_missing() {
    let mut served = Served::default();
    assert_eq!(
        served.call(3, call(1, "all/member/1", get(SECOND)), SECOND),
        []
    );
    assert_eq!(served.expired(SECOND * 2 - Duration::from_nanos(1)), []);
    let over = served.expired(SECOND * 2);
    let [ToRank { rank: 3, answer }] = &over[..] else {
        panic!("{over:?}");
    };
    assert_eq!(
        answer.result.as_ref().unwrap_err().to_string(),
        "nobody set `all/member/1` within 1s"
    );
    assert_eq!(served.expired(SECOND * 9), []);
    // No wait is for ever.
    served.call(3, call(3, "never", get(Duration::MAX)), SECOND);
    assert_eq!(served.expired(SECOND + WAIT_MAX).len(), 1);
    // A check does not wait.
    let checked = served.call(3, call(2, "all/member/1", get(Duration::ZERO)), SECOND);
    assert!(matches!(
        checked[0].answer.result,
        Err(RendezvousError::Absent { .. })
    ));
}

#[test]
fn a_rank_has_a_limited_number_of_waits() {
    let mut served = Served::default();
    for number in 0..CALLS_MAX as u64 {
        assert_eq!(served.call(0, call(number, "k", get(SECOND)), SECOND), []);
    }
    let refused = served.call(0, call(99, "k", get(SECOND)), SECOND);
    assert!(refused[0].answer.result.is_err());
    assert_eq!(served.call(1, call(0, "k", get(SECOND)), SECOND), []);
}

const LONG: Duration = Duration::from_secs(20);

/// Two ranks whose calls one [`Served`] answers.
fn two_ranks() -> [Arc<Carried>; 2] {
    let served = Arc::new(Mutex::new(Served::default()));
    let ranks: Arc<OnceLock<[Arc<Carried>; 2]>> = Arc::default();
    let rank = |rank: usize| {
        let (served, ranks) = (Arc::clone(&served), Arc::clone(&ranks));
        Arc::new(Carried::new(move |call| {
            let answers = served.lock().unwrap().call(rank, call, Duration::ZERO);
            for to in answers {
                ranks.get().unwrap()[to.rank].answered(to.answer);
            }
            true
        }))
    };
    let both = [rank(0), rank(1)];
    ranks.set(both.clone()).ok();
    both
}

#[test]
fn ranks_meet_over_their_channels() {
    let [first, second] = two_ranks();
    let waiting = Arc::clone(&first);
    let thread = std::thread::spawn(move || waiting.get("address", LONG));
    second.set("address", b"1.2.3.4").unwrap();
    assert_eq!(thread.join().unwrap().unwrap(), b"1.2.3.4");
    assert!(!second.has("other").unwrap());
    assert_eq!(first.add("count", 2).unwrap(), 2);
    assert_eq!(second.add("count", -3).unwrap(), -1);
    assert!(matches!(
        first.add("address", 1),
        Err(RendezvousError::NoNumber { .. })
    ));
}

#[test]
fn a_call_that_nobody_takes_is_an_error_at_once() {
    let alone = Carried::new(|_| false);
    let error = alone.get("a", LONG).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the rendezvous cannot be reached: the daemon is gone"
    );
}
