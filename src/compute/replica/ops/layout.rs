//! Operators that move elements without changing them.

use tch::{Kind, Tensor};

use super::super::error::OpError;
use super::super::kind;
use super::conv::{or_ones, pad as pad_constant};
use super::{Args, axis_of, bounded};
use crate::transfer;
use scdd_graph::ops::{Layout, PadMode, Scatter};

pub fn run(op: &Layout, args: &Args) -> Result<Vec<Tensor>, OpError> {
    let x = args.get(0)?;
    let y = match op {
        Layout::Reshape { allow_zero } => {
            x.f_reshape(reshape(&x.size(), args.i64s(1)?, *allow_zero)?)?
        }
        Layout::Flatten { axis } => flatten(x, *axis)?,
        Layout::Transpose { perm } => {
            let reversed = || (0..x.dim() as i64).rev().collect();
            x.f_permute(perm.clone().unwrap_or_else(reversed))?
        }
        Layout::Squeeze => squeeze(x, args.opt_i64s(1)?)?,
        Layout::Unsqueeze => unsqueeze(x, &args.i64s(1)?)?,
        Layout::Concat { axis } => Tensor::f_cat(&args.all()?, axis_of(*axis, x.dim())?)?,
        Layout::Split { axis, parts } => return split(x, *axis, *parts, args),
        Layout::Slice => slice(x, args)?,
        Layout::Pad { mode } => pad(x, *mode, args)?,
        Layout::Expand => expand(x, &args.i64s(1)?)?,
        Layout::Tile => tile(x, args.i64s(1)?)?,
        Layout::Gather { axis } => gather(x, args.get(1)?, *axis)?,
        Layout::GatherElements { axis } => {
            let axis = axis_of(*axis, x.dim())?;
            x.f_gather(axis, &positive(args.get(1)?, x.size()[axis as usize])?, false)?
        }
        Layout::GatherNd { batch_dims } => gather_nd(x, args.get(1)?, *batch_dims)?,
        Layout::ScatterNd { scatter } => scatter_nd(x, args.get(1)?, args.get(2)?, *scatter)?,
        Layout::ScatterElements { axis, scatter } => {
            let axis = axis_of(*axis, x.dim())?;
            let indices = positive(args.get(1)?, x.size()[axis as usize])?;
            scatter_along(x, axis, &indices, args.get(2)?, *scatter)?
        }
        Layout::DepthToSpace { block, column_major } => depth_to_space(x, *block, *column_major)?,
        Layout::SpaceToDepth { block, column_major } => space_to_depth(x, *block, *column_major)?,
        Layout::Col2Im { strides, dilations, pads } => {
            col2im(x, &args.i64s(1)?, &args.i64s(2)?, [strides, dilations, pads])?
        }
        Layout::Cast { to } => x.f_to_kind(kind(*to))?,
        Layout::CastLike => x.f_to_kind(args.get(1)?.kind())?,
        Layout::Trilu { upper } => {
            let diagonal = args.opt_i64s(1)?.and_then(|k| k.first().copied()).unwrap_or(0);
            if *upper { x.f_triu(diagonal)? } else { x.f_tril(diagonal)? }
        }
    };
    Ok(vec![y])
}

