//! Measures the activation statistics of a network without BatchNorm (or with BatchNorm folded
//! away) on images, and writes a new bundle with them. If the bundle already has the statistics of
//! its BatchNorm layers, it keeps them, and only statistics per class or patch are measured, at the
//! same layers.
//!
//! Otherwise the measured activations are the inputs of the layer normalisations, per feature of
//! the last axis; without layer normalisation, the outputs of the convolutions, per channel; or the
//! nodes that the user names, by the same rule.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::Array4;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::BundleError;
use super::error::NetworkError;
use super::files::{
    Bundle, CLASS_MEAN, CLASS_PATCH_MEAN, CLASS_PATCH_VAR, CLASS_VAR, GOLDEN, MANIFEST, MODEL,
    PATCH_MEAN, PATCH_VAR, STATISTICS, sha256,
};
use super::manifest::{Calibration, FileEntry, LayerEntry, StatisticsKind};
use super::network::Network;
use crate::state_file;
use scdd_artifacts::atomic::DirectoryAside;
use scdd_compute::replica::{Mode, Replica, to_tensor};
use scdd_compute::synthesis::{
    Distance, LayerTarget, Momentum, Objective, channel_statistics, patch_statistics,
};
use scdd_graph::ops::Norm;
use scdd_graph::{Graph, Node, Op, ValueId};

/// No scale is folded into a calibrated activation, so the field that holds BatchNorm's ε is 0.
const EPSILON: f64 = 0.0;

/// Running mean and variance per channel (and patch), in double precision.
#[derive(Debug)]
struct RunningMoments {
    count: f64,
    mean: Tensor,
    /// Sum of squared deviations from the mean.
    squares: Tensor,
}

impl RunningMoments {
    fn of(x: &Tensor, axis: i64) -> Result<Self, tch::TchError> {
        let (mean, var) = channel_statistics(&x.f_to_kind(Kind::Double)?, axis)?;
        let count = x.numel() as f64 / mean.numel().max(1) as f64;
        Ok(Self { count, squares: var.f_mul_scalar(count)?, mean })
    }

    /// The moments of each patch; `count` is the number of images.
    fn of_patches(x: &Tensor, patches: i64) -> Result<Self, tch::TchError> {
        let (mean, var) = patch_statistics(&x.f_to_kind(Kind::Double)?, patches)?;
        let count = *x.size().first().unwrap_or(&0) as f64;
        Ok(Self { count, squares: var.f_clamp_min(0.0)?.f_mul_scalar(count)?, mean })
    }

    /// The moments of both sets together.
    fn merge(&self, other: &Self) -> Result<Self, tch::TchError> {
        let count = self.count + other.count;
        let apart = other.mean.f_sub(&self.mean)?;
        let mean = self.mean.f_add(&apart.f_mul_scalar(other.count / count)?)?;
        let between = apart.f_square()?.f_mul_scalar(self.count * other.count / count)?;
        Ok(Self { count, mean, squares: self.squares.f_add(&other.squares)?.f_add(&between)? })
    }

    fn share(&self) -> Self {
        Self {
            count: self.count,
            mean: self.mean.shallow_clone(),
            squares: self.squares.shallow_clone(),
        }
    }

    fn var(&self) -> Result<Tensor, tch::TchError> {
        self.squares.f_div_scalar(self.count)
    }
}

/// Everything in the state of a calibration that is no tensor.
#[derive(Debug, Serialize, Deserialize)]
struct CalibrationProgress {
    identity: String,
    batches: usize,
    images: usize,
    /// Per class, the number of values of each layer's moments.
    counts: Vec<Vec<f64>>,
}

/// The key of the progress in the file's metadata.
const PROGRESS: &str = "calibration";

/// The statistics to measure besides those of all images.
#[derive(Debug, Clone, Copy, Default)]
pub struct Detail {
    /// Statistics of every class.
    pub per_class: bool,
    /// Statistics of every patch, with this many patches per side.
    pub patches: Option<usize>,
}

