//! Remarks on the findings of finished stages.

use std::collections::BTreeMap;
use std::path::Path;

use super::graph::StageGraph;
use super::recovery::RecoveryCourse;
use super::stages::{RecoveryNodes, Task};
use super::{Failed, RunError};
use crate::config::{BnWeight, Experiment};
use scdd_artifacts::bundle::{Measured, Recognised};
use scdd_artifacts::files::{AUTO, MEASURED, RECOGNISED, read_json};
use scdd_artifacts::records::Auto;

/// Remarks for the user on the findings of finished stages.
///
/// # Errors
/// When a record can't be read.
pub fn remarks(
    experiment: &Experiment,
    graph: &StageGraph,
    failed: &Failed,
) -> Result<Vec<String>, RunError> {
    let mut remarks = Vec::new();
    for (_, node) in graph.nodes().filter(|(id, _)| !failed.contains_key(id)) {
        match &node.task {
            Task::Balance(task) => {
                let auto: Auto = read_json(&node.directory.join(AUTO))?;
                remarks
                    .push(format!("`recover.r_bn: auto` is, with {}, {auto}", task.teacher.name()));
            }
            Task::Measure(task) => {
                let (teacher, test) = (task.teacher, &task.test.summary);
                let measured: Measured = read_json(&node.directory.join(MEASURED))?;
                let judged = measured.judge(&teacher.manifest, &test.name, &test.classes);
                let judged =
                    judged.map_err(|what| RunError::Misfit { path: teacher.dir.clone(), what })?;
                remarks.extend(judged.map(|remark| format!("`{}` {remark}", teacher.name())));
            }
            Task::Recognise(task) => {
                let seen: Recognised = read_json(&node.directory.join(RECOGNISED))?;
                let set = (task.name.as_str(), task.is_mapped);
                let judged = seen.judge(set, task.teacher.name(), task.classes);
                let misfit = |what| RunError::Misfit { path: node.directory.clone(), what };
                remarks.push(judged.map_err(misfit)?);
            }
            _ => {}
        }
    }
    remarks.extend(unbalanced(experiment, graph, failed)?);
    Ok(remarks)
}

/// One remark per method and teacher whose terms are out of balance in any of their recoveries.
fn unbalanced(
    experiment: &Experiment,
    graph: &StageGraph,
    failed: &Failed,
) -> Result<Vec<String>, RunError> {
    let mut remarks: BTreeMap<(&str, &Path), String> = BTreeMap::new();
    for RecoveryNodes { spec, images, .. } in &graph.stages.recoveries {
        let of = (spec.method, spec.teacher);
        if failed.contains_key(&images.node) || remarks.contains_key(&of) {
            continue;
        }
        let directory = &graph.node(images.recovery).directory;
        let course = RecoveryCourse::read(directory)?;
        if let Some(neglect) = course.balance.and_then(|balance| balance.neglect(&course.curve)) {
            let advice = match experiment.methods[spec.method].r_bn {
                BnWeight::Fixed(_) => "`recover.r_bn: auto` gives both the same gradient there",
                BnWeight::Auto => {
                    "`recover.r_bn: auto` has balanced them on noise: give it a number"
                }
            };
            let title = &images.title;
            remarks.insert(of, format!("{title}: {neglect}; {advice}"));
        }
    }
    Ok(remarks.into_values().collect())
}
