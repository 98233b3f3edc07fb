//! Sessions whose input and output lie in memory that is allocated once and used again.

use ndarray::{Array2, ArrayView4, ArrayViewMut4};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session as OrtSession};
use ort::value::Tensor;

use super::RuntimeError;
use super::runtime::{Provider, Session};

/// The memory of a batch of images: a block for each number of images that occurs.
#[derive(Debug)]
pub struct ImageMemory {
    allocator: Allocator,
    /// Channels, height and width.
    image: [usize; 3],
    blocks: Vec<Tensor<f32>>,
    /// The block in use.
    current: usize,
}

impl ImageMemory {
    /// Memory for images of this shape, which the program alone reads.
    pub fn new(image: [usize; 3]) -> Self {
        Self { allocator: Allocator::default(), image, blocks: Vec::new(), current: 0 }
    }

    /// The block for `count` images `[count, C, H, W]`. It holds what it held last, or zeros.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn room(&mut self, count: usize) -> Result<ArrayViewMut4<'_, f32>, RuntimeError> {
        let [channels, height, width] = self.image;
        let shape = [count, channels, height, width];
        let known = self.blocks.iter().position(|block| block.shape()[0] == count as i64);
        self.current = match known {
            Some(index) => index,
            None => {
                let block = Tensor::new(&self.allocator, shape).map_err(|e| failed(&e))?;
                self.blocks.push(block);
                self.blocks.len() - 1
            }
        };
        let (_, values) = self.blocks[self.current].extract_tensor_mut();
        ArrayViewMut4::from_shape(shape, values).map_err(|e| failed(&e))
    }

    /// Memory that holds a copy of `images`.
    #[cfg(test)]
    pub fn of(images: &ndarray::Array4<f32>) -> Result<Self, RuntimeError> {
        let (count, channels, height, width) = images.dim();
        let mut memory = Self::new([channels, height, width]);
        memory.room(count)?.assign(images);
        Ok(memory)
    }

    /// The images in the block in use.
    ///
    /// # Errors
    /// When there is none.
    pub fn images(&self) -> Result<ArrayView4<'_, f32>, RuntimeError> {
        let block = self.block()?;
        let (_, values) = block.extract_tensor();
        let [channels, height, width] = self.image;
        let shape = [block.shape()[0] as usize, channels, height, width];
        ArrayView4::from_shape(shape, values).map_err(|e| failed(&e))
    }

    fn block(&self) -> Result<&Tensor<f32>, RuntimeError> {
        self.blocks.get(self.current).ok_or_else(|| failed(&"it holds no images"))
    }
}

fn failed(what: &dyn ToString) -> RuntimeError {
    RuntimeError::Memory { what: what.to_string() }
}

/// A network that answers batches of images in [`ImageMemory`].
#[derive(Debug)]
pub struct BoundSession {
    session: OrtSession,
    binding: IoBinding,
    name: String,
    provider: Provider,
    /// The names of the input and of the first output.
    ends: [String; 2],
    classes: usize,
    /// Memory for answers, a block for each number of images that occurs.
    answers: Vec<Tensor<f32>>,
    /// The number of images whose block is bound.
    bound: usize,
}

impl BoundSession {
    /// Binds `session`, which computes with `provider` and whose first output is `[N, classes]`.
    ///
    /// # Errors
    /// When ONNX Runtime fails, or the network lacks an input or output.
    pub fn new(session: Session, provider: Provider, classes: usize) -> Result<Self, RuntimeError> {
        let Session { session, name } = session;
        let error = |what: String| RuntimeError::Run { model: name.clone(), what };
        let [Some(input), Some(output)] = [session.inputs().first(), session.outputs().first()]
        else {
            return Err(error("it has no input, or no output".into()));
        };
        let ends = [input.name().to_owned(), output.name().to_owned()];
        let binding = session.create_binding().map_err(|e| error(e.to_string()))?;
        let (answers, bound) = (Vec::new(), 0);
        Ok(Self { session, binding, name, provider, ends, classes, answers, bound })
    }

    /// Memory for images of this shape, page-locked where a GPU reads it.
    pub fn image_memory(&self, image: [usize; 3]) -> ImageMemory {
        ImageMemory { allocator: self.allocator(MemoryType::CPUInput), ..ImageMemory::new(image) }
    }

    fn allocator(&self, kind: MemoryType) -> Allocator {
        let place = AllocationDevice::CUDA_PINNED;
        match self.provider {
            Provider::Cpu => Allocator::default(),
            // Other memory serves too, but slower.
            Provider::Cuda { .. } => MemoryInfo::new(place, 0, AllocatorType::Device, kind)
                .and_then(|info| Allocator::new(&self.session, info))
                .unwrap_or_default(),
        }
    }

