//! The documents of `r1d plugin` as text for people. Text of plugins is made safe to print.

use crate::table::{left, right, table};
use crate::terminal::{Look, one_line};
use r1d_proto::plugin::{Benched, Checked, Disagreement, Plugin, Rescored, Signed, Tested};

pub(super) fn plugins(plugins: &[Plugin], look: Look) -> String {
    let row = |plugin: &Plugin| {
        let (version, world, range) = match &plugin.about {
            Some(about) => (
                one_line(&about.version),
                about.world.clone(),
                format!("{} to {}", about.min, about.max),
            ),
            None => (String::new(), look.red("refused"), String::new()),
        };
        vec![
            one_line(&plugin.plugin),
            version,
            world,
            range,
            size(plugin.bytes),
            plugin.sha256.chars().take(12).collect(),
            one_line(&plugin.file),
        ]
    };
    let columns = [
        left("plugin"),
        left("version"),
        left("world"),
        left("range"),
        right("size"),
        left("sha256"),
        left("file"),
    ];
    table(look, &columns, plugins.iter().map(row).collect())
}

pub(super) fn described(plugin: &Plugin, look: Look) -> String {
    let mut lines = vec![
        ("plugin", one_line(&plugin.plugin)),
        ("file", one_line(&plugin.file)),
        ("size", size(plugin.bytes)),
        ("sha256", plugin.sha256.clone()),
    ];
    match (&plugin.about, &plugin.refused) {
        (Some(about), _) => {
            let parts: Vec<String> = about.parts.iter().map(|part| one_line(part)).collect();
            lines.push((
                "name",
                format!("{} {}", one_line(&about.name), one_line(&about.version)),
            ));
            lines.push(("world", about.world.clone()));
            lines.push(("range", format!("{} to {}", about.min, about.max)));
            lines.push((
                "parts",
                if parts.is_empty() {
                    "none".into()
                } else {
                    parts.join(", ")
                },
            ));
            lines.push(("imports", "none".into()));
            lines.push(("golden cases", about.golden_cases.to_string()));
            lines.push((
                "signed by",
                if about.signed_by.is_empty() {
                    "nobody".into()
                } else {
                    about.signed_by.join(", ")
                },
            ));
        }
        (None, why) => lines.push((
            "refused",
            look.red(&one_line(why.as_deref().unwrap_or("it does not say why"))),
        )),
    }
    lines
        .into_iter()
        .map(|(name, value)| format!("{name:<14}{value}\n"))
        .collect()
}

pub(super) fn tested(tested: &Tested, look: Look) -> String {
    let passed = tested.cases.saturating_sub(tested.differing.len() as u64);
    let line = format!(
        "{}: {passed} of {} golden cases as expected",
        one_line(&tested.plugin),
        tested.cases
    );
    let differing = tested.differing.iter().map(|d| {
        format!(
            "  {}: {}\n",
            look.red(&one_line(&d.case)),
            one_line(&d.difference)
        )
    });
    format!("{line}\n{}", differing.collect::<String>())
}

pub(super) fn checked(checked: &Checked, look: Look) -> String {
    let row = |check: &r1d_proto::plugin::Check| {
        let mark = if check.passed {
            look.green("ok")
        } else {
            look.red("failed")
        };
        vec![one_line(&check.check), mark, shortened(&check.found)]
    };
    let end = if checked.passed {
        look.green("passed")
    } else {
        look.red("failed")
    };
    let rows = table(
        look,
        &[left("check"), left(""), left("found")],
        checked.checks.iter().map(row).collect(),
    );
    format!("{rows}{}: {end}\n", one_line(&checked.plugin))
}

pub(super) fn benched(benched: &Benched, look: Look) -> String {
    let row = |input: &r1d_proto::plugin::BenchedInput| {
        vec![
            one_line(&input.input),
            input.bytes.to_string(),
            input.fuel_per_completion.to_string(),
            input.fuel_per_kb.to_string(),
            input.completions_per_s.to_string(),
            input.p50_ms.to_string(),
            input.p99_ms.to_string(),
            input.unscored.to_string(),
        ]
    };
    let columns = [
        left("input"),
        right("bytes"),
        right("fuel"),
        right("fuel per KB"),
        right("completions/s per core"),
        right("p50 ms"),
        right("p99 ms"),
        right("unscored"),
    ];
    let rows = table(look, &columns, benched.inputs.iter().map(row).collect());
    format!(
        "{rows}{}: loaded from the cache in {} ms\n",
        one_line(&benched.plugin),
        benched.load_ms
    )
}

pub(super) fn keygen(signed: &Signed) -> String {
    format!("{}\n", signed.public_key)
}

pub(super) fn signed(signed: &Signed) -> String {
    format!("{}\n", one_line(&signed.file))
}

pub(super) fn rescored(rescored: &Rescored, look: Look) -> String {
    let pair = |pair: &r1d_proto::plugin::ScorePair| {
        let agree = if pair.recorded == pair.rescored {
            String::new()
        } else {
            look.yellow("differs")
        };
        vec![
            pair.recorded.clone(),
            pair.rescored.clone(),
            pair.completions.to_string(),
            agree,
        ]
    };
    let columns = [
        left("recorded"),
        left("rescored"),
        right("completions"),
        left(""),
    ];
    let pairs = table(look, &columns, rescored.pairs.iter().map(pair).collect());
    let share = rescored.agreeing as f64 * 100.0 / rescored.completions.max(1) as f64;
    let sha256: String = rescored.sha256.chars().take(12).collect();
    let line = format!(
        "{} of {} completions agree ({share:.2} %): {} as recorded, {} {sha256}\n",
        rescored.agreeing,
        rescored.completions,
        one_line(&rescored.reward),
        one_line(&rescored.plugin)
    );
    let disagreement = |d: &Disagreement| {
        format!(
            "\n{} step {}, prompt {}, sample {}: {} recorded, {} rescored\nprompt:     \
             {}\ncompletion: {}\nreference:  {}\n",
            look.bold("disagreement"),
            d.step,
            d.prompt_index,
            d.sample_index,
            d.recorded,
            d.rescored,
            one_line(&d.prompt),
            one_line(&d.completion),
            d.reference
                .as_deref()
                .map_or_else(|| "none".into(), one_line)
        )
    };
    pairs
        + &line
        + &rescored
            .disagreements
            .iter()
            .map(disagreement)
            .collect::<String>()
}

/// Shortens a reason, which may quote what a model wrote.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => one_line(&format!("{}…", text.get(..end).unwrap_or_default())),
        None => one_line(text),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
