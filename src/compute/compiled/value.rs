//! The tensors of an evaluation, and the buffer pool that keeps their memory between evaluations.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use tch::{Device, Kind, TchError, Tensor};

use scdd_kernels::Aligned;

/// Free buffers for activations and gradients.
#[derive(Default)]
pub struct BufferPool(Mutex<Vec<Aligned>>);

impl BufferPool {
    /// A buffer of `len` arbitrary values: the smallest free one of `len` to 2 · `len` values, or
    /// else a new one.
    pub fn take(self: &Arc<Self>, len: usize) -> Fresh {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |m: &Aligned| m.len() >= len && m.len() <= 2 * len;
        let best = (0..free.len()).filter(|&i| fits(&free[i])).min_by_key(|&i| free[i].len());
        let memory = best.map_or_else(|| Aligned::zeros(len), |i| free.swap_remove(i));
        Fresh { block: Block { memory, pool: self.clone() }, len }
    }
}

/// A buffer that returns to its pool when it is dropped.
struct Block {
    memory: Aligned,
    pool: Arc<BufferPool>,
}

impl Drop for Block {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Aligned::zeros(0));
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

/// A buffer that is being written.
pub struct Fresh {
    block: Block,
    len: usize,
}

impl Deref for Fresh {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.block.memory[..self.len]
    }
}

impl DerefMut for Fresh {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.block.memory[..self.len]
    }
}

impl Fresh {
    /// The written buffer as a channels-last tensor of `size` `[N, C, H, W]`.
    ///
    /// # Errors
    /// When libtorch refuses the shape.
    pub fn finish(self, size: [i64; 4]) -> Result<Value, TchError> {
        let [n, c, h, w] = size;
        if n * c * h * w != self.len as i64 {
            return Err(TchError::Shape(format!(
                "{size:?} is not the shape of {} values",
                self.len
            )));
        }
        let strides = [h * w * c, 1, w * c, c];
        let data = self.block.memory.as_ptr().cast();
        // SAFETY: the memory holds as many values as the shape has, as just checked. The value
        // keeps the block alive; its memory does not move, and is not written while a value refers
        // to it.
        let tensor =
            unsafe { Tensor::f_from_blob(data, &size, &strides, Kind::Float, Device::Cpu)? };
        Ok(Value { tensor, held: vec![Arc::new(self.block)] })
    }
}

/// A read-only tensor, and the pooled buffer that it may lie in.
pub struct Value {
    tensor: Tensor,
    held: Vec<Arc<Block>>,
}

impl Clone for Value {
    fn clone(&self) -> Self {
        self.view(self.tensor.shallow_clone())
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        Self { tensor, held: Vec::new() }
    }
}

impl Value {
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// `tensor`, which may use this value's memory.
    pub fn view(&self, tensor: Tensor) -> Self {
        Self { tensor, held: self.held.clone() }
    }

    /// `tensor`, which may use the memory of any of `values`.
    pub fn view_of(values: &[Value], tensor: Tensor) -> Self {
        Self { tensor, held: values.iter().flat_map(|v| v.held.iter().cloned()).collect() }
    }

    /// The same values `[N, C, H, W]`, densely channels-last.
    ///
    /// # Errors
    /// When libtorch can't copy.
    pub fn channels_last(&self) -> Result<Self, TchError> {
        if self.is_channels_last() {
            return Ok(self.clone());
        }
        Ok(self.tensor.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?.into())
    }

    fn is_channels_last(&self) -> bool {
        let (Ok((n, c, h, w)), Ok(strides)) = (self.tensor.size4(), self.tensor.stride4()) else {
            return false;
        };
        let strides = [strides.0, strides.1, strides.2, strides.3];
        let expected = [h * w * c, 1, w * c, c];
        [n, c, h, w]
            .iter()
            .zip(strides.iter().zip(expected))
            .all(|(&size, (&s, e))| size == 1 || s == e)
    }

    /// The values of a channels-last tensor in memory order: pixel by pixel, channels innermost.
    ///
    /// # Errors
    /// When the tensor is not dense channels-last `f32` on the CPU.
    pub fn pixels(&self) -> Result<&[f32], TchError> {
        let known = self.tensor.kind() == Kind::Float && self.tensor.device() == Device::Cpu;
        if !known || !self.is_channels_last() {
            return Err(TchError::Shape(format!(
                "{:?} is not dense channels-last f32",
                self.tensor
            )));
        }
        let data = self.tensor.data_ptr().cast::<f32>().cast_const();
        if self.tensor.numel() == 0 {
            return Ok(&[]);
        }
        // SAFETY: the tensor is dense f32 on the CPU, as just checked. The memory lives as long as
        // `self`, and values are never written.
        Ok(unsafe { std::slice::from_raw_parts(data, self.tensor.numel()) })
    }
}
