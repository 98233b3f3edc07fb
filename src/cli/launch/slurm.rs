//! `scdd launch slurm`: a job array for each command that can be divided, and between them jobs
//! that check it.
//!
//! ```text
//! recover[array] ─afterany─► gate ─afterok─► relabel[array] ─afterany─► gate ─afterok─► …
//! ```
//!
//! Slurm never calls an array successful of which a task was requeued after a failure, so that
//! `afterok` is said of single jobs only; the gates find out what is missing from the stages.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::job::{BatchJob, JobSettings};
use super::slurm_client as client;
use crate::{CommandOutcome, Global};
use scdd_artifacts::stage::write_atomic;
use scdd_experiment::config::{Device, Experiment};
use scdd_experiment::run::shards::{Division, OpenGoal, array, open_goals};
use scdd_experiment::run::{Goal, RESOLVED};

/// The folder of job files and logs below an output directory.
const FOLDER: &str = "slurm";
/// The file of all submitted jobs in that folder.
const JOBS: &str = "jobs.jsonl";

/// Submit an experiment to Slurm as job arrays that share its stages, with jobs between them that
/// check them; writes job files and logs below DIR/slurm
#[derive(clap::Args)]
pub struct Slurm {
    /// The experiment's YAML file
    #[arg(value_name = "EXPERIMENT.yaml")]
    experiment: PathBuf,
    /// Override a key, for example --set recover.iterations=100
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The output directory, on a file system that all nodes share
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
    /// Divide each command into N tasks; kept in DIR/shards, so later launches may leave it out
    #[arg(long, value_name = "N")]
    shards: Option<NonZeroU32>,
    /// Run at most K tasks of an array at once
    #[arg(long, value_name = "K")]
    max_running: Option<NonZeroU32>,
    /// GPUs of each task; by default 1, or 0 with `device: cpu`
    #[arg(long, value_name = "G")]
    gpus: Option<u32>,
    /// The time limit of each task; a task whose time is nearly up keeps its state and is requeued
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    /// The partition
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// A further option of sbatch for every job, for example --sbatch-arg=--mem=32G
    #[arg(long = "sbatch-arg", value_name = "OPTION", allow_hyphen_values = true)]
    options: Vec<String>,
    /// Submit only what is missing of an experiment that was launched before
    #[arg(long)]
    resume: bool,
    /// Print the job files only
    #[arg(long)]
    dry_run: bool,
}

/// A submitted job, one line of the file of jobs.
#[derive(Debug, Serialize, Deserialize)]
struct Submitted {
    experiment: String,
    id: u64,
    job: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    array: Option<String>,
    file: PathBuf,
}

impl Slurm {
    pub fn run(self, global: &Global) -> anyhow::Result<CommandOutcome> {
        let experiment = Experiment::load(&self.experiment, &self.overrides)?;
        let output = std::path::absolute(&self.output)?;
        if !self.dry_run {
            self.check_queue(&output, &experiment.name)?;
        }
        let division = Division::settle(&experiment, &output, self.shards)?;
        let open = open_goals(&experiment, &output, division.shards)?;
        if open.is_empty() && output.join(&experiment.name).join(RESOLVED).is_file() {
            println!("nothing is missing of `{}` in {}", experiment.name, output.display());
            return Ok(CommandOutcome::Done);
        }
        let settings = self.settings(&experiment, &output, division.shards)?;
        let jobs = self.jobs(&open);
        if self.dry_run {
            for job in &jobs {
                println!("# {}\n{}", job.path(&settings).display(), job.script(&settings));
            }
            return Ok(CommandOutcome::Done);
        }
        let (shards, most) = (division.shards, client::max_array_size()?);
        ensure!(
            shards.get() <= most,
            "{shards} shards are more than this cluster's job arrays hold (MaxArraySize {most}): divide into at most {most}"
        );
        Division::freeze(&experiment, &output, self.shards)?;
        write_atomic(&settings.experiment, experiment.to_yaml()?.as_bytes())?;
        let submitted = submit_all(&jobs, &settings, &output.join(FOLDER).join(JOBS))?;
        print(global, &submitted, &settings)
    }

    /// Checks that the experiment was launched before if it is to be resumed, and else was not, and
    /// that none of its jobs is in the queue.
    fn check_queue(&self, output: &Path, name: &str) -> anyhow::Result<()> {
        let known = known_jobs(&output.join(FOLDER).join(JOBS), name)?;
        let queued = client::in_queue(&known)?;
        let ids = |jobs: &[u64]| jobs.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        if !queued.is_empty() {
            let ids = ids(&queued);
            bail!("jobs of `{name}` are still in the queue: wait for them, or `scancel {ids}`");
        }
        match (known.is_empty(), self.resume) {
            (true, true) => {
                bail!("`{name}` was not launched in {} yet: leave out `--resume`", output.display())
            }
            (false, false) => bail!(
                "`{name}` was launched before in {}: `--resume` submits what is missing",
                output.display()
            ),
            _ => Ok(()),
        }
    }

