//! The CPU kernels of the compiled plans, of synthesis and of training: pure Rust on slices of
//! channels-last (`[N, H, W, C]`) data, without any tensor library.
//!
//! Every kernel is written once over `lanes::Lanes` and compiled for each [`Isa`]; which one runs
//! is a value, so that tests can go through all of them on one machine. Work is cut into pieces
//! that do not depend on the number of threads, so results don't either.

mod aligned;
pub mod conv;
pub mod depthwise;
pub mod direct;
pub mod gemm;
pub mod gradient;
mod lanes;
pub mod pass;
pub mod pool;
mod wide;
pub mod winograd;

pub use aligned::Aligned;
pub use lanes::Isa;
