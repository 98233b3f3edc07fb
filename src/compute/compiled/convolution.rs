//! A convolution: its shape, and the kernel of each direction.

use tch::{Device, Kind, TchError, Tensor};

use super::floats;
use scdd_kernels::conv::{Epilogue, Extent, Geometry};
use scdd_kernels::depthwise::Depthwise;
use scdd_kernels::direct::Direct;
use scdd_kernels::winograd::{Tile, Winograd};
use scdd_kernels::{Aligned, Isa};

/// The kernel of one direction of a convolution, with its prepared weights.
pub enum ConvKernel {
    Torch,
    Direct(Direct),
    Depthwise(Depthwise),
    Winograd(Winograd),
}

/// The direction of a convolution's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// A two-dimensional convolution and its weights.
pub struct Convolution {
    pub geometry: Geometry,
    /// Rows and columns of zeros after the last.
    pub pad_after: [usize; 2],
    pub groups: usize,
    /// Input channels, output channels.
    pub channels: [usize; 2],
    pub from: Extent,
    pub to: Extent,
    /// `[O, I / groups, kernel…]`; empty once libtorch no longer needs it.
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    /// `[O]`, for the CPU kernels.
    pub bias_values: Vec<f32>,
}

impl ConvKernel {
    pub fn is_torch(&self) -> bool {
        matches!(self, Self::Torch)
    }

    /// From this forward kernel, the backward kernel that shares its weights in memory. `None`
    /// where the kernel can't share them.
    pub fn transposed(&self) -> Option<Self> {
        match self {
            Self::Winograd(forward) if forward.is_wide() => Some(Self::Winograd(forward.turned())),
            _ => None,
        }
    }

    /// Runs the kernel. Does nothing if libtorch computes this direction.
    pub fn run(
        &self,
        x: (&[f32], Extent),
        y: (&mut [f32], Extent),
        beside: Option<&mut [f32]>,
        epilogue: &Epilogue,
    ) {
        match self {
            Self::Torch => {}
            Self::Direct(direct) => direct.run(x, y, beside, epilogue),
            Self::Depthwise(depthwise) => depthwise.run(x, y, beside, epilogue),
            Self::Winograd(winograd) => winograd.run(x, y, beside, epilogue),
        }
    }

    /// Replaces the weights by `weight`, `[kernel…, I, O]`, flat. Has no effect on libtorch and
    /// depthwise kernels, which are never trained.
    pub fn load(
        &mut self,
        isa: Isa,
        weight: &[f32],
        channels: [usize; 2],
        geometry: Geometry,
        direction: Direction,
    ) {
        let [inputs, outputs] = channels;
        let width = geometry.kernel[1];
        let at = |o: usize, i: usize, y: usize, x: usize| {
            weight[((y * width + x) * inputs + i) * outputs + o]
        };
        match (self, direction) {
            (Self::Winograd(kernel), Direction::Forward) => kernel.set(weight),
            (Self::Winograd(kernel), Direction::Backward) => kernel.set(&turned(weight, channels)),
            (Self::Direct(kernel), Direction::Forward) => {
                *kernel = Direct::forward(isa, channels, geometry, at)
            }
            (Self::Direct(kernel), Direction::Backward) => {
                *kernel = Direct::backward(isa, channels, geometry, at)
            }
            (Self::Torch | Self::Depthwise(_), _) => {}
        }
    }

    /// The gradient with respect to the weights, `[kernel…, I, O]`, flat, from the input and the
    /// output's gradient. Like [`load`](Self::load), for trainable kernels only.
    pub fn weight_gradient(
        &self,
        x: (&[f32], Extent),
        dy: (&[f32], Extent),
        scratch: &mut Aligned,
        gradient: &mut [f32],
    ) {
        match self {
            Self::Winograd(kernel) => kernel.weight_gradient(x, dy, scratch, gradient),
            Self::Direct(kernel) => kernel.weight_gradient(x, dy, scratch, gradient),
            Self::Torch | Self::Depthwise(_) => {}
        }
    }
}

