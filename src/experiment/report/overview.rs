//! What a table doesn't show at a glance, as charts for documents: images side by side, accuracy
//! over images per class, over the teacher's size, and over what its statistics hold.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::chart::Scale;
use super::html::images::{ClassRow, class_rows};
use super::plot::{Horizontal, ImageRow, PlotPoint, Series, image_grid, plot};
use super::summary::{Summary, summaries};
use super::text::{images, labels, labels_of, summary_images};
use super::{Grid, Labels, ReportError, ReportedNetwork, Results};
use crate::config::real_rows::{self, RANDOM_REAL, WHOLE_REAL};

/// The most classes whose images are shown.
const CLASSES: usize = 10;

/// A part of a document.
pub(super) struct ChartSection {
    pub heading: String,
    /// Ends the chart's file name.
    pub suffix: String,
    pub svg: String,
    /// Markdown below the chart.
    pub text: String,
}

/// One image of each class for every method and teacher, at the largest number of images per class
/// and the lowest seed that the set has. `None` where no images are at hand.
pub(super) fn pictures(results: &Results) -> Result<Option<ChartSection>, ReportError> {
    let mut grids: Vec<&Grid> = results.grids.iter().collect();
    grids.sort_by_key(|grid| {
        let real = real_rows::is_baseline(&grid.method);
        (real, &grid.method, &grid.teacher, u32::MAX - grid.ipc, grid.seed)
    });
    grids.dedup_by_key(|grid| (&grid.method, &grid.teacher));
    let mut columns: Vec<String> = Vec::new();
    let mut found: Vec<(String, Vec<ClassRow>)> = Vec::new();
    for grid in grids {
        let (rows, _) = class_rows(&grid.folder, &results.classes, (CLASSES, 1))?;
        for row in rows.iter().filter(|row| !columns.contains(&row.class)).collect::<Vec<_>>() {
            columns.push(row.class.clone());
        }
        found.push((images(&grid.method, grid.teacher.as_deref()), rows));
    }
    columns.truncate(CLASSES);
    if columns.is_empty() {
        return Ok(None);
    }
    let place = |(name, rows): &(String, Vec<ClassRow>)| {
        let of =
            |class: &String| rows.iter().find(|row| row.class == *class)?.images.first().cloned();
        ImageRow { name: name.clone(), images: columns.iter().map(of).collect() }
    };
    let rows: Vec<ImageRow> = found.iter().map(place).collect();
    Ok(Some(ChartSection {
        heading: "Images".into(),
        suffix: "images".into(),
        svg: image_grid("Images of every method at the same classes", &columns, &rows),
        text: String::new(),
    }))
}

/// Accuracy over images per class, where a row has several: a chart for each student, protocol and
/// kind of labels.
pub(super) fn by_ipc(results: &Results) -> Vec<ChartSection> {
    let all = summaries(&results.rows);
    let charts = settings(&all, |s| (s.student.clone(), s.protocol.clone(), s.labels));
    let mut sections = Vec::new();
    for chart in charts {
        let one = |summary: &Summary| {
            let place = format!("{}; {}", summary_images(summary), labels(summary));
            vec![(place, f64::from(summary.ipc))]
        };
        let series = series(&chart, one);
        let series: Vec<Series> = series.into_iter().filter(|one| one.points.len() > 1).collect();
        let counts: BTreeSet<u32> = chart.iter().map(|summary| summary.ipc).collect();
        let horizontal = Horizontal {
            label: "images per class".into(),
            scale: Scale::Log,
            ticks: counts.iter().map(|&ipc| (f64::from(ipc), ipc.to_string())).collect(),
        };
        let title = format!(
            "{} with {} labels, over images per class",
            chart[0].student,
            kind(chart[0].labels)
        );
        sections.extend(section(title, "ipc", sections.len(), &horizontal, &series));
    }
    sections
}

/// The labels of rows that each teacher's own labels make a series of.
const BY_ITSELF: &str = "soft, by each teacher itself";

