//! Published recipes by name, and the defaults, as YAML embedded in the program.

use serde_yaml::{Mapping, Value};

use super::error::{Fault, nearest};
use super::resolve::merge;

const PRESETS: &[(&str, &str)] = &[
    ("default", include_str!("presets/default.yaml")),
    ("sre2l-cifar100", include_str!("presets/sre2l-cifar100.yaml")),
    ("sre2l-tiny-imagenet", include_str!("presets/sre2l-tiny-imagenet.yaml")),
    ("sre2l-imagenet", include_str!("presets/sre2l-imagenet.yaml")),
    ("scdd-cifar100", include_str!("presets/scdd-cifar100.yaml")),
    ("scdd-tiny-imagenet", include_str!("presets/scdd-tiny-imagenet.yaml")),
    ("scdd-imagenet", include_str!("presets/scdd-imagenet.yaml")),
    ("cda-cifar100", include_str!("presets/cda-cifar100.yaml")),
    ("cda-tiny-imagenet", include_str!("presets/cda-tiny-imagenet.yaml")),
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
    ("fadrm-tiny-imagenet", include_str!("presets/fadrm-tiny-imagenet.yaml")),
    ("fadrm-imagenet", include_str!("presets/fadrm-imagenet.yaml")),
    ("lpld-imagenet", include_str!("presets/lpld-imagenet.yaml")),
    ("delt-imagenet", include_str!("presets/delt-imagenet.yaml")),
    ("protocol-scdd", include_str!("presets/protocol-scdd.yaml")),
    ("protocol-sre2l", include_str!("presets/protocol-sre2l.yaml")),
    ("protocol-tiny-imagenet", include_str!("presets/protocol-tiny-imagenet.yaml")),
    ("protocol-rded", include_str!("presets/protocol-rded.yaml")),
    ("protocol-edc", include_str!("presets/protocol-edc.yaml")),
    ("protocol-edc-cifar100", include_str!("presets/protocol-edc-cifar100.yaml")),
    ("protocol-cvdd", include_str!("presets/protocol-cvdd.yaml")),
    ("protocol-fadrm", include_str!("presets/protocol-fadrm.yaml")),
    ("protocol-ccfs", include_str!("presets/protocol-ccfs.yaml")),
    ("protocol-bps", include_str!("presets/protocol-bps.yaml")),
    ("protocol-lpqld", include_str!("presets/protocol-lpqld.yaml")),
    ("protocol-hald", include_str!("presets/protocol-hald.yaml")),
    ("protocol-gift", include_str!("presets/protocol-gift.yaml")),
    ("protocol-rd3", include_str!("presets/protocol-rd3.yaml")),
    ("protocol-hard", include_str!("presets/protocol-hard.yaml")),
];

/// A preset's key that names the protocol on which its relabel and validate sections are based.
const PROTOCOL: &str = "protocol";
/// A key in a preset's section: the settings that `compat: official` stands for.
const OFFICIAL: &str = "official";

/// The names of all presets. A preset has a section for each stage that its recipe specifies; a
/// protocol has none for recover.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// The defaults of all keys that have one.
pub(super) fn defaults() -> Mapping {
    parse("default", PRESETS[0].1).unwrap_or_default()
}

/// The section of the preset `name` for `stage`.
pub(super) fn section(name: &str, stage: &str) -> Result<Mapping, Fault> {
    let path = format!("{stage}.preset");
    let Some((_, text)) = PRESETS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = names().collect();
        let hint =
            nearest(name, &known).map_or(String::new(), |near| format!(" Did you mean `{near}`?"));
        return Err(Fault::new(
            path,
            format!("there is no preset `{name}`; there are {}.{hint}", known.join(", ")),
        ));
    };
    let preset = parse(name, text)?;
    // A protocol has sections for labels and students, not for images.
    let protocol = preset.get(PROTOCOL).and_then(Value::as_str).filter(|_| stage != "recover");
    match (preset.get(stage), protocol) {
        (Some(Value::Mapping(own)), None) => Ok(own.clone()),
        (None, Some(protocol)) => section(protocol, stage),
        (Some(Value::Mapping(own)), Some(protocol)) => {
            let mut section = section(protocol, stage)?;
            merge(&mut section, own.clone());
            Ok(section)
        }
        _ => {
            let stages: Vec<&str> =
                preset.keys().filter_map(Value::as_str).filter(|key| *key != PROTOCOL).collect();
            Err(Fault::new(
                path,
                format!(
                    "the preset `{name}` has no {stage} section; it has {}",
                    stages.join(" and ")
                ),
            ))
        }
    }
}

/// Replaces `compat: official` by the published code's quirks, which a preset lists as `official`.
pub(super) fn spell_out_quirks(section: &mut Mapping) -> Result<(), Fault> {
    let official = section.remove(OFFICIAL);
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

/// Removes `official`, the label settings of the published code, from a preset's relabel `section`.
/// Returns them if the `user`'s keys contain `compat: official`.
pub(super) fn official_labels(section: &mut Mapping, user: &mut Mapping) -> Result<Mapping, Fault> {
    let official = section.remove(OFFICIAL);
    match (user.remove("compat"), official) {
        (None | Some(Value::Null), _) => Ok(Mapping::new()),
        (Some(asked), Some(Value::Mapping(official))) if asked.as_str() == Some(OFFICIAL) => {
            Ok(official)
        }
        _ => {
            let problem = "can only be `official`, and needs a preset of labels that the published code makes in another way, \
                           in `relabel.preset`; or leave it out";
            Err(Fault::new("relabel.compat", problem))
        }
    }
}

fn parse(name: &str, text: &str) -> Result<Mapping, Fault> {
    serde_yaml::from_str(text).map_err(|error| {
        Fault::new(".", format!("the built-in preset `{name}` is broken: {error}"))
    })
}
