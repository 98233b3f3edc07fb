//! Merges the reports of several experiments.
//!
//! Equal rows of two experiments appear once. A method or protocol whose name stands for different
//! settings gets the experiment's name added; a network whose name stands for different contents
//! gets the beginning of its hash added. So only equal things are averaged or compared as equal.
//! Accuracies on different test sets are never shown together, whatever the sets' names are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_yaml::Value;

use super::snapshot::read_snapshot;
use super::{Cost, Results, Row, text};

/// Why reports can't be merged.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A file of a report is missing or can't be read.
    #[error("{}: {problem}; `scdd report EXPERIMENT.yaml` writes it anew", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The fault.
        problem: String,
    },
    /// The reports' accuracies are measured on different data.
    #[error(
        "`{first}` is on {first_data}, `{second}` on {second_data}: their accuracies do not compare"
    )]
    Data {
        /// An experiment.
        first: String,
        /// Its test set.
        first_data: String,
        /// Another one.
        second: String,
        /// Its test set.
        second_data: String,
    },
    /// Two rows have equal settings but different results.
    #[error(
        "`{first}` and `{second}` both have the row `{row}` of seed {seed}, with different results: networks of the same name differ; rename one"
    )]
    Conflict {
        /// An experiment.
        first: String,
        /// Another one.
        second: String,
        /// The row.
        row: String,
        /// Its seed.
        seed: u64,
    },
}

/// Reads a report without image grids: the directory that [`write`](super::write) wrote, or a
/// [snapshot](super::write_snapshot).
///
/// # Errors
/// When a file is missing or does not belong to a report.
pub fn read(path: &Path) -> Result<Results, CompareError> {
    if path.is_dir() { read_directory(path) } else { read_snapshot(path) }
}

fn read_directory(directory: &Path) -> Result<Results, CompareError> {
    #[derive(Deserialize)]
    struct SummaryFile {
        results: Results,
    }
    #[derive(Deserialize)]
    struct ComparedTime {
        cost: Cost,
    }
    #[derive(Deserialize)]
    struct Times {
        rows: Vec<ComparedTime>,
    }
    let mut results = json::<SummaryFile>(&directory.join("results.json"))?.results;
    let timing = directory.join("timing.json");
    let costs = json::<Times>(&timing)?.rows;
    if costs.len() != results.rows.len() {
        let problem = format!("has {} rows, results.json has {}", costs.len(), results.rows.len());
        return Err(CompareError::Read { path: timing, problem });
    }
    results.rows.iter_mut().zip(costs).for_each(|(row, timed)| row.cost = timed.cost);
    results.grids.clear();
    Ok(results)
}

/// Deserialises the JSON file at `path`.
pub(super) fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, CompareError> {
    let fail = |problem: String| CompareError::Read { path: path.to_path_buf(), problem };
    let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| fail(format!("is not a report's file: {error}")))
}

/// Merges all `reports` into one, called `name`.
pub fn merge(name: &str, mut reports: Vec<Results>) -> Result<Results, CompareError> {
    let Some(first) = reports.first().cloned() else { return Ok(Results::default()) };
    if let Some(other) = reports.iter().find(|other| !is_same_data(other, &first)) {
        let with_hash = what(&first, false) == what(other, false);
        return Err(CompareError::Data {
            first: first.name.clone(),
            first_data: what(&first, with_hash),
            second: other.name.clone(),
            second_data: what(other, with_hash),
        });
    }
    tell_networks_apart(&mut reports);
    tell_apart(&mut reports);
    let mut merged = Results {
        name: name.to_string(),
        rows: Vec::new(),
        failed: Vec::new(),
        recoveries: Vec::new(),
        recognised: Vec::new(),
        ..first
    };
    merged.test_hash = reports.iter().find_map(|report| report.test_hash.clone());
    merged.train_hash = reports.iter().find_map(|report| report.train_hash.clone());
    merged.networks = reports.iter().flat_map(|report| report.networks.clone()).collect();
    merged.networks.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    merged.networks.dedup();
    merged.experiment = reports
        .iter()
        .map(|report| format!("---\n# {}\n{}", report.name, report.experiment))
        .collect();
    let mut owners: Vec<String> = Vec::new();
    for report in reports {
        for row in report.rows {
            match merged.rows.iter().position(|known| is_same_row(known, &row)) {
                None => {
                    merged.rows.push(row);
                    owners.push(report.name.clone());
                }
                Some(known) if has_same_result(&merged.rows[known], &row) => {
                    // A snapshot has no curves, so the other report's are kept.
                    let known = &mut merged.rows[known];
                    if known.curve.is_empty() {
                        known.curve = row.curve;
                    }
                }
                Some(known) => {
                    let (row, seed) = (text::row_name(&row), row.seed);
                    return Err(CompareError::Conflict {
                        first: owners[known].clone(),
                        second: report.name,
                        row,
                        seed,
                    });
                }
            }
        }
        for one in report.failed {
            if !merged.failed.contains(&one) {
                merged.failed.push(one);
            }
        }
        for one in report.recognised {
            if !merged.recognised.contains(&one) {
                merged.recognised.push(one);
            }
        }
        for recovery in report.recoveries {
            if !merged.recoveries.contains(&recovery) {
                merged.recoveries.push(recovery);
            }
        }
    }
    Ok(merged)
}

