//! The format, written and read.

use super::writer::under_way;
use super::*;
use proptest::prelude::*;
use rand::RngExt;
use rand::seq::SliceRandom;
use scdd_data::rng::stream;
use std::fs;

fn meta() -> Meta {
    Meta {
        images: 7,
        classes: 3,
        epochs: 2,
        batch_size: 3,
        source: Size { height: 9, width: 8 },
        input: Size { height: 6, width: 5 },
        mix: MixKind::CutMix,
        dtype: Dtype::F16,
        teacher_sha256: "0123456789abcdef".repeat(4),
        config_hash: "c0ffee".into(),
        top_k: None,
        pad: 0,
        stored_epochs: None,
        augment: None,
    }
}

/// Metadata with all optional keys.
fn newest() -> Meta {
    let top_k = Some(StoredTopK { k: 1, temperature: Some(20.0) });
    let augment = Some(Augment::RandAugment { operations: 2, magnitude: 9 });
    Meta { dtype: Dtype::I8, top_k, pad: 2, epochs: 5, stored_epochs: Some(2), augment, ..meta() }
}

/// The batches of a store with this metadata, in order, drawn from `seed`.
fn batches(meta: &Meta, seed: u64) -> Vec<LabelBatch> {
    let epoch_batches = |epoch| {
        let mut rng = stream(seed, "order", epoch);
        let mut order: Vec<u32> = (0..meta.images).collect();
        order.shuffle(&mut rng);
        let chunks: Vec<_> = order.chunks(meta.batch_size as usize).map(<[u32]>::to_vec).collect();
        chunks.into_iter().map(move |indices| label_batch(&mut rng, meta, indices))
    };
    (0..u64::from(meta.stored_epochs())).flat_map(epoch_batches).collect()
}

fn label_batch(rng: &mut impl rand::Rng, meta: &Meta, indices: Vec<u32>) -> LabelBatch {
    let count = indices.len();
    let mut view = || {
        let view = View::random_resized_crop(rng, meta.canvas(), (0.1, 1.0), (0.75, 1.25)).unwrap();
        view.with_random_flip(rng, 0.5)
    };
    let views = (0..count).map(|_| view()).collect();
    let mix = match meta.mix {
        _ if rng.random_bool(0.2) => DrawnMix::None,
        MixKind::None => DrawnMix::None,
        MixKind::CutMix => DrawnMix::cut_mix(rng, count, meta.input, 1.0).unwrap(),
        MixKind::MixUp => DrawnMix::mix_up(rng, count, 0.8).unwrap(),
    };
    let logits = Array2::from_shape_simple_fn((count, meta.classes as usize), || {
        rng.random_range(-20.0f32..20.0)
    });
    let operations = meta.augment.map(|augment| augment.draw(rng, count, meta.source, meta.input));
    LabelBatch { indices, views, operations: operations.unwrap_or_default(), mix, logits }
}

/// The batch after rounding by a store with this metadata.
fn rounded(meta: &Meta, batch: &LabelBatch) -> LabelBatch {
    let mut rows = vec![];
    meta.rows().encode(&batch.logits, &mut rows).unwrap();
    LabelBatch { logits: meta.rows().decode(&rows).unwrap(), ..batch.clone() }
}

fn write(path: &Path, meta: &Meta, batches: &[LabelBatch]) {
    let mut writer = Writer::open(path, meta.clone()).unwrap();
    for batch in batches {
        writer.append(batch).unwrap();
    }
    writer.finish().unwrap();
}

/// The bytes of the store of `meta` with batches of seed 1.
fn file(meta: &Meta) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels");
    write(&path, meta, &batches(meta, 1));
    fs::read(path).unwrap()
}

fn small_file() -> Vec<u8> {
    file(&meta())
}

/// Opens and fully reads these bytes.
fn read_bytes(bytes: &[u8]) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels");
    fs::write(&path, bytes).unwrap();
    LabelStore::open(&path).and_then(|store| store.verify()).map_err(|error| error.to_string())
}

