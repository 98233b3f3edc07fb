//! Where libtorch computes, and how exactly.

use std::fmt;

use scdd_compute::cuda::{self, Driver, NoCuda};
use scdd_compute::synthesis::PlanOptions;
use scdd_compute::threads::Threads;
use scdd_experiment::config::{self, Precision};

use crate::WorkerError;

/// The device of tensors, and the arithmetic of its convolutions.
#[derive(Debug, Clone, Copy)]
pub struct ComputeDevice {
    pub tensors: tch::Device,
    /// What was asked for. The CPU computes in float32 throughout.
    pub precision: Precision,
    driver: Option<&'static Driver>,
}

/// The first GPU.
const GPU: &str = "cuda:0";

impl ComputeDevice {
    /// The name of the CPU.
    pub const CPU: &str = "cpu";

    /// The CPU.
    pub fn cpu(precision: Precision) -> Self {
        Self { tensors: tch::Device::Cpu, precision, driver: None }
    }

    /// The device that `device` asks for, and with `auto` why it is the CPU. Sets libtorch's
    /// arithmetic.
    ///
    /// # Errors
    /// When `device` is CUDA and there is none, or libtorch's arithmetic can't be set.
    pub fn open(
        device: config::Device,
        precision: Precision,
    ) -> Result<(Self, Option<NoCuda>), WorkerError> {
        if device == config::Device::Cpu {
            return Ok((Self::cpu(precision), None));
        }
        let driver = match cuda::load() {
            Ok(driver) => driver,
            Err(reason) if device == config::Device::Auto => {
                return Ok((Self::cpu(precision), Some(reason)));
            }
            Err(reason) => return Err(WorkerError::NoCuda { reason }),
        };
        cuda::set_precision(precision != Precision::Fp32).map_err(WorkerError::Precision)?;
        Ok((Self { tensors: tch::Device::Cuda(0), precision, driver: Some(driver) }, None))
    }

    /// What a user is told of the device, and of why it is no GPU.
    pub fn told(&self, no_cuda: Option<&NoCuda>) -> String {
        match no_cuda {
            None => format!("computing on {self}"),
            Some(why @ NoCuda::NoDriver) => format!("computing on {self}: {why}"),
            Some(why) => format!("computing on {self}: {why}; {}", why.remedy()),
        }
    }

    /// Whether tensors are on the CPU.
    pub fn is_cpu(&self) -> bool {
        self.tensors == tch::Device::Cpu
    }

    /// The arithmetic of convolutions here.
    pub fn arithmetic(&self) -> Precision {
        if self.is_cpu() { Precision::Fp32 } else { self.precision }
    }

    /// The options of plans that recover images here.
    pub fn plan_options(&self, threads: &Threads) -> PlanOptions {
        PlanOptions {
            device: self.tensors,
            bf16: self.arithmetic() == Precision::Bf16,
            threads: threads.clone(),
            ..PlanOptions::default()
        }
    }

    /// The device's name.
    pub fn name(&self) -> String {
        self.driver.map_or_else(|| Self::CPU.into(), first_card)
    }

    /// The name of the GPU that ONNX Runtime uses, which may be one where tensors are on the CPU.
    pub fn gpu(&self) -> String {
        self.driver.or_else(|| cuda::driver().ok()).map_or_else(|| GPU.into(), first_card)
    }

    /// The first GPU of a driver that shows one of this `name`.
    #[cfg(test)]
    pub fn on_card(precision: Precision, name: &str) -> Self {
        let card = cuda::Card { name: name.into(), memory: 8 << 30 };
        let driver = Driver { cuda: (13, 0), cards: vec![card] };
        let driver = Some(&*Box::leak(Box::new(driver)));
        Self { tensors: tch::Device::Cuda(0), precision, driver }
    }
}

fn first_card(driver: &Driver) -> String {
    driver.cards.first().map_or_else(|| GPU.into(), |card| format!("{GPU} ({})", card.name))
}

impl fmt::Display for ComputeDevice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.name())?;
        if self.is_cpu() { Ok(()) } else { write!(f, ", {}", self.precision) }
    }
}
