//! `scdd man`: the manual pages.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};

use super::{Cli, CommandOutcome, Global};
use scdd_artifacts::stage::write_atomic;

/// Write the manual pages, scdd.1 and one for each command, made from the table of commands
#[derive(clap::Args)]
pub struct Man {
    /// The target directory, such as ~/.local/share/man/man1; existing pages of the same names are
    /// replaced
    #[arg(value_name = "DIR")]
    to: PathBuf,
}

impl Man {
    pub fn run(self, global: &Global) -> anyhow::Result<CommandOutcome> {
        let mut program = Cli::command().disable_help_subcommand(true);
        program.build();
        let pages = std::iter::once(&program).chain(program.get_subcommands());
        let written = pages
            .map(|command| write_page(command, &self.to))
            .collect::<anyhow::Result<Vec<_>>>()?;
        if global.json {
            println!("{}", serde_json::to_string_pretty(&serde_json::json!({"files": written}))?);
        } else {
            written.iter().for_each(|path| println!("{}", path.display()));
        }
        Ok(CommandOutcome::Done)
    }
}

fn write_page(command: &Command, directory: &Path) -> anyhow::Result<PathBuf> {
    let mut page = Vec::new();
    let manual = clap_mangen::Man::new(command.clone());
    manual.render(&mut page)?;
    let path = directory.join(manual.get_filename());
    write_atomic(&path, &page)?;
    Ok(path)
}
