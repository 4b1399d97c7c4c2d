//! Data parallel with sharded optimiser states, as a trainer will do it: a step is cut into
//! micro-batches, their gradients are added along the tree, each rank updates the blocks that are
//! its, and the weights are gathered. Any number of ranks ends with the same weights, to the bit.

mod gangs;

use gangs::{Over, call, run};
use r1d_collectives::ProcessGroup;
use r1d_collectives::sum::{TreeSum, reduce_scatter};
use r1d_parallel::blocks::{blocks_of, share_out};
use r1d_parallel::micro_batches::{items_of, run_of};
use r1d_proto::world::counter_uniform;
use r1d_torch::adamw::{AdamW, Conditions, Slices};
use r1d_torch::runtime::backward;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Inputs, hidden units; the weights of a network of two layers, one after the other.
const INPUTS: i64 = 5;
const HIDDEN: i64 = 7;
const LENGTHS: [usize; 3] = [35, 7, 1];
const MICRO_BATCHES: usize = 8;
const STEPS: usize = 6;
const GRADIENT_NORM_MAX: f64 = 0.5;
const ADAMW: AdamW = AdamW {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.99,
    epsilon: 1e-8,
    weight_decay: 0.1,
};

fn drawn(key: u64, count: usize, kind: Kind) -> Tensor {
    let draw = |at| f64::from(counter_uniform(&[key, at as u64])) * 2.0 - 1.0;
    Tensor::from_slice(&(0..count).map(draw).collect::<Vec<_>>()).to_kind(kind)
}

/// The gradient of the loss of these items of a step, Σ weight · (f(x) − t)². The weights of items
/// are final: they know nothing of micro-batches or ranks.
fn gradient(weights: &Tensor, step: usize, items: Range<usize>) -> Tensor {
    let kind = weights.kind();
    let weights = weights.copy().set_requires_grad(true);
    let parts = weights.split_with_sizes(LENGTHS.map(|n| n as i64).as_slice(), 0);
    let mut loss = Tensor::zeros([], (kind, Device::Cpu));
    for item in items {
        let key = (step * 1000 + item) as u64;
        let x = drawn(key, INPUTS as usize, kind).view([1, INPUTS]);
        let hidden = x.matmul(&parts[0].view([INPUTS, HIDDEN])).tanh();
        let y = hidden.matmul(&parts[1].view([HIDDEN, 1])) + &parts[2];
        let weight = 10f64.powi(item as i32 % 5 - 2);
        loss += (y - (item as f64).sin()).square().sum(kind) * weight;
    }
    backward(&loss).unwrap();
    weights.grad()
}