fn any_meta() -> impl Strategy<Value = Meta> {
    let mixes = prop_oneof![Just(MixKind::None), Just(MixKind::CutMix), Just(MixKind::MixUp)];
    let dtypes = prop_oneof![Just(Dtype::F16), Just(Dtype::F32), Just(Dtype::I8)];
    let sizes = (1usize..40, 1usize..40, 1usize..40, 1usize..40);
    let augment = prop_oneof![
        Just(None),
        Just(Some(Augment::RandAugment { operations: 3, magnitude: 9 })),
        Just(Some(Augment::Dsa {})),
    ];
    let newer = (0u32..4, 0u16..5, 0u32..3, augment);
    (1u32..12, 1u32..6, 1u32..4, 1u32..14, mixes, dtypes, sizes, newer).prop_map(
        |(
            images,
            classes,
            epochs,
            batch_size,
            mix,
            dtype,
            (height, width, input_height, input_width),
            (k, pad, stored, augment),
        )| Meta {
            images,
            classes,
            epochs,
            batch_size,
            mix,
            dtype,
            source: Size { height, width },
            input: Size { height: input_height, width: input_width },
            top_k: (1..classes).contains(&k).then_some(StoredTopK { k, temperature: Some(4.0) }),
            pad,
            stored_epochs: (1..epochs).contains(&stored).then_some(stored),
            augment,
            ..meta()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn replay_is_exact(meta in any_meta(), seed in any::<u64>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        let batches = batches(&meta, seed);
        write(&path, &meta, &batches);
        let store = LabelStore::open(&path).unwrap();
        store.verify().unwrap();
        prop_assert_eq!(store.meta(), &meta);
        prop_assert_eq!(batches.len(), meta.stored_epochs() as usize * meta.batches());
        for place in (0..meta.epochs as usize * meta.batches()).rev() {
            let expected = rounded(&meta, &batches[place % batches.len()]);
            prop_assert_eq!(store.get(place / meta.batches(), place % meta.batches()).unwrap(), expected);
        }
    }
}

#[test]
fn bytes_are_deterministic() {
    assert_eq!(small_file(), small_file());
}

/// Checks the format byte by byte against its description.
#[test]
fn records_look_as_described() {
    let meta = Meta { images: 2, classes: 3, epochs: 1, batch_size: 2, ..meta() };
    let view = |top, flip| View { top, left: 2, height: 3, width: 4, flip };
    let batch = LabelBatch {
        indices: vec![1, 0],
        views: vec![view(1, false), view(5, true)],
        operations: vec![],
        mix: DrawnMix::CutMix { partner: vec![1, 0], top: 1, left: 2, height: 3, width: 2 },
        logits: Array2::from_shape_vec((2, 3), vec![1.0, -2.0, 0.5, 0.0, 1.0, -1.0]).unwrap(),
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels");
    write(&path, &meta, &[batch]);
    let bytes = fs::read(path).unwrap();

    let metadata = "{\"images\":2,\"classes\":3,\"epochs\":1,\"batch_size\":2,\
        \"source\":{\"height\":9,\"width\":8},\"input\":{\"height\":6,\"width\":5},\
        \"mix\":\"cut_mix\",\"dtype\":\"f16\",\
        \"teacher_sha256\":\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\",\
        \"config_hash\":\"c0ffee\"}";
    let mut expected = b"SCDDSOFT\x04\0\0\0".to_vec();
    expected.extend((metadata.len() as u32).to_le_bytes());
    expected.extend(metadata.as_bytes());
    expected.resize(expected.len().next_multiple_of(8), 0);
    let records = expected.len() as u64 + 16 + 32;
    expected.extend(records.to_le_bytes());
    expected.extend((records + 64 + 32).to_le_bytes());
    let head = Sha256::digest(&expected);
    expected.extend(head);
    expected.extend(1u32.to_le_bytes());
    expected.extend(0.8f32.to_le_bytes());
    expected.extend([1, 0, 2, 0, 3, 0, 2, 0]);
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 2, 0, 3, 0, 4, 0]);
    expected.extend([0x00, 0x3c, 0x00, 0xc0, 0x00, 0x38, 0x00, 0x00, 0x00, 0x3c, 0x00, 0xbc]);
    expected.extend([0, 1, 0, 0]);
    let hashed = [&head[..], &[0; 8], &expected[records as usize..]].concat();
    expected.extend(Sha256::digest(hashed));
    assert_eq!(bytes, expected);
}

#[test]
fn every_truncation_is_refused() {
    for bytes in [file(&meta()), file(&newest())] {
        read_bytes(&bytes).unwrap();
        for length in 0..bytes.len() {
            read_bytes(&bytes[..length]).unwrap_err();
        }
        read_bytes(&[bytes, vec![0]].concat()).unwrap_err();
    }
}

/// Damage is reported when its epoch is read, and only then.
#[test]
fn a_flipped_bit_is_found_when_its_epoch_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels");
    for meta in [Meta { epochs: 4, ..meta() }, newest()] {
        let good = file(&meta);
        let layout = meta.layout(serde_json::to_vec(&meta).unwrap().len()).unwrap();
        let places = layout.batches * u64::from(meta.stored_epochs());
        for (place, mask) in (0..places).zip([1, 2, 4, 8, 16, 32, 64, 128].into_iter().cycle()) {
            let damaged = (place / layout.batches) as usize;
            let mut bytes = good.clone();
            bytes[layout.start(place) as usize + 20] ^= mask;
            fs::write(&path, &bytes).unwrap();
            let store = LabelStore::open(&path).unwrap();
            for epoch in 0..meta.epochs as usize {
                for batch in 0..meta.batches() {
                    let found =
                        store.get(epoch, batch).map(drop).map_err(|error| error.to_string());
                    let stored = epoch % meta.stored_epochs() as usize;
                    let expected = format!(
                        "{}: epoch {damaged} is not as it was written (its hash differs); the file is damaged: remove it and relabel again",
                        path.display()
                    );
                    assert_eq!(found, if stored == damaged { Err(expected) } else { Ok(()) });
                }
            }
            store.check().unwrap_err();
        }
    }
}

