//! The teachers that label: one, or the mean of several, with their running BN statistics or those
//! of the batch.

use ndarray::{Array2, ArrayView4};
use tch::Tensor;

use super::RelabelError;
use crate::teacher::{
    BoundSession, Bundle, ImageMemory, Network as _, Provider, Runtime, RuntimeError,
    SessionOptions,
};
use scdd_compute::cuda;
use scdd_compute::replica::{Mode, Replica, to_array, to_tensor};
use scdd_compute::threads::Threads;
use scdd_compute::transfer;
use scdd_experiment::config::{Device, Fallback, RelabelConfig, TeacherBn};
use scdd_graph::Op;
use scdd_graph::ops::Norm;

/// Images that a GPU labels together.
const IMAGES_TOGETHER: u32 = 256;

/// Teachers whose logits are averaged.
pub struct Teachers<'a> {
    members: Vec<AnsweringTeacher<'a>>,
    runtime: &'a Runtime,
    threads: Threads,
}

/// Where networks run that ONNX Runtime's CPU does not.
#[derive(Debug, Clone, Copy)]
pub struct LabelPlace {
    /// The device of teachers with batch statistics.
    pub tensors: tch::Device,
    /// Whether ONNX Runtime may compute in TensorFloat-32 on a GPU.
    pub tf32: bool,
}

/// Where teachers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnsweringPlaces {
    Cpu,
    Gpu,
    /// Some on a GPU, and those that fell back on the CPU.
    Both,
}

struct AnsweringTeacher<'a> {
    bundle: &'a Bundle,
    /// The teacher's weight in the mean; all shares sum to 1.
    share: f32,
    network: Answering,
}

enum Answering {
    /// ONNX Runtime, with running statistics and these options.
    Running(Box<BoundSession>, SessionOptions),
    /// The replica, with batch statistics over parts of this many images; absent: over the whole
    /// batch.
    Batch(Box<Replica>, tch::Device, Option<u32>),
}

impl Answering {
    fn is_on_gpu(&self) -> bool {
        match self {
            Self::Running(_, options) => options.provider != Provider::Cpu,
            Self::Batch(_, device, _) => *device != tch::Device::Cpu,
        }
    }
}