/// A calibration that is measuring images.
pub struct Calibrator<'a> {
    bundle: &'a Bundle,
    replica: Replica,
    layers: Vec<(LayerEntry, ValueId)>,
    detail: Detail,
    /// Per class, the moments of each layer, followed by those of each layer's patches.
    moments: Vec<Option<Vec<RunningMoments>>>,
    images: usize,
}

impl<'a> Calibrator<'a> {
    /// `nodes` are the names of the nodes to measure; if empty, all layer normalisations, or else
    /// all convolutions.
    ///
    /// # Errors
    /// When the bundle already has the requested statistics, or there is nothing to measure.
    pub fn new(bundle: &'a Bundle, nodes: &[String], detail: Detail) -> Result<Self, NetworkError> {
        let refuse = |what: &str| NetworkError::from(BundleError::invalid(&bundle.dir, what));
        if let Some(why) = bundle.without_classifier() {
            return Err(refuse(&why));
        }
        let replica = bundle.replica(Device::Cpu)?;
        let layers = if !has_own_statistics(bundle) {
            let chosen = layers(&bundle.graph, nodes).map_err(|what| refuse(&what))?;
            measurable(bundle, &replica, chosen)?
        } else if !nodes.is_empty() {
            return Err(refuse(
                "has the statistics of its BatchNorm layers, at which classes are measured too: no --node",
            ));
        } else if !detail.per_class && detail.patches.is_none() {
            return Err(refuse(
                "has the statistics of its BatchNorm layers; there is nothing to calibrate but those of its classes (--per-class) and of patches \
                 (--patches)",
            ));
        } else {
            let taps = bundle.layers.iter().map(|layer| layer.tap);
            bundle.manifest.statistics.layers.iter().cloned().zip(taps).collect()
        };
        let classes = bundle.manifest.classes.len();
        let moments = std::iter::repeat_with(|| None).take(classes).collect();
        Ok(Self { bundle, replica, layers, detail, moments, images: 0 })
    }

