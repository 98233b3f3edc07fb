//! Inspections as plain text: tables for the terminal, and CSV.

use super::estimators::QUANTILES;
use super::{Gradients, Informativeness, Inspection, ValueSpread};
use crate::recover::balance::Term;
use scdd_experiment::report::ReportError;
use scdd_experiment::report::text::aligned;

/// The network-wide figures and the gradients of all teachers.
pub fn table(teachers: &[Inspection]) -> String {
    let heads = [
        "teacher",
        "scheme",
        "channels",
        "RMS",
        "entropy",
        "scale-free",
        "normal",
        "scale-free",
        "eff. rank",
        "scale-free",
    ];
    let mut text = String::new();
    for (title, of) in [
        ("running means", (|t| &t.mean) as fn(&Inspection) -> &ValueSpread),
        ("running variances", |t| &t.var),
    ] {
        text += &format!(
            "{title} of all layers (entropies in nats, effective rank in % of the channels)\n"
        );
        let mut lines = vec![heads.map(str::to_owned)];
        lines.extend(teachers.iter().map(|teacher| spread(teacher, of(teacher))));
        text += &format!("{}\n", aligned(&lines));
    }
    let heads =
        ["teacher", "at", "CE", "its gradient", "BN loss", "its gradient", "balancing r_bn"];
    text += "loss terms and the L2 norms of their gradients, of all images together\n";
    let mut lines = vec![heads.map(str::to_owned)];
    lines.extend(teachers.iter().flat_map(|t| t.gradients.iter().map(|g| gradients(&t.bundle, g))));
    text + &aligned(&lines)
}

fn spread(teacher: &Inspection, spread: &ValueSpread) -> [String; 10] {
    let rank = |content: &Informativeness| share(content.effective_rank, teacher.channels);
    let (raw, free) = (&spread.raw, &spread.scale_free);
    [
        teacher.bundle.clone(),
        teacher.scheme.clone().unwrap_or_else(|| "–".into()),
        teacher.channels.to_string(),
        number(Some(spread.rms)),
        number(raw.entropy),
        number(free.entropy),
        number(raw.gaussian_entropy),
        number(free.gaussian_entropy),
        rank(raw),
        rank(free),
    ]
}

fn gradients(bundle: &str, gradients: &Gradients) -> [String; 7] {
    let (ce, bn) = (gradients.terms.ce, gradients.terms.bn);
    let part = |term: Option<Term>, of: fn(Term) -> f64| significant(term.map(of));
    [
        bundle.to_owned(),
        format!("{} × {}", gradients.images, gradients.at),
        part(ce, |t| t.loss),
        part(ce, |t| t.gradient_norm),
        part(bn, |t| t.loss),
        part(bn, |t| t.gradient_norm),
        significant(gradients.balance),
    ]
}

/// The value with two decimals.
pub(super) fn number(value: Option<f64>) -> String {
    value.map_or("–".into(), |v| format!("{v:.2}").replace('-', "−"))
}

/// The value with three significant digits.
pub(super) fn significant(value: Option<f64>) -> String {
    value.map_or("–".into(), |v| match v.abs() {
        size if size >= 100.0 => format!("{v:.0}"),
        size if size >= 0.01 => {
            format!("{v:.*}", (2 - size.log10().floor() as i32).max(0) as usize)
        }
        _ => format!("{v:.2e}"),
    })
}

/// An effective rank as a percentage of the channels.
pub(super) fn share(rank: Option<f64>, channels: usize) -> String {
    rank.map_or("–".into(), |rank| format!("{:.0}", 100.0 * rank / channels as f64))
}

/// One line per teacher, layer and statistic.
pub(super) fn csv(teachers: &[Inspection]) -> Result<String, ReportError> {
    let format = |message: String| ReportError::Format { format: "CSV", message };
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut head: Vec<String> =
        ["teacher", "scheme", "layer", "key", "channels", "statistic", "rms"]
            .map(str::to_owned)
            .into();
    for kind in ["raw", "scale_free"] {
        head.extend(QUANTILES.map(|share| format!("{kind}_q{:02.0}", 100.0 * share)));
        head.extend(
            ["entropy", "gaussian_entropy", "effective_rank"].map(|name| format!("{kind}_{name}")),
        );
    }
    writer.write_record(&head).map_err(|e| format(e.to_string()))?;
    for teacher in teachers {
        for (index, layer) in teacher.layers.iter().enumerate() {
            for (statistic, spread) in [("running_mean", &layer.mean), ("running_var", &layer.var)]
            {
                let mut record = vec![
                    teacher.bundle.clone(),
                    teacher.scheme.clone().unwrap_or_default(),
                    index.to_string(),
                    layer.key.clone(),
                    layer.channels.to_string(),
                    statistic.to_owned(),
                    spread.rms.to_string(),
                ];
                for content in [&spread.raw, &spread.scale_free] {
                    record.extend(content.quantiles.map(|q| q.to_string()));
                    let figures =
                        [content.entropy, content.gaussian_entropy, content.effective_rank];
                    record.extend(
                        figures.map(|figure| figure.map_or(String::new(), |f| f.to_string())),
                    );
                }
                writer.write_record(&record).map_err(|e| format(e.to_string()))?;
            }
        }
    }
    let bytes = writer.into_inner().map_err(|e| format(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| format(e.to_string()))
}
