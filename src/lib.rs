//! `scdd` distils a labelled image data set into a few synthetic images per class, out of nothing but a pretrained network.
//!
//! What to read first, from the bottom up:
//!
pub mod cli;
pub mod config;
pub mod cli;
pub mod config;
pub mod data;
pub mod graph;
pub mod progress;
pub mod recover;
pub mod relabel;
pub mod replica;
pub mod report;
pub mod rng;
pub mod run;
pub mod teacher;
