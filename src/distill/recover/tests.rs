//! Tests of each term of a recovery, with the shipped teachers and few steps.

use std::path::Path;

use super::*;
use crate::keeper::Interrupting;
use scdd_compute::transfer;
use scdd_experiment::config::Experiment;

/// The default settings, overridden by some in YAML.
pub fn config(settings: &str) -> RecoverConfig {
    let text = format!(
        "name: x\ndata: fashion-mnist\nteachers: t\nstudents: s\nipc: 1\nrecover: {settings}\n"
    );
    Experiment::from_yaml(&text, Path::new("e.yaml"), &[]).unwrap().methods[0].clone()
}

pub fn shipped(name: &str) -> Bundle {
    Bundle::load(&crate::in_repository("onnx/fashion-mnist").join(name)).unwrap()
}

/// Four training images of each of ten classes. All images differ, and the pixels identify the
/// class.
pub fn training_images() -> Dataset {
    let image = |i: u32| (0..784).map(move |p| (i % 10 * 20 + i + (p * (i / 10 + 1)) % 16) as u8);
    Dataset {
        name: "made up".into(),
        images: (0..40).flat_map(image).collect::<Vec<u8>>().into(),
        labels: (0..40).map(|i| i % 10).collect(),
        channels: 1,
        height: 28,
        width: 28,
        classes: scdd_data::registry::find("fashion-mnist").unwrap().class_names(),
    }
}

/// The first batch of one image per class, recovered with these settings, and the losses of its
/// steps.
fn recovered(settings: &str, teachers: &[&Bundle]) -> (Array4<f32>, Vec<f64>) {
    let (config, data) = (config(settings), training_images());
    let recover =
        Recover::with_committee(teachers[0], &teachers[1..], &config, &[], PlanOptions::default())
            .unwrap()
            .with_data(&data);
    let mut losses = Vec::new();
    let images = recover
        .run(
            &recover.batches(&(0..10).collect::<Vec<_>>(), 1, 0)[0],
            0,
            &mut Forgetful,
            &mut |point: Point| losses.push(point.loss),
        )
        .unwrap();
    (images, losses)
}

/// The largest absolute difference between pixels.
fn apart(a: &Array4<f32>, b: &Array4<f32>) -> f32 {
    a.iter().zip(b).fold(0.0, |largest, (a, b)| f32::max(largest, (a - b).abs()))
}

#[test]
fn the_learning_rate_falls_from_its_start_to_zero() {
    assert_eq!(cosine(0.4, 0, 100), 0.4);
    assert!((cosine(0.4, 50, 100) - 0.2).abs() < 1e-12);
    assert!(cosine(0.4, 99, 100) > 0.0 && cosine(0.4, 99, 100) < 1e-3);
}

#[test]
fn a_committee_takes_turns_or_votes() {
    let (one, other) = (shipped("resnet18-w16-supervised"), shipped("resnet18-w16-moco-v2"));
    let losses = |settings: &str, teachers: &[&Bundle]| {
        recovered(&format!("{{iterations: 2, jitter: 0, {settings}}}"), teachers).1
    };
    let (first, second) = (losses("", &[&one]), losses("", &[&other]));
    let turns =
        losses("committee: {teachers: [b], turn: round_robin, weights: []}", &[&one, &other]);
    let back =
        losses("committee: {teachers: [b], turn: round_robin, weights: []}", &[&other, &one]);
    assert_eq!((turns[0], back[0]), (first[0], second[0]));
    assert!(turns[1] != first[1] && back[1] != second[1]);
    let close = |found: f64, expected: f64| {
        assert!((found - expected).abs() < 1e-6 * expected, "{found} {expected}")
    };
    let all = losses("committee: {teachers: [b], turn: all, weights: []}", &[&one, &other]);
    close(all[0], (first[0] + second[0]) / 2.0);
    let weighted =
        losses("committee: {teachers: [b], turn: all, weights: [3, 1]}", &[&one, &other]);
    close(weighted[0], 0.75 * first[0] + 0.25 * second[0]);
    let same = losses("committee: {teachers: [b], turn: all, weights: []}", &[&one, &one]);
    same.iter().zip(&first).for_each(|(found, expected)| close(*found, *expected));
}

