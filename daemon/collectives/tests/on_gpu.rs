//! The collectives between tensors on a GPU bring the bits that they bring on the CPU: over NCCL,
//! with a gang of one, and over Gloo, with two ranks on one GPU.

mod served;

use r1d_collectives::exchange::SharedGroup;
use r1d_collectives::open::{Member, OpenError, Transport, open};
use r1d_collectives::rendezvous::{Rendezvous, Shared};
use r1d_collectives::sum::{all_reduce, even_shares, reduce_scatter};
use r1d_collectives::{Call, ProcessGroup};
use r1d_proto::world::{SystemClock, counter_uniform};
use r1d_torch::{device, runtime};
use served::Served;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// A deadline that no test reaches.
const LONG: Duration = Duration::from_secs(60);
const GPU: Device = Device::Cuda(0);
const HOST: &str = "127.0.0.1";

fn connect(
    (rank, size): (usize, usize),
    transport: &Transport,
    at: Arc<dyn Rendezvous>,
) -> Result<ProcessGroup, OpenError> {
    device::open("cuda:0").unwrap();
    let build = "test".to_owned();
    let own = Member { rank, size, build };
    open("test", &own, transport, at, SystemClock::shared(), LONG)
}

fn nccl() -> Transport {
    let (host, device) = (HOST.to_owned(), GPU);
    Transport::Nccl { host, device }
}

fn call(name: &str) -> Call<'_> {
    Call::new(name, LONG)
}

/// Numbers of a rank, which are not whole.
fn numbers(rank: usize, shape: &[i64], kind: Kind) -> Tensor {
    let draw = |at: i64| counter_uniform(&[rank as u64, at as u64]) * 200.0 - 50.0;
    let count = shape.iter().product();
    let drawn: Vec<f32> = (0..count).map(draw).collect();
    let numbers = Tensor::from_slice(&drawn).view(shape);
    match kind {
        Kind::Uint8 => numbers.abs().to_kind(kind),
        _ => numbers.to_kind(kind),
    }
}

/// What every collective brings to tensors on a device, one after the other.
fn everything(group: &SharedGroup, on: Device) -> Vec<Tensor> {
    let rank = group.lock().rank();
    let size = group.lock().size();
    let mut found = Vec::new();
    for kind in [Kind::Float, Kind::BFloat16, Kind::Int64, Kind::Uint8] {
        let mut group = group.lock();
        let own = |rows: i64| numbers(rank, &[rows, 5, 3], kind).to_device(on);
        let sent: Vec<i64> = (0..size).map(|to| ((rank + to + 2) % 3) as i64).collect();
        let rows = own(sent.iter().sum());
        let exchanged = group.all_to_all(call("rows"), &rows, &sent).unwrap();
        let turned = rows.transpose(1, 2);
        let uneven = group.all_gather(call("all rows"), &turned).unwrap();
        let even = group.all_gather(call("seven rows"), &own(7)).unwrap();
        let mut last = own(4);
        group
            .broadcast(call("of the last"), &mut last, size - 1)
            .unwrap();
        found.extend([exchanged.rows, uneven.rows, even.rows, last]);
    }
    for kind in [Kind::Float, Kind::BFloat16] {
        let mut group = group.lock();
        let own = numbers(rank, &[1001, 3], kind).to_device(on);
        let shares = even_shares(1001, size);
        let part = reduce_scatter(&mut group, call("part"), &own, &shares).unwrap();
        let whole = all_reduce(&mut group, call("sum"), &own).unwrap();
        group.barrier(call("done")).unwrap();
        found.extend([part, whole]);
    }
    found.extend(exchange(group, on));
    assert!(found.iter().all(|own| own.device() == on));
    found.iter().map(|own| own.to_device(Device::Cpu)).collect()
}