    /// Measures normalised images `[N, C, H, W]` of one class.
    ///
    /// # Errors
    /// When the network can't be run on them.
    pub fn add(&mut self, class: usize, images: &Array4<f32>) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Torch { bundle: self.bundle.name().into(), source };
        let input = to_tensor(images.view()).map_err(failed)?;
        let taps: Vec<ValueId> = self.layers.iter().map(|(_, tap)| *tap).collect();
        let run =
            tch::no_grad(|| self.replica.run(&[input], &taps, Mode::Eval)).map_err(|source| {
                NetworkError::Replica { bundle: self.bundle.name().into(), source }
            })?;
        let found = run
            .taps
            .iter()
            .zip(&self.layers)
            .map(|(tap, (layer, _))| RunningMoments::of(tap, layer.axis));
        let side = self.detail.patches.map(|side| side as i64);
        let of_patches = side
            .into_iter()
            .flat_map(|side| run.taps.iter().map(move |tap| RunningMoments::of_patches(tap, side)));
        let found: Vec<RunningMoments> =
            found.chain(of_patches).collect::<Result<_, _>>().map_err(failed)?;
        let Some(slot) = self.moments.get_mut(class) else {
            let what = format!("the data has class {class}, which the bundle lacks");
            return Err(BundleError::invalid(&self.bundle.dir, what).into());
        };
        *slot = Some(match slot.take() {
            None => found,
            Some(old) => merge(&old, &found).map_err(failed)?,
        });
        self.images += images.shape()[0];
        Ok(())
    }

    /// The state after so many `batches`, to go on from after an interruption. `identity` says of
    /// what it is the state.
    ///
    /// # Errors
    /// When a tensor can't be copied.
    pub fn state(&self, batches: usize, identity: &str) -> Result<Vec<u8>, String> {
        let (mut tensors, mut counts) = (Vec::new(), Vec::new());
        for (class, moments) in self.moments.iter().enumerate() {
            let moments: &[RunningMoments] = moments.as_deref().unwrap_or_default();
            for (layer, one) in moments.iter().enumerate() {
                tensors.push((format!("{class}/{layer}/mean"), one.mean.shallow_clone()));
                tensors.push((format!("{class}/{layer}/squares"), one.squares.shallow_clone()));
            }
            counts.push(moments.iter().map(|one| one.count).collect());
        }
        let identity = identity.to_owned();
        let progress = CalibrationProgress { identity, batches, images: self.images, counts };
        let text = serde_json::to_string(&progress).map_err(|e| e.to_string())?;
        state_file::write(&tensors, Some((PROGRESS, text)))
    }

    /// Goes on from the `state` of the same `identity`. Returns the number of its batches.
    ///
    /// # Errors
    /// When it is the state of something else, or damaged. Nothing is changed then.
    pub fn resume(&mut self, state: &[u8], identity: &str) -> Result<usize, String> {
        let (text, mut tensors) = state_file::read(state, PROGRESS)?;
        let progress: CalibrationProgress =
            serde_json::from_str(&text).map_err(|e| e.to_string())?;
        if progress.identity != identity || progress.counts.len() != self.moments.len() {
            return Err("it belongs to another calibration".into());
        }
        let mut tensor =
            |name: String| tensors.remove(&name).ok_or_else(|| format!("it lacks `{name}`"));
        let mut moments = Vec::new();
        for (class, counts) in progress.counts.iter().enumerate() {
            let mut of_class = Vec::new();
            for (layer, &count) in counts.iter().enumerate() {
                let mean = tensor(format!("{class}/{layer}/mean"))?;
                let squares = tensor(format!("{class}/{layer}/squares"))?;
                of_class.push(RunningMoments { count, mean, squares });
            }
            moments.push((!of_class.is_empty()).then_some(of_class));
        }
        self.moments = moments;
        self.images = progress.images;
        Ok(progress.batches)
    }

    /// Writes the bundle `out`, named after its directory. The directory appears only when it is
    /// complete.
    ///
    /// # Errors
    /// When no images were added, a class has no images although statistics per class are
    /// requested, or `out` exists or can't be written.
    pub fn write(self, out: &Path, data: &str) -> Result<(), NetworkError> {
        let refuse = |what: String| NetworkError::from(BundleError::invalid(out, what));
        if out.exists() {
            return Err(refuse("exists already; choose another --out".into()));
        }
        if let Some(class) =
            self.moments.iter().position(Option::is_none).filter(|_| self.detail.per_class)
        {
            return Err(refuse(format!(
                "no image of class `{}` was measured",
                self.bundle.manifest.classes[class]
            )));
        }
        let failed = |source| NetworkError::Torch { bundle: self.bundle.name().into(), source };
        let classes: Vec<&Vec<RunningMoments>> = self.moments.iter().flatten().collect();
        let Some((first, others)) = classes.split_first() else {
            return Err(refuse("no images were measured".into()));
        };
        let total = others
            .iter()
            .try_fold(first.iter().map(RunningMoments::share).collect(), |sum: Vec<_>, m| {
                merge(&sum, m)
            });
        let total = total.map_err(failed)?;
        let classes: &[&Vec<RunningMoments>] = if self.detail.per_class { &classes } else { &[] };
        let statistics = self.side_tensors(&total, classes).map_err(failed)?;
        let golden = match has_own_statistics(self.bundle) {
            true => self.bundle.read(GOLDEN)?,
            false => to_safetensors(&self.golden(&total)?).map_err(failed)?,
        };
        let Detail { per_class, patches } = self.detail;
        let calibration =
            Calibration { data: data.into(), images: self.images, per_class, patches };
        self.publish(out, calibration, &statistics, golden)
    }

    fn side_tensors(
        &self,
        total: &[RunningMoments],
        classes: &[&Vec<RunningMoments>],
    ) -> Result<BTreeMap<String, Tensor>, tch::TchError> {
        let mut tensors = BTreeMap::new();
        for (i, ((layer, _), moments)) in self.layers.iter().zip(total).enumerate() {
            let mut put = |part: &str, tensor: Tensor| {
                tensors.insert(format!("{}.{part}", layer.key), tensor)
            };
            if let Some(own) = self.bundle.layers.get(i).filter(|_| has_own_statistics(self.bundle))
            {
                put("weight", Tensor::f_from_slice(&own.weight)?);
                put("bias", Tensor::f_from_slice(&own.bias)?);
                put("running_mean", Tensor::f_from_slice(&own.mean)?);
                put("running_var", Tensor::f_from_slice(&own.var)?);
            } else {
                put("weight", moments.mean.f_ones_like()?);
                put("bias", moments.mean.f_zeros_like()?);
                put("running_mean", moments.mean.shallow_clone());
                put("running_var", moments.var()?);
            }
            if !classes.is_empty() {
                let (mean, var) = stacked(classes, i)?;
                put(CLASS_MEAN, mean);
                put(CLASS_VAR, var);
            }
            let Some(patches) = total.get(self.layers.len() + i) else { continue };
            put(PATCH_MEAN, patches.mean.shallow_clone());
            put(PATCH_VAR, patches.var()?);
            if !classes.is_empty() {
                let (mean, var) = stacked(classes, self.layers.len() + i)?;
                put(CLASS_PATCH_MEAN, mean);
                put(CLASS_PATCH_VAR, var);
            }
        }
        Ok(tensors)
    }

    /// The old probe with the new statistics, their loss and its gradient, computed by the replica.
    fn golden(&self, total: &[RunningMoments]) -> Result<BTreeMap<String, Tensor>, NetworkError> {
        let failed = |source| NetworkError::Torch { bundle: self.bundle.name().into(), source };
        let broken = |source| NetworkError::Replica { bundle: self.bundle.name().into(), source };
        let (old, weights) = (&self.bundle.golden, self.bundle.manifest.golden);
        let target =
            |(i, ((layer, tap), moments)): (usize, (&(LayerEntry, ValueId), &RunningMoments))| {
                let (mean, var) =
                    (moments.mean.f_to_kind(Kind::Float)?, moments.var()?.f_to_kind(Kind::Float)?);
                let multiplier = if i == 0 { weights.first_bn_multiplier } else { 1.0 };
                Ok(LayerTarget {
                    tap: *tap,
                    axis: layer.axis,
                    patches: 1,
                    mean,
                    var,
                    weights: None,
                    multiplier,
                })
            };
        let layers = self.layers.iter().zip(total).enumerate().map(target);
        let layers = layers.collect::<Result<_, _>>().map_err(failed)?;
        let objective = Objective {
            layers,
            r_bn: weights.r_bn,
            distance: Distance::Norm,
            momentum: Momentum::default(),
        };
        let (input, targets) = self.bundle.probe().map_err(failed)?;
        let found = self.replica.evaluate(&input, targets.as_ref(), &objective).map_err(broken)?;
        let taps: Vec<ValueId> = self.layers.iter().map(|(_, tap)| *tap).collect();
        let run =
            tch::no_grad(|| self.replica.run(std::slice::from_ref(&input), &taps, Mode::Eval));
        let mut tensors = BTreeMap::from([
            ("input".to_owned(), input),
            ("logits".to_owned(), to_tensor(old.output.view()).map_err(failed)?),
            ("ce".to_owned(), Tensor::from(old.ce)),
            ("bn_loss".to_owned(), Tensor::from(found.bn)),
            ("loss".to_owned(), Tensor::from(found.loss)),
            ("input_grad".to_owned(), found.gradient),
        ]);
        tensors.extend(targets.map(|targets| ("targets".to_owned(), targets)));
        for (tap, (layer, _)) in run.map_err(broken)?.taps.iter().zip(&self.layers) {
            let (mean, var) = channel_statistics(tap, layer.axis).map_err(failed)?;
            tensors.insert(format!("stats.{}.mean", layer.key), mean);
            tensors.insert(format!("stats.{}.var", layer.key), var);
        }
        Ok(tensors)
    }

    fn publish(
        &self,
        out: &Path,
        calibration: Calibration,
        statistics: &BTreeMap<String, Tensor>,
        golden: Vec<u8>,
    ) -> Result<(), NetworkError> {
        let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let failed = |source| NetworkError::Torch { bundle: self.bundle.name().into(), source };
        let files = [
            (MODEL, self.bundle.model.clone()),
            (STATISTICS, to_safetensors(statistics).map_err(failed)?),
            (GOLDEN, golden),
        ];
        let mut manifest = self.bundle.manifest.clone();
        manifest.name = name;
        if !has_own_statistics(self.bundle) {
            manifest.statistics.kind = StatisticsKind::Calibrated;
        }
        manifest.statistics.layers = self.layers.iter().map(|(layer, _)| layer.clone()).collect();
        manifest.statistics.calibration = Some(calibration);
        let entry = |bytes: &[u8]| FileEntry { sha256: sha256(bytes), bytes: bytes.len() as u64 };
        manifest.files =
            files.iter().map(|(file, bytes)| ((*file).to_owned(), entry(bytes))).collect();
        let text = serde_yaml::to_string(&manifest)
            .map_err(|e| BundleError::invalid(out, e.to_string()))?;

        let aside = DirectoryAside::beside(out).map_err(|e| BundleError::io(out, e))?;
        let write = |file: &str, bytes: &[u8]| std::fs::write(aside.path().join(file), bytes);
        let files = files.iter().try_for_each(|(file, bytes)| write(file, bytes));
        files
            .and_then(|()| write(MANIFEST, text.as_bytes()))
            .map_err(|e| BundleError::io(out, e))?;
        // Reads the bundle back before it is put in place.
        Bundle::load(aside.path())?;
        aside.keep(out).map_err(|e| BundleError::io(out, e).into())
    }
}

