//! Ranks as real processes over Gloo and over QUIC, which meet at a rendezvous that this process
//! serves: they compute what one would, and when one of them dies, stops or makes another call, all
//! others end with an error that says which.

mod served;

use r1d_collectives::open::{Member, Transport, open};
use r1d_collectives::sum::{TreeSum, all_reduce};
use r1d_collectives::{Call, CollectiveError, ProcessGroup};
use r1d_parallel::micro_batches::run_of;
use r1d_proto::world::{SystemClock, counter_hash};
use served::Served;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// A deadline that no test reaches.
const LONG: Duration = Duration::from_secs(120);
/// The deadline of a call that waits for a stopped rank.
const SHORT: Duration = Duration::from_secs(3);
/// How long a test waits for the next line of any rank.
const SILENCE: Duration = Duration::from_secs(60);

/// The transports between processes.
const TRANSPORTS: [&str; 2] = ["gloo", "quic"];

// --- a rank

/// One rank of a gang, in a process of its own: what the tests below start.
#[test]
#[ignore = "a rank of the other tests"]
fn rank() {
    let variable = |name: &str| std::env::var(name).expect(name);
    let number = |name: &str| variable(name).parse::<usize>().unwrap();
    let (rank, size) = (number("R1D_RANK"), number("R1D_RANKS"));
    let own = Member {
        rank,
        size,
        build: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let host = "127.0.0.1".to_owned();
    let transport = match variable("R1D_TRANSPORT").as_str() {
        "quic" => Transport::Quic { host },
        _ => Transport::Gloo { host },
    };
    let rendezvous = Arc::new(Served::at(PathBuf::from(variable("R1D_RENDEZVOUS"))));
    let clock = SystemClock::shared();
    let mut group = open("job/1/all", &own, &transport, rendezvous, clock, LONG).unwrap();
    say(rank, "is connected");
    let ended = match variable("R1D_PART").as_str() {
        "gradients" => gradients(&mut group),
        "speed" => speed(&mut group),
        "mismatch" => steps(&mut group, LONG, Some(5)),
        "stopped" => steps(&mut group, SHORT, None),
        _ => steps(&mut group, LONG, None),
    };
    match ended {
        Ok(text) => say(rank, &text),
        Err(error) => say(rank, &format!("ends: {error}")),
    }
}

fn say(rank: usize, text: &str) {
    println!("\nrank {rank} {text}");
}

/// The gradients of a step of 8 micro-batches, and every other collective on the way.
fn gradients(group: &mut ProcessGroup) -> Result<String, CollectiveError> {
    let (rank, size) = (group.rank(), group.size());
    let leaf = |at: usize| {
        let number = |i: u64| (counter_hash(&[at as u64, i]) >> 40) as f32 / 1e6 - 8.0;
        Tensor::from_slice(&(0..1000).map(number).collect::<Vec<_>>())
    };
    let mut own = TreeSum::default();
    for at in run_of(rank, size, 8).unwrap() {
        own.push(Some(leaf(at)))?;
    }
    let own = own.finish()?.unwrap();
    let sum = all_reduce(group, Call::new("gradients", LONG), &own)?;
    let bits: Vec<f32> = Vec::try_from(&sum).unwrap();
    let bits: Vec<u64> = bits.iter().map(|x| u64::from(x.to_bits())).collect();

    // Rank r sends r + d rows to rank d, in bfloat16; rank 0 sends itself none.
    let sent: Vec<i64> = (0..size).map(|d| (rank + d) as i64).collect();
    let shape = [sent.iter().sum(), 3];
    let rows = Tensor::full(shape, rank as f64, (Kind::BFloat16, Device::Cpu));
    let received = group.all_to_all(Call::new("dispatch", LONG), &rows, &sent)?;
    assert_eq!(received.counts, sent);
    let wanted = sent
        .iter()
        .enumerate()
        .map(|(from, n)| from as f64 * 3.0 * *n as f64);
    assert_eq!(
        f64::try_from(received.rows.sum(Kind::Double)).unwrap(),
        wanted.sum::<f64>()
    );
    let gathered = group.all_gather(Call::new("rows", LONG), &rows)?;
    assert_eq!(gathered.rows.size(), [gathered.counts.iter().sum(), 3]);
    let mut weights = Tensor::full([5], rank as f64, (Kind::Float, Device::Cpu));
    group.broadcast(Call::new("weights", LONG), &mut weights, size - 1)?;
    assert_eq!(
        weights,
        Tensor::full([5], size as f64 - 1.0, (Kind::Float, Device::Cpu))
    );
    group.barrier(Call::new("end", LONG))?;
    Ok(format!("has {:x}", counter_hash(&bits)))
}

/// Exchanges rows step after step, until a call fails. Rank 1 makes another call at step `other`.
fn steps(
    group: &mut ProcessGroup,
    within: Duration,
    other: Option<u64>,
) -> Result<String, CollectiveError> {
    let (rank, size) = (group.rank(), group.size());
    let rows = Tensor::zeros([size as i64 * 1000, 16], (Kind::Float, Device::Cpu));
    for step in 0.. {
        let name = format!("step {step}");
        if rank == 1 && other == Some(step) {
            group.barrier(Call::new("checkpoint", within))?;
        }
        group.all_to_all(Call::new(&name, within), &rows, &vec![1000; size])?;
        if step % 20 == 0 {
            say(rank, &format!("made {name}"));
        }
    }
    Ok("never ends".to_owned())
}

/// Measures what one rank sends and receives, itself included, in all-to-alls of 16 MiB; and how
/// long a barrier takes, which is what each call tells before it.
fn speed(group: &mut ProcessGroup) -> Result<String, CollectiveError> {
    const MIB: i64 = 16;
    const TIMES: u32 = 20;
    let clock = SystemClock::shared();
    let size = group.size() as i64;
    let rows = Tensor::zeros([MIB << 10, 1 << 10], (Kind::Uint8, Device::Cpu));
    let each = vec![(MIB << 10) / size; group.size()];
    let mut timed = |call: &mut dyn FnMut(&mut ProcessGroup) -> Result<(), CollectiveError>| {
        call(group)?;
        let begun = clock.now();
        for _ in 0..TIMES {
            call(group)?;
        }
        Ok::<Duration, CollectiveError>((clock.now() - begun) / TIMES)
    };
    let exchange = timed(&mut |group| {
        group
            .all_to_all(Call::new("rows", LONG), &rows, &each)
            .map(|_| ())
    })?;
    let numbers = Tensor::zeros([MIB << 18], (Kind::Float, Device::Cpu));
    let sum =
        timed(&mut |group| all_reduce(group, Call::new("gradients", LONG), &numbers).map(|_| ()))?;
    let barrier = timed(&mut |group| group.barrier(Call::new("barrier", LONG)))?;
    let speed = MIB as f64 * 1.048_576 / exchange.as_secs_f64();
    Ok(format!(
        "all-to-all of {MIB} MiB: {exchange:.1?}, {speed:.0} MB/s; all-reduce: {sum:.1?}; \
         barrier: {barrier:.1?}"
    ))
}

// --- a gang

/// Ranks that were started. They die with it.
struct Gang {
    ranks: Vec<Child>,
    lines: Receiver<(usize, String)>,
    _folder: tempfile::TempDir,
}

impl Gang {
    fn start(transport: &str, part: &str, size: usize) -> Gang {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("rendezvous");
        served::serve(&socket);
        let (sender, lines) = channel();
        let ranks = (0..size).map(|rank| {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "rank", "--ignored", "--nocapture"])
                .env("R1D_TRANSPORT", transport)
                .env("R1D_PART", part)
                .env("R1D_RANK", rank.to_string())
                .env("R1D_RANKS", size.to_string())
                .env("R1D_RENDEZVOUS", &socket)
                .env("OMP_NUM_THREADS", "1")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let (stdout, sender) = (child.stdout.take().unwrap(), sender.clone());
            std::thread::spawn(move || {
                let prefix = format!("rank {rank} ");
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if let Some(text) = line.strip_prefix(&prefix) {
                        // The test may have ended.
                        sender.send((rank, text.to_owned())).ok();
                    }
                }
            });
            child
        });
        Gang {
            ranks: ranks.collect(),
            lines,
            _folder: folder,
        }
    }

    /// Waits for a line of any rank that begins like this.
    fn wait_for(&self, rank: usize, start: &str) {
        while let Ok((of, line)) = self.lines.recv_timeout(SILENCE) {
            if of == rank && line.starts_with(start) {
                return;
            }
            assert!(!line.starts_with("ends: "), "rank {of} {line}");
        }
        panic!("rank {rank} never {start}");
    }

    /// The last line of each rank that has one which begins like this, when `count` have.
    fn ends(&self, count: usize, start: &str) -> BTreeMap<usize, String> {
        let mut found = BTreeMap::new();
        while found.len() < count {
            let (rank, line) = self.lines.recv_timeout(SILENCE).expect("a rank is silent");
            if let Some(text) = line.strip_prefix(start) {
                found.insert(rank, text.to_owned());
            }
        }
        found
    }

    fn signal(&self, rank: usize, signal: libc::c_int) {
        // SAFETY: a child of ours that was not waited for.
        assert_eq!(
            unsafe { libc::kill(self.ranks[rank].id() as libc::pid_t, signal) },
            0
        );
    }
}

