//! Results with their costs in one small file, to be committed to a repository and kept beyond the
//! machine that computed them.
//!
//! ```text
//! rows      the table: a row per images, labels and student: accuracy over seeds (0..=1), costs
//! results   the data that `scdd report` reads: every student with its costs; no curves, no images
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::compare::{CompareError, json};
use super::summary::{Difference, Summary, summaries};
use super::{Cost, Labels, ReportError, Results, Row, json_file};
use scdd_artifacts::own;

/// A row of the table.
#[derive(Serialize)]
struct TableRow {
    method: String,
    teacher: Option<String>,
    relabel_teacher: Option<String>,
    data_free: bool,
    ipc: u32,
    labels: Labels,
    student: String,
    protocol: String,
    /// Mean accuracy after the last epoch.
    mean: f64,
    std: Option<f64>,
    /// The number of seeds.
    seeds: usize,
    seconds_per_image: Option<f64>,
    peak_bytes: Option<u64>,
    label_bytes: Option<u64>,
    versus_random_real: Option<Difference>,
}

/// A trained student with its costs, which [`Row`] itself does not serialise.
#[derive(Serialize, Deserialize)]
struct TimedRow {
    #[serde(flatten)]
    row: Row,
    cost: Cost,
}

/// Results without their rows, and the rows separately.
#[derive(Serialize, Deserialize)]
struct Timed {
    #[serde(flatten)]
    head: Results,
    students: Vec<TimedRow>,
}

/// Writes `results` to `path`, atomically.
///
/// # Errors
/// When the file can't be written.
pub fn write_snapshot(results: &Results, path: &Path) -> Result<(), ReportError> {
    let sorted = results.sorted();
    let table: Vec<TableRow> = summaries(&sorted.rows).into_iter().map(table_row).collect();
    let mut head = sorted;
    let students = std::mem::take(&mut head.rows);
    let students = students
        .into_iter()
        .map(|row| TimedRow { cost: row.cost.clone(), row: Row { curve: Vec::new(), ..row } });
    head.recoveries.retain(|recovery| !recovery.verified.is_empty());
    head.recoveries.iter_mut().for_each(|recovery| recovery.curve.clear());
    head.grids.clear();
    let timed = Timed { students: students.collect(), head };
    Ok(own::write(path, &json_file(&json!({"rows": table, "results": timed}))?)?)
}

fn table_row(summary: Summary) -> TableRow {
    TableRow {
        method: summary.method,
        teacher: summary.teacher,
        relabel_teacher: summary.relabel_teacher,
        data_free: summary.data_free,
        ipc: summary.ipc,
        labels: summary.labels,
        student: summary.student,
        protocol: summary.protocol,
        mean: summary.last.mean,
        std: summary.last.std,
        seeds: summary.seeds.len(),
        seconds_per_image: summary.seconds_per_image,
        peak_bytes: summary.peak_bytes,
        label_bytes: summary.label_bytes,
        versus_random_real: summary.versus_random_real,
    }
}

/// Reads the results that [`write_snapshot`] wrote to `path`.
///
/// # Errors
/// When the file can't be read or is not a snapshot.
pub fn read_snapshot(path: &Path) -> Result<Results, CompareError> {
    #[derive(Deserialize)]
    struct File {
        results: Timed,
    }
    let Timed { head, students } = json::<File>(path)?.results;
    let rows = students.into_iter().map(|TimedRow { row, cost }| Row { cost, ..row }).collect();
    Ok(Results { rows, ..head })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;
    use crate::report::{merge, read, table, write};

    #[test]
    fn a_snapshot_gives_the_table_with_its_costs_again() {
        let root = tempfile::tempdir().unwrap();
        let (results, file) = (sample(root.path()), root.path().join("docs/part.json"));
        write_snapshot(&results, &file).unwrap();
        let found = read_snapshot(&file).unwrap();
        assert_eq!(table(&found), table(&results));
        assert!(
            found.rows[0].cost.recover.is_some()
                && found.rows[0].curve.is_empty()
                && found.grids.is_empty()
        );
        let again = root.path().join("again.json");
        write_snapshot(&found, &again).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&again).unwrap());
        write(&found, &root.path().join("page")).unwrap();
    }

    #[test]
    fn its_rows_are_the_table() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("part.json");
        write_snapshot(&sample(root.path()), &file).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let rows = json["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 5);
        assert_eq!((&rows[0]["seeds"], &rows[0]["labels"]), (&json!(2), &json!("soft")));
        assert!((rows[0]["mean"].as_f64().unwrap() - 0.704).abs() < 1e-9);
        assert!((rows[0]["seconds_per_image"].as_f64().unwrap() - 0.642).abs() < 1e-9);
        assert_eq!(
            (&rows[0]["label_bytes"], &rows[4]["label_bytes"]),
            (&json!(120_000), &json!(null))
        );
    }

    #[test]
    fn snapshots_and_directories_are_merged() {
        let root = tempfile::tempdir().unwrap();
        let results = sample(root.path());
        let (file, directory) = (root.path().join("part.json"), root.path().join("out"));
        write_snapshot(&results, &file).unwrap();
        write(&results, &directory).unwrap();
        for order in [[&file, &directory], [&directory, &file]] {
            let parts = order.map(|path| read(path).unwrap()).to_vec();
            let merged = merge("all", parts).unwrap();
            assert_eq!(merged.rows.len(), 10);
            assert!(
                merged.rows.iter().all(|row| row.curve.len() == 300),
                "the curves are those of the directory"
            );
        }
        let mut other = read(&file).unwrap();
        other.rows[0].last_accuracy += 0.1;
        merge("all", vec![read(&file).unwrap(), other]).unwrap_err();
        let message = read(&directory.join("timing.json")).unwrap_err().to_string();
        assert!(message.contains("timing.json: is not a report's file"), "{message}");
    }
}
