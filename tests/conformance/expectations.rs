//! `expectations.toml`: the known outcome of every case. A row that no longer holds, in either
//! direction, fails the gate.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;

use crate::case::{Case, Outcome};

/// The known outcome of one case.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    Pass,
    /// The case does not load or run, with the reason.
    Unsupported(String),
    /// The case runs and gives another result, with the reason.
    Mismatch(String),
    /// The case will never pass (random numbers, or an intended difference), with the reason.
    Wontfix(String),
}

/// Set → case → row.
#[derive(Debug, Default, Deserialize)]
pub struct Expectations(BTreeMap<String, BTreeMap<String, Row>>);

impl Expectations {
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    pub fn row(&self, case: &Case) -> Option<&Row> {
        self.0.get(&case.set)?.get(&case.name)
    }

    /// Rows without a case.
    pub fn stale(&self, cases: &[Case]) -> Vec<String> {
        let known = |set: &str, name: &str| cases.iter().any(|c| c.set == set && c.name == name);
        let rows = self.0.iter().flat_map(|(set, rows)| rows.keys().map(move |name| (set, name)));
        rows.filter(|(set, name)| !known(set, name))
            .map(|(set, name)| format!("{set}.{name}"))
            .collect()
    }

    /// Compares the case's row with its `outcome`. The error says what is wrong with the row.
    pub fn judge(&self, case: &Case, outcome: &Outcome) -> Result<(), String> {
        let Some(row) = self.row(case) else {
            return Err(format!("has no row; it came to {outcome:?}"));
        };
        match (row, outcome) {
            (Row::Pass, Outcome::Pass)
            | (Row::Unsupported(_), Outcome::Unsupported(_))
            | (Row::Mismatch(_), Outcome::Mismatch(_))
            | (Row::Wontfix(_), _) => Ok(()),
            (_, Outcome::Pass) => Err(format!("passes now; its row still says {row:?}")),
            _ => Err(format!("came to {outcome:?}; its row says {row:?}")),
        }
    }

    /// The rows for the cases' outcomes; every `wontfix` row stays.
    pub fn updated(&self, outcomes: &[(&Case, Outcome)]) -> Self {
        let mut rows: BTreeMap<String, BTreeMap<String, Row>> = BTreeMap::new();
        for (case, outcome) in outcomes {
            let row = match (self.row(case), outcome) {
                (Some(old @ Row::Wontfix(_)), _) => old.clone(),
                (_, Outcome::Pass) => Row::Pass,
                (_, Outcome::Unsupported(why)) => Row::Unsupported(why.clone()),
                (_, Outcome::Mismatch(why)) => Row::Mismatch(why.clone()),
            };
            rows.entry(case.set.clone()).or_default().insert(case.name.clone(), row);
        }
        Self(rows)
    }

    pub fn to_toml(&self) -> String {
        let mut text = String::from(
            "# What each conformance case comes to: \"pass\", or unsupported, mismatch or wontfix with the reason.\n\
             # SCDD_UPDATE_CONFORMANCE=1 cargo test --release --test conformance rewrites it and docs/conformance.*;\n\
             # only wontfix rows are written by hand.\n",
        );
        for (set, rows) in &self.0 {
            let _ = write!(text, "\n[{set}]\n");
            for (name, row) in rows {
                let value = match row {
                    Row::Pass => "\"pass\"".to_owned(),
                    Row::Unsupported(why) => format!("{{ unsupported = {} }}", quoted(why)),
                    Row::Mismatch(why) => format!("{{ mismatch = {} }}", quoted(why)),
                    Row::Wontfix(why) => format!("{{ wontfix = {} }}", quoted(why)),
                };
                let _ = writeln!(text, "{name} = {value}");
            }
        }
        text
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
