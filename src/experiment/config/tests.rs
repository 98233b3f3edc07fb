use std::path::Path;

use super::*;

const MINIMAL: &str = "\
name: small
data: fashion-mnist
teachers: onnx/a
students: onnx/s
ipc: 10
";

fn parse(text: &str, overrides: &[&str]) -> Result<Experiment, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(|one| one.to_string()).collect();
    Experiment::from_yaml(text, Path::new("e.yaml"), &overrides)
}

fn with(lines: &str) -> Experiment {
    parse(&format!("{MINIMAL}{lines}"), &[]).unwrap()
}

/// The single method's settings.
fn recover(experiment: &Experiment) -> &RecoverConfig {
    assert_eq!(experiment.methods.len(), 1);
    &experiment.methods[0]
}

/// The single protocol's settings.
fn relabel(experiment: &Experiment) -> &RelabelConfig {
    assert_eq!(experiment.protocols.len(), 1);
    &experiment.protocols[0].relabel
}

/// The single protocol's training.
fn validate(experiment: &Experiment) -> &ValidateConfig {
    assert_eq!(experiment.protocols.len(), 1);
    &experiment.protocols[0].validate
}

fn quickstart() -> Experiment {
    Experiment::load(&crate::in_repository("configs/quickstart.yaml"), &[]).unwrap()
}

#[test]
fn the_weight_of_the_statistics_is_a_number_or_auto() {
    for (text, weight) in
        [("auto", BnWeight::Auto), ("0.5", BnWeight::Fixed(0.5)), ("2", BnWeight::Fixed(2.0))]
    {
        let experiment = with(&format!("recover: {{r_bn: {text}}}\n"));
        assert_eq!(recover(&experiment).r_bn, weight);
        assert_eq!(parse(&experiment.to_yaml().unwrap(), &[]).unwrap(), experiment);
    }
}

#[test]
fn finished_sets_take_the_place_of_methods() {
    let experiment =
        with("finished: {theirs: a/set, zscored: {images: b.pt, normalised: dataset}}\n");
    assert!(experiment.methods.is_empty() && experiment.cells().is_empty());
    assert_eq!(experiment.finished["theirs"].images, Path::new("a/set"));
    assert_eq!(experiment.finished["zscored"].normalised, Some(Normalised::Dataset));
    assert_eq!(parse(&experiment.to_yaml().unwrap(), &[]).unwrap(), experiment);
    let labelled =
        with("finished: {a: {images: a.pt, labels: own}, b: {images: b, labels: l.scdd}}\n");
    let labels = ["a", "b"].map(|name| labelled.finished[name].labels.clone().unwrap());
    assert_eq!(labels, [GivenLabels::Own, GivenLabels::Store("l.scdd".into())]);
    assert_eq!(parse(&labelled.to_yaml().unwrap(), &[]).unwrap(), labelled);
    // Beside methods, they leave these alone.
    let both = with("recover: sre2l-cifar100\nfinished: {theirs: a}\n");
    assert_eq!((both.methods.len(), both.finished.len()), (1, 1));
    let by = "{mean: [0.5], std: [0.25]}";
    let given = with(&format!("finished: {{theirs: {{images: a, normalised: {by}}}}}\n"));
    let constants = MeanAndStd { mean: vec![0.5], std: vec![0.25] };
    assert_eq!(given.finished["theirs"].normalised, Some(Normalised::By(constants)));
    assert_eq!(parse(&given.to_yaml().unwrap(), &[]).unwrap(), given);
    assert!(!with("").to_yaml().unwrap().contains("finished"));
}

#[test]
fn the_quickstart_resolves_and_has_two_cells_in_order() {
    let experiment = quickstart();
    let cells = experiment.cells();
    assert_eq!(cells.len(), 2);
    assert!(
        cells[0].teacher.ends_with("resnet18-w16-supervised")
            && cells[1].teacher.ends_with("resnet18-w16-moco-v2")
    );
    assert!(cells.iter().all(|cell| cell.relabel_teacher == cell.teacher));
    assert_eq!((recover(&experiment).jitter, recover(&experiment).iterations), (2, 250));
    let tests = relabel(&experiment).epochs / validate(&experiment).evaluate_every;
    assert!(tests >= 5, "{tests} tests are no curve");
    assert_eq!(
        (cells[0].method, cells[0].protocol, cells[0].labels),
        ("distilled", "default", Labels::Soft)
    );
}

#[test]
fn a_resolved_experiment_resolves_to_itself() {
    let cuda =
        with("relabel: {provider: cuda}\nrecover: {r_bn: 0}\nrelabel_teachers: [onnx/a, onnx/b]\n");
    assert_eq!(
        (relabel(&cuda).fallback, recover(&cuda).first_bn_multiplier),
        (Some(Fallback::Error), 1.0)
    );
    let matrix = with(
        "methods: {a: scdd-cifar100, b: {r_bn: 1}}\nprotocols: {x: sre2l-imagenet, y: }\nlabels: [soft, hard]\n",
    );
    for experiment in [quickstart(), with(""), cuda, matrix] {
        let yaml = experiment.to_yaml().unwrap();
        let again = parse(&yaml, &[]).unwrap();
        assert_eq!(again, experiment);
        assert_eq!(again.to_yaml().unwrap(), yaml);
    }
}

#[test]
fn every_preset_resolves_in_each_of_its_sections() {
    for name in preset_names() {
        let has = |stage: &str| presets::section(name, stage).is_ok();
        assert!(has("recover") || (has("relabel") && has("validate")), "{name}");
        let stages = ["recover", "relabel", "validate"].into_iter().filter(|stage| has(stage));
        let sections: String =
            stages.map(|stage| format!("{stage}: {{preset: {name}}}\n")).collect();
        with(&format!("{sections}baselines: [random_real_hard]\n"));
    }
}

#[test]
fn a_recipe_and_its_protocol_are_labelled_and_trained_alike() {
    let of =
        |name: &str| with(&format!("relabel: {{preset: {name}}}\nvalidate: {{preset: {name}}}\n"));
    for name in ["scdd", "sre2l"] {
        let (recipe, protocol) = (of(&format!("{name}-cifar100")), of(&format!("protocol-{name}")));
        assert_eq!(recipe.protocols[0], protocol.protocols[0]);
        assert_eq!(relabel(&protocol).crop, Some(ViewCrop::Padded { pad: 4 }));
    }
}

