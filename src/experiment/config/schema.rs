//! The JSON schema of an experiment file in the form that users write, short forms included.
//! Editors use it for completion and checks.
//!
//! Types, texts, ranges and allowed values come from the structs of [`model`](super::model),
//! defaults from `presets/default.yaml`.

use serde_json::{Map, Value, json};

use super::model::Experiment;
use super::presets;
use super::resolve::{LISTS, SHORT};

/// Required keys of a file.
const REQUIRED: [&str; 5] = ["name", "data", "teachers", "students", "ipc"];
/// The struct of each short form.
const CONFIGS: [&str; 3] = ["RecoverConfig", "RelabelConfig", "ValidateConfig"];

/// The schema, JSON Schema draft 2020-12.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Experiment).to_value();
    for definition in schema["$defs"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        relax(definition);
    }
    for (stage, config) in SHORT.iter().zip(CONFIGS) {
        add_presets_and_defaults(&mut schema["$defs"][config], stage);
        schema["properties"][stage] = section(stage, config);
    }
    let compat = &mut schema["$defs"]["RecoverConfig"]["properties"]["compat"];
    *compat = json!({
        "description": compat["description"],
        "default": compat["default"],
        "anyOf": [{"const": "official"}, without(&without(compat, "description"), "default")],
    });
    schema["$defs"]["RelabelConfig"]["properties"]["compat"] = json!({
        "description": "`official`: labels are made as the named preset's code makes them, quirks included.",
        "anyOf": [{"const": "official"}, {"type": "null"}],
    });
    schema["properties"]["methods"]["additionalProperties"] = section("recover", "RecoverConfig");
    schema["$defs"]["FinishedSet"]["required"] = json!(["images"]);
    schema["$defs"]["MeanAndStd"]["required"] = json!(["mean", "std"]);
    schema["properties"]["finished"]["additionalProperties"] =
        json!({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/FinishedSet"}]});
    let protocol = &mut schema["$defs"]["Protocol"]["properties"];
    protocol["relabel"] = section("relabel", "RelabelConfig");
    protocol["validate"] = section("validate", "ValidateConfig");
    let whole = presets::names()
        .filter(|name| has(name, "relabel") && has(name, "validate"))
        .collect::<Vec<_>>();
    schema["properties"]["protocols"]["additionalProperties"] =
        json!({"anyOf": [{"enum": whole}, {"$ref": "#/$defs/Protocol"}, {"type": "null"}]});
    for key in LISTS {
        let list = &mut schema["properties"][key];
        *list = json!({"description": list["description"], "anyOf": [list["items"].clone(), without(list, "description")]});
    }
    let data = &mut schema["properties"]["data"];
    *data = json!({
        "description": data["description"],
        "anyOf": [{"$ref": "#/$defs/DataKind"}, {"$ref": "#/$defs/DataConfig"}],
    });
    schema["required"] = json!(REQUIRED);
    schema["title"] = json!("scdd experiment");
    schema
}

/// The values of `type` in the settings called `name` (`Mix`, `Loss`, …), each with its required
/// keys.
pub(super) fn types_of(name: &str) -> Vec<(String, Vec<String>)> {
    let schema = schemars::schema_for!(Experiment).to_value();
    let variants = schema["$defs"][name]["oneOf"].as_array().cloned().unwrap_or_default();
    let keys = |variant: &Value| -> Vec<String> {
        let required =
            variant["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        required.filter(|key| *key != "type").map(String::from).collect()
    };
    let tag = |variant: &Value| Some(variant["properties"]["type"]["const"].as_str()?.to_string());
    variants.iter().filter_map(|variant| Some((tag(variant)?, keys(variant)))).collect()
}

/// Whether the settings called `name` may be `null`.
pub(super) fn may_be_null(name: &str) -> bool {
    fn has(node: &Value, wanted: &Value) -> bool {
        match node {
            Value::Object(keys) => {
                keys.get("anyOf") == Some(wanted) || keys.values().any(|value| has(value, wanted))
            }
            Value::Array(values) => values.iter().any(|value| has(value, wanted)),
            _ => false,
        }
    }
    let wanted = json!([{"$ref": format!("#/$defs/{name}")}, {"type": "null"}]);
    has(&schemars::schema_for!(Experiment).to_value(), &wanted)
}

/// A stage's settings: keys, the name of a preset, or nothing.
fn section(stage: &str, config: &str) -> Value {
    let named: Vec<&str> = presets::names().filter(|name| has(name, stage)).collect();
    let config = json!({"$ref": format!("#/$defs/{config}")});
    json!({"anyOf": [config, {"description": "A published recipe.", "enum": named}, {"type": "null"}]})
}

fn has(preset: &str, stage: &str) -> bool {
    presets::section(preset, stage).is_ok()
}

fn add_presets_and_defaults(config: &mut Value, stage: &str) {
    let named: Vec<&str> = presets::names().filter(|name| has(name, stage)).collect();
    config["properties"]["preset"] = json!({
        "description": "A published recipe, which the keys beside it override.",
        "anyOf": [{"enum": named}, {"type": "null"}],
    });
    let defaults = presets::section("default", stage).unwrap_or_default();
    for (key, value) in defaults.iter().filter_map(|(key, value)| Some((key.as_str()?, value))) {
        if let Ok(value) = serde_json::to_value(value) {
            config["properties"][key]["default"] = value;
        }
    }
}

/// Makes keys optional, also within `mix` or `loss`, because presets and defaults fill them in.
fn relax(definition: &mut Value) {
    let Some(keys) = definition.as_object_mut() else { return };
    keys.remove("required");
    if let Some(mut variants) = keys.remove("oneOf") {
        variants.as_array_mut().into_iter().flatten().for_each(relax);
        keys.insert("anyOf".into(), variants);
    }
}

fn without(value: &Value, key: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().map(|map| map.remove(key));
    value
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        // Editors expand merge keys before they validate.
        let mut file: serde_yaml::Value = serde_yaml::from_str(text).unwrap();
        super::super::resolve::expand_merges(&mut file).unwrap();
        let file: Value = serde_yaml::from_value(file).unwrap();
        let validator = jsonschema::validator_for(&schema()).unwrap();
        validator.iter_errors(&file).map(|error| error.to_string()).collect()
    }

    const MINIMAL: &str = "name: x\ndata: fashion-mnist\nteachers: a\nstudents: [s, t]\nipc: 10\n";

    #[test]
    fn every_shipped_experiment_and_its_resolved_form_are_valid() {
        let configs = std::fs::read_dir(crate::in_repository("configs"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let files: Vec<_> =
            configs.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
        assert!(!files.is_empty());
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            assert_eq!(problems(&text), [""; 0], "{}", file.display());
            let resolved = Experiment::load(&file, &[]).unwrap().to_yaml().unwrap();
            assert_eq!(problems(&resolved), [""; 0], "{}, resolved", file.display());
        }
    }

    #[test]
    fn what_resolves_is_valid() {
        for lines in [
            "",
            "recover: scdd-cifar100\nrelabel: {mix: {alpha: 0.5}}\nvalidate:\n",
            "recover: {preset: scdd-cifar100, crop: {scale: [0.5, 1]}}\nseeds: 3\nlabels: hard\n",
            "methods: {a: sre2l-cifar100, b: {r_bn: 1}, c: {r_bn: auto}}\nprotocols: {long: sre2l-imagenet, short: {relabel: {epochs: 2}}}\n",
            "relabel_teachers: [a, b]\nbaselines: random_real_soft\ndevice: cpu\n",
            "relabel: {augment: {type: rand_augment, operations: 2, magnitude: 9}}\n",
            "relabel: {augment: {type: dsa}}\n",
            "relabel: {preset: protocol-scdd, compat: official}\n",
            "validate: {decay: weights, warmup: {epochs: 5, from: 0.01}, micro_batch: 8, hard_epochs: {from: 0.25, to: 0.75, smoothing: 0.8}}\n",
            "validate: {loss: {cooling: {factor: 0.7, every: 30, floor: 2}, student_temperature: fitted, t_squared: true}, schedule: {until: 0.5}}\n",
            "validate: {loss: {type: gift, smoothing: 0.1, weight: 0.1}, schedule: {type: linear}}\nrelabel: {teacher_bn: batch, micro_batch: 8}\n",
            "recover: {preset: scdd-cifar100, compat: official, start: {type: crops, images: 300, crops: 5, factor: 2, difficulty: low}}\n",
            "finished: {theirs: a/set, others: {images: x.pt, normalised: dataset, resize: true}}\n",
            "finished: {theirs: {images: x.pt, labels: own}}\n",
            "finished: {theirs: {images: x, labels: y.scdd, class_map: m.yaml, normalised: {mean: [0.5], std: [0.25]}}}\n",
        ] {
            let text = format!("{MINIMAL}{lines}");
            Experiment::from_yaml(&text, Path::new("e.yaml"), &[]).unwrap();
            assert_eq!(problems(&text), [""; 0], "{lines}");
        }
    }

    #[test]
    fn what_does_not_resolve_for_its_shape_or_range_is_invalid() {
        for lines in [
            "seed: 4",
            "recover: {iteratons: 5}",
            "recover: {iterations: 1000001}",
            "recover: {learning_rate: 0}",
            "recover: {learning_rate: fast}",
            "recover: {r_bn: automatic}",
            "recover: {r_bn: -1}",
            "recover: {betas: [0.5]}",
            "recover: {betas: [0.5, 1]}",
            "recover: {crop: {scale: [0.5, 1.5]}}",
            "recover: {preset: sre2l-cifar10}",
            "recover: cda",
            "relabel: {mix: {type: none, alpha: 1}}",
            "relabel: {mix: {type: cutmix, alpha: 0}}",
            "validate: {schedule: {type: cosine, smoothing: 11}}",
            "validate: {schedule: {until: 0}}",
            "validate: {decay: none}",
            "validate: {warmup: {epochs: 0, from: 0.1}}",
            "validate: {loss: {cooling: {factor: 0, every: 30, floor: 2}}}",
            "validate: {loss: {student_temperature: 1}}",
            "relabel: {compat: [official]}",
            "relabel: {augment: {type: rand_augment, operations: 0, magnitude: 9}}",
            "relabel: {augment: {type: dsa, magnitude: 9}}",
            "methods: {a: {jitter: -1}}",
            "protocols: {a: {recover: {}}}",
            "finished: {theirs: {resize: true}}",
            "finished: {theirs: {images: x, normalised: zca}}",
            "finished: {theirs: {images: x, labels: 3}}",
            "finished: {theirs: {images: x, normalised: {mean: [0.5], std: [0]}}}",
            "device: gpu",
            "ipc: ten",
        ] {
            let text = if lines.starts_with("ipc") {
                MINIMAL.replace("ipc: 10", lines)
            } else {
                format!("{MINIMAL}{lines}\n")
            };
            Experiment::from_yaml(&text, Path::new("e.yaml"), &[]).unwrap_err();
            assert!(!problems(&text).is_empty(), "{lines}");
        }
    }
}
