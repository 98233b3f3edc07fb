//! One image per class out of a teacher's BN statistics, with an optimiser of one's own:
//! `cargo run --release --example own_loop -- onnx/fashion-mnist/resnet18-w16-supervised images`.

use std::path::{Path, PathBuf};

use ndarray::Array4;
use scdd::data::png;
use scdd::synthesis::{PlanOptions, SynthesisPlan};
use scdd::teacher::{Bundle, Network};
use tch::{Device, Kind, Tensor};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [bundle, directory] = arguments.as_slice() else {
        anyhow::bail!("name the teacher's bundle and a directory for the images");
    };
    recover(bundle, directory)?;
    Ok(())
}

/// Writes the images into `directory`. Returns the cross entropy at each step.
pub fn recover(bundle: &Path, directory: &Path) -> anyhow::Result<Vec<f64>> {
    let teacher = Bundle::load(bundle)?;
    let classes = teacher.manifest.classes.len();
    let [channels, height, width] = teacher.image_shape();
    let shape = [classes, channels, height, width];
    // SC-DD's loss: cross entropy + 0.01 · BN statistics, of which the first layer counts tenfold.
    let objective = teacher.objective(0.01, 10.0, Device::Cpu);
    let mut plan = SynthesisPlan::compile(
        &teacher.graph,
        &objective,
        shape.map(|side| side as i64),
        PlanOptions::default(),
    )?;
    let targets = Tensor::arange(classes as i64, (Kind::Int64, Device::Cpu));
    tch::manual_seed(0);
    let mut images = Tensor::randn(shape.map(|side| side as i64), (Kind::Float, Device::Cpu));
    let mut losses = Vec::new();
    for step in 0..100 {
        let found = plan.evaluate(&images, &targets)?;
        if step % 20 == 0 {
            println!("{step:3} cross entropy {:.2}, BN statistics {:.0}", found.ce, found.bn);
        }
        losses.push(found.ce);
        images -= found.gradient.sign() * 0.05;
    }
    let values = Vec::<f32>::try_from(images.flatten(0, -1))?;
    let pixels = teacher.normalization()?.to_pixels(&Array4::from_shape_vec(shape, values)?)?;
    std::fs::create_dir_all(directory)?;
    for (image, name) in pixels.chunks_exact(channels * height * width).zip(0..) {
        let file = directory.join(png::file_name(name));
        std::fs::write(file, png::encode(image, channels, height, width)?)?;
    }
    Ok(losses)
}
