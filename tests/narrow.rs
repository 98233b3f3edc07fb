//! Weight gradients of narrow convolutions by the replica, as on a processor without AVX-512.
//!
//! libtorch's own gradients hang, kill the process or are wrong there: `docs/processors.md`. So the
//! test runs in a process of its own.

mod common;

use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use common::net::{Net, Value};
use scdd::replica::{Mode, Replica, channels_last};
use tch::{Device, Kind, Tensor};

const CHILD: &str = "SCDD_TEST_NARROW";
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn gradients_without_avx512_are_right() {
    if std::env::var_os(CHILD).is_some() {
        return compare_with_float64();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "gradients_without_avx512_are_right", "--nocapture"]);
    command.env(CHILD, "1").env("ATEN_CPU_CAPABILITY", "avx2").env("ONEDNN_MAX_CPU_ISA", "AVX2");
    let ended = wait(command.spawn().unwrap()).expect("the process hangs");
    assert!(ended.success(), "the process ended with {ended}");
}

/// The exit status of `child`, or `None` if it had to be stopped.
fn wait(mut child: Child) -> Option<ExitStatus> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(ended) = child.try_wait().unwrap() {
            return Some(ended);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

fn compare_with_float64() {
    for width in 2..8 {
        for outputs in [8, 16] {
            for stride in [2, 4] {
                let error = gradient_error(width, outputs, stride);
                assert!(error < 1e-5, "{width} to {outputs} channels, stride {stride}: {error:e}");
            }
        }
    }
}

/// The relative error of the gradient of the second convolution's weights, compared with float64.
fn gradient_error(width: usize, outputs: usize, stride: i64) -> f64 {
    let (mut net, x): (Net, Value) = Net::new(7);
    let wide = net.conv(&x, width, 3, 1, 1, true);
    let narrow = net.conv(&wide, outputs, 1, stride, 1, false);
    let name = net
        .initializers
        .iter()
        .rev()
        .find(|t| t.dims.len() == 4)
        .and_then(|t| t.name.clone())
        .unwrap();
    let graph = net.finish(&narrow);
    tch::manual_seed(3);
    let images = Tensor::randn([5, 3, 28, 28], (Kind::Float, Device::Cpu));
    let gradient = |kind: Kind| {
        let replica = Replica::new(graph.clone(), Device::Cpu).unwrap().to_kind(kind).unwrap();
        let weight = replica.constant(&name).unwrap().set_requires_grad(true);
        let input = channels_last(&images.to_kind(kind)).unwrap();
        let logits = replica.run(&[input], &[], Mode::Train).unwrap().outputs.remove(0);
        Tensor::run_backward(&[logits.square().sum(kind)], &[weight], false, false)
            .remove(0)
            .to_kind(Kind::Double)
    };
    let (found, exact) = (gradient(Kind::Float), gradient(Kind::Double));
    f64::try_from((found - &exact).norm() / exact.norm()).unwrap()
}
