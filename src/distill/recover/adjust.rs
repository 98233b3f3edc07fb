//! DWA's directed weight adjustment (arXiv 2409.17612): before a batch is recovered, the teacher's
//! weights take a few gradient ascent steps of fixed length on the batch's own cross entropy, so
//! that different batches have different teachers.
//!
//! As in the published code, only the weights that PyTorch would train are moved. BN's running
//! statistics, and so the targets, stay.

use std::sync::Arc;

use tch::{Device, Tensor};

use super::RecoverError;
use crate::teacher::{Bundle, Network};
use scdd_compute::replica::{Mode, to_array};
use scdd_compute::transfer;
use scdd_experiment::config::WeightAdjustment;
use scdd_graph::{Constant, Graph, Node, Op, ValueId};

/// Avoids division by 0, as in the published code.
const FLOOR: f64 = 1e-12;

/// The teacher's graph with its weights adjusted to the images `seen` `[N, C, H, W]` of classes
/// `targets` (int64 `[N]`), both on `device`.
///
/// # Errors
/// When the teacher can't be run, or libtorch fails.
pub fn adjusted(
    bundle: &Bundle,
    adjustment: WeightAdjustment,
    seen: &Tensor,
    targets: &Tensor,
    device: Device,
) -> Result<Arc<Graph>, RecoverError> {
    let torch = |source| RecoverError::Torch { teacher: bundle.name().into(), source };
    let replica = bundle.replica(device)?;
    let mut graph = bundle.graph.as_ref().clone();
    let mut weights: Vec<(ValueId, Tensor)> = Vec::new();
    for id in trained(&graph) {
        if let Some(weight) = replica.constant(&graph.values[id]) {
            weights.push((id, weight.set_requires_grad(true)));
        }
    }
    for _ in 0..adjustment.steps {
        let logits = replica
            .run(std::slice::from_ref(seen), &[], Mode::Eval)
            .map_err(|source| RecoverError::Replica { teacher: bundle.name().into(), source })?
            .outputs
            .remove(0);
        climb(&logits, targets, &weights, adjustment.rho / f64::from(adjustment.steps))
            .map_err(torch)?;
    }
    for (id, weight) in &weights {
        let values = to_array(weight).map_err(torch)?;
        let constant =
            Constant::from_f32s(values.shape(), &values.iter().copied().collect::<Vec<_>>());
        graph.constants.insert(*id, constant);
    }
    Ok(Arc::new(graph))
}

/// One gradient ascent step on the cross entropy, of `length` over all weights together.
fn climb(
    logits: &Tensor,
    targets: &Tensor,
    weights: &[(ValueId, Tensor)],
    length: f64,
) -> Result<(), tch::TchError> {
    let loss =
        logits.f_cross_entropy_loss::<Tensor>(targets, None, tch::Reduction::Mean, -100, 0.0)?;
    let tensors: Vec<&Tensor> = weights.iter().map(|(_, weight)| weight).collect();
    let gradients = Tensor::f_run_backward(&[&loss], &tensors, false, false)?;
    let _no_grad = tch::no_grad_guard();
    let norms = gradients.iter().map(Tensor::f_norm).collect::<Result<Vec<_>, _>>()?;
    let norm = transfer::read_one(&Tensor::f_stack(&norms, 0)?.f_norm()?)?;
    for ((_, weight), gradient) in weights.iter().zip(&gradients) {
        let _ = weight.shallow_clone().f_add_(&gradient.f_mul_scalar(length / (norm + FLOOR))?)?;
    }
    Ok(())
}

/// The constants that training would change: weights and biases of convolutions, matrix products
/// and normalisations.
fn trained(graph: &Graph) -> Vec<ValueId> {
    let places = |node: &Node| match node.op {
        // A normalisation's inputs after these are its running statistics.
        Op::Conv(_) | Op::Linear(_) | Op::Norm(_) => {
            node.inputs.iter().skip(1).take(2).flatten().copied().collect()
        }
        _ => Vec::new(),
    };
    let float =
        |id: &ValueId| graph.constants.get(id).is_some_and(|constant| constant.f32s().is_some());
    let mut found: Vec<ValueId> = graph.nodes.iter().flat_map(places).filter(float).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::tests::shipped;
    use ndarray::Array4;
    use scdd_compute::replica::{Replica, to_tensor};

    fn cross_entropy(replica: &Replica, images: &Array4<f32>, targets: &Tensor) -> f64 {
        let input = to_tensor(images.view()).unwrap();
        let logits = replica.run(&[input], &[], Mode::Eval).unwrap().outputs.remove(0);
        f64::try_from(logits.cross_entropy_for_logits(targets)).unwrap()
    }

    /// The L2 distance between the weights of two graphs.
    fn distance(a: &Graph, b: &Graph) -> f64 {
        let difference = |id: &ValueId| {
            let (a, b) = (a.constants[id].f32s().unwrap(), b.constants[id].f32s().unwrap());
            a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        trained(a).iter().map(difference).sum::<f64>().sqrt()
    }

    #[test]
    fn weights_move_by_the_length_of_the_steps_and_the_loss_rises() {
        let bundle = shipped("resnet18-w16-supervised");
        let images = Array4::from_shape_fn((4, 1, 28, 28), |(n, _, y, x)| {
            ((n + 1) * (y + x)) as f32 / 60.0 - 1.0
        });
        let targets = Tensor::from_slice(&[0i64, 1, 2, 3]);
        let before = bundle.replica(Device::Cpu).unwrap();
        let of = |steps| {
            let adjustment = WeightAdjustment { steps, rho: 0.015 };
            let seen = to_tensor(images.view()).unwrap();
            adjusted(&bundle, adjustment, &seen, &targets, Device::Cpu).unwrap()
        };
        let (one, twelve) = (of(1), of(12));
        assert!(
            (distance(&bundle.graph, &one) - 0.015).abs() < 1e-5,
            "{}",
            distance(&bundle.graph, &one)
        );
        // Steps in changing directions move less far in total.
        assert!((0.001..0.01500001).contains(&distance(&bundle.graph, &twelve)));
        for graph in [one, twelve] {
            let after = Replica::new(graph, Device::Cpu).unwrap();
            let [low, high] =
                [&before, &after].map(|replica| cross_entropy(replica, &images, &targets));
            assert!(high > low + 1e-3, "{low} {high}");
        }
    }

    #[test]
    fn running_statistics_do_not_move() {
        let bundle = shipped("resnet18-w16-supervised");
        let moved = trained(&bundle.graph);
        let (convolutions, norms) =
            (bundle.graph.convolutions().count(), bundle.graph.batch_norms().count());
        // Each convolution's weight, each normalisation's scale and bias, the classifier's weight
        // and bias.
        assert_eq!(moved.len(), convolutions + 2 * norms + 2);
        for norm in bundle.graph.batch_norms() {
            assert!(norm.inputs[3..5].iter().flatten().all(|id| !moved.contains(id)));
        }
    }
}
