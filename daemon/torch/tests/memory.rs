//! This test has a process of its own, because the allocator is global.

use r1d_torch::memory;
use tch::{Kind, Tensor, kind::FLOAT_CPU};

const MIB: usize = 1 << 20;

/// Page faults of this thread so far; 0 if the system does not count them.
fn page_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .and_then(|rest| rest.split(' ').nth(7)?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn freed_tensors_are_kept_within_the_limit_and_not_faulted_in_again() {
    let early = Tensor::ones([1 << 20], FLOAT_CPU);
    memory::keep_freed(300 * MIB);
    drop(early);
    assert_eq!(
        memory::kept(),
        0,
        "a block of the former allocator went to the wrong place"
    );

    let megabytes = |count: usize| Tensor::ones([(count * MIB / 4) as i64], FLOAT_CPU);
    let thread = std::thread::spawn(move || {
        r1d_torch::runtime::set_threads(1).unwrap();
        drop(megabytes(100));
        let before = page_faults();
        (0..5).for_each(|_| drop(megabytes(100)));
        page_faults() - before
    });
    // Five times 100 MiB would be 128,000 pages of 4 KiB.
    let faults = thread.join().unwrap();
    assert!(faults < 2_000, "{faults} page faults");
    assert!(
        (100 * MIB..114 * MIB).contains(&memory::kept()),
        "{} bytes kept",
        memory::kept()
    );

    let several: Vec<Tensor> = (0..5).map(|_| megabytes(100)).collect();
    assert_eq!(memory::kept(), 0);
    drop(several);
    assert!(
        memory::kept() <= 300 * MIB && memory::kept() > 190 * MIB,
        "{} bytes kept",
        memory::kept()
    );

    // Values survive reuse, growth in place and small blocks.
    let mut x = Tensor::arange(100_000, FLOAT_CPU);
    let _ = x.resize_([200_000]);
    assert_eq!(x.double_value(&[99_999]), 99_999.0);
    assert_eq!(
        f64::try_from((megabytes(3) + megabytes(3)).sum(Kind::Double)).unwrap(),
        2.0 * 3.0 * (MIB / 4) as f64
    );
    assert_eq!(Tensor::zeros([0], FLOAT_CPU).numel(), 0);

    memory::release_kept();
    assert_eq!(memory::kept(), 0);
    drop(megabytes(10));
    assert!(memory::kept() > 0);
}