/// Trains on one rank of a gang, and returns the weights.
fn train(group: &mut ProcessGroup, items: usize) -> Tensor {
    let float = (Kind::Float, Device::Cpu);
    let (rank, size) = (group.rank(), group.size());
    let total: usize = LENGTHS.iter().sum();
    let weights = drawn(1, total, Kind::Float);

    let blocks = blocks_of(&LENGTHS);
    let shares = share_out(&blocks, size);
    let elements = |share: &Range<usize>| -> i64 {
        blocks[share.clone()]
            .iter()
            .map(|b| b.elements.len() as i64)
            .sum()
    };
    let rows: Vec<i64> = shares.iter().map(elements).collect();
    let start: i64 = rows[..rank].iter().sum();
    let own_weights = weights.narrow(0, start, rows[rank]);
    // AdamW is called block by block, so nothing in it can depend on where a rank's part begins.
    let of_blocks = |tensor: &Tensor| {
        let lengths: Vec<i64> = blocks[shares[rank].clone()]
            .iter()
            .map(|b| b.elements.len() as i64)
            .collect();
        tensor.split_with_sizes(lengths.as_slice(), 0)
    };
    let moments = [(); 2].map(|()| of_blocks(&Tensor::zeros([rows[rank]], float)));

    for step in 1..=STEPS {
        let mut sum = TreeSum::default();
        for micro_batch in run_of(rank, size, MICRO_BATCHES).unwrap() {
            let items = items_of(micro_batch, MICRO_BATCHES, items);
            let there = !items.is_empty();
            sum.push(there.then(|| gradient(&weights, step, items)))
                .unwrap();
        }
        let whole = sum
            .finish()
            .unwrap()
            .unwrap_or_else(|| Tensor::zeros([total as i64], float));
        let own = reduce_scatter(group, call("gradients"), &whole, &rows).unwrap();
        let own = of_blocks(&own);

        // The norm is one number, the same on all ranks: squares by block, added in their order.
        let squares = own
            .iter()
            .map(|g| f64::try_from(g.to_kind(Kind::Double).square().sum(None)));
        let squares: Vec<f64> = squares.map(Result::unwrap).collect();
        let squares = group
            .all_gather(call("norm"), &Tensor::from_slice(&squares))
            .unwrap();
        let norm = Vec::<f64>::try_from(&squares.rows)
            .unwrap()
            .iter()
            .sum::<f64>()
            .sqrt();
        let scale = Tensor::from((norm / GRADIENT_NORM_MAX).max(1.0) as f32);

        let steps: Vec<Tensor> = own.iter().map(|_| Tensor::from(step as f32)).collect();
        let slices = Slices {
            parameters: &of_blocks(&own_weights),
            gradients: &own,
            exp_avg: &moments[0],
            exp_avg_sq: &moments[1],
            steps: &steps,
        };
        let conditions = Conditions {
            gradient_scale: Some(&scale),
            found_inf: None,
        };
        if !own.is_empty() {
            ADAMW.step(&slices, conditions).unwrap();
        }
        let gathered = group.all_gather(call("weights"), &own_weights).unwrap();
        weights.shallow_clone().copy_(&gathered.rows);
    }
    weights
}

/// The same training in float64, at once and by the formulas.
fn reference(items: usize) -> Vec<f64> {
    let total: usize = LENGTHS.iter().sum();
    let mut weights = drawn(1, total, Kind::Float).to_kind(Kind::Double);
    let mut m = weights.zeros_like();
    let mut v = weights.zeros_like();
    for step in 1..=STEPS {
        let g = gradient(&weights, step, 0..items);
        let norm = f64::try_from(g.square().sum(Kind::Double)).unwrap().sqrt();
        let g = g / (norm / GRADIENT_NORM_MAX).max(1.0);
        m = m * ADAMW.beta1 + &g * (1.0 - ADAMW.beta1);
        v = v * ADAMW.beta2 + g.square() * (1.0 - ADAMW.beta2);
        let m_hat = &m / (1.0 - ADAMW.beta1.powi(step as i32));
        let v_hat = &v / (1.0 - ADAMW.beta2.powi(step as i32));
        weights = weights * (1.0 - ADAMW.learning_rate * ADAMW.weight_decay)
            - m_hat / (v_hat.sqrt() + ADAMW.epsilon) * ADAMW.learning_rate;
    }
    Vec::try_from(weights).unwrap()
}

#[test]
fn any_number_of_ranks_ends_with_the_same_weights() {
    // 21 items are shared unevenly; of 5, three micro-batches have none.
    for (over, items) in [(Over::Memory, 21), (Over::Memory, 5), (Over::Gloo, 21)] {
        let exact = reference(items);
        let mut first: Option<Vec<u32>> = None;
        for ranks in [1, 2, 4, 8] {
            for weights in run(over, ranks, |group| train(group, items)) {
                let numbers: Vec<f32> = Vec::try_from(&weights).unwrap();
                for (found, wanted) in numbers.iter().zip(&exact) {
                    assert!(
                        (f64::from(*found) - wanted).abs() < 2e-6,
                        "{found} is not {wanted}"
                    );
                }
                let bits = numbers.iter().map(|x| x.to_bits()).collect();
                let first = first.get_or_insert_with(|| Vec::clone(&bits));
                assert_eq!(*first, bits, "{ranks} ranks, {items} items, {over:?}");
            }
        }
    }
}
