//! Reads and checks a bundle directory: hashes, shapes, values. No file in it is trusted.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{Array4, ArrayD};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::error::BundleError;
use super::kind;
use super::manifest::{LayerEntry, Manifest, Role, StatisticsKind};
use scdd_data::place::is_invisible;
use scdd_data::{DataError, Normalization};
use scdd_graph::{Graph, ValueId};

pub const MANIFEST: &str = "manifest.yaml";
pub const MODEL: &str = "model.onnx";
pub const STATISTICS: &str = "bn_stats.safetensors";
pub const GOLDEN: &str = "golden.safetensors";
/// The names of a calibrated layer's side tensors per class.
pub const CLASS_MEAN: &str = "class_mean";
pub const CLASS_VAR: &str = "class_var";
/// The names of its side tensors per patch.
pub const PATCH_MEAN: &str = "patch_mean";
pub const PATCH_VAR: &str = "patch_var";
pub const CLASS_PATCH_MEAN: &str = "class_patch_mean";
pub const CLASS_PATCH_VAR: &str = "class_patch_var";
/// The output's name in a features-only bundle.
const FEATURES: &str = "features";
/// The number of directions of a gradient probe. With fewer, a wrong gradient could pass by chance.
const DIRECTIONS: RangeInclusive<usize> = 4..=64;
/// The longest name of a network or class. (ImageNet's longest list of synonyms has 121
/// characters.)
const LONGEST_NAME: usize = 200;
/// The largest manifest in bytes; manifests are short texts for people.
const LARGEST_MANIFEST: u64 = 16 << 20;

/// Statistics of one layer's input during training (or calibration). All have length C.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerStatistics {
    pub key: String,
    pub node: String,
    pub tap: ValueId,
    /// The channel axis of the layer's input: 1, or −1 for token features.
    pub axis: i64,
    pub eps: f64,
    pub mean: Vec<f32>,
    pub var: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    /// Statistics per class, if calibrated.
    pub per_class: Option<ClassStatistics>,
    /// Statistics per patch of the plane, if calibrated.
    pub patches: Option<PatchStatistics>,
}

/// A calibrated layer's statistics per class: K · C values each, class after class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassStatistics {
    pub mean: Vec<f32>,
    pub var: Vec<f32>,
}

/// A calibrated layer's statistics per patch: C · side² values each; for each channel the patches
/// row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchStatistics {
    /// The number of patches per side of the plane.
    pub side: usize,
    pub mean: Vec<f32>,
    pub var: Vec<f32>,
    /// Statistics per class and patch, K · C · side² values each.
    pub per_class: Option<ClassStatistics>,
}

/// The probe of an independent implementation, as defined in `docs/bundle.md`.
#[derive(Debug)]
pub struct Golden {
    /// `[N, C, H, W]`.
    pub input: Array4<f32>,
    /// N class indices; `None` in a features-only bundle.
    pub targets: Option<Vec<i64>>,
    /// `[N, K]` logits, or the features `[N, D]` of a features-only bundle.
    pub output: ArrayD<f32>,
    /// Per layer, mean and biased variance of its input, each `[C]`.
    pub statistics: Vec<(ArrayD<f32>, ArrayD<f32>)>,
    pub ce: f64,
    pub bn_loss: f64,
    pub loss: f64,
    pub input_grad: InputGradient,
}

/// The gradient of the probe's loss with respect to the input, complete or projected.
#[derive(Debug)]
pub enum InputGradient {
    /// `[N, C, H, W]`.
    Whole(ArrayD<f32>),
    /// Products of the gradient with random directions. Their mean square difference estimates the
    /// difference of the complete gradients.
    Along {
        /// `[D, N, C, H, W]` of ±1.
        directions: ArrayD<i8>,
        /// `[D]`.
        slopes: ArrayD<f32>,
    },
}

