//! What an update does when memory runs out in the middle of it: a test binary of its own, because
//! its allocator refuses memory to the whole process.

mod tiny;

use r1d_learn::{LearnError, Trainer};
use r1d_model::CausalLm;
use r1d_proto::worker::{Metrics, Supervise};
use r1d_torch::memory;
use tch::{Kind, Tensor};
use tiny::*;

/// The weights and all that a trainer keeps.
fn kept(model: &CausalLm, trainer: &Trainer) -> Vec<Tensor> {
    let weights = model.parameters().into_iter();
    let all = weights.chain(trainer.state());
    all.map(|(_, own)| own.detach().copy()).collect()
}

fn start(tokens: u32) -> (CausalLm, Trainer) {
    let model = qwen2(Kind::Float);
    let trainer = Trainer::new(&model, &optimiser(1e-3), NO_ROUTER_TRAINING, tokens, false);
    (model, trainer.unwrap())
}

/// Makes one update with micro-batches of `tokens` and, during it, no tensor above `most` bytes.
/// Returns what it said and what it left.
fn update(tokens: u32, most: Option<usize>) -> (Result<Metrics, LearnError>, Vec<Tensor>) {
    let (model, mut trainer) = start(tokens);
    let batch = Supervise {
        step: 0,
        sequences: text(7, &[65; 64]),
    };
    memory::refuse_above(most);
    let said = trainer.supervise(&model, &batch);
    memory::refuse_above(None);
    (said, kept(&model, &trainer))
}

fn equal(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equal(b))
}

/// 4,096 tokens in one micro-batch need twice the memory of two of 2,048.
#[test]
fn an_update_without_memory_is_made_in_halves_once_and_then_fails_as_a_whole() {
    memory::keep_freed(0);
    let (fresh, halves) = (update(8192, Some(0)), update(2048, None));
    assert!(halves.0.is_ok());
    // The least that an update in halves gets along with. With less it goes on in quarters, and
    // ends with other bits.
    let fits = |most: &usize| equal(&update(2048, Some(*most)).1, &halves.1);
    let most = (12..30).map(|bits| 1 << bits).find(fits).unwrap();
    let whole = update(4096, Some(most / 2));
    assert!(
        whole.0.is_err(),
        "a half needs more than {} bytes",
        most / 2
    );

    let (said, left) = update(8192, Some(most));
    assert!(said.is_ok(), "{said:?}");
    assert!(equal(&left, &halves.1), "the update in halves");
    assert!(!equal(&left, &update(8192, None).1), "not in one");

    let (model, trainer) = start(8192);
    for (said, left) in [fresh, whole] {
        let error = said.unwrap_err();
        assert!(error.ran_out_of_memory(), "{error}");
        assert!(equal(&left, &kept(&model, &trainer)), "nothing was changed");
    }
}
