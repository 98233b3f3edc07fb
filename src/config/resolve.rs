//! Raw YAML tree → [`Experiment`]: short forms, presets, defaults, types, checks.

use std::fs;
use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::error::{ConfigError, Fault};
use super::model::{Device, Experiment, Fallback};
use super::overrides::Override;
use super::{check, locate, path, presets};

const STAGES: [&str; 3] = ["recover", "relabel", "validate"];
const LISTS: [&str; 5] = ["teachers", "students", "ipc", "seeds", "baselines"];

impl Experiment {
    /// Reads, overrides (`recover.iterations=5`), resolves and checks the experiment file at `path`.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_path_buf(), source };
        Self::from_yaml(&fs::read_to_string(path).map_err(read)?, path, overrides)
    }

    /// As [`Experiment::load`], from text that came from `file` (which only names it in errors).
    pub fn from_yaml(text: &str, file: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let syntax =
            |error: serde_yaml::Error| ConfigError::Syntax { file: file.to_path_buf(), message: error.to_string() };
        let overrides = overrides.iter().map(|argument| Override::parse(argument)).collect::<Result<Vec<_>, _>>()?;
        let mut root: Value = serde_yaml::from_str(text).map_err(syntax)?;
        root.apply_merge().map_err(syntax)?;
        for one in &overrides {
            one.apply(&mut root)?;
        }
        let raw = match root {
            Value::Mapping(raw) => raw,
            Value::Null => Mapping::new(),
            _ => {
                let message = "expected keys such as `name` and `teachers` at the top".to_string();
                return Err(ConfigError::Syntax { file: file.to_path_buf(), message });
            }
        };
        resolve(raw).map_err(|fault| blame(fault, text, file, &overrides))
    }

    /// The experiment as YAML with every key explicit, which resolves to this very experiment.
    pub fn to_yaml(&self) -> Result<String, serde_yaml::Error> {
        serde_yaml::to_string(self)
    }
}

/// Says where the fault came from: a `--set` argument, or a line of the file.
fn blame(fault: Fault, text: &str, file: &Path, overrides: &[Override]) -> ConfigError {
    let segments = path::parse(&fault.path).unwrap_or_default();
    let place = match overrides.iter().rev().find(|one| one.sets(&segments)) {
        Some(one) => format!("--set {}", one.argument),
        None => match locate::line(text, &segments) {
            Some(line) => format!("{}, line {line}", file.display()),
            None => file.display().to_string(),
        },
    };
    ConfigError::Invalid { place, path: fault.path, problem: fault.problem }
}

fn resolve(mut raw: Mapping) -> Result<Experiment, Fault> {
    spell_out(&mut raw);
    let mut resolved = presets::defaults();
    for stage in STAGES {
        let section = stage_section(stage, raw.remove(stage), resolved.remove(stage))?;
        resolved.insert(stage.into(), Value::Mapping(section));
    }
    resolved.extend(raw);
    let mut experiment: Experiment = serde_path_to_error::deserialize(Value::Mapping(resolved)).map_err(|error| {
        let inner = error.inner().to_string();
        Fault::from_serde(&error.path().to_string(), &inner)
    })?;
    if experiment.relabel.provider == Device::Cuda {
        experiment.relabel.fallback.get_or_insert(Fallback::Error);
    }
    check::check(&experiment)?;
    Ok(experiment)
}

/// Turns one value into a list of one, and `data: x` into `data: {type: x}`; without real data, students and baselines are none.
fn spell_out(raw: &mut Mapping) {
    for key in LISTS {
        if let Some(value) = raw.get_mut(key).filter(|value| !value.is_sequence() && !value.is_null()) {
            *value = Value::Sequence(vec![value.clone()]);
        }
    }
    if let Some(data) = raw.get_mut("data").filter(|data| data.is_string()) {
        *data = Value::Mapping(Mapping::from_iter([("type".into(), data.clone())]));
    }
    if raw.get("data").is_some_and(|data| data.get("type") == Some(&"none".into())) {
        for key in ["students", "baselines"] {
            raw.entry(key.into()).or_insert_with(|| Value::Sequence(Vec::new()));
        }
    }
}

/// The stage's keys: the user's over the preset's over the defaults.
fn stage_section(stage: &str, user: Option<Value>, defaults: Option<Value>) -> Result<Mapping, Fault> {
    let mut user = match user {
        Some(Value::Mapping(user)) => user,
        None | Some(Value::Null) => Mapping::new(),
        Some(_) => return Err(Fault::new(stage, "expected keys such as `preset: scdd-cifar100` below this")),
    };
    let mut section = match defaults {
        Some(Value::Mapping(defaults)) => defaults,
        _ => Mapping::new(),
    };
    match user.remove("preset") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) => merge(&mut section, presets::section(&name, stage)?),
        Some(_) => return Err(Fault::new(format!("{stage}.preset"), "expected the name of a preset")),
    }
    let keeps_multiplier = user.contains_key("first_bn_multiplier");
    merge(&mut section, user);
    if !keeps_multiplier && section.get("r_bn").and_then(Value::as_f64) == Some(0.0) {
        section.insert("first_bn_multiplier".into(), 1.0.into());
    }
    Ok(section)
}

/// Writes `over` into `base`, mapping by mapping; a mapping of another `type` replaces the whole.
fn merge(base: &mut Mapping, over: Mapping) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Mapping(base)), Value::Mapping(over)) if same_type(base, &over) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn same_type(base: &Mapping, over: &Mapping) -> bool {
    over.get("type").is_none_or(|name| base.get("type") == Some(name))
}