/// Epochs that were moved, or come from another store, are refused by their hashes.
#[test]
fn epochs_are_known_by_their_place_and_store() {
    let (one, other) = (small_file(), file(&Meta { config_hash: "decade".into(), ..meta() }));
    let layout = meta().layout(serde_json::to_vec(&meta()).unwrap().len()).unwrap();
    let (first, second) = (layout.records as usize, layout.start(layout.batches) as usize);
    let swapped = [&one[..first], &one[second..], &one[first..second]].concat();
    assert!(read_bytes(&swapped).unwrap_err().contains("epoch 0 is not as it was written"));
    let foreign = [&one[..second], &other[second..]].concat();
    assert!(read_bytes(&foreign).unwrap_err().contains("epoch 1 is not as it was written"));
}

/// Changes every byte in two ways: verification fails, and reading without it never panics.
#[test]
fn every_changed_byte_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels");
    let bytes = [file(&meta()), file(&newest())];
    for (bytes, at) in bytes.iter().flat_map(|bytes| (0..bytes.len()).map(move |at| (bytes, at))) {
        for change in [1, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            fs::write(&path, &changed).unwrap();
            let Ok(store) = LabelStore::open(&path) else { continue };
            for place in 0..6 {
                let _ = store.get(place / 3, place % 3);
            }
            store.verify().unwrap_err();
        }
    }
}

/// Forges a file with matching hashes.
fn forge(change: impl Fn(&mut Vec<u8>)) -> String {
    let mut bytes = small_file();
    change(&mut bytes);
    let layout = meta().layout(serde_json::to_vec(&meta()).unwrap().len()).unwrap();
    let records = layout.records as usize;
    let head = Sha256::digest(&bytes[..records - HASH]);
    bytes[records - HASH..records].copy_from_slice(&head);
    for epoch in 0..2u64 {
        let start = layout.start(epoch * layout.batches) as usize;
        let end = start + layout.epoch() as usize;
        let hash = Sha256::digest([&head[..], &epoch.to_le_bytes(), &bytes[start..end]].concat());
        bytes[end..end + HASH].copy_from_slice(&hash);
    }
    read_bytes(&bytes).unwrap_err()
}

fn put(at: usize, value: &'static [u8]) -> impl Fn(&mut Vec<u8>) {
    move |bytes| bytes[at..at + value.len()].copy_from_slice(value)
}

fn with_metadata(from: &'static str, to: &'static str) -> impl Fn(&mut Vec<u8>) {
    assert_eq!(from.len(), to.len());
    move |bytes| {
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        put(at, to.as_bytes())(bytes);
    }
}

