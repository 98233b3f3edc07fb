//! A graph that runs and differentiates.
//!
//! - [`replica`]: the graph as libtorch operations, under autograd; and compiled, for synthesis and
//!   for training, on the CPU with the kernels of [`scdd_kernels`];
//! - [`threads`]: the cores, shared by the stages under way.

pub mod replica;
pub mod threads;
