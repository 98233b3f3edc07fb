//! `scdd verify` through the command line: it passes on shipped bundles, and reports what was
//! changed in others.

mod common;

use common::{Copied, bundle, copy_bundle, copy_of, features_only, scdd};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use prost::Message;
use rand::RngExt;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use scdd::graph::proto::ModelProto;

const TEACHER: &str = "resnet18-w16-supervised";

#[test]
fn every_shipped_bundle_verifies() {
    let mut bundles: Vec<_> =
        std::fs::read_dir(bundle("")).unwrap().map(|e| e.unwrap().path()).collect();
    bundles.sort();
    assert!(bundles.len() >= 5);
    let output = scdd().arg("verify").arg("--json").args(&bundles).assert().success();
    let verdicts: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(verdicts.as_array().unwrap().len(), bundles.len());
}

#[test]
fn a_backbone_without_classifier_verifies_by_its_features() {
    let output = scdd().arg("verify").arg(features_only()).assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    for check in [
        "golden: features, tch",
        "golden: features, ONNX Runtime",
        "input gradient",
        "layer statistics",
    ] {
        assert!(text.contains(check), "{text} lacks {check:?}");
    }
    type Edit = fn(&mut serde_yaml::Value);
    let edits: [(Edit, &str); 5] = [
        (|m| m["role"] = "student".into(), "which can't be a student"),
        (|m| m["onnx"]["output"] = "logits".into(), "which has the output `features`"),
        (
            |m| m["statistics"] = serde_yaml::from_str("{kind: none, layers: []}").unwrap(),
            "which needs statistics",
        ),
        (
            |m| m["accuracy"] = serde_yaml::from_str("{top1: 1, split: test, images: 1}").unwrap(),
            "which has no accuracy",
        ),
        (
            |m| m["classes"] = vec!["a".to_owned()].into(),
            "golden.safetensors: lacks tensor `targets`",
        ),
    ];
    for (edit, expected) in edits {
        let copy = copy_of(&features_only());
        copy.edit_manifest(edit);
        scdd().arg("verify").arg(&copy.path).assert().code(2).stderr(contains(expected));
    }
}

/// A copy of the teacher in which `change` is applied to element `index` of the initialiser `name`;
/// manifest and hashes are updated.
fn with_weight(name: &str, index: usize, change: impl Fn(f32) -> f32) -> Copied {
    let copy = copy_bundle(TEACHER);
    let mut model = ModelProto::decode(copy.read("model.onnx").as_slice()).unwrap();
    let initializers = &mut model.graph.as_mut().unwrap().initializer;
    let tensor = initializers.iter_mut().find(|t| t.name.as_deref() == Some(name)).unwrap();
    let raw = tensor.raw_data.as_mut().unwrap();
    let at = &mut raw[4 * index..4 * index + 4];
    let value = change(f32::from_le_bytes(at.try_into().unwrap()));
    at.copy_from_slice(&value.to_le_bytes());
    copy.replace("model.onnx", &model.encode_to_vec());
    copy
}

#[test]
fn one_changed_weight_is_found_and_its_node_named() {
    let cases = [
        ("conv1.weight", "first diverging node: conv1 (Conv), the input of layer `bn1`"),
        (
            "layer2.1.conv1.weight",
            "first diverging node: layer2.1.conv1 (Conv), the input of layer `layer2.1.bn1`",
        ),
        (
            "layer4.1.conv2.weight",
            "first diverging node: layer4.1.conv2 (Conv), the input of layer `layer4.1.bn2`",
        ),
        ("fc.weight", "diverges after layer `layer4.1.bn2`, at the latest at node fc (Gemm)"),
    ];
    for (weight, named) in cases {
        let copy = with_weight(weight, 17, |w| w + 0.05);
        scdd()
            .arg("verify")
            .arg(&copy.path)
            .assert()
            .code(1)
            .stdout(contains(named).and(contains("NOT verified")));
    }
}

