use std::fs;
use std::path::Path;

use super::*;
use crate::npz::encode;
use crate::png;

/// The shape of the golden images, `tests/goldens/make_finished.py`.
const SHAPE: [usize; 3] = [3, 4, 5];

/// What the golden files hold, by their formula: six images, two of each class.
fn expected() -> Vec<u8> {
    let mut pixels = Vec::new();
    for n in 0..6 {
        for (c, y, x) in
            (0..3).flat_map(|c| (0..4).flat_map(move |y| (0..5).map(move |x| (c, y, x))))
        {
            pixels.push(((31 * n + 17 * c + 5 * y + x) % 256) as u8);
        }
    }
    pixels
}

fn source(place: &Path) -> FinishedSource {
    FinishedSource {
        place: place.into(),
        class_map: None,
        data: "toy".into(),
        classes: ["cat", "dog", "emu"].map(String::from).to_vec(),
        shape: SHAPE,
        resize: false,
        normalization: None,
    }
}

fn golden(name: &str) -> FinishedSource {
    source(&crate::in_repository("tests/goldens/finished").join(name))
}

fn loaded(source: &FinishedSource) -> (Dataset, Vec<String>) {
    let mut remarks = Vec::new();
    (source.load(&mut remarks).unwrap(), remarks)
}

fn refused(source: &FinishedSource) -> String {
    source.load(&mut Vec::new()).unwrap_err().to_string()
}

#[track_caller]
fn assert_refused(source: &FinishedSource, parts: &[&str]) {
    let message = refused(source);
    assert!(parts.iter().all(|part| message.contains(part)), "{message:?} lacks one of {parts:?}");
}

#[test]
fn tensors_that_pytorch_wrote_are_read() {
    for name in ["named.pt", "images_best.pt", "half.pt", "bfloat.pt", "pair.pt"] {
        let (set, remarks) = loaded(&golden(name));
        assert!(set.images == expected().into(), "{name}");
        assert_eq!((set.labels, set.classes.len()), (vec![0, 0, 1, 1, 2, 2], 3), "{name}");
        assert_eq!(remarks.len(), usize::from(name == "pair.pt"), "{remarks:?}");
        assert!(
            remarks
                .iter()
                .all(|remark| remark.contains("of its soft labels [6, 3] the largest gives"))
        );
    }
}

/// `exp(2) / (exp(2) + 2 exp(-1))`: the softmax of the golden logits 2, -1, -1.
const OWN: f64 = 0.909_443_188_2;

#[test]
fn soft_labels_are_those_of_the_sorted_images() {
    // Logits in the order of the images, and half-precision probabilities with the last first.
    for (name, precision) in [("pair.pt", 1e-6), ("half.npz", 5e-4)] {
        let source = golden(name);
        assert_eq!(loaded(&source).0.labels, [0, 0, 1, 1, 2, 2]);
        let labels = source.soft_labels().unwrap();
        assert_eq!(labels.probabilities().dim(), (6, 3));
        for ((image, class), &found) in labels.probabilities().indexed_iter() {
            let expected = if image / 2 == class { OWN } else { 0.5 * (1.0 - OWN) };
            assert!((f64::from(found) - expected).abs() < precision, "{name}: {found}");
        }
    }
    let (half, _) = loaded(&golden("half.npz"));
    // The archive has the last image first, so that images of one class stay in that order.
    let images = expected();
    let reversed: Vec<u8> =
        [1, 0, 3, 2, 5, 4].iter().flat_map(|&n| &images[60 * n..][..60]).copied().collect();
    assert!(half.images == reversed.into());
}

/// An archive of `classes.len()` images, whose first pixel is their number, with these labels.
fn soft_archive(path: &Path, labels: &ndarray::Array2<f32>) {
    let mut archive = ndarray_npy::NpzWriter::new(fs::File::create(path).unwrap());
    let shape = (labels.nrows(), 3, 4, 5);
    let images = ndarray::Array4::from_shape_fn(
        shape,
        |(n, c, y, x)| if c + y + x == 0 { n as u8 } else { 0 },
    );
    archive.add_array("images", &images).unwrap();
    archive.add_array("labels", labels).unwrap();
    archive.finish().unwrap();
}

