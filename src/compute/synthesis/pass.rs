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
/// input.
pub struct AffineTensors([Tensor; 2]);

/// The state that a [`PassStep`] saves for the backward pass.
pub struct SavedPass {
    pub x: Value,
    pub residual: Option<Value>,
    /// The result, where `tch` operations read off it whether the activation clamped.
    pub out: Option<Tensor>,
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
        let copy = |values: &[f32]| transfer::upload(values, &self.broadcast(), device);
        Ok(AffineTensors([copy(&self.scale)?, copy(&self.shift)?]))
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
    pub fn forward_torch(
        &self,
        affine: &AffineTensors,
        kept: &mut SavedPass,
    ) -> Result<(Option<Value>, Option<MeasuredStatistics>), TchError> {
        let x = kept.x.tensor();
        let measured = if self.layers.is_empty() {
            None
        } else {
            Some(MeasuredStatistics::of_tensor(x, self.axis)?)
        };
        if self.out.is_none() {
            return Ok((None, measured));
        }
        let mut p = self.preactivation(affine, kept)?;
        let out = match self.activation {
            FusedActivation::Identity => p,
            FusedActivation::Clamp { low, high } => {
                let out = p.f_clamp_(f64::from(low), f64::from(high))?;
                kept.out = Some(out.shallow_clone());
                out
            }
            FusedActivation::LeakyRelu { alpha } => {
                p.f_maximum(&p.f_mul_scalar(f64::from(alpha))?)?
            }
            FusedActivation::HardSwish => p.f_hardswish()?,
        };
        Ok((Some(out.into()), measured))
    }

    /// The backward pass as `tch` operations.
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
        let gradient = match (self.activation, &kept.out) {
            (FusedActivation::Identity, _) => gradient.tensor().shallow_clone(),
            (FusedActivation::Clamp { low: 0.0, high: f32::INFINITY }, Some(out)) => {
                out.f_threshold_backward(gradient.tensor(), 0.0)?
            }
            // A clamped value is at a limit, and no other is.
            (activation, Some(out)) => gradient.tensor().f_mul(&slope_of(activation, out)?)?,
            (activation, None) => gradient
                .tensor()
                .f_mul(&slope_of(activation, &self.preactivation(affine, kept)?)?)?,
        };
        let AffineTensors([scale, _]) = affine;
        let pulled = match statistics {
            Some(mut statistics) => statistics.f_addcmul_(&gradient, scale)?,
            None => gradient.f_mul(scale)?,
        };
        let residual = kept.residual.as_ref().map(|_| gradient.into());
        Ok(PassGradients { x: pulled.into(), residual })
    }

    /// A new tensor.
    fn preactivation(
        &self,
        AffineTensors([scale, shift]): &AffineTensors,
        kept: &SavedPass,
    ) -> Result<Tensor, TchError> {
        let mut p = shift.f_addcmul(kept.x.tensor(), scale)?;
        match &kept.residual {
            Some(residual) => p.f_add_(residual.tensor()),
            None => Ok(p),
        }
    }

    /// The shape in which values per channel broadcast over `x`.
    fn broadcast(&self) -> Vec<i64> {
        (0..self.size.len()).map(|axis| if axis == self.axis { -1 } else { 1 }).collect()
    }
}

fn slope_of(activation: FusedActivation, p: &Tensor) -> Result<Tensor, TchError> {
    let within = |low: f32, high: f32| -> Result<Tensor, TchError> {
        p.f_gt(f64::from(low))?.f_logical_and(&p.f_lt(f64::from(high))?)?.f_to_kind(p.kind())
    };
    match activation {
        FusedActivation::Identity => p.f_ones_like(),
        FusedActivation::Clamp { low, high } => within(low, high),
        FusedActivation::LeakyRelu { alpha } => {
            let alpha = f64::from(alpha);
            p.f_gt(0.0)?.f_to_kind(p.kind())?.f_mul_scalar(1.0 - alpha)?.f_add_scalar(alpha)
        }
        FusedActivation::HardSwish => {
            let between = within(-3.0, 3.0)?.f_mul(&p.f_div_scalar(3.0)?.f_add_scalar(0.5)?)?;
            between.f_add(&p.f_ge(3.0)?.f_to_kind(p.kind())?)
        }
    }
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
