//! A Slurm job whose time is nearly up asks to be run again.

use std::process::Command;

/// A job that was requeued so often ends, because it may never get anywhere.
const MAX_RESTARTS: u32 = 100;

/// The Slurm job that this process is, as its environment says.
#[derive(Debug, PartialEq, Eq)]
struct SlurmJob {
    /// As `scontrol` takes it. In an array this is the task: the number of the job alone can mean
    /// all its tasks.
    id: String,
    restarts: u32,
}

impl SlurmJob {
    /// `variable` gives the values of environment variables. `None` outside of Slurm.
    fn find(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let of_array = || {
            let (job, task) = (variable("SLURM_ARRAY_JOB_ID")?, variable("SLURM_ARRAY_TASK_ID")?);
            Some(format!("{job}_{task}"))
        };
        let id = of_array().or_else(|| variable("SLURM_JOB_ID"))?;
        let restarts = variable("SLURM_RESTART_COUNT").and_then(|count| count.parse().ok());
        Some(Self { id, restarts: restarts.unwrap_or(0) })
    }
}

/// Requeues the Slurm job that this process is. Returns what to tell; `None` outside of Slurm.
pub fn requeue() -> Option<String> {
    let SlurmJob { id, restarts } = SlurmJob::find(|name| std::env::var(name).ok())?;
    if restarts >= MAX_RESTARTS {
        return Some(format!("job {id} was requeued {restarts} times: it is not requeued again"));
    }
    Some(match Command::new("scontrol").args(["requeue", &id]).output() {
        Ok(output) if output.status.success() => format!("job {id} is requeued and goes on then"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            format!("job {id} can't be requeued ({said}): submit it again")
        }
        Err(error) => format!("job {id} can't be requeued (`scontrol`: {error}): submit it again"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_of_an_array_is_requeued_alone() {
        let find = |known: &[(&str, &str)]| {
            let value = |name: &str| known.iter().find(|(known, _)| *known == name);
            SlurmJob::find(|name| value(name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(find(&[("SLURM_RESTART_COUNT", "1")]), None);
        let job = |id: &str, restarts| Some(SlurmJob { id: id.into(), restarts });
        assert_eq!(find(&[("SLURM_JOB_ID", "12")]), job("12", 0));
        let task = [
            ("SLURM_JOB_ID", "12"),
            ("SLURM_ARRAY_JOB_ID", "10"),
            ("SLURM_ARRAY_TASK_ID", "2"),
            ("SLURM_RESTART_COUNT", "3"),
        ];
        assert_eq!(find(&task), job("10_2", 3));
    }
}