/// A network on disk, checked as far as possible without running it.
#[derive(Debug)]
pub struct Bundle {
    pub dir: PathBuf,
    pub manifest: Manifest,
    /// SHA-256 of the manifest, which contains the other files' hashes. It identifies the bundle.
    pub hash: String,
    /// The ONNX file's bytes.
    pub model: Vec<u8>,
    pub graph: Arc<Graph>,
    pub layers: Vec<LayerStatistics>,
    pub golden: Golden,
}

impl Bundle {
    /// Reads the bundle in `dir`.
    ///
    /// # Errors
    /// When a file is missing, truncated, changed or has invalid contents. The message names the
    /// file.
    pub fn load(dir: &Path) -> Result<Self, BundleError> {
        let (manifest, hash) = read_manifest(dir)?;
        let model = read_file(dir, MODEL, &manifest)?;
        let model_path = dir.join(MODEL);
        let graph = Graph::load(&model)
            .map_err(|source| BundleError::Graph { path: model_path.clone(), source })?;
        check_interface(&manifest, &graph)
            .map_err(|what| BundleError::invalid(&model_path, what))?;
        let layers = read_layers(dir, &manifest, &graph)?;
        let golden = read_golden(dir, &manifest)?;
        Ok(Self { dir: dir.into(), manifest, hash, model, graph: Arc::new(graph), layers, golden })
    }

    /// Reads one of the bundle's files, unchanged since the bundle was loaded.
    ///
    /// # Errors
    /// When the file was changed since, or can't be read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, BundleError> {
        read_file(&self.dir, name, &self.manifest)
    }

    /// The normalisation of pixels to the network's input.
    ///
    /// # Errors
    /// When the manifest's preprocessing is not a valid normalisation.
    pub fn normalization(&self) -> Result<Normalization, DataError> {
        let p = &self.manifest.preprocessing;
        Normalization::new(p.mean.clone(), p.std.clone())
    }

    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// The shape `[C, H, W]` of an input image.
    pub fn image_shape(&self) -> [usize; 3] {
        let p = &self.manifest.preprocessing;
        [p.channels, p.height, p.width]
    }

    /// Why the bundle supports neither cross entropy nor labelling, and the remedy; `None` if it
    /// has a classifier.
    pub fn without_classifier(&self) -> Option<String> {
        let file = self
            .manifest
            .source
            .as_ref()
            .and_then(|source| source["file"].as_str())
            .unwrap_or("FILE");
        self.manifest.is_features_only().then(|| {
            format!(
                "`{}` is a features-only bundle, it has no classifier. Probe one: `python -m exporters export --checkpoint {file} --save-network \
                 network.pt …`, then `probe network.pt`, and export the probed network",
                self.name()
            )
        })
    }

    /// Why the bundle has no statistics to align with, and the remedy; `None` if it has some.
    pub fn without_statistics(&self) -> Option<String> {
        if !self.layers.is_empty() {
            return None;
        }
        let convolutions = self.graph.biased_convolutions();
        Some(match self.graph.batch_norms().count() {
            0 if convolutions > 0 && self.graph.layer_norms().count() == 0 => format!(
                "its graph has no BatchNormalization, but {convolutions} convolutions with a bias: BatchNorm was folded into them, or there was none"
            ),
            0 => "its graph has no BatchNormalization".into(),
            count => {
                format!("its manifest lists none of the graph's {count} BatchNormalization nodes")
            }
        })
    }
}

fn read_manifest(dir: &Path) -> Result<(Manifest, String), BundleError> {
    let path = dir.join(MANIFEST);
    let metadata = std::fs::metadata(&path)
        .map_err(|error| no_manifest(dir).unwrap_or(BundleError::io(&path, error)))?;
    let size = metadata.len();
    if size > LARGEST_MANIFEST {
        return Err(BundleError::invalid(
            &path,
            format!("{size} bytes are too many for a manifest"),
        ));
    }
    let bytes = std::fs::read(&path).map_err(|e| BundleError::io(&path, e))?;
    let hash = sha256(&bytes);
    let parsed = serde_path_to_error::deserialize(serde_yaml::Deserializer::from_slice(&bytes));
    let manifest: Manifest = parsed.map_err(|e| {
        let at = e.path().to_string();
        BundleError::invalid(
            &path,
            if at == "." { e.inner().to_string() } else { format!("`{at}`: {}", e.inner()) },
        )
    })?;
    check_manifest(&manifest).map_err(|what| BundleError::invalid(&path, what))?;
    Ok((manifest, hash))
}

