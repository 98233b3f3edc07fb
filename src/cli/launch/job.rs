//! The files of Slurm jobs.

use std::path::{Path, PathBuf};

/// What all jobs of an experiment have in common.
pub struct JobSettings {
    /// The experiment's name.
    pub name: String,
    /// The folder of the files and logs; absolute.
    pub folder: PathBuf,
    /// The directory in which the jobs run; the experiment's relative paths start from it.
    pub directory: PathBuf,
    /// The program `scdd`.
    pub program: PathBuf,
    /// The resolved experiment.
    pub experiment: PathBuf,
    /// The output directory; absolute.
    pub output: PathBuf,
    pub shards: u32,
    /// The user's further options of `sbatch`, each as on its command line.
    pub options: Vec<String>,
}

/// A job: one task, or one for each of some shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchJob {
    /// The command whose shards the job makes or checks: `recover`.
    pub command: &'static str,
    /// The shards, as `--array` takes them; `None` for the job that checks them.
    pub array: Option<String>,
}

impl BatchJob {
    /// The job's name, which is also that of its file: `recover` or `recover-gate`.
    pub fn name(&self) -> String {
        match self.array {
            Some(_) => self.command.to_owned(),
            None => format!("{}-gate", self.command),
        }
    }

    /// The job's file.
    pub fn path(&self, settings: &JobSettings) -> PathBuf {
        settings.folder.join(format!("{}.sh", self.name()))
    }

    /// The text of the job's file.
    ///
    /// The shell makes way for the program by `exec`, because Slurm signals the shell alone. A
    /// requeued job must not truncate its log.
    pub fn script(&self, settings: &JobSettings) -> String {
        let (name, command) = (self.name(), self.command);
        let (what, log) = match self.array {
            Some(_) => (format!("Makes shards of `scdd {command}`"), format!("{name}-%A_%a.log")),
            None => (format!("Checks and completes `scdd {command}`"), format!("{name}-%j.log")),
        };
        let mut options = vec![format!("--job-name={}-{name}", settings.name)];
        options.extend(self.array.as_ref().map(|array| format!("--array={array}")));
        options.extend(settings.options.iter().cloned());
        options.extend(["--requeue", "--open-mode=append", "--signal=B:USR1@120"].map(Into::into));
        options.push(format!("--output={}", settings.folder.join(log).display()));
        let options: String =
            options.iter().map(|option| format!("#SBATCH {}\n", for_sbatch(option))).collect();
        let (program, experiment) = (quoted(&settings.program), quoted(&settings.experiment));
        let (run, rest) = match self.array {
            Some(_) => (command.to_owned(), format!(" --shards {} --shard auto", settings.shards)),
            None => (format!("gate {command}"), String::new()),
        };
        format!(
            "#!/bin/sh\n# {what} for the experiment `{}`. Written by `scdd launch slurm`.\n{options}\n\
             cd {} || exit 2\nexec {program} {run} {experiment} --output {}{rest}\n",
            settings.name,
            quoted(&settings.directory),
            quoted(&settings.output)
        )
    }
}

/// An option as a line `#SBATCH` takes it.
fn for_sbatch(option: &str) -> String {
    if option.contains(char::is_whitespace) { format!("\"{option}\"") } else { option.to_owned() }
}

/// `path` as one word of the shell.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,=@".contains(c);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(output: &str) -> JobSettings {
        let output = PathBuf::from(output);
        let folder = output.join("slurm/tiny");
        JobSettings {
            name: "tiny".into(),
            experiment: folder.join("experiment.yaml"),
            folder,
            directory: "/work".into(),
            program: "/bin/scdd".into(),
            output,
            shards: 8,
            options: vec!["--gres=gpu:1".into(), "--time=4:00:00".into()],
        }
    }

    #[test]
    fn an_array_makes_shards() {
        let job = BatchJob { command: "recover", array: Some("0-7%4".into()) };
        assert_eq!(job.path(&settings("/out")), Path::new("/out/slurm/tiny/recover.sh"));
        assert_eq!(
            job.script(&settings("/out")),
            "#!/bin/sh\n\
             # Makes shards of `scdd recover` for the experiment `tiny`. Written by `scdd launch slurm`.\n\
             #SBATCH --job-name=tiny-recover\n\
             #SBATCH --array=0-7%4\n\
             #SBATCH --gres=gpu:1\n\
             #SBATCH --time=4:00:00\n\
             #SBATCH --requeue\n\
             #SBATCH --open-mode=append\n\
             #SBATCH --signal=B:USR1@120\n\
             #SBATCH --output=/out/slurm/tiny/recover-%A_%a.log\n\
             \n\
             cd /work || exit 2\n\
             exec /bin/scdd recover /out/slurm/tiny/experiment.yaml --output /out --shards 8 --shard auto\n"
        );
    }

    #[test]
    fn a_gate_is_one_task_and_paths_are_quoted() {
        let job = BatchJob { command: "validate", array: None };
        let script = job.script(&settings("/o'ut 1"));
        assert!(!script.contains("--array"));
        assert!(script.contains("#SBATCH \"--output=/o'ut 1/slurm/tiny/validate-gate-%j.log\"\n"));
        let last = "exec /bin/scdd gate validate '/o'\\''ut 1/slurm/tiny/experiment.yaml' --output '/o'\\''ut 1'\n";
        assert!(script.ends_with(last), "{script}");
    }
}
