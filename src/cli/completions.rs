//! `keyledger completions SHELL`.

use super::Failure;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell.
    shell: clap_complete::Shell,
}

pub fn run(args: &Args, command: &mut clap::Command) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, command, "keyledger", &mut text);
    std::io::Write::write_all(&mut std::io::stdout(), &text).map_err(Failure::io("standard output"))
}
