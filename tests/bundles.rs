//! Bundles on disk: calibration writes valid ones; broken or hostile ones are refused with the file
//! and the reason.

use std::path::{Path, PathBuf};

use ndarray::Array4;
use scdd::replica::{Mode, to_array, to_tensor};
use scdd::teacher::{Bundle, Calibrator, Detail, Network, Runtime, StatisticsKind, verify};
use scdd::threads::Threads;
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/fashion-mnist").join(name)
}

/// A copy of a shipped bundle that a test may damage.
struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(shipped(name)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        Self { dir }
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(file)).unwrap()
    }

    /// Writes a file and, like an attacker, updates its size and hash in the manifest.
    fn forge(&self, file: &str, bytes: &[u8]) {
        let old = self.read(file);
        let hash = |bytes: &[u8]| {
            Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        self.edit(&hash(&old), &hash(bytes));
        self.edit(&format!("bytes: {}", old.len()), &format!("bytes: {}", bytes.len()));
        std::fs::write(self.dir.path().join(file), bytes).unwrap();
    }

    /// Replaces text in the manifest.
    fn edit(&self, from: &str, to: &str) {
        let text = String::from_utf8(self.read("manifest.yaml")).unwrap();
        assert!(text.contains(from), "the manifest lacks {from:?}");
        std::fs::write(self.dir.path().join("manifest.yaml"), text.replacen(from, to, 1)).unwrap();
    }

    fn error(&self) -> String {
        Bundle::load(self.dir.path()).expect_err("must be refused").to_string()
    }
}

/// A safetensors file with this `header` and `data`.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn damaged_files_are_named() {
    type Damage = fn(&Copy);
    let cases: [(Damage, &str); 14] = [
        (
            |c| std::fs::remove_file(c.dir.path().join("model.onnx")).unwrap(),
            "model.onnx: No such file",
        ),
        (
            |c| std::fs::write(c.dir.path().join("model.onnx"), []).unwrap(),
            "model.onnx: has 0 bytes, the manifest says",
        ),
        (
            |c| {
                let mut bytes = c.read("model.onnx");
                bytes[1000] ^= 1;
                std::fs::write(c.dir.path().join("model.onnx"), bytes).unwrap();
            },
            "the file was changed or damaged",
        ),
        (
            |c| c.forge("model.onnx", &c.read("model.onnx")[..5000]),
            "model.onnx: not a readable ONNX file",
        ),
        (|c| c.forge("model.onnx", &[0xFF; 4096]), "model.onnx: not a readable ONNX file"),
        (
            |c| c.edit("model.onnx:", "../model.onnx:"),
            "`files` names `../model.onnx`, which is no file of a bundle",
        ),
        (
            |c| c.edit("format: scdd-bundle", "format: other"),
            "this program reads scdd-bundle version 1",
        ),
        (|c| c.edit("height: 28", "height: 4294967296"), "impossible image"),
        (
            |c| c.edit("kind: batch_norm", "kind: none"),
            "kind none goes with an empty list of layers",
        ),
        (|c| c.edit("eps: ", "axis: 7, eps: "), "has axis 7, neither 1 nor -1"),
        (|c| c.edit("channels: 16", "channels: 17"), "expected F32 [17]"),
        (|c| c.forge("bn_stats.safetensors", &[0xFF; 64]), "not a readable safetensors file"),
        (
            |c| {
                let header = r#"{"bn1.running_mean":{"dtype":"F32","shape":[536870912],"data_offsets":[0,2147483648]}}"#;
                c.forge("bn_stats.safetensors", &safetensors(header, &[0; 64]));
            },
            "not a readable safetensors file",
        ),
        (
            |c| {
                let header =
                    r#"{"bn1.running_mean":{"dtype":"I32","shape":[16],"data_offsets":[0,64]}}"#;
                c.forge("bn_stats.safetensors", &safetensors(header, &[0; 64]));
            },
            "`bn1.running_mean` is I32 [16], expected F32 [16]",
        ),
    ];
    for (damage, expected) in cases {
        let copy = Copy::of("resnet18-w16-supervised");
        damage(&copy);
        let message = copy.error();
        assert!(message.contains(expected), "{message:?} does not contain {expected:?}");
    }
}

