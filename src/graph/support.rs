//! The operators that the registry supports and their conformance results, for `scdd ops`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ops;

/// How many test cases pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub passed: usize,
    pub total: usize,
}

impl Tally {
    /// Adds one case.
    pub fn count(&mut self, passed: bool) {
        self.passed += usize::from(passed);
        self.total += 1;
    }
}

/// The contents of `docs/conformance.json`, which the conformance tests write and keep up to date.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conformance {
    /// The command that writes the file.
    pub command: String,
    pub sets: BTreeMap<String, Tally>,
    /// Per operator, the test cases whose graph uses it.
    pub operators: BTreeMap<String, Tally>,
}

impl Conformance {
    /// The conformance results that are compiled into this program.
    ///
    /// # Errors
    /// When the committed file does not have the form that the conformance tests write.
    pub fn built_in() -> Result<Self, serde_json::Error> {
        serde_json::from_str(include_str!("../../docs/conformance.json"))
    }
}

/// One row of the table of operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Support {
    pub operator: &'static str,
    /// The oldest supported opset; newer ones are supported too.
    pub since: i64,
    pub differentiable: bool,
    #[serde(flatten)]
    pub cases: Tally,
}

/// All operators of the registry, sorted by name.
pub fn table(conformance: &Conformance) -> Vec<Support> {
    let mut rows: Vec<Support> = ops::registry()
        .map(|spec| Support {
            operator: spec.name,
            since: spec.since,
            differentiable: spec.differentiable,
            cases: conformance.operators.get(spec.name).copied().unwrap_or_default(),
        })
        .collect();
    rows.sort_by_key(|row| row.operator);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_has_conformance_results() {
        let conformance = Conformance::built_in().unwrap();
        for row in table(&conformance) {
            assert!(conformance.operators.contains_key(row.operator), "{} has none", row.operator);
        }
    }
}
