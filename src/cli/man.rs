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
        let pages = std::iter::once(&program).chain(program.get_subcommands().flat_map(with_parts));
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

/// The command and its parts.
fn with_parts(command: &Command) -> impl Iterator<Item = &Command> {
    std::iter::once(command).chain(command.get_subcommands().filter(is_own))
}

/// Whether the command is the program's own, not clap's.
fn is_own(command: &&Command) -> bool {
    command.get_name() != "help"
}

fn write_page(command: &Command, directory: &Path) -> anyhow::Result<PathBuf> {
    let mut page = Vec::new();
    let manual = clap_mangen::Man::new(command.clone());
    manual.render(&mut page)?;
    let path = directory.join(manual.get_filename());
    write_atomic(&path, &page)?;
    Ok(path)
}
