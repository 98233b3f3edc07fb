//! `scdd` distils a labelled image data set into a few synthetic images per class, from a
//! pretrained network alone.
//!
//! This crate re-exports all others. Each depends only on those before it. Those marked ° need
//! libtorch and come with the feature `torch`.
//!
//! 1. [`graph`]: ONNX bytes become a typed graph.
//! 2. [`data`]: data sets, augmentation views, mixing, images on disk; [`rng`]: random numbers.
//! 3. [`artifacts`]: the files on disk: bundles, stages, labels, records.
//! 4. [`config`], [`run`], [`report`], [`export`]: an experiment as data.
//! 5. [`kernels`]: the CPU kernels.
//! 6. [`replica`]°: the graph as `tch` operations, under autograd. [`synthesis`]° and
//!    [`training`]°: the compiled plans. [`threads`]°: the cores. [`cuda`]°: GPUs.
//! 7. [`teacher`]°, [`recover`]°, [`relabel`]°, [`validate`]°, [`inspect`]°: the methods, and
//!    what they share: [`views`]°, [`keeper`]°, [`progress`]°.
//! 8. [`worker`]°: runs the stages of an experiment.
//!
//! Images are `f32` batches `[N, C, H, W]`; pixels lie in 0..=1 on disk, and are normalised by the
//! bundle's mean and standard deviation everywhere else.

pub use scdd_artifacts as artifacts;
pub use scdd_artifacts::labels;
#[cfg(feature = "torch")]
pub use scdd_compute::{cuda, replica, synthesis, threads, training, transfer};
pub use scdd_data as data;
pub use scdd_data::rng;
#[cfg(feature = "torch")]
pub use scdd_distill::{inspect, keeper, progress, recover, relabel, teacher, validate, views};
pub use scdd_experiment::{config, export, report, run};
pub use scdd_graph as graph;
pub use scdd_kernels as kernels;
#[cfg(feature = "torch")]
pub use scdd_worker as worker;
