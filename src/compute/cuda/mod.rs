//! CUDA: NVIDIA's driver, libtorch's library for it, and how exactly it computes.
//!
//! libtorch looks for its CUDA library once, at the first question about CUDA. The linker drops
//! that library from programs that use none of its symbols, and so do ours: start-up is faster and
//! needs a fourth of the memory without it. So [`load`] comes before any other use of CUDA.

mod driver;
mod precision;

use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

pub use driver::{Card, Driver, driver, driver_version};
pub use precision::set_precision;

/// The version of libtorch, and of the CUDA that it was built for: `2.13.0+cu130`.
pub const TORCH: &str = env!("SCDD_TORCH");

const LIBRARY: &str = "libtorch_cuda.so";

/// Why nothing computes on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCuda {
    #[error("there is no NVIDIA driver (no libcuda.so.1)")]
    NoDriver,
    #[error("the NVIDIA driver does not work: {0}")]
    Driver(String),
    #[error("the NVIDIA driver shows no GPU")]
    NoCard,
    #[error("the NVIDIA driver supports CUDA {}.{}, but libtorch {TORCH} needs {needed}", found.0, found.1)]
    OldDriver { found: (u32, u32), needed: u32 },
    #[error("libtorch {TORCH} has no CUDA library ({0})")]
    NoLibrary(String),
    #[error("libtorch {TORCH} was asked about CUDA before its CUDA library was loaded")]
    Late,
    #[error("libtorch {TORCH} can't use the {0} that the NVIDIA driver shows")]
    Refused(String),
}

impl NoCuda {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            NoCuda::NoDriver => "install it, or start the container with its GPUs",
            NoCuda::Driver(_) | NoCuda::Refused(_) => "see what `nvidia-smi` says",
            NoCuda::NoCard => "see `nvidia-smi`, and whether CUDA_VISIBLE_DEVICES hides it",
            NoCuda::OldDriver { needed: 13, .. } => "install driver 580 or later",
            NoCuda::OldDriver { .. } => "install a newer driver",
            NoCuda::NoLibrary(_) => "install libtorch's build for CUDA",
            NoCuda::Late => "this is a fault of scdd, please report it",
        }
    }
}

/// Makes libtorch able to compute on a GPU. Looks at the machine once; later calls give the same
/// answer.
///
/// # Errors
/// When there is no usable GPU, driver or library.
pub fn load() -> Result<&'static Driver, NoCuda> {
    static LOADED: OnceLock<Result<&'static Driver, NoCuda>> = OnceLock::new();
    LOADED.get_or_init(open).clone()
}

/// The first GPU that the driver shows.
///
/// # Errors
/// When there is no GPU or no working driver.
pub fn first_card() -> Result<&'static Card, NoCuda> {
    driver()?.cards.first().ok_or(NoCuda::NoCard)
}

/// The version of the cuDNN that libtorch uses, once [`load`] has succeeded: `9.20.0`.
pub fn cudnn_version() -> Option<String> {
    (load().is_ok() && tch::Cuda::cudnn_is_available())
        .then(|| shown_cudnn(tch::utils::version_cudnn()))
}

/// cuDNN's number as people write it.
fn shown_cudnn(number: i64) -> String {
    // Until 8.9 it had a digit less for the minor version.
    let major = if number < 10_000 { 1_000 } else { 10_000 };
    format!("{}.{}.{}", number / major, number % major / 100, number % 100)
}

fn open() -> Result<&'static Driver, NoCuda> {
    let (first, driver) = (first_card()?, driver()?);
    if let Some(needed) = major(TORCH).filter(|&needed| driver.cuda.0 < needed) {
        return Err(NoCuda::OldDriver { found: driver.cuda, needed });
    }
    // SAFETY: loading runs the initialisers of a library that belongs to the loaded libtorch. It is
    // found through the program's own search path, as the rest of libtorch was.
    let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|e| NoCuda::NoLibrary(driver::reason(&e)))?;
    // It stays open as long as the program runs.
    let _ = library.into_raw();
    // libtorch looks for the library once. A question before this would have left it without.
    if !tch::utils::has_cudart() {
        return Err(NoCuda::Late);
    }
    if tch::Cuda::device_count() == 0 {
        return Err(NoCuda::Refused(first.name.clone()));
    }
    Ok(driver)
}

/// The major version of CUDA that this version of libtorch was built for.
fn major(version: &str) -> Option<u32> {
    let digits = version.split_once("+cu")?.1;
    digits.get(..digits.len().checked_sub(1)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_tells_the_cuda_that_libtorch_needs() {
        let found = ["2.13.0+cu130", "2.7.0+cu118", "2.13.0+cpu", "2.13.0", "2.13.0+cu"].map(major);
        assert_eq!(found, [Some(13), Some(11), None, None, None]);
    }

    #[test]
    fn cudnns_number_is_shown_as_people_write_it() {
        assert_eq!([92_000, 91_002, 8_907].map(shown_cudnn), ["9.20.0", "9.10.2", "8.9.7"]);
    }

    #[test]
    fn an_old_driver_is_told_which_one_to_install() {
        let remedy = |needed| NoCuda::OldDriver { found: (12, 4), needed }.remedy();
        assert_eq!(remedy(13), "install driver 580 or later");
        assert_eq!(remedy(14), "install a newer driver");
    }
}