#[test]
fn a_folded_graph_is_told_to_be_calibrated() {
    let copy = Copy::of("resnet18-w16-supervised");
    // The graph of a network without BatchNorm, with a manifest that lists layers.
    let other = std::fs::read(shipped("convnet3-w128-in").join("model.onnx")).unwrap();
    copy.forge("model.onnx", &other);
    let message = copy.error();
    assert!(message.contains("BatchNorm was folded into the convolutions at export"), "{message}");
}

const BY_CLASS: Detail = Detail { per_class: true, patches: None };

fn images(count: usize, seed: u64) -> Array4<f32> {
    tch::manual_seed(seed as i64);
    let values =
        to_array(&Tensor::randn([count as i64, 1, 28, 28], (tch::Kind::Float, Device::Cpu)))
            .unwrap();
    values.into_dimensionality().unwrap()
}

#[test]
fn calibration_measures_what_a_run_over_all_images_gives() {
    let bundle = Bundle::load(&shipped("convnet3-w128-in")).unwrap();
    assert_eq!(bundle.manifest.statistics.kind, StatisticsKind::None);
    assert!(bundle.without_statistics().unwrap().contains("3 convolutions with a bias"));
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("calibrated");
    let parts: Vec<Array4<f32>> = (0..10).map(|class| images(3 + class, class as u64)).collect();
    let mut calibrator = Calibrator::new(&bundle, &[], BY_CLASS).unwrap();
    for (class, part) in parts.iter().enumerate() {
        let (head, tail) = part.view().split_at(ndarray::Axis(0), 2);
        calibrator.add(class, &head.to_owned()).unwrap();
        calibrator.add(class, &tail.to_owned()).unwrap();
    }
    calibrator.write(&out, "noise").unwrap();

    let made = Bundle::load(&out).unwrap();
    assert_eq!(made.manifest.statistics.kind, StatisticsKind::Calibrated);
    assert_eq!((made.name(), made.layers.len()), ("calibrated", 3));
    let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
    let all = ndarray::concatenate(ndarray::Axis(0), &views).unwrap();
    let taps: Vec<_> = made.layers.iter().map(|l| l.tap).collect();
    let replica = made.replica(Device::Cpu).unwrap();
    let measure = |images: &Array4<f32>, layer: usize| {
        let run = replica.run(&[to_tensor(images.view()).unwrap()], &taps, Mode::Eval).unwrap();
        let (var, mean) = run.taps[layer].var_mean_dim(&[0i64, 2, 3][..], false, false);
        (Vec::<f32>::try_from(&mean).unwrap(), Vec::<f32>::try_from(&var).unwrap())
    };
    let close = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs().max(0.1))
    };
    for (i, layer) in made.layers.iter().enumerate() {
        let (mean, var) = measure(&all, i);
        assert!(close(&layer.mean, &mean) && close(&layer.var, &var), "layer {i}");
        let of_class = layer.per_class.as_ref().unwrap();
        let (mean, var) = measure(&parts[4], i);
        let c = mean.len();
        assert!(
            close(&of_class.mean[4 * c..5 * c], &mean) && close(&of_class.var[4 * c..5 * c], &var),
            "layer {i}"
        );
    }
    let verdict = verify(&made, &Runtime::open(None).unwrap(), &Threads::all(), &|_| ()).unwrap();
    assert!(verdict.passed(), "{verdict:?}");
}

