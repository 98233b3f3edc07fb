//! A set of images that some stage makes, as the stages that read it see it.

use std::path::PathBuf;

use crate::run::graph::NodeId;

#[derive(Debug, Clone)]
pub struct Images {
    /// The stage that makes it.
    pub node: NodeId,
    /// The stage's key.
    pub key: String,
    /// The ImageFolder, in the stage's directory.
    pub folder: PathBuf,
    /// Names the set in the directories of what is made from it.
    pub name: String,
    /// Names the set to people: its method, teacher, images per class and seed.
    pub title: String,
    /// How many images.
    pub count: u64,
    /// How many small images per row and column each is a mosaic of.
    pub formation: u16,
    /// The stage that recovered them, perhaps among others; their own, where none did.
    pub recovery: NodeId,
    /// How many images that stage recovered.
    pub recovered: u64,
}

/// What of [`Images`] does not depend on where they lie.
pub(in crate::run) struct Described {
    pub name: String,
    pub title: String,
    pub count: u64,
    pub formation: u16,
}
