//! Figures, and how they are printed.

use std::fmt::Display;
use std::time::Duration;

/// Why a part could not be measured.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) String);

impl<E: Display> From<E> for Failed {
    fn from(error: E) -> Failed {
        Failed(error.to_string())
    }
}

/// The first lines of the table of figures.
pub(crate) const HEADER: &str = "| part | figure | goal | measured | base | ratio |\n\
                                 |---|---|---|---|---|---|";

/// A measured number.
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    unit: &'static str,
    /// The figure is to be below this.
    goal: Option<f64>,
}

impl Figure {
    pub(crate) fn new(name: &str, value: f64, unit: &'static str, goal: Option<f64>) -> Figure {
        Figure {
            name: name.into(),
            value,
            unit,
            goal,
        }
    }

    pub(crate) fn ms(name: &str, value: Duration, goal: Option<f64>) -> Figure {
        Figure::new(name, value.as_secs_f64() * 1e3, "ms", goal)
    }

    /// A row of the table, beside the base's figures if there is a base.
    pub(crate) fn row(&self, part: &str, base: Option<Result<&Vec<Figure>, String>>) -> String {
        let Figure {
            name,
            value,
            unit,
            goal,
        } = self;
        let goal = goal.map_or(String::new(), |goal| format!("{goal} {unit}"));
        let beside = match base {
            None => " | ".into(),
            Some(Err(why)) => format!("{} | ", why.lines().next().unwrap_or_default()),
            Some(Ok(figures)) => match figures.iter().find(|figure| figure.name == *name) {
                Some(base) => format!("{:.2} {unit} | {:.3}", base.value, value / base.value),
                None => "not measured | ".into(),
            },
        };
        format!("| {part} | {name} | {goal} | {value:.2} {unit} | {beside} |")
    }
}

/// The value that a share of the sorted values is at most.
pub(crate) fn quantile(values: &mut [Duration], share: f64) -> Duration {
    values.sort();
    let place = (values.len() as f64 * share).ceil() as usize;
    values
        .get(place.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}
