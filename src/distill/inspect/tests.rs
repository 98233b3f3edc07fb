use super::*;
use crate::teacher::{Golden, InputGradient, Network};

fn bundle(path: &str) -> Bundle {
    Bundle::load(&crate::in_repository(path)).unwrap()
}

fn teachers() -> Vec<Inspection> {
    let bundles =
        ["onnx/fashion-mnist/resnet18-w16-supervised", "tests/goldens/features-only"].map(bundle);
    bundles.iter().map(|b| inspect(b, None, 4, 0).unwrap()).collect()
}

#[test]
fn scale_free_figures_do_not_see_a_layers_scale() {
    let (a, b) = ([1.0f32, -2.0, 4.0, 0.5], [3.0f32, 1.0, -1.0]);
    let louder = b.map(|v| 100.0 * v);
    let (plain, loud) = (ValueSpread::of(&[&a, &b]), ValueSpread::of(&[&a, &louder]));
    let same = |x: Option<f64>, y: Option<f64>| (x.unwrap() - y.unwrap()).abs() < 1e-9;
    assert!(same(plain.scale_free.entropy, loud.scale_free.entropy));
    assert!(same(plain.scale_free.effective_rank, loud.scale_free.effective_rank));
    assert!(loud.raw.gaussian_entropy > plain.raw.gaussian_entropy);
    assert!(loud.raw.effective_rank < plain.raw.effective_rank);

    let one = ValueSpread::of(&[&a]);
    assert!(same(one.raw.entropy, one.scale_free.entropy.map(|h| h + one.rms.ln())));
    let silent = ValueSpread::of(&[&[0.0f32, 0.0]]);
    assert_eq!(
        (silent.rms, silent.scale_free.quantiles, silent.raw.entropy),
        (0.0, [0.0; 7], None)
    );
}

fn terms_at(bundle: &Bundle, images: &ndarray::Array4<f32>, targets: &[u32]) -> Terms {
    let objective = bundle.objective(1.0, FIRST_MULTIPLIER, Device::Cpu);
    Balance::new(bundle, Device::Cpu).unwrap().at(images, targets, &objective).unwrap()
}

/// The norm of a probe's whole gradient, as computed by PyTorch.
fn norm(golden: &Golden) -> f64 {
    match &golden.input_grad {
        InputGradient::Whole(gradient) => {
            gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt()
        }
        InputGradient::Along { .. } => panic!("the probe has its gradient in some directions only"),
    }
}

/// Compares with PyTorch: the golden probe of a features-only bundle has the gradient of the BN
/// loss alone, times its `r_bn`.
#[test]
fn losses_and_gradients_are_pytorchs() {
    let bundle = bundle("tests/goldens/features-only");
    let golden = &bundle.golden;
    let terms = terms_at(&bundle, &golden.input, &[0; 4]);
    let (bn, whole) = (terms.bn.unwrap(), norm(golden));
    let r_bn = bundle.manifest.golden.r_bn;
    assert!((bn.loss - golden.bn_loss).abs() < 1e-4 * golden.bn_loss, "{bn:?}");
    assert!((bn.gradient_norm * r_bn - whole).abs() < 1e-3 * whole, "{bn:?} {whole}");
    assert_eq!(terms.ce, None);

    let teacher = self::bundle("onnx/fashion-mnist/resnet18-w16-supervised");
    let golden = &teacher.golden;
    let targets: Vec<u32> = golden.targets.iter().flatten().map(|&t| t as u32).collect();
    let terms = terms_at(&teacher, &golden.input, &targets);
    assert!((terms.ce.unwrap().loss - golden.ce).abs() < 1e-4 * golden.ce);
    assert!((terms.bn.unwrap().loss - golden.bn_loss).abs() < 1e-4 * golden.bn_loss);
    // ‖a + b‖ lies between |‖a‖ − ‖b‖| and ‖a‖ + ‖b‖.
    let (ce, bn) = (terms.ce.unwrap().gradient_norm, 0.01 * terms.bn.unwrap().gradient_norm);
    let sum = norm(golden);
    assert!((ce - bn).abs() < 1.001 * sum && sum < 1.001 * (ce + bn), "{ce} {bn} {sum}");
}

#[test]
fn teachers_stand_side_by_side_in_every_format() {
    let teachers = teachers();
    let text = table(&teachers);
    assert_eq!(text.matches("features-only").count(), 3, "{text}");
    assert!(text.contains("running variances of all layers") && text.contains("moco_v3"), "{text}");

    let root = tempfile::tempdir().unwrap();
    write(&teachers, root.path()).unwrap();
    let read = |file: &str| std::fs::read_to_string(root.path().join(file)).unwrap();
    let csv = read("inspect.csv");
    assert_eq!(csv.lines().count(), 1 + 2 * (20 + 12));
    assert!(
        csv.starts_with("teacher,scheme,layer,key,channels,statistic,rms,raw_q00,raw_q05,"),
        "{csv}"
    );
    let columns = csv.lines().next().unwrap().split(',').count();
    assert!(csv.lines().all(|line| line.split(',').count() == columns));
    let json: serde_json::Value = serde_json::from_str(&read("inspect.json")).unwrap();
    assert_eq!(json["teachers"][1]["gradients"][0]["ce"], serde_json::Value::Null);
    assert_eq!(json["teachers"][0]["layers"].as_array().unwrap().len(), 20);
    let page = read("inspect.html");
    assert_eq!(page.matches("<svg viewBox").count(), 12);
    assert!(!page.contains("NaN") && !page.contains("inf"), "a figure is no number");
    write(&teachers, root.path()).unwrap();
    assert_eq!(page, read("inspect.html"));
}

#[test]
fn a_network_without_statistics_is_explained() {
    let error = inspect(&bundle("onnx/fashion-mnist/convnet3-w128-in"), None, 2, 0)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(
            "`convnet3-w128-in` has no statistics to inspect: its graph has no BatchNorm"
        ),
        "{error}"
    );
}