#[test]
fn soft_labels_follow_the_class_map_and_come_back_from_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = (dir.path().join("set.npz"), dir.path().join("map.yaml"));
    let given = ndarray::arr2(&[[0.7f32, 0.2, 0.1], [0.1, 0.6, 0.3], [0.0, 0.1, 0.9]]);
    soft_archive(&path, &given);
    fs::write(&map, "'0': emu\n'1': cat\n'2': dog\n").unwrap();
    let mapped = FinishedSource { class_map: Some(map), ..source(&path) };
    let labels = mapped.soft_labels().unwrap();
    let expected = ndarray::arr2(&[[0.6f32, 0.3, 0.1], [0.1, 0.9, 0.0], [0.2, 0.1, 0.7]]);
    let apart = (&labels.probabilities() - &expected).mapv(f32::abs);
    assert!(apart.iter().all(|&apart| apart < 1e-6), "{labels:?}");
    let (set, _) = loaded(&mapped);
    assert_eq!([0, 1, 2].map(|index| set.image(index).unwrap()[0]), [1, 2, 0]);
    let unmapped = source(&path).soft_labels().unwrap();
    assert_ne!(labels.hash(), unmapped.hash());
    let file = dir.path().join("soft_labels.npy");
    fs::write(&file, labels.encode().unwrap()).unwrap();
    assert_eq!(SoftLabels::read(&file, 3).unwrap(), labels);
    let message = SoftLabels::read(&file, 4).unwrap_err().to_string();
    assert!(message.contains("does not label 4 images; remove the stage's directory"), "{message}");
}

#[test]
fn soft_labels_that_are_not_clear_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.npz");
    let with = |scale: f32| {
        soft_archive(&path, &(ndarray::Array2::<f32>::eye(3) * scale));
        source(&path).soft_labels().map_err(|error| error.to_string())
    };
    assert_eq!(with(1.0).unwrap().probabilities(), ndarray::Array2::<f32>::eye(3));
    for scale in [0.5, 100.0] {
        let message = with(scale).unwrap_err();
        let parts = [
            &*format!("rows sum to {scale:.2}"),
            "neither probabilities nor surely logits",
            "softmax(logits)",
        ];
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let of = |name: &str| golden(name).soft_labels().unwrap_err().to_string();
    assert!(
        of("named.pt").contains("labels of the shape [6], a class per image; leave `labels` out")
    );
    let two = FinishedSource { classes: vec!["cat".into(), "dog".into()], ..golden("pair.pt") };
    let message = two.soft_labels().unwrap_err().to_string();
    assert!(message.contains("labels of the shape [6, 3], but toy has 2 classes"), "{message}");
    folders(&dir.path().join("folders"), |class| class.to_string());
    let message = source(&dir.path().join("folders")).soft_labels().unwrap_err().to_string();
    assert!(message.contains("has no soft labels of its own; leave `labels` out"), "{message}");
}

#[test]
fn the_first_set_of_several_repetitions_is_read() {
    let undone = Normalization::new(vec![0.5, 0.25, 0.125], vec![0.5, 0.25, 0.5]).unwrap();
    let repeated = FinishedSource { normalization: Some(undone), ..golden("repeated.pt") };
    let (set, remarks) = loaded(&repeated);
    assert!(set.images == expected().into() && set.labels == [0, 0, 1, 1, 2, 2]);
    assert_eq!(remarks.len(), 1);
    assert!(remarks[0].ends_with("has 2 sets, one for each repetition; the first is taken"));
}

#[test]
fn normalised_tensors_need_what_normalised_them() {
    let mut set = golden("normalised.pt");
    assert_refused(&set, &["values from -1.00 to", "`normalised: dataset`", "ZCA whitening can't"]);
    let undone = Normalization::new(vec![0.5, 0.25, 0.125], vec![0.5, 0.25, 0.5]).unwrap();
    set.normalization = Some(undone.clone());
    let (found, remarks) = loaded(&set);
    assert!(found.images == expected().into() && remarks.is_empty(), "{remarks:?}");
    // By other constants some values are no pixels, which is said.
    set.normalization =
        Some(Normalization::new(vec![0.5, 0.25, 0.125], vec![1.0, 0.25, 0.5]).unwrap());
    let remarks = loaded(&set).1;
    assert!(remarks[0].contains("% of its values are darker than black"), "{remarks:?}");
    let one = Normalization::new(vec![0.5], vec![0.25]).unwrap();
    set.normalization = Some(one.clone());
    assert_refused(&set, &["has 3 channels, `normalised` 1; give a mean"]);
    let gray = FinishedSource { normalization: Some(one), shape: [1, 4, 5], ..set };
    assert_refused(&gray, &["holds images of 3 channels, the networks take 1"]);
    let pixels = FinishedSource { normalization: Some(undone), ..golden("named.pt") };
    assert_refused(
        &pixels,
        &["values from 0.00 to 0.82, which are pixels; leave `normalised` out"],
    );
}