#[test]
fn classes_are_measured_beside_the_statistics_of_batch_norm() {
    let bundle = Bundle::load(&shipped("resnet18-w16-moco-v2")).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("by-class");
    let mut calibrator =
        Calibrator::new(&bundle, &[], Detail { patches: Some(2), ..BY_CLASS }).unwrap();
    let parts: Vec<Array4<f32>> = (0..10).map(|class| images(2, class)).collect();
    parts.iter().enumerate().for_each(|(class, part)| calibrator.add(class, part).unwrap());
    calibrator.write(&out, "noise").unwrap();

    let made = Bundle::load(&out).unwrap();
    assert_eq!(made.manifest.statistics.kind, StatisticsKind::BatchNorm);
    assert_eq!(
        made.manifest.files["golden.safetensors"],
        bundle.manifest.files["golden.safetensors"]
    );
    let tap = made.layers[7].tap;
    let replica = made.replica(Device::Cpu).unwrap();
    let run = replica.run(&[to_tensor(parts[3].view()).unwrap()], &[tap], Mode::Eval).unwrap();
    let expected =
        Vec::<f32>::try_from(&run.taps[0].mean_dim(&[0i64, 2, 3][..], false, tch::Kind::Float))
            .unwrap();
    for (own, layer) in bundle.layers.iter().zip(&made.layers) {
        assert_eq!(
            (&own.mean, &own.var, &own.weight, &own.bias),
            (&layer.mean, &layer.var, &layer.weight, &layer.bias)
        );
    }
    let found =
        &made.layers[7].per_class.as_ref().unwrap().mean[3 * expected.len()..4 * expected.len()];
    assert!(
        found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5),
        "{found:?} {expected:?}"
    );
    // The upper right quarter of class 3, channel 5, and the same of all images.
    let patches = made.layers[7].patches.as_ref().unwrap();
    let quarter = |x: &Tensor| {
        let side = x.size()[3] / 2;
        let quarter = x.select(1, 5).narrow(1, 0, side).narrow(2, side, side);
        [
            f64::try_from(quarter.mean(tch::Kind::Double)).unwrap(),
            f64::try_from(quarter.var(false)).unwrap(),
        ]
    };
    let channels = made.layers[7].mean.len();
    let close =
        |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 1e-4 * b.abs().max(1.0), "{a} {b}");
    let of_class = patches.per_class.as_ref().unwrap();
    let expected = quarter(&run.taps[0]);
    close(of_class.mean[(3 * channels + 5) * 4 + 1], expected[0]);
    close(of_class.var[(3 * channels + 5) * 4 + 1], expected[1]);
    let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
    let all = ndarray::concatenate(ndarray::Axis(0), &views).unwrap();
    let run = replica.run(&[to_tensor(all.view()).unwrap()], &[tap], Mode::Eval).unwrap();
    let expected = quarter(&run.taps[0]);
    close(patches.mean[5 * 4 + 1], expected[0]);
    close(patches.var[5 * 4 + 1], expected[1]);
    assert!(
        verify(&made, &Runtime::open(None).unwrap(), &Threads::all(), &|_| ()).unwrap().passed()
    );
}

#[test]
fn calibration_refuses_what_makes_no_sense() {
    let bundle = Bundle::load(&shipped("convnet3-w128-in")).unwrap();
    let message = |result: Result<(), scdd::teacher::NetworkError>| {
        result.expect_err("must be refused").to_string()
    };
    let other = Bundle::load(&shipped("resnet18-w16-supervised")).unwrap();
    let refused = Calibrator::new(&other, &[], Detail::default()).map(|_| ());
    assert!(message(refused).contains("there is nothing to calibrate but those of its classes"));
    let refused = Calibrator::new(&other, &["conv1".into()], BY_CLASS).map(|_| ());
    assert!(message(refused).contains("no --node"));
    let unknown = Calibrator::new(&bundle, &["nowhere".into()], Detail::default()).map(|_| ());
    assert!(message(unknown).contains("its graph has no node `nowhere`"));
    let name = bundle.graph.convolutions().next().unwrap().name.clone();
    let twice =
        Calibrator::new(&bundle, &[name.clone(), name.clone()], Detail::default()).map(|_| ());
    assert!(message(twice).contains(&format!("node `{name}` is given twice")));
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("new");
    let calibrator = Calibrator::new(&bundle, &[], Detail::default()).unwrap();
    assert!(message(calibrator.write(&out, "noise")).contains("no images were measured"));
    let mut calibrator = Calibrator::new(&bundle, &[], BY_CLASS).unwrap();
    calibrator.add(3, &images(2, 0)).unwrap();
    assert!(
        message(calibrator.write(&out, "noise"))
            .contains("no image of class `T-shirt/top` was measured")
    );
    let calibrator = Calibrator::new(&bundle, &[], Detail::default()).unwrap();
    assert!(message(calibrator.write(parent.path(), "noise")).contains("exists already"));
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}
