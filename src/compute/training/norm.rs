//! BatchNorm by the batch's statistics, fused with the operators after it, forward and backward.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use tch::{TchError, Tensor};

use crate::compiled::floats;
use crate::compiled::value::{BufferPool, Value};
use crate::replica::ops::norm::BN_MOMENTUM;
use crate::replica::{Mode, Replica};
use scdd_graph::ValueId;
use scdd_kernels::Isa;
use scdd_kernels::pass::{Backward, FusedActivation, GradientInput, GradientSums, Moments, Pass};
use scdd_kernels::pool::{average, spread};

/// `out = average(activation(γ · (x − mean) / √(var + ε) + β + residual))`; the 2×2 average is
/// optional.
pub struct NormStep {
    pub name: String,
    pub x: ValueId,
    pub residual: Option<ValueId>,
    pub out: ValueId,
    /// The bias of the convolution that computes `x`, which has left it out.
    pub bias: Option<ValueId>,
    pub activation: FusedActivation,
    /// Whether 2×2 pixels are averaged into one.
    pub halves: bool,
    /// Scale, shift, running mean, running variance.
    constants: [ValueId; 4],
    /// The size of `x`, `[N, C, H, W]`.
    size: [usize; 4],
    epsilon: f64,
    loaded: Loaded,
}

/// The parameters' present values, and the tensors of the running statistics.
#[derive(Default)]
struct Loaded {
    scale: Vec<f32>,
    shift: Vec<f32>,
    bias: Vec<f32>,
    running: Option<[Tensor; 2]>,
}

/// The state that a [`NormStep`] saves for the backward pass.
pub struct SavedNorm {
    x: Value,
    residual: Option<Value>,
    affine: ChannelAffine,
    mean: Vec<f32>,
    /// 1 / √(var + ε).
    inverse: Vec<f32>,
}

/// An affine map per channel: scale · x + shift.
struct ChannelAffine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl NormStep {
    /// BatchNorm alone.
    pub fn new(
        name: String,
        x: ValueId,
        out: ValueId,
        constants: [ValueId; 4],
        size: [i64; 4],
        epsilon: f64,
    ) -> Self {
        Self {
            name,
            x,
            residual: None,
            out,
            bias: None,
            activation: FusedActivation::Identity,
            halves: false,
            constants,
            size: size.map(|d| d as usize),
            epsilon,
            loaded: Loaded::default(),
        }
    }

    /// Loads the present parameters of `replica`.
    ///
    /// # Errors
    /// When libtorch can't copy them.
    pub fn load(&mut self, replica: &Replica) -> Result<(), TchError> {
        let missing =
            || TchError::Shape(format!("the parameters of {} are no constants", self.name));
        let constant = |id: ValueId| replica.constants[id].as_ref().ok_or_else(missing);
        let [scale, shift, mean, var] = self.constants;
        let bias = self.bias.map(|id| floats(constant(id)?)).transpose()?;
        self.loaded = Loaded {
            scale: floats(constant(scale)?)?,
            shift: floats(constant(shift)?)?,
            bias: bias.unwrap_or_else(|| vec![0.0; self.size[1]]),
            running: Some([constant(mean)?.shallow_clone(), constant(var)?.shallow_clone()]),
        };
        Ok(())
    }

    fn running(&self) -> Result<&[Tensor; 2], TchError> {
        self.loaded
            .running
            .as_ref()
            .ok_or_else(|| TchError::Shape(format!("{} was not loaded", self.name)))
    }

    /// The result for `x` (whose moments may already be known) and the residual.
    ///
    /// # Errors
    /// When libtorch can't convert a tensor's layout.
    pub fn forward(
        &self,
        isa: Isa,
        pool: &Arc<BufferPool>,
        (x, residual): (&Value, Option<&Value>),
        moments: Option<Moments>,
        mode: Mode,
    ) -> Result<(Value, SavedNorm), TchError> {
        let [n, channels, h, w] = self.size;
        let (x, residual) = (x.channels_last()?, residual.map(Value::channels_last).transpose()?);
        let (mean, inverse) = match mode {
            Mode::Eval => self.running_statistics()?,
            Mode::Train | Mode::Batch => {
                let moments = match moments {
                    Some(moments) => moments,
                    None => Moments::of_all(isa, x.pixels()?, channels),
                };
                if mode == Mode::Train {
                    self.follow(&moments)?;
                }
                let var = moments.squares.iter().map(|squares| squares / moments.count as f64);
                let inverse = var.map(|var| (1.0 / (var + self.epsilon).sqrt()) as f32).collect();
                (moments.mean.iter().map(|&mean| mean as f32).collect(), inverse)
            }
        };
        let kept = SavedNorm { affine: self.affine(&mean, &inverse), x, residual, mean, inverse };
        let (out_h, out_w) = if self.halves { (h / 2, w / 2) } else { (h, w) };
        let mut out = pool.take(n * out_h * out_w * channels);
        self.work(isa, &kept)?.forward(&mut out);
        let size = [n, channels, out_h, out_w].map(|d| d as i64);
        Ok((out.finish(size)?, kept))
    }

