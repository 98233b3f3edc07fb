//! How exactly libtorch computes on a GPU. Its own defaults are never relied on.

use std::ffi::c_void;

use libloading::os::unix::{Library, Symbol};

use super::TORCH;

/// `at::globalContext()`.
const CONTEXT: &str = "_ZN2at13globalContextEv";
/// `at::Context::setAllowTF32CuDNN(bool)`: convolutions.
const CONVOLUTIONS: &str = "_ZN2at7Context17setAllowTF32CuDNNEb";
/// `at::Context::setAllowTF32CuBLAS(bool)`: matrix products.
const PRODUCTS: &str = "_ZN2at7Context18setAllowTF32CuBLASEb";
/// `at::Context::setDeterministicCuDNN(bool)`.
const DETERMINISTIC: &str = "_ZN2at7Context21setDeterministicCuDNNEb";

type Setter = unsafe extern "C" fn(*mut c_void, bool);

/// Sets libtorch's arithmetic on GPUs for the whole program: convolutions in TensorFloat-32
/// (float32's range, 10 bits of fraction) or in float32, all else in float32. cuDNN may choose only
/// algorithms that give the same bytes each time.
///
/// # Errors
/// With the missing function's name when this libtorch has no such setting.
pub fn set_precision(tf32: bool) -> Result<(), String> {
    set(CONVOLUTIONS, tf32)?;
    set(PRODUCTS, false)?;
    set(DETERMINISTIC, true)
}

fn set(setter: &str, value: bool) -> Result<(), String> {
    // SAFETY: these are the types of libtorch's own functions, whose `this` is the first argument.
    unsafe { symbol::<Setter>(setter)?(context()?, value) };
    Ok(())
}

/// # Safety
/// libtorch must be loaded.
unsafe fn context() -> Result<*mut c_void, String> {
    // SAFETY: the function takes nothing and gives a reference.
    unsafe { Ok(symbol::<unsafe extern "C" fn() -> *mut c_void>(CONTEXT)?()) }
}

/// A function of the libtorch that this program is linked to. Its bindings lack these.
///
/// # Safety
/// `T` must be the type of the function `name`.
unsafe fn symbol<T>(name: &str) -> Result<Symbol<T>, String> {
    // SAFETY: as the caller promises. The program and its libraries stay loaded.
    let found = unsafe { Library::this().get(name) };
    found.map_err(|_| format!("libtorch {TORCH} lacks {name}: its arithmetic can't be set"))
}

#[cfg(test)]
mod tests {
    use std::ffi::c_int;

    use super::*;

    /// `at::Context::allowTF32CuBLAS() const`.
    const PRODUCTS_ALLOWED: &str = "_ZNK2at7Context15allowTF32CuBLASEv";
    /// `at::Context::deterministicCuDNN() const`.
    const IS_DETERMINISTIC: &str = "_ZNK2at7Context18deterministicCuDNNEv";

    /// `at::Context::float32Precision(Float32Backend, Float32Op) const`.
    const PRECISION: &str = "_ZNK2at7Context16float32PrecisionENS_14Float32BackendENS_9Float32OpE";
    // Of `Float32Backend`, `Float32Op` and `Float32Precision`.
    const CUDA: c_int = 1;
    const CONVOLUTION: c_int = 1;
    const TF32: c_int = 2;

    /// Whether cuDNN's convolutions may be in TensorFloat-32: what they themselves look at.
    fn convolves_in_tf32() -> bool {
        type Getter = unsafe extern "C" fn(*const c_void, c_int, c_int) -> c_int;
        // SAFETY: the type is that of the function, whose enumerations are ints.
        unsafe {
            symbol::<Getter>(PRECISION).unwrap()(context().unwrap(), CUDA, CONVOLUTION) == TF32
        }
    }

    fn get(getter: &str) -> bool {
        type Getter = unsafe extern "C" fn(*const c_void) -> bool;
        // SAFETY: the type is that of both functions.
        unsafe { symbol::<Getter>(getter).unwrap()(context().unwrap()) }
    }

    #[test]
    fn libtorch_follows() {
        set(PRODUCTS, true).unwrap();
        assert!(get(PRODUCTS_ALLOWED), "the setting has no effect");
        for tf32 in [true, false] {
            set_precision(tf32).unwrap();
            assert!(!get(PRODUCTS_ALLOWED) && get(IS_DETERMINISTIC));
            assert_eq!(convolves_in_tf32(), tf32);
        }
    }

    #[test]
    fn a_libtorch_without_the_setting_is_named() {
        let error = set("_ZN2at7Context9setNothingEb", true).unwrap_err();
        assert!(error.contains("lacks _ZN2at7Context9setNothingEb"), "{error}");
    }
}