/// Adding a key does not change existing stages' keys: a neutral value is not part of the identity.
#[test]
fn neutral_keys_are_left_out_of_what_identifies_a_stage() {
    let protocol = &with("").protocols[0];
    let expected = r#"{"loss":{"type":"kl","temperature":20.0,"ce":0.0},"optimizer":{"type":"adamw","learning_rate":0.001,"weight_decay":0.01},"schedule":{"type":"cosine","floor":0.0,"smoothing":1.0},"ema":0.0,"evaluate_every":10}"#;
    assert_eq!(serde_json::to_string(&protocol.validate).unwrap(), expected);
    let expected = r#"{"epochs":300,"batch_size":50,"crop":{"type":"resized","scale":[0.08,1.0]},"flip":true,"mix":{"type":"cutmix","alpha":1.0},"teacher_bn":"running","ensemble":[],"dtype":"f16","top_k":null,"stored_epochs":null,"provider":"auto","fallback":null}"#;
    assert_eq!(serde_json::to_string(&protocol.relabel).unwrap(), expected);
}

#[test]
fn official_labels_are_those_of_a_teacher_in_training_mode() {
    let bn = |text: &str| with(&format!("relabel: {text}\n")).protocols[0].relabel.teacher_bn;
    assert_eq!(bn("{preset: scdd-cifar100}"), TeacherBn::Running);
    assert_eq!(bn("{preset: scdd-cifar100, compat: official}"), TeacherBn::Batch);
    assert_eq!(bn("{preset: protocol-sre2l, compat: official}"), TeacherBn::Batch);
    assert_eq!(
        bn("{preset: protocol-sre2l, compat: official, teacher_bn: running}"),
        TeacherBn::Running
    );
}

#[test]
fn a_recipe_overrides_its_protocol_key_by_key() {
    let of = |name: &str| {
        with(&format!("relabel: {{preset: {name}}}\nvalidate: {{preset: {name}}}\n")).protocols[0]
            .clone()
    };
    let (protocol, recipe) = (of("protocol-fadrm"), of("fadrm-tiny-imagenet"));
    assert_eq!((protocol.relabel.epochs, recipe.relabel.epochs), (1000, 300));
    assert_eq!((protocol.relabel.micro_batch, recipe.relabel.micro_batch), (Some(8), None));
    assert_eq!(
        (recipe.relabel.teacher_bn, recipe.validate.micro_batch),
        (TeacherBn::Running, Some(8))
    );
    assert_eq!(protocol.validate, recipe.validate);
}

#[test]
fn official_is_what_the_presets_code_has() {
    let quirks = |recover: &str| with(&format!("recover: {recover}\n")).methods[0].compat.clone();
    assert_eq!(quirks("{preset: scdd-cifar100}"), []);
    let official = quirks("{preset: scdd-cifar100, compat: official}");
    let files = [Quirk::TruncatedPixels, Quirk::JpegFiles, Quirk::Cifar10Pixels];
    assert_eq!(official, [&[Quirk::SharedViews, Quirk::PositiveJitter], &files[..]].concat());
    assert_eq!(quirks("{preset: scdd-cifar100, compat: [shared_views]}"), [Quirk::SharedViews]);
}

#[test]
fn keys_override_the_preset_and_equal_settings_are_equal() {
    let experiment = with("recover: {preset: scdd-cifar100, r_bn: 0.5}\n");
    assert_eq!(
        (recover(&experiment).r_bn, recover(&experiment).learning_rate),
        (BnWeight::Fixed(0.5), 0.4)
    );
    let spelled =
        with("recover: {preset: default, iterations: 1000, r_bn: 0.5, learning_rate: 0.4}\n");
    assert_eq!(recover(&experiment), recover(&spelled));
}

/// All keys of `tree`, as paths from the top.
fn keys(tree: &serde_yaml::Value, path: &str, found: &mut Vec<String>) {
    for (key, value) in tree.as_mapping().into_iter().flatten() {
        let path = format!("{path}{}", key.as_str().unwrap());
        keys(value, &format!("{path}."), found);
        found.push(path);
    }
}

