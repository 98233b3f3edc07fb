use super::*;
use crate::keeper::Interrupting;
use scdd_experiment::config::{Decay, Optimizer, RelabelConfig};

#[test]
fn the_smoothed_cosine_ends_where_its_smoothing_says() {
    let cosine = |floor, smoothing| Schedule::Cosine { floor, smoothing, until: 1.0 };
    let end = |smoothing| scheduled(&cosine(0.0, smoothing), 1000, 1000);
    assert!(end(1.0).abs() < 1e-12);
    assert!((end(2.0) - 0.5).abs() < 1e-12);
    assert!((end(3.0) - 0.75).abs() < 1e-12);
    assert_eq!(scheduled(&cosine(0.1, 1.0), 0, 10), 1.0);
}

/// `torch.optim.lr_scheduler.MultiStepLR(milestones=[800, 900, 950], gamma=0.5)` over 1000
/// epochs.
#[test]
fn milestones_are_shares_of_the_epochs() {
    let schedule = Schedule::Multistep { milestones: vec![0.8, 0.9, 0.95], factor: 0.5 };
    let cases = [
        (0, 1.0),
        (799, 1.0),
        (800, 0.5),
        (899, 0.5),
        (900, 0.25),
        (949, 0.25),
        (950, 0.125),
        (999, 0.125),
    ];
    for (epoch, expected) in cases {
        assert_eq!(scheduled(&schedule, epoch, 1000), expected, "epoch {epoch}");
    }
}

/// The learning rates of `goldens/make_losses.py`.
#[test]
fn published_schedules_equal_their_code() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/goldens/losses.json")).unwrap();
    let cases = [
        (
            "warmup",
            "schedule: {type: cosine, floor: 0, smoothing: 1}\nwarmup: {epochs: 5, from: 0.01}",
        ),
        ("linear", "schedule: {type: linear}"),
        ("cos2", "schedule: {type: cosine, floor: 0, smoothing: 2, until: 0.8333333333333334}"),
    ];
    for (name, keys) in cases {
        let text = format!(
            "loss: {{type: ce}}\noptimizer: {{type: adamw, learning_rate: 1, weight_decay: 0}}\n{keys}\nema: 0\nevaluate_every: 1\n"
        );
        let config: ValidateConfig = serde_yaml::from_str(&text).unwrap();
        let expected: Vec<f64> = serde_json::from_value(golden["rates"][name].clone()).unwrap();
        for (epoch, expected) in (0..).zip(&expected) {
            let found = rate_factor(&config, epoch, 30);
            assert!(
                (found - expected).abs() < 1e-9,
                "{name}, epoch {epoch}: {found} instead of {expected}"
            );
        }
    }
}

fn student(name: &str) -> Bundle {
    let folder = crate::in_repository("onnx/fashion-mnist");
    Bundle::load(&folder.join(name)).unwrap()
}

fn views_and_targets() -> (Tensor, Targets) {
    let input = Tensor::arange(8 * 784, (Kind::Float, Device::Cpu)).sin().reshape([8, 1, 28, 28]);
    let teacher = Some(Tensor::arange(80, (Kind::Float, Device::Cpu)).cos().reshape([8, 10]));
    let own = Tensor::from_slice(&[0i64, 1, 2, 3, 4, 5, 6, 7]);
    (input, Targets { teacher, own, partner: None, share: 1.0 })
}

/// The gradient of a batch in parts is the mean of the parts' gradients, each with its own BN
/// statistics.
#[test]
fn parts_of_a_batch_go_through_the_student_by_themselves() {
    let bundle = student("convnet3-w128");
    let (input, targets) = views_and_targets();
    let objective = EpochObjective::Hard { smoothing: 0.0, mixed: false };
    let fresh = || Student::new(&bundle, 3, Device::Cpu, Threads::all()).unwrap();
    let part = |start: i64, length: i64| {
        let targets = targets.part(start, length).unwrap();
        fresh().pass(&input.narrow(0, start, length), targets, objective, None).unwrap()
    };
    let weight = |pass: &BatchPass| -> Vec<f64> {
        let all = pass.gradients.iter().map(|g| g.to_kind(Kind::Double).reshape([-1]));
        Vec::try_from(Tensor::cat(&all.collect::<Vec<_>>(), 0)).unwrap()
    };
    let found = fresh().pass(&input, targets.part(0, 8).unwrap(), objective, Some(6)).unwrap();
    let (first, last, whole) = (part(0, 6), part(6, 2), part(0, 8));
    let (a, b) = (weight(&first), weight(&last));
    let expected: Vec<f64> = a.iter().zip(&b).map(|(a, b)| 0.75 * a + 0.25 * b).collect();
    let apart = |x: &[f64], y: &[f64]| {
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        norm(&mut x.iter().zip(y).map(|(x, y)| x - y)) / norm(&mut y.iter().copied())
    };
    assert!(apart(&weight(&found), &expected) < 1e-5);
    assert!(apart(&weight(&found), &weight(&whole)) > 1e-2, "parts made no difference");
    let loss = |pass: &BatchPass| f64::try_from(pass.loss.detach()).unwrap();
    assert!((loss(&found) - 0.75 * loss(&first) - 0.25 * loss(&last)).abs() < 1e-5);
    assert_eq!(found.last.0.size(), [2, 10]);
}

