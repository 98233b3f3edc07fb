//! One YAML file describes one experiment. This module turns it into a typed, fully explicit
//! [`Experiment`], or reports exactly what is wrong: file, line, YAML path, and the nearest valid
//! key.
//!
//! [`Experiment::load`] goes through these steps:
//!
//! 1. The file is parsed, and `--set path=value` overrides are written into the raw tree.
//! 2. Short forms are expanded (one value for a list, `data: fashion-mnist`, `recover:` for a
//!    single method, `relabel:` and `validate:` for a single protocol).
//! 3. Each stage is merged key by key over its `preset:`, and that over `presets/default.yaml`,
//!    which contains every default.
//! 4. The tree is read into typed structs that know every key, and ranges and contradictions are
//!    checked.
//!
//! The result serialises to YAML that resolves to itself. [`RecoverConfig`], [`RelabelConfig`] and
//! [`ValidateConfig`] hold no preset names, so equal settings have equal hashes however they were
//! written.

mod check;
mod error;
mod faults;
mod locate;
mod model;
mod overrides;
mod path;
mod presets;
mod range;
pub mod real_rows;
mod resolve;
mod schema;
#[cfg(test)]
mod tests;

pub use error::{ConfigError, Located};
pub use model::{
    Baseline, BnDistance, BnWeight, Cell, Committee, Cooling, Crop, DataConfig, DataKind, Decay,
    Device, Difficulty, EnsembleMember, Experiment, Fallback, FinishedSet, GivenLabels, HardEpochs,
    LabelDtype, Labels, Loss, MeanAndStd, Mix, Normalised, Optimizer, Packing, Precision, Protocol,
    Quirk, RecoverConfig, RelabelConfig, RelabelTeachers, Residual, Schedule, Start,
    StudentTemperature, TeacherBn, TopK, Turn, ValidateConfig, ViewCrop, Warmup, WeightAdjustment,
    WholeReal,
};
pub use presets::names as preset_names;
pub use schema::schema;
