//! The layout that is chosen for a job where its job file leaves it out.

use crate::{JOB, parse, plan};
use r1d_job::{Job, ModelShape, RoutingShape, layout, validate};

/// The names of this many devices.
pub(crate) fn devices(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{name}:{index}")).collect()
}

/// A model with this many experts in a layer, a dense one for 0.
fn with_experts(experts: u64) -> ModelShape {
    let routing = (experts > 0).then_some(RoutingShape {
        layers: 2,
        experts,
        per_token: 1,
    });
    ModelShape {
        routing,
        ..plan::facts()
    }
}

pub(crate) fn with_table(table: &str) -> Job {
    let table = format!("{table}\n[model]");
    parse(&JOB.replace("[model]", &table)).unwrap()
}

/// `data` and `expert` that are chosen for a job with this table.
fn chosen(table: &str, experts: u64, devices: &[String]) -> (u32, u32) {
    let mut job = with_table(table);
    job.parallel = layout::chosen(&job, &[with_experts(experts)], devices);
    // What is chosen is written, and on another node it is what it was.
    let mut again = parse(&job.to_toml()).unwrap();
    again.parallel = layout::chosen(&again, &[with_experts(5)], &self::devices("cpu", 60));
    assert_eq!(again, job);
    (job.parallel.data(), job.parallel.expert())
}

#[test]
fn factors_that_are_left_out_take_the_nodes_devices() {
    let on = |table: &str, experts: u64, count: usize| {
        let (shapes, devices) = ([with_experts(experts)], devices("cpu", count));
        let mut job = with_table(table);
        job.parallel = layout::chosen(&job, &shapes, &devices);
        validate::check_devices(&job, &devices).unwrap();
        validate::check_models(&job, &shapes).unwrap();
        chosen(table, experts, &devices)
    };
    // Without the table a job takes one device.
    assert_eq!(on("", 8, 4), (1, 1));
    // Both: as many shards as devices and experts allow, and all devices.
    assert_eq!(on("[parallel]", 0, 6), (6, 1));
    assert_eq!(on("[parallel]", 8, 6), (3, 2));
    assert_eq!(on("[parallel]", 256, 8), (1, 8));
    assert_eq!(on("[parallel]", 256, 1), (1, 1));
    // `data`: what `expert` leaves.
    assert_eq!(on("[parallel]\nexpert = 2", 8, 7), (3, 2));
    assert_eq!(on("[parallel]\nexpert = 1", 8, 7), (7, 1));
    // `expert`: the largest divisor of the experts that `data` leaves devices for.
    assert_eq!(on("[parallel]\ndata = 2", 12, 11), (2, 4));
    assert_eq!(on("[parallel]\ndata = 2", 0, 11), (2, 1));
    assert_eq!(on("[parallel]\ndata = 7", 12, 8), (7, 1));
    // What is given stays.
    assert_eq!(on("[parallel]\ndata = 1\nexpert = 2", 8, 8), (1, 2));
    // More than a gang may have.
    assert_eq!(on("[parallel]", 0, 5000), (4096, 1));
}

/// The ranks add along a binary tree of eight leaves.
#[test]
fn the_chosen_layout_of_layout_independent_mode_is_a_power_of_two() {
    let on = |factors: &str, experts: u64, count: usize| {
        let table =
            format!("batch_invariant = true\n[parallel]\nlayout_independent = true\n{factors}");
        chosen(&table, experts, &devices("cpu", count))
    };
    assert_eq!(on("", 0, 7), (4, 1));
    assert_eq!(on("", 0, 20), (8, 1));
    assert_eq!(on("", 6, 7), (2, 2));
    assert_eq!(on("", 256, 20), (1, 8));
    assert_eq!(on("expert = 2", 6, 7), (2, 2));
    assert_eq!(on("data = 2", 12, 20), (2, 4));
    assert_eq!(on("data = 1", 6, 7), (1, 2));
}

/// All stages of a job run on one layout.
#[test]
fn the_chosen_layout_fits_the_models_of_all_stages() {
    let table = "[parallel]\n[models.student]\npath = \"student\"\n[model]";
    let student = JOB.replace("[model]", table).replace(
        "from = \"base\"",
        "from = \"base\"\nmodel = \"student\"\ntokenize = \"together\"",
    );
    let job = parse(&student).unwrap();
    let layout = |experts: [u64; 2], devices: &[String]| {
        let parallel = layout::chosen(&job, &experts.map(with_experts), devices);
        (parallel.data(), parallel.expert())
    };
    let eight = devices("cpu", 8);
    assert_eq!(layout([64, 64], &eight), (1, 8));
    assert_eq!(layout([64, 12], &eight), (2, 4));
    assert_eq!(layout([12, 64], &eight), (2, 4));
    assert_eq!(layout([64, 0], &eight), (8, 1));
    assert_eq!(layout([0, 64], &eight), (8, 1));
    // A model that no stage trains or samples decides nothing.
    let unused = parse(&JOB.replace("[model]", table)).unwrap();
    let parallel = layout::chosen(&unused, &[64, 0].map(with_experts), &eight);
    assert_eq!((parallel.data(), parallel.expert()), (1, 8));
}

/// An empty table asks for nothing that is not built in.
#[test]
fn where_gangs_are_not_built_in_one_device_is_chosen() {
    let gpus = devices("cuda", 8);
    assert_eq!(chosen("[parallel]", 64, &gpus), (1, 1));
    assert_eq!(chosen("[parallel]\ndata = 2", 64, &gpus), (2, 1));
    let mixed = ["cpu", "cuda:0"].map(String::from);
    assert_eq!(chosen("[parallel]", 64, &mixed), (1, 1));
    let mut job = with_table("[parallel]");
    job.parallel = layout::chosen(&job, &[with_experts(64)], &gpus);
    validate::check_built_in(&job, &gpus).unwrap();
    // Drafts of experts on several devices.
    let drafting = JOB.replace("[model]", "[parallel]\n[model]").replace(
        "kind = \"grpo\"",
        "kind = \"grpo\"\nfrom = \"base\"\nspeculative_decoding = true",
    );
    let mut job = parse(&drafting).unwrap();
    let cpus = devices("cpu", 4);
    job.parallel = layout::chosen(&job, &[with_experts(64)], &cpus);
    assert_eq!((job.parallel.data(), job.parallel.expert()), (4, 1));
    validate::check_built_in(&job, &cpus).unwrap();
}