/// Accuracy over the teacher's size, where a pretraining scheme has several sizes: a chart for each
/// student, protocol, number of images and kind of labels. Random real images are a level line
/// under labels of one teacher, and stand at the labelling teacher's size beside each one's own.
pub(super) fn by_size(results: &Results) -> Vec<ChartSection> {
    let all = summaries(&results.rows);
    let charts = settings(&all, |s| (s.student.clone(), s.protocol.clone(), s.ipc, s.labels));
    let mut sections = Vec::new();
    for chart in charts {
        let scheme_and_size = |teacher: Option<&str>| {
            let network = network(results, teacher?)?;
            let scheme = network.scheme.as_deref()?.replace('_', " ");
            Some((scheme, network.model_bytes? as f64 / 1e6))
        };
        // A teacher that labels its own images beside those of others belongs to two series.
        let places = |summary: &Summary| -> Vec<(String, f64)> {
            let labeller = summary.relabel_teacher.as_deref();
            if summary.method == RANDOM_REAL {
                let place = scheme_and_size(labeller);
                let place = place.map(|(scheme, size)| {
                    (format!("random real; soft, by each {scheme} teacher"), size)
                });
                return place.into_iter().collect();
            }
            let Some((scheme, size)) = scheme_and_size(summary.teacher.as_deref()) else {
                return Vec::new();
            };
            let name = |labels: &str| format!("{}, {scheme}; {labels}", summary.method);
            let mut places = vec![(name(&labels_of(summary.labels, None, labeller)), size)];
            if labeller.is_some() && labeller == summary.teacher.as_deref() {
                places.push((name(BY_ITSELF), size));
            }
            places
        };
        let mut series = series(&chart, places);
        let is_of_sizes = |one: &Series| one.points.iter().any(|p| p.x > one.points[0].x);
        series.retain(is_of_sizes);
        let sizes: Vec<f64> = series.iter().flat_map(|s| s.points.iter().map(|p| p.x)).collect();
        let (Some(low), Some(high)) =
            (sizes.iter().copied().reduce(f64::min), sizes.iter().copied().reduce(f64::max))
        else {
            continue;
        };
        for summary in chart.iter().filter(|summary| summary.method == RANDOM_REAL) {
            let by = format!("; {}", labels(summary));
            if series.iter().any(|one| one.name.ends_with(&by)) {
                let at = |x| PlotPoint { x, y: 100.0 * summary.last.mean, spread: None };
                let name = format!("random real{by}");
                series.push(Series { name, points: vec![at(low), at(high)] });
            }
        }
        let horizontal = Horizontal {
            label: "size of the teacher's weights, MB (log scale)".into(),
            scale: Scale::Log,
            ticks: Vec::new(),
        };
        let title = format!(
            "{}, {} per class, {} labels, over the teacher's size",
            chart[0].student,
            chart[0].ipc,
            kind(chart[0].labels)
        );
        sections.extend(section(title, "size", sections.len(), &horizontal, &series));
    }
    sections
}

/// What `scdd inspect` found of a teacher's statistics.
#[derive(Deserialize)]
struct InspectedTeacher {
    bundle: String,
    mean: InspectedValues,
    var: InspectedValues,
}

#[derive(Deserialize)]
struct InspectedValues {
    raw: InspectedFigures,
    scale_free: InspectedFigures,
}

#[derive(Deserialize)]
struct InspectedFigures {
    entropy: Option<f64>,
    effective_rank: Option<f64>,
}

/// The figures that are compared with accuracy.
type FigureOf = fn(&InspectedTeacher) -> Option<f64>;
const FIGURES: [(&str, FigureOf); 6] = [
    ("entropy of means", |teacher| teacher.mean.raw.entropy),
    ("entropy of variances", |teacher| teacher.var.raw.entropy),
    ("scale-free entropy of means", |teacher| teacher.mean.scale_free.entropy),
    ("scale-free entropy of variances", |teacher| teacher.var.scale_free.entropy),
    ("effective rank of means", |teacher| teacher.mean.scale_free.effective_rank),
    ("effective rank of variances", |teacher| teacher.var.scale_free.effective_rank),
];
/// Of [`FIGURES`], the one that is drawn: SC-DD's claim without the scale of the activations.
const DRAWN: usize = 3;
/// With fewer teachers a correlation says nothing.
const TEACHERS: usize = 4;

/// The file `inspect.json` of `scdd inspect`.
#[derive(Deserialize)]
pub(super) struct Inspected {
    teachers: Vec<InspectedTeacher>,
}

