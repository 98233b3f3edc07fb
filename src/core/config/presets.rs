//! Published recipes by name, and the defaults, as YAML embedded in the program.

use serde_yaml::{Mapping, Value};

use super::error::{Fault, nearest};

const PRESETS: &[(&str, &str)] = &[
    ("default", include_str!("presets/default.yaml")),
    ("sre2l-cifar100", include_str!("presets/sre2l-cifar100.yaml")),
    ("sre2l-imagenet", include_str!("presets/sre2l-imagenet.yaml")),
    ("scdd-cifar100", include_str!("presets/scdd-cifar100.yaml")),
    ("scdd-imagenet", include_str!("presets/scdd-imagenet.yaml")),
    ("cda-cifar100", include_str!("presets/cda-cifar100.yaml")),
    ("cda-imagenet", include_str!("presets/cda-imagenet.yaml")),
    ("dwa-cifar100", include_str!("presets/dwa-cifar100.yaml")),
    ("dwa-imagenet", include_str!("presets/dwa-imagenet.yaml")),
    ("g-vbsm-cifar10", include_str!("presets/g-vbsm-cifar10.yaml")),
    ("g-vbsm-imagenet", include_str!("presets/g-vbsm-imagenet.yaml")),
    ("edc-cifar10", include_str!("presets/edc-cifar10.yaml")),
    ("edc-imagenet", include_str!("presets/edc-imagenet.yaml")),
    ("rded-cifar100", include_str!("presets/rded-cifar100.yaml")),
    ("rded-imagenet", include_str!("presets/rded-imagenet.yaml")),
    ("fadrm-cifar100", include_str!("presets/fadrm-cifar100.yaml")),
    ("fadrm-imagenet", include_str!("presets/fadrm-imagenet.yaml")),
    ("lpld-imagenet", include_str!("presets/lpld-imagenet.yaml")),
    ("delt-imagenet", include_str!("presets/delt-imagenet.yaml")),
    ("protocol-scdd", include_str!("presets/protocol-scdd.yaml")),
    ("protocol-sre2l", include_str!("presets/protocol-sre2l.yaml")),
    ("protocol-rded", include_str!("presets/protocol-rded.yaml")),
    ("protocol-edc", include_str!("presets/protocol-edc.yaml")),
    ("protocol-rd3", include_str!("presets/protocol-rd3.yaml")),
    ("protocol-hard", include_str!("presets/protocol-hard.yaml")),
];

/// In a preset, names the one that its relabel and validate sections are.
const PROTOCOL: &str = "protocol";

/// The names of all presets. A preset has a section for each stage that its recipe says something of; a protocol has none for recover.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// The defaults of all keys that have one.
pub(super) fn defaults() -> Mapping {
    parse("default", PRESETS[0].1).unwrap_or_default()
}

/// What the preset `name` sets for `stage`.
pub(super) fn section(name: &str, stage: &str) -> Result<Mapping, Fault> {
    let path = format!("{stage}.preset");
    let Some((_, text)) = PRESETS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = names().collect();
        let hint = nearest(name, &known).map_or(String::new(), |near| format!(" Did you mean `{near}`?"));
        return Err(Fault::new(path, format!("there is no preset `{name}`; there are {}.{hint}", known.join(", "))));
    };
    let preset = parse(name, text)?;
    match (preset.get(stage), preset.get(PROTOCOL)) {
        (Some(Value::Mapping(stage)), _) => Ok(stage.clone()),
        (_, Some(Value::String(protocol))) => section(protocol, stage),
        _ => {
            let stages: Vec<&str> = preset.keys().filter_map(Value::as_str).collect();
            Err(Fault::new(
                path,
                format!("the preset `{name}` has no {stage} section; it has {}", stages.join(" and ")),
            ))
        }
    }
}

/// Puts the published code's quirks, which a preset lists as `official`, in the place of `compat: official`.
pub(super) fn spell_out_quirks(section: &mut Mapping) -> Result<(), Fault> {
    let official = section.remove("official");
    if section.get("compat").and_then(Value::as_str) != Some("official") {
        return Ok(());
    }
    let Some(official) = official else {
        let problem = "`official` needs a preset that knows the published code's quirks, in `recover.preset`; or list them by name";
        return Err(Fault::new("recover.compat", problem));
    };
    section.insert("compat".into(), official);
    Ok(())
}

fn parse(name: &str, text: &str) -> Result<Mapping, Fault> {
    serde_yaml::from_str(text)
        .map_err(|error| Fault::new(".", format!("the built-in preset `{name}` is broken: {error}")))
}
