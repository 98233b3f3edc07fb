//! Raw YAML tree → [`Experiment`]: short forms, presets, defaults, types, checks.

use std::fs;
use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::error::{ConfigError, Fault, Located, YamlPlace, of_yaml};
use super::model::{Device, Experiment, Fallback, Labels, Protocol, RecoverConfig};
use super::overrides::Override;
use super::{faults, locate, path, presets};
use scdd_data::place::without_mark;

/// Keys that accept a single value instead of a list.
pub(super) const LISTS: [&str; 6] = ["teachers", "students", "ipc", "seeds", "labels", "baselines"];
/// Short forms of `methods` and `protocols`.
pub(super) const SHORT: [&str; 3] = ["recover", "relabel", "validate"];

impl Experiment {
    /// Reads, overrides (`recover.iterations=5`), resolves and checks the experiment file at
    /// `path`.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_path_buf(), source };
        Self::from_yaml(&fs::read_to_string(path).map_err(read)?, path, overrides)
    }

    /// Like [`Experiment::load`], for the text of `file`, which is only named in errors.
    pub fn from_yaml(text: &str, file: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let syntax = |error: serde_yaml::Error| {
            let message = match error.to_string() {
                text if text.contains("more than one document") => {
                    "it holds several documents (a line `---` begins another): give each experiment a file of its own"
                        .into()
                }
                _ => of_yaml(&error),
            };
            ConfigError::Syntax { file: file.to_path_buf(), message }
        };
        let text = without_mark(text);
        let overrides = overrides
            .iter()
            .map(|argument| Override::parse(argument))
            .collect::<Result<Vec<_>, _>>()?;
        let mut root: Value = serde_yaml::from_str(text).map_err(syntax)?;
        expand_merges(&mut root).map_err(syntax)?;
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
        faults::resolve(raw).map_err(|faults| blame(faults, text, file, &overrides))
    }

    /// The experiment as YAML with every key explicit. It resolves to the same experiment.
    pub fn to_yaml(&self) -> Result<String, serde_yaml::Error> {
        serde_yaml::to_string(self)
    }
}

/// Replaces merge keys (`<<`) by the mappings that they name.
///
/// # Errors
/// When a merge key names something else than mappings.
pub(super) fn expand_merges(root: &mut Value) -> Result<(), serde_yaml::Error> {
    // Each pass resolves one more level of nested merges.
    while has_merge(root) {
        root.apply_merge()?;
    }
    Ok(())
}

/// Whether the value contains a merge key (`<<`).
fn has_merge(value: &Value) -> bool {
    match value {
        Value::Mapping(mapping) => mapping.contains_key("<<") || mapping.values().any(has_merge),
        Value::Sequence(values) => values.iter().any(has_merge),
        Value::Tagged(tagged) => has_merge(&tagged.value),
        _ => false,
    }
}

/// Locates each fault: at a `--set` argument, or at a line of the file.
fn blame(faults: Vec<Fault>, text: &str, file: &Path, overrides: &[Override]) -> ConfigError {
    let place = |fault: Fault| {
        let segments = path::parse(&fault.path).unwrap_or_default();
        let place = match overrides.iter().rev().find(|one| one.sets(&segments)) {
            Some(one) => YamlPlace::Override(one.argument.to_string()),
            None => match locate::position(text, &segments) {
                Some((line, column)) => YamlPlace::Line { line, column },
                None => YamlPlace::File,
            },
        };
        Located { place, fault }
    };
    let mut faults: Vec<Located> = faults.into_iter().map(place).collect();
    faults.sort_by(|a, b| a.place.cmp(&b.place));
    ConfigError::Invalid { file: file.to_path_buf(), faults }
}