impl<'a> Teachers<'a> {
    /// Opens the bundles' networks on the devices that `config` requests; the numbers are their
    /// weights in the mean. All must have the first one's preprocessing. Teachers with batch
    /// statistics run on the tensors' device; those in ONNX Runtime run on a GPU, or on the present
    /// number of `threads`. Calls `say` at once if a network falls back to the CPU.
    ///
    /// # Errors
    /// When CUDA is requested but not available and no fallback is configured; when the bundles do
    /// not fit each other; when batch statistics are requested of a network without BatchNorm.
    pub fn open(
        bundles: &[(&'a Bundle, f64)],
        runtime: &'a Runtime,
        config: &RelabelConfig,
        place: LabelPlace,
        threads: &Threads,
        say: &dyn Fn(&str),
    ) -> Result<Self, RelabelError> {
        check_fit(bundles)?;
        let total: f64 = bundles.iter().map(|(_, weight)| weight).sum();
        let mut members = Vec::new();
        for &(bundle, weight) in bundles {
            let network = match config.teacher_bn {
                TeacherBn::Batch => {
                    let replica = Box::new(replica(bundle, place.tensors)?);
                    Answering::Batch(replica, place.tensors, config.micro_batch)
                }
                TeacherBn::Running => {
                    open_session(bundle, runtime, config, place.tf32, threads, say)?
                }
            };
            members.push(AnsweringTeacher { bundle, share: (weight / total) as f32, network });
        }
        Ok(Self { members, runtime, threads: threads.clone() })
    }

    /// Where they run.
    pub fn places(&self) -> AnsweringPlaces {
        let on_gpu = self.members.iter().filter(|member| member.network.is_on_gpu()).count();
        match on_gpu {
            0 => AnsweringPlaces::Cpu,
            all if all == self.members.len() => AnsweringPlaces::Gpu,
            _ => AnsweringPlaces::Both,
        }
    }

    /// The number of batches of `size` images that they answer together. On a GPU small batches
    /// leave it idle. On a CPU that gains nothing, and the size of a batch can change the last bits
    /// of logits; with statistics of the batch it changes all of them.
    pub fn batches_together(&self, size: u32) -> usize {
        let on_gpu = |member: &AnsweringTeacher| matches!(&member.network, Answering::Running(_, o) if o.provider != Provider::Cpu);
        match self.members.iter().all(on_gpu) {
            true => (IMAGES_TOGETHER / size.max(1)).max(1) as usize,
            false => 1,
        }
    }

    /// Their bundles; the first one's preprocessing is that of all.
    pub fn bundles(&self) -> Vec<&'a Bundle> {
        self.members.iter().map(|member| member.bundle).collect()
    }

    /// The threads that they run on.
    pub fn threads(&self) -> Threads {
        self.threads.clone()
    }

    /// Memory for a batch of their images.
    pub fn image_memory(&self) -> ImageMemory {
        let image = self.members[0].bundle.image_shape();
        let on_gpu = self.members.iter().find_map(|member| match &member.network {
            Answering::Running(session, _) if member.network.is_on_gpu() => Some(session),
            _ => None,
        });
        on_gpu.map_or_else(|| ImageMemory::new(image), |session| session.image_memory(image))
    }

    /// The mean of all teachers' logits `[N, K]` for the images in memory, `[N, C, H, W]`.
    ///
    /// # Errors
    /// When a network can't run.
    pub fn logits(&mut self, images: &ImageMemory) -> Result<Array2<f32>, RelabelError> {
        self.follow()?;
        let [only] = &mut self.members[..] else { return self.mean(images) };
        only.logits(images)
    }

    /// Reopens the sessions whose number of threads differs from the present one.
    fn follow(&mut self) -> Result<(), RuntimeError> {
        let threads = self.threads.count();
        for AnsweringTeacher { bundle, network, .. } in &mut self.members {
            if let Answering::Running(session, options) = network
                && options.provider == Provider::Cpu
                && options.threads != threads
            {
                options.threads = threads;
                **session = bound(bundle, self.runtime, *options)?;
            }
        }
        Ok(())
    }

    fn mean(&mut self, images: &ImageMemory) -> Result<Array2<f32>, RelabelError> {
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

impl AnsweringTeacher<'_> {
    fn logits(&mut self, images: &ImageMemory) -> Result<Array2<f32>, RelabelError> {
        match &mut self.network {
            Answering::Running(session, _) => Ok(session.logits(images)?),
            Answering::Batch(replica, device, part) => {
                by_batch_statistics(replica, *device, images.images()?, *part).map_err(|e| {
                    RelabelError::Teacher {
                        teacher: self.bundle.name().into(),
                        what: e.to_string(),
                    }
                })
            }
        }
    }
}

fn by_batch_statistics(
    replica: &Replica,
    device: tch::Device,
    images: ArrayView4<f32>,
    part: Option<u32>,
) -> Result<Array2<f32>, Box<dyn std::error::Error>> {
    let _no_grad = tch::no_grad_guard();
    let input = transfer::send(&to_tensor(images)?, device)?;
    let mut logits = Vec::new();
    for images in input.f_split(part.map_or(input.size()[0], i64::from), 0)? {
        logits.push(replica.run(&[images], &[], Mode::Batch)?.outputs.swap_remove(0));
    }
    Ok(to_array(&Tensor::f_cat(&logits, 0)?)?.into_dimensionality()?)
}

/// Checks that all teachers have the same preprocessing and the same classes.
fn check_fit(bundles: &[(&Bundle, f64)]) -> Result<(), RelabelError> {
    let Some(((first, _), others)) = bundles.split_first() else { return Ok(()) };
    for (other, _) in others {
        let what = match () {
            () if other.manifest.preprocessing != first.manifest.preprocessing => {
                "preprocesses images"
            }
            () if other.manifest.classes != first.manifest.classes => "orders or names classes",
            () => continue,
        };
        let what = format!(
            "{what} in another way than `{}`; logits can be averaged only of teachers that agree",
            first.name()
        );
        return Err(RelabelError::Teacher { teacher: other.name().into(), what });
    }
    Ok(())
}

fn replica(bundle: &Bundle, device: tch::Device) -> Result<Replica, RelabelError> {
    let fail = |what: String| RelabelError::Teacher { teacher: bundle.name().into(), what };
    let replica = bundle.replica(device).map_err(|e| fail(e.to_string()))?;
    if !replica.graph().nodes.iter().any(|node| matches!(node.op, Op::Norm(Norm::Batch { .. }))) {
        return Err(fail(
            "has no BatchNorm node, so `relabel.teacher_bn: batch` means nothing for it; use `running`".into(),
        ));
    }
    Ok(replica)
}

/// Opens a session on the configured device, or on the CPU.
fn open_session(
    bundle: &Bundle,
    runtime: &Runtime,
    config: &RelabelConfig,
    tf32: bool,
    threads: &Threads,
    say: &dyn Fn(&str),
) -> Result<Answering, RelabelError> {
    let open = |provider| {
        let options = SessionOptions { provider, optimize: true, threads: threads.count() };
        Ok(Answering::Running(Box::new(bound(bundle, runtime, options)?), options))
    };
    Ok(open_where_possible(config, tf32, open, say)?)
}

fn bound(
    bundle: &Bundle,
    runtime: &Runtime,
    options: SessionOptions,
) -> Result<BoundSession, RuntimeError> {
    let session = runtime.session(bundle.name(), &bundle.model, &[], options)?;
    BoundSession::new(session, options.provider, bundle.manifest.classes.len())
}

/// Opens a network by `open` on the configured device, or on the CPU, saying so.
fn open_where_possible<T>(
    config: &RelabelConfig,
    tf32: bool,
    open: impl Fn(Provider) -> Result<T, RuntimeError>,
    say: &dyn Fn(&str),
) -> Result<T, RuntimeError> {
    let may_fall_back = config.provider == Device::Auto || config.fallback == Some(Fallback::Cpu);
    if config.provider == Device::Cpu {
        return open(Provider::Cpu);
    }
    let what = match open(Provider::Cuda { tf32 }) {
        Ok(session) => return Ok(session),
        // A GPU may be there, but lack memory or a library that this network needs.
        Err(RuntimeError::NoCuda { what } | RuntimeError::Session { what, .. })
            if may_fall_back =>
        {
            what
        }
        Err(error) => return Err(error),
    };
    // That a machine has no GPU is no news at every set of images.
    if config.provider == Device::Cuda || cuda::first_card().is_ok() {
        say(&format!("soft labels are computed on the CPU, not by CUDA: {what}"));
    }
    open(Provider::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array4;

    const NAMES: [&str; 2] = ["resnet18-w16-supervised", "resnet18-w16-moco-v2"];

    fn bundle(name: &str) -> Bundle {
        Bundle::load(&crate::in_repository("onnx/fashion-mnist").join(name)).unwrap()
    }

    fn config(teacher_bn: TeacherBn) -> RelabelConfig {
        let text = format!(
            "epochs: 1\nbatch_size: 8\ncrop: null\nflip: false\nmix: {{type: none}}\nteacher_bn: {}\nensemble: []\ndtype: f32\ntop_k: null\n\
             stored_epochs: null\nprovider: cpu\nfallback: null\n",
            serde_yaml::to_string(&teacher_bn).unwrap()
        );
        serde_yaml::from_str(&text).unwrap()
    }

    fn images() -> Array4<f32> {
        Array4::from_shape_fn((8, 1, 28, 28), |(n, _, y, x)| {
            ((n * 31 + y * 7 + x * 3) % 17) as f32 / 8.0 - 1.0
        })
    }

    fn logits(bundles: &[(&Bundle, f64)], teacher_bn: TeacherBn) -> Array2<f32> {
        let runtime = Runtime::open(None).unwrap();
        let place = LabelPlace { tensors: tch::Device::Cpu, tf32: false };
        let say = |what: &str| panic!("{what}");
        let (config, threads) = (config(teacher_bn), Threads::all());
        let mut teachers =
            Teachers::open(bundles, &runtime, &config, place, &threads, &say).unwrap();
        assert_eq!(teachers.places(), AnsweringPlaces::Cpu);
        let images = ImageMemory::of(&images()).unwrap();
        let first = teachers.logits(&images).unwrap();
        assert_eq!(first, teachers.logits(&images).unwrap(), "answering changed the teacher");
        first
    }

    fn furthest(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
        assert_eq!(a.dim(), b.dim());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    /// PyTorch's training mode also normalises by the batch, but moves the running statistics too.
    #[test]
    fn batch_statistics_are_those_of_training_mode() {
        let bundle = bundle(NAMES[0]);
        let found = logits(&[(&bundle, 1.0)], TeacherBn::Batch);
        let replica = bundle.replica(tch::Device::Cpu).unwrap();
        let input = to_tensor(images().view()).unwrap();
        let trained = tch::no_grad(|| replica.run(&[input], &[], Mode::Train).unwrap());
        let expected: Array2<f32> =
            to_array(&trained.outputs[0]).unwrap().into_dimensionality().unwrap();
        assert!(furthest(&found, &expected) < 1e-4);
        let running = logits(&[(&bundle, 1.0)], TeacherBn::Running);
        assert!(furthest(&found, &running) > 0.1, "batch and running statistics gave the same");
    }

    #[test]
    fn parts_of_a_batch_are_normalised_by_themselves() {
        let bundle = bundle(NAMES[0]);
        let replica = bundle.replica(tch::Device::Cpu).unwrap();
        let statistics = |images: &Array4<f32>, part| {
            by_batch_statistics(&replica, tch::Device::Cpu, images.view(), part).unwrap()
        };
        let found = statistics(&images(), Some(5));
        for (first, last) in [(0, 5), (5, 8)] {
            let part = images().slice(ndarray::s![first..last, .., .., ..]).to_owned();
            let alone = statistics(&part, None);
            assert!(furthest(&found.slice(ndarray::s![first..last, ..]).to_owned(), &alone) < 1e-5);
        }
        let whole = statistics(&images(), None);
        assert!(furthest(&found, &whole) > 0.01, "parts made no difference");
    }

    /// As on a GPU without memory, or without a library that the network needs.
    #[test]
    fn a_network_that_a_gpu_cannot_open_is_opened_on_the_cpu_where_that_is_allowed() {
        let refused = || RuntimeError::Session { model: "m".into(), what: "out of memory".into() };
        let open = |provider| match provider {
            Provider::Cpu => Ok("cpu"),
            Provider::Cuda { tf32: true } => Err(refused()),
            Provider::Cuda { tf32: false } => Ok("gpu"),
        };
        let said = std::cell::RefCell::new(Vec::new());
        let say = |what: &str| said.borrow_mut().push(what.to_owned());
        let on = |provider, fallback, tf32| {
            let config = RelabelConfig { provider, fallback, ..config(TeacherBn::Running) };
            open_where_possible(&config, tf32, open, &say)
        };
        let cpu = Some(Fallback::Cpu);
        assert_eq!(on(Device::Cuda, cpu, true).unwrap(), "cpu");
        let told = "soft labels are computed on the CPU, not by CUDA: out of memory";
        assert_eq!(said.take(), [told]);
        assert_eq!(on(Device::Auto, None, true).unwrap(), "cpu");
        assert_eq!(on(Device::Cuda, cpu, false).unwrap(), "gpu");
        said.take();
        for fallback in [None, Some(Fallback::Error)] {
            let error = on(Device::Cuda, fallback, true).unwrap_err();
            assert!(matches!(error, RuntimeError::Session { .. }), "{error}");
        }
        assert!(said.take().is_empty());
    }

    #[test]
    fn several_teachers_give_their_weighted_mean() {
        let bundles = NAMES.map(bundle);
        let [a, b] = [0, 1].map(|i| logits(&[(&bundles[i], 5.0)], TeacherBn::Running));
        let found = logits(&[(&bundles[0], 3.0), (&bundles[1], 1.0)], TeacherBn::Running);
        assert!(furthest(&found, &(a * 0.75 + b * 0.25)) < 1e-4);
    }

    #[test]
    fn teachers_that_cannot_answer_together_are_refused() {
        let (first, mut other) = (bundle(NAMES[0]), bundle(NAMES[1]));
        let refusal = |bundles: &[(&Bundle, f64)]| check_fit(bundles).unwrap_err().to_string();
        other.manifest.classes.swap(0, 1);
        let message = refusal(&[(&first, 1.0), (&other, 1.0)]);
        assert!(
            message
                .contains("teacher `resnet18-w16-moco-v2` orders or names classes in another way"),
            "{message}"
        );
        other.manifest.preprocessing.mean[0] += 0.1;
        assert!(refusal(&[(&first, 1.0), (&other, 1.0)]).contains("preprocesses images"));
        let message =
            replica(&bundle("convnet3-w128-in"), tch::Device::Cpu).err().unwrap().to_string();
        assert!(message.contains("has no BatchNorm node"), "{message}");
    }
}