#[test]
fn forged_files_are_explained() {
    let layout = meta().layout(serde_json::to_vec(&meta()).unwrap().len()).unwrap();
    let (index, first) = (layout.index as usize, layout.records as usize);
    let cases = [
        (forge(put(0, b"X")), "is not a soft-label store; give the file that `scdd relabel` wrote"),
        (
            forge(put(8, &[3])),
            "has the format version 3, this program reads 4; remove it and relabel again, or use the program that wrote it",
        ),
        (forge(put(8, &[5])), "has the format version 5, this program reads 4"),
        (forge(put(12, &[255; 4])), "announces metadata of 4294967295 bytes"),
        (forge(put(16, b"!")), "its metadata is wrong"),
        (forge(with_metadata("\"images\":7", "\"images\":0")), "each must be at least 1"),
        (forge(with_metadata("\"height\":9", "\"height\":0")), "sides must be 1 to 65535"),
        (forge(with_metadata("\"config_hash\"", "\"config_hush\"")), "unknown field `config_hush`"),
        (forge(with_metadata("\"classes\":3", "\"classes\":4")), "not what its metadata announces"),
        (forge(put(index + 15, &[255])), "entry 1 of its index is wrong"),
        (forge(put(first, &[9])), "batch 0 of epoch 0: the unknown mix 9"),
        (
            forge(put(first, &[2])),
            "batch 0 of epoch 0: a mix MixUp where the metadata announces CutMix",
        ),
        (forge(put(first + 4, &[0; 4])), "its lambda does not belong to its mix"),
        (forge(put(first + 16, &[7])), "batch 0 of epoch 0: image 7 of 7"),
        (forge(put(first + 28, &[3])), "does not fit 3 images"),
        (forge(put(first + 45, &[1])), "is not a box inside an image of 9x8 pixels"),
        (forge(put(first + 64, &[0, 0x7c])), "the logit inf"),
        (forge(put(first + 82, &[2])), "the flip 2"),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
    let huge =
        Meta { images: u32::MAX, classes: u32::MAX, epochs: u32::MAX, batch_size: 1, ..meta() };
    assert!(huge.layout(0).is_none());
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels");
    let good = batches(&meta(), 1)[0].clone();
    let cut =
        |height| DrawnMix::CutMix { partner: vec![0, 1, 2], top: 0, left: 0, height, width: 1 };
    let view = View { top: 0, left: 0, height: 10, width: 1, flip: false };
    let operation = Operation { kind: scdd_data::augment::Kind::DsaFlip, values: [1.0, 0.0, 0.0] };
    let cases = [
        (
            LabelBatch { indices: vec![0, 1], ..good.clone() },
            "batch 0 of epoch 0: 2 images and 3 views instead of 3",
        ),
        (LabelBatch { indices: vec![0, 1, 7], ..good.clone() }, "image 7 of 7"),
        (LabelBatch { views: vec![view; 3], ..good.clone() }, "is not a box inside"),
        (
            LabelBatch { operations: vec![operation; 3], ..good.clone() },
            "3 operations instead of 0 for each of 3 views",
        ),
        (LabelBatch { mix: cut(7), ..good.clone() }, "does not fit 3 images of 6x5"),
        (
            LabelBatch {
                mix: DrawnMix::MixUp { partner: vec![0, 1, 2], lambda: 0.5 },
                ..good.clone()
            },
            "a mix MixUp",
        ),
        (
            LabelBatch { logits: Array2::zeros((3, 4)), ..good.clone() },
            "logits (3, 4) of 3 images and 3 classes",
        ),
        (
            LabelBatch { logits: Array2::from_elem((3, 3), f32::NAN), ..good.clone() },
            "the logit NaN",
        ),
        (
            LabelBatch { logits: Array2::from_elem((3, 3), 7e4), ..good.clone() },
            "f16 cannot hold; use f32",
        ),
    ];
    for (batch, expected) in cases {
        let message = Writer::open(&path, meta()).unwrap().append(&batch).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
    let top_k = |k, temperature| Meta {
        top_k: Some(StoredTopK { k, temperature: Some(temperature) }),
        ..meta()
    };
    let cases = [
        (Meta { classes: 0, ..meta() }, "each must be at least 1"),
        (Meta { pad: 65_000, ..meta() }, "with a border of 65000 seen as"),
        (
            Meta { augment: Some(Augment::RandAugment { operations: 0, magnitude: 9 }), ..meta() },
            "0 operations of magnitude 9 for each view: must be 1 to 16",
        ),
        (
            Meta { stored_epochs: Some(2), ..meta() },
            "2 stored epochs of 2: must be at least 1, and fewer than all",
        ),
        (top_k(3, 1.0), "the 3 largest of 3 logits: must be at least 1, and fewer than all"),
        (top_k(1, 0.0), "a temperature of 0: must be above 0"),
    ];
    for (meta, expected) in cases {
        let message = Writer::open(&path, meta).err().unwrap().to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn only_finished_stores_appear() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels");
    let batches = batches(&meta(), 1);
    let mut writer = Writer::open(&path, meta()).unwrap();
    writer.append(&batches[0]).unwrap();
    let message = writer.finish().unwrap_err().to_string();
    assert!(message.contains("1 batches where the metadata announces 6"), "{message}");
    assert!(!path.exists());

    let mut writer = Writer::open(&path, meta()).unwrap();
    for batch in &batches {
        writer.append(batch).unwrap();
    }
    let message = writer.append(&batches[0]).unwrap_err().to_string();
    assert!(message.contains("more batches than the metadata announces"), "{message}");
    writer.finish().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Dropping a writer leaves the same file as a kill, except for unflushed data.
#[test]
fn a_writer_goes_on_after_the_last_whole_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels");
    let meta = Meta { epochs: 4, ..meta() };
    let batches = batches(&meta, 1);
    let per_epoch = batches.len() / 4;
    let whole = file_of(&meta, &batches);
    let begun = |count: usize| {
        let mut writer = Writer::open(&path, meta.clone()).unwrap();
        let first = writer.epochs() as usize * per_epoch;
        batches[first..count].iter().for_each(|batch| writer.append(batch).unwrap());
        writer.epochs()
    };
    let goes_on_from = |epoch: u32| {
        let mut writer = Writer::open(&path, meta.clone()).unwrap();
        assert_eq!(writer.epochs(), epoch);
        for batch in &batches[epoch as usize * per_epoch..] {
            writer.append(batch).unwrap();
        }
        writer.finish().unwrap();
        assert!(fs::read(&path).unwrap() == whole, "from epoch {epoch}");
        fs::remove_file(&path).unwrap();
    };
    assert_eq!(begun(per_epoch - 1), 0);
    goes_on_from(0);
    assert_eq!(begun(2 * per_epoch), 2);
    assert_eq!(begun(3 * per_epoch + 1), 3);
    goes_on_from(3);
    // Damage costs its epoch and all later ones; another head costs all epochs.
    let spoilt = |at: &dyn Fn(usize) -> usize| {
        begun(batches.len());
        let mut bytes = fs::read(under_way(&path)).unwrap();
        let place = at(bytes.len());
        bytes[place] ^= 1;
        fs::write(under_way(&path), bytes).unwrap();
    };
    spoilt(&|length| length - 40);
    goes_on_from(3);
    spoilt(&|length| length - 1);
    goes_on_from(3);
    spoilt(&|_| 30);
    goes_on_from(0);
    begun(batches.len());
    goes_on_from(4);
    begun(2 * per_epoch);
    let other = Meta { config_hash: "other".into(), ..meta.clone() };
    assert_eq!(Writer::open(&path, other).unwrap().epochs(), 0);
}

#[test]
fn epochs_that_were_labelled_apart_give_the_same_bytes() {
    let meta = Meta { epochs: 5, ..meta() };
    let (dir, all) = (tempfile::tempdir().unwrap(), batches(&meta, 1));
    let (path, of_epoch) = (dir.path().join("labels"), meta.batches());
    let apart = |epoch: u32, meta: &Meta| {
        let mut writer = Writer::open_epoch(&path, meta.clone(), epoch).unwrap();
        for batch in all.chunks(of_epoch).nth(epoch as usize).unwrap() {
            writer.append(batch).unwrap();
        }
        writer.finish_epoch().unwrap();
        dir.path().join(format!("labels.epoch-{epoch:05}"))
    };
    // The second is damaged, and the fifth is another store's.
    let damaged = apart(1, &meta);
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[5] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    apart(4, &Meta { config_hash: "other".into(), ..meta.clone() });
    for epoch in [3, 0] {
        apart(epoch, &meta);
    }
    let mut writer = Writer::open(&path, meta.clone()).unwrap();
    assert_eq!(writer.epochs_apart().unwrap(), [0, 3].into());
    for (epoch, batches) in (0..).zip(all.chunks(of_epoch)) {
        assert_eq!(writer.epochs(), epoch);
        match epoch {
            0 | 3 => writer.absorb().unwrap(),
            _ => batches.iter().for_each(|batch| writer.append(batch).unwrap()),
        }
    }
    writer.finish().unwrap();
    assert!(fs::read(&path).unwrap() == file(&meta));
}

fn file_of(meta: &Meta, batches: &[LabelBatch]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("labels"), meta, batches);
    fs::read(dir.path().join("labels")).unwrap()
}

#[test]
fn batches_that_are_not_there_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels");
    write(&path, &meta(), &batches(&meta(), 1));
    let store = LabelStore::open(&path).unwrap();
    for (epoch, batch) in [(2, 0), (0, 3), (usize::MAX, usize::MAX)] {
        let message = store.get(epoch, batch).unwrap_err().to_string();
        assert!(message.contains("but there are 2 epochs of 3 batches"), "{message}");
    }
    let message = LabelStore::open(&dir.path().join("none")).unwrap_err().to_string();
    assert!(message.contains("cannot open"), "{message}");
}
