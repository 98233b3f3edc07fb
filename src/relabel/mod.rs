//! Soft labels: what a teacher says of the augmented, mixed synthetic images.

pub mod store;
