//! Trains a student on the whole real training set with hard labels, and tests it.

use super::{Draft, NodeId, inputs, relabel, validate};
use crate::config::{LabelDtype, Mix, Protocol, RelabelConfig, ValidateConfig, WholeReal};
use crate::run::real::RealSplit;
use scdd_artifacts::bundle::Bundle;
use scdd_artifacts::stage::{Stage, StageError};

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 3;

pub struct WholeTask<'a> {
    pub student: &'a Bundle,
    pub train: &'a RealSplit,
    pub test: &'a RealSplit,
    /// The views of the training images.
    pub views: RelabelConfig,
    pub config: ValidateConfig,
    pub seed: u64,
}

/// The stage of the student; `verified` is its verification.
pub(in crate::run) fn draft<'a>(
    (student, verified): (&'a Bundle, NodeId),
    [train, test]: [&'a RealSplit; 2],
    protocol: &Protocol,
    whole: WholeReal,
    seed: u64,
) -> Result<Draft<'a>, StageError> {
    let WholeReal { epochs, batch_size } = whole;
    let views = RelabelConfig {
        epochs,
        batch_size,
        mix: Mix::None {},
        dtype: LabelDtype::F16,
        top_k: None,
        stored_epochs: None,
        ..protocol.relabel.clone()
    };
    let config = protocol.validate.hard();
    let identity = validate::training(&config).with("views", &relabel::views(&views).json()).json();
    let (data, tested) = (&train.summary, &test.summary);
    let inputs = inputs([("data", &data.hash), ("student", &student.hash), ("test", &tested.hash)]);
    let name = format!("{}-whole-{}", data.name, student.name());
    let epochs = u64::from(epochs);
    let stage = Stage::new("whole", VERSION, &name, &identity, inputs, seed)?
        .of_passes(3 * data.images() * epochs + validate::tests(&config, epochs, tested));
    let title =
        format!("train student `{}` on the whole training set, seed {seed}", student.name());
    let task =
        super::Task::Whole(Box::new(WholeTask { student, train, test, views, config, seed }));
    Ok(Draft { stage, title, needs: vec![verified], task })
}
