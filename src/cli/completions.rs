//! `scdd completions`: shell completions for `scdd`.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, CommandOutcome};

/// Print the completions of a shell, made from the table of commands; --help says where they go
#[derive(clap::Args)]
#[command(after_help = "\
For one user:
  bash   scdd completions bash > ~/.local/share/bash-completion/completions/scdd
  zsh    scdd completions zsh > DIR/_scdd, in a DIR of $fpath
  fish   scdd completions fish > ~/.config/fish/completions/scdd.fish")]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> anyhow::Result<CommandOutcome> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "scdd", &mut text);
        std::io::stdout().write_all(&text)?;
        Ok(CommandOutcome::Done)
    }
}