#[test]
fn a_file_that_would_execute_something_is_refused() {
    let parts = ["its pickle calls \"__builtin__.print\", which is no array of numbers at byte"];
    assert_refused(&golden("executable.pt"), &parts);
    let dir = tempfile::tempdir().unwrap();
    let older = dir.path().join("older.pt");
    fs::write(&older, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.").unwrap();
    assert_refused(&source(&older), &["as PyTorch writes since 1.6", "save it again"]);
    assert_refused(&golden("labels_best.pt"), &["holds images without labels"]);
}

#[test]
fn every_image_has_one_label() {
    assert_refused(&golden("short.pt"), &["has 6 images and 5 labels; give one label"]);
}

/// Any damaged byte of a file of tensors gives an error or a set, never a panic.
#[test]
fn damaged_tensors_never_panic() {
    let whole = fs::read(golden("named.pt").place).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.pt");
    for at in (0..whole.len()).step_by(3) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(&path, damaged).unwrap();
        let _ = source(&path).load(&mut Vec::new());
    }
}

/// The golden images as class folders, called by `name`, as SRe2L calls the files.
fn folders(root: &Path, name: impl Fn(usize) -> String) {
    for (index, pixels) in expected().chunks_exact(60).enumerate() {
        let dir = root.join(name(index / 2));
        fs::create_dir_all(&dir).unwrap();
        let file = png::encode(pixels, 3, 4, 5).unwrap();
        fs::write(dir.join(format!("class{:03}_id{:03}.png", index / 2, index % 2)), file).unwrap();
    }
}

#[test]
fn class_folders_are_read_as_others_call_them() {
    let classes = ["cat", "dog", "emu"];
    let numbered = |prefix: &'static str| move |class: usize| format!("{prefix}{class:03}");
    let cases: [(&str, &dyn Fn(usize) -> String); 5] = [
        ("", &numbered("new")),
        ("", &numbered("")),
        ("train", &|class| classes[class].to_owned()),
        ("images", &|class| format!("{class:02}_{}", classes[class])),
        ("", &|class| (class + 1).to_string()),
    ];
    for (inner, name) in cases {
        let dir = tempfile::tempdir().unwrap();
        folders(&dir.path().join(inner), name);
        fs::write(dir.path().join("README.md"), "a card").unwrap();
        let (set, _) = loaded(&source(dir.path()));
        assert!(set.images == expected().into() && set.labels == [0, 0, 1, 1, 2, 2], "{}", name(0));
    }
}

#[test]
fn a_class_map_says_which_class_a_folder_is() {
    let dir = tempfile::tempdir().unwrap();
    folders(&dir.path().join("set"), |class| format!("new{class:03}"));
    let map = dir.path().join("map.yaml");
    fs::write(&map, "new000: emu\nnew001: cat\nnew002: dog\n").unwrap();
    let (set, _) =
        loaded(&FinishedSource { class_map: Some(map), ..source(&dir.path().join("set")) });
    // The images of one class stay together, in the order of the real data's classes.
    let images = expected();
    assert!(set.images == [&images[120..], &images[..120]].concat().into());
    assert_eq!(set.labels, [0, 0, 1, 1, 2, 2]);
}

#[test]
fn archives_are_read_in_both_orders_of_axes() {
    let dir = tempfile::tempdir().unwrap();
    let set = Dataset {
        name: "x".into(),
        images: expected().into(),
        labels: vec![0, 0, 1, 1, 2, 2],
        channels: 3,
        height: 4,
        width: 5,
        classes: Vec::new(),
    };
    fs::write(dir.path().join("images.npz"), encode(&set).unwrap()).unwrap();
    // By its directory, as `scdd export-set` writes it, and by the file.
    for place in [dir.path().to_path_buf(), dir.path().join("images.npz")] {
        let (found, _) = loaded(&source(&place));
        assert!(found.images == expected().into() && found.labels == set.labels);
    }
}