/// The gradients of the first and last steps of a batch.
fn gradients(settings: &str, teachers: &[&Bundle]) -> Vec<Option<GradientNorms>> {
    let (config, data) = (config(settings), training_images());
    let options = PlanOptions::default();
    let recover =
        Recover::with_committee(teachers[0], &teachers[1..], &config, &[], options).unwrap();
    let recover = recover.with_data(&data);
    let batch = &recover.batches(&[0, 1, 2, 3], 1, 0)[0];
    let mut found = Vec::new();
    let mut step = |point: Point| found.push(point.gradients);
    recover.run(batch, 0, &mut Forgetful, &mut step).unwrap();
    found
}

#[test]
fn the_gradients_of_both_terms_are_noted_at_the_ends_of_a_batch() {
    let (one, other) = (shipped("resnet18-w16-supervised"), shipped("resnet18-w16-moco-v2"));
    let of = |settings: &str| gradients(&format!("{{iterations: 3, {settings}}}"), &[&one]);
    let [Some(first), None, Some(last)] = of("r_bn: 0.01")[..] else { panic!("not at the ends") };
    assert!(first != last && first.ce > 0.0 && first.bn > 0.0);
    // The start does not depend on the weight, and the gradient is in proportion to it.
    let heavier = of("r_bn: 0.1")[0].unwrap();
    assert!((heavier.bn / first.bn - 10.0).abs() < 1e-3, "{heavier:?} {first:?}");
    assert_eq!(heavier.ce, first.ce);
    assert_eq!(of("r_bn: 0"), [None; 3], "without statistics there is no balance");
    let budgets = of(
        "r_bn: 0.01, start: {type: real, mean_of: 1}, residual: {budgets: 3, alpha: 0.5, scales: [1]}",
    );
    assert!(matches!(budgets[..], [Some(_), None, Some(_)]), "{budgets:?}");
    // Two teachers in turn: the second one's share is its own.
    let turns = "{iterations: 2, committee: {teachers: [b], turn: round_robin, weights: []}}";
    let (both, alone) = (gradients(turns, &[&one, &other]), gradients("{iterations: 2}", &[&one]));
    assert!(both[0] == alone[0] && both[1] != alone[1]);
    let all = "{iterations: 1, committee: {teachers: [b], turn: all, weights: []}}";
    let same = gradients(all, &[&one, &one])[0].unwrap();
    assert!((same.ce / alone[0].unwrap().ce - 1.0).abs() < 1e-5, "{same:?}");
}

#[test]
fn teachers_of_other_images_are_refused() {
    let (one, mut other) = (shipped("resnet18-w16-supervised"), shipped("resnet18-w16-moco-v2"));
    other.manifest.preprocessing.mean[0] += 0.1;
    let config = config("{committee: {teachers: [b], turn: all, weights: []}}");
    let refused = Recover::with_committee(&one, &[&other], &config, &[], PlanOptions::default())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("takes other images than `resnet18-w16-supervised`"), "{refused}");
    let config = self::config("{class_share: 0.5}");
    other.layers[3].per_class = None;
    let refused =
        Recover::new(&other, &config, PlanOptions::default()).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("scdd calibrate --per-class"), "{refused}");
}

#[test]
fn without_steps_images_stay_as_they_start() {
    let teacher = shipped("resnet18-w16-supervised");
    let (images, losses) =
        recovered("{iterations: 0, start: {type: real, mean_of: 1}}", &[&teacher]);
    let data = training_images();
    assert!(losses.is_empty());
    let p = &teacher.manifest.preprocessing;
    let all = Normalization::new(p.mean.clone(), p.std.clone())
        .unwrap()
        .batch(&data, &(0..40).collect::<Vec<_>>())
        .unwrap();
    for (class, image) in images.axis_iter(Axis(0)).enumerate() {
        assert!((0..4).any(|i| image == all.index_axis(Axis(0), i * 10 + class)), "class {class}");
    }
}

