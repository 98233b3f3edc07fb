//! The CPU kernels of the compiled synthesis and training plans. They are pure Rust on slices of
//! channels-last (`[N, H, W, C]`) data and use no tensor library.
//!
//! Every kernel is written once over `simd::Vector` and compiled for each [`Isa`]. The instruction
//! set is an argument, so tests can try all of them on one machine. Work is cut into pieces
//! independently of the number of threads, so results do not depend on it either.

mod aligned;
pub mod conv;
pub mod depthwise;
pub mod direct;
mod filter;
pub mod gemm;
pub mod gradient;
pub mod pass;
pub mod peak;
pub mod pool;
mod simd;
mod tiles;
mod wide;
pub mod winograd;

pub use aligned::Aligned;
pub use simd::Isa;