#[test]
fn a_value_of_another_type_is_refused_in_plain_words() {
    let full = with(
        "recover: {crop: {scale: [0.1, 1]}, committee: {teachers: [b], turn: all, weights: []}, subset_of: 50, classes: null,\
         weight_adjustment: {steps: 1, rho: 1}, start: {type: crops, images: 9, crops: 1, factor: 1, difficulty: low},\
         residual: {budgets: 2, alpha: 0.5, scales: [1]}}\nwhole_real: {epochs: 1, batch_size: 1}\n\
         relabel: {crop: {type: padded, pad: 4}, top_k: {k: 1, temperature: 1}, ensemble: [{bundle: onnx/a, weight: 1}]}\n",
    );
    let mut found = Vec::new();
    keys(&serde_yaml::from_str(&full.to_yaml().unwrap()).unwrap(), "", &mut found);
    assert!(found.len() > 80, "{found:?}");
    let jargon = [
        "enum",
        "struct",
        "u16",
        "u32",
        "u64",
        "i64",
        "f64",
        "unit",
        "variant",
        "sequence",
        "tuple",
        "invalid",
        " map,",
        "of length",
    ];
    for key in found {
        for value in ["text", "3.5", "-3", "true", "null", "[[1]]", "[]", "{odd: 1}"] {
            let said = parse(&full.to_yaml().unwrap(), &[&format!("{key}={value}")])
                .map_err(|error| error.to_string());
            let word =
                jargon.iter().find(|word| said.as_ref().is_err_and(|said| said.contains(*word)));
            assert_eq!(word, None, "{said:?}");
        }
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text_and_a_second_document_is_refused() {
    assert_eq!(parse(&format!("\u{feff}{MINIMAL}"), &[]).unwrap(), with(""));
    let said = parse(&format!("{MINIMAL}---\nname: other\n"), &[]).unwrap_err().to_string();
    assert!(said.contains("it holds several documents (a line `---` begins another)"), "{said}");
}

#[test]
fn merged_mappings_may_be_merged_themselves() {
    let found = with(
        "protocols:\n  a: {relabel: &a {epochs: 7, flip: false}}\n  b: {relabel: &b {<<: *a, epochs: 8}}\n  c: {relabel: {<<: *b, batch_size: 9}}\n",
    );
    let RelabelConfig { epochs, flip, batch_size, .. } = &found.protocols["c"].relabel;
    assert_eq!((*epochs, *flip, *batch_size), (8, false, 9));
}

#[test]
fn another_type_replaces_the_whole_and_the_same_type_merges() {
    let mixup = with("relabel: {mix: {type: mixup, alpha: 0.8}}\n");
    assert_eq!(relabel(&mixup).mix, Mix::Mixup { alpha: 0.8 });
    let cutmix = with("relabel: {mix: {alpha: 0.5}}\n");
    assert_eq!(relabel(&cutmix).mix, Mix::Cutmix { alpha: 0.5 });
    let none = with("relabel: {mix: {type: none}, crop: null}\n");
    assert_eq!((relabel(&none).mix, relabel(&none).crop), (Mix::None {}, None));
}

#[test]
fn every_baseline_is_there_unless_no_protocol_has_its_labels() {
    let soft = with("");
    assert_eq!(soft.baselines.len(), 6);
    let hard = with("protocols: {own: protocol-hard}\n");
    assert_eq!(
        hard.baselines,
        [Baseline::RandomRealHard, Baseline::NearestMeanHard, Baseline::RdedCropsHard]
    );
    assert_eq!(with("protocols: {own: protocol-hard, soft: }\n").baselines, soft.baselines);
}

#[test]
fn labellers_stand_in_the_order_of_the_file() {
    let experiment = with("relabel_teachers: [onnx/z, onnx/b, onnx/a]\n");
    assert_eq!(experiment.labellers(), ["onnx/z", "onnx/b", "onnx/a"].map(Path::new));
}

#[test]
fn without_real_data_there_are_neither_students_nor_baselines() {
    let text = "name: x\ndata: none\nteachers: onnx/a\nipc: 1\nrecover: {classes: [7, 2], verifier: [onnx/b]}\n";
    let experiment = parse(text, &[]).unwrap();
    assert_eq!(
        (experiment.students.len(), experiment.baselines.len(), experiment.cells().len()),
        (0, 0, 0)
    );
    let classes = |experiment: &Experiment, count| experiment.methods["distilled"].classes(count);
    assert_eq!((classes(&experiment, 10), classes(&with(""), 3)), (vec![2, 7], vec![0, 1, 2]));
    assert_eq!(parse(&experiment.to_yaml().unwrap(), &[]).unwrap(), experiment);
    for (key, line) in
        [("students", "students: onnx/s\n"), ("baselines", "baselines: random_real_soft\n")]
    {
        let message = parse(&format!("{text}{line}"), &[]).unwrap_err().to_string();
        assert_eq!(
            message,
            format!(
                "e.yaml, line 6: `{key}`: needs real data, but `data` is `none`: leave it out, or name a data set"
            )
        );
    }
}

#[test]
fn losses_and_schedules_resolve() {
    let edc = with(
        "validate: {loss: {type: mse_gt, ce: 0.025}, schedule: {type: multistep, milestones: [0.8, 0.9], factor: 0.5}, ema: 0.99}\n",
    );
    assert_eq!(validate(&edc).loss, Loss::MseGt { ce: 0.025 });
    assert_eq!(
        validate(&edc).schedule,
        Schedule::Multistep { milestones: vec![0.8, 0.9], factor: 0.5 }
    );
    assert_eq!(validate(&edc).ema, 0.99);
    let kl = with("validate: {loss: {temperature: 4}}\n");
    let (t_squared, cooling, student_temperature) = Default::default();
    assert_eq!(
        validate(&kl).loss,
        Loss::Kl { temperature: 4.0, ce: 0.0, t_squared, cooling, student_temperature }
    );
}

#[test]
fn label_formats_resolve() {
    let found = with(
        "relabel: {crop: {type: padded, pad: 2}, dtype: i8, top_k: {k: 3, temperature: 20}, stored_epochs: 30, teacher_bn: batch}\n",
    );
    assert_eq!(relabel(&found).crop, Some(ViewCrop::Padded { pad: 2 }));
    assert_eq!(
        (relabel(&found).dtype, relabel(&found).teacher_bn),
        (LabelDtype::I8, TeacherBn::Batch)
    );
    assert_eq!(
        (relabel(&found).top_k, relabel(&found).stored_epochs),
        (Some(TopK { k: 3, temperature: Some(20.0) }), Some(30))
    );
    let old = with("relabel: {crop: {scale: [0.5, 1]}}\n");
    assert_eq!(relabel(&old).crop, Some(ViewCrop::Resized { scale: [0.5, 1.0] }));
}

#[test]
fn a_list_of_relabel_teachers_is_crossed() {
    let experiment = with("relabel_teachers: [onnx/a, onnx/b]\nseeds: [3, 4]\n");
    let cells: Vec<(String, u64)> = experiment
        .cells()
        .iter()
        .map(|cell| (cell.relabel_teacher.display().to_string(), cell.seed))
        .collect();
    let expected = [("onnx/a", 3), ("onnx/a", 4), ("onnx/b", 3), ("onnx/b", 4)];
    assert_eq!(cells, expected.map(|(teacher, seed)| (teacher.to_string(), seed)));
}

#[test]
fn every_axis_is_crossed_and_hard_labels_need_one_labeller() {
    let text = "teachers: [onnx/a, onnx/b]\nrelabel_teachers: [onnx/a, onnx/b]\nmethods: {x: scdd-cifar100, y: {r_bn: 1}}\n\
                protocols: {soft: sre2l-imagenet, hard: {relabel: {mix: {type: none}}, validate: {loss: {type: ce}}}}\n\
                labels: [soft, hard]\nseeds: [3, 4]\n";
    let experiment = parse(&MINIMAL.replace("teachers: onnx/a\n", text), &["ipc=[1, 10]"]).unwrap();
    let cells = experiment.cells();
    // 2 teachers × 2 methods × 2 IPC × (soft protocol: 2 labellers + 1 hard; hard protocol: 1) × 1
    // student × 2 seeds.
    assert_eq!(cells.len(), 2 * 2 * 2 * (2 + 1 + 1) * 2);
    let hard: Vec<_> = cells.iter().filter(|cell| cell.labels == Labels::Hard).collect();
    assert!(
        hard.len() == 32 && hard.iter().all(|cell| cell.relabel_teacher == Path::new("onnx/a"))
    );
    for (index, cell) in cells.iter().enumerate() {
        assert!(!cells[..index].contains(cell), "{cell:?} twice");
    }
}

#[test]
fn short_forms_are_named_after_their_preset_alone() {
    let names = |lines: &str| {
        let experiment = with(lines);
        (
            experiment.methods.keys().next().unwrap().clone(),
            experiment.protocols.keys().next().unwrap().clone(),
        )
    };
    let pair = |method: &str, protocol: &str| (method.to_string(), protocol.to_string());
    assert_eq!(names(""), pair("distilled", "default"));
    let presets =
        "recover: sre2l-cifar100\nrelabel: {preset: sre2l-imagenet}\nvalidate: sre2l-imagenet\n";
    assert_eq!(names(presets), pair("sre2l-cifar100", "sre2l-imagenet"));
    let adapted = "recover: {preset: sre2l-cifar100, r_bn: 1}\nrelabel: sre2l-imagenet\n";
    assert_eq!(names(adapted), pair("distilled", "default"));
}

#[test]
fn overrides_reach_into_lists_and_missing_sections() {
    let overrides = [
        "recover.iterations=5",
        "ipc=[1, 10]",
        "teachers=onnx/t",
        "recover.crop={scale: [0.5, 1]}",
        "recover.betas[0]=0.4",
    ];
    let text = format!("{MINIMAL}recover: {{betas: [0.5, 0.9]}}\n");
    let experiment = parse(&text, &overrides).unwrap();
    assert_eq!((recover(&experiment).iterations, recover(&experiment).betas), (5, [0.4, 0.9]));
    assert_eq!(experiment.ipc, [1, 10]);
    assert_eq!(experiment.teachers, [Path::new("onnx/t")]);
    assert_eq!(recover(&experiment).crop, Some(Crop { scale: [0.5, 1.0] }));
}

/// Lines appended to a valid file of five lines, and the expected error.
const FAULTY: &[(&str, &str)] = &[
    (
        "recover:\n  jitter: 2\n  iteratons: 5",
        "e.yaml, line 8: `recover.iteratons`: unknown key; did you mean `iterations`? Known keys: iterations, batch_size, packing, learning_rate, betas, r_bn, r_var, first_bn_multiplier, distance, class_share, r_patch, statistics_momentum, weight_adjustment, tv, l2, jitter, crop, crop_curriculum, flip, start, formation, residual, ema, rounds, subset_of, committee, compat, classes, verifier, snapshots",
    ),
    (
        "seed: 4",
        "e.yaml, line 6: `seed`: unknown key; did you mean `seeds`? Known keys: name, data, teachers, relabel_teachers, students, ipc, seeds, methods, finished, protocols, labels, baselines, whole_real, device, precision, recover, relabel, validate",
    ),
    (
        "relabel:\n  mix:\n    type: mixup\n    alpa: 1",
        "e.yaml, line 9: `relabel.mix.alpa`: unknown key; did you mean `alpha`? Known keys: alpha",
    ),
    (
        "relabel: {mix: {type: none, alpha: 1}}",
        "e.yaml, line 6: `relabel.mix.alpha`: unknown key; there is nothing to set here",
    ),
    (
        "relabel: {mix: {type: mixup}}",
        "e.yaml, line 6: `relabel.mix.alpha`: this key is missing and has no default",
    ),
    (
        "relabel: {mix: {type: cutmux, alpha: 1}}",
        "e.yaml, line 6: `relabel.mix.type`: unknown value `cutmux`; did you mean `cutmix`? Known values: cutmix, mixup, none",
    ),
    (
        "validate:\n  optimizer:\n    type: sgd\n    learning_rate: 1",
        "e.yaml, line 7: `validate.optimizer.momentum`: this key is missing and has no default",
    ),
    (
        "relabel: {mix: none}",
        "e.yaml, line 6: `relabel.mix`: is the text `none`: set `{type: none}`",
    ),
    (
        "relabel: {mix: mixup}",
        "e.yaml, line 6: `relabel.mix`: is the text `mixup`: set `{type: mixup, alpha: …}`",
    ),
    (
        "relabel: {crop: none}",
        "e.yaml, line 6: `relabel.crop`: is the text `none`: expected `type` and its keys below this, or `null` (off); types: resized, padded",
    ),
    (
        "validate: {loss: 3}",
        "e.yaml, line 6: `validate.loss`: is the number `3`: expected `type` and its keys below this; types: kl, mse_gt, gift, ce",
    ),
    (
        "recover: {flip: maybe}",
        "e.yaml, line 6: `recover.flip`: is the text `maybe`, expected `true` or `false`",
    ),
    (
        "recover: {subset_of: 5}",
        "e.yaml, line 6: `recover.subset_of`: a set of 10 images per class (`ipc`) can't be the beginning of one of 5: set at least 10",
    ),
    (
        "recover: {crop: {scal: [0.1, 1]}}",
        "e.yaml, line 6: `recover.crop.scal`: unknown key; did you mean `scale`? Known keys: scale",
    ),
    (
        "recover: {crop: {scale: [0.5, 0.1]}}",
        "e.yaml, line 6: `recover.crop.scale`: the smallest share, 0.5, is above the largest, 0.1",
    ),
    (
        "recover:\n  betas:\n    - 0.5\n    - 1",
        "e.yaml, line 9: `recover.betas[1]`: 1 is out of range: must be at least 0 and below 1",
    ),
    (
        "recover: {betas: [0.5]}",
        "e.yaml, line 6: `recover.betas`: is a list of 1, expected a list of 2 numbers",
    ),
    (
        "recover: {iterations: 1000001}",
        "e.yaml, line 6: `recover.iterations`: 1000001 is out of range: must be at least 0 and at most 1000000",
    ),
    (
        "recover: {crop_curriculum: 1}",
        "e.yaml, line 6: `recover.crop_curriculum`: needs recover.crop, whose smallest share it leads to (or set 0)",
    ),
    (
        "recover: {residual: {budgets: 4, alpha: 0.5, scales: [1]}}",
        "e.yaml, line 6: `recover.residual`: blends images with what they start from, which is noise: set recover.start to `real`, `clusters` or `crops`, or leave it out",
    ),
    (
        "recover: {start: {type: real, mean_of: 1}, residual: {budgets: 3, alpha: 0.5, scales: [1, 0.5, 0.5]}}",
        "e.yaml, line 6: `recover.residual.scales`: the last of 3 budgets must have the scale 1",
    ),
    (
        "recover: {committee: {teachers: [a], turn: all, weights: [1]}}",
        "e.yaml, line 6: `recover.committee.weights`: 1 weights; give one for each of the 2 teachers, the cell's own first, with `turn: all`, or none",
    ),
    (
        "recover: {compat: official}",
        "e.yaml, line 6: `recover.compat`: `official` needs a preset that knows the published code's quirks, in `recover.preset`; or list them by name",
    ),
    (
        "recover: {compat: [shared_view]}",
        "e.yaml, line 6: `recover.compat[0]`: unknown value `shared_view`; did you mean `shared_views`? Known values: shared_views, positive_jitter, truncated_pixels, jpeg_files, cifar10_pixels",
    ),
    (
        "recover: {class_share: 0.5, r_bn: 0}",
        "e.yaml, line 6: `recover.class_share`: has no effect, because recover.r_bn is 0 (the BN term is off): leave it out, or set 0",
    ),
    (
        "recover: {iterations: -5}",
        "e.yaml, line 6: `recover.iterations`: is the number `-5`, expected a whole number that is not negative",
    ),
    (
        "recover: {learning_rate: .nan}",
        "e.yaml, line 6: `recover.learning_rate`: NaN is out of range: must be above 0 and at most 100",
    ),
    (
        "recover: {learning_rate: fast}",
        "e.yaml, line 6: `recover.learning_rate`: is the text `fast`, expected a number",
    ),
    (
        "recover: {r_bn: automatic}",
        "e.yaml, line 6: `recover.r_bn`: is the text `automatic`, expected a number or `auto`",
    ),
    (
        "recover: {r_bn: -1}",
        "e.yaml, line 6: `recover.r_bn`: -1 is out of range: must be at least 0 and at most 1000000",
    ),
    (
        "recover: {r_bn: 0, first_bn_multiplier: 10}",
        "e.yaml, line 6: `recover.first_bn_multiplier`: has no effect, because recover.r_bn is 0 (the BN term is off): leave it out, or set 1",
    ),
    (
        "recover: {preset: sre2l-cifar10}",
        "e.yaml, line 6: `recover.preset`: there is no preset `sre2l-cifar10`; there are {presets}. Did you mean `sre2l-cifar100`?",
    ),
    (
        "recover: {preset: protocol-rded}",
        "e.yaml, line 6: `recover.preset`: the preset `protocol-rded` has no recover section; it has relabel and validate",
    ),
    ("recover: {preset: 3}", "e.yaml, line 6: `recover.preset`: expected the name of a preset"),
    (
        "recover: 7",
        "e.yaml, line 6: `recover`: expected keys such as `preset: scdd-cifar100` below this",
    ),
    (
        "recover: fast",
        "e.yaml, line 6: `recover.preset`: there is no preset `fast`; there are {presets}.",
    ),
    (
        "methods:\n  a: {}\n  b:\n    iteratons: 5",
        "e.yaml, line 9: `methods.b.iteratons`: unknown key; did you mean `iterations`? Known keys: iterations, batch_size, packing, learning_rate, betas, r_bn, r_var, first_bn_multiplier, distance, class_share, r_patch, statistics_momentum, weight_adjustment, tv, l2, jitter, crop, crop_curriculum, flip, start, formation, residual, ema, rounds, subset_of, committee, compat, classes, verifier, snapshots",
    ),
    (
        "methods:\n  a: {}\n  b:\n    iterations: 1000001",
        "e.yaml, line 9: `methods.b.iterations`: 1000001 is out of range: must be at least 0 and at most 1000000",
    ),
    (
        "methods:\n  a: {crop: {scale: [1, 0.5]}}",
        "e.yaml, line 7: `methods.a.crop.scale`: the smallest share, 1, is above the largest, 0.5",
    ),
    (
        "methods: {a: protocol-rded}",
        "e.yaml, line 6: `methods.a.preset`: the preset `protocol-rded` has no recover section; it has relabel and validate",
    ),
    (
        "methods: [a, b]",
        "e.yaml, line 6: `methods`: expected names below this, each with settings or the name of a preset",
    ),
    (
        "methods: {a.b: {}}",
        "e.yaml, line 6: `methods`: `a.b` is no name for one of them: allowed are letters, digits, `_` and `-`, at most 60 of them",
    ),
    ("methods: {}", "e.yaml, line 6: `methods`: the list is empty; at least one value is needed"),
    (
        "methods: {a: {}}\nrecover: {r_bn: 1}",
        "e.yaml, line 7: `recover`: is the short form of `methods`, which the file has too: leave one out",
    ),
    (
        "validate: {loss: {type: ce}}\nprotocols: {}",
        "e.yaml, line 6: `validate`: is the short form of `protocols`, which the file has too: leave one out",
    ),
    (
        "protocols:\n  long:\n    relabel: {epochs: 0}",
        "e.yaml, line 8: `protocols.long.relabel.epochs`: 0 is out of range: must be at least 1 and at most 100000",
    ),
    (
        "protocols:\n  hard:\n    validate: {loss: {type: ce}}",
        "e.yaml, line 7: `protocols.hard.relabel.mix`: mixed views have no single class (set {type: none}), but validate.loss is `ce`, which trains on hard labels",
    ),
    (
        "protocols: {a: {recover: {}}}",
        "e.yaml, line 6: `protocols.a.recover`: unknown key; known keys: relabel, validate",
    ),
    (
        "whole_real:\n  epochs: 0\n  batch_size: 5",
        "e.yaml, line 7: `whole_real.epochs`: 0 is out of range: must be at least 1 and at most 10000",
    ),
    ("labels: [soft, soft]", "e.yaml, line 6: `labels[1]`: repeats labels[0]"),
    (
        "relabel: {provider: cpu, fallback: cpu}",
        "e.yaml, line 6: `relabel.fallback`: has no effect, because relabel.provider is not `cuda`: leave it out",
    ),
    (
        "validate: {loss: {type: ce}}\nrelabel: {flip: false}",
        "e.yaml, line 7: `relabel.mix`: mixed views have no single class (set {type: none}), but validate.loss is `ce`, which trains on hard labels",
    ),
    (
        "validate: {loss: {type: ce}}\nrelabel: {mix: {type: none}}\nbaselines: [random_real_hard, rded_crops_soft]",
        "e.yaml, line 8: `baselines[1]`: this baseline has soft labels, but validate.loss is `ce`, which trains on hard labels",
    ),
    (
        "methods: {whole_real: scdd-cifar100}",
        "e.yaml, line 6: `methods.whole_real`: is what the rows of a baseline are called: choose another name",
    ),
    (
        "recover: {classes: [3, 1, 3]}",
        "e.yaml, line 6: `recover.classes[2]`: repeats recover.classes[0]",
    ),
    (
        "recover: {classes: [3, 1]}",
        "e.yaml, line 6: `recover.classes`: students need images of every class: leave it out, or set `data: none` and no students",
    ),
    (
        "recover: {classes: []}",
        "e.yaml, line 6: `recover.classes`: the list is empty; at least one value is needed",
    ),
    (
        "recover: {formation: 2}\nrelabel: {crop: {type: padded, pad: 2}}",
        "e.yaml, line 7: `relabel.crop`: pads whole images, but those of methods.distilled are mosaics (formation above 1): set {type: resized, scale: [0.5, 1]}",
    ),
    (
        "recover: {snapshots: 3}",
        "e.yaml, line 6: `recover.snapshots`: has no effect, because recover.verifier is empty: leave it out, or name a verifier",
    ),
    (
        "recover: {snapshots: 3, iterations: 3, verifier: [a]}",
        "e.yaml, line 6: `recover.snapshots`: is no less than recover.iterations: set fewer",
    ),
    (
        "recover: {snapshots: 3, rounds: 2, verifier: [a]}",
        "e.yaml, line 6: `recover.snapshots`: shows images of different ages, because recover.rounds is above 1: leave it out",
    ),
    (
        "recover: {formation: 17}",
        "e.yaml, line 6: `recover.formation`: 17 is out of range: must be at least 1 and at most 16",
    ),
    (
        "relabel: {crop: {type: padded, pad: 0}}",
        "e.yaml, line 6: `relabel.crop.pad`: 0 is out of range: must be at least 1 and at most 4096",
    ),
    (
        "relabel: {crop: {scale: [0.5, 0.1]}}",
        "e.yaml, line 6: `relabel.crop.scale`: the smallest share, 0.5, is above the largest, 0.1",
    ),
    (
        "relabel: {top_k: {k: 3}}",
        "e.yaml, line 6: `relabel.top_k.temperature`: this key is missing and has no default",
    ),
    (
        "relabel: {ensemble: [{bundle: a, weight: 1}, {bundle: b, weight: 0}]}",
        "e.yaml, line 6: `relabel.ensemble[1].weight`: 0 is out of range: must be above 0 and at most 1000000",
    ),
    (
        "relabel: {ensemble: [{bundle: a, weight: 1}, {bundle: a, weight: 2}]}",
        "e.yaml, line 6: `relabel.ensemble[1]`: repeats relabel.ensemble[0]",
    ),
    (
        "relabel: {micro_batch: 8}",
        "e.yaml, line 6: `relabel.micro_batch`: has no effect, because relabel.teacher_bn is `running`: leave it out, or set `batch`",
    ),
    (
        "relabel: {batch_size: 16, teacher_bn: batch, micro_batch: 16}",
        "e.yaml, line 6: `relabel.micro_batch`: 16 views are no part of a batch of 16 (relabel.batch_size): leave it out",
    ),
    (
        "relabel: {preset: protocol-rded, compat: official}",
        "e.yaml, line 6: `relabel.compat`: can only be `official`, and needs a preset of labels that the published code makes in another way, in `relabel.preset`; or leave it out",
    ),
    (
        "validate: {warmup: {epochs: 300, from: 0.1}}",
        "e.yaml, line 6: `validate.warmup.epochs`: 300 epochs leave none of relabel.epochs, 300, for the schedule",
    ),
    (
        "validate: {loss: {cooling: {factor: 0.7, every: 30, floor: 21}}}",
        "e.yaml, line 6: `validate.loss.cooling.floor`: 21 is above the temperature that falls, 20",
    ),
    (
        "validate: {hard_epochs: {from: 0.5, to: 0.5, smoothing: 0}}",
        "e.yaml, line 6: `validate.hard_epochs.to`: 0.5 does not come after validate.hard_epochs.from, 0.5",
    ),
    (
        "relabel: {mix: {type: none}}\nvalidate: {loss: {type: ce}, hard_epochs: {from: 0, to: 0.5, smoothing: 0}}",
        "e.yaml, line 7: `validate.hard_epochs`: has no effect, because validate.loss is `ce`, which trains on hard labels: leave it out",
    ),
    (
        "validate: {decays: weights}",
        "e.yaml, line 6: `validate.decays`: unknown key; did you mean `decay`? Known keys: loss, optimizer, decay, schedule, warmup, micro_batch, hard_epochs, ema, evaluate_every",
    ),
    (
        "relabel: {epochs: 20, stored_epochs: 21}",
        "e.yaml, line 6: `relabel.stored_epochs`: 21 epochs are to be stored, but relabel.epochs is 20",
    ),
    (
        "validate: {loss: {type: mse_gt, ce: -1}}",
        "e.yaml, line 6: `validate.loss.ce`: -1 is out of range: must be at least 0 and at most 1000000",
    ),
    (
        "validate: {schedule: {type: multistep, milestones: [0.8, 0.8], factor: 0.5}}",
        "e.yaml, line 6: `validate.schedule.milestones[1]`: 0.8 does not come after 0.8: milestones ascend",
    ),
    (
        "validate: {schedule: {type: multistep, milestones: [], factor: 0.5}}",
        "e.yaml, line 6: `validate.schedule.milestones`: the list is empty: give at least one, or the schedule `constant`",
    ),
    (
        "validate: {schedule: {type: multistep, milestones: [1], factor: 0.5}}",
        "e.yaml, line 6: `validate.schedule.milestones[0]`: 1 is out of range: must be above 0 and below 1",
    ),
    (
        "validate:\n  ema: 1",
        "e.yaml, line 7: `validate.ema`: 1 is out of range: must be at least 0 and below 1",
    ),
    (
        "device: gpu",
        "e.yaml, line 6: `device`: unknown value `gpu`; did you mean `cpu`? Known values: cpu, cuda, auto",
    ),
    ("seeds: []", "e.yaml, line 6: `seeds`: the list is empty; at least one value is needed"),
    ("seeds:\n- 1\n- 2\n- 1", "e.yaml, line 9: `seeds[2]`: repeats seeds[0]"),
    (
        "seeds: two",
        "e.yaml, line 6: `seeds[0]`: is the text `two`, expected a whole number that is not negative",
    ),
    (
        "relabel_teachers: 7",
        "e.yaml, line 6: `relabel_teachers`: is the number `7`, expected `same`, a bundle directory, or a list of them",
    ),
    (
        "baselines: [random]",
        "e.yaml, line 6: `baselines[0]`: unknown value `random`; known values: random_real_soft, random_real_hard, nearest_mean_soft, nearest_mean_hard, rded_crops_soft, rded_crops_hard",
    ),
    ("ipc: 3", "e.yaml: not a valid experiment file: duplicate entry with key \"ipc\""),
    (
        "recover: {",
        "e.yaml: not a valid experiment file: did not find expected node content at line 7 column 1, while parsing a flow node",
    ),
];

/// Resolved files of runs before `precision` hold it.
#[test]
fn a_former_key_without_effect_is_read_and_one_with_effect_is_told() {
    let with = |bf16: &str| parse(&format!("{MINIMAL}recover: {{bf16: {bf16}}}\n"), &[]);
    assert_eq!(with("false").unwrap(), parse(MINIMAL, &[]).unwrap());
    let message = with("true").unwrap_err().to_string();
    assert!(
        message.contains(
            "line 6: `recover.bf16`: is a key of the whole experiment now: write `precision: bf16`"
        ),
        "{message}"
    );
}

#[test]
fn faulty_files_are_told_where_and_what() {
    let said = |lines: &str| parse(&format!("{MINIMAL}{lines}\n"), &[]).unwrap_err().to_string();
    let presets = preset_names().collect::<Vec<_>>().join(", ");
    let expected = |text: &str| text.replace("{presets}", &presets);
    let wrong: Vec<_> = FAULTY
        .iter()
        .map(|(lines, text)| (said(lines), expected(text)))
        .filter(|(a, b)| a != b)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A file's text, and the lines and paths of its reported faults; `--set` stands for a line.
const SEVERAL: &[(&str, &[&str])] = &[
    (
        "name: ../x\ndata: fashion-mnist\nteacher: onnx/a\nstudents: onnx/s\nipc: [ten, 5, twenty]\nseed: 4\n",
        &["1 name", "3 teacher", "5 ipc[0]", "5 ipc[2]", "6 seed"],
    ),
    (
        "name: x\ndata: {type: fashion-mist, path: 3}\nteachers: [onnx/a, 5, 6]\nstudents: onnx/s\nipc: [0, x, 10001]\n\
         recover: {iteratons: 5, jitter: -1, learning_rate: 0, betas: [a, 0.5]}\n\
         relabel:\n  mix: {type: cutmux, alpha: 1}\n  epochs: 0\nvalidate: {ema: 1}\n",
        &[
            "2 data.type",
            "3 teachers[1]",
            "3 teachers[2]",
            "5 ipc[0]",
            "5 ipc[1]",
            "5 ipc[2]",
            "6 recover.iteratons",
            "6 recover.jitter",
            "6 recover.learning_rate",
            "6 recover.betas[0]",
            "8 relabel.mix.type",
            "9 relabel.epochs",
            "10 validate.ema",
        ],
    ),
    (
        "name: x\ndata: mnist\nteachers: a\nstudents: s\nipc: 1\nmethods:\n  a: {r_bn: -1}\n  b: fast\n  c: {flip: maybe}\n\
         protocols:\n  short: {relabel: {mix: {type: mixup, alpa: 1}}}\n  long: 3\n",
        &[
            "7 methods.a.r_bn",
            "8 methods.b.preset",
            "9 methods.c.flip",
            "11 protocols.short.relabel.mix.alpa",
            "12 protocols.long",
        ],
    ),
    // All contradictions, but only if every value is valid alone.
    (
        "name: x\ndata: npz\nteachers: [a, a]\nstudents: s\nipc: 10\nseeds: []\nrecover: {crop_curriculum: 1, subset_of: 5, compat: []}\n\
         relabel: {micro_batch: 50, stored_epochs: 301}\n",
        &[
            "2 data.path",
            "3 teachers[1]",
            "6 seeds",
            "7 recover.crop_curriculum",
            "7 recover.subset_of",
            "8 relabel.micro_batch",
            "8 relabel.stored_epochs",
        ],
    ),
    (
        "name: x\ndata: npz\nteachers: a\nstudents: s\nipc: 10\nrecover: {crop: {scale: [0, 1]}, crop_curriculum: 1}\n",
        &["6 recover.crop.scale[0]"],
    ),
];

#[test]
fn all_faults_of_a_file_are_told_at_once() {
    for (text, expected) in SEVERAL {
        let said = parse(text, &[]).unwrap_err().to_string();
        let told = |line: &str| {
            let (line, fault) =
                line.trim().trim_start_matches("e.yaml, ").split_once(": ").unwrap();
            let path = fault.split('`').nth(1).unwrap();
            format!("{} {path}", line.trim_start_matches("line "))
        };
        let heading = format!("e.yaml: {} faults:", expected.len());
        assert_eq!(said.starts_with(&heading), expected.len() > 1, "{said}");
        let found: Vec<String> = said.lines().filter(|line| **line != heading).map(told).collect();
        assert_eq!(found, *expected, "{said}");
    }
}

#[test]
fn overrides_and_the_file_are_blamed_together() {
    let said = parse(&format!("{MINIMAL}seed: 4\n"), &["ipc=0", "recover.flip=maybe"])
        .unwrap_err()
        .to_string();
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0] == "e.yaml: 3 faults:" && lines[1].starts_with("  line 6: `seed`: unknown key"),
        "{said}"
    );
    assert!(lines[2].starts_with("  --set ipc=0: `ipc[0]`: 0 is out of range"), "{said}");
    assert!(
        lines[3].starts_with("  --set recover.flip=maybe: `recover.flip`: is the text"),
        "{said}"
    );
}

/// Long lists are processed quickly and reported in part.
#[test]
fn long_lists_are_bounded() {
    let list = |value: &dyn Fn(usize) -> usize| {
        (0..100_001).map(|i| value(i).to_string()).collect::<Vec<_>>().join(", ")
    };
    let of = |values: &str| {
        parse(&format!("{MINIMAL}seeds: [{values}]\n"), &[]).unwrap_err().to_string()
    };
    let repeated = of(&list(&|_| 1));
    assert!(
        repeated
            .starts_with("e.yaml: at least 50 faults:\n  line 6: `seeds[1]`: repeats seeds[0]\n"),
        "{repeated}"
    );
    let distinct = of(&list(&|i| i));
    assert_eq!(
        distinct,
        "e.yaml, line 6: `seeds`: its 100001 values make a matrix of 100001 rows, of which 100000 are allowed"
    );
}

#[test]
fn names_are_alike_in_any_case_and_known_ones_are_listed_once() {
    let said = parse("Name: x\ndata.path: y\nTEACHERS: z\n", &[]).unwrap_err().to_string();
    assert_eq!(said.matches("nown keys:").count(), 1, "{said}");
    for hint in [
        "`Name`: unknown key; did you mean `name`?",
        "`TEACHERS`: unknown key; did you mean `teachers`?",
    ] {
        assert!(said.contains(hint), "{said}");
    }
    assert!(said.contains("`data.path`: unknown key"), "{said}");
    let tab = parse(&format!("{MINIMAL}recover:\n\titerations: 5\n"), &[]).unwrap_err().to_string();
    assert!(tab.ends_with("if it is a tab: YAML is indented by spaces"), "{tab}");
}

/// Every file's faults are reported once each, and up to a bound.
#[test]
fn many_faults_are_told_up_to_a_bound() {
    let keys: String = (0..500).map(|key| format!("key{key}: 1\n")).collect();
    let said = parse(&format!("{MINIMAL}{keys}"), &[]).unwrap_err().to_string();
    assert!(said.starts_with("e.yaml: at least 50 faults:\n  line 6: `key0`"), "{said}");
    assert_eq!(said.lines().count(), 51);
    let odd = [
        "1: 2",
        "true: [x]",
        "? [a]\n: b",
        "\"\": 1",
        "a.b: 1",
        "recover: {1: 2}",
        "data: [x]",
        "teachers: {type: x}",
    ];
    for lines in odd {
        let said = parse(&format!("name: x\n{lines}\nseed: 1\n"), &[]).unwrap_err().to_string();
        assert!(said.lines().count() < 12, "{said}");
    }
}

#[test]
fn a_value_within_a_choice_of_type_is_told_with_its_key() {
    for (line, expected) in [
        (
            "relabel: {mix: {type: cutmix, alpha: x}}",
            "line 6: `relabel.mix.alpha`: is the text `x`, expected a number",
        ),
        (
            "validate: {loss: {temperature: [1]}}",
            "line 6: `validate.loss.temperature`: is a list, expected a number",
        ),
        (
            "recover: {start: {type: crops, images: -1, crops: 1, factor: 1, difficulty: low}}",
            "line 6: `recover.start.images`: is the number `-1`, expected a whole number that is not negative",
        ),
    ] {
        let said = parse(&format!("{MINIMAL}{line}\n"), &[]).unwrap_err().to_string();
        assert_eq!(said, format!("e.yaml, {expected}"));
    }
}

/// `--set` arguments for a valid file, and the expected error.
const FAULTY_OVERRIDES: &[(&str, &str)] = &[
    (
        "recover.iteratons=5",
        "--set recover.iteratons=5: `recover.iteratons`: unknown key; did you mean `iterations`? Known keys: iterations, batch_size, packing, learning_rate, betas, r_bn, r_var, first_bn_multiplier, distance, class_share, r_patch, statistics_momentum, weight_adjustment, tv, l2, jitter, crop, crop_curriculum, flip, start, formation, residual, ema, rounds, subset_of, committee, compat, classes, verifier, snapshots",
    ),
    ("ipc=0", "--set ipc=0: `ipc[0]`: 0 is out of range: must be at least 1 and at most 10000"),
    ("ipc", "--set ipc: expected `path=value`, such as `recover.iterations=5`"),
    (
        "seeds=[18446744073709551616]",
        "--set seeds=[18446744073709551616]: the value can't be read: the number `18446744073709551616` at line 1 column 2 is too large: whole numbers are at most 18446744073709551615",
    ),
    ("=3", "--set =3: `` is not a path of keys"),
    ("seeds[x]=3", "--set seeds[x]=3: `seeds[x]` is not a path of keys"),
    ("seeds[1]=3", "--set seeds[1]=3: the file has no list with an element [1] there"),
    (
        "ipc.small=3",
        "--set ipc.small=3: there are no keys where `small` should be set: the file has a plain value or a list there",
    ),
    (
        "name=../up",
        "--set name=../up: `name`: `../up` cannot name a directory: allowed are letters, digits, `.`, `_` and `-`, at most 100 of them, not starting with `.`",
    ),
];

#[test]
fn data_needs_a_path_where_it_has_no_name() {
    let error = |data: &str| parse(MINIMAL, &[&format!("data={data}")]).unwrap_err().to_string();
    assert_eq!(
        error("npz"),
        "--set data=npz: `data.path`: is missing: such files are found nowhere but where this key says"
    );
    assert_eq!(
        error("{type: mnist, class_map: m.yaml}"),
        "--set data={type: mnist, class_map: m.yaml}: `data.class_map`: has no effect, because data.type is not `image-folder`: leave it out"
    );
    assert!(
        error("{type: cifar-11}").contains("unknown value `cifar-11`; did you mean `cifar-10`?")
    );
    let folder =
        parse(MINIMAL, &["data={type: image-folder, path: x, class_map: m.yaml}"]).unwrap();
    assert_eq!(folder.data.path.as_deref(), Some(Path::new("x")));
    let held_out = parse(MINIMAL, &["data={type: mnist, held_out: 100}"]).unwrap();
    assert_eq!(held_out.data.held_out, 100);
    let message = error("{type: none, held_out: 100}");
    assert!(message.contains("`data.held_out`: has no effect"), "{message}");
}

#[test]
fn faulty_overrides_are_blamed() {
    for (argument, expected) in FAULTY_OVERRIDES {
        assert_eq!(&parse(MINIMAL, &[argument]).unwrap_err().to_string(), expected);
    }
}

#[test]
fn missing_keys_and_files_are_named() {
    let error = |text: &str| parse(text, &[]).unwrap_err().to_string();
    let missing = |key: &str| format!("`{key}`: this key is missing and has no default");
    let all =
        |keys: &[&str]| keys.iter().map(|key| format!("\n  {}", missing(key))).collect::<String>();
    assert_eq!(error(&MINIMAL.replace("ipc: 10\n", "")), format!("e.yaml: {}", missing("ipc")));
    assert_eq!(
        error("name: x\n"),
        format!("e.yaml: 4 faults:{}", all(&["data", "teachers", "students", "ipc"]))
    );
    assert_eq!(
        error(""),
        format!("e.yaml: 5 faults:{}", all(&["name", "data", "teachers", "students", "ipc"]))
    );
    assert_eq!(
        error("- 1"),
        "e.yaml: not a valid experiment file: expected keys such as `name` and `teachers` at the top"
    );
    let missing = Experiment::load(Path::new("no/such.yaml"), &[]).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read the experiment file no/such.yaml: "), "{missing}");
}
