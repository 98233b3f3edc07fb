//! Line charts as inline SVG. A line's number decides its colour, its dashes and its markers, so
//! that lines are told apart without colours too. These are the page's CSS classes `c0` … `c7` and
//! `d0` … `d3`, which follow its light or dark scheme.

use std::fmt::Write;

/// The number of colours that the page defines.
pub(super) const COLOURS: usize = 8;
/// The number of dash patterns that the page defines, and of markers.
const PATTERNS: usize = 4;
/// A line with more points has no markers.
const MARKED: usize = 30;

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 38.0;
/// The approximate number of points to which longer lines are thinned.
const POINTS: usize = 400;

/// The scale of the vertical axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Log,
}

/// One line of a chart.
pub struct ChartLine {
    /// The line's number in the chart: its colour, dashes and markers.
    pub number: usize,
    /// Whether the line is thin and pale, because it is less important than the others.
    pub faint: bool,
    pub points: Vec<(f64, f64)>,
}

/// A chart with labelled axes, or `None` if there are no points.
pub fn line_chart(
    title: &str,
    x_label: &str,
    y_label: &str,
    scale: Scale,
    lines: &[ChartLine],
) -> Option<String> {
    let drawable = |&(x, y): &(f64, f64)| {
        x.is_finite() && y.is_finite() && (scale == Scale::Linear || y > 0.0)
    };
    let points: Vec<(f64, f64)> =
        lines.iter().flat_map(|line| &line.points).copied().filter(drawable).collect();
    let x = Axis::new(points.iter().map(|point| point.0), Scale::Linear, LEFT, WIDTH - RIGHT)?;
    let y = Axis::new(points.iter().map(|point| point.1), scale, HEIGHT - BOTTOM, TOP)?;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(title)
    );
    grid(&mut svg, &x, &y);
    label(&mut svg, WIDTH - RIGHT, HEIGHT - 4.0, "end", x_label);
    label(&mut svg, 4.0, 14.0, "start", y_label);
    for line in lines {
        let visible: Vec<(f64, f64)> = line.points.iter().copied().filter(drawable).collect();
        polyline(&mut svg, line, &visible, &x, &y);
    }
    svg += "</svg>";
    Some(svg)
}

fn grid(svg: &mut String, x: &Axis, y: &Axis) {
    for (value, text) in y.ticks() {
        let at = y.place(value);
        push(svg, format_args!("<path class=\"grid\" d=\"M{LEFT} {at:.1}H{}\"/>", WIDTH - RIGHT));
        label(svg, LEFT - 6.0, at + 4.0, "end", &text);
    }
    for (value, text) in x.ticks() {
        label(svg, x.place(value), HEIGHT - BOTTOM + 16.0, "middle", &text);
    }
}

fn polyline(svg: &mut String, line: &ChartLine, points: &[(f64, f64)], x: &Axis, y: &Axis) {
    let stride = points.len().div_ceil(POINTS).max(1);
    let kept = points.iter().enumerate().filter(|(i, _)| i % stride == 0 || i + 1 == points.len());
    let mut places: Vec<(f64, f64)> =
        kept.map(|(_, point)| (x.place(point.0), y.place(point.1))).collect();
    if let [only] = places[..] {
        // A line of one point would be invisible, so it is widened.
        places = vec![(only.0 - 4.0, only.1), (only.0 + 4.0, only.1)];
    }
    let coordinates: Vec<String> =
        places.iter().map(|place| format!("{:.1},{:.1}", place.0, place.1)).collect();
    let faint = if line.faint { " faint" } else { "" };
    let (number, class, pattern) = (line.number, colour(line.number), pattern(line.number));
    push(svg, format_args!("<g class=\"{class}{faint}\" data-line=\"{number}\">"));
    let coordinates = coordinates.join(" ");
    push(svg, format_args!("<polyline class=\"line d{pattern}\" points=\"{coordinates}\"/>"));
    if !line.faint && points.len() <= MARKED {
        points.iter().for_each(|point| marker(svg, pattern, x.place(point.0), y.place(point.1)));
    }
    *svg += "</g>";
}

fn colour(number: usize) -> String {
    format!("c{}", number % COLOURS)
}

/// Neighbouring numbers have different patterns, and the first 32 different pairs of colour and
/// pattern.
pub(super) fn pattern(number: usize) -> usize {
    (number / COLOURS + number) % PATTERNS
}

/// A disc, square, triangle or diamond around a point.
pub(super) fn marker(svg: &mut String, pattern: usize, x: f64, y: f64) {
    let shape = match pattern {
        0 => "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0",
        1 => "m-3.2 -3.2h6.4v6.4h-6.4z",
        2 => "m0 -4.4l4.2 7.4h-8.4z",
        _ => "m0 -4.6l4.6 4.6l-4.6 4.6l-4.6 -4.6z",
    };
    push(svg, format_args!("<path class=\"marker\" d=\"M{x:.1} {y:.1}{shape}\"/>"));
}