#[test]
fn archives_of_floats_and_of_gray_images_are_read() {
    use ndarray::{Array1, Array3, Array4};
    use ndarray_npy::NpzWriter;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.npz");
    let writer = || NpzWriter::new(fs::File::create(&path).unwrap());
    let labels = Array1::from(vec![2i32, 0, 1]);
    let mut archive = writer();
    let images = Array3::from_shape_fn((3, 4, 5), |(n, y, x)| (n * 20 + y * 5 + x) as f64 / 255.0);
    archive.add_array("x_train", &images).unwrap();
    archive.add_array("y_train", &labels).unwrap();
    archive.finish().unwrap();
    let gray = FinishedSource { shape: [1, 4, 5], ..source(&path) };
    let set = loaded(&gray).0;
    // Sorted by class: the second image is of class 0, the third of class 1.
    let pixels: Vec<u8> = (20..60).chain(0..20).collect();
    assert_eq!((set.images, set.labels), (pixels.into(), vec![0, 1, 2]));

    let mut archive = writer();
    archive.add_array("images", &Array4::<f32>::from_elem((3, 4, 5, 3), f32::NAN)).unwrap();
    archive.add_array("labels", &labels).unwrap();
    archive.finish().unwrap();
    assert_refused(&source(&path), &["values that are no finite numbers"]);
    let mut archive = writer();
    archive.add_array("images", &images).unwrap();
    archive.finish().unwrap();
    assert_refused(&source(&path), &["has no images with labels; its arrays are images.npy"]);
    fs::write(&path, "no archive").unwrap();
    assert_refused(&source(&path), &["is no NumPy archive"]);
}

#[test]
fn what_does_not_fit_is_told_with_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, classes: usize| {
        let root = dir.path().join(name);
        folders(&root, |class| format!("new{class:03}"));
        (classes..3).for_each(|c| fs::remove_dir_all(root.join(format!("new{c:03}"))).unwrap());
        source(&root)
    };
    assert_refused(&put("two", 2), &["holds no image of class 2 (`emu`) of toy", "every class"]);
    let whole = put("whole", 3);
    let of = |shape| FinishedSource { shape, ..whole.clone() };
    assert_refused(&of([1, 4, 5]), &["holds images of 3 channels, the networks take 1"]);
    assert_refused(&of([3, 8, 8]), &["of 4x5 pixels, the networks take 8x8", "`resize: true`"]);
    let resized = FinishedSource { resize: true, ..of([3, 8, 10]) };
    let (set, _) = loaded(&resized);
    assert_eq!((set.height, set.width, set.all_pixels().unwrap().len()), (8, 10, 6 * 240));
    fs::create_dir(dir.path().join("empty")).unwrap();
    assert_refused(&source(&dir.path().join("empty")), &["holds no images; name a directory"]);
    assert_refused(&source(&dir.path().join("nothing")), &["cannot open"]);
    let flat = dir.path().join("flat");
    fs::create_dir(&flat).unwrap();
    fs::write(flat.join("a.png"), "").unwrap();
    assert_refused(&source(&flat), &["holds images themselves", "sort the images"]);
    fs::write(dir.path().join("set.txt"), "").unwrap();
    assert_refused(&source(&dir.path().join("set.txt")), &["is no form of a finished set"]);
}

/// Values of `torch.nn.functional.interpolate(mode="bilinear", antialias=True)`, which resamples as
/// Pillow does but for its rounding.
#[test]
fn resizing_is_bilinear() {
    assert_eq!(decode::stretched(&[0, 100], [1, 1, 2], [1, 4]), [0, 25, 75, 100]);
    let two = decode::stretched(&[0, 100, 40, 80], [2, 1, 2], [1, 4]);
    assert_eq!(two, [0, 25, 75, 100, 40, 50, 70, 80]);
    assert_eq!(decode::stretched(&[10, 20, 30, 40], [1, 2, 2], [1, 1]), [25]);
}

#[test]
fn the_signature_covers_the_labels_beside() {
    let dir = tempfile::tempdir().unwrap();
    let (images, labels) = (dir.path().join("images_1.pt"), dir.path().join("labels_1.pt"));
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    let put = |path: &Path, text: &str| {
        fs::write(path, text).unwrap();
        fs::File::options().append(true).open(path).unwrap().set_modified(old).unwrap();
    };
    put(&images, "x");
    put(&labels, "y");
    let before = source(&images).signature().unwrap();
    assert_eq!(source(&images).signature().unwrap(), before);
    put(&labels, "yy");
    assert_ne!(source(&images).signature().unwrap().state, before.state);
    let other = FinishedSource { resize: true, ..source(&images) };
    assert_ne!(other.signature().unwrap().name, before.name);
}
