//! The layout that is named where a job does not fit with its own.

use crate::large_models::{DEEPSEEK_V3, QWEN_32B, QWEN3_30B};
use crate::parallel::{devices, with_table};
use crate::{JOB, parse, plan};
use r1d_job::plan::{InputFacts, Room, check_room, stages};
use r1d_job::{Job, ModelShape};
use r1d_proto::ids::JobId;

/// Bytes of an H200.
const H200: u64 = 143_771 << 20;

/// An sft stage of this model in bfloat16: 18 bytes a parameter, which are weights (2), the sums of
/// gradients (4), moments and float32 weights (12).
fn tuning(config: &str, settings: &str) -> (Job, Vec<ModelShape>) {
    let job = format!(
        "name = \"large\"\n[model]\npath = \"m\"\ndtype = \"bfloat16\"\n[data.d]\npath = \
         \"d.jsonl\"\n[[stage]]\nname = \"s\"\nkind = \"sft\"\ndata = \"d\"\nepochs = \
         1\n{settings}\n"
    );
    let shapes = vec![ModelShape::from_config(config).unwrap()];
    (parse(&job).unwrap(), shapes)
}

/// What is said of a job that does not fit a device of `bytes` bytes.
fn told(config: &str, settings: &str, bytes: u64, devices: &[String]) -> String {
    let (job, shapes) = tuning(config, settings);
    let room = Room {
        device: Some(bytes),
        host: None,
    };
    let seen = InputFacts::default();
    let lines = stages(&job, &shapes, &seen, room);
    let error = check_room(&job, &lines, &shapes, &seen, room, devices).unwrap_err();
    let text = error.to_string();
    let (_, layout) = text.split_once("or lora_r; ").unwrap();
    layout.into()
}

#[test]
fn the_smallest_layout_that_fits_is_named() {
    let one = devices("cuda", 1);
    let named = |config: &str, settings: &str, bytes: u64| {
        let text = told(config, settings, bytes, &one);
        let (layout, rest) = text.split_once(" devices, and the node has 1").unwrap();
        assert_eq!(rest, " (planned only: `r1ctl submit` does not run it yet)");
        let prefix = "smallest layout that fits: [parallel] ";
        layout.strip_prefix(prefix).unwrap().to_owned()
    };
    // Dense: weights and gradients are 6 bytes a parameter on each device unless copies share
    // them, 196.6 GB. 18 bytes, 589.7 GB, go into four devices of 150.8 GB, and not into three.
    let dense = 32_763_876_352;
    let of_four = "data = 4, expert = 1, shard = \"parameters\" on 4";
    assert_eq!(named(QWEN_32B, "", H200), of_four);
    assert_eq!(named(QWEN_32B, "", 18 * dense / 4), of_four);
    let of_five = "data = 5, expert = 1, shard = \"parameters\" on 5";
    assert_eq!(named(QWEN_32B, "", 18 * dense / 4 - 1), of_five);
    // With the optimiser on the host, 6 bytes are left.
    let of_two = "data = 2, expert = 1, shard = \"parameters\" on 2";
    assert_eq!(named(QWEN_32B, "optimizer_offload = \"cpu\"", H200), of_two);
    // With 6 bytes everywhere and 12 shared by two.
    let of_two = "data = 2, expert = 1, shard = \"optimizer\" on 2";
    assert_eq!(named(QWEN_32B, "", 12 * dense), of_two);

    // 1.5 billion parameters everywhere and 29.0 in experts. On 4 devices with expert = 4:
    // 18 × (1.54 + 7.25) = 158.2 GB, and 6 × 8.79 + 12 × 30.53 / 4 = 144.3 GB if they share the
    // optimiser. On 3, which share all, 183.2 GB.
    let experts = 48 * 128 * 3 * 2048 * 768;
    let (all, local) = (30_532_122_624, 1_541_093_376 + experts / 4);
    let shared = "data = 1, expert = 4, shard = \"optimizer\" on 4";
    let apart = "data = 1, expert = 4 on 4";
    assert_eq!(named(QWEN3_30B, "", H200), shared);
    assert_eq!(named(QWEN3_30B, "", 6 * local + 12 * all / 4), shared);
    assert_eq!(named(QWEN3_30B, "", 18 * local), apart);
    assert_eq!(named(QWEN3_30B, "", 18 * local - 1), shared);
    // Where all is shared, the most shards of the experts that the devices divide into.
    let all_shared = "data = 1, expert = 4, shard = \"parameters\" on 4";
    assert_eq!(named(QWEN3_30B, "", 18 * all / 4), all_shared);
    let of_six = "data = 3, expert = 2, shard = \"parameters\" on 6";
    assert_eq!(named(QWEN3_30B, "", 18 * all / 6 + 18), of_six);

    // 17.1 billion parameters everywhere and 653.9 in experts: 12,078 GB in all, which 81 devices
    // hold that share everything. Where each has all that is not in experts, 6 bytes of it, less
    // than 256 devices do not do.
    let v3 = 671_026_404_352;
    let of_81 = "data = 81, expert = 1, shard = \"parameters\" on 81";
    assert_eq!(named(DEEPSEEK_V3, "", H200), of_81);
    let of_128 = "data = 1, expert = 128, shard = \"parameters\" on 128";
    assert_eq!(named(DEEPSEEK_V3, "", 18 * v3 / 128), of_128);
}

