//! `scdd report`: writes the report of a complete experiment again, or compares several.

use std::path::{Path, PathBuf};

use anyhow::ensure;

use super::{CommandOutcome, Global};
use scdd_artifacts::stage::fill;
use scdd_experiment::config::Experiment;
use scdd_experiment::report::{self, Results};
use scdd_experiment::run::{Goal, Run};

/// Write the report of a complete experiment again, or compare several; makes no stage
#[derive(clap::Args)]
pub struct Report {
    /// Experiment files, directories of reports, or snapshots (.json)
    #[arg(required = true, value_name = "EXPERIMENT")]
    experiments: Vec<PathBuf>,
    /// Override a key in every experiment file, for example --set name=other
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The output directory: stages are in DIR/stages; the report of one experiment goes to
    /// DIR/<experiment's name>
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
    /// Write the comparison's page and tables into this directory, whose name becomes its title
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Also write the table as Markdown, with its charts as SVG files beside it
    #[arg(long, value_name = "FILE.md")]
    markdown: Option<PathBuf>,
    /// Show in it accuracy beside what the teachers' statistics hold: the inspect.json that `scdd
    /// inspect TEACHER… --out DIR` wrote
    #[arg(long, value_name = "FILE.json", requires = "markdown")]
    inspected: Option<PathBuf>,
    /// Also write the table with its costs, and everything that this command needs to show it
    /// again, as one small file
    #[arg(long, value_name = "FILE.json")]
    snapshot: Option<PathBuf>,
}

impl Report {
    pub fn run(self, global: &Global) -> anyhow::Result<CommandOutcome> {
        if let ([experiment], None) = (self.experiments.as_slice(), &self.to)
            && !is_report(experiment)
        {
            let (results, home) = self.rewrite(experiment)?;
            self.write_for_repository(&results)?;
            return print(global, &results, Some(&home));
        }
        if let Some(directory) = &self.to {
            report::check(directory)?;
        }
        let reports = self
            .experiments
            .iter()
            .map(|one| self.read(one))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let name = self
            .to
            .as_deref()
            .and_then(Path::file_name)
            .map_or("comparison".into(), |name| name.to_string_lossy());
        let merged = report::merge(&name, reports)?;
        if let Some(directory) = &self.to {
            fill(directory, &tell, |directory| -> anyhow::Result<()> {
                report::write(&merged, directory)?;
                Ok(())
            })?;
        }
        self.write_for_repository(&merged)?;
        print(global, &merged, self.to.as_deref())
    }

    fn write_for_repository(&self, results: &Results) -> anyhow::Result<()> {
        if let Some(path) = &self.snapshot {
            report::write_snapshot(results, path)?;
        }
        let Some(path) = &self.markdown else { return Ok(()) };
        let experiments: Vec<String> =
            self.experiments.iter().map(|one| one.display().to_string()).collect();
        let mut command =
            format!("scdd report {} --markdown {}", experiments.join(" "), path.display());
        if let Some(inspected) = &self.inspected {
            command += &format!(" --inspected {}", inspected.display());
        }
        Ok(report::write_markdown(results, path, self.inspected.as_deref(), &command)?)
    }

    /// The existing report, or the results of an experiment file's stages.
    fn read(&self, experiment: &Path) -> anyhow::Result<Results> {
        if !is_report(experiment) {
            return Ok(self.rewrite(experiment)?.0);
        }
        ensure!(
            self.overrides.is_empty(),
            "--set is for experiment files, {} is a report",
            experiment.display()
        );
        Ok(report::read(experiment)?)
    }

    /// Writes the report of one experiment again. Returns it and its directory.
    fn rewrite(&self, experiment: &Path) -> anyhow::Result<(Results, PathBuf)> {
        let experiment = Experiment::load(experiment, &self.overrides)?;
        let finished = Run::open(&experiment, &self.output, Goal::Report, tell)?.collect(&tell)?;
        Ok((finished.results, self.output.join(&experiment.name)))
    }
}

fn tell(what: &str) {
    eprintln!("{what}");
}

/// Whether `path` is a report to read, not an experiment file.
fn is_report(path: &Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|extension| extension == "json")
}

/// Prints the table, and the page's path.
pub fn print(
    global: &Global,
    results: &Results,
    home: Option<&Path>,
) -> anyhow::Result<CommandOutcome> {
    if global.json {
        let summaries = report::summaries(&results.rows);
        let costs = summaries.iter().map(|summary| {
            serde_json::json!({"seconds_per_image": summary.seconds_per_image, "peak_bytes": summary.peak_bytes})
        });
        let found = serde_json::json!({
            "directories": home.into_iter().collect::<Vec<_>>(),
            "costs": costs.collect::<Vec<_>>(),
            "comparisons": report::comparisons(&results.rows),
            "summaries": summaries,
            "failed": results.failed,
        });
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(CommandOutcome::Done);
    }
    println!("{}", report::table(results));
    if let Some(home) = home {
        println!("report: {}", home.join("report.html").display());
    }
    Ok(CommandOutcome::Done)
}