impl RecoverConfig {
    /// The recovery settings of the preset `name`, without overrides.
    ///
    /// # Errors
    /// When there is no such preset, or it has no recover section.
    pub fn of_preset(name: &str) -> Result<Self, ConfigError> {
        let invalid = |fault| {
            let faults = vec![Located { place: YamlPlace::File, fault }];
            ConfigError::Invalid { file: name.into(), faults }
        };
        let defaults = stage_defaults(&mut presets::defaults());
        let section = stage_section("recover", Some(name.into()), &defaults).map_err(invalid)?;
        serde_path_to_error::deserialize(Value::Mapping(section)).map_err(|error| {
            invalid(Fault::from_serde(&error.path().to_string(), &error.inner().to_string(), &[]))
        })
    }
}

/// The experiment with all keys, each checked for its type, and the short forms that the file uses.
///
/// # Errors
/// The first unknown key or value of a wrong type.
pub(super) fn typed(mut raw: Mapping) -> Result<(Experiment, Vec<ShortForm>), Fault> {
    spell_out(&mut raw);
    let mut resolved = presets::defaults();
    let defaults = stage_defaults(&mut resolved);
    let (methods, method_form) = methods(&mut raw, &defaults)?;
    let (protocols, protocol_form) = protocols(&mut raw, &defaults)?;
    let forms: Vec<ShortForm> = method_form.into_iter().chain(protocol_form).collect();
    let chose_baselines = raw.contains_key("baselines");
    resolved.extend(raw);
    resolved.insert("methods".into(), Value::Mapping(methods));
    resolved.insert("protocols".into(), Value::Mapping(protocols));
    let mut experiment = read(&resolved).map_err(|(path, message)| {
        let path = key_of_choice(&resolved, &path, &message).unwrap_or(path);
        as_written(Fault::from_serde(&path, &message, &SHORT), &forms)
    })?;
    for protocol in experiment.protocols.values_mut().filter(|p| p.relabel.provider == Device::Cuda)
    {
        protocol.relabel.fallback.get_or_insert(Fallback::Error);
    }
    // Default baselines that no protocol can have are dropped.
    if !chose_baselines && experiment.protocols.values().all(Protocol::is_hard) {
        experiment.baselines.retain(|baseline| baseline.labels() == Labels::Hard);
    }
    Ok((experiment, forms))
}

/// Deserialises the tree. An error consists of serde's path and message.
fn read(resolved: &Mapping) -> Result<Experiment, (String, String)> {
    serde_path_to_error::deserialize(Value::Mapping(resolved.clone()))
        .map_err(|error| (error.path().to_string(), error.inner().to_string()))
}

/// The path of the wrong value among the keys beside a `type`, for which serde reports only the
/// parent. The wrong key is the one without which serde's error changes.
fn key_of_choice(resolved: &Mapping, path: &str, message: &str) -> Option<String> {
    if !message.starts_with("invalid ") {
        return None;
    }
    let segments = path::parse(path)?;
    let mut tree = Value::Mapping(resolved.clone());
    let keys = path::at(&mut tree, &segments)?
        .as_mapping()
        .filter(|keys| keys.contains_key("type"))?
        .clone();
    keys.keys().filter_map(Value::as_str).filter(|key| *key != "type").find_map(|key| {
        let mut without = keys.clone();
        without.remove(key);
        *path::at(&mut tree, &segments)? = Value::Mapping(without);
        let is_same =
            read(tree.as_mapping()?).is_err_and(|(other, said)| other == path && said == message);
        (!is_same).then(|| format!("{path}.{key}"))
    })
}

/// Removes the stages' sections from the defaults and returns them.
fn stage_defaults(defaults: &mut Mapping) -> Mapping {
    SHORT
        .iter()
        .map(|stage| (Value::from(*stage), defaults.remove(stage).unwrap_or_default()))
        .collect()
}

