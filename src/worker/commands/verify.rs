//! `scdd verify`: checks that a bundle computes the same as its golden probe in ONNX Runtime and in
//! libtorch, and that its classes are those of a data set.

use scdd_cli::{CommandOutcome, Global, Verify};
use scdd_compute::threads::Threads;
use serde::Serialize;

use super::data::{CLASS_REMEDY, test_images};
use super::open_runtime;
use crate::device::ComputeDevice;
use scdd_data::Dataset;
use scdd_data::place::printable;
use scdd_distill::teacher::classes::{self, Sides};
use scdd_distill::teacher::{
    Bundle, Check, Measured, NetworkError, Role, Runtime, Verification, measure, percent, verify,
    verify_plan,
};

/// The result for one bundle: its verification, and its check on data.
#[derive(Serialize)]
struct Verdict {
    #[serde(flatten)]
    verification: Verification,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<OnData>,
}

/// How a bundle's classes fit a data set.
#[derive(Serialize)]
struct OnData {
    data: String,
    /// The measurement, where the network could be run on the data.
    measured: Option<Measured>,
    /// The top-1 accuracy in the manifest, 0..=1.
    recorded: Option<f64>,
    remarks: Vec<String>,
    /// Why the bundle's labels would be wrong.
    problem: Option<String>,
}

impl Verdict {
    fn passed(&self) -> bool {
        self.verification.passed() && self.data.as_ref().is_none_or(|data| data.problem.is_none())
    }
}

pub fn run(command: &Verify, global: &Global) -> anyhow::Result<CommandOutcome> {
    let runtime = open_runtime(global)?;
    let place = command.device.map(|device| ComputeDevice::open(device, command.precision));
    let place = match place.transpose()? {
        Some((place, no_cuda)) => {
            eprintln!("{}", place.told(no_cuda.as_ref()));
            Some(place)
        }
        None => None,
    };
    let mut verdicts = Vec::new();
    for dir in &command.bundles {
        let bundle = Bundle::load(dir)?;
        let mut verification =
            verify(&bundle, &runtime, &Threads::all(), &|what| eprintln!("{what}"))?;
        if let Some(place) = &place {
            verification.checks.extend(on_device(&bundle, place)?);
        }
        let data = match &command.data {
            Some(data) => Some(on_data(&bundle, &test_images(data, &bundle)?, &runtime)?),
            None => None,
        };
        let verdict = Verdict { verification, data };
        if !global.json {
            print(&verdict);
        }
        verdicts.push(verdict);
    }
    if global.json {
        println!("{}", serde_json::to_string_pretty(&verdicts)?);
    }
    Ok(if verdicts.iter().all(Verdict::passed) {
        CommandOutcome::Done
    } else {
        CommandOutcome::CheckFailed
    })
}

/// The checks of the plan that recovers images on `place`.
fn on_device(bundle: &Bundle, place: &ComputeDevice) -> Result<Vec<Check>, NetworkError> {
    let checks = verify_plan(bundle, place.plan_options(&Threads::all()), place.arithmetic())?;
    let named = |check: Check| Check { name: format!("plan on {place}: {}", check.name), ..check };
    Ok(checks.into_iter().map(named).collect())
}

/// Compares the bundle's class names with those of `test`, and measures a teacher on it.
fn on_data(bundle: &Bundle, test: &Dataset, runtime: &Runtime) -> anyhow::Result<OnData> {
    let manifest = &bundle.manifest;
    let recorded = manifest.accuracy.as_ref().map(|accuracy| accuracy.top1);
    let mut found = OnData {
        data: test.name.clone(),
        measured: None,
        recorded,
        remarks: Vec::new(),
        problem: None,
    };
    if manifest.is_features_only() {
        found.remarks.push("a features-only bundle has no classes to compare".into());
        return Ok(found);
    }
    let sides = Sides { network: "the bundle", other: &test.name, remedy: CLASS_REMEDY };
    match classes::check(&manifest.classes, &test.classes, &sides) {
        Ok(remark) => found.remarks.extend(remark),
        Err(problem) => found.problem = Some(problem),
    }
    let is_measurable =
        manifest.role == Role::Teacher && manifest.classes.len() == test.classes.len();
    if is_measurable {
        let measured = measure(bundle, runtime, test, &Threads::all(), &mut |_| ())?;
        match measured.judge(manifest, &test.name, &test.classes) {
            Ok(remark) => found.remarks.extend(remark),
            Err(problem) => found.problem = Some(problem),
        }
        found.measured = Some(measured);
    }
    Ok(found)
}

fn print(verdict: &Verdict) {
    let verification = &verdict.verification;
    println!("{} ({}…)", verification.bundle, &verification.hash[..12]);
    for warning in &verification.warnings {
        println!("  warning: {}", printable(warning));
    }
    for check in &verification.checks {
        let mark = if check.passed { "ok    " } else { "FAILED" };
        println!("  {mark} {:<66} {:9.2e} (limit {:.0e})", check.name, check.error, check.limit);
    }
    if let Some(divergence) = &verification.divergence {
        println!("  {}", printable(divergence));
    }
    if let Some(data) = &verdict.data {
        print_data(data);
    }
    println!("  {}", if verdict.passed() { "verified" } else { "NOT verified" });
}

fn print_data(data: &OnData) {
    if let Some(measured) = &data.measured {
        let mark = if data.problem.is_none() { "ok    " } else { "FAILED" };
        let recorded = data.recorded.map_or("no accuracy".into(), percent);
        let found = percent(measured.accuracy());
        println!(
            "  {mark} top-1 on {} test images of {}: {found} (its manifest says {recorded})",
            measured.images, data.data
        );
    }
    data.remarks.iter().for_each(|remark| println!("  note: {}", printable(remark)));
    if let Some(problem) = &data.problem {
        println!("  {}", printable(problem));
    }
}