impl Drop for Gang {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            // It may have ended by itself.
            rank.kill().ok();
            rank.wait().ok();
        }
    }
}

#[test]
fn gradients_have_the_same_bits_on_two_and_on_four_ranks_over_any_transport() {
    let mut found = Vec::new();
    for transport in TRANSPORTS {
        for size in [2, 4] {
            let of_ranks = Gang::start(transport, "gradients", size).ends(size, "has ");
            found.extend(of_ranks.into_values());
        }
    }
    assert_eq!(found.len(), 12);
    assert!(found.iter().all(|bits| *bits == found[0]), "{found:?}");
}

#[test]
fn a_rank_that_is_killed_is_named_by_all_others_at_once() {
    for transport in TRANSPORTS {
        let gang = Gang::start(transport, "killed", 4);
        gang.wait_for(2, "made step 20");
        gang.signal(2, libc::SIGKILL);
        // Long before the calls' deadline.
        for (rank, error) in gang.ends(3, "ends: ") {
            assert_ne!(rank, 2);
            assert!(
                error.starts_with(&format!("group `job/1/all`, rank {rank}: `step ")),
                "{error}"
            );
            assert!(
                error.contains(": rank 2 is waited for: dead, stopped"),
                "{transport}: {error}"
            );
        }
    }
}