/// Whether the bundle has the statistics of BatchNorm layers.
fn has_own_statistics(bundle: &Bundle) -> bool {
    matches!(bundle.manifest.statistics.kind, StatisticsKind::BatchNorm | StatisticsKind::Folded)
}

/// The classes' means and variances at `index`, class by class.
fn stacked(
    classes: &[&Vec<RunningMoments>],
    index: usize,
) -> Result<(Tensor, Tensor), tch::TchError> {
    let means: Vec<&Tensor> = classes.iter().map(|class| &class[index].mean).collect();
    let vars = classes.iter().map(|class| class[index].var()).collect::<Result<Vec<_>, _>>()?;
    Ok((Tensor::f_stack(&means, 0)?, Tensor::f_stack(&vars, 0)?))
}

fn merge(a: &[RunningMoments], b: &[RunningMoments]) -> Result<Vec<RunningMoments>, tch::TchError> {
    a.iter().zip(b).map(|(a, b)| a.merge(b)).collect()
}

/// The layers to measure, and the values of their activations.
fn layers(graph: &Graph, nodes: &[String]) -> Result<Vec<(LayerEntry, ValueId)>, String> {
    let chosen: Vec<&Node> = if nodes.is_empty() {
        let norms: Vec<&Node> = graph.layer_norms().collect();
        if norms.is_empty() { graph.convolutions().collect() } else { norms }
    } else {
        let missing = |name: &String| format!("its graph has no node `{name}`");
        nodes
            .iter()
            .map(|name| graph.node(name).ok_or_else(|| missing(name)))
            .collect::<Result<_, _>>()?
    };
    if let Some(name) =
        nodes.iter().enumerate().find_map(|(i, name)| nodes[..i].contains(name).then_some(name))
    {
        return Err(format!("node `{name}` is given twice"));
    }
    if chosen.is_empty() {
        return Err(
            "its graph has no layer normalisation and no convolution; name nodes to measure at"
                .into(),
        );
    }
    chosen.into_iter().map(|node| layer_at(graph, node)).collect()
}

