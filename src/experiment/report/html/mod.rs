//! The page: one HTML file with its style, scripts, charts and images inside. It reads without
//! scripts, which add sorting, filters and enlarged images.

mod figures;
pub(super) mod images;
mod sets;
mod tables;

use std::collections::BTreeSet;

use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use serde::Serialize;

use super::chart;
use super::summary::groups;
use super::text::verifier_cells;
use super::{Labels, ReportError, Results, Row, recognised};
pub use figures::Figure;
use figures::{recovery_figures, verifier_figures};
use sets::{BalanceRow, Glance, GridView};
use tables::{Failures, Table};

const TEMPLATE: &str = include_str!("report.html");

/// The template's data.
#[derive(Serialize)]
struct Page<'a> {
    name: &'a str,
    data: &'a str,
    test_images: String,
    students: usize,
    fewest_seeds: usize,
    filters: Vec<RowFilter>,
    glance: Option<Glance>,
    tables: Vec<Table>,
    failures: Failures,
    recoveries: Vec<Figure>,
    balances: Vec<BalanceRow>,
    verified: Vec<[String; 7]>,
    verifiers: Vec<Figure>,
    recognised: Vec<[String; 6]>,
    /// The first seed's images, which are shown; the other seeds' images can be unfolded.
    first_grids: Vec<GridView>,
    other_grids: Vec<GridView>,
    experiment: &'a str,
}

/// A choice by which rows, tables and images are hidden: those whose attribute `data-<key>` has
/// another value.
#[derive(Serialize)]
struct RowFilter {
    key: &'static str,
    label: &'static str,
    values: Vec<String>,
}

/// The whole page.
pub(super) fn page(results: &Results) -> Result<String, ReportError> {
    let grids = sets::grids(results)?;
    let glance = sets::glance(&grids);
    let (first_grids, other_grids) = grids.into_iter().partition(|grid| grid.open);
    let page = Page {
        name: &results.name,
        data: &results.data,
        test_images: thousands(results.test_images),
        students: results.rows.len(),
        fewest_seeds: groups(&results.rows).iter().map(Vec::len).min().unwrap_or(0),
        filters: filters(&results.rows),
        glance,
        tables: tables::tables(results),
        failures: tables::failures(results),
        recoveries: recovery_figures(&results.recoveries),
        balances: results.recoveries.iter().filter_map(sets::balance).collect(),
        verified: results.recoveries.iter().flat_map(verifier_cells).collect(),
        verifiers: verifier_figures(&results.recoveries),
        recognised: results.recognised.iter().map(recognised::cells).collect(),
        first_grids,
        other_grids,
        experiment: &results.experiment,
    };
    Ok(environment()?.render_named_str("report.html", TEMPLATE, Serde(&page))?)
}

/// The template environment of all pages. Templates can include the styles and scripts, and
/// `figures.html`, which shows the list `figures` of [`Figure`]s; `key(n)` draws the sample of the
/// `n`th line.
pub fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    for (name, text) in [
        ("style.css", concat!(include_str!("palette.css"), include_str!("style.css"))),
        ("media.css", include_str!("media.css")),
        ("figures.html", include_str!("figures.html")),
        ("results.html", include_str!("results.html")),
        ("sets.html", include_str!("sets.html")),
        ("origin.html", include_str!("origin.html")),
        ("sort.js", include_str!("sort.js")),
        ("filter.js", include_str!("filter.js")),
        ("enlarge.js", include_str!("enlarge.js")),
    ] {
        environment.add_template(name, text)?;
    }
    environment.add_function("key", chart::key);
    Ok(environment)
}

/// The choices that divide the rows.
fn filters(rows: &[Row]) -> Vec<RowFilter> {
    let distinct = |of: &dyn Fn(&Row) -> String| -> Vec<String> {
        rows.iter().map(of).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let sizes: BTreeSet<u32> = rows.iter().map(|row| row.ipc).collect();
    let sizes = sizes.into_iter().map(|ipc| ipc.to_string()).collect();
    let all = [
        RowFilter { key: "ipc", label: "Images per class", values: sizes },
        RowFilter {
            key: "labels",
            label: "Labels",
            values: distinct(&|row| kind(row.labels).into()),
        },
        RowFilter {
            key: "student",
            label: "Student",
            values: distinct(&|row| row.student.clone()),
        },
        RowFilter {
            key: "protocol",
            label: "Protocol",
            values: distinct(&|row| row.protocol.clone()),
        },
    ];
    all.into_iter().filter(|filter| filter.values.len() > 1).collect()
}

fn kind(labels: Labels) -> &'static str {
    match labels {
        Labels::Soft => "soft",
        Labels::Hard => "hard",
    }
}

/// Seconds for people, such as `9.5 s`, `12 min`, `3.4 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 600.0 => format!("{s:.0} s"),
        s if s < 36_000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// A count with commas, such as `10,000`.
fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}
