//! A graph that runs and differentiates.
//!
//! - [`replica`]: the graph as libtorch operations, the readable reference, on any device;
//! - [`synthesis`]: the loss of images and its gradient by them, with frozen weights: by the
//!   reference, and compiled;
//! - [`training`]: gradients by the weights, compiled for the CPU with [`scdd_kernels`];
//! - [`threads`]: the cores, shared by the stages under way.

mod compiled;
pub mod replica;
pub mod synthesis;
pub mod threads;
pub mod training;
