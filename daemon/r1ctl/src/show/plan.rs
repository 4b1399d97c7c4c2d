//! `r1ctl plan`.

use crate::format::{bytes, thousands};
use crate::show::status::model_column;
use crate::table::{headed, left, right, table};
use crate::terminal::{Look, one_line, printable};
use r1d_proto::control::plan::{Plan, PlanDisk, PlanEval, PlanLayout, PlanStage};
use std::collections::{BTreeMap, BTreeSet};

/// The job file with every default filled in.
pub(crate) fn resolved(plan: &Plan) -> String {
    format!("{}\n", printable(plan.resolved.trim_end()))
}

/// Formats a plan: the tables by which people decide.
pub(crate) fn plan(plan: &Plan, look: Look) -> String {
    let mut text = String::new();
    let parameters = plan
        .parameters
        .map_or_else(|| "unknown number of".into(), thousands);
    text += &format!(
        "{}  {}, {parameters} parameters\n\n",
        look.bold(&one_line(&plan.name)),
        one_line(&plan.model)
    );
    text += &plan.layout.as_ref().map_or_else(String::new, layout);
    text += &stages(&plan.stages, look);
    text += &evals(&plan.stages, look);
    let memory: Amounts = |stage| (&stage.memory, stage.memory_peak);
    text += &amounts("MEMORY", &plan.stages, memory, look);
    let takes_turns = |stage: &PlanStage| stage.memory_peak < sum(&stage.memory);
    if plan.stages.iter().any(takes_turns) {
        text += &look.dim("TOTAL: an update has the memory of the sampler's cache");
        text.push('\n');
    }
    let host: Amounts = |stage| (&stage.host_memory, sum(&stage.host_memory));
    text += &amounts("HOST MEMORY ≤", &plan.stages, host, look);
    let disk: Amounts = |stage| (&stage.disk, sum(&stage.disk));
    text += &amounts("DISK ≤", &plan.stages, disk, look);
    text += &disk_of_all(plan);
    for warning in &plan.warnings {
        text += &format!("{} {}\n", look.yellow("warning:"), printable(warning));
    }
    text
}

/// How the job is spread over devices.
fn layout(layout: &PlanLayout) -> String {
    let PlanLayout { data, expert, .. } = layout;
    let shared = match layout.shard.as_str() {
        "none" => String::new(),
        shared => format!(", copies share {}", one_line(shared)),
    };
    let independent = if layout.layout_independent {
        ", layout-independent"
    } else {
        ""
    };
    format!(
        "{} devices: data {data} × expert {expert}{shared}{independent}; MEMORY is of each\n\n",
        u64::from(*data) * u64::from(*expert)
    )
}

/// The disk that all stages together may take, by directory, and what is free there.
fn disk_of_all(plan: &Plan) -> String {
    let line = |disk: &PlanDisk| {
        let free = disk.free.map_or_else(String::new, |free| {
            format!(", where {} are free", bytes(free))
        });
        let directory = one_line(&disk.directory.to_string_lossy());
        format!("all stages: ≤ {} in {directory}{free}\n", bytes(disk.bytes))
    };
    let mut text: String = plan.disk.iter().map(line).collect();
    let samples = |stage: &PlanStage| !stage.rewards.is_empty() && stage.kind != "eval";
    let is_open = |stage: &PlanStage| stage.steps == 0 && samples(stage);
    let open: Vec<String> = (plan.stages.iter().filter(|stage| is_open(stage)))
        .map(|stage| one_line(&stage.name))
        .collect();
    if !text.is_empty() && !open.is_empty() {
        text += &format!(
            "without the rollouts of {}: how many steps there are is known later\n",
            open.join(", ")
        );
    }
    text
}

fn stages(stages: &[PlanStage], look: Look) -> String {
    let mut columns = vec![
        left("STAGE"),
        left("KIND"),
        left("FROM"),
        left("DATA"),
        right("ROWS"),
        right("STEPS"),
        right("TOKENS/STEP ≤"),
        left("REWARDS"),
    ];
    let is_reused = stages.iter().any(|stage| stage.reused_from.is_some());
    if is_reused {
        columns.push(left("REUSED FROM"));
    }
    let models = model_column(&mut columns, stages.iter().map(|stage| &stage.model));
    let row = |(stage, model): (&PlanStage, Option<String>)| {
        let mut row = vec![
            one_line(&stage.name),
            one_line(&stage.kind),
            one_line(&stage.from),
            one_line(&stage.data),
            known(stage.rows),
            if stage.kind == "eval" {
                "-".into()
            } else {
                known(stage.steps)
            },
            if stage.kind == "eval" {
                "-".into()
            } else {
                thousands(stage.tokens_per_step)
            },
            if stage.rewards.is_empty() {
                "-".into()
            } else {
                one_line(&stage.rewards.join(", "))
            },
        ];
        row.splice(2..2, model);
        if is_reused {
            row.push(
                stage
                    .reused_from
                    .as_ref()
                    .map_or_else(|| "-".into(), |job| one_line(&job.0)),
            );
        }
        row
    };
    table(look, &columns, stages.iter().zip(models).map(row).collect())
}

/// The evaluations of the stages that are not taken over; empty if there are none.
fn evals(stages: &[PlanStage], look: Look) -> String {
    let row = |stage: &PlanStage, eval: &PlanEval| {
        vec![
            one_line(&stage.name),
            one_line(&eval.data),
            known(eval.times),
            known(eval.completions),
            known(eval.tokens),
        ]
    };
    let own = stages.iter().filter(|stage| stage.reused_from.is_none());
    let rows = own.flat_map(|stage| stage.evals.iter().map(move |eval| row(stage, eval)));
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let columns = [
        left("EVALUATED IN"),
        left("DATA"),
        right("TIMES"),
        right("COMPLETIONS"),
        right("TOKENS ≤"),
    ];
    format!("\n{}", table(look, &columns, rows))
}

/// Formats a count. It is 0 as long as it depends on what an earlier stage will keep.
fn known(count: u64) -> String {
    if count == 0 {
        "later".into()
    } else {
        thousands(count)
    }
}

/// What a table of bytes shows of a stage: the bytes by holder, and the total.
type Amounts = fn(&PlanStage) -> (&BTreeMap<String, u64>, u64);

fn sum(amounts: &BTreeMap<String, u64>) -> u64 {
    amounts
        .values()
        .fold(0, |sum: u64, n| sum.saturating_add(*n))
}

/// Formats a table of bytes: a row for each stage, a column for each holder that any stage has, and
/// their total.
fn amounts(title: &str, stages: &[PlanStage], of: Amounts, look: Look) -> String {
    let holders: BTreeSet<&String> = stages.iter().flat_map(|stage| of(stage).0.keys()).collect();
    if holders.is_empty() {
        return String::new();
    }
    let mut heads = vec![title.to_owned()];
    heads.extend(holders.iter().map(|holder| holder.to_uppercase()));
    heads.push("TOTAL".into());
    let row = |stage: &PlanStage| {
        let (mut row, (amounts, total)) = (vec![one_line(&stage.name)], of(stage));
        let amount = |holder: &&String| {
            amounts
                .get(*holder)
                .map_or_else(|| "-".into(), |n| bytes(*n))
        };
        row.extend(holders.iter().map(amount));
        row.push(bytes(total));
        row
    };
    let right: Vec<bool> = (0..heads.len()).map(|i| i > 0).collect();
    format!(
        "\n{}",
        headed(look, &heads, &right, stages.iter().map(row).collect())
    )
}
