//! Runs and differentiates a graph.
//!
//! - [`replica`]: the graph as libtorch operations, the readable reference, on any device;
//! - [`synthesis`]: the loss of images and its gradient with respect to them, with frozen weights:
//!   by the reference, and compiled;
//! - [`training`]: gradients with respect to the weights, compiled for the CPU with
//!   [`scdd_kernels`];
//! - [`cuda`]: GPUs, and libtorch's library for them;
//! - [`transfer`]: copies between the program's memory and a device;
//! - [`threads`]: the processor's cores, shared by the running stages.

mod compiled;
pub mod cuda;
pub mod replica;
pub mod synthesis;
pub mod threads;
pub mod training;
pub mod transfer;
