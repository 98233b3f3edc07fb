//! Who answers: one teacher or the mean of several, by their running BN statistics or by those of the batch.

use ndarray::{Array2, Array4};

use super::RelabelError;
use crate::config::{Device, Fallback, RelabelConfig, TeacherBn};
use crate::graph::Op;
use crate::graph::ops::Norm;
use crate::replica::{Mode, Replica, to_array, to_tensor};
use crate::teacher::{Bundle, Provider, Runtime, RuntimeError, Session, SessionOptions};

/// Teachers whose logits are averaged.
pub struct Teachers {
    members: Vec<Member>,
}

struct Member {
    name: String,
    /// Of the mean; all shares together are 1.
    share: f32,
    network: Network,
}

enum Network {
    /// Through ONNX Runtime, by running statistics.
    Running(Session),
    /// Through the replica, by the batch's statistics.
    Batch(Box<Replica>, tch::Device),
}

impl Teachers {
    /// Networks where `config` wants them, for bundles with their weights in the mean, the first one's preprocessing being that of all; and a remark
    /// where they are not where it wanted them first. `device` is where teachers by batch statistics run.
    ///
    /// # Errors
    /// When CUDA is asked for, is not to be had, and no fallback is configured; when bundles do not fit each other; when batch statistics are asked of a
    /// network without BatchNorm.
    pub fn open(
        bundles: &[(&Bundle, f64)],
        runtime: &Runtime,
        config: &RelabelConfig,
        device: tch::Device,
    ) -> Result<(Self, Option<String>), RelabelError> {
        check_fit(bundles)?;
        let total: f64 = bundles.iter().map(|(_, weight)| weight).sum();
        let (mut members, mut last_remark) = (Vec::new(), None);
        for (bundle, weight) in bundles {
            let network = match config.teacher_bn {
                TeacherBn::Batch => Network::Batch(Box::new(replica(bundle, device)?), device),
                TeacherBn::Running => {
                    let (session, remark) = open_session(bundle, runtime, config)?;
                    last_remark = last_remark.or(remark);
                    Network::Running(session)
                }
            };
            members.push(Member { name: bundle.name().into(), share: (weight / total) as f32, network });
        }
        Ok((Self { members }, last_remark))
    }

    /// The mean of all teachers' logits `[N, K]` for images `[N, C, H, W]`.
    ///
    /// # Errors
    /// When a network can't run.
    pub fn logits(&mut self, images: &Array4<f32>) -> Result<Array2<f32>, RelabelError> {
        let [only] = &mut self.members[..] else { return self.mean(images) };
        only.logits(images)
    }

    fn mean(&mut self, images: &Array4<f32>) -> Result<Array2<f32>, RelabelError> {
        let mut mean = Array2::zeros((0, 0));
        for member in &mut self.members {
            let logits = member.logits(images)?;
            if mean.is_empty() {
                mean = Array2::zeros(logits.raw_dim());
            }
            mean.scaled_add(member.share, &logits);
        }
        Ok(mean)
    }
}

impl Member {
    fn logits(&mut self, images: &Array4<f32>) -> Result<Array2<f32>, RelabelError> {
        match &mut self.network {
            Network::Running(session) => Ok(session.logits(images)?),
            Network::Batch(replica, device) => by_batch_statistics(replica, *device, images)
                .map_err(|e| RelabelError::Teacher { teacher: self.name.clone(), what: e.to_string() }),
        }
    }
}

fn by_batch_statistics(
    replica: &Replica,
    device: tch::Device,
    images: &Array4<f32>,
) -> Result<Array2<f32>, Box<dyn std::error::Error>> {
    let _no_grad = tch::no_grad_guard();
    let input = to_tensor(images.view())?.f_to_device(device)?;
    let run = replica.run(&[input], &[], Mode::Batch)?;
    Ok(to_array(&run.outputs[0])?.into_dimensionality()?)
}

/// Teachers see the same images and mean the same by their logits.
fn check_fit(bundles: &[(&Bundle, f64)]) -> Result<(), RelabelError> {
    let Some(((first, _), others)) = bundles.split_first() else { return Ok(()) };
    for (other, _) in others {
        let what = match () {
            () if other.manifest.preprocessing != first.manifest.preprocessing => "preprocesses images",
            () if other.manifest.classes != first.manifest.classes => "orders or names classes",
            () => continue,
        };
        let what = format!("{what} in another way than `{}`; logits can be averaged only of teachers that agree", first.name());
        return Err(RelabelError::Teacher { teacher: other.name().into(), what });
    }
    Ok(())
}

fn replica(bundle: &Bundle, device: tch::Device) -> Result<Replica, RelabelError> {
    let fail = |what: String| RelabelError::Teacher { teacher: bundle.name().into(), what };
    let replica = bundle.replica(device).map_err(|e| fail(e.to_string()))?;
    if !replica.graph().nodes.iter().any(|node| matches!(node.op, Op::Norm(Norm::Batch { .. }))) {
        return Err(fail("has no BatchNorm node, so `relabel.teacher_bn: batch` means nothing for it; use `running`".into()));
    }
    Ok(replica)
}

/// A session where the configuration wants it, and a remark where that is not what was asked for first.
fn open_session(
    bundle: &Bundle,
    runtime: &Runtime,
    config: &RelabelConfig,
) -> Result<(Session, Option<String>), RelabelError> {
    let open = |provider| {
        let options = SessionOptions { provider, optimize: true, threads: 0 };
        runtime.session(bundle.name(), &bundle.model, &[], options)
    };
    let may_fall_back = config.provider == Device::Auto || config.fallback == Some(Fallback::Cpu);
    if config.provider == Device::Cpu {
        return Ok((open(Provider::Cpu)?, None));
    }
    match open(Provider::Cuda) {
        Ok(session) => Ok((session, None)),
        Err(RuntimeError::NoCuda { what }) if may_fall_back => {
            let remark = format!("no CUDA in ONNX Runtime ({what}): soft labels are computed on the CPU");
            Ok((open(Provider::Cpu)?, Some(remark)))
        }
        Err(error) => Err(error.into()),
    }
}
