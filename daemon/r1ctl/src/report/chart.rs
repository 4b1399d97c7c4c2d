//! Lines over steps, and points over stages, as SVG that takes its colours from the page.

use super::escape::escaped;
use super::figures::Value;
use crate::format::number;
use std::fmt::Write;

/// Most points of a drawn line, whatever the number of steps.
pub(super) const POINTS_MAX: usize = 400;
/// A line with fewer points is not smoothed.
const SMOOTHED_MIN_POINTS: usize = 20;

/// A panel's size and margins, in its own units.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;
/// Room for the names of places below a drawing.
const NAMES: f64 = 74.0;
const NAME_MAX_LETTERS: usize = 20;

#[derive(Debug)]
pub(super) struct Panel {
    pub title: String,
    pub unit: String,
    pub series: Vec<Series>,
}

#[derive(Debug)]
pub(super) struct Series {
    pub name: String,
    /// The finite points: step and value.
    pub points: Vec<(f64, f64)>,
    /// The number of points whose value is not finite.
    pub lost: usize,
    smooth: bool,
}

impl Series {
    pub(super) fn new(name: &str, points: Vec<(f64, f64)>, smooth: bool) -> Series {
        let all = points.len();
        let points: Vec<(f64, f64)> = points
            .into_iter()
            .filter(|(_, value)| value.is_finite())
            .collect();
        Series {
            name: name.into(),
            lost: all - points.len(),
            points,
            smooth,
        }
    }

    /// A moving average, centred, over a twentieth of the points.
    fn smoothed(&self) -> Option<Vec<(f64, f64)>> {
        let count = self.points.len();
        if !self.smooth || count < SMOOTHED_MIN_POINTS {
            return None;
        }
        let half = (count / 20).max(2) / 2;
        let around = |at: usize| &self.points[at.saturating_sub(half)..(at + half + 1).min(count)];
        let mean = |part: &[(f64, f64)]| {
            part.iter().map(|(_, value)| value).sum::<f64>() / part.len() as f64
        };
        Some(
            self.points
                .iter()
                .enumerate()
                .map(|(at, (step, _))| (*step, mean(around(at))))
                .collect(),
        )
    }
}

/// Reduces a line to at most [`POINTS_MAX`] points: the lowest and the highest of each stretch, so
/// that no spike is lost.
pub(super) fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS_MAX {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(POINTS_MAX / 2);
    let extremes = points.chunks(stretch).flat_map(|part| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let mut both: Vec<(f64, f64)> = part
            .iter()
            .min_by(by_value)
            .into_iter()
            .chain(part.iter().max_by(by_value))
            .copied()
            .collect();
        both.sort_by(|a, b| a.0.total_cmp(&b.0));
        both.dedup();
        both
    });
    extremes.collect()
}

