//! The sets of images: at a glance, as grids, and how they were recovered.

use serde::Serialize;

use super::images::{ClassRow, SHOWN, class_rows};
use crate::report::text::images;
use crate::report::{Grid, Recovery, ReportError, Results};

/// The most classes that are shown at a glance.
const CLASSES: usize = 10;

/// Some images of one set.
#[derive(Serialize)]
pub(super) struct GridView {
    title: String,
    /// The origin of the images, as in tables.
    source: String,
    ipc: u32,
    data_free: bool,
    pub open: bool,
    note: String,
    rows: Vec<ClassRow>,
}

/// One image per class of each way to make them.
#[derive(Serialize)]
pub(super) struct Glance {
    classes: Vec<String>,
    rows: Vec<GlanceRow>,
}

#[derive(Serialize)]
struct GlanceRow {
    source: String,
    ipc: u32,
    data_free: bool,
    /// `data:` URIs, one per class; empty where the set lacks the class.
    images: Vec<String>,
}

/// The balance of one recovery's terms.
#[derive(Serialize)]
pub(super) struct BalanceRow {
    source: String,
    ipc: u32,
    seed: u64,
    ce: [String; 2],
    bn: [String; 2],
    gradients: [String; 2],
    /// Gradient of cross entropy by that of BN statistics.
    ratios: [f64; 2],
    /// The negligible term, if one is.
    neglect: Option<String>,
}

pub(super) fn grids(results: &Results) -> Result<Vec<GridView>, ReportError> {
    let first_seed = |grid: &Grid| {
        let same = |other: &&Grid| {
            (&other.method, &other.teacher, other.ipc) == (&grid.method, &grid.teacher, grid.ipc)
        };
        results.grids.iter().filter(same).all(|other| grid.seed <= other.seed)
    };
    let view = |grid: &Grid| {
        let (rows, classes) = class_rows(&grid.folder, &results.classes, SHOWN)?;
        let shown = rows.first().map_or(0, |row| row.images.len());
        let source = images(&grid.method, grid.teacher.as_deref());
        Ok(GridView {
            title: format!("{source}, {} per class, seed {}", grid.ipc, grid.seed),
            source,
            ipc: grid.ipc,
            data_free: grid.data_free,
            open: first_seed(grid),
            note: truncation(rows.len(), classes, shown, grid.ipc),
            rows,
        })
    };
    results.grids.iter().map(view).collect()
}

/// Says which part of the images a grid shows; empty if it shows all.
fn truncation(rows: usize, classes: usize, shown: usize, ipc: u32) -> String {
    match (rows < classes, shown < ipc as usize) {
        (false, false) => String::new(),
        (true, false) => format!("The first {rows} of {classes} classes."),
        (false, true) => format!("The first {shown} of {ipc} images of each class."),
        (true, true) => {
            format!("The first {shown} of {ipc} images of the first {rows} of {classes} classes.")
        }
    }
}

/// The first images of the first seed of the smallest set of each source. `None` for a single
/// source, whose grid shows as much.
pub(super) fn glance(grids: &[GridView]) -> Option<Glance> {
    let mut firsts: Vec<&GridView> = Vec::new();
    for grid in grids.iter().filter(|grid| grid.open) {
        if firsts.iter().all(|first| first.source != grid.source) {
            firsts.push(grid);
        }
    }
    let classes: Vec<String> =
        firsts.first()?.rows.iter().take(CLASSES).map(|row| row.class.clone()).collect();
    let row = |grid: &&GridView| {
        let image = |class: &String| {
            let row = grid.rows.iter().find(|row| row.class == *class);
            row.and_then(|row| row.images.first().cloned()).unwrap_or_default()
        };
        let images = classes.iter().map(image).collect();
        let (source, data_free) = (grid.source.clone(), grid.data_free);
        GlanceRow { source, ipc: grid.ipc, data_free, images }
    };
    let rows = firsts.iter().map(row).collect();
    (firsts.len() > 1).then_some(Glance { classes, rows })
}

/// The balance of a recovery whose loss has both terms.
pub(super) fn balance(recovery: &Recovery) -> Option<BalanceRow> {
    let (balance, curve) = (recovery.balance?, &recovery.curve);
    let (first, last) = (curve.first()?, curve.last()?);
    let ends = [balance.start, balance.end];
    Some(BalanceRow {
        source: images(&recovery.method, Some(&recovery.teacher)),
        ipc: recovery.ipc,
        seed: recovery.seed,
        ce: [first, last].map(|point| loss(point.ce)),
        bn: [first, last].map(|point| loss(point.bn)),
        gradients: ends.map(|norms| norms.to_string()),
        ratios: ends.map(|norms| (norms.ce / norms.bn).min(f64::MAX)),
        neglect: balance.neglect(curve),
    })
}

/// Three significant digits.
fn loss(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size if size >= 1e-3 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}
