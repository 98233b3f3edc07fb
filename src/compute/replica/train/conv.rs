//! A convolution whose weights are trained.

use std::sync::{Arc, Mutex, PoisonError};

use tch::{TchError, Tensor};

use super::super::plan::conv::{Convolution, size};
use super::super::plan::statistics::floats;
use super::super::plan::value::{Pool, Value};
use super::super::{Mode, Replica};
use scdd_graph::ValueId;
use scdd_kernels::conv::{Epilogue, Extent, Geometry, Piece};
use scdd_kernels::direct::Direct;
use scdd_kernels::gradient::sum_pixels;
use scdd_kernels::pass::{Gathered, Moments, add_bias};
use scdd_kernels::winograd::{Tile, Winograd};
use scdd_kernels::{Aligned, Isa};

/// One `Conv` node of one group.
pub struct ConvStep {
    pub name: String,
    pub x: ValueId,
    pub out: ValueId,
    pub weight: ValueId,
    pub bias: Option<ValueId>,
    /// Whether a normalisation by the batch is all that reads the output: it then takes care of the bias and wants the output's moments.
    pub is_normalised: bool,
    /// Whether the input is the network's, whose gradient nobody wants.
    is_first: bool,
    geometry: Geometry,
    /// Inputs, outputs.
    channels: [usize; 2],
    from: Extent,
    to: Extent,
    isa: Isa,
    forward: Engine,
    backward: Engine,
    bias_values: Vec<f32>,
    /// What gradients of the weights are computed in.
    scratch: Mutex<Aligned>,
}

enum Engine {
    Winograd(Winograd),
    Direct(Direct),
}

