//! ONNX's backend tests and our own PyTorch goldens, one named test per case, gated by
//! `expectations.toml`.
//!
//! `python -m exporters.conformance` writes the cases to `target/conformance` (or to its argument,
//! for another cargo target directory). Only cases whose operators are all in the registry take
//! part. With `SCDD_UPDATE_CONFORMANCE=1` no test runs: `expectations.toml`,
//! `docs/conformance.json` and `docs/conformance.md` are rewritten.

mod case;
mod expectations;
mod gradient;
mod report;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use scdd::graph::ops;

use case::Case;
use expectations::Expectations;

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // Cases are small, so each runs on one thread.
    tch::set_num_threads(1);
    // Cargo's own folder for tests' files is `<target>/tmp`.
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("conformance");
    let cases = match Case::read_all(&root) {
        Ok(cases) if !cases.is_empty() => cases,
        _ => {
            let root = root.display();
            eprintln!(
                "error: {root} holds no cases; run `python -m exporters.conformance {root}` first"
            );
            return ExitCode::from(2);
        }
    };
    let expectations = Expectations::read(&path("tests/conformance/expectations.toml"));
    if std::env::var_os("SCDD_UPDATE_CONFORMANCE").is_some() {
        return update(&cases, &expectations.unwrap_or_default());
    }
    match expectations {
        Ok(expectations) => libtest_mimic::run(&arguments, trials(cases, expectations)).exit_code(),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn trials(cases: Vec<Case>, expectations: Expectations) -> Vec<Trial> {
    let expectations = Arc::new(expectations);
    let mut trials = vec![
        trial("expectations::no_row_without_a_case", {
            let stale = expectations.stale(&cases);
            move || {
                if stale.is_empty() {
                    Ok(())
                } else {
                    Err(format!("rows without a case: {}", stale.join(", ")))
                }
            }
        }),
        trial("gradient::every_differentiable_operator_has_a_case", {
            let missing = without_gradients(&cases);
            move || if missing.is_empty() { Ok(()) } else { Err(missing.join(", ")) }
        }),
        trial("docs::conformance_is_fresh", {
            let report = report::Report::new(&cases, &expectations);
            move || report.check_fresh()
        }),
    ];
    for case in cases {
        if gradient::has_gradients(&case) {
            let case = case.clone();
            trials.push(trial(&format!("gradient::{}", case.name), move || gradient::check(&case)));
        }
        let expectations = expectations.clone();
        let name = format!("{}::{}", case.set, case.name);
        trials.push(trial(&name, move || expectations.judge(&case, &case.run())));
    }
    trials
}

fn trial(name: &str, test: impl FnOnce() -> Result<(), String> + Send + 'static) -> Trial {
    Trial::test(name, move || test().map_err(Failed::from))
}

/// Differentiable operators that no case with gradients contains.
fn without_gradients(cases: &[Case]) -> Vec<String> {
    let tested: BTreeSet<&String> =
        cases.iter().filter(|c| gradient::has_gradients(c)).flat_map(|c| &c.operators).collect();
    let differentiable =
        ops::registry().filter(|spec| spec.differentiable).map(|spec| spec.name.to_owned());
    differentiable.filter(|name| !tested.contains(name)).collect()
}

fn update(cases: &[Case], old: &Expectations) -> ExitCode {
    let outcomes: Vec<_> = cases.iter().map(|case| (case, case.run())).collect();
    let expectations = old.updated(&outcomes);
    let written =
        std::fs::write(path("tests/conformance/expectations.toml"), expectations.to_toml())
            .and_then(|()| report::Report::new(cases, &expectations).write());
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
