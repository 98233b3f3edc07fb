//! A convolution whose weights are trained.

use std::sync::{Arc, Mutex, PoisonError};

use tch::{TchError, Tensor};

use crate::compiled::convolution::{ConvKernel, Convolution, Direction, size};
use crate::compiled::floats;
use crate::compiled::value::{BufferPool, Value};
use crate::replica::{Mode, Replica};
use scdd_graph::ValueId;
use scdd_kernels::conv::{Extent, Geometry, Piece};
use scdd_kernels::gradient::sum_pixels;
use scdd_kernels::pass::{Gathered, Moments, add_bias};
use scdd_kernels::{Aligned, Isa};

/// One `Conv` node of one group.
pub struct TrainedConv {
    pub name: String,
    pub x: ValueId,
    pub out: ValueId,
    pub weight: ValueId,
    pub bias: Option<ValueId>,
    /// Whether only a normalisation by the batch reads the output. It then handles the bias and
    /// needs the output's moments.
    pub is_normalised: bool,
    /// Whether the input is the network's, whose gradient is not needed.
    is_first: bool,
    geometry: Geometry,
    /// Input channels, output channels.
    channels: [usize; 2],
    from: Extent,
    to: Extent,
    isa: Isa,
    forward: ConvKernel,
    backward: ConvKernel,
    bias_values: Vec<f32>,
    /// Scratch memory for the weight gradients.
    scratch: Mutex<Aligned>,
}

impl TrainedConv {
    /// A step from value `x` to value `out`. It has no weights until [`load`](Self::load).
    pub fn new(
        isa: Isa,
        name: String,
        [x, out]: [ValueId; 2],
        weight: ValueId,
        bias: Option<ValueId>,
        conv: &Convolution,
        is_first: bool,
    ) -> Self {
        let Convolution { geometry, channels, from, to, .. } = *conv;
        Self {
            name,
            x,
            out,
            weight,
            bias,
            is_normalised: false,
            is_first,
            geometry,
            channels,
            from,
            to,
            isa,
            forward: conv.untrained(isa, Direction::Forward),
            backward: conv.untrained(isa, Direction::Backward),
            bias_values: Vec::new(),
            scratch: Mutex::new(Aligned::zeros(0)),
        }
    }

    /// Prepares the present weights of `replica`.
    ///
    /// # Errors
    /// When libtorch can't copy them.
    pub fn load(&mut self, replica: &Replica) -> Result<(), TchError> {
        let constant =
            |id: ValueId| replica.constants[id].as_ref().ok_or_else(|| missing(&self.name));
        if let Some(bias) = self.bias.filter(|_| !self.is_normalised) {
            self.bias_values = floats(constant(bias)?)?;
        }
        let weight =
            floats(&constant(self.weight)?.f_detach()?.f_permute([2, 3, 1, 0])?.f_reshape([-1])?)?;
        let load = |kernel: &mut ConvKernel, direction| {
            kernel.load(self.isa, &weight, self.channels, self.geometry, direction);
        };
        load(&mut self.forward, Direction::Forward);
        if !self.is_first {
            load(&mut self.backward, Direction::Backward);
        }
        Ok(())
    }

    /// The output. Where a normalisation follows, it is without the bias, and comes with its
    /// moments in training.
    ///
    /// # Errors
    /// When libtorch can't convert the input's layout.
    pub fn forward(
        &self,
        pool: &Arc<BufferPool>,
        x: &Value,
        mode: Mode,
    ) -> Result<(Value, Option<Moments>), TchError> {
        let [_, outputs] = self.channels;
        let mut y = pool.take(self.to.pixels() * outputs);
        let gathered = Gathered::default();
        let measures = self.is_normalised && mode == Mode::Train;
        let epilogue = |piece: Piece| {
            if !self.bias_values.is_empty() {
                add_bias(piece.rows, &self.bias_values);
            }
            if measures {
                gathered.add(piece.index, Moments::of(self.isa, piece.rows, outputs));
            }
        };
        let x = x.channels_last()?;
        self.forward.run((x.pixels()?, self.from), (&mut y, self.to), None, &epilogue);
        Ok((y.finish(size(self.to, outputs))?, gathered.total()))
    }

    /// The gradients of the weights, the bias and the input, as far as they are needed, from the
    /// input and the output's gradient.
    ///
    /// # Errors
    /// When libtorch can't convert a tensor's layout.
    pub fn backward(
        &self,
        pool: &Arc<BufferPool>,
        x: &Value,
        dy: &Value,
    ) -> Result<Vec<(ValueId, Value)>, TchError> {
        let [inputs, outputs] = self.channels;
        let (x, dy) = (x.channels_last()?, dy.channels_last()?);
        let mut pulled =
            vec![(self.weight, self.weight_gradient(x.pixels()?, dy.pixels()?)?.into())];
        if let Some(bias) = self.bias {
            // A bias before a normalisation by the batch's mean has no effect, so its gradient is
            // 0.
            let gradient = if self.is_normalised {
                vec![0.0; outputs]
            } else {
                sum_pixels(self.isa, dy.pixels()?, outputs)
            };
            pulled.push((bias, Tensor::f_from_slice(&gradient)?.into()));
        }
        if !self.is_first {
            let mut dx = pool.take(self.from.pixels() * inputs);
            self.backward.run((dy.pixels()?, self.to), (&mut dx, self.from), None, &|_| {});
            pulled.push((self.x, dx.finish(size(self.from, inputs))?));
        }
        Ok(pulled)
    }

    /// `[O, I, kernel…]`, in the parameter's memory layout.
    fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Result<Tensor, TchError> {
        let [inputs, outputs] = self.channels;
        let [height, width] = self.geometry.kernel;
        let mut gradient = vec![0.0; height * width * inputs * outputs];
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        self.forward.weight_gradient((x, self.from), (dy, self.to), &mut scratch, &mut gradient);
        let shape = [height, width, inputs, outputs].map(|d| d as i64);
        Tensor::f_from_slice(&gradient)?.f_reshape(shape)?.f_permute([3, 2, 0, 1])
    }
}

fn missing(step: &str) -> TchError {
    TchError::Shape(format!("the weights of {step} are no constants"))
}
