//! Tests which algorithms sampling uses. It is the only test of its process, because the choice
//! holds for the whole process.

mod tiny;

use r1d_torch::runtime::{is_deterministic, set_deterministic};
use tiny::*;

/// On a GPU deterministic algorithms cost sampling more than half of its time, and training is not
/// repeatable without them.
#[test]
fn sampling_does_without_deterministic_algorithms_and_leaves_training_with_them() {
    set_deterministic(true).unwrap();
    let model = model(QWEN2);
    let mut sampler = sampler(&model, 2, false);
    let (mut heard, mut steps) = (Vec::new(), Vec::new());
    sampler
        .generate(
            &model,
            &request(3, 1),
            &mut |_| heard.push(is_deterministic()),
            &mut |_, _| steps.push(is_deterministic()),
        )
        .unwrap();
    assert!(!heard.is_empty() && !steps.is_empty());
    assert!(
        !heard.contains(&true) && !steps.contains(&true),
        "{heard:?} {steps:?}"
    );
    assert!(is_deterministic(), "what trains next has them");
}