#[test]
fn images_that_are_read_anew_train_and_test_the_same_student() {
    let bundle = student("convnet3-w128");
    let dir = tempfile::tempdir().unwrap();
    for (index, split) in
        [(0..30, "train"), (30..160, "test")].into_iter().flat_map(|(r, s)| r.map(move |i| (i, s)))
    {
        let class = dir.path().join(split).join(format!("{:02}", index % 10));
        std::fs::create_dir_all(&class).unwrap();
        let pixels: Vec<u8> = (0..784).map(|at| ((at * 7 + index * 31) % 251) as u8).collect();
        let file = scdd_data::png::encode(&pixels, 1, 28, 28).unwrap();
        std::fs::write(class.join(format!("{index}.png")), file).unwrap();
    }
    let source = scdd_data::Source::open(dir.path()).unwrap();
    let views: RelabelConfig = serde_json::from_value(serde_json::json!({
        "epochs": 2, "batch_size": 8, "crop": null, "flip": true, "mix": {"type": "none"}, "teacher_bn": "running",
        "ensemble": [], "dtype": "f16", "top_k": null, "stored_epochs": null, "provider": "cpu", "fallback": null
    }))
    .unwrap();
    let text = "loss: {type: ce}\noptimizer: {type: adamw, learning_rate: 0.01, weight_decay: 0.01}\nschedule: {type: linear}\n\
                    ema: 0.0\nevaluate_every: 1\n";
    let config: ValidateConfig = serde_yaml::from_str(text).unwrap();
    let train = |held: u64| {
        let load = |split| {
            source.load_holding(held, split, scdd_data::Fit::Exact, &mut Vec::new()).unwrap()
        };
        let [images, test] = [scdd_data::Split::Train, scdd_data::Split::Test].map(load);
        assert_eq!(test.images.are_read_anew(), held == 0);
        let views = Views::new(&views, 1, 5, &images, scdd_data::Size { height: 28, width: 28 });
        let data = TrainingData { images: &images, views, labels: TrainingLabels::Classes };
        let mut student = Student::new(&bundle, 3, Device::Cpu, Threads::all()).unwrap();
        let silent = crate::progress::Silent;
        let training = student.train(&data, &test, &config, &mut Forgetful, &silent).unwrap();
        (training, student.checkpoint().unwrap())
    };
    assert!(train(0) == train(u64::MAX));
}

#[test]
fn an_interrupted_training_goes_on_and_ends_in_the_same_bytes() {
    let bundle = student("convnet3-w128");
    let views: RelabelConfig = serde_json::from_value(serde_json::json!({
        "epochs": 4, "batch_size": 4, "crop": null, "flip": true, "mix": {"type": "none"}, "teacher_bn": "running",
        "ensemble": [], "dtype": "f16", "top_k": null, "stored_epochs": null, "provider": "cpu", "fallback": null
    }))
    .unwrap();
    let images = crate::ten_images(&bundle.manifest.classes);
    for (optimizer, ema) in [
        ("{type: adamw, learning_rate: 0.01, weight_decay: 0.01}", 0.9),
        ("{type: sgd, learning_rate: 0.01, momentum: 0.9, weight_decay: 0.01}", 0.0),
    ] {
        let text = format!(
            "loss: {{type: ce}}\noptimizer: {optimizer}\nschedule: {{type: linear}}\nema: {ema}\nevaluate_every: 2\n"
        );
        let config: ValidateConfig = serde_yaml::from_str(&text).unwrap();
        let train = |keeper: &mut dyn Keeper| {
            let mut student = Student::new(&bundle, 3, Device::Cpu, Threads::all()).unwrap();
            let views =
                Views::new(&views, 1, 5, &images, scdd_data::Size { height: 28, width: 28 });
            let data = TrainingData { images: &images, views, labels: TrainingLabels::Classes };
            let training =
                student.train(&data, &images, &config, keeper, &crate::progress::Silent)?;
            Ok::<_, ValidateError>((training, student.checkpoint().unwrap()))
        };
        let whole = train(&mut Forgetful).unwrap();
        for epochs in 1..=3 {
            let mut keeper = Interrupting { kept: None, left: epochs };
            assert!(train(&mut keeper).unwrap_err().to_string().contains("killed"));
            keeper.left = u32::MAX;
            assert_eq!(train(&mut keeper).unwrap(), whole, "after epoch {epochs}");
        }
        // A damaged state is ignored, and the training starts again.
        assert_eq!(
            train(&mut Interrupting { kept: Some(vec![1, 2]), left: u32::MAX }).unwrap(),
            whole
        );
    }
}