/// The layer at `node`. Its channels are not known yet.
fn layer_at(graph: &Graph, node: &Node) -> Result<(LayerEntry, ValueId), String> {
    let is_norm = matches!(node.op, Op::Norm(Norm::Layer { .. }));
    let (value, axis) = if is_norm { (node.inputs[0], -1) } else { (node.outputs[0], 1) };
    let Some(tap) = value else {
        return Err(format!("node `{}` ({}) has nothing to measure", node.name, node.op_type));
    };
    let (key, tensor) = (node.name.clone(), graph.values[tap].clone());
    Ok((LayerEntry { key: key.clone(), node: key, tensor, channels: 0, eps: EPSILON, axis }, tap))
}

/// Sets each layer's number of channels from its activation: the second axis in images, the last
/// one in tokens `[N, T, C]`.
fn measurable(
    bundle: &Bundle,
    replica: &Replica,
    layers: Vec<(LayerEntry, ValueId)>,
) -> Result<Vec<(LayerEntry, ValueId)>, NetworkError> {
    let [c, h, w] = bundle.image_shape().map(|side| side as i64);
    let input = Tensor::f_zeros([1, c, h, w], (Kind::Float, Device::Cpu))
        .map_err(|source| NetworkError::Torch { bundle: bundle.name().into(), source })?;
    let taps: Vec<ValueId> = layers.iter().map(|(_, tap)| *tap).collect();
    let run = tch::no_grad(|| replica.run(&[input], &taps, Mode::Eval))
        .map_err(|source| NetworkError::Replica { bundle: bundle.name().into(), source })?;
    let measure = |((mut layer, tap), found): ((LayerEntry, ValueId), &Tensor)| {
        let shape = found.size();
        if shape.len() < 2 || !found.is_floating_point() {
            let what = format!(
                "node `{}` gives {shape:?}, not an activation [N, C, …]: choose another --node",
                layer.node
            );
            return Err(BundleError::invalid(&bundle.dir, what).into());
        }
        if shape.len() == 3 {
            layer.axis = -1;
        }
        let axis = if layer.axis == -1 { shape.len() - 1 } else { 1 };
        layer.channels = shape[axis] as usize;
        Ok((layer, tap))
    };
    layers.into_iter().zip(&run.taps).map(measure).collect()
}

fn to_safetensors(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, tch::TchError> {
    let bytes = |tensor: &Tensor| -> Result<(Dtype, Vec<usize>, Vec<u8>), tch::TchError> {
        let shape = tensor.size().iter().map(|&d| d as usize).collect();
        if tensor.kind() == Kind::Int64 {
            let values = Vec::<i64>::try_from(&tensor.f_contiguous()?.f_reshape([-1])?)?;
            return Ok((Dtype::I64, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
        }
        let values = Vec::<f32>::try_from(
            &tensor.f_detach()?.f_to_kind(Kind::Float)?.f_contiguous()?.f_reshape([-1])?,
        )?;
        Ok((Dtype::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
    };
    let data = tensors
        .iter()
        .map(|(name, t)| Ok((name, bytes(t)?)))
        .collect::<Result<Vec<_>, tch::TchError>>()?;
    let failed = |e: safetensors::SafeTensorError| tch::TchError::FileFormat(e.to_string());
    let views = data.iter().map(|(name, (dtype, shape, bytes))| {
        Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).map_err(failed)?))
    });
    safetensors::serialize(views.collect::<Result<Vec<_>, tch::TchError>>()?, None).map_err(failed)
}
