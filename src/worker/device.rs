//! Where libtorch computes, and how exactly.

use std::fmt;

use scdd_artifacts::stage::ComputedOn;
use scdd_compute::cuda::{self, Driver, NoCuda, TORCH};
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

impl ComputeDevice {
    /// The CPU.
    pub fn cpu(precision: Precision) -> Self {
        Self { tensors: tch::Device::Cpu, precision, driver: None }
    }

    /// What ONNX Runtime labels on.
    pub fn of_labels(on_gpu: bool, precision: Precision) -> Self {
        match on_gpu.then(cuda::driver) {
            Some(driver) => Self { tensors: tch::Device::Cuda(0), precision, driver: driver.ok() },
            None => Self::cpu(precision),
        }
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

    /// The record of a stage that is computed here, and with ONNX Runtime's library `runtime`.
    pub fn computed_on(&self, runtime: &str) -> ComputedOn {
        ComputedOn {
            device: self.name(),
            precision: self.arithmetic().to_string(),
            libraries: format!("libtorch {TORCH}, {runtime}"),
        }
    }

    fn name(&self) -> String {
        let card = self.driver.and_then(|driver| driver.cards.first());
        card.map_or_else(|| "cpu".into(), |card| format!("cuda:0 ({})", card.name))
    }
}

impl fmt::Display for ComputeDevice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.name())?;
        if self.is_cpu() { Ok(()) } else { write!(f, ", {}", self.precision) }
    }
}
