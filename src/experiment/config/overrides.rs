//! `--set path=value`: values that are written into the raw tree before it is resolved.

use serde_yaml::{Mapping, Value};

use super::error::{ConfigError, of_yaml};
use super::path::{self, Segment};

/// One `--set` argument.
pub(super) struct Override<'a> {
    pub argument: &'a str,
    path: Vec<Segment>,
    value: Value,
}

impl<'a> Override<'a> {
    /// Parses `path=value`; the value is YAML (`5`, `[1, 10]`, `{type: none}`, `null`).
    pub fn parse(argument: &'a str) -> Result<Self, ConfigError> {
        let fail =
            |problem: String| ConfigError::Override { argument: argument.to_string(), problem };
        let (path, value) = argument.split_once('=').ok_or_else(|| {
            fail("expected `path=value`, such as `recover.iterations=5`".to_string())
        })?;
        let path = path::parse(path.trim())
            .ok_or_else(|| fail(format!("`{path}` is not a path of keys")))?;
        let value = serde_yaml::from_str(value)
            .map_err(|error| fail(format!("the value can't be read: {}", of_yaml(&error))))?;
        Ok(Self { argument, path, value })
    }

    /// Writes the value into `root`, and creates missing mappings.
    pub fn apply(&self, root: &mut Value) -> Result<(), ConfigError> {
        let fail = |problem: &str| ConfigError::Override {
            argument: self.argument.to_string(),
            problem: problem.to_string(),
        };
        let mut node = root;
        for segment in &self.path {
            node = match segment {
                Segment::Key(key) => {
                    if node.is_null() {
                        *node = Value::Mapping(Mapping::new());
                    }
                    let mapping = node.as_mapping_mut().ok_or_else(|| {
                        fail(&format!(
                            "there are no keys where `{key}` should be set: the file has a plain value or a list there"
                        ))
                    })?;
                    mapping.entry(Value::from(key.as_str())).or_insert(Value::Null)
                }
                Segment::Index(index) => node.get_mut(*index).ok_or_else(|| {
                    fail(&format!("the file has no list with an element [{index}] there"))
                })?,
            };
        }
        *node = self.value.clone();
        Ok(())
    }

    /// Whether the value at `path` came from this override.
    pub fn sets(&self, path: &[Segment]) -> bool {
        path.starts_with(&self.path)
    }
}
