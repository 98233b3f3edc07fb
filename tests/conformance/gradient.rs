//! The input gradients of a case: against PyTorch's, and against central differences in float64.

use scdd::replica::{Mode, Replica};
use tch::{Kind, Tensor};

use crate::case::Case;

/// The largest allowed difference from PyTorch's float32 gradient, relative to its largest element
/// if that exceeds 1.
const GOLDEN: f64 = 1e-4;
/// The largest allowed difference from central differences, relative likewise.
const DIFFERENCES: f64 = 1e-5;
const STEP: f64 = 1e-5;

/// Whether PyTorch's gradients are on disk.
pub fn has_gradients(case: &Case) -> bool {
    case.dir.join("cotangent_0.pb").is_file()
}

/// Checks all gradients of the case.
pub fn check(case: &Case) -> Result<(), String> {
    let replica = case.replica()?;
    let (inputs, cotangents) = (case.tensors("input")?, case.tensors("cotangent")?);
    let found = gradients(&replica, &inputs, &cotangents)?;
    for (i, gradient) in &found {
        let golden = case
            .tensor("gradient", *i)?
            .ok_or_else(|| format!("gradient {i} is missing on disk"))?;
        close(gradient, &golden, GOLDEN).map_err(|e| format!("input {i}: {e}, says PyTorch"))?;
    }
    let replica = replica.to_kind(Kind::Double).map_err(|e| e.to_string())?;
    let inputs: Vec<Tensor> = inputs.iter().map(double).collect();
    for (i, gradient) in gradients(&replica, &inputs, &cotangents)? {
        let expected = central_differences(&replica, &inputs, &cotangents, i)?;
        close(&gradient, &expected, DIFFERENCES)
            .map_err(|e| format!("input {i}: {e}, say central differences"))?;
    }
    Ok(())
}

fn double(tensor: &Tensor) -> Tensor {
    if tensor.is_floating_point() { tensor.to_kind(Kind::Double) } else { tensor.shallow_clone() }
}

/// Σ outputs · cotangents.
fn total(replica: &Replica, inputs: &[Tensor], cotangents: &[Tensor]) -> Result<Tensor, String> {
    let run = replica.run(inputs, &[], Mode::Eval).map_err(|e| e.to_string())?;
    Ok(run.outputs.iter().zip(cotangents).map(|(y, w)| (y * w).sum(y.kind())).sum())
}

/// The gradients of the float inputs, by input position.
fn gradients(
    replica: &Replica,
    inputs: &[Tensor],
    cotangents: &[Tensor],
) -> Result<Vec<(usize, Tensor)>, String> {
    let leaves: Vec<Tensor> =
        inputs.iter().map(|t| t.detach().copy().set_requires_grad(t.is_floating_point())).collect();
    let floats: Vec<usize> = (0..leaves.len()).filter(|&i| leaves[i].requires_grad()).collect();
    // Every leaf is added, so that inputs without influence get a gradient of zeros.
    let zero: Tensor = floats.iter().map(|&i| leaves[i].sum(leaves[i].kind()) * 0.0).sum();
    let total = total(replica, &leaves, cotangents)? + zero;
    let wanted: Vec<&Tensor> = floats.iter().map(|&i| &leaves[i]).collect();
    let found =
        Tensor::f_run_backward(&[total], &wanted, false, false).map_err(|e| e.to_string())?;
    Ok(floats.into_iter().zip(found).collect())
}

fn central_differences(
    replica: &Replica,
    inputs: &[Tensor],
    cotangents: &[Tensor],
    index: usize,
) -> Result<Tensor, String> {
    let size = inputs[index].size();
    let at = |element: i64, step: f64| {
        let moved: Vec<Tensor> = inputs.iter().map(Tensor::copy).collect();
        let _ = moved[index].view([-1]).get(element).g_add_scalar_(step);
        tch::no_grad(|| total(replica, &moved, cotangents)).map(|t| t.double_value(&[]))
    };
    let slope = |element: i64| Ok((at(element, STEP)? - at(element, -STEP)?) / (2.0 * STEP));
    let slopes =
        (0..inputs[index].numel() as i64).map(slope).collect::<Result<Vec<f64>, String>>()?;
    Ok(Tensor::from_slice(&slopes).reshape(size))
}

fn close(found: &Tensor, expected: &Tensor, limit: f64) -> Result<(), String> {
    let (found, expected) = (double(found), double(expected));
    if found.size() != expected.size() {
        return Err(format!("gradient of {:?} where {:?}", found.size(), expected.size()));
    }
    let error = (&found - &expected).abs().max().double_value(&[]);
    let scale = expected.abs().max().double_value(&[]).max(1.0);
    if error <= limit * scale {
        Ok(())
    } else {
        Err(format!("gradient differs by {error:.1e} of {scale:.1e}"))
    }
}
