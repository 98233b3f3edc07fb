//! Starting images: noise, real training images (any, or representatives of clusters), or the crops
//! of them that the teacher recognises best (RDED, arXiv 2312.03526).

use std::cell::RefCell;
use std::collections::BTreeMap;

use ndarray::{Array2, Array3, Array4, Axis, s};
use rand::seq::SliceRandom;
use rand_distr::{Distribution, StandardNormal};
use tch::{Device, Kind, Tensor};

use super::clusters::representatives;
use super::{Batch, Item, RecoverError};
use crate::teacher::{Bundle, Network};
use scdd_compute::replica::{Mode, Outputs, Replica, to_array, to_tensor};
use scdd_compute::threads::Threads;
use scdd_compute::transfer;
use scdd_data::rng;
use scdd_data::view::apply_batch;
use scdd_data::{DataError, Dataset, Normalization, Resample, Size, View};
use scdd_experiment::config::{Difficulty, RecoverConfig, Start};
use scdd_graph::{Graph, ValueId};

/// The range of area shares of RDED's crops: torchvision's default. The crops are square.
const CROP_SCALE: (f32, f32) = (0.08, 1.0);
const CROP_RATIO: (f32, f32) = (1.0, 1.0);
/// Images per run of the teacher.
const BATCH: usize = 100;

/// Makes starting images.
pub struct Starts<'a> {
    bundle: &'a Bundle,
    normalization: Normalization,
    start: &'a Start,
    /// Real images per row and column of each starting image.
    formation: u16,
    data: Option<&'a Dataset>,
    device: Device,
    threads: Threads,
    /// Per seed and class, the best crops `[M, C, h, w]`, best first.
    crops: RefCell<BTreeMap<(u64, u32), Array4<f32>>>,
    /// Per seed, class and number of clusters, the indices of the representative images.
    clusters: RefCell<BTreeMap<(u64, u32, usize), Vec<usize>>>,
}

impl<'a> Starts<'a> {
    pub fn new(
        bundle: &'a Bundle,
        normalization: Normalization,
        config: &'a RecoverConfig,
        device: Device,
        threads: Threads,
    ) -> Self {
        let (start, formation) = (&config.start, config.formation);
        let (crops, clusters) = (RefCell::default(), RefCell::default());
        Self {
            bundle,
            normalization,
            start,
            formation,
            data: None,
            device,
            threads,
            crops,
            clusters,
        }
    }

    /// Adds real images to start from.
    pub fn with_data(mut self, data: &'a Dataset) -> Self {
        self.data = Some(data);
        self
    }

    /// The normalised starting images `[N, C, H, W]` of `batch`. Each depends only on its class and
    /// number, the set's size and the seed, not on the rest of the batch.
    ///
    /// # Errors
    /// When real images are needed and there are none, or too few of a class.
    pub fn images(&self, batch: &Batch, seed: u64) -> Result<Array4<f32>, RecoverError> {
        let [channels, height, width] = self.bundle.image_shape();
        let mut images = Array4::zeros((batch.items.len(), channels, height, width));
        for (mut image, &item) in images.axis_iter_mut(Axis(0)).zip(&batch.items) {
            match *self.start {
                Start::Noise { std } => {
                    let mut stream = item.stream(seed, "recover/start");
                    image.mapv_inplace(|_: f32| {
                        std as f32 * Distribution::<f32>::sample(&StandardNormal, &mut stream)
                    });
                }
                Start::Real { mean_of } => {
                    let part = |number| self.mean(Item { number, ..item }, seed, mean_of);
                    image.assign(&self.mosaic(item, self.formation, part)?);
                }
                Start::Clusters { images } => {
                    let count = batch.ipc as usize * usize::from(self.formation).pow(2);
                    let chosen = self.of_clusters(item.class, seed, images, count)?;
                    let part = |number: u32| self.real(&chosen[number as usize..][..1]);
                    image.assign(&self.mosaic(item, self.formation, part)?);
                }
                Start::Crops { factor, .. } => image.assign(&self.tiles(item, seed, factor)?),
            }
        }
        Ok(images)
    }