/// Adam's first step moves every pixel by the learning rate, unless the pixel is clipped.
#[test]
fn the_residual_blends_with_the_start_and_the_average_lags_behind() {
    let teacher = shipped("resnet18-w16-supervised");
    let of = |settings: &str| {
        recovered(
            &format!(
                "{{jitter: 0, learning_rate: 0.01, start: {{type: real, mean_of: 2}}, {settings}}}"
            ),
            &[&teacher],
        )
        .0
    };
    let start = of("iterations: 0");
    let residual = |alpha: f64, scales: &str| {
        of(&format!("iterations: 2, residual: {{budgets: 2, alpha: {alpha}, scales: {scales}}}"))
    };
    // The second budget starts at half of the cosine schedule.
    assert!((apart(&residual(0.0, "[1]"), &start) - 0.005).abs() < 1e-4);
    assert!((apart(&residual(1.0, "[1]"), &start) - 0.015).abs() < 1e-4);
    assert!((apart(&residual(0.5, "[1]"), &start) - 0.01).abs() < 1e-4);
    assert!((apart(&residual(0.0, "[0.5, 1]"), &start) - 0.005).abs() < 1e-4);
    let step = apart(&of("iterations: 1"), &start);
    assert!((step - 0.01).abs() < 1e-4);
    assert!((apart(&of("iterations: 1, ema: 0.75"), &start) - 0.0025).abs() < 1e-4);
}

#[test]
fn images_of_later_rounds_take_the_rest_of_the_schedule() {
    let teacher = shipped("resnet18-w16-supervised");
    let config = config("{iterations: 4, rounds: 2}");
    let recover = Recover::new(&teacher, &config, PlanOptions::default()).unwrap();
    let batches = recover.batches(&(0..10).collect::<Vec<_>>(), 2, 0);
    assert_eq!(batches.iter().map(|batch| recover.steps(batch)).collect::<Vec<_>>(), [4, 2]);
    let mut steps = Vec::new();
    recover
        .run(&batches[1], 0, &mut Forgetful, &mut |point: Point| steps.push(point.iteration))
        .unwrap();
    assert_eq!(steps, [2, 3]);
}

#[test]
fn truncation_keeps_the_level_below() {
    let teacher = shipped("resnet18-w16-supervised");
    let p = &teacher.manifest.preprocessing;
    let normalised = |level: f32| (level / 255.0 - p.mean[0]) / p.std[0];
    let levels = [0.2, 0.9, 3.1, 3.9, 254.9, 255.0];
    let images = Array4::from_shape_vec((1, 1, 1, 6), levels.map(normalised).to_vec()).unwrap();
    let pixels = |settings: &str| {
        let config = config(settings);
        Recover::new(&teacher, &config, PlanOptions::default()).unwrap().to_pixels(&images).unwrap()
    };
    assert_eq!(pixels("{}"), [0, 1, 3, 4, 255, 255]);
    assert_eq!(pixels("{compat: [truncated_pixels]}"), [0, 0, 3, 3, 254, 255]);
}

/// `(x * 0.2023 + 0.4914) * 255` and so on, for values that a teacher normalised differently.
#[test]
fn pixels_by_cifar_10_have_its_contrast() {
    let mut teacher = shipped("resnet18-w16-supervised");
    let config = config("{compat: [cifar10_pixels]}");
    let error = Recover::new(&teacher, &config, PlanOptions::default()).err().unwrap().to_string();
    assert!(error.contains("takes images of 1 channels"), "{error}");
    teacher.manifest.preprocessing.mean = vec![0.5071, 0.4867, 0.4408];
    teacher.manifest.preprocessing.std = vec![0.2675, 0.2565, 0.2761];
    let images = Array4::from_shape_vec((1, 3, 1, 2), vec![0.0, 1.0, 0.0, 1.0, 0.0, 1.0]).unwrap();
    let recover = Recover::new(&teacher, &config, PlanOptions::default()).unwrap();
    assert_eq!(recover.to_pixels(&images).unwrap(), [125, 177, 123, 174, 114, 165]);
}

