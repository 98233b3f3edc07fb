//! The operations between two convolutions as one step: statistics of an activation, its
//! normalisation, a residual, an activation function.
//!
//! BN is folded into this step, where an affine map costs nothing, and not into the convolution's
//! weights. So the statistics are those of the activation itself. They could not be recovered from
//! a folded output where a channel's scale vanishes.

use std::sync::Arc;

use tch::{Device, TchError, Tensor};

use super::alignment::MeasuredStatistics;
use crate::compiled::value::{BufferPool, Value};
use crate::compiled::{floats, sum};
use crate::transfer;
use scdd_graph::ValueId;
use scdd_kernels::Isa;
use scdd_kernels::conv::{Piece, for_pieces};
use scdd_kernels::pass::{Backward, FusedActivation, Gathered, Moments, Pass};

/// `out = activation(scale · x + shift + residual)`, and the statistics of `x`.
pub struct PassStep {
    pub x: ValueId,
    pub residual: Option<ValueId>,
    /// `None` if only the statistics are wanted.
    pub out: Option<ValueId>,
    /// The size of `x`: `[N, C, …]`. If the step only measures, the channels may be along another
    /// axis.
    pub size: Vec<i64>,
    /// The channel axis.
    pub axis: usize,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    pub activation: FusedActivation,
    /// The objective's layers that measure `x`.
    pub layers: Vec<usize>,
}

/// `scale` and `shift` of a [`PassStep`] for `tch` operations, in a shape that broadcasts over its
/// input. `None` is 1 and 0: there is no BN, and no sweep over the activation is spent on it.
pub struct AffineTensors(Option<[Tensor; 2]>);

/// The state that a [`PassStep`] saves for the backward pass.
pub struct SavedPass {
    pub x: Value,
    pub residual: Option<Value>,
    /// What libtorch's backward kernel of the activation reads: the result of a clamp, what goes
    /// into another activation.
    pub activation: Option<Tensor>,
}

/// The results of the backward pass: the gradients of `x` and of the residual.
pub struct PassGradients {
    pub x: Value,
    pub residual: Option<Value>,
}

/// The gradient of the statistics per channel: a + b · x.
pub struct StatisticsGradient {
    pub a: Tensor,
    pub b: Tensor,
}

impl PassStep {
    /// A step that only measures the statistics of `x` along `axis`.
    pub fn measuring(x: ValueId, size: Vec<i64>, axis: usize, layers: Vec<usize>) -> Self {
        let channels = size.get(axis).map_or(0, |&c| c as usize);
        Self {
            x,
            residual: None,
            out: None,
            size,
            axis,
            scale: vec![1.0; channels],
            shift: vec![0.0; channels],
            activation: FusedActivation::Identity,
            layers,
        }
    }

    /// Copies the step's constants to `device`, for `tch` operations.
    ///
    /// # Errors
    /// When libtorch can't copy them.
    pub fn affine(&self, device: Device) -> Result<AffineTensors, TchError> {
        let all = |values: &[f32], value: f32| values.iter().all(|&v| v == value);
        if all(&self.scale, 1.0) && all(&self.shift, 0.0) {
            return Ok(AffineTensors(None));
        }
        let copy = |values: &[f32]| transfer::upload(values, &self.broadcast(), device);
        Ok(AffineTensors(Some([copy(&self.scale)?, copy(&self.shift)?])))
    }

    fn channels(&self) -> usize {
        self.scale.len()
    }

    /// The size `[N, C, H, W]` if the kernels support it.
    pub fn image_size(&self) -> Option<[i64; 4]> {
        <[i64; 4]>::try_from(self.size.as_slice()).ok().filter(|_| self.axis == 1)
    }