    fn settings(
        &self,
        experiment: &Experiment,
        output: &Path,
        shards: NonZeroU32,
    ) -> anyhow::Result<JobSettings> {
        let folder = output.join(FOLDER).join(&experiment.name);
        let gpus = self.gpus.unwrap_or(u32::from(experiment.device != Device::Cpu));
        let mut options = Vec::new();
        options.extend((gpus > 0).then(|| format!("--gres=gpu:{gpus}")));
        options.extend(self.time.as_ref().map(|time| format!("--time={time}")));
        options.extend(self.partition.as_ref().map(|name| format!("--partition={name}")));
        options.extend(self.options.iter().cloned());
        if let Some(option) = options.iter().find(|option| !is_option(option)) {
            bail!("`{option}` is no option of sbatch: give one word as `--mem=32G`");
        }
        Ok(JobSettings {
            name: experiment.name.clone(),
            directory: std::env::current_dir().context("the current directory")?,
            program: std::env::current_exe().context("the program's own path")?,
            experiment: folder.join(RESOLVED),
            folder,
            output: output.to_path_buf(),
            shards: shards.get(),
            options,
        })
    }

    /// The jobs for the goals that are not complete; the last one writes the report.
    fn jobs(&self, open: &[OpenGoal]) -> Vec<BatchJob> {
        let mut jobs = Vec::new();
        for OpenGoal { goal, missing } in open {
            let command = command(*goal);
            if !missing.is_empty() {
                jobs.push(BatchJob { command, array: Some(self.array(missing)) });
            }
            jobs.push(BatchJob { command, array: None });
        }
        let report = BatchJob { command: command(Goal::Validate), array: None };
        if jobs.last() != Some(&report) {
            jobs.push(report);
        }
        jobs
    }

    fn array(&self, shards: &BTreeSet<u32>) -> String {
        let most = self.max_running.map(|most| format!("%{most}"));
        format!("{}{}", array(shards), most.unwrap_or_default())
    }
}

fn command(goal: Goal) -> &'static str {
    match goal {
        Goal::Recover => "recover",
        Goal::Relabel => "relabel",
        Goal::Validate | Goal::Report => "validate",
    }
}

/// Whether `option` is one line of a job file.
fn is_option(option: &str) -> bool {
    option.starts_with('-') && !option.contains(['\n', '"'])
}

/// The numbers of the jobs of the experiment `name` in the file `path`.
fn known_jobs(path: &Path, name: &str) -> anyhow::Result<Vec<u64>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let mut known = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let job: Submitted = serde_json::from_str(line)
            .with_context(|| format!("{}, line {number}: this is no job", path.display()))?;
        known.extend(Some(job.id).filter(|_| job.experiment == name));
    }
    Ok(known)
}

/// Submits all `jobs`, each after the one before, and notes them in the file `record`. When one is
/// refused, those before it are cancelled.
fn submit_all(
    jobs: &[BatchJob],
    settings: &JobSettings,
    record: &Path,
) -> anyhow::Result<Vec<Submitted>> {
    let mut submitted: Vec<Submitted> = Vec::new();
    for (place, job) in jobs.iter().enumerate() {
        let before = place.checked_sub(1).map(|before| (&jobs[before], submitted[before].id));
        match submit(job, before, settings, record) {
            Ok(one) => submitted.push(one),
            Err(error) => {
                let ids: Vec<u64> = submitted.iter().map(|one| one.id).collect();
                if !ids.is_empty() {
                    client::cancel(&ids)?;
                }
                return Err(error);
            }
        }
    }
    Ok(submitted)
}

fn submit(
    job: &BatchJob,
    before: Option<(&BatchJob, u64)>,
    settings: &JobSettings,
    record: &Path,
) -> anyhow::Result<Submitted> {
    let file = job.path(settings);
    write_atomic(&file, job.script(settings).as_bytes())?;
    let mut options = Vec::new();
    if let Some((before, id)) = before {
        let kind = if before.array.is_some() { "afterany" } else { "afterok" };
        options.push(format!("--dependency={kind}:{id}"));
        options.push("--kill-on-invalid-dep=yes".to_owned());
    }
    let script = file.to_str().with_context(|| format!("{} is no UTF-8", file.display()))?;
    let id = client::submit(script, options)?;
    let (experiment, array) = (settings.name.clone(), job.array.clone());
    let one = Submitted { experiment, id, job: job.name(), array, file };
    let line = format!("{}\n", json!(one));
    let noted = OpenOptions::new().create(true).append(true).open(record);
    noted.and_then(|mut file| file.write_all(line.as_bytes())).with_context(|| {
        format!("job {id} is submitted, but can't be noted in {}", record.display())
    })?;
    Ok(one)
}

fn print(
    global: &Global,
    submitted: &[Submitted],
    settings: &JobSettings,
) -> anyhow::Result<CommandOutcome> {
    if global.json {
        println!("{}", serde_json::to_string_pretty(&json!({"jobs": submitted}))?);
        return Ok(CommandOutcome::Done);
    }
    for Submitted { id, job, array, .. } in submitted {
        println!("{id:>8}  {job:<13} {}", array.as_deref().unwrap_or_default());
    }
    println!("\njob files and logs: {}", settings.folder.display());
    Ok(CommandOutcome::Done)
}