    /// The indices of the training images of `class`, shuffled by the seed.
    fn of_class(&self, class: u32, seed: u64) -> Result<(&'a Dataset, Vec<usize>), RecoverError> {
        let data = self.data.ok_or(RecoverError::NoData)?;
        let mut own: Vec<usize> = (0..data.len()).filter(|&i| data.labels[i] == class).collect();
        own.shuffle(&mut rng::stream(seed, "recover/real", class.into()));
        Ok((data, own))
    }

    fn enough(class: u32, found: usize, needed: usize) -> Result<(), RecoverError> {
        if found < needed {
            Err(RecoverError::TooFewImages { class, found, needed })
        } else {
            Ok(())
        }
    }

    /// The mean of `count` training images that no other item starts from.
    fn mean(&self, item: Item, seed: u64, count: u32) -> Result<Array3<f32>, RecoverError> {
        let (_, own) = self.of_class(item.class, seed)?;
        let (from, count) = (item.number as usize * count as usize, count as usize);
        Self::enough(item.class, own.len(), from + count)?;
        self.real(&own[from..from + count])
    }

    /// The mean of the training images at these indices.
    fn real(&self, indices: &[usize]) -> Result<Array3<f32>, RecoverError> {
        let data = self.data.ok_or(RecoverError::NoData)?;
        Ok(self.normalised(data, indices)?.sum_axis(Axis(0)) / indices.len() as f32)
    }

    /// The representatives of the `count` clusters of `class`.
    fn of_clusters(
        &self,
        class: u32,
        seed: u64,
        images: u32,
        count: usize,
    ) -> Result<Vec<usize>, RecoverError> {
        let key = (seed, class, count);
        if let Some(known) = self.clusters.borrow().get(&key) {
            return Ok(known.clone());
        }
        let (data, mut own) = self.of_class(class, seed)?;
        own.truncate(images as usize);
        Self::enough(class, own.len(), count)?;
        let features = self.features(data, &own)?;
        let mut stream = rng::stream(seed, "recover/clusters", class.into());
        let chosen: Vec<usize> = representatives(features.view(), count, &mut stream)
            .into_iter()
            .map(|place| own[place])
            .collect();
        self.clusters.borrow_mut().insert(key, chosen.clone());
        Ok(chosen)
    }

    /// The input of the teacher's classifier for these training images, `[N, D]`.
    fn features(&self, data: &Dataset, indices: &[usize]) -> Result<Array2<f32>, RecoverError> {
        let replica = self.bundle.replica(self.device)?;
        let tap = classifier_input(replica.graph());
        let mut parts = Vec::new();
        for part in indices.chunks(BATCH) {
            let run = self.look(&replica, &self.normalised(data, part)?, &[tap])?;
            let features =
                run.taps[0].f_flatten(1, -1).and_then(|t| to_array(&t)).map_err(self.torch())?;
            parts.extend(features);
        }
        let features = parts.len() / indices.len();
        // The batches appended whole rows, one per image.
        Ok(Array2::from_shape_vec((indices.len(), features), parts).unwrap_or_default())
    }

    /// A mosaic of `grid`² of the class's images, those that belong to the item. `part` returns an
    /// image by its number within the class.
    fn mosaic(
        &self,
        item: Item,
        grid: u16,
        part: impl Fn(u32) -> Result<Array3<f32>, RecoverError>,
    ) -> Result<Array3<f32>, RecoverError> {
        let [channels, height, width] = self.bundle.image_shape();
        let mut image = Array3::zeros((channels, height, width));
        let source = Size { height, width };
        for number in 0..u32::from(grid).pow(2) {
            let (row, column) = (number as u16 / grid, number as u16 % grid);
            let cell = View::cell(source, grid, row, column)?;
            let whole = part(item.number * u32::from(grid).pow(2) + number)?;
            let small = resize(&whole.insert_axis(Axis(0)), cell.size(), &self.threads)?;
            let (top, left) = (usize::from(cell.top), usize::from(cell.left));
            image
                .slice_mut(s![.., top..top + cell.size().height, left..left + cell.size().width])
                .assign(&small.index_axis(Axis(0), 0));
        }
        Ok(image)
    }