/// The error for a `dir` without a manifest. `None` if `dir` does not exist or its manifest exists.
fn no_manifest(dir: &Path) -> Option<BundleError> {
    const SHOWN: usize = 5;
    if dir.is_file() {
        return Some(BundleError::invalid(
            dir,
            format!("is a file; a bundle is a directory with {MANIFEST} in it"),
        ));
    }
    let entries = std::fs::read_dir(dir).ok()?;
    if std::fs::symlink_metadata(dir.join(MANIFEST)).is_ok() {
        return None;
    }
    let below = entries.flatten().filter(|entry| entry.path().join(MANIFEST).is_file());
    let mut below: Vec<String> = below.map(|entry| entry.path().display().to_string()).collect();
    below.sort();
    let more = below.len().saturating_sub(SHOWN);
    let what = match below.as_slice() {
        [] => format!("is no bundle: it has no {MANIFEST}"),
        _ => format!(
            "is no bundle: it has no {MANIFEST}; name a bundle in it: {}",
            below[..below.len().min(SHOWN)].join(", ")
        ),
    };
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(BundleError::invalid(dir, what + &rest))
}

fn check_manifest(m: &Manifest) -> Result<(), String> {
    if m.format != "scdd-bundle" || m.version != 1 {
        return Err(format!(
            "format {} version {}, this program reads scdd-bundle version 1",
            m.format, m.version
        ));
    }
    check_texts(m)?;
    if let Some(odd) =
        m.files.keys().find(|name| ![MODEL, STATISTICS, GOLDEN].contains(&name.as_str()))
    {
        return Err(format!("`files` names `{odd}`, which is no file of a bundle"));
    }
    let p = &m.preprocessing;
    let side = |n: usize| (1..=4096).contains(&n);
    if !(1..=16).contains(&p.channels) || !side(p.height) || !side(p.width) {
        return Err(format!(
            "`preprocessing`: impossible image {}x{}x{}",
            p.channels, p.height, p.width
        ));
    }
    if p.mean.len() != p.channels || p.std.len() != p.channels {
        return Err(format!(
            "`preprocessing`: mean and std need {} values each, one per channel",
            p.channels
        ));
    }
    if !p.mean.iter().all(|v| v.is_finite()) || !p.std.iter().all(|v| v.is_finite() && *v > 0.0) {
        return Err("`preprocessing`: mean must be finite and std positive".into());
    }
    if m.is_features_only() {
        check_features_only(m)?;
    }
    if m.role == Role::Student && m.init.is_empty() {
        return Err("a student needs `init`: how each parameter is drawn".into());
    }
    if let Some(odd) = m.statistics.layers.iter().find(|l| ![1, -1].contains(&l.axis)) {
        return Err(format!(
            "`statistics`: layer `{}` has axis {}, neither 1 nor -1",
            odd.key, odd.axis
        ));
    }
    if (m.statistics.kind == StatisticsKind::None) != m.statistics.layers.is_empty() {
        return Err(
            "`statistics`: kind none goes with an empty list of layers, every other kind with a filled one".into()
        );
    }
    Ok(())
}

