//! Copies between the program's memory and a device, counted. A GPU works ahead of the program
//! until it must wait for a copy, so the steps of a recovery make few, and all of them here.

use std::cell::Cell;

use tch::{Device, Kind, TchError, Tensor};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// The number of copies that this thread has made so far, on whatever device.
pub fn count() -> usize {
    COUNT.get()
}

/// `values`, with this `shape`, on `device`. Does not wait until they are there.
///
/// # Errors
/// When libtorch can't make or copy the tensor.
pub fn upload(values: &[f32], shape: &[i64], device: Device) -> Result<Tensor, TchError> {
    send(&Tensor::f_from_slice(values)?.f_reshape(shape)?, device)
}

/// `tensor`, which lies in the program's memory, on `device`. Does not wait until it is there.
///
/// # Errors
/// When libtorch can't copy the tensor.
pub fn send(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    COUNT.set(COUNT.get() + 1);
    match device {
        // From pageable memory a GPU's driver would copy while the program waits.
        Device::Cuda(_) => {
            // `pin_memory` itself warns of its argument, at every call.
            let pinned = tensor.f_internal_pin_memory(device)?;
            pinned.f_to_device_(device, tensor.kind(), true, false)
        }
        _ => tensor.f_to_device(device),
    }
}

/// `tensor` in the program's memory. Waits for everything before it.
///
/// # Errors
/// When libtorch can't copy it.
pub fn fetch(tensor: &Tensor) -> Result<Tensor, TchError> {
    COUNT.set(COUNT.get() + 1);
    tensor.f_to_device(Device::Cpu)
}

/// The one value of `tensor`, in float64. Waits for everything before it.
///
/// # Errors
/// When it has another number of values, or libtorch can't copy it.
pub fn read_one(tensor: &Tensor) -> Result<f64, TchError> {
    match read(tensor)?[..] {
        [value] => Ok(value),
        _ => Err(TchError::Shape(format!("{:?} is not one value", tensor.size()))),
    }
}

/// The values of `tensor`, in float64. Waits for everything before them.
///
/// # Errors
/// When libtorch can't copy them.
pub fn read(tensor: &Tensor) -> Result<Vec<f64>, TchError> {
    Vec::try_from(fetch(&tensor.f_to_kind(Kind::Double)?.f_reshape([-1])?)?)
}