/// Whether accuracies are measured on the same test set, by its content if both reports have its
/// hash.
fn is_same_data(a: &Results, b: &Results) -> bool {
    match (&a.test_hash, &b.test_hash) {
        (Some(own), Some(other)) => own == other,
        _ => what(a, false) == what(b, false),
    }
}

/// Describes the test set; with its hash if names and counts do not distinguish sets.
fn what(results: &Results, with_hash: bool) -> String {
    let hash = results.test_hash.as_ref().filter(|_| with_hash).and_then(|hash| hash.get(..8));
    let hash = hash.map_or(String::new(), |hash| format!(", content {hash}…"));
    format!(
        "{} ({} test images, {} classes{hash})",
        results.data,
        results.test_images,
        results.classes.len()
    )
}

fn is_same_row(a: &Row, b: &Row) -> bool {
    super::summary::row_key(a) == super::summary::row_key(b) && a.seed == b.seed
}

fn has_same_result(a: &Row, b: &Row) -> bool {
    let accuracy = |row: &Row| (row.last_accuracy, row.best_accuracy);
    accuracy(a) == accuracy(b) && (a.curve == b.curve || a.curve.is_empty() || b.curve.is_empty())
}

/// Gives networks with one name but different contents distinct names, and one network the same
/// name in all reports.
fn tell_networks_apart(reports: &mut [Results]) {
    let mut contents: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for network in reports.iter().flat_map(|report| &report.networks) {
        contents.entry(network.plain_name().to_string()).or_default().insert(network.hash.clone());
    }
    for report in reports {
        let mut renamed: BTreeMap<String, String> = BTreeMap::new();
        for network in &mut report.networks {
            let is_alone =
                contents.get(network.plain_name()).is_none_or(|hashes| hashes.len() == 1);
            let name =
                if is_alone { network.plain_name().to_string() } else { network.told_apart() };
            renamed.insert(std::mem::replace(&mut network.name, name.clone()), name);
        }
        let rename = |name: &mut String| {
            if let Some(new) = renamed.get(name) {
                name.clone_from(new);
            }
        };
        for row in &mut report.rows {
            rename(&mut row.student);
            row.teacher.iter_mut().chain(&mut row.relabel_teacher).for_each(rename);
        }
        for recovery in &mut report.recoveries {
            rename(&mut recovery.teacher);
            recovery.verified.iter_mut().for_each(|one| rename(&mut one.verifier));
        }
        report.recognised.iter_mut().for_each(|one| rename(&mut one.teacher));
        report.grids.iter_mut().flat_map(|grid| &mut grid.teacher).for_each(rename);
        for one in &mut report.failed {
            one.teacher.iter_mut().for_each(rename);
            if let Some(trained) = &mut one.trained {
                rename(&mut trained.student);
                trained.relabel_teacher.iter_mut().for_each(rename);
            }
        }
    }
}

