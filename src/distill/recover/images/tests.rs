use super::*;
use ndarray::Zip;
use rand_distr::{Distribution, StandardNormal};
use scdd_compute::{replica::to_tensor, transfer};
use scdd_data::{Shift, Size, View, rng};

const SIZE: Size = Size { height: 9, width: 7 };
const IMAGES: usize = 4;

fn noise(name: &str) -> Array4<f32> {
    let mut stream = rng::stream(3, name, 0);
    Array4::from_shape_simple_fn((IMAGES, 3, SIZE.height, SIZE.width), || {
        StandardNormal.sample(&mut stream)
    })
}

/// Crops, flips and shifts, others at each step.
fn views(step: u64) -> Vec<Resample> {
    let view = |image| {
        let mut stream = rng::stream(step, "views", image);
        let crop = View::random_resized_crop(&mut stream, SIZE, (0.3, 1.0), (0.75, 1.3)).unwrap();
        let crop = crop.with_random_flip(&mut stream, 0.5);
        let shift = Shift::random(&mut stream, 3);
        Resample::new(&crop, SIZE, SIZE).unwrap().roll_output(shift)
    };
    (0..IMAGES as u64).map(view).collect()
}

fn rule() -> StepRule {
    let range = vec![(-1.0, 1.5), (-2.0, 0.5), (-0.5, 0.5)];
    StepRule { betas: [0.5, 0.9], ema: 0.9, priors: Priors { tv: 0.01, l2: 0.02 }, range }
}

/// Some steps, whose gradient depends on what is seen.
fn steps(images: &mut dyn BatchImages, steps: std::ops::Range<u64>) -> f64 {
    let mut priors = 0.0;
    for step in steps {
        let seen = images.look(views(step)).unwrap();
        let gradient = seen.sin() + to_tensor(noise("gradient").view()).unwrap();
        let prior = images.step(gradient, 0.1).unwrap();
        priors += f64::try_from(prior).unwrap();
    }
    priors
}

fn assert_close(found: &Array4<f32>, expected: &Array4<f32>, what: &str) {
    let mut furthest = 0f32;
    Zip::from(found).and(expected).for_each(|a, b| furthest = furthest.max((a - b).abs()));
    assert!(furthest < 2e-5, "{what}: {furthest}");
}

#[test]
fn tensors_move_as_arrays_do() {
    let start = ImagesState::start(noise("start"), &rule());
    let mut host = start.clone().on_host(rule(), Threads::all());
    let mut device = start.on_device(rule(), Device::Cpu).unwrap();
    let [on_host, on_device] = [&mut host, &mut device].map(|images| steps(images.as_mut(), 0..6));
    assert!((on_host - on_device).abs() < 1e-5 * on_host, "{on_host} {on_device}");
    let results = [&host, &device].map(|images| images.result().unwrap());
    let [host, device] = [host, device].map(|images| images.state().unwrap());
    assert_eq!((host.steps, device.steps), (6, 6));
    assert_close(&device.images, &host.images, "images");
    assert_close(&device.moments[0], &host.moments[0], "first moment");
    assert_close(&device.moments[1], &host.moments[1], "second moment");
    let average = host.average.unwrap();
    assert_ne!(average, host.images, "the average is the images");
    assert_close(&device.average.unwrap(), &average, "average");
    assert_close(&results[0], &average, "the host's result");
    assert_close(&results[1], &average, "the device's result");
}

#[test]
fn either_goes_on_where_it_was() {
    for resident in [false, true] {
        let place = |state: ImagesState| match resident {
            true => state.on_device(rule(), Device::Cpu).unwrap(),
            false => state.on_host(rule(), Threads::all()),
        };
        let start = ImagesState::start(noise("start"), &rule());
        let mut whole = place(start.clone());
        steps(whole.as_mut(), 0..5);
        let mut first = place(start);
        steps(first.as_mut(), 0..2);
        let mut second = place(first.state().unwrap());
        steps(second.as_mut(), 2..5);
        let [whole, second] = [whole, second].map(|images| images.state().unwrap());
        assert_eq!(whole.images, second.images, "{resident}");
        assert_eq!((whole.moments, whole.average), (second.moments, second.average));
    }
}

#[test]
fn a_step_sends_nothing_to_the_device_but_the_tables_of_its_views() {
    let start = ImagesState::start(noise("start"), &rule());
    let mut images = start.on_device(rule(), Device::Cpu).unwrap();
    let gradient = to_tensor(noise("gradient").view()).unwrap();
    let before = transfer::count();
    for step in 0..10 {
        let seen = images.look(views(step)).unwrap();
        let prior = images.step(gradient.shallow_clone(), 0.1).unwrap();
        assert_eq!((seen.size()[0], prior.dim()), (IMAGES as i64, 0));
    }
    assert_eq!(transfer::count() - before, 10);
}

#[test]
fn only_what_is_used_crosses() {
    let crossing = |what: &mut dyn FnMut()| {
        let before = transfer::count();
        what();
        transfer::count() - before
    };
    for ema in [0.0, 0.9] {
        let rule = StepRule { ema, ..rule() };
        let place = |state: ImagesState| state.on_device(rule.clone(), Device::Cpu).unwrap();
        let start = ImagesState::start(noise("start"), &rule);
        let mut images = None;
        // The images, and the lowest and highest values.
        assert_eq!(crossing(&mut || images = Some(place(start.clone()))), 3);
        let mut images = images.unwrap();
        steps(images.as_mut(), 0..2);
        let mut result = Array4::zeros((0, 0, 0, 0));
        assert_eq!(crossing(&mut || result = images.result().unwrap()), 1);
        let state = images.state().unwrap();
        assert_eq!(&result, state.average.as_ref().unwrap_or(&state.images));
        // Images, moments and average, to go on with.
        let arrays = 3 + usize::from(ema > 0.0);
        assert_eq!(crossing(&mut || drop(images.state().unwrap())), arrays);
        assert_eq!(crossing(&mut || drop(place(state.clone()))), arrays + 2);
    }
}

#[test]
fn a_step_needs_a_view() {
    let start = ImagesState::start(noise("start"), &rule());
    let mut images = start.on_device(rule(), Device::Cpu).unwrap();
    let gradient = to_tensor(noise("gradient").view()).unwrap();
    let error = images.step(gradient, 0.1).unwrap_err().to_string();
    assert!(error.contains("no view was taken"), "{error}");
}

#[test]
fn clipping_is_per_channel() {
    let mut images = Array4::from_shape_fn((1, 2, 1, 2), |(_, c, _, x)| {
        (c as f32 + 1.0) * (x as f32 * 4.0 - 2.0)
    });
    host::clip(&mut images, &[(-1.0, 1.0), (-3.0, 2.0)]);
    assert_eq!(images.as_slice(), Some(&[-1.0, 1.0, -3.0, 2.0][..]));
}