/// A sample of the line with this `number`, for legends and tables.
pub fn key(number: usize) -> String {
    let (class, pattern) = (colour(number), pattern(number));
    let mut svg = format!(
        "<svg class=\"key {class}\" viewBox=\"0 0 34 12\" aria-hidden=\"true\"><path class=\"line d{pattern}\" d=\"M1 6H33\"/>"
    );
    marker(&mut svg, pattern, 17.0, 6.0);
    svg + "</svg>"
}

/// One row of a [`dot_plot`].
pub(super) struct Dots {
    pub label: String,
    /// Whether the dots are circles instead of discs.
    pub hollow: bool,
    pub values: Vec<f64>,
    pub mean: f64,
}

/// The style of a chart in a file of its own.
const STYLE: &str = "<style>text{font:12px system-ui,sans-serif;fill:#1d2126}.soft{fill:#5c6570}.grid{stroke:#d5d9de;fill:none}\
.dot{stroke:#2563c9;fill:#2563c9;fill-opacity:.45}.hollow{stroke:#d9480f;fill:none}.mean{stroke-width:2;fill:none}.mean.dot{stroke:#2563c9}\
.page{fill:#fff}@media (prefers-color-scheme:dark){text{fill:#e4e7eb}.soft{fill:#9aa4af}.grid{stroke:#3a414a}.page{fill:#14171a}\
.dot{stroke:#74a7ff;fill:#74a7ff}.mean.dot{stroke:#74a7ff}.hollow{stroke:#ff8f5c}}</style>";

/// Of a [`dot_plot`]: its width, the left edge of its values, and the height of a row.
const PLOT: (f64, f64, f64) = (960.0, 500.0, 20.0);

/// A chart as a complete file: each row's values as dots on a common axis, with a bar at their
/// mean.
pub(super) fn dot_plot(title: &str, x_label: &str, rows: &[Dots]) -> String {
    let (width, left, step) = PLOT;
    let bottom = 16.0 + step * rows.len() as f64;
    let height = bottom + 44.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">{STYLE}<rect class=\"page\" width=\"100%\" height=\"100%\"/>",
        escape(title)
    );
    let values = rows.iter().flat_map(|row| row.values.iter().copied());
    if let Some(x) = Axis::new(values, Scale::Linear, left, width - 24.0) {
        for (value, text) in x.ticks() {
            let at = x.place(value);
            push(&mut svg, format_args!("<path class=\"grid\" d=\"M{at:.1} 8V{bottom}\"/>"));
            push(
                &mut svg,
                format_args!(
                    "<text class=\"soft\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
                    bottom + 16.0
                ),
            );
        }
        for (index, row) in rows.iter().enumerate() {
            let y = 20.0 + step * index as f64;
            let class = if row.hollow { "hollow" } else { "dot" };
            label(&mut svg, left - 14.0, y + 4.0, "end", &row.label);
            for value in &row.values {
                push(
                    &mut svg,
                    format_args!(
                        "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{y}\" r=\"4\"/>",
                        x.place(*value)
                    ),
                );
            }
            let mean = x.place(row.mean);
            push(
                &mut svg,
                format_args!(
                    "<path class=\"mean {class}\" d=\"M{mean:.1} {}V{}\"/>",
                    y - 8.0,
                    y + 8.0
                ),
            );
        }
    }
    push(
        &mut svg,
        format_args!(
            "<text class=\"soft\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text></svg>\n",
            width - 24.0,
            height - 8.0,
            escape(x_label)
        ),
    );
    svg
}

/// Dots for single seeds and a bar at their mean, on a scale from `low` to `high` (accuracies,
/// 0..=1).
pub(super) fn strip(values: &[f64], mean: f64, low: f64, high: f64, number: usize) -> String {
    let place = |value: f64| 4.0 + 112.0 * ((value - low) / (high - low)).clamp(0.0, 1.0);
    let mut svg =
        "<svg class=\"strip\" viewBox=\"0 0 120 16\" aria-hidden=\"true\"><path class=\"grid\" d=\"M4 8H116\"/>"
            .to_string();
    let class = colour(number);
    push(&mut svg, format_args!("<path class=\"mean {class}\" d=\"M{:.1} 2V14\"/>", place(mean)));
    for value in values {
        push(
            &mut svg,
            format_args!(
                "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"8\" r=\"3\"/>",
                place(*value)
            ),
        );
    }
    svg + "</svg>"
}