#[test]
fn a_rank_that_is_stopped_is_named_at_the_deadline() {
    for transport in TRANSPORTS {
        let gang = Gang::start(transport, "stopped", 4);
        gang.wait_for(1, "made step 20");
        gang.signal(1, libc::SIGSTOP);
        for (rank, error) in gang.ends(3, "ends: ") {
            assert_ne!(rank, 1);
            assert!(error.contains("`step "), "{error}");
            assert!(
                error.contains(": rank 1 is waited for: dead, stopped"),
                "{transport}: {error}"
            );
        }
    }
}

#[test]
fn a_rank_that_makes_another_call_is_named_with_both_calls() {
    for transport in TRANSPORTS {
        let gang = Gang::start(transport, "mismatch", 2);
        let errors = gang.ends(2, "ends: ");
        let [step, checkpoint] = [
            "`step 5` (call 6: all-to-all of Float rows [16])",
            "`checkpoint` (call 6: barrier)",
        ];
        assert_eq!(
            errors[&0],
            format!("group `job/1/all`: rank 0 calls {step}, rank 1 calls {checkpoint}")
        );
        assert_eq!(
            errors[&1],
            format!("group `job/1/all`: rank 1 calls {checkpoint}, rank 0 calls {step}")
        );
    }
}

#[test]
#[ignore = "prints how fast the loopback interface is"]
fn speed_of_the_loopback_interface() {
    for transport in TRANSPORTS {
        for size in [2, 4] {
            let told = Gang::start(transport, "speed", size).ends(size, "all-to-all");
            for (rank, text) in told {
                println!("{transport}, {size} ranks, rank {rank}: all-to-all{text}");
            }
        }
    }
}