/// Accuracy over what the teachers' statistics hold: a chart and a table for each student,
/// protocol, number of images, method and kind of labels with at least four inspected teachers; one
/// for labels of one teacher, and one for labels by each teacher itself.
pub(super) fn by_statistics(results: &Results, inspected: &Inspected) -> Vec<ChartSection> {
    let all = summaries(&results.rows);
    let of_own: Vec<Summary> = all
        .iter()
        .filter(|s| {
            s.labels == Labels::Soft && s.teacher.is_some() && s.teacher == s.relabel_teacher
        })
        .cloned()
        .collect();
    let key =
        |s: &Summary| (s.student.clone(), s.protocol.clone(), s.ipc, s.method.clone(), s.labels);
    let of_one = settings(&all, |s| (key(s), s.relabel_teacher.clone())).into_iter();
    let of_one = of_one
        .map(|rows| (labels_of(rows[0].labels, None, rows[0].relabel_teacher.as_deref()), rows));
    let of_own = settings(&of_own, key).into_iter();
    let of_own = of_own.map(|rows| (BY_ITSELF.to_string(), rows));
    let mut sections = Vec::new();
    for (by, chart) in of_one.chain(of_own) {
        let found: Vec<(&InspectedTeacher, &Summary)> = chart
            .iter()
            .filter_map(|summary| {
                let teacher = summary.teacher.as_deref()?;
                Some((inspected.teachers.iter().find(|one| one.bundle == teacher)?, *summary))
            })
            .collect();
        if found.len() < TEACHERS {
            continue;
        }
        let point = |(teacher, summary): &(&InspectedTeacher, &Summary)| {
            let x = FIGURES[DRAWN].1(teacher)?;
            let spread = summary.last.std.map(|std| 100.0 * std);
            let points = vec![PlotPoint { x, y: 100.0 * summary.last.mean, spread }];
            Some(Series { name: teacher.bundle.clone(), points })
        };
        let series: Vec<Series> = found.iter().filter_map(point).collect();
        let horizontal = Horizontal {
            label: format!("{}, nats", FIGURES[DRAWN].0),
            scale: Scale::Linear,
            ticks: Vec::new(),
        };
        let title = format!(
            "{}, {} per class, {}, labels {by}: over what the teacher's statistics hold",
            chart[0].student, chart[0].ipc, chart[0].method
        );
        let made = section(title, "statistics", sections.len(), &horizontal, &series);
        sections.extend(made.map(|one| ChartSection { text: correlations(&found), ..one }));
    }
    sections
}

/// Spearman's rank correlation of every figure with accuracy, as a table.
fn correlations(found: &[(&InspectedTeacher, &Summary)]) -> String {
    let mut text = format!(
        "\nRank correlation (Spearman) with accuracy over {} teachers; with so few, |ρ| below {:.2} is within chance (two-sided, 5 %):\n\n| figure | ρ |\n| --- | --: |\n",
        found.len(),
        critical(found.len())
    );
    for (name, of) in FIGURES {
        let pairs: Vec<(f64, f64)> = found
            .iter()
            .filter_map(|(teacher, summary)| Some((of(teacher)?, summary.last.mean)))
            .collect();
        let rho = spearman(&pairs).map_or("–".into(), |rho| format!("{rho:.2}"));
        text += &format!("| {name} | {rho} |\n");
    }
    text
}

/// The |ρ| that independent ranks exceed in at most 5 % of all orders (two-sided), by Student's t
/// with n − 2 degrees of freedom. It is an approximation for few teachers.
fn critical(count: usize) -> f64 {
    use statrs::distribution::{ContinuousCDF, StudentsT};
    let freedom = count as f64 - 2.0;
    StudentsT::new(0.0, 1.0, freedom).map_or(1.0, |t| {
        let t = t.inverse_cdf(0.975);
        t / (freedom + t * t).sqrt()
    })
}

/// Spearman's rank correlation: that of the ranks, equal values sharing their mean rank. `None` if
/// one side is constant or there are less than two pairs.
fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (a, b) = (ranks(&a), ranks(&b));
    let mean = (pairs.len() as f64 - 1.0) / 2.0;
    let sum =
        |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let scale = (sum(&a, &a) * sum(&b, &b)).sqrt();
    (scale > 0.0).then(|| sum(&a, &b) / scale)
}

/// Ranks from 0; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let below = |value: f64| values.iter().filter(|&&other| other < value).count() as f64;
    let equal = |value: f64| values.iter().filter(|&&other| other == value).count() as f64;
    values.iter().map(|&value| below(value) + (equal(value) - 1.0) / 2.0).collect()
}