#[test]
fn a_layout_that_needs_more_than_there_is_says_what() {
    let eight = devices("cuda", 8);
    let text = told(QWEN3_30B, "", H200, &eight);
    assert!(
        text.ends_with("on 4 devices (planned only: `r1ctl submit` does not run it yet)"),
        "{text}"
    );
    // Of CPU devices the memory is not known; if it were, this would run.
    let text = told(QWEN3_30B, "", H200, &devices("cpu", 4));
    assert!(
        text.ends_with("shard = \"optimizer\" on 4 devices"),
        "{text}"
    );
    let text = told(QWEN3_30B, "", H200, &devices("cpu", 3));
    assert!(text.ends_with("on 4 devices, and the node has 3"), "{text}");
    let text = told(DEEPSEEK_V3, "", 1 << 30, &eight);
    assert_eq!(text, "no layout of [parallel] on up to 1024 devices fits");
    let text = told(QWEN_32B, "", 18 * 32_763_876_352 / 1024 + 1, &eight);
    assert!(text.contains("data = 1024, expert = 1"), "{text}");
}

/// In layout-independent mode a job may have 1, 2, 4 or 8 devices.
#[test]
fn the_smallest_layout_keeps_to_the_jobs_mode() {
    let job = |mode: bool, device: u64| {
        let table = format!(
            "batch_invariant = true\n[parallel]\ndata = 1\nexpert = 1\nlayout_independent = {mode}"
        );
        let job = with_table(&table);
        let room = Room {
            device: Some(device),
            host: None,
        };
        let shapes = [plan::facts()];
        let lines = stages(&job, &shapes, &InputFacts::default(), room);
        let seen = InputFacts::default();
        check_room(&job, &lines, &shapes, &seen, room, &devices("cpu", 8))
            .unwrap_err()
            .to_string()
    };
    // 1,000 weights and 2,000 moments in float32; a third of them is rounded up.
    let (text, independent) = (job(false, 4008), job(true, 4008));
    assert!(
        text.contains("data = 3, expert = 1, shard = \"parameters\""),
        "{text}"
    );
    assert!(
        independent.contains("data = 4, expert = 1"),
        "{independent}"
    );
    let (text, independent) = (job(false, 1008), job(true, 1008));
    assert!(text.contains("data = 12, expert = 1"), "{text}");
    assert!(
        independent.ends_with("no layout of [parallel] on up to 8 devices fits"),
        "{independent}"
    );
}

/// What is taken over from another job needs no room, with any layout.
#[test]
fn a_stage_that_is_taken_over_asks_for_no_layout() {
    let job = parse(JOB).unwrap();
    let (shapes, seen) = ([plan::facts()], InputFacts::default());
    // Weights of 4,000 bytes, and moments of 8,000 where they train.
    let room = Room {
        device: Some(3000),
        host: None,
    };
    let mut lines = stages(&job, &shapes, &seen, room);
    let on = |lines: &[_]| {
        check_room(&job, lines, &shapes, &seen, room, &devices("cuda", 1))
            .unwrap_err()
            .to_string()
    };
    let all = on(&lines);
    assert!(all.contains("on 4 devices"), "{all}");
    for line in &mut lines {
        let trains = line.kind != "rejection-sampling";
        line.reused_from = trains.then(|| JobId("other".into()));
    }
    let left = on(&lines);
    assert!(left.contains("on 2 devices"), "{left}");
}

/// 32 and 72 MB of gradients on each of two devices that send half of them and the half of a sum.
#[test]
fn quic_carries_small_models_alone() {
    let told = |parameters: u64, table: &str| {
        let job = with_table(table);
        let shape = ModelShape {
            parameters,
            ..plan::facts()
        };
        let (shapes, seen) = ([shape], InputFacts::default());
        let room = Room::default();
        let lines = stages(&job, &shapes, &seen, room);
        check_room(&job, &lines, &shapes, &seen, room, &devices("cpu", 2))
            .map_err(|error| error.to_string())
    };
    let of_two = |transport: &str| format!("[parallel]\ndata = 2\ntransport = \"{transport}\"");
    told(8_000_000, &of_two("quic")).unwrap();
    told(18_000_000, &of_two("gloo")).unwrap();
    let error = told(18_000_000, &of_two("quic")).unwrap_err();
    assert!(
        error.contains("sends 72 MB of gradients in an update, and \"quic\" is for 64 MB at most")
            && error.contains("set transport = \"gloo\""),
        "{error}"
    );
    told(18_000_000, "[parallel]\ntransport = \"quic\"\ndata = 1").unwrap();
}