/// Maps values to places on an axis, and holds the labels beside it.
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Axis {
    /// An axis with round numbers around the values; it begins at 0 if that is near.
    fn around(values: impl Iterator<Item = f64> + Clone) -> Axis {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        let (mut low, mut high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        if low > 0.0 && low < 0.5 * high {
            low = 0.0;
        }
        if high - low <= f64::EPSILON * high.abs().max(low.abs()) {
            // All values are equal: the axis goes from 0 to twice the value, or to 1 for zeros.
            (low, high) = if low == 0.0 {
                (0.0, 1.0)
            } else {
                (low.min(0.0) * 2.0, high.max(0.0) * 2.0)
            };
        }
        let step = round_step((high - low) / 4.0);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let count = ((last - first) as usize).min(12);
        let ticks = (0..=count).map(|i| (first + i as f64) * step).collect();
        Axis {
            low: first * step,
            high: (first + count as f64) * step,
            ticks,
        }
    }

    /// An axis from the first to the last step, with whole steps as ticks.
    fn of_steps(first: f64, last: f64) -> Axis {
        let step = round_step((last - first) / 5.0).max(1.0);
        let start = (first / step).ceil() * step;
        let mut ticks: Vec<f64> = (0..8)
            .map(|i| start + f64::from(i) * step)
            .filter(|tick| *tick <= last)
            .collect();
        if ticks.is_empty() {
            ticks.push(first);
        }
        Axis {
            low: first,
            high: last,
            ticks,
        }
    }

    fn place(&self, value: f64) -> f64 {
        if self.high > self.low {
            (value - self.low) / (self.high - self.low)
        } else {
            0.5
        }
    }

    /// Labels a tick with as many decimals as distinguish it from its neighbours.
    fn label(&self, tick: f64) -> String {
        let apart = self
            .ticks
            .get(1)
            .zip(self.ticks.first())
            .map_or(1.0, |(b, a)| (b - a).abs());
        let size = self.high.abs().max(self.low.abs());
        match (size, apart) {
            (1e4.., _) => short(tick),
            (_, ..1e-3) if tick != 0.0 => format!("{tick:.1e}"),
            (_, 1.0..) => format!("{tick:.0}"),
            (_, 0.1..) => format!("{tick:.1}"),
            (_, 0.01..) => format!("{tick:.2}"),
            _ if tick == 0.0 => "0".into(),
            _ => format!("{tick:.3}"),
        }
    }
}

/// Shortens a number: `12k`, `3.5M`.
fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        1e9.. => (value / 1e9, "G"),
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{scaled:.1}");
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// The smallest of 1, 2 or 5 times a power of ten that is not below `rough`.
fn round_step(rough: f64) -> f64 {
    if !(rough.is_finite() && rough > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf(rough.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= rough * (1.0 - 1e-9));
    round.unwrap_or(10.0) * power
}

fn x_of(axis: &Axis, value: f64) -> f64 {
    LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)
}

fn y_of(axis: &Axis, value: f64, bottom: f64) -> f64 {
    bottom - axis.place(value) * (bottom - TOP)
}

/// Draws a panel as a figure: title, a legend if there is more than one line, and the drawing.
pub(super) fn figure(panel: &Panel) -> String {
    let (x, y) = axes(panel);
    let bottom = HEIGHT - BOTTOM;
    let mut svg = open(HEIGHT, &spoken(panel));
    rows(&mut svg, &y, bottom);
    steps(&mut svg, &x, bottom);
    for (index, series) in panel.series.iter().enumerate() {
        let smoothed = series.smoothed();
        let class = if smoothed.is_some() { "raw" } else { "line" };
        let mut draw = |points: &[(f64, f64)], class: &str| {
            let class = format!("{class} s{index}");
            line(&mut svg, points, &x, &y, bottom, &class);
        };
        draw(&series.points, class);
        if let Some(smoothed) = smoothed {
            draw(&smoothed, "line");
        }
    }
    svg += "</svg>";
    let lost: usize = panel.series.iter().map(|series| series.lost).sum();
    let lost = match lost {
        0 => String::new(),
        count => format!(r#"<p class="note">{count} values are no numbers</p>"#),
    };
    let names: Vec<&str> = panel
        .series
        .iter()
        .map(|series| series.name.as_str())
        .collect();
    format!(
        "<figure>{}{svg}{lost}</figure>\n",
        caption(&panel.title, &panel.unit, &names)
    )
}

/// The axis of a panel's steps, and that of its values.
fn axes(panel: &Panel) -> (Axis, Axis) {
    let points = || panel.series.iter().flat_map(|series| &series.points);
    let steps = points().map(|(step, _)| *step);
    let (first, last) = (
        steps.clone().fold(f64::INFINITY, f64::min),
        steps.fold(f64::NEG_INFINITY, f64::max),
    );
    let x = if first <= last {
        Axis::of_steps(first, last)
    } else {
        Axis::of_steps(0.0, 1.0)
    };
    (x, Axis::around(points().map(|(_, value)| *value)))
}

/// Draws the axis of the steps.
fn steps(svg: &mut String, x: &Axis, bottom: f64) {
    for tick in &x.ticks {
        let at = x_of(x, *tick);
        tick_at(svg, at, bottom);
        let _ = write!(
            svg,
            r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            bottom + 16.0,
            x.label(*tick)
        );
    }
    let _ = write!(
        svg,
        r#"<text class="axis" x="{:.1}" y="{:.1}" text-anchor="middle">step</text>"#,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 4.0
    );
}

fn tick_at(svg: &mut String, at: f64, bottom: f64) {
    let _ = write!(
        svg,
        r#"<line class="tick" x1="{at:.1}" x2="{at:.1}" y1="{bottom}" y2="{:.1}"/>"#,
        bottom + 4.0
    );
}

fn caption(title: &str, unit: &str, names: &[&str]) -> String {
    let unit = if unit.is_empty() {
        String::new()
    } else {
        format!(r#" <span class="unit">({})</span>"#, escaped(unit))
    };
    let legend: String = match names {
        [name] => format!("<code>{}</code>", escaped(name)),
        names => (names.iter().enumerate())
            .map(|(index, name)| {
                format!(
                    r#"<span class="key"><i class="s{index}"></i><code>{}</code></span> "#,
                    escaped(name)
                )
            })
            .collect(),
    };
    format!(
        r#"<figcaption><b>{}</b>{unit}<span class="legend">{legend}</span></figcaption>"#,
        escaped(title)
    )
}

/// Describes the drawing in a sentence, for people who do not see it.
fn spoken(panel: &Panel) -> String {
    let ends = panel.series.iter().filter_map(|series| {
        let (first, last) = series.points.first().zip(series.points.last())?;
        Some(format!(
            "{} from {} at step {} to {} at step {}",
            series.name,
            number(first.1),
            first.0,
            number(last.1),
            last.0
        ))
    });
    format!("{}: {}", panel.title, ends.collect::<Vec<_>>().join("; "))
}

fn open(height: f64, spoken: &str) -> String {
    format!(
        r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{}">"#,
        escaped(spoken)
    )
}

fn rows(svg: &mut String, y: &Axis, bottom: f64) {
    for tick in &y.ticks {
        let at = y_of(y, *tick, bottom);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/>"#,
            WIDTH - RIGHT
        );
        let _ = write!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            LEFT - 6.0,
            at + 3.5,
            y.label(*tick)
        );
    }
}

fn line(svg: &mut String, points: &[(f64, f64)], x: &Axis, y: &Axis, bottom: f64, class: &str) {
    let points = thinned(points);
    let at = |(step, value): &(f64, f64)| (x_of(x, *step), y_of(y, *value, bottom));
    if points.len() < 3 || class.starts_with("line") && points.len() <= 12 {
        for point in &points {
            let (x, y) = at(point);
            let _ = write!(
                svg,
                r#"<circle class="dot {}" cx="{x:.1}" cy="{y:.1}" r="2.6"/>"#,
                class.rsplit(' ').next().unwrap_or("")
            );
        }
    }
    let path: Vec<String> = points
        .iter()
        .map(at)
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let _ = write!(
        svg,
        r#"<polyline class="{class}" points="{}"/>"#,
        path.join(" ")
    );
}

/// A value at each place, with its interval; `None` where it was not measured.
pub(super) struct Placed {
    pub name: String,
    pub values: Vec<Option<Value>>,
}

/// Draws what was measured after each stage: places stand side by side, in their order. `origins`
/// says from which place's weights each place started.
pub(super) fn over_places(
    title: &str,
    unit: &str,
    places: &[String],
    origins: &[Option<usize>],
    series: &[Placed],
) -> String {
    let bottom = HEIGHT - 14.0;
    let found = series.iter().flat_map(|series| &series.values).flatten();
    let shown = |value: &Value| {
        let (low, high) = value.interval.unzip();
        [Some(value.mean), low, high].into_iter().flatten()
    };
    let y = Axis::around(found.flat_map(shown).filter(|value| value.is_finite()));
    let names: Vec<&str> = series.iter().map(|series| series.name.as_str()).collect();
    let spoken = format!("{title} after each stage: {}", names.join(", "));
    let mut svg = open(bottom + NAMES, &spoken);
    rows(&mut svg, &y, bottom);
    let width = (WIDTH - LEFT - RIGHT) / places.len().max(1) as f64;
    let middle = |place: usize| LEFT + (place as f64 + 0.5) * width;
    for (place, name) in places.iter().enumerate() {
        place_name(&mut svg, name, middle(place), bottom);
    }
    for (index, series) in series.iter().enumerate() {
        // The points of several data sets stand beside each other.
        let beside = (index as f64 - (names.len() as f64 - 1.0) / 2.0) * (width / 6.0).min(6.0);
        let spot = |place: usize| {
            let value = series.values.get(place).copied().flatten();
            let value = value.filter(|value| value.mean.is_finite())?;
            Some((middle(place) + beside, y_of(&y, value.mean, bottom)))
        };
        for (place, value) in series.values.iter().enumerate() {
            let (Some((x, at)), Some(value)) = (spot(place), value) else {
                continue;
            };
            if let Some((low, high)) = value.interval {
                let (low, high) = (y_of(&y, low, bottom), y_of(&y, high, bottom));
                segment(&mut svg, &format!("whisker s{index}"), (x, low), (x, high));
            }
            let _ = write!(
                svg,
                r#"<circle class="dot s{index}" cx="{x:.1}" cy="{at:.1}" r="3.2"/>"#
            );
            if let Some(from) = origins.get(place).copied().flatten().and_then(spot) {
                segment(&mut svg, &format!("link s{index}"), from, (x, at));
            }
        }
    }
    svg += "</svg>";
    format!("<figure>{}{svg}</figure>\n", caption(title, unit, &names))
}

/// Writes the name of a place below its middle, turned.
fn place_name(svg: &mut String, name: &str, at: f64, bottom: f64) {
    tick_at(svg, at, bottom);
    let below = bottom + 12.0;
    let shown: String = name.chars().take(NAME_MAX_LETTERS).collect();
    let turned = format!(r#"transform="rotate(-35 {at:.1} {below})""#);
    let _ = write!(
        svg,
        r#"<text x="{at:.1}" y="{below}" text-anchor="end" {turned}>{}</text>"#,
        escaped(&shown)
    );
}

fn segment(svg: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = write!(
        svg,
        r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_is_thinned_and_keeps_its_spikes() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|step| (f64::from(step), 1.0)).collect();
        points[77_777].1 = 9.0;
        points[33_333].1 = -9.0;
        let thin = thinned(&points);
        assert!(thin.len() <= POINTS_MAX, "{}", thin.len());
        assert!(thin.contains(&(77_777.0, 9.0)) && thin.contains(&(33_333.0, -9.0)));
        assert!(
            thin.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "in the order of steps"
        );
        assert_eq!(thinned(&points[..POINTS_MAX]), points[..POINTS_MAX]);
    }

    #[test]
    fn an_axis_holds_its_values_between_round_ticks() {
        for values in [
            vec![0.0, 0.93],
            vec![-3.2, 7.7],
            vec![5.0, 5.0],
            vec![0.0, 0.0],
            vec![1e-6, 3e-6],
            vec![],
            vec![12_345.0, 99_999.0],
        ] {
            let axis = Axis::around(values.iter().copied());
            assert!(
                (3..=13).contains(&axis.ticks.len()) || axis.ticks.len() == 2,
                "{values:?}: {:?}",
                axis.ticks
            );
            assert!(
                values
                    .iter()
                    .all(|value| (0.0..=1.0).contains(&axis.place(*value))),
                "{values:?}: {:?}",
                axis.ticks
            );
        }
        assert_eq!(
            Axis::around([0.02, 0.93].into_iter()).ticks.first(),
            Some(&0.0),
            "zero is near"
        );
        assert_eq!(short(12_500.0), "12.5k");
    }

    #[test]
    fn what_is_no_number_is_left_out_and_counted() {
        let series = Series::new(
            "kl",
            vec![(1.0, f64::NAN), (2.0, 0.5), (3.0, f64::INFINITY)],
            true,
        );
        assert_eq!(
            (series.points.as_slice(), series.lost),
            (&[(2.0, 0.5)][..], 2)
        );
        let figure = figure(&Panel {
            title: "KL".into(),
            unit: "nats".into(),
            series: vec![series],
        });
        assert!(
            figure.contains("2 values are no numbers")
                && !figure.contains("NaN")
                && !figure.contains("inf"),
            "{figure}"
        );
    }
}