/// Expands a single value into a list, `data: x` into `data: {type: x}`, and the place of a
/// finished set into its settings. Without real data, students and baselines are empty.
fn spell_out(raw: &mut Mapping) {
    for key in LISTS {
        if let Some(value) =
            raw.get_mut(key).filter(|value| !value.is_sequence() && !value.is_null())
        {
            *value = Value::Sequence(vec![value.clone()]);
        }
    }
    if let Some(Value::Mapping(sets)) = raw.get_mut("finished") {
        for set in sets.values_mut().filter(|set| set.is_string()) {
            *set = Value::Mapping(Mapping::from_iter([("images".into(), set.clone())]));
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

/// A short form in the file: faults at `long` are reported at `short`, where the user wrote the
/// keys.
pub(super) struct ShortForm {
    long: String,
    short: &'static str,
}

/// Moves the fault to the place where the user wrote the wrong value.
pub(super) fn as_written(fault: Fault, forms: &[ShortForm]) -> Fault {
    forms.iter().fold(fault, |fault, form| fault.moved(&form.long, form.short))
}

/// All methods with all keys.
fn methods(raw: &mut Mapping, defaults: &Mapping) -> Result<(Mapping, Vec<ShortForm>), Fault> {
    let short = raw.remove("recover");
    if let Some(named) = named(raw, "methods", short.is_some().then_some("recover"))? {
        let resolve = |(name, user): (String, Value)| {
            let at = format!("methods.{name}");
            if user.get("images").is_some() {
                let problem = format!(
                    "is no key of a method: a set that is there already is written as `finished: {{{name}: {{images: …}}}}`"
                );
                return Err(Fault::new(format!("{at}.images"), problem));
            }
            let section = stage_section("recover", Some(user), defaults)
                .map_err(|f| f.moved("recover", &at))?;
            Ok((Value::from(name), Value::Mapping(section)))
        };
        return Ok((named.into_iter().map(resolve).collect::<Result<_, _>>()?, Vec::new()));
    }
    // Who has finished sets may want nothing recovered.
    if short.is_none() && raw.get("finished").is_some_and(|sets| !sets.is_null()) {
        return Ok((Mapping::new(), Vec::new()));
    }
    let name = preset_alone(short.as_ref()).unwrap_or("distilled").to_string();
    let form = ShortForm { long: format!("methods.{name}"), short: "recover" };
    let section = stage_section("recover", short, defaults)?;
    Ok((Mapping::from_iter([(name.into(), Value::Mapping(section))]), vec![form]))
}

/// All protocols with all keys.
fn protocols(raw: &mut Mapping, defaults: &Mapping) -> Result<(Mapping, Vec<ShortForm>), Fault> {
    let (relabel, validate) = (raw.remove("relabel"), raw.remove("validate"));
    let short =
        if relabel.is_some() { Some("relabel") } else { validate.is_some().then_some("validate") };
    if let Some(named) = named(raw, "protocols", short)? {
        let resolve = |(name, user): (String, Value)| {
            let section = protocol(&format!("protocols.{name}"), user, defaults)?;
            Ok((Value::from(name), Value::Mapping(section)))
        };
        return Ok((named.into_iter().map(resolve).collect::<Result<_, _>>()?, Vec::new()));
    }
    let presets = (preset_alone(relabel.as_ref()), preset_alone(validate.as_ref()));
    let name = match presets {
        (Some(relabel), Some(validate)) if relabel == validate => relabel.to_string(),
        _ => "default".to_string(),
    };
    let form = |short| ShortForm { long: format!("protocols.{name}.{short}"), short };
    let forms = vec![form("relabel"), form("validate")];
    let sections = Mapping::from_iter([
        ("relabel".into(), Value::Mapping(stage_section("relabel", relabel, defaults)?)),
        ("validate".into(), Value::Mapping(stage_section("validate", validate, defaults)?)),
    ]);
    Ok((Mapping::from_iter([(name.into(), Value::Mapping(sections))]), forms))
}

/// One protocol: the name of a preset that has both sections, or the two sections.
fn protocol(at: &str, user: Value, defaults: &Mapping) -> Result<Mapping, Fault> {
    let mut user = match user {
        Value::Null => Mapping::new(),
        Value::Mapping(user) => user,
        Value::String(_) => ["relabel", "validate"]
            .map(|stage| (Value::from(stage), user.clone()))
            .into_iter()
            .collect(),
        _ => {
            return Err(Fault::new(
                at,
                "expected `relabel` and `validate` below this, or the name of a preset",
            ));
        }
    };
    for stage in ["relabel", "validate"] {
        let section = stage_section(stage, user.remove(stage), defaults)
            .map_err(|fault| fault.moved(stage, &format!("{at}.{stage}")))?;
        user.insert(stage.into(), Value::Mapping(section));
    }
    Ok(user)
}

/// The named entries of `key`, if the file has it. `short` is the short form, if the file uses
/// that.
fn named(
    raw: &mut Mapping,
    key: &str,
    short: Option<&str>,
) -> Result<Option<Vec<(String, Value)>>, Fault> {
    let entries = match raw.remove(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Mapping(entries)) => entries,
        Some(_) => {
            return Err(Fault::new(
                key,
                "expected names below this, each with settings or the name of a preset",
            ));
        }
    };
    if let Some(short) = short {
        return Err(Fault::new(
            short,
            format!("is the short form of `{key}`, which the file has too: leave one out"),
        ));
    }
    let entry = |(name, value): (Value, Value)| match name {
        Value::String(name) => Ok((name, value)),
        _ => Err(Fault::new(key, "every name must be text: put it in quotes")),
    };
    entries.into_iter().map(entry).collect::<Result<_, _>>().map(Some)
}

/// The preset of a stage's section that sets nothing else.
fn preset_alone(section: Option<&Value>) -> Option<&str> {
    match section? {
        Value::String(name) => Some(name),
        Value::Mapping(keys) if keys.len() == 1 => keys.get("preset")?.as_str(),
        _ => None,
    }
}

/// The stage's keys: the user's over the preset's over the defaults.
fn stage_section(stage: &str, user: Option<Value>, defaults: &Mapping) -> Result<Mapping, Fault> {
    let mut user = match user {
        Some(Value::Mapping(user)) => user,
        None | Some(Value::Null) => Mapping::new(),
        Some(Value::String(name)) => Mapping::from_iter([("preset".into(), name.into())]),
        Some(_) => {
            return Err(Fault::new(
                stage,
                "expected keys such as `preset: scdd-cifar100` below this",
            ));
        }
    };
    let mut section = match defaults.get(stage) {
        Some(Value::Mapping(defaults)) => defaults.clone(),
        _ => Mapping::new(),
    };
    match user.remove("preset") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) => merge(&mut section, presets::section(&name, stage)?),
        Some(_) => {
            return Err(Fault::new(format!("{stage}.preset"), "expected the name of a preset"));
        }
    }
    if stage == "relabel" {
        let official = presets::official_labels(&mut section, &mut user)?;
        merge(&mut section, official);
    }
    if stage == "recover" {
        drop_former_keys(&mut user)?;
    }
    let keeps_multiplier = user.contains_key("first_bn_multiplier");
    merge(&mut section, user);
    if stage == "recover" {
        presets::spell_out_quirks(&mut section)?;
    }
    if !keeps_multiplier && section.get("r_bn").and_then(Value::as_f64) == Some(0.0) {
        section.insert("first_bn_multiplier".into(), 1.0.into());
    }
    Ok(section)
}

/// Drops `bf16: false`, which the resolved files of earlier runs hold.
fn drop_former_keys(recover: &mut Mapping) -> Result<(), Fault> {
    match recover.get("bf16") {
        Some(Value::Bool(false)) => drop(recover.remove("bf16")),
        Some(_) => {
            let problem = "is a key of the whole experiment now: write `precision: bf16` beside `recover`, and leave this out";
            return Err(Fault::new("recover.bf16", problem));
        }
        None => {}
    }
    Ok(())
}

/// Merges `over` into `base`, key by key; a mapping with another `type` replaces the whole mapping.
pub(super) fn merge(base: &mut Mapping, over: Mapping) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Mapping(base)), Value::Mapping(over)) if same_type(base, &over) => {
                merge(base, over)
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn same_type(base: &Mapping, over: &Mapping) -> bool {
    over.get("type").is_none_or(|name| base.get("type") == Some(name))
}
