//! What the registry supports and how well that is tested, for `scdd ops`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ops;

/// How many of some test cases pass.
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

/// `docs/conformance.json`, which the conformance tests write and keep fresh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conformance {
    /// What writes the file.
    pub command: String,
    pub sets: BTreeMap<String, Tally>,
    /// By operator: cases whose graph holds it.
    pub operators: BTreeMap<String, Tally>,
}

impl Conformance {
    /// The results that this program was built with.
    ///
    /// # Errors
    /// When the committed file is not what the conformance tests write.
    pub fn built_in() -> Result<Self, serde_json::Error> {
        serde_json::from_str(include_str!("../../docs/conformance.json"))
    }
}

/// One row of the table of operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Support {
    pub operator: &'static str,
    /// The oldest opset whose form is understood; newer ones are, too.
    pub since: i64,
    pub differentiable: bool,
    #[serde(flatten)]
    pub cases: Tally,
}

/// Every operator of the registry, by name.
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
