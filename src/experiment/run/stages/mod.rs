//! The kinds of stages, a file each. It holds all there is to know of its kind: the version of its
//! code, what its result depends on (its identity), what it costs, and its task as plain data for
//! the worker that makes it.
//!
//! A stage's identity lists its fields one by one. A new key of a configuration does not compile
//! until its kind has decided about it, and a key of neutral value stays out, so that stages from
//! before it stay valid.

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

/// What a worker needs to know to make a stage, as plain data.
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

/// A stage that is to become a node of the graph.
pub struct Draft<'a> {
    pub stage: Stage,
    /// What is made, as a failure names it: `recover method a from teacher b, ipc 10, seed 0`.
    pub title: String,
    /// The nodes whose results must be there first.
    pub needs: Vec<NodeId>,
    pub task: Task<'a>,
}

/// The part of a configuration that a stage's result depends on.
#[derive(Default)]
struct StageIdentity(Map<String, Value>);

impl StageIdentity {
    /// With the field `key`, whatever its value.
    fn with(mut self, key: &str, value: &impl Serialize) -> Self {
        self.0.insert(key.to_owned(), json!(value));
        self
    }

    /// With the field `key`, unless its value is the `neutral` one, which changes nothing.
    fn unless<T: Serialize + PartialEq>(self, neutral: T, key: &str, value: &T) -> Self {
        if *value == neutral { self } else { self.with(key, value) }
    }

    fn json(self) -> Value {
        Value::Object(self.0)
    }
}

/// The hashes of what a stage reads, by name.
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