/// Tokens go to experts on other ranks and back: the outputs, and the gradients of the tokens. The
/// expert of rank d computes (d + 1) x².
fn exchange(group: &SharedGroup, on: Device) -> [Tensor; 2] {
    let rank = group.lock().rank();
    let size = group.lock().size();
    let sent: Vec<i64> = (0..size)
        .map(|to| 3 * ((rank + to) % 2) as i64 + 1)
        .collect();
    let tokens = numbers(rank, &[sent.iter().sum(), 8], Kind::Float);
    let tokens = tokens.to_device(on).set_requires_grad(true);
    let there = group.all_to_all(call("dispatch"), &tokens, &sent).unwrap();
    let outputs = &there.rows * &there.rows * (rank as f64 + 1.0);
    let back = group.all_to_all(call("combine"), &outputs, &there.counts);
    let back = back.unwrap();
    assert_eq!(back.counts, sent);
    let weights = numbers(rank + 7, &back.rows.size(), Kind::Float).to_device(on);
    runtime::backward(&(&back.rows * weights).sum(Kind::Float)).unwrap();
    [back.rows.detach(), tokens.grad()]
}

fn assert_same_as_on_the_cpu(group: ProcessGroup) {
    let group = SharedGroup::new(group);
    let (expected, found) = (everything(&group, Device::Cpu), everything(&group, GPU));
    assert_eq!(expected.len(), found.len());
    for (at, (expected, found)) in expected.iter().zip(&found).enumerate() {
        assert_eq!(expected.kind(), found.kind());
        assert!(
            expected.equal(found),
            "result {at}: {found} is not {expected}"
        );
    }
}

#[test]
#[ignore = "needs a GPU"]
fn nccl_brings_the_bits_of_the_cpu() {
    let group = connect((0, 1), &nccl(), Arc::new(Shared::default())).unwrap();
    assert_same_as_on_the_cpu(group);
}

/// What is sent is what the kernels before the call make, though nobody waits for them.
#[test]
#[ignore = "needs a GPU"]
fn nccl_sends_behind_the_kernels_and_kernels_read_behind_it() {
    let mut group = connect((0, 1), &nccl(), Arc::new(Shared::default())).unwrap();
    let matrix = Tensor::randn([4096, 4096], (Kind::BFloat16, GPU)) * (1.0 / 64.0);
    for _ in 0..5 {
        let made = (0..40).fold(matrix.shallow_clone(), |product, _| product.matmul(&matrix));
        let received = group.all_to_all(call("product"), &made, &[4096]).unwrap();
        let next = received.rows.matmul(&matrix);
        assert!(received.rows.equal(&made));
        assert!(next.equal(&made.matmul(&matrix)));
    }
}

#[test]
#[ignore = "needs a GPU"]
fn nccl_refuses_two_ranks_on_one_gpu_and_says_what_to_do() {
    let at: Arc<dyn Rendezvous> = Arc::new(Shared::default());
    let errors: Vec<String> = std::thread::scope(|scope| {
        let start = |rank: usize| {
            let at = Arc::clone(&at);
            scope.spawn(move || connect((rank, 2), &nccl(), at).err().unwrap().to_string())
        };
        let threads: Vec<_> = (0..2).map(start).collect();
        threads.into_iter().map(|own| own.join().unwrap()).collect()
    });
    for error in errors {
        println!("{error}");
        assert!(error.contains("NCCL does not connect the ranks"), "{error}");
        assert!(error.contains("transport = \"gloo\""), "{error}");
    }
}

/// Two processes, since a backward pass on a GPU has one thread in each.
#[test]
#[ignore = "needs a GPU"]
fn two_ranks_on_one_gpu_have_the_bits_of_the_cpu_over_gloo() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("rendezvous");
    served::serve(&socket);
    let start = |rank: usize| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "rank", "--ignored", "--nocapture"])
            .env("R1D_RANK", rank.to_string())
            .env("R1D_RENDEZVOUS", &socket)
            .spawn()
            .unwrap()
    };
    let ranks: Vec<_> = (0..2).map(start).collect();
    // Each has a deadline for all that it does.
    for (rank, mut process) in ranks.into_iter().enumerate() {
        assert!(process.wait().unwrap().success(), "rank {rank}");
    }
}

/// One of two ranks, in a process of its own.
#[test]
#[ignore = "a rank of the test above"]
fn rank() {
    let variable = |name: &str| std::env::var(name).ok();
    let Some((rank, at)) = variable("R1D_RANK").zip(variable("R1D_RENDEZVOUS")) else {
        return;
    };
    let gloo = Transport::Gloo { host: HOST.into() };
    let at = Arc::new(Served::at(PathBuf::from(at)));
    let group = connect((rank.parse().unwrap(), 2), &gloo, at);
    assert_same_as_on_the_cpu(group.unwrap());
}
