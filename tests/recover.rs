//! Synthesis against an independent PyTorch implementation in double precision
//! (`goldens/make_recover.py`): same start, same shifts, ten steps, with every kind of kernels.

use std::path::Path;

use ndarray::Array4;
use safetensors::SafeTensors;
use scdd::config::{BnDistance, BnWeight, Packing, RecoverConfig, Start};
use scdd::data::{Dataset, Resample, Shift, Size, View};
use scdd::keeper::Forgetful;
use scdd::kernels::Isa;
use scdd::recover::{self, Batch, Item, Point, Recover};
use scdd::synthesis::{Momentum, Objective, PlanOptions, SynthesisPlan};
use scdd::teacher::{Bundle, Network, Runtime};
use scdd::threads::Threads;
use tch::{Device, Kind, Tensor};

fn config(tv: f64, l2: f64) -> RecoverConfig {
    RecoverConfig {
        iterations: 10,
        batch_size: 4,
        packing: Packing::Even,
        learning_rate: 0.02,
        betas: [0.5, 0.9],
        r_bn: BnWeight::Fixed(0.01),
        r_var: 1.0,
        first_bn_multiplier: 10.0,
        distance: BnDistance::Norm,
        class_share: 0.0,
        r_patch: 0.0,
        statistics_momentum: 0.0,
        weight_adjustment: None,
        tv,
        l2,
        jitter: 4,
        crop: None,
        flip: false,
        crop_curriculum: 0.0,
        start: Start::Noise { std: 1.0 },
        formation: 1,
        residual: None,
        ema: 0.0,
        rounds: 1,
        subset_of: None,
        committee: None,
        compat: Vec::new(),
        classes: None,
        verifier: vec![],
        snapshots: 0,
    }
}

fn bytes<'a>(goldens: &'a SafeTensors, name: &str) -> &'a [u8] {
    goldens.tensor(name).unwrap().data()
}

fn floats(goldens: &SafeTensors, name: &str) -> Vec<f32> {
    bytes(goldens, name).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The goldens and the teacher that made them.
fn fixture(check: impl Fn(&SafeTensors, &Bundle)) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read(root.join("tests/goldens/recover.safetensors")).unwrap();
    let goldens = SafeTensors::deserialize(&file).unwrap();
    check(
        &goldens,
        &Bundle::load(&root.join("onnx/fashion-mnist/resnet18-w16-supervised")).unwrap(),
    );
}

/// Every instruction set of this machine, and libtorch alone.
fn every_kernel() -> impl Iterator<Item = PlanOptions> {
    let kernels = Isa::available().into_iter().map(Some).chain([None]);
    kernels.map(|kernels| PlanOptions { kernels, ..PlanOptions::default() })
}

fn check(case: &str, config: &RecoverConfig) {
    fixture(|goldens, bundle| {
        every_kernel().for_each(|options| {
            follow(case, config, goldens, &Recover::new(bundle, config, options).unwrap())
        });
    });
}

fn follow(case: &str, config: &RecoverConfig, goldens: &SafeTensors, recover: &Recover) {
    let size = Size { height: 28, width: 28 };
    let start = Array4::from_shape_vec((4, 1, 28, 28), floats(goldens, "start")).unwrap();
    let shifts: Vec<i16> = bytes(goldens, "shifts")
        .as_chunks()
        .0
        .iter()
        .map(|b| i32::from_le_bytes(*b) as i16)
        .collect();
    let mut views = |step: u32| {
        let of_step = &shifts[step as usize * 8..][..8];
        of_step
            .chunks(2)
            .map(|s| {
                Ok(Resample::new(&View::full(size)?, size, size)?
                    .roll_output(Shift { dy: s[0], dx: s[1] }))
            })
            .collect()
    };
    let mut losses = Vec::new();
    let images = recover
        .optimise(start, &[0, 1, 2, 3], &mut views, &mut |point: Point| losses.push(point.loss))
        .unwrap();

    assert_eq!(losses.len(), config.iterations as usize);
    for (step, (found, expected)) in
        losses.iter().zip(floats(goldens, &format!("{case}.losses"))).enumerate()
    {
        let error = (found / f64::from(expected) - 1.0).abs();
        assert!(error < 1e-4, "{case}, step {step}: loss {found} against {expected}");
    }
    let expected = floats(goldens, &format!("{case}.images"));
    let off = images.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > 4e-4).count();
    // Adam divides by the gradient's size: for a gradient near zero, rounding decides the step's
    // direction.
    assert!(off * 200 < expected.len(), "{case}: {off} of {} pixels differ", expected.len());
}

#[test]
fn the_loss_alone_follows_pytorch() {
    check("plain", &config(0.0, 0.0));
}

#[test]
fn with_priors_it_follows_pytorch() {
    check("priors", &config(1e-3, 1e-2));
}

#[test]
fn losses_and_gradients_are_those_of_double_precision() {
    fixture(|goldens, bundle| {
        let objective = bundle.objective(0.01, 10.0, Device::Cpu);
        let targets = Tensor::arange(4, (Kind::Int64, Device::Cpu));
        let tensor =
            |name: &str| Tensor::from_slice(&floats(goldens, name)).reshape([10, 4, 1, 28, 28]);
        let (points, gradients, losses) =
            (tensor("points"), tensor("gradients"), floats(goldens, "points.losses"));
        for options in every_kernel() {
            let mut plan =
                SynthesisPlan::compile(&bundle.graph, &objective, [4, 1, 28, 28], options.clone())
                    .unwrap();
            for (step, expected) in losses.iter().enumerate() {
                let found = plan.evaluate(&points.get(step as i64), &targets).unwrap();
                let loss = (found.loss / f64::from(*expected) - 1.0).abs();
                let gradient = gradients.get(step as i64);
                let error =
                    f64::try_from((found.gradient - &gradient).norm() / gradient.norm()).unwrap();
                assert!(loss < 2e-6, "{options:?}, step {step}: the loss is off by {loss:.1e}");
                assert!(
                    error < 1e-5,
                    "{options:?}, step {step}: the gradient is off by {error:.1e}"
                );
            }
        }
    });
}

