//! The memory that gradient checkpointing saves: a test binary of its own, because it measures its
//! process.

mod tiny;

use r1d_learn::Trainer;
use r1d_proto::hyperparameters::GradientCheckpointing;
use r1d_proto::worker::Supervise;
use tiny::*;

/// A line of the process's status, in KiB: `VmRSS`, the memory that it has, or `VmHWM`, the most
/// that it has had.
fn memory_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value.unwrap().parse().unwrap()
}

#[test]
fn an_update_by_blocks_needs_a_fraction_of_the_whole_passs_memory() {
    let update = |checkpointing, sequences: usize| {
        let model = deep_qwen2();
        let mut trainer = Trainer::new(&model, &optimiser(1e-3), NO_ROUTER_TRAINING, 8192, false)
            .unwrap()
            .with_checkpointing(checkpointing);
        let batch = Supervise {
            step: 0,
            sequences: text(7, &vec![65; sequences]),
        };
        let _ = trainer.supervise(&model, &batch).unwrap();
    };
    // What libtorch needs for its first update is not the update's.
    update(None, 1);
    let before = memory_kib("VmRSS");
    // The peak only grows, so the update that needs less comes first.
    update(
        Some(GradientCheckpointing {
            recompute_num_layers: u32::MAX,
        }),
        64,
    );
    let by_blocks = memory_kib("VmHWM") - before;
    update(None, 64);
    let whole = memory_kib("VmHWM") - before;
    assert!(by_blocks * 3 < whole, "{by_blocks} KiB and {whole} KiB");
}
