//! Faults of an ONNX file, each with its place.

use std::fmt;

/// An unsupported feature, with every node that uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// An unsupported operator (`Conv`, or `com.microsoft::FusedConv` outside the default domain),
    /// or the unsupported part of a known operator.
    pub what: String,
    pub nodes: Vec<String>,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        write!(
            f,
            "{} ×{} ({}",
            self.what,
            self.nodes.len(),
            self.nodes[..self.nodes.len().min(SHOWN)].join(", ")
        )?;
        if self.nodes.len() > SHOWN {
            write!(f, ", …")?;
        }
        write!(f, ")")
    }
}

fn list(operators: &[Gap], uses: &[Gap]) -> String {
    /// The number of kinds of gaps that are listed; further ones are only counted.
    const SHOWN: usize = 8;
    let part = |title: &str, gaps: &[Gap]| {
        let mut shown: Vec<String> = gaps.iter().take(SHOWN).map(ToString::to_string).collect();
        if gaps.len() > SHOWN {
            shown.push(format!("and {} more kinds", gaps.len() - SHOWN));
        }
        (!gaps.is_empty()).then(|| format!("{title}: {}", shown.join("; ")))
    };
    if let Some(what) = rewritten(operators) {
        return what;
    }
    let parts =
        [part("unsupported operators", operators), part("unsupported of known operators", uses)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The error text for graphs that were rewritten for inference. They are quantised, which leaves no
/// gradients, or hold operators of one runtime, so only these operators are listed.
fn rewritten(operators: &[Gap]) -> Option<String> {
    let counted = |is_such: fn(&str) -> bool| {
        let mut such: Vec<&Gap> = operators.iter().filter(|gap| is_such(&gap.what)).collect();
        such.sort_by_key(|gap| std::cmp::Reverse(gap.nodes.len()));
        let shown: Vec<String> =
            such.iter().take(3).map(|gap| format!("{} ×{}", gap.what, gap.nodes.len())).collect();
        let rest = such.len().saturating_sub(3);
        let more = if rest == 0 { String::new() } else { format!(" and {rest} more kinds") };
        (!such.is_empty()).then(|| shown.join(", ") + &more)
    };
    if let Some(nodes) = counted(is_quantised) {
        return Some(format!(
            "the graph is quantised ({nodes}), which leaves no gradients: export the float32 network that it was made of"
        ));
    }
    let nodes = counted(|name| name.contains("::"))?;
    Some(format!(
        "the graph has operators outside ONNX ({nodes}), as ONNX Runtime's optimiser writes them: use the file from before \
         that, or export the network without operators of your own"
    ))
}

fn is_quantised(operator: &str) -> bool {
    let name = operator.rsplit("::").next().unwrap_or(operator);
    name.starts_with("QLinear")
        || name.ends_with("Integer")
        || name.ends_with("QuantizeLinear")
        || name == "DequantizeLinear"
}

/// Why a [`Graph`](super::Graph) could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    #[error("not a readable ONNX file (truncated or corrupt): {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("the ONNX model {0}")]
    Model(String),
    /// All unsupported features: operators that the registry lacks, and nodes of known operators
    /// that can't be read.
    #[error("{}", list(.operators, .uses))]
    Unsupported { operators: Vec<Gap>, uses: Vec<Gap> },
    #[error("node `{node}` ({op}): {what}")]
    Node { node: String, op: String, what: String },
    #[error("tensor `{name}`: {what}")]
    Tensor { name: String, what: String },
}

impl GraphError {
    pub(super) fn tensor(name: &str, what: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), what: what.into() }
    }
}
