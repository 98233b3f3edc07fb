//! A convolution with frozen weights, forward and backward, each by the engine that was chosen for it.

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use super::pass::PassStep;
use super::statistics::floats;
use crate::graph::ValueId;
use crate::kernels::Isa;
use crate::kernels::conv::{Epilogue, Extent, Geometry};
use crate::kernels::depthwise::Depthwise;
use crate::kernels::direct::Direct;
use crate::kernels::winograd::{Tile, Winograd};

/// How one direction of a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    Torch,
    Direct,
    Depthwise,
    WinogradTwo,
    WinogradFour,
}

/// A [`Method`] with its prepared weights.
pub enum Engine {
    Torch,
    Direct(Direct),
    Depthwise(Depthwise),
    Winograd(Winograd),
}

/// Which way a convolution runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    Forward,
    Backward,
}

/// One `Conv` node, and the pass that is fused into it.
pub struct ConvStep {
    pub name: String,
    pub x: ValueId,
    pub out: ValueId,
    pub conv: Convolution,
    pub forward: Engine,
    pub backward: Engine,
    pub pass: Option<PassStep>,
}

/// A two-dimensional convolution and its weights.
pub struct Convolution {
    pub geometry: Geometry,
    /// Zeros after the last row and column.
    pub pad_after: [usize; 2],
    pub groups: usize,
    /// From, to.
    pub channels: [usize; 2],
    pub from: Extent,
    pub to: Extent,
    /// `[O, I / groups, kernel…]`; emptied when no engine needs it any more.
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    /// `[O]`, for the kernels.
    pub bias_values: Vec<f32>,
}

impl Engine {
    pub fn is_torch(&self) -> bool {
        matches!(self, Self::Torch)
    }

    /// The way back by `method` out of this way forth, where their weights had better be in memory once.
    pub fn turned(&self, method: Method) -> Option<Self> {
        let fits =
            |tile| matches!((tile, method), (Tile::Two, Method::WinogradTwo) | (Tile::Four, Method::WinogradFour));
        match self {
            Self::Winograd(forth) if forth.is_wide() && fits(forth.tile()) => Some(Self::Winograd(forth.turned())),
            _ => None,
        }
    }

    /// Runs a kernel; nothing happens when libtorch is to do it.
    pub fn run(&self, x: (&[f32], Extent), y: (&mut [f32], Extent), beside: Option<&mut [f32]>, epilogue: &Epilogue) {
        match self {
            Self::Torch => {}
            Self::Direct(direct) => direct.run(x, y, beside, epilogue),
            Self::Depthwise(depthwise) => depthwise.run(x, y, beside, epilogue),
            Self::Winograd(winograd) => winograd.run(x, y, beside, epilogue),
        }
    }
}

impl Convolution {
    /// What can compute `direction` on `isa`, the choice without measuring first.
    pub fn methods(&self, isa: Isa, direction: Direction) -> Vec<Method> {
        let g = &self.geometry;
        let depthwise = self.groups > 1 && self.channels == [self.groups; 2];
        if depthwise && isa != Isa::Portable {
            return vec![Method::Depthwise, Method::Torch];
        }
        if self.groups != 1 || isa == Isa::Portable {
            return vec![Method::Torch];
        }
        let [from, to] = match direction {
            Direction::Forward => self.channels,
            Direction::Backward => [self.channels[1], self.channels[0]],
        };
        let small = g.kernel == [3, 3] && g.stride == [1, 1] && g.dilation == [1, 1] && g.pad.iter().all(|&p| p <= 2);
        if small && Winograd::accepts(isa, from, to) {
            return vec![Method::WinogradFour, Method::WinogradTwo, Method::Direct, Method::Torch];
        }
        vec![Method::Direct, Method::Torch]
    }

