//! A record of the store: one batch as bytes. The parent module describes the format.

use super::{LabelBatch, Meta, MixKind, OPERATION, RECORD_PREFIX};
use scdd_data::augment::Kind;
use scdd_data::{DrawnMix, Operation, View};

/// Checks a batch of `size` images against the metadata.
pub(super) fn check_batch(batch: &LabelBatch, meta: &Meta, size: usize) -> Result<(), String> {
    if batch.indices.len() != size || batch.views.len() != size {
        return Err(format!(
            "{} images and {} views instead of {size}",
            batch.indices.len(),
            batch.views.len()
        ));
    }
    if let Some(index) = batch.indices.iter().find(|index| **index >= meta.images) {
        return Err(format!("image {index} of {}", meta.images));
    }
    for view in &batch.views {
        view.check(meta.canvas()).map_err(|error| error.to_string())?;
    }
    let foreign =
        |operation: &&Operation| meta.augment.is_none_or(|augment| !augment.has(operation));
    if batch.operations.len() != size * meta.operations() {
        let found = batch.operations.len();
        return Err(format!(
            "{found} operations instead of {} for each of {size} views",
            meta.operations()
        ));
    }
    if let Some(operation) = batch.operations.iter().find(foreign) {
        return Err(format!("an {operation:?} where the metadata announces {:?}", meta.augment));
    }
    let kind = match batch.mix {
        DrawnMix::None => MixKind::None,
        DrawnMix::CutMix { .. } => MixKind::CutMix,
        DrawnMix::MixUp { .. } => MixKind::MixUp,
    };
    if kind != MixKind::None && kind != meta.mix {
        return Err(format!("a mix {kind:?} where the metadata announces {:?}", meta.mix));
    }
    batch.mix.check(size, meta.input).map_err(|error| error.to_string())?;
    if batch.logits.dim() != (size, meta.classes as usize) {
        return Err(format!(
            "logits {:?} of {size} images and {} classes",
            batch.logits.dim(),
            meta.classes
        ));
    }
    match batch.logits.iter().find(|logit| !logit.is_finite()) {
        Some(logit) => Err(format!("the logit {logit}, which is not finite")),
        None => Ok(()),
    }
}

/// The record of a batch that was checked.
pub(super) fn encode(batch: &LabelBatch, meta: &Meta) -> Result<Vec<u8>, String> {
    let mut record = vec![];
    let (kind, cut, partner) = match &batch.mix {
        DrawnMix::None => (0u32, [0; 4], None),
        DrawnMix::CutMix { partner, top, left, height, width } => {
            (1, [*top, *left, *height, *width], Some(partner))
        }
        DrawnMix::MixUp { partner, .. } => (2, [0; 4], Some(partner)),
    };
    record.extend(kind.to_le_bytes());
    record.extend(batch.mix.lambda(meta.input).to_le_bytes());
    record.extend(cut.iter().flat_map(|side| side.to_le_bytes()));
    record.extend(batch.indices.iter().flat_map(|index| index.to_le_bytes()));
    match partner {
        Some(partner) => record.extend(partner.iter().flat_map(|partner| partner.to_le_bytes())),
        None => record.resize(record.len() + 4 * batch.indices.len(), 0),
    }
    let sides = batch.views.iter().flat_map(|view| [view.top, view.left, view.height, view.width]);
    record.extend(sides.flat_map(u16::to_le_bytes));
    for Operation { kind, values } in &batch.operations {
        record.extend((*kind as u32).to_le_bytes());
        record.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    meta.rows().encode(&batch.logits, &mut record)?;
    record.extend(batch.views.iter().map(|view| u8::from(view.flip)));
    record.resize(record.len().next_multiple_of(8), 0);
    Ok(record)
}

/// Decodes the batch of `size` images in a `record` of the length that the metadata requires. Its
/// values are not checked yet.
pub(super) fn decode(record: &[u8], size: usize, meta: &Meta) -> Result<LabelBatch, String> {
    let (prefix, rest) = record.split_at(RECORD_PREFIX as usize);
    let (indices, rest) = rest.split_at(4 * size);
    let (partners, rest) = rest.split_at(4 * size);
    let (views, rest) = rest.split_at(8 * size);
    let (operations, rest) = rest.split_at(OPERATION * size * meta.operations());
    let (logits, flips) = rest.split_at(size * meta.rows().bytes());

    let mix = decode_mix(prefix, partners)?;
    if mix.lambda(meta.input).to_bits() != read_u32(prefix, 4) {
        return Err("its lambda does not belong to its mix".into());
    }
    let views: Result<_, _> =
        views.chunks_exact(8).zip(flips).map(|(sides, flip)| decode_view(sides, *flip)).collect();
    let logits = meta.rows().decode(logits)?;
    let operations =
        operations.chunks_exact(OPERATION).map(decode_operation).collect::<Result<_, _>>()?;
    Ok(LabelBatch { indices: read_u32s(indices), views: views?, operations, mix, logits })
}

fn decode_mix(prefix: &[u8], partners: &[u8]) -> Result<DrawnMix, String> {
    let partner = read_u32s(partners);
    match read_u32(prefix, 0) {
        0 => Ok(DrawnMix::None),
        1 => Ok(DrawnMix::CutMix {
            partner,
            top: read_u16(prefix, 8),
            left: read_u16(prefix, 10),
            height: read_u16(prefix, 12),
            width: read_u16(prefix, 14),
        }),
        2 => Ok(DrawnMix::MixUp { partner, lambda: f32::from_bits(read_u32(prefix, 4)) }),
        other => Err(format!("the unknown mix {other}")),
    }
}

fn decode_view(sides: &[u8], flip: u8) -> Result<View, String> {
    if flip > 1 {
        return Err(format!("the flip {flip}"));
    }
    let [top, left, height, width] = [0, 2, 4, 6].map(|at| read_u16(sides, at));
    Ok(View { top, left, height, width, flip: flip == 1 })
}

fn decode_operation(bytes: &[u8]) -> Result<Operation, String> {
    let number = read_u32(bytes, 0);
    let kind = Kind::of(number).ok_or_else(|| format!("the unknown operation {number}"))?;
    Ok(Operation { kind, values: [4, 8, 12].map(|at| f32::from_bits(read_u32(bytes, at))) })
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

pub(super) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

pub(super) fn read_u32s(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|bytes| read_u32(bytes, 0)).collect()
}