/// Adds the experiment's name to methods and protocols with different settings in different
/// experiments, and to choices of real images if the training sets differ.
fn tell_apart(reports: &mut [Results]) {
    let mut meanings: BTreeMap<(&str, String), Vec<Value>> = BTreeMap::new();
    for report in reports.iter() {
        let hashes: BTreeMap<&Path, &str> = report
            .networks
            .iter()
            .map(|network| (network.path.as_path(), network.hash.as_str()))
            .collect();
        // A merged report has one document for each of its parts.
        for document in serde_yaml::Deserializer::from_str(&report.experiment) {
            let settings = Value::deserialize(document).unwrap_or_default();
            for (axis, name, mut meaning) in entries(&settings) {
                by_content(&mut meaning, &hashes);
                let known = meanings.entry((axis, name)).or_default();
                if !known.contains(&meaning) {
                    known.push(meaning);
                }
            }
        }
    }
    let ambiguous = |axis, name: &str| {
        meanings.get(&(axis, name.to_string())).is_some_and(|known| known.len() > 1)
    };
    let training_sets: BTreeSet<String> =
        reports.iter().filter_map(|report| report.train_hash.clone()).collect();
    for report in reports {
        let real = report.rows.iter().filter(|row| training_sets.len() > 1 && !row.data_free);
        let of_other_images: BTreeSet<String> = real.map(|row| row.method.clone()).collect();
        let is_told_apart = |axis, name: &str| {
            ambiguous(axis, name) || axis == "methods" && of_other_images.contains(name)
        };
        let renamed = |axis, name: &str| match is_told_apart(axis, name) {
            true => format!("{name} ({})", report.name),
            false => name.to_string(),
        };
        for row in &mut report.rows {
            row.method = renamed("methods", &row.method);
            row.protocol = renamed("protocols", &row.protocol);
        }
        for one in &mut report.failed {
            one.method = renamed("methods", &one.method);
            if let Some(trained) = &mut one.trained {
                trained.protocol = renamed("protocols", &trained.protocol);
            }
        }
        for recovery in &mut report.recoveries {
            recovery.method = renamed("methods", &recovery.method);
        }
        for one in &mut report.recognised {
            one.method = renamed("methods", &one.method);
        }
    }
}

/// All methods, finished sets and protocols of a resolved experiment, with their settings. Rows of
/// finished sets are called like those of methods.
fn entries(settings: &Value) -> Vec<(&'static str, String, Value)> {
    let of = |key: &str, axis: &'static str| {
        let entries = settings.get(key).and_then(Value::as_mapping).into_iter().flatten();
        entries.filter_map(move |(name, value)| {
            Some((axis, name.as_str()?.to_string(), value.clone()))
        })
    };
    let methods = of("methods", "methods").chain(of("finished", "methods"));
    methods.chain(of("protocols", "protocols")).collect()
}