    /// A mosaic of `factor`² crops.
    fn tiles(&self, item: Item, seed: u64, factor: u32) -> Result<Array3<f32>, RecoverError> {
        let key = (seed, item.class);
        if !self.crops.borrow().contains_key(&key) {
            let made = self.best_crops(item.class, seed)?;
            self.crops.borrow_mut().insert(key, made);
        }
        let crops = &self.crops.borrow()[&key];
        let needed = (item.number as usize + 1) * (factor * factor) as usize;
        Self::enough(item.class, crops.len_of(Axis(0)), needed)?;
        // The configuration limits `factor` to 16.
        self.mosaic(item, factor as u16, |number| {
            Ok(crops.index_axis(Axis(0), number as usize).to_owned())
        })
    }

    /// For each of some training images, the crop that the teacher recognises best. The order
    /// follows `difficulty`.
    fn best_crops(&self, class: u32, seed: u64) -> Result<Array4<f32>, RecoverError> {
        let Start::Crops { images, crops, factor, difficulty } = *self.start else {
            return Err(RecoverError::NoData);
        };
        let (data, own) = self.of_class(class, seed)?;
        let own = &own[..own.len().min(images as usize)];
        let [channels, height, width] = self.bundle.image_shape();
        let size = Size { height: height / factor as usize, width: width / factor as usize };
        let replica = self.bundle.replica(self.device)?;
        let mut best = Array4::zeros((own.len(), channels, size.height, size.width));
        let mut losses = vec![f64::INFINITY; own.len()];
        let mut stream = rng::stream(seed, "recover/crops", class.into());
        for _ in 0..crops {
            for (from, part) in own.chunks(BATCH).enumerate() {
                let whole = self.normalised(data, part)?;
                let map = |_: &usize| {
                    let view = View::random_resized_crop(
                        &mut stream,
                        data.size(),
                        CROP_SCALE,
                        CROP_RATIO,
                    )?;
                    Resample::new(&view, data.size(), size)
                };
                let maps = part.iter().map(map).collect::<Result<Vec<_>, _>>()?;
                let mut crop = Array4::zeros((part.len(), channels, size.height, size.width));
                self.threads.run(|| apply_batch(&maps, &whole, &mut crop))?;
                for (i, loss) in self.losses(&replica, &crop, class)?.into_iter().enumerate() {
                    let image = from * BATCH + i;
                    if loss < losses[image] {
                        losses[image] = loss;
                        best.index_axis_mut(Axis(0), image).assign(&crop.index_axis(Axis(0), i));
                    }
                }
            }
        }
        let mut order: Vec<usize> = (0..own.len()).collect();
        order.sort_by(|&a, &b| losses[a].total_cmp(&losses[b]));
        if difficulty == Difficulty::Medium {
            order = from_the_middle(&order);
        }
        Ok(best.select(Axis(0), &order))
    }

    /// The teacher's cross entropy on each crop, padded to the size of an image.
    fn losses(
        &self,
        replica: &Replica,
        crops: &Array4<f32>,
        class: u32,
    ) -> Result<Vec<f64>, RecoverError> {
        let (count, channels, height, width) = crops.dim();
        let [_, full_height, full_width] = self.bundle.image_shape();
        let mut padded = Array4::zeros((count, channels, full_height, full_width));
        let (top, left) = ((full_height - height) / 2, (full_width - width) / 2);
        padded.slice_mut(s![.., .., top..top + height, left..left + width]).assign(crops);
        let run = self.look(replica, &padded, &[])?;
        let targets = Tensor::full([count as i64], i64::from(class), (Kind::Int64, self.device));
        let losses = run.outputs[0]
            .f_cross_entropy_loss::<Tensor>(&targets, None, tch::Reduction::None, -100, 0.0)
            .and_then(|t| to_array(&t));
        Ok(losses.map_err(self.torch())?.iter().map(|&loss| f64::from(loss)).collect())
    }

    /// The images of `data` with these `indices`, normalised.
    fn normalised(&self, data: &Dataset, indices: &[usize]) -> Result<Array4<f32>, DataError> {
        let normalization = &self.normalization;
        self.threads.run(|| normalization.batch(data, indices))
    }

    /// Runs the teacher on `images` `[N, C, H, W]`.
    fn look(
        &self,
        replica: &Replica,
        images: &Array4<f32>,
        taps: &[ValueId],
    ) -> Result<Outputs, RecoverError> {
        let input = to_tensor(images.view())
            .and_then(|t| transfer::send(&t, self.device))
            .map_err(self.torch())?;
        tch::no_grad(|| replica.run(&[input], taps, Mode::Eval)).map_err(|source| {
            RecoverError::Replica { teacher: self.bundle.name().to_owned(), source }
        })
    }