    /// The first output `[N, classes]` for the images in `memory`.
    ///
    /// # Errors
    /// When ONNX Runtime fails, or the output has another shape.
    pub fn logits(&mut self, memory: &ImageMemory) -> Result<Array2<f32>, RuntimeError> {
        let block = memory.block()?;
        let name = self.name.clone();
        let failed =
            |what: &dyn ToString| RuntimeError::Run { model: name.clone(), what: what.to_string() };
        let count = block.shape()[0] as usize;
        self.bind_answers(count).map_err(|e| failed(&e))?;
        // A GPU's session copies the images there now, and not when it runs.
        self.binding.bind_input(self.ends[0].as_str(), block).map_err(|e| failed(&e))?;
        self.binding.synchronize_inputs().map_err(|e| failed(&e))?;
        let answers = self.session.run_binding(&self.binding).map_err(|e| failed(&e))?;
        self.binding.synchronize_outputs().map_err(|e| failed(&e))?;
        let (_, values) = answers[0].try_extract_tensor::<f32>().map_err(|e| failed(&e))?;
        Array2::from_shape_vec((count, self.classes), values.to_vec()).map_err(|e| failed(&e))
    }

    /// Binds the output to the block for answers on `count` images.
    fn bind_answers(&mut self, count: usize) -> Result<(), ort::Error> {
        if self.bound == count {
            return Ok(());
        }
        let known = self.answers.iter().position(|block| block.shape()[0] == count as i64);
        let index = match known {
            Some(index) => index,
            None => {
                let allocator = self.allocator(MemoryType::CPUOutput);
                self.answers.push(Tensor::new(&allocator, [count, self.classes])?);
                self.answers.len() - 1
            }
        };
        self.binding.bind_output(self.ends[1].as_str(), &mut self.answers[index])?;
        self.bound = count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bundle, Runtime, SessionOptions};
    use super::*;
    use ndarray::Array4;

    fn batch(count: usize, from: usize) -> Array4<f32> {
        Array4::from_shape_fn((count, 1, 28, 28), |(n, _, y, x)| {
            (((n + from) * 31 + y * 7 + x * 3) % 17) as f32 / 8.0 - 1.0
        })
    }

    #[test]
    fn bound_answers_are_the_same_bytes_whatever_was_asked_before() {
        let folder = crate::in_repository("onnx/fashion-mnist/resnet18-w16-supervised");
        let bundle = Bundle::load(&folder).unwrap();
        let options = SessionOptions { provider: Provider::Cpu, optimize: true, threads: 1 };
        let open =
            || Runtime::open(None).unwrap().session("x", &bundle.model, &[], options).unwrap();
        let mut plain = open();
        let mut bound = BoundSession::new(open(), Provider::Cpu, 10).unwrap();
        let mut memory = bound.image_memory([1, 28, 28]);
        let mut places = Vec::new();
        for (count, from) in [(6, 0), (2, 6), (6, 8), (2, 14), (1, 16)] {
            let images = batch(count, from);
            let mut room = memory.room(count).unwrap();
            places.push((count, room.as_mut_ptr()));
            room.assign(&images);
            assert_eq!(memory.images().unwrap(), images);
            let found = bound.logits(&memory).unwrap();
            assert_eq!(found, plain.logits(&images).unwrap(), "{count} images from {from}");
        }
        assert_eq!((places[0], places[1]), (places[2], places[3]), "memory is used again");
        assert_eq!((memory.blocks.len(), bound.answers.len()), (3, 3));
    }

    #[test]
    fn a_network_of_other_classes_is_an_error() {
        let folder = crate::in_repository("onnx/fashion-mnist/resnet18-w16-supervised");
        let bundle = Bundle::load(&folder).unwrap();
        let options = SessionOptions { provider: Provider::Cpu, optimize: true, threads: 1 };
        let session = Runtime::open(None).unwrap().session("x", &bundle.model, &[], options);
        let mut bound = BoundSession::new(session.unwrap(), Provider::Cpu, 9).unwrap();
        let error = bound.logits(&ImageMemory::of(&batch(2, 0)).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("ONNX Runtime failed to run `x`"), "{error}");
        let empty = ImageMemory::new([1, 28, 28]);
        assert!(bound.logits(&empty).unwrap_err().to_string().contains("holds no images"));
    }
}
