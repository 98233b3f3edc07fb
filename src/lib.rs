//! `scdd` distils a labelled image data set into a few synthetic images per class, out of nothing but a pretrained network.
//!
//! What to read first, from the bottom up; what is marked ° lives in the crate [`scdd_core`], which links no tensor library:
//!
//! 1. [`graph`]°: ONNX bytes become a typed graph; knows nothing of tensor libraries.
//! 2. [`replica`]: the same graph as `tch` operations, under autograd; and compiled, for synthesis and for training, on the CPU with our own [`kernels`].
//! 3. [`data`]°: data sets, augmentation views, mixing, images on disk.
//! 4. [`teacher`]: the bundle on disk°, its verification, the ONNX Runtime session.
//! 5. [`recover`], [`relabel`], [`validate`]: the three stages of a distillation.
//! 6. [`config`]°, [`run`]°, [`report`]°: an experiment, the graph of its stages, what it found; [`worker`] makes the stages.
//! 7. [`inspect`]: what teachers' statistics hold, side by side; [`export`]°: distilled sets in the forms that others read.
//! 8. [`cli`]: one file per subcommand; the only module that prints, with [`scdd_core::cli`].
//!
//! Images are `f32` batches `[N, C, H, W]`; pixels lie in 0..=1 on disk and are normalised as the bundle says everywhere else.
//! Randomness is counter-based: see [`rng`].

pub mod cli;
pub mod inspect;
pub use scdd_kernels as kernels;
pub mod memory;
pub mod progress;
pub mod recover;
pub mod relabel;
pub mod replica;
pub mod teacher;
pub mod validate;
pub mod worker;

mod share;

pub use scdd_core::{config, data, export, graph, own, place, report, rng, run};
