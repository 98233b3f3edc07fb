//! RandAugment's and DSA's operations equal torchvision's and PyTorch's
//! (`goldens/make_augment.py`).

use rand::SeedableRng;
use safetensors::SafeTensors;
use scdd::data::Size;
use scdd::data::augment::{Augment, Kind, Operation};

const SIZE: Size = Size { height: 12, width: 10 };

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn operation(number: &str, values: &str) -> Operation {
    let mut operation =
        Operation { kind: Kind::of(number.parse().unwrap()).unwrap(), values: [0.0; 3] };
    for (place, value) in operation.values.iter_mut().zip(values.split(',')) {
        *place = value.parse().unwrap();
    }
    operation
}

#[test]
fn operations_equal_torchvision_and_pytorch() {
    let file =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/augment.safetensors"))
            .unwrap();
    let goldens = SafeTensors::deserialize(&file).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for (name, expected) in goldens.tensors() {
        let [image, number, values] = name.split('/').collect::<Vec<_>>()[..] else { continue };
        let (operation, source) = (operation(number, values), goldens.tensor(image).unwrap());
        let shape = source.shape();
        let size = Size { height: shape[1], width: shape[2] };
        seen.insert(operation.kind as u8);
        if image == "view" {
            let mut view = floats(source.data());
            operation.apply_to_view(&mut view, size).unwrap();
            let furthest = view
                .iter()
                .zip(floats(expected.data()))
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(furthest < 1e-4, "{name}: {furthest}");
        } else {
            let mut pixels = source.data().to_vec();
            operation.apply_to_pixels(&mut pixels, shape[0], size).unwrap();
            let apart = pixels.iter().zip(expected.data()).filter(|(a, b)| a != b).count();
            let levels =
                pixels.iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            // torchvision sums in single precision, so a value at a rounding boundary may become
            // either level.
            let rounds = matches!(
                operation.kind,
                Kind::Brightness | Kind::Color | Kind::Contrast | Kind::Sharpness
            );
            let allowed = if rounds && levels <= 1 { pixels.len() / 50 } else { 0 };
            assert!(
                apart <= allowed,
                "{name}: {apart} of {} pixels differ, by up to {levels}",
                pixels.len()
            );
        }
    }
    assert_eq!(seen.len(), 20);
}

#[test]
fn draws_repeat_and_stay_in_their_ranges() {
    let rng = || rand_chacha::ChaCha8Rng::seed_from_u64(7);
    for augment in [Augment::RandAugment { operations: 2, magnitude: 9 }, Augment::Dsa {}] {
        let mut stream = rng();
        let mut kinds = std::collections::BTreeSet::new();
        assert_eq!(
            augment.draw(&mut rng(), 5, SIZE, SIZE),
            augment.draw(&mut rng(), 5, SIZE, SIZE)
        );
        for _ in 0..200 {
            let drawn = augment.draw(&mut stream, 3, SIZE, SIZE);
            assert_eq!(drawn.len(), 3 * augment.per_view());
            for operation in &drawn {
                assert!(augment.has(operation));
                kinds.insert(operation.kind as u8);
                if operation.kind.is_dsa() {
                    operation.apply_to_view(&mut [0.5; 120], SIZE).unwrap();
                    assert!(operation.apply_to_pixels(&mut [1; 120], 1, SIZE).is_err());
                } else {
                    operation.apply_to_pixels(&mut [1; 120], 1, SIZE).unwrap();
                    assert!(operation.apply_to_view(&mut [0.5; 120], SIZE).is_err());
                }
            }
            if matches!(augment, Augment::Dsa {}) {
                assert!(
                    drawn.iter().all(|o| o.kind == drawn[0].kind),
                    "a batch has one of DSA's operations"
                );
            }
        }
        assert_eq!(kinds.len(), if matches!(augment, Augment::Dsa {}) { 6 } else { 14 });
    }
    // torchvision's ranges at magnitude 9 of 31.
    let mut stream = rng();
    let augment = Augment::RandAugment { operations: 16, magnitude: 9 };
    for operation in augment.draw(&mut stream, 200, Size { height: 224, width: 224 }, SIZE) {
        let expected = match operation.kind {
            Kind::ShearX | Kind::ShearY => 0.09,
            Kind::TranslateX | Kind::TranslateY => 30.0,
            Kind::Rotate => 9.0,
            Kind::Brightness | Kind::Color | Kind::Contrast | Kind::Sharpness => 0.27,
            Kind::Posterize => 7.0,
            Kind::Solarize => 178.5,
            _ => 0.0,
        };
        assert!((operation.values[0].abs() - expected).abs() < 1e-4, "{operation:?}");
    }
}
