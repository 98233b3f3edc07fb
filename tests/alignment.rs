//! All ways to align statistics: against PyTorch (`goldens/make_alignment.py`), against central
//! differences, and the plan against the replica.

use std::path::Path;

use safetensors::SafeTensors;
use scdd::config::{BnDistance, Experiment, RecoverConfig};
use scdd::recover::objective;
use scdd::synthesis::{Objective, PlanOptions, SynthesisPlan};
use scdd::teacher::{Bundle, ClassStatistics, Network, PatchStatistics};
use tch::{Device, Kind, Tensor};

/// Name, distance, r_var, class_share, r_patch.
const CASES: [(&str, BnDistance, f64, f64, f64); 10] = [
    ("norm", BnDistance::Norm, 1.0, 0.0, 0.0),
    ("r_var", BnDistance::Norm, 11.0, 0.0, 0.0),
    ("squared", BnDistance::Squared, 3.0, 0.0, 0.0),
    ("normalised", BnDistance::Normalised, 2.0, 0.0, 0.0),
    ("class", BnDistance::Norm, 1.0, 1.0, 0.0),
    ("mixed", BnDistance::Norm, 1.0, 0.25, 0.0),
    ("class_squared", BnDistance::Squared, 1.0, 0.25, 0.0),
    ("class_normalised", BnDistance::Normalised, 1.0, 1.0, 0.0),
    ("patches", BnDistance::Norm, 1.0, 0.0, 0.5),
    ("class_patches", BnDistance::Normalised, 2.0, 0.25, 1.0),
];
const CLASSES: [u32; 4] = [2, 7, 2, 0];

/// Invented statistics per class: every layer's mean and variance, varied by class.
fn of_classes(values: &[(f64, f64)]) -> ClassStatistics {
    let per_class = |f: &dyn Fn(f64, f64, f64) -> f64| {
        (0..10)
            .flat_map(|k| values.iter().map(move |&(m, v)| f(f64::from(k), m, v) as f32))
            .collect()
    };
    ClassStatistics {
        mean: per_class(&|k, m, v| m + (k - 4.5) / 10.0 * v.sqrt()),
        var: per_class(&|k, _, v| v * (0.5 + k / 10.0)),
    }
}

/// The shipped teacher with the goldens' invented statistics per class and patch.
fn teacher() -> Bundle {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/fashion-mnist/resnet18-w16-supervised");
    let mut bundle = Bundle::load(&root).unwrap();
    for layer in &mut bundle.layers {
        let values: Vec<(f64, f64)> = layer
            .mean
            .iter()
            .zip(&layer.var)
            .map(|(&m, &v)| (f64::from(m), f64::from(v)))
            .collect();
        let of_patches: Vec<(f64, f64)> = values
            .iter()
            .flat_map(|&(m, v)| {
                [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)].map(|(row, column)| {
                    (m + (column - row) / 5.0 * v.sqrt(), v * (1.0 + row / 2.0))
                })
            })
            .collect();
        let (mean, var) = of_patches.iter().map(|&(m, v)| (m as f32, v as f32)).unzip();
        layer.per_class = Some(of_classes(&values));
        layer.patches =
            Some(PatchStatistics { side: 2, mean, var, per_class: Some(of_classes(&of_patches)) });
    }
    bundle
}

fn config(distance: BnDistance, r_var: f64, class_share: f64, r_patch: f64) -> RecoverConfig {
    let text = "name: x\ndata: fashion-mnist\nteachers: t\nstudents: s\nipc: 1\n";
    let recover = Experiment::from_yaml(text, Path::new("e.yaml"), &[]).unwrap().methods[0].clone();
    RecoverConfig { distance, r_var, class_share, r_patch, ..recover }
}

fn floats(goldens: &SafeTensors, name: &str) -> Tensor {
    let view = goldens.tensor(name).unwrap();
    let values: Vec<f32> =
        view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Tensor::from_slice(&values).reshape(view.shape().iter().map(|&d| d as i64).collect::<Vec<_>>())
}

fn apart(a: &Tensor, b: &Tensor) -> f64 {
    f64::try_from((a - b).norm() / b.norm()).unwrap()
}

/// Runs `check` on every case, with its name, its objective, the input and the targets.
fn each(bundle: &Bundle, check: impl Fn(&str, &Objective, &Tensor, &Tensor, &SafeTensors)) {
    let file = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/alignment.safetensors"),
    )
    .unwrap();
    let goldens = SafeTensors::deserialize(&file).unwrap();
    let input = floats(&goldens, "input");
    let targets = Tensor::from_slice(&CLASSES.map(i64::from));
    for (case, distance, r_var, share, r_patch) in CASES {
        let config = config(distance, r_var, share, r_patch);
        let objective = objective(bundle, &config, 0.01, &CLASSES, Device::Cpu).unwrap();
        check(case, &objective, &input, &targets, &goldens);
    }
}

#[test]
fn losses_and_gradients_equal_pytorchs() {
    let bundle = teacher();
    let replica = bundle.replica(Device::Cpu).unwrap();
    each(&bundle, |case, objective, input, targets, goldens| {
        let found = replica.evaluate(input, targets, objective).unwrap();
        let expected = f64::try_from(floats(goldens, &format!("{case}.loss"))).unwrap();
        assert!(
            (found.loss - expected).abs() < 1e-5 * expected,
            "{case}: {} against {expected}",
            found.loss
        );
        let error = apart(&found.gradient, &floats(goldens, &format!("{case}.gradient")));
        assert!(error < 1e-4, "{case}: gradient off by {error:e}");
    });
}

#[test]
fn gradients_equal_central_differences() {
    let bundle = teacher();
    let replica = bundle.replica(Device::Cpu).unwrap().to_kind(Kind::Double).unwrap();
    tch::manual_seed(3);
    each(&bundle, |case, objective, input, targets, _| {
        let input = input.to_kind(Kind::Double);
        let loss = |x: &Tensor| replica.evaluate(x, targets, objective).unwrap();
        let gradient = loss(&input).gradient;
        // The direction has a component along the gradient.
        let unit = |t: Tensor| &t / t.norm();
        let direction = unit(unit(input.randn_like()) + unit(gradient.shallow_clone()));
        let step = 1e-5;
        let (up, down) = (loss(&(&input + &direction * step)), loss(&(&input - &direction * step)));
        let slope = (up.loss - down.loss) / (2.0 * step);
        let expected = f64::try_from((&gradient * &direction).sum(Kind::Double)).unwrap();
        assert!(
            (slope - expected).abs() < 1e-5 * expected.abs(),
            "{case}: {slope} against {expected}"
        );
    });
}

#[test]
fn the_plan_equals_the_replica() {
    let bundle = teacher();
    let replica = bundle.replica(Device::Cpu).unwrap();
    each(&bundle, |case, objective, input, targets, _| {
        if objective.layers.iter().any(|layer| layer.patches > 1) {
            return; // only the replica has this
        }
        let expected = replica.evaluate(input, targets, objective).unwrap();
        let mut plan = SynthesisPlan::compile(
            &bundle.graph,
            objective,
            [4, 1, 28, 28],
            PlanOptions::default(),
        )
        .unwrap();
        let found = plan.evaluate(input, targets).unwrap();
        assert!(
            (found.loss - expected.loss).abs() < 1e-5 * expected.loss,
            "{case}: {}",
            found.loss
        );
        assert!((found.bn - expected.bn).abs() < 1e-5 * expected.bn, "{case}: {}", found.bn);
        let error = apart(&found.gradient, &expected.gradient);
        assert!(error < 1e-3, "{case}: gradient off by {error:e}");
    });
}
