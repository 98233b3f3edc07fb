//! One case on disk: a model, its inputs and the expected outputs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use scdd::graph::proto::{ModelProto, TensorProto};
use scdd::graph::{Constant, Graph, ops};
use scdd::replica::{Mode, Replica, tensor_of};
use tch::{Device, Kind, Tensor};

/// The tolerances of ONNX's own runner.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-7;

/// The outcome of a case.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Pass,
    /// The case did not load or run.
    Unsupported(String),
    /// The case ran and gave another result.
    Mismatch(String),
}

#[derive(Debug, Clone)]
pub struct Case {
    pub set: String,
    pub name: String,
    pub dir: PathBuf,
    /// Operators of the default domain other than `Constant`, which is data.
    pub operators: BTreeSet<String>,
}

impl Case {
    /// The cases of every set under `root` whose operators are all in the registry, sorted.
    pub fn read_all(root: &Path) -> std::io::Result<Vec<Case>> {
        let mut cases = Vec::new();
        for set in folders(root)? {
            for dir in folders(&set)? {
                let operators = operators(&std::fs::read(dir.join("model.onnx"))?);
                if operators.iter().all(|(domain, op)| ops::find(domain, op).is_some()) {
                    let operators = operators.into_iter().map(|(_, op)| op).collect();
                    cases.push(Case {
                        set: file_name(&set),
                        name: file_name(&dir),
                        dir,
                        operators,
                    });
                }
            }
        }
        Ok(cases)
    }

    pub fn run(&self) -> Outcome {
        let outputs = match self.outputs() {
            Ok(outputs) => outputs,
            Err(what) => return Outcome::Unsupported(what),
        };
        for (i, found) in outputs.iter().enumerate() {
            match self.tensor("output", i) {
                Ok(None) => {}
                Ok(Some(expected)) => {
                    if let Some(what) = difference(found, &expected) {
                        return Outcome::Mismatch(format!("output {i}: {what}"));
                    }
                }
                Err(what) => return Outcome::Unsupported(what),
            }
        }
        Outcome::Pass
    }

    fn outputs(&self) -> Result<Vec<Tensor>, String> {
        let replica = self.replica()?;
        let inputs = self.tensors("input")?;
        tch::no_grad(|| replica.run(&inputs, &[], Mode::Eval))
            .map(|run| run.outputs)
            .map_err(|e| e.to_string())
    }

    pub fn replica(&self) -> Result<Replica, String> {
        let bytes = std::fs::read(self.dir.join("model.onnx")).map_err(|e| e.to_string())?;
        let graph = Graph::load(&bytes).map_err(|e| e.to_string())?;
        Replica::new(Arc::new(graph), Device::Cpu).map_err(|e| e.to_string())
    }

    /// All of `<role>_0.pb`, `<role>_1.pb`, …
    pub fn tensors(&self, role: &str) -> Result<Vec<Tensor>, String> {
        (0..).map_while(|i| self.tensor(role, i).transpose()).collect()
    }

    pub fn tensor(&self, role: &str, index: usize) -> Result<Option<Tensor>, String> {
        let path = self.dir.join(format!("{role}_{index}.pb"));
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(|e| e.to_string())?;
        let proto =
            TensorProto::decode(bytes.as_slice()).map_err(|e| format!("{role} {index}: {e}"))?;
        let constant = Constant::read(&proto).map_err(|e| e.to_string())?;
        tensor_of(&constant).map(Some).map_err(|e| e.to_string())
    }
}

fn folders(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    let mut folders: Vec<_> = entries.into_iter().filter(|p| p.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `(domain, operator)` of every node. An undecodable file gives none, and fails when it is run.
fn operators(model: &[u8]) -> BTreeSet<(String, String)> {
    let graph = ModelProto::decode(model).ok().and_then(|m| m.graph).unwrap_or_default();
    let names = graph
        .node
        .into_iter()
        .map(|n| (n.domain.unwrap_or_default(), n.op_type.unwrap_or_default()));
    names.filter(|(_, op)| op != "Constant").collect()
}

/// The difference, or `None` if both agree.
pub fn difference(found: &Tensor, expected: &Tensor) -> Option<String> {
    if found.size() != expected.size() || found.kind() != expected.kind() {
        return Some(format!(
            "{:?} {:?} where {:?} {:?} is expected",
            found.kind(),
            found.size(),
            expected.kind(),
            expected.size()
        ));
    }
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let close = found.isclose(&expected, RELATIVE, ABSOLUTE, true);
    if bool::try_from(close.all()).unwrap_or(false) {
        return None;
    }
    let worst = (&found - &expected)
        .abs()
        .masked_fill(&close, -1.0)
        .reshape([-1])
        .argmax(0, false)
        .int64_value(&[]);
    let at = |t: &Tensor| t.reshape([-1]).double_value(&[worst]);
    Some(format!("element {worst} is {:e} where {:e} is expected", at(&found), at(&expected)))
}