/// Maps a range of values to a range of pixels.
pub(super) struct Axis {
    low: f64,
    high: f64,
    scale: Scale,
    from: f64,
    to: f64,
}

impl Axis {
    pub(super) fn new(
        values: impl Iterator<Item = f64>,
        scale: Scale,
        from: f64,
        to: f64,
    ) -> Option<Self> {
        let (low, high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), value| (l.min(value), h.max(value)));
        if low > high {
            return None;
        }
        let (low, high) = if low == high { widened(low, scale) } else { (low, high) };
        Some(Self { low, high, scale, from, to })
    }

    pub(super) fn place(&self, value: f64) -> f64 {
        let measure = |value: f64| if self.scale == Scale::Log { value.log10() } else { value };
        let share = (measure(value) - measure(self.low)) / (measure(self.high) - measure(self.low));
        self.from + share * (self.to - self.from)
    }

    /// Round values within the range, with their texts.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let values = match self.scale {
            Scale::Linear => linear_ticks(self.low, self.high),
            Scale::Log => log_ticks(self.low, self.high),
        };
        values.into_iter().map(|value| (value, number(value))).collect()
    }
}

/// A range around a single value.
fn widened(value: f64, scale: Scale) -> (f64, f64) {
    match scale {
        Scale::Log => (value / 2.0, value * 2.0),
        Scale::Linear => (value - 0.5, value + 0.5),
    }
}

/// Multiples of 1, 2 or 5 times a power of ten; about five.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..)
        .map(|count| count as f64 * step)
        .take_while(|tick| *tick <= high + step * 1e-9)
        .take(20)
        .collect()
}

/// Powers of ten; with 2 and 5 times them if the range is short, thinned if it is long.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = (high / low).log10();
    let factors: &[f64] =
        if decades < 1.0 { &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0] } else { &[1.0, 2.0, 5.0] };
    let factors = if decades > 2.5 { &factors[..1] } else { factors };
    let stride = (decades / 6.0).ceil().max(1.0) as usize;
    let powers = (low.log10().floor() as i32..=high.log10().ceil() as i32).step_by(stride);
    let all = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
    all.filter(|tick| (low..=high).contains(tick)).collect()
}

/// A short text for a round number.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_string(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.0e}"),
        _ => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        }
    }
}

pub(super) fn label(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    push(
        svg,
        format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escape(text)
        ),
    );
}

pub(super) fn push(svg: &mut String, text: std::fmt::Arguments) {
    // Writing to a String cannot fail.
    let _ = svg.write_fmt(text);
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_range() {
        assert_eq!(linear_ticks(0.0, 100.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(log_ticks(0.05, 20.0), [0.1, 1.0, 10.0]);
        assert_eq!(log_ticks(1.0, 6.0), [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!([0.0, 0.25, 1e-4, 3000.0].map(number), ["0", "0.25", "1e-4", "3000"]);
    }

    #[test]
    fn lines_are_told_apart_by_colour_and_pattern() {
        let looks: std::collections::BTreeSet<_> =
            (0..32).map(|n| (n % COLOURS, pattern(n))).collect();
        assert_eq!(looks.len(), 32);
        assert!((0..31).all(|n| pattern(n) != pattern(n + 1) || n % COLOURS == 7));
    }

    #[test]
    fn few_points_have_markers() {
        let marks = |count: u32| {
            let points = (0..count).map(|x| (f64::from(x), 0.5)).collect();
            let line = ChartLine { number: 9, faint: false, points };
            let svg = line_chart("t", "x", "y", Scale::Linear, &[line]).unwrap();
            assert!(svg.contains("<g class=\"c1\" data-line=\"9\"><polyline class=\"line d2\""));
            svg.matches("class=\"marker\"").count()
        };
        assert_eq!([marks(5), marks(31)], [5, 0]);
    }

    #[test]
    fn a_single_point_is_drawn_as_a_dash() {
        let line = ChartLine { number: 0, faint: false, points: vec![(80.0, 0.5)] };
        let svg = line_chart("t", "x", "y", Scale::Linear, &[line]).unwrap();
        let points = svg.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        assert_eq!(points.split(' ').count(), 2, "{points}");
    }

    #[test]
    fn charts_without_points_are_left_out_and_odd_points_are_skipped() {
        let chart = |points| {
            line_chart("t", "x", "y", Scale::Log, &[ChartLine { number: 0, faint: false, points }])
        };
        assert_eq!(chart(vec![(0.0, f64::NAN), (1.0, -1.0)]), None);
        let svg = chart(vec![(0.0, 5.0), (1.0, 0.0)]).unwrap();
        assert!(
            svg.contains("points=\"235.0,123.0 243.0,123.0\"") && !svg.contains("NaN"),
            "{svg}"
        );
    }
}
