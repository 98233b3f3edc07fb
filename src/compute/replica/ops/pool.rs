//! Pooling.

use tch::{Kind, Tensor};

use super::super::error::OpError;
use super::Args;
use super::bounded;
use super::conv::{bounded_pads, or_ones, pad, resolve};
use scdd_graph::ops::{Padding, Pool, PoolKind};

pub fn run(op: &Pool, args: &Args) -> Result<Tensor, OpError> {
    let x = args.get(0)?;
    if x.dim() < 3 {
        return Err(OpError::Other("the input needs at least one spatial axis".into()));
    }
    let spatial: Vec<i64> = (2..x.dim() as i64).collect();
    match op {
        Pool::GlobalAverage => Ok(x.f_mean_dim(&spatial[..], true, None::<Kind>)?),
        Pool::GlobalMax => Ok(x.f_amax(&spatial[..], true)?),
        Pool::Window { kind, kernel, strides, dilations, padding, ceil } => {
            let window = PoolWindow::new(x, kernel, strides, dilations, padding, *ceil)?;
            match kind {
                PoolKind::Max => window.max(x),
                PoolKind::Average { count_include_pad } => window.average(x, *count_include_pad),
            }
        }
    }
}

/// A pooling window with its settings resolved for one input's size.
struct PoolWindow {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    /// The node's padding, whose zeros an average may count.
    pads: Vec<(i64, i64)>,
    /// The rows and columns that `ceil_mode` adds at the end; no average counts them.
    overhang: Vec<i64>,
}

impl PoolWindow {
    fn new(
        x: &Tensor,
        kernel: &[i64],
        strides: &[i64],
        dilations: &[i64],
        padding: &Padding,
        ceil: bool,
    ) -> Result<Self, OpError> {
        let sizes = &x.size()[2..];
        let rank = sizes.len();
        let kernel = or_ones(kernel, rank)?;
        let strides = or_ones(strides, rank)?;
        let dilations = or_ones(dilations, rank)?;
        let pads = resolve(padding, sizes, &kernel, &strides, &dilations)?;
        bounded_pads(x, &pads)?;
        bounded(&kernel)?;
        let overhang = |i: usize| {
            let (before, after) = pads[i];
            let free = sizes[i] + before + after - (kernel[i] - 1) * dilations[i] - 1;
            let extra = (strides[i] - free.rem_euclid(strides[i])) % strides[i];
            // A last window that would start in the end's padding is left out.
            let starts_inside = free + extra < sizes[i] + before;
            if ceil && free >= 0 && starts_inside { extra } else { 0 }
        };
        let overhang = (0..rank).map(overhang).collect();
        Ok(Self { kernel, strides, dilations, pads, overhang })
    }

    fn is_symmetric(&self) -> bool {
        self.overhang.iter().all(|&o| o == 0)
            && self
                .pads
                .iter()
                .zip(&self.kernel)
                .all(|(&(before, after), &k)| before == after && 2 * before <= k)
    }

    fn all_pads(&self) -> Vec<(i64, i64)> {
        self.pads
            .iter()
            .zip(&self.overhang)
            .map(|(&(before, after), &o)| (before, after + o))
            .collect()
    }

    fn max(&self, x: &Tensor) -> Result<Tensor, OpError> {
        if self.is_symmetric() && x.is_floating_point() {
            let padding: Vec<i64> = self.pads.iter().map(|p| p.0).collect();
            return self.torch_max(x, padding);
        }
        // Integers are pooled in float64, which represents all values of images and classes
        // exactly.
        let float =
            if x.is_floating_point() { x.shallow_clone() } else { x.f_to_kind(Kind::Double)? };
        let padded = pad(&float, &self.all_pads(), f64::NEG_INFINITY)?;
        Ok(self.torch_max(&padded, vec![0; self.kernel.len()])?.f_to_kind(x.kind())?)
    }

    fn torch_max(&self, x: &Tensor, padding: Vec<i64>) -> Result<Tensor, OpError> {
        let (k, s, d) = (&self.kernel[..], &self.strides[..], &self.dilations[..]);
        match self.kernel.len() {
            1 => Ok(x.f_max_pool1d(k, s, padding, d, false)?),
            2 => Ok(x.f_max_pool2d(k, s, padding, d, false)?),
            3 => Ok(x.f_max_pool3d(k, s, padding, d, false)?),
            rank => {
                Err(OpError::Other(format!("pooling over {rank} spatial axes is not supported")))
            }
        }
    }

    fn average(&self, x: &Tensor, count_include_pad: bool) -> Result<Tensor, OpError> {
        let plain = self.dilations.iter().all(|&d| d == 1) && self.is_symmetric();
        let padding: Vec<i64> = self.pads.iter().map(|p| p.0).collect();
        let (k, s) = (&self.kernel[..], &self.strides[..]);
        match self.kernel.len() {
            2 if plain => Ok(x.f_avg_pool2d(k, s, padding, false, count_include_pad, None)?),
            3 if plain => Ok(x.f_avg_pool3d(k, s, padding, false, count_include_pad, None)?),
            _ => self.general_average(x, count_include_pad),
        }
    }

    /// Window sums divided by window counts, both computed as convolutions with a kernel of ones.
    fn general_average(&self, x: &Tensor, count_include_pad: bool) -> Result<Tensor, OpError> {
        let mut one_plane = x.size();
        (one_plane[0], one_plane[1]) = (1, 1);
        let ones = Tensor::f_ones(one_plane, (x.kind(), x.device()))?;
        let counted = if count_include_pad {
            let overhang: Vec<_> = self.overhang.iter().map(|&o| (0, o)).collect();
            pad(&pad(&ones, &self.pads, 1.0)?, &overhang, 0.0)?
        } else {
            pad(&ones, &self.all_pads(), 0.0)?
        };
        let sums = self.window_sums(&pad(x, &self.all_pads(), 0.0)?)?;
        Ok(sums.f_div(&self.window_sums(&counted)?)?)
    }

    fn window_sums(&self, x: &Tensor) -> Result<Tensor, OpError> {
        let size = x.size();
        let planes: Vec<i64> =
            [size[0] * size[1], 1].into_iter().chain(size[2..].iter().copied()).collect();
        let kernel: Vec<i64> = [1, 1].into_iter().chain(self.kernel.iter().copied()).collect();
        let ones = Tensor::f_ones(kernel, (x.kind(), x.device()))?;
        let zeros = vec![0i64; self.kernel.len()];
        let (s, d) = (&self.strides[..], &self.dilations[..]);
        let sums = x.f_reshape(planes)?.f_convolution(
            &ones,
            None::<&Tensor>,
            s,
            &zeros[..],
            d,
            false,
            &zeros[..],
            1,
        )?;
        let shape: Vec<i64> = size[..2].iter().chain(&sums.size()[2..]).copied().collect();
        Ok(sums.f_reshape(shape)?)
    }
}
