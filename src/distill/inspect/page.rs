//! Inspections as one self-contained HTML page.

use minijinja::value::Serde;
use serde::Serialize;

use super::table::{number, share, significant};
use super::{Informativeness, Inspection, LayerContent, ValueSpread};
use crate::recover::balance::Term;
use scdd_experiment::report::ReportError;
use scdd_experiment::report::chart::{ChartLine, Scale, line_chart};
use scdd_experiment::report::html::{Figure, environment};

const TEMPLATE: &str = include_str!("template.html");

/// Indices into [`super::estimators::QUANTILES`] of the drawn lines: the median, and pale 5 % and
/// 95 %.
const MEDIAN: usize = 3;
const OUTER: [usize; 2] = [1, 5];

/// The data of the template.
#[derive(Serialize)]
struct InspectPage<'a> {
    teachers: Vec<Teacher<'a>>,
    gradients: Vec<GradientRow<'a>>,
    sections: Vec<Section>,
}

#[derive(Serialize)]
struct Teacher<'a> {
    /// The number of its line in charts.
    line: usize,
    name: &'a str,
    scheme: &'a str,
    channels: usize,
    /// The means, then the variances.
    statistics: [Figures; 2],
    layers: Vec<LayerRow<'a>>,
}

/// A [`ValueSpread`] as text.
#[derive(Serialize)]
struct Figures {
    rms: String,
    entropy: [String; 2],
    gaussian_entropy: [String; 2],
    effective_rank: [String; 2],
    /// The raw 5 %, median and 95 %.
    quantiles: [String; 3],
}

#[derive(Serialize)]
struct LayerRow<'a> {
    key: &'a str,
    channels: usize,
    statistics: [Figures; 2],
}

#[derive(Serialize)]
struct GradientRow<'a> {
    /// The number of its line in charts.
    line: usize,
    name: &'a str,
    at: String,
    ce: String,
    ce_gradient: String,
    bn: String,
    bn_gradient: String,
    balance: String,
}

#[derive(Serialize)]
struct Section {
    title: &'static str,
    figures: Vec<Figure>,
}

/// Renders the whole page.
pub(super) fn page(teachers: &[Inspection]) -> Result<String, ReportError> {
    let page = InspectPage {
        teachers: teachers.iter().enumerate().map(|(index, teacher)| row(index, teacher)).collect(),
        gradients: teachers
            .iter()
            .enumerate()
            .flat_map(|(index, teacher)| gradient_rows(index, teacher))
            .collect(),
        sections: vec![
            section("Running means, layer by layer", teachers, |layer| &layer.mean, Scale::Linear),
            section("Running variances, layer by layer", teachers, |layer| &layer.var, Scale::Log),
        ],
    };
    Ok(environment()?.render_named_str("inspect.html", TEMPLATE, Serde(&page))?)
}

fn row(index: usize, teacher: &Inspection) -> Teacher<'_> {
    let figures = |mean: &ValueSpread, var: &ValueSpread, channels| {
        [figures(mean, channels), figures(var, channels)]
    };
    let layer = |layer: &LayerContent| figures(&layer.mean, &layer.var, layer.channels);
    Teacher {
        line: index,
        name: &teacher.bundle,
        scheme: teacher.scheme.as_deref().unwrap_or("–"),
        channels: teacher.channels,
        statistics: figures(&teacher.mean, &teacher.var, teacher.channels),
        layers: teacher
            .layers
            .iter()
            .map(|l| LayerRow { key: &l.key, channels: l.channels, statistics: layer(l) })
            .collect(),
    }
}

fn figures(spread: &ValueSpread, channels: usize) -> Figures {
    let both = |of: &dyn Fn(&Informativeness) -> String| [of(&spread.raw), of(&spread.scale_free)];
    Figures {
        rms: significant(Some(spread.rms)),
        entropy: both(&|c| number(c.entropy)),
        gaussian_entropy: both(&|c| number(c.gaussian_entropy)),
        effective_rank: both(&|c| share(c.effective_rank, channels)),
        quantiles: [OUTER[0], MEDIAN, OUTER[1]].map(|at| number(Some(spread.raw.quantiles[at]))),
    }
}