/// Checks names, because they are written to terminals, tables and file names unchanged.
fn check_texts(m: &Manifest) -> Result<(), String> {
    let check = |key: &str, text: &str| match text.chars().find(|&letter| is_invisible(letter)) {
        None if text.trim().is_empty() => Err(format!("`{key}` is empty: give it a name")),
        None if text.chars().count() > LONGEST_NAME => {
            Err(format!("`{key}` has more than {LONGEST_NAME} characters"))
        }
        None => Ok(()),
        Some(odd) => Err(format!(
            "`{key}` contains {}, which is not allowed in names: write it in plain text",
            odd.escape_unicode()
        )),
    };
    check("name", &m.name)?;
    m.classes
        .iter()
        .enumerate()
        .try_for_each(|(class, name)| check(&format!("classes[{class}]"), name))
}

/// Checks a bundle without classes, which is used for its statistics only.
fn check_features_only(m: &Manifest) -> Result<(), String> {
    let needs = |what: &str| {
        Err(format!("`classes` is empty, so this is a features-only bundle, which {what}"))
    };
    match (m.role, m.onnx.output.as_str(), &m.accuracy, m.statistics.kind) {
        (Role::Student, ..) => needs("can't be a student"),
        (_, output, ..) if output != FEATURES => needs("has the output `features`"),
        (_, _, Some(_), _) => needs("has no accuracy"),
        (.., StatisticsKind::None) => needs("needs statistics"),
        _ => Ok(()),
    }
}

/// SHA-256 in the manifest's form: 64 hex digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn read_file(dir: &Path, name: &str, manifest: &Manifest) -> Result<Vec<u8>, BundleError> {
    let path = dir.join(name);
    let Some(entry) = manifest.files.get(name) else {
        return Err(BundleError::invalid(&dir.join(MANIFEST), format!("`files` lacks `{name}`")));
    };
    let size = std::fs::metadata(&path).map_err(|e| BundleError::io(&path, e))?.len();
    if size != entry.bytes {
        return Err(BundleError::invalid(
            &path,
            format!("has {size} bytes, the manifest says {}", entry.bytes),
        ));
    }
    let bytes = std::fs::read(&path).map_err(|e| BundleError::io(&path, e))?;
    let found = sha256(&bytes);
    if found != entry.sha256 {
        let what = format!(
            "SHA-256 is {found}, the manifest says {}: the file was changed or damaged",
            entry.sha256
        );
        return Err(BundleError::invalid(&path, what));
    }
    Ok(bytes)
}

/// Checks that the graph's only input and its first output are those in the manifest.
fn check_interface(manifest: &Manifest, graph: &Graph) -> Result<(), String> {
    let [input] = graph.inputs.as_slice() else {
        return Err(format!("has {} inputs, an image network has one", graph.inputs.len()));
    };
    let name = &graph.values[input.value];
    if *name != manifest.onnx.input {
        return Err(format!("its input is `{name}`, the manifest says `{}`", manifest.onnx.input));
    }
    kind::check(graph, input)?;
    let output = &graph.values[graph.outputs[0]];
    if *output != manifest.onnx.output {
        return Err(format!(
            "its first output is `{output}`, the manifest says `{}`",
            manifest.onnx.output
        ));
    }
    let p = &manifest.preprocessing;
    let wanted = [None, Some(p.channels), Some(p.height), Some(p.width)];
    let fits = |dims: &[Option<usize>]| {
        dims.len() == 4
            && dims.iter().zip(wanted).all(|(d, w)| d.is_none() || w.is_none() || *d == w)
    };
    match &input.dims {
        Some(dims) if !fits(dims) => Err(format!(
            "its input has dims {dims:?}, the manifest's images are {}x{}x{}",
            p.channels, p.height, p.width
        )),
        Some(dims) if dims[0].is_some() => {
            Err("its batch dimension is fixed; export it with a dynamic one".into())
        }
        _ => Ok(()),
    }
}

