//! Draws the stages and what flows between them: weights on the left, data and judges on the right.

use super::escape::escaped;
use super::gather::Run;
use crate::format::thousands;
use std::collections::BTreeSet;
use std::fmt::Write;

const WIDTH: f64 = 760.0;
const ROW: f64 = 46.0;
const BOX_LEFT: f64 = 150.0;
const BOX_WIDTH: f64 = 440.0;
const BOX_HEIGHT: f64 = 34.0;
const NAME_MAX_LETTERS: usize = 28;

/// Draws the models, then the stages, each as a box below the one before; arcs lead down to what is
/// made from it.
pub(super) fn graph(run: &Run) -> String {
    let roots: BTreeSet<&str> = run
        .stages
        .iter()
        .map(|stage| stage.from.as_str())
        .filter(|from| index(run, from).is_none())
        .collect();
    let roots: Vec<&str> = roots.into_iter().collect();
    let row = |name: &str| match index(run, name) {
        Some(stage) => Some(roots.len() + stage),
        None => roots.iter().position(|root| *root == name),
    };
    let height = (roots.len() + run.stages.len()) as f64 * ROW + 4.0;
    let label =
        "The stages: what each starts from on the left, what it reads of other stages on the right";
    let mut svg = format!(
        r#"<svg class="graph" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">"#
    );
    svg += r#"<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="tip" d="M0,0 L8,4 L0,8 z"/></marker></defs>"#;
    for (at, root) in roots.iter().enumerate() {
        let what = run.models.get(*root).map_or("", String::as_str);
        node(&mut svg, at, "model", root, &tail(what));
    }
    for (at, stage) in run.stages.iter().enumerate() {
        let at = roots.len() + at;
        let steps = if stage.status.kind == "eval" {
            stage.status.kind.clone()
        } else {
            format!(
                "{} · {} of {} steps",
                stage.status.kind,
                thousands(stage.status.step),
                thousands(stage.status.steps)
            )
        };
        node(&mut svg, at, "stage", &stage.status.name, &steps);
        if let Some(from) = row(&stage.from) {
            arc(&mut svg, from, at, true, "weights");
        }
        for made in stage.data.iter().filter_map(|name| index(run, name)) {
            arc(&mut svg, roots.len() + made, at, false, "data");
        }
        for judge in stage.judges.iter().filter_map(|name| index(run, name)) {
            arc(&mut svg, roots.len() + judge, at, false, "judge");
        }
    }
    svg + "</svg>"
}

fn index(run: &Run, name: &str) -> Option<usize> {
    run.stages
        .iter()
        .position(|stage| stage.status.name == name)
}

fn node(svg: &mut String, row: usize, class: &str, name: &str, what: &str) {
    let top = row as f64 * ROW + 4.0;
    let middle = top + BOX_HEIGHT / 2.0 + 4.5;
    let _ = write!(
        svg,
        r#"<rect class="{class}" x="{BOX_LEFT}" y="{top}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5"/>"#
    );
    let name: String = name.chars().take(NAME_MAX_LETTERS).collect();
    let _ = write!(
        svg,
        r#"<text class="name" x="{}" y="{middle}">{}</text>"#,
        BOX_LEFT + 12.0,
        escaped(&name)
    );
    let right = BOX_LEFT + BOX_WIDTH - 12.0;
    let _ = write!(
        svg,
        r#"<text class="what" x="{right}" y="{middle}" text-anchor="end">{}</text>"#,
        escaped(what)
    );
}

/// The end of a path, which distinguishes it from others.
fn tail(path: &str) -> String {
    const LETTERS_MAX: usize = 34;
    let letters: Vec<char> = path.chars().collect();
    match letters.len() {
        0..=LETTERS_MAX => path.into(),
        count => ['…']
            .iter()
            .chain(letters.iter().skip(count - LETTERS_MAX))
            .collect(),
    }
}

fn arc(svg: &mut String, from: usize, to: usize, left: bool, class: &str) {
    if from >= to {
        return;
    }
    let middle = |row: usize| row as f64 * ROW + 4.0 + BOX_HEIGHT / 2.0;
    let reach = 18.0 + 112.0 * (1.0 - 1.0 / (to - from) as f64).min(1.0);
    let (x, out) = if left {
        (BOX_LEFT, BOX_LEFT - reach)
    } else {
        (BOX_LEFT + BOX_WIDTH, BOX_LEFT + BOX_WIDTH + reach)
    };
    // Arcs leave a box below its middle, and enter it above.
    let (start, end) = (middle(from) + 6.0, middle(to) - 6.0);
    let path = format!("M{x},{start} C{out:.1},{start} {out:.1},{end} {x},{end}");
    let _ = write!(
        svg,
        r#"<path class="{class}" d="{path}" marker-end="url(#tip)"/>"#
    );
}