#[test]
fn an_epoch_sends_views_and_targets_and_reads_one_loss() {
    // It has no plan, as on a GPU.
    let bundle = student("convnet3-w128-in");
    let images = crate::ten_images(&bundle.manifest.classes);
    let views: RelabelConfig = serde_json::from_value(serde_json::json!({
        "epochs": 1, "batch_size": 4, "crop": null, "flip": true, "mix": {"type": "none"}, "teacher_bn": "running",
        "ensemble": [], "dtype": "f16", "top_k": null, "stored_epochs": null, "provider": "cpu", "fallback": null
    }))
    .unwrap();
    let text = "loss: {type: ce}\noptimizer: {type: adamw, learning_rate: 0.01, weight_decay: 0.01}\nschedule: {type: linear}\n\
                    ema: 0.0\nevaluate_every: 1\n";
    let config: ValidateConfig = serde_yaml::from_str(text).unwrap();
    let views = Views::new(&views, 1, 5, &images, scdd_data::Size { height: 28, width: 28 });
    let data = TrainingData { images: &images, views, labels: TrainingLabels::Classes };
    let mut student = Student::new(&bundle, 3, Device::Cpu, Threads::all()).unwrap();
    let tensors = student.parameters.iter().map(|(_, t)| t.shallow_clone()).collect();
    let mut optimizer = StudentOptimizer::new(tensors, config.optimizer, config.decay).unwrap();
    let mut objectives = Objectives::new(&config, 1);
    let before = transfer::count();
    student.train_epoch(&data, 0, &config, &mut objectives, &mut optimizer, None).unwrap();
    // Three batches.
    assert_eq!(transfer::count() - before, 3 * 2 + 1);
}

#[test]
fn a_test_sends_images_and_labels_and_reads_once() {
    // It has no plan, as on a GPU.
    let bundle = student("convnet3-w128-in");
    let images = crate::ten_images(&bundle.manifest.classes);
    let many: Vec<usize> = (0..2 * TEST_BATCH + 1).map(|index| index % images.len()).collect();
    let many = Dataset {
        images: images.pixels(&many).unwrap().into_owned().into(),
        labels: many.iter().map(|&index| images.labels[index]).collect(),
        ..images
    };
    let mut student = Student::new(&bundle, 3, Device::Cpu, Threads::all()).unwrap();
    let before = transfer::count();
    let found = student.test(&many).unwrap();
    assert_eq!(transfer::count() - before, 3 * 2 + 1);
    assert!(found.top1 <= found.top5 && found.top5 < many.len(), "{found:?}");
    let alone = (0..many.len()).map(|index| {
        let one = Dataset {
            images: many.pixels(&[index]).unwrap().into_owned().into(),
            labels: vec![many.labels[index]],
            ..many.clone()
        };
        let found = student.test(&one).unwrap();
        [found.top1, found.top5]
    });
    let sums = alone.fold([0, 0], |sum, one| [sum[0] + one[0], sum[1] + one[1]]);
    assert_eq!(sums, [found.top1, found.top5]);
}

/// As on a GPU, whose students have no plan.
#[test]
fn joined_parameters_train_as_each_does() {
    let bundle = student("convnet3-w128-in");
    let (input, targets) = views_and_targets();
    let objective = EpochObjective::Hard { smoothing: 0.0, mixed: false };
    let trained = |is_joined: bool| {
        let mut student = Student::new(&bundle, 3, Device::Cpu, Threads::all()).unwrap();
        if is_joined {
            student.join_parameters().unwrap();
        }
        let config = Optimizer::Adamw { learning_rate: 1e-3, weight_decay: 0.01 };
        let tensors = match &student.flat {
            Some(flat) => flat.buffers(),
            None => student.parameters.iter().map(|(_, t)| t.shallow_clone()).collect(),
        };
        let mut optimizer = StudentOptimizer::new(tensors, config, Decay::Weights).unwrap();
        let losses = (0..4).map(|_| {
            let targets = targets.part(0, 8).unwrap();
            let pass = student.pass(&input, targets, objective, None).unwrap();
            let gradients = match &student.flat {
                Some(flat) => flat.gradients(&pass.gradients).unwrap(),
                None => pass.gradients,
            };
            optimizer.step(&gradients).unwrap();
            f64::try_from(pass.loss.detach()).unwrap()
        });
        losses.collect::<Vec<_>>()
    };
    let (each, joined) = (trained(false), trained(true));
    assert!(each[3] < 0.9 * each[0], "{each:?}");
    assert!(each.iter().zip(&joined).all(|(a, b)| (a - b).abs() < 1e-4 * a), "{each:?} {joined:?}");
}