impl ConvStep {
    /// A step from value `x` to `out`, without weights until they are loaded.
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
        let turned = [channels[1], channels[0]];
        let small = geometry.kernel == [3, 3] && geometry.stride == [1, 1] && geometry.dilation == [1, 1];
        let is_tiled =
            small && geometry.pad.iter().all(|&p| p <= 2) && Winograd::accepts(isa, channels[0], channels[1]);
        let (forward, backward) = if is_tiled {
            let pad = geometry.pad.map(|p| 2 - p);
            let [forward, backward] =
                [(channels, geometry.pad), (turned, pad)].map(|(c, pad)| Winograd::blank(isa, Tile::Four, c, pad));
            (Engine::Winograd(forward), Engine::Winograd(backward))
        } else {
            let none = |_: usize, _: usize, _: usize, _: usize| 0.0;
            let (forward, backward) =
                (Direct::forward(isa, channels, geometry, none), Direct::backward(isa, channels, geometry, none));
            (Engine::Direct(forward), Engine::Direct(backward))
        };
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
            forward,
            backward,
            bias_values: Vec::new(),
            scratch: Mutex::new(Aligned::zeros(0)),
        }
    }

    /// Prepares the weights that `replica` has now.
    ///
    /// # Errors
    /// When libtorch can't copy them.
    pub fn load(&mut self, replica: &Replica) -> Result<(), TchError> {
        let constant = |id: ValueId| replica.constants[id].as_ref().ok_or_else(|| missing(&self.name));
        if let Some(bias) = self.bias.filter(|_| !self.is_normalised) {
            self.bias_values = floats(constant(bias)?)?;
        }
        let weight = floats(&constant(self.weight)?.f_detach()?.f_permute([2, 3, 1, 0])?.f_reshape([-1])?)?;
        let [inputs, outputs] = self.channels;
        let width = self.geometry.kernel[1];
        let at = |o: usize, i: usize, y: usize, x: usize| weight[((y * width + x) * inputs + i) * outputs + o];
        match &mut self.forward {
            Engine::Winograd(engine) => engine.set(&weight),
            Engine::Direct(engine) => {
                *engine = Direct::forward(self.isa, self.channels, self.geometry, at);
            }
        }
        if self.is_first {
            return Ok(());
        }
        match &mut self.backward {
            Engine::Winograd(engine) => engine.set(&turned(&weight, self.channels)),
            Engine::Direct(engine) => {
                *engine = Direct::backward(self.isa, self.channels, self.geometry, at);
            }
        }
        Ok(())
    }

    /// The output, without its bias where a normalisation follows; and then, in training, its moments.
    ///
    /// # Errors
    /// When libtorch can't lay out the input.
    pub fn forward(&self, pool: &Arc<Pool>, x: &Value, mode: Mode) -> Result<(Value, Option<Moments>), TchError> {
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
        self.forward.run((x.pixels()?, self.from), (&mut y, self.to), &epilogue);
        Ok((y.finish(size(self.to, outputs))?, gathered.total()))
    }

    /// The gradients of weights, bias and input, as far as there are any, given the input and the output's gradient.
    ///
    /// # Errors
    /// When libtorch can't lay out a tensor.
    pub fn backward(&self, pool: &Arc<Pool>, x: &Value, dy: &Value) -> Result<Vec<(ValueId, Value)>, TchError> {
        let [inputs, outputs] = self.channels;
        let (x, dy) = (x.channels_last()?, dy.channels_last()?);
        let mut pulled = vec![(self.weight, self.weight_gradient(x.pixels()?, dy.pixels()?)?.into())];
        if let Some(bias) = self.bias {
            // Before a normalisation by the batch's mean a bias has no effect, so no gradient.
            let gradient =
                if self.is_normalised { vec![0.0; outputs] } else { sum_pixels(self.isa, dy.pixels()?, outputs) };
            pulled.push((bias, Tensor::f_from_slice(&gradient)?.into()));
        }
        if !self.is_first {
            let mut dx = pool.take(self.from.pixels() * inputs);
            self.backward.run((dy.pixels()?, self.to), (&mut dx, self.from), &|_| {});
            pulled.push((self.x, dx.finish(size(self.from, inputs))?));
        }
        Ok(pulled)
    }

    /// `[O, I, kernel…]`, laid out as the parameter is.
    fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Result<Tensor, TchError> {
        let [inputs, outputs] = self.channels;
        let [height, width] = self.geometry.kernel;
        let mut gradient = vec![0.0; height * width * inputs * outputs];
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.forward {
            Engine::Winograd(engine) => {
                engine.weight_gradient((x, self.from), (dy, self.to), &mut scratch, &mut gradient);
            }
            Engine::Direct(engine) => {
                engine.weight_gradient((x, self.from), (dy, self.to), &mut scratch, &mut gradient);
            }
        }
        let shape = [height, width, inputs, outputs].map(|d| d as i64);
        Tensor::f_from_slice(&gradient)?.f_reshape(shape)?.f_permute([3, 2, 0, 1])
    }
}

impl Engine {
    fn run(&self, x: (&[f32], Extent), y: (&mut [f32], Extent), epilogue: &Epilogue) {
        match self {
            Self::Winograd(engine) => engine.run(x, y, None, epilogue),
            Self::Direct(engine) => engine.run(x, y, None, epilogue),
        }
    }
}

/// The kernel of the way back, `[3, 3, outputs, inputs]`, out of `[3, 3, inputs, outputs]`: turned by half a circle, inputs and outputs exchanged.
fn turned(weight: &[f32], [inputs, outputs]: [usize; 2]) -> Vec<f32> {
    /// Values of one side of the blocks that are exchanged in cache.
    const SIDE: usize = 16;
    let mut turned = vec![0.0; weight.len()];
    let taps = weight.chunks_exact(inputs * outputs).rev();
    for (to, from) in turned.chunks_exact_mut(inputs * outputs).zip(taps) {
        for (i0, o0) in (0..inputs).step_by(SIDE).flat_map(|i| (0..outputs).step_by(SIDE).map(move |o| (i, o))) {
            for o in o0..(o0 + SIDE).min(outputs) {
                for i in i0..(i0 + SIDE).min(inputs) {
                    to[o * inputs + i] = from[i * outputs + o];
                }
            }
        }
    }
    turned
}

fn missing(step: &str) -> TchError {
    TchError::Shape(format!("the weights of {step} are no constants"))
}
