//! NVIDIA's driver, asked through its own library (the CUDA driver API), before anything heavy is
//! loaded.

use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::ptr;
use std::sync::OnceLock;

use libloading::os::unix::{Library, Symbol};

use super::NoCuda;

const LIBRARY: &str = "libcuda.so.1";
/// NVML.
const MANAGEMENT: &str = "libnvidia-ml.so.1";
/// CUDA_SUCCESS.
const SUCCESS: c_int = 0;
/// CUDA_ERROR_NO_DEVICE.
const NO_DEVICE: c_int = 100;
/// Bytes for the name of a GPU.
const NAME: usize = 256;

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its name: `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Its memory, in bytes.
    pub memory: u64,
}

/// The driver and its GPUs, those that CUDA_VISIBLE_DEVICES leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// The newest CUDA that it supports: major and minor version.
    pub cuda: (u32, u32),
    /// The GPUs, in the order of their numbers.
    pub cards: Vec<Card>,
}

/// The driver of this machine. Asks once.
///
/// # Errors
/// When there is none, or it does not work. A driver without GPUs is no error.
pub fn driver() -> Result<&'static Driver, NoCuda> {
    static FOUND: OnceLock<Result<Driver, NoCuda>> = OnceLock::new();
    FOUND.get_or_init(ask).as_ref().map_err(Clone::clone)
}

/// The driver's own version, `580.95.05`, if its management library (NVML) is there.
pub fn driver_version() -> Option<String> {
    type Init = unsafe extern "C" fn() -> c_int;
    type Version = unsafe extern "C" fn(*mut c_char, c_uint) -> c_int;
    let mut text = [0u8; NAME];
    // SAFETY: loading runs the initialisers of the system's own driver library. The types are those
    // of the functions in NVIDIA's nvml.h, and the text has the length that is passed.
    unsafe {
        let library = Library::new(MANAGEMENT).ok()?;
        let init: Symbol<Init> = library.get("nvmlInit_v2").ok()?;
        let version: Symbol<Version> = library.get("nvmlSystemGetDriverVersion").ok()?;
        let is_told =
            init() == SUCCESS && version(text.as_mut_ptr().cast(), NAME as c_uint) == SUCCESS;
        // It may have started threads.
        let _ = library.into_raw();
        is_told.then_some(())?;
    }
    Some(CStr::from_bytes_until_nul(&text).ok()?.to_string_lossy().into_owned())
}

fn ask() -> Result<Driver, NoCuda> {
    // SAFETY: loading runs the initialisers of the system's own driver library.
    let library = unsafe { Library::new(LIBRARY) }.map_err(|_| NoCuda::NoDriver)?;
    // SAFETY: the types are those of the functions in NVIDIA's cuda.h. Every pointer that is passed
    // points to memory of the size that the function writes.
    let driver = unsafe { DriverApi::of(&library).and_then(|api| api.driver()) };
    // The driver can't be unloaded safely once it has started.
    let _ = library.into_raw();
    driver
}

/// The functions of the driver API that are needed.
struct DriverApi {
    init: Symbol<unsafe extern "C" fn(c_uint) -> c_int>,
    version: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int>,
    count: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int>,
    device: Symbol<unsafe extern "C" fn(*mut c_int, c_int) -> c_int>,
    name: Symbol<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int>,
    memory: Symbol<unsafe extern "C" fn(*mut usize, c_int) -> c_int>,
    explain: Symbol<unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int>,
}

impl DriverApi {
    /// # Safety
    /// `library` must be NVIDIA's driver.
    unsafe fn of(library: &Library) -> Result<Self, NoCuda> {
        let broken = |e: libloading::Error| NoCuda::Driver(reason(&e));
        // SAFETY: as the caller promises.
        unsafe {
            Ok(Self {
                init: library.get("cuInit").map_err(broken)?,
                version: library.get("cuDriverGetVersion").map_err(broken)?,
                count: library.get("cuDeviceGetCount").map_err(broken)?,
                device: library.get("cuDeviceGet").map_err(broken)?,
                name: library.get("cuDeviceGetName").map_err(broken)?,
                memory: library.get("cuDeviceTotalMem_v2").map_err(broken)?,
                explain: library.get("cuGetErrorString").map_err(broken)?,
            })
        }
    }

    /// # Safety
    /// The functions must be those of NVIDIA's driver.
    unsafe fn driver(&self) -> Result<Driver, NoCuda> {
        let (mut version, mut count) = (0, 0);
        // SAFETY: as the caller promises.
        unsafe {
            match (self.init)(0) {
                NO_DEVICE => return Err(NoCuda::NoCard),
                code => self.check(code)?,
            }
            self.check((self.version)(&raw mut version))?;
            self.check((self.count)(&raw mut count))?;
            let cards = (0..count).map(|number| self.card(number)).collect::<Result<_, _>>()?;
            let version = u32::try_from(version).unwrap_or(0);
            Ok(Driver { cuda: (version / 1000, version % 1000 / 10), cards })
        }
    }

    /// # Safety
    /// As of [`driver`](Self::driver).
    unsafe fn card(&self, number: c_int) -> Result<Card, NoCuda> {
        let (mut device, mut memory, mut name) = (0, 0, [0u8; NAME]);
        // SAFETY: as the caller promises.
        unsafe {
            self.check((self.device)(&raw mut device, number))?;
            self.check((self.name)(name.as_mut_ptr().cast(), NAME as c_int, device))?;
            self.check((self.memory)(&raw mut memory, device))?;
        }
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        Ok(Card { name: name.to_string_lossy().into_owned(), memory: memory as u64 })
    }

    /// # Safety
    /// As of [`driver`](Self::driver).
    unsafe fn check(&self, code: c_int) -> Result<(), NoCuda> {
        if code == SUCCESS {
            return Ok(());
        }
        let mut text: *const c_char = ptr::null();
        // SAFETY: as the caller promises; the text is a constant of the library.
        let known = unsafe {
            ((self.explain)(code, &raw mut text) == SUCCESS && !text.is_null())
                .then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        Err(NoCuda::Driver(known.unwrap_or_else(|| format!("CUDA error {code}"))))
    }
}

/// The system's own words on a library that can't be loaded.
pub fn reason(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