/// Adds each value of `x` `[N, C · block, L]` to its pixel of the image.
fn col2im(
    x: &Tensor,
    image: &[i64],
    block: &[i64],
    [strides, dilations, pads]: [&Vec<i64>; 3],
) -> Result<Tensor, OpError> {
    let rank = image.len();
    let (strides, dilations) = (or_ones(strides, rank)?, or_ones(dilations, rank)?);
    let pads = if pads.is_empty() { vec![0; 2 * rank] } else { pads.clone() };
    let positive = [image, block, &strides, &dilations].iter().all(|n| n.iter().all(|&n| n > 0));
    if block.len() != rank || pads.len() != 2 * rank || !positive || pads.iter().any(|&p| p < 0) {
        return Err(OpError::Other(format!(
            "image {image:?}, block {block:?} and pads {pads:?} do not fit each other"
        )));
    }
    let area = block.iter().fold(1i64, |area, &side| area.saturating_mul(side));
    let padded: Vec<i64> = (0..rank)
        .map(|i| image[i].saturating_add(pads[i]).saturating_add(pads[rank + i]))
        .collect();
    bounded(&padded)?;
    let (n, columns, places) = x.size3()?;
    bounded(&[&[n, columns / area], &padded[..]].concat())?;
    let options = (Kind::Int64, x.device());
    // The index in the padded image of every [position in the block, block], built axis by axis.
    let mut index = Tensor::f_zeros([1, 1], options)?;
    for axis in 0..rank {
        let reach = (block[axis] - 1).saturating_mul(dilations[axis]);
        let blocks = (padded[axis] - 1).saturating_sub(reach).div_euclid(strides[axis]) + 1;
        let within = Tensor::f_arange(block[axis].min(padded[axis] + 1), options)?;
        let starts = Tensor::f_arange(blocks.max(0), options)?.f_mul_scalar(strides[axis])?;
        let place = within.f_mul_scalar(dilations[axis])?.f_unsqueeze(1)?.f_add(&starts)?;
        let (outer, inner) = (index.f_mul_scalar(padded[axis])?, place.f_unsqueeze(1)?);
        let size = [outer.size()[0] * place.size()[0], outer.size()[1] * place.size()[1]];
        index = outer.f_unsqueeze(1)?.f_unsqueeze(3)?.f_add(&inner)?.f_reshape(size)?;
    }
    if columns % area != 0 || index.size() != [area, places] {
        return Err(OpError::Other(format!(
            "columns {:?} are no blocks {block:?} of an image {image:?}",
            x.size()
        )));
    }
    let count: i64 = padded.iter().product();
    let values = x.f_reshape([n, columns / area, area * places])?;
    let flat = Tensor::f_zeros([n, columns / area, count], (x.kind(), x.device()))?;
    let flat = flat.f_index_add(2, &index.f_reshape([-1])?, &values)?;
    let whole = flat.f_reshape([&[n, columns / area], &padded[..]].concat())?;
    let inside =
        |whole: Tensor, axis: usize| whole.f_narrow(2 + axis as i64, pads[axis], image[axis]);
    Ok((0..rank).try_fold(whole, inside)?)
}

fn tile(x: &Tensor, repeats: Vec<i64>) -> Result<Tensor, OpError> {
    if repeats.len() != x.dim() {
        return Err(OpError::Other(format!("{} repeats for {} axes", repeats.len(), x.dim())));
    }
    let shape: Vec<i64> =
        x.size().iter().zip(&repeats).map(|(d, r)| d.saturating_mul(*r)).collect();
    bounded(&shape)?;
    Ok(x.f_repeat(repeats)?)
}

fn reshape(size: &[i64], mut shape: Vec<i64>, allow_zero: bool) -> Result<Vec<i64>, OpError> {
    for (i, dim) in shape.iter_mut().enumerate().filter(|(_, d)| **d == 0 && !allow_zero) {
        *dim = *size.get(i).ok_or_else(|| {
            OpError::Other(format!("the new shape copies axis {i}, which the input lacks"))
        })?;
    }
    // libtorch can't infer a dimension of an empty tensor.
    if size.contains(&0) {
        let known = shape.iter().filter(|&&d| d > 0).fold(1i64, |n, &d| n.saturating_mul(d));
        let total: i64 = size.iter().product();
        shape
            .iter_mut()
            .filter(|d| **d == -1)
            .for_each(|d| *d = if known == 0 { 0 } else { total / known });
    }
    Ok(shape)
}

fn flatten(x: &Tensor, axis: i64) -> Result<Tensor, OpError> {
    let size = x.size();
    let axis = if axis == size.len() as i64 { axis } else { axis_of(axis, size.len())? } as usize;
    Ok(x.f_reshape([size[..axis].iter().product::<i64>(), size[axis..].iter().product()])?)
}

fn squeeze(x: &Tensor, axes: Option<Vec<i64>>) -> Result<Tensor, OpError> {
    let Some(axes) = axes else { return Ok(x.f_squeeze()?) };
    let mut axes: Vec<i64> =
        axes.into_iter().map(|a| axis_of(a, x.dim())).collect::<Result<_, _>>()?;
    axes.sort_unstable();
    if let Some(axis) = axes.iter().find(|&&a| x.size()[a as usize] != 1) {
        return Err(OpError::Other(format!(
            "axis {axis} has {} elements, not 1",
            x.size()[*axis as usize]
        )));
    }
    let first = x.shallow_clone();
    Ok(axes.into_iter().rev().try_fold(first, |y, axis| y.f_squeeze_dim(axis))?)
}

fn unsqueeze(x: &Tensor, axes: &[i64]) -> Result<Tensor, OpError> {
    let rank = x.dim() + axes.len();
    let mut axes: Vec<i64> = axes.iter().map(|&a| axis_of(a, rank)).collect::<Result<_, _>>()?;
    axes.sort_unstable();
    let first = x.shallow_clone();
    Ok(axes.into_iter().try_fold(first, |y, axis| y.f_unsqueeze(axis))?)
}

