//! `docs/conformance.json` and `docs/conformance.md`: the gate's rows, counted by operator and by
//! set.

use std::collections::BTreeMap;
use std::fmt::Write;

use scdd::graph::ops;
use scdd::graph::support::{Conformance, Tally};

use crate::case::Case;
use crate::expectations::{Expectations, Row};
use crate::path;

const JSON: &str = "docs/conformance.json";
const MARKDOWN: &str = "docs/conformance.md";
const COMMAND: &str = "SCDD_UPDATE_CONFORMANCE=1 cargo test --release --test conformance";

/// Kind of failure → reason → cases.
type Open = BTreeMap<&'static str, BTreeMap<String, Vec<String>>>;

pub struct Report {
    json: String,
    markdown: String,
}

impl Report {
    pub fn new(cases: &[Case], expectations: &Expectations) -> Self {
        let mut found = Conformance { command: COMMAND.into(), ..Default::default() };
        let mut open = Open::new();
        for spec in ops::registry() {
            found.operators.insert(spec.name.into(), Tally::default());
        }
        for case in cases {
            let row = expectations.row(case);
            let passed = row == Some(&Row::Pass);
            found.sets.entry(case.set.clone()).or_default().count(passed);
            for operator in &case.operators {
                found.operators.entry(operator.clone()).or_default().count(passed);
            }
            let (title, why) = match row {
                Some(Row::Unsupported(why)) => ("Unsupported", why),
                Some(Row::Mismatch(why)) => ("Mismatch", why),
                Some(Row::Wontfix(why)) => ("Won't fix", why),
                Some(Row::Pass) | None => continue,
            };
            // The prefix `node … (Op): ` or `tensor …: ` gives the place; the reason follows it.
            let reason = why.rsplit_once(": ").map_or(why.as_str(), |(_, reason)| reason);
            let cases = open.entry(title).or_default().entry(reason.to_owned()).or_default();
            cases.push(format!("{}::{}", case.set, case.name));
        }
        let json = serde_json::to_string_pretty(&found).unwrap_or_default() + "\n";
        Self { json, markdown: markdown(&found, &open) }
    }

    pub fn write(&self) -> std::io::Result<()> {
        std::fs::write(path(JSON), &self.json)?;
        std::fs::write(path(MARKDOWN), &self.markdown)
    }

    pub fn check_fresh(&self) -> Result<(), String> {
        for (file, wanted) in [(JSON, &self.json), (MARKDOWN, &self.markdown)] {
            let found = std::fs::read_to_string(path(file)).map_err(|e| format!("{file}: {e}"))?;
            if found != *wanted {
                return Err(format!("{file} is out of date; run `{COMMAND}`"));
            }
        }
        Ok(())
    }
}

fn markdown(found: &Conformance, open: &Open) -> String {
    let mut text = format!(
        "# Conformance\n\nThe operators of the registry against ONNX's own test cases and our PyTorch goldens: cases whose graph holds the operator,\n\
         and nothing that the registry lacks. Written by `{COMMAND}`.\n\n| set | passed | total |\n| --- | --: | --: |\n"
    );
    for (set, tally) in &found.sets {
        let _ = writeln!(text, "| {set} | {} | {} |", tally.passed, tally.total);
    }
    text.push_str("\n| operator | opsets | differentiable | passed | total |\n| --- | --- | --- | --: | --: |\n");
    let mut specs: Vec<_> = ops::registry().collect();
    specs.sort_by_key(|spec| spec.name);
    for spec in specs {
        let tally = found.operators.get(spec.name).copied().unwrap_or_default();
        let gradient = if spec.differentiable { "yes" } else { "no" };
        let _ = writeln!(
            text,
            "| {} | {}+ | {gradient} | {} | {} |",
            spec.name, spec.since, tally.passed, tally.total
        );
    }
    for (title, reasons) in open {
        let _ = write!(text, "\n## {title}\n\n");
        for (reason, cases) in reasons {
            let _ = writeln!(text, "- {reason} ({}): {}", cases.len(), cases.join(", "));
        }
    }
    text
}