/// Replaces paths of networks by their hashes.
fn by_content(settings: &mut Value, hashes: &BTreeMap<&Path, &str>) {
    match settings {
        Value::String(text) => {
            if let Some(hash) = hashes.get(Path::new(text)) {
                *text = (*hash).to_string();
            }
        }
        Value::Sequence(values) => values.iter_mut().for_each(|value| by_content(value, hashes)),
        Value::Mapping(values) => values.values_mut().for_each(|value| by_content(value, hashes)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;
    use crate::report::{ReportedNetwork, summaries, write};

    fn report(root: &Path, name: &str, r_bn: f64) -> Results {
        let experiment = format!(
            "name: {name}\nmethods: {{distilled: {{r_bn: {r_bn}}}}}\nprotocols: {{default: {{}}}}\n"
        );
        Results { name: name.into(), experiment, ..sample(root) }
    }

    #[test]
    fn what_was_written_is_read_with_its_costs() {
        let root = tempfile::tempdir().unwrap();
        let results = report(root.path(), "a", 1.0);
        write(&results, &root.path().join("out")).unwrap();
        let found = read(&root.path().join("out")).unwrap();
        assert_eq!(found.rows, results.sorted().rows);
        assert!(found.rows[0].cost.recover.is_some() && found.grids.is_empty());
        std::fs::write(root.path().join("out/timing.json"), "{\"rows\": []}").unwrap();
        let message = read(&root.path().join("out")).unwrap_err().to_string();
        assert!(message.contains("has 0 rows, results.json has 10"), "{message}");
        let message = read(root.path()).unwrap_err().to_string();
        assert!(message.contains("results.json") && message.contains("scdd report"), "{message}");
    }

    #[test]
    fn equal_rows_appear_once_and_equal_names_of_different_settings_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (report(root.path(), "a", 1.0), report(root.path(), "b", 2.0));
        let same = merge("all", vec![a.clone(), a.clone()]).unwrap();
        assert_eq!((same.rows.len(), same.recoveries.len()), (10, 4));
        let both = merge("all", vec![a.clone(), b]).unwrap();
        let methods: Vec<String> =
            summaries(&both.rows).into_iter().map(|summary| summary.method).collect();
        let expected = ["distilled (a)", "distilled (a)", "distilled (b)", "distilled (b)"];
        assert_eq!(methods[..4], expected);
        assert_eq!(methods[4..], ["random_real"; 3], "the real images are the same in both");
    }

    fn network(path: &str, name: &str, hash: &str) -> ReportedNetwork {
        ReportedNetwork {
            path: path.into(),
            name: name.into(),
            hash: hash.repeat(64),
            scheme: None,
            model_bytes: None,
        }
    }

    #[test]
    fn networks_of_one_name_are_told_apart_by_content() {
        let root = tempfile::tempdir().unwrap();
        let name = "resnet10-w16-supervised";
        let with = |report: &str, path: &str, hash: &str| {
            let networks = vec![network(path, name, hash)];
            Results { networks, ..self::report(root.path(), report, 1.0) }
        };
        let teachers = |merged: &Results| -> BTreeSet<String> {
            merged
                .rows
                .iter()
                .filter_map(|row| row.teacher.clone())
                .filter(|teacher| teacher.starts_with(name))
                .collect()
        };
        let same = merge("all", vec![with("a", "x", "1"), with("b", "elsewhere/x", "1")]).unwrap();
        assert_eq!((same.rows.len(), teachers(&same)), (10, BTreeSet::from([name.to_string()])));
        let mut other = with("b", "x", "2");
        other
            .rows
            .iter_mut()
            .for_each(|row| row.last_accuracy += if row.teacher.is_some() { 0.1 } else { 0.0 });
        other.rows.retain(|row| row.teacher.as_deref() == Some(name) || row.teacher.is_none());
        let both = merge("all", vec![with("a", "x", "1"), other]).unwrap();
        let expected = BTreeSet::from([format!("{name}@11111111"), format!("{name}@22222222")]);
        assert_eq!(teachers(&both), expected);
        // A report that was merged before contains these names already.
        let again = merge("all", vec![both.clone(), with("a", "x", "1")]).unwrap();
        assert_eq!((again.rows.len(), teachers(&again)), (both.rows.len(), expected));
    }

    #[test]
    fn data_sets_are_told_apart_by_content() {
        let root = tempfile::tempdir().unwrap();
        let with = |name: &str, data: &str, test: Option<&str>, train: Option<&str>| {
            let hash = |digit: &str| digit.repeat(64);
            let (test_hash, train_hash) = (test.map(hash), train.map(hash));
            Results { data: data.into(), test_hash, train_hash, ..report(root.path(), name, 1.0) }
        };
        let refused = merge(
            "all",
            vec![with("a", "toy", Some("1"), None), with("b", "toy", Some("2"), None)],
        );
        let message = refused.unwrap_err().to_string();
        assert!(
            message.contains("content 11111111…") && message.contains("content 22222222…"),
            "{message}"
        );
        // One set with two names; and an older report without hash.
        merge("all", vec![with("a", "toy", Some("1"), None), with("b", "folder", Some("1"), None)])
            .unwrap();
        merge("all", vec![with("a", "toy", Some("1"), None), with("b", "toy", None, None)])
            .unwrap();
        // The same test set, but other training images.
        let parts =
            vec![with("a", "toy", Some("1"), Some("3")), with("b", "toy", Some("1"), Some("4"))];
        let methods: BTreeSet<String> =
            merge("all", parts).unwrap().rows.into_iter().map(|row| row.method).collect();
        assert_eq!(
            methods,
            BTreeSet::from(["distilled", "random_real (a)", "random_real (b)"].map(String::from))
        );
    }

    #[test]
    fn what_does_not_compare_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let a = report(root.path(), "a", 1.0);
        let mut b = Results { name: "b".into(), ..a.clone() };
        b.rows[0].curve[0].train_loss += 1.0;
        let message = merge("all", vec![a.clone(), b.clone()]).unwrap_err().to_string();
        assert!(
            message.starts_with("`a` and `b` both have the row `distilled from resnet10"),
            "{message}"
        );
        b.test_images = 5;
        let message = merge("all", vec![a, b]).unwrap_err().to_string();
        assert!(
            message.contains("(5 test images, 10 classes): their accuracies do not compare"),
            "{message}"
        );
    }
}
