//! `host`: compares fine-tuning methods, each a sandboxed plugin.

mod cell;
mod cli;
mod config;
mod runs;
mod session;

fn main() -> std::process::ExitCode {
    cli::main()
}