fn split(x: &Tensor, axis: i64, parts: Option<i64>, args: &Args) -> Result<Vec<Tensor>, OpError> {
    let axis = axis_of(axis, x.dim())?;
    let size = x.size()[axis as usize];
    let sizes = match args.opt_i64s(1)? {
        Some(sizes) => sizes,
        None => {
            let parts = parts.unwrap_or(args.outputs() as i64);
            if !(1..=size.max(1)).contains(&parts) && parts != args.outputs() as i64 {
                return Err(OpError::Other(format!("splits {size} elements into {parts} parts")));
            }
            let each = (size + parts - 1) / parts;
            (0..parts).map(|i| each.min(size - i * each).max(0)).collect()
        }
    };
    Ok(x.f_split_with_sizes(sizes, axis)?)
}

/// Slices one axis at a time. With a negative step, selects the elements by index.
fn slice(x: &Tensor, args: &Args) -> Result<Tensor, OpError> {
    let (starts, ends) = (args.i64s(1)?, args.i64s(2)?);
    let axes = args.opt_i64s(3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = args.opt_i64s(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(OpError::Other("starts, ends, axes and steps differ in length".into()));
    }
    let mut y = x.shallow_clone();
    for i in 0..starts.len() {
        let axis = axis_of(axes[i], x.dim())?;
        let size = y.size()[axis as usize];
        let wrap = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
        y = match steps[i] {
            0 => return Err(OpError::Other("a step of 0".into())),
            step if step > 0 => {
                let (start, end) = (wrap(starts[i]).clamp(0, size), wrap(ends[i]).clamp(0, size));
                y.f_slice(axis, start, end.max(start), step)?
            }
            step => {
                let (start, end) =
                    (wrap(starts[i]).clamp(-1, size - 1), wrap(ends[i]).clamp(-1, size - 1));
                let picks: Vec<i64> = std::iter::successors(Some(start), |v| v.checked_add(step))
                    .take_while(|&v| v > end)
                    .collect();
                y.f_index_select(axis, &transfer::send(&Tensor::from_slice(&picks), y.device())?)?
            }
        };
    }
    Ok(y)
}

/// Per axis, the padding before and after.
fn read_pads(x: &Tensor, args: &Args) -> Result<Vec<(i64, i64)>, OpError> {
    let flat = args.i64s(1)?;
    let axes = args.opt_i64s(3)?.unwrap_or_else(|| (0..x.dim() as i64).collect());
    if flat.len() != 2 * axes.len() {
        return Err(OpError::Other(format!("{} pads for {} axes", flat.len(), axes.len())));
    }
    let mut pads = vec![(0, 0); x.dim()];
    for (i, &axis) in axes.iter().enumerate() {
        pads[axis_of(axis, x.dim())? as usize] = (flat[i], flat[i + axes.len()]);
    }
    Ok(pads)
}

fn pad(x: &Tensor, mode: PadMode, args: &Args) -> Result<Tensor, OpError> {
    let pads = read_pads(x, args)?;
    let padded = x
        .size()
        .into_iter()
        .zip(&pads)
        .map(|(d, (before, after))| d.saturating_add(*before).saturating_add(*after));
    bounded(&padded.collect::<Vec<_>>())?;
    if mode == PadMode::Constant {
        let value = match args.opt(2) {
            Some(v) => f64::try_from(v.f_reshape([-1])?.f_get(0)?)?,
            None => 0.0,
        };
        return pad_constant(x, &pads, value);
    }
    let mut y = x.shallow_clone();
    for (axis, &(before, after)) in pads.iter().enumerate().filter(|(_, p)| **p != (0, 0)) {
        let size = y.size()[axis];
        let picks: Vec<i64> =
            (-before..size + after).map(|i| source_index(i, size, mode)).collect();
        y = y.f_index_select(
            axis as i64,
            &transfer::send(&Tensor::from_slice(&picks), y.device())?,
        )?;
    }
    Ok(y)
}

/// The index of the element that stands at position `i` of an axis of `size`; `i` may lie outside
/// the axis.
fn source_index(i: i64, size: i64, mode: PadMode) -> i64 {
    match mode {
        PadMode::Wrap => i.rem_euclid(size.max(1)),
        PadMode::Reflect => {
            let period = (2 * (size - 1)).max(1);
            let folded = i.rem_euclid(period);
            if folded < size { folded } else { period - folded }
        }
        PadMode::Edge | PadMode::Constant => i.clamp(0, (size - 1).max(0)),
    }
}

fn expand(x: &Tensor, shape: &[i64]) -> Result<Tensor, OpError> {
    let size = x.size();
    let rank = size.len().max(shape.len());
    let dim = |dims: &[i64], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |j| dims[j]);
    let target: Vec<i64> =
        (0..rank).map(|i| if dim(shape, i) == 1 { dim(&size, i) } else { dim(shape, i) }).collect();
    bounded(&target)?;
    Ok(x.f_expand(target, false)?)
}

