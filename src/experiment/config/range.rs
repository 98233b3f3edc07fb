//! Ranges of numbers. Each stands as an interval beside its field in [`model`](super::model), which
//! makes it part of the JSON schema; numbers are checked against the schema.

use schemars::{Schema, schema_for};
use serde_json::{Value, json};
use serde_yaml::Value as Yaml;

use super::error::Fault;
use super::model::Experiment;

/// Limits a number, or each item of a list of numbers, to an interval: `[0, 1)` is from 0 to below
/// 1.
pub(super) fn within(interval: &'static str) -> impl Fn(&mut Schema) {
    move |schema| {
        let Some([low, high]) = bounds(interval) else { return };
        let Some(schema) = schema.as_object_mut() else { return };
        let is_list = schema.get("items").is_some_and(Value::is_object);
        let items = schema.get_mut("items").filter(|_| is_list).and_then(Value::as_object_mut);
        let number = match items {
            Some(items) => items,
            None => schema,
        };
        for bound in ["minimum", "maximum"] {
            number.remove(bound);
        }
        let low_key = if interval.starts_with('(') { "exclusiveMinimum" } else { "minimum" };
        let high_key = if interval.ends_with(')') { "exclusiveMaximum" } else { "maximum" };
        number.insert(low_key.into(), json!(low));
        number.insert(high_key.into(), json!(high));
    }
}

fn bounds(interval: &str) -> Option<[f64; 2]> {
    let (low, high) = interval.get(1..interval.len() - 1)?.split_once(", ")?;
    Some([low.parse().ok()?, high.parse().ok()?])
}

/// Faults for all numbers of `experiment` outside their ranges.
pub(super) fn faults(experiment: &Experiment) -> Vec<Fault> {
    // YAML, because JSON has no NaN.
    let tree = match serde_yaml::to_value(experiment) {
        Ok(tree) => tree,
        Err(error) => return vec![Fault::new(".", error.to_string())],
    };
    let root = schema_for!(Experiment).to_value();
    let mut walk = RangeWalk { root: &root, faults: Vec::new() };
    walk.visit(&root, &tree, "");
    walk.faults
}

/// Walks through a value and its schema in parallel.
struct RangeWalk<'a> {
    root: &'a Value,
    faults: Vec<Fault>,
}

impl RangeWalk<'_> {
    fn visit(&mut self, schema: &Value, value: &Yaml, path: &str) {
        if let Some(reference) = schema["$ref"].as_str() {
            let root = self.root;
            let target = root.pointer(reference.trim_start_matches('#'));
            if let Some(target) = target {
                self.visit(target, value, path);
            }
            return;
        }
        for variant in ["anyOf", "oneOf"].iter().filter_map(|key| schema[key].as_array()).flatten()
        {
            if is_of(variant, value) {
                self.visit(variant, value, path);
            }
        }
        match value {
            Yaml::Mapping(keys) => {
                for (key, value) in
                    keys.iter().filter_map(|(key, value)| Some((key.as_str()?, value)))
                {
                    let known = schema["properties"]
                        .get(key)
                        .or_else(|| schema.get("additionalProperties"));
                    let path =
                        if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                    if let Some(schema) = known {
                        self.visit(schema, value, &path);
                    }
                }
            }
            Yaml::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.visit(&schema["items"], item, &format!("{path}[{index}]"));
                }
            }
            value => self.faults.extend(out_of_range(schema, value, path)),
        }
    }
}

/// Whether `value` can be of this variant, judged by its `type`.
fn is_of(variant: &Value, value: &Yaml) -> bool {
    let expected = variant["properties"]["type"]["const"].as_str();
    expected.is_none() || value.get("type").and_then(Yaml::as_str) == expected
}

fn out_of_range(schema: &Value, value: &Yaml, path: &str) -> Option<Fault> {
    let number = value.as_f64()?;
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let (low, above) = (bound("minimum"), bound("exclusiveMinimum"));
    let (high, below) = (bound("maximum"), bound("exclusiveMaximum"));
    let fits = low.is_none_or(|low| number >= low)
        && above.is_none_or(|above| number > above)
        && high.is_none_or(|high| number <= high)
        && below.is_none_or(|below| number < below);
    if fits {
        return None;
    }
    let words = [("at least", low), ("above", above), ("at most", high), ("below", below)];
    let words = words.iter().filter_map(|(word, bound)| Some(format!("{word} {}", (*bound)?)));
    let range = words.collect::<Vec<_>>().join(" and ");
    Some(Fault::new(path, format!("{number} is out of range: must be {range}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_becomes_the_schemas_keywords() {
        let limited = |mut schema: Schema, interval| {
            within(interval)(&mut schema);
            schema.to_value()
        };
        let number = schemars::json_schema!({"type": "integer", "minimum": 0});
        assert_eq!(
            limited(number, "(0, 1e6]"),
            json!({"type": "integer", "exclusiveMinimum": 0.0, "maximum": 1e6})
        );
        let list = schemars::json_schema!({"type": "array", "items": {"type": "number"}});
        let items = json!({"type": "number", "minimum": 0.0, "exclusiveMaximum": 1.0});
        assert_eq!(limited(list, "[0, 1)"), json!({"type": "array", "items": items}));
    }

    /// Numbers without a range; each has a reason.
    const FREE: [&str; 1] = ["seeds"];

    /// A number without a limit is a mistake: some value of it is meaningless or takes all memory.
    #[test]
    fn every_number_of_the_schema_has_a_range() {
        fn numbers(node: &Value, path: &str, found: &mut Vec<(String, bool)>) {
            let is_number = |kind: &Value| kind == "integer" || kind == "number";
            match node {
                Value::Object(keys) => {
                    let kind = &node["type"];
                    if is_number(kind)
                        || kind.as_array().is_some_and(|kinds| kinds.iter().any(is_number))
                    {
                        let has = |bound: &str| {
                            keys.keys().any(|key| key.to_lowercase().ends_with(bound))
                        };
                        found.push((path.to_owned(), has("minimum") && has("maximum")));
                    }
                    keys.iter()
                        .for_each(|(key, node)| numbers(node, &format!("{path}/{key}"), found));
                }
                Value::Array(nodes) => {
                    nodes
                        .iter()
                        .enumerate()
                        .for_each(|(i, node)| numbers(node, &format!("{path}/{i}"), found));
                }
                _ => {}
            }
        }
        let mut found = Vec::new();
        numbers(&schema_for!(Experiment).to_value(), "", &mut found);
        assert!(found.len() > 60, "{found:?}");
        let free = |path: &str| FREE.iter().any(|free| path.contains(&format!("/{free}/")));
        let without: Vec<_> = found.iter().filter(|(path, has)| !has && !free(path)).collect();
        assert!(without.is_empty(), "{without:?}");
    }
}