/// Replaces the gradient in the teacher's golden probe by its products with `count` random
/// directions, each changed by `change`.
fn with_slopes(copy: &Copied, count: usize, change: impl Fn(f64) -> f64) {
    let bytes = copy.read("golden.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let whole = tensors.tensor("input_grad").unwrap();
    let gradient: Vec<f64> =
        whole.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
    let mut stream = scdd::rng::stream(0, "test", 0);
    let directions: Vec<i8> =
        (0..count * gradient.len()).map(|_| if stream.random() { 1 } else { -1 }).collect();
    let slope = |row: &[i8]| row.iter().zip(&gradient).map(|(d, g)| f64::from(*d) * g).sum::<f64>();
    let slopes: Vec<u8> = directions
        .chunks(gradient.len())
        .flat_map(|row| (change(slope(row)) as f32).to_le_bytes())
        .collect();
    let signs: Vec<u8> = directions.iter().map(|d| d.cast_unsigned()).collect();
    let shape = [&[count], whole.shape()].concat();
    let mut kept: Vec<(&str, TensorView)> =
        tensors.iter().filter(|(name, _)| *name != "input_grad").collect();
    kept.push(("directions", TensorView::new(Dtype::I8, shape, &signs).unwrap()));
    kept.push(("slopes", TensorView::new(Dtype::F32, vec![count], &slopes).unwrap()));
    copy.replace("golden.safetensors", &safetensors::serialize(kept, None).unwrap());
}

#[test]
fn a_gradient_known_in_some_directions_is_checked_there() {
    let copy = copy_bundle(TEACHER);
    with_slopes(&copy, 8, |slope| slope);
    scdd()
        .arg("verify")
        .arg(&copy.path)
        .assert()
        .success()
        .stdout(contains("input gradient in 8 directions"));
    let copy = copy_bundle(TEACHER);
    with_slopes(&copy, 8, |slope| 1.01 * slope);
    scdd()
        .arg("verify")
        .arg(&copy.path)
        .assert()
        .code(1)
        .stdout(contains("FAILED golden: input gradient in 8"));
    let message = complaint(|copy| with_slopes(copy, 3, |slope| slope));
    assert!(
        message.contains(
            "`directions` is I8 [3, 4, 1, 28, 28], expected I8 [4 to 64] of [4, 1, 28, 28]"
        ),
        "{message}"
    );
}

#[test]
fn side_tensors_that_differ_from_the_graph_are_refused() {
    let copy = with_weight("layer1.0.bn1.running_mean", 3, |w| w + 1.0);
    scdd().arg("verify").arg(&copy.path).assert().code(2).stderr(contains(
        "`layer1.0.bn1.running_mean` differs from what node `layer1.0.bn1` of the graph holds",
    ));
}

/// The error of `scdd verify` after `spoil`.
fn complaint(spoil: impl FnOnce(&Copied)) -> String {
    let copy = copy_bundle(TEACHER);
    spoil(&copy);
    let output = scdd().arg("verify").arg(&copy.path).assert().code(2);
    String::from_utf8(output.get_output().stderr.clone()).unwrap()
}

/// The side tensors with the first value of `name` replaced.
fn with_side_value(copy: &Copied, name: &str, value: f32) {
    let mut bytes = copy.read("bn_stats.safetensors");
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let index: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let at = 8 + header + index[name]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    copy.replace("bn_stats.safetensors", &bytes);
}

/// Keeps only the network's own statistics in the side tensors.
fn without_class_statistics(copy: &Copied) {
    let bytes = copy.read("bn_stats.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let own = tensors.iter().filter(|(name, _)| !name.contains(".class_"));
    copy.replace("bn_stats.safetensors", &safetensors::serialize(own, None).unwrap());
    copy.edit_manifest(|m| m["statistics"]["calibration"]["per_class"] = false.into());
}

#[test]
fn broken_bundles_are_explained() {
    let cut = |file: &'static str, length: usize| {
        move |copy: &Copied| {
            let bytes = copy.read(file);
            std::fs::write(copy.path.join(file), &bytes[..length]).unwrap();
        }
    };
    let replaced =
        |file: &'static str, bytes: &'static [u8]| move |copy: &Copied| copy.replace(file, bytes);
    let removed = |file: &'static str| {
        move |copy: &Copied| std::fs::remove_file(copy.path.join(file)).unwrap()
    };
    let cases: Vec<(String, &str)> = vec![
        (complaint(removed("model.onnx")), "model.onnx: No such file"),
        (complaint(removed("manifest.yaml")), "is no bundle: it has no manifest.yaml"),
        (complaint(cut("model.onnx", 1000)), "model.onnx: has 1000 bytes, the manifest says"),
        (
            complaint(cut("golden.safetensors", 5)),
            "golden.safetensors: has 5 bytes, the manifest says",
        ),
        (complaint(replaced("model.onnx", b"nonsense")), "model.onnx: not a readable ONNX file"),
        (complaint(replaced("model.onnx", b"")), "model.onnx: the ONNX model holds no graph"),
        (
            complaint(replaced("golden.safetensors", b"nonsense")),
            "golden.safetensors: not a readable safetensors file",
        ),
        (
            complaint(replaced("bn_stats.safetensors", b"")),
            "bn_stats.safetensors: not a readable safetensors file",
        ),
        (
            complaint(|copy| {
                let mut bytes = copy.read("model.onnx");
                bytes[100_000] ^= 1;
                std::fs::write(copy.path.join("model.onnx"), bytes).unwrap();
            }),
            "the file was changed or damaged",
        ),
        (
            complaint(|copy| with_side_value(copy, "bn1.running_var", f32::NAN)),
            "`bn1.running_var` is NaN at channel 0; a variance is finite and not negative",
        ),
        (
            complaint(|copy| with_side_value(copy, "bn1.running_var", -1.0)),
            "`bn1.running_var` is -1 at channel 0; a variance is finite and not negative",
        ),
        (
            complaint(|copy| copy.edit_manifest(|m| m["preprocessing"]["channels"] = 3.into())),
            "`preprocessing`: mean and std need 3 values each",
        ),
        (
            complaint(|copy| copy.edit_manifest(|m| m["version"] = 9.into())),
            "this program reads scdd-bundle version 1",
        ),
        (
            complaint(|copy| {
                copy.edit_manifest(|m| {
                    m["files"]["../../secret"] = m["files"]["model.onnx"].clone()
                })
            }),
            "`files` names `../../secret`, which is no file of a bundle",
        ),
        (
            complaint(|copy| {
                copy.edit_manifest(|m| m["classes"] = vec!["a".to_owned(), "b".to_owned()].into())
            }),
            "bn_stats.safetensors: `bn1.class_mean` is F32 [10, 16], expected F32 [2, 16]",
        ),
        (
            complaint(|copy| {
                without_class_statistics(copy);
                copy.edit_manifest(|m| m["classes"] = vec!["a".to_owned(), "b".to_owned()].into());
            }),
            "golden.safetensors: `targets` contains class",
        ),
        (
            complaint(|copy| copy.edit_manifest(|m| m["rolle"] = "teacher".into())),
            "unknown field `rolle`",
        ),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn unsupported_operators_are_listed_with_their_nodes() {
    let message = complaint(|copy| {
        let mut model = ModelProto::decode(copy.read("model.onnx").as_slice()).unwrap();
        for node in model
            .graph
            .as_mut()
            .unwrap()
            .node
            .iter_mut()
            .filter(|n| n.op_type.as_deref() == Some("Relu"))
        {
            node.op_type = Some("Frobnicate".into());
        }
        copy.replace("model.onnx", &model.encode_to_vec());
    });
    assert!(message.contains("unsupported operators: Frobnicate ×17 (relu"), "{message}");
}

/// Networks that were changed for inference, or output decisions, are refused at the start, in one
/// sentence.
#[test]
fn graphs_that_leave_nothing_to_recover_from_are_refused() {
    let refused = |change: &dyn Fn(&mut ModelProto), expected: &str| {
        let copy = copy_bundle(TEACHER);
        let mut model = ModelProto::decode(copy.read("model.onnx").as_slice()).unwrap();
        change(&mut model);
        copy.replace("model.onnx", &model.encode_to_vec());
        let output = scdd()
            .arg("verify")
            .arg(&copy.path)
            .assert()
            .code(2)
            .stderr(contains(expected))
            .get_output()
            .clone();
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
    };
    let kind = |model: &mut ModelProto, code: i32| {
        let input = &mut model.graph.as_mut().unwrap().input[0];
        input.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().elem_type = Some(code);
    };
    refused(
        &|model| kind(model, 2),
        "is uint8, so the graph begins with a preprocessing of its own",
    );
    refused(&|model| kind(model, 10), "is float16: export the network in float32");
    refused(
        &|model| {
            let tensor = model.graph.as_mut().unwrap().input[0]
                .r#type
                .as_mut()
                .unwrap()
                .tensor_type
                .as_mut()
                .unwrap();
            tensor.shape.as_mut().unwrap().dim[1..].rotate_left(1);
        },
        "with the channels last: export the network with [N, C, H, W]",
    );
    let all = |op: &'static str, domain: &'static str| {
        move |model: &mut ModelProto| {
            for node in model
                .graph
                .as_mut()
                .unwrap()
                .node
                .iter_mut()
                .filter(|n| n.op_type.as_deref() == Some("Relu"))
            {
                (node.op_type, node.domain) = (Some(op.into()), Some(domain.into()));
            }
        }
    };
    refused(
        &all("DequantizeLinear", ""),
        "the graph is quantised (DequantizeLinear ×17), which leaves no gradients",
    );
    refused(
        &all("FusedConv", "com.microsoft"),
        "operators outside ONNX (com.microsoft::FusedConv ×17)",
    );
    refused(
        &|model| {
            let last = model.graph.as_mut().unwrap().node.last_mut().unwrap();
            (last.op_type, last.attribute) = (Some("ArgMax".into()), Vec::new());
            last.input.truncate(1);
        },
        "is the chosen class, by node `fc` (ArgMax), where logits are wanted",
    );
}

#[test]
fn a_missing_onnx_runtime_is_explained() {
    scdd()
        .args(["verify", "--onnxruntime", "/nowhere/libonnxruntime.so"])
        .arg(bundle(TEACHER))
        .assert()
        .code(2)
        .stderr(contains("ONNX Runtime was not found; looked at: /nowhere/libonnxruntime.so"));
}

#[test]
fn what_is_no_bundle_is_told_as_what_it_is() {
    let refused = |path: std::path::PathBuf, expected: &str| {
        scdd().arg("verify").arg(path).assert().code(2).stderr(contains(expected));
    };
    refused(
        bundle(TEACHER).join("manifest.yaml"),
        "manifest.yaml: is a file; a bundle is a directory with manifest.yaml in it",
    );
    refused(bundle(""), "is no bundle: it has no manifest.yaml; name a bundle in it: ");
    refused(bundle(""), "resnet10-w16-supervised");
    refused(bundle("nothing"), "nothing/manifest.yaml: No such file or directory");
    let empty = tempfile::tempdir().unwrap();
    refused(empty.path().to_path_buf(), "is no bundle: it has no manifest.yaml\n");
}

#[test]
fn what_recovers_is_proved_where_it_will_compute() {
    let bundles = [bundle(TEACHER), bundle("convnet3-w128"), features_only()];
    let mut command = scdd();
    command.args(["verify", "--json", "--device", "cpu", "--precision", "bf16"]).args(&bundles);
    let output = command.assert().success().stderr(contains("computing on cpu"));
    let verdicts: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    for verdict in verdicts.as_array().unwrap() {
        let checks = verdict["checks"].as_array().unwrap();
        let of_plan =
            |check: &&serde_json::Value| check["name"].as_str().unwrap().starts_with("plan on cpu");
        let limits: Vec<_> = checks.iter().filter(of_plan).map(|c| c["limit"].as_f64()).collect();
        // The CPU's kernels compute in float32, whatever is asked for.
        assert_eq!(limits, [1e-3, 1e-3, 1e-2].map(Some), "{verdict:#}");
    }
    let changed = with_weight("fc.weight", 17, |w| w + 1.0);
    let mut command = scdd();
    command.args(["verify", "--device", "cpu"]).arg(&changed.path);
    command.assert().code(1).stdout(contains("FAILED plan on cpu: output"));
}

#[test]
fn a_device_that_is_not_there_is_told() {
    let verify = |arguments: &[&str]| {
        let mut command = scdd();
        // Without the driver's GPUs, whatever the machine has.
        command.env("CUDA_VISIBLE_DEVICES", "").arg("verify").arg(bundle(TEACHER));
        command.args(arguments).assert()
    };
    verify(&["--device", "cuda"]).code(2).stderr(contains("`device: cpu` or `auto` needs none"));
    verify(&["--device", "auto"])
        .success()
        .stderr(contains("computing on cpu: "))
        .stdout(contains("ok     plan on cpu: input gradient"));
    verify(&["--precision", "fp32"]).code(2).stderr(contains("--device <DEVICE>"));
    verify(&["--device", "tpu"]).code(2).stderr(contains("possible values: cpu, cuda, auto"));
}