    fn work<'a>(&self, isa: Isa, kept: &'a SavedNorm) -> Result<NormWork<'a>, TchError> {
        Ok(NormWork {
            isa,
            size: self.size,
            halves: self.halves,
            pass: Pass {
                scale: &kept.affine.scale,
                shift: &kept.affine.shift,
                activation: self.activation,
            },
            x: kept.x.pixels()?,
            residual: kept.residual.as_ref().map(Value::pixels).transpose()?,
        })
    }

    fn affine(&self, mean: &[f32], inverse: &[f32]) -> ChannelAffine {
        let scale: Vec<f32> =
            self.loaded.scale.iter().zip(inverse).map(|(scale, inverse)| scale * inverse).collect();
        let shift = self
            .loaded
            .shift
            .iter()
            .zip(&scale)
            .zip(mean)
            .map(|((shift, scale), mean)| shift - scale * mean);
        ChannelAffine { shift: shift.collect(), scale }
    }

    /// The running mean, minus the bias that `x` lacks, and the inverse standard deviation.
    fn running_statistics(&self) -> Result<(Vec<f32>, Vec<f32>), TchError> {
        let [mean, var] = self.running()?;
        let (mean, var) = (floats(mean)?, floats(var)?);
        let inverse = var.iter().map(|&var| (1.0 / (f64::from(var) + self.epsilon).sqrt()) as f32);
        Ok((
            mean.iter().zip(&self.loaded.bias).map(|(mean, bias)| mean - bias).collect(),
            inverse.collect(),
        ))
    }

    /// Moves the running statistics towards the batch's, as PyTorch does: the variance is the
    /// unbiased one, divided by the number of pixels minus 1.
    fn follow(&self, moments: &Moments) -> Result<(), TchError> {
        let mean = moments
            .mean
            .iter()
            .zip(&self.loaded.bias)
            .map(|(mean, bias)| (mean + f64::from(*bias)) as f32);
        let divisor = (moments.count as f64 - 1.0).max(1.0);
        let var = moments.squares.iter().map(|squares| (squares / divisor) as f32);
        for (running, found) in
            self.running()?.iter().zip([mean.collect::<Vec<_>>(), var.collect()])
        {
            let _ = running.shallow_clone().f_lerp_(&Tensor::f_from_slice(&found)?, BN_MOMENTUM)?;
        }
        Ok(())
    }

    /// The gradients of scale, shift, `x` and the residual, from the result's gradient.
    ///
    /// # Errors
    /// When libtorch can't convert a tensor's layout.
    pub fn backward(
        &self,
        isa: Isa,
        pool: &Arc<BufferPool>,
        kept: &SavedNorm,
        dy: &Value,
    ) -> Result<Vec<(ValueId, Value)>, TchError> {
        let [n, channels, h, w] = self.size;
        let dy = dy.channels_last()?;
        let work = self.work(isa, kept)?;
        let sums = work.sums(dy.pixels()?, &kept.mean);
        let count = (n * h * w) as f64;
        let inverse = || kept.inverse.iter().map(|&inverse| f64::from(inverse));
        let scale_gradient: Vec<f32> =
            sums.product.iter().zip(inverse()).map(|(sum, i)| (sum * i) as f32).collect();
        let shift_gradient: Vec<f32> = sums.gradient.iter().map(|&sum| sum as f32).collect();
        // dx = scale · (g − mean(g) − x̂ · mean(g · x̂)), x̂ = (x − mean) · inverse: an affine map
        // of g and x.
        let slope = |c: usize| {
            let (scale, inverse) = (f64::from(kept.affine.scale[c]), f64::from(kept.inverse[c]));
            let b = -scale * inverse * inverse * sums.product[c] / count;
            let a = -scale * sums.gradient[c] / count - b * f64::from(kept.mean[c]);
            (a as f32, b as f32)
        };
        let (a, b): (Vec<f32>, Vec<f32>) = (0..channels).map(slope).unzip();
        let mut dx = pool.take(work.x.len());
        let mut residual_gradient = work.residual.map(|_| pool.take(work.x.len()));
        work.pull(dy.pixels()?, &mut dx, residual_gradient.as_deref_mut(), (&a, &b));
        let size = [n, channels, h, w].map(|d| d as i64);
        let [scale, shift, ..] = self.constants;
        let mut pulled = vec![
            (scale, Tensor::f_from_slice(&scale_gradient)?.into()),
            (shift, Tensor::f_from_slice(&shift_gradient)?.into()),
            (self.x, dx.finish(size)?),
        ];
        if let (Some(id), Some(gradient)) = (self.residual, residual_gradient) {
            pulled.push((id, gradient.finish(size)?));
        }
        Ok(pulled)
    }
}

/// The work of a step on its pixels, image by image.
struct NormWork<'a> {
    isa: Isa,
    /// The size of `x`, `[N, C, H, W]`.
    size: [usize; 4],
    halves: bool,
    pass: Pass<'a>,
    x: &'a [f32],
    residual: Option<&'a [f32]>,
}