#[test]
fn jpeg_is_what_a_file_keeps() {
    let teacher = shipped("resnet18-w16-supervised");
    let data = training_images();
    let p = &teacher.manifest.preprocessing;
    let images =
        Normalization::new(p.mean.clone(), p.std.clone()).unwrap().batch(&data, &[3, 17]).unwrap();
    let pixels = |settings: &str| {
        let config = config(settings);
        Recover::new(&teacher, &config, PlanOptions::default()).unwrap().to_pixels(&images).unwrap()
    };
    let (plain, jpeg) = (pixels("{}"), pixels("{compat: [jpeg_files]}"));
    assert_ne!(plain, jpeg);
    let kept: Vec<u8> =
        plain.chunks(784).flat_map(|image| jpeg::recompressed(image, 1, 28, 28).unwrap()).collect();
    assert_eq!(jpeg, kept);
}

#[test]
fn an_adjusted_teacher_likes_the_start_less_and_each_batch_has_its_own() {
    let teacher = shipped("resnet18-w16-supervised");
    let of = |settings: &str| {
        recovered(&format!("{{iterations: 2, r_bn: 0, jitter: 1, {settings}}}"), &[&teacher]).1
    };
    let (plain, adjusted) = (of(""), of("weight_adjustment: {steps: 3, rho: 0.1}"));
    assert!(adjusted[0] > plain[0] + 0.01, "{adjusted:?} {plain:?}");

    let (config, data) =
        (config("{iterations: 1, weight_adjustment: {steps: 3, rho: 0.1}}"), training_images());
    let recover = Recover::new(&teacher, &config, PlanOptions::default()).unwrap().with_data(&data);
    let batch = |numbers: std::ops::Range<u32>| Batch {
        items: numbers.map(|number| Item { class: number % 10, number }).collect(),
        ipc: 2,
        first: 0,
    };
    let run = |batch: &Batch| recover.run(batch, 0, &mut Forgetful, &mut |_: Point| {}).unwrap();
    // What came before leaves no trace.
    let first = run(&batch(0..10));
    run(&batch(10..20));
    assert_eq!(run(&batch(0..10)), first);
}

#[test]
fn averaged_statistics_are_a_share_of_the_steps_in_the_beginning() {
    let teacher = shipped("resnet18-w16-supervised");
    let first = |settings: &str| {
        let config =
            config(&format!("{{iterations: 1, jitter: 0, distance: squared, {settings}}}"));
        let recover = Recover::new(&teacher, &config, PlanOptions::default()).unwrap();
        let batch = recover.batches(&(0..10).collect::<Vec<_>>(), 1, 0).remove(0);
        let mut bn = Vec::new();
        recover.run(&batch, 0, &mut Forgetful, &mut |point: Point| bn.push(point.bn)).unwrap();
        bn[0]
    };
    // With a decay close to 1 the average is still near 0, so the distance is the squared norm of
    // the targets.
    let objective =
        objective(&teacher, &config("{distance: squared}"), 0.01, &[0], tch::Device::Cpu).unwrap();
    let length = |t: &tch::Tensor| f64::try_from(t.square().sum(tch::Kind::Double)).unwrap();
    let targets = objective
        .layers
        .iter()
        .map(|layer| layer.multiplier * (length(&layer.mean) + length(&layer.var)));
    let expected: f64 = targets.sum();
    let found = first("statistics_momentum: 0.999999");
    assert!((found - expected).abs() < 1e-3 * expected, "{found} {expected}");
    assert!((first("statistics_momentum: 0") - expected).abs() > 1e-2 * expected);
}