fn gradient_rows(index: usize, teacher: &Inspection) -> impl Iterator<Item = GradientRow<'_>> {
    teacher.gradients.iter().map(move |gradients| {
        let part = |term: Option<Term>, of: fn(Term) -> f64| significant(term.map(of));
        let (ce, bn) = (gradients.terms.ce, gradients.terms.bn);
        GradientRow {
            line: index,
            name: &teacher.bundle,
            at: format!("{} × {}", gradients.images, gradients.at),
            ce: part(ce, |t| t.loss),
            ce_gradient: part(ce, |t| t.gradient_norm),
            bn: part(bn, |t| t.loss),
            bn_gradient: part(bn, |t| t.gradient_norm),
            balance: significant(gradients.balance),
        }
    })
}

/// The charts of one statistic: one line per teacher, its layers from first to last.
fn section(
    title: &'static str,
    teachers: &[Inspection],
    of: fn(&LayerContent) -> &ValueSpread,
    scale: Scale,
) -> Section {
    let legend: Vec<(usize, String)> =
        teachers.iter().enumerate().map(|(index, t)| (index, t.bundle.clone())).collect();
    let figure = |title: &str, y_label: &str, scale, note: &str, curves: &[(bool, ValueOf)]| {
        let svg = line_chart(title, "depth", y_label, scale, &lines(teachers, of, curves))?;
        let (title, note) = (title.into(), note.into());
        Some(Figure { title, svg, legend: legend.clone(), note, ipc: None })
    };
    let quantile_note = "Median over the layer's channels; pale: 5 % and 95 %.";
    let raw: [(bool, ValueOf); 3] = [
        (true, |s, _| Some(s.raw.quantiles[OUTER[0]])),
        (true, |s, _| Some(s.raw.quantiles[OUTER[1]])),
        (false, |s, _| Some(s.raw.quantiles[MEDIAN])),
    ];
    let free: [(bool, ValueOf); 3] = [
        (true, |s, _| Some(s.scale_free.quantiles[OUTER[0]])),
        (true, |s, _| Some(s.scale_free.quantiles[OUTER[1]])),
        (false, |s, _| Some(s.scale_free.quantiles[MEDIAN])),
    ];
    let rank: ValueOf = |s, channels| Some(100.0 * s.raw.effective_rank? / channels as f64);
    let scale_note = "Root of the mean square over the layer's channels. The scale-free figures are divided by it.";
    let entropy_note = "In nats, by histogram. Raw minus scale-free is ln RMS.";
    let figures = [
        figure("Quantiles, raw", "", scale, quantile_note, &raw),
        figure("Quantiles, scale-free", "RMS", scale, quantile_note, &free),
        figure("RMS", "log scale", Scale::Log, scale_note, &[(false, |s, _| Some(s.rms))]),
        figure(
            "Entropy, raw",
            "nats",
            Scale::Linear,
            entropy_note,
            &[(false, |s, _| s.raw.entropy)],
        ),
        figure(
            "Entropy, scale-free",
            "nats",
            Scale::Linear,
            entropy_note,
            &[(false, |s, _| s.scale_free.entropy)],
        ),
        figure(
            "Effective rank",
            "% of the channels",
            Scale::Linear,
            "Within one layer it knows no scale.",
            &[(false, rank)],
        ),
    ];
    Section { title, figures: figures.into_iter().flatten().collect() }
}

/// A function from a layer's spread and its number of channels to the value that a chart shows.
type ValueOf = fn(&ValueSpread, usize) -> Option<f64>;

/// The lines of a chart. Pale lines come first, so that the others are drawn over them. Depth is 0
/// at the first layer and 1 at the last, so that networks of any depth can be compared.
fn lines(
    teachers: &[Inspection],
    of: fn(&LayerContent) -> &ValueSpread,
    curves: &[(bool, ValueOf)],
) -> Vec<ChartLine> {
    let line = |faint: bool, value: ValueOf, index: usize, teacher: &Inspection| {
        let last = teacher.layers.len().saturating_sub(1).max(1) as f64;
        let point = |(at, layer): (usize, &LayerContent)| {
            Some((at as f64 / last, value(of(layer), layer.channels)?))
        };
        ChartLine {
            number: index,
            faint,
            points: teacher.layers.iter().enumerate().filter_map(point).collect(),
        }
    };
    let of_curve = |&(faint, value): &(bool, ValueOf)| {
        teachers
            .iter()
            .enumerate()
            .map(move |(index, teacher)| line(faint, value, index, teacher))
            .collect::<Vec<_>>()
    };
    curves.iter().flat_map(of_curve).collect()
}
