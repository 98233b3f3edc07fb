//! Charts as SVG files of their own, for documents: lines with spreads, and points with names. They
//! follow the reader's light or dark scheme.

use super::chart::{Axis, COLOURS, Scale, escape, label, marker, pattern, push};

/// What the page's styles are for the page.
const STYLE: &str = concat!(
    include_str!("html/palette.css"),
    ":root{--page:#fff;--text:#1d2126;--soft:#5c6570;--line:#d5d9de}",
    "@media screen and (prefers-color-scheme:dark){:root{--page:#14171a;--text:#e4e7eb;--soft:#9aa4af;--line:#3a414a}}",
    "text{font:12px system-ui,sans-serif;fill:var(--text)}.soft{fill:var(--soft)}.grid{stroke:var(--line);fill:none}",
    ".page{fill:var(--page)}.line,.spread{fill:none;stroke:currentColor;stroke-width:2}.spread{stroke-width:1.2}",
    ".d1{stroke-dasharray:7 3}.d2{stroke-dasharray:2 3}.d3{stroke-dasharray:9 3 2 3}.marker{fill:currentColor;stroke:var(--page)}",
    "image{image-rendering:pixelated}"
);

const PLOT_RIGHT: f64 = 560.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 28.0;
const PLOT_HEIGHT: f64 = 320.0;
const BOTTOM: f64 = 44.0;
/// The mean width of a letter at 12 px.
const LETTER: f64 = 6.8;
/// Height of a legend's line.
const STEP: f64 = 20.0;

/// A value at a place, with its standard deviation if it has one.
pub(super) struct PlotPoint {
    pub x: f64,
    pub y: f64,
    pub spread: Option<f64>,
}

/// Points of one name, joined by a line if there are several.
pub(super) struct Series {
    pub name: String,
    pub points: Vec<PlotPoint>,
}

/// The horizontal axis.
pub(super) struct Horizontal {
    pub label: String,
    pub scale: Scale,
    /// Places with a text; empty: round values.
    pub ticks: Vec<(f64, String)>,
}

/// A chart as a complete file, or `None` if no point can be drawn.
pub(super) fn plot(
    title: &str,
    horizontal: &Horizontal,
    y_label: &str,
    series: &[Series],
) -> Option<String> {
    let all = || series.iter().flat_map(|one| &one.points);
    let ends = all().flat_map(|p| [p.y - p.spread.unwrap_or(0.0), p.y + p.spread.unwrap_or(0.0)]);
    let height = (TOP + PLOT_HEIGHT).max(TOP + STEP * series.len() as f64) + BOTTOM;
    let x =
        Axis::new(all().map(|point| point.x), horizontal.scale, LEFT + 16.0, PLOT_RIGHT - 16.0)?;
    let y = Axis::new(ends, Scale::Linear, TOP + PLOT_HEIGHT - 8.0, TOP + 8.0)?;
    let longest = series.iter().map(|one| one.name.chars().count()).max().unwrap_or(0);
    let width = PLOT_RIGHT + 70.0 + LETTER * longest as f64;
    let mut svg = opened(title, width, height);
    for (value, text) in y.ticks() {
        let at = y.place(value);
        push(&mut svg, format_args!("<path class=\"grid\" d=\"M{LEFT} {at:.1}H{PLOT_RIGHT}\"/>"));
        label(&mut svg, LEFT - 8.0, at + 4.0, "end", &text);
    }
    let ticks = if horizontal.ticks.is_empty() { x.ticks() } else { horizontal.ticks.clone() };
    for (value, text) in ticks {
        label(&mut svg, x.place(value), TOP + PLOT_HEIGHT + 16.0, "middle", &text);
    }
    label(&mut svg, PLOT_RIGHT, TOP + PLOT_HEIGHT + 34.0, "end", &horizontal.label);
    label(&mut svg, 4.0, 16.0, "start", y_label);
    for (number, one) in series.iter().enumerate() {
        draw(&mut svg, number, one, &x, &y);
    }
    svg += "</svg>\n";
    Some(svg)
}

fn draw(svg: &mut String, number: usize, series: &Series, x: &Axis, y: &Axis) {
    let (colour, dashes) = (number % COLOURS, pattern(number));
    push(svg, format_args!("<g style=\"color:var(--c{colour})\">"));
    let places: Vec<String> = series
        .points
        .iter()
        .map(|point| format!("{:.1},{:.1}", x.place(point.x), y.place(point.y)))
        .collect();
    if places.len() > 1 {
        let places = places.join(" ");
        push(svg, format_args!("<polyline class=\"line d{dashes}\" points=\"{places}\"/>"));
    }
    for point in &series.points {
        let (at, value) = (x.place(point.x), y.place(point.y));
        if let Some(spread) = point.spread {
            let (low, high) = (y.place(point.y - spread), y.place(point.y + spread));
            push(svg, format_args!("<path class=\"spread\" d=\"M{at:.1} {low:.1}V{high:.1}\"/>"));
        }
        marker(svg, dashes, at, value);
    }
    let (left, at) = (PLOT_RIGHT + 20.0, TOP + 12.0 + STEP * number as f64);
    push(svg, format_args!("<path class=\"line d{dashes}\" d=\"M{left} {at}h32\"/>"));
    marker(svg, dashes, left + 16.0, at);
    label(svg, left + 42.0, at + 4.0, "start", &series.name);
    *svg += "</g>";
}

/// Images of one origin, as `data:` URIs; a place may lack one.
pub(super) struct ImageRow {
    pub name: String,
    pub images: Vec<Option<String>>,
}

/// The side of an image in an [`image_grid`].
const SIDE: f64 = 56.0;

/// Images of several origins at the same classes: a row per origin, a column per class.
pub(super) fn image_grid(title: &str, columns: &[String], rows: &[ImageRow]) -> String {
    let longest = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let names = 20.0 + LETTER * longest as f64;
    let width = names + (SIDE + 4.0) * columns.len() as f64 + 8.0;
    let height = 30.0 + (SIDE + 4.0) * rows.len() as f64;
    let mut svg = opened(title, width, height);
    for (number, class) in columns.iter().enumerate() {
        let centre = names + (SIDE + 4.0) * number as f64 + SIDE / 2.0;
        let short: String = class.chars().take((SIDE / LETTER) as usize + 1).collect();
        label(&mut svg, centre, 18.0, "middle", &short);
    }
    for (number, row) in rows.iter().enumerate() {
        let top = 26.0 + (SIDE + 4.0) * number as f64;
        label(&mut svg, names - 10.0, top + SIDE / 2.0 + 4.0, "end", &row.name);
        for (column, image) in row.images.iter().enumerate() {
            let Some(uri) = image else { continue };
            let left = names + (SIDE + 4.0) * column as f64;
            push(
                &mut svg,
                format_args!(
                    "<image x=\"{left}\" y=\"{top}\" width=\"{SIDE}\" height=\"{SIDE}\" href=\"{uri}\"/>"
                ),
            );
        }
    }
    svg += "</svg>\n";
    svg
}

fn opened(title: &str, width: f64, height: f64) -> String {
    let title = escape(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\"><style>{STYLE}</style><rect class=\"page\" width=\"100%\" height=\"100%\"/>"
    )
}