fn read_layers(
    dir: &Path,
    manifest: &Manifest,
    graph: &Graph,
) -> Result<Vec<LayerStatistics>, BundleError> {
    let path = dir.join(STATISTICS);
    let bytes = read_file(dir, STATISTICS, manifest)?;
    let invalid = |what: String| BundleError::invalid(&path, what);
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|e| invalid(format!("not a readable safetensors file: {e}")))?;
    let from_graph = manifest.statistics.kind == StatisticsKind::BatchNorm;
    if from_graph {
        check_count(manifest.statistics.layers.len(), graph).map_err(invalid)?;
    }
    let calibration = manifest.statistics.calibration.as_ref();
    let classes = calibration.filter(|c| c.per_class).map(|_| manifest.classes.len());
    let patches = calibration.and_then(|c| c.patches);
    let values: HashMap<&str, ValueId> =
        graph.values.iter().enumerate().map(|(id, name)| (name.as_str(), id)).collect();
    let read = |l: &LayerEntry| read_layer(l, &tensors, &values, classes, patches).map_err(invalid);
    let layers: Vec<LayerStatistics> =
        manifest.statistics.layers.iter().map(read).collect::<Result<_, _>>()?;
    let calibrated =
        (1 + usize::from(classes.is_some())) * (1 + usize::from(patches.is_some())) - 1;
    let needed = layers.len() * (4 + 2 * calibrated);
    if tensors.len() != needed {
        return Err(invalid(format!(
            "holds {} tensors, {} layers need {needed}",
            tensors.len(),
            layers.len()
        )));
    }
    if from_graph {
        check_against_graph(&layers, graph).map_err(invalid)?;
    }
    Ok(layers)
}

/// Reads a layer's statistics. `classes` is the number of classes if it has statistics per class;
/// `patches` is the number of patches per side if it has statistics per patch.
fn read_layer(
    layer: &LayerEntry,
    tensors: &SafeTensors,
    values: &HashMap<&str, ValueId>,
    classes: Option<usize>,
    patches: Option<usize>,
) -> Result<LayerStatistics, String> {
    let read = |part: &str| floats(tensors, &format!("{}.{part}", layer.key), &[layer.channels]);
    let tap = *values.get(layer.tensor.as_str()).ok_or_else(|| {
        format!("layer `{}`: the graph has no value `{}`", layer.key, layer.tensor)
    })?;
    let found = LayerStatistics {
        key: layer.key.clone(),
        node: layer.node.clone(),
        tap,
        axis: layer.axis,
        eps: layer.eps,
        mean: read("running_mean")?,
        var: read("running_var")?,
        weight: read("weight")?,
        bias: read("bias")?,
        per_class: classes.map(|classes| read_classes(layer, tensors, classes)).transpose()?,
        patches: patches.map(|side| read_patches(layer, tensors, side, classes)).transpose()?,
    };
    if !(layer.eps.is_finite() && layer.eps >= 0.0) {
        return Err(format!("layer `{}`: eps is {}", layer.key, layer.eps));
    }
    if let Some(bad) = found.weight.iter().chain(&found.bias).find(|v| !v.is_finite()) {
        return Err(format!("`{}.weight` or `{}.bias` contains {bad}", layer.key, layer.key));
    }
    if let Some(c) = found.mean.iter().position(|v| !v.is_finite()) {
        return Err(format!("`{}.running_mean` is {} at channel {c}", layer.key, found.mean[c]));
    }
    if let Some(c) = found.var.iter().position(|v| !v.is_finite() || *v < 0.0) {
        return Err(format!(
            "`{}.running_var` is {} at channel {c}; a variance is finite and not negative",
            layer.key, found.var[c]
        ));
    }
    Ok(found)
}

fn read_classes(
    layer: &LayerEntry,
    tensors: &SafeTensors,
    classes: usize,
) -> Result<ClassStatistics, String> {
    let (mean, var) =
        calibrated(layer, tensors, [CLASS_MEAN, CLASS_VAR], &[classes, layer.channels])?;
    Ok(ClassStatistics { mean, var })
}