    fn torch(&self) -> impl Fn(tch::TchError) -> RecoverError + '_ {
        |source| RecoverError::Torch { teacher: self.bundle.name().to_owned(), source }
    }
}

/// The input of the last matrix product before the output; the output itself if there is none.
fn classifier_input(graph: &Graph) -> ValueId {
    let output = graph.outputs[0];
    let mut value = output;
    while let Some(node) = graph.producer(value) {
        let Some(&Some(input)) = node.inputs.first() else { break };
        if matches!(node.op_type.as_str(), "Gemm" | "MatMul") {
            return input;
        }
        value = input;
    }
    output
}

/// The middle of `ranked` first, then alternately outwards.
fn from_the_middle(ranked: &[usize]) -> Vec<usize> {
    let (below, above) = ranked.split_at(ranked.len() / 2);
    let (mut below, mut above) = (below.iter().rev(), above.iter());
    std::iter::from_fn(|| Some([above.next(), below.next()]))
        .take(ranked.len())
        .flatten()
        .flatten()
        .copied()
        .collect()
}

/// Resizes `images` `[N, C, H, W]` bilinearly.
///
/// # Errors
/// When a side is 0 or beyond 65535.
pub fn resize(
    images: &Array4<f32>,
    size: Size,
    threads: &Threads,
) -> Result<Array4<f32>, RecoverError> {
    let (count, channels, height, width) = images.dim();
    let source = Size { height, width };
    if source == size {
        return Ok(images.clone());
    }
    let map = Resample::new(&View::full(source)?, source, size)?;
    let mut out = Array4::zeros((count, channels, size.height, size.width));
    threads.run(|| apply_batch(&vec![map; count], images, &mut out))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::tests::{config, shipped, training_images};

    fn starts<'a>(bundle: &'a Bundle, config: &'a RecoverConfig, data: &'a Dataset) -> Starts<'a> {
        Starts::new(bundle, bundle.normalization().unwrap(), config, Device::Cpu, Threads::all())
            .with_data(data)
    }

    fn batch(items: &[Item], ipc: u32) -> Batch {
        Batch { items: items.to_vec(), ipc, first: 0 }
    }

    #[test]
    fn a_mosaic_is_made_of_the_next_images_at_half_the_size() {
        let (bundle, data) = (shipped("resnet18-w16-supervised"), training_images());
        let (plain, mosaic) = (
            config("{start: {type: real, mean_of: 1}}"),
            config("{start: {type: real, mean_of: 1}, formation: 2}"),
        );
        let item = |number| Item { class: 3, number };
        let all: Vec<Item> = (0..4).map(item).collect();
        let parts = starts(&bundle, &plain, &data).images(&batch(&all, 4), 7).unwrap();
        let parts = resize(&parts, Size { height: 14, width: 14 }, &Threads::all()).unwrap();
        let starts = starts(&bundle, &mosaic, &data);
        let image = starts.images(&batch(&[item(0)], 1), 7).unwrap();
        assert_eq!(image.slice(s![0, .., ..14, ..14]), parts.index_axis(Axis(0), 0));
        assert_eq!(image.slice(s![0, .., ..14, 14..]), parts.index_axis(Axis(0), 1));
        assert_eq!(image.slice(s![0, .., 14.., ..14]), parts.index_axis(Axis(0), 2));
        let error = starts.images(&batch(&[item(1)], 2), 7).unwrap_err().to_string();
        assert!(error.contains("class 3 has 4 images to start from, 5 are needed"), "{error}");
    }

    #[test]
    fn clusters_are_stood_for_by_images_of_the_class() {
        let (bundle, data) = (shipped("resnet18-w16-supervised"), training_images());
        let settings = config("{start: {type: clusters, images: 100}}");
        let starts = starts(&bundle, &settings, &data);
        let chosen = starts.of_clusters(3, 7, 100, 2).unwrap();
        assert!(
            chosen.len() == 2
                && chosen[0] != chosen[1]
                && chosen.iter().all(|&i| data.labels[i] == 3),
            "{chosen:?}"
        );
        let image = starts.images(&batch(&[Item { class: 3, number: 1 }], 2), 7).unwrap();
        let expected = starts.normalization.batch(&data, &chosen[1..]).unwrap();
        assert_eq!(image, expected);
        let error =
            starts.images(&batch(&[Item { class: 3, number: 0 }], 5), 7).unwrap_err().to_string();
        assert!(error.contains("class 3 has 4 images to start from, 5 are needed"), "{error}");
    }

    #[test]
    fn features_are_what_the_classifier_reads() {
        let (bundle, data) = (shipped("resnet18-w16-supervised"), training_images());
        let settings = config("{start: {type: clusters, images: 100}}");
        let starts = starts(&bundle, &settings, &data);
        let features = starts.features(&data, &[0, 5]).unwrap();
        let replica = bundle.replica(Device::Cpu).unwrap();
        let (weight, bias) =
            (replica.constant("fc.weight").unwrap(), replica.constant("fc.bias").unwrap());
        let logits = to_tensor(features.view()).unwrap().matmul(&weight.tr()) + bias;
        let expected = starts
            .look(&replica, &starts.normalization.batch(&data, &[0, 5]).unwrap(), &[])
            .unwrap();
        assert!((logits - &expected.outputs[0]).abs().max().double_value(&[]) < 1e-4);
    }

    #[test]
    fn real_starts_use_every_image_of_the_class_once() {
        let (bundle, data) = (shipped("resnet18-w16-supervised"), training_images());
        let settings = config("{start: {type: real, mean_of: 2}}");
        let starts = starts(&bundle, &settings, &data);
        let item = |number| Item { class: 3, number };
        let images = starts.images(&batch(&[item(0), item(1)], 2), 7).unwrap();
        let own: Vec<usize> = (0..4).map(|i| i * 10 + 3).collect();
        let all = starts.normalization.batch(&data, &own).unwrap();
        let (found, expected) =
            (images.mean_axis(Axis(0)).unwrap(), all.mean_axis(Axis(0)).unwrap());
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5));
        assert_eq!(
            starts.images(&batch(&[item(1)], 2), 7).unwrap().index_axis(Axis(0), 0),
            images.index_axis(Axis(0), 1)
        );
        let error = starts.images(&batch(&[item(2)], 3), 7).unwrap_err().to_string();
        assert!(error.contains("class 3 has 4 images to start from, 6 are needed"), "{error}");
    }

    #[test]
    fn crops_are_ranked_by_the_teachers_loss() {
        let (bundle, data) = (shipped("resnet18-w16-supervised"), training_images());
        let of = |difficulty: &str| {
            config(&format!(
                "{{start: {{type: crops, images: 4, crops: 3, factor: 2, difficulty: {difficulty}}}}}"
            ))
        };
        let (low, medium) = (of("low"), of("medium"));
        let replica = bundle.replica(Device::Cpu).unwrap();
        let starts_low = starts(&bundle, &low, &data);
        let crops = starts_low.best_crops(5, 1).unwrap();
        assert_eq!(crops.dim(), (4, 1, 14, 14));
        let losses = starts_low.losses(&replica, &crops, 5).unwrap();
        assert!(losses.is_sorted(), "{losses:?}");
        let one_crop =
            config("{start: {type: crops, images: 4, crops: 1, factor: 2, difficulty: low}}");
        let worse = starts(&bundle, &one_crop, &data);
        let worse = worse.losses(&replica, &worse.best_crops(5, 1).unwrap(), 5).unwrap();
        assert!(worse.iter().zip(&losses).all(|(one, best)| one >= best), "{worse:?} {losses:?}");
        let image = starts_low.images(&batch(&[Item { class: 5, number: 0 }], 1), 1).unwrap();
        assert_eq!(image.slice(s![0, .., ..14, 14..]), crops.index_axis(Axis(0), 1));
        let starts_medium = starts(&bundle, &medium, &data);
        assert_eq!(
            starts_medium.best_crops(5, 1).unwrap().index_axis(Axis(0), 0),
            crops.index_axis(Axis(0), 2)
        );
    }

    #[test]
    fn medium_difficulty_starts_in_the_middle() {
        assert_eq!(from_the_middle(&[0, 1, 2, 3, 4]), [2, 1, 3, 0, 4]);
        assert_eq!(from_the_middle(&[5, 6]), [6, 5]);
        assert_eq!(from_the_middle(&[]), [] as [usize; 0]);
    }
}