/// Each term by itself, on both executors; averaged statistics are as if nobody had asked.
#[test]
fn the_terms_gradients_add_up_to_that_of_double_precision() {
    fixture(|goldens, bundle| {
        let objective = |decay| {
            let momentum = Momentum::new(decay);
            Objective { momentum, ..bundle.objective(0.01, 10.0, Device::Cpu) }
        };
        let targets = Tensor::arange(4, (Kind::Int64, Device::Cpu));
        let tensor =
            |name: &str| Tensor::from_slice(&floats(goldens, name)).reshape([10, 4, 1, 28, 28]);
        let (input, expected) = (tensor("points").get(3), tensor("gradients").get(3));
        let replica = bundle.replica(Device::Cpu).unwrap();
        let close = |found: &Tensor, expected: &Tensor| {
            let error = f64::try_from((found - expected).norm() / expected.norm()).unwrap();
            assert!(error < 1e-5, "the gradient is off by {error:.1e}");
        };
        let reference = replica.term_gradients(&input, &targets, &objective(0.0)).unwrap();
        close(&(&reference.ce + &reference.bn), &expected);
        let ce = replica.evaluate(&input, &targets, &Objective::cross_entropy()).unwrap();
        for options in every_kernel() {
            let compile = |decay| {
                let shape = [4, 1, 28, 28];
                let (graph, objective) = (&bundle.graph, objective(decay));
                SynthesisPlan::compile(graph, &objective, shape, options.clone()).unwrap()
            };
            let found = compile(0.0).term_gradients(&input, &targets).unwrap();
            close(&found.ce, &ce.gradient);
            close(&found.bn, &reference.bn);
            let (mut asked, mut calm) = (compile(0.9), compile(0.9));
            for _ in 0..2 {
                asked.term_gradients(&input, &targets).unwrap();
                let [asked, calm] =
                    [&mut asked, &mut calm].map(|plan| plan.evaluate(&input, &targets).unwrap());
                assert!(asked.loss == calm.loss && asked.gradient == calm.gradient);
            }
        }
    });
}

/// The plan of one batch is reused for the next ones, also after a batch of another size, and keeps
/// no data of earlier batches.
#[test]
fn batches_know_nothing_of_each_other() {
    fixture(|_, bundle| {
        let config = RecoverConfig { iterations: 2, ..config(0.0, 0.0) };
        let batch = |range: std::ops::Range<u32>| {
            let items = range.map(|class| Item { class, number: 0 }).collect();
            Batch { items, ipc: 1, first: 0 }
        };
        let recover = Recover::new(bundle, &config, PlanOptions::default()).unwrap();
        let run = |recover: &Recover, batch: &Batch| {
            recover.run(batch, 3, &mut Forgetful, &mut |_: Point| {}).unwrap()
        };
        let alone = run(&recover, &batch(4..6));
        run(&recover, &batch(0..3));
        assert_eq!(run(&recover, &batch(4..6)), alone);
        run(&recover, &batch(0..2));
        assert_eq!(run(&recover, &batch(4..6)), alone);
    });
}

/// The small images of mosaics count as do the same images each alone.
#[test]
fn a_verifier_sees_every_small_image_of_a_mosaic() {
    let set = |side: usize, pixels: Vec<u8>, labels: Vec<u32>| Dataset {
        name: "set".into(),
        images: pixels.into(),
        labels,
        channels: 1,
        height: side,
        width: side,
        classes: (0..10).map(|class| class.to_string()).collect(),
    };
    // Blots on a dark ground: the network puts them into different classes.
    let pixel = |image: usize, y: usize, x: usize| {
        let (dy, dx) = ((y % 14).abs_diff(3 + image % 8), (x % 14).abs_diff(3 + image / 8 % 8));
        let part = y / 14 * 2 + x / 14;
        if dy * (1 + part) + dx * (1 + image % 3) < 9 { 255 - 40 * part as u8 } else { 0 }
    };
    let mosaic: Vec<u8> = (0..40)
        .flat_map(|image| (0..28 * 28).map(move |at| pixel(image, at / 28, at % 28)))
        .collect();
    let mut alone = Vec::new();
    for image in 0..40 {
        for (top, left) in [(0, 0), (0, 14), (14, 0), (14, 14)] {
            alone.extend((0..14 * 14).map(|at| pixel(image, top + at / 14, left + at % 14)));
        }
    }
    let labels: Vec<u32> = (0..40).map(|image| image % 10).collect();
    let of_alone: Vec<_> = labels.iter().flat_map(|label| [*label; 4]).collect();
    fixture(|_, bundle| {
        let (runtime, threads) = (Runtime::open(None).unwrap(), Threads::all());
        let found = |set: &Dataset, formation| {
            let found = recover::accuracy(bundle, &runtime, set, formation, &threads).unwrap();
            (found.images, found.top1, found.top5)
        };
        let whole = found(&set(28, mosaic.clone(), labels.clone()), 2);
        assert_eq!(whole, found(&set(14, alone.clone(), of_alone.clone()), 1));
        // More than none and fewer than all are recognised, so the numbers could differ.
        assert!((1..160).contains(&whole.1), "{whole:?}");
        assert_eq!(found(&set(28, mosaic.clone(), labels.clone()), 1).0, 40);
    });
}