fn read_patches(
    layer: &LayerEntry,
    tensors: &SafeTensors,
    side: usize,
    classes: Option<usize>,
) -> Result<PatchStatistics, String> {
    let shape = [layer.channels, side, side];
    let (mean, var) = calibrated(layer, tensors, [PATCH_MEAN, PATCH_VAR], &shape)?;
    let of_classes = |classes: usize| {
        let shape = [classes, layer.channels, side, side];
        let (mean, var) = calibrated(layer, tensors, [CLASS_PATCH_MEAN, CLASS_PATCH_VAR], &shape)?;
        Ok::<_, String>(ClassStatistics { mean, var })
    };
    Ok(PatchStatistics { side, mean, var, per_class: classes.map(of_classes).transpose()? })
}

/// Reads calibrated means and variances.
fn calibrated(
    layer: &LayerEntry,
    tensors: &SafeTensors,
    parts: [&str; 2],
    shape: &[usize],
) -> Result<(Vec<f32>, Vec<f32>), String> {
    let read = |part: &str, lowest: f32| {
        let name = format!("{}.{part}", layer.key);
        let values = floats(tensors, &name, shape)?;
        match values.iter().find(|v| !(v.is_finite() && **v >= lowest)) {
            Some(bad) => Err(format!("`{name}` contains {bad}")),
            None => Ok(values),
        }
    };
    Ok((read(parts[0], f32::MIN)?, read(parts[1], 0.0)?))
}

/// Checks that there are as many layers as BatchNorm nodes in the graph.
fn check_count(layers: usize, graph: &Graph) -> Result<(), String> {
    let nodes = graph.batch_norms().count();
    if nodes == layers {
        return Ok(());
    }
    let folded = if nodes == 0 && graph.biased_convolutions() > 0 {
        ": BatchNorm was folded into the convolutions at export, which loses its statistics; export with BatchNorm kept, or declare `kind: none` \
         and measure statistics with `scdd calibrate`"
    } else {
        ""
    };
    Err(format!("lists {layers} layers, the graph has {nodes} BatchNormalization nodes{folded}"))
}

/// Checks that the side tensors equal the graph's own BN statistics: they are only a copy.
fn check_against_graph(layers: &[LayerStatistics], graph: &Graph) -> Result<(), String> {
    for (layer, node) in layers.iter().zip(graph.batch_norms()) {
        if layer.node != node.name || node.inputs[0] != Some(layer.tap) {
            return Err(format!(
                "layer `{}` does not match the graph's BatchNormalization `{}`",
                layer.key, node.name
            ));
        }
        let sides = [
            ("weight", &layer.weight),
            ("bias", &layer.bias),
            ("running_mean", &layer.mean),
            ("running_var", &layer.var),
        ];
        for (i, (part, side)) in sides.into_iter().enumerate() {
            let constant =
                node.inputs[i + 1].and_then(|id| graph.constants.get(&id)).and_then(|c| c.f32s());
            if constant.as_ref() != Some(side) {
                return Err(format!(
                    "`{}.{part}` differs from what node `{}` of the graph holds",
                    layer.key, node.name
                ));
            }
        }
    }
    Ok(())
}

fn floats(tensors: &SafeTensors, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let view = tensors.tensor(name).map_err(|_| format!("lacks tensor `{name}`"))?;
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        return Err(format!(
            "`{name}` is {:?} {:?}, expected F32 {shape:?}",
            view.dtype(),
            view.shape()
        ));
    }
    Ok(view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn read_golden(dir: &Path, manifest: &Manifest) -> Result<Golden, BundleError> {
    let path = dir.join(GOLDEN);
    let bytes = read_file(dir, GOLDEN, manifest)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| {
        BundleError::invalid(&path, format!("not a readable safetensors file: {e}"))
    })?;
    golden_of(&tensors, manifest).map_err(|what| BundleError::invalid(&path, what))
}

