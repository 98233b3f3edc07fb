//! A set of images, as described to the stages that read it.

use std::path::PathBuf;

use super::NodeId;

#[derive(Debug, Clone)]
pub struct Images {
    /// The stage that makes the set.
    pub node: NodeId,
    /// The stage's key.
    pub key: String,
    /// The ImageFolder, in the stage's directory.
    pub folder: PathBuf,
    /// The set's part of the directory names of stages that use it.
    pub name: String,
    /// The set's display name: its method, teacher, images per class and seed.
    pub title: String,
    /// The number of images.
    pub count: u64,
    /// The number of small images per row and column of each image, a mosaic.
    pub formation: u16,
    /// The stage that recovered the images, possibly as part of a larger set; else the set's own
    /// stage.
    pub recovery: NodeId,
    /// The number of images that this stage recovered.
    pub recovered: u64,
}

/// The fields of [`Images`] that do not depend on their location.
pub(in crate::run) struct Described {
    pub name: String,
    pub title: String,
    pub count: u64,
    pub formation: u16,
}