/// Divides the rows of distilled and random real images by `key`, in the table's order.
fn settings<K: PartialEq>(all: &[Summary], key: impl Fn(&Summary) -> K) -> Vec<Vec<&Summary>> {
    let mut groups: Vec<(K, Vec<&Summary>)> = Vec::new();
    for summary in all.iter().filter(|one| one.method != WHOLE_REAL) {
        let found = groups.iter().position(|(known, _)| *known == key(summary));
        match found {
            Some(index) => groups[index].1.push(summary),
            None => groups.push((key(summary), vec![summary])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Rows of one name as one series, their points from left to right. `of` gives a row's names, and
/// its place under each.
fn series(rows: &[&Summary], of: impl Fn(&Summary) -> Vec<(String, f64)>) -> Vec<Series> {
    let mut found: Vec<Series> = Vec::new();
    for (summary, (name, x)) in
        rows.iter().flat_map(|row| of(row).into_iter().map(move |place| (row, place)))
    {
        let spread = summary.last.std.map(|std| 100.0 * std);
        let point = PlotPoint { x, y: 100.0 * summary.last.mean, spread };
        match found.iter_mut().find(|one| one.name == name) {
            Some(one) => one.points.push(point),
            None => found.push(Series { name, points: vec![point] }),
        }
    }
    found.iter_mut().for_each(|one| one.points.sort_by(|a, b| a.x.total_cmp(&b.x)));
    found
}

fn section(
    title: String,
    kind: &str,
    number: usize,
    horizontal: &Horizontal,
    series: &[Series],
) -> Option<ChartSection> {
    let svg = plot(&title, horizontal, "test accuracy, %", series)?;
    let suffix = format!("{kind}-{}", number + 1);
    Some(ChartSection { heading: title, suffix, svg, text: String::new() })
}

/// The network of this name; one that says its scheme, if any does, since older reports lack it.
fn network<'a>(results: &'a Results, name: &str) -> Option<&'a ReportedNetwork> {
    let named = || results.networks.iter().filter(|network| network.name == name);
    named().find(|network| network.scheme.is_some()).or_else(|| named().next())
}

fn kind(labels: Labels) -> &'static str {
    match labels {
        Labels::Soft => "soft",
        Labels::Hard => "hard",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn rank_correlations_share_the_ranks_of_equal_values() {
        // By hand: ranks 0, 1.5, 1.5, 4, 3 and 1, 0, 2, 3.5, 3.5; covariance 7.5, variances 9.5.
        let pairs = |a: [f64; 5], b: [f64; 5]| a.into_iter().zip(b).collect::<Vec<_>>();
        let rho = spearman(&pairs([1.0, 2.0, 2.0, 5.0, 4.0], [3.0, 1.0, 4.0, 9.0, 9.0])).unwrap();
        assert!((rho - 7.5 / 9.5).abs() < 1e-12, "{rho}");
        assert_eq!(spearman(&[(1.0, 3.0), (2.0, 2.0), (9.0, 1.0)]), Some(-1.0));
        assert_eq!(spearman(&[(1.0, 3.0), (2.0, 3.0)]), None);
        assert_eq!(spearman(&[]), None);
        // t of 0.975 with five degrees of freedom is 2.570582.
        assert!((critical(7) - 0.754_492).abs() < 1e-5, "{}", critical(7));
    }

    #[test]
    fn rows_of_several_numbers_of_images_give_a_chart_per_kind_of_labels() {
        let root = tempfile::tempdir().unwrap();
        let mut results = sample(root.path());
        assert!(by_ipc(&results).is_empty(), "one number of images per class is no line");
        let more = results.rows.clone().into_iter().map(|row| super::super::Row {
            ipc: 50,
            last_accuracy: row.last_accuracy + 0.05,
            ..row
        });
        results.rows.extend(more.collect::<Vec<_>>());
        let [soft, hard] = by_ipc(&results).try_into().ok().unwrap();
        assert_eq!((soft.suffix.as_str(), hard.suffix.as_str()), ("ipc-1", "ipc-2"));
        assert_eq!(soft.svg.matches("<polyline").count(), 4, "two teachers, and real images");
        assert_eq!(soft.svg.matches("class=\"spread\"").count(), 8);
        assert!(soft.svg.contains("random real; soft, by resnet10-w16-supervised"));
        assert_eq!(hard.svg.matches("<polyline").count(), 1);
        assert!(hard.svg.contains(">50</text>") && !soft.svg.contains("NaN"));
    }

    fn teacher(size: &str, scheme: &str, bytes: u64) -> ReportedNetwork {
        ReportedNetwork {
            path: format!("onnx/{size}-{scheme}").into(),
            name: format!("{size}-{scheme}"),
            hash: String::new(),
            scheme: Some(scheme.into()),
            model_bytes: Some(bytes),
        }
    }

    /// Rows of four teachers, two schemes of two sizes each, under labels of one of them.
    fn of_sizes(root: &std::path::Path) -> Results {
        let mut results = sample(root);
        let template = results.rows[0].clone();
        results.rows.retain(|row| row.teacher.is_none());
        for (number, name) in
            ["a-supervised", "b-supervised", "a-barlow_twins", "b-barlow_twins"].iter().enumerate()
        {
            let (size, scheme) = name.split_once('-').unwrap();
            results.networks.push(teacher(
                size,
                scheme,
                if size == "a" { 1 << 20 } else { 9 << 20 },
            ));
            results.rows.push(super::super::Row {
                teacher: Some((*name).to_string()),
                relabel_teacher: Some("resnet10-w16-supervised".into()),
                last_accuracy: 0.1 * number as f64,
                ..template.clone()
            });
        }
        results
    }

    #[test]
    fn sizes_of_a_scheme_are_joined_beside_random_real_images() {
        let root = tempfile::tempdir().unwrap();
        let [chart] = by_size(&of_sizes(root.path())).try_into().ok().unwrap();
        // Labels of a network that labels no other row are left out.
        assert_eq!(chart.svg.matches("<polyline").count(), 3);
        for name in ["distilled, supervised; soft", "distilled, barlow twins; soft", "random real;"]
        {
            assert!(chart.svg.contains(name), "{name}");
        }
    }

    /// The teacher that labels all images also labels its own.
    #[test]
    fn a_teacher_stands_among_those_it_labels_and_among_those_that_label_themselves() {
        let root = tempfile::tempdir().unwrap();
        let mut results = of_sizes(root.path());
        let shared = "a-supervised".to_string();
        let mut own = Vec::new();
        for row in &mut results.rows {
            row.relabel_teacher = Some(shared.clone());
            if row.teacher.as_ref().is_some_and(|teacher| *teacher != shared) {
                own.push(super::super::Row { relabel_teacher: row.teacher.clone(), ..row.clone() });
            }
        }
        let of_shared = by_size(&results).remove(0).svg;
        assert!(!of_shared.contains(BY_ITSELF));
        results.rows.extend(own);
        let svg = by_size(&results).remove(0).svg;
        let points = |svg: &str, name: &str| {
            let group = svg.split("<g ").find(|group| group.contains(name)).unwrap().to_owned();
            // One more is in the legend.
            group.matches("class=\"marker\"").count() - 1
        };
        let one = "distilled, supervised; soft, by a-supervised";
        assert_eq!((points(&of_shared, one), points(&svg, one)), (2, 2));
        assert_eq!(points(&svg, &format!("distilled, supervised; {BY_ITSELF}")), 2);
    }

    #[test]
    fn statistics_are_shown_beside_accuracy_with_their_correlation() {
        let root = tempfile::tempdir().unwrap();
        let results = of_sizes(root.path());
        let figures = |value: f64| serde_json::json!({"entropy": value, "effective_rank": null});
        let names = ["a-supervised", "b-supervised", "a-barlow_twins", "b-barlow_twins"];
        let teachers = names.iter().enumerate().map(|(number, name)| {
            let values = |x: f64| serde_json::json!({"raw": figures(1.0), "scale_free": figures(x)});
            serde_json::json!({"bundle": name, "mean": values(-(number as f64)), "var": values(number as f64)})
        });
        let found = serde_json::json!({"teachers": teachers.collect::<Vec<_>>()});
        let inspected: Inspected = serde_json::from_value(found).unwrap();
        let [section] = by_statistics(&results, &inspected).try_into().ok().unwrap();
        for line in [
            "over 4 teachers",
            "| scale-free entropy of variances | 1.00 |",
            "| scale-free entropy of means | -1.00 |",
            "| entropy of means | – |",
            "| effective rank of means | – |",
        ] {
            assert!(section.text.contains(line), "{line}: {}", section.text);
        }
        assert_eq!(section.svg.matches("class=\"marker\"").count(), 8, "points and the legend");
        let mut own = results;
        own.rows.iter_mut().for_each(|row| {
            if row.teacher.is_some() {
                row.relabel_teacher.clone_from(&row.teacher);
            }
        });
        let [section] = by_statistics(&own, &inspected).try_into().ok().unwrap();
        assert!(section.heading.contains("by each teacher itself"), "{}", section.heading);
    }

    #[test]
    fn pictures_are_those_of_the_first_seed_with_real_ones_last() {
        let root = tempfile::tempdir().unwrap();
        let mut results = sample(root.path());
        let section = pictures(&results).unwrap().unwrap();
        assert_eq!(section.svg.matches("<image ").count(), 3 * 10);
        let place = |name: &str| section.svg.find(name).unwrap();
        assert!(place("distilled from resnet10-w16-moco-v2") < place("random real"));
        results.grids.clear();
        assert!(pictures(&results).unwrap().is_none());
    }
}