/// Each setting has a state of its own beside the images: average, moving statistics, budgets,
/// moved weights, several teachers, classes' statistics on the reference executor.
#[test]
fn an_interrupted_batch_goes_on_and_ends_in_the_same_bytes() {
    let teacher = shipped("resnet18-w16-supervised");
    let other = shipped("resnet10-w16-supervised");
    for settings in [
        "{iterations: 5, jitter: 2, flip: true}",
        "{iterations: 5, ema: 0.9, crop: {scale: [0.5, 1]}}",
        "{iterations: 5, statistics_momentum: 0.5}",
        "{iterations: 6, start: {type: real, mean_of: 1}, residual: {budgets: 2, alpha: 0.5, scales: [1]}}",
        "{iterations: 5, weight_adjustment: {steps: 2, rho: 0.01}}",
        "{iterations: 5, statistics_momentum: 0.5, committee: {teachers: [t2], turn: round_robin, weights: []}}",
    ] {
        let (config, data) = (config(settings), training_images());
        let others: &[&Bundle] = if config.committee.is_some() { &[&other] } else { &[] };
        let recover = || {
            Recover::with_committee(&teacher, others, &config, &[], PlanOptions::default()).unwrap()
        };
        let run = |keeper: &mut dyn Keeper| {
            let recover = recover().with_data(&data);
            let batch = &recover.batches(&[0, 1, 2, 3], 1, 0)[0];
            let mut points = Vec::new();
            let images = recover.run(batch, 0, keeper, &mut |point: Point| points.push(point))?;
            Ok::<_, RecoverError>((images, points))
        };
        let whole = run(&mut Forgetful).unwrap();
        assert_eq!(whole.1.len(), config.iterations as usize);
        for left in 1..=3 {
            let mut keeper = Interrupting { kept: None, left };
            assert!(run(&mut keeper).unwrap_err().to_string().contains("killed"));
            keeper.left = u32::MAX;
            assert!(run(&mut keeper).unwrap() == whole, "{settings}, after {left} states");
        }
        let mut damaged = Interrupting { kept: Some(vec![1, 2]), left: u32::MAX };
        assert!(run(&mut damaged).unwrap() == whole, "{settings}, a damaged state");
    }
}

/// With tensors in place of arrays, as on a GPU.
#[test]
fn images_that_stay_on_the_device_are_the_same_and_their_losses_are_read_seldom() {
    let (teacher, other) = (shipped("resnet18-w16-supervised"), shipped("resnet18-w16-moco-v2"));
    let run = |iterations: u32, kernels| {
        let config = config(&format!(
            "{{iterations: {iterations}, batch_size: 10, jitter: 2, flip: true, crop: {{scale: [0.5, 1]}}, ema: 0.5, tv: 1.0e-4, l2: 1.0e-4, learning_rate: 0.01, \
             statistics_momentum: 0.5, committee: {{teachers: [x], turn: all, weights: [2, 1]}}}}"
        ));
        let options = PlanOptions { kernels, ..PlanOptions::default() };
        let recover = Recover::with_committee(&teacher, &[&other], &config, &[], options).unwrap();
        let batch = recover.batches(&(0..10).collect::<Vec<_>>(), 1, 0).remove(0);
        let (mut losses, before) = (Vec::new(), transfer::count());
        let images = recover
            .run(&batch, 0, &mut Forgetful, &mut |point: Point| losses.push(point.loss))
            .unwrap();
        (images, losses, transfer::count() - before)
    };
    let (host, on_host, _) = run(4, PlanOptions::default().kernels);
    let (device, on_device, _) = run(4, None);
    for (a, b) in on_host.iter().zip(&on_device) {
        assert!((a - b).abs() < 1e-3 * a, "{on_host:?} {on_device:?}");
    }
    // Adam's first steps have the same length for the smallest gradients, whose sign rounding sets.
    let mean = (&host - &device).mapv(f32::abs).mean().unwrap();
    assert!(mean < 1e-3, "{mean}");
    // The tables of the views at each step, the losses every 50.
    let [(_, _, few), (_, losses, many)] = [10, 110].map(|iterations| run(iterations, None));
    assert_eq!((many - few, losses.len()), (100 + 2, 110));
}