impl Convolution {
    /// The fastest kernel on `isa` for `direction` of this convolution.
    ///
    /// # Errors
    /// When libtorch can't copy the weights.
    pub fn kernel(&self, isa: Isa, direction: Direction) -> Result<ConvKernel, TchError> {
        let backward = direction == Direction::Backward;
        let (g, inputs) = (&self.geometry, self.channels[0]);
        let is_depthwise = self.groups > 1 && self.channels == [self.groups; 2];
        if isa == Isa::Portable || self.groups != 1 && !is_depthwise {
            return Ok(ConvKernel::Torch);
        }
        let [kernel_y, kernel_x] = g.kernel;
        let values = &floats(&self.weight.f_reshape([-1])?)?;
        if is_depthwise {
            let weight = |c: usize, y: usize, x: usize| values[(c * kernel_y + y) * kernel_x + x];
            return Ok(ConvKernel::Depthwise(Depthwise::new(
                isa,
                inputs,
                self.geometry,
                backward,
                weight,
            )));
        }
        let weight = |o: usize, i: usize, y: usize, x: usize| {
            values[((o * inputs + i) * kernel_y + y) * kernel_x + x]
        };
        let [from, to] =
            if backward { [self.channels[1], self.channels[0]] } else { self.channels };
        if !self.is_small() || !Winograd::accepts(isa, from, to) {
            return Ok(ConvKernel::Direct(match direction {
                Direction::Forward => Direct::forward(isa, self.channels, self.geometry, weight),
                Direction::Backward => Direct::backward(isa, self.channels, self.geometry, weight),
            }));
        }
        Ok(ConvKernel::Winograd(match direction {
            Direction::Forward => Winograd::new(isa, Tile::Four, self.channels, g.pad, weight),
            Direction::Backward => {
                // The gradient of a 3×3 convolution of stride 1 is a convolution with the kernel
                // rotated by 180° and with the opposite padding.
                let rotated = |o: usize, i: usize, y: usize, x: usize| weight(i, o, 2 - y, 2 - x);
                Winograd::new(isa, Tile::Four, [from, to], g.pad.map(|p| 2 - p), rotated)
            }
        }))
    }

    /// The kernel of `direction` for a convolution of one group with trained weights. It has no
    /// weights until [`ConvKernel::load`] sets them.
    pub fn untrained(&self, isa: Isa, direction: Direction) -> ConvKernel {
        let (channels, geometry) = (self.channels, self.geometry);
        if self.is_small() && Winograd::accepts(isa, channels[0], channels[1]) {
            let (channels, pad) = match direction {
                Direction::Forward => (channels, geometry.pad),
                Direction::Backward => ([channels[1], channels[0]], geometry.pad.map(|p| 2 - p)),
            };
            return ConvKernel::Winograd(Winograd::blank(isa, Tile::Four, channels, pad));
        }
        let none = |_: usize, _: usize, _: usize, _: usize| 0.0;
        ConvKernel::Direct(match direction {
            Direction::Forward => Direct::forward(isa, channels, geometry, none),
            Direction::Backward => Direct::backward(isa, channels, geometry, none),
        })
    }

    /// Whether Winograd's algorithm applies: a 3×3 kernel with stride 1.
    fn is_small(&self) -> bool {
        let g = &self.geometry;
        g.kernel == [3, 3]
            && g.stride == [1, 1]
            && g.dilation == [1, 1]
            && g.pad.iter().all(|&p| p <= 2)
    }

    /// Prepares the kernels of both directions on `isa`.
    ///
    /// # Errors
    /// When libtorch can't copy the weights.
    pub fn kernels(&mut self, isa: Isa) -> Result<[ConvKernel; 2], TchError> {
        let forward = self.kernel(isa, Direction::Forward)?;
        let backward = match forward.transposed() {
            Some(transposed) => transposed,
            None => self.kernel(isa, Direction::Backward)?,
        };
        if !forward.is_torch() && !backward.is_torch() {
            self.weight = Tensor::f_empty([0], (Kind::Float, Device::Cpu))?;
        }
        Ok([forward, backward])
    }

    /// The input's extent and channels, and the output's, in `direction`.
    pub fn ends(&self, direction: Direction) -> [(Extent, usize); 2] {
        let (from, to) = ((self.from, self.channels[0]), (self.to, self.channels[1]));
        match direction {
            Direction::Forward => [from, to],
            Direction::Backward => [to, from],
        }
    }

    /// The forward pass by libtorch, bias included.
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
        x.f_convolution(
            &self.weight,
            self.bias.as_ref(),
            stride,
            pad,
            dilation,
            false,
            [0, 0],
            groups,
        )?
        .f_to_kind(kind)
    }

    /// The gradient with respect to the input, by libtorch.
    pub fn backward_torch(&self, gradient: &Tensor) -> Result<Tensor, TchError> {
        let Settings { stride, dilation, pad, after } = self.settings();
        let symmetric = pad == after;
        let sizes = [(self.from.h, self.to.h), (self.from.w, self.to.w)];
        // Rows and columns at the end that no output reads.
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

/// The settings in libtorch's types.
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

/// The kernel of the backward pass: `[3, 3, inputs, outputs]` rotated by 180° and with its channels
/// transposed, `[3, 3, outputs, inputs]`.
fn turned(weight: &[f32], [inputs, outputs]: [usize; 2]) -> Vec<f32> {
    /// Side of the blocks that are transposed in cache.
    const SIDE: usize = 16;
    let mut turned = vec![0.0; weight.len()];
    let taps = weight.chunks_exact(inputs * outputs).rev();
    for (to, from) in turned.chunks_exact_mut(inputs * outputs).zip(taps) {
        for (i0, o0) in
            (0..inputs).step_by(SIDE).flat_map(|i| (0..outputs).step_by(SIDE).map(move |o| (i, o)))
        {
            for o in o0..(o0 + SIDE).min(outputs) {
                for i in i0..(i0 + SIDE).min(inputs) {
                    to[o * inputs + i] = from[i * outputs + o];
                }
            }
        }
    }
    turned
}