/// As on a GPU with `precision: bf16`.
#[test]
fn convolutions_in_bfloat16_change_a_step_by_their_rounding() {
    let bundle = student("convnet3-w128-in");
    let (input, targets) = views_and_targets();
    let gradients = |mut student: Student| {
        let targets = targets.part(0, 8).unwrap();
        let objective = EpochObjective::Hard { smoothing: 0.0, mixed: false };
        student.pass(&input, targets, objective, None).unwrap().gradients
    };
    let fresh = || Student::new(&bundle, 3, Device::Cpu, Threads::all()).unwrap();
    let full = gradients(fresh());
    let narrow = gradients(fresh().with_convolutions_in(Kind::BFloat16));
    for (full, narrow) in full.iter().zip(&narrow) {
        assert_eq!(narrow.kind(), Kind::Float);
        let apart = f64::try_from((full - narrow).norm() / full.norm()).unwrap();
        // Rounding moves activations across zero; biases before a normalisation have no
        // gradient but rounding.
        assert!((1e-5..0.25).contains(&apart) || full.dim() == 1, "{:?}: {apart:e}", full.size());
    }
}

#[test]
fn fresh_students_have_fresh_statistics() {
    let bundle = student("resnet18-w16");
    let student = Student::new(&bundle, 0, Device::Cpu, Threads::all()).unwrap();
    let norms = batch_norms(&student.replica);
    assert!(norms.len() > 15);
    for [mean, variance] in norms {
        let range = |buffer: Option<(String, Tensor)>| {
            let (_, buffer) = buffer.unwrap();
            [buffer.min(), buffer.max()].map(|t| f64::try_from(t).unwrap())
        };
        assert_eq!((range(mean), range(variance)), ([0.0, 0.0], [1.0, 1.0]));
    }
}

#[test]
fn the_last_epoch_and_the_best_are_told_apart() {
    let epoch = |epoch, accuracy| Epoch { epoch, loss: 1.0, accuracy, top5: accuracy };
    let found = summarise(vec![
        epoch(1, Some(0.3)),
        epoch(2, None),
        epoch(3, Some(0.6)),
        epoch(4, Some(0.5)),
    ]);
    assert_eq!((found.last, found.best, found.best_epoch), (0.5, 0.6, 3));
    assert_eq!(found.last_top5(), Some(0.5));
}

/// `(-logits).argsort().argsort()` of each row's label, with ties and NaN against it.
#[test]
fn a_label_is_as_far_down_as_classes_are_not_below_it() {
    let logits = Tensor::from_slice2(&[
        [0.1f32, 0.9, 0.3, 0.2, 0.5, 0.4],
        [0.1, 0.9, 0.3, 0.2, 0.5, 0.4],
        [0.5, 0.5, 0.5, 0.0, 0.0, 0.0],
        [f32::NAN, 0.5, 0.0, 0.0, 0.0, 0.0],
    ]);
    let found = ranks(&logits, &Tensor::from_slice(&[0i64, 1, 2, 1])).unwrap();
    assert_eq!(Vec::<i64>::try_from(found).unwrap(), [5, 0, 2, 1]);
}

#[test]
fn draws_are_repeatable_and_bounded() {
    let uniform = draw(Distribution::Uniform { bound: 0.1 }, 1000, 7, 3).unwrap();
    assert_eq!(uniform, draw(Distribution::Uniform { bound: 0.1 }, 1000, 7, 3).unwrap());
    assert!(uniform.iter().all(|v| v.abs() <= 0.1) && uniform.iter().any(|v| v.abs() > 0.09));
    let normal = draw(Distribution::Normal { std: 2.0 }, 4000, 7, 3).unwrap();
    let std = (normal.iter().map(|v| v * v).sum::<f32>() / 4000.0).sqrt();
    assert!((std - 2.0).abs() < 0.1);
    assert!(draw(Distribution::Normal { std: f32::NAN }, 1, 0, 0).is_err());
    assert!(draw(Distribution::Uniform { bound: -1.0 }, 1, 0, 0).is_err());
}
