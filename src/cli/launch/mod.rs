//! `scdd launch`: hands an experiment to a scheduler, job by job, and exits.

mod job;
mod slurm;
mod slurm_client;

use super::{CommandOutcome, Global};

/// Hand an experiment to a scheduler as jobs that share its stages, and exit
#[derive(clap::Args)]
pub struct Launch {
    #[command(subcommand)]
    scheduler: Scheduler,
}

#[derive(clap::Subcommand)]
enum Scheduler {
    Slurm(slurm::Slurm),
}

impl Launch {
    pub fn run(self, global: &Global) -> anyhow::Result<CommandOutcome> {
        match self.scheduler {
            Scheduler::Slurm(slurm) => slurm.run(global),
        }
    }
}
