//! What a stage's result depends on.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

/// The part of a configuration that a stage's result depends on.
#[derive(Default)]
pub struct StageIdentity(Map<String, Value>);

impl StageIdentity {
    /// Adds the field `key`, whatever its value.
    pub fn with(mut self, key: &str, value: &impl Serialize) -> Self {
        self.0.insert(key.to_owned(), json!(value));
        self
    }

    /// Adds the field `key`, unless its value is `neutral` and changes nothing.
    pub fn unless<T: Serialize + PartialEq>(self, neutral: T, key: &str, value: &T) -> Self {
        if *value == neutral { self } else { self.with(key, value) }
    }

    pub fn json(self) -> Value {
        Value::Object(self.0)
    }
}

/// The hashes of a stage's inputs, by name.
pub fn inputs<const N: usize>(pairs: [(&str, &String); N]) -> BTreeMap<String, String> {
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