    fn pass(&self) -> Pass<'_> {
        Pass { scale: &self.scale, shift: &self.shift, activation: self.activation }
    }

    /// The forward pass of one piece of `x`. The result goes to `out`.
    pub fn forward_piece(
        &self,
        isa: Isa,
        index: usize,
        x: &[f32],
        residual: Option<&[f32]>,
        out: Option<&mut [f32]>,
        gathered: &Gathered,
    ) {
        if !self.layers.is_empty() {
            gathered.add(index, Moments::of(isa, x, self.channels()));
        }
        if let Some(out) = out {
            self.pass().forward(isa, x, residual, out);
        }
    }

    /// The backward pass of one piece, in place. The residual's gradient goes to the auxiliary
    /// buffer.
    pub fn backward_piece(&self, isa: Isa, piece: Piece, inputs: &PieceInputs) {
        let range = piece.range(self.channels());
        let more: Vec<&[f32]> = inputs.more.iter().map(|m| &m[range.clone()]).collect();
        let work = Backward {
            x: &inputs.x[range.clone()],
            residual: inputs.residual.map(|r| &r[range]),
            gradient: piece.rows,
            more: &more,
            slope: inputs.slope.as_ref().map(|(a, b)| (&a[..], &b[..])),
            residual_gradient: piece.beside,
        };
        self.pass().backward(isa, work);
    }

    /// The whole step by the kernels, not fused into a convolution.
    pub fn forward(
        &self,
        isa: Isa,
        pool: &Arc<BufferPool>,
        kept: &SavedPass,
        size: [i64; 4],
    ) -> Result<(Option<Value>, Option<MeasuredStatistics>), TchError> {
        let gathered = Gathered::default();
        let x = kept.x.pixels()?;
        let residual = kept.residual.as_ref().map(Value::pixels).transpose()?;
        let result = if self.out.is_some() {
            let mut out = pool.take(x.len());
            for_pieces(self.channels(), &mut out, None, &|piece| {
                let range = piece.range(self.channels());
                let residual = residual.map(|r| &r[range.clone()]);
                self.forward_piece(
                    isa,
                    piece.index,
                    &x[range],
                    residual,
                    Some(piece.rows),
                    &gathered,
                );
            });
            Some(out.finish(size)?)
        } else {
            gathered.add(0, Moments::of_all(isa, x, self.channels()));
            None
        };
        Ok((result, gathered.total().as_ref().map(MeasuredStatistics::of_moments)))
    }

    /// The backward pass by the kernels, not fused into a convolution.
    pub fn backward(
        &self,
        isa: Isa,
        pool: &Arc<BufferPool>,
        kept: &SavedPass,
        gradients: &[Value],
        slope: Option<&StatisticsGradient>,
        size: [i64; 4],
    ) -> Result<PassGradients, TchError> {
        let gradients = gradients.iter().map(Value::pixels).collect::<Result<Vec<_>, _>>()?;
        let (first, more) =
            gradients.split_first().map_or((None, &[][..]), |(first, more)| (Some(*first), more));
        let inputs = PieceInputs::new(kept, more.to_vec(), slope)?;
        let mut x = pool.take(inputs.x.len());
        let mut residual = kept.residual.as_ref().map(|_| pool.take(inputs.x.len()));
        for_pieces(self.channels(), &mut x, residual.as_deref_mut(), &|piece| {
            match first {
                Some(first) => piece.rows.copy_from_slice(&first[piece.range(self.channels())]),
                None => piece.rows.fill(0.0),
            }
            self.backward_piece(isa, piece, &inputs);
        });
        Ok(PassGradients {
            x: x.finish(size)?,
            residual: residual.map(|r| r.finish(size)).transpose()?,
        })
    }

    /// The step as `tch` operations, on any device. Adds to `kept` what the backward pass needs.
    ///
    /// A sweep is one reading or writing of a whole activation, which is what a GPU's time goes
    /// into. Here the statistics take one, BN two, a residual three, a clamp two in place; see
    /// [`backward_torch`](Self::backward_torch) for the way back.
    pub fn forward_torch(
        &self,
        affine: &AffineTensors,
        kept: &mut SavedPass,
    ) -> Result<(Option<Value>, Option<MeasuredStatistics>), TchError> {
        let x = kept.x.tensor();
        let measured = match (self.layers.is_empty(), self.image_size()) {
            (true, _) => None,
            (false, Some(_)) => Some(MeasuredStatistics::of_image(x)?),
            (false, None) => Some(MeasuredStatistics::of_tensor(x, self.axis)?),
        };
        if self.out.is_none() {
            return Ok((None, measured));
        }
        let Preactivation { mut p, is_new } = self.preactivation(affine, kept)?;
        let out = match self.activation {
            FusedActivation::Identity => p,
            FusedActivation::Clamp { low, high } => {
                let (low, high) = (f64::from(low), f64::from(high));
                let out = if is_new { p.f_clamp_(low, high)? } else { p.f_clamp(low, high)? };
                kept.activation = Some(out.shallow_clone());
                out
            }
            FusedActivation::LeakyRelu { alpha } => {
                // `tch` has libtorch's function only with a slope of 0.01. The gradient p is passed
                // where p > 0, else α · p, which is the function itself.
                let out = p.f_leaky_relu_backward(&p, f64::from(alpha), false)?;
                kept.activation = Some(p);
                out
            }
            FusedActivation::HardSwish => {
                let out = p.f_hardswish()?;
                kept.activation = Some(p);
                out
            }
        };
        Ok((Some(out.into()), measured))
    }

    /// The backward pass as `tch` operations: three sweeps for the activation, two for the gradient
    /// of the statistics, three to add BN's to it.
    pub fn backward_torch(
        &self,
        affine: &AffineTensors,
        kept: &SavedPass,
        gradients: &[Value],
        slope: Option<&StatisticsGradient>,
    ) -> Result<PassGradients, TchError> {
        let x = kept.x.tensor();
        let per_channel = |t: &Tensor| t.f_to_kind(x.kind())?.f_reshape(self.broadcast());
        let statistics =
            slope.map(|s| per_channel(&s.a)?.f_addcmul(x, &per_channel(&s.b)?)).transpose()?;
        let Some(gradient) = sum(gradients)? else {
            let x = statistics.map_or_else(|| x.f_zeros_like(), Ok)?;
            return Ok(PassGradients { x: x.into(), residual: None });
        };
        let gradient = self.before_activation(gradient.tensor(), kept)?;
        let pulled = match (statistics, &affine.0) {
            (Some(mut statistics), Some([scale, _])) => statistics.f_addcmul_(&gradient, scale)?,
            (Some(mut statistics), None) => statistics.f_add_(&gradient)?,
            (None, Some([scale, _])) => gradient.f_mul(scale)?,
            (None, None) => gradient.shallow_clone(),
        };
        let residual = kept.residual.as_ref().map(|_| gradient.into());
        Ok(PassGradients { x: pulled.into(), residual })
    }

    /// The gradient before the activation, from that after it.
    fn before_activation(&self, gradient: &Tensor, kept: &SavedPass) -> Result<Tensor, TchError> {
        let kept = || {
            let missing = || TchError::Shape("the activation kept nothing".into());
            kept.activation.as_ref().ok_or_else(missing)
        };
        match self.activation {
            FusedActivation::Identity => Ok(gradient.shallow_clone()),
            FusedActivation::Clamp { low: 0.0, high: f32::INFINITY } => {
                kept()?.f_threshold_backward(gradient, 0.0)
            }
            // A clamped value is at a limit, and no other is.
            FusedActivation::Clamp { low, high } => {
                kept()?.f_hardtanh_backward(gradient, f64::from(low), f64::from(high))
            }
            FusedActivation::LeakyRelu { alpha } => {
                kept()?.f_leaky_relu_backward(gradient, f64::from(alpha), false)
            }
            FusedActivation::HardSwish => kept()?.f_hardswish_backward(gradient),
        }
    }

    fn preactivation(
        &self,
        affine: &AffineTensors,
        kept: &SavedPass,
    ) -> Result<Preactivation, TchError> {
        let x = kept.x.tensor();
        let scaled = match &affine.0 {
            Some([scale, shift]) => Some(shift.f_addcmul(x, scale)?),
            None => None,
        };
        let residual = kept.residual.as_ref().map(Value::tensor);
        let (p, is_new) = match (scaled, residual) {
            (Some(mut scaled), Some(residual)) => (scaled.f_add_(residual)?, true),
            (Some(scaled), None) => (scaled, true),
            (None, Some(residual)) => (x.f_add(residual)?, true),
            (None, None) => (x.shallow_clone(), false),
        };
        Ok(Preactivation { p, is_new })
    }

    /// The shape in which values per channel broadcast over `x`.
    fn broadcast(&self) -> Vec<i64> {
        (0..self.size.len()).map(|axis| if axis == self.axis { -1 } else { 1 }).collect()
    }
}