/// A part of an image that is processed at once: its range in `x`, and its range in the result.
struct RowStrip {
    x: Range<usize>,
    result: Range<usize>,
}

impl NormWork<'_> {
    fn image(&self) -> usize {
        let [_, channels, h, w] = self.size;
        h * w * channels
    }

    /// The strips of image `index`: pairs of rows if 2×2 pixels are averaged (without an odd last
    /// row), else the whole image.
    fn strips(&self, index: usize) -> impl Iterator<Item = RowStrip> + use<> {
        let [_, channels, _, w] = self.size;
        let image = self.image();
        let (strip, result) =
            if self.halves { (2 * w * channels, w / 2 * channels) } else { (image, image) };
        let count = image / strip;
        (0..count).map(move |i| {
            let (x, at) = (index * image + i * strip, (index * count + i) * result);
            RowStrip { x: x..x + strip, result: at..at + result }
        })
    }

    /// Scratch memory for one strip; empty if strips need none.
    fn rows(&self) -> Vec<f32> {
        let [_, channels, _, w] = self.size;
        vec![0.0; if self.halves { 2 * w * channels } else { 0 }]
    }

    fn forward(&self, out: &mut [f32]) {
        let [n, channels, _, w] = self.size;
        out.par_chunks_exact_mut(out.len() / n).enumerate().for_each(|(index, out)| {
            let mut rows = self.rows();
            let mut rest = out;
            for RowStrip { x, result } in self.strips(index) {
                let (out, after) = rest.split_at_mut(result.len());
                rest = after;
                let residual = self.residual.map(|r| &r[x.clone()]);
                if self.halves {
                    self.pass.forward(self.isa, &self.x[x], residual, &mut rows);
                    average(self.isa, &rows, w, channels, out);
                } else {
                    self.pass.forward(self.isa, &self.x[x], residual, out);
                }
            }
        });
    }

    /// The sums over the result's gradient `dy` that the gradient through the batch's statistics
    /// needs.
    fn sums(&self, dy: &[f32], centre: &[f32]) -> GradientSums {
        let [n, channels, _, w] = self.size;
        let of_image = |index: usize| {
            let mut sums = GradientSums::zeros(channels);
            let mut rows = self.rows();
            for RowStrip { x, result } in self.strips(index) {
                let gradient = if self.halves {
                    spread(self.isa, &dy[result], w, channels, &mut rows);
                    &rows[..]
                } else {
                    &dy[result]
                };
                let residual = self.residual.map(|r| &r[x.clone()]);
                let work = GradientInput { x: &self.x[x], residual, gradient, centre };
                self.pass.sum_gradients(self.isa, work, &mut sums);
            }
            sums
        };
        let all: Vec<GradientSums> = (0..n).into_par_iter().map(of_image).collect();
        let mut sum = GradientSums::zeros(channels);
        all.iter().for_each(|part| sum.merge(part));
        sum
    }

    /// Writes the gradients of `x` and of the residual. `slope` is the gradient through the batch's
    /// statistics.
    fn pull(
        &self,
        dy: &[f32],
        dx: &mut [f32],
        residual: Option<&mut [f32]>,
        slope: (&[f32], &[f32]),
    ) {
        let [_, channels, _, w] = self.size;
        let image = self.image();
        let beside: Vec<Option<&mut [f32]>> = match residual {
            Some(gradient) => gradient.chunks_exact_mut(image).map(Some).collect(),
            None => dx.chunks_exact(image).map(|_| None).collect(),
        };
        dx.par_chunks_exact_mut(image).zip(beside).enumerate().for_each(
            |(index, (mut dx, mut beside))| {
                let mut at = index * image;
                for RowStrip { x, result } in self.strips(index) {
                    at = x.end;
                    let gradient = first(&mut dx, x.len());
                    if self.halves {
                        spread(self.isa, &dy[result], w, channels, gradient);
                    } else {
                        gradient.copy_from_slice(&dy[result]);
                    }
                    let beside = beside.as_mut().map(|b| first(b, x.len()));
                    self.pull_strip(x, gradient, beside, slope);
                }
                // An odd last row does not enter the result.
                dx.fill(0.0);
                let rest = at..at + dx.len();
                self.pull_strip(rest, dx, beside, slope);
            },
        );
    }

    fn pull_strip(
        &self,
        here: Range<usize>,
        gradient: &mut [f32],
        residual_gradient: Option<&mut [f32]>,
        slope: (&[f32], &[f32]),
    ) {
        let (x, residual) = (&self.x[here.clone()], self.residual.map(|r| &r[here]));
        let work =
            Backward { x, residual, gradient, more: &[], slope: Some(slope), residual_gradient };
        self.pass.backward(self.isa, work);
    }
}

/// Splits the first `len` values off a slice.
fn first<'a>(from: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (taken, rest) = std::mem::take(from).split_at_mut(len);
    *from = rest;
    taken
}
