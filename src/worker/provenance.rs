//! What computes each kind of stage, for its record.

use scdd_artifacts::stage::ComputedOn;
use scdd_compute::cuda::TORCH;
use scdd_distill::relabel::AnsweringPlaces;
use scdd_experiment::config::{Precision, TeacherBn};
use scdd_experiment::run::stages::Task;

use crate::device::ComputeDevice;

/// What a kind of stage computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Computation {
    /// Plans and students: libtorch on the run's device, in its precision.
    InPrecision,
    /// The plain replica: libtorch on the run's device, which has no bfloat16 there.
    ByReplica,
    /// ONNX Runtime on the CPU.
    ByRuntime,
    /// ONNX Runtime and libtorch on the CPU.
    ByBoth,
    /// Labels, which answer in these places.
    Labels(TeacherBn, AnsweringPlaces),
}

impl Computation {
    /// That of `task`; `None` where no network runs, and of labels, whose places show only when the
    /// teachers are open.
    pub fn of(task: &Task) -> Option<Self> {
        match task {
            Task::Recover(_) | Task::Validate(_) | Task::Whole(_) => Some(Self::InPrecision),
            Task::Balance(_) => Some(Self::ByReplica),
            Task::Measure(_) | Task::Recognise(_) | Task::Verifier(_) => Some(Self::ByRuntime),
            Task::Verify(_) => Some(Self::ByBoth),
            Task::Subset(_) | Task::Real(_) | Task::Import(_) | Task::Relabel(_) => None,
        }
    }

    /// The record of a stage that this computes in a run on `device`, with ONNX Runtime's library
    /// `runtime`.
    pub fn record(self, device: &ComputeDevice, runtime: &str) -> ComputedOn {
        let torch = format!("libtorch {TORCH}");
        let (place, precision, libraries) = match self {
            Self::InPrecision => (device.name(), device.arithmetic(), torch),
            Self::ByReplica => (device.name(), without_bf16(device.arithmetic()), torch),
            Self::ByRuntime => (ComputeDevice::CPU.into(), Precision::Fp32, runtime.into()),
            Self::ByBoth => {
                (ComputeDevice::CPU.into(), Precision::Fp32, format!("{torch}, {runtime}"))
            }
            Self::Labels(by, places) => {
                let (place, precision) = match places {
                    AnsweringPlaces::Cpu => (ComputeDevice::CPU.into(), Precision::Fp32),
                    AnsweringPlaces::Gpu => (device.gpu(), without_bf16(device.precision)),
                    AnsweringPlaces::Both => (
                        format!("{} and {}", device.gpu(), ComputeDevice::CPU),
                        without_bf16(device.precision),
                    ),
                };
                let library = match by {
                    TeacherBn::Running => runtime.into(),
                    TeacherBn::Batch => torch,
                };
                (place, precision, library)
            }
        };
        ComputedOn { device: place, precision: precision.to_string(), libraries }
    }
}

/// The precision of what computes in TensorFloat-32 where others do in bfloat16.
fn without_bf16(precision: Precision) -> Precision {
    match precision {
        Precision::Bf16 => Precision::Tf32,
        Precision::Tf32 | Precision::Fp32 => precision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Device, precision and libraries.
    fn shown(what: Computation, device: &ComputeDevice) -> [String; 3] {
        let ComputedOn { device, precision, libraries } = what.record(device, "ort");
        [device, precision, libraries]
    }

    #[test]
    fn a_gpus_record_says_what_computed_each_kind_of_stage() {
        let torch = format!("libtorch {TORCH}");
        let both = format!("{torch}, ort");
        let labels = |by, places| Computation::Labels(by, places);
        let (gpu, cpu) = ("cuda:0 (Test 1)", "cpu");
        let cases = [
            (Computation::InPrecision, gpu, ["float32", "TF32", "bfloat16"], &torch[..]),
            (Computation::ByReplica, gpu, ["float32", "TF32", "TF32"], &torch),
            (Computation::ByRuntime, cpu, ["float32"; 3], "ort"),
            (Computation::ByBoth, cpu, ["float32"; 3], &both),
            (labels(TeacherBn::Running, AnsweringPlaces::Cpu), cpu, ["float32"; 3], "ort"),
            (
                labels(TeacherBn::Running, AnsweringPlaces::Gpu),
                gpu,
                ["float32", "TF32", "TF32"],
                "ort",
            ),
            (
                labels(TeacherBn::Running, AnsweringPlaces::Both),
                "cuda:0 (Test 1) and cpu",
                ["float32", "TF32", "TF32"],
                "ort",
            ),
            (
                labels(TeacherBn::Batch, AnsweringPlaces::Gpu),
                gpu,
                ["float32", "TF32", "TF32"],
                &torch,
            ),
        ];
        for (what, place, precisions, libraries) in cases {
            let asked = [Precision::Fp32, Precision::Tf32, Precision::Bf16];
            for (asked, precision) in asked.into_iter().zip(precisions) {
                let found = shown(what, &ComputeDevice::on_card(asked, "Test 1"));
                assert_eq!(found, [place, precision, libraries], "{what:?} {asked:?}");
            }
        }
    }

    #[test]
    fn a_cpu_computes_all_in_float32() {
        for asked in [Precision::Fp32, Precision::Tf32, Precision::Bf16] {
            for what in [Computation::InPrecision, Computation::ByReplica, Computation::ByBoth] {
                let found = shown(what, &ComputeDevice::cpu(asked));
                assert_eq!(found[..2], ["cpu", "float32"], "{what:?} {asked:?}");
            }
        }
    }
}
