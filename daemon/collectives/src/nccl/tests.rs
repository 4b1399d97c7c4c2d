//! What NCCL is asked for, in which order, and what becomes of calls that do not end: over a
//! stand-in for the library.

use super::fake::{self, API, FakeGroup, REMOTE_ERROR};
use super::*;
use crate::flight::Blame;
use crate::rendezvous::{Below, Shared};
use crate::{Call, CollectiveError, ProcessGroup};
use r1d_proto::world::SystemClock;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

fn connect(
    api: &'static Api,
    place: (usize, usize),
    at: &Arc<Shared>,
    limit: Duration,
) -> Result<Nccl, BackendError> {
    let below = Below::new("nccl", at.clone());
    Nccl::open(
        api,
        place,
        Device::Cpu,
        &below,
        SystemClock::shared(),
        limit,
    )
}

/// Runs `rank` on each of so many threads, which carry everything over the stand-in. Returns what
/// each returned, and how the communicators ended.
fn run<T: Send>(
    size: usize,
    rank: impl Fn(&mut ProcessGroup, &'static fake::FakeComm) -> T + Sync,
) -> (Vec<T>, Arc<FakeGroup>) {
    let at = Arc::new(Shared::default());
    let found: Vec<(T, Arc<FakeGroup>)> = std::thread::scope(|scope| {
        let start = |number: usize| {
            let (rank, at) = (&rank, &at);
            scope.spawn(move || {
                let backend = connect(&API, (number, size), at, LONG).unwrap();
                let comm = unsafe { fake::of(backend.comm) };
                let hub = Arc::clone(&comm.hub);
                let backend = Box::new(backend);
                let clock = SystemClock::shared();
                let mut group = ProcessGroup::new("test", backend, at.clone(), clock);
                (rank(&mut group, comm), hub)
            })
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|own| own.join().unwrap()).collect()
    });
    let hub = Arc::clone(&found[0].1);
    (found.into_iter().map(|(own, _)| own).collect(), hub)
}

fn call(name: &str) -> Call<'_> {
    Call::new(name, LONG)
}

/// Rows of two numbers: rank r has row i as [100 r + i, -i].
fn rows(rank: usize, count: i64) -> Tensor {
    let number = |i: i64| [100 * rank as i64 + i, -i];
    let numbers: Vec<i64> = (0..count).flat_map(number).collect();
    Tensor::from_slice(&numbers).view([count, 2])
}

fn numbers(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.contiguous().view([-1])).unwrap()
}

#[test]
fn rows_go_where_they_belong_be_they_none() {
    let sent = |from: usize, to: usize| ((3 * from + 2 * to) % 4) as i64;
    for size in 1..5 {
        let counts = |from: usize| (0..size).map(|to| sent(from, to)).collect::<Vec<_>>();
        let (found, hub) = run(size, |group, _| {
            let rank = group.rank();
            let own = rows(rank, counts(rank).iter().sum());
            let exchanged = group.all_to_all(call("rows"), &own, &counts(rank)).unwrap();
            let uneven = group.all_gather(call("all rows"), &own).unwrap();
            let even = group.all_gather(call("a row"), &rows(rank, 1)).unwrap();
            let mut last = rows(rank, 2);
            group
                .broadcast(call("of the last"), &mut last, size - 1)
                .unwrap();
            group.barrier(call("end")).unwrap();
            [exchanged.rows, uneven.rows, even.rows, last].map(|rows| numbers(&rows))
        });
        for (rank, [exchanged, uneven, even, last]) in found.into_iter().enumerate() {
            let part = |from: usize| {
                let all = rows(from, counts(from).iter().sum());
                let before = counts(from)[..rank].iter().sum();
                numbers(&all.narrow(0, before, sent(from, rank)))
            };
            assert_eq!(exchanged, (0..size).flat_map(part).collect::<Vec<_>>());
            let whole = |from: usize| numbers(&rows(from, counts(from).iter().sum()));
            assert_eq!(uneven, (0..size).flat_map(whole).collect::<Vec<_>>());
            let one = |from: usize| numbers(&rows(from, 1));
            assert_eq!(even, (0..size).flat_map(one).collect::<Vec<_>>());
            assert_eq!(last, numbers(&rows(size - 1, 2)));
        }
        let ends = hub.ends();
        assert!(
            ends.len() == size && ends.values().all(|how| *how == "destroyed"),
            "{ends:?}"
        );
    }
}