    /// Prepares the weights for `method`.
    ///
    /// # Errors
    /// When libtorch can't give the weights.
    pub fn engine(&self, isa: Isa, method: Method, direction: Direction) -> Result<Engine, TchError> {
        let [kernel_y, kernel_x] = self.geometry.kernel;
        let inputs = self.channels[0];
        let values = &floats(&self.weight.f_reshape([-1])?)?;
        let weight = |o: usize, i: usize, y: usize, x: usize| values[((o * inputs + i) * kernel_y + y) * kernel_x + x];
        let tile = match method {
            Method::Torch => return Ok(Engine::Torch),
            Method::Direct => {
                let direct = match direction {
                    Direction::Forward => Direct::forward(isa, self.channels, self.geometry, weight),
                    Direction::Backward => Direct::backward(isa, self.channels, self.geometry, weight),
                };
                return Ok(Engine::Direct(direct));
            }
            Method::Depthwise => {
                let weight = |c: usize, y: usize, x: usize| values[(c * kernel_y + y) * kernel_x + x];
                let backward = direction == Direction::Backward;
                return Ok(Engine::Depthwise(Depthwise::new(isa, inputs, self.geometry, backward, weight)));
            }
            Method::WinogradTwo => Tile::Two,
            Method::WinogradFour => Tile::Four,
        };
        Ok(Engine::Winograd(match direction {
            Direction::Forward => Winograd::new(isa, tile, self.channels, self.geometry.pad, weight),
            Direction::Backward => {
                // The gradient of a 3×3 convolution of stride 1 is the convolution with the turned kernel and the opposite padding.
                let turned = |o: usize, i: usize, y: usize, x: usize| weight(i, o, 2 - y, 2 - x);
                let channels = [self.channels[1], self.channels[0]];
                Winograd::new(isa, tile, channels, self.geometry.pad.map(|p| 2 - p), turned)
            }
        }))
    }

    /// Input extent and channels, output extent and channels, in `direction`.
    pub fn ends(&self, direction: Direction) -> [(Extent, usize); 2] {
        let (from, to) = ((self.from, self.channels[0]), (self.to, self.channels[1]));
        match direction {
            Direction::Forward => [from, to],
            Direction::Backward => [to, from],
        }
    }

    /// By libtorch, bias included.
    pub fn forward_torch(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let Settings { stride, dilation, pad, after } = self.settings();
        let kind = x.kind();
        let x = x.f_to_kind(self.weight.kind())?;
        let (x, pad) = if pad == after {
            (x, pad)
        } else {
            (x.f_pad([pad[1], after[1], pad[0], after[0]], "constant", 0.0)?, [0, 0])
        };
        let groups = self.groups as i64;
        x.f_convolution(&self.weight, self.bias.as_ref(), stride, pad, dilation, false, [0, 0], groups)?.f_to_kind(kind)
    }

    /// The gradient with respect to the input, by libtorch.
    pub fn backward_torch(&self, gradient: &Tensor) -> Result<Tensor, TchError> {
        let Settings { stride, dilation, pad, after } = self.settings();
        let symmetric = pad == after;
        let sizes = [(self.from.h, self.to.h), (self.from.w, self.to.w)];
        // How many rows and columns at the end no output has seen.
        let unseen: Vec<i64> = (0..2)
            .map(|axis| {
                let (from, to) = (sizes[axis].0 as i64, sizes[axis].1 as i64);
                let reach = (self.geometry.kernel[axis] as i64 - 1) * dilation[axis] + 1;
                from + pad[axis] + after[axis] - (to - 1) * stride[axis] - reach
            })
            .collect();
        let pads = if symmetric { pad } else { [0, 0] };
        let none: Option<&Tensor> = None;
        let kind = gradient.kind();
        let gradient = gradient.f_to_kind(self.weight.kind())?;
        let full = gradient.f_convolution(
            &self.weight,
            none,
            stride,
            pads,
            dilation,
            true,
            &unseen[..],
            self.groups as i64,
        )?;
        let full = full.f_to_kind(kind)?;
        if symmetric {
            return Ok(full);
        }
        full.f_narrow(2, pad[0], self.from.h as i64)?.f_narrow(3, pad[1], self.from.w as i64)
    }

    fn settings(&self) -> Settings {
        let numbers = |values: [usize; 2]| values.map(|v| v as i64);
        Settings {
            stride: numbers(self.geometry.stride),
            dilation: numbers(self.geometry.dilation),
            pad: numbers(self.geometry.pad),
            after: numbers(self.pad_after),
        }
    }
}

/// As libtorch wants them.
struct Settings {
    stride: [i64; 2],
    dilation: [i64; 2],
    pad: [i64; 2],
    after: [i64; 2],
}

/// The shape `[N, C, H, W]` of images.
pub fn size(extent: Extent, channels: usize) -> [i64; 4] {
    [extent.n, channels, extent.h, extent.w].map(|v| v as i64)
}
