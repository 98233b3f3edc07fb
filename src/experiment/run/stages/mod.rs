//! The kinds of stages, one file each. A file defines everything about its kind: the version of its
//! code, its identity (everything that its result depends on), its cost, and its task as plain data
//! for the worker.
//!
//! Identities destructure their configuration field by field, so a new key does not compile until
//! its kind handles it. Neutral values are omitted, so that existing stages stay valid.

pub mod balance;
pub mod images;
pub mod measure;
pub mod real;
pub mod recover;
pub mod relabel;
pub mod subset;
pub mod validate;
pub mod verifier;
pub mod verify;
pub mod whole;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::graph::NodeId;
use scdd_artifacts::stage::Stage;

/// Everything that a worker needs to make a stage, as plain data.
pub enum Task<'a> {
    Verify(verify::VerifyTask<'a>),
    Measure(measure::MeasureTask<'a>),
    Balance(Box<balance::BalanceTask<'a>>),
    Recover(Box<recover::RecoverTask<'a>>),
    Subset(subset::SubsetTask),
    Real(real::RealTask<'a>),
    Verifier(verifier::VerifierTask<'a>),
    Relabel(relabel::RelabelTask<'a>),
    Validate(Box<validate::ValidateTask<'a>>),
    Whole(Box<whole::WholeTask<'a>>),
}

/// A stage that will become a node of the graph.
pub struct Draft<'a> {
    pub stage: Stage,
    /// Description of the work for failure messages: `recover method a from teacher b, ipc 10, seed
    /// 0`.
    pub title: String,
    /// The nodes whose results are required.
    pub needs: Vec<NodeId>,
    pub task: Task<'a>,
}

/// The part of a configuration that a stage's result depends on.
#[derive(Default)]
struct StageIdentity(Map<String, Value>);

impl StageIdentity {
    /// Adds the field `key`, whatever its value.
    fn with(mut self, key: &str, value: &impl Serialize) -> Self {
        self.0.insert(key.to_owned(), json!(value));
        self
    }

    /// Adds the field `key`, unless its value is `neutral` and changes nothing.
    fn unless<T: Serialize + PartialEq>(self, neutral: T, key: &str, value: &T) -> Self {
        if *value == neutral { self } else { self.with(key, value) }
    }

    fn json(self) -> Value {
        Value::Object(self.0)
    }
}

/// The hashes of a stage's inputs, by name.
fn inputs<const N: usize>(pairs: [(&str, &String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, hash)| (name.to_owned(), hash.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neutral_value_leaves_no_trace() {
        let identity =
            |tv: f64| StageIdentity::default().with("steps", &3).unless(0.0, "tv", &tv).json();
        assert_eq!(identity(0.0), json!({"steps": 3}));
        assert_eq!(identity(0.5), json!({"steps": 3, "tv": 0.5}));
    }
}