/// What goes into a step's activation.
struct Preactivation {
    p: Tensor,
    /// Whether it is a tensor of its own, and not the step's input.
    is_new: bool,
}

/// The whole tensors that the pieces of a backward pass read.
pub struct PieceInputs<'a> {
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    more: Vec<&'a [f32]>,
    slope: Option<(Vec<f32>, Vec<f32>)>,
}

impl<'a> PieceInputs<'a> {
    /// `more` are the result's other gradients, besides the one that is updated in place.
    pub fn new(
        kept: &'a SavedPass,
        more: Vec<&'a [f32]>,
        slope: Option<&StatisticsGradient>,
    ) -> Result<Self, TchError> {
        Ok(Self {
            x: kept.x.pixels()?,
            residual: kept.residual.as_ref().map(Value::pixels).transpose()?,
            more,
            slope: slope.map(|s| Ok::<_, TchError>((floats(&s.a)?, floats(&s.b)?))).transpose()?,
        })
    }

    pub fn len(&self) -> usize {
        self.x.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    const SIZE: [i64; 4] = [2, 5, 3, 4];

    /// Eighths from -5 to 5, so that sums and products are exact and activations' limits occur.
    fn eighths(seed: i64) -> Value {
        let count: i64 = SIZE.iter().product();
        let numbers = Tensor::arange(count, (Kind::Int64, Device::Cpu)) * 29 + 17 * seed;
        let values = (numbers.remainder(81) - 40).to_kind(Kind::Float) / 8.0;
        Value::from(values.reshape(SIZE)).channels_last().unwrap()
    }

    fn assert_equal(found: &Value, expected: &Value, what: &str) {
        let apart = (found.tensor() - expected.tensor()).abs().max();
        assert!(f64::try_from(apart).unwrap() < 1e-5, "{what}");
    }

    /// Libtorch's operations, on every device, do what the kernels do.
    #[test]
    fn operations_and_kernels_agree() {
        let channels = |values: [f32; 5]| values.to_vec();
        let bn = [channels([1.0, -0.5, 0.0, 2.0, 0.25]), channels([0.5, 0.0, -1.0, 3.0, 0.125])];
        let of = |values: &[f32]| Tensor::from_slice(values);
        let slope = StatisticsGradient {
            a: of(&[0.5, 0.0, 1.0, -0.25, 2.0]),
            b: of(&[0.125, 0.5, -1.0, 0.0, 0.25]),
        };
        let relu = FusedActivation::Clamp { low: 0.0, high: f32::INFINITY };
        for activation in [
            FusedActivation::Identity,
            relu,
            FusedActivation::Clamp { low: 0.0, high: 3.0 },
            FusedActivation::Clamp { low: f32::NEG_INFINITY, high: 1.0 },
            FusedActivation::LeakyRelu { alpha: 0.125 },
            FusedActivation::HardSwish,
        ] {
            for case in 0..8 {
                let [has_bn, has_residual, is_aligned] = [1, 2, 4].map(|bit| case & bit != 0);
                let layers = if is_aligned { vec![0] } else { Vec::new() };
                let mut step = PassStep::measuring(0, SIZE.to_vec(), 1, layers);
                (step.out, step.activation) = (Some(2), activation);
                step.residual = has_residual.then_some(1);
                if has_bn {
                    [step.scale, step.shift] = bn.clone();
                }
                let what = format!("{activation:?} {has_bn} {has_residual} {is_aligned}");
                // At 3 the two take hard swish's slopes of different sides.
                let off = if activation == FusedActivation::HardSwish { 1.0 / 64.0 } else { 0.0 };
                let [x, residual] = [1, 2].map(|seed| Value::from(eighths(seed).tensor() + off));
                let before = x.tensor().copy();
                let residual = has_residual.then_some(residual);
                let mut kept = SavedPass { x, residual, activation: None };
                let slope = Some(&slope).filter(|_| is_aligned);
                let gradients = [eighths(3), eighths(4)];

                let (isa, pool) = (Isa::best(), Arc::default());
                let (expected, moments) = step.forward(isa, &pool, &kept, SIZE).unwrap();
                let pulled = step.backward(isa, &pool, &kept, &gradients, slope, SIZE).unwrap();
                let affine = step.affine(Device::Cpu).unwrap();
                assert_eq!(affine.0.is_some(), has_bn);
                let (found, measured) = step.forward_torch(&affine, &mut kept).unwrap();
                let own = step.backward_torch(&affine, &kept, &gradients, slope).unwrap();

                assert_equal(&found.unwrap(), &expected.unwrap(), &what);
                assert_equal(&own.x, &pulled.x, &what);
                assert_eq!(own.residual.is_some(), has_residual);
                if let (Some(own), Some(pulled)) = (own.residual, pulled.residual) {
                    assert_equal(&own, &pulled, &what);
                }
                assert_equal(&kept.x, &before.into(), "the input was written");
                assert_eq!(measured.is_some(), is_aligned);
                if let (Some(own), Some(moments)) = (measured, moments) {
                    assert_eq!(own.count, moments.count);
                    for (own, moments) in [(own.mean, moments.mean), (own.var, moments.var)] {
                        assert_equal(&own.into(), &moments.into(), &what);
                    }
                }
            }
        }
    }
}
