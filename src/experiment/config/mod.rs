//! One YAML file describes one experiment. This module turns it into a typed, fully explicit
//! [`Experiment`], or says exactly what is wrong with it: file, line, YAML path, and the nearest
//! valid key.
//!
//! From raw to resolved, in the order of [`Experiment::load`]:
//!
//! 1. the file is parsed, then `--set path=value` overrides are written into the raw tree;
//! 2. short forms are spelled out (one value where a list is possible, `data: fashion-mnist`,
//!    `recover:` for a single method, `relabel:` and `validate:` for a single protocol);
//! 3. each stage is merged key by key over its `preset:`, and that over `presets/default.yaml`,
//!    where every default is written down;
//! 4. the tree is read into typed structs that know every key, and ranges and contradictions are
//!    checked.
//!
//! The result serialises to YAML that resolves to itself. [`RecoverConfig`], [`RelabelConfig`] and
//! [`ValidateConfig`] hold no preset names, so equal settings hash equally however they were
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
    Device, Difficulty, EnsembleMember, Experiment, Fallback, HardEpochs, LabelDtype, Labels, Loss,
    Mix, Optimizer, Packing, Protocol, Quirk, RecoverConfig, RelabelConfig, RelabelTeachers,
    Residual, Schedule, Start, StudentTemperature, TeacherBn, TopK, Turn, ValidateConfig, ViewCrop,
    Warmup, WeightAdjustment, WholeReal,
};
pub use presets::names as preset_names;
pub use schema::schema;
