//! The views of a batch as matrices: a view is separable, so that an image's plane X is seen as
//! R X Cᵀ, and a gradient G goes back exactly as Rᵀ G C. Matrix products give the same bytes each
//! time; scattered additions, which need less arithmetic, do not.

use tch::{Device, Kind, TchError, Tensor};

use scdd_compute::transfer;
use scdd_data::Resample;

pub struct ViewMatrices {
    /// R: `[N, 1, h, H]`.
    rows: Tensor,
    /// C: `[N, 1, w, W]`.
    columns: Tensor,
}

impl ViewMatrices {
    /// The matrices of `maps`, one per image, all of the same sizes. Only the maps' taps cross to
    /// `device`.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn new(maps: &[Resample], device: Device) -> Result<Self, TchError> {
        let Some(first) = maps.first() else {
            return Err(TchError::Shape("no image has a view".into()));
        };
        let (source, output) = (first.source(), first.output());
        let [height, width] = [output.height as i64, output.width as i64];
        let taps: Vec<f32> = maps.iter().flat_map(Resample::taps).flatten().collect();
        let taps = transfer::upload(&taps, &[maps.len() as i64, height + width, 3], device)?;
        Ok(Self {
            rows: matrix(&taps.f_narrow(1, 0, height)?, source.height)?,
            columns: matrix(&taps.f_narrow(1, height, width)?, source.width)?,
        })
    }

    /// The views `[N, C, h, w]` of `images` `[N, C, H, W]`.
    ///
    /// # Errors
    /// When the sizes differ from those of the maps.
    pub fn apply(&self, images: &Tensor) -> Result<Tensor, TchError> {
        self.rows.f_matmul(images)?.f_matmul(&self.columns.f_transpose(2, 3)?)
    }

    /// The transpose of [`apply`](Self::apply).
    ///
    /// # Errors
    /// When the sizes differ from those of the maps.
    pub fn adjoint(&self, gradient: &Tensor) -> Result<Tensor, TchError> {
        self.rows.f_transpose(2, 3)?.f_matmul(gradient)?.f_matmul(&self.columns)
    }
}

/// The matrix `[N, 1, length, source]` with the `taps` `[N, length, 3]` in its rows.
fn matrix(taps: &Tensor, source: usize) -> Result<Tensor, TchError> {
    let [images, length, _] = <[i64; 3]>::try_from(taps.size())
        .map_err(|size| TchError::Shape(format!("taps of shape {size:?}")))?;
    let places = taps.f_narrow(2, 0, 2)?.f_to_kind(Kind::Int64)?;
    let second = taps.f_narrow(2, 2, 1)?;
    let first = second.f_neg()?.f_add_scalar(1.0)?;
    let shares = Tensor::f_cat(&[first, second], 2)?;
    // A row has two places at most, and two numbers have one sum in either order.
    Tensor::f_zeros([images, length, source as i64], (Kind::Float, taps.device()))?
        .f_scatter_add_(2, &places, &shares)?
        .f_unsqueeze(1)
}
