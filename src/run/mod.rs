//! Runs an experiment: stages that are done once, kept, and resumed.

pub mod stage;