#[test]
fn a_call_that_does_not_end_is_aborted_at_its_deadline_and_names_who_did_not_come() {
    let is_over = Shared::default();
    let (found, hub) = run(3, |group, comm| {
        group.barrier(call("begin")).unwrap();
        if group.rank() == 1 {
            // Its communicator lives until the others have given up.
            is_over.get("0", LONG).unwrap();
            is_over.get("2", LONG).unwrap();
            return None;
        }
        let hub = Arc::clone(&comm.hub);
        let error = group.barrier(Call::new("step", SHORT)).unwrap_err();
        // At once, since the GPU works on the call until then.
        assert_eq!(hub.ends()[&(group.rank() as c_int)], "aborted");
        is_over.set(&group.rank().to_string(), b"").unwrap();
        Some(error)
    });
    for rank in [0, 2] {
        let Some(CollectiveError::Failed { blame, cause, .. }) = &found[rank] else {
            panic!("{:?}", found[rank]);
        };
        assert_eq!(*blame, Blame::Silent(vec![1]));
        assert!(cause.starts_with("NCCL was not done after"), "{cause}");
    }
    assert_eq!(hub.ends()[&1], "destroyed");
}

#[test]
fn an_error_of_the_library_ends_the_call_with_its_text() {
    let is_over = Shared::default();
    let (waits, is_waiting) = std::sync::mpsc::channel();
    let is_waiting = std::sync::Mutex::new(is_waiting);
    let (found, hub) = run(2, |group, comm| {
        group.barrier(call("begin")).unwrap();
        if group.rank() == 1 {
            let first: &AtomicI32 = is_waiting.lock().unwrap().recv().unwrap();
            while first.load(Ordering::SeqCst) != IN_PROGRESS {
                yield_now();
            }
            first.store(REMOTE_ERROR, Ordering::SeqCst);
            is_over.get("0", LONG).unwrap();
            return None;
        }
        waits.send(&comm.state).unwrap();
        let error = group.barrier(call("step")).unwrap_err().to_string();
        is_over.set("0", b"").unwrap();
        Some(error)
    });
    let error = found[0].as_ref().unwrap();
    let text =
        "NCCL: remote process exited or there was a network error (the last line of the log)";
    assert!(error.contains(text), "{error}");
    assert_eq!(hub.ends()[&0], "aborted");
}

#[test]
fn a_rank_that_does_not_connect_is_not_waited_for_for_ever() {
    let at = Arc::new(Shared::default());
    let refused = |place| connect(&API, place, &at, SHORT).err().unwrap().to_string();
    let alone = refused((0, 2));
    assert!(alone.starts_with("NCCL was not done after"), "{alone}");
    let elsewhere = Arc::new(Shared::default());
    let without = connect(&API, (1, 2), &elsewhere, SHORT).err().unwrap();
    assert!(
        without.to_string().contains("the id of rank 0's NCCL"),
        "{without}"
    );
}

fn api_of(get_version: unsafe extern "C" fn(*mut c_int) -> Status) -> &'static Api {
    Box::leak(Box::new(Api {
        get_version,
        ..API.clone()
    }))
}

unsafe extern "C" fn old(version: *mut c_int) -> Status {
    unsafe { *version = 21_210 };
    api::SUCCESS
}

unsafe extern "C" fn newer(version: *mut c_int) -> Status {
    unsafe { *version = 22_907 };
    api::SUCCESS
}

#[test]
fn other_versions_are_named() {
    assert!(API.check_version().is_ok());
    let refused = api_of(old).check_version().unwrap_err().to_string();
    assert_eq!(
        refused,
        "libnccl.so.2 is NCCL 2.12.10, and r1d knows those from 2.14 on, below 3.0"
    );
    let at = Arc::new(Shared::default());
    let unlike = std::thread::scope(|scope| {
        let other = scope.spawn(|| connect(api_of(newer), (1, 2), &at, LONG).err());
        // It ends without the second, which does not connect.
        let _ = connect(&API, (0, 2), &at, SHORT);
        other.join().unwrap().unwrap().to_string()
    });
    assert_eq!(unlike, "rank 0 has NCCL 2.28.9, rank 1 has 2.29.7");
}