fn golden_of(tensors: &SafeTensors, manifest: &Manifest) -> Result<Golden, String> {
    let batch = tensors
        .tensor("input")
        .map_err(|_| "lacks tensor `input`")?
        .shape()
        .first()
        .copied()
        .unwrap_or(0);
    if !(1..=1024).contains(&batch) {
        return Err(format!("a probe of {batch} images"));
    }
    let p = &manifest.preprocessing;
    let image = [batch, p.channels, p.height, p.width];
    let classes = manifest.classes.len();
    let array = |name: &str, shape: &[usize]| -> Result<ArrayD<f32>, String> {
        let values = floats(tensors, name, shape)?;
        if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
            return Err(format!("`{name}` contains {bad}"));
        }
        ArrayD::from_shape_vec(shape, values).map_err(|e| format!("`{name}`: {e}"))
    };
    let scalar = |name: &str| floats(tensors, name, &[]).map(|v| f64::from(v[0]));
    let pair = |layer: &LayerEntry| -> Result<(ArrayD<f32>, ArrayD<f32>), String> {
        let part = |what: &str| array(&format!("stats.{}.{what}", layer.key), &[layer.channels]);
        Ok((part("mean")?, part("var")?))
    };
    let (targets, output) = if manifest.is_features_only() {
        let width = tensors
            .tensor(FEATURES)
            .map_err(|_| "lacks tensor `features`")?
            .shape()
            .last()
            .copied();
        (None, array(FEATURES, &[batch, width.unwrap_or(0)])?)
    } else {
        (Some(targets_of(tensors, batch, classes)?), array("logits", &[batch, classes])?)
    };
    Ok(Golden {
        input: array("input", &image)?
            .into_dimensionality()
            .map_err(|e| format!("`input`: {e}"))?,
        targets,
        output,
        statistics: manifest.statistics.layers.iter().map(pair).collect::<Result<_, _>>()?,
        ce: scalar("ce")?,
        bn_loss: scalar("bn_loss")?,
        loss: scalar("loss")?,
        input_grad: match tensors.tensor("directions") {
            Ok(view) => InputGradient::Along {
                directions: directions_of(&view, &image)?,
                slopes: array("slopes", &view.shape()[..1])?,
            },
            Err(_) => InputGradient::Whole(array("input_grad", &image)?),
        },
    })
}

/// Reads directions `[D, N, C, H, W]` for images of shape `image`.
fn directions_of(view: &TensorView, image: &[usize]) -> Result<ArrayD<i8>, String> {
    let count = view.shape().first().copied().unwrap_or(0);
    if view.dtype() != Dtype::I8
        || view.shape().get(1..) != Some(image)
        || !DIRECTIONS.contains(&count)
    {
        return Err(format!(
            "`directions` is {:?} {:?}, expected I8 [{} to {}] of {image:?}",
            view.dtype(),
            view.shape(),
            DIRECTIONS.start(),
            DIRECTIONS.end()
        ));
    }
    let values: Vec<i8> = view.data().iter().map(|&byte| byte.cast_signed()).collect();
    if let Some(bad) = values.iter().find(|value| value.abs_diff(0) != 1) {
        return Err(format!("`directions` contains {bad}, neither 1 nor -1"));
    }
    ArrayD::from_shape_vec(view.shape(), values).map_err(|e| format!("`directions`: {e}"))
}

fn targets_of(tensors: &SafeTensors, batch: usize, classes: usize) -> Result<Vec<i64>, String> {
    let view = tensors.tensor("targets").map_err(|_| "lacks tensor `targets`")?;
    if view.dtype() != Dtype::I64 || view.shape() != [batch] {
        return Err(format!(
            "`targets` is {:?} {:?}, expected I64 [{batch}]",
            view.dtype(),
            view.shape()
        ));
    }
    let values: Vec<i64> =
        view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    if let Some(bad) = values.iter().find(|v| !(0..classes as i64).contains(v)) {
        return Err(format!("`targets` contains class {bad} of {classes}"));
    }
    Ok(values)
}