/// The indices in int64. Negative indices count from the end of an axis of `size`.
fn positive(indices: &Tensor, size: i64) -> Result<Tensor, OpError> {
    let indices = indices.f_to_kind(Kind::Int64)?;
    Ok(indices.f_where_self(&indices.f_ge(0)?, &indices.f_add_scalar(size)?)?)
}

fn gather(x: &Tensor, indices: &Tensor, axis: i64) -> Result<Tensor, OpError> {
    let axis = axis_of(axis, x.dim())? as usize;
    let size = x.size();
    let flat = positive(indices, size[axis])?.f_reshape([-1])?;
    let shape = [&size[..axis], &indices.size(), &size[axis + 1..]].concat();
    Ok(x.f_index_select(axis as i64, &flat)?.f_reshape(shape)?)
}

/// The last axis of `indices`, split into one index tensor per leading axis of `size`.
fn split_indices(indices: &Tensor, size: &[i64]) -> Result<Vec<Option<Tensor>>, OpError> {
    let depth =
        *indices.size().last().ok_or_else(|| OpError::Other("the indices are a scalar".into()))?;
    if depth < 0 || depth as usize > size.len() {
        return Err(OpError::Other(format!("indices of depth {depth} into {} axes", size.len())));
    }
    (0..depth).map(|i| positive(&indices.f_select(-1, i)?, size[i as usize]).map(Some)).collect()
}

fn gather_nd(x: &Tensor, indices: &Tensor, batch_dims: i64) -> Result<Tensor, OpError> {
    if batch_dims == 0 {
        let parts = split_indices(indices, &x.size())?;
        return Ok(x.f_index(&parts)?);
    }
    let rows = (0..*x.size().first().unwrap_or(&0))
        .map(|i| gather_nd(&x.f_get(i)?, &indices.f_get(i)?, batch_dims - 1));
    Ok(Tensor::f_stack(&rows.collect::<Result<Vec<_>, _>>()?, 0)?)
}

fn scatter_nd(
    x: &Tensor,
    indices: &Tensor,
    updates: &Tensor,
    scatter: Scatter,
) -> Result<Tensor, OpError> {
    let size = x.size();
    let parts = split_indices(indices, &size)?;
    if matches!(scatter, Scatter::Replace | Scatter::Add) {
        return Ok(x.f_index_put(&parts, updates, scatter == Scatter::Add)?);
    }
    // The rows that the indices select, scattered along one flattened axis.
    let (outer, inner) = size.split_at(parts.len());
    let row: i64 = inner.iter().product();
    let mut flat = Tensor::f_zeros([], (Kind::Int64, x.device()))?;
    for (part, &dim) in parts.iter().flatten().zip(outer) {
        flat = flat.f_mul_scalar(dim)?.f_add(part)?;
    }
    let rows = x.f_reshape([outer.iter().product::<i64>(), row])?;
    let updates = updates.f_reshape([-1, row])?;
    let flat = flat.f_reshape([-1, 1])?.f_expand(updates.size(), false)?;
    Ok(scatter_along(&rows, 0, &flat, &updates, scatter)?.f_reshape(size)?)
}

fn scatter_along(
    x: &Tensor,
    axis: i64,
    indices: &Tensor,
    updates: &Tensor,
    scatter: Scatter,
) -> Result<Tensor, OpError> {
    let reduce = |how: &str| x.f_internal_scatter_reduce(axis, indices, updates, how, true);
    Ok(match scatter {
        Scatter::Replace => x.f_scatter(axis, indices, updates)?,
        Scatter::Add => x.f_scatter_add(axis, indices, updates)?,
        Scatter::Multiply => reduce("prod")?,
        Scatter::Max => reduce("amax")?,
        Scatter::Min => reduce("amin")?,
    })
}

fn depth_to_space(x: &Tensor, block: i64, column_major: bool) -> Result<Tensor, OpError> {
    let (n, c, h, w) = x.size4()?;
    let depth = c / (block * block);
    let (shape, perm) = if column_major {
        ([n, depth, block, block, h, w], [0, 1, 4, 2, 5, 3])
    } else {
        ([n, block, block, depth, h, w], [0, 3, 4, 1, 5, 2])
    };
    Ok(x.f_reshape(shape)?.f_permute(perm)?.f_reshape([n, depth, h * block, w * block])?)
}

fn space_to_depth(x: &Tensor, block: i64, column_major: bool) -> Result<Tensor, OpError> {
    let (n, c, h, w) = x.size4()?;
    let blocks = x.f_reshape([n, c, h / block, block, w / block, block])?;
    let perm = if column_major { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
    Ok(blocks.f_permute(perm)?.f_reshape([n, c * block * block, h / block, w / block])?)
}
